//! Ensembles of decision trees: one kernel over rows, with the trees as the model has them.

use reef_graph::{Aggregate, Forest, Node};
use reef_plan::{KernelSpec, TreesSpec};

use super::{Lowering, streams};
use crate::error::CompileError;
use crate::layout::Need;

impl Lowering<'_> {
    pub(super) fn trees(&mut self, node: &Node, aggregate: Aggregate) -> Result<(), CompileError> {
        let unsupported = |reason: &str| CompileError::unsupported(node, reason);
        let mut arrays = vec![];
        for &id in &node.inputs[1..] {
            arrays.push(self.graph.constant(id).ok_or_else(|| unsupported("its trees are no constants"))?);
        }
        let [nodes, roots, targets, weights] = arrays[..] else {
            return Err(unsupported("its trees are not whole"));
        };
        let forest = Forest {
            nodes: nodes.values(),
            roots: roots.values(),
            targets: targets.values(),
            weights: weights.values(),
        };
        let (x, y) = (&self.graph.value(node.inputs[0]).shape, &self.graph.value(node.outputs[0]).shape);
        let spec = TreesSpec {
            aggregate,
            rows: x[0],
            features: x[1],
            targets: y[1],
            nodes: nodes.shape().elements() / reef_graph::trees::NODE_WORDS,
            trees: roots.shape().elements(),
            votes: weights.shape().elements(),
            tile: x[0].max(1),
        };
        if let Some(flaw) = forest.flaw(spec.features, spec.targets) {
            return Err(unsupported(flaw));
        }
        // As if the trees were balanced: their depth, and a leaf's vote.
        let depth = (spec.nodes.max(1) as f64 / spec.trees.max(1) as f64).log2() + 1.0;
        let steps = spec.rows as f64 * spec.trees as f64 * depth;
        let reads: Vec<_> = node
            .inputs
            .iter()
            .map(|&id| {
                let view = self.view(id);
                let view = self.dense(view);
                self.operand(&view)
            })
            .collect();
        let y = self.place(node.outputs[0], Need::Dense, None);
        let writes = vec![self.operand(&y)];
        let bytes: usize = reads.iter().chain(&writes).map(|operand| operand.bytes).sum();
        self.emit(self.label(), streams(steps, bytes as f64), KernelSpec::Trees(spec), reads, writes);
        Ok(())
    }
}
