//! Numeric operators: values, types and special values as ONNX Runtime has them. `tests/oracle` compares many
//! more with ONNX Runtime itself.

use std::sync::Arc;

use bytemuck::{AnyBitPattern, NoUninit, pod_read_unaligned};
use reef_base::TaskKey;
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::Device;
use reef_graph::{DType, Op, ValueKind};
use tract_onnx::pb::tensor_proto::DataType;

use super::network::{Attr, Network, specialise};
use crate::{ImportError, OnnxModel, Specialised};

/// What a specialised model makes of its inputs: type and bytes of the first output.
pub(super) fn run(specialised: &Specialised, inputs: &[Vec<u8>]) -> (DType, Vec<u8>) {
    let options = CpuOptions { cus: Some(1), nice: 0, pin: false, ..CpuOptions::default() };
    let device = CpuDevice::start(options).expect("the device starts");
    let (graph, kernels) = (&specialised.graph, &specialised.host_kernels);
    let (cutter, options) = (device.cutter(None), reef_compile::CompileOptions::default());
    let plan = reef_compile::compile(graph, kernels, &Arc::default(), cutter.as_ref(), &options);
    let loaded = device.load(Arc::new(plan.expect("it compiles"))).expect("the device takes it");
    let mut io = device.alloc_io(loaded).expect("there is memory");
    for (to, from) in io.inputs.iter_mut().zip(inputs) {
        to.as_mut_slice().copy_from_slice(from);
    }
    device.submit(loaded, TaskKey::best_effort(0), io, 0).expect("the board is empty");
    let done = loop {
        match device.try_complete() {
            Some(done) => break done,
            None => std::thread::yield_now(),
        }
    };
    let value = graph.value(graph.outputs[0]);
    let bytes = value.shape.elements() * value.dtype.bytes();
    (value.dtype, done.io.outputs[0].as_slice()[..bytes].to_vec())
}

/// An input of a model with one operator.
pub(super) struct Given(pub DataType, pub Vec<usize>, pub Vec<u8>);

pub(super) fn given<T: NoUninit>(code: DataType, dims: &[usize], values: &[T]) -> Given {
    Given(code, dims.to_vec(), bytemuck::cast_slice(values).to_vec())
}

pub(super) fn f32s(dims: &[usize], values: &[f32]) -> Given {
    given(DataType::Float, dims, values)
}

pub(super) fn i64s(dims: &[usize], values: &[i64]) -> Given {
    given(DataType::Int64, dims, values)
}

/// A model of one operator whose first inputs are given at run time and the others are constants.
fn model(
    operator: &str,
    opset: i64,
    inputs: &[Given],
    constants: &[Given],
    attributes: &[(&str, Attr)],
) -> Network {
    let mut network = Network::default();
    network.opset(opset);
    let mut names = vec![];
    for (at, Given(code, dims, _)) in inputs.iter().enumerate() {
        let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
        network.input(&format!("x{at}"), *code, &dims.iter().map(String::as_str).collect::<Vec<_>>());
        names.push(format!("x{at}"));
    }
    for Given(code, dims, bytes) in constants {
        let dims: Vec<i64> = dims.iter().map(|&extent| extent as i64).collect();
        names.push(network.bytes_of(*code, &dims, bytes));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let y = network.node(operator, &names, attributes);
    // What the file says about the type of its output is not looked at here.
    network.output(&y, DataType::Float, &["K"]);
    network
}

pub(super) fn computed(
    operator: &str,
    opset: i64,
    inputs: &[Given],
    constants: &[Given],
    attributes: &[(&str, Attr)],
) -> (DType, Vec<u8>) {
    let network = model(operator, opset, inputs, constants, attributes);
    let dims: Vec<&[usize]> = inputs.iter().map(|Given(_, dims, _)| &dims[..]).collect();
    let bytes: Vec<Vec<u8>> = inputs.iter().map(|Given(_, _, bytes)| bytes.clone()).collect();
    run(&specialise(&network.model(), &dims), &bytes)
}

pub(super) fn f32s_of((dtype, bytes): (DType, Vec<u8>)) -> Vec<f32> {
    assert_eq!(dtype, DType::F32);
    elements(&bytes)
}

pub(super) fn i64s_of((dtype, bytes): (DType, Vec<u8>)) -> Vec<i64> {
    assert_eq!(dtype, DType::I64);
    elements(&bytes)
}

pub(super) fn close(values: &[f32], expected: &[f32]) {
    assert_eq!(values.len(), expected.len(), "{values:?}, not {expected:?}");
    for (value, expected) in values.iter().zip(expected) {
        let fine = (value - expected).abs() <= 1e-5 * expected.abs().max(1.0);
        assert!(
            fine || value == expected || (value.is_nan() && expected.is_nan()),
            "{value}, not {expected}"
        );
    }
}

fn einsum(equation: &str, inputs: &[Given]) -> (DType, Vec<u8>) {
    computed("Einsum", 17, inputs, &[], &[("equation", Attr::Text(equation))])
}

#[test]
fn sums_of_products_in_every_form() {
    let x = || f32s(&[2, 3], &[0., 1., 2., 3., 4., 5.]);
    close(&f32s_of(einsum("ij->", &[x()])), &[15.0]);
    close(&f32s_of(einsum("ij,ij->", &[x(), x()])), &[55.0]);
    close(&f32s_of(einsum(" i j -> j i ", &[x()])), &[0., 3., 1., 4., 2., 5.]);
    close(&f32s_of(einsum("BA", &[x()])), &[0., 3., 1., 4., 2., 5.]);
    let square = || f32s(&[2, 2], &[1., 2., 3., 4.]);
    close(&f32s_of(einsum("ii->i", &[square()])), &[1., 4.]);
    close(&f32s_of(einsum("ii", &[square()])), &[5.]);
    close(&f32s_of(einsum("ij,jk,kl->il", &[square(), square(), square()])), &[37., 54., 81., 118.]);
    close(&f32s_of(einsum("...ij,...jk", &[square(), square()])), &[7., 10., 15., 22.]);
    let wide = i64s(&[2, 2], &[1 << 40, 1, 3, (1 << 33) + 1]);
    assert_eq!(i64s_of(einsum("ij->i", &[wide])), [(1 << 40) + 1, (1 << 33) + 4]);
}

#[test]
fn exponents_are_reduced_without_overflow() {
    let rows = f32s(
        &[4, 3],
        &[
            1.,
            2.,
            3.,
            100.,
            99.,
            98.,
            -1000.,
            -1001.,
            -1002.,
            f32::NEG_INFINITY,
            f32::NEG_INFINITY,
            f32::NEG_INFINITY,
        ],
    );
    let made = computed("ReduceLogSumExp", 17, &[rows], &[], &[("axes", Attr::Ints(&[1]))]);
    close(&f32s_of(made), &[3.407_606, 100.407_6, -999.592_4, f32::NEG_INFINITY]);
    let rows = f32s(&[1, 3], &[0., 200., -200.]);
    close(&f32s_of(computed("LogSoftmax", 17, &[rows], &[], &[])), &[-200., 0., -400.]);
}

#[test]
fn integers_are_reduced_at_their_own_width() {
    let x = || i64s(&[2, 2], &[(1 << 40) + 1, 1 << 33, 1 << 31, -7]);
    let axis = || i64s(&[1], &[-1]);
    let reduced = |operator: &str| i64s_of(computed(operator, 18, &[x()], &[axis()], &[]));
    assert_eq!(reduced("ReduceSum"), [(1 << 40) + (1 << 33) + 1, (1 << 31) - 7]);
    assert_eq!(reduced("ReduceMean"), [((1 << 40) + (1 << 33) + 1) / 2, ((1 << 31) - 7) / 2]);
    assert_eq!(reduced("ReduceMax"), [(1 << 40) + 1, 1 << 31]);
    assert_eq!(reduced("ReduceProd"), [1 << 33, -7 << 31]);
}

/// The value of the model's output when nothing remains to compute.
fn folded(
    operator: &str,
    opset: i64,
    constants: &[Given],
    attributes: &[(&str, Attr)],
) -> reef_graph::Tensor {
    let graph = specialise(&model(operator, opset, &[], constants, attributes).model(), &[]).graph;
    match &graph.value(graph.outputs[0]).kind {
        ValueKind::Const(tensor) => tensor.clone(),
        other => panic!("{operator} is not known: {other:?}"),
    }
}

#[test]
fn reductions_of_nothing_are_neutral_elements() {
    let of_nothing = |operator: &str| {
        let nothing = f32s(&[2, 0], &[]);
        folded(operator, 18, &[nothing, i64s(&[1], &[1])], &[]).values::<f32>().to_vec()
    };
    assert_eq!(of_nothing("ReduceSum"), [0.0, 0.0]);
    assert_eq!(of_nothing("ReduceProd"), [1.0, 1.0]);
    assert_eq!(of_nothing("ReduceMax"), [f32::NEG_INFINITY; 2]);
    assert_eq!(of_nothing("ReduceMin"), [f32::INFINITY; 2]);
    assert_eq!(of_nothing("ReduceLogSumExp"), [f32::NEG_INFINITY; 2]);
    assert_eq!(of_nothing("ReduceMean"), [0.0, 0.0]);
}

#[test]
fn what_does_not_fit_a_quantised_type_is_the_nearest_that_does() {
    let x = || f32s(&[6], &[1e9, 3.4e38, f32::INFINITY, -1e9, 0.25, 0.35]);
    let quantised = |zero: Given| computed("QuantizeLinear", 17, &[x()], &[f32s(&[], &[0.1]), zero], &[]).1;
    assert_eq!(quantised(given(DataType::Uint8, &[], &[128u8])), [255, 255, 255, 0, 130, 132]);
    let signed: Vec<i8> = elements(&quantised(given(DataType::Int8, &[], &[0i8])));
    assert_eq!(signed, [127, 127, 127, -128, 2, 4]);
}

/// Where ONNX Runtime rounds otherwise than numbers between the integers would; all are its integers.
#[test]
fn quantised_products_and_softmax_are_onnx_runtimes() {
    let made = |operator: &str, x: Given, constants: &[Given], attributes: &[(&str, Attr)]| {
        let (dims, bytes) = (x.1.clone(), x.2.clone());
        let mut network = model(operator, 17, &[x], constants, attributes);
        network.domain("com.microsoft");
        run(&specialise(&network.model(), &[&dims]), &[bytes]).1
    };
    let byte = |value: u8| given(DataType::Uint8, &[], &[value]);
    let bytes = |dims: &[usize], values: &[u8]| given(DataType::Uint8, dims, values);
    let half = || f32s(&[], &[0.5]);
    let y = bytes(&[8], &[0, 0, 0, 0, 0, 90, 9, 255]);
    let constants = [half(), byte(113), y, half(), byte(7), half(), byte(121)];
    let products = made("QLinearMul", bytes(&[8], &[76, 78, 80, 82, 84, 200, 113, 255]), &constants, &[]);
    assert_eq!(products, [250, 244, 236, 230, 222, 255, 121, 255]);
    let constants = [f32s(&[], &[0.05]), byte(100), f32s(&[], &[0.0041]), byte(3)];
    let attributes = [("axis", Attr::Int(-1)), ("opset", Attr::Int(13))];
    let x = bytes(&[3, 4], &[150, 170, 190, 160, 120, 120, 120, 200, 180, 181, 182, 183]);
    let shares = made("QLinearSoftmax", x, &constants, &attributes);
    assert_eq!(shares, [22, 55, 144, 34, 7, 7, 7, 233, 59, 62, 65, 68]);
}

#[test]
fn a_shape_without_a_value_is_filled_with_f32() {
    let tensor = folded("ConstantOfShape", 17, &[i64s(&[2], &[2, 3])], &[]);
    assert_eq!(tensor.values::<f32>(), [0.0; 6]);
}

#[test]
fn a_shift_by_the_width_leaves_nothing() {
    let x = || given(DataType::Uint8, &[4], &[255u8, 255, 255, 3]);
    let by = || given(DataType::Uint8, &[4], &[7u8, 8, 200, 1]);
    let shifted = |to: &str| computed("BitShift", 17, &[x(), by()], &[], &[("direction", Attr::Text(to))]).1;
    assert_eq!(shifted("LEFT"), [128, 0, 0, 6]);
    assert_eq!(shifted("RIGHT"), [1, 0, 0, 1]);
}

#[test]
fn the_sign_stays_when_all_else_is_shifted_out() {
    let x = || given(DataType::Int8, &[4], &[-5i8, -5, -5, 5]);
    let by = || given(DataType::Int8, &[4], &[1i8, 100, -1, -1]);
    let shifted = |to: &str| -> Vec<i8> {
        elements(&computed("BitShift", 17, &[x(), by()], &[], &[("direction", Attr::Text(to))]).1)
    };
    assert_eq!(shifted("RIGHT"), [-3, -1, -1, 0]);
    assert_eq!(shifted("LEFT"), [-10, 0, 0, 0]);
}

#[test]
fn running_sums_of_wide_integers() {
    let summed = |attributes: &[(&str, Attr)]| {
        let x = i64s(&[3], &[1 << 40, 1 << 41, 1]);
        i64s_of(computed("CumSum", 17, &[x], &[i64s(&[], &[0])], attributes))
    };
    assert_eq!(summed(&[]), [1 << 40, 3 << 40, (3 << 40) + 1]);
    let backwards = [("reverse", Attr::Int(1)), ("exclusive", Attr::Int(1))];
    assert_eq!(summed(&backwards), [(1 << 41) + 1, 1, 0]);
}

/// A conversion to 64 bits, between operators that have no native kernel for it.
#[test]
fn converted_integers_are_not_cut_to_32_bits() {
    let x = f32s(&[3], &[1e15, -1e15, 1_099_511_627_776.0]);
    let to = [("to", Attr::Int(DataType::Int64 as i64))];
    let expected = [999_999_986_991_104, -999_999_986_991_104, 1 << 40];
    assert_eq!(i64s_of(computed("Cast", 17, &[x], &[], &to)), expected);
    let mut network = Network::default();
    network.input("x", DataType::Float, &["3"]);
    let axis = network.integers(&[], &[0]);
    let whole = network.node("Cast", &["x"], &to);
    let y = network.node("CumSum", &[&whole, &axis], &[]);
    network.output(&y, DataType::Int64, &["3"]);
    let specialised = specialise(&network.model(), &[&[3]]);
    let bytes = bytemuck::cast_slice(&[1e15f32, -1e15, 1_099_511_627_776.0]).to_vec();
    assert_eq!(i64s_of(run(&specialised, &[bytes])), [expected[0], 0, 1 << 40]);
}

#[test]
fn functions_of_double_precision() {
    let made = |operator: &str| {
        let x = given(DataType::Double, &[3], &[-1.0f64, 0.5, 40.0]);
        let (dtype, bytes) = computed(operator, 17, &[x], &[], &[]);
        assert_eq!(dtype, DType::F64);
        elements::<f64>(&bytes)
    };
    let near = |values: Vec<f64>, expected: [f64; 3]| {
        let fine = values.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-14 * b.abs());
        assert!(fine, "{values:?}, not {expected:?}");
    };
    near(made("Sigmoid"), [0.268_941_421_369_995_1, 0.622_459_331_201_854_6, 1.0]);
    near(made("Erf"), [-0.842_700_792_949_714_9, 0.520_499_877_813_046_5, 1.0]);
    near(made("Round"), [-1.0, 0.0, 40.0]);
}

/// Every element-wise operator is native, in all types that it allows.
#[test]
fn nothing_that_is_element_wise_is_left_to_the_host() {
    let wholes = ["Abs", "Neg", "Sign", "BitwiseNot"];
    let twos =
        ["Add", "Sub", "Mul", "Div", "Mod", "Pow", "Max", "Min", "BitwiseAnd", "BitwiseXor", "Greater"];
    let floats = [
        "Acos",
        "Acosh",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "Ceil",
        "Celu",
        "Cosh",
        "Elu",
        "Erf",
        "Gelu",
        "IsInf",
        "IsNaN",
        "Mish",
        "Selu",
        "Shrink",
        "Sinh",
        "Softplus",
        "Softsign",
        "Tan",
        "ThresholdedRelu",
    ];
    let native = |operator: &str, inputs: usize, code: DataType, bytes: usize| {
        let given: Vec<Given> = (0..inputs).map(|_| Given(code, vec![3], vec![1; 3 * bytes])).collect();
        let network = model(operator, 20, &given, &[], &[]);
        let graph = specialise(&network.model(), &vec![&[3usize][..]; inputs]).graph;
        let hosted = graph.nodes.iter().any(|node| matches!(node.op, Op::Host(_)));
        assert!(!hosted, "{operator} of {code:?}: {graph}");
    };
    for (code, bytes) in
        [(DataType::Int8, 1), (DataType::Uint16, 2), (DataType::Int64, 8), (DataType::Uint64, 8)]
    {
        for operator in wholes {
            native(operator, 1, code, bytes);
        }
        for operator in twos {
            native(operator, 2, code, bytes);
        }
    }
    for (code, bytes) in [(DataType::Float, 4), (DataType::Float16, 2), (DataType::Double, 8)] {
        for operator in floats {
            native(operator, 1, code, bytes);
        }
    }
}

#[test]
fn products_and_folds_of_double_precision() {
    let (x, y) = ([1.0f64, 0.1, -2.0, 3.0, 4.0, 1e-9], [1.0f64, 0.3, 0.5, 2.0, -1.0, 7.0]);
    let given = |values: &[f64], dims: &[usize]| given(DataType::Double, dims, values);
    let made = computed("MatMul", 17, &[given(&x, &[2, 3])], &[given(&y, &[3, 2])], &[]).1;
    let at = |row: usize, column: usize| (0..3).map(|k| x[row * 3 + k] * y[k * 2 + column]).sum::<f64>();
    assert_eq!(elements::<f64>(&made), [at(0, 0), at(0, 1), at(1, 0), at(1, 1)]);
    let made = computed("ReduceSum", 11, &[given(&x, &[2, 3])], &[], &[("axes", Attr::Ints(&[1]))]).1;
    assert_eq!(elements::<f64>(&made), [1.0 + 0.1 - 2.0, 7.0 + 1e-9]);
}

/// Of real and of complex numbers, by one matrix and by several, there and back.
#[test]
fn fourier_transforms() {
    for elements in [6, 129, 480] {
        let x: Vec<f32> = (0..2 * elements).map(|at| ((at * 7 % 31) as f32 - 15.0) / 8.0).collect();
        let made = f32s_of(computed("DFT", 17, &[f32s(&[1, elements, 2], &x)], &[], &[]));
        for bin in [0, 1, elements / 2, elements - 1] {
            let (mut real, mut imaginary) = (0.0, 0.0);
            for at in 0..elements {
                let angle = -std::f64::consts::TAU * (at * bin % elements) as f64 / elements as f64;
                let (re, im) = (f64::from(x[2 * at]), f64::from(x[2 * at + 1]));
                real += re * angle.cos() - im * angle.sin();
                imaginary += re * angle.sin() + im * angle.cos();
            }
            let (a, b) = (f64::from(made[2 * bin]), f64::from(made[2 * bin + 1]));
            let near = (a - real).abs() + (b - imaginary).abs() < 1e-4 * (elements as f64).sqrt();
            assert!(near, "bin {bin} of {elements} is {a}, {b}, not {real}, {imaginary}");
        }
        let inverse = [("inverse", Attr::Int(1))];
        let back = f32s_of(computed("DFT", 17, &[f32s(&[1, elements, 2], &made)], &[], &inverse));
        close(&back, &x);
    }
}

#[test]
fn random_numbers_are_the_nodes() {
    let drawn = |operator: &str, seed: f32| {
        let attributes = [("shape", Attr::Ints(&[4000])), ("seed", Attr::Float(seed))];
        f32s_of(computed(operator, 17, &[], &[], &attributes))
    };
    assert_eq!(drawn("RandomNormal", 1.0), drawn("RandomNormal", 1.0));
    assert_ne!(drawn("RandomNormal", 1.0), drawn("RandomNormal", 2.0));
    let moments = |values: Vec<f32>| {
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        (mean, values.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / values.len() as f32)
    };
    let (mean, variance) = moments(drawn("RandomNormal", 3.0));
    assert!(mean.abs() < 0.08 && (variance - 1.0).abs() < 0.1, "{mean}, {variance}");
    let (mean, variance) = moments(drawn("RandomUniform", 3.0));
    assert!((mean - 0.5).abs() < 0.03 && (variance - 1.0 / 12.0).abs() < 0.01, "{mean}, {variance}");
    let x = f32s(&[1, 3], &[0.0, 2f32.ln(), f32::NEG_INFINITY]);
    let seed = [("sample_size", Attr::Int(3000)), ("seed", Attr::Float(5.0))];
    let places: Vec<i32> = elements(&computed("Multinomial", 17, &[x], &[], &seed).1);
    let count = |place: i32| places.iter().filter(|&&at| at == place).count();
    assert!(count(2) == 0 && count(0).abs_diff(1000) < 120 && count(1) == 3000 - count(0), "{}", count(0));
}

#[test]
fn half_precision_is_rounded_once() {
    // 100 and -1; step by step, the exponential of 100 overflows, and the sum with 1 is rounded.
    let x = given(DataType::Float16, &[2], &[0x5640u16, 0xbc00]);
    let (dtype, bytes) = computed("Softplus", 17, &[x], &[], &[]);
    assert_eq!(dtype, DType::F16);
    assert_eq!(elements::<u16>(&bytes), [0x5640, 0x3503]);
}

#[test]
fn the_exponential_of_celu_has_its_factor() {
    let made = computed("Celu", 12, &[f32s(&[2], &[-1.0, 2.0])], &[], &[("alpha", Attr::Float(0.5))]);
    close(&f32s_of(made), &[-0.432_332_36, 2.0]);
}

#[test]
fn native_types_keep_their_native_kernels() {
    for operator in
        ["ReduceSum", "ReduceMean", "ReduceLogSumExp", "ReduceL2", "Softmax", "LogSoftmax", "Sigmoid"]
    {
        let network = model(operator, 13, &[f32s(&[2, 3], &[0.0; 6])], &[], &[]);
        let graph = specialise(&network.model(), &[&[2, 3]]).graph;
        assert!(graph.nodes.iter().all(|node| !matches!(node.op, Op::Host(_))), "{operator}: {graph}");
    }
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let refusal = |network: Network, dims: &[usize]| {
        let shapes = [("x0", reef_graph::Shape::new(dims))];
        let imported = OnnxModel::from_bytes(&network.bytes()).and_then(|model| model.specialise(&shapes));
        match imported {
            Err(error @ ImportError::Unsupported { .. }) => error.to_string(),
            other => panic!("it gave {other:?}"),
        }
    };
    let x = || f32s(&[2, 3], &[0.0; 6]);
    let einsum = model("Einsum", 17, &[x()], &[], &[("equation", Attr::Text("ij->k"))]);
    assert_eq!(refusal(einsum, &[2, 3]), "node Einsum1 (Einsum): an axis of the result is in no operand");
    let scale = f32s(&[2], &[0.1, 0.2]);
    let quantize = model("QuantizeLinear", 17, &[x()], &[scale], &[]);
    let error = refusal(quantize, &[2, 3]);
    assert_eq!(
        error,
        "node QuantizeLinear2 (QuantizeLinear): it has scales [2] for [2,3] by axis 1, blocks of 0"
    );
}

/// The elements that `bytes` hold, wherever they are aligned.
fn elements<T: AnyBitPattern>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(pod_read_unaligned).collect()
}

#[test]
fn windows_over_bytes_and_choices_between_them() {
    let made = |operator: &str, x: Given, constants: &[Given], attributes: &[(&str, Attr)]| {
        let (dims, bytes) = (x.1.clone(), x.2.clone());
        let mut network = model(operator, 17, &[x], constants, attributes);
        network.domain("com.microsoft");
        run(&specialise(&network.model(), &[&dims]), &[bytes]).1
    };
    let byte = |value: u8| given(DataType::Uint8, &[], &[value]);
    let bytes = |dims: &[usize], values: &[u8]| given(DataType::Uint8, dims, values);
    let window = [("kernel_shape", Attr::Ints(&[2, 2])), ("strides", Attr::Ints(&[2, 2]))];
    let scales = || [f32s(&[], &[0.5]), byte(2), f32s(&[], &[0.25]), byte(1)];
    let image = [0, 2, 4, 6, 8, 10, 12, 14];
    let averages = made("QLinearAveragePool", bytes(&[1, 1, 2, 4], &image), &scales(), &window);
    assert_eq!(averages, [7, 15]);
    let last = [window[0], window[1], ("channels_last", Attr::Int(1))];
    let averages = made("QLinearAveragePool", bytes(&[1, 2, 4, 1], &image), &scales(), &last);
    assert_eq!(averages, [7, 15]);
    let image = bytes(&[1, 2, 2, 2], &[1, 8, 3, 6, 5, 4, 7, 2]);
    assert_eq!(made("NhwcMaxPool", image, &[], &window), [7, 8]);
    let (x, y) = (bytes(&[2], &[10, 20]), bytes(&[2], &[3, 4]));
    let scale = |value: f32| f32s(&[], &[value]);
    let constants = [x, scale(0.5), byte(0), y, scale(2.0), byte(1), scale(1.0), byte(7)];
    let condition = given(DataType::Bool, &[2], &[1u8, 0]);
    assert_eq!(made("QLinearWhere", condition, &constants, &[]), [12, 13]);
}

#[test]
fn a_window_of_padding_alone_has_the_least_byte() {
    let attributes = [
        ("kernel_shape", Attr::Ints(&[2, 2])),
        ("strides", Attr::Ints(&[1, 3])),
        ("pads", Attr::Ints(&[1; 4])),
        ("dilations", Attr::Ints(&[5, 5])),
    ];
    let signed = given(DataType::Int8, &[1, 1, 4, 6], &[-7i8; 24]);
    assert_eq!(elements::<i8>(&computed("MaxPool", 17, &[signed], &[], &attributes).1), [-128]);
    let unsigned = given(DataType::Uint8, &[1, 1, 4, 6], &[7u8; 24]);
    assert_eq!(computed("MaxPool", 17, &[unsigned], &[], &attributes).1, [0]);
}

#[test]
fn double_precision_is_normalised_in_it() {
    let doubles = |dims: &[usize], values: &[f64]| given(DataType::Double, dims, values);
    let far = [1e9 + 1.0, 1e9 + 2.0, 1e9 + 3.0];
    let close = |made: (DType, Vec<u8>), expected: [f64; 3]| {
        assert_eq!(made.0, DType::F64);
        let made: Vec<f64> = elements(&made.1);
        assert!(made.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{made:?}, not {expected:?}");
    };
    let unit = 1.0 / (2.0 / 3.0 + f64::from(1e-5f32)).sqrt();
    let (ones, zeros) = ([1.0, 2.0, 1.0], [0.0, 0.5, 0.0]);
    let parameters = [doubles(&[3], &ones), doubles(&[3], &zeros)];
    let made = computed("LayerNormalization", 17, &[doubles(&[1, 3], &far)], &parameters, &[]);
    close(made, [-unit, 0.5, unit]);
    let parameters = [doubles(&[1], &[2.0]), doubles(&[1], &[0.5])];
    let made = computed("InstanceNormalization", 17, &[doubles(&[1, 1, 3], &far)], &parameters, &[]);
    close(made, [0.5 - 2.0 * unit, 0.5, 0.5 + 2.0 * unit]);
    let one = || doubles(&[1], &[1.0]);
    let (mean, variance) = (doubles(&[1], &[1e9 + 2.0]), doubles(&[1], &[1.0 - f64::from(1e-5f32)]));
    let parameters = [one(), doubles(&[1], &[0.0]), mean, variance];
    let made = computed("BatchNormalization", 17, &[doubles(&[1, 1, 3], &far)], &parameters, &[]);
    close(made, [-1.0, 0.0, 1.0]);
    let norm = (3.0f64 * 1e18 + 12.0 * 1e9 + 14.0).sqrt();
    let made = computed("LpNormalization", 17, &[doubles(&[1, 3], &far)], &[], &[]);
    close(made, far.map(|x| x / norm));
}

/// ONNX Runtime's optimiser leaves out what nobody reads, in the middle too.
#[test]
fn outputs_that_are_left_out_are_not_asked_for() {
    let mut network = Network::default();
    network.input("x", DataType::Float, &["1", "1", "2"]);
    let (skip, scale) = (network.constant(&[1, 1, 2], &[1.0, -1.0]), network.constant(&[2], &[1.0, 1.0]));
    let made = network.nodes("SkipLayerNormalization", &["x", &skip, &scale], &[], 4);
    network.domain("com.microsoft");
    network.change(|graph| graph.node[0].output[1..3].iter_mut().for_each(String::clear));
    network.output(&made[3], DataType::Float, &["1", "1", "2"]);
    let specialised = specialise(&network.model(), &[&[1, 1, 2]]);
    let bytes = bytemuck::cast_slice(&[2.0f32, 5.0]).to_vec();
    close(&f32s_of(run(&specialised, &[bytes])), &[3.0, 4.0]);
}
