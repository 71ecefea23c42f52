//! Batches: several requests that are one task. Each has its place in the books as if it were alone, without
//! a task of its own; the batch has the task, and the plan. What they bring is put together, and what is
//! made is taken apart, without the lock (`gathering`).
//!
//! | event | members |
//! |---|---|
//! | the batch starts | their buffers are in its gathering |
//! | one leaves: cancelled, deadline | it is answered; its buffers stay until the batch ends |
//! | the batch is done | each gets its rows |
//! | the batch fails | they are queued again, each alone; who was alone in it is told why |
//! | the device has no place | they are queued again, to be gathered anew |
//! | it cannot be run at all | each is told why |

use std::sync::Arc;

use reef_base::{Class, Nanos, TaskKey};
use reef_device::{Completion, Io, Outcome, RejectReason, Rejected};
use reef_sched::{Ended, RequestId, Usage};

use super::answer::{cancelled, not_taken, record};
use super::{Answer, Core, Pending, Task, usage};
use crate::effect::{Delivery, Effects, EndBatch, EndMember, Stop, Submit};
use crate::error::InferError;
use crate::fault;
use crate::gathering::Gathering;
use crate::plans::PlanEntry;
use crate::pool::Model;
use crate::ticket::{Promise, Record};

/// A batch on the board.
pub(super) struct Batch {
    id: RequestId,
    model: Arc<Model>,
    plan: Arc<PlanEntry>,
    class: Class,
    members: Vec<RequestId>,
    gathering: Arc<Gathering>,
    pub(super) task: Task,
}

impl Batch {
    pub(super) fn stop(&mut self) -> Stop {
        Stop { id: self.id, model: self.model.clone(), task: self.task.stop() }
    }

    /// Its last effect, where nobody is left in it.
    pub(super) fn give_up(self, io: Io) -> Delivery {
        self.end(io, Vec::new())
    }

    fn end(self, io: Io, members: Vec<EndMember>) -> Delivery {
        let Batch { class, plan, gathering, model, .. } = self;
        let lane = model.lane;
        Delivery::Batch(EndBatch { lane, class, plan, io, gathering, members, parted: false })
    }

    fn place(&self, member: RequestId) -> usize {
        self.members.iter().position(|&id| id == member).expect("it is a member")
    }
}

impl Core {
    pub(super) fn batch_mut(&mut self, id: RequestId) -> Option<&mut Batch> {
        self.batches.get_mut(id.slot())?.as_mut().filter(|batch| batch.id == id)
    }

    pub(super) fn take_batch(&mut self, id: RequestId) -> Option<Batch> {
        self.batches.get_mut(id.slot())?.take_if(|batch| batch.id == id)
    }

    /// Requests become a task.
    pub(super) fn start_batch(
        &mut self,
        now: Nanos,
        id: RequestId,
        plan: u16,
        key: TaskKey,
        out: &mut Effects,
    ) {
        let members: Vec<RequestId> = self.sched.members(id).collect();
        let mut brought = Vec::with_capacity(members.len());
        for member in &members {
            let pending = self.pending[member.slot()].as_mut().expect("a live request is known");
            brought.push((pending.rows as usize, std::mem::take(&mut pending.buffers.io)));
        }
        let first = self.pending[members[0].slot()].as_ref().expect("a live request is known");
        let (model, class, own) = (first.home.clone(), first.class, first.plan.clone());
        let planned = model.plans.at(plan);
        let task = Task::Leaving { stop: false };
        let gathering = Arc::new(Gathering::new(brought));
        let plan = planned.clone().unwrap_or(own);
        let batch = Batch { id, model, plan, class, members, gathering, task };
        let (model, plan, gathering) = (batch.model.clone(), batch.plan.clone(), batch.gathering.clone());
        self.batches[id.slot()] = Some(batch);
        if planned.is_none() {
            // The model is closed while it has requests: the engine has failed, or it is a bug.
            let gone = InferError::Unloading((*model.key).clone());
            return self.end_batch(now, id, gone, out);
        }
        if self.notes.is_on() {
            self.notes.label(id.0, &model.key, plan.loaded, &plan.plan);
        }
        let (io, kit, gathering) = (Io::default(), None, Some(gathering));
        out.submit(Submit { id, turn: 0, model, plan, key, io, kit, gathering });
    }

    /// A member goes, the others go on: has it answered.
    pub(super) fn leave(&mut self, id: RequestId, out: &mut Effects) {
        let pending = self.pending[id.slot()].as_ref().expect("a live request is known");
        out.stop(Stop { id, model: pending.home.clone(), task: None });
    }

    /// The end of a whole batch was asked for.
    pub(super) fn answer_members(&mut self, now: Nanos, id: RequestId, out: &mut Effects) {
        let members = self.batch_mut(id).map(|batch| batch.members.clone()).unwrap_or_default();
        members.into_iter().for_each(|member| self.answer_stopped(now, member, out));
    }

    pub(super) fn complete_batch(
        &mut self,
        now: Nanos,
        batch: Batch,
        completion: Completion,
        out: &mut Effects,
    ) {
        let used = usage(&completion);
        self.count_batch_execution(&batch, &completion, now);
        let mut members = self.end_stopped(now, &batch, Some(&completion));
        // Whose fault it was nobody knows, be it one's who has left.
        let shared = batch.members.len() > 1 && members.len() < batch.members.len();
        if shared && matches!(completion.outcome, Outcome::Failed(_)) {
            self.restore(&batch);
            self.sched.separate(now, batch.id, used);
            return out.push(batch.end(completion.io, members));
        }
        while let Some((id, ended)) = self.sched.take_member(now, batch.id) {
            let result = |core: &Core, pending: &Pending, by_caller: bool| match &completion.outcome {
                Outcome::Done => Ok(record(pending, &completion, now)),
                Outcome::Cancelled => Err(cancelled(ended.cancel, by_caller, pending.class, core.scheme)),
                Outcome::Failed(fault) => Err(InferError::Failed(fault.clone())),
                Outcome::DeviceFault => Err(InferError::DeviceFault),
            };
            members.push(self.end_member(now, &batch, id, Some(&completion), result));
        }
        if self.sched.on_complete(now, batch.id, used).is_none() {
            fault::log(|| tracing::error!(task = completion.task.0, "the device completed an unknown batch"));
        }
        out.push(batch.end(completion.io, members));
    }

    /// The device has not taken a batch.
    pub(super) fn reject_batch(&mut self, now: Nanos, batch: Batch, rejected: Rejected, out: &mut Effects) {
        let members = self.end_stopped(now, &batch, None);
        match rejected.why {
            // For a moment: the scheduler says when they go on. What nobody waits for any more ends.
            RejectReason::BoardFull | RejectReason::Closed => {
                self.restore(&batch);
                self.sched.on_rejected(now, batch.id);
                out.push(batch.end(rejected.io, members));
            }
            why => {
                let error = not_taken(why, &batch.plan, batch.class, self.scheme);
                self.give_up(now, batch, rejected.io, members, &error, out);
            }
        }
    }

    /// A batch cannot be handed in: each of its members ends.
    pub(crate) fn end_batch(&mut self, now: Nanos, id: RequestId, error: InferError, out: &mut Effects) {
        let Some(batch) = self.take_batch(id) else { return };
        if self.fault.is_some() {
            return out.push(batch.give_up(Io::default()));
        }
        let members = self.end_stopped(now, &batch, None);
        self.give_up(now, batch, Io::default(), members, &error, out);
    }

    fn give_up(
        &mut self,
        now: Nanos,
        batch: Batch,
        io: Io,
        mut members: Vec<EndMember>,
        error: &InferError,
        out: &mut Effects,
    ) {
        while let Some((id, _)) = self.sched.take_member(now, batch.id) {
            members.push(self.end_member(now, &batch, id, None, |_, _, _| Err(error.clone())));
        }
        self.sched.on_complete(now, batch.id, Usage::default());
        out.push(batch.end(io, members));
    }

    /// Ends the members whose end was asked for.
    fn end_stopped(&mut self, now: Nanos, batch: &Batch, completion: Option<&Completion>) -> Vec<EndMember> {
        let mut members = Vec::new();
        let done = completion.filter(|completion| completion.outcome == Outcome::Done);
        while let Some((id, Ended { cancel, .. })) = self.sched.take_stopped_member(now, batch.id) {
            let result = |core: &Core, pending: &Pending, by_caller: bool| match done {
                // It was in time after all.
                Some(completion) => Ok(record(pending, completion, now)),
                None => Err(cancelled(cancel, by_caller, pending.class, core.scheme)),
            };
            members.push(self.end_member(now, batch, id, completion, result));
        }
        members
    }

    /// Ends a member that the scheduler does not know any more, unless it was answered before.
    fn end_member(
        &mut self,
        now: Nanos,
        batch: &Batch,
        id: RequestId,
        completion: Option<&Completion>,
        result: impl FnOnce(&Core, &Pending, bool) -> Result<Record, InferError>,
    ) -> EndMember {
        let pending = self.pending[id.slot()].take().expect("a live request is known");
        let (result, at) = match &pending.answer {
            Answer::Given(at, error) => (Err(error.clone()), *at),
            Answer::Owed(promise) => {
                let result = result(self, &pending, promise.ticket().is_cancelled());
                match &result {
                    // The time alone is that of the batch: what it waits for its members is not.
                    Ok(record) => self.count_success(now, &pending, record, Nanos::ZERO),
                    Err(error) => self.count_failed(now, &pending, error),
                }
                (result, now)
            }
        };
        self.trace_end(&pending, completion, at, result.as_ref().err());
        let Pending { answer, buffers, .. } = pending;
        let end: Option<(Promise, _)> = match answer {
            Answer::Owed(promise) => Some((promise, result)),
            Answer::Given(..) => None,
        };
        EndMember { place: batch.place(id), buffers, end }
    }

    /// Gives those who are still in a batch their buffers back: they are queued again.
    fn restore(&mut self, batch: &Batch) {
        for id in self.sched.members(batch.id) {
            let pending = self.pending[id.slot()].as_mut().expect("a live request is known");
            pending.buffers.io = batch.gathering.give_back(batch.place(id), None);
        }
    }

    fn count_batch_execution(&mut self, batch: &Batch, completion: &Completion, now: Nanos) {
        let member = batch
            .members
            .iter()
            .find_map(|id| self.pending[id.slot()].as_ref().filter(|pending| pending.id == *id));
        let Some(first) = member else { return };
        let (model, rows) = (first.model, batch.gathering.rows() as u32);
        let waited = first.queued - first.arrival;
        self.count_task(model, batch.class, completion, true);
        self.count_rows(model, batch.class, rows, waited, completion, now);
    }
}
