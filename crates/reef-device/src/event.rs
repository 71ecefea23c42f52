//! Block-level events: what a trace is made of.

use reef_base::{CuId, Nanos, TaskId, TaskKey};

use crate::ids::LoadedPlan;

/// Something that happened on one compute unit or at submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When; for a block, when it started.
    pub at: Nanos,
    /// How long; zero for instants.
    pub span: Nanos,
    /// On which compute unit; `None` for submissions and completions.
    pub cu: Option<CuId>,
    /// Which task.
    pub task: TaskId,
    /// Its key.
    pub key: TaskKey,
    /// The token given at submission.
    pub token: u64,
    /// The plan that the task was at.
    pub plan: LoadedPlan,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A task was accepted.
    Submitted,
    /// A block ran to its end. `padding`: on a CU that a more urgent open stage did not need.
    Block {
        /// Stage of the plan.
        stage: u32,
        /// Block of the stage.
        block: u32,
        /// Whether it padded a more urgent stage.
        padding: bool,
    },
    /// A block that cannot be killed had its compute unit for a while, was stopped there, and goes on later.
    Part {
        /// Stage of the plan.
        stage: u32,
        /// Block of the stage.
        block: u32,
    },
    /// A block was killed at a poll point, for a more urgent task or a cancellation.
    Killed {
        /// Stage of the plan.
        stage: u32,
        /// Block of the stage.
        block: u32,
    },
    /// A task completed, however.
    Completed,
}
