//! Sums of products of integers, and the ways from numbers to integers and back. Everything here is exact: it
//! has one result, which whoever computes it must meet bit by bit.

use crate::scalar::{Element, wrap};
use crate::{ConvAttrs, DType, Quantization, Shape, Tensor, ZeroPoints};

use super::sums::position;
use super::{Grid, indices};

fn facts(inputs: &[&Tensor]) -> Vec<(DType, Shape)> {
    inputs.iter().map(|tensor| (tensor.dtype(), tensor.shape().clone())).collect()
}

/// A zero point for `index`; those with one element are for all.
fn zero(grids: &[Grid], at: Option<usize>, index: &[usize]) -> i64 {
    at.map_or(0, |at| match &grids[at].elements[..] {
        [one] => one.int(),
        _ => grids[at].broadcast_at(index).int(),
    })
}

fn check(to: DType, flaw: Option<String>) -> Result<(), String> {
    match flaw {
        Some(flaw) => Err(flaw),
        None if to != DType::I32 => Err(format!("makes i32, not {to}")),
        None => Ok(()),
    }
}

pub(super) fn product(
    zeros: ZeroPoints,
    inputs: &[&Tensor],
    grids: &[Grid],
    (to, shape): (DType, &Shape),
) -> Result<Vec<Element>, String> {
    check(to, zeros.flaw_of_product(&facts(inputs)))?;
    let (a, b) = (&grids[0], &grids[1]);
    let [left, right] = zeros.places();
    let (rank, depth) = (shape.rank(), a.dims[a.dims.len() - 1]);
    let output = |index: Vec<usize>| {
        let (m, n) = (index[rank - 2], index[rank - 1]);
        let mut at = index;
        let (za, zb) = (zero(grids, left, &at), zero(grids, right, &at));
        let mut sum = 0;
        for k in 0..depth {
            (at[rank - 2], at[rank - 1]) = (m, k);
            let factor = a.broadcast_at(&at).int() - za;
            (at[rank - 2], at[rank - 1]) = (k, n);
            sum += factor * (b.broadcast_at(&at).int() - zb);
        }
        Element::Int(wrap(sum, DType::I32))
    };
    Ok(indices(shape).map(output).collect())
}

pub(super) fn conv(
    attrs: &ConvAttrs,
    zeros: ZeroPoints,
    inputs: &[&Tensor],
    grids: &[Grid],
    (to, shape): (DType, &Shape),
) -> Result<Vec<Element>, String> {
    check(to, zeros.flaw_of_conv(&facts(inputs), attrs.groups))?;
    let (x, weights) = (&grids[0], &grids[1]);
    let [left, right] = zeros.places();
    let (channels, outputs) = (weights.dims[1], weights.dims[0] / attrs.groups);
    let output = |index: Vec<usize>| {
        let (n, o) = (index[0], index[1]);
        let (zx, zw) = (zero(grids, left, &[o]), zero(grids, right, &[o]));
        let mut sum = 0;
        for tap in indices(&attrs.kernel) {
            let at = |axis: usize| {
                let (stride, dilation) = (attrs.strides[axis], attrs.dilations[axis]);
                let (pad, extent) = (attrs.pads[axis], x.dims[2 + axis]);
                position(index[2 + axis], tap[axis], stride, dilation, pad, extent)
            };
            let (Some(h), Some(w)) = (at(0), at(1)) else { continue };
            for i in 0..channels {
                let factor = x.at(&[n, o / outputs * channels + i, h, w]).int() - zx;
                sum += factor * (weights.at(&[o, i, tap[0], tap[1]]).int() - zw);
            }
        }
        Element::Int(wrap(sum, DType::I32))
    };
    Ok(indices(shape).map(output).collect())
}

/// The element of the scales or zero points that belongs to `index` of x.
fn own(how: &Quantization, scales: &Grid, index: &[usize]) -> Element {
    match (scales.elements.len(), how.block) {
        (1, 0) => scales.elements[0],
        (_, 0) => scales.at(&index[how.axis..=how.axis]),
        (_, block) => {
            let mut at = index.to_vec();
            at[how.axis] /= block;
            scales.at(&at)
        }
    }
}

pub(super) fn quantize(
    how: &Quantization,
    inputs: &[&Tensor],
    grids: &[Grid],
    to: DType,
) -> Result<Vec<Element>, String> {
    if let Some(flaw) = how.flaw_of_quantize(&facts(inputs), to) {
        return Err(flaw);
    }
    let (low, high) = how.range(to).expect("checked");
    let made = indices(&grids[0].dims).zip(&grids[0].elements).map(|(index, x)| {
        let scaled = x.float() as f32 / own(how, &grids[1], &index).float() as f32;
        let zero = grids.get(2).map_or(0, |zeros| own(how, zeros, &index).int());
        Element::Int(i64::from(saturated(scaled, zero as i32, low, high)))
    });
    Ok(made.collect())
}

/// `value` rounded half to even, moved by `zero`, and kept within `low` and `high`; what is no number is
/// `low`.
pub(super) fn saturated(value: f32, zero: i32, low: i32, high: i32) -> i32 {
    if value.is_nan() {
        return low;
    }
    (f64::from(value.round_ties_even()) + f64::from(zero)).clamp(f64::from(low), f64::from(high)) as i32
}

pub(super) fn dequantize(
    how: &Quantization,
    inputs: &[&Tensor],
    grids: &[Grid],
    to: DType,
) -> Result<Vec<Element>, String> {
    if let Some(flaw) = how.flaw_of_dequantize(&facts(inputs), to) {
        return Err(flaw);
    }
    let made = indices(&grids[0].dims).zip(&grids[0].elements).map(|(index, x)| {
        let zero = grids.get(2).map_or(0, |zeros| own(how, zeros, &index).int());
        let steps = wrap(x.int() - zero, DType::I32) as f32;
        Element::Float(f64::from(steps * own(how, &grids[1], &index).float() as f32))
    });
    Ok(made.collect())
}

#[cfg(test)]
mod tests {
    use super::super::apply;
    use super::*;
    use crate::graph::Graph;
    use crate::{Op, ValueKind, dynamic_quantize};

    fn bytes(dtype: DType, shape: &[usize], values: &[u8]) -> Tensor {
        Tensor::from_slice(dtype, Shape::new(shape), values)
    }

    #[test]
    fn zero_points_move_both_factors() {
        let a = bytes(DType::U8, &[2, 3], &[0, 128, 255, 1, 2, 3]);
        let b = bytes(DType::I8, &[3, 2], &[-128i8 as u8, 1, 127, 2, 0, 3]);
        let zeros = ZeroPoints { left: true, right: true };
        let (za, zb) = (bytes(DType::U8, &[2, 1], &[255, 0]), bytes(DType::I8, &[2], &[-128i8 as u8, 127]));
        let made = apply(&Op::MatMulInteger(zeros), &[&a, &b, &za, &zb], DType::I32, &Shape::from([2, 2]));
        // Row 0: −255·0 − 127·255 + 0·128, and −255·−126 − 127·−125 + 0·−124.
        assert_eq!(made.unwrap().values::<i32>(), [-32385, 48005, 894, -748]);
        let shape = Shape::from([2, 2]);
        assert!(apply(&Op::MatMulInteger(zeros), &[&a, &b], DType::I32, &shape).is_err());
        let none = Op::MatMulInteger(ZeroPoints::default());
        assert!(apply(&none, &[&a, &b], DType::F32, &shape).is_err());
    }

    #[test]
    fn padding_counts_as_the_zero_point() {
        let attrs =
            ConvAttrs { kernel: [1, 3], strides: [1, 1], pads: [0, 1, 0, 1], dilations: [1, 1], groups: 1 };
        let x = bytes(DType::U8, &[1, 1, 1, 2], &[10, 20]);
        let w = bytes(DType::I8, &[1, 1, 1, 3], &[1, 2, 3]);
        let zero = bytes(DType::U8, &[], &[5]);
        let op = Op::ConvInteger(attrs, ZeroPoints { left: true, right: false });
        let made = apply(&op, &[&x, &w, &zero], DType::I32, &Shape::from([1, 1, 1, 2])).unwrap();
        assert_eq!(made.values::<i32>(), [5 * 2 + 15 * 3, 5 + 15 * 2]);
    }

    #[test]
    fn ties_go_to_the_even_and_what_does_not_fit_is_the_nearest_that_does() {
        let x = Tensor::f32([8], &[0.5, 1.5, -0.5, -1.5, 1e9, -1e9, f32::NAN, f32::INFINITY]);
        let (scale, zero) = (Tensor::scalar_f32(1.0), bytes(DType::I8, &[], &[1]));
        let quantised = |bits, dtype, operands: &[&Tensor]| {
            let op = Op::Quantize(Quantization::by_tensor(bits));
            apply(&op, operands, dtype, &Shape::from([8])).unwrap()
        };
        let made = quantised(8, DType::I8, &[&x, &scale, &zero]);
        assert_eq!(made.values::<i8>(), [1, 3, 1, -1, 127, -128, -128, 127]);
        let made = quantised(4, DType::I8, &[&x, &scale]);
        assert_eq!(made.values::<i8>(), [0, 2, 0, -2, 7, -8, -8, 7]);
        assert_eq!(quantised(8, DType::U8, &[&x, &scale]).values::<u8>(), [0, 2, 0, 0, 255, 0, 0, 255]);
    }

    #[test]
    fn blocks_share_a_scale_and_the_last_one_may_be_short() {
        let x = bytes(DType::U8, &[2, 5], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let scales = Tensor::f32([2, 3], &[1.0, 10.0, 100.0, 2.0, 20.0, 200.0]);
        let zeros = bytes(DType::U8, &[2, 3], &[0, 1, 0, 0, 0, 10]);
        let op = Op::Dequantize(Quantization { axis: 1, block: 2, bits: 8 });
        let made = apply(&op, &[&x, &scales, &zeros], DType::F32, &Shape::from([2, 5])).unwrap();
        let expected = [0.0, 1.0, 10.0, 20.0, 400.0, 10.0, 12.0, 140.0, 160.0, -200.0];
        assert_eq!(made.values::<f32>(), expected);
    }

    /// The values of a graph that has constants for inputs.
    fn folded(graph: &mut Graph) {
        for index in 0..graph.nodes.len() {
            let node = &graph.nodes[index];
            let operands: Vec<&Tensor> =
                node.inputs.iter().map(|&id| graph.constant(id).expect("made before")).collect();
            let output = graph.value(node.outputs[0]);
            let made = apply(&node.op, &operands, output.dtype, &output.shape).unwrap();
            let id = node.outputs[0];
            graph.values[id.index()].kind = ValueKind::Const(made);
        }
    }

    #[test]
    fn dynamic_quantisation_is_that_of_onnx() {
        // Examples of ONNX's documentation of the operator, then of what its formula says of edges.
        let cases: [(&[f32], f32, u8, &[u8]); 4] = [
            (&[0.0, 2.0, -3.0, -2.5, 1.34, 0.5], 0.019607844, 153, &[153, 255, 0, 26, 221, 179]),
            (&[-1.0, -2.1, -1.3, -2.5, -3.34, -4.0], 0.015686275, 255, &[191, 121, 172, 96, 42, 0]),
            (&[1.0, 2.1, 1.3, 2.5, 3.34, 4.0], 0.015686275, 0, &[64, 134, 83, 159, 213, 255]),
            (&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 1.0, 0, &[0; 6]),
        ];
        for (x, scale, zero, expected) in cases {
            for shape in [&[6][..], &[2, 3], &[1, 3, 2]] {
                let mut graph = Graph::default();
                let x = graph.add_const("x", Tensor::f32(Shape::new(shape), x));
                let [y, made_scale, made_zero] = dynamic_quantize(&mut graph, "q", x);
                assert_eq!(graph.validate(), Ok(()));
                folded(&mut graph);
                assert_eq!(graph.constant(made_scale).unwrap().values::<f32>(), [scale]);
                assert_eq!(graph.constant(made_zero).unwrap().values::<u8>(), [zero]);
                assert_eq!(graph.constant(y).unwrap().values::<u8>(), expected);
            }
        }
    }
}
