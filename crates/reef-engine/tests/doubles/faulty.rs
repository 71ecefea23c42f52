//! The CPU device with planted bugs: one of its methods panics.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use reef_base::{TaskId, TaskKey};
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::{Completion, Event, Io, LoadedPlan, Rejected, Wake};
use reef_engine::*;
use reef_plan::Cutter;

/// Where a bug is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    Nowhere,
    TryComplete,
    AllocIo,
    SetScheme,
    DrainEvents,
}

type SetWaker = Box<dyn Fn(&CpuDevice, Arc<dyn Wake>) + Send + Sync>;

pub struct Faulty {
    inner: CpuDevice,
    place: AtomicU8,
    set_waker: SetWaker,
}

impl Faulty {
    /// Two threads, and what is done when the engine sets its waker.
    pub fn new(set_waker: impl Fn(&CpuDevice, Arc<dyn Wake>) + Send + Sync + 'static) -> Arc<Faulty> {
        let inner = CpuDevice::start(CpuOptions { cus: Some(2), ..CpuOptions::default() }).unwrap();
        Arc::new(Faulty { inner, place: AtomicU8::new(0), set_waker: Box::new(set_waker) })
    }

    pub fn engine(self: &Arc<Self>) -> Engine {
        Engine::new(self.clone(), EngineOptions::default()).unwrap()
    }

    /// From now on it panics there.
    pub fn plant(&self, place: Place) {
        self.place.store(place as u8, Ordering::SeqCst);
    }

    pub fn mend(&self) {
        self.plant(Place::Nowhere);
    }

    fn pass(&self, place: Place) {
        assert!(self.place.load(Ordering::SeqCst) != place as u8, "planted");
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl Device for Faulty {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
    fn cutter(&self) -> Arc<dyn Cutter> {
        self.inner.cutter()
    }
    fn scheme(&self) -> Scheme {
        self.inner.scheme()
    }
    fn set_scheme(&self, scheme: Scheme) {
        self.pass(Place::SetScheme);
        self.inner.set_scheme(scheme);
    }
    fn load(&self, plan: Arc<Plan>) -> Result<LoadedPlan, DeviceError> {
        self.inner.load(plan)
    }
    fn unload(&self, plan: LoadedPlan) {
        self.inner.unload(plan);
    }
    fn alloc_io(&self, plan: LoadedPlan) -> Option<Io> {
        self.pass(Place::AllocIo);
        self.inner.alloc_io(plan)
    }
    fn submit(&self, plan: LoadedPlan, key: TaskKey, io: Io, token: u64) -> Result<TaskId, Rejected> {
        self.inner.submit(plan, key, io, token)
    }
    fn cancel(&self, task: TaskId) {
        self.inner.cancel(task);
    }
    fn try_complete(&self) -> Option<Completion> {
        self.pass(Place::TryComplete);
        self.inner.try_complete()
    }
    fn set_waker(&self, waker: Arc<dyn Wake>) {
        (self.set_waker)(&self.inner, waker);
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
        self.pass(Place::DrainEvents);
        self.inner.drain_events(events)
    }
}
