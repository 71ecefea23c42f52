//! Operators of quantised networks against the reference: every result to the last bit, on the interpreter
//! and on the CPU, on every instruction set of this machine.
#![allow(missing_docs)]

mod harness;

use harness::{Builder, compiled, target};
use reef_base::Rng;
use reef_compile::{CompileOptions, compile_and_inspect};
use reef_cpu::CpuCutter;
use reef_graph::reference::store;
use reef_graph::scalar::Element;
use reef_graph::{
    Binary, ConvAttrs, DType, Graph, Op, Quantization, Shape, Tensor, Unary, ValueId, ZeroPoints,
    dynamic_quantize,
};
use reef_plan::{Isa, KernelSpec, WeightStore};
use std::sync::Arc;

use DType::{F16, F32, I8, I16, I32, U8, U16};

/// A graph and the values of its inputs, of the whole range of their types.
struct Case {
    builder: Builder,
    inputs: Vec<Tensor>,
    rng: Rng,
}

impl Case {
    fn new(seed: u64) -> Case {
        Case { builder: Builder::new(), inputs: vec![], rng: Rng::new(seed) }
    }

    fn integers(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let count: usize = shape.iter().product();
        let bytes: Vec<u8> = (0..count * dtype.bytes())
            .map(|_| match self.rng.below(8) {
                // The extremes of both types.
                0 => [0, 255, 127, 128][self.rng.below(4) as usize],
                _ => self.rng.below(256) as u8,
            })
            .collect();
        Tensor::new(dtype, Shape::new(shape), Arc::new(reef_base::AlignedBytes::copy_from(&bytes)))
    }

    fn floats(&mut self, shape: &[usize], magnitude: f32) -> Tensor {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| self.rng.normal_f32() * magnitude).collect();
        Tensor::f32(Shape::new(shape), &values)
    }

    fn input(&mut self, tensor: Tensor) -> ValueId {
        let id = self.builder.typed_input(tensor.dtype(), &tensor.shape().clone());
        self.inputs.push(tensor);
        id
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        let name = format!("c{}", self.builder.graph.values.len());
        self.builder.graph.add_const(name, tensor)
    }

    fn byte(&mut self, dtype: DType, byte: u8) -> ValueId {
        self.constant(Tensor::from_slice(dtype, Shape::from([]), &[byte]))
    }

    fn node(&mut self, op: Op, inputs: &[ValueId], dtype: DType, shape: &[usize]) -> ValueId {
        self.builder.typed_node(op, inputs, dtype, shape)
    }

    /// A node of its first operand's shape.
    fn same(&mut self, op: Op, inputs: &[ValueId], dtype: DType) -> ValueId {
        let shape = self.builder.shape(inputs[0]);
        self.node(op, inputs, dtype, &shape)
    }

    fn graph(&mut self, outputs: &[ValueId]) -> &Graph {
        outputs.iter().for_each(|&id| self.builder.output(id));
        &self.builder.graph
    }

    /// Compares with the reference; gives the plan's kernels.
    fn check(mut self, what: &str, outputs: &[ValueId]) -> Vec<KernelSpec> {
        self.graph(outputs);
        let graph = &self.builder.graph;
        harness::check_exactly(what, graph, &self.inputs);
        let plan = compiled(graph, target(Isa::Avx512, 2, 0)).plan;
        plan.kernels().iter().map(|kernel| kernel.spec.clone()).collect()
    }
}

const NONE: ZeroPoints = ZeroPoints { left: false, right: false };
const LEFT: ZeroPoints = ZeroPoints { left: true, right: false };
const BOTH: ZeroPoints = ZeroPoints { left: true, right: true };

fn count(kernels: &[KernelSpec], which: fn(&KernelSpec) -> bool) -> usize {
    kernels.iter().filter(|kernel| which(kernel)).count()
}

#[test]
fn products_with_constant_weights() {
    let shapes: [(&[usize], usize, usize); 7] = [
        (&[1], 1, 1),
        (&[1], 7, 5),
        (&[3], 16, 16),
        (&[13], 37, 33),
        (&[2, 5], 4, 100),
        (&[3, 1, 7], 130, 65),
        (&[40], 515, 70),
    ];
    for (seed, (rows, depth, columns)) in shapes.into_iter().enumerate() {
        for (type_a, type_b) in [(U8, I8), (U8, U8), (I8, I8), (I8, U8)] {
            for zeros in 0..4 {
                let mut case = Case::new(seed as u64);
                let a_shape = [rows, &[depth]].concat();
                let a = case.integers(type_a, &a_shape);
                let b = case.integers(type_b, &[depth, columns]);
                let (a, b) = (case.input(a), case.constant(b));
                let mut operands = vec![a, b];
                let points = match zeros {
                    0 => NONE,
                    1 => {
                        let zero = case.byte(type_a, [0, 255, 127, 128][seed % 4]);
                        operands.push(zero);
                        LEFT
                    }
                    2 => {
                        let (left, right) = (case.integers(type_a, &[]), case.integers(type_b, &[columns]));
                        operands.push(case.input(left));
                        let right = case.constant(right);
                        operands.push(right);
                        BOTH
                    }
                    _ => {
                        let by_row = [rows, &[1]].concat();
                        let (left, right) = (case.integers(type_a, &by_row), case.integers(type_b, &[1]));
                        operands.push(case.input(left));
                        operands.push(case.input(right));
                        BOTH
                    }
                };
                let y = case.node(Op::MatMulInteger(points), &operands, I32, &[rows, &[columns]].concat());
                let what = format!("{rows:?} {depth} {columns} {type_a} {type_b}, zero points {zeros}");
                let kernels = case.check(&what, &[y]);
                assert_eq!(count(&kernels, |spec| matches!(spec, KernelSpec::IntegerConv(_))), 1, "{what}");
            }
        }
    }
}

#[test]
fn products_of_computed_operands() {
    let shapes: [(&[usize], &[usize], [usize; 3]); 6] = [
        (&[], &[], [1, 1, 1]),
        (&[], &[], [5, 9, 18]),
        (&[3], &[3], [7, 34, 40]),
        (&[2, 3], &[1, 3], [13, 64, 17]),
        (&[3, 1], &[2], [2, 6, 3]),
        (&[2], &[], [30, 515, 31]),
    ];
    for (seed, (lead_a, lead_b, [m, k, n])) in shapes.into_iter().enumerate() {
        for (type_a, type_b) in [(U8, I8), (U8, U8), (I8, I8), (I8, U8)] {
            for zeros in 0..3 {
                let mut case = Case::new(seed as u64);
                let lead = Shape::new(lead_a).broadcast(&Shape::new(lead_b)).unwrap();
                let a = case.integers(type_a, &[lead_a, &[m, k]].concat());
                let b = case.integers(type_b, &[lead_b, &[n, k]].concat());
                let (a, b) = (case.input(a), case.input(b));
                let rank = lead_b.len() + 2;
                let perm: Vec<usize> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
                let b = case.node(Op::Transpose { perm }, &[b], type_b, &[lead_b, &[k, n]].concat());
                let mut operands = vec![a, b];
                let points = match zeros {
                    0 => NONE,
                    1 => {
                        let (left, right) = (case.integers(type_a, &[1]), case.integers(type_b, &[]));
                        operands.push(case.input(left));
                        operands.push(case.input(right));
                        BOTH
                    }
                    _ => {
                        let left = case.integers(type_a, &[lead_a, &[m, 1]].concat());
                        let right = case.integers(type_b, &[lead_b, &[1, n]].concat());
                        operands.push(case.input(left));
                        operands.push(case.input(right));
                        BOTH
                    }
                };
                let y = case.node(Op::MatMulInteger(points), &operands, I32, &[&lead[..], &[m, n]].concat());
                let what = format!("{lead_a:?} {lead_b:?} {m} {k} {n} {type_a} {type_b}, {zeros}");
                let kernels = case.check(&what, &[y]);
                assert_eq!(count(&kernels, |spec| matches!(spec, KernelSpec::IntegerMatMul(_))), 1, "{what}");
            }
        }
    }
}

fn conv(kernel: [usize; 2], strides: [usize; 2], pads: [usize; 4], groups: usize) -> ConvAttrs {
    ConvAttrs { kernel, strides, pads, dilations: [1, 1], groups }
}

/// A convolution of integers over an input, with constant weights.
fn add_conv(
    case: &mut Case,
    [type_x, type_w]: [DType; 2],
    x_shape: [usize; 4],
    outputs: usize,
    attrs: &ConvAttrs,
    zeros: usize,
) -> ValueId {
    let x = case.integers(type_x, &x_shape);
    let weights =
        case.integers(type_w, &[outputs, x_shape[1] / attrs.groups, attrs.kernel[0], attrs.kernel[1]]);
    let mut operands = vec![case.input(x)];
    operands.push(case.constant(weights));
    let points = match zeros {
        0 => NONE,
        1 => {
            operands.push(case.byte(type_x, 255));
            LEFT
        }
        _ => {
            let (left, right) = (case.integers(type_x, &[]), case.integers(type_w, &[outputs]));
            operands.push(case.input(left));
            operands.push(case.constant(right));
            BOTH
        }
    };
    let extent = |axis: usize| {
        let reach = (attrs.kernel[axis] - 1) * attrs.dilations[axis] + 1;
        (x_shape[2 + axis] + attrs.pads[axis] + attrs.pads[2 + axis] - reach) / attrs.strides[axis] + 1
    };
    let shape = [x_shape[0], outputs, extent(0), extent(1)];
    case.node(Op::ConvInteger(attrs.clone(), points), &operands, I32, &shape)
}

#[test]
fn convolutions() {
    let cases: [([usize; 4], usize, ConvAttrs); 7] = [
        ([1, 3, 9, 8], 10, conv([3, 3], [1, 1], [1; 4], 1)),
        ([3, 3, 11, 10], 18, conv([5, 3], [2, 2], [2, 1, 0, 1], 1)),
        ([1, 8, 5, 5], 17, conv([1, 1], [1, 1], [0; 4], 1)),
        ([3, 10, 6, 5], 15, conv([3, 3], [1, 1], [1; 4], 5)),
        ([1, 6, 7, 7], 6, conv([3, 3], [1, 1], [1; 4], 6)),
        ([2, 5, 4, 4], 20, conv([1, 1], [2, 2], [0; 4], 1)),
        ([1, 4, 9, 9], 5, ConvAttrs { dilations: [2, 3], ..conv([3, 2], [1, 2], [2, 0, 1, 3], 1) }),
    ];
    for (seed, (x, outputs, attrs)) in cases.into_iter().enumerate() {
        for types in [[U8, I8], [U8, U8], [I8, I8]] {
            for zeros in 0..3 {
                let mut case = Case::new(seed as u64);
                let y = add_conv(&mut case, types, x, outputs, &attrs, zeros);
                case.check(&format!("{x:?} {attrs:?} {types:?}, zero points {zeros}"), &[y]);
            }
        }
    }
}

/// What exporters write behind a product, in this order.
#[derive(Clone, Copy)]
struct Behind {
    bias: bool,
    /// By channel.
    scale: bool,
    shift: bool,
    /// To integers and back.
    rounding: bool,
    residual: bool,
    /// The residual's integers, where it is made of such.
    of: Option<DType>,
    relu: bool,
    to: Option<DType>,
}

const AS_FLOATS: Behind = Behind {
    bias: true,
    scale: true,
    shift: true,
    rounding: false,
    residual: false,
    of: None,
    relu: false,
    to: None,
};

fn add_behind(case: &mut Case, sum: ValueId, axis: usize, behind: Behind, magnitude: f32) -> ValueId {
    let shape = case.builder.shape(sum);
    let rank = shape.len();
    let mut by_channel = vec![1; rank - axis];
    by_channel[0] = shape[axis];
    let mut y = sum;
    if behind.bias {
        let values: Vec<i32> = (0..shape[axis]).map(|i| i as i32 * 1000 - 3000).collect();
        let bias = case.constant(Tensor::from_slice(I32, Shape::new(&by_channel), &values));
        y = case.same(Op::Binary(Binary::Add), &[y, bias], I32);
    }
    y = case.same(Op::Cast { to: F32 }, &[y], F32);
    let scales = if behind.scale { by_channel.clone() } else { vec![] };
    let scales = case.floats(&scales, magnitude);
    let scales = case.input(scales);
    y = case.same(Op::Binary(Binary::Mul), &[y, scales], F32);
    if behind.shift {
        let shift = case.floats(&by_channel, 1.0);
        let shift = case.constant(shift);
        y = case.same(Op::Binary(Binary::Add), &[y, shift], F32);
    }
    if behind.rounding {
        let (scale, zero) = (case.builder.scalar(0.021), case.byte(U8, 60));
        let how = Quantization::by_tensor(8);
        y = case.same(Op::Quantize(how), &[y, scale, zero], U8);
        let (scale, zero) = (case.builder.scalar(0.023), case.byte(U8, 61));
        y = case.same(Op::Dequantize(how), &[y, scale, zero], F32);
    }
    if behind.residual {
        let residual = match behind.of {
            None => case.floats(&shape, 1.0),
            Some(dtype) => case.integers(dtype, &shape),
        };
        let mut residual = case.input(residual);
        if let Some(dtype) = behind.of {
            let (scale, zero) = (case.builder.scalar(0.019), case.byte(dtype, 33));
            let how = Op::Dequantize(Quantization::by_tensor(8));
            residual = case.same(how, &[residual, scale, zero], F32);
        }
        y = case.node(Op::Binary(Binary::Add), &[residual, y], F32, &shape);
    }
    if behind.relu {
        y = case.same(Op::Unary(Unary::Relu), &[y], F32);
    }
    if let Some(to) = behind.to {
        let scale = case.builder.scalar(0.037);
        let zero = case.byte(to, 100);
        y = case.same(Op::Quantize(Quantization::by_tensor(8)), &[y, scale, zero], to);
    }
    y
}

fn behinds() -> impl Iterator<Item = Behind> {
    (0..128).map(|bits| Behind {
        bias: bits & 1 > 0,
        scale: bits & 2 > 0,
        shift: bits & 4 > 0,
        rounding: bits & 64 > 0,
        residual: bits & 8 > 0,
        of: if bits & 64 > 0 { Some([U8, I8][bits % 5 / 3]) } else { None },
        relu: bits & 16 > 0,
        to: if bits & 32 > 0 { Some([U8, I8][bits % 3 / 2]) } else { None },
    })
}

#[test]
fn what_follows_a_product_is_one_kernel_with_it() {
    for (index, behind) in behinds().enumerate() {
        let mut case = Case::new(index as u64);
        let (a, b) = (case.integers(U8, &[3, 5, 37]), case.integers(I8, &[37, 35]));
        let (a, b, zero) = (case.input(a), case.constant(b), case.byte(U8, 131));
        let sum = case.node(Op::MatMulInteger(LEFT), &[a, b, zero], I32, &[3, 5, 35]);
        let y = add_behind(&mut case, sum, 2, behind, 1e-4);
        let kernels = case.check(&format!("product, tail {index}"), &[y]);
        assert_eq!(kernels.len(), 1, "{kernels:#?}");
        let mut case = Case::new(index as u64);
        let sum = add_conv(&mut case, [U8, I8], [2, 3, 6, 5], 19, &conv([3, 3], [1, 1], [1; 4], 1), 2);
        let y = add_behind(&mut case, sum, 1, behind, 1e-4);
        let kernels = case.check(&format!("convolution, tail {index}"), &[y]);
        let products = count(&kernels, |spec| matches!(spec, KernelSpec::IntegerConv(_)));
        let others =
            count(&kernels, |spec| matches!(spec, KernelSpec::Elementwise(spec) if spec.program.len() > 1));
        assert_eq!((products, others), (1, 0), "{kernels:#?}");
        let mut case = Case::new(index as u64);
        let (a, b) = (case.integers(I8, &[2, 5, 12]), case.integers(U8, &[2, 12, 19]));
        let (a, b) = (case.input(a), case.input(b));
        let sum = case.node(Op::MatMulInteger(NONE), &[a, b], I32, &[2, 5, 19]);
        let y = add_behind(&mut case, sum, 2, behind, 1e-3);
        let kernels = case.check(&format!("computed product, tail {index}"), &[y]);
        assert!(behind.residual || kernels.len() == 1, "{kernels:#?}");
    }
}

/// As in a file where the shortcut's numbers stand before the branch.
#[test]
fn numbers_of_a_residual_may_be_made_before_the_product() {
    let mut case = Case::new(5);
    let residual = case.integers(U8, &[5, 7]);
    let residual = case.input(residual);
    let (scale, zero) = (case.builder.scalar(0.019), case.byte(U8, 33));
    let numbers = case.same(Op::Dequantize(Quantization::by_tensor(8)), &[residual, scale, zero], F32);
    let (a, b) = (case.integers(U8, &[5, 9]), case.integers(I8, &[9, 7]));
    let (a, b) = (case.input(a), case.constant(b));
    let sum = case.node(Op::MatMulInteger(NONE), &[a, b], I32, &[5, 7]);
    let y = add_behind(&mut case, sum, 1, Behind { rounding: true, ..AS_FLOATS }, 1e-3);
    let y = case.same(Op::Binary(Binary::Add), &[numbers, y], F32);
    let y = case.same(Op::Unary(Unary::Relu), &[y], F32);
    let (scale, zero) = (case.builder.scalar(0.037), case.byte(U8, 100));
    let y = case.same(Op::Quantize(Quantization::by_tensor(8)), &[y, scale, zero], U8);
    let kernels = case.check("numbers first", &[y]);
    assert_eq!(kernels.len(), 1, "{kernels:#?}");
}

#[test]
fn a_value_that_others_read_stays_whole() {
    let mut case = Case::new(1);
    let (a, b) = (case.integers(U8, &[5, 9]), case.integers(I8, &[9, 7]));
    let (a, b) = (case.input(a), case.constant(b));
    let sum = case.node(Op::MatMulInteger(NONE), &[a, b], I32, &[5, 7]);
    let behind = Behind { residual: true, relu: true, to: Some(U8), ..AS_FLOATS };
    let y = add_behind(&mut case, sum, 1, behind, 1e-3);
    case.check("sum and result", &[sum, y]);
}

#[test]
fn dynamic_quantisation_before_a_product() {
    for rows in [&[1][..], &[13], &[3, 7]] {
        let mut case = Case::new(3);
        let x = case.floats(&[rows, &[30]].concat(), 2.0);
        let x = case.input(x);
        let [q, scale, zero] = dynamic_quantize(&mut case.builder.graph, "dynamic", x);
        let weights = case.integers(I8, &[30, 21]);
        let weights = case.constant(weights);
        let shape = [rows, &[21]].concat();
        let sum = case.node(Op::MatMulInteger(LEFT), &[q, weights, zero], I32, &shape);
        let by_channel = case.floats(&[21], 0.01);
        let by_channel = case.constant(by_channel);
        let scales = case.node(Op::Binary(Binary::Mul), &[scale, by_channel], F32, &[21]);
        let float = case.same(Op::Cast { to: F32 }, &[sum], F32);
        let scaled = case.same(Op::Binary(Binary::Mul), &[float, scales], F32);
        let bias = case.floats(&[21], 1.0);
        let bias = case.constant(bias);
        let y = case.node(Op::Binary(Binary::Add), &[bias, scaled], F32, &shape);
        let kernels = case.check(&format!("{rows:?}"), &[y]);
        let with_tail = |spec: &KernelSpec| match spec {
            KernelSpec::IntegerConv(spec) => spec.epilogue.scaled.is_some_and(|scaled| scaled.shift),
            _ => false,
        };
        assert_eq!(count(&kernels, with_tail), 1, "{kernels:#?}");
    }
    for special in [[0.0, -0.0], [f32::MIN_POSITIVE, 0.0], [-1.0, -1.0], [3.0, 3.0], [1e38, -1e38]] {
        let mut case = Case::new(3);
        let x = case.input(Tensor::f32([2], &special));
        let outputs = dynamic_quantize(&mut case.builder.graph, "dynamic", x);
        case.check(&format!("{special:?}"), &outputs);
    }
}

/// Extremes are those of parts first, scale and zero point are computed beside each other, and nothing waits
/// for single elements longer than it must.
#[test]
fn dynamic_quantisation_has_few_stages() {
    // Of 4099 elements no number of equal parts is larger than 1.
    let table: [(&[usize], usize); 4] =
        [(&[1, 16, 24, 24], 4), (&[2, 5, 31, 33], 4), (&[3, 2048], 4), (&[4099], 3)];
    for (shape, stages) in table {
        for special in [None, Some(f32::NAN), Some(f32::INFINITY)] {
            let mut case = Case::new(4);
            let mut values = case.floats(shape, 3.0).values::<f32>().to_vec();
            let last = values.len() - 1;
            values[last - 1] = special.unwrap_or(-50.0);
            let x = case.input(Tensor::f32(Shape::new(shape), &values));
            let outputs = dynamic_quantize(&mut case.builder.graph, "dynamic", x);
            let what = format!("{shape:?} with {special:?}");
            outputs.iter().for_each(|&id| case.builder.output(id));
            harness::check_exactly(&what, &case.builder.graph, &case.inputs);
            let plan = compiled(&case.builder.graph, target(Isa::Avx512, 2, 0)).plan;
            assert_eq!(plan.stages().len(), stages, "{what}: {:#?}", plan.kernels());
        }
    }
}

#[test]
fn quantising_and_back() {
    let shapes: [&[usize]; 4] = [&[], &[7], &[3, 10], &[1, 5, 4, 3]];
    for (seed, shape) in shapes.into_iter().enumerate() {
        for to in [U8, I8, U16, I16] {
            for bits in [to.bytes() as u32 * 8, 4] {
                for (axis, block) in granularities(shape) {
                    let how = Quantization { axis: axis.unwrap_or(0), block, bits };
                    let scales = match axis {
                        None => Shape::from([]),
                        Some(_) => how.scales(&Shape::new(shape)),
                    };
                    let mut case = Case::new(seed as u64);
                    let x = case.floats(shape, 40.0);
                    let x = case.input(x);
                    let scale = case.floats(&scales, 1.0);
                    let scale = case.input(scale);
                    let zero = case.integers(to, &scales);
                    let zero = case.input(zero);
                    let q = case.same(Op::Quantize(how), &[x, scale, zero], to);
                    let plain = case.same(Op::Quantize(how), &[x, scale], to);
                    let back = case.same(Op::Dequantize(how), &[q, scale, zero], F32);
                    let relu = case.same(Op::Unary(Unary::Relu), &[back], F32);
                    let again = case.same(Op::Quantize(how), &[relu, scale, zero], to);
                    case.check(&format!("{shape:?} {how:?} {to}"), &[q, plain, back, again]);
                }
            }
        }
    }
}

fn granularities(shape: &[usize]) -> Vec<(Option<usize>, usize)> {
    let mut all = vec![(None, 0)];
    for axis in 0..shape.len() {
        all.extend([(Some(axis), 0), (Some(axis), 1), (Some(axis), 3), (Some(axis), 100)]);
    }
    all
}

#[test]
fn quantised_numbers_at_the_edges() {
    let values = [
        0.5,
        1.5,
        2.5,
        -0.5,
        -1.5,
        126.5,
        127.5,
        128.5,
        254.5,
        255.5,
        -127.5,
        -128.5,
        1e9,
        -1e9,
        3e38,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        -0.0,
        1e-40,
    ];
    for to in [U8, I8, U16, I16] {
        for zero in [0, 127, 128, 255] {
            let mut case = Case::new(0);
            let x = case.input(Tensor::f32([values.len()], &values));
            let zero = if to == I8 { zero - 128 } else { zero };
            let zero = store(&[Element::Int(zero)], to, &Shape::from([]));
            let zero = case.constant(zero);
            let one = case.builder.scalar(1.0);
            let tiny = case.builder.scalar(1e-38);
            let how = Op::Quantize(Quantization::by_tensor(to.bytes() as u32 * 8));
            let a = case.same(how.clone(), &[x, one, zero], to);
            let b = case.same(how, &[x, tiny], to);
            case.check(&format!("{to}"), &[a, b]);
        }
    }
    // f16 in and out, i32 in.
    let mut case = Case::new(0);
    let halves: Vec<half::f16> = values.iter().map(|&x| half::f16::from_f32(x)).collect();
    let x = case.input(Tensor::from_slice(F16, [values.len()].into(), &halves));
    let scale = case.constant(Tensor::from_slice(F16, Shape::from([]), &[half::f16::from_f32(0.3)]));
    let q = case.same(Op::Quantize(Quantization::by_tensor(8)), &[x, scale], U8);
    let back = case.same(Op::Dequantize(Quantization::by_tensor(8)), &[q, scale], F16);
    let float = case.same(Op::Cast { to: F32 }, &[back], F32);
    let twice = case.same(Op::Binary(Binary::Add), &[float, float], F32);
    let i = case.input(Tensor::from_slice(I32, [4].into(), &[i32::MIN, i32::MAX, 16_777_217, -5]));
    let scale = case.builder.scalar(1000.0);
    let from_int = case.same(Op::Quantize(Quantization::by_tensor(16)), &[i, scale], I16);
    let zero = case.constant(Tensor::from_slice(I32, Shape::from([]), &[7]));
    let to_float = case.same(Op::Dequantize(Quantization::by_tensor(8)), &[i, scale, zero], F32);
    case.check("f16 and i32", &[q, back, twice, from_int, to_float]);
}

/// Shapes of x and of the weights, whose scales are along an axis; the product and its shape.
type Static<'a> = (&'a [usize], (&'a [usize], usize), Op, &'a [usize]);

/// `Dequantize` of both factors, the product, and perhaps the way back: static quantisation as it is written.
fn add_static(
    case: &mut Case,
    x: (DType, &[usize]),
    w: (&[usize], usize),
    op: Op,
    shape: &[usize],
) -> ValueId {
    let (integers, weights) = (case.integers(x.0, x.1), case.integers(I8, w.0));
    let (integers, weights) = (case.input(integers), case.constant(weights));
    let (scale, zero) = (case.builder.scalar(0.02), case.byte(x.0, 120));
    let by_tensor = Op::Dequantize(Quantization::by_tensor(8));
    let float = case.same(by_tensor, &[integers, scale, zero], F32);
    let scales: Vec<f32> = (0..w.0[w.1]).map(|i| 0.001 + i as f32 * 1e-4).collect();
    let count = scales.len();
    let scales = case.constant(Tensor::f32([count], &scales));
    let how = Quantization { axis: w.1, block: 0, bits: 8 };
    let weights = case.same(Op::Dequantize(how), &[weights, scales], F32);
    let mut operands = vec![float, weights];
    if matches!(op, Op::Conv(_)) {
        let whole: Vec<i32> = (0..count).map(|i| i as i32 * 100 - 700).collect();
        let whole = case.constant(Tensor::from_slice(I32, [count].into(), &whole));
        let scales: Vec<f32> = (0..count).map(|i| 0.02 * (0.001 + i as f32 * 1e-4)).collect();
        let scales = case.constant(Tensor::f32([count], &scales));
        let how = Quantization { axis: 0, block: 0, bits: 8 };
        operands.push(case.same(Op::Dequantize(how), &[whole, scales], F32));
    }
    case.node(op, &operands, F32, shape)
}

#[test]
fn static_quantisation_is_computed_in_integers() {
    let matrix = |trans_b| Op::MatMul { trans_a: false, trans_b };
    let window = conv([3, 3], [1, 1], [1; 4], 1);
    for back in [false, true] {
        let cases: [Static; 3] = [
            (&[3, 5, 37], (&[37, 21], 1), matrix(false), &[3, 5, 21]),
            (&[5, 37], (&[21, 37], 0), matrix(true), &[5, 21]),
            (&[2, 6, 5, 7], (&[19, 6, 3, 3], 0), Op::Conv(window.clone()), &[2, 19, 5, 7]),
        ];
        for (x, w, op, shape) in cases {
            let mut case = Case::new(5);
            let what = op.name();
            let mut y = add_static(&mut case, (U8, x), w, op, shape);
            y = case.same(Op::Unary(Unary::Relu), &[y], F32);
            if back {
                let (scale, zero) = (case.builder.scalar(0.07), case.byte(U8, 3));
                y = case.same(Op::Quantize(Quantization::by_tensor(8)), &[y, scale, zero], U8);
            }
            case.graph(&[y]);
            let (graph, inputs) = (&case.builder.graph, &case.inputs);
            let plan = compiled(graph, target(Isa::Avx512, 2, 0)).plan;
            let integers = |spec: &KernelSpec| matches!(spec, KernelSpec::IntegerConv(_));
            let arithmetic = |spec: &KernelSpec| match spec {
                KernelSpec::Elementwise(spec) => spec.program.len() > 1,
                _ => true,
            };
            let kernels: Vec<_> = plan.kernels().iter().map(|kernel| &kernel.spec).collect();
            assert_eq!(kernels.iter().filter(|spec| integers(spec)).count(), 1, "{what}: {plan}");
            assert_eq!(kernels.iter().filter(|spec| arithmetic(spec)).count(), 1, "{what}: {plan}");
            if !back {
                let expected = reef_compile::reference::evaluate(graph, inputs).unwrap();
                harness::check_targets(what, graph, &[], inputs, &expected);
                continue;
            }
            // The reference sums floats: what lies between two integers may become the other one.
            let expected = &reef_compile::reference::evaluate(graph, inputs).unwrap()[0];
            let got = reef_compile::interpret::run(&plan, inputs).unwrap();
            let steps = |tensor: &Tensor| Element::all(tensor).into_iter().map(Element::int);
            let off = steps(&got[0]).zip(steps(expected)).map(|(a, b)| (a - b).abs()).max().unwrap();
            assert!(off <= 1, "{what}: {off} steps");
        }
    }
}

/// Parts of a concatenation are made in its buffer, pixels of bytes side by side; what follows sums branches.
#[test]
fn branches_of_bytes_are_joined_and_summed() {
    [false, true].into_iter().for_each(branches);
}

/// With `relu` there is one before the branch's own integers: then the sum is a kernel of its own.
fn branches(relu: bool) {
    let mut case = Case::new(9);
    let to_bytes = Behind { relu: true, to: Some(U8), ..AS_FLOATS };
    let window = conv([3, 3], [1, 1], [1; 4], 1);
    let mut parts = vec![];
    for (index, outputs) in [5, 16, 18].into_iter().enumerate() {
        let sum = add_conv(&mut case, [U8, I8], [2, 3, 6, 5], outputs, &window, index);
        parts.push(add_behind(&mut case, sum, 1, to_bytes, 1e-4));
    }
    let joined = case.node(Op::Concat { axis: 1 }, &parts, U8, &[2, 39, 6, 5]);
    let weights = case.integers(I8, &[39, 39, 1, 1]);
    let weights = case.constant(weights);
    let op = Op::ConvInteger(conv([1, 1], [1, 1], [0; 4], 1), NONE);
    let sum = case.node(op, &[joined, weights], I32, &[2, 39, 6, 5]);
    let y = add_behind(&mut case, sum, 1, Behind { relu, ..to_bytes }, 1e-4);
    let (scale, zero) = (case.builder.scalar(0.3), case.byte(U8, 40));
    let back = Op::Dequantize(Quantization::by_tensor(8));
    let left = case.same(back.clone(), &[joined, scale, zero], F32);
    let right = case.same(back, &[y, scale], F32);
    let total = case.same(Op::Binary(Binary::Add), &[left, right], F32);
    let z = case.same(Op::Quantize(Quantization::by_tensor(8)), &[total, scale, zero], U8);
    let kernels = case.check("branches", &[z]);
    let arithmetic =
        count(&kernels, |spec| matches!(spec, KernelSpec::Elementwise(spec) if spec.program.len() > 1));
    assert_eq!(arithmetic, usize::from(relu), "{kernels:#?}");
}

/// A residual of integers that others read as numbers stays a residual of numbers, and a sum of what others
/// read is made of what they read.
#[test]
fn residuals_that_others_read() {
    let mut case = Case::new(4);
    let (window, how) = (conv([3, 3], [1, 1], [1; 4], 1), Op::Dequantize(Quantization::by_tensor(8)));
    let sum = add_conv(&mut case, [U8, I8], [1, 3, 6, 5], 7, &window, 1);
    let shape = case.builder.shape(sum);
    let y = add_behind(&mut case, sum, 1, Behind { to: Some(U8), ..AS_FLOATS }, 1e-4);
    let (scale, zero) = (case.builder.scalar(0.3), case.byte(U8, 40));
    let residual = case.integers(U8, &shape);
    let residual = case.input(residual);
    let [own, other] = [y, residual].map(|id| case.same(how.clone(), &[id, scale, zero], F32));
    let total = case.same(Op::Binary(Binary::Add), &[own, other], F32);
    let twice = case.same(Op::Binary(Binary::Mul), &[other, other], F32);
    let z = case.same(Op::Quantize(Quantization::by_tensor(8)), &[total, scale, zero], U8);
    case.check("a residual with two readers", &[z, twice, y]);
}

/// One channel of a group has few products: floats are faster, and stay.
#[test]
fn depthwise_convolutions_stay_in_floats() {
    let mut case = Case::new(5);
    let op = Op::Conv(conv([3, 3], [1, 1], [1; 4], 6));
    let y = add_static(&mut case, (U8, &[1, 6, 5, 5]), (&[6, 1, 3, 3], 0), op, &[1, 6, 5, 5]);
    case.builder.check("depthwise", &[y]);
}

#[test]
fn sums_beyond_32_bits_wrap() {
    let mut case = Case::new(0);
    let depth = 70_000;
    let a = case.input(Tensor::from_slice(U8, [1, depth].into(), &vec![255u8; depth]));
    let b = case.constant(Tensor::from_slice(I8, [depth, 1].into(), &vec![0x80u8; depth]));
    let y = case.node(Op::MatMulInteger(NONE), &[a, b], I32, &[1, 1]);
    case.check("long sum", &[y]);
}

#[test]
fn products_over_nothing() {
    let mut case = Case::new(0);
    let (a, b) = (case.integers(U8, &[3, 0]), case.integers(I8, &[0, 4]));
    let (a, b) = (case.input(a), case.constant(b));
    let sum = case.node(Op::MatMulInteger(NONE), &[a, b], I32, &[3, 4]);
    let y = add_behind(&mut case, sum, 1, AS_FLOATS, 1.0);
    case.check("no product", &[y]);
}

fn refusal(graph: &Graph) -> String {
    let (store, cutter) = (Arc::new(WeightStore::new()), CpuCutter::new(target(Isa::Portable, 1, 0)));
    let options = CompileOptions { name: "test".into() };
    match compile_and_inspect(graph, &[], &store, &cutter, &options) {
        Ok(_) => panic!("it is compiled: {graph}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn types_and_shapes_that_do_not_fit_are_errors() {
    let check = |build: &dyn Fn(&mut Case) -> ValueId, reason: &str| {
        let mut case = Case::new(0);
        let y = build(&mut case);
        let inputs = case.inputs.clone();
        let graph = case.graph(&[y]);
        let error = reef_compile::reference::evaluate(graph, &inputs).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        let error = refusal(graph);
        assert!(error.contains(reason), "{error}");
    };
    let floats = |case: &mut Case, shape: &[usize]| {
        let tensor = case.floats(shape, 1.0);
        case.input(tensor)
    };
    let bytes = |case: &mut Case, dtype: DType, shape: &[usize]| {
        let tensor = case.integers(dtype, shape);
        case.input(tensor)
    };
    check(
        &|case| {
            let (a, b) = (floats(case, &[2, 3]), bytes(case, I8, &[3, 4]));
            case.node(Op::MatMulInteger(NONE), &[a, b], I32, &[2, 4])
        },
        "multiplies u8 and i8, not f32",
    );
    check(
        &|case| {
            let (a, b, zero) = (bytes(case, U8, &[2, 3]), bytes(case, I8, &[3, 4]), bytes(case, U8, &[2]));
            case.node(Op::MatMulInteger(LEFT), &[a, b, zero], I32, &[2, 4])
        },
        "has zero points [2] for rows of [2,3]",
    );
    check(
        &|case| {
            let (x, w) = (bytes(case, U8, &[1, 4, 5, 5]), bytes(case, U16, &[4, 4, 1, 1]));
            let attrs = conv([1, 1], [1, 1], [0; 4], 1);
            case.node(Op::ConvInteger(attrs, NONE), &[x, w], I32, &[1, 4, 5, 5])
        },
        "multiplies u8 and i8, not u16",
    );
    check(
        &|case| {
            let (x, scale) = (bytes(case, U8, &[3]), floats(case, &[]));
            case.same(Op::Quantize(Quantization::by_tensor(8)), &[x, scale], U8)
        },
        "quantises f32, f16 and i32, not u8",
    );
    check(
        &|case| {
            let (x, scale) = (floats(case, &[3, 4]), floats(case, &[4]));
            let how = Quantization { axis: 0, block: 0, bits: 8 };
            case.same(Op::Quantize(how), &[x, scale], U8)
        },
        "has scales [4] for [3,4] by axis 0",
    );
    check(
        &|case| {
            let (x, scale) = (floats(case, &[3]), floats(case, &[]));
            case.same(Op::Dequantize(Quantization::by_tensor(8)), &[x, scale], F32)
        },
        "reads f32 of 8 bits",
    );
}
