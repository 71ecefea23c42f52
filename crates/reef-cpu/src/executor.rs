//! What submitters, compute units and cancellers share, and the steps that any of them may take on a task.
//!
//! Order at a task's end, by the one caller that settled its last block: why it ended and counters are
//! written, the task leaves the board, its slot is handed to who fetches completions, the waker is called,
//! and parked units that may now run held-back work are woken. From then on the slot belongs to who pops the
//! completion.

use std::sync::atomic::AtomicU64 as Plain;
use std::sync::{Arc, PoisonError};

use reef_base::panics::contain;
use reef_base::{Nanos, Share, TaskId, TaskKey};
use reef_device::policy::share::index_of;
use reef_device::policy::{self, is_real_time, limit_of};
use reef_device::{Completion, Event, EventKind, LoadedPlan, Outcome, Padding, Scheme, Wake};

use crate::bell::Bell;
use crate::board::word::{Reason, Word};
use crate::board::{Board, Claim, bits};
use crate::companion::Crew;
use crate::context::BlockFault;
use crate::cu::Cu;
use crate::events::Recorder;
use crate::gate::{Gate, Gates};
use crate::lease::Leases;
use crate::memory::{Grown, Retired};
use crate::plans::{Loaded, PLANS_MAX, PlanTable};
use crate::shares::Shares;
use crate::slot::{Ended, Task, TaskSlot, parts_of, task_id};
use crate::sync::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Line, Mutex, Ordering, fence, now};
use crate::thread::Placement;

/// How many times as long a unit looks for work while a real-time task is on the board.
const SPINS_FOR_STAGE: u64 = 4;

/// Who is called when completions are ready; boxed so that its address stays.
struct Waker(Arc<dyn Wake>);

/// The shared part of a CPU device.
pub(crate) struct Executor {
    pub(crate) board: Board,
    pub(crate) slots: Box<[TaskSlot]>,
    pub(crate) plans: PlanTable,
    pub(crate) cus: Box<[Line<Cu>]>,
    pub(crate) scratch: Box<[Grown]>,
    pub(crate) retired: Retired,
    pub(crate) recorder: Recorder,
    /// Wake the units.
    pub(crate) bells: Box<[Line<Bell>]>,
    pub(crate) spin: Nanos,
    /// Slot and generation of the one task that runs under `sequential`, plus 1; 0 for none.
    pub(crate) current: Line<AtomicU64>,
    pub(crate) gates: Gates,
    pub(crate) leases: Leases,
    /// What best-effort owners have used.
    pub(crate) shares: Shares,
    /// The threads that units lend their cores to.
    pub(crate) crew: Crew,
    scheme: AtomicU8,
    /// Which blocks may pad a more urgent stage.
    pub(crate) padding: Padding,
    waker: AtomicPtr<Waker>,
    /// A task is over, and the waker was not called since.
    owes_call: AtomicBool,
    // Boxed: compute units hold their addresses.
    #[allow(clippy::vec_box)]
    wakers: Mutex<Vec<Box<Waker>>>,
    pub(crate) poison_reason: Mutex<String>,
    // Counters, which order nothing.
    pub(crate) submitted: Plain,
    pub(crate) ended: Plain,
    pub(crate) preemptions: Plain,
}

impl Executor {
    pub(crate) fn new(
        slots: usize,
        reserved: usize,
        placements: Box<[Placement]>,
        spin: Nanos,
        padding: Padding,
        recorder: Recorder,
    ) -> Executor {
        let cus = placements.len();
        Executor {
            board: Board::new(slots, reserved, cus),
            slots: (0..slots).map(|_| TaskSlot::new(cus)).collect(),
            plans: PlanTable::new(PLANS_MAX),
            cus: (0..cus).map(|_| Line::default()).collect(),
            scratch: (0..cus).map(|_| Grown::default()).collect(),
            retired: Retired::default(),
            recorder,
            bells: (0..cus).map(|_| Line::default()).collect(),
            spin,
            current: Line(AtomicU64::new(0)),
            gates: Gates::new(cus),
            leases: Leases::new(cus),
            shares: Shares::new(),
            crew: Crew::new(placements),
            scheme: AtomicU8::new(0),
            padding,
            waker: AtomicPtr::new(std::ptr::null_mut()),
            owes_call: AtomicBool::new(false),
            wakers: Mutex::new(Vec::new()),
            poison_reason: Mutex::new(String::new()),
            submitted: Plain::new(0),
            ended: Plain::new(0),
            preemptions: Plain::new(0),
        }
    }

    /// The scheme in force.
    pub(crate) fn scheme(&self) -> Scheme {
        Scheme::ALL[self.scheme.load(Ordering::Relaxed) as usize]
    }

    pub(crate) fn set_scheme(&self, scheme: Scheme) {
        let index = Scheme::ALL.iter().position(|&each| each == scheme).expect("every scheme is listed");
        self.scheme.store(index as u8, Ordering::Relaxed);
        self.wake_all();
    }

    /// The gate.
    pub(crate) fn gate(&self) -> Gate {
        self.gates.now()
    }

    /// Moves the gate from `from` to `to`, if it is there.
    pub(crate) fn move_gate(&self, from: Gate, to: Gate) -> bool {
        let moved = self.gates.change(from, to);
        self.wake_all();
        moved
    }

    /// Moves the gate to `to` unless it is further already.
    pub(crate) fn shut_gate(&self, to: Gate) {
        self.gates.shut(to);
        self.wake_all();
    }

    /// Settles a block that the caller holds and that was not run to its end; goes on with its task when it
    /// was the last of its stage.
    pub(crate) fn settle_dropped(&self, claim: Claim, total: u32, now: Nanos) {
        if self.board.settle(claim.slot, 1, total, true) {
            self.advance(claim.slot, claim.word, false, now);
            self.pay_call();
        }
    }

    /// Settles a block that the caller ran; goes on with its task when it was the last of its stage. With
    /// `keep`, the first block of the stage that this opens may come back: the caller then holds it. The
    /// caller has to see to it that the waker is called ([`Executor::pay_call`]).
    pub(crate) fn settle(&self, claim: Claim, total: u32, keep: bool, now: Nanos) -> Option<Claim> {
        if !self.board.settle(claim.slot, 1, total, false) {
            return None;
        }
        self.advance(claim.slot, claim.word, keep, now)
    }

    /// Ends the task of `generation` in `slot` early, unless it is over.
    pub(crate) fn close(&self, slot: usize, generation: u64, reason: Reason) {
        let held = self.board.close(slot, generation, reason);
        if held.blocks == 0 {
            return;
        }
        // The blocks that are held keep the task in its slot.
        let total = self.stage_blocks(slot, held.stage);
        if self.board.settle(slot, held.blocks, total, true) {
            self.advance(slot, Word::new(generation, held.stage, 0), false, now());
            self.pay_call();
        }
    }

    /// Ends `task` early, unless it is over.
    pub(crate) fn cancel(&self, task: TaskId) {
        let (slot, first) = parts_of(task);
        if let Some(generation) = self.slots.get(slot).and_then(|place| place.lineage.cancel(first)) {
            self.close(slot, generation, Reason::Cancelled);
        }
    }

    /// A block of the task failed; the caller holds it and drops it afterwards. Gives `fault` back if another
    /// block failed first.
    pub(crate) fn fail(&self, claim: Claim, fault: BlockFault) -> Option<BlockFault> {
        let slot = &self.slots[claim.slot];
        let mut first = slot.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let second = match &*first {
            Some(_) => Some(fault),
            None => {
                *first = Some(fault);
                None
            }
        };
        drop(first);
        self.close(claim.slot, slot.lineage.present(), Reason::Failed);
        second
    }

    /// Ends every task on the board for `reason`.
    pub(crate) fn close_all(&self, reason: Reason) {
        for slot in bits(self.board.active()) {
            self.close(slot, self.slots[slot].lineage.present(), reason);
        }
    }

    /// Wakes as many parked units as `blocks` new blocks can use beside those that are awake without work,
    /// and has units come back that lent their cores, if the blocks are more urgent.
    pub(crate) fn wake(&self, blocks: u32) {
        self.board.before_wake();
        // The usual case beside load. What other units do is in their caches, and need not be asked for.
        if self.board.parked() | self.leases.lent() == 0 {
            return;
        }
        let mut missing = self.board.missing(blocks, |cu| self.is_busy(cu));
        while missing > 0
            && let Some(cu) = self.board.take_parked()
        {
            self.ring(cu);
            missing -= 1;
        }
        self.recall(missing);
    }

    /// Has at most `count` units come back that lent their cores, for what is more urgent there is now.
    fn recall(&self, mut count: usize) {
        let lent = self.leases.lent();
        if lent == 0 || !self.scheme().kills() {
            return;
        }
        let poll = self.board.poll.load(Ordering::Acquire);
        for cu in bits(lent) {
            // The lease first: what the unit runs was published before.
            let lesser = || self.cus[cu].running().is_some_and(|running| poll < limit_of(running.rank));
            if count == 0 {
                return;
            }
            if self.leases.is_lent(cu) && lesser() && self.call_back(cu) {
                count -= 1;
            }
        }
    }

    /// Takes the core of `cu` back for it; whether it was lent.
    fn call_back(&self, cu: usize) -> bool {
        let companion = self.leases.recall(cu);
        if let Some(companion) = companion {
            self.crew.get(cu, companion).knock();
            self.ring(cu);
        }
        companion.is_some()
    }

    /// Wakes a parked unit, or has one come back, if there is work for it that no other unit is about to
    /// find. For a unit that has just published what it runs.
    pub(crate) fn pass_on(&self) {
        if let Some(cu) = self.board.pass_on(|| self.has_work(), |cu| self.is_busy(cu)) {
            self.ring(cu);
        } else if self.leases.lent() != 0 {
            self.recall(self.board.missing(1, |cu| self.is_busy(cu)));
        }
    }

    fn is_busy(&self, cu: usize) -> bool {
        self.cus[cu].running().is_some()
    }

    /// Wakes every parked unit, and has every one come back that lent its core.
    pub(crate) fn wake_all(&self) {
        self.board.before_wake();
        while let Some(cu) = self.board.take_parked() {
            self.ring(cu);
        }
        for cu in bits(self.leases.lent()) {
            self.call_back(cu);
        }
    }

    /// Who to call when completions are ready. Earlier ones stay alive as long as the device: a unit may be
    /// calling them.
    pub(crate) fn set_waker(&self, waker: Arc<dyn Wake>) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.push(Box::new(Waker(waker)));
        let last = wakers.last().expect("pushed above");
        self.waker.store(std::ptr::from_ref(&**last).cast_mut(), Ordering::Release);
    }

    /// Calls the waker. It is the caller's code: a unit survives its panic.
    #[allow(unsafe_code)]
    pub(crate) fn call_waker(&self) {
        let waker = self.waker.load(Ordering::Acquire);
        if !waker.is_null() {
            // SAFETY: the pointer is to a box in `wakers`, from which nothing is removed.
            let waker = unsafe { &*waker };
            let _ = contain(|| waker.0.wake());
        }
    }

    /// Calls the waker if a task is over that it was not called for.
    pub(crate) fn pay_call(&self) {
        if self.owes_call.load(Ordering::Relaxed) && self.owes_call.swap(false, Ordering::AcqRel) {
            self.call_waker();
        }
    }

    /// Whether who looks for work has done so for long enough. The next stage of a real-time task is waited
    /// for longer: to be woken for it would make the task late.
    pub(crate) fn has_waited(&self, waited: Nanos) -> bool {
        let on_board = || bits(self.board.active()).filter_map(|slot| self.board.view(slot));
        waited >= self.spin
            && (waited.0 >= SPINS_FOR_STAGE * self.spin.0 || !on_board().any(|view| is_real_time(view.key)))
    }

    /// Whether unit `cu` need not look out for work: no task is left, and a thread on its core may do the
    /// next one as its guest.
    pub(crate) fn is_left_to_guest(&self, cu: usize) -> bool {
        self.cus[cu].expects_guest() && self.board.active() == 0
    }

    /// The completion that ended first among those that are ready.
    #[allow(unsafe_code)]
    pub(crate) fn pop_completion(&self) -> Option<Completion> {
        let slot = self.board.take_finished(|slot| self.slots[slot].finished.load(Ordering::Relaxed))?;
        let place = &self.slots[slot];
        // SAFETY: the slot was taken by this caller alone.
        let ended = unsafe { place.ended() };
        let time = |word: &AtomicU64| match word.load(Ordering::Relaxed) {
            u64::MAX => None,
            ns => Some(Nanos(ns)),
        };
        let empty = |task: &mut Task| {
            let completion = Completion {
                task: task.id,
                token: task.token,
                key: task.key,
                plan: task.plan,
                io: std::mem::take(&mut task.io),
                outcome: self.outcome(slot, ended.closed),
                submitted: task.submitted,
                first_block: time(&place.first_block),
                all_cus: time(&place.all_cus),
                preempted: task.preempted,
                finished: ended.finished,
                counters: ended.counters,
            };
            task.loaded = std::ptr::null();
            (completion, task.route.take())
        };
        // SAFETY: as above.
        let (completion, route) = unsafe { place.task_mut(empty) };
        self.board.free_slot(slot);
        self.plans.release(completion.plan);
        drop(route);
        Some(completion)
    }

    /// The plan of the task in `slot`; for holders of a block of it.
    #[allow(unsafe_code)]
    pub(crate) fn loaded(&self, slot: usize) -> &Loaded {
        // SAFETY: the caller holds a block, so the task stays, and with it its reference to the plan.
        unsafe { &*self.slots[slot].task(|task| task.loaded) }
    }

    /// The rank of the task in `slot`; for holders of a block of it.
    #[allow(unsafe_code)]
    pub(crate) fn rank(&self, slot: usize) -> u8 {
        // SAFETY: the caller holds a block.
        unsafe { self.slots[slot].task(|task| task.key) }.rank()
    }

    /// Declares a fault: every task on the board ends with it, later ones are refused.
    pub(crate) fn poison(&self, reason: &str) {
        {
            let mut stored = self.poison_reason.lock().unwrap_or_else(PoisonError::into_inner);
            if stored.is_empty() {
                stored.push_str(reason);
            }
        }
        self.shut_gate(Gate::Poisoned);
        self.close_all(Reason::DeviceFault);
        self.call_waker();
    }

    /// Whether a task with `key` that can use `wanted` units displaces less urgent work: finds too few units
    /// idle, and such work on others.
    pub(crate) fn would_preempt(&self, key: TaskKey, wanted: u32) -> bool {
        if !self.scheme().is_prioritised() {
            return false;
        }
        let running = self.cus.iter().filter_map(|cu| cu.running());
        let (mut busy, mut lesser) = (0, 0);
        for running in running {
            busy += 1;
            lesser += usize::from(running.rank > key.rank());
        }
        lesser > 0 && self.cus.len() - busy < wanted as usize
    }

    /// A best-effort task is about to be published in `slot`.
    pub(crate) fn join(&self, slot: usize, share: Share) {
        let others = bits(self.board.active()).filter_map(|slot| self.board.view(slot));
        let best_effort = others.filter(|view| !is_real_time(view.key));
        self.shares.join(share, best_effort.map(|view| policy::Board::owner(self, view.slot)));
        self.board.slots[slot].owner.store(index_of(share) as u64, Ordering::Relaxed);
    }

    /// A block of a task with `key` had a unit for `time`, however it ended.
    #[inline]
    pub(crate) fn charge(&self, key: TaskKey, time: Nanos) {
        if !key.class().is_real_time() {
            self.shares.charge(key.share(), time);
        }
    }

    fn stage_blocks(&self, slot: usize, stage: u32) -> u32 {
        self.loaded(slot).plan.stages()[stage as usize].blocks()
    }

    /// Opens the stage behind `stage`, or ends the task. For the one caller that settled the stage's last
    /// block. With `keep` it gets the first block of the new stage, if that is what it would pick next.
    fn advance(&self, slot: usize, stage: Word, keep: bool, now: Nanos) -> Option<Claim> {
        let loaded = self.loaded(slot);
        let next = stage.stage() as usize + 1;
        let over = next == loaded.plan.stages().len();
        let closed = if self.board.any_dropped(slot) {
            Some(self.board.reason(slot).expect("blocks of open tasks are not dropped"))
        } else if over {
            match self.hand_over(slot, stage, keep) {
                Ok(None) => None,
                Ok(Some(kept)) => return kept,
                Err(reason) => Some(reason),
            }
        } else {
            let opening = loaded.opening(next);
            let keep = keep && self.is_next(slot);
            match self.board.open(slot, stage, opening, keep) {
                Ok(kept) => {
                    self.wake(opening.blocks - 1);
                    return kept;
                }
                Err(reason) => Some(reason),
            }
        };
        self.complete(slot, closed, now);
        None
    }

    /// Goes on with the plan that follows the task's present one, if one does: in the same slot, with the
    /// same key, under the next generation. As [`Executor::advance`]; `None` when the task ends here.
    #[allow(unsafe_code)]
    fn hand_over(&self, slot: usize, stage: Word, keep: bool) -> Result<Option<Option<Claim>>, Reason> {
        let place = &self.slots[slot];
        // SAFETY: the caller owns the settled last stage: nobody holds a block of the task.
        let switched = unsafe { place.task_mut(|task| self.switch(slot, task)) };
        let Some((loaded, before)) = switched? else { return Ok(None) };
        let opening = loaded.opening(0);
        let generation = place.lineage.advance();
        fence(Ordering::SeqCst);
        let (from, to) = (current_word(slot, generation - 1), current_word(slot, generation));
        if self.current.load(Ordering::Relaxed) == from {
            let _ = self.current.compare_exchange(from, to, Ordering::SeqCst, Ordering::Relaxed);
        }
        let keep = keep && self.is_next(slot);
        // The route keeps the plan loaded, so that this frees nothing.
        self.plans.release(before);
        let kept = self.board.go_on(slot, stage, generation, opening, keep)?;
        self.close_if_late(slot, generation);
        self.wake(opening.blocks - u32::from(kept.is_some()));
        Ok(Some(kept))
    }

    /// Has `task`, in `slot`, be at the plan that follows its present one, if one does: that, and which one
    /// it was at, whose reference is still the task's. For the task's owner.
    #[allow(unsafe_code)]
    fn switch(&self, slot: usize, task: &mut Task) -> Result<Option<(&Loaded, LoadedPlan)>, Reason> {
        let Some(route) = &task.route else { return Ok(None) };
        if let Some(reason) = self.board.reason(slot) {
            return Err(reason);
        }
        // The route is the submitter's code: a unit survives its panic.
        let Ok(Some(next)) = contain(|| route.next(task.plan, &mut task.io)) else { return Ok(None) };
        let before = std::mem::replace(&mut task.plan, next);
        let Some(loaded) = self.plans.acquire(next) else {
            // It breaks the route's promise; the task holds a reference to a plan, whichever.
            task.plan = before;
            return Err(Reason::DeviceFault);
        };
        task.loaded = std::ptr::from_ref(loaded);
        task.note_addresses();
        // SAFETY: the slot's owner owns its arena.
        task.arena = unsafe { self.slots[slot].arena.ensure(loaded.plan.arena_bytes(), &self.retired) };
        Ok(Some((loaded, before)))
    }

    /// Ends the task that its owner has just opened under another `generation`, if it was cancelled, or the
    /// device poisoned, meanwhile. Who does that says so first, then closes the generation that it sees.
    fn close_if_late(&self, slot: usize, generation: u64) {
        if self.slots[slot].lineage.is_cancelled() {
            self.close(slot, generation, Reason::Cancelled);
        }
        if self.gate() >= Gate::Poisoned {
            self.close(slot, generation, Reason::DeviceFault);
        }
    }

    /// Whether the real-time task in `slot` is the one that a unit would go on with; for its owner.
    #[allow(unsafe_code)]
    fn is_next(&self, slot: usize) -> bool {
        // SAFETY: the caller owns the settled stage.
        let key = unsafe { self.slots[slot].task(|task| task.key) };
        key.class().is_real_time() && self.scheme().is_prioritised() && self.board.is_first(key.get())
    }

    /// How a task ended, which was closed for a reason; for who takes its completion. Leaves no fault behind
    /// for the slot's next task.
    fn outcome(&self, slot: usize, closed: Option<Reason>) -> Outcome {
        let Some(reason) = closed else { return Outcome::Done };
        let fault = self.slots[slot].fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        match reason {
            Reason::Cancelled => Outcome::Cancelled,
            Reason::DeviceFault => Outcome::DeviceFault,
            Reason::Failed => {
                Outcome::Failed(fault.expect("a fault is stored before the task is closed for it").told())
            }
        }
    }

    #[allow(unsafe_code)]
    fn complete(&self, slot: usize, closed: Option<Reason>, finished: Nanos) {
        let place = &self.slots[slot];
        // SAFETY: the caller owns the settled last stage.
        let (key, preempted) = unsafe {
            let counters = place.collect_tallies();
            place.end(Ended { closed, finished, counters });
            place.task(|task| {
                if closed.is_none() && task.route.is_none() {
                    (*task.loaded).note(counters.cu_time);
                }
                (task.key, task.preempted)
            })
        };
        place.finished.store(finished.0, Ordering::Relaxed);
        if self.recorder.is_on() {
            self.record_instant(EventKind::Completed, finished, slot);
        }
        if !key.class().is_real_time() {
            self.shares.leave(key.share());
        }
        let current = current_word(slot, place.lineage.present());
        self.board.retire(slot);
        fence(Ordering::SeqCst);
        if self.current.load(Ordering::Relaxed) == current {
            let _ = self.current.compare_exchange(current, 0, Ordering::SeqCst, Ordering::Relaxed);
        }
        self.ended.fetch_add(1, Ordering::Relaxed);
        if preempted {
            self.preemptions.fetch_add(1, Ordering::Relaxed);
        }
        self.board.finish(slot);
        self.owes_call.store(true, Ordering::Release);
        self.board.before_wake();
        if self.board.parked() | self.leases.lent() != 0 {
            self.wake(self.board.claimable_blocks(self.cus.len() as u32));
        }
    }

    /// Records a submission or a completion.
    #[allow(unsafe_code)]
    pub(crate) fn record_instant(&self, kind: EventKind, at: Nanos, slot: usize) {
        // SAFETY: the caller is the submitter before it publishes, or the owner of the settled last stage.
        let (task, key, token, plan) =
            unsafe { self.slots[slot].task(|task| (task.id, task.key, task.token, task.plan)) };
        let span = Nanos::ZERO;
        self.recorder.outside(Event { at, span, cu: None, task, key, token, plan, kind });
    }

    /// Sleeps until the announcement that `cu` parks is taken; for its thread.
    pub(crate) fn sleep(&self, cu: usize) {
        while self.board.is_parked(cu) {
            self.bells[cu].wait();
        }
    }

    /// Wakes a unit.
    pub(crate) fn ring(&self, cu: usize) {
        self.bells[cu].ring();
    }
}

/// The word for `Executor::current`.
pub(crate) fn current_word(slot: usize, generation: u64) -> u64 {
    task_id(slot, generation).0 + 1
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
