//! What indices name is taken, or something is put there.
//!
//! Indices are widened some at a time, then looked at. Element types matter by their size alone, but where
//! what is put is computed with. Polls by [`super::pace::Pace`].

mod put;
mod take;

use std::sync::Arc;

use reef_graph::{BadIndex, DType};
use reef_plan::Region;

pub(super) use put::prepare as put;
pub(super) use take::prepare as take;

use super::pace::Stopped;
use crate::context::{BlockContext, BlockEnd, BlockFault};

/// Indices that are looked at in one go, at most.
const CHUNK: usize = 64;

/// The indices of a kernel, and who they belong to.
struct Indices {
    region: Region,
    dtype: DType,
    kernel: Arc<str>,
    operator: &'static str,
}

impl Indices {
    /// Index number `pick`.
    ///
    /// # Safety
    /// There is such an index, and the context is the kernel's.
    #[inline(always)]
    unsafe fn one(&self, context: &BlockContext<'_>, pick: usize) -> i64 {
        let indices = context.read_ptr(&self.region);
        // SAFETY: the caller vouches for the index.
        unsafe {
            match self.dtype {
                DType::I64 => indices.cast::<i64>().add(pick).read(),
                _ => i64::from(indices.cast::<i32>().add(pick).read()),
            }
        }
    }

    /// Fills `to` with the indices from number `first` on.
    ///
    /// # Safety
    /// There are so many, and the context is the kernel's.
    #[inline(always)]
    unsafe fn load(&self, context: &BlockContext<'_>, first: usize, to: &mut [i64]) {
        let indices = context.read_ptr(&self.region);
        // SAFETY: the caller vouches for the indices.
        unsafe {
            match self.dtype {
                DType::I64 => {
                    let from = indices.cast::<i64>().add(first);
                    std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len());
                }
                _ => {
                    let from = indices.cast::<i32>().add(first);
                    for at in 0..to.len() {
                        to[at] = i64::from(from.add(at).read());
                    }
                }
            }
        }
    }

    /// The place of its plane that row number `row` of indices names.
    ///
    /// # Safety
    /// As for [`Self::one`].
    #[inline(always)]
    unsafe fn row(
        &self,
        context: &BlockContext<'_>,
        row: usize,
        extents: &[usize],
    ) -> Result<usize, Stopped> {
        let mut named = 0;
        for (axis, &extent) in extents.iter().enumerate() {
            let pick = row * extents.len() + axis;
            // SAFETY: the row has as many indices as there are extents.
            let index = unsafe { self.one(context, pick) };
            let inside = place(index, extent);
            if inside >= extent as u64 {
                return Err(self.fault(BadIndex { pick, index, extent }));
            }
            named = named * extent + inside as usize;
        }
        Ok(named)
    }

    #[cold]
    fn fault(&self, bad: BadIndex) -> Stopped {
        let (kernel, operator) = (self.kernel.clone(), self.operator);
        BlockEnd::Failed(BlockFault::Index { kernel, operator, bad })
    }
}

/// The place that an index names on an axis of `extent`; one beyond it when there is none.
#[inline(always)]
fn place(index: i64, extent: usize) -> u64 {
    index.wrapping_add(if index < 0 { extent as i64 } else { 0 }) as u64
}
