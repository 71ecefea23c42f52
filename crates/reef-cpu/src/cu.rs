//! A compute unit as others see it: what it runs, since when and until when, and its counters.

use std::sync::atomic::{AtomicBool as PlainBool, AtomicU64 as Plain};

use reef_base::Nanos;
use reef_device::policy::Running;

use crate::sync::{AtomicU64, Ordering};

/// One compute unit's public state. `running` is 0 while it runs nothing, else expected end, rank and slot.
#[derive(Debug, Default)]
pub(crate) struct Cu {
    running: AtomicU64,
    /// When the block that runs started, where it can be killed; 0 otherwise. Written before `running`.
    since: AtomicU64,
    /// A thread on its core would have worked here, had it been parked.
    wanted: PlainBool,
    pub(crate) blocks_done: Plain,
    pub(crate) blocks_killed: Plain,
    pub(crate) blocks_padding: Plain,
    pub(crate) busy: Plain,
    pub(crate) wasted: Plain,
    pub(crate) padding: Plain,
}

impl Cu {
    /// A thread on its core would have been its guest, and may come again: a hint, which orders nothing.
    pub(crate) fn expect_guest(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// Whether one is expected.
    pub(crate) fn expects_guest(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// It parks: a guest finds it so.
    pub(crate) fn admit_guest(&self) {
        self.wanted.store(false, Ordering::Relaxed);
    }

    /// Since when the block that runs does, where it can be killed.
    pub(crate) fn since(&self) -> Option<Nanos> {
        let since = self.since.load(Ordering::Relaxed);
        (since != 0).then_some(Nanos(since))
    }

    /// Publishes that a block runs which started at `since` and can be killed, or cannot (`None`).
    #[inline]
    pub(crate) fn start(&self, running: Running, since: Option<Nanos>) {
        self.since.store(since.unwrap_or_default().0, Ordering::Relaxed);
        self.set_running(Some(running));
    }

    /// Publishes what runs, `None` for nothing.
    #[inline]
    pub(crate) fn set_running(&self, running: Option<Running>) {
        // The end in units of 64 ns, rank, slot + 1.
        let word = running.map_or(0, |running| {
            (running.end.0 >> 6) << 12 | u64::from(running.rank) << 8 | (running.slot as u64 + 1)
        });
        self.running.store(word, Ordering::Release);
    }

    /// What runs.
    pub(crate) fn running(&self) -> Option<Running> {
        let word = self.running.load(Ordering::Acquire);
        (word != 0).then(|| Running {
            slot: (word & 0xFF) as usize - 1,
            rank: (word >> 8 & 0xF) as u8,
            end: Nanos(word >> 12 << 6),
        })
    }
}

/// Adds to a counter that has one writer.
#[inline]
pub(crate) fn bump(counter: &Plain, by: u64) {
    counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_read_as_it_was_published() {
        let cu = Cu::default();
        assert_eq!((cu.running(), cu.since()), (None, None));
        // The end is kept in units of 64 ns.
        for (slot, rank, end) in [(0, 0, 0), (63, 15, 64_000), (5, 3, (1 << 57) + 64)] {
            let running = Running { slot, rank, end: Nanos(end) };
            cu.start(running, Some(Nanos(7)));
            assert_eq!((cu.running(), cu.since()), (Some(running), Some(Nanos(7))));
        }
        cu.start(Running { slot: 1, rank: 1, end: Nanos::ZERO }, None);
        assert_eq!(cu.since(), None, "it cannot be killed");
        cu.set_running(None);
        assert_eq!(cu.running(), None);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Who sees a block that cannot be killed does not take it for the killable one before it.
    #[test]
    fn loom_what_runs_is_seen_with_its_start() {
        loom::model(|| {
            let cu = Arc::new(Cu::default());
            let running = |slot| Running { slot, rank: 15, end: Nanos::ZERO };
            cu.start(running(0), Some(Nanos(5)));
            let other = cu.clone();
            let thread = thread::spawn(move || other.start(running(1), None));
            if cu.running() == Some(running(1)) {
                assert_eq!(cu.since(), None);
            }
            thread.join().unwrap();
        });
    }
}
