//! What a benchmark run found, as it is written to `results.json` and read back for reports and comparisons.
//!
//! Everything that is shown anywhere is made of this alone. Times are in the unit that a field's name says;
//! ratios are plain numbers, 1 for equal.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use reef_base::{ClassName, Summary};

use crate::machine::{Machine, Others};
use crate::micro::Part;
use crate::typical::Estimate;

/// A file of results could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the results in {}: {why}", path.display())]
pub struct ResultsError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

/// The format of `results.json`; another major number cannot be read.
pub const FORMAT: &str = "reef-disb/1";

/// Everything that a run of the benchmark found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DisbReport {
    /// [`FORMAT`].
    pub format: String,
    /// Where.
    pub machine: Machine,
    /// How.
    pub setup: Setup,
    /// The models that were asked.
    pub models: Vec<ModelFacts>,
    /// What was played.
    pub workloads: Vec<WorkloadResult>,
    /// A short stretch of the device's timeline around a preemption, where there is one.
    #[serde(default)]
    pub timeline: Option<Timeline>,
    /// Micro-benchmarks of preemption on synthetic plans and per model, where they were run.
    #[serde(default)]
    pub sweeps: Vec<Part>,
    /// What others took of the machine while workloads were played, as a share.
    pub others_cpu: Others,
    /// What the run had to reach.
    pub checks: Vec<Check>,
    /// What went wrong on the way and was left out, for people.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Peers that failed and whose numbers are missing from there on.
    #[serde(default)]
    pub failed_systems: Vec<String>,
    /// Whether everything was played; false in what a run writes on its way.
    pub finished: bool,
}

/// How a run was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Whether the models were the low-resolution variants.
    pub small: bool,
    /// How the engine was asked: `engine` (in-process), `http` or a URL.
    pub via: String,
    /// The seed of arrivals and inputs.
    pub seed: u64,
    /// How often each condition of each workload was played.
    pub repeats: usize,
    /// Seconds played before each measured window.
    pub warm_up_s: f64,
    /// What was said of rates: `scaled`, `paper`, `NAME=HZ`.
    pub rate: Vec<String>,
    /// Compute units of the device; 0 where it is not ours.
    pub cus: usize,
}

/// A model and what it takes alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Its name.
    pub name: String,
    /// What it is: the zoo's variant or the file.
    pub source: String,
    /// Latency alone, one request after the other, by system, in the order of the systems.
    pub alone: Vec<Alone>,
    /// Latency alone on the machine that a workload's rates refer to (the paper's MI50), milliseconds.
    pub reference_ms: Option<f64>,
}

/// What a model takes alone on one system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alone {
    /// The system.
    pub system: String,
    /// From request to answer, microseconds.
    pub latency_us: Summary,
}

/// One workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadResult {
    /// Its name: `A` to `E`, `REAL`, or a file's own.
    pub name: String,
    /// What it is, in a line.
    pub title: String,
    /// Seconds measured per condition and repetition.
    pub seconds: f64,
    /// Its clients.
    pub clients: Vec<ClientFacts>,
    /// What played it; ours first.
    pub systems: Vec<SystemResult>,
}

impl WorkloadResult {
    /// Clients of which requests failed and none was answered, under each condition.
    fn unanswered(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for system in &self.systems {
            for condition in &system.conditions {
                let none = |client: &&ClientResult| client.failed > 0 && client.latency_us.is_none();
                lines.extend(condition.clients.iter().filter(none).map(|client| {
                    let (workload, system, condition) = (&self.name, &system.name, &condition.name);
                    format!("{workload}, {system}, {condition}: every request of {} failed", client.name)
                }));
            }
        }
        lines
    }
}

/// A client as it was played.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientFacts {
    /// Its name.
    pub name: String,
    /// The model it asks.
    pub model: String,
    /// Its class.
    pub class: ClassName,
    /// Its level.
    pub level: u8,
    /// When it asks, for people: `periodic 2.2/s`.
    pub arrivals: String,
    /// Mean rate of arrivals per second; `None` for closed loops and clients that wait for others.
    pub rate_hz: Option<f64>,
    /// Its deadline, milliseconds from the scheduled arrival.
    pub deadline_ms: Option<f64>,
}

/// One system on one workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SystemResult {
    /// Its name.
    pub name: String,
    /// Load that the real-time clients offer it: sum of the rate of their arrivals × time alone on it. `None`
    /// where a client's arrivals depend on answers.
    #[serde(default)]
    pub offered: Option<f64>,
    /// One per condition in the order of reports, the reference first. A condition that was played twice, as
    /// A against A, comes twice; the second one says so.
    pub conditions: Vec<ConditionResult>,
}

/// One condition of one system on one workload, all repetitions together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConditionResult {
    /// Its name: a scheme, `nice 19`, …
    pub name: String,
    /// What it means.
    pub title: String,
    /// Played a second time for the noise; ratios then refer to the first time of the *same* condition, and
    /// would be 1 without noise.
    pub again: bool,
    /// Per client, in the workload's order.
    pub clients: Vec<ClientResult>,
    /// All real-time clients together.
    pub real_time: RealTimeResult,
    /// All best-effort clients together; `None` where there are none.
    pub best_effort: Option<BestEffortResult>,
    /// Both together.
    pub overall: OverallResult,
    /// The device, where the system tells.
    pub device: Option<DeviceResult>,
    /// Processors that the system kept busy on average; the load generator's part is included where both
    /// share a process.
    pub cpus_busy: Option<f64>,
    /// Resident memory at the end, bytes; the largest of all repetitions.
    pub memory_bytes: Option<u64>,
    /// Whether the rate of a client was more than the system could hold.
    pub saturated: bool,
}

/// One client under one condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientResult {
    /// Its name.
    pub name: String,
    /// From the scheduled arrival to the answer. Requests that were never sent count with the time after
    /// which they were given up, so that percentiles of a saturated client are lower bounds.
    pub latency_us: Option<Summary>,
    /// Latency as a multiple of the model's median time alone, in the same repetition.
    pub slowdown: Option<Summary>,
    /// Latency as a ratio to the reference condition.
    pub to_reference: Option<LatencyRatios>,
    /// Of real-time clients: latencies in milliseconds at 0, 1, …, 100 % of the requests, for plots.
    #[serde(default)]
    pub quantiles_ms: Vec<f64>,
    /// Answers per second.
    pub per_s: Estimate,
    /// Answers after the deadline, and requests with a deadline that got none.
    pub misses: u64,
    /// Requests that failed or were refused.
    pub failed: u64,
    /// Arrivals that were never sent.
    pub unsent: u64,
    /// Arrivals that a newer one replaced.
    pub dropped: u64,
    /// Whether its rate was more than the system could hold.
    pub saturated: bool,
    /// The first failure.
    pub first_error: Option<String>,
}

/// Ratios of latencies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyRatios {
    /// Of the means.
    pub mean: Estimate,
    /// Of the medians.
    pub p50: Estimate,
    /// Of the 95th percentiles.
    pub p95: Estimate,
    /// Of the 99th percentiles.
    pub p99: Estimate,
}

/// All real-time clients of a condition together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RealTimeResult {
    /// Latency of all requests.
    pub latency_us: Option<Summary>,
    /// Slowdown of all requests.
    pub slowdown: Option<Summary>,
    /// Latency as a ratio to the reference.
    pub to_reference: Option<LatencyRatios>,
    /// Slowdown as a ratio to the reference: unlike latencies, slowdowns of different models can be pooled.
    pub slowdown_to_reference: Option<LatencyRatios>,
    /// Answers per second.
    pub per_s: Estimate,
    /// Share of the time in which a real-time task was on the device (or, where the system does not say,
    /// being answered).
    pub busy: Estimate,
    /// Deadlines missed.
    pub misses: u64,
}

/// All best-effort clients of a condition together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestEffortResult {
    /// Answers per second.
    pub per_s: Estimate,
    /// Sum over clients of rate × time alone: the share of a dedicated device that their work would take.
    pub device_share: Estimate,
    /// What real-time clients leave: 1 − their busy share under the reference condition.
    pub bound: f64,
    /// `device_share` ÷ `bound`; `None` where real-time clients leave less than a twentieth of the device.
    pub of_bound: Option<Estimate>,
}

/// Both classes together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OverallResult {
    /// Answers per second.
    pub per_s: Estimate,
    /// As a ratio to the reference.
    pub to_reference: Option<Estimate>,
    /// What the ratio would be if best-effort work got exactly its bound in the mix that it got.
    pub to_reference_bound: Option<f64>,
    /// Best-effort answers normalised by (time alone ÷ time alone of a real-time request), as the paper's
    /// section 7.4 does, plus the real-time ones; as a ratio to the reference.
    pub normalised_to_reference: Option<Estimate>,
}

/// What a device did under a condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceResult {
    /// Real-time tasks that displaced less urgent work.
    pub preemptions: u64,
    /// From the submission of such a task to its first block, microseconds.
    pub preempt_us: Option<Summary>,
    /// Blocks killed.
    pub blocks_killed: u64,
    /// Blocks that ran again although they had finished.
    pub blocks_rerun: u64,
    /// Compute-unit time of killed executions as a share of the device's time.
    pub wasted_share: f64,
    /// Work lost to kills per preemption, microseconds.
    pub wasted_us_per_preemption: Option<f64>,
    /// Compute-unit time of best-effort blocks beside real-time stages, as a share of the device's time.
    pub padding_share: f64,
    /// Compute-unit time of all finished blocks, as a share of the device's time.
    pub cu_utilisation: f64,
}

/// Something that a run had to reach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// The workload.
    pub workload: String,
    /// What, for people.
    pub what: String,
    /// What was measured.
    pub value: f64,
    /// At most this, or at least, without the noise.
    pub bound: f64,
    /// Whether the value has to be at least the bound.
    pub at_least: bool,
    /// What the noise (A against A, half the width of the 95 % interval) adds to the bound.
    pub noise: f64,
    /// Whether it was reached.
    pub met: bool,
    /// Why nothing is shown; `None` where the value can be judged.
    #[serde(default)]
    pub not_shown: Option<String>,
}

impl Check {
    /// The verdict in words.
    pub fn verdict(&self) -> String {
        let without_noise = match self.at_least {
            true => self.value >= self.bound,
            false => self.value <= self.bound,
        };
        match (self.met, without_noise, &self.not_shown) {
            (_, _, Some(why)) => format!("not shown: {why}"),
            (true, true, None) => "met".to_string(),
            (true, false, None) => "met within noise".to_string(),
            (false, _, None) => "not met".to_string(),
        }
    }
}

/// A stretch of the device's timeline. Times are microseconds from its begin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// What is seen, in a line.
    pub title: String,
    /// Its length.
    pub length_us: f64,
    /// Compute units.
    pub cus: usize,
    /// Blocks.
    pub spans: Vec<Span>,
    /// Moments: arrival, first block, answer.
    pub marks: Vec<Mark>,
}

/// A block on a compute unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// The compute unit, from 0.
    pub cu: usize,
    /// When it began; may lie before the stretch.
    pub begin_us: f64,
    /// When it ended; may lie behind the stretch.
    pub end_us: f64,
    /// The model.
    pub model: String,
    /// The kernel.
    pub kernel: String,
    /// The class.
    pub class: ClassName,
    /// How it went.
    pub what: SpanKind,
}

/// How a block went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanKind {
    /// It ran to its end.
    Block,
    /// It ran to its end beside a real-time stage.
    Padding,
    /// It was killed.
    Killed,
}

/// A moment on a timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// When.
    pub at_us: f64,
    /// What.
    pub what: String,
}

impl DisbReport {
    /// As JSON in one line, numbers with seven significant digits: more was not measured.
    pub fn to_json(&self) -> String {
        let mut value = serde_json::to_value(self).expect("a report has no map with other keys than strings");
        round(&mut value);
        value.to_string()
    }

    /// Reads what [`DisbReport::to_json`] wrote.
    pub fn read(path: &Path) -> Result<DisbReport, ResultsError> {
        let unreadable = |why: String| ResultsError { path: path.to_path_buf(), why };
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| unreadable(format!("no JSON: {error}")))?;
        match value.get("format").and_then(serde_json::Value::as_str) {
            Some(FORMAT) => {}
            Some(other) => return Err(unreadable(format!("its format is '{other}', not '{FORMAT}'"))),
            None => return Err(unreadable("it is not a result of this benchmark".to_string())),
        }
        serde_json::from_value(value).map_err(|error| unreadable(error.to_string()))
    }

    /// Targets that were judged and not met.
    pub fn checks_missed(&self) -> usize {
        self.checks.iter().filter(|check| !check.met && check.not_shown.is_none()).count()
    }

    /// What is missing for a whole result: each a line.
    pub fn missing(&self) -> Vec<String> {
        let mut missing: Vec<String> =
            self.failed_systems.iter().map(|system| format!("{system} failed")).collect();
        if !self.finished {
            missing.push("the run was not finished".to_string());
        }
        let not_shown = self.checks.iter().filter(|check| check.not_shown.is_some()).count();
        if not_shown > 0 {
            missing.push(format!("{not_shown} targets could not be judged"));
        }
        missing.extend(self.workloads.iter().flat_map(WorkloadResult::unanswered));
        missing
    }

    /// Checks that were met, and all.
    pub fn checks_met(&self) -> (usize, usize) {
        (self.checks.iter().filter(|check| check.met).count(), self.checks.len())
    }
}

fn round(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Array(items) => items.iter_mut().for_each(round),
        Value::Object(fields) => fields.values_mut().for_each(round),
        Value::Number(number) if number.is_f64() => {
            let exact = number.as_f64().expect("it is one");
            let short = format!("{exact:.6e}").parse::<f64>().ok().and_then(serde_json::Number::from_f64);
            *number = short.unwrap_or_else(|| number.clone());
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
