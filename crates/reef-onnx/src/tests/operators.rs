//! Network operators whose attributes tract ignores or reads otherwise: the expected numbers are ONNX
//! Runtime's. `tests/oracle/operators_network.py` compares all attributes and their combinations.

use tract_onnx::pb::tensor_proto::DataType;

use super::host::run;
use super::network::{Attr, Network, specialise};
use crate::{ImportError, OnnxModel};

/// Numbers that differ from their neighbours.
fn ramp(count: usize, step: f32, start: f32) -> Vec<f32> {
    (0..count).map(|at| (at * 7 % 11) as f32 * step + start).collect()
}

/// A model of one node, whose first input is fed with a ramp.
struct Check<'a> {
    opset: i64,
    operator: &'a str,
    input: &'a [usize],
    output: &'a [usize],
    attributes: &'a [(&'a str, Attr<'a>)],
}

impl Check<'_> {
    /// The first output; `constants` adds the other inputs.
    fn run(&self, constants: impl FnOnce(&mut Network) -> Vec<String>) -> Vec<f32> {
        let mut network = Network::default();
        network.opset(self.opset);
        let text = |dims: &[usize]| dims.iter().map(usize::to_string).collect::<Vec<_>>();
        let (input, output) = (text(self.input), text(self.output));
        network.input("x", DataType::Float, &input.iter().map(String::as_str).collect::<Vec<_>>());
        let constants = constants(&mut network);
        let inputs: Vec<&str> = ["x"].into_iter().chain(constants.iter().map(String::as_str)).collect();
        let y = network.node(self.operator, &inputs, self.attributes);
        network.output(&y, DataType::Float, &output.iter().map(String::as_str).collect::<Vec<_>>());
        let count = self.input.iter().product();
        run(&specialise(&network.model(), &[self.input]), &ramp(count, 0.1, -0.5))
    }
}

#[track_caller]
fn assert_close(got: &[f32], want: &[f32]) {
    let close = got.len() == want.len() && got.iter().zip(want).all(|(a, b)| (a - b).abs() <= 1e-6);
    assert!(close, "{got:?} is not {want:?}");
}

/// Weights, recurrent weights and biases for 2 inputs and 2 hidden elements.
fn weights(network: &mut Network, gates: i64) -> Vec<String> {
    let count = |elements: i64| elements as usize;
    vec![
        network.constant(&[1, 2 * gates, 2], &ramp(count(4 * gates), 0.1, -0.5)),
        network.constant(&[1, 2 * gates, 2], &ramp(count(4 * gates), 0.05, -0.2)),
        network.constant(&[1, 4 * gates], &ramp(count(4 * gates), 0.02, -0.1)),
    ]
}

#[test]
fn an_rnn_has_the_activation_it_names() {
    let attributes = [("hidden_size", Attr::Int(2)), ("activations", Attr::Texts(&["Relu"]))];
    let check = Check {
        opset: 17,
        operator: "RNN",
        input: &[3, 2, 2],
        output: &[3, 1, 2, 2],
        attributes: &attributes,
    };
    let want = [0.15, 0.34, 0.06, 0.43, 0.0, 0.0645, 0.0, 0.186, 0.129675, 0.38935, 0.0, 0.0];
    assert_close(&check.run(|network| weights(network, 1)), &want);
}

#[test]
fn an_lstm_honours_direction_activations_clip_and_input_forget() {
    let attributes = [
        ("hidden_size", Attr::Int(2)),
        ("direction", Attr::Text("reverse")),
        ("activations", Attr::Texts(&["HardSigmoid", "Softsign", "Elu"])),
        ("clip", Attr::Float(0.4)),
        ("input_forget", Attr::Int(1)),
    ];
    let check = Check {
        opset: 17,
        operator: "LSTM",
        input: &[3, 2, 2],
        output: &[3, 1, 2, 2],
        attributes: &attributes,
    };
    let want = [
        0.03428668,
        -0.04402409,
        0.04300944,
        0.01461452,
        0.05234415,
        -0.009936317,
        0.07127145,
        0.04136389,
        0.009168923,
        -0.03330607,
        0.04834019,
        -0.01697491,
    ];
    assert_close(&check.run(|network| weights(network, 4)), &want);
}

/// Both directions of an LSTM of two elements over three steps; every number is ONNX Runtime's.
#[test]
fn an_lstm_of_integers_quantises_its_input_and_its_states() {
    let (count, hidden, columns) = (2i64, 2i64, 8i64);
    let made = |code: DataType, offset: i64, zero: u8, by_column: bool| {
        let mut network = Network::default();
        network.input("x", DataType::Float, &["3", "1", "3"]);
        let bytes = |of: &dyn Fn(i64) -> i64, len: i64| -> Vec<u8> {
            (0..len).map(|at| (of(at) + offset) as u8).collect()
        };
        let w = bytes(&|at| at * 7 % 23 - 11, count * 3 * columns);
        let w = network.bytes_of(code, &[count, 3, columns], &w);
        let r = bytes(&|at| at * 5 % 19 - 9, count * hidden * columns);
        let r = network.bytes_of(code, &[count, hidden, columns], &r);
        let bias: Vec<f32> = (0..count * 2 * columns).map(|at| (at % 5) as f32 * 0.05 - 0.1).collect();
        let bias = network.constant(&[count, 2 * columns], &bias);
        let all = [count, columns];
        let of = if by_column { &all[..] } else { &all[..1] };
        let each = if by_column { columns } else { 1 };
        let scale = |at: i64| 0.02 + 0.001 * (at / each + at % each) as f32;
        let scales: Vec<f32> = (0..count * each).map(scale).collect();
        let scales = network.constant(of, &scales);
        let zeros = network.bytes_of(code, of, &vec![zero; (count * each) as usize]);
        let inputs = ["x", &w, &r, &bias, "", "", "", "", &scales, &zeros, &scales, &zeros];
        let attributes = [("hidden_size", Attr::Int(hidden)), ("direction", Attr::Text("bidirectional"))];
        let y = network.node("DynamicQuantizeLSTM", &inputs, &attributes);
        network.domain("com.microsoft");
        network.output(&y, DataType::Float, &["3", "2", "1", "2"]);
        let x: Vec<f32> = (0..9).map(|at| f64::from(at).sin() as f32).collect();
        run(&specialise(&network.model(), &[&[3, 1, 3]]), &x)
    };
    let by_direction = [
        -0.009758695,
        -0.08318683,
        -0.0822442,
        -0.001272585,
        0.0288587,
        -0.002071611,
        0.006214184,
        0.01192197,
        0.001043562,
        -0.07461409,
        -0.07621229,
        -0.007638225,
    ];
    assert_close(&made(DataType::Int8, 0, 3, false), &by_direction);
    assert_close(&made(DataType::Uint8, 128, 131, false), &by_direction);
    let by_column = [
        -0.01545202,
        -0.1008977,
        -0.0911796,
        -0.002072728,
        0.03149081,
        0.01095503,
        0.01898265,
        0.01771902,
        -0.004373894,
        -0.08348163,
        -0.08963843,
        -0.009975362,
    ];
    assert_close(&made(DataType::Uint8, 128, 131, true), &by_column);
}

#[test]
fn a_gru_stops_at_the_end_of_each_sequence() {
    let attributes = [
        ("hidden_size", Attr::Int(2)),
        ("activations", Attr::Texts(&["Sigmoid", "Relu"])),
        ("linear_before_reset", Attr::Int(1)),
    ];
    let check = Check {
        opset: 17,
        operator: "GRU",
        input: &[3, 2, 2],
        output: &[3, 1, 2, 2],
        attributes: &attributes,
    };
    let made = check.run(|network| {
        let mut inputs = weights(network, 3);
        inputs.push(network.integers32(&[2], &[3, 1]));
        inputs
    });
    let want =
        [0.1173806, 0.0, 0.1098844, 0.0, 0.05419533, 0.01296953, 0.0, 0.0, 0.1447261, 0.007358688, 0.0, 0.0];
    assert_close(&made, &want);
}

#[test]
fn padding_of_a_transposed_convolution_follows_from_its_output_shape() {
    let transposed = |auto_pad: &str| {
        let attributes = [
            ("strides", Attr::Ints(&[2, 2])),
            ("output_shape", Attr::Ints(&[4, 6])),
            ("auto_pad", Attr::Text(auto_pad)),
        ];
        let check = Check {
            opset: 17,
            operator: "ConvTranspose",
            input: &[1, 1, 2, 3],
            output: &[1, 1, 4, 6],
            attributes: &attributes,
        };
        check.run(|network| vec![network.constant(&[1, 1, 3, 3], &ramp(9, 0.1, -0.5))])
    };
    let upper = [
        0.25, -0.1, 0.0, 0.04, 0.06, -0.04, -0.25, -0.05, 0.25, 0.02, -0.16, -0.02, -0.45, 0.1, 0.13, 0.02,
        -0.03, -0.06, 0.25, 0.05, -0.1, 0.01, -0.18, -0.03,
    ];
    assert_close(&transposed("SAME_UPPER"), &upper);
    let lower = [
        -0.05, 0.25, 0.02, -0.16, -0.02, 0.06, 0.1, 0.13, 0.02, -0.03, -0.06, 0.14, 0.05, -0.1, 0.01, -0.18,
        -0.03, 0.09, 0.0, -0.16, 0.0, -0.16, 0.0, 0.12,
    ];
    assert_close(&transposed("NOTSET"), &lower);
}

/// A resize of an image of 2 × 3 by `scales`.
fn resized(opset: i64, scales: [f32; 2], output: [usize; 2], attributes: &[(&str, Attr)]) -> Vec<f32> {
    let check = Check {
        opset,
        operator: "Resize",
        input: &[1, 1, 2, 3],
        output: &[1, 1, output[0], output[1]],
        attributes,
    };
    check.run(|network| {
        let scales = network.constant(&[4], &[1.0, 1.0, scales[0], scales[1]]);
        if opset < 11 { vec![scales] } else { vec![String::new(), scales] }
    })
}

#[test]
fn resize_of_opset_10_rounds_down_to_grow_and_up_to_shrink() {
    let nearest = [("mode", Attr::Text("nearest"))];
    assert_close(&resized(10, [1.5, 0.6], [3, 1], &nearest), &[-0.5, -0.5, 0.5]);
    let linear = [("mode", Attr::Text("linear"))];
    assert_close(&resized(10, [1.5, 0.6], [3, 1], &linear), &[-0.5, 0.1666667, 0.5]);
}

#[test]
fn aligned_corners_are_those_of_the_images() {
    let attributes =
        [("mode", Attr::Text("linear")), ("coordinate_transformation_mode", Attr::Text("align_corners"))];
    let want = [-0.5, -0.15, 0.2, 0.0, -0.2, 0.0, 0.075, 0.15, -0.05, -0.25, 0.5, 0.3, 0.1, -0.1, -0.3];
    assert_close(&resized(17, [1.7, 1.7], [3, 5], &attributes), &want);
}

#[test]
fn bicubic_samples_beyond_the_border_repeat_its_elements() {
    let attributes = [("mode", Attr::Text("bicubic")), ("padding_mode", Attr::Text("border"))];
    let check = Check {
        opset: 16,
        operator: "GridSample",
        input: &[1, 1, 2, 3],
        output: &[1, 1, 2, 2],
        attributes: &attributes,
    };
    let grid = [-1.2, -0.9, 0.3, 0.1, 1.4, 1.1, 0.0, -2.0];
    let made = check.run(|network| vec![network.constant(&[1, 2, 2, 2], &grid)]);
    assert_close(&made, &[-0.6276509, -0.03598898, -0.3071997, 0.2]);
}

#[test]
fn negative_padding_cuts_off_in_every_mode() {
    let padded = |opset: i64, mode: &str, pads: &[i64], value: Option<f32>, output: [usize; 2]| {
        let check = Check {
            opset,
            operator: "Pad",
            input: &[1, 1, 2, 3],
            output: &[1, 1, output[0], output[1]],
            attributes: &[("mode", Attr::Text(mode))],
        };
        check.run(|network| {
            let pads = network.integers(&[8], pads);
            let value = value.map(|value| network.constant(&[], &[value]));
            [pads].into_iter().chain(value).collect()
        })
    };
    let edge = padded(18, "edge", &[0, 0, -1, 1, 0, 0, 2, -1], Some(5.0), [3, 3]);
    assert_close(&edge, &[0.5, 0.5, 0.1, 0.5, 0.5, 0.1, 0.5, 0.5, 0.1]);
    let wrap = padded(19, "wrap", &[0, 0, 0, 2, 0, 0, 0, 1], None, [2, 6]);
    assert_close(&wrap, &[0.2, -0.2, -0.5, 0.2, -0.2, -0.5, 0.1, -0.3, 0.5, 0.1, -0.3, 0.5]);
    let constant = padded(18, "constant", &[0, 0, -1, 1, 0, 0, 1, -2], Some(5.0), [2, 2]);
    assert_close(&constant, &[5.0, 0.5, 5.0, 5.0]);
}

#[test]
fn a_global_lp_pool_is_a_norm() {
    let check = Check {
        opset: 17,
        operator: "GlobalLpPool",
        input: &[1, 1, 2, 3],
        output: &[1, 1, 1, 1],
        attributes: &[("p", Attr::Int(3))],
    };
    assert_close(&check.run(|_| vec![]), &[0.6649399]);
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let refused = |operator: &str, attributes: &[(&str, Attr)]| {
        let mut network = Network::default();
        network.input("x", DataType::Float, &["1", "1", "2", "2"]);
        let inputs = if operator == "GridSample" { 2 } else { 3 };
        let y = network.node(operator, &["x"; 3][..inputs], attributes);
        network.output(&y, DataType::Float, &["N"]);
        match OnnxModel::from_bytes(&network.bytes()) {
            Err(ImportError::Unsupported { reason, .. }) => reason,
            other => panic!("{other:?} is not a refusal"),
        }
    };
    let scaled = refused("RNN", &[("activations", Attr::Texts(&["ScaledTanh"]))]);
    assert_eq!(scaled, "the activation function `ScaledTanh` needs an activation_alpha");
    assert_eq!(refused("LSTM", &[("activations", Attr::Texts(&["Tanh"]))]), "1 activations for 3 places");
    assert_eq!(refused("GRU", &[("layout", Attr::Int(2))]), "layout is 2, not 0 or 1");
    assert_eq!(refused("Resize", &[("mode", Attr::Text("lanczos"))]), "mode `lanczos`");
    assert_eq!(refused("GridSample", &[("padding_mode", Attr::Text("wrap"))]), "padding_mode `wrap`");
    let padded = refused("ConvTranspose", &[("auto_pad", Attr::Text("SAME"))]);
    assert!(padded.starts_with("attribute `auto_pad` is `SAME`: only `NOTSET`"), "{padded}");
    let mirrored = refused("Pad", &[("mode", Attr::Text("mirror"))]);
    assert!(mirrored.starts_with("attribute `mode` is `mirror`: only `constant`"), "{mirrored}");
}
