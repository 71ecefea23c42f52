//! What the dashboard shows: the server, its devices and its models now, and what they did in the last
//! seconds.
//!
//! Rates and percentiles are differences of two snapshots of the engine. The older ones are kept while
//! somebody looks, and there are few of them; the first answer is about all the time since the start. Nothing
//! is counted here: that nobody looks costs nothing.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reef_engine::{
    Class, ClassDistributions, ClassStats, DeviceStats, Distribution, EngineStats, FailureReason, ModelInfo,
    ModelKey, ModelState, ModelStats, Nanos, Timeline,
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::core::state::{Phase, State};

/// What rates and percentiles are about, at most.
const WINDOW: Nanos = Nanos::from_millis(10_000);

/// Snapshots that are kept have at least this between them.
const SPACING: Nanos = Nanos::from_millis(900);

/// How far the timeline goes back.
const TIMELINE: Nanos = Nanos::from_millis(1_000);

/// Who asks again before this has passed is told the same.
const FRESH_FOR: Duration = Duration::from_millis(200);

/// What was seen of late; shared by all who look.
#[derive(Default)]
pub(crate) struct Dashboard {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    snapshots: VecDeque<Snapshot>,
    told: Option<(Instant, String)>,
}

/// The engine at one moment.
struct Snapshot {
    stats: EngineStats,
    /// By model.
    spreads: Vec<(ModelKey, [ClassDistributions; 2])>,
}

impl Dashboard {
    /// Everything that the page shows, as JSON. Takes its time with many models: not for a thread that serves
    /// connections.
    pub(crate) fn report(&self, state: &State) -> String {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, told)) = &seen.told
            && at.elapsed() < FRESH_FOR
        {
            return told.clone();
        }
        let now = Snapshot::take(state);
        seen.snapshots.retain(|past| now.stats.at.since(past.stats.at) <= WINDOW + SPACING);
        let told = serde_json::to_string(&report(state, seen.snapshots.front(), &now));
        let told = told.expect("texts and numbers are always JSON");
        if seen.snapshots.back().is_none_or(|last| now.stats.at.since(last.stats.at) >= SPACING) {
            seen.snapshots.push_back(now);
        }
        seen.told = Some((Instant::now(), told.clone()));
        told
    }
}

impl Snapshot {
    fn take(state: &State) -> Snapshot {
        let spreads = state.engine.distributions().into_iter();
        let spreads = spreads.map(|model| (model.key, [model.real_time, model.best_effort])).collect();
        Snapshot { stats: state.engine.stats(), spreads }
    }

    fn model(&self, key: &ModelKey) -> Option<&ModelStats> {
        self.stats.models.iter().find(|model| model.key == *key)
    }

    fn spread(&self, key: &ModelKey) -> Option<&[ClassDistributions; 2]> {
        self.spreads.iter().find(|(known, _)| known == key).map(|(_, spreads)| spreads)
    }
}

#[derive(Serialize)]
struct Report<'a> {
    server: ServerReport,
    /// How long the time is that rates and percentiles are about.
    window_s: f64,
    /// Of all models together.
    preempt: Percentiles,
    devices: Vec<DeviceReport<'a>>,
    models: Vec<ModelReport>,
    timeline: Option<TimelineReport>,
}

#[derive(Serialize)]
struct ServerReport {
    name: &'static str,
    version: &'static str,
    state: &'static str,
    scheme: &'static str,
    uptime_s: f64,
    /// Where inference requests are taken over HTTP.
    http_port: u16,
}

fn report<'a>(state: &State, before: Option<&Snapshot>, now: &'a Snapshot) -> Report<'a> {
    let since = before.map_or(Nanos::ZERO, |before| before.stats.at);
    let window = now.stats.at.since(since);
    let server = ServerReport {
        name: crate::core::answer::SERVER,
        version: env!("CARGO_PKG_VERSION"),
        state: phase(state),
        scheme: now.stats.scheme.name(),
        uptime_s: now.stats.at.0 as f64 / 1e9,
        http_port: state.http_port(),
    };
    let device = |device: &'a DeviceStats| {
        let earlier = before.and_then(|before| before.stats.devices.iter().find(|d| d.name == device.name));
        let busy = device.counters.busy.since(earlier.map_or(Nanos::ZERO, |earlier| earlier.counters.busy));
        DeviceReport::new(device, share(busy, window, device.cus))
    };
    let total_cus = now.stats.devices.iter().map(|device| device.cus).sum();
    let mut models: Vec<ModelReport> = state.engine.models().into_iter().map(ModelReport::new).collect();
    for model in &mut models {
        model.classes = classes(model, before, now, window, total_cus);
    }
    models.extend(state.all_unavailable().into_iter().map(|(key, why)| ModelReport::unavailable(key, why)));
    let timeline = state.engine.timeline(TIMELINE).ok().map(|timeline| timeline_report(&timeline));
    let devices = now.stats.devices.iter().map(device).collect();
    let preempt = Percentiles::of(&preemptions(before, now));
    Report { server, window_s: window.0 as f64 / 1e9, preempt, devices, models, timeline }
}

/// How long the tasks of all models took that displaced others since `before`.
fn preemptions(before: Option<&Snapshot>, now: &Snapshot) -> Distribution {
    let mut sum = Distribution::default();
    for (key, spreads) in &now.spreads {
        let earlier = before.and_then(|before| before.spread(key));
        for (class, spread) in spreads.iter().enumerate() {
            let came = earlier.map(|earlier| spread.preempt.since(&earlier[class].preempt));
            sum.merge(came.as_ref().unwrap_or(&spread.preempt));
        }
    }
    sum
}

fn phase(state: &State) -> &'static str {
    if state.engine.fault().is_some() {
        return "failed";
    }
    match *state.phase.borrow() {
        Phase::Loading => "loading",
        Phase::Serving => "serving",
        Phase::Draining | Phase::Closing | Phase::Closed => "draining",
    }
}

/// What part of the compute-unit time of `window` a time is.
fn share(time: Nanos, window: Nanos, cus: usize) -> f64 {
    let all = window.0 as f64 * cus as f64;
    if all > 0.0 { time.0 as f64 / all } else { 0.0 }
}

#[derive(Serialize)]
struct DeviceReport<'a> {
    name: &'a str,
    description: &'a str,
    cus: usize,
    /// The share of compute-unit time in finished blocks.
    busy: f64,
    fault: Option<&'a str>,
    memory: Vec<MemoryReport>,
}

#[derive(Serialize)]
struct MemoryReport {
    domain: &'static str,
    weights_bytes: u64,
    working_bytes: u64,
    limit_bytes: Option<u64>,
}

impl<'a> DeviceReport<'a> {
    fn new(device: &'a DeviceStats, busy: f64) -> Self {
        let memory = device.memory.iter().map(|memory| MemoryReport {
            domain: memory.domain.name(),
            weights_bytes: memory.weights,
            working_bytes: memory.working,
            limit_bytes: memory.limit,
        });
        DeviceReport {
            name: &device.name,
            description: &device.description,
            cus: device.cus,
            busy,
            fault: device.fault.as_deref(),
            memory: memory.collect(),
        }
    }
}

#[derive(Serialize)]
struct ModelReport {
    name: String,
    version: String,
    state: &'static str,
    /// Why it is not there.
    reason: Option<String>,
    class: &'static str,
    level: Option<u8>,
    weight: Option<u32>,
    deadline_us: Option<u64>,
    queue_len: Option<usize>,
    devices: Vec<String>,
    placement: Option<&'static str>,
    plans: usize,
    /// The classes that it serves or has served.
    classes: Vec<ClassReport>,
}

impl ModelReport {
    fn new(model: ModelInfo) -> Self {
        let settings = model.settings;
        let level = match settings.class {
            Class::RealTime(level) => Some(level.get()),
            Class::BestEffort => None,
        };
        ModelReport {
            name: model.key.name,
            version: model.key.version,
            state: match model.state {
                ModelState::Ready => "ready",
                ModelState::Loading => "loading",
                ModelState::Unloading => "unloading",
            },
            reason: None,
            class: settings.class.name(),
            level,
            weight: level.is_none().then_some(settings.weight),
            deadline_us: settings.deadline.map(|deadline| deadline.0 / 1_000),
            queue_len: Some(settings.queue_len),
            devices: model.devices,
            placement: Some(settings.placement.name()),
            plans: model.plans.len(),
            classes: Vec::new(),
        }
    }

    fn unavailable(key: ModelKey, why: String) -> Self {
        ModelReport {
            name: key.name,
            version: key.version,
            state: "unavailable",
            reason: Some(why),
            class: "",
            level: None,
            weight: None,
            deadline_us: None,
            queue_len: None,
            devices: Vec::new(),
            placement: None,
            plans: 0,
            classes: Vec::new(),
        }
    }
}

/// One class of a model: sums since it was loaded, and what the window had.
#[derive(Serialize)]
struct ClassReport {
    class: &'static str,
    success: u64,
    failures: Map<String, Value>,
    deadline_misses: u64,
    queued: u64,
    on_board: u64,
    preemptions: u64,
    blocks_killed: u64,
    kills_caused: u64,
    /// In the window.
    success_per_s: f64,
    failures_per_s: f64,
    misses_per_s: f64,
    /// Shares of all compute-unit time: finished blocks, killed ones, padding (part of the first).
    cu_share: f64,
    wasted_share: f64,
    padding_share: f64,
    /// Mean of what the requests' plans take alone.
    alone_us: Option<f64>,
    latency: Percentiles,
    preempt: Percentiles,
}

/// Of the window; of none, `count` is 0 and the rest absent.
#[derive(Serialize)]
struct Percentiles {
    count: u64,
    p50_us: Option<f64>,
    p90_us: Option<f64>,
    p99_us: Option<f64>,
    max_us: Option<f64>,
}

impl Percentiles {
    fn of(times: &Distribution) -> Self {
        let at = |quantile| times.quantile(quantile).map(Nanos::as_micros_f64);
        Percentiles {
            count: times.count(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            max_us: at(1.0),
        }
    }
}

fn classes(
    model: &ModelReport,
    before: Option<&Snapshot>,
    now: &Snapshot,
    window: Nanos,
    cus: usize,
) -> Vec<ClassReport> {
    let key = ModelKey { name: model.name.clone(), version: model.version.clone() };
    let (Some(stats), Some(spreads)) = (now.model(&key), now.spread(&key)) else { return Vec::new() };
    let earlier = before.and_then(|before| before.model(&key));
    let spreads_before = before.and_then(|before| before.spread(&key));
    let (nothing, never) = (ClassStats::default(), ClassDistributions::default());
    let each = [
        ("real-time", &stats.real_time, earlier.map(|stats| &stats.real_time)),
        ("best-effort", &stats.best_effort, earlier.map(|stats| &stats.best_effort)),
    ];
    let mut classes = Vec::new();
    for (index, (name, stats, earlier)) in each.into_iter().enumerate() {
        if model.class != name && requests(stats) == 0 {
            continue;
        }
        // A model that was loaded again meanwhile counts from zero.
        let same = earlier.filter(|earlier| requests(earlier) <= requests(stats));
        let spread_before = same.and(spreads_before).map_or(&never, |spreads| &spreads[index]);
        let spread = spreads[index].since(spread_before);
        classes.push(class_report(name, stats, same.unwrap_or(&nothing), &spread, (window, cus)));
    }
    classes
}

/// Requests that have ended, or are there.
fn requests(stats: &ClassStats) -> u64 {
    stats.success + failures(stats) + stats.pending()
}

fn failures(stats: &ClassStats) -> u64 {
    stats.failures.iter().sum()
}

fn class_report(
    class: &'static str,
    stats: &ClassStats,
    before: &ClassStats,
    spread: &ClassDistributions,
    (window, cus): (Nanos, usize),
) -> ClassReport {
    let since = |what: fn(&ClassStats) -> u64| what(stats).saturating_sub(what(before));
    let time = |what: fn(&ClassStats) -> Nanos| what(stats).since(what(before));
    let seconds = window.0 as f64 / 1e9;
    let rate = |what: fn(&ClassStats) -> u64| if seconds > 0.0 { since(what) as f64 / seconds } else { 0.0 };
    let per_request = |sum: Nanos, count: u64| (count > 0).then(|| sum.as_micros_f64() / count as f64);
    let of_window = per_request(time(|stats| stats.alone), since(|stats| stats.success));
    let reasons = FailureReason::ALL.map(|reason| (reason.name().to_string(), stats.failed(reason).into()));
    ClassReport {
        class,
        success: stats.success,
        failures: reasons.into_iter().collect(),
        deadline_misses: stats.deadline_misses,
        queued: stats.queued,
        on_board: stats.on_board,
        preemptions: stats.preemptions(),
        blocks_killed: stats.blocks_killed,
        kills_caused: stats.kills_caused,
        success_per_s: rate(|stats| stats.success),
        failures_per_s: rate(failures),
        misses_per_s: rate(|stats| stats.deadline_misses),
        cu_share: share(time(|stats| stats.cu_time), window, cus),
        wasted_share: share(time(|stats| stats.wasted), window, cus),
        padding_share: share(time(|stats| stats.padding), window, cus),
        alone_us: of_window.or_else(|| per_request(stats.alone, stats.success)),
        latency: Percentiles::of(&spread.total),
        preempt: Percentiles::of(&spread.preempt),
    }
}

#[derive(Serialize)]
struct TimelineReport {
    span_us: f64,
    /// Names that stretches refer to.
    models: Vec<String>,
    devices: Vec<DeviceTimelineReport>,
}

#[derive(Serialize)]
struct DeviceTimelineReport {
    device: String,
    cus: usize,
    /// From when on nothing is missing.
    complete_from_us: f64,
    resolution_us: f64,
    stretches: Vec<StretchReport>,
}

/// Compute unit, begin and length in microseconds, model (-1: unknown), class (0: real-time), work (0:
/// blocks, 1: padding, 2: killed).
#[derive(Serialize)]
struct StretchReport(u16, f64, f64, i64, u8, u8);

fn timeline_report(timeline: &Timeline) -> TimelineReport {
    let mut models: Vec<String> = Vec::new();
    // Tenths of microseconds.
    let micros = |at: Nanos| (at.since(timeline.from).0 / 100) as f64 / 10.0;
    let mut devices = Vec::new();
    for device in &timeline.devices {
        let mut stretch = |stretch: &reef_engine::Stretch| {
            let model = stretch.model.as_ref().map_or(-1, |model| index_of(&mut models, &model.name));
            let (from, until) = (micros(stretch.from), micros(stretch.until.min(timeline.until)));
            let class = u8::from(!stretch.class.is_real_time());
            StretchReport(stretch.cu, from, until - from, model, class, stretch.work as u8)
        };
        let stretches = device.stretches.iter().map(&mut stretch).collect();
        devices.push(DeviceTimelineReport {
            device: device.device.clone(),
            cus: device.cus,
            complete_from_us: micros(device.complete_from),
            resolution_us: device.resolution.as_micros_f64(),
            stretches,
        });
    }
    TimelineReport { span_us: micros(timeline.until), models, devices }
}

fn index_of(names: &mut Vec<String>, name: &str) -> i64 {
    let known = names.iter().position(|known| known == name);
    known.unwrap_or_else(|| {
        names.push(name.to_string());
        names.len() - 1
    }) as i64
}
