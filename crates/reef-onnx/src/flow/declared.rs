//! What a model says of its values, checked when it is loaded: that what is read was made before, in the
//! same graph or around it, that operators with bodies have these, with the inputs and results of the
//! operator, and that element types agree where both sides say theirs.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto, ValueInfoProto, type_proto};

use super::nodes::{body, int, unsupported};
use crate::error::ImportError;
use crate::scope::bodies;

/// Checks `graph`, in which every value has a name of its own, and the graphs in it.
pub(super) fn check(graph: &GraphProto) -> Result<(), ImportError> {
    Declared { types: HashMap::new(), visible: HashSet::new() }.graph(graph)
}

struct Declared {
    /// By the name of a value the code of its element type, where that is declared.
    types: HashMap<String, i32>,
    /// What may be read.
    visible: HashSet<String>,
}

impl Declared {
    fn graph(&mut self, graph: &GraphProto) -> Result<(), ImportError> {
        for info in &graph.input {
            self.types.extend(element_type(info).map(|code| (info.name.clone(), code)));
        }
        for tensor in &graph.initializer {
            self.types.insert(tensor.name.clone(), tensor.data_type);
        }
        let mut own: Vec<&String> = graph.input.iter().map(|input| &input.name).collect();
        own.extend(graph.initializer.iter().map(|tensor| &tensor.name));
        self.visible.extend(own.iter().copied().cloned());
        for node in &graph.node {
            self.are_made(&node.input)?;
            match node.op_type.as_str() {
                "If" => self.branches(node)?,
                "Loop" => self.rounds(node, 2, 1)?,
                "Scan" => {
                    let scanned = usize::try_from(int(node, "num_scan_inputs").unwrap_or(0)).unwrap_or(0);
                    self.states(node, node.input.len().saturating_sub(scanned))?;
                }
                _ => {}
            }
            bodies(node).try_for_each(|body| self.graph(body))?;
            own.extend(&node.output);
            self.visible.extend(node.output.iter().cloned());
        }
        self.are_made(graph.output.iter().map(|output| &output.name))?;
        own.into_iter().for_each(|name| {
            self.visible.remove(name);
        });
        Ok(())
    }

    fn are_made<'n>(&self, names: impl IntoIterator<Item = &'n String>) -> Result<(), ImportError> {
        let missing = names.into_iter().find(|name| !name.is_empty() && !self.visible.contains(*name));
        let error = |name| ImportError::Parse { reason: format!("nothing makes the value {name}") };
        missing.map_or(Ok(()), |name| Err(error(name)))
    }

    fn branches(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let (yes, no) = (body(node, "then_branch")?, body(node, "else_branch")?);
        for branch in [yes, no] {
            if branch.output.len() != node.output.len() {
                return Err(unsupported(node, "a branch has another number of results"));
            }
        }
        for ((output, a), b) in node.output.iter().zip(&yes.output).zip(&no.output) {
            let (a, b) = (element_type(a), element_type(b));
            self.agree(node, output, a, b)?;
            self.types.extend(a.or(b).map(|code| (output.clone(), code)));
        }
        Ok(())
    }

    /// A loop: before the carried values its body has so many inputs, and results.
    fn rounds(&mut self, node: &NodeProto, inputs: usize, results: usize) -> Result<(), ImportError> {
        let graph = body(node, "body")?;
        let carried = node.input.len().saturating_sub(inputs);
        let fits = graph.input.len() == carried + inputs && graph.output.len() >= carried + results;
        if !fits || node.output.len() + results > graph.output.len() {
            return Err(unsupported(node, "its body does not have its inputs and results"));
        }
        let boolean = Some(DataType::Bool as i32);
        self.agree(node, &graph.output[0].name, element_type(&graph.output[0]), boolean)?;
        let given = node.input.iter().skip(inputs);
        self.carried(node, given, &graph.input[inputs..], &graph.output[results..])
    }

    fn states(&mut self, node: &NodeProto, states: usize) -> Result<(), ImportError> {
        let graph = body(node, "body")?;
        if graph.input.len() != node.input.len() || graph.output.len() < states.max(node.output.len()) {
            return Err(unsupported(node, "its body does not have its inputs and results"));
        }
        self.carried(node, node.input.iter().take(states), &graph.input[..states], &graph.output)
    }

    /// Values that are carried from round to round keep their types.
    fn carried<'n>(
        &mut self,
        node: &NodeProto,
        given: impl Iterator<Item = &'n String>,
        inputs: &[ValueInfoProto],
        results: &[ValueInfoProto],
    ) -> Result<(), ImportError> {
        for ((given, input), result) in given.zip(inputs).zip(results) {
            let wanted = element_type(input);
            self.agree(node, &input.name, self.types.get(given).copied(), wanted)?;
            self.agree(node, &input.name, element_type(result), wanted)?;
        }
        for (output, result) in node.output.iter().zip(results) {
            self.types.extend(element_type(result).map(|code| (output.clone(), code)));
        }
        Ok(())
    }

    fn agree(&self, node: &NodeProto, name: &str, a: Option<i32>, b: Option<i32>) -> Result<(), ImportError> {
        let (Some(a), Some(b)) = (a, b) else { return Ok(()) };
        if a == b {
            return Ok(());
        }
        let called = |code: i32| DataType::try_from(code).map_or("unknown", |code| code.as_str_name());
        Err(unsupported(node, format!("{name} is {} here and {} there", called(a), called(b))))
    }
}

/// The code of a tensor's element type, where it is declared.
fn element_type(info: &ValueInfoProto) -> Option<i32> {
    let type_proto::Value::TensorType(tensor) = info.r#type.as_ref()?.value.as_ref()?;
    Some(tensor.elem_type).filter(|&code| code != DataType::Undefined as i32)
}
