//! Every operator alone: the plan computes what the graph says.

mod harness;

use std::sync::Arc;

use harness::{Builder, conv_attrs};
use reef_base::AlignedBytes;
use reef_graph::scalar::Element;
use reef_graph::trees::{LEAF, NODE_WORDS};
use reef_graph::{
    Aggregate, Binary, ConvAttrs, DType, Encoding, Op, PackedWeights, PoolAttrs, PoolKind, Reduce, Rounding,
    SmallFloat, Taps, Tensor, Unary, ValueId,
};

#[test]
fn convolutions() {
    let attrs =
        |kernel, strides, pads, dilations, groups| ConvAttrs { kernel, strides, pads, dilations, groups };
    let table = [
        ([1, 3, 7, 9], 5, attrs([3, 3], [1, 1], [1; 4], [1, 1], 1)),
        ([3, 4, 8, 5], 6, attrs([3, 2], [2, 1], [0, 1, 2, 0], [1, 2], 2)),
        ([1, 16, 7, 7], 33, attrs([1, 1], [2, 2], [0; 4], [1, 1], 1)),
        ([3, 6, 5, 5], 6, attrs([3, 3], [1, 1], [1; 4], [1, 1], 6)),
        ([1, 6, 9, 6], 12, attrs([5, 3], [2, 2], [2, 1, 2, 1], [1, 1], 6)),
        ([1, 1, 6, 6], 1, attrs([3, 3], [1, 1], [0; 4], [2, 2], 1)),
        ([2, 8, 1, 11], 8, attrs([1, 5], [1, 1], [0, 2, 0, 2], [1, 1], 8)),
        ([2, 40, 1, 1], 70, attrs([1, 1], [1, 1], [0; 4], [1, 1], 1)),
    ];
    for (shape, outputs, attrs) in table {
        let what = format!("{shape:?} to {outputs} by {attrs:?}");
        let mut builder = Builder::new();
        let x = builder.input(&shape);
        let y = builder.conv(x, outputs, attrs);
        builder.check(&what, &[y]);
    }
}

#[test]
fn products() {
    type Row<'a> = (&'a [usize], &'a [usize], &'a [usize], bool, bool, bool);
    let table: [Row<'_>; 9] = [
        (&[3, 5], &[5, 7], &[3, 7], false, false, true),
        (&[2, 3, 5], &[7, 5], &[2, 3, 7], false, true, true),
        (&[5, 3], &[5, 40], &[3, 40], true, false, true),
        (&[1, 100], &[100, 70], &[1, 70], false, false, true),
        (&[2, 4, 3, 5], &[2, 4, 5, 6], &[2, 4, 3, 6], false, false, false),
        (&[2, 4, 5, 3], &[4, 6, 5], &[2, 4, 3, 6], true, true, false),
        (&[2, 1, 3, 5], &[4, 5, 6], &[2, 4, 3, 6], false, false, true),
        (&[3, 5], &[2, 5, 6], &[2, 3, 6], false, false, false),
        (&[13, 17], &[17, 19], &[13, 19], false, false, false),
    ];
    for (a_shape, b_shape, shape, trans_a, trans_b, constant) in table {
        let mut builder = Builder::new();
        let a = builder.input(a_shape);
        let b = if constant { builder.constant(b_shape) } else { builder.input(b_shape) };
        let y = builder.node(Op::MatMul { trans_a, trans_b }, &[a, b], shape);
        builder.check(&format!("{a_shape:?} by {b_shape:?}"), &[y]);
    }
}

#[test]
fn pools() {
    for kind in [PoolKind::Max, PoolKind::AvgExcludePad, PoolKind::AvgIncludePad] {
        for (shape, kernel, strides, pads, out) in [
            ([1, 3, 7, 9], [2, 2], [2, 2], [0; 4], [3, 4]),
            ([3, 5, 8, 8], [3, 3], [2, 2], [1, 1, 1, 1], [4, 4]),
            ([2, 5, 8, 6], [3, 3], [2, 2], [0, 0, 1, 1], [4, 3]),
            ([1, 5, 6, 6], [3, 3], [2, 2], [0; 4], [3, 3]),
        ] {
            let mut builder = Builder::new();
            let x = builder.input(&shape);
            let attrs = PoolAttrs { kind, kernel, strides, pads, dilations: [1, 1] };
            let y = builder.node(Op::Pool(attrs), &[x], &[shape[0], shape[1], out[0], out[1]]);
            builder.check(&format!("{kind:?} over {shape:?}"), &[y]);
        }
    }
}

#[test]
fn functions_of_one_element() {
    use Unary::*;
    let functions = [
        Relu,
        LeakyRelu(0.1),
        Elu(1.5),
        Clip(-0.5, 0.5),
        Sigmoid,
        HardSigmoid(0.2, 0.4),
        Silu,
        HardSwish,
        Tanh,
        Gelu,
        GeluTanh,
        Erf,
        Softplus,
        Exp,
        Log,
        Sqrt,
        Rsqrt,
        Recip,
        Square,
        Abs,
        Neg,
        Sign,
        Floor,
        Ceil,
        Round,
        Sin,
        Cos,
        Tan,
        Asin,
        Acos,
        Atan,
        Sinh,
        Cosh,
        Asinh,
        Acosh,
        Atanh,
        Encode(Encoding { format: SmallFloat::E4M3Fn, saturate: true, rounding: Rounding::Up }),
        Encode(Encoding { format: SmallFloat::E8M0, saturate: false, rounding: Rounding::Nearest }),
        Decode(SmallFloat::E2M1),
    ];
    for function in functions {
        let mut builder = Builder::new();
        let x = builder.input(&[3, 7]);
        let y = builder.same(Op::Unary(function), &[x]);
        builder.check(&format!("{function:?}"), &[y]);
        let mut builder = Builder::new();
        let x = builder.typed_input(DType::F64, &[12]);
        let y = builder.same(Op::Unary(function), &[x]);
        builder.output(y);
        let inputs = [ends(DType::F64, &[12], |_| true)];
        harness::check_exactly(&format!("{function:?} of f64"), &builder.graph, &inputs);
    }
}

const WHOLE: [DType; 8] =
    [DType::I64, DType::I32, DType::I16, DType::I8, DType::U64, DType::U32, DType::U16, DType::U8];

/// Numbers at the ends of a type and in the middle, over and over.
fn ends(dtype: DType, shape: &[usize], keep: impl Fn(i64) -> bool) -> Tensor {
    let whole = [i64::MIN, i64::MIN + 1, -129, -3, -1, 0, 1, 2, 7, 200, 70_000, i64::MAX - 1, i64::MAX];
    let floats = [0.0, -0.0, 0.5, -0.5, 1.0, -1.75, 2.5, 9.3e18, -9.3e18, f64::NAN, f64::INFINITY, 3e-5];
    let mut kept = whole.iter().filter(|&&value| keep(reef_graph::scalar::wrap(value, dtype))).cycle();
    let mut elements = (0..shape.iter().product()).map(|at: usize| match dtype.is_float() {
        true => Element::Float(floats[at % floats.len()]),
        false => Element::Int(*kept.next().expect("some are kept")),
    });
    let elements: Vec<Element> = elements.by_ref().collect();
    reef_graph::reference::store(&elements, dtype, &reef_graph::Shape::new(shape))
}

#[test]
fn integers_of_every_type_are_exact() {
    use Binary::*;
    let functions = [
        Add,
        Sub,
        Mul,
        Div,
        Mod,
        Rem,
        Max,
        Min,
        Pow,
        Equal,
        Less,
        LessEqual,
        Greater,
        GreaterEqual,
        BitAnd,
        BitOr,
        BitXor,
        ShiftLeft,
        ShiftRight,
    ];
    for dtype in WHOLE {
        let unsigned = matches!(dtype, DType::U64 | DType::U32 | DType::U16 | DType::U8);
        for function in functions {
            if matches!(function, ShiftLeft | ShiftRight) && !unsigned {
                continue;
            }
            let mut builder = Builder::new();
            let (a, b) = (builder.typed_input(dtype, &[13, 1]), builder.typed_input(dtype, &[11]));
            let out = if function.is_comparison() { DType::Bool } else { dtype };
            let y = builder.typed_node(Op::Binary(function), &[a, b], out, &[13, 11]);
            builder.output(y);
            let inputs = [
                ends(dtype, &[13, 1], |_| true),
                ends(dtype, &[11], |value| !function.divides() || value != 0),
            ];
            harness::check_exactly(&format!("{function:?} of {dtype}"), &builder.graph, &inputs);
        }
        let mut builder = Builder::new();
        let x = builder.typed_input(dtype, &[13]);
        for function in
            [Unary::Abs, Unary::Neg, Unary::Sign, Unary::Relu, Unary::Square, Unary::BitNot, Unary::Floor]
        {
            let y = builder.same(Op::Unary(function), &[x]);
            builder.output(y);
        }
        let inputs = [ends(dtype, &[13], |_| true)];
        harness::check_exactly(&format!("functions of {dtype}"), &builder.graph, &inputs);
    }
}

#[test]
fn doubles_are_exact() {
    use Binary::*;
    for function in
        [Add, Sub, Mul, Div, Mod, Rem, Max, Min, Pow, Equal, Less, LessEqual, Greater, GreaterEqual]
    {
        let mut builder = Builder::new();
        let (a, b) = (builder.typed_input(DType::F64, &[12, 1]), builder.typed_input(DType::F64, &[12]));
        let out = if function.is_comparison() { DType::Bool } else { DType::F64 };
        let y = builder.typed_node(Op::Binary(function), &[a, b], out, &[12, 12]);
        builder.output(y);
        let inputs = [ends(DType::F64, &[12, 1], |_| true), ends(DType::F64, &[12], |_| true)];
        harness::check_exactly(&format!("{function:?} of f64"), &builder.graph, &inputs);
    }
    // Chains of several kinds of registers.
    let mut builder = Builder::new();
    let (x, whole) = (builder.typed_input(DType::F64, &[12]), builder.typed_input(DType::U64, &[12]));
    let single = builder.typed_node(Op::Cast { to: DType::F32 }, &[x], DType::F32, &[12]);
    let root = builder.same(Op::Unary(Unary::Sqrt), &[single]);
    let wide = builder.typed_node(Op::Cast { to: DType::F64 }, &[root], DType::F64, &[12]);
    let other = builder.typed_node(Op::Cast { to: DType::F64 }, &[whole], DType::F64, &[12]);
    let less = builder.typed_node(Op::Binary(Less), &[wide, other], DType::Bool, &[12]);
    let y = builder.typed_node(Op::Where, &[less, wide, x], DType::F64, &[12]);
    builder.output(y);
    let padded = Op::Pad { pads: vec![(1, 2)], value: 0.5 };
    let padded = builder.typed_node(padded, &[y], DType::F64, &[15]);
    builder.output(padded);
    let inputs = [ends(DType::F64, &[12], |_| true), ends(DType::U64, &[12], |_| true)];
    harness::check_exactly("kinds of registers", &builder.graph, &inputs);
}

#[test]
fn bits_as_another_type() {
    for (from, to) in [
        (DType::F32, DType::I32),
        (DType::I64, DType::F64),
        (DType::F64, DType::U64),
        (DType::U8, DType::I8),
        (DType::F16, DType::U16),
    ] {
        let mut builder = Builder::new();
        let x = builder.typed_input(from, &[3, 5]);
        let y = builder.typed_node(Op::BitCast { to }, &[x], to, &[3, 5]);
        let turned = builder.typed_node(Op::Transpose { perm: vec![1, 0] }, &[y], to, &[5, 3]);
        builder.check(&format!("{from} as {to}"), &[y, turned]);
    }
}

#[test]
fn products_with_packed_weights() {
    for (bits, block, shifts) in [(4, 32, false), (4, 16, true), (8, 64, true), (2, 16, false)] {
        let weights = PackedWeights { bits, block };
        for (m, k, n) in [(1, 70, 9), (3, 16, 5)] {
            let mut builder = Builder::new();
            let (blocks, bytes) = (weights.blocks(k), weights.row_bytes(k));
            let packed: Vec<u8> = (0..n * bytes).map(|at| (at * 37 + at / 5) as u8).collect();
            let packed = Tensor::from_slice(DType::U8, [n, bytes].into(), &packed);
            let x = builder.input(&[m, k]);
            let packed = builder.graph.add_const("packed", packed);
            let mut inputs = vec![x, packed, builder.constant(&[n, blocks])];
            inputs.extend(shifts.then(|| builder.constant(&[n, blocks])));
            let y = builder.node(Op::MatMulPacked(weights), &inputs, &[m, n]);
            builder.check(&format!("{weights:?}, {m}x{k}x{n}, shifts: {shifts}"), &[y]);
        }
    }
}

#[test]
fn integers_and_booleans() {
    use Binary::*;
    for function in [Add, Sub, Mul, Div, Max, Min, Equal, Less, LessEqual, Greater, GreaterEqual] {
        for dtype in [DType::I64, DType::I32, DType::U8, DType::F32, DType::F16] {
            let mut builder = Builder::new();
            let (a, mut b) = (builder.typed_input(dtype, &[4, 1, 3]), builder.typed_input(dtype, &[5, 1]));
            if function == Div && !dtype.is_float() {
                // Integers have no quotient by 0.
                let one: Vec<u8> = (0..dtype.bytes()).map(|at| u8::from(at == 0)).collect();
                let one = Tensor::new(dtype, [1].into(), Arc::new(AlignedBytes::copy_from(&one)));
                let one = builder.graph.add_const("one", one);
                b = builder.typed_node(Op::Binary(Max), &[b, one], dtype, &[5, 1]);
            }
            let out = if function.is_comparison() { DType::Bool } else { dtype };
            let y = builder.typed_node(Op::Binary(function), &[a, b], out, &[4, 5, 3]);
            builder.check(&format!("{function:?} of {dtype}"), &[y]);
        }
    }
    for function in [And, Or, Xor] {
        let mut builder = Builder::new();
        let (a, b) = (builder.typed_input(DType::Bool, &[4, 3]), builder.typed_input(DType::Bool, &[3]));
        let y = builder.node(Op::Binary(function), &[a, b], &[4, 3]);
        let not = builder.same(Op::Unary(Unary::Not), &[y]);
        builder.check(&format!("{function:?}"), &[y, not]);
    }
    for function in [Unary::Abs, Unary::Neg, Unary::Sign, Unary::Relu, Unary::Square, Unary::Clip(-1.0, 2.0)]
    {
        let mut builder = Builder::new();
        let x = builder.typed_input(DType::I64, &[9]);
        let y = builder.same(Op::Unary(function), &[x]);
        builder.check(&format!("{function:?} of integers"), &[y]);
    }
}

#[test]
fn conversions() {
    for from in DType::ALL {
        for to in DType::ALL {
            let mut builder = Builder::new();
            let x = builder.typed_input(from, &[2, 9]);
            let y = builder.typed_node(Op::Cast { to }, &[x], to, &[2, 9]);
            builder.output(y);
            harness::check_exactly(
                &format!("{from} to {to}"),
                &builder.graph,
                &[ends(from, &[2, 9], |_| true)],
            );
        }
    }
}

#[test]
fn selections_and_channel_scales() {
    let mut builder = Builder::new();
    let condition = builder.typed_input(DType::Bool, &[2, 1, 4]);
    let (a, b) = (builder.input(&[3, 1]), builder.scalar(-7.0));
    let y = builder.node(Op::Where, &[condition, a, b], &[2, 3, 4]);
    builder.check("where", &[y]);
    for shape in [&[2, 3, 4, 5][..], &[2, 3], &[2, 3, 7]] {
        let mut builder = Builder::new();
        let x = builder.input(shape);
        let (scale, shift) = (builder.constant(&[3]), builder.constant(&[3]));
        let y = builder.same(Op::ScaleShift, &[x, scale, shift]);
        builder.check("scale and shift", &[y]);
    }
}

#[test]
fn reductions_and_normalisations() {
    use Reduce::*;
    for reduce in [Sum, Mean, Max, Min, Prod, SumSquare] {
        let table: [(&[usize], bool, &[usize]); 5] = [
            (&[2, 3], true, &[2, 3, 1, 1]),
            (&[1], false, &[2, 4, 5]),
            (&[0, 2], false, &[3, 5]),
            (&[0, 1, 2, 3], false, &[]),
            (&[], true, &[2, 3, 4, 5]),
        ];
        for (axes, keep_dims, shape) in table {
            let mut builder = Builder::new();
            let x = builder.input(&[2, 3, 4, 5]);
            let op = Op::Reduce { reduce, axes: axes.to_vec(), keep_dims };
            let y = builder.node(op, &[x], shape);
            builder.check(&format!("{reduce:?} over {axes:?}"), &[y]);
        }
    }
    for axis in 0..3 {
        let mut builder = Builder::new();
        let x = builder.input(&[3, 4, 5]);
        let (a, b) = (builder.same(Op::Softmax { axis }, &[x]), builder.same(Op::LogSoftmax { axis }, &[x]));
        let dims = builder.shape(x)[axis..].to_vec();
        let (scale, shift) = (builder.constant(&dims), builder.constant(&dims));
        let norm = Op::LayerNorm { axis, epsilon: 1e-5 };
        let (c, d) = (builder.same(norm.clone(), &[x, scale, shift]), builder.same(norm, &[x, scale]));
        builder.check(&format!("normalisation of axis {axis}"), &[a, b, c, d]);
    }
}

/// Extremes of so many elements that they are found in parts.
#[test]
fn extremes_of_all() {
    for reduce in [Reduce::Max, Reduce::Min] {
        for (begin, special) in [(0, None), (3, None), (0, Some(f32::NAN)), (3, Some(f32::NAN))] {
            let mut builder = Builder::new();
            let x = builder.input(&[3, 40, 25, 2]);
            let count = 40 - begin;
            let slice = Op::Slice { axis: 1, begin, end: 40, step: 1 };
            let part = builder.node(slice, &[x], &[3, count, 25, 2]);
            let op = Op::Reduce { reduce, axes: vec![0, 1, 2, 3], keep_dims: false };
            let y = builder.node(op, &[part], &[]);
            builder.output(y);
            let mut values: Vec<f32> = (0..6000).map(|_| builder.rng.normal_f32()).collect();
            values[4711] = special.unwrap_or(9.0);
            let inputs = [Tensor::f32([3, 40, 25, 2], &values)];
            let expected = reef_compile::reference::evaluate(&builder.graph, &inputs).unwrap();
            let what = format!("{reduce:?} from {begin} on, {special:?}");
            harness::check_targets(&what, &builder.graph, &[], &inputs, &expected);
        }
    }
}

#[test]
fn movement() {
    let mut builder = Builder::new();
    let x = builder.input(&[4, 6, 5]);
    let y = builder.input(&[4, 2, 5]);
    let outputs = [
        builder.node(Op::Concat { axis: 1 }, &[x, y], &[4, 8, 5]),
        builder.node(Op::Concat { axis: 2 }, &[x, x], &[4, 6, 10]),
        builder.node(Op::Slice { axis: 1, begin: 1, end: 6, step: 2 }, &[x], &[4, 3, 5]),
        builder.node(Op::Slice { axis: 0, begin: 3, end: -1, step: -1 }, &[x], &[4, 6, 5]),
        builder.node(Op::Transpose { perm: vec![2, 0, 1] }, &[x], &[5, 4, 6]),
        builder.node(Op::Reshape, &[x], &[8, 15]),
        builder.node(Op::Expand, &[y], &[3, 4, 2, 5]),
        builder.node(Op::Pad { pads: vec![(1, 0), (0, 2), (1, 1)], value: 2.5 }, &[x], &[5, 8, 7]),
        x,
    ];
    builder.check("movement", &outputs);
}

#[test]
fn gathers() {
    for (axis, picks, shape) in
        [(0, &[2, 3][..], &[2, 3, 6, 5][..]), (1, &[4], &[4, 4, 5]), (2, &[], &[4, 6])]
    {
        let mut builder = Builder::new();
        let x = builder.input(&[4, 6, 5]);
        let indices = builder.typed_input(DType::I64, picks);
        let y = builder.typed_node(Op::Gather { axis }, &[x, indices], DType::F32, shape);
        builder.check("computed indices", &[y]);
    }
    for indices in [&[1i64, 3, -1][..], &[4], &[0, 0, 3], &[-1, -2]] {
        let mut builder = Builder::new();
        let x = builder.input(&[4, 6, 5]);
        let picks = builder.graph.add_const("picks", Tensor::i64([indices.len()], indices));
        let y = builder.typed_node(Op::Gather { axis: 1 }, &[x, picks], DType::F32, &[4, indices.len(), 5]);
        builder.check(&format!("indices {indices:?}"), &[y]);
    }
}

/// Taps that differ in number, place and weight, one of them outside of the axis.
fn taps(extent: usize, outputs: usize) -> Taps {
    let list = |output: usize| -> Vec<(Option<usize>, f32)> {
        let tap = |at: usize| (Some((output * extent / outputs + at) % extent), 0.5 - at as f32 * 0.125);
        let outside = (output == 2).then_some((None, 0.25));
        (0..output % 4).map(tap).chain(outside).collect()
    };
    Taps::new(extent, -1.5, &(0..outputs).map(list).collect::<Vec<_>>()).unwrap()
}

#[test]
fn resamplings() {
    for shape in [[1, 5, 7, 9], [3, 34, 4, 3], [1, 1, 6, 1], [2, 3, 1, 40]] {
        for (axis, outputs) in [(0, 2), (1, 9), (2, 11), (2, 1), (3, 5), (3, 33)] {
            let mut dims = shape;
            dims[axis] = outputs;
            let op = || Op::Resample { axis, taps: taps(shape[axis], outputs) };
            let mut builder = Builder::new();
            let x = builder.input(&shape);
            let y = builder.node(op(), &[x], &dims);
            // Among convolutions, whose images lie otherwise; and of a transposed input.
            let image = builder.conv(x, shape[1], conv_attrs(1, 1));
            let image = builder.node(op(), &[image], &dims);
            let z = builder.conv(image, 6, conv_attrs(1, 1));
            let turned = builder.node(
                Op::Transpose { perm: vec![0, 1, 3, 2] },
                &[x],
                &[shape[0], shape[1], shape[3], shape[2]],
            );
            let turned = builder.node(Op::Transpose { perm: vec![0, 1, 3, 2] }, &[turned], &shape);
            let turned = builder.same(Op::Unary(Unary::Relu), &[turned]);
            let turned = builder.node(op(), &[turned], &dims);
            let joined = [dims[0], 2 * dims[1], dims[2], dims[3]];
            let joined = builder.node(Op::Concat { axis: 1 }, &[y, turned], &joined);
            builder.check(&format!("{shape:?} along {axis} to {outputs}"), &[z, joined]);
        }
    }
}

#[test]
fn axes_that_are_joined_before_convolutions() {
    let mut builder = Builder::new();
    let x = builder.input(&[2, 12, 3, 5]);
    let x = builder.conv(x, 12, conv_attrs(3, 1));
    let apart = builder.node(Op::Reshape, &[x], &[2, 2, 2, 3, 3, 5]);
    let apart = builder.node(Op::Transpose { perm: vec![0, 3, 4, 1, 5, 2] }, &[apart], &[2, 3, 3, 2, 5, 2]);
    let y = builder.node(Op::Reshape, &[apart], &[2, 3, 6, 10]);
    let y = builder.conv(y, 4, conv_attrs(3, 1));
    builder.check("depth to space", &[y]);
    let mut builder = Builder::new();
    let x = builder.input(&[1, 6, 3, 5]);
    let x = builder.conv(x, 6, conv_attrs(3, 1));
    let apart = builder.node(Op::Reshape, &[x], &[1, 6, 3, 1, 5, 1]);
    let apart = builder.node(Op::Expand, &[apart], &[1, 6, 3, 3, 5, 2]);
    let y = builder.node(Op::Reshape, &[apart], &[1, 6, 9, 10]);
    let y = builder.conv(y, 4, conv_attrs(1, 1));
    builder.check("repeated pixels", &[y]);
}

/// Neither folded into a plausible constant nor computed.
#[test]
fn indices_outside_their_axis_are_errors() {
    for index in [4i64, -5, i64::MAX, i64::MIN] {
        for constant in [false, true] {
            let mut builder = Builder::new();
            let x = if constant { builder.constant(&[4, 3]) } else { builder.input(&[4, 3]) };
            let picks = builder.graph.add_const("picks", Tensor::i64([2], &[0, index]));
            let y = builder.typed_node(Op::Gather { axis: 0 }, &[x, picks], DType::F32, &[2, 3]);
            builder.output(y);
            let inputs = harness::inputs(&builder.graph, 5);
            let expected = format!("index {index}, allowed are -4 to 3");
            let error = reef_compile::reference::evaluate(&builder.graph, &inputs).unwrap_err();
            assert!(error.to_string().contains(&expected), "{error}");
            let plan = harness::plan(&builder.graph);
            let error = reef_compile::interpret::run(&plan, &inputs).unwrap_err();
            assert!(error.to_string().contains(&expected), "{error}");
        }
    }
}

#[test]
fn integers_divided_by_zero_are_errors() {
    for (constant, function) in
        [(false, Binary::Div), (true, Binary::Div), (false, Binary::Mod), (true, Binary::Rem)]
    {
        let mut builder = Builder::new();
        let seven = builder.graph.add_const("seven", Tensor::i64([2], &[7, 7]));
        let x = if constant { seven } else { builder.typed_input(DType::I64, &[2]) };
        let divisor = builder.graph.add_const("divisor", Tensor::i64([2], &[1, 0]));
        let y = builder.typed_node(Op::Binary(function), &[x, divisor], DType::I64, &[2]);
        builder.output(y);
        let inputs = harness::inputs(&builder.graph, 5);
        let error = reef_compile::reference::evaluate(&builder.graph, &inputs).unwrap_err();
        assert!(error.to_string().contains("is divided by 0"), "{error}");
        let error = reef_compile::interpret::run(&harness::plan(&builder.graph), &inputs).unwrap_err();
        assert!(error.to_string().contains("is divided by 0"), "{error}");
    }
}

#[test]
fn outputs_that_nothing_computes() {
    let mut builder = Builder::new();
    let x = builder.input(&[2, 3, 4, 4]);
    let constant = builder.constant(&[3]);
    let y = builder.conv(x, 4, conv_attrs(3, 1));
    let flat = builder.node(Op::Reshape, &[x], &[6, 16]);
    builder.check("aliases", &[x, constant, y, y, flat]);
}

#[test]
fn values_without_elements() {
    let mut builder = Builder::new();
    let x = builder.input(&[0, 3]);
    let y = builder.input(&[2, 3]);
    let joined = builder.node(Op::Concat { axis: 0 }, &[x, y], &[2, 3]);
    let sum = builder.node(Op::Reduce { reduce: Reduce::Sum, axes: vec![0], keep_dims: false }, &[x], &[3]);
    let weights = builder.constant(&[3, 4]);
    let product = builder.node(Op::MatMul { trans_a: false, trans_b: false }, &[x, weights], &[0, 4]);
    builder.check("empty values", &[joined, sum, product]);
}

/// Every operator on operands without elements: nothing where the output is empty, what the operator gives
/// for an empty set where it is not. The plan has a stage even where nothing is left to compute.
#[test]
fn operators_of_operands_without_elements() {
    let check = |what: &str, build: &dyn Fn(&mut Builder) -> ValueId| {
        let mut builder = Builder::new();
        let y = build(&mut builder);
        builder.check(what, &[y]);
    };
    check("relu", &|b| {
        let x = b.input(&[0, 4]);
        b.same(Op::Unary(Unary::Relu), &[x])
    });
    check("sum of two", &|b| {
        let (x, y) = (b.input(&[0, 4]), b.input(&[1, 4]));
        b.node(Op::Binary(Binary::Add), &[x, y], &[0, 4])
    });
    check("softmax", &|b| {
        let x = b.input(&[3, 0]);
        b.same(Op::Softmax { axis: 1 }, &[x])
    });
    check("convolution of no image", &|b| {
        let x = b.input(&[0, 3, 8, 8]);
        b.conv(x, 4, conv_attrs(3, 1))
    });
    check("gather without indices", &|b| {
        let (x, picks) = (b.input(&[4, 3]), b.typed_input(DType::I64, &[0]));
        b.typed_node(Op::Gather { axis: 0 }, &[x, picks], DType::F32, &[0, 3])
    });
    check("product over nothing", &|b| {
        let (x, y) = (b.input(&[2, 0]), b.input(&[0, 3]));
        b.node(Op::MatMul { trans_a: false, trans_b: false }, &[x, y], &[2, 3])
    });
    check("product over nothing with a constant", &|b| {
        let (x, y) = (b.input(&[2, 0]), b.constant(&[0, 3]));
        b.node(Op::MatMul { trans_a: false, trans_b: false }, &[x, y], &[2, 3])
    });
    check("padding of nothing", &|b| {
        let x = b.input(&[0, 2]);
        b.node(Op::Pad { pads: vec![(1, 1), (0, 1)], value: 1.5 }, &[x], &[2, 3])
    });
    check("normalisation", &|b| {
        let (x, scale) = (b.input(&[0, 4]), b.constant(&[4]));
        b.same(Op::LayerNorm { axis: 1, epsilon: 1e-5 }, &[x, scale])
    });
    use Reduce::*;
    for reduce in [Sum, Mean, Max, Min, Prod, SumSquare] {
        check(&format!("{reduce:?} of nothing"), &|b| {
            let x = b.input(&[2, 0]);
            b.node(Op::Reduce { reduce, axes: vec![1], keep_dims: false }, &[x], &[2])
        });
    }
}

/// Operands with what is no ordinary number in them: it passes through every path in the same way.
#[test]
fn infinities_and_what_is_no_number() {
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e38, -1e38, 1e-40, 0.5];
    let functions: [fn(&mut Builder, ValueId) -> ValueId; 12] = [
        |b, x| b.same(Op::Unary(Unary::Relu), &[x]),
        |b, x| b.same(Op::Unary(Unary::Clip(-1.0, 1.0)), &[x]),
        |b, x| b.same(Op::Unary(Unary::Sigmoid), &[x]),
        |b, x| b.same(Op::Unary(Unary::Tanh), &[x]),
        |b, x| b.same(Op::Unary(Unary::Exp), &[x]),
        |b, x| b.same(Op::Binary(Binary::Max), &[x, x]),
        |b, x| b.same(Op::Binary(Binary::Min), &[x, x]),
        |b, x| b.same(Op::Softmax { axis: 3 }, &[x]),
        |b, x| b.node(fold(Reduce::Max), &[x], &[1, 2, 3]),
        |b, x| b.node(fold(Reduce::Min), &[x], &[1, 2, 3]),
        |b, x| b.node(fold(Reduce::Sum), &[x], &[1, 2, 3]),
        |b, x| {
            let attrs = PoolAttrs {
                kind: PoolKind::Max,
                kernel: [2, 2],
                strides: [1, 1],
                pads: [0; 4],
                dilations: [1, 1],
            };
            b.node(Op::Pool(attrs), &[x], &[1, 2, 2, 8])
        },
    ];
    for (index, function) in functions.into_iter().enumerate() {
        for shift in 0..special.len() {
            let mut builder = Builder::new();
            let x = builder.input(&[1, 2, 3, 9]);
            let y = function(&mut builder, x);
            builder.output(y);
            // One special number in an otherwise ordinary row, and a row full of them.
            let values: Vec<f32> = (0..54)
                .map(|at| match at {
                    0..27 if at % 9 == shift => special[(at / 9 + shift) % special.len()],
                    45..54 => special[(at - 45 + shift) % special.len()],
                    _ => at as f32 * 0.25 - 5.0,
                })
                .collect();
            let inputs = [Tensor::f32([1, 2, 3, 9], &values)];
            let expected = reef_compile::reference::evaluate(&builder.graph, &inputs).unwrap();
            let what = format!("function {index}, shift {shift}");
            harness::check_targets(&what, &builder.graph, &[], &inputs, &expected);
        }
    }
}

fn fold(reduce: Reduce) -> Op {
    Op::Reduce { reduce, axes: vec![3], keep_dims: false }
}

/// A full tree of this depth; words of its nodes from `place` on, and its leaves' votes.
fn full_tree(
    depth: usize,
    builder: &mut Builder,
    features: usize,
    nodes: &mut Vec<i32>,
    votes: &mut i32,
) -> i32 {
    let at = nodes.len();
    nodes.extend([0; NODE_WORDS]);
    let words = if depth == 0 {
        *votes += 2;
        [LEAF, 0, 0, *votes - 2, 2]
    } else {
        let no = full_tree(depth - 1, builder, features, nodes, votes);
        let yes = full_tree(depth - 1, builder, features, nodes, votes);
        let feature = builder.rng.below(features as u64) as i32;
        let value = builder.rng.normal_f32().to_bits() as i32;
        [builder.rng.below(6) as i32, feature, value, yes, no]
    };
    nodes[at..at + NODE_WORDS].copy_from_slice(&words);
    (at / NODE_WORDS) as i32
}

#[test]
fn decision_trees() {
    for aggregate in [Aggregate::Sum, Aggregate::Average, Aggregate::Min, Aggregate::Max] {
        for [rows, features, targets, trees, depth] in [[1, 5, 1, 9, 3], [3, 7, 5, 4, 6], [400, 3, 2, 33, 5]]
        {
            let mut builder = Builder::new();
            let x = builder.input(&[rows, features]);
            let (mut nodes, mut roots, mut votes) = (vec![], vec![], 0);
            for _ in 0..trees {
                roots.push(full_tree(depth, &mut builder, features, &mut nodes, &mut votes));
            }
            let ids: Vec<i32> = (0..votes).map(|_| builder.rng.below(targets as u64) as i32).collect();
            let mut operands = vec![x];
            for words in [&nodes, &roots, &ids] {
                let tensor = Tensor::from_slice(DType::I32, [words.len()].into(), words);
                operands.push(builder.graph.add_const("words", tensor));
            }
            operands.push(builder.constant(&[votes as usize]));
            // What is before it may be turned: the rows must lie one after the other.
            let x = builder.same(Op::Unary(Unary::Relu), &[x]);
            operands[0] = x;
            let y = builder.node(Op::TreeEnsemble(aggregate), &operands, &[rows, targets]);
            let y = builder.same(Op::Unary(Unary::Neg), &[y]);
            builder.check(&format!("{aggregate:?} of {trees} trees"), &[y]);
        }
    }
}
