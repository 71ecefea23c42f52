//! Kernel specifications: what a kernel computes, over which operands, and how it is cut into blocks.
//!
//! The cut (tiles, their order, panels of weights) is a device's own ([`crate::Cutter`]); all else is the
//! meaning ([`KernelSpec::whole`]).
//!
//! Images are NHWC inside a plan: pixels of `channels` consecutive elements, `pixel_stride` elements apart
//! (more than `channels` when the image is a column of a concatenated one). Other tensors are row-major.
//! Operands are a kernel's `reads` and `writes`, by position; every spec lists its order. A region's offset
//! is element 0 of its operand. Strides count elements, not bytes.
//!
//! Every block writes its own tile of the outputs and nothing else; together the blocks write each output
//! exactly once. A block may re-read only what the same execution of it has written.

use reef_graph::{Binary, DType, PoolKind, Reduce, Unary};

use crate::along::AlongSpec;
use crate::attention::AttentionSpec;
use crate::indexed::{PutSpec, TakeSpec};
use crate::integer::{Factors, IntegerEpilogue, Per};
use crate::layout::Matrices;
use crate::meter::Meter;
use crate::packed::PackedSpec;
use crate::recurrent::RecurrentSpec;
use crate::resample::ResampleSpec;
use crate::selection::SelectionSpec;
use crate::trees::TreesSpec;
use crate::vision::VisionSpec;
use crate::windows::MaxPoolSpec;

/// A function applied to every result before it is stored.
pub type Activation = Option<Unary>;

/// What happens to a sum before it is stored: `+ bias[channel]`, `+ residual[same place]`, activation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Epilogue {
    /// A bias by output channel is an operand.
    pub bias: bool,
    /// Elements between pixels of the residual operand, if there is one. Its shape is the output's.
    pub residual_pixel_stride: Option<usize>,
    /// Applied last.
    pub activation: Activation,
}

/// The part of an output that one block of a convolution or matrix product makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// First row (pixel).
    pub row: usize,
    /// Rows.
    pub rows: usize,
    /// First column (output channel inside the group).
    pub column: usize,
    /// Columns.
    pub columns: usize,
    /// Batch entry of a matrix product, or channel group of a convolution.
    pub plane: usize,
}

/// A convolution, or a matrix product with constant weights (then a 1×1 convolution over rows).
///
/// Reads x, weights (`ConvPanels`; when 1×1 with one group, `MatrixPanels`; or a device's own layout),
/// `[bias]`, `[residual]`, `[scale, shift]`; writes y. Rows are all output pixels of all images,
/// `(image · out_h + y) · out_w + x`. Block b makes row tile `b / column tiles` and column tile
/// `b % column tiles` of its group when `columns_inner`, else the other way round; groups are outermost.
/// Where tiles are split, `splits` successive blocks share one.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvSpec {
    /// Images.
    pub batch: usize,
    /// Input height and width.
    pub in_hw: [usize; 2],
    /// Input channels, all groups.
    pub in_c: usize,
    /// Elements between input pixels.
    pub in_pixel_stride: usize,
    /// Output height and width.
    pub out_hw: [usize; 2],
    /// Output channels, all groups.
    pub out_c: usize,
    /// Elements between output pixels.
    pub out_pixel_stride: usize,
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Window step.
    pub strides: [usize; 2],
    /// Zero padding at the top and left; at the bottom and right it follows from the shapes.
    pub pads: [usize; 2],
    /// Distance between taps.
    pub dilations: [usize; 2],
    /// Channel groups.
    pub groups: usize,
    /// Output channels of a packed panel; 0 where the weights lie in a device's own layout.
    pub panel_width: usize,
    /// Whether the input is normed as it is read: `max(x · scale[channel] + shift[channel], 0)`, in f32. Only
    /// where the window is 1×1 and unpadded, and there is one group.
    pub normed: bool,
    /// What happens before the store.
    pub epilogue: Epilogue,
    /// Output pixels of a block.
    pub tile_rows: usize,
    /// Output channels of a block; a multiple of `panel_width` unless that is 0.
    pub tile_columns: usize,
    /// Whether successive blocks walk over channels first.
    pub columns_inner: bool,
    /// Blocks that share a tile, each with a part of the sums; which part is the device's own matter. It
    /// follows from the kernel in one piece alone, so that the order of sums does. 1 but for a device's own
    /// layout of weights.
    pub splits: usize,
}

impl ConvSpec {
    /// The weights, however they are packed.
    pub fn matrices(&self) -> Matrices {
        Matrices { groups: self.groups, outputs: self.out_c / self.groups.max(1), depth: self.depth() }
    }

    /// Output pixels of all images.
    pub fn rows(&self) -> usize {
        self.batch * self.out_hw[0] * self.out_hw[1]
    }

    /// Products summed for one output element.
    pub fn depth(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.in_c / self.groups
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.row_tiles() * self.column_tiles() * self.groups * self.splits
    }

    /// What block `block` makes.
    pub fn tile(&self, block: usize) -> Tile {
        let block = block / self.splits;
        let (row_tiles, column_tiles) = (self.row_tiles(), self.column_tiles());
        let plane = block / (row_tiles * column_tiles);
        let inside = block % (row_tiles * column_tiles);
        let (row, column) = if self.columns_inner {
            (inside / column_tiles, inside % column_tiles)
        } else {
            (inside % row_tiles, inside / row_tiles)
        };
        let (row, column) = (row * self.tile_rows, column * self.tile_columns);
        Tile {
            row,
            rows: self.tile_rows.min(self.rows() - row),
            column,
            columns: self.tile_columns.min(self.out_c / self.groups - column),
            plane,
        }
    }

    /// Whether every output pixel is made of one input pixel, which is inside the image: no padding, and no
    /// window of several.
    pub fn is_pointwise(&self) -> bool {
        let inside = |axis: usize| (self.out_hw[axis].max(1) - 1) * self.strides[axis] < self.in_hw[axis];
        self.kernel == [1, 1] && self.pads == [0, 0] && self.groups == 1 && inside(0) && inside(1)
    }

    /// Whether tiles are split where that has a meaning.
    fn splits_tiles_well(&self) -> bool {
        self.splits == 1 || (self.splits > 1 && self.panel_width == 0)
    }

    fn row_tiles(&self) -> usize {
        self.rows().div_ceil(self.tile_rows)
    }

    fn column_tiles(&self) -> usize {
        (self.out_c / self.groups).div_ceil(self.tile_columns)
    }
}

/// A depthwise convolution: one input channel makes one output channel.
///
/// Reads x, weights (`Depthwise`, `Raw` or a device's own layout), `[bias]`, `[residual]`; writes y. Block b
/// makes output rows (of pixels along H, over all images) `b · tile_rows ..`, every channel.
#[derive(Clone, Debug, PartialEq)]
pub struct DepthwiseSpec {
    /// Images.
    pub batch: usize,
    /// Channels.
    pub channels: usize,
    /// Input height and width.
    pub in_hw: [usize; 2],
    /// Elements between input pixels.
    pub in_pixel_stride: usize,
    /// Output height and width.
    pub out_hw: [usize; 2],
    /// Elements between output pixels.
    pub out_pixel_stride: usize,
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Window step.
    pub strides: [usize; 2],
    /// Zero padding at the top and left.
    pub pads: [usize; 2],
    /// Distance between taps.
    pub dilations: [usize; 2],
    /// What happens before the store.
    pub epilogue: Epilogue,
    /// Output lines (one image's pixels of one y) of a block, over `batch · out_h` of them.
    pub tile_rows: usize,
}

impl DepthwiseSpec {
    /// The weights, however they are packed.
    pub fn matrices(&self) -> Matrices {
        Matrices { groups: self.channels, outputs: 1, depth: self.kernel[0] * self.kernel[1] }
    }
}

/// A batched matrix product of two computed operands: `c[m,n] = alpha · Σₖ a[m,k] · b[k,n]`.
///
/// Reads a, b; writes c. Block b makes row tile `b % row tiles` fastest, then column tile, then batch entry.
#[derive(Clone, Debug, PartialEq)]
pub struct MatMulSpec {
    /// Batch axes, outermost first: extent and the strides of a, b and c.
    pub batch: Vec<[usize; 4]>,
    /// Rows of a and c.
    pub m: usize,
    /// Columns of b and c.
    pub n: usize,
    /// Columns of a, rows of b.
    pub k: usize,
    /// Strides of a along m and k.
    pub a_strides: [usize; 2],
    /// Strides of b along k and n.
    pub b_strides: [usize; 2],
    /// Stride of c along m; along n it is 1.
    pub c_row_stride: usize,
    /// Factor of every result.
    pub alpha: f32,
    /// Rows of a block.
    pub tile_rows: usize,
    /// Columns of a block.
    pub tile_columns: usize,
}

impl MatMulSpec {
    /// Entries of the batch.
    pub fn planes(&self) -> usize {
        self.batch.iter().map(|axis| axis[0]).product()
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.planes() * self.m.div_ceil(self.tile_rows) * self.n.div_ceil(self.tile_columns)
    }

    /// What block `block` makes.
    pub fn tile(&self, block: usize) -> Tile {
        let (row_tiles, column_tiles) = (self.m.div_ceil(self.tile_rows), self.n.div_ceil(self.tile_columns));
        let row = block % row_tiles * self.tile_rows;
        let column = block / row_tiles % column_tiles * self.tile_columns;
        Tile {
            row,
            rows: self.tile_rows.min(self.m - row),
            column,
            columns: self.tile_columns.min(self.n - column),
            plane: block / (row_tiles * column_tiles),
        }
    }

    /// Element offsets of a, b and c for batch entry `plane`.
    pub fn plane_offsets(&self, plane: usize) -> [usize; 3] {
        let mut rest = plane;
        let mut offsets = [0; 3];
        for axis in self.batch.iter().rev() {
            let at = rest % axis[0];
            rest /= axis[0];
            for operand in 0..3 {
                offsets[operand] += at * axis[operand + 1];
            }
        }
        offsets
    }
}

/// A convolution of integers, or an integer product with constant weights (then a 1×1 convolution over rows).
///
/// Reads x (pixels of 8-bit integers), weights (`IntegerPanels`), `[zero points of x]`, `[zero points of
/// the weights]`, `[bias]`, `[factors]`, `[shift]`, `[residual]`; writes y. Padding counts as the zero point
/// of x, so there is one for all but where output rows are input pixels. Tiles are those of `conv`.
#[derive(Clone, Debug, PartialEq)]
pub struct IntegerConvSpec {
    /// Shapes and the cut. Its own epilogue is empty, and it splits no tile.
    pub conv: ConvSpec,
    /// x and the weights.
    pub factors: Factors,
    /// What happens before the store.
    pub epilogue: IntegerEpilogue,
}

impl IntegerConvSpec {
    /// Whether output rows are input pixels.
    pub fn is_pointwise(&self) -> bool {
        let conv = &self.conv;
        conv.kernel == [1, 1] && conv.strides == [1, 1] && conv.pads == [0, 0] && conv.in_hw == conv.out_hw
    }

    /// What is wrong with the specification itself.
    pub(crate) fn flaw(&self) -> Option<&'static str> {
        let plain = self.conv.epilogue == Epilogue::default() && self.conv.splits == 1;
        if !plain {
            return Some("has an epilogue of floats, or splits tiles");
        }
        if self.factors.zeros[0] == Some(Per::Each) && !self.is_pointwise() {
            return Some("has zero points by row for a window");
        }
        self.factors.flaw().or_else(|| self.epilogue.flaw())
    }
}

/// A batched product of two computed operands of integers.
///
/// Reads a, b (8-bit integers), `[zero points of a]` (one for each: `[planes, m]`), `[zero points of b]` (one
/// for each: `[planes, n]`), `[bias]`, `[factors]`, `[shift]`; writes c. Tiles are those of `product`.
#[derive(Clone, Debug, PartialEq)]
pub struct IntegerMatMulSpec {
    /// Shapes and the cut. Its factor is 1.
    pub product: MatMulSpec,
    /// a and b.
    pub factors: Factors,
    /// What happens before the store; without a residual.
    pub epilogue: IntegerEpilogue,
}

impl PoolSpec {
    /// What is wrong with the specification itself.
    pub(crate) fn flaw(&self) -> Option<&'static str> {
        let bytes = matches!(self.dtype, DType::U8 | DType::I8) && self.kind == PoolKind::Max;
        (self.dtype != DType::F32 && !bytes).then_some("pools elements of a type that it does not take")
    }
}

impl IntegerMatMulSpec {
    /// What is wrong with the specification itself.
    pub(crate) fn flaw(&self) -> Option<&'static str> {
        let residual = self.epilogue.scaled.and_then(|scaled| scaled.residual);
        if self.product.alpha != 1.0 || residual.is_some() {
            return Some("has a factor of its own, or a residual");
        }
        self.factors.flaw().or_else(|| self.epilogue.flaw())
    }
}

/// One operand of an element-wise kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElemInput {
    /// Element type.
    pub dtype: DType,
    /// Element that index 0 of the loop reads, counted from the region's start.
    pub offset: usize,
    /// Stride along every loop axis; 0 broadcasts, negative runs backwards.
    pub strides: Vec<isize>,
}

/// One instruction of an element-wise program; its result is the register with its position. A register holds
/// f32, f64 or, for integers and booleans, i64. Floats narrower than f32 are widened on load, rounded on
/// store; u64 are the bits of i64. See [`crate::program`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ElemOp {
    /// The element of the operand with this index.
    Load(usize),
    /// An f32 constant.
    ConstF32(f32),
    /// An f64 constant.
    ConstF64(f64),
    /// An integer or boolean constant.
    ConstI64(i64),
    /// A function of one register.
    Unary(Unary, usize),
    /// A function of two registers of one kind.
    Binary(Binary, usize, usize),
    /// Condition (i64, 0 or not), then, else.
    Where(usize, usize, usize),
    /// To f32.
    ToF32(usize),
    /// To f64.
    ToF64(usize),
    /// To i64, truncating, wrapped to the width of `1`.
    ToInt(usize, DType),
    /// An f32 to the nearest integer, ties to even, kept within two bounds; what is no number is the lower.
    ToRange(usize, i32, i32),
    /// An f32 rounded to `1`, F16 or BF16, as a store and a load would.
    Narrow(usize, DType),
}

/// A chain of element-wise operators over a loop nest; also copies, transpositions, casts and broadcasts.
///
/// Reads the operands; writes one output. Block b makes the elements `b · tile ..` of the flattened loop
/// (last axis fastest).
#[derive(Clone, Debug, PartialEq)]
pub struct ElementwiseSpec {
    /// Extents of the loop, outermost first; at least one.
    pub dims: Vec<usize>,
    /// The operands.
    pub inputs: Vec<ElemInput>,
    /// The instructions; the last one's result is stored.
    pub program: Vec<ElemOp>,
    /// Element type of the output.
    pub out_dtype: DType,
    /// Stride of the output along every loop axis; distinct indices reach distinct elements.
    pub out_strides: Vec<usize>,
    /// Elements of a block.
    pub tile: usize,
}

impl ElementwiseSpec {
    /// Elements of the output.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// Pooling over NHWC images.
///
/// Reads x; writes y. Block b makes output lines `b · tile_rows ..` (of `batch · out_h`), every channel.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSpec {
    /// What the window computes.
    pub kind: PoolKind,
    /// Type of the elements: F32, or for the largest U8 or I8, whose least integer is that of nothing.
    pub dtype: DType,
    /// Images.
    pub batch: usize,
    /// Channels.
    pub channels: usize,
    /// Input height and width.
    pub in_hw: [usize; 2],
    /// Elements between input pixels.
    pub in_pixel_stride: usize,
    /// Output height and width.
    pub out_hw: [usize; 2],
    /// Elements between output pixels.
    pub out_pixel_stride: usize,
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Window step.
    pub strides: [usize; 2],
    /// Padding at top, left, bottom and right. A window may reach past the padded image (ceil mode); such
    /// taps are ignored.
    pub pads: [usize; 4],
    /// Distance between taps.
    pub dilations: [usize; 2],
    /// Output lines of a block.
    pub tile_rows: usize,
}

/// One axis of a loop nest: extent, stride of the input, stride of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopDim {
    /// Extent.
    pub extent: usize,
    /// Elements between neighbours in the input.
    pub in_stride: usize,
    /// Elements between neighbours in the output; 0 on a reduced axis.
    pub out_stride: usize,
}

/// A reduction in f32.
///
/// Reads x; writes y. Block b makes the kept elements `b · tile ..` of the flattened kept axes (last
/// fastest). The order of summation is fixed by the spec.
#[derive(Clone, Debug, PartialEq)]
pub struct ReduceSpec {
    /// How to fold.
    pub reduce: Reduce,
    /// Kept axes, outermost first.
    pub kept: Vec<LoopDim>,
    /// Reduced axes, outermost first.
    pub reduced: Vec<LoopDim>,
    /// Kept elements of a block.
    pub tile: usize,
}

/// Softmax or log-softmax in f32.
///
/// Reads x; writes y, whose strides are its own. Block b makes rows `b · tile ..` of the flattened row axes.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftmaxSpec {
    /// Axes other than the normalised one, outermost first.
    pub rows: Vec<LoopDim>,
    /// The normalised axis.
    pub axis: LoopDim,
    /// Log-softmax.
    pub log: bool,
    /// Rows of a block.
    pub tile: usize,
}

/// Layer normalisation of dense rows: `(x − mean) / √(variance + epsilon) · scale + shift`.
///
/// Reads x, scale, `[shift]`, `[residual]` (added to x first, dense rows as x); writes y.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNormSpec {
    /// Rows.
    pub rows: usize,
    /// Elements of a row, dense.
    pub len: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// Whether a shift is an operand.
    pub shift: bool,
    /// Whether a residual is an operand.
    pub residual: bool,
    /// Rows of a block.
    pub tile: usize,
}

/// Slices of a dense tensor picked by index.
///
/// Reads data `[outer, extent, inner]`, indices `[picks]` (dense); writes y `[outer, picks, inner]`. Negative
/// indices count from the end; an index outside the extent fails the task. Block b
/// makes slices `b · tile ..` of the `outer · picks`.
#[derive(Clone, Debug, PartialEq)]
pub struct GatherSpec {
    /// Element type of data and output.
    pub dtype: DType,
    /// Type of the indices: I64 or I32.
    pub index_dtype: DType,
    /// Extent of all axes before the picked one.
    pub outer: usize,
    /// Extent of the picked axis.
    pub extent: usize,
    /// Extent of all axes behind it.
    pub inner: usize,
    /// Number of indices.
    pub picks: usize,
    /// Slices of a block.
    pub tile: usize,
}

/// A made-up kernel for tests and micro-benchmarks: it spins, polls, and writes bytes that depend on its
/// inputs.
///
/// Reads any number of regions (all their bytes are mixed in); writes one dense region, of which block b
/// makes bytes `b · tile_bytes ..`, byte i being a fixed function of `seed`, the inputs' bytes and i. Before
/// its last poll it scribbles over its tile, so that a block that is killed and not run again shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntheticSpec {
    /// Mixed into the output.
    pub seed: u64,
    /// Bytes of the output.
    pub bytes: usize,
    /// Bytes of a block's tile.
    pub tile_bytes: usize,
    /// Polls of a block.
    pub polls: u32,
    /// Nanoseconds of spinning between polls (virtual ones on a virtual device).
    pub poll_ns: u32,
    /// Counts what blocks do, for tests.
    pub meter: Option<Meter>,
}

/// What a kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub enum KernelSpec {
    /// See [`ConvSpec`].
    Conv(ConvSpec),
    /// See [`DepthwiseSpec`].
    Depthwise(DepthwiseSpec),
    /// See [`MatMulSpec`].
    MatMul(MatMulSpec),
    /// See [`IntegerConvSpec`].
    IntegerConv(IntegerConvSpec),
    /// See [`IntegerMatMulSpec`].
    IntegerMatMul(IntegerMatMulSpec),
    /// See [`AttentionSpec`].
    Attention(AttentionSpec),
    /// See [`ElementwiseSpec`].
    Elementwise(ElementwiseSpec),
    /// See [`PoolSpec`].
    Pool(PoolSpec),
    /// See [`ReduceSpec`].
    Reduce(ReduceSpec),
    /// See [`SoftmaxSpec`].
    Softmax(SoftmaxSpec),
    /// See [`LayerNormSpec`].
    LayerNorm(LayerNormSpec),
    /// See [`GatherSpec`].
    Gather(GatherSpec),
    /// See [`TakeSpec`].
    Take(TakeSpec),
    /// See [`PutSpec`].
    Put(PutSpec),
    /// See [`MaxPoolSpec`].
    MaxPool(MaxPoolSpec),
    /// See [`ResampleSpec`].
    Resample(ResampleSpec),
    /// See [`RecurrentSpec`].
    Recurrent(RecurrentSpec),
    /// See [`AlongSpec`].
    Along(AlongSpec),
    /// See [`PackedSpec`].
    Packed(PackedSpec),
    /// See [`TreesSpec`].
    Trees(TreesSpec),
    /// See [`VisionSpec`].
    Vision(VisionSpec),
    /// See [`SelectionSpec`]; one block.
    Selection(SelectionSpec),
    /// The plan's host kernel with this index; reads its inputs, writes its outputs, all dense; one block.
    Host(usize),
    /// See [`SyntheticSpec`].
    Synthetic(SyntheticSpec),
}

impl KernelSpec {
    /// Whether no tile is empty and there is a group: the numbers that blocks are counted with.
    pub fn is_cut(&self) -> bool {
        match self {
            KernelSpec::Conv(spec) | KernelSpec::IntegerConv(IntegerConvSpec { conv: spec, .. }) => {
                spec.groups > 0 && spec.tile_rows > 0 && spec.tile_columns > 0 && spec.splits_tiles_well()
            }
            KernelSpec::Depthwise(spec) => spec.tile_rows > 0,
            KernelSpec::MatMul(spec) | KernelSpec::IntegerMatMul(IntegerMatMulSpec { product: spec, .. }) => {
                spec.tile_rows > 0 && spec.tile_columns > 0
            }
            KernelSpec::Attention(spec) => spec.tile_rows > 0,
            KernelSpec::Elementwise(spec) => spec.tile > 0,
            KernelSpec::Pool(spec) => spec.tile_rows > 0,
            KernelSpec::Reduce(spec) => spec.tile > 0,
            KernelSpec::Softmax(spec) => spec.tile > 0,
            KernelSpec::LayerNorm(spec) => spec.tile > 0,
            KernelSpec::Gather(spec) => spec.tile > 0,
            KernelSpec::Take(spec) => spec.tile > 0,
            KernelSpec::Put(spec) => !spec.tile.contains(&0),
            KernelSpec::MaxPool(spec) => spec.tile > 0,
            KernelSpec::Resample(spec) => spec.tile_rows > 0 && spec.tile_columns > 0,
            KernelSpec::Recurrent(spec) => spec.tile_rows > 0,
            KernelSpec::Along(spec) => spec.tile > 0,
            KernelSpec::Packed(spec) => spec.tile > 0,
            KernelSpec::Trees(spec) => spec.tile > 0,
            KernelSpec::Vision(spec) => spec.tile > 0 && spec.writes().is_ok(),
            KernelSpec::Selection(_) | KernelSpec::Host(_) => true,
            KernelSpec::Synthetic(spec) => spec.tile_bytes > 0,
        }
    }

    /// Number of blocks of the grid; for a kernel that [is cut](Self::is_cut).
    pub fn blocks(&self) -> usize {
        match self {
            KernelSpec::Conv(spec) => spec.blocks(),
            KernelSpec::Depthwise(spec) => (spec.batch * spec.out_hw[0]).div_ceil(spec.tile_rows),
            KernelSpec::MatMul(spec) => spec.blocks(),
            KernelSpec::IntegerConv(spec) => spec.conv.blocks(),
            KernelSpec::IntegerMatMul(spec) => spec.product.blocks(),
            KernelSpec::Attention(spec) => spec.planes() * spec.m.div_ceil(spec.tile_rows),
            KernelSpec::Elementwise(spec) => spec.elements().div_ceil(spec.tile),
            KernelSpec::Pool(spec) => (spec.batch * spec.out_hw[0]).div_ceil(spec.tile_rows),
            KernelSpec::Reduce(spec) => elements(&spec.kept).div_ceil(spec.tile),
            KernelSpec::Softmax(spec) => elements(&spec.rows).div_ceil(spec.tile),
            KernelSpec::LayerNorm(spec) => spec.rows.div_ceil(spec.tile),
            KernelSpec::Gather(spec) => (spec.outer * spec.picks).div_ceil(spec.tile),
            KernelSpec::Take(spec) => spec.indexing.moved().div_ceil(spec.tile),
            KernelSpec::Put(spec) => spec.blocks(),
            KernelSpec::MaxPool(spec) => spec.count().div_ceil(spec.tile),
            KernelSpec::Resample(spec) => spec.blocks(),
            KernelSpec::Recurrent(spec) => spec.batch.div_ceil(spec.tile_rows),
            KernelSpec::Along(spec) => spec.rows().div_ceil(spec.tile),
            KernelSpec::Packed(spec) => spec.n.div_ceil(spec.tile),
            KernelSpec::Trees(spec) => spec.rows.div_ceil(spec.tile),
            KernelSpec::Vision(spec) => spec.units().div_ceil(spec.tile),
            KernelSpec::Selection(_) | KernelSpec::Host(_) => 1,
            KernelSpec::Synthetic(spec) => spec.bytes.div_ceil(spec.tile_bytes),
        }
    }

    /// The kernel in one piece: what it means, without how it is cut. Of two kernels that are the same in one
    /// piece, one is as good as the other, but for where it can run and how fast.
    pub fn whole(mut self) -> KernelSpec {
        match &mut self {
            KernelSpec::Conv(spec) | KernelSpec::IntegerConv(IntegerConvSpec { conv: spec, .. }) => {
                (spec.panel_width, spec.columns_inner, spec.splits) = (0, true, 1);
                spec.tile_rows = spec.rows().max(1);
                spec.tile_columns = (spec.out_c / spec.groups.max(1)).max(1);
            }
            KernelSpec::Depthwise(spec) => spec.tile_rows = (spec.batch * spec.out_hw[0]).max(1),
            KernelSpec::MatMul(spec) | KernelSpec::IntegerMatMul(IntegerMatMulSpec { product: spec, .. }) => {
                (spec.tile_rows, spec.tile_columns) = (spec.m.max(1), spec.n.max(1));
            }
            KernelSpec::Attention(spec) => spec.tile_rows = spec.m.max(1),
            KernelSpec::Elementwise(spec) => spec.tile = spec.elements().max(1),
            KernelSpec::Pool(spec) => spec.tile_rows = (spec.batch * spec.out_hw[0]).max(1),
            KernelSpec::Reduce(spec) => spec.tile = elements(&spec.kept).max(1),
            KernelSpec::Softmax(spec) => spec.tile = elements(&spec.rows).max(1),
            KernelSpec::LayerNorm(spec) => spec.tile = spec.rows.max(1),
            KernelSpec::Gather(spec) => spec.tile = (spec.outer * spec.picks).max(1),
            KernelSpec::Take(spec) => spec.tile = spec.indexing.moved().max(1),
            KernelSpec::Put(spec) => spec.tile = spec.extents().map(|extent| extent.max(1)),
            KernelSpec::MaxPool(spec) => spec.tile = spec.count().max(1),
            KernelSpec::Resample(spec) => {
                (spec.tile_rows, spec.tile_columns) = (spec.rows().max(1), spec.inner.max(1));
            }
            KernelSpec::Recurrent(spec) => {
                (spec.panel_width, spec.tile_rows) = (0, spec.batch.max(1));
            }
            KernelSpec::Along(spec) => spec.tile = spec.rows().max(1),
            KernelSpec::Packed(spec) => spec.tile = spec.n.max(1),
            KernelSpec::Trees(spec) => spec.tile = spec.rows.max(1),
            KernelSpec::Vision(spec) => spec.tile = spec.units().max(1),
            KernelSpec::Selection(_) | KernelSpec::Host(_) => {}
            KernelSpec::Synthetic(spec) => spec.tile_bytes = spec.bytes.max(1),
        }
        self
    }

    /// The kind of kernel, for dumps.
    pub fn name(&self) -> &'static str {
        match self {
            KernelSpec::Conv(_) => "conv",
            KernelSpec::Depthwise(_) => "depthwise",
            KernelSpec::MatMul(_) => "matmul",
            KernelSpec::IntegerConv(_) => "integer-conv",
            KernelSpec::IntegerMatMul(_) => "integer-matmul",
            KernelSpec::Attention(_) => "attention",
            KernelSpec::Elementwise(_) => "elementwise",
            KernelSpec::Pool(_) => "pool",
            KernelSpec::Reduce(_) => "reduce",
            KernelSpec::Softmax(_) => "softmax",
            KernelSpec::LayerNorm(_) => "layernorm",
            KernelSpec::Gather(_) => "gather",
            KernelSpec::Take(_) => "take",
            KernelSpec::Put(_) => "put",
            KernelSpec::MaxPool(_) => "max-pool",
            KernelSpec::Resample(_) => "resample",
            KernelSpec::Recurrent(_) => "recurrent",
            KernelSpec::Along(spec) => spec.name(),
            KernelSpec::Packed(_) => "packed-matmul",
            KernelSpec::Trees(_) => "trees",
            KernelSpec::Vision(spec) => spec.name(),
            KernelSpec::Selection(spec) => spec.name(),
            KernelSpec::Host(_) => "host",
            KernelSpec::Synthetic(_) => "synthetic",
        }
    }
}

/// Elements of a loop nest.
pub fn elements(dims: &[LoopDim]) -> usize {
    dims.iter().map(|dim| dim.extent).product()
}
