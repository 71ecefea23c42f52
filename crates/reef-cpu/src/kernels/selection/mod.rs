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
use crate::context::{BlockContext, BlockEnd, Poll};

/// Makes a selection ready.
pub(super) fn prepare(spec: &SelectionSpec, kernel: &Kernel) -> Box<dyn BlockKernel> {
    match spec {
        SelectionSpec::NonZero(spec) => non_zero::prepare(spec, kernel),
        SelectionSpec::Compress(spec) => Box::new(Whole(compress::Compress::new(spec, kernel))),
        SelectionSpec::Unique(spec) => Box::new(Whole(unique::Unique::new(spec, kernel))),
        SelectionSpec::NonMaxSuppression(spec) => Box::new(Whole(suppress::Suppress::new(spec, kernel))),
    }
}

/// Why a block stops early: a kill or a fault.
type Stopped = BlockEnd;

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
        let mut pace = Pace { poll: &context.poll, left: 0 };
        // SAFETY: passed on from the caller.
        match unsafe { self.0.select(context, &mut pace) } {
            Ok(()) => BlockEnd::Done,
            Err(stopped) => stopped,
        }
    }
}

/// Steps between polls. A step takes about a nanosecond, two on a slow machine.
const STEPS: usize = 4096;
/// Steps of looking at an element that lies anywhere.
const SCATTERED: usize = 32;
/// Bytes that are copied or filled between polls.
const COPY_BYTES: usize = 32 << 10;

/// When to poll: before the first step, and whenever there were enough of them.
struct Pace<'a> {
    poll: &'a Poll<'a>,
    left: usize,
}

impl Pace<'_> {
    /// Counts steps that are to be taken; they are few. An error when a poll said stop.
    #[inline(always)]
    fn steps(&mut self, count: usize) -> Result<(), Stopped> {
        if count < self.left {
            self.left -= count;
            return Ok(());
        }
        self.left = STEPS;
        if self.poll.stop() { Err(BlockEnd::Killed) } else { Ok(()) }
    }

    /// Copies bytes that do not overlap.
    ///
    /// # Safety
    /// They are valid for that.
    unsafe fn copy(&mut self, from: *const u8, to: *mut u8, bytes: usize) -> Result<(), Stopped> {
        for at in (0..bytes).step_by(COPY_BYTES) {
            let part = COPY_BYTES.min(bytes - at);
            self.steps(8 + part / 8)?;
            // SAFETY: the caller vouches for the bytes.
            unsafe { std::ptr::copy_nonoverlapping(from.add(at), to.add(at), part) };
        }
        Ok(())
    }

    /// Writes zeros from byte `begin` of a region to its end.
    ///
    /// # Safety
    /// The region is one that the kernel writes.
    unsafe fn zero(
        &mut self,
        context: &BlockContext<'_>,
        region: &Region,
        begin: usize,
    ) -> Result<(), Stopped> {
        let to = context.write_ptr(region);
        for at in (begin..region.bytes).step_by(COPY_BYTES) {
            let part = COPY_BYTES.min(region.bytes - at);
            self.steps(8 + part / 8)?;
            // SAFETY: the bytes are the region's.
            unsafe { to.add(at).write_bytes(0, part) };
        }
        Ok(())
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
