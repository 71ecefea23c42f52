//! Trace and log settings over both protocols.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use reef_server::LogControl;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tracing::level_filters::LevelFilter;

use super::client::pb::log_settings_request::SettingValue as LogValue;
use super::client::pb::log_settings_request::setting_value::ParameterChoice as Asked;
use super::client::pb::log_settings_response::setting_value::ParameterChoice as Told;
use super::client::pb::trace_setting_request::SettingValue as TraceValue;
use super::client::pb::{LogSettingsRequest, TraceSettingRequest};
use super::client::{Grpc, good, refused};
use crate::fixture::Fixture;

fn trace(
    grpc: &Grpc,
    model: &str,
    settings: &[(&str, &str)],
) -> Result<HashMap<String, Vec<String>>, Status> {
    let setting =
        |(name, value): &(&str, &str)| (name.to_string(), TraceValue { value: vec![value.to_string()] });
    let settings = settings.iter().map(setting).collect();
    let request = TraceSettingRequest { settings, model_name: model.into() };
    let mut client = grpc.client.clone();
    let answer = grpc.block_on(async { client.trace_setting(request).await })?;
    Ok(answer.into_inner().settings.into_iter().map(|(name, setting)| (name, setting.value)).collect())
}

#[test]
fn a_trace_is_started_and_written() {
    let fixture = Fixture::with_m();
    let grpc = fixture.grpc();
    let settings = trace(&grpc, "", &[]).unwrap();
    assert_eq!(
        (&settings["trace_level"][..], &settings["trace_file"][..]),
        (&["OFF".into()][..], &["".into()][..])
    );
    let on = trace(&grpc, "", &[("trace_file", "run.json"), ("trace_level", "TIMESTAMPS")]).unwrap();
    assert_eq!((&*on["trace_level"][0], &*on["trace_file"][0]), ("TIMESTAMPS", "run.json"));
    grpc.infer(good("m")).unwrap();
    let file = fixture.traces.path().join("run.json");
    refused(trace(&grpc, "", &[("trace_file", "other.json")]), Code::InvalidArgument, "is being recorded");
    let mut http = fixture.client();
    let told = http.get("/v2/trace/setting").json();
    assert_eq!((&told["trace_level"], &told["trace_file"]), (&json!(["TIMESTAMPS"]), &json!("run.json")));
    assert!(!file.exists(), "it is written at the end");
    let off = http.request("POST", "/v2/trace/setting", &[], br#"{"trace_level":["OFF"]}"#);
    assert_eq!((off.status, &off.json()["trace_level"]), (200, &json!(["OFF"])), "{}", off.text());
    let written: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert!(written.to_string().contains("synthetic"), "{written}");
    // Another one, after it.
    let again = http.request(
        "POST",
        "/v2/trace/setting",
        &[],
        br#"{"trace_file":"b.json","trace_level":"TIMESTAMPS"}"#,
    );
    assert_eq!(again.status, 200, "{}", again.text());
    let off = http.request("POST", "/v2/trace/setting", &[], br#"{"trace_level":null,"trace_file":null}"#);
    assert_eq!((off.status, &off.json()["trace_file"]), (200, &json!("")), "{}", off.text());
    assert!(fixture.traces.path().join("b.json").exists());
}

#[test]
fn what_cannot_be_traced_is_said_and_nothing_changes() {
    let fixture = Fixture::with_m();
    let grpc = fixture.grpc();
    let before = trace(&grpc, "", &[]).unwrap();
    let invalid = Code::InvalidArgument;
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], Code, &'a str);
    let table: [Row<'_>; 8] = [
        ("", &[("trace_file", "../out.json")], invalid, "not the name of a file"),
        ("", &[("trace_file", "/tmp/out.json")], invalid, "not the name of a file"),
        ("", &[("trace_level", "TIMESTAMPS")], invalid, "no trace_file"),
        ("", &[("trace_file", "a.json"), ("trace_level", "TENSORS")], invalid, "neither OFF nor TIMESTAMPS"),
        ("", &[("trace_rate", "10")], invalid, "always 1"),
        ("", &[("mine", "1")], invalid, "no trace setting 'mine'"),
        ("m", &[("trace_level", "TIMESTAMPS")], Code::Unimplemented, "no trace of its own"),
        ("none", &[], Code::NotFound, "no model 'none'"),
    ];
    for (model, settings, code, message) in table {
        refused(trace(&grpc, model, settings), code, message);
        assert_eq!(trace(&grpc, "m", &[]).unwrap(), before);
    }
    let mut http = fixture.client();
    for (path, body, status) in [
        ("/v2/trace/setting", "[]", 400),
        ("/v2/trace/setting", r#"{"trace_level":{}}"#, 400),
        ("/v2/models/m/trace/setting", r#"{"trace_level":"OFF"}"#, 501),
        ("/v2/models/none/trace/setting", "", 404),
    ] {
        assert_eq!(http.request("POST", path, &[], body.as_bytes()).status, status, "{path} {body}");
    }
    assert_eq!(http.get("/v2/models/m/trace/setting").status, 200);
    // A folder that is gone.
    let folder = fixture.traces.path().to_path_buf();
    std::fs::remove_dir_all(&folder).unwrap();
    let on = [("trace_file", "a.json"), ("trace_level", "TIMESTAMPS")];
    refused(trace(&grpc, "", &on), Code::Unavailable, "cannot write the trace");
    assert_eq!(trace(&grpc, "", &[]).unwrap(), before);
}

#[derive(Debug)]
struct Log(Mutex<LevelFilter>);

impl LogControl for Log {
    fn level(&self) -> LevelFilter {
        *self.0.lock().unwrap()
    }

    fn set_level(&self, level: LevelFilter) -> Result<(), String> {
        *self.0.lock().unwrap() = level;
        Ok(())
    }
}

#[test]
fn the_log_is_read_and_changed() {
    let fixture = Fixture::with_m();
    let grpc = fixture.grpc();
    let log = |settings: &[(&str, Asked)]| {
        let setting = |(name, value): &(&str, Asked)| {
            (name.to_string(), LogValue { parameter_choice: Some(value.clone()) })
        };
        let request = LogSettingsRequest { settings: settings.iter().map(setting).collect() };
        let mut client = grpc.client.clone();
        grpc.block_on(async { client.log_settings(request).await }).map(|answer| answer.into_inner().settings)
    };
    let mut http = fixture.client();
    refused(log(&[]), Code::Unimplemented, "cannot be changed by clients");
    assert_eq!(http.get("/v2/logging").status, 501);
    let control = Arc::new(Log(Mutex::new(LevelFilter::INFO)));
    fixture.running().set_log(control.clone());
    let told = log(&[]).unwrap();
    assert_eq!(told["log_info"].parameter_choice, Some(Told::BoolParam(true)));
    assert_eq!(told["log_verbose_level"].parameter_choice, Some(Told::Uint32Param(0)));
    log(&[("log_verbose_level", Asked::Uint32Param(1))]).unwrap();
    assert_eq!(control.level(), LevelFilter::DEBUG);
    let quiet = br#"{"log_info":false,"log_verbose_level":0}"#;
    let answer = http.request("POST", "/v2/logging", &[], quiet);
    assert_eq!((answer.status, &answer.json()["log_info"]), (200, &json!(false)), "{}", answer.text());
    assert_eq!(control.level(), LevelFilter::WARN);
    refused(log(&[("log_error", Asked::BoolParam(false))]), Code::Unimplemented, "more urgent");
    refused(log(&[("log_file", Asked::StringParam("/tmp/x".into()))]), Code::Unimplemented, "standard error");
    refused(log(&[("mine", Asked::BoolParam(false))]), Code::InvalidArgument, "no log setting 'mine'");
    for body in ["7", r#"{"log_info":"no"}"#, r#"{"log_info":null}"#] {
        assert_eq!(http.request("POST", "/v2/logging", &[], body.as_bytes()).status, 400, "{body}");
    }
    assert_eq!(control.level(), LevelFilter::WARN);
    assert_eq!(fixture.client().get("/v2").json()["extensions"].to_string().matches("logging").count(), 1);
}
