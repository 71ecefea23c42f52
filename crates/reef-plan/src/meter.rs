//! Counts of what blocks of synthetic kernels did: starts and polls. Knows no kernel.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what the blocks of synthetic kernels do, so that tests can tell order without a clock. No part of
/// what a kernel computes: all meters are equal.
#[derive(Clone, Default)]
pub struct Meter(Arc<Counts>);

#[derive(Default)]
struct Counts {
    starts: AtomicU64,
    polls: AtomicU64,
    /// Whose counts are noted when a block starts.
    watched: Option<Meter>,
    seen: AtomicU64,
}

impl Meter {
    /// A meter whose blocks note what `watched` has counted when the last of them started.
    pub fn watching(watched: &Meter) -> Meter {
        Meter(Arc::new(Counts { watched: Some(watched.clone()), ..Counts::default() }))
    }

    /// A block starts. For devices.
    pub fn start(&self) {
        if let Some(watched) = &self.0.watched {
            let (starts, polls) = watched.read();
            self.0.seen.store(starts << 32 | polls, Ordering::SeqCst);
        }
        self.0.starts.fetch_add(1, Ordering::SeqCst);
    }

    /// A block polls, so many times. For devices.
    pub fn poll(&self, count: u64) {
        self.0.polls.fetch_add(count, Ordering::SeqCst);
    }

    /// Blocks that started, and polls, so far.
    pub fn read(&self) -> (u64, u64) {
        (self.0.starts.load(Ordering::SeqCst), self.0.polls.load(Ordering::SeqCst))
    }

    /// What the watched meter said when the last block started.
    pub fn seen(&self) -> (u64, u64) {
        let seen = self.0.seen.load(Ordering::SeqCst);
        (seen >> 32, seen & u64::from(u32::MAX))
    }
}

impl PartialEq for Meter {
    fn eq(&self, _: &Meter) -> bool {
        true
    }
}

impl Eq for Meter {}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meter")
    }
}
