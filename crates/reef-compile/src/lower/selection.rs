//! Selections: one kernel of one block, dense operands on both sides.

use reef_graph::{DType, Node, Selection, Shape};
use reef_plan::{CompressSpec, KernelSpec, NonMaxSuppressionSpec, NonZeroSpec, SelectionSpec, UniqueSpec};

use super::{Lowering, streams};
use crate::error::CompileError;
use crate::layout::Need;

impl Lowering<'_> {
    pub(super) fn selection(&mut self, node: &Node, selection: &Selection) -> Result<(), CompileError> {
        let fact = |id: &reef_graph::ValueId| {
            let value = self.graph.value(*id);
            (value.dtype, value.shape.clone())
        };
        let inputs: Vec<(DType, Shape)> = node.inputs.iter().map(fact).collect();
        let outputs: Vec<(DType, Shape)> = node.outputs.iter().map(fact).collect();
        let made = selection.outputs(&inputs).map_err(|reason| CompileError::unsupported(node, reason))?;
        if made != outputs {
            return Err(CompileError::unsupported(node, format!("it makes {made:?}, not {outputs:?}")));
        }
        let spec = spec_of(selection, &inputs);
        let mut reads = vec![];
        for &id in &node.inputs {
            let view = self.view(id);
            let view = self.dense(view);
            reads.push(self.operand(&view));
        }
        let views: Vec<_> = node.outputs.iter().map(|&id| self.place(id, Need::Dense, None)).collect();
        let writes: Vec<_> = views.iter().map(|view| self.operand(view)).collect();
        let bytes: usize = reads.iter().chain(&writes).map(|operand| operand.bytes).sum();
        self.emit(self.label(), streams(0.0, bytes as f64), KernelSpec::Selection(spec), reads, writes);
        Ok(())
    }
}

/// The kernel for inputs of these types and shapes, which fit the selection.
pub(crate) fn spec_of(selection: &Selection, inputs: &[(DType, Shape)]) -> SelectionSpec {
    let (dtype, x) = (inputs[0].0, &inputs[0].1);
    let split = |axis: Option<usize>| match axis {
        None => [1, x.elements(), 1],
        Some(axis) => [x[..axis].iter().product(), x[axis], x[axis + 1..].iter().product()],
    };
    match *selection {
        Selection::NonZero => {
            let dims = if x.rank() == 0 { vec![1] } else { x.to_vec() };
            SelectionSpec::NonZero(NonZeroSpec { dtype, dims })
        }
        Selection::Compress { axis } => {
            let [outer, extent, inner] = split(axis);
            let conditions = inputs[1].1.elements().min(extent);
            SelectionSpec::Compress(CompressSpec { dtype, outer, extent, inner, conditions })
        }
        Selection::Unique { axis, sorted } => {
            let [outer, extent, inner] = split(axis);
            SelectionSpec::Unique(UniqueSpec { dtype, outer, extent, inner, sorted })
        }
        Selection::NonMaxSuppression { center_point_box, per_class } => {
            let (batches, boxes) = (x[0], x[1]);
            SelectionSpec::NonMaxSuppression(NonMaxSuppressionSpec {
                batches,
                classes: inputs[1].1[1],
                boxes,
                per_class: per_class.min(boxes),
                center_point_box,
                score_threshold: inputs.len() > 4,
            })
        }
    }
}
