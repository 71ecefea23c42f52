//! `reef models`, `stats`, `load`, `unload`: what a running server is asked.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cli::{LoadArgs, ModelsArgs, StatsArgs, UnloadArgs};
use crate::output::say;
use crate::remote::{Remote, encoded};

/// Lists models.
pub fn models(args: &ModelsArgs) -> Result<()> {
    let index = Remote::new(&args.remote)?.post("/v2/repository/index", &json!({}))?;
    if args.json {
        say!("{index:#}");
        return Ok(());
    }
    let mut rows = vec![["MODEL", "VERSION", "STATE", "REASON"].map(String::from)];
    for row in index.as_array().context("the server's index is no list")? {
        rows.push(["name", "version", "state", "reason"].map(|key| text(&row[key])));
    }
    print(&rows);
    Ok(())
}

/// Shows counters and mean times.
pub fn stats(args: &StatsArgs) -> Result<()> {
    let path = match &args.model {
        Some(model) => format!("/v2/models/{}/stats", encoded(model)),
        None => "/v2/models/stats".into(),
    };
    let stats = Remote::new(&args.remote)?.get_json(&path)?;
    if args.json {
        say!("{stats:#}");
        return Ok(());
    }
    let header = ["MODEL", "VERSION", "DONE", "FAILED", "TOTAL ms", "QUEUE ms", "COMPUTE ms"];
    let mut rows = vec![header.map(String::from)];
    for row in stats["model_stats"].as_array().context("the server's statistics are no list")? {
        let of = |what: &str| &row["inference_stats"][what];
        rows.push([
            text(&row["name"]),
            text(&row["version"]),
            text(&of("success")["count"]),
            text(&of("fail")["count"]),
            mean_ms(of("success")),
            mean_ms(of("queue")),
            mean_ms(of("compute_infer")),
        ]);
    }
    print(&rows);
    Ok(())
}

/// Loads a model.
pub fn load(args: &LoadArgs) -> Result<()> {
    let mut body = json!({});
    if let Some(path) = &args.config {
        let config = std::fs::read_to_string(path);
        let config = config.with_context(|| format!("cannot read {}", path.display()))?;
        let checked: Result<Value, _> = serde_json::from_str(&config);
        checked.with_context(|| format!("{} is not JSON", path.display()))?;
        body = json!({ "parameters": { "config": config } });
    }
    Remote::new(&args.remote)?
        .post(&format!("/v2/repository/models/{}/load", encoded(&args.model)), &body)?;
    say!("loaded {}", args.model);
    Ok(())
}

/// Unloads a model.
pub fn unload(args: &UnloadArgs) -> Result<()> {
    let path = format!("/v2/repository/models/{}/unload", encoded(&args.model));
    let body = json!({ "parameters": { "unload_dependents": args.dependents } });
    Remote::new(&args.remote)?.post(&path, &body)?;
    say!("unloaded {}", args.model);
    Ok(())
}

/// What is shown for a value; texts have nothing that moves the cursor.
fn text(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), String::from);
    text.chars().map(|c| if c.is_control() { '�' } else { c }).collect()
}

fn mean_ms(times: &Value) -> String {
    match (times["count"].as_u64(), times["ns"].as_u64()) {
        (Some(count), Some(ns)) if count > 0 => format!("{:.3}", ns as f64 / count as f64 / 1e6),
        _ => "-".into(),
    }
}

/// Columns as wide as they need to be.
fn print<const N: usize>(rows: &[[String; N]]) {
    let widths: [usize; N] =
        std::array::from_fn(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        say!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
