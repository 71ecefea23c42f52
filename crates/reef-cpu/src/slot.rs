//! What belongs to a task while it is on the board, beside the board's own words.
//!
//! | part | who touches it |
//! |---|---|
//! | [`Task`] | submitter, owner of the settled last stage and popper write, holders of blocks read |
//! | [`Ended`] | written by the owner of the settled last stage; read by the popper |
//! | arena | prepared by the submitter; written by blocks, which stages and tiles keep apart |
//! | a tally, one per unit | the unit, while it holds a block; summed and cleared by the owner |
//! | `fault` | who fails a block puts it there, before the task is closed for it; the popper takes it |
//! | times | cleared by the submitter, noted by holders of blocks, read by the popper |
//!
//! These are cells without words of their own: the board's edges order who touches them, from the submitter
//! to holders of blocks, to the owner, to the popper, to the slot's next submitter. Each is used inside of a
//! closure, so that loom, which runs the executor's steps on them, sees from when until when.

use std::sync::Arc;

use reef_base::limits::MODEL_TENSORS_MAX;
use reef_base::{Nanos, TaskId, TaskKey};
use reef_device::{Io, LoadedPlan, Route, TaskCounters};

use crate::board::word::Reason;
use crate::context::BlockFault;
use crate::lineage::Lineage;
use crate::memory::Grown;
use crate::plans::Loaded;
use crate::sync::{AtomicU64, Line, Mutex, Ordering, UnsafeCell};

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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// Why it was closed, if it was.
    pub(crate) closed: Option<Reason>,
    pub(crate) finished: Nanos,
    pub(crate) counters: TaskCounters,
}

/// One slot.
pub(crate) struct TaskSlot {
    task: UnsafeCell<Task>,
    ended: UnsafeCell<Ended>,
    /// The generations of the task that is or was in the slot.
    pub(crate) lineage: Lineage,
    /// The task's arena.
    pub(crate) arena: Grown,
    /// What the task cost, by compute unit.
    tallies: Box<[Line<UnsafeCell<TaskCounters>>]>,
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

    /// What `read` makes of the task.
    ///
    /// # Safety
    /// The caller holds a block of it, or owns its settled stage, as long as `read` takes.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) unsafe fn task<R>(&self, read: impl FnOnce(&Task) -> R) -> R {
        // SAFETY: nobody writes the task while a block of it is held.
        self.task.with(|task| read(unsafe { &*task }))
    }

    /// The task, to fill or to empty.
    ///
    /// # Safety
    /// The caller took the slot and has not published it, owns its settled stage, or popped its completion.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) unsafe fn task_mut<R>(&self, write: impl FnOnce(&mut Task) -> R) -> R {
        // SAFETY: the caller is alone.
        self.task.with_mut(|task| write(unsafe { &mut *task }))
    }

    /// Notes how the task ended.
    ///
    /// # Safety
    /// The caller owns the settled last stage.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn end(&self, ended: Ended) {
        // SAFETY: the caller is alone.
        self.ended.with_mut(|place| unsafe { *place = ended });
    }

    /// How the task ended.
    ///
    /// # Safety
    /// The caller popped the completion.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn ended(&self) -> Ended {
        // SAFETY: the caller is alone.
        self.ended.with(|ended| unsafe { *ended })
    }

    /// Adds to what the task cost on `cu`.
    ///
    /// # Safety
    /// The caller is the thread of `cu`, and holds a block of the task.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) unsafe fn tally(&self, cu: usize, add: impl FnOnce(&mut TaskCounters)) {
        // SAFETY: no other unit has this tally, and its owner comes when no block is held.
        self.tallies[cu].with_mut(|tally| add(unsafe { &mut *tally }));
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

    /// Adds up the tallies and clears them.
    ///
    /// # Safety
    /// The caller owns the settled last stage.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn collect_tallies(&self) -> TaskCounters {
        let mut sum = TaskCounters::default();
        for tally in &self.tallies {
            // SAFETY: no unit holds a block of the task.
            sum += tally.with_mut(|tally| std::mem::take(unsafe { &mut *tally }));
        }
        sum
    }
}
