//! The demo: two real-time models and a best-effort one over HTTP, under every scheme on the same machine.
//!
//! Owns what is measured and in which order; the engine with its models and the server in front of it are the
//! binary's. The sequence: alone (every model by itself, under `rt-only` and `reset`), then each scheme with
//! all clients, warm-up excluded, then a short stretch with the trace on that no number comes from.

mod report;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reef_base::{ClassName, Level, ModelKey, Nanos};
use reef_device::Scheme;
use reef_engine::{Engine, EngineStats, ModelSettings, ModelSource, ModelSpec, TraceError, TraceOptions};
use reef_load::{Arrivals, COOL_DOWN, Caller, Callers, GRACE, PlayedClient, Run, RunClient};
use reef_report::Others;
use reef_zoo::{Model, Variant};

use crate::callers::{HttpCaller, random_request};
use crate::error::BenchError;
use crate::http::{Client, InferParameters, Prepared};
use crate::machine::{self, Watch};
use crate::progress::Progress;

pub use report::{BestEffort, DemoReport, PreemptLatency, SchemeResult, Stream, StreamResult};

const CONTROL_HZ: f64 = 200.0;
const CAMERA_SHARE: f64 = 0.3;
const CAMERA_HZ_MAX: f64 = 240.0;
/// Most requests of one stream that can be under way at once; more wait in the client.
const CONTROL_CALLERS: usize = 64;
const CAMERA_CALLERS: usize = 16;
/// Two, so that the device has the next inference while the first one's answer is on its way.
const BEST_EFFORT_CALLERS: usize = 2;
const TRACE_TIME: Duration = Duration::from_millis(500);
const TRACE_WARM_UP: Duration = Duration::from_millis(300);

/// What to run.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Tiny models and short runs.
    pub quick: bool,
    /// Time per scheme, without warm-up.
    pub time_per_scheme: Duration,
    /// Where to write a trace of half a second under `reset`.
    pub trace: Option<PathBuf>,
}

impl DemoOptions {
    /// The demo as it is meant, with `time` per scheme where given.
    pub fn new(quick: bool, time: Option<Duration>, trace: Option<PathBuf>) -> DemoOptions {
        let usual = Duration::from_millis(if quick { 2_500 } else { 10_000 });
        DemoOptions { quick, time_per_scheme: time.unwrap_or(usual), trace }
    }

    fn warm_up(&self) -> Duration {
        if self.quick { Duration::from_millis(300) } else { Duration::from_millis(1500) }
    }

    fn alone(&self) -> Duration {
        if self.quick { Duration::from_millis(500) } else { Duration::from_secs(3) }
    }

    fn total(&self) -> Duration {
        let schemes = (self.warm_up() + self.time_per_scheme) * Scheme::ALL.len() as u32;
        (self.warm_up() + self.alone()) * 3
            + schemes
            + self.trace.as_ref().map_or(Duration::ZERO, |_| TRACE_WARM_UP + TRACE_TIME)
    }
}

/// Writes the demo's models as `DIR/NAME.onnx`, with a `reef.toml` that `reef serve DIR` understands, and
/// says how to load them. Files that are there already are written again.
pub fn write_models(dir: &Path, quick: bool, progress: &Progress) -> Result<Vec<ModelSpec>, BenchError> {
    let write = |path: &Path, source| BenchError::Write { path: path.to_path_buf(), source };
    std::fs::create_dir_all(dir).map_err(|source| write(dir, source))?;
    let variant = if quick { Variant::tiny() } else { Variant::full() };
    let mut specs = Vec::new();
    let mut settings_text = String::new();
    for (model, level) in [(Model::Control, Some(0)), (Model::Resnet18, Some(1)), (Model::Resnet152, None)] {
        progress.phase(format!("writing {model}.onnx"));
        let path = dir.join(format!("{model}.onnx"));
        reef_zoo::write(model, &variant, &path)?;
        let class = match level {
            Some(level) => format!("class = \"real-time\"\nlevel = {level}\n"),
            None => "class = \"best-effort\"\n".to_string(),
        };
        settings_text += &format!("[model.{model}]\n{class}\n");
        let level = level.map(|level| Level::new(level).expect("levels 0 and 1 exist"));
        specs.push(ModelSpec {
            key: ModelKey { name: model.name().into(), version: "1".into() },
            source: ModelSource::Path(path),
            settings: level.map_or_else(ModelSettings::default, ModelSettings::real_time),
        });
    }
    let path = dir.join("reef.toml");
    std::fs::write(&path, settings_text).map_err(|source| write(&path, source))?;
    Ok(specs)
}

/// Drives the models of [`write_models`], which `engine` holds and serves at `address`, under every scheme.
/// The scheme is `reset` afterwards.
pub fn run(
    options: &DemoOptions,
    engine: &Engine,
    address: SocketAddr,
    progress: &Progress,
) -> Result<DemoReport, BenchError> {
    progress.expect(options.total());
    let demo = Demo { options, engine, address, progress, requests: Requests::prepare(address)? };
    let report = demo.run();
    engine.set_scheme(Scheme::Reset);
    progress.finish();
    report
}

struct Requests {
    control: Arc<Prepared>,
    camera: Arc<Prepared>,
    best_effort: Arc<Prepared>,
}

impl Requests {
    fn prepare(address: SocketAddr) -> Result<Requests, BenchError> {
        let mut client = Client::new(address);
        let mut prepare = |model: Model| {
            let metadata = client.metadata(model.name())?;
            random_request(&metadata, InferParameters::default(), 1).map(Arc::new)
        };
        Ok(Requests {
            control: prepare(Model::Control)?,
            camera: prepare(Model::Resnet18)?,
            best_effort: prepare(Model::Resnet152)?,
        })
    }
}

struct Demo<'a> {
    options: &'a DemoOptions,
    engine: &'a Engine,
    address: SocketAddr,
    progress: &'a Progress,
    requests: Requests,
}

/// What one scheme gave, before it is compared.
struct Measured {
    /// What was played: the real-time streams in their order, then the best-effort client where the scheme
    /// admits it.
    run: Run,
    played: Vec<PlayedClient>,
    before: EngineStats,
    after: EngineStats,
    /// Why there is no trace, if one was asked for.
    trace_error: Option<TraceError>,
}

impl Demo<'_> {
    fn run(&self) -> Result<DemoReport, BenchError> {
        let watch = Watch::start();
        let control = self.alone(Model::Control, Scheme::RtOnly, &self.requests.control, 1)?;
        let camera = self.alone(Model::Resnet18, Scheme::RtOnly, &self.requests.camera, 1)?;
        let best_effort =
            self.alone(Model::Resnet152, Scheme::Reset, &self.requests.best_effort, BEST_EFFORT_CALLERS)?;
        let streams = [
            Stream::new(Model::Control.name(), 0, CONTROL_HZ, &control),
            Stream::new(Model::Resnet18.name(), 1, camera_hz(&camera), &camera),
        ];
        let mut report = DemoReport {
            machine: machine::here(&self.engine.capabilities().name),
            quick: self.options.quick,
            others_cpu: Others(None),
            seconds_per_scheme: self.options.time_per_scheme.as_secs_f64(),
            real_time: streams.to_vec(),
            best_effort: BestEffort::new(
                Model::Resnet152.name(),
                BEST_EFFORT_CALLERS,
                best_effort.rate_per_s,
            ),
            schemes: Vec::new(),
            trace_error: None,
        };
        for scheme in Scheme::ALL {
            self.progress.phase(format!("scheme {scheme}"));
            let measured = self.scheme(scheme, &streams)?;
            report.push(scheme, &measured)?;
        }
        report.others_cpu = watch.others();
        Ok(report)
    }

    /// One model by itself in a closed loop.
    fn alone(
        &self,
        model: Model,
        scheme: Scheme,
        request: &Arc<Prepared>,
        callers: usize,
    ) -> Result<Alone, BenchError> {
        self.progress.phase(format!("{model} alone"));
        self.engine.set_scheme(scheme);
        let class = if scheme == Scheme::RtOnly { ClassName::RealTime } else { ClassName::BestEffort };
        let client = RunClient::new(model.name(), class, Arrivals::BACK_TO_BACK, callers);
        let run = run_of(vec![client], self.options.warm_up(), self.options.alone());
        let mut callers = vec![self.callers(request, callers)];
        let (played, before, after) = self.play(&run, &mut callers);
        let played = &played[0];
        let why = played.first_error.as_deref().unwrap_or("no answer");
        let nothing = || BenchError::NoSamples(format!("{model} alone: {why}"));
        if played.failure().is_some() {
            return Err(nothing());
        }
        Ok(Alone {
            latency_us: run.latencies_us(0, played).summary().ok_or_else(nothing)?.p50,
            compute_us: compute_us(model, &before, &after).ok_or_else(nothing)?,
            rate_per_s: Some(run.per_s(0, played)).filter(|&rate| rate > 0.0).ok_or_else(nothing)?,
        })
    }

    fn scheme(&self, scheme: Scheme, streams: &[Stream; 2]) -> Result<Measured, BenchError> {
        self.engine.set_scheme(scheme);
        let (warm_up, time) = (self.options.warm_up(), self.options.time_per_scheme);
        let mut callers = vec![
            self.callers(&self.requests.control, CONTROL_CALLERS),
            self.callers(&self.requests.camera, CAMERA_CALLERS),
        ];
        if scheme != Scheme::RtOnly {
            callers.push(self.callers(&self.requests.best_effort, BEST_EFFORT_CALLERS));
        }
        let run = run_of(clients(scheme, streams, warm_up + time), warm_up, time);
        let (played, before, after) = self.play(&run, &mut callers);
        let traced = self.options.trace.as_deref().filter(|_| scheme == Scheme::Reset);
        // A trace that cannot be written must not cost the measurement: the report says so.
        let trace = traced.map_or(Ok(()), |path| {
            let clients = clients(scheme, streams, TRACE_WARM_UP + TRACE_TIME);
            self.trace(path, &run_of(clients, TRACE_WARM_UP, TRACE_TIME), &mut callers)
        });
        Ok(Measured { run, played, before, after, trace_error: trace.err() })
    }

    /// Plays a run, with what the engine counted until the begin and the end of its measured window.
    fn play(&self, run: &Run, callers: &mut Callers) -> (Vec<PlayedClient>, EngineStats, EngineStats) {
        let stats = || self.engine.stats();
        self.progress.during(run.warm_up + run.measured, || reef_load::play(run, callers, stats, stats))
    }

    fn trace(&self, path: &Path, run: &Run, callers: &mut Callers) -> Result<(), TraceError> {
        let recording = AtomicBool::new(false);
        let start = || {
            let started = self.engine.start_trace(TraceOptions::new(path));
            recording.store(started.is_ok(), Ordering::Relaxed);
            started
        };
        // A trace that somebody else has started is theirs.
        let stop = || recording.load(Ordering::Relaxed).then(|| self.engine.stop_trace());
        let play = || reef_load::play(run, callers, start, stop);
        let (_, started, stopped) = self.progress.during(run.warm_up + run.measured, play);
        started?;
        stopped.map_or(Ok(()), |stopped| stopped.map(|_| ()))
    }

    fn callers(&self, request: &Arc<Prepared>, count: usize) -> Vec<Box<dyn Caller>> {
        let one =
            |_| Box::new(HttpCaller::new(Client::new(self.address), request.clone())) as Box<dyn Caller>;
        (0..count).map(one).collect()
    }
}

/// A model by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alone {
    /// Over HTTP, median.
    latency_us: f64,
    /// On the device, mean.
    compute_us: f64,
    /// Answers per second.
    rate_per_s: f64,
}

/// 30 % of what the device can do, unless the (tiny) model is so fast that the load would be mostly HTTP.
fn camera_hz(alone: &Alone) -> f64 {
    (CAMERA_SHARE * 1e6 / alone.compute_us).min(CAMERA_HZ_MAX)
}

/// Mean time on the device of the requests that `model` answered between two snapshots.
fn compute_us(model: Model, before: &EngineStats, after: &EngineStats) -> Option<f64> {
    let sums = |stats: &EngineStats| {
        let model = stats.models.iter().find(|stats| stats.key.name == model.name());
        model.map_or((Nanos::ZERO, 0), |m| {
            let (rt, be) = (&m.real_time, &m.best_effort);
            (rt.compute + be.compute, rt.success + be.success)
        })
    };
    let ((before_time, before_count), (after_time, after_count)) = (sums(before), sums(after));
    let count = after_count.checked_sub(before_count).filter(|&count| count > 0)?;
    Some(after_time.since(before_time).as_micros_f64() / count as f64)
}

fn run_of(clients: Vec<RunClient>, warm_up: Duration, measured: Duration) -> Run {
    Run { clients, warm_up, measured, cool_down: COOL_DOWN, grace: GRACE }
}

/// The clients of a scheme: two periodic streams for `length`, and the best-effort one where there is one.
/// The class and level of their requests are those that the models were loaded with.
fn clients(scheme: Scheme, streams: &[Stream; 2], length: Duration) -> Vec<RunClient> {
    let open = |stream: &Stream, phase, callers| {
        let arrivals = Arrivals::periodic(stream.rate_hz, phase, length);
        RunClient::new(stream.model, ClassName::RealTime, arrivals, callers)
    };
    let [control, camera] = streams;
    let mut clients = vec![open(control, 0.0, CONTROL_CALLERS), open(camera, 0.37, CAMERA_CALLERS)];
    if scheme != Scheme::RtOnly {
        let (model, class) = (Model::Resnet152.name(), ClassName::BestEffort);
        clients.push(RunClient::new(model, class, Arrivals::BACK_TO_BACK, BEST_EFFORT_CALLERS));
    }
    clients
}
