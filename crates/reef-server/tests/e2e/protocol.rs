//! Health, metadata, and inference in every form that the protocol has.

use reef_engine::{DType, Level, ModelSettings};
use serde_json::{Value, json};

use crate::client::{Answer, request};
use crate::fixture::{Fixture, expected, x, y};

const INFER: &str = "/v2/models/m/infer";

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A request with an inference header of `json` and binary tensors behind it.
fn binary(json: &Value, tensors: &[u8]) -> (String, Vec<u8>) {
    let mut body = json.to_string().into_bytes();
    let len = body.len().to_string();
    body.extend_from_slice(tensors);
    (len, body)
}

fn infer_binary(fixture: &Fixture, path: &str, json: &Value, tensors: &[u8]) -> Answer {
    let (len, body) = binary(json, tensors);
    fixture.client().request("POST", path, &[("Inference-Header-Content-Length", &len)], &body)
}

#[test]
fn the_server_says_who_it_is() {
    let fixture = Fixture::with_m();
    let mut client = fixture.client();
    assert_eq!(client.get("/v2/health/live").json(), json!({ "live": true }));
    assert_eq!(client.get("/v2/health/ready").json(), json!({ "ready": true }));
    let server = client.get("/v2").json();
    assert_eq!(server["name"], "reef");
    let device = json!({ "name": "dummy:0", "description": "queued dummy", "cus": 2, "up": true });
    assert_eq!(server["devices"], json!([device]));
    assert!(server["extensions"].as_array().unwrap().contains(&json!("binary_tensor_data")));
    assert_eq!(client.head("/v2/health/live"), 200);
    assert_eq!(client.head("/v3"), 404);
}

#[test]
fn models_say_what_they_take() {
    let fixture = Fixture::with_m();
    let open = ("x", DType::I64, &[-1, 3][..]);
    fixture.model("open", &[open], &[("y", DType::F16, &[-1])], ModelSettings::default());
    let mut client = fixture.client();
    let expected = json!({
        "name": "open", "versions": ["1"], "platform": "reef_onnx",
        "inputs": [{ "name": "x", "datatype": "INT64", "shape": [-1, 3] }],
        "outputs": [{ "name": "y", "datatype": "FP16", "shape": [-1] }],
        "devices": ["dummy:0"],
    });
    assert_eq!(client.get("/v2/models/open").json(), expected);
    assert_eq!(client.get("/v2/models/open/versions/1").json(), expected);
    assert_eq!(client.get("/v2/models/m/ready").json(), json!({ "name": "m", "ready": true }));
    assert_eq!(client.get("/v2/models/m/config").json()["input"][0]["data_type"], "TYPE_FP32");
    let index = client.request("POST", "/v2/repository/index", &[], b"{}").json();
    assert_eq!(index.as_array().unwrap().len(), 2);
    assert_eq!(index[0]["state"], "READY");
}

#[test]
fn json_in_and_json_out() {
    let fixture = Fixture::with_m();
    let x: Vec<u8> = bytes(&[1.0, 2.5, -3.0, 4e-3]);
    let y: Vec<f32> =
        expected(0, &[&x], 16).chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    let mut client = fixture.client();
    for data in ["[1.0,2.5,-3.0,4e-3]", "[[1,2.5],[-3,0.004]]"] {
        let request = format!(
            r#"{{"id":"a b","inputs":[{{"name":"x","shape":[2,2],"datatype":"FP32","data":{data}}}],
                "outputs":[{{"name":"y"}}]}}"#
        );
        let answer = client.infer(&request);
        assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, "application/json"));
        let json = answer.json();
        assert_eq!(
            (&json["id"], &json["model_name"], &json["model_version"]),
            (&json!("a b"), &json!("m"), &json!("1"))
        );
        assert_eq!(json["parameters"]["class"], "best-effort");
        assert!(json["parameters"]["queue_us"].is_u64() && json["parameters"]["compute_us"].is_u64());
        let output = &json["outputs"][0];
        assert_eq!(
            (&output["name"], &output["datatype"], &output["shape"]),
            (&json!("y"), &json!("FP32"), &json!([2, 2]))
        );
        let data: Vec<f32> = output["data"].as_array().unwrap().iter().map(f32_of).collect();
        assert_eq!(data.iter().map(bits).collect::<Vec<_>>(), y.iter().map(bits).collect::<Vec<_>>());
    }
}

fn f32_of(value: &Value) -> f32 {
    value.as_f64().map_or(f32::NAN, |value| value as f32)
}

/// Bits to compare: JSON has one NaN and no infinity.
fn bits(value: &f32) -> u32 {
    if value.is_finite() { value.to_bits() } else { u32::MAX }
}

#[test]
fn binary_in_and_binary_out() {
    let fixture = Fixture::with_m();
    let x = bytes(&[f32::NAN, f32::INFINITY, 0.0, 1.0]);
    let input = json!({ "name": "x", "shape": [2, 2], "datatype": "FP32",
        "parameters": { "binary_data_size": 16 } });
    let requests = [
        json!({ "inputs": [input], "outputs": [{ "name": "y", "parameters": { "binary_data": true } }] }),
        json!({ "inputs": [input], "parameters": { "binary_data_output": true } }),
    ];
    for request in requests {
        let answer = infer_binary(&fixture, INFER, &request, &x);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.headers["content-type"], "application/octet-stream");
        let (json, tensors) = answer.parts();
        assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 16);
        assert_eq!(json["outputs"][0].get("data"), None);
        assert_eq!(tensors, expected(0, &[&x], 16));
    }
}

#[test]
fn a_raw_request_is_the_tensor_alone() {
    let fixture = Fixture::with_m();
    let open = ("x", DType::U8, &[-1, 5][..]);
    fixture.model("open", &[open], &[("y", DType::U8, &[-1])], ModelSettings::default());
    let x = bytes(&[1.0, 2.0, 3.0, 4.0]);
    let zero = [("Inference-Header-Content-Length", "0")];
    let mut client = fixture.client();
    let answer = client.request("POST", INFER, &zero, &x);
    assert_eq!(answer.parts().1, expected(0, &[&x], 16));
    let answer = client.request("POST", "/v2/models/open/infer", &zero, &[7; 15]);
    assert_eq!(answer.parts().0["outputs"][0]["shape"], json!([3]));
    let answer = client.request("POST", "/v2/models/open/infer", &zero, &[7; 14]);
    assert!(answer.error().contains("14 bytes do not fill shape [-1, 5]"), "{}", answer.error());
}

#[test]
fn tensors_keep_their_order_and_outputs_are_chosen() {
    let fixture = Fixture::new();
    let inputs = [("a", DType::I64, &[2][..]), ("b", DType::Bool, &[3]), ("c", DType::F16, &[1])];
    let outputs = [("p", DType::I8, &[4][..]), ("q", DType::BF16, &[5]), ("r", DType::Bool, &[3])];
    fixture.model("m", &inputs, &outputs, ModelSettings::default());
    let request = json!({
        "inputs": [
            { "name": "c", "shape": [1], "datatype": "FP16", "parameters": { "binary_data_size": 2 } },
            { "name": "b", "shape": [3], "datatype": "BOOL", "data": [true, false, true] },
            { "name": "a", "shape": [2], "datatype": "INT64", "parameters": { "binary_data_size": 16 } },
        ],
        "outputs": [
            { "name": "q", "parameters": { "binary_data": true } },
            { "name": "p" },
        ],
    });
    let (a, b, c) = ([1u8; 16], [1u8, 0, 1], [9u8, 60]);
    let answer = infer_binary(&fixture, INFER, &request, &[&c[..], &a[..]].concat());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (json, tensors) = answer.parts();
    let inputs: [&[u8]; 3] = [&a, &b, &c];
    assert_eq!(tensors, expected(1, &inputs, 10));
    let p: Vec<i8> = expected(0, &inputs, 4).iter().map(|&byte| byte as i8).collect();
    assert_eq!(json["outputs"][1]["data"], json!(p));
    assert_eq!(json["outputs"].as_array().unwrap().len(), 2);
    let no_form = request.to_string().replace(r#""binary_data":true"#, r#""binary_data":false"#);
    let answer =
        infer_binary(&fixture, INFER, &serde_json::from_str(&no_form).unwrap(), &[&c[..], &a[..]].concat());
    assert!(answer.error().contains("output 'q': BF16 has no JSON form"), "{}", answer.error());
}

#[test]
fn large_bodies_take_the_lanes_and_come_out_the_same() {
    for settings in [ModelSettings::default(), ModelSettings::real_time(Level::TOP)] {
        large_bodies_come_out_the_same(settings);
    }
}

fn large_bodies_come_out_the_same(settings: ModelSettings) {
    let fixture = Fixture::new();
    let (x, y) = (("x", DType::I32, &[-1][..]), ("y", DType::I32, &[-1][..]));
    fixture.model("m", &[x], &[y], settings);
    let values: Vec<i32> = (0..40_000).collect();
    let x: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let y: Vec<i32> = expected(0, &[&x], x.len())
        .chunks(4)
        .map(|four| i32::from_le_bytes(four.try_into().unwrap()))
        .collect();
    let shape = [values.len()];
    let request = json!({ "inputs": [{ "name": "x", "shape": shape, "datatype": "INT32", "data": values }] });
    let answer = fixture.client().infer(&request.to_string());
    assert_eq!(answer.json()["outputs"][0]["data"], json!(y));
    let tensor = json!({ "name": "x", "shape": shape, "datatype": "INT32",
        "parameters": { "binary_data_size": x.len() } });
    let request = json!({ "inputs": [tensor], "parameters": { "binary_data_output": true } });
    let answer = infer_binary(&fixture, INFER, &request, &x);
    assert_eq!(answer.parts().1, expected(0, &[&x], x.len()));
}

#[test]
fn the_effective_class_is_told() {
    let fixture = Fixture::new();
    fixture.model("m", &[x()], &[y()], ModelSettings::real_time(Level::new(2).unwrap()));
    let mut client = fixture.client();
    let mut ask = |parameters: &str| {
        let answer = client.infer(&format!(
            r#"{{"inputs":[{{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}}],
                "parameters":{parameters}}}"#
        ));
        let told = answer.json()["parameters"].clone();
        (answer.status, told["class"].clone(), told["level"].clone(), told["priority"].clone())
    };
    assert_eq!(ask("{}"), (200, json!("real-time"), json!(2), json!(3)));
    assert_eq!(ask(r#"{"priority":0}"#), (200, json!("real-time"), json!(2), json!(3)));
    assert_eq!(ask(r#"{"priority":5}"#), (200, json!("real-time"), json!(4), json!(5)));
    let best_effort = (200, json!("best-effort"), Value::Null, Value::Null);
    assert_eq!(ask(r#"{"class":"best-effort"}"#), best_effort);
    assert_eq!(ask(r#"{"priority":1}"#).0, 400);
    assert_eq!(ask(r#"{"priority":1000}"#).0, 400);
    assert_eq!(ask(r#"{"class":"fast"}"#).0, 400);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let fixture = Fixture::with_m();
    let mut client = fixture.client();
    let one = |id: usize| {
        let json = format!(
            r#"{{"id":"{id}","inputs":[{{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,{id}]}}]}}"#
        );
        request("POST", INFER, &[], json.as_bytes())
    };
    client.send(&(0..20).flat_map(one).collect::<Vec<u8>>());
    for id in 0..20 {
        assert_eq!(client.answer().json()["id"], json!(id.to_string()));
    }
}
