//! How kernels are cut into blocks for a GPU, and what they are thought to take.

use reef_base::Nanos;
use reef_graph::{Along, DType};
use reef_plan::cut::{Cutter, Weights, Work};
use reef_plan::{
    AlongSpec, ConvSpec, KernelSpec, OwnLayout, Packing, Precision, RecurrentSpec, RowFunction, Target,
};

use crate::pack::{self, Chunks, Rows};

/// Pixels and output channels of a block, as `kernels/conv.cuh` and `kernels/precision.cuh` have them.
pub(crate) const CONV_ROWS: usize = 64;
/// See above.
pub(crate) const CONV_COLUMNS: usize = 64;
/// Output channels of a narrow block on tensor cores.
pub(crate) const CONV_COLUMNS_NARROW: usize = 32;
/// Blocks of a kernel whose tiles are split, at most: about as many as large GPUs have multiprocessors. A
/// number of its own, not the device's, so that the order of sums follows from the kernel alone.
pub(crate) const SPLIT_BLOCKS: usize = 128;
/// Chunks along k that a split has at least: fewer cost more at the end than they save.
const SPLIT_CHUNKS_MIN: usize = 8;
/// Products of a query and a key, and columns of the values, of attention in one kernel at most.
pub(crate) const ATTENTION_WIDTH_MAX: usize = 256;
/// Chunks that a block multiplies in a step.
pub(crate) const STEP_CHUNKS: usize = 2;
/// Columns of a panel of integers.
const INTEGER_COLUMNS: usize = 16;
/// Elements that a row gives at most where the largest ones are picked one by one.
const TOP_MAX: usize = 64;
/// Elements that a thread looks at for a row at most: nothing runs in between.
const ALONG_STEPS_MAX: usize = 1 << 14;
/// Rows from which on a thread makes each, if they are neighbours.
const ALONG_ROWS_WIDE: usize = 4096;
/// Rows of a block whose threads make one each, at least.
const ALONG_ROWS_MIN: usize = 32;
/// Elements of a block of an element-wise kernel: eight for each thread.
const ELEMENTS: usize = 2048;

/// Threads of a block that compute, as `kernels/tile.cuh` has it.
pub(crate) const THREADS: usize = 256;

/// Work beside a block's own: its start, and its arrival.
const BLOCK_NS: f64 = 1_000.0;
/// Bytes that a multiprocessor gets moved in a nanosecond. Before anything is measured.
const BYTES_PER_NS: f64 = 20.0;

/// Sequences that a block of a recurrent network takes at most, as `kernels/recurrent.cuh` has it.
pub(crate) const RECURRENT_ROWS: usize = 4;
/// Elements of a state of a recurrent network at most: its states lie in shared memory, of which every GPU
/// has 99 KiB for a block. The host runs larger ones.
pub(crate) const RECURRENT_HIDDEN_MAX: usize = 2048;
/// Bytes of weights that a multiprocessor gets from the cache in a nanosecond. Before anything is measured.
const CACHED_BYTES_PER_NS: f64 = 50.0;
/// What a step of a recurrent network takes beside its weights.
const RECURRENT_STEP_NS: f64 = 2_000.0;
/// What a kernel of a recurrent network is to take at most: nothing runs in between.
const RECURRENT_NS_MAX: f64 = 500_000.0;

/// Operations that the host gets done in a nanosecond, in a kernel that it runs.
const HOST_FLOPS_PER_NS: f64 = 5.0;

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

    /// Operations that a multiprocessor gets done in a nanosecond. Before anything is measured.
    fn flops_per_ns(&self, kernel: &KernelSpec) -> f64 {
        match (kernel, self.target.precision) {
            (KernelSpec::Conv(_) | KernelSpec::MatMul(_) | KernelSpec::Attention(_), Precision::Tf32) => {
                1_000.0
            }
            (
                KernelSpec::Conv(_) | KernelSpec::MatMul(_) | KernelSpec::Attention(_),
                Precision::F16 | Precision::Bf16,
            ) => 2_000.0,
            (KernelSpec::IntegerConv(_) | KernelSpec::IntegerMatMul(_), _) => 2_000.0,
            (
                KernelSpec::Recurrent(_)
                | KernelSpec::Vision(_)
                | KernelSpec::Take(_)
                | KernelSpec::Put(_)
                | KernelSpec::MaxPool(_)
                | KernelSpec::Packed(_),
                _,
            ) => HOST_FLOPS_PER_NS,
            (KernelSpec::Along(spec), _) if !has_along(spec) => HOST_FLOPS_PER_NS,
            _ => 200.0,
        }
    }

    /// Nanoseconds of a step of a recurrent network on the device, whose weights every block reads anew.
    fn step_ns(spec: &RecurrentSpec) -> f64 {
        let weights = spec.cell.gates() * spec.hidden * spec.hidden * size_of::<f32>();
        RECURRENT_STEP_NS + weights as f64 / CACHED_BYTES_PER_NS
    }

    /// Tiles of a convolution on tensor cores, and how many blocks share one.
    fn cut_for_tensor_cores(spec: &mut ConvSpec) {
        let chunks = Chunks::count(spec.matrices());
        let outputs = spec.out_c / spec.groups;
        let most = (chunks / SPLIT_CHUNKS_MIN).max(1);
        let tiles =
            |columns: usize| spec.rows().div_ceil(CONV_ROWS) * outputs.div_ceil(columns) * spec.groups;
        let few = tiles(CONV_COLUMNS) * most < SPLIT_BLOCKS;
        let columns = if few || outputs <= CONV_COLUMNS_NARROW { CONV_COLUMNS_NARROW } else { CONV_COLUMNS };
        let wanted = (SPLIT_BLOCKS / tiles(columns).max(1)).clamp(1, most);
        (spec.tile_rows, spec.tile_columns, spec.columns_inner) = (CONV_ROWS, columns, true);
        spec.splits = chunks.div_ceil(split_chunks(chunks, wanted)).max(1);
    }

    /// Units per block, so that there are a few blocks for each multiprocessor.
    fn split(&self, units: usize) -> usize {
        units.div_ceil(4 * self.target.cus.max(1)).max(1)
    }
}

/// Whether the host takes recurrent networks from step to step: with large states, and with states that are
/// multiplied as integers.
pub(crate) fn hosts_recurrent(hidden: usize, integers: bool) -> bool {
    integers || hidden > RECURRENT_HIDDEN_MAX
}

/// Whether the device has a kernel for what goes along an axis: not where it picks very many elements, which
/// it does one by one, not for running sums of 16-bit floats, and not where a block would take too long.
pub(crate) fn has_along(spec: &AlongSpec) -> bool {
    let has_function = match spec.function {
        RowFunction::Along(Along::TopK { k, .. }) => k <= TOP_MAX,
        RowFunction::Along(Along::Scan { .. }) => !matches!(spec.dtype, DType::F16 | DType::BF16),
        _ => true,
    };
    let threads = if is_wide(spec) { THREADS } else { 1 };
    has_function && elements_of_row(spec).div_ceil(threads) <= ALONG_STEPS_MAX
}

/// Elements that are looked at for a row: all of them, for each that is picked.
fn elements_of_row(spec: &AlongSpec) -> usize {
    let turns = match spec.function {
        RowFunction::Along(Along::TopK { k, .. }) => k.max(1),
        _ => 1,
    };
    spec.extent.saturating_mul(turns)
}

/// Whether a block makes a row of what goes along an axis, and no thread does: of long rows, unless they are
/// many and neighbours lie side by side. Running sums of doubles keep their order, and products of floats
/// must: a part of them may be infinite where the whole is not.
pub(crate) fn is_wide(spec: &AlongSpec) -> bool {
    let in_order = match spec.function {
        RowFunction::Along(Along::Scan { product, .. }) => {
            spec.dtype == DType::F64 || product && spec.dtype.is_float()
        }
        _ => false,
    };
    spec.extent >= THREADS && (spec.inner == 1 || spec.rows() < ALONG_ROWS_WIDE) && !in_order
}

/// Chunks of each of so many splits: whole steps.
pub(crate) fn split_chunks(chunks: usize, splits: usize) -> usize {
    chunks.div_ceil(splits).next_multiple_of(STEP_CHUNKS)
}

impl Cutter for CudaCutter {
    fn target(&self) -> Target {
        self.target
    }

    fn packing(&self, weights: Weights<'_>) -> Packing {
        let layout = pack::layout(self.target.precision);
        match weights {
            Weights::Conv { groups, .. } => Packing::Own { layout, groups: groups as u32, transposed: false },
            Weights::Matrix { transposed, .. } => Packing::Own { layout, groups: 1, transposed },
            Weights::Depthwise { .. } => Packing::Depthwise,
            // The host multiplies with them as they are.
            Weights::Recurrent { shape, .. } if shape[1] > RECURRENT_HIDDEN_MAX => Packing::Raw,
            Weights::Recurrent { gates, .. } => {
                Packing::Own { layout: OwnLayout(&Rows), groups: gates as u32, transposed: false }
            }
            Weights::Integers { groups, .. } => {
                Packing::IntegerPanels { groups: groups as u32, width: INTEGER_COLUMNS as u32 }
            }
        }
    }

    fn cut(&self, mut kernel: KernelSpec, _work: &Work) -> KernelSpec {
        match &mut kernel {
            KernelSpec::Conv(spec) if self.target.precision != Precision::F32 => {
                Self::cut_for_tensor_cores(spec);
            }
            KernelSpec::Conv(spec) => {
                (spec.tile_rows, spec.tile_columns, spec.columns_inner) = (CONV_ROWS, CONV_COLUMNS, true);
            }
            KernelSpec::IntegerConv(spec) => {
                let conv = &mut spec.conv;
                (conv.tile_rows, conv.tile_columns, conv.columns_inner) = (CONV_ROWS, CONV_COLUMNS, true);
                conv.panel_width = INTEGER_COLUMNS;
            }
            KernelSpec::IntegerMatMul(spec) => {
                (spec.product.tile_rows, spec.product.tile_columns) = (CONV_ROWS, CONV_COLUMNS);
            }
            KernelSpec::MatMul(spec) => (spec.tile_rows, spec.tile_columns) = (CONV_ROWS, CONV_COLUMNS),
            KernelSpec::Attention(spec) => spec.tile_rows = CONV_ROWS,
            KernelSpec::Elementwise(spec) => spec.tile = ELEMENTS.min(spec.tile),
            KernelSpec::Depthwise(spec) => spec.tile_rows = self.split(spec.tile_rows),
            KernelSpec::Pool(spec) => spec.tile_rows = self.split(spec.tile_rows),
            KernelSpec::Reduce(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::Softmax(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::LayerNorm(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::Gather(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::Recurrent(spec) if spec.integers.is_some() => spec.panel_width = INTEGER_COLUMNS,
            KernelSpec::Recurrent(spec) if !hosts_recurrent(spec.hidden, false) => {
                if spec.computed {
                    spec.panel_width = Rows::stride(spec.matrices());
                }
                spec.tile_rows = spec.batch.div_ceil(self.target.cus.max(1)).clamp(1, RECURRENT_ROWS);
            }
            KernelSpec::Recurrent(spec) if spec.computed => spec.panel_width = spec.hidden,
            KernelSpec::Resample(spec) => {
                spec.tile_columns = spec.inner.clamp(1, ELEMENTS);
                spec.tile_rows = ELEMENTS / spec.tile_columns;
            }
            // The host takes all rows at once.
            KernelSpec::Along(spec) if !has_along(spec) => {}
            KernelSpec::Along(spec) if is_wide(spec) => {
                spec.tile = (4 * ELEMENTS / elements_of_row(spec)).clamp(1, spec.tile);
            }
            KernelSpec::Along(spec) => {
                spec.tile = self.split(spec.tile).clamp(ALONG_ROWS_MIN, THREADS).min(spec.tile);
            }
            KernelSpec::Recurrent(_)
            | KernelSpec::Take(_)
            | KernelSpec::Put(_)
            | KernelSpec::MaxPool(_)
            | KernelSpec::Packed(_)
            | KernelSpec::Trees(_)
            | KernelSpec::Vision(_)
            | KernelSpec::Selection(_)
            | KernelSpec::Host(_)
            | KernelSpec::Synthetic(_) => {}
        }
        kernel
    }

    fn kernel_ns(&self, kernel: &KernelSpec, work: &Work) -> f64 {
        if let KernelSpec::Recurrent(spec) = kernel
            && !hosts_recurrent(spec.hidden, spec.integers.is_some())
        {
            return kernel.blocks() as f64 * (BLOCK_NS + spec.steps as f64 * Self::step_ns(spec));
        }
        kernel.blocks() as f64 * BLOCK_NS
            + (work.flops / self.flops_per_ns(kernel)).max(work.bytes / BYTES_PER_NS)
    }

    /// Blocks keep to registers and shared memory.
    fn scratch_bytes(&self, _kernel: &KernelSpec) -> usize {
        0
    }

    /// As many as leave room for others soon enough; a host is not in their way.
    fn recurrent_steps(&self, spec: &RecurrentSpec, _work: &Work) -> usize {
        if hosts_recurrent(spec.hidden, spec.integers.is_some()) {
            return spec.steps.max(1);
        }
        ((RECURRENT_NS_MAX / Self::step_ns(spec)) as usize).max(1)
    }

    fn hosts_recurrent(&self, hidden: usize, integers: bool) -> bool {
        hosts_recurrent(hidden, integers)
    }

    /// On tensor cores.
    fn has_attention(&self, depth: usize, width: usize) -> bool {
        self.target.precision != Precision::F32 && depth.max(width) <= ATTENTION_WIDTH_MAX
    }

    /// On tensor cores, in every precision: integers are exact.
    fn has_integers(&self) -> bool {
        true
    }

    fn has_normed_conv(&self) -> bool {
        true
    }

    /// Kernels of one stage are queued one after the other on a stream.
    fn stage_blocks(&self) -> usize {
        1
    }
}
