//! What our own ideas are worth on the paper's GPU, one after the other, beside REEF as it was printed.
//!
//! All of them have the same kernels, and are asked at the same moments:
//!
//! | name | what is new |
//! |---|---|
//! | `reset` | REEF: kernels in queues, killed; requests go on some kernels back; padding by rules 1 and 2 |
//! | `reset, exact` | requests go on with the first kernel that was not done |
//! | `resident` | units pull blocks and leave them at poll points; no padding |
//! | `resident, rule 1` | padding by blocks that end before the real-time stage does |
//! | `resident, kill` | padding by any block, left when the unit is wanted |
//! | `resident, anticipating` | no block begins that would last beyond the next request of a steady client |

use std::time::Duration;

use reef_base::{ClassName, Nanos, Samples, Summary};
use reef_load::arrivals::{self, Repetition};
use reef_load::workload::BUILT_IN;
use reef_load::{Run, Workload};

use crate::error::SimError;
use crate::rig::{Condition, Outcome, Rig, own};

/// What one idea made of a workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The workload.
    pub workload: String,
    /// The idea.
    pub name: &'static str,
    /// What it means, in a line.
    pub title: &'static str,
    /// Real-time latency, mean and 99th percentile.
    pub mean: Nanos,
    /// See above.
    pub p99: Nanos,
    /// The mean over that of REEF's queues with real-time requests alone.
    pub latency: f64,
    /// Best-effort requests per second.
    pub best_effort_per_s: f64,
    /// Those over REEF's.
    pub best_effort: f64,
}

/// The table: for each workload of DISB each idea, REEF first.
pub fn ideas(length: Duration, seed: u64) -> Result<Vec<Row>, SimError> {
    let (queued, resident) = (Rig::built_in("mi50")?, Rig::built_in("mi50-resident")?);
    let conditions = queued.conditions();
    let (alone, reef) = (conditions[0], conditions[conditions.len() - 1]);
    let tried: [(&Rig, Condition); 6] = [
        (&queued, reef),
        (&queued, own::EXACT),
        (&resident, own::ALONE),
        (&resident, own::FITTING),
        (&resident, own::KILL),
        (&resident, own::ANTICIPATES),
    ];
    let mut rows = Vec::new();
    for name in BUILT_IN {
        let run = run(&Workload::built_in(name).expect("it is built in"), length, seed);
        let alone = Came::of(&run, &queued.play(&alone, &run)?);
        let mut first = None;
        for (rig, condition) in &tried {
            let came = Came::of(&run, &rig.play(condition, &run)?);
            let reefs = *first.get_or_insert(came.best_effort_per_s);
            rows.push(Row {
                workload: name.to_string(),
                name: condition.name,
                title: condition.title,
                mean: came.mean,
                p99: came.p99,
                latency: came.mean.0 as f64 / alone.mean.0 as f64,
                best_effort_per_s: came.best_effort_per_s,
                best_effort: came.best_effort_per_s / reefs,
            });
        }
    }
    Ok(rows)
}

/// Rates as the paper has them: this is its device.
fn run(workload: &Workload, length: Duration, seed: u64) -> Run {
    let repetition = Repetition {
        seed,
        index: 0,
        count: 1,
        warm_up: Duration::from_secs(1),
        measured: length,
        cool_down: Duration::ZERO,
        grace: Duration::from_secs(1),
    };
    arrivals::run(workload, &repetition)
}

#[derive(Clone, Copy, Debug)]
struct Came {
    mean: Nanos,
    p99: Nanos,
    best_effort_per_s: f64,
}

impl Came {
    fn of(run: &Run, outcome: &Outcome) -> Came {
        let (mut latencies, mut best_effort) = (Samples::default(), 0);
        for (index, (client, played)) in run.clients.iter().zip(&outcome.clients).enumerate() {
            match client.class {
                ClassName::RealTime => latencies.extend(&run.latencies_us(index, played)),
                ClassName::BestEffort => best_effort += run.records(index, played).count(),
            }
        }
        let time = |of: fn(&Summary) -> f64| {
            let us = latencies.summary().as_ref().map_or(0.0, of);
            Nanos((us * 1e3).round() as u64)
        };
        Came {
            mean: time(|all| all.mean),
            p99: time(|all| all.p99),
            best_effort_per_s: best_effort as f64 / run.measured.as_secs_f64(),
        }
    }
}
