//! How simulated devices cut kernels and pack weights: not at all like a real device, so that nothing comes
//! to depend on one.

use reef_plan::cut::{Cutter, Weights, Work};
use reef_plan::{At, KernelSpec, Layout, Matrices, OwnLayout, Packing, RecurrentSpec, Target};

/// Blocks per compute unit.
const BLOCKS_PER_CU: usize = 3;
/// Output channels or columns of a block.
const COLUMNS: usize = 7;
/// Columns of a panel of integers.
const INTEGER_COLUMNS: usize = 4;
/// Virtual time of a block beside its work.
const BLOCK_NS: f64 = 1_000.0;
/// Operations, and bytes, that a compute unit gets done in a virtual nanosecond.
const PER_NS: f64 = 10.0;

/// Weights as they are multiplied: a row after the other, without panels. f32, not rounded.
#[derive(Debug)]
struct Rows;

impl Rows {
    fn index(of: Matrices, at: At) -> usize {
        (at.group * of.depth + at.k) * of.outputs + at.output
    }
}

impl Layout for Rows {
    fn name(&self) -> &'static str {
        "rows"
    }

    fn bytes(&self, of: Matrices) -> usize {
        of.groups * of.depth * of.outputs * size_of::<f32>()
    }

    fn pack(&self, of: Matrices, at: &dyn Fn(At) -> f32, into: &mut [u8]) {
        for group in 0..of.groups {
            for (k, output) in (0..of.depth).flat_map(|k| (0..of.outputs).map(move |output| (k, output))) {
                let place = At { group, output, k };
                let start = Self::index(of, place) * size_of::<f32>();
                into[start..start + size_of::<f32>()].copy_from_slice(&at(place).to_le_bytes());
            }
        }
    }

    fn read(&self, of: Matrices, packed: &[u8], at: At) -> f32 {
        let start = Self::index(of, at) * size_of::<f32>();
        let bytes = packed[start..start + size_of::<f32>()].try_into().expect("an element's bytes");
        f32::from_le_bytes(bytes)
    }
}

/// Cuts kernels for simulated devices; weights are packed as rows.
#[derive(Clone, Copy, Debug)]
pub struct RowCutter {
    target: Target,
}

impl RowCutter {
    /// For such a device.
    pub fn new(target: Target) -> RowCutter {
        RowCutter { target }
    }

    /// Units per block.
    fn split(&self, units: usize) -> usize {
        units.div_ceil(BLOCKS_PER_CU * self.target.cus.max(1)).max(1)
    }
}

impl Cutter for RowCutter {
    fn target(&self) -> Target {
        self.target
    }

    fn packing(&self, weights: Weights<'_>) -> Packing {
        let layout = OwnLayout(&Rows);
        match weights {
            Weights::Conv { groups, .. } => Packing::Own { layout, groups: groups as u32, transposed: false },
            Weights::Matrix { transposed, .. } => Packing::Own { layout, groups: 1, transposed },
            Weights::Recurrent { gates, .. } => {
                Packing::Own { layout, groups: gates as u32, transposed: false }
            }
            Weights::Depthwise { .. } => Packing::Raw,
            Weights::Integers { groups, .. } => {
                Packing::IntegerPanels { groups: groups as u32, width: INTEGER_COLUMNS as u32 }
            }
        }
    }

    fn cut(&self, mut kernel: KernelSpec, _work: &Work) -> KernelSpec {
        match &mut kernel {
            KernelSpec::Conv(spec) => {
                spec.tile_rows = self.split(spec.rows());
                spec.tile_columns = COLUMNS.min(spec.tile_columns);
                spec.columns_inner = false;
            }
            KernelSpec::IntegerConv(spec) => {
                let conv = &mut spec.conv;
                conv.tile_rows = self.split(conv.rows());
                (conv.tile_columns, conv.panel_width) = (2 * INTEGER_COLUMNS, INTEGER_COLUMNS);
            }
            KernelSpec::IntegerMatMul(spec) => {
                spec.product.tile_rows = self.split(spec.product.m);
                spec.product.tile_columns = COLUMNS.min(spec.product.n);
            }
            KernelSpec::MatMul(spec) => {
                spec.tile_rows = self.split(spec.m);
                spec.tile_columns = COLUMNS.min(spec.n);
            }
            KernelSpec::Attention(spec) => spec.tile_rows = self.split(spec.m),
            KernelSpec::Depthwise(spec) => spec.tile_rows = self.split(spec.tile_rows),
            KernelSpec::Pool(spec) => spec.tile_rows = self.split(spec.tile_rows),
            KernelSpec::Elementwise(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::Reduce(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::Softmax(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::LayerNorm(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::Gather(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::Take(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::Put(spec) => {
                let [planes, places, columns] = spec.tile;
                spec.tile = [self.split(planes), places.div_ceil(2), columns.div_ceil(2)];
            }
            KernelSpec::MaxPool(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::Resample(spec) => {
                spec.tile_rows = self.split(spec.tile_rows);
                spec.tile_columns = COLUMNS.min(spec.tile_columns);
            }
            KernelSpec::Recurrent(spec) => {
                spec.tile_rows = self.split(spec.tile_rows);
                if spec.integers.is_some() {
                    spec.panel_width = INTEGER_COLUMNS;
                } else if spec.computed {
                    // As packed rows lie.
                    spec.panel_width = spec.hidden;
                }
            }
            KernelSpec::Along(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::Packed(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::Trees(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::Vision(spec) => spec.tile = self.split(spec.tile),
            KernelSpec::Selection(_) | KernelSpec::Host(_) | KernelSpec::Synthetic(_) => {}
        }
        kernel
    }

    fn recurrent_steps(&self, spec: &RecurrentSpec, _work: &Work) -> usize {
        spec.steps.div_ceil(2).max(1)
    }

    /// Whoever computes blocks here has it.
    fn has_attention(&self, _depth: usize, _width: usize) -> bool {
        true
    }

    fn has_integers(&self) -> bool {
        true
    }

    fn has_integer_pools(&self) -> bool {
        true
    }

    fn has_normed_conv(&self) -> bool {
        true
    }

    fn kernel_ns(&self, kernel: &KernelSpec, work: &Work) -> f64 {
        kernel.blocks() as f64 * BLOCK_NS + (work.flops + work.bytes) / PER_NS
    }

    /// Who computes blocks here keeps to its own memory.
    fn scratch_bytes(&self, _kernel: &KernelSpec) -> usize {
        0
    }

    /// Enough for every unit: a stage here is hardly longer than its longest block.
    fn stage_blocks(&self) -> usize {
        self.target.cus.max(1)
    }
}
