//! One way to write a node, where ONNX has several and tract reads only one of them right.
//!
//! - Inputs and outputs that are left out end no list, and an output without a name before one that has one
//!   gets a name that nothing reads: tract counts the outputs that have names.
//! - `pads` of a pooling beside `auto_pad` goes: the operator does not look at it, and tract looks at
//!   nothing else.
//! - What an operator of an old operator set has as an attribute, or leaves to its default, is written out.

use std::collections::HashSet;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto};

/// What the names of outputs begin with that a file left without one.
pub(crate) const UNREAD: &str = "reef.unread";

/// Rewrites a graph of an operator set, and those within it.
pub(crate) fn plain(graph: &mut GraphProto, operator_set: i64) {
    let mut names = Names::of(graph);
    let GraphProto { node: nodes, initializer, .. } = graph;
    for node in nodes {
        for listed in [&mut node.input, &mut node.output] {
            listed.truncate(listed.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1));
        }
        for output in node.output.iter_mut().filter(|output| output.is_empty()) {
            *output = names.fresh(UNREAD);
        }
        match node.op_type.as_str() {
            operator if operator.ends_with("Pool") => drop_pads(node),
            "Slice" if operator_set < 10 => slice_axes(node),
            "TopK" if operator_set < 10 => initializer.extend(top_count(node, &mut names)),
            _ => {}
        }
        for attribute in &mut node.attribute {
            attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|graph| plain(graph, operator_set));
        }
    }
}

/// The names in a graph, those that it reads from around it included.
struct Names(HashSet<String>);

impl Names {
    fn of(graph: &GraphProto) -> Names {
        let nodes = graph.node.iter().flat_map(|node| node.input.iter().chain(&node.output));
        let inputs = graph.input.iter().map(|input| &input.name);
        let tensors = graph.initializer.iter().map(|tensor| &tensor.name);
        Names(nodes.chain(inputs).chain(tensors).cloned().collect())
    }

    /// A name that is not in the graph yet.
    fn fresh(&mut self, stem: &str) -> String {
        let candidates = (self.0.len()..).map(|number| format!("{stem}.{number}"));
        let name = candidates.into_iter().find(|name| !self.0.contains(name)).expect("numbers do not end");
        self.0.insert(name.clone());
        name
    }
}

fn drop_pads(node: &mut NodeProto) {
    let auto = |attribute: &AttributeProto| attribute.name == "auto_pad" && attribute.s != b"NOTSET";
    if node.attribute.iter().any(auto) {
        node.attribute.retain(|attribute| attribute.name != "pads");
    }
}

/// `axes` of a `Slice` are the first ones unless it says which.
fn slice_axes(node: &mut NodeProto) {
    let Some(starts) = node.attribute.iter().find(|attribute| attribute.name == "starts") else { return };
    if node.attribute.iter().all(|attribute| attribute.name != "axes") {
        let ints = (0..starts.ints.len() as i64).collect();
        let r#type = AttributeType::Ints as i32;
        node.attribute.push(AttributeProto {
            name: "axes".into(),
            r#type,
            ints,
            ..AttributeProto::default()
        });
    }
}

/// `k` of a `TopK` as the constant that it takes since.
fn top_count(node: &mut NodeProto, names: &mut Names) -> Option<TensorProto> {
    let at = node.attribute.iter().position(|attribute| attribute.name == "k")?;
    let count = node.attribute.remove(at).i;
    let name = names.fresh("k");
    node.input.push(name.clone());
    let data_type = DataType::Int64 as i32;
    Some(TensorProto { name, dims: vec![1], data_type, int64_data: vec![count], ..TensorProto::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(operator: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        NodeProto {
            op_type: operator.into(),
            input: names(inputs),
            output: names(outputs),
            attribute,
            ..NodeProto::default()
        }
    }

    fn rewritten(node: NodeProto, operator_set: i64) -> GraphProto {
        let mut graph = GraphProto { node: vec![node], ..GraphProto::default() };
        plain(&mut graph, operator_set);
        graph
    }

    #[test]
    fn what_is_left_out_is_written_in_one_way() {
        let graph = rewritten(node("Conv", &["x", "w", ""], &["y"], vec![]), 17);
        assert_eq!(graph.node[0].input, ["x", "w"]);
        let graph = rewritten(node("Clip", &["x", "", "high"], &["y"], vec![]), 17);
        assert_eq!(graph.node[0].input, ["x", "", "high"]);
        let graph = rewritten(node("LSTM", &["unread.6", "w", "r"], &["", "h", "", ""], vec![]), 17);
        let outputs = &graph.node[0].output;
        assert_eq!(outputs.len(), 2);
        assert!(!outputs[0].is_empty() && outputs[0] != "unread.6" && outputs[1] == "h");
    }

    #[test]
    fn pads_beside_automatic_ones_are_not_seen() {
        let pads = |auto: &[u8]| {
            let auto_pad = AttributeProto { name: "auto_pad".into(), s: auto.into(), ..Default::default() };
            let pads = AttributeProto { name: "pads".into(), ints: vec![1; 4], ..Default::default() };
            rewritten(node("MaxPool", &["x"], &["y"], vec![auto_pad, pads]), 17).node[0].attribute.len()
        };
        assert_eq!((pads(b"NOTSET"), pads(b"SAME_UPPER")), (2, 1));
    }

    #[test]
    fn old_forms_become_new_ones() {
        let int = |name: &str, i| AttributeProto { name: name.into(), i, ..AttributeProto::default() };
        let graph = rewritten(node("TopK", &["x"], &["v", "i"], vec![int("k", 3), int("axis", 0)]), 9);
        assert_eq!(graph.node[0].input.len(), 2);
        assert_eq!(graph.initializer[0].int64_data, [3]);
        assert_eq!(graph.initializer[0].name, graph.node[0].input[1]);
        let starts = AttributeProto { name: "starts".into(), ints: vec![1, 2], ..AttributeProto::default() };
        let graph = rewritten(node("Slice", &["x"], &["y"], vec![starts]), 9);
        assert_eq!(graph.node[0].attribute[1].ints, [0, 1]);
    }
}
