//! Limits on heads and connections: what is too large is refused, what is too slow gives way.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use reef_engine::{ClassStats, ModelSettings};

use crate::client::{Client, request};
use crate::fixture::{Fixture, x, y};

const INFER: &str = r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#;

/// With the best-effort model `m`, few connections, and patience with none that stalls.
fn small(count_max: usize) -> Fixture {
    let fixture = Fixture::with(|options| {
        options.connections.count_max = count_max;
        options.connections.stall_time_max = Duration::ZERO;
    });
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    fixture
}

#[test]
fn heads_beyond_16_kib_or_100_headers_are_refused() {
    let fixture = small(8);
    let status =
        |headers: &[(&str, &str)], path: &str| fixture.client().request("GET", path, headers, &[]).status;
    let (fits, beyond) = ("v".repeat(15_000), "v".repeat(17_000));
    assert_eq!(status(&[("h", &fits)], "/v2"), 200);
    assert_eq!(status(&[("h", &beyond)], "/v2"), 431);
    let halves = "v".repeat(8_500);
    assert_eq!(status(&[("h", &halves), ("i", &halves)], "/v2"), 431);
    assert_eq!(status(&[], &format!("/v2?{beyond}")), 431);
    let names: Vec<String> = (0..100).map(|index| format!("h{index}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "v")).collect();
    assert_eq!(status(&many[..90], "/v2"), 200);
    assert_eq!(status(&many, "/v2"), 431);
    // A head that never ends is cut off long before it is 200 KB.
    let mut endless = fixture.client();
    endless.send(b"GET /v2 HTTP/1.1\r\nhost: t\r\nh: ");
    let chunk = [b'v'; 4096];
    let sent = (0..50).take_while(|_| endless.stream.write_all(&chunk).is_ok()).count();
    let answer = if sent < 50 { 431 } else { endless.answer().status };
    assert_eq!(answer, 431);
    assert_eq!(fixture.client().infer(INFER).status, 200);
}

#[test]
fn a_connection_without_a_request_makes_room() {
    let fixture = small(2);
    let mut open = [fixture.client(), fixture.client()];
    assert!(open.iter_mut().all(|client| client.get("/v2").status == 200));
    assert_eq!(fixture.client().get("/v2").status, 200);
    // Before that one was served, one of the two was closed, and the other was not.
    let mut closed = 0;
    for client in &mut open {
        client.stream.set_nonblocking(true).unwrap();
        let read = client.stream.read(&mut [0; 1]);
        closed += usize::from(!matches!(&read, Err(error) if error.kind() == ErrorKind::WouldBlock));
    }
    assert_eq!(closed, 1);
}

#[test]
fn thousands_of_half_open_connections_hold_nobody_up() {
    let fixture = small(64);
    let address = fixture.running().http_addr();
    let mut held = Vec::new();
    for index in 0..3_000 {
        let mut stream = TcpStream::connect(address).unwrap();
        match index % 3 {
            0 => {}
            1 => drop(stream.write_all(b"POST /v2/models/m/infer HTTP/1.1\r\nhost:")),
            _ => {
                let head = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\n{";
                let _ = stream.write_all(head);
            }
        }
        held.push(stream);
        if index % 300 == 0 {
            assert_eq!(fixture.client().infer(INFER).status, 200, "{index}");
        }
    }
    assert_eq!(fixture.client().infer(INFER).status, 200);
    let metrics = fixture.running().metrics_addr().unwrap();
    assert_eq!(Client::connect(metrics).get("/v2/health/live").status, 200);
}

#[test]
fn a_request_at_work_is_never_closed_for_another() {
    let fixture = small(1);
    fixture.gate.freeze();
    let mut runs = fixture.client();
    runs.send(&request("POST", "/v2/models/m/infer", &[], INFER.as_bytes()));
    fixture.wait_for("m", ClassStats::pending, 1);
    // Accepted by the operating system, both wait for the place.
    let mut waits = fixture.client();
    waits.send(&request("GET", "/v2", &[], &[]));
    let mut third = fixture.client();
    third.send(b"GET /v2 HT");
    fixture.gate.flow();
    assert_eq!(runs.answer().status, 200);
    // It has the place now, with its request unread, and somebody wants the place.
    assert_eq!(waits.answer().status, 200);
    third.send(b"TP/1.1\r\nhost: t\r\n\r\n");
    assert_eq!(third.answer().status, 200);
}

#[test]
fn every_request_of_a_crowd_for_one_place_is_answered() {
    let fixture = Fixture::with(|options| {
        options.connections.count_max = 1;
        options.connections.stall_time_max = Duration::ZERO;
        options.connections.grace_time = Duration::ZERO;
    });
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    fixture.gate.freeze();
    let mut runs = fixture.client();
    runs.send(&request("POST", "/v2/models/m/infer", &[], INFER.as_bytes()));
    fixture.wait_for("m", ClassStats::pending, 1);
    let mut crowd: Vec<Client> = (0..40).map(|_| fixture.client()).collect();
    for client in &mut crowd {
        client.send(&request("POST", "/v2/models/m/infer", &[], INFER.as_bytes()));
    }
    fixture.gate.flow();
    assert_eq!(runs.answer().status, 200);
    assert!(crowd.iter_mut().all(|client| client.answer().status == 200));
}

#[test]
fn many_requests_in_a_row_are_all_answered_while_others_want_the_place() {
    let fixture = small(1);
    let mut client = fixture.client();
    client.send(&request("GET", "/v2", &[], &[]).repeat(200));
    let mut other = fixture.client();
    other.send(&request("GET", "/v2", &[], &[]));
    assert!((0..200).all(|_| client.answer().status == 200));
    assert_eq!(other.answer().status, 200);
}

#[test]
fn an_answer_that_nobody_reads_gives_way() {
    let fixture = small(1);
    let mut slow = fixture.client();
    // Questions until the server, whose answers nobody takes, takes no more of them.
    slow.stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let many = request("GET", "/metrics", &[], &[]).repeat(100);
    while slow.stream.write_all(&many).is_ok() {}
    assert_eq!(fixture.client().get("/v2/health/live").status, 200);
}

#[test]
fn time_is_up_for_what_is_too_slow() {
    let fixture = Fixture::with(|options| {
        options.connections.head_time_max = Duration::from_secs(1);
        options.connections.idle_time_max = Duration::from_secs(1);
    });
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let (mut silent, mut begins, mut idles) = (fixture.client(), fixture.client(), fixture.client());
    begins.send(b"GET /v2 HT");
    assert_eq!(idles.get("/v2").status, 200);
    assert!(silent.is_closed() && begins.is_closed() && idles.is_closed());
    // What is at work has the time that it needs.
    fixture.gate.freeze();
    let mut runs = fixture.client();
    runs.send(&request("POST", "/v2/models/m/infer", &[], INFER.as_bytes()));
    fixture.wait_for("m", ClassStats::pending, 1);
    let mut later = fixture.client();
    assert!(later.is_closed(), "its time has passed");
    fixture.gate.flow();
    assert_eq!(runs.answer().status, 200);
}

#[test]
fn a_peer_has_so_many_connections_and_no_more() {
    let fixture = Fixture::with(|options| options.connections.count_per_peer_max = 2);
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    fixture.gate.freeze();
    let mut runs: Vec<Client> = (0..2).map(|_| fixture.client()).collect();
    for client in &mut runs {
        client.send(&request("POST", "/v2/models/m/infer", &[], INFER.as_bytes()));
    }
    fixture.wait_for("m", ClassStats::pending, 2);
    assert!(fixture.client().is_closed(), "both of its connections are at work");
    fixture.gate.flow();
    assert!(runs.iter_mut().all(|client| client.answer().status == 200));
    assert_eq!(fixture.client().infer(INFER).status, 200);
    runs[0].stream.shutdown(Shutdown::Both).unwrap();
}
