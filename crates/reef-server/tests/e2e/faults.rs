//! Bugs and models that are not there: clients are told, and the server goes on.

use reef_engine::{ClassStats, DType, ModelSettings};

use crate::client::request;
use crate::fixture::{Fixture, key, x, y};

const GOOD: &str = r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#;

#[test]
fn a_panic_is_the_end_of_its_request_alone() {
    let fixture = Fixture::with_m();
    let mut client = fixture.client();
    fixture.gate.plant("alloc_io");
    let answer = client.infer(GOOD);
    assert_eq!(answer.status, 500);
    assert!(answer.error().contains("an internal error, please report it: planted"), "{}", answer.error());
    // The same connection, and others.
    assert_eq!(client.infer(GOOD).status, 200);
    assert_eq!(fixture.client().infer(GOOD).status, 200);
}

#[test]
fn clients_of_an_engine_that_fails_are_answered() {
    let fixture = Fixture::with_m();
    fixture.gate.freeze();
    let mut waits = fixture.client();
    waits.send(&request("POST", "/v2/models/m/infer", &[], GOOD.as_bytes()));
    fixture.wait_for("m", ClassStats::pending, 1);
    fixture.gate.plant("try_complete");
    fixture.gate.flow();
    let answer = waits.answer();
    assert_eq!(answer.status, 500);
    assert!(answer.error().contains("the engine has failed"), "{}", answer.error());
    assert!(fixture.engine.wait_for_fault().is_some());
    let mut client = fixture.client();
    assert_eq!(client.get("/v2/health/live").status, 200);
    for path in ["/v2/health/ready", "/v2/models/m/ready"] {
        assert_eq!(client.get(path).status, 503, "{path}");
    }
    let answer = client.infer(GOOD);
    assert!(answer.status == 500 && answer.error().contains("the engine has failed"), "{}", answer.text());
}

#[test]
fn a_model_that_could_not_be_loaded_is_answered_for() {
    let fixture = Fixture::with_m();
    fixture.running().set_unavailable(key("bad"), "it is broken".into());
    let mut client = fixture.client();
    for path in ["/v2/models/bad", "/v2/models/bad/versions/1/config", "/v2/models/bad/stats"] {
        let answer = client.get(path);
        assert_eq!(
            (answer.status, answer.error()),
            (503, "model bad/1 could not be loaded: it is broken".into())
        );
    }
    let ready = client.get("/v2/models/bad/ready");
    assert_eq!((ready.status, &ready.json()["reason"]), (503, &"it is broken".into()));
    for (headers, body) in
        [(&[][..], GOOD.as_bytes()), (&[("Inference-Header-Content-Length", "0")], &[0; 16])]
    {
        let answer = client.request("POST", "/v2/models/bad/infer", headers, body);
        assert!(answer.status == 503 && answer.error().contains("it is broken"), "{}", answer.text());
    }
    assert_eq!(client.get("/v2/models/bad/versions/2").status, 404);
    assert_eq!(client.get("/v2/health/ready").status, 200);
    let index = |client: &mut crate::client::Client, body: &[u8]| {
        client.request("POST", "/v2/repository/index", &[], body).json().as_array().unwrap().clone()
    };
    let all = index(&mut client, b"");
    assert_eq!(
        (all.len(), &all[1]["state"], &all[1]["reason"]),
        (2, &"UNAVAILABLE".into(), &"it is broken".into())
    );
    assert_eq!(index(&mut client, br#"{"ready":true}"#).len(), 1);
    // Once it is there nobody hears of that any more.
    fixture.model("bad", &[x()], &[y()], ModelSettings::default());
    assert_eq!(client.get("/v2/models/bad/ready").status, 200);
    assert_eq!(index(&mut client, b"").len(), 2);
}

/// What JSON has no number for is a string, and nothing else is.
#[test]
fn not_a_number_and_infinity_are_strings() {
    let fixture = Fixture::new();
    let tensor = |dtype| ("x", dtype, &[2, 2][..]);
    fixture.model("m", &[tensor(DType::F32)], &[y()], ModelSettings::default());
    fixture.model("m64", &[tensor(DType::F64)], &[y()], ModelSettings::default());
    let mut client = fixture.client();
    let json = |datatype: &str, data: &str| {
        format!(
            r#"{{"outputs":[{{"name":"y","parameters":{{"binary_data":true}}}}],
            "inputs":[{{"name":"x","shape":[2,2],"datatype":"{datatype}","data":{data}}}]}}"#
        )
    };
    let raw = [("Inference-Header-Content-Length", "0")];
    let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0];
    let single: Vec<u8> = values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect();
    let double: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    for (model, datatype, bytes) in [("m", "FP32", single), ("m64", "FP64", double)] {
        let path = format!("/v2/models/{model}/infer");
        let body = json(datatype, r#"[["NaN","Infinity"],["-Infinity",1]]"#);
        let as_json = client.request("POST", &path, &[], body.as_bytes());
        let as_bytes = client.request("POST", &path, &raw, &bytes);
        assert_eq!((as_json.status, as_bytes.status), (200, 200), "{}", as_json.text());
        assert_eq!(as_json.parts().1, as_bytes.parts().1, "the same input");
        for token in ["NaN", "Infinity", "-Infinity"] {
            for place in 0..4 {
                let mut data = ["1", "2", "3", "4"];
                data[place] = token;
                for separator in [",", " ,\n "] {
                    let body = json(datatype, &format!("[{}]", data.join(separator)));
                    let answer = client.request("POST", &path, &[], body.as_bytes());
                    let advice = format!("{token} is no JSON number: write the string \"{token}\"");
                    let error = answer.error();
                    assert!(answer.status == 400 && error.contains(&advice), "{body}: {error}");
                    assert!(error.contains("binary data"), "{error}");
                }
            }
        }
        for other in
            [r#"["nan",1,2,3]"#, r#"["inf",1,2,3]"#, r#"["1",1,2,3]"#, "[null,1,2,3]", "[1e999,1,2,3]"]
        {
            let answer = client.request("POST", &path, &[], json(datatype, other).as_bytes());
            assert_eq!(answer.status, 400, "{other}: {}", answer.text());
        }
    }
}
