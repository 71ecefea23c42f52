//! Life and death: clients that leave, full queues, deadlines, shutdown, ports.

use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use reef_engine::{ClassStats, Engine, EngineOptions, FailureReason, Level, ModelSettings};
use reef_server::{Server, ServerOptions};
use serde_json::Value;

use crate::client::{Client, request};
use crate::fixture::{Fixture, until, x, y};
use crate::gate::Gate;

fn body(parameters: &str) -> String {
    format!(
        r#"{{"inputs":[{{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}}],
            "parameters":{{{parameters}}}}}"#
    )
}

fn send(client: &mut Client, parameters: &str) {
    client.send(&request("POST", "/v2/models/m/infer", &[], body(parameters).as_bytes()));
}

fn cancelled(class: &ClassStats) -> u64 {
    class.failed(FailureReason::Cancelled)
}

#[test]
fn a_client_that_leaves_cancels_its_request() {
    let fixture = Fixture::with_m();
    let leave: [fn(Client); 2] = [drop, |client| {
        client.stream.shutdown(Shutdown::Write).unwrap();
        let mut client = client;
        assert!(client.is_closed());
    }];
    for (count, leave) in (1..).zip(leave) {
        fixture.gate.freeze();
        let mut client = fixture.client();
        send(&mut client, "");
        fixture.wait_for("m", ClassStats::pending, 1);
        leave(client);
        fixture.gate.wait_for_cancels(count);
        fixture.gate.flow();
        fixture.wait_for("m", cancelled, count);
        fixture.wait_for("m", ClassStats::pending, 0);
    }
    assert_eq!(fixture.client().infer(&body("")).status, 200);
}

#[test]
fn a_model_that_is_loading_is_not_ready_yet() {
    let fixture = Fixture::new();
    let loading = fixture.loading("m");
    let mut client = fixture.client();
    let zero = [("Inference-Header-Content-Length", "0")];
    let raw = client.request("POST", "/v2/models/m/infer", &zero, &[0; 16]);
    for answer in
        [raw, client.infer(&body("")), client.get("/v2/models/m"), client.get("/v2/models/m/config")]
    {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.error().contains("m/1 is not ready"), "{}", answer.error());
    }
    assert_eq!(client.get("/v2/models/m/ready").status, 503);
    fixture.model("other", &[x()], &[y()], ModelSettings::default());
    let mut states = |question: &str| -> Vec<String> {
        let index = client.request("POST", "/v2/repository/index", &[], question.as_bytes()).json();
        let state = |model: &Value| format!("{} {}", model["name"], model["state"]).replace('"', "");
        index.as_array().unwrap().iter().map(state).collect()
    };
    for question in ["", "{}", r#"{"ready":false,"repository_name":"r"}"#] {
        assert_eq!(states(question), ["m LOADING", "other READY"], "{question}");
    }
    assert_eq!(states(r#"{"ready":true}"#), ["other READY"]);
    for (question, status) in [("{", 400), (r#"{"ready":1}"#, 400), (&" ".repeat(5_000), 413)] {
        let answer = client.request("POST", "/v2/repository/index", &[], question.as_bytes());
        assert_eq!(answer.status, status, "{question}");
    }
    loading.finish();
    assert_eq!(client.request("POST", "/v2/models/m/infer", &zero, &[0; 16]).status, 200);
}

#[test]
fn a_server_that_loads_lives_but_is_not_ready() {
    let engine = Engine::new(Gate::new(), EngineOptions::default()).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let options = ServerOptions { http: any, metrics: Some(any), ..ServerOptions::default() };
    let running = Server::bind(options).unwrap().open(engine).unwrap();
    let (http, metrics) = (running.http_addr(), running.metrics_addr().unwrap());
    let statuses = || {
        let mut client = Client::connect(http);
        let paths = ["/v2/health/live", "/v2/health/ready", "/v2/models/m/ready", "/v2/models/m"];
        let mut statuses = paths.map(|path| client.get(path).status).to_vec();
        statuses.push(client.infer(&body("")).status);
        statuses.push(Client::connect(metrics).get("/v2/health/live").status);
        statuses
    };
    assert_eq!(statuses(), [200, 503, 503, 503, 503, 200]);
    let refused = Client::connect(http).infer(&body(""));
    assert!(refused.error().contains("still loading"), "{}", refused.error());
    running.set_ready();
    assert_eq!(statuses(), [200, 200, 404, 404, 404, 200]);
    assert!(running.shutdown(Duration::ZERO));
}

#[test]
fn a_queued_request_of_a_client_that_leaves_never_runs() {
    let fixture = Fixture::new();
    let settings = ModelSettings { in_flight_max: Some(1), ..ModelSettings::default() };
    fixture.model("m", &[x()], &[y()], settings);
    fixture.gate.freeze();
    let (mut stays, mut leaves) = (fixture.client(), fixture.client());
    send(&mut stays, "");
    fixture.wait_for("m", ClassStats::pending, 1);
    send(&mut leaves, "");
    fixture.wait_for("m", |class| class.queued, 1);
    drop(leaves);
    fixture.wait_for("m", cancelled, 1);
    fixture.wait_for("m", |class| class.queued, 0);
    fixture.gate.flow();
    assert_eq!(stays.answer().status, 200);
    fixture.wait_for("m", |class| class.executions, 1);
}

#[test]
fn a_full_queue_is_refused() {
    let fixture = Fixture::new();
    let settings = ModelSettings { in_flight_max: Some(1), queue_len: 1, ..ModelSettings::default() };
    fixture.model("m", &[x()], &[y()], settings);
    fixture.gate.freeze();
    let (mut first, mut second) = (fixture.client(), fixture.client());
    send(&mut first, "");
    fixture.wait_for("m", ClassStats::pending, 1);
    send(&mut second, "");
    fixture.wait_for("m", ClassStats::pending, 2);
    let refused = fixture.client().infer(&body(""));
    assert_eq!(refused.status, 503);
    assert!(refused.error().contains("full"), "{}", refused.error());
    fixture.gate.flow();
    assert_eq!((first.answer().status, second.answer().status), (200, 200));
    assert_eq!(first.infer(&body("")).status, 200);
}

#[test]
fn deadlines_and_timeouts_have_their_own_answers() {
    let fixture = Fixture::new();
    let settings = ModelSettings { in_flight_max: Some(1), ..ModelSettings::real_time(Level::TOP) };
    fixture.model("m", &[x()], &[y()], settings);
    fixture.gate.freeze();
    let (mut runs, mut waits, mut late) = (fixture.client(), fixture.client(), fixture.client());
    send(&mut runs, "");
    fixture.wait_for("m", ClassStats::pending, 1);
    send(&mut waits, r#""timeout":1"#);
    send(&mut late, r#""deadline_us":1"#);
    fixture.wait_for("m", ClassStats::pending, 3);
    fixture.gate.flow();
    let waited = waits.answer();
    assert_eq!(waited.status, 503);
    assert!(waited.error().contains("timeout"), "{}", waited.error());
    let late = late.answer();
    assert_eq!(late.status, 504);
    assert!(late.error().contains("deadline"), "{}", late.error());
    assert_eq!(runs.answer().status, 200);
    assert_eq!(runs.infer(&body(r#""deadline_us":1000000,"timeout":1000000"#)).status, 200);
    // Zero has passed; it is not none.
    let passed = runs.infer(&body(r#""deadline_us":0"#));
    assert_eq!(passed.status, 504);
    assert!(passed.error().contains("deadline passed"), "{}", passed.error());
    assert_eq!(runs.infer(&body(r#""timeout":0"#)).status, 200, "which Triton has for none");
}

#[test]
fn shutdown_finishes_what_runs_and_refuses_the_rest() {
    let mut fixture = Fixture::new();
    fixture.model("m", &[x()], &[y()], ModelSettings::real_time(Level::TOP));
    let http = fixture.running().http_addr();
    let metrics = fixture.running().metrics_addr().unwrap();
    fixture.gate.freeze();
    let (mut runs, mut open, mut idle) = (fixture.client(), fixture.client(), fixture.client());
    assert_eq!(open.get("/v2/health/ready").status, 200);
    assert_eq!(idle.get("/v2/health/ready").status, 200);
    send(&mut runs, "");
    fixture.wait_for("m", ClassStats::pending, 1);
    let shutdown = fixture.shut_down(Duration::ZERO);
    until(|| open.get("/v2/health/ready").status != 200 && !fixture.engine.is_ready());
    let refused = open.infer(&body(""));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(Client::connect(metrics).get("/v2/health/ready").status, 503);
    fixture.gate.flow();
    assert_eq!(runs.answer().status, 200);
    assert!(shutdown.join().unwrap());
    assert!(idle.is_closed() && runs.is_closed());
    assert!(TcpStream::connect(http).is_err() && TcpStream::connect(metrics).is_err());
}

#[test]
fn a_server_that_is_dropped_lets_go_of_its_requests() {
    let mut fixture = Fixture::with_m();
    fixture.gate.freeze();
    let mut client = fixture.client();
    send(&mut client, "");
    fixture.wait_for("m", ClassStats::pending, 1);
    fixture.cut_off();
    fixture.gate.wait_for_cancels(1);
    fixture.gate.flow();
    fixture.wait_for("m", ClassStats::pending, 0);
    assert!(client.is_closed());
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let options = ServerOptions { http: address, metrics: None, ..ServerOptions::default() };
    let error = Server::bind(options).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {address} for HTTP: ")), "{error}");
    let any = "127.0.0.1:0".parse().unwrap();
    let options = ServerOptions { http: any, metrics: Some(address), ..ServerOptions::default() };
    let error = Server::bind(options).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {address} for metrics: ")), "{error}");
}
