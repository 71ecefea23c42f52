//! What is noted of RPCs, and of each request of a stream; the ids that clients are told.

use std::net::SocketAddr;
use std::time::Instant;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Request, Response};
use serde_json::json;
use tonic::Code;

use crate::core::note::{self, Known, Note, Span, wanted};
use crate::core::requests::{Outcome, shown};
use crate::core::state::State;
use crate::grpc::method::known_rpc;
use crate::grpc::reply::Reply;
use crate::grpc::status::{STATUS, is_fault, outcome};
use crate::net::connection::Connection;
use crate::telemetry::Parent;

/// The metadata with a request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The method of every RPC.
const METHOD: &str = "POST";

/// An RPC as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// What its client calls it, in the metadata.
    id: Option<String>,
    path: String,
    peer: SocketAddr,
    parent: Option<Parent>,
    start: Instant,
}

/// Marks the answer of a stream of inferences: its requests are noted one by one.
#[derive(Clone, Copy)]
pub(crate) struct Streams;

impl Asked {
    pub(crate) fn new<B>(state: &State, connection: &Connection, request: &Request<B>) -> Asked {
        let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let parent = || Parent::of(text("traceparent")?, text("tracestate").unwrap_or_default());
        Asked {
            id: text(REQUEST_ID.as_str()).and_then(shown).map(String::from),
            path: request.uri().path().into(),
            peer: connection.peer,
            parent: state.telemetry.as_ref().and_then(|_| parent()),
            start: Instant::now(),
        }
    }

    /// The same with an id, for what is named after it.
    pub(crate) fn with_id(mut self, state: &State) -> (Asked, String) {
        let id = self.id.take().unwrap_or_else(|| state.requests.ids.next());
        self.id = Some(id.clone());
        (self, id)
    }

    /// Notes what became of the RPC, and tells its id.
    pub(crate) fn answered(&self, state: &State, known: &Known, answer: &mut Response<Reply>) {
        let id = self.id.as_deref().or(known.id.as_deref());
        let id = id.map_or_else(|| state.requests.ids.next(), String::from);
        if let Ok(value) = HeaderValue::from_str(&id) {
            answer.headers_mut().insert(REQUEST_ID, value);
        }
        if answer.extensions().get::<Streams>().is_some() {
            return;
        }
        let http = answer.status();
        let code = code(answer.headers());
        if known.inference {
            state.requests.grpc.count(outcome(code));
        }
        // What is no RPC has a status of HTTP alone.
        let status = if http.is_success() { code as u16 } else { http.as_u16() };
        self.note(state, &id, known, (status, code), self.start);
    }

    fn note(&self, state: &State, id: &str, known: &Known, ended: (u16, Code), start: Instant) {
        if !wanted(state) {
            return;
        }
        let Asked { path, peer, parent, .. } = self;
        let ((status, code), time) = (ended, start.elapsed());
        let note = Note { protocol: "grpc", id, method: METHOD, path, status, peer, known, time };
        note::note(state, note, || {
            // Paths that clients make up are no names.
            let (service, method) = known_rpc(path).unwrap_or_default();
            let attributes = vec![
                ("rpc.system", json!("grpc")),
                ("rpc.service", json!(service)),
                ("rpc.method", json!(method)),
                ("rpc.grpc.status_code", json!(status)),
            ];
            let fault = is_fault(code).then(|| format!("{code:?}"));
            let name = if service.is_empty() { "grpc".into() } else { format!("{service}/{method}") };
            Span { name, attributes, fault, parent: parent.clone() }
        });
    }
}

/// The status in the head of an answer; one without it is on its way.
fn code(headers: &HeaderMap) -> Code {
    headers.get(STATUS).map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// What the requests of a stream have in common, for what is noted of each.
#[derive(Clone, Debug)]
pub(crate) struct InStream {
    pub(crate) asked: Asked,
    /// The stream's.
    pub(crate) id: String,
}

impl InStream {
    /// Notes what became of request `number` of the stream, which began at `start`.
    pub(crate) fn answered(
        &self,
        state: &State,
        number: u64,
        known: &Known,
        (code, outcome): (Code, Outcome),
        start: Instant,
    ) {
        state.requests.grpc.count(outcome);
        if wanted(state) {
            let id = known.id.clone().unwrap_or_else(|| format!("{}-{number}", self.id));
            self.asked.note(state, &id, known, (code as u16, code), start);
        }
    }
}
