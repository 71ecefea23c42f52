//! Workloads: which clients ask which model when. A workload is a TOML file; the benchmark's own are built
//! in.
//!
//! ```toml
//! name = "parking"
//! title = "Two cameras, and analytics with what is left"
//!
//! [models]                       # optional: files, relative to this one; others come from the zoo by name
//! detector = "models/detector.onnx"
//!
//! [reference_ms]                 # optional: time alone of each model where the rates below were chosen;
//! detector = 4.4                 # `--rate scaled` keeps the utilisation of that machine
//!
//! [[client]]
//! name = "front"                 # optional: the model's name
//! model = "detector"
//! class = "real-time"            # or "best-effort"
//! level = 0                      # 0, the default, is the most urgent
//! arrivals = { kind = "periodic", rate_hz = 30.0, phase = 0.5 }   # phase: fraction of the period, default 0
//! deadline_ms = 20.0             # optional: from the scheduled arrival; misses are counted
//! enforce_deadline = true        # default false: also sent to the server, which may refuse then
//! keep = "newest"                # default "all": a frame that waits is dropped when the next one comes
//! in_flight = 1                  # default 16 (closed loops: 1): requests under way at once
//!
//! [[client]]
//! model = "tracker"
//! class = "real-time"
//! arrivals = { kind = "after", client = "front", think_ms = 1.0 }  # asks with each answer of another client
//! ```
//!
//! | `kind` | fields | asks |
//! |---|---|---|
//! | `periodic` | `rate_hz`, `phase` | at fixed distances |
//! | `poisson` | `rate_hz` | at random, seeded |
//! | `trace` | `file`, `track` | at recorded times; `file` is JSON, relative to the workload's file |
//! | `closed-loop` | `think_ms` | so long after each answer, in `in_flight` places at once |
//! | `after` | `client`, `think_ms` | so long after each answer of another client |
//!
//! A trace file is `{"duration_s": 38, "unit": "ms", "arrivals": {"TRACK": [0, 150, …]}}`; arrivals at or
//! behind the end are not played, and counted in a note of the report. Everything that is not named above is
//! refused by name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reef_base::{ClassName, Level, Nanos};
use serde::Deserialize;

/// The names of the built-in workloads, in the order of reports.
pub const BUILT_IN: [&str; 6] = ["A", "B", "C", "D", "E", "REAL"];

/// Requests of an open-loop client that may be under way at once, where its file does not say.
const IN_FLIGHT_DEFAULT: usize = 16;
/// Each takes a thread and buffers.
const IN_FLIGHT_MAX: usize = 1024;
/// Arrivals per second that a client may ask for.
pub const RATE_MAX_HZ: f64 = 1e6;
/// At least so many: one in about three hours.
pub const RATE_MIN_HZ: f64 = 1e-4;
/// An hour, in milliseconds: more is a mistake.
const MILLIS_MAX: f64 = 3.6e6;

const REAL_TRACE: &str = include_str!("../workloads/real-trace.json");

/// There is no such workload, or it cannot be played as it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    /// No workload has this name.
    #[error("there is no workload '{name}'; there are {known}, and `bench run` plays files")]
    Unknown {
        /// The name asked for.
        name: String,
        /// Those that exist.
        known: String,
    },
    /// A workload cannot be played as it is written.
    #[error("workload {name}: {problem}")]
    Unusable {
        /// Its name or file.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

/// Which clients ask which model when.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Its name.
    pub name: String,
    /// What it is, in a line.
    pub title: String,
    /// Files of models; other models come from the zoo.
    pub models: BTreeMap<String, PathBuf>,
    /// Milliseconds that each model takes alone where the rates were chosen.
    pub reference_ms: BTreeMap<String, f64>,
    /// Who asks. At least one is real-time.
    pub clients: Vec<Client>,
    /// Whether it is one of the benchmark's own, as it is written.
    pub built_in: bool,
}

/// A client of a workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// Its name, unique in the workload.
    pub name: String,
    /// The model it asks.
    pub model: String,
    /// Its class.
    pub class: ClassName,
    /// Its real-time level; the most urgent for best-effort clients, which have none.
    pub level: Level,
    /// When it asks.
    pub arrivals: ArrivalSpec,
    /// Requests under way at once.
    pub in_flight: usize,
    /// From the scheduled arrival.
    pub deadline: Option<Duration>,
    /// Whether the server is told of the deadline.
    pub enforce_deadline: bool,
    /// Whether a waiting arrival is dropped when the next one comes.
    pub newest_only: bool,
}

/// When a client asks.
#[derive(Clone, Debug, PartialEq)]
pub enum ArrivalSpec {
    /// At fixed distances.
    Periodic {
        /// Per second.
        rate_hz: f64,
        /// Of the first arrival, as a fraction of the period.
        phase: f64,
    },
    /// At random: exponential distances.
    Poisson {
        /// Per second, on average.
        rate_hz: f64,
    },
    /// As recorded.
    Trace {
        /// The recording.
        track: Arc<Track>,
        /// Distances are this many times as long as recorded.
        stretch: f64,
    },
    /// After its own answers.
    ClosedLoop {
        /// From the answer to the next request.
        think: Duration,
    },
    /// After the answers of another client.
    After {
        /// Index of that client.
        client: usize,
        /// From its answer to the request.
        think: Duration,
    },
}

/// Recorded arrivals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// Times in rising order, below `duration`.
    pub times: Vec<Nanos>,
    /// Length of the recording.
    pub duration: Nanos,
    /// Arrivals at or behind the end, which are not played.
    pub beyond: usize,
}

impl ArrivalSpec {
    /// Mean arrivals per second, where they do not depend on answers.
    pub fn rate_hz(&self) -> Option<f64> {
        match self {
            ArrivalSpec::Periodic { rate_hz, .. } | ArrivalSpec::Poisson { rate_hz } => Some(*rate_hz),
            ArrivalSpec::Trace { track, stretch } => {
                let seconds = Duration::from(track.duration).as_secs_f64();
                Some(track.times.len() as f64 / seconds / stretch)
            }
            ArrivalSpec::ClosedLoop { .. } | ArrivalSpec::After { .. } => None,
        }
    }

    /// The same at another mean rate; `None` where there is no rate.
    fn at_rate(&self, hz: f64) -> Option<ArrivalSpec> {
        match self {
            ArrivalSpec::Periodic { phase, .. } => Some(ArrivalSpec::Periodic { rate_hz: hz, phase: *phase }),
            ArrivalSpec::Poisson { .. } => Some(ArrivalSpec::Poisson { rate_hz: hz }),
            ArrivalSpec::Trace { track, stretch } => {
                let stretch = stretch * self.rate_hz()? / hz;
                Some(ArrivalSpec::Trace { track: track.clone(), stretch })
            }
            ArrivalSpec::ClosedLoop { .. } | ArrivalSpec::After { .. } => None,
        }
    }
}

impl fmt::Display for ArrivalSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let think = |f: &mut fmt::Formatter<'_>, think: &Duration| {
            if think.is_zero() { Ok(()) } else { write!(f, ", {think:?} after each answer") }
        };
        match self {
            ArrivalSpec::Periodic { rate_hz, .. } => write!(f, "periodic {rate_hz:.2}/s"),
            ArrivalSpec::Poisson { rate_hz } => write!(f, "Poisson {rate_hz:.2}/s"),
            ArrivalSpec::Trace { .. } => write!(f, "trace {:.2}/s", self.rate_hz().unwrap_or_default()),
            ArrivalSpec::ClosedLoop { think: time } => {
                f.write_str("closed loop")?;
                think(f, time)
            }
            ArrivalSpec::After { client, think: time } => {
                write!(f, "with each answer of client {}", client + 1)?;
                think(f, time)
            }
        }
    }
}

impl Workload {
    /// A built-in workload, by name in any case.
    pub fn built_in(name: &str) -> Result<Workload, WorkloadError> {
        let text = match name.to_ascii_uppercase().as_str() {
            "A" => include_str!("../workloads/a.toml"),
            "B" => include_str!("../workloads/b.toml"),
            "C" => include_str!("../workloads/c.toml"),
            "D" => include_str!("../workloads/d.toml"),
            "E" => include_str!("../workloads/e.toml"),
            "REAL" => include_str!("../workloads/real.toml"),
            _ => {
                let known = BUILT_IN.join(", ");
                return Err(WorkloadError::Unknown { name: name.to_string(), known });
            }
        };
        let workload = Workload::parse(text, name, &|_| Ok(REAL_TRACE.to_string()))?;
        Ok(Workload { built_in: true, ..workload })
    }

    /// Reads a workload's file.
    pub fn read(path: &Path) -> Result<Workload, WorkloadError> {
        let name = path.display().to_string();
        let wrong = |problem: String| WorkloadError::Unusable { name: name.clone(), problem };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let file = |file: &Path| {
            let file = folder.join(file);
            std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))
        };
        let mut workload = Workload::parse(&text, &name, &file)?;
        workload.models.values_mut().for_each(|model| *model = folder.join(&*model));
        Ok(workload)
    }

    /// Reads a workload from `text`; `name` is for errors, `file` gives the text of a trace.
    pub fn parse(
        text: &str,
        name: &str,
        file: &dyn Fn(&Path) -> Result<String, String>,
    ) -> Result<Workload, WorkloadError> {
        let wrong = |problem: String| WorkloadError::Unusable { name: name.to_string(), problem };
        let raw: RawWorkload = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        raw.check(file).map_err(wrong)
    }

    /// What of the workload is not played, a line for each client.
    pub fn left_out(&self) -> Vec<String> {
        let line = |client: &Client| match &client.arrivals {
            ArrivalSpec::Trace { track, .. } if track.beyond > 0 => Some(format!(
                "{}, client {}: {} of {} arrivals of its trace lie at or behind its end, {:?}, and are not \
                 played",
                self.name,
                client.name,
                track.beyond,
                track.beyond + track.times.len(),
                Duration::from(track.duration),
            )),
            _ => None,
        };
        self.clients.iter().filter_map(line).collect()
    }

    /// Models that clients ask, each once, in the order of the clients.
    pub fn models_asked(&self) -> Vec<&str> {
        let mut models: Vec<&str> = Vec::new();
        for client in &self.clients {
            if !models.contains(&client.model.as_str()) {
                models.push(&client.model);
            }
        }
        models
    }

    /// The same with every rate multiplied by the reference's time alone ÷ `alone_ms` of the model, which
    /// keeps the utilisation. Traces keep their shape: all are stretched by one factor, that of their load
    /// together. A model without a reference keeps its rate.
    pub fn scaled(&self, alone_ms: &BTreeMap<String, f64>) -> Workload {
        let factor = |model: &str| Some(self.reference_ms.get(model)? / alone_ms.get(model)?);
        let load = |times: &BTreeMap<String, f64>| -> Option<f64> {
            let traced = |client: &&Client| matches!(client.arrivals, ArrivalSpec::Trace { .. });
            let of = |client: &Client| Some(client.arrivals.rate_hz()? * times.get(&client.model)?);
            self.clients.iter().filter(traced).map(of).sum()
        };
        let stretched = load(alone_ms).zip(load(&self.reference_ms)).map(|(here, there)| here / there);
        let mut scaled = self.clone();
        for client in &mut scaled.clients {
            match (&mut client.arrivals, factor(&client.model)) {
                (ArrivalSpec::Periodic { rate_hz, .. } | ArrivalSpec::Poisson { rate_hz }, Some(factor)) => {
                    *rate_hz *= factor;
                }
                (ArrivalSpec::Trace { stretch, .. }, _) => *stretch *= stretched.unwrap_or(1.0),
                _ => {}
            }
        }
        scaled
    }

    /// The same with clients of this name, or of the model of this name, at `hz` arrivals per second. Says
    /// how many clients that were.
    pub fn with_rate(mut self, name: &str, hz: f64) -> (Workload, usize) {
        let mut changed = 0;
        for client in self.clients.iter_mut().filter(|client| client.is_called(name)) {
            if let Some(arrivals) = client.arrivals.at_rate(hz) {
                client.arrivals = arrivals;
                changed += 1;
            }
        }
        (self, changed)
    }

    /// The same with a deadline for real-time clients of this name, or of the model of this name. Says how
    /// many clients that were.
    pub fn with_deadline(mut self, name: &str, deadline: Duration) -> (Workload, usize) {
        let mut changed = 0;
        for client in self.clients.iter_mut() {
            if client.class == ClassName::RealTime && client.is_called(name) {
                client.deadline = Some(deadline);
                changed += 1;
            }
        }
        (self, changed)
    }
}

impl Client {
    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.model == name
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorkload {
    name: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    models: BTreeMap<String, PathBuf>,
    #[serde(default)]
    reference_ms: BTreeMap<String, f64>,
    client: Vec<RawClient>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClient {
    name: Option<String>,
    model: String,
    class: ClassName,
    #[serde(default)]
    level: u8,
    arrivals: RawArrivals,
    deadline_ms: Option<f64>,
    #[serde(default)]
    enforce_deadline: bool,
    #[serde(default)]
    keep: Keep,
    in_flight: Option<usize>,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Keep {
    #[default]
    All,
    Newest,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum RawArrivals {
    Periodic {
        rate_hz: f64,
        #[serde(default)]
        phase: f64,
    },
    Poisson {
        rate_hz: f64,
    },
    Trace {
        file: PathBuf,
        track: String,
    },
    ClosedLoop {
        #[serde(default)]
        think_ms: f64,
    },
    After {
        client: String,
        #[serde(default)]
        think_ms: f64,
    },
}

#[derive(Deserialize)]
struct RawTrace {
    duration_s: f64,
    unit: String,
    arrivals: BTreeMap<String, Vec<f64>>,
}

type ReadFile<'a> = &'a dyn Fn(&Path) -> Result<String, String>;

impl RawWorkload {
    fn check(self, file: ReadFile<'_>) -> Result<Workload, String> {
        if self.name.trim().is_empty() {
            return Err("its name is empty".to_string());
        }
        for (model, ms) in &self.reference_ms {
            check_millis(&format!("reference_ms of {model}"), *ms)?;
        }
        let asked = |model: &String| self.client.iter().any(|client| client.model == *model);
        if let Some(model) = self.reference_ms.keys().chain(self.models.keys()).find(|model| !asked(model)) {
            return Err(format!("no client asks the model '{model}'"));
        }
        let names: Vec<String> =
            self.client.iter().map(|raw| raw.name.clone().unwrap_or_else(|| raw.model.clone())).collect();
        if let Some(index) = (1..names.len()).find(|&index| names[..index].contains(&names[index])) {
            return Err(format!("two clients are called '{}'", names[index]));
        }
        let mut clients = Vec::with_capacity(names.len());
        for (raw, name) in self.client.into_iter().zip(&names) {
            let client = raw.check(name, &names, file);
            clients.push(client.map_err(|problem| format!("client '{name}': {problem}"))?);
        }
        if !clients.iter().any(|client| client.class == ClassName::RealTime) {
            return Err("it has no real-time client".to_string());
        }
        check_chains(&clients)?;
        let RawWorkload { name, title, models, reference_ms, .. } = self;
        Ok(Workload { name, title, models, reference_ms, clients, built_in: false })
    }
}

impl RawClient {
    fn check(self, name: &str, names: &[String], file: ReadFile<'_>) -> Result<Client, String> {
        let closed = matches!(self.arrivals, RawArrivals::ClosedLoop { .. });
        let in_flight = self.in_flight.unwrap_or(if closed { 1 } else { IN_FLIGHT_DEFAULT });
        if !(1..=IN_FLIGHT_MAX).contains(&in_flight) {
            return Err(format!("in_flight is {in_flight}, not 1 to {IN_FLIGHT_MAX}"));
        }
        let level = Level::new(self.level).ok_or_else(|| format!("there is no level {}", self.level))?;
        if self.class == ClassName::BestEffort && (self.level > 0 || self.deadline_ms.is_some()) {
            return Err("best-effort clients have neither level nor deadline".to_string());
        }
        self.deadline_ms.map_or(Ok(()), |ms| check_millis("deadline_ms", ms))?;
        let deadline = self.deadline_ms.map(|ms| Duration::from_secs_f64(ms / 1e3));
        if self.enforce_deadline && deadline.is_none() {
            return Err("enforce_deadline needs deadline_ms".to_string());
        }
        let arrivals = self.arrivals.check(names, file)?;
        let newest_only = self.keep == Keep::Newest;
        if newest_only && arrivals.rate_hz().is_none() {
            return Err("keep = \"newest\" needs arrivals that do not depend on answers".to_string());
        }
        let (model, class, enforce_deadline) = (self.model, self.class, self.enforce_deadline);
        let name = name.to_string();
        let client = Client {
            name,
            model,
            class,
            level,
            arrivals,
            in_flight,
            deadline,
            enforce_deadline,
            newest_only,
        };
        Ok(client)
    }
}

impl RawArrivals {
    fn check(self, names: &[String], file: ReadFile<'_>) -> Result<ArrivalSpec, String> {
        let think = |ms: f64| match ms {
            0.0..=MILLIS_MAX => Ok(Duration::from_secs_f64(ms / 1e3)),
            _ => Err(format!("think_ms is {ms}, not 0 to {MILLIS_MAX}")),
        };
        Ok(match self {
            RawArrivals::Periodic { rate_hz, phase } => {
                check_rate(rate_hz)?;
                if !(0.0..1.0).contains(&phase) {
                    return Err(format!("phase is {phase}, not a fraction from 0 to below 1"));
                }
                ArrivalSpec::Periodic { rate_hz, phase }
            }
            RawArrivals::Poisson { rate_hz } => {
                check_rate(rate_hz)?;
                ArrivalSpec::Poisson { rate_hz }
            }
            RawArrivals::Trace { file: path, track } => {
                let track = read_track(&file(&path)?, &track);
                let track = track.map_err(|problem| format!("trace {}: {problem}", path.display()))?;
                ArrivalSpec::Trace { track: Arc::new(track), stretch: 1.0 }
            }
            RawArrivals::ClosedLoop { think_ms } => ArrivalSpec::ClosedLoop { think: think(think_ms)? },
            RawArrivals::After { client, think_ms } => {
                let index = names.iter().position(|name| *name == client);
                let client = index.ok_or_else(|| format!("it waits for '{client}', which is no client"))?;
                ArrivalSpec::After { client, think: think(think_ms)? }
            }
        })
    }
}

/// Every chain of clients that wait for others must begin with one that does not. A real-time client cannot
/// wait for a best-effort one, which the reference does without.
fn check_chains(clients: &[Client]) -> Result<(), String> {
    for (begin, client) in clients.iter().enumerate() {
        if let ArrivalSpec::After { client: other, .. } = client.arrivals
            && (client.class, clients[other].class) == (ClassName::RealTime, ClassName::BestEffort)
        {
            let (name, other) = (&client.name, &clients[other].name);
            return Err(format!("the real-time client '{name}' waits for '{other}', which is best-effort"));
        }
        let mut at = begin;
        for _ in 0..=clients.len() {
            let ArrivalSpec::After { client: next, .. } = clients[at].arrivals else { break };
            at = next;
        }
        if matches!(clients[at].arrivals, ArrivalSpec::After { .. }) {
            return Err(format!("client '{}' waits for itself through others", client.name));
        }
    }
    Ok(())
}

fn check_rate(rate_hz: f64) -> Result<(), String> {
    match (RATE_MIN_HZ..=RATE_MAX_HZ).contains(&rate_hz) {
        true => Ok(()),
        false => Err(format!("rate_hz is {rate_hz}, not {RATE_MIN_HZ} to {RATE_MAX_HZ}")),
    }
}

fn check_millis(what: &str, ms: f64) -> Result<(), String> {
    match ms > 0.0 && ms <= MILLIS_MAX {
        true => Ok(()),
        false => Err(format!("{what} is {ms}, not above 0 and at most {MILLIS_MAX}")),
    }
}

fn read_track(text: &str, track: &str) -> Result<Track, String> {
    let raw: RawTrace = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let unit_ns = match raw.unit.as_str() {
        "s" => 1e9,
        "ms" => 1e6,
        "us" => 1e3,
        "ns" => 1.0,
        other => return Err(format!("unit '{other}' is none of s, ms, us, ns")),
    };
    check_millis("its duration", raw.duration_s * 1e3)?;
    let duration = Nanos((raw.duration_s * 1e9) as u64);
    let Some(times) = raw.arrivals.get(track) else {
        let known = raw.arrivals.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(format!("there is no track '{track}'; there are {known}"));
    };
    if let Some(time) = times.iter().find(|time| time.is_nan() || **time < 0.0) {
        return Err(format!("track '{track}' has an arrival at {time}"));
    }
    let mut times: Vec<Nanos> = times.iter().map(|time| Nanos((time * unit_ns) as u64)).collect();
    let recorded = times.len();
    times.retain(|&time| time < duration);
    let beyond = recorded - times.len();
    times.sort_unstable();
    if times.is_empty() {
        return Err(format!("track '{track}' has no arrival before its end"));
    }
    Ok(Track { times, duration, beyond })
}

#[cfg(test)]
mod tests;
