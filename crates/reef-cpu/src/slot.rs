//! What belongs to a task while it is on the board, beside the board's own words.
//!
//! | part | who touches it |
//! |---|---|
//! | [`Task`] | the submitter and the owner of the settled last stage write, holders of blocks read |
//! | [`Ended`] | written by the owner of the settled last stage; read by the popper |
//! | arena | prepared by the submitter; written by blocks, which stages and tiles keep apart |
//! | [`Tally`], one per unit | the unit, while it holds a block; summed and cleared by the owner |

use std::cell::UnsafeCell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use reef_base::limits::MODEL_TENSORS_MAX;
use reef_base::{Nanos, TaskId, TaskKey};
use std::sync::Arc;

use reef_device::{Io, LoadedPlan, Route, TaskCounters};

use crate::board::word::Reason;
use crate::context::BlockFault;
use crate::lineage::Lineage;
use crate::memory::Grown;
use crate::plans::Loaded;
use crate::sync::Line;

/// Bits of a task id that hold the slot.
const SLOT_BITS: u32 = 6;

/// The id of the task of `generation` in `slot`.
pub(crate) fn task_id(slot: usize, generation: u64) -> TaskId {
    TaskId(generation << SLOT_BITS | slot as u64)
}

/// Slot and generation of a task.
pub(crate) fn parts_of(id: TaskId) -> (usize, u64) {
    ((id.0 & ((1 << SLOT_BITS) - 1)) as usize, id.0 >> SLOT_BITS)
}

/// A task as submitted, and with the plan that it is at.
pub(crate) struct Task {
    /// Its id.
    pub(crate) id: TaskId,
    /// Its key.
    pub(crate) key: TaskKey,
    /// The submitter's token.
    pub(crate) token: u64,
    /// Which plan.
    pub(crate) plan: LoadedPlan,
    /// The plan; valid while the task holds its reference to it.
    pub(crate) loaded: *const Loaded,
    /// Where it goes on when the plan is done.
    pub(crate) route: Option<Arc<dyn Route>>,
    /// The buffers.
    pub(crate) io: Io,
    /// Their addresses.
    pub(crate) inputs: Vec<*const u8>,
    /// Their addresses.
    pub(crate) outputs: Vec<*mut u8>,
    /// Address of the arena.
    pub(crate) arena: *mut u8,
    /// When it was submitted.
    pub(crate) submitted: Nanos,
    /// See `Completion::preempted`.
    pub(crate) preempted: bool,
    /// Compute units that its first stage can use.
    pub(crate) first_cus: u32,
}

impl Task {
    /// Notes the addresses of its buffers, for blocks. Allocates nothing.
    pub(crate) fn note_addresses(&mut self) {
        self.inputs.clear();
        self.inputs.extend(self.io.inputs.iter().map(|bytes| bytes.as_slice().as_ptr()));
        self.outputs.clear();
        self.outputs.extend(self.io.outputs.iter_mut().map(|bytes| bytes.as_mut_slice().as_mut_ptr()));
    }
}

/// How a task ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Why it was closed, if it was.
    pub(crate) closed: Option<Reason>,
    pub(crate) finished: Nanos,
    pub(crate) counters: TaskCounters,
}

/// Counters of one compute unit for one slot; written only while it holds a block of the slot's task.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) blocks_done: AtomicU64,
    pub(crate) blocks_killed: AtomicU64,
    pub(crate) blocks_padding: AtomicU64,
    pub(crate) cu_time: AtomicU64,
    pub(crate) wasted_time: AtomicU64,
    pub(crate) padding_time: AtomicU64,
    pub(crate) kills_caused: AtomicU64,
}

/// Adds to a counter that has one writer at a time.
#[inline]
pub(crate) fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

/// One slot.
pub(crate) struct TaskSlot {
    task: UnsafeCell<Task>,
    ended: UnsafeCell<Ended>,
    /// The generations of the task that is or was in the slot.
    pub(crate) lineage: Lineage,
    /// The task's arena.
    pub(crate) arena: Grown,
    /// By compute unit.
    pub(crate) tallies: Box<[Line<Tally>]>,
    /// Why a block failed.
    pub(crate) fault: Mutex<Option<BlockFault>>,
    /// When the first block started; `u64::MAX` before.
    pub(crate) first_block: AtomicU64,
    /// When the last compute unit of the first stage started; `u64::MAX` before.
    pub(crate) all_cus: AtomicU64,
    /// Compute units that ran a block of the first stage.
    pub(crate) cus_seen: AtomicU64,
    /// When the task ended, for poppers to compare.
    pub(crate) finished: AtomicU64,
}

// SAFETY: the cells follow the table above; the board's protocol orders their accesses. The pointers are into
// the task's own buffers and to a plan that the task holds a reference to.
#[allow(unsafe_code)]
unsafe impl Sync for TaskSlot {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Send for TaskSlot {}

impl TaskSlot {
    pub(crate) fn new(cus: usize) -> TaskSlot {
        let task = Task {
            id: TaskId(0),
            key: TaskKey::best_effort(0),
            token: 0,
            plan: LoadedPlan(0),
            loaded: std::ptr::null(),
            route: None,
            io: Io::default(),
            inputs: Vec::with_capacity(MODEL_TENSORS_MAX),
            outputs: Vec::with_capacity(MODEL_TENSORS_MAX),
            arena: std::ptr::null_mut(),
            submitted: Nanos::ZERO,
            preempted: false,
            first_cus: 0,
        };
        let ended = Ended { closed: None, finished: Nanos::ZERO, counters: TaskCounters::default() };
        TaskSlot {
            task: UnsafeCell::new(task),
            ended: UnsafeCell::new(ended),
            lineage: Lineage::new(),
            arena: Grown::default(),
            tallies: (0..cus).map(|_| Line::default()).collect(),
            fault: Mutex::new(None),
            first_block: AtomicU64::new(u64::MAX),
            all_cus: AtomicU64::new(u64::MAX),
            cus_seen: AtomicU64::new(0),
            finished: AtomicU64::new(0),
        }
    }

    /// The task.
    ///
    /// # Safety
    /// The caller holds a block of it, or owns its settled stage.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn task(&self) -> &Task {
        // SAFETY: nobody writes the task while a block of it is held.
        unsafe { &*self.task.get() }
    }

    /// The task, to fill or to empty.
    ///
    /// # Safety
    /// The caller took the slot and has not published it, owns its settled stage, or popped its completion.
    #[allow(unsafe_code, clippy::mut_from_ref)]
    pub(crate) unsafe fn task_mut(&self) -> &mut Task {
        // SAFETY: the caller is alone.
        unsafe { &mut *self.task.get() }
    }

    /// How the task ended.
    ///
    /// # Safety
    /// The caller owns the settled last stage, or popped the completion.
    #[allow(unsafe_code, clippy::mut_from_ref)]
    pub(crate) unsafe fn ended_mut(&self) -> &mut Ended {
        // SAFETY: the caller is alone.
        unsafe { &mut *self.ended.get() }
    }

    /// Before a task is published.
    pub(crate) fn clear_times(&self) {
        self.first_block.store(u64::MAX, Ordering::Relaxed);
        self.all_cus.store(u64::MAX, Ordering::Relaxed);
        self.cus_seen.store(0, Ordering::Relaxed);
    }

    /// A block of the task's first stage starts on `cu`.
    pub(crate) fn note_start(&self, cu: usize, now: Nanos, first_cus: u32) {
        let seen = self.cus_seen.load(Ordering::Relaxed);
        if seen >> cu & 1 != 0 {
            return;
        }
        let before = self.cus_seen.fetch_or(1 << cu, Ordering::Relaxed);
        self.first_block.fetch_min(now.0, Ordering::Relaxed);
        if before.count_ones() + 1 == first_cus {
            self.all_cus.store(now.0, Ordering::Relaxed);
        }
    }

    /// Adds up the tallies and clears them. Only for the owner of the settled last stage.
    pub(crate) fn collect_tallies(&self) -> TaskCounters {
        let mut sum = TaskCounters::default();
        for tally in &self.tallies {
            let take = |counter: &AtomicU64| {
                let value = counter.load(Ordering::Relaxed);
                counter.store(0, Ordering::Relaxed);
                value
            };
            sum.blocks_done += take(&tally.blocks_done);
            sum.blocks_killed += take(&tally.blocks_killed);
            sum.blocks_padding += take(&tally.blocks_padding);
            sum.cu_time += Nanos(take(&tally.cu_time));
            sum.wasted_time += Nanos(take(&tally.wasted_time));
            sum.padding_time += Nanos(take(&tally.padding_time));
            sum.kills_caused += take(&tally.kills_caused);
        }
        sum
    }
}
