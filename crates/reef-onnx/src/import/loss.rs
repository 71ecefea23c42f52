//! Losses of classifications: the negative logarithm of what the right class has.

use reef_graph::scalar::Element;
use reef_graph::{Binary, DType, Op, Reduce, Shape, Tensor, Unary, ValueId};

use super::attributes::Node;
use super::{Builder, Reading, Reject, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    match node.operator() {
        "NegativeLogLikelihoodLoss" => Some(likelihood(b, node)),
        "SoftmaxCrossEntropyLoss" => Some(cross_entropy(b, node)),
        _ => None,
    }
}

fn likelihood(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let (x, back) = b.computable(node.name(), node.input(0)?)?;
    let made = loss(b, node, x)?;
    Ok(vec![b.cast(node.name(), made, back)?])
}

fn cross_entropy(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let name = node.name();
    let (x, back) = b.computable(name, node.input(0)?)?;
    let shape = b.shape(x);
    if shape.rank() < 2 {
        return wrong(format!("scores of shape {shape}"));
    }
    let x = b.add(name, Op::LogSoftmax { axis: 1 }, &[x], DType::F32, shape)?;
    let made = loss(b, node, x)?;
    Ok(vec![b.cast(name, made, back)?, b.cast(name, x, back)?])
}

/// Of logarithms of probabilities `[N, classes, …]` and classes `[N, …]`, weighted.
fn loss(b: &mut Builder, node: &Node, x: ValueId) -> Result<ValueId, Reject> {
    let (name, target) = (node.name(), node.input(1)?);
    let (shape, of) = (b.shape(x), b.shape(target));
    if shape.rank() < 2 || of[..] != [&shape[..1], &shape[2..]].concat() {
        return wrong(format!("classes of shape {of} for an input of shape {shape}"));
    }
    if !matches!(b.dtype(target), DType::I64 | DType::I32) {
        return wrong(format!("classes of {}", b.dtype(target)));
    }
    let classes = shape[1];
    let target = b.cast(name, target, DType::I64)?;
    let ignored = match node.attribute("ignore_index") {
        Some(ignored) => {
            let ignored = b.constant("", Tensor::i64([], &[ignored.i]));
            Some(b.binary(name, Binary::Equal, target, ignored)?)
        }
        None => None,
    };
    let zero = b.scalar(DType::F32, 0.0);
    let first = b.constant("", Tensor::i64([], &[0]));
    let target = match ignored {
        Some(ignored) => b.choose(name, ignored, first, target)?,
        None => target,
    };
    // The weight is fetched even if all are 1: a class that there is none of is an error of the request's.
    let weights = weights(b, node, classes)?;
    let mut weight = b.add(name, Op::Gather { axis: 0 }, &[weights, target], DType::F32, of.clone())?;
    let picked = picked(b, name, x, target)?;
    let picked = b.binary(name, Binary::Mul, picked, weight)?;
    let mut made = b.unary(name, Unary::Neg, picked)?;
    if let Some(ignored) = ignored {
        made = b.choose(name, ignored, zero, made)?;
        weight = b.choose(name, ignored, zero, weight)?;
    }
    let axes: Vec<usize> = (0..of.rank()).collect();
    match node.text("reduction").unwrap_or("mean") {
        "none" => return Ok(made),
        "sum" => made = b.reduce(name, Reduce::Sum, &axes, made)?,
        "mean" => {
            let sum = b.reduce(name, Reduce::Sum, &axes, made)?;
            let count = b.reduce(name, Reduce::Sum, &axes, weight)?;
            made = b.binary(name, Binary::Div, sum, count)?;
        }
        other => return wrong(format!("reduction `{other}`")),
    }
    b.reshape(name, made, Shape::default())
}

/// Every class's weight.
fn weights(b: &mut Builder, node: &Node, classes: usize) -> Result<ValueId, Reject> {
    let Some(weights) = node.optional(2) else {
        return Ok(b.constant("", Tensor::f32([classes], &vec![1.0; classes])));
    };
    if b.shape(weights)[..] != [classes] {
        return wrong(format!("weights of shape {} for {classes} classes", b.shape(weights)));
    }
    Ok(b.computable(node.name(), weights)?.0)
}

/// The elements of `[N, classes, …]` at the classes `[N, …]`.
fn picked(b: &mut Builder, name: &str, x: ValueId, target: ValueId) -> Result<ValueId, Reject> {
    let (shape, of) = (b.shape(x), b.shape(target));
    let classes = shape[1];
    let count = b.constant("", Tensor::i64([], &[classes as i64]));
    let first = b.constant("", Tensor::i64([], &[0]));
    let below = b.binary(name, Binary::Less, target, first)?;
    let counted = b.binary(name, Binary::Add, target, count)?;
    let target = b.choose(name, below, counted, target)?;
    let mut dims = of.to_vec();
    dims.insert(1, 1);
    let target = b.reshape(name, target, dims.into())?;
    let places: Vec<Element> = (0..classes as i64).map(Element::Int).collect();
    let mut along = vec![1; shape.rank() - 1];
    along[0] = classes;
    let places = b.constant("", reef_graph::reference::store(&places, DType::I64, &along.into()));
    let right = b.binary(name, Binary::Equal, target, places)?;
    let zero = b.scalar(DType::F32, 0.0);
    let alone = b.choose(name, right, x, zero)?;
    let sum = b.reduce(name, Reduce::Sum, &[1], alone)?;
    b.reshape(name, sum, of)
}
