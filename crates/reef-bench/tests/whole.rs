//! The demo and the micro-benchmarks from end to end, on the CPU device with tiny models: everything runs and
//! every number is there. How good the numbers are is not asked here.

mod local;

use std::time::Duration;

use local::{Local, serve};
use reef_bench::demo::{self, DemoOptions};
use reef_bench::micro::{self, DeviceRequest, MicroEnvironment, MicroOptions};
use reef_bench::{BenchError, Progress};
use reef_engine::{Engine, EngineOptions};
use reef_report::micro::MicroReport;

fn micro(only: &[&str]) -> serde_json::Value {
    let only = only.iter().map(|name| name.to_string()).collect();
    let options = MicroOptions { quick: true, only, cus: 2 };
    let report = micro::run(&options, &Local, &Progress::hidden()).unwrap();
    serde_json::from_str(&report.to_json()).unwrap()
}

#[test]
fn micro_parts_measure_what_they_name() {
    let report = micro(&["stage", "preempt", "http"]);
    let parts = report["parts"].as_array().unwrap();
    let names: Vec<&str> = parts.iter().map(|part| part["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["preempt", "stage", "http"]);
    for row in parts.iter().flat_map(|part| part["rows"].as_array().unwrap()) {
        // How often a task reaches all compute units is the device's affair.
        let reached = row["name"].as_str().unwrap().contains("last CU") || row["count"].as_u64().unwrap() > 0;
        assert!(reached, "{row}");
    }
    assert_eq!(report["quick"], true);
}

#[test]
fn sweeps_have_a_point_for_every_scheme_and_place() {
    let report = micro(&["kernels", "length", "clients", "select"]);
    for part in report["parts"].as_array().unwrap() {
        assert!(part["axis"].is_string(), "{part}");
        let rows = part["rows"].as_array().unwrap();
        let series = |row: &serde_json::Value| row["point"]["series"].as_str().unwrap().to_string();
        let places = |name: &str| rows.iter().filter(|&row| series(row) == name).count();
        for scheme in ["sequential", "concurrent", "wait", "reset"] {
            assert!(places(scheme) >= 3, "{}: {scheme}", part["name"]);
        }
        for row in rows {
            // What was measured while somebody else had a core is left out there.
            let counted = part["name"] == "select" || row["count"].as_u64().unwrap() > 0;
            assert!(counted && row["point"]["x"].as_f64().unwrap() > 0.0, "{row}");
        }
    }
    let read: MicroReport = serde_json::from_value(report).unwrap();
    assert_eq!(read.parts.len(), 4);
}

#[test]
fn restoring_is_measured_for_every_model() {
    let report = micro(&["restore"]);
    let rows = report["parts"][0]["rows"].as_array().unwrap();
    for model in ["resnet152", "densenet201", "vgg19", "inceptionv3", "distilbert"] {
        for what in ["alone", "reset: work lost", "reset: extra time", "wait: extra, of alone"] {
            let name = format!("{model} {what}");
            let row = rows.iter().find(|row| row["name"] == name.as_str()).expect(&name);
            // Whether a tiny model was still running when it was to be preempted is chance.
            assert!(what != "alone" || row["count"].as_u64().unwrap() > 0, "{row}");
        }
    }
}

#[test]
fn a_model_beside_load_is_measured_under_every_scheme() {
    let report = micro(&["realtime"]);
    let rows = report["parts"][0]["rows"].as_array().unwrap();
    for model in ["control", "resnet18"] {
        let schemes = ["concurrent", "wait", "reset"];
        let measured = schemes.map(|scheme| [format!("{scheme}: latency"), format!("{scheme}: best-effort")]);
        for what in measured.concat().into_iter().chain(["rt-only: latency".to_string()]) {
            let name = format!("{model} {what}");
            let row = rows.iter().find(|row| row["name"] == name.as_str()).expect(&name);
            assert!(row["count"].as_u64().unwrap() > 0, "{row}");
        }
    }
}

#[test]
fn unknown_parts_are_named_with_those_that_exist() {
    let options = MicroOptions { quick: true, only: vec!["speed".into()], cus: 1 };
    let error = micro::run(&options, &Local, &Progress::hidden()).unwrap_err();
    assert!(matches!(error, BenchError::UnknownPart { .. }));
    assert!(
        error
            .to_string()
            .contains("clients, restore, select, stage, call, handover, narrow, realtime, http, latency"),
        "{error}"
    );
}

#[test]
fn the_demo_compares_every_scheme() {
    let dir = std::env::temp_dir().join(format!("reef-bench-demo-{}", std::process::id()));
    let progress = Progress::hidden();
    let device = Local.device(DeviceRequest::new(2, Default::default())).unwrap();
    let engine = Engine::new(device, EngineOptions::default()).unwrap();
    for spec in demo::write_models(&dir, true, &progress).unwrap() {
        engine.load(spec).unwrap();
    }
    let server = serve(&engine).unwrap();
    let trace = dir.join("trace.json");
    let options = DemoOptions::new(true, Some(Duration::from_millis(600)), Some(trace.clone()));
    let report = demo::run(&options, &engine, server.http_addr(), &progress).unwrap();
    server.shutdown(Duration::from_secs(10));
    let names: Vec<&str> = report.schemes.iter().map(|scheme| scheme.scheme).collect();
    assert_eq!(names, ["rt-only", "sequential", "concurrent", "wait", "reset"]);
    for scheme in &report.schemes {
        assert!(scheme.real_time.iter().all(|stream| stream.latency_us.count > 0), "{scheme:?}");
        assert!(scheme.real_time.iter().all(|stream| stream.failed == 0), "{scheme:?}");
        let served = scheme.best_effort_per_s.is_some_and(|rate| rate > 0.0);
        assert_eq!(served, scheme.scheme != "rt-only", "{scheme:?}");
    }
    assert_eq!(report.schemes[0].real_time[0].p50_ratio, 1.0);
    let table = report.to_string();
    for expected in ["control: real-time level 0, 200.0 Hz", "share of alone", "blocks killed"] {
        assert!(table.contains(expected), "{table}");
    }
    assert_eq!(report.trace_error, None);
    println!("{table}");
    report.write_json(&dir.join("demo.json")).unwrap();
    let written = std::fs::read_to_string(dir.join("demo.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap()["quick"], true);
    let trace: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(trace).unwrap()).unwrap();
    assert!(trace.is_object() || trace.is_array());
    std::fs::remove_dir_all(dir).unwrap();
}
