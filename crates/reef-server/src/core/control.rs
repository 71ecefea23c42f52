//! The seam to whoever loads and unloads models: the server passes on what clients ask.
//!
//! Implementations may take their time; they are called on threads that may block.

use std::fmt::Debug;

use bytes::Bytes;
use reef_engine::ModelKey;

use crate::core::problem::Problem;

/// What a client asks to load.
#[derive(Clone, Debug, Default)]
pub struct LoadRequest {
    /// The model's configuration as JSON, in place of the repository's.
    pub config: Option<String>,
    /// Files of the model by their path inside its folder, such as `1/model.onnx`, in place of the
    /// repository's.
    pub files: Vec<(String, Bytes)>,
}

/// Why a model was not loaded or unloaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The request is wrong: a configuration that cannot be read, a file that may not be there.
    #[error("{0}")]
    Invalid(String),
    /// There is no such model.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be done now, or by clients.
    #[error("{0}")]
    Unavailable(String),
    /// It should have worked.
    #[error("{0}")]
    Failed(String),
}

/// Loads, unloads and lists models.
pub trait ModelControl: Send + Sync + Debug {
    /// Loads a model, or reloads it.
    fn load(&self, name: &str, request: LoadRequest) -> Result<(), ControlError>;

    /// Takes a model out of service, and those that depend on it where `dependents` says so.
    fn unload(&self, name: &str, dependents: bool) -> Result<(), ControlError>;

    /// Every model with its state in Triton's words, and the reason where it is not ready.
    fn index(&self) -> Vec<(ModelKey, String, String)>;

    /// The configuration of a model as JSON, if it has one.
    fn config(&self, name: &str, version: Option<&str>) -> Option<serde_json::Value>;
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let message = error.to_string();
        match error {
            ControlError::Invalid(_) => Problem::invalid(message),
            ControlError::NotFound(_) => Problem::not_found(message),
            ControlError::Unavailable(_) => Problem::unavailable(message),
            ControlError::Failed(_) => Problem::internal(message),
        }
    }
}
