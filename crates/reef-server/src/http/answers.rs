//! Answers about the server and its models as JSON: health, metadata, readiness, configuration, statistics.

use std::collections::BTreeSet;

use hyper::StatusCode;
use reef_engine::{DeviceInfo, ModelStats, Nanos, TensorInfo};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::core::access::Client;
use crate::core::answer::{self, PLATFORM, SERVER, Totals};
use crate::core::parameter::{Value as Setting, quoted};
use crate::core::problem::Problem;
use crate::core::settings;
use crate::core::state::State;
use crate::core::statistics::{self, Batch, Memory};
use crate::http::protocol::json::{object_or_nothing, settings as settings_in};
use crate::http::reply::{Reply, json};
use crate::http::route::ModelPath;

/// Whether the process answers: always, if it can be asked.
pub(crate) fn live() -> Reply {
    json(StatusCode::OK, &json!({ "live": true }))
}

/// Whether inference requests are taken; which of its models are missing, the client is told.
pub(crate) fn ready(state: &State, client: &Client) -> Reply {
    let (ready, mut missing) = state.readiness();
    missing.retain(|(key, _)| client.sees(&key.name));
    let mut answer = json!({ "ready": ready });
    if !missing.is_empty() {
        let missing = missing
            .into_iter()
            .map(|(key, reason)| json!({ "name": key.name, "version": key.version, "reason": reason }));
        answer["missing"] = missing.collect();
    }
    json(readiness(ready), &answer)
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
        "extensions": answer::extensions(state),
        "devices": devices,
    });
    json(StatusCode::OK, &metadata)
}

/// Inputs and outputs of a model; -1 stands for any extent.
pub(crate) fn model_metadata(state: &State, path: &ModelPath<'_>) -> Result<Reply, Problem> {
    let model = state.find_loaded(&path.name, path.version.as_deref())?;
    let tensors = |tensors: &[TensorInfo]| -> Vec<Value> {
        let tensor = |tensor: &TensorInfo| {
            let datatype = tensor.datatype();
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

/// Names of models, as KServe's first protocol lists them.
pub(crate) fn v1_models(state: &State, client: &Client) -> Reply {
    let models = state.engine.models().into_iter().map(|model| model.key.name);
    let names: BTreeSet<String> = models.filter(|name| client.sees(name)).collect();
    json(StatusCode::OK, &json!({ "models": names }))
}

/// Why nothing is explained.
pub(crate) fn explain(state: &State, path: &ModelPath<'_>) -> Problem {
    let none =
        "explanations are not supported: this server runs models, an explainer is a service of its own";
    state.find(&path.name, None).err().unwrap_or_else(|| Problem::unsupported(none))
}

/// A model's configuration.
pub(crate) fn model_config(state: &State, path: &ModelPath<'_>) -> Result<Reply, Problem> {
    let config = answer::config(state, &path.name, path.version.as_deref())?;
    Ok(json(StatusCode::OK, &config))
}

/// The trace settings, once those in `body` are changed: an object of texts, lists of texts, or null for the
/// default. Blocks while a trace is written.
pub(crate) fn trace_settings(
    state: &State,
    path: Option<&ModelPath<'_>>,
    body: &[u8],
) -> Result<Reply, Problem> {
    let change = |(name, value): (String, Value)| {
        let text = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            other => Err(Problem::invalid(format!(
                "trace setting '{}': {} is neither a text nor a list of texts",
                quoted(&name),
                quoted(&other.to_string())
            ))),
        };
        let values = match &value {
            Value::Null => Ok(Vec::new()),
            Value::Array(values) => values.iter().map(text).collect(),
            value => text(value).map(|value| vec![value]),
        };
        values.map(|values| (name, values))
    };
    let changes = settings_in(body)?.into_iter().map(change).collect::<Result<Vec<_>, _>>()?;
    let told = settings::trace(state, path.map(|path| &*path.name), &changes)?;
    let told = told.into_iter().map(|(name, values)| match name {
        // The one that may have several.
        "trace_level" => (name.to_string(), json!(values)),
        _ => (name.to_string(), json!(values.concat())),
    });
    Ok(json(StatusCode::OK, &told.collect::<Map<String, Value>>()))
}

/// The log settings, once those in `body` are changed.
pub(crate) fn log_settings(state: &State, body: &[u8]) -> Result<Reply, Problem> {
    let change = |(name, value): (String, Value)| {
        let value = match value {
            Value::Bool(flag) => Setting::Flag(flag),
            Value::String(text) => Setting::Text(text),
            Value::Number(number) => match number.as_i128() {
                Some(whole) => Setting::Whole(whole),
                None => Setting::Other(number.to_string()),
            },
            other => Setting::Other(other.to_string()),
        };
        (name, value)
    };
    let changes: Vec<_> = settings_in(body)?.into_iter().map(change).collect();
    let told = settings::log(state, &changes)?.into_iter().map(|(name, value)| {
        let value = match value {
            Setting::Flag(flag) => json!(flag),
            Setting::Whole(number) => json!(number as i64),
            Setting::Text(text) => json!(text),
            other => json!(other.to_string()),
        };
        (name.to_string(), value)
    });
    Ok(json(StatusCode::OK, &told.collect::<Map<String, Value>>()))
}

/// What a client may ask of the index.
#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "an object")]
struct IndexRequest {
    /// Only models that take requests.
    #[serde(default)]
    ready: bool,
}

/// Every model with its state, or those that are ready where `body` asks for them.
pub(crate) fn repository_index(state: &State, client: &Client, body: &[u8]) -> Result<Reply, Problem> {
    let wanted: IndexRequest = object_or_nothing(body)?;
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
    let models: Vec<Value> =
        answer::stats(state, client, asked)?.iter().map(|model| model_stats(state, model)).collect();
    Ok(json(StatusCode::OK, &json!({ "model_stats": models })))
}

fn model_stats(state: &State, model: &ModelStats) -> Value {
    let totals = Totals::of(model);
    let sum = |time: Nanos| json!({ "count": totals.success, "ns": time.0 });
    let nothing = json!({ "count": 0, "ns": 0 });
    let batch = |batch: Batch| {
        let sum = |time: Nanos| json!({ "count": batch.count, "ns": time.0 });
        json!({
            "batch_size": batch.size,
            "compute_input": sum(batch.compute_input),
            "compute_infer": sum(batch.compute),
            "compute_output": sum(batch.compute_output),
        })
    };
    let memory = |memory: Memory| json!({ "type": memory.kind, "id": memory.id, "byte_size": memory.bytes });
    let batches: Vec<Value> = statistics::batches(model, &totals).into_iter().map(batch).collect();
    let memory: Vec<Value> = statistics::memory(state, model).into_iter().map(memory).collect();
    json!({
        "name": model.key.name,
        "version": model.key.version,
        "last_inference": statistics::last_inference_ms(state, &totals),
        "inference_count": totals.inferences,
        "execution_count": totals.executions,
        "inference_stats": {
            "success": sum(totals.total),
            "fail": { "count": totals.failed, "ns": totals.failed_time.0 },
            "queue": sum(totals.queue),
            "compute_input": sum(totals.compute_input),
            "compute_infer": sum(totals.compute),
            "compute_output": sum(totals.compute_output),
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "response_stats": {},
        "batch_stats": batches,
        "memory_usage": memory,
    })
}

fn readiness(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
