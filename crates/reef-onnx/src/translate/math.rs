//! Element-wise operators.

use reef_graph::{Binary, DType, Op, Shape, Unary, ValueId};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cast::Cast;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::logic::Iff;
use tract_onnx::tract_core::ops::math::PowConst;
use tract_onnx::tract_core::ops::nn::{GeluApproximate, LeakyRelu};

use super::{Reject, computable};
use crate::build;
use crate::consts::{dtype_of, integers};
use crate::walk::Walk;

pub(super) fn binary(walk: &mut Walk, node: &TypedNode, op: &TypedBinOp) -> Result<ValueId, Reject> {
    let (mut a, mut b) = (walk.value(node.inputs[0])?, walk.value(node.inputs[1])?);
    let operator = match op.0.name() {
        "Add" => Binary::Add,
        "Sub" => Binary::Sub,
        "SubF" => {
            std::mem::swap(&mut a, &mut b);
            Binary::Sub
        }
        "Mul" => Binary::Mul,
        "Div" => Binary::Div,
        "Max" => Binary::Max,
        "Min" => Binary::Min,
        "Pow" => Binary::Pow,
        "And" => Binary::And,
        "Or" => Binary::Or,
        "Xor" => Binary::Xor,
        "Eq" => Binary::Equal,
        "LT" => Binary::Less,
        "LTE" => Binary::LessEqual,
        "GT" => Binary::Greater,
        "GTE" => Binary::GreaterEqual,
        "NE" => {
            let equal = binary_of(walk, &node.name, Binary::Equal, a, b)?;
            return Ok(build::unary(&mut walk.graph, &node.name, Unary::Not, equal));
        }
        other => return Err(format!("no native form of {other}")),
    };
    binary_of(walk, &node.name, operator, a, b)
}

fn binary_of(walk: &mut Walk, name: &str, op: Binary, a: ValueId, b: ValueId) -> Result<ValueId, Reject> {
    let graph = &mut walk.graph;
    let (left, right) = (graph.value(a).dtype, graph.value(b).dtype);
    let mismatch = || format!("operands of {left} and {right}");
    if left != right {
        return Err(mismatch());
    }
    // What the compiler has no instruction for stays on the host.
    if (op == Binary::Pow && !left.is_float())
        || (matches!(op, Binary::And | Binary::Or | Binary::Xor) && left.is_float())
    {
        return Err(mismatch());
    }
    let zero = |divisor: &[i64]| divisor.contains(&0);
    if op == Binary::Div && graph.constant(b).and_then(integers).as_deref().is_some_and(zero) {
        return Err("an integer is divided by 0".into());
    }
    let made = match left {
        DType::F32 | DType::I64 | DType::I32 | DType::Bool => build::binary(graph, name, op, a, b),
        DType::F16 | DType::BF16 => {
            let (a, _) = computable(graph, name, a)?;
            let (b, _) = computable(graph, name, b)?;
            let made = build::binary(graph, name, op, a, b);
            let back = if op.is_comparison() { DType::Bool } else { left };
            made.map(|value| build::cast(graph, name, value, back))
        }
        _ => return Err(mismatch()),
    };
    made.ok_or_else(|| "shapes do not broadcast".to_owned())
}

pub(super) fn unary(walk: &mut Walk, node: &TypedNode, op: &ElementWiseOp) -> Result<ValueId, Reject> {
    let x = walk.value(node.inputs[0])?;
    let name = op.0.name();
    let operator = match name.as_str() {
        "Abs" => Unary::Abs,
        "Exp" => Unary::Exp,
        "Ln" => Unary::Log,
        "Square" => Unary::Square,
        "Sqrt" => Unary::Sqrt,
        "Recip" => Unary::Recip,
        "Rsqrt" => Unary::Rsqrt,
        "Ceil" => Unary::Ceil,
        "Floor" => Unary::Floor,
        "RoundHalfToEven" => Unary::Round,
        "Cos" => Unary::Cos,
        "Sin" => Unary::Sin,
        "Tanh" => Unary::Tanh,
        "Erf" => Unary::Erf,
        "Neg" => Unary::Neg,
        "Sign" => Unary::Sign,
        "Sigmoid" => Unary::Sigmoid,
        "HardSwish" => Unary::HardSwish,
        "Silu" => Unary::Silu,
        "GeluExact" => Unary::Gelu,
        "Not" => Unary::Not,
        "BitNot" if walk.graph.value(x).dtype == DType::Bool => Unary::Not,
        _ => return parametric(walk, node, op, x),
    };
    apply(walk, &node.name, operator, x)
}

fn parametric(walk: &mut Walk, node: &TypedNode, op: &ElementWiseOp, x: ValueId) -> Result<ValueId, Reject> {
    if let Some(leaky) = op.0.downcast_ref::<LeakyRelu>() {
        return apply(walk, &node.name, Unary::LeakyRelu(leaky.alpha), x);
    }
    if let Some(gelu) = op.0.downcast_ref::<GeluApproximate>()
        && !gelu.fast_impl
    {
        return apply(walk, &node.name, Unary::GeluTanh, x);
    }
    if let Some(power) = op.0.downcast_ref::<PowConst>() {
        let exponent = reef_graph::Tensor::scalar_f32(power.exponent);
        let exponent = walk.graph.add_const(format!("{}.exponent", node.name), exponent);
        return binary_of(walk, &node.name, Binary::Pow, x, exponent);
    }
    Err(format!("no native form of {}", op.0.name()))
}

fn apply(walk: &mut Walk, name: &str, op: Unary, x: ValueId) -> Result<ValueId, Reject> {
    let graph = &mut walk.graph;
    match (op, graph.value(x).dtype) {
        (Unary::Not, DType::Bool) => Ok(build::unary(graph, name, op, x)),
        (Unary::Not, dtype) => Err(format!("logical negation of {dtype}")),
        (Unary::Neg | Unary::Abs | Unary::Sign, DType::I64 | DType::I32) => {
            Err("integers are not negated natively".into())
        }
        _ => {
            let (x, back) = computable(graph, name, x)?;
            let made = build::unary(graph, name, op, x);
            Ok(build::cast(graph, name, made, back))
        }
    }
}

pub(super) fn iff(walk: &mut Walk, node: &TypedNode, _: &Iff) -> Result<ValueId, Reject> {
    let mut inputs = vec![];
    for &input in &node.inputs {
        inputs.push(walk.value(input)?);
    }
    let graph = &mut walk.graph;
    let shape =
        inputs.iter().try_fold(Shape::default(), |shape, &id| shape.broadcast(&graph.value(id).shape));
    let shape = shape.ok_or("shapes do not broadcast")?;
    let (dtype, other) = (graph.value(inputs[1]).dtype, graph.value(inputs[2]).dtype);
    if dtype != other {
        return Err(format!("operands of {dtype} and {other}"));
    }
    if dtype == DType::F64 {
        return Err(format!("{dtype} is not computed natively"));
    }
    Ok(graph.add_node(&node.name, Op::Where, &inputs, dtype, shape))
}

pub(super) fn cast(walk: &mut Walk, node: &TypedNode, op: &Cast) -> Result<ValueId, Reject> {
    let x = walk.value(node.inputs[0])?;
    let to = dtype_of(op.to).ok_or_else(|| format!("conversion to {:?}", op.to))?;
    let from = walk.graph.value(x).dtype;
    // What the compiler has no instruction for stays on the host.
    let wide = |dtype| matches!(dtype, DType::F64 | DType::U64);
    if from != to && (from.is_float() || to.is_float()) && (wide(from) || wide(to)) {
        return Err(format!("conversion of {from} to {to}"));
    }
    Ok(build::cast(&mut walk.graph, &node.name, x, to))
}
