//! Products with weights of few bits: one kernel, with the weights as the model has them.

use reef_graph::{Node, PackedWeights};
use reef_plan::{KernelSpec, PackedSpec, Work};

use super::Lowering;
use crate::error::CompileError;
use crate::layout::Need;

impl Lowering<'_> {
    pub(super) fn packed_product(&mut self, node: &Node, weights: PackedWeights) -> Result<(), CompileError> {
        let facts = node.inputs.iter().chain(&node.outputs).map(|&id| self.graph.value(id));
        let mut facts: Vec<_> = facts.map(|value| (value.dtype, value.shape.clone())).collect();
        let y = facts.pop().expect("a node has an output");
        if let Some(flaw) = weights.flaw(&facts, &y) {
            return Err(CompileError::unsupported(node, flaw));
        }
        let (m, k, n) = (facts[0].1[0], facts[0].1[1], y.1[1]);
        let spec = PackedSpec { weights, m, k, n, shifts: node.inputs.len() == 4, tile: n.max(1) };
        let mut reads = vec![];
        for &id in &node.inputs {
            let view = self.view(id);
            let view = self.dense(view);
            reads.push(self.operand(&view));
        }
        let y = self.place(node.outputs[0], Need::Dense, None);
        let writes = vec![self.operand(&y)];
        let bytes: usize = reads.iter().chain(&writes).map(|operand| operand.bytes).sum();
        let flops = 2.0 * m as f64 * k as f64 * n as f64;
        let work = Work { flops, bytes: bytes as f64, scattered: false };
        self.emit(self.label(), work, KernelSpec::Packed(spec), reads, writes);
        Ok(())
    }
}
