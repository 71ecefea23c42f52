//! Entrances for fuzz targets: what is done to bytes of clients before anything else sees them. No part of
//! the API.
//!
//! Each panics where the server would be wrong: when a refusal is not the client's fault, or something
//! comes out that should not.

use reef_client::OpenModel;
use reef_engine::{DType, ModelInfo, ModelKey, ModelSettings, ModelState, TensorInfo};

use crate::core::problem::Kind;
use crate::http::encoding::{self, Coding};
use crate::http::infer;
use crate::ring::OpenedModel;

/// A body of an inference request, and its header `Inference-Header-Content-Length`.
pub fn infer_body(body: &[u8], header: Option<&str>) {
    match infer::read(body.to_vec(), header) {
        Ok(tensors) => {
            // Binary tensors are parts of the body; those in JSON have no more elements than characters.
            let bytes: usize = tensors.iter().map(|(_, data)| data.len()).sum();
            assert!(bytes <= body.len() * 8, "{bytes} of {}", body.len());
        }
        Err(problem) => {
            assert!([Kind::Invalid, Kind::Unsupported].contains(&problem.kind), "{problem:?}");
            assert!(!problem.message.is_empty());
        }
    }
}

/// A compressed body that arrives in pieces of `piece` bytes; no more than `bytes_max` come out.
pub fn compressed_body(gzip: bool, body: &[u8], piece: usize, bytes_max: usize) {
    let coding = if gzip { Coding::Gzip } else { Coding::Deflate };
    match encoding::inflate(coding, body, piece.max(1), bytes_max) {
        Ok(bytes) => assert!(bytes.len() <= bytes_max),
        Err(error) => assert!([400, 413].contains(&error.status.as_u16()), "{error:?}"),
    }
}

/// A model that a client of the ring opens; it has inputs and outputs of fixed and of open shapes.
pub fn open_model(wanted: OpenModel) {
    let tensor =
        |name: &str, dtype, dims: &[i64]| TensorInfo { name: name.into(), dtype, dims: dims.to_vec() };
    let model = ModelInfo {
        key: ModelKey { name: "m".into(), version: "1".into() },
        state: ModelState::Ready,
        settings: ModelSettings::default(),
        inputs: vec![tensor("x", DType::F32, &[2, -1]), tensor("s", DType::U8, &[])],
        outputs: vec![tensor("y", DType::F32, &[2, 3]), tensor("z", DType::I64, &[-1])],
        devices: Vec::new(),
        plans: Vec::new(),
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
