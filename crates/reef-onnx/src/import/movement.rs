//! Operators that move elements and compute nothing.

use reef_graph::{DType, Op, Shape, Tensor, ValueId, axis_index};

use super::attributes::{Node, axes_of, axis_of};
use super::{Builder, Reading, Reject, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let made = match node.operator() {
        "Reshape" => reshape(b, node),
        "Flatten" => flatten(b, node),
        "Squeeze" => squeeze(b, node),
        "Unsqueeze" => unsqueeze(b, node),
        "Transpose" => transpose(b, node),
        "Expand" => expand(b, node),
        "Tile" => tile(b, node),
        "Concat" => concat(b, node),
        "Slice" => slice(b, node),
        "Split" => return Some(split(b, node)),
        "Gather" => gather(b, node),
        "Pad" => pad(b, node),
        "DepthToSpace" => depth_to_space(b, node),
        "SpaceToDepth" => space_to_depth(b, node),
        "Trilu" => trilu(b, node),
        _ => return None,
    };
    Some(made.map(|value| vec![value]))
}

fn reshape(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (x, wanted) = (node.input(0)?, b.integers(node.input(1)?, "shape")?);
    let from = b.shape(x);
    let keeps_zero = node.flag("allowzero");
    let mut dims = vec![];
    let mut open = None;
    for (axis, &extent) in wanted.iter().enumerate() {
        dims.push(match extent {
            0 if keeps_zero => 0,
            0 => match from.get(axis) {
                Some(&extent) => extent,
                None => return wrong(format!("shape {wanted:?} copies axis {axis}, which {from} lacks")),
            },
            -1 if open.is_none() => {
                open = Some(axis);
                1
            }
            1.. => extent as usize,
            _ => return wrong(format!("shape {wanted:?} is not one")),
        });
    }
    if let Some(axis) = open {
        let rest = super::graph::fitting(&dims.clone().into())?;
        if rest == 0 || !from.elements().is_multiple_of(rest) {
            return wrong(format!("the elements of shape {from} do not fill {wanted:?}"));
        }
        dims[axis] = from.elements() / rest;
    }
    b.reshape(node.name(), x, dims.into())
}

fn flatten(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let x = node.input(0)?;
    let (shape, axis) = (b.shape(x), node.int("axis", 1));
    // The axis may be one past the last.
    let axis = if axis == shape.rank() as i64 { shape.rank() } else { axis_of(axis, shape.rank())? };
    let dims = [shape[..axis].iter().product(), shape[axis..].iter().product()];
    b.reshape(node.name(), x, Shape::from(dims))
}

/// Axes that are an attribute in old operator sets and an input since.
fn listed_axes(b: &Builder, node: &Node) -> Result<Option<Vec<i64>>, Reject> {
    if node.opset < 13 {
        return Ok(node.ints("axes").map(<[i64]>::to_vec));
    }
    node.optional(1).map(|axes| b.integers(axes, "axes")).transpose()
}

fn squeeze(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let x = node.input(0)?;
    let shape = b.shape(x);
    let axes = match listed_axes(b, node)? {
        Some(axes) => axes_of(&axes, shape.rank())?,
        None => (0..shape.rank()).filter(|&axis| shape[axis] == 1).collect(),
    };
    if let Some(&axis) = axes.iter().find(|&&axis| shape[axis] != 1) {
        return wrong(format!("axis {axis} has extent {}, not 1", shape[axis]));
    }
    let rest = (0..shape.rank()).filter(|axis| !axes.contains(axis)).map(|axis| shape[axis]).collect();
    b.reshape(node.name(), x, rest)
}

fn unsqueeze(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let x = node.input(0)?;
    let shape = b.shape(x);
    let axes = listed_axes(b, node)?.ok_or_else(|| Reject::Wrong("its axes are missing".into()))?;
    let axes = axes_of(&axes, shape.rank() + axes.len())?;
    let mut dims = shape.to_vec();
    axes.iter().for_each(|&axis| dims.insert(axis, 1));
    b.reshape(node.name(), x, dims.into())
}

fn transpose(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let x = node.input(0)?;
    let rank = b.rank(x);
    let perm = match node.ints("perm") {
        Some(perm) => perm.iter().map(|&axis| axis_of(axis, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).rev().collect(),
    };
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..rank) {
        return wrong(format!("perm {perm:?} is not a permutation of {rank} axes"));
    }
    b.transpose(node.name(), x, perm)
}

/// Extents that are not negative.
fn extents(given: &[i64], what: &str) -> Result<Vec<usize>, Reject> {
    let extents: Option<Vec<usize>> = given.iter().map(|&extent| usize::try_from(extent).ok()).collect();
    extents.ok_or_else(|| Reject::Wrong(format!("{what} {given:?} has negative entries")))
}

fn expand(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (x, wanted) = (node.input(0)?, b.integers(node.input(1)?, "shape")?);
    let wanted = Shape::from(extents(&wanted, "shape")?);
    let from = b.shape(x);
    let Some(shape) = from.broadcast(&wanted) else {
        return wrong(format!("shape {from} does not broadcast to {wanted}"));
    };
    b.expand(node.name(), x, shape)
}

/// Repetition of the whole: new axes, broadcast, joined with their neighbours.
fn tile(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (x, repeats) = (node.input(0)?, b.integers(node.input(1)?, "repeats")?);
    let (shape, repeats) = (b.shape(x), extents(&repeats, "repeats")?);
    if repeats.len() != shape.rank() {
        return wrong(format!("{} repeats for {} axes", repeats.len(), shape.rank()));
    }
    let (mut apart, mut spread, mut joined) = (vec![], vec![], vec![]);
    for (&extent, &times) in shape.iter().zip(&repeats) {
        if times != 1 {
            apart.push(1);
            spread.push(times);
        }
        apart.push(extent);
        spread.push(extent);
        joined.push(extent.saturating_mul(times));
    }
    repeated(b, node.name(), x, apart, spread, joined)
}

/// `x` with its axes taken apart, broadcast and joined again.
pub(super) fn repeated(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    apart: Vec<usize>,
    spread: Vec<usize>,
    joined: Vec<usize>,
) -> Result<ValueId, Reject> {
    super::graph::fitting(&joined.clone().into())?;
    if apart.len() > reef_base::limits::TENSOR_RANK_MAX {
        return Err(Reject::Foreign(format!("{} axes on the way", apart.len())));
    }
    let x = b.reshape(name, x, apart.into())?;
    let x = b.expand(name, x, spread.into())?;
    b.reshape(name, x, joined.into())
}

fn concat(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let parts = node.all()?;
    let Some(&first) = parts.first() else { return wrong("it has no input") };
    let (dtype, shape) = (b.dtype(first), b.shape(first));
    let axis = axis_of(node.int("axis", 0), shape.rank())?;
    for &part in &parts[1..] {
        let other = b.shape(part);
        let fits =
            other.rank() == shape.rank() && (0..shape.rank()).all(|at| at == axis || other[at] == shape[at]);
        if !fits || b.dtype(part) != dtype {
            let (found, wanted) = (b.dtype(part), dtype);
            return wrong(format!("{found}{other} beside {wanted}{shape} along axis {axis}"));
        }
    }
    b.concat(node.name(), &parts, axis)
}

/// What a slice takes of an axis.
struct Range {
    axis: usize,
    begin: i64,
    end: i64,
    step: i64,
}

fn slice(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let x = node.input(0)?;
    let rank = b.rank(x);
    let (starts, ends, axes, steps) = if node.opset < 10 {
        let list = |name| node.ints(name).map(<[i64]>::to_vec);
        (list("starts").unwrap_or_default(), list("ends").unwrap_or_default(), list("axes"), None)
    } else {
        let list = |index, what| node.optional(index).map(|id| b.integers(id, what)).transpose();
        let (starts, ends) = (b.integers(node.input(1)?, "starts")?, b.integers(node.input(2)?, "ends")?);
        (starts, ends, list(3, "axes")?, list(4, "steps")?)
    };
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return wrong("starts, ends, axes and steps differ in length");
    }
    let mut seen = vec![];
    let mut made = x;
    for (index, &axis) in axes.iter().enumerate() {
        let axis = axis_of(axis, rank)?;
        if seen.contains(&axis) {
            return wrong(format!("axes {axes:?} name one twice"));
        }
        seen.push(axis);
        let range = Range { axis, begin: starts[index], end: ends[index], step: steps[index] };
        made = taken(b, node.name(), made, range)?;
    }
    Ok(made)
}

/// One axis of a slice, with ONNX's clamping.
fn taken(b: &mut Builder, name: &str, x: ValueId, range: Range) -> Result<ValueId, Reject> {
    let Range { axis, begin, end, step } = range;
    let mut dims = b.shape(x).to_vec();
    let extent = dims[axis] as i64;
    let from_end = |place: i64| if place < 0 { place.saturating_add(extent) } else { place };
    // ONNX Runtime's way: backwards, these two are no numbers but the beginning.
    let to_front = step < 0 && [i64::from(i32::MAX), i64::MAX].contains(&end);
    let (begin, end) = (from_end(begin), from_end(end));
    let (begin, end, span) = match step {
        0 => return wrong("a step is 0"),
        1.. => {
            let (begin, end) = (begin.clamp(0, extent), end.clamp(0, extent));
            (begin, end, end - begin)
        }
        _ => {
            let end = if to_front { -1 } else { end.clamp(-1, extent - 1) };
            let begin = begin.clamp(0, (extent - 1).max(0));
            (begin, end, begin - end)
        }
    };
    let span = if extent == 0 { 0 } else { span.max(0) as u64 };
    let count = span.div_ceil(step.unsigned_abs()) as usize;
    let whole = step == 1 && count == dims[axis];
    if whole {
        return Ok(x);
    }
    dims[axis] = count;
    if count <= 1 {
        let first = begin.max(0) as usize;
        let last = first + count;
        let op = Op::Slice { axis, begin: first, end: last as isize, step: 1 };
        return b.add(name, op, &[x], b.dtype(x), dims.into());
    }
    let op = Op::Slice { axis, begin: begin as usize, end: end as isize, step: step as isize };
    b.add(name, op, &[x], b.dtype(x), dims.into())
}

fn split(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let x = node.input(0)?;
    let shape = b.shape(x);
    let axis = axis_of(node.int("axis", 0), shape.rank())?;
    let (extent, count) = (shape[axis], node.proto.output.len());
    let listed = match node.opset < 13 {
        true => node.ints("split").map(<[i64]>::to_vec),
        false => node.optional(1).map(|sizes| b.integers(sizes, "split")).transpose()?,
    };
    let sizes = match (listed, node.attribute("num_outputs")) {
        (Some(sizes), _) => {
            let parts: Option<Vec<usize>> = sizes.iter().map(|&size| usize::try_from(size).ok()).collect();
            let sum = |parts: &Vec<usize>| parts.iter().try_fold(0usize, |sum, &part| sum.checked_add(part));
            match parts.filter(|parts| sum(parts) == Some(extent)) {
                Some(parts) if parts.len() == count => parts,
                Some(parts) => return wrong(format!("{} parts for {count} outputs", parts.len())),
                None => return wrong(format!("an axis of {extent} cannot be split into {sizes:?}")),
            }
        }
        (None, Some(number)) if number.i as usize != count || count == 0 => {
            return wrong(format!("num_outputs is {}, it has {count} outputs", number.i));
        }
        (None, Some(_)) => {
            let size = extent.div_ceil(count);
            if size * (count - 1) > extent {
                return wrong(format!("an axis of {extent} cannot be split into {count} parts"));
            }
            (0..count).map(|part| extent.saturating_sub(part * size).min(size)).collect()
        }
        (None, None) if extent.is_multiple_of(count.max(1)) => vec![extent / count.max(1); count],
        (None, None) => return wrong(format!("an axis of {extent} cannot be split into {count} parts")),
    };
    let mut begin = 0;
    let mut made = vec![];
    for size in sizes {
        made.push(b.slice(node.name(), x, axis, begin..begin + size)?);
        begin += size;
    }
    Ok(made)
}

fn gather(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (data, indices) = (node.input(0)?, node.input(1)?);
    let (from, of) = (b.shape(data), b.shape(indices));
    let axis = axis_of(node.int("axis", 0), from.rank())?;
    if !matches!(b.dtype(indices), DType::I64 | DType::I32) {
        return wrong(format!("indices of {}", b.dtype(indices)));
    }
    let shape: Shape = [&from[..axis], &of[..], &from[axis + 1..]].concat().into();
    if let Some(known) = b.known(indices).and_then(crate::consts::integers) {
        if let Some(&bad) = known.iter().find(|&&index| axis_index(index, from[axis]).is_none()) {
            let allowed = reef_graph::AllowedIndices(from[axis]);
            return wrong(format!("its index is {bad}, {allowed}"));
        }
        if let Some(run) = run_of(&known, from[axis]) {
            let part = b.slice(node.name(), data, axis, run)?;
            return b.reshape(node.name(), part, shape);
        }
    }
    b.add(node.name(), Op::Gather { axis }, &[data, indices], b.dtype(data), shape)
}

/// The range that indices count through, if they do.
fn run_of(indices: &[i64], extent: usize) -> Option<std::ops::Range<usize>> {
    let first = axis_index(*indices.first()?, extent)?;
    let place = |(at, &index): (usize, &i64)| axis_index(index, extent) == Some(first + at);
    indices.iter().enumerate().all(place).then_some(first..first + indices.len())
}

fn pad(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let x = node.input(0)?;
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    let mode = node.text("mode").unwrap_or("constant");
    // Or of more digits than graphs hold.
    let is_computed = |&value: &ValueId| matches!(padding_value(b, value), Err(Reject::Foreign(_)));
    let computed =
        node.optional(2).filter(|value| node.opset >= 11 && mode == "constant" && is_computed(value));
    let (pads, axes, value) = if node.opset < 11 {
        let pads = node.ints("pads").unwrap_or_default().to_vec();
        (pads, None, f64::from(node.float("value", 0.0)))
    } else {
        let pads = b.integers(node.input(1)?, "pads")?;
        let value = match node.optional(2) {
            Some(value) if mode == "constant" && computed.is_none() => padding_value(b, value)?,
            _ => 0.0,
        };
        let axes = node.optional(3).map(|axes| b.integers(axes, "axes")).transpose()?;
        (pads, axes, value)
    };
    let axes = match axes {
        Some(axes) => axes.iter().map(|&axis| axis_of(axis, shape.rank())).collect::<Result<Vec<_>, _>>()?,
        None => (0..shape.rank()).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return wrong(format!("{} pads for {} axes", pads.len(), axes.len()));
    }
    let mut around = vec![(0i64, 0i64); shape.rank()];
    for (index, &axis) in axes.iter().enumerate() {
        around[axis].0 = around[axis].0.saturating_add(pads[index]);
        around[axis].1 = around[axis].1.saturating_add(pads[index + axes.len()]);
    }
    if mode != "constant" {
        return super::border::repeated(b, node.name(), x, &around, mode);
    }
    // Padding that takes away is a slice.
    let mut x = x;
    for (axis, (before, after)) in around.iter_mut().enumerate() {
        let extent = b.shape(x)[axis] as i64;
        let (begin, end) = ((-*before).clamp(0, extent), extent - (-*after).clamp(0, extent));
        if extent.saturating_add(*before).saturating_add(*after) < 0 {
            return wrong(format!("pads {pads:?} take more than there is of {shape}"));
        }
        if begin > 0 || end < extent {
            if begin > end {
                return Err("it takes away more than there is and adds some".into());
            }
            x = b.slice(node.name(), x, axis, begin as usize..end as usize)?;
        }
        (*before, *after) = ((*before).max(0), (*after).max(0));
    }
    let pads: Vec<(usize, usize)> = around.iter().map(|&(a, z)| (a as usize, z as usize)).collect();
    if pads.iter().all(|&pads| pads == (0, 0)) {
        return Ok(x);
    }
    if let Some(value) = computed {
        return super::border::filled(b, node.name(), x, &pads, value);
    }
    let add = |(&extent, &(a, z)): (&usize, &(usize, usize))| extent.saturating_add(a).saturating_add(z);
    let padded: Shape = b.shape(x).iter().zip(&pads).map(add).collect();
    b.add(node.name(), Op::Pad { pads, value: value as f32 }, &[x], dtype, padded)
}

/// What is padded with, which graphs hold in single precision.
fn padding_value(b: &Builder, value: ValueId) -> Result<f64, Reject> {
    let tensor = b.known(value).ok_or("what is padded with is computed")?;
    if tensor.shape().elements() != 1 {
        return wrong(format!("what is padded with has shape {}", tensor.shape()));
    }
    let element = reef_graph::scalar::Element::all(tensor)[0];
    let exact = match element {
        reef_graph::scalar::Element::Float(value) => value.is_nan() || f64::from(value as f32) == value,
        reef_graph::scalar::Element::Int(value) => (value as f32) as i64 == value,
    };
    match exact {
        true => Ok(element.float()),
        false => Err("its value is none of single precision".into()),
    }
}

/// An image's extents in the order of `[N,C,H,W]`.
fn image(b: &Builder, x: ValueId) -> Result<[usize; 4], Reject> {
    let shape = b.shape(x);
    <[usize; 4]>::try_from(&shape[..]).map_err(|_| Reject::Wrong(format!("an image of shape {shape}")))
}

fn block(node: &Node) -> Result<usize, Reject> {
    let size = node.int("blocksize", 0);
    usize::try_from(size)
        .ok()
        .filter(|&size| size > 0)
        .ok_or_else(|| Reject::Wrong(format!("blocksize {size}")))
}

fn depth_to_space(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (x, size, name) = (node.input(0)?, block(node)?, node.name());
    let [n, c, h, w] = image(b, x)?;
    let Some(depth) = size.checked_mul(size).filter(|&area| c.is_multiple_of(area)).map(|area| c / area)
    else {
        return wrong(format!("{c} channels in blocks of {size}"));
    };
    let column_first = node.text("mode") == Some("CRD");
    let (apart, perm) = match column_first {
        true => ([n, depth, size, size, h, w], vec![0, 1, 4, 2, 5, 3]),
        false => ([n, size, size, depth, h, w], vec![0, 3, 4, 1, 5, 2]),
    };
    let x = b.reshape(name, x, Shape::from(apart))?;
    let x = b.transpose(name, x, perm)?;
    b.reshape(name, x, Shape::from([n, depth, h * size, w * size]))
}

fn space_to_depth(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (x, size, name) = (node.input(0)?, block(node)?, node.name());
    let [n, c, h, w] = image(b, x)?;
    if !h.is_multiple_of(size) || !w.is_multiple_of(size) {
        return wrong(format!("an image of {h} by {w} in blocks of {size}"));
    }
    let x = b.reshape(name, x, Shape::from([n, c, h / size, size, w / size, size]))?;
    let column_first = node.text("mode") == Some("CRD");
    let perm = if column_first { vec![0, 1, 3, 5, 2, 4] } else { vec![0, 3, 5, 1, 2, 4] };
    let x = b.transpose(name, x, perm)?;
    b.reshape(name, x, Shape::from([n, c * size * size, h / size, w / size]))
}

/// A triangle of the last two axes: elsewhere zero.
pub(super) fn trilu(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let x = node.input(0)?;
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    let diagonal = match node.optional(1) {
        Some(diagonal) => match b.integers(diagonal, "diagonal")?[..] {
            [diagonal] => diagonal,
            _ => return wrong("its diagonal is not one number"),
        },
        None => 0,
    };
    let [.., rows, columns] = shape[..] else { return wrong("it needs two axes") };
    let upper = node.int("upper", 1) != 0;
    let mut kept = Vec::with_capacity(rows * columns);
    for row in 0..rows as i64 {
        for column in 0..columns as i64 {
            let bound = row.saturating_add(diagonal);
            kept.push(u8::from(if upper { column >= bound } else { column <= bound }));
        }
    }
    let mask = b.constant("", Tensor::from_slice(DType::Bool, Shape::from([rows, columns]), &kept));
    let zero = b.scalar(dtype, 0.0);
    b.choose(node.name(), mask, x, zero)
}
