//! The CPU device with hooks where the engine hands in tasks, before the device has one and after, and where
//! it asks for buffers.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use reef_base::{TaskId, TaskKey};
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::{Io, LoadedPlan, RejectReason, Rejected};
use reef_engine::*;

use super::foreign::{Hook, nothing};

/// What happens when a task is handed in, or buffers are asked for.
#[derive(Clone)]
pub struct Hooks {
    pub before: Hook,
    pub after: Hook,
    pub allocates: Hook,
    /// Why it is not taken, if it is not.
    pub rejects: Option<RejectReason>,
}

impl Hooks {
    pub fn new() -> Hooks {
        Hooks { before: nothing(), after: nothing(), allocates: nothing(), rejects: None }
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
    forward!(
        capabilities,
        scheme,
        set_scheme,
        cutter,
        load,
        unload,
        cancel,
        try_complete,
        set_waker,
        quiesce,
        resume,
        poison,
        fault,
        memory,
        counters,
        block_times,
        record_events,
        drain_events
    );

    fn alloc_io(&self, plan: LoadedPlan) -> Option<Io> {
        let hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (hooks.allocates)();
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
}
