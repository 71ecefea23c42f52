//! Rules that find means and layer norms.

use reef_graph::{Binary, DType, Node, Op, Reduce, Shape, Tensor, Unary, ValueId};

use super::activation::{either, square_of};
use crate::build;
use crate::consts::{self, ConstPool};
use crate::rewrite::Rewriter;

/// A sum divided by the number of its terms is a mean.
pub(super) fn mean(rewriter: &mut Rewriter, _: &ConstPool, node: &Node) -> Option<ValueId> {
    let (sum, factor) = match node.op {
        Op::Binary(Binary::Mul) => either(node, |id| rewriter.uniform(id))?,
        Op::Binary(Binary::Div) => (node.inputs[0], 1.0 / rewriter.uniform(node.inputs[1])?),
        _ => return None,
    };
    let (folded, reshaped) = match rewriter.def(sum)? {
        def if def.op == Op::Reshape => (rewriter.def(def.inputs[0])?, true),
        def => (def, false),
    };
    let Op::Reduce { reduce: Reduce::Sum, axes, keep_dims: true } = &folded.op else { return None };
    let count: usize = axes.iter().map(|&axis| rewriter.shape(folded.inputs[0])[axis]).product();
    let output = rewriter.shape(node.outputs[0]);
    if (factor * count as f64 - 1.0).abs() > 1e-6 || output.elements() != rewriter.shape(sum).elements() {
        return None;
    }
    let x = rewriter.get(folded.inputs[0]);
    let made = build::reduce(&mut rewriter.new, &node.name, Reduce::Mean, axes.clone(), x);
    if !reshaped && rewriter.new.value(made).shape != *output {
        return None;
    }
    Some(build::reshape(&mut rewriter.new, &node.name, made, output.clone()))
}

/// A centred operand divided by its standard deviation over the last axes is a layer norm, for now without
/// scale.
pub(super) fn layer_norm(rewriter: &mut Rewriter, _: &ConstPool, node: &Node) -> Option<ValueId> {
    let (centred, variance) = normalised(rewriter, node)?;
    let difference = rewriter.def(centred).filter(|def| def.op == Op::Binary(Binary::Sub))?;
    let (x, average) = (difference.inputs[0], rewriter.def(difference.inputs[1])?);
    let (source, axes) = mean_of(average)?;
    let sum = rewriter.def(variance).filter(|def| def.op == Op::Binary(Binary::Add))?;
    let (spread, epsilon) = either(sum, |id| rewriter.uniform(id))?;
    let (squares, same_axes) = mean_of(rewriter.def(spread)?)?;
    let squared = square_of(rewriter, rewriter.def(squares)?)?;
    let shape = rewriter.shape(x).clone();
    let axis = *axes.first()?;
    let trailing = axes.iter().copied().eq(axis..shape.rank());
    if source != x || squared != centred || same_axes != axes || !trailing {
        return None;
    }
    let parameters = Shape::new(&shape[axis..]);
    let ones = Tensor::f32(parameters.clone(), &vec![1.0; parameters.elements()]);
    let x = rewriter.get(x);
    let ones = rewriter.add_const(&format!("{}.scale", node.name), ones);
    let op = Op::LayerNorm { axis, epsilon: epsilon as f32 };
    Some(rewriter.new.add_node(&node.name, op, &[x, ones], DType::F32, shape))
}

/// Operand and variance of `x / √v`, `x · (1/√v)` and the like.
fn normalised(rewriter: &Rewriter, node: &Node) -> Option<(ValueId, ValueId)> {
    let root = |id: ValueId, unary: Unary| {
        rewriter.def(id).filter(|def| def.op == Op::Unary(unary)).map(|def| def.inputs[0])
    };
    match node.op {
        Op::Binary(Binary::Div) => Some((node.inputs[0], root(node.inputs[1], Unary::Sqrt)?)),
        Op::Binary(Binary::Mul) => either(node, |id| root(id, Unary::Rsqrt)),
        _ => None,
    }
}

fn mean_of(node: &Node) -> Option<(ValueId, &[usize])> {
    match &node.op {
        Op::Reduce { reduce: Reduce::Mean, axes, keep_dims: true } => Some((node.inputs[0], axes)),
        _ => None,
    }
}

/// A product or sum after a layer norm is its scale or shift.
pub(super) fn layer_norm_affine(rewriter: &mut Rewriter, pool: &ConstPool, node: &Node) -> Option<ValueId> {
    let Op::Binary(op @ (Binary::Mul | Binary::Add)) = node.op else { return None };
    let (normal, constant) = either(node, |id| rewriter.constant(id))?;
    let norm = rewriter.sole(normal)?;
    let Op::LayerNorm { axis, .. } = norm.op else { return None };
    let parameters = Shape::new(&rewriter.shape(normal)[axis..]);
    let tensor = as_parameter(pool, constant, &parameters)?;
    let mut inputs = vec![rewriter.get(norm.inputs[0])];
    match (op, norm.inputs.len()) {
        (Binary::Mul, 2) if rewriter.uniform(norm.inputs[1]) == Some(1.0) => {
            inputs.push(rewriter.add_const(&format!("{}.scale", norm.name), tensor));
        }
        (Binary::Add, 2) => {
            inputs.push(rewriter.get(norm.inputs[1]));
            inputs.push(rewriter.add_const(&format!("{}.shift", norm.name), tensor));
        }
        _ => return None,
    }
    let shape = rewriter.shape(node.outputs[0]).clone();
    Some(rewriter.new.add_node(&norm.name, norm.op.clone(), &inputs, DType::F32, shape))
}

/// `constant` in the shape of the normalised axes, if it broadcasts over them alone.
fn as_parameter(pool: &ConstPool, constant: &Tensor, parameters: &Shape) -> Option<Tensor> {
    let shape = constant.shape();
    if shape.elements() == parameters.elements() {
        let rest: Vec<usize> = shape.iter().copied().skip_while(|&extent| extent == 1).collect();
        let wanted: Vec<usize> = parameters.iter().copied().skip_while(|&extent| extent == 1).collect();
        return (rest == wanted).then(|| pool.reshaped(constant, parameters));
    }
    let value = consts::uniform(constant).filter(|_| shape.elements() == 1)?;
    Some(consts::rounded(parameters.clone(), &vec![value; parameters.elements()]))
}
