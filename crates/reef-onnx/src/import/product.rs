//! Matrix products.

use reef_graph::{Binary, Shape, ValueId};

use super::attributes::Node;
use super::elementwise::{no_booleans, widened};
use super::{Builder, Reading, Reject, packed, sums, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let made = match node.operator() {
        "MatMul" => matmul(b, node),
        "Gemm" => gemm(b, node),
        "Einsum" => sums::einsum(b, node),
        _ => return None,
    };
    Some(made.map(|value| vec![value]))
}

/// NumPy's: a vector on the left is a row, one on the right a column.
fn matmul(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x, y) = (node.name(), node.input(0)?, node.input(1)?);
    if b.dtype(x) != b.dtype(y) {
        return wrong(format!("operands of {} and {}", b.dtype(x), b.dtype(y)));
    }
    let (left, right) = (b.shape(x), b.shape(y));
    if left.rank() == 0 || right.rank() == 0 {
        return wrong("a product of a scalar");
    }
    if let Some(made) = packed::of_dequantized(b, name, x, y)? {
        return Ok(made);
    }
    let (operands, back) = widened(b, name, &[x, y])?;
    no_booleans(node, back)?;
    let (x, y) = (operands[0], operands[1]);
    let (row, column) = (left.rank() == 1, right.rank() == 1);
    let x = if row { b.reshape(name, x, Shape::from([1, left[0]]))? } else { x };
    let y = if column { b.reshape(name, y, Shape::from([right[0], 1]))? } else { y };
    let made = b.matmul(name, (x, false), (y, false))?;
    let mut dims = b.shape(made).to_vec();
    if column {
        dims.pop();
    }
    if row {
        dims.remove(dims.len() - if column { 1 } else { 2 });
    }
    let made = b.reshape(name, made, dims.into())?;
    b.cast(name, made, back)
}

/// `alpha·A·B + beta·C`.
pub(super) fn gemm(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x, y) = (node.name(), node.input(0)?, node.input(1)?);
    if b.rank(x) != 2 || b.rank(y) != 2 {
        return wrong("its operands are no matrices");
    }
    let given: Vec<ValueId> = [Some(x), Some(y), node.optional(2)].into_iter().flatten().collect();
    if let Some(&other) = given.iter().find(|&&other| b.dtype(other) != b.dtype(x)) {
        return wrong(format!("operands of {} and {}", b.dtype(x), b.dtype(other)));
    }
    let (operands, back) = widened(b, name, &given)?;
    no_booleans(node, back)?;
    let fraction = |factor: f32| factor != factor.trunc();
    if !back.is_float() && (fraction(node.float("alpha", 1.0)) || fraction(node.float("beta", 1.0))) {
        return wrong(format!("integers times {} and {}", node.float("alpha", 1.0), node.float("beta", 1.0)));
    }
    let (x, y) = (operands[0], operands[1]);
    let mut made = b.matmul(name, (x, node.flag("transA")), (y, node.flag("transB")))?;
    made = scaled(b, name, made, node.float("alpha", 1.0))?;
    if let Some(&c) = operands.get(2) {
        let shape = b.shape(made);
        if b.shape(c).broadcast(&shape).as_ref() != Some(&shape) {
            return wrong(format!("C of shape {} does not broadcast to {shape}", b.shape(c)));
        }
        let c = scaled(b, name, c, node.float("beta", 1.0))?;
        made = b.binary(name, Binary::Add, made, c)?;
    }
    b.cast(name, made, back)
}

/// `x` times a factor.
pub(super) fn scaled(b: &mut Builder, name: &str, x: ValueId, factor: f32) -> Result<ValueId, Reject> {
    if factor == 1.0 {
        return Ok(x);
    }
    let factor = b.scalar(b.dtype(x), factor.into());
    b.binary(name, Binary::Mul, x, factor)
}
