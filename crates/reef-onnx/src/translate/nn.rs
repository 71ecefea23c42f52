//! Reductions, normalisations and resizing.

use reef_graph::{Binary, DType, Op, Reduce, Shape, Tensor, Unary, ValueId};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::nn::{self as tract_nn, Reducer, RmsNorm, Softmax, SoftmaxKind};

use super::{Reject, computable};
use crate::build;
use crate::walk::Walk;

pub(super) fn reduce(walk: &mut Walk, node: &TypedNode, op: &tract_nn::Reduce) -> Result<ValueId, Reject> {
    let x = walk.value(node.inputs[0])?;
    let graph = &mut walk.graph;
    let (x, back) = computable(graph, &node.name, x)?;
    let mut axes: Vec<usize> = op.axes.to_vec();
    axes.sort_unstable();
    axes.dedup();
    let of = |reduce| Ok((reduce, None));
    let (kind, divisor): (Reduce, Option<usize>) = match op.reducer {
        Reducer::Sum => of(Reduce::Sum),
        Reducer::Max => of(Reduce::Max),
        Reducer::Min => of(Reduce::Min),
        Reducer::Prod => of(Reduce::Prod),
        Reducer::MeanOfSquares => {
            Ok((Reduce::Mean, Some(axes.iter().map(|&axis| graph.value(x).shape[axis]).product())))
        }
        other => Err(format!("no native form of {other:?}")),
    }?;
    let x = if divisor.is_some() { build::unary(graph, &node.name, Unary::Square, x) } else { x };
    let made = build::reduce(graph, &node.name, kind, axes, x);
    Ok(build::cast(graph, &node.name, made, back))
}

pub(super) fn softmax(walk: &mut Walk, node: &TypedNode, op: &Softmax) -> Result<ValueId, Reject> {
    let x = walk.value(node.inputs[0])?;
    let graph = &mut walk.graph;
    let (x, back) = computable(graph, &node.name, x)?;
    let mut axes: Vec<usize> = op.axes.to_vec();
    axes.sort_unstable();
    let (Some(&first), Some(&last)) = (axes.first(), axes.last()) else {
        return Err("no axis to normalise".into());
    };
    if last - first + 1 != axes.len() {
        return Err(format!("over the separate axes {axes:?}"));
    }
    let shape = graph.value(x).shape.clone();
    let joined: Shape = shape[..first]
        .iter()
        .copied()
        .chain([shape[first..=last].iter().product()])
        .chain(shape[last + 1..].iter().copied())
        .collect();
    let flat = build::reshape(graph, &node.name, x, joined.clone());
    let op = match op.kind {
        SoftmaxKind::Softmax => Op::Softmax { axis: first },
        SoftmaxKind::LogSoftmax => Op::LogSoftmax { axis: first },
    };
    let made = graph.add_node(&node.name, op, &[flat], DType::F32, joined);
    let made = build::reshape(graph, &node.name, made, shape);
    Ok(build::cast(graph, &node.name, made, back))
}

/// `x / √(mean(x²) + ε)`, from primitives; the passes find a layer norm in it where there is one.
pub(super) fn rms_norm(walk: &mut Walk, node: &TypedNode, op: &RmsNorm) -> Result<ValueId, Reject> {
    let x = walk.value(node.inputs[0])?;
    let epsilon = op.eps.cast_to_scalar::<f32>().map_err(|error| format!("{error:#}"))?;
    let (graph, name) = (&mut walk.graph, &node.name);
    let (x, back) = computable(graph, name, x)?;
    let square = build::unary(graph, name, Unary::Square, x);
    let mean = build::reduce(graph, name, Reduce::Mean, vec![op.axis], square);
    let epsilon = graph.add_const(format!("{name}.epsilon"), Tensor::scalar_f32(epsilon));
    let sum = build::binary(graph, name, Binary::Add, mean, epsilon).ok_or("no mean")?;
    let factor = build::unary(graph, name, Unary::Rsqrt, sum);
    let made = build::binary(graph, name, Binary::Mul, x, factor).ok_or("no mean")?;
    Ok(build::cast(graph, name, made, back))
}

/// Every element repeated by whole factors: new axes, broadcast, joined with their neighbours.
pub(super) fn nearest_upsample(
    walk: &mut Walk,
    node: &TypedNode,
    op: &tract_nn::resize::NearestUpsample,
) -> Result<ValueId, Reject> {
    let x = walk.value(node.inputs[0])?;
    let (graph, name) = (&mut walk.graph, &node.name);
    let (dtype, shape) = (graph.value(x).dtype, graph.value(x).shape.clone());
    if op.scales.len() != shape.rank() {
        return Err(format!("{} factors for {} axes", op.scales.len(), shape.rank()));
    }
    let (mut apart, mut spread, mut joined) = (vec![], vec![], vec![]);
    for (&extent, &scale) in shape.iter().zip(&op.scales) {
        apart.push(extent);
        spread.push(extent);
        if scale != 1 {
            apart.push(1);
            spread.push(scale);
        }
        joined.push(extent * scale);
    }
    let x = build::reshape(graph, name, x, apart.into());
    let x = graph.add_node(name, Op::Expand, &[x], dtype, spread.into());
    Ok(build::reshape(graph, name, x, joined.into()))
}
