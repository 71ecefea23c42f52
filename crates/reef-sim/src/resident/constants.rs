//! The constants of a device with a resident executor: a TOML file, in which each says where it comes from.

use serde::Deserialize;

use crate::constants::Micros;
use crate::error::SimError;

/// A device whose compute units pull blocks: see [`crate::resident::executor`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResidentConstants {
    /// For people.
    pub name: String,
    /// Compute units.
    pub units: u32,
    /// How running blocks learn of more urgent ones.
    pub polling: Polling,
    /// From block to block.
    pub stages: Stages,
    /// From a client to the board and back.
    pub requests: Requests,
    /// Units that have nothing to do.
    pub sleep: Sleep,
    /// What units take of each other.
    pub bandwidth: Bandwidth,
    /// Tasks at once.
    pub board: Board,
}

/// How running blocks learn of more urgent ones.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Polling {
    /// Between two poll points of a block.
    pub period_us: Micros,
    /// From writing the poll word until units can see it.
    pub visibility_us: Micros,
    /// Leaving a block at a poll point.
    pub drop_us: Micros,
}

/// From block to block.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stages {
    /// Claiming a block, and telling that it is done.
    pub pull_us: Micros,
    /// From the end of a stage's last block until the next stage is open.
    pub barrier_us: Micros,
}

/// From a client to the board and back.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requests {
    /// Until its task is on the board.
    pub submit_us: Micros,
    /// From its last block to the answer.
    pub hand_over_us: Micros,
}

/// Units that have nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sleep {
    /// After so long they sleep.
    pub after_us: Micros,
    /// Until one that sleeps takes a block.
    pub wake_us: Micros,
}

/// What units take of each other.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bandwidth {
    /// How much longer a block takes while all units run blocks than alone, as a share of its time. Times of
    /// a profile hold for as many units as its stage keeps busy.
    pub shared: f64,
}

/// Tasks at once.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// Best-effort ones; the others wait.
    pub best_effort_tasks: u32,
}

/// The devices whose constants are built in.
const BUILT_IN: [(&str, &str); 3] = [
    ("cpu2", include_str!("../../data/cpu2.toml")),
    ("h100", include_str!("../../data/h100.toml")),
    ("mi50-resident", include_str!("../../data/mi50-resident.toml")),
];

impl ResidentConstants {
    /// The names of the devices that are built in.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// A device that is built in, by name.
    pub fn built_in(name: &str) -> Result<ResidentConstants, SimError> {
        match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => ResidentConstants::parse(name, text),
            None => {
                let known = BUILT_IN.map(|(known, _)| known).join(", ");
                Err(SimError::UnknownDevice { name: name.into(), known })
            }
        }
    }

    /// Reads constants; `name` is for errors.
    pub fn parse(name: &str, text: &str) -> Result<ResidentConstants, SimError> {
        let wrong = |problem: String| SimError::Constants { name: name.into(), problem };
        let constants: ResidentConstants = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        constants.check().map_err(wrong)?;
        Ok(constants)
    }

    fn check(&self) -> Result<(), String> {
        let counts =
            [("units", self.units, 4096), ("board.best_effort_tasks", self.board.best_effort_tasks, 4096)];
        if let Some((key, value, most)) = counts.iter().find(|(_, value, most)| !(1..=*most).contains(value))
        {
            return Err(format!("{key} is {value}, allowed are 1 to {most}"));
        }
        if self.polling.period_us.nanos().0 == 0 {
            return Err("polling.period_us is 0: a block cannot look all the time".into());
        }
        if !(0.0..=10.0).contains(&self.bandwidth.shared) {
            return Err(format!("bandwidth.shared is {}, allowed are 0 to 10", self.bandwidth.shared));
        }
        Ok(())
    }

    /// How many times as long a block takes with `busy` units at work, when its time was measured with
    /// `measured` of them; 1 where no more are busy than then.
    pub fn slowdown(&self, busy: u32, measured: u32) -> f64 {
        let others =
            |units: u32| f64::from(units.saturating_sub(1)) / f64::from(self.units.saturating_sub(1).max(1));
        let taken = |units| 1.0 + self.bandwidth.shared * others(units);
        (taken(busy) / taken(measured)).max(1.0)
    }
}
