//! What every handle and thread of an engine shares, and the one way into the core. A request is here in one
//! of two places, the core or the queue of those without a plan: what ends requests asks both. Knows neither
//! how plans are made nor how models are loaded.
//!
//! A panic in the core leaves its books in doubt: whoever is in it then has the engine fail
//! ([`Shared::break_down`]) before anybody else gets in.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use reef_base::{Clock, Nanos};
use reef_device::{Device, DeviceError, Wake};
use reef_program::SegmentKey;
use reef_sched::SchedOptions;

use crate::cold::{ColdJob, ColdQueue, ColdWork};
use crate::core::{Core, Job, Refused};
use crate::error::InferError;
use crate::fault::{self, Verdict};
use crate::hop::{Delivery, Hop};
use crate::plans::{PlanEntry, PlanFailure};
use crate::pool::{Model, Registry};
use crate::ticket::{Finished, Ticket};
use crate::trace::{Notes, Tracing};

pub(crate) struct Shared {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) clock: Arc<dyn Clock>,
    core: Mutex<Core>,
    /// Told after every step while somebody waits for requests to end.
    idle: Condvar,
    pub(crate) signal: Arc<Signal>,
    pub(crate) registry: Registry,
    pub(crate) cold: ColdQueue,
    pub(crate) tracing: Tracing,
    /// Ends of one step, kept so that stepping allocates no more than the completion thread does.
    step_out: Mutex<Vec<Delivery>>,
    /// Time is virtual: there are no threads, who waits makes it pass.
    pub(crate) stepped: bool,
    closed: AtomicBool,
    pub(crate) verdict: Verdict,
}

impl Shared {
    pub(crate) fn new(
        device: Arc<dyn Device>,
        clock: Arc<dyn Clock>,
        board: SchedOptions,
        cold_queue_len: usize,
    ) -> Self {
        let stepped = device.capabilities().virtual_time;
        let notes = Arc::new(Notes::default());
        let tracing = Tracing::new(device.clone(), notes.clone());
        let core = Core::new(device.clone(), board, notes);
        Shared {
            device,
            clock,
            core: Mutex::new(core),
            idle: Condvar::new(),
            signal: Arc::new(Signal::default()),
            registry: Registry::default(),
            cold: ColdQueue::new(cold_queue_len),
            tracing,
            step_out: Mutex::default(),
            stepped,
            closed: AtomicBool::new(false),
            verdict: Verdict::default(),
        }
    }

    /// Does `event` in the core, then what follows from it, then delivers the ends.
    pub(crate) fn enter<T>(&self, event: impl FnOnce(&mut Core, Nanos, &mut Vec<Delivery>) -> T) -> T {
        // Does not allocate until something ends here.
        let mut out = Vec::new();
        let result = self.enter_with(&mut out, event);
        self.deliver(&mut out);
        result
    }

    /// As [`Shared::enter`], with the ends left in `out`. A bug that panics in the core is one of the caller,
    /// too, once everybody has been answered.
    pub(crate) fn enter_with<T>(
        &self,
        out: &mut Vec<Delivery>,
        event: impl FnOnce(&mut Core, Nanos, &mut Vec<Delivery>) -> T,
    ) -> T {
        let mut core = self.core();
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
            self.signal.wake();
        }
        let failed = if before { None } else { core.fault().cloned() };
        drop(core);
        if let Some(fault) = failed {
            self.close_down(fault);
        }
        result
    }

    /// Delivers the ends of a step.
    pub(crate) fn deliver(&self, out: &mut Vec<Delivery>) {
        for delivery in out.drain(..) {
            let done = fault::contain(|| match delivery {
                Delivery::End(end) => end.deliver(),
                Delivery::Hop(hop) => self.hop(hop),
            });
            if let Err(panic) = done {
                self.break_down(panic);
            }
        }
    }

    /// A bug of ours showed: everybody who waits is answered with that, and nothing is served any more.
    pub(crate) fn break_down(&self, panic: String) {
        let fault = InferError::EngineFailed(panic);
        let mut out = Vec::new();
        // Nothing of the core is asked for more than its books, and of those not that they agree.
        let answered = fault::contain(|| self.core().fail(fault.clone(), &mut out));
        self.deliver(&mut out);
        if let Err(panic) = answered {
            fault::log(|| tracing::error!(%panic, "not every request could be told of the failure"));
        }
        self.close_down(fault);
        let _ = fault::contain(|| self.device.poison("the engine has failed"));
    }

    /// The rest of a failure, once the core has answered its requests.
    fn close_down(&self, fault: InferError) {
        if self.verdict.fault().is_some() {
            return;
        }
        fault::log(|| tracing::error!("{fault}"));
        self.close_cold(fault.clone());
        self.verdict.fail(fault);
        self.idle.notify_all();
        self.signal.wake();
    }

    /// Why nothing is served any more.
    pub(crate) fn fault(&self) -> Option<InferError> {
        self.core().fault().cloned()
    }

    /// The core, without the rest of [`Shared::enter`]: for looking only.
    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job; on refusal what it had comes back.
    #[allow(clippy::result_large_err, reason = "the buffers come back without an allocation")]
    pub(crate) fn submit(&self, job: Job) -> Result<(), Refused> {
        self.enter(|core, now, _| core.submit(now, job))
    }

    /// Asks for the end of a ticket's request.
    pub(crate) fn cancel(&self, ticket: &Ticket) {
        let known = self.enter(|core, now, out| core.cancel(now, ticket, out));
        if !known {
            self.end_cold(|job| job.is_of(ticket).then_some(InferError::Cancelled));
        }
    }

    /// Queues a job whose plan is still to be made; a refusal is counted.
    pub(crate) fn submit_cold(&self, job: ColdJob) -> Result<(), InferError> {
        let expiry = job.expiry();
        if let Err((error, job)) = self.cold.push(job) {
            if let ColdWork::Begin { promise, urgency, .. } = job.work {
                let model = job.model;
                self.core().count_refusal(model.id(), &model.key, urgency.class, &error);
                promise.release();
            }
            return Err(error);
        }
        self.wake_by(expiry);
        Ok(())
    }

    /// A model's plan for this key; compiles and loads it if there is none. Slow: not for the hot path.
    pub(crate) fn plan(&self, model: &Model, key: &SegmentKey) -> Result<Arc<PlanEntry>, PlanFailure> {
        let plan =
            || model.plan(&self.device, key, |id, index| self.core().reset_plan(id, &model.key, index));
        match plan() {
            // Models share the device's places: each gives up what it has not used for longest.
            Err(PlanFailure::Device(DeviceError::TooManyPlans { .. })) => {
                self.registry.live().iter().for_each(|model| model.make_room());
                plan()
            }
            made => made,
        }
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
            None if self.stepped => Some(self.plan(&model, &key)),
            found => found.map(Ok),
        };
        match found {
            Some(Ok(plan)) => self.go_on(hop, plan),
            Some(Err(failure)) => self.end_hop(hop, failure.into_error(&model.key)),
            None => {
                let job = ColdJob { model, key, work: ColdWork::Hop(hop), queued: self.clock.now() };
                if let Err((error, job)) = self.cold.push(job) {
                    self.refuse_cold(job, error);
                }
            }
        }
    }

    /// A request between two segments goes on with `plan`.
    pub(crate) fn go_on(&self, mut hop: Hop, plan: Arc<PlanEntry>) {
        let Some(mut buffers) = plan.buffers() else { return self.end_hop(hop, InferError::DeviceFault) };
        let next = hop.plan.next.as_ref().expect("a request hops where something follows");
        if let Some(kit) = &hop.kit {
            kit.learn(&hop.buffers.io, &plan);
        }
        let io = &mut hop.buffers.io;
        next.carry(&mut io.inputs, &mut io.outputs, &mut buffers.io.inputs);
        self.enter(|core, now, out| core.resume(now, hop.id, plan, buffers, out));
    }

    fn end_hop(&self, hop: Hop, error: InferError) {
        self.enter(|core, now, out| core.end_hop(now, hop.id, error, out));
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

    /// Ends a job that was taken off the queue.
    pub(crate) fn refuse_cold(&self, job: ColdJob, error: InferError) {
        match job.work {
            ColdWork::Begin { promise, urgency, .. } => {
                self.core().count_refusal(job.model.id(), &job.model.key, urgency.class, &error);
                promise.refuse(error);
            }
            ColdWork::Hop(hop) => self.end_hop(hop, error),
        }
    }

    /// The completion thread is to look again at `at`, if not before.
    fn wake_by(&self, at: Nanos) {
        let mut core = self.core();
        if at < core.armed {
            core.armed = at;
            self.signal.wake();
        }
    }

    /// Takes every completion that is ready and fires the timers that are due; true if something completed.
    pub(crate) fn advance(&self, out: &mut Vec<Delivery>) -> bool {
        let mut progress = false;
        while let Some(completion) = self.device.try_complete() {
            progress = true;
            self.enter_with(out, |core, now, out| core.complete(now, completion, out));
            self.deliver(out);
        }
        let fault = self.device.fault();
        self.enter_with(out, |core, _, out| {
            if fault.is_some() {
                core.fail(InferError::DeviceFault, out);
            }
        });
        progress |= !out.is_empty();
        self.deliver(out);
        let now = self.clock.now();
        progress |= self.cold.next_expiry() <= now && self.end_cold(|job| job.expired(now));
        if progress {
            self.idle.notify_all();
        }
        progress
    }

    /// Lets virtual time pass to the next event; false when nothing is left to do. Does what the threads do
    /// elsewhere, so a panic here is a bug of ours.
    pub(crate) fn step(&self) -> bool {
        fault::contain(|| self.step_once()).unwrap_or_else(|panic| {
            self.break_down(panic);
            false
        })
    }

    fn step_once(&self) -> bool {
        let mut out = std::mem::take(&mut *self.step_out());
        // Events of the past first: they may start something.
        let progress = self.advance(&mut out);
        let progress = self.device.advance() || progress;
        let progress = self.advance(&mut out) || progress;
        *self.step_out() = out;
        self.tracing.collect();
        progress
    }

    /// Blocks until the ticket's request has ended.
    pub(crate) fn wait(&self, ticket: &Ticket) -> Finished {
        if !self.stepped {
            return ticket.take();
        }
        loop {
            if let Some(finished) = ticket.try_take() {
                return finished;
            }
            if !self.step() {
                // Time stands still, so the end can only be asked for.
                self.cancel(ticket);
                let stuck = || Finished { buffers: None, result: Err(InferError::Cancelled) };
                return ticket.try_take().unwrap_or_else(stuck);
            }
        }
    }

    /// Blocks until `done` says so, at most for `patience` on the engine's clock; says whether it is. An
    /// engine that has failed is done with everything.
    pub(crate) fn wait_until(&self, patience: Nanos, done: impl Fn(&Core) -> bool) -> bool {
        let done = |core: &Core| core.fault().is_some() || done(core);
        let end = self.clock.now() + patience;
        loop {
            let core = self.core();
            if done(&core) {
                return true;
            }
            let left = end.since(self.clock.now());
            if left == Nanos::ZERO {
                return false;
            }
            // The bound is for ends that nobody tells of, such as a request dropped while it was queued.
            let pause = Duration::from(left).min(Duration::from_millis(20));
            if self.stepped {
                drop(core);
                if !self.step() {
                    return done(&self.core());
                }
            } else if self.signal.is_attached_here() {
                drop(core);
                self.advance_here(pause);
            } else {
                drop(self.idle.wait_timeout(core, pause).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// A foreign waker waits on the completion thread: nobody else fetches what it waits for.
    fn advance_here(&self, pause: Duration) {
        self.signal.take();
        if !self.advance(&mut Vec::new()) && !self.signal.is_pending() {
            std::thread::park_timeout(pause);
        }
    }

    fn step_out(&self) -> MutexGuard<'_, Vec<Delivery>> {
        self.step_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// Wakes the completion thread. Compute units call it: one atomic exchange, and a system call only if the
/// thread was not woken already.
#[derive(Default)]
pub(crate) struct Signal {
    pending: AtomicBool,
    stop: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Signal {
    /// From now on the calling thread is the one that is woken.
    pub(crate) fn attach(&self) {
        let _ = self.thread.set(std::thread::current());
    }

    /// Whether the calling thread is the one that is woken.
    pub(crate) fn is_attached_here(&self) -> bool {
        self.thread.get().is_some_and(|thread| thread.id() == std::thread::current().id())
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Whether it was woken since the last call.
    pub(crate) fn take(&self) -> bool {
        self.pending.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }
}

impl Wake for Signal {
    fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}
