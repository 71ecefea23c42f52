//! Operators that sum, pool or normalise.

use crate::{ConvAttrs, PackedWeights, PoolAttrs, PoolKind, Reduce, Shape, Taps, Tensor};

use super::{Grid, flatten, indices};
use crate::scalar::{Element, larger, smaller};

/// Where tap `tap` of output position `out` falls in an image of `extent`, if inside.
pub(super) fn position(
    out: usize,
    tap: usize,
    stride: usize,
    dilation: usize,
    pad: usize,
    extent: usize,
) -> Option<usize> {
    (out * stride + tap * dilation).checked_sub(pad).filter(|&at| at < extent)
}

pub(super) fn conv(attrs: &ConvAttrs, grids: &[Grid], shape: &Shape) -> Vec<Element> {
    let (x, weights) = (&grids[0], &grids[1]);
    let (inputs, outputs) = (weights.dims[1], weights.dims[0] / attrs.groups);
    let output = |index: Vec<usize>| {
        let (n, o) = (index[0], index[1]);
        let mut sum = grids.get(2).map_or(0.0, |bias| bias.at(&[o]).float());
        for tap in indices(&attrs.kernel) {
            let at = |axis: usize| {
                let extent = x.dims[2 + axis];
                let (stride, dilation) = (attrs.strides[axis], attrs.dilations[axis]);
                position(index[2 + axis], tap[axis], stride, dilation, attrs.pads[axis], extent)
            };
            let (Some(h), Some(w)) = (at(0), at(1)) else { continue };
            for i in 0..inputs {
                let value = x.at(&[n, o / outputs * inputs + i, h, w]).float();
                sum += value * weights.at(&[o, i, tap[0], tap[1]]).float();
            }
        }
        Element::Float(sum)
    };
    indices(shape).map(output).collect()
}

pub(super) fn matmul(grids: &[Grid], trans_a: bool, trans_b: bool, shape: &Shape) -> Vec<Element> {
    let (a, b) = (&grids[0], &grids[1]);
    let rank = shape.rank();
    let depth = a.dims[a.dims.len() - if trans_a { 2 } else { 1 }];
    let output = |index: Vec<usize>| {
        let (m, n) = (index[rank - 2], index[rank - 1]);
        let mut at = index.clone();
        let mut sum = 0.0;
        for k in 0..depth {
            (at[rank - 2], at[rank - 1]) = if trans_a { (k, m) } else { (m, k) };
            let left = a.broadcast_at(&at).float();
            (at[rank - 2], at[rank - 1]) = if trans_b { (n, k) } else { (k, n) };
            sum += left * b.broadcast_at(&at).float();
        }
        Element::Float(sum)
    };
    indices(shape).map(output).collect()
}

pub(super) fn packed(
    weights: PackedWeights,
    inputs: &[&Tensor],
    grids: &[Grid],
    shape: &Shape,
) -> Vec<Element> {
    let (x, depth) = (&grids[0], grids[0].dims[1]);
    let bytes = weights.row_bytes(depth);
    let output = |index: Vec<usize>| {
        let row = &inputs[1].bytes().as_slice()[index[1] * bytes..][..bytes];
        let term = |at: usize| {
            let block = [index[1], at / weights.block];
            let shift = grids.get(3).map_or(0.0, |shifts| shifts.at(&block).float());
            let number = f64::from(weights.element(row, at)) * grids[2].at(&block).float() - shift;
            x.at(&[index[0], at]).float() * number
        };
        Element::Float((0..depth).map(term).sum())
    };
    indices(shape).map(output).collect()
}

pub(super) fn pool(attrs: &PoolAttrs, x: &Grid, shape: &Shape) -> Vec<Element> {
    let output = |index: Vec<usize>| {
        let (mut sum, mut largest, mut inside, mut padded) = (0.0, f64::NEG_INFINITY, 0usize, 0usize);
        for tap in indices(&attrs.kernel) {
            let raw = |axis: usize| index[2 + axis] * attrs.strides[axis] + tap[axis] * attrs.dilations[axis];
            let reach = |axis: usize| x.dims[2 + axis] + attrs.pads[axis] + attrs.pads[2 + axis];
            if raw(0) >= reach(0) || raw(1) >= reach(1) {
                continue;
            }
            padded += 1;
            let at = |axis: usize| raw(axis).checked_sub(attrs.pads[axis]).filter(|&i| i < x.dims[2 + axis]);
            let (Some(h), Some(w)) = (at(0), at(1)) else { continue };
            let value = x.at(&[index[0], index[1], h, w]).float();
            sum += value;
            largest = larger(largest, value);
            inside += 1;
        }
        Element::Float(match attrs.kind {
            PoolKind::Max => largest,
            PoolKind::AvgExcludePad => sum / inside as f64,
            PoolKind::AvgIncludePad => sum / padded as f64,
        })
    };
    indices(shape).map(output).collect()
}

pub(super) fn reduce(reduce: Reduce, axes: &[usize], x: &Grid) -> Vec<Element> {
    let kept: Vec<usize> =
        x.dims.iter().enumerate().map(|(axis, &dim)| if axes.contains(&axis) { 1 } else { dim }).collect();
    let count = axes.iter().map(|&axis| x.dims[axis]).product::<usize>() as f64;
    let start = match reduce {
        Reduce::Sum | Reduce::Mean | Reduce::SumSquare => 0.0,
        Reduce::Prod => 1.0,
        Reduce::Max => f64::NEG_INFINITY,
        Reduce::Min => f64::INFINITY,
    };
    let mut result = vec![start; kept.iter().product()];
    for (mut index, element) in indices(&x.dims).zip(&x.elements) {
        axes.iter().for_each(|&axis| index[axis] = 0);
        let (slot, value) = (&mut result[flatten(&kept, &index)], element.float());
        *slot = match reduce {
            Reduce::Sum | Reduce::Mean => *slot + value,
            Reduce::SumSquare => *slot + value * value,
            Reduce::Prod => *slot * value,
            Reduce::Max => larger(*slot, value),
            Reduce::Min => smaller(*slot, value),
        };
    }
    let scale = if reduce == Reduce::Mean { count } else { 1.0 };
    result.into_iter().map(|value| Element::Float(value / scale)).collect()
}

/// The same of integers.
pub(super) fn fold(reduce: Reduce, axes: &[usize], x: &Grid) -> Vec<Element> {
    let kept: Vec<usize> =
        x.dims.iter().enumerate().map(|(axis, &dim)| if axes.contains(&axis) { 1 } else { dim }).collect();
    let mut rows = vec![vec![]; kept.iter().product()];
    for (mut index, &element) in indices(&x.dims).zip(&x.elements) {
        axes.iter().for_each(|&axis| index[axis] = 0);
        rows[flatten(&kept, &index)].push(element);
    }
    rows.iter().map(|row| super::along::fold(reduce, x.dtype, row)).collect()
}

pub(super) fn softmax(x: &Grid, axis: usize, log: bool) -> Vec<Element> {
    let along = |index: &[usize]| -> Vec<f64> {
        let mut index = index.to_vec();
        (0..x.dims[axis])
            .map(|at| {
                index[axis] = at;
                x.at(&index).float()
            })
            .collect()
    };
    let output = |index: Vec<usize>| {
        let line = along(&index);
        let largest = line.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = line.iter().map(|value| (value - largest).exp()).sum();
        let shifted = line[index[axis]] - largest;
        Element::Float(if log { shifted - sum.ln() } else { shifted.exp() / sum })
    };
    indices(&x.dims).map(output).collect()
}

pub(super) fn layer_norm(grids: &[Grid], axis: usize, epsilon: f64) -> Vec<Element> {
    let x = &grids[0];
    let len: usize = x.dims[axis..].iter().product();
    let mut result = Vec::with_capacity(x.elements.len());
    for row in x.elements.chunks_exact(len.max(1)) {
        let mean = row.iter().map(|e| e.float()).sum::<f64>() / len as f64;
        let variance = row.iter().map(|e| (e.float() - mean).powi(2)).sum::<f64>() / len as f64;
        for (i, element) in row.iter().enumerate() {
            let scaled =
                (element.float() - mean) / (variance + epsilon).sqrt() * grids[1].elements[i].float();
            result.push(Element::Float(scaled + grids.get(2).map_or(0.0, |shift| shift.elements[i].float())));
        }
    }
    result
}

pub(super) fn resample(taps: &Taps, axis: usize, x: &Grid, shape: &Shape) -> Result<Vec<Element>, String> {
    if x.dims[axis] != taps.extent() || shape[axis] != taps.outputs() {
        return Err(format!("resamples axis {axis} of {} to {}", x.dims[axis], shape[axis]));
    }
    let sum = |index: Vec<usize>| {
        let (from, weights) = taps.of(index[axis]);
        let mut sum = 0.0;
        for (&from, &weight) in from.iter().zip(weights) {
            let mut place = index.clone();
            let value = match usize::try_from(from) {
                Ok(from) => {
                    place[axis] = from;
                    x.at(&place).float()
                }
                Err(_) => f64::from(taps.outside()),
            };
            sum += f64::from(weight) * value;
        }
        Element::Float(sum)
    };
    Ok(indices(shape).map(sum).collect())
}
