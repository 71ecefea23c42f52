//! The CPU as a device: starting it, loading plans, submitting tasks. The steps of running are elsewhere.

use std::fmt;
use std::sync::mpsc;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use reef_base::limits::{BLOCK_CPU_NS_MAX, BOARD_SLOTS_MAX, CPU_CUS_MAX, POLL_PERIOD_CPU_NS};
use reef_base::{AlignedBytes, Domain, Nanos, TaskId, TaskKey};
use reef_device::{
    Admission, Budget, Capabilities, Completion, Device, DeviceCounters, DeviceError, Event, EventKind, Io,
    Kill, LoadedPlan, MemoryUse, OverBudget, RejectReason, Rejected, Route, Scheme, Seat as Token, Wake,
};
use reef_plan::{Cutter, DeviceKind, Isa, Plan, Precision, Target};

use crate::board::bits;
use crate::board::word::Reason;
use crate::companion::{Crew, GRACE};
use crate::cut::{self, CpuCutter};
use crate::events::Recorder;
use crate::executor::Executor;
use crate::gate::Gate;
use crate::kernels;
use crate::options::{CpuOptions, allowed_cores, granted_memory, quota_cores};
use crate::plans::{Loaded, PLANS_MAX};
use crate::seat::{BESIDE, Seat, watch};
use crate::slot::{Task, task_id};
use crate::sync::{JoinHandle, Mutex, MutexGuard, Ordering, fence, now, sleep};
use crate::thread::{Placement, spawn};
use crate::worker::Worker;

/// From `submit` until no less urgent block starts where it must not: a store seen by other cores, and a
/// block that was being started meanwhile and looks at the poll word before it runs.
const PROPAGATION: Nanos = Nanos(2_000);

/// Host kernels are stopped within microseconds, but for the grace; other kernels that must not be killed run
/// to the end of their block.
const NEVER_MAX: Nanos = Nanos(BLOCK_CPU_NS_MAX);
const _: () = assert!(GRACE.0 < NEVER_MAX.0);

/// Threads of this machine as a device.
pub struct CpuDevice {
    capabilities: Capabilities,
    pub(crate) executor: Arc<Executor>,
    pub(crate) threads: Vec<JoinHandle<()>>,
    /// Of the units, once they have threads.
    seats: Box<[Arc<Seat>]>,
    placements: Box<[Placement]>,
    warnings: Vec<String>,
    loading: Mutex<Offered>,
    budget: Arc<Budget>,
}

/// Bytes that slots and compute units have, or were offered.
#[derive(Debug, Default)]
struct Offered {
    /// By slot, once there is a plan.
    arena_bytes: Vec<usize>,
    /// By compute unit.
    scratch_bytes: Vec<usize>,
    /// All of them, in the books.
    admission: Option<Admission>,
    /// Plans that may have tasks.
    plans: Vec<Needs>,
}

/// What a plan needs of a slot and of a compute unit, bytes.
#[derive(Clone, Copy, Debug)]
struct Needs {
    plan: LoadedPlan,
    arena: usize,
    scratch: usize,
}

/// A buffer is made smaller if that frees so much of it: one part in this, and so many bytes.
const SHRINK_PART: usize = 4;
const SHRINK_BYTES_MIN: usize = 1 << 12;

impl CpuDevice {
    /// Starts the compute units' threads.
    pub fn start(options: CpuOptions) -> Result<CpuDevice, DeviceError> {
        let (mut device, producers) = CpuDevice::assemble(&options)?;
        let unit = |(cu, events)| Seat::new(Worker::new(device.executor.clone(), cu, events));
        let seats: Box<[Arc<Seat>]> = producers.into_iter().enumerate().map(unit).collect();
        (device.threads, device.warnings) = start_threads(&device.placements, &device.executor, &seats)?;
        device.seats = seats;
        Ok(device)
    }

    /// The best instruction set that this machine has.
    pub fn best_isa() -> Result<Isa, DeviceError> {
        kernels::detect().map_err(DeviceError::Start)
    }

    /// The device without its threads, and what they will record with.
    pub(crate) fn assemble(
        options: &CpuOptions,
    ) -> Result<(CpuDevice, Vec<rtrb::Producer<Event>>), DeviceError> {
        let cores = options.cores.clone().unwrap_or_else(allowed_cores);
        let by_default = || cores.len().min(quota_cores().unwrap_or(usize::MAX)).clamp(1, CPU_CUS_MAX);
        let cus = options.cus.unwrap_or_else(by_default);
        let best = kernels::detect().map_err(DeviceError::Start)?;
        let isa = options.isa.unwrap_or(best);
        if isa > best {
            return Err(DeviceError::Start(format!("{isa} is asked for, this machine has {best}")));
        }
        check_options(options, cus, &cores)?;
        let spin = if cus > cores.len() { Duration::ZERO } else { options.spin };
        let (recorder, producers) = Recorder::new(cus, options.events);
        let (slots, reserved) = (options.slots, options.slots_real_time);
        let placement = |cu: usize| {
            let core = options.pin.then(|| cores[cu % cores.len()]);
            Placement { core, nice: options.nice }
        };
        let placements: Box<[Placement]> = (0..cus).map(placement).collect();
        let spin = spin.into();
        let executor = Executor::new(slots, reserved, placements.clone(), spin, options.padding, recorder);
        let executor = Arc::new(executor);
        executor.set_scheme(options.scheme);
        let capabilities = Capabilities {
            name: format!("cpu, {cus} threads, {isa}{}", place_of(options, cus, &cores)),
            target: Target::cpu(isa, cus),
            cus,
            cores: placements.iter().filter_map(|placement| placement.core).collect(),
            kill: Kill::AtPollPoints,
            poll_period: Nanos(POLL_PERIOD_CPU_NS),
            never_max: NEVER_MAX,
            propagation: PROPAGATION,
            slots,
            slots_real_time: reserved,
        };
        let (threads, warnings, loading) = (Vec::new(), Vec::new(), Mutex::default());
        let limit = options.memory_bytes.or_else(|| granted_memory().map(|bytes| bytes / 2));
        let budget = options.budget.clone().unwrap_or_else(|| Budget::new(Domain::Host, limit));
        let seats = Box::default();
        let device =
            CpuDevice { capabilities, executor, threads, seats, placements, warnings, loading, budget };
        Ok((device, producers))
    }

    /// What did not work at the start but is not needed: pinning, the nice value.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn lock_loading(&self) -> MutexGuard<'_, Offered> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_target(&self, plan: &Plan) -> Result<(), DeviceError> {
        let (wanted, have) = (plan.target(), self.capabilities.target);
        let runs = wanted.device == DeviceKind::Cpu && wanted.isa <= have.isa;
        if runs && (wanted.window, wanted.precision) == (have.window, have.precision) {
            return Ok(());
        }
        let (plan, plan_target, device_target) = (plan.name().to_string(), wanted, have);
        Err(DeviceError::WrongTarget { plan, plan_target, device_target })
    }

    /// Takes a plan into the books and offers every slot and compute unit the bytes of arena and scratch that
    /// it needs; a request's own buffers must have a place beside them. All buffers are there before the
    /// first is offered, so nothing changes where one cannot be had.
    fn grow(&self, offered: &mut Offered, loaded: &mut Loaded) -> Result<(), DeviceError> {
        let plan = loaded.plan.clone();
        let (arena, scratch) = (plan.arena_bytes(), plan.scratch_bytes());
        let (slots, units) = (&self.executor.slots, &self.executor.scratch);
        offered.arena_bytes.resize(slots.len(), 0);
        offered.scratch_bytes.resize(units.len(), 0);
        let have = |slot: usize| offered.arena_bytes[slot];
        let more = |wanted: usize, have: &[usize]| {
            have.iter().map(|&have| wanted.saturating_sub(have) as u64).sum::<u64>()
        };
        let working = more(arena, &offered.arena_bytes) + more(scratch, &offered.scratch_bytes);
        let refused = |needed: u64, available: u64| DeviceError::OutOfMemory {
            plan: plan.name().to_string(),
            needed,
            available,
        };
        let admitted = self.budget.admit(loaded.packed(), working, Io::bytes_for(&plan));
        let over = |OverBudget { needed, available }| refused(needed, available);
        let mut admission = admitted.map_err(over)?;
        // The system may have less than it was counted on.
        let refused = || refused(working, self.budget.limit().unwrap_or(u64::MAX));
        // Of the slots for any task the first is taken first: the others' arenas take memory as they are
        // written to. No urgent task is to wait for that, so those that only real-time tasks take have theirs
        // at once.
        let urgent = slots.len() - self.capabilities.slots_real_time;
        let buffer = |wanted: usize, at_once: bool| match at_once {
            true => AlignedBytes::try_zeroed(wanted),
            false => AlignedBytes::try_untouched(wanted),
        };
        let small = (0..slots.len()).filter(|&slot| have(slot) < arena);
        let arenas = small.map(|slot| Some((slot, buffer(arena, slot == 0 || slot >= urgent)?)));
        let arenas = arenas.collect::<Option<Vec<_>>>().ok_or_else(refused)?;
        let small = (0..units.len()).filter(|&unit| offered.scratch_bytes[unit] < scratch);
        let scratches = small.map(|unit| Some((unit, buffer(scratch, true)?)));
        let scratches = scratches.collect::<Option<Vec<_>>>().ok_or_else(refused)?;
        for (slot, bytes) in arenas {
            slots[slot].arena.offer(bytes);
            offered.arena_bytes[slot] = arena;
        }
        for (unit, bytes) in scratches {
            units[unit].offer(bytes);
            offered.scratch_bytes[unit] = scratch;
        }
        match &mut offered.admission {
            Some(all) => all.take_working(&mut admission),
            None => {
                let nothing = self.budget.admit(&[], 0, 0).map_err(over)?;
                offered.admission.insert(nothing).take_working(&mut admission);
            }
        }
        loaded.admission = Some(admission);
        Ok(())
    }

    /// Gives the system back what arenas and scratch have beyond what any plan needs that may still have
    /// tasks.
    fn shrink(&self, offered: &mut Offered) {
        let executor = &*self.executor;
        offered.plans.retain(|needs| !executor.plans.is_gone(needs.plan));
        self.shrink_arenas(offered);
        self.shrink_scratch(offered);
    }

    /// A slot that has a task keeps its arena until the next time; those that are free are taken one after
    /// the other, each for a moment.
    #[allow(unsafe_code)]
    fn shrink_arenas(&self, offered: &mut Offered) {
        let executor = &*self.executor;
        let needed = offered.plans.iter().map(|needs| needs.arena).max().unwrap_or(0);
        let urgent = executor.slots.len() - self.capabilities.slots_real_time;
        for (slot, have) in offered.arena_bytes.iter_mut().enumerate() {
            let free = freed(*have, needed);
            if free == 0 || !executor.board.take_this_slot(slot) {
                continue;
            }
            let bytes = match slot == 0 || slot >= urgent {
                true => AlignedBytes::try_zeroed(needed),
                false => AlignedBytes::try_untouched(needed),
            };
            if let Some(bytes) = bytes {
                // SAFETY: the slot was taken by this caller alone. No task can come that needs more: plans
                // that need more are gone, and the next one is loaded, which makes offers, after this.
                unsafe { executor.slots[slot].arena.replace(bytes) };
                *have = needed;
                if let Some(all) = &mut offered.admission {
                    all.give_back_working(free as u64);
                }
            }
            executor.board.free_slot(slot);
        }
    }

    /// A unit that works keeps its scratch until the next time; the seats of those that are parked are taken
    /// one after the other, each for a moment.
    #[allow(unsafe_code)]
    fn shrink_scratch(&self, offered: &mut Offered) {
        let executor = &*self.executor;
        let needed = offered.plans.iter().map(|needs| needs.scratch).max().unwrap_or(0);
        for (cu, (have, seat)) in offered.scratch_bytes.iter_mut().zip(&self.seats).enumerate() {
            let free = freed(*have, needed);
            if free == 0 {
                continue;
            }
            let Some(bytes) = AlignedBytes::try_zeroed(needed) else { continue };
            if !executor.board.take_parked_one(cu) {
                continue;
            }
            // SAFETY: who has the seat is the unit. No block can come that needs more, as for arenas.
            let replace = || unsafe { executor.scratch[cu].replace(bytes) };
            if seat.borrow(executor, cu, replace) {
                *have = needed;
                if let Some(all) = &mut offered.admission {
                    all.give_back_working(free as u64);
                }
            }
        }
    }

    /// Its only system call is the wake of parked compute units, but for the first task of a rank that has
    /// host kernels: threads start for it.
    fn accept(
        &self,
        plan: LoadedPlan,
        key: TaskKey,
        io: Io,
        token: u64,
        along: Along,
    ) -> Result<(TaskId, Option<Token>), Rejected> {
        let Along { route, patience } = along;
        let submitted = now();
        let real_time = key.class().is_real_time();
        if self.executor.gate() != Gate::Open {
            return Err(Rejected { io, why: RejectReason::Closed });
        }
        if self.executor.scheme() == Scheme::RtOnly && !real_time {
            return Err(Rejected { io, why: RejectReason::SchemeRefuses });
        }
        let Some(loaded) = self.executor.plans.acquire(plan) else {
            return Err(Rejected { io, why: RejectReason::UnknownPlan });
        };
        let hosted = route.as_ref().is_some_and(|route| route.has_host_kernels())
            || !loaded.plan.host_kernels().is_empty();
        if hosted {
            // Without a thread, the task fails where it needs one.
            let _ = Crew::muster_for(&self.executor, key.rank());
        }
        let slot = if io.fits(&loaded.plan) && io.is_visible() {
            self.executor.board.take_slot(real_time).ok_or(RejectReason::BoardFull)
        } else {
            Err(RejectReason::WrongBuffers)
        };
        match slot {
            Ok(slot) => {
                let short =
                    patience.is_some_and(|patience| loaded.is_within(patience)) && real_time && !hosted;
                let spins = loaded.is_within(self.executor.spin);
                let guest = if short { self.reserve(spins) } else { None };
                let request = Request { plan, loaded, key, io, token, submitted, route };
                Ok((self.publish(slot, request), guest))
            }
            Err(why) => {
                self.executor.plans.release(plan);
                Err(Rejected { io, why })
            }
        }
    }

    /// Where the caller is to wait: at the seat of a unit that is parked on the core where it runs, to be a
    /// guest there, or, if it `spins`, beside the units on a core that none has.
    fn reserve(&self, spins: bool) -> Option<Token> {
        if self.seats.is_empty() || !self.executor.scheme().is_prioritised() {
            return None;
        }
        let core = rustix::thread::sched_getcpu();
        let here = |placement: &Placement| placement.core == Some(core);
        match self.placements.iter().position(here) {
            Some(cu) if self.executor.board.take_parked_one(cu) => Some(Token(cu as u32)),
            Some(cu) => {
                self.executor.cus[cu].expect_guest();
                None
            }
            None if spins && self.placements.iter().all(|placement| placement.core.is_some()) => Some(BESIDE),
            None => None,
        }
    }

    /// Accepts the task into `slot`, which the caller took, with a reference to the plan.
    #[allow(unsafe_code)]
    fn publish(&self, slot: usize, request: Request<'_>) -> TaskId {
        let Request { plan, loaded, key, io, token, submitted, route } = request;
        let executor = &*self.executor;
        let place = &executor.slots[slot];
        let generation = place.lineage.begin();
        let opening = loaded.opening(0);
        let id = task_id(slot, generation);
        let fill = |task: &mut Task| {
            task.id = id;
            (task.key, task.token, task.plan, task.submitted) = (key, token, plan, submitted);
            task.loaded = std::ptr::from_ref(loaded);
            task.first_cus = opening.blocks.min(executor.cus.len() as u32);
            task.preempted = executor.would_preempt(key, task.first_cus);
            task.io = io;
            task.route = route;
            task.note_addresses();
            // SAFETY: the slot's owner owns its arena.
            task.arena = unsafe { place.arena.ensure(loaded.plan.arena_bytes(), &executor.retired) };
        };
        // SAFETY: the slot was taken by this caller alone.
        unsafe { place.task_mut(fill) };
        place.clear_times();
        place.lineage.publish(generation);
        if executor.recorder.is_on() {
            executor.record_instant(EventKind::Submitted, submitted, slot);
        }
        executor.submitted.fetch_add(1, Ordering::Relaxed);
        if !key.class().is_real_time() {
            executor.join(slot, key.share());
        }
        executor.board.publish(slot, generation, key.get(), opening);
        executor.wake(opening.blocks);
        // Who poisons the device shuts the gate, then closes what it finds on the board.
        fence(Ordering::SeqCst);
        if executor.gate() >= Gate::Poisoned {
            executor.close(slot, generation, Reason::DeviceFault);
        }
        id
    }
}

/// Bytes that a buffer of `have` gives back where `needed` are enough; 0 if that is not worth it.
fn freed(have: usize, needed: usize) -> usize {
    let free = have.saturating_sub(needed);
    if free < SHRINK_BYTES_MIN || free < have / SHRINK_PART { 0 } else { free }
}

/// A checked submission.
struct Request<'a> {
    plan: LoadedPlan,
    loaded: &'a Loaded,
    key: TaskKey,
    io: Io,
    token: u64,
    submitted: Nanos,
    route: Option<Arc<dyn Route>>,
}

/// How a task goes on, and how much time its submitter has for it.
#[derive(Default)]
struct Along {
    route: Option<Arc<dyn Route>>,
    patience: Option<Nanos>,
}

impl Device for CpuDevice {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn cutter(&self, _precision: Option<Precision>) -> Arc<dyn Cutter> {
        Arc::new(CpuCutter::new(self.capabilities.target))
    }

    fn scheme(&self) -> Scheme {
        self.executor.scheme()
    }

    fn set_scheme(&self, scheme: Scheme) {
        self.executor.set_scheme(scheme);
    }

    fn load(&self, plan: Arc<Plan>) -> Result<LoadedPlan, DeviceError> {
        if let Some(poisoned) = self.fault().map(DeviceError::Poisoned) {
            return Err(poisoned);
        }
        self.check_target(&plan)?;
        if let Some(reason) = cut::flaw(&plan) {
            return Err(DeviceError::Unsupported { plan: plan.name().into(), reason });
        }
        if !plan.host_kernels().is_empty() {
            let fail = |error| DeviceError::Start(format!("a thread for host kernels: {error}"));
            Crew::muster(&self.executor).map_err(fail)?;
        }
        let mut loaded = Box::new(Loaded::new(plan, self.capabilities.slots, self.capabilities.cus)?);
        let mut offered = self.lock_loading();
        self.executor.retired.collect();
        self.shrink(&mut offered);
        self.grow(&mut offered, &mut loaded)?;
        let (arena, scratch) = (loaded.plan.arena_bytes(), loaded.plan.scratch_bytes());
        let full = |_| DeviceError::TooManyPlans { max: PLANS_MAX };
        let plan = self.executor.plans.insert(loaded).map_err(full)?;
        offered.plans.push(Needs { plan, arena, scratch });
        Ok(plan)
    }

    fn unload(&self, plan: LoadedPlan) {
        let mut offered = self.lock_loading();
        self.executor.plans.close(plan);
        self.shrink(&mut offered);
        self.executor.retired.collect();
    }

    fn trim(&self) {
        let mut offered = self.lock_loading();
        self.shrink(&mut offered);
        self.executor.retired.collect();
    }

    fn alloc_io(&self, plan: LoadedPlan) -> Option<Io> {
        let io = Io::try_for_plan(&self.executor.plans.acquire(plan)?.plan);
        self.executor.plans.release(plan);
        io
    }

    fn submit(&self, plan: LoadedPlan, key: TaskKey, io: Io, token: u64) -> Result<TaskId, Rejected> {
        Ok(self.accept(plan, key, io, token, Along::default())?.0)
    }

    fn submit_along(
        &self,
        plan: LoadedPlan,
        key: TaskKey,
        io: Io,
        token: u64,
        route: Arc<dyn Route>,
    ) -> Result<TaskId, Rejected> {
        Ok(self.accept(plan, key, io, token, Along { route: Some(route), patience: None })?.0)
    }

    fn submit_helped(
        &self,
        plan: LoadedPlan,
        key: TaskKey,
        io: Io,
        token: u64,
        route: Option<Arc<dyn Route>>,
        patience: Nanos,
    ) -> Result<(TaskId, Option<Token>), Rejected> {
        let along = Along { route, patience: Some(patience) };
        self.accept(plan, key, io, token, along)
    }

    fn help(&self, seat: Token, key: TaskKey, done: &dyn Fn() -> bool) {
        if seat == BESIDE {
            return watch(&self.executor, done);
        }
        let cu = seat.0 as usize;
        self.seats[cu].visit(&self.executor, cu, key.rank(), done);
    }

    fn cancel(&self, task: TaskId) {
        self.executor.cancel(task);
    }

    /// Frees an unloaded plan's memory with its last completion; otherwise it only moves buffers.
    fn try_complete(&self) -> Option<Completion> {
        self.executor.pop_completion()
    }

    fn set_waker(&self, waker: Arc<dyn Wake>) {
        self.executor.set_waker(waker);
    }

    fn quiesce(&self, timeout: Duration) -> bool {
        let moved = self.executor.move_gate(Gate::Open, Gate::Quiesced);
        let (start, timeout) = (now(), Nanos::from(timeout));
        while !self.executor.gates.is_empty() {
            if now().since(start) >= timeout {
                if moved {
                    self.resume();
                }
                return false;
            }
            sleep(Duration::from_micros(20));
        }
        true
    }

    fn resume(&self) {
        self.executor.move_gate(Gate::Quiesced, Gate::Open);
        self.executor.call_waker();
    }

    fn poison(&self, reason: &str) {
        self.executor.poison(reason);
    }

    fn fault(&self) -> Option<String> {
        let reason = || self.executor.poison_reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.executor.gate() == Gate::Poisoned).then(reason)
    }

    fn memory(&self) -> Vec<MemoryUse> {
        vec![self.budget.usage()]
    }

    fn counters(&self) -> DeviceCounters {
        let executor = &*self.executor;
        let mut sum = DeviceCounters {
            submitted: executor.submitted.load(Ordering::Relaxed),
            completed: executor.ended.load(Ordering::Relaxed),
            preemptions: executor.preemptions.load(Ordering::Relaxed),
            ..DeviceCounters::default()
        };
        for cu in &executor.cus {
            sum.blocks_done += cu.blocks_done.load(Ordering::Relaxed);
            sum.blocks_killed += cu.blocks_killed.load(Ordering::Relaxed);
            sum.blocks_padding += cu.blocks_padding.load(Ordering::Relaxed);
            sum.busy += Nanos(cu.busy.load(Ordering::Relaxed));
            sum.wasted += Nanos(cu.wasted.load(Ordering::Relaxed));
            sum.padding += Nanos(cu.padding.load(Ordering::Relaxed));
        }
        sum
    }

    fn block_times(&self, plan: LoadedPlan) -> Vec<Option<u64>> {
        let Some(loaded) = self.executor.plans.acquire(plan) else { return Vec::new() };
        let times = loaded.kernels.iter().map(|kernel| kernel.estimate.mean()).collect();
        self.executor.plans.release(plan);
        times
    }

    fn record_events(&self, on: bool) {
        self.executor.recorder.set(on);
    }

    fn drain_events(&self, events: &mut Vec<Event>) -> u64 {
        self.executor.recorder.drain(events)
    }
}

impl Drop for CpuDevice {
    fn drop(&mut self) {
        self.executor.shut_gate(Gate::Stopping);
        self.executor.close_all(Reason::Cancelled);
        for (cu, thread) in self.threads.drain(..).enumerate() {
            // It may have parked since, or wait for a companion.
            self.executor.ring(cu);
            // A unit catches the panics of kernels; one of its own is a bug that was reported where it
            // happened.
            let _ = thread.join();
        }
        self.executor.crew.leave(&self.executor);
    }
}

impl fmt::Debug for CpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let active = bits(self.executor.board.active()).count();
        write!(f, "CpuDevice({}, {}, {active} tasks)", self.capabilities.name, self.scheme())
    }
}

/// Which cores the device is on, for people; nothing if that goes without saying.
fn place_of(options: &CpuOptions, cus: usize, cores: &[usize]) -> String {
    let all = options.cores.is_none() || cores == allowed_cores();
    if all || !options.pin {
        return String::new();
    }
    let cores: Vec<String> = cores.iter().take(cus).map(usize::to_string).collect();
    format!(", cores {}", cores.join(","))
}

fn check_options(options: &CpuOptions, cus: usize, cores: &[usize]) -> Result<(), DeviceError> {
    let wrong = |what: String| Err(DeviceError::Start(what));
    if !(1..=CPU_CUS_MAX).contains(&cus) {
        return wrong(format!("{cus} compute units, a CPU device may have 1 to {CPU_CUS_MAX}"));
    }
    if !(1..=BOARD_SLOTS_MAX).contains(&options.slots) || options.slots_real_time > options.slots {
        return wrong(format!("{} slots, {} of them real-time", options.slots, options.slots_real_time));
    }
    if cores.is_empty() {
        return wrong("no core to run on".into());
    }
    Ok(())
}

type Started = (Vec<JoinHandle<()>>, Vec<String>);

fn start_threads(
    placements: &[Placement],
    executor: &Arc<Executor>,
    seats: &[Arc<Seat>],
) -> Result<Started, DeviceError> {
    let (report, reports) = mpsc::channel();
    let mut threads = Vec::new();
    for (cu, seat) in seats.iter().enumerate() {
        let unit = seat.clone();
        match spawn(executor.clone(), cu, placements[cu], report.clone(), move || unit.occupy()) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                executor.shut_gate(Gate::Stopping);
                for (cu, thread) in threads.into_iter().enumerate() {
                    executor.ring(cu);
                    drop(thread.join());
                }
                return Err(DeviceError::Start(error.to_string()));
            }
        }
    }
    drop(report);
    Ok((threads, reports.into_iter().flatten().collect()))
}

#[cfg(all(test, not(loom)))]
mod tests;
