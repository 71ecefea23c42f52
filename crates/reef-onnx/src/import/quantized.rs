//! Quantised networks: integers with scales and zero points, their products, and the ways to them and back.

use reef_graph::{Binary, ConvAttrs, DType, Op, Quantization, Shape, ValueId, ZeroPoints};

use super::attributes::{Node, axis_of};
use super::{Builder, Reading, Reject, window, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let made = match node.operator() {
        "MatMulInteger" => matmul_integer(b, node),
        "ConvInteger" => conv_integer(b, node),
        "QuantizeLinear" => quantize(b, node),
        "DequantizeLinear" => dequantize(b, node),
        "DynamicQuantizeLinear" => return Some(dynamic_quantize(b, node)),
        "QLinearMatMul" => qlinear_matmul(b, node),
        "QLinearConv" => qlinear_conv(b, node),
        _ => return None,
    };
    Some(made.map(|value| vec![value]))
}

/// A zero point, unless it is a constant 0.
fn zero_point(b: &Builder, zero: Option<ValueId>) -> Option<ValueId> {
    let none = |id: ValueId| {
        b.known(id)
            .and_then(crate::consts::whole_numbers)
            .is_some_and(|all| all.iter().all(|&zero| zero == 0))
    };
    zero.filter(|&zero| !none(zero))
}

/// A sum of products of integers, with the zero points that there are.
pub(super) fn product(
    b: &mut Builder,
    name: &str,
    [x, y]: [ValueId; 2],
    [zero_x, zero_y]: [Option<ValueId>; 2],
) -> Result<ValueId, Reject> {
    let (left, right) = (b.shape(x), b.shape(y));
    if left.rank() == 0 || right.rank() == 0 {
        return wrong("a product of a scalar");
    }
    // NumPy's: a vector on the left is a row, one on the right a column.
    let (row, column) = (left.rank() == 1, right.rank() == 1);
    let x = if row { b.reshape(name, x, Shape::from([1, left[0]]))? } else { x };
    let y = if column { b.reshape(name, y, Shape::from([right[0], 1]))? } else { y };
    let zeros = [zero_point(b, zero_x), zero_point(b, zero_y)];
    let mut operands = vec![x, y];
    if let Some(zero) = zeros[0] {
        operands.push(by_row(b, name, zero)?);
    }
    operands.extend(zeros[1]);
    let points = ZeroPoints { left: zeros[0].is_some(), right: zeros[1].is_some() };
    let facts: Vec<(DType, Shape)> = operands.iter().map(|&id| (b.dtype(id), b.shape(id))).collect();
    if let Some(flaw) = points.flaw_of_product(&facts) {
        return wrong(format!("it {flaw}"));
    }
    let (left, right) = (b.shape(x), b.shape(y));
    let (front_x, front_y) = (&left[..left.rank() - 2], &right[..right.rank() - 2]);
    let Some(batch) = Shape::new(front_x).broadcast(&Shape::new(front_y)) else {
        return wrong(format!("a product of {left} and {right}"));
    };
    let sides = [left[left.rank() - 2], right[right.rank() - 1]];
    let shape: Shape = batch.iter().copied().chain(sides).collect();
    if left[left.rank() - 1] == 0 {
        return b.zeros(DType::I32, shape);
    }
    let made = b.add(name, Op::MatMulInteger(points), &operands, DType::I32, shape)?;
    let mut dims = b.shape(made).to_vec();
    if column {
        dims.pop();
    }
    if row {
        dims.remove(dims.len() - if column { 1 } else { 2 });
    }
    b.reshape(name, made, dims.into())
}

/// What belongs to the rows of a matrix, `[M]`, as a column.
fn by_row(b: &mut Builder, name: &str, of: ValueId) -> Result<ValueId, Reject> {
    match b.shape(of)[..] {
        [rows] if rows > 1 => b.reshape(name, of, Shape::from([rows, 1])),
        _ => Ok(of),
    }
}

fn matmul_integer(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let factors = [node.input(0)?, node.input(1)?];
    product(b, node.name(), factors, [node.optional(2), node.optional(3)])
}

/// The sums of a convolution of integers, as `[N,O,H,W]`, and how many axes its input has.
fn convolution(
    b: &mut Builder,
    node: &Node,
    [x, weights]: [ValueId; 2],
    [zero_x, zero_w]: [Option<ValueId>; 2],
) -> Result<(ValueId, usize), Reject> {
    let name = node.name();
    let rank = b.rank(x);
    let (attrs, image): (ConvAttrs, Shape) = window::convolution(b, node, x, weights)?;
    let (x, weights) = (window::enter(b, node, x)?, window::enter(b, node, weights)?);
    let zeros = [zero_point(b, zero_x), zero_point(b, zero_w)];
    let points = ZeroPoints { left: zeros[0].is_some(), right: zeros[1].is_some() };
    let operands: Vec<ValueId> = [x, weights].into_iter().chain(zeros.into_iter().flatten()).collect();
    let facts: Vec<(DType, Shape)> = operands.iter().map(|&id| (b.dtype(id), b.shape(id))).collect();
    if let Some(flaw) = points.flaw_of_conv(&facts, attrs.groups) {
        return wrong(format!("it {flaw}"));
    }
    if !b.is_known(weights) {
        return Err("its weights are computed".into());
    }
    Ok((b.add(name, Op::ConvInteger(attrs, points), &operands, DType::I32, image)?, rank))
}

fn conv_integer(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let factors = [node.input(0)?, node.input(1)?];
    let (made, rank) = convolution(b, node, factors, [node.optional(2), node.optional(3)])?;
    window::leave(b, node, made, rank, DType::I32)
}

/// Scales and zero points that do not fit are wrong; other types, the host may have.
fn misfit(flaw: String) -> Reject {
    match flaw.starts_with("has ") {
        true => Reject::Wrong(format!("it {flaw}")),
        false => Reject::Foreign(format!("it {flaw}")),
    }
}

/// Which scale belongs to which element.
pub(super) fn granularity(
    b: &Builder,
    node: &Node,
    x: ValueId,
    scale: ValueId,
) -> Result<Quantization, Reject> {
    let block = usize::try_from(node.int("block_size", 0));
    let block = block.map_err(|_| Reject::Wrong(format!("block_size is {}", node.int("block_size", 0))))?;
    if b.shape(scale).elements() == 1 && block == 0 {
        return Ok(Quantization::by_tensor(8));
    }
    let axis = axis_of(node.int("axis", 1), b.rank(x))?;
    Ok(Quantization { axis, block, bits: 8 })
}

pub(super) fn quantize(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x, scale) = (node.name(), node.input(0)?, node.input(1)?);
    // What the host does not know of.
    let fewer = node.attribute("bits").is_some();
    match node.int("precision", 0) {
        0 => {}
        code if fewer => return wrong(format!("a quotient of precision {code}")),
        _ => return Err("a quotient of another precision".into()),
    }
    let zero = node.optional(2);
    let declared = match node.int("output_dtype", 0) {
        0 => None,
        code => Some(
            crate::proto::dtype_of_code(code)
                .ok_or_else(|| Reject::Foreign(format!("quantised values of type {code}")))?,
        ),
    };
    let to = match (zero.map(|zero| b.dtype(zero)), declared) {
        (Some(zero), Some(declared)) if zero != declared => {
            return wrong(format!("output_dtype is {declared}, its zero point {zero}"));
        }
        (zero, declared) => zero.or(declared).unwrap_or(DType::U8),
    };
    let mut by = granularity(b, node, x, scale)?;
    // Fewer where `crate::narrow` says so.
    by.bits = node.int("bits", 8 * to.bytes() as i64) as u32;
    let operands: Vec<ValueId> = [Some(x), Some(scale), zero].into_iter().flatten().collect();
    let facts: Vec<(DType, Shape)> = operands.iter().map(|&id| (b.dtype(id), b.shape(id))).collect();
    if let Some(flaw) = by.flaw_of_quantize(&facts, to) {
        return Err(if fewer { Reject::Wrong(format!("it {flaw}")) } else { misfit(flaw) });
    }
    let shape = b.shape(x);
    b.add(name, Op::Quantize(by), &operands, to, shape)
}

pub(super) fn dequantize(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x, scale) = (node.name(), node.input(0)?, node.input(1)?);
    let zero = zero_point(b, node.optional(2));
    let to = match node.int("output_dtype", 0) {
        0 => b.dtype(scale),
        code => crate::proto::dtype_of_code(code)
            .ok_or_else(|| Reject::Foreign(format!("numbers of type {code}")))?,
    };
    let mut by = granularity(b, node, x, scale)?;
    by.bits = node.int("bits", 8 * b.dtype(x).bytes().min(4) as i64) as u32;
    let operands: Vec<ValueId> = [Some(x), Some(scale), zero].into_iter().flatten().collect();
    let facts: Vec<(DType, Shape)> = operands.iter().map(|&id| (b.dtype(id), b.shape(id))).collect();
    if let Some(flaw) = by.flaw_of_dequantize(&facts, to) {
        return Err(misfit(flaw));
    }
    b.dequantize(name, by, &operands, to)
}

fn dynamic_quantize(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    if b.dtype(x) != DType::F32 {
        return wrong(format!("{} is not quantised", b.dtype(x)));
    }
    if b.shape(x).elements() == 0 || b.is_known(x) {
        return Err("of a constant".into());
    }
    Ok(reef_graph::dynamic_quantize(&mut b.graph, name, x).to_vec())
}

/// Sums as the integers of a result: `round(sum · (left · right / made)) + zero`, in single precision.
pub(super) fn requantized(
    b: &mut Builder,
    name: &str,
    sum: ValueId,
    [left, right, made]: [ValueId; 3],
    zero: ValueId,
) -> Result<ValueId, Reject> {
    let [left, right, made] =
        [b.computable(name, left)?.0, b.computable(name, right)?.0, b.computable(name, made)?.0];
    if b.shape(made).elements() != 1 || b.shape(zero).elements() != 1 {
        return Err("a result with several scales".into());
    }
    let made = b.reshape(name, made, Shape::default())?;
    let factor = b.binary(name, Binary::Mul, left, right)?;
    let factor = b.binary(name, Binary::Div, factor, made)?;
    let sum = b.cast(name, sum, DType::F32)?;
    let scaled = b.binary(name, Binary::Mul, sum, factor)?;
    let to = b.dtype(zero);
    let by = Quantization::by_tensor(8 * to.bytes() as u32);
    let one = b.scalar(DType::F32, 1.0);
    let shape = b.shape(scaled);
    let facts = [(DType::F32, shape.clone()), (DType::F32, Shape::default()), (to, b.shape(zero))];
    if let Some(flaw) = by.flaw_of_quantize(&facts, to) {
        return wrong(format!("it {flaw}"));
    }
    b.add(name, Op::Quantize(by), &[scaled, one, zero], to, shape)
}

/// A scale of one element without axes, or one for each of `[extent]` along an axis with so many behind it.
pub(super) fn spread(b: &mut Builder, name: &str, scale: ValueId, behind: usize) -> Result<ValueId, Reject> {
    match b.shape(scale)[..] {
        _ if b.shape(scale).elements() == 1 => b.reshape(name, scale, Shape::default()),
        [extent] => b.reshape(name, scale, [&[extent][..], &vec![1; behind]].concat().into()),
        _ => Ok(scale),
    }
}

fn qlinear_matmul(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let [x, scale_x, zero_x, y, scale_y, zero_y, scale, zero] = inputs::<8>(node)?;
    let sum = product(b, name, [x, y], [Some(zero_x), Some(zero_y)])?;
    let (scale_x, scale_y) = (spread(b, name, scale_x, 1)?, spread(b, name, scale_y, 0)?);
    requantized(b, name, sum, [scale_x, scale_y, scale], zero)
}

fn qlinear_conv(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let name = node.name();
    let [x, scale_x, zero_x, w, scale_w, zero_w, scale, zero] = inputs::<8>(node)?;
    let (mut sum, rank) = convolution(b, node, [x, w], [Some(zero_x), Some(zero_w)])?;
    if let Some(bias) = node.optional(8) {
        let channels = b.shape(w)[0];
        if b.dtype(bias) != DType::I32 || b.shape(bias)[..] != [channels] {
            return wrong(format!("a bias {}{} for {channels} channels", b.dtype(bias), b.shape(bias)));
        }
        let bias = b.reshape(name, bias, Shape::from([channels, 1, 1]))?;
        sum = b.binary(name, Binary::Add, sum, bias)?;
    }
    let (scale_x, scale_w) = (spread(b, name, scale_x, 0)?, spread(b, name, scale_w, 2)?);
    let made = requantized(b, name, sum, [scale_x, scale_w, scale], zero)?;
    let dtype = b.dtype(made);
    window::leave(b, node, made, rank, dtype)
}

fn inputs<const N: usize>(node: &Node) -> Result<[ValueId; N], Reject> {
    let mut inputs = [ValueId(0); N];
    for (index, input) in inputs.iter_mut().enumerate() {
        *input = node.input(index)?;
    }
    Ok(inputs)
}
