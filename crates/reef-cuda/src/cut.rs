//! How kernels are cut into blocks for a GPU, and what they are thought to take.

use reef_base::Nanos;
use reef_plan::cut::{Cutter, Weights, Work};
use reef_plan::{KernelSpec, OwnLayout, Packing, Target};

use crate::pack::Rows;

/// Pixels and output channels of a block, as `kernels/conv.cuh` has them.
pub(crate) const CONV_ROWS: usize = 64;
/// See above.
pub(crate) const CONV_COLUMNS: usize = 64;
/// Elements of a block of an element-wise kernel: eight for each thread.
const ELEMENTS: usize = 2048;

/// Work beside a block's own: its start, and its arrival.
const BLOCK_NS: f64 = 1_000.0;
/// Operations in f32 that a multiprocessor gets done in a nanosecond, and bytes. Before anything is measured.
const FLOPS_PER_NS: f64 = 200.0;
/// See above.
const BYTES_PER_NS: f64 = 20.0;

/// From the word that evicts a task until its blocks see it. Not measured yet; see the page on GPUs.
pub(crate) const PROPAGATION: Nanos = Nanos::from_micros(100);

/// Cuts kernels for GPUs of one architecture and so many multiprocessors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CudaCutter {
    target: Target,
}

impl CudaCutter {
    pub(crate) fn new(target: Target) -> CudaCutter {
        CudaCutter { target }
    }

    /// Units per block, so that there are a few blocks for each multiprocessor.
    fn split(&self, units: usize) -> usize {
        units.div_ceil(4 * self.target.cus.max(1)).max(1)
    }
}

impl Cutter for CudaCutter {
    fn target(&self) -> Target {
        self.target
    }

    fn packing(&self, weights: Weights<'_>) -> Packing {
        let layout = OwnLayout(&Rows);
        match weights {
            Weights::Conv { groups, .. } => Packing::Own { layout, groups: groups as u32, transposed: false },
            Weights::Matrix { transposed, .. } => Packing::Own { layout, groups: 1, transposed },
            Weights::Depthwise { .. } => Packing::Depthwise,
        }
    }

    fn cut(&self, mut kernel: KernelSpec, _work: &Work) -> KernelSpec {
        match &mut kernel {
            KernelSpec::Conv(spec) => {
                (spec.tile_rows, spec.tile_columns, spec.columns_inner) = (CONV_ROWS, CONV_COLUMNS, true);
            }
            KernelSpec::MatMul(spec) => (spec.tile_rows, spec.tile_columns) = (CONV_ROWS, CONV_COLUMNS),
            KernelSpec::Elementwise(spec) => spec.tile = ELEMENTS.min(spec.tile),
            KernelSpec::Depthwise(spec) => spec.tile_rows = self.split(spec.tile_rows),
            KernelSpec::Pool(spec) => spec.tile_rows = self.split(spec.tile_rows),
            KernelSpec::Reduce(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::Softmax(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::LayerNorm(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::Gather(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::Selection(_) | KernelSpec::Host(_) | KernelSpec::Synthetic(_) => {}
        }
        kernel
    }

    fn kernel_ns(&self, kernel: &KernelSpec, work: &Work) -> f64 {
        kernel.blocks() as f64 * BLOCK_NS + (work.flops / FLOPS_PER_NS).max(work.bytes / BYTES_PER_NS)
    }

    /// Blocks keep to registers and shared memory.
    fn scratch_bytes(&self, _kernel: &KernelSpec) -> usize {
        0
    }

    /// Kernels of one stage are queued one after the other on a stream.
    fn stage_blocks(&self) -> usize {
        1
    }
}
