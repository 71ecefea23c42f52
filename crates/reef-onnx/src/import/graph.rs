//! Adding operators to a graph with their types and shapes worked out. What only constants go into is
//! computed at once.

use reef_base::AlignedBytes;
use reef_base::limits::{FOLDED_ELEMENTS_MAX, TENSOR_ELEMENTS_MAX, TENSOR_RANK_MAX};
use reef_graph::{Binary, DType, Graph, Op, Reduce, Shape, Tensor, Unary, ValueId, Vision, reference};
use std::sync::Arc;

use super::Reject;
use crate::build::folded_shape;
use crate::consts::{self, ConstPool};

/// Elements of a constant that is made of a few others; a larger one is computed when it is needed.
const FOLDED_AT_ONCE_MAX: usize = 1 << 16;

/// A graph in the making.
#[derive(Clone, Debug)]
pub(crate) struct Builder<'m> {
    pub graph: Graph,
    pool: &'m ConstPool,
}

impl<'m> Builder<'m> {
    pub fn new(pool: &'m ConstPool) -> Builder<'m> {
        Builder { graph: Graph::default(), pool }
    }

    /// Takes back what was added since there were so many nodes and values.
    pub fn forget(&mut self, nodes: usize, values: usize) {
        self.graph.nodes.truncate(nodes);
        self.graph.values.truncate(values);
    }

    pub fn dtype(&self, id: ValueId) -> DType {
        self.graph.value(id).dtype
    }

    pub fn shape(&self, id: ValueId) -> Shape {
        self.graph.value(id).shape.clone()
    }

    pub fn rank(&self, id: ValueId) -> usize {
        self.graph.value(id).shape.rank()
    }

    /// The constant that a value is.
    pub fn known(&self, id: ValueId) -> Option<&Tensor> {
        self.graph.constant(id)
    }

    /// The whole numbers that a constant operand is.
    pub fn integers(&self, id: ValueId, what: &str) -> Result<Vec<i64>, Reject> {
        let tensor = self.known(id).ok_or_else(|| Reject::Foreign(format!("its {what} is computed")))?;
        consts::whole_numbers(tensor)
            .ok_or_else(|| Reject::Wrong(format!("its {what} is of type {}", tensor.dtype())))
    }

    /// The numbers that a constant operand is.
    pub fn floats(&self, id: ValueId, what: &str) -> Result<Vec<f64>, Reject> {
        let tensor = self.known(id).ok_or_else(|| Reject::Foreign(format!("its {what} is computed")))?;
        consts::floats(tensor)
            .ok_or_else(|| Reject::Wrong(format!("its {what} is of type {}", tensor.dtype())))
    }

    pub fn constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        self.graph.add_const(name, tensor)
    }

    /// A constant of the model that is made once for all specialisations; `what` names it and no other.
    pub fn shared(
        &self,
        what: String,
        make: impl FnOnce() -> Result<Tensor, Reject>,
    ) -> Result<Tensor, Reject> {
        self.pool.try_folded(what, &[], make)
    }

    /// A constant with one element of this type.
    pub fn scalar(&mut self, dtype: DType, value: f64) -> ValueId {
        let mut bytes = AlignedBytes::zeroed(dtype.bytes());
        reef_graph::scalar::Element::Float(value).write(dtype, bytes.as_mut_slice());
        self.graph.add_const("", Tensor::new(dtype, Shape::default(), Arc::new(bytes)))
    }

    /// A constant made of another; made once for all specialisations of a model.
    pub fn made_of(&self, what: String, of: &Tensor, make: impl FnOnce() -> Tensor) -> Tensor {
        self.pool.folded(what, &[of], make)
    }

    /// An operator with one output.
    pub fn add(
        &mut self,
        name: &str,
        op: Op,
        inputs: &[ValueId],
        dtype: DType,
        shape: Shape,
    ) -> Result<ValueId, Reject> {
        let elements = fitting(&shape)?;
        if elements == 0 {
            let nothing = Tensor::new(dtype, shape, Arc::new(AlignedBytes::zeroed(0)));
            return Ok(self.graph.add_const(name, nothing));
        }
        let operands: Option<Vec<Tensor>> = inputs.iter().map(|&id| self.known(id).cloned()).collect();
        if let Some(operands) = operands
            && let Some(folded) = self.folded(&op, &operands, dtype, &shape)?
        {
            return Ok(self.graph.add_const(name, folded));
        }
        Ok(self.graph.add_node(name, op, inputs, dtype, shape))
    }

    /// What an operator makes of constants, unless that would be much more than they are.
    fn folded(
        &self,
        op: &Op,
        operands: &[Tensor],
        dtype: DType,
        shape: &Shape,
    ) -> Result<Option<Tensor>, Reject> {
        let largest = operands.iter().map(|tensor| tensor.shape().elements()).max().unwrap_or(0);
        let limit = FOLDED_ELEMENTS_MAX.max(largest);
        if shape.elements() > limit {
            let reason = format!(
                "a result of shape {shape}: a constant made of smaller ones has at most {limit} elements"
            );
            return Err(Reject::Wrong(reason));
        }
        let read: usize = operands.iter().map(|tensor| tensor.shape().elements()).sum();
        if shape.elements() > FOLDED_AT_ONCE_MAX.max(read.saturating_mul(2)) {
            return Ok(None);
        }
        match op {
            Op::Reshape => return Ok(Some(self.pool.reshaped(&operands[0], shape))),
            Op::Transpose { perm } => return Ok(Some(self.pool.transposed(&operands[0], perm))),
            _ => {}
        }
        let inputs: Vec<&Tensor> = operands.iter().collect();
        let make = || reference::apply(op, &inputs, dtype, shape);
        if read < FOLDED_AT_ONCE_MAX {
            return make().map(Some).map_err(Reject::Wrong);
        }
        self.pool.try_folded(format!("{op:?} {dtype}{shape}"), &inputs, make).map(Some).map_err(Reject::Wrong)
    }

    /// The same elements in another shape of as many.
    pub fn reshape(&mut self, name: &str, x: ValueId, shape: Shape) -> Result<ValueId, Reject> {
        if self.graph.value(x).shape == shape {
            return Ok(x);
        }
        let (from, dtype) = (self.shape(x), self.dtype(x));
        if fitting(&shape)? != from.elements() {
            return super::wrong(format!("the elements of shape {from} do not fill {shape}"));
        }
        self.add(name, Op::Reshape, &[x], dtype, shape)
    }

    /// Axes permuted: output axis `i` is input axis `perm[i]`.
    pub fn transpose(&mut self, name: &str, x: ValueId, perm: Vec<usize>) -> Result<ValueId, Reject> {
        if perm.iter().enumerate().all(|(to, &from)| to == from) {
            return Ok(x);
        }
        let from = self.shape(x);
        let shape: Shape = perm.iter().map(|&axis| from[axis]).collect();
        self.add(name, Op::Transpose { perm }, &[x], self.dtype(x), shape)
    }

    /// Broadcast to `shape`.
    pub fn expand(&mut self, name: &str, x: ValueId, shape: Shape) -> Result<ValueId, Reject> {
        let from = self.shape(x);
        if from == shape {
            return Ok(x);
        }
        if from.broadcast(&shape).as_ref() != Some(&shape) {
            return super::wrong(format!("shape {from} does not broadcast to {shape}"));
        }
        self.add(name, Op::Expand, &[x], self.dtype(x), shape)
    }

    /// A function of one element.
    pub fn unary(&mut self, name: &str, op: Unary, x: ValueId) -> Result<ValueId, Reject> {
        let (dtype, shape) = (self.dtype(x), self.shape(x));
        self.add(name, Op::Unary(op), &[x], dtype, shape)
    }

    /// A function of two elements of one type, broadcast.
    pub fn binary(&mut self, name: &str, op: Binary, a: ValueId, b: ValueId) -> Result<ValueId, Reject> {
        let (left, right) = (self.shape(a), self.shape(b));
        let Some(shape) = left.broadcast(&right) else {
            return super::wrong(format!("shapes {left} and {right} do not broadcast"));
        };
        let dtype = if op.is_comparison() { DType::Bool } else { self.dtype(a) };
        self.add(name, Op::Binary(op), &[a, b], dtype, shape)
    }

    /// `a` where `condition` holds, else `b`.
    pub fn choose(
        &mut self,
        name: &str,
        condition: ValueId,
        a: ValueId,
        b: ValueId,
    ) -> Result<ValueId, Reject> {
        let shapes = [condition, a, b].map(|id| self.shape(id));
        let joined = shapes.iter().try_fold(Shape::default(), |joined, shape| joined.broadcast(shape));
        let Some(shape) = joined else {
            let [condition, a, b] = shapes;
            return super::wrong(format!("shapes {condition}, {a} and {b} do not broadcast"));
        };
        self.add(name, Op::Where, &[condition, a, b], self.dtype(a), shape)
    }

    /// A conversion.
    pub fn cast(&mut self, name: &str, x: ValueId, to: DType) -> Result<ValueId, Reject> {
        if self.dtype(x) == to {
            return Ok(x);
        }
        let shape = self.shape(x);
        self.add(name, Op::Cast { to }, &[x], to, shape)
    }

    /// A reduction over ascending `axes`, which stay with extent 1.
    pub fn reduce(
        &mut self,
        name: &str,
        reduce: Reduce,
        axes: &[usize],
        x: ValueId,
    ) -> Result<ValueId, Reject> {
        let shape = folded_shape(&self.shape(x), axes);
        let op = Op::Reduce { reduce, axes: axes.to_vec(), keep_dims: true };
        self.add(name, op, &[x], self.dtype(x), shape)
    }

    /// Elements `begin..end` of one axis.
    pub fn slice(
        &mut self,
        name: &str,
        x: ValueId,
        axis: usize,
        range: std::ops::Range<usize>,
    ) -> Result<ValueId, Reject> {
        let mut dims = self.shape(x).to_vec();
        if range == (0..dims[axis]) {
            return Ok(x);
        }
        dims[axis] = range.len();
        let op = Op::Slice { axis, begin: range.start, end: range.end as isize, step: 1 };
        self.add(name, op, &[x], self.dtype(x), dims.into())
    }

    /// Values joined along an axis.
    pub fn concat(&mut self, name: &str, parts: &[ValueId], axis: usize) -> Result<ValueId, Reject> {
        let (dtype, mut dims) = (self.dtype(parts[0]), self.shape(parts[0]).to_vec());
        dims[axis] = parts.iter().map(|&part| self.graph.value(part).shape[axis]).sum();
        let some = |part: &ValueId| self.graph.value(*part).shape[axis] != 0;
        let parts: Vec<ValueId> = parts.iter().copied().filter(some).collect();
        match parts[..] {
            [part] => Ok(part),
            _ => self.add(name, Op::Concat { axis }, &parts, dtype, dims.into()),
        }
    }

    /// A matrix product over the last two axes.
    pub fn matmul(
        &mut self,
        name: &str,
        (a, trans_a): (ValueId, bool),
        (b, trans_b): (ValueId, bool),
    ) -> Result<ValueId, Reject> {
        let (left, right) = (self.shape(a), self.shape(b));
        let misfit = || Reject::Wrong(format!("a product of {left} and {right}"));
        let (Some(rank_a), Some(rank_b)) = (left.rank().checked_sub(2), right.rank().checked_sub(2)) else {
            return Err(misfit());
        };
        let turned = |turned: bool, rows: usize, columns: usize| {
            if turned { (columns, rows) } else { (rows, columns) }
        };
        let (m, k) = turned(trans_a, left[rank_a], left[rank_a + 1]);
        let (l, n) = turned(trans_b, right[rank_b], right[rank_b + 1]);
        let batch = Shape::new(&left[..rank_a]).broadcast(&Shape::new(&right[..rank_b]));
        let batch = batch.filter(|_| k == l).ok_or_else(misfit)?;
        let shape: Shape = batch.iter().copied().chain([m, n]).collect();
        if k == 0 {
            return self.zeros(self.dtype(a), shape);
        }
        self.add(name, Op::MatMul { trans_a, trans_b }, &[a, b], self.dtype(a), shape)
    }

    /// An operator of vision models, whose operands have its types.
    pub fn vision(&mut self, name: &str, vision: Vision, inputs: &[ValueId]) -> Result<ValueId, Reject> {
        let shapes: Vec<Shape> = inputs.iter().map(|&id| self.shape(id)).collect();
        let shape = vision.shape(&shapes).map_err(Reject::Wrong)?;
        self.add(name, Op::Vision(vision), inputs, DType::F32, shape)
    }

    /// Zeros.
    pub fn zeros(&mut self, dtype: DType, shape: Shape) -> Result<ValueId, Reject> {
        let zero = self.scalar(dtype, 0.0);
        self.expand("", zero, shape)
    }

    /// `x` in single precision for an operator that computes only that, and the type to give back.
    pub fn computable(&mut self, name: &str, x: ValueId) -> Result<(ValueId, DType), Reject> {
        match self.dtype(x) {
            DType::F32 => Ok((x, DType::F32)),
            dtype @ (DType::F16 | DType::BF16) => Ok((self.cast(name, x, DType::F32)?, dtype)),
            dtype => Err(Reject::Foreign(format!("{dtype} is not computed natively"))),
        }
    }
}

/// The number of elements of a shape that tensors may have.
pub(crate) fn fitting(shape: &Shape) -> Result<usize, Reject> {
    let elements = shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
    match elements.filter(|&elements| shape.rank() <= TENSOR_RANK_MAX && elements <= TENSOR_ELEMENTS_MAX) {
        Some(elements) => Ok(elements),
        None => super::wrong(format!(
            "a result of shape {shape}: a tensor has at most {TENSOR_ELEMENTS_MAX} elements and \
             {TENSOR_RANK_MAX} axes"
        )),
    }
}
