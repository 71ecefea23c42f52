//! Models' settings in the words of the engine. What a repository is, `reef-repository` knows; what the
//! server itself has to say in its `reef.toml`, module `config`.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use reef_base::Nanos;
use reef_engine::{Batching, InputValues, ModelSettings, Number, Placement, Shape};
use reef_plan::Precision;
use reef_repository::config::{self, TimeoutAction};
use reef_repository::{Element, Found, ScanError, Settings, Snapshot, Value};

/// The models of a directory, with the settings of a file or, without one, of the directory's.
pub fn scan(dir: &Path, file: Option<&Path>) -> Result<Snapshot, ScanError> {
    match file {
        Some(file) => reef_repository::scan_with(dir, file),
        None => reef_repository::scan(dir),
    }
}

/// The engine's settings for a model that was found.
pub fn settings(found: &Found) -> Result<ModelSettings> {
    let mut settings = model_settings(&found.settings).with_context(|| found.settings_named())?;
    if let Some(config) = found.config.as_ref().filter(|config| config.max_batch_size > 0) {
        let rows_max = *settings.batch_rows_max.get_or_insert(config.max_batch_size as usize);
        let said = config.batching.as_ref().filter(|_| settings.batching.is_none());
        settings.batching = settings.batching.or(said.map(|said| batching_of(said, rows_max)));
    }
    let policy = found.config.as_ref().and_then(|config| config.batching.as_ref()?.default_queue_policy);
    if let Some(policy) = policy {
        if policy.default_timeout_us > 0 && policy.timeout_action == TimeoutAction::Reject {
            settings.timeout = Some(Nanos::from_micros(policy.default_timeout_us));
        }
        if policy.max_queue_size > 0 && found.settings.queue_len.is_none() {
            settings.queue_len = (policy.max_queue_size as usize).min(reef_base::limits::QUEUE_LEN_MAX);
        }
    }
    Ok(settings)
}

/// What a configuration says and this server does not do, besides what is a notice in any case.
pub fn notices(found: &Found) -> Vec<String> {
    let Some(config) = &found.config else { return Vec::new() };
    let mut notices = Vec::new();
    if let Some(batching) = &config.batching {
        notices.extend(waiting(batching));
        if config.max_batch_size == 0 {
            notices.push("dynamic_batching: without max_batch_size no requests are joined".to_string());
        }
        if batching.priority_levels > 0 {
            notices.push("priority_levels: a request's priority 1 is level 0, the most urgent".to_string());
        }
        if !batching.priority_queue_policy.is_empty() {
            notices.push("priority_queue_policy: ignored, all requests wait alike".to_string());
        }
    }
    let unknown = config.parameters.keys().filter(|key| !Settings::is_setting(key));
    notices.extend(unknown.map(|key| format!("parameter {key}: ignored, it is none of reef's")));
    notices
}

/// What of a queue's policy is not done.
fn waiting(batching: &config::Batching) -> Option<String> {
    let policy = batching.default_queue_policy?;
    let what = match policy.timeout_action {
        TimeoutAction::Delay => "timeout_action DELAY: ignored, such requests wait as others do",
        TimeoutAction::Reject if policy.default_timeout_us > 0 && !policy.allow_timeout_override => {
            "allow_timeout_override: ignored, the timeout of a request counts"
        }
        TimeoutAction::Reject => return None,
    };
    Some(what.into())
}

/// How requests are joined by a configuration; they run alone where they cannot be.
fn batching_of(said: &config::Batching, rows_max: usize) -> Batching {
    let sizes = said.preferred_batch_sizes.iter().map(|&size| size as usize);
    Batching {
        delay: Nanos::from_micros(said.max_queue_delay_us),
        preferred: sizes.filter(|&size| size <= rows_max).collect(),
        optional: true,
    }
}

fn model_settings(own: &Settings) -> Result<ModelSettings> {
    let defaults = ModelSettings::default();
    let shapes =
        own.shapes.iter().flatten().map(|set| {
            set.iter().map(|(name, extents)| (name.clone(), Shape::from(extents.clone()))).collect()
        });
    Ok(ModelSettings {
        class: own.class().map_err(|why| anyhow!(why))?,
        weight: own.weight.unwrap_or(defaults.weight),
        deadline: own.deadline().map_err(|why| anyhow!(why))?,
        queue_len: own.queue_len.unwrap_or(defaults.queue_len),
        in_flight_max: own.max_in_flight,
        batch_rows_max: own.max_batch_size,
        batching: batching(own),
        shapes: shapes.collect(),
        values: values(own),
        devices: own.devices.clone().unwrap_or_default(),
        placement: placement(own)?,
        precision: precision(own)?,
        ..defaults
    })
}

/// How requests are joined, if they are.
fn batching(own: &Settings) -> Option<Batching> {
    let said = own.max_queue_delay_us.is_some() || own.preferred_batch_sizes.is_some();
    said.then(|| Batching {
        delay: Nanos::from_micros(own.max_queue_delay_us.unwrap_or(0)),
        preferred: own.preferred_batch_sizes.clone().unwrap_or_default(),
        optional: false,
    })
}

/// The sets of values to compile ahead.
fn values(own: &Settings) -> Vec<InputValues> {
    let number = |element: &Element| match *element {
        Element::Bool(value) => Number::Bool(value),
        Element::Int(value) => Number::Int(value),
        Element::Float(value) => Number::Float(value),
    };
    let elements = |value: &Value| match value {
        Value::One(element) => vec![number(element)],
        Value::List(list) => list.iter().map(number).collect(),
    };
    let sets = own.values.iter().flatten();
    sets.map(|set| set.iter().map(|(name, value)| (name.clone(), elements(value))).collect()).collect()
}

fn placement(own: &Settings) -> Result<Placement> {
    let Some(name) = own.placement.as_deref() else { return Ok(Placement::default()) };
    let known = Placement::ALL.into_iter().find(|placement| placement.name() == name);
    known.with_context(|| {
        let names = Placement::ALL.map(|placement| format!("\"{}\"", placement.name()));
        format!("placement = \"{name}\": there are {}", names.join(", "))
    })
}

fn precision(own: &Settings) -> Result<Option<Precision>> {
    let parsed = own.precision.as_deref().map(str::parse).transpose();
    parsed.map_err(|why: String| anyhow!("precision: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_engine_are_checked() {
        let refused = |settings: Settings| {
            let found = Found { name: "m".into(), settings, ..Found::default() };
            format!("{:#}", super::settings(&found).unwrap_err())
        };
        let placement = refused(Settings { placement: Some("all".into()), ..Settings::default() });
        assert!(placement.contains("there are \"one\", \"replicate\", \"split\""), "{placement}");
        let precision = refused(Settings { precision: Some("f64".into()), ..Settings::default() });
        assert!(
            precision.contains("there is no precision \"f64\"; there are \"f32\", \"tf32\""),
            "{precision}"
        );
    }
}
