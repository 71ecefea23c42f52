//! Request ids, and traces as a collector gets them.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use reef_client::{OpenModel, Options, Terms, TraceParent};
use reef_engine::ModelSettings;
use serde_json::Value;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use crate::fixture::{Fixture, x, y};
use crate::gate::PATIENCE;
use crate::grpc::client::pb::ModelInferRequest;
use crate::grpc::client::{Grpc, good};
use crate::grpc::stream::open_request;
use crate::ring::Folder;

const INFER: &str =
    r#"{"id":"seven","inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#;

#[test]
fn a_request_has_an_id_its_own_or_a_new_one() {
    let fixture = Fixture::with_m();
    let mut client = fixture.client();
    let answer = client.request("GET", "/v2", &[("X-Request-Id", "mine-1")], &[]);
    assert_eq!(answer.headers["x-request-id"], "mine-1");
    assert_eq!(client.infer(INFER).headers["x-request-id"], "seven");
    let header = [("x-request-id", "head")];
    let both = client.request("POST", "/v2/models/m/infer", &header, INFER.as_bytes());
    assert_eq!((&*both.headers["x-request-id"], &both.json()["id"]), ("head", &Value::from("seven")));
    let (one, two) = (client.get("/v2"), client.get("/none"));
    assert!(one.headers["x-request-id"].len() == 16 && two.status == 404);
    assert_ne!(one.headers["x-request-id"], two.headers["x-request-id"]);
}

fn id(metadata: &MetadataMap) -> &str {
    metadata.get("x-request-id").expect("every answer has an id").to_str().unwrap()
}

/// The id that the answer to a request has, which has these in its metadata and its message.
fn answered(client: &Grpc, in_metadata: &str, request: ModelInferRequest) -> Result<String, Status> {
    let mut request = Request::new(request);
    if !in_metadata.is_empty() {
        request.metadata_mut().insert("x-request-id", in_metadata.parse().unwrap());
    }
    let mut stub = client.client.clone();
    let answer = client.block_on(async { stub.model_infer(request).await });
    answer.map(|answer| id(answer.metadata()).to_string())
}

#[test]
fn an_rpc_has_an_id_its_own_or_a_new_one() {
    let fixture = Fixture::with_m();
    let client = fixture.grpc();
    let named = |id: &str| ModelInferRequest { id: id.into(), ..good("m") };
    let ask = |metadata: &str, message: &str| answered(&client, metadata, named(message)).unwrap();
    assert_eq!(ask("mine-1", ""), "mine-1");
    assert_eq!(ask("", "seven"), "seven");
    assert_eq!(ask("head", "seven"), "head");
    let (one, two) = (ask("", ""), ask("has a space", "so has this"));
    assert!(one.len() == 16 && two.len() == 16 && one != two, "{one} {two}");
    // Errors have one, too, of whatever is wrong.
    let refused = answered(&client, "mine-2", good("none")).unwrap_err();
    assert_eq!(id(refused.metadata()), "mine-2");
    let refused =
        answered(&client, "", ModelInferRequest { id: "eight".into(), ..good("none") }).unwrap_err();
    assert_eq!(id(refused.metadata()), "eight");
    let unknown = client.raw("/inference.GRPCInferenceService/None", b"").unwrap_err();
    assert_eq!(id(unknown.metadata()).len(), 16);
    let stream = open_request(&client, |metadata| {
        metadata.insert("x-request-id", "stream".parse().unwrap());
    });
    assert_eq!(id(&stream.metadata), "stream");
    assert_eq!(id(&open_request(&client, |_| ()).metadata).len(), 16);
}

/// The next connection, which must come.
fn accepted(collector: &TcpListener) -> (TcpStream, SocketAddr) {
    collector.set_nonblocking(true).unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        match collector.accept() {
            Ok(accepted) => return accepted,
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
        assert!(Instant::now() < end, "no traces are sent");
    }
}

/// Takes one batch.
fn batch(collector: &TcpListener) -> Vec<Value> {
    let (stream, _) = accepted(collector);
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
    }
    let head = head.to_ascii_lowercase();
    assert!(
        head.starts_with("post /v1/traces http/1.1") && head.contains("content-type: application/json"),
        "{head}"
    );
    let len = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
    let mut body = vec![0; len];
    reader.read_exact(&mut body).unwrap();
    reader
        .into_inner()
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        .unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let resource = &body["resourceSpans"][0];
    assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "reef");
    resource["scopeSpans"][0]["spans"].as_array().unwrap().clone()
}

fn attribute<'a>(span: &'a Value, name: &str) -> &'a Value {
    let attributes = span["attributes"].as_array().unwrap();
    &attributes.iter().find(|attribute| attribute["key"] == name).unwrap()["value"]
}

#[test]
fn a_collector_gets_spans_of_requests_within_the_callers() {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/", collector.local_addr().unwrap());
    let fixture = Fixture::with(|options| options.otlp_endpoint = Some(endpoint));
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let mut client = fixture.client();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let headers = [("traceparent", &*parent), ("tracestate", "a=b")];
    assert_eq!(client.request("POST", "/v2/models/m/infer", &headers, INFER.as_bytes()).status, 200);
    let unsampled = parent.replace("-01", "-00");
    assert_eq!(client.request("GET", "/v2", &[("traceparent", &unsampled)], &[]).status, 200);
    assert_eq!(client.get("/v2/health/live").status, 200);
    let mut spans = Vec::new();
    while spans.len() < 4 {
        spans.extend(batch(&collector));
    }
    let [server, queue, compute, live] = &spans[..] else { panic!("{spans:#?}") };
    assert_eq!(server["name"], "POST /v2/models/m/infer");
    assert_eq!((&server["traceId"], &server["traceState"]), (&Value::from(trace), &Value::from("a=b")));
    assert_eq!(server["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!(attribute(server, "http.response.status_code")["intValue"], "200");
    assert_eq!(attribute(server, "reef.request.id")["stringValue"], "seven");
    assert_eq!(attribute(server, "reef.class")["stringValue"], "best-effort");
    for (part, name) in [(queue, "queue"), (compute, "compute")] {
        assert_eq!((&part["name"], &part["parentSpanId"]), (&Value::from(name), &server["spanId"]));
        assert_eq!(part["traceId"], trace);
        let time = |key: &str| part[key].as_str().unwrap().parse::<u64>().unwrap();
        assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"));
    }
    assert_eq!((&live["name"], live.get("parentSpanId")), (&Value::from("GET /v2/health/live"), None));
    assert_ne!(live["traceId"], trace);
}

/// As many spans, taken batch by batch.
fn spans(collector: &TcpListener, count: usize) -> Vec<Value> {
    let mut spans = Vec::new();
    while spans.len() < count {
        spans.extend(batch(collector));
    }
    assert_eq!(spans.len(), count, "{spans:#?}");
    spans
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Checks the span of an inference that span 00f067aa0ba902b7 of the trace asked for, and those in it.
fn check_inference(spans: &[Value], name: &str, id: &str) {
    let [server, queue, compute] = spans else { panic!("{spans:#?}") };
    assert_eq!((&server["name"], &server["traceId"]), (&Value::from(name), &Value::from(TRACE)));
    assert_eq!(server["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!(attribute(server, "reef.request.id")["stringValue"], id);
    assert_eq!(attribute(server, "reef.model.name")["stringValue"], "m");
    assert_eq!(attribute(server, "reef.class")["stringValue"], "best-effort");
    assert!(server.get("status").is_none(), "{server}");
    for (part, name) in [(queue, "queue"), (compute, "compute")] {
        assert_eq!((&part["name"], &part["parentSpanId"]), (&Value::from(name), &server["spanId"]));
    }
}

fn collected(change: impl FnOnce(&mut reef_server::ServerOptions)) -> (TcpListener, Fixture) {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/", collector.local_addr().unwrap());
    let fixture = Fixture::with(|options| {
        options.otlp_endpoint = Some(endpoint);
        change(options);
    });
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    (collector, fixture)
}

#[test]
fn a_collector_gets_spans_of_rpcs_and_of_each_request_of_a_stream() {
    let (collector, fixture) = collected(|_| ());
    let client = fixture.grpc();
    let traced = |metadata: &mut MetadataMap| {
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        metadata.insert("traceparent", parent.parse().unwrap());
        metadata.insert("tracestate", "a=b".parse().unwrap());
        metadata.insert("x-request-id", "rpc".parse().unwrap());
    };
    let mut request = Request::new(good("m"));
    traced(request.metadata_mut());
    client.block_on(client.send(request)).unwrap().unwrap();
    let mut stream = open_request(&client, traced);
    for id in ["", "second"] {
        stream.send(ModelInferRequest { id: id.into(), ..good("m") });
        assert!(stream.next(&client).unwrap().is_some());
    }
    assert!(answered(&client, "late", ModelInferRequest { model_version: "9".into(), ..good("m") }).is_err());
    let spans = spans(&collector, 10);
    let name = |rpc: &str| format!("inference.GRPCInferenceService/{rpc}");
    check_inference(&spans[..3], &name("ModelInfer"), "rpc");
    check_inference(&spans[3..6], &name("ModelStreamInfer"), "rpc-0");
    check_inference(&spans[6..9], &name("ModelStreamInfer"), "second");
    assert_eq!(spans[0]["traceState"], "a=b");
    assert_eq!(attribute(&spans[0], "rpc.grpc.status_code")["intValue"], "0");
    assert_eq!(attribute(&spans[0], "rpc.method")["stringValue"], "ModelInfer");
    let refused = &spans[9];
    assert_eq!(attribute(refused, "rpc.grpc.status_code")["intValue"], "5");
    assert_eq!(attribute(refused, "reef.request.id")["stringValue"], "late");
    assert_ne!(refused["traceId"], TRACE);
}

#[test]
fn a_collector_gets_spans_of_requests_through_the_ring() {
    let folder = Folder::new();
    let path = folder.socket();
    let (collector, _fixture) = collected(|options| {
        options.ring = Some(reef_server::RingOptions::new(&path));
    });
    let options = Options { tensor_bytes: 1 << 16, ..Options::default() };
    let mut client = reef_client::Client::connect(&path, &options).unwrap();
    let model = client.open(&OpenModel::new("m").input("x", "FP32", &[2, 2])).unwrap();
    let mut ask = |terms: &Terms| client.infer(model, &[&[1; 16]], terms, |_, _| ()).is_ok();
    let parent = TraceParent::parse(&format!("00-{TRACE}-00f067aa0ba902b7-01"));
    assert!(parent.is_some() && ask(&Terms { trace: parent, ..Terms::default() }));
    let unsampled = parent.map(|parent| TraceParent { sampled: false, ..parent });
    assert!(ask(&Terms { trace: unsampled, ..Terms::default() }));
    assert!(!ask(&Terms { class: reef_client::Class::RealTime, ..Terms::default() }));
    let spans = spans(&collector, 4);
    check_inference(&spans[..3], "ring/infer", &client.request_id(0));
    assert_eq!(attribute(&spans[0], "reef.ring.status")["stringValue"], "done");
    assert_eq!(attribute(&spans[3], "reef.ring.status")["stringValue"], "invalid");
    assert_eq!(attribute(&spans[3], "reef.request.id")["stringValue"], client.request_id(2));
}

#[test]
fn a_collector_that_is_not_there_or_hangs_up_delays_nobody() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", gone.local_addr().unwrap());
    let closes = std::thread::spawn(move || drop(accepted(&gone)));
    let fixture = Fixture::with(|options| options.otlp_endpoint = Some(endpoint));
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let mut client = fixture.client();
    for _ in 0..10_000 {
        assert_eq!(client.get("/v2/health/live").status, 200);
    }
    assert_eq!(client.infer(INFER).status, 200);
    closes.join().unwrap();
}
