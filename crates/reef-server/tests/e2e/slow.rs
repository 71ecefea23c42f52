//! Clients that ask for much and do not read it: what they hold is bounded, and they give way.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use reef_engine::{ClassStats, DType, Level, ModelSettings};
use reef_server::ServerOptions;
use socket2::{Domain, Socket, Type};

use crate::client::request;
use crate::fixture::{Fixture, Tensor, until, x};
use crate::grpc::client::good;
use crate::grpc::stream::open_as;

/// Bytes of an answer.
const ANSWER: usize = 4 << 20;

const ASK: &str = r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}],
    "parameters":{"binary_data_output":true,"class":"CLASS"}}"#;

fn large() -> Tensor {
    ("y", DType::F32, &[1 << 20])
}

/// With the real-time model `m`, of whose answers two fit for best-effort requests and one more besides.
fn fixture(change: impl FnOnce(&mut ServerOptions)) -> Fixture {
    let fixture = Fixture::with(|options| {
        options.answers_bytes_max = 3 * ANSWER + ANSWER / 2;
        options.connections.stall_time_max = Duration::from_secs(3_600);
        change(options);
    });
    fixture.model("m", &[x()], &[large()], ModelSettings::real_time(Level::TOP));
    fixture
}

fn asking(class: &str) -> Vec<u8> {
    request("POST", "/v2/models/m/infer", &[], ASK.replace("CLASS", class).as_bytes())
}

/// Status and bytes of an answer that is read.
fn ask(fixture: &Fixture, class: &str) -> (u16, usize) {
    let mut client = fixture.client();
    client.send(&asking(class));
    let answer = client.answer();
    (answer.status, answer.body.len())
}

/// A client that asks and does not read, once its answer is made.
fn slow(fixture: &Fixture, class: &str, count: u64) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let address: SocketAddr = fixture.running().http_addr();
    socket.connect(&address.into()).unwrap();
    let mut stream: TcpStream = socket.into();
    std::io::Write::write_all(&mut stream, &asking(class)).unwrap();
    fixture.wait_for("m", |class| class.success, count);
    stream
}

#[test]
fn answers_that_nobody_reads_are_bounded_and_real_time_has_its_part() {
    let fixture = fixture(|_| {});
    let held = [slow(&fixture, "best-effort", 1), slow(&fixture, "best-effort", 2)];
    let mut client = fixture.client();
    // They may be on their way to be counted still; then one more fits, and is read at once.
    let mut refused = None;
    until(|| {
        client.send(&asking("best-effort"));
        refused = Some(client.answer()).filter(|answer| answer.status != 200);
        refused.is_some()
    });
    let refused = refused.expect("one is not answered");
    assert_eq!(refused.status, 503);
    assert!(refused.error().contains("answers that clients have not read yet"), "{}", refused.error());
    let (status, bytes) = ask(&fixture, "real-time");
    assert!(status == 200 && bytes > ANSWER, "{status}: {bytes}");
    assert_eq!(client.get("/v2").status, 200, "what is small needs no room");
    drop(held);
    until(|| ask(&fixture, "best-effort").0 == 200);
}

#[test]
fn who_reads_nothing_makes_room_for_others() {
    let fixture = fixture(|options| {
        options.connections.stall_time_max = Duration::ZERO;
        options.answers_bytes_max = ANSWER + ANSWER / 2;
    });
    let _held: Vec<TcpStream> = (1..=4).map(|count| slow(&fixture, "real-time", count)).collect();
    let (status, bytes) = ask(&fixture, "real-time");
    assert!(status == 200 && bytes > ANSWER, "{status}: {bytes}");
}

#[test]
fn who_reads_nothing_is_sent_away_when_its_time_is_up() {
    let fixture = fixture(|options| {
        options.connections.write_time_max = Duration::from_secs(1);
        options.answers_bytes_max = ANSWER + ANSWER / 2;
    });
    let _held = slow(&fixture, "real-time", 1);
    until(|| ask(&fixture, "real-time").0 == 200);
    until(|| ask(&fixture, "best-effort").0 == 200);
}

#[test]
fn a_connection_with_many_streams_holds_its_part_of_the_answers() {
    let fixture = fixture(|_| {});
    let client = fixture.grpc();
    fixture.gate.freeze();
    let mut streams: Vec<_> = (0..3).map(|_| open_as(&client, None)).collect();
    streams.iter_mut().for_each(|stream| stream.send(good("m")));
    fixture.wait_for("m", ClassStats::pending, 1);
    fixture.gate.flow();
    let answers = streams.iter_mut().map(|stream| stream.next(&client).unwrap().unwrap().error_message);
    let mut refused: Vec<String> = answers.filter(|error| !error.is_empty()).collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused.pop().unwrap().contains("answers to this connection"));
    // What was read makes room, once the server knows.
    let mut again = open_as(&client, None);
    until(|| {
        again.send(good("m"));
        again.next(&client).unwrap().unwrap().error_message.is_empty()
    });
}

#[test]
fn a_stream_that_is_not_read_holds_no_more_than_its_room() {
    let fixture = fixture(|_| {});
    let hostile = fixture.grpc();
    let mut streams: Vec<_> = (0..4).map(|_| open_as(&hostile, None)).collect();
    for stream in &mut streams {
        (0..8).for_each(|_| stream.send(good("m")));
    }
    fixture.wait_for("m", |class| class.success, 1);
    // Of a connection's answers one has any size, and the others none: they never ran.
    assert_eq!(ask(&fixture, "real-time").0, 200);
    fixture.wait_for("m", |class| class.success, 2);
    drop(streams);
    hostile.cut_off();
    assert_eq!(ask(&fixture, "best-effort").0, 200);
}
