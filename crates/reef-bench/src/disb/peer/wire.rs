//! What goes over the pipes of an adapter, and what is possible as an answer. Described in [`super`].

use std::path::Path;
use std::time::Duration;

use reef_base::{ClassName, Nanos};
use reef_load::{Arrivals, PlayedClient, Record, Run, RunClient};
use serde::{Deserialize, Serialize};

use crate::disb::system::{Condition, ModelFile, Played};

#[derive(Serialize)]
pub(super) struct Request<'a> {
    pub(super) id: u64,
    #[serde(flatten)]
    pub(super) what: What<'a>,
}

#[derive(Serialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub(super) enum What<'a> {
    Hello { protocol: u32 },
    Load { models: Vec<Model<'a>> },
    Play { condition: &'a str, run: RunRequest<'a> },
    Quit,
}

#[derive(Serialize)]
pub(super) struct Model<'a> {
    name: &'a str,
    path: &'a Path,
    real_time: bool,
}

#[derive(Serialize)]
pub(super) struct RunRequest<'a> {
    clients: Vec<Client<'a>>,
    warm_up_ns: u64,
    measured_ns: u64,
    cool_down_ns: u64,
    grace_ns: u64,
}

#[derive(Serialize)]
struct Client<'a> {
    name: &'a str,
    model: &'a str,
    class: ClassName,
    level: u8,
    arrivals: When,
    in_flight: usize,
    deadline_ns: Option<u64>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum When {
    Open { times_ns: Vec<u64>, newest_only: bool },
    Closed { think_ns: u64 },
    After { client: usize, think_ns: u64 },
}

/// An answer without content.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Accepted {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hello {
    name: String,
    version: String,
    conditions: Vec<HelloCondition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HelloCondition {
    name: String,
    title: String,
    best_effort: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlayAnswer {
    clients: Vec<Columns>,
    #[serde(default)]
    cpu_ns: Option<u64>,
    #[serde(default)]
    memory_bytes: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Columns {
    due_ns: Vec<u64>,
    sent_ns: Vec<u64>,
    done_ns: Vec<u64>,
    #[serde(default)]
    began_ns: Option<Vec<u64>>,
    #[serde(default)]
    failed_ns: Vec<u64>,
    #[serde(default)]
    unsent_ns: Vec<u64>,
    #[serde(default)]
    dropped: u64,
    #[serde(default)]
    first_error: Option<String>,
}

impl<'a> From<&'a ModelFile> for Model<'a> {
    fn from(model: &'a ModelFile) -> Self {
        Model { name: &model.name, path: &model.path, real_time: model.real_time }
    }
}

impl<'a> From<&'a Run> for RunRequest<'a> {
    fn from(run: &'a Run) -> Self {
        RunRequest {
            clients: run.clients.iter().map(Client::from).collect(),
            warm_up_ns: nanos(run.warm_up),
            measured_ns: nanos(run.measured),
            cool_down_ns: nanos(run.cool_down),
            grace_ns: nanos(run.grace),
        }
    }
}

impl<'a> From<&'a RunClient> for Client<'a> {
    fn from(client: &'a RunClient) -> Self {
        Client {
            name: &client.name,
            model: &client.model,
            class: client.class,
            level: client.level,
            arrivals: When::from(&client.arrivals),
            in_flight: client.in_flight,
            deadline_ns: client.enforced_deadline.map(nanos),
        }
    }
}

impl From<&Arrivals> for When {
    fn from(arrivals: &Arrivals) -> Self {
        match arrivals {
            Arrivals::Open { times, newest_only } => {
                When::Open { times_ns: times.iter().map(|time| time.0).collect(), newest_only: *newest_only }
            }
            Arrivals::Closed { think } => When::Closed { think_ns: nanos(*think) },
            Arrivals::After { client, think } => When::After { client: *client, think_ns: nanos(*think) },
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    Nanos::from(duration).0
}

impl Hello {
    /// The system's name in reports and its conditions, or what is wrong.
    pub(super) fn check(self) -> Result<(String, Vec<Condition>), String> {
        if self.name.is_empty() {
            return Err("it has no name".to_string());
        }
        if self.conditions.first().is_none_or(|reference| reference.best_effort) {
            return Err("its first condition has to be one without best-effort clients".to_string());
        }
        for (index, condition) in self.conditions.iter().enumerate() {
            let same = |other: &HelloCondition| other.name == condition.name;
            if condition.name.is_empty() || self.conditions[..index].iter().any(same) {
                return Err(format!("condition {index} has no name of its own: '{}'", condition.name));
            }
        }
        let condition = |HelloCondition { name, title, best_effort }| Condition { name, title, best_effort };
        let name = format!("{} {}", self.name, self.version).trim_end().to_string();
        Ok((name, self.conditions.into_iter().map(condition).collect()))
    }
}

impl PlayAnswer {
    /// What was played, if it is possible for `run` and for what `took` so long, from request to answer.
    pub(super) fn check(self, run: &Run, best_effort: bool, took: Nanos) -> Result<Played, String> {
        if self.clients.len() != run.clients.len() {
            return Err(format!("{} clients were played, not {}", run.clients.len(), self.clients.len()));
        }
        if took < run.end() {
            return Err(format!("it came after {took}, but the run takes {}", run.end()));
        }
        let mut clients = Vec::with_capacity(self.clients.len());
        for (columns, client) in self.clients.into_iter().zip(&run.clients) {
            let admitted = best_effort || client.class == ClassName::RealTime;
            let played = columns.check(client, admitted, run, took);
            clients.push(played.map_err(|wrong| format!("client {}: {wrong}", client.name))?);
        }
        let cpu = self.cpu_ns.map(Duration::from_nanos);
        Ok(Played { clients, device: None, cpu, memory_bytes: self.memory_bytes })
    }
}

impl Columns {
    fn check(
        self,
        client: &RunClient,
        admitted: bool,
        run: &Run,
        took: Nanos,
    ) -> Result<PlayedClient, String> {
        let records = self.records(took)?;
        let due = || records.iter().map(|record| record.due.0);
        let mut arrived: Vec<u64> =
            due().chain(self.failed_ns.clone()).chain(self.unsent_ns.clone()).collect();
        arrived.sort_unstable();
        match &client.arrivals {
            _ if !admitted && (!arrived.is_empty() || self.dropped > 0) => {
                return Err("it takes no part in this condition, but has entries".to_string());
            }
            Arrivals::Open { times, newest_only } if admitted => {
                accounted(times, &arrived, self.dropped, run)?;
                if self.dropped > 0 && !newest_only {
                    return Err("requests were dropped of which none may be".to_string());
                }
            }
            _ => {}
        }
        let window = run.window();
        let inside =
            |times: Vec<u64>| times.into_iter().map(Nanos).filter(|time| window.contains(time)).collect();
        Ok(PlayedClient {
            records,
            failed: inside(self.failed_ns),
            unsent: self.unsent_ns.into_iter().map(Nanos).collect(),
            dropped: self.dropped,
            first_error: self.first_error,
        })
    }

    /// The answered requests, in the order of their answers.
    fn records(&self, took: Nanos) -> Result<Vec<Record>, String> {
        let count = self.due_ns.len();
        let began = self.began_ns.as_deref();
        if self.sent_ns.len() != count
            || self.done_ns.len() != count
            || began.is_some_and(|began| began.len() != count)
        {
            return Err("its columns have different lengths".to_string());
        }
        let mut records = Vec::with_capacity(count);
        for index in 0..count {
            let (due, sent) = (self.due_ns[index], self.sent_ns[index]);
            let done = self.done_ns[index];
            let begin = began.map_or(sent, |began| began[index]);
            if !(due <= sent && sent <= begin && begin <= done && done <= took.0) {
                return Err(format!(
                    "request {index} is not possible: due {due}, sent {sent}, begun {begin}, done {done}, \
                     all of it {} ns",
                    took.0
                ));
            }
            let on_device = began.map(|_| (Nanos(begin), Nanos(done)));
            let (due, sent, done) = (Nanos(due), Nanos(sent), Nanos(done));
            records.push(Record { due, sent, done, on_device, preempt: None });
        }
        records.sort_by_key(|record| record.done);
        Ok(records)
    }
}

/// Whether `arrived`, in rising order, are arrivals out of `times`, and with those dropped all of the window.
fn accounted(times: &[Nanos], arrived: &[u64], dropped: u64, run: &Run) -> Result<(), String> {
    let mut left = times.iter();
    if let Some(stray) = arrived.iter().find(|&&arrival| !left.any(|time| time.0 == arrival)) {
        return Err(format!("a request was due at {stray} ns that is not, or not so often, in the schedule"));
    }
    let window = run.window();
    let scheduled = times.iter().filter(|time| window.contains(time)).count() as u64;
    let found = arrived.iter().filter(|&&arrival| window.contains(&Nanos(arrival))).count() as u64;
    if found.saturating_add(dropped) != scheduled {
        return Err(format!(
            "of {scheduled} arrivals in the measured window {found} were answered, failed or unsent, \
             and {dropped} dropped"
        ));
    }
    Ok(())
}
