//! What only moves numbers that were 8-bit integers, or picks the largest, does so with the integers: where
//! `Dequantize` comes before it and `Quantize` with the same scale and zero point behind it, as exporters
//! write it around every operator, or casts, as the import writes them.
//!
//! The result is the same to the bit: `(q − zero)·scale` is not smaller for a larger q, and is q again.

use reef_graph::scalar::Element;
use reef_graph::{DType, Graph, Node, NodeId, Op, PoolKind, Quantization, ValueId, ValueKind};

use crate::quantized::numbered;

/// Operators one after the other that are looked through.
const DEPTH_MAX: usize = 16;

/// Scales between these have no product with an integer of 8 bits that is infinite or not normal.
const SCALES: std::ops::RangeInclusive<f32> = 1e-30..=1e30;

/// The same function with integers moved; `pools` says whether the device has pools of them.
pub(crate) fn on_integers(graph: &Graph, pools: bool) -> Graph {
    let consumers = graph.consumers();
    let mut rewriter =
        Rewriter { graph: Graph { nodes: vec![], ..graph.clone() }, source: graph, consumers, pools };
    for node in &graph.nodes {
        if rewriter.quantize(node).is_none() {
            rewriter.graph.nodes.push(node.clone());
        }
    }
    numbered(rewriter.graph)
}

/// What integers stand for.
#[derive(Clone, Copy, PartialEq)]
struct Meaning {
    dtype: DType,
    scale: f32,
    zero: i64,
}

struct Rewriter<'a> {
    graph: Graph,
    source: &'a Graph,
    consumers: Vec<Vec<NodeId>>,
    pools: bool,
}

impl<'a> Rewriter<'a> {
    /// Makes the integers of `node` of those that its operand was, if it is the way back of what only moves.
    fn quantize(&mut self, node: &Node) -> Option<()> {
        let number = *node.inputs.first()?;
        let meaning = match &node.op {
            Op::Quantize(how) => self.meaning(node, how, [number, node.outputs[0]])?,
            Op::Cast { to } => self.itself(number, *to)?,
            _ => return None,
        };
        if !self.moves(number, meaning, 0) {
            return None;
        }
        let before = self.graph.nodes.len();
        let integers = self.moved(number, meaning.dtype);
        if self.graph.nodes.len() == before {
            let shape = self.source.value(number).shape.clone();
            self.graph.add_node(node.name.clone(), Op::Reshape, &[integers], meaning.dtype, shape);
        }
        // The last node makes the value that others read.
        let last = self.graph.nodes.last_mut().expect("just added");
        last.outputs.clone_from(&node.outputs);
        Some(())
    }

    /// What the integers of a node of these numbers and integers stand for, if that is constant, the same for
    /// all, and they are of the whole range of 8 bits.
    fn meaning(&self, node: &Node, how: &Quantization, [number, integer]: [ValueId; 2]) -> Option<Meaning> {
        let constant = |at: usize| {
            let tensor = self.source.constant(*node.inputs.get(at)?)?;
            let one = tensor.shape().elements() == 1;
            one.then(|| Element::read(tensor.dtype(), tensor.bytes().as_slice()))
        };
        let dtype = self.source.value(integer).dtype;
        let scale = constant(1)?.float() as f32;
        let zero = if node.inputs.len() > 2 { constant(2)?.int() } else { 0 };
        let floats = [number, node.inputs[1]].map(|id| self.source.value(id).dtype) == [DType::F32; 2];
        let whole = how.block == 0 && how.bits == 8 && matches!(dtype, DType::U8 | DType::I8);
        (floats && whole && SCALES.contains(&scale)).then_some(Meaning { dtype, scale, zero })
    }

    /// What integers stand for that are cast to numbers and back.
    fn itself(&self, number: ValueId, dtype: DType) -> Option<Meaning> {
        let float = self.source.value(number).dtype == DType::F32;
        (float && matches!(dtype, DType::U8 | DType::I8)).then_some(Meaning { dtype, scale: 1.0, zero: 0 })
    }

    fn maker(&self, value: ValueId) -> Option<&'a Node> {
        match self.source.value(value).kind {
            ValueKind::Node(id) => Some(&self.source.nodes[id.index()]),
            _ => None,
        }
    }

    /// The integers that a value is the numbers of.
    fn integers(&self, value: ValueId, meaning: Meaning) -> Option<ValueId> {
        let node = self.maker(value)?;
        let integer = node.inputs.first().copied()?;
        let own = match &node.op {
            Op::Dequantize(how) => self.meaning(node, how, [value, integer]),
            Op::Cast { .. } => self.itself(value, self.source.value(integer).dtype),
            _ => None,
        };
        (own == Some(meaning)).then_some(integer)
    }

    /// Whether a value is made of numbers of integers by what only moves them, and nobody else reads it.
    fn moves(&self, value: ValueId, meaning: Meaning, depth: usize) -> bool {
        if self.integers(value, meaning).is_some() {
            return true;
        }
        let Some(node) = self.maker(value).filter(|_| depth < DEPTH_MAX) else { return false };
        let alone = self.consumers[value.index()].len() == 1 && !self.source.outputs.contains(&value);
        let only = match &node.op {
            Op::Reshape | Op::Transpose { .. } | Op::Slice { .. } | Op::Concat { .. } => true,
            Op::Pool(attrs) => self.pools && attrs.kind == PoolKind::Max,
            _ => false,
        };
        alone && only && node.inputs.iter().all(|&input| self.moves(input, meaning, depth + 1))
    }

    /// The integers of a value that [`Rewriter::moves`].
    fn moved(&mut self, value: ValueId, dtype: DType) -> ValueId {
        let node = self.maker(value).expect("it is made by a node");
        if let Op::Dequantize(_) | Op::Cast { .. } = node.op {
            return node.inputs[0];
        }
        let inputs: Vec<ValueId> = node.inputs.iter().map(|&input| self.moved(input, dtype)).collect();
        let shape = self.source.value(value).shape.clone();
        self.graph.add_node(format!("{}.integers", node.name), node.op.clone(), &inputs, dtype, shape)
    }
}
