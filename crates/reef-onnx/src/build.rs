//! Adding nodes to a graph with their types and shapes worked out. Shapes must fit: callers check them.

use reef_graph::{Binary, DType, Graph, Op, Reduce, Shape, Unary, ValueId};

/// The same elements in another shape.
pub(crate) fn reshape(graph: &mut Graph, name: &str, x: ValueId, shape: Shape) -> ValueId {
    if graph.value(x).shape == shape {
        return x;
    }
    let dtype = graph.value(x).dtype;
    graph.add_node(name, Op::Reshape, &[x], dtype, shape)
}

/// Axes permuted: output axis `i` is input axis `perm[i]`.
pub(crate) fn transpose(graph: &mut Graph, name: &str, x: ValueId, perm: Vec<usize>) -> ValueId {
    if perm.iter().enumerate().all(|(to, &from)| to == from) {
        return x;
    }
    let dtype = graph.value(x).dtype;
    let shape: Shape = perm.iter().map(|&axis| graph.value(x).shape[axis]).collect();
    graph.add_node(name, Op::Transpose { perm }, &[x], dtype, shape)
}

/// A function of one element.
pub(crate) fn unary(graph: &mut Graph, name: &str, op: Unary, x: ValueId) -> ValueId {
    let (dtype, shape) = (graph.value(x).dtype, graph.value(x).shape.clone());
    graph.add_node(name, Op::Unary(op), &[x], dtype, shape)
}

/// A function of two elements; `None` when the shapes do not broadcast.
pub(crate) fn binary(graph: &mut Graph, name: &str, op: Binary, a: ValueId, b: ValueId) -> Option<ValueId> {
    let shape = graph.value(a).shape.broadcast(&graph.value(b).shape)?;
    let dtype = if op.is_comparison() { DType::Bool } else { graph.value(a).dtype };
    Some(graph.add_node(name, Op::Binary(op), &[a, b], dtype, shape))
}

/// A reduction over ascending `axes`, which stay with extent 1.
pub(crate) fn reduce(graph: &mut Graph, name: &str, reduce: Reduce, axes: Vec<usize>, x: ValueId) -> ValueId {
    let dtype = graph.value(x).dtype;
    let shape = folded_shape(&graph.value(x).shape, &axes);
    graph.add_node(name, Op::Reduce { reduce, axes, keep_dims: true }, &[x], dtype, shape)
}

/// `shape` with extent 1 at `axes`.
pub(crate) fn folded_shape(shape: &Shape, axes: &[usize]) -> Shape {
    shape.iter().enumerate().map(|(axis, &extent)| if axes.contains(&axis) { 1 } else { extent }).collect()
}

/// A matrix product over the last two axes; `None` when the shapes do not fit.
pub(crate) fn matmul(
    graph: &mut Graph,
    name: &str,
    (a, trans_a): (ValueId, bool),
    (b, trans_b): (ValueId, bool),
) -> Option<ValueId> {
    let (left, right) = (&graph.value(a).shape, &graph.value(b).shape);
    let (rank_a, rank_b) = (left.rank().checked_sub(2)?, right.rank().checked_sub(2)?);
    let (m, k) = if trans_a { (left[rank_a + 1], left[rank_a]) } else { (left[rank_a], left[rank_a + 1]) };
    let (n, l) =
        if trans_b { (right[rank_b], right[rank_b + 1]) } else { (right[rank_b + 1], right[rank_b]) };
    if k != l {
        return None;
    }
    let batch = Shape::new(&left[..rank_a]).broadcast(&Shape::new(&right[..rank_b]))?;
    let shape: Shape = batch.iter().copied().chain([m, n]).collect();
    let dtype = graph.value(a).dtype;
    Some(graph.add_node(name, Op::MatMul { trans_a, trans_b }, &[a, b], dtype, shape))
}
