//! Answers about the server and its models as JSON: health, metadata, readiness, configuration, statistics.

use hyper::StatusCode;
use reef_engine::{DeviceInfo, ModelStats, Nanos, TensorInfo};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::core::access::Client;
use crate::core::answer::{self, PLATFORM, SERVER, Totals};
use crate::core::problem::Problem;
use crate::core::state::State;
use crate::http::reply::{Reply, json};
use crate::http::route::ModelPath;

/// The extensions of the protocol that are implemented.
const EXTENSIONS: [&str; 5] =
    ["binary_tensor_data", "schedule_policy", "parameters", "model_configuration", "statistics"];

/// Whether the process answers: always, if it can be asked.
pub(crate) fn live() -> Reply {
    json(StatusCode::OK, &json!({ "live": true }))
}

/// Whether inference requests are taken.
pub(crate) fn ready(state: &State) -> Reply {
    let ready = state.takes_requests();
    json(readiness(ready), &json!({ "ready": ready }))
}

/// Name, version, extensions and devices of the server.
pub(crate) fn server_metadata(state: &State) -> Reply {
    let device = |device: DeviceInfo| {
        let up = device.fault.is_none();
        json!({ "name": device.name, "description": device.description, "cus": device.cus, "up": up })
    };
    let devices: Vec<Value> = state.engine.devices().into_iter().map(device).collect();
    let metadata = json!({
        "name": SERVER,
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": EXTENSIONS,
        "devices": devices,
    });
    json(StatusCode::OK, &metadata)
}

/// Inputs and outputs of a model; -1 stands for any extent.
pub(crate) fn model_metadata(state: &State, path: &ModelPath<'_>) -> Result<Reply, Problem> {
    let model = state.find_loaded(&path.name, path.version.as_deref())?;
    let tensors = |tensors: &[TensorInfo]| -> Vec<Value> {
        let tensor = |tensor: &TensorInfo| {
            let datatype = tensor.dtype.protocol_name();
            json!({ "name": tensor.name, "datatype": datatype, "shape": tensor.dims })
        };
        tensors.iter().map(tensor).collect()
    };
    let metadata = json!({
        "name": model.key.name,
        "versions": answer::versions(state, &model, path.version.as_deref()),
        "platform": PLATFORM,
        "inputs": tensors(&model.inputs),
        "outputs": tensors(&model.outputs),
        "devices": model.devices,
    });
    Ok(json(StatusCode::OK, &metadata))
}

/// Whether a model takes requests.
pub(crate) fn model_ready(state: &State, path: &ModelPath<'_>) -> Result<Reply, Problem> {
    let model = answer::model_ready(state, &path.name, path.version.as_deref())?;
    let mut answer = json!({ "name": model.name, "ready": model.ready });
    if let Some(reason) = model.reason {
        answer["reason"] = reason.into();
    }
    Ok(json(readiness(model.ready), &answer))
}

/// A model in the words of Triton's configuration, as far as they have a meaning here.
pub(crate) fn model_config(state: &State, path: &ModelPath<'_>) -> Result<Reply, Problem> {
    let model = state.find_loaded(&path.name, path.version.as_deref())?;
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
            "devices": { "string_value": model.devices.join(",") },
            "placement": { "string_value": model.settings.placement.name() },
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
pub(crate) fn repository_index(state: &State, client: &Client, body: &[u8]) -> Result<Reply, Problem> {
    let wanted = match body.trim_ascii() {
        b"" => IndexRequest::default(),
        body => serde_json::from_slice(body)
            .map_err(|error| Problem::invalid(format!("the request is not as the protocol says: {error}")))?,
    };
    let listed = answer::index(state, client, wanted.ready).into_iter();
    let row = |model: answer::Listed| {
        let key = model.key;
        json!({ "name": key.name, "version": key.version, "state": model.state, "reason": model.reason })
    };
    let index: Vec<Value> = listed.map(row).collect();
    Ok(json(StatusCode::OK, &index))
}

/// Triton's statistics of one model or of all.
pub(crate) fn stats(state: &State, client: &Client, path: Option<&ModelPath<'_>>) -> Result<Reply, Problem> {
    let asked = path.map(|path| (&*path.name, path.version.as_deref()));
    let models: Vec<Value> = answer::stats(state, client, asked)?.iter().map(model_stats).collect();
    Ok(json(StatusCode::OK, &json!({ "model_stats": models })))
}

fn model_stats(model: &ModelStats) -> Value {
    let totals = Totals::of(model);
    let sum = |time: Nanos| json!({ "count": totals.success, "ns": time.0 });
    let nothing = json!({ "count": 0, "ns": 0 });
    json!({
        "name": model.key.name,
        "version": model.key.version,
        "last_inference": 0,
        "inference_count": totals.success,
        "execution_count": totals.executions,
        "inference_stats": {
            "success": sum(totals.total),
            "fail": { "count": totals.failed, "ns": 0 },
            "queue": sum(totals.queue),
            "compute_input": sum(totals.compute_input),
            "compute_infer": sum(totals.compute),
            "compute_output": sum(totals.compute_output),
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [],
    })
}

fn readiness(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
