//! The clock-driven core: the scheduler, the requests in it and their statistics, behind one mutex.
//!
//! Every entry takes the mutex, tells the scheduler what happened, books what it then wants ([`Core::pump`]),
//! lets go, and only then carries out what was booked ([`Effects`]): no device and no caller is called with
//! the mutex held. Submitters, the completion thread and a simulator's step all come in this way; compute
//! units never do. Nothing here reads a system clock, calls a device or waits.
//!
//! So a request may be on its way to the device while others come in ([`Task::Leaving`]). Who asks for its
//! end then has it stopped as soon as the device has it ([`Core::submitted`]); its completion may be here
//! before that is said, and its next task, too, which is why tasks of a request are told apart by their turn.
//!
//! A task whose end was asked for (cancelled, deadline passed) may be in code that nothing stops. Who waits
//! for it is answered at once; the request stays in the books, with its slot and its buffers, until the
//! device says that the task has ended, and its model is charged then.
//!
//! A request of a model that is split over devices is in one core after the other: it leaves this one when
//! its part here has ended ([`Core::depart`]), and is submitted to the next one as one that has begun.
//!
//! After a fault of the device, or a bug that leaves the books in doubt, every request is answered with that
//! and the scheduler is not asked again: see [`Core::fail`].

mod answer;
mod batch;
mod count;
mod onward;

use std::collections::HashMap;
use std::sync::Arc;

use reef_base::limits::SEGMENTS_PER_REQUEST_MAX;
use reef_base::{Class, ModelKey, Nanos, TaskId, TaskKey};
use reef_device::{Completion, Io, Outcome, RejectReason, Rejected, Scheme};
use reef_plan::HostFault;
use reef_sched::{
    Account, Action, Cancelled, Drain, Joins, ModelId, ModelOptions, Request, RequestId, SchedOptions,
    Scheduler, Usage,
};

use crate::effect::{Delivery, Effects, End, Sofar, Stop, Submit};
use answer::{cancelled, not_taken, record, refused};
use batch::Batch;
pub(crate) use count::Times;
use count::{Counted, Heir};

use crate::error::InferError;
use crate::fault;
use crate::kit::Kit;
use crate::passage::Passage;
use crate::plans::{Buffers, PlanEntry};
use crate::pool::Model;
use crate::request::Urgency;
use crate::ticket::{Finished, Promise, Ticket};
use crate::trace::{Notes, Span};

/// A request that is ready to be scheduled.
pub(crate) struct Job {
    pub(crate) model: Arc<Model>,
    pub(crate) plan: Arc<PlanEntry>,
    pub(crate) promise: Promise,
    pub(crate) buffers: Buffers,
    /// Of a model of several segments.
    pub(crate) kit: Option<Arc<Kit>>,
    pub(crate) urgency: Urgency,
    /// When it began to wait, if that was before it came here.
    pub(crate) waited_since: Option<Nanos>,
    /// What it took on other devices.
    pub(crate) before: Sofar,
    /// Of a model that is split.
    pub(crate) passage: Option<Passage>,
    /// If others may join it.
    pub(crate) joins: Option<Joins>,
}

impl Job {
    /// Whether the request has begun on another device.
    fn has_begun(&self) -> bool {
        self.before.segments > 0
    }
}

/// A job that was not queued, with what it had.
pub(crate) struct Refused {
    pub(crate) error: InferError,
    pub(crate) buffers: Buffers,
    pub(crate) promise: Promise,
}

/// Whether who waits for a request has been answered.
enum Answer {
    Owed(Promise),
    /// Before its task had ended: when, and with what.
    Given(Nanos, InferError),
}

/// Where a request's task is.
#[derive(Clone, Copy)]
enum Task {
    /// There is none: it is queued, or between two segments.
    None,
    /// On its way to the device, which is to stop it once it has it.
    Leaving { stop: bool },
    /// The device has it.
    There(TaskId),
}

impl Task {
    /// Has it stopped; what the device is to be told.
    fn stop(&mut self) -> Option<TaskId> {
        match self {
            Task::There(task) => Some(*task),
            Task::Leaving { stop } => {
                *stop = true;
                None
            }
            // Between two segments there is nothing to stop: it does not go on.
            Task::None => None,
        }
    }

    /// The device has it; whether it is to be stopped at once.
    fn arrives(&mut self, task: TaskId) -> bool {
        match *self {
            Task::Leaving { stop } => {
                *self = Task::There(task);
                stop
            }
            Task::None | Task::There(_) => false,
        }
    }
}

/// What comes after a task.
enum Next {
    /// Another segment, here.
    Hop,
    /// Another part, on another device.
    Depart,
    /// Nothing: the request has ended.
    End,
}

/// A request in the scheduler.
struct Pending {
    id: RequestId,
    home: Arc<Model>,
    model: ModelId,
    key: Arc<ModelKey>,
    plan: Arc<PlanEntry>,
    answer: Answer,
    buffers: Buffers,
    task: Task,
    /// Tasks that it became so far.
    turn: u32,
    /// What the scheduler gave it when it was started.
    task_key: Option<TaskKey>,
    kit: Option<Arc<Kit>>,
    /// What it took here.
    sofar: Sofar,
    /// What it took on other devices.
    before: Sofar,
    passage: Option<Passage>,
    class: Class,
    arrival: Nanos,
    queued: Nanos,
    deadline: Option<Nanos>,
    /// Rows of its inputs; one where nothing bounds them.
    rows: u32,
}

pub(crate) struct Core {
    pub(crate) sched: Scheduler,
    scheme: Scheme,
    /// By the request's slot.
    pending: Vec<Option<Pending>>,
    /// Batches on the board, by their slot.
    batches: Vec<Option<Batch>>,
    /// By the model's id. Ids are used again, so a job also says which load of which model it means.
    models: Vec<Option<Arc<ModelKey>>>,
    /// By the model's id.
    draining: Vec<bool>,
    /// What models that were unloaded still owe, by their name: a model that is loaded again, in whichever
    /// version, does not begin without debts.
    accounts: HashMap<String, Account>,
    /// By the model's id: real-time, best-effort.
    stats: Vec<[Counted; 2]>,
    /// Models that still have requests though another one has their place, and for whom these count.
    heirs: Vec<(ModelId, Heir)>,
    /// What models counted that were here, by their names: those that have their places are elsewhere.
    departed: Vec<(Arc<ModelKey>, [Counted; 2])>,
    best_effort_slots: usize,
    /// When the thread that keeps the timers will wake up.
    pub(crate) armed: Nanos,
    /// Why nothing is served any more.
    fault: Option<InferError>,
    notes: Arc<Notes>,
}

impl Core {
    /// Of a device with this scheme.
    pub(crate) fn new(scheme: Scheme, options: SchedOptions, notes: Arc<Notes>) -> Self {
        let mut core = Core {
            sched: Scheduler::new(options),
            scheme,
            pending: Vec::new(),
            batches: Vec::new(),
            models: Vec::new(),
            draining: Vec::new(),
            accounts: HashMap::new(),
            stats: Vec::new(),
            heirs: Vec::new(),
            departed: Vec::new(),
            best_effort_slots: options.best_effort_slots,
            armed: Nanos::ZERO,
            fault: None,
            notes,
        };
        core.set_scheme(core.scheme);
        core
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Why nothing is served any more.
    pub(crate) fn fault(&self) -> Option<&InferError> {
        self.fault.as_ref()
    }

    /// When the next timer fires.
    pub(crate) fn next_wakeup(&self) -> Nanos {
        match self.fault {
            None => self.sched.next_wakeup().unwrap_or(Nanos::MAX),
            Some(_) => Nanos::MAX,
        }
    }

    /// Answers every request with `fault` and refuses all later ones. Only buffers come back from now on.
    pub(crate) fn fail(&mut self, fault: InferError, out: &mut Effects) {
        if self.fault.is_some() {
            return;
        }
        for slot in 0..self.pending.len() {
            let Some(pending) = &mut self.pending[slot] else { continue };
            let given = Answer::Given(Nanos::ZERO, fault.clone());
            let Answer::Owed(promise) = std::mem::replace(&mut pending.answer, given) else { continue };
            pending.passage = None;
            let (plan, model, class) = (pending.plan.clone(), pending.model, pending.class);
            // What the device has stays here until it gives it back.
            let waiting = self.pending[slot].take_if(|pending| matches!(pending.task, Task::None));
            let (home, leftover) = waiting.map(|pending| (pending.home, pending.buffers)).unzip();
            let end = Some((promise, Finished { buffers: None, result: Err(fault.clone()) }));
            out.push(Delivery::End(End { model: home, kit: None, plan, end, leftover }));
            self.count_failure(model, class, &fault, Nanos::ZERO);
        }
        self.fault = Some(fault);
    }

    /// The device's scheme changes; what then never runs of a model that is being unloaded ends.
    pub(crate) fn change_scheme(&mut self, now: Nanos, scheme: Scheme, out: &mut Effects) {
        if self.fault.is_some() {
            return;
        }
        self.set_scheme(scheme);
        self.end_unserved(now, out);
    }

    fn set_scheme(&mut self, scheme: Scheme) {
        self.scheme = scheme;
        self.sched.set_best_effort_slots(match scheme {
            Scheme::RtOnly => 0,
            Scheme::Sequential => 1,
            Scheme::Concurrent | Scheme::Wait | Scheme::Reset => self.best_effort_slots,
        });
    }

    /// Adds a model to the books; `None` when there are too many.
    pub(crate) fn add_model(
        &mut self,
        key: Arc<ModelKey>,
        options: ModelOptions,
        rows_max: usize,
    ) -> Option<ModelId> {
        let account = self.accounts.get(&key.name).copied().unwrap_or_default();
        let id = self.sched.add_model_again(options, account)?;
        self.accounts.remove(&key.name);
        if self.stats.len() <= id.index() {
            self.stats.resize_with(id.index() + 1, Default::default);
            self.models.resize(id.index() + 1, None);
            self.draining.resize(id.index() + 1, false);
        }
        self.draining[id.index()] = false;
        self.stats[id.index()] = Counted::of_each(rows_max);
        self.models[id.index()] = Some(key);
        let slots = self.sched.capacity().max(self.pending.len());
        self.pending.resize_with(slots, || None);
        // A batch of any model may have any slot, also one that came with a model that joins nobody.
        if options.batching.is_some() || !self.batches.is_empty() {
            self.batches.resize_with(slots, || None);
        }
        Some(id)
    }

    /// Takes a model without requests off the books; false when it has some. After a fault nobody asks the
    /// books any more.
    pub(crate) fn remove_model(&mut self, id: ModelId) -> bool {
        if self.fault.is_some() {
            return true;
        }
        let account = self.sched.account(id);
        let removed = self.sched.remove_model(id);
        if removed {
            self.heirs.retain(|(old, heir)| *old != id && *heir != Heir::Model(id));
        }
        if removed && let Some(key) = self.models[id.index()].take() {
            let sched = &self.sched;
            self.accounts.retain(|_, account| !sched.is_settled(account));
            if !sched.is_settled(&account) {
                self.accounts.insert(key.name.clone(), account);
            }
        }
        removed
    }

    /// From now on no request is taken; what is queued runs.
    pub(crate) fn close(&mut self) {
        self.sched.close();
    }

    /// Whether no request waits or runs; after a fault, whether the device has given back what it had.
    pub(crate) fn is_idle(&self) -> bool {
        let nobody = || self.pending.iter().all(Option::is_none) && self.batches.iter().all(Option::is_none);
        if self.fault.is_some() { nobody() } else { self.sched.is_idle() }
    }

    /// Whether everybody is answered, though tasks may still run.
    pub(crate) fn owes_nobody(&self) -> bool {
        !self.pending.iter().flatten().any(|pending| matches!(pending.answer, Answer::Owed(_)))
    }

    /// Gives up every best-effort request.
    pub(crate) fn abandon_best_effort(&mut self) {
        if self.fault.is_none() {
            self.sched.abandon_best_effort();
        }
    }

    /// From now on a model takes no requests. Those that the scheme does not serve end, however it is
    /// drained: who waits for the model to be idle would wait for ever.
    pub(crate) fn drain_model(&mut self, now: Nanos, id: ModelId, drain: Drain, out: &mut Effects) {
        if self.fault.is_some() {
            return;
        }
        self.sched.drain_model(id, drain);
        self.end_unserved_of(now, id, out);
    }

    /// Ends what of a model the scheme does not serve, now and later: nobody is to wait for it.
    pub(crate) fn end_unserved_of(&mut self, now: Nanos, id: ModelId, out: &mut Effects) {
        if self.fault.is_none() {
            self.draining[id.index()] = true;
            self.end_unserved(now, out);
        }
    }

    fn end_unserved(&mut self, now: Nanos, out: &mut Effects) {
        if self.scheme != Scheme::RtOnly {
            return;
        }
        for slot in 0..self.pending.len() {
            let Some(pending) = &self.pending[slot] else { continue };
            let (id, class) = (pending.id, pending.class);
            if class.is_real_time() || !self.draining[pending.model.index()] {
                continue;
            }
            // One that is on the board is stopped, see [`Core::stop`].
            if self.sched.cancel(id) == Cancelled::Dropped {
                self.end_queued(now, id, InferError::NotServed { scheme: self.scheme, class }, out);
            }
        }
    }

    /// A plan number of a model names another plan from now on.
    pub(crate) fn reset_plan(&mut self, id: ModelId, key: &Arc<ModelKey>, plan: u16) {
        if self.knows(id, key) {
            self.sched.reset_plan(id, plan);
        }
    }

    pub(crate) fn knows(&self, id: ModelId, key: &Arc<ModelKey>) -> bool {
        self.models[id.index()].as_ref().is_some_and(|known| Arc::ptr_eq(known, key))
    }

    /// Queues a job. On refusal what it had comes back.
    #[allow(clippy::result_large_err, reason = "the buffers come back without an allocation")]
    pub(crate) fn submit(&mut self, now: Nanos, job: Job, out: &mut Effects) -> Result<(), Refused> {
        let begun = job.has_begun();
        match self.admit(now, &job) {
            Ok(id) => {
                job.promise.ticket().set_request(id);
                let rows = job.joins.map_or_else(|| job.model.rows_of(&job.plan), |joins| joins.rows);
                let Job { model: home, plan, promise, buffers, kit, urgency, waited_since, .. } = job;
                let (before, passage) = (job.before, job.passage);
                let (model, key) = (home.id(), home.key.clone());
                let Urgency { class, arrival, deadline, .. } = urgency;
                let (task, queued, answer) = (Task::None, waited_since.unwrap_or(now), Answer::Owed(promise));
                self.pending[id.slot()] = Some(Pending {
                    id,
                    home,
                    model,
                    key,
                    plan,
                    answer,
                    buffers,
                    task,
                    turn: 0,
                    task_key: None,
                    kit,
                    sofar: Sofar::default(),
                    before,
                    passage,
                    class,
                    arrival,
                    queued,
                    deadline,
                    rows,
                });
                if begun {
                    self.end_unserved(now, out);
                }
                Ok(())
            }
            Err(error) => {
                self.count_refusal(now, job.model.id(), &job.model.key, &job.urgency, &error);
                Err(Refused { error, buffers: job.buffers, promise: job.promise })
            }
        }
    }

    fn admit(&mut self, now: Nanos, job: &Job) -> Result<RequestId, InferError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if !self.knows(job.model.id(), &job.model.key) {
            return Err(InferError::Unloading((*job.model.key).clone()));
        }
        if job.promise.ticket().is_cancelled() {
            return Err(InferError::Cancelled);
        }
        let Urgency { class, arrival, deadline, queue_until } = job.urgency;
        if self.scheme == Scheme::RtOnly && !class.is_real_time() && !job.has_begun() {
            return Err(InferError::NotServed { scheme: self.scheme, class });
        }
        let (model, plan) = (job.model.id(), job.model.number(&job.plan));
        let request = Request { model, plan, class, arrival, deadline, queue_until, joins: job.joins };
        let queued = self.sched.queued(model, class);
        let submitted = match job.has_begun() {
            true => self.sched.submit_begun(now, request),
            false => self.sched.submit(now, request),
        };
        submitted.map_err(|refusal| refused(refusal, &job.model.key, queued))
    }

    /// Asks for the end of a ticket's request; false when it is not, or not yet, one of the scheduler's.
    pub(crate) fn cancel(&mut self, now: Nanos, ticket: &Ticket, out: &mut Effects) -> bool {
        ticket.set_cancelled();
        if self.fault.is_some() {
            return true;
        }
        let known = ticket.request().filter(|&id| self.is_of(id, ticket));
        // It may have come to another device since it was looked for here.
        let Some(id) = known else { return false };
        if self.sched.cancel(id) == Cancelled::Dropped {
            self.end_queued(now, id, InferError::Cancelled, out);
        }
        true
    }

    /// Whether a request is there, its caller is not answered yet and waits for `ticket`.
    fn is_of(&self, id: RequestId, ticket: &Ticket) -> bool {
        let pending = self.pending.get(id.slot()).and_then(Option::as_ref).filter(|pending| pending.id == id);
        let answer = pending.map(|pending| &pending.answer);
        matches!(answer, Some(Answer::Owed(promise)) if std::ptr::eq(promise.ticket(), ticket))
    }

    /// Does what the scheduler wants until it wants nothing more.
    pub(crate) fn pump(&mut self, now: Nanos, out: &mut Effects) {
        while self.fault.is_none()
            && let Some(action) = self.sched.next_action(now)
        {
            match action {
                Action::Start { request, key } => self.start(request, key, out),
                Action::Refuse { request, why } => {
                    let pending = self.pending[request.slot()].as_ref().expect("a live request is known");
                    let error = refused(why, &pending.key, 0);
                    self.end_queued(now, request, error, out);
                }
                Action::StartBatch { batch, plan, key } => self.start_batch(now, batch, plan, key, out),
                Action::CancelRunning { request } => self.stop(request, out),
                Action::Leave { request } => self.leave(request, out),
            }
        }
    }

    /// Has a task stopped. When that was asked for, [`Core::answer_stopped`] is to be called.
    fn stop(&mut self, id: RequestId, out: &mut Effects) {
        if let Some(batch) = self.batch_mut(id) {
            return out.stop(batch.stop());
        }
        let pending = self.pending[id.slot()].as_mut().expect("a live request is known");
        let task = pending.task.stop();
        out.stop(Stop { id, model: pending.home.clone(), task });
    }

    /// The end of a task was asked for: answers who waits for it, unless it has ended meanwhile.
    pub(crate) fn answer_stopped(&mut self, now: Nanos, id: RequestId, out: &mut Effects) {
        if self.fault.is_some() {
            return;
        }
        if self.batch_mut(id).is_some() {
            return self.answer_members(now, id, out);
        }
        let why = self.sched.stop_reason(id);
        let scheme = self.scheme;
        let known = self.pending.get_mut(id.slot()).and_then(Option::as_mut);
        let Some(pending) = known.filter(|pending| pending.id == id) else { return };
        let Answer::Owed(promise) = &pending.answer else { return };
        let error = cancelled(why, promise.ticket().is_cancelled(), pending.class, scheme);
        let given = Answer::Given(now, error.clone());
        let Answer::Owed(promise) = std::mem::replace(&mut pending.answer, given) else { return };
        pending.passage = None;
        let (plan, model, class) = (pending.plan.clone(), pending.model, pending.class);
        let took = now.since(pending.arrival);
        self.count_failure(model, class, &error, took);
        let finished = Finished { buffers: None, result: Err(error) };
        let end = Some((promise, finished));
        out.push(Delivery::End(End { model: None, kit: None, plan, end, leftover: None }));
    }

    /// A task has ended on the device.
    pub(crate) fn complete(&mut self, now: Nanos, mut completion: Completion, out: &mut Effects) {
        if completion.outcome == Outcome::DeviceFault {
            self.fail(InferError::DeviceFault, out);
        }
        let id = RequestId(completion.token);
        if self.fault.is_some() {
            return self.take_back(id, completion.io, out);
        }
        if let Some(batch) = self.take_batch(id) {
            return self.complete_batch(now, batch, completion, out);
        }
        match self.ended(id, &mut completion) {
            Next::Hop => return self.hop(id, completion, out),
            Next::Depart => return self.depart(now, id, completion, out),
            Next::End => {}
        }
        let usage = usage(&completion);
        let Some(ended) = self.sched.on_complete(now, id, usage) else {
            fault::log(|| tracing::error!(task = completion.task.0, "the device completed an unknown task"));
            return;
        };
        let alone = self.sched.service_time(ended.request.model, ended.request.plan);
        let mut pending = self.pending[id.slot()].take().expect("a running request is known");
        self.count_execution(&pending, &completion, true);
        self.count_batch(&pending, &completion, now);
        let segments = pending.before.segments + pending.sofar.segments;
        pending.before.add(&mut completion, segments);
        let (result, at) = match &pending.answer {
            Answer::Given(at, error) => (Err(error.clone()), *at),
            Answer::Owed(promise) => {
                let by_caller = promise.ticket().is_cancelled();
                let stopped = || cancelled(ended.cancel, by_caller, pending.class, self.scheme);
                let result = match &completion.outcome {
                    Outcome::Done => Ok(record(&pending, &completion, now)),
                    Outcome::Cancelled => Err(stopped()),
                    Outcome::Failed(fault) => Err(InferError::Failed(fault.clone())),
                    Outcome::DeviceFault => Err(InferError::DeviceFault),
                };
                match &result {
                    Ok(record) => self.count_success(now, &pending, record, alone),
                    Err(error) => self.count_failed(now, &pending, error),
                }
                (result, now)
            }
        };
        self.trace_end(&pending, Some(&completion), at, result.as_ref().err());
        pending.buffers.io = completion.io;
        let Pending { home, plan, answer, buffers, kit, .. } = pending;
        let (end, leftover) = match answer {
            Answer::Owed(promise) => (Some((promise, Finished { buffers: Some(buffers), result })), None),
            Answer::Given(..) => (None, Some(buffers)),
        };
        out.push(Delivery::End(End { model: Some(home), kit, plan, end, leftover }));
    }

    /// Books what a task did for its request, and says what comes after it.
    fn ended(&mut self, id: RequestId, completion: &mut Completion) -> Next {
        let known = self.pending.get_mut(id.slot()).and_then(Option::as_mut);
        let Some(pending) = known.filter(|pending| pending.id == id) else { return Next::End };
        let segments = match &pending.kit {
            None => pending.sofar.segments + 1,
            Some(kit) => {
                let (entry, segments) = kit.at();
                pending.buffers.pool = entry.pool.clone();
                pending.plan = entry;
                segments
            }
        };
        pending.sofar.add(completion, segments);
        let done = completion.outcome == Outcome::Done;
        if !done || !pending.plan.goes_on() || !matches!(pending.answer, Answer::Owed(_)) {
            return Next::End;
        }
        if pending.before.segments + pending.sofar.segments >= SEGMENTS_PER_REQUEST_MAX {
            let reason = format!("more than {SEGMENTS_PER_REQUEST_MAX} segments: a loop does not end");
            completion.outcome = Outcome::Failed(HostFault::of_input("the model", reason));
            return Next::End;
        }
        if pending.home.is_split() { Next::Depart } else { Next::Hop }
    }

    /// After a fault: the buffers of a task that was answered with it.
    fn take_back(&mut self, id: RequestId, io: Io, out: &mut Effects) {
        if let Some(batch) = self.take_batch(id) {
            return out.push(batch.give_up(io));
        }
        let Some(place) = self.pending.get_mut(id.slot()) else { return };
        if let Some(mut pending) = place.take_if(|pending| pending.id == id) {
            pending.buffers.io = io;
            let (model, plan, leftover) = (Some(pending.home), pending.plan, Some(pending.buffers));
            out.push(Delivery::End(End { model, kit: None, plan, end: None, leftover }));
        }
    }

    fn start(&mut self, id: RequestId, key: TaskKey, out: &mut Effects) {
        let pending = self.pending[id.slot()].as_mut().expect("a live request is known");
        assert_eq!(pending.id, id, "slots and requests agree");
        let io = std::mem::take(&mut pending.buffers.io);
        pending.task_key = Some(key);
        if self.notes.is_on() {
            let model = &pending.key;
            let label = |entry: &PlanEntry| self.notes.label(id.0, model, entry.loaded, &entry.plan);
            match &pending.kit {
                None => label(&pending.plan),
                Some(kit) => kit.each(label),
            }
        }
        pending.task = Task::Leaving { stop: false };
        pending.turn = pending.turn.wrapping_add(1);
        let (turn, model) = (pending.turn, pending.home.clone());
        let (plan, kit) = (pending.plan.clone(), pending.kit.clone());
        out.submit(Submit { id, turn, model, plan, key, io, kit, gathering: None });
    }

    /// The device has a task; whether it is to be stopped at once.
    pub(crate) fn submitted(&mut self, id: RequestId, turn: u32, task: TaskId) -> bool {
        if let Some(batch) = self.batch_mut(id) {
            return batch.task.arrives(task);
        }
        let known = self.pending.get_mut(id.slot()).and_then(Option::as_mut);
        // It may have ended, or gone on, since.
        let known = known.filter(|pending| pending.id == id && pending.turn == turn);
        known.is_some_and(|pending| pending.task.arrives(task))
    }

    /// The device has not taken a task. `closed` says whether it will never take one again.
    pub(crate) fn rejected(
        &mut self,
        now: Nanos,
        id: RequestId,
        rejected: Rejected,
        closed: bool,
        out: &mut Effects,
    ) {
        if closed {
            self.fail(InferError::DeviceFault, out);
        }
        if self.fault.is_some() {
            return self.take_back(id, rejected.io, out);
        }
        if let Some(batch) = self.take_batch(id) {
            return self.reject_batch(now, batch, rejected, out);
        }
        let pending = self.pending[id.slot()].as_mut().expect("a request on its way is known");
        assert_eq!(pending.id, id, "slots and requests agree");
        pending.buffers.io = rejected.io;
        let stopped = matches!(pending.task, Task::Leaving { stop: true });
        pending.task = Task::None;
        let error = match rejected.why {
            _ if stopped => InferError::Cancelled,
            // For a moment: it says when it goes on.
            RejectReason::BoardFull | RejectReason::Closed => return self.sched.on_rejected(now, id),
            why => not_taken(why, &pending.plan, pending.class, self.scheme),
        };
        let error = match self.sched.on_complete(now, id, Usage::default()).and_then(|ended| ended.cancel) {
            why @ Some(_) => {
                let pending = self.pending[id.slot()].as_ref().expect("it was there");
                let by_caller = matches!(&pending.answer, Answer::Owed(it) if it.ticket().is_cancelled());
                cancelled(why, by_caller, pending.class, self.scheme)
            }
            None => error,
        };
        self.end_queued(now, id, error, out);
    }

    /// Ends a request that has its buffers here and is not in the scheduler any more.
    fn end_queued(&mut self, now: Nanos, id: RequestId, error: InferError, out: &mut Effects) {
        let pending = self.pending[id.slot()].take().expect("a live request is known");
        if matches!(pending.answer, Answer::Owed(_)) {
            self.count_failed(now, &pending, &error);
        }
        self.trace_end(&pending, None, now, Some(&error));
        let Pending { home, plan, answer, buffers, .. } = pending;
        let (end, leftover) = match answer {
            Answer::Owed(promise) => {
                (Some((promise, Finished { buffers: Some(buffers), result: Err(error) })), None)
            }
            Answer::Given(..) => (None, Some(buffers)),
        };
        out.push(Delivery::End(End { model: Some(home), kit: None, plan, end, leftover }));
    }

    fn trace_end(
        &self,
        pending: &Pending,
        completion: Option<&Completion>,
        now: Nanos,
        error: Option<&InferError>,
    ) {
        self.notes.span(|| Span {
            token: pending.id.0,
            model: pending.key.clone(),
            class: pending.class,
            arrival: pending.arrival,
            queued: pending.queued,
            submitted: completion.map(|completion| completion.submitted),
            first_block: completion.and_then(|completion| completion.first_block),
            finished: completion.map(|completion| completion.finished),
            end: now,
            error: error.map(ToString::to_string),
        });
    }
}

/// What a task used, for the scheduler.
fn usage(completion: &Completion) -> Usage {
    let done = completion.outcome == Outcome::Done;
    let ran = completion.first_block.map(|first| completion.finished - first);
    let stopped = completion.outcome == Outcome::Cancelled;
    let (service, stopped_after) = (ran.filter(|_| done), ran.filter(|_| stopped));
    let counters = &completion.counters;
    let thrown_away = if done { Nanos::ZERO } else { counters.wasted_time };
    Usage { cu_time: counters.cu_time + thrown_away, service, stopped_after }
}
