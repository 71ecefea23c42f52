//! What the system tells of this machine and this process: facts without which a number means nothing, and
//! how much of the machine others take meanwhile.

use std::fs;
use std::time::Duration;

use reef_report::{Machine, Others};

/// This machine, now.
pub fn here(device: &str) -> Machine {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Machine {
        cpu: fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| cpu_name(&text)),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: read_line("/proc/sys/kernel/osrelease"),
        governor: read_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        load_average: read_line("/proc/loadavg").and_then(|text| load_average(&text)),
        device: device.to_string(),
        rustc: env!("REEF_BENCH_RUSTC").to_string(),
        profile: env!("REEF_BENCH_PROFILE").to_string(),
        command: std::env::args().map(quoted).collect::<Vec<_>>().join(" "),
        unix_time_s: since_epoch.map_or(0, |time| time.as_secs()),
    }
}

/// No machine: what a simulated device gives does not depend on where it is computed.
pub fn simulated(device: &str) -> Machine {
    Machine {
        cpu: None,
        cores: 0,
        kernel: None,
        governor: None,
        load_average: None,
        device: device.to_string(),
        rustc: format!("reef {}", env!("CARGO_PKG_VERSION")),
        profile: "release".to_string(),
        command: std::env::args().skip(1).map(quoted).fold("reef".to_string(), |line, arg| line + " " + &arg),
        unix_time_s: 0,
    }
}

/// Watches how much of the machine's time goes to others while something is measured.
#[derive(Debug)]
pub struct Watch(Option<CpuTimes>);

impl Watch {
    /// Begins now.
    pub fn start() -> Watch {
        Watch(CpuTimes::now())
    }

    /// What others took since the start.
    pub fn others(&self) -> Others {
        Others(self.0.and_then(|begin| CpuTimes::now()?.others_since(begin)))
    }
}

/// What this process has used so far; `None` where the system does not tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessUse {
    /// Processor time, user and system.
    pub cpu: Duration,
    /// Resident memory now.
    pub resident_bytes: u64,
}

impl ProcessUse {
    /// Now.
    pub fn now() -> Option<ProcessUse> {
        let own = CpuTimes::now()?.own;
        let cpu = Duration::from_secs_f64(own as f64 / rustix::param::clock_ticks_per_second() as f64);
        let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
        Some(ProcessUse { cpu, resident_bytes: pages * rustix::param::page_size() as u64 })
    }
}

/// Sums since boot in clock ticks, which the system uses for both.
#[derive(Clone, Copy, Debug, PartialEq)]
struct CpuTimes {
    all: u64,
    idle: u64,
    own: u64,
}

impl CpuTimes {
    fn now() -> Option<CpuTimes> {
        let machine = fs::read_to_string("/proc/stat").ok()?;
        let process = fs::read_to_string("/proc/self/stat").ok()?;
        CpuTimes::parse(&machine, &process)
    }

    /// `/proc/stat`'s first line is `cpu user nice system idle iowait irq softirq steal …`; in
    /// `/proc/self/stat` user and system time are the 12th and 13th fields behind the name in parentheses.
    fn parse(machine: &str, process: &str) -> Option<CpuTimes> {
        let cpu = machine.lines().next()?.strip_prefix("cpu ")?;
        let times: Vec<u64> = cpu.split_whitespace().take(8).filter_map(|word| word.parse().ok()).collect();
        let (_, fields) = process.rsplit_once(')')?;
        let mut own = fields.split_whitespace().skip(11).map_while(|word| word.parse::<u64>().ok());
        let idle = times.get(3)? + times.get(4)?;
        Some(CpuTimes { all: times.iter().sum(), idle, own: own.next()? + own.next()? })
    }

    fn others_since(self, begin: CpuTimes) -> Option<f64> {
        let since = |of: fn(&CpuTimes) -> u64| of(&self).saturating_sub(of(&begin));
        let all = since(|times| times.all);
        let others = all.saturating_sub(since(|times| times.idle)).saturating_sub(since(|times| times.own));
        (all > 0).then(|| others as f64 / all as f64)
    }
}

/// An argument as a shell would have to be given it.
fn quoted(argument: String) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=,:+@%".contains(c);
    match !argument.is_empty() && argument.chars().all(plain) {
        true => argument,
        false => format!("'{}'", argument.replace('\'', "'\\''")),
    }
}

fn read_line(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_string()).filter(|text| !text.is_empty())
}

fn cpu_name(cpuinfo: &str) -> Option<String> {
    let names = ["model name", "Hardware", "Processor"];
    names.iter().find_map(|name| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_string())
    })
}

fn load_average(text: &str) -> Option<[f64; 3]> {
    let mut numbers = text.split_whitespace().map(|word| word.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_texts_are_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t: a b\n";
        assert_eq!(cpu_name(cpuinfo).as_deref(), Some("Some CPU @ 2 GHz"));
        assert_eq!(cpu_name("nothing"), None);
        assert_eq!(load_average("0.50 1.25 2.00 1/234 5\n"), Some([0.5, 1.25, 2.0]));
        assert_eq!(load_average("x"), None);
    }

    #[test]
    fn what_others_take_is_neither_idle_nor_own() {
        let machine = |user, idle| format!("cpu  {user} 10 10 {idle} 5 0 0 5 0 0\ncpu0 1 2 3\n");
        let process = |user| format!("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 {user} 20 0 0\n");
        let begin = CpuTimes::parse(&machine(100, 500), &process(50)).unwrap();
        assert_eq!(begin, CpuTimes { all: 630, idle: 505, own: 70 });
        let end = CpuTimes::parse(&machine(160, 540), &process(80)).unwrap();
        assert_eq!(end.others_since(begin), Some(0.3));
        assert_eq!(begin.others_since(begin), None);
        assert_eq!(CpuTimes::parse("intr 1", &process(1)), None);
    }

    #[test]
    fn a_command_can_be_typed_again() {
        let arguments = ["--peer", "python3 x.py", "a=1,b", "it's", ""];
        let typed = arguments.map(|argument| quoted(argument.to_string())).join(" ");
        assert_eq!(typed, r"--peer 'python3 x.py' a=1,b 'it'\''s' ''");
    }

    #[test]
    fn the_build_is_known() {
        let machine = here("dummy");
        assert!(machine.rustc.starts_with("rustc "), "{}", machine.rustc);
        assert!(machine.to_string().contains("device dummy"));
    }
}
