//! What all connections of the ring share: the server's state, the signal to end, and the count of what they
//! take together.

use std::io;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
    /// Whose requests are those of connections that show no token.
    pub(super) client: Client,
    pub(super) spin: Duration,
    pub(super) spinners: Spinners,
    /// Set when connections must end.
    pub(super) stop: OwnedFd,
    /// Whether they must end whatever is in flight.
    cut: AtomicBool,
    open: Mutex<Open>,
    closed: Condvar,
}

/// How many threads look at their rings at this moment: half the cores at most, and one.
#[derive(Debug)]
pub(super) struct Spinners {
    count: AtomicUsize,
    most: usize,
}

/// One thread that looks.
pub(super) struct Turn<'a>(&'a Spinners);

impl Spinners {
    fn new(cores: usize) -> Spinners {
        Spinners { count: AtomicUsize::new(0), most: (cores / 2).max(1) }
    }

    /// A turn, if not too many look already.
    pub(super) fn take_turn(&self) -> Option<Turn<'_>> {
        // Made before it is known whether it may be: its drop counts it out again.
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        let turn = Turn(self);
        (before < self.most).then_some(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
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
        let spinners = Spinners::new(std::thread::available_parallelism().map_or(1, NonZero::get));
        Ok(Shared { state, client, spin, spinners, stop: event()?, cut, open, closed })
    }

    /// A place for one more connection; `None` if there are as many as may be.
    pub(super) fn place(self: &Arc<Self>) -> Option<Place> {
        let mut open = self.open();
        let free = open.connections < RING_CONNECTIONS_MAX;
        open.connections += usize::from(free);
        self.state.requests.rings.open.store(open.connections, Ordering::Relaxed);
        free.then(|| Place(self.clone()))
    }

    /// Counts a connection that was turned away.
    pub(super) fn refused(&self) {
        self.state.requests.rings.refused.fetch_add(1, Ordering::Relaxed);
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
        let mut open = self.0.open();
        open.connections -= 1;
        self.0.state.requests.rings.open.store(open.connections, Ordering::Relaxed);
        drop(open);
        self.0.closed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_cores_may_be_spun_on() {
        for (cores, most) in [(1, 1), (2, 1), (3, 1), (8, 4)] {
            let spinners = Spinners::new(cores);
            let turns: Vec<_> = (0..most).map(|_| spinners.take_turn().unwrap()).collect();
            assert!(spinners.take_turn().is_none());
            drop(turns);
            assert!(spinners.take_turn().is_some());
        }
    }
}
