//! Binding shapes to declarations, and small graphs as they come out.

use reef_graph::Shape;
use tract_onnx::pb::tensor_proto::DataType;

use super::network::{Attr, Network, brief, specialise};
use crate::{Dim, OnnxModel};

fn pair() -> OnnxModel {
    let mut network = Network::default();
    network.input("a", DataType::Float, &["N", "4"]);
    network.input("b", DataType::Float, &["N", "4"]);
    let y = network.node("Add", &["a", "b"], &[]);
    network.output(&y, DataType::Float, &["N", "4"]);
    network.model()
}

#[test]
fn declarations_keep_symbols() {
    let model = pair();
    assert_eq!(model.inputs()[1].dims, [Dim::Symbol("N".into()), Dim::Fixed(4)]);
    assert_eq!(model.outputs()[0].dims, [Dim::Symbol("N".into()), Dim::Fixed(4)]);
}

#[test]
fn shapes_that_do_not_fit_are_explained() {
    let model = pair();
    let refusal = |a: &[usize], b: &[usize]| {
        let shapes = [("a", Shape::new(a)), ("b", Shape::new(b))];
        model.specialise(&shapes).expect_err("the shapes do not fit").to_string()
    };
    insta::assert_snapshot!(refusal(&[2, 4], &[3, 4]), @"input b: axis 0: N is 3 here but 2 in input a");
    insta::assert_snapshot!(refusal(&[2, 5], &[2, 4]), @"input a: axis 1: expected 4, got 5");
    insta::assert_snapshot!(refusal(&[2, 4, 1], &[2, 4]), @"input a: expected 2 axes, got shape [2,4,1]");
    let missing = model.specialise(&[("a", Shape::from([2, 4]))]).expect_err("b is missing");
    insta::assert_snapshot!(missing, @"input b: one shape is needed");
    let unknown = model.specialise(&[("c", Shape::from([2, 4]))]).expect_err("there is no c");
    insta::assert_snapshot!(unknown, @"input c: the model has no such input");
}

/// A residual block with batch norms, written as exporters do.
fn block(batch: &str) -> OnnxModel {
    let mut network = Network::default();
    network.input("x", DataType::Float, &[batch, "4", "6", "6"]);
    let mut x = "x".to_owned();
    for _ in 0..2 {
        let weights = network.weights(&[4, 4, 3, 3]);
        let attributes = [("kernel_shape", Attr::Ints(&[3, 3])), ("pads", Attr::Ints(&[1, 1, 1, 1]))];
        x = network.node("Conv", &[&x, &weights], &attributes);
        let parameters: Vec<String> = (0..4).map(|_| network.weights(&[4])).collect();
        let [scale, shift, mean, variance] = &parameters[..] else { unreachable!("four parameters") };
        x = network.node("BatchNormalization", &[&x, scale, shift, mean, variance], &[]);
        let (low, high) = (network.constant(&[], &[0.0]), network.constant(&[], &[6.0]));
        x = network.node("Clip", &[&x, &low, &high], &[]);
    }
    let sum = network.node("Add", &[&x, "x"], &[]);
    let pooled = network.node("GlobalAveragePool", &[&sum], &[]);
    let flat = network.node("Flatten", &[&pooled], &[]);
    let (weights, bias) = (network.weights(&[4, 5]), network.weights(&[5]));
    let y = network.node("Gemm", &[&flat, &weights, &bias], &[]);
    network.output(&y, DataType::Float, &[batch, "5"]);
    network.model()
}

#[test]
fn a_residual_block() {
    insta::assert_snapshot!(brief(&specialise(&block("1"), &[&[1, 4, 6, 6]]).graph), @r"
    input %0 x f32[1,4,6,6]
    %7 f32[1,4,6,6] = Conv([3, 3] stride [1, 1] pads [1, 1, 1, 1]) %0 f32[4,4,3,3]#c21db3db9 f32[4]#cdcc168e1
    %8 f32[1,4,6,6] = Unary(Clip(0.0, 6.0)) %7
    %9 f32[1,4,6,6] = Conv([3, 3] stride [1, 1] pads [1, 1, 1, 1]) %8 f32[4,4,3,3]#c10300b96 f32[4]#c1550b08a
    %10 f32[1,4,6,6] = Unary(Clip(0.0, 6.0)) %9
    %11 f32[1,4,6,6] = Binary(Add) %10 %0
    %12 f32[1,4,1,1] = Reduce { reduce: Mean, axes: [2, 3], keep_dims: true } %11
    %13 f32[1,4] = Reshape %12
    %14 f32[1,5] = MatMul { trans_a: false, trans_b: false } %13 f32[4,5]#c0b3a45db
    %15 f32[1,5] = Binary(Add) %14 f32[5]#cff806644
    output %15 Gemm26_0
    ");
    insta::assert_snapshot!(brief(&specialise(&block("3"), &[&[3, 4, 6, 6]]).graph), @r"
    input %0 x f32[3,4,6,6]
    %7 f32[3,4,6,6] = Conv([3, 3] stride [1, 1] pads [1, 1, 1, 1]) %0 f32[4,4,3,3]#c21db3db9 f32[4]#cdcc168e1
    %8 f32[3,4,6,6] = Unary(Clip(0.0, 6.0)) %7
    %9 f32[3,4,6,6] = Conv([3, 3] stride [1, 1] pads [1, 1, 1, 1]) %8 f32[4,4,3,3]#c10300b96 f32[4]#c1550b08a
    %10 f32[3,4,6,6] = Unary(Clip(0.0, 6.0)) %9
    %11 f32[3,4,6,6] = Binary(Add) %10 %0
    %12 f32[3,4,1,1] = Reduce { reduce: Mean, axes: [2, 3], keep_dims: true } %11
    %13 f32[3,4] = Reshape %12
    %14 f32[3,5] = MatMul { trans_a: false, trans_b: false } %13 f32[4,5]#c0b3a45db
    %15 f32[3,5] = Binary(Add) %14 f32[5]#cff806644
    output %15 Gemm26_0
    ");
}

#[test]
fn a_symbolic_batch_gives_the_same_graph() {
    for (batch, text) in [(1, "1"), (3, "3")] {
        let from_static = specialise(&block(text), &[&[batch, 4, 6, 6]]).graph;
        let from_dynamic = specialise(&block("N"), &[&[batch, 4, 6, 6]]).graph;
        assert_eq!(from_static.to_string(), from_dynamic.to_string());
    }
}

/// Element-wise chains that are one function.
#[test]
fn activations_are_found_in_their_parts() {
    let graph = |build: fn(&mut Network) -> String| {
        let mut network = Network::default();
        network.input("x", DataType::Float, &["2", "8"]);
        let y = build(&mut network);
        network.output(&y, DataType::Float, &["2", "8"]);
        let graph = specialise(&network.model(), &[&[2, 8]]).graph;
        let ops: Vec<String> = graph.nodes.iter().map(|node| format!("{:?}", node.op)).collect();
        ops.join(" ")
    };
    let erf = |n: &mut Network| {
        let (root, one, half) =
            (n.constant(&[], &[2f32.sqrt()]), n.constant(&[], &[1.0]), n.constant(&[], &[0.5]));
        let scaled = n.node("Div", &["x", &root], &[]);
        let erf = n.node("Erf", &[&scaled], &[]);
        let sum = n.node("Add", &[&one, &erf], &[]);
        let product = n.node("Mul", &["x", &sum], &[]);
        n.node("Mul", &[&product, &half], &[])
    };
    let tanh = |n: &mut Network| {
        let (three, cubic, slope) =
            (n.constant(&[], &[3.0]), n.constant(&[], &[0.044_715]), n.constant(&[], &[0.797_884_6]));
        let (one, half) = (n.constant(&[], &[1.0]), n.constant(&[], &[0.5]));
        let cube = n.node("Pow", &["x", &three], &[]);
        let small = n.node("Mul", &[&cube, &cubic], &[]);
        let sum = n.node("Add", &["x", &small], &[]);
        let scaled = n.node("Mul", &[&sum, &slope], &[]);
        let tanh = n.node("Tanh", &[&scaled], &[]);
        let gate = n.node("Add", &[&tanh, &one], &[]);
        let halved = n.node("Mul", &["x", &half], &[]);
        n.node("Mul", &[&halved, &gate], &[])
    };
    let swish = |n: &mut Network| {
        let (low, high) = (n.constant(&[], &[0.0]), n.constant(&[], &[6.0]));
        let (three, six) = (n.constant(&[], &[3.0]), n.constant(&[], &[6.0]));
        let shifted = n.node("Add", &["x", &three], &[]);
        let clipped = n.node("Clip", &[&shifted, &low, &high], &[]);
        let product = n.node("Mul", &["x", &clipped], &[]);
        n.node("Div", &[&product, &six], &[])
    };
    let silu = |n: &mut Network| {
        let gate = n.node("Sigmoid", &["x"], &[]);
        n.node("Mul", &[&gate, "x"], &[])
    };
    assert_eq!(graph(erf), "Unary(Gelu)");
    assert_eq!(graph(tanh), "Unary(GeluTanh)");
    assert_eq!(graph(swish), "Unary(HardSwish)");
    assert_eq!(graph(silu), "Unary(Silu)");
    assert_eq!(graph(|n| n.node("Softplus", &["x"], &[])), "Unary(Softplus)");
    assert_eq!(graph(|n| n.node("HardSwish", &["x"], &[])), "Unary(HardSwish)");
    let made = graph(|n| n.node("HardSigmoid", &["x"], &[("alpha", Attr::Float(0.25))]));
    assert_eq!(made, "Unary(HardSigmoid(0.25, 0.5))");
    let made = graph(|n| n.node("Elu", &["x"], &[("alpha", Attr::Float(0.5))]));
    assert_eq!(made, "Unary(Elu(0.5))");
    let made = graph(|n| n.node("LeakyRelu", &["x"], &[("alpha", Attr::Float(0.1))]));
    assert_eq!(made, "Unary(LeakyRelu(0.1))");
}

/// What is whole in the model stays whole: 41 times the nearest number to 1/41 is less than 1.
#[test]
fn quotients_stay_what_they_are() {
    let graph = |dims: &[usize], divisor: f32, shift: Option<f32>| {
        let mut network = Network::default();
        let text: Vec<String> = dims.iter().map(usize::to_string).collect();
        let text: Vec<&str> = text.iter().map(String::as_str).collect();
        network.input("x", DataType::Float, &text);
        let divisor = network.constant(&[], &[divisor]);
        let mut x = "x".to_owned();
        if let Some(shift) = shift {
            let shift = network.constant(&[], &[shift]);
            x = network.node("Sub", &[&x, &shift], &[]);
        }
        let y = network.node("Div", &[&x, &divisor], &[]);
        network.output(&y, DataType::Float, &text);
        let graph = specialise(&network.model(), &[dims]).graph;
        graph.nodes.iter().map(|node| format!("{:?}", node.op)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(graph(&[2, 8], 41.0, None), "Binary(Div)");
    assert_eq!(graph(&[2, 8], 4.0, None), "Binary(Mul)", "exact");
    // x·s + t would lose what little is left of x − 101325.
    assert_eq!(graph(&[1, 2, 8], 4.0, Some(101_325.0)), "Binary(Add) Binary(Mul)");
}

#[test]
fn windows_that_do_not_fit_are_refused() {
    let refused = |operator: &str, attributes: &[(&str, Attr)], dims: &[usize]| {
        let mut network = Network::default();
        network.input("x", DataType::Float, &["1", "1", "h", "w"]);
        let weights = network.weights(&[1, 1, 3, 3]);
        let inputs = if operator == "Conv" { vec!["x", &weights] } else { vec!["x"] };
        let y = network.node(operator, &inputs, attributes);
        network.output(&y, DataType::Float, &["1", "1", "a", "b"]);
        let model = crate::OnnxModel::from_bytes(&network.bytes());
        let made = model.and_then(|model| model.specialise(&[("x", reef_graph::Shape::new(dims))]));
        made.map(|_| ()).map_err(|error| error.to_string())
    };
    let kernel = || ("kernel_shape", Attr::Ints(&[3, 3]));
    for operator in ["MaxPool", "AveragePool", "Conv"] {
        assert_eq!(refused(operator, &[kernel()], &[1, 1, 3, 3]), Ok(()), "{operator}");
        let error = refused(operator, &[kernel()], &[1, 1, 5, 2]).unwrap_err();
        assert!(error.contains("its window of 3 elements does not fit axis 3 of 2"), "{operator}: {error}");
        let padded = [kernel(), ("pads", Attr::Ints(&[0, 1, 0, 0]))];
        assert_eq!(refused(operator, &padded, &[1, 1, 5, 2]), Ok(()), "{operator}");
        let spread = [kernel(), ("dilations", Attr::Ints(&[1, 2]))];
        assert!(refused(operator, &spread, &[1, 1, 5, 4]).is_err(), "{operator}");
    }
    let large =
        refused("MaxPool", &[("kernel_shape", Attr::Ints(&[1 << 32, 1]))], &[1, 1, 5, 5]).unwrap_err();
    assert!(large.contains("attribute `kernel_shape` is 4294967296"), "{large}");
    let pads = Attr::Ints(&[1 << 19, 1 << 19, 1 << 19, 1 << 19]);
    let wide = [("kernel_shape", Attr::Ints(&[1 << 20, 1 << 20])), ("pads", pads)];
    let wide = refused("AveragePool", &wide, &[1, 1, 5, 5]).unwrap_err();
    assert!(wide.contains("a window of 1099511627776 elements"), "{wide}");
    let still = refused("MaxPool", &[kernel(), ("strides", Attr::Ints(&[0, 1]))], &[1, 1, 5, 5]).unwrap_err();
    assert!(still.contains("attribute `strides` must be 1 at least"), "{still}");
}

#[test]
fn axes_of_extent_one_go_in_any_order() {
    let shape = |opset: i64, axes: Option<&[i64]>| {
        let mut network = Network::default();
        network.opset(opset);
        network.input("x", DataType::Float, &["1", "2", "1", "3", "1"]);
        let y = match axes {
            Some(axes) if opset < 13 => network.node("Squeeze", &["x"], &[("axes", Attr::Ints(axes))]),
            Some(axes) => {
                let axes = network.integers(&[axes.len() as i64], axes);
                network.node("Squeeze", &["x", &axes], &[])
            }
            None => network.node("Squeeze", &["x"], &[]),
        };
        network.output(&y, DataType::Float, &["a", "b"]);
        let model = crate::OnnxModel::from_bytes(&network.bytes());
        let made = model.and_then(|model| model.specialise(&[("x", [1, 2, 1, 3, 1].into())]));
        made.map(|made| made.graph.value(made.graph.outputs[0]).shape.to_vec()).map_err(|e| e.to_string())
    };
    for opset in [11, 17] {
        assert_eq!(shape(opset, None), Ok(vec![2, 3]), "{opset}");
        assert_eq!(shape(opset, Some(&[4, 0, -3])), Ok(vec![2, 3]), "{opset}");
        assert_eq!(shape(opset, Some(&[-1])), Ok(vec![1, 2, 1, 3]), "{opset}");
        let error = shape(opset, Some(&[1])).unwrap_err();
        assert!(error.contains("axis 1 has extent 2"), "{error}");
    }
}
