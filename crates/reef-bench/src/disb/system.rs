//! What plays a [`Run`]: a system is whatever answers inferences, under one of its conditions. Our engine
//! (in-process or over HTTP) is one with a condition for each of its schemes; any server at a URL is, and a
//! peer such as ONNX Runtime behind an adapter.
//!
//! All of them get the same run, so that arrivals are the same to the nanosecond, and give back the same
//! [`Played`]: one record per request. What is made of the records is the same code for all.

use std::time::Duration;

use reef_base::{ClassName, Nanos};
use reef_load::{PlayedClient, Run};

use crate::error::BenchError;

/// What a device did in the measured window, where the system tells.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeviceUse {
    /// Compute units.
    pub cus: usize,
    /// Tasks that displaced less urgent work.
    pub preemptions: u64,
    /// Blocks killed.
    pub blocks_killed: u64,
    /// Blocks that ran again after they had been killed.
    pub blocks_rerun: u64,
    /// Compute-unit time of killed executions.
    pub wasted: Nanos,
    /// Compute-unit time as padding beside real-time stages.
    pub padding: Nanos,
    /// Compute-unit time of all blocks.
    pub busy: Nanos,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Played {
    /// In the order of [`Run::clients`]. Best-effort clients that the condition does not admit have no
    /// record.
    pub clients: Vec<PlayedClient>,
    /// The device, where the system tells.
    pub device: Option<DeviceUse>,
    /// Processor time of the system in the measured window, user and system; the load generator's is part of
    /// it where both share a process.
    pub cpu: Option<Duration>,
    /// Memory of the system: resident bytes at the end of the run.
    pub memory_bytes: Option<u64>,
}

/// A condition of a system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its name in reports: a scheme, `nice 19`, …
    pub name: String,
    /// What it means, in a line.
    pub title: String,
    /// Whether best-effort clients take part. The reference does without them.
    pub best_effort: bool,
}

/// Something that answers inferences under one or more conditions.
pub trait System {
    /// Its name in reports.
    fn name(&self) -> &str;

    /// Its conditions. The first is the reference: the device dedicated to real-time clients.
    fn conditions(&self) -> &[Condition];

    /// Under which condition, and as which class, a model is asked alone; `real_time`: whether a real-time
    /// client asks it. Usually as a real-time one of the device dedicated to such.
    fn alone(&self, real_time: bool) -> (usize, ClassName) {
        let _ = real_time;
        (0, ClassName::RealTime)
    }

    /// Whether its runs are played in virtual time: they take no more than it takes to compute them, and what
    /// else the machine does changes nothing.
    fn is_simulated(&self) -> bool {
        false
    }

    /// Makes `models` ready to be asked; models of earlier calls may stay.
    fn load(&mut self, models: &[ModelFile]) -> Result<(), BenchError>;

    /// Plays a run under the condition of this index; returns when every request has ended. A single request
    /// that fails is counted, not an error.
    fn play(&mut self, condition: usize, run: &Run) -> Result<Played, BenchError>;
}

/// A model that clients ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFile {
    /// Its name.
    pub name: String,
    /// The ONNX file.
    pub path: std::path::PathBuf,
    /// Whether a real-time client asks it.
    pub real_time: bool,
    /// Whether it is one of the zoo's, which the benchmark writes.
    pub zoo: bool,
}
