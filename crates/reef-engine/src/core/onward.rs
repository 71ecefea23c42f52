//! Requests that go on after a task: with another segment here, or with another part on another device.

use std::sync::Arc;

use reef_base::Nanos;
use reef_device::{Completion, Io};
use reef_sched::{RequestId, Usage};

use super::{Answer, Core, Pending, Task};
use crate::effect::{Delivery, Effects, End, Hop, Move};
use crate::error::InferError;
use crate::fault;
use crate::plans::{Buffers, PlanEntry};
use crate::request::Urgency;

impl Core {
    /// A segment has ended and another one follows: its plan is found, or made, without the lock.
    pub(super) fn hop(&mut self, id: RequestId, completion: Completion, out: &mut Effects) {
        let pending = self.pending[id.slot()].as_mut().expect("a running request is known");
        pending.task = Task::None;
        let pool = pending.buffers.pool.clone();
        let mut buffers = std::mem::replace(&mut pending.buffers, Buffers { io: Io::default(), pool });
        buffers.io = completion.io;
        let (model, plan, kit) = (pending.home.clone(), pending.plan.clone(), pending.kit.clone());
        out.push(Delivery::Hop(Hop { id, model, plan, kit, buffers }));
    }

    /// A part of a split model has ended: the request leaves this device for the next one.
    pub(super) fn depart(
        &mut self,
        now: Nanos,
        id: RequestId,
        mut completion: Completion,
        out: &mut Effects,
    ) {
        let ran = completion.first_block.map(|first| completion.finished - first);
        let usage = Usage { cu_time: completion.counters.cu_time, service: ran, stopped_after: None };
        if self.sched.on_complete(now, id, usage).is_none() {
            fault::log(|| tracing::error!(task = completion.task.0, "the device completed an unknown task"));
            return;
        }
        let mut pending = self.pending[id.slot()].take().expect("a running request is known");
        self.count_execution(&pending, &completion, false);
        self.trace_end(&pending, Some(&completion), now, None);
        let segments = pending.before.segments + pending.sofar.segments;
        pending.before.add(&mut completion, segments);
        pending.buffers.io = completion.io;
        let Pending { home: model, plan, buffers, answer, class, arrival, deadline, .. } = pending;
        let Answer::Owed(promise) = answer else { unreachable!("who is answered does not go on") };
        // It does not wait in a queue any more: that is over.
        let urgency = Urgency { class, arrival, deadline, queue_until: None };
        let (queued, before, passage) = (pending.queued, pending.before, pending.passage);
        out.push(Delivery::Move(Move { model, plan, buffers, promise, urgency, queued, before, passage }));
    }

    /// A request goes on with `plan`, in its slot and with its key.
    pub(crate) fn resume(
        &mut self,
        now: Nanos,
        id: RequestId,
        plan: Arc<PlanEntry>,
        buffers: Buffers,
        out: &mut Effects,
    ) {
        let known = self.pending.get_mut(id.slot()).and_then(Option::as_mut);
        let Some(pending) = known.filter(|pending| pending.id == id) else {
            let leftover = Some(buffers);
            return out.push(Delivery::End(End { model: None, kit: None, plan, end: None, leftover }));
        };
        (pending.plan, pending.buffers) = (plan, buffers);
        match (&pending.answer, pending.task_key) {
            (Answer::Owed(_), Some(key)) => self.start(id, key, out),
            _ => self.end_hop(now, id, InferError::Cancelled, out),
        }
    }

    /// Ends a request that is between two segments.
    pub(crate) fn end_hop(&mut self, now: Nanos, id: RequestId, error: InferError, out: &mut Effects) {
        let known = self.pending.get(id.slot()).and_then(Option::as_ref);
        let Some(pending) = known.filter(|pending| pending.id == id) else { return };
        let counters = pending.sofar.counters;
        let cu_time = counters.cu_time + counters.wasted_time;
        self.sched.on_complete(now, id, Usage { cu_time, service: None, stopped_after: None });
        self.end_queued(now, id, error, out);
    }
}
