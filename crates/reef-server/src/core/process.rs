//! What the system says of this process.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};

/// What it has used and holds.
pub(crate) struct Process {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) open_fds: usize,
    /// When it began, since 1970.
    pub(crate) start_seconds: f64,
}

impl Process {
    /// `None` where the system has no `/proc`.
    pub(crate) fn look() -> Option<Process> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let system = fs::read_to_string("/proc/stat").ok()?;
        let boot = system.lines().find_map(|line| line.strip_prefix("btime "))?;
        let booted: f64 = boot.trim().parse().ok()?;
        // The one that reads the folder is not counted.
        let open_fds = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
        let [user, kernel, start, pages] = fields(&stat)?;
        let ticks = clock_ticks_per_second() as f64;
        Some(Process {
            cpu_seconds: (user + kernel) as f64 / ticks,
            resident_bytes: pages.saturating_mul(page_size() as u64),
            open_fds,
            start_seconds: booted + start as f64 / ticks,
        })
    }
}

/// Ticks in user and system mode, ticks from boot to the start, resident pages. The name of the program comes
/// before them in brackets, and may hold anything.
fn fields(stat: &str) -> Option<[u64; 4]> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Numbered from 1 in proc(5), of which `rest` begins with the third.
    let field = |number: usize| fields.get(number - 3)?.parse().ok();
    Some([field(14)?, field(15)?, field(22)?, field(24)?])
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_name_may_hold_brackets_and_blanks() {
        let rest: Vec<String> = (4..=52).map(|number| number.to_string()).collect();
        let stat = format!("7 (a) S (b)) S {}", rest.join(" "));
        assert_eq!(fields(&stat), Some([14, 15, 22, 24]));
        assert_eq!(fields("7 (a"), None);
        assert_eq!(fields("7 (a) S 1 2"), None);
    }

    #[test]
    fn this_process_has_begun_and_holds_memory() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let process = Process::look().unwrap();
        assert!(process.resident_bytes > 1 << 20 && process.open_fds >= 3);
        assert!(process.start_seconds > 0.0 && process.start_seconds <= now + 1.0);
    }
}
