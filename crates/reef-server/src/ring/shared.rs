//! What all connections of the ring share: the server's state, the signal to end, and the count of what they
//! take together.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reef_base::limits::{RING_BYTES_MAX, RING_CONNECTIONS_MAX};

use crate::core::access::Client;
use crate::core::state::State;
use crate::ring::wake::{event, ring};

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: Arc<State>,
    /// Whose all requests are.
    pub(super) client: Client,
    pub(super) spin: Duration,
    /// Set when connections must end.
    pub(super) stop: OwnedFd,
    /// Whether they must end whatever is in flight.
    cut: AtomicBool,
    open: Mutex<Open>,
    closed: Condvar,
}

/// What connections take together.
#[derive(Debug, Default)]
struct Open {
    connections: usize,
    bytes: usize,
}

impl Shared {
    /// Without connections.
    pub(super) fn new(state: Arc<State>, client: Client, spin: Duration) -> io::Result<Shared> {
        let (cut, open, closed) = (AtomicBool::new(false), Mutex::default(), Condvar::new());
        Ok(Shared { state, client, spin, stop: event()?, cut, open, closed })
    }

    /// A place for one more connection; `None` if there are as many as may be.
    pub(super) fn place(self: &Arc<Self>) -> Option<Place> {
        let mut open = self.open();
        let free = open.connections < RING_CONNECTIONS_MAX;
        open.connections += usize::from(free);
        free.then(|| Place(self.clone()))
    }

    /// Tells all connections to end once their requests are answered.
    pub(super) fn stop(&self) {
        ring(&self.stop);
    }

    /// Tells them to end whatever is in flight.
    pub(super) fn cut_off(&self) {
        self.cut.store(true, Ordering::Release);
        self.stop();
    }

    /// Whether they must.
    pub(super) fn is_cut_off(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// Waits until all have ended, at most for `time`; false if some have not.
    pub(super) fn wait_until_closed(&self, time: Duration) -> bool {
        let waited = self.closed.wait_timeout_while(self.open(), time, |open| open.connections > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.connections == 0
    }

    /// Takes `bytes` for a segment; false if all segments would have too many.
    pub(super) fn take_bytes(&self, bytes: usize) -> bool {
        let mut open = self.open();
        let sum = open.bytes.checked_add(bytes).filter(|&sum| sum <= RING_BYTES_MAX);
        open.bytes = sum.unwrap_or(open.bytes);
        sum.is_some()
    }

    /// Gives them back.
    pub(super) fn give_back(&self, bytes: usize) {
        self.open().bytes -= bytes;
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among those that there may be.
pub(super) struct Place(pub(super) Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open().connections -= 1;
        self.0.closed.notify_all();
    }
}
