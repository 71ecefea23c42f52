//! Requests to load and unload models: the bodies that tritonclient sends.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::Incoming;
use reef_engine::Class;
use serde::Deserialize;
use serde_json::json;

use crate::core::control::LoadRequest;
use crate::core::loading;
use crate::core::parameter::quoted;
use crate::core::problem::Problem;
use crate::core::state::State;
use crate::http::error::ApiError;
use crate::http::protocol::json::{object_or_nothing, text, wrong};
use crate::http::protocol::list::Members;
use crate::http::receive::{Allowance, receive};
use crate::http::reply::{Reply, json};
use crate::net::connection::Busy;

/// Files of one request at most.
const FILES_MAX: usize = 1024;

/// Parameters of one request: every file, and what else there may be.
const MEMBERS_MAX: usize = FILES_MAX + 16;

/// How a body comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sending<'a> {
    /// The client waits for our word to send it.
    pub(crate) expects_continue: bool,
    pub(crate) busy: &'a Busy,
}

/// The body of either request.
#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "an object")]
struct ControlJson<'a> {
    #[serde(borrow, default)]
    parameters: Members<'a, MEMBERS_MAX>,
}

/// Loads a model, and answers when it is served.
pub(crate) async fn load(
    state: &Arc<State>,
    name: String,
    body: Incoming,
    sending: Sending<'_>,
) -> Result<Reply, ApiError> {
    let (body, share) = whole(state, body, sending).await?;
    loading::load(state, name, move || {
        let request = load_request(&body);
        drop((body, share));
        request
    })
    .await?;
    Ok(json(StatusCode::OK, &json!({})))
}

/// Unloads a model, and answers when its last request has ended.
pub(crate) async fn unload(
    state: &Arc<State>,
    name: String,
    body: Incoming,
    sending: Sending<'_>,
) -> Result<Reply, ApiError> {
    let (body, _share) = whole(state, body, sending).await?;
    let dependents = match object_or_nothing::<ControlJson<'_>>(&body)?.parameters.get("unload_dependents") {
        None => false,
        Some(value) => match value.get() {
            "null" | "false" => false,
            "true" => true,
            other => return Err(wrong(&format!("unload_dependents is {}", quoted(other))).into()),
        },
    };
    loading::unload(state, name, dependents).await?;
    Ok(json(StatusCode::OK, &json!({})))
}

async fn whole(
    state: &Arc<State>,
    body: Incoming,
    sending: Sending<'_>,
) -> Result<(Bytes, crate::core::budget::Share), ApiError> {
    let mut share = state.bodies.share(Class::BestEffort);
    let Sending { expects_continue, busy } = sending;
    let bytes_max = state.body_bytes_max;
    let allowance = Allowance { bytes_max, share: Some(&mut share), expects_continue, busy };
    let mut body = receive(body, allowance).await?;
    Ok((body.take(body.len()), share))
}

/// What a body asks for: `parameters` with `config` and `file:PATH`.
fn load_request(body: &[u8]) -> Result<LoadRequest, Problem> {
    let mut request = LoadRequest::default();
    for (name, value) in object_or_nothing::<ControlJson<'_>>(body)?.parameters.iter() {
        let text =
            text(value.get()).ok_or_else(|| wrong(&format!("parameter {} is not a string", quoted(name))))?;
        if name == "config" {
            request.config = Some(text);
        } else if let Some(path) = name.strip_prefix("file:") {
            if request.files.len() >= FILES_MAX {
                return Err(wrong(&format!("more than {FILES_MAX} files")));
            }
            let bytes = STANDARD
                .decode(&text)
                .map_err(|error| wrong(&format!("{} is not base64: {error}", quoted(name))))?;
            request.files.push((path.to_string(), bytes.into()));
        } else {
            let name = quoted(name);
            return Err(wrong(&format!("there is no parameter '{name}', there are config and file:PATH")));
        }
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tritonclient_sends_is_read() {
        assert!(load_request(b" ").unwrap().files.is_empty());
        let body = br#"{"parameters": {"config": "{}", "file:1/model.onnx": "AAEC"}}"#;
        let request = load_request(body).unwrap();
        assert_eq!(request.config.as_deref(), Some("{}"));
        assert_eq!(request.files, [("1/model.onnx".to_string(), Bytes::from_static(&[0, 1, 2]))]);
    }

    #[test]
    fn many_parameters_are_refused_and_the_last_of_a_name_counts() {
        let members = |count: usize, value: &str| {
            let members: Vec<String> = (0..count).map(|index| format!(r#""file:{index}":{value}"#)).collect();
            format!(r#"{{"parameters":{{{}}}}}"#, members.join(","))
        };
        assert_eq!(load_request(members(FILES_MAX, r#""AA==""#).as_bytes()).unwrap().files.len(), FILES_MAX);
        let error = |json: String| load_request(json.as_bytes()).unwrap_err().message;
        assert!(error(members(FILES_MAX + 1, r#""AA==""#)).contains("more than 1024 files"));
        assert!(error(members(MEMBERS_MAX + 1, "[[]]")).contains("more than 1040 members"));
        let twice = r#"{"parameters":{"config":7,"config":"{}"}}"#;
        assert_eq!(load_request(twice.as_bytes()).unwrap().config.as_deref(), Some("{}"));
        // A long name is not sent back whole.
        let long = format!(r#"{{"parameters":{{"{}":""}}}}"#, "x".repeat(1 << 20));
        assert!(error(long).len() < 1 << 10);
    }

    #[test]
    fn anything_else_is_refused() {
        let cases = [
            ("{", "EOF"),
            ("[]", "expected an object"),
            (r#"[{"config":"{}"}]"#, "expected an object"),
            (r#"{"parameters": [["config", "{}"]]}"#, "expected a map"),
            (r#"{"parameters": {"config": {}}}"#, "config is not a string"),
            (r#"{"parameters": {"file:a": "*"}}"#, "file:a is not base64"),
            (r#"{"parameters": {"colour": "red"}}"#, "no parameter 'colour'"),
        ];
        for (body, expected) in cases {
            let problem = load_request(body.as_bytes()).unwrap_err();
            assert!(problem.message.contains(expected), "{body}: {}", problem.message);
        }
    }
}
