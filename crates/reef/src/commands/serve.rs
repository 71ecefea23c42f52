//! `reef serve`: every model of a directory, until a signal asks to stop.
//!
//! | state | event | next |
//! |---|---|---|
//! | loading: live, not ready | all models are loaded | serving |
//! | loading | a model cannot be loaded | ends with an error |
//! | loading, serving | SIGINT or SIGTERM | draining; while models load there is nothing to drain |
//! | draining | all work has ended | ends with 0 |
//! | any after a signal | SIGINT or SIGTERM again | ends at once, with 128 and the signal's number |

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Sender, channel};

use anyhow::{Context, Result, anyhow, bail};
use reef_base::Class;
use reef_engine::{Engine, EngineOptions, ModelSettings, ModelSource, ModelSpec, Shape, TraceOptions};
use reef_server::{Server, ServerOptions, Signals};

use crate::cli::ServeArgs;
use crate::device;
use crate::output::say;
use crate::repository::{self, FoundModel};

/// Stack of the thread that loads models: what a main thread has.
const LOAD_STACK_BYTES: usize = 8 << 20;

/// What `reef serve` waits for.
enum Event {
    Loaded(Result<()>),
    Signal,
}

/// Serves until SIGINT or SIGTERM, then drains and ends.
pub fn run(args: &ServeArgs) -> Result<()> {
    let (events, event) = channel();
    watch_signals(events.clone())?;
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
    let running = server.open(engine.clone())?;
    load_all(engine.clone(), models, events)?;
    while let Event::Loaded(loaded) = event.recv().context("nobody waits for signals")? {
        loaded?;
        running.set_ready();
        // The log may be off: whoever asked for a free port finds it here.
        let metrics = running.metrics_addr().map(|address| format!(" metrics={address}"));
        say!("serving http={}{}", running.http_addr(), metrics.unwrap_or_default());
    }
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

/// From the start: a process that is the first one of its container is ended by no signal that it does not
/// handle.
fn watch_signals(events: Sender<Event>) -> Result<()> {
    let mut signals = Signals::install().context("cannot wait for signals")?;
    let watch = move || {
        signals.wait();
        let _ = events.send(Event::Signal);
        let signal = signals.wait();
        tracing::warn!(signal, "ended at once by a second signal");
        std::process::exit(128 + signal);
    };
    std::thread::Builder::new()
        .name("reef-signals".into())
        .spawn(watch)
        .context("cannot wait for signals")?;
    Ok(())
}

/// Loads the models on a thread, so that a signal need not wait for it.
fn load_all(engine: Engine, models: Vec<FoundModel>, events: Sender<Event>) -> Result<()> {
    let load_all = move || {
        let each = AssertUnwindSafe(|| models.iter().try_for_each(|model| load(&engine, model)));
        let loaded = std::panic::catch_unwind(each).unwrap_or_else(|_| Err(anyhow!("loading panicked")));
        let _ = events.send(Event::Loaded(loaded));
    };
    std::thread::Builder::new()
        .name("reef-load".into())
        .stack_size(LOAD_STACK_BYTES)
        .spawn(load_all)
        .context("cannot load models")?;
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
