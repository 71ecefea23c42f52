//! Why a model could not be imported, by what the caller can do about it.

use std::path::PathBuf;

/// Why a model could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file could not be read: check path and permissions.
    #[error("reading {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes are not an ONNX model, or a broken one: export it again.
    #[error("not a valid ONNX model: {reason}")]
    Parse {
        /// What is wrong.
        reason: String,
    },
    /// The model uses something that reef does not do: change the model.
    #[error("node {node} ({operator}): {reason}")]
    Unsupported {
        /// The node's name in the model.
        node: String,
        /// The operator's name.
        operator: String,
        /// What is not supported.
        reason: String,
    },
    /// The given shapes do not fit the model's inputs: give others.
    #[error("input {input}: {reason}")]
    Shape {
        /// The input's name.
        input: String,
        /// What does not fit.
        reason: String,
    },
    /// The model is not consistent for these shapes: its operators' shapes or types contradict each other.
    #[error("analysing the model: {reason}")]
    Analysis {
        /// What contradicts what.
        reason: String,
    },
}
