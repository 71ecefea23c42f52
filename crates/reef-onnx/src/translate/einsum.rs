//! Sums of products as convolutions and matrix products.
//!
//! Axes are classified by where they appear: *batch* (both operands and the result), *rows* (left and
//! result), *columns* (right and result), *inner* (both operands only). What already has NumPy's order
//! becomes a MatMul as it is; a channel contraction of an image a 1×1 Conv; anything else is permuted into
//! `[batch,rows,inner]` and `[batch,inner,columns]`.

use reef_graph::{ConvAttrs, DType, Op, Reduce, Shape, ValueId};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::einsum::EinSum;

use super::{Reject, computable};
use crate::build;
use crate::walk::Walk;

/// An operand with its axes' letters.
#[derive(Clone)]
struct Term {
    value: ValueId,
    letters: Vec<char>,
}

pub(super) fn einsum(walk: &mut Walk, node: &TypedNode, op: &EinSum) -> Result<ValueId, Reject> {
    if op.q_params.is_some() {
        return Err("quantized".into());
    }
    let (inputs, outputs) = op.axes.to_strs();
    let out: Vec<char> = outputs[0].chars().collect();
    let (dtype, shape) = walk.fact(OutletId::new(node.id, 0))?;
    if !matches!(dtype, DType::F32 | DType::F16) {
        return Err(format!("{dtype} is not computed natively"));
    }
    let mut terms = vec![];
    for (letters, &input) in inputs.iter().zip(&node.inputs) {
        let value = walk.value(input)?;
        let (value, _) = computable(&mut walk.graph, &node.name, value)?;
        let letters: Vec<char> = letters.chars().collect();
        let repeated = letters.iter().enumerate().any(|(at, letter)| letters[..at].contains(letter));
        if repeated || letters.len() != walk.graph.value(value).shape.rank() {
            return Err("a diagonal".into());
        }
        terms.push(Term { value, letters });
    }
    let made = match &terms[..] {
        [term] => single(walk, node, term, &out, &shape),
        [left, right] => {
            let direct = convolution(walk, node, left, right, &out, &shape)
                .or_else(|| convolution(walk, node, right, left, &out, &shape))
                .or_else(|| product(walk, node, left, right, &out))
                .or_else(|| product(walk, node, right, left, &out));
            match direct {
                Some(value) => Ok(value),
                None => general(walk, node, left, right, &out, &shape),
            }
        }
        _ => Err(format!("{} operands", terms.len())),
    }?;
    let made = build::reshape(&mut walk.graph, &node.name, made, shape);
    Ok(build::cast(&mut walk.graph, &node.name, made, dtype))
}

/// One operand: sums and a permutation.
fn single(
    walk: &mut Walk,
    node: &TypedNode,
    term: &Term,
    out: &[char],
    shape: &Shape,
) -> Result<ValueId, Reject> {
    let term = summed(walk, node, term, |letter| out.contains(&letter));
    let order: Vec<char> = out.iter().copied().filter(|letter| term.letters.contains(letter)).collect();
    let made = arranged(walk, node, &term, &order);
    if walk.graph.value(made).shape.elements() != shape.elements() {
        return Err("a broadcast".into());
    }
    Ok(made)
}

/// `left` is an image `[N?,I,H,W]` whose channels a constant `[O,I]` or `[I,O]` mixes into `[N?,O,H,W]`.
fn convolution(
    walk: &mut Walk,
    node: &TypedNode,
    left: &Term,
    right: &Term,
    out: &[char],
    shape: &Shape,
) -> Option<ValueId> {
    let weights = walk.graph.constant(right.value)?.clone();
    let [first, second] = right.letters[..] else { return None };
    let contracted = |letter: &char| left.letters.contains(letter) && !out.contains(letter);
    let (input, output) = match (contracted(&first), contracted(&second)) {
        (false, true) => (second, first),
        (true, false) => (first, second),
        _ => return None,
    };
    let at = left.letters.iter().position(|&letter| letter == input)?;
    let made = out.iter().position(|&letter| letter == output)?;
    let image = walk.graph.value(left.value).shape.clone();
    // Spatial axes follow the channels and stay; unit axes may come and go.
    let extents = |letters: &[char], shape: &[usize]| -> Vec<usize> {
        letters.iter().zip(shape).map(|(_, &extent)| extent).collect()
    };
    let spatial = extents(&left.letters[at + 1..], &image[at + 1..]);
    let stays = |from: &[char], from_shape: &[usize], to: &[char], to_shape: &[usize]| {
        let named = |letters: &[char], shape: &[usize]| -> Vec<char> {
            letters.iter().zip(shape).filter(|&(_, &extent)| extent != 1).map(|(&letter, _)| letter).collect()
        };
        named(from, from_shape) == named(to, to_shape)
    };
    let is_image = left.letters.len() - at - 1 == 2 || out.len() - made - 1 == 2;
    if !is_image
        || !stays(&left.letters[at + 1..], &image[at + 1..], &out[made + 1..], &shape[made + 1..])
        || !stays(&left.letters[..at], &image[..at], &out[..made], &shape[..made])
    {
        return None;
    }
    let batch: usize = image[..at].iter().product();
    let (height, width) = match spatial[..] {
        [height, width] => (height, width),
        [] => (1, 1),
        _ => return None,
    };
    let (from, to) = (image[at], shape[made]);
    let graph = &mut walk.graph;
    let x = build::reshape(graph, &node.name, left.value, Shape::from([batch, from, height, width]));
    let weights = if first == output { weights } else { walk.consts.transposed(&weights, &[1, 0]) };
    let weights = walk.consts.reshaped(&weights, &Shape::from([to, from, 1, 1]));
    let weights = graph.add_const(format!("{}.weights", node.name), weights);
    let attrs = ConvAttrs { kernel: [1; 2], strides: [1; 2], pads: [0; 4], dilations: [1; 2], groups: 1 };
    let made = Shape::from([batch, to, height, width]);
    Some(graph.add_node(&node.name, Op::Conv(attrs), &[x, weights], DType::F32, made))
}

/// Operands that already have NumPy's order, perhaps with one matrix transposed.
fn product(walk: &mut Walk, node: &TypedNode, left: &Term, right: &Term, out: &[char]) -> Option<ValueId> {
    let [batch @ .., row, column] = out else { return None };
    let matrix = |term: &Term, outer: char| -> Option<(bool, char)> {
        let [front @ .., a, b] = &term.letters[..] else { return None };
        if front != &batch[batch.len().checked_sub(front.len())?..] {
            return None;
        }
        match (*a == outer, *b == outer) {
            (true, false) => Some((false, *b)),
            (false, true) => Some((true, *a)),
            _ => None,
        }
    };
    let ((trans_a, inner), (second_last, other)) = (matrix(left, *row)?, matrix(right, *column)?);
    let covered = batch.iter().all(|letter| left.letters.contains(letter) || right.letters.contains(letter));
    if inner != other || out.contains(&inner) || !covered {
        return None;
    }
    build::matmul(&mut walk.graph, &node.name, (left.value, trans_a), (right.value, !second_last))
}

/// Anything else of two operands, by permutation.
fn general(
    walk: &mut Walk,
    node: &TypedNode,
    left: &Term,
    right: &Term,
    out: &[char],
    shape: &Shape,
) -> Result<ValueId, Reject> {
    let left = without_units(walk, node, left);
    let right = without_units(walk, node, right);
    let left = summed(walk, node, &left, |l| out.contains(&l) || right.letters.contains(&l));
    let right = summed(walk, node, &right, |l| out.contains(&l) || left.letters.contains(&l));
    let extents = |walk: &Walk, term: &Term, letters: &[char]| -> Vec<usize> {
        let shape = &walk.graph.value(term.value).shape;
        let of = |letter: &char| term.letters.iter().position(|l| l == letter).map_or(1, |axis| shape[axis]);
        letters.iter().map(of).collect()
    };
    let in_left = |letter: &char| left.letters.contains(letter);
    let in_right = |letter: &char| right.letters.contains(letter);
    let pick = |keep: &dyn Fn(&char) -> bool| out.iter().copied().filter(|l| keep(l)).collect::<Vec<char>>();
    let batch = pick(&|l| in_left(l) && in_right(l));
    let rows = pick(&|l| in_left(l) && !in_right(l));
    let columns = pick(&|l| !in_left(l) && in_right(l));
    let inner: Vec<char> = left.letters.iter().copied().filter(|l| in_right(l) && !out.contains(l)).collect();
    let size = |extents: &[usize]| extents.iter().product::<usize>();
    let b = extents(walk, &left, &batch);
    let (m, n) = (extents(walk, &left, &rows), extents(walk, &right, &columns));
    let k = size(&extents(walk, &left, &inner));
    let a_order: Vec<char> = batch.iter().chain(&rows).chain(&inner).copied().collect();
    let b_order: Vec<char> = batch.iter().chain(&inner).chain(&columns).copied().collect();
    let (x, y) = (arranged(walk, node, &left, &a_order), arranged(walk, node, &right, &b_order));
    // Without batch axes all rows but the last may broadcast against the one matrix on the right.
    let x_rows = if b.is_empty() && !m.is_empty() { m.clone() } else { vec![size(&m)] };
    let x = build::reshape(&mut walk.graph, &node.name, x, [&b[..], &x_rows[..], &[k]].concat().into());
    let y = build::reshape(&mut walk.graph, &node.name, y, [&b[..], &[k, size(&n)]].concat().into());
    let made = build::matmul(&mut walk.graph, &node.name, (x, false), (y, false)).ok_or("extents differ")?;
    let apart: Shape = b.iter().chain(&m).chain(&n).copied().collect();
    let made = build::reshape(&mut walk.graph, &node.name, made, apart);
    let letters: Vec<char> = batch.into_iter().chain(rows).chain(columns).collect();
    let order: Vec<char> = out.iter().copied().filter(|letter| letters.contains(letter)).collect();
    let made = arranged(walk, node, &Term { value: made, letters }, &order);
    if walk.graph.value(made).shape.elements() != shape.elements() {
        return Err("a broadcast".into());
    }
    Ok(made)
}

/// The term without axes of extent 1, which broadcast against anything.
fn without_units(walk: &mut Walk, node: &TypedNode, term: &Term) -> Term {
    let shape = walk.graph.value(term.value).shape.clone();
    let kept = || shape.iter().zip(&term.letters).filter(|&(&extent, _)| extent != 1);
    let dims: Shape = kept().map(|(&extent, _)| extent).collect();
    let letters = kept().map(|(_, &letter)| letter).collect();
    Term { value: build::reshape(&mut walk.graph, &node.name, term.value, dims), letters }
}

/// The term summed over the axes that nothing else keeps.
fn summed(walk: &mut Walk, node: &TypedNode, term: &Term, kept: impl Fn(char) -> bool) -> Term {
    let axes: Vec<usize> = (0..term.letters.len()).filter(|&axis| !kept(term.letters[axis])).collect();
    if axes.is_empty() {
        return term.clone();
    }
    let folded = build::reduce(&mut walk.graph, &node.name, Reduce::Sum, axes.clone(), term.value);
    let shape = &walk.graph.value(folded).shape;
    let rest = |axis: &usize| !axes.contains(axis);
    let dims: Shape = (0..term.letters.len()).filter(rest).map(|axis| shape[axis]).collect();
    let letters = (0..term.letters.len()).filter(rest).map(|axis| term.letters[axis]).collect();
    Term { value: build::reshape(&mut walk.graph, &node.name, folded, dims), letters }
}

/// The term with its axes in the given order, which has the same letters.
fn arranged(walk: &mut Walk, node: &TypedNode, term: &Term, order: &[char]) -> ValueId {
    let at =
        |letter: &char| term.letters.iter().position(|l| l == letter).expect("the order has its letters");
    build::transpose(&mut walk.graph, &node.name, term.value, order.iter().map(at).collect())
}
