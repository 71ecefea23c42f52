//! Kernels of vision models: samplings, pooled regions, sums of windows, determinants.
//!
//! A block makes whole units, one after the other, and writes all of each: so whatever a killed one has
//! written, the next one overwrites. What is read of an output was written by the same run of the block.
//! Polls by [`Pace`].

mod col2im;
mod determinant;
mod region;
mod sample;

use reef_graph::Vision;
use reef_plan::{Isa, Kernel, VisionSpec};

use super::pace::{Pace, Stopped};
use super::vector::Vector;
use super::{BlockKernel, VectorKernel, bind};
use crate::context::{BlockContext, BlockEnd};

pub(super) use super::pace::STEPS;

/// Makes a kernel ready.
pub(super) fn prepare(spec: &VisionSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    match &spec.vision {
        Vision::GridSample(sample) => bind(Units(sample::Sampling::new(*sample, spec, kernel)), isa),
        Vision::RoiAlign(align) => bind(Units(region::Regions::new(*align, spec, kernel)), isa),
        Vision::Col2Im(fold) => bind(Units(col2im::Sums::new(fold, spec, kernel)), isa),
        Vision::Det => bind(Units(determinant::Determinants::new(spec, kernel)), isa),
    }
}

/// Code that makes units.
trait Make: Send + Sync + 'static {
    /// Units of a block, and of all.
    fn counts(&self) -> (usize, usize);

    /// Makes all of the units `range`; to be marked `inline(always)`.
    ///
    /// # Safety
    /// As [`BlockKernel::run`], inside `V::enter`.
    unsafe fn make<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        range: (usize, usize),
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped>;
}

struct Units<K>(K);

impl<K: Make> VectorKernel for Units<K> {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let (tile, all) = self.0.counts();
        let mut pace = Pace::new(&context.poll);
        // SAFETY: passed on from the caller; the units are the block's.
        match unsafe { self.0.make::<V>(context, (block * tile, all.min((block + 1) * tile)), &mut pace) } {
            Ok(()) => BlockEnd::Done,
            Err(stopped) => stopped,
        }
    }
}
