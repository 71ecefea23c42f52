//! Entrances for fuzz targets: what is done to bytes of clients before anything else sees them. No part of
//! the API.
//!
//! Each panics where the server would be wrong: when a refusal is not the client's fault, or something comes
//! out that should not.

use std::sync::atomic::AtomicU64;

use reef_client::protocol::{Ended, Request, ToClient, ToServer};
use reef_client::ring::{Consumer, ENTRY_WORDS};
use reef_client::{Layout, OpenModel};
use reef_engine::{DType, ModelInfo, ModelKey, ModelSettings, ModelState, TensorInfo};

use crate::core::problem::Kind;
use crate::core::question::{Data, Input};
use crate::grpc;
use crate::http::encoding::{self, Coding};
use crate::http::infer;
use crate::http::protocol::elements::{self, Flat};
use crate::http::protocol::predict;
use crate::ring::OpenedModel;

/// Bytes that may come out of a compressed body.
const BYTES_MAX: usize = 1 << 20;

/// A body of an inference request, behind two bytes that say what the header with the length of its JSON
/// says: below 0x8000 a length that may be wrong; 0xffff that there is none; else the length of what follows,
/// less some.
pub fn infer_body(bytes: &[u8]) {
    let Some((head, body)) = bytes.split_at_checked(2) else { return };
    let header = match u16::from_be_bytes([head[0], head[1]]) {
        u16::MAX => None,
        stated @ 0..0x8000 => Some(stated.to_string()),
        less => Some(body.len().saturating_sub(usize::from(less - 0x8000)).to_string()),
    };
    if header.is_none() {
        predict_body(body);
    }
    match infer::read(body.to_vec(), header.as_deref()) {
        Ok(tensors) => {
            // Binary tensors are parts of the body; those in JSON have no more elements than characters.
            let bytes: usize = tensors.iter().map(|(_, data)| data.len()).sum();
            assert!(bytes <= body.len() * 8, "{bytes} of {}", body.len());
            let numbers = tensors.iter().filter_map(|(dtype, data)| Some(((*dtype)?, data)));
            numbers.for_each(|(dtype, data)| written_and_read(dtype, data));
        }
        Err(problem) => {
            assert!([Kind::Invalid, Kind::Unsupported].contains(&problem.kind), "{problem:?}");
            assert!(!problem.message.is_empty());
        }
    }
}

/// The same body in the words of KServe's first protocol, to a model with inputs of several types.
fn predict_body(body: &[u8]) {
    let info = |(name, dtype, texts): (&str, DType, bool)| {
        let name = name.into();
        TensorInfo { name, dtype, texts, dims: vec![-1] }
    };
    let model = [("x", DType::F64, false), ("n", DType::U8, false), ("t", DType::I32, true)].map(info);
    for model in [&model[..1], &model[..2], &model[2..], &model] {
        match predict::read(body, model) {
            Ok((_, inputs)) => {
                let here = |input: &Input| {
                    let Data::Here(data) = &input.data else { return false };
                    let count = input.shape.iter().product::<usize>();
                    // Texts have a length each.
                    let whole = input
                        .dtype
                        .map_or(data.len() >= count * 4, |dtype| data.len() == count * dtype.bytes());
                    whole && data.len() <= body.len() * 8
                };
                assert!(inputs.len() == model.len() && inputs.iter().all(here));
            }
            Err(problem) => assert!(problem.kind == Kind::Invalid && !problem.message.is_empty()),
        }
    }
}

/// Elements in an answer's JSON are read as the same elements.
fn written_and_read(dtype: DType, bytes: &[u8]) {
    if !elements::has_json_form(dtype) || !bytes.len().is_multiple_of(dtype.bytes()) {
        return;
    }
    let written =
        |bytes| serde_json::value::to_raw_value(&Flat { dtype, bytes }).expect("it has a JSON form");
    let json = written(bytes);
    let mut again = vec![0; bytes.len()];
    elements::read(&json, dtype, &[bytes.len() / dtype.bytes()], &mut again).expect("an answer can be asked");
    assert_eq!(json.get(), written(&again).get());
}

/// A message of an inference request over gRPC.
pub fn infer_message(bytes: &[u8]) {
    match grpc::question::read_bytes(bytes) {
        Ok(question) => {
            let here = |input: &Input| match &input.data {
                Data::Here(bytes) => bytes.len(),
                Data::Shared(_) => 0,
            };
            // Typed elements have a byte at least, and become eight at most.
            let sum: usize = question.inputs.iter().map(here).sum();
            assert!(sum <= bytes.len() * 8, "{sum} of {}", bytes.len());
        }
        Err(problem) => {
            assert!([Kind::Invalid, Kind::Unsupported].contains(&problem.kind), "{problem:?}");
            assert!(!problem.message.is_empty());
        }
    }
}

/// A compressed body, behind a byte that says how, and in how large pieces it arrives.
pub fn compressed_body(bytes: &[u8]) {
    let Some((&head, body)) = bytes.split_first() else { return };
    let coding = if head & 1 == 0 { Coding::Gzip } else { Coding::Deflate };
    match encoding::inflate(coding, body, usize::from(head >> 1).max(1) * 64, BYTES_MAX) {
        Ok(bytes) => assert!(bytes.len() <= BYTES_MAX),
        Err(error) => assert!([400, 413].contains(&error.status.as_u16()), "{error:?}"),
    }
}

/// What the two sides of the ring say: an entry, a message of the client, a message of the server.
// The ring has a protocol of its own.
#[allow(clippy::disallowed_methods)]
pub fn ring_message(bytes: &[u8]) {
    let mut words =
        bytes.chunks_exact(8).map(|word| word.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    let entry: [u64; 7] = std::array::from_fn(|_| words.next().unwrap_or(0));
    if let Some(request) = Request::from_entry(&entry) {
        assert_eq!(request.to_entry(), entry, "an entry says one thing");
    }
    hostile_ring(bytes);
    if let Some(ended) = Ended::from_entry(&entry) {
        assert_eq!(Ended::from_entry(&ended.to_entry()), Some(ended));
    }
    match serde_json::from_slice(bytes) {
        Ok(ToServer::Open(wanted)) => open_model(wanted),
        Ok(ToServer::Hello { depth, tensor_bytes, .. }) => {
            if let Some(layout) = Layout::new(depth, tensor_bytes) {
                assert!(layout.is_valid() && layout.bytes() >= tensor_bytes);
            }
        }
        Ok(ToServer::Cancel { .. }) | Err(_) => {}
    }
    match serde_json::from_slice(bytes) {
        Ok(ToClient::Segment { layout, .. }) => drop(layout.is_valid().then(|| layout.bytes())),
        Ok(ToClient::Opened(opened)) => _ = opened.layout.is_valid(),
        Ok(ToClient::Refused { .. }) | Err(_) => {}
    }
}

/// Words that a client wrote wherever it liked: none of them is an entry twice.
fn hostile_ring(bytes: &[u8]) {
    const DEPTH: usize = 4;
    let mut words: Vec<AtomicU64> = bytes
        .as_chunks()
        .0
        .iter()
        .take(DEPTH * ENTRY_WORDS)
        .map(|word| AtomicU64::new(u64::from_le_bytes(*word)))
        .collect();
    words.resize_with(DEPTH * ENTRY_WORDS, AtomicU64::default);
    let mut consumer = Consumer::new(0, DEPTH);
    let count = std::iter::from_fn(|| consumer.pop(&words)).take(DEPTH + 1).count();
    assert!(count <= DEPTH && !consumer.is_ready(&words));
}

/// A model with inputs and outputs of fixed and of open shapes is opened.
fn open_model(wanted: OpenModel) {
    let tensor = |name: &str, dtype, dims: &[i64]| TensorInfo {
        name: name.into(),
        dtype,
        dims: dims.to_vec(),
        texts: false,
    };
    let model = ModelInfo {
        key: ModelKey { name: "m".into(), version: "1".into() },
        state: ModelState::Ready,
        settings: ModelSettings::default(),
        inputs: vec![tensor("x", DType::F32, &[2, -1]), tensor("s", DType::U8, &[])],
        outputs: vec![tensor("y", DType::F32, &[2, 3]), tensor("z", DType::I64, &[-1])],
        devices: Vec::new(),
        plans: Vec::new(),
        joins: false,
    };
    match OpenedModel::new(&model, wanted) {
        Ok((opened, outputs)) => {
            assert!(opened.layout.is_valid());
            assert_eq!(opened.layout.outputs.len(), outputs.len());
            assert_eq!(opened.layout.inputs.len(), model.inputs.len());
        }
        Err(problem) => {
            assert!([Kind::Invalid, Kind::Unsupported].contains(&problem.kind), "{problem:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use reef_base::Rng;

    use super::*;

    /// What each target begins with, and what comes of some damage to it.
    #[test]
    fn the_corpora_pass_whole_and_damaged() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        type Target = (&'static str, fn(&[u8]));
        let targets: [Target; 4] = [
            ("infer", infer_body),
            ("grpc", infer_message),
            ("encoding", compressed_body),
            ("ring", ring_message),
        ];
        let mut rng = Rng::new(23);
        for (name, target) in targets {
            let mut count = 0;
            for file in std::fs::read_dir(corpus.join(name)).unwrap() {
                let bytes = std::fs::read(file.unwrap().path()).unwrap();
                target(&bytes);
                for _ in 0..200 {
                    let mut bytes = bytes.clone();
                    let at = rng.below(bytes.len() as u64) as usize;
                    match rng.below(3) {
                        0 => bytes[at] = rng.next_u64() as u8,
                        1 => bytes.truncate(at),
                        _ => bytes.insert(at, b"0-9{[\"\xff"[rng.below(7) as usize]),
                    }
                    target(&bytes);
                }
                count += 1;
            }
            assert!(count >= 4, "{name} has {count} files");
        }
    }
}
