//! The board: where tasks are published and compute units (CUs) pull blocks. Lock-free; knows no plan, no
//! thread.
//!
//! Protocol. A task is *published* in a slot as a claim word (see [`word`]). A CU *claims* a block by a
//! compare-and-swap that takes one off the word, or pops a block from the *redo* entries, which hold the
//! tickets of blocks that were killed or given back. Each block ends once: *settled*, by being done or by
//! being dropped. The CU that settles the last block of a stage owns the task alone, and *opens* the next
//! stage or *retires* the task. To end a task early, anybody *closes* it: the claim word is swapped for a
//! closed one, whose swapper (and whoever finds redo entries after it) drops the blocks it got hold of;
//! running blocks see the cancel word.
//!
//! | field | who writes it |
//! |---|---|
//! | `free`, a slot's bit | the submitter that takes the slot (clear), the popper of the completion (set) |
//! | `key`, `owner`, `cancel`, `done`, `dropped` | the submitter, before the first claim word of its task |
//! | `claim` | the submitter; claimers (−1); the owner of a settled stage (next stage, next plan); closers |
//! | `redo[cu]` | `cu`: 0 → ticket of the block that it holds; anybody: ticket → 0, to take the block |
//! | `redo_count` | +1 before an entry is filled, −1 after it was emptied: never less than the entries |
//! | `done` | settlers (+n); the owner of a settled stage (0) |
//! | `active`, a slot's bit | the submitter (set), the owner of the settled last stage (clear) |
//! | `over`, a slot's bit | the owner of the settled last stage (set), the popper of the completion (clear) |
//! | `poll` | who makes work raises it, afterwards; who finds it too high lowers it |
//!
//! A CU starts a block of a slot only when its own entry in that slot is empty (it pops its own one first),
//! so the entry is free when the block is killed. A redo entry that is filled after its task was closed is
//! found by the closer or by the filler itself: each writes its word, then a fence, then reads the other's.
//!
//! A task that goes on with another plan keeps its slot and its key: the owner of the settled last stage puts
//! the first stage of the next plan there, under the next generation, as if a new task were published. So no
//! ticket of one plan is ever taken for one of another.
//!
//! The opener of a stage may keep its first block. So a task whose stages are narrow stays on the CUs that it
//! has, and does not ask for another one at every stage.
//!
//! The *poll word* says how urgent the most urgent claimable real-time work is: rank << 60, `u64::MAX` for
//! none. It is a hint: a running block that sees a smaller rank than its own tries to claim a block of that
//! work, and is killed only with the urgent block in hand. So a stage of three blocks disturbs three CUs, and
//! no demand is counted. The word is never left less urgent than the claimable work: who makes work raises it
//! afterwards; who lowers it looks at the board again afterwards, and raises it if something came up. Left
//! too urgent, it costs the next block that polls one look at the board, which lowers it.
//!
//! *Parking*. A CU without work announces that it parks, then looks at the board once more; who makes work
//! looks for parked CUs afterwards. It wakes none while enough are awake and not busy, though such a CU may
//! be on its way to other work. So a CU that starts a block publishes that it is busy, then looks whether
//! there is work left for a parked one. Between the two steps of each side is a fence, so one of them sees
//! the other.
//!
//! *Orderings*. These edges carry what tasks and blocks wrote, and each has a test under loom that fails
//! without it:
//!
//! | from | to | carries |
//! |---|---|---|
//! | `publish`, `open`: release of `claim` | `view`, a failed claim, `close`: acquire | task, last stage |
//! | `settle`: release of `done` | the last `settle` of the stage: acquire | what the blocks wrote |
//! | `give_back`: release of a redo entry | who takes it: acquire | what a killed block wrote |
//! | `finish`: release of `over` | `take_finished`: acquire | the outputs |
//! | `free_slot`: release of `free` | `take_slot`: acquire | that the slot's last task is gone |
//! | who makes work: release of `poll` | who lowers it: acquire | the work |
//!
//! A claim itself is relaxed: as a read-modify-write it keeps what was released before it, and it replaces a
//! word that was looked at. Counts and estimates are hints. The sets `active` and `parked` are ordered by the
//! fences; their own orderings are stronger than that needs, and no test can tell.

#[cfg(all(test, loom))]
mod loom_data;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
pub(crate) mod word;

use reef_device::policy::{Outlook, is_real_time, limit_of};

use crate::sync::{AtomicU64, Line, Ordering, fence};
use word::{Reason, Word};

/// No task, no demand.
pub(crate) const NONE: u64 = u64::MAX;

/// A claim fails when others were faster; then the next look at the board is the caller's to decide.
pub(crate) const CLAIM_TRIES: usize = 4;

const RANK_SHIFT: u32 = 60;
const RANK_BEST_EFFORT: u8 = reef_base::limits::REAL_TIME_LEVELS;

/// A block that its holder must run, give back or drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The slot of its task.
    pub(crate) slot: usize,
    /// Generation, stage and ticket.
    pub(crate) word: Word,
}

/// A stage about to open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    /// Its blocks.
    pub(crate) blocks: u32,
    /// See [`Slot::estimate`].
    pub(crate) estimate: u64,
    /// See [`Slot::outlook`].
    pub(crate) outlook: Outlook,
}

/// What a slot looked like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// The slot.
    pub(crate) slot: usize,
    /// The task's key.
    pub(crate) key: u64,
    /// Its claim word.
    pub(crate) word: Word,
    /// Whether it has blocks to claim or to redo.
    pub(crate) claimable: bool,
}

/// What closing a task got hold of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Closed {
    /// Blocks that the closer now holds and must drop.
    pub(crate) blocks: u32,
    /// Their stage, if there are any.
    pub(crate) stage: u32,
}

/// One place for a task.
#[derive(Debug)]
pub(crate) struct Slot {
    claim: Line<AtomicU64>,
    key: AtomicU64,
    redo_count: AtomicU64,
    /// Nanoseconds that a block of the open stage takes, with [`Board::KILLABLE`]; 0 when not known. A hint.
    pub(crate) estimate: AtomicU64,
    /// The [`Outlook`] of the open stage. A hint.
    outlook: AtomicU64,
    /// Whose share the task is on. Written like `key`.
    pub(crate) owner: AtomicU64,
    done: Line<AtomicU64>,
    dropped: AtomicU64,
    /// What running blocks poll: not 0 once the task is closed. A late closer may set it for the next task of
    /// the slot; its block is then killed for nothing, and the CU that sees that clears it.
    pub(crate) cancel: Line<AtomicU64>,
    redo: Box<[AtomicU64]>,
}

/// The board of one device.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) slots: Box<[Slot]>,
    /// The poll word.
    pub(crate) poll: Line<AtomicU64>,
    active: Line<AtomicU64>,
    parked: Line<AtomicU64>,
    free: Line<AtomicU64>,
    /// Slots whose task is over and whose completion was not fetched.
    over: Line<AtomicU64>,
    /// Slots that only real-time tasks take.
    reserved: u64,
    cus: usize,
}

impl Board {
    /// Set in estimates of blocks that may be killed.
    pub(crate) const KILLABLE: u64 = 1 << 63;

    /// A board of `slots` slots, of which `reserved` are for real-time tasks only.
    pub(crate) fn new(slots: usize, reserved: usize, cus: usize) -> Board {
        assert!(slots <= 64 && reserved <= slots && cus <= 64, "sets are words of 64 bits");
        let all = low_bits(slots);
        Board {
            slots: (0..slots).map(|_| Slot::new(cus)).collect(),
            poll: Line(AtomicU64::new(NONE)),
            active: Line(AtomicU64::new(0)),
            parked: Line(AtomicU64::new(0)),
            free: Line(AtomicU64::new(all)),
            over: Line(AtomicU64::new(0)),
            reserved: all & !low_bits(slots - reserved),
            cus,
        }
    }

    /// Takes a free slot; real-time tasks take reserved ones first.
    pub(crate) fn take_slot(&self, real_time: bool) -> Option<usize> {
        let mut free = self.free.load(Ordering::Relaxed);
        loop {
            let mine = if real_time { free } else { free & !self.reserved };
            let preferred = if real_time && mine & self.reserved != 0 { mine & self.reserved } else { mine };
            if preferred == 0 {
                return None;
            }
            let slot = preferred.trailing_zeros() as usize;
            let taken = free & !(1 << slot);
            match self.free.compare_exchange_weak(free, taken, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(slot),
                Err(now) => free = now,
            }
        }
    }

    /// Takes this slot, if it is free.
    pub(crate) fn take_this_slot(&self, slot: usize) -> bool {
        self.free.fetch_and(!(1 << slot), Ordering::Acquire) >> slot & 1 != 0
    }

    /// Gives a slot back.
    pub(crate) fn free_slot(&self, slot: usize) {
        let before = self.free.fetch_or(1 << slot, Ordering::Release);
        debug_assert_eq!(before >> slot & 1, 0, "slot {slot} is given back once");
    }

    /// Publishes a task in a slot that the caller took.
    pub(crate) fn publish(&self, slot: usize, generation: u64, key: u64, opening: Opening) {
        let place = &self.slots[slot];
        place.key.store(key.min(NONE - 1), Ordering::Relaxed);
        place.cancel.store(0, Ordering::Relaxed);
        place.done.store(0, Ordering::Relaxed);
        place.dropped.store(0, Ordering::Relaxed);
        place.estimate.store(opening.estimate, Ordering::Relaxed);
        place.outlook.store(bits_of(opening.outlook), Ordering::Relaxed);
        // A swap, not a store: all writes of the word are read-modify-writes, so a late closer's is before or
        // after.
        place.claim.swap(Word::new(generation, 0, opening.blocks).0, Ordering::AcqRel);
        self.active.fetch_or(1 << slot, Ordering::AcqRel);
        self.raise_poll(key);
    }

    /// Slots that hold a task that is not over, as a set.
    pub(crate) fn active(&self) -> u64 {
        self.active.load(Ordering::Acquire)
    }

    /// How a slot looks now; `None` when no task is in it.
    #[inline]
    pub(crate) fn view(&self, slot: usize) -> Option<View> {
        let place = &self.slots[slot];
        // The word first: a claim from this view then proves that the key is the same task's.
        let word = Word(place.claim.load(Ordering::Acquire));
        let key = place.key.load(Ordering::Relaxed);
        let redo = place.redo_count.load(Ordering::Relaxed) != 0;
        let claimable = word.remaining() > 0 || redo && !word.is_closed();
        (key != NONE).then_some(View { slot, key, word, claimable })
    }

    /// Claims a block of the task that was seen: a killed one before a new one. `None` when none is left, or
    /// other CUs got there first.
    pub(crate) fn claim(&self, cu: usize, seen: View) -> Option<Claim> {
        let place = &self.slots[seen.slot];
        if place.redo_count.load(Ordering::Relaxed) != 0
            && let Some(claim) = self.claim_redo(cu, seen)
        {
            return Some(claim);
        }
        let mut word = seen.word;
        while word.remaining() > 0 {
            let taken = word.claimed();
            match place.claim.compare_exchange_weak(word.0, taken.0, Ordering::Relaxed, Ordering::Acquire) {
                Ok(_) => {
                    if taken.remaining() == 0 && is_real_time(seen.key) {
                        self.lower_poll();
                    }
                    return Some(Claim { slot: seen.slot, word });
                }
                Err(now) if Word(now).is_of(seen.word.generation()) => word = Word(now),
                Err(_) => return None,
            }
        }
        None
    }

    /// Claims the most urgent block of a rank below `rank`. `None` if there is none, or others were faster.
    pub(crate) fn claim_urgent(&self, cu: usize, rank: u8) -> Option<Claim> {
        for _ in 0..CLAIM_TRIES {
            match self.most_urgent(limit_of(rank)) {
                None => {
                    self.lower_poll();
                    return None;
                }
                Some(view) => {
                    if let Some(claim) = self.claim(cu, view) {
                        return Some(claim);
                    }
                }
            }
        }
        None
    }

    /// Puts a block that the caller holds among those to redo. When the task was closed, the block comes
    /// back: the caller must drop it.
    pub(crate) fn give_back(&self, cu: usize, claim: Claim) -> Option<Claim> {
        let place = &self.slots[claim.slot];
        let key = place.key.load(Ordering::Relaxed);
        place.redo_count.fetch_add(1, Ordering::Relaxed);
        place.redo[cu].store(claim.word.0, Ordering::Release);
        fence(Ordering::SeqCst);
        let word = Word(place.claim.load(Ordering::Acquire));
        if word.is_closed() && word.is_of(claim.word.generation()) {
            return self.pop_redo(claim.slot, cu, claim.word.generation());
        }
        self.raise_poll(key);
        None
    }

    /// Settles `count` blocks that the caller holds of a stage of `total`. True for the one caller that
    /// settles the last: it owns the task until it opens the next stage or retires the task.
    pub(crate) fn settle(&self, slot: usize, count: u32, total: u32, dropped: bool) -> bool {
        let place = &self.slots[slot];
        if dropped {
            place.dropped.fetch_add(u64::from(count), Ordering::Relaxed);
        }
        let before = place.done.fetch_add(u64::from(count), Ordering::AcqRel);
        debug_assert!(before + u64::from(count) <= u64::from(total), "every block is settled once");
        before + u64::from(count) == u64::from(total)
    }

    /// Whether blocks of the task were dropped; for the owner of a settled stage.
    pub(crate) fn any_dropped(&self, slot: usize) -> bool {
        self.slots[slot].dropped.load(Ordering::Relaxed) != 0
    }

    /// Opens the stage behind `stage`, whose blocks are all settled; for the owner, who may `keep` the first
    /// block. The reason if the task was closed instead.
    pub(crate) fn open(
        &self,
        slot: usize,
        stage: Word,
        opening: Opening,
        keep: bool,
    ) -> Result<Option<Claim>, Reason> {
        let whole = Word::new(stage.generation(), stage.stage() + 1, opening.blocks);
        self.open_as(slot, stage, whole, opening, keep)
    }

    /// Opens the first stage of another plan of the task, whose last stage is settled, under the next
    /// `generation`; otherwise as [`Board::open`].
    pub(crate) fn go_on(
        &self,
        slot: usize,
        stage: Word,
        generation: u64,
        opening: Opening,
        keep: bool,
    ) -> Result<Option<Claim>, Reason> {
        self.open_as(slot, stage, Word::new(generation, 0, opening.blocks), opening, keep)
    }

    fn open_as(
        &self,
        slot: usize,
        stage: Word,
        whole: Word,
        opening: Opening,
        keep: bool,
    ) -> Result<Option<Claim>, Reason> {
        let place = &self.slots[slot];
        let key = place.key.load(Ordering::Relaxed);
        place.done.store(0, Ordering::Relaxed);
        place.estimate.store(opening.estimate, Ordering::Relaxed);
        place.outlook.store(bits_of(opening.outlook), Ordering::Relaxed);
        let settled = Word::new(stage.generation(), stage.stage(), 0);
        let next = if keep { whole.claimed() } else { whole };
        match place.claim.compare_exchange(settled.0, next.0, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => {
                // A stage of one block that its opener keeps concerns nobody else.
                if next.remaining() > 0 {
                    self.raise_poll(key);
                }
                Ok(keep.then_some(Claim { slot, word: whole }))
            }
            Err(now) => Err(Word(now).reason().expect("only a closer changes the word of a settled stage")),
        }
    }

    /// Why the task in a slot was closed; for its owner, or a holder of one of its blocks.
    pub(crate) fn reason(&self, slot: usize) -> Option<Reason> {
        Word(self.slots[slot].claim.load(Ordering::Acquire)).reason()
    }

    /// Ends the task with this generation early, unless it is over. Blocks that the closer got hold of must
    /// be dropped.
    pub(crate) fn close(&self, slot: usize, generation: u64, reason: Reason) -> Closed {
        let place = &self.slots[slot];
        let mut word = Word(place.claim.load(Ordering::Relaxed));
        loop {
            if !word.is_of(generation) || word.reason().is_some_and(|before| before >= reason) {
                return Closed::default();
            }
            let closed = word.closed(reason);
            match place.claim.compare_exchange(word.0, closed.0, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => word = Word(now),
            }
        }
        // Acquires the task, too.
        fence(Ordering::SeqCst);
        place.cancel.store(1, Ordering::Relaxed);
        let mut held = Closed { blocks: word.remaining(), stage: word.stage() };
        for cu in 0..self.cus {
            if let Some(claim) = self.pop_redo(slot, cu, word.generation()) {
                held = Closed { blocks: held.blocks + 1, stage: claim.word.stage() };
            }
        }
        self.lower_poll();
        held
    }

    /// Clears a cancel word that was meant for an earlier task of the slot. For a holder of a block of the
    /// present one.
    pub(crate) fn clear_stale_cancel(&self, claim: Claim) {
        let place = &self.slots[claim.slot];
        if place.cancel.load(Ordering::Relaxed) == 0 || self.reason(claim.slot).is_some() {
            return;
        }
        place.cancel.swap(0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // It was closed meanwhile, and its own cancel word may have gone with the old one.
        if self.reason(claim.slot).is_some() {
            place.cancel.store(1, Ordering::Relaxed);
        }
    }

    /// Takes a task that is over off the board; for its owner. The slot stays taken.
    pub(crate) fn retire(&self, slot: usize) {
        self.slots[slot].key.store(NONE, Ordering::Relaxed);
        self.active.fetch_and(!(1 << slot), Ordering::AcqRel);
    }

    /// Hands a slot whose task was retired to who fetches the completion.
    pub(crate) fn finish(&self, slot: usize) {
        self.over.fetch_or(1 << slot, Ordering::Release);
    }

    /// Whether a task is over whose completion nobody has taken.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire) != 0
    }

    /// Takes the slot that is first by `order` among those whose task is over. The caller then owns it.
    pub(crate) fn take_finished(&self, order: impl Fn(usize) -> u64) -> Option<usize> {
        loop {
            let over = self.over.load(Ordering::Acquire);
            let first = bits(over).min_by_key(|&slot| order(slot))?;
            // Acquires, too: others may have taken it and handed its next task over meanwhile.
            if self.over.fetch_and(!(1 << first), Ordering::Acquire) >> first & 1 != 0 {
                return Some(first);
            }
        }
    }

    /// The claimable task with the smallest key below `limit`.
    pub(crate) fn most_urgent(&self, limit: u64) -> Option<View> {
        let mut best: Option<View> = None;
        for slot in bits(self.active()) {
            if let Some(view) = self.view(slot)
                && view.claimable
                && view.key < best.map_or(limit, |view| view.key)
            {
                best = Some(view);
            }
        }
        best
    }

    /// The outlook of the open stage in a slot.
    pub(crate) fn outlook(&self, slot: usize) -> Outlook {
        let bits = self.slots[slot].outlook.load(Ordering::Relaxed);
        Outlook { width: (bits >> 32) as u32, calm: bits as u32 }
    }

    /// Whether no task on the board is more urgent than `key`.
    pub(crate) fn is_first(&self, key: u64) -> bool {
        bits(self.active()).filter_map(|slot| self.view(slot)).all(|view| view.key >= key)
    }

    /// Blocks that could be claimed now, at most `limit`.
    pub(crate) fn claimable_blocks(&self, limit: u32) -> u32 {
        let mut sum = 0;
        for view in bits(self.active()).filter_map(|slot| self.view(slot)).filter(|view| view.claimable) {
            sum += view.word.remaining().max(1);
            if sum >= limit {
                return limit;
            }
        }
        sum
    }

    /// Announces that `cu` is about to park. It must look for work once more before it does.
    pub(crate) fn announce_park(&self, cu: usize) {
        self.parked.fetch_or(1 << cu, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    /// Takes the announcement back.
    pub(crate) fn withdraw_park(&self, cu: usize) {
        self.parked.fetch_and(!(1 << cu), Ordering::AcqRel);
    }

    /// Whether nobody has woken `cu` since it announced to park.
    pub(crate) fn is_parked(&self, cu: usize) -> bool {
        self.parked.load(Ordering::Acquire) >> cu & 1 != 0
    }

    /// Parked CUs, as a set. Call [`Board::before_wake`] first.
    pub(crate) fn parked(&self) -> u64 {
        self.parked.load(Ordering::Relaxed)
    }

    /// Between making work and looking for parked CUs.
    pub(crate) fn before_wake(&self) {
        fence(Ordering::SeqCst);
    }

    /// How many CUs `blocks` new blocks can use beside those that are awake and not `busy`.
    pub(crate) fn missing(&self, blocks: u32, busy: impl Fn(usize) -> bool) -> usize {
        self.before_wake();
        let parked = self.parked();
        let idle = |cu: &usize| parked >> cu & 1 == 0 && !busy(*cu);
        let wanted = (blocks as usize).min(self.cus);
        wanted.saturating_sub((0..self.cus).filter(idle).count())
    }

    /// Takes a parked CU that the caller must wake, if there is work that no other CU is about to find. For
    /// a CU that is `busy` since a moment.
    pub(crate) fn pass_on(&self, has_work: impl Fn() -> bool, busy: impl Fn(usize) -> bool) -> Option<usize> {
        fence(Ordering::SeqCst);
        (self.parked() != 0 && has_work() && self.missing(1, busy) > 0).then(|| self.take_parked())?
    }

    /// Picks one parked CU that the caller must wake.
    pub(crate) fn take_parked(&self) -> Option<usize> {
        loop {
            let parked = self.parked.load(Ordering::Relaxed);
            if parked == 0 {
                return None;
            }
            let cu = parked.trailing_zeros() as usize;
            if self.parked.fetch_and(!(1 << cu), Ordering::AcqRel) >> cu & 1 != 0 {
                return Some(cu);
            }
        }
    }

    /// Takes `cu` if it is parked; the caller must wake it, or be its guest.
    pub(crate) fn take_parked_one(&self, cu: usize) -> bool {
        self.parked.load(Ordering::Relaxed) >> cu & 1 != 0
            && self.parked.fetch_and(!(1 << cu), Ordering::AcqRel) >> cu & 1 != 0
    }

    fn claim_redo(&self, cu: usize, seen: View) -> Option<Claim> {
        let generation = seen.word.generation();
        // The own entry first: it must be empty when a block of this slot runs here.
        let others = (0..self.cus).filter(|&other| other != cu);
        let claim =
            std::iter::once(cu).chain(others).find_map(|entry| self.pop_redo(seen.slot, entry, generation));
        if claim.is_some() && is_real_time(seen.key) {
            self.lower_poll();
        }
        claim
    }

    /// Takes the block in a redo entry if it is of `generation`.
    fn pop_redo(&self, slot: usize, entry: usize, generation: u64) -> Option<Claim> {
        let place = &self.slots[slot];
        let word = Word(place.redo[entry].load(Ordering::Relaxed));
        if word.0 == 0 || !word.is_of(generation) {
            return None;
        }
        place.redo[entry].compare_exchange(word.0, 0, Ordering::Acquire, Ordering::Relaxed).ok()?;
        place.redo_count.fetch_sub(1, Ordering::Relaxed);
        Some(Claim { slot, word })
    }

    /// After work of a task with `key` appeared.
    fn raise_poll(&self, key: u64) {
        if is_real_time(key) {
            self.poll.fetch_min(demand_of(key), Ordering::Release);
        }
    }

    /// After real-time work went, or was not found.
    fn lower_poll(&self) {
        let seen = self.poll.load(Ordering::Relaxed);
        if seen == NONE {
            return;
        }
        let truth = self.demand();
        if truth <= seen {
            if truth < seen {
                self.poll.fetch_min(truth, Ordering::Relaxed);
            }
            return;
        }
        if self.poll.compare_exchange(seen, truth, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            let again = self.demand();
            if again < truth {
                self.poll.fetch_min(again, Ordering::Relaxed);
            }
        }
    }

    /// What the poll word should be.
    fn demand(&self) -> u64 {
        self.most_urgent(limit_of(RANK_BEST_EFFORT)).map_or(NONE, |view| demand_of(view.key))
    }
}

impl Slot {
    fn new(cus: usize) -> Slot {
        Slot {
            claim: Line(AtomicU64::new(0)),
            key: AtomicU64::new(NONE),
            redo_count: AtomicU64::new(0),
            estimate: AtomicU64::new(0),
            outlook: AtomicU64::new(0),
            owner: AtomicU64::new(0),
            done: Line(AtomicU64::new(0)),
            dropped: AtomicU64::new(0),
            cancel: Line(AtomicU64::new(0)),
            redo: (0..cus).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

/// The poll word while blocks of a task with `key` can be claimed.
fn demand_of(key: u64) -> u64 {
    key >> RANK_SHIFT << RANK_SHIFT
}

/// An outlook in one word.
fn bits_of(outlook: Outlook) -> u64 {
    u64::from(outlook.width) << 32 | u64::from(outlook.calm)
}

/// The members of a set, smallest first.
pub(crate) fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let index = set.trailing_zeros() as usize;
        set &= set.wrapping_sub(1);
        (index < 64).then_some(index)
    })
}

fn low_bits(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}
