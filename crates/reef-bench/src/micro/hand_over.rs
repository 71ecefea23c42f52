//! Part `handover`: what going on with another segment costs. A program of many segments with one empty
//! block each, less as many empty blocks in one stage, per segment.

use std::sync::Arc;

use reef_base::{Class, ModelKey, Samples};
use reef_engine::{
    ModelSettings, Part as ProgramPart, Passed, PlanSource, Segment, SegmentKey, Shape, Source, Take,
    TensorInfo,
};
use reef_load::Caller;
use reef_plan::{Cutter, IoSpec, Plan, SyntheticStage, Target, synthetic_plan};
use reef_report::micro::{Part, Row, Stat};

use super::Bench;
use super::rig::Rig;
use crate::callers::SessionCaller;
use crate::error::BenchError;

pub(super) const NAME: &str = "handover";

/// Segments of the program; each plan is one of its own.
const SEGMENTS: usize = 50;
const TARGET_NS: f64 = 2_000.0;
const EMPTY: SyntheticStage = SyntheticStage { blocks: 1, polls: 1, poll_ns: 0 };

pub(super) fn run(bench: &Bench<'_>) -> Result<Part, BenchError> {
    bench.progress.phase("handing over");
    let runs = bench.pick(4_000, 200);
    let mut rows = vec![];
    for cus in if bench.options.cus > 1 { vec![1, bench.options.cus] } else { vec![1] } {
        let rig = bench.rig(cus, 0)?;
        let (mut whole, mut chain) = (Runner::one_plan(&rig)?, Runner::chain(&rig)?);
        let (mut hand_over, mut block) = (Samples::default(), Samples::default());
        for _ in 0..runs {
            let alone = whole.ns()? / SEGMENTS as f64;
            block.push(alone);
            hand_over.push(chain.ns()? / SEGMENTS as f64 - alone);
        }
        let name = format!("hand-over on {cus} CU{}", if cus == 1 { "" } else { "s" });
        rows.push(Row::new(name, "ns", &hand_over).at_most(Stat::P50, TARGET_NS));
        rows.push(Row::new(format!("stage of one plan, {cus} CUs"), "ns", &block));
    }
    let method = format!(
        "{runs} runs of {SEGMENTS} segments of two stages of one empty block, less one plan of as many stages"
    );
    Ok(Part::new(NAME, method, rows))
}

struct Runner(SessionCaller);

impl Runner {
    fn one_plan(rig: &Rig) -> Result<Runner, BenchError> {
        rig.load_synthetic("whole", Class::real_time(0), &[EMPTY; 2 * SEGMENTS - 1])?;
        Ok(Runner(SessionCaller::new(&rig.engine, "whole", 1)?))
    }

    fn chain(rig: &Rig) -> Result<Runner, BenchError> {
        let source = Chain::new(rig.engine.capabilities().target)?;
        let settings = ModelSettings { class: Class::real_time(0), ..ModelSettings::default() };
        let key = ModelKey { name: "chain".into(), version: "1".into() };
        rig.engine.load_source(key, settings, Arc::new(source))?;
        let mut runner = Runner(SessionCaller::new(&rig.engine, "chain", 1)?);
        // The first run finds the way.
        runner.ns()?;
        Ok(runner)
    }

    /// One run's time on the device.
    fn ns(&mut self) -> Result<f64, BenchError> {
        Ok(self.0.call()?.compute.unwrap_or_default().0 as f64)
    }
}

/// Segments one after the other, each the same plan under a name of its own.
#[derive(Debug)]
struct Chain {
    plans: Vec<Arc<Plan>>,
    parts: Vec<Arc<usize>>,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
}

impl Chain {
    fn new(target: Target) -> Result<Chain, BenchError> {
        let plan = |index: usize| synthetic_plan(&format!("segment {index}"), target, index as u64, &[EMPTY]);
        let plans: Vec<Arc<Plan>> =
            (0..SEGMENTS).map(|index| plan(index).map(Arc::new)).collect::<Result<_, _>>()?;
        let info = |spec: &IoSpec| TensorInfo {
            name: spec.name.clone(),
            dtype: spec.dtype,
            dims: spec.shape.iter().map(|&extent| extent as i64).collect(),
            texts: false,
        };
        let inputs = plans[0].inputs().iter().map(info).collect();
        let outputs = plans[0].outputs().iter().map(info).collect();
        Ok(Chain { parts: (0..SEGMENTS).map(Arc::new).collect(), plans, inputs, outputs })
    }
}

impl PlanSource for Chain {
    fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    fn compile(&self, _shapes: &[Shape], _cutter: &dyn Cutter) -> Result<Arc<Plan>, String> {
        Err("it is a program of several segments".into())
    }

    fn segment(&self, key: &SegmentKey, _cutter: &dyn Cutter) -> Result<Segment, String> {
        let at = key.part.as_ref().and_then(|part| part.downcast::<usize>()).map_or(0, |at| *at);
        let plan = self.plans[at].clone();
        let Some(next) = self.parts.get(at + 1) else { return Ok(Segment::last(plan)) };
        let passed = vec![Passed { source: Source::Output(0), take: Take::Tensor }];
        Segment::new(plan, ProgramPart::new(next.clone()), passed).map_err(|error| error.to_string())
    }
}
