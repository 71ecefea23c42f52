//! Rewrites of the graph that need no knowledge of kernels: constants are folded, operators that do nothing
//! are skipped, and a few pairs become one operator. What no output needs is dropped.

use reef_graph::{Binary, Graph, Node, NodeId, Op, Tensor, Unary, ValueId, ValueKind, reference};

/// Largest constant that folding may make, in elements.
const FOLDED_ELEMENTS_MAX: usize = 1 << 22;

/// The same function with fewer nodes.
pub(crate) fn simplify(graph: &Graph) -> Graph {
    let mut rewriter = Rewriter::new(graph.clone());
    for index in 0..rewriter.graph.nodes.len() {
        rewriter.rewrite(index);
    }
    rewriter.finish()
}

struct Rewriter {
    graph: Graph,
    /// For every value, the value to read instead.
    instead: Vec<ValueId>,
    /// For every value, how many node operands and outputs read it.
    uses: Vec<usize>,
}

impl Rewriter {
    fn new(graph: Graph) -> Rewriter {
        let mut uses = vec![0; graph.values.len()];
        let operands = graph.nodes.iter().flat_map(|node| &node.inputs);
        operands.chain(&graph.outputs).for_each(|id| uses[id.index()] += 1);
        let instead = (0..graph.values.len()).map(|index| ValueId(index as u32)).collect();
        Rewriter { graph, instead, uses }
    }

    fn rewrite(&mut self, index: usize) {
        for slot in 0..self.graph.nodes[index].inputs.len() {
            let id = self.graph.nodes[index].inputs[slot];
            self.graph.nodes[index].inputs[slot] = self.instead[id.index()];
        }
        if self.graph.nodes[index].outputs.len() != 1 || self.fold(index) || self.skip(index) {
            return;
        }
        match self.graph.nodes[index].op {
            Op::Binary(Binary::Mul) => self.merge_gate(index),
            Op::MatMul { .. } => self.merge_transposes(index),
            Op::Conv(_) => self.merge_padding(index),
            _ => {}
        }
    }

    /// Computes a node of constants.
    fn fold(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        let output = self.graph.value(node.outputs[0]);
        let operands: Option<Vec<_>> = node.inputs.iter().map(|&id| self.graph.constant(id)).collect();
        let Some(operands) = operands else { return false };
        let largest = operands.iter().map(|tensor| tensor.shape().elements()).max().unwrap_or(0);
        let grows = matches!(node.op, Op::Expand | Op::Host(_));
        if grows || output.shape.elements() > FOLDED_ELEMENTS_MAX.max(largest) {
            return false;
        }
        let (op, dtype, shape) = (node.op.clone(), output.dtype, output.shape.clone());
        let apply = move |operands: &[&Tensor]| reference::apply(&op, operands, dtype, &shape);
        let Ok(tensor) = Tensor::made(&operands, apply) else { return false };
        let id = node.outputs[0];
        self.graph.values[id.index()].kind = ValueKind::Const(tensor);
        true
    }

    /// Skips a node whose output is its input.
    fn skip(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        let Some(&input) = node.inputs.first() else { return false };
        let (from, to) = (self.graph.value(input), self.graph.value(node.outputs[0]));
        let same = from.shape == to.shape && from.dtype == to.dtype;
        let idle = match &node.op {
            Op::Reshape | Op::Expand | Op::Slice { step: 1, .. } => true,
            Op::Cast { .. } | Op::BitCast { .. } => true,
            Op::Concat { .. } => node.inputs.len() == 1,
            Op::Transpose { perm } => perm.iter().enumerate().all(|(axis, &from)| axis == from),
            Op::Pad { pads, .. } => pads.iter().all(|&pad| pad == (0, 0)),
            _ => false,
        };
        if same && idle {
            self.instead[node.outputs[0].index()] = input;
            self.uses[input.index()] += self.uses[node.outputs[0].index()];
        }
        same && idle
    }

    /// `x · sigmoid(x)` is one function, so is `x · hard_sigmoid(x)`.
    fn merge_gate(&mut self, index: usize) {
        let inputs = self.graph.nodes[index].inputs.clone();
        for (x, gate) in [(inputs[0], inputs[1]), (inputs[1], inputs[0])] {
            let Some(node) = self.sole_producer(gate) else { continue };
            let merged = match node.op {
                Op::Unary(Unary::Sigmoid) => Unary::Silu,
                Op::Unary(Unary::HardSigmoid(alpha, beta))
                    if (alpha - 1.0 / 6.0).abs() < 1e-6 && beta == 0.5 =>
                {
                    Unary::HardSwish
                }
                _ => continue,
            };
            if node.inputs[0] == x {
                self.graph.nodes[index].op = Op::Unary(merged);
                self.graph.nodes[index].inputs = vec![x];
                return;
            }
        }
    }

    /// A product may read its operands transposed.
    fn merge_transposes(&mut self, index: usize) {
        for slot in 0..2 {
            let id = self.graph.nodes[index].inputs[slot];
            let Some(node) = self.producer(id) else { continue };
            let Op::Transpose { perm } = &node.op else { continue };
            let rank = perm.len();
            let swaps = perm[rank - 1] == rank - 2 && perm[rank - 2] == rank - 1;
            if !swaps || !perm[..rank - 2].iter().enumerate().all(|(axis, &from)| axis == from) {
                continue;
            }
            let source = node.inputs[0];
            let Op::MatMul { trans_a, trans_b } = &mut self.graph.nodes[index].op else { return };
            *(if slot == 0 { trans_a } else { trans_b }) ^= true;
            self.graph.nodes[index].inputs[slot] = source;
            self.uses[id.index()] -= 1;
            self.uses[source.index()] += 1;
        }
    }

    /// A convolution pads by itself.
    fn merge_padding(&mut self, index: usize) {
        let id = self.graph.nodes[index].inputs[0];
        let Some(node) = self.sole_producer(id) else { return };
        let Op::Pad { pads, value } = &node.op else { return };
        let (pads, value, source) = (pads.clone(), *value, node.inputs[0]);
        if value != 0.0 || pads[..2] != [(0, 0), (0, 0)] {
            return;
        }
        if let Op::Conv(attrs) = &mut self.graph.nodes[index].op {
            attrs.pads[0] += pads[2].0;
            attrs.pads[1] += pads[3].0;
            attrs.pads[2] += pads[2].1;
            attrs.pads[3] += pads[3].1;
            self.graph.nodes[index].inputs[0] = source;
        }
    }

    fn producer(&self, id: ValueId) -> Option<&Node> {
        match self.graph.value(id).kind {
            ValueKind::Node(node) => Some(&self.graph.nodes[node.index()]),
            _ => None,
        }
    }

    /// The node that makes `id`, if nothing else reads `id`.
    fn sole_producer(&self, id: ValueId) -> Option<&Node> {
        if self.uses[id.index()] == 1 { self.producer(id) } else { None }
    }

    /// Drops what no output needs.
    fn finish(mut self) -> Graph {
        for id in &mut self.graph.outputs {
            *id = self.instead[id.index()];
        }
        let mut needed = vec![false; self.graph.values.len()];
        self.graph.outputs.iter().for_each(|id| needed[id.index()] = true);
        let mut kept = vec![false; self.graph.nodes.len()];
        for (index, node) in self.graph.nodes.iter().enumerate().rev() {
            let made = |id: &ValueId| self.graph.value(*id).kind == ValueKind::Node(NodeId(index as u32));
            kept[index] = node.outputs.iter().any(|id| needed[id.index()] && made(id));
            if kept[index] {
                node.inputs.iter().for_each(|id| needed[id.index()] = true);
            }
        }
        let mut keep = kept.iter();
        self.graph.nodes.retain(|_| *keep.next().expect("one flag per node"));
        for (index, node) in self.graph.nodes.iter().enumerate() {
            for id in &node.outputs {
                self.graph.values[id.index()].kind = ValueKind::Node(NodeId(index as u32));
            }
        }
        self.graph
    }
}

#[cfg(test)]
mod tests {
    use reef_graph::{ConvAttrs, DType, Shape, Tensor};

    use super::*;

    #[test]
    fn constants_are_folded_and_idle_nodes_skipped() {
        let mut graph = Graph::default();
        let shape = Shape::from([2, 3]);
        let x = graph.add_input("x", DType::F32, shape.clone());
        let one = graph.add_const("one", Tensor::scalar_f32(1.0));
        let two = graph.add_node("two", Op::Binary(Binary::Add), &[one, one], DType::F32, Shape::from([]));
        let same = graph.add_node("same", Op::Reshape, &[x], DType::F32, shape.clone());
        let y = graph.add_node("y", Op::Binary(Binary::Mul), &[same, two], DType::F32, shape.clone());
        graph.add_node("unused", Op::Unary(Unary::Relu), &[y], DType::F32, shape);
        graph.add_output("y", y);
        let simple = simplify(&graph);
        assert_eq!(simple.nodes.len(), 1);
        assert_eq!(simple.nodes[0].inputs, [x, two]);
        assert_eq!(simple.constant(two).unwrap().values::<f32>(), [2.0]);
        simple.validate().unwrap();
    }

    #[test]
    fn gates_transposes_and_padding_are_merged() {
        let mut graph = Graph::default();
        let dims = Shape::from([1, 2, 4, 4]);
        let x = graph.add_input("x", DType::F32, dims.clone());
        let gate = graph.add_node("gate", Op::Unary(Unary::Sigmoid), &[x], DType::F32, dims.clone());
        let silu = graph.add_node("silu", Op::Binary(Binary::Mul), &[gate, x], DType::F32, dims.clone());
        let pad = Op::Pad { pads: vec![(0, 0), (0, 0), (0, 1), (1, 0)], value: 0.0 };
        let padded = graph.add_node("pad", pad, &[silu], DType::F32, Shape::from([1, 2, 5, 5]));
        let weights = graph.add_const("w", Tensor::f32([1, 2, 2, 2], &[1.0; 8]));
        let attrs = ConvAttrs { kernel: [2, 2], strides: [1, 1], pads: [0; 4], dilations: [1, 1], groups: 1 };
        let y = graph.add_node("conv", Op::Conv(attrs), &[padded, weights], DType::F32, [1, 1, 4, 4].into());
        graph.add_output("y", y);
        let simple = simplify(&graph);
        assert_eq!(simple.nodes.len(), 2);
        assert_eq!(simple.nodes[0].op, Op::Unary(Unary::Silu));
        let Op::Conv(attrs) = &simple.nodes[1].op else { panic!("a convolution") };
        assert_eq!(attrs.pads, [0, 1, 1, 0]);
    }
}
