//! What is left of a model when a segment has been cut off: nodes, with canonical names, so that the rest
//! after one round of a loop is the rest after the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use prost::Message;
use reef_graph::Tensor;
use tract_onnx::pb::NodeProto;

/// What is left of a model. Two rests that are the same object mean the same work.
#[derive(Debug)]
pub struct Rest {
    pub(super) inputs: Vec<RestInput>,
    pub(super) nodes: Vec<NodeProto>,
    /// Constants that are none of the model file's.
    pub(super) consts: Vec<(String, Tensor)>,
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

/// A row that is written into a tensor when it is handed over: the result of a round among those of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// Which of the values that are passed it is written into.
    pub passed: usize,
    /// Where the row comes from.
    pub source: Source,
    /// Where its number comes from.
    pub at: Source,
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
        self.nodes.iter().flat_map(crate::scope::made_within).collect()
    }

    fn content(&self) -> Vec<u8> {
        let mut bytes = vec![];
        for node in &self.nodes {
            bytes.extend(node.encode_length_delimited_to_vec());
        }
        for (name, tensor) in &self.consts {
            bytes.extend(name.as_bytes());
            bytes.extend(tensor.key().0.to_le_bytes());
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

/// A rest of `nodes` that takes `inputs` as tensors.
pub(super) fn whole(inputs: Vec<String>, nodes: Vec<NodeProto>, outputs: Vec<String>) -> Rest {
    let inputs = inputs.into_iter().map(|name| RestInput { name, take: Take::Tensor }).collect();
    Rest { inputs, nodes, consts: vec![], lists: vec![], optionals: vec![], outputs }
}
