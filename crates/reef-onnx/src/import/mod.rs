//! ONNX nodes as our operators, one by one, for inputs of known types and shapes.
//!
//! Nodes are taken in their order. Whatever can be computed from constants is a constant at once, so that
//! shapes that a model computes are known where they are needed. A node that no reading here covers becomes a
//! host operator ([`foreign`]); one that cannot be read at all fails those that need it, and no others.

mod affine;
mod along;
mod attention;
mod attributes;
mod border;
mod columns;
mod elementwise;
mod foreign;
mod graph;
mod grouped;
mod indexed;
mod loss;
mod microsoft;
mod ml;
mod movement;
mod narrow;
mod norm;
mod packed;
mod pooled;
mod product;
mod quantized;
mod random;
mod recurrent;
mod recurrent_integers;
mod reduce;
mod relative;
mod resize;
mod reversed;
mod rotary;
mod select;
mod shape;
mod sides;
mod spectral;
mod stateful;
mod sums;
mod transposed;
mod vision;
mod volume;
mod window;

use std::collections::HashMap;
use std::sync::Arc;

use reef_graph::{DType, Graph, Op, Shape, Tensor, Value, ValueId, ValueKind};
use reef_plan::HostKernel;
use tract_onnx::pb::NodeProto;

use crate::consts::ConstPool;
use crate::dry::Tried;
use crate::error::ImportError;
use crate::register;
use attributes::Node;
pub(crate) use foreign::Foreign;
pub(crate) use graph::Builder;

/// Why a node has no native form.
#[derive(Clone, Debug)]
pub(crate) enum Reject {
    /// None is known; the host may have one.
    Foreign(String),
    /// The model is at fault.
    Wrong(String),
}

impl From<String> for Reject {
    fn from(reason: String) -> Reject {
        Reject::Foreign(reason)
    }
}

impl From<&str> for Reject {
    fn from(reason: &str) -> Reject {
        Reject::Foreign(reason.to_owned())
    }
}

/// A model's fault.
fn wrong<T>(reason: impl Into<String>) -> Result<T, Reject> {
    Err(Reject::Wrong(reason.into()))
}

/// What all specialisations of a model share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared<'m> {
    /// The version of ONNX's own operators.
    pub opset: i64,
    /// Constants that were folded.
    pub pool: &'m ConstPool,
    /// Host kernels that ran before.
    pub tried: &'m Tried,
}

/// What a name stands for.
#[derive(Clone, Debug)]
enum Named {
    Value(ValueId),
    /// What makes it cannot be read.
    Failed(Arc<(String, String, String)>),
}

/// A graph in the making.
#[derive(Clone, Debug)]
pub(crate) struct Import<'m> {
    shared: Shared<'m>,
    builder: Builder<'m>,
    names: HashMap<String, Named>,
}

impl<'m> Import<'m> {
    pub fn new(shared: Shared<'m>) -> Import<'m> {
        Import { shared, builder: Builder::new(shared.pool), names: HashMap::new() }
    }

    /// An input of the graph.
    pub fn input(&mut self, name: &str, dtype: DType, shape: Shape) {
        let value = self.builder.graph.add_input(name, dtype, shape);
        self.names.insert(name.to_owned(), Named::Value(value));
    }

    /// A constant under a name.
    pub fn constant(&mut self, name: &str, tensor: Tensor) {
        let value = self.builder.constant(name, tensor);
        self.names.insert(name.to_owned(), Named::Value(value));
    }

    /// Whether a name stands for something.
    pub fn knows(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// What is known of a name: its type and shape.
    pub fn value(&self, name: &str) -> Result<&Value, ImportError> {
        self.id(name).map(|id| self.builder.graph.value(id))
    }

    /// The constant that a name stands for.
    pub fn known(&self, name: &str) -> Result<Option<&Tensor>, ImportError> {
        self.id(name).map(|id| self.builder.known(id))
    }

    fn id(&self, name: &str) -> Result<ValueId, ImportError> {
        match self.names.get(name) {
            Some(Named::Value(id)) => Ok(*id),
            Some(Named::Failed(fault)) => {
                let (node, operator, reason) = (**fault).clone();
                Err(ImportError::Unsupported { node, operator, reason })
            }
            None => Err(ImportError::Parse { reason: format!("nothing makes the value {name}") }),
        }
    }

    /// Adds a node, whose inputs are all known. What is wrong with it is told to those who need its results.
    pub fn node(&mut self, node: &NodeProto) {
        let made = match self.failed_operand(node) {
            Some(fault) => Err(fault),
            None => {
                self.read(node).map_err(|reason| Arc::new((node.name.clone(), node.op_type.clone(), reason)))
            }
        };
        for (slot, output) in node.output.iter().enumerate().filter(|(_, output)| !output.is_empty()) {
            let named = match &made {
                Ok(values) => match values.get(slot) {
                    Some(&value) => Named::Value(value),
                    None => {
                        let why = format!("its output {slot} is not computed");
                        Named::Failed(Arc::new((node.name.clone(), node.op_type.clone(), why)))
                    }
                },
                Err(fault) => Named::Failed(fault.clone()),
            };
            self.names.insert(output.clone(), named);
        }
    }

    fn failed_operand(&self, node: &NodeProto) -> Option<Arc<(String, String, String)>> {
        node.input.iter().find_map(|input| match self.names.get(input) {
            Some(Named::Failed(fault)) => Some(fault.clone()),
            _ => None,
        })
    }

    fn read(&mut self, proto: &NodeProto) -> Result<Vec<ValueId>, String> {
        let mut inputs = vec![];
        for name in &proto.input {
            inputs.push(match name.is_empty() {
                true => None,
                false => Some(self.id(name).map_err(|error| error.to_string())?),
            });
        }
        let node = Node::new(proto, inputs, self.shared.opset);
        if let Some(reason) = register::numbers_refusal(proto) {
            return Err(reason);
        }
        let (nodes, values) = (self.builder.graph.nodes.len(), self.builder.graph.values.len());
        let reason = match native(&mut self.builder, &node) {
            Ok(values) => return Ok(values),
            Err(Reject::Wrong(reason)) => return Err(reason),
            Err(Reject::Foreign(reason)) => reason,
        };
        self.builder.forget(nodes, values);
        let foreign = Foreign { shared: self.shared };
        foreign.read(&mut self.builder, &node).map_err(|why| match reason.is_empty() {
            true => why,
            false => format!("no native kernel ({reason}), and not on the host either: {why}"),
        })
    }

    /// The graph that computes `outputs`, which get these names.
    pub fn finish(
        mut self,
        outputs: &[(String, String)],
    ) -> Result<(Graph, Vec<Arc<dyn HostKernel>>), ImportError> {
        for (value, name) in outputs {
            let id = self.id(value)?;
            self.builder.graph.add_output(name.as_str(), id);
        }
        Ok((self.builder.graph, self.builder.kernels))
    }
}

/// The host operators of a graph numbered by the kernels that are left.
pub(crate) fn renumber(graph: &mut Graph, kernels: &[Arc<dyn HostKernel>]) -> Vec<Arc<dyn HostKernel>> {
    let mut used = vec![];
    for node in &mut graph.nodes {
        if let Op::Host(host) = &mut node.op {
            used.push(kernels[host.index].clone());
            host.index = used.len() - 1;
        }
    }
    used
}

/// Whether an operator has a reading here.
#[cfg(test)]
pub(crate) fn reads(operator: &str) -> bool {
    let pool = ConstPool::default();
    let proto = NodeProto { op_type: operator.into(), output: vec!["y".into()], ..NodeProto::default() };
    let node = Node::new(&proto, vec![], 24);
    !matches!(native(&mut Builder::new(&pool), &node), Err(Reject::Foreign(reason)) if reason.is_empty())
}

/// A node's outputs, by slot.
fn native(builder: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let readings = [
        elementwise::read,
        movement::read,
        shape::read,
        reduce::read,
        along::read,
        product::read,
        indexed::read,
        window::read,
        pooled::read,
        transposed::read,
        resize::read,
        norm::read,
        recurrent::read,
        recurrent_integers::read,
        quantized::read,
        narrow::read,
        select::read,
        microsoft::read,
        packed::read,
        grouped::read,
        rotary::read,
        attention::read,
        loss::read,
        reversed::read,
        relative::read,
        border::read,
        stateful::read,
        affine::read,
        vision::read,
        ml::read,
        spectral::read,
        random::read,
    ];
    for reading in readings {
        if let Some(made) = reading(builder, node) {
            return made;
        }
    }
    Err(Reject::Foreign(String::new()))
}

/// What a reading gives for a node: `None` of operators that it does not know.
type Reading = Option<Result<Vec<ValueId>, Reject>>;

/// Whether a value is a constant.
fn is_constant(value: &Value) -> bool {
    matches!(value.kind, ValueKind::Const(_))
}
