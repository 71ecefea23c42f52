//! A device in an engine: its scheduler behind its mutex, and who waits for what happens there. Lanes know
//! nothing of each other; a request is in one of them at a time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use reef_base::Nanos;
use reef_device::{Device, Signal};
use reef_sched::{Forecast, Request, SchedOptions};

use crate::copies::Copied;
use crate::core::Core;
use crate::pool::Model;
use crate::request::Urgency;
use crate::trace::Notes;

pub(crate) struct Lane {
    pub(crate) name: Arc<str>,
    pub(crate) device: Arc<dyn Device>,
    core: Mutex<Core>,
    /// Told after every step while somebody waits for requests to end, and how many do.
    idle: Condvar,
    waiting: AtomicUsize,
    pub(crate) signal: Arc<Signal>,
    /// Wakes who leads here.
    pub(crate) waker: Waker,
    pub(crate) notes: Arc<Notes>,
    /// Copies that were made, for whoever takes completions to go on with.
    copied: Mutex<Vec<Copied>>,
    /// The device is out of service, and everybody who was here knows.
    out: AtomicBool,
}

impl Lane {
    pub(crate) fn new(name: Arc<str>, device: Arc<dyn Device>, board: SchedOptions) -> Self {
        let notes = Arc::new(Notes::default());
        let core = Mutex::new(Core::new(device.scheme(), board, notes.clone()));
        let (idle, signal, out) = (Condvar::new(), Arc::<Signal>::default(), AtomicBool::new(false));
        let waker = signal.waker();
        let waiting = AtomicUsize::new(0);
        Lane { name, device, core, idle, waiting, signal, waker, notes, copied: Mutex::default(), out }
    }

    /// The core, without the rest of [`crate::shared::Shared::enter`]: for looking only.
    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a copy to whoever takes completions here.
    pub(crate) fn leave(&self, copied: Copied) {
        self.copied.lock().unwrap_or_else(PoisonError::into_inner).push(copied);
        self.signal.call();
    }

    /// What was left; takes no memory.
    pub(crate) fn copied(&self) -> Vec<Copied> {
        std::mem::take(&mut *self.copied.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What its scheduler says of a request; `plan` is the number of its plan here, if there is one. `None`
    /// where nothing of the model runs any more.
    pub(crate) fn forecast(
        &self,
        now: Nanos,
        model: &Model,
        plan: Option<u16>,
        urgency: &Urgency,
    ) -> Option<Forecast> {
        if self.device.fault().is_some() {
            // Its core may not know yet.
            return None;
        }
        let mut core = self.core();
        if core.fault().is_some() || !core.knows(model.id(), &model.key) {
            return None;
        }
        let Urgency { class, arrival, deadline, queue_until } = *urgency;
        let (model, number) = (model.id(), plan.unwrap_or(0));
        let request = Request { model, plan: number, class, arrival, deadline, queue_until, joins: None };
        Some(core.sched.forecast(now, &request, plan.is_some()))
    }

    pub(crate) fn is_out(&self) -> bool {
        self.out.load(Ordering::Acquire)
    }

    /// It is out of service from now on; false if it was before.
    pub(crate) fn take_out(&self) -> bool {
        !self.out.swap(true, Ordering::AcqRel)
    }

    /// Waits until something has happened here since `core` was locked, at most for `pause`.
    pub(crate) fn wait(&self, core: MutexGuard<'_, Core>, pause: Duration) {
        // Under the lock, so whoever changes the core later sees it.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        drop(self.idle.wait_timeout(core, pause).unwrap_or_else(PoisonError::into_inner));
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Something has happened here, with the core locked: a system call only if somebody waits for it.
    pub(crate) fn tell(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.idle.notify_all();
        }
    }

    /// Wakes everybody who waits here.
    pub(crate) fn rouse(&self) {
        self.idle.notify_all();
        self.signal.call();
    }
}
