//! Normalisation: the same network gives the same graph however it was written.
//!
//! Rules replace one node each, looking backwards from it in the old graph. Sweeps over the graph repeat
//! until no rule applies. Every rule keeps the value exact, or within the rounding of one operation where it
//! says so.

mod activation;
mod affine;
mod movement;
mod norm;

use reef_graph::{DType, Graph, Node, ValueId, ValueKind};

use crate::consts::{self, ConstPool};
use crate::rewrite::{Rewriter, live};

/// What replaces a node's only output: a value of the new graph.
type Rule = fn(&mut Rewriter, &ConstPool, &Node) -> Option<ValueId>;

/// Sweeps that no graph of sane depth needs; each one that changes something makes the graph simpler.
const SWEEPS_MAX: usize = 1000;

/// What tidies data movement and finds operators in their parts.
const FINDING: &[Rule] = &[
    movement::constant,
    movement::identity,
    movement::merged,
    movement::unit_transpose,
    movement::unbroadcast,
    movement::strided_conv,
    movement::pixel_conv,
    movement::transposed_operand,
    activation::canonical,
    activation::slim_constant,
    activation::clip,
    activation::hard,
    activation::silu,
    activation::gelu,
    activation::gelu_tanh,
    activation::softplus,
    activation::elu,
    norm::mean,
    norm::layer_norm,
    norm::layer_norm_affine,
    movement::sink_movement,
    movement::sink_reshape,
];

/// What folds scaling into convolutions; done before all is found, it would hide parts of other operators.
const FOLDING: &[Rule] = &[affine::into_conv, affine::scale_shift];

/// The normal form of a graph.
pub(crate) fn normalise(graph: Graph, pool: &ConstPool) -> Graph {
    let mut graph = live(&graph);
    let all = [FINDING, FOLDING].concat();
    for rules in [FINDING, &all] {
        for _ in 0..SWEEPS_MAX {
            let (next, changed) = sweep(&graph, pool, rules);
            graph = live(&next);
            if !changed {
                break;
            }
        }
    }
    narrowed(&graph, pool)
}

fn sweep(graph: &Graph, pool: &ConstPool, rules: &[Rule]) -> (Graph, bool) {
    let mut rewriter = Rewriter::new(graph);
    let mut changed = false;
    for node in &graph.nodes {
        let [output] = node.outputs[..] else {
            rewriter.copy(node);
            continue;
        };
        // What the rules know is all in single precision.
        if graph.value(output).dtype == DType::F64 {
            rewriter.copy(node);
            continue;
        }
        match rules.iter().find_map(|rule| rule(&mut rewriter, pool, node)) {
            Some(value) => {
                rewriter.replace(output, value);
                changed = true;
            }
            None => rewriter.copy(node),
        }
    }
    (rewriter.finish(), changed)
}

/// The graph with parameters that were kept in f64 for folding rounded to f32.
fn narrowed(graph: &Graph, pool: &ConstPool) -> Graph {
    let mut graph = graph.clone();
    let inputs: Vec<ValueId> = graph
        .nodes
        .iter()
        .filter(|node| matches!(node.op, reef_graph::Op::ScaleShift))
        .flat_map(|node| node.inputs[1..].to_vec())
        .collect();
    for id in inputs {
        let value = &mut graph.values[id.index()];
        let ValueKind::Const(tensor) = &value.kind else { continue };
        if value.dtype == DType::F64 {
            let narrow = pool.folded("narrow".into(), &[tensor], || {
                consts::rounded(tensor.shape().clone(), tensor.values::<f64>())
            });
            value.dtype = DType::F32;
            value.kind = ValueKind::Const(narrow);
        }
    }
    live(&graph)
}
