//! Who is about to hand a request to a model. A model that goes (it is unloaded, or another one takes its
//! place) is to refuse nobody who found it before: it waits for its visitors first, and is drained then.
//!
//! | who | does, in this order |
//! |---|---|
//! | who looks a model up | counts itself in; goes again, as if it had found nothing, if the model is closed |
//! | a visitor | hands its request to the scheduler, or ends it, and counts itself out |
//! | who takes the model away | closes it; waits until no visitor is left; drains its queue |
//!
//! Both sides write before they read, in one order for all (`SeqCst`), so either the visitor sees that the
//! model is closed, or whoever closed it sees the visitor. A request that waits for a plan is a visitor until
//! it has one.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::pool::Group;

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

    fn leave(&self) {
        if self.count.fetch_sub(1, Ordering::SeqCst) == 1 && !self.is_open() {
            // With the lock, so that nobody begins to wait in between.
            drop(self.leaving.lock().unwrap_or_else(PoisonError::into_inner));
            self.left.notify_all();
        }
    }
}

/// A model that was open when it was found, and waits for who has this.
pub(crate) struct Visit(Arc<Group>);

impl Visit {
    /// Enters, if the model is open.
    pub(crate) fn begin(group: &Arc<Group>) -> Option<Visit> {
        group.visitors.count.fetch_add(1, Ordering::SeqCst);
        // Its drop counts it out again.
        let visit = Visit(group.clone());
        visit.visitors.is_open().then_some(visit)
    }

    /// Another visit, whether the model is closed by now or not: this one is still there.
    pub(crate) fn again(&self) -> Visit {
        self.visitors.count.fetch_add(1, Ordering::SeqCst);
        Visit(self.0.clone())
    }
}

impl Deref for Visit {
    type Target = Arc<Group>;

    fn deref(&self) -> &Arc<Group> {
        &self.0
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.visitors.leave();
    }
}
