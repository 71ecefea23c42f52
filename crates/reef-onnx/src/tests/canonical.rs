//! A dump of what a graph computes that does not depend on names, order of nodes, rounding of constants or
//! axes of extent 1.

use reef_graph::{Binary, Graph, Op, Shape, ValueId, ValueKind};

/// One line per node, in the order in which the outputs reach them.
pub(super) fn dump(graph: &Graph) -> String {
    let mut numbers = vec![None; graph.values.len()];
    let mut lines = vec![];
    for &output in &graph.outputs {
        visit(graph, output, &mut numbers, &mut lines);
    }
    lines.join("\n")
}

fn visit(graph: &Graph, id: ValueId, numbers: &mut Vec<Option<String>>, lines: &mut Vec<String>) -> String {
    if let Some(known) = &numbers[id.index()] {
        return known.clone();
    }
    let value = graph.value(id);
    let text = match &value.kind {
        ValueKind::Input(index) => format!("input{index}"),
        ValueKind::Const(_) => format!("const{}", slim(&value.shape)),
        ValueKind::Node(node) => {
            let node = &graph.nodes[node.index()];
            let source = node.inputs.first().map(|&input| graph.value(input).shape.clone());
            if node.op == Op::Reshape && source.as_ref().map(slim) == Some(slim(&value.shape)) {
                visit(graph, node.inputs[0], numbers, lines)
            } else {
                let mut inputs: Vec<String> =
                    node.inputs.iter().map(|&input| visit(graph, input, numbers, lines)).collect();
                let mut op = operator(&node.op, &source.unwrap_or_default());
                if let Op::MatMul { trans_a, .. } = node.op
                    && let Some(weights) = graph.constant(node.inputs[1])
                {
                    // A constant matrix may be stored either way.
                    op = format!("MatMul {trans_a}");
                    inputs[1] = format!("{} weights", weights.shape().elements());
                }
                if node.op == Op::Binary(Binary::Div) && graph.constant(node.inputs[1]).is_some() {
                    // tract multiplies by the inverse.
                    op = operator(&Op::Binary(Binary::Mul), &Shape::default());
                }
                lines.push(format!("{op} {} -> {}{}", inputs.join(" "), value.dtype, slim(&value.shape)));
                format!("%{}", lines.len() - 1)
            }
        }
    };
    numbers[id.index()] = Some(text.clone());
    text
}

fn slim(shape: &Shape) -> Shape {
    shape.iter().copied().filter(|&extent| extent != 1).collect()
}

/// The operator with its axes counted without those of extent 1.
fn operator(op: &Op, shape: &Shape) -> String {
    let number = |axis: usize| shape[..axis].iter().filter(|&&extent| extent != 1).count();
    match op {
        Op::Transpose { perm } => {
            let kept = perm.iter().filter(|&&axis| shape[axis] != 1);
            format!("Transpose {:?}", kept.map(|&axis| number(axis)).collect::<Vec<_>>())
        }
        Op::Reduce { reduce, axes, .. } => {
            let kept = axes.iter().filter(|&&axis| shape[axis] != 1);
            format!("{reduce:?} {:?}", kept.map(|&axis| number(axis)).collect::<Vec<_>>())
        }
        Op::Softmax { axis } => format!("Softmax {}", number(*axis)),
        Op::LayerNorm { axis, epsilon } => format!("LayerNorm {} {epsilon}", number(*axis)),
        Op::Concat { axis } => format!("Concat {}", number(*axis)),
        Op::Gather { axis } => format!("Gather {}", number(*axis)),
        other => format!("{other:?}"),
    }
}
