//! What goes in and out of the scheduler.

use reef_base::{Class, Nanos, TaskKey, limits};

reef_base::id! {
    /// A model of one scheduler; reused after its removal.
    ModelId(u32)
}

reef_base::id! {
    /// A request of one scheduler: 32 bits of generation, 32 bits of slot. Never reused.
    RequestId(u64)
}

impl RequestId {
    pub(crate) fn new(slot: u32, generation: u32) -> Self {
        RequestId(u64::from(generation) << 32 | u64::from(slot))
    }

    /// The slot: small, and no other live request has it.
    pub fn slot(self) -> usize {
        self.0 as u32 as usize
    }

    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// How the board is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedOptions {
    /// Tasks on the board at most.
    pub board_slots: usize,
    /// Best-effort tasks on the board at most; the other slots are reserved for real-time tasks. The slots of
    /// best-effort tasks are never taken by real-time ones, so that a best-effort task is always at hand.
    pub best_effort_slots: usize,
}

impl Default for SchedOptions {
    fn default() -> Self {
        SchedOptions { board_slots: limits::BOARD_SLOTS_DEFAULT, best_effort_slots: 2 }
    }
}

/// What the scheduler must know about a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelOptions {
    /// The most urgent class of its requests. Less urgent levels keep a board slot free for each more urgent
    /// level that a model has; of more levels than there are slots the last ones share one, and wait for each
    /// other's tasks to end.
    pub class: Class,
    /// Share among best-effort models, at least 1. Relative: what a model gets is its weight over the sum of
    /// those that want something.
    pub weight: u32,
    /// Requests that may wait, of each class.
    pub queue_len: usize,
    /// Tasks on the board at most: real-time ones, and best-effort ones where no real-time ones are in their
    /// way.
    pub in_flight_max: usize,
    /// Whether requests of it that say so ([`Request::joins`]) run together, and how long they wait for
    /// each other.
    pub batching: Option<Batching>,
}

/// How requests of a model become batches; the module `batch` has the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Rows of a batch at most; no request has more.
    pub rows_max: u32,
    /// How long a request waits at most for others to join it.
    pub delay: Nanos,
}

/// That a request may be joined with others of its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joins {
    /// Requests of one family differ in their rows alone; see [`crate::Scheduler::set_family`].
    pub family: u16,
    /// Its rows, at least one.
    pub rows: u32,
}

/// A number of rows that a family has a plan for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rows of the plan; a batch with fewer is filled up.
    pub rows: u32,
    /// The plan's number.
    pub plan: u16,
    /// Whether a batch of just so many rows waits for no more.
    pub preferred: bool,
}

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions {
            class: Class::BestEffort,
            weight: 1,
            queue_len: limits::QUEUE_LEN_DEFAULT,
            in_flight_max: limits::BOARD_SLOTS_MAX,
            batching: None,
        }
    }
}

/// A request to schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its model.
    pub model: ModelId,
    /// Which of the model's plans runs it: service times are measured per plan with a number below
    /// [`limits::PLANS_PER_MODEL_MAX`], and of others nothing is expected. See
    /// [`crate::Scheduler::reset_plan`].
    pub plan: u16,
    /// Its class and level.
    pub class: Class,
    /// When it arrived; breaks ties.
    pub arrival: Nanos,
    /// When its result becomes worthless: it is refused or stopped then.
    pub deadline: Option<Nanos>,
    /// Until when it may wait in the queue.
    pub queue_until: Option<Nanos>,
    /// Whether others may join it; its plan is the smallest of its family's that it fits into, then.
    pub joins: Option<Joins>,
}

/// Why a request is not run. Each is the request's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The model's queue is full.
    #[error("the queue is full")]
    QueueFull,
    /// The deadline passed.
    #[error("the deadline passed")]
    DeadlinePassed,
    /// By measured times the request would end after its deadline.
    #[error("the deadline cannot be met: about {needed} needed, {left} left")]
    DeadlineUnreachable {
        /// Expected time until it would be done.
        needed: Nanos,
        /// Time until the deadline.
        left: Nanos,
    },
    /// It waited in the queue longer than it may.
    #[error("the request waited too long")]
    Timeout,
    /// The model takes no more requests.
    #[error("the model is being removed")]
    Draining,
    /// The scheduler takes no more requests, or has given this one up.
    #[error("shutting down")]
    ShuttingDown,
}

/// Why a running task is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// [`crate::Scheduler::cancel`].
    Requested,
    /// Its deadline passed.
    Deadline,
    /// [`crate::Scheduler::abandon_best_effort`].
    ShuttingDown,
}

/// What the scheduler wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Submit the request to the device with this key, then report `on_rejected` or, later, `on_complete`.
    Start {
        /// The request.
        request: RequestId,
        /// Its urgency.
        key: TaskKey,
    },
    /// As `Start`, for a batch, which is an id of its own: [`crate::Scheduler::members`] says of whom. Each
    /// of them is to be taken off it ([`crate::Scheduler::take_member`], [`crate::Scheduler::separate`])
    /// before its end is reported.
    StartBatch {
        /// The batch.
        batch: RequestId,
        /// The number of the plan that has room for it.
        plan: u16,
        /// Its urgency: that of its most urgent member.
        key: TaskKey,
    },
    /// The request ends without having run.
    Refuse {
        /// The request; the id is dead.
        request: RequestId,
        /// Why.
        why: Refusal,
    },
    /// Cancel the request's task; its completion is still to be reported.
    CancelRunning {
        /// The request, or the batch that nobody waits for any more.
        request: RequestId,
    },
    /// The end of a batch's member was asked for, the others go on: tell who waits for it.
    Leave {
        /// The member.
        request: RequestId,
    },
}

/// What came of a cancellation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It was queued and is gone: this is its end.
    Dropped,
    /// It is on the board; [`Action::CancelRunning`] or [`Action::Leave`] follows (unless its end was asked
    /// for before).
    Stopping,
    /// It has ended before.
    Unknown,
}

/// What a task used, as the device reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Compute-unit time that best-effort models are charged: of its finished blocks, and if it did not end
    /// well of all others, too. Who finishes does not pay for work that was thrown away for others' sake. At
    /// least [`crate::TASK_CHARGE_MIN`] is charged.
    pub cu_time: Nanos,
    /// First block to last, if it ran to its end: what deadlines are checked with.
    pub service: Option<Nanos>,
    /// First block to its end, if it was stopped before it was done: its plan takes longer than that.
    pub stopped_after: Option<Nanos>,
}

/// The end of a request that was on the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The request as submitted.
    pub request: Request,
    /// Why its end was asked for, if it was.
    pub cancel: Option<CancelReason>,
}

/// What happens to the queued requests of a model that is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// They run first.
    Finish,
    /// They are refused.
    Refuse,
}

/// What the scheduler of a device says of a request that it does not have: what would go before it, as far as
/// measured. A later request may still overtake it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// What its plan needs there; zero while too little was measured.
    pub service: Nanos,
    /// What is left to do of the work that goes before it and was measured.
    pub before: Nanos,
    /// Requests that go before it, waiting or running.
    pub ahead: usize,
    /// Those among them of which nothing was measured.
    pub unmeasured: usize,
    /// Less urgent requests, waiting or running, which it goes before.
    pub behind: usize,
    /// Whether its model's queue has a place for it.
    pub room: bool,
}
