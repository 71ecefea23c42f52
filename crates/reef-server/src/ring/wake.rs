//! How the engine wakes a connection's thread: a bit for each slot whose request has news, and an event
//! that is set only when the thread sleeps.
//!
//! All of it is the server's own; nothing that a client writes can hold a wake-up back. Whoever sets a bit
//! looks at `asleep` afterwards, and the thread sets `asleep` before it looks at the bits a last time; both
//! orders are sequentially consistent, so one of them sees the other's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use rustix::event::EventfdFlags;

/// What wakes one connection's thread.
#[derive(Debug)]
pub(super) struct Wake {
    slots: Box<[AtomicU64]>,
    asleep: AtomicBool,
    event: OwnedFd,
}

impl Wake {
    /// For so many slots.
    pub(super) fn new(slots: usize) -> io::Result<Wake> {
        Ok(Wake {
            slots: (0..slots.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            asleep: AtomicBool::new(false),
            event: event()?,
        })
    }

    /// The waker of the request in `slot`.
    pub(super) fn waker(self: &Arc<Self>, slot: usize) -> Waker {
        assert!(slot / 64 < self.slots.len(), "there is a bit for each slot");
        Waker::from(Arc::new(SlotWaker { wake: self.clone(), slot }))
    }

    /// Takes the slots that have news.
    pub(super) fn take(&self, mut each: impl FnMut(usize)) {
        for (index, word) in self.slots.iter().enumerate() {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::SeqCst);
            while bits != 0 {
                each(index * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }

    /// Says that the thread is about to wait for [`Wake::as_fd`]; whether it may.
    pub(super) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        self.slots.iter().all(|word| word.load(Ordering::SeqCst) == 0)
    }

    /// Says that the thread is awake.
    pub(super) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
        // Nothing to read is no error: somebody else woke the thread.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }

    fn set(&self, slot: usize) {
        self.slots[slot / 64].fetch_or(1 << (slot % 64), Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            ring(&self.event);
        }
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

struct SlotWaker {
    wake: Arc<Wake>,
    slot: usize,
}

impl std::task::Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake.set(self.slot);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake.set(self.slot);
    }
}

/// An event that is not set.
pub(super) fn event() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Sets an event.
pub(super) fn ring(event: &OwnedFd) {
    // It fails only where it is set 2^64 times already.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reef_client::socket;
    use rustix::event::{PollFd, PollFlags};

    use super::*;

    fn is_set(wake: &Wake) -> bool {
        socket::wait(&mut [PollFd::new(wake, PollFlags::IN)], Some(Duration::ZERO)).unwrap()
    }

    #[test]
    fn news_set_the_event_only_for_a_sleeper() {
        let wake = Arc::new(Wake::new(100).unwrap());
        let (first, last) = (wake.waker(0), wake.waker(99));
        first.wake_by_ref();
        assert!(!is_set(&wake) && !wake.fall_asleep());
        wake.awake();
        last.wake_by_ref();
        let mut slots = Vec::new();
        wake.take(|slot| slots.push(slot));
        assert_eq!(slots, [0, 99]);
        assert!(wake.fall_asleep());
        last.wake();
        assert!(is_set(&wake));
        wake.awake();
        assert!(!is_set(&wake));
        wake.take(|slot| slots.push(slot));
        wake.take(|_| panic!("all were taken"));
        assert_eq!(slots, [0, 99, 99]);
    }
}
