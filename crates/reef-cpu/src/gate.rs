//! The gate: whether tasks are taken and blocks run, and how to wait until none does.
//!
//! A compute unit *enters* before it looks for work and *leaves* with empty hands: no claim, no block in
//! hand, none with a companion. In between it looks at the gate before each pick. Who shuts the gate and then
//! sees that no unit is inside knows that nobody holds a block, and that nobody will take one before the gate
//! opens: entering writes its mark, then a fence, then reads the gate; shutting writes the gate, then a
//! fence, then reads the marks; so one of them sees the other. A mark is set once per stretch of work, not
//! per block, so blocks pay nothing for it.
//!
//! | word | who writes it |
//! |---|---|
//! | `gate` | anybody; forwards only, but for `Quiesced` back to `Open` |
//! | `inside[cu]` | the unit |

use crate::sync::{AtomicU64, Line, Ordering, fence};

/// Whether tasks are taken and blocks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Gate {
    /// Both.
    Open = 0,
    /// Neither; tasks stay where they are.
    Quiesced = 1,
    /// Tasks on the board end, new ones are refused.
    Poisoned = 2,
    /// Compute units leave for good.
    Stopping = 3,
}

/// The gate and the marks of who is inside.
#[derive(Debug)]
pub(crate) struct Gates {
    gate: Line<AtomicU64>,
    inside: Box<[Line<AtomicU64>]>,
}

impl Gates {
    /// Open, with nobody inside.
    pub(crate) fn new(cus: usize) -> Gates {
        let word = || Line(AtomicU64::new(0));
        Gates { gate: word(), inside: (0..cus).map(|_| word()).collect() }
    }

    /// The gate.
    #[inline]
    pub(crate) fn now(&self) -> Gate {
        match self.gate.load(Ordering::Acquire) {
            0 => Gate::Open,
            1 => Gate::Quiesced,
            2 => Gate::Poisoned,
            _ => Gate::Stopping,
        }
    }

    /// Marks `cu` as inside; the gate as it is afterwards. Who finds it shut must leave again.
    pub(crate) fn enter(&self, cu: usize) -> Gate {
        self.inside[cu].store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.now()
    }

    /// Takes the mark of `cu` away. It holds no block.
    pub(crate) fn leave(&self, cu: usize) {
        // Whoever sees the mark gone sees what the unit did to its tasks.
        self.inside[cu].store(0, Ordering::Release);
    }

    /// Whether no unit is inside; for who has moved the gate.
    pub(crate) fn is_empty(&self) -> bool {
        self.inside.iter().all(|mark| mark.load(Ordering::Acquire) == 0)
    }

    /// Moves the gate from `from` to `to`, if it is there.
    pub(crate) fn change(&self, from: Gate, to: Gate) -> bool {
        let moved =
            self.gate.compare_exchange(from as u64, to as u64, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        fence(Ordering::SeqCst);
        moved
    }

    /// Moves the gate to `to` unless it is further already.
    pub(crate) fn shut(&self, to: Gate) {
        self.gate.fetch_max(to as u64, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_gate_moves_forwards_and_back_from_quiesced_only() {
        let gates = Gates::new(1);
        assert!(gates.change(Gate::Open, Gate::Quiesced) && !gates.change(Gate::Open, Gate::Quiesced));
        assert!(gates.change(Gate::Quiesced, Gate::Open));
        for (to, is) in [
            (Gate::Poisoned, Gate::Poisoned),
            (Gate::Quiesced, Gate::Poisoned),
            (Gate::Stopping, Gate::Stopping),
            (Gate::Poisoned, Gate::Stopping),
        ] {
            gates.shut(to);
            assert_eq!(gates.now(), is);
        }
        assert!(!gates.change(Gate::Quiesced, Gate::Open));
    }

    #[test]
    fn a_unit_is_inside_from_when_it_enters_until_it_leaves() {
        let gates = Gates::new(2);
        assert!(gates.is_empty());
        assert_eq!(gates.enter(1), Gate::Open);
        assert!(!gates.is_empty());
        gates.leave(1);
        assert!(gates.is_empty());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::sync::UnsafeCell;

    /// Who shuts the gate and finds nobody inside is alone, and sees what those did who were.
    #[test]
    #[allow(unsafe_code)]
    fn loom_behind_an_empty_gate_nobody_works() {
        for poison in [false, true] {
            loom::model(move || {
                let (gates, data) = (Arc::new(Gates::new(1)), Arc::new(UnsafeCell::new(0)));
                let (other, cell) = (gates.clone(), data.clone());
                // SAFETY: loom reports a race.
                let work = |cell: &UnsafeCell<u64>| cell.with_mut(|value| unsafe { *value += 1 });
                let thread = thread::spawn(move || {
                    if other.enter(0) == Gate::Open {
                        work(&cell);
                    }
                    other.leave(0);
                });
                match poison {
                    true => gates.shut(Gate::Poisoned),
                    false => assert!(gates.change(Gate::Open, Gate::Quiesced)),
                }
                if gates.is_empty() {
                    work(&data);
                }
                thread.join().unwrap();
            });
        }
    }
}
