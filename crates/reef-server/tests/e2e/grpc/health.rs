//! Watches of `grpc.health.v1`: how many there may be, and that they take no place from others.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use prost::Message;
use reef_engine::{ClassStats, ModelSettings};
use reef_server::ServerOptions;
use tonic::Code;

use super::bare::{Bare, INFER, Rpc, frame};
use super::client::good;
use crate::access::{REAL_TIME, clients};
use crate::fixture::{Fixture, x, y};

const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// With room for so many connections.
fn fixture(connections_max: usize, change: fn(&mut ServerOptions)) -> Fixture {
    let fixture = Fixture::with(|options| {
        options.connections.count_max = connections_max;
        change(options);
    });
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    fixture
}

fn bare(fixture: &Fixture) -> Bare {
    Bare::connect(fixture.running().grpc_addr().unwrap())
}

/// A watch that has had its first answer, and goes on.
struct Watch {
    body: h2::RecvStream,
    _sent: h2::SendStream<Bytes>,
}

fn watch(client: &Bare, headers: &[(&str, &str)]) -> Watch {
    let mut rpc = client.begin(WATCH, headers);
    rpc.send(frame(&[]), true);
    let Rpc { answer, body: sent } = rpc;
    client.block_on(async {
        let mut body = answer.await.unwrap().into_body();
        let first = body.data().await.expect("an answer comes").unwrap();
        assert_eq!(first, frame(&[8, 1]));
        Watch { body, _sent: sent }
    })
}

fn refused(client: &Bare, headers: &[(&str, &str)], message: &str) {
    let mut rpc = client.begin(WATCH, headers);
    rpc.send(frame(&[]), true);
    client.end(rpc).is(Code::ResourceExhausted, message);
}

#[test]
fn watches_are_bounded_on_a_connection_and_in_all() {
    // Of 128 connections a quarter, and a sixteenth of that on one.
    let fixture = fixture(128, |_| {});
    let clients: Vec<Bare> = (0..17).map(|_| bare(&fixture)).collect();
    let mut watches: Vec<Watch> =
        clients[..16].iter().flat_map(|client| [watch(client, &[]), watch(client, &[])]).collect();
    refused(&clients[0], &[], "the connection has 2 watches");
    refused(&clients[16], &[], "the server has 32 watches");
    // Whoever goes makes room, by a reset or by leaving.
    drop(watches.pop());
    let taken = || {
        let mut rpc = clients[16].begin(WATCH, &[]);
        rpc.send(frame(&[]), true);
        rpc
    };
    let again = loop {
        let Rpc { answer, body: sent } = taken();
        let answer = clients[16].block_on(answer).unwrap();
        if !answer.headers().contains_key("grpc-status") {
            break (answer, sent);
        }
    };
    drop(again);
    clients[16].ask(INFER, &[], &good("m")).is(Code::Ok, "");
}

#[test]
fn watches_without_credentials_leave_those_of_clients_theirs() {
    let fixture = fixture(8, clients);
    let [first, second, third] = [(); 3].map(|()| bare(&fixture));
    let _watches = [watch(&first, &[]), watch(&second, &[])];
    refused(&third, &[], "the server has 2 watches");
    let key = [("x-api-key", REAL_TIME)];
    let _known = watch(&third, &key);
    refused(&third, &key, "the connection has 1 watches");
}

#[test]
fn a_watch_is_no_work_and_makes_room_for_work() {
    let fixture = fixture(4, |options| {
        options.connections.idle_time_max = Duration::from_millis(500);
    });
    let client = bare(&fixture);
    let mut watched = watch(&client, &[]);
    // It outlives the time of a connection that is idle: others come and go by theirs meanwhile.
    for _ in 0..3 {
        let other = bare(&fixture);
        other.ask(INFER, &[], &good("m")).is(Code::Ok, "");
        assert!(other.closed().is_none_or(|reason| reason == Reason::NO_ERROR));
    }
    client.ask(INFER, &[], &good("m")).is(Code::Ok, "");
    // And goes when all places are taken by others that work.
    let begin = |other: &Bare| {
        let mut rpc = other.begin(INFER, &[]);
        rpc.send(frame(&good("m").encode_to_vec()), true);
        rpc
    };
    let mut others: Vec<Bare> = (0..3).map(|_| bare(&fixture)).collect();
    others.iter().for_each(|other| other.ask(INFER, &[], &good("m")).is(Code::Ok, ""));
    fixture.gate.freeze();
    let mut begun: Vec<Rpc> = others.iter().map(begin).collect();
    fixture.wait_for("m", ClassStats::pending, 3);
    others.push(bare(&fixture));
    begun.push(begin(&others[3]));
    fixture.wait_for("m", ClassStats::pending, 4);
    let ended = client.block_on(watched.body.data());
    assert!(ended.is_none_or(|chunk| chunk.is_err()), "the watch goes on");
    fixture.gate.flow();
    for (other, rpc) in others.iter().zip(begun) {
        other.end(rpc).is(Code::Ok, "");
    }
}
