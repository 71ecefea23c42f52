//! Large messages: what is decided before they are read, and how many there may be at once.

use bytes::Bytes;
use reef_engine::{ClassStats, DType, Level, ModelSettings};
use tonic::Code;
use tonic::codec::CompressionEncoding;

use super::client::pb::ModelInferRequest;
use super::client::{Grpc, good, raw_request, refused, tensor};
use crate::fixture::{Fixture, expected, until};

fn of(model: &str, bytes: usize) -> ModelInferRequest {
    let shape = [bytes as i64];
    raw_request(model, vec![tensor("x", "UINT8", &shape)], vec![Bytes::from(vec![7; bytes])])
}

/// The least budget: best-effort messages may have one mebibyte, real-time ones a third more.
fn fixture() -> Fixture {
    let fixture = Fixture::with_bodies(0);
    let (x, y) = (("x", DType::U8, &[-1][..]), ("y", DType::U8, &[-1][..]));
    fixture.model("m", &[x], &[y], ModelSettings::default());
    fixture.model("rt", &[x], &[y], ModelSettings::real_time(Level::TOP));
    fixture
}

#[test]
fn large_tensors_come_out_the_same() {
    let fixture = fixture();
    let client = fixture.grpc();
    for bytes in [1, 16 << 10, (16 << 10) + 1, 1_000_000] {
        let answer = client.infer(of("m", bytes)).unwrap();
        assert_eq!(answer.raw_output_contents, [expected(0, &[&vec![7; bytes]], bytes)], "{bytes}");
    }
}

#[test]
fn a_message_beyond_the_limit_is_refused_whatever_it_becomes() {
    let fixture = fixture();
    let client = fixture.grpc();
    let most = "at most 1048576 are allowed";
    refused(client.infer(of("m", 1 << 20)), Code::ResourceExhausted, most);
    assert!(client.infer(of("m", 1000)).is_ok());
    // A few kilobytes that become many.
    let mut packed = client.client.clone().send_compressed(CompressionEncoding::Gzip);
    let bomb = client.block_on(async { packed.model_infer(of("m", 64 << 20)).await });
    refused(bomb, Code::ResourceExhausted, "size limit");
    let fits = client.block_on(async { packed.model_infer(of("m", 1_000_000)).await }).unwrap();
    assert_eq!(fits.into_inner().raw_output_contents[0].len(), 1_000_000);
}

#[test]
fn the_model_is_looked_up_before_a_large_message_is_read() {
    let fixture = fixture();
    let client = fixture.grpc();
    refused(client.infer(of("none", 500_000)), Code::NotFound, "no model 'none'");
    let loading = fixture.loading("slow");
    refused(client.infer(of("slow", 500_000)), Code::Unavailable, "slow/1 is not ready");
    loading.finish();
    assert!(client.infer(of("m", 500_000)).is_ok());
}

#[test]
fn messages_beyond_the_budget_are_refused() {
    let fixture = fixture();
    // Over HTTP: one budget for both.
    let mut unfinished = fixture.client();
    let head = "POST /v2/models/m/infer HTTP/1.1\r\nhost: t\r\ncontent-length: 1000000\r\n\r\n";
    unfinished.send(&[head.as_bytes(), &vec![b' '; 999_999]].concat());
    until(|| fixture.client().may_send("/v2/models/m/infer", 100_000) != 100);
    let client = fixture.grpc();
    refused(client.infer(of("m", 100_000)), Code::Unavailable, "no memory for the body");
    // Small ones and those of real-time models have their own.
    assert!(client.infer(of("m", 1_000)).is_ok() && client.infer(of("rt", 200_000)).is_ok());
    drop(unfinished);
    until(|| client.infer(of("m", 100_000)).is_ok());
}

#[test]
fn a_message_gives_its_part_back() {
    let fixture = fixture();
    let client = fixture.grpc();
    // Once the engine has the tensors.
    fixture.gate.freeze();
    let mut answers = Vec::new();
    for count in 1..=3 {
        answers.push(client.send(of("m", 1_000_000)));
        fixture.wait_for("m", ClassStats::pending, count);
    }
    fixture.gate.flow();
    for answer in answers {
        assert!(client.block_on(answer).unwrap().is_ok());
    }
    // When it is refused, and when its client leaves in the middle of it.
    refused(
        client.infer(ModelInferRequest { id: "x".repeat(900_000), ..good("m") }),
        Code::InvalidArgument,
        "",
    );
    for _ in 0..3 {
        let leaves = Grpc::connect(fixture.running().grpc_addr().unwrap());
        let sent = leaves.send(of("m", 1_000_000));
        leaves.cut_off();
        drop(sent);
    }
    until(|| client.infer(of("m", 1_000_000)).is_ok());
}
