//! A virtual-time device with queues, as in the paper: the contract is known to fit more than one kind of
//! device.
//!
//! Every task has a host queue (the stages not launched yet) and a bounded device queue (launched stages, run
//! in order). Compute units run blocks of the front stage. Under `reset` a more urgent real-time task empties
//! the device queues, kills the running blocks of less urgent tasks at once (running waves) and starts after
//! the reset latency; a killed task restarts at most a device queue's length of stages before the last
//! launched one. Which block a free unit runs is for the policy that all devices share. Where it let a less
//! urgent block pad and the urgent task wants the unit before that block ends, the device is reset again: it
//! cannot kill one block alone. Left out of the policy's questions: units that sleep, blocks of unknown time,
//! blocks that cannot be killed, tasks that are closed and still there; none of these exists here. Bytes are
//! computed for real: those of synthetic kernels here, those of others by an interpreter, block by block as
//! the dummy's own cutter cut them.
//!
//! Its time is that of a [`VirtualClock`], which it may share. It moves the clock to its own events, in
//! [`Device::advance`] and [`Device::quiesce`], and else never.
//!
//! One mutex guards everything: this is a model to test against, not a fast device.

mod blocks;
mod cut;
mod state;

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reef_base::{AlignedBytes, Buffer, Clock, Domain, Memory, Nanos, TaskId, TaskKey, VirtualClock};
use reef_plan::{
    Cutter, DeviceKind, Interpreter, IoSpec, Isa, Kernel, KernelSpec, Plan, Precision, Restart, Target,
};

use crate::contract::{
    Capabilities, Completion, Device, DeviceCounters, DeviceError, Io, Kill, RejectReason, Rejected, Route,
    Wake,
};
use crate::event::Event;
use crate::ids::LoadedPlan;
use crate::memory::MemoryUse;
use crate::scheme::{Padding, Scheme};
use cut::DummyCutter;
use state::State;

/// How to make a dummy. Dummies of the same options, or of clones of them, have one clock.
#[derive(Clone, Debug)]
pub struct DummyOptions {
    /// Its time.
    pub clock: VirtualClock,
    /// Compute units.
    pub cus: usize,
    /// Tasks on the board.
    pub slots: usize,
    /// Slots of them for real-time tasks only.
    pub slots_real_time: usize,
    /// Stages that a device queue holds; also the restart window.
    pub queue_stages: usize,
    /// From a reset until the first block of the task that caused it.
    pub reset_latency: Nanos,
    /// The scheme at the start.
    pub scheme: Scheme,
    /// Those that it has.
    pub schemes: &'static [Scheme],
    /// Which blocks may pad a more urgent stage.
    pub padding: Padding,
    /// Bytes that its memory may hold; `None` for no bound.
    pub memory_bytes: Option<u64>,
    /// Who computes the blocks of real kernels; without, only synthetic ones run.
    pub interpreter: Option<Arc<dyn Interpreter>>,
}

impl Default for DummyOptions {
    /// A clock of its own; two compute units; the queue length (4) and reset latency (35 µs) that the paper
    /// reports for the MI50, and its rule of padding: a block that is in the way costs a reset.
    fn default() -> Self {
        DummyOptions {
            clock: VirtualClock::default(),
            cus: 2,
            slots: 8,
            slots_real_time: 4,
            queue_stages: 4,
            reset_latency: Nanos::from_micros(35),
            scheme: Scheme::Reset,
            schemes: &Scheme::ALL,
            padding: Padding::Fitting,
            memory_bytes: None,
            interpreter: None,
        }
    }
}

/// A buffer of the dummy. The bytes are the host's, but who uses them cannot know.
struct Pinned(AlignedBytes);

impl Memory for Pinned {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn bytes(&self) -> Option<&[u8]> {
        Some(self.0.as_slice())
    }

    fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        Some(self.0.as_mut_slice())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn pinned(specs: &[IoSpec]) -> Vec<Buffer> {
    let buffer = |spec: &IoSpec| Box::new(Pinned(AlignedBytes::zeroed(spec.bytes())));
    specs.iter().map(|spec| Buffer::over(Domain::Pinned, buffer(spec))).collect()
}

/// The virtual-time queued device.
pub struct DummyDevice {
    capabilities: Capabilities,
    clock: VirtualClock,
    interprets: bool,
    schemes: &'static [Scheme],
    state: Mutex<State>,
    waker: Mutex<Option<Arc<dyn Wake>>>,
}

impl fmt::Debug for DummyDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DummyDevice").field("capabilities", &self.capabilities).finish_non_exhaustive()
    }
}

impl DummyDevice {
    /// An idle dummy.
    pub fn new(options: DummyOptions) -> DummyDevice {
        let target = Target {
            device: DeviceKind::Dummy,
            isa: Isa::Portable,
            cus: options.cus,
            window: options.queue_stages,
            precision: Precision::F32,
        };
        let capabilities = Capabilities {
            name: "queued dummy".into(),
            target,
            cus: options.cus,
            cores: Vec::new(),
            kill: Kill::RunningWaves,
            poll_period: Nanos::ZERO,
            never_max: Nanos::ZERO,
            propagation: options.reset_latency,
            slots: options.slots,
            slots_real_time: options.slots_real_time,
        };
        let (interprets, schemes) = (options.interpreter.is_some(), options.schemes);
        let clock = options.clock.clone();
        let state = Mutex::new(State::new(options));
        DummyDevice { capabilities, clock, interprets, schemes, state, waker: Mutex::new(None) }
    }

    /// The virtual time.
    pub fn now(&self) -> Nanos {
        self.clock.now()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now = self.clock.now();
        state
    }

    fn wake(&self) {
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Device for DummyDevice {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn cutter(&self, _precision: Option<Precision>) -> Arc<dyn Cutter> {
        Arc::new(DummyCutter::new(self.capabilities.target))
    }

    fn scheme(&self) -> Scheme {
        self.state().scheme
    }

    fn set_scheme(&self, scheme: Scheme) {
        if self.schemes.contains(&scheme) {
            self.state().scheme = scheme;
        }
    }

    fn load(&self, plan: Arc<Plan>) -> Result<LoadedPlan, DeviceError> {
        if plan.target() != self.capabilities.target {
            return Err(DeviceError::WrongTarget {
                plan: plan.name().into(),
                plan_target: plan.target(),
                device_target: self.capabilities.target,
            });
        }
        let real = |kernel: &&Kernel| !matches!(kernel.spec, KernelSpec::Synthetic(_));
        if let Some(kernel) = plan.kernels().iter().find(real).filter(|_| !self.interprets) {
            let reason = format!("kernel {} is not synthetic, and there is no interpreter", kernel.name);
            return Err(DeviceError::Unsupported { plan: plan.name().into(), reason });
        }
        if let Some(kernel) = plan.kernels().iter().find(|kernel| kernel.restart == Restart::Never) {
            let reason =
                format!("kernel {} must not be killed, and a reset kills all that runs", kernel.name);
            return Err(DeviceError::Unsupported { plan: plan.name().into(), reason });
        }
        self.state().load(plan)
    }

    fn unload(&self, plan: LoadedPlan) {
        self.state().unload(plan);
    }

    fn alloc_io(&self, plan: LoadedPlan) -> Option<Io> {
        let state = self.state();
        let plan = state.plan(plan)?;
        Some(Io { inputs: pinned(plan.inputs()), outputs: pinned(plan.outputs()) })
    }

    fn submit(&self, plan: LoadedPlan, key: TaskKey, io: Io, token: u64) -> Result<TaskId, Rejected> {
        let mut state = self.state();
        match state.admit(plan, key, &io) {
            Ok(made) => Ok(state.submit((plan, made), key, io, token, None)),
            Err(why) => Err(Rejected { io, why }),
        }
    }

    fn submit_along(
        &self,
        plan: LoadedPlan,
        key: TaskKey,
        io: Io,
        token: u64,
        route: Arc<dyn Route>,
    ) -> Result<TaskId, Rejected> {
        let mut state = self.state();
        match state.admit(plan, key, &io) {
            Ok(made) => Ok(state.submit((plan, made), key, io, token, Some(route))),
            Err(why) => Err(Rejected { io, why }),
        }
    }

    fn cancel(&self, task: TaskId) {
        self.state().cancel(task);
        self.wake();
    }

    fn try_complete(&self) -> Option<Completion> {
        self.state().completions.pop_front()
    }

    fn set_waker(&self, waker: Arc<dyn Wake>) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    fn quiesce(&self, _timeout: Duration) -> bool {
        let mut state = self.state();
        state.closed = true;
        while state.runs_anything() && state.step() {}
        !state.runs_anything()
    }

    fn resume(&self) {
        self.state().closed = false;
        self.wake();
    }

    fn poison(&self, reason: &str) {
        self.state().poison(reason);
        self.wake();
    }

    fn fault(&self) -> Option<String> {
        self.state().poisoned.clone()
    }

    fn memory(&self) -> Vec<MemoryUse> {
        vec![self.state().budget.usage()]
    }

    fn counters(&self) -> DeviceCounters {
        self.state().counters
    }

    fn block_times(&self, plan: LoadedPlan) -> Vec<Option<u64>> {
        let state = self.state();
        state.plan(plan).map_or_else(Vec::new, |plan| {
            plan.kernels().iter().map(|kernel| Some(blocks::time(kernel).0)).collect()
        })
    }

    fn record_events(&self, on: bool) {
        self.state().record = on;
    }

    fn drain_events(&self, events: &mut Vec<Event>) -> u64 {
        events.append(&mut self.state().events);
        0
    }

    fn virtual_clock(&self) -> Option<&VirtualClock> {
        Some(&self.clock)
    }

    fn next_event(&self) -> Option<Nanos> {
        self.state().next_event()
    }

    fn advance(&self) -> bool {
        let progress = self.state().step();
        self.wake();
        progress
    }
}

/// Why the dummy does not take a task, if it does not.
pub(crate) fn refusal(
    open: bool,
    free: usize,
    reserved: usize,
    key: TaskKey,
    scheme: Scheme,
) -> Option<RejectReason> {
    let real_time = key.class().is_real_time();
    match () {
        () if !open => Some(RejectReason::Closed),
        () if !real_time && scheme == Scheme::RtOnly => Some(RejectReason::SchemeRefuses),
        () if free == 0 || (!real_time && free <= reserved) => Some(RejectReason::BoardFull),
        () => None,
    }
}

#[cfg(test)]
mod tests;
