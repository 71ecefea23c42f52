//! Names of values across graphs within graphs.
//!
//! A body may give a value a name that another body uses too, and reads values from around it. Here every
//! value of a model gets a name of its own first ([`make_unique`]); since then a name means one thing
//! wherever it stands, and a body can be put in the place of its operator by renaming alone ([`instance`]).

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto};

/// The graphs in a node's attributes.
pub(crate) fn bodies(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(graphs)
}

fn graphs(attribute: &AttributeProto) -> impl Iterator<Item = &GraphProto> {
    attribute.g.iter().chain(&attribute.graphs)
}

fn bodies_mut(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    node.attribute.iter_mut().flat_map(|attribute| attribute.g.iter_mut().chain(&mut attribute.graphs))
}

/// Gives every value of `graph` and of the graphs in it a name of its own; those of the outermost graph stay.
pub(crate) fn make_unique(graph: &mut GraphProto) {
    let mut taken: HashSet<String> = HashSet::new();
    unique(graph, &HashMap::new(), &mut taken);
}

fn unique(graph: &mut GraphProto, around: &HashMap<String, String>, taken: &mut HashSet<String>) {
    let mut names = around.clone();
    for name in made_in(graph) {
        let mut own = name.clone();
        let mut number = 2;
        while !taken.insert(own.clone()) {
            own = format!("{name}_{number}");
            number += 1;
        }
        names.insert(name, own);
    }
    let renamed = |name: &mut String| {
        if let Some(own) = names.get(name) {
            own.clone_into(name);
        }
    };
    graph.input.iter_mut().for_each(|input| renamed(&mut input.name));
    graph.output.iter_mut().for_each(|output| renamed(&mut output.name));
    graph.initializer.iter_mut().for_each(|tensor| renamed(&mut tensor.name));
    for node in &mut graph.node {
        node.input.iter_mut().chain(&mut node.output).for_each(renamed);
        for body in bodies_mut(node) {
            unique(body, &names, taken);
        }
    }
}

/// The names that a graph itself gives: inputs, constants, results of its nodes.
fn made_in(graph: &GraphProto) -> Vec<String> {
    let inputs = graph.input.iter().map(|input| &input.name);
    let tensors = graph.initializer.iter().map(|tensor| &tensor.name);
    let results = graph.node.iter().flat_map(|node| &node.output);
    let mut seen = HashSet::new();
    let all = inputs.chain(tensors).chain(results);
    all.filter(|name| !name.is_empty() && seen.insert((*name).clone())).cloned().collect()
}

/// Every name in a node, those in its bodies included, goes through `rename`.
pub(crate) fn rename(node: &mut NodeProto, rename: &mut impl FnMut(&mut String)) {
    for name in node.input.iter_mut().filter(|name| !name.is_empty()) {
        rename(name);
    }
    for body in bodies_mut(node) {
        rename_graph(body, rename);
    }
    for name in node.output.iter_mut().filter(|name| !name.is_empty()) {
        rename(name);
    }
}

fn rename_graph(graph: &mut GraphProto, change: &mut impl FnMut(&mut String)) {
    graph.input.iter_mut().for_each(|input| change(&mut input.name));
    graph.initializer.iter_mut().for_each(|tensor| change(&mut tensor.name));
    for node in &mut graph.node {
        rename(node, change);
    }
    graph.output.iter_mut().for_each(|output| change(&mut output.name));
}

/// What a node reads: its inputs, and what its bodies take from around them. In order, each once.
pub(crate) fn reads(node: &NodeProto) -> Vec<String> {
    let mut names: Vec<String> = vec![];
    let mut seen = HashSet::new();
    let mut add = |name: &String| {
        if !name.is_empty() && seen.insert(name.clone()) {
            names.push(name.clone());
        }
    };
    node.input.iter().for_each(&mut add);
    let mut within = HashSet::new();
    bodies(node).for_each(|body| collect_made(body, &mut within));
    let mut named = vec![];
    bodies(node).for_each(|body| collect_read(body, &mut named));
    named.iter().filter(|name| !within.contains(*name)).for_each(&mut add);
    names
}

/// The names that the bodies of a node give, in order.
pub(super) fn made_within(node: &NodeProto) -> Vec<String> {
    let mut inner = HashSet::new();
    bodies(node).for_each(|body| collect_made(body, &mut inner));
    let mut inner: Vec<String> = inner.into_iter().collect();
    inner.sort_unstable();
    inner
}

/// Every name in a node and in its bodies.
pub(crate) fn all_names(node: &NodeProto) -> Vec<String> {
    let mut names: Vec<String> = node.input.iter().chain(&node.output).cloned().collect();
    let mut inner = HashSet::new();
    bodies(node).for_each(|body| collect_made(body, &mut inner));
    names.extend(inner);
    names
}

fn collect_made(graph: &GraphProto, made: &mut HashSet<String>) {
    made.extend(made_in(graph));
    graph.node.iter().flat_map(bodies).for_each(|body| collect_made(body, made));
}

fn collect_read(graph: &GraphProto, read: &mut Vec<String>) {
    for node in &graph.node {
        read.extend(node.input.iter().cloned());
        bodies(node).for_each(|body| collect_read(body, read));
    }
    read.extend(graph.output.iter().map(|output| output.name.clone()));
}

/// A body with `actual` in the place of its inputs and new names, made by `fresh`, for all else that it
/// makes: its nodes, and the names of its results.
pub(crate) fn instance(
    body: &GraphProto,
    actual: &[String],
    mut fresh: impl FnMut(&str) -> String,
) -> (Vec<NodeProto>, Vec<String>) {
    let mut names: HashMap<String, String> = HashMap::new();
    for (formal, actual) in body.input.iter().zip(actual) {
        names.insert(formal.name.clone(), actual.clone());
    }
    let mut made = HashSet::new();
    collect_made(body, &mut made);
    let mut made: Vec<String> = made.into_iter().filter(|name| !names.contains_key(name)).collect();
    made.sort_unstable();
    for name in made {
        let own = fresh(&name);
        names.insert(name, own);
    }
    let mut renamed = |name: &mut String| {
        if let Some(own) = names.get(name) {
            own.clone_into(name);
        }
    };
    let mut nodes = body.node.clone();
    nodes.iter_mut().for_each(|node| rename(node, &mut renamed));
    let mut results: Vec<String> = body.output.iter().map(|output| output.name.clone()).collect();
    results.iter_mut().for_each(&mut renamed);
    (nodes, results)
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::ValueInfoProto;

    use super::*;

    fn node(op_type: &str, input: &[&str], output: &[&str]) -> NodeProto {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        NodeProto {
            op_type: op_type.into(),
            input: names(input),
            output: names(output),
            ..Default::default()
        }
    }

    fn with_body(mut node: NodeProto, body: GraphProto) -> NodeProto {
        node.attribute.push(AttributeProto { name: "body".into(), g: Some(body), ..Default::default() });
        node
    }

    fn graph(input: &[&str], node: Vec<NodeProto>, output: &[&str]) -> GraphProto {
        let infos = |names: &[&str]| {
            let info = |name: &&str| ValueInfoProto { name: name.to_string(), ..Default::default() };
            names.iter().map(info).collect()
        };
        GraphProto { input: infos(input), node, output: infos(output), ..Default::default() }
    }

    #[test]
    fn a_name_means_one_thing_and_outer_values_keep_theirs() {
        let inner = graph(&["i"], vec![node("Add", &["i", "x"], &["y"])], &["y"]);
        let twin = graph(&["i"], vec![node("Mul", &["i", "y"], &["t"])], &["t"]);
        let mut outer = graph(
            &["x"],
            vec![
                with_body(node("Loop", &["x"], &["y"]), inner),
                with_body(node("Loop", &["y"], &["z"]), twin),
            ],
            &["z"],
        );
        make_unique(&mut outer);
        let body = bodies(&outer.node[0]).next().unwrap();
        assert_eq!(body.node[0].input, ["i", "x"]);
        assert_eq!(body.node[0].output, ["y_2"]);
        assert_eq!(body.output[0].name, "y_2");
        let twin = bodies(&outer.node[1]).next().unwrap();
        assert_eq!(twin.node[0].input, ["i_2", "y"], "the second body reads the outer value");
        assert_eq!(reads(&outer.node[0]), ["x"]);
        assert_eq!(reads(&outer.node[1]), ["y"]);
    }

    #[test]
    fn an_instance_has_actual_inputs_and_new_names() {
        let body = graph(&["a"], vec![node("Add", &["a", "outer"], &["b"])], &["b", "a"]);
        let (nodes, results) = instance(&body, &["actual".into()], |name| format!("{name}.1"));
        assert_eq!(nodes[0].input, ["actual", "outer"]);
        assert_eq!(nodes[0].output, ["b.1"]);
        assert_eq!(results, ["b.1", "actual"]);
    }
}
