//! Host kernels: built, run twice with the same result.

use std::sync::Arc;

use reef_base::TaskKey;
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::Device;
use reef_graph::Op;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::prelude::{Framework, InferenceModelExt, IntoRunnable, IntoTValue, tensor1, tvec};

use super::network::{Attr, Network, brief, specialise};
use crate::{ImportError, OnnxModel, Specialised};

/// A host operator before a native one.
fn normed() -> Network {
    let mut network = Network::default();
    network.input("x", DataType::Float, &["N", "4", "1"]);
    // Windows of so many channels are the host's.
    let normed = network.node("LRN", &["x"], &[("size", Attr::Int(65))]);
    let y = network.node("Relu", &[&normed], &[]);
    network.output(&y, DataType::Float, &["N", "4", "1"]);
    network
}

#[test]
fn what_has_no_native_form_becomes_a_kernel_that_computes_it() {
    let specialised = specialise(&normed().model(), &[&[2, 4, 1]]);
    insta::assert_snapshot!(specialised.graph, @r#"
    input %0 x f32[2,4,1]
    %1 f32[2,4,1] = Host(HostOp { index: 0, operators: "LRN" }) %0
    %2 f32[2,4,1] = Unary(Relu) %1
    output %2 Relu2_0
    "#);
    let [kernel] = &specialised.host_kernels[..] else { panic!("one kernel") };
    let input: Vec<f32> = (0..8).map(|at| at as f32 * 20.0).collect();
    let mut state = kernel.new_state().expect("the kernel starts");
    for _ in 0..2 {
        let mut output = [0f32; 8];
        let bytes = bytemuck::cast_slice_mut(&mut output);
        state.run(&[bytemuck::cast_slice(&input)], &mut [bytes]).expect("the kernel runs");
        for (row, x) in output.chunks(4).zip(input.chunks(4)) {
            let squares: f32 = x.iter().map(|x| x * x).sum();
            let norm = (1.0 + 1e-4 / 65.0 * squares).powf(0.75);
            for (value, x) in row.iter().zip(x) {
                assert!((value - x / norm).abs() < 1e-3, "{value} is not {x} by {norm}");
            }
        }
    }
}

#[test]
fn recurrent_state_starts_afresh_at_every_call() {
    let mut network = Network::default();
    // Native kernels compute in single precision.
    network.input("x", DataType::Double, &["5", "3", "3"]);
    network.input("w", DataType::Double, &["1", "8", "3"]);
    let r: Vec<u8> = (0..16).flat_map(|at| (f64::from(at) / 8.0 - 1.0).to_le_bytes()).collect();
    let r = network.bytes_of(DataType::Double, &[1, 8, 2], &r);
    let hidden = [("hidden_size", Attr::Int(2))];
    let y = network.nodes("LSTM", &["x", "w", &r], &hidden, 3).remove(0);
    network.output(&y, DataType::Double, &["5", "1", "3", "2"]);
    let specialised = specialise(&network.model(), &[&[5, 3, 3], &[1, 8, 3]]);
    let kernel = &specialised.host_kernels[0];
    assert_eq!(kernel.name(), "LSTM");
    let inputs: Vec<Vec<u8>> = kernel.inputs().iter().map(|spec| vec![1u8; spec.bytes()]).collect();
    let inputs: Vec<&[u8]> = inputs.iter().map(|bytes| &bytes[..]).collect();
    let mut state = kernel.new_state().expect("the kernel starts");
    let mut run = || {
        let mut outputs: Vec<Vec<u8>> = kernel.outputs().iter().map(|spec| vec![0; spec.bytes()]).collect();
        let mut views: Vec<&mut [u8]> = outputs.iter_mut().map(|bytes| &mut bytes[..]).collect();
        state.run(&inputs, &mut views).expect("the kernel runs");
        outputs
    };
    assert_eq!(run(), run());
}

#[test]
fn operators_that_cannot_run_are_refused_by_name() {
    let refusal = |operator: &str, attributes: &[(&str, Attr)]| {
        let mut network = Network::default();
        network.input("x", DataType::Float, &["2", "4"]);
        let y = network.node(operator, &["x"], attributes);
        network.output(&y, DataType::Int64, &["2", "K"]);
        let bytes = network.bytes();
        let imported = crate::OnnxModel::from_bytes(&bytes)
            .and_then(|model| model.specialise(&[("x", reef_graph::Shape::from([2, 4]))]));
        match imported {
            Err(error @ ImportError::Unsupported { .. }) => error.to_string(),
            other => panic!("{operator} gave {other:?}"),
        }
    };
    let error = refusal("Frobnicate", &[]);
    assert_eq!(error, "node Frobnicate1 (Frobnicate): this operator is not known");
    let error = refusal("DepthToSpace", &[("blocksize", Attr::Int(2)), ("mode", Attr::Text("XYZ"))]);
    let reason = "attribute `mode` is `XYZ`: only `DCR` and `CRD` are supported";
    assert_eq!(error, format!("node DepthToSpace1 (DepthToSpace): {reason}"));
    let error = refusal("LSTM", &[("direction", Attr::Text("sideways"))]);
    assert_eq!(error, "node LSTM1 (LSTM): input `W` is missing");
    let error = refusal("Softmax", &[("axes", Attr::Ints(&[1]))]);
    let reason = "attribute `axes` is not one of this operator's in operator set 17";
    assert_eq!(error, format!("node Softmax1 (Softmax): {reason}"));
}

/// One input and one output of f32, compiled and run on a CPU device.
pub(super) fn run(specialised: &Specialised, input: &[f32]) -> Vec<f32> {
    let options = CpuOptions { cus: Some(1), nice: 0, pin: false, ..CpuOptions::default() };
    let device = CpuDevice::start(options).expect("the device starts");
    let (graph, kernels) = (&specialised.graph, &specialised.host_kernels);
    let (cutter, options) = (device.cutter(None), reef_compile::CompileOptions::default());
    let plan = reef_compile::compile(graph, kernels, &Arc::default(), cutter.as_ref(), &options);
    let loaded = device.load(Arc::new(plan.expect("it compiles"))).expect("the device takes it");
    let mut io = device.alloc_io(loaded).expect("there is memory");
    io.inputs[0].as_mut_slice().copy_from_slice(bytemuck::cast_slice(input));
    device.submit(loaded, TaskKey::best_effort(0), io, 0).expect("the board is empty");
    loop {
        match device.try_complete() {
            Some(done) => return bytemuck::cast_slice(done.io.outputs[0].as_slice()).to_vec(),
            None => std::thread::yield_now(),
        }
    }
}

/// Conversions to and from f64, a choice between f64 values and a power of integers.
#[test]
fn wide_types_are_computed_natively() {
    let mut network = Network::default();
    network.input("x", DataType::Float, &["8"]);
    let cast = |network: &mut Network, x: &str, to: DataType| {
        network.node("Cast", &[x], &[("to", Attr::Int(to as i64))])
    };
    let (zero, cube) = (network.constant(&[], &[0.0]), network.integers(&[], &[3]));
    let wide = cast(&mut network, "x", DataType::Double);
    let square = network.node("Mul", &[&wide, &wide], &[]);
    let negative = network.node("Less", &["x", &zero], &[]);
    let chosen = network.node("Where", &[&negative, &wide, &square], &[]);
    let narrow = cast(&mut network, &chosen, DataType::Float);
    let whole = cast(&mut network, "x", DataType::Int64);
    let power = network.node("Pow", &[&whole, &cube], &[]);
    let power = cast(&mut network, &power, DataType::Float);
    let y = network.node("Add", &[&narrow, &power], &[]);
    network.output(&y, DataType::Float, &["8"]);
    let bytes = network.bytes();

    let input = [-3.5f32, -1.0, -0.25, 0.0, 0.1, 1.5, 2.0, 1e2];
    let mut reader = &bytes[..];
    let model = tract_onnx::onnx().model_for_read(&mut reader).and_then(|model| model.into_typed());
    let model = model.and_then(|model| model.into_runnable()).expect("tract runs it");
    let expected = model.run(tvec!(tensor1(&input).into_tvalue())).expect("tract runs it");
    let expected = expected[0].try_as_plain_ram().expect("it is in memory").as_slice::<f32>();

    let model = OnnxModel::from_bytes(&bytes).expect("the model is valid");
    let specialised = specialise(&model, &[&[8]]);
    assert!(specialised.host_kernels.is_empty());
    assert_eq!(run(&specialised, &input), expected.expect("it is f32"));
}

#[test]
fn native_operators_do_not_become_host_ones() {
    let mut network = Network::default();
    network.input("x", DataType::Float, &["2", "4", "9"]);
    let weights = network.weights(&[6, 4, 3]);
    let attributes = [("kernel_shape", Attr::Ints(&[3])), ("pads", Attr::Ints(&[1, 1]))];
    let y = network.node("Conv", &["x", &weights], &attributes);
    network.output(&y, DataType::Float, &["2", "6", "9"]);
    let graph = specialise(&network.model(), &[&[2, 4, 9]]).graph;
    insta::assert_snapshot!(brief(&graph), @r"
    input %0 x f32[2,4,9]
    %2 f32[2,4,1,9] = Reshape %0
    %3 f32[2,6,1,9] = Conv([1, 3] stride [1, 1] pads [0, 1, 0, 1]) %2 f32[6,4,1,3]#c08ee282a
    %4 f32[2,6,9] = Reshape %3
    output %4 Conv2_0
    ");
    assert!(graph.nodes.iter().all(|node| !matches!(node.op, Op::Host(_))));
}

#[test]
fn constants_that_divide_by_zero_are_refused() {
    for operator in ["Div", "Mod"] {
        let mut network = Network::default();
        network.input("a", DataType::Int64, &["2"]);
        let divisor = network.integers(&[2], &[4, 0]);
        let y = network.node(operator, &["a", &divisor], &[]);
        network.output(&y, DataType::Int64, &["2"]);
        let refused = network.model().specialise(&[("a", reef_graph::Shape::from([2]))]);
        let error = refused.expect_err("there is no quotient").to_string();
        assert!(error.contains("an integer is divided by 0"), "{error}");
    }
}

/// The specification's row of off-values for an index outside, computed natively.
#[test]
fn one_hot_of_any_index() {
    let mut network = Network::default();
    network.input("x", DataType::Float, &["5"]);
    let index = network.node("Cast", &["x"], &[("to", Attr::Int(DataType::Int64 as i64))]);
    let (depth, values) = (network.integers(&[1], &[3]), network.constant(&[2], &[-1.0, 2.0]));
    let y = network.node("OneHot", &[&index, &depth, &values], &[("axis", Attr::Int(0))]);
    network.output(&y, DataType::Float, &["3", "5"]);
    let specialised = specialise(&network.model(), &[&[5]]);
    assert!(specialised.host_kernels.is_empty());
    let hot = [[0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0]];
    let expected: Vec<f32> = hot.concat().iter().map(|&hot| if hot == 1 { 2.0 } else { -1.0 }).collect();
    assert_eq!(run(&specialised, &[2.0, 1.0, -3.0, 3.0, -4.0]), expected);
}

#[test]
fn results_without_elements_are_results() {
    for operator in ["CumSum", "Atan", "Relu"] {
        let mut network = Network::default();
        network.input("x", DataType::Float, &["N", "4"]);
        let axis = network.integers(&[], &[1]);
        let inputs = if operator == "CumSum" { vec!["x", &axis] } else { vec!["x"] };
        let y = network.node(operator, &inputs, &[]);
        network.output(&y, DataType::Float, &["N", "4"]);
        let specialised = specialise(&network.model(), &[&[0, 4]]);
        assert_eq!(run(&specialised, &[]), [0f32; 0], "{operator}");
    }
}

#[test]
fn more_than_the_axis_has_is_refused() {
    let top = |count: i64| {
        let mut network = Network::default();
        network.input("x", DataType::Float, &["2", "4"]);
        let count = network.integers(&[1], &[count]);
        let y = network.nodes("TopK", &["x", &count], &[], 2).remove(0);
        network.output(&y, DataType::Float, &["2", "K"]);
        let model = network.model();
        model
            .specialise(&[("x", reef_graph::Shape::from([2, 4]))])
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    assert_eq!(top(4), Ok(()));
    let error = top(5).expect_err("there are four");
    assert!(error.contains("5 elements asked for, the axis has 4"), "{error}");
}
