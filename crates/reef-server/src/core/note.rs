//! What is noted of each request when it has been answered, whichever protocol carried it: a line in the log
//! and a span.
//!
//! Invariant: where nobody wants to know, it costs one look at the log's level ([`wanted`]): nothing is
//! formatted, and nothing is allocated. What differs between protocols is what a framing hands in: its
//! name, its status, what its span is called.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reef_engine::{Class, InferResponse, ModelKey, Nanos};
use serde_json::{Value, json};

use crate::core::access::Client;
use crate::core::state::State;
use crate::telemetry::{Ended, Parent};

/// What an inference was.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    model: Arc<ModelKey>,
    class: Class,
    queue: Nanos,
    compute: Nanos,
    compute_output: Nanos,
}

impl Ran {
    pub(crate) fn of(response: &InferResponse) -> Ran {
        Ran {
            model: response.model.clone(),
            class: response.class,
            queue: response.timings.queue,
            compute: response.timings.compute,
            compute_output: response.timings.compute_output,
        }
    }
}

#[cfg(test)]
impl Ran {
    /// Of no request.
    pub(crate) fn none() -> Ran {
        let none = Nanos(0);
        let model = Arc::new(ModelKey { name: String::new(), version: String::new() });
        Ran { model, class: Class::BestEffort, queue: none, compute: none, compute_output: none }
    }
}

/// What becomes known of a request on its way to its answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Whether it asks for an inference.
    pub(crate) inference: bool,
    /// What its message calls it, if that can be shown.
    pub(crate) id: Option<String>,
    /// Who asks.
    pub(crate) client: Option<Client>,
    /// The model that it names, where its path does not say so already.
    pub(crate) model: Option<String>,
    pub(crate) ran: Option<Ran>,
}

/// A request that has been answered.
#[derive(Clone, Copy)]
pub(crate) struct Note<'a> {
    /// The protocol's name.
    pub(crate) protocol: &'static str,
    pub(crate) id: &'a str,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// The protocol's number for how it ended.
    pub(crate) status: u16,
    pub(crate) peer: &'a dyn Display,
    pub(crate) known: &'a Known,
    /// From its arrival.
    pub(crate) time: Duration,
}

/// What a protocol calls the span of a request.
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) attributes: Vec<(&'static str, Value)>,
    /// Why it is an error, if it is one of ours.
    pub(crate) fault: Option<String>,
    /// The span that asked, if it said so.
    pub(crate) parent: Option<Parent>,
}

/// Whether anybody wants to know of requests.
pub(crate) fn wanted(state: &State) -> bool {
    tracing::enabled!(tracing::Level::DEBUG) || state.telemetry.is_some()
}

/// Notes a request. `span` is asked only where traces are collected.
pub(crate) fn note(state: &State, note: Note<'_>, span: impl FnOnce() -> Span) {
    if tracing::enabled!(tracing::Level::DEBUG) {
        log(note);
    }
    if let Some(telemetry) = &state.telemetry {
        telemetry.record(ended(note, span()));
    }
}

fn log(note: Note<'_>) {
    let Note { protocol, id, method, path, status, peer, known, time } = note;
    let ran = known.ran.as_ref();
    let us = |of: fn(&Ran) -> Nanos| ran.map(|ran| of(ran).0 / 1_000);
    tracing::debug!(
        id,
        protocol,
        method,
        path,
        status,
        peer = %peer,
        client = known.client.as_ref().map(Client::name),
        model = ran.map(|ran| ran.model.to_string()).or_else(|| known.model.clone()),
        class = ran.map(|ran| ran.class.name()),
        queue_us = us(|ran| ran.queue),
        compute_us = us(|ran| ran.compute),
        time_us = time.as_micros() as u64,
        "request"
    );
}

fn ended(note: Note<'_>, span: Span) -> Ended {
    let end = SystemTime::now();
    let Span { name, mut attributes, fault, parent } = span;
    attributes.push(("reef.request.id", json!(note.id)));
    attributes.push(("reef.protocol", json!(note.protocol)));
    let mut parts = Vec::new();
    if let Some(ran) = &note.known.ran {
        attributes.push(("reef.model.name", json!(ran.model.name)));
        attributes.push(("reef.model.version", json!(ran.model.version)));
        attributes.push(("reef.class", json!(ran.class.name())));
        // Backwards from the end; what was written of the answer since is little.
        let before = |at: SystemTime, time: Nanos| at - Duration::from_nanos(time.0);
        let computed = before(end, ran.compute_output);
        let begun = before(computed, ran.compute);
        let queued = before(begun, ran.queue);
        parts = vec![("queue", queued, begun), ("compute", begun, computed)];
    } else if let Some(model) = &note.known.model {
        attributes.push(("reef.model.name", json!(model)));
    }
    Ended { name, start: end - note.time, end, attributes, fault, parts, parent }
}

#[cfg(test)]
mod tests {
    use reef_device::{DummyDevice, DummyOptions};
    use reef_engine::{Engine, EngineOptions};
    use tracing::level_filters::LevelFilter;

    use super::*;
    use crate::core::state::StateOptions;
    use crate::telemetry::Telemetry;

    #[test]
    fn nobody_wants_to_know_but_a_log_of_that_level_and_a_collector() {
        let device = Arc::new(DummyDevice::new(DummyOptions::default()));
        let options = StateOptions {
            body_bytes_max: 1 << 20,
            bodies_bytes_max: 1 << 20,
            answers_bytes_max: 1 << 20,
            trace_folder: None,
        };
        let mut state = State::new(Engine::new(device, EngineOptions::default()).unwrap(), options).unwrap();
        let at = |level: LevelFilter, state: &State| {
            let log = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::sink).finish();
            tracing::subscriber::with_default(log, || wanted(state))
        };
        assert_eq!([LevelFilter::INFO, LevelFilter::DEBUG].map(|level| at(level, &state)), [false, true]);
        state.telemetry = Some(Telemetry::start("http://127.0.0.1:9").unwrap());
        assert!(at(LevelFilter::OFF, &state));
    }
}
