//! Facts about the machine and the build, without which a number means nothing.

use std::fmt;
use std::fs;

use serde::Serialize;

/// Where and how something was measured. What the system does not tell is `None`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: Option<String>,
    /// Cores that this process may use.
    pub cores: usize,
    /// Kernel release.
    pub kernel: Option<String>,
    /// Frequency governor of the first core.
    pub governor: Option<String>,
    /// Runnable threads of the whole machine in the last 1, 5 and 15 minutes, before measuring.
    pub load_average: Option<[f64; 3]>,
    /// The device's own description.
    pub device: String,
    /// The compiler of this build.
    pub rustc: String,
    /// The profile of this build.
    pub profile: String,
    /// The command line.
    pub command: String,
    /// Seconds since 1970 when this was taken.
    pub unix_time_s: u64,
}

impl Machine {
    /// This machine, now.
    pub fn now(device: &str) -> Machine {
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
            command: std::env::args().collect::<Vec<_>>().join(" "),
            unix_time_s: since_epoch.map_or(0, |time| time.as_secs()),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = || "unknown".to_string();
        let cpu = self.cpu.clone().unwrap_or_else(unknown);
        let kernel = self.kernel.clone().unwrap_or_else(unknown);
        write!(f, "{cpu}, {} cores, kernel {kernel}", self.cores)?;
        if let Some(governor) = &self.governor {
            write!(f, ", governor {governor}")?;
        }
        if let Some([one, five, fifteen]) = self.load_average {
            write!(f, ", load {one:.2} {five:.2} {fifteen:.2}")?;
        }
        write!(f, "\ndevice {}, {}, {}\n{}", self.device, self.rustc, self.profile, self.command)
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
    fn the_build_is_known() {
        let machine = Machine::now("dummy");
        assert!(machine.rustc.starts_with("rustc "), "{}", machine.rustc);
        assert!(machine.to_string().contains("device dummy"));
    }
}
