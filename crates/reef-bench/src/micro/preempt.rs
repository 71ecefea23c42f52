//! Part `preempt`: from the submission of a real-time task to its first block, while a best-effort model
//! saturates the device. Once with a core left free for the submitting thread, once with a compute unit on
//! every core.

use std::thread;
use std::time::Duration;

use reef_base::{Class, Nanos, Rng, Samples};
use reef_load::Caller;
use reef_load::pace::wake_on_time;
use reef_plan::SyntheticStage;
use reef_report::micro::{Part, Row, Stat};
use reef_zoo::Model;
use rustix::thread::CpuSet;

use super::Bench;
use crate::callers::SessionCaller;
use crate::error::BenchError;
use crate::progress::Progress;

pub(super) const NAME: &str = "preempt";

const TASK: &str = "urgent";
/// A block of the real-time task: long enough that no compute unit takes two while another is on its way.
const BLOCK: (u32, u32) = (40, 5_000);
/// Gaps between two submissions, microseconds, uniform.
const GAP_US: (u64, u64) = (100, 1_000);

pub(super) fn run(bench: &Bench<'_>) -> Result<Part, BenchError> {
    let cus = bench.options.cus;
    let count = bench.pick(10_000, 1_000);
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    if cus > 1 {
        let seen = measure(bench, cus - 1, 1, count)?;
        notes.push(seen.note("one core left free"));
        rows.push(
            Row::new("core left free: first block", "µs", &seen.first)
                .at_most(Stat::P50, 3.0)
                .at_most(Stat::P99, 20.0),
        );
        if cus > 2 {
            rows.push(Row::new("core left free: last CU", "µs", &seen.last));
        }
    }
    let seen = measure(bench, cus, 0, count)?;
    notes.push(seen.note("a CU on every core"));
    rows.push(Row::new("CU on every core: first CU", "µs", &seen.first).at_most(Stat::P50, 5.0));
    rows.push(Row::new("CU on every core: last CU", "µs", &seen.last).at_most(Stat::P50, 40.0));
    let method = format!(
        "{count} submissions at random gaps of {} to {} µs beside saturating {}; submission to first \
         block ({})",
        GAP_US.0,
        GAP_US.1,
        Model::Resnet152,
        notes.join("; ")
    );
    Ok(Part::new(NAME, method, rows))
}

/// Preemptions on one arrangement of compute units.
#[derive(Default)]
struct Seen {
    first: Samples,
    last: Samples,
    submissions: u64,
    /// Tasks that ended before they had the last compute unit.
    unreached: u64,
    blocks_killed: u64,
    wasted: Nanos,
}

impl Seen {
    fn note(&self, arrangement: &str) -> String {
        let Seen { submissions, unreached, blocks_killed, wasted, .. } = self;
        let preempted = self.first.len();
        format!(
            "{arrangement}: {preempted} of {submissions} preempted, {unreached} ended without the last CU, \
             {blocks_killed} blocks killed, {wasted} wasted"
        )
    }
}

fn measure(bench: &Bench<'_>, cus: usize, first_core: usize, count: usize) -> Result<Seen, BenchError> {
    let rig = bench.rig(cus, first_core)?;
    bench.load(&rig, Model::Resnet152, Class::BestEffort)?;
    let block = SyntheticStage { blocks: cus, polls: BLOCK.0, poll_ns: BLOCK.1 };
    rig.load_synthetic(TASK, Class::real_time(0), &[block])?;
    let load = rig.saturate(Model::Resnet152)?;
    bench.progress.phase(format!("preemptions on {cus} CUs"));
    bench.progress.sleep(bench.pick(Duration::from_secs(1), Duration::from_millis(100)));
    let caller = SessionCaller::new(&rig.engine, TASK, 1)?;
    let begin = rig.engine.device().counters();
    let free_core = (first_core > 0).then_some(0);
    let progress = bench.progress;
    let submitting = || submit(progress, caller, count, free_core);
    let seen = thread::scope(|scope| scope.spawn(submitting).join().expect("submitting does not panic"))?;
    let end = rig.engine.device().counters();
    load.stop()?;
    Ok(Seen {
        blocks_killed: end.blocks_killed - begin.blocks_killed,
        wasted: end.wasted.since(begin.wasted),
        ..seen
    })
}

/// Submits until `count` tasks have preempted; gives up at twice as many submissions.
fn submit(
    progress: &Progress,
    mut caller: SessionCaller,
    count: usize,
    free_core: Option<usize>,
) -> Result<Seen, BenchError> {
    if let Some(core) = free_core {
        pin_to(core);
    }
    wake_on_time();
    let mut rng = Rng::new(1);
    let mut seen = Seen::default();
    while seen.first.len() < count && seen.submissions < 2 * count as u64 {
        let gap = Duration::from_micros(GAP_US.0 + rng.below(GAP_US.1 - GAP_US.0));
        thread::sleep(gap);
        let reply = caller.call()?;
        seen.submissions += 1;
        if let Some(first_block) = reply.first_block.filter(|_| reply.preempted) {
            seen.first.push_micros(first_block);
            // A task that ended before it had the last CU counts with its whole time: leaving it out would
            // show only the fast ones.
            seen.last.push_micros(reply.all_cus.unwrap_or(first_block + reply.compute.unwrap_or_default()));
            seen.unreached += u64::from(reply.all_cus.is_none());
        }
        progress.advance(gap);
    }
    Ok(seen)
}

/// Keeps the calling thread on the `index`th of the cores that it may use. Best effort: without it the system
/// chooses, and the free core is the best choice anyway.
fn pin_to(index: usize) {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return };
    let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
    if let Some(core) = cores.nth(index) {
        let mut only = CpuSet::new();
        only.set(core);
        let _ = rustix::thread::sched_setaffinity(None, &only);
    }
}
