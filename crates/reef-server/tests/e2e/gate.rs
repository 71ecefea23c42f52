//! The dummy device behind a gate: virtual time passes only while the gate is open.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use reef_base::{Nanos, TaskId, TaskKey, VirtualClock};
use reef_device::{
    Capabilities, Completion, Device, DeviceCounters, DeviceError, DummyDevice, DummyOptions, Event, Io,
    LoadedPlan, Rejected, Scheme, Wake,
};
use reef_plan::{Cutter, Plan};

/// The device.
#[derive(Debug)]
pub struct Gate {
    device: DummyDevice,
    state: Mutex<State>,
    changed: Condvar,
    /// The next call of this name panics.
    planted: Mutex<Option<&'static str>>,
}

#[derive(Debug, Default)]
struct State {
    frozen: bool,
    ended: bool,
    /// Counts what may give time something to do.
    events: u64,
    /// Tasks that the engine handed over.
    submits: u64,
    /// Cancellations that the engine asked for.
    cancels: u64,
}

/// Longer than any test takes: a hang is a failure, not an endless test.
pub const PATIENCE: Duration = Duration::from_secs(120);

impl Gate {
    pub fn new() -> Arc<Gate> {
        let device = DummyDevice::new(DummyOptions::default());
        let (state, changed, planted) = (Mutex::default(), Condvar::new(), Mutex::default());
        Arc::new(Gate { device, state, changed, planted })
    }

    /// The next call of the device's `method` panics.
    pub fn plant(&self, method: &'static str) {
        *self.planted.lock().unwrap() = Some(method);
    }

    fn pass(&self, method: &'static str) {
        let planted = self.planted.lock().unwrap().take_if(|planted| *planted == method);
        assert!(planted.is_none(), "planted");
    }

    /// Once it returns, no time passes.
    pub fn freeze(&self) {
        self.state().frozen = true;
    }

    /// Time may pass.
    pub fn flow(&self) {
        self.state().frozen = false;
        self.changed.notify_all();
    }

    /// Time may pass, and [`Gate::drive`] returns.
    pub fn end(&self) {
        self.state().ended = true;
        self.changed.notify_all();
    }

    /// Tasks that the engine has handed over so far.
    pub fn submits(&self) -> u64 {
        self.state().submits
    }

    /// Blocks until the engine has asked for the cancellation of `count` tasks in all.
    pub fn wait_for_cancels(&self, count: u64) {
        self.wait_for("cancels", count, |state| state.cancels);
    }

    fn wait_for(&self, what: &str, count: u64, number: impl Fn(&State) -> u64) {
        let less = |state: &mut State| number(state) < count;
        let (state, waited) = self.changed.wait_timeout_while(self.state(), PATIENCE, less).unwrap();
        let so_far = number(&state);
        drop(state);
        assert!(!waited.timed_out(), "{so_far} {what} instead of {count}");
    }

    /// Calls `step` as long as there is something to do, until the end.
    pub fn drive(&self, step: impl Fn() -> bool) {
        loop {
            let state = self.state();
            let (events, ended) = (state.events, state.ended);
            drop(state);
            if ended {
                return;
            }
            if !step() {
                let idle = |state: &mut State| state.events == events && !state.ended;
                drop(self.changed.wait_while(self.state(), idle).unwrap());
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Blocks while time stands still.
    fn flowing(&self) -> MutexGuard<'_, State> {
        let frozen = |state: &mut State| state.frozen && !state.ended;
        self.changed.wait_while(self.state(), frozen).unwrap()
    }

    fn event(&self) {
        self.state().events += 1;
        self.changed.notify_all();
    }
}

impl Device for Gate {
    fn virtual_clock(&self) -> Option<&VirtualClock> {
        self.device.virtual_clock()
    }

    /// Not while time stands still: the engine moves it for timers, too.
    fn next_event(&self) -> Option<Nanos> {
        drop(self.flowing());
        self.device.next_event()
    }

    fn advance(&self) -> bool {
        // Held while time passes, so that `freeze` waits for it.
        let _state = self.flowing();
        self.device.advance()
    }

    fn submit(&self, plan: LoadedPlan, key: TaskKey, io: Io, token: u64) -> Result<TaskId, Rejected> {
        let submitted = self.device.submit(plan, key, io, token);
        self.state().submits += u64::from(submitted.is_ok());
        self.event();
        submitted
    }

    fn cancel(&self, task: TaskId) {
        self.device.cancel(task);
        self.state().cancels += 1;
        self.event();
    }

    fn capabilities(&self) -> &Capabilities {
        self.device.capabilities()
    }

    fn cutter(&self, precision: Option<reef_plan::Precision>) -> Arc<dyn Cutter> {
        self.device.cutter(precision)
    }

    fn scheme(&self) -> Scheme {
        self.device.scheme()
    }

    fn set_scheme(&self, scheme: Scheme) {
        self.device.set_scheme(scheme);
    }

    fn load(&self, plan: Arc<Plan>) -> Result<LoadedPlan, DeviceError> {
        self.device.load(plan)
    }

    fn unload(&self, plan: LoadedPlan) {
        self.device.unload(plan);
    }

    fn alloc_io(&self, plan: LoadedPlan) -> Option<Io> {
        self.pass("alloc_io");
        self.device.alloc_io(plan)
    }

    fn try_complete(&self) -> Option<Completion> {
        self.pass("try_complete");
        self.device.try_complete()
    }

    fn set_waker(&self, waker: Arc<dyn Wake>) {
        self.device.set_waker(waker);
    }

    fn quiesce(&self, timeout: Duration) -> bool {
        self.device.quiesce(timeout)
    }

    fn resume(&self) {
        self.device.resume();
    }

    fn poison(&self, reason: &str) {
        self.device.poison(reason);
    }

    fn fault(&self) -> Option<String> {
        self.device.fault()
    }

    fn memory(&self) -> Vec<reef_device::MemoryUse> {
        self.device.memory()
    }
    fn counters(&self) -> DeviceCounters {
        self.device.counters()
    }

    fn block_times(&self, plan: LoadedPlan) -> Vec<Option<u64>> {
        self.device.block_times(plan)
    }

    fn record_events(&self, on: bool) {
        self.device.record_events(on);
    }

    fn drain_events(&self, events: &mut Vec<Event>) -> u64 {
        self.device.drain_events(events)
    }
}
