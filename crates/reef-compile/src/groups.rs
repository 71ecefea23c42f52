//! Which nodes become one kernel.
//!
//! A group has a root, the node that makes the group's only lasting value; the other members make values that
//! nothing outside reads, or single elements that others make for themselves. Groups are lowered in the
//! order of their roots, when all that any member reads is there. Kernels with an epilogue take what follows
//! them first, then what is left of element-wise chains is joined.

mod integer;

use reef_graph::{Binary, ConvAttrs, DType, Graph, Node, NodeId, Op, Shape, Unary, ValueId};
use reef_plan::Masking;

pub(crate) use integer::IntegerTail;

/// Most operators in one element-wise program.
const PROGRAM_NODES_MAX: usize = 12;
/// Most operands of one element-wise program.
const PROGRAM_INPUTS_MAX: usize = 8;

/// What follows a convolution or a product with constant weights before the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tail {
    /// A constant added by output channel.
    pub bias: Option<ValueId>,
    /// A value of the output's shape that is added.
    pub residual: Option<ValueId>,
    /// Applied last.
    pub activation: Option<Unary>,
}

/// How a group is computed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// A convolution with its epilogue; if there is a scale and shift (first member), it norms its input.
    Conv(Option<NodeId>, Tail),
    /// A product with a constant matrix on the right (first member) with its epilogue.
    Linear(Tail),
    /// A convolution of integers (first member) with its epilogue.
    IntegerConv(IntegerTail),
    /// A product of integers with a constant matrix on the right (first member) with its epilogue.
    IntegerLinear(IntegerTail),
    /// A product of integers (first member) with its epilogue, which has no residual.
    IntegerMatMul(IntegerTail),
    /// A product of computed operands, times this factor.
    MatMul(f32),
    /// A product (first member) times this factor, with a mask added, softmax of its rows, and the product of
    /// that with another operand (last member).
    Attention(f32, Option<(ValueId, Masking)>),
    /// Nothing: a product took the factor that the node multiplies this value with.
    Alias(ValueId),
    /// One program over all members.
    Elementwise,
    /// A layer norm (last member) of a sum, if these two are given.
    LayerNorm(Option<[ValueId; 2]>),
    /// One node by itself.
    Single,
}

/// Nodes that become one kernel (or none, or a few in sequence).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    /// Members, ascending; the last is the root.
    pub nodes: Vec<NodeId>,
    /// How it is computed.
    pub kind: Kind,
}

impl Group {
    /// The member that makes the group's value.
    pub fn root(&self) -> NodeId {
        *self.nodes.last().expect("a group has a member")
    }
}

/// Whether a node works element by element.
pub(crate) fn is_elementwise(op: &Op) -> bool {
    use Op::{Binary, Cast, Dequantize, Quantize, ScaleShift, Unary, Where};
    matches!(op, Unary(_) | Binary(_) | Where | ScaleShift | Cast { .. } | Quantize(_) | Dequantize(_))
}

/// What a device has one kernel for and others several.
pub(crate) struct Joint<'a> {
    /// Attention of so many products and columns.
    pub attention: &'a dyn Fn(usize, usize) -> bool,
    /// A convolution that norms its input.
    pub normed_conv: bool,
}

/// Groups the nodes of a simplified graph; the groups are ordered by their roots.
pub(crate) fn group(graph: &Graph, joint: &Joint<'_>) -> Vec<Group> {
    let mut grouper = Grouper::new(graph);
    for index in 0..graph.nodes.len() {
        grouper.take_attention(NodeId(index as u32), joint.attention);
    }
    for id in deepest_first(graph) {
        grouper.take_contraction(id, joint);
    }
    for index in (0..graph.nodes.len()).rev() {
        grouper.take_rest(NodeId(index as u32));
    }
    grouper.groups.sort_by_key(Group::root);
    grouper.groups
}

/// The nodes by their distance from the inputs, the farthest first. The deeper of two branches takes the sum
/// behind them: the other one then waits for nothing and may run beside the deeper one's beginning.
fn deepest_first(graph: &Graph) -> Vec<NodeId> {
    let mut depths = vec![0usize; graph.values.len()];
    let mut nodes: Vec<(usize, NodeId)> = Vec::with_capacity(graph.nodes.len());
    for (index, node) in graph.nodes.iter().enumerate() {
        let depth = 1 + node.inputs.iter().map(|id| depths[id.index()]).max().unwrap_or(0);
        node.outputs.iter().for_each(|id| depths[id.index()] = depth);
        nodes.push((depth, NodeId(index as u32)));
    }
    nodes.sort_unstable_by(|a, b| b.cmp(a));
    nodes.into_iter().map(|(_, id)| id).collect()
}

/// What makes the scores of attention: a product, perhaps scaled, perhaps masked.
struct Scores {
    product: NodeId,
    scaling: Option<NodeId>,
    mask: Option<(ValueId, Masking)>,
}

struct Grouper<'a> {
    graph: &'a Graph,
    consumers: Vec<Vec<NodeId>>,
    is_output: Vec<bool>,
    taken: Vec<bool>,
    /// Made in a group, and perhaps once more for others.
    copied: Vec<bool>,
    groups: Vec<Group>,
}

impl<'a> Grouper<'a> {
    fn new(graph: &'a Graph) -> Grouper<'a> {
        let mut is_output = vec![false; graph.values.len()];
        graph.outputs.iter().for_each(|id| is_output[id.index()] = true);
        let [taken, copied] = [vec![false; graph.nodes.len()], vec![false; graph.nodes.len()]];
        Grouper { graph, consumers: graph.consumers(), is_output, taken, copied, groups: Vec::new() }
    }

    fn node(&self, id: NodeId) -> &'a Node {
        &self.graph.nodes[id.index()]
    }

    fn output(&self, id: NodeId) -> ValueId {
        self.node(id).outputs[0]
    }

    fn shape(&self, id: ValueId) -> &'a Shape {
        &self.graph.value(id).shape
    }

    fn push(&mut self, mut nodes: Vec<NodeId>, kind: Kind) {
        nodes.sort_unstable();
        nodes.iter().for_each(|id| self.taken[id.index()] = true);
        self.groups.push(Group { nodes, kind });
    }

    /// The only node that reads `value`, if it is free.
    fn sole_consumer(&self, value: ValueId) -> Option<NodeId> {
        match self.consumers[value.index()][..] {
            [node] if !self.is_output[value.index()] && !self.taken[node.index()] => Some(node),
            _ => None,
        }
    }

    /// The free node that makes `value`, if only one node reads `value`.
    fn sole_producer(&self, value: ValueId) -> Option<NodeId> {
        let reef_graph::ValueKind::Node(node) = self.graph.value(value).kind else { return None };
        let single = self.consumers[value.index()].len() == 1 && !self.is_output[value.index()];
        (single && !self.taken[node.index()]).then_some(node)
    }

    fn take_contraction(&mut self, id: NodeId, joint: &Joint<'_>) {
        let node = self.node(id);
        if self.taken[id.index()] {
            return;
        }
        match &node.op {
            Op::Conv(attrs) => {
                let (mut nodes, tail) = self.tail(id, 1);
                let norm = self.norm(node, attrs).filter(|_| joint.normed_conv);
                nodes.extend(norm.iter().flatten());
                self.push(nodes, Kind::Conv(norm.map(|[scale_shift, _]| scale_shift), tail));
            }
            Op::MatMul { .. } if self.is_linear(node) => {
                let axis = self.shape(node.outputs[0]).rank() - 1;
                let (nodes, tail) = self.tail(id, axis);
                self.push(nodes, Kind::Linear(tail));
            }
            Op::MatMul { .. } => self.take_product(id),
            Op::ConvInteger(..) | Op::MatMulInteger(_) => self.take_integers(id),
            _ => {}
        }
    }

    /// The scale and shift, and the relu behind it, that a convolution may do to its input itself. Where a
    /// window has padding, the zeros come behind them.
    fn norm(&self, conv: &Node, attrs: &ConvAttrs) -> Option<[NodeId; 2]> {
        if attrs.kernel != [1; 2] || attrs.pads != [0; 4] || attrs.groups != 1 {
            return None;
        }
        let relu = self.sole_producer(conv.inputs[0])?;
        let is_relu = matches!(self.node(relu).op, Op::Unary(Unary::Relu));
        let scale_shift = self.sole_producer(self.node(relu).inputs[0]).filter(|_| is_relu)?;
        let node = self.node(scale_shift);
        let floats = node.inputs.iter().all(|&id| self.graph.value(id).dtype == DType::F32);
        (matches!(node.op, Op::ScaleShift) && floats).then_some([scale_shift, relu])
    }

    /// Whether a product's right operand is a constant matrix.
    fn is_linear(&self, node: &Node) -> bool {
        let right = node.inputs[1];
        let dims = self.shape(right);
        let matrix = dims[..dims.rank() - 2].iter().all(|&dim| dim == 1);
        matrix && dims.elements() > 0 && self.graph.constant(right).is_some()
    }

    /// What follows `head` into its epilogue; channels are the output's `axis`.
    fn tail(&self, head: NodeId, axis: usize) -> (Vec<NodeId>, Tail) {
        let (mut nodes, mut tail) = (vec![head], Tail::default());
        let mut value = self.output(head);
        if self.graph.value(value).dtype != DType::F32 {
            return (nodes, tail);
        }
        let has_bias = matches!(self.node(head).op, Op::Conv(_)) && self.node(head).inputs.len() > 2;
        while let Some(next) = self.sole_consumer(value) {
            let node = self.node(next);
            let shape = self.shape(node.outputs[0]);
            match node.op {
                Op::Binary(Binary::Add) if node.inputs[0] != node.inputs[1] => {
                    let other = node.inputs[usize::from(node.inputs[0] == value)];
                    let plain = !has_bias && tail.bias.is_none() && tail.residual.is_none();
                    if shape != self.shape(value) {
                        break;
                    } else if plain && self.is_bias(other, shape, axis) {
                        tail.bias = Some(other);
                    } else if tail.residual.is_none() && self.shape(other) == shape {
                        tail.residual = Some(other);
                    } else {
                        break;
                    }
                }
                Op::Unary(function) if function != Unary::Not => tail.activation = Some(function),
                _ => break,
            }
            nodes.push(next);
            value = node.outputs[0];
            if tail.activation.is_some() {
                break;
            }
        }
        (nodes, tail)
    }

    /// Whether `value` is a constant with one element for each index of `axis` of `shape`.
    fn is_bias(&self, value: ValueId, shape: &Shape, axis: usize) -> bool {
        let dims = self.shape(value);
        let Some(own) = (axis + dims.rank()).checked_sub(shape.rank()) else { return false };
        let alone = dims.elements() == shape[axis] && dims.get(own) == Some(&shape[axis]);
        alone && self.graph.constant(value).is_some() && dims.rank() <= shape.rank()
    }

    /// Attention, if its softmax is `id`: what makes its scores is a product, and who reads it is another.
    fn take_attention(&mut self, id: NodeId, has_attention: &dyn Fn(usize, usize) -> bool) {
        let node = self.node(id);
        let value = node.outputs[0];
        let rank = self.shape(value).rank();
        if !matches!(node.op, Op::Softmax { axis } if axis + 1 == rank) {
            return;
        }
        let Some(Scores { product, scaling, mask }) = self.scores(node.inputs[0]) else { return };
        let Some(last) = self.sole_consumer(value) else { return };
        let (first_node, last_node) = (self.node(product), self.node(last));
        let weighs = matches!(last_node.op, Op::MatMul { trans_a: false, .. })
            && last_node.inputs[0] == value
            && last_node.inputs[1] != value
            && !self.is_linear(last_node);
        let Op::MatMul { trans_a, .. } = first_node.op else { return };
        let left = self.shape(first_node.inputs[0]);
        let depth = left[left.rank() - if trans_a { 2 } else { 1 }];
        let output = self.shape(last_node.outputs[0]);
        let mut operands = first_node.inputs.iter().chain(&last_node.inputs);
        let fits = operands.all(|&id| self.graph.value(id).dtype == DType::F32)
            && output.elements() * depth * self.shape(value).elements() > 0
            && has_attention(depth, output[output.rank() - 1]);
        if weighs && fits {
            let factor = scaling.and_then(|by| self.scaling(by)).map_or(1.0, |(_, factor)| factor);
            let (mut nodes, alpha) = self.take_factors(product, factor);
            nodes.extend(scaling);
            nodes.extend(self.sole_producer(node.inputs[0]).filter(|_| mask.is_some()));
            nodes.extend([id, last]);
            self.push(nodes, Kind::Attention(alpha, mask));
        }
    }

    /// What makes the scores of attention.
    fn scores(&self, value: ValueId) -> Option<Scores> {
        let product = |value: ValueId| {
            let by = self.sole_producer(value)?;
            let node = self.node(by);
            let is_product = matches!(node.op, Op::MatMul { .. }) && !self.is_linear(node);
            is_product.then_some(by)
        };
        let scaled = |value: ValueId| {
            if let Some(by) = product(value) {
                return Some((by, None));
            }
            let by = self.sole_producer(value)?;
            let (source, _) = self.scaling(by)?;
            (self.shape(source) == self.shape(value)).then(|| Some((product(source)?, Some(by))))?
        };
        if let Some((product, scaling)) = scaled(value) {
            return Some(Scores { product, scaling, mask: None });
        }
        let node = self.node(self.sole_producer(value)?);
        let of_scores = |own: ValueId, mask: ValueId, masking: Masking| {
            let (product, scaling) = scaled(own).filter(|_| self.shape(own) == self.shape(value))?;
            Some(Scores { product, scaling, mask: Some((mask, masking)) })
        };
        match (&node.op, &node.inputs[..]) {
            (Op::Binary(Binary::Add), &[a, b]) if a != b => {
                let adds = |&(_, mask): &(ValueId, ValueId)| self.graph.value(mask).dtype == DType::F32;
                let mut sides = [(a, b), (b, a)].into_iter().filter(adds);
                sides.find_map(|(own, mask)| of_scores(own, mask, Masking::Add))
            }
            (Op::Where, &[mask, then, other]) => {
                let mut sides = [(then, other, false), (other, then, true)].into_iter();
                sides.find_map(|(own, by, when)| {
                    let value = self.scalar(by)?;
                    of_scores(own, mask, Masking::Replace { when, value })
                })
            }
            _ => None,
        }
    }

    /// Takes the constant factors of a product's operands into a factor of it: the nodes, and the new factor.
    fn take_factors(&mut self, id: NodeId, mut alpha: f32) -> (Vec<NodeId>, f32) {
        let node = self.node(id);
        let mut nodes = vec![id];
        // A value that is both operands would be scaled twice.
        let different = node.inputs[0] != node.inputs[1];
        for &operand in node.inputs.iter().filter(|_| different) {
            if let Some((by, source, factor)) = self.scaling_behind(operand)
                && (alpha * factor).is_normal()
            {
                self.push(vec![by], Kind::Alias(source));
                nodes.push(by);
                alpha *= factor;
            }
        }
        (nodes, alpha)
    }

    /// A product takes a constant factor behind it or on the way to it.
    fn take_product(&mut self, id: NodeId) {
        let node = self.node(id);
        let (mut nodes, mut alpha) = self.take_factors(id, 1.0);
        let value = node.outputs[0];
        if let Some(next) = self.sole_consumer(value)
            && let Some((source, factor)) = self.scaling(next)
            && source == value
            && (alpha * factor).is_normal()
            && self.shape(value) == self.shape(self.output(next))
        {
            alpha *= factor;
            nodes.push(next);
        }
        self.push(nodes, Kind::MatMul(alpha));
    }

    /// The node that scales `value`, perhaps before it was cut, turned or reshaped; its operand and factor.
    fn scaling_behind(&self, mut value: ValueId) -> Option<(NodeId, ValueId, f32)> {
        loop {
            let by = self.sole_producer(value)?;
            let node = self.node(by);
            match node.op {
                Op::Reshape | Op::Transpose { .. } | Op::Slice { .. } => value = node.inputs[0],
                _ => {
                    let (source, factor) = self.scaling(by)?;
                    return (self.shape(source) == self.shape(value)).then_some((by, source, factor));
                }
            }
        }
    }

    /// The only element of a constant of f32.
    fn scalar(&self, id: ValueId) -> Option<f32> {
        let tensor = self.graph.constant(id)?;
        let one = tensor.dtype() == DType::F32 && tensor.shape().elements() == 1;
        one.then(|| tensor.values::<f32>()[0])
    }

    /// The operand and the factor, when `id` multiplies or divides by a constant scalar. The factor is a
    /// normal number: others would turn what the division makes finite into infinities and NaN.
    fn scaling(&self, id: NodeId) -> Option<(ValueId, f32)> {
        let node = self.node(id);
        let scalar = |id: ValueId| self.scalar(id).filter(|value| value.is_normal());
        match node.op {
            Op::Binary(Binary::Mul) => match (scalar(node.inputs[0]), scalar(node.inputs[1])) {
                (_, Some(factor)) => Some((node.inputs[0], factor)),
                (Some(factor), _) => Some((node.inputs[1], factor)),
                _ => None,
            },
            Op::Binary(Binary::Div) => {
                let factor = 1.0 / scalar(node.inputs[1])?;
                factor.is_normal().then_some((node.inputs[0], factor))
            }
            _ => None,
        }
    }

    fn take_rest(&mut self, id: NodeId) {
        if self.taken[id.index()] {
            return;
        }
        let node = self.node(id);
        match node.op {
            Op::LayerNorm { .. } => self.take_layer_norm(id),
            // All that read it have made it themselves.
            _ if self.copied[id.index()] && !self.is_read(id) => self.taken[id.index()] = true,
            _ if is_elementwise(&node.op) => self.take_chain(id),
            _ => self.push(vec![id], Kind::Single),
        }
    }

    fn take_layer_norm(&mut self, id: NodeId) {
        let x = self.node(id).inputs[0];
        let sum = self.sole_producer(x).filter(|&sum| {
            let node = self.node(sum);
            matches!(node.op, Op::Binary(Binary::Add))
                && !self.node(id).inputs[1..].contains(&x)
                && node.inputs.iter().all(|&input| self.shape(input) == self.shape(x))
        });
        match sum {
            Some(sum) => {
                let inputs = &self.node(sum).inputs;
                self.push(vec![sum, id], Kind::LayerNorm(Some([inputs[0], inputs[1]])));
            }
            None => self.push(vec![id], Kind::LayerNorm(None)),
        }
    }

    /// Joins to `root` the element-wise nodes whose values only the group reads, and of single elements the
    /// others too: to compute one again takes less time than to wait for it. Nodes are looked at from the
    /// last to the first, so that all readers of a value have been decided before its maker is.
    fn take_chain(&mut self, root: NodeId) {
        let mut members = vec![root];
        let elements = self.shape(self.output(root)).elements();
        let mut next = self.makers(&members);
        while let Some(id) = next.pop() {
            let value = self.output(id);
            let inside = !self.is_output[value.index()]
                && self.consumers[value.index()].iter().all(|reader| members.contains(reader));
            let inside = inside || elements == 1;
            let fits = self.shape(value).elements() == elements && !self.rounds(id);
            members.push(id);
            if !inside
                || !fits
                || members.len() > PROGRAM_NODES_MAX
                || self.operands(&members) > PROGRAM_INPUTS_MAX
            {
                members.pop();
                next.retain(|&other| other < id);
                continue;
            }
            next = self.makers(&members).into_iter().filter(|&other| other < id).collect();
        }
        members.sort_unstable();
        self.own(&members);
        self.groups.push(Group { nodes: members, kind: Kind::Elementwise });
    }

    /// Marks what of a chain nobody else reads as taken, and the rest as made there as well. A group that has
    /// made the chain's end itself may read what is in the middle of it.
    fn own(&mut self, members: &[NodeId]) {
        let mut own: Vec<NodeId> = Vec::new();
        for &id in members.iter().rev() {
            let value = self.output(id);
            let inside = !self.is_output[value.index()]
                && self.consumers[value.index()].iter().all(|reader| own.contains(reader));
            let is_copied = |reader: &NodeId| self.copied[reader.index()];
            let inside = inside && !(self.consumers[value.index()].iter().any(is_copied) && self.is_read(id));
            if own.is_empty() || inside {
                own.push(id);
                self.taken[id.index()] = true;
            } else {
                self.copied[id.index()] = true;
            }
        }
    }

    /// Whether a group reads what a node makes that does not make it itself.
    fn is_read(&self, id: NodeId) -> bool {
        let value = self.output(id);
        let readers = &self.consumers[value.index()];
        let reads = |group: &Group| {
            !group.nodes.contains(&id) && readers.iter().any(|reader| group.nodes.contains(reader))
        };
        self.is_output[value.index()] || self.groups.iter().any(reads)
    }

    /// Free element-wise nodes outside that make what `members` read, ascending.
    fn makers(&self, members: &[NodeId]) -> Vec<NodeId> {
        let mut makers: Vec<NodeId> = members
            .iter()
            .flat_map(|&id| &self.node(id).inputs)
            .filter_map(|&input| match self.graph.value(input).kind {
                reef_graph::ValueKind::Node(node) => Some(node),
                _ => None,
            })
            .filter(|node| !members.contains(node) && !self.taken[node.index()])
            .filter(|&node| is_elementwise(&self.node(node).op))
            .collect();
        makers.sort_unstable();
        makers.dedup();
        makers
    }

    /// Values that `members` read and do not make.
    fn operands(&self, members: &[NodeId]) -> usize {
        let made: Vec<ValueId> = members.iter().map(|&id| self.output(id)).collect();
        let mut read: Vec<ValueId> = members.iter().flat_map(|&id| self.node(id).inputs.clone()).collect();
        read.retain(|id| !made.contains(id));
        read.sort_unstable();
        read.dedup();
        read.len()
    }

    /// Whether only a store rounds what the node makes to 16 bits.
    fn rounds(&self, id: NodeId) -> bool {
        let narrow = |id: ValueId| matches!(self.graph.value(id).dtype, DType::F16 | DType::BF16);
        matches!(self.node(id).op, Op::Dequantize(_)) && narrow(self.output(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reef_graph::Tensor;

    const NOTHING: Joint<'_> = Joint { attention: &|_, _| false, normed_conv: false };

    /// What becomes of a product whose left operand is scaled by `before` and whose result by `after`.
    fn product_of(before: (Binary, f32), after: (Binary, f32)) -> Vec<Kind> {
        let mut graph = Graph::default();
        let shape = || Shape::from([4, 4]);
        let left = graph.add_input("a", DType::F32, shape());
        let right = graph.add_input("b", DType::F32, shape());
        let scale = |graph: &mut Graph, value, (function, factor)| {
            let factor = graph.add_const("factor", Tensor::scalar_f32(factor));
            graph.add_node("scale", Op::Binary(function), &[value, factor], DType::F32, shape())
        };
        let left = scale(&mut graph, left, before);
        let op = Op::MatMul { trans_a: false, trans_b: false };
        let product = graph.add_node("product", op, &[left, right], DType::F32, shape());
        let y = scale(&mut graph, product, after);
        graph.add_output("y", y);
        group(&graph, &NOTHING).into_iter().map(|group| group.kind).collect()
    }

    #[test]
    fn products_take_no_factor_that_leaves_the_normal_numbers() {
        use Binary::{Div, Mul};
        let alias = |kinds: &[Kind]| kinds.iter().filter(|kind| matches!(kind, Kind::Alias(_))).count();
        let alpha = |kinds: &[Kind]| {
            kinds.iter().find_map(|kind| if let Kind::MatMul(alpha) = kind { Some(*alpha) } else { None })
        };
        let kinds = product_of((Mul, 0.5), (Div, 4.0));
        assert_eq!((kinds.len(), alias(&kinds), alpha(&kinds)), (2, 1, Some(0.125)));
        // A tiny divisor, a tiny factor, and two factors that are fine alone.
        let kinds = product_of((Mul, 0.5), (Div, 1e-40));
        assert_eq!((kinds.len(), alias(&kinds), alpha(&kinds)), (3, 1, Some(0.5)));
        let kinds = product_of((Mul, 1e-40), (Mul, 2.0));
        assert_eq!((kinds.len(), alias(&kinds), alpha(&kinds)), (2, 0, Some(2.0)));
        for factor in [1e-30, 1e30] {
            let kinds = product_of((Mul, factor), (Mul, factor));
            assert_eq!((kinds.len(), alias(&kinds), alpha(&kinds)), (3, 1, Some(factor)));
        }
        // The reciprocal of a very large divisor is not normal either.
        let kinds = product_of((Div, 2e38), (Mul, 2.0));
        assert_eq!((kinds.len(), alias(&kinds), alpha(&kinds)), (2, 0, Some(2.0)));
    }

    /// What becomes of attention that `change` has changed before its outputs are named.
    fn attention_of(change: impl FnOnce(&mut Graph, [ValueId; 3]), mask: bool, axis: usize) -> Vec<Kind> {
        let mut graph = Graph::default();
        let shape = || Shape::from([2, 5, 5]);
        let [q, k, v] = ["q", "k", "v"].map(|name| graph.add_input(name, DType::F32, shape()));
        let product = |trans_b| Op::MatMul { trans_a: false, trans_b };
        let mut scores = graph.add_node("scores", product(true), &[q, k], DType::F32, shape());
        let factor = graph.add_const("factor", Tensor::scalar_f32(0.5));
        scores = graph.add_node("scale", Op::Binary(Binary::Mul), &[scores, factor], DType::F32, shape());
        if mask {
            let mask = graph.add_input("mask", DType::F32, Shape::from([1, 5]));
            scores = graph.add_node("mask", Op::Binary(Binary::Add), &[mask, scores], DType::F32, shape());
        }
        let weights = graph.add_node("softmax", Op::Softmax { axis }, &[scores], DType::F32, shape());
        let y = graph.add_node("y", product(false), &[weights, v], DType::F32, shape());
        graph.add_output("y", y);
        change(&mut graph, [scores, weights, y]);
        let narrow = Joint { attention: &|depth, width| depth <= 5 && width <= 5, ..NOTHING };
        group(&graph, &narrow).into_iter().map(|group| group.kind).collect()
    }

    #[test]
    fn attention_is_one_kernel_where_nobody_else_reads_what_is_inside() {
        let plain = attention_of(|_, _| {}, false, 2);
        assert!(matches!(plain[..], [Kind::Attention(0.5, None)]), "{plain:?}");
        let masked = attention_of(|_, _| {}, true, 2);
        assert!(matches!(masked[..], [Kind::Attention(0.5, Some(_))]), "{masked:?}");
        let apart = |kinds: Vec<Kind>| !kinds.iter().any(|kind| matches!(kind, Kind::Attention(..)));
        assert!(apart(attention_of(|graph, [scores, ..]| graph.add_output("scores", scores), false, 2)));
        assert!(apart(attention_of(|graph, [_, weights, _]| graph.add_output("weights", weights), true, 2)));
        assert!(apart(attention_of(|_, _| {}, false, 1)), "a softmax of another axis");
        let none = |graph: &Graph| group(graph, &NOTHING);
        let mut graph = Graph::default();
        attention_of(|whole, _| graph = whole.clone(), false, 2);
        assert!(apart(none(&graph).into_iter().map(|group| group.kind).collect()));
    }

    /// What becomes of a convolution behind a norm and `function`.
    fn normed(attrs: ConvAttrs, function: Unary, change: impl FnOnce(&mut Graph, [ValueId; 2])) -> Vec<Kind> {
        let mut graph = Graph::default();
        let shape = || Shape::from([1, 4, 6, 6]);
        let x = graph.add_input("x", DType::F32, shape());
        let by_channel = graph.add_const("c", Tensor::f32([4], &[0.5; 4]));
        let operands = [x, by_channel, by_channel];
        let scaled = graph.add_node("norm", Op::ScaleShift, &operands, DType::F32, shape());
        let made = graph.add_node("function", Op::Unary(function), &[scaled], DType::F32, shape());
        let [kh, kw] = attrs.kernel;
        let dims = [4, 4 / attrs.groups, kh, kw];
        let weights = graph.add_const("w", Tensor::f32(dims, &vec![1.0; dims.iter().product()]));
        let y = graph.add_node("conv", Op::Conv(attrs), &[made, weights], DType::F32, shape());
        graph.add_output("y", y);
        change(&mut graph, [scaled, made]);
        let all = Joint { normed_conv: true, ..NOTHING };
        group(&graph, &all).into_iter().map(|group| group.kind).collect()
    }

    #[test]
    fn convolutions_norm_their_input_where_its_zeros_and_readers_are_their_own() {
        let plain =
            || ConvAttrs { kernel: [1; 2], strides: [1; 2], pads: [0; 4], dilations: [1; 2], groups: 1 };
        let one = normed(plain(), Unary::Relu, |_, _| {});
        assert!(
            matches!(&one[..], [Kind::Conv(Some(NodeId(0)), tail)] if *tail == Tail::default()),
            "{one:?}"
        );
        let apart = |kinds: Vec<Kind>| {
            assert!(matches!(&kinds[..], [Kind::Elementwise, Kind::Conv(None, _)]), "{kinds:?}");
        };
        apart(normed(ConvAttrs { kernel: [3; 2], pads: [1; 4], ..plain() }, Unary::Relu, |_, _| {}));
        apart(normed(ConvAttrs { pads: [0, 0, 0, 1], ..plain() }, Unary::Relu, |_, _| {}));
        apart(normed(ConvAttrs { groups: 2, ..plain() }, Unary::Relu, |_, _| {}));
        apart(normed(plain(), Unary::Sigmoid, |_, _| {}));
        apart(normed(plain(), Unary::Relu, |graph, [_, made]| graph.add_output("made", made)));
        let read = |graph: &mut Graph, [scaled, _]: [ValueId; 2]| graph.add_output("scaled", scaled);
        let kinds = normed(plain(), Unary::Relu, read);
        assert!(matches!(kinds[2], Kind::Conv(None, _)), "{kinds:?}");
    }

    /// Of single elements, which groups make again rather than wait for them: whatever is read is an input,
    /// a constant, or the root of an earlier group.
    #[test]
    fn what_a_group_reads_is_made_before_it() {
        for seed in 0..2_000 {
            let mut rng = reef_base::Rng::new(seed);
            let mut graph = Graph::default();
            let shape = || Shape::from([1]);
            let mut values = vec![graph.add_input("x", DType::F32, shape())];
            for _ in 0..20 + rng.below(80) {
                // Mostly of late, so that chains are long.
                let some = |rng: &mut reef_base::Rng| {
                    values[values.len() - 1 - rng.below(values.len().min(6) as u64) as usize]
                };
                let (op, inputs) = match rng.below(8) {
                    0..5 => (Op::Binary(Binary::Add), vec![some(&mut rng), some(&mut rng)]),
                    5..7 => (Op::Unary(Unary::Relu), vec![some(&mut rng)]),
                    _ => (Op::Reshape, vec![some(&mut rng)]),
                };
                values.push(graph.add_node("n", op, &inputs, DType::F32, shape()));
            }
            graph.add_output("y", *values.last().expect("there is one"));
            graph.add_output("z", values[1 + rng.below(values.len() as u64 - 1) as usize]);
            let mut made = vec![false; graph.values.len()];
            for group in group(&graph, &NOTHING) {
                let own: Vec<ValueId> =
                    group.nodes.iter().map(|id| graph.nodes[id.index()].outputs[0]).collect();
                for input in group.nodes.iter().flat_map(|id| &graph.nodes[id.index()].inputs) {
                    let is_node = matches!(graph.value(*input).kind, reef_graph::ValueKind::Node(_));
                    assert!(!is_node || own.contains(input) || made[input.index()], "seed {seed}: {input:?}");
                }
                made[own[own.len() - 1].index()] = true;
            }
            assert!(graph.outputs.iter().all(|output| made[output.index()]), "seed {seed}");
        }
    }
}
