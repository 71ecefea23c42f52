//! A made-up report with everything in it, to develop and test pages and comparisons with: all workloads of
//! DISB, all schemes and the reference a second time, a peer on three workloads, micro-benchmarks, a
//! timeline.

use reef_base::{ClassName, Samples, Summary};

use crate::disb::results::*;
use crate::machine::{Machine, Others};
use crate::micro::{Part, Row, Stat};
use crate::typical::Estimate;

/// Models with their time alone here and on the paper's machine, milliseconds.
const MODELS: [(&str, f64, f64); 5] = [
    ("resnet152", 41.3, 13.6),
    ("densenet201", 17.9, 3.5),
    ("vgg19", 48.6, 4.4),
    ("inception-v3", 20.4, 8.3),
    ("distilbert", 15.2, 5.4),
];

/// A condition: name, mean and 99th percentile of real-time latency and throughput as ratios, share of bound.
type Case = (&'static str, f64, f64, f64, Option<f64>);

struct Shape {
    name: &'static str,
    title: &'static str,
    real_time: &'static [usize],
    best_effort: &'static [usize],
    rate_hz: f64,
    offered: f64,
    bound: f64,
    cases: [Case; 4],
}

const ALL: &[usize] = &[0, 1, 2, 3, 4];

const SHAPES: [Shape; 6] = [
    Shape {
        name: "A",
        title: "one real-time client at a low rate, one best-effort client",
        real_time: &[2],
        best_effort: &[0],
        rate_hz: 9.1,
        offered: 0.44,
        bound: 1.66,
        cases: [
            ("sequential", 1.46, 1.93, 1.58, Some(0.93)),
            ("concurrent", 1.79, 2.21, 1.72, Some(1.16)),
            ("wait", 1.021, 1.06, 1.60, Some(0.94)),
            ("reset", 1.006, 1.021, 1.58, Some(0.92)),
        ],
    },
    Shape {
        name: "B",
        title: "one real-time client near saturation, one best-effort client",
        real_time: &[2],
        best_effort: &[0],
        rate_hz: 20.0,
        offered: 0.97,
        bound: 1.03,
        cases: [
            ("sequential", 14.2, 29.0, 0.91, None),
            ("concurrent", 36.4, 78.0, 0.74, None),
            ("wait", 1.09, 1.31, 1.01, None),
            ("reset", 1.018, 1.08, 1.01, None),
        ],
    },
    Shape {
        name: "C",
        title: "one real-time client, five best-effort clients",
        real_time: &[2],
        best_effort: ALL,
        rate_hz: 9.1,
        offered: 0.44,
        bound: 3.02,
        cases: [
            ("sequential", 1.43, 1.97, 2.78, Some(0.91)),
            ("concurrent", 3.31, 4.4, 5.12, Some(2.02)),
            ("wait", 1.024, 1.07, 2.90, Some(0.95)),
            ("reset", 1.008, 1.026, 2.86, Some(0.93)),
        ],
    },
    Shape {
        name: "D",
        title: "five real-time clients with periodic arrivals, five best-effort clients",
        real_time: ALL,
        best_effort: ALL,
        rate_hz: 4.9,
        offered: 0.70,
        bound: 1.37,
        cases: [
            ("sequential", 1.71, 2.44, 1.31, Some(0.86)),
            ("concurrent", 5.6, 9.2, 2.21, Some(3.4)),
            ("wait", 1.03, 1.09, 1.33, Some(0.89)),
            ("reset", 1.011, 1.034, 1.32, Some(0.88)),
        ],
    },
    Shape {
        name: "E",
        title: "five real-time clients with Poisson arrivals, five best-effort clients",
        real_time: ALL,
        best_effort: ALL,
        rate_hz: 4.9,
        offered: 0.70,
        bound: 1.38,
        cases: [
            ("sequential", 1.52, 2.1, 1.30, Some(0.84)),
            ("concurrent", 4.9, 8.8, 2.18, Some(3.3)),
            ("wait", 1.027, 1.08, 1.34, Some(0.90)),
            ("reset", 0.996, 1.03, 1.33, Some(0.89)),
        ],
    },
    Shape {
        name: "REAL",
        title: "five real-time clients from a trace of Apollo's perception, five best-effort clients",
        real_time: ALL,
        best_effort: ALL,
        rate_hz: 2.2,
        offered: 0.31,
        bound: 6.4,
        cases: [
            ("sequential", 1.48, 2.6, 5.6, Some(0.86)),
            ("concurrent", 4.1, 6.9, 7.9, Some(1.29)),
            ("wait", 1.02, 1.06, 6.1, Some(0.95)),
            ("reset", 1.007, 1.022, 6.0, Some(0.93)),
        ],
    },
];

const PEER: [Case; 3] = [
    ("alone", 1.0, 1.0, 1.0, None),
    ("shared", 2.14, 3.9, 1.62, Some(1.08)),
    ("nice 19", 1.33, 1.92, 1.44, Some(0.71)),
];

/// The report.
pub(crate) fn sample() -> DisbReport {
    let workloads: Vec<WorkloadResult> = SHAPES.iter().map(workload).collect();
    let missed = check("B", "reset: mean real-time latency", 1.018, 1.01, false, 0.006);
    let noisy = check("E", "reset: mean real-time latency", 1.012, 1.015, false, 0.2);
    let noisy = Check { met: false, not_shown: Some("too much noise".into()), ..noisy };
    let checks = vec![
        check("A", "reset: mean real-time latency", 1.006, 1.01, false, 0.004),
        check("A", "reset: best-effort share of its bound", 0.92, 0.9, true, 0.01),
        missed,
        check("D", "reset: mean real-time latency", 1.011, 1.015, false, 0.005),
        noisy,
        check("REAL", "reset: mean real-time latency", 1.007, 1.02, false, 0.006),
    ];
    DisbReport {
        format: FORMAT.into(),
        machine: machine(),
        setup: Setup {
            small: false,
            via: "engine".into(),
            seed: 1,
            repeats: 5,
            warm_up_s: 2.0,
            rate: vec!["scaled".into()],
            cus: 8,
        },
        models: MODELS.iter().map(model).collect(),
        workloads,
        timeline: Some(timeline()),
        sweeps: sweeps(),
        others_cpu: Others(Some(0.011)),
        checks,
        failed_systems: Vec::new(),
        notes: Vec::new(),
        finished: true,
    }
}

fn check(workload: &str, what: &str, value: f64, bound: f64, at_least: bool, noise: f64) -> Check {
    let met = if at_least { value + noise >= bound } else { value - noise <= bound };
    Check {
        workload: workload.into(),
        what: what.into(),
        value,
        bound,
        at_least,
        noise,
        met,
        not_shown: None,
    }
}

fn machine() -> Machine {
    Machine {
        cpu: Some("AMD EPYC 9B14".into()),
        cores: 8,
        kernel: Some("6.12.8".into()),
        governor: Some("performance".into()),
        load_average: Some([0.31, 0.22, 0.18]),
        device: "cpu, 8 threads, avx512".into(),
        rustc: "rustc 1.95.0 (59807616e 2026-04-14)".into(),
        profile: "release".into(),
        command: "reef bench disb --seconds 60 --repeats 5 --peer onnxruntime".into(),
        unix_time_s: 1_795_267_611,
    }
}

fn model(&(name, alone_ms, reference_ms): &(&str, f64, f64)) -> ModelFacts {
    let alone = |system: &str, times| Alone {
        system: system.into(),
        latency_us: latency(alone_ms * times, 1.0, 1.03, 200).0,
    };
    ModelFacts {
        name: name.into(),
        source: format!("zoo:{name}"),
        alone: vec![alone("reef", 1.0), alone("onnxruntime 1.23", 0.94)],
        reference_ms: Some(reference_ms),
    }
}

/// A distribution of latencies with about these ratios to `alone_ms`, and its quantiles in milliseconds.
fn latency(alone_ms: f64, mean: f64, p99: f64, count: u64) -> (Summary, Vec<f64>) {
    let at = |share: f64| {
        let body = 0.985 + 0.02 * share + (mean - 1.0) * 1.8 * share.powf(1.2);
        let tail = (p99 - 0.985 - (mean - 1.0) * 1.8).max(0.02) * share.powi(24);
        alone_ms * (body + tail)
    };
    let quantiles: Vec<f64> = (0..=100).map(|percent| at(f64::from(percent) / 100.0)).collect();
    let samples: Samples = (0..1000).map(|rank| at(f64::from(rank) / 1000.0) * 1e3).collect();
    (Summary { count, ..samples.summary().unwrap() }, quantiles)
}

fn estimate(value: f64, noise: f64) -> Estimate {
    Estimate { value, half_width: Some(value * noise) }
}

fn ratios(mean: f64, p99: f64) -> LatencyRatios {
    let between = |share: f64| mean + (p99 - mean) * share;
    LatencyRatios {
        mean: estimate(mean, 0.004),
        p50: estimate(1.0 + (mean - 1.0) * 0.9, 0.003),
        p95: estimate(between(0.6), 0.009),
        p99: estimate(p99, 0.02),
    }
}

fn workload(shape: &Shape) -> WorkloadResult {
    let reference: Case = ("rt-only", 1.0, 1.0, 1.0, None);
    let again: Case = ("rt-only", 1.003, 0.994, 1.0, None);
    let mut conditions = vec![condition(shape, reference, false, 1.0), condition(shape, again, true, 1.0)];
    conditions.extend(shape.cases.iter().map(|&case| condition(shape, case, false, 1.0)));
    let mut systems = vec![SystemResult { name: "reef".into(), offered: Some(shape.offered), conditions }];
    if ["A", "D", "REAL"].contains(&shape.name) {
        let mut peer: Vec<ConditionResult> =
            PEER.iter().map(|&case| condition(shape, case, false, 0.94)).collect();
        peer.iter_mut().for_each(|condition| condition.device = None);
        systems.push(SystemResult {
            name: "onnxruntime 1.23".into(),
            offered: Some(shape.offered),
            conditions: peer,
        });
    }
    let client = |index: usize, class: ClassName| ClientFacts {
        name: client_name(index, class),
        model: MODELS[index].0.into(),
        class,
        level: 0,
        arrivals: match (class, shape.name) {
            (ClassName::BestEffort, _) => "closed loop".into(),
            (_, "E") => format!("Poisson {}/s", shape.rate_hz),
            (_, "REAL") => "trace".into(),
            _ => format!("periodic {}/s", shape.rate_hz),
        },
        rate_hz: (class == ClassName::RealTime).then_some(shape.rate_hz),
        deadline_ms: (class == ClassName::RealTime && shape.name == "REAL").then_some(100.0),
    };
    let real_time = shape.real_time.iter().map(|&index| client(index, ClassName::RealTime));
    let best_effort = shape.best_effort.iter().map(|&index| client(index, ClassName::BestEffort));
    WorkloadResult {
        name: shape.name.into(),
        title: shape.title.into(),
        seconds: 60.0,
        clients: real_time.chain(best_effort).collect(),
        systems,
    }
}

fn client_name(index: usize, class: ClassName) -> String {
    match class {
        ClassName::RealTime => MODELS[index].0.to_string(),
        ClassName::BestEffort => format!("{} be", MODELS[index].0),
    }
}

fn condition(shape: &Shape, case: Case, again: bool, speed: f64) -> ConditionResult {
    let (name, mean, p99, throughput, share) = case;
    let is_reference = matches!(name, "rt-only" | "alone");
    let saturated = shape.name == "B" && mean > 5.0;
    let client = |index: usize, class| client(shape, case, index, class, (saturated, speed, is_reference));
    let real_time = shape.real_time.iter().map(|&index| {
        let result = client(index, ClassName::RealTime);
        ClientResult {
            to_reference: if again { Some(ratios(mean, p99)) } else { result.to_reference },
            ..result
        }
    });
    let best_effort = shape.best_effort.iter().map(|&index| client(index, ClassName::BestEffort));
    let per_s = shape.rate_hz * shape.real_time.len() as f64;
    let pooled = latency(30.0 * speed, mean, p99, (per_s * 300.0) as u64).0;
    let to_reference = (again || !is_reference).then(|| ratios(mean, p99));
    ConditionResult {
        name: name.into(),
        title: format!("what {name} means, in a line"),
        again,
        clients: real_time.chain(best_effort).collect(),
        real_time: RealTimeResult {
            latency_us: Some(pooled),
            slowdown: Some(latency(0.001, mean * 1.03, p99 * 1.05, pooled.count).0),
            to_reference,
            slowdown_to_reference: to_reference,
            per_s: estimate(per_s, 0.001),
            busy: estimate(shape.offered, 0.004),
            misses: if mean > 2.0 { 41 } else { 0 },
        },
        best_effort: (!is_reference).then(|| BestEffortResult {
            per_s: estimate(per_s * (throughput - 1.0).max(0.0), 0.01),
            device_share: estimate((1.0 - shape.offered) * share.unwrap_or(0.1), 0.01),
            bound: 1.0 - shape.offered,
            of_bound: share.map(|share| estimate(share, 0.012)),
        }),
        overall: OverallResult {
            per_s: estimate(per_s * throughput, 0.006),
            to_reference: (again || !is_reference).then(|| estimate(throughput, 0.008)),
            to_reference_bound: (!is_reference).then_some(shape.bound),
            normalised_to_reference: (!is_reference).then(|| estimate(1.0 + (throughput - 1.0) * 0.8, 0.01)),
        },
        device: Some(device(name, shape)),
        cpus_busy: Some(7.94),
        memory_bytes: Some(1_534_000_000),
        saturated,
    }
}

fn client(
    shape: &Shape,
    (name, mean, p99, _, _): Case,
    index: usize,
    class: ClassName,
    (saturated, speed, is_reference): (bool, f64, bool),
) -> ClientResult {
    let alone_ms = MODELS[index].1 * speed;
    let is_real_time = class == ClassName::RealTime;
    let (mean, p99) = if is_real_time { (mean, p99) } else { (3.1, 7.4) };
    let (summary, quantiles_ms) = latency(alone_ms, mean, p99, (shape.rate_hz * 300.0) as u64);
    let played = is_real_time || !is_reference;
    let saturated = saturated && is_real_time;
    ClientResult {
        name: client_name(index, class),
        latency_us: played.then_some(summary),
        slowdown: played.then(|| latency(0.001, mean * 1.02, p99 * 1.04, summary.count).0),
        to_reference: (is_real_time && name != "rt-only" && name != "alone").then(|| ratios(mean, p99)),
        quantiles_ms: if played { quantiles_ms } else { Vec::new() },
        per_s: estimate(if played { shape.rate_hz } else { 0.0 }, 0.002),
        misses: 0,
        failed: 0,
        unsent: if saturated { 1_204 } else { 0 },
        dropped: 0,
        saturated,
        first_error: None,
    }
}

fn device(name: &str, shape: &Shape) -> DeviceResult {
    let preempts = matches!(name, "wait" | "reset");
    let scale = match name {
        "wait" => 148.0 + 9.0 * shape.best_effort.len() as f64,
        _ => 2.6 + 0.1 * shape.best_effort.len() as f64,
    };
    let samples: Samples = (0..500).map(|rank| scale * (0.4 + (f64::from(rank) / 400.0).powi(3))).collect();
    let kills = name == "reset";
    DeviceResult {
        preemptions: if preempts { (shape.rate_hz * 290.0) as u64 } else { 0 },
        preempt_us: samples.summary().filter(|_| preempts),
        blocks_killed: if kills { (shape.rate_hz * 290.0 * 6.8) as u64 } else { 0 },
        blocks_rerun: if kills { (shape.rate_hz * 290.0 * 6.8) as u64 } else { 0 },
        wasted_share: if kills { 0.0006 * shape.rate_hz } else { 0.0 },
        wasted_us_per_preemption: kills.then_some(96.0 + 11.0 * shape.best_effort.len() as f64),
        padding_share: if preempts { 0.031 } else { 0.0 },
        cu_utilisation: if name == "rt-only" { shape.offered * 0.93 } else { 0.952 },
    }
}

fn around(median: f64) -> Samples {
    (0..400)
        .map(|rank| median * (0.7 + 0.6 * (f64::from(rank) / 400.0) + (f64::from(rank) / 400.0).powi(40)))
        .collect()
}

fn sweep(name: &str, axis: &str, xs: &[f64], wait: impl Fn(&str, f64) -> f64) -> Part {
    let schemes = ["sequential", "concurrent", "wait", "reset"];
    let row = |scheme: &str, x: f64| {
        Row::new(format!("{x} {axis}, {scheme}"), "µs", &around(wait(scheme, x))).at(scheme, x)
    };
    let rows = xs.iter().flat_map(|&x| schemes.map(|scheme| row(scheme, x))).collect();
    Part::new(name, format!("a real-time request to its first block against {axis}"), rows).over(axis)
}

fn sweeps() -> Vec<Part> {
    let wait = |scheme: &str, task_us: f64, kernel_us: f64, clients: f64| match scheme {
        "sequential" => task_us * 0.55,
        "concurrent" => kernel_us * 0.5 * clients,
        "wait" => kernel_us * 0.52 + 1.0,
        _ => 2.9,
    };
    let counts = [1.0, 10.0, 50.0, 100.0, 200.0, 400.0];
    let lengths = [20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0];
    let clients = [1.0, 2.0, 3.0, 4.0, 5.0];
    let mut restore = Vec::new();
    for (name, lost, extra) in [
        ("resnet152", 110.0, 190.0),
        ("densenet201", 84.0, 160.0),
        ("vgg19", 260.0, 410.0),
        ("inception-v3", 101.0, 170.0),
        ("distilbert", 130.0, 205.0),
    ] {
        restore.push(Row::new(format!("{name} alone"), "µs", &around(20_000.0)));
        restore.push(Row::new(format!("{name} reset: work lost"), "µs", &around(lost)));
        restore.push(Row::new(format!("{name} reset: run again"), "blocks", &around(7.0)));
        restore.push(Row::new(format!("{name} reset: extra time"), "µs", &around(extra)));
        restore.push(Row::new(format!("{name} reset: extra, of alone"), "%", &around(extra / 200.0)));
        restore.push(Row::new(format!("{name} wait: extra time"), "µs", &around(extra * 0.5)));
        restore.push(Row::new(format!("{name} wait: extra, of alone"), "%", &around(extra / 400.0)));
    }
    let preempt = Row::new("core left free: first block", "µs", &around(2.6)).at_most(Stat::P50, 3.0);
    vec![
        Part::new(
            "preempt",
            "10000 submissions at random gaps beside saturating resnet152".into(),
            vec![preempt],
        ),
        sweep("kernels", "kernels of the best-effort task", &counts, |s, x| wait(s, x * 100.0, 100.0, 2.0)),
        sweep("length", "length of the best-effort task's kernels in µs", &lengths, |s, x| {
            wait(s, x * 100.0, x, 2.0)
        }),
        sweep("clients", "best-effort clients", &clients, |s, x| wait(s, 10_000.0, 100.0, x)),
        Part::new("restore", "one best-effort client, preempted four times per task".into(), restore),
        select(),
    ]
}

fn select() -> Part {
    let series = [("sequential", 210.0), ("concurrent", 240.0), ("wait", 260.0), ("reset", 265.0)];
    let row = |name: String, ns: f64, x: f64| {
        Row::new(format!("{x} clients, {name}"), "ns", &around(ns)).at(name, x)
    };
    let rows = (1..=5).flat_map(|clients| {
        let x = f64::from(clients);
        let plain = series.into_iter().map(move |(name, ns)| row(name.into(), ns + 22.0 * x, x));
        plain.chain(["wait", "reset"].map(|name| row(format!("{name}, padding"), 350.0 + 20.0 * x, x)))
    });
    Part::new("select", "time between two blocks".into(), rows.collect()).over("best-effort clients")
}

fn timeline() -> Timeline {
    let mut spans = Vec::new();
    let span = |cu: usize, (begin_us, end_us): (f64, f64), class, what, kernel: &str| Span {
        cu,
        begin_us,
        end_us,
        model: if class == ClassName::RealTime { "vgg19" } else { "resnet152" }.into(),
        kernel: kernel.into(),
        class,
        what,
    };
    let (killed_at, done_at) = (302.0, 640.0);
    for cu in 0..8 {
        let mut at = -(cu as f64) * 13.0;
        while at < killed_at {
            let end = at + 82.0 + 3.0 * cu as f64;
            let what = if end > killed_at { SpanKind::Killed } else { SpanKind::Block };
            let until = end.min(killed_at + 0.6 * cu as f64);
            spans.push(span(cu, (at, until), ClassName::BestEffort, what, "conv 3x3"));
            at = end + 0.4;
        }
        let mut at = killed_at + 1.0 + 0.6 * cu as f64;
        for (stage, until) in [410.0, 520.0, done_at].into_iter().enumerate() {
            if cu < 8 - 2 * stage {
                spans.push(span(cu, (at, until), ClassName::RealTime, SpanKind::Block, "conv1_1+relu"));
            } else {
                let beside = (at, until - 18.0);
                spans.push(span(cu, beside, ClassName::BestEffort, SpanKind::Padding, "conv 1x1"));
            }
            at = until + 1.5;
        }
        while at < 900.0 {
            let end = at + 90.0 + 2.0 * cu as f64;
            spans.push(span(cu, (at, end), ClassName::BestEffort, SpanKind::Block, "conv 3x3"));
            at = end + 0.4;
        }
    }
    let mark = |at_us, what: &str| Mark { at_us, what: what.into() };
    Timeline {
        title: "a vgg19 request arrives while resnet152 holds all compute units (workload A, reset)".into(),
        length_us: 900.0,
        cus: 8,
        spans,
        marks: vec![mark(299.2, "arrival"), mark(302.1, "first block"), mark(done_at, "answer")],
    }
}
