//! Rebuilding a graph node by node with some of them replaced.
//!
//! Rules look at the old graph and add nodes to the new one. A replaced node's operands that nothing else
//! reads stay behind as dead nodes, which [`live`] removes.

use std::collections::HashMap;

use reef_graph::{DType, Graph, Node, Op, Shape, Tensor, Value, ValueId, ValueKind};

/// A graph under reconstruction.
pub(crate) struct Rewriter<'a> {
    /// The graph that rules look at.
    pub old: &'a Graph,
    /// The graph that rules add nodes to.
    pub new: Graph,
    map: Vec<Option<ValueId>>,
    uses: Vec<usize>,
}

impl<'a> Rewriter<'a> {
    /// Starts with the inputs of `old`.
    pub fn new(old: &'a Graph) -> Self {
        let mut uses = vec![0; old.values.len()];
        for id in old.nodes.iter().flat_map(|node| &node.inputs).chain(&old.outputs) {
            uses[id.index()] += 1;
        }
        let mut rewriter = Self { old, new: Graph::default(), map: vec![None; old.values.len()], uses };
        for &input in &old.inputs {
            let Value { name, dtype, shape, .. } = old.value(input).clone();
            let id = rewriter.new.add_input(name, dtype, shape);
            rewriter.map[input.index()] = Some(id);
        }
        rewriter
    }

    /// The new graph's value for one of the old graph that is already there.
    pub fn get(&mut self, old: ValueId) -> ValueId {
        if let Some(id) = self.map[old.index()] {
            return id;
        }
        let value = self.old.value(old);
        let ValueKind::Const(tensor) = &value.kind else {
            unreachable!("only constants are added when they are first read: {}", value.name)
        };
        let id = self.new.add_const(value.name.clone(), tensor.clone());
        self.map[old.index()] = Some(id);
        id
    }

    /// Takes a node over as it is.
    pub fn copy(&mut self, node: &Node) {
        self.emit(&node.name, node.op.clone(), &node.inputs, &node.outputs);
    }

    /// Adds a node that reads and makes these values of the old graph.
    pub fn emit(&mut self, name: &str, op: Op, inputs: &[ValueId], outputs: &[ValueId]) {
        let inputs: Vec<ValueId> = inputs.iter().map(|&input| self.get(input)).collect();
        let facts: Vec<(DType, Shape)> = outputs
            .iter()
            .map(|&output| (self.old.value(output).dtype, self.old.value(output).shape.clone()))
            .collect();
        let made = self.new.add_node_multi(name, op, &inputs, facts);
        for (&output, id) in outputs.iter().zip(made) {
            self.map[output.index()] = Some(id);
        }
    }

    /// Lets `new` stand for the old graph's value `old`.
    pub fn replace(&mut self, old: ValueId, new: ValueId) {
        let (was, is) = (self.old.value(old), self.new.value(new));
        assert!(
            was.dtype == is.dtype && was.shape == is.shape,
            "{}: {} is not {}",
            was.name,
            is.shape,
            was.shape
        );
        self.map[old.index()] = Some(new);
    }

    /// The new graph, with the old one's outputs.
    pub fn finish(mut self) -> Graph {
        for (&output, name) in self.old.outputs.iter().zip(&self.old.output_names) {
            let id = self.get(output);
            self.new.add_output(name.clone(), id);
        }
        self.new
    }

    /// The node of the old graph that makes `id`, if one does.
    pub fn def(&self, id: ValueId) -> Option<&'a Node> {
        match self.old.value(id).kind {
            ValueKind::Node(node) => Some(&self.old.nodes[node.index()]),
            _ => None,
        }
    }

    /// The node that makes `id`, if nothing but one operand reads it.
    pub fn sole(&self, id: ValueId) -> Option<&'a Node> {
        self.def(id).filter(|_| self.uses[id.index()] == 1)
    }

    /// The constant that `id` is in the old graph.
    pub fn constant(&self, id: ValueId) -> Option<&'a Tensor> {
        self.old.constant(id)
    }

    /// The shape of `id` in the old graph.
    pub fn shape(&self, id: ValueId) -> &'a Shape {
        &self.old.value(id).shape
    }

    /// The element type of `id` in the old graph.
    pub fn dtype(&self, id: ValueId) -> DType {
        self.old.value(id).dtype
    }

    /// The value of all elements of the constant `id`, if they are equal.
    pub fn uniform(&self, id: ValueId) -> Option<f64> {
        crate::consts::uniform(self.constant(id)?)
    }

    /// Adds a constant to the new graph.
    pub fn add_const(&mut self, name: &str, tensor: Tensor) -> ValueId {
        self.new.add_const(name, tensor)
    }
}

/// The graph without nodes and constants that no output needs, and with equal constants and equal nodes once.
pub(crate) fn live(graph: &Graph) -> Graph {
    let mut needed = vec![false; graph.values.len()];
    graph.outputs.iter().for_each(|id| needed[id.index()] = true);
    for node in graph.nodes.iter().rev() {
        if node.outputs.iter().any(|id| needed[id.index()]) {
            node.inputs.iter().for_each(|id| needed[id.index()] = true);
        }
    }
    let mut rewriter = Rewriter::new(graph);
    let mut constants = HashMap::new();
    let mut seen: HashMap<(String, Vec<ValueId>, DType, Shape), ValueId> = HashMap::new();
    for (index, value) in graph.values.iter().enumerate().filter(|&(index, _)| needed[index]) {
        if let ValueKind::Const(tensor) = &value.kind {
            let id = rewriter.get(*constants.entry(tensor.key()).or_insert(ValueId(index as u32)));
            rewriter.replace(ValueId(index as u32), id);
        }
    }
    for node in &graph.nodes {
        if !node.outputs.iter().any(|id| needed[id.index()]) {
            continue;
        }
        let [output] = node.outputs[..] else {
            rewriter.copy(node);
            continue;
        };
        let inputs: Vec<ValueId> = node.inputs.iter().map(|&input| rewriter.get(input)).collect();
        let value = graph.value(output);
        let key = (format!("{:?}", node.op), inputs, value.dtype, value.shape.clone());
        match seen.get(&key) {
            Some(&same) if !matches!(node.op, Op::Host(_)) => rewriter.replace(output, same),
            _ => {
                rewriter.copy(node);
                let made = rewriter.get(output);
                seen.insert(key, made);
            }
        }
    }
    rewriter.finish()
}
