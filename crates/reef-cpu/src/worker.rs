//! A compute unit: a thread that picks a block, runs it, settles it, and parks when there is nothing to do.
//!
//! Two reads of the clock and no system call per block. A block that sees a more urgent demand at a poll
//! claims the urgent block first and is then abandoned: the claimed block is *in hand* and runs next.

use std::cell::Cell;
use std::sync::Arc;

use reef_base::panics::contain;
use reef_base::{CuId, Nanos, TaskKey};
use reef_device::policy::{Running, better_placed, limit_of};
use reef_device::{Event, EventKind, TaskCounters};
use reef_plan::Restart;
use rtrb::Producer;

use crate::board::{Board, Claim, NONE};
use crate::context::{Bases, BlockContext, BlockEnd, Demand, Poll};
use crate::cu::bump;
use crate::executor::Executor;
use crate::gate::Gate;
use crate::hosting::Hosted;
use crate::pick::Pick;
use crate::plans::{Loaded, Located, Prepared, locate};
use crate::slot::Task;
use crate::sync::{AtomicU64, Ordering, now};

/// A running block that would end sooner than this is not killed.
const NEARLY_DONE: Nanos = Nanos(2_000);

/// For so long a block leaves urgent work to units that lose less by it: until each of them has polled.
const COURTESY: Nanos = Nanos(reef_base::limits::POLL_PERIOD_CPU_NS);

/// Looks at the board between two looks at the clock.
pub(crate) const LOOKS_PER_CLOCK: u32 = 32;

/// One compute unit.
pub(crate) struct Worker {
    pub(crate) executor: Arc<Executor>,
    pub(crate) cu: usize,
    events: Producer<Event>,
    /// Where `concurrent` goes on.
    pub(crate) turn: usize,
    /// Blocks that are with companions, each more urgent than the one before it.
    pub(crate) hosted: Vec<Hosted>,
    /// When a companion last had the core, or got its first block.
    pub(crate) lent_at: Nanos,
    /// A block claimed by the demand that killed the last one, or kept from the stage just opened.
    pub(crate) hand: Cell<Option<Claim>>,
    /// Whether it is inside the gate.
    inside: bool,
    /// While a guest works here: the limit of the keys of what it works on.
    pub(crate) guest: Option<u64>,
    /// Polled by blocks that must not be stopped.
    never: AtomicU64,
}

/// What a running block asks at a poll that concerns it.
struct BlockDemand<'a> {
    executor: &'a Executor,
    cu: usize,
    rank: u8,
    /// When the block started.
    start: Nanos,
    /// When it will have ended, by its estimate; zero when not known.
    end: Nanos,
    hand: &'a Cell<Option<Claim>>,
    /// First and last time that the block left the urgent work that there is now to others.
    left: Cell<(Nanos, Nanos)>,
}

impl Demand for BlockDemand<'_> {
    fn take(&self) -> bool {
        self.take_at(now())
    }
}

impl BlockDemand<'_> {
    fn take_at(&self, now: Nanos) -> bool {
        if self.hand.get().is_some() {
            return true;
        }
        if now < self.end && self.end - now < NEARLY_DONE || self.leaves_it(now) {
            return false;
        }
        self.hand.set(self.executor.board.claim_urgent(self.cu, self.rank));
        self.hand.get().is_some()
    }

    /// Whether units that lose less are about to take what is urgent, or had no time to do so yet. So long
    /// blocks end, also where short urgent tasks come all the time.
    fn leaves_it(&self, now: Nanos) -> bool {
        let Some(urgent) = self.executor.board.most_urgent(limit_of(self.rank)) else { return false };
        let wanted = urgent.word.remaining().max(1) as usize;
        let rank = TaskKey::from_bits(urgent.key).rank();
        if better_placed(self.executor, self.cu, rank, self.start) < wanted {
            return false;
        }
        let (mut first, last) = self.left.get();
        if now.since(last) > COURTESY {
            first = now;
        }
        self.left.set((first, now));
        now.since(first) < COURTESY
    }
}

impl Worker {
    pub(crate) fn new(executor: Arc<Executor>, cu: usize, events: Producer<Event>) -> Worker {
        let (hand, never) = (Cell::new(None), AtomicU64::new(0));
        let hosted = Vec::with_capacity(usize::from(reef_base::limits::REAL_TIME_LEVELS) + 1);
        let lent_at = Nanos::ZERO;
        let (turn, inside, guest) = (0, false, None);
        Worker { executor, cu, events, turn, hosted, lent_at, hand, inside, guest, never }
    }

    /// Works until the unit is announced as parked, or the gate says stop; whether it does.
    pub(crate) fn work(&mut self) -> bool {
        loop {
            let gate = self.gate();
            if !self.hosted.is_empty() && self.tend() {
                continue;
            }
            match gate {
                Gate::Open | Gate::Poisoned => match self.next() {
                    Some(pick) => self.step(pick),
                    None if !self.hosted.is_empty() => self.attend(),
                    None if self.idle() => return false,
                    None => {}
                },
                shut => {
                    if let Some(claim) = self.hand.take() {
                        self.give_back(claim);
                    }
                    if !self.hosted.is_empty() {
                        self.lend();
                        continue;
                    }
                    if shut == Gate::Stopping {
                        self.leave();
                        return true;
                    }
                    self.executor.board.announce_park(self.cu);
                    if self.parks_if(|gate| gate == Gate::Quiesced) {
                        return false;
                    }
                }
            }
        }
    }

    /// The gate, as seen from inside.
    pub(crate) fn gate(&mut self) -> Gate {
        if self.inside {
            return self.executor.gate();
        }
        self.inside = true;
        self.executor.gates.enter(self.cu)
    }

    fn leave(&mut self) {
        debug_assert!(self.hand.get().is_none() && self.hosted.is_empty(), "who leaves holds no block");
        self.inside = false;
        self.executor.gates.leave(self.cu);
    }

    /// The next block: the one in hand, or the best on the board.
    pub(crate) fn next(&mut self) -> Option<Pick> {
        if let Some(claim) = self.hand.take() {
            return Some(Pick { claim, padding: false });
        }
        self.pick()
    }

    /// The best block on the board for this unit as it is.
    pub(crate) fn pick(&mut self) -> Option<Pick> {
        let beside = || self.hosted.last().map_or(NONE, |hosted| self.executor.limit_beside(hosted.rank));
        let limit = self.guest.unwrap_or_else(beside);
        self.executor.pick(self.cu, &mut self.turn, limit)
    }

    /// Spins for work for a while; true when it is announced as parked then.
    fn idle(&mut self) -> bool {
        let mut since = None;
        for look in 1u32.. {
            if self.executor.gate() != Gate::Open {
                break;
            }
            if let Some(pick) = self.pick() {
                self.step(pick);
                return false;
            }
            if self.executor.is_left_to_guest(self.cu) {
                break;
            }
            if look % LOOKS_PER_CLOCK == 1 {
                let now = now();
                if self.executor.has_waited(now - *since.get_or_insert(now)) {
                    break;
                }
            }
            std::hint::spin_loop();
        }
        self.executor.cus[self.cu].admit_guest();
        self.executor.board.announce_park(self.cu);
        match self.pick() {
            Some(pick) => {
                self.executor.board.withdraw_park(self.cu);
                self.step(pick);
                false
            }
            None => self.parks_if(|gate| gate < Gate::Stopping),
        }
    }

    /// Parks as announced if the gate is as wanted: who moves it wakes every unit afterwards.
    fn parks_if(&mut self, wanted: impl Fn(Gate) -> bool) -> bool {
        let parks = wanted(self.executor.gate());
        match parks {
            true => self.leave(),
            false => self.executor.board.withdraw_park(self.cu),
        }
        parks
    }

    /// A guest leaves with empty hands, and the unit is as it was: parked. Whoever lets it go looks for work
    /// once more.
    pub(crate) fn end_visit(&mut self) {
        if let Some(claim) = self.hand.take() {
            self.give_back(claim);
        }
        self.executor.board.announce_park(self.cu);
        self.leave();
    }

    /// Runs a claimed block, unless something more urgent came up meanwhile.
    pub(crate) fn step(&mut self, mut pick: Pick) {
        let executor = Arc::clone(&self.executor);
        executor.pay_call();
        let scheme = executor.scheme();
        let rank = executor.rank(pick.claim.slot);
        if scheme.is_prioritised()
            && executor.board.poll.load(Ordering::Relaxed) < limit_of(rank)
            && let Some(urgent) = executor.board.claim_urgent(self.cu, rank)
        {
            self.give_back(pick.claim);
            pick = Pick { claim: urgent, padding: false };
        }
        self.run_block(&executor, pick, scheme.kills());
    }

    #[allow(unsafe_code)]
    fn run_block(&mut self, executor: &Executor, pick: Pick, kills: bool) {
        let claim = pick.claim;
        let loaded = executor.loaded(claim.slot);
        let located = locate(loaded, claim);
        if located.prepared.host.is_some() {
            return match self.guest.take() {
                None => self.host(pick),
                // Its thread is none that a companion could stop.
                Some(_) => self.give_back(claim),
            };
        }
        let run = |task: &Task| self.execute(executor, task, loaded, &located, pick, kills);
        // SAFETY: this unit holds a block of the task.
        let (result, ran) = unsafe { executor.slots[claim.slot].task(run) };
        let (total, now) = (located.total, ran.now);
        if let Ok(end) = &result {
            self.account(executor, located.prepared, &ran, end);
        }
        match result {
            Ok(BlockEnd::Done) => self.settle_done(executor, claim, total, now),
            Ok(BlockEnd::Killed) => {
                executor.board.clear_stale_cancel(claim);
                self.give_back(claim);
            }
            Ok(BlockEnd::Failed(fault)) => {
                executor.fail(claim, fault);
                executor.settle_dropped(claim, total, now);
            }
            Err(_) => {
                executor.poison("a kernel panicked");
                executor.settle_dropped(claim, total, now);
            }
        }
        self.show_hosted();
    }

    /// Runs a block of `task`; how it ended, or with what it panicked.
    #[inline]
    #[allow(unsafe_code)]
    fn execute(
        &self,
        executor: &Executor,
        task: &Task,
        loaded: &Loaded,
        located: &Located<'_>,
        pick: Pick,
        kills: bool,
    ) -> (Result<BlockEnd, String>, Ran) {
        let Pick { claim, padding } = pick;
        let &Located { prepared, block, index, .. } = located;
        let start = now();
        let end = prepared.estimate.end_of(start);
        let rank = task.key.rank();
        let restart = prepared.restart == Restart::Safe;
        let since = (kills && restart).then_some(start);
        executor.cus[self.cu].start(Running { slot: claim.slot, rank, end }, since);
        executor.pass_on();
        if claim.word.stage() == 0 {
            executor.slots[claim.slot].note_start(self.cu, start, task.first_cus);
        }
        let left = Cell::default();
        let demand = BlockDemand { executor, cu: self.cu, rank, start, end, hand: &self.hand, left };
        let poll = Poll {
            word: &executor.board.poll,
            threshold: if kills && restart { limit_of(rank) } else { 0 },
            cancel: if restart { &executor.board.slots[claim.slot].cancel } else { &self.never },
            demand: &demand,
        };
        let context = BlockContext {
            bases: Bases { inputs: &task.inputs, outputs: &task.outputs, arena: task.arena },
            weights: &loaded.weights,
            // SAFETY: the scratch is this unit's own.
            scratch: unsafe {
                executor.scratch[self.cu].ensure(loaded.plan.scratch_bytes(), &executor.retired)
            },
            poll,
            host: None,
        };
        // SAFETY: the submitter checked the buffers against the plan; the validator, that stages order
        // writers and readers and that blocks of a stage write apart.
        let result = contain(|| unsafe { prepared.kernel.run(&context, block) });
        let now = now();
        (result, Ran { claim, index, start, now, time: now - start, padding })
    }

    /// Settles a block that ended well. The unit may keep one of the stage that this opens. When a guest is
    /// expected the waker is called once the unit has parked: whom that wakes on this core would find the
    /// seat taken, as it stops the unit's thread.
    pub(crate) fn settle_done(&self, executor: &Executor, claim: Claim, total: u32, now: Nanos) {
        if let Some(kept) = executor.settle(claim, total, self.hand.get().is_none(), now) {
            self.hand.set(Some(kept));
        }
        if self.guest.is_some() || !executor.is_left_to_guest(self.cu) {
            executor.pay_call();
        }
    }

    /// Accounts for a block that came back.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn account(&mut self, executor: &Executor, prepared: &Prepared, ran: &Ran, end: &BlockEnd) {
        let account = |task: &Task| {
            executor.charge(task.key, ran.time);
            match end {
                BlockEnd::Done => self.account_done(executor, task, prepared, ran),
                BlockEnd::Killed => self.account_killed(executor, task, prepared, ran),
                BlockEnd::Failed(_) => {
                    bump(&executor.cus[self.cu].wasted, ran.time.0);
                    self.tally(executor, ran.claim, |tally| tally.wasted_time += ran.time);
                }
            }
        };
        // SAFETY: this unit holds the block.
        unsafe { executor.slots[ran.claim.slot].task(account) };
    }

    /// Adds to what the task of `claim`, which this unit holds, cost here.
    #[inline]
    #[allow(unsafe_code)]
    fn tally(&self, executor: &Executor, claim: Claim, add: impl FnOnce(&mut TaskCounters)) {
        // SAFETY: it is this unit's own tally, and a block is held.
        unsafe { executor.slots[claim.slot].tally(self.cu, add) };
    }

    fn account_done(&mut self, executor: &Executor, task: &Task, prepared: &Prepared, ran: &Ran) {
        let ns = ran.time.0;
        prepared.estimate.add(ns);
        let hint = &executor.board.slots[ran.claim.slot].estimate;
        let before = hint.load(Ordering::Relaxed);
        if before & !Board::KILLABLE == 0 {
            hint.store(before | prepared.estimate.guess(), Ordering::Relaxed);
        }
        let unit = &executor.cus[self.cu];
        bump(&unit.blocks_done, 1);
        bump(&unit.busy, ns);
        self.tally(executor, ran.claim, |tally| {
            tally.blocks_done += 1;
            tally.cu_time += ran.time;
            if ran.padding {
                tally.blocks_padding += 1;
                tally.padding_time += ran.time;
            }
        });
        if ran.padding {
            bump(&unit.blocks_padding, 1);
            bump(&unit.padding, ns);
        }
        if executor.recorder.is_on() {
            let (stage, block) = (ran.claim.word.stage(), ran.index);
            self.record(executor, task, ran, EventKind::Block { stage, block, padding: ran.padding });
        }
    }

    fn account_killed(&mut self, executor: &Executor, task: &Task, prepared: &Prepared, ran: &Ran) {
        let ns = ran.time.0;
        prepared.estimate.add_killed(ns);
        // For who picks the next block: it must not try a block of unknown time again and again.
        let hint = &executor.board.slots[ran.claim.slot].estimate;
        hint.store(
            hint.load(Ordering::Relaxed) & Board::KILLABLE | prepared.estimate.guess(),
            Ordering::Relaxed,
        );
        let unit = &executor.cus[self.cu];
        bump(&unit.blocks_killed, 1);
        bump(&unit.wasted, ns);
        self.tally(executor, ran.claim, |tally| {
            tally.blocks_killed += 1;
            tally.wasted_time += ran.time;
        });
        if executor.recorder.is_on() {
            let (stage, block) = (ran.claim.word.stage(), ran.index);
            self.record(executor, task, ran, EventKind::Killed { stage, block });
        }
        if let Some(urgent) = self.hand.get() {
            self.tally(executor, urgent, |tally| tally.kills_caused += 1);
        }
    }

    /// Puts a block that did not end among those to redo; drops it when its task was closed.
    fn give_back(&self, claim: Claim) {
        // Read while the block is held: afterwards the task may go.
        let total = self.executor.loaded(claim.slot).plan.stages()[claim.word.stage() as usize].blocks();
        match self.executor.board.give_back(self.cu, claim) {
            None => self.executor.wake(1),
            Some(claim) => self.executor.settle_dropped(claim, total, now()),
        }
    }

    pub(crate) fn record(&mut self, executor: &Executor, task: &Task, ran: &Ran, kind: EventKind) {
        let cu = Some(CuId(self.cu as u16));
        let (at, span) = (ran.start, ran.now - ran.start);
        let event = {
            let (key, token, plan) = (task.key, task.token, task.plan);
            Event { at, span, cu, task: task.id, key, token, plan, kind }
        };
        executor.recorder.unit(&mut self.events, event);
    }
}

/// One execution of a block that came back.
pub(crate) struct Ran {
    pub(crate) claim: Claim,
    /// Block of the stage.
    pub(crate) index: u32,
    /// When it had the core from, and until when; the last time, if several.
    pub(crate) start: Nanos,
    pub(crate) now: Nanos,
    /// What it used.
    pub(crate) time: Nanos,
    pub(crate) padding: bool,
}

#[cfg(all(test, not(loom)))]
mod tests;
