//! Deadlines of RPCs, seen by a client that does not look at its own clock: the server's answer, and what
//! becomes of the task.

use prost::Message;
use reef_engine::{ClassStats, FailureReason, ModelSettings};
use reef_server::ServerOptions;
use tonic::Code;

use super::bare::{Bare, INFER, STREAM, frame};
use super::client::good;
use crate::access::{BEST_EFFORT, clients};
use crate::fixture::{Fixture, x, y};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

fn bare(fixture: &Fixture) -> Bare {
    Bare::connect(fixture.running().grpc_addr().unwrap())
}

fn cancelled(class: &ClassStats) -> u64 {
    class.failed(FailureReason::Cancelled)
}

fn failed(class: &ClassStats) -> u64 {
    FailureReason::ALL.map(|reason| class.failed(reason)).iter().sum()
}

fn sums(fixture: &Fixture) -> (u64, u64, u64) {
    let stats = fixture.engine.stats();
    let model = stats.models.iter().find(|stats| stats.key.name == "m").unwrap();
    let sum = |what: fn(&ClassStats) -> u64| what(&model.real_time) + what(&model.best_effort);
    (sum(|class| class.success), sum(cancelled), sum(failed))
}

/// Has an RPC's time pass while its task is on the device, which stands still.
fn ends_at_work(
    fixture: &Fixture,
    client: &Bare,
    path: &str,
    headers: &[(&str, &str)],
    message: &impl Message,
) {
    // On a machine that is busy its time may pass before it gets there.
    for time in ["100m", "1S", "10S", "50S"] {
        let before = sums(fixture);
        fixture.gate.freeze();
        let headers = [headers, &[("grpc-timeout", time)]].concat();
        client.ask(path, &headers, message).is(Code::DeadlineExceeded, "deadline passed");
        // It is to be stopped by now, and is at its next poll point.
        fixture.gate.flow();
        fixture.wait_for("m", ClassStats::pending, 0);
        let after = sums(fixture);
        assert_eq!(after.0, before.0, "it was not stopped");
        if after.2 > before.2 {
            assert_eq!((after.1, after.2), (before.1 + 1, before.2 + 1), "it was cancelled, once");
            return;
        }
    }
    panic!("it never began");
}

#[test]
fn the_server_says_that_the_time_is_over_and_cancels_the_task() {
    let fixture = Fixture::with_m();
    let client = bare(&fixture);
    for path in [INFER, STREAM] {
        ends_at_work(&fixture, &client, path, &[], &good("m"));
        client.ask(path, &[("grpc-timeout", "1H")], &good("m")).is(Code::Ok, "");
    }
    fixture.wait_for("m", |class| class.success, 2);
}

#[test]
fn the_time_is_that_of_the_rpc_and_not_of_a_message() {
    let fixture = Fixture::with_m();
    let client = bare(&fixture);
    let timeout = [("grpc-timeout", "50m")];
    // No message comes, or half of one.
    let whole = frame(&good("m").encode_to_vec());
    for path in [INFER, STREAM, CHECK, WATCH] {
        client.end(client.begin(path, &timeout)).is(Code::DeadlineExceeded, "deadline passed");
        let mut half = client.begin(path, &timeout);
        half.send(whole.slice(..whole.len() / 2), false);
        client.end(half).is(Code::DeadlineExceeded, "deadline passed");
    }
    // One comes and is answered, and the RPC goes on.
    for (path, message) in [(STREAM, whole), (WATCH, frame(&[]))] {
        let answered = ["100m", "1S", "10S", "50S"].iter().any(|time| {
            let mut open = client.begin(path, &[("grpc-timeout", time)]);
            open.send(message.clone(), path == WATCH);
            let end = client.end(open);
            end.is(Code::DeadlineExceeded, "deadline passed");
            assert!(path == STREAM || [&b""[..], b"\0\0\0\0\x02\x08\x01"].contains(&&*end.body), "{end:?}");
            !end.body.is_empty()
        });
        assert!(answered, "{path}");
    }
    client.ask(INFER, &[], &good("m")).is(Code::Ok, "");
    fixture.wait_for("m", ClassStats::pending, 0);
}

#[test]
fn a_time_that_is_none_is_refused_and_a_long_one_is_none() {
    let fixture = Fixture::with_m();
    let client = bare(&fixture);
    for path in [INFER, STREAM, "/inference.GRPCInferenceService/ServerLive", "/grpc.health.v1.Health/Check"]
    {
        for wrong in ["", "-1S", "1X", "1", "S", "1.5S", " 1S", "1s", "123456789S", "0x1S", "é", "1S, 2S"] {
            let end = client.ask(path, &[("grpc-timeout", wrong)], &good("m"));
            end.is(Code::InvalidArgument, "is not a time");
        }
        for over in ["0n", "00000000H"] {
            client
                .ask(path, &[("grpc-timeout", over)], &good("m"))
                .is(Code::DeadlineExceeded, "deadline passed");
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
    for _ in 0..3 {
        ends_at_work(&fixture, &client, INFER, &[token], &large);
        client.ask(INFER, &[token], &large).is(Code::Ok, "");
    }
}
