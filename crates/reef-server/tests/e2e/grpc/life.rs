//! Life and death: clients that leave, deadlines, phases of the server.

use std::net::TcpStream;
use std::time::Duration;

use reef_engine::{ClassStats, Engine, EngineOptions, FailureReason, Level, ModelSettings};
use reef_server::{Server, ServerOptions};
use tonic::{Code, Request};

use super::client::pb::infer_parameter::ParameterChoice::Int64Param;
use super::client::pb::{ModelReadyRequest, ServerLiveRequest, ServerReadyRequest};
use super::client::{Grpc, good, refused, with};
use crate::fixture::{Fixture, until, x, y};
use crate::gate::Gate;

fn cancelled(class: &ClassStats) -> u64 {
    class.failed(FailureReason::Cancelled)
}

#[test]
fn a_cancelled_rpc_cancels_its_task() {
    let fixture = Fixture::with_m();
    let client = fixture.grpc();
    fixture.gate.freeze();
    let answer = client.send(good("m"));
    fixture.wait_for("m", ClassStats::pending, 1);
    answer.abort();
    fixture.gate.wait_for_cancels(1);
    fixture.gate.flow();
    fixture.wait_for("m", cancelled, 1);
    fixture.wait_for("m", ClassStats::pending, 0);
    // The same connection goes on.
    client.infer(good("m")).unwrap();
}

#[test]
fn a_connection_that_is_gone_cancels_its_tasks() {
    let fixture = Fixture::with_m();
    let client = fixture.grpc();
    fixture.gate.freeze();
    let answers = [client.send(good("m")), client.send(good("m"))];
    fixture.wait_for("m", ClassStats::pending, 2);
    client.cut_off();
    drop(answers);
    fixture.gate.wait_for_cancels(2);
    fixture.gate.flow();
    fixture.wait_for("m", cancelled, 2);
    fixture.wait_for("m", ClassStats::pending, 0);
    fixture.grpc().infer(good("m")).unwrap();
}

#[test]
fn an_rpcs_time_is_the_requests_deadline() {
    let fixture = Fixture::new();
    let settings = ModelSettings { in_flight_max: Some(1), ..ModelSettings::real_time(Level::TOP) };
    fixture.model("m", &[x()], &[y()], settings);
    let client = fixture.grpc();
    fixture.gate.freeze();
    let runs = client.send(good("m"));
    fixture.wait_for("m", ClassStats::pending, 1);
    // An hour of the client's, and a moment of the device's: what is sooner counts.
    let mut late = Request::new(with(good("m"), "deadline_us", Int64Param(1)));
    late.set_timeout(Duration::from_secs(3_600));
    let late = client.send(late);
    fixture.wait_for("m", ClassStats::pending, 2);
    fixture.gate.flow();
    refused(client.block_on(late).unwrap(), Code::DeadlineExceeded, "deadline");
    assert!(client.block_on(runs).unwrap().is_ok());
}

#[test]
fn a_server_that_loads_lives_but_is_not_ready() {
    let engine = Engine::new(Gate::new(), EngineOptions::default()).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let options = ServerOptions { http: any, grpc: Some(any), metrics: None, ..ServerOptions::default() };
    let running = Server::bind(options).unwrap().open(engine).unwrap();
    let grpc = Grpc::connect(running.grpc_addr().unwrap());
    let states = || {
        let mut client = grpc.client.clone();
        grpc.block_on(async {
            let live = client.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live;
            let ready = client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready;
            (live, ready)
        })
    };
    assert_eq!(states(), (true, false));
    refused(grpc.infer(good("m")), Code::Unavailable, "still loading");
    let model = ModelReadyRequest { name: "m".into(), version: String::new() };
    let mut client = grpc.client.clone();
    refused(grpc.block_on(async { client.model_ready(model).await }), Code::Unavailable, "still loading");
    running.set_ready();
    assert_eq!(states(), (true, true));
    refused(grpc.infer(good("m")), Code::NotFound, "no model 'm'");
    assert!(running.shutdown(Duration::ZERO));
}

#[test]
fn shutdown_finishes_what_runs_and_refuses_the_rest() {
    let mut fixture = Fixture::new();
    fixture.model("m", &[x()], &[y()], ModelSettings::real_time(Level::TOP));
    let address = fixture.running().grpc_addr().unwrap();
    let (client, open) = (fixture.grpc(), fixture.grpc());
    fixture.gate.freeze();
    let runs = client.send(good("m"));
    fixture.wait_for("m", ClassStats::pending, 1);
    let shutdown = fixture.shut_down(Duration::ZERO);
    let ready = || {
        let mut client = open.client.clone();
        open.block_on(async { client.server_ready(ServerReadyRequest {}).await }).unwrap().into_inner().ready
    };
    until(|| !ready() && !fixture.engine.is_ready());
    refused(open.infer(good("m")), Code::Unavailable, "");
    fixture.gate.flow();
    assert!(client.block_on(runs).unwrap().is_ok());
    assert!(shutdown.join().unwrap());
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_server_that_is_dropped_lets_go_of_its_requests() {
    let mut fixture = Fixture::with_m();
    let client = fixture.grpc();
    fixture.gate.freeze();
    let answer = client.send(good("m"));
    fixture.wait_for("m", ClassStats::pending, 1);
    fixture.cut_off();
    fixture.gate.wait_for_cancels(1);
    fixture.gate.flow();
    fixture.wait_for("m", ClassStats::pending, 0);
    assert!(client.block_on(answer).unwrap().is_err());
}

#[test]
fn a_panic_is_the_end_of_its_rpc_alone() {
    let fixture = Fixture::with_m();
    let client = fixture.grpc();
    fixture.gate.plant("alloc_io");
    refused(client.infer(good("m")), Code::Internal, "an internal error, please report it: planted");
    client.infer(good("m")).unwrap();
}

#[test]
fn a_full_queue_is_refused() {
    let fixture = Fixture::new();
    let settings = ModelSettings { in_flight_max: Some(1), queue_len: 1, ..ModelSettings::default() };
    fixture.model("m", &[x()], &[y()], settings);
    let client = fixture.grpc();
    fixture.gate.freeze();
    let first = client.send(good("m"));
    fixture.wait_for("m", ClassStats::pending, 1);
    let second = client.send(good("m"));
    fixture.wait_for("m", ClassStats::pending, 2);
    refused(client.infer(good("m")), Code::Unavailable, "full");
    fixture.gate.flow();
    for answer in [first, second] {
        assert!(client.block_on(answer).unwrap().is_ok());
    }
}

#[test]
fn connections_are_bounded_and_one_at_work_is_not_closed_for_another() {
    let fixture = Fixture::with(|options| options.connections.count_max = 1);
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    fixture.gate.freeze();
    let first = fixture.grpc();
    let runs = first.send(good("m"));
    fixture.wait_for("m", ClassStats::pending, 1);
    let address = fixture.running().grpc_addr().unwrap();
    // Accepted by the operating system; it waits for its place.
    let waits = TcpStream::connect(address).unwrap();
    let third = std::thread::spawn(move || Grpc::connect(address).infer(good("m")));
    std::thread::sleep(Duration::from_millis(100));
    fixture.gate.flow();
    assert!(first.block_on(runs).unwrap().is_ok());
    // Now the first is idle, and makes room; what says nothing after it, too.
    assert!(third.join().unwrap().is_ok());
    drop(waits);
    // A client that was sent away connects again.
    assert!(first.infer(good("m")).is_ok());
}

#[test]
fn an_open_stream_is_work_and_an_idle_connection_ends() {
    let fixture = Fixture::with(|options| {
        options.connections.head_time_max = Duration::from_secs(2);
        options.connections.idle_time_max = Duration::from_secs(2);
    });
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let client = fixture.grpc();
    let mut stream = super::stream::open_as(&client, None);
    stream.send(good("m"));
    assert!(stream.next(&client).unwrap().is_some());
    let mut silent = TcpStream::connect(fixture.running().grpc_addr().unwrap()).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // The server may write its settings; then it closes.
    std::io::copy(&mut silent, &mut std::io::sink()).unwrap();
    // As long again the stream has been without a message.
    stream.send(good("m"));
    assert!(stream.next(&client).unwrap().is_some());
}
