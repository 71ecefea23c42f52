//! `reef-sched`: the task-level scheduler, a pure state machine.
//!
//! Owns which request becomes a task, in which order, and which is refused. Events and the time go in
//! ([`Scheduler::submit`], [`Scheduler::on_complete`], …), actions come out ([`Scheduler::next_action`]).
//! Knows no thread, device, file or clock, so the server and a simulator run the same code; equal events give
//! equal actions. Allocates only when a model is added.
//!
//! Life of a request:
//!
//! | state | event | next | what comes out |
//! |---|---|---|---|
//! | – | `submit`, refused | – | the [`Refusal`] is its end |
//! | – | `submit`, taken | queued | |
//! | queued | a slot is free and it is the most urgent | on board | [`Action::Start`] |
//! | queued | `cancel` | – | [`Cancelled::Dropped`] is its end |
//! | queued | timeout, deadline, drain | – | [`Action::Refuse`] is its end |
//! | on board | `on_rejected` | queued, at its old place | |
//! | on board | `cancel`, deadline, abandon | on board | [`Action::CancelRunning`], at most once |
//! | on board | `on_complete` | – | [`Ended`] is its end |
//! | queued | its batch starts | joined | [`Action::StartBatch`] |
//! | joined | `cancel`, deadline | joined | [`Action::Leave`], at most once |
//! | joined | `on_rejected` of the batch | queued, at its old place | |
//! | joined | `take_member` | – | [`Ended`] is its end |
//!
//! Order: real-time before best-effort, by level, then earliest deadline first, requests without a deadline
//! after those with one, by arrival. Best-effort models share by weight, charged by compute-unit time
//! (the module `model` has the rules); inside a model by arrival.
//!
//! One scheduler is for one device. Which device a request goes to, where several serve its model, is said by
//! a [`Router`] above them: it is asked with what each scheduler forecasts for the request
//! ([`Scheduler::forecast`]), and knows nothing else of them.

mod batch;
mod board;
mod dispatch;
mod estimate;
mod forecast;
mod gathering;
mod heap;
mod model;
mod router;
mod scheduler;
mod table;
mod types;

pub use estimate::{PROBE_AFTER, PROBE_RARITY, SAMPLES_MIN};
pub use model::{Account, TASK_CHARGE_MIN};
pub use router::{Offer, Router};
pub use scheduler::Scheduler;
pub use types::{
    Action, Batching, CancelReason, Cancelled, Drain, Ended, Forecast, Joins, ModelId, ModelOptions, Refusal,
    Request, RequestId, SchedOptions, Size, Usage,
};
