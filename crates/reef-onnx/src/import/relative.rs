//! Elements relative to others of their tensor: to norms, to neighbours, to the largest.

use reef_graph::scalar::Element;
use reef_graph::{Binary, DType, Op, Reduce, Shape, Unary, ValueId};

use super::attributes::{Node, axes_of, axis_of};
use super::{Builder, Reading, Reject, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let made = match node.operator() {
        "LRN" => local_response(b, node),
        "MeanVarianceNormalization" => mean_variance(b, node),
        "LpNormalization" => by_norm(b, node),
        "GlobalLpPool" => global_norm(b, node),
        "Hardmax" => hardmax(b, node),
        _ => return None,
    };
    Some(made.map(|value| vec![value]))
}

/// Channels that a window of local response normalisation goes over.
const LOCAL_SIZE_MAX: usize = 64;

/// `x / (bias + alpha / size · Σx²)^beta`, the sum over `size` channels around the element's.
fn local_response(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let shape = b.shape(x);
    let size = usize::try_from(node.int("size", 0)).unwrap_or(0);
    if size == 0 || shape.rank() < 3 {
        return wrong(format!("size is {}, its input has shape {shape}", node.int("size", 0)));
    }
    if size > LOCAL_SIZE_MAX {
        return Err(Reject::Foreign(format!("{size} channels")));
    }
    let (x, back) = b.computable(name, x)?;
    let squares = b.unary(name, Unary::Square, x)?;
    let mut pads = vec![(0, 0); shape.rank()];
    pads[1] = ((size - 1) / 2, size / 2);
    let mut dims = shape.to_vec();
    dims[1] += size - 1;
    let padded = b.add(name, Op::Pad { pads, value: 0.0 }, &[squares], DType::F32, dims.into())?;
    let mut sum = b.slice(name, padded, 1, 0..shape[1])?;
    for first in 1..size {
        let other = b.slice(name, padded, 1, first..first + shape[1])?;
        sum = b.binary(name, Binary::Add, sum, other)?;
    }
    let number = |b: &mut Builder, value: f64| b.scalar(DType::F32, value);
    let alpha = number(b, f64::from(node.float("alpha", 1e-4)) / size as f64);
    let (bias, beta) = (node.float("bias", 1.0), node.float("beta", 0.75));
    let (bias, beta) = (number(b, bias.into()), number(b, beta.into()));
    let sum = b.binary(name, Binary::Mul, sum, alpha)?;
    let sum = b.binary(name, Binary::Add, sum, bias)?;
    let power = b.binary(name, Binary::Pow, sum, beta)?;
    let made = b.binary(name, Binary::Div, x, power)?;
    b.cast(name, made, back)
}

/// `(x − mean) / (deviation + 1e-9)`.
fn mean_variance(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let shape = b.shape(x);
    let axes = axes_of(node.ints("axes").unwrap_or(&[0, 2, 3]), shape.rank())?;
    let count = super::reduce::folded_extents(&shape, &axes)?;
    let (x, back) = b.floating(name, x)?;
    let dtype = b.dtype(x);
    let mean = b.reduce(name, Reduce::Mean, &axes, x)?;
    let centred = b.binary(name, Binary::Sub, x, mean)?;
    let sum = b.reduce(name, Reduce::SumSquare, &axes, centred)?;
    let share = b.scalar(dtype, 1.0 / count as f64);
    let variance = b.binary(name, Binary::Mul, sum, share)?;
    let deviation = b.unary(name, Unary::Sqrt, variance)?;
    let least = b.scalar(dtype, 1e-9);
    let deviation = b.binary(name, Binary::Add, deviation, least)?;
    let made = b.binary(name, Binary::Div, centred, deviation)?;
    b.cast(name, made, back)
}

/// `x` by its norm along an axis; zero where that is zero.
fn by_norm(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let shape = b.shape(x);
    let axis = axis_of(node.int("axis", -1), shape.rank())?;
    let p = node.int("p", 2);
    if p != 1 && p != 2 {
        return wrong(format!("p is {p}, not 1 or 2"));
    }
    super::reduce::folded_extents(&shape, &[axis])?;
    let (x, back) = b.floating(name, x)?;
    let dtype = b.dtype(x);
    let norm = norm(b, name, x, &[axis], p)?;
    let zero = b.scalar(dtype, 0.0);
    let nothing = b.binary(name, Binary::Equal, norm, zero)?;
    let ratio = b.binary(name, Binary::Div, x, norm)?;
    let made = b.choose(name, nothing, zero, ratio)?;
    b.cast(name, made, back)
}

fn global_norm(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let shape = b.shape(x);
    if shape.rank() < 3 {
        return wrong(format!("an input of shape {shape}"));
    }
    let axes: Vec<usize> = (2..shape.rank()).collect();
    super::reduce::folded_extents(&shape, &axes)?;
    let (x, back) = b.computable(name, x)?;
    let made = norm(b, name, x, &axes, node.int("p", 2))?;
    b.cast(name, made, back)
}

/// The p-norm over some axes.
fn norm(b: &mut Builder, name: &str, x: ValueId, axes: &[usize], p: i64) -> Result<ValueId, Reject> {
    let sum = match p {
        2 => b.reduce(name, Reduce::SumSquare, axes, x)?,
        _ => {
            let powers = powers(b, name, x, p)?;
            b.reduce(name, Reduce::Sum, axes, powers)?
        }
    };
    root(b, name, sum, p)
}

/// `|x|^p`.
pub(super) fn powers(b: &mut Builder, name: &str, x: ValueId, p: i64) -> Result<ValueId, Reject> {
    match p {
        ..1 => wrong(format!("p is {p}")),
        1 => b.unary(name, Unary::Abs, x),
        2 => b.unary(name, Unary::Square, x),
        _ => {
            let (size, p) = (b.unary(name, Unary::Abs, x)?, b.scalar(DType::F32, p as f64));
            b.binary(name, Binary::Pow, size, p)
        }
    }
}

/// `x^(1/p)` of what is not negative.
pub(super) fn root(b: &mut Builder, name: &str, x: ValueId, p: i64) -> Result<ValueId, Reject> {
    match p {
        1 => Ok(x),
        2 => b.unary(name, Unary::Sqrt, x),
        _ => {
            let p = b.scalar(DType::F32, 1.0 / p as f64);
            b.binary(name, Binary::Pow, x, p)
        }
    }
}

/// One at the first of the largest elements, else zero. Before operator set 13 all axes from the given one
/// on are one.
fn hardmax(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let shape = b.shape(x);
    let to_the_end = node.opset < 13;
    let axis = axis_of(node.int("axis", if to_the_end { 1 } else { -1 }), shape.rank())?;
    let end = if to_the_end { shape.rank() } else { axis + 1 };
    let length: usize = shape[axis..end].iter().product();
    if shape.elements() == 0 {
        return Ok(x);
    }
    let (x, back) = b.computable(name, x)?;
    // Places are counted in single precision.
    if length > 1 << 24 {
        return Err(Reject::Foreign(format!("{length} elements of which one is the largest")));
    }
    let joined: Shape = [&shape[..axis], &[length], &shape[end..]].concat().into();
    let mut along = vec![1; joined.rank() - axis];
    along[0] = length;
    let x = b.reshape(name, x, joined)?;
    let places: Vec<Element> = (0..length as i64).map(Element::Int).collect();
    let places = b.constant("", reef_graph::reference::store(&places, DType::F32, &along.into()));
    let behind = b.scalar(DType::F32, length as f64);
    let largest = b.reduce(name, Reduce::Max, &[axis], x)?;
    let large = b.binary(name, Binary::Equal, x, largest)?;
    let large = b.choose(name, large, places, behind)?;
    let first = b.reduce(name, Reduce::Min, &[axis], large)?;
    let hot = b.binary(name, Binary::Equal, places, first)?;
    let made = b.cast(name, hot, back)?;
    b.reshape(name, made, shape)
}
