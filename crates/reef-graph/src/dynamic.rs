//! Dynamic quantisation, made of operators that exist.

use crate::dtype::DType;
use crate::graph::{Graph, ValueId};
use crate::op::{Binary, Op, Reduce};
use crate::quantized::Quantization;
use crate::tensor::{Shape, Tensor};

/// ONNX's `DynamicQuantizeLinear` of x (f32): the integers (u8), their scale (f32, no axis) and their zero
/// point (u8, no axis), made of operators that exist, with the same arithmetic in single precision:
/// `low = min(min x, 0)`, `high = max(max x, 0)`, `scale = (high − low) / 255` (1 if both are 0),
/// `zero = round(clamp(0 − low / scale, 0, 255))`.
pub fn dynamic_quantize(graph: &mut Graph, name: &str, x: ValueId) -> [ValueId; 3] {
    let shape = graph.value(x).shape.clone();
    let scalar = Shape::from([]);
    let constant = |graph: &mut Graph, what: &str, value: f32| {
        graph.add_const(format!("{name}.{what}"), Tensor::scalar_f32(value))
    };
    let (zero, levels) = (constant(graph, "none", 0.0), constant(graph, "levels", 255.0));
    let bound = |graph: &mut Graph, reduce: Reduce, limit: Binary, what: &str| {
        let axes: Vec<usize> = (0..shape.rank()).collect();
        let mut value = x;
        if !axes.is_empty() {
            let op = Op::Reduce { reduce, axes, keep_dims: false };
            value = graph.add_node(format!("{name}.{what}"), op, &[value], DType::F32, scalar.clone());
        }
        let what = format!("{name}.{what}.bound");
        graph.add_node(what, Op::Binary(limit), &[value, zero], DType::F32, scalar.clone())
    };
    let low = bound(graph, Reduce::Min, Binary::Min, "min");
    let high = bound(graph, Reduce::Max, Binary::Max, "max");
    let node = |graph: &mut Graph, what: &str, op: Op, inputs: &[ValueId], dtype: DType| {
        graph.add_node(format!("{name}.{what}"), op, inputs, dtype, scalar.clone())
    };
    let one = constant(graph, "one", 1.0);
    let span = node(graph, "span", Op::Binary(Binary::Sub), &[high, low], DType::F32);
    let step = node(graph, "step", Op::Binary(Binary::Div), &[span, levels], DType::F32);
    let flat = node(graph, "flat", Op::Binary(Binary::Equal), &[high, low], DType::Bool);
    let scale = node(graph, "scale", Op::Where, &[flat, one, step], DType::F32);
    let ratio = node(graph, "ratio", Op::Binary(Binary::Div), &[low, scale], DType::F32);
    let wanted = node(graph, "wanted", Op::Binary(Binary::Sub), &[zero, ratio], DType::F32);
    let by_tensor = Quantization::by_tensor(8);
    let point = node(graph, "zero", Op::Quantize(by_tensor), &[wanted, one], DType::U8);
    let y = graph.add_node(name, Op::Quantize(by_tensor), &[x, scale, point], DType::U8, shape);
    [y, scale, point]
}
