//! Schemes: how classes share a device. The paper's comparison targets and REEF itself.

use std::fmt;
use std::str::FromStr;

/// How classes share a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Scheme {
    /// The device is dedicated to real-time tasks; best-effort ones are refused.
    RtOnly,
    /// One task at a time, to its end; the most urgent waiting task next.
    Sequential,
    /// All tasks at once, without regard to urgency: compute units take turns among them.
    Concurrent,
    /// The most urgent first at every block boundary; running blocks are waited for.
    Wait,
    /// REEF: as `Wait`, and less urgent running blocks are killed at their next poll point.
    #[default]
    Reset,
}

impl Scheme {
    /// Every scheme, in the order of reports.
    pub const ALL: [Scheme; 5] =
        [Scheme::RtOnly, Scheme::Sequential, Scheme::Concurrent, Scheme::Wait, Scheme::Reset];

    /// The name on command lines and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::RtOnly => "rt-only",
            Scheme::Sequential => "sequential",
            Scheme::Concurrent => "concurrent",
            Scheme::Wait => "wait",
            Scheme::Reset => "reset",
        }
    }

    /// Whether more urgent tasks displace less urgent ones. Under `RtOnly` these are real-time levels.
    pub const fn is_prioritised(self) -> bool {
        matches!(self, Scheme::RtOnly | Scheme::Wait | Scheme::Reset)
    }

    /// Whether running blocks are killed for more urgent tasks.
    pub const fn kills(self) -> bool {
        matches!(self, Scheme::RtOnly | Scheme::Reset)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which blocks may run on a compute unit that the open stage of a more urgent task leaves idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Padding {
    /// The best there are, unless they would be killed for nothing: under a scheme that kills, a block runs
    /// if it will have ended before the urgent task needs the unit again, or if the task will not need it.
    #[default]
    Preemptible,
    /// Only those that end before the open stage does, by measured block times: rule 1 of the paper's section
    /// 5.2, for devices that cannot kill a block at once. Schemes that do not kill always keep it.
    Fitting,
}

impl Padding {
    /// Both.
    pub const ALL: [Padding; 2] = [Padding::Preemptible, Padding::Fitting];

    /// The name on command lines and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Padding::Preemptible => "preemptible",
            Padding::Fitting => "fitting",
        }
    }
}

impl fmt::Display for Padding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No rule of padding has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no rule of padding '{0}'; there are preemptible, fitting")]
pub struct UnknownPadding(pub String);

impl FromStr for Padding {
    type Err = UnknownPadding;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Padding::ALL
            .into_iter()
            .find(|padding| padding.name() == name)
            .ok_or_else(|| UnknownPadding(name.to_string()))
    }
}

/// No scheme has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no scheme '{0}'; there are rt-only, sequential, concurrent, wait, reset")]
pub struct UnknownScheme(pub String);

impl FromStr for Scheme {
    type Err = UnknownScheme;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Scheme::ALL
            .into_iter()
            .find(|scheme| scheme.name() == name)
            .ok_or_else(|| UnknownScheme(name.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for scheme in Scheme::ALL {
            assert_eq!(scheme.name().parse(), Ok(scheme));
        }
        assert!("reef".parse::<Scheme>().is_err());
        for padding in Padding::ALL {
            assert_eq!(padding.name().parse(), Ok(padding));
        }
        assert!("rule".parse::<Padding>().is_err());
    }
}
