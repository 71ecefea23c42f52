//! The graph: values and nodes in execution order, with the checks that every later crate relies on.
//!
//! Invariants (checked by [`Graph::validate`]): nodes are in topological order; every value is made exactly
//! once, by the graph's inputs, a constant or one node; constants agree with their declared type and shape; a
//! recurrent network, and what goes along an axis, by indices or through windows, has the operands and
//! outputs that its attributes tell of, an ensemble of trees and a product with packed weights those that
//! they need.

use std::fmt;

use crate::dtype::DType;
use crate::op::Op;
use crate::packed::PackedWeights;
use crate::tensor::{Shape, Tensor};
use crate::trees;

reef_base::id! {
    /// A value of a graph.
    ValueId(u32)
}

reef_base::id! {
    /// A node of a graph; also its position in execution order.
    NodeId(u32)
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueKind {
    /// The graph's input with this index.
    Input(usize),
    /// A constant.
    Const(Tensor),
    /// An output of a node.
    Node(NodeId),
}

/// A tensor that flows through the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Its name in the model file, or one made from its node's.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape, as the model has it (images NCHW).
    pub shape: Shape,
    /// Where it comes from.
    pub kind: ValueKind,
}

/// One operator applied to values.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name in the model file.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// What it reads.
    pub inputs: Vec<ValueId>,
    /// What it makes. One value, except for host operators, selections, recurrent networks and the largest
    /// elements along an axis or of windows.
    pub outputs: Vec<ValueId>,
}

/// Why a graph is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A node is wrong by itself or uses values that are not there yet.
    #[error("node {node} ({op}): {reason}")]
    Node {
        /// The node's name.
        node: String,
        /// The operator's name.
        op: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// An output of the graph is not made by anything.
    #[error("output {index} of the graph is not a value of it")]
    Output {
        /// The output's index.
        index: usize,
    },
}

/// A model imported and normalised: typed, with concrete shapes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Every value.
    pub values: Vec<Value>,
    /// Every node, in execution order.
    pub nodes: Vec<Node>,
    /// The model's inputs, in its order.
    pub inputs: Vec<ValueId>,
    /// The model's outputs, in its order.
    pub outputs: Vec<ValueId>,
    /// The names of the outputs as clients write them; a value may be an output under several names.
    pub output_names: Vec<String>,
}

impl Graph {
    /// The value with this id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// Adds an input.
    pub fn add_input(&mut self, name: impl Into<String>, dtype: DType, shape: Shape) -> ValueId {
        let kind = ValueKind::Input(self.inputs.len());
        let id = self.push_value(Value { name: name.into(), dtype, shape, kind });
        self.inputs.push(id);
        id
    }

    /// Adds a constant.
    pub fn add_const(&mut self, name: impl Into<String>, tensor: Tensor) -> ValueId {
        let (dtype, shape) = (tensor.dtype(), tensor.shape().clone());
        self.push_value(Value { name: name.into(), dtype, shape, kind: ValueKind::Const(tensor) })
    }

    /// Adds a node with one output and returns it.
    pub fn add_node(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[ValueId],
        dtype: DType,
        shape: Shape,
    ) -> ValueId {
        self.add_node_multi(name, op, inputs, vec![(dtype, shape)])[0]
    }

    /// Adds a node with several outputs and returns them.
    pub fn add_node_multi(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[ValueId],
        outputs: Vec<(DType, Shape)>,
    ) -> Vec<ValueId> {
        let name = name.into();
        let node = NodeId(self.nodes.len() as u32);
        let single = outputs.len() == 1;
        let outputs: Vec<ValueId> = outputs
            .into_iter()
            .enumerate()
            .map(|(slot, (dtype, shape))| {
                let name = if single { name.clone() } else { format!("{name}.{slot}") };
                self.push_value(Value { name, dtype, shape, kind: ValueKind::Node(node) })
            })
            .collect();
        self.nodes.push(Node { name, op, inputs: inputs.to_vec(), outputs: outputs.clone() });
        outputs
    }

    /// Declares `value` an output of the model under `name`.
    pub fn add_output(&mut self, name: impl Into<String>, value: ValueId) {
        self.outputs.push(value);
        self.output_names.push(name.into());
    }

    /// The constant that `id` is, if it is one.
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        match &self.value(id).kind {
            ValueKind::Const(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// For every value, the nodes that read it, in order and without repetition.
    pub fn consumers(&self) -> Vec<Vec<NodeId>> {
        let mut consumers: Vec<Vec<NodeId>> = vec![Vec::new(); self.values.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            let id = NodeId(index as u32);
            for input in &node.inputs {
                let list = &mut consumers[input.index()];
                if list.last() != Some(&id) {
                    list.push(id);
                }
            }
        }
        consumers
    }

    /// Elements of all constants that are weights: floating point, counted once per content.
    pub fn parameter_count(&self) -> usize {
        let mut seen = std::collections::HashSet::new();
        self.values
            .iter()
            .filter_map(|value| match &value.kind {
                ValueKind::Const(tensor) if tensor.dtype().is_float() => Some(tensor),
                _ => None,
            })
            .filter(|tensor| seen.insert(tensor.key()))
            .map(|tensor| tensor.shape().elements())
            .sum()
    }

    /// Checks the invariants in the module's documentation.
    pub fn validate(&self) -> Result<(), GraphError> {
        let mut ready: Vec<bool> =
            self.values.iter().map(|value| !matches!(value.kind, ValueKind::Node(_))).collect();
        for (index, node) in self.nodes.iter().enumerate() {
            let fail =
                |reason: String| GraphError::Node { node: node.name.clone(), op: node.op.name(), reason };
            for input in &node.inputs {
                match ready.get(input.index()) {
                    Some(true) => {}
                    Some(false) => return Err(fail(format!("input {input} is used before it is made"))),
                    None => return Err(fail(format!("input {input} is not a value"))),
                }
            }
            for output in &node.outputs {
                let kind = self.values.get(output.index()).map(|value| &value.kind);
                if kind != Some(&ValueKind::Node(NodeId(index as u32))) || ready[output.index()] {
                    return Err(fail(format!("output {output} is made elsewhere too")));
                }
                ready[output.index()] = true;
            }
            if let Op::Recurrent(attrs) = &node.op {
                self.check_outputs(node, |inputs| attrs.outputs(inputs)).map_err(fail)?;
            }
            if let Op::Along { along, axis } = &node.op {
                let outputs = |inputs: &[(DType, Shape)]| match inputs {
                    [(dtype, x)] => along.outputs(*axis, *dtype, x),
                    _ => Err(format!("it has {} inputs", inputs.len())),
                };
                self.check_outputs(node, outputs).map_err(fail)?;
            }
            if let Op::Vision(vision) = &node.op {
                self.check_outputs(node, |inputs| vision.outputs(inputs)).map_err(fail)?;
            }
            if let Op::Take(_) | Op::Put(..) | Op::MaxPool(_) = &node.op {
                self.check_outputs(node, |inputs| placed(&node.op, inputs)).map_err(fail)?;
            }
            if let Op::TreeEnsemble(_) = &node.op {
                self.check_trees(node).map_err(fail)?;
            }
            if let Op::MatMulPacked(weights) = &node.op {
                self.check_packed(node, *weights).map_err(fail)?;
            }
        }
        let unmade = self.outputs.iter().position(|id| !ready.get(id.index()).copied().unwrap_or(false));
        unmade.map_or(Ok(()), |index| Err(GraphError::Output { index }))
    }

    /// What a node makes must be what its operator makes of its inputs.
    fn check_outputs(
        &self,
        node: &Node,
        outputs: impl Fn(&[(DType, Shape)]) -> Result<Vec<(DType, Shape)>, String>,
    ) -> Result<(), String> {
        let fact = |id: &ValueId| (self.value(*id).dtype, self.value(*id).shape.clone());
        let inputs: Vec<_> = node.inputs.iter().map(fact).collect();
        let (declared, made) = (node.outputs.iter().map(fact).collect::<Vec<_>>(), outputs(&inputs)?);
        if made != declared {
            return Err(format!("it makes {made:?}, not {declared:?}"));
        }
        Ok(())
    }

    fn check_trees(&self, node: &Node) -> Result<(), String> {
        let fact = |id: &ValueId| (self.value(*id).dtype, self.value(*id).shape.clone());
        let inputs: Vec<_> = node.inputs.iter().map(fact).collect();
        trees::flaw_of(&inputs, &fact(&node.outputs[0])).map_or(Ok(()), Err)
    }

    fn check_packed(&self, node: &Node, weights: PackedWeights) -> Result<(), String> {
        let fact = |id: &ValueId| (self.value(*id).dtype, self.value(*id).shape.clone());
        let inputs: Vec<_> = node.inputs.iter().map(fact).collect();
        weights.flaw(&inputs, &fact(&node.outputs[0])).map_or(Ok(()), |flaw| Err(format!("it {flaw}")))
    }

    fn push_value(&mut self, value: Value) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        self.values.push(value);
        id
    }
}

/// What is made of operands by their places.
fn placed(op: &Op, inputs: &[(DType, Shape)]) -> Result<Vec<(DType, Shape)>, String> {
    let counts = |dtype: DType| match dtype {
        DType::I64 | DType::I32 => Ok(()),
        other => Err(format!("its indices are {other}")),
    };
    match (op, inputs) {
        (Op::Take(picks), [(dtype, data), (of_indices, indices)]) => {
            counts(*of_indices)?;
            Ok(vec![(*dtype, picks.moved(data, indices)?)])
        }
        (Op::Put(picks, putting), [(dtype, data), (of_indices, indices), updates]) => {
            counts(*of_indices)?;
            let needed = (*dtype, picks.moved(data, indices)?);
            match putting.flaw(*dtype) {
                Some(flaw) => Err(format!("it {flaw}")),
                None if *updates != needed => Err(format!("its updates are {updates:?}, not {needed:?}")),
                None => Ok(vec![(*dtype, data.clone())]),
            }
        }
        (Op::MaxPool(windows), [(dtype, x)]) => windows.outputs(*dtype, x),
        _ => Err(format!("it has {} inputs", inputs.len())),
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &id in &self.inputs {
            let value = self.value(id);
            writeln!(f, "input %{id} {} {}{}", value.name, value.dtype, value.shape)?;
        }
        for node in &self.nodes {
            let outputs: Vec<String> = node
                .outputs
                .iter()
                .map(|&id| format!("%{id} {}{}", self.value(id).dtype, self.value(id).shape))
                .collect();
            let inputs: Vec<String> = node.inputs.iter().map(|&id| self.operand(id)).collect();
            writeln!(f, "{} = {:?} {}", outputs.join(", "), node.op, inputs.join(" "))?;
        }
        for (&id, name) in self.outputs.iter().zip(&self.output_names) {
            writeln!(f, "output %{id} {name}")?;
        }
        Ok(())
    }
}

impl Graph {
    fn operand(&self, id: ValueId) -> String {
        match &self.value(id).kind {
            ValueKind::Const(tensor) => format!("{tensor:?}"),
            _ => format!("%{id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Binary, Unary};

    fn sample() -> Graph {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DType::F32, Shape::from([2, 3]));
        let one = graph.add_const("one", Tensor::scalar_f32(1.0));
        let y = graph.add_node("add", Op::Binary(Binary::Add), &[x, one], DType::F32, Shape::from([2, 3]));
        let z = graph.add_node("relu", Op::Unary(Unary::Relu), &[y], DType::F32, Shape::from([2, 3]));
        graph.add_output("z", z);
        graph
    }

    #[test]
    fn a_built_graph_is_valid_and_knows_its_consumers() {
        let graph = sample();
        assert_eq!(graph.validate(), Ok(()));
        assert_eq!(graph.consumers()[0], [NodeId(0)]);
        assert_eq!(graph.parameter_count(), 1);
        assert!(graph.to_string().ends_with("output %3 z\n"));
    }

    #[test]
    fn order_and_single_definition_are_checked() {
        let mut swapped = sample();
        swapped.nodes.swap(0, 1);
        assert!(matches!(swapped.validate(), Err(GraphError::Node { .. })));
        let mut dangling = sample();
        dangling.outputs[0] = ValueId(99);
        assert_eq!(dangling.validate(), Err(GraphError::Output { index: 0 }));
    }
}
