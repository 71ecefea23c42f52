//! Rules that find activation functions in their parts.

use reef_graph::{Binary, DType, Node, Op, Shape, Unary, ValueId};

use super::movement::commutes;
use crate::build;
use crate::consts::ConstPool;
use crate::rewrite::Rewriter;

/// How far a constant may be from the one that a formula has, relatively.
const CLOSE: f64 = 1e-5;

fn close(value: f64, wanted: f64) -> bool {
    (value - wanted).abs() <= CLOSE * wanted.abs()
}

/// The operand that `what` accepts, with what it makes of it, and before it the other operand.
pub(super) fn either<T>(node: &Node, what: impl Fn(ValueId) -> Option<T>) -> Option<(ValueId, T)> {
    let [a, b] = node.inputs[..] else { return None };
    what(b).map(|found| (a, found)).or_else(|| what(a).map(|found| (b, found)))
}

/// The node of a binary operator that makes `id`.
fn binary_def<'a>(rewriter: &Rewriter<'a>, id: ValueId, op: Binary) -> Option<&'a Node> {
    rewriter.def(id).filter(|def| def.op == Op::Binary(op))
}

fn unary_def(rewriter: &Rewriter, id: ValueId, op: Unary) -> Option<ValueId> {
    rewriter.def(id).filter(|def| def.op == Op::Unary(op)).map(|def| def.inputs[0])
}

fn replaced(rewriter: &mut Rewriter, node: &Node, op: Unary, x: ValueId) -> Option<ValueId> {
    if rewriter.shape(x) != rewriter.shape(node.outputs[0]) || rewriter.dtype(x) != DType::F32 {
        return None;
    }
    let x = rewriter.get(x);
    Some(build::unary(&mut rewriter.new, &node.name, op, x))
}

/// What is squared by `node`, in any of the ways to write it.
pub(super) fn square_of(rewriter: &Rewriter, node: &Node) -> Option<ValueId> {
    match node.op {
        Op::Unary(Unary::Square) => Some(node.inputs[0]),
        Op::Binary(Binary::Mul) if node.inputs[0] == node.inputs[1] => Some(node.inputs[0]),
        Op::Binary(Binary::Pow) if rewriter.uniform(node.inputs[1]) == Some(2.0) => Some(node.inputs[0]),
        _ => None,
    }
}

/// Constants come second; they are subtracted as sums, and divided by as products where that is exact (a
/// quotient that is a whole number must stay one); powers with known exponents, and neutral operands.
pub(super) fn canonical(rewriter: &mut Rewriter, pool: &ConstPool, node: &Node) -> Option<ValueId> {
    let Op::Binary(op) = node.op else { return None };
    let [a, b] = node.inputs[..] else { return None };
    if commutes(op) && rewriter.constant(a).is_some() && rewriter.constant(b).is_none() {
        let (a, b) = (rewriter.get(a), rewriter.get(b));
        return build::binary(&mut rewriter.new, &node.name, op, b, a);
    }
    if rewriter.dtype(a) != DType::F32 {
        return None;
    }
    if let Some(x) = square_of(rewriter, node) {
        return replaced(rewriter, node, Unary::Square, x);
    }
    if op == Binary::Div && rewriter.uniform(a) == Some(1.0) {
        return replaced(rewriter, node, Unary::Recip, b);
    }
    let constant = rewriter.constant(b)?;
    let value = rewriter.uniform(b);
    match (op, value) {
        (Binary::Mul | Binary::Div | Binary::Pow, Some(1.0)) | (Binary::Add | Binary::Sub, Some(0.0)) => {
            let same = rewriter.shape(a) == rewriter.shape(node.outputs[0]);
            same.then(|| rewriter.get(a))
        }
        (Binary::Pow, Some(0.5)) => replaced(rewriter, node, Unary::Sqrt, a),
        (Binary::Pow, Some(-0.5)) => replaced(rewriter, node, Unary::Rsqrt, a),
        (Binary::Pow, Some(-1.0)) => replaced(rewriter, node, Unary::Recip, a),
        (Binary::Sub | Binary::Div, _) => {
            let (what, other): (&str, fn(f64) -> f64) =
                if op == Binary::Sub { ("negated", |v| -v) } else { ("inverted", |v| 1.0 / v) };
            let values: Vec<f64> = crate::consts::floats(constant)?.into_iter().map(other).collect();
            let exact = |value: f64| op == Binary::Sub || value == 0.0 || is_power_of_two(value);
            if !values.iter().all(|&value| value == 0.0 || (value as f32).is_normal() && exact(value)) {
                return None;
            }
            let shape = constant.shape().clone();
            let tensor = pool.folded(what.into(), &[constant], || crate::consts::rounded(shape, &values));
            let (a, b) = (rewriter.get(a), rewriter.add_const(&node.name, tensor));
            let op = if op == Binary::Sub { Binary::Add } else { Binary::Mul };
            build::binary(&mut rewriter.new, &node.name, op, a, b)
        }
        _ => None,
    }
}

/// Whether products with `value` change nothing but the exponent.
fn is_power_of_two(value: f64) -> bool {
    value.is_normal() && value.to_bits() << 12 == 0
}

/// `inner` and `factor` of a product with a number, or of a quotient.
fn scaled(rewriter: &Rewriter, id: ValueId) -> Option<(ValueId, f64)> {
    let def = rewriter.def(id)?;
    match def.op {
        Op::Binary(Binary::Mul) => either(def, |id| rewriter.uniform(id)),
        Op::Binary(Binary::Div) => Some((def.inputs[0], 1.0 / rewriter.uniform(def.inputs[1])?)),
        _ => None,
    }
}

/// Constants of element-wise operators have no leading axes of extent 1: broadcasting does not need them.
pub(super) fn slim_constant(rewriter: &mut Rewriter, pool: &ConstPool, node: &Node) -> Option<ValueId> {
    let Op::Binary(op) = node.op else { return None };
    let at = node
        .inputs
        .iter()
        .position(|&id| rewriter.constant(id).is_some_and(|tensor| tensor.shape().first() == Some(&1)))?;
    let tensor = rewriter.constant(node.inputs[at])?;
    let other = node.inputs[1 - at];
    if rewriter.shape(other).rank() < tensor.shape().rank() {
        return None;
    }
    let dims: Shape = tensor.shape().iter().copied().skip_while(|&extent| extent == 1).collect();
    let slim = pool.reshaped(tensor, &dims);
    let slim = rewriter.add_const(&rewriter.old.value(node.inputs[at]).name.clone(), slim);
    let other = rewriter.get(other);
    let (a, b) = if at == 0 { (slim, other) } else { (other, slim) };
    build::binary(&mut rewriter.new, &node.name, op, a, b)
}

/// Bounds of a clipping operator, and what it clips.
fn bounds(rewriter: &Rewriter, node: &Node) -> Option<(ValueId, f64, f64)> {
    match node.op {
        Op::Binary(Binary::Max) => {
            let (x, low) = either(node, |id| rewriter.uniform(id))?;
            Some((x, low, f64::INFINITY))
        }
        Op::Binary(Binary::Min) => {
            let (x, high) = either(node, |id| rewriter.uniform(id))?;
            Some((x, f64::NEG_INFINITY, high))
        }
        Op::Unary(Unary::Relu) => Some((node.inputs[0], 0.0, f64::INFINITY)),
        Op::Unary(Unary::Clip(low, high)) => Some((node.inputs[0], f64::from(low), f64::from(high))),
        _ => None,
    }
}

/// Maxima and minima with constants are Relu and Clip; two of them are one.
pub(super) fn clip(rewriter: &mut Rewriter, _: &ConstPool, node: &Node) -> Option<ValueId> {
    let (x, low, high) = bounds(rewriter, node)?;
    let already = matches!(node.op, Op::Unary(_));
    let inner = rewriter.sole(x).and_then(|def| bounds(rewriter, def));
    let (x, low, high) = match inner {
        // min(max(x, low), high) of the bounds in order is what Clip computes; others are left apart.
        Some((x, inner_low, inner_high)) => (x, inner_low.max(low).min(high), inner_high.min(high).max(low)),
        None if already && !(low == 0.0 && high == f64::INFINITY && node.op != Op::Unary(Unary::Relu)) => {
            return None;
        }
        None => (x, low, high),
    };
    let op = match (low, high) {
        (0.0, f64::INFINITY) => Unary::Relu,
        _ => Unary::Clip(low as f32, high as f32),
    };
    replaced(rewriter, node, op, x)
}

/// `x = inner·scale + shift` with numbers for scale and shift.
fn line(rewriter: &Rewriter, x: ValueId) -> (ValueId, f64, f64) {
    let sum = binary_def(rewriter, x, Binary::Add).and_then(|def| either(def, |id| rewriter.uniform(id)));
    let (x, shift) = sum.unwrap_or((x, 0.0));
    let (x, scale) = scaled(rewriter, x).unwrap_or((x, 1.0));
    (x, scale, shift)
}

/// `clip(x·a + b, 0, 1)` and `clip(x·a + b, 0, 1/c)·c` are HardSigmoid; its product with x may be HardSwish.
pub(super) fn hard(rewriter: &mut Rewriter, _: &ConstPool, node: &Node) -> Option<ValueId> {
    if let Some(x) = hard_swish(rewriter, node) {
        return replaced(rewriter, node, Unary::HardSwish, x);
    }
    let (clipped, factor) = match node.op {
        Op::Unary(Unary::Clip(..)) => (node, 1.0),
        Op::Binary(Binary::Mul | Binary::Div) => {
            let (x, factor) = scaled(rewriter, node.outputs[0])?;
            (rewriter.def(x)?, factor)
        }
        _ => return None,
    };
    let Op::Unary(Unary::Clip(low, high)) = clipped.op else { return None };
    let (x, scale, shift) = line(rewriter, clipped.inputs[0]);
    if low != 0.0 || !close(f64::from(high) * factor, 1.0) || x == clipped.inputs[0] {
        return None;
    }
    let op = Unary::HardSigmoid((scale * factor) as f32, (shift * factor) as f32);
    replaced(rewriter, node, op, x)
}

fn hard_swish(rewriter: &Rewriter, node: &Node) -> Option<ValueId> {
    let gate = |id: ValueId| match rewriter.def(id)?.op {
        Op::Unary(Unary::HardSigmoid(a, b)) if close(a.into(), 1.0 / 6.0) && close(b.into(), 0.5) => {
            Some(rewriter.def(id)?.inputs[0])
        }
        _ => None,
    };
    if !matches!(node.op, Op::Binary(Binary::Mul | Binary::Div)) {
        return None;
    }
    if node.op == Op::Binary(Binary::Mul)
        && let Some((x, gated)) = either(node, gate)
    {
        return (x == gated).then_some(x);
    }
    // x·clip(x + 3, 0, 6), divided by 6 afterwards.
    let (product, sixth) = scaled(rewriter, node.outputs[0])?;
    let product = binary_def(rewriter, product, Binary::Mul)?;
    let wide_gate = |id: ValueId| match rewriter.def(id)?.op {
        Op::Unary(Unary::Clip(0.0, 6.0)) => Some(line(rewriter, rewriter.def(id)?.inputs[0])),
        _ => None,
    };
    let (x, (gated, scale, shift)) = either(product, wide_gate)?;
    (x == gated && scale == 1.0 && shift == 3.0 && close(sixth, 1.0 / 6.0)).then_some(x)
}

/// `x·sigmoid(x)`.
pub(super) fn silu(rewriter: &mut Rewriter, _: &ConstPool, node: &Node) -> Option<ValueId> {
    if node.op != Op::Binary(Binary::Mul) {
        return None;
    }
    let (x, gated) = either(node, |id| unary_def(rewriter, id, Unary::Sigmoid))?;
    if x != gated {
        return None;
    }
    replaced(rewriter, node, Unary::Silu, x)
}

/// The factors of a product of products: numbers multiplied, values listed.
fn factors(rewriter: &Rewriter, node: &Node) -> (f64, Vec<ValueId>) {
    const DEPTH_MAX: usize = 3;
    let (mut number, mut values) = (1.0, vec![]);
    let mut open: Vec<(ValueId, usize)> = vec![(node.outputs[0], 0)];
    while let Some((id, depth)) = open.pop() {
        let quotient = binary_def(rewriter, id, Binary::Div).and(scaled(rewriter, id));
        let product = binary_def(rewriter, id, Binary::Mul).filter(|_| depth < DEPTH_MAX);
        match (rewriter.uniform(id), quotient, product) {
            (Some(value), ..) => number *= value,
            (None, Some((inner, factor)), _) if depth < DEPTH_MAX => {
                number *= factor;
                open.push((inner, depth + 1));
            }
            (None, _, Some(def)) => open.extend(def.inputs.iter().map(|&id| (id, depth + 1))),
            (None, _, None) => values.push(id),
        }
    }
    (number, values)
}

/// `x` and `f` of `½·x·(1 + f(…))`, in any order and association.
fn gated(rewriter: &Rewriter, node: &Node, unary: Unary) -> Option<(ValueId, ValueId)> {
    if !matches!(node.op, Op::Binary(Binary::Mul | Binary::Div)) {
        return None;
    }
    let (number, values) = factors(rewriter, node);
    let [a, b] = values[..] else { return None };
    let gate = |id: ValueId, x: ValueId| {
        let sum = binary_def(rewriter, id, Binary::Add)?;
        let (inner, one) = either(sum, |id| rewriter.uniform(id))?;
        // (1 + f)·½ may have been distributed: ½·f + ½.
        let (value, scale) = match unary_def(rewriter, inner, unary) {
            Some(value) => (value, 1.0),
            None => {
                let product = binary_def(rewriter, inner, Binary::Mul)?;
                let (inner, scale) = either(product, |id| rewriter.uniform(id))?;
                (unary_def(rewriter, inner, unary)?, scale)
            }
        };
        (close(one, scale) && close(number * scale, 0.5)).then_some((x, value))
    };
    gate(a, b).or_else(|| gate(b, a))
}

/// `½·x·(1 + erf(x/√2))`.
pub(super) fn gelu(rewriter: &mut Rewriter, _: &ConstPool, node: &Node) -> Option<ValueId> {
    let (x, inner) = gated(rewriter, node, Unary::Erf)?;
    let (source, scale, shift) = line(rewriter, inner);
    if source != x || shift != 0.0 || !close(scale, std::f64::consts::FRAC_1_SQRT_2) {
        return None;
    }
    replaced(rewriter, node, Unary::Gelu, x)
}

/// `½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
pub(super) fn gelu_tanh(rewriter: &mut Rewriter, _: &ConstPool, node: &Node) -> Option<ValueId> {
    let (x, inner) = gated(rewriter, node, Unary::Tanh)?;
    let (sum, scale, shift) = line(rewriter, inner);
    let sum = binary_def(rewriter, sum, Binary::Add)?;
    let cubic = |id: ValueId| {
        let product = binary_def(rewriter, id, Binary::Mul)?;
        let (number, values) = factors(rewriter, product);
        let degree: Option<usize> = values.iter().map(|&value| power_of(rewriter, value, x)).sum();
        (close(number, 0.044_715) && degree == Some(3)).then_some(())
    };
    let (source, ()) = either(sum, cubic)?;
    let slope = (2.0 / std::f64::consts::PI).sqrt();
    if source != x || shift != 0.0 || !close(scale, slope) {
        return None;
    }
    replaced(rewriter, node, Unary::GeluTanh, x)
}

/// Which power of `x` the value is.
fn power_of(rewriter: &Rewriter, value: ValueId, x: ValueId) -> Option<usize> {
    if value == x {
        return Some(1);
    }
    let def = rewriter.def(value)?;
    if square_of(rewriter, def) == Some(x) {
        return Some(2);
    }
    let cube = def.op == Op::Binary(Binary::Pow)
        && def.inputs[0] == x
        && rewriter.uniform(def.inputs[1]) == Some(3.0);
    cube.then_some(3)
}

/// `ln(1 + eˣ)`, which overflows in parts.
pub(super) fn softplus(rewriter: &mut Rewriter, _: &ConstPool, node: &Node) -> Option<ValueId> {
    if node.op != Op::Unary(Unary::Log) {
        return None;
    }
    let sum = binary_def(rewriter, node.inputs[0], Binary::Add)?;
    let (power, one) = either(sum, |id| rewriter.uniform(id))?;
    let x = unary_def(rewriter, power, Unary::Exp)?;
    if one != 1.0 {
        return None;
    }
    replaced(rewriter, node, Unary::Softplus, x)
}

/// `x > 0 ? x : alpha·(eˣ − 1)`.
pub(super) fn elu(rewriter: &mut Rewriter, _: &ConstPool, node: &Node) -> Option<ValueId> {
    if node.op != Op::Where {
        return None;
    }
    let [condition, x, negative] = node.inputs[..] else { return None };
    let test = rewriter.def(condition)?;
    let positive = match test.op {
        Op::Binary(Binary::Less) => test.inputs[1] == x && rewriter.uniform(test.inputs[0]) == Some(0.0),
        Op::Binary(Binary::Greater) => test.inputs[0] == x && rewriter.uniform(test.inputs[1]) == Some(0.0),
        _ => false,
    };
    let product = binary_def(rewriter, negative, Binary::Mul);
    let (curve, alpha) =
        product.and_then(|def| either(def, |id| rewriter.uniform(id))).unwrap_or((negative, 1.0));
    let (power, shift) = either(binary_def(rewriter, curve, Binary::Add)?, |id| rewriter.uniform(id))?;
    if !positive || shift != -1.0 || unary_def(rewriter, power, Unary::Exp) != Some(x) {
        return None;
    }
    replaced(rewriter, node, Unary::Elu(alpha as f32), x)
}
