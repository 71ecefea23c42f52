//! Every function of elements, on every type, over the ends of what the types hold: as the reference has
//! it. On the emulated driver built with the undefined-behaviour sanitizer this also shows that the
//! kernels leave nothing to the compiler.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reef_base::{AlignedBytes, TaskKey};
use reef_compile::{CompileOptions, compile, reference};
use reef_cuda::{CudaDevice, CudaOptions};
use reef_device::{Device, DeviceError, Outcome};
use reef_graph::{
    Along, Binary, DType, Encoding, Graph, Op, Quantization, Reduce, Rounding, Shape, SmallFloat, Tensor,
    Unary, ValueId,
};
use reef_plan::Precision;

const PATIENCE: Duration = Duration::from_secs(120);

const UNARY: [Unary; 42] = [
    Unary::Relu,
    Unary::LeakyRelu(0.1),
    Unary::Elu(1.5),
    Unary::Clip(-2.0, 3.0),
    Unary::Sigmoid,
    Unary::HardSigmoid(0.2, 0.5),
    Unary::Silu,
    Unary::HardSwish,
    Unary::Tanh,
    Unary::Gelu,
    Unary::GeluTanh,
    Unary::Erf,
    Unary::Softplus,
    Unary::Exp,
    Unary::Log,
    Unary::Sqrt,
    Unary::Rsqrt,
    Unary::Recip,
    Unary::Square,
    Unary::Abs,
    Unary::Neg,
    Unary::Sign,
    Unary::Floor,
    Unary::Ceil,
    Unary::Round,
    Unary::Sin,
    Unary::Cos,
    Unary::Tan,
    Unary::Asin,
    Unary::Acos,
    Unary::Atan,
    Unary::Sinh,
    Unary::Cosh,
    Unary::Asinh,
    Unary::Acosh,
    Unary::Atanh,
    Unary::Not,
    Unary::BitNot,
    Unary::Encode(Encoding { format: SmallFloat::E4M3Fn, saturate: false, rounding: Rounding::Up }),
    Unary::Encode(Encoding { format: SmallFloat::E8M0, saturate: true, rounding: Rounding::Nearest }),
    Unary::Decode(SmallFloat::E5M2),
    Unary::Decode(SmallFloat::E4M3Fnuz),
];

const BINARY: [Binary; 22] = [
    Binary::Add,
    Binary::Sub,
    Binary::Mul,
    Binary::Div,
    Binary::Max,
    Binary::Min,
    Binary::Pow,
    Binary::Mod,
    Binary::Rem,
    Binary::Equal,
    Binary::Less,
    Binary::LessEqual,
    Binary::Greater,
    Binary::GreaterEqual,
    Binary::And,
    Binary::Or,
    Binary::Xor,
    Binary::BitAnd,
    Binary::BitOr,
    Binary::BitXor,
    Binary::ShiftLeft,
    Binary::ShiftRight,
];

/// Numbers at the ends of a type and in the middle, as bytes.
fn numbers(dtype: DType) -> Vec<Vec<u8>> {
    let floats = [
        0.0f32, -0.0, 1.0, -1.0, 0.5, -2.5, 1.5, 3.7, -3.7, 80.0, -80.0, 1e-30, 1e10, -1e10, 3e38, -3e38,
        9.3e18, -9.3e18,
    ];
    // Halves, ones, the smallest, the largest.
    let halves = [0x0000u16, 0x8000, 0x3C00, 0xBC00, 0x3800, 0x4100, 0xC380, 0x0001, 0x7BFF, 0xFBFF];
    let ints =
        [i64::MIN, i64::MIN + 1, -129, -1, 0, 1, 2, 3, 7, 200, 70_000, 1 << 40, i64::MAX - 1, i64::MAX];
    let clamped = |low: i64, high: i64| {
        let mut values: Vec<i64> = ints.iter().map(|&value| value.clamp(low, high)).collect();
        values.dedup();
        values.iter().map(|value| value.to_le_bytes()[..dtype.bytes()].to_vec()).collect()
    };
    match dtype {
        DType::F32 => floats.iter().map(|value| value.to_le_bytes().to_vec()).collect(),
        DType::BF16 => floats.iter().map(|value| value.to_le_bytes()[2..].to_vec()).collect(),
        DType::F16 => halves.iter().map(|value| value.to_le_bytes().to_vec()).collect(),
        DType::F64 => floats.iter().map(|&value| f64::from(value).to_le_bytes().to_vec()).collect(),
        DType::I64 | DType::U64 => ints.iter().map(|value| value.to_le_bytes().to_vec()).collect(),
        DType::I32 => clamped(i64::from(i32::MIN), i64::from(i32::MAX)),
        DType::I16 => clamped(i64::from(i16::MIN), i64::from(i16::MAX)),
        DType::I8 => clamped(i64::from(i8::MIN), i64::from(i8::MAX)),
        DType::U32 => clamped(0, i64::from(u32::MAX)),
        DType::U16 => clamped(0, i64::from(u16::MAX)),
        DType::U8 => clamped(0, i64::from(u8::MAX)),
        DType::Bool => vec![vec![0], vec![1]],
    }
}

fn tensor(dtype: DType, numbers: &[Vec<u8>], shape: &[usize]) -> Tensor {
    Tensor::new(dtype, Shape::new(shape), Arc::new(AlignedBytes::copy_from(&numbers.concat())))
}

/// A graph of one node over some inputs.
struct Case {
    name: String,
    graph: Graph,
    inputs: Vec<Tensor>,
}

impl Case {
    /// What goes along the middle of three axes.
    fn along(name: String, along: Along, x: Tensor) -> Case {
        let mut graph = Graph::default();
        let id = graph.add_input("x", x.dtype(), x.shape().clone());
        let outputs = along.outputs(1, x.dtype(), x.shape()).expect("it means something");
        let made = graph.add_node_multi("node", Op::Along { along, axis: 1 }, &[id], outputs);
        made.into_iter().enumerate().for_each(|(at, id)| graph.add_output(format!("y{at}"), id));
        Case { name, graph, inputs: vec![x] }
    }

    fn new(name: String, op: Op, inputs: Vec<Tensor>, dtype: DType, shape: &[usize]) -> Case {
        let mut graph = Graph::default();
        let input = |(index, input): (usize, &Tensor)| {
            graph.add_input(format!("x{index}"), input.dtype(), input.shape().clone())
        };
        let ids: Vec<ValueId> = inputs.iter().enumerate().map(input).collect();
        let made = graph.add_node("node", op, &ids, dtype, Shape::new(shape));
        graph.add_output("y", made);
        Case { name, graph, inputs }
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in DType::ALL {
        let values = numbers(dtype);
        let count = values.len();
        let all = || tensor(dtype, &values, &[count]);
        for function in UNARY {
            cases.push(Case::new(
                format!("{function:?} of {dtype}"),
                Op::Unary(function),
                vec![all()],
                dtype,
                &[count],
            ));
        }
        for to in DType::ALL {
            let name = format!("cast of {dtype} to {to}");
            cases.push(Case::new(name, Op::Cast { to }, vec![all()], to, &[count]));
        }
        for function in BINARY {
            // Nothing is divided by nothing.
            let is_right =
                |value: &&Vec<u8>| !function.divides() || value.iter().any(|&byte| byte & 0x7F != 0);
            let right: Vec<Vec<u8>> = values.iter().filter(is_right).cloned().collect();
            let inputs = vec![tensor(dtype, &values, &[count, 1]), tensor(dtype, &right, &[1, right.len()])];
            let made = if function.is_comparison() { DType::Bool } else { dtype };
            let name = format!("{function:?} of {dtype}");
            cases.push(Case::new(name, Op::Binary(function), inputs, made, &[count, right.len()]));
        }
    }
    cases
}

/// Types that hold quantised values, and how many bits those have.
const QUANTISED: [(DType, u32); 6] =
    [(DType::U8, 8), (DType::I8, 8), (DType::U16, 16), (DType::I16, 16), (DType::U8, 4), (DType::I8, 4)];

/// Numbers to integers of few bits and back, with one scale and with many, with zero points and without.
fn quantised() -> Vec<Case> {
    let mut cases = Vec::new();
    for (to, bits) in QUANTISED {
        for (from, zero) in
            [DType::F32, DType::F16, DType::I32].map(|from| [(from, false), (from, true)]).concat()
        {
            for by_axis in [false, true] {
                let how = Quantization::by_tensor(bits);
                let mut values = numbers(from);
                if from == DType::F32 {
                    // No number, and halves, which go to the even one.
                    values.extend(
                        [f32::NAN, f32::INFINITY, 0.75, 1.25, -1.25].map(|x| x.to_le_bytes().to_vec()),
                    );
                }
                let count = values.len();
                let x = tensor(from, &values, &[count]);
                cases.push(case_of(format!("{from} to {bits} bits of {to}"), how, x, to, [zero, by_axis]));
                if from == DType::I32 {
                    continue;
                }
                // Every type's own ends lie in the range of 4 bits for the reference only if they are of 4.
                let values: Vec<Vec<u8>> = match bits {
                    4 => (0..8u8).map(|value| vec![value]).collect(),
                    _ => numbers(to),
                };
                let count = values.len();
                let x = tensor(to, &values, &[count]);
                cases.push(case_of(format!("{bits} bits of {to} to {from}"), how, x, from, [zero, by_axis]));
            }
        }
    }
    cases
}

/// A case of quantised values.
fn case_of(name: String, how: Quantization, x: Tensor, to: DType, [zero, by_axis]: [bool; 2]) -> Case {
    let count = x.shape().elements();
    let scales: Vec<f32> = (0..if by_axis { count } else { 1 }).map(|at| 0.5 + at as f32 * 0.125).collect();
    let back = to.is_float();
    let held = if back { x.dtype() } else { to };
    let points: Vec<Vec<u8>> = scales
        .iter()
        .enumerate()
        .map(|(at, _)| (1 + at as u64 % 6).to_le_bytes()[..held.bytes()].to_vec())
        .collect();
    let mut inputs = vec![x, Tensor::f32([scales.len()], &scales)];
    inputs.extend(zero.then(|| tensor(held, &points, &[scales.len()])));
    let op = if back { Op::Dequantize(how) } else { Op::Quantize(how) };
    let name = format!("{name}, zero points: {zero}, by axis: {by_axis}");
    Case::new(name, op, inputs, to, &[count])
}

/// What goes along an axis, of every type: rows of a thread each, and of a block each; NaNs first and within,
/// and numbers that are equal.
fn rows() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in DType::ALL {
        let mut values = numbers(dtype);
        let nan: &[u8] = match dtype {
            DType::F32 => &[0, 0, 0xC0, 0x7F],
            DType::BF16 => &[0xC0, 0x7F],
            DType::F16 => &[0, 0x7E],
            DType::F64 => &[0, 0, 0, 0, 0, 0, 0xF8, 0x7F],
            _ => &[],
        };
        values.extend((!nan.is_empty()).then(|| nan.to_vec()));
        for dims in [[2, 13, 33], [3, 700, 1], [1, 300, 5]] {
            // Another number comes first in every row, and each comes again.
            let count: usize = dims.iter().product();
            let own: Vec<Vec<u8>> =
                (0..count).map(|at| values[at * at % 97 % values.len()].clone()).collect();
            let x = || tensor(dtype, &own, &dims);
            // Long sums of f32 are in another order than the reference's: of what leaves digits to compare.
            let moderate = (0..count).map(|at| (0.5 + (at * at % 97) as f32 / 7.0).to_le_bytes().to_vec());
            let summed = match dtype {
                DType::F32 => tensor(dtype, &moderate.collect::<Vec<_>>(), &dims),
                _ => x(),
            };
            for [one, other] in [[false, false], [false, true], [true, false], [true, true]] {
                let extreme = Along::ArgExtreme { largest: one, last: other };
                let scan = |product| Along::Scan { product, exclusive: one, reverse: other };
                let top = Along::TopK { k: if other { 5 } else { 1 }, largest: one };
                let all = [(extreme, x()), (top, x()), (scan(false), summed.clone()), (scan(true), x())];
                for (along, x) in all.into_iter().filter(|(along, _)| along.flaw(dtype, dims[1]).is_none()) {
                    cases.push(Case::along(format!("{along:?} of {dtype} {dims:?}"), along, x));
                }
            }
            let ways = [Reduce::Sum, Reduce::Mean, Reduce::Max, Reduce::Min, Reduce::Prod, Reduce::SumSquare];
            for reduce in ways.into_iter().filter(|_| !dtype.is_float() && dtype != DType::Bool) {
                let op = Op::Reduce { reduce, axes: vec![1], keep_dims: false };
                let name = format!("{reduce:?} of {dtype} {dims:?}");
                cases.push(Case::new(name, op, vec![x()], dtype, &[dims[0], dims[2]]));
            }
        }
    }
    cases
}

/// A float of some type as a double.
fn float(dtype: DType, bytes: &[u8]) -> f64 {
    match dtype {
        DType::F32 => f64::from(f32::from_le_bytes(bytes.try_into().expect("four bytes"))),
        DType::BF16 => f64::from(f32::from_le_bytes([0, 0, bytes[0], bytes[1]])),
        DType::F16 => {
            let bits = u16::from_le_bytes([bytes[0], bytes[1]]);
            let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023) / 1024.0);
            let size = match exponent {
                0 => fraction * 2f64.powi(-14),
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1.0 + fraction) * 2f64.powi(exponent - 15),
            };
            if bits >> 15 == 0 { size } else { -size }
        }
        other => unreachable!("{other} is no float of the device"),
    }
}

/// What is wrong with an output.
fn differs(dtype: DType, made: &[u8], expected: &[u8]) -> Option<String> {
    let tolerance = match dtype {
        DType::F32 => 1e-5,
        DType::F16 => 2e-3,
        DType::BF16 => 1.6e-2,
        _ => return (made != expected).then(|| format!("{made:?}, not {expected:?}")),
    };
    let pairs = made.chunks_exact(dtype.bytes()).zip(expected.chunks_exact(dtype.bytes()));
    pairs.enumerate().find_map(|(at, (made, expected))| {
        let (made, expected) = (float(dtype, made), float(dtype, expected));
        let same = made == expected || (made.is_nan() && expected.is_nan());
        let near = (made - expected).abs() <= tolerance * expected.abs().max(1.0);
        (!same && !near).then(|| format!("{made} at {at}, not {expected}"))
    })
}

/// Whether the device ran a case; what is wrong if its outputs are.
fn run(device: &CudaDevice, case: &Case) -> Result<bool, String> {
    let options = CompileOptions { name: case.name.clone() };
    let Ok(expected) = reference::evaluate(&case.graph, &case.inputs) else { return Ok(false) };
    let Ok(plan) =
        compile(&case.graph, &[], &Arc::default(), device.cutter(Some(Precision::F32)).as_ref(), &options)
    else {
        return Ok(false);
    };
    let loaded = match device.load(Arc::new(plan)) {
        Ok(loaded) => loaded,
        Err(DeviceError::Unsupported { .. }) => return Ok(false),
        Err(error) => return Err(error.to_string()),
    };
    let mut io = device.alloc_io(loaded).expect("the plan is loaded");
    for (buffer, input) in io.inputs.iter_mut().zip(&case.inputs) {
        buffer.as_mut_slice().copy_from_slice(input.bytes().as_slice());
    }
    device.submit(loaded, TaskKey::best_effort(0), io, 0).expect("the board is empty");
    let since = Instant::now();
    let completion = loop {
        match device.try_complete() {
            Some(completion) => break completion,
            None => std::thread::yield_now(),
        }
        assert!(since.elapsed() < PATIENCE, "{} does not end", case.name);
    };
    device.unload(loaded);
    if completion.outcome != Outcome::Done {
        return Err(format!("{:?}", completion.outcome));
    }
    for (made, expected) in completion.io.outputs.iter().zip(&expected) {
        if let Some(why) = differs(expected.dtype(), made.as_slice(), expected.bytes().as_slice()) {
            return Err(why);
        }
    }
    Ok(true)
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn results_of_elements_are_those_of_the_reference() {
    let separate_allocations = std::env::var_os("REEF_TEST_SEPARATE").is_some();
    let options = CudaOptions { separate_allocations, ..CudaOptions::default() };
    let device = CudaDevice::start(options).expect("the emulated driver is there");
    let cases = cases();
    let results: Vec<(&str, Result<bool, String>)> =
        cases.iter().map(|case| (case.name.as_str(), run(&device, case))).collect();
    let ran = results.iter().filter(|(_, result)| *result != Ok(false)).count();
    let wrong: Vec<String> = results
        .iter()
        .filter_map(|(name, result)| result.as_ref().err().map(|what| format!("{name}: {what}")))
        .collect();
    println!("{ran} of {} cases ran", cases.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(ran > 400, "{ran} of {} cases ran", cases.len());
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn results_along_an_axis_are_those_of_the_reference() {
    all_right(rows());
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn results_of_quantised_values_are_those_of_the_reference() {
    all_right(quantised());
}

/// Runs cases, of which the device refuses none.
fn all_right(cases: Vec<Case>) {
    let separate_allocations = std::env::var_os("REEF_TEST_SEPARATE").is_some();
    let memory_bytes = Some(64 << 20);
    let options = CudaOptions { separate_allocations, memory_bytes, ..CudaOptions::default() };
    let device = CudaDevice::start(options).expect("the emulated driver is there");
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| match run(&device, case) {
            Ok(true) => None,
            Ok(false) => Some(format!("{}: it was refused", case.name)),
            Err(why) => Some(format!("{}: {why}", case.name)),
        })
        .collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
