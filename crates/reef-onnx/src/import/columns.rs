//! Convolutions whose weights are computed, or that go over other than one or two axes: all windows side by
//! side as columns, and a product of the weights and these. The transposed ones are a product, and the sums
//! of its windows.

use reef_graph::vision::Col2Im;
use reef_graph::{Binary, DType, Op, Shape, ValueId, Vision};

use super::attributes::Node;
use super::sides::sides;
use super::{Builder, Reject, wrong};
use crate::register::TransposedAxis;

/// Elements of a window: each is a part of the columns.
const TAPS_MAX: usize = 128;

/// Groups of a convolution of `x` by weights `[O, C/groups, …]`.
pub(super) fn channels_of(node: &Node, x: &Shape, weights: &Shape) -> Result<usize, Reject> {
    if x.rank() < 3 || weights.rank() != x.rank() {
        return wrong(format!("weights of shape {weights} for an input of shape {x}"));
    }
    let groups = node.int("group", 1);
    let groups = usize::try_from(groups).ok().filter(|&groups| groups > 0);
    let groups = groups.ok_or_else(|| Reject::Wrong(format!("group is {}", node.int("group", 1))))?;
    if groups.checked_mul(weights[1]) != Some(x[1]) || !weights[0].is_multiple_of(groups) {
        return wrong(format!("weights of shape {weights} in {groups} groups for an input of shape {x}"));
    }
    if let Some(kernel) = node.ints("kernel_shape")
        && !kernel.iter().map(|&extent| extent as usize).eq(weights[2..].iter().copied())
    {
        return wrong(format!("kernel_shape is {kernel:?}, and its weights have shape {weights}"));
    }
    Ok(groups)
}

/// Weights `[O, C/groups, …]` by columns `[N, C · elements of a window, windows]`: `[N, O, windows]`.
pub(super) fn product(
    b: &mut Builder,
    name: &str,
    (weights, groups): (ValueId, usize),
    columns: ValueId,
) -> Result<ValueId, Reject> {
    let (of, from) = (b.shape(weights), b.shape(columns));
    let (outputs, depth) = (of[0] / groups, from[1] / groups);
    let weights = b.reshape(name, weights, Shape::from([groups, outputs, depth]))?;
    let columns = b.reshape(name, columns, Shape::from([from[0], groups, depth, from[2]]))?;
    let made = b.matmul(name, (weights, false), (columns, false))?;
    b.reshape(name, made, Shape::from([from[0], of[0], from[2]]))
}

/// `x` and the bias, which is input `slot`, if there is one.
pub(super) fn plus_bias(b: &mut Builder, node: &Node, x: ValueId, slot: usize) -> Result<ValueId, Reject> {
    let Some(bias) = node.optional(slot) else { return Ok(x) };
    let shape = b.shape(x);
    if b.shape(bias)[..] != [shape[1]] {
        return wrong(format!("a bias of shape {} for {} channels", b.shape(bias), shape[1]));
    }
    let (bias, _) = b.computable(node.name(), bias)?;
    let mut dims = vec![1; shape.rank()];
    dims[1] = shape[1];
    let bias = b.reshape(node.name(), bias, dims.into())?;
    b.binary(node.name(), Binary::Add, x, bias)
}

/// A convolution with any weights over any number of axes.
pub(super) fn conv(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x, weights) = (node.name(), node.input(0)?, node.input(1)?);
    let (shape, of) = (b.shape(x), b.shape(weights));
    let groups = channels_of(node, &shape, &of)?;
    let axes = shape.rank() - 2;
    let sides = sides(node, &of[2..], &shape[2..])?;
    let taps: usize = of[2..].iter().product();
    if taps > TAPS_MAX || axes > 3 {
        return Err(Reject::Foreign(format!("windows of {taps} elements over {axes} axes")));
    }
    let (strides, steps) = (node.sizes("strides", axes, 1, 1)?, node.sizes("dilations", axes, 1, 1)?);
    let (mut x, back) = b.computable(name, x)?;
    let (weights, _) = b.computable(name, weights)?;
    if sides.iter().any(|side| side.before + side.after > 0) {
        let around = sides.iter().map(|side| (side.before, side.after));
        let pads: Vec<(usize, usize)> = [(0, 0); 2].into_iter().chain(around).collect();
        let padded: Shape = shape.iter().zip(&pads).map(|(&extent, &(a, z))| extent + a + z).collect();
        x = b.add(name, Op::Pad { pads, value: 0.0 }, &[x], DType::F32, padded)?;
    }
    let mut parts = vec![];
    for tap in 0..taps {
        let (mut part, mut rest) = (x, tap);
        for axis in (0..axes).rev() {
            let first = rest % of[2 + axis] * steps[axis];
            rest /= of[2 + axis];
            part = every(b, name, part, 2 + axis, (first, strides[axis], sides[axis].output))?;
        }
        let dims = b.shape(part);
        parts.push(b.reshape(name, part, [&dims[..2], &[1], &dims[2..]].concat().into())?);
    }
    let columns = b.concat(name, &parts, 2)?;
    let windows: usize = sides.iter().map(|side| side.output).product();
    let columns = b.reshape(name, columns, Shape::from([shape[0], shape[1] * taps, windows]))?;
    let made = product(b, name, (weights, groups), columns)?;
    let outputs = sides.iter().map(|side| side.output);
    let made = b.reshape(name, made, [shape[0], of[0]].into_iter().chain(outputs).collect())?;
    let made = plus_bias(b, node, made, 2)?;
    b.cast(name, made, back)
}

/// `count` elements of an axis from `first`, `step` apart.
fn every(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    axis: usize,
    (first, step, count): (usize, usize, usize),
) -> Result<ValueId, Reject> {
    let end = first + (count - 1) * step + 1;
    if step == 1 {
        return b.slice(name, x, axis, first..end);
    }
    let mut dims = b.shape(x).to_vec();
    dims[axis] = count;
    let op = Op::Slice { axis, begin: first, end: end as isize, step: step as isize };
    b.add(name, op, &[x], DType::F32, dims.into())
}

/// A transposed convolution with weights `[C, O/groups, …]`, whatever they are.
pub(super) fn conv_transpose(
    b: &mut Builder,
    node: &Node,
    groups: usize,
    axes: &[TransposedAxis],
) -> Result<ValueId, Reject> {
    let (name, x, weights) = (node.name(), node.input(0)?, node.input(1)?);
    let (shape, of) = (b.shape(x), b.shape(weights));
    let (x, back) = b.computable(name, x)?;
    let (weights, _) = b.computable(name, weights)?;
    let (inputs, outputs) = (shape[1] / groups, of[1]);
    let block = of[2..].to_vec();
    let (taps, windows) = (block.iter().product::<usize>(), shape[2..].iter().product::<usize>());
    let weights = b.reshape(name, weights, Shape::from([groups, inputs, outputs * taps]))?;
    let x = b.reshape(name, x, Shape::from([shape[0], groups, inputs, windows]))?;
    let columns = b.matmul(name, (weights, true), (x, false))?;
    let columns = b.reshape(name, columns, Shape::from([shape[0], groups * outputs * taps, windows]))?;
    let list = |of: fn(&TransposedAxis) -> usize| -> Vec<usize> { axes.iter().map(of).collect() };
    let fold = Col2Im {
        image: list(|axis| axis.output),
        block,
        windows: shape[2..].to_vec(),
        strides: list(|axis| axis.stride),
        dilations: list(|axis| axis.dilation),
        before: list(|axis| axis.before),
    };
    let made = b.vision(name, Vision::Col2Im(fold), &[columns])?;
    let made = plus_bias(b, node, made, 2)?;
    b.cast(name, made, back)
}
