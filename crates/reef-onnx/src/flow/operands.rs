//! Which operands of an operator decide the shape of its results, or which way a model goes, and which
//! inputs of a model reach such an operand.

use std::collections::{BTreeSet, HashMap};

use reef_graph::DType;
use tract_onnx::pb::{GraphProto, NodeProto};

use crate::scope::bodies;

/// The inputs of an operator whose values, not only their shapes, must be known before its results have a
/// shape. Those that an old form of the operator has as attributes are harmless here.
pub(super) fn deciding(operator: &str) -> &'static [usize] {
    match operator {
        "ConstantOfShape" | "BlackmanWindow" | "HammingWindow" | "HannWindow" => &[0],
        "Reshape" | "Expand" | "Tile" | "Upsample" | "TopK" | "OneHot" | "Squeeze" | "Unsqueeze"
        | "Split" | "CumSum" | "CumProd" | "Trilu" | "CenterCropPad" | "AffineGrid" | "SplitToSequence" => {
            &[1]
        }
        "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean"
        | "ReduceMin" | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" => &[1],
        "Dropout" => &[1, 2],
        "DFT" | "Col2Im" => &[1, 2],
        "STFT" => &[1, 3],
        "Pad" => &[1, 3],
        "Resize" => &[1, 2, 3],
        "Slice" => &[1, 2, 3, 4],
        "Range" => &[0, 1, 2],
        "MelWeightMatrix" => &[0, 1, 2, 3, 4],
        "MaxUnpool" | "NonMaxSuppression" => &[2],
        "com.microsoft.GroupQueryAttention" => &[6],
        _ => &[],
    }
}

/// Beside [`deciding`]: the operands that say which way to go.
fn steering(operator: &str) -> &'static [usize] {
    match operator {
        "If" => &[0],
        "Loop" => &[0, 1],
        "SequenceAt" | "SequenceErase" => &[1],
        "SequenceInsert" => &[2],
        _ => &[],
    }
}

/// Whether small floating-point inputs decide shapes at this operator, too.
fn takes_fractions(operator: &str) -> bool {
    matches!(operator, "Resize" | "Upsample" | "Range")
}

/// Operators of which the shape of an input is all that counts.
pub(super) fn reads_shape_only(operator: &str) -> bool {
    matches!(operator, "Shape" | "Size")
}

/// By the name of a value, the inputs of the model that it is computed from, other than from their shapes.
type Sources = HashMap<String, BTreeSet<usize>>;

/// For every input of a model whether its value is a *shape input*: it reaches an operand that decides a
/// shape or a way, and nothing else that varies does.
pub(super) fn shape_inputs(graph: &GraphProto, inputs: &[(String, DType)]) -> Vec<bool> {
    let mut sources: Sources = HashMap::new();
    for (index, (name, _)) in inputs.iter().enumerate() {
        sources.insert(name.clone(), BTreeSet::from([index]));
    }
    // Loops carry values around: what is found in a round reaches the next.
    let mut size = 0;
    loop {
        walk(graph, &mut sources);
        let now = sources.values().map(BTreeSet::len).sum();
        if now == size {
            break;
        }
        size = now;
    }
    let mut found = vec![false; inputs.len()];
    decide(graph, &sources, inputs, &mut found);
    found
}

fn of(sources: &Sources, name: &str) -> BTreeSet<usize> {
    sources.get(name).cloned().unwrap_or_default()
}

fn walk(graph: &GraphProto, sources: &mut Sources) {
    for node in &graph.node {
        if reads_shape_only(&node.op_type) {
            continue;
        }
        let mut all: BTreeSet<usize> = node.input.iter().flat_map(|name| of(sources, name)).collect();
        for body in bodies(node) {
            bind(node, body, sources);
            walk(body, sources);
            all.extend(body.output.iter().flat_map(|output| of(sources, &output.name)));
        }
        for output in &node.output {
            sources.entry(output.clone()).or_default().extend(all.iter().copied());
        }
    }
}

/// What the inputs of a body are given: of a loop the values from before, and those of the round before.
fn bind(node: &NodeProto, body: &GraphProto, sources: &mut Sources) {
    let skipped = usize::from(node.op_type == "Loop");
    for (index, input) in body.input.iter().enumerate() {
        let mut given = node.input.get(index).map(|name| of(sources, name)).unwrap_or_default();
        if node.op_type == "Loop" && index == 0 {
            given.clear();
        }
        if index >= skipped
            && let Some(output) = body.output.get(index - skipped)
        {
            given.extend(of(sources, &output.name));
        }
        sources.entry(input.name.clone()).or_default().extend(given);
    }
}

fn decide(graph: &GraphProto, sources: &Sources, inputs: &[(String, DType)], found: &mut [bool]) {
    for node in &graph.node {
        let operator = node.op_type.as_str();
        let fractions = takes_fractions(operator);
        let may_be = |&input: &usize| {
            let dtype = inputs[input].1;
            fractions || !dtype.is_float()
        };
        for &operand in deciding(operator).iter().chain(steering(operator)) {
            let Some(name) = node.input.get(operand) else { continue };
            let reach = of(sources, name);
            if reach.iter().all(may_be) {
                reach.into_iter().for_each(|input| found[input] = true);
            }
        }
        bodies(node).for_each(|body| decide(body, sources, inputs, found));
    }
}
