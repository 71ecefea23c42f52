//! What the device keeps of each slot, one task after the other.
//!
//! | at | what |
//! |---|---|
//! | [`EVICTED_AT`] | the last epoch whose blocks do not start any more |
//! | [`EPOCH_AT`], [`NUMBER_AT`] | epoch and number of the launch of a graph: parameters of its nodes stay |
//! | [`REPORT_AT`] | how that launch goes; the graph's last node tells the host |
//! | [`ARRIVALS_AT`] | blocks that are through, and behind it which parts of tiles are there |

use crate::cut::SPLIT_BLOCKS;
use crate::descriptor::Report;

/// In the device's memory: blocks look at it before they start, and a look at the host's would take longer
/// than many a block.
pub(crate) const EVICTED_AT: usize = 0;
/// The kernels know it as the word behind that.
pub(crate) const EPOCH_AT: usize = 4;
/// And this as the next one.
pub(crate) const NUMBER_AT: usize = 8;
pub(crate) const REPORT_AT: usize = 64;
pub(crate) const ARRIVALS_AT: usize = 128;
/// Bytes of the words that tell which parts of tiles are there, behind the count of blocks.
pub(crate) const ARRIVED: (usize, usize) = (ARRIVALS_AT + size_of::<u64>(), SPLIT_BLOCKS * size_of::<u64>());
/// Bytes of a slot.
pub(crate) const SLOT_BYTES: usize = (ARRIVED.0 + ARRIVED.1).next_multiple_of(128);

const _: () = assert!(REPORT_AT + size_of::<Report>() <= ARRIVALS_AT);

/// Addresses of it, and of the host's reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotPlaces {
    pub(crate) slots: u64,
    pub(crate) reports: u64,
}

impl SlotPlaces {
    /// Of slot `slot`, the address of what lies at one of the places above.
    pub(crate) fn of(&self, slot: usize, at: usize) -> u64 {
        self.slots + (slot * SLOT_BYTES + at) as u64
    }
}
