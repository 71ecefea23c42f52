//! Selections: the only operators with several outputs that have native kernels.

use reef_graph::{DType, Op, Selection, Shape};
use tract_onnx::prelude::*;

use super::Reject;
use crate::walk::{Operand, Walk};

pub(super) fn selection(
    walk: &mut Walk,
    node: &TypedNode,
    selection: &Selection,
) -> Result<Vec<Operand>, Reject> {
    let mut inputs = vec![];
    for &input in &node.inputs {
        inputs.push(walk.value(input)?);
    }
    let given = inputs.iter().map(|&id| walk.graph.value(id));
    let given: Vec<(DType, Shape)> = given.map(|value| (value.dtype, value.shape.clone())).collect();
    let outputs = selection.outputs(&given)?;
    for (slot, made) in outputs.iter().enumerate() {
        let (dtype, shape) = walk.fact(OutletId::new(node.id, slot))?;
        if *made != (dtype, shape.clone()) {
            return Err(format!("output {slot} would be {}{}, not {dtype}{shape}", made.0, made.1));
        }
    }
    let op = Op::Selection(selection.clone());
    let values = walk.graph.add_node_multi(&node.name, op, &inputs, outputs);
    Ok(values.into_iter().map(Operand::Value).collect())
}
