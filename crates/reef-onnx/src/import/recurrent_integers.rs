//! `com.microsoft.DynamicQuantizeLSTM`: an LSTM whose weights are 8-bit integers, and whose input and states
//! become such as it runs.

use std::sync::Arc;

use reef_base::AlignedBytes;
use reef_graph::{Binary, DType, Op, RecurrentAttrs, Shape, Tensor, ValueId};

use super::attributes::Node;
use super::recurrent::{cell, clip, directions, whole_sequences};
use super::{Builder, Reading, Reject, quantized, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    (node.operator() == "com.microsoft.DynamicQuantizeLSTM").then(|| lstm(b, node))
}

/// Weights of one operand with their scales and zero points, a row of each for every direction.
struct Weights {
    /// `[directions, elements, gates · hidden]`.
    values: Tensor,
    /// `[directions · gates · hidden]`.
    scales: Vec<f32>,
    /// The same, of the type of the values.
    zeros: Vec<u8>,
}

/// Inputs: x, W, R, bias, lengths, initial h and c, peepholes; scale and zero point of W, then of R. The
/// input's part of all steps and directions is one product of integers: all of x has one scale.
fn lstm(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let shape = b.shape(x);
    let [steps, batch, width] = shape[..] else {
        return wrong(format!("its input is {shape}, not [steps, batch, elements]"));
    };
    if b.dtype(x) != DType::F32 || shape.elements() == 0 {
        return wrong(format!("{}{shape} is not quantised", b.dtype(x)));
    }
    if node.optional(4).is_some_and(|lengths| !whole_sequences(b, lengths, x, false)) {
        return Err("sequences that end early".into());
    }
    let directions = directions(node)?;
    let hidden = usize::try_from(node.int("hidden_size", 0)).unwrap_or(0);
    let (count, all) = (directions.len(), 4 * hidden);
    let w = weights(b, node, (1, 8), [count, width, all])?;
    let r = weights(b, node, (2, 10), [count, hidden, all])?;
    let sums = sums(b, node, x, &w, [count, width, all])?;
    let sums = b.reshape(name, sums, Shape::from([steps, batch, count * all]))?;
    let r_values = turned(&r.values, [count, hidden, all]);
    let dtype = r.values.dtype();
    let mut operands = vec![
        sums,
        b.constant("", r_values),
        b.constant("", Tensor::f32([count, all], &r.scales)),
        b.constant("", bytes(dtype, Shape::from([count, all]), &r.zeros)),
    ];
    let [bias, initial_h, initial_c, peepholes] = [3, 5, 6, 7].map(|at| node.optional(at));
    if bias.is_some_and(|bias| b.known(bias).is_none()) {
        return Err("its bias is computed".into());
    }
    operands.extend([bias, initial_h, initial_c, peepholes].into_iter().flatten());
    let attrs = RecurrentAttrs {
        cell: cell(node)?,
        directions,
        hidden,
        clip: clip(node)?,
        bias: bias.is_some(),
        lengths: false,
        initial_h: initial_h.is_some(),
        initial_c: initial_c.is_some(),
        peepholes: peepholes.is_some(),
        integers: true,
    };
    let facts: Vec<(DType, Shape)> = operands.iter().map(|&id| (b.dtype(id), b.shape(id))).collect();
    let outputs = attrs.outputs(&facts).map_err(Reject::Wrong)?;
    for (_, shape) in &outputs {
        super::graph::fitting(shape)?;
    }
    Ok(b.graph.add_node_multi(name, Op::Recurrent(attrs), &operands, outputs))
}

/// What comes from the input: `[steps, batch, directions · gates · hidden]`.
fn sums(
    b: &mut Builder,
    node: &Node,
    x: ValueId,
    w: &Weights,
    [count, width, all]: [usize; 3],
) -> Result<ValueId, Reject> {
    let (name, dtype) = (node.name(), w.values.dtype());
    let [x, scale, zero] = reef_graph::dynamic_quantize(&mut b.graph, name, x);
    // The directions side by side.
    let values = b.constant("", beside(&w.values, [count, width, all]));
    let zeros = b.constant("", bytes(dtype, Shape::from([count * all]), &w.zeros));
    let sum = quantized::product(b, name, [x, values], [Some(zero), Some(zeros)])?;
    let scales = b.constant("", Tensor::f32([count * all], &w.scales));
    let scale = b.binary(name, Binary::Mul, scale, scales)?;
    let sum = b.cast(name, sum, DType::F32)?;
    b.binary(name, Binary::Mul, sum, scale)
}

/// Constant weights of shape `dims`, with a scale and a zero point for each direction or for each of its
/// columns.
fn weights(
    b: &Builder,
    node: &Node,
    (at, factors): (usize, usize),
    dims: [usize; 3],
) -> Result<Weights, Reject> {
    let constant = |at: usize| {
        b.known(node.input(at)?).cloned().ok_or_else(|| Reject::Foreign("its weights are computed".into()))
    };
    let (values, scales, zeros) = (constant(at)?, constant(factors)?, constant(factors + 1)?);
    let dtype = values.dtype();
    if !matches!(dtype, DType::U8 | DType::I8) || values.shape()[..] != dims || values.shape().elements() == 0
    {
        let wanted = Shape::from(dims);
        return wrong(format!("weights are {dtype}{}, not 8-bit integers {wanted}", values.shape()));
    }
    let [count, _, all] = dims;
    let fits = |tensor: &Tensor, dtype: DType| {
        let shape = &tensor.shape()[..];
        tensor.dtype() == dtype && (*shape == [count] || *shape == [count, all])
    };
    if !fits(&scales, DType::F32) || !fits(&zeros, dtype) {
        let of = |tensor: &Tensor| format!("{}{}", tensor.dtype(), tensor.shape());
        return wrong(format!("{dtype} weights with scales {} and zero points {}", of(&scales), of(&zeros)));
    }
    let place = |tensor: &Tensor, at: usize| if tensor.shape().rank() == 1 { at / all } else { at };
    Ok(Weights {
        scales: (0..count * all).map(|at| scales.values::<f32>()[place(&scales, at)]).collect(),
        zeros: (0..count * all).map(|at| zeros.bytes().as_slice()[place(&zeros, at)]).collect(),
        values,
    })
}

fn bytes(dtype: DType, shape: Shape, values: &[u8]) -> Tensor {
    Tensor::new(dtype, shape, Arc::new(AlignedBytes::copy_from(values)))
}

/// Weights `[directions, elements, columns]` as `[elements, directions · columns]`.
fn beside(weights: &Tensor, [count, depth, columns]: [usize; 3]) -> Tensor {
    let row = |direction: usize, k: usize| {
        &weights.bytes().as_slice()[(direction * depth + k) * columns..][..columns]
    };
    let made: Vec<u8> =
        (0..depth).flat_map(|k| (0..count).flat_map(move |direction| row(direction, k))).copied().collect();
    bytes(weights.dtype(), Shape::from([depth, count * columns]), &made)
}

/// Weights `[directions, elements, columns]` as `[directions, columns, elements]`.
fn turned(weights: &Tensor, [count, depth, columns]: [usize; 3]) -> Tensor {
    let from = weights.bytes().as_slice();
    let mut made = Vec::with_capacity(from.len());
    for direction in from.chunks_exact(depth * columns) {
        for column in 0..columns {
            made.extend((0..depth).map(|k| direction[k * columns + column]));
        }
    }
    bytes(weights.dtype(), Shape::from([count, columns, depth]), &made)
}
