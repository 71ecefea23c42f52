//! What is noted of a request when it has been answered: a line in the log, a trace, its id for the client.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use hyper::header::{HeaderName, HeaderValue};
use hyper::http::request;
use reef_engine::{Class, InferResponse, ModelKey, Nanos};
use serde_json::{Value, json};

use crate::core::state::State;
use crate::http::reply::Reply;
use crate::http::route::route;
use crate::net::connection::Connection;
use crate::telemetry::{Ended, Parent};

/// The header with a request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Letters of a client's id at most; a longer one is replaced by ours.
const ID_LEN_MAX: usize = 128;

/// Who asked, for the log; part of a reply.
#[derive(Clone, Debug)]
pub(crate) struct Asker(pub(crate) String);

/// What an inference was; part of its reply.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    id: Option<String>,
    model: Arc<ModelKey>,
    class: Class,
    queue: Nanos,
    compute: Nanos,
    compute_output: Nanos,
}

impl Ran {
    pub(crate) fn of(response: &InferResponse, id: Option<&str>) -> Ran {
        Ran {
            id: id.map(String::from),
            model: response.model.clone(),
            class: response.class,
            queue: response.timings.queue,
            compute: response.timings.compute,
            compute_output: response.timings.compute_output,
        }
    }
}

/// Ids of requests that bring none: different in every process, and one after the other in it.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    random: RandomState,
    count: AtomicU64,
}

impl Ids {
    fn next(&self) -> String {
        format!("{:016x}", self.random.hash_one(self.count.fetch_add(1, Ordering::Relaxed)))
    }
}

/// Notes what became of a request.
pub(crate) fn note(
    state: &State,
    ids: &Ids,
    connection: &Connection,
    head: &request::Parts,
    start: Instant,
    reply: &mut Reply,
) {
    let ran = reply.extensions_mut().remove::<Ran>();
    let asker = reply.extensions_mut().remove::<Asker>();
    let id = id(head, ran.as_ref()).unwrap_or_else(|| ids.next());
    if let Ok(value) = HeaderValue::from_str(&id) {
        reply.headers_mut().insert(REQUEST_ID, value);
    }
    let time = start.elapsed();
    if tracing::enabled!(tracing::Level::DEBUG) {
        let class = ran.as_ref().map(|ran| ran.class.name());
        let model = ran.as_ref().map(|ran| ran.model.to_string());
        let us = |of: fn(&Ran) -> Nanos| ran.as_ref().map(|ran| of(ran).0 / 1_000);
        tracing::debug!(
            id,
            method = %head.method,
            path = head.uri.path(),
            status = reply.status().as_u16(),
            peer = %connection.peer,
            client = asker.as_ref().map(|asker| &*asker.0),
            model,
            class,
            queue_us = us(|ran| ran.queue),
            compute_us = us(|ran| ran.compute),
            time_us = time.as_micros() as u64,
            "request"
        );
    }
    if let Some(telemetry) = &state.telemetry {
        telemetry.record(ended(head, &id, ran.as_ref(), time, reply));
    }
}

/// The id that a request brings: in its head, or in its JSON.
fn id(head: &request::Parts, ran: Option<&Ran>) -> Option<String> {
    let in_head = head.headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let in_json = ran.and_then(|ran| ran.id.as_deref());
    // What is written to logs and heads has nothing but letters that show.
    let fit =
        |id: &&str| (1..=ID_LEN_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    in_head.filter(fit).or(in_json.filter(fit)).map(String::from)
}

fn ended(head: &request::Parts, id: &str, ran: Option<&Ran>, time: Duration, reply: &Reply) -> Ended {
    let end = SystemTime::now();
    let status = reply.status();
    let pattern = route(&head.method, head.uri.path()).map(|route| route.pattern()).unwrap_or_default();
    let mut attributes: Vec<(&'static str, Value)> = vec![
        ("http.request.method", json!(head.method.as_str())),
        ("http.route", json!(pattern)),
        ("http.response.status_code", json!(status.as_u16())),
        ("reef.request.id", json!(id)),
    ];
    let mut parts = Vec::new();
    if let Some(ran) = ran {
        attributes.push(("reef.model.name", json!(ran.model.name)));
        attributes.push(("reef.model.version", json!(ran.model.version)));
        attributes.push(("reef.class", json!(ran.class.name())));
        // Backwards from the end; what was written of the answer since is little.
        let before = |at: SystemTime, time: Nanos| at - Duration::from_nanos(time.0);
        let computed = before(end, ran.compute_output);
        let begun = before(computed, ran.compute);
        let queued = before(begun, ran.queue);
        parts = vec![("queue", queued, begun), ("compute", begun, computed)];
    }
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    Ended {
        name: format!("{} {pattern}", head.method).trim_end().to_string(),
        start: end - time,
        end,
        attributes,
        fault: status.is_server_error().then(|| status.to_string()),
        parts,
        parent: Parent::of(header("traceparent"), header("tracestate")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_clients_if_it_can_be_shown() {
        let head = |id: &[u8]| {
            let request = hyper::Request::builder().header("x-request-id", id).body(()).unwrap();
            request.into_parts().0
        };
        assert_eq!(id(&head(b"abc-7"), None), Some("abc-7".into()));
        for wrong in [&b""[..], b"a b", b"a\tb", b"\xff", &[b'x'; 129]] {
            assert_eq!(id(&head(wrong), None), None, "{wrong:?}");
        }
        let ids = Ids::default();
        let (one, two) = (ids.next(), ids.next());
        assert!(one != two && one.len() == 16, "{one} {two}");
    }
}
