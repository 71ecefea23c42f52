//! Inference in every form that the protocol has: the same as over HTTP.

use std::sync::Arc;

use bytes::Bytes;
use reef_engine::{DType, Level, ModelKey, ModelSettings};
use reef_server::{ControlError, LoadRequest, ModelControl};
use serde_json::json;
use tonic::Code;
use tonic::codec::CompressionEncoding;

use super::client::pb::InferTensorContents;
use super::client::pb::infer_parameter::ParameterChoice::{Int64Param, StringParam, Uint64Param};
use super::client::pb::model_infer_request::InferInputTensor;
use super::client::{floats, good, output, raw_request, refused, tensor, told, typed, with};
use crate::fixture::{Fixture, expected, x, y};

#[test]
fn raw_and_typed_inputs_are_the_same() {
    let fixture = Fixture::with_m();
    let client = fixture.grpc();
    let bytes = floats(&[1.0, 2.0, 3.0, 4.0]);
    for mut request in [good("m"), typed("m")] {
        request.id = "a b".into();
        request.model_version = "1".into();
        let answer = client.infer(request).unwrap();
        assert_eq!((&*answer.id, &*answer.model_name, &*answer.model_version), ("a b", "m", "1"));
        let [output] = &answer.outputs[..] else { panic!("{answer:?}") };
        assert_eq!((&*output.name, &*output.datatype, &output.shape[..]), ("y", "FP32", &[2i64, 2][..]));
        assert_eq!(answer.raw_output_contents, [expected(0, &[&bytes], 16)]);
        assert_eq!(told(&answer, "class"), Some(StringParam("best-effort".into())));
        assert!(matches!(told(&answer, "compute_us"), Some(Int64Param(_))));
    }
}

#[test]
fn tensors_keep_their_order_and_outputs_are_chosen() {
    let fixture = Fixture::new();
    let inputs = [("a", DType::I64, &[2][..]), ("b", DType::Bool, &[3]), ("c", DType::F16, &[1])];
    let outputs = [("p", DType::I8, &[4][..]), ("q", DType::BF16, &[5]), ("r", DType::Bool, &[3])];
    fixture.model("m", &inputs, &outputs, ModelSettings::default());
    let (a, b, c) = ([1u8; 16], [1u8, 0, 1], [9u8, 60]);
    let inputs = vec![tensor("c", "FP16", &[1]), tensor("b", "BOOL", &[3]), tensor("a", "INT64", &[2])];
    let raw = vec![Bytes::copy_from_slice(&c), Bytes::copy_from_slice(&b), Bytes::copy_from_slice(&a)];
    let mut request = raw_request("m", inputs, raw);
    request.outputs = vec![output("q", None), output("p", None)];
    let answer = fixture.grpc().infer(request).unwrap();
    let names: Vec<&str> = answer.outputs.iter().map(|output| &*output.name).collect();
    assert_eq!((names, &*answer.outputs[0].datatype), (vec!["q", "p"], "BF16"));
    let inputs: [&[u8]; 3] = [&a, &b, &c];
    assert_eq!(answer.raw_output_contents, [expected(1, &inputs, 10), expected(0, &inputs, 4)]);
}

#[test]
fn typed_inputs_of_narrow_types_are_packed() {
    let fixture = Fixture::new();
    let inputs = [("a", DType::I8, &[2][..]), ("b", DType::U16, &[2]), ("c", DType::Bool, &[2])];
    fixture.model("m", &inputs, &[y()], ModelSettings::default());
    let with = |input, contents| InferInputTensor { contents: Some(contents), ..input };
    let a = InferTensorContents { int_contents: vec![-1, 7], ..Default::default() };
    let b = InferTensorContents { uint_contents: vec![65535, 7], ..Default::default() };
    let c = InferTensorContents { bool_contents: vec![true, false], ..Default::default() };
    let inputs = vec![
        with(tensor("a", "INT8", &[2]), a),
        with(tensor("b", "UINT16", &[2]), b),
        with(tensor("c", "BOOL", &[2]), c),
    ];
    let answer = fixture.grpc().infer(raw_request("m", inputs, vec![])).unwrap();
    let inputs: [&[u8]; 3] = [&[255, 7], &[255, 255, 7, 0], &[1, 0]];
    assert_eq!(answer.raw_output_contents, [expected(0, &inputs, 16)]);
}

#[test]
fn the_effective_class_is_told() {
    let fixture = Fixture::new();
    fixture.model("m", &[x()], &[y()], ModelSettings::real_time(Level::new(2).unwrap()));
    let client = fixture.grpc();
    let ask = |name: &str, value| {
        let answer = client.infer(with(good("m"), name, value)).unwrap();
        ["class", "level", "priority"].map(|name| told(&answer, name))
    };
    let real_time = |level: i64| {
        [Some(StringParam("real-time".into())), Some(Int64Param(level)), Some(Int64Param(level + 1))]
    };
    assert_eq!(ask("mine", Int64Param(7)), real_time(2));
    for five in [Int64Param(5), Uint64Param(5), StringParam("5".into())] {
        assert_eq!(ask("priority", five), real_time(4));
    }
    let best_effort = ask("class", StringParam("best-effort".into()));
    assert_eq!(best_effort, [Some(StringParam("best-effort".into())), None, None]);
    refused(client.infer(with(good("m"), "priority", Int64Param(1))), Code::InvalidArgument, "level 2");
    refused(
        client.infer(with(good("m"), "class", StringParam("fast".into()))),
        Code::InvalidArgument,
        "fast",
    );
}

#[test]
fn messages_may_be_compressed() {
    let fixture = Fixture::with_m();
    let client = fixture.grpc();
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Deflate] {
        let mut client = client.client.clone().send_compressed(encoding).accept_compressed(encoding);
        let answer = fixture.grpc().block_on(async { client.model_infer(good("m")).await }).unwrap();
        let bytes = floats(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(answer.into_inner().raw_output_contents, [expected(0, &[&bytes], 16)]);
    }
}

/// Names what the elements of `y` stand for.
#[derive(Debug)]
struct Labelled(Arc<[String]>);

impl ModelControl for Labelled {
    fn load(&self, _name: &str, _request: LoadRequest) -> Result<(), ControlError> {
        Err(ControlError::Off("there is nothing to load".into()))
    }

    fn unload(&self, _name: &str, _dependents: bool) -> Result<(), ControlError> {
        Err(ControlError::Off("there is nothing to unload".into()))
    }

    fn index(&self) -> Vec<(ModelKey, String, String)> {
        Vec::new()
    }

    fn config(&self, _name: &str, _version: Option<&str>) -> Option<serde_json::Value> {
        None
    }

    fn labels(&self, _name: &str, _version: Option<&str>, output: &str) -> Option<Arc<[String]>> {
        (output == "y").then(|| self.0.clone())
    }
}

/// The texts of a BYTES tensor.
fn texts(mut bytes: &[u8]) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk::<4>() {
        let (text, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
        texts.push(String::from_utf8(text.to_vec()).unwrap());
        bytes = rest;
    }
    texts
}

#[test]
fn classes_are_the_largest_elements() {
    let fixture = Fixture::new();
    let bytes = ("y", DType::U8, &[2, 3][..]);
    fixture.model("m", &[x()], &[bytes, ("z", DType::F32, &[1])], ModelSettings::default());
    let input = floats(&[1.0, 2.0, 3.0, 4.0]);
    let values = expected(0, &[&input], 6);
    let mut order: Vec<usize> = (0..6).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(values[index]), index));
    let label = ["cat", "dog"];
    fixture.running().set_control(Arc::new(Labelled(label.map(String::from).into())));
    let text = |&index: &usize| match label.get(index) {
        Some(label) => format!("{}:{index}:{label}", values[index]),
        None => format!("{}:{index}", values[index]),
    };
    let all: Vec<String> = order.iter().map(text).collect();
    let client = fixture.grpc();
    let mut http = fixture.client();
    for count in [1usize, 3, 6, 1000] {
        let mut request = good("m");
        request.outputs = vec![output("z", None), output("y", Some(count as i64))];
        let answer = client.infer(request).unwrap();
        let clipped = count.min(6);
        let classes = &answer.outputs[1];
        assert_eq!((&*classes.datatype, &classes.shape[..]), ("BYTES", &[clipped as i64][..]));
        assert_eq!(texts(&answer.raw_output_contents[1]), all[..clipped]);
        assert_eq!((&*answer.outputs[0].datatype, answer.raw_output_contents[0].len()), ("FP32", 4));
        for binary in [false, true] {
            let parameters = json!({ "classification": count, "binary_data": binary });
            let request = json!({
                "inputs": [{ "name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4] }],
                "outputs": [{ "name": "y", "parameters": parameters }],
            });
            let answer = http.infer(&request.to_string());
            let (json, tail) = answer.parts();
            let output = &json["outputs"][0];
            assert_eq!((&output["datatype"], &output["shape"]), (&json!("BYTES"), &json!([clipped])));
            match binary {
                true => assert_eq!(texts(tail), all[..clipped]),
                false => assert_eq!(output["data"], json!(all[..clipped])),
            }
        }
    }
    let mut wrong = good("m");
    wrong.outputs = vec![output("y", Some(-1))];
    refused(client.infer(wrong), Code::InvalidArgument, "'classification' of output 'y': -1");
}
