//! Statistics: what of requests and tasks is counted, and for whom.

use std::sync::Arc;

use reef_base::{Class, ModelKey};
use reef_device::{Completion, Outcome};
use reef_plan::FaultKind;
use reef_sched::ModelId;

use super::{Core, Pending};
use crate::error::InferError;
use crate::stats::{ClassStats, FailureReason};
use crate::ticket::Record;

impl Core {
    /// A model's sums, with what waits and runs now. Of one whose place another has taken, that one's.
    pub(crate) fn stats(&self, model: ModelId, key: &Arc<ModelKey>) -> Option<[ClassStats; 2]> {
        if !self.knows(model, key) {
            return None;
        }
        let model = self.heir_of(model);
        let mut stats = self.stats[model.index()].clone();
        let old = self.heirs.iter().filter(|(_, heir)| *heir == model).map(|(old, _)| *old);
        for own in old.chain([model]).filter(|_| self.fault.is_none()) {
            for (class, stats) in [Class::real_time(0), Class::BestEffort].into_iter().zip(&mut stats) {
                stats.queued += self.sched.queued(own, class) as u64;
                stats.on_board += self.sched.on_board(own, class) as u64;
            }
        }
        Some(stats)
    }

    /// What a model did before it was published is nobody's request.
    pub(crate) fn begin_counting(&mut self, model: ModelId) {
        self.stats[model.index()] = Default::default();
    }

    /// One model takes the place of another: what was counted for that, and what its last requests will
    /// count, is the new one's. If the old one has gone meanwhile, there is nothing.
    pub(crate) fn succeed(&mut self, old: ModelId, key: &Arc<ModelKey>, new: ModelId) {
        if !self.knows(old, key) {
            return;
        }
        let counted = std::mem::take(&mut self.stats[old.index()]);
        self.stats[new.index()].iter_mut().zip(&counted).for_each(|(new, old)| new.merge(old));
        self.heirs.iter_mut().filter(|(_, heir)| *heir == old).for_each(|(_, heir)| *heir = new);
        self.heirs.push((old, new));
    }

    fn heir_of(&self, model: ModelId) -> ModelId {
        self.heirs.iter().find(|(old, _)| *old == model).map_or(model, |&(_, heir)| heir)
    }

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
        let stats = self.class_stats(pending.model, pending.class);
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

    fn class_stats(&mut self, model: ModelId, class: Class) -> &mut ClassStats {
        let model = self.heir_of(model);
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
        | InferError::NotAllowed { .. }
        | InferError::Shapes(_) => None,
    }
}
