//! Trace and log settings as messages.

use std::collections::HashMap;
use std::sync::Arc;

use crate::core::access::{Client, Need};
use crate::core::parameter::Value;
use crate::core::problem::Problem;
use crate::core::settings;
use crate::core::state::State;
use crate::core::timeline::Change;
use crate::grpc::answers::given;
use crate::grpc::pb::log_settings_request::setting_value::ParameterChoice as Asked;
use crate::grpc::pb::log_settings_response::SettingValue as LogValue;
use crate::grpc::pb::log_settings_response::setting_value::ParameterChoice as Told;
use crate::grpc::pb::trace_setting_response::SettingValue as TraceValue;
use crate::grpc::pb::{LogSettingsRequest, LogSettingsResponse, TraceSettingRequest, TraceSettingResponse};

/// Reads the trace settings, and changes those that are given; may take its time.
pub(crate) fn trace(
    state: &Arc<State>,
    client: &Client,
    request: TraceSettingRequest,
) -> Result<TraceSettingResponse, Problem> {
    let model = given(&request.model_name);
    model.map_or(Ok(()), |model| client.check_model(model))?;
    if !request.settings.is_empty() {
        client.check(Need::Admin)?;
    }
    let changes: Vec<Change> =
        request.settings.into_iter().map(|(name, setting)| (name, setting.value)).collect();
    let settings = settings::trace(state, model, &changes)?.into_iter();
    let told: HashMap<String, TraceValue> =
        settings.map(|(name, value)| (name.to_string(), TraceValue { value })).collect();
    Ok(TraceSettingResponse { settings: told })
}

/// Reads the log settings, and changes those that are given.
pub(crate) fn log(
    state: &State,
    client: &Client,
    request: LogSettingsRequest,
) -> Result<LogSettingsResponse, Problem> {
    if !request.settings.is_empty() {
        client.check(Need::Admin)?;
    }
    let asked = |choice: Option<Asked>| match choice {
        None => Value::Other("null".into()),
        Some(Asked::BoolParam(flag)) => Value::Flag(flag),
        Some(Asked::Uint32Param(number)) => Value::Whole(number.into()),
        Some(Asked::StringParam(text)) => Value::Text(text),
    };
    let changes: Vec<(String, Value)> =
        request.settings.into_iter().map(|(name, setting)| (name, asked(setting.parameter_choice))).collect();
    let told = |value: Value| match value {
        Value::Flag(flag) => Told::BoolParam(flag),
        Value::Whole(number) => Told::Uint32Param(u32::try_from(number).unwrap_or(u32::MAX)),
        other => Told::StringParam(match other {
            Value::Text(text) => text,
            other => other.to_string(),
        }),
    };
    let settings = settings::log(state, &changes)?.into_iter();
    let settings: HashMap<String, LogValue> = settings
        .map(|(name, value)| (name.to_string(), LogValue { parameter_choice: Some(told(value)) }))
        .collect();
    Ok(LogSettingsResponse { settings })
}
