//! Operators that move elements.

use reef_graph::{DType, Op, Shape, Tensor as ReefTensor, ValueId, axis_index};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{DimLike, tensor0};
use tract_onnx::tract_core::ops::array::{
    Gather, MultiBroadcastTo, Pad, PadMode, Slice, Tile, Trilu, TypedConcat,
};
use tract_onnx::tract_core::ops::change_axes::{AxisOp, IntoShape};
use tract_onnx::tract_core::ops::downsample::Downsample;

use super::Reject;
use crate::build;
use crate::consts;
use crate::walk::Walk;

pub(super) fn axis_op(walk: &mut Walk, node: &TypedNode, op: &AxisOp) -> Result<ValueId, Reject> {
    let x = walk.value(node.inputs[0])?;
    let (_, shape) = walk.fact(OutletId::new(node.id, 0))?;
    let AxisOp::Move(from, to) = op else {
        return Ok(build::reshape(&mut walk.graph, &node.name, x, shape));
    };
    let mut perm: Vec<usize> = (0..shape.rank()).collect();
    let axis = perm.remove(*from);
    perm.insert(*to, axis);
    Ok(build::transpose(&mut walk.graph, &node.name, x, perm))
}

pub(super) fn into_shape(walk: &mut Walk, node: &TypedNode, op: &IntoShape) -> Result<ValueId, Reject> {
    let x = walk.value(node.inputs[0])?;
    let shape = Shape::new(&op.dims);
    let dense: Vec<isize> = shape.strides().iter().map(|&stride| stride as isize).collect();
    if dense[..] != op.strides[..] {
        return Err("its result is not dense".into());
    }
    Ok(build::reshape(&mut walk.graph, &node.name, x, shape))
}

pub(super) fn slice(walk: &mut Walk, node: &TypedNode, op: &Slice) -> Result<ValueId, Reject> {
    let x = walk.value(node.inputs[0])?;
    let bound = |dim: &TDim| dim.to_usize().map_err(|_| "its bounds depend on data".to_owned());
    let (begin, end) = (bound(&op.start)?, bound(&op.end)?);
    let extent = walk.graph.value(x).shape[op.axis];
    if begin > end || end > extent {
        return Err(format!("{begin}..{end} of {extent}"));
    }
    Ok(build::slice(&mut walk.graph, &node.name, x, op.axis, begin, end))
}

/// Every `stride`-th element along one axis.
pub(super) fn downsample(walk: &mut Walk, node: &TypedNode, op: &Downsample) -> Result<ValueId, Reject> {
    let x = walk.value(node.inputs[0])?;
    let (dtype, shape) = walk.fact(OutletId::new(node.id, 0))?;
    let extent = walk.graph.value(x).shape[op.axis];
    if extent == 0 {
        return Err("of nothing".into());
    }
    let (begin, end) = match op.stride {
        1.. => (op.modulo, extent as isize),
        _ => (extent.saturating_sub(1 + op.modulo), -1),
    };
    let slice = Op::Slice { axis: op.axis, begin, end, step: op.stride };
    Ok(walk.graph.add_node(&node.name, slice, &[x], dtype, shape))
}

pub(super) fn concat(walk: &mut Walk, node: &TypedNode, op: &TypedConcat) -> Result<ValueId, Reject> {
    let mut parts = vec![];
    for &input in &node.inputs {
        parts.push(walk.value(input)?);
    }
    let (dtype, shape) = walk.fact(OutletId::new(node.id, 0))?;
    if let Some(&part) = parts.iter().find(|&&part| walk.graph.value(part).dtype != dtype) {
        return Err(format!("a part of {}", walk.graph.value(part).dtype));
    }
    parts.retain(|&part| walk.graph.value(part).shape[op.axis] != 0);
    match parts[..] {
        [] => Err("of nothing".into()),
        [part] => Ok(part),
        _ => Ok(walk.graph.add_node(&node.name, Op::Concat { axis: op.axis }, &parts, dtype, shape)),
    }
}

pub(super) fn expand(walk: &mut Walk, node: &TypedNode, _: &MultiBroadcastTo) -> Result<ValueId, Reject> {
    let x = walk.value(node.inputs[0])?;
    let (dtype, shape) = walk.fact(OutletId::new(node.id, 0))?;
    if walk.graph.value(x).shape == shape {
        return Ok(x);
    }
    Ok(walk.graph.add_node(&node.name, Op::Expand, &[x], dtype, shape))
}

pub(super) fn gather(walk: &mut Walk, node: &TypedNode, op: &Gather) -> Result<ValueId, Reject> {
    let data = walk.value(node.inputs[0])?;
    let indices = walk.value(node.inputs[1])?;
    let (dtype, shape) = walk.fact(OutletId::new(node.id, 0))?;
    if walk.graph.value(data).dtype != dtype {
        return Err("of packed data".into());
    }
    if !matches!(walk.graph.value(indices).dtype, DType::I64 | DType::I32) {
        return Err(format!("indices of {}", walk.graph.value(indices).dtype));
    }
    let extent = walk.graph.value(data).shape[op.axis];
    let known = walk.graph.constant(indices).and_then(consts::integers);
    if known.is_some_and(|known| known.iter().any(|&index| axis_index(index, extent).is_none())) {
        // The host's form says which one.
        return Err("an index is outside of its axis".into());
    }
    if let Some(run) = run_of(walk, indices, extent) {
        let sliced = build::slice(&mut walk.graph, &node.name, data, op.axis, run.start, run.end);
        return Ok(build::reshape(&mut walk.graph, &node.name, sliced, shape));
    }
    Ok(walk.graph.add_node(&node.name, Op::Gather { axis: op.axis }, &[data, indices], dtype, shape))
}

/// The range that constant indices count through, if they do.
fn run_of(walk: &Walk, indices: ValueId, extent: usize) -> Option<std::ops::Range<usize>> {
    let values = consts::integers(walk.graph.constant(indices)?)?;
    let wrap = |value: i64| usize::try_from(if value < 0 { value + extent as i64 } else { value }).ok();
    let first = wrap(*values.first()?)?;
    let end = first.checked_add(values.len())?;
    let consecutive = values.iter().enumerate().all(|(at, &value)| wrap(value) == Some(first + at));
    (consecutive && end <= extent).then_some(first..end)
}

pub(super) fn pad(walk: &mut Walk, node: &TypedNode, op: &Pad) -> Result<ValueId, Reject> {
    let PadMode::Constant(value) = &op.mode else {
        return Err("padding that repeats the image".into());
    };
    let given = value;
    let value = given.cast_to_scalar::<f32>().map_err(|error| format!("{error:#}"))?;
    let kept = tensor0(value).cast_to_dt(given.datum_type()).is_ok_and(|kept| *kept == **given);
    if !kept && !value.is_nan() {
        return Err("its value is none of single precision".into());
    }
    let x = walk.value(node.inputs[0])?;
    let (dtype, shape) = walk.fact(OutletId::new(node.id, 0))?;
    let pad = Op::Pad { pads: op.pads.clone(), value };
    Ok(walk.graph.add_node(&node.name, pad, &[x], dtype, shape))
}

/// Repetition of the whole: new axes, broadcast, joined with their neighbours.
pub(super) fn tile(walk: &mut Walk, node: &TypedNode, op: &Tile) -> Result<ValueId, Reject> {
    let x = walk.value(node.inputs[0])?;
    let (dtype, shape) = walk.fact(OutletId::new(node.id, 0))?;
    let (mut apart, mut spread) = (vec![], vec![]);
    for (&extent, times) in walk.graph.value(x).shape.iter().zip(&op.multipliers) {
        let times = times.to_usize().map_err(|_| "its repetitions depend on data")?;
        if times != 1 {
            apart.push(1);
            spread.push(times);
        }
        apart.push(extent);
        spread.push(extent);
    }
    let x = build::reshape(&mut walk.graph, &node.name, x, apart.into());
    let x = walk.graph.add_node(&node.name, Op::Expand, &[x], dtype, spread.into());
    Ok(build::reshape(&mut walk.graph, &node.name, x, shape))
}

/// A triangle of the last two axes: elsewhere zero.
pub(super) fn trilu(walk: &mut Walk, node: &TypedNode, op: &Trilu) -> Result<ValueId, Reject> {
    let diagonal = walk.constant(node.inputs[1]).ok_or("its diagonal is computed")?;
    let diagonal = diagonal.cast_to_scalar::<i64>().map_err(|error| format!("{error:#}"))?;
    let x = walk.value(node.inputs[0])?;
    let (dtype, shape) = (walk.graph.value(x).dtype, walk.graph.value(x).shape.clone());
    if dtype == DType::F64 {
        return Err(format!("{dtype} is not computed natively"));
    }
    let [.., rows, columns] = shape[..] else { return Err("fewer than two axes".into()) };
    let mut kept = Vec::with_capacity(rows * columns);
    for row in 0..rows as i64 {
        for column in 0..columns as i64 {
            let bound = row.saturating_add(diagonal);
            let inside = if op.upper { column >= bound } else { column <= bound };
            kept.push(u8::from(inside));
        }
    }
    let mask = ReefTensor::from_slice(DType::Bool, Shape::from([rows, columns]), &kept);
    let mask = walk.graph.add_const(format!("{}.mask", node.name), mask);
    let zero = ReefTensor::new(dtype, Shape::default(), std::sync::Arc::new(zeroed(dtype.bytes())));
    let zero = walk.graph.add_const(format!("{}.zero", node.name), zero);
    Ok(walk.graph.add_node(&node.name, Op::Where, &[mask, x, zero], dtype, shape))
}

fn zeroed(bytes: usize) -> reef_base::AlignedBytes {
    reef_base::AlignedBytes::zeroed(bytes)
}
