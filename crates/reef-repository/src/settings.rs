//! What a model's owner says about how it is served: in `reef.toml`, or as parameters of `config.pbtxt`.
//!
//! Names of placements and precisions are not known here: whoever serves the model checks them.

use std::collections::BTreeMap;

use reef_base::{Class, Level, Nanos, limits};
use serde::Deserialize;

/// Settings of one model as written by its owner.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `real-time` or `best-effort`.
    pub class: Option<String>,
    /// Real-time level, 0 the most urgent.
    pub level: Option<u8>,
    /// Share among best-effort models.
    pub weight: Option<u32>,
    /// Deadline of a request from its arrival, milliseconds.
    pub deadline_ms: Option<f64>,
    /// Requests that may wait.
    pub queue_len: Option<usize>,
    /// Tasks on the device at once.
    pub max_in_flight: Option<usize>,
    /// Rows that a request has at most, and a batch.
    pub max_batch_size: Option<usize>,
    /// How long a request waits for others to join it, microseconds; requests are joined where this or the
    /// next is there.
    pub max_queue_delay_us: Option<u64>,
    /// Rows at which a batch starts at once.
    pub preferred_batch_sizes: Option<Vec<usize>>,
    /// Input shapes to compile ahead, for models with symbolic dimensions.
    pub shapes: Option<Vec<BTreeMap<String, Vec<usize>>>>,
    /// Values of shape inputs to compile ahead; the first set with the first of `shapes`, and so on.
    pub values: Option<Vec<BTreeMap<String, Value>>>,
    /// Names of the devices that it may be on: `cpu:0`, `cpu:1` in the server's order. All, unless said.
    pub devices: Option<Vec<String>>,
    /// `one` of them, or `replicate` for each.
    pub placement: Option<String>,
    /// What convolutions and matrix products multiply: `f32`, `tf32`, `f16`, `bf16`. The device's default,
    /// unless said.
    pub precision: Option<String>,
}

/// The value of an input: a number or boolean, or a list of them, row-major.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "a value is a number, a boolean, or a list of them")]
pub enum Value {
    /// The only element.
    One(Element),
    /// All elements.
    List(Vec<Element>),
}

/// An element of a value.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Element {
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any number.
    Float(f64),
}

impl Settings {
    /// The class that these settings give the model.
    pub fn class(&self) -> Result<Class, String> {
        let level = self.level.unwrap_or(0);
        match self.class.as_deref() {
            Some("real-time") => Level::new(level)
                .map(Class::RealTime)
                .ok_or_else(|| format!("level = {level}: levels are 0 to {}", limits::REAL_TIME_LEVELS - 1)),
            Some("best-effort") | None if self.level.is_some() => {
                Err(format!("level = {level} needs class = \"real-time\""))
            }
            Some("best-effort") | None => Ok(Class::BestEffort),
            Some(other) => Err(format!("class = \"{other}\": there are \"real-time\" and \"best-effort\"")),
        }
    }

    /// The deadline of a request, from its arrival.
    pub fn deadline(&self) -> Result<Option<Nanos>, String> {
        match self.deadline_ms {
            Some(ms) if ms.is_finite() && ms > 0.0 => Ok(Some(Nanos((ms * 1e6) as u64))),
            Some(ms) => Err(format!("deadline_ms = {ms}: a positive number of milliseconds")),
            None => Ok(None),
        }
    }

    /// Settings as parameters of `config.pbtxt` say them; other parameters are not looked at.
    pub fn of_parameters(parameters: &BTreeMap<String, String>) -> Result<Settings, String> {
        fn number<T: std::str::FromStr>(key: &str, text: &str) -> Result<T, String> {
            text.trim()
                .parse()
                .map_err(|_| format!("parameter {key}: '{}' is not such a number", text.escape_debug()))
        }
        let mut settings = Settings::default();
        for (key, text) in parameters {
            match &**key {
                "class" => settings.class = Some(text.clone()),
                "level" => settings.level = Some(number(key, text)?),
                "weight" => settings.weight = Some(number(key, text)?),
                "deadline_ms" => settings.deadline_ms = Some(number(key, text)?),
                "queue_len" => settings.queue_len = Some(number(key, text)?),
                "max_in_flight" => settings.max_in_flight = Some(number(key, text)?),
                "devices" => {
                    settings.devices = Some(text.split(',').map(|name| name.trim().to_string()).collect());
                }
                "placement" => settings.placement = Some(text.clone()),
                "precision" => settings.precision = Some(text.clone()),
                _ => {}
            }
        }
        Ok(settings)
    }

    /// Whether a parameter of `config.pbtxt` is one of these settings.
    pub fn is_setting(key: &str) -> bool {
        const KEYS: [&str; 9] = [
            "class",
            "level",
            "weight",
            "deadline_ms",
            "queue_len",
            "max_in_flight",
            "devices",
            "placement",
            "precision",
        ];
        KEYS.contains(&key)
    }

    /// What is wrong with them whatever the model and the devices are.
    pub fn check(&self) -> Result<(), String> {
        self.class()?;
        if self.devices.as_ref().is_some_and(Vec::is_empty) {
            return Err("devices = []: name one at least, or leave it out for all".into());
        }
        self.deadline()?;
        if self.weight == Some(0) {
            return Err("weight = 0: at least 1".into());
        }
        match self.queue_len {
            Some(len) if !(1..=limits::QUEUE_LEN_MAX).contains(&len) => {
                Err(format!("queue_len = {len}: 1 to {}", limits::QUEUE_LEN_MAX))
            }
            _ => Ok(()),
        }
    }

    /// These, and where they say nothing, the others.
    pub fn or(self, fallback: Settings) -> Settings {
        // A class beside the model does not take over a level that was meant for another class.
        let level = if self.class.is_some() { self.level } else { self.level.or(fallback.level) };
        Settings {
            class: self.class.or(fallback.class),
            level,
            weight: self.weight.or(fallback.weight),
            deadline_ms: self.deadline_ms.or(fallback.deadline_ms),
            queue_len: self.queue_len.or(fallback.queue_len),
            max_in_flight: self.max_in_flight.or(fallback.max_in_flight),
            max_batch_size: self.max_batch_size.or(fallback.max_batch_size),
            max_queue_delay_us: self.max_queue_delay_us.or(fallback.max_queue_delay_us),
            preferred_batch_sizes: self.preferred_batch_sizes.or(fallback.preferred_batch_sizes),
            shapes: self.shapes.or(fallback.shapes),
            values: self.values.or(fallback.values),
            devices: self.devices.or(fallback.devices),
            placement: self.placement.or(fallback.placement),
            precision: self.precision.or(fallback.precision),
        }
    }
}
