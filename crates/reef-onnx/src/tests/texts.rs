//! Texts: as numbers through what moves, picks and compares them, and refused where they would be computed
//! with.

use reef_graph::{DType, Shape, Tensor};
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

use super::network::{Attr, Network};
use crate::OnnxModel;

/// An input of texts, and one of numbers.
fn network() -> Network {
    let mut network = Network::default();
    network.input("x", DataType::String, &["n", "2"]);
    network.input("i", DataType::Int64, &["n", "2"]);
    network
}

/// A constant of texts.
fn texts(network: &mut Network, dims: &[i64], texts: &[&str]) -> String {
    let name = network.bytes_of(DataType::String, dims, b"");
    let list = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    network.change(|graph| graph.initializer.last_mut().unwrap().string_data = list);
    name
}

fn classical(network: &mut Network, operator: &str, input: &str, attributes: &[(&str, Attr)]) -> String {
    let made = network.node(operator, &[input], attributes);
    network.domain("ai.onnx.ml");
    made
}

/// What a model makes of texts: those that it does not have are numbered behind its own, here by their place.
fn run(model: &OnnxModel, x: &[&str], i: &[i64]) -> Vec<Tensor> {
    let known = model.texts().len() as i64;
    let number = |(at, text): (usize, &&str)| {
        let first = x.iter().position(|other| other == text).unwrap_or(at);
        model.texts().find(text.as_bytes()).unwrap_or(known + first as i64)
    };
    let numbers: Vec<i64> = x.iter().enumerate().map(number).collect();
    let shape = Shape::from([x.len() / 2, 2]);
    let special = model.specialise(&[("x", shape.clone()), ("i", shape.clone())]).expect("it is read");
    let inputs = [Tensor::i64(shape.clone(), &numbers), Tensor::i64(shape, i)];
    reef_compile::reference::evaluate(&special.graph, &inputs).expect("it has a meaning")
}

/// An output of texts as such; `?` for what the model has not.
fn spoken(model: &OnnxModel, output: &Tensor) -> Vec<String> {
    let text = |&number: &i64| match model.texts().text(number) {
        Some(text) => String::from_utf8(text.to_vec()).unwrap(),
        None => "?".into(),
    };
    output.values::<i64>().iter().map(text).collect()
}

#[test]
fn texts_are_encoded_and_decoded() {
    let mut network = network();
    let keys = [("keys_strings", Attr::Texts(&["cat", "dog"])), ("values_int64s", Attr::Ints(&[7, 9]))];
    let encoded = classical(&mut network, "LabelEncoder", "x", &keys);
    let values = [("keys_int64s", Attr::Ints(&[1, 2])), ("values_strings", Attr::Texts(&["dog", "eel"]))];
    let decoded = classical(&mut network, "LabelEncoder", "i", &values);
    let other = [values[0], values[1], ("default_string", Attr::Text("none"))];
    let other = classical(&mut network, "LabelEncoder", "i", &other);
    let hot =
        classical(&mut network, "OneHotEncoder", "x", &[("cats_strings", Attr::Texts(&["dog", "cat"]))]);
    network.output(&encoded, DataType::Int64, &["n", "2"]);
    network.output(&decoded, DataType::String, &["n", "2"]);
    network.output(&other, DataType::String, &["n", "2"]);
    network.output(&hot, DataType::Float, &["n", "2", "2"]);
    let model = network.model();
    let declared: Vec<(DType, bool)> = model.outputs().iter().map(|decl| (decl.dtype, decl.texts)).collect();
    let (numbers, words) = ((DType::I64, false), (DType::I64, true));
    assert_eq!(declared, [numbers, words, words, (DType::F32, false)]);
    assert_eq!(model.inputs().iter().map(|decl| decl.texts).collect::<Vec<_>>(), [true, false]);
    let made = run(&model, &["dog", "cow", "cat", ""], &[2, 1, 3, 1]);
    assert_eq!(made[0].values::<i64>(), [9, -1, 7, -1]);
    assert_eq!(spoken(&model, &made[1]), ["eel", "dog", "_Unused", "dog"]);
    assert_eq!(spoken(&model, &made[2]), ["eel", "dog", "none", "dog"]);
    assert_eq!(made[3].values::<f32>(), [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
}

#[test]
fn classes_are_called_by_texts() {
    let attributes = |labels: &'static [&'static str]| {
        [
            ("classlabels_strings", Attr::Texts(labels)),
            ("coefficients", Attr::Floats(&[1.0, 0.0, 0.0, 1.0, -1.0, -1.0])),
            ("intercepts", Attr::Floats(&[0.0, 0.0, 0.5])),
        ]
    };
    let linear = |labels: &'static [&'static str]| {
        let mut network = network();
        let x = network.node("Cast", &["i"], &[("to", Attr::Int(1))]);
        let made = network.nodes("LinearClassifier", &[&x], &attributes(labels), 2);
        network.domain("ai.onnx.ml");
        let same = network.node("Equal", &[&made[0], &made[0]], &[]);
        network.output(&made[0], DataType::String, &["n"]);
        network.output(&made[1], DataType::Float, &["n", "3"]);
        network.output(&same, DataType::Bool, &["n"]);
        network
    };
    let model = linear(&["a", "b", "c"]).model();
    let made = run(&model, &["", "", "", ""], &[3, 1, -2, -9]);
    assert_eq!(spoken(&model, &made[0]), ["a", "c"]);
    let error = OnnxModel::from_bytes(&linear(&["a", "b"]).bytes()).and_then(|model| {
        model.specialise(&[("x", Shape::from([1, 2])), ("i", Shape::from([1, 2]))]).map(|_| ())
    });
    assert!(error.unwrap_err().to_string().contains("3 scores for 2 classes"));
}

#[test]
fn texts_are_moved_picked_and_compared() {
    let mut network = network();
    let words = texts(&mut network, &[2], &["yes", "no"]);
    let column = network.integers(&[1], &[1]);
    let turned = network.node("Gather", &["x", &column], &[("axis", Attr::Int(1))]);
    let same = network.node("Equal", &["x", &words], &[]);
    let picked = network.node("Where", &[&same, "x", &words], &[]);
    let joined = network.node("Concat", &[&picked, &turned], &[("axis", Attr::Int(1))]);
    let kept = network.node("Identity", &[&joined], &[]);
    network.output(&kept, DataType::String, &["n", "3"]);
    network.output(&same, DataType::Bool, &["n", "2"]);
    let model = network.model();
    let made = run(&model, &["yes", "yes", "other", "no"], &[0; 4]);
    assert_eq!(spoken(&model, &made[0]), ["yes", "no", "yes", "yes", "no", "no"]);
    assert_eq!(made[1].values::<u8>(), [1, 0, 0, 1]);
    let made = run(&model, &["", "?", "", "é"], &[0; 4]);
    assert_eq!(spoken(&model, &made[0]), ["yes", "no", "?", "yes", "no", "?"]);
}

/// Why a model is not read.
fn refusal(network: Network) -> String {
    match OnnxModel::from_bytes(&network.bytes()) {
        Ok(_) => panic!("it is read"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn texts_are_not_computed_with() {
    let case = |make: &dyn Fn(&mut Network) -> String, code: DataType, reason: &str| {
        let mut network = network();
        let made = make(&mut network);
        network.output(&made, code, &["n", "2"]);
        let refused = refusal(network);
        assert!(refused.contains(reason), "{refused}");
    };
    let computed = "texts are moved, picked and compared, and not computed with";
    let mixed = "texts and numbers are mixed";
    let int = DataType::Int64;
    case(&|n| n.node("Cast", &["x"], &[("to", Attr::Int(1))]), DataType::Float, computed);
    case(&|n| n.node("Cast", &["i"], &[("to", Attr::Int(8))]), DataType::String, "attribute `to` is `8`");
    case(&|n| n.node("Add", &["x", "i"], &[]), int, computed);
    case(&|n| n.node("Add", &["i", "i"], &[]), DataType::String, computed);
    case(&|n| n.node("Less", &["x", "x"], &[]), DataType::Bool, computed);
    case(&|n| n.node("Equal", &["x", "i"], &[]), DataType::Bool, mixed);
    case(&|n| n.node("Identity", &["i"], &[]), DataType::String, mixed);
    case(&|n| n.node("Gather", &["i", "x"], &[]), int, mixed);
    case(&|n| n.node("Gather", &["x", "x"], &[]), DataType::String, mixed);
    case(&|n| n.node("Concat", &["x", "i"], &[("axis", Attr::Int(0))]), DataType::String, mixed);
    let keys = [("keys_strings", Attr::Texts(&["a"])), ("values_int64s", Attr::Ints(&[1]))];
    case(&|n| classical(n, "LabelEncoder", "i", &keys), int, "texts for keys, and its input has none");
    let keys = [("keys_int64s", Attr::Ints(&[1])), ("values_int64s", Attr::Ints(&[1]))];
    case(&|n| classical(n, "LabelEncoder", "x", &keys), int, "its input has texts");
    let both = [("cats_strings", Attr::Texts(&["a"])), ("cats_int64s", Attr::Ints(&[1]))];
    case(&|n| classical(n, "OneHotEncoder", "x", &both), DataType::Float, "both `cats_strings`");
    case(&|n| classical(n, "Scaler", "x", &[]), DataType::Float, computed);
    case(&|n| texts(n, &[2], &["one"]), DataType::String, "1 texts given for shape [2]");
    case(&|n| texts(n, &[-1], &["one"]), DataType::String, "1 texts given for shape [-1]");
}

#[test]
fn branches_agree_on_what_is_a_text() {
    let branch = |name: &str, text: bool| {
        let mut inner = Network::default();
        let made = inner.node("Identity", &[if text { "x" } else { "i" }], &[]);
        inner.output(&made, if text { DataType::String } else { DataType::Int64 }, &["n", "2"]);
        inner.body(name)
    };
    let model = |other: bool| {
        let mut network = network();
        network.input("c", DataType::Bool, &[]);
        let made = network.node("If", &["c"], &[]);
        network.attributes(vec![branch("then_branch", true), branch("else_branch", other)]);
        network.output(&made, DataType::String, &["n", "2"]);
        network
    };
    assert!(model(true).model().outputs()[0].texts);
    assert!(refusal(model(false)).contains("texts and numbers are mixed"));
}

#[test]
fn constants_of_texts_are_read_in_every_form() {
    let texts = |name: &str, list: &[&str]| pb::AttributeProto {
        name: name.into(),
        r#type: pb::attribute_proto::AttributeType::Strings as i32,
        strings: list.iter().map(|text| text.as_bytes().to_vec()).collect(),
        ..Default::default()
    };
    let mut network = network();
    let list = network.node("Constant", &[], &[]);
    network.attributes(vec![texts("value_strings", &["a", "b"])]);
    let one = network.node("Constant", &[], &[("value_string", Attr::Text("b"))]);
    let same = network.node("Equal", &["x", &list], &[]);
    let picked = network.node("Where", &[&same, "x", &one], &[]);
    network.output(&picked, DataType::String, &["n", "2"]);
    let model = network.model();
    let made = run(&model, &["a", "a"], &[0; 2]);
    assert_eq!(spoken(&model, &made[0]), ["a", "b"]);
}
