//! Which block a free compute unit (CU) takes next: the live board as `reef_device::policy` sees it, and the
//! claim of what that chooses.
//!
//! A choice is made of words that others change meanwhile. A claim proves that the task was still there; the
//! rest are hints, and a choice made of an old one is one that was right a moment ago.

use reef_base::Nanos;
use reef_device::Scheme;
use reef_device::policy::{self, Ask, Choice, Rules, Running, Stage, limit_of};

use crate::board::{Board, CLAIM_TRIES, Claim, NONE, View, bits};
use crate::executor::{Executor, current_word};
use crate::sync::{Ordering, fence, now};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pick {
    pub(crate) claim: Claim,
    /// It pads a more urgent stage.
    pub(crate) padding: bool,
}

impl Executor {
    /// Claims the next block for `cu`, of a task whose key is below `limit`: nobody else's work than what may
    /// displace the block that the unit holds, see [`Executor::limit_beside`]. `turn` is where `concurrent`
    /// goes on.
    pub(crate) fn pick(&self, cu: usize, turn: &mut usize, limit: u64) -> Option<Pick> {
        if self.board.active() == 0 {
            return None;
        }
        let rules = self.rules();
        if rules.scheme == Scheme::Sequential && limit == NONE {
            self.elect();
        }
        for _ in 0..CLAIM_TRIES {
            let Choice { task, padding } =
                policy::choose(self, rules, Ask { cu: Some(cu), limit, turn: *turn })?;
            if let Some(claim) = self.board.claim(cu, task) {
                *turn = claim.slot;
                return Some(Pick { claim, padding });
            }
        }
        None
    }

    /// Only tasks with smaller keys displace a block of `rank` that a companion runs.
    pub(crate) fn limit_beside(&self, rank: u8) -> u64 {
        if self.scheme().kills() { limit_of(rank) } else { 0 }
    }

    /// Whether a parked unit would find work now.
    pub(crate) fn has_work(&self) -> bool {
        self.has_work_beyond(0)
    }

    /// Whether a parked unit would find work now that is not of a task with a key below `limit`. One look:
    /// what comes meanwhile is not taken for it.
    pub(crate) fn has_work_beyond(&self, limit: u64) -> bool {
        let choice = policy::choose(self, self.rules(), Ask { cu: None, limit: NONE, turn: 0 });
        choice.is_some_and(|choice| choice.task.key >= limit)
    }

    fn rules(&self) -> Rules {
        Rules { scheme: self.scheme(), padding: self.padding }
    }

    /// Elects a current task when there is none. Who elects checks afterwards that the task is still there;
    /// who ends a task checks afterwards whether it is the current one; so no dead task stays elected.
    fn elect(&self) {
        while self.current.load(Ordering::Acquire) == 0 {
            let Some(first) = policy::elect(self) else { return };
            let generation = self.slots[first.slot].lineage.present();
            let word = current_word(first.slot, generation);
            if self.current.compare_exchange(0, word, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                fence(Ordering::SeqCst);
                if !self.is_current(word) {
                    let _ = self.current.compare_exchange(word, 0, Ordering::SeqCst, Ordering::Relaxed);
                }
            }
        }
    }

    fn is_current(&self, word: u64) -> bool {
        let (slot, generation) = crate::slot::parts_of(reef_base::TaskId(word - 1));
        self.board.active() >> slot & 1 != 0 && self.slots[slot].lineage.present() == generation
    }
}

impl policy::Task for View {
    #[inline]
    fn slot(&self) -> usize {
        self.slot
    }
    #[inline]
    fn key(&self) -> u64 {
        self.key
    }
    #[inline]
    fn is_claimable(&self) -> bool {
        self.claimable
    }
    #[inline]
    fn is_closed(&self) -> bool {
        self.word.is_closed()
    }
}

/// The board as it is: every question is a load or two.
impl policy::Board for Executor {
    type Task = View;

    #[inline]
    fn tasks(&self) -> impl Iterator<Item = View> {
        bits(self.board.active()).filter_map(|slot| self.board.view(slot))
    }

    fn holder(&self) -> Option<View> {
        let current = self.current.load(Ordering::Acquire).checked_sub(1)?;
        let (slot, generation) = crate::slot::parts_of(reef_base::TaskId(current));
        self.board.view(slot).filter(|view| view.word.is_of(generation))
    }

    fn stage(&self, slot: usize) -> Stage {
        let estimate = self.board.slots[slot].estimate.load(Ordering::Relaxed);
        Stage {
            block: Nanos(estimate & !Board::KILLABLE),
            killable: estimate & Board::KILLABLE != 0,
            outlook: self.board.outlook(slot),
        }
    }

    fn owner(&self, slot: usize) -> usize {
        self.board.slots[slot].owner.load(Ordering::Relaxed) as usize
    }

    fn pass(&self, owner: usize) -> u64 {
        self.shares.pass(owner)
    }

    fn units(&self) -> usize {
        self.cus.len()
    }

    fn running(&self, cu: usize) -> Option<Running> {
        self.cus[cu].running()
    }

    fn since(&self, cu: usize) -> Option<Nanos> {
        self.cus[cu].since()
    }

    fn is_asleep(&self, cu: usize) -> bool {
        self.board.parked() >> cu & 1 != 0
    }

    fn now(&self) -> Nanos {
        now()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
