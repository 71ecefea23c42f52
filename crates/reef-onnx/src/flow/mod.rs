//! Programs: models that branch, loop, use sequences, or learn shapes from data.
//!
//! Such a model is evaluated in part, over the ONNX graph: for the shapes of its
//! inputs, and the values of those that decide shapes, as much as can be computed in one go becomes a
//! *segment*, a model without any of that ([`step`]); the rest waits for a few values that the segment
//! computes, and is evaluated again when they are known ([`rest`]). What a loop leaves after a round is the
//! same rest as after the round before, so that a loop of any length is a few segments.

mod control;
mod declared;
mod found;
mod nodes;
mod operands;
mod remainder;
mod rest;
mod sequence;
mod step;

use std::sync::Arc;

use reef_graph::DType;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto};

pub use rest::{Rest, Row, Source, Take};
pub use step::{Given, Step, Then};

use crate::consts::ConstPool;
use crate::decl::TensorDecl;
use crate::dry::Tried;
use crate::error::ImportError;
use crate::import::Shared;
use crate::origin::Origin;
use crate::tensors::Weights;
use crate::{names, scope};
use step::Evaluation;

/// The domain of operators that only programs have.
pub(crate) const DOMAIN: &str = "reef";

/// A model as a program in the making.
#[derive(Debug)]
pub(crate) struct Flow {
    weights: Weights,
    opset: i64,
    pool: ConstPool,
    tried: Tried,
    start: Arc<Rest>,
    rests: rest::Rests,
    /// Names of the model's outputs.
    outputs: Vec<String>,
    /// For every input of the model whether its value decides shapes.
    shape_inputs: Vec<bool>,
    /// What names of ours begin with, and none of the model's.
    mark: String,
}

/// Whether only programs have this operator.
pub(crate) fn is_of_programs(operator: &str) -> bool {
    let operators = ["If", "Loop", "Scan", "NonZero", "Compress", "Unique", "NonMaxSuppression"];
    let sequences = ["SplitToSequence", "ConcatFromSequence"];
    operators.contains(&operator)
        || sequences.contains(&operator)
        || operator.starts_with("Sequence")
        || operator.starts_with("Optional")
}

/// Whether a graph needs more than one plan for the shapes of its inputs, or the values of some.
pub(crate) fn is_program(graph: &GraphProto, inputs: &[TensorDecl]) -> bool {
    graph.node.iter().any(|node| is_of_programs(&node.op_type)) || has_tainted_operand(graph, inputs)
}

/// Whether the shape of some result depends on data.
fn has_tainted_operand(graph: &GraphProto, inputs: &[TensorDecl]) -> bool {
    let mut tainted: std::collections::HashSet<&str> =
        inputs.iter().map(|input| input.name.as_str()).collect();
    for node in &graph.node {
        let operator = node.op_type.as_str();
        if operands::reads_shape_only(operator) {
            continue;
        }
        let decides = operands::deciding(operator);
        if decides
            .iter()
            .any(|&index| node.input.get(index).is_some_and(|name| tainted.contains(name.as_str())))
        {
            return true;
        }
        if node.input.iter().any(|name| tainted.contains(name.as_str())) {
            tainted.extend(node.output.iter().map(String::as_str));
        }
    }
    false
}

impl Flow {
    /// A program of `message`, which was decoded and checked.
    pub fn new(
        message: ModelProto,
        inputs: &[TensorDecl],
        origin: Option<&Arc<Origin>>,
    ) -> Result<Flow, ImportError> {
        let mut graph = message.graph.expect("decoding checks that there is a graph");
        scope::make_unique(&mut graph);
        declared::check(&graph)?;
        let weights = Weights::hoist(&mut graph, origin);
        let declared: Vec<(String, DType)> =
            inputs.iter().map(|input| (input.name.clone(), input.dtype)).collect();
        let shape_inputs = operands::shape_inputs(&graph, &declared);
        let outputs: Vec<String> = graph.output.iter().map(|output| output.name.clone()).collect();
        let names = declared.into_iter().map(|(name, _)| name).collect();
        let mark = mark(&graph, &weights);
        let standard = |import: &&OperatorSetIdProto| names::STANDARD.contains(&import.domain.as_str());
        let opset = message.opset_import.iter().find(standard).map_or(0, |import| import.version);
        let rests = rest::Rests::default();
        let start = rests.the_one(rest::whole(names, graph.node, outputs.clone()));
        Ok(Flow {
            weights,
            opset,
            pool: ConstPool::default(),
            tried: Tried::default(),
            start,
            rests,
            outputs,
            shape_inputs,
            mark,
        })
    }

    /// What there is to do at first.
    pub fn start(&self) -> &Arc<Rest> {
        &self.start
    }

    /// For every input of the model whether its value decides shapes.
    pub fn shape_inputs(&self) -> &[bool] {
        &self.shape_inputs
    }

    /// The step from `rest`.
    pub fn step(&self, rest: &Rest, given: &[Given]) -> Result<Step, ImportError> {
        self.pool.begin();
        Evaluation::run(self, rest, given)
    }

    /// Lets constants go that were made of others, until they are needed again.
    pub fn release(&self) {
        self.pool.clear();
    }

    fn shared(&self) -> Shared<'_> {
        Shared { opset: self.opset, pool: &self.pool, tried: &self.tried }
    }
}

/// A beginning that no name of the model has.
fn mark(graph: &GraphProto, weights: &Weights) -> String {
    let mut mark = String::from("reef:");
    let mut names: Vec<String> = weights.names().cloned().collect();
    names.extend(graph.input.iter().map(|input| input.name.clone()));
    let made = |node: &NodeProto| scope::all_names(node);
    names.extend(graph.node.iter().flat_map(made));
    while names.iter().any(|name| name.starts_with(&mark)) {
        mark.push(':');
    }
    mark
}
