//! Whether a model's requests may be put together along their first axis.
//!
//! By what it declares: every input and every output has the same symbol as its first extent, and no other
//! axis has it. And by what it computes, for some number of rows: the axis is followed through the graph, and
//! nothing may combine elements along it, be it a sum, a product of rows with rows, or a constant that is not
//! the same for each row. What an operator that is not known here does with its rows cannot be seen, and is
//! refused, too: rows that spoil each other are worse than requests that run alone.

use std::collections::HashMap;

use reef_graph::{Graph, Node, Op, Shape, Tensor, ValueId};

use crate::decl::{Dim, TensorDecl};

/// The number of rows to look at: one that other axes seldom have.
pub(crate) const TRIED_ROWS: usize = 5;

/// Whether inputs and outputs declare rows; the error says which does not.
pub(crate) fn check(inputs: &[TensorDecl], outputs: &[TensorDecl]) -> Result<(), String> {
    let first = inputs.first().ok_or("the model has no inputs")?;
    let Some(Dim::Symbol(rows)) = first.dims.first() else {
        return Err(format!("the first axis of input '{}' is not symbolic", first.name));
    };
    let named = inputs.iter().map(|decl| ("input", decl)).chain(outputs.iter().map(|decl| ("output", decl)));
    for (what, TensorDecl { name, dims, .. }) in named {
        match dims.split_first() {
            Some((Dim::Symbol(symbol), rest)) if symbol == rows => {
                if rest.contains(&Dim::Symbol(rows.clone())) {
                    return Err(format!("{what} '{name}' has '{rows}' on another axis, too"));
                }
            }
            _ => return Err(format!("the first axis of {what} '{name}' is not '{rows}'")),
        }
    }
    Ok(())
}

/// Where a value has the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// It does not depend on them.
    Free,
    /// On this axis, whose extent is their number or a multiple: then each has that many places, next to each
    /// other.
    Axis(usize),
    /// Nobody knows.
    Lost,
}

/// What combines rows.
struct Mixed;

/// Whether a graph whose inputs have `rows` rows computes each for itself, as far as can be seen; the error
/// says which node does not.
pub(crate) fn follow(graph: &Graph, rows: usize) -> Result<(), String> {
    let mut known: HashMap<ValueId, Rows> = graph.inputs.iter().map(|&id| (id, Rows::Axis(0))).collect();
    let mut lost = None;
    for node in &graph.nodes {
        let walk = Walk { graph, rows, node, known: &known };
        let outputs = walk
            .outputs()
            .map_err(|Mixed| format!("{} '{}' combines rows with each other", node.op.name(), node.name))?;
        if outputs == Rows::Lost {
            lost.get_or_insert(node);
        }
        let each = node.outputs.iter().enumerate();
        let made: Vec<_> = each.map(|(slot, &id)| (id, walk.output(slot, outputs))).collect();
        known.extend(made);
    }
    for (id, name) in graph.outputs.iter().zip(&graph.output_names) {
        match known.get(id) {
            Some(Rows::Axis(0) | Rows::Free) | None => {}
            Some(Rows::Axis(axis)) => {
                return Err(format!("output '{name}' has the rows of the inputs on axis {axis}"));
            }
            Some(Rows::Lost) => {
                let (op, node) = lost.map_or(("", ""), |node| (node.op.name(), &node.name));
                return Err(format!("it cannot be seen whether {op} '{node}' keeps rows apart"));
            }
        }
    }
    Ok(())
}

struct Walk<'a> {
    graph: &'a Graph,
    rows: usize,
    node: &'a Node,
    known: &'a HashMap<ValueId, Rows>,
}

impl Walk<'_> {
    fn rows_of(&self, input: usize) -> Rows {
        let id = self.node.inputs[input];
        self.known.get(&id).copied().unwrap_or(Rows::Free)
    }

    fn shape(&self, input: usize) -> &Shape {
        &self.graph.value(self.node.inputs[input]).shape
    }

    fn made(&self) -> &Shape {
        &self.graph.value(self.node.outputs[0]).shape
    }

    /// What output `slot` has, where the first one has `first`.
    fn output(&self, slot: usize, first: Rows) -> Rows {
        match (&self.node.op, first) {
            // All steps are [S,D,N,H], the states [D,N,H].
            (Op::Recurrent(_), Rows::Axis(axis)) if slot > 0 => Rows::Axis(axis - 1),
            _ => first,
        }
    }

    fn outputs(&self) -> Result<Rows, Mixed> {
        let each = || (0..self.node.inputs.len()).map(|input| self.rows_of(input));
        if each().all(|rows| rows == Rows::Free) {
            return Ok(Rows::Free);
        }
        if each().any(|rows| rows == Rows::Lost) {
            return Ok(Rows::Lost);
        }
        match &self.node.op {
            Op::Unary(_) | Op::Binary(_) | Op::Where | Op::Cast { .. } | Op::Expand => self.element_wise(),
            Op::MatMul { trans_a, trans_b } => self.product(*trans_a, *trans_b),
            Op::MatMulPacked(_) | Op::MatMulInteger(_) => self.product(false, false),
            Op::Conv(_) | Op::ConvInteger(..) | Op::Pool(_) | Op::MaxPool(_) | Op::TreeEnsemble(_) => {
                Ok(if self.rows_of(0) == Rows::Axis(0) { Rows::Axis(0) } else { Rows::Lost })
            }
            // Its input is [S,N,I]: steps follow from each other.
            Op::Recurrent(_) => match self.rows_of(0) {
                Rows::Axis(0) => Err(Mixed),
                Rows::Axis(1) => Ok(Rows::Axis(2)),
                _ => Ok(Rows::Lost),
            },
            op => match self.rows_of(0) {
                Rows::Axis(axis) => self.of_first(op, axis),
                Rows::Free if matches!(op, Op::Gather { .. }) => self.picked(),
                Rows::Free | Rows::Lost => Ok(Rows::Lost),
            },
        }
    }

    /// An operator whose first input has the rows on `axis`.
    fn of_first(&self, op: &Op, axis: usize) -> Result<Rows, Mixed> {
        let kept = |along: usize| if along == axis { Err(Mixed) } else { Ok(Rows::Axis(axis)) };
        match op {
            Op::Softmax { axis: along }
            | Op::LogSoftmax { axis: along }
            | Op::Resample { axis: along, .. }
            | Op::Along { axis: along, .. } => kept(*along),
            Op::LayerNorm { axis: from, .. } if axis >= *from => Err(Mixed),
            Op::LayerNorm { .. } => Ok(Rows::Axis(axis)),
            Op::Reduce { axes, .. } if axes.contains(&axis) => Err(Mixed),
            Op::Reduce { keep_dims: true, .. } => Ok(Rows::Axis(axis)),
            Op::Reduce { axes, .. } => {
                Ok(Rows::Axis(axis - axes.iter().filter(|&&gone| gone < axis).count()))
            }
            Op::Transpose { perm } => {
                Ok(perm.iter().position(|&from| from == axis).map_or(Rows::Lost, Rows::Axis))
            }
            Op::Slice { axis: along, .. } if *along == axis => match self.made()[axis] == self.shape(0)[axis]
            {
                // Whole; a step backwards turns the rows round.
                true if matches!(op, Op::Slice { step: 1, .. }) => Ok(Rows::Axis(axis)),
                _ => Err(Mixed),
            },
            Op::Slice { .. } => Ok(Rows::Axis(axis)),
            // Their parameters belong to a later axis.
            Op::ScaleShift | Op::Quantize(_) | Op::Dequantize(_) if axis == 0 => Ok(Rows::Axis(axis)),
            Op::Pad { pads, .. } if pads[axis] != (0, 0) => Err(Mixed),
            Op::Pad { .. } => Ok(Rows::Axis(axis)),
            Op::Concat { axis: along } => self.joined(*along),
            Op::Reshape => Ok(self.reshaped(axis)),
            Op::Gather { axis: along } if *along == axis => Err(Mixed),
            Op::Gather { axis: along } if self.rows_of(1) == Rows::Free => {
                let more = self.shape(1).rank();
                Ok(Rows::Axis(if axis < *along { axis } else { axis + more - 1 }))
            }
            _ => Ok(Rows::Lost),
        }
    }

    /// Every input broadcast to the output.
    fn element_wise(&self) -> Result<Rows, Mixed> {
        let rank = self.made().rank();
        let mut found = None;
        for input in 0..self.node.inputs.len() {
            if let Rows::Axis(axis) = self.rows_of(input) {
                let at = axis + rank - self.shape(input).rank();
                if found.is_some_and(|found| found != at) {
                    return Err(Mixed);
                }
                found = Some(at);
            }
        }
        let Some(at) = found else { return Ok(Rows::Lost) };
        let free = (0..self.node.inputs.len()).filter(|&input| self.rows_of(input) == Rows::Free);
        for input in free {
            let own = at.checked_sub(rank - self.shape(input).rank());
            if let Some(axis) = own.filter(|&axis| self.shape(input)[axis] > 1) {
                match self.graph.constant(self.node.inputs[input]) {
                    Some(tensor) if is_same(tensor, axis, self.rows) => {}
                    Some(_) => return Err(Mixed),
                    None => return Ok(Rows::Lost),
                }
            }
        }
        Ok(Rows::Axis(at))
    }

    fn product(&self, trans_a: bool, trans_b: bool) -> Result<Rows, Mixed> {
        let rank = self.made().rank();
        let place = |input: usize, trans: bool, depth: usize| match self.rows_of(input) {
            Rows::Axis(axis) => {
                let own = self.shape(input).rank();
                let from_end = own - 1 - axis;
                // Of the matrix itself: 1 for its rows, 0 for its columns.
                let from_end = if trans && from_end < 2 { 1 - from_end } else { from_end };
                if from_end == depth { Err(Mixed) } else { Ok(Some(rank - 1 - from_end)) }
            }
            Rows::Free | Rows::Lost => Ok(None),
        };
        match (place(0, trans_a, 0)?, place(1, trans_b, 1)?) {
            (Some(a), Some(b)) if a != b => Err(Mixed),
            (Some(at), _) | (None, Some(at)) => Ok(Rows::Axis(at)),
            (None, None) => Ok(Rows::Lost),
        }
    }

    /// Of several tensors one after the other.
    fn joined(&self, along: usize) -> Result<Rows, Mixed> {
        let mut found = None;
        for input in 0..self.node.inputs.len() {
            match self.rows_of(input) {
                Rows::Axis(axis) if axis == along => return Err(Mixed),
                Rows::Axis(axis) if found.is_some_and(|found| found != axis) => return Ok(Rows::Lost),
                Rows::Axis(axis) => found = Some(axis),
                Rows::Free | Rows::Lost => {}
            }
        }
        Ok(found.map_or(Rows::Lost, Rows::Axis))
    }

    /// The axis behind as many elements as before, of so many parts.
    fn reshaped(&self, axis: usize) -> Rows {
        let before = |shape: &Shape, axis: usize| shape.iter().take(axis).product::<usize>();
        let (from, to) = (self.shape(0), self.made());
        let same =
            |&at: &usize| before(to, at) == before(from, axis) && to[at] % self.rows == 0 && to[at] > 0;
        (0..to.rank()).find(same).map_or(Rows::Lost, Rows::Axis)
    }

    /// Of a table without rows, by places that have them.
    fn picked(&self) -> Result<Rows, Mixed> {
        let (Op::Gather { axis }, Rows::Axis(own)) = (&self.node.op, self.rows_of(1)) else {
            return Ok(Rows::Lost);
        };
        Ok(Rows::Axis(axis + own))
    }
}

/// Whether the parts of a tensor along an axis, so many of them, are the same.
fn is_same(tensor: &Tensor, axis: usize, parts: usize) -> bool {
    let shape = tensor.shape();
    if !shape[axis].is_multiple_of(parts) {
        return false;
    }
    let inner: usize = shape.iter().skip(axis).product::<usize>() * tensor.dtype().bytes();
    let bytes = tensor.bytes();
    let part = inner / parts;
    part == 0
        || bytes.as_slice().chunks(inner).all(|outer| {
            let mut each = outer.chunks(part);
            let first = each.next();
            each.all(|part| Some(part) == first)
        })
}

#[cfg(test)]
mod tests {
    use reef_graph::{Binary, ConvAttrs, DType, Reduce, Unary, Windows};

    use super::*;

    fn decl(name: &str, dims: &[&str]) -> TensorDecl {
        let dim = |text: &&str| text.parse().map_or_else(|_| Dim::Symbol(text.to_string()), Dim::Fixed);
        TensorDecl { name: name.into(), dtype: DType::F32, dims: dims.iter().map(dim).collect() }
    }

    #[test]
    fn rows_are_the_same_symbol_on_every_first_axis_and_on_no_other() {
        let (x, y) = (decl("x", &["n", "3"]), decl("y", &["n", "s"]));
        assert_eq!(check(std::slice::from_ref(&x), std::slice::from_ref(&y)), Ok(()));
        let refused = |input: &[&str], output: &[&str]| {
            check(&[x.clone(), decl("i", input)], &[y.clone(), decl("o", output)]).unwrap_err()
        };
        assert!(refused(&["1", "3"], &["n"]).contains("input 'i' is not 'n'"));
        assert!(refused(&["m"], &["n"]).contains("input 'i' is not 'n'"));
        assert!(refused(&[], &["n"]).contains("input 'i'"));
        assert!(refused(&["n"], &["3", "n"]).contains("output 'o' is not 'n'"));
        assert!(refused(&["n"], &["o.0"]).contains("output 'o' is not 'n'"));
        assert!(refused(&["n"], &["n", "n"]).contains("another axis"));
        assert!(check(&[decl("x", &["1"])], &[]).unwrap_err().contains("not symbolic"));
        assert!(check(&[], &[]).is_err());
    }

    /// A graph of one node over `x` `[5, 4]`, and whatever `more` adds.
    fn one(
        op: Op,
        shape: &[usize],
        more: impl Fn(&mut Graph, ValueId) -> Vec<ValueId>,
    ) -> Result<(), String> {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DType::F32, Shape::from([5, 4]));
        let inputs = more(&mut graph, x);
        let y = graph.add_node("node", op, &inputs, DType::F32, shape.iter().copied().collect());
        graph.add_output("y", y);
        follow(&graph, 5)
    }

    #[test]
    fn what_combines_rows_is_found() {
        let alone = |_: &mut Graph, x| vec![x];
        let twice = |_: &mut Graph, x| vec![x, x];
        let reduce =
            |axes: &[usize]| Op::Reduce { reduce: Reduce::Mean, axes: axes.to_vec(), keep_dims: true };
        let add = || Op::Binary(Binary::Add);
        let constant = |values: &'static [f32], shape: &'static [usize]| {
            move |graph: &mut Graph, x| vec![x, graph.add_const("c", Tensor::f32(shape.to_vec(), values))]
        };
        let product = |trans_a, trans_b| Op::MatMul { trans_a, trans_b };
        assert_eq!(one(Op::Unary(Unary::Relu), &[5, 4], alone), Ok(()));
        assert_eq!(one(reduce(&[1]), &[5, 1], alone), Ok(()));
        assert_eq!(one(add(), &[5, 4], twice), Ok(()));
        assert_eq!(one(add(), &[5, 4], constant(&[1.0; 4], &[4])), Ok(()));
        assert_eq!(one(add(), &[5, 4], constant(&[2.0; 5], &[5, 1])), Ok(()), "the same for each");
        assert_eq!(one(Op::Softmax { axis: 1 }, &[5, 4], alone), Ok(()));
        assert_eq!(one(Op::Reshape, &[5, 2, 2], alone), Ok(()));
        assert_eq!(one(Op::Reshape, &[10, 2], alone), Ok(()), "two places for each row");
        let mixed = |result: Result<(), String>| result.unwrap_err().contains("combines rows");
        assert!(mixed(one(reduce(&[0]), &[1, 4], alone)));
        assert!(mixed(one(Op::Softmax { axis: 0 }, &[5, 4], alone)));
        assert!(mixed(one(add(), &[5, 4], constant(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5, 1]))));
        assert!(mixed(one(product(false, true), &[5, 5], twice)), "rows with rows");
        assert!(mixed(one(product(true, false), &[4, 4], twice)), "a sum over rows");
        assert!(mixed(one(Op::Gather { axis: 0 }, &[5, 4], twice)));
        let turned = Op::Slice { axis: 0, begin: 4, end: -1, step: -1 };
        assert!(mixed(one(turned, &[5, 4], alone)));
        let error = one(Op::Transpose { perm: vec![1, 0] }, &[4, 5], alone).unwrap_err();
        assert!(error.contains("on axis 1"), "{error}");
        let error = one(Op::BitCast { to: DType::F32 }, &[5, 4], alone).unwrap_err();
        assert!(error.contains("cannot be seen whether BitCast 'node'"), "{error}");
    }

    /// What rows are joined with may differ from one row to the next, wherever it comes in.
    #[test]
    fn constants_that_are_not_the_same_for_each_row_are_found() {
        let at = |graph: &mut Graph, extents: &[usize], same: bool| {
            let shape: Shape = extents.iter().copied().collect();
            let inner = shape.elements() / extents[0];
            let value = |index: usize| if same { (index % inner) as f32 } else { index as f32 };
            let values: Vec<f32> = (0..shape.elements()).map(value).collect();
            graph.add_const("c", Tensor::f32(shape, &values))
        };
        for (same, expected) in [(true, true), (false, false)] {
            let product = one(Op::MatMul { trans_a: false, trans_b: false }, &[5, 1, 2], |graph, x| {
                let x = graph.add_node("wide", Op::Reshape, &[x], DType::F32, Shape::from([5, 1, 4]));
                vec![x, at(graph, &[5, 4, 2], same)]
            });
            let joined = one(Op::Concat { axis: 1 }, &[5, 7], |graph, x| vec![x, at(graph, &[5, 3], same)]);
            let made = output_of(|graph, _| at(graph, &[5, 3], same));
            for result in [product, joined, made] {
                assert_eq!(result.is_ok(), expected, "{result:?}");
            }
        }
        // Nobody knows what it is.
        let made = output_of(|graph, _| {
            let c = at(graph, &[5, 4], true);
            graph.add_node("relu", Op::Unary(Unary::Relu), &[c], DType::F32, Shape::from([5, 4]))
        });
        assert!(made.is_err());
        let other = output_of(|graph, _| graph.add_const("c", Tensor::f32([1, 4], &[1.0; 4])));
        assert!(other.unwrap_err().contains("output 'y'"), "no rows at all");
    }

    /// Rows may meet others in what is no first operand.
    #[test]
    fn what_rows_decide_for_others_is_found() {
        let kernel = |graph: &mut Graph, x| {
            let image = graph.add_node("image", Op::Reshape, &[x], DType::F32, Shape::from([5, 1, 2, 2]));
            vec![image, image]
        };
        let conv = ConvAttrs { kernel: [2, 2], strides: [1; 2], pads: [0; 4], dilations: [1; 2], groups: 1 };
        assert!(one(Op::Conv(conv), &[5, 5, 1, 1], kernel).is_err());
        let scaled = |graph: &mut Graph, x| {
            let scale = graph.add_node(
                "scale",
                Op::Slice { axis: 1, begin: 0, end: 1, step: 1 },
                &[x],
                DType::F32,
                Shape::from([5, 1]),
            );
            let scale = graph.add_node("flat", Op::Reshape, &[scale], DType::F32, Shape::from([5]));
            vec![x, scale, scale]
        };
        assert!(one(Op::ScaleShift, &[5, 4], scaled).is_err());
        // Places of a pooling's second output count through the rows before.
        let mut graph = Graph::default();
        let x = graph.add_input("x", DType::F32, Shape::from([5, 1, 1, 2, 2]));
        let windows = Windows {
            kernel: [1, 2, 2],
            strides: [1; 3],
            pads: [0; 3],
            dilations: [1; 3],
            output: [1; 3],
            columns: false,
        };
        let shape = Shape::from([5, 1, 1, 1, 1]);
        let made = graph.add_node_multi(
            "pool",
            Op::MaxPool(windows),
            &[x],
            vec![(DType::F32, shape.clone()), (DType::I64, shape)],
        );
        graph.add_output("y", made[0]);
        assert_eq!(follow(&graph, 5), Ok(()));
        graph.add_output("places", made[1]);
        assert!(follow(&graph, 5).is_err());
    }

    /// A graph whose output is what `made` makes, beside an input `[5, 4]`.
    fn output_of(made: impl Fn(&mut Graph, ValueId) -> ValueId) -> Result<(), String> {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DType::F32, Shape::from([5, 4]));
        let y = made(&mut graph, x);
        graph.add_output("y", y);
        follow(&graph, 5)
    }
}
