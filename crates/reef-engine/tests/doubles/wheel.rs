//! A model of several segments whose answers are known.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reef_engine::*;
use reef_plan::{Cutter, Target, synthetic_output};

use super::plan_for;

/// Three plans in turn. Each one's output selects what follows: it ends when its first byte is a multiple of
/// `ends`.
#[derive(Debug)]
pub struct Wheel {
    pub ends: u8,
    pub plans: Vec<Arc<Plan>>,
    pub parts: Vec<Arc<usize>>,
    pub inputs: Vec<TensorInfo>,
    pub outputs: Vec<TensorInfo>,
    pub made: AtomicUsize,
    /// Part that has no plan.
    pub broken: Option<usize>,
}

impl Wheel {
    pub fn new(target: Target, ends: u8) -> Wheel {
        let plans = (0..3).map(|index| plan_for(target, &format!("wheel {index}"), 40 + index, 2)).collect();
        let info = |name: &str| {
            vec![TensorInfo { name: name.into(), dtype: DType::U8, dims: vec![64], texts: false }]
        };
        let parts = (0..3).map(Arc::new).collect();
        let (inputs, outputs, made) = (info("x"), info("y"), AtomicUsize::new(0));
        Wheel { ends, plans, parts, inputs, outputs, made, broken: None }
    }

    fn is_last(&self, value: &[u8]) -> bool {
        self.ends > 0 && value[0].is_multiple_of(self.ends)
    }

    /// The answer, and the blocks of all segments.
    pub fn answer(&self, input: &[u8]) -> (Vec<u8>, u64) {
        let (mut at, mut value) = (0, synthetic_output(&self.plans[0], input));
        let mut blocks = self.plans[0].blocks();
        loop {
            at = (at + 1) % 3;
            let last = self.is_last(&value);
            value = synthetic_output(&self.plans[at], &value);
            blocks += self.plans[at].blocks();
            if last {
                return (value, blocks);
            }
        }
    }
}

impl PlanSource for Wheel {
    fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    fn compile(&self, _: &[Shape], _: &dyn Cutter) -> Result<Arc<Plan>, String> {
        Err("a wheel has no one plan".into())
    }

    fn segment(&self, key: &SegmentKey, _: &dyn Cutter) -> Result<Segment, String> {
        self.made.fetch_add(1, Ordering::SeqCst);
        let at = key.part.as_ref().map_or(0, |part| *part.downcast::<usize>().expect("a part of the wheel"));
        if self.broken == Some(at) {
            return Err("this spoke is broken".into());
        }
        let plan = self.plans[at].clone();
        if let [Given::Value(value), ..] = &key.given[..]
            && self.is_last(value.bytes().as_slice())
        {
            return Ok(Segment::last(plan));
        }
        let from = Source::Output(0);
        let passed =
            vec![Passed { source: from, take: Take::Value }, Passed { source: from, take: Take::Tensor }];
        let next = Part::new(self.parts[(at + 1) % 3].clone());
        Segment::new(plan, next, passed).map_err(|error| error.to_string())
    }
}
