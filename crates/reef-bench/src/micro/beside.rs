//! Part `realtime`: a real-time model in-process beside saturating best-effort work, under `rt-only` (without
//! it), `concurrent`, `wait` and `reset`, all in every round, in an order that changes from round to round.
//!
//! Ratios are taken inside a round, and rows hold one ratio per round: their target looks at the median over
//! the rounds. A 99th percentile is made of few requests, and a median over rounds does not see what two of
//! five rounds do, so there is a second row for it: the percentile of all rounds' requests under the scheme
//! over that of all rounds' requests under `rt-only`. Both have to reach the target.
//!
//! Latency counts from the scheduled arrival; what was never sent counts with the time after which it was
//! given up.
//!
//! What best-effort work should get is 0.93 × (1 − busy) × what it gets alone; *busy* is the share of time
//! that the real-time model has tasks on the device under `rt-only`, from the same round.
//!
//! Under `rt-only` the device has nothing to do between arrivals, so its compute units park and every task
//! pays for waking them; beside best-effort work they are awake. A ratio to `rt-only` below 1 is that, not
//! magic. The rows *time on the device* therefore compare with the model called back to back, where units are
//! awake too: the stricter reference, without a target of its own.

use std::time::Duration;

use reef_base::{Class, ClassName, Nanos, Samples, Summary};
use reef_device::Scheme;
use reef_load::{Arrivals, COOL_DOWN, Caller, GRACE, PlayedClient, Record, Run, RunClient};
use reef_report::micro::{Part, Row, Stat};
use reef_zoo::Model;

use super::Bench;
use super::rig::{Rig, SATURATING_CALLERS};
use crate::callers::SessionCaller;
use crate::error::BenchError;

pub(super) const NAME: &str = "realtime";

/// The schemes with best-effort work; `rt-only` is what they are compared with.
const SHARED: [Scheme; 3] = [Scheme::Concurrent, Scheme::Wait, Scheme::Reset];
const CALLERS: usize = 16;
const CAMERA_SHARE: f64 = 0.3;
/// A tiny camera model is so fast that 30 % of it would measure this thread's sleeping.
const CAMERA_HZ_MAX: f64 = 500.0;
const BEST_EFFORT_SHARE: f64 = 0.93;

/// One real-time model and what it has to reach under `reset`, as ratios to `rt-only`.
struct Case {
    model: Model,
    rate_hz: f64,
    time: Duration,
    p50: f64,
    p99: Option<f64>,
    mean: Option<f64>,
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Part, BenchError> {
    let rig = bench.rig(bench.options.cus, 0)?;
    bench.load(&rig, Model::Resnet152, Class::BestEffort)?;
    bench.load(&rig, Model::Control, Class::real_time(0))?;
    bench.load(&rig, Model::Resnet18, Class::real_time(1))?;
    let rounds = bench.pick(5, 3);
    let control = Case {
        model: Model::Control,
        rate_hz: 200.0,
        time: bench.shorter(Duration::from_secs(5)),
        p50: 1.05,
        p99: Some(1.25),
        mean: None,
    };
    let camera = Case {
        model: Model::Resnet18,
        rate_hz: (CAMERA_SHARE * 1e6 / alone_us(bench, &rig, Model::Resnet18)?).min(CAMERA_HZ_MAX),
        time: bench.shorter(Duration::from_secs(7)),
        p50: 1.03,
        p99: None,
        mean: Some(1.05),
    };
    let mut rows = Vec::new();
    for case in [&control, &camera] {
        rows.extend(case.run(bench, &rig, rounds)?);
    }
    let method = format!(
        "{rounds} rounds beside saturating {}; control at 200 Hz, {} at {:.1} Hz; latency from the scheduled \
         arrival; ratios refer to rt-only without best-effort work, one per round and from the same round, \
         but 'p99 of all rounds': one number, over the requests of all rounds together",
        Model::Resnet152,
        Model::Resnet18,
        camera.rate_hz
    );
    Ok(Part::new(NAME, method, rows))
}

/// Median time on the device of a model alone.
fn alone_us(bench: &Bench<'_>, rig: &Rig, model: Model) -> Result<f64, BenchError> {
    rig.engine.set_scheme(Scheme::RtOnly);
    let mut caller = SessionCaller::new(&rig.engine, model.name(), 1)?;
    let mut compute_us = Samples::default();
    for index in 0..bench.pick(40, 20) {
        let reply = caller.call()?;
        if index >= 5 {
            compute_us.push_micros(reply.compute.unwrap_or_default());
        }
    }
    Ok(compute_us.summary().map_or(1.0, |summary| summary.p50.max(1.0)))
}

/// One scheme in one round.
struct Seen {
    latency: Summary,
    latency_us: Samples,
    /// Sum of the times on the device over the time measured.
    busy: f64,
    /// Median time on the device.
    compute_us: f64,
    best_effort_per_s: Option<f64>,
}

/// All rounds of one scheme with best-effort work.
#[derive(Default)]
struct Rows {
    latency_us: Samples,
    p50: Samples,
    p99: Samples,
    mean: Samples,
    /// Median time on the device as a ratio to back-to-back calls.
    compute: Samples,
    best_effort_per_s: Samples,
    best_effort_share: Samples,
}

impl Case {
    fn run(&self, bench: &Bench<'_>, rig: &Rig, rounds: usize) -> Result<Vec<Row>, BenchError> {
        let mut all = Rounds::default();
        for round in 0..rounds {
            bench.progress.phase(format!("{} beside load, round {}", self.model, round + 1));
            let alone_per_s = self.best_effort_alone(bench, rig)?;
            let awake_us = self.back_to_back(bench, rig)?;
            // No scheme always comes first, so that a drift of the machine does not hit the same one in every
            // round. (Five rounds do not bring each into each position equally often.)
            let mut order = [Scheme::RtOnly, SHARED[0], SHARED[1], SHARED[2]];
            order.rotate_left(round % (SHARED.len() + 1));
            let mut seen = Vec::new();
            for scheme in order {
                seen.push((scheme, self.measure(bench, rig, scheme)?));
            }
            all.push(&seen, Reference { alone_per_s, awake_us });
        }
        Ok(self.all_rows(&all))
    }

    fn all_rows(&self, all: &Rounds) -> Vec<Row> {
        let name = |what: &str| format!("{} {what}", self.model);
        let mut rows = vec![
            Row::new(name("rt-only: latency"), "µs", &all.rt_only_us),
            Row::new(name("rt-only: time on the device, to back to back"), "ratio", &all.rt_only_compute),
            Row::new(name("back to back: time on the device"), "µs", &all.awake_us),
        ];
        for (seen, scheme) in all.shared.iter().zip(SHARED) {
            rows.extend(self.rows(scheme, seen, &all.rt_only_us));
        }
        rows.push(Row::new(format!("{} alone", Model::Resnet152), "1/s", &all.alone_per_s));
        rows
    }

    /// Median time on the device of calls without gaps, under `rt-only`: compute units have no time to park.
    fn back_to_back(&self, bench: &Bench<'_>, rig: &Rig) -> Result<f64, BenchError> {
        rig.engine.set_scheme(Scheme::RtOnly);
        let name = self.model.name();
        let client = RunClient::new(name, ClassName::RealTime, Arrivals::BACK_TO_BACK, 1);
        let run = self.run_of(vec![client], self.time / 5);
        let played = rig.play(bench, &run)?;
        let nothing = || BenchError::NoSamples(format!("{} gave no answer back to back", self.model));
        Ok(compute_us(&run, 0, &played[0]).summary().ok_or_else(nothing)?.p50)
    }

    fn best_effort_alone(&self, bench: &Bench<'_>, rig: &Rig) -> Result<f64, BenchError> {
        rig.engine.set_scheme(Scheme::Reset);
        let run = self.run_of(vec![best_effort()], self.time);
        let played = rig.play(bench, &run)?;
        let nothing = || BenchError::NoSamples(format!("{} gave no answer", Model::Resnet152));
        Some(run.per_s(0, &played[0])).filter(|&rate| rate > 0.0).ok_or_else(nothing)
    }

    fn warm_up(&self) -> Duration {
        self.time / 10
    }

    fn run_of(&self, clients: Vec<RunClient>, measured: Duration) -> Run {
        Run { clients, warm_up: self.warm_up(), measured, cool_down: COOL_DOWN, grace: GRACE }
    }

    fn measure(&self, bench: &Bench<'_>, rig: &Rig, scheme: Scheme) -> Result<Seen, BenchError> {
        rig.engine.set_scheme(scheme);
        let open = Arrivals::periodic(self.rate_hz, 0.0, self.warm_up() + self.time);
        let mut clients = vec![RunClient::new(self.model.name(), ClassName::RealTime, open, CALLERS)];
        if scheme != Scheme::RtOnly {
            clients.push(best_effort());
        }
        let run = self.run_of(clients, self.time);
        let played = rig.play(bench, &run)?;
        let nothing = || BenchError::NoSamples(format!("{} under {scheme}: no answer", self.model));
        let latency_us = run.latencies_us(0, &played[0]);
        let compute_us = compute_us(&run, 0, &played[0]);
        let busy_us: f64 = compute_us.as_slice().iter().sum();
        Ok(Seen {
            latency: latency_us.summary().ok_or_else(nothing)?,
            compute_us: compute_us.summary().ok_or_else(nothing)?.p50,
            latency_us,
            busy: busy_us / (self.time.as_secs_f64() * 1e6),
            best_effort_per_s: played.get(1).map(|played| run.per_s(1, played)),
        })
    }

    fn rows(&self, scheme: Scheme, seen: &Rows, rt_only_us: &Samples) -> Vec<Row> {
        let name = |what: &str| format!("{} {scheme}: {what}", self.model);
        let goal = |row: Row, bound: Option<f64>| match bound.filter(|_| scheme == Scheme::Reset) {
            Some(bound) => row.at_most(Stat::P50, bound),
            None => row,
        };
        let pooled = pooled_p99_ratio(&seen.latency_us, rt_only_us);
        let share = Row::new(name("best-effort, of what is left"), "ratio", &seen.best_effort_share);
        vec![
            Row::new(name("latency"), "µs", &seen.latency_us),
            goal(Row::new(name("p50 to rt-only"), "ratio", &seen.p50), Some(self.p50)),
            goal(Row::new(name("p99 to rt-only"), "ratio", &seen.p99), self.p99),
            goal(Row::new(name("p99 of all rounds to rt-only"), "ratio", &pooled), self.p99),
            goal(Row::new(name("mean to rt-only"), "ratio", &seen.mean), self.mean),
            Row::new(name("time on the device, to back to back"), "ratio", &seen.compute),
            Row::new(name("best-effort"), "1/s", &seen.best_effort_per_s),
            if scheme == Scheme::Reset { share.at_least(Stat::P50, BEST_EFFORT_SHARE) } else { share },
        ]
    }
}

/// The best-effort client, which saturates the device.
fn best_effort() -> RunClient {
    let model = Model::Resnet152.name();
    RunClient::new(model, ClassName::BestEffort, Arrivals::BACK_TO_BACK, SATURATING_CALLERS)
}

/// Times on the device of a client's requests.
fn compute_us(run: &Run, index: usize, played: &PlayedClient) -> Samples {
    let compute = run.records(index, played).filter_map(Record::compute);
    compute.map(Nanos::as_micros_f64).collect()
}

/// The 99th percentile of one set of latencies over that of another; nothing where one is empty.
fn pooled_p99_ratio(latency_us: &Samples, rt_only_us: &Samples) -> Samples {
    let both = latency_us.summary().zip(rt_only_us.summary());
    both.map(|(scheme, rt_only)| scheme.p99 / rt_only.p99).into_iter().collect()
}

/// What one round's schemes are compared with, besides `rt-only`.
#[derive(Clone, Copy)]
struct Reference {
    /// Best-effort throughput with the device to itself.
    alone_per_s: f64,
    /// The real-time model's median time on the device, called back to back.
    awake_us: f64,
}

/// All rounds of one real-time model.
#[derive(Default)]
struct Rounds {
    rt_only_us: Samples,
    rt_only_compute: Samples,
    awake_us: Samples,
    alone_per_s: Samples,
    shared: [Rows; SHARED.len()],
}

impl Rounds {
    fn push(&mut self, seen: &[(Scheme, Seen)], reference: Reference) {
        let of = |wanted| &seen.iter().find(|(scheme, _)| *scheme == wanted).expect("all are measured").1;
        let base = of(Scheme::RtOnly);
        self.rt_only_us.extend(&base.latency_us);
        self.rt_only_compute.push(base.compute_us / reference.awake_us);
        self.awake_us.push(reference.awake_us);
        self.alone_per_s.push(reference.alone_per_s);
        for (rows, scheme) in self.shared.iter_mut().zip(SHARED) {
            rows.push(of(scheme), base, reference);
        }
    }
}

impl Rows {
    /// Adds a round: `base` is the same round's `rt-only`.
    fn push(&mut self, seen: &Seen, base: &Seen, reference: Reference) {
        self.latency_us.extend(&seen.latency_us);
        self.p50.push(seen.latency.p50 / base.latency.p50);
        self.p99.push(seen.latency.p99 / base.latency.p99);
        self.mean.push(seen.latency.mean / base.latency.mean);
        self.compute.push(seen.compute_us / reference.awake_us);
        let left = 1.0 - base.busy;
        if let Some(rate) = seen.best_effort_per_s {
            self.best_effort_per_s.push(rate);
            // A device that is nearly always busy by itself is overloaded or disturbed: nothing was left to
            // share.
            if left > 0.1 {
                self.best_effort_share.push(rate / (left * reference.alone_per_s));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(latency: f64, busy: f64, rate: Option<f64>) -> Seen {
        let latency_us: Samples = [latency; 3].into_iter().collect();
        let latency = latency_us.summary().unwrap();
        Seen { latency, latency_us, busy, compute_us: latency.p50, best_effort_per_s: rate }
    }

    #[test]
    fn ratios_refer_to_rt_only_of_the_same_round() {
        let reference = Reference { alone_per_s: 10.0, awake_us: 90.0 };
        let mut rows = Rows::default();
        rows.push(&seen(110.0, 0.5, Some(6.0)), &seen(100.0, 0.25, None), reference);
        rows.push(&seen(90.0, 0.5, Some(7.5)), &seen(90.0, 0.25, None), reference);
        assert_eq!(rows.p50.as_slice(), [1.1, 1.0]);
        assert_eq!(rows.compute.as_slice(), [110.0 / 90.0, 1.0]);
        assert_eq!(rows.best_effort_share.as_slice(), [0.8, 1.0]);
        let rt_only: Samples = [100.0; 6].into_iter().collect();
        let targets = |scheme| {
            control().rows(scheme, &rows, &rt_only).iter().map(|row| row.targets.len()).collect::<Vec<_>>()
        };
        assert_eq!(targets(Scheme::Reset), [0, 1, 1, 1, 0, 0, 0, 1]);
        assert!(targets(Scheme::Wait).iter().all(|&count| count == 0));
    }

    #[test]
    fn a_p99_that_two_of_five_rounds_miss_is_seen() {
        let mut all = Rounds::default();
        for latency in [100.0, 200.0, 100.0, 200.0, 100.0] {
            let seen = [Scheme::RtOnly, Scheme::Concurrent, Scheme::Wait, Scheme::Reset].map(|scheme| {
                (scheme, seen(if scheme == Scheme::Reset { latency } else { 100.0 }, 0.1, None))
            });
            all.push(&seen, Reference { alone_per_s: 10.0, awake_us: 90.0 });
        }
        let rows = control().all_rows(&all);
        let p99 = |what: &str| rows.iter().find(|row| row.name == format!("control reset: {what}")).unwrap();
        let (rounds, pooled) = (p99("p99 to rt-only"), p99("p99 of all rounds to rt-only"));
        assert_eq!((rounds.summary.p50, rounds.summary.count), (1.0, 5));
        assert_eq!((pooled.summary.p50, pooled.summary.count), (2.0, 1));
        assert!(rounds.targets[0].met && !pooled.targets[0].met);
    }

    fn control() -> Case {
        Case {
            model: Model::Control,
            rate_hz: 200.0,
            time: Duration::from_secs(1),
            p50: 1.05,
            p99: Some(1.25),
            mean: None,
        }
    }
}
