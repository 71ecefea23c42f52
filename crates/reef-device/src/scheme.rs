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
    }
}
