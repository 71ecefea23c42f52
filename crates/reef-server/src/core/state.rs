//! The engine, the phase of the server and the models as clients see them: with those that could not be
//! loaded, and why.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use reef_engine::{Engine, InferError, ModelInfo, ModelKey, ModelState};
use tokio::sync::watch;

use crate::core::access::{Access, AccessOptions};
use crate::core::budget::Budget;
use crate::core::control::{ModelControl, UNAVAILABLE, UNLOADED};
use crate::core::lanes::Lanes;
use crate::core::logging::LogControl;
use crate::core::problem::Problem;
use crate::core::regions::Regions;
use crate::core::requests::Requests;
use crate::core::timeline::Timeline;
use crate::telemetry::Telemetry;

/// What all connections share, of whichever protocol.
pub(crate) struct State {
    pub(crate) engine: Engine,
    /// Bytes of one request at most.
    pub(crate) body_bytes_max: usize,
    pub(crate) bodies: Arc<Budget>,
    /// Of answers that their clients have not read yet.
    pub(crate) answers: Arc<Budget>,
    /// What is done when they leave no room for another.
    room: OnceLock<MakeRoom>,
    pub(crate) lanes: Lanes,
    /// Who may do what.
    pub(crate) access: Access,
    /// What has been asked so far, over each protocol.
    pub(crate) requests: Requests,
    /// Where traces of requests go, if anywhere.
    pub(crate) telemetry: Option<Telemetry>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) timeline: Timeline,
    /// Shared memory of clients; `None` where the operator has not allowed it.
    pub(crate) regions: Option<Regions>,
    http_port: AtomicU16,
    /// Models that could not be loaded, and why.
    unavailable: RwLock<BTreeMap<ModelKey, String>>,
    /// Who loads and unloads models, if somebody does.
    control: OnceLock<Arc<dyn ModelControl>>,
    log: OnceLock<Arc<dyn LogControl>>,
    /// Whether the server is ready only with all of its models.
    pub(crate) strict_readiness: bool,
}

/// Sends somebody away who holds answers and does not read them.
pub(crate) type MakeRoom = Box<dyn Fn() + Send + Sync>;

/// What requests may take of memory, and where traces go.
#[derive(Debug)]
pub(crate) struct StateOptions {
    /// Bytes of one request at most.
    pub(crate) body_bytes_max: usize,
    /// Of all that are in memory.
    pub(crate) bodies_bytes_max: usize,
    /// Of all answers that were not read yet.
    pub(crate) answers_bytes_max: usize,
    pub(crate) trace_folder: Option<PathBuf>,
}

impl State {
    /// Of an engine whose models are still to come.
    pub(crate) fn new(engine: Engine, options: StateOptions) -> io::Result<State> {
        let StateOptions { body_bytes_max, bodies_bytes_max, answers_bytes_max, trace_folder } = options;
        Ok(State {
            engine,
            body_bytes_max,
            bodies: Arc::new(Budget::new(bodies_bytes_max, body_bytes_max)),
            answers: Arc::new(Budget::of_answers(answers_bytes_max)),
            room: OnceLock::new(),
            lanes: Lanes::start()?,
            access: Access::new(AccessOptions::default()),
            requests: Requests::default(),
            telemetry: None,
            phase: watch::Sender::new(Phase::Loading),
            timeline: Timeline::new(trace_folder),
            regions: None,
            http_port: AtomicU16::new(0),
            unavailable: RwLock::default(),
            control: OnceLock::new(),
            log: OnceLock::new(),
            strict_readiness: false,
        })
    }

    /// Has `room` done when there is no room for an answer. The first one stays.
    pub(crate) fn set_room(&self, room: MakeRoom) {
        let _ = self.room.set(room);
    }

    /// Looks for room for an answer.
    pub(crate) fn make_room(&self) {
        if let Some(room) = self.room.get() {
            room();
        }
    }

    /// Has clients change the log through `log`. The first one stays.
    pub(crate) fn set_log(&self, log: Arc<dyn LogControl>) {
        let _ = self.log.set(log);
    }

    /// What decides what is logged, if clients may change it.
    pub(crate) fn log(&self) -> Option<Arc<dyn LogControl>> {
        self.log.get().cloned()
    }

    /// What the elements of an output stand for, if its model says so.
    pub(crate) fn labels(&self, key: &ModelKey, output: &str) -> Option<Arc<[String]>> {
        self.control()?.labels(&key.name, Some(&key.version), output)
    }

    /// Whether the first dimension of a model's tensors counts the parts of a batch.
    pub(crate) fn is_batched(&self, key: &ModelKey) -> bool {
        let config = self.control.get().and_then(|control| control.config(&key.name, Some(&key.version)));
        config.and_then(|config| config["max_batch_size"].as_i64()).is_some_and(|size| size > 0)
    }

    /// Requests are taken over HTTP at `port`.
    pub(crate) fn set_http_port(&self, port: u16) {
        self.http_port.store(port, Ordering::Relaxed);
    }

    /// Where requests are taken over HTTP.
    pub(crate) fn http_port(&self) -> u16 {
        self.http_port.load(Ordering::Relaxed)
    }

    /// Answers for a model that could not be loaded.
    pub(crate) fn set_unavailable(&self, key: ModelKey, reason: String) {
        self.unavailable.write().unwrap_or_else(PoisonError::into_inner).insert(key, reason);
    }

    /// The shared memory of clients, if it is allowed.
    pub(crate) fn regions(&self) -> Result<&Regions, Problem> {
        self.regions.as_ref().ok_or_else(|| {
            Problem::unsupported(
                "system shared memory is off: start the server with --allow-client-shm to allow it",
            )
        })
    }

    /// Whether inference requests are taken.
    pub(crate) fn takes_requests(&self) -> bool {
        *self.phase.borrow() == Phase::Serving && self.engine.is_ready()
    }

    /// Who loads and unloads models from now on; the first one stays.
    pub(crate) fn set_control(&self, control: Arc<dyn ModelControl>) {
        let _ = self.control.set(control);
    }

    /// Who loads and unloads models, if somebody does.
    pub(crate) fn control(&self) -> Option<&Arc<dyn ModelControl>> {
        self.control.get()
    }

    /// Why a model is not there, if it could not be loaded; without a version, the first one.
    pub(crate) fn unavailable(&self, name: &str, version: Option<&str>) -> Option<(ModelKey, String)> {
        let wanted =
            |key: &ModelKey| key.name == name && version.is_none_or(|version| key.version == version);
        self.all_known_unavailable().into_iter().find(|(key, _)| wanted(key))
    }

    /// Every model that could not be loaded and is not there since, with the reason.
    pub(crate) fn all_unavailable(&self) -> Vec<(ModelKey, String)> {
        let mut unavailable = self.all_known_unavailable();
        unavailable.retain(|(key, _)| self.engine.model(&key.name, Some(&key.version)).is_none());
        unavailable
    }

    fn all_known_unavailable(&self) -> Vec<(ModelKey, String)> {
        let said = self.unavailable.read().unwrap_or_else(PoisonError::into_inner).clone();
        let index = self.control().map(|control| control.index()).unwrap_or_default().into_iter();
        let missing = index.filter(|(_, state, why)| state == UNAVAILABLE && why != UNLOADED);
        said.into_iter().chain(missing.map(|(key, _, why)| (key, why))).collect()
    }

    /// Whether the server is ready for clients, and which models it lacks.
    pub(crate) fn readiness(&self) -> (bool, Vec<(ModelKey, String)>) {
        let missing = self.all_unavailable();
        let complete = missing.is_empty() || !self.strict_readiness;
        (complete && self.takes_requests(), missing)
    }

    /// An error, for what needs models, while they are being loaded.
    pub(crate) fn check_loaded(&self) -> Result<(), Problem> {
        match *self.phase.borrow() {
            Phase::Loading => Err(Problem::unavailable("the server is still loading its models")),
            Phase::Serving | Phase::Draining | Phase::Closing | Phase::Closed => Ok(()),
        }
    }
}

/// Models by name.
impl State {
    /// A model that takes requests.
    pub(crate) fn find_ready(&self, name: &str, version: Option<&str>) -> Result<ModelInfo, Problem> {
        let model = self.find(name, version)?;
        match model.state {
            ModelState::Ready => Ok(model),
            ModelState::Loading | ModelState::Unloading => Err(InferError::NotReady(model.key).into()),
        }
    }

    /// A model whose inputs and outputs are known.
    pub(crate) fn find_loaded(&self, name: &str, version: Option<&str>) -> Result<ModelInfo, Problem> {
        let model = self.find(name, version)?;
        match model.state {
            ModelState::Ready | ModelState::Unloading => Ok(model),
            ModelState::Loading => Err(InferError::NotReady(model.key).into()),
        }
    }

    /// A model, whatever its state.
    pub(crate) fn find(&self, name: &str, version: Option<&str>) -> Result<ModelInfo, Problem> {
        match self.engine.model(name, version) {
            Some(model) => Ok(model),
            None => Err(self.missing(name, version)),
        }
    }

    /// Why there is no such model.
    pub(crate) fn missing(&self, name: &str, version: Option<&str>) -> Problem {
        if let Some((key, reason)) = self.unavailable(name, version) {
            return Problem::unavailable(format!("model {key} could not be loaded: {reason}"));
        }
        // What is unknown now may be among the models that are still to come.
        if let Err(loading) = self.check_loaded() {
            return loading;
        }
        let version = version.map(|version| format!(" version {version}")).unwrap_or_default();
        Problem::not_found(format!("there is no model '{name}'{version}"))
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("phase", &*self.phase.borrow()).finish_non_exhaustive()
    }
}

/// Where the server stands; never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Loading,
    Serving,
    Draining,
    Closing,
    Closed,
}
