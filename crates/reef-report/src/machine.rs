//! Facts about the machine and the build, without which a number means nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where and how something was measured. What the system does not tell is `None`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: Option<String>,
    /// Cores that this process may use; 0 where the device is simulated, and the machine does not matter.
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
    /// Seconds since 1970 when this was taken; 0 where the device is simulated.
    pub unix_time_s: u64,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cores == 0 {
            return write!(f, "device {}, {}\n{}", self.device, self.rustc, self.command);
        }
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

/// Above this share of the machine's time, what other processes took makes numbers doubtful.
const DISTURBED: f64 = 0.05;

/// The share of the machine's time (all cores) that other processes and the hypervisor took while something
/// was measured; `None` where the system does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Others(pub Option<f64>);

impl Others {
    /// Whether it was so much that the numbers are doubtful.
    pub fn disturbed(self) -> bool {
        self.0.is_some_and(|share| share > DISTURBED)
    }
}

/// A warning where the numbers are doubtful, otherwise nothing.
impl fmt::Display for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.filter(|_| self.disturbed()) {
            Some(share) => writeln!(
                f,
                "DISTURBED: others took {:.0} % of the machine; these numbers prove nothing",
                share * 100.0
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_of_others_is_a_warning() {
        assert!(Others(Some(0.3)).disturbed() && !Others(Some(0.01)).disturbed());
        assert!(!Others(None).disturbed());
        assert!(Others(Some(0.3)).to_string().contains("30 %"));
    }
}
