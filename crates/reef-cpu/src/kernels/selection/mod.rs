//! Selections: one block that makes all of every output, zeros behind the part that is meant. So whatever a
//! killed block has written, the next one overwrites.
//!
//! Polls by [`Pace`]. What is read of an output was written by the same run of the block.

mod compress;
mod non_zero;
mod suppress;
mod unique;

use reef_plan::{Kernel, Region, SelectionSpec};

use super::BlockKernel;
use super::pace::{Pace, SCATTERED, STEPS, Stopped};
use crate::context::{BlockContext, BlockEnd};

/// Makes a selection ready.
pub(super) fn prepare(spec: &SelectionSpec, kernel: &Kernel) -> Box<dyn BlockKernel> {
    match spec {
        SelectionSpec::NonZero(spec) => non_zero::prepare(spec, kernel),
        SelectionSpec::Compress(spec) => Box::new(Whole(compress::Compress::new(spec, kernel))),
        SelectionSpec::Unique(spec) => Box::new(Whole(unique::Unique::new(spec, kernel))),
        SelectionSpec::NonMaxSuppression(spec) => Box::new(Whole(suppress::Suppress::new(spec, kernel))),
    }
}

/// A selection's code.
trait Select: Send + Sync {
    /// Writes all of every output.
    ///
    /// # Safety
    /// As [`BlockKernel::run`].
    unsafe fn select(&self, context: &BlockContext<'_>, pace: &mut Pace<'_>) -> Result<(), Stopped>;
}

/// A kernel of one block.
struct Whole<K>(K);

impl<K: Select> BlockKernel for Whole<K> {
    unsafe fn run(&self, context: &BlockContext<'_>, _block: u32) -> BlockEnd {
        let mut pace = Pace::new(&context.poll);
        // SAFETY: passed on from the caller.
        match unsafe { self.0.select(context, &mut pace) } {
            Ok(()) => BlockEnd::Done,
            Err(stopped) => stopped,
        }
    }
}

/// Stores the count, an i64, in its region.
///
/// # Safety
/// The region is one that the kernel writes, of eight bytes.
unsafe fn store_count(context: &BlockContext<'_>, region: &Region, count: usize) {
    // SAFETY: the caller vouches for the region.
    unsafe { context.write_ptr(region).cast::<i64>().write(count as i64) };
}
