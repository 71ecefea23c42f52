//! Broken files give errors, never panics.

use std::path::Path;

use reef_base::Rng;
use reef_graph::Shape;
use reef_zoo::{Model, Variant};
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
    network.input("x", DataType::String, &["2"]);
    let y = network.node("Identity", &["x"], &[]);
    network.output(&y, DataType::String, &["2"]);
    let error = OnnxModel::from_bytes(&network.bytes()).expect_err("strings are not supported");
    assert_eq!(
        error.to_string(),
        "not a valid ONNX model: input x: its element type (code 8) is not supported"
    );
}

#[test]
fn models_that_contradict_themselves_are_refused() {
    let mut network = Network::default();
    network.input("x", DataType::Float, &["1", "3", "8", "8"]);
    let weights = network.weights(&[4, 5, 3, 3]);
    let y = network.node("Conv", &["x", &weights], &[("kernel_shape", Attr::Ints(&[3, 3]))]);
    network.output(&y, DataType::Float, &["1", "4", "6", "6"]);
    let error = try_import(&network.bytes()).expect_err("5 channels are not 3");
    assert!(matches!(error, ImportError::Analysis { .. }), "{error}");

    let mut network = Network::default();
    network.input("x", DataType::Float, &["2"]);
    let y = network.node("Add", &["x", "nowhere"], &[]);
    network.output(&y, DataType::Float, &["2"]);
    let error = try_import(&network.bytes()).expect_err("a value is missing");
    assert_eq!(error.to_string(), "not a valid ONNX model: nothing makes the value nowhere");
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
    let function = |domain| {
        Err(format!("node Relu1 (Relu): functions of a model's own are not supported (domain `{domain}`)"))
    };
    let foreign = "node Relu1 (Relu): operators of the domain `com.example` are not supported";
    assert_eq!(import("", None), Ok(()));
    assert_eq!(import("ai.onnx", None), Ok(()));
    assert_eq!(import("", Some("com.example")), Ok(()), "a function that no node calls");
    assert_eq!(import("com.example", None), Err(foreign.into()));
    assert_eq!(import("com.example", Some("com.example")), function("com.example"));
    assert_eq!(import("", Some("ai.onnx")), function(""));
}
