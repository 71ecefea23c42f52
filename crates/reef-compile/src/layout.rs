//! Where lasting values lie: the order of their axes in memory, and which ones are made inside a
//! concatenation's buffer.
//!
//! Decided before any kernel is made, from the graph and its groups alone. A concatenation whose parts are a
//! contiguous run of another one's parts (DenseNet: every concatenation of a block starts the longest one)
//! shares the other's buffer.

use std::collections::HashMap;

use reef_graph::{DType, Graph, Node, Op, ValueId, ValueKind, Vision};

use crate::groups::{Group, Kind, is_elementwise};
use crate::view::View;

/// The order of an NHWC image's axes, which are `[N,C,H,W]`.
pub(crate) const NHWC: [usize; 4] = [0, 2, 3, 1];

/// What a kernel demands of the layout that it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Any strides.
    Any,
    /// NHWC pixels.
    Image,
    /// Dense rows along the last axis.
    Rows,
    /// Stride 1 along the last axis.
    Inner,
    /// Dense, in any order of axes.
    Solid,
    /// Dense, row-major.
    Dense,
}

impl Need {
    /// What the group's kernel demands; `None` when no kernel of its own writes its value.
    pub fn of(group: &Group, graph: &Graph) -> Option<Need> {
        match (&group.kind, &graph.nodes[group.root().index()].op) {
            (Kind::Conv(..) | Kind::IntegerConv(_), _) | (Kind::Single, Op::Pool(_)) => Some(Need::Image),
            (Kind::Linear(_) | Kind::IntegerLinear(_), _) => Some(Need::Rows),
            (Kind::MatMul(_) | Kind::IntegerMatMul(_) | Kind::Attention(..), _) => Some(Need::Inner),
            (Kind::LayerNorm(_), _) => Some(Need::Dense),
            (Kind::Single, Op::Gather { .. } | Op::Take(_) | Op::Put(..)) => Some(Need::Dense),
            (Kind::Single, Op::Resample { .. }) => Some(Need::Solid),
            (Kind::Elementwise, _) => Some(Need::Any),
            (
                Kind::Single,
                Op::Reduce { .. } | Op::Softmax { .. } | Op::LogSoftmax { .. } | Op::Pad { .. },
            ) => Some(Need::Any),
            _ => None,
        }
    }

    /// Whether a kernel with this demand can write `view`.
    pub fn accepts(self, view: &View) -> bool {
        let inner = || view.dims.last().is_none_or(|&dim| dim == 1 || view.strides.last() == Some(&1));
        match self {
            Need::Any => true,
            Need::Image => view.image().is_some(),
            Need::Rows => view.rows().is_some(),
            Need::Inner => inner(),
            Need::Solid => view.is_ordered(&view.order()),
            Need::Dense => view.is_dense(),
        }
    }

    /// The order of axes that meets the demand and is nearest to `wanted`.
    pub fn order(self, wanted: Vec<usize>, dims: &[usize]) -> Vec<usize> {
        if self.accepts(&View::ordered(0, DType::F32, dims, &wanted)) {
            return wanted;
        }
        match self {
            Need::Image => NHWC.to_vec(),
            Need::Inner => {
                let last = dims.len() - 1;
                wanted.into_iter().filter(|&axis| axis != last).chain([last]).collect()
            }
            Need::Any | Need::Rows | Need::Solid | Need::Dense => (0..dims.len()).collect(),
        }
    }
}

/// A concatenation that owns its buffer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Root {
    /// The concatenated value.
    pub value: ValueId,
    /// The axis.
    pub axis: usize,
    /// The parts, with nested concatenations along the axis opened up.
    pub leaves: Vec<ValueId>,
    /// For every part, its first index along the axis.
    pub begins: Vec<usize>,
}

/// A concatenation as a run of a root's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Index of the root.
    pub root: usize,
    /// First part.
    pub first: usize,
    /// Number of parts.
    pub count: usize,
}

/// The decisions.
#[derive(Debug, Default)]
pub(crate) struct Layouts {
    /// For every value, the order of axes that its readers like best, outermost first, if they care.
    pub orders: Vec<Option<Vec<usize>>>,
    /// For every value, the output of the model that has its bytes.
    pub output_of: Vec<Option<usize>>,
    /// Concatenations that own a buffer.
    pub roots: Vec<Root>,
    /// For every concatenated value, where it is.
    pub runs: HashMap<ValueId, Run>,
    /// For every value made inside a concatenation: the root and the part.
    pub homes: HashMap<ValueId, (usize, usize)>,
}

impl Layouts {
    /// Decides for `graph`; parts are made in place only when `elide` is set.
    pub fn decide(graph: &Graph, groups: &[Group], elide: bool) -> Layouts {
        let mut layouts = Layouts::default();
        layouts.find_outputs(graph);
        layouts.find_orders(graph);
        layouts.find_concats(graph);
        if elide {
            layouts.find_homes(graph, groups);
        }
        layouts
    }

    fn find_outputs(&mut self, graph: &Graph) {
        let consumers = graph.consumers();
        self.output_of = vec![None; graph.values.len()];
        for (index, id) in graph.outputs.iter().enumerate().rev() {
            self.output_of[id.index()] = Some(index);
        }
        for node in graph.nodes.iter().rev().filter(|node| node.op == Op::Reshape) {
            let source = node.inputs[0].index();
            if consumers[source].len() == 1 && self.output_of[source].is_none() {
                self.output_of[source] = self.output_of[node.outputs[0].index()];
            }
        }
    }

    fn find_orders(&mut self, graph: &Graph) {
        let (images, consumers) = (find_images(graph), graph.consumers());
        self.orders = vec![None; graph.values.len()];
        let made = graph.nodes.iter().rev().flat_map(|node| &node.outputs);
        let all: Vec<ValueId> = made.chain(&graph.inputs).copied().collect();
        for id in all {
            let value = graph.value(id);
            let rank = value.shape.rank();
            let readers: Vec<_> =
                consumers[id.index()].iter().map(|node| &graph.nodes[node.index()]).collect();
            let to_output = self.output_of[id.index()].is_some() && readers.len() <= 1;
            let dense = readers.iter().any(|node| demands_dense(&node.op));
            self.orders[id.index()] = if to_output && (readers.is_empty() || dense) {
                Some((0..rank).collect())
            } else if images[id.index()] {
                Some(NHWC.to_vec())
            } else if dense || self.output_of[id.index()].is_some() {
                Some((0..rank).collect())
            } else if let [reader] = readers[..] {
                let output = reader.outputs[0];
                let after = self.orders[output.index()].clone();
                match &reader.op {
                    Op::Transpose { perm } => after.map(|order| order.iter().map(|&i| perm[i]).collect()),
                    Op::Resample { .. } => after,
                    op if is_elementwise(op) && graph.value(output).shape == value.shape => after,
                    _ => None,
                }
            } else {
                None
            };
        }
    }

    fn find_concats(&mut self, graph: &Graph) {
        let counts = leaf_counts(graph);
        let mut concats: Vec<(ValueId, usize, Vec<ValueId>)> = graph
            .nodes
            .iter()
            .filter_map(|node| match node.op {
                Op::Concat { axis } => Some((node.outputs[0], axis, leaves(graph, &counts, node, axis))),
                _ => None,
            })
            .collect();
        concats.sort_by_key(|concat| std::cmp::Reverse(concat.2.len()));
        for (value, axis, leaves) in concats {
            let count = leaves.len();
            let inside = self.roots.iter().enumerate().find_map(|(index, root)| {
                let same = root.axis == axis && graph.value(root.value).dtype == graph.value(value).dtype;
                let first = root.leaves.windows(count).position(|run| run == leaves)?;
                same.then_some(Run { root: index, first, count })
            });
            let run = inside.unwrap_or_else(|| {
                let mut next = 0;
                let begins = leaves
                    .iter()
                    .map(|&leaf| {
                        next += graph.value(leaf).shape[axis];
                        next - graph.value(leaf).shape[axis]
                    })
                    .collect();
                self.roots.push(Root { value, axis, leaves, begins });
                Run { root: self.roots.len() - 1, first: 0, count }
            });
            self.runs.insert(value, run);
        }
    }

    fn find_homes(&mut self, graph: &Graph, groups: &[Group]) {
        let mut needs: HashMap<ValueId, Need> = HashMap::new();
        for group in groups {
            let outputs = &graph.nodes[group.root().index()].outputs;
            if let (Some(need), [output]) = (Need::of(group, graph), &outputs[..]) {
                needs.insert(*output, need);
            }
        }
        for (index, root) in self.roots.iter().enumerate() {
            let value = graph.value(root.value);
            let whole = View::ordered(0, value.dtype, &value.shape, &self.root_order(graph, root));
            for (part, (&leaf, &begin)) in root.leaves.iter().zip(&root.begins).enumerate() {
                let extent = graph.value(leaf).shape[root.axis];
                let view = whole.slice(root.axis, begin, extent, 1);
                let possible = needs.get(&leaf).is_some_and(|need| need.accepts(&view));
                if possible && self.output_of[leaf.index()].is_none() {
                    self.homes.entry(leaf).or_insert((index, part));
                }
            }
        }
    }

    /// The order of axes in a root's buffer.
    pub fn root_order(&self, graph: &Graph, root: &Root) -> Vec<usize> {
        let order = self.orders[root.value.index()].clone();
        order.unwrap_or_else(|| (0..graph.value(root.value).shape.rank()).collect())
    }
}

/// Parts of a nested concatenation that is opened: each becomes a kernel, and a value may be a part many
/// times over, at every level of nesting.
const LEAVES_MAX: usize = 1024;

/// The node that concatenates `value` along `axis`, if one does.
fn concat_along(graph: &Graph, value: ValueId, axis: usize) -> Option<&Node> {
    let ValueKind::Node(id) = graph.value(value).kind else { return None };
    Some(&graph.nodes[id.index()]).filter(|node| node.op == (Op::Concat { axis }))
}

/// For every value, of how many parts it is where it is part of a concatenation along its own axis: 1 unless
/// it is opened.
fn leaf_counts(graph: &Graph) -> Vec<usize> {
    let mut counts = vec![1usize; graph.values.len()];
    for node in &graph.nodes {
        let Op::Concat { axis } = node.op else { continue };
        let count = |&input: &ValueId| match concat_along(graph, input, axis) {
            Some(_) => counts[input.index()],
            None => 1,
        };
        let sum = node.inputs.iter().map(count).sum();
        counts[node.outputs[0].index()] = if sum > LEAVES_MAX { 1 } else { sum };
    }
    counts
}

/// The parts of a concatenation, with the parts of nested ones along `axis` in their place.
fn leaves(graph: &Graph, counts: &[usize], node: &Node, axis: usize) -> Vec<ValueId> {
    let opened = |&input: &ValueId| match concat_along(graph, input, axis) {
        Some(inner) if counts[input.index()] > 1 => leaves(graph, counts, inner, axis),
        _ => vec![input],
    };
    node.inputs.iter().flat_map(opened).collect()
}

/// Whether the operator reads dense row-major operands only, so that another layout costs a copy.
fn demands_dense(op: &Op) -> bool {
    use Op::{
        Along, Gather, Host, LayerNorm, MatMul, MatMulInteger, MaxPool, Put, Recurrent, Reshape, Selection,
        Take, TreeEnsemble,
    };
    use reef_graph::Vision::{Col2Im, Det};
    matches!(
        op,
        Reshape
            | LayerNorm { .. }
            | Host(_)
            | Gather { .. }
            | MatMul { .. }
            | MatMulInteger(_)
            | Selection(_)
            | Recurrent(_)
            | Along { .. }
            | Take(_)
            | Put(..)
            | MaxPool(_)
            | TreeEnsemble(_)
            | Op::Vision(Col2Im(_) | Det)
    )
}

/// Which values are images: what convolutions and pools read and write, and what reaches them through
/// operators that keep the layout.
fn find_images(graph: &Graph) -> Vec<bool> {
    let mut images = vec![false; graph.values.len()];
    for node in &graph.nodes {
        if matches!(
            node.op,
            Op::Conv(_) | Op::ConvInteger(..) | Op::Pool(_) | Op::Vision(Vision::RoiAlign(_))
        ) {
            images[node.inputs[0].index()] = true;
            images[node.outputs[0].index()] = true;
        }
    }
    let keeps = |op: &Op| {
        use Op::{Concat, Pad, Resample, Slice};
        is_elementwise(op)
            || matches!(op, Concat { .. } | Pad { .. } | Slice { .. } | Resample { .. })
            || matches!(op, Op::Vision(Vision::GridSample(_)))
    };
    loop {
        let before = images.iter().filter(|&&image| image).count();
        for node in graph.nodes.iter().filter(|node| keeps(&node.op)) {
            // Points are no image, wherever they lie.
            let inputs = if matches!(node.op, Op::Vision(_)) { &node.inputs[..1] } else { &node.inputs[..] };
            let values = inputs.iter().chain(&node.outputs);
            let own: Vec<usize> = values
                .filter(|id| graph.value(**id).shape.rank() == 4 && graph.constant(**id).is_none())
                .map(|id| id.index())
                .collect();
            if own.iter().any(|&index| images[index]) {
                own.into_iter().for_each(|index| images[index] = true);
            }
        }
        if images.iter().filter(|&&image| image).count() == before {
            return images;
        }
    }
}
