//! What is noted of a request over HTTP when it has been answered, and its id for the client.

use std::time::Instant;

use hyper::header::{HeaderName, HeaderValue};
use hyper::http::request;
use serde_json::json;

use crate::core::note::{self, Known, Note, Span, wanted};
use crate::core::requests::shown;
use crate::core::state::State;
use crate::http::error::outcome;
use crate::http::reply::Reply;
use crate::http::route::route;
use crate::net::connection::Connection;
use crate::telemetry::Parent;

/// The header with a request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Notes what became of a request, and tells its id.
pub(crate) fn note(
    state: &State,
    connection: &Connection,
    head: &request::Parts,
    known: &Known,
    start: Instant,
    reply: &mut Reply,
) {
    let status = reply.status();
    if known.inference {
        state.requests.http.count(outcome(status));
    }
    let id = id(head, known.id.as_deref()).map_or_else(|| state.requests.ids.next(), String::from);
    if let Ok(value) = HeaderValue::from_str(&id) {
        reply.headers_mut().insert(REQUEST_ID, value);
    }
    if !wanted(state) {
        return;
    }
    let note = Note {
        protocol: "http",
        id: &id,
        method: head.method.as_str(),
        path: head.uri.path(),
        status: status.as_u16(),
        peer: &connection.peer,
        known,
        time: start.elapsed(),
    };
    note::note(state, note, || {
        let pattern = route(&head.method, head.uri.path()).map(|route| route.pattern()).unwrap_or_default();
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        Span {
            name: format!("{} {pattern}", head.method).trim_end().to_string(),
            attributes: vec![
                ("http.request.method", json!(head.method.as_str())),
                ("http.route", json!(pattern)),
                ("http.response.status_code", json!(status.as_u16())),
            ],
            fault: status.is_server_error().then(|| status.to_string()),
            parent: Parent::of(header("traceparent"), header("tracestate")),
        }
    });
}

/// The id that a request brings: in its head, or in its JSON, where that can be shown.
fn id<'a>(head: &'a request::Parts, in_json: Option<&'a str>) -> Option<&'a str> {
    let in_head = head.headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    in_head.and_then(shown).or(in_json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_in_the_head_goes_before_that_in_the_json() {
        let head = |id: &[u8]| {
            let request = hyper::Request::builder().header("x-request-id", id).body(()).unwrap();
            request.into_parts().0
        };
        assert_eq!(id(&head(b"abc-7"), Some("json")), Some("abc-7"));
        assert_eq!(id(&head(b"a b"), Some("json")), Some("json"));
        assert_eq!(id(&head(b"\xff"), None), None);
    }
}
