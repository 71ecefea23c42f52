//! The engine, the phase of the server and the models as clients see them: with those that could not be
//! loaded, and why.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use reef_engine::{Engine, InferError, ModelInfo, ModelKey, ModelState};
use tokio::sync::watch;

use crate::core::access::{Access, AccessOptions};
use crate::core::budget::Budget;
use crate::core::lanes::Lanes;
use crate::core::problem::Problem;
use crate::telemetry::Telemetry;

/// What all connections share, of whichever protocol.
pub(crate) struct State {
    pub(crate) engine: Engine,
    /// Bytes of one request at most.
    pub(crate) body_bytes_max: usize,
    pub(crate) bodies: Arc<Budget>,
    pub(crate) lanes: Lanes,
    /// Who may do what.
    pub(crate) access: Access,
    /// Where traces of requests go, if anywhere.
    pub(crate) telemetry: Option<Telemetry>,
    pub(crate) phase: watch::Sender<Phase>,
    /// Models that could not be loaded, and why.
    unavailable: RwLock<BTreeMap<ModelKey, String>>,
}

impl State {
    /// Of an engine whose models are still to come.
    pub(crate) fn new(engine: Engine, body_bytes_max: usize, bodies_bytes_max: usize) -> io::Result<State> {
        Ok(State {
            engine,
            body_bytes_max,
            bodies: Arc::new(Budget::new(bodies_bytes_max, body_bytes_max)),
            lanes: Lanes::start()?,
            access: Access::new(AccessOptions::default()),
            telemetry: None,
            phase: watch::Sender::new(Phase::Loading),
            unavailable: RwLock::default(),
        })
    }

    /// Answers for a model that could not be loaded.
    pub(crate) fn set_unavailable(&self, key: ModelKey, reason: String) {
        self.unavailable.write().unwrap_or_else(PoisonError::into_inner).insert(key, reason);
    }

    /// Whether inference requests are taken.
    pub(crate) fn takes_requests(&self) -> bool {
        *self.phase.borrow() == Phase::Serving && self.engine.is_ready()
    }

    /// Why a model is not there, if it could not be loaded; without a version, the first one.
    pub(crate) fn unavailable(&self, name: &str, version: Option<&str>) -> Option<(ModelKey, String)> {
        let unavailable = self.unavailable.read().unwrap_or_else(PoisonError::into_inner);
        let wanted =
            |key: &ModelKey| key.name == name && version.is_none_or(|version| key.version == version);
        let found = unavailable.iter().find(|(key, _)| wanted(key));
        found.map(|(key, reason)| (key.clone(), reason.clone()))
    }

    /// Every model that could not be loaded and is not there since, with the reason.
    pub(crate) fn all_unavailable(&self) -> Vec<(ModelKey, String)> {
        let unavailable = self.unavailable.read().unwrap_or_else(PoisonError::into_inner).clone();
        let gone = |key: &ModelKey| self.engine.model(&key.name, Some(&key.version)).is_none();
        unavailable.into_iter().filter(|(key, _)| gone(key)).collect()
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
