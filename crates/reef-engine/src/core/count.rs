//! Statistics: what of requests and tasks is counted, and for whom.

use std::sync::Arc;

use reef_base::{Class, ModelKey, Nanos};
use reef_device::{Completion, Outcome};
use reef_plan::FaultKind;
use reef_sched::ModelId;

use super::{Core, Pending};
use crate::distribution::Recorder;
use crate::error::InferError;
use crate::request::Urgency;
use crate::stats::{ClassStats, FailureReason};
use crate::ticket::Record;

/// What is counted of the requests of one model in one class.
#[derive(Default)]
pub(super) struct Counted {
    sums: ClassStats,
    /// Read without the core's lock.
    times: Arc<Times>,
}

impl Counted {
    /// Nothing yet, real-time and best-effort, of a model whose tasks have so many rows at most.
    pub(super) fn of_each(rows_max: usize) -> [Counted; 2] {
        let nothing = || Counted { sums: ClassStats::of(rows_max), times: Arc::default() };
        [nothing(), nothing()]
    }
}

/// For whom a model counts whose place another one has.
#[derive(Clone, PartialEq)]
pub(super) enum Heir {
    /// The one that has it.
    Model(ModelId),
    /// That one is on other devices.
    Departed(Arc<ModelKey>),
}

/// How the times of the requests of one model in one class are spread.
#[derive(Default)]
pub(crate) struct Times {
    /// From arrival to delivery, of successful requests.
    pub(crate) total: Recorder,
    /// From submission to first block, of tasks that displaced less urgent work.
    pub(crate) preempt: Recorder,
}

impl Core {
    /// A model's sums, with what waits and runs now. Of one whose place another has taken, that one's.
    pub(crate) fn stats(&self, model: ModelId, key: &Arc<ModelKey>) -> Option<[ClassStats; 2]> {
        let heir = self.knows(model, key).then(|| self.heir_of(model))?;
        self.stats_of(&heir)
    }

    /// The sums of a model of this name that was on this device; the one that has its place is not.
    pub(crate) fn departed_stats(&self, key: &Arc<ModelKey>) -> Option<[ClassStats; 2]> {
        self.stats_of(&Heir::Departed(key.clone()))
    }

    fn stats_of(&self, heir: &Heir) -> Option<[ClassStats; 2]> {
        let (counted, own) = match heir {
            Heir::Model(model) => (&self.stats[model.index()], Some(*model)),
            Heir::Departed(key) => (self.departed(key)?, None),
        };
        let mut stats = counted.each_ref().map(|counted| counted.sums.clone());
        let old = self.heirs.iter().filter(|(_, other)| other == heir).map(|(old, _)| *old);
        for own in old.chain(own).filter(|_| self.fault.is_none()) {
            for (class, stats) in [Class::real_time(0), Class::BestEffort].into_iter().zip(&mut stats) {
                stats.queued += self.sched.queued(own, class) as u64;
                stats.on_board += self.sched.on_board(own, class) as u64;
            }
        }
        Some(stats)
    }

    fn departed(&self, key: &ModelKey) -> Option<&[Counted; 2]> {
        self.departed.iter().find(|(known, _)| **known == *key).map(|(_, counted)| counted)
    }

    /// What a model did before it was published is nobody's request.
    pub(crate) fn begin_counting(&mut self, model: ModelId) {
        let rows_max = self.stats[model.index()][0].sums.batches.len();
        self.stats[model.index()] = Counted::of_each(rows_max);
    }

    /// One model takes the place of another: what was counted for that, and what its last requests will
    /// count, is the new one's. If the old one has gone meanwhile, there is nothing.
    pub(crate) fn succeed(&mut self, old: ModelId, key: &Arc<ModelKey>, new: ModelId) {
        if self.knows(old, key) {
            let counted = std::mem::take(&mut self.stats[old.index()]);
            add(&mut self.stats[new.index()], counted);
            self.bequeath(&Heir::Model(old), &Heir::Model(new));
            self.heirs.push((old, Heir::Model(new)));
        }
    }

    /// The same, where the new one is on other devices: what was counted here stays.
    pub(crate) fn leave_device(&mut self, old: ModelId, key: &Arc<ModelKey>) {
        if self.knows(old, key) {
            // Whoever is here has taken what those before it had left.
            assert!(self.departed(key).is_none(), "{key}: counted twice");
            let counted = std::mem::take(&mut self.stats[old.index()]);
            self.departed.push((key.clone(), counted));
            let heir = Heir::Departed(key.clone());
            self.bequeath(&Heir::Model(old), &heir);
            self.heirs.push((old, heir));
        }
    }

    /// A model that takes another one's place is on this device, where that one was not: what those before
    /// it counted here, is its own.
    pub(crate) fn come_back(&mut self, key: &Arc<ModelKey>, new: ModelId) {
        if let Some(at) = self.departed.iter().position(|(known, _)| known == key) {
            let (_, counted) = self.departed.swap_remove(at);
            add(&mut self.stats[new.index()], counted);
            self.bequeath(&Heir::Departed(key.clone()), &Heir::Model(new));
        }
    }

    /// A name is free: who has it next counts from zero.
    pub(crate) fn forget_departed(&mut self, key: &ModelKey) {
        self.departed.retain(|(known, _)| **known != *key);
        self.heirs.retain(|(_, heir)| !matches!(heir, Heir::Departed(known) if known.as_ref() == key));
    }

    /// Who counted for the one counts for the other.
    fn bequeath(&mut self, from: &Heir, to: &Heir) {
        self.heirs.iter_mut().filter(|(_, heir)| heir == from).for_each(|(_, heir)| *heir = to.clone());
    }

    fn heir_of(&self, model: ModelId) -> Heir {
        let heir = self.heirs.iter().find(|(old, _)| *old == model);
        heir.map_or(Heir::Model(model), |(_, heir)| heir.clone())
    }

    /// How a model's times are spread, real-time and best-effort; to be read without the lock.
    pub(crate) fn times(&self, model: ModelId, key: &Arc<ModelKey>) -> Option<[Arc<Times>; 2]> {
        let counted = self.knows(model, key).then(|| &self.stats[model.index()]);
        counted.map(|counted| counted.each_ref().map(|counted| counted.times.clone()))
    }

    /// The same of [`Core::departed_stats`].
    pub(crate) fn departed_times(&self, key: &ModelKey) -> Option<[Arc<Times>; 2]> {
        self.departed(key).map(|counted| counted.each_ref().map(|counted| counted.times.clone()))
    }

    /// Counts a request that never came to be queued, unless its model has gone meanwhile.
    pub(crate) fn count_refusal(
        &mut self,
        now: Nanos,
        model: ModelId,
        key: &Arc<ModelKey>,
        urgency: &Urgency,
        error: &InferError,
    ) {
        if self.knows(model, key) {
            self.count_failure(model, urgency.class, error, now.since(urgency.arrival));
        }
    }

    /// Counts a request that was queued and ended without outputs.
    pub(super) fn count_failed(&mut self, now: Nanos, pending: &Pending, error: &InferError) {
        self.count_failure(pending.model, pending.class, error, now.since(pending.arrival));
    }

    /// Counts a request that ended without outputs `took` after its arrival, unless it never was the model's.
    pub(super) fn count_failure(&mut self, model: ModelId, class: Class, error: &InferError, took: Nanos) {
        let Some(reason) = failure_reason(error) else { return };
        let stats = &mut self.counted(model, class).sums;
        stats.failures[reason as usize] += 1;
        stats.failed_time += took;
        stats.deadline_misses += u64::from(reason == FailureReason::Deadline);
    }

    /// Counts a request that got its outputs. `alone` is what its plan takes, if that is known.
    pub(super) fn count_success(&mut self, now: Nanos, pending: &Pending, record: &Record, alone: Nanos) {
        let counted = self.counted(pending.model, pending.class);
        let stats = &mut counted.sums;
        stats.success += 1;
        stats.inferences += u64::from(pending.rows);
        stats.compute_input += record.timings.compute_input;
        stats.queue += record.timings.queue;
        stats.compute += record.timings.compute;
        stats.compute_output += record.timings.compute_output;
        stats.alone += if alone == Nanos::ZERO { record.timings.compute } else { alone };
        stats.total.record(record.timings.total);
        stats.deadline_misses += u64::from(record.late);
        stats.last_success = stats.last_success.max(now);
        counted.times.total.record(record.timings.total);
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
        let counted = self.counted(model, class);
        let (stats, counters) = (&mut counted.sums, &completion.counters);
        stats.executions += u64::from(completion.outcome == Outcome::Done && ends);
        stats.kills_caused += counters.kills_caused;
        stats.blocks_killed += counters.blocks_killed;
        stats.wasted += counters.wasted_time;
        stats.cu_time += counters.cu_time;
        stats.padding += counters.padding_time;
        if completion.preempted {
            let first = completion.first_block.unwrap_or(completion.finished);
            stats.preempt_latency.record(first - completion.submitted);
            counted.times.preempt.record(first - completion.submitted);
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
        let stats = &mut self.counted(model, class).sums;
        let place = stats.batches.get_mut((rows as usize).saturating_sub(1));
        if let Some(batches) = place.filter(|_| rows > 0 && completion.outcome == Outcome::Done) {
            let first = completion.first_block.unwrap_or(completion.finished);
            batches.count += 1;
            batches.compute_input += input;
            batches.compute += completion.finished - first;
            batches.compute_output += now - completion.finished;
        }
    }

    fn counted(&mut self, model: ModelId, class: Class) -> &mut Counted {
        let counted = match self.heir_of(model) {
            Heir::Model(model) => &mut self.stats[model.index()],
            Heir::Departed(key) => {
                let departed = self.departed.iter_mut().find(|(known, _)| *known == key);
                &mut departed.expect("who counts for what has departed is forgotten with it").1
            }
        };
        &mut counted[usize::from(!class.is_real_time())]
    }
}

/// Adds what was counted by those before; how times are spread goes on where it was.
fn add(sums: &mut [Counted; 2], counted: [Counted; 2]) {
    for (own, other) in sums.iter_mut().zip(counted) {
        own.sums.merge(&other.sums);
        own.times = other.times;
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
