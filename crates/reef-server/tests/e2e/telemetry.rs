//! Request ids, and traces as a collector gets them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use reef_engine::ModelSettings;
use serde_json::Value;

use crate::fixture::{Fixture, x, y};

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

/// Takes one batch.
fn batch(collector: &TcpListener) -> Vec<Value> {
    let (stream, _) = collector.accept().unwrap();
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

#[test]
fn a_collector_that_is_not_there_or_hangs_up_delays_nobody() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", gone.local_addr().unwrap());
    let closes = std::thread::spawn(move || drop(gone.accept().map(|(stream, _): (TcpStream, _)| stream)));
    let fixture = Fixture::with(|options| options.otlp_endpoint = Some(endpoint));
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let mut client = fixture.client();
    for _ in 0..10_000 {
        assert_eq!(client.get("/v2/health/live").status, 200);
    }
    assert_eq!(client.infer(INFER).status, 200);
    closes.join().unwrap();
}
