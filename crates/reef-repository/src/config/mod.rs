//! `config.pbtxt` and its JSON: what of Triton's model configuration is read, and into what.
//!
//! What has a meaning here is typed; what has none is a [`Notice`]; what would make the model answer
//! something else than its configuration says is a [`Fault`]. `docs/REPOSITORY.md` has the table.

mod answer;
mod batching;
mod check;
#[cfg(test)]
mod documented;
mod read;
mod tensor;
mod warmup;

use std::collections::BTreeMap;
use std::fmt;

use reef_base::limits::MODEL_TENSORS_MAX;

pub use answer::Extra;
pub use batching::{Batching, QueuePolicy, TimeoutAction};
pub use check::Declared;
use read::{once, room};
pub use tensor::TensorConfig;
pub use warmup::{Warmup, WarmupData, WarmupInput};

use crate::text::{At, Fault, Field, Message};
use crate::{json, names, text};

/// Versions that a policy may name or count.
const VERSIONS_MAX: u32 = 1 << 16;

/// Warm-ups of a model.
const WARMUPS_MAX: usize = 256;

/// Notices that are kept of a configuration.
const NOTICES_MAX: usize = 64;

/// Something that is said and has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Where it stands; unknown of JSON.
    pub at: Option<At>,
    /// What is not honoured.
    pub what: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(at) => write!(f, "line {}: {}", at.line, self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Which of the versions that are there are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionPolicy {
    /// So many of the newest.
    Latest(u32),
    /// All.
    All,
    /// These.
    Specific(Vec<u32>),
}

impl Default for VersionPolicy {
    /// Triton's: the newest one.
    fn default() -> Self {
        VersionPolicy::Latest(1)
    }
}

impl VersionPolicy {
    /// Of these versions those that are served, newest first.
    pub fn chosen(&self, versions: &[u32]) -> Vec<u32> {
        let mut chosen = versions.to_vec();
        chosen.sort_unstable_by(|a, b| b.cmp(a));
        match self {
            VersionPolicy::Latest(count) => chosen.truncate(*count as usize),
            VersionPolicy::All => {}
            VersionPolicy::Specific(named) => chosen.retain(|version| named.contains(version)),
        }
        chosen
    }
}

/// A model's configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelConfig {
    /// The model's name, which is that of its directory.
    pub name: Option<String>,
    /// What it is made for, in Triton's words.
    pub platform: Option<String>,
    /// What runs it, in Triton's words.
    pub backend: Option<String>,
    /// Rows of one request at most, of an axis that `dims` do not have; 0 if there is no such axis.
    pub max_batch_size: u32,
    /// Inputs, as far as they are described.
    pub inputs: Vec<TensorConfig>,
    /// Outputs, as far as they are described.
    pub outputs: Vec<TensorConfig>,
    /// Which versions are served; `None` if that is not said.
    pub versions: Option<VersionPolicy>,
    /// How requests are put together.
    pub batching: Option<Batching>,
    /// What is run once after loading.
    pub warmups: Vec<Warmup>,
    /// Free parameters.
    pub parameters: BTreeMap<String, String>,
    /// The file in a version's directory.
    pub file_name: Option<String>,
    /// What is said without effect.
    pub notices: Vec<Notice>,
}

impl ModelConfig {
    /// Reads `config.pbtxt`.
    pub fn of_text(text: &str) -> Result<ModelConfig, Fault> {
        ModelConfig::of_message(&text::parse(text)?)
    }

    /// Reads the same in JSON.
    pub fn of_json(text: &str) -> Result<ModelConfig, Fault> {
        ModelConfig::of_message(&json::parse(text)?)
    }

    /// As another text would have said it: equal for equal meaning.
    pub fn without_places(&self) -> ModelConfig {
        let mut config = self.clone();
        config.notices.iter_mut().for_each(|notice| notice.at = None);
        config.notices.sort_by(|a, b| a.what.cmp(&b.what));
        config.inputs.iter_mut().chain(&mut config.outputs).for_each(|tensor| tensor.at = None);
        config
    }

    /// The file that a version's directory has.
    pub fn file_name(&self) -> &str {
        self.file_name.as_deref().unwrap_or(DEFAULT_FILE)
    }

    fn of_message(message: &Message) -> Result<ModelConfig, Fault> {
        let mut config = ModelConfig::default();
        let mut max_batch_size = None;
        for field in &message.fields {
            match &*field.name {
                "name" => once(&mut config.name, field, field.text()?.to_string())?,
                "platform" => once(&mut config.platform, field, platform(field)?)?,
                "backend" => once(&mut config.backend, field, backend(field)?)?,
                "max_batch_size" => once(&mut max_batch_size, field, field.whole(0, i32::MAX)? as u32)?,
                "input" => {
                    room(&config.inputs, MODEL_TENSORS_MAX, field)?;
                    config.inputs.push(TensorConfig::read(field, true, &mut config.notices)?);
                }
                "output" => {
                    room(&config.outputs, MODEL_TENSORS_MAX, field)?;
                    config.outputs.push(TensorConfig::read(field, false, &mut config.notices)?);
                }
                "version_policy" => once(&mut config.versions, field, versions(field)?)?,
                "dynamic_batching" => {
                    once(&mut config.batching, field, Batching::read(field, &mut config.notices)?)?;
                }
                "model_warmup" => {
                    room(&config.warmups, WARMUPS_MAX, field)?;
                    config.warmups.push(Warmup::read(field, &mut config.notices)?);
                }
                "parameters" => parameter(field, &mut config.parameters)?,
                "default_model_filename" => once(&mut config.file_name, field, file_name(field)?)?,
                _ => config.other(field)?,
            }
        }
        config.max_batch_size = max_batch_size.unwrap_or(0);
        config.check_alone()?;
        config.keep_few_notices();
        Ok(config)
    }

    /// Of many the first, and how many there were: each becomes a line of the log.
    fn keep_few_notices(&mut self) {
        let more = self.notices.len().saturating_sub(NOTICES_MAX);
        self.notices.truncate(NOTICES_MAX);
        if more > 0 {
            self.notices.push(Notice { at: None, what: format!("{more} more fields are ignored") });
        }
    }

    /// Fields that are not served by more than a word.
    fn other(&mut self, field: &Field) -> Result<(), Fault> {
        let ignored = match &*field.name {
            "instance_group" => "ignored: a model has one instance, whose requests share the compute units",
            "optimization" => "ignored: reef has its own compiler",
            "response_cache" => "ignored: answers are not cached",
            "runtime"
            | "metric_tags"
            | "cc_model_filenames"
            | "model_metrics"
            | "model_repository_agents" => "ignored",
            "model_operations" => return Err(field.fault("custom operators cannot be loaded")),
            "sequence_batching" => return Err(field.fault("sequences of requests are not served")),
            "ensemble_scheduling" => return Err(field.fault("ensembles are not served")),
            "batch_input" | "batch_output" => return Err(field.fault("ragged batches are not served")),
            "model_transaction_policy" => return decoupled(field),
            _ => "there is no such field; ignored",
        };
        let what = format!("{}: {ignored}", field.name);
        // Each of a list is a field of its own.
        if self.notices.iter().all(|notice| notice.what != what) {
            self.notices.push(Notice { at: field.at, what });
        }
        Ok(())
    }

    /// What can be wrong whatever the model is.
    fn check_alone(&self) -> Result<(), Fault> {
        for tensors in [&self.inputs, &self.outputs] {
            for (index, tensor) in tensors.iter().enumerate() {
                if tensors[..index].iter().any(|other| other.name == tensor.name) {
                    return Err(Fault::new(tensor.at, format!("'{}' is described twice", tensor.name)));
                }
            }
        }
        match &self.batching {
            Some(batching) => batching.check(self.max_batch_size),
            None => Ok(()),
        }
    }
}

/// The file of a version, unless another one is named.
pub(crate) const DEFAULT_FILE: &str = "model.onnx";

fn platform(field: &Field) -> Result<String, Fault> {
    match field.text()? {
        known @ ("" | "onnxruntime_onnx" | "onnx" | "reef_onnx") => Ok(known.into()),
        other => Err(field.fault(format!("'{other}' is not served, only ONNX models are"))),
    }
}

fn backend(field: &Field) -> Result<String, Fault> {
    match field.text()? {
        known @ ("" | "onnxruntime" | "reef") => Ok(known.into()),
        other => Err(field.fault(format!("'{other}' is not served, only ONNX models are"))),
    }
}

fn file_name(field: &Field) -> Result<String, Fault> {
    let name = field.text()?;
    match names::is_file_name(name) {
        true => Ok(name.into()),
        false => Err(field.fault(format!("'{}' is not the name of a file", name.escape_debug()))),
    }
}

fn versions(field: &Field) -> Result<VersionPolicy, Fault> {
    let mut policy = None;
    for choice in &field.message()?.fields {
        let fields = &choice.message()?.fields;
        let unknown = |field: &Field| Err(field.fault(format!("{} has no such field", choice.name)));
        let chosen = match &*choice.name {
            "all" => match fields.first() {
                Some(field) => return unknown(field),
                None => VersionPolicy::All,
            },
            "latest" => {
                let mut count = None;
                for field in fields {
                    match &*field.name {
                        "num_versions" => once(&mut count, field, field.whole(1, VERSIONS_MAX)?)?,
                        _ => return unknown(field),
                    }
                }
                VersionPolicy::Latest(count.unwrap_or(1))
            }
            "specific" => {
                let mut named = Vec::new();
                for field in fields {
                    match &*field.name {
                        "versions" => named.push(field.whole(1, u32::MAX)?),
                        _ => return unknown(field),
                    }
                }
                if named.is_empty() {
                    return Err(choice.fault("it names no version"));
                }
                VersionPolicy::Specific(named)
            }
            _ => return Err(choice.fault("there are latest, all and specific")),
        };
        once(&mut policy, choice, chosen)?;
    }
    Ok(policy.unwrap_or_default())
}

fn parameter(field: &Field, parameters: &mut BTreeMap<String, String>) -> Result<(), Fault> {
    let (mut key, mut value) = (None, None);
    for part in &field.message()?.fields {
        match &*part.name {
            "key" => once(&mut key, part, part.text()?.to_string())?,
            "value" => {
                for part in &part.message()?.fields {
                    match &*part.name {
                        "string_value" => once(&mut value, part, part.text()?.to_string())?,
                        _ => return Err(part.fault("a parameter has a string_value")),
                    }
                }
            }
            _ => return Err(part.fault("a parameter has a key and a value")),
        }
    }
    let Some(key) = key else { return Err(field.fault("one has no key")) };
    match parameters.insert(key.clone(), value.unwrap_or_default()) {
        None => Ok(()),
        Some(_) => Err(field.fault(format!("'{key}' is there twice"))),
    }
}

/// One answer per request is what there is.
fn decoupled(field: &Field) -> Result<(), Fault> {
    for part in &field.message()?.fields {
        match &*part.name {
            "decoupled" if part.boolean()? => {
                return Err(part.fault("models with other than one answer per request are not served"));
            }
            "decoupled" => {}
            _ => return Err(part.fault("there is decoupled")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_text_are_the_same_configuration() {
        let text = r#"
            name: "m" max_batch_size: 8
            input [ { name: "x", data_type: TYPE_FP32, dims: [3, -1] } ]
            dynamic_batching { preferred_batch_size: [4, 8] max_queue_delay_microseconds: 100
              priority_levels: 2 default_priority_level: 1
              priority_queue_policy { key: 2 value { max_queue_size: 5 } } }
            parameters { key: "class" value { string_value: "real-time" } }
        "#;
        let json = r#"{
            "name": "m", "maxBatchSize": 8,
            "input": [{ "name": "x", "data_type": "TYPE_FP32", "dims": ["3", -1], "reshape": null }],
            "dynamicBatching": { "preferredBatchSize": [4, 8], "maxQueueDelayMicroseconds": "100",
              "priorityLevels": "2", "defaultPriorityLevel": 1,
              "priority_queue_policy": { "2": { "max_queue_size": 5 } } },
            "parameters": { "class": { "string_value": "real-time" } }
        }"#;
        let of_text = ModelConfig::of_text(text).unwrap();
        let of_json = ModelConfig::of_json(json).unwrap();
        assert_eq!(of_text.without_places(), of_json.without_places());
    }

    #[test]
    fn what_no_model_has_as_many_of_is_refused_and_notices_are_few() {
        let many = |count: usize, one: &dyn Fn(usize) -> String| (0..count).map(one).collect::<String>();
        let what = |text: String| ModelConfig::of_text(&text).unwrap_err().what;
        let input = |index: usize| format!("input {{ name: 'x{index}' }} ");
        assert_eq!(ModelConfig::of_text(&many(1024, &input)).unwrap().inputs.len(), 1024);
        assert_eq!(what(many(1025, &input)), "input: more than 1024");
        assert_eq!(what(many(1025, &|n| format!("output {{ name: '{n}' }} "))), "output: more than 1024");
        assert_eq!(what(many(257, &|_| "model_warmup {} ".into())), "model_warmup: more than 256");
        let value = "value { data_type: TYPE_BOOL zero_data: true }";
        let inputs = many(1025, &|n| format!("inputs {{ key: '{n}' {value} }}"));
        assert_eq!(what(format!("model_warmup {{ {inputs} }}")), "inputs: more than 1024");
        let notices = ModelConfig::of_text(&many(100, &|n| format!("a{n}: 1 "))).unwrap().notices;
        assert_eq!(notices.len(), 65);
        assert_eq!(notices[64].to_string(), "36 more fields are ignored");
    }

    /// A client may load again what it was told.
    #[test]
    fn an_answer_is_the_same_configuration() {
        let text = r#"
            max_batch_size: 8 platform: "onnxruntime_onnx" default_model_filename: "net.onnx"
            input { name: "x" data_type: TYPE_FP32 dims: [3, -1] format: FORMAT_NONE }
            output { name: "y" data_type: TYPE_STRING dims: 8 label_filename: "l.txt" }
            version_policy { specific { versions: [1, 3] } }
            dynamic_batching { preferred_batch_size: 4 priority_levels: 2 default_priority_level: 1
              default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 7 }
              priority_queue_policy { key: 2 value { max_queue_size: 5 allow_timeout_override: true } } }
            model_warmup { name: "w" batch_size: 2 count: 3
              inputs { key: "x" value { data_type: TYPE_FP32 dims: 3 dims: 4 input_data_file: "x.bin" } } }
            parameters { key: "class" value { string_value: "real-time" } }
        "#;
        let config = ModelConfig::of_text(text).unwrap();
        let declared = |name: &str, datatype: &str, dims: &[i64]| Declared {
            name: name.into(),
            datatype: datatype.into(),
            dims: dims.into(),
        };
        let extra = Extra {
            name: "m".into(),
            inputs: vec![declared("x", "FP32", &[-1, 3, -1])],
            outputs: vec![declared("y", "BYTES", &[-1, 8])],
            parameters: vec![],
            joins: true,
        };
        let mut again = ModelConfig::of_json(&config.answer(&extra).to_string()).unwrap().without_places();
        assert_eq!(
            (again.name.take().as_deref(), again.backend.take().as_deref()),
            (Some("m"), Some("reef"))
        );
        let mut expected = config.without_places();
        expected.inputs[0].format = Some("FORMAT_NONE".into());
        assert_eq!(again, expected);
    }

    #[test]
    fn nothing_in_json_panics() {
        let good =
            r#"{"name":"m","input":[{"name":"x","dims":["3",-1]}],"parameters":{"a":{"string_value":"b"}}}"#;
        ModelConfig::of_json(good).unwrap();
        for at in 0..good.len() {
            for byte in ["", "9", "\"", "[", "{", "null"] {
                let _ = ModelConfig::of_json(&format!("{}{byte}{}", &good[..at], &good[at + 1..]));
            }
        }
    }
}
