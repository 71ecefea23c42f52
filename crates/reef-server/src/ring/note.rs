//! What is noted of requests through the ring. Their ids are the connection's number and the client's tag.

use std::fmt;
use std::time::Duration;

use reef_client::Status;
use reef_client::protocol::Request;
use reef_client::socket::Peer;
use reef_engine::Nanos;
use serde_json::json;

use crate::core::access::Client;
use crate::core::note::{self, Known, Note, Ran, Span};
use crate::core::problem::{Kind, Problem};
use crate::core::requests::Outcome;
use crate::core::state::State;

/// What every request of a connection does.
const METHOD: &str = "infer";

/// A request that has ended.
pub(super) struct Answered<'a> {
    /// The number of its connection.
    pub(super) connection: u64,
    pub(super) peer: Option<Peer>,
    pub(super) client: &'a Client,
    /// The model that was opened.
    pub(super) model: &'a str,
    pub(super) request: &'a Request,
    pub(super) status: Status,
    pub(super) ran: Option<Ran>,
    pub(super) time: Nanos,
}

impl Answered<'_> {
    /// Notes it, whoever wants to know: that is asked before.
    #[cold]
    pub(super) fn note(self, state: &State) {
        let Answered { connection, peer, client, model, request, status, ran, time } = self;
        let id = format!("{connection:016x}-{}", request.tag);
        let (client, model_name) = (Some(client.clone()), Some(model.to_string()));
        let known = Known { inference: true, id: None, client, model: model_name, ran };
        let note = Note {
            protocol: "ring",
            id: &id,
            method: METHOD,
            path: model,
            status: status as u16,
            peer: &Process(peer),
            known: &known,
            time: Duration::from_nanos(time.0),
        };
        note::note(state, note, || Span {
            name: format!("ring/{METHOD}"),
            attributes: vec![
                ("rpc.system", json!("reef_ring")),
                ("rpc.method", json!(METHOD)),
                ("reef.ring.status", json!(status.name())),
            ],
            fault: is_fault(status).then(|| status.name().to_string()),
            parent: request.trace.map(Into::into),
        });
    }
}

/// Whether a status says that the server is at fault, or cannot serve now.
fn is_fault(status: Status) -> bool {
    matches!(status, Status::Internal | Status::Unavailable | Status::Unsupported | Status::Late)
}

/// The process at the other end.
struct Process(Option<Peer>);

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(Peer { pid, uid, .. }) => write!(f, "pid={pid},uid={uid}"),
            None => f.write_str("-"),
        }
    }
}

/// The status for a problem.
pub(super) fn status(problem: &Problem) -> Status {
    match problem.kind {
        Kind::Invalid => Status::Invalid,
        Kind::NotFound => Status::NotFound,
        Kind::Unsupported => Status::Unsupported,
        Kind::Unavailable => Status::Unavailable,
        Kind::Late => Status::Late,
        Kind::Internal => Status::Internal,
        Kind::Unauthenticated => Status::Unauthenticated,
        Kind::Forbidden => Status::Forbidden,
        Kind::Limited { .. } => Status::Limited,
    }
}

/// How a request ended that was answered with this status.
pub(super) fn outcome(status: Status) -> Outcome {
    match status {
        Status::Done => Outcome::Success,
        Status::Invalid => Outcome::Invalid,
        Status::NotFound => Outcome::NotFound,
        Status::Unsupported => Outcome::Unsupported,
        Status::Unavailable => Outcome::Unavailable,
        Status::Late => Outcome::Late,
        Status::Internal => Outcome::Internal,
        Status::Cancelled => Outcome::Cancelled,
        Status::Unauthenticated => Outcome::Unauthenticated,
        Status::Forbidden => Outcome::Forbidden,
        Status::Limited => Outcome::Limited,
    }
}
