//! Bad input: each with a clear message, and the server answers afterwards.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use reef_engine::{ClassStats, FailureReason};
use tonic::Code;

use super::client::pb::infer_parameter::ParameterChoice::{Int64Param, StringParam};
use super::client::pb::model_infer_request::InferInputTensor;
use super::client::pb::{InferTensorContents, ModelInferRequest};
use super::client::{Grpc, floats, good, output, parameter, raw_request, refused, tensor, typed, with};
use crate::fixture::Fixture;

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

#[test]
fn wrong_requests_are_refused_and_nothing_is_lost() {
    let fixture = Fixture::with_m();
    let client = fixture.grpc();
    let four = || floats(&[1.0, 2.0, 3.0, 4.0]);
    let one = |input: InferInputTensor, raw: Vec<Bytes>| raw_request("m", vec![input], raw);
    let x = |shape: &[i64]| tensor("x", "FP32", shape);
    let named = |name: &str, datatype: &str| one(tensor(name, datatype, &[2, 2]), vec![four()]);
    let ints = InferTensorContents { int_contents: vec![1; 4], ..Default::default() };
    let in_ints = InferInputTensor { contents: Some(ints), ..x(&[2, 2]) };
    let both = ModelInferRequest { raw_input_contents: vec![four()], ..typed("m") };
    let twice = ModelInferRequest { outputs: vec![output("y", None); 2], ..good("m") };
    let unknown = ModelInferRequest { outputs: vec![output("w", None)], ..good("m") };
    let mut region = good("m");
    region.inputs[0].parameters.insert("shared_memory_region".into(), parameter(StringParam("r".into())));
    let invalid = Code::InvalidArgument;
    let table = [
        (ModelInferRequest::default(), Code::NotFound, "no model ''"),
        (raw_request("m", vec![], vec![]), invalid, "input 'x'"),
        (named("z", "FP32"), invalid, "input 'z'"),
        (named("x", "FP31"), invalid, "no datatype 'FP31'"),
        (named("x", "INT32"), invalid, "expected FP32, got INT32"),
        (named("x", "BYTES"), invalid, "expected FP32, got BYTES"),
        (one(x(&[4]), vec![four()]), invalid, "input 'x'"),
        (one(x(&[2, 2]), vec![floats(&[1.0])]), invalid, "4 bytes, shape [2, 2] of FP32 needs 16"),
        (one(x(&[2, 2]), vec![]), invalid, "neither raw_input_contents nor contents"),
        (one(x(&[2, 2]), vec![four(), four()]), invalid, "2 raw_input_contents for 1 inputs"),
        (one(x(&[-2, -2]), vec![four()]), invalid, "negative extent"),
        (one(x(&[i64::MAX, i64::MAX]), vec![four()]), invalid, "more than"),
        (one(x(&[1 << 40]), vec![four()]), invalid, "more than"),
        (one(x(&[1; 9]), vec![four()]), invalid, "9 dimensions"),
        (one(x(&[1; 100]), vec![four()]), invalid, "100 dimensions"),
        (one(in_ints, vec![]), invalid, "elements of FP32 are in fp32_contents"),
        (both, invalid, "both raw_input_contents and contents"),
        (twice, invalid, "requested twice"),
        (unknown, invalid, "output 'w'"),
        (region, Code::InvalidArgument, "without shared_memory_byte_size"),
        (with(good("m"), "class", StringParam("real-time".into())), invalid, "best-effort"),
        (with(good("m"), "deadline_us", Int64Param(-1)), invalid, "-1 is not an unsigned integer"),
        (with(good("m"), "deadline_us", Int64Param(0)), Code::DeadlineExceeded, "deadline"),
        (ModelInferRequest { model_version: "9".into(), ..good("m") }, Code::NotFound, "version 9"),
    ];
    let count = table.len() as u64;
    for (request, code, message) in table {
        refused(client.infer(request), code, message);
        client.infer(good("m")).unwrap();
    }
    fixture.wait_for("m", |class| class.success, count);
    let failed =
        |class: &ClassStats| -> u64 { FailureReason::ALL.map(|reason| class.failed(reason)).iter().sum() };
    // The deadline that has passed counts, what is wrong with a request does not.
    fixture.wait_for("m", failed, 1);
}

#[test]
fn messages_that_are_none_are_refused() {
    let fixture = Fixture::with_m();
    let client = fixture.grpc();
    let whole = good("m").encode_to_vec();
    for cut in [1, 2, 10, whole.len() - 1] {
        refused(client.raw(INFER, &whole[..cut]), Code::InvalidArgument, "cannot be read");
    }
    refused(client.raw(INFER, &[0xFF; 64]), Code::InvalidArgument, "cannot be read");
    refused(client.raw(INFER, b"\x0A\x02\xFF\xFE"), Code::InvalidArgument, "cannot be read");
    // Nothing on the wire, much in memory.
    let inputs = [0x2A, 0].repeat(100_000);
    refused(client.raw(INFER, &inputs), Code::InvalidArgument, "more than 1024 inputs");
    refused(client.raw(INFER, &[]), Code::NotFound, "no model ''");
    let path = "/inference.GRPCInferenceService/ModelGuess";
    refused(client.raw(path, &[]), Code::Unimplemented, "no RPC /inference.GRPCInferenceService/ModelGuess");
    refused(client.raw("/other.Service/Rpc", &[]), Code::Unimplemented, "no RPC /other.Service/Rpc");
    refused(client.raw("/", &[]), Code::Unimplemented, "no RPC /");
    let long = [&[0x0A, 0x80, 0x80, 8][..], &vec![b'm'; 1 << 17]].concat();
    let path = "/inference.GRPCInferenceService/ModelMetadata";
    refused(client.raw(path, &long), Code::ResourceExhausted, "at most 65536 are allowed");
    let long = ModelInferRequest { model_name: "é".repeat(50_000), ..good("m") };
    refused(client.infer(long), Code::NotFound, "éé…");
    assert!(client.raw(INFER, &whole).is_ok());
}

#[test]
fn what_is_not_grpc_does_no_harm() {
    let fixture = Fixture::with_m();
    let address = fixture.running().grpc_addr().unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let frames = [&preface[..], &settings, &[0xFF; 64]].concat();
    let unfinished = [&preface[..], &settings[..4]].concat();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\x00", &frames, &unfinished] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        Grpc::connect(address).infer(good("m")).unwrap();
    }
}
