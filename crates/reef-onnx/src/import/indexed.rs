//! Operators that take elements from places that indices name, or put some there.

use reef_graph::{DType, Op, Picks, Putting, ValueId};

use super::attributes::{Node, axis_of};
use super::{Builder, Reading, Reject, wrong};
use crate::consts;

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let made = match node.operator() {
        "GatherElements" => take_elements(b, node),
        "GatherND" => take_slices(b, node),
        "Scatter" | "ScatterElements" => put_elements(b, node),
        "ScatterND" => put_slices(b, node),
        _ => return None,
    };
    Some(made.map(|value| vec![value]))
}

fn take_elements(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (mut data, indices) = (node.input(0)?, node.input(1)?);
    let (from, of) = (b.shape(data), b.shape(indices));
    let axis = axis_of(node.int("axis", 0), from.rank())?;
    let fits = |other: usize| other == axis || of[other] <= from[other];
    if of.rank() != from.rank() || !(0..from.rank()).all(fits) {
        return wrong(format!("indices of shape {of} for data of shape {from}"));
    }
    // Only the first ones of the others are asked for.
    for other in (0..from.rank()).filter(|&other| other != axis) {
        data = b.slice(node.name(), data, other, 0..of[other])?;
    }
    take(b, node, data, indices, Picks::Elements { axis })
}

fn take_slices(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (data, indices, batch) = (node.input(0)?, node.input(1)?, node.int("batch_dims", 0));
    match usize::try_from(batch) {
        Ok(batch) => take(b, node, data, indices, Picks::Slices { batch }),
        Err(_) => wrong(format!("batch_dims is {batch}")),
    }
}

fn take(
    b: &mut Builder,
    node: &Node,
    data: ValueId,
    indices: ValueId,
    picks: Picks,
) -> Result<ValueId, Reject> {
    let shape = checked(b, data, indices, picks)?;
    b.add(node.name(), Op::Take(picks), &[data, indices], b.dtype(data), shape)
}

fn put_elements(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let [data, indices, updates] = operands(b, node)?;
    let (into, of) = (b.shape(data), b.shape(indices));
    let axis = axis_of(node.int("axis", 0), into.rank())?;
    let fits = |other: usize| other == axis || of[other] <= into[other];
    if of.rank() != into.rank() || !(0..into.rank()).all(fits) {
        return wrong(format!("indices of shape {of} for data of shape {into}"));
    }
    if b.shape(updates) != of {
        return wrong(format!("updates of shape {} for indices of shape {of}", b.shape(updates)));
    }
    let putting = putting(b, node, data)?;
    if of.elements() == 0 {
        return Ok(data);
    }
    corner(b, node.name(), [data, indices, updates], axis, putting)
}

/// Puts updates on the first elements along all axes but one, of which there may be more than updates.
fn corner(
    b: &mut Builder,
    name: &str,
    [data, indices, updates]: [ValueId; 3],
    axis: usize,
    putting: Putting,
) -> Result<ValueId, Reject> {
    let (into, of) = (b.shape(data), b.shape(indices));
    let Some(other) = (0..into.rank()).find(|&other| other != axis && of[other] < into[other]) else {
        return put(b, name, [data, indices, updates], Picks::Elements { axis }, putting);
    };
    let first = b.slice(name, data, other, 0..of[other])?;
    let rest = b.slice(name, data, other, of[other]..into[other])?;
    let first = corner(b, name, [first, indices, updates], axis, putting)?;
    b.concat(name, &[first, rest], other)
}

fn put_slices(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let operands @ [data, indices, updates] = operands(b, node)?;
    let picks = Picks::Slices { batch: 0 };
    let moved = picks.moved(&b.shape(data), &b.shape(indices)).map_err(Reject::Wrong)?;
    if b.shape(updates) != moved {
        return wrong(format!("updates of shape {} where {moved} is put", b.shape(updates)));
    }
    let putting = putting(b, node, data)?;
    put(b, node.name(), operands, picks, putting)
}

/// Data with updates put on what indices name.
pub(super) fn put(
    b: &mut Builder,
    name: &str,
    operands: [ValueId; 3],
    picks: Picks,
    putting: Putting,
) -> Result<ValueId, Reject> {
    let [data, indices, updates] = operands;
    if b.shape(updates).elements() == 0 {
        return Ok(data);
    }
    checked(b, data, indices, picks)?;
    b.add(name, Op::Put(picks, putting), &operands, b.dtype(data), b.shape(data))
}

fn operands(b: &Builder, node: &Node) -> Result<[ValueId; 3], Reject> {
    let [data, indices, updates] = [node.input(0)?, node.input(1)?, node.input(2)?];
    match b.dtype(data) == b.dtype(updates) {
        true => Ok([data, indices, updates]),
        false => wrong(format!("updates of {} for data of {}", b.dtype(updates), b.dtype(data))),
    }
}

/// What the node makes of an element that is there: of booleans sums and products are the larger and the
/// smaller one.
fn putting(b: &Builder, node: &Node, data: ValueId) -> Result<Putting, Reject> {
    let bools = b.dtype(data) == DType::Bool;
    Ok(match node.text("reduction").unwrap_or("none") {
        "none" => Putting::Replace,
        "add" if !bools => Putting::Add,
        "mul" if !bools => Putting::Multiply,
        "max" | "add" => Putting::Larger,
        "min" | "mul" => Putting::Smaller,
        other => return wrong(format!("reduction `{other}`")),
    })
}

/// The shape of what is taken or put. Indices that are known must be inside of their axes.
fn checked(b: &Builder, data: ValueId, indices: ValueId, picks: Picks) -> Result<reef_graph::Shape, Reject> {
    let (from, of) = (b.shape(data), b.shape(indices));
    if !matches!(b.dtype(indices), DType::I64 | DType::I32) {
        return wrong(format!("indices of {}", b.dtype(indices)));
    }
    let moved = picks.moved(&from, &of).map_err(Reject::Wrong)?;
    if moved.elements() == 0 {
        return Ok(moved);
    }
    let indexing = picks.indexing(&from, &of);
    if let Some(known) = b.known(indices).and_then(consts::integers) {
        // An index of a row for all of its elements.
        let step = if indexing.by_element { 1 } else { indexing.inner };
        for at in (0..indexing.moved()).step_by(step) {
            indexing.locate(at, |pick| known[pick]).map_err(|bad| Reject::Wrong(bad.to_string()))?;
        }
    }
    if from.elements() == 0 {
        return Err("it has indices of what has no elements".into());
    }
    Ok(moved)
}
