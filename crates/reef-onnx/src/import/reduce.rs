//! Reductions.

use reef_graph::{Binary, DType, Reduce, Shape, Unary, ValueId};

use super::attributes::{Node, axes_of};
use super::{Builder, Reading, Reject, wrong};

/// What is folded how; some functions are put together.
#[derive(Clone, Copy)]
enum Kind {
    One(Reduce),
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let kind = match node.operator() {
        "ReduceSum" => Kind::One(Reduce::Sum),
        "ReduceMean" => Kind::One(Reduce::Mean),
        "ReduceMax" => Kind::One(Reduce::Max),
        "ReduceMin" => Kind::One(Reduce::Min),
        "ReduceProd" => Kind::One(Reduce::Prod),
        "ReduceL1" => Kind::L1,
        "ReduceL2" => Kind::L2,
        "ReduceSumSquare" => Kind::SumSquare,
        "ReduceLogSum" => Kind::LogSum,
        "ReduceLogSumExp" => Kind::LogSumExp,
        _ => return None,
    };
    Some(reduce(b, node, kind).map(|value| vec![value]))
}

/// The axes that a node folds, ascending.
fn axes(b: &Builder, node: &Node, rank: usize) -> Result<Vec<usize>, Reject> {
    let since = if node.operator() == "ReduceSum" { 13 } else { 18 };
    let listed = match node.opset >= since {
        true => node.optional(1).map(|axes| b.integers(axes, "axes")).transpose()?,
        false => node.ints("axes").map(<[i64]>::to_vec),
    };
    match listed.unwrap_or_default() {
        none if none.is_empty() => {
            let nothing = node.opset >= since && node.flag("noop_with_empty_axes");
            Ok(if nothing { vec![] } else { (0..rank).collect() })
        }
        axes => axes_of(&axes, rank),
    }
}

fn reduce(b: &mut Builder, node: &Node, kind: Kind) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let shape = b.shape(x);
    let axes = axes(b, node, shape.rank())?;
    if axes.iter().any(|&axis| shape[axis] == 0) {
        return of_nothing(b, node, kind, (x, &axes));
    }
    let (x, back) = match (b.dtype(x), kind) {
        (DType::Bool, Kind::One(Reduce::Max | Reduce::Min)) => (b.cast(name, x, DType::I32)?, DType::Bool),
        (DType::Bool, _) => return wrong("booleans have no sum"),
        (DType::F64, _) => (x, DType::F64),
        (whole, Kind::One(_) | Kind::L1 | Kind::SumSquare) if !whole.is_float() => (x, whole),
        // Roots and logarithms of integers, truncated.
        (whole, _) if !whole.is_float() => (b.cast(name, x, DType::F64)?, whole),
        _ => b.computable(name, x)?,
    };
    let made = match kind {
        // Nothing is folded, but every element is still what it is made into.
        _ if axes.is_empty() => single(b, name, kind, x)?,
        Kind::One(reduce) => b.reduce(name, reduce, &axes, x)?,
        Kind::L1 => {
            let size = b.unary(name, Unary::Abs, x)?;
            b.reduce(name, Reduce::Sum, &axes, size)?
        }
        Kind::L2 | Kind::SumSquare => {
            let sum = b.reduce(name, Reduce::SumSquare, &axes, x)?;
            if matches!(kind, Kind::L2) { b.unary(name, Unary::Sqrt, sum)? } else { sum }
        }
        Kind::LogSum => {
            let sum = b.reduce(name, Reduce::Sum, &axes, x)?;
            b.unary(name, Unary::Log, sum)?
        }
        Kind::LogSumExp => log_sum_exp(b, name, &axes, x)?,
    };
    let made = b.cast(name, made, back)?;
    shaped(b, node, made, (&shape, &axes))
}

/// A result of folding, without the folded axes if the node says so.
fn shaped(
    b: &mut Builder,
    node: &Node,
    made: ValueId,
    (shape, axes): (&Shape, &[usize]),
) -> Result<ValueId, Reject> {
    if node.int("keepdims", 1) != 0 {
        return Ok(made);
    }
    let rest: Shape = (0..shape.rank()).filter(|axis| !axes.contains(axis)).map(|axis| shape[axis]).collect();
    b.reshape(node.name(), made, rest)
}

/// What no elements are folded to.
fn of_nothing(
    b: &mut Builder,
    node: &Node,
    kind: Kind,
    (x, axes): (ValueId, &[usize]),
) -> Result<ValueId, Reject> {
    let (shape, dtype) = (b.shape(x), b.dtype(x));
    let value = match kind {
        Kind::One(Reduce::Sum | Reduce::SumSquare) | Kind::L1 | Kind::L2 | Kind::SumSquare => 0.0,
        Kind::One(Reduce::Prod) => 1.0,
        _ if !dtype.is_float() => return Err("of no elements".into()),
        // As ONNX Runtime has it.
        Kind::One(Reduce::Mean) => 0.0,
        Kind::One(Reduce::Max) | Kind::LogSum | Kind::LogSumExp => f64::NEG_INFINITY,
        Kind::One(Reduce::Min) => f64::INFINITY,
    };
    let value = b.scalar(dtype, value);
    let made = b.expand(node.name(), value, crate::build::folded_shape(&shape, axes))?;
    shaped(b, node, made, (&shape, axes))
}

fn single(b: &mut Builder, name: &str, kind: Kind, x: ValueId) -> Result<ValueId, Reject> {
    match kind {
        Kind::One(_) => Ok(x),
        Kind::L1 | Kind::L2 => b.unary(name, Unary::Abs, x),
        Kind::SumSquare => b.unary(name, Unary::Square, x),
        Kind::LogSum => b.unary(name, Unary::Log, x),
        Kind::LogSumExp => Ok(x),
    }
}

/// Relative to the largest element, so that nothing overflows.
fn log_sum_exp(b: &mut Builder, name: &str, axes: &[usize], x: ValueId) -> Result<ValueId, Reject> {
    let largest = b.reduce(name, Reduce::Max, axes, x)?;
    // Infinities are not subtracted from themselves.
    let dtype = b.dtype(x);
    let most = if dtype == DType::F64 { f64::MAX } else { f32::MAX.into() };
    let (low, high) = (b.scalar(dtype, -most), b.scalar(dtype, most));
    let largest = b.binary(name, Binary::Max, largest, low)?;
    let largest = b.binary(name, Binary::Min, largest, high)?;
    let rest = b.binary(name, Binary::Sub, x, largest)?;
    let power = b.unary(name, Unary::Exp, rest)?;
    let sum = b.reduce(name, Reduce::Sum, axes, power)?;
    let log = b.unary(name, Unary::Log, sum)?;
    b.binary(name, Binary::Add, log, largest)
}

/// A mean of no elements is none.
pub(super) fn folded_extents(shape: &Shape, axes: &[usize]) -> Result<usize, Reject> {
    match axes.iter().map(|&axis| shape[axis]).product() {
        0 => wrong("of no elements"),
        count => Ok(count),
    }
}
