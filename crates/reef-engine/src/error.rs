//! Every way in which the engine says no: starting, loading a model, answering a request.
//!
//! Variants are cut by what the caller can do about them; messages name the model, the tensor, the expected
//! and the received. Nothing here knows of protocols or status codes.

use std::path::PathBuf;

use reef_base::{Class, ModelKey, Nanos};
use reef_device::{DeviceError, Scheme};
use reef_graph::{DType, Shape};
use reef_plan::HostFault;

/// The engine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A thread could not be started.
    #[error("cannot start the engine's {thread} thread: {source}")]
    Thread {
        /// Which one.
        thread: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The options contradict each other or the device.
    #[error("engine options: {0}")]
    Options(String),
}

/// A model could not be loaded or unloaded. The engine and its other models go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read {path}: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file is not a model that reef can run; the message names node, operator and reason.
    #[error("model {key}: {reason}")]
    Import {
        /// The model.
        key: ModelKey,
        /// What is wrong.
        reason: String,
    },
    /// The model cannot be compiled for these input shapes.
    #[error("model {key} for {shapes}: {reason}")]
    Compile {
        /// The model.
        key: ModelKey,
        /// The input shapes, for people.
        shapes: String,
        /// What is wrong.
        reason: String,
    },
    /// The settings contradict the model or the limits.
    #[error("settings of model {key}: {reason}")]
    Settings {
        /// The model.
        key: ModelKey,
        /// What is wrong.
        reason: String,
    },
    /// The device could not take the plan.
    #[error("model {key}: {source}")]
    Device {
        /// The model.
        key: ModelKey,
        /// Why.
        source: DeviceError,
    },
    /// A model with this name and version is there already.
    #[error("model {0} is loaded already")]
    AlreadyLoaded(ModelKey),
    /// The importer, the compiler or the model's plan source panicked.
    #[error("model {key}: an internal error, please report it: {what}")]
    Panicked {
        /// The model.
        key: ModelKey,
        /// What the panic said.
        what: String,
    },
    /// Another load of this name and version, or its unloading, has not ended yet. Try again later.
    #[error("model {0} is being loaded, replaced or unloaded")]
    Busy(ModelKey),
    /// There is no such model.
    #[error("there is no model {0}")]
    UnknownModel(String),
    /// As many models as the engine holds.
    #[error("the engine holds at most {0} models")]
    TooManyModels(usize),
    /// The engine or its device has failed: see [`crate::Engine::fault`].
    #[error(transparent)]
    Failed(InferError),
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    ShuttingDown,
}

/// What is wrong with a named tensor of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongInput {
    /// The model has no input of this name.
    #[error("the model has no such input; it has {known}")]
    Unknown {
        /// The names of the inputs that it has.
        known: String,
    },
    /// The request lacks the input.
    #[error("it is missing")]
    Missing,
    /// The request has it more than once.
    #[error("it is given more than once")]
    Duplicate,
    /// Another element type.
    #[error("expected {expected}, got {got}")]
    DType {
        /// The model's.
        expected: DType,
        /// The request's.
        got: DType,
    },
    /// Numbers where the model takes texts.
    #[error("expected texts (BYTES), got {got}")]
    NeedsTexts {
        /// The request's.
        got: DType,
    },
    /// Texts where the model takes numbers.
    #[error("expected {expected}, got texts (BYTES)")]
    TakesNoTexts {
        /// The model's.
        expected: DType,
    },
    /// Data that are not texts, each after its length.
    #[error("byte {at} of its data does not begin a text: 4 bytes say its length, and so many follow")]
    BrokenTexts {
        /// Where.
        at: usize,
    },
    /// Another number of texts than its shape has.
    #[error("its shape needs {expected} texts, got {got}")]
    Texts {
        /// What the shape needs.
        expected: usize,
        /// What was given.
        got: usize,
    },
    /// Too many bytes of texts.
    #[error("texts that the model does not have itself have at most {max} bytes")]
    LongTexts {
        /// How many they may have.
        max: usize,
    },
    /// A shape that the model does not take; -1 stands for any extent.
    #[error("expected shape {expected}, got {got}")]
    Shape {
        /// The model's, for people, `-1` for any extent.
        expected: String,
        /// The request's.
        got: Shape,
    },
    /// Data and shape do not agree.
    #[error("shape and type need {expected} bytes, got {got}")]
    Bytes {
        /// What shape and type need.
        expected: usize,
        /// What was given.
        got: usize,
    },
}

/// A request that got no outputs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InferError {
    /// No model of this name (and version, where one was asked for).
    #[error("there is no model {0}")]
    UnknownModel(String),
    /// The model is being loaded or unloaded.
    #[error("model {0} is not ready")]
    NotReady(ModelKey),
    /// An input does not fit the model.
    #[error("input '{name}': {problem}")]
    WrongInput {
        /// The input.
        name: String,
        /// What is wrong with it.
        problem: WrongInput,
    },
    /// The model has no output of a requested name.
    #[error("the model has no output '{name}'; it has {known}")]
    UnknownOutput {
        /// The name asked for.
        name: String,
        /// The names of the outputs that it has.
        known: String,
    },
    /// A class or level more urgent than the model's settings allow, or a level that does not exist.
    #[error("model {key} is configured {configured}: a request may not ask for {asked}")]
    NotAllowed {
        /// The model.
        key: ModelKey,
        /// The most urgent that a request may ask for.
        configured: String,
        /// What the request asked for.
        asked: String,
    },
    /// More rows than the model's settings allow.
    #[error("inference request batch-size must be <= {max} for '{}', got {rows}", key.name)]
    TooWide {
        /// The model.
        key: ModelKey,
        /// The request's rows.
        rows: usize,
        /// The most that the model takes.
        max: usize,
    },
    /// The model does not take these input shapes.
    #[error("the model does not take these input shapes: {0}")]
    Shapes(String),
    /// No plan could be made for shapes that the model may well take: there are too many plans, a host kernel
    /// could not be prepared, the compiler failed.
    #[error("no plan could be made: {0}")]
    NoPlan(String),
    /// The model's queue is full. Try again later.
    #[error("the queue of model {key} is full ({len} requests)")]
    QueueFull {
        /// The model.
        key: ModelKey,
        /// How many wait.
        len: usize,
    },
    /// The deadline passed before the request was done; work on it was stopped.
    #[error("the deadline passed")]
    DeadlinePassed,
    /// The deadline cannot be met any more, by measured times; the request was refused without running.
    #[error("the deadline cannot be met: about {needed} needed, {left} left")]
    DeadlineUnreachable {
        /// Expected time until it would be done.
        needed: Nanos,
        /// Time until the deadline.
        left: Nanos,
    },
    /// The request waited in the queue longer than its timeout.
    #[error("the request waited in the queue longer than its timeout")]
    Timeout,
    /// The request was cancelled.
    #[error("the request was cancelled")]
    Cancelled,
    /// A kernel of the model failed on these inputs; the fault says whether other inputs would do.
    #[error(transparent)]
    Failed(#[from] HostFault),
    /// The device was poisoned by a fault.
    #[error("the device has failed")]
    DeviceFault,
    /// The device has no memory for the request's inputs and outputs now. Try again later.
    #[error("the device has no memory for the request's inputs and outputs now")]
    NoMemory,
    /// A bug of the engine showed: it gave up every request that it had, and takes no more.
    #[error("the engine has failed, please report it: {0}")]
    EngineFailed(String),
    /// The scheme in force does not serve the request's class.
    #[error("the scheme {scheme} serves no {} requests", class.name())]
    NotServed {
        /// The scheme in force.
        scheme: Scheme,
        /// The request's class.
        class: Class,
    },
    /// Too many requests wait for the compilation of new shapes. Try again later.
    #[error("too many requests wait for plans to be compiled")]
    CompileQueueFull,
    /// The model is being unloaded.
    #[error("model {0} is being unloaded")]
    Unloading(ModelKey),
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    ShuttingDown,
}
