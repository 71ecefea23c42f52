//! Functions that a model brings along: a call is replaced by the function's nodes.

use std::collections::HashMap;

use prost::Message;
use reef_base::limits::PROGRAM_NODES_MAX;
use tract_onnx::pb::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};

use crate::error::ImportError;
use crate::names::STANDARD;
use crate::scope;

/// Calls within calls that are followed.
const DEPTH_MAX: usize = 32;

/// Puts the nodes of the model's own functions in the place of their calls.
pub(crate) fn inline(model: &mut ModelProto, bytes: &[u8]) -> Result<(), ImportError> {
    if model.functions.is_empty() {
        return Ok(());
    }
    let more = Functions::decode(bytes).map_err(|error| ImportError::Parse { reason: error.to_string() })?;
    let functions = std::mem::take(&mut model.functions);
    let mut table = HashMap::new();
    for (function, more) in functions.iter().zip(more.functions) {
        if !more.overload.is_empty() {
            let reason = format!("function {} is an overload, which is not supported", function.name());
            return Err(ImportError::Parse { reason });
        }
        let known = table.insert(key(function.domain(), function.name()), (function, more.attribute_proto));
        if known.is_some() {
            return Err(ImportError::Parse {
                reason: format!("two functions are called {}", function.name()),
            });
        }
    }
    let mut inliner = Inliner { functions: table, calls: 0, nodes: 0 };
    let graph = model.graph.as_mut().expect("decoding checks that there is a graph");
    inliner.graph(graph, 0)
}

/// The fields of a model's functions that the message has no place for.
#[derive(Clone, PartialEq, Message)]
struct Functions {
    #[prost(message, repeated, tag = "25")]
    functions: Vec<More>,
}

#[derive(Clone, PartialEq, Message)]
struct More {
    /// Attributes with the values that they have if a call gives none.
    #[prost(message, repeated, tag = "11")]
    attribute_proto: Vec<AttributeProto>,
    #[prost(string, tag = "13")]
    overload: String,
}

fn key(domain: &str, name: &str) -> (String, String) {
    let domain = if STANDARD.contains(&domain) { "" } else { domain };
    (domain.to_owned(), name.to_owned())
}

struct Inliner<'m> {
    /// With the attributes that have a default.
    functions: HashMap<(String, String), (&'m FunctionProto, Vec<AttributeProto>)>,
    calls: usize,
    nodes: usize,
}

impl Inliner<'_> {
    fn graph(&mut self, graph: &mut GraphProto, depth: usize) -> Result<(), ImportError> {
        let nodes = std::mem::take(&mut graph.node);
        for node in nodes {
            self.node(node, depth, &mut graph.node)?;
        }
        Ok(())
    }

    fn node(
        &mut self,
        mut node: NodeProto,
        depth: usize,
        into: &mut Vec<NodeProto>,
    ) -> Result<(), ImportError> {
        for attribute in &mut node.attribute {
            for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                self.graph(graph, depth)?;
            }
        }
        let Some((function, defaults)) = self.functions.get(&key(&node.domain, &node.op_type)) else {
            into.push(node);
            return Ok(());
        };
        let fail = |reason: String| {
            let operator = node.op_type.clone();
            let node = if node.name.is_empty() { node.output.first() } else { Some(&node.name) };
            ImportError::Unsupported { node: node.cloned().unwrap_or_default(), operator, reason }
        };
        if STANDARD.contains(&node.domain.as_str()) {
            // Runtimes differ in which of the two they take.
            let reason = "a function of the model has the name of one of ONNX's own operators";
            return Err(fail(reason.into()));
        }
        if depth >= DEPTH_MAX {
            return Err(fail(format!("functions call each other deeper than {DEPTH_MAX}")));
        }
        self.nodes += function.node.len();
        if self.nodes > PROGRAM_NODES_MAX {
            return Err(fail(format!("more than {PROGRAM_NODES_MAX} nodes once functions are written out")));
        }
        self.calls += 1;
        let (function, defaults) = (*function, defaults.clone());
        let mut node = node;
        for default in defaults {
            if node.attribute.iter().all(|given| given.name != default.name) {
                node.attribute.push(default);
            }
        }
        for mut inner in body(function, &node, self.calls) {
            inner.attribute = attributes(&inner, &node);
            for attribute in &mut inner.attribute {
                for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    refer(graph, &node);
                }
            }
            self.node(inner, depth + 1, into)?;
        }
        Ok(())
    }
}

/// The function's nodes with the call's values in the place of its parameters.
fn body(function: &FunctionProto, call: &NodeProto, number: usize) -> Vec<NodeProto> {
    let mut names: HashMap<String, String> = HashMap::new();
    for (index, formal) in function.input.iter().enumerate() {
        // A parameter that is left out is left out where it is used.
        names.insert(formal.clone(), call.input.get(index).cloned().unwrap_or_default());
    }
    let mut extra = vec![];
    for (index, formal) in function.output.iter().enumerate() {
        let Some(actual) = call.output.get(index).filter(|name| !name.is_empty()) else { continue };
        match names.get(formal) {
            // A result that is a parameter, or the same as another result.
            Some(known) => extra.push(identity(known, actual)),
            None => {
                names.insert(formal.clone(), actual.clone());
            }
        }
    }
    let mut nodes = function.node.clone();
    for node in &mut nodes {
        let prefix = if call.name.is_empty() { &call.op_type } else { &call.name };
        node.name = format!("{prefix}/{}", if node.name.is_empty() { &node.op_type } else { &node.name });
        scope::rename(node, &mut |name: &mut String| match names.get(name.as_str()) {
            Some(own) => own.clone_into(name),
            None => {
                let own = format!("{prefix}/{number}/{name}");
                names.insert(name.clone(), own.clone());
                *name = own;
            }
        });
    }
    nodes.extend(extra);
    nodes
}

/// A node's attributes, with those of the call where they refer to them. One that the call does not give is
/// left out.
fn attributes(node: &NodeProto, call: &NodeProto) -> Vec<AttributeProto> {
    let given = |attribute: &AttributeProto| {
        if attribute.ref_attr_name.is_empty() {
            return Some(attribute.clone());
        }
        let found = call.attribute.iter().find(|given| given.name == attribute.ref_attr_name)?;
        Some(AttributeProto { name: attribute.name.clone(), ..found.clone() })
    };
    node.attribute.iter().filter_map(given).collect()
}

fn refer(graph: &mut GraphProto, call: &NodeProto) {
    for node in &mut graph.node {
        node.attribute = attributes(node, call);
        for attribute in &mut node.attribute {
            attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|graph| refer(graph, call));
        }
    }
}

fn identity(from: &str, to: &str) -> NodeProto {
    NodeProto {
        op_type: "Identity".into(),
        name: to.into(),
        input: vec![from.into()],
        output: vec![to.into()],
        ..NodeProto::default()
    }
}
