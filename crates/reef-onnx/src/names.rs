//! Names inside of a model: every node gets one of its own, and every value has one maker.
//!
//! ONNX does not ask for node names, nor that they differ; tract does. It also names parts of a node after
//! it: `a.cast` is a part of `a`. So a name that is missing, taken, or that could be the name of a part of
//! another node is replaced. Names of values are the model's interface and stay.

use std::collections::HashSet;

use tract_onnx::pb;

/// Two names of the domain of ONNX's own operators.
pub(crate) const STANDARD: [&str; 2] = ["", "ai.onnx"];

/// What the operators of ONNX Runtime's own domain are called here.
pub(crate) const CONTRIBUTED: &str = "com.microsoft.";

/// What the operators of ONNX's domain of classical models are called here.
pub(crate) const CLASSICAL: &str = "ai.onnx.ml.";

/// Writes these domains into the names of their operators, which are then told from ONNX's own by them.
pub(crate) fn write_out_domains(graph: &mut pb::GraphProto) {
    for node in &mut graph.node {
        let of = |prefix: &&str| prefix.strip_suffix('.') == Some(node.domain.as_str());
        if let Some(prefix) = [CONTRIBUTED, CLASSICAL].into_iter().find(of) {
            node.op_type = format!("{prefix}{}", node.op_type);
            node.domain.clear();
        }
        for attribute in &mut node.attribute {
            attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(write_out_domains);
        }
    }
}

/// Gives every node of `graph`, and of the graphs in it, a name that no other node, input or constant has.
pub(crate) fn make_unique(graph: &mut pb::GraphProto) {
    let mut taken = HashSet::new();
    collect(graph, &mut taken);
    rename(graph, &mut taken);
}

/// Names of inputs and constants.
fn collect(graph: &pb::GraphProto, taken: &mut HashSet<String>) {
    taken.extend(graph.input.iter().map(|input| input.name.clone()));
    taken.extend(graph.initializer.iter().map(|tensor| tensor.name.clone()));
    for inner in graph.node.iter().flat_map(|node| &node.attribute).flat_map(inner_graphs) {
        collect(inner, taken);
    }
}

fn inner_graphs(attribute: &pb::AttributeProto) -> impl Iterator<Item = &pb::GraphProto> {
    attribute.g.iter().chain(&attribute.graphs)
}

fn rename(graph: &mut pb::GraphProto, taken: &mut HashSet<String>) {
    for node in &mut graph.node {
        let wanted = match (node.name.as_str(), node.output.iter().find(|output| !output.is_empty())) {
            ("", Some(output)) => output.clone(),
            ("", None) => node.op_type.clone(),
            (name, _) => name.to_owned(),
        };
        node.name = free(&wanted, taken);
        taken.insert(node.name.clone());
        for attribute in &mut node.attribute {
            for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                rename(inner, taken);
            }
        }
    }
}

/// `wanted`, or the first of `wanted_2`, `wanted_3` … that is neither taken nor a part's name.
fn free(wanted: &str, taken: &HashSet<String>) -> String {
    let is_part = |name: &str| name.match_indices('.').any(|(at, _)| taken.contains(&name[..at]));
    if !taken.contains(wanted) && !is_part(wanted) {
        return wanted.to_owned();
    }
    let base = if is_part(wanted) { wanted.replace('.', "_") } else { wanted.to_owned() };
    let numbered = (2usize..).map(|number| format!("{base}_{number}"));
    let mut candidates = std::iter::once(base.clone()).chain(numbered);
    candidates.find(|name| !taken.contains(name)).expect("numbers do not end")
}

/// Why the values of `graph` are not well made: one has two makers, or an output has none.
pub(crate) fn check_values(graph: &pb::GraphProto) -> Result<(), String> {
    let mut made: HashSet<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
    if made.len() != graph.input.len() {
        return Err("an input is declared twice".into());
    }
    let mut constants = HashSet::new();
    for tensor in &graph.initializer {
        if !constants.insert(tensor.name.as_str()) {
            return Err(format!("two constants are called {}", tensor.name));
        }
    }
    // An input with the name of a constant has it as its default.
    made.extend(constants);
    for node in &graph.node {
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            if !made.insert(output) {
                return Err(format!(
                    "the value {output} is made twice, the second time by a {}",
                    node.op_type
                ));
            }
        }
    }
    match graph.output.iter().find(|output| !made.contains(output.name.as_str())) {
        Some(output) => Err(format!("nothing makes the output {}", output.name)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_unique_and_kept_where_they_are() {
        let nodes =
            [("a", "x1"), ("a", "x2"), ("", "x3"), ("", "a"), ("a.cast", "x5"), ("w", "x6"), ("b.c", "x7")];
        let node = |(name, output): (&str, &str)| pb::NodeProto {
            name: name.into(),
            output: vec![output.into()],
            op_type: "Neg".into(),
            ..Default::default()
        };
        let mut graph = pb::GraphProto {
            node: nodes.into_iter().map(node).collect(),
            initializer: vec![pb::TensorProto { name: "w".into(), ..Default::default() }],
            ..Default::default()
        };
        graph.node.push(pb::NodeProto { op_type: "Sink".into(), ..Default::default() });
        make_unique(&mut graph);
        let names: Vec<&str> = graph.node.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["a", "a_2", "x3", "a_3", "a_cast", "w_2", "b.c", "Sink"]);
    }
}
