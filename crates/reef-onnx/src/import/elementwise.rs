//! Functions of the elements at one position.
//!
//! Half precision is computed in single precision and rounded once, however many operators a function
//! becomes. Small integers are computed in larger ones, which wraps to the same.

use reef_graph::{Binary, DType, Op, Unary, ValueId};

use super::attributes::Node;
use super::{Builder, Reading, Reject, wrong};
use crate::proto;

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let made = match node.operator() {
        "Identity" => node.input(0),
        "Dropout" => return Some(dropout(b, node)),
        "Cast" | "CastLike" => cast(b, node),
        "Where" => choice(b, node),
        "Clip" => clip(b, node),
        "Not" => not(b, node),
        "Sum" | "Max" | "Min" | "Mean" => several(b, node),
        "Neg" | "Abs" | "Sign" | "Relu" => signed(b, node),
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "Add" | "Sub" | "Mul" | "Div" => {
            two(b, node)
        }
        "And" | "Or" | "Xor" => logical(b, node),
        "Pow" => power(b, node),
        "Mod" => modulo(b, node),
        "PRelu" => sloped(b, node),
        "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "BitwiseNot" | "BitShift" => bitwise(b, node),
        "SwiGLU" => gated(b, node),
        "IsNaN" | "IsInf" => test(b, node),
        _ => match float(node) {
            Some(function) => floats(b, node, function),
            None => return None,
        },
    };
    Some(made.map(|value| vec![value]))
}

/// A function of floating-point numbers.
#[derive(Clone, Copy)]
enum Float {
    One(Unary),
    Mish,
    Softsign,
    Selu { alpha: f32, gamma: f32 },
    Celu { alpha: f32 },
    Swish { alpha: f32 },
    Thresholded { alpha: f32 },
    Shrink { bias: f32, lambd: f32 },
}

fn float(node: &Node) -> Option<Float> {
    Some(Float::One(match node.operator() {
        "Exp" => Unary::Exp,
        "Log" => Unary::Log,
        "Sqrt" => Unary::Sqrt,
        "Reciprocal" => Unary::Recip,
        "Ceil" => Unary::Ceil,
        "Floor" => Unary::Floor,
        "Round" => Unary::Round,
        "Cos" => Unary::Cos,
        "Sin" => Unary::Sin,
        "Tan" => Unary::Tan,
        "Asin" => Unary::Asin,
        "Acos" => Unary::Acos,
        "Atan" => Unary::Atan,
        "Sinh" => Unary::Sinh,
        "Cosh" => Unary::Cosh,
        "Asinh" => Unary::Asinh,
        "Acosh" => Unary::Acosh,
        "Atanh" => Unary::Atanh,
        "Tanh" => Unary::Tanh,
        "Erf" => Unary::Erf,
        "Sigmoid" => Unary::Sigmoid,
        "HardSwish" => Unary::HardSwish,
        "Softplus" => Unary::Softplus,
        "Gelu" if node.text("approximate") == Some("tanh") => Unary::GeluTanh,
        "Gelu" => Unary::Gelu,
        "LeakyRelu" => Unary::LeakyRelu(node.float("alpha", 0.01)),
        "Elu" => Unary::Elu(node.float("alpha", 1.0)),
        "HardSigmoid" => Unary::HardSigmoid(node.float("alpha", 0.2), node.float("beta", 0.5)),
        "Mish" => return Some(Float::Mish),
        "Softsign" => return Some(Float::Softsign),
        "Celu" => return Some(Float::Celu { alpha: node.float("alpha", 1.0) }),
        "Swish" => return Some(Float::Swish { alpha: node.float("alpha", 1.0) }),
        "ThresholdedRelu" => return Some(Float::Thresholded { alpha: node.float("alpha", 1.0) }),
        "Selu" => {
            let (alpha, gamma) = (node.float("alpha", 1.673_263_2), node.float("gamma", 1.050_701));
            return Some(Float::Selu { alpha, gamma });
        }
        "Shrink" => {
            return Some(Float::Shrink { bias: node.float("bias", 0.0), lambd: node.float("lambd", 0.5) });
        }
        _ => return None,
    }))
}

fn floats(b: &mut Builder, node: &Node, function: Float) -> Result<ValueId, Reject> {
    let name = node.name();
    let x = node.input(0)?;
    let (x, back) = match b.dtype(x) {
        // Of integers this one is, too; the result is truncated.
        whole if node.operator() == "Shrink" && !whole.is_float() => {
            no_booleans(node, whole)?;
            (b.cast(name, x, DType::F64)?, whole)
        }
        _ => b.floating(name, x)?,
    };
    let dtype = b.dtype(x);
    let number = |b: &mut Builder, value: f32| b.scalar(dtype, value.into());
    let made = match function {
        Float::One(op) => b.unary(name, op, x)?,
        Float::Mish => {
            let soft = b.unary(name, Unary::Softplus, x)?;
            let bent = b.unary(name, Unary::Tanh, soft)?;
            b.binary(name, Binary::Mul, x, bent)?
        }
        Float::Softsign => {
            let (size, one) = (b.unary(name, Unary::Abs, x)?, number(b, 1.0));
            let sum = b.binary(name, Binary::Add, size, one)?;
            b.binary(name, Binary::Div, x, sum)?
        }
        Float::Selu { alpha, gamma } => {
            let (bent, gamma) = (b.unary(name, Unary::Elu(alpha), x)?, number(b, gamma));
            b.binary(name, Binary::Mul, bent, gamma)?
        }
        Float::Celu { alpha: 1.0 } => b.unary(name, Unary::Elu(1.0), x)?,
        Float::Celu { alpha } => {
            let (alpha, zero) = (number(b, alpha), number(b, 0.0));
            let ratio = b.binary(name, Binary::Div, x, alpha)?;
            let bent = b.unary(name, Unary::Elu(1.0), ratio)?;
            let scaled = b.binary(name, Binary::Mul, bent, alpha)?;
            let below = b.binary(name, Binary::Less, x, zero)?;
            b.choose(name, below, scaled, x)?
        }
        Float::Swish { alpha } => swish(b, name, x, alpha)?,
        Float::Thresholded { alpha } => {
            let (alpha, zero) = (number(b, alpha), number(b, 0.0));
            let above = b.binary(name, Binary::Greater, x, alpha)?;
            b.choose(name, above, x, zero)?
        }
        Float::Shrink { bias, lambd } => {
            let (bias, zero) = (number(b, bias), number(b, 0.0));
            let (low, high) = (number(b, -lambd), number(b, lambd));
            let (under, over) =
                (b.binary(name, Binary::Less, x, low)?, b.binary(name, Binary::Greater, x, high)?);
            let (more, less) = (b.binary(name, Binary::Add, x, bias)?, b.binary(name, Binary::Sub, x, bias)?);
            let rest = b.choose(name, over, less, zero)?;
            b.choose(name, under, more, rest)?
        }
    };
    b.cast(name, made, back)
}

/// `x` where it is not negative, else `x` times its slope.
fn sloped(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let (operands, back) = widened(b, name, &[node.input(0)?, node.input(1)?])?;
    no_booleans(node, back)?;
    let (x, slope) = (operands[0], operands[1]);
    let zero = b.scalar(b.dtype(x), 0.0);
    let below = b.binary(name, Binary::Less, x, zero)?;
    let steep = b.binary(name, Binary::Mul, x, slope)?;
    let made = b.choose(name, below, steep, x)?;
    b.cast(name, made, back)
}

/// `Swish(a)·b`, of operands of one shape.
fn gated(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x, y) = (node.name(), node.input(0)?, node.input(1)?);
    if b.shape(x) != b.shape(y) || b.dtype(x) != b.dtype(y) {
        let [x, y] = [x, y].map(|id| format!("{}{}", b.dtype(id), b.shape(id)));
        return wrong(format!("operands {x} and {y}"));
    }
    let (x, back) = b.floating(name, x)?;
    let (y, _) = b.floating(name, y)?;
    let swish = swish(b, name, x, node.float("alpha", 1.0))?;
    let made = b.binary(name, Binary::Mul, swish, y)?;
    b.cast(name, made, back)
}

/// `x · sigmoid(alpha·x)`.
fn swish(b: &mut Builder, name: &str, x: ValueId, alpha: f32) -> Result<ValueId, Reject> {
    if alpha == 1.0 {
        return b.unary(name, Unary::Silu, x);
    }
    let alpha = b.scalar(b.dtype(x), alpha.into());
    let scaled = b.binary(name, Binary::Mul, x, alpha)?;
    let gate = b.unary(name, Unary::Sigmoid, scaled)?;
    b.binary(name, Binary::Mul, x, gate)
}

/// In which type a type is computed, so that a conversion back gives what the type itself would.
fn wide(dtype: DType) -> DType {
    match dtype {
        DType::F32 | DType::F64 | DType::I64 | DType::U64 | DType::I32 | DType::Bool => dtype,
        DType::F16 | DType::BF16 => DType::F32,
        DType::U8 | DType::I8 | DType::U16 | DType::I16 => DType::I32,
        DType::U32 => DType::I64,
    }
}

/// Operands of one type in the type that they are computed in, and their own.
pub(super) fn widened(
    b: &mut Builder,
    name: &str,
    operands: &[ValueId],
) -> Result<(Vec<ValueId>, DType), Reject> {
    let dtype = b.dtype(operands[0]);
    if let Some(&other) = operands.iter().find(|&&operand| b.dtype(operand) != dtype) {
        return wrong(format!("operands of {dtype} and {}", b.dtype(other)));
    }
    let wide = wide(dtype);
    let operands = operands.iter().map(|&operand| b.cast(name, operand, wide));
    Ok((operands.collect::<Result<_, _>>()?, dtype))
}

pub(super) fn no_booleans(node: &Node, dtype: DType) -> Result<(), Reject> {
    match dtype {
        DType::Bool => wrong(format!("{} of booleans", node.operator())),
        _ => Ok(()),
    }
}

fn two(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let op = match node.operator() {
        "Add" => Binary::Add,
        "Sub" => Binary::Sub,
        "Mul" => Binary::Mul,
        "Div" => Binary::Div,
        "Equal" => Binary::Equal,
        "Less" => Binary::Less,
        "LessOrEqual" => Binary::LessEqual,
        "Greater" => Binary::Greater,
        _ => Binary::GreaterEqual,
    };
    let (operands, dtype) = widened(b, name, &[node.input(0)?, node.input(1)?])?;
    if op != Binary::Equal {
        no_booleans(node, dtype)?;
    }
    if op == Binary::Div {
        refuse_zero(b, dtype, operands[1])?;
    }
    let made = b.binary(name, op, operands[0], operands[1])?;
    if op.is_comparison() { Ok(made) } else { b.cast(name, made, dtype) }
}

fn logical(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let op = match node.operator() {
        "And" => Binary::And,
        "Or" => Binary::Or,
        _ => Binary::Xor,
    };
    let (x, y) = (node.input(0)?, node.input(1)?);
    for operand in [x, y] {
        if b.dtype(operand) != DType::Bool {
            return wrong(format!("{} of {}", node.operator(), b.dtype(operand)));
        }
    }
    b.binary(node.name(), op, x, y)
}

fn not(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let x = node.input(0)?;
    match b.dtype(x) {
        DType::Bool => b.unary(node.name(), Unary::Not, x),
        dtype => wrong(format!("logical negation of {dtype}")),
    }
}

fn several(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, all) = (node.name(), node.all()?);
    if all.is_empty() {
        return wrong("it has no input");
    }
    let (operands, dtype) = widened(b, name, &all)?;
    no_booleans(node, dtype)?;
    let op = match node.operator() {
        "Max" => Binary::Max,
        "Min" => Binary::Min,
        _ => Binary::Add,
    };
    let mut made = operands[0];
    for &operand in &operands[1..] {
        made = b.binary(name, op, made, operand)?;
    }
    if node.operator() == "Mean" {
        if !dtype.is_float() {
            return wrong(format!("the mean of {dtype}"));
        }
        let count = b.scalar(b.dtype(made), operands.len() as f64);
        made = b.binary(name, Binary::Div, made, count)?;
    }
    b.cast(name, made, dtype)
}

/// Functions of floating-point numbers and integers.
fn signed(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    if b.dtype(x).is_float() {
        let (x, back) = b.floating(name, x)?;
        let made = b.unary(
            name,
            match node.operator() {
                "Neg" => Unary::Neg,
                "Abs" => Unary::Abs,
                "Sign" => Unary::Sign,
                _ => Unary::Relu,
            },
            x,
        )?;
        return b.cast(name, made, back);
    }
    let (operands, dtype) = widened(b, name, &[x])?;
    no_booleans(node, dtype)?;
    let (x, zero) = (operands[0], b.scalar(wide(dtype), 0.0));
    let made = match node.operator() {
        "Abs" | "Relu" if dtype == DType::U64 => return Ok(x),
        "Sign" if dtype == DType::U64 => {
            let one = b.scalar(dtype, 1.0);
            b.binary(name, Binary::Min, x, one)?
        }
        "Neg" => b.binary(name, Binary::Sub, zero, x)?,
        "Abs" => {
            let other = b.binary(name, Binary::Sub, zero, x)?;
            b.binary(name, Binary::Max, x, other)?
        }
        "Sign" => {
            let one = b.scalar(wide(dtype), 1.0);
            let minus = b.scalar(wide(dtype), -1.0);
            let above = b.binary(name, Binary::Min, x, one)?;
            b.binary(name, Binary::Max, above, minus)?
        }
        _ => b.binary(name, Binary::Max, x, zero)?,
    };
    b.cast(name, made, dtype)
}

/// In the type of the base. Integers to the power of integers wrap; of other types, what goes into it is made
/// a double, and what comes out is truncated.
fn power(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let (x, exponent) = (node.input(0)?, node.input(1)?);
    let (base, other) = (b.dtype(x), b.dtype(exponent));
    no_booleans(node, base)?;
    no_booleans(node, other)?;
    let computed = match (base.is_float(), other.is_float()) {
        (false, false) => DType::I64,
        (false, true) => DType::F64,
        (true, _) if base == DType::F64 || other == DType::F64 => DType::F64,
        (true, _) => DType::F32,
    };
    let (x, exponent) = (b.cast(name, x, computed)?, b.cast(name, exponent, computed)?);
    let made = b.binary(name, Binary::Pow, x, exponent)?;
    b.cast(name, made, base)
}

/// What a division leaves: with the sign of the divisor, or with `fmod` of the dividend.
fn modulo(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let (operands, dtype) = widened(b, name, &[node.input(0)?, node.input(1)?])?;
    no_booleans(node, dtype)?;
    let op = if node.flag("fmod") { Binary::Rem } else { Binary::Mod };
    refuse_zero(b, dtype, operands[1])?;
    let made = b.binary(name, op, operands[0], operands[1])?;
    b.cast(name, made, dtype)
}

/// A constant divisor of integers that is 0 somewhere.
fn refuse_zero(b: &Builder, dtype: DType, divisor: ValueId) -> Result<(), Reject> {
    let zero = b.known(divisor).and_then(crate::consts::whole_numbers).is_some_and(|all| all.contains(&0));
    match zero && !dtype.is_float() {
        true => wrong("an integer is divided by 0; every element of the divisor must be another number"),
        false => Ok(()),
    }
}

fn bitwise(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let dtype = b.dtype(x);
    if dtype.is_float() || dtype == DType::Bool {
        return wrong(format!("{} of {dtype}", node.operator()));
    }
    let op = match node.operator() {
        "BitwiseNot" => return b.unary(name, Unary::BitNot, x),
        "BitwiseAnd" => Binary::BitAnd,
        "BitwiseOr" => Binary::BitOr,
        "BitwiseXor" => Binary::BitXor,
        _ if node.text("direction") == Some("RIGHT") => Binary::ShiftRight,
        _ => Binary::ShiftLeft,
    };
    let y = node.input(1)?;
    if b.dtype(y) != dtype {
        return wrong(format!("operands of {dtype} and {}", b.dtype(y)));
    }
    match dtype {
        DType::I8 | DType::I16 | DType::I32 | DType::I64
            if matches!(op, Binary::ShiftLeft | Binary::ShiftRight) =>
        {
            signed_shift(b, name, op, [x, y])
        }
        _ => b.binary(name, op, x, y),
    }
}

/// Bits of integers with a sign, which moves down and stays. A negative count is more than there are bits.
fn signed_shift(b: &mut Builder, name: &str, op: Binary, [x, by]: [ValueId; 2]) -> Result<ValueId, Reject> {
    let dtype = b.dtype(x);
    let by = b.cast(name, by, DType::U64)?;
    let moved = |b: &mut Builder, x: ValueId| {
        let bits = b.cast(name, x, DType::U64)?;
        let made = b.binary(name, op, bits, by)?;
        b.cast(name, made, dtype)
    };
    let plain = moved(b, x)?;
    if op == Binary::ShiftLeft {
        return Ok(plain);
    }
    let turned = b.unary(name, Unary::BitNot, x)?;
    let turned = moved(b, turned)?;
    let turned = b.unary(name, Unary::BitNot, turned)?;
    let zero = b.scalar(dtype, 0.0);
    let negative = b.binary(name, Binary::Less, x, zero)?;
    b.choose(name, negative, turned, plain)
}

fn test(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let (x, _) = b.floating(name, node.input(0)?)?;
    if node.operator() == "IsNaN" {
        let same = b.binary(name, Binary::Equal, x, x)?;
        return b.unary(name, Unary::Not, same);
    }
    let mut made = None;
    for (attribute, value) in [("detect_positive", f64::INFINITY), ("detect_negative", f64::NEG_INFINITY)] {
        if node.int(attribute, 1) == 0 {
            continue;
        }
        let infinite = b.scalar(b.dtype(x), value);
        let found = b.binary(name, Binary::Equal, x, infinite)?;
        made = Some(match made {
            Some(other) => b.binary(name, Binary::Or, other, found)?,
            None => found,
        });
    }
    match made {
        Some(made) => Ok(made),
        None => {
            let shape = b.shape(x);
            b.zeros(DType::Bool, shape)
        }
    }
}

fn choice(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (condition, x, y) = (node.input(0)?, node.input(1)?, node.input(2)?);
    if b.dtype(condition) != DType::Bool {
        return wrong(format!("a condition of {}", b.dtype(condition)));
    }
    match (b.dtype(x), b.dtype(y)) {
        (a, other) if a != other => wrong(format!("operands of {a} and {other}")),
        _ => b.choose(node.name(), condition, x, y),
    }
}

fn clip(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let (low, high) = if node.opset < 11 {
        let dtype = b.dtype(x);
        let bound =
            |b: &mut Builder, name: &str| node.attribute(name).map(|bound| b.scalar(dtype, bound.f.into()));
        (bound(b, "min"), bound(b, "max"))
    } else {
        (node.optional(1), node.optional(2))
    };
    let given: Vec<ValueId> = [Some(x), low, high].into_iter().flatten().collect();
    let (operands, dtype) = widened(b, name, &given)?;
    no_booleans(node, dtype)?;
    for &bound in &operands[1..] {
        if b.shape(bound).elements() != 1 || b.rank(bound) > 1 {
            return wrong(format!("a bound of shape {}", b.shape(bound)));
        }
    }
    let scalar = |b: &mut Builder, id| b.reshape(name, id, reef_graph::Shape::default());
    let mut made = operands[0];
    let mut next = 1;
    for (bound, op) in [(low, Binary::Max), (high, Binary::Min)] {
        if bound.is_some() {
            let bound = scalar(b, operands[next])?;
            made = b.binary(name, op, made, bound)?;
            next += 1;
        }
    }
    b.cast(name, made, dtype)
}

fn cast(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let x = node.input(0)?;
    let to = match node.operator() {
        "Cast" => match proto::dtype_of_code(node.int("to", 0)) {
            Some(to) => to,
            None => return Err(Reject::Foreign(format!("conversion to type {}", node.int("to", 0)))),
        },
        _ => b.dtype(node.input(1)?),
    };
    b.cast(node.name(), x, to)
}

/// In inference: the input, and a mask that keeps everything.
fn dropout(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let x = node.input(0)?;
    if node.opset >= 12
        && let Some(training) = node.optional(2)
    {
        let Some(training) = b.known(training) else {
            return wrong("whether it trains is computed, and only inference is supported");
        };
        let trains = crate::consts::whole_numbers(training).is_some_and(|flags| flags.contains(&1));
        let ratio = node.optional(1).map(|ratio| b.floats(ratio, "ratio")).transpose()?;
        if trains && ratio.is_none_or(|ratio| ratio.iter().any(|&ratio| ratio != 0.0)) {
            return wrong("input training_mode is true, and only inference is supported");
        }
    }
    let mut made = vec![x];
    if node.has_output(1) {
        let dtype = if node.opset < 10 { b.dtype(x) } else { DType::Bool };
        let (one, shape) = (b.scalar(dtype, 1.0), b.shape(x));
        made.push(b.add(node.name(), Op::Expand, &[one], dtype, shape)?);
    }
    Ok(made)
}
