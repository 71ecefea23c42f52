//! The operator set of normalised graphs. Semantics are ONNX's (opset 17) unless a comment says otherwise.

use crate::along::Along;
use crate::dtype::DType;
use crate::indexed::{Picks, Putting};
use crate::packed::PackedWeights;
use crate::quantized::{Quantization, ZeroPoints};
use crate::recurrent::RecurrentAttrs;
use crate::resample::Taps;
use crate::selection::Selection;
use crate::small_float::{Encoding, SmallFloat};
use crate::trees::Aggregate;
use crate::vision::Vision;
use crate::windows::Windows;

/// A function of one element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// `max(x, 0)`; a NaN passes through.
    Relu,
    /// `x` if positive, else `alpha·x`.
    LeakyRelu(f32),
    /// `x` if positive, else `alpha·(eˣ − 1)`.
    Elu(f32),
    /// `min(max(x, lo), hi)`.
    Clip(f32, f32),
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// `min(max(alpha·x + beta, 0), 1)`.
    HardSigmoid(f32, f32),
    /// `x · sigmoid(x)`.
    Silu,
    /// `x · hard_sigmoid(x)` with 1/6 and 1/2.
    HardSwish,
    /// Hyperbolic tangent.
    Tanh,
    /// `x · Φ(x)` by the error function.
    Gelu,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// The error function.
    Erf,
    /// `ln(1 + eˣ)`.
    Softplus,
    /// eˣ.
    Exp,
    /// Natural logarithm.
    Log,
    /// Square root.
    Sqrt,
    /// `1 / √x`.
    Rsqrt,
    /// `1 / x`.
    Recip,
    /// `x²`.
    Square,
    /// `|x|`.
    Abs,
    /// `−x`.
    Neg,
    /// −1, 0 or 1.
    Sign,
    /// Towards −∞.
    Floor,
    /// Towards +∞.
    Ceil,
    /// To the nearest, ties to even.
    Round,
    /// Sine.
    Sin,
    /// Cosine.
    Cos,
    /// Tangent.
    Tan,
    /// Arc sine; NaN outside of −1 to 1.
    Asin,
    /// Arc cosine; NaN outside of −1 to 1.
    Acos,
    /// Arc tangent.
    Atan,
    /// Hyperbolic sine.
    Sinh,
    /// Hyperbolic cosine.
    Cosh,
    /// Its inverse, of a sine.
    Asinh,
    /// Its inverse, of a cosine; NaN below 1.
    Acosh,
    /// Its inverse, of a tangent; NaN outside of −1 to 1.
    Atanh,
    /// Logical negation, of booleans.
    Not,
    /// Every bit turned, of integers.
    BitNot,
    /// The code of a number in a small floating-point format, as a number.
    Encode(Encoding),
    /// The number with this code in a small floating-point format.
    Decode(SmallFloat),
}

/// A function of two elements, broadcast by NumPy's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// Sum.
    Add,
    /// Difference.
    Sub,
    /// Product.
    Mul,
    /// Quotient; of integers truncated.
    Div,
    /// The larger.
    Max,
    /// The smaller.
    Min,
    /// Power; of integers wrapped, and truncated where the exponent is negative.
    Pow,
    /// What is left of a quotient rounded towards −∞: it has the divisor's sign. Integers have none by 0.
    Mod,
    /// What is left of a quotient truncated: it has the dividend's sign. Integers have none by 0.
    Rem,
    /// `a == b`, a boolean.
    Equal,
    /// `a < b`, a boolean.
    Less,
    /// `a <= b`, a boolean.
    LessEqual,
    /// `a > b`, a boolean.
    Greater,
    /// `a >= b`, a boolean.
    GreaterEqual,
    /// Of booleans.
    And,
    /// Of booleans.
    Or,
    /// Of booleans.
    Xor,
    /// Of the bits of integers.
    BitAnd,
    /// Of the bits of integers.
    BitOr,
    /// Of the bits of integers.
    BitXor,
    /// Bits moved up, of unsigned integers; 0 when they are moved by as many as there are, or more.
    ShiftLeft,
    /// Bits moved down, of unsigned integers; 0 when they are moved by as many as there are, or more.
    ShiftRight,
}

impl Binary {
    /// Whether the result is a boolean whatever the operands are.
    pub fn is_comparison(self) -> bool {
        use Binary::*;
        matches!(self, Equal | Less | LessEqual | Greater | GreaterEqual | And | Or | Xor)
    }

    /// Whether only integers have it.
    pub fn is_bitwise(self) -> bool {
        use Binary::*;
        matches!(self, BitAnd | BitOr | BitXor | ShiftLeft | ShiftRight)
    }

    /// Whether integers have none where the second is 0.
    pub fn divides(self) -> bool {
        matches!(self, Binary::Div | Binary::Mod | Binary::Rem)
    }
}

/// How [`Op::Reduce`] folds elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Sum.
    Sum,
    /// Arithmetic mean.
    Mean,
    /// Largest.
    Max,
    /// Smallest.
    Min,
    /// Product.
    Prod,
    /// Sum of squares.
    SumSquare,
}

/// A 2-D convolution's attributes. One-dimensional convolutions are imported with a height of 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvAttrs {
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Step of the window.
    pub strides: [usize; 2],
    /// Zero padding: top, left, bottom, right.
    pub pads: [usize; 4],
    /// Distance between taps of the window.
    pub dilations: [usize; 2],
    /// Channel groups.
    pub groups: usize,
}

/// What a pooling window computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolKind {
    /// Largest element; padding never wins.
    Max,
    /// Mean over the window's elements inside the image.
    AvgExcludePad,
    /// Mean over the whole window, padding counted as zeros.
    AvgIncludePad,
}

/// A 2-D pooling's attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolAttrs {
    /// What the window computes.
    pub kind: PoolKind,
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Step of the window.
    pub strides: [usize; 2],
    /// Padding: top, left, bottom, right.
    pub pads: [usize; 4],
    /// Distance between taps of the window.
    pub dilations: [usize; 2],
}

/// Stands for a region of the graph that runs as one host kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostOp {
    /// Index into the host kernels that came with the graph.
    pub index: usize,
    /// The operators inside, for people: `RandomNormal`, `STFT`, …
    pub operators: String,
}

/// An operator of a normalised graph. Axes are non-negative and below the rank.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Inputs x `[N,C,H,W]`, weights `[O,C/groups,kh,kw]` and optionally a bias `[O]`.
    Conv(ConvAttrs),
    /// Inputs a `[…,M,K]` and b `[…,K,N]`; batch axes broadcast, ranks are at least 2. Optionally transposed
    /// operands: `trans_a` reads a as `[…,K,M]`, `trans_b` reads b as `[…,N,K]`.
    MatMul {
        /// a is stored `[…,K,M]`.
        trans_a: bool,
        /// b is stored `[…,N,K]`.
        trans_b: bool,
    },
    /// Inputs x (f32) `[M,K]`, weights (u8) `[N, bytes of a row]`, scales (f32) `[N, blocks]` and perhaps
    /// shifts (the same): x times the numbers that the weights stand for, f32 `[M,N]`.
    MatMulPacked(PackedWeights),
    /// Inputs a (u8 or i8) `[…,M,K]` and b (u8 or i8) `[…,K,N]`, whose batch axes broadcast, then the zero
    /// points that there are: of a (its type; one element, or broadcast to `[…,M,1]`), of b (its type; one
    /// element, or broadcast to `[…,1,N]`). Output i32: `Σₖ (a − zero of a)·(b − zero of b)`, wrapped.
    MatMulInteger(ZeroPoints),
    /// Inputs x (u8 or i8) `[N,C,H,W]`, weights (u8 or i8) `[O,C/groups,kh,kw]`, then the zero points that
    /// there are: of x (its type; one element), of the weights (their type; one element, or `[O]`). Output
    /// i32: the sums of products of what is left when the zero points are taken off, wrapped. Padding counts
    /// as the zero point of x.
    ConvInteger(ConvAttrs, ZeroPoints),
    /// Inputs x (f32, f16 or i32), scale (f32 or f16) and optionally zero points (the output's type). Output
    /// u8, i8, u16 or i16: `x / scale` in f32, rounded half to even, plus the zero point, kept within the
    /// range of the integers. What is no number becomes the least of them, as in ONNX Runtime on a CPU.
    Quantize(Quantization),
    /// Inputs x (u8, i8, u16, i16 or i32), scale (f32 or f16) and optionally zero points (of x's type).
    /// Output f32 or f16: `(x − zero)·scale` in f32, the difference being an i32, wrapped.
    Dequantize(Quantization),
    /// One input.
    Unary(Unary),
    /// Two inputs, broadcast.
    Binary(Binary),
    /// Inputs condition (boolean), a, b; broadcast: a where the condition holds, else b.
    Where,
    /// Inputs x `[N,C,…]`, scale `[C]`, shift `[C]`: `x·scale + shift` by channel (axis 1). A batch norm that
    /// could not be folded into a convolution.
    ScaleShift,
    /// Over the last two axes of `[N,C,H,W]`.
    Pool(PoolAttrs),
    /// Folds `axes` (ascending); they stay with extent 1 when `keep_dims`. Of integers, sums and products
    /// wrap, and a mean is that of a sum in 64 bits, truncated.
    Reduce {
        /// How to fold.
        reduce: Reduce,
        /// Which axes, ascending.
        axes: Vec<usize>,
        /// Whether folded axes stay.
        keep_dims: bool,
    },
    /// Softmax along one axis.
    Softmax {
        /// The axis.
        axis: usize,
    },
    /// Logarithm of softmax along one axis.
    LogSoftmax {
        /// The axis.
        axis: usize,
    },
    /// Inputs x, scale, and optionally shift; normalises over the axes from `axis` to the last. Scale and
    /// shift have the shape of those axes.
    LayerNorm {
        /// First normalised axis.
        axis: usize,
        /// Added to the variance.
        epsilon: f32,
    },
    /// Inputs joined along `axis`.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// Elements `begin, begin + step, …` below `end` along one axis (above it when the step is negative;
    /// `end` is −1 for "to the first").
    Slice {
        /// The axis.
        axis: usize,
        /// First index.
        begin: usize,
        /// Past the last index.
        end: isize,
        /// Step, not 0.
        step: isize,
    },
    /// Output axis i is input axis `perm[i]`.
    Transpose {
        /// The permutation.
        perm: Vec<usize>,
    },
    /// The same elements in the output's shape (also squeeze, unsqueeze, flatten).
    Reshape,
    /// The input broadcast to the output's shape.
    Expand,
    /// Inputs data, indices (i64 or i32, see [`crate::axis_index`]): data's slices along `axis`. An index
    /// outside the axis is an error.
    Gather {
        /// The axis.
        axis: usize,
    },
    /// Inputs data, indices (i64 or i32, see [`crate::axis_index`]): what they name. An index outside its
    /// axis is an error.
    Take(Picks),
    /// Inputs data, indices as for [`Op::Take`], updates: data with the updates put on what the indices name,
    /// one after the other in row-major order.
    Put(Picks, Putting),
    /// Input x `[N,C,D,H,W]`; outputs the largest element of every window, and its place in x as an i64: the
    /// first of equal ones, in row-major order of the window. A NaN is larger than numbers. Places count
    /// through all planes before.
    MaxPool(Windows),
    /// Input x (f32), whose axis has the taps' extent; in the output it has as many elements as they make.
    Resample {
        /// The axis.
        axis: usize,
        /// What every element along it is made of.
        taps: Taps,
    },
    /// Conversion to the output's type; floats to integers truncate towards zero.
    Cast {
        /// The output's type.
        to: DType,
    },
    /// The same bits as elements of another type of as many bytes.
    BitCast {
        /// The output's type.
        to: DType,
    },
    /// Constant padding: `(before, after)` for every axis.
    Pad {
        /// For every axis, elements added before and after.
        pads: Vec<(usize, usize)>,
        /// What they hold, as f32 (exact for the integers that models pad with).
        value: f32,
    },
    /// A recurrent network over a sequence. With D directions, G gates and H elements of a state, inputs are,
    /// in this order, those in brackets where the attributes say that they are there:
    /// x `[steps, batch, elements]`, W `[D, G·H, elements]`, R `[D, G·H, H]`, `[bias]` (`[D, 2·G·H]`, of W,
    /// then of R), `[lengths]` (`[batch]`, i32, 0 to `steps`), `[initial h]` (`[D, batch, H]`), `[initial c]`
    /// (the same), `[peepholes]` (`[D, 3·H]`, of the gates i, o, f); floats are all of x's type.
    /// Outputs are always all of y `[steps, D, batch, H]`, last h `[D, batch, H]` and, of an LSTM, last c
    /// `[D, batch, H]`; those that nobody reads cost nothing.
    ///
    /// Steps at or behind a sequence's length keep the states and give zeros in y; a backward direction comes
    /// to them first. So the last state of an empty sequence is the initial one. A length outside its range
    /// is an error. Kernels take f32, and only constants for W, R, bias and peepholes.
    ///
    /// With [`RecurrentAttrs::integers`] the first inputs are the sums of all gates (f32 `[steps, batch,
    /// D·G·H]`: what comes from the input, and all biases), R (u8 or i8), scales (f32 `[D, G·H]`) and zero
    /// points (`[D, G·H]` of R's type) of its rows; then come the states and the peepholes.
    Recurrent(RecurrentAttrs),
    /// One input. What is selected, ordered or added up of every row along an axis.
    Along {
        /// What.
        along: Along,
        /// The axis.
        axis: usize,
    },
    /// Several outputs, as large as they can become, and how much of them is meant.
    Selection(Selection),
    /// Decision trees over rows: x `[rows, features]` (f32), then the arrays of [`crate::trees::Forest`],
    /// each with one axis: nodes, roots and targets (i32), weights (f32). The output is `[rows, targets]`
    /// (f32): in every tree a row comes to a leaf, whose votes are put together by target. Kernels take only
    /// constants for the trees.
    TreeEnsemble(Aggregate),
    /// Elements at computed places, sums of windows, determinants.
    Vision(Vision),
    /// Anything else.
    Host(HostOp),
}

impl Op {
    /// The operator's name, for messages and dumps.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Conv(_) => "Conv",
            Op::MatMul { .. } => "MatMul",
            Op::MatMulPacked(_) => "MatMulPacked",
            Op::MatMulInteger(_) => "MatMulInteger",
            Op::ConvInteger(..) => "ConvInteger",
            Op::Quantize(_) => "Quantize",
            Op::Dequantize(_) => "Dequantize",
            Op::Unary(_) => "Unary",
            Op::Binary(_) => "Binary",
            Op::Where => "Where",
            Op::ScaleShift => "ScaleShift",
            Op::Pool(_) => "Pool",
            Op::Reduce { .. } => "Reduce",
            Op::Softmax { .. } => "Softmax",
            Op::LogSoftmax { .. } => "LogSoftmax",
            Op::LayerNorm { .. } => "LayerNorm",
            Op::Concat { .. } => "Concat",
            Op::Slice { .. } => "Slice",
            Op::Transpose { .. } => "Transpose",
            Op::Reshape => "Reshape",
            Op::Expand => "Expand",
            Op::Gather { .. } => "Gather",
            Op::Take(picks) => picks.taking(),
            Op::Put(picks, _) => picks.putting(),
            Op::MaxPool(_) => "MaxPool",
            Op::Resample { .. } => "Resample",
            Op::Cast { .. } => "Cast",
            Op::BitCast { .. } => "BitCast",
            Op::Pad { .. } => "Pad",
            Op::Recurrent(attrs) => attrs.cell.name(),
            Op::Along { along, .. } => along.name(),
            Op::Selection(selection) => selection.name(),
            Op::TreeEnsemble(_) => "TreeEnsemble",
            Op::Vision(vision) => vision.name(),
            Op::Host(_) => "Host",
        }
    }
}
