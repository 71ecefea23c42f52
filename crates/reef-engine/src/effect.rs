//! What a core wants done, once its lock is open: tasks handed to the device or stopped there, ends told to
//! who waits for them, requests that go on elsewhere. The core calls nobody; `shared` carries these out.

use std::sync::Arc;

use reef_base::{Buffer, Class, Nanos, TaskId, TaskKey};
use reef_device::{Completion, Io, Seat, TaskCounters};
use reef_sched::RequestId;
use smallvec::SmallVec;

use crate::error::InferError;
use crate::gathering::Gathering;
use crate::kit::Kit;
use crate::passage::Passage;
use crate::plans::{Buffers, PlanEntry};
use crate::pool::Model;
use crate::request::Urgency;
use crate::ticket::{Finished, Promise, Record};

/// The effects of one step. As many as are usual take no memory of their own.
#[derive(Default)]
pub(crate) struct Effects {
    /// For the device; these are first, because requests wait for them.
    pub(crate) tasks: SmallVec<[TaskEffect; 2]>,
    pub(crate) deliveries: SmallVec<[Delivery; 2]>,
    pub(crate) helper: Helper,
}

/// What the thread that carries the effects out does afterwards.
#[derive(Default)]
pub(crate) enum Helper {
    /// It has no time for the device.
    #[default]
    No,
    /// It may work for the device, on a task that takes no longer than that.
    Offers(Nanos),
    /// The device has taken its offer, for a task with this key on this lane.
    Has(usize, Seat, TaskKey),
}

impl Effects {
    pub(crate) fn push(&mut self, delivery: Delivery) {
        self.deliveries.push(delivery);
    }

    pub(crate) fn submit(&mut self, submit: Submit) {
        self.tasks.push(TaskEffect::Submit(submit));
    }

    pub(crate) fn stop(&mut self, stop: Stop) {
        self.tasks.push(TaskEffect::Stop(stop));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.deliveries.is_empty()
    }
}

/// Something for the device.
pub(crate) enum TaskEffect {
    Submit(Submit),
    Stop(Stop),
}

/// A request to become a task.
pub(crate) struct Submit {
    pub(crate) id: RequestId,
    /// Which of the request's tasks it is.
    pub(crate) turn: u32,
    pub(crate) model: Arc<Model>,
    pub(crate) plan: Arc<PlanEntry>,
    pub(crate) key: TaskKey,
    pub(crate) io: Io,
    pub(crate) kit: Option<Arc<Kit>>,
    /// Of a batch: what its members bring, instead of `io`.
    pub(crate) gathering: Option<Arc<Gathering>>,
}

impl Submit {
    /// Whether it copies the rows of a best-effort batch, for which nothing more urgent is to wait.
    pub(crate) fn may_wait(&self) -> bool {
        self.gathering.is_some() && !self.key.class().is_real_time()
    }

    /// Puts together what the members of a batch bring, if it is one and that was not done before.
    pub(crate) fn gather(&mut self) -> Result<(), InferError> {
        if let Some(gathering) = self.gathering.take() {
            self.io = gathering.gather(&self.plan)?;
        }
        Ok(())
    }
}

/// A request whose end is asked for.
pub(crate) struct Stop {
    pub(crate) id: RequestId,
    pub(crate) model: Arc<Model>,
    /// What is to be stopped; nothing while it is on its way to the device, or between two segments.
    pub(crate) task: Option<TaskId>,
}

/// What leaves the core on its way to others: an end for who waits for it, a request that goes on, and with
/// either what may be the last reference to a plan.
pub(crate) enum Delivery {
    /// A request has ended.
    End(End),
    /// A batch has ended, or was given up.
    Batch(EndBatch),
    /// A request goes on with another segment.
    Hop(Hop),
    /// A request goes on with another part of a split model.
    Move(Move),
}

/// The end of a request.
pub(crate) struct End {
    pub(crate) model: Option<Arc<Model>>,
    pub(crate) kit: Option<Arc<Kit>>,
    pub(crate) plan: Arc<PlanEntry>,
    /// `None` when the answer was given before.
    pub(crate) end: Option<(Promise, Finished)>,
    /// Of a task whose caller was answered before it ended.
    pub(crate) leftover: Option<Buffers>,
}

impl End {
    pub(crate) fn deliver(self) {
        let End { model, kit, plan, end, leftover } = self;
        // The plan may be the last one of an unloaded model: let go before anyone hears of the end.
        drop(plan);
        drop(leftover);
        if let (Some(model), Some(kit)) = (&model, kit) {
            model.keep(kit);
        }
        drop(model);
        if let Some((promise, finished)) = end {
            promise.keep(finished);
        }
    }
}

/// The end of a batch, and of its members.
pub(crate) struct EndBatch {
    pub(crate) lane: usize,
    pub(crate) class: Class,
    pub(crate) plan: Arc<PlanEntry>,
    /// The batch's own buffers; empty if it never had any.
    pub(crate) io: Io,
    pub(crate) gathering: Arc<Gathering>,
    pub(crate) members: Vec<EndMember>,
    /// Its members have their rows.
    pub(crate) parted: bool,
}

/// The end of a member: its place in the batch, its buffers, and what is told to whom, if that was not told
/// before.
pub(crate) struct EndMember {
    pub(crate) place: usize,
    pub(crate) buffers: Buffers,
    pub(crate) end: Option<(Promise, Result<Record, InferError>)>,
}

impl EndMember {
    fn is_done(&self) -> bool {
        matches!(self.end, Some((_, Ok(_))))
    }
}

impl EndBatch {
    /// As [`Submit::may_wait`].
    pub(crate) fn may_wait(&self) -> bool {
        !self.class.is_real_time()
    }

    /// Bytes that its members get.
    pub(crate) fn bytes(&self) -> usize {
        let any = !self.parted && self.members.iter().any(EndMember::is_done);
        if any { self.io.outputs.iter().map(Buffer::len).sum() } else { 0 }
    }

    /// Gives its members their buffers back, with their rows in them, and those of the batch to its plan.
    pub(crate) fn part(&mut self) {
        for member in &mut self.members {
            let made = member.is_done().then_some((&*self.plan, &self.io));
            member.buffers.io = self.gathering.give_back(member.place, made);
        }
        // To free them may take as long as to copy them.
        drop(Buffers { io: std::mem::take(&mut self.io), pool: self.plan.pool.clone() });
        self.parted = true;
    }

    pub(crate) fn deliver(mut self) {
        if !self.parted {
            self.part();
        }
        let EndBatch { plan, members, .. } = self;
        // As for a single request.
        drop(plan);
        for EndMember { buffers, end, .. } in members {
            if let Some((promise, result)) = end {
                promise.keep(Finished { buffers: Some(buffers), result });
            }
        }
    }
}

/// A request between two segments: the scheduler has it, the device has not.
pub(crate) struct Hop {
    pub(crate) id: RequestId,
    pub(crate) model: Arc<Model>,
    /// The segment that has ended.
    pub(crate) plan: Arc<PlanEntry>,
    pub(crate) kit: Option<Arc<Kit>>,
    /// What it read and made.
    pub(crate) buffers: Buffers,
}

/// A request between two parts of a split model: no scheduler has it, and no device.
pub(crate) struct Move {
    /// On the device that it comes from.
    pub(crate) model: Arc<Model>,
    /// The part that has ended.
    pub(crate) plan: Arc<PlanEntry>,
    /// What it read and made.
    pub(crate) buffers: Buffers,
    pub(crate) promise: Promise,
    pub(crate) urgency: Urgency,
    /// When it was queued first.
    pub(crate) queued: Nanos,
    pub(crate) before: Sofar,
    pub(crate) passage: Option<Passage>,
}

/// What the segments of a request took that have ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sofar {
    pub(crate) segments: u32,
    submitted: Nanos,
    first_block: Option<Nanos>,
    all_cus: Option<Nanos>,
    preempted: bool,
    pub(crate) counters: TaskCounters,
}

impl Sofar {
    /// Adds a task's end, after which the request ran `segments`, and completes it with what was before.
    pub(crate) fn add(&mut self, completion: &mut Completion, segments: u32) {
        if self.segments > 0 {
            completion.submitted = self.submitted;
            completion.all_cus = self.all_cus;
            completion.first_block = self.first_block.or(completion.first_block);
            completion.preempted |= self.preempted;
            completion.counters += self.counters;
        }
        *self = Sofar {
            segments,
            submitted: completion.submitted,
            first_block: completion.first_block,
            all_cus: completion.all_cus,
            preempted: completion.preempted,
            counters: completion.counters,
        };
    }
}
