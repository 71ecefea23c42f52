//! `Resize` and `Upsample`, one axis after the other: repeated elements are broadcast, picked ones gathered,
//! and what is interpolated is resampled.

use reef_graph::{DType, Op, Taps, Tensor, ValueId};

use super::attributes::Node;
use super::movement::repeated;
use super::{Builder, Reading, Reject, wrong};
use crate::register::{AxisTaps, resized};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    matches!(node.operator(), "Resize" | "Upsample").then(|| resize(b, node).map(|value| vec![value]))
}

/// The values of an operand; the error says that it is computed.
fn values<T>(
    node: &Node,
    slot: usize,
    of: impl Fn(ValueId) -> Result<Vec<T>, Reject>,
) -> Result<Vec<T>, String> {
    // Slots count the operands that are there.
    let value = node.inputs.iter().flatten().nth(slot).copied();
    let value = value.ok_or_else(|| Reject::Wrong(format!("its input {slot} is missing"))).and_then(of);
    value.map_err(|reject| match reject {
        Reject::Foreign(reason) | Reject::Wrong(reason) => reason,
    })
}

fn resize(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    let computed = |id: &Option<ValueId>| id.is_some_and(|id| b.known(id).is_none());
    if node.inputs[1..].iter().any(computed) {
        return Err("its scales, sizes or region are computed".into());
    }
    let numbers = |slot: usize| -> Result<Vec<f32>, String> {
        let wide = values(node, slot, |id| b.floats(id, "scales"))?;
        Ok(wide.into_iter().map(|value| value as f32).collect())
    };
    let integers =
        |slot: usize| -> Result<Vec<i64>, String> { values(node, slot, |id| b.integers(id, "sizes")) };
    let made = resized(node.proto, node.opset, &shape, &numbers, &integers);
    let mut made = made.map_err(Reject::Wrong)?;
    if made.shape.contains(&0) {
        return b.zeros(dtype, made.shape.into());
    }
    // What makes the tensor smaller comes first, and of what makes it as large the last axis: whatever lies
    // inside of an axis is computed by vectors.
    let growth = |taps: &AxisTaps| taps.outputs() as f64 / shape[taps.axis] as f64;
    made.taps.sort_by(|a, b| growth(a).total_cmp(&growth(b)).then(b.axis.cmp(&a.axis)));
    let copied = made.taps.iter().all(|taps| taps.copies().is_some());
    if copied {
        return copies(b, name, x, &made.taps);
    }
    let (mut x, back) = b.computable(name, x)?;
    for taps in &made.taps {
        let mut dims = b.shape(x).to_vec();
        let axis = taps.axis;
        let table = Taps::new(dims[axis], made.extrapolation_value, &taps.listed());
        dims[axis] = taps.outputs();
        let table = table.map_err(Reject::Wrong)?;
        x = b.add(name, Op::Resample { axis, taps: table }, &[x], DType::F32, dims.into())?;
    }
    b.cast(name, x, back)
}

/// Elements that are those of the input, some of them again and again: of any type.
fn copies(b: &mut Builder, name: &str, x: ValueId, taps: &[AxisTaps]) -> Result<ValueId, Reject> {
    let mut x = x;
    let mut factors = vec![1; b.rank(x)];
    for taps in taps {
        let Some(from) = taps.copies() else { return wrong("an axis that is interpolated") };
        let (axis, mut dims) = (taps.axis, b.shape(x).to_vec());
        let factor = from.len() / dims[axis];
        let repeats =
            from.iter().enumerate().all(|(at, &from)| from * factor <= at && at < (from + 1) * factor);
        if repeats && factor * dims[axis] == from.len() {
            factors[axis] = factor;
            continue;
        }
        dims[axis] = from.len();
        let from: Vec<i64> = from.into_iter().map(|at| at as i64).collect();
        let picks = b.constant("", Tensor::i64([from.len()], &from));
        let dtype = b.dtype(x);
        x = b.add(name, Op::Gather { axis }, &[x, picks], dtype, dims.into())?;
    }
    let (mut apart, mut spread, mut joined) = (vec![], vec![], vec![]);
    for (&extent, &factor) in b.shape(x).iter().zip(&factors) {
        apart.push(extent);
        spread.push(extent);
        joined.push(extent * factor);
        if factor > 1 {
            apart.push(1);
            spread.push(factor);
        }
    }
    repeated(b, name, x, apart, spread, joined)
}
