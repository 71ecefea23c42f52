//! Part `preempt` of devices that queue kernels: from the submission of a real-time task beside saturating
//! best-effort work to its first block, by how many launches of a best-effort task may be queued at a time.
//! Under `wait` all of them run first; under `reset` their blocks do not start any more, and a kernel of
//! which some had run already runs again.

use std::thread;
use std::time::Duration;

use reef_base::{Class, Rng, Samples};
use reef_device::Scheme;
use reef_engine::Session;
use reef_load::pace::wake_on_time;
use reef_plan::SyntheticStage;
use reef_report::micro::{Part, Row};

use super::Bench;
use super::rig::{Rig, SATURATING_CALLERS};
use crate::error::BenchError;

pub(super) const NAME: &str = "preempt";

const SCHEMES: [Scheme; 2] = [Scheme::Wait, Scheme::Reset];
const URGENT: &str = "urgent";
const LOAD: &str = "load";
/// Kernels of the best-effort task; few of them where little time is wanted.
const KERNELS: (usize, usize) = (100, 20);
/// A block of either task: polls, and nanoseconds between them.
const BLOCK: (u32, u32) = (5, 5_000);
/// Blocks of a best-effort kernel for each multiprocessor: more than have room there at a time. Likewise.
const BLOCKS_PER_UNIT: (usize, usize) = (16, 4);
const GAP_US: (u64, u64) = (200, 2_000);
const ROUNDS: usize = 2;

pub(super) fn run(bench: &Bench<'_>) -> Result<Part, BenchError> {
    wake_on_time();
    let outstanding = bench.pick(&[1, 2, 4, 8, 16, 32][..], &[1, 4]);
    let count = bench.pick(600, 10);
    let cus = bench.options.cus;
    let kernels = bench.pick(KERNELS.0, KERNELS.1);
    let blocks = cus * bench.pick(BLOCKS_PER_UNIT.0, BLOCKS_PER_UNIT.1);
    let mut rows = Vec::new();
    let mut put_off = 0;
    for &outstanding in outstanding {
        let rig = bench.queued_rig(outstanding)?;
        let stage = |blocks| SyntheticStage { blocks, polls: BLOCK.0, poll_ns: BLOCK.1 };
        rig.load_synthetic(URGENT, Class::real_time(0), &[stage(cus)])?;
        rig.load_synthetic(LOAD, Class::BestEffort, &vec![stage(blocks); kernels])?;
        let mut prober = Prober { bench, rig: &rig, session: rig.session(URGENT)?, rng: Rng::new(1) };
        let mut seen: [Seen; 2] = Default::default();
        for round in 0..ROUNDS {
            bench.progress.phase(format!("{NAME}: {outstanding} queued, round {}", round + 1));
            for which in [round % 2, (round + 1) % 2] {
                prober.probe(SCHEMES[which], count, &mut seen[which])?;
            }
        }
        for (scheme, seen) in SCHEMES.iter().zip(&seen) {
            let name = format!("{outstanding} queued, {scheme}");
            let point = |row: Row| row.at(scheme.name(), outstanding as f64);
            rows.push(point(Row::new(name.clone(), "µs", &seen.first_us)));
            if scheme.kills() {
                rows.push(point(Row::new(format!("{name}: run again"), "blocks", &seen.again)));
            }
            put_off += seen.submissions - seen.first_us.len();
        }
    }
    let method = format!(
        "submission of a real-time task of {cus} blocks to its first block, beside {SATURATING_CALLERS} \
         best-effort clients of {kernels} kernels of {blocks} blocks of {} µs; only tasks that \
         found best-effort \
         work queued count, {put_off} did not; run again: finished blocks per preemption; {ROUNDS} rounds",
        BLOCK.0 * BLOCK.1 / 1_000
    );
    Ok(Part::new(NAME, method, rows).over("launches of a best-effort task that may be queued"))
}

#[derive(Default)]
struct Seen {
    first_us: Samples,
    /// Per preemption, one sample a round.
    again: Samples,
    submissions: usize,
}

struct Prober<'a> {
    bench: &'a Bench<'a>,
    rig: &'a Rig,
    session: Session,
    rng: Rng,
}

impl Prober<'_> {
    fn probe(&mut self, scheme: Scheme, count: usize, seen: &mut Seen) -> Result<(), BenchError> {
        self.rig.engine.set_scheme(scheme);
        let load = self.rig.clients(LOAD, SATURATING_CALLERS)?;
        self.bench.progress.sleep(self.bench.pick(Duration::from_millis(100), Duration::from_millis(10)));
        let begin = self.rig.engine.device().counters();
        for _ in 0..count {
            let gap = Duration::from_micros(GAP_US.0 + self.rng.below(GAP_US.1 - GAP_US.0));
            thread::sleep(gap);
            self.bench.progress.advance(gap);
            let info = self.session.run().map_err(BenchError::infer(URGENT))?;
            seen.submissions += 1;
            if info.preempted {
                seen.first_us.push_micros(info.first_block);
            }
        }
        let end = self.rig.engine.device().counters();
        load.stop()?;
        let preemptions = end.preemptions - begin.preemptions;
        if preemptions > 0 {
            seen.again.push((end.blocks_rerun - begin.blocks_rerun) as f64 / preemptions as f64);
        }
        Ok(())
    }
}
