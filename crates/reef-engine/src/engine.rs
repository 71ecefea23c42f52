//! The engine's public face: models in, requests in, answers out.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use reef_base::{AlignedBytes, Clock, ModelKey, MonotonicClock, Nanos, limits};
use reef_device::{Capabilities, Device, Scheme};
use reef_plan::Plan;
use reef_program::SegmentKey;
use reef_sched::SchedOptions;

use crate::check;
use crate::cold::{ColdJob, ColdWork};
use crate::compile;
use crate::core::{Core, Job, Refused};
use crate::error::{EngineError, InferError, LoadError};
use crate::fault;
use crate::future::InferFuture;
use crate::load;
use crate::model::{ModelInfo, ModelSettings, ModelSpec, Queued};
use crate::plans::PlanEntry;
use crate::pool::Model;
use crate::request::{InferRequest, InferResponse, Urgency};
use crate::session::{Session, SessionOptions};
use crate::shared::Shared;
use crate::source::{OnePlan, PlanSource, open_onnx};
use crate::stats::{ClassStats, EngineStats, ModelStats};
use crate::threads::Threads;
use crate::ticket::{Promise, Ticket};
use crate::trace::{TraceError, TraceOptions, TraceSummary};

/// How an engine uses its device.
#[derive(Clone)]
pub struct EngineOptions {
    /// Where the time is read; must be the device's clock.
    pub clock: Arc<dyn Clock>,
    /// Tasks on the board at once, at most the device's slots.
    pub board_slots: usize,
    /// Best-effort tasks on the board at once: one that runs and the next, so that no compute unit idles
    /// between them. Under `sequential` it is one.
    pub best_effort_slots: usize,
    /// How long the completion thread looks for completions before it sleeps. Zero unless a core is left to
    /// it.
    pub spin: Nanos,
    /// Requests that may wait for the compilation of plans for new shapes.
    pub compile_queue_len: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            clock: Arc::new(MonotonicClock),
            board_slots: limits::BOARD_SLOTS_DEFAULT,
            best_effort_slots: 2,
            spin: Nanos::ZERO,
            compile_queue_len: 64,
        }
    }
}

/// Serves models on one device. Cheap to clone; the last clone's drop shuts it down at once.
#[derive(Clone)]
pub struct Engine {
    handle: Arc<Handle>,
}

/// What the clones of an engine share; dropped with the last of them.
struct Handle {
    shared: Arc<Shared>,
    /// Taken by the shutdown.
    threads: Mutex<Option<Threads>>,
}

impl Engine {
    /// An engine without models on `device`. On a device with virtual time no thread is started: waiting for
    /// an answer, or [`Engine::step`], makes time pass.
    pub fn new(device: Arc<dyn Device>, options: EngineOptions) -> Result<Engine, EngineError> {
        let board = sched_options(device.capabilities(), &options)?;
        let shared = Arc::new(Shared::new(device, options.clock, board, options.compile_queue_len));
        let threads = match shared.stepped {
            true => Threads::default(),
            false => {
                shared.device.set_waker(shared.signal.clone());
                Threads::start(&shared, options.spin)?
            }
        };
        Ok(Engine { handle: Arc::new(Handle { shared, threads: Mutex::new(Some(threads)) }) })
    }

    /// Reads, compiles and loads a model on the caller's thread, while other models run.
    pub fn load(&self, spec: ModelSpec) -> Result<ModelInfo, LoadError> {
        let ModelSpec { key, source, settings } = spec;
        let opened = key.clone();
        load::load(self.shared(), key, settings, || open_onnx(&opened, &source))
    }

    /// Serves one plan as a model: for tests, benchmarks and plans made elsewhere.
    pub fn load_plan(
        &self,
        key: ModelKey,
        settings: ModelSettings,
        plan: Arc<Plan>,
    ) -> Result<ModelInfo, LoadError> {
        self.load_source(key, settings, Arc::new(OnePlan::new(plan)))
    }

    /// Serves whatever plans `source` makes.
    pub fn load_source(
        &self,
        key: ModelKey,
        settings: ModelSettings,
        source: Arc<dyn PlanSource>,
    ) -> Result<ModelInfo, LoadError> {
        load::load(self.shared(), key, settings, || Ok(source))
    }

    /// Takes a model out of service: no new requests, queued ones as `queued` says, running ones finish.
    /// Returns when its last request has ended; its memory is free then, except for what open sessions still
    /// hold.
    pub fn unload(&self, name: &str, version: Option<&str>, queued: Queued) -> Result<(), LoadError> {
        load::unload(self.shared(), name, version, queued)
    }

    /// Runs a request and blocks until it ends.
    pub fn infer(&self, request: &InferRequest<'_>) -> Result<InferResponse, InferError> {
        self.submit(request)?.wait()
    }

    /// Checks a request, copies its inputs and queues it. Never blocks on the device. A request whose shapes
    /// have no plan yet waits in the future for its compilation, which happens on a thread of the engine.
    pub fn submit(&self, request: &InferRequest<'_>) -> Result<InferFuture, InferError> {
        let shared = self.shared();
        let arrival = request.arrival.unwrap_or_else(|| shared.clock.now());
        if shared.is_closed() {
            return Err(InferError::ShuttingDown);
        }
        let model = shared.registry.find(request.model, request.version)?;
        let checked = check::request(&model, request)?;
        let urgency = checked.terms.urgency(arrival);
        if let Some(fault) = shared.verdict.fault() {
            shared.core().count_refusal(model.id(), &model.key, urgency.class, &fault);
            return Err(fault);
        }
        let ticket = Arc::new(Ticket::new());
        let key = model.beginning(checked.shapes, &checked.data);
        match model.find(&key) {
            Some(plan) => self.submit_planned(&model, plan, &checked.data, urgency, &ticket)?,
            None => self.submit_cold(&model, key, &checked.data, urgency, &ticket)?,
        }
        let (shared, id, model) = (shared.clone(), request.id.clone(), model.key.clone());
        Ok(InferFuture { shared, ticket, model, id, wanted: checked.wanted, ended: false })
    }

    /// Buffers and settings for repeated inference without allocation. Compiles the plan if there is none
    /// yet.
    pub fn session(&self, model: &str, options: &SessionOptions<'_>) -> Result<Session, InferError> {
        Session::open(self.shared(), model, options)
    }

    /// Every model, by name, newest version first.
    pub fn models(&self) -> Vec<ModelInfo> {
        self.shared().registry.infos()
    }

    /// One model; without a version the newest that is ready.
    pub fn model(&self, name: &str, version: Option<&str>) -> Option<ModelInfo> {
        self.shared().registry.info(name, version)
    }

    /// Whether the engine takes requests: not shutting down, and without a [`Engine::fault`].
    pub fn is_ready(&self) -> bool {
        !self.shared().is_closed() && self.fault().is_none()
    }

    /// Why the engine has failed, if it has: its device was poisoned, or a bug of the engine showed. Every
    /// request that it had was answered with this error, and so is every later one.
    pub fn fault(&self) -> Option<InferError> {
        self.shared().fault()
    }

    /// Blocks until the engine has failed or was shut down: its fault, if it has one.
    pub fn wait_for_fault(&self) -> Option<InferError> {
        self.shared().verdict.wait()
    }

    /// The time on the engine's clock.
    pub fn now(&self) -> Nanos {
        self.shared().clock.now()
    }

    /// What the device can do.
    pub fn capabilities(&self) -> &Capabilities {
        self.shared().device.capabilities()
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.shared().device
    }

    /// The scheme in force.
    pub fn scheme(&self) -> Scheme {
        self.shared().core().scheme()
    }

    /// Changes the scheme for every later decision. Under `rt-only` best-effort requests are refused; those
    /// that are queued already wait until the scheme changes again, or end when their model is unloaded.
    pub fn set_scheme(&self, scheme: Scheme) {
        self.shared().enter(|core, now, out| core.change_scheme(now, scheme, out));
    }

    /// A snapshot of all statistics, models by name, newest version first.
    pub fn stats(&self) -> EngineStats {
        let shared = self.shared();
        let models = shared.registry.live();
        let core = shared.core();
        let known = models.iter().filter_map(|model| Some((model, core.stats(model.id(), &model.key)?)));
        let counted: Vec<_> = known.collect();
        let (at, scheme) = (shared.clock.now(), core.scheme());
        drop(core);
        let model_stats = |(model, [mut real_time, mut best_effort]): (&Arc<Model>, [ClassStats; 2])| {
            let [urgent, other] = shared.cold.waiting(model);
            real_time.queued += urgent;
            best_effort.queued += other;
            let (key, plans_compiled) = ((*model.key).clone(), model.plans.compiled());
            ModelStats { key, real_time, best_effort, plans_compiled }
        };
        let models = counted.into_iter().map(model_stats).collect();
        EngineStats { at, scheme, models, device: shared.device.counters() }
    }

    /// Starts recording a timeline.
    pub fn start_trace(&self, options: TraceOptions) -> Result<(), TraceError> {
        self.shared().tracing.start(options)
    }

    /// Stops recording and writes the file. [`Engine::shutdown`] does so too.
    pub fn stop_trace(&self) -> Result<TraceSummary, TraceError> {
        self.shared().tracing.stop()
    }

    /// On a device with virtual time: lets time pass to the next event. False when nothing is left to do.
    /// Real devices need no steps.
    pub fn step(&self) -> bool {
        self.shared().stepped && self.shared().step()
    }

    /// Takes no more requests, finishes real-time work, gives best-effort work `drain`, then cancels what is
    /// left. Returns when every request is answered and nothing runs any more; code that cannot be stopped (a
    /// host kernel, a plan that is being made) gets a second to end, see [`Engine::is_idle`]. Later calls
    /// return at once.
    pub fn shutdown(&self, drain: Duration) {
        self.handle.shutdown(drain);
    }

    /// Whether no request waits or runs and no plan is being made. If it is not so after a shutdown, the
    /// device's last handle waits where it is dropped.
    pub fn is_idle(&self) -> bool {
        self.shared().cold.is_idle() && self.shared().core().sched.is_idle()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// A request whose plan is there: its inputs go into buffers of the device, then the scheduler has it.
    fn submit_planned(
        &self,
        model: &Arc<Model>,
        plan: Arc<PlanEntry>,
        inputs: &[&[u8]],
        urgency: Urgency,
        ticket: &Arc<Ticket>,
    ) -> Result<(), InferError> {
        let mut buffers = plan.buffers().ok_or(InferError::DeviceFault)?;
        for (buffer, input) in buffers.io.inputs.iter_mut().zip(inputs) {
            buffer.as_mut_slice().copy_from_slice(input);
        }
        let kit = model.kit(&plan).ok_or(InferError::DeviceFault)?;
        let (model, promise, waited_since) = (model.clone(), Promise::new(ticket), None);
        let job = Job { model, plan, promise, buffers, kit, urgency, waited_since };
        self.shared().submit(job).map_err(|Refused { error, promise, .. }| {
            promise.release();
            error
        })
    }

    /// A request without a plan: compiled for on the engine's thread, or here if it has none.
    fn submit_cold(
        &self,
        model: &Arc<Model>,
        key: SegmentKey,
        inputs: &[&[u8]],
        urgency: Urgency,
        ticket: &Arc<Ticket>,
    ) -> Result<(), InferError> {
        let shared = self.shared();
        let inputs = inputs.iter().map(|&input| AlignedBytes::copy_from(input)).collect();
        let work = ColdWork::Begin { inputs, promise: Promise::new(ticket), urgency };
        let job = ColdJob { model: model.clone(), key, work, queued: shared.clock.now() };
        if shared.stepped {
            compile::run_here(shared, job);
            return Ok(());
        }
        shared.submit_cold(job)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("device", &self.capabilities().name).finish_non_exhaustive()
    }
}

/// How long a shutdown waits for code that cannot be stopped, once everybody is answered.
const LEAVING_MAX: Nanos = Nanos::from_millis(1000);

impl Handle {
    fn shutdown(&self, drain: Duration) {
        let shared = &self.shared;
        // Held to the end: who comes second returns when everything has ended. A waker on the completion
        // thread cannot wait for that, because the first one waits for this thread.
        let mut threads = match self.threads.try_lock() {
            Ok(threads) => threads,
            Err(TryLockError::Poisoned(threads)) => threads.into_inner(),
            Err(TryLockError::WouldBlock) if shared.signal.is_attached_here() => return,
            Err(TryLockError::WouldBlock) => self.threads.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let Some(threads) = threads.take() else { return };
        shared.close();
        let begin = shared.clock.now();
        shared.enter(|core, _, _| core.close());
        shared.stop_cold(InferError::ShuttingDown);
        shared.wait_until(Nanos::MAX, |core| core.sched.is_real_time_idle());
        let left = Nanos::from(drain) - (shared.clock.now() - begin);
        shared.wait_until(left, |core| core.sched.is_idle());
        shared.enter(|core, _, _| core.abandon_best_effort());
        shared.wait_until(Nanos::MAX, Core::owes_nobody);
        if !shared.wait_until(LEAVING_MAX, |core| core.sched.is_idle()) {
            fault::log(|| tracing::warn!("work that cannot be stopped still runs on the device"));
        }
        threads.stop(shared, Duration::from(LEAVING_MAX));
        match shared.tracing.stop() {
            Ok(_) | Err(TraceError::State(_)) => {}
            Err(error) => fault::log(|| tracing::error!("{error}")),
        }
        shared.verdict.shut_down();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}

/// How the scheduler may use the device's board.
fn sched_options(device: &Capabilities, options: &EngineOptions) -> Result<SchedOptions, EngineError> {
    let fail = |reason: &str| Err(EngineError::Options(reason.into()));
    let board_slots = options.board_slots.min(device.slots);
    if board_slots < 2 {
        return fail("the board needs at least two slots");
    }
    if options.best_effort_slots == 0 {
        return fail("best-effort tasks need at least one slot");
    }
    let shared_slots = device.slots.saturating_sub(device.slots_real_time);
    let best_effort_slots = options.best_effort_slots.min(shared_slots).min(board_slots - 1);
    Ok(SchedOptions { board_slots, best_effort_slots })
}
