//! Why a benchmark could not be run. A target that is not met is a result, not an error.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use reef_engine::{EngineError, InferError, LoadError};
use reef_load::{CallError, WorkloadError};
use reef_plan::PlanError;
use reef_report::disb::ResultsError;
use reef_zoo::ZooError;

/// What the binary's side of a benchmark fails with; `anyhow::Error` converts into it.
pub type EnvironmentError = Box<dyn std::error::Error + Send + Sync>;

/// A benchmark could not be run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The device or the server could not be started.
    #[error("cannot start {what}: {source}")]
    Environment {
        /// What.
        what: &'static str,
        /// Why.
        source: EnvironmentError,
    },
    /// A socket failed.
    #[error("{what}: {source}")]
    Socket {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A server did not answer in time.
    #[error("{what}: no answer within {limit:?}")]
    Silent {
        /// What was asked, and where.
        what: String,
        /// How long was waited.
        limit: Duration,
    },
    /// A file or folder could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server refused or failed a request.
    #[error("the server answered {status} to {what}: {message}")]
    Status {
        /// What was asked.
        what: String,
        /// The HTTP status.
        status: u16,
        /// The server's message.
        message: String,
    },
    /// The server's answer is not what the protocol says.
    #[error("the answer to {what} is not as the protocol says: {problem}")]
    Protocol {
        /// What was asked.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// The engine could not be started.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A run in virtual time was to be played with devices of real time.
    #[error("the engine's devices have no virtual clock, and a simulated run needs one")]
    RealTime,
    /// A model could not be loaded.
    #[error(transparent)]
    Load(Box<LoadError>),
    /// The engine answered a request with an error.
    #[error("model {model}: {source}")]
    Infer {
        /// The model.
        model: String,
        /// Why.
        source: Box<InferError>,
    },
    /// A model answered beside other work what it does not answer alone.
    #[error("{0}: an answer beside other work is not the one on the idle device")]
    Differs(
        /// The model.
        String,
    ),
    /// A benchmark model could not be written.
    #[error(transparent)]
    Zoo(#[from] ZooError),
    /// A synthetic plan is not valid.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No part of the benchmark has this name.
    #[error("there is no part '{name}'; there are {known}")]
    UnknownPart {
        /// The name asked for.
        name: String,
        /// Those that exist.
        known: String,
    },
    /// What a simulated device cannot play.
    #[error(transparent)]
    Simulated(#[from] reef_sim::SimError),
    /// There is no such workload, or it cannot be played.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// A caller's request failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A workload asks a model that is nowhere.
    #[error("workload {workload}: there is no model '{model}' (looked for {looked})")]
    NoModel {
        /// The model.
        model: String,
        /// Who asks it.
        workload: String,
        /// Where it was looked for.
        looked: String,
    },
    /// Both of two ways that exclude each other were asked for.
    #[error("rates are either scaled or the paper's, not both")]
    Rates,
    /// An option names a client that is in no workload, or that it cannot change.
    #[error("{option}: no client that it could change is called '{name}'; real-time clients are {known}")]
    NoClient {
        /// The option.
        option: String,
        /// The name given.
        name: String,
        /// Names that exist.
        known: String,
    },
    /// A server's address cannot be used.
    #[error("cannot use the server {url}: {problem}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// A file of results could not be read.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// A peer's adapter failed, or did what its protocol does not allow.
    #[error("the peer {peer} {problem}{}", quoted(last_words))]
    Peer {
        /// Its name where it is known, and its command line.
        peer: String,
        /// What it did.
        problem: String,
        /// The last lines that it wrote to standard error.
        last_words: Vec<String>,
    },
    /// Nothing was measured where something had to be, or requests failed where none may.
    #[error("{0}")]
    NoSamples(String),
}

impl BenchError {
    /// Wraps an engine's answer with the model's name.
    pub(crate) fn infer(model: &str) -> impl Fn(InferError) -> BenchError + '_ {
        move |source| BenchError::Infer { model: model.to_string(), source: Box::new(source) }
    }
}

impl From<LoadError> for BenchError {
    fn from(error: LoadError) -> Self {
        BenchError::Load(Box::new(error))
    }
}

/// Lines of another program, each on a line of its own, behind a message.
fn quoted(lines: &[String]) -> String {
    match lines {
        [] => String::new(),
        lines => format!("; it wrote last:\n  {}", lines.join("\n  ")),
    }
}
