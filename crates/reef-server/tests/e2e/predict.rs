//! KServe's first protocol: the same requests in other words.

use reef_engine::{ClassStats, DType, Level, ModelSettings};
use serde_json::json;

use crate::client::Answer;
use crate::fixture::{Fixture, expected, x, y};

const PREDICT: &str = "/v1/models/m:predict";

fn post(fixture: &Fixture, path: &str, body: &str) -> Answer {
    fixture.client().request("POST", path, &[], body.as_bytes())
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn rows_are_answered_with_rows() {
    let fixture = Fixture::new();
    let outputs = [("k", DType::U8, &[2][..]), ("z", DType::I32, &[2, 2])];
    fixture.model("m", &[x()], &[("z", DType::I32, &[2, 2])], ModelSettings::default());
    fixture.model("two words", &[x(), ("n", DType::U8, &[2])], &outputs, ModelSettings::default());
    let numbers = |bytes: &[u8]| -> Vec<i32> {
        bytes.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect()
    };
    let input = bytes(&[1.0, 2.0, 3.5, 4.0]);
    let z = numbers(&expected(0, &[&input], 16));
    for body in [
        r#"{"instances":[[1,2],[3.5,4]]}"#,
        r#"{"instances":[{"x":[1,2]},{"x":[3.5,4]}]}"#,
        r#"{"inputs":[[1,2],[3.5,4]]}"#,
        r#"{"inputs":{"x":[[1,2],[3.5,4]]},"parameters":{"class":"best-effort"}}"#,
    ] {
        let answer = post(&fixture, PREDICT, body);
        let wanted = json!({ "predictions": [[z[0], z[1]], [z[2], z[3]]] });
        assert_eq!((answer.status, answer.json()), (200, wanted), "{body}");
        assert!(answer.headers.contains_key("x-request-id"));
    }
    let inputs: [&[u8]; 2] = [&input, &[7, 8]];
    let (k, z) = (expected(0, &inputs, 2), numbers(&expected(1, &inputs, 16)));
    let body = r#"{"instances":[{"x":[1,2],"n":7},{"n":8,"x":[3.5,4]}]}"#;
    let answer = post(&fixture, "/v1/models/two%20words:predict", body);
    let rows = [0, 1].map(|row| json!({ "k": k[row], "z": [z[2 * row], z[2 * row + 1]] }));
    assert_eq!((answer.status, answer.json()), (200, json!({ "predictions": rows })));
}

#[test]
fn bad_bodies_are_refused_with_the_reason_and_harm_nobody() {
    let fixture = Fixture::with_m();
    let mut client = fixture.client();
    let table = [
        ("", 400, "EOF"),
        ("{}", 400, "neither instances nor inputs"),
        (r#"{"instances":[]}"#, 400, "there is none"),
        (r#"{"instances":[[1,2],[3]]}"#, 400, "row 1: input 'x': shape [1]"),
        (r#"{"instances":[[1,2]]}"#, 400, "shape"),
        (r#"{"instances":[[1,2],[3,4],[5,6]]}"#, 400, "shape"),
        (r#"{"instances":[{"y":[1,2]},{"y":[1,2]}]}"#, 400, "no input 'y'"),
        (r#"{"instances":[[1,2],[3,4]],"parameters":{"deadline_us":0}}"#, 504, "deadline"),
    ];
    for (body, status, message) in table {
        let answer = client.request("POST", PREDICT, &[], body.as_bytes());
        assert_eq!((answer.status, answer.error().contains(message)), (status, true), "{}", answer.text());
    }
    let good = r#"{"instances":[[1,2],[3,4]]}"#;
    let binary = [("inference-header-content-length", "27")];
    let answer = client.request("POST", PREDICT, &binary, good.as_bytes());
    assert_eq!((answer.status, answer.error().contains("over /v2")), (400, true));
    let answer = client.request("POST", "/v1/models/none:predict", &[], good.as_bytes());
    assert_eq!((answer.status, answer.error().contains("no model 'none'")), (404, true));
    let large = format!(r#"{{"instances":[[1,2],[3,4]],"more":"{}"}}"#, "x".repeat(1 << 20));
    assert_eq!(post(&fixture, PREDICT, &large).status, 413);
    assert_eq!(client.request("POST", PREDICT, &[], good.as_bytes()).status, 200);
    fixture.wait_for("m", |class| class.success, 1);
}

#[test]
fn large_bodies_are_read_and_answered_in_the_lanes() {
    let fixture = Fixture::new();
    let large = [("x", DType::F32, &[-1, 64][..])];
    fixture.model("m", &large, &[("y", DType::U8, &[-1, 4])], ModelSettings::real_time(Level::TOP));
    let row = format!("[{}]", vec!["0.25"; 64].join(","));
    let answer = post(&fixture, PREDICT, &format!(r#"{{"instances":[{}]}}"#, vec![row; 1000].join(",")));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let wanted = expected(0, &[&bytes(&[0.25; 64_000])], 4000);
    let got: Vec<u8> =
        serde_json::from_value::<Vec<Vec<u8>>>(answer.json()["predictions"].clone()).unwrap().concat();
    assert_eq!(got, wanted);
}

#[test]
fn a_client_that_leaves_cancels_its_prediction() {
    let fixture = Fixture::with_m();
    fixture.gate.freeze();
    let mut client = fixture.client();
    let body = br#"{"instances":[[1,2],[3,4]]}"#;
    client.send(&crate::client::request("POST", PREDICT, &[], body));
    fixture.wait_for("m", ClassStats::pending, 1);
    drop(client);
    fixture.gate.wait_for_cancels(1);
    fixture.gate.flow();
    fixture.wait_for("m", ClassStats::pending, 0);
}

#[test]
fn models_are_listed_and_say_whether_they_are_ready() {
    let fixture = Fixture::with_m();
    fixture.model("a:b", &[x()], &[y()], ModelSettings::default());
    let mut client = fixture.client();
    assert_eq!(client.get("/v1/models").json(), json!({ "models": ["a:b", "m"] }));
    for (path, name) in [("/v1/models/m", "m"), ("/v1/models/a%3Ab", "a:b")] {
        let answer = client.get(path);
        assert_eq!((answer.status, answer.json()), (200, json!({ "name": name, "ready": true })));
    }
    let loading = fixture.loading("later");
    let answer = client.get("/v1/models/later");
    assert_eq!((answer.status, answer.json()["ready"].as_bool()), (503, Some(false)));
    loading.finish();
    assert_eq!(client.get("/v1/models/later").status, 200);
    let missing = client.get("/v1/models/none");
    assert_eq!((missing.status, missing.error().contains("no model 'none'")), (404, true));
}

#[test]
fn explanations_are_refused_with_the_reason() {
    let fixture = Fixture::with_m();
    let answer = post(&fixture, "/v1/models/m:explain", r#"{"instances":[[1,2],[3,4]]}"#);
    assert_eq!((answer.status, answer.error().contains("explanations are not supported")), (501, true));
    assert_eq!(post(&fixture, "/v1/models/none:explain", "{}").status, 404);
}
