//! `reef serve`: every model of a directory, until a signal asks to stop.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use reef_base::Class;
use reef_engine::{Engine, EngineOptions, ModelSettings, ModelSource, ModelSpec, Shape, TraceOptions};
use reef_server::{Server, ServerOptions};

use crate::cli::ServeArgs;
use crate::device;
use crate::repository::{self, FoundModel};

/// Serves until SIGINT or SIGTERM, then drains and ends.
pub fn run(args: &ServeArgs) -> Result<()> {
    let models = repository::scan(&args.models)?;
    if models.is_empty() {
        bail!("{}: no models (NAME.onnx or NAME/1/model.onnx)", args.models.display());
    }
    // The ports first: a port in use should not be found out after minutes of compiling.
    let server = Server::bind(ServerOptions {
        http: SocketAddr::new(args.address, args.http_port),
        metrics: Some(SocketAddr::new(args.address, args.metrics_port)),
        body_bytes_max: args.max_body,
        ..ServerOptions::default()
    })?;
    let engine = Engine::new(device::start(&args.device, args.scheme)?, EngineOptions::default())?;
    if let Some(path) = &args.trace {
        engine.start_trace(TraceOptions::new(path))?;
    }
    for model in &models {
        load(&engine, model)?;
    }
    let running = server.start(engine.clone())?;
    running.wait_for_signal().context("cannot wait for signals")?;
    if !running.shutdown(args.drain_timeout) {
        tracing::warn!("some connections had to be cut off");
    }
    if args.trace.is_some() {
        match engine.stop_trace() {
            Ok(summary) => {
                tracing::info!(path = %summary.path.display(), events = summary.events, "trace written")
            }
            // The engine's shutdown writes it as well.
            Err(reef_engine::TraceError::State(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn load(engine: &Engine, model: &FoundModel) -> Result<()> {
    let settings = settings(model)?;
    if model.settings.is_none() {
        tracing::info!("model {} has no settings: best-effort", model.key);
    }
    let started = std::time::Instant::now();
    let source = ModelSource::Path(model.path.clone());
    let class = settings.class;
    let info = engine
        .load(ModelSpec { key: model.key.clone(), source, settings })
        .with_context(|| format!("cannot load the model {} ({})", model.key, model.path.display()))?;
    let weights: usize = info.plans.iter().map(|plan| plan.weight_bytes).max().unwrap_or(0);
    tracing::info!(
        class = describe(class),
        plans = info.plans.len(),
        weights_mib = weights >> 20,
        seconds = format!("{:.1}", started.elapsed().as_secs_f64()),
        "loaded {}",
        model.key
    );
    Ok(())
}

fn describe(class: Class) -> String {
    match class {
        Class::RealTime(level) => format!("real-time level {}", level.get()),
        Class::BestEffort => "best-effort".into(),
    }
}

/// The engine's settings for a model that was found.
pub fn settings(model: &FoundModel) -> Result<ModelSettings> {
    let defaults = ModelSettings::default();
    let Some(own) = &model.settings else { return Ok(defaults) };
    let shapes =
        own.shapes.iter().flatten().map(|set| {
            set.iter().map(|(name, extents)| (name.clone(), Shape::from(extents.clone()))).collect()
        });
    Ok(ModelSettings {
        class: own.class()?,
        weight: own.weight.unwrap_or(defaults.weight),
        deadline: own.deadline()?,
        queue_len: own.queue_len.unwrap_or(defaults.queue_len),
        shapes: shapes.collect(),
        ..defaults
    })
}
