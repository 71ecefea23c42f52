//! Deadlines of RPCs, seen by a client that does not look at its own clock: the server's answer, and what
//! becomes of the task.

use reef_engine::{ClassStats, FailureReason, ModelSettings};
use reef_server::ServerOptions;
use tonic::Code;

use super::bare::{Bare, INFER, STREAM, frame};
use super::client::good;
use crate::access::{BEST_EFFORT, clients};
use crate::fixture::{Fixture, x, y};
use prost::Message;

fn bare(fixture: &Fixture) -> Bare {
    Bare::connect(fixture.running().grpc_addr().unwrap())
}

fn cancelled(class: &ClassStats) -> u64 {
    class.failed(FailureReason::Cancelled)
}

fn failed(class: &ClassStats) -> u64 {
    FailureReason::ALL.map(|reason| class.failed(reason)).iter().sum()
}

#[test]
fn the_server_says_that_the_time_is_over_and_cancels_the_task() {
    let fixture = Fixture::with_m();
    let client = bare(&fixture);
    for (round, path) in [INFER, STREAM].into_iter().enumerate() {
        let rounds = round as u64 + 1;
        fixture.gate.freeze();
        client.ask(path, &[("grpc-timeout", "50m")], &good("m")).is(Code::DeadlineExceeded, "deadline passed");
        // It was on the device, and is stopped there.
        fixture.gate.wait_for_cancels(rounds);
        fixture.gate.flow();
        fixture.wait_for("m", ClassStats::pending, 0);
        fixture.wait_for("m", failed, rounds);
        fixture.wait_for("m", cancelled, rounds);
        client.ask(path, &[("grpc-timeout", "1H")], &good("m")).is(Code::Ok, "");
    }
    fixture.wait_for("m", |class| class.success, 2);
}

#[test]
fn the_time_is_that_of_the_rpc_and_not_of_a_message() {
    let fixture = Fixture::with_m();
    let client = bare(&fixture);
    let timeout = [("grpc-timeout", "50m")];
    // No message comes, half of one, one and no end.
    let whole = frame(&good("m").encode_to_vec());
    for path in [INFER, STREAM, "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"] {
        client.end(client.begin(path, &timeout)).is(Code::DeadlineExceeded, "deadline passed");
        let mut half = client.begin(path, &timeout);
        half.send(whole.slice(..whole.len() / 2), false);
        client.end(half).is(Code::DeadlineExceeded, "deadline passed");
    }
    let mut open = client.begin(STREAM, &timeout);
    open.send(whole.clone(), false);
    let end = client.end(open);
    end.is(Code::DeadlineExceeded, "deadline passed");
    assert!(!end.body.is_empty(), "what was answered before is there");
    // A watch that is answered once, and goes on.
    let end = client.ask("/grpc.health.v1.Health/Watch", &timeout, &());
    end.is(Code::DeadlineExceeded, "deadline passed");
    assert_eq!(end.body, *frame(&[8, 1]));
    client.ask(INFER, &[], &good("m")).is(Code::Ok, "");
    fixture.wait_for("m", |class| class.success + failed(class), 2);
}

#[test]
fn a_time_that_is_none_is_refused_and_a_long_one_is_none() {
    let fixture = Fixture::with_m();
    let client = bare(&fixture);
    for path in [INFER, STREAM, "/inference.GRPCInferenceService/ServerLive", "/grpc.health.v1.Health/Check"] {
        for wrong in ["", "-1S", "1X", "1", "S", "1.5S", " 1S", "1s", "123456789S", "0x1S", "é", "1S, 2S"] {
            let end = client.ask(path, &[("grpc-timeout", wrong)], &good("m"));
            end.is(Code::InvalidArgument, "is not a time");
        }
        for over in ["0n", "00000000H"] {
            client.ask(path, &[("grpc-timeout", over)], &good("m")).is(Code::DeadlineExceeded, "deadline passed");
        }
    }
    for long in ["99999999H", "99999999M", "99999999S", "99999999m"] {
        client.ask(INFER, &[("grpc-timeout", long)], &good("m")).is(Code::Ok, "");
        client.ask(STREAM, &[("grpc-timeout", long)], &good("m")).is(Code::Ok, "");
    }
    fixture.wait_for("m", |class| class.success, 8);
    fixture.wait_for("m", failed, 0);
}

#[test]
fn an_rpc_whose_time_is_over_gives_back_all_that_it_had() {
    let change = |options: &mut ServerOptions| {
        clients(options);
        options.access.clients[0].in_flight_max = Some(1);
        // Two such messages do not fit.
        options.bodies_bytes_max = 1 << 20;
    };
    let fixture = Fixture::with(change);
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let client = bare(&fixture);
    let token = ("x-api-key", BEST_EFFORT);
    let large = super::client::pb::ModelInferRequest { id: "i".repeat(600 << 10), ..good("m") };
    for round in 1..=3 {
        fixture.gate.freeze();
        let end = client.ask(INFER, &[token, ("grpc-timeout", "200m")], &large);
        end.is(Code::DeadlineExceeded, "deadline passed");
        fixture.gate.wait_for_cancels(round);
        fixture.gate.flow();
        fixture.wait_for("m", ClassStats::pending, 0);
        client.ask(INFER, &[token], &large).is(Code::Ok, "");
    }
}
