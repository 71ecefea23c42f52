//! How long a block of a kernel takes: a running mean, measured on blocks that ran to their end.

use std::sync::atomic::{AtomicU64, Ordering};

use reef_base::Nanos;

/// Marks a lower bound, known from a block that was killed before one ended.
const BOUND: u64 = 1 << 62;

/// Measured block time in nanoseconds. Written without care for races: a lost sample does not matter.
#[derive(Debug, Default)]
pub(crate) struct Estimate(AtomicU64);

impl Estimate {
    /// The mean, if a block has ended.
    pub(crate) fn mean(&self) -> Option<u64> {
        let value = self.0.load(Ordering::Relaxed);
        (value != 0 && value & BOUND == 0).then_some(value)
    }

    /// The mean, or else what a block takes at least; 0 when nothing is known.
    #[inline]
    pub(crate) fn guess(&self) -> u64 {
        self.0.load(Ordering::Relaxed) & !BOUND
    }

    /// When a block will have ended that starts now; zero when nothing is known.
    #[inline]
    pub(crate) fn end_of(&self, start: Nanos) -> Nanos {
        let guess = self.guess();
        if guess == 0 { Nanos::ZERO } else { start + Nanos(guess) }
    }

    /// Adds a block that ended. An outlier (the thread lost its core) counts no more than four times the
    /// mean.
    #[inline]
    pub(crate) fn add(&self, ns: u64) {
        let before = self.0.load(Ordering::Relaxed);
        let value = if before == 0 || before & BOUND != 0 {
            ns
        } else {
            // Rounded up: from 1 ns, too, the mean can rise.
            (before * 7 + ns.min(before * 4)).div_ceil(8)
        };
        self.0.store(value.clamp(1, BOUND - 1), Ordering::Relaxed);
    }

    /// A block was killed after `ns`. Before any block has ended, that bounds the time from below.
    pub(crate) fn add_killed(&self, ns: u64) {
        let before = self.0.load(Ordering::Relaxed);
        let bound = ns.saturating_mul(2).clamp(1, BOUND - 1);
        if (before == 0 || before & BOUND != 0) && before & !BOUND < bound {
            self.0.store(bound | BOUND, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_mean_follows_the_samples_and_outliers_are_cut() {
        let estimate = Estimate::default();
        assert_eq!((estimate.mean(), estimate.guess()), (None, 0));
        estimate.add_killed(50);
        assert_eq!((estimate.mean(), estimate.guess()), (None, 100));
        estimate.add(1000);
        assert_eq!(estimate.mean(), Some(1000));
        estimate.add_killed(1_000_000);
        estimate.add(1_000_000);
        assert_eq!(estimate.mean(), Some(1375));
        (0..100).for_each(|_| estimate.add(2000));
        assert!(estimate.guess().abs_diff(2000) < 20);
        let estimate = Estimate::default();
        estimate.add(0);
        (0..100).for_each(|_| estimate.add(2000));
        assert!(estimate.guess().abs_diff(2000) < 20);
    }
}
