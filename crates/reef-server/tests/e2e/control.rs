//! Loading and unloading over HTTP: who is asked, with what, and what becomes of the answers.

use std::sync::{Arc, Mutex};

use reef_engine::ModelKey;
use reef_server::{ControlError, LoadRequest, ModelControl, UNLOADED};
use serde_json::{Value, json};

use crate::fixture::Fixture;

/// Notes what it is asked, and answers by the model's name.
#[derive(Debug, Default)]
pub struct Noting(Mutex<Vec<String>>);

impl Noting {
    /// Asserts that it was asked for nothing.
    pub fn is_unasked(&self) {
        assert!(self.0.lock().unwrap().is_empty());
    }
}

impl ModelControl for Noting {
    fn load(&self, name: &str, request: LoadRequest) -> Result<(), ControlError> {
        let files: Vec<String> =
            request.files.iter().map(|(path, bytes)| format!("{path}={}", bytes.len())).collect();
        let config = request.config.unwrap_or_default();
        self.0.lock().unwrap().push(format!("load {name} {config} {}", files.join(" ")));
        let why = "because".to_string();
        match name {
            "off" => Err(ControlError::Off(why)),
            "unknown" => Err(ControlError::Unknown(why)),
            "invalid" => Err(ControlError::Invalid(why)),
            "busy" => Err(ControlError::Busy(why)),
            "failed" => Err(ControlError::Failed(why)),
            "panic" => panic!("planted"),
            _ => Ok(()),
        }
    }

    fn unload(&self, name: &str, dependents: bool) -> Result<(), ControlError> {
        self.0.lock().unwrap().push(format!("unload {name} {dependents}"));
        Ok(())
    }

    fn index(&self) -> Vec<(ModelKey, String, String)> {
        let row = |name: &str, state: &str, why: &str| {
            let key = ModelKey { name: name.into(), version: "1".into() };
            (key, state.to_string(), why.to_string())
        };
        vec![
            row("m", "READY", ""),
            row("gone", "UNAVAILABLE", UNLOADED),
            row("bad", "UNAVAILABLE", "no model"),
        ]
    }

    fn config(&self, name: &str, _version: Option<&str>) -> Option<Value> {
        (name == "m").then(|| json!({ "name": "as it is said" }))
    }
}

fn post(fixture: &Fixture, path: &str, body: &str) -> (u16, Value) {
    let answer = fixture.client().request("POST", path, &[], body.as_bytes());
    (answer.status, answer.json())
}

#[test]
fn without_control_nobody_loads() {
    let fixture = Fixture::with_m();
    for verb in ["load", "unload"] {
        let (status, answer) = post(&fixture, &format!("/v2/repository/models/m/{verb}"), "");
        assert_eq!((status, &answer["error"]), (503, &json!("explicit model control is off")));
    }
    let extensions = fixture.client().get("/v2").json()["extensions"].to_string();
    assert!(extensions.contains("\"model_repository(index)\""), "the index alone: {extensions}");
}

#[test]
fn questions_reach_who_controls_and_answers_come_back() {
    let fixture = Fixture::with_m();
    let noting = Arc::new(Noting::default());
    fixture.running().set_control(noting.clone());
    let load = |name: &str, body: &str| post(&fixture, &format!("/v2/repository/models/{name}/load"), body);
    assert_eq!(load("a%20b", ""), (200, json!({})));
    let body = r#"{"parameters":{"config":"{}","file:1/model.onnx":"AAEC","file:2/x":""}}"#;
    assert_eq!(load("m", body).0, 200);
    let unload = r#"{"parameters":{"unload_dependents":true}}"#;
    assert_eq!(post(&fixture, "/v2/repository/models/m/unload", unload).0, 200);
    for (name, status) in [("off", 503), ("unknown", 404), ("invalid", 400), ("busy", 503), ("failed", 500)] {
        assert_eq!(load(name, "{}"), (status, json!({ "error": "because" })), "{name}");
    }
    let (status, answer) = load("panic", "");
    assert!(status == 500 && answer["error"].as_str().unwrap().contains("planted"), "{answer}");
    let noted = std::mem::take(&mut *noting.0.lock().unwrap());
    assert_eq!(noted[..3], ["load a b  ", "load m {} 1/model.onnx=3 2/x=0", "unload m true"]);
    // What is wrong with a request never gets there.
    let long = format!("{{\"parameters\":{{\"config\":\"{}\"}}}}", " ".repeat(2 << 20));
    for (body, status, expected) in [
        ("{", 400, "EOF"),
        ("[1]", 400, "expected an object"),
        (r#"{"parameters":{"file:x":7}}"#, 400, "not a string"),
        (r#"{"parameters":{"file:x":"?"}}"#, 400, "not base64"),
        (&long, 413, "bytes"),
    ] {
        let (got, answer) = load("m", body);
        assert_eq!(got, status, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(expected), "{answer}");
    }
    let (status, answer) =
        post(&fixture, "/v2/repository/models/m/unload", r#"{"parameters":{"unload_dependents":7}}"#);
    assert!(
        status == 400 && answer["error"].as_str().unwrap().contains("unload_dependents is 7"),
        "{answer}"
    );
    noting.is_unasked();
}

#[test]
fn what_control_says_is_what_clients_hear() {
    let fixture = Fixture::with_m();
    fixture.running().set_control(Arc::new(Noting::default()));
    let mut client = fixture.client();
    assert_eq!(client.get("/v2/models/m/config").json(), json!({ "name": "as it is said" }));
    let (_, index) = post(&fixture, "/v2/repository/index", "{}");
    assert_eq!(index.as_array().unwrap().len(), 3);
    assert_eq!(
        index[2],
        json!({ "name": "bad", "version": "1", "state": "UNAVAILABLE", "reason": "no model" })
    );
    let (_, ready) = post(&fixture, "/v2/repository/index", r#"{"ready":true}"#);
    assert_eq!(ready.as_array().unwrap().len(), 1);
    assert_eq!((client.get("/v2/models/gone").status, client.get("/v2/models/bad").status), (404, 503));
    let missing = json!([{ "name": "bad", "version": "1", "reason": "no model" }]);
    assert_eq!(client.get("/v2/health/ready").json(), json!({ "ready": true, "missing": missing }));
    let extensions = client.get("/v2").json()["extensions"].to_string();
    assert!(extensions.contains("model_repository(unload_dependents)"), "{extensions}");
}
