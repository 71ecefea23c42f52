//! What is played and what plays it: one *run* is a set of clients under one *condition* of one *system*.
//!
//! A system is whatever answers inferences: our engine (in-process or over HTTP) under one of its schemes,
//! any server at a URL, or a peer such as ONNX Runtime behind an adapter. All of them get the same [`Run`],
//! so that arrivals are the same to the nanosecond, and give back the same [`Played`]: one record per
//! request. What is made of the records is the same code for all.

use std::time::Duration;

use reef_base::Nanos;

use super::workload::ClassName;
use crate::error::BenchError;

/// One client of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunClient {
    /// Its name; unique in the run.
    pub name: String,
    /// The model it asks.
    pub model: String,
    /// Its class.
    pub class: ClassName,
    /// Its real-time level, 0 the most urgent; 0 for best-effort.
    pub level: u8,
    /// When it asks.
    pub arrivals: Arrivals,
    /// Requests of it that may be under way at once; more wait in the client.
    pub in_flight: usize,
    /// Sent with each request, so that the server may refuse what would be late; `None` sends none.
    pub enforced_deadline: Option<Duration>,
}

/// When a client asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// At these times from the start of the run, in rising order, whatever the server does.
    Open {
        /// The times.
        times: Vec<Nanos>,
        /// Whether an arrival that finds all callers busy replaces the one that waits, which is counted as
        /// dropped.
        newest_only: bool,
    },
    /// Again, this long after each answer, until the run ends.
    Closed {
        /// From the answer to the next request.
        think: Duration,
    },
    /// This long after each answer that the client of this index got.
    After {
        /// Index of the other client in [`Run::clients`].
        client: usize,
        /// From its answer to the request.
        think: Duration,
    },
}

/// A set of clients to play for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The clients.
    pub clients: Vec<RunClient>,
    /// Played, but not recorded.
    pub warm_up: Duration,
    /// Recorded: arrivals of open loops and answers of closed ones inside of it.
    pub measured: Duration,
    /// How long after the end best-effort closed loops go on, so that the last real-time requests are not
    /// answered on an empty device; less, if all of these have been answered.
    pub cool_down: Duration,
    /// How long after the end late arrivals are still asked for; what is left then is counted as unsent.
    pub grace: Duration,
}

impl Run {
    /// The measured window, from the start of the run.
    pub fn window(&self) -> std::ops::Range<Nanos> {
        Nanos::from(self.warm_up)..Nanos::from(self.warm_up + self.measured)
    }

    /// When arrivals end, from the start of the run.
    pub fn end(&self) -> Nanos {
        self.window().end
    }
}

/// One request: times from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// When it was scheduled; for closed loops when it was asked for.
    pub due: Nanos,
    /// When it was sent.
    pub sent: Nanos,
    /// When it was answered.
    pub done: Nanos,
    /// When it was on the device, first block to last, where the answer says so.
    pub on_device: Option<(Nanos, Nanos)>,
    /// From the task's submission to its first block, where it displaced less urgent work.
    pub preempt: Option<Nanos>,
}

/// What came of one client: everything from the start of the run, warm-up included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlayedClient {
    /// Requests that were answered, in the order of their answers.
    pub records: Vec<Record>,
    /// Scheduled times of requests inside the window that failed or were refused.
    pub failed: Vec<Nanos>,
    /// Scheduled times of arrivals that were never sent, because too many were under way.
    pub unsent: Vec<Nanos>,
    /// Arrivals inside the window that a newer one replaced.
    pub dropped: u64,
    /// The first failure.
    pub first_error: Option<String>,
}

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
