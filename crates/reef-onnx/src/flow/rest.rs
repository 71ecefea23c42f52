//! What is left of a model when a segment has been cut off: nodes, with canonical names, so that the rest
//! after one round of a loop is the rest after the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use prost::Message;
use tract_onnx::pb::{NodeProto, TensorProto};

use super::scope;
use super::step::{Evaluation, Thing};
use crate::error::ImportError;

/// What is left of a model. Two rests that are the same object mean the same work.
#[derive(Debug)]
pub struct Rest {
    pub(super) inputs: Vec<RestInput>,
    pub(super) nodes: Vec<NodeProto>,
    /// Constants that are none of the model file's.
    pub(super) consts: Vec<TensorProto>,
    /// Sequences, and optionals, of the values that go on.
    pub(super) lists: Vec<(String, Vec<String>)>,
    pub(super) optionals: Vec<(String, Option<String>)>,
    /// The model's outputs, in order.
    pub(super) outputs: Vec<String>,
}

/// A value that a rest is given.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RestInput {
    pub name: String,
    pub take: Take,
}

/// How a rest takes one of its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Take {
    /// As a tensor whose shape is known when the rest is made.
    Tensor,
    /// By its value, which must be known before a plan is made.
    Value,
    /// As a tensor of which only the first elements are meant: `axis` has as many entries as the input
    /// `count`, taken by its value, says.
    Counted {
        /// Which axis.
        axis: usize,
        /// Index of the input that counts.
        count: usize,
    },
}

/// Where a value that is handed over comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// An output of the segment.
    Output(usize),
    /// A tensor that was given to the segment: its input.
    Input(usize),
}

impl Rest {
    /// How its inputs are taken, in order.
    pub fn takes(&self) -> impl ExactSizeIterator<Item = Take> {
        self.inputs.iter().map(|input| input.take)
    }

    /// The operators that are left, for people.
    pub fn operators(&self) -> Vec<&str> {
        self.nodes.iter().map(|node| node.op_type.as_str()).collect()
    }

    /// What its nodes' bodies make.
    #[cfg(test)]
    pub fn inner_names(&self) -> Vec<String> {
        self.nodes.iter().flat_map(scope::made_within).collect()
    }

    fn content(&self) -> Vec<u8> {
        let mut bytes = vec![];
        for node in &self.nodes {
            bytes.extend(node.encode_length_delimited_to_vec());
        }
        for tensor in &self.consts {
            bytes.extend(tensor.encode_length_delimited_to_vec());
        }
        let names = format!("{:?}{:?}{:?}{:?}", self.inputs, self.lists, self.optionals, self.outputs);
        bytes.extend(names.into_bytes());
        bytes
    }
}

/// The rests of a model that are in use, each once.
#[derive(Debug, Default)]
pub(super) struct Rests(Mutex<HashMap<Vec<u8>, Weak<Rest>>>);

impl Rests {
    /// `rest`, or the one that is there already.
    pub fn the_one(&self, rest: Rest) -> Arc<Rest> {
        let content = rest.content();
        let mut rests = self.0.lock().expect("no panic holds this lock");
        if let Some(known) = rests.get(&content).and_then(Weak::upgrade) {
            return known;
        }
        rests.retain(|_, rest| rest.strong_count() > 0);
        let rest = Arc::new(rest);
        rests.insert(content, Arc::downgrade(&rest));
        rest
    }
}

/// A rest in the making.
pub(super) struct Remainder<'e, 'f> {
    evaluation: &'e Evaluation<'f>,
    /// Canonical names by the evaluation's.
    names: HashMap<String, String>,
    made: usize,
    rest: Rest,
    passed: Vec<Source>,
    /// The values that the segment must give.
    given: Vec<String>,
}

/// A rest, where its inputs come from, and the values that the segment gives.
pub(super) struct Remaining {
    pub rest: Rest,
    pub passed: Vec<Source>,
    pub given: Vec<String>,
}

impl<'e, 'f> Remainder<'e, 'f> {
    /// What `left` and the model's `outputs` need, once the values `wanted` are known.
    pub fn of(
        evaluation: &'e Evaluation<'f>,
        left: &[NodeProto],
        wanted: &[String],
        outputs: &[String],
    ) -> Result<Remaining, ImportError> {
        let rest = Rest {
            inputs: vec![],
            nodes: vec![],
            consts: vec![],
            lists: vec![],
            optionals: vec![],
            outputs: vec![],
        };
        let (names, passed, given) = (HashMap::new(), vec![], vec![]);
        let mut remainder = Remainder { evaluation, names, made: 0, rest, passed, given };
        for name in wanted {
            remainder.take(name, Take::Value);
        }
        for node in left {
            for name in scope::reads(node) {
                remainder.name(&name)?;
            }
            let mut node = node.clone();
            for output in node.output.iter().filter(|name| !name.is_empty()) {
                let own = remainder.fresh("t");
                remainder.names.insert(output.clone(), own);
            }
            // Names of ours in bodies, too: the next step makes the same ones again for something else.
            for inner in scope::made_within(&node) {
                if inner.starts_with(evaluation.mark()) {
                    let own = remainder.fresh("b");
                    remainder.names.insert(inner, own);
                }
            }
            let names = &remainder.names;
            scope::rename(&mut node, &mut |name: &mut String| {
                if let Some(own) = names.get(name) {
                    own.clone_into(name);
                }
            });
            remainder.rest.nodes.push(node);
        }
        for output in outputs {
            let name = remainder.name(output)?;
            remainder.rest.outputs.push(name);
        }
        let Remainder { rest, passed, given, .. } = remainder;
        Ok(Remaining { rest, passed, given })
    }

    fn fresh(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{}{kind}{}", self.evaluation.mark(), self.made)
    }

    /// The canonical name of a value that the rest reads.
    fn name(&mut self, name: &str) -> Result<String, ImportError> {
        if let Some(known) = self.names.get(name) {
            return Ok(known.clone());
        }
        let own = match self.evaluation.thing(name)? {
            Thing::Const(tensor) if self.evaluation.is_weight(name) => {
                debug_assert_eq!(tensor.name, name);
                name.to_owned()
            }
            Thing::Const(tensor) => {
                let own = self.fresh("c");
                self.rest.consts.push(TensorProto { name: own.clone(), ..(*tensor).clone() });
                own
            }
            Thing::Here { .. } => return Ok(self.take(name, Take::Tensor)),
            Thing::Counted(counted) => {
                self.take(&counted.count, Take::Value);
                let count = &self.names[&counted.count];
                let inputs = &self.rest.inputs;
                let count = inputs.iter().position(|input| input.name == *count).expect("it was just taken");
                let own = self.take(&counted.data, Take::Counted { axis: counted.axis, count });
                self.names.insert(name.to_owned(), own.clone());
                own
            }
            Thing::List(elements) => {
                let elements = elements.iter().map(|element| self.name(element));
                let elements = elements.collect::<Result<Vec<_>, _>>()?;
                let own = self.fresh("s");
                self.rest.lists.push((own.clone(), elements));
                own
            }
            Thing::Optional(value) => {
                let value = value.map(|value| self.name(&value)).transpose()?;
                let own = self.fresh("o");
                self.rest.optionals.push((own.clone(), value));
                own
            }
            Thing::Alias(_) | Thing::Blocked => {
                unreachable!("aliases are resolved, and nodes that are left come in their order")
            }
        };
        self.names.insert(name.to_owned(), own.clone());
        Ok(own)
    }

    fn take(&mut self, name: &str, take: Take) -> String {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let own = self.fresh("r");
        self.rest.inputs.push(RestInput { name: own.clone(), take });
        let source = match self.evaluation.input_index(name) {
            Some(index) => Source::Input(index),
            None => {
                let known = self.given.iter().position(|given| given == name);
                Source::Output(known.unwrap_or_else(|| {
                    self.given.push(name.to_owned());
                    self.given.len() - 1
                }))
            }
        };
        self.passed.push(source);
        self.names.insert(name.to_owned(), own.clone());
        own
    }
}

/// A rest of `nodes` that takes `inputs` as tensors.
pub(super) fn whole(inputs: Vec<String>, nodes: Vec<NodeProto>, outputs: Vec<String>) -> Rest {
    let inputs = inputs.into_iter().map(|name| RestInput { name, take: Take::Tensor }).collect();
    Rest { inputs, nodes, consts: vec![], lists: vec![], optionals: vec![], outputs }
}
