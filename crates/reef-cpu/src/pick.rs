//! Which block a free compute unit (CU) takes next: the schemes, and the rule of padding.
//!
//! `reset`, `wait` and `rt-only` go by key. While a real-time task has an open stage whose blocks are all
//! claimed, a CU may *pad* it with a block of another task. Two rules say which ([`Padding`]):
//!
//! - *Fitting*, the paper's rule 1 of section 5.2: a block that will end before the stage's running blocks
//!   do, by measured block times (occupancy, its rule 2, does not exist for CPU threads). All that `wait` can
//!   do.
//! - *Preemptible*: the best block there is, unless the urgent task will want the CU before it ends. The task
//!   does not want it while the stages that come (see [`Outlook`]) are no wider than the CUs that it has or
//!   that nobody uses. If that turns out wrong, the block is killed, which costs the task a poll period.
//!
//! A block of unknown time may try once if it can be killed, or if it is as urgent as the task: being killed
//! bounds its time from below. `concurrent` takes turns among tasks. `sequential` runs one task to its end.

use std::sync::atomic::{Ordering, fence};

use reef_base::{MonotonicClock, Nanos};
use reef_device::{Padding, Scheme};

use crate::board::{Board, CLAIM_TRIES, Claim, NONE, Outlook, View, bits, is_real_time, limit_of};
use crate::executor::{Executor, current_word};

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
        match self.scheme() {
            Scheme::Concurrent if limit == NONE => self.pick_in_turn(cu, turn),
            Scheme::Sequential if limit == NONE => self.pick_current(cu),
            Scheme::Concurrent | Scheme::Sequential => None,
            scheme => self.pick_by_key(cu, limit.min(limit_under(scheme)), scheme.kills()),
        }
    }

    /// Only tasks with smaller keys displace a block of `rank` that a companion runs.
    pub(crate) fn limit_beside(&self, rank: u8) -> u64 {
        if self.scheme().kills() { limit_of(rank) } else { 0 }
    }

    /// Whether a parked unit would find work now.
    pub(crate) fn has_work(&self) -> bool {
        match self.scheme() {
            Scheme::Concurrent => self.board.claimable_blocks(1) > 0,
            Scheme::Sequential => self.current_view().is_some_and(|view| view.claimable),
            scheme => self.choose(NO_CU, limit_under(scheme), scheme.kills()).is_some(),
        }
    }

    fn pick_by_key(&self, cu: usize, limit: u64, kills: bool) -> Option<Pick> {
        for _ in 0..CLAIM_TRIES {
            let (view, padding) = self.choose(cu, limit, kills)?;
            if let Some(claim) = self.board.claim(cu, view) {
                return Some(Pick { claim, padding });
            }
        }
        None
    }

    /// The task to claim a block of for `cu`, and whether that would be padding.
    fn choose(&self, cu: usize, limit: u64, kills: bool) -> Option<(View, bool)> {
        let best = self.board.most_urgent(limit)?;
        match self.waiting(best.key) {
            None => Some((best, false)),
            Some(waiting) => Some((self.padding(cu, waiting, limit, kills)?, true)),
        }
    }

    /// The most urgent real-time task more urgent than `limit` that has nothing to claim.
    fn waiting(&self, limit: u64) -> Option<View> {
        let views = bits(self.board.active()).filter_map(|slot| self.board.view(slot));
        views
            .filter(|view| is_real_time(view.key) && view.key < limit)
            .filter(|view| !view.claimable && !view.word.is_closed())
            .min_by_key(|view| view.key)
    }

    /// The most urgent task whose next block may pad the open stage of `waiting`.
    fn padding(&self, cu: usize, waiting: View, limit: u64, kills: bool) -> Option<View> {
        let now = MonotonicClock::read();
        let preemptible = kills && self.padding == Padding::Preemptible;
        let end = match preemptible {
            true => self.wanted_again(cu, waiting.slot)?,
            false => self.stage_end(waiting.slot)?,
        };
        let fits = |view: &View| {
            let (ns, killable) = self.block_time(view.slot);
            let may_try = kills && killable && preempts(waiting, *view);
            let equals = preemptible && !preempts(waiting, *view);
            if ns == 0 { may_try || equals } else { now + Nanos(ns) <= end }
        };
        bits(self.board.active())
            .filter_map(|slot| self.board.view(slot))
            .filter(|view| view.claimable && view.key > waiting.key && view.key < limit)
            .filter(fits)
            .min_by_key(|view| view.key)
    }

    /// When the task in `slot`, whose blocks are all claimed, will want `cu` for a later stage; `None` if
    /// that is not known.
    fn wanted_again(&self, cu: usize, slot: usize) -> Option<Nanos> {
        let outlook = self.board.outlook(slot);
        let parked = self.board.parked();
        let has = |other: &usize| match self.cus[*other].running() {
            Some(running) => running.slot == slot,
            None => parked >> other & 1 == 0,
        };
        let ready = (0..self.cus.len()).filter(|&other| other != cu).filter(has).count();
        if ready < outlook.width as usize {
            return self.stage_end(slot);
        }
        if outlook.calm == Outlook::FOR_GOOD {
            return Some(Nanos::MAX);
        }
        // As if the stages until then were like this one.
        let (ns, _) = self.block_time(slot);
        Some(self.stage_end(slot)? + Nanos(ns.saturating_mul(u64::from(outlook.calm))))
    }

    /// What a block of the open stage in `slot` takes, 0 when not known, and whether it can be killed.
    fn block_time(&self, slot: usize) -> (u64, bool) {
        let estimate = self.board.slots[slot].estimate.load(Ordering::Relaxed);
        (estimate & !Board::KILLABLE, estimate & Board::KILLABLE != 0)
    }

    /// When the blocks of the task in `slot` that run now will have ended; `None` if that is not known.
    fn stage_end(&self, slot: usize) -> Option<Nanos> {
        let mut end = None;
        for running in self.cus.iter().filter_map(|cu| cu.running()).filter(|running| running.slot == slot) {
            if running.end == Nanos::ZERO {
                return None;
            }
            end = end.max(Some(running.end));
        }
        end
    }

    fn pick_in_turn(&self, cu: usize, turn: &mut usize) -> Option<Pick> {
        let slots = self.board.slots.len();
        for offset in 1..=slots {
            let slot = (*turn + offset) % slots;
            if self.board.active() >> slot & 1 != 0
                && let Some(view) = self.board.view(slot)
                && view.claimable
                && let Some(claim) = self.board.claim(cu, view)
            {
                *turn = slot;
                return Some(Pick { claim, padding: false });
            }
        }
        None
    }

    /// Elects a current task when there is none. Who elects checks afterwards that the task is still there;
    /// who ends a task checks afterwards whether it is the current one; so no dead task stays elected.
    fn pick_current(&self, cu: usize) -> Option<Pick> {
        loop {
            let current = self.current.load(Ordering::Acquire);
            if current == 0 {
                let active = bits(self.board.active()).filter_map(|slot| self.board.view(slot));
                let first = active.min_by_key(|view| view.key)?;
                let generation = self.slots[first.slot].lineage.present();
                let word = current_word(first.slot, generation);
                if self.current.compare_exchange(0, word, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                    fence(Ordering::SeqCst);
                    if !self.is_current(word) {
                        let _ = self.current.compare_exchange(word, 0, Ordering::SeqCst, Ordering::Relaxed);
                    }
                }
                continue;
            }
            let view = self.current_view().filter(|view| view.claimable)?;
            let claim = self.board.claim(cu, view)?;
            return Some(Pick { claim, padding: false });
        }
    }

    /// The task that runs under `sequential`, if one is elected.
    fn current_view(&self) -> Option<View> {
        let current = self.current.load(Ordering::Acquire).checked_sub(1)?;
        let (slot, generation) = crate::slot::parts_of(reef_base::TaskId(current));
        self.board.view(slot).filter(|view| view.word.is_of(generation))
    }

    fn is_current(&self, word: u64) -> bool {
        let (slot, generation) = crate::slot::parts_of(reef_base::TaskId(word - 1));
        self.board.active() >> slot & 1 != 0 && self.slots[slot].lineage.present() == generation
    }
}

/// No unit in particular: one that is not there.
const NO_CU: usize = usize::MAX;

/// Tasks with smaller keys may run.
fn limit_under(scheme: Scheme) -> u64 {
    if scheme == Scheme::RtOnly { limit_of(reef_base::limits::REAL_TIME_LEVELS) } else { NONE }
}

fn preempts(urgent: View, other: View) -> bool {
    let key = reef_base::TaskKey::from_bits;
    key(urgent.key).preempts(key(other.key))
}

#[cfg(all(test, not(loom)))]
mod tests;
