//! Operators along an axis: places of extremes, the largest elements, running sums.

use reef_graph::reference::along::along;
use reef_graph::{Along, Op, Shape, ValueId};

use super::attributes::{Node, axis_of};
use super::{Builder, Reading, Reject, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    match node.operator() {
        "ArgMax" => Some(extreme(b, node, true)),
        "ArgMin" => Some(extreme(b, node, false)),
        "TopK" => Some(top(b, node)),
        "CumSum" => Some(scan(b, node, false)),
        "CumProd" => Some(scan(b, node, true)),
        _ => None,
    }
}

fn extreme(b: &mut Builder, node: &Node, largest: bool) -> Result<Vec<ValueId>, Reject> {
    let x = node.input(0)?;
    let shape = b.shape(x);
    let axis = axis_of(node.int("axis", 0), shape.rank())?;
    if shape[axis] == 0 {
        return Err("of no elements".into());
    }
    let last = node.flag("select_last_index");
    let made = rows(b, node, Along::ArgExtreme { largest, last }, axis, x)?;
    if node.int("keepdims", 1) != 0 {
        return Ok(made);
    }
    let rest: Shape = (0..shape.rank()).filter(|&other| other != axis).map(|other| shape[other]).collect();
    Ok(vec![b.reshape(node.name(), made[0], rest)?])
}

/// Sorted whether the node asks for it or not.
fn top(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let x = node.input(0)?;
    let shape = b.shape(x);
    let axis = axis_of(node.int("axis", -1), shape.rank())?;
    let extent = shape[axis];
    let k = match b.integers(node.input(1)?, "k")?[..] {
        [k] => usize::try_from(k).ok().filter(|&k| k <= extent).ok_or(k),
        _ => return wrong("its k is not one number"),
    };
    match k {
        Ok(k) => rows(b, node, Along::TopK { k, largest: node.int("largest", 1) != 0 }, axis, x),
        Err(k) => wrong(format!("{k} elements asked for, the axis has {extent}")),
    }
}

fn scan(b: &mut Builder, node: &Node, product: bool) -> Result<Vec<ValueId>, Reject> {
    let x = node.input(0)?;
    let axis = match b.integers(node.input(1)?, "axis")?[..] {
        [axis] => axis_of(axis, b.rank(x))?,
        _ => return wrong("its axis is not one number"),
    };
    let (exclusive, reverse) = (node.flag("exclusive"), node.flag("reverse"));
    rows(b, node, Along::Scan { product, exclusive, reverse }, axis, x)
}

/// The operator; what it makes of a constant is one.
fn rows(b: &mut Builder, node: &Node, what: Along, axis: usize, x: ValueId) -> Result<Vec<ValueId>, Reject> {
    let outputs = what.outputs(axis, b.dtype(x), &b.shape(x)).map_err(Reject::Foreign)?;
    let (name, op) = (node.name(), Op::Along { along: what, axis });
    if let [(dtype, shape)] = &outputs[..] {
        return Ok(vec![b.add(name, op, &[x], *dtype, shape.clone())?]);
    }
    if outputs.iter().all(|(_, shape)| shape.elements() == 0) {
        return outputs.into_iter().map(|(dtype, shape)| b.zeros(dtype, shape)).collect();
    }
    if let Some(known) = b.known(x) {
        let made = along(what, axis, known).map_err(Reject::Wrong)?;
        return Ok(made.into_iter().map(|made| b.constant(name, made)).collect());
    }
    Ok(b.graph.add_node_multi(name, op, &[x], outputs))
}
