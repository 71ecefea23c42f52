//! Best-effort throughput on demand, for `scripts/cost-of.py`, which lets two builds of it take turns.
//!
//! `bursts SECONDS MODEL...` loads models of the zoo (`tiny-NAME` for the tiny variant). Then, for every line
//! `MODEL` on standard input, it runs that model back to back for SECONDS and prints inferences per second.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use reef_base::ModelKey;
use reef_bench::callers::SessionCaller;
use reef_cpu::{CpuDevice, CpuOptions};
use reef_engine::{Engine, EngineOptions, ModelSettings, ModelSource, ModelSpec};
use reef_load::Caller;
use reef_zoo::Variant;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let seconds: f64 = args.next().context("usage: bursts SECONDS MODEL...")?.parse()?;
    let burst = Duration::try_from_secs_f64(seconds)?;
    let device = CpuDevice::start(CpuOptions::default())?;
    let engine = Engine::new(Arc::new(device), EngineOptions::default())?;
    for name in args {
        load(&engine, &name)?;
    }
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    for name in std::io::stdin().lock().lines() {
        let mut caller = SessionCaller::new(&engine, &name?, 1)?;
        let (start, mut count) = (Instant::now(), 0);
        while start.elapsed() < burst {
            caller.call().map_err(anyhow::Error::from_boxed)?;
            count += 1;
        }
        writeln!(out, "{}", f64::from(count) / start.elapsed().as_secs_f64())?;
    }
    engine.shutdown(Duration::ZERO);
    Ok(())
}

fn load(engine: &Engine, name: &str) -> Result<()> {
    let (model, variant) = match name.strip_prefix("tiny-") {
        Some(model) => (model, Variant::tiny()),
        None => (name, Variant::full()),
    };
    let source = ModelSource::Bytes(reef_zoo::build(model.parse()?, &variant)?);
    let key = ModelKey { name: name.to_string(), version: "1".to_string() };
    engine.load(ModelSpec { key, source, settings: ModelSettings::default() })?;
    Ok(())
}
