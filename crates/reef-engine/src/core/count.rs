//! Statistics: what of requests and tasks is counted, and for whom.

use std::sync::Arc;

use reef_base::{Class, ModelKey, Nanos};
use reef_device::{Completion, Outcome};
use reef_plan::FaultKind;
use reef_sched::ModelId;

use super::{Core, Pending};
use crate::error::InferError;
use crate::stats::{ClassStats, FailureReason};
use crate::ticket::Record;

impl Core {
    /// Counts a request that never came to be queued, unless its model has gone meanwhile.
    pub(crate) fn count_refusal(
        &mut self,
        model: ModelId,
        key: &Arc<ModelKey>,
        class: Class,
        error: &InferError,
    ) {
        if self.knows(model, key) {
            self.count_failure(model, class, error);
        }
    }

    /// Counts a request that ended without outputs, unless it never was the model's.
    pub(super) fn count_failure(&mut self, model: ModelId, class: Class, error: &InferError) {
        let Some(reason) = failure_reason(error) else { return };
        let stats = self.class_stats(model, class);
        stats.failures[reason as usize] += 1;
        stats.deadline_misses += u64::from(reason == FailureReason::Deadline);
    }

    pub(super) fn count_success(&mut self, pending: &Pending, record: &Record) {
        let stats = self.class_stats(pending.model, pending.class);
        stats.success += 1;
        stats.inferences += u64::from(pending.rows);
        stats.compute_input += record.timings.compute_input;
        stats.queue += record.timings.queue;
        stats.compute += record.timings.compute;
        stats.compute_output += record.timings.compute_output;
        stats.total.record(record.timings.total);
        stats.deadline_misses += u64::from(record.late);
    }

    /// Counts what a task, or the tasks of one request after the other, did on this device; `ends` says
    /// whether the request ends here.
    pub(super) fn count_execution(&mut self, pending: &Pending, completion: &Completion, ends: bool) {
        self.count_task(pending.model, pending.class, completion, ends);
    }

    /// Counts a task that one request was.
    pub(super) fn count_batch(&mut self, pending: &Pending, completion: &Completion, now: Nanos) {
        let waited = pending.queued - pending.arrival;
        self.count_rows(pending.model, pending.class, pending.rows, waited, completion, now);
    }

    pub(super) fn count_task(&mut self, model: ModelId, class: Class, completion: &Completion, ends: bool) {
        let stats = self.class_stats(model, class);
        let counters = &completion.counters;
        stats.executions += u64::from(completion.outcome == Outcome::Done && ends);
        stats.kills_caused += counters.kills_caused;
        stats.blocks_killed += counters.blocks_killed;
        stats.wasted += counters.wasted_time;
        stats.cu_time += counters.cu_time;
        stats.padding += counters.padding_time;
        if completion.preempted {
            let first = completion.first_block.unwrap_or(completion.finished);
            stats.preempt_latency.record(first - completion.submitted);
        }
    }

    /// Counts a task of so many rows that was done, of a model that counts them. `input` is what the first of
    /// its requests took before it was queued.
    pub(super) fn count_rows(
        &mut self,
        model: ModelId,
        class: Class,
        rows: u32,
        input: Nanos,
        completion: &Completion,
        now: Nanos,
    ) {
        let stats = self.class_stats(model, class);
        let place = stats.batches.get_mut((rows as usize).saturating_sub(1));
        if let Some(batches) = place.filter(|_| rows > 0 && completion.outcome == Outcome::Done) {
            let first = completion.first_block.unwrap_or(completion.finished);
            batches.count += 1;
            batches.compute_input += input;
            batches.compute += completion.finished - first;
            batches.compute_output += now - completion.finished;
        }
    }

    fn class_stats(&mut self, model: ModelId, class: Class) -> &mut ClassStats {
        &mut self.stats[model.index()][usize::from(!class.is_real_time())]
    }
}

fn failure_reason(error: &InferError) -> Option<FailureReason> {
    match error {
        InferError::QueueFull { .. }
        | InferError::NotServed { .. }
        | InferError::CompileQueueFull
        | InferError::NoMemory
        | InferError::Unloading(_)
        | InferError::ShuttingDown => Some(FailureReason::Rejected),
        InferError::DeadlinePassed | InferError::DeadlineUnreachable { .. } => Some(FailureReason::Deadline),
        InferError::Timeout => Some(FailureReason::Timeout),
        InferError::Cancelled => Some(FailureReason::Cancelled),
        InferError::Failed(fault) if fault.kind == FaultKind::Input => Some(FailureReason::Input),
        InferError::Failed(_)
        | InferError::DeviceFault
        | InferError::EngineFailed(_)
        | InferError::NoPlan(_) => Some(FailureReason::Backend),
        InferError::UnknownModel(_)
        | InferError::NotReady(_)
        | InferError::WrongInput { .. }
        | InferError::UnknownOutput { .. }
        | InferError::TooWide { .. }
        | InferError::NotAllowed { .. }
        | InferError::Shapes(_) => None,
    }
}
