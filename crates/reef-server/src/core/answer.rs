//! What is answered: about one inference, about models, about the server.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use reef_engine::{
    BatchStats, Class, ClassStats, DType, FailureReason, InferResponse, ModelInfo, ModelKey, ModelState,
    ModelStats, Nanos, TensorInfo,
};
use serde_json::{Value, json};

use crate::core::access::Client;
use crate::core::classes::Scores;
use crate::core::control::UNAVAILABLE;
use crate::core::pace::LARGE_BYTES_MIN;
use crate::core::problem::Problem;
use crate::core::question::{Output, REGION_BYTES_LONG};
use crate::core::regions::Shared;
use crate::core::state::State;

/// The server's name in its metadata.
pub(crate) const SERVER: &str = "reef";

/// What the models run on, as metadata and configuration say it.
pub(crate) const PLATFORM: &str = "reef_onnx";

/// The extensions of the protocol that work.
pub(crate) fn extensions(state: &State) -> Vec<&'static str> {
    let always = [
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "model_repository(index)",
        "parameters",
        "schedule_policy",
        "statistics",
    ];
    let allowed = [
        ("logging", state.log().is_some()),
        ("model_repository", state.control().is_some()),
        ("model_repository(unload_dependents)", state.control().is_some()),
        ("system_shared_memory", state.regions.is_some()),
        ("trace", state.timeline.is_allowed()),
    ];
    let allowed = allowed.into_iter().filter(|(_, works)| *works).map(|(name, _)| name);
    let mut extensions: Vec<_> = always.into_iter().chain(allowed).collect();
    if extensions.contains(&"model_repository") {
        // All of it, not the index alone.
        extensions.retain(|name| *name != "model_repository(index)");
    }
    extensions
}

/// A model in the words of Triton's configuration: its own, or what of it has a meaning here.
pub(crate) fn config(state: &State, name: &str, version: Option<&str>) -> Result<Value, Problem> {
    let model = state.find_loaded(name, version)?;
    let own = state.control().and_then(|control| control.config(name, Some(&model.key.version)));
    if let Some(config) = own {
        return Ok(config);
    }
    let tensors = |tensors: &[TensorInfo]| -> Vec<Value> {
        let tensor = |tensor: &TensorInfo| {
            let data_type = match tensor.texts {
                true => "TYPE_STRING".into(),
                false => format!("TYPE_{}", tensor.dtype.protocol_name()),
            };
            json!({ "name": tensor.name, "data_type": data_type, "dims": tensor.dims })
        };
        tensors.iter().map(tensor).collect()
    };
    Ok(json!({
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
    }))
}

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

/// Texts that one answer may have instead of tensors.
const TEXTS_MAX: usize = 1 << 20;

/// Bytes of all texts of an output: one text of a request may be many elements of what is made of it.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// One output of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Tensor<'a> {
    pub(crate) name: &'a str,
    pub(crate) shape: Cow<'a, [usize]>,
    pub(crate) data: Data,
}

/// The elements of an output.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    /// Dense, row major, little endian.
    Elements(DType, Bytes),
    /// A tensor of BYTES.
    Texts(Vec<Vec<u8>>),
    /// They lie in a region of shared memory already, so many bytes of them.
    Shared { datatype: &'static str, region: Shared },
}

impl Tensor<'_> {
    /// The protocol's name of the element type.
    pub(crate) fn datatype(&self) -> &'static str {
        match &self.data {
            Data::Elements(dtype, _) => dtype.protocol_name(),
            Data::Texts(_) => "BYTES",
            Data::Shared { datatype, .. } => datatype,
        }
    }

    /// As the protocol has it in binary; nothing of what is elsewhere.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self.data {
            Data::Elements(_, bytes) => bytes,
            Data::Shared { .. } => Bytes::new(),
            Data::Texts(texts) => {
                let mut bytes = BytesMut::with_capacity(texts.iter().map(|text| 4 + text.len()).sum());
                for text in texts {
                    bytes.put_u32_le(u32::try_from(text.len()).expect("texts of an answer are bounded"));
                    bytes.put_slice(&text);
                }
                bytes.freeze()
            }
        }
    }
}

/// The outputs of a request that asked for `wanted`, elements without a copy: the engine has its buffers back
/// when the last of them is gone. Those that go to shared memory are moved there; those after one that fails
/// stay as they were.
pub(crate) fn tensors<'a>(
    state: &State,
    response: &'a Arc<InferResponse>,
    wanted: &[Output],
) -> Result<Vec<Tensor<'a>>, Problem> {
    let mut tensors = Vec::with_capacity(response.output_count());
    for (index, output) in response.outputs().enumerate() {
        let wanted = wanted.get(index);
        let tensor = match wanted.and_then(|wanted| wanted.classes) {
            Some(count) => classified(state, response, index, count)?,
            None => Tensor {
                name: output.name,
                shape: Cow::Borrowed(output.shape),
                data: match texts(response, index)? {
                    Some(texts) => Data::Texts(texts),
                    None => Data::Elements(output.dtype, output_bytes(response, index)),
                },
            },
        };
        tensors.push(match wanted.and_then(|wanted| wanted.shared.as_ref()) {
            Some(shared) => moved(state, tensor, shared)?,
            None => tensor,
        });
    }
    Ok(tensors)
}

/// The texts that an output is made of, if it is.
fn texts(response: &InferResponse, index: usize) -> Result<Option<Vec<Vec<u8>>>, Problem> {
    let Some(texts) = response.texts_at(index) else { return Ok(None) };
    let (mut all, mut bytes) = (vec![], 0usize);
    for text in texts {
        bytes += text.len();
        if bytes > TEXT_BYTES_MAX {
            let name = response.output_at(index).name;
            return Err(Problem::invalid(format!(
                "output '{name}': its texts have more than {TEXT_BYTES_MAX} bytes"
            )));
        }
        all.push(text.to_vec());
    }
    Ok(Some(all))
}

/// Moves a tensor to shared memory.
fn moved<'a>(state: &State, tensor: Tensor<'a>, shared: &Shared) -> Result<Tensor<'a>, Problem> {
    let (name, shape, datatype) = (tensor.name, tensor.shape.clone(), tensor.datatype());
    let bytes = tensor.into_bytes();
    let (len, byte_size) = (bytes.len() as u64, shared.byte_size);
    if len > byte_size {
        return Err(Problem::invalid(format!(
            "output '{name}' has {len} bytes, shared_memory_byte_size is {byte_size}"
        )));
    }
    state.regions()?.write(&shared.region, shared.offset, &bytes)?;
    let region = Shared { byte_size: len, ..shared.clone() };
    Ok(Tensor { name, shape, data: Data::Shared { datatype, region } })
}

/// Whether [`tensors`] would hold up others: outputs are sorted, or copied to shared memory.
pub(crate) fn is_long(response: &InferResponse, wanted: &[Output]) -> bool {
    let sum = |which: fn(&Output) -> bool| -> u64 {
        let outputs = response.outputs().zip(wanted).filter(|(_, wanted)| which(wanted));
        outputs.map(|(output, _)| output.data.len() as u64).sum()
    };
    let (sorted, shared) = (sum(|wanted| wanted.classes.is_some()), sum(|wanted| wanted.shared.is_some()));
    sorted >= LARGE_BYTES_MIN as u64 || shared >= REGION_BYTES_LONG
}

fn classified<'a>(
    state: &State,
    response: &'a InferResponse,
    index: usize,
    count: usize,
) -> Result<Tensor<'a>, Problem> {
    let output = response.output_at(index);
    if response.texts_at(index).is_some() {
        let name = output.name;
        return Err(Problem::invalid(format!("output '{name}': texts have no largest elements")));
    }
    let labels = state.labels(&response.model, output.name);
    let scores = Scores {
        dtype: output.dtype,
        shape: output.shape,
        bytes: output.data,
        labels: labels.as_deref().unwrap_or(&[]),
        batched: state.is_batched(&response.model),
    };
    let texts = scores.count(count);
    if texts > TEXTS_MAX {
        let name = output.name;
        return Err(Problem::invalid(format!(
            "output '{name}': {texts} classes, at most {TEXTS_MAX} are allowed"
        )));
    }
    let (shape, texts) = scores.largest(count);
    let texts = texts.into_iter().map(String::into_bytes).collect();
    Ok(Tensor { name: output.name, shape: Cow::Owned(shape), data: Data::Texts(texts) })
}

/// The bytes of one output without a copy.
fn output_bytes(response: &Arc<InferResponse>, index: usize) -> Bytes {
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
    pub(crate) state: String,
    /// Why it is unavailable, or empty.
    pub(crate) reason: String,
}

/// Every model that the client may ask, with its state, or only those that are ready. May take long.
pub(crate) fn index(state: &State, client: &Client, ready_only: bool) -> Vec<Listed> {
    let mut index = all(state, ready_only);
    index.retain(|listed| client.sees(&listed.key.name));
    index
}

/// Every model.
fn all(state: &State, ready_only: bool) -> Vec<Listed> {
    if let Some(control) = state.control() {
        control.look();
        let listed = control.index().into_iter().map(|(key, state, reason)| Listed { key, state, reason });
        return listed.filter(|model| !ready_only || model.state == "READY").collect();
    }
    let models = state.engine.models().into_iter();
    let wanted = models.filter(|model| !ready_only || model.state == ModelState::Ready);
    let mut index: Vec<Listed> = wanted.map(listed).collect();
    if !ready_only {
        let unavailable = state.all_unavailable().into_iter();
        index.extend(unavailable.map(|(key, reason)| Listed { key, state: UNAVAILABLE.into(), reason }));
    }
    index
}

fn listed(model: ModelInfo) -> Listed {
    let reason = String::new();
    Listed { key: model.key, state: state_name(model.state).into(), reason }
}

/// A state in Triton's words.
pub(crate) fn state_name(state: ModelState) -> &'static str {
    match state {
        ModelState::Ready => "READY",
        ModelState::Loading => "LOADING",
        ModelState::Unloading => "UNLOADING",
    }
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
    /// Of those that failed: arrival to answer.
    pub(crate) failed_time: Nanos,
    /// When the last successful one ended, on the engine's clock; zero if none has.
    pub(crate) last_success: Nanos,
    /// Rows of successful requests, where the model counts them.
    pub(crate) inferences: u64,
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
            failed_time: sum(|class| class.failed_time),
            last_success: model.real_time.last_success.max(model.best_effort.last_success),
            inferences: count(|class| class.inferences),
            executions: count(|class| class.executions),
            total: sum(|class| class.total.sum),
            queue: sum(|class| class.queue),
            compute_input: sum(|class| class.compute_input),
            compute: sum(|class| class.compute),
            compute_output: sum(|class| class.compute_output),
        }
    }
}

/// Of a model whose rows are bounded: what tasks of each number of rows took, where there were any.
pub(crate) fn batches(model: &ModelStats) -> Vec<(usize, BatchStats)> {
    let mut sum = model.real_time.clone();
    sum.merge(&model.best_effort);
    let each = sum.batches.into_iter().enumerate().map(|(at, batches)| (at + 1, batches));
    each.filter(|(_, batches)| batches.count > 0).collect()
}
