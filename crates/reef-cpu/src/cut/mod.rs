//! How this device cuts kernels into blocks and packs what they multiply with: the CPU's [`Cutter`].
//!
//! Weights lie in panels as wide as the micro-kernel's tile. Blocks are as long as their overhead is worth
//! (`tile`), and no longer than what may keep more urgent work waiting.

pub(crate) mod attention;
pub(crate) mod integer;
pub(crate) mod packed;
mod scratch;
mod tile;
mod vision;

use reef_graph::Along;
use reef_plan::cut::{Cutter, Weights, Work};
use reef_plan::{
    AlongSpec, AttentionSpec, ConvSpec, ElementwiseSpec, IntegerConvSpec, IntegerMatMulSpec, Isa, KernelSpec,
    MatMulSpec, Packing, Place, Plan, PutSpec, RecurrentSpec, RowFunction, SelectionSpec, Target, trees_flaw,
};

pub(crate) use scratch::sorts;
use tile::ConvWork;
pub(crate) use tile::panel_width;
pub(crate) use vision::run_of;

use integer::INTEGER_COLUMNS;

/// Blocks per compute unit that fill a stage: at its end a unit idles for half a block on average.
const BLOCKS_PER_CU: usize = 8;
/// Multiple of elements that element-wise blocks are cut at: a cache line or more of any type.
const TILE_GRANULE: usize = 64;
/// Longest innermost axis that element-wise blocks are cut at whole.
const INNER_GRANULE_MAX: usize = 8192;
/// A copy that changes the order of axes reads or writes by the element.
const SCATTER_PENALTY: f64 = 1.5;
/// Operations that a score takes until it is a weight.
const EXP_OPERATIONS: f64 = 8.0;
/// Elements of a row that is resampled by vectors.
const RESAMPLE_ROW: usize = 16;
/// Nanoseconds that a step of sorting takes, and an element that is looked at alone.
const SORT_NS: f64 = 2.0;
const ALONE_NS: f64 = 1.0;
/// Nanoseconds that looking at an index takes that names nothing of a block's.
const LOOK_NS: f64 = 0.5;
/// Rows that a vector holds elements of.
const SIDE_BY_SIDE: usize = 8;
/// Nanoseconds that a comparison of two slices takes, and a box of a class until it is in its place.
const COMPARISON_NS: f64 = 8.0;
const BOX_NS: f64 = 20.0;

/// Nanoseconds that a row takes from a node of a tree to the next, while the nodes stay in the core's own
/// caches and when they do not.
const STEP_NS: f64 = 4.0;
const FAR_STEP_NS: f64 = 15.0;
/// Bytes of nodes that stay there, and of one.
const NEAR_BYTES: usize = 1 << 20;
const NODE_BYTES: usize = 4 * reef_graph::trees::NODE_WORDS;

/// Cuts kernels for a CPU target.
#[derive(Clone, Copy, Debug)]
pub struct CpuCutter {
    target: Target,
}

impl CpuCutter {
    fn integer_conv(&self, mut spec: IntegerConvSpec) -> IntegerConvSpec {
        let tiles = integer_work(&spec, self.target.isa).tiles(self.target);
        spec.conv.panel_width = INTEGER_COLUMNS;
        spec.conv.tile_rows = tiles.rows;
        spec.conv.tile_columns = tiles.columns.next_multiple_of(INTEGER_COLUMNS);
        spec.conv.columns_inner = tiles.columns_inner;
        spec
    }

    /// For a target of kind [`reef_plan::DeviceKind::Cpu`].
    pub const fn new(target: Target) -> CpuCutter {
        CpuCutter { target }
    }

    /// Output channels of one packed panel.
    pub const fn panel_width(&self) -> usize {
        panel_width(self.target.isa)
    }

    fn conv(&self, mut spec: ConvSpec) -> ConvSpec {
        let tiles = conv_work(&spec).tiles(self.target);
        spec.panel_width = self.panel_width();
        (spec.tile_rows, spec.tile_columns) = (tiles.rows, tiles.columns);
        spec.columns_inner = tiles.columns_inner;
        spec
    }

    fn matmul(&self, mut spec: MatMulSpec, ns: f64) -> MatMulSpec {
        (spec.tile_rows, spec.tile_columns) =
            tile::matmul_tiles(self.target, spec.planes(), spec.m, spec.n, spec.k, ns);
        spec
    }

    /// Whole planes, or parts of one: then every block looks at indices that others look at too, so there are
    /// no more parts than pay.
    fn put(&self, mut spec: PutSpec, ns: f64) -> PutSpec {
        let [planes, places, columns] = spec.extents();
        let plane = places * columns;
        let own = tile::split(self.target, planes * plane, ns, 1).max(1);
        if own >= plane {
            spec.tile = [(own / plane.max(1)).clamp(1, planes.max(1)), places.max(1), columns.max(1)];
            return spec;
        }
        let (parts, indexing) = (plane.div_ceil(own), &spec.indexing);
        let looked_at = (indexing.indices() / planes.max(1)) as f64 * LOOK_NS;
        let pay = (ns / planes as f64 / looked_at.max(1.0)).max(1.0) as usize;
        let narrow =
            |parts: usize| columns.div_ceil(parts.max(1)).next_multiple_of(TILE_GRANULE).min(columns);
        spec.tile = match indexing.by_element {
            true => {
                let own = narrow(parts);
                let rest = parts.div_ceil(columns.div_ceil(own)).min(pay);
                [1, places.div_ceil(rest), own]
            }
            false => {
                let parts = parts.min(pay);
                let own = places.div_ceil(parts.min(places));
                [1, own, narrow(parts.div_ceil(places.div_ceil(own)))]
            }
        };
        spec
    }

    fn integer_matmul(&self, mut spec: IntegerMatMulSpec, ns: f64) -> IntegerMatMulSpec {
        let product = &mut spec.product;
        // Panels of bytes: four rows take the room of one of floats.
        let depth = product.k.div_ceil(4);
        let (rows, columns) =
            tile::matmul_tiles(self.target, product.planes(), product.m, product.n, depth, ns);
        let columns = columns.next_multiple_of(INTEGER_COLUMNS).min(product.n.max(1));
        (product.tile_rows, product.tile_columns) = (rows, columns);
        spec
    }

    /// Kernels that are cut into so many units a block. What a block makes in one piece is what the whole
    /// kernel does: its tile is the number of units.
    fn units(&self, mut kernel: KernelSpec, ns: f64) -> KernelSpec {
        let split =
            |units: &mut usize, granule: usize| *units = tile::split(self.target, *units, ns, granule);
        match &mut kernel {
            KernelSpec::Depthwise(spec) => split(&mut spec.tile_rows, 1),
            KernelSpec::Pool(spec) => split(&mut spec.tile_rows, 1),
            KernelSpec::Reduce(spec) => {
                // Neighbours are folded side by side.
                let side_by_side = spec.kept.last().is_some_and(|axis| axis.in_stride == 1);
                split(&mut spec.tile, if side_by_side { 16 } else { 1 });
            }
            KernelSpec::Softmax(spec) => split(&mut spec.tile, 1),
            KernelSpec::LayerNorm(spec) => split(&mut spec.tile, 1),
            KernelSpec::Gather(spec) => split(&mut spec.tile, 1),
            KernelSpec::Take(spec) => split(&mut spec.tile, TILE_GRANULE),
            KernelSpec::MaxPool(spec) => split(&mut spec.tile, TILE_GRANULE),
            KernelSpec::Along(spec) => split(&mut spec.tile, spec.inner.min(TILE_GRANULE)),
            KernelSpec::Packed(spec) => split(&mut spec.tile, 4),
            KernelSpec::Trees(spec) => split(&mut spec.tile, 1),
            KernelSpec::Vision(spec) => {
                let granule = vision::granule(spec);
                split(&mut spec.tile, granule);
            }
            // In one piece, or cut by more than one number.
            KernelSpec::Attention(_)
            | KernelSpec::Selection(_)
            | KernelSpec::Host(_)
            | KernelSpec::Synthetic(_)
            | KernelSpec::Conv(_)
            | KernelSpec::MatMul(_)
            | KernelSpec::IntegerConv(_)
            | KernelSpec::IntegerMatMul(_)
            | KernelSpec::Elementwise(_)
            | KernelSpec::Put(_)
            | KernelSpec::Resample(_)
            | KernelSpec::Recurrent(_) => {}
        }
        kernel
    }

    fn elementwise(&self, mut spec: ElementwiseSpec, ns: f64) -> ElementwiseSpec {
        let inner = *spec.dims.last().expect("a loop has an axis");
        let granule = if (TILE_GRANULE..=INNER_GRANULE_MAX).contains(&inner) { inner } else { TILE_GRANULE };
        spec.tile = tile::split(self.target, spec.elements(), ns, granule);
        spec
    }
}

impl Cutter for CpuCutter {
    fn target(&self) -> Target {
        self.target
    }

    fn packing(&self, weights: Weights<'_>) -> Packing {
        let width = self.panel_width() as u32;
        match weights {
            Weights::Conv { groups, .. } => Packing::ConvPanels { groups: groups as u32, width },
            Weights::Recurrent { gates, .. } => Packing::ConvPanels { groups: gates as u32, width },
            Weights::Depthwise { .. } => Packing::Depthwise,
            Weights::Integers { groups, .. } => {
                Packing::IntegerPanels { groups: groups as u32, width: INTEGER_COLUMNS as u32 }
            }
            Weights::Matrix { transposed, .. } => Packing::MatrixPanels { width, transposed },
        }
    }

    fn cut(&self, kernel: KernelSpec, work: &Work) -> KernelSpec {
        let ns = self.kernel_ns(&kernel, work);
        match kernel {
            KernelSpec::Conv(spec) => KernelSpec::Conv(self.conv(spec)),
            KernelSpec::MatMul(spec) => KernelSpec::MatMul(self.matmul(spec, ns)),
            KernelSpec::IntegerConv(spec) => KernelSpec::IntegerConv(self.integer_conv(spec)),
            KernelSpec::IntegerMatMul(spec) => KernelSpec::IntegerMatMul(self.integer_matmul(spec, ns)),
            KernelSpec::Elementwise(spec) => KernelSpec::Elementwise(self.elementwise(spec, ns)),
            KernelSpec::Put(spec) => KernelSpec::Put(self.put(spec, ns)),
            KernelSpec::Attention(spec) => {
                let tile_rows = tile::attention_rows(self.target, spec.planes(), spec.m, ns);
                KernelSpec::Attention(AttentionSpec { tile_rows, ..spec })
            }
            KernelSpec::Resample(spec) => KernelSpec::Resample(tile::resample(self.target, spec, ns)),
            KernelSpec::Recurrent(mut spec) => {
                spec.panel_width = if spec.integers.is_some() { INTEGER_COLUMNS } else { self.panel_width() };
                spec.tile_rows = tile::recurrent_rows(self.target, spec.batch, ns);
                KernelSpec::Recurrent(spec)
            }
            other => self.units(other, ns),
        }
    }

    fn kernel_ns(&self, kernel: &KernelSpec, work: &Work) -> f64 {
        let isa = self.target.isa;
        let Work { flops, bytes, scattered } = *work;
        match kernel {
            KernelSpec::Conv(spec) => conv_work(spec).total_ns(isa),
            // Products and sums of a window keep to registers.
            KernelSpec::Depthwise(_) | KernelSpec::Pool(_) => tile::stream_ns(isa, bytes, flops / 4.0),
            KernelSpec::IntegerConv(spec) => integer_work(spec, isa).total_ns(isa),
            KernelSpec::IntegerMatMul(_) => {
                let flops = flops * tile::integer_cost(isa) * 1.3;
                tile::compute_ns(isa, flops).max(tile::stream_ns(isa, bytes, bytes))
            }
            KernelSpec::MatMul(_) => tile::compute_ns(isa, flops * 1.3).max(tile::stream_ns(isa, bytes, 0.0)),
            KernelSpec::Attention(spec) => {
                let scores = (spec.planes() * spec.m * spec.n) as f64;
                let products = tile::compute_ns(isa, flops * 1.3).max(tile::stream_ns(isa, bytes, 0.0));
                products + tile::stream_ns(isa, 0.0, EXP_OPERATIONS * scores)
            }
            KernelSpec::Elementwise(_) => {
                let penalty = if scattered { SCATTER_PENALTY } else { 1.0 };
                tile::stream_ns(isa, bytes * penalty, flops * penalty)
            }
            KernelSpec::Reduce(_) | KernelSpec::Softmax(_) | KernelSpec::LayerNorm(_) => {
                tile::stream_ns(isa, bytes, flops)
            }
            KernelSpec::Gather(spec) => tile::stream_ns(isa, bytes, 2.0 * (spec.outer * spec.picks) as f64),
            KernelSpec::Take(_) | KernelSpec::Put(_) | KernelSpec::MaxPool(_) => {
                tile::stream_ns(isa, bytes, 0.0) + flops * ALONE_NS
            }
            KernelSpec::Resample(spec) => {
                // Of short rows every element is a vector of its own.
                let operations = if spec.inner < RESAMPLE_ROW { flops } else { flops / 4.0 };
                tile::stream_ns(isa, bytes, operations)
            }
            KernelSpec::Recurrent(spec) => {
                let rows = tile::recurrent_rows(self.target, spec.batch, 0.0);
                tile::recurrent_step_ns(isa, spec, rows) * (spec.steps * spec.batch.div_ceil(rows)) as f64
            }
            KernelSpec::Along(spec) => tile::stream_ns(isa, bytes, 0.0) + rows_ns(spec),
            // Unpacking a weight takes as long as two products.
            KernelSpec::Packed(_) => tile::compute_ns(isa, flops * 3.0).max(tile::stream_ns(isa, bytes, 0.0)),
            KernelSpec::Trees(spec) => {
                let near = spec.nodes * NODE_BYTES < NEAR_BYTES;
                tile::stream_ns(isa, bytes, 0.0) + flops * if near { STEP_NS } else { FAR_STEP_NS }
            }
            KernelSpec::Vision(spec) => tile::stream_ns(isa, bytes, 0.0) + vision::units_ns(isa, spec),
            KernelSpec::Selection(spec) => tile::stream_ns(isa, bytes, 0.0) + steps_ns(spec),
            KernelSpec::Host(_) => tile::stream_ns(isa, bytes, bytes),
            KernelSpec::Synthetic(spec) => {
                f64::from(spec.polls) * f64::from(spec.poll_ns) * kernel.blocks() as f64
            }
        }
    }

    fn recurrent_steps(&self, spec: &RecurrentSpec, _work: &Work) -> usize {
        let rows = tile::recurrent_rows(self.target, spec.batch, f64::INFINITY);
        tile::run_of_steps(spec.steps, tile::recurrent_step_ns(self.target.isa, spec, rows))
    }

    fn scratch_bytes(&self, kernel: &KernelSpec) -> usize {
        scratch::bytes(kernel)
    }

    fn has_attention(&self, depth: usize, width: usize) -> bool {
        depth.max(width) <= attention::DEPTH_MAX
    }

    fn has_integers(&self) -> bool {
        true
    }

    fn has_integer_pools(&self) -> bool {
        true
    }

    fn stage_blocks(&self) -> usize {
        BLOCKS_PER_CU * self.target.cus.max(1)
    }
}

fn conv_work(spec: &ConvSpec) -> ConvWork {
    let inputs = (spec.batch * spec.in_hw[0] * spec.in_hw[1] * spec.in_c / spec.groups) as f64 * 4.0;
    ConvWork {
        rows: spec.rows(),
        columns: spec.out_c / spec.groups,
        depth: spec.depth(),
        groups: spec.groups,
        row_bytes: inputs / spec.rows().max(1) as f64,
    }
}

/// A convolution of integers, as one of floats that takes as long.
fn integer_work(spec: &IntegerConvSpec, isa: Isa) -> ConvWork {
    let conv = &spec.conv;
    let work = conv_work(conv);
    let depth = (work.depth as f64 * tile::integer_cost(isa)).ceil() as usize;
    // Rows are copied before they are multiplied: bytes, written and read.
    let row_bytes = work.row_bytes / 4.0 + 2.0 * work.depth as f64;
    ConvWork { depth, row_bytes, ..work }
}

/// What is not streaming of what goes along an axis.
fn rows_ns(spec: &AlongSpec) -> f64 {
    let (rows, elements) = (spec.rows() as f64, (spec.rows() * spec.extent) as f64);
    match spec.function {
        RowFunction::Along(Along::TopK { k, .. }) if sorts(k, spec.extent) => {
            SORT_NS * elements * (spec.extent.max(2) as f64).log2()
        }
        // Of elements in random order, so many are among the largest so far, one by one.
        RowFunction::Along(Along::TopK { k, .. }) => {
            let taken = k as f64 * (2.0 + (spec.extent as f64 / k.max(1) as f64).ln());
            let looked_at = elements * if spec.inner == 1 { 0.2 } else { ALONE_NS };
            looked_at + rows * taken * SORT_NS * (k.max(2) as f64).log2()
        }
        // One after the other, or side by side.
        RowFunction::Along(Along::Scan { .. }) if spec.inner < SIDE_BY_SIDE => elements * ALONE_NS,
        _ => elements * 0.2,
    }
}

/// What is not streaming.
fn steps_ns(spec: &SelectionSpec) -> f64 {
    match spec {
        SelectionSpec::NonZero(spec) => 2.0 * spec.dims.iter().product::<usize>() as f64,
        SelectionSpec::Compress(spec) => 2.0 * (spec.outer * spec.conditions) as f64,
        SelectionSpec::Unique(spec) => {
            let slices = spec.extent as f64;
            COMPARISON_NS * slices * slices.max(2.0).log2()
        }
        SelectionSpec::NonMaxSuppression(spec) => BOX_NS * (spec.batches * spec.classes * spec.boxes) as f64,
    }
}

/// Why the kernels of this device cannot run a plan that claims to be for it: somebody else has cut it. They
/// trust what is checked here.
pub(crate) fn flaw(plan: &Plan) -> Option<String> {
    let width = panel_width(plan.target().isa) as u32;
    let needed = plan.kernels().iter().map(|kernel| scratch::bytes(&kernel.spec)).max().unwrap_or(0);
    if plan.scratch_bytes() < needed {
        let has = plan.scratch_bytes();
        return Some(format!("it has {has} bytes of scratch, its kernels need {needed}"));
    }
    plan.kernels().iter().find_map(|kernel| {
        if matches!(&kernel.spec, KernelSpec::Conv(spec) if spec.normed) {
            return Some(format!("kernel {}: convolutions do not norm their input", kernel.name));
        }
        if let KernelSpec::Trees(spec) = &kernel.spec {
            return trees_flaw(plan, kernel, spec).map(|flaw| format!("kernel {}: {flaw}", kernel.name));
        }
        let packing = match kernel.reads.get(1).map(|weights| weights.place) {
            Some(Place::Weight(index)) => Some(plan.weights()[index as usize].packing),
            _ => None,
        };
        let fine = match &kernel.spec {
            KernelSpec::Conv(spec) => {
                let own = matches!(packing, Some(Packing::Own { .. }));
                spec.panel_width == width as usize && spec.tile_columns % spec.panel_width == 0 && !own
            }
            KernelSpec::Depthwise(_) => matches!(packing, None | Some(Packing::Depthwise)),
            KernelSpec::Recurrent(spec) if spec.integers.is_some() => spec.panel_width == INTEGER_COLUMNS,
            KernelSpec::Recurrent(spec) => {
                let own = matches!(packing, Some(Packing::Own { .. } | Packing::Raw));
                spec.panel_width == width as usize && !own
            }
            KernelSpec::IntegerConv(IntegerConvSpec { conv, .. }) => {
                conv.panel_width == INTEGER_COLUMNS && conv.tile_columns % INTEGER_COLUMNS == 0
            }
            _ => true,
        };
        (!fine).then(|| format!("kernel {} has weights in another layout than {width} a panel", kernel.name))
    })
}

#[cfg(all(test, not(loom)))]
mod tests;
