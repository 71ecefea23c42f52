//! The CPU device with planted bugs: one of its methods panics.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::{Completion, Event, Io, LoadedPlan, Wake};
use reef_engine::*;

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
    forward!(
        capabilities,
        cutter,
        scheme,
        load,
        unload,
        submit,
        cancel,
        quiesce,
        resume,
        poison,
        fault,
        memory,
        counters,
        block_times,
        record_events
    );

    fn set_scheme(&self, scheme: Scheme) {
        self.pass(Place::SetScheme);
        self.inner.set_scheme(scheme);
    }
    fn alloc_io(&self, plan: LoadedPlan) -> Option<Io> {
        self.pass(Place::AllocIo);
        self.inner.alloc_io(plan)
    }
    fn try_complete(&self) -> Option<Completion> {
        self.pass(Place::TryComplete);
        self.inner.try_complete()
    }
    fn set_waker(&self, waker: Arc<dyn Wake>) {
        (self.set_waker)(&self.inner, waker);
    }
    fn drain_events(&self, events: &mut Vec<Event>) -> u64 {
        self.pass(Place::DrainEvents);
        self.inner.drain_events(events)
    }
}
