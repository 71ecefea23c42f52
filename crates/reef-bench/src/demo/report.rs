//! What the demo found: for people a table with one column per scheme, for machines JSON.

use std::fmt;
use std::path::Path;

use reef_base::{Nanos, Samples, Summary};
use reef_device::Scheme;
use reef_load::{PlayedClient, Run};
use reef_report::text::short;
use reef_report::{Machine, Others};
use serde::Serialize;

use super::{Alone, Measured};
use crate::error::BenchError;

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
    /// From the scheduled arrival to the answer. Requests that were never sent count with the time
    /// after which they were given up.
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

    pub(super) fn push(&mut self, scheme: Scheme, measured: &Measured) -> Result<(), BenchError> {
        let Measured { run, played, .. } = measured;
        let (before, after) = (&measured.before.device, &measured.after.device);
        let trace_error = measured.trace_error.as_ref().map(ToString::to_string);
        self.trace_error = self.trace_error.take().or(trace_error);
        let mut real_time = Vec::new();
        for (index, stream) in self.real_time.iter().enumerate() {
            let rt_only = self.schemes.first().map(|first| first.real_time[index].latency_us);
            let result = stream_result(run, index, &played[index], rt_only);
            real_time.push(result.map_err(|why| failed(stream.model, scheme, why))?);
        }
        // The client behind the streams, where there is one.
        let best_effort = self.real_time.len();
        let rate = played.get(best_effort).map(|played| run.per_s(best_effort, played));
        if let Some(why) = played.get(best_effort).and_then(PlayedClient::failure) {
            return Err(failed(self.best_effort.model, scheme, why));
        }
        self.schemes.push(SchemeResult {
            scheme: scheme.name(),
            real_time,
            best_effort_per_s: rate,
            best_effort_share: rate.map(|rate| rate / self.best_effort.alone_per_s),
            preemptions: after.preemptions - before.preemptions,
            preempt_latency: preempt_latency(run, &played[..best_effort]),
            blocks_killed: after.blocks_killed - before.blocks_killed,
            wasted_ms: after.wasted.since(before.wasted).as_millis_f64(),
        });
        Ok(())
    }
}

fn failed(model: &str, scheme: Scheme, why: &str) -> BenchError {
    BenchError::NoSamples(format!("{model} under {scheme}: {why}"))
}

/// What the client of this index in `run` saw. `rt_only`: what the ratios refer to; `None` for that scheme
/// itself. An error says why there is nothing to report.
fn stream_result<'a>(
    run: &Run,
    index: usize,
    played: &'a PlayedClient,
    rt_only: Option<Summary>,
) -> Result<StreamResult, &'a str> {
    let latency_us = run.latencies_us(index, played).summary();
    let nothing = "no answer in the measured time";
    let latency_us = latency_us.ok_or(played.first_error.as_deref().unwrap_or(nothing))?;
    let rt_only = rt_only.unwrap_or(latency_us);
    Ok(StreamResult {
        latency_us,
        p50_ratio: latency_us.p50 / rt_only.p50,
        p95_ratio: latency_us.p95 / rt_only.p95,
        failed: played.failed.len() as u64,
        unsent: run.unsent(played).count() as u64,
        first_error: played.failure().map(str::to_string),
    })
}

/// Over all real-time clients, which come first in `run`.
fn preempt_latency(run: &Run, played: &[PlayedClient]) -> Option<PreemptLatency> {
    let records = played.iter().enumerate().flat_map(|(index, played)| run.records(index, played));
    let preempt = records.filter_map(|record| record.preempt);
    let samples: Samples = preempt.map(Nanos::as_micros_f64).collect();
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
