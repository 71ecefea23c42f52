//! The compute unit's part in hosting: blocks of host kernels, which companions run on the unit's core.
//!
//! The unit holds the block all the time. It lends its core while it has nothing more urgent to do, and
//! sleeps meanwhile; with something more urgent it takes the core back, and the companion is stopped where it
//! is. A more urgent block may be a host kernel's, too: it goes to another companion. So what is hosted is a
//! stack, each block of a more urgent rank than the one below it, and only the top one ever runs, but for the
//! grace that `companion` explains.

use std::sync::Arc;

use reef_base::{MonotonicClock, Nanos};
use reef_device::EventKind;
use reef_device::policy::Running;

use crate::board::{Claim, bits};
use crate::companion::{Companion, GRACE, GRACE_EVERY, Report};
use crate::context::{BlockEnd, BlockFault};
use crate::pick::Pick;
use crate::plans::{Located, locate};
use crate::worker::{LOOKS_PER_CLOCK, Ran, Worker};

/// A block that is with a companion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hosted {
    claim: Claim,
    /// Its task's.
    pub(crate) rank: u8,
    padding: bool,
    /// When it will have ended, by its estimate, if it is not stopped; zero when not known.
    end: Nanos,
    /// Since when its companion has the core, or when it last had.
    since: Nanos,
}

impl Worker {
    /// Gives a claimed block of a host kernel to a companion.
    #[allow(unsafe_code)]
    pub(crate) fn host(&mut self, pick: Pick) {
        let executor = Arc::clone(&self.executor);
        let Pick { claim, padding } = pick;
        let place = &executor.slots[claim.slot];
        // SAFETY: this unit holds a block of the task.
        let (rank, first_cus) = unsafe { place.task(|task| (task.key.rank(), task.first_cus)) };
        let Located { prepared, total, .. } = locate(executor.loaded(claim.slot), claim);
        let now = MonotonicClock::read();
        debug_assert!(self.hosted.last().is_none_or(|below| rank < below.rank), "only what is more urgent");
        // Who submitted the task has started it, if the system has threads.
        let Some(companion) = executor.crew.find(self.cu, self.hosted.len()) else {
            executor.fail(claim, BlockFault::NoThread);
            executor.settle_dropped(claim, total, now);
            return;
        };
        let end = prepared.estimate.end_of(now);
        if self.hosted.is_empty() {
            self.lent_at = now;
        }
        self.hosted.push(Hosted { claim, rank, padding, end, since: now });
        self.show_hosted();
        executor.pass_on();
        if claim.word.stage() == 0 {
            place.note_start(self.cu, now, first_cus);
        }
        companion.give(claim);
    }

    /// Publishes that the unit is busy with the block on top, or with nothing.
    pub(crate) fn show_hosted(&self) {
        let running =
            self.hosted.last().map(|top| Running { slot: top.claim.slot, rank: top.rank, end: top.end });
        match running {
            Some(running) => self.executor.cus[self.cu].start(running, None),
            None => self.executor.cus[self.cu].set_running(None),
        }
    }

    /// Settles the block on top if it has ended, or lets stopped ones go on for a moment if it is time: true
    /// if it did either.
    pub(crate) fn tend(&mut self) -> bool {
        if self.top().is_done() {
            self.collect();
            return true;
        }
        if MonotonicClock::read().since(self.lent_at) > GRACE_EVERY {
            self.grace();
            return true;
        }
        false
    }

    /// The companion that has the block on top.
    fn top(&self) -> &Companion {
        self.executor.crew.get(self.cu, self.hosted.len() - 1)
    }

    /// Nothing to do but what is hosted: waits a little for more urgent work, if there may be some soon, then
    /// lends the core.
    pub(crate) fn attend(&mut self) {
        let mut since = None;
        for look in 1u32.. {
            if !self.is_more_urgent_active() || self.executor.gate() != crate::gate::Gate::Open {
                break;
            }
            if let Some(pick) = self.pick() {
                return self.step(pick);
            }
            if look % LOOKS_PER_CLOCK == 1 {
                let now = MonotonicClock::read();
                if now - *since.get_or_insert(now) >= self.executor.spin {
                    break;
                }
            }
            std::hint::spin_loop();
        }
        self.lend();
    }

    /// Whether a task on the board may displace what is hosted, now or with a later stage.
    fn is_more_urgent_active(&self) -> bool {
        let Some(top) = self.hosted.last() else { return false };
        let (board, limit) = (&self.executor.board, self.executor.limit_beside(top.rank));
        bits(board.active()).filter_map(|slot| board.view(slot)).any(|view| view.key < limit)
    }

    /// Lends the core to the companion on top until its block has ended or the core is recalled; not at all
    /// if there is work that should come first.
    pub(crate) fn lend(&mut self) {
        let executor = Arc::clone(&self.executor);
        let index = self.hosted.len() - 1;
        executor.leases.lend(self.cu, index);
        if executor.gate() < crate::gate::Gate::Quiesced
            && let Some(pick) = self.pick()
        {
            executor.leases.take_back(self.cu);
            self.top().stop();
            return self.step(pick);
        }
        let begin = MonotonicClock::read();
        self.hosted[index].since = begin;
        self.top().go(&executor, self.cu);
        while executor.leases.is_lent(self.cu) && !self.top().is_done() {
            if index == 0 {
                executor.bells[self.cu].wait();
            } else {
                executor.bells[self.cu].wait_for(GRACE_EVERY.into());
                if MonotonicClock::read().since(self.lent_at) > GRACE_EVERY {
                    break;
                }
            }
        }
        executor.leases.take_back(self.cu);
        self.top().stop();
        if index == 0 {
            self.lent_at = MonotonicClock::read();
        }
        self.record_part(index, begin);
    }

    /// Every companion that was stopped may go on for a moment: it may hold what others wait for.
    fn grace(&mut self) {
        let executor = Arc::clone(&self.executor);
        for index in 0..self.hosted.len() {
            let companion = executor.crew.get(self.cu, index);
            let begin = MonotonicClock::read();
            self.hosted[index].since = begin;
            executor.leases.lend_hidden(self.cu, index);
            companion.go(&executor, self.cu);
            while !companion.is_done() {
                let left = GRACE.0.saturating_sub(MonotonicClock::read().since(begin).0);
                if left == 0 {
                    break;
                }
                executor.bells[self.cu].wait_for(Nanos(left).into());
            }
            executor.leases.take_back(self.cu);
            companion.stop();
            self.record_part(index, begin);
        }
        self.lent_at = MonotonicClock::read();
    }

    /// A companion had the core from `begin` until now, and its block has not ended.
    #[allow(unsafe_code)]
    fn record_part(&mut self, index: usize, begin: Nanos) {
        let executor = Arc::clone(&self.executor);
        if !executor.recorder.is_on() || executor.crew.get(self.cu, index).is_done() {
            return;
        }
        let claim = self.hosted[index].claim;
        let block = locate(executor.loaded(claim.slot), claim).index;
        let now = MonotonicClock::read();
        let ran = Ran { claim, index: block, start: begin, now, time: now - begin, padding: false };
        let kind = EventKind::Part { stage: claim.word.stage(), block };
        // SAFETY: this unit holds a block of the task.
        unsafe { executor.slots[claim.slot].task(|task| self.record(&executor, task, &ran, kind)) };
    }

    /// Takes the block on top from its companion, which has ended it, and settles it.
    fn collect(&mut self) {
        let executor = Arc::clone(&self.executor);
        let companion = executor.crew.get(self.cu, self.hosted.len() - 1);
        let Report { end, time } = companion.take();
        let Hosted { claim, padding, since, .. } = self.hosted.pop().expect("there is one on top");
        let Located { prepared, index, total, .. } = locate(executor.loaded(claim.slot), claim);
        let now = MonotonicClock::read();
        let ran = Ran { claim, index, start: since, now, time, padding };
        self.account(&executor, prepared, &ran, &end);
        match end {
            BlockEnd::Done => self.settle_done(&executor, claim, total, now),
            BlockEnd::Failed(fault) => {
                if let Some(other) = executor.fail(claim, fault) {
                    // Others may be stopped, so it is not freed here.
                    companion.keep(Report { end: BlockEnd::Failed(other), time });
                }
                executor.settle_dropped(claim, total, now);
            }
            BlockEnd::Killed => unreachable!("a host kernel does not poll"),
        }
        self.show_hosted();
    }
}
