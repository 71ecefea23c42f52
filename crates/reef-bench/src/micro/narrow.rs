//! Part `narrow`: best-effort work beside real-time tasks that leave compute units idle, because their stages
//! have one block each. Under `reset`, with both rules of padding, in turns.
//!
//! *Idle share* is what the real-time client leaves of the device by its own compute-unit time, measured
//! without others; best-effort throughput is given as a share of that share of its throughput alone. The
//! real-time ratio is that of mean times on the device, to the same client without others.
//!
//! `stream`: a client that calls a task of 20 stages of 500 µs without a pause, beside best-effort blocks
//! of 400 µs, 600 µs and 2 ms. `long`: one task of 1,000 such stages beside blocks of 500 µs. `peer` and
//! `lower`: the stream beside a second real-time client of the same and of a lower level, in place of best-
//! effort work.

use std::time::Duration;

use reef_base::{Class, ClassName, Samples};
use reef_device::Padding;
use reef_load::{Arrivals, COOL_DOWN, GRACE, Record, Run, RunClient};
use reef_plan::SyntheticStage;
use reef_report::micro::{Part, Row, Stat};

use super::Bench;
use super::rig::{Rig, SATURATING_CALLERS};
use crate::error::BenchError;

pub(super) const NAME: &str = "narrow";

/// What best-effort work should get of the idle share, and what real-time work may lose.
const SHARE_MIN: f64 = 0.9;
const RATIO_MAX: f64 = 1.02;

/// Time between two polls of every block.
const POLL_NS: u32 = 5_000;

/// Stages of the long task.
const LONG: usize = 1_000;

/// Blocks of a stage of the tasks beside the narrow one.
const WIDE: usize = 8;

/// A real-time task and what runs beside it.
struct Case {
    name: &'static str,
    stages: usize,
    other: Class,
    block_us: u32,
}

const CASES: [Case; 6] = [
    Case { name: "stream, 400 µs", stages: 20, other: Class::BestEffort, block_us: 400 },
    Case { name: "stream, 600 µs", stages: 20, other: Class::BestEffort, block_us: 600 },
    Case { name: "stream, 2 ms", stages: 20, other: Class::BestEffort, block_us: 2_000 },
    Case { name: "long, 500 µs", stages: LONG, other: Class::BestEffort, block_us: 500 },
    Case { name: "peer, 600 µs", stages: 20, other: Class::RealTime(reef_base::Level::TOP), block_us: 600 },
    Case { name: "lower, 600 µs", stages: 20, other: LOWER, block_us: 600 },
];

const LOWER: Class = Class::RealTime(match reef_base::Level::new(3) {
    Some(level) => level,
    None => panic!("there are four levels"),
});

pub(super) fn run(bench: &Bench<'_>) -> Result<Part, BenchError> {
    let rounds = bench.pick(3, 1);
    let mut rows = Vec::new();
    for case in &CASES {
        let mut seen = Padding::ALL.map(|padding| (padding, Seen::default()));
        for round in 0..rounds {
            bench.progress.phase(format!("narrow stages, {}, round {}", case.name, round + 1));
            for (padding, seen) in &mut seen {
                case.round(bench, *padding, seen)?;
            }
        }
        rows.extend(seen.iter().flat_map(|(padding, seen)| case.rows(*padding, seen)));
    }
    let method = format!(
        "{} CUs under reset; a real-time client of tasks with stages of one block of 500 µs, without a \
         pause, beside {SATURATING_CALLERS} callers of a task with stages of {WIDE} blocks; share: \
         throughput beside it, of what it gets alone times the idle share; {rounds} rounds",
        bench.options.cus
    );
    Ok(Part::new(NAME, method, rows))
}

/// One rule of padding, a value per round.
#[derive(Default)]
struct Seen {
    ratio: Samples,
    share: Samples,
}

impl Case {
    /// Each client alone, then both.
    fn round(&self, bench: &Bench<'_>, padding: Padding, seen: &mut Seen) -> Result<(), BenchError> {
        let rig = bench.padded_rig(padding)?;
        let stage =
            |blocks, us: u32| SyntheticStage { blocks, polls: us * 1_000 / POLL_NS, poll_ns: POLL_NS };
        rig.load_synthetic(
            "narrow",
            Class::real_time(0),
            &vec![stage(1, 500); self.stages.min(bench.pick(LONG, LONG / 10))],
        )?;
        rig.load_synthetic("wide", self.other, &[stage(WIDE, self.block_us); 4])?;
        let narrow = RunClient::new("narrow", ClassName::RealTime, Arrivals::BACK_TO_BACK, 1);
        let class = if self.other.is_real_time() { ClassName::RealTime } else { ClassName::BestEffort };
        let wide = RunClient::new("wide", class, Arrivals::BACK_TO_BACK, SATURATING_CALLERS);
        let first = self.play(bench, &rig, vec![narrow.clone()])?;
        let wide_alone = self.play(bench, &rig, vec![wide.clone()])?.rates[0];
        let both = self.play(bench, &rig, vec![narrow, wide])?;
        let idle = 1.0 - first.busy;
        seen.ratio.push(both.compute_us / first.compute_us);
        if idle > 0.1 && wide_alone > 0.0 {
            seen.share.push(both.rates[1] / (idle * wide_alone));
        }
        Ok(())
    }

    fn play(&self, bench: &Bench<'_>, rig: &Rig, clients: Vec<RunClient>) -> Result<Played, BenchError> {
        let measured = bench.shorter(Duration::from_secs(2));
        let warm_up = measured / 8;
        let run = Run { clients, warm_up, measured, cool_down: COOL_DOWN, grace: GRACE };
        let busy = || rig.engine.device().counters().busy;
        let (before, begin) = (busy(), std::time::Instant::now());
        let played = rig.play(bench, &run)?;
        let spent = begin.elapsed().as_secs_f64() * bench.options.cus as f64;
        let compute: Samples =
            run.records(0, &played[0]).filter_map(Record::compute).map(|ns| ns.as_micros_f64()).collect();
        let nothing = || BenchError::NoSamples(format!("narrow stages, {}: no answer", self.name));
        Ok(Played {
            busy: busy().since(before).0 as f64 / 1e9 / spent,
            compute_us: compute.summary().ok_or_else(nothing)?.mean,
            rates: played.iter().enumerate().map(|(index, played)| run.per_s(index, played)).collect(),
        })
    }

    fn rows(&self, padding: Padding, seen: &Seen) -> [Row; 2] {
        let name = |what: &str| format!("{}, {padding}: {what}", self.name);
        let ratio = Row::new(name("real-time, to alone"), "ratio", &seen.ratio);
        let share = Row::new(name("others, of the idle share"), "ratio", &seen.share);
        match padding {
            Padding::Preemptible => {
                // Peers of one level have no claim to each other's units.
                let ratio = match self.other == Class::real_time(0) {
                    true => ratio,
                    false => ratio.at_most(Stat::P50, RATIO_MAX),
                };
                [ratio, share.at_least(Stat::P50, SHARE_MIN)]
            }
            Padding::Fitting => [ratio, share],
        }
    }
}

/// What a set of clients got.
struct Played {
    /// Compute-unit time over the device's time.
    busy: f64,
    /// Mean time on the device of the first client's requests.
    compute_us: f64,
    /// Answers per second, by client.
    rates: Vec<f64>,
}
