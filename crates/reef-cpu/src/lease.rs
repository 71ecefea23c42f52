//! Leases: a compute unit lends its core to one of its companions, which run code that cannot poll, and takes
//! it back when there is something more urgent to do.
//!
//! A unit and its companions are threads on one core. The unit's word says which of them may run: 0, the
//! unit; k + 1, companion k while the unit sleeps. A companion that may not run is *held*: it waits on the
//! word, before it begins a block or inside the handler of the signal that stops it in the middle of one.
//!
//! | word | who writes it |
//! |---|---|
//! | `core` of a unit | the unit: k + 1 to lend, 0 to take back; anybody: k + 1 → 0 to recall |
//! | `lent`, a bit of each unit | the unit: set before it lends, cleared after it took back; a hint |
//! | `held` of a companion | the companion |
//!
//! Lending against new work: the unit lends, then looks at the board once more; who makes work looks for
//! leases afterwards; with a fence between the two steps of each, one of them sees the other. Taking back
//! against holding: who takes the core away reads `held` afterwards, and sends the signal if it is not set; a
//! companion that goes on clears `held`, then reads the word once more; so no companion goes on unstopped.
//! Whoever recalls sends the signal in any case. A signal is only a knock: one that comes late finds the word
//! as it is by then, and a companion that may run goes on.

use crate::sync::{AtomicU32, AtomicU64, Line, Ordering, fence, futex_wait, futex_wake};

/// Every companion of the unit may go on: the device is going.
const EVERYBODY: u32 = u32::MAX;

/// The words of all units.
#[derive(Debug)]
pub(crate) struct Leases {
    cores: Box<[Line<AtomicU32>]>,
    lent: Line<AtomicU64>,
}

/// One companion's view of its unit's core.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    held: AtomicU32,
}

impl Leases {
    /// Every unit has its core.
    pub(crate) fn new(cus: usize) -> Leases {
        Leases { cores: (0..cus).map(|_| Line::default()).collect(), lent: Line::default() }
    }

    /// Lends the core of `cu`; for the unit, which then must look for work once more.
    pub(crate) fn lend(&self, cu: usize, companion: usize) {
        self.lent.fetch_or(1 << cu, Ordering::AcqRel);
        self.lend_hidden(cu, companion);
    }

    /// Lends the core of `cu` so that nobody recalls it; for the unit.
    pub(crate) fn lend_hidden(&self, cu: usize, companion: usize) {
        // Swaps, not stores: all writes of the word are read-modify-writes, so a recall is before or after.
        self.cores[cu].swap(companion as u32 + 1, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    /// Takes the core of `cu` back, if it was not recalled; for the unit. The companion must be stopped
    /// unless it is held.
    pub(crate) fn take_back(&self, cu: usize) {
        self.cores[cu].swap(0, Ordering::AcqRel);
        self.lent.fetch_and(!(1 << cu), Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    /// Whether the core of `cu` is lent.
    pub(crate) fn is_lent(&self, cu: usize) -> bool {
        self.cores[cu].load(Ordering::Acquire) != 0
    }

    /// Units that may have lent their cores, as a set. Read it behind a fence.
    pub(crate) fn lent(&self) -> u64 {
        self.lent.load(Ordering::Relaxed)
    }

    /// Recalls the core of `cu` for it; the companion that must be stopped, if it was lent.
    pub(crate) fn recall(&self, cu: usize) -> Option<usize> {
        let core = self.cores[cu].load(Ordering::Acquire);
        if core == 0 || core == EVERYBODY {
            return None;
        }
        let taken = self.cores[cu].compare_exchange(core, 0, Ordering::AcqRel, Ordering::Relaxed);
        taken.is_ok().then(|| core as usize - 1)
    }

    /// Holds no companion of `cu` any more.
    pub(crate) fn release(&self, cu: usize) {
        self.cores[cu].store(EVERYBODY, Ordering::Release);
        futex_wake(&self.cores[cu]);
    }

    /// Waits until companion `companion` of `cu` may run. Takes no lock and allocates nothing: signal
    /// handlers call it.
    pub(crate) fn wait(&self, cu: usize, companion: usize, hold: &Hold) {
        let core = &*self.cores[cu];
        let may_run = |core: u32| core == companion as u32 + 1 || core == EVERYBODY;
        loop {
            hold.held.store(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            loop {
                let seen = core.load(Ordering::Acquire);
                if may_run(seen) {
                    break;
                }
                futex_wait(core, seen);
            }
            hold.held.store(0, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if may_run(core.load(Ordering::Acquire)) {
                return;
            }
        }
    }

    /// Lets a companion go on to which `cu` has lent its core; for the unit.
    pub(crate) fn let_go(&self, cu: usize, hold: &Hold) {
        if hold.is_held() {
            futex_wake(&self.cores[cu]);
        }
    }
}

impl Hold {
    /// Whether the companion waits, and looks at the word before it goes on. Read it behind a fence.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed) != 0
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// A companion whose core was taken back, and that was not sent the signal, stays where it is.
    #[test]
    fn loom_a_companion_that_looks_held_does_not_go_on() {
        loom::model(|| {
            let (leases, hold) = (Arc::new(Leases::new(1)), Arc::new(Hold::default()));
            let phase = Arc::new(AtomicU64::new(0));
            let (other, own, at) = (leases.clone(), hold.clone(), phase.clone());
            let thread = thread::spawn(move || {
                other.wait(0, 0, &own);
                at.store(1, Ordering::SeqCst);
            });
            leases.lend(0, 0);
            leases.let_go(0, &hold);
            leases.take_back(0);
            if hold.is_held() {
                assert_eq!(phase.load(Ordering::SeqCst), 0, "it runs, and nobody stops it");
            }
            leases.lend(0, 0);
            leases.let_go(0, &hold);
            thread.join().unwrap();
        });
    }

    /// A unit that lends its core sees the work, or is recalled.
    #[test]
    fn loom_a_unit_does_not_lend_its_core_beside_urgent_work() {
        loom::model(|| {
            let leases = Arc::new(Leases::new(1));
            let work = Arc::new(AtomicU64::new(0));
            let (other, made) = (leases.clone(), work.clone());
            let thread = thread::spawn(move || {
                made.store(1, Ordering::Release);
                fence(Ordering::SeqCst);
                other.lent() != 0 && other.recall(0) == Some(0)
            });
            leases.lend(0, 0);
            let seen = work.load(Ordering::Acquire) == 1;
            let recalled = thread.join().unwrap();
            assert!(seen || recalled && !leases.is_lent(0));
        });
    }

    /// Of two that recall a core at once, one takes it, and has to stop the companion.
    #[test]
    fn loom_one_of_two_recalls_takes_the_core() {
        loom::model(|| {
            let leases = Arc::new(Leases::new(1));
            leases.lend(0, 0);
            let other = leases.clone();
            let thread = thread::spawn(move || other.recall(0));
            let recalled = [leases.recall(0), thread.join().unwrap()];
            assert_eq!(recalled.iter().flatten().collect::<Vec<_>>(), [&0]);
            assert!(!leases.is_lent(0));
        });
    }

    /// A recall that comes late takes a core away that is lent again, or nothing; never one that the unit
    /// has.
    #[test]
    fn loom_a_late_recall_leaves_nobody_without_the_core() {
        loom::model(|| {
            let leases = Arc::new(Leases::new(1));
            leases.lend(0, 0);
            let other = leases.clone();
            let thread = thread::spawn(move || other.recall(0));
            leases.take_back(0);
            leases.lend(0, 1);
            let recalled = thread.join().unwrap();
            assert_eq!(leases.is_lent(0), recalled != Some(1), "{recalled:?}");
        });
    }
}
