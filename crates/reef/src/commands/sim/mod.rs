//! `reef sim`: devices in virtual time.

mod disb;
mod ideas;
mod paper;
mod plan;
mod run;

use std::path::Path;

use anyhow::Result;
use reef_base::Nanos;
use reef_load::Workload;
use reef_sim::fleet::{Client, ClientReport, Used};
use serde_json::{Value, json};

use crate::cli::SimCommand;

/// Runs what was asked for.
pub fn run(command: &SimCommand) -> Result<()> {
    match command {
        SimCommand::Paper(args) => paper::run(args),
        SimCommand::Run(args) => run::run(args),
        SimCommand::Disb(args) => disb::run(args),
        SimCommand::Ideas(args) => ideas::run(args),
        SimCommand::Plan(args) => plan::run(args),
    }
}

/// The text of a file, or why there is none.
fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// A workload: built in, or a file.
fn workload(name: impl AsRef<Path>) -> Result<Workload> {
    let name = name.as_ref();
    match Workload::built_in(&name.to_string_lossy()) {
        Ok(workload) => Ok(workload),
        Err(unknown) if name.extension().is_none() && !name.exists() => Err(unknown.into()),
        Err(_) => Ok(Workload::read(name)?),
    }
}

/// Three digits after the point.
fn ms(time: Nanos) -> f64 {
    (time.0 / 1000) as f64 / 1e3
}

/// The head of [`client_line`].
fn client_head() -> String {
    let (client, answers, p50, p99, max) = ("client", "answers", "p50 ms", "p99 ms", "max ms");
    format!("{client:24} {answers:>11} {p50:>10} {p99:>10} {max:>10} {:>9} {:>9}", "missed", "not run")
}

/// What came of a client, in a line.
fn client_line(client: &Client, report: &ClientReport) -> String {
    let latency = &report.latency;
    let missed = client.deadline.map_or("-".into(), |_| report.missed.to_string());
    format!(
        "{:24} {:>11} {:>10.3} {:>10.3} {:>10.3} {missed:>9} {:>9}",
        client.name,
        report.completed,
        ms(latency.per_mille(500)),
        ms(latency.per_mille(990)),
        ms(latency.max()),
        report.ended() - report.completed,
    )
}

fn client_json(client: &Client, report: &ClientReport) -> Value {
    let latency = &report.latency;
    json!({
        "name": client.name,
        "class": client.class.name(),
        "latency_ns": {
            "p50": latency.per_mille(500).0, "p90": latency.per_mille(900).0, "p99": latency.per_mille(990).0,
            "max": latency.max().0, "mean": latency.mean().0, "count": latency.count(),
        },
        "arrived": report.arrived,
        "completed": report.completed,
        "refused": report.refused,
        "stopped": report.stopped,
        "dropped": report.dropped,
        "unsent": report.unsent,
        "unfinished": report.unfinished,
        "deadline_ns": client.deadline.map(|deadline| deadline.0),
        "missed": report.missed,
    })
}

fn used_json(name: &str, used: &Used, length: Nanos) -> Value {
    let share = |time: Nanos| time.0 as f64 / length.0 as f64;
    json!({
        "device": name,
        "utilisation": used.utilisation(length),
        "real_time": share(used.real_time),
        "best_effort": share(used.best_effort),
        "switching": share(used.switching),
        "preemptions": used.preemptions,
    })
}
