//! Operators that select, with outputs as large as they can become and the count of what was selected.
//!
//! They are not ONNX's: programs put them where the shape of a result depends on data, under names that no
//! model can use (the check of files refuses them). Inputs and attributes are those of ONNX's operators, and
//! so are outputs, then the count; all outputs are named.
//!
//! | operator | attributes | outputs |
//! |---|---|---|
//! | `reef.NonZero` | | `[max(rank, 1), elements]`, count |
//! | `reef.Compress` | `axis` | like x or, without an axis, `[elements]`; count |
//! | `reef.Unique` | `axis`, `sorted` (1) | Y, indices, inverse_indices, counts; count |
//! | `reef.NonMaxSuppression` | `center_point_box` (0), `per_class` | `[rows, 3]`, count |
//!
//! `per_class` is the most boxes of a class that there is room for; without it, all.

use reef_graph::{DType, Op, Selection, Shape, Tensor, ValueId};

use super::attributes::{Node, axis_of};
use super::{Builder, Reading, Reject};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let selection = match node.operator() {
        "reef.NonZero" => Ok(Selection::NonZero),
        "reef.Compress" => axis(b, node).map(|axis| Selection::Compress { axis }),
        "reef.Unique" => {
            let sorted = node.int("sorted", 1) != 0;
            axis(b, node).map(|axis| Selection::Unique { axis, sorted })
        }
        "reef.NonMaxSuppression" => Ok(Selection::NonMaxSuppression {
            center_point_box: node.flag("center_point_box"),
            per_class: node.attribute("per_class").map_or(usize::MAX, |most| most.i.max(0) as usize),
        }),
        _ => return None,
    };
    Some(selection.and_then(|selection| select(b, node, selection)))
}

fn axis(b: &Builder, node: &Node) -> Result<Option<usize>, Reject> {
    let rank = b.rank(node.input(0)?);
    node.attribute("axis").map(|axis| axis_of(axis.i, rank)).transpose()
}

fn select(b: &mut Builder, node: &Node, selection: Selection) -> Result<Vec<ValueId>, Reject> {
    let inputs = match selection {
        Selection::NonMaxSuppression { .. } => limits(b, node)?,
        Selection::Compress { .. } => vec![node.input(0)?, node.input(1)?],
        _ => vec![node.input(0)?],
    };
    let given: Vec<(DType, Shape)> = inputs.iter().map(|&id| (b.dtype(id), b.shape(id))).collect();
    let outputs = selection.outputs(&given).map_err(Reject::Wrong)?;
    Ok(b.graph.add_node_multi(node.name(), Op::Selection(selection), &inputs, outputs))
}

/// Boxes, scores and limits: those that are left out are 0, but for a threshold of scores.
fn limits(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let mut inputs = vec![node.input(0)?, node.input(1)?];
    for (index, default) in [(2, Tensor::i64([1], &[0])), (3, Tensor::f32([1], &[0.0]))] {
        inputs.push(match node.optional(index) {
            Some(given) => given,
            None => b.constant("", default),
        });
    }
    inputs.extend(node.optional(4));
    Ok(inputs)
}
