//! When blocks poll whose steps are counted.

use reef_plan::Region;

use crate::context::{BlockContext, BlockEnd, Poll};

/// Why a block stops early: a kill or a fault.
pub(super) type Stopped = BlockEnd;

/// Steps between polls. A step takes about a nanosecond, two on a slow machine.
pub(super) const STEPS: usize = 4096;
/// Steps of looking at an element that lies anywhere.
pub(super) const SCATTERED: usize = 32;
/// Bytes that are copied or filled between polls.
const COPY_BYTES: usize = 32 << 10;

/// When to poll: before the first step, and whenever there were enough of them.
pub(super) struct Pace<'a> {
    poll: &'a Poll<'a>,
    left: usize,
}

impl<'a> Pace<'a> {
    /// Polls at the first step.
    #[inline(always)]
    pub(super) fn new(poll: &'a Poll<'a>) -> Pace<'a> {
        Pace { poll, left: 0 }
    }
}

impl Pace<'_> {
    /// Counts steps that are to be taken; they are few. An error when a poll said stop.
    #[inline(always)]
    pub(super) fn steps(&mut self, count: usize) -> Result<(), Stopped> {
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
    pub(super) unsafe fn copy(&mut self, from: *const u8, to: *mut u8, bytes: usize) -> Result<(), Stopped> {
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
    pub(super) unsafe fn zero(
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
