//! Part `stage`: what opening a stage costs. A plan of many stages with one empty block each, less a plan
//! with as many empty blocks in one stage, per stage.

use reef_base::{Class, Samples};
use reef_load::Caller;
use reef_plan::SyntheticStage;
use reef_report::micro::{Part, Row, Stat};

use super::Bench;
use super::rig::Rig;
use crate::callers::SessionCaller;
use crate::error::BenchError;

pub(super) const NAME: &str = "stage";

const STAGES: usize = 2_000;
const TARGET_NS: f64 = 1_000.0;
const EMPTY: SyntheticStage = SyntheticStage { blocks: 1, polls: 1, poll_ns: 0 };

pub(super) fn run(bench: &Bench<'_>) -> Result<Part, BenchError> {
    bench.progress.phase("opening stages");
    let runs = bench.pick(500, 50);
    let single = bench.rig(1, 0)?;
    let (many, one) = (Plan::many_stages(&single)?, Plan::one_stage(&single)?);
    let (stages, blocks) = interleaved(many, one, runs)?;
    drop(single);
    let block_ns = blocks.summary().map_or(0.0, |blocks| blocks.p50);
    let mut rows = vec![
        Row::new("stage on 1 CU", "ns", &less(&stages, block_ns)).at_most(Stat::P50, TARGET_NS),
        Row::new("block, empty", "ns", &blocks),
    ];
    let cus = bench.options.cus;
    if cus > 1 {
        let rig = bench.rig(cus, 0)?;
        let mut many = Plan::many_stages(&rig)?;
        let stages = (0..runs).map(|_| many.ns_each()).collect::<Result<Samples, _>>()?;
        let name = format!("stage on {cus} CUs");
        rows.insert(1, Row::new(name, "ns", &less(&stages, block_ns)).at_most(Stat::P50, TARGET_NS));
    }
    let method =
        format!("{runs} runs of {STAGES} stages of one empty block, less {STAGES} blocks in one stage");
    Ok(Part::new(NAME, method, rows))
}

struct Plan(SessionCaller);

impl Plan {
    fn many_stages(rig: &Rig) -> Result<Plan, BenchError> {
        rig.load_synthetic("stages", Class::real_time(0), &[EMPTY; STAGES])?;
        Ok(Plan(SessionCaller::new(&rig.engine, "stages", 1)?))
    }

    fn one_stage(rig: &Rig) -> Result<Plan, BenchError> {
        rig.load_synthetic("blocks", Class::real_time(0), &[SyntheticStage { blocks: STAGES, ..EMPTY }])?;
        Ok(Plan(SessionCaller::new(&rig.engine, "blocks", 1)?))
    }

    /// One run's time on the device, divided by the number of stages or blocks.
    fn ns_each(&mut self) -> Result<f64, BenchError> {
        let reply = self.0.call()?;
        Ok(reply.compute.unwrap_or_default().0 as f64 / STAGES as f64)
    }
}

fn interleaved(mut a: Plan, mut b: Plan, runs: usize) -> Result<(Samples, Samples), BenchError> {
    let (mut a_ns, mut b_ns) = (Samples::default(), Samples::default());
    for _ in 0..runs {
        a_ns.push(a.ns_each()?);
        b_ns.push(b.ns_each()?);
    }
    Ok((a_ns, b_ns))
}

fn less(samples: &Samples, amount: f64) -> Samples {
    samples.as_slice().iter().map(|sample| sample - amount).collect()
}
