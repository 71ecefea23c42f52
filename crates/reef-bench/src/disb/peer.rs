//! Peers: other systems that play the benchmark's runs, each behind an *adapter*, a program of its own.
//!
//! The benchmark starts an adapter with `sh -c COMMAND` and talks to it in lines of JSON: one request on its
//! standard input, one answer on its standard output, nothing unasked for. What it writes to standard error
//! is kept, and quoted when it fails. When its standard input ends it must end too, whatever it is doing; it
//! is killed if it does not, and with the benchmark, whichever way that ends. The
//! adapter is the load generator: it keeps the schedule, asks its system and takes the times.
//!
//! Every request has an `id`, which the answer repeats. Instead of what is listed, each may be answered with
//! `{"id": 7, "error": "why not"}`; the adapter stays in use then.
//!
//! | request | answer | at most |
//! |---|---|---|
//! | `{"id", "do": "hello", "protocol": 1}` | `name`, `version`, `conditions` | 60 s |
//! | `{"id", "do": "load", "models": [{"name", "path", "real_time"}, …]}` | – | 300 s |
//! | `{"id", "do": "play", "condition", "run"}` | `clients`, `cpu_ns`, `memory_bytes` | run, grace, 60 s |
//! | `{"id", "do": "quit"}`, and the end of the input | none is needed | 5 s |
//!
//! **hello.** `conditions` is a list of `{"name", "title", "best_effort"}`. The first is the reference: only
//! real-time clients take part, so `best_effort` is false.
//!
//! **load.** Makes the models ready to be asked; those of earlier requests may stay. `real_time` says whether
//! a real-time client asks the model.
//!
//! **play.** `condition` is a name from `hello`. All times are whole nanoseconds from the start of the run,
//! which the adapter chooses.
//!
//! ```json
//! {"clients": [{"name": "front", "model": "vgg19", "class": "real-time", "level": 0, "in_flight": 16,
//!               "deadline_ns": null,
//!               "arrivals": {"kind": "open", "times_ns": [0, 450000000], "newest_only": false}}],
//!  "warm_up_ns": 1000000000, "measured_ns": 15000000000, "cool_down_ns": 1000000000,
//!  "grace_ns": 5000000000}
//! ```
//!
//! `arrivals` is one of
//! - `{"kind": "open", "times_ns", "newest_only"}`: requests are due at these times, whatever becomes of
//!   earlier ones. At most `in_flight` are under way; more wait. With `newest_only` an arrival replaces the
//!   one that waits, which is *dropped*.
//! - `{"kind": "closed", "think_ns"}`: in `in_flight` places, first at 0, then so long after each answer.
//! - `{"kind": "after", "client", "think_ns"}`: so long after each answer to the client of this index.
//!
//! Nothing becomes due at the run's end, `warm_up_ns + measured_ns`, or later, but for best-effort closed
//! loops, which go on for `cool_down_ns`. What has not been sent `grace_ns` after the end is *unsent*.
//!
//! `class` is `real-time` or `best-effort`, level 0 is the most urgent, and `deadline_ns` counts from
//! a request's due time, for systems that refuse what would be late.
//!
//! The answer comes when every request has ended, and not before the run's end. `clients` is in the order of
//! the request:
//!
//! ```json
//! {"due_ns": [0, 450000000], "sent_ns": [90, 450000120], "done_ns": [201000000, 652000000],
//!  "began_ns": [100, 450000200],
//!  "failed_ns": [], "unsent_ns": [], "dropped": 0, "first_error": null}
//! ```
//!
//! The first four are columns of the requests that were answered, warm-up included. `began_ns` is optional:
//! when the system, which does one at a time, began with the request. `failed_ns` and `unsent_ns` are due
//! times; `dropped` counts arrivals inside the measured window. Every arrival of an open loop in that window
//! must be found in exactly one of them. Best-effort clients that the condition does not admit have no entry.
//! `cpu_ns` is the processor time, user and system, of all processes that take part, in the measured window;
//! `memory_bytes` the sum of their resident memory at the end of the run. Both may be null.

mod process;
#[cfg(test)]
mod tests;
mod wire;

use std::time::Duration;

use reef_base::MonotonicClock;
use reef_load::Run;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::process::Adapter;
use self::wire::{Accepted, Hello, PlayAnswer, Request, RunRequest, What};
use super::system::{Condition, ModelFile, Played, System};
use crate::error::BenchError;

/// Version of the protocol that this module speaks.
const PROTOCOL: u32 = 1;

/// A system behind an adapter. Its processes are ended when this is dropped.
#[derive(Debug)]
pub struct Peer {
    command: String,
    name: String,
    conditions: Vec<Condition>,
    adapter: Adapter,
    limits: TimeLimits,
    last_id: u64,
    /// Its answers cannot be trusted any more; its processes have been killed.
    given_up: bool,
}

/// How long answers may take.
#[derive(Clone, Copy, Debug)]
struct TimeLimits {
    hello: Duration,
    load: Duration,
    /// Beyond the length of the run and its grace.
    beyond_run: Duration,
    quit: Duration,
}

impl TimeLimits {
    const DEFAULT: TimeLimits = TimeLimits {
        hello: Duration::from_secs(60),
        load: Duration::from_secs(300),
        beyond_run: Duration::from_secs(60),
        quit: Duration::from_secs(5),
    };
}

impl Peer {
    /// Starts an adapter, a command line for `sh`, and asks for its name and conditions.
    ///
    /// # Errors
    /// [`BenchError::Peer`] if it cannot be started or does not answer as the protocol says.
    pub fn start(command: &str) -> Result<Peer, BenchError> {
        Peer::start_within(command, TimeLimits::DEFAULT)
    }

    fn start_within(command: &str, limits: TimeLimits) -> Result<Peer, BenchError> {
        let cannot = |error| BenchError::Peer {
            peer: command.to_string(),
            problem: format!("cannot be started: {error}"),
            last_words: Vec::new(),
        };
        let adapter = Adapter::start(command).map_err(cannot)?;
        let (command, name) = (command.to_string(), String::new());
        let mut peer =
            Peer { command, name, conditions: Vec::new(), adapter, limits, last_id: 0, given_up: false };
        let hello: Hello = peer.ask("say hello", What::Hello { protocol: PROTOCOL }, limits.hello)?;
        (peer.name, peer.conditions) =
            hello.check().map_err(|wrong| peer.answered_wrongly("say hello", &wrong))?;
        Ok(peer)
    }

    /// Sends a request and waits for the answer to it.
    fn ask<T: DeserializeOwned>(
        &mut self,
        name: &str,
        what: What<'_>,
        limit: Duration,
    ) -> Result<T, BenchError> {
        if self.given_up {
            return Err(self.error("was given up after an earlier failure".to_string()));
        }
        self.last_id += 1;
        let line = match serde_json::to_string(&Request { id: self.last_id, what }) {
            Ok(line) => line,
            Err(error) => return Err(self.error(format!("cannot be asked to {name}: {error}"))),
        };
        let answer = match self.adapter.ask(line, limit) {
            Ok(answer) => answer,
            Err(problem) => return Err(self.give_up(format!("{problem}, when asked to {name}"))),
        };
        let mut fields = match serde_json::from_str(&answer) {
            Ok(Value::Object(fields)) => fields,
            _ => return Err(self.answered_wrongly(name, &format!("no JSON object: {}", begin_of(&answer)))),
        };
        if fields.remove("id") != Some(Value::from(self.last_id)) {
            let wrong = format!("its id is not {}: {}", self.last_id, begin_of(&answer));
            return Err(self.answered_wrongly(name, &wrong));
        }
        if let Some(error) = fields.remove("error") {
            let why = error.as_str().map_or_else(|| error.to_string(), str::to_string);
            return Err(self.error(format!("cannot {name}: {why}")));
        }
        serde_json::from_value(Value::Object(fields))
            .map_err(|error| self.answered_wrongly(name, &error.to_string()))
    }

    fn answered_wrongly(&mut self, request: &str, wrong: &str) -> BenchError {
        self.give_up(format!("did not answer as the protocol says when asked to {request}: {wrong}"))
    }

    /// Kills the adapter: after what it did, nothing more that it says would be an answer.
    fn give_up(&mut self, problem: String) -> BenchError {
        self.given_up = true;
        self.adapter.kill();
        self.error(problem)
    }

    fn error(&self, problem: String) -> BenchError {
        let peer = match self.name.is_empty() {
            true => self.command.clone(),
            false => format!("{} ({})", self.name, self.command),
        };
        BenchError::Peer { peer, problem, last_words: self.adapter.last_words() }
    }
}

impl System for Peer {
    fn name(&self) -> &str {
        &self.name
    }

    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    fn load(&mut self, models: &[ModelFile]) -> Result<(), BenchError> {
        let models = models.iter().map(wire::Model::from).collect();
        self.ask("load models", What::Load { models }, self.limits.load).map(|Accepted {}| ())
    }

    fn play(&mut self, condition: usize, run: &Run) -> Result<Played, BenchError> {
        let Condition { name, best_effort, .. } = self.conditions[condition].clone();
        let request = format!("play under '{name}'");
        let what = What::Play { condition: &name, run: RunRequest::from(run) };
        let limit = Duration::from(run.end()) + run.cool_down.max(run.grace) + self.limits.beyond_run;
        let asked = MonotonicClock::read();
        let answer: PlayAnswer = self.ask(&request, what, limit)?;
        let took = MonotonicClock::read().since(asked);
        answer.check(run, best_effort, took).map_err(|wrong| self.answered_wrongly(&request, &wrong))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if !self.given_up {
            let request = Request { id: self.last_id + 1, what: What::Quit };
            let line = serde_json::to_string(&request).expect("it has no map and no path");
            self.adapter.finish(line, self.limits.quit);
        }
        self.adapter.kill();
    }
}

/// Enough of an answer to recognise it by.
fn begin_of(answer: &str) -> String {
    const SHOWN_CHARS: usize = 120;
    match answer.char_indices().nth(SHOWN_CHARS) {
        None => format!("'{answer}'"),
        Some((end, _)) => format!("'{}…'", &answer[..end]),
    }
}
