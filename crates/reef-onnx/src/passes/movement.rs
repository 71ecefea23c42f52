//! Rules for operators that move elements.

use reef_graph::{Binary, DType, Node, Op, Shape, Tensor, ValueId};

use crate::build;
use crate::consts::ConstPool;
use crate::rewrite::Rewriter;

/// Reshapes, transposes and widenings of constants are done now.
pub(super) fn constant(rewriter: &mut Rewriter, pool: &ConstPool, node: &Node) -> Option<ValueId> {
    let tensor = rewriter.constant(*node.inputs.first()?)?;
    let made = match &node.op {
        Op::Reshape => pool.reshaped(tensor, rewriter.shape(node.outputs[0])),
        Op::Transpose { perm } => pool.transposed(tensor, perm),
        Op::Cast { to: DType::F32 } if tensor.dtype() == DType::F16 => {
            let widened = |of: &[&Tensor]| {
                let values: Vec<f32> = of[0].values::<half::f16>().iter().map(|half| half.to_f32()).collect();
                Tensor::f32(of[0].shape().clone(), &values)
            };
            pool.made("widen".into(), &[tensor], widened)
        }
        _ => return None,
    };
    Some(rewriter.add_const(&node.name, made))
}

/// Operators that change nothing go away.
pub(super) fn identity(rewriter: &mut Rewriter, _: &ConstPool, node: &Node) -> Option<ValueId> {
    let &input = node.inputs.first()?;
    let same_shape = rewriter.shape(input) == rewriter.shape(node.outputs[0]);
    let nothing = match &node.op {
        Op::Reshape | Op::Expand => same_shape,
        Op::Transpose { perm } => perm.is_sorted(),
        Op::Slice { step: 1, .. } => same_shape,
        Op::Cast { to } => rewriter.dtype(input) == *to,
        Op::Concat { .. } => node.inputs.len() == 1,
        Op::Pad { pads, .. } => pads.iter().all(|&pad| pad == (0, 0)),
        Op::Pool(pool) => pool.kernel == [1; 2] && pool.strides == [1; 2] && pool.pads == [0; 4],
        _ => false,
    };
    nothing.then(|| rewriter.get(input))
}

/// Two reshapes are one, two transposes are one.
pub(super) fn merged(rewriter: &mut Rewriter, _: &ConstPool, node: &Node) -> Option<ValueId> {
    let inner = rewriter.def(*node.inputs.first()?)?;
    match (&inner.op, &node.op) {
        (Op::Reshape, Op::Reshape) => {
            let x = rewriter.get(inner.inputs[0]);
            let shape = rewriter.shape(node.outputs[0]).clone();
            Some(build::reshape(&mut rewriter.new, &node.name, x, shape))
        }
        (Op::Transpose { perm: first }, Op::Transpose { perm: second }) => {
            let perm = second.iter().map(|&axis| first[axis]).collect();
            let x = rewriter.get(inner.inputs[0]);
            Some(build::transpose(&mut rewriter.new, &node.name, x, perm))
        }
        _ => None,
    }
}

/// A transpose that only moves axes of extent 1 is a reshape.
pub(super) fn unit_transpose(rewriter: &mut Rewriter, _: &ConstPool, node: &Node) -> Option<ValueId> {
    let Op::Transpose { perm } = &node.op else { return None };
    let shape = rewriter.shape(node.inputs[0]);
    let moved: Vec<usize> = perm.iter().copied().filter(|&axis| shape[axis] != 1).collect();
    if !moved.is_sorted() {
        return None;
    }
    let x = rewriter.get(node.inputs[0]);
    Some(build::reshape(&mut rewriter.new, &node.name, x, rewriter.old.value(node.outputs[0]).shape.clone()))
}

/// An operand need not be expanded for an operator that broadcasts by itself.
pub(super) fn unbroadcast(rewriter: &mut Rewriter, _: &ConstPool, node: &Node) -> Option<ValueId> {
    if !matches!(node.op, Op::Binary(_) | Op::Where) {
        return None;
    }
    let shape = rewriter.shape(node.outputs[0]);
    let narrow = |at: usize| -> Option<ValueId> {
        let def = rewriter.def(node.inputs[at]).filter(|def| def.op == Op::Expand)?;
        let mut inputs = node.inputs.clone();
        inputs[at] = def.inputs[0];
        let joined =
            inputs.iter().try_fold(Shape::default(), |shape, &id| shape.broadcast(rewriter.shape(id)))?;
        (joined == *shape).then_some(def.inputs[0])
    };
    let (at, slim) = (0..node.inputs.len()).find_map(|at| narrow(at).map(|slim| (at, slim)))?;
    let mut inputs = node.inputs.clone();
    inputs[at] = slim;
    let inputs: Vec<ValueId> = inputs.into_iter().map(|id| rewriter.get(id)).collect();
    let dtype = rewriter.dtype(node.outputs[0]);
    Some(rewriter.new.add_node(&node.name, node.op.clone(), &inputs, dtype, shape.clone()))
}

/// A 1×1 convolution of every n-th row and column is one with a stride.
pub(super) fn strided_conv(rewriter: &mut Rewriter, _: &ConstPool, node: &Node) -> Option<ValueId> {
    let Op::Conv(attrs) = &node.op else { return None };
    let slice = rewriter.def(node.inputs[0])?;
    let Op::Slice { axis, begin: 0, end, step } = slice.op else { return None };
    let extent = rewriter.shape(slice.inputs[0])[axis];
    if attrs.kernel != [1; 2] || attrs.pads != [0; 4] || axis < 2 || step < 1 || end != extent as isize {
        return None;
    }
    let mut attrs = attrs.clone();
    attrs.strides[axis - 2] *= step as usize;
    let mut inputs = node.inputs.clone();
    inputs[0] = slice.inputs[0];
    let inputs: Vec<ValueId> = inputs.into_iter().map(|id| rewriter.get(id)).collect();
    let output = rewriter.old.value(node.outputs[0]);
    Some(rewriter.new.add_node(&node.name, Op::Conv(attrs), &inputs, output.dtype, output.shape.clone()))
}

/// A 1×1 convolution of a single pixel is a matrix product.
pub(super) fn pixel_conv(rewriter: &mut Rewriter, pool: &ConstPool, node: &Node) -> Option<ValueId> {
    let Op::Conv(attrs) = &node.op else { return None };
    let [batch, from, 1, 1] = rewriter.shape(node.inputs[0])[..] else { return None };
    let weights = rewriter.constant(node.inputs[1])?;
    if attrs.kernel != [1; 2] || attrs.pads != [0; 4] || attrs.groups != 1 {
        return None;
    }
    let to = weights.shape()[0];
    let weights = pool.reshaped(weights, &Shape::from([to, from]));
    let weights = rewriter.add_const(&format!("{}.weights", node.name), weights);
    let bias = node.inputs.get(2).map(|&bias| rewriter.get(bias));
    let x = rewriter.get(node.inputs[0]);
    let graph = &mut rewriter.new;
    let x = build::reshape(graph, &node.name, x, Shape::from([batch, from]));
    let mut made = build::matmul(graph, &node.name, (x, false), (weights, true))?;
    if let Some(bias) = bias {
        made = build::binary(graph, &node.name, Binary::Add, made, bias)?;
    }
    Some(build::reshape(graph, &node.name, made, Shape::from([batch, to, 1, 1])))
}

/// A transposed operand of a matrix product whose last two axes come in descending order: the product reads
/// them the other way round instead.
pub(super) fn transposed_operand(rewriter: &mut Rewriter, _: &ConstPool, node: &Node) -> Option<ValueId> {
    let Op::MatMul { trans_a, trans_b } = node.op else { return None };
    let mut flags = [trans_a, trans_b];
    let turned = |at: usize| -> Option<Vec<usize>> {
        let Op::Transpose { perm } = &rewriter.sole(node.inputs[at])?.op else { return None };
        let last = perm.len() - 1;
        let mut perm = perm.clone();
        perm.swap(last - 1, last);
        (perm[last - 1] < perm[last]).then_some(perm)
    };
    let (at, perm) = (0..2).find_map(|at| turned(at).map(|perm| (at, perm)))?;
    let source = rewriter.def(node.inputs[at])?.inputs[0];
    let source = rewriter.get(source);
    let operand = build::transpose(&mut rewriter.new, &node.name, source, perm);
    flags[at] = !flags[at];
    let mut inputs = [rewriter.get(node.inputs[0]), rewriter.get(node.inputs[1])];
    inputs[at] = operand;
    build::matmul(&mut rewriter.new, &node.name, (inputs[0], flags[0]), (inputs[1], flags[1]))
}

/// A function of single elements comes before a transpose or reshape: next to what makes its operand, which
/// may compute it too.
pub(super) fn sink_movement(rewriter: &mut Rewriter, _: &ConstPool, node: &Node) -> Option<ValueId> {
    let at = match &node.op {
        Op::Unary(_) | Op::Cast { .. } => 0,
        Op::Binary(_) => {
            let scalar = |&id: &ValueId| rewriter.constant(id).is_some_and(|c| c.shape().rank() == 0);
            1 - node.inputs.iter().position(scalar)?
        }
        _ => return None,
    };
    let moved = rewriter.sole(node.inputs[at])?;
    if !matches!(moved.op, Op::Transpose { .. } | Op::Reshape) {
        return None;
    }
    let mut inputs: Vec<ValueId> = node.inputs.clone();
    inputs[at] = moved.inputs[0];
    let inner = rewriter.shape(moved.inputs[0]).clone();
    let inputs: Vec<ValueId> = inputs.into_iter().map(|id| rewriter.get(id)).collect();
    let output = rewriter.old.value(node.outputs[0]);
    let graph = &mut rewriter.new;
    let made = graph.add_node(&node.name, node.op.clone(), &inputs, output.dtype, inner);
    Some(graph.add_node(&moved.name, moved.op.clone(), &[made], output.dtype, output.shape.clone()))
}

/// A reshape that only adds or removes axes of extent 1 moves below operators of two operands, where it may
/// meet another one and vanish.
pub(super) fn sink_reshape(rewriter: &mut Rewriter, pool: &ConstPool, node: &Node) -> Option<ValueId> {
    let at = (0..node.inputs.len()).find(|&at| {
        let def = rewriter.sole(node.inputs[at]).filter(|def| def.op == Op::Reshape);
        def.is_some_and(|def| {
            same_without_units(rewriter.shape(def.inputs[0]), rewriter.shape(def.outputs[0]))
        })
    })?;
    let reshaped = rewriter.def(node.inputs[at])?;
    let inner = rewriter.shape(reshaped.inputs[0]).clone();
    let output = rewriter.old.value(node.outputs[0]);
    let Op::Binary(op) = node.op else { return None };
    if rewriter.shape(node.inputs[at]) != &output.shape {
        return None;
    }
    let other = follow(rewriter, pool, node.inputs[1 - at], node.inputs[at], &inner)?;
    let x = rewriter.get(reshaped.inputs[0]);
    let (a, b) = if at == 0 { (x, other) } else { (other, x) };
    let made = build::binary(&mut rewriter.new, &node.name, op, a, b)?;
    if rewriter.new.value(made).shape.elements() != output.shape.elements() {
        return None;
    }
    Some(build::reshape(&mut rewriter.new, &node.name, made, output.shape.clone()))
}

/// `other`, an operand beside `reshaped`, for use beside what that was before, of shape `inner`.
fn follow(
    rewriter: &mut Rewriter,
    pool: &ConstPool,
    other: ValueId,
    reshaped: ValueId,
    inner: &Shape,
) -> Option<ValueId> {
    let shape = rewriter.shape(other);
    if let Some(def) = rewriter.sole(other)
        && def.op == Op::Reshape
        && shape == rewriter.shape(reshaped)
        && rewriter.shape(def.inputs[0]) == inner
    {
        return Some(rewriter.get(def.inputs[0]));
    }
    let tensor = rewriter.constant(other)?;
    let outer = rewriter.shape(reshaped);
    // The constant's axes, padded to the outer rank, follow the non-unit axes of the other operand.
    let mut extents = vec![1; outer.rank() - shape.rank()];
    extents.extend(shape.iter().copied());
    let mut kept = outer.iter().zip(&extents).filter(|&(&extent, _)| extent != 1).map(|(_, &extent)| extent);
    let dims: Option<Shape> =
        inner.iter().map(|&extent| if extent == 1 { Some(1) } else { kept.next() }).collect();
    let dims = dims.filter(|dims| dims.elements() == shape.elements())?;
    let tensor = pool.reshaped(tensor, &dims);
    Some(rewriter.add_const("operand", tensor))
}

fn same_without_units(a: &Shape, b: &Shape) -> bool {
    let rest = |shape: &Shape| shape.iter().copied().filter(|&extent| extent != 1).collect::<Vec<_>>();
    rest(a) == rest(b)
}

/// Whether the operands may be swapped.
pub(super) fn commutes(op: Binary) -> bool {
    use Binary::*;
    matches!(op, Add | Mul | Max | Min | Equal | And | Or | Xor)
}
