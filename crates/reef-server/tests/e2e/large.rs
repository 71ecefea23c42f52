//! Large bodies: what is decided before they are read, and how many there may be at once.

use reef_engine::{ClassStats, Level, ModelSettings};

use crate::client::{Client, request};
use crate::fixture::{Fixture, until, x, y};

/// A request of `bytes` in all, mostly blanks.
fn padded(bytes: usize) -> String {
    let request = r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#;
    format!("{}{request}", " ".repeat(bytes - request.len()))
}

fn sent(model: &str, body: &str) -> Vec<u8> {
    request("POST", &format!("/v2/models/{model}/infer"), &[], body.as_bytes())
}

#[test]
fn the_model_is_looked_up_before_a_large_body_is_read() {
    let fixture = Fixture::new();
    let loading = fixture.loading("m");
    for (model, status, message) in [("none", 404, "no model 'none'"), ("m", 503, "m/1 is not ready")] {
        let mut client = fixture.client();
        let head = sent(model, &padded(100_000)).len() - 100_000;
        client.send(&sent(model, &padded(100_000))[..head]);
        let answer = client.answer();
        assert_eq!(answer.status, status);
        assert!(answer.error().contains(message), "{}", answer.error());
    }
    loading.finish();
    assert_eq!(fixture.client().infer(&padded(100_000)).status, 200);
}

#[test]
fn bodies_beyond_the_budget_are_refused() {
    // The least budget: best-effort bodies may have one mebibyte, real-time ones a third more.
    let fixture = Fixture::with_bodies(0);
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    fixture.model("rt", &[x()], &[y()], ModelSettings::real_time(Level::TOP));
    let bytes = sent("m", &padded(1_000_000));
    let (most, last) = bytes.split_at(bytes.len() - 1);
    let mut unfinished = fixture.client();
    unfinished.send(most);
    // To ask takes nothing: it becomes 503 when the server has read all of the first.
    until(|| fixture.client().may_send("/v2/models/m/infer", 100_000) != 100);
    assert_eq!(fixture.client().may_send("/v2/models/m/infer", 100_000), 503);
    let other = padded(100_000);
    let refused = fixture.client().infer(&other);
    assert_eq!(refused.status, 503);
    assert!(refused.error().contains("no memory for the body"), "{}", refused.error());
    let mut chunked = fixture.client();
    chunked.send(b"POST /v2/models/m/infer HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n");
    chunked.send(&[b"186a0\r\n", other.as_bytes(), b"\r\n0\r\n\r\n"].concat());
    assert_eq!(chunked.answer().status, 503);
    // Small bodies and those of real-time models have their own.
    assert_eq!(fixture.client().infer(&padded(1_000)).status, 200);
    let mut client = fixture.client();
    client.send(&sent("rt", &padded(200_000)));
    assert_eq!(client.answer().status, 200);
    unfinished.send(last);
    assert_eq!(unfinished.answer().status, 200);
    assert_eq!(fixture.client().infer(&other).status, 200);
}

#[test]
fn a_body_that_is_dropped_gives_its_part_back() {
    let fixture = Fixture::with_bodies(0);
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    // Once the engine has the tensors.
    fixture.gate.freeze();
    let mut clients: Vec<Client> = Vec::new();
    for count in 1..=3 {
        let mut client = fixture.client();
        client.send(&sent("m", &padded(1_000_000)));
        fixture.wait_for("m", ClassStats::pending, count);
        clients.push(client);
        until(|| fixture.client().may_send("/v2/models/m/infer", 1_000_000) == 100);
    }
    fixture.gate.flow();
    assert!(clients.iter_mut().all(|client| client.answer().status == 200));
    // When it was refused, and when its client has left in the middle of it.
    assert_eq!(fixture.client().infer(&format!("{}]", padded(1_000_000))).status, 400);
    let mut leaves = fixture.client();
    leaves.send(&sent("m", &padded(1_000_000))[..900_000]);
    drop(leaves);
    until(|| fixture.client().infer(&padded(1_000_000)).status == 200);
}
