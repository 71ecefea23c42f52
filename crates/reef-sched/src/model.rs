//! What the scheduler keeps per model: its two queues, its share, its measured times.
//!
//! # How best-effort models share
//!
//! Start-time fair queueing with tasks that may overlap. A model's *pass* is the compute-unit time that it
//! was charged over its weight; the one with the smallest pass starts next. The rules, made so that nobody
//! gets more by how its tasks end, when it asks, or how often it comes and goes:
//!
//! - **However a task ends, all that it used is charged.** One that is done is charged the time of its
//!   finished blocks: work that was thrown away for the sake of more urgent tasks is not its fault. One that
//!   is not done (cancelled, past its deadline, failed) is charged that work, too: nobody knows for whose
//!   sake its last blocks were thrown away, and whoever gives up has the device thrown all of it away.
//! - **No task is free.** Each that was on the board is charged at least [`TASK_CHARGE_MIN`], about what a
//!   turn of a board slot costs, or one that has nothing to do would hold the slots for ever.
//! - **In advance** a start is charged what the model's tasks usually use, so that it does not fill the board
//!   before the first of them is paid for. Advance charges order models and nothing else: they are given
//!   back at the end, and the virtual time follows what was really used, so large tasks that are started and
//!   cancelled push nobody back.
//! - **Idle models bank nothing.** A model that wakes begins at the virtual time, that is the greatest pass
//!   that a model had when something of it was started, or at its own pass if that is later. One that waits
//!   but may not start (its limit in flight) falls behind by no more than what its advance charges can have
//!   cost it.
//! - **Debts end when all is idle**: who used the device alone took it from nobody. Until then they outlive
//!   the model: see [`Account`].
//!
//! Over any time in which two models have waiting requests and no limit of their own, what they are charged
//! per weight differs by at most twice the sum of what a full board of tasks costs each.

use reef_base::{Class, Nanos, limits};

use crate::estimate::{ServiceTime, Usual};
use crate::heap::Heap;
use crate::types::{Drain, ModelOptions, Size};

/// What a best-effort task is charged at least.
pub const TASK_CHARGE_MIN: Nanos = Nanos::from_micros(10);

/// Units of virtual time per nanosecond at weight 1: enough for the least charge at the largest weight.
const SHARE_SCALE: u128 = 1 << 40;

/// What a model has used of its share. A model that is removed and added again goes on from there, or coming
/// and going would pay its debts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pass: u128,
    weight: u32,
}

impl Account {
    /// Whether nothing is left to pay at this virtual time.
    pub(crate) fn is_settled(&self, virtual_now: u128) -> bool {
        self.pass <= virtual_now
    }

    /// The pass of a model of `weight` that owes as much.
    fn pass_for(&self, virtual_now: u128, weight: u32) -> u128 {
        let owed = self.pass.saturating_sub(virtual_now).saturating_mul(self.weight.max(1).into());
        if owed == 0 { 0 } else { virtual_now.saturating_add(owed / u128::from(weight.max(1))) }
    }
}

/// What waits in a queue is held. It need not be looked at again before the queue changes, or time is up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    pub(crate) until: Nanos,
    /// Whether somebody has a deadline: then what happens elsewhere counts, too.
    pub(crate) hurries: bool,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) options: ModelOptions,
    /// Whose share its best-effort tasks are on; no other model's while it is there.
    pub(crate) owner: u16,
    pub(crate) drain: Option<Drain>,
    /// Queued requests, by key then arrival.
    pub(crate) real_time: Heap,
    /// Queued requests, by arrival.
    pub(crate) best_effort: Heap,
    pub(crate) on_board: [usize; 2],
    /// Whether what waits in each queue is held for others to join it.
    pub(crate) hold: [Option<Hold>; 2],
    /// By number, the sizes that there are plans for, the smallest first.
    pub(crate) families: Vec<Vec<Size>>,
    /// By the plan's number; the last is of all plans that are not measured.
    service: Box<[ServiceTime]>,
    usual: Usual,
    /// Virtual time used: compute-unit time over weight. Never goes down.
    pass: u128,
    /// Charges in advance of tasks on the board, in virtual time, and the largest that there was.
    advance: u128,
    advance_max: u128,
}

/// Index of a class in `on_board` and the like.
pub(crate) fn lane(class: Class) -> usize {
    usize::from(!class.is_real_time())
}

impl Model {
    pub(crate) fn new(options: ModelOptions, owner: u16, account: Account, virtual_now: u128) -> Self {
        // What comes back from the device may find its place taken.
        let rows = options.batching.map_or(1, |batching| batching.rows_max as usize);
        let room = options.queue_len + limits::BOARD_SLOTS_MAX * rows;
        Model {
            options,
            owner,
            drain: None,
            real_time: Heap::with_capacity(room),
            best_effort: Heap::with_capacity(room),
            on_board: [0; 2],
            hold: [None; 2],
            families: Vec::new(),
            service: vec![ServiceTime::default(); limits::PLANS_PER_MODEL_MAX + 1].into(),
            usual: Usual::default(),
            pass: account.pass_for(virtual_now, options.weight),
            advance: 0,
            advance_max: 0,
        }
    }

    pub(crate) fn queue(&self, class: Class) -> &Heap {
        if class.is_real_time() { &self.real_time } else { &self.best_effort }
    }

    pub(crate) fn queue_mut(&mut self, class: Class) -> &mut Heap {
        if class.is_real_time() { &mut self.real_time } else { &mut self.best_effort }
    }

    /// What was measured of a plan.
    pub(crate) fn service(&self, plan: u16) -> &ServiceTime {
        &self.service[usize::from(plan).min(limits::PLANS_PER_MODEL_MAX)]
    }

    /// What was measured of a plan, to add to it.
    pub(crate) fn service_mut(&mut self, plan: u16) -> &mut ServiceTime {
        &mut self.service[usize::from(plan).min(limits::PLANS_PER_MODEL_MAX)]
    }

    /// Whether the times of a plan with this number are measured.
    pub(crate) fn measures(plan: u16) -> bool {
        usize::from(plan) < limits::PLANS_PER_MODEL_MAX
    }

    /// Whether another of its tasks may go on the board. A real-time one waits for no best-effort one of the
    /// model: that may be kept from the device by whatever is real-time.
    pub(crate) fn may_start(&self, lane: usize) -> bool {
        self.on_board[..=lane].iter().sum::<usize>() < self.options.in_flight_max
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.real_time.len() + self.best_effort.len() + self.on_board.iter().sum::<usize>() == 0
    }

    /// What it was charged, and not in advance.
    pub(crate) fn pass(&self) -> u128 {
        self.pass
    }

    /// What models are ordered by.
    pub(crate) fn tag(&self) -> u128 {
        self.pass.saturating_add(self.advance)
    }

    pub(crate) fn account(&self) -> Account {
        Account { pass: self.pass, weight: self.options.weight }
    }

    /// The model has best-effort work again: it starts at `virtual_now`, whatever it did not use before.
    pub(crate) fn wake(&mut self, virtual_now: u128) {
        self.pass = self.pass.max(virtual_now);
    }

    /// Charges the usual use for a task that starts, one of at most `slots`; returns the charge.
    pub(crate) fn charge(&mut self, virtual_now: u128, slots: usize) -> u64 {
        let charge = self.usual.get().max(TASK_CHARGE_MIN.0);
        self.advance_max = self.advance_max.max(self.virtual_time(charge));
        let behind_max = self.advance_max.saturating_mul(slots as u128);
        self.pass = self.pass.max(virtual_now.saturating_sub(behind_max));
        self.advance = self.advance.saturating_add(self.virtual_time(charge));
        charge
    }

    /// Replaces the advance charge by what was used. A task that was not `done` tells of what is usual only
    /// when it used more.
    pub(crate) fn settle(&mut self, charged: u64, used: Nanos, done: bool) {
        let used = used.max(TASK_CHARGE_MIN).0;
        if done || used > self.usual.get() {
            self.usual.record(used);
        }
        self.refund(charged);
        self.pass = self.pass.saturating_add(self.virtual_time(used));
    }

    /// Takes an advance charge back.
    pub(crate) fn refund(&mut self, charged: u64) {
        self.advance = self.advance.saturating_sub(self.virtual_time(charged));
    }

    fn virtual_time(&self, nanos: u64) -> u128 {
        u128::from(nanos) * SHARE_SCALE / u128::from(self.options.weight.max(1))
    }
}
