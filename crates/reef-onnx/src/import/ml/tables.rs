//! Linear models, and what prepares tables for models. Where ONNX leaves something open, it is as ONNX
//! Runtime has it.

use reef_graph::{Binary, DType, Op, Reduce, Shape, Tensor, Unary, ValueId};

use super::super::attributes::Node;
use super::super::{Builder, Reject, wrong};
use super::scores::{self, Transform};
use super::table;
use crate::consts;

pub(super) fn list<'a>(node: &Node<'a>, name: &str) -> &'a [f32] {
    node.attribute(name).map_or(&[][..], |list| &list.floats)
}

/// The product of rows with rows of weights, and what is added to it: one for all, one for each, or nothing.
pub(super) fn linear(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    weights: &[f32],
    added: (usize, &[f32]),
) -> Result<ValueId, Reject> {
    let (columns, (targets, added)) = (b.shape(x)[1], added);
    if targets == 0 || targets.checked_mul(columns) != Some(weights.len()) {
        let count = weights.len();
        return wrong(format!("{count} coefficients for {targets} targets of {columns} columns"));
    }
    let weights = b.constant("", Tensor::f32([targets, columns], weights));
    let made = b.matmul(name, (x, false), (weights, true))?;
    match added.len() {
        0 => Ok(made),
        count if count == targets || count == 1 => {
            let added = scores::row(b, added);
            b.binary(name, Binary::Add, made, added)
        }
        count => wrong(format!("{count} intercepts for {targets} targets")),
    }
}

pub(super) fn linear_regressor(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let x = node.input(0)?;
    let x = table(b, name, x)?;
    let targets = usize::try_from(node.int("targets", 1)).unwrap_or(0);
    let made = linear(b, name, x, list(node, "coefficients"), (targets, list(node, "intercepts")))?;
    Transform::of(node)?.apply(b, name, made)
}

/// Labels and scores.
pub(super) fn linear_classifier(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let (name, transform) = (node.name(), Transform::of(node)?);
    let x = node.input(0)?;
    let x = table(b, name, x)?;
    let labels = scores::labels(node, "classlabels_ints")?;
    let classes = labels.len();
    let intercepts = list(node, "intercepts");
    let weights = list(node, "coefficients");
    let targets = if intercepts.is_empty() { weights.len() / b.shape(x)[1] } else { intercepts.len() };
    let sums = linear(b, name, x, weights, (targets, intercepts))?;
    if targets == 1 {
        let zero = b.scalar(DType::F32, 0.0);
        let above = b.binary(name, Binary::Greater, sums, zero)?;
        let two = match *labels {
            [no, yes] => [no, yes],
            _ if scores::has_texts(node) => return wrong(format!("one score for {classes} classes")),
            _ => [0, 1],
        };
        let label = scores::either(b, name, above, two)?;
        if classes != 2 {
            return Ok(vec![label, transform.apply(b, name, sums)?]);
        }
        let scores = match transform {
            Transform::Probit => return wrong("post_transform PROBIT of one score has no second score"),
            Transform::Logistic => {
                let down = b.unary(name, Unary::Neg, sums)?;
                let columns = [b.unary(name, Unary::Sigmoid, down)?, b.unary(name, Unary::Sigmoid, sums)?];
                b.concat(name, &columns, 1)?
            }
            _ => {
                let one = b.scalar(DType::F32, 1.0);
                let other = b.binary(name, Binary::Sub, one, sums)?;
                b.concat(name, &[other, sums], 1)?
            }
        };
        return Ok(vec![label, scores]);
    }
    if targets != classes {
        return wrong(format!("{targets} scores for {classes} classes"));
    }
    let places = scores::first_largest(b, name, sums)?;
    let label = scores::label(b, name, places, labels)?;
    Ok(vec![label, transform.apply(b, name, sums)?])
}

/// `(x - offset) * scale`, by column or the same for all.
pub(super) fn scaler(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let x = node.input(0)?;
    let mut made = b.cast(name, x, DType::F32)?;
    let columns = b.shape(x).last().copied().unwrap_or(1);
    for (list, op) in [(list(node, "offset"), Binary::Sub), (list(node, "scale"), Binary::Mul)] {
        if !list.is_empty() {
            let list = by_column(b, list, columns)?;
            made = b.binary(name, op, made, list)?;
        }
    }
    Ok(made)
}

fn by_column(b: &mut Builder, list: &[f32], columns: usize) -> Result<ValueId, Reject> {
    match list.len() {
        1 => Ok(b.scalar(DType::F32, list[0].into())),
        count if count == columns => Ok(b.constant("", Tensor::f32([columns], list))),
        count => wrong(format!("{count} numbers for {columns} columns")),
    }
}

/// Rows divided by their norm; a row whose norm is 0 stays.
pub(super) fn normalizer(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let input = node.input(0)?;
    let shape = b.shape(input);
    let x = table(b, name, input)?;
    let norm = match node.text("norm").unwrap_or("MAX") {
        "MAX" => b.reduce(name, Reduce::Max, &[1], x)?,
        "L1" => {
            let size = b.unary(name, Unary::Abs, x)?;
            b.reduce(name, Reduce::Sum, &[1], size)?
        }
        "L2" => {
            let square = b.unary(name, Unary::Square, x)?;
            let sum = b.reduce(name, Reduce::Sum, &[1], square)?;
            b.unary(name, Unary::Sqrt, sum)?
        }
        other => return wrong(format!("norm `{other}` is not known")),
    };
    let (zero, one) = (b.scalar(DType::F32, 0.0), b.scalar(DType::F32, 1.0));
    let nothing = b.binary(name, Binary::Equal, norm, zero)?;
    let norm = b.choose(name, nothing, one, norm)?;
    let made = b.binary(name, Binary::Div, x, norm)?;
    b.reshape(name, made, shape)
}

/// Another number in place of those that are missing.
pub(super) fn imputer(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let columns = b.shape(x).last().copied().unwrap_or(1);
    if b.dtype(x) == DType::I64 {
        let values = node.ints("imputed_value_int64s").unwrap_or(&[]);
        let values = match values.len() {
            1 => Tensor::i64([], values),
            count if count == columns => Tensor::i64([columns], values),
            count => return wrong(format!("{count} numbers for {columns} columns")),
        };
        let (values, gone) = (b.constant("", values), node.int("replaced_value_int64", 0));
        let gone = b.constant("", Tensor::i64([], &[gone]));
        let missing = b.binary(name, Binary::Equal, x, gone)?;
        return b.choose(name, missing, values, x);
    }
    if b.dtype(x) != DType::F32 {
        return wrong(format!("its input is of type {}", b.dtype(x)));
    }
    let values = by_column(b, list(node, "imputed_value_floats"), columns)?;
    let gone = node.float("replaced_value_float", 0.0);
    if gone.is_nan() {
        let there = b.binary(name, Binary::Equal, x, x)?;
        return b.choose(name, there, x, values);
    }
    let gone = b.scalar(DType::F32, gone.into());
    let missing = b.binary(name, Binary::Equal, x, gone)?;
    b.choose(name, missing, values, x)
}

/// 1 above the threshold, else 0.
pub(super) fn binarizer(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let dtype = b.dtype(x);
    if dtype != DType::F32 {
        return wrong(format!("its input is of type {dtype}"));
    }
    let threshold = b.scalar(dtype, node.float("threshold", 0.0).into());
    let above = b.binary(name, Binary::Greater, x, threshold)?;
    b.cast(name, above, dtype)
}

/// Columns by their numbers.
pub(super) fn extract(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x, picks) = (node.name(), node.input(0)?, node.input(1)?);
    let count = b.shape(picks).elements();
    let picks = b.reshape(name, picks, Shape::from([count]))?;
    let shape = b.shape(x);
    let (x, shape) = match shape[..] {
        [] => return wrong("its input is a scalar"),
        [columns] => (b.reshape(name, x, Shape::from([1, columns]))?, Shape::from([1, columns])),
        _ => (x, shape),
    };
    let axis = shape.rank() - 1;
    let mut dims = shape.to_vec();
    dims[axis] = count;
    b.add(name, Op::Gather { axis }, &[x, picks], b.dtype(x), dims.into())
}

/// A column for each category; of a number that is none, zeros.
pub(super) fn one_hot(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let categories = node.ints("cats_int64s").unwrap_or(&[]);
    if categories.is_empty() {
        return wrong("its categories are no integers");
    }
    if node.int("zeros", 1) == 0 {
        return wrong("zeros is 0: a number that is no category would be an error, which is not supported");
    }
    let x = b.cast(name, x, DType::I64)?;
    let column: Shape = b.shape(x).iter().copied().chain([1]).collect();
    let x = b.reshape(name, x, column)?;
    let categories = b.constant("", Tensor::i64([categories.len()], categories));
    let is = b.binary(name, Binary::Equal, x, categories)?;
    b.cast(name, is, DType::F32)
}

/// What is looked up: keys or values of one type.
fn entries(node: &Node, what: &str) -> Result<Tensor, Reject> {
    if let Some(ints) = node.ints(&format!("{what}_int64s")).filter(|ints| !ints.is_empty()) {
        return Ok(Tensor::i64([ints.len()], ints));
    }
    let floats = list(node, &format!("{what}_floats"));
    if !floats.is_empty() {
        return Ok(Tensor::f32([floats.len()], floats));
    }
    tensor(node, &format!("{what}_tensor"))
}

fn tensor(node: &Node, name: &str) -> Result<Tensor, Reject> {
    let given = node.attribute(name).and_then(|attribute| attribute.t.as_ref());
    let given = given.ok_or_else(|| Reject::Wrong(format!("{name} is missing")))?;
    let made =
        crate::tensors::read(given, None).map_err(|reason| Reject::Wrong(format!("{name}: {reason}")))?;
    Ok(made.reshaped(Shape::from([made.shape().elements()])))
}

/// The value of a key, or a default.
pub(super) fn encode(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let (keys, values) = (entries(node, "keys")?, entries(node, "values")?);
    let (count, dtype) = (keys.shape().elements(), values.dtype());
    if count != values.shape().elements() || keys.dtype() != b.dtype(x) {
        let (have, of) = (values.shape().elements(), b.dtype(x));
        return wrong(format!("{count} keys of type {} for {have} values, x is {of}", keys.dtype()));
    }
    let default = match (node.attribute("default_tensor"), dtype) {
        (Some(_), _) => tensor(node, "default_tensor")?,
        (None, DType::I64) => Tensor::i64([1], &[node.int("default_int64", -1)]),
        (None, DType::F32) => Tensor::f32([1], &[node.float("default_float", -0.0)]),
        (None, other) => return wrong(format!("its values are of type {other} and have no default")),
    };
    if default.dtype() != dtype || default.shape().elements() != 1 {
        return wrong(format!("its default is of type {}{}", default.dtype(), default.shape()));
    }
    let shape = b.shape(x);
    let rows = shape.elements();
    let x = b.reshape(name, x, Shape::from([rows, 1]))?;
    let nan = consts::floats(&keys).is_some_and(|keys| keys.iter().any(|key| key.is_nan()));
    let keys = b.constant("", keys.reshaped(Shape::from([1, count])));
    let mut is = b.binary(name, Binary::Equal, x, keys)?;
    if nan {
        // What is no number has the value of the key that is none.
        let (known, key) = (b.binary(name, Binary::Equal, x, x)?, b.binary(name, Binary::Equal, keys, keys)?);
        let either = b.binary(name, Binary::Or, known, key)?;
        let neither = b.unary(name, Unary::Not, either)?;
        is = b.binary(name, Binary::Or, is, neither)?;
    }
    let places: Vec<f32> = (0..count).map(|place| place as f32).collect();
    let (places, none) = (scores::row(b, &places), b.scalar(DType::F32, count as f64));
    let places = b.choose(name, is, places, none)?;
    let place = b.reduce(name, Reduce::Min, &[1], places)?;
    let place = b.cast(name, place, DType::I64)?;
    let place = b.reshape(name, place, Shape::from([rows]))?;
    let (values, default) = (b.constant("", values), b.constant("", default.reshaped(Shape::from([1]))));
    let values = b.concat(name, &[values, default], 0)?;
    let made = b.add(name, Op::Gather { axis: 0 }, &[values, place], dtype, Shape::from([rows]))?;
    b.reshape(name, made, shape)
}

/// Scores of classes, which maps from their names would hold: as they are, a column for each class in the
/// order in which the node names them.
pub(super) fn zip_map(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let texts = node.attribute("classlabels_strings").map_or(0, |labels| labels.strings.len());
    let classes = texts.max(node.ints("classlabels_int64s").map_or(0, <[i64]>::len));
    let x = table(b, name, x)?;
    match b.shape(x)[1] {
        columns if columns == classes => Ok(x),
        columns => wrong(format!("{columns} columns for {classes} classes")),
    }
}

/// Tables side by side, each cut or filled up with zeros to its number of columns.
pub(super) fn vectorize(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let inputs = node.all()?;
    let widths: Vec<usize> = match node.ints("inputdimensions").unwrap_or(&[]) {
        [] => inputs.iter().map(|&x| b.shape(x).last().copied().unwrap_or(1)).collect(),
        given => given.iter().map(|&width| usize::try_from(width).unwrap_or(0)).collect(),
    };
    if inputs.is_empty() || widths.len() != inputs.len() {
        return wrong(format!("{} widths of {} inputs", widths.len(), inputs.len()));
    }
    let mut parts = vec![];
    for (x, width) in inputs.into_iter().zip(widths) {
        let x = table(b, name, x)?;
        let shape = b.shape(x);
        parts.push(b.slice(name, x, 1, 0..width.min(shape[1]))?);
        if width > shape[1] {
            parts.push(b.zeros(DType::F32, Shape::from([shape[0], width - shape[1]]))?);
        }
    }
    let rows = b.shape(parts[0])[0];
    match parts.iter().all(|&part| b.shape(part)[0] == rows) {
        true => b.concat(name, &parts, 1),
        false => wrong("its inputs have different numbers of rows"),
    }
}
