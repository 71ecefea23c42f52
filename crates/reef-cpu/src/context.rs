//! What a block sees while it runs: addresses, scratch, and the poll.
//!
//! The interface between the executor, which makes contexts, and the kernels, which only use them.

use std::cell::UnsafeCell;
use std::sync::Arc;

use reef_graph::BadIndex;
use reef_graph::vision::RoiAlign;
use reef_plan::{HostFault, HostState, Place, Region};

use crate::sync::{AtomicU64, Ordering};

/// How one execution of a block ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BlockEnd {
    /// Its whole tile is written.
    Done,
    /// A poll said stop; the tile holds rubbish and the block must run again.
    Killed,
    /// The kernel could not compute it.
    Failed(BlockFault),
}

/// Why a block failed. Made on a compute unit, which must not ask for memory (`companion` says why), and put
/// in words elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BlockFault {
    /// A host kernel's own words, from its companion.
    Host(HostFault),
    /// An index of the kernel, which computes this operator, is not one of its axis.
    Index { kernel: Arc<str>, operator: &'static str, bad: BadIndex },
    /// An integer of the kernel is divided by 0.
    Divisor { kernel: Arc<str>, operator: &'static str },
    /// The length of sequence number `row` of the kernel's operator is not in 0 to `steps`.
    Length { kernel: Arc<str>, operator: &'static str, row: usize, length: i32, steps: usize },
    /// The threshold of overlap with these bits is not in 0 to 1.
    Overlap { kernel: Arc<str>, bits: u32 },
    /// Region number `region` of the kernel is of an entry that a batch of `images` does not have.
    Entry { kernel: Arc<str>, region: usize, entry: i64, images: usize },
    /// No companion could be started.
    NoThread,
}

impl BlockFault {
    /// In words.
    pub(crate) fn told(self) -> HostFault {
        match self {
            BlockFault::Host(fault) => fault,
            BlockFault::Index { kernel, operator, bad } => {
                HostFault::of_input(&*kernel, format!("{operator}: {bad}"))
            }
            BlockFault::Divisor { kernel, operator } => {
                let reason = format!(
                    "{operator}: an integer is divided by 0; every element of the divisor must be another \
                     number"
                );
                HostFault::of_input(&*kernel, reason)
            }
            BlockFault::Length { kernel, operator, row, length, steps } => {
                let reason =
                    format!("{operator}: sequence_lens[{row}] is {length}, allowed are 0 to {steps}");
                HostFault::of_input(&*kernel, reason)
            }
            BlockFault::Overlap { kernel, bits } => {
                let threshold = f32::from_bits(bits);
                let reason = format!("NonMaxSuppression: iou_threshold is {threshold}, allowed are 0 to 1");
                HostFault::of_input(&*kernel, reason)
            }
            BlockFault::Entry { kernel, region, entry, images } => {
                HostFault::of_input(&*kernel, RoiAlign::wrong_entry(region, entry, images))
            }
            BlockFault::NoThread => HostFault::of_kernel("host", "there is no thread to run it on"),
        }
    }
}

/// One task slot's state of one host kernel; none after a panic.
pub(crate) type HostCell = UnsafeCell<Option<Box<dyn HostState>>>;

/// Decides, off the fast path, whether a block that saw a demand gives its compute unit up.
pub(crate) trait Demand {
    /// Whether this compute unit is wanted. After a "yes" the caller must stop: the urgent block is in hand.
    fn take(&self) -> bool;
}

/// The poll: one load of the board's poll word, one of the task's cancel word.
pub(crate) struct Poll<'a> {
    /// Smaller is more urgent; `u64::MAX` when nobody wants a compute unit.
    pub(crate) word: &'a AtomicU64,
    /// Words below this one concern the block. 0: none does, and only a cancellation stops it.
    pub(crate) threshold: u64,
    /// Not 0 when the task is being cancelled.
    pub(crate) cancel: &'a AtomicU64,
    /// Asked when the word concerns the block.
    pub(crate) demand: &'a dyn Demand,
}

impl Poll<'_> {
    /// Whether the block must be abandoned now. Kernels call this at least every 10 µs of work, and never
    /// between their first and last store to an output that a re-run would not overwrite.
    #[inline(always)]
    pub(crate) fn stop(&self) -> bool {
        if cfg!(feature = "no-polls") {
            return false;
        }
        if self.word.load(Ordering::Relaxed) >= self.threshold && self.cancel.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.decide()
    }

    #[cold]
    #[inline(never)]
    fn decide(&self) -> bool {
        let wanted = || self.word.load(Ordering::Relaxed) < self.threshold && self.demand.take();
        self.cancel.load(Ordering::Relaxed) != 0 || wanted()
    }
}

/// Base addresses of the places that a task's regions name.
pub(crate) struct Bases<'a> {
    /// One per input.
    pub(crate) inputs: &'a [*const u8],
    /// One per output.
    pub(crate) outputs: &'a [*mut u8],
    /// The task's arena.
    pub(crate) arena: *mut u8,
}

/// Everything a block needs. Made by the executor for each block.
pub(crate) struct BlockContext<'a> {
    /// Base addresses.
    pub(crate) bases: Bases<'a>,
    /// Base addresses of the plan's packed weights.
    pub(crate) weights: &'a [*const u8],
    /// Scratch of the compute unit, as large as the plan asks for, 64-byte aligned.
    pub(crate) scratch: *mut u8,
    /// The poll.
    pub(crate) poll: Poll<'a>,
    /// The task slot's state of the host kernel, for host kernels only. One block, so never shared.
    pub(crate) host: Option<&'a HostCell>,
}

impl BlockContext<'_> {
    /// Address of a region that is read.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn read_ptr(&self, region: &Region) -> *const u8 {
        let base = match region.place {
            Place::Input(index) => self.bases.inputs[index as usize],
            Place::Output(index) => self.bases.outputs[index as usize],
            Place::Arena => self.bases.arena,
            Place::Weight(index) => self.weights[index as usize],
        };
        // SAFETY: the plan's validator checked that the region lies inside its place, and the executor that
        // the buffers have the places' sizes.
        unsafe { base.add(region.offset) }
    }

    /// Address of a region that is written.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn write_ptr(&self, region: &Region) -> *mut u8 {
        let base = match region.place {
            Place::Output(index) => self.bases.outputs[index as usize],
            Place::Arena => self.bases.arena,
            Place::Input(_) | Place::Weight(_) => {
                unreachable!("the validator admits only outputs and the arena")
            }
        };
        // SAFETY: as in `read_ptr`.
        unsafe { base.add(region.offset) }
    }
}

#[cfg(all(test, not(loom), not(feature = "no-polls")))]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Answers, and counts the questions.
    struct Answers(bool, Cell<u32>);

    impl Demand for Answers {
        fn take(&self) -> bool {
            self.1.set(self.1.get() + 1);
            self.0
        }
    }

    #[test]
    fn a_poll_stops_for_a_cancellation_or_for_a_demand_that_is_taken() {
        // Poll word, threshold, cancel word, what the demand says; whether the block stops, and whether it
        // asked.
        for (word, threshold, cancel, answer, stops, asked) in [
            (9, 5, 0, true, false, 0),
            (5, 5, 0, true, false, 0),
            (4, 5, 0, true, true, 1),
            (4, 5, 0, false, false, 1),
            (0, 0, 0, true, false, 0),
            (9, 5, 1, false, true, 0),
            (0, 0, 1, false, true, 0),
            (4, 5, 1, false, true, 0),
        ] {
            let demand = Answers(answer, Cell::new(0));
            let (word, cancel) = (AtomicU64::new(word), AtomicU64::new(cancel));
            let poll = Poll { word: &word, threshold, cancel: &cancel, demand: &demand };
            assert_eq!((poll.stop(), demand.1.get()), (stops, asked), "{word:?} {threshold} {cancel:?}");
        }
    }
}
