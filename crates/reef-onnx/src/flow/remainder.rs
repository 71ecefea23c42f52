//! Making a rest: canonical names, and where its inputs come from.

use std::collections::HashMap;

use tract_onnx::pb::NodeProto;

use super::rest::{Rest, RestInput, Row, Source, Take};
use super::step::{Evaluation, Thing};
use crate::error::ImportError;
use crate::scope;

impl Evaluation<'_> {
    /// What `left` and the model's `outputs` need, once the values `wanted` are known.
    pub(super) fn remaining(
        &self,
        left: &[NodeProto],
        wanted: &[String],
        outputs: &[String],
    ) -> Result<Remaining, ImportError> {
        Remainder::of(self, left, wanted, outputs)
    }
}

/// A rest in the making.
struct Remainder<'e, 'f> {
    evaluation: &'e Evaluation<'f>,
    /// Canonical names by the evaluation's.
    names: HashMap<String, String>,
    made: usize,
    rest: Rest,
    passed: Vec<Source>,
    rows: Vec<Row>,
    labels: Vec<String>,
    /// The values that the segment must give.
    given: Vec<String>,
}

/// A rest, where its inputs come from, and the values that the segment gives.
pub(super) struct Remaining {
    pub rest: Rest,
    pub passed: Vec<Source>,
    pub rows: Vec<Row>,
    pub labels: Vec<String>,
    pub given: Vec<String>,
}

impl<'e, 'f> Remainder<'e, 'f> {
    fn of(
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
        let (names, passed, rows, labels, given) = (HashMap::new(), vec![], vec![], vec![], vec![]);
        let mut remainder = Remainder { evaluation, names, made: 0, rest, passed, rows, labels, given };
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
        let Remainder { rest, passed, rows, labels, given, .. } = remainder;
        Ok(Remaining { rest, passed, rows, labels, given })
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
            Thing::Const(_) if self.evaluation.is_weight(name) => name.to_owned(),
            Thing::Const(tensor) => {
                let own = self.fresh("c");
                self.rest.consts.push((own.clone(), tensor));
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
            Thing::Stored(stored) => {
                // Like the buffer itself: so the rest is the same whether a row was stored or not.
                let own = self.take(&stored.buffer, Take::Tensor);
                let passed = self.passed.len() - 1;
                let (source, at) = (self.source(&stored.row), self.source(&stored.at));
                self.rows.push(Row { passed, source, at });
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
        let source = self.source(name);
        self.passed.push(source);
        self.labels.push(name.to_owned());
        self.names.insert(name.to_owned(), own.clone());
        own
    }

    /// Where a value comes from that the segment has, or is to give.
    fn source(&mut self, name: &str) -> Source {
        if let Some(index) = self.evaluation.input_index(name) {
            return Source::Input(index);
        }
        let known = self.given.iter().position(|given| given == name);
        Source::Output(known.unwrap_or_else(|| {
            self.given.push(name.to_owned());
            self.given.len() - 1
        }))
    }
}
