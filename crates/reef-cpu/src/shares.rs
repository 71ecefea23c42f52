//! What best-effort owners have used of their shares; see `reef_device::policy::share` for what that means.
//!
//! Compute units add to a pass when a block has ended, submitters raise it when a task comes. Both are
//! read-modify-writes, so no charge is lost. Who compares passes reads hints: nothing else is ordered by
//! them.

use reef_base::{Nanos, Share};
use reef_device::policy::share::{cost, index_of, is_before, joined, least};

use crate::sync::{AtomicU64, Line, Ordering};

/// Owners that are told apart.
const OWNERS: usize = if cfg!(loom) { 2 } else { reef_base::limits::MODELS_MAX };

/// Passes by owner.
#[derive(Debug)]
pub(crate) struct Shares {
    passes: Box<[Line<AtomicU64>]>,
    /// The greatest pass of an owner at the end of a task: where who comes to an empty board begins.
    last: AtomicU64,
}

impl Shares {
    pub(crate) fn new() -> Shares {
        let passes = (0..OWNERS).map(|_| Line(AtomicU64::new(0))).collect();
        Shares { passes, last: AtomicU64::new(0) }
    }

    /// The pass of an owner, by its index.
    #[inline]
    pub(crate) fn pass(&self, owner: usize) -> u64 {
        self.passes[owner].load(Ordering::Relaxed)
    }

    /// A block of the owner's took `time`.
    #[inline]
    pub(crate) fn charge(&self, share: Share, time: Nanos) {
        self.passes[index_of(share)].fetch_add(cost(time, share.weight), Ordering::Relaxed);
    }

    /// A task of the owner's comes to tasks of `present` owners.
    pub(crate) fn join(&self, share: Share, present: impl Iterator<Item = usize>) {
        let floor = present.map(|owner| self.pass(owner)).reduce(least);
        let floor = floor.unwrap_or_else(|| self.last.load(Ordering::Relaxed));
        raise(&self.passes[index_of(share)], |own| joined(own, floor));
    }

    /// A task of the owner's is over.
    pub(crate) fn leave(&self, share: Share) {
        let pass = self.pass(index_of(share));
        raise(&self.last, |last| if is_before(last, pass) { pass } else { last });
    }
}

/// Replaces a word by what `to` makes of it.
fn raise(word: &AtomicU64, to: impl Fn(u64) -> u64) {
    let mut seen = word.load(Ordering::Relaxed);
    while to(seen) != seen {
        match word.compare_exchange_weak(seen, to(seen), Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => seen = now,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ONE: Share = Share { owner: 1, weight: 1 };
    const TWO: Share = Share { owner: 2, weight: 2 };

    #[test]
    fn who_comes_begins_where_others_are_and_who_used_it_alone_owes_nothing() {
        let shares = Shares::new();
        shares.join(ONE, [].into_iter());
        shares.charge(ONE, Nanos(1000));
        shares.join(TWO, [1].into_iter());
        assert_eq!(shares.pass(2), shares.pass(1));
        shares.charge(TWO, Nanos(1000));
        assert_eq!(2 * (shares.pass(2) - cost(Nanos(1000), 1)), cost(Nanos(1000), 1), "by weight");
        shares.leave(ONE);
        shares.leave(TWO);
        shares.join(ONE, [].into_iter());
        assert_eq!(shares.pass(1), shares.pass(2));
    }

    #[test]
    fn who_comes_again_at_once_still_owes() {
        let shares = Shares::new();
        shares.join(ONE, [].into_iter());
        shares.join(TWO, [1].into_iter());
        shares.charge(TWO, Nanos(1000));
        shares.leave(TWO);
        let owes = shares.pass(2);
        shares.join(TWO, [1].into_iter());
        assert_eq!(shares.pass(2), owes);
        assert!(is_before(shares.pass(1), owes));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// A unit charges an owner whose next task comes at the same time.
    #[test]
    fn loom_a_charge_is_not_lost_to_who_comes() {
        loom::model(|| {
            let shares = Arc::new(Shares::new());
            let own = Share { owner: 0, weight: 1 };
            shares.charge(Share { owner: 1, weight: 1 }, Nanos(10));
            let other = shares.clone();
            let unit = thread::spawn(move || other.charge(own, Nanos(20)));
            shares.join(own, [1].into_iter());
            unit.join().unwrap();
            let pass = shares.pass(0);
            assert!(pass == cost(Nanos(20), 1) || pass == cost(Nanos(30), 1), "{pass}");
        });
    }

    /// Two tasks end at the same time: an empty board goes on from the later pass.
    #[test]
    fn loom_the_last_pass_is_the_greatest() {
        loom::model(|| {
            let shares = Arc::new(Shares::new());
            let share = |owner| Share { owner, weight: 1 };
            shares.charge(share(0), Nanos(20));
            shares.charge(share(1), Nanos(10));
            let other = shares.clone();
            let unit = thread::spawn(move || other.leave(share(1)));
            shares.leave(share(0));
            unit.join().unwrap();
            shares.join(share(1), [].into_iter());
            assert_eq!(shares.pass(1), shares.pass(0));
        });
    }
}
