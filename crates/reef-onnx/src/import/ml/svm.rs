//! Support vector machines. Where ONNX leaves something open, it is as ONNX Runtime has it.

use std::sync::Arc;

use reef_graph::{Binary, DType, Reduce, Shape, Tensor, Unary, ValueId};

use super::super::attributes::Node;
use super::super::{Builder, Reject, wrong};
use super::scores::{self, Transform};
use super::table;
use super::tables::{linear, list};
use crate::coupling::{self, Coupling};

/// How near to 0 and 1 the probability of a class against another one comes.
const SURE: f64 = 1e-7;

/// A sum over support vectors of a function of their product with a row, or their distance from it.
pub(super) fn regressor(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let x = node.input(0)?;
    let x = table(b, name, x)?;
    let columns = b.shape(x)[1];
    let (coefficients, vectors) = (list(node, "coefficients"), list(node, "support_vectors"));
    let count = usize::try_from(node.int("n_supports", 0)).unwrap_or(0);
    let rho = list(node, "rho");
    let made = if count == 0 {
        linear(b, name, x, coefficients, (1, rho))?
    } else {
        if count.checked_mul(columns) != Some(vectors.len()) {
            return wrong(format!("{} numbers for {count} vectors of {columns} columns", vectors.len()));
        }
        let vectors = Tensor::f32([count, columns], vectors);
        let likeness = kernel(b, node, x, vectors)?;
        linear(b, name, likeness, coefficients, (1, rho))?
    };
    if node.int("one_class", 0) == 0 {
        return Transform::of(node)?.apply(b, name, made);
    }
    let [zero, yes, no] = [0.0, 1.0, -1.0].map(|value| b.scalar(DType::F32, value));
    let inside = b.binary(name, Binary::Greater, made, zero)?;
    b.choose(name, inside, yes, no)
}

/// Labels and scores: of classes, or of pairs of them where there are support vectors and no probabilities.
pub(super) fn classifier(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let (name, transform) = (node.name(), Transform::of(node)?);
    let x = node.input(0)?;
    let x = table(b, name, x)?;
    let labels = scores::labels(node, "classlabels_ints")?;
    let (classes, rho) = (labels.len(), list(node, "rho"));
    if node.ints("vectors_per_class").unwrap_or(&[]).is_empty() {
        let shift = rho.first().ok_or_else(|| Reject::Wrong("rho is missing".into()))?;
        let sums = linear(b, name, x, list(node, "coefficients"), (classes, &[*shift]))?;
        let places = scores::first_largest(b, name, sums)?;
        let label = scores::label(b, name, places, labels)?;
        return Ok(vec![label, transform.apply(b, name, sums)?]);
    }
    let (weights, vectors) = weights(node, b.shape(x)[1], classes)?;
    let pairs = coupling::pairs(classes);
    if rho.len() != pairs {
        return wrong(format!("rho has {} numbers for {pairs} pairs of classes", rho.len()));
    }
    let likeness = kernel(b, node, x, vectors)?;
    let sums = linear(b, name, likeness, &weights, (pairs, rho))?;
    let label = voted(b, name, sums, labels)?;
    let (a, shift) = (list(node, "prob_a"), list(node, "prob_b"));
    let made = match (a.len(), shift.len()) {
        (0, 0) if classes == 2 => two_sided(b, name, sums, transform)?,
        (0, 0) => transform.apply(b, name, sums)?,
        (given, other) if given == pairs && other == pairs => {
            let estimates = probabilities(b, name, sums, (a, shift), classes)?;
            transform.apply(b, name, estimates)?
        }
        (given, other) => {
            return wrong(format!("prob_a and prob_b have {given} and {other} numbers for {pairs} pairs"));
        }
    };
    Ok(vec![label, made])
}

/// Classes of two, in order.
fn each_pair(classes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..classes).flat_map(move |first| (first + 1..classes).map(move |second| (first, second)))
}

/// For each pair of classes a row of weights for all vectors, of which those of other classes are zeros; and
/// the vectors.
fn weights(node: &Node, columns: usize, classes: usize) -> Result<(Vec<f32>, Tensor), Reject> {
    let (coefficients, vectors) = (list(node, "coefficients"), list(node, "support_vectors"));
    let (mut ranges, mut count) = (vec![], 0usize);
    for &own in node.ints("vectors_per_class").unwrap_or(&[]) {
        let own = usize::try_from(own).ok().and_then(|own| count.checked_add(own));
        let Some(end) = own else { return wrong("vectors_per_class are no counts") };
        ranges.push(count..end);
        count = end;
    }
    if ranges.len() != classes || classes < 2 {
        return wrong(format!("vectors of {} classes, and {classes} labels", ranges.len()));
    }
    if count.checked_mul(columns) != Some(vectors.len()) || count == 0 {
        return wrong(format!("{} numbers for {count} vectors of {columns} columns", vectors.len()));
    }
    if count.checked_mul(classes - 1) != Some(coefficients.len()) {
        let given = coefficients.len();
        return wrong(format!("{given} coefficients for {count} vectors of {classes} classes"));
    }
    let mut weights = vec![0.0; coupling::pairs(classes) * count];
    for ((first, second), row) in each_pair(classes).zip(weights.chunks_exact_mut(count)) {
        for (class, against) in [(first, second - 1), (second, first)] {
            let range = ranges[class].clone();
            row[range.clone()].copy_from_slice(&coefficients[against * count..][range]);
        }
    }
    Ok((weights, Tensor::f32([count, columns], vectors)))
}

/// The label of the class that wins against most others.
fn voted(b: &mut Builder, name: &str, sums: ValueId, labels: &[i64]) -> Result<ValueId, Reject> {
    let classes = labels.len();
    // A vote is one for the first of two classes rather than the second, for which all are at first.
    let (mut moves, mut base) = (vec![], vec![0.0; classes]);
    for (first, second) in each_pair(classes) {
        let at = |class: usize| {
            if class == first {
                1.0
            } else if class == second {
                -1.0
            } else {
                0.0
            }
        };
        moves.extend((0..classes).map(at));
        base[second] += 1.0f32;
    }
    let zero = b.scalar(DType::F32, 0.0);
    let first = b.binary(name, Binary::Greater, sums, zero)?;
    let first = b.cast(name, first, DType::F32)?;
    let moves = b.constant("", Tensor::f32([coupling::pairs(classes), classes], &moves));
    let votes = b.matmul(name, (first, false), (moves, false))?;
    let base = scores::row(b, &base);
    let votes = b.binary(name, Binary::Add, votes, base)?;
    let places = scores::first_largest(b, name, votes)?;
    scores::label(b, name, places, labels)
}

/// Scores of two classes from the one of their pair.
fn two_sided(b: &mut Builder, name: &str, sums: ValueId, transform: Transform) -> Result<ValueId, Reject> {
    let one = b.scalar(DType::F32, 1.0);
    let down = b.unary(name, Unary::Neg, sums)?;
    let columns = match transform {
        Transform::None => [down, sums],
        Transform::Logistic => [b.unary(name, Unary::Sigmoid, down)?, b.unary(name, Unary::Sigmoid, sums)?],
        Transform::Softmax | Transform::SoftmaxZero => [b.binary(name, Binary::Sub, one, sums)?, sums],
        Transform::Probit => return wrong("post_transform PROBIT of one score has no second score"),
    };
    b.concat(name, &columns, 1)
}

/// Probabilities of classes from the scores of pairs.
fn probabilities(
    b: &mut Builder,
    name: &str,
    sums: ValueId,
    (a, shift): (&[f32], &[f32]),
    classes: usize,
) -> Result<ValueId, Reject> {
    let (a, shift) = (scores::row(b, a), scores::row(b, shift));
    let scaled = b.binary(name, Binary::Mul, sums, a)?;
    let scaled = b.binary(name, Binary::Add, scaled, shift)?;
    let down = b.unary(name, Unary::Neg, scaled)?;
    let either = b.unary(name, Unary::Sigmoid, down)?;
    let (least, most) = (b.scalar(DType::F32, SURE), b.scalar(DType::F32, f64::from(1.0 - SURE as f32)));
    let either = b.binary(name, Binary::Max, either, least)?;
    let either = b.binary(name, Binary::Min, either, most)?;
    let rows = b.shape(sums)[0];
    if rows == 0 {
        return b.zeros(DType::F32, Shape::from([0, classes]));
    }
    Ok(b.host(name, Arc::new(Coupling::new(rows, classes)), &[either])[0])
}

/// How alike rows and vectors are: `[rows, vectors]`.
fn kernel(b: &mut Builder, node: &Node, x: ValueId, vectors: Tensor) -> Result<ValueId, Reject> {
    let name = node.name();
    let parameter = |at: usize| list(node, "kernel_params").get(at).copied().unwrap_or(0.0);
    let (gamma, shift, degree) = (parameter(0), parameter(1), parameter(2));
    let number = |b: &mut Builder, value: f32| b.scalar(DType::F32, value.into());
    let kind = node.text("kernel_type").unwrap_or("LINEAR");
    if kind == "RBF" {
        let (rows, columns, count) = (b.shape(x)[0], b.shape(x)[1], vectors.shape()[0]);
        let x = b.reshape(name, x, Shape::from([rows, 1, columns]))?;
        let vectors = b.constant("", vectors);
        let away = b.binary(name, Binary::Sub, x, vectors)?;
        let square = b.unary(name, Unary::Square, away)?;
        let sum = b.reduce(name, Reduce::Sum, &[2], square)?;
        let sum = b.reshape(name, sum, Shape::from([rows, count]))?;
        let gamma = number(b, -gamma);
        let scaled = b.binary(name, Binary::Mul, sum, gamma)?;
        return b.unary(name, Unary::Exp, scaled);
    }
    let vectors = b.constant("", vectors);
    let products = b.matmul(name, (x, false), (vectors, true))?;
    if kind == "LINEAR" {
        return Ok(products);
    }
    let (gamma, shift) = (number(b, gamma), number(b, shift));
    let scaled = b.binary(name, Binary::Mul, products, gamma)?;
    let sum = b.binary(name, Binary::Add, scaled, shift)?;
    match kind {
        "POLY" => {
            let degree = number(b, degree);
            b.binary(name, Binary::Pow, sum, degree)
        }
        "SIGMOID" => b.unary(name, Unary::Tanh, sum),
        other => wrong(format!("kernel_type `{other}` is not known")),
    }
}
