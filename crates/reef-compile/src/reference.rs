//! A plain interpreter of graphs: what every operator means, in loops that are too simple to be wrong.
//!
//! Sums are in double precision; every value is rounded to its type. Host operators are not interpreted.

mod elementwise;
mod movement;
mod sums;

use reef_base::AlignedBytes;
use reef_graph::{DType, Graph, Op, Selection, Shape, Tensor, ValueId, ValueKind};

use crate::lower::selection::spec_of;
use crate::scalar::Element;
use crate::select;
use std::sync::Arc;

/// A graph could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node} ({op}): {reason}")]
pub struct EvalError {
    /// The node's name.
    pub node: String,
    /// The operator's name.
    pub op: &'static str,
    /// What is wrong.
    pub reason: String,
}

/// Evaluates `graph` on `inputs`, which have the types and shapes that it declares; gives its outputs in
/// order.
pub fn evaluate(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, EvalError> {
    let mut values: Vec<Option<Tensor>> = graph
        .values
        .iter()
        .map(|value| match &value.kind {
            ValueKind::Input(index) => Some(inputs[*index].clone()),
            ValueKind::Const(tensor) => Some(tensor.clone()),
            ValueKind::Node(_) => None,
        })
        .collect();
    let made = "validated graphs make values before they use them";
    for node in &graph.nodes {
        let operands: Vec<&Tensor> =
            node.inputs.iter().map(|id| values[id.index()].as_ref().expect(made)).collect();
        let fail = |reason| EvalError { node: node.name.clone(), op: node.op.name(), reason };
        if let Op::Selection(selection) = &node.op {
            let made = select(selection, &operands).map_err(fail)?;
            for (id, made) in node.outputs.iter().zip(made) {
                values[id.index()] = Some(made);
            }
            continue;
        }
        let output = graph.value(node.outputs[0]);
        let result = apply(&node.op, &operands, output.dtype, &output.shape).map_err(fail)?;
        values[node.outputs[0].index()] = Some(result);
    }
    let take = |id: &ValueId| values[id.index()].clone().expect(made);
    Ok(graph.outputs.iter().map(take).collect())
}

/// The outputs of a selection.
fn select(selection: &Selection, inputs: &[&Tensor]) -> Result<Vec<Tensor>, String> {
    let facts: Vec<_> = inputs.iter().map(|tensor| (tensor.dtype(), tensor.shape().clone())).collect();
    let outputs = selection.outputs(&facts)?;
    let elements: Vec<_> = inputs.iter().map(|tensor| Grid::of(tensor).elements).collect();
    let made = select::select(&spec_of(selection, &facts), &elements)?;
    Ok(made.iter().zip(outputs).map(|(made, (dtype, shape))| store(made, dtype, &shape)).collect())
}

/// Applies one operator.
pub(crate) fn apply(op: &Op, inputs: &[&Tensor], dtype: DType, shape: &Shape) -> Result<Tensor, String> {
    let grids: Vec<Grid> = inputs.iter().map(|tensor| Grid::of(tensor)).collect();
    let result = match op {
        Op::Unary(function) => elementwise::unary(*function, &grids[0])?,
        Op::Binary(function) => elementwise::binary(*function, &grids[0], &grids[1], shape)?,
        Op::Where => elementwise::select(&grids, shape),
        Op::ScaleShift => elementwise::scale_shift(&grids),
        Op::Cast { to } => elementwise::cast(&grids[0], *to),
        Op::Conv(attrs) => sums::conv(attrs, &grids, shape),
        Op::MatMul { trans_a, trans_b } => sums::matmul(&grids, *trans_a, *trans_b, shape),
        Op::Pool(attrs) => sums::pool(attrs, &grids[0], shape),
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
        Op::Pad { pads, value } => movement::pad(&grids[0], pads, *value, dtype, shape),
        Op::Selection(_) => return Err("a selection has several outputs".into()),
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
        let dtype = tensor.dtype();
        let elements =
            tensor.bytes().as_slice().chunks_exact(dtype.bytes()).map(|b| Element::read(dtype, b)).collect();
        Grid { dims: tensor.shape().to_vec(), dtype, elements }
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

fn store(elements: &[Element], dtype: DType, shape: &Shape) -> Tensor {
    let mut bytes = AlignedBytes::zeroed(elements.len() * dtype.bytes());
    for (element, chunk) in elements.iter().zip(bytes.as_mut_slice().chunks_exact_mut(dtype.bytes())) {
        element.write(dtype, chunk);
    }
    Tensor::new(dtype, shape.clone(), Arc::new(bytes))
}
