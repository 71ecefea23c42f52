//! What the scheduler keeps per model: its two queues, its share, its measured times.

use reef_base::{Class, limits};

use crate::estimate::{ServiceTime, Usual};
use crate::heap::Heap;
use crate::types::{Drain, ModelOptions};

/// Units of virtual time per nanosecond at weight 1.
const SHARE_SCALE: u128 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) options: ModelOptions,
    pub(crate) drain: Option<Drain>,
    /// Queued requests, by key then arrival.
    pub(crate) real_time: Heap,
    /// Queued requests, by arrival.
    pub(crate) best_effort: Heap,
    pub(crate) on_board: [usize; 2],
    pub(crate) service: Box<[ServiceTime]>,
    usual: Usual,
    /// Virtual time used: compute-unit time over weight.
    pass: u128,
}

/// Index of a class in `on_board` and the like.
pub(crate) fn lane(class: Class) -> usize {
    usize::from(!class.is_real_time())
}

impl Model {
    pub(crate) fn new(options: ModelOptions) -> Self {
        // What comes back from the device may find its place taken.
        let room = options.queue_len + limits::BOARD_SLOTS_MAX;
        Model {
            options,
            drain: None,
            real_time: Heap::with_capacity(room),
            best_effort: Heap::with_capacity(room),
            on_board: [0; 2],
            service: vec![ServiceTime::default(); limits::PLANS_PER_MODEL_MAX].into(),
            usual: Usual::default(),
            pass: 0,
        }
    }

    pub(crate) fn queue(&self, class: Class) -> &Heap {
        if class.is_real_time() { &self.real_time } else { &self.best_effort }
    }

    pub(crate) fn queue_mut(&mut self, class: Class) -> &mut Heap {
        if class.is_real_time() { &mut self.real_time } else { &mut self.best_effort }
    }

    /// Whether another of its tasks may go on the board.
    pub(crate) fn may_start(&self) -> bool {
        self.on_board.iter().sum::<usize>() < self.options.in_flight_max
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.real_time.len() + self.best_effort.len() + self.on_board.iter().sum::<usize>() == 0
    }

    pub(crate) fn pass(&self) -> u128 {
        self.pass
    }

    /// The model has best-effort work again: it starts at `virtual_now`, whatever it did not use before.
    pub(crate) fn wake(&mut self, virtual_now: u128) {
        self.pass = self.pass.max(virtual_now);
    }

    /// Charges the usual use for a task that starts; returns the charge.
    pub(crate) fn charge(&mut self) -> u64 {
        let charge = self.usual.get();
        self.pass += self.virtual_time(charge);
        charge
    }

    /// Replaces the advance charge by what was used.
    pub(crate) fn settle(&mut self, charged: u64, used: u64) {
        self.usual.record(used);
        self.refund(charged);
        self.pass += self.virtual_time(used);
    }

    /// As [`Model::settle`], for a task that did not end well. All that it used is charged, but tells nothing
    /// of what one that does uses.
    pub(crate) fn settle_unfinished(&mut self, charged: u64, used: u64) {
        self.refund(charged);
        self.pass += self.virtual_time(used);
    }

    /// Takes an advance charge back.
    pub(crate) fn refund(&mut self, charged: u64) {
        self.pass = self.pass.saturating_sub(self.virtual_time(charged));
    }

    fn virtual_time(&self, nanos: u64) -> u128 {
        u128::from(nanos) * SHARE_SCALE / u128::from(self.options.weight.max(1))
    }
}
