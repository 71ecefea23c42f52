//! The engine's public face: devices and models in, requests in, answers out.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use reef_base::{AlignedBytes, Class, Clock, ModelKey, MonotonicClock, Nanos, limits};
use reef_device::{Capabilities, Device, Scheme};
use reef_plan::Plan;
use reef_program::SegmentKey;
use reef_sched::{Joins, SchedOptions};

use crate::check;
use crate::cold::{ColdJob, ColdWork};
use crate::compile;
use crate::core::{Core, Job, Refused};
use crate::error::{EngineError, InferError, LoadError};
use crate::family;
use crate::fault;
use crate::future::InferFuture;
use crate::help::Helping;
use crate::lane::Lane;
use crate::load;
use crate::model::{ModelInfo, ModelSettings, ModelSpec, Queued};
use crate::plans::PlanEntry;
use crate::pool::{Group, Model, Visit};
use crate::prepared::Prepared;
use crate::request::{InferRequest, InferResponse, Urgency};
use crate::session::{Session, SessionOptions};
use crate::shared::Shared;
use crate::snapshot;
use crate::source::{OnePlan, PlanSource, open_onnx};
use crate::stats::{EngineStats, ModelDistributions};
use crate::texts::{self, Lexicon};
use crate::threads::Threads;
use crate::ticket::{Promise, Ticket};
use crate::trace::{Timeline, TraceError, TraceOptions, TraceSummary};

/// How an engine uses its devices.
#[derive(Clone)]
pub struct EngineOptions {
    /// Where the time is read; must be the devices' clock. Devices with virtual time bring their own
    /// ([`Device::virtual_clock`]), which is used instead.
    pub clock: Arc<dyn Clock>,
    /// Tasks on the board of a device at once, at most the device's slots.
    pub board_slots: usize,
    /// Best-effort tasks on a board at once: one that runs and the next, so that no compute unit idles
    /// between them. Under `sequential` it is one.
    pub best_effort_slots: usize,
    /// How long a completion thread looks for completions before it sleeps. Zero unless a core is left to
    /// it.
    pub spin: Nanos,
    /// Requests that may wait for the compilation of plans for new shapes.
    pub compile_queue_len: usize,
    /// How long a plan is kept that no settings name and that no request used, beside the one of its model
    /// that was used last. Where time is virtual all are kept.
    pub plan_idle: Nanos,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            clock: Arc::new(MonotonicClock),
            board_slots: limits::BOARD_SLOTS_DEFAULT,
            best_effort_slots: 2,
            spin: Nanos::ZERO,
            compile_queue_len: 64,
            plan_idle: limits::PLAN_IDLE,
        }
    }
}

/// A device for an engine, with the name that settings, statistics and the timeline call it by.
#[derive(Clone, Debug)]
pub struct PoolDevice {
    /// Its name; no other device of the engine has it.
    pub name: String,
    /// The device.
    pub device: Arc<dyn Device>,
}

/// What the engine says about one of its devices.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Its name in the engine.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// Its compute units.
    pub cus: usize,
    /// Why it is out of service, if it is.
    pub fault: Option<String>,
}

/// Serves models on one device or several. Cheap to clone; the last clone's drop shuts it down at once.
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
    /// An engine without models on `device`, which is called by its kind: `cpu:0`. On a device with virtual
    /// time no thread is started: waiting for an answer, [`Engine::run_until`] or [`Engine::step`] makes time
    /// pass.
    pub fn new(device: Arc<dyn Device>, options: EngineOptions) -> Result<Engine, EngineError> {
        let kind = device.capabilities().target.device;
        Engine::over(vec![PoolDevice { name: format!("{kind}:0"), device }], options)
    }

    /// An engine without models over a pool of devices, which have time in common: one virtual clock, or none
    /// of them has one. Each has a scheduler of its own; [`ModelSettings::devices`] and
    /// [`ModelSettings::placement`] say which of them a model is on.
    pub fn over(devices: Vec<PoolDevice>, options: EngineOptions) -> Result<Engine, EngineError> {
        check_devices(&devices)?;
        let lane = |PoolDevice { name, device }: PoolDevice| -> Result<Lane, EngineError> {
            let board = sched_options(device.capabilities(), &options)?;
            Ok(Lane::new(name.into(), device, board))
        };
        let lanes = devices.into_iter().map(lane).collect::<Result<Vec<_>, _>>()?;
        let shared =
            Arc::new(Shared::new(lanes, options.clock, options.compile_queue_len, options.plan_idle));
        let threads = match shared.is_stepped() {
            true => Threads::default(),
            false => {
                shared.lanes.iter().for_each(|lane| lane.device.set_waker(lane.signal.clone()));
                Threads::start(&shared, options.spin)?
            }
        };
        Ok(Engine { handle: Arc::new(Handle { shared, threads: Mutex::new(Some(threads)) }) })
    }

    /// Reads, compiles and loads a model on the caller's thread, while other models run.
    pub fn load(&self, spec: ModelSpec) -> Result<ModelInfo, LoadError> {
        let ModelSpec { key, source, settings } = spec;
        let opened = key.clone();
        self.load_by(key, settings, || open_onnx(&opened, &source))
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
        self.load_by(key, settings, || Ok(source))
    }

    fn load_by(
        &self,
        key: ModelKey,
        settings: ModelSettings,
        open: impl FnOnce() -> Result<Arc<dyn PlanSource>, LoadError>,
    ) -> Result<ModelInfo, LoadError> {
        Ok(Prepared::new(self.shared(), key, settings, false, open)?.publish()?.info)
    }

    /// Reads, compiles and loads a model on the caller's thread that nobody finds until it is published. If
    /// there is one of that name and version, it goes on meanwhile, and the new one is to take its place: see
    /// [`Prepared`]. Both need memory at the same time.
    pub fn prepare(&self, spec: ModelSpec) -> Result<Prepared, LoadError> {
        let ModelSpec { key, source, settings } = spec;
        let opened = key.clone();
        Prepared::new(self.shared(), key, settings, true, || open_onnx(&opened, &source))
    }

    /// As [`Engine::prepare`], of whatever plans `source` makes.
    pub fn prepare_source(
        &self,
        key: ModelKey,
        settings: ModelSettings,
        source: Arc<dyn PlanSource>,
    ) -> Result<Prepared, LoadError> {
        Prepared::new(self.shared(), key, settings, true, || Ok(source))
    }

    /// Loads a model, in the place of the one of that name and version if there is one: every request is
    /// answered by the one or the other. Returns when the last request of the old one has ended. If the new
    /// one cannot be loaded, the old one goes on.
    pub fn replace(&self, spec: ModelSpec) -> Result<ModelInfo, LoadError> {
        let published = self.prepare(spec)?.publish()?;
        drop(published.retired);
        Ok(published.info)
    }

    /// Takes a model out of service: no new requests, queued ones as `queued` says, running ones finish.
    /// Returns when its last request has ended; its memory is free then, except for what open sessions still
    /// hold.
    pub fn unload(&self, name: &str, version: Option<&str>, queued: Queued) -> Result<(), LoadError> {
        load::unload(self.shared(), name, version, queued)
    }

    /// Runs a request and blocks until it ends.
    pub fn infer(&self, request: &InferRequest<'_>) -> Result<InferResponse, InferError> {
        let (future, helping) = self.begin(request, Some(Nanos::MAX))?;
        future.wait_helping(helping)
    }

    /// Checks a request, copies its inputs and queues it. Never blocks on the device. A request whose shapes
    /// have no plan yet waits in the future for its compilation, which happens on a thread of the engine.
    pub fn submit(&self, request: &InferRequest<'_>) -> Result<InferFuture, InferError> {
        Ok(self.begin(request, None)?.0)
    }

    /// As [`Engine::submit`], by a thread that has `patience` for the device: it does the work of a real-time
    /// request that takes no longer, if it runs on the core of a compute unit that sleeps. The request has
    /// ended then, without a change of threads.
    pub fn submit_with_patience(
        &self,
        request: &InferRequest<'_>,
        patience: Nanos,
    ) -> Result<InferFuture, InferError> {
        let (future, helping) = self.begin(request, Some(patience))?;
        if let Some(helping) = helping {
            self.shared().assist(&future.ticket, helping);
        }
        Ok(future)
    }

    /// [`Engine::submit`]; if the caller has patience, it may have to help the device next.
    fn begin(
        &self,
        request: &InferRequest<'_>,
        patience: Option<Nanos>,
    ) -> Result<(InferFuture, Option<Helping<'_>>), InferError> {
        let shared = self.shared();
        let arrival = request.arrival.unwrap_or_else(|| shared.clock.now());
        if shared.is_closed() {
            return Err(InferError::ShuttingDown);
        }
        let group = shared.registry.enter(request.model, request.version)?;
        let model = group.model();
        let mut lexicon = Lexicon::of(model.texts(), &model.inputs, &model.outputs);
        let given = request.texts.iter().map(|tensor| (tensor.name, tensor.data));
        let numbers = texts::numbers(lexicon.as_mut(), given)?;
        let checked = check::request(group.model(), request, &numbers)?;
        let urgency = checked.terms.urgency(arrival);
        if let Some(fault) = shared.verdict.fault() {
            shared.count_refusal(group.model(), &urgency, &fault);
            return Err(fault);
        }
        let ticket = Arc::new(Ticket::new());
        // Without families, which most models have none of, this is nothing.
        let families = group.model().families();
        let joins = family::find(families, &checked.shapes);
        let key = match joins {
            Some(joins) => families[usize::from(joins.family)].key_for(joins.rows as usize).clone(),
            None => group.model().beginning(checked.shapes, &checked.data),
        };
        let beginning =
            Beginning { key: &key, joins, inputs: &checked.data, urgency, ticket: &ticket, patience };
        let helping = self.submit_routed(&group, &beginning)?;
        let (shared, id, model) = (shared.clone(), request.id.clone(), group.key.clone());
        let (class, wanted) = (urgency.class, checked.wanted);
        let lexicon = lexicon.filter(Lexicon::speaks);
        Ok((InferFuture { shared, ticket, model, class, id, wanted, lexicon, ended: false }, helping))
    }

    /// Buffers and settings for repeated inference without allocation. Compiles the plan if there is none
    /// yet.
    pub fn session(&self, model: &str, options: &SessionOptions<'_>) -> Result<Session, InferError> {
        Session::open(self.shared(), model, options)
    }

    /// Every model, by name, newest version first.
    pub fn models(&self) -> Vec<ModelInfo> {
        self.shared().registry.infos(&self.shared().names)
    }

    /// One model; without a version the newest that is ready.
    pub fn model(&self, name: &str, version: Option<&str>) -> Option<ModelInfo> {
        self.shared().registry.info(name, version, &self.shared().names)
    }

    /// Whether the engine takes requests: not shutting down, and without a [`Engine::fault`].
    pub fn is_ready(&self) -> bool {
        !self.shared().is_closed() && self.fault().is_none()
    }

    /// Why the engine has failed, if it has: all its devices were poisoned, or a bug of the engine showed.
    /// Every request that it had was answered with this error, and so is every later one. A device that was
    /// poisoned beside others takes its own requests with it and no others: see [`Engine::devices`].
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

    /// What the device can do; of several, the first.
    pub fn capabilities(&self) -> &Capabilities {
        self.device().capabilities()
    }

    /// The device; of several, the first.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.shared().lanes[0].device
    }

    /// The device of this name.
    pub fn device_named(&self, name: &str) -> Option<&Arc<dyn Device>> {
        self.shared().lanes.iter().find(|lane| *lane.name == *name).map(|lane| &lane.device)
    }

    /// Every device, in the order in which they were given.
    pub fn devices(&self) -> Vec<DeviceInfo> {
        let info = |lane: &Lane| DeviceInfo {
            name: lane.name.to_string(),
            description: lane.device.capabilities().name.clone(),
            cus: lane.device.capabilities().cus,
            fault: lane.device.fault(),
        };
        self.shared().lanes.iter().map(info).collect()
    }

    /// The scheme in force, on all devices.
    pub fn scheme(&self) -> Scheme {
        self.shared().lanes[0].core().scheme()
    }

    /// Changes the scheme for every later decision. Under `rt-only` best-effort requests are refused; those
    /// that are queued already wait until the scheme changes again, or end when their model is unloaded.
    pub fn set_scheme(&self, scheme: Scheme) {
        self.shared().change_scheme(scheme);
    }

    /// A snapshot of all statistics, models by name, newest version first.
    pub fn stats(&self) -> EngineStats {
        snapshot::take(self.shared())
    }

    /// How the times of every model's requests are spread, models as in [`Engine::stats`].
    pub fn distributions(&self) -> Vec<ModelDistributions> {
        snapshot::distributions(self.shared())
    }

    /// Which model each compute unit ran in the last `window`, at most
    /// [`WINDOW_MAX`](crate::trace::WINDOW_MAX). The first call starts recording, which ends by itself when
    /// nobody has asked for [`WATCHED_FOR`](crate::trace::WATCHED_FOR).
    pub fn timeline(&self, window: Nanos) -> Result<Timeline, TraceError> {
        if self.shared().is_closed() {
            return Err(TraceError::State("the engine is shutting down"));
        }
        self.shared().tracing.watch(window)
    }

    /// Starts recording a timeline.
    pub fn start_trace(&self, options: TraceOptions) -> Result<(), TraceError> {
        self.shared().tracing.start(options)
    }

    /// Stops recording and writes the file. [`Engine::shutdown`] does so too.
    pub fn stop_trace(&self) -> Result<TraceSummary, TraceError> {
        self.shared().tracing.stop()
    }

    /// On devices with virtual time: when something happens next if nobody asks for anything, be it on a
    /// device or a deadline or timeout that passes; at once, if it is due. `None` when nothing is left to do,
    /// and always on real devices. What was done to a device behind the engine's back, such as poisoning it,
    /// is not among it: the engine hears of that when time passes.
    pub fn next_event(&self) -> Option<Nanos> {
        self.shared().next_event()
    }

    /// On devices with virtual time: does all that happens up to `until`, each thing at its time, and leaves
    /// the clock there; with [`Nanos::MAX`] at the last event (of which there is none while requests wait for
    /// a device that was quiesced: it is asked again and again). Time does not go back: if `until` has
    /// passed, only what is due is done. Does nothing on real devices, whose time passes by itself.
    ///
    /// What happens at one time happens in this order, until nothing is due:
    /// 1. device by device: blocks end, others start;
    /// 2. device by device: requests whose tasks have ended are answered or go on, timeouts and deadlines
    ///    pass (so a task that ends at its deadline is in time, and a request whose timeout ends when it
    ///    could start is not started), then queued requests start.
    ///
    /// What a caller does at that time comes after it. One thread at a time is to let time pass, and to ask:
    /// with several what happens when is up to the system's scheduler.
    pub fn run_until(&self, until: Nanos) {
        self.shared().run_until(until);
    }

    /// On devices with virtual time: lets time pass to the next event, as [`Engine::run_until`] does. False
    /// when nothing is left to do. Real devices need no steps.
    pub fn step(&self) -> bool {
        self.shared().elapse(Nanos::MAX)
    }

    /// Takes no more requests, finishes real-time work, gives best-effort work `drain`, then cancels what is
    /// left. Requests that wait for a plan are answered: those that have not begun at once, the others,
    /// real-time ones too, when `drain` has passed. Returns when every request is answered and nothing runs
    /// any more; code that cannot be stopped (a host kernel, a plan that is being made) gets a second to end,
    /// see [`Engine::is_idle`]. Later calls return at once.
    pub fn shutdown(&self, drain: Duration) {
        self.handle.shutdown(drain);
    }

    /// Whether no request waits or runs and no plan is being made. If it is not so after a shutdown, the
    /// device's last handle waits where it is dropped.
    pub fn is_idle(&self) -> bool {
        self.shared().cold.is_idle() && self.shared().lanes.iter().all(|lane| lane.core().is_idle())
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// A request goes to a device that serves its model, and to another one if that fails before it has it.
    fn submit_routed(
        &self,
        group: &Visit,
        beginning: &Beginning<'_>,
    ) -> Result<Option<Helping<'_>>, InferError> {
        let Beginning { key, joins, urgency, .. } = beginning;
        for _ in 0..=group.replicas.len() {
            let Some(model) = self.shared().route(group, key, urgency) else { break };
            let submitted = match model.find(key) {
                Some(plan) => self.submit_planned(&model, plan, beginning),
                // What batches run stays as long as the model.
                None if joins.is_some() => Err(InferError::Unloading((*model.key).clone())),
                None => self.submit_cold(group, &model, beginning).map(|()| None),
            };
            match submitted {
                Err(InferError::DeviceFault) if model.is_replicated() => {}
                submitted => return submitted,
            }
        }
        self.shared().count_refusal(group.model(), urgency, &InferError::DeviceFault);
        Err(InferError::DeviceFault)
    }

    /// A request whose plan is there: its inputs go into buffers of the device, then the scheduler has it.
    fn submit_planned(
        &self,
        model: &Arc<Model>,
        plan: Arc<PlanEntry>,
        beginning: &Beginning<'_>,
    ) -> Result<Option<Helping<'_>>, InferError> {
        let &Beginning { joins, inputs, urgency, ticket, patience, .. } = beginning;
        let mut buffers = match joins {
            None => plan.buffers()?,
            Some(Joins { family, rows }) => {
                model.families()[usize::from(family)].buffers(rows as usize, &plan)?
            }
        };
        for (buffer, input) in buffers.io.inputs.iter_mut().zip(inputs) {
            buffer.as_mut_slice().copy_from_slice(input);
        }
        let kit = model.kit(&plan).ok_or_else(|| plan.no_buffers())?;
        let (model, promise, waited_since) = (model.clone(), Promise::new(ticket), None);
        let (before, passage) = Default::default();
        let job = Job { model, plan, promise, buffers, kit, urgency, waited_since, before, passage, joins };
        // What is joined with others ends for others, too.
        let submitted = match patience.filter(|_| joins.is_none()) {
            Some(patience) => self.shared().submit_helped(job, patience),
            None => self.shared().submit(job).map(|()| None),
        };
        submitted.map_err(|Refused { error, promise, .. }| {
            promise.release();
            error
        })
    }

    /// A request without a plan: compiled for on the engine's thread, or here if it has none.
    fn submit_cold(
        &self,
        group: &Visit,
        model: &Arc<Model>,
        beginning: &Beginning<'_>,
    ) -> Result<(), InferError> {
        let &Beginning { key, inputs, urgency, ticket, .. } = beginning;
        let shared = self.shared();
        let inputs = inputs.iter().map(|&input| AlignedBytes::copy_from(input)).collect();
        let work = ColdWork::Begin { inputs, promise: Promise::new(ticket), urgency };
        let (visit, queued) = (Some(group.again()), shared.clock.now());
        let job = ColdJob { model: model.clone(), key: key.clone(), work, queued, visit };
        if shared.is_stepped() {
            compile::run_here(shared, job);
            return Ok(());
        }
        shared.submit_cold(job)
    }
}

/// A request that was checked, on its way to a device.
struct Beginning<'a> {
    key: &'a SegmentKey,
    joins: Option<Joins>,
    inputs: &'a [&'a [u8]],
    urgency: Urgency,
    ticket: &'a Arc<Ticket>,
    /// How much time the caller has for the device, if it has any.
    patience: Option<Nanos>,
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
        // Held to the end: who comes second returns when everything has ended. A waker on one of the engine's
        // threads cannot wait for that, because the first one waits for this thread.
        let mut threads = match self.threads.try_lock() {
            Ok(threads) => threads,
            Err(TryLockError::Poisoned(threads)) => threads.into_inner(),
            Err(TryLockError::WouldBlock) if shared.is_own_thread() => return,
            Err(TryLockError::WouldBlock) => self.threads.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let Some(threads) = threads.take() else { return };
        shared.close();
        let begin = shared.clock.now();
        let lanes = 0..shared.lanes.len();
        lanes.clone().for_each(|lane| shared.enter(lane, |core, _, _| core.close()));
        shared.stop_cold(InferError::ShuttingDown);
        let urgent = |group: &Group| group.is_passed_by(Some(Class::real_time(0)));
        let any = |group: &Group| group.is_passed_by(None);
        let left = || Nanos::from(drain).since(shared.clock.now() - begin);
        let real_time = |core: &Core| core.sched.is_real_time_idle();
        if !shared.wait_for_all(left(), real_time, urgent) {
            // Who waits for a plan may do so for minutes: that is over. What is on a device ends.
            shared.close_cold(InferError::ShuttingDown);
            shared.wait_for_all(Nanos::MAX, real_time, urgent);
        }
        shared.wait_for_all(left(), |core| core.sched.is_idle(), any);
        lanes.for_each(|lane| shared.enter(lane, |core, _, _| core.abandon_best_effort()));
        shared.close_cold(InferError::ShuttingDown);
        shared.wait_for_all(Nanos::MAX, Core::owes_nobody, any);
        if !shared.wait_for_all(LEAVING_MAX, |core| core.sched.is_idle(), any) {
            fault::log(|| tracing::warn!("work that cannot be stopped still runs on the device"));
        }
        threads.stop(shared, Duration::from(LEAVING_MAX));
        match shared.tracing.stop() {
            Ok(_) | Err(TraceError::State(_)) => {}
            Err(error) => fault::log(|| tracing::error!("{error}")),
        }
        shared.tracing.close();
        shared.verdict.shut_down();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}

/// Whether these devices make a pool.
fn check_devices(devices: &[PoolDevice]) -> Result<(), EngineError> {
    let fail = |reason: String| Err(EngineError::Options(reason));
    if !(1..=limits::DEVICES_MAX).contains(&devices.len()) {
        return fail(format!("{} devices, 1 to {} are possible", devices.len(), limits::DEVICES_MAX));
    }
    for (index, PoolDevice { name, device }) in devices.iter().enumerate() {
        if name.is_empty() || devices[..index].iter().any(|other| other.name == *name) {
            return fail(format!("device {index} needs a name that no other has, not '{name}'"));
        }
        let cus = device.capabilities().cus;
        if !(1..=limits::CUS_MAX).contains(&cus) {
            return fail(format!("{name}: {cus} compute units, 1 to {} are possible", limits::CUS_MAX));
        }
        let first = &devices[0];
        match (first.device.virtual_clock(), device.virtual_clock()) {
            (None, None) => {}
            (Some(one), Some(other)) if one.is(other) => {}
            (Some(_), Some(_)) => {
                return fail(format!("{} and {name}: their virtual time is not of one clock", first.name));
            }
            _ => return fail(format!("{} and {name}: one has virtual time, the other has not", first.name)),
        }
    }
    Ok(())
}

/// How a scheduler may use its device's board.
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
