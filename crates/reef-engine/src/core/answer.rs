//! What callers are told of a request: what it took, or why it ended without an answer.

use reef_base::{Class, ModelKey, Nanos};
use reef_device::{Completion, RejectReason, Scheme};
use reef_sched::{CancelReason, Refusal};

use super::Pending;
use crate::error::InferError;
use crate::fault;
use crate::plans::PlanEntry;
use crate::request::Timings;
use crate::ticket::Record;

/// Of a request that has its outputs.
pub(super) fn record(pending: &Pending, completion: &Completion, now: Nanos) -> Record {
    // A task without blocks never starts; it then ended when it started.
    let first = completion.first_block.unwrap_or(completion.finished);
    let timings = Timings {
        arrival: pending.arrival,
        compute_input: pending.queued - pending.arrival,
        queue: first - pending.queued,
        compute: completion.finished - first,
        compute_output: now - completion.finished,
        total: now - pending.arrival,
    };
    Record {
        class: pending.class,
        timings,
        first_block: first - completion.submitted,
        all_cus: completion.all_cus.map(|at| at - completion.submitted),
        preempted: completion.preempted,
        late: pending.deadline.is_some_and(|deadline| now > deadline),
        counters: completion.counters,
    }
}

/// What the caller of a stopped task is told.
pub(super) fn cancelled(
    why: Option<CancelReason>,
    by_caller: bool,
    class: Class,
    scheme: Scheme,
) -> InferError {
    match why {
        Some(CancelReason::Deadline) => InferError::DeadlinePassed,
        Some(CancelReason::ShuttingDown) => InferError::ShuttingDown,
        // Not asked for by the caller: see [`Core::end_unserved`].
        Some(CancelReason::Requested) if !by_caller => InferError::NotServed { scheme, class },
        Some(CancelReason::Requested) | None => InferError::Cancelled,
    }
}

/// What is told of a task that the device does not take, now or later.
pub(super) fn not_taken(why: RejectReason, plan: &PlanEntry, class: Class, scheme: Scheme) -> InferError {
    if why == RejectReason::SchemeRefuses {
        return InferError::NotServed { scheme, class };
    }
    let plan = plan.plan.name();
    fault::log(|| tracing::error!(%why, plan, "the device refuses a task"));
    InferError::DeviceFault
}

pub(super) fn refused(refusal: Refusal, key: &ModelKey, queued: usize) -> InferError {
    match refusal {
        Refusal::QueueFull => InferError::QueueFull { key: key.clone(), len: queued },
        Refusal::DeadlinePassed => InferError::DeadlinePassed,
        Refusal::DeadlineUnreachable { needed, left } => InferError::DeadlineUnreachable { needed, left },
        Refusal::Timeout => InferError::Timeout,
        Refusal::Draining => InferError::Unloading(key.clone()),
        Refusal::ShuttingDown => InferError::ShuttingDown,
    }
}
