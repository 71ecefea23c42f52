//! Whether a model's requests may be put together along their first axis.
//!
//! By what it declares: every input and every output has the same symbol as its first extent, and no other
//! axis has it. And by what it computes, for two numbers of rows: the axis is followed through the graph, and
//! nothing may combine elements along it, be it a sum, a product of rows with rows, or a constant that is not
//! the same for each row; nor may an output be such a constant. What an operator that is not known here does
//! with its rows cannot be seen, and is refused, too: rows that spoil each other are worse than requests that
//! run alone.

use std::collections::HashMap;

use reef_graph::{Graph, Node, Op, Shape, Tensor, ValueId};

use crate::decl::{Dim, TensorDecl};

/// The numbers of rows to look at: other axes seldom have a multiple of one, and hardly ever of both.
pub(crate) const TRIED_ROWS: [usize; 2] = [5, 13];

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
    /// It does not depend on what is in them; if it depends on how many there are, that shows where it meets
    /// them.
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
    for (&id, name) in graph.outputs.iter().zip(&graph.output_names) {
        let found = known.get(&id).copied().unwrap_or(Rows::Free);
        let shape = &graph.value(id).shape;
        match found {
            Rows::Axis(0) | Rows::Free if shape.iter().next() != Some(&rows) => {
                return Err(format!("for {rows} rows, output '{name}' is {shape}"));
            }
            Rows::Axis(0) => {}
            Rows::Axis(axis) => {
                return Err(format!("output '{name}' has the rows of the inputs on axis {axis}"));
            }
            Rows::Free if graph.constant(id).is_some_and(|tensor| is_same(tensor, 0, rows)) => {}
            Rows::Free => return Err(format!("output '{name}' does not come from the inputs' rows")),
            Rows::Lost => {
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
            // Places, which count through the rows before.
            (Op::MaxPool(_), Rows::Axis(_)) if slot > 0 => Rows::Lost,
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
            Op::MatMulInteger(_) => self.product(false, false),
            Op::Recurrent(_) => self.recurrent(),
            Op::Concat { axis: along } => self.joined(*along),
            Op::Gather { .. } if self.rows_of(0) == Rows::Free => self.picked(),
            Op::Gather { axis } if self.rows_of(0) == Rows::Axis(*axis) => Err(Mixed),
            // What else they read belongs to no row.
            _ if each().skip(1).any(|rows| rows != Rows::Free) => Ok(Rows::Lost),
            Op::Conv(_)
            | Op::ConvInteger(..)
            | Op::Pool(_)
            | Op::MaxPool(_)
            | Op::TreeEnsemble(_)
            | Op::MatMulPacked(_) => {
                Ok(if self.rows_of(0) == Rows::Axis(0) { Rows::Axis(0) } else { Rows::Lost })
            }
            op => match self.rows_of(0) {
                Rows::Axis(axis) => self.of_first(op, axis),
                Rows::Free | Rows::Lost => Ok(Rows::Lost),
            },
        }
    }

    /// Its input is `[S,N,I]`, and steps follow from each other; lengths are `[N]`, states `[D,N,H]`. What
    /// else there is, before these or of two axes, belongs to no row.
    fn recurrent(&self) -> Result<Rows, Mixed> {
        match self.rows_of(0) {
            Rows::Axis(0) => return Err(Mixed),
            Rows::Axis(1) => {}
            _ => return Ok(Rows::Lost),
        }
        for input in 1..self.node.inputs.len() {
            let own = match self.shape(input).rank() {
                1 if input > 2 => Some(0),
                3 if input > 2 => Some(1),
                _ => None,
            };
            match (self.rows_of(input), own) {
                (Rows::Axis(axis), Some(own)) if axis == own => {}
                (Rows::Free, Some(own)) if !self.is_same_along(input, own)? => return Ok(Rows::Lost),
                (Rows::Free, _) => {}
                _ => return Err(Mixed),
            }
        }
        Ok(Rows::Axis(2))
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
            // Its parameters belong to a later axis.
            Op::ScaleShift if axis == 0 => Ok(Rows::Axis(axis)),
            Op::Quantize(scales) | Op::Dequantize(scales)
                if self.shape(1).elements() == 1 || (scales.block == 0 && scales.axis != axis) =>
            {
                Ok(Rows::Axis(axis))
            }
            Op::Pad { pads, .. } if pads[axis] != (0, 0) => Err(Mixed),
            Op::Pad { .. } => Ok(Rows::Axis(axis)),
            Op::Reshape => Ok(self.reshaped(axis)),
            Op::Gather { axis: along } => {
                let more = self.shape(1).rank();
                Ok(Rows::Axis(if axis < *along { axis } else { axis + more - 1 }))
            }
            _ => Ok(Rows::Lost),
        }
    }

    /// Every input broadcast to the output.
    fn element_wise(&self) -> Result<Rows, Mixed> {
        let rank = self.made().rank();
        let place = |input: usize| match self.rows_of(input) {
            Rows::Axis(axis) => Some(axis + rank - self.shape(input).rank()),
            Rows::Free | Rows::Lost => None,
        };
        let inputs = 0..self.node.inputs.len();
        let Some(at) = inputs.clone().find_map(place) else { return Ok(Rows::Lost) };
        self.meets(inputs, at)
    }

    /// What of the inputs, broadcast to the output, meets rows that the output has on axis `at`.
    fn meets(&self, inputs: std::ops::Range<usize>, at: usize) -> Result<Rows, Mixed> {
        for input in inputs {
            let own = at.checked_sub(self.made().rank() - self.shape(input).rank());
            match (self.rows_of(input), own) {
                (Rows::Axis(axis), Some(own)) if axis == own => {}
                (Rows::Axis(_), _) => return Err(Mixed),
                (Rows::Free, Some(own)) if !self.is_same_along(input, own)? => return Ok(Rows::Lost),
                (Rows::Free | Rows::Lost, _) => {}
            }
        }
        Ok(Rows::Axis(at))
    }

    /// Whether an input that has no rows is the same for each of those that it meets on `axis`; false if
    /// nobody knows.
    fn is_same_along(&self, input: usize, axis: usize) -> Result<bool, Mixed> {
        if self.shape(input)[axis] <= 1 {
            return Ok(true);
        }
        match self.graph.constant(self.node.inputs[input]) {
            Some(tensor) if is_same(tensor, axis, self.rows) => Ok(true),
            Some(_) => Err(Mixed),
            None => Ok(false),
        }
    }

    /// A product of matrices, and what is broadcast to it.
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
        let at = match (place(0, trans_a, 0)?, place(1, trans_b, 1)?) {
            (Some(a), Some(b)) if a != b => return Err(Mixed),
            (Some(at), _) | (None, Some(at)) => at,
            (None, None) => return Ok(Rows::Lost),
        };
        let factors = if at + 2 < rank { 0 } else { 2 };
        self.meets(factors..self.node.inputs.len(), at)
    }

    /// Of several tensors one after the other.
    fn joined(&self, along: usize) -> Result<Rows, Mixed> {
        let inputs = 0..self.node.inputs.len();
        let place = |input: usize| match self.rows_of(input) {
            Rows::Axis(axis) => Some(axis),
            Rows::Free | Rows::Lost => None,
        };
        match inputs.clone().find_map(place) {
            Some(axis) if axis == along => Err(Mixed),
            Some(axis) => self.meets(inputs, axis),
            None => Ok(Rows::Lost),
        }
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
        TensorDecl {
            name: name.into(),
            dtype: DType::F32,
            dims: dims.iter().map(dim).collect(),
            texts: false,
        }
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
        let halves = |graph: &mut Graph, x| {
            vec![graph.add_node("halves", Op::Reshape, &[x], DType::F32, Shape::from([10, 2]))]
        };
        assert_eq!(one(Op::Reshape, &[5, 4], halves), Ok(()), "two places for each row");
        assert!(one(Op::Reshape, &[10, 2], alone).unwrap_err().contains("output 'y' is [10,2]"));
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
        for same in [true, false] {
            let product = one(Op::MatMul { trans_a: false, trans_b: false }, &[5, 1, 2], |graph, x| {
                let x = graph.add_node("wide", Op::Reshape, &[x], DType::F32, Shape::from([5, 1, 4]));
                vec![x, at(graph, &[5, 4, 2], same)]
            });
            let joined = one(Op::Concat { axis: 1 }, &[5, 7], |graph, x| vec![x, at(graph, &[5, 3], same)]);
            let made = output_of(|graph, _| at(graph, &[5, 3], same));
            for result in [product, joined, made] {
                assert_eq!(result.is_ok(), same, "{result:?}");
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
