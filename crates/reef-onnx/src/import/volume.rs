//! Pools over volumes: over the last two axes, and what comes out over the first.

use reef_graph::{Binary, DType, Op, PoolAttrs, PoolKind, Shape, ValueId};

use super::attributes::Node;
use super::relative::{powers, root};
use super::sides::{Side, sides};
use super::{Builder, Reject};

/// `x` of three spatial axes in windows of these extents.
pub(super) fn pool(b: &mut Builder, node: &Node, x: ValueId, kernel: &[usize]) -> Result<ValueId, Reject> {
    let name = node.name();
    let mut dims = b.shape(x).to_vec();
    let mut sides = sides(node, kernel, &dims[2..])?;
    let (mut x, back) = b.computable(name, x)?;
    let norm = (node.operator() == "LpPool").then(|| node.int("p", 2));
    if let Some(p) = norm {
        x = powers(b, name, x, p)?;
    }
    let kind = match node.operator() {
        // A sum by its mean: zeros that are padded with add nothing.
        "LpPool" => PoolKind::AvgIncludePad,
        operator if operator.ends_with("MaxPool") => PoolKind::Max,
        _ => PoolKind::AvgExcludePad,
    };
    if node.operator().ends_with("AveragePool") && node.flag("count_include_pad") {
        // Declared padding counts, what rounding up adds does not: make the former part of the image.
        let around = sides.iter().map(|side| (side.before, side.after));
        let pads: Vec<(usize, usize)> = [(0, 0); 2].into_iter().chain(around).collect();
        dims.iter_mut().zip(&pads).for_each(|(extent, pad)| *extent += pad.0 + pad.1);
        x = b.add(name, Op::Pad { pads, value: 0.0 }, &[x], DType::F32, dims.clone().into())?;
        sides.iter_mut().for_each(|side| (side.before, side.after) = (0, 0));
    }
    let (strides, steps) = (node.sizes("strides", 3, 1, 1)?, node.sizes("dilations", 3, 1, 1)?);
    let attrs = |axes: [Option<usize>; 2]| {
        let of = |list: &[usize], axis: Option<usize>| axis.map_or(1, |axis| list[axis]);
        let pad = |axis: Option<usize>, of: fn(&Side) -> usize| axis.map_or(0, |axis| of(&sides[axis]));
        let end = |axis: Option<usize>| pad(axis, |side| side.after + side.extra);
        let begin = |axis: Option<usize>| pad(axis, |side| side.before);
        PoolAttrs {
            kind,
            kernel: axes.map(|axis| of(kernel, axis)),
            strides: axes.map(|axis| of(&strides, axis)),
            pads: [begin(axes[0]), begin(axes[1]), end(axes[0]), end(axes[1])],
            dilations: axes.map(|axis| of(&steps, axis)),
        }
    };
    let [batch, channels, depth] = [dims[0], dims[1], dims[2]];
    let [deep, tall, wide] = [sides[0].output, sides[1].output, sides[2].output];
    x = b.reshape(name, x, Shape::from([batch, channels * depth, dims[3], dims[4]]))?;
    let planes = Shape::from([batch, channels * depth, tall, wide]);
    x = b.add(name, Op::Pool(attrs([Some(1), Some(2)])), &[x], DType::F32, planes)?;
    x = b.reshape(name, x, Shape::from([batch, channels, depth, tall * wide]))?;
    let lines = Shape::from([batch, channels, deep, tall * wide]);
    x = b.add(name, Op::Pool(attrs([Some(0), None])), &[x], DType::F32, lines)?;
    x = b.reshape(name, x, Shape::from([batch, channels, deep, tall, wide]))?;
    if let Some(p) = norm {
        let count = b.scalar(DType::F32, kernel.iter().product::<usize>() as f64);
        let sum = b.binary(name, Binary::Mul, x, count)?;
        x = root(b, name, sum, p)?;
    }
    b.cast(name, x, back)
}
