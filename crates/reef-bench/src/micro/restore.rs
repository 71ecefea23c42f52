//! Part `restore`: what being preempted costs a best-effort task, per model. One best-effort client; a short
//! real-time task that wants every compute unit preempts each of its tasks several times, at random.
//!
//! Two things are measured. *Work lost* is compute-unit time of executions that were killed for one
//! preemption, which `reset` has to do again. *Extra time* is what the task took on the device beyond its
//! time alone and beyond what the real-time tasks used of the device (their compute-unit time over the number
//! of units): work lost, handing the device over and back, and caches that are cold afterwards. `wait` loses
//! no work, so its extra time shows how much of `reset`'s is not due to kills. Where compute units share the
//! cores with the threads that submit, the time of those is part of it too.
//!
//! Time alone is the median of undisturbed tasks of the same round, which run in turns with the others.

use std::thread;
use std::time::{Duration, Instant};

use reef_base::{Class, MonotonicClock, Nanos, Rng, Samples};
use reef_device::{Kill, Scheme, TaskCounters};
use reef_engine::{Queued, RunInfo, Session};
use reef_load::pace::{sleep_until, wake_on_time};
use reef_plan::SyntheticStage;
use reef_report::micro::{Part, Row};
use reef_zoo::Model;

use super::Bench;
use super::rig::Rig;
use crate::error::BenchError;

pub(super) const NAME: &str = "restore";

/// The models of the paper's evaluation.
const MODELS: [Model; 5] =
    [Model::Resnet152, Model::Densenet201, Model::Vgg19, Model::InceptionV3, Model::Distilbert];
const URGENT: &str = "urgent";
/// 200 µs on each compute unit.
const BLOCK: (u32, u32) = (40, 5_000);
/// Real-time tasks per best-effort task, each at a random time of its share of the task.
const PREEMPTIONS: u32 = 8;
/// Order of one turn: `None` for an undisturbed task.
const TURN: [Option<Scheme>; 4] = [None, Some(Scheme::Reset), Some(Scheme::Wait), Some(Scheme::Reset)];
const ROUNDS: usize = 2;
const TURNS_MIN: usize = 3;

pub(super) fn run(bench: &Bench<'_>) -> Result<Part, BenchError> {
    let time = bench.pick(Duration::from_millis(5_500), Duration::from_millis(50));
    let cus = bench.options.cus;
    let rig = bench.rig(cus, 0)?;
    let block = SyntheticStage { blocks: cus, polls: BLOCK.0, poll_ns: BLOCK.1 };
    rig.load_synthetic(URGENT, Class::real_time(0), &[block])?;
    let mut rows = Vec::new();
    for model in MODELS {
        bench.load(&rig, model, Class::BestEffort)?;
        let mut pair = Pair {
            rig: &rig,
            victim: rig.session(model.name())?,
            urgent: rig.session(URGENT)?,
            rng: Rng::new(1),
        };
        pair.alone(3)?;
        let mut seen = Seen::default();
        for round in 1..=ROUNDS {
            bench.progress.phase(format!("preempting {model}, round {round}"));
            let begin = Instant::now();
            seen.add(pair.round(time)?);
            bench.progress.advance(begin.elapsed());
        }
        rows.extend(seen.rows(model));
        drop(pair);
        rig.engine.unload(model.name(), None, Queued::Finish)?;
    }
    let method = format!(
        "one best-effort client on {cus} CUs; each of its tasks meets {PREEMPTIONS} real-time tasks of \
         {cus} blocks of {} µs at random times; work lost: compute-unit time of blocks killed for one \
         preemption, or of blocks that a queued executor repeats, at the task's mean time of a block; run \
         again: those blocks, and finished ones that a queued executor repeats; extra time: \
         beyond the time alone and the real-time tasks' share of the device, per preemption; at least \
         {ROUNDS} rounds of {time:?} per model",
        BLOCK.0 * BLOCK.1 / 1_000
    );
    Ok(Part::new(NAME, method, rows))
}

/// The best-effort model and the real-time task.
struct Pair<'a> {
    rig: &'a Rig,
    victim: Session,
    urgent: Session,
    rng: Rng,
}

/// One best-effort task among real-time tasks.
#[derive(Debug, Default)]
struct Disturbed {
    compute_us: f64,
    /// What the real-time tasks used of the device.
    service_us: f64,
    preemptions: u32,
    counters: TaskCounters,
    /// Compute-unit time of kills, one per preemption.
    lost_us: Samples,
    /// Whether the device kills nothing, and repeats finished blocks instead.
    repeats: bool,
    /// From the first real-time task's first block to the last one's end.
    urgent: Option<Span>,
    /// The same of the best-effort task.
    victim: Option<Span>,
}

/// A stretch of time on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    from: Nanos,
    to: Nanos,
}

impl Span {
    fn of(info: &RunInfo) -> Span {
        let from = info.timings.arrival + info.timings.compute_input + info.timings.queue;
        Span { from, to: from + info.timings.compute }
    }

    fn joined(self, later: Span) -> Span {
        Span { from: self.from, to: later.to }
    }

    fn holds(self, other: Span) -> bool {
        self.from <= other.from && other.to <= self.to
    }
}

/// One round.
#[derive(Debug, Default)]
struct Round {
    alone_us: Samples,
    reset: Vec<Disturbed>,
    wait: Vec<Disturbed>,
}

impl Pair<'_> {
    /// Median time on the device of undisturbed tasks, in microseconds.
    fn alone(&mut self, count: usize) -> Result<f64, BenchError> {
        let runs: Samples = (0..count).map(|_| self.victim_alone()).collect::<Result<_, _>>()?;
        Ok(runs.summary().map_or(0.0, |summary| summary.p50))
    }

    fn victim_alone(&mut self) -> Result<f64, BenchError> {
        let info = self.victim.run().map_err(BenchError::infer("the best-effort model"))?;
        Ok(info.timings.compute.as_micros_f64())
    }

    fn round(&mut self, time: Duration) -> Result<Round, BenchError> {
        let mut round = Round::default();
        let alone_us = self.alone(3)?;
        let begin = Instant::now();
        let mut turns = 0;
        while begin.elapsed() < time || turns < TURNS_MIN {
            for scheme in TURN {
                self.rig.engine.set_scheme(scheme.unwrap_or(Scheme::Reset));
                match scheme {
                    None => round.alone_us.push(self.victim_alone()?),
                    Some(Scheme::Wait) => round.wait.push(self.disturbed(alone_us)?),
                    Some(_) => round.reset.push(self.disturbed(alone_us)?),
                }
            }
            turns += 1;
        }
        Ok(round)
    }

    /// One best-effort task that takes `alone_us` alone, among real-time tasks.
    fn disturbed(&mut self, alone_us: f64) -> Result<Disturbed, BenchError> {
        let Pair { rig, victim, urgent, rng } = self;
        let repeats = rig.engine.capabilities().kill == Kill::None;
        let mut seen = Disturbed { repeats, ..Disturbed::default() };
        let result = thread::scope(|scope| -> Result<RunInfo, BenchError> {
            let victim = scope.spawn(|| victim.run().map_err(BenchError::infer("the best-effort model")));
            let prober = scope.spawn(|| submit_among(rig, urgent, rng, alone_us, &mut seen));
            prober.join().expect("submitting does not panic")?;
            victim.join().expect("a session does not panic")
        })?;
        seen.compute_us = result.timings.compute.as_micros_f64();
        seen.counters = result.counters;
        seen.victim = Some(Span::of(&result));
        Ok(seen)
    }
}

/// Submits [`PREEMPTIONS`] real-time tasks while a best-effort task runs that takes `alone_us` alone.
fn submit_among(
    rig: &Rig,
    urgent: &mut Session,
    rng: &mut Rng,
    alone_us: f64,
    seen: &mut Disturbed,
) -> Result<(), BenchError> {
    wake_on_time();
    let device = rig.engine.device();
    let share_us = alone_us / f64::from(PREEMPTIONS);
    let begin = MonotonicClock::read();
    for index in 0..PREEMPTIONS {
        // Not in the last tenth of its share: the best-effort task has to be there still.
        let at_us = (f64::from(index) + 0.9 * rng.unit_f64()) * share_us;
        let served = Nanos((seen.service_us * 1e3) as u64);
        sleep_until(begin + Nanos((at_us * 1e3) as u64) + served);
        let wasted = device.counters().wasted;
        let info = urgent.run().map_err(BenchError::infer(URGENT))?;
        seen.service_us += info.counters.cu_time.as_micros_f64() / rig.engine.capabilities().cus as f64;
        let span = Span::of(&info);
        seen.urgent = Some(seen.urgent.map_or(span, |first| first.joined(span)));
        if info.preempted {
            seen.preemptions += 1;
            seen.lost_us.push_micros(device.counters().wasted.since(wasted));
        }
    }
    Ok(())
}

/// What reports say of one scheme.
#[derive(Debug, Default)]
struct Costs {
    lost_us: Samples,
    run_again: Samples,
    extra_us: Samples,
    extra_percent: Samples,
}

/// All rounds of one model.
#[derive(Debug, Default)]
struct Seen {
    alone_us: Samples,
    reset: Costs,
    wait: Costs,
}

impl Seen {
    /// Adds a round.
    fn add(&mut self, round: Round) {
        let Some(alone) = round.alone_us.summary() else { return };
        self.alone_us.extend(&round.alone_us);
        round.reset.iter().for_each(|task| self.reset.add(task, alone.p50));
        round.wait.iter().for_each(|task| self.wait.add(task, alone.p50));
    }

    fn rows(&self, model: Model) -> Vec<Row> {
        let name = |what: &str| format!("{model} {what}");
        let mut rows = vec![
            Row::new(name("alone"), "µs", &self.alone_us),
            Row::new(name("reset: work lost"), "µs", &self.reset.lost_us),
            Row::new(name("reset: run again"), "blocks", &self.reset.run_again),
        ];
        for (scheme, costs) in [(Scheme::Reset, &self.reset), (Scheme::Wait, &self.wait)] {
            rows.push(Row::new(name(&format!("{scheme}: extra time")), "µs", &costs.extra_us));
            rows.push(Row::new(name(&format!("{scheme}: extra, of alone")), "%", &costs.extra_percent));
        }
        rows
    }
}

impl Costs {
    /// Adds a task of a round in which one takes `alone_us` undisturbed. One that did not meet all its
    /// real-time tasks shows nothing: not all of what they used was taken from it.
    fn add(&mut self, task: &Disturbed, alone_us: f64) {
        let met_all = task.victim.zip(task.urgent).is_some_and(|(victim, urgent)| victim.holds(urgent));
        if !met_all || task.preemptions == 0 {
            return;
        }
        let per_preemption = |amount: f64| amount / f64::from(task.preemptions);
        let extra_us = per_preemption(task.compute_us - task.service_us - alone_us);
        let TaskCounters { blocks_killed, blocks_rerun, blocks_done, cu_time, .. } = task.counters;
        match task.repeats {
            false => self.lost_us.extend(&task.lost_us),
            // What ran and runs again has no time of its own: it took what the task's blocks take.
            true => {
                let block_us = cu_time.as_micros_f64() / blocks_done.max(1) as f64;
                let wasted_us = task.counters.wasted_time.as_micros_f64();
                self.lost_us.push(per_preemption(blocks_rerun as f64 * block_us + wasted_us));
            }
        }
        self.run_again.push(per_preemption((blocks_killed + blocks_rerun) as f64));
        self.extra_us.push(extra_us);
        self.extra_percent.push(extra_us / alone_us * 100.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(from: u64, to: u64) -> Span {
        Span { from: Nanos(from), to: Nanos(to) }
    }

    #[test]
    fn extra_time_is_beyond_the_time_alone_and_the_real_time_tasks() {
        let task = |preemptions, urgent| Disturbed {
            compute_us: 1_900.0,
            service_us: 800.0,
            preemptions,
            counters: TaskCounters { blocks_killed: 8, ..TaskCounters::default() },
            lost_us: [10.0, 20.0].into_iter().collect(),
            repeats: false,
            urgent: Some(urgent),
            victim: Some(span(1_000, 2_000)),
        };
        let inside = span(1_100, 2_000);
        let mut seen = Seen::default();
        seen.add(Round {
            alone_us: [900.0, 1_000.0, 1_500.0].into_iter().collect(),
            reset: vec![task(4, inside), task(4, span(900, 1_500)), task(4, span(1_500, 2_001))],
            wait: vec![task(0, inside), task(2, inside)],
        });
        assert_eq!(seen.reset.extra_us.as_slice(), [25.0]);
        assert_eq!(seen.reset.extra_percent.as_slice(), [2.5]);
        assert_eq!(seen.reset.run_again.as_slice(), [2.0]);
        assert_eq!(seen.reset.lost_us.as_slice(), [10.0, 20.0]);
        assert_eq!(seen.wait.extra_us.as_slice(), [50.0]);
        let names: Vec<String> = seen.rows(Model::Vgg19).into_iter().map(|row| row.name).collect();
        assert_eq!(names[1], "vgg19 reset: work lost");
        assert_eq!(names.len(), 7);
    }

    #[test]
    fn what_a_queued_executor_repeats_is_lost_at_the_mean_time_of_a_block() {
        let counters = TaskCounters {
            blocks_rerun: 6,
            blocks_done: 50,
            cu_time: Nanos::from_micros(500),
            ..TaskCounters::default()
        };
        let (preemptions, repeats, lost_us) = (2, true, [0.0, 0.0].into_iter().collect());
        let (urgent, victim) = (Some(span(1_100, 2_000)), Some(span(1_000, 2_000)));
        let mut costs = Costs::default();
        let task =
            Disturbed { preemptions, counters, lost_us, repeats, urgent, victim, ..Disturbed::default() };
        costs.add(&task, 1.0);
        assert_eq!((costs.lost_us.as_slice(), costs.run_again.as_slice()), (&[30.0][..], &[3.0][..]));
    }
}
