//! Operators of the domain `com.microsoft`, which exporters and ONNX Runtime's optimiser write, put together
//! from others. They are read under the name of their domain: `com.microsoft.FusedMatMul`.

use reef_graph::{Binary, DType, Op, Quantization, Reduce, Shape, Unary, ValueId};

use super::attributes::Node;
use super::product::scaled;
use super::{Builder, Reading, Reject, norm, quantized, window, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let operator = match node.operator() {
        "SimplifiedLayerNormalization" => "SimplifiedLayerNormalization",
        other => other.strip_prefix("com.microsoft.")?,
    };
    let made = match operator {
        "Gelu" | "BiasGelu" | "FastGelu" | "QuickGelu" => gelu(b, node, operator),
        "BiasSplitGelu" => split_gelu(b, node),
        "FusedMatMul" => fused_matmul(b, node),
        "FusedGemm" => fused_gemm(b, node),
        "FusedConv" => fused_conv(b, node),
        "SkipLayerNormalization" => return Some(skip_norm(b, node, true)),
        "SkipSimplifiedLayerNormalization" => return Some(skip_norm(b, node, false)),
        "SimplifiedLayerNormalization" => norm::rms_norm(b, node),
        "EmbedLayerNormalization" => return Some(embed_norm(b, node)),
        "MatMulIntegerToFloat" => matmul_to_float(b, node),
        "DynamicQuantizeMatMul" => dynamic_matmul(b, node),
        "QLinearAdd" | "QLinearMul" => two_quantized(b, node, operator),
        "QLinearSigmoid" | "QLinearLeakyRelu" => one_quantized(b, node, operator),
        "QLinearGlobalAveragePool" => pooled(b, node),
        "QLinearAveragePool" => averages(b, node),
        "NhwcMaxPool" => largest(b, node),
        "QLinearWhere" => chosen(b, node),
        "QLinearConcat" => concat(b, node),
        "QLinearSoftmax" => softmax(b, node),
        "QGemm" => qgemm(b, node),
        "Attention" => return Some(packed_attention(b, node)),
        "QAttention" => return Some(quantized_attention(b, node)),
        "MultiHeadAttention" => return Some(attention_of_heads(b, node)),
        "Trilu" => super::movement::trilu(b, node),
        "QuantizeLinear" => quantized::quantize(b, node),
        "DequantizeLinear" => quantized::dequantize(b, node),
        _ => return None,
    };
    Some(made.map(|value| vec![value]))
}

fn gelu(b: &mut Builder, node: &Node, operator: &str) -> Result<ValueId, Reject> {
    let name = node.name();
    let (mut x, back) = b.computable(name, node.input(0)?)?;
    if let Some(bias) = node.optional(1) {
        let (bias, _) = b.computable(name, bias)?;
        x = b.binary(name, Binary::Add, x, bias)?;
    }
    let made = match operator {
        "FastGelu" => b.unary(name, Unary::GeluTanh, x)?,
        "QuickGelu" => {
            let alpha = b.scalar(DType::F32, node.float("alpha", 1.702).into());
            let scaled = b.binary(name, Binary::Mul, x, alpha)?;
            let gate = b.unary(name, Unary::Sigmoid, scaled)?;
            b.binary(name, Binary::Mul, x, gate)?
        }
        _ => b.unary(name, Unary::Gelu, x)?,
    };
    b.cast(name, made, back)
}

/// The first half of the columns times the GELU of the second, both with their bias.
fn split_gelu(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let (x, back) = b.computable(name, node.input(0)?)?;
    let (bias, _) = b.computable(name, node.input(1)?)?;
    let x = b.binary(name, Binary::Add, x, bias)?;
    let axis = b.rank(x).checked_sub(1).ok_or_else(|| Reject::Wrong("a scalar".into()))?;
    let columns = b.shape(x)[axis];
    if !columns.is_multiple_of(2) {
        return wrong(format!("{columns} columns in two halves"));
    }
    let left = b.slice(name, x, axis, 0..columns / 2)?;
    let right = b.slice(name, x, axis, columns / 2..columns)?;
    let gate = b.unary(name, Unary::Gelu, right)?;
    let made = b.binary(name, Binary::Mul, left, gate)?;
    b.cast(name, made, back)
}

fn fused_matmul(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    if node.flag("transBatchA") || node.flag("transBatchB") {
        return wrong("transBatchA and transBatchB are not supported");
    }
    let (x, back) = b.computable(name, node.input(0)?)?;
    let (y, _) = b.computable(name, node.input(1)?)?;
    let made = b.matmul(name, (x, node.flag("transA")), (y, node.flag("transB")))?;
    let made = scaled(b, name, made, node.float("alpha", 1.0))?;
    b.cast(name, made, back)
}

/// The function that a fused operator ends with.
fn activation(node: &Node, parameters: &[f32]) -> Result<Option<Unary>, Reject> {
    let parameter = |at: usize, default: f32| parameters.get(at).copied().unwrap_or(default);
    Ok(Some(match node.text("activation").unwrap_or_default() {
        "" => return Ok(None),
        "Relu" => Unary::Relu,
        "Sigmoid" => Unary::Sigmoid,
        "Tanh" => Unary::Tanh,
        "LeakyRelu" => Unary::LeakyRelu(parameter(0, 0.01)),
        "Clip" => Unary::Clip(parameter(0, f32::MIN), parameter(1, f32::MAX)),
        "HardSigmoid" => Unary::HardSigmoid(parameter(0, 0.2), parameter(1, 0.5)),
        other => return wrong(format!("the activation function `{other}` is not known")),
    }))
}

fn fused_gemm(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let alphas: Vec<f32> = ["activation_alpha", "activation_beta"]
        .iter()
        .filter_map(|name| node.attribute(name).map(|value| value.f))
        .collect();
    let function = activation(node, &alphas)?;
    let made = super::product::gemm(b, node)?;
    let (made, back) = b.computable(name, made)?;
    let made = match function {
        Some(function) => b.unary(name, function, made)?,
        None => made,
    };
    b.cast(name, made, back)
}

/// A convolution, perhaps with a summand, then a function.
fn fused_conv(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let parameters = node.attribute("activation_params").map_or(&[][..], |list| &list.floats);
    let function = activation(node, parameters)?;
    let made = window::conv(b, node)?;
    let (mut made, back) = b.computable(name, made)?;
    if let Some(residual) = node.optional(3) {
        let (residual, _) = b.computable(name, residual)?;
        made = b.binary(name, Binary::Add, made, residual)?;
    }
    if let Some(function) = function {
        made = b.unary(name, function, made)?;
    }
    b.cast(name, made, back)
}

/// The norm of a sum. Outputs: the norm, two that are not computed, and the sum.
fn skip_norm(b: &mut Builder, node: &Node, centred: bool) -> Result<Vec<ValueId>, Reject> {
    let name = node.name();
    if node.has_output(1) || node.has_output(2) {
        return wrong("the mean and the deviation are not given");
    }
    let (x, back) = b.computable(name, node.input(0)?)?;
    let (skip, _) = b.computable(name, node.input(1)?)?;
    let (shift, bias) = if centred { (node.optional(3), node.optional(4)) } else { (None, node.optional(3)) };
    let mut sum = b.binary(name, Binary::Add, x, skip)?;
    if let Some(bias) = bias {
        let (bias, _) = b.computable(name, bias)?;
        sum = b.binary(name, Binary::Add, sum, bias)?;
    }
    let epsilon = node.float("epsilon", 1e-12);
    let made = normed(b, name, sum, node.input(2)?, shift, (centred, epsilon))?;
    let (made, sum) = (b.cast(name, made, back)?, b.cast(name, sum, back)?);
    Ok(vec![made, made, made, sum])
}

/// `x` normalised over its last axis.
fn normed(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    scale: ValueId,
    shift: Option<ValueId>,
    (centred, epsilon): (bool, f32),
) -> Result<ValueId, Reject> {
    let shape = b.shape(x);
    let axis = shape.rank().checked_sub(1).ok_or_else(|| Reject::Wrong("a scalar".into()))?;
    let (scale, _) = b.computable(name, scale)?;
    if !centred {
        let made = norm::rooted(b, name, x, &[axis], epsilon)?;
        return b.binary(name, Binary::Mul, made, scale);
    }
    let mut inputs = vec![x, scale];
    if let Some(shift) = shift {
        inputs.push(b.computable(name, shift)?.0);
    }
    if inputs[1..].iter().any(|&parameter| b.shape(parameter)[..] != shape[axis..]) {
        return wrong(format!("parameters of shape {} for rows of {}", b.shape(inputs[1]), shape[axis]));
    }
    b.add(name, Op::LayerNorm { axis, epsilon }, &inputs, DType::F32, shape)
}

/// Words, positions and segments looked up, added and normalised. Outputs: the norm, the number of words of
/// each sequence, and the sum.
fn embed_norm(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let name = node.name();
    let ids = node.input(0)?;
    let [batch, words] = b.shape(ids)[..] else { return wrong(format!("words of shape {}", b.shape(ids))) };
    let lookup = |b: &mut Builder, table: ValueId, ids: ValueId| -> Result<ValueId, Reject> {
        let (from, of, dtype) = (b.shape(table), b.shape(ids), b.dtype(table));
        let shape: Shape = of.iter().chain(&from[1..]).copied().collect();
        b.add(name, Op::Gather { axis: 0 }, &[table, ids], dtype, shape)
    };
    let mut parts = vec![lookup(b, node.input(2)?, ids)?];
    parts.push(match node.optional(8) {
        Some(places) => lookup(b, node.input(3)?, places)?,
        None => {
            let table = node.input(3)?;
            if b.shape(table).first().is_none_or(|&rows| rows < words) {
                return wrong(format!("{words} words, positions of shape {}", b.shape(table)));
            }
            b.slice(name, table, 0, 0..words)?
        }
    });
    if let (Some(segments), Some(table)) = (node.optional(1), node.optional(4)) {
        parts.push(lookup(b, table, segments)?);
    }
    let (mut sum, back) = b.computable(name, parts[0])?;
    for &part in &parts[1..] {
        let (part, _) = b.computable(name, part)?;
        sum = b.binary(name, Binary::Add, sum, part)?;
    }
    let epsilon = node.float("epsilon", 1e-12);
    let made = normed(b, name, sum, node.input(5)?, node.optional(6), (true, epsilon))?;
    let counts = match node.optional(7) {
        Some(mask) if node.has_output(1) => {
            let mask = b.cast(name, mask, DType::F32)?;
            let count = b.reduce(name, Reduce::Sum, &[1], mask)?;
            let count = b.reshape(name, count, Shape::from([batch]))?;
            b.cast(name, count, DType::I32)?
        }
        _ => b.zeros(DType::I32, Shape::from([batch]))?,
    };
    Ok(vec![b.cast(name, made, back)?, counts, b.cast(name, sum, back)?])
}

/// A product of integers, scaled, with a bias.
fn matmul_to_float(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let factors = [node.input(0)?, node.input(1)?];
    let sum = quantized::product(b, name, factors, [node.optional(4), node.optional(5)])?;
    let (left, right) = (node.input(2)?, node.input(3)?);
    let left = quantized::spread(b, name, left, 1)?;
    let right = quantized::spread(b, name, right, 0)?;
    let scale = b.binary(name, Binary::Mul, left, right)?;
    finished(b, name, sum, scale, node.optional(6))
}

fn finished(
    b: &mut Builder,
    name: &str,
    sum: ValueId,
    scale: ValueId,
    bias: Option<ValueId>,
) -> Result<ValueId, Reject> {
    let sum = b.cast(name, sum, DType::F32)?;
    let made = b.binary(name, Binary::Mul, sum, scale)?;
    match bias {
        Some(bias) => b.binary(name, Binary::Add, made, bias),
        None => Ok(made),
    }
}

fn dynamic_matmul(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    if b.dtype(x) != DType::F32 || b.shape(x).elements() == 0 {
        return wrong(format!("{}{} is not quantised", b.dtype(x), b.shape(x)));
    }
    let [x, scale_x, zero_x] = reef_graph::dynamic_quantize(&mut b.graph, name, x);
    let factors = [x, node.input(1)?];
    let sum = quantized::product(b, name, factors, [Some(zero_x), node.optional(3)])?;
    let right = quantized::spread(b, name, node.input(2)?, 0)?;
    let scale = b.binary(name, Binary::Mul, scale_x, right)?;
    finished(b, name, sum, scale, node.optional(4))
}

/// The numbers that integers stand for: operands `at`, its scale and its zero point.
fn numbers(b: &mut Builder, node: &Node, at: usize) -> Result<ValueId, Reject> {
    let (name, x, scale) = (node.name(), node.input(at)?, node.input(at + 1)?);
    let zero = node.optional(at + 2);
    if b.shape(scale).elements() != 1 {
        return Err("several scales".into());
    }
    let by = Quantization::by_tensor(8);
    let operands: Vec<ValueId> = [Some(x), Some(scale), zero].into_iter().flatten().collect();
    let facts: Vec<(DType, Shape)> = operands.iter().map(|&id| (b.dtype(id), b.shape(id))).collect();
    if let Some(flaw) = by.flaw_of_dequantize(&facts, DType::F32) {
        return wrong(format!("it {flaw}"));
    }
    let shape = b.shape(x);
    b.add(name, Op::Dequantize(by), &operands, DType::F32, shape)
}

/// Numbers as integers with the scale and the zero point at `at`; `like` tells their type without one.
fn integers(b: &mut Builder, node: &Node, x: ValueId, at: usize, like: DType) -> Result<ValueId, Reject> {
    let (scale, zero) = (node.input(at)?, node.optional(at + 1));
    if b.shape(scale).elements() != 1 {
        return Err("several scales".into());
    }
    stored(b, node, x, (scale, zero), like)
}

/// Numbers as integers with this scale and zero point.
fn stored(
    b: &mut Builder,
    node: &Node,
    x: ValueId,
    (scale, zero): (ValueId, Option<ValueId>),
    like: DType,
) -> Result<ValueId, Reject> {
    let name = node.name();
    let to = zero.map_or(like, |zero| b.dtype(zero));
    let by = Quantization::by_tensor(8);
    let operands: Vec<ValueId> = [Some(x), Some(scale), zero].into_iter().flatten().collect();
    let facts: Vec<(DType, Shape)> = operands.iter().map(|&id| (b.dtype(id), b.shape(id))).collect();
    if let Some(flaw) = by.flaw_of_quantize(&facts, to) {
        return wrong(format!("it {flaw}"));
    }
    let shape = b.shape(x);
    b.add(name, Op::Quantize(by), &operands, to, shape)
}

fn two_quantized(b: &mut Builder, node: &Node, operator: &str) -> Result<ValueId, Reject> {
    match operator {
        "QLinearAdd" => sum_quantized(b, node),
        _ => product_quantized(b, node),
    }
}

/// `round(product of the integers less their zero points · (scale of x · scale of y / scale) + zero point)`,
/// as ONNX Runtime has it.
fn product_quantized(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, to, made) = (node.name(), b.dtype(node.input(0)?), node.input(6)?);
    let wide = |b: &mut Builder, id: ValueId| b.cast(name, id, DType::F32);
    let (mut factors, mut scales) = (vec![], vec![]);
    for at in [0, 3] {
        let (x, scale) = (node.input(at)?, node.input(at + 1)?);
        if b.dtype(x) != to || b.shape(scale).elements() != 1 || b.shape(made).elements() != 1 {
            return wrong("its operands differ in type, or have several scales");
        }
        let mut factor = wide(b, x)?;
        if let Some(zero) = node.optional(at + 2) {
            let zero = wide(b, zero)?;
            let zero = b.reshape(name, zero, Shape::default())?;
            factor = b.binary(name, Binary::Sub, factor, zero)?;
        }
        factors.push(factor);
        scales.push(b.reshape(name, scale, Shape::default())?);
    }
    let ratio = b.binary(name, Binary::Mul, scales[0], scales[1])?;
    let made = b.reshape(name, made, Shape::default())?;
    let ratio = b.binary(name, Binary::Div, ratio, made)?;
    let product = b.binary(name, Binary::Mul, factors[0], factors[1])?;
    let mut product = b.binary(name, Binary::Mul, product, ratio)?;
    if let Some(zero) = node.optional(7) {
        let zero = wide(b, zero)?;
        let zero = b.reshape(name, zero, Shape::default())?;
        product = b.binary(name, Binary::Add, product, zero)?;
    }
    let (one, shape) = (b.scalar(DType::F32, 1.0), b.shape(product));
    b.add(name, Op::Quantize(Quantization::by_tensor(8)), &[product, one], to, shape)
}

/// `round(x·(scale of x / scale) + y·(scale of y / scale) + what is left of the zero points)`, summed in
/// ONNX Runtime's order, so that ties fall where they do there.
fn sum_quantized(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, to) = (node.name(), b.dtype(node.input(0)?));
    let made = node.input(6)?;
    let wide = |b: &mut Builder, id: ValueId| b.cast(name, id, DType::F32);
    let mut fixed = match node.optional(7) {
        Some(zero) => wide(b, zero)?,
        None => b.scalar(DType::F32, 0.0),
    };
    let (mut parts, mut zeros) = (vec![], None);
    for at in [0, 3] {
        let (x, scale) = (node.input(at)?, node.input(at + 1)?);
        if b.dtype(x) != to || b.shape(scale).elements() != 1 || b.shape(made).elements() != 1 {
            return wrong("its operands differ in type, or have several scales");
        }
        let ratio = b.binary(name, Binary::Div, scale, made)?;
        let ratio = b.reshape(name, ratio, Shape::default())?;
        if let Some(zero) = node.optional(at + 2) {
            let zero = wide(b, zero)?;
            let part = b.binary(name, Binary::Mul, ratio, zero)?;
            zeros = Some(match zeros {
                Some(sum) => b.binary(name, Binary::Add, sum, part)?,
                None => part,
            });
        }
        let x = wide(b, x)?;
        parts.push(b.binary(name, Binary::Mul, x, ratio)?);
    }
    if let Some(zeros) = zeros {
        fixed = b.binary(name, Binary::Sub, fixed, zeros)?;
    }
    let fixed = b.reshape(name, fixed, Shape::default())?;
    let sum = b.binary(name, Binary::Add, parts[0], fixed)?;
    let sum = b.binary(name, Binary::Add, parts[1], sum)?;
    let (one, shape) = (b.scalar(DType::F32, 1.0), b.shape(sum));
    b.add(name, Op::Quantize(Quantization::by_tensor(8)), &[sum, one], to, shape)
}

fn one_quantized(b: &mut Builder, node: &Node, operator: &str) -> Result<ValueId, Reject> {
    let like = b.dtype(node.input(0)?);
    let x = numbers(b, node, 0)?;
    let function = match operator {
        "QLinearSigmoid" => Unary::Sigmoid,
        _ => Unary::LeakyRelu(node.float("alpha", 0.01)),
    };
    let made = b.unary(node.name(), function, x)?;
    integers(b, node, made, 3, like)
}

fn pooled(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let like = b.dtype(node.input(0)?);
    let x = numbers(b, node, 0)?;
    let rank = b.rank(x);
    if rank < 3 || b.shape(x).elements() == 0 {
        return wrong(format!("an input of shape {}", b.shape(x)));
    }
    let axes: Vec<usize> = match node.flag("channels_last") {
        true => (1..rank - 1).collect(),
        false => (2..rank).collect(),
    };
    let made = b.reduce(node.name(), Reduce::Mean, &axes, x)?;
    integers(b, node, made, 3, like)
}

/// What `make` makes of `x` with its channels behind the batch, where they are behind the image.
fn channels_first(
    b: &mut Builder,
    node: &Node,
    x: ValueId,
    make: impl FnOnce(&mut Builder, ValueId) -> Result<ValueId, Reject>,
) -> Result<ValueId, Reject> {
    let rank = b.rank(x);
    if rank < 3 {
        return wrong(format!("an input of shape {}", b.shape(x)));
    }
    let there = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    let back = std::iter::once(0).chain(2..rank).chain([1]).collect();
    let x = b.transpose(node.name(), x, there)?;
    let made = make(b, x)?;
    b.transpose(node.name(), made, back)
}

fn averages(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let like = b.dtype(node.input(0)?);
    let x = numbers(b, node, 0)?;
    let made = match node.flag("channels_last") {
        true => channels_first(b, node, x, |b, x| window::pool(b, node, x))?,
        false => window::pool(b, node, x)?,
    };
    integers(b, node, made, 3, like)
}

fn largest(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let x = node.input(0)?;
    if !matches!(b.dtype(x), DType::I8 | DType::U8) {
        return wrong(format!("its input is of type {}", b.dtype(x)));
    }
    channels_first(b, node, x, |b, x| window::pool(b, node, x))
}

/// Inputs: a condition, two tensors, each with its scale and zero point, and those of the result.
fn chosen(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let like = b.dtype(node.input(1)?);
    let (x, y) = (numbers(b, node, 1)?, numbers(b, node, 4)?);
    let made = b.choose(node.name(), node.input(0)?, x, y)?;
    integers(b, node, made, 7, like)
}

/// Inputs: scale and zero point of the result, then a part, its scale and its zero point, and so on.
fn concat(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    if node.inputs.len() < 5 || !(node.inputs.len() - 2).is_multiple_of(3) {
        return wrong(format!("{} inputs are no parts with scales and zero points", node.inputs.len()));
    }
    let like = b.dtype(node.input(2)?);
    let mut parts = vec![];
    for at in (2..node.inputs.len()).step_by(3) {
        let part = numbers(b, node, at)?;
        parts.push(integers(b, node, part, 0, like)?);
    }
    let shape = b.shape(parts[0]);
    let axis = super::attributes::axis_of(node.int("axis", 0), shape.rank())?;
    for &part in &parts {
        let other = b.shape(part);
        if other.rank() != shape.rank() || (0..shape.rank()).any(|at| at != axis && other[at] != shape[at]) {
            return wrong(format!("{other} beside {shape} along axis {axis}"));
        }
    }
    b.concat(node.name(), &parts, axis)
}

fn softmax(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, like) = (node.name(), b.dtype(node.input(0)?));
    let x = numbers(b, node, 0)?;
    let shape = b.shape(x);
    let axis = super::attributes::axis_of(node.int("axis", -1), shape.rank())?;
    // Before operator set 13 along all axes from it on.
    let end = if node.int("opset", 13) < 13 { shape.rank() } else { axis + 1 };
    let joined: Shape = [&shape[..axis], &[shape[axis..end].iter().product()], &shape[end..]].concat().into();
    let flat = b.reshape(name, x, joined.clone())?;
    let made = b.add(name, Op::Softmax { axis }, &[flat], DType::F32, joined)?;
    let made = b.reshape(name, made, shape)?;
    // So many steps of the result make one, in whole numbers, as ONNX Runtime has it.
    let scale = node.input(3)?;
    if b.shape(scale).elements() != 1 {
        return Err("several scales".into());
    }
    let (scale, one) = (b.reshape(name, scale, Shape::default())?, b.scalar(DType::F32, 1.0));
    let steps = b.binary(name, Binary::Div, one, scale)?;
    let steps = b.unary(name, Unary::Floor, steps)?;
    let made = b.binary(name, Binary::Mul, made, steps)?;
    stored(b, node, made, (one, node.optional(4)), like)
}

/// Inputs A, its scale and zero point, B, its scale and zero point, C, and scale and zero point of the
/// result: without those it is a number.
fn qgemm(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let turned = |b: &mut Builder, x: ValueId, turn: bool| match turn && b.rank(x) == 2 {
        true => b.transpose(name, x, vec![1, 0]),
        false => Ok(x),
    };
    let x = turned(b, node.input(0)?, node.flag("transA"))?;
    let y = turned(b, node.input(3)?, node.flag("transB"))?;
    let mut sum = quantized::product(b, name, [x, y], [node.optional(2), node.optional(5)])?;
    if let Some(c) = node.optional(6) {
        if b.dtype(c) != DType::I32 {
            return wrong(format!("C of {}", b.dtype(c)));
        }
        sum = b.binary(name, Binary::Add, sum, c)?;
    }
    let right = quantized::spread(b, name, node.input(4)?, 0)?;
    let left = quantized::spread(b, name, node.input(1)?, 0)?;
    let scale = b.binary(name, Binary::Mul, left, right)?;
    let scale = scaled(b, name, scale, node.float("alpha", 1.0))?;
    match (node.optional(7), node.optional(8)) {
        (Some(made), Some(zero)) => {
            let one = b.scalar(DType::F32, 1.0);
            quantized::requantized(b, name, sum, [scale, one, made], zero)
        }
        _ => finished(b, name, sum, scale, None),
    }
}

/// The extents of an attention.
#[derive(Clone, Copy)]
struct Heads {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
}

/// `[N, words, heads·width]` as `[N, heads, words, width]`.
fn by_heads(b: &mut Builder, name: &str, x: ValueId, heads: usize) -> Result<ValueId, Reject> {
    let shape = b.shape(x);
    match shape[..] {
        [n, s, columns] if heads > 0 && columns.is_multiple_of(heads) => {
            let apart = b.reshape(name, x, Shape::from([n, s, heads, columns / heads]))?;
            b.transpose(name, apart, vec![0, 2, 1, 3])
        }
        [_, own, _, _] if own == heads => Ok(x),
        _ => wrong(format!("an input of shape {shape} in {heads} heads")),
    }
}

/// What is added to scores `[N, heads, queries, keys]`, if anything: of a mask by key (1 for those that
/// count), of a causal mask, and of a bias.
fn added(
    b: &mut Builder,
    node: &Node,
    mask: Option<ValueId>,
    bias: Option<ValueId>,
    extents: Heads,
) -> Result<Vec<ValueId>, Reject> {
    let (name, low) = (node.name(), node.float("mask_filter_value", -10000.0));
    let Heads { batch, queries, keys, .. } = extents;
    let mut parts = vec![];
    if let Some(mut mask) = mask {
        if b.shape(mask)[..] == [batch] && b.dtype(mask) == DType::I32 {
            // How many keys of a sequence count.
            let places: Vec<i32> = (0..keys as i32).collect();
            let places = reef_graph::Tensor::from_slice(DType::I32, Shape::from([keys]), &places);
            let (places, ends) = (b.constant("", places), b.reshape(name, mask, Shape::from([batch, 1]))?);
            let counts = b.binary(name, Binary::Less, places, ends)?;
            mask = b.cast(name, counts, DType::I32)?;
        }
        let shape = b.shape(mask);
        let spread = match shape[..] {
            [n, k] if n == batch && k == keys => Shape::from([n, 1, 1, k]),
            [n, q, k] if n == batch && q == queries && k == keys => Shape::from([n, 1, q, k]),
            _ => return Err(Reject::Foreign(format!("a mask of shape {shape}"))),
        };
        let mask = b.reshape(name, mask, spread)?;
        let zero = b.scalar(b.dtype(mask), 0.0);
        let hidden = b.binary(name, Binary::Equal, mask, zero)?;
        let (low, none) = (b.scalar(DType::F32, low.into()), b.scalar(DType::F32, 0.0));
        parts.push(b.choose(name, hidden, low, none)?);
    }
    if node.flag("unidirectional") {
        let past = keys - queries;
        let values = (0..queries * keys).map(|at| if at % keys > at / keys + past { low } else { 0.0 });
        let values: Vec<f32> = values.collect();
        parts.push(b.constant("", reef_graph::Tensor::f32([1, 1, queries, keys], &values)));
    }
    if let Some(bias) = bias {
        parts.push(b.computable(name, bias)?.0);
    }
    Ok(parts)
}

/// Products with a softmax between them; q, k and v are `[N, heads, words, width]`. The result is
/// `[N, queries, heads·width]`.
fn attention(
    b: &mut Builder,
    node: &Node,
    [q, k, v]: [ValueId; 3],
    added: Vec<ValueId>,
    extents: Heads,
) -> Result<ValueId, Reject> {
    let name = node.name();
    let width = b.shape(q)[3];
    let scale = match node.float("scale", 0.0) {
        0.0 => 1.0 / (width as f32).sqrt(),
        scale => scale,
    };
    let scores = b.matmul(name, (q, false), (k, true))?;
    let mut scores = scaled(b, name, scores, scale)?;
    let mut sum: Option<ValueId> = None;
    for part in added {
        sum = Some(match sum {
            Some(sum) => b.binary(name, Binary::Add, sum, part)?,
            None => part,
        });
    }
    if let Some(sum) = sum {
        scores = b.binary(name, Binary::Add, scores, sum)?;
    }
    let shape = b.shape(scores);
    let weights = b.add(name, Op::Softmax { axis: 3 }, &[scores], DType::F32, shape)?;
    let made = b.matmul(name, (weights, false), (v, false))?;
    let columns = b.shape(v)[3] * extents.heads;
    let made = b.transpose(name, made, vec![0, 2, 1, 3])?;
    b.reshape(name, made, Shape::from([extents.batch, extents.queries, columns]))
}

/// Queries, keys and values from one product: inputs x, weights, bias, mask, past, added scores. Outputs: the
/// result, and keys and values with those of the past.
fn packed_attention(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let name = node.name();
    if node.flag("do_rotary") || node.flag("past_present_share_buffer") || node.optional(6).is_some() {
        return wrong("rotations and shared buffers are not supported");
    }
    let (x, back) = b.computable(name, node.input(0)?)?;
    let (weights, _) = b.computable(name, node.input(1)?)?;
    let mut sums = b.matmul(name, (x, false), (weights, false))?;
    if let Some(bias) = node.optional(2) {
        let (bias, _) = b.computable(name, bias)?;
        sums = b.binary(name, Binary::Add, sums, bias)?;
    }
    let others = [node.optional(3), node.optional(4), node.optional(5)];
    attention_of_sums(b, node, sums, others, back)
}

/// The same with a product of integers: inputs x, weights, bias, scales of both, mask, zero points of both,
/// past.
fn quantized_attention(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let name = node.name();
    let factors = [node.input(0)?, node.input(1)?];
    let sum = quantized::product(b, name, factors, [node.optional(6), node.optional(7)])?;
    let (left, back) = b.computable(name, node.input(3)?)?;
    let (right, _) = b.computable(name, node.input(4)?)?;
    let (bias, _) = b.computable(name, node.input(2)?)?;
    let left = quantized::spread(b, name, left, 1)?;
    let right = quantized::spread(b, name, right, 0)?;
    let scale = b.binary(name, Binary::Mul, left, right)?;
    let sums = finished(b, name, sum, scale, Some(bias))?;
    attention_of_sums(b, node, sums, [node.optional(5), node.optional(8), None], back)
}

/// Attention of queries, keys and values side by side `[N, words, columns]`, with a mask, a past and added
/// scores.
fn attention_of_sums(
    b: &mut Builder,
    node: &Node,
    sums: ValueId,
    [mask, past, bias]: [Option<ValueId>; 3],
    back: DType,
) -> Result<Vec<ValueId>, Reject> {
    let (name, heads) = (node.name(), usize::try_from(node.int("num_heads", 0)).unwrap_or(0));
    let columns = b.shape(sums).last().copied().unwrap_or(0);
    let sizes: Vec<usize> = match node.ints("qkv_hidden_sizes") {
        Some(sizes) if !sizes.is_empty() => sizes.iter().map(|&size| size.max(0) as usize).collect(),
        _ => vec![columns / 3; 3],
    };
    if b.rank(sums) != 3 || sizes.len() != 3 || sizes.iter().sum::<usize>() != columns {
        return wrong(format!("{columns} columns for queries, keys and values of {sizes:?}"));
    }
    let mut begin = 0;
    let mut parts = vec![];
    for size in sizes {
        let part = b.slice(name, sums, 2, begin..begin + size)?;
        parts.push(by_heads(b, name, part, heads)?);
        begin += size;
    }
    let [q, mut k, mut v] = parts[..] else { unreachable!("there are three") };
    if let Some(past) = past {
        let (past, _) = b.computable(name, past)?;
        let shape = b.shape(past);
        let [2, n, h, s, d] = shape[..] else { return wrong(format!("a past of shape {shape}")) };
        let one = |b: &mut Builder, at: usize| {
            let one = b.slice(name, past, 0, at..at + 1)?;
            b.reshape(name, one, Shape::from([n, h, s, d]))
        };
        let (old_k, old_v) = (one(b, 0)?, one(b, 1)?);
        (k, v) = (b.concat(name, &[old_k, k], 2)?, b.concat(name, &[old_v, v], 2)?);
    }
    let [batch, _, queries, _] = b.shape(q)[..] else { unreachable!("it was just made so") };
    let extents = Heads { batch, heads, queries, keys: b.shape(k)[2] };
    let parts = added(b, node, mask, bias, extents)?;
    let made = attention(b, node, [q, k, v], parts, extents)?;
    let mut outputs = vec![b.cast(name, made, back)?];
    if node.has_output(1) {
        let one = |b: &mut Builder, x: ValueId| {
            let shape: Shape = [1].into_iter().chain(b.shape(x).iter().copied()).collect();
            b.reshape(name, x, shape)
        };
        let (k, v) = (one(b, k)?, one(b, v)?);
        let present = b.concat(name, &[k, v], 0)?;
        outputs.push(b.cast(name, present, back)?);
    }
    Ok(outputs)
}

/// Inputs: queries, keys, values, bias of all three, mask of keys, added scores, past keys, past values.
/// Outputs: the result, and keys and values with those of the past.
fn attention_of_heads(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let name = node.name();
    let heads = usize::try_from(node.int("num_heads", 0)).unwrap_or(0);
    let (q, back) = b.computable(name, node.input(0)?)?;
    let (Some(k), Some(v)) = (node.optional(1), node.optional(2)) else {
        return Err("keys and values packed with queries".into());
    };
    if b.rank(q) != 3 {
        return Err(Reject::Foreign(format!("queries of shape {}", b.shape(q))));
    }
    let mut parts = vec![q, b.computable(name, k)?.0, b.computable(name, v)?.0];
    if let Some(bias) = node.optional(3) {
        let (bias, _) = b.computable(name, bias)?;
        let mut begin = 0;
        for part in &mut parts {
            let [_, _, columns] = b.shape(*part)[..] else {
                return Err("a bias beside keys by head".into());
            };
            if begin + columns > b.shape(bias).elements() {
                return wrong(format!("a bias of shape {}", b.shape(bias)));
            }
            let own = b.slice(name, bias, 0, begin..begin + columns)?;
            *part = b.binary(name, Binary::Add, *part, own)?;
            begin += columns;
        }
    }
    let mut split = vec![];
    for part in parts {
        split.push(by_heads(b, name, part, heads)?);
    }
    let [q, mut k, mut v] = split[..] else { unreachable!("there are three") };
    if let (Some(old_k), Some(old_v)) = (node.optional(6), node.optional(7)) {
        let (old_k, old_v) = (b.computable(name, old_k)?.0, b.computable(name, old_v)?.0);
        (k, v) = (b.concat(name, &[old_k, k], 2)?, b.concat(name, &[old_v, v], 2)?);
    }
    let [batch, _, queries, _] = b.shape(q)[..] else { unreachable!("it was just made so") };
    let extents = Heads { batch, heads, queries, keys: b.shape(k)[2] };
    let parts = added(b, node, node.optional(4), node.optional(5), extents)?;
    let made = attention(b, node, [q, k, v], parts, extents)?;
    Ok(vec![b.cast(name, made, back)?, b.cast(name, k, back)?, b.cast(name, v, back)?])
}
