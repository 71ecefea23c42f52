//! The engine's public face: models in, requests in, answers out.

use std::sync::Arc;
use std::time::Duration;

use reef_base::{Clock, ModelKey, MonotonicClock, Nanos, limits};
use reef_device::{Capabilities, Device, Scheme};
use reef_plan::Plan;

use crate::error::{EngineError, InferError, LoadError};
use crate::future::InferFuture;
use crate::model::{ModelInfo, ModelSettings, ModelSpec, Queued};
use crate::request::{InferRequest, InferResponse};
use crate::session::{Session, SessionOptions};
use crate::source::PlanSource;
use crate::stats::EngineStats;
use crate::trace::{TraceError, TraceOptions, TraceSummary};

/// How an engine uses its device.
#[derive(Clone)]
pub struct EngineOptions {
    /// Where the time is read; must be the device's clock.
    pub clock: Arc<dyn Clock>,
    /// Tasks on the board at once, at most the device's slots.
    pub board_slots: usize,
    /// Best-effort tasks on the board at once: one that runs and the next, so that no compute unit idles between
    /// them. Under `sequential` it is one.
    pub best_effort_slots: usize,
    /// How long the completion thread looks for completions before it sleeps. Zero unless a core is left to it.
    pub spin: Nanos,
    /// Requests that may wait for the compilation of plans for new shapes.
    pub compile_queue_len: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            clock: Arc::new(MonotonicClock),
            board_slots: limits::BOARD_SLOTS_DEFAULT,
            best_effort_slots: 2,
            spin: Nanos::ZERO,
            compile_queue_len: 64,
        }
    }
}

/// Serves models on one device. Cheap to clone; the last clone's drop shuts it down at once.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<()>,
}

impl Engine {
    /// An engine without models on `device`. On a device with virtual time no thread is started: waiting for an
    /// answer, or [`Engine::step`], makes time pass.
    pub fn new(_device: Arc<dyn Device>, _options: EngineOptions) -> Result<Engine, EngineError> {
        Err(EngineError::Options("not built yet".into()))
    }

    /// Reads, compiles and loads a model on the caller's thread, while other models run.
    pub fn load(&self, _spec: ModelSpec) -> Result<ModelInfo, LoadError> {
        Err(LoadError::ShuttingDown)
    }

    /// Serves one plan as a model: for tests, benchmarks and plans made elsewhere.
    pub fn load_plan(
        &self,
        _key: ModelKey,
        _settings: ModelSettings,
        _plan: Arc<Plan>,
    ) -> Result<ModelInfo, LoadError> {
        Err(LoadError::ShuttingDown)
    }

    /// Serves whatever plans `source` makes.
    pub fn load_source(
        &self,
        _key: ModelKey,
        _settings: ModelSettings,
        _source: Arc<dyn PlanSource>,
    ) -> Result<ModelInfo, LoadError> {
        Err(LoadError::ShuttingDown)
    }

    /// Takes a model out of service: no new requests, queued ones as `queued` says, running ones finish. Returns when
    /// its last task has ended and its memory is free.
    pub fn unload(&self, _name: &str, _version: Option<&str>, _queued: Queued) -> Result<(), LoadError> {
        Err(LoadError::ShuttingDown)
    }

    /// Runs a request and blocks until it ends.
    pub fn infer(&self, request: &InferRequest<'_>) -> Result<InferResponse, InferError> {
        self.submit(request)?.wait()
    }

    /// Checks a request, copies its inputs and queues it. Never blocks on the device. A request whose shapes have no
    /// plan yet waits in the future for its compilation, which happens on a thread of the engine.
    pub fn submit(&self, _request: &InferRequest<'_>) -> Result<InferFuture, InferError> {
        Err(InferError::ShuttingDown)
    }

    /// Buffers and settings for repeated inference without allocation. Compiles the plan if there is none yet.
    pub fn session(&self, _model: &str, _options: &SessionOptions<'_>) -> Result<Session, InferError> {
        Err(InferError::ShuttingDown)
    }

    /// Every model, by name and version.
    pub fn models(&self) -> Vec<ModelInfo> {
        Vec::new()
    }

    /// One model; without a version the newest that is ready.
    pub fn model(&self, _name: &str, _version: Option<&str>) -> Option<ModelInfo> {
        None
    }

    /// Whether the engine takes requests: not shutting down, device not poisoned.
    pub fn is_ready(&self) -> bool {
        false
    }

    /// The time on the engine's clock.
    pub fn now(&self) -> Nanos {
        Nanos::ZERO
    }

    /// What the device can do.
    pub fn capabilities(&self) -> &Capabilities {
        panic!("not built yet")
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        panic!("not built yet")
    }

    /// The scheme in force.
    pub fn scheme(&self) -> Scheme {
        Scheme::Reset
    }

    /// Changes the scheme for every later decision. Under `rt-only` best-effort requests are refused; those that are
    /// queued already wait until the scheme changes again.
    pub fn set_scheme(&self, _scheme: Scheme) {}

    /// A snapshot of all statistics.
    pub fn stats(&self) -> EngineStats {
        panic!("not built yet")
    }

    /// Starts recording a timeline.
    pub fn start_trace(&self, _options: TraceOptions) -> Result<(), TraceError> {
        Ok(())
    }

    /// Stops recording and writes the file. [`Engine::shutdown`] does so too.
    pub fn stop_trace(&self) -> Result<TraceSummary, TraceError> {
        Err(TraceError::State("no trace is being recorded"))
    }

    /// On a device with virtual time: lets time pass to the next completion or timer. False when nothing is left to
    /// do. Real devices need no steps.
    pub fn step(&self) -> bool {
        false
    }

    /// Takes no more requests, finishes real-time work, gives best-effort work `drain`, then cancels what is left.
    /// Returns when everything has ended. Later calls return at once.
    pub fn shutdown(&self, _drain: Duration) {
        let _ = &self.shared;
    }
}
