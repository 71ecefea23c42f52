//! What no library's client sends: each has a status or ends its connection, and the server goes on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, header::HeaderValue};
use prost::Message;
use reef_engine::ClassStats;
use tonic::Code;

use super::bare::{Bare, INFER, STREAM, frame, prefixed};
use super::client::good;
use crate::fixture::Fixture;

const CHECK: &str = "/grpc.health.v1.Health/Check";

fn address(fixture: &Fixture) -> SocketAddr {
    fixture.running().grpc_addr().unwrap()
}

fn whole() -> Bytes {
    frame(&good("m").encode_to_vec())
}

/// Another client is served, and nothing is left of those before.
#[track_caller]
fn goes_on(fixture: &Fixture) {
    Bare::connect(address(fixture)).ask(INFER, &[], &good("m")).is(Code::Ok, "");
    fixture.wait_for("m", ClassStats::pending, 0);
}

#[test]
fn what_is_no_rpc_is_answered_as_http_has_it() {
    let fixture = Fixture::with_m();
    let client = Bare::connect(address(&fixture));
    let kind = |kind| [("content-type", kind)];
    let wrong = [
        "application/json",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc+json",
        "application/grpcx",
        "text/plain",
        "",
    ];
    for wrong in wrong {
        let end = client.ask_bytes(INFER, &kind(wrong), whole());
        assert_eq!((end.http, end.code), (415, None), "{wrong}");
    }
    for right in ["application/grpc+proto", "application/grpc;x=y"] {
        client.ask_bytes(INFER, &kind(right), whole()).is(Code::Ok, "");
    }
    let none = client.begin_as("POST", INFER, &[("te", "trailers")]);
    assert_eq!(client.end(none).http, 415);
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let end = client.end(client.begin_as(method, INFER, &kind("application/grpc")));
        assert_eq!((end.http, end.code), (405, None), "{method}");
    }
    for path in ["/", "//", "/x", "/x/y/z", "/inference.GRPCInferenceService", "/grpc.health.v1.Health/None"]
    {
        client.ask(path, &[], &good("m")).is(Code::Unimplemented, "");
    }
    goes_on(&fixture);
}

#[test]
fn frames_that_are_wrong_are_refused() {
    let fixture = Fixture::with_m();
    let client = Bare::connect(address(&fixture));
    let gzip = [("grpc-encoding", "gzip")];
    let message = good("m").encode_to_vec();
    let len = u32::try_from(message.len()).unwrap();
    for path in [INFER, STREAM] {
        let ask = |headers: &[(&str, &str)], bytes| client.ask_bytes(path, headers, bytes);
        ask(&[], prefixed(1, len, &message)).is(Code::InvalidArgument, "compressed");
        ask(&[], prefixed(7, len, &message)).is(Code::InvalidArgument, "compress");
        ask(&gzip, prefixed(1, len, &message)).is(Code::InvalidArgument, "");
        ask(&[("grpc-encoding", "zstd")], whole()).is(Code::Unimplemented, "'zstd' is not supported");
        // What is announced is not read.
        let too_long = Code::ResourceExhausted;
        ask(&[], prefixed(0, u32::MAX, &message))
            .is(too_long, "the message has 4294967295 bytes, at most 1048576");
        ask(&[], prefixed(0, (1 << 20) + 1, &[])).is(too_long, "at most 1048576 are allowed");
        // It ends too early.
        for cut in [1, 4, 5, 6, whole().len() - 1] {
            ask(&[], whole().slice(..cut)).is(Code::InvalidArgument, "the message ended early");
        }
    }
    client.ask_bytes(INFER, &[], Bytes::new()).is(Code::InvalidArgument, "the RPC has no message");
    client.ask_bytes(STREAM, &[], Bytes::new()).is(Code::Ok, "");
    let two = Bytes::from([whole(), whole()].concat());
    for path in [INFER, CHECK] {
        client.ask_bytes(path, &[], two.clone()).is(Code::InvalidArgument, "more than one message");
    }
    // Half a megabyte of nothing is refused when it becomes too much, not when it has.
    let bomb = {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all(&vec![0; 64 << 20]).unwrap();
        packer.finish().unwrap()
    };
    let bomb = prefixed(1, u32::try_from(bomb.len()).unwrap(), &bomb);
    client.ask_bytes(INFER, &gzip, bomb).is(Code::ResourceExhausted, "");
    goes_on(&fixture);
    fixture.wait_for("m", |class| class.success, 1);
}

#[test]
fn trailers_and_halves_of_streams_are_taken_as_they_are() {
    let fixture = Fixture::with_m();
    let client = Bare::connect(address(&fixture));
    let trailers = || HeaderMap::from_iter([("x-mine".parse().unwrap(), HeaderValue::from_static("1"))]);
    // Trailers instead of an end, and instead of a message.
    for path in [INFER, STREAM] {
        let mut rpc = client.begin(path, &[]);
        rpc.send(whole(), false);
        rpc.body.send_trailers(trailers()).unwrap();
        client.end(rpc).is(Code::Ok, "");
    }
    let mut rpc = client.begin(INFER, &[]);
    rpc.body.send_trailers(trailers()).unwrap();
    client.end(rpc).is(Code::InvalidArgument, "the RPC has no message");
    // Byte by byte, with empty frames between them.
    let mut rpc = client.begin(INFER, &[]);
    for byte in whole() {
        rpc.send(Bytes::copy_from_slice(&[byte]), false);
        rpc.send(Bytes::new(), false);
    }
    rpc.send(Bytes::new(), true);
    client.end(rpc).is(Code::Ok, "");
    // A client that has said all is still there.
    fixture.gate.freeze();
    let mut rpc = client.begin(INFER, &[]);
    rpc.send(whole(), true);
    fixture.wait_for("m", ClassStats::pending, 1);
    fixture.gate.flow();
    client.end(rpc).is(Code::Ok, "");
    goes_on(&fixture);
}

#[test]
fn a_reset_ends_an_rpc_wherever_it_is() {
    let fixture = Fixture::with_m();
    let client = Bare::connect(address(&fixture));
    let mut cancels = 0;
    for path in [INFER, STREAM] {
        for cut in [0, 3, 5, 20] {
            let mut rpc = client.begin(path, &[]);
            rpc.send(whole().slice(..cut), false);
            rpc.reset();
        }
        // What is asked already is cancelled.
        fixture.gate.freeze();
        for end in [true, false] {
            let mut rpc = client.begin(path, &[]);
            rpc.send(whole(), end || path == INFER);
            fixture.wait_for("m", ClassStats::pending, 1);
            rpc.reset();
            cancels += 1;
            fixture.gate.wait_for_cancels(cancels);
            fixture.gate.flow();
            fixture.wait_for("m", ClassStats::pending, 0);
            fixture.gate.freeze();
        }
        fixture.gate.flow();
        client.ask(path, &[], &good("m")).is(Code::Ok, "");
    }
    goes_on(&fixture);
}

#[test]
fn a_flood_of_resets_ends_its_connection_at_most() {
    let fixture = Fixture::with_m();
    let flood = Bare::connect(address(&fixture));
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let mut sent = 0;
    while sent < 20_000
        && let Ok(mut rpc) = flood.try_begin("POST", INFER, &headers)
        && rpc.body.send_data(whole(), true).is_ok()
    {
        rpc.reset();
        sent += 1;
    }
    assert!(sent > 10, "{sent}");
    // Whatever has begun is cancelled or answered, and others are served meanwhile.
    goes_on(&fixture);
    // Over a connection of its own it still asks, or was told why not.
    match flood.try_begin("POST", INFER, &headers) {
        Ok(mut rpc) => {
            let _ = rpc.body.send_data(whole(), true);
            match flood.try_end(rpc) {
                Ok(end) => end.is(Code::Ok, ""),
                Err(error) => drop(error),
            }
        }
        Err(error) => drop(error),
    }
    goes_on(&fixture);
}

#[test]
fn metadata_that_is_too_large_is_refused() {
    let fixture = Fixture::with_m();
    let client = Bare::connect(address(&fixture));
    let value = "v".repeat(4 << 10);
    let some: Vec<(&str, &str)> = vec![("x-large", &*value); 3];
    client.ask(INFER, &some, &good("m")).is(Code::Ok, "");
    let much: Vec<(&str, &str)> = vec![("x-large", &*value); 8];
    // Some more than is allowed is answered, much more ends the connection; who still sends then may find it
    // broken before it reads why.
    let refused = |headers: &[(&str, &str)], may_break: bool| {
        let client = Bare::connect(address(&fixture));
        let mut rpc = client.begin(INFER, headers);
        rpc.send(whole(), true);
        match client.try_end(rpc) {
            Ok(end) => assert_eq!((end.http, end.code), (431, None), "{end:?}"),
            Err(error) => {
                assert!(error.is_reset() || error.is_go_away() || may_break && error.is_io(), "{error}");
            }
        }
    };
    refused(&much, false);
    let many: Vec<(String, String)> = (0..2_000).map(|index| (format!("x-{index}"), "v".into())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, &**value)).collect();
    refused(&many, true);
    client.ask(INFER, &[], &good("m")).is(Code::Ok, "");
    goes_on(&fixture);
}

/// A frame of HTTP/2.
fn http2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A connection whose client says what HTTP/2 begins with.
fn raw(fixture: &Fixture) -> TcpStream {
    let mut stream = TcpStream::connect(address(fixture)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    stream.write_all(&http2(4, 0, 0, &[])).unwrap();
    stream
}

/// Frames that came until the end: their kinds.
fn kinds(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What was not read when it was closed may end it with an error.
    let _ = stream.read_to_end(&mut bytes);
    let (mut kinds, mut rest) = (Vec::new(), &bytes[..]);
    while let [a, b, c, kind, tail @ ..] = rest {
        kinds.push(*kind);
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        rest = tail.get(5 + len..).unwrap_or(&[]);
    }
    kinds
}

/// The kind of the frame with which a connection ends.
const GO_AWAY: u8 = 7;

/// A head in HPACK that says nothing but POST: literals that are not indexed.
const HEAD: &[u8] = &[0x83];

#[test]
fn frames_of_http_that_are_wrong_end_their_connection() {
    let fixture = Fixture::with_m();
    let headers = |flags, stream| http2(1, flags, stream, HEAD);
    let table: [(&str, Vec<u8>); 13] = [
        ("data of no stream", http2(0, 0, 0, b"x")),
        ("data of a stream that was never opened", http2(0, 0, 1, b"x")),
        ("headers of a stream that is the server's", headers(4, 2)),
        ("headers of no stream", headers(4, 0)),
        ("a continuation of nothing", http2(9, 4, 1, HEAD)),
        ("settings of a wrong length", http2(4, 0, 0, &[0; 5])),
        ("settings of a stream", http2(4, 0, 1, &[])),
        ("a ping of a wrong length", http2(6, 0, 0, &[0; 7])),
        ("a window that grows by nothing", http2(8, 0, 0, &[0; 4])),
        ("a reset of a stream that was never opened", http2(3, 0, 5, &[0; 4])),
        ("a header block that is none", http2(1, 4, 1, &[0xFF; 64])),
        ("a frame that is too large", http2(0, 0, 1, &vec![0; 1 << 20])),
        ("another frame inside of a header block", [headers(0, 1), http2(6, 0, 0, &[0; 8])].concat()),
    ];
    for (what, bytes) in table {
        let mut stream = raw(&fixture);
        // It may be closed while the rest is written.
        let _ = stream.write_all(&bytes);
        assert!(kinds(&mut stream).contains(&GO_AWAY), "{what}");
        goes_on(&fixture);
    }
}

#[test]
fn a_head_that_never_ends_takes_no_memory_and_ends_its_connection() {
    let fixture = Fixture::with_m();
    let mut stream = raw(&fixture);
    stream.write_all(&http2(1, 0, 1, HEAD)).unwrap();
    // Literals, a kibibyte each.
    let mut literal = vec![0x00, 1, b'a', 0x7F, 0x81, 0x07];
    literal.resize(6 + 1024, b'v');
    let more = http2(9, 0, 1, &literal);
    let sent = (0..100_000).take_while(|_| stream.write_all(&more).is_ok()).count();
    assert!(sent < 100_000, "it is read for ever");
    goes_on(&fixture);
}

#[test]
fn empty_frames_and_pings_without_end_hold_nobody_up() {
    let fixture = Fixture::with_m();
    let mut stream = raw(&fixture);
    let floods =
        [http2(6, 0, 0, &[0; 8]), http2(4, 0, 0, &[]), http2(2, 0, 1, &[0; 5]), http2(0xEE, 0, 0, b"?")];
    for flood in floods {
        for _ in 0..10_000 {
            if stream.write_all(&flood).is_err() {
                stream = raw(&fixture);
            }
        }
        goes_on(&fixture);
    }
}
