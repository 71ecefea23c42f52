//! The demo: two real-time models and a best-effort one over HTTP, under every scheme on the same machine.
//!
//! Owns what is measured and in which order; the engine with its models and the server in front of it are the
//! binary's. The sequence: alone (every model by itself, under `rt-only` and `reset`), then each scheme with
//! all clients, warm-up excluded, then a short stretch with the trace on that no number comes from.

mod report;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reef_base::{Level, ModelKey, MonotonicClock, Nanos};
use reef_device::Scheme;
use reef_engine::{Engine, EngineStats, ModelSettings, ModelSource, ModelSpec, TraceError, TraceOptions};
use reef_zoo::{Model, Variant};

use crate::callers::{Caller, HttpCaller, random_request};
use crate::error::BenchError;
use crate::http::{Client, InferParameters, Prepared};
use crate::load::{ClosedLoop, LoadResult, OpenLoop};
use crate::machine::{Machine, Others, Watch};
use crate::progress::Progress;
use crate::recorder::Samples;
use crate::schedule::Schedule;

pub use report::{BestEffort, DemoReport, PreemptLatency, SchemeResult, Stream, StreamResult};

const CONTROL_HZ: f64 = 200.0;
const CAMERA_SHARE: f64 = 0.3;
const CAMERA_HZ_MAX: f64 = 240.0;
/// Most requests of one stream that can be under way at once; more wait in the client.
const CONTROL_CALLERS: usize = 64;
const CAMERA_CALLERS: usize = 16;
/// Two, so that the device has the next inference while the first one's answer is on its way.
const BEST_EFFORT_CALLERS: usize = 2;
const GRACE: Duration = Duration::from_secs(5);
const TRACE_TIME: Duration = Duration::from_millis(500);

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
            + self.trace.as_ref().map_or(Duration::ZERO, |_| TRACE_TIME)
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
    streams: Vec<LoadResult>,
    best_effort: Option<LoadResult>,
    before: EngineStats,
    after: EngineStats,
    /// Why there is no trace, if one was asked for.
    trace_error: Option<TraceError>,
}

/// What the engine and the best-effort clients did in the measured time.
struct Watched {
    before: EngineStats,
    after: EngineStats,
    best_effort: Option<LoadResult>,
    trace: Result<(), TraceError>,
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
            machine: Machine::now(&self.engine.capabilities().name),
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
            report.push(scheme, measured)?;
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
        let load = ClosedLoop::start(self.callers(request, callers));
        self.progress.sleep(self.options.warm_up());
        load.restart();
        let before = self.engine.stats();
        self.progress.sleep(self.options.alone());
        let after = self.engine.stats();
        let result = load.take().into_ok()?;
        drop(load);
        let nothing = || BenchError::NoSamples(format!("{model} alone gave no answer"));
        Ok(Alone {
            latency_us: result.latency_us.summary().ok_or_else(nothing)?.p50,
            compute_us: compute_us(model, &before, &after).ok_or_else(nothing)?,
            rate_per_s: result.rate_per_s().filter(|&rate| rate > 0.0).ok_or_else(nothing)?,
        })
    }

    fn scheme(&self, scheme: Scheme, streams: &[Stream; 2]) -> Result<Measured, BenchError> {
        self.engine.set_scheme(scheme);
        let best_effort = (scheme != Scheme::RtOnly)
            .then(|| ClosedLoop::start(self.callers(&self.requests.best_effort, BEST_EFFORT_CALLERS)));
        let mut callers = [
            self.callers(&self.requests.control, CONTROL_CALLERS),
            self.callers(&self.requests.camera, CAMERA_CALLERS),
        ];
        let traced = self.options.trace.as_deref().filter(|_| scheme == Scheme::Reset);
        let warm_up = self.options.warm_up();
        let duration = warm_up + self.options.time_per_scheme + traced.map_or(Duration::ZERO, |_| TRACE_TIME);
        let open = |stream: &Stream, phase| OpenLoop {
            schedule: Schedule::periodic(stream.rate_hz, phase, duration),
            measured: Nanos::from(warm_up)..Nanos::from(warm_up + self.options.time_per_scheme),
            grace: GRACE,
        };
        let loops = [open(&streams[0], 0.0), open(&streams[1], 0.37)];
        let start = MonotonicClock::read();
        let (streams, watched) = std::thread::scope(|scope| {
            let run = |(open, callers): (OpenLoop, _)| scope.spawn(move || open.run(start, callers));
            let handles: Vec<_> = loops.into_iter().zip(&mut callers).map(|(o, c)| run((o, c))).collect();
            let watched = self.watch(best_effort.as_ref(), traced);
            let join =
                |handle: std::thread::ScopedJoinHandle<'_, _>| handle.join().expect("loads do not panic");
            (handles.into_iter().map(join).collect::<Vec<LoadResult>>(), watched)
        });
        let Watched { before, after, best_effort, trace } = watched;
        let best_effort = best_effort.map(LoadResult::into_ok).transpose()?;
        Ok(Measured { streams, best_effort, before, after, trace_error: trace.err() })
    }

    /// Watches while the clients run, then has the trace written.
    fn watch(&self, best_effort: Option<&ClosedLoop>, traced: Option<&Path>) -> Watched {
        self.progress.sleep(self.options.warm_up());
        if let Some(load) = best_effort {
            load.restart();
        }
        let before = self.engine.stats();
        self.progress.sleep(self.options.time_per_scheme);
        let after = self.engine.stats();
        let best_effort = best_effort.map(ClosedLoop::take);
        // A trace that cannot be written must not cost the measurement: the report says so.
        let trace = traced.map_or(Ok(()), |path| self.trace(path));
        Watched { before, after, best_effort, trace }
    }

    fn trace(&self, path: &Path) -> Result<(), TraceError> {
        self.engine.start_trace(TraceOptions::new(path))?;
        self.progress.sleep(TRACE_TIME);
        self.engine.stop_trace().map(|_| ())
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

/// All samples of preemption latency that answers brought.
fn preempt_samples(streams: &[LoadResult]) -> Samples {
    let mut all = Samples::default();
    streams.iter().for_each(|stream| all.extend(&stream.preempt_us));
    all
}
