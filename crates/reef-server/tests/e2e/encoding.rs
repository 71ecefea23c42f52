//! Compressed requests and answers over the wire.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use reef_engine::{DType, ModelSettings};
use serde_json::json;

use crate::client::{Answer, Client};
use crate::fixture::{Fixture, expected};

const PATH: &str = "/v2/models/m/infer";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn raw_deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The answer as it was before it was compressed.
fn plain(mut answer: Answer) -> Answer {
    let mut body = Vec::new();
    match answer.headers.get("content-encoding").map(String::as_str) {
        Some("gzip") => GzDecoder::new(&answer.body[..]).read_to_end(&mut body).unwrap(),
        Some("deflate") => ZlibDecoder::new(&answer.body[..]).read_to_end(&mut body).unwrap(),
        other => panic!("compressed as {other:?}"),
    };
    answer.body = body;
    answer
}

/// A binary request whose input has `bytes`, and the length of its JSON part.
fn binary(count: usize) -> (Vec<u8>, String) {
    let x = json!({
        "name": "x", "datatype": "FP32", "shape": [count], "parameters": { "binary_data_size": 4 * count },
    });
    let json = json!({ "inputs": [x], "parameters": { "binary_data_output": true } }).to_string();
    let len = json.len().to_string();
    (json.into_bytes(), len)
}

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let open = [("x", DType::F32, &[-1][..])];
    fixture.model("m", &open, &[("y", DType::F32, &[-1])], ModelSettings::default());
    fixture
}

fn good(client: &mut Client) {
    let body = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[2],"data":[1,2]}]}"#;
    let answer = client.request("POST", PATH, &[("content-encoding", "gzip")], &gzip(body.as_bytes()));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!answer.headers.contains_key("content-encoding"), "nobody asked for it");
}

#[test]
fn binary_tensors_come_and_go_compressed() {
    let fixture = fixture();
    let mut client = fixture.client();
    // Small ones are decompressed where they arrive, large ones in the lanes.
    for count in [4usize, 1000, 200_000] {
        let (json, len) = binary(count);
        let data: Vec<u8> = (0..4 * count).map(|index| (index / 64) as u8).collect();
        let body = [json, data.clone()].concat();
        let wanted = expected(0, &[&data], 4 * count);
        for (coding, compressed) in
            [("gzip", gzip(&body)), ("deflate", zlib(&body)), ("Deflate", raw_deflate(&body))]
        {
            let accepted = if coding == "gzip" { "deflate;q=0.5, gzip" } else { "deflate" };
            let headers = [
                ("content-encoding", coding),
                ("accept-encoding", accepted),
                ("inference-header-content-length", &len),
            ];
            let answer = client.request("POST", PATH, &headers, &compressed);
            assert_eq!(answer.status, 200, "{count} {coding}: {}", answer.text());
            let answer = match count {
                4 => {
                    assert!(!answer.headers.contains_key("content-encoding"), "too small to be worth it");
                    answer
                }
                _ => {
                    assert_eq!(answer.headers["content-encoding"], coding.to_ascii_lowercase());
                    assert_eq!(answer.headers["vary"], "accept-encoding");
                    plain(answer)
                }
            };
            assert!(answer.parts().1 == wanted, "{count} {coding}: other bytes");
        }
    }
    let answer = client.request("GET", "/metrics", &[("accept-encoding", "gzip")], &[]);
    assert!(plain(answer).text().contains("nv_inference_request_success"));
    // Triton's clients read no other answers so, though they say it.
    for name in ["a", "b", "c"] {
        fixture.model(name, &[("x", DType::F32, &[2])], &[("y", DType::F32, &[2])], ModelSettings::default());
    }
    let answer = client.request("GET", "/v2/models/stats", &[("accept-encoding", "gzip, deflate")], &[]);
    assert!(!answer.headers.contains_key("content-encoding"), "{:?}", answer.headers);
    assert!(answer.body.len() > 1024, "{}", answer.body.len());
    assert_eq!(answer.json()["model_stats"].as_array().map(Vec::len), Some(fixture.engine.models().len()));
}

#[test]
fn a_small_answer_is_compressed_for_who_takes_it_no_other_way() {
    let fixture = fixture();
    let mut client = fixture.client();
    let answer = client.request("GET", "/v2", &[("accept-encoding", "gzip, identity;q=0")], &[]);
    assert_eq!(plain(answer).json()["name"], "reef");
    let answer = client.request("GET", "/v2/models/none", &[("accept-encoding", "gzip, identity;q=0")], &[]);
    assert!(answer.error().contains("none"), "errors can be read by everybody");
}

#[test]
fn bombs_cut_streams_and_rubbish_are_refused() {
    // Made before there is a connection: one that is idle for long is closed.
    let bomb = vec![b' '; 32 << 20];
    let bombs = [("gzip", gzip(&bomb)), ("deflate", zlib(&bomb)), ("deflate", raw_deflate(&bomb))];
    let fixture = fixture();
    let mut client = fixture.client();
    let mut ask = |coding: &str, body: &[u8]| {
        let answer = client.request("POST", PATH, &[("content-encoding", coding)], body);
        let error = answer.error();
        good(&mut client);
        (answer.status, error)
    };
    for (coding, bomb) in bombs {
        assert!(bomb.len() < 1 << 20, "it fits compressed");
        let (status, error) = ask(coding, &bomb);
        assert_eq!(status, 413, "{error}");
        assert!(error.contains("more than the allowed 1048576 bytes"), "{error}");
    }
    let body = [b' '; 5000];
    for (coding, whole) in [("gzip", gzip(&body)), ("deflate", zlib(&body)), ("deflate", raw_deflate(&body))]
    {
        for cut in [0, 1, 2, 9, whole.len() - 1] {
            let (status, error) = ask(coding, &whole[..cut]);
            assert_eq!(status, 400, "{error}");
            assert!(error.contains("ends early"), "{coding} {cut}: {error}");
        }
        let (status, error) = ask(coding, &[&whole[..], b"more"].concat());
        assert!(status == 400 && error.contains("4 bytes follow"), "{error}");
    }
    for (coding, body) in [("gzip", &b"x is no gzip, whatever it says"[..]), ("deflate", b"\xff\xff\xff\xff")]
    {
        let (status, error) = ask(coding, body);
        assert!(status == 400 && error.contains("cannot be read"), "{status} {error}");
    }
    for coding in ["br", "zstd", "gzip, deflate", "nonsense", "gzip;q=1"] {
        let (status, error) = ask(coding, b"x");
        assert!(status == 415 && error.contains("gzip and deflate"), "{coding}: {status} {error}");
    }
}

#[test]
fn the_json_length_counts_after_decompression() {
    let fixture = fixture();
    let mut client = fixture.client();
    let (json, len) = binary(2);
    let body = gzip(&[json, vec![0; 8]].concat());
    let mut ask = |len: &str| {
        let headers = [("content-encoding", "gzip"), ("inference-header-content-length", len)];
        client.request("POST", PATH, &headers, &body)
    };
    assert_eq!(ask(&len).status, 200);
    let answer = ask("100000");
    assert!(answer.error().contains("says 100000 bytes, the body has"), "{}", answer.error());
}

#[test]
fn other_questions_may_be_compressed_as_well() {
    let fixture = fixture();
    let mut client = fixture.client();
    let mut ask =
        |body: &[u8]| client.request("POST", "/v2/repository/index", &[("content-encoding", "gzip")], body);
    assert_eq!(ask(&gzip(br#"{"ready":true}"#)).json()[0]["name"], "m");
    assert_eq!(ask(&gzip(&[b' '; 10_000])).status, 413);
    assert_eq!(ask(b"x").status, 400);
}
