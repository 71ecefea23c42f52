//! What every operator means, in loops that are too simple to be wrong: constants are folded by it, and
//! whoever computes an operator is compared with it.
//!
//! Sums are in double precision; every value is rounded to its type.

pub mod along;
mod elementwise;
pub mod indexed;
mod movement;
mod quantized;
pub mod recurrent;
mod sums;
mod trees;
pub mod vision;
pub mod windows;

use std::sync::Arc;

use reef_base::AlignedBytes;

use crate::scalar::Element;
use crate::{DType, Op, Shape, Tensor};

/// The output of one operator, of this type and shape, for these inputs. Operators with several outputs, and
/// those that only the host computes, are an error.
pub fn apply(op: &Op, inputs: &[&Tensor], dtype: DType, shape: &Shape) -> Result<Tensor, String> {
    let grids: Vec<Grid> = inputs.iter().map(|tensor| Grid::of(tensor)).collect();
    let result = match op {
        Op::Unary(function) => elementwise::unary(*function, &grids[0])?,
        Op::Binary(function) => elementwise::binary(*function, &grids[0], &grids[1], shape)?,
        Op::Where => elementwise::select(&grids, shape),
        Op::ScaleShift => elementwise::scale_shift(&grids),
        Op::Cast { to } => elementwise::cast(&grids[0], *to),
        Op::BitCast { to } => return movement::bits(inputs[0], *to, shape),
        Op::Conv(attrs) => sums::conv(attrs, &grids, shape),
        Op::MatMul { trans_a, trans_b } => sums::matmul(&grids, *trans_a, *trans_b, shape),
        Op::MatMulPacked(weights) => sums::packed(*weights, inputs, &grids, shape),
        Op::MatMulInteger(zeros) => quantized::product(*zeros, inputs, &grids, (dtype, shape))?,
        Op::ConvInteger(attrs, zeros) => quantized::conv(attrs, *zeros, inputs, &grids, (dtype, shape))?,
        Op::Quantize(how) => quantized::quantize(how, inputs, &grids, dtype)?,
        Op::Dequantize(how) => quantized::dequantize(how, inputs, &grids, dtype)?,
        Op::Pool(attrs) => sums::pool(attrs, &grids[0], shape),
        Op::Reduce { reduce, axes, .. } if !dtype.is_float() => sums::fold(*reduce, axes, &grids[0]),
        Op::Reduce { reduce, axes, .. } => sums::reduce(*reduce, axes, &grids[0]),
        Op::Softmax { axis } => sums::softmax(&grids[0], *axis, false),
        Op::LogSoftmax { axis } => sums::softmax(&grids[0], *axis, true),
        Op::LayerNorm { axis, epsilon } => sums::layer_norm(&grids, *axis, f64::from(*epsilon)),
        Op::Concat { axis } => movement::concat(&grids, *axis, shape),
        Op::Slice { axis, begin, step, .. } => movement::slice(&grids[0], *axis, *begin, *step, shape),
        Op::Transpose { perm } => movement::transpose(&grids[0], perm, shape),
        Op::Reshape => grids.into_iter().next().expect("a reshape has an input").elements,
        Op::Expand => movement::expand(&grids[0], shape),
        Op::Gather { axis } => movement::gather(&grids[0], &grids[1], *axis)?,
        Op::Take(picks) => indexed::take(*picks, &grids[0], &grids[1])?,
        Op::Put(picks, putting) => indexed::put(*picks, *putting, dtype, [&grids[0], &grids[1], &grids[2]])?,
        Op::Resample { axis, taps } => sums::resample(taps, *axis, &grids[0], shape)?,
        Op::Pad { pads, value } => movement::pad(&grids[0], pads, *value, dtype, shape),
        Op::Along { along: what, axis } => {
            let [made]: [Tensor; 1] = along::along(*what, *axis, inputs[0])?
                .try_into()
                .map_err(|_| "the largest elements are several outputs")?;
            Element::all(&made)
        }
        Op::Recurrent(_) => return Err("a recurrent network has several outputs".into()),
        Op::MaxPool(_) => return Err("the largest elements and their places are several outputs".into()),
        Op::Selection(_) => return Err("a selection has several outputs".into()),
        Op::TreeEnsemble(aggregate) => trees::ensemble(*aggregate, inputs, shape)?,
        Op::Vision(what) => vision::all(what, inputs, shape)?,
        Op::Host(_) => return Err("host operators are not interpreted".into()),
    };
    if result.len() != shape.elements() {
        return Err(format!("makes {} elements, {shape} has {}", result.len(), shape.elements()));
    }
    Ok(store(&result, dtype, shape))
}

/// A tensor opened up: its elements in row-major order.
pub(crate) struct Grid {
    /// Extents.
    dims: Vec<usize>,
    /// Element type.
    dtype: DType,
    /// Elements.
    elements: Vec<Element>,
}

impl Grid {
    fn of(tensor: &Tensor) -> Grid {
        Grid { dims: tensor.shape().to_vec(), dtype: tensor.dtype(), elements: Element::all(tensor) }
    }

    /// The element at `index`, where axes missing on the left or of extent 1 are broadcast.
    fn broadcast_at(&self, index: &[usize]) -> Element {
        let own = &index[index.len() - self.dims.len()..];
        let flat =
            self.dims.iter().zip(own).fold(0, |at, (&dim, &i)| at * dim + if dim == 1 { 0 } else { i });
        self.elements[flat]
    }

    /// The element at `index`.
    fn at(&self, index: &[usize]) -> Element {
        self.elements[flatten(&self.dims, index)]
    }
}

/// Position of `index` in a row-major tensor.
fn flatten(dims: &[usize], index: &[usize]) -> usize {
    dims.iter().zip(index).fold(0, |at, (&dim, &i)| at * dim + i)
}

/// Index of the row-major position `flat`.
fn unflatten(dims: &[usize], mut flat: usize) -> Vec<usize> {
    let mut index = vec![0; dims.len()];
    for axis in (0..dims.len()).rev() {
        index[axis] = flat % dims[axis];
        flat /= dims[axis];
    }
    index
}

/// Every index of a shape, in row-major order.
fn indices(dims: &[usize]) -> impl Iterator<Item = Vec<usize>> + '_ {
    (0..dims.iter().product()).map(|flat| unflatten(dims, flat))
}

/// Elements as a tensor.
pub fn store(elements: &[Element], dtype: DType, shape: &Shape) -> Tensor {
    let mut bytes = AlignedBytes::zeroed(elements.len() * dtype.bytes());
    for (element, chunk) in elements.iter().zip(bytes.as_mut_slice().chunks_exact_mut(dtype.bytes())) {
        element.write(dtype, chunk);
    }
    Tensor::new(dtype, shape.clone(), Arc::new(bytes))
}
