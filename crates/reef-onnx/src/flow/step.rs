//! One step of a program: as much of a rest as can be computed in one go, as a segment, and what is left.
//!
//! Nodes are visited in their order. One that can be computed now becomes part of the segment. One whose
//! result has no shape before data are known, or that goes one way or another depending on data, is left, and
//! so is what reads it; the values that it waits for are *wanted*. Bodies of operators whose way is known
//! take the operator's place.
//!
//! Whether a value depends on data is found by looking at what it is computed from, constants and shapes on
//! the one side, anything else on the other ("tainted").

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use reef_base::limits::{PROGRAM_NODES_MAX, SHAPE_VALUES_MAX};
use reef_graph::{DType, Shape, Tensor};
use tract_onnx::pb::NodeProto;

use super::nodes::unsupported;
use super::operands::{deciding, reads_shape_only};
use super::rest::{Rest, Row, Source, Take};
use super::{DOMAIN, Flow};
use crate::consts;
use crate::error::ImportError;
use crate::import::Import;
use crate::scope;
use crate::straight::{self, Specialised};
use crate::tensors::Weights;

/// What is known of a value.
#[derive(Clone, Debug)]
pub(super) struct Fact {
    pub dtype: DType,
    pub shape: Shape,
    pub value: Option<Tensor>,
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Thing {
    /// Known now.
    Const(Tensor),
    /// Given to the segment, or computed by it.
    Here {
        /// It depends on data.
        tainted: bool,
    },
    /// Computed by the segment, with a shape that it computes too.
    #[allow(dead_code, reason = "only operators whose results are counted make one")]
    Counted(Counted),
    /// A buffer with a row that is written into it when it is handed over. Only what is left reads it.
    Stored(Stored),
    /// Made by what is left.
    Blocked,
    /// The same as another.
    Alias(String),
    /// A sequence.
    List(Vec<String>),
    /// An optional value.
    Optional(Option<String>),
}

/// A tensor of which the first elements are meant.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    pub data: String,
    pub count: String,
    pub axis: usize,
}

/// A buffer, a row, and its number there.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub buffer: String,
    pub row: String,
    pub at: String,
}

/// What a rest is given for one of its inputs.
#[derive(Clone, Debug)]
pub enum Given {
    /// A tensor of this type and shape.
    Tensor(DType, Shape),
    /// This value, for an input that is taken by value.
    Value(Tensor),
    /// A tensor whose value is known, too: an input of the model that decides shapes.
    Both(Tensor),
}

/// A step of a program.
#[derive(Clone, Debug)]
pub struct Step {
    /// What to compute: its inputs are the tensors that the rest was given, in order.
    pub segment: Specialised,
    /// What comes then; `None` when the segment's outputs are the model's.
    pub then: Option<Then>,
}

/// What comes after a segment.
#[derive(Clone, Debug)]
pub struct Then {
    /// What is left to do.
    pub rest: Arc<Rest>,
    /// Where its inputs come from.
    pub passed: Vec<Source>,
    /// Rows that are written into some of them.
    pub rows: Vec<Row>,
    /// What the values are called, for people.
    pub labels: Vec<String>,
    /// Which nodes wait for which of the values, for people.
    pub waiting: Vec<String>,
}

#[derive(Clone)]
pub(super) struct Evaluation<'f> {
    pub flow: &'f Flow,
    things: HashMap<String, Thing>,
    /// Names of the segment's inputs.
    inputs: Vec<String>,
    import: Import<'f>,
    weights: &'f Weights,
    left: Vec<NodeProto>,
    wanted: Vec<String>,
    /// For people: who wants what.
    waiting: Vec<String>,
    pub queue: VecDeque<NodeProto>,
    visited: usize,
    fresh: usize,
}

impl<'f> Evaluation<'f> {
    /// The step from `rest`, whose inputs are `given`.
    pub fn run(flow: &'f Flow, rest: &Rest, given: &[Given]) -> Result<Step, ImportError> {
        let mut evaluation = Evaluation {
            flow,
            things: HashMap::new(),
            inputs: vec![],
            import: Import::new(flow.shared()),
            weights: &flow.weights,
            left: vec![],
            wanted: vec![],
            waiting: vec![],
            queue: rest.nodes.iter().cloned().collect(),
            visited: 0,
            fresh: 0,
        };
        evaluation.bind(rest, given)?;
        evaluation.visit_all()?;
        evaluation.finish(rest)
    }

    /// Visits what is in the queue, and what that puts there.
    pub fn visit_all(&mut self) -> Result<(), ImportError> {
        while let Some(node) = self.queue.pop_front() {
            self.visit(node)?;
        }
        Ok(())
    }

    /// The same values, to try something of which nothing comes into this segment.
    pub fn aside(&self) -> Evaluation<'f> {
        Evaluation { queue: VecDeque::new(), ..self.clone() }
    }

    fn bind(&mut self, rest: &Rest, given: &[Given]) -> Result<(), ImportError> {
        for (input, given) in rest.inputs.iter().zip(given) {
            let name = input.name.clone();
            match given {
                Given::Tensor(dtype, shape) => {
                    self.import.input(&name, *dtype, shape.clone());
                    self.inputs.push(name.clone());
                    self.things.insert(name, Thing::Here { tainted: true });
                }
                Given::Value(tensor) => self.set_const(&name, tensor.clone()),
                Given::Both(tensor) => {
                    // The plan has the input, though nothing reads it.
                    let value = self.fresh(&name);
                    self.set_const(&value, tensor.clone());
                    self.import.input(&name, tensor.dtype(), tensor.shape().clone());
                    self.inputs.push(name.clone());
                    self.things.insert(name, Thing::Alias(value));
                }
            }
        }
        for (name, tensor) in &rest.consts {
            self.set_const(name, tensor.clone());
        }
        for (name, elements) in &rest.lists {
            self.things.insert(name.clone(), Thing::List(elements.clone()));
        }
        for (name, value) in &rest.optionals {
            self.things.insert(name.clone(), Thing::Optional(value.clone()));
        }
        Ok(())
    }

    pub fn mark(&self) -> &str {
        &self.flow.mark
    }

    /// A name that nothing has yet.
    pub fn fresh(&mut self, stem: &str) -> String {
        self.fresh += 1;
        let stem = stem.strip_prefix(&self.flow.mark).unwrap_or(stem);
        format!("{}{}.{stem}", self.flow.mark, self.fresh)
    }

    pub fn set(&mut self, name: &str, thing: Thing) {
        if !name.is_empty() {
            self.things.insert(name.to_owned(), thing);
        }
    }

    pub fn set_const(&mut self, name: &str, tensor: Tensor) {
        self.set(name, Thing::Const(tensor));
    }

    /// Whole numbers as a constant of a new name.
    pub fn integers(&mut self, dims: &[usize], values: &[i64]) -> String {
        let name = self.fresh("number");
        self.set_const(&name, Tensor::i64(Shape::new(dims), values));
        name
    }

    /// The name behind aliases.
    pub fn resolve(&self, name: &str) -> String {
        let mut name = name;
        while let Some(Thing::Alias(other)) = self.things.get(name) {
            name = other;
        }
        name.to_owned()
    }

    /// What a name stands for, aliases resolved.
    pub fn thing(&self, name: &str) -> Result<Thing, ImportError> {
        let name = self.resolve(name);
        if let Some(thing) = self.things.get(&name) {
            return Ok(thing.clone());
        }
        match self.weights.get(&name) {
            Some(tensor) => tensor.map(Thing::Const),
            None => Err(ImportError::Parse { reason: format!("nothing makes the value {name}") }),
        }
    }

    pub fn is_weight(&self, name: &str) -> bool {
        !self.things.contains_key(name) && self.weights.contains(name)
    }

    /// Which of the segment's inputs a name is.
    pub fn input_index(&self, name: &str) -> Option<usize> {
        self.inputs.iter().position(|input| input == name)
    }

    fn visit(&mut self, mut node: NodeProto) -> Result<(), ImportError> {
        self.visited += 1;
        if self.visited > PROGRAM_NODES_MAX {
            let reason = format!("more than {PROGRAM_NODES_MAX} nodes once its bodies are in their places");
            return Err(unsupported(&node, reason));
        }
        let things = &self.things;
        scope::rename(&mut node, &mut |name: &mut String| {
            while let Some(Thing::Alias(other)) = things.get(name.as_str()) {
                other.clone_into(name);
            }
        });
        for name in scope::reads(&node) {
            if self.is_blocked(&name)? {
                self.leave(node);
                return Ok(());
            }
        }
        if self.visit_control(&node)? { Ok(()) } else { self.visit_ordinary(node) }
    }

    fn is_blocked(&self, name: &str) -> Result<bool, ImportError> {
        Ok(match self.thing(name)? {
            Thing::Blocked | Thing::Counted(_) => true,
            Thing::List(elements) => {
                for element in &elements {
                    if self.is_blocked(element)? {
                        return Ok(true);
                    }
                }
                false
            }
            Thing::Optional(Some(value)) => self.is_blocked(&value)?,
            Thing::Const(_) | Thing::Here { .. } | Thing::Stored(_) => false,
            Thing::Optional(None) | Thing::Alias(_) => false,
        })
    }

    fn is_tainted(&self, name: &str) -> Result<bool, ImportError> {
        Ok(matches!(self.thing(name)?, Thing::Here { tainted: true }))
    }

    /// A node that becomes part of the segment, unless its result's shape depends on data.
    fn visit_ordinary(&mut self, mut node: NodeProto) -> Result<(), ImportError> {
        let given: Vec<String> = node.input.iter().filter(|name| !name.is_empty()).cloned().collect();
        for name in &given {
            if matches!(self.thing(name)?, Thing::List(_) | Thing::Optional(_)) {
                return Err(unsupported(&node, "it does not take sequences or optional values"));
            }
        }
        let mut undecided = vec![];
        for &operand in deciding(&node.op_type) {
            if let Some(name) = node.input.get(operand).filter(|name| !name.is_empty())
                && self.is_tainted(name)?
            {
                undecided.push(name.clone());
            }
        }
        if !undecided.is_empty() {
            for name in undecided {
                self.want(&node, &name)?;
            }
            self.leave(node);
            return Ok(());
        }
        let forced = node.domain == DOMAIN;
        if forced {
            node.domain.clear();
        }
        let mut tainted = forced || node.op_type.starts_with("Random") || node.op_type == "Bernoulli";
        if !reads_shape_only(&node.op_type) {
            for name in &given {
                tainted |= self.is_tainted(name)?;
            }
        }
        match self.found(&node)? {
            Some(node) => self.emit(node, true),
            None => self.emit(node, tainted),
        }
        Ok(())
    }

    /// Makes a node part of the segment.
    pub fn emit(&mut self, node: NodeProto, tainted: bool) {
        for name in node.input.iter().filter(|name| !name.is_empty()) {
            if !self.import.knows(name)
                && let Ok(Thing::Const(tensor)) = self.thing(name)
            {
                self.import.constant(name, tensor);
            }
        }
        self.import.node(&node);
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            self.things.insert(output.clone(), Thing::Here { tainted });
        }
    }

    /// Leaves a node for later, and with it what reads it.
    pub fn leave(&mut self, node: NodeProto) {
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            self.things.insert(output.clone(), Thing::Blocked);
        }
        self.left.push(node);
    }

    /// The rest needs to know this value.
    pub fn want(&mut self, node: &NodeProto, name: &str) -> Result<(), ImportError> {
        let name = self.resolve(name);
        let elements = self.fact(&name)?.map(|fact| fact.shape.elements());
        if let Some(elements) = elements.filter(|&elements| elements > SHAPE_VALUES_MAX) {
            let reason =
                format!("{elements} values decide what it makes, at most {SHAPE_VALUES_MAX} are supported");
            return Err(unsupported(node, reason));
        }
        self.waiting.push(format!("{} ({})", node.name, node.op_type));
        if !self.wanted.contains(&name) {
            self.wanted.push(name);
        }
        Ok(())
    }

    /// The whole numbers that a value is; `None` while it depends on data.
    pub fn decided(&mut self, name: &str) -> Result<Option<Vec<i64>>, ImportError> {
        let name = self.resolve(name);
        if let Thing::Here { tainted: false } = self.thing(&name)? {
            match self.fact(&name)?.and_then(|fact| fact.value) {
                Some(value) => self.set_const(&name, value),
                // It is computed, then.
                None => self.set(&name, Thing::Here { tainted: true }),
            }
        }
        match self.thing(&name)? {
            Thing::Const(tensor) => Ok(consts::whole_numbers(&tensor)),
            _ => Ok(None),
        }
    }

    /// What is known of a value that is here.
    pub fn fact(&self, name: &str) -> Result<Option<Fact>, ImportError> {
        let name = self.resolve(name);
        Ok(match self.thing(&name)? {
            Thing::Const(tensor) => {
                Some(Fact { dtype: tensor.dtype(), shape: tensor.shape().clone(), value: Some(tensor) })
            }
            Thing::Here { .. } => {
                let value = self.import.value(&name)?;
                let known = self.import.known(&name)?.cloned();
                Some(Fact { dtype: value.dtype, shape: value.shape.clone(), value: known })
            }
            _ => None,
        })
    }

    fn finish(mut self, from: &Rest) -> Result<Step, ImportError> {
        let outputs: Vec<String> = from.outputs.iter().map(|name| self.resolve(name)).collect();
        for (name, original) in outputs.iter().zip(&self.flow.outputs) {
            if matches!(self.thing(name)?, Thing::List(_) | Thing::Optional(_)) {
                let reason = format!("its output {original} is a sequence or an optional value");
                return Err(ImportError::Parse { reason });
            }
        }
        let counted = |name: &String| matches!(self.things.get(name), Some(Thing::Counted(_)));
        if self.left.is_empty() && !outputs.iter().any(counted) {
            let segment = self.segment(&outputs, Some(&self.flow.outputs))?;
            return Ok(Step { segment, then: None });
        }
        let (left, wanted) = (std::mem::take(&mut self.left), std::mem::take(&mut self.wanted));
        let remaining = self.remaining(&left, &wanted, &outputs)?;
        let decides = remaining.rest.takes().any(|take| take == Take::Value);
        if let Some(node) = left.first().filter(|_| !decides) {
            return Err(unsupported(node, "what it waits for cannot be computed"));
        }
        let (mut given, mut passed) = (remaining.given, remaining.passed);
        if given.is_empty() {
            // A plan makes something: then it is a copy of what is handed over.
            let Some(Source::Input(index)) = passed.first() else {
                unreachable!("what decides depends on data, and they are given or made here");
            };
            given.push(self.inputs[*index].clone());
            passed[0] = Source::Output(0);
        }
        let segment = self.segment(&given, None)?;
        let (rest, rows) = (self.flow.rests.the_one(remaining.rest), remaining.rows);
        let plain = |label: String| label.strip_prefix(&self.flow.mark).map(str::to_owned).unwrap_or(label);
        let labels = remaining.labels.into_iter().map(plain).collect();
        let waiting = std::mem::take(&mut self.waiting);
        Ok(Step { segment, then: Some(Then { rest, passed, rows, labels, waiting }) })
    }

    /// The segment that computes `values`, for the names that its outputs are to have.
    fn segment(&self, values: &[String], names: Option<&[String]>) -> Result<Specialised, ImportError> {
        let mut import = self.import.clone();
        let mut outputs = vec![];
        for (index, value) in values.iter().enumerate() {
            if let Thing::Const(tensor) = self.thing(value)? {
                import.constant(value, tensor);
            }
            let name = names.map(|names| names[index].clone());
            outputs.push((value.clone(), name.unwrap_or_else(|| format!("{}out.{index}", self.flow.mark))));
        }
        straight::finish(import, &outputs, &self.flow.pool)
    }
}
