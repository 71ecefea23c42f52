//! What classifiers and regressors end with: functions of a row of scores, and labels.

use std::f32::consts::SQRT_2;

use reef_graph::{Binary, DType, Op, Reduce, Shape, Tensor, Unary, ValueId};

use super::super::attributes::Node;
use super::super::{Builder, Reject, wrong};

/// A function of a row of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transform {
    None,
    Softmax,
    Logistic,
    /// A softmax that leaves zeros as they are.
    SoftmaxZero,
    Probit,
}

impl Transform {
    /// As an attribute says.
    pub fn of(node: &Node) -> Result<Transform, Reject> {
        let number = node.attribute("post_transform").map_or(0, |attribute| attribute.i);
        Ok(match (node.text("post_transform").unwrap_or_default(), number) {
            ("SOFTMAX", _) | ("", 1) => Transform::Softmax,
            ("LOGISTIC", _) | ("", 2) => Transform::Logistic,
            ("SOFTMAX_ZERO", _) | ("", 3) => Transform::SoftmaxZero,
            ("PROBIT", _) | ("", 4) => Transform::Probit,
            ("NONE", _) | ("", 0) => Transform::None,
            (other, number) => return wrong(format!("post_transform `{other}` ({number}) is not known")),
        })
    }

    /// Of scores `[rows, columns]`. A single column is only changed by PROBIT, as ONNX Runtime has it.
    pub fn apply(self, b: &mut Builder, name: &str, x: ValueId) -> Result<ValueId, Reject> {
        let shape = b.shape(x);
        match self {
            Transform::Probit => probit(b, name, x),
            _ if shape[1] < 2 => Ok(x),
            Transform::None => Ok(x),
            Transform::Logistic => b.unary(name, Unary::Sigmoid, x),
            Transform::Softmax => b.add(name, Op::Softmax { axis: 1 }, &[x], DType::F32, shape),
            Transform::SoftmaxZero => softmax_zero(b, name, x),
        }
    }
}

fn softmax_zero(b: &mut Builder, name: &str, x: ValueId) -> Result<ValueId, Reject> {
    let largest = b.reduce(name, Reduce::Max, &[1], x)?;
    let size = b.unary(name, Unary::Abs, x)?;
    let (least, zero) = (b.scalar(DType::F32, 1e-7), b.scalar(DType::F32, 0.0));
    let counts = b.binary(name, Binary::Greater, size, least)?;
    let rest = b.binary(name, Binary::Sub, x, largest)?;
    let power = b.unary(name, Unary::Exp, rest)?;
    let counted = b.choose(name, counts, power, zero)?;
    let sum = b.reduce(name, Reduce::Sum, &[1], counted)?;
    let down = b.unary(name, Unary::Neg, largest)?;
    let down = b.unary(name, Unary::Exp, down)?;
    let small = b.binary(name, Binary::Mul, x, down)?;
    let made = b.choose(name, counts, power, small)?;
    b.binary(name, Binary::Div, made, sum)
}

/// √2 times the inverse error function of `2x - 1`, by an approximation: of a logarithm and two square roots.
fn probit(b: &mut Builder, name: &str, x: ValueId) -> Result<ValueId, Reject> {
    // 0.147, and twice the inverse of its product with π, of five decimals.
    const A: f32 = 0.147;
    const SHIFT: f32 = 4.330_750_5;
    let number = |b: &mut Builder, value: f32| b.scalar(DType::F32, value.into());
    let (one, two) = (number(b, 1.0), number(b, 2.0));
    let x = b.binary(name, Binary::Mul, x, two)?;
    let x = b.binary(name, Binary::Sub, x, one)?;
    let (left, right) = (b.binary(name, Binary::Sub, one, x)?, b.binary(name, Binary::Add, one, x)?);
    let product = b.binary(name, Binary::Mul, left, right)?;
    let log = b.unary(name, Unary::Log, product)?;
    let (half, shift, factor) = (number(b, 0.5), number(b, SHIFT), number(b, 1.0 / A));
    let v = b.binary(name, Binary::Mul, log, half)?;
    let v = b.binary(name, Binary::Add, v, shift)?;
    let square = b.unary(name, Unary::Square, v)?;
    let scaled = b.binary(name, Binary::Mul, log, factor)?;
    let root = b.binary(name, Binary::Sub, square, scaled)?;
    let root = b.unary(name, Unary::Sqrt, root)?;
    let root = b.binary(name, Binary::Sub, root, v)?;
    let root = b.unary(name, Unary::Sqrt, root)?;
    let zero = number(b, 0.0);
    let below = b.binary(name, Binary::Less, x, zero)?;
    let (up, down) = (number(b, SQRT_2), number(b, -SQRT_2));
    let sign = b.choose(name, below, down, up)?;
    b.binary(name, Binary::Mul, root, sign)
}

/// A constant of one row.
pub(super) fn row(b: &mut Builder, values: &[f32]) -> ValueId {
    b.constant("", Tensor::f32([1, values.len()], values))
}

/// Integers that classes are called: numbers of texts, where they are called by texts.
pub(super) fn labels<'a>(node: &Node<'a>, ints: &str) -> Result<&'a [i64], Reject> {
    match node.ints(ints).unwrap_or(&[]) {
        [] => wrong("it names no classes"),
        labels => Ok(labels),
    }
}

/// Whether classes are called by texts.
pub(super) fn has_texts(node: &Node) -> bool {
    node.attribute("classlabels_strings").is_some_and(|labels| !labels.strings.is_empty())
}

/// Of every row the first column with the largest number, as f32 `[rows, 1]`.
pub(super) fn first_largest(b: &mut Builder, name: &str, x: ValueId) -> Result<ValueId, Reject> {
    let columns = b.shape(x)[1];
    let largest = b.reduce(name, Reduce::Max, &[1], x)?;
    let is = b.binary(name, Binary::Equal, x, largest)?;
    let places: Vec<f32> = (0..columns).map(|place| place as f32).collect();
    let (places, last) = (row(b, &places), b.scalar(DType::F32, columns as f64 - 1.0));
    let places = b.choose(name, is, places, last)?;
    b.reduce(name, Reduce::Min, &[1], places)
}

/// The labels of places `[rows, 1]`, as `[rows]`.
pub(super) fn label(b: &mut Builder, name: &str, places: ValueId, labels: &[i64]) -> Result<ValueId, Reject> {
    let rows = b.shape(places)[0];
    let places = b.cast(name, places, DType::I64)?;
    let places = b.reshape(name, places, Shape::from([rows]))?;
    let labels = b.constant("", Tensor::i64([labels.len()], labels));
    b.add(name, Op::Gather { axis: 0 }, &[labels, places], DType::I64, Shape::from([rows]))
}

/// The second label where the condition `[rows, 1]` holds, else the first.
pub(super) fn either(
    b: &mut Builder,
    name: &str,
    holds: ValueId,
    labels: [i64; 2],
) -> Result<ValueId, Reject> {
    let rows = b.shape(holds)[0];
    let [no, yes] = labels.map(|label| b.constant("", Tensor::i64([1, 1], &[label])));
    let made = b.choose(name, holds, yes, no)?;
    b.reshape(name, made, Shape::from([rows]))
}
