//! Answers about the server and its models: health, metadata, readiness, configuration, statistics.

use hyper::StatusCode;
use reef_engine::{
    ClassStats, FailureReason, InferError, ModelInfo, ModelState, ModelStats, Nanos, TensorInfo,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::reply::{Reply, json};
use crate::route::ModelPath;
use crate::server::State;

/// The extensions of the protocol that are implemented.
const EXTENSIONS: [&str; 5] =
    ["binary_tensor_data", "schedule_policy", "parameters", "model_configuration", "statistics"];

/// What the models run on, as metadata and configuration say it.
const PLATFORM: &str = "reef_onnx";

/// Whether the process answers: always, if it can be asked.
pub(crate) fn live() -> Reply {
    json(StatusCode::OK, &json!({ "live": true }))
}

/// Whether inference requests are taken.
pub(crate) fn ready(state: &State) -> Reply {
    let ready = state.takes_requests();
    json(readiness(ready), &json!({ "ready": ready }))
}

/// Name, version and extensions of the server.
pub(crate) fn server_metadata() -> Reply {
    let metadata = json!({ "name": "reef", "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS });
    json(StatusCode::OK, &metadata)
}

/// Inputs and outputs of a model; -1 stands for any extent.
pub(crate) fn model_metadata(state: &State, path: &ModelPath<'_>) -> Result<Reply, ApiError> {
    let model = find_loaded(state, path)?;
    let tensors = |tensors: &[TensorInfo]| -> Vec<Value> {
        let tensor = |tensor: &TensorInfo| {
            let datatype = tensor.dtype.protocol_name();
            json!({ "name": tensor.name, "datatype": datatype, "shape": tensor.dims })
        };
        tensors.iter().map(tensor).collect()
    };
    let metadata = json!({
        "name": model.key.name,
        "versions": versions(state, path, &model),
        "platform": PLATFORM,
        "inputs": tensors(&model.inputs),
        "outputs": tensors(&model.outputs),
    });
    Ok(json(StatusCode::OK, &metadata))
}

/// Whether a model takes requests.
pub(crate) fn model_ready(state: &State, path: &ModelPath<'_>) -> Result<Reply, ApiError> {
    let (name, version) = (&*path.name, path.version.as_deref());
    if let (None, Some((key, reason))) = (state.engine.model(name, version), state.unavailable(name, version))
    {
        let answer = json!({ "name": key.name, "ready": false, "reason": reason });
        return Ok(json(readiness(false), &answer));
    }
    let model = find(state, path)?;
    let ready = model.state == ModelState::Ready && state.takes_requests();
    Ok(json(readiness(ready), &json!({ "name": model.key.name, "ready": ready })))
}

/// A model in the words of Triton's configuration, as far as they have a meaning here.
pub(crate) fn model_config(state: &State, path: &ModelPath<'_>) -> Result<Reply, ApiError> {
    let model = find_loaded(state, path)?;
    let tensors = |tensors: &[TensorInfo]| -> Vec<Value> {
        let tensor = |tensor: &TensorInfo| {
            let data_type = format!("TYPE_{}", tensor.dtype.protocol_name());
            json!({ "name": tensor.name, "data_type": data_type, "dims": tensor.dims })
        };
        tensors.iter().map(tensor).collect()
    };
    let config = json!({
        "name": model.key.name,
        "platform": PLATFORM,
        "backend": "reef",
        "max_batch_size": 0,
        "input": tensors(&model.inputs),
        "output": tensors(&model.outputs),
        "parameters": {
            "class": { "string_value": model.settings.class.name() },
        },
    });
    Ok(json(StatusCode::OK, &config))
}

/// What a client may ask of the index.
#[derive(Debug, Default, Deserialize)]
struct IndexRequest {
    /// Only models that take requests.
    #[serde(default)]
    ready: bool,
}

/// Every model with its state, or those that are ready where `body` asks for them.
pub(crate) fn repository_index(state: &State, body: &[u8]) -> Result<Reply, ApiError> {
    let wanted = match body.trim_ascii() {
        b"" => IndexRequest::default(),
        body => serde_json::from_slice(body).map_err(|error| {
            ApiError::invalid(format!("the request is not as the protocol says: {error}"))
        })?,
    };
    let mut index: Vec<Value> = state
        .engine
        .models()
        .iter()
        .filter(|model| !wanted.ready || model.state == ModelState::Ready)
        .map(|model| {
            let (state, reason) = match model.state {
                ModelState::Ready => ("READY", ""),
                ModelState::Loading => ("LOADING", ""),
                ModelState::Unloading => ("UNLOADING", ""),
            };
            let key = &model.key;
            json!({ "name": key.name, "version": key.version, "state": state, "reason": reason })
        })
        .collect();
    if !wanted.ready {
        index.extend(state.all_unavailable().into_iter().map(|(key, reason)| {
            json!({ "name": key.name, "version": key.version, "state": "UNAVAILABLE", "reason": reason })
        }));
    }
    Ok(json(StatusCode::OK, &index))
}

/// Triton's statistics of one model or of all.
pub(crate) fn stats(state: &State, path: Option<&ModelPath<'_>>) -> Result<Reply, ApiError> {
    let wanted = path.map(|path| find(state, path)).transpose()?.map(|model| model.key);
    let stats = state.engine.stats();
    let models = stats.models.iter().filter(|model| wanted.as_ref().is_none_or(|key| *key == model.key));
    let models: Vec<Value> = models.map(model_stats).collect();
    Ok(json(StatusCode::OK, &json!({ "model_stats": models })))
}

fn model_stats(model: &ModelStats) -> Value {
    let classes = [&model.real_time, &model.best_effort];
    let count = |what: fn(&ClassStats) -> u64| -> u64 { classes.iter().map(|class| what(class)).sum() };
    let success = count(|class| class.success);
    let failed = count(|class| FailureReason::ALL.map(|reason| class.failed(reason)).iter().sum());
    let sum = |what: fn(&ClassStats) -> Nanos| {
        let ns: u64 = classes.iter().map(|class| what(class).0).sum();
        json!({ "count": success, "ns": ns })
    };
    let nothing = json!({ "count": 0, "ns": 0 });
    json!({
        "name": model.key.name,
        "version": model.key.version,
        "last_inference": 0,
        "inference_count": success,
        "execution_count": count(|class| class.executions),
        "inference_stats": {
            "success": sum(|class| class.total.sum),
            "fail": { "count": failed, "ns": 0 },
            "queue": sum(|class| class.queue),
            "compute_input": sum(|class| class.compute_input),
            "compute_infer": sum(|class| class.compute),
            "compute_output": sum(|class| class.compute_output),
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [],
    })
}

fn readiness(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// A model that takes requests.
pub(crate) fn find_ready(state: &State, name: &str, version: Option<&str>) -> Result<ModelInfo, ApiError> {
    let model = find_named(state, name, version)?;
    match model.state {
        ModelState::Ready => Ok(model),
        ModelState::Loading | ModelState::Unloading => Err(InferError::NotReady(model.key).into()),
    }
}

/// A model whose inputs and outputs are known.
fn find_loaded(state: &State, path: &ModelPath<'_>) -> Result<ModelInfo, ApiError> {
    let model = find(state, path)?;
    match model.state {
        ModelState::Ready | ModelState::Unloading => Ok(model),
        ModelState::Loading => Err(InferError::NotReady(model.key).into()),
    }
}

fn find(state: &State, path: &ModelPath<'_>) -> Result<ModelInfo, ApiError> {
    find_named(state, &path.name, path.version.as_deref())
}

fn find_named(state: &State, name: &str, version: Option<&str>) -> Result<ModelInfo, ApiError> {
    match state.engine.model(name, version) {
        Some(model) => Ok(model),
        None => Err(missing(state, name, version)),
    }
}

/// Why there is no such model.
pub(crate) fn missing(state: &State, name: &str, version: Option<&str>) -> ApiError {
    if let Some((key, reason)) = state.unavailable(name, version) {
        return ApiError::unavailable(format!("model {key} could not be loaded: {reason}"));
    }
    // What is unknown now may be among the models that are still to come.
    if let Err(loading) = state.check_loaded() {
        return loading;
    }
    let version = version.map(|version| format!(" version {version}")).unwrap_or_default();
    ApiError::not_found(format!("there is no model '{name}'{version}"))
}

/// The versions that the path names: the one asked for, or all of that name.
fn versions(state: &State, path: &ModelPath<'_>, model: &ModelInfo) -> Vec<String> {
    if path.version.is_some() {
        return vec![model.key.version.clone()];
    }
    let models = state.engine.models().into_iter().map(|model| model.key);
    models.filter(|key| key.name == model.key.name).map(|key| key.version).collect()
}
