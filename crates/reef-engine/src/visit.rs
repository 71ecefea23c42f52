//! Who is about to hand a request to a model. A model that goes (it is unloaded, or another one takes its
//! place) is to refuse nobody who found it before: it waits for its visitors first, and is drained then.
//!
//! | who | does, in this order |
//! |---|---|
//! | who looks a model up | counts itself in; if the model is closed, out again: it has found nothing |
//! | a visitor | hands its request to the scheduler, or ends it, and counts itself out |
//! | who takes the model away | closes it; waits until no visitor is left; drains its queue |
//!
//! Both sides write before they read, in one order for all (`SeqCst`), so either the visitor sees that the
//! model is closed, or whoever closed it sees the visitor. A request that waits for a plan is a visitor until
//! it has one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The visitors of one model.
#[derive(Debug, Default)]
pub(crate) struct Visitors {
    count: AtomicUsize,
    closed: AtomicBool,
    leaving: Mutex<()>,
    left: Condvar,
}

impl Visitors {
    /// Nobody enters any more; false when that was so before.
    pub(crate) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::SeqCst)
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.closed.load(Ordering::SeqCst)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// Waits a while for the last one to leave.
    pub(crate) fn wait(&self, patience: Duration) {
        let leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_empty() {
            drop(self.left.wait_timeout(leaving, patience).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// One more, who leaves later: whether the model is open or not.
    pub(crate) fn enter(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// One fewer.
    pub(crate) fn leave(&self) {
        if self.count.fetch_sub(1, Ordering::SeqCst) == 1 && !self.is_open() {
            // With the lock, so that nobody begins to wait in between.
            drop(self.leaving.lock().unwrap_or_else(PoisonError::into_inner));
            self.left.notify_all();
        }
    }
}
