//! A plain interpreter of graphs, operator by operator as [`reef_graph::reference`] says. Host operators are
//! not interpreted.

use reef_graph::reference::recurrent::recurrent;
use reef_graph::reference::{apply, store};
use reef_graph::scalar::Element;
use reef_graph::{Graph, Op, Selection, Tensor, ValueId, ValueKind};

use crate::lower::selection::spec_of;
use crate::select;

/// A graph could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node} ({op}): {reason}")]
pub struct EvalError {
    /// The node's name.
    pub node: String,
    /// The operator's name.
    pub op: &'static str,
    /// What is wrong.
    pub reason: String,
}

/// Evaluates `graph` on `inputs`, which have the types and shapes that it declares; gives its outputs in
/// order.
pub fn evaluate(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, EvalError> {
    let mut values: Vec<Option<Tensor>> = graph
        .values
        .iter()
        .map(|value| match &value.kind {
            ValueKind::Input(index) => Some(inputs[*index].clone()),
            ValueKind::Const(tensor) => Some(tensor.clone()),
            ValueKind::Node(_) => None,
        })
        .collect();
    let made = "validated graphs make values before they use them";
    for node in &graph.nodes {
        let operands: Vec<&Tensor> =
            node.inputs.iter().map(|id| values[id.index()].as_ref().expect(made)).collect();
        let fail = |reason| EvalError { node: node.name.clone(), op: node.op.name(), reason };
        let several = match &node.op {
            Op::Selection(selection) => Some(select(selection, &operands)),
            Op::Recurrent(attrs) => Some(recurrent(attrs, &operands)),
            Op::Along { along, axis } => {
                Some(reef_graph::reference::along::along(*along, *axis, operands[0]))
            }
            Op::MaxPool(windows) => Some(reef_graph::reference::windows::max_pool(windows, operands[0])),
            _ => None,
        };
        if let Some(made) = several {
            let made = made.map_err(fail)?;
            for (id, made) in node.outputs.iter().zip(made) {
                values[id.index()] = Some(made);
            }
            continue;
        }
        let output = graph.value(node.outputs[0]);
        let result = apply(&node.op, &operands, output.dtype, &output.shape).map_err(fail)?;
        values[node.outputs[0].index()] = Some(result);
    }
    let take = |id: &ValueId| values[id.index()].clone().expect(made);
    Ok(graph.outputs.iter().map(take).collect())
}

/// The outputs of a selection.
fn select(selection: &Selection, inputs: &[&Tensor]) -> Result<Vec<Tensor>, String> {
    let facts: Vec<_> = inputs.iter().map(|tensor| (tensor.dtype(), tensor.shape().clone())).collect();
    let outputs = selection.outputs(&facts)?;
    let elements: Vec<_> = inputs.iter().map(|tensor| Element::all(tensor)).collect();
    let made = select::select(&spec_of(selection, &facts), &elements)?;
    Ok(made.iter().zip(outputs).map(|(made, (dtype, shape))| store(made, dtype, &shape)).collect())
}
