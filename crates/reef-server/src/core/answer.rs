//! What is answered: about one inference, about models, about the server.

use std::sync::Arc;

use bytes::Bytes;
use reef_engine::{
    Class, ClassStats, FailureReason, InferResponse, ModelInfo, ModelKey, ModelState, ModelStats, Nanos,
};

use crate::core::access::Client;
use crate::core::problem::Problem;
use crate::core::state::State;

/// The server's name in its metadata.
pub(crate) const SERVER: &str = "reef";

/// What the models run on, as metadata and configuration say it.
pub(crate) const PLATFORM: &str = "reef_onnx";

/// A value that an answer says about itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Parameter {
    Text(&'static str),
    Whole(u64),
    Real(f64),
    Flag(bool),
}

/// What the answer says about how it was made.
pub(crate) fn parameters(response: &InferResponse) -> Vec<(&'static str, Parameter)> {
    let micros = |time: Nanos| Parameter::Whole(time.0 / 1_000);
    let mut parameters = vec![("class", Parameter::Text(response.class.name()))];
    if let Class::RealTime(level) = response.class {
        parameters.push(("level", Parameter::Whole(level.get().into())));
        parameters.push(("priority", Parameter::Whole(u64::from(level.get()) + 1)));
    }
    parameters.push(("queue_us", micros(response.timings.queue)));
    parameters.push(("compute_us", micros(response.timings.compute)));
    parameters.push(("preempted", Parameter::Whole(response.counters.blocks_killed)));
    if response.preempted {
        parameters.push(("preempt_us", Parameter::Real(response.first_block.0 as f64 / 1e3)));
    }
    if response.late {
        parameters.push(("late", Parameter::Flag(true)));
    }
    parameters
}

/// The bytes of one output without a copy; the engine has its buffers back when the last of them is gone.
pub(crate) fn output_bytes(response: &Arc<InferResponse>, index: usize) -> Bytes {
    Bytes::from_owner(OutputView { response: response.clone(), index })
}

struct OutputView {
    response: Arc<InferResponse>,
    index: usize,
}

impl AsRef<[u8]> for OutputView {
    fn as_ref(&self) -> &[u8] {
        self.response.output_at(self.index).data
    }
}

/// Whether a model takes requests.
pub(crate) struct Readiness {
    pub(crate) name: String,
    pub(crate) ready: bool,
    /// Why it never will, if it could not be loaded.
    pub(crate) reason: Option<String>,
}

/// Whether a model takes requests.
pub(crate) fn model_ready(state: &State, name: &str, version: Option<&str>) -> Result<Readiness, Problem> {
    if let (None, Some((key, reason))) = (state.engine.model(name, version), state.unavailable(name, version))
    {
        return Ok(Readiness { name: key.name, ready: false, reason: Some(reason) });
    }
    let model = state.find(name, version)?;
    if let Some(reason) = out_of_service(state, &model) {
        return Ok(Readiness { name: model.key.name, ready: false, reason: Some(reason) });
    }
    let ready = model.state == ModelState::Ready && state.takes_requests();
    Ok(Readiness { name: model.key.name, ready, reason: None })
}

/// Why nobody serves a model that is loaded: all its devices have failed.
fn out_of_service(state: &State, model: &ModelInfo) -> Option<String> {
    let devices = state.engine.devices();
    let failed = |name: &String| devices.iter().any(|device| device.name == *name && device.fault.is_some());
    let all = !model.devices.is_empty() && model.devices.iter().all(failed);
    all.then(|| format!("every device that it is on has failed: {}", model.devices.join(", ")))
}

/// The versions that a question names: the one asked for, or all of that name.
pub(crate) fn versions(state: &State, model: &ModelInfo, asked: Option<&str>) -> Vec<String> {
    if asked.is_some() {
        return vec![model.key.version.clone()];
    }
    let models = state.engine.models().into_iter().map(|model| model.key);
    models.filter(|key| key.name == model.key.name).map(|key| key.version).collect()
}

/// A model in the repository's index.
pub(crate) struct Listed {
    pub(crate) key: ModelKey,
    /// In Triton's words.
    pub(crate) state: &'static str,
    /// Why it is unavailable, or empty.
    pub(crate) reason: String,
}

/// Every model that the client may ask, with its state, or only those that are ready.
pub(crate) fn index(state: &State, client: &Client, ready_only: bool) -> Vec<Listed> {
    let models = state.engine.models().into_iter();
    let wanted = models.filter(|model| !ready_only || model.state == ModelState::Ready);
    let mut index: Vec<Listed> = wanted.map(listed).collect();
    if !ready_only {
        let unavailable = state.all_unavailable().into_iter();
        index.extend(unavailable.map(|(key, reason)| Listed { key, state: "UNAVAILABLE", reason }));
    }
    index.retain(|listed| client.sees(&listed.key.name));
    index
}

fn listed(model: ModelInfo) -> Listed {
    let state = match model.state {
        ModelState::Ready => "READY",
        ModelState::Loading => "LOADING",
        ModelState::Unloading => "UNLOADING",
    };
    Listed { key: model.key, state, reason: String::new() }
}

/// Statistics of one model, by name and version, or of all that the client may ask.
pub(crate) fn stats(
    state: &State,
    client: &Client,
    asked: Option<(&str, Option<&str>)>,
) -> Result<Vec<ModelStats>, Problem> {
    let wanted = asked.map(|(name, version)| state.find(name, version)).transpose()?.map(|model| model.key);
    let models = state.engine.stats().models.into_iter();
    let wanted = models.filter(|model| wanted.as_ref().is_none_or(|key| *key == model.key));
    Ok(wanted.filter(|model| client.sees(&model.key.name)).collect())
}

/// Sums over both classes of a model.
pub(crate) struct Totals {
    pub(crate) success: u64,
    pub(crate) failed: u64,
    pub(crate) executions: u64,
    /// Of successful requests, as the others.
    pub(crate) total: Nanos,
    pub(crate) queue: Nanos,
    pub(crate) compute_input: Nanos,
    pub(crate) compute: Nanos,
    pub(crate) compute_output: Nanos,
}

impl Totals {
    pub(crate) fn of(model: &ModelStats) -> Totals {
        let classes = [&model.real_time, &model.best_effort];
        let count = |what: fn(&ClassStats) -> u64| -> u64 { classes.iter().map(|class| what(class)).sum() };
        let sum = |what: fn(&ClassStats) -> Nanos| Nanos(classes.iter().map(|class| what(class).0).sum());
        Totals {
            success: count(|class| class.success),
            failed: count(|class| FailureReason::ALL.map(|reason| class.failed(reason)).iter().sum()),
            executions: count(|class| class.executions),
            total: sum(|class| class.total.sum),
            queue: sum(|class| class.queue),
            compute_input: sum(|class| class.compute_input),
            compute: sum(|class| class.compute),
            compute_output: sum(|class| class.compute_output),
        }
    }
}
