//! Extents as values, and tensors made of them.

use reef_base::limits::FOLDED_ELEMENTS_MAX;
use reef_graph::scalar::Element;
use reef_graph::{Binary, DType, Op, Shape, Tensor, ValueId};

use super::attributes::{Node, axis_of};
use super::{Builder, Reading, Reject, wrong};
use crate::tensors;

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let made = match node.operator() {
        "Shape" => shape(b, node),
        "Size" => size(b, node),
        "Constant" => constant(b, node),
        "ConstantOfShape" => constant_of_shape(b, node),
        "Range" => range(b, node),
        "OneHot" => one_hot(b, node),
        "EyeLike" => eye_like(b, node),
        _ => return None,
    };
    Some(made.map(|value| vec![value]))
}

fn shape(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let shape = b.shape(node.input(0)?);
    let rank = shape.rank() as i64;
    let bound = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
    let start = bound(node.int("start", 0));
    let end = node.attribute("end").map_or(rank as usize, |end| bound(end.i));
    let extents: Vec<i64> = shape[start..end.max(start)].iter().map(|&extent| extent as i64).collect();
    Ok(b.constant(node.name(), Tensor::i64([extents.len()], &extents)))
}

fn size(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let elements = b.shape(node.input(0)?).elements() as i64;
    Ok(b.constant(node.name(), Tensor::i64([], &[elements])))
}

/// A constant that is none of the file's weights.
fn constant(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    match tensors::constant(node.proto, None) {
        Some(tensor) => Ok(b.constant(node.name(), tensor)),
        None => wrong("it is no tensor of numbers"),
    }
}

/// Without a value, zeros of f32.
fn constant_of_shape(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let wanted = b.integers(node.input(0)?, "shape")?;
    let dims: Option<Vec<usize>> = wanted.iter().map(|&extent| usize::try_from(extent).ok()).collect();
    let Some(dims) = dims else { return wrong(format!("shape {wanted:?} has negative entries")) };
    let value = match node.attribute("value").and_then(|attribute| attribute.t.as_ref()) {
        Some(value) => tensors::read(value, None).map_err(Reject::Wrong)?,
        None => Tensor::scalar_f32(0.0),
    };
    if value.shape().elements() != 1 {
        return wrong(format!("{} values", value.shape().elements()));
    }
    let dtype = value.dtype();
    let value = b.constant(node.name(), value.reshaped(Shape::default()));
    b.add(node.name(), Op::Expand, &[value], dtype, dims.into())
}

/// Numbers at equal distances, from constants.
fn range(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let mut ends = vec![];
    for index in 0..3 {
        let tensor = b.known(node.input(index)?).ok_or("its bounds are computed")?;
        if tensor.shape().elements() != 1 {
            return wrong("start, limit and step are numbers");
        }
        ends.push((Element::all(tensor)[0], tensor.dtype()));
    }
    let dtype = ends[0].1;
    if let Some((_, other)) = ends.iter().find(|(_, other)| *other != dtype) {
        return wrong(format!("a range of {dtype} and {other}"));
    }
    let too_many = |count: f64| count > FOLDED_ELEMENTS_MAX as f64;
    let elements: Vec<Element> = if dtype.is_float() {
        let [start, limit, step] = [0, 1, 2].map(|at: usize| ends[at].0.float());
        let count = ((limit - start) / step).ceil();
        if count.is_nan() {
            return wrong(format!("from {start} to {limit} by {step} is no range"));
        }
        if too_many(count) {
            return wrong("more elements than a tensor may have");
        }
        (0..count.max(0.0) as usize).map(|at| Element::Float(start + at as f64 * step)).collect()
    } else {
        let [start, limit, step] = [0, 1, 2].map(|at: usize| i128::from(ends[at].0.int()));
        if step == 0 {
            return wrong("its step is 0");
        }
        let span = if step > 0 { limit - start } else { start - limit };
        let count = if span <= 0 { 0 } else { (span + step.abs() - 1) / step.abs() };
        if too_many(count as f64) {
            return wrong("more elements than a tensor may have");
        }
        (0..count).map(|at| Element::Int((start + at * step) as i64)).collect()
    };
    let shape = Shape::from([elements.len()]);
    Ok(b.constant(node.name(), reef_graph::reference::store(&elements, dtype, &shape)))
}

/// Every index compared with the places of the new axis. An index outside of `-depth` to `depth - 1` makes a
/// row of off-values, and so does one with a fraction.
fn one_hot(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, indices, values) = (node.name(), node.input(0)?, node.input(2)?);
    let depth = match b.integers(node.input(1)?, "depth")?[..] {
        [depth] => usize::try_from(depth).map_err(|_| Reject::Wrong(format!("depth is {depth}")))?,
        _ => return wrong("its depth is not one number"),
    };
    if b.shape(values)[..] != [2] {
        return wrong(format!("values of shape {}, off and on are needed", b.shape(values)));
    }
    let shape = b.shape(indices);
    let axis = axis_of(node.int("axis", -1), shape.rank() + 1)?;
    let mut made = shape.to_vec();
    made.insert(axis, depth);
    super::graph::fitting(&made.into())?;
    if depth > FOLDED_ELEMENTS_MAX {
        return wrong(format!("a depth of {depth}: {FOLDED_ELEMENTS_MAX} elements are supported"));
    }
    let dtype = match b.dtype(indices) {
        DType::I64 | DType::I32 => b.dtype(indices),
        DType::F32 | DType::F16 | DType::BF16 => DType::F32,
        DType::F64 => DType::F64,
        DType::Bool => return wrong("indices of booleans"),
        _ => DType::I64,
    };
    let indices = b.cast(name, indices, dtype)?;
    let mut dims = shape.to_vec();
    dims.insert(axis, 1);
    let indices = b.reshape(name, indices, dims.into())?;
    let (zero, depths) = (b.scalar(dtype, 0.0), b.scalar(dtype, depth as f64));
    let below = b.binary(name, Binary::Less, indices, zero)?;
    let counted = b.binary(name, Binary::Add, indices, depths)?;
    let indices = b.choose(name, below, counted, indices)?;
    let places: Vec<Element> = (0..depth).map(|place| Element::Int(place as i64)).collect();
    let mut along = vec![1; shape.rank() + 1];
    along[axis] = depth;
    let places = reef_graph::reference::store(&places, dtype, &along.into());
    let places = b.constant(name, places);
    let hot = b.binary(name, Binary::Equal, indices, places)?;
    let one = |b: &mut Builder, at: usize| {
        let value = b.slice(name, values, 0, at..at + 1)?;
        b.reshape(name, value, Shape::default())
    };
    let (off, on) = (one(b, 0)?, one(b, 1)?);
    b.choose(name, hot, on, off)
}

fn eye_like(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let x = node.input(0)?;
    let dtype = match node.attribute("dtype") {
        Some(code) => crate::proto::dtype_of_code(code.i)
            .ok_or_else(|| Reject::Foreign(format!("elements of type {}", code.i)))?,
        None => b.dtype(x),
    };
    let shape = b.shape(x);
    let [rows, columns] = shape[..] else { return wrong(format!("a matrix of shape {shape}")) };
    if rows.saturating_mul(columns) > FOLDED_ELEMENTS_MAX {
        return wrong(format!("a constant of shape {shape}"));
    }
    let diagonal = node.int("k", 0);
    let element = |at: usize| {
        let (row, column) = ((at / columns) as i64, (at % columns) as i64);
        Element::Int(i64::from(column == row.saturating_add(diagonal)))
    };
    let elements: Vec<Element> = (0..rows * columns).map(element).collect();
    Ok(b.constant(node.name(), reef_graph::reference::store(&elements, dtype, &shape)))
}
