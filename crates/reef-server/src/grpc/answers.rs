//! Answers about the server, its models and their repository.

use std::collections::HashMap;
use std::sync::Arc;

use reef_engine::{ModelStats, Nanos, TensorInfo};

use crate::core::access::Client;
use crate::core::answer::{self, PLATFORM, SERVER, Totals};
use crate::core::budget::Share;
use crate::core::control::LoadRequest;
use crate::core::loading;
use crate::core::problem::{Kind, Problem};
use crate::core::state::State;
use crate::core::statistics::{self, Batch, Memory};
use crate::grpc::pb::model_metadata_response::TensorMetadata;
use crate::grpc::pb::model_repository_parameter::ParameterChoice;
use crate::grpc::pb::repository_index_response::ModelIndex;
use crate::grpc::pb::{
    InferBatchStatistics, InferStatistics, MemoryUsage, ModelConfig, ModelConfigRequest, ModelConfigResponse,
    ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
    ModelRepositoryParameter, ModelStatistics, ModelStatisticsRequest, ModelStatisticsResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerMetadataResponse, StatisticDuration,
};

/// The parameter with a model's configuration.
const CONFIG: &str = "config";

/// What stands before a file's path in a parameter's name.
const FILE_PREFIX: &str = "file:";

/// Name, version and extensions of the server.
pub(crate) fn server_metadata(state: &State) -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: SERVER.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        extensions: answer::extensions(state).into_iter().map(String::from).collect(),
    }
}

/// Whether a model takes requests.
pub(crate) fn model_ready(
    state: &State,
    client: &Client,
    request: &ModelReadyRequest,
) -> Result<ModelReadyResponse, Problem> {
    client.check_model(&request.name)?;
    match answer::model_ready(state, &request.name, given(&request.version)) {
        Ok(model) => Ok(ModelReadyResponse { ready: model.ready }),
        // As with Triton: what is not there is not ready.
        Err(Problem { kind: Kind::NotFound, .. }) => Ok(ModelReadyResponse { ready: false }),
        Err(problem) => Err(problem),
    }
}

/// Inputs and outputs of a model; -1 stands for any extent.
pub(crate) fn model_metadata(
    state: &State,
    client: &Client,
    request: &ModelMetadataRequest,
) -> Result<ModelMetadataResponse, Problem> {
    client.check_model(&request.name)?;
    let version = given(&request.version);
    let model = state.find_loaded(&request.name, version)?;
    let tensors = |tensors: &[TensorInfo]| -> Vec<TensorMetadata> {
        let tensor = |tensor: &TensorInfo| TensorMetadata {
            name: tensor.name.clone(),
            datatype: tensor.datatype().into(),
            shape: tensor.dims.clone(),
        };
        tensors.iter().map(tensor).collect()
    };
    Ok(ModelMetadataResponse {
        versions: answer::versions(state, &model, version),
        platform: PLATFORM.into(),
        inputs: tensors(&model.inputs),
        outputs: tensors(&model.outputs),
        name: model.key.name,
    })
}

/// A model's configuration.
pub(crate) fn model_config(
    state: &State,
    client: &Client,
    request: &ModelConfigRequest,
) -> Result<ModelConfigResponse, Problem> {
    client.check_model(&request.name)?;
    let config = answer::config(state, &request.name, given(&request.version))?;
    Ok(ModelConfigResponse { config: Some(config_message(config)?) })
}

/// A configuration in JSON as a message; what the message does not have is left out.
fn config_message(config: serde_json::Value) -> Result<ModelConfig, Problem> {
    use prost::Message;
    use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage};
    let failed = |error: &dyn std::fmt::Display| {
        Problem::internal(format!("the configuration is no message: {error}"))
    };
    let pool = DescriptorPool::decode(crate::grpc::DESCRIPTORS).map_err(|error| failed(&error))?;
    let descriptor = pool.get_message_by_name("inference.ModelConfig").expect("the file has this message");
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(descriptor, config, &options)
        .map_err(|error| failed(&error))?;
    ModelConfig::decode(&*message.encode_to_vec()).map_err(|error| failed(&error))
}

/// Statistics of one model or of all.
pub(crate) fn model_statistics(
    state: &State,
    client: &Client,
    request: &ModelStatisticsRequest,
) -> Result<ModelStatisticsResponse, Problem> {
    let asked = given(&request.name).map(|name| (name, given(&request.version)));
    asked.map_or(Ok(()), |(name, _)| client.check_model(name))?;
    let stats = answer::stats(state, client, asked)?;
    let model_stats = stats.iter().map(|model| statistics(state, model)).collect();
    Ok(ModelStatisticsResponse { model_stats })
}

fn statistics(state: &State, model: &ModelStats) -> ModelStatistics {
    let totals = Totals::of(model);
    let times = |count, time: Nanos| Some(StatisticDuration { count, ns: time.0 });
    let of_success = |time| times(totals.success, time);
    let inference_stats = InferStatistics {
        success: of_success(totals.total),
        fail: times(totals.failed, totals.failed_time),
        queue: of_success(totals.queue),
        compute_input: of_success(totals.compute_input),
        compute_infer: of_success(totals.compute),
        compute_output: of_success(totals.compute_output),
        cache_hit: times(0, Nanos(0)),
        cache_miss: times(0, Nanos(0)),
    };
    let batch = |batch: Batch| {
        let sum = |time| times(batch.count, time);
        InferBatchStatistics {
            batch_size: batch.size,
            compute_input: sum(batch.compute_input),
            compute_infer: sum(batch.compute),
            compute_output: sum(batch.compute_output),
        }
    };
    let memory = |memory: Memory| MemoryUsage {
        r#type: memory.kind.into(),
        id: memory.id as i64,
        byte_size: memory.bytes,
    };
    ModelStatistics {
        name: model.key.name.clone(),
        version: model.key.version.clone(),
        last_inference: statistics::last_inference_ms(state, &totals),
        inference_count: totals.inferences,
        execution_count: totals.executions,
        inference_stats: Some(inference_stats),
        batch_stats: statistics::batches(model, &totals).into_iter().map(batch).collect(),
        memory_usage: statistics::memory(state, model).into_iter().map(memory).collect(),
    }
}

/// Every model with its state.
pub(crate) fn repository_index(
    state: &State,
    client: &Client,
    request: &RepositoryIndexRequest,
) -> Result<RepositoryIndexResponse, Problem> {
    check_repository(&request.repository_name)?;
    let model = |model: answer::Listed| ModelIndex {
        name: model.key.name,
        version: model.key.version,
        state: model.state,
        reason: model.reason,
    };
    Ok(RepositoryIndexResponse {
        models: answer::index(state, client, request.ready).into_iter().map(model).collect(),
    })
}

/// Loads or reloads a model.
pub(crate) async fn load(
    state: &Arc<State>,
    client: &Client,
    request: RepositoryModelLoadRequest,
    share: Option<Share>,
) -> Result<RepositoryModelLoadResponse, Problem> {
    client.check_model(&request.model_name)?;
    check_repository(&request.repository_name)?;
    let RepositoryModelLoadRequest { model_name, parameters, .. } = request;
    loading::load(state, model_name, move || {
        let request = load_request(parameters);
        drop(share);
        request
    })
    .await?;
    Ok(RepositoryModelLoadResponse {})
}

fn load_request(parameters: HashMap<String, ModelRepositoryParameter>) -> Result<LoadRequest, Problem> {
    let mut wanted = LoadRequest::default();
    for (name, parameter) in parameters {
        let wrong = |kind: &str| Problem::invalid(format!("parameter '{name}': {kind} is expected"));
        match (name.strip_prefix(FILE_PREFIX), parameter.parameter_choice) {
            (Some(path), Some(ParameterChoice::BytesParam(bytes))) => {
                wanted.files.push((path.to_string(), bytes));
            }
            (Some(_), _) => return Err(wrong("bytes")),
            (None, Some(ParameterChoice::StringParam(text))) if name == CONFIG => wanted.config = Some(text),
            (None, _) if name == CONFIG => return Err(wrong("a text of JSON")),
            (None, _) => {
                return Err(Problem::invalid(format!(
                    "there is no parameter '{name}': 'config' and 'file:PATH' are"
                )));
            }
        }
    }
    Ok(wanted)
}

/// Takes a model out of service.
pub(crate) async fn unload(
    state: &Arc<State>,
    client: &Client,
    request: RepositoryModelUnloadRequest,
) -> Result<RepositoryModelUnloadResponse, Problem> {
    client.check_model(&request.model_name)?;
    check_repository(&request.repository_name)?;
    let dependents = request.parameters.get("unload_dependents");
    let dependents = match dependents.and_then(|found| found.parameter_choice.as_ref()) {
        None => false,
        Some(ParameterChoice::BoolParam(dependents)) => *dependents,
        Some(_) => return Err(Problem::invalid("parameter 'unload_dependents': a boolean is expected")),
    };
    loading::unload(state, request.model_name, dependents).await?;
    Ok(RepositoryModelUnloadResponse {})
}

fn check_repository(name: &str) -> Result<(), Problem> {
    match name {
        "" => Ok(()),
        name => {
            let name = crate::core::parameter::quoted(name);
            Err(Problem::unsupported(format!(
                "repository_name '{name}': there is one repository, without a name"
            )))
        }
    }
}

/// What is given in a text that may be empty.
pub(crate) fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}
