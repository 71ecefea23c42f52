//! The metrics text, read by a small parser of the Prometheus format.

use std::collections::{BTreeMap, BTreeSet};

use reef_client::{OpenModel, Options, Terms};
use reef_engine::{ClassStats, FailureReason, Level, ModelSettings};

use crate::access::{BEST_EFFORT, METRICS, REAL_TIME, clients};
use crate::client::{Client, request};
use crate::fixture::{Fixture, until, x, y};
use crate::grpc::client::good;
use crate::grpc::stream::open_as;
use crate::ring::Folder;

/// Samples by name and labels, as written; panics on text that is not the format.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut families = BTreeSet::new();
    let mut family = (String::new(), String::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            assert!(help.split_once(' ').is_some_and(|(_, help)| !help.is_empty()), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            // Readers of OpenMetrics call a counter by its name without the suffix.
            let called = name.strip_suffix("_total").filter(|_| kind == "counter").unwrap_or(name);
            assert!(families.insert(called.to_string()), "{called} stands in two places");
            family = (name.to_string(), kind.to_string());
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let plain = name.split('{').next().unwrap();
            let suffix = plain.strip_prefix(family.0.as_str()).unwrap_or_else(|| panic!("stray: {line}"));
            let suffixes: &[&str] =
                if family.1 == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line}");
            assert!(name.contains('{') == name.ends_with('}'), "{line}");
            let value: f64 = value.parse().unwrap();
            assert!(samples.insert(name.to_string(), value).is_none(), "twice: {name}");
        }
    }
    samples
}

fn scrape(client: &mut Client) -> BTreeMap<String, f64> {
    let answer = client.get("/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.headers["content-type"].starts_with("text/plain; version=0.0.4"));
    parse(answer.text())
}

#[test]
fn both_ports_tell_the_same_story() {
    let fixture = Fixture::with_m();
    fixture.model("rt", &[x()], &[y()], ModelSettings::real_time(Level::TOP));
    let mut client = fixture.client();
    let json = r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#;
    for _ in 0..3 {
        assert_eq!(client.infer(json).status, 200);
    }
    assert_eq!(client.request("POST", "/v2/models/rt/infer", &[], json.as_bytes()).status, 200);
    assert_eq!(client.infer("{}").status, 400);
    let mut metrics = Client::connect(fixture.running().metrics_addr().unwrap());
    for samples in [scrape(&mut client), scrape(&mut metrics)] {
        let value = |name: &str| *samples.get(name).unwrap_or_else(|| panic!("no {name}: {samples:#?}"));
        assert_eq!(value(r#"nv_inference_request_success{model="m",version="1"}"#), 3.0);
        assert_eq!(value(r#"nv_inference_count{model="rt",version="1"}"#), 1.0);
        assert_eq!(value(r#"nv_inference_exec_count{model="m",version="1"}"#), 3.0);
        assert_eq!(value(r#"nv_inference_pending_request_count{model="m",version="1"}"#), 0.0);
        let failure = r#"nv_inference_request_failure{model="m",version="1",reason="REJECTED"}"#;
        assert_eq!(value(failure), 0.0);
        for what in ["request", "queue", "compute_input", "compute_infer", "compute_output"] {
            value(&format!(r#"nv_inference_{what}_duration_us{{model="m",version="1"}}"#));
        }
        let counters = [
            "preemptions_total",
            "blocks_killed_total",
            "wasted_seconds_total",
            "padding_seconds_total",
            "deadline_misses_total",
            "queue_length",
            "cu_busy_seconds_total",
            "preemption_latency_seconds_count",
        ];
        for what in counters {
            let on = r#"device="dummy:0""#;
            value(&format!(r#"reef_{what}{{model="m",version="1",class="best-effort",{on}}}"#));
            value(&format!(r#"reef_{what}{{model="rt",version="1",class="real-time",{on}}}"#));
        }
        let labels = r#"model="m",version="1",class="best-effort",device="dummy:0",le="+Inf""#;
        assert_eq!(value(&format!("reef_request_duration_seconds_bucket{{{labels}}}")), 3.0);
        assert!(value(r#"reef_device_busy_seconds_total{device="dummy:0"}"#) > 0.0);
        assert_eq!(value(r#"reef_device_memory_bytes{device="dummy:0",domain="pinned",use="weights"}"#), 0.0);
        assert_eq!(value(r#"reef_device_up{device="dummy:0"}"#), 1.0);
        assert_eq!(value(r#"reef_device_info{device="dummy:0",description="queued dummy"}"#), 1.0);
        assert_eq!(value(r#"reef_http_responses_total{code="400"}"#), 1.0);
    }
    assert_eq!(metrics.get("/v2").status, 404);
    assert_eq!(metrics.get("/v2/health/live").status, 200);
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_millis().try_into().unwrap()
}

#[test]
fn statistics_are_tritons() {
    let fixture = Fixture::new();
    let one_at_a_time = ModelSettings { in_flight_max: Some(1), ..ModelSettings::default() };
    fixture.model("m", &[x()], &[y()], one_at_a_time);
    let mut client = fixture.client();
    let json = r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#;
    let before = client.get("/v2/models/m/stats").json()["model_stats"][0].clone();
    assert_eq!((&before["last_inference"], &before["batch_stats"]), (&0.into(), &serde_json::json!([])));
    let began = now_ms();
    assert_eq!(client.infer(json).status, 200);
    // Its time is up while it waits for another one, so that it never runs.
    fixture.gate.freeze();
    client.send(&request("POST", "/v2/models/m/infer", &[], json.as_bytes()));
    fixture.wait_for("m", ClassStats::pending, 1);
    let mut waits = fixture.client();
    let late = json.replacen('{', r#"{"parameters":{"deadline_us":1},"#, 1);
    waits.send(&request("POST", "/v2/models/m/infer", &[], late.as_bytes()));
    // It waits, or it was refused at once.
    fixture.wait_for("m", |class| class.pending() + class.failed(FailureReason::Deadline), 2);
    fixture.gate.flow();
    assert_eq!((client.answer().status, waits.answer().status), (200, 504));
    for path in ["/v2/models/stats", "/v2/models/m/stats", "/v2/models/m/versions/1/stats"] {
        let stats = client.get(path).json();
        assert_eq!(stats["model_stats"].as_array().unwrap().len(), 1);
        check_statistics(&stats["model_stats"][0], began);
    }
    for path in ["/v2/models/none/stats", "/v2/models/m/versions/2/stats"] {
        assert_eq!(client.get(path).status, 404, "{path}");
    }
}

/// Of a model that has answered two requests and failed one, all of them after `began`.
fn check_statistics(stats: &serde_json::Value, began: u64) {
    assert_eq!((&stats["name"], &stats["version"]), (&"m".into(), &"1".into()));
    assert_eq!(stats["inference_count"], 2);
    // The one whose deadline passed did not run.
    assert_eq!(stats["execution_count"], 2);
    let last = stats["last_inference"].as_u64().unwrap();
    assert!((began..=now_ms()).contains(&last), "{last} is before {began}");
    let sums = &stats["inference_stats"];
    for (name, count) in
        [("success", 2), ("fail", 1), ("queue", 2), ("compute_input", 2), ("compute_output", 2)]
    {
        assert_eq!(sums[name]["count"], count, "{name}");
        assert!(sums[name]["ns"].is_u64(), "{name}");
    }
    assert!(sums["success"]["ns"].as_u64() > Some(0) && sums["fail"]["ns"].as_u64() > Some(0));
    for name in ["cache_hit", "cache_miss"] {
        assert_eq!(sums[name], serde_json::json!({ "count": 0, "ns": 0 }), "{name}");
    }
    let batch = &stats["batch_stats"][0];
    assert_eq!((&batch["batch_size"], &batch["compute_infer"]), (&1.into(), &sums["compute_infer"]));
    assert_eq!(
        (&batch["compute_input"], &batch["compute_output"]),
        (&sums["compute_input"], &sums["compute_output"])
    );
    assert_eq!(stats["response_stats"], serde_json::json!({}));
    let memory = stats["memory_usage"].as_array().unwrap();
    assert_eq!(memory.len(), 1, "{memory:?}");
    assert!(["CPU", "GPU"].contains(&memory[0]["type"].as_str().unwrap()) && memory[0]["byte_size"].is_u64());
}

#[test]
fn rows_are_bounded_and_counted() {
    let fixture = Fixture::new();
    let bounded = |rows| ModelSettings { batch_rows_max: Some(rows), ..ModelSettings::default() };
    fixture.model("m", &[x()], &[y()], bounded(2));
    fixture.model("one", &[x()], &[y()], bounded(1));
    let mut client = fixture.client();
    let json = r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#;
    assert_eq!(client.infer(json).status, 200);
    let stats = client.get("/v2/models/m/stats").json()["model_stats"][0].clone();
    let count = |name: &str| stats[name].as_u64();
    assert_eq!((count("inference_count"), count("execution_count")), (Some(2), Some(1)));
    assert_eq!(stats["inference_stats"]["success"]["count"], 1);
    assert_eq!(stats["batch_stats"].as_array().map(Vec::len), Some(1));
    let batches = &stats["batch_stats"][0];
    assert_eq!(
        (batches["batch_size"].as_u64(), batches["compute_infer"]["count"].as_u64()),
        (Some(2), Some(1))
    );
    let wide = client.request("POST", "/v2/models/one/infer", &[], json.as_bytes());
    assert_eq!(wide.status, 400);
    assert_eq!(wide.error(), "inference request batch-size must be <= 1 for 'one', got 2");
}

fn of(samples: &BTreeMap<String, f64>, protocol: &str) -> BTreeMap<String, f64> {
    let labels = format!("reef_requests_total{{protocol=\"{protocol}\",outcome=\"");
    let named = samples.iter().filter_map(|(name, value)| Some((name.strip_prefix(&labels)?, *value)));
    let some = named.filter(|(_, value)| *value > 0.0);
    some.map(|(name, value)| (name.trim_end_matches("\"}").to_string(), value)).collect()
}

/// A server with clients, of which the best-effort one may send one request over each protocol, and a ring.
#[test]
fn requests_are_counted_by_protocol_and_outcome() {
    let folder = Folder::new();
    let fixture = Fixture::with(|options| {
        clients(options);
        let best_effort = &mut options.access.clients[0];
        (best_effort.requests_per_s, best_effort.burst) = (Some(0.001), Some(3));
        options.ring = Some(reef_server::RingOptions::new(folder.socket()));
    });
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let mut metrics = Client::connect(fixture.running().metrics_addr().unwrap());
    let mut scrape = || {
        let answer = metrics.request("GET", "/metrics", &[("x-api-key", METRICS)], &[]);
        parse(answer.text())
    };
    let mut http = fixture.client();
    let json = r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#;
    let mut infer = |token: &str, body: &str| {
        http.request("POST", "/v2/models/m/infer", &[("x-api-key", token)], body.as_bytes()).status
    };
    assert_eq!([infer(BEST_EFFORT, json), infer(REAL_TIME, "{}"), infer("nobody", json)], [200, 400, 401]);
    let options = Options { tensor_bytes: 1 << 16, token: Some(BEST_EFFORT.into()), ..Options::default() };
    let mut ring = reef_client::Client::connect(folder.socket(), &options).unwrap();
    let model = ring.open(&OpenModel::new("m").input("x", "FP32", &[2, 2])).unwrap();
    let mut ask = |terms: &Terms| ring.infer(model, &[&[1; 16]], terms, |_, _| ()).is_ok();
    let urgent = Terms { class: reef_client::Class::RealTime, ..Terms::default() };
    assert!(ask(&Terms::default()) && !ask(&urgent));
    let grpc = fixture.grpc();
    let mut stream = open_as(&grpc, Some(BEST_EFFORT));
    for _ in 0..2 {
        stream.send(good("m"));
        assert!(stream.next(&grpc).unwrap().unwrap().error_message.contains("more often"));
    }
    assert!(!ask(&Terms::default()));
    assert_eq!(grpc.infer(good("m")).unwrap_err().code(), tonic::Code::Unauthenticated);
    let token = Some("token-of-nobody-known".into());
    let unknown = reef_client::Client::connect(folder.socket(), &Options { token, ..options });
    assert!(unknown.is_err());
    let counts = |named: &[(&str, f64)]| -> BTreeMap<String, f64> {
        named.iter().map(|(name, count)| (name.to_string(), *count)).collect()
    };
    let through_ring = counts(&[("success", 1.0), ("forbidden", 1.0), ("limited", 1.0)]);
    let samples = scrape();
    assert_eq!(of(&samples, "http"), counts(&[("success", 1.0), ("invalid", 1.0), ("unauthenticated", 1.0)]));
    assert_eq!(of(&samples, "grpc"), counts(&[("limited", 2.0), ("unauthenticated", 1.0)]));
    assert_eq!(of(&samples, "ring"), through_ring);
    assert_eq!(samples["reef_ring_connections_total{outcome=\"accepted\"}"], 1.0);
    // What was counted stays when its connection has gone.
    drop(ring);
    until(|| scrape()["reef_ring_open_connections"] == 0.0);
    let samples = scrape();
    assert_eq!(of(&samples, "ring"), through_ring);
    assert_eq!(samples["reef_ring_connections_total{outcome=\"refused\"}"], 1.0);
}
