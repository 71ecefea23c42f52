//! What the demo found: for people a table with one column per scheme, for machines JSON.

use std::fmt;
use std::path::Path;

use reef_device::Scheme;
use serde::Serialize;

use super::{Alone, Measured, preempt_samples};
use crate::error::BenchError;
use crate::load::LoadResult;
use crate::machine::{Machine, Others};
use crate::recorder::{Samples, Summary};
use crate::report::short;

/// Everything that the demo measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DemoReport {
    /// Where.
    pub machine: Machine,
    /// Whether the models were tiny.
    pub quick: bool,
    /// What others took of the machine meanwhile, as a share.
    pub others_cpu: Others,
    /// Time per scheme, without warm-up.
    pub seconds_per_scheme: f64,
    /// The real-time clients.
    pub real_time: Vec<Stream>,
    /// The best-effort client.
    pub best_effort: BestEffort,
    /// One entry per scheme, `rt-only` first.
    pub schemes: Vec<SchemeResult>,
    /// Why the trace could not be written; `None` when it was, or none was asked for. A file of that name
    /// then is of an earlier run.
    pub trace_error: Option<String>,
}

/// A real-time client.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stream {
    /// The model it asks.
    pub model: &'static str,
    /// Its real-time level.
    pub level: u8,
    /// Arrivals per second.
    pub rate_hz: f64,
    /// Median latency over HTTP of the model alone, in a closed loop.
    pub alone_latency_us: f64,
    /// Mean time on the device of the model alone.
    pub alone_compute_us: f64,
}

impl Stream {
    pub(super) fn new(model: &'static str, level: u8, rate_hz: f64, alone: &Alone) -> Stream {
        let (alone_latency_us, alone_compute_us) = (alone.latency_us, alone.compute_us);
        Stream { model, level, rate_hz, alone_latency_us, alone_compute_us }
    }
}

/// The best-effort client.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BestEffort {
    /// The model it asks.
    pub model: &'static str,
    /// Requests it keeps under way.
    pub clients: usize,
    /// Answers per second with the device to itself.
    pub alone_per_s: f64,
}

impl BestEffort {
    pub(super) fn new(model: &'static str, clients: usize, alone_per_s: f64) -> BestEffort {
        BestEffort { model, clients, alone_per_s }
    }
}

/// One scheme.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SchemeResult {
    /// Its name.
    pub scheme: &'static str,
    /// One entry per real-time client.
    pub real_time: Vec<StreamResult>,
    /// Best-effort answers per second; `None` where best-effort requests are refused.
    pub best_effort_per_s: Option<f64>,
    /// The same as a share of what the model gets alone.
    pub best_effort_share: Option<f64>,
    /// Tasks that displaced less urgent work.
    pub preemptions: u64,
    /// How long that took; `None` without preemptions.
    pub preempt_latency: Option<PreemptLatency>,
    /// Blocks killed.
    pub blocks_killed: u64,
    /// Compute-unit time that killed blocks had used.
    pub wasted_ms: f64,
}

/// One real-time client under one scheme.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamResult {
    /// From the scheduled arrival to the answer.
    pub latency_us: Summary,
    /// Median as a ratio to `rt-only`.
    pub p50_ratio: f64,
    /// 95th percentile as a ratio to `rt-only`.
    pub p95_ratio: f64,
    /// Requests that got an error.
    pub failed: u64,
    /// Arrivals that were never sent because too many were under way.
    pub unsent: u64,
    /// The first error.
    pub first_error: Option<String>,
}

/// From a real-time task's submission to its first block, of tasks that displaced less urgent work.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PreemptLatency {
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
}

impl DemoReport {
    /// As indented JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report has no map with other keys than strings")
    }

    /// Writes the JSON to `path`.
    pub fn write_json(&self, path: &Path) -> Result<(), BenchError> {
        std::fs::write(path, self.to_json())
            .map_err(|source| BenchError::Write { path: path.to_path_buf(), source })
    }

    pub(super) fn push(&mut self, scheme: Scheme, measured: Measured) -> Result<(), BenchError> {
        let (before, after) = (&measured.before.device, &measured.after.device);
        let rate = measured.best_effort.as_ref().map(|load| load.rate_per_s().unwrap_or(0.0));
        self.trace_error = self.trace_error.take().or(measured.trace_error.map(|error| error.to_string()));
        let preempt_latency = preempt_latency(&preempt_samples(&measured.streams));
        let mut real_time = Vec::new();
        for (index, load) in measured.streams.into_iter().enumerate() {
            let alone = self.schemes.first().map(|first| first.real_time[index].latency_us);
            real_time.push(stream_result(self.real_time[index].model, scheme, load, alone)?);
        }
        self.schemes.push(SchemeResult {
            scheme: scheme.name(),
            real_time,
            best_effort_per_s: rate,
            best_effort_share: rate.map(|rate| rate / self.best_effort.alone_per_s),
            preemptions: after.preemptions - before.preemptions,
            preempt_latency,
            blocks_killed: after.blocks_killed - before.blocks_killed,
            wasted_ms: after.wasted.since(before.wasted).as_millis_f64(),
        });
        Ok(())
    }
}

/// `rt_only`: what the ratios refer to; `None` for that scheme itself.
fn stream_result(
    model: &str,
    scheme: Scheme,
    load: LoadResult,
    rt_only: Option<Summary>,
) -> Result<StreamResult, BenchError> {
    let Some(latency_us) = load.latency_us.summary() else {
        let nothing =
            || BenchError::NoSamples(format!("{model} under {scheme}: no answer in the measured time"));
        return Err(load.first_error.unwrap_or_else(nothing));
    };
    let rt_only = rt_only.unwrap_or(latency_us);
    Ok(StreamResult {
        latency_us,
        p50_ratio: latency_us.p50 / rt_only.p50,
        p95_ratio: latency_us.p95 / rt_only.p95,
        failed: load.failed,
        unsent: load.unsent,
        first_error: load.first_error.map(|error| error.to_string()),
    })
}

fn preempt_latency(samples: &Samples) -> Option<PreemptLatency> {
    samples.summary().map(|summary| PreemptLatency { p50_us: summary.p50, p99_us: summary.p99 })
}

const LABEL_WIDTH: usize = 30;
const COLUMN_WIDTH: usize = 12;

/// The table: one column per scheme, one line per quantity.
impl fmt::Display for DemoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        if self.quick {
            writeln!(f, "quick: tiny models; the numbers only show that everything works")?;
        }
        writeln!(f, "{}", self.others_cpu)?;
        let line = |f: &mut fmt::Formatter<'_>, label: &str, cell: &dyn Fn(&SchemeResult) -> String| {
            write!(f, "{label:LABEL_WIDTH$}")?;
            self.schemes.iter().try_for_each(|scheme| write!(f, "{:>COLUMN_WIDTH$}", cell(scheme)))?;
            writeln!(f)
        };
        line(f, "", &|scheme| scheme.scheme.to_string())?;
        for (index, stream) in self.real_time.iter().enumerate() {
            writeln!(f, "{}: real-time level {}, {:.1} Hz", stream.model, stream.level, stream.rate_hz)?;
            let of = |scheme: &SchemeResult| scheme.real_time[index].clone();
            line(f, "  latency p50, ms", &|scheme| short(of(scheme).latency_us.p50 / 1e3))?;
            line(f, "  latency p95, ms", &|scheme| short(of(scheme).latency_us.p95 / 1e3))?;
            line(f, "  latency max, ms", &|scheme| short(of(scheme).latency_us.max / 1e3))?;
            line(f, "  p50, ratio to rt-only", &|scheme| format!("{:.2}×", of(scheme).p50_ratio))?;
            line(f, "  p95, ratio to rt-only", &|scheme| format!("{:.2}×", of(scheme).p95_ratio))?;
            let lost = |scheme: &SchemeResult| of(scheme).failed + of(scheme).unsent;
            if self.schemes.iter().any(|scheme| lost(scheme) > 0) {
                line(f, "  failed or never sent", &|scheme| lost(scheme).to_string())?;
            }
        }
        let best_effort = &self.best_effort;
        let alone = short(best_effort.alone_per_s);
        writeln!(f, "{}: best-effort, {alone} inferences/s alone", best_effort.model)?;
        let optional = |value: Option<String>| value.unwrap_or_else(|| "–".to_string());
        line(f, "  inferences/s", &|scheme| optional(scheme.best_effort_per_s.map(short)))?;
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        line(f, "  share of alone", &|scheme| optional(scheme.best_effort_share.map(percent)))?;
        writeln!(f, "preemption")?;
        line(f, "  preemptions", &|scheme| scheme.preemptions.to_string())?;
        let latency = |of: fn(&PreemptLatency) -> f64| {
            move |scheme: &SchemeResult| {
                optional(scheme.preempt_latency.as_ref().map(|latency| short(of(latency))))
            }
        };
        line(f, "  latency p50, µs", &latency(|latency| latency.p50_us))?;
        line(f, "  latency p99, µs", &latency(|latency| latency.p99_us))?;
        line(f, "  blocks killed", &|scheme| scheme.blocks_killed.to_string())?;
        line(f, "  time they wasted, ms", &|scheme| short(scheme.wasted_ms))
    }
}
