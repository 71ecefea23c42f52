//! Networks of integers, and of numbers of 16 bits.

use reef_graph::{
    Binary, ConvAttrs, DType, Op, PoolAttrs, PoolKind, Quantization, Shape, Tensor, Unary, ZeroPoints,
};

use super::{Sketch, plain};

/// What stands for the numbers: channels of their own zero points, and one of the input.
pub(super) fn conv_of_integers(s: &mut Sketch) {
    let (x, weights) = (s.integers(DType::U8, &[2, 6, 9, 10]), s.integers(DType::I8, &[70, 3, 3, 3]));
    let zeros = [s.integers(DType::U8, &[1]), s.integers(DType::I8, &[70])];
    let mut operands = vec![s.given(x), s.fixed(weights)];
    operands.extend(zeros.map(|zero| s.fixed(zero)));
    let op = Op::ConvInteger(ConvAttrs { groups: 2, ..plain() }, ZeroPoints { left: true, right: true });
    let y = s.graph.add_node("conv", op, &operands, DType::I32, Shape::from([2, 70, 9, 10]));
    s.output(y);
}

/// Behind the sums what exporters write there.
pub(super) fn linear_of_integers(s: &mut Sketch) {
    let (a, b) = (s.integers(DType::I8, &[2, 35, 100]), s.integers(DType::U8, &[100, 90]));
    let zeros = [s.integers(DType::I8, &[2, 35, 1]), s.integers(DType::U8, &[1])];
    let mut operands = vec![s.given(a), s.fixed(b)];
    operands.extend(zeros.map(|zero| s.given(zero)));
    let (op, shape) = (Op::MatMulInteger(ZeroPoints { left: true, right: true }), [2, 35, 90]);
    let sum = s.graph.add_node("sum", op, &operands, DType::I32, Shape::from(shape));
    let y = s.graph.add_node("float", Op::Cast { to: DType::F32 }, &[sum], DType::F32, Shape::from(shape));
    let factor = s.graph.add_const("factor", Tensor::f32([1], &[1e-4]));
    let y = s.same(Op::Binary(Binary::Mul), &[y, factor]);
    let bias = s.constant(&[90]);
    let y = s.same(Op::Binary(Binary::Add), &[y, bias]);
    let y = s.same(Op::Unary(Unary::Relu), &[y]);
    s.output(y);
}

/// What ends a residual block of a quantised network: the sums are rounded, added to integers, and rounded
/// again.
pub(super) fn integer_residual(s: &mut Sketch) {
    let (x, weights) = (s.integers(DType::U8, &[2, 6, 9, 10]), s.integers(DType::I8, &[35, 6, 3, 3]));
    let residual = s.integers(DType::I8, &[2, 35, 9, 10]);
    let operands = [s.given(x), s.fixed(weights)];
    let shape = Shape::from([2, 35, 9, 10]);
    let op = Op::ConvInteger(plain(), ZeroPoints { left: false, right: false });
    let sum = s.graph.add_node("sum", op, &operands, DType::I32, shape.clone());
    let y = s.graph.add_node("float", Op::Cast { to: DType::F32 }, &[sum], DType::F32, shape.clone());
    let factor = s.graph.add_const("factor", Tensor::f32([1], &[1e-4]));
    let y = s.same(Op::Binary(Binary::Mul), &[y, factor]);
    let how = Quantization::by_tensor(8);
    let as_integers = |s: &mut Sketch, y, scale: f32, zero: u8| {
        let scale = s.fixed(Tensor::f32([1], &[scale]));
        let zero = s.fixed(Tensor::from_slice(DType::U8, Shape::from([1]), &[zero]));
        let op = Op::Quantize(how);
        (s.graph.add_node("quantize", op, &[y, scale, zero], DType::U8, shape.clone()), scale, zero)
    };
    let (q, scale, zero) = as_integers(s, y, 0.02, 100);
    let op = Op::Dequantize(how);
    let y =
        s.graph.add_node("numbers", op.clone(), &[q, scale, zero], DType::F32, Shape::from([2, 35, 9, 10]));
    let residual = [s.given(residual), s.fixed(Tensor::f32([1], &[0.03]))];
    let other = s.graph.add_node("others", op, &residual, DType::F32, Shape::from([2, 35, 9, 10]));
    let y = s.same(Op::Binary(Binary::Add), &[y, other]);
    let y = s.same(Op::Unary(Unary::Relu), &[y]);
    let (y, ..) = as_integers(s, y, 0.04, 3);
    s.output(y);
}

/// The largest of numbers that were integers, and are again.
pub(super) fn integer_pool(s: &mut Sketch) {
    let x = s.integers(DType::I8, &[2, 70, 9, 8]);
    let x = s.given(x);
    let scale = s.fixed(Tensor::f32([1], &[0.03]));
    let how = Quantization::by_tensor(8);
    let shape = Shape::from([2, 70, 9, 8]);
    let x = s.graph.add_node("numbers", Op::Dequantize(how), &[x, scale], DType::F32, shape);
    let attrs = PoolAttrs {
        kind: PoolKind::Max,
        kernel: [3, 3],
        strides: [2, 2],
        pads: [1, 1, 0, 0],
        dilations: [1, 1],
    };
    let y = s.node(Op::Pool(attrs), &[x], &[2, 70, 4, 4]);
    let zero = s.fixed(Tensor::from_slice(DType::I8, Shape::from([1]), &[0i8]));
    let shape = Shape::from([2, 70, 4, 4]);
    let y = s.graph.add_node("quantize", Op::Quantize(how), &[y, scale, zero], DType::I8, shape);
    s.output(y);
}

pub(super) fn product_of_integers(s: &mut Sketch) {
    let (a, b) = (s.integers(DType::U8, &[3, 20, 37]), s.integers(DType::U8, &[3, 37, 70]));
    let zero = s.integers(DType::U8, &[3, 20, 1]);
    let operands = [a, b, zero].map(|tensor| s.given(tensor));
    let op = Op::MatMulInteger(ZeroPoints { left: true, right: false });
    let y = s.graph.add_node("product", op, &operands, DType::I32, Shape::from([3, 20, 70]));
    s.output(y);
}

/// As exporters write static quantisation: a convolution between numbers that were integers, and integers
/// again.
pub(super) fn quantised_conv(s: &mut Sketch) {
    let x = s.input(&[1, 16, 8, 8]);
    let byte =
        |s: &mut Sketch, dtype, byte: u8| s.fixed(Tensor::from_slice(dtype, Shape::from([1]), &[byte]));
    let step = |s: &mut Sketch, of: f32| s.fixed(Tensor::f32([1], &[of]));
    let how = Quantization::by_tensor(8);
    let (scale, zero) = (step(s, 0.03), byte(s, DType::U8, 120));
    let dims = s.dims(x);
    let q = s.graph.add_node("quantize", Op::Quantize(how), &[x, scale, zero], DType::U8, Shape::new(&dims));
    let x =
        s.graph.add_node("numbers", Op::Dequantize(how), &[q, scale, zero], DType::F32, Shape::new(&dims));
    let weights = s.integers(DType::I8, &[20, 16, 3, 3]);
    let (weights, weight_scale) = (s.fixed(weights), step(s, 0.004));
    let dims = Shape::from([20, 16, 3, 3]);
    let weights =
        s.graph.add_node("weights", Op::Dequantize(how), &[weights, weight_scale], DType::F32, dims);
    let bias = s.constant(&[20]);
    let y = s.node(Op::Conv(plain()), &[x, weights, bias], &[1, 20, 8, 8]);
    let y = s.same(Op::Unary(Unary::Relu), &[y]);
    s.output(y);
}

/// What a network of 16 bits does to each of its results.
pub(super) fn rounds_to_halves(s: &mut Sketch) {
    let x = s.input(&[3, 100]);
    let shape = || Shape::from([3, 100]);
    let mut y = x;
    for to in [DType::F16, DType::BF16] {
        let narrow = s.graph.add_node("narrow", Op::Cast { to }, &[y], to, shape());
        y = s.graph.add_node("wide", Op::Cast { to: DType::F32 }, &[narrow], DType::F32, shape());
        y = s.same(Op::Binary(Binary::Add), &[y, x]);
    }
    s.output(y);
}
