//! The generations of a slot's task: one per plan that it runs, and who may end it meanwhile.
//!
//! A task is known by the generation that it began with; on the board it has the one of its present plan. Who
//! ends a task from outside knows the first and must find the present one, while the owner of a settled last
//! stage may be about to move on:
//!
//! | who | step by step |
//! |---|---|
//! | owner | [`Lineage::advance`]; opens the next plan; fence; [`Lineage::is_cancelled`]: then closes |
//! | canceller | [`Lineage::cancel`]: notes the first generation; fence; reads the present one; closes that |
//!
//! One of the two fences comes first: either the owner sees the note, or the canceller the next generation on
//! the board.
//!
//! A canceller may be late: the task ends, and the slot has its next one, between any two of its steps. So it
//! looks once more whose the present generation is, which the next task publishes behind its first; and notes
//! only grow, so that it does not wipe out the one of who cancels the next task.
//!
//! A device that is poisoned is like a canceller, with its gate in the place of the note.

use crate::sync::{AtomicU64, Ordering, fence};

/// Of one slot.
#[derive(Debug)]
pub(crate) struct Lineage {
    /// Full-width generation of the present plan, or of the last one.
    present: AtomicU64,
    /// Generation that the task began with.
    first: AtomicU64,
    /// First generation of a task that is to be cancelled.
    cancelled: AtomicU64,
}

impl Lineage {
    pub(crate) fn new() -> Lineage {
        Lineage { present: AtomicU64::new(0), first: AtomicU64::new(0), cancelled: AtomicU64::new(0) }
    }

    /// The generation of the plan that is, or was, in the slot.
    pub(crate) fn present(&self) -> u64 {
        self.present.load(Ordering::Acquire)
    }

    /// The generation of the slot's next task; for who took the slot.
    pub(crate) fn begin(&self) -> u64 {
        self.present.load(Ordering::Relaxed) + 1
    }

    /// A task of `generation` is about to be published.
    pub(crate) fn publish(&self, generation: u64) {
        self.first.store(generation, Ordering::Release);
        self.present.store(generation, Ordering::Release);
    }

    /// The task goes on with another plan, whose generation is returned; for the owner of its settled last
    /// stage.
    pub(crate) fn advance(&self) -> u64 {
        let generation = self.present.load(Ordering::Relaxed) + 1;
        self.present.store(generation, Ordering::Release);
        generation
    }

    /// Whether somebody wants the task's end; for the owner, once the next plan is on the board.
    pub(crate) fn is_cancelled(&self) -> bool {
        fence(Ordering::SeqCst);
        self.cancelled.load(Ordering::Relaxed) == self.first.load(Ordering::Relaxed)
    }

    /// Somebody wants the end of the task that began with `first`: which generation to close on the board.
    /// `None` when it is not in the slot any more.
    pub(crate) fn cancel(&self, first: u64) -> Option<u64> {
        if self.first.load(Ordering::Acquire) != first {
            return None;
        }
        self.cancelled.fetch_max(first, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let present = self.present();
        (self.first.load(Ordering::Relaxed) == first).then_some(present)
    }
}
