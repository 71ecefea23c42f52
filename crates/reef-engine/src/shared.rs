//! What every handle and thread of an engine shares, and the one way into the cores. A request is here in one
//! of two places, a device's core or the queue of those without a plan: what ends requests asks both. Knows
//! neither how plans are made nor how models are loaded.
//!
//! A panic in a core leaves its books in doubt: whoever is in it then has the engine fail
//! ([`Shared::break_down`]) before anybody else gets in. A fault of a device takes its lane out of service
//! and no other ([`Shared::leave`]): what it had is answered with the fault, what had not begun goes to
//! another device of its model. The engine has failed when all lanes are out.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reef_base::limits::{DEVICES_MAX, LONG_COPY_BYTES_MIN};
use reef_base::{Buffer, Clock, Nanos, VirtualClock};
use reef_device::{DeviceError, RejectReason, Route, Scheme};
use reef_program::SegmentKey;
use reef_sched::{Forecast, Offer, Router};
use smallvec::SmallVec;

use crate::cold::{ColdJob, ColdQueue, ColdWork};
use crate::copies::{Copied, Copies, Copy};
use crate::core::{Core, Job, Refused};
use crate::effect::{Delivery, Effects, Helper, Hop, Move, Stop, Submit, TaskEffect};
use crate::error::InferError;
use crate::fault::{self, Verdict, contain, log};
use crate::help::Helping;
use crate::lane::Lane;
use crate::place::Site;
use crate::plans::{PlanEntry, PlanFailure};
use crate::pool::{Group, Model, Registry};
use crate::request::Urgency;
use crate::split;
use crate::ticket::Ticket;
use crate::trace::{Traced, Tracing};

/// The lane whose completion thread keeps the timers of those without a plan.
pub(crate) const COLD_TIMERS: usize = 0;

pub(crate) struct Shared {
    /// One per device, at least one.
    pub(crate) lanes: Box<[Lane]>,
    /// Their names, in their order.
    pub(crate) names: Box<[Arc<str>]>,
    router: Mutex<Router>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) registry: Registry,
    pub(crate) cold: ColdQueue,
    pub(crate) copies: Copies,
    /// How long a plan is kept that nobody uses.
    pub(crate) plan_idle: Nanos,
    pub(crate) tracing: Tracing,
    step_out: Mutex<Effects>,
    /// Held by who lets virtual time pass, from the look at what is next until it has passed.
    pub(crate) passing: Mutex<()>,
    /// Held by who changes the scheme.
    changing: Mutex<()>,
    /// That of the devices, if their time is virtual; then it is `clock`, too.
    pub(crate) virtual_clock: Option<VirtualClock>,
    closed: AtomicBool,
    pub(crate) verdict: Verdict,
}

impl Shared {
    pub(crate) fn new(
        lanes: Vec<Lane>,
        clock: Arc<dyn Clock>,
        cold_queue_len: usize,
        plan_idle: Nanos,
    ) -> Self {
        let virtual_clock = lanes[0].device.virtual_clock().cloned();
        let clock = match &virtual_clock {
            Some(own) => Arc::new(own.clone()) as Arc<dyn Clock>,
            None => clock,
        };
        let traced = |lane: &Lane| Traced {
            name: lane.name.clone(),
            device: lane.device.clone(),
            notes: lane.notes.clone(),
        };
        let tracing = Tracing::new(lanes.iter().map(traced).collect(), clock.clone());
        let names = lanes.iter().map(|lane| lane.name.clone()).collect();
        Shared {
            router: Mutex::new(Router::new(lanes.len())),
            lanes: lanes.into(),
            names,
            clock,
            registry: Registry::default(),
            cold: ColdQueue::new(cold_queue_len),
            copies: Copies::default(),
            plan_idle,
            tracing,
            step_out: Mutex::default(),
            passing: Mutex::default(),
            changing: Mutex::default(),
            virtual_clock,
            closed: AtomicBool::new(false),
            verdict: Verdict::default(),
        }
    }

    /// Changes the scheme of every lane.
    pub(crate) fn change_scheme(&self, scheme: Scheme) {
        let mut out = Effects::default();
        // One change at a time, so that devices and cores have the same.
        let one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, lane) in self.lanes.iter().enumerate() {
            let tell_device = || {
                if let Err(panic) = fault::contain(|| lane.device.set_scheme(scheme)) {
                    self.break_down(panic.clone());
                    resume_unwind(Box::new(panic));
                }
            };
            // A device that is to take best-effort tasks does so before any is started.
            let (before, after) = (scheme != Scheme::RtOnly, scheme == Scheme::RtOnly);
            before.then(tell_device);
            self.enter_with(index, &mut out, |core, now, out| core.change_scheme(now, scheme, out));
            after.then(tell_device);
        }
        // Wakers may change it again.
        drop(one);
        self.deliver(&mut out);
    }

    /// Does `event` in the core of a lane, then what follows from it, then carries out the effects.
    pub(crate) fn enter<T>(&self, lane: usize, event: impl FnOnce(&mut Core, Nanos, &mut Effects) -> T) -> T {
        let mut out = Effects::default();
        let result = self.enter_with(lane, &mut out, event);
        self.deliver(&mut out);
        result
    }

    /// As [`Shared::enter`], with the effects left in `out`. A bug that panics in the core is one of the
    /// caller, too, once everybody has been answered.
    pub(crate) fn enter_with<T>(
        &self,
        lane: usize,
        out: &mut Effects,
        event: impl FnOnce(&mut Core, Nanos, &mut Effects) -> T,
    ) -> T {
        let mut core = self.lanes[lane].core();
        let before = core.fault().is_some();
        let done = fault::contain(|| {
            let now = self.clock.now();
            let result = event(&mut core, now, out);
            core.pump(now, out);
            result
        });
        let result = match done {
            Ok(result) => result,
            Err(panic) => {
                // Here, so that nobody finds the books in doubt.
                core.fail(InferError::EngineFailed(panic.clone()), out);
                drop(core);
                self.deliver(out);
                self.break_down(panic.clone());
                resume_unwind(Box::new(panic));
            }
        };
        let wakeup = core.next_wakeup();
        if wakeup < core.armed {
            core.armed = wakeup;
            self.lanes[lane].signal.call();
        }
        let failed = if before { None } else { core.fault().cloned() };
        drop(core);
        match failed {
            Some(InferError::DeviceFault) => self.leave(lane),
            Some(fault) => self.close_down(fault),
            None => {}
        }
        result
    }

    /// Carries out the effects of a step.
    pub(crate) fn deliver(&self, out: &mut Effects) {
        let helper = &mut out.helper;
        let (mut tasks, mut deliveries) = (SmallVec::<[_; 1]>::new(), SmallVec::<[_; 1]>::new());
        for task in out.tasks.drain(..) {
            match task {
                TaskEffect::Submit(submit) if submit.may_wait() => tasks.push(Copy::Gather(submit)),
                task => self.contained(|| self.hand_over(task, helper)),
            }
        }
        for delivery in out.deliveries.drain(..) {
            match delivery {
                Delivery::Batch(batch) if batch.may_wait() => deliveries.push(Copy::Part(batch)),
                delivery => self.contained(|| self.tell(delivery)),
            }
        }
        for copy in tasks.into_iter().chain(deliveries) {
            self.copy(copy, helper);
        }
    }

    /// Has a copy made, here if it is a short one, and what comes after it.
    fn copy(&self, copy: Copy, helper: &mut Helper) {
        let is_long = copy.bytes() >= LONG_COPY_BYTES_MIN;
        let here = if is_long { self.copies.push(copy).err() } else { Some(copy) };
        if let Some(copy) = here {
            self.contained(|| self.follow(copy.make(), helper));
        }
    }

    /// What comes after a copy.
    fn follow(&self, copied: Copied, helper: &mut Helper) {
        match copied {
            Copied::Gathered(submit) => self.hand_in(submit, helper),
            Copied::Failed(Submit { id, model, .. }, error) => {
                self.enter(model.lane, |core, now, out| core.end_batch(now, id, error, out));
            }
            Copied::Parted(batch) => batch.deliver(),
        }
    }

    /// Takes up the copies that were made for a lane; true if there was one.
    pub(crate) fn take_up(&self, lane: usize) -> bool {
        let copied = self.lanes[lane].copied();
        let any = !copied.is_empty();
        for copied in copied {
            self.contained(|| self.follow(copied, &mut Helper::No));
        }
        any
    }

    /// A panic is a bug of ours.
    fn contained(&self, effect: impl FnOnce()) {
        if let Err(panic) = fault::contain(effect) {
            self.break_down(panic);
        }
    }

    fn hand_over(&self, task: TaskEffect, helper: &mut Helper) {
        match task {
            TaskEffect::Submit(submit) => self.hand_in(submit, helper),
            TaskEffect::Stop(stop) => self.stop(stop),
        }
    }

    fn tell(&self, delivery: Delivery) {
        match delivery {
            Delivery::End(end) => end.deliver(),
            Delivery::Batch(batch) => batch.deliver(),
            Delivery::Hop(hop) => self.hop(hop),
            Delivery::Move(moved) => self.move_on(moved),
        }
    }

    /// A request becomes a task of its device.
    fn hand_in(&self, mut submit: Submit, helper: &mut Helper) {
        if let Err(error) = submit.gather() {
            return self.follow(Copied::Failed(submit, error), helper);
        }
        let Submit { id, turn, model, plan, key, io, kit, .. } = submit;
        let lane = &self.lanes[model.lane];
        let offer = match helper {
            Helper::Offers(patience) => Some(*patience),
            Helper::No | Helper::Has(..) => None,
        };
        let submitted = match (offer, kit) {
            (Some(patience), kit) => {
                let route = kit.map(|kit| kit as Arc<dyn Route>);
                lane.device.submit_helped(plan.loaded, key, io, id.0, route, patience)
            }
            (None, None) => lane.device.submit(plan.loaded, key, io, id.0).map(|task| (task, None)),
            (None, Some(kit)) => {
                lane.device.submit_along(plan.loaded, key, io, id.0, kit).map(|task| (task, None))
            }
        };
        match submitted {
            Ok((task, seat)) => {
                if let Some(seat) = seat {
                    *helper = Helper::Has(model.lane, seat, key);
                }
                let stop = lane.core().submitted(id, turn, task);
                if stop {
                    self.stop(Stop { id, model, task: Some(task) });
                }
            }
            Err(rejected) => {
                let closed = rejected.why == RejectReason::Closed && lane.device.fault().is_some();
                self.enter(model.lane, |core, now, out| core.rejected(now, id, rejected, closed, out));
            }
        }
    }

    /// The end of a request was asked for: of its task, if it has one, and of whoever waits for it.
    fn stop(&self, stop: Stop) {
        let Stop { id, model, task } = stop;
        let lane = &self.lanes[model.lane];
        if let Some(task) = task {
            lane.device.cancel(task);
        }
        // Some tasks have ended by now, this one perhaps in time.
        while let Some(completion) = lane.device.try_complete() {
            self.enter(model.lane, |core, now, out| core.complete(now, completion, out));
        }
        self.enter(model.lane, |core, now, out| core.answer_stopped(now, id, out));
    }

    /// A bug of ours showed: everybody who waits is answered with that, and nothing is served any more.
    pub(crate) fn break_down(&self, panic: String) {
        let fault = InferError::EngineFailed(panic);
        let mut out = Effects::default();
        for lane in &self.lanes {
            // Nothing of a core is asked for more than its books, and of those not that they agree.
            let answered = fault::contain(|| lane.core().fail(fault.clone(), &mut out));
            self.deliver(&mut out);
            if let Err(panic) = answered {
                fault::log(|| tracing::error!(%panic, "not every request could be told of the failure"));
            }
        }
        self.close_down(fault);
        for lane in &self.lanes {
            let _ = fault::contain(|| lane.device.poison("the engine has failed"));
        }
    }

    /// The rest of a fault of a device, once its core has answered its requests.
    fn leave(&self, index: usize) {
        let lane = &self.lanes[index];
        if !lane.take_out() {
            return;
        }
        let why = lane.device.fault().unwrap_or_default();
        fault::log(|| tracing::error!(device = &*lane.name, why, "the device has failed"));
        let mut router = self.router();
        router.take_out(index);
        let last = router.all_out();
        drop(router);
        if last {
            return self.close_down(InferError::DeviceFault);
        }
        for (job, ()) in self.cold.take(|job| (job.model.lane == index).then_some(())) {
            self.refuse_cold(job, InferError::DeviceFault);
        }
        lane.rouse();
    }

    /// The rest of a failure, once the core has answered its requests.
    fn close_down(&self, fault: InferError) {
        if self.verdict.fault().is_some() {
            return;
        }
        fault::log(|| tracing::error!("{fault}"));
        self.close_cold(fault.clone());
        self.verdict.fail(fault);
        self.lanes.iter().for_each(Lane::rouse);
        (0..self.lanes.len()).for_each(|lane| _ = self.take_up(lane));
    }

    /// Why nothing is served any more.
    pub(crate) fn fault(&self) -> Option<InferError> {
        if let Some(fault) = self.verdict.fault() {
            return Some(fault);
        }
        // Nobody may have got to the verdict yet.
        let faults: Vec<_> = self.lanes.iter().filter_map(|lane| lane.core().fault().cloned()).collect();
        let all = faults.len() == self.lanes.len();
        faults.into_iter().find(|fault| all || *fault != InferError::DeviceFault)
    }

    /// What placing a model must know about the devices.
    pub(crate) fn sites(&self) -> Vec<Site> {
        let site = |lane: &Lane| Site {
            name: lane.name.clone(),
            cus: lane.device.capabilities().cus,
            out: lane.is_out(),
        };
        self.lanes.iter().map(site).collect()
    }

    fn router(&self) -> MutexGuard<'_, Router> {
        self.router.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The replica that a request goes to, on the device where it is expected to end first: of those that
    /// have its plan, if any has. `None` if all their devices are out of service. Allocates nothing.
    pub(crate) fn route(&self, group: &Group, key: &SegmentKey, urgency: &Urgency) -> Option<Arc<Model>> {
        if let [only] = &group.replicas[..] {
            // Its core says what is the matter, if something is.
            return Some(only.clone());
        }
        if group.passages.is_some() {
            let whole = group.replicas.iter().all(|part| !self.lanes[part.lane].is_out());
            return whole.then(|| group.replicas[0].clone());
        }
        let now = self.clock.now();
        let (mut offers, mut len) = ([Offer::default(); DEVICES_MAX], 0);
        for planned in [true, false] {
            for model in &group.replicas {
                let plan = model.find(key).map(|plan| plan.index);
                let offered = plan.is_some() || !planned;
                if let Some(forecast) = offered.then(|| self.forecast(now, model, plan, urgency)).flatten() {
                    offers[len] = Offer { device: model.lane, forecast };
                    len += 1;
                }
            }
            if len > 0 {
                break;
            }
        }
        let picked = self.router().pick(&offers[..len])?;
        group.replicas.iter().find(|model| model.lane == picked).cloned()
    }

    fn forecast(&self, now: Nanos, model: &Model, plan: Option<u16>, urgency: &Urgency) -> Option<Forecast> {
        self.lanes[model.lane].forecast(now, model, plan, urgency)
    }

    /// The same model on another device that is in service.
    pub(crate) fn elsewhere(&self, model: &Model) -> Option<Arc<Model>> {
        let siblings = if model.is_replicated() { model.siblings() } else { Vec::new() };
        siblings.into_iter().find(|other| !self.lanes[other.lane].is_out())
    }

    /// Counts a request that never came to be queued.
    pub(crate) fn count_refusal(&self, model: &Model, urgency: &Urgency, error: &InferError) {
        let now = self.clock.now();
        self.lanes[model.lane].core().count_refusal(now, model.id(), &model.key, urgency, error);
    }

    /// Queues a job; on refusal what it had comes back. One that a device which has failed refuses, and that
    /// may go to another, is not counted.
    #[allow(clippy::result_large_err, reason = "the buffers come back without an allocation")]
    pub(crate) fn submit(&self, job: Job) -> Result<(), Refused> {
        let mut out = Effects::default();
        let submitted = self.queue(job, &mut out);
        self.deliver(&mut out);
        submitted
    }

    /// The same, for a thread that has so much time for the device: it may have to help it then, until it
    /// drops what it gets.
    #[allow(clippy::result_large_err, reason = "the buffers come back without an allocation")]
    pub(crate) fn submit_helped(&self, job: Job, patience: Nanos) -> Result<Option<Helping<'_>>, Refused> {
        let helper = if job.urgency.class.is_real_time() { Helper::Offers(patience) } else { Helper::No };
        let mut out = Effects { helper, ..Effects::default() };
        let submitted = self.queue(job, &mut out);
        self.deliver(&mut out);
        let helping = Helping::of(&self.lanes, out.helper);
        submitted.map(|()| helping)
    }

    #[allow(clippy::result_large_err, reason = "the buffers come back without an allocation")]
    fn queue(&self, mut job: Job, out: &mut Effects) -> Result<(), Refused> {
        let lane = job.model.lane;
        if let (Some(passages), None) = (&job.model.passages, &job.passage) {
            let class = job.urgency.class;
            job.passage = passages.begin(class);
            if job.passage.is_none() {
                let error = InferError::QueueFull { key: (*job.model.key).clone(), len: passages.len(class) };
                self.count_refusal(&job.model, &job.urgency, &error);
                return Err(Refused { error, buffers: job.buffers, promise: job.promise });
            }
        }
        // Before the core is asked: who cancels asks the core of the lane that stands there.
        job.promise.ticket().set_lane(lane);
        self.enter_with(lane, out, |core, now, out| match core.fault() {
            Some(InferError::DeviceFault) if job.model.is_replicated() => {
                let Job { buffers, promise, .. } = job;
                Err(Refused { error: InferError::DeviceFault, buffers, promise })
            }
            _ => core.submit(now, job, out),
        })
    }

    /// Asks for the end of a ticket's request.
    pub(crate) fn cancel(&self, ticket: &Ticket) {
        ticket.set_cancelled();
        let known = self.enter(ticket.lane(), |core, now, out| core.cancel(now, ticket, out));
        if !known {
            self.end_cold(|job| job.is_of(ticket).then_some(InferError::Cancelled));
        }
    }

    /// Queues a job whose plan is still to be made; a refusal is counted.
    pub(crate) fn submit_cold(&self, job: ColdJob) -> Result<(), InferError> {
        let expiry = job.expiry();
        // What has passed is refused at once, as by the scheduler.
        let pushed = match job.expired(job.queued) {
            Some(why) => Err((why, job)),
            None => self.cold.push(job),
        };
        if let Err((error, job)) = pushed {
            if let ColdWork::Begin { promise, urgency, .. } = job.work {
                self.count_refusal(&job.model, &urgency, &error);
                promise.release();
            }
            return Err(error);
        }
        self.wake_by(expiry);
        Ok(())
    }

    /// A model's plan for this key; compiles and loads it if there is none. Slow: not for the hot path.
    pub(crate) fn plan(&self, model: &Model, key: &SegmentKey) -> Result<Arc<PlanEntry>, PlanFailure> {
        let lane = &self.lanes[model.lane];
        let split = if model.is_split() { model.group() } else { None };
        let plan = || match &split {
            Some(group) => split::plan(&self.lanes, group, key),
            None => model.plan(&lane.device, key, |id, index| lane.core().reset_plan(id, &model.key, index)),
        };
        match plan() {
            // Models share a device's places: each gives up what it has not used for longest.
            Err(PlanFailure::Device(DeviceError::TooManyPlans { .. })) => {
                let on_it = self.registry.live();
                let on_it = on_it.iter().flat_map(|group| &group.replicas);
                let shares = |other: &&Arc<Model>| split.is_some() || other.lane == model.lane;
                on_it.filter(shares).for_each(|other| other.make_room());
                plan()
            }
            made => made,
        }
    }

    /// Lets go of plans that nobody used for long, and of memory that devices do not need any more.
    pub(crate) fn tidy_up(&self) {
        let now = self.clock.now();
        for group in self.registry.live() {
            group.replicas.iter().for_each(|model| model.evict_idle(now, self.plan_idle));
        }
        for lane in &self.lanes {
            if let Err(panic) = contain(|| lane.device.trim()) {
                log(|| tracing::error!(%panic, "a device panicked that was to give memory back"));
            }
        }
    }

    /// Looks again how a split model's plan is cut.
    pub(crate) fn look_again(&self, model: &Model, key: &SegmentKey) {
        if let Some(group) = model.group().filter(|group| group.is_ready()) {
            split::look_again(&self.lanes, &group, key);
        }
    }

    /// A part of a split model has ended: the request goes on with the next one, on its device.
    fn move_on(&self, moved: Move) {
        if let Some(onward) = &moved.plan.onward {
            let Some(model) = moved.model.part(onward.part) else {
                let gone = InferError::Unloading((*moved.model.key).clone());
                return self.end_move(moved, gone);
            };
            if onward.divided.as_ref().is_some_and(|divided| divided.count()) {
                self.see_to(&moved.model, moved.plan.key());
            }
            let entry = onward.entry.clone();
            return self.arrive(moved, model, entry);
        }
        // The segment has ended: another one begins with its first part.
        let next = moved.plan.next.as_ref().expect("a request moves where something follows");
        let key = next.key(&moved.buffers.io.inputs, &moved.buffers.io.outputs);
        let (key, model) = match (key, moved.model.part(0)) {
            (Ok(key), Some(model)) => (key, model),
            (Ok(_), None) => {
                let gone = InferError::Unloading((*moved.model.key).clone());
                return self.end_move(moved, gone);
            }
            (Err(error), _) => return self.end_move(moved, InferError::NoPlan(error.to_string())),
        };
        let found = match model.find(&key) {
            None if self.is_stepped() => Some(self.plan(&model, &key)),
            found => found.map(Ok),
        };
        match found {
            Some(Ok(plan)) => self.arrive(moved, model, plan),
            Some(Err(failure)) => {
                let error = failure.into_error(&model.key);
                self.end_move(moved, error);
            }
            None => {
                let work = ColdWork::Move(Box::new(moved));
                let job = ColdJob { model, key, work, queued: self.clock.now(), visit: None };
                let expiry = job.expiry();
                match self.cold.push(job) {
                    Ok(()) => self.wake_by(expiry),
                    Err((error, job)) => self.refuse_cold(job, error),
                }
            }
        }
    }

    /// A request of a split model begins with `plan`, on the device of `model`.
    pub(crate) fn arrive(&self, mut moved: Move, model: Arc<Model>, plan: Arc<PlanEntry>) {
        let mut buffers = match plan.buffers() {
            Ok(buffers) => buffers,
            Err(error) => return self.end_move(moved, error),
        };
        let io = &mut moved.buffers.io;
        let device = &self.lanes[model.lane].device;
        let copy = |from: &Buffer, to: &mut Buffer| device.copy(from, to);
        match (&moved.plan.onward, &moved.plan.next) {
            (Some(onward), _) => {
                onward.transfer.carry(&mut io.inputs, &mut io.outputs, &mut buffers.io.inputs, copy);
            }
            (None, Some(next)) => {
                next.carry(&mut io.inputs, &mut io.outputs, &mut buffers.io.inputs, copy);
            }
            (None, None) => {}
        }
        let Move { plan: done, buffers: used, promise, urgency, queued, before, passage, .. } = moved;
        drop((used, done));
        let waited_since = Some(queued);
        let (kit, joins) = (None, None);
        let job = Job { model, plan, promise, buffers, kit, urgency, waited_since, before, passage, joins };
        if let Err(Refused { error, promise, .. }) = self.submit(job) {
            promise.refuse(error);
        }
    }

    fn end_move(&self, moved: Move, error: InferError) {
        self.count_refusal(&moved.model, &moved.urgency, &error);
        let Move { plan, buffers, promise, passage, .. } = moved;
        drop((plan, buffers, passage));
        promise.refuse(error);
    }

    /// Has the cut of a split model's plan looked at, when there is time.
    fn see_to(&self, model: &Arc<Model>, key: &SegmentKey) {
        if self.is_stepped() {
            return self.look_again(model, key);
        }
        let (model, key, work) = (model.clone(), key.clone(), ColdWork::LookAgain);
        // If nothing is taken any more, nobody asks for it either.
        let _ = self.cold.push(ColdJob { model, key, work, queued: self.clock.now(), visit: None });
    }

    /// A segment has ended: the request goes on with the next one, at once if its plan is there.
    fn hop(&self, hop: Hop) {
        let next = hop.plan.next.as_ref().expect("a request hops where something follows");
        let key = match next.key(&hop.buffers.io.inputs, &hop.buffers.io.outputs) {
            Ok(key) => key,
            Err(error) => return self.end_hop(hop, InferError::NoPlan(error.to_string())),
        };
        let model = hop.model.clone();
        let found = match model.find(&key) {
            None if self.is_stepped() => Some(self.plan(&model, &key)),
            found => found.map(Ok),
        };
        match found {
            Some(Ok(plan)) => self.go_on(hop, plan),
            Some(Err(failure)) => self.end_hop(hop, failure.into_error(&model.key)),
            None => {
                let (work, queued) = (ColdWork::Hop(hop), self.clock.now());
                let job = ColdJob { model, key, work, queued, visit: None };
                if let Err((error, job)) = self.cold.push(job) {
                    self.refuse_cold(job, error);
                }
            }
        }
    }

    /// A request between two segments goes on with `plan`.
    pub(crate) fn go_on(&self, mut hop: Hop, plan: Arc<PlanEntry>) {
        let mut buffers = match plan.buffers() {
            Ok(buffers) => buffers,
            Err(error) => return self.end_hop(hop, error),
        };
        let next = hop.plan.next.as_ref().expect("a request hops where something follows");
        if let Some(kit) = &hop.kit {
            kit.learn(&hop.buffers.io, &plan);
        }
        let io = &mut hop.buffers.io;
        let device = &self.lanes[hop.model.lane].device;
        let copy = |from: &Buffer, to: &mut Buffer| device.copy(from, to);
        next.carry(&mut io.inputs, &mut io.outputs, &mut buffers.io.inputs, copy);
        self.enter(hop.model.lane, |core, now, out| core.resume(now, hop.id, plan, buffers, out));
    }

    fn end_hop(&self, hop: Hop, error: InferError) {
        self.enter(hop.model.lane, |core, now, out| core.end_hop(now, hop.id, error, out));
    }

    /// Takes no more jobs without a plan, and ends those that wait.
    pub(crate) fn stop_cold(&self, why: InferError) {
        self.cold.stop(why.clone());
        self.end_cold(|job| job.begins().then(|| why.clone()));
    }

    /// Takes nothing without a plan any more, ends what waits, and lets the compile thread end.
    pub(crate) fn close_cold(&self, why: InferError) {
        self.cold.stop(why.clone());
        self.cold.close();
        self.end_cold(|_| Some(why.clone()));
    }

    /// Ends the jobs without a plan for which `why` has an error; says whether there were any.
    pub(crate) fn end_cold(&self, why: impl Fn(&ColdJob) -> Option<InferError>) -> bool {
        let ended = self.cold.take(why);
        let any = !ended.is_empty();
        ended.into_iter().for_each(|(job, error)| self.refuse_cold(job, error));
        any
    }

    /// Ends a job that was taken off the queue. One that has not begun on a device that has failed goes to
    /// another device of its model, if there is one.
    pub(crate) fn refuse_cold(&self, job: ColdJob, error: InferError) {
        let (job, error) = match error {
            InferError::DeviceFault if job.begins() => match self.send_elsewhere(job) {
                Ok(()) => return,
                Err(refused) => *refused,
            },
            error => (job, error),
        };
        match job.work {
            ColdWork::Begin { promise, urgency, .. } => {
                self.count_refusal(&job.model, &urgency, &error);
                promise.refuse(error);
            }
            ColdWork::Hop(hop) => self.end_hop(hop, error),
            ColdWork::Move(moved) => self.end_move(*moved, error),
            ColdWork::LookAgain => {}
        }
    }

    /// Queues a job again, for another device.
    fn send_elsewhere(&self, job: ColdJob) -> Result<(), Box<(ColdJob, InferError)>> {
        let other = if self.is_stepped() { None } else { self.elsewhere(&job.model) };
        let Some(other) = other else { return Err(Box::new((job, InferError::DeviceFault))) };
        let expiry = job.expiry();
        let pushed = self.cold.push_again(ColdJob { model: other, ..job });
        pushed.map_err(|(error, job)| Box::new((job, error)))?;
        self.wake_by(expiry);
        Ok(())
    }

    /// The thread that keeps the timers of those without a plan is to look again at `at`, if not before.
    fn wake_by(&self, at: Nanos) {
        let lane = &self.lanes[COLD_TIMERS];
        let mut core = lane.core();
        if at < core.armed {
            core.armed = at;
            lane.signal.call();
        }
    }

    /// Takes every completion of a lane that is ready and fires the timers that are due; true if something
    /// completed.
    pub(crate) fn advance(&self, index: usize, out: &mut Effects) -> bool {
        let lane = &self.lanes[index];
        let mut progress = self.take_up(index);
        while let Some(completion) = lane.device.try_complete() {
            progress = true;
            self.enter_with(index, out, |core, now, out| core.complete(now, completion, out));
            self.deliver(out);
        }
        let fault = lane.device.fault();
        self.enter_with(index, out, |core, _, out| {
            if fault.is_some() {
                core.fail(InferError::DeviceFault, out);
            }
        });
        progress |= !out.is_empty();
        self.deliver(out);
        let now = self.clock.now();
        let expires = index == COLD_TIMERS && self.cold.next_expiry() <= now;
        progress |= expires && self.end_cold(|job| job.expired(now));
        if progress {
            lane.tell();
        }
        progress
    }

    /// Effects of one step of virtual time, kept so that stepping allocates no more than a completion thread
    /// does.
    pub(crate) fn step_out(&self) -> MutexGuard<'_, Effects> {
        self.step_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether time is virtual: there are no threads, who waits makes it pass.
    pub(crate) fn is_stepped(&self) -> bool {
        self.virtual_clock.is_some()
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}
