//! Normalisations: along axes, by channel, and of rows to probabilities.

use reef_graph::{Binary, DType, Op, Reduce, Shape, Tensor, Unary, ValueId};

use super::attributes::{Node, axis_of};
use super::{Builder, Reading, Reject, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let made = match node.operator() {
        "Softmax" | "LogSoftmax" => softmax(b, node),
        "BatchNormalization" if node.opset >= 14 && node.flag("training_mode") => {
            return Some(norm_by_batch(b, node));
        }
        "BatchNormalization" => batch_norm(b, node),
        "LayerNormalization" => return Some(layer_norm(b, node)),
        "RMSNormalization" => rms_norm(b, node),
        "InstanceNormalization" => instance_norm(b, node),
        "GroupNormalization" => group_norm(b, node),
        _ => return None,
    };
    Some(made.map(|value| vec![value]))
}

/// Along one axis; before operator set 13 along all from it on.
fn softmax(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let shape = b.shape(x);
    let to_the_end = node.opset < 13;
    let axis = node.int("axis", if to_the_end { 1 } else { -1 });
    // An axis behind the last was allowed for what goes to the end: rows of one element.
    let axis = match to_the_end && axis == shape.rank() as i64 {
        true => shape.rank(),
        false => axis_of(axis, shape.rank())?,
    };
    let end = if to_the_end { shape.rank() } else { axis + 1 };
    let (x, back) = b.floating(name, x)?;
    let length: usize = shape[axis..end].iter().product();
    let joined: Shape = [&shape[..axis], &[length], &shape[end..]].concat().into();
    let flat = b.reshape(name, x, joined.clone())?;
    let log = node.operator() == "LogSoftmax";
    let made = match b.dtype(flat) {
        DType::F64 if length > 0 => wide_softmax(b, name, flat, axis, log)?,
        dtype => {
            let op = if log { Op::LogSoftmax { axis } } else { Op::Softmax { axis } };
            b.add(name, op, &[flat], dtype, joined)?
        }
    };
    let made = b.reshape(name, made, shape)?;
    b.cast(name, made, back)
}

/// Softmax in double precision, or its logarithm, from primitives.
pub(super) fn wide_softmax(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    axis: usize,
    log: bool,
) -> Result<ValueId, Reject> {
    let largest = b.reduce(name, Reduce::Max, &[axis], x)?;
    let less = b.binary(name, Binary::Sub, x, largest)?;
    let powers = b.unary(name, Unary::Exp, less)?;
    let sum = b.reduce(name, Reduce::Sum, &[axis], powers)?;
    if log {
        let sum = b.unary(name, Unary::Log, sum)?;
        return b.binary(name, Binary::Sub, less, sum);
    }
    b.binary(name, Binary::Div, powers, sum)
}

/// By mean and variance of the batch itself; then the running ones with these in them.
fn norm_by_batch(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let shape = b.shape(x);
    let Some(&channels) = shape.get(1) else { return wrong(format!("an input of shape {shape}")) };
    let axes: Vec<usize> = (0..shape.rank()).filter(|&axis| axis != 1).collect();
    let count = super::reduce::folded_extents(&shape, &axes)?;
    let (x, back) = b.floating(name, x)?;
    let dtype = b.dtype(x);
    let mut along = vec![1; shape.rank() - 1];
    along[0] = channels;
    let mut parameters = vec![];
    let mut own = vec![];
    for index in 1..5 {
        let parameter = node.input(index)?;
        if b.shape(parameter)[..] != [channels] {
            return wrong(format!("a parameter of shape {} for {channels} channels", b.shape(parameter)));
        }
        own.push(b.dtype(parameter));
        let parameter = b.cast(name, parameter, dtype)?;
        parameters.push(b.reshape(name, parameter, along.clone().into())?);
    }
    let mean = b.reduce(name, Reduce::Mean, &axes, x)?;
    let centred = b.binary(name, Binary::Sub, x, mean)?;
    let sum = b.reduce(name, Reduce::SumSquare, &axes, centred)?;
    let share = b.scalar(dtype, 1.0 / count as f64);
    let variance = b.binary(name, Binary::Mul, sum, share)?;
    let epsilon = b.scalar(dtype, node.float("epsilon", 1e-5).into());
    let deviation = b.binary(name, Binary::Add, variance, epsilon)?;
    let deviation = b.unary(name, Unary::Sqrt, deviation)?;
    let made = b.binary(name, Binary::Div, centred, deviation)?;
    let made = b.binary(name, Binary::Mul, made, parameters[0])?;
    let made = b.binary(name, Binary::Add, made, parameters[1])?;
    let mut all = vec![b.cast(name, made, back)?];
    let momentum = f64::from(node.float("momentum", 0.9));
    let (old, new) = (b.scalar(dtype, momentum), b.scalar(dtype, 1.0 - momentum));
    for (slot, of_batch) in [(2, mean), (3, variance)] {
        let kept = b.binary(name, Binary::Mul, parameters[slot], old)?;
        let added = b.binary(name, Binary::Mul, of_batch, new)?;
        let running = b.binary(name, Binary::Add, kept, added)?;
        let running = b.reshape(name, running, Shape::from([channels]))?;
        all.push(b.cast(name, running, own[slot])?);
    }
    Ok(all)
}

/// Scale and shift are kept in double precision, so that folding them into a convolution rounds once.
fn batch_norm(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let shape = b.shape(x);
    let Some(&channels) = shape.get(1) else { return wrong(format!("an input of shape {shape}")) };
    let outputs = [(1, "running_mean"), (2, "running_var")];
    let asked = outputs.into_iter().filter(|&(slot, _)| node.opset >= 14 && node.has_output(slot));
    let asked: Vec<&str> = asked.map(|(_, output)| output).collect();
    if !asked.is_empty() {
        let asked = asked.join(" and ");
        return wrong(format!("output {asked}: only where training_mode is 1"));
    }
    let mut parameters = vec![];
    for index in 1..5 {
        let parameter = node.input(index)?;
        if b.shape(parameter)[..] != [channels] {
            return wrong(format!("a parameter of shape {} for {channels} channels", b.shape(parameter)));
        }
        parameters.push(parameter);
    }
    let epsilon = node.float("epsilon", 1e-5);
    let known: Result<Vec<Vec<f64>>, Reject> =
        parameters.iter().map(|&parameter| b.floats(parameter, "parameters")).collect();
    let (x, back) = b.floating(name, x)?;
    let dtype = b.dtype(x);
    let made = match known {
        Ok(known) if dtype != DType::F64 => {
            let [gamma, beta, mean, variance] = &known[..] else { unreachable!("there are four") };
            let deviation = |variance: &f64| (variance + f64::from(epsilon)).sqrt();
            let scale: Vec<f64> = gamma.iter().zip(variance).map(|(g, v)| g / deviation(v)).collect();
            let shift: Vec<f64> = (0..channels).map(|c| beta[c] - mean[c] * scale[c]).collect();
            let wide = |b: &mut Builder, values: &[f64]| {
                b.constant("", Tensor::from_slice(DType::F64, Shape::from([channels]), values))
            };
            let inputs = [x, wide(b, &scale), wide(b, &shift)];
            b.add(name, Op::ScaleShift, &inputs, DType::F32, shape)?
        }
        _ => {
            let mut along = vec![1; shape.rank() - 1];
            along[0] = channels;
            let mut spread = vec![];
            for &parameter in &parameters {
                let parameter = b.cast(name, parameter, dtype)?;
                spread.push(b.reshape(name, parameter, along.clone().into())?);
            }
            let epsilon = b.scalar(dtype, epsilon.into());
            let variance = b.binary(name, Binary::Add, spread[3], epsilon)?;
            let deviation = b.unary(name, Unary::Sqrt, variance)?;
            let scale = b.binary(name, Binary::Div, spread[0], deviation)?;
            let centred = b.binary(name, Binary::Sub, x, spread[2])?;
            let scaled = b.binary(name, Binary::Mul, centred, scale)?;
            b.binary(name, Binary::Add, scaled, spread[1])?
        }
    };
    b.cast(name, made, back)
}

/// The rows normalised, and where they are asked for their means and the inverses of their deviations.
fn layer_norm(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let (name, x, epsilon) = (node.name(), node.input(0)?, node.float("epsilon", 1e-5));
    let shape = b.shape(x);
    let axis = axis_of(node.int("axis", -1), shape.rank())?;
    let row = Shape::new(&shape[axis..]);
    if row.elements() == 0 {
        return Err("of no elements".into());
    }
    let (x, back) = b.floating(name, x)?;
    let dtype = b.dtype(x);
    let mut parameters = vec![];
    for parameter in [Some(node.input(1)?), node.optional(2)].into_iter().flatten() {
        let parameter = b.cast(name, parameter, dtype)?;
        if b.rank(parameter) > row.rank() {
            return Err(Reject::Foreign(format!("parameters of shape {}", b.shape(parameter))));
        }
        parameters.push(b.expand(name, parameter, row.clone())?);
    }
    if dtype != DType::F64 && !node.has_output(1) && !node.has_output(2) {
        let op = Op::LayerNorm { axis, epsilon };
        let made = b.add(name, op, &[&[x], &parameters[..]].concat(), dtype, shape)?;
        return Ok(vec![b.cast(name, made, back)?]);
    }
    let axes: Vec<usize> = (axis..shape.rank()).collect();
    let (mut made, mean, deviation) = standardised(b, name, x, &axes, epsilon)?;
    for (parameter, op) in parameters.into_iter().zip([Binary::Mul, Binary::Add]) {
        made = b.binary(name, op, made, parameter)?;
    }
    let one = b.scalar(dtype, 1.0);
    let inverse = b.binary(name, Binary::Div, one, deviation)?;
    let stashed = [b.cast(name, mean, DType::F32)?, b.cast(name, inverse, DType::F32)?];
    Ok(vec![b.cast(name, made, back)?, stashed[0], stashed[1]])
}

/// Mean 0 and variance 1 over some axes, from primitives; and the means and deviations before.
fn standardised(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    axes: &[usize],
    epsilon: f32,
) -> Result<(ValueId, ValueId, ValueId), Reject> {
    let count = super::reduce::folded_extents(&b.shape(x), axes)?;
    let dtype = b.dtype(x);
    let mean = b.reduce(name, Reduce::Mean, axes, x)?;
    let centred = b.binary(name, Binary::Sub, x, mean)?;
    let sum = b.reduce(name, Reduce::SumSquare, axes, centred)?;
    let share = b.scalar(dtype, 1.0 / count as f64);
    let variance = b.binary(name, Binary::Mul, sum, share)?;
    let epsilon = b.scalar(dtype, epsilon.into());
    let variance = b.binary(name, Binary::Add, variance, epsilon)?;
    let deviation = b.unary(name, Unary::Sqrt, variance)?;
    Ok((b.binary(name, Binary::Div, centred, deviation)?, mean, deviation))
}

/// `x / √(mean(x²) + ε) · scale`, from primitives.
pub(super) fn rms_norm(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x, scale) = (node.name(), node.input(0)?, node.input(1)?);
    let shape = b.shape(x);
    let axes: Vec<usize> = (axis_of(node.int("axis", -1), shape.rank())?..shape.rank()).collect();
    let (x, back) = b.floating(name, x)?;
    let scale = b.cast(name, scale, b.dtype(x))?;
    let made = rooted(b, name, x, &axes, node.float("epsilon", 1e-5))?;
    let made = b.binary(name, Binary::Mul, made, scale)?;
    b.cast(name, made, back)
}

/// `x / √(mean(x²) + ε)` over some axes.
pub(super) fn rooted(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    axes: &[usize],
    epsilon: f32,
) -> Result<ValueId, Reject> {
    let count = super::reduce::folded_extents(&b.shape(x), axes)?;
    let sum = b.reduce(name, Reduce::SumSquare, axes, x)?;
    let dtype = b.dtype(x);
    let share = b.scalar(dtype, 1.0 / count as f64);
    let mean = b.binary(name, Binary::Mul, sum, share)?;
    let epsilon = b.scalar(dtype, epsilon.into());
    let sum = b.binary(name, Binary::Add, mean, epsilon)?;
    let factor = b.unary(name, Unary::Rsqrt, sum)?;
    b.binary(name, Binary::Mul, x, factor)
}

/// Rows normalised to mean 0 and variance 1: `x` is `[…, row]`.
fn standard(b: &mut Builder, name: &str, x: ValueId, epsilon: f32) -> Result<ValueId, Reject> {
    let shape = b.shape(x);
    let axis = shape.rank() - 1;
    if b.dtype(x) == DType::F64 {
        return standardised(b, name, x, &[axis], epsilon).map(|(made, ..)| made);
    }
    let ones = b.scalar(DType::F32, 1.0);
    let ones = b.expand(name, ones, Shape::from([shape[axis]]))?;
    b.add(name, Op::LayerNorm { axis, epsilon }, &[x, ones], DType::F32, shape)
}

/// `x·scale + shift` by channel (axis 1).
fn affine(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    scale: ValueId,
    shift: ValueId,
) -> Result<ValueId, Reject> {
    let shape = b.shape(x);
    if b.dtype(x) != DType::F64 && b.known(scale).is_some() && b.known(shift).is_some() {
        return b.add(name, Op::ScaleShift, &[x, scale, shift], DType::F32, shape);
    }
    let mut along = vec![1; shape.rank() - 1];
    along[0] = shape[1];
    let scale = b.reshape(name, scale, along.clone().into())?;
    let shift = b.reshape(name, shift, along.into())?;
    let scaled = b.binary(name, Binary::Mul, x, scale)?;
    b.binary(name, Binary::Add, scaled, shift)
}

fn instance_norm(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let shape = b.shape(x);
    if shape.rank() < 3 || shape.elements() == 0 {
        return Err(Reject::Foreign(format!("an input of shape {shape}")));
    }
    let (x, back) = b.floating(name, x)?;
    let mut parameters = vec![];
    for index in [1, 2] {
        let parameter = b.cast(name, node.input(index)?, b.dtype(x))?;
        if b.shape(parameter)[..] != [shape[1]] {
            return wrong(format!("a parameter of shape {} for {} channels", b.shape(parameter), shape[1]));
        }
        parameters.push(parameter);
    }
    let row = shape[2..].iter().product();
    let rows = b.reshape(name, x, Shape::from([shape[0], shape[1], row]))?;
    let made = standard(b, name, rows, node.float("epsilon", 1e-5))?;
    let made = b.reshape(name, made, shape)?;
    let made = affine(b, name, made, parameters[0], parameters[1])?;
    b.cast(name, made, back)
}

fn group_norm(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let shape = b.shape(x);
    let groups = usize::try_from(node.int("num_groups", 0)).unwrap_or(0);
    let channels = match shape.get(1) {
        Some(&channels) if groups > 0 && channels.is_multiple_of(groups) => channels,
        _ => return wrong(format!("{groups} groups of an input of shape {shape}")),
    };
    if shape.elements() == 0 {
        return Err("of no elements".into());
    }
    let (x, back) = b.floating(name, x)?;
    let mut parameters = vec![];
    for index in [1, 2] {
        let parameter = b.cast(name, node.input(index)?, b.dtype(x))?;
        // By group, once: for every channel of it.
        let by_group = node.opset < 21;
        let wanted = if by_group { groups } else { channels };
        if b.shape(parameter)[..] != [wanted] {
            return wrong(format!("a parameter of shape {}, {wanted} are needed", b.shape(parameter)));
        }
        let parameter = match by_group {
            true => {
                let apart = b.reshape(name, parameter, Shape::from([groups, 1]))?;
                let spread = b.expand(name, apart, Shape::from([groups, channels / groups]))?;
                b.reshape(name, spread, Shape::from([channels]))?
            }
            false => parameter,
        };
        parameters.push(parameter);
    }
    let row = shape.elements() / shape[0] / groups;
    let rows = b.reshape(name, x, Shape::from([shape[0], groups, row]))?;
    let made = standard(b, name, rows, node.float("epsilon", 1e-5))?;
    let made = b.reshape(name, made, shape)?;
    let made = affine(b, name, made, parameters[0], parameters[1])?;
    b.cast(name, made, back)
}
