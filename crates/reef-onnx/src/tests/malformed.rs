//! Broken files give errors, never panics.

use std::path::Path;

use reef_base::Rng;
use reef_graph::Shape;
use reef_zoo::{Model, Variant};
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;

use super::network::{Attr, Network};
use crate::{Dim, ImportError, OnnxModel};

/// Parses and, where that works, specialises: either may fail, neither may panic.
fn try_import(bytes: &[u8]) -> Result<(), ImportError> {
    let model = OnnxModel::from_bytes(bytes)?;
    let extent = |dim: &Dim| if let Dim::Fixed(extent) = dim { (*extent).min(64) } else { 1 };
    let inputs = model.inputs().iter();
    let shapes: Vec<(String, Shape)> =
        inputs.map(|input| (input.name.clone(), input.dims.iter().map(extent).collect())).collect();
    let shapes: Vec<(&str, Shape)> =
        shapes.iter().map(|(name, shape)| (name.as_str(), shape.clone())).collect();
    model.specialise(&shapes).map(|_| ())
}

fn sample() -> Vec<u8> {
    reef_zoo::build(Model::Control, &Variant::tiny()).expect("the zoo builds control")
}

#[test]
fn truncated_files_are_refused() {
    let bytes = sample();
    try_import(&bytes).expect("the whole file is valid");
    for cut in (0..bytes.len()).step_by(bytes.len() / 150) {
        assert!(try_import(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn changed_bytes_do_no_harm() {
    let bytes = sample();
    let mut rng = Rng::new(7);
    for _ in 0..300 {
        let mut changed = bytes.clone();
        for _ in 0..4 {
            // Half of the changes hit the head, where the structure is.
            let range = if rng.next_u64().is_multiple_of(2) { 2000 } else { changed.len() as u64 };
            let at = (rng.next_u64() % range) as usize;
            changed[at] = rng.next_u64() as u8;
        }
        let _ = try_import(&changed);
    }
}

#[test]
fn random_bytes_are_refused() {
    let mut rng = Rng::new(11);
    for length in [0, 1, 2, 3, 10, 100, 1000] {
        for _ in 0..20 {
            let bytes: Vec<u8> = (0..length).map(|_| rng.next_u64() as u8).collect();
            assert!(matches!(try_import(&bytes), Err(ImportError::Parse { .. })), "{length} random bytes");
        }
    }
}

#[test]
fn missing_files_and_data_are_named() {
    let missing = OnnxModel::read(Path::new("/nonexistent/model.onnx")).expect_err("there is no such file");
    assert!(matches!(&missing, ImportError::Io { .. }) && missing.to_string().contains("/nonexistent"));

    let mut network = Network::default();
    network.input("x", DataType::Complex64, &["2"]);
    let y = network.node("Identity", &["x"], &[]);
    network.output(&y, DataType::Complex64, &["2"]);
    let error = OnnxModel::from_bytes(&network.bytes()).expect_err("complex numbers are not supported");
    assert_eq!(
        error.to_string(),
        "not a valid ONNX model: input x: its element type (code 14) is not supported"
    );

    let mut network = Network::default();
    network.input("x", DataType::Float, &["2"]);
    let y = network.node("Identity", &["x"], &[]);
    network.output(&y, DataType::Float, &["2"]);
    network.change(|graph| graph.input[0].r#type.as_mut().unwrap().value = None);
    let error = OnnxModel::from_bytes(&network.bytes()).expect_err("it is no tensor");
    assert!(error.to_string().contains("input x: it is no tensor, but a sequence"), "{error}");
}

#[test]
fn models_that_contradict_themselves_are_refused() {
    let mut network = Network::default();
    network.input("x", DataType::Float, &["1", "3", "8", "8"]);
    let weights = network.weights(&[4, 5, 3, 3]);
    let y = network.node("Conv", &["x", &weights], &[("kernel_shape", Attr::Ints(&[3, 3]))]);
    network.output(&y, DataType::Float, &["1", "4", "6", "6"]);
    let error = try_import(&network.bytes()).expect_err("5 channels are not 3");
    assert!(matches!(error, ImportError::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("weights of shape [4,5,3,3] in 1 groups"), "{error}");

    let mut network = Network::default();
    network.input("x", DataType::Float, &["2"]);
    let y = network.node("Add", &["x", "nowhere"], &[]);
    network.output(&y, DataType::Float, &["2"]);
    let error = try_import(&network.bytes()).expect_err("a value is missing");
    assert_eq!(error.to_string(), "not a valid ONNX model: nothing makes the value nowhere");
}

#[test]
fn nodes_within_branches_are_checked() {
    let import = |operator: &str, attribute: &str| {
        let value = |name: &str| pb::ValueInfoProto { name: name.into(), ..Default::default() };
        let r#type = AttributeType::Int as i32;
        let attribute = pb::AttributeProto { name: attribute.into(), r#type, i: 1, ..Default::default() };
        let inner = pb::NodeProto {
            name: "inner".into(),
            op_type: operator.into(),
            input: vec!["x".into()],
            output: vec!["z".into()],
            attribute: vec![attribute],
            ..Default::default()
        };
        let branch = pb::GraphProto { node: vec![inner], output: vec![value("z")], ..Default::default() };
        let branch = |name: &str| pb::AttributeProto {
            name: name.into(),
            r#type: AttributeType::Graph as i32,
            g: Some(branch.clone()),
            ..Default::default()
        };
        let mut network = Network::default();
        network.input("x", DataType::Float, &["2"]);
        let choice = network.integers(&[], &[1]);
        let choice = network.node("Cast", &[&choice], &[("to", Attr::Int(DataType::Bool as i64))]);
        let y = network.node("If", &[&choice], &[]);
        network.attributes(vec![branch("then_branch"), branch("else_branch")]);
        network.output(&y, DataType::Float, &["2"]);
        OnnxModel::from_bytes(&network.bytes()).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(import("Softmax", "axis"), Ok(()));
    let reason = "attribute `axes` is not one of this operator's in operator set 17";
    assert_eq!(import("Softmax", "axes"), Err(format!("node inner (Softmax): {reason}")));
}

/// tract goes by the name alone: a namesake would be computed as the standard operator.
#[test]
fn operators_of_other_domains_and_functions_are_refused() {
    let import = |domain: &str, function: Option<&str>| {
        let mut network = Network::default();
        network.input("x", DataType::Float, &["2"]);
        let y = network.node("Relu", &["x"], &[]);
        network.domain(domain);
        function.into_iter().for_each(|owner| network.function(owner, "Relu"));
        network.output(&y, DataType::Float, &["2"]);
        try_import(&network.bytes()).map_err(|error| error.to_string())
    };
    let namesake = "node Relu1 (Relu): a function of the model has the name of one of ONNX's own operators";
    let foreign = "node Relu1 (Relu): operators of the domain `com.example` are not supported";
    assert_eq!(import("", None), Ok(()));
    assert_eq!(import("ai.onnx", None), Ok(()));
    assert_eq!(import("", Some("com.example")), Ok(()), "a function that no node calls");
    assert_eq!(import("com.example", None), Err(foreign.into()));
    let empty = "not a valid ONNX model: nothing makes the output Relu1_0";
    assert_eq!(import("com.example", Some("com.example")), Err(empty.into()), "a function without nodes");
    assert_eq!(import("", Some("ai.onnx")), Err(namesake.into()));
}

/// `y = Add(x, [1, 2])` twice, the second time of what the first made.
fn twice() -> Network {
    let mut network = Network::default();
    network.input("x", DataType::Float, &["N", "2"]);
    let one = network.constant(&[2], &[1.0, 2.0]);
    let first = network.node("Add", &["x", &one], &[]);
    let second = network.node("Add", &[&first, &one], &[]);
    network.output(&second, DataType::Float, &["N", "2"]);
    network
}

#[test]
fn nodes_need_no_names_of_their_own() {
    for name in ["", "same", "const1", "x"] {
        let bytes = twice().changed(|graph| graph.node.iter_mut().for_each(|node| node.name = name.into()));
        let model = OnnxModel::from_bytes(&bytes).expect("names are free");
        let graph = model.specialise(&[("x", Shape::from([1, 2]))]).expect("it fits").graph;
        assert_eq!(graph.validate(), Ok(()), "{name}");
    }
}

#[test]
fn values_have_one_maker_each() {
    let refusal = |change: fn(&mut tract_onnx::pb::GraphProto)| {
        OnnxModel::from_bytes(&twice().changed(change)).expect_err("it is no model").to_string()
    };
    let error = refusal(|graph| graph.node[1].output = graph.node[0].output.clone());
    assert!(error.ends_with("is made twice, the second time by a Add"), "{error}");
    let error = refusal(|graph| graph.output[0].name = "nowhere".into());
    assert_eq!(error, "not a valid ONNX model: nothing makes the output nowhere");
    let error = refusal(|graph| graph.input.push(graph.input[0].clone()));
    assert_eq!(error, "not a valid ONNX model: an input is declared twice");
}

#[test]
fn as_many_inputs_as_the_limit_says() {
    let with = |count: usize| {
        let mut network = Network::default();
        for at in 0..count {
            let name = format!("x{at}");
            network.input(&name, DataType::Float, &["2"]);
            let y = network.node("Neg", &[&name], &[]);
            network.output(&y, DataType::Float, &["2"]);
        }
        try_import(&network.bytes()).map_err(|error| error.to_string())
    };
    assert_eq!(with(300), Ok(()));
    let error = "not a valid ONNX model: 1025 inputs, reef takes at most 1024";
    assert_eq!(with(reef_base::limits::MODEL_TENSORS_MAX + 1), Err(error.into()));
}

#[test]
fn contradictions_are_named_with_node_operator_and_shapes() {
    let mut network = Network::default();
    network.input("x", DataType::Float, &["batch", "4"]);
    let weights = network.weights(&[5, 3]);
    let y = network.node("MatMul", &["x", &weights], &[]);
    network.output(&y, DataType::Float, &["batch", "3"]);
    let error = network.model().specialise(&[("x", Shape::from([2, 4]))]).expect_err("4 is not 5");
    let text = error.to_string();
    for part in
        ["node MatMul2 (MatMul): a product of [2,4] and [5,3]", "this is for x [2,4] (declared [batch,4])"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// tract would look for the end of a cycle that has none.
#[test]
fn a_transposition_that_is_none_is_refused() {
    for perm in [&[0i64, 0][..], &[1, 2], &[-1, 0], &[0, 1, 2]] {
        let mut network = Network::default();
        network.input("x", DataType::Float, &["2", "3"]);
        let y = network.node("Transpose", &["x"], &[("perm", Attr::Ints(perm))]);
        network.output(&y, DataType::Float, &["A", "B"]);
        try_import(&network.bytes()).expect_err("it does not permute two axes");
    }
}

/// tract would count up to them.
#[test]
fn axes_that_are_none_are_refused() {
    let operators: [(&str, &[&str], usize); 11] = [
        ("LayerNormalization", &["x", "x", "x"], 3),
        ("LayerNormalization", &["x", "x"], 1),
        ("LpNormalization", &["x"], 1),
        ("Hardmax", &["x"], 1),
        ("Softmax", &["x"], 1),
        ("ArgMax", &["x"], 1),
        ("TopK", &["x", "k"], 2),
        ("Split", &["x"], 2),
        ("Concat", &["x", "x"], 1),
        ("GatherElements", &["x", "i"], 1),
        ("Flatten", &["x"], 1),
    ];
    for (operator, inputs, outputs) in operators {
        for axis in [-2051, 5000, -4, 5, i64::MIN, i64::MAX] {
            let mut network = Network::default();
            network.input("x", DataType::Float, &["2", "3", "5"]);
            network.input("i", DataType::Int64, &["2", "3", "5"]);
            network.input("k", DataType::Int64, &["1"]);
            let made = network.nodes(operator, inputs, &[("axis", Attr::Int(axis))], outputs);
            network.output(&made[0], DataType::Float, &["A", "B", "C"]);
            try_import(&network.bytes()).expect_err(&format!("{operator}: there is no axis {axis}"));
        }
    }
}

/// A constant index that the axis has for some shapes only.
#[test]
fn constant_indices_outside_of_their_axis_are_named() {
    let mut network = Network::default();
    network.input("x", DataType::Float, &["batch", "n"]);
    let three = network.integers(&[], &[3]);
    let y = network.node("Gather", &["x", &three], &[("axis", Attr::Int(1))]);
    network.output(&y, DataType::Float, &["batch"]);
    let model = network.model();
    assert!(model.specialise(&[("x", Shape::from([1, 4]))]).is_ok());
    let error = model.specialise(&[("x", Shape::from([1, 3]))]).expect_err("there is no fourth");
    let expected = "node Gather2 (Gather): its index is 3, allowed are -3 to 2; \
                    this is for x [1,3] (declared [batch,n])";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn graphs_in_graphs_have_a_bound() {
    let nested = |depth: usize| {
        let mut inner = pb::GraphProto::default();
        for _ in 0..depth {
            let body = |name: &str| pb::AttributeProto {
                name: name.into(),
                g: Some(inner.clone()),
                r#type: AttributeType::Graph as i32,
                ..Default::default()
            };
            let node =
                pb::NodeProto { op_type: "If".into(), attribute: vec![body("body")], ..Default::default() };
            inner = pb::GraphProto { node: vec![node], ..Default::default() };
        }
        let bytes = twice().changed(|graph| graph.node.extend(inner.node.clone()));
        try_import(&bytes).expect_err("its bodies are empty").to_string()
    };
    assert!(nested(31).contains("graphs nested deeper than 30"), "{}", nested(31));
    assert!(!nested(30).contains("nested"), "{}", nested(30));
}

#[test]
fn ranks_and_extents_have_bounds() {
    let with = |dims: &[&str]| {
        let mut network = Network::default();
        network.input("x", DataType::Float, dims);
        let y = network.node("Relu", &["x"], &[]);
        network.output(&y, DataType::Float, dims);
        OnnxModel::from_bytes(&network.bytes())
    };
    let error = with(&["1"; 9]).expect_err("nine axes").to_string();
    assert!(error.contains("rank 9 exceeds 8"), "{error}");
    let model = with(&["n", "m"]).expect("the shape comes later");
    let error = model.specialise(&[("x", Shape::from([1 << 16, (1 << 15) + 1]))]).expect_err("too many");
    assert!(error.to_string().contains("exceeds 2147483648 elements"), "{error}");
    model.specialise(&[("x", Shape::from([1 << 16, 1 << 15]))]).expect("as many as a tensor may have");
}

#[test]
fn external_data_is_there_inside_and_long_enough() {
    let directory = std::env::temp_dir().join(format!("reef-onnx-external-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("inner")).expect("there is a place for it");
    let path = directory.join("inner/model.onnx");
    std::fs::write(directory.join("inner/data.bin"), [1u8; 16]).expect("it can be written");
    std::fs::write(directory.join("outside.bin"), [1u8; 16]).expect("it can be written");
    let read = |entries: &[(&str, &str)]| {
        let bytes = twice().changed(|graph| {
            let tensor = &mut graph.initializer[0];
            tensor.float_data.clear();
            tensor.data_location = Some(1);
            let entry = |(key, value): &(&str, &str)| tract_onnx::pb::StringStringEntryProto {
                key: (*key).into(),
                value: (*value).into(),
            };
            tensor.external_data = entries.iter().map(entry).collect();
        });
        std::fs::write(&path, &bytes).expect("it can be written");
        let from_bytes = OnnxModel::from_bytes(&bytes).expect_err("there is no directory").to_string();
        assert!(from_bytes.contains("load the model by its path"), "{from_bytes}");
        OnnxModel::read(&path).map(|_| ()).map_err(|error| error.to_string())
    };
    let data = ("location", "data.bin");
    assert_eq!(read(&[data, ("length", "8")]), Ok(()));
    assert_eq!(read(&[data, ("offset", "8")]), Ok(()));
    let table: [(&[(&str, &str)], &str); 8] = [
        (&[], "has no location"),
        (&[("location", "none.bin")], "No such file"),
        (&[("location", "../outside.bin")], "outside of the model's directory"),
        (&[("location", "/etc/passwd")], "outside of the model's directory"),
        (&[("location", ".")], "is not a file"),
        (&[data, ("offset", "12")], "data.bin has 16 bytes, its data needs 8 from byte 12 on"),
        (&[data, ("offset", "18446744073709551615")], "data.bin has 16 bytes"),
        (&[data, ("length", "4")], "its external data has 4 bytes, shape [2] needs 8"),
    ];
    for (entries, expected) in table {
        let error = read(entries).expect_err(expected);
        assert!(error.starts_with("not a valid ONNX model: tensor const1: "), "{error}");
        assert!(error.contains(expected), "{expected}: {error}");
    }
    std::fs::remove_dir_all(&directory).expect("it can be removed");
}
