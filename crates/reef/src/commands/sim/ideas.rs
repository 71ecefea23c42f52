//! `reef sim ideas`: what our own ideas are worth on the paper's GPU.

use std::time::Duration;

use anyhow::Result;
use reef_sim::ideas::{Row, ideas};
use serde_json::json;

use super::ms;
use crate::cli::SimIdeasArgs;
use crate::output::say;

/// Prints the table.
pub fn run(args: &SimIdeasArgs) -> Result<()> {
    let rows = ideas(Duration::from_secs(args.length), args.seed)?;
    if args.json {
        let rows: Vec<_> = rows.iter().map(as_json).collect();
        let run = json!({ "length_s": args.length, "seed": args.seed });
        say!("{}", serde_json::to_string_pretty(&json!({ "run": run, "rows": rows }))?);
        return Ok(());
    }
    let (mean, p99, per_s) = ("mean ms", "p99 ms", "best-eff/s");
    say!("{:9} {:24} {mean:>9} {p99:>9} {:>9} {per_s:>11} {:>9}", "workload", "", "to alone", "to REEF");
    for row in &rows {
        let (mean, p99) = (ms(row.mean), ms(row.p99));
        say!(
            "{:9} {:24} {mean:>9.3} {p99:>9.3} {:>9.3} {:>11.1} {:>9.3}",
            row.workload,
            row.name,
            row.latency,
            row.best_effort_per_s,
            row.best_effort,
        );
    }
    for row in rows.iter().filter(|row| row.workload == rows[0].workload) {
        say!("{:24} {}", row.name, row.title);
    }
    Ok(())
}

fn as_json(row: &Row) -> serde_json::Value {
    json!({
        "workload": row.workload,
        "name": row.name,
        "title": row.title,
        "real_time_ns": { "mean": row.mean.0, "p99": row.p99.0 },
        "latency_to_alone": row.latency,
        "best_effort_per_s": row.best_effort_per_s,
        "best_effort_to_reef": row.best_effort,
    })
}
