//! Rules for scaling and shifting by channel. Arithmetic is in double precision, rounded once.

use reef_graph::{Binary, DType, Node, Op, Shape, Tensor, ValueId};

use crate::consts::{self, ConstPool};
use crate::rewrite::Rewriter;

/// `x·scale + shift`, where either may be left out.
struct Affine {
    x: ValueId,
    scale: Option<Tensor>,
    shift: Option<Tensor>,
}

/// `node` as an operator by channel of an operand `[N,C,…]`. Parameters have shape `[C]`.
fn affine(rewriter: &Rewriter, pool: &ConstPool, node: &Node) -> Option<Affine> {
    match node.op {
        Op::ScaleShift => {
            let scale = rewriter.constant(node.inputs[1])?.clone();
            let shift = rewriter.constant(node.inputs[2])?.clone();
            Some(Affine { x: node.inputs[0], scale: Some(scale), shift: Some(shift) })
        }
        Op::Binary(op @ (Binary::Add | Binary::Mul)) => {
            let (x, constant) = match (rewriter.constant(node.inputs[0]), rewriter.constant(node.inputs[1])) {
                (None, Some(constant)) => (node.inputs[0], constant),
                (Some(constant), None) => (node.inputs[1], constant),
                _ => return None,
            };
            let parameter = Some(by_channel(pool, constant, rewriter.shape(x))?);
            let (scale, shift) = if op == Binary::Mul { (parameter, None) } else { (None, parameter) };
            (rewriter.shape(x) == rewriter.shape(node.outputs[0])).then_some(Affine { x, scale, shift })
        }
        _ => None,
    }
}

/// A constant that broadcasts against `[N,C,…]` along the channels only, as `[C]`.
fn by_channel(pool: &ConstPool, constant: &Tensor, shape: &Shape) -> Option<Tensor> {
    let channels = *shape.get(1)?;
    if !matches!(constant.dtype(), DType::F32 | DType::F64) || shape.rank() < 3 {
        return None;
    }
    let own = constant.shape();
    if own.elements() == 1 {
        let value = consts::floats(constant)?[0];
        return Some(pool.folded(format!("spread {channels}"), &[constant], || {
            Tensor::from_slice(DType::F64, Shape::from([channels]), &vec![value; channels])
        }));
    }
    let axis = (own.rank() + 1).checked_sub(shape.rank())?;
    let by_channel = own.elements() == channels && own.get(axis) == Some(&channels);
    by_channel.then(|| pool.reshaped(constant, &Shape::from([channels])))
}

/// Scaling and shifting after a convolution is part of its weights and bias.
pub(super) fn into_conv(rewriter: &mut Rewriter, pool: &ConstPool, node: &Node) -> Option<ValueId> {
    let Affine { x, scale, shift } = affine(rewriter, pool, node)?;
    let conv = rewriter.sole(x).filter(|def| matches!(def.op, Op::Conv(_)))?;
    let weights = rewriter.constant(conv.inputs[1])?;
    let bias = conv.inputs.get(2).map(|&id| rewriter.constant(id));
    let bias = match bias {
        Some(None) => return None,
        Some(Some(bias)) => Some(bias),
        None => None,
    };
    let weights = match &scale {
        Some(scale) => pool.made("scale rows".into(), &[weights, scale], |of| scaled_rows(of[0], of[1])),
        None => weights.clone(),
    };
    let parts: Vec<&Tensor> = [bias, scale.as_ref(), shift.as_ref()].into_iter().flatten().collect();
    let what = format!("bias {} {} {}", bias.is_some(), scale.is_some(), shift.is_some());
    let needs_bias = bias.is_some() || shift.is_some();
    let bias = needs_bias.then(|| {
        pool.folded(what, &parts, || {
            let channels = weights.shape()[0];
            let of = |part: Option<&Tensor>, missing: f64| {
                part.map_or(vec![missing; channels], |part| {
                    consts::floats(part).expect("parameters are numbers")
                })
            };
            let (bias, scale, shift) = (of(bias, 0.0), of(scale.as_ref(), 1.0), of(shift.as_ref(), 0.0));
            let values: Vec<f64> = (0..channels).map(|c| bias[c] * scale[c] + shift[c]).collect();
            consts::rounded(Shape::from([channels]), &values)
        })
    });
    let mut inputs = vec![rewriter.get(conv.inputs[0])];
    inputs.push(rewriter.add_const(&format!("{}.weights", conv.name), weights));
    if let Some(bias) = bias {
        inputs.push(rewriter.add_const(&format!("{}.bias", conv.name), bias));
    }
    let shape = rewriter.shape(node.outputs[0]).clone();
    Some(rewriter.new.add_node(&conv.name, conv.op.clone(), &inputs, DType::F32, shape))
}

fn scaled_rows(weights: &Tensor, scale: &Tensor) -> Tensor {
    let scale = consts::floats(scale).expect("parameters are numbers");
    let values = weights.values::<f32>();
    let row = values.len() / scale.len().max(1);
    let scaled: Vec<f32> = values
        .chunks(row.max(1))
        .zip(&scale)
        .flat_map(|(row, factor)| row.iter().map(move |&value| (f64::from(value) * factor) as f32))
        .collect();
    Tensor::f32(weights.shape().clone(), &scaled)
}

/// A product and a sum by channel, or two of them, are one operator. A sum before a product is left alone:
/// what it takes away nearly all of would be lost to rounding.
pub(super) fn scale_shift(rewriter: &mut Rewriter, pool: &ConstPool, node: &Node) -> Option<ValueId> {
    let outer = affine(rewriter, pool, node)?;
    let inner = affine(rewriter, pool, rewriter.sole(outer.x)?)?;
    if (inner.scale.is_none() || outer.shift.is_none()) && outer.scale.is_none() == inner.scale.is_none() {
        return None;
    }
    if outer.scale.is_some() && inner.shift.is_some() {
        return None;
    }
    let shape = rewriter.shape(inner.x).clone();
    if outer.scale.is_none() && inner.shift.is_none() && is_uniform(&inner.scale) && is_uniform(&outer.shift)
    {
        return None;
    }
    let channels = shape[1];
    let of = |part: &Option<Tensor>, missing: f64| {
        part.as_ref()
            .map_or(vec![missing; channels], |part| consts::floats(part).expect("parameters are numbers"))
    };
    let (a, b) = (of(&inner.scale, 1.0), of(&inner.shift, 0.0));
    let (c, d) = (of(&outer.scale, 1.0), of(&outer.shift, 0.0));
    let scale: Vec<f64> = a.iter().zip(&c).map(|(a, c)| a * c).collect();
    let shift: Vec<f64> = (0..channels).map(|at| b[at] * c[at] + d[at]).collect();
    let x = rewriter.get(inner.x);
    let parameter = |values: &[f64]| Tensor::from_slice(DType::F64, Shape::from([channels]), values);
    let scale = rewriter.add_const(&format!("{}.scale", node.name), parameter(&scale));
    let shift = rewriter.add_const(&format!("{}.shift", node.name), parameter(&shift));
    Some(rewriter.new.add_node(&node.name, Op::ScaleShift, &[x, scale, shift], DType::F32, shape))
}

fn is_uniform(parameter: &Option<Tensor>) -> bool {
    parameter.as_ref().is_none_or(|tensor| consts::uniform(tensor).is_some())
}
