//! Products of numbers that were 8-bit integers become products of these integers: `Dequantize` of both
//! factors before a convolution or product, as exporters write static quantisation, and the sums times both
//! scales behind it. The sums are then exact, where those of f32 were rounded.
//!
//! Only for devices that have kernels for integers.

use reef_graph::{
    Binary, ConvAttrs, DType, Graph, Node, NodeId, Op, Shape, Tensor, ValueId, ValueKind, ZeroPoints,
};

/// Output channels of a group from which on integers are worth it: panels of them are multiplied at once.
const GROUP_OUTPUTS_MIN: usize = 4;

/// The same function, within the rounding of f32, with products of integers.
pub(crate) fn to_integers(graph: &Graph) -> Graph {
    let mut rewriter = Rewriter { graph: Graph { nodes: vec![], ..graph.clone() }, source: graph };
    for node in &graph.nodes {
        let rewritten = match &node.op {
            Op::Conv(attrs) => rewriter.conv(node, attrs),
            Op::MatMul { trans_a: false, trans_b } => rewriter.product(node, *trans_b),
            _ => None,
        };
        if rewritten.is_none() {
            rewriter.graph.nodes.push(node.clone());
        }
    }
    numbered(rewriter.graph)
}

/// A graph of other nodes than before: each value is told which one makes it.
pub(crate) fn numbered(mut graph: Graph) -> Graph {
    for (index, node) in graph.nodes.iter().enumerate() {
        for output in &node.outputs {
            graph.values[output.index()].kind = ValueKind::Node(NodeId(index as u32));
        }
    }
    graph
}

/// A value that is made of integers.
struct Quantised<'a> {
    integers: ValueId,
    scales: &'a [f32],
    /// The axis that they are along, if there are several.
    axis: usize,
    zero: Option<ValueId>,
}

struct Rewriter<'a> {
    graph: Graph,
    source: &'a Graph,
}

impl<'a> Rewriter<'a> {
    /// The integers that `id` is made of: with constant scales and zero points, not by block.
    fn quantised(&self, id: ValueId, types: &[DType]) -> Option<Quantised<'a>> {
        let ValueKind::Node(by) = self.source.value(id).kind else { return None };
        let node = &self.source.nodes[by.index()];
        let Op::Dequantize(how) = &node.op else { return None };
        let fact = |&id: &ValueId| (self.source.value(id).dtype, self.source.value(id).shape.clone());
        let facts: Vec<_> = node.inputs.iter().map(fact).collect();
        let scales = self.source.constant(node.inputs[1])?;
        let zero = node.inputs.get(2).copied();
        let fits = how.block == 0
            && how.flaw_of_dequantize(&facts, self.source.value(id).dtype).is_none()
            && types.contains(&facts[0].0)
            && [self.source.value(id).dtype, scales.dtype()] == [DType::F32; 2]
            && zero.is_none_or(|zero| self.source.constant(zero).is_some());
        fits.then(|| Quantised { integers: node.inputs[0], scales: scales.values(), axis: how.axis, zero })
    }

    fn node(
        &mut self,
        of: &Node,
        what: &str,
        op: Op,
        inputs: &[ValueId],
        dtype: DType,
        shape: &Shape,
    ) -> ValueId {
        self.graph.add_node(format!("{}.{what}", of.name), op, inputs, dtype, shape.clone())
    }

    fn conv(&mut self, node: &Node, attrs: &ConvAttrs) -> Option<()> {
        let [x, weights] =
            [node.inputs[0], node.inputs[1]].map(|id| self.quantised(id, &[DType::U8, DType::I8]));
        let (x, weights) = (x?, weights?);
        let outputs = self.source.value(node.inputs[1]).shape[0];
        let by_channel = weights.scales.len() == 1 || weights.axis == 0;
        let constant = self.source.constant(weights.integers).is_some();
        if x.scales.len() != 1 || !by_channel || !constant || outputs / attrs.groups < GROUP_OUTPUTS_MIN {
            return None;
        }
        let zeros = ZeroPoints { left: x.zero.is_some(), right: weights.zero.is_some() };
        let operands = [Some(x.integers), Some(weights.integers), x.zero, weights.zero];
        let op = Op::ConvInteger(attrs.clone(), zeros);
        let channels = |count: usize| if count == 1 { Shape::from([]) } else { Shape::from([count, 1, 1]) };
        let scales: Vec<f32> = weights.scales.iter().map(|scale| x.scales[0] * scale).collect();
        self.sums(node, op, &operands, (&scales, channels(scales.len())), node.inputs.get(2).copied());
        Some(())
    }

    fn product(&mut self, node: &Node, trans_b: bool) -> Option<()> {
        let [a, b] = [node.inputs[0], node.inputs[1]].map(|id| self.quantised(id, &[DType::U8, DType::I8]));
        let (a, b) = (a?, b?);
        let shape = self.source.value(node.inputs[1]).shape.clone();
        let columns = if trans_b { shape.rank() - 2 } else { shape.rank() - 1 };
        let by_column = b.scales.len() == 1 || shape.rank() == 2 && b.axis == columns;
        if a.scales.len() != 1 || !by_column {
            return None;
        }
        let mut right = b.integers;
        if trans_b {
            let rank = shape.rank();
            let perm: Vec<usize> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
            let turned: Shape = perm.iter().map(|&axis| shape[axis]).collect();
            let dtype = self.source.value(b.integers).dtype;
            right = self.node(node, "turned", Op::Transpose { perm }, &[b.integers], dtype, &turned);
        }
        let zeros = ZeroPoints { left: a.zero.is_some(), right: b.zero.is_some() };
        let operands = [Some(a.integers), Some(right), a.zero, b.zero];
        let scales: Vec<f32> = b.scales.iter().map(|scale| a.scales[0] * scale).collect();
        let dims = if scales.len() == 1 { Shape::from([]) } else { Shape::from([scales.len()]) };
        self.sums(node, Op::MatMulInteger(zeros), &operands, (&scales, dims), None);
        Some(())
    }

    /// The sums of `node` as integers, times scales, plus a bias by channel.
    fn sums(
        &mut self,
        node: &Node,
        op: Op,
        operands: &[Option<ValueId>],
        (scales, dims): (&[f32], Shape),
        bias: Option<ValueId>,
    ) {
        let shape = self.source.value(node.outputs[0]).shape.clone();
        let operands: Vec<ValueId> = operands.iter().flatten().copied().collect();
        let mut value = self.node(node, "integers", op, &operands, DType::I32, &shape);
        let whole = bias.and_then(|bias| self.whole_bias(bias, scales));
        let rest = bias.filter(|_| whole.is_none());
        if let Some(bias) = whole {
            let bias = self.graph.add_const(format!("{}.bias", node.name), bias);
            value = self.node(node, "biased", Op::Binary(Binary::Add), &[value, bias], DType::I32, &shape);
        }
        value = self.node(node, "float", Op::Cast { to: DType::F32 }, &[value], DType::F32, &shape);
        let scales = self.graph.add_const(format!("{}.scales", node.name), Tensor::f32(dims, scales));
        value = self.node(node, "scaled", Op::Binary(Binary::Mul), &[value, scales], DType::F32, &shape);
        if let Some(bias) = rest {
            let channels = Shape::from([shape[1], 1, 1]);
            let bias = self.node(node, "bias", Op::Reshape, &[bias], DType::F32, &channels);
            value = self.node(node, "sum", Op::Binary(Binary::Add), &[value, bias], DType::F32, &shape);
        }
        // The last node makes the value that others read.
        let last = self.graph.nodes.last_mut().expect("just added");
        debug_assert_eq!(last.outputs, [value]);
        last.outputs.clone_from(&node.outputs);
    }

    /// A bias of a convolution as i32 `[O,1,1]`, when it is one of the scales of the sums.
    fn whole_bias(&self, bias: ValueId, scales: &[f32]) -> Option<Tensor> {
        let quantised = self.quantised(bias, &[DType::I32])?;
        let integers = self.source.constant(quantised.integers)?;
        let none = |zero: ValueId| {
            self.source.constant(zero).is_some_and(|zero| zero.values::<i32>().iter().all(|&zero| zero == 0))
        };
        let fits = quantised.scales == scales && quantised.zero.is_none_or(none);
        let count = integers.shape().elements();
        fits.then(|| integers.reshaped(Shape::from([count, 1, 1])))
    }
}
