//! Bits as another type, and the operators that `crate::narrow` writes of those with element types that
//! graphs do not have.

use reef_graph::{Binary, DType, Encoding, Op, Quantization, Rounding, Shape, SmallFloat, Unary, ValueId};

use super::attributes::Node;
use super::quantized::granularity;
use super::{Builder, Reading, Reject, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let made = match node.operator() {
        "BitCast" => bit_cast(b, node),
        "reef.Encode" => encode(b, node),
        "reef.Decode" => node.input(0).and_then(|x| decoded(b, node, x)),
        "reef.Wrap" => wrap(b, node),
        "reef.QuantizeFloat" => quantize(b, node),
        "reef.DequantizeFloat" => dequantize(b, node),
        _ => return None,
    };
    Some(made.map(|value| vec![value]))
}

fn bit_cast(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let (from, code) = (b.dtype(x), node.int("to", 0));
    let Some(to) = crate::proto::dtype_of_code(code) else {
        return wrong(format!("bits as elements of type {code}"));
    };
    if from.bytes() != to.bytes() {
        return wrong(format!("the bits of {from} as {to}"));
    }
    // A boolean has no other bits than those of 0 and 1.
    if from == to || to == DType::Bool {
        return b.cast(name, x, to);
    }
    let shape = b.shape(x);
    b.add(name, Op::BitCast { to }, &[x], to, shape)
}

fn format(node: &Node) -> SmallFloat {
    SmallFloat::ALL[node.int("format", 0) as usize]
}

fn encoded(b: &mut Builder, node: &Node, x: ValueId) -> Result<ValueId, Reject> {
    let rounding = [Rounding::Up, Rounding::Down, Rounding::Nearest][node.int("rounding", 0) as usize];
    let encoding = Encoding { format: format(node), saturate: node.int("saturate", 1) != 0, rounding };
    let code = b.unary(node.name(), Unary::Encode(encoding), x)?;
    b.cast(node.name(), code, DType::U8)
}

fn decoded(b: &mut Builder, node: &Node, codes: ValueId) -> Result<ValueId, Reject> {
    let codes = b.cast(node.name(), codes, DType::F32)?;
    b.unary(node.name(), Unary::Decode(format(node)), codes)
}

fn encode(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (x, _) = b.computable(node.name(), node.input(0)?)?;
    encoded(b, node, x)
}

/// The lowest bits of bytes, as integers of so many.
fn wrap(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let (dtype, range) = (b.dtype(x), f64::from(1 << node.int("bits", 8)));
    let below = if dtype == DType::I8 { range / 2.0 } else { 0.0 };
    let [range, below] = [range, below].map(|value| b.scalar(DType::F32, value));
    // In floats: all of it is exact.
    let x = b.cast(name, x, DType::F32)?;
    let lifted = b.binary(name, Binary::Add, x, below)?;
    let rounds = b.binary(name, Binary::Div, lifted, range)?;
    let rounds = b.unary(name, Unary::Floor, rounds)?;
    let beyond = b.binary(name, Binary::Mul, rounds, range)?;
    let rest = b.binary(name, Binary::Sub, x, beyond)?;
    b.cast(name, rest, dtype)
}

/// Scales or zero points, one for every element of `x` or broadcast to it.
fn spread(
    b: &mut Builder,
    name: &str,
    by: Quantization,
    values: ValueId,
    x: &Shape,
) -> Result<ValueId, Reject> {
    let shape = b.shape(values);
    if shape.elements() == 1 && by.block == 0 {
        return b.reshape(name, values, Shape::default());
    }
    if by.axis >= x.rank() || shape != by.scales(x) {
        let Quantization { axis, block, .. } = by;
        return wrong(format!("scales {shape} for {x} by axis {axis}, blocks of {block}"));
    }
    if by.block == 0 {
        let mut dims = vec![1; x.rank()];
        dims[by.axis] = x[by.axis];
        return b.reshape(name, values, dims.into());
    }
    let (mut apart, mut joined) = (shape.to_vec(), shape.to_vec());
    apart.insert(by.axis + 1, 1);
    let values = b.reshape(name, values, apart.clone().into())?;
    apart[by.axis + 1] = by.block;
    joined[by.axis] *= by.block;
    let values = b.expand(name, values, apart.into())?;
    let values = b.reshape(name, values, joined.into())?;
    b.slice(name, values, by.axis, 0..x[by.axis])
}

fn quantize(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, scale) = (node.name(), node.input(1)?);
    let x = b.cast(name, node.input(0)?, DType::F32)?;
    let (shape, by) = (b.shape(x), granularity(b, node, x, scale)?);
    let (scale, _) = b.computable(name, scale)?;
    let scale = spread(b, name, by, scale, &shape)?;
    let mut made = b.binary(name, Binary::Div, x, scale)?;
    if let Some(zero) = node.optional(2) {
        let zero = decoded(b, node, zero)?;
        let zero = spread(b, name, by, zero, &shape)?;
        made = b.binary(name, Binary::Add, made, zero)?;
    }
    encoded(b, node, made)
}

fn dequantize(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, codes, scale) = (node.name(), node.input(0)?, node.input(1)?);
    let to = match node.int("output_dtype", 0) {
        0 => b.dtype(scale),
        code => match crate::proto::dtype_of_code(code) {
            Some(to @ (DType::F32 | DType::F16 | DType::BF16)) => to,
            _ => return wrong(format!("numbers of type {code}")),
        },
    };
    let (shape, by) = (b.shape(codes), granularity(b, node, codes, scale)?);
    let (scale, _) = b.computable(name, scale)?;
    let scale = spread(b, name, by, scale, &shape)?;
    let mut x = decoded(b, node, codes)?;
    if let Some(zero) = node.optional(2) {
        let zero = decoded(b, node, zero)?;
        let zero = spread(b, name, by, zero, &shape)?;
        x = b.binary(name, Binary::Sub, x, zero)?;
    }
    let made = b.binary(name, Binary::Mul, x, scale)?;
    b.cast(name, made, to)
}
