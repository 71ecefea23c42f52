//! Models that are loaded and unloaded while the server runs: what is asked, and who does it. Where models
//! come from is not known here.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use reef_engine::ModelKey;
use serde_json::Value;

use crate::core::problem::Problem;

/// The reason of a model that is not loaded because nobody asked for it.
pub const UNLOADED: &str = "unloaded";

/// The state of a model that takes no requests, in the index.
pub(crate) const UNAVAILABLE: &str = "UNAVAILABLE";

/// Who loads and unloads models. All of it is called from several threads at once; loading and unloading on
/// threads that may block, the rest on threads that may not.
pub trait ModelControl: Send + Sync + Debug {
    /// Loads a model, in the place of what is served under its name. Returns when that is served, or cannot
    /// be; in the latter case what was served is still.
    fn load(&self, name: &str, request: LoadRequest) -> Result<(), ControlError>;

    /// Unloads every version of a model. `dependents` asks for the models that it is made of as well.
    fn unload(&self, name: &str, dependents: bool) -> Result<(), ControlError>;

    /// Looks at the repository, so that the index has what came and went. May take long, as directories do.
    fn look(&self) {}

    /// Every model that there is: its state in Triton's words and, if it is not ready, why.
    fn index(&self) -> Vec<(ModelKey, String, String)>;

    /// The configuration in force, in Triton's schema; without a version that of the newest.
    fn config(&self, name: &str, version: Option<&str>) -> Option<Value>;

    /// The labels of an output's classes, if its model has some.
    fn labels(&self, name: &str, version: Option<&str>, output: &str) -> Option<Arc<[String]>> {
        let _ = (name, version, output);
        None
    }
}

/// A model to load, with what a client says about it instead of its repository.
#[derive(Clone, Debug, Default)]
pub struct LoadRequest {
    /// Its configuration as JSON.
    pub config: Option<String>,
    /// Its files, by their paths in the model's directory, such as `1/model.onnx`.
    pub files: Vec<(String, Bytes)>,
}

/// A model was not loaded or unloaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Nobody may load models while the server runs.
    #[error("{0}")]
    Off(String),
    /// There is no such model.
    #[error("{0}")]
    Unknown(String),
    /// What is asked for is wrong: the model, its configuration, its files.
    #[error("{0}")]
    Invalid(String),
    /// It may work later.
    #[error("{0}")]
    Busy(String),
    /// The server's fault.
    #[error("{0}")]
    Failed(String),
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Problem {
        let message = error.to_string();
        match error {
            ControlError::Off(_) | ControlError::Busy(_) => Problem::unavailable(message),
            ControlError::Unknown(_) => Problem::not_found(message),
            ControlError::Invalid(_) => Problem::invalid(message),
            ControlError::Failed(_) => Problem::internal(message),
        }
    }
}
