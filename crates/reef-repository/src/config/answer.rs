//! The configuration that is in force, in Triton's words: what clients are told who ask for it.

use serde_json::{Map, Value, json};

use super::tensor::triton_name;
use super::{Batching, Declared, ModelConfig, QueuePolicy, TimeoutAction, VersionPolicy, Warmup, WarmupData};

/// What is in force and does not stand in the configuration.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// The model's name.
    pub name: String,
    /// Its inputs.
    pub inputs: Vec<Declared>,
    /// Its outputs.
    pub outputs: Vec<Declared>,
    /// Parameters with the values that hold.
    pub parameters: Vec<(String, String)>,
    /// Whether requests are joined.
    pub joins: bool,
}

impl ModelConfig {
    /// As JSON in Triton's schema. Inputs and outputs are the model's, described or not.
    pub fn answer(&self, extra: &Extra) -> Value {
        let mut answer = json!({
            "name": extra.name,
            "platform": self.platform.as_deref().filter(|it| !it.is_empty()).unwrap_or("onnxruntime_onnx"),
            "backend": self.backend.as_deref().filter(|it| !it.is_empty()).unwrap_or("reef"),
            "version_policy": versions(self.versions.as_ref().unwrap_or(&VersionPolicy::default())),
            "max_batch_size": self.max_batch_size,
            "input": self.tensors(&extra.inputs, true),
            "output": self.tensors(&extra.outputs, false),
            "instance_group": [],
            "default_model_filename": self.file_name(),
            "parameters": self.parameters(&extra.parameters),
            "model_warmup": self.warmups.iter().map(warmup).collect::<Vec<_>>(),
            "model_transaction_policy": { "decoupled": false },
        });
        if let Some(batching) = self.batching.as_ref().filter(|_| extra.joins) {
            answer["dynamic_batching"] = dynamic_batching(batching);
        }
        answer
    }

    fn tensors(&self, declared: &[Declared], input: bool) -> Vec<Value> {
        let described = if input { &self.inputs } else { &self.outputs };
        let tensor = |declared: &Declared| {
            let said = described.iter().find(|said| said.name == declared.name);
            let own = self.dims_of(declared);
            let dims = said.map(|said| &said.dims[..]).filter(|dims| !dims.is_empty()).unwrap_or(own);
            let mut tensor = json!({
                "name": declared.name, "data_type": triton_name(&declared.datatype), "dims": dims,
            });
            if input {
                let format = said.and_then(|said| said.format.as_deref()).unwrap_or("FORMAT_NONE");
                tensor["format"] = format.into();
                tensor["is_shape_tensor"] = false.into();
                tensor["allow_ragged_batch"] = false.into();
                tensor["optional"] = false.into();
            } else {
                let labels = said.and_then(|said| said.label_file.as_deref()).unwrap_or_default();
                tensor["label_filename"] = labels.into();
                tensor["is_shape_tensor"] = false.into();
            }
            tensor
        };
        declared.iter().map(tensor).collect()
    }

    fn parameters(&self, in_force: &[(String, String)]) -> Map<String, Value> {
        let all = self.parameters.iter().chain(in_force.iter().map(|(key, value)| (key, value)));
        all.map(|(key, value)| (key.clone(), json!({ "string_value": value }))).collect()
    }
}

fn versions(policy: &VersionPolicy) -> Value {
    match policy {
        VersionPolicy::Latest(count) => json!({ "latest": { "num_versions": count } }),
        VersionPolicy::All => json!({ "all": {} }),
        VersionPolicy::Specific(versions) => json!({ "specific": { "versions": versions } }),
    }
}

fn dynamic_batching(batching: &Batching) -> Value {
    let policies = &batching.priority_queue_policy;
    let policies = policies.iter().map(|(level, policy)| (level.to_string(), queue_policy(policy)));
    let mut answer = json!({
        "preferred_batch_size": batching.preferred_batch_sizes,
        "max_queue_delay_microseconds": batching.max_queue_delay_us,
        "preserve_ordering": batching.preserve_ordering,
        "priority_levels": batching.priority_levels,
        "default_priority_level": batching.default_priority_level,
        "priority_queue_policy": policies.collect::<Map<_, _>>(),
    });
    if let Some(policy) = &batching.default_queue_policy {
        answer["default_queue_policy"] = queue_policy(policy);
    }
    answer
}

fn queue_policy(policy: &QueuePolicy) -> Value {
    json!({
        "timeout_action": match policy.timeout_action {
            TimeoutAction::Reject => "REJECT",
            TimeoutAction::Delay => "DELAY",
        },
        "default_timeout_microseconds": policy.default_timeout_us,
        "allow_timeout_override": policy.allow_timeout_override,
        "max_queue_size": policy.max_queue_size,
    })
}

fn warmup(warmup: &Warmup) -> Value {
    let input = |input: &super::WarmupInput| {
        let mut value = json!({ "data_type": input.triton_type(), "dims": input.dims });
        match &input.data {
            WarmupData::Zero => value["zero_data"] = true.into(),
            WarmupData::Random => value["random_data"] = true.into(),
            WarmupData::File(file) => value["input_data_file"] = file.as_str().into(),
        }
        (input.name.clone(), value)
    };
    json!({
        "name": warmup.name,
        "batch_size": warmup.batch_size,
        "count": warmup.count,
        "inputs": warmup.inputs.iter().map(input).collect::<Map<_, _>>(),
    })
}
