//! The CPU device with hooks where the engine hands in tasks: before the device has one, and after.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reef_base::{TaskId, TaskKey};
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::{Completion, Event, Io, LoadedPlan, RejectReason, Rejected, Wake};
use reef_engine::*;

use super::foreign::{Hook, nothing};

/// What happens when a task is handed in.
#[derive(Clone)]
pub struct Hooks {
    pub before: Hook,
    pub after: Hook,
    /// Why it is not taken, if it is not.
    pub rejects: Option<RejectReason>,
}

impl Hooks {
    pub fn new() -> Hooks {
        Hooks { before: nothing(), after: nothing(), rejects: None }
    }
}

pub struct Slow {
    inner: CpuDevice,
    hooks: Mutex<Hooks>,
}

impl Slow {
    pub fn new() -> Arc<Slow> {
        let inner = CpuDevice::start(CpuOptions { cus: Some(1), ..CpuOptions::default() }).unwrap();
        Arc::new(Slow { inner, hooks: Mutex::new(Hooks::new()) })
    }

    pub fn engine(self: &Arc<Self>) -> Engine {
        Engine::new(self.clone(), EngineOptions::default()).unwrap()
    }

    /// For tasks handed in from now on.
    pub fn set(&self, hooks: Hooks) {
        *self.hooks.lock().unwrap_or_else(PoisonError::into_inner) = hooks;
    }
}

impl fmt::Debug for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slow")
    }
}

impl Device for Slow {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
    fn scheme(&self) -> Scheme {
        self.inner.scheme()
    }
    fn set_scheme(&self, scheme: Scheme) {
        self.inner.set_scheme(scheme);
    }
    fn cutter(&self) -> Arc<dyn reef_plan::Cutter> {
        self.inner.cutter()
    }
    fn load(&self, plan: Arc<Plan>) -> Result<LoadedPlan, DeviceError> {
        self.inner.load(plan)
    }
    fn unload(&self, plan: LoadedPlan) {
        self.inner.unload(plan);
    }
    fn alloc_io(&self, plan: LoadedPlan) -> Option<Io> {
        self.inner.alloc_io(plan)
    }
    fn submit(&self, plan: LoadedPlan, key: TaskKey, io: Io, token: u64) -> Result<TaskId, Rejected> {
        let hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (hooks.before)();
        let submitted = match hooks.rejects {
            Some(why) => Err(Rejected { io, why }),
            None => self.inner.submit(plan, key, io, token),
        };
        (hooks.after)();
        submitted
    }
    fn cancel(&self, task: TaskId) {
        self.inner.cancel(task);
    }
    fn try_complete(&self) -> Option<Completion> {
        self.inner.try_complete()
    }
    fn set_waker(&self, waker: Arc<dyn Wake>) {
        self.inner.set_waker(waker);
    }
    fn quiesce(&self, timeout: Duration) -> bool {
        self.inner.quiesce(timeout)
    }
    fn resume(&self) {
        self.inner.resume();
    }
    fn poison(&self, reason: &str) {
        self.inner.poison(reason);
    }
    fn fault(&self) -> Option<String> {
        self.inner.fault()
    }
    fn memory(&self) -> Vec<MemoryUse> {
        self.inner.memory()
    }
    fn counters(&self) -> DeviceCounters {
        self.inner.counters()
    }
    fn block_times(&self, plan: LoadedPlan) -> Vec<Option<u64>> {
        self.inner.block_times(plan)
    }
    fn record_events(&self, on: bool) {
        self.inner.record_events(on);
    }
    fn drain_events(&self, events: &mut Vec<Event>) -> u64 {
        self.inner.drain_events(events)
    }
}
