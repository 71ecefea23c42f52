//! Adding operators to a graph with their types and shapes worked out. What only constants go into is
//! computed at once; numbers made of integers only when they are asked for, so that whoever multiplies the
//! integers finds them.

use reef_base::AlignedBytes;
use reef_base::limits::{FOLDED_ELEMENTS_MAX, TENSOR_ELEMENTS_MAX, TENSOR_RANK_MAX};
use reef_graph::{
    Binary, DType, Graph, HostOp, Node, Op, Quantization, Reduce, Shape, Tensor, Unary, ValueId, ValueKind,
    Vision, reference,
};
use reef_plan::HostKernel;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::Reject;
use crate::build::folded_shape;
use crate::consts::{self, ConstPool};

/// Elements of a constant that is made of a few others; a larger one is computed when it is needed.
const FOLDED_AT_ONCE_MAX: usize = 1 << 16;

/// Products of elements that are kept before they are added, in types that products have no kernel for.
const SPREAD_PRODUCTS_MAX: usize = 1 << 22;

/// What a constant was made of: integers of few bits, scales and perhaps zero points.
#[derive(Clone, Debug)]
pub(crate) struct Dequantized {
    pub by: Quantization,
    pub operands: Vec<ValueId>,
}

/// A graph in the making.
#[derive(Clone, Debug)]
pub(crate) struct Builder<'m> {
    pub graph: Graph,
    pool: &'m ConstPool,
    /// What the graph's host operators index.
    pub kernels: Vec<Arc<dyn HostKernel>>,
    /// Nodes of constants that are computed when they are asked for.
    deferred: HashMap<ValueId, OnceCell<Tensor>>,
}

impl<'m> Builder<'m> {
    pub fn new(pool: &'m ConstPool) -> Builder<'m> {
        Builder { graph: Graph::default(), pool, kernels: vec![], deferred: HashMap::new() }
    }

    /// Takes back what was added since there were so many nodes and values.
    pub fn forget(&mut self, nodes: usize, values: usize) {
        self.graph.nodes.truncate(nodes);
        self.graph.values.truncate(values);
        self.deferred.retain(|id, _| id.index() < values);
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
        if let Some(tensor) = self.graph.constant(id) {
            return Some(tensor);
        }
        let (cell, node) = (self.deferred.get(&id)?, self.maker(id)?);
        if let Some(tensor) = cell.get() {
            return Some(tensor);
        }
        let operands: Option<Vec<Tensor>> =
            node.inputs.iter().map(|&id| self.graph.constant(id).cloned()).collect();
        let value = self.graph.value(id);
        let made = self.folded(&node.op, &operands?, value.dtype, &value.shape).ok().flatten()?;
        Some(cell.get_or_init(|| made))
    }

    /// Whether a value is a constant, without computing it.
    pub fn is_known(&self, id: ValueId) -> bool {
        self.graph.constant(id).is_some() || self.deferred.contains_key(&id)
    }

    /// The node that makes a value.
    fn maker(&self, id: ValueId) -> Option<&Node> {
        match self.graph.value(id).kind {
            ValueKind::Node(by) => self.graph.nodes.get(by.index()),
            _ => None,
        }
    }

    /// Numbers made of integers. If these are constants, the numbers are as well, but computed only when they
    /// are asked for.
    pub fn dequantize(
        &mut self,
        name: &str,
        by: Quantization,
        operands: &[ValueId],
        to: DType,
    ) -> Result<ValueId, Reject> {
        let (op, shape) = (Op::Dequantize(by), self.shape(operands[0]));
        let integers = self.dtype(operands[0]) != DType::F32;
        let constant = operands.iter().all(|&id| self.graph.constant(id).is_some());
        if !integers || !constant || fitting(&shape)? == 0 {
            return self.add(name, op, operands, to, shape);
        }
        let made = self.graph.add_node(name, op, operands, to, shape);
        self.deferred.insert(made, OnceCell::new());
        Ok(made)
    }

    /// What a constant was made of, if that was integers.
    pub fn dequantized(&self, id: ValueId) -> Option<Dequantized> {
        let node = self.maker(id).filter(|_| self.deferred.contains_key(&id))?;
        let Op::Dequantize(by) = node.op else { return None };
        Some(Dequantized { by, operands: node.inputs.clone() })
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

    /// A constant made of another; made once for all specialisations of a model, unless it is large.
    pub fn made_of(
        &self,
        what: String,
        of: &Tensor,
        make: impl Fn(&Tensor) -> Tensor + Send + Sync + 'static,
    ) -> Tensor {
        self.pool.made(what, &[of], move |of| make(of[0]))
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
        let constant = inputs.iter().all(|&id| self.is_known(id));
        let operands: Option<Vec<Tensor>> =
            inputs.iter().filter(|_| constant).map(|&id| self.known(id).cloned()).collect();
        if let Some(operands) = operands.filter(|_| constant)
            && let Some(folded) = self.folded(&op, &operands, dtype, &shape)?
        {
            return Ok(self.graph.add_const(name, folded));
        }
        Ok(self.graph.add_node(name, op, inputs, dtype, shape))
    }

    /// What a host kernel makes.
    pub fn host(&mut self, name: &str, kernel: Arc<dyn HostKernel>, inputs: &[ValueId]) -> Vec<ValueId> {
        let op = Op::Host(HostOp { index: self.kernels.len(), operators: kernel.name().to_owned() });
        let outputs = kernel.outputs().iter().map(|spec| (spec.dtype, spec.shape.clone())).collect();
        self.kernels.push(kernel);
        self.graph.add_node_multi(name, op, inputs, outputs)
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
        if read < FOLDED_AT_ONCE_MAX {
            return reference::apply(op, &inputs, dtype, shape).map(Some).map_err(Reject::Wrong);
        }
        let (what, op, to) = (format!("{op:?} {dtype}{shape}"), op.clone(), shape.clone());
        let make = move |inputs: &[&Tensor]| reference::apply(&op, inputs, dtype, &to);
        self.pool.try_made(what, &inputs, make).map(Some).map_err(Reject::Wrong)
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
        if let Some(Dequantized { by, operands }) = self.dequantized(x)
            && by.block == 0
            && (self.shape(operands[1]).elements() == 1
                || by.axis == 0 && shape.first().is_some_and(|&extent| extent == from[0]))
        {
            let integers = self.reshape(name, operands[0], shape)?;
            return self.dequantize(name, by, &[&[integers], &operands[1..]].concat(), dtype);
        }
        self.add(name, Op::Reshape, &[x], dtype, shape)
    }

    /// Axes permuted: output axis `i` is input axis `perm[i]`.
    pub fn transpose(&mut self, name: &str, x: ValueId, perm: Vec<usize>) -> Result<ValueId, Reject> {
        if perm.iter().enumerate().all(|(to, &from)| to == from) {
            return Ok(x);
        }
        let from = self.shape(x);
        if let Some(Dequantized { mut by, operands }) = self.dequantized(x)
            && by.block == 0
        {
            by.axis = perm.iter().position(|&axis| axis == by.axis).unwrap_or(by.axis);
            let integers = self.transpose(name, operands[0], perm)?;
            return self.dequantize(name, by, &[&[integers], &operands[1..]].concat(), self.dtype(x));
        }
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
        if self.dtype(a) != DType::F32 {
            return self.spread_product(name, (a, trans_a), (b, trans_b), shape);
        }
        self.add(name, Op::MatMul { trans_a, trans_b }, &[a, b], self.dtype(a), shape)
    }

    /// The same in a type that no product has a kernel for: every product of two elements, then their sums.
    fn spread_product(
        &mut self,
        name: &str,
        (a, trans_a): (ValueId, bool),
        (b, trans_b): (ValueId, bool),
        shape: Shape,
    ) -> Result<ValueId, Reject> {
        let (left, right) = (self.shape(a), self.shape(b));
        let depth = left[left.rank() - if trans_a { 2 } else { 1 }];
        if shape.elements().saturating_mul(depth) > SPREAD_PRODUCTS_MAX {
            return Err(Reject::Foreign(format!("a product of {left} and {right} of {}", self.dtype(a))));
        }
        let swapped = |rank: usize| (0..rank - 2).chain([rank - 1, rank - 2]).collect::<Vec<usize>>();
        let a = if trans_a { self.transpose(name, a, swapped(left.rank()))? } else { a };
        let b = if trans_b { b } else { self.transpose(name, b, swapped(right.rank()))? };
        let mut rows = self.shape(a).to_vec();
        rows.insert(rows.len() - 1, 1);
        let mut columns = self.shape(b).to_vec();
        columns.insert(columns.len() - 2, 1);
        let (a, b) = (self.reshape(name, a, rows.into())?, self.reshape(name, b, columns.into())?);
        let products = self.binary(name, Binary::Mul, a, b)?;
        let sums = self.reduce(name, Reduce::Sum, &[shape.rank()], products)?;
        self.reshape(name, sums, shape)
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

    /// `x` in the precision that functions of floats are computed in, and the type to give back.
    pub fn floating(&mut self, name: &str, x: ValueId) -> Result<(ValueId, DType), Reject> {
        match self.dtype(x) {
            DType::F64 => Ok((x, DType::F64)),
            dtype if dtype.is_float() => self.computable(name, x),
            dtype => super::wrong(format!("it is of floating-point numbers, and its operand is of {dtype}")),
        }
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
