//! What the stages of a plan take of a GPU, as kernels that are launched: by the plan's own estimates, or as
//! measured.

use std::fmt;

use reef_base::Nanos;
use reef_device::simulated::block_time;
use reef_plan::{Plan, PlanError, Stage, SyntheticStage, Target, synthetic_plan};

use crate::profile::{Kernel, Model};

/// Says what kernels take.
pub trait Costs: Send + Sync + fmt::Debug {
    /// Of each stage of a plan, on so many compute units.
    fn kernels(&self, plan: &Plan, cus: u32) -> Vec<Kernel>;
}

/// By the plan: blocks take what a synthetic kernel says, or what comes of a kernel's work. One of them fits
/// a compute unit.
#[derive(Clone, Copy, Debug)]
pub struct OfPlans;

impl Costs for OfPlans {
    fn kernels(&self, plan: &Plan, cus: u32) -> Vec<Kernel> {
        plan.stages().iter().map(|stage| of_plan(plan, stage, cus)).collect()
    }
}

fn of_plan(plan: &Plan, stage: &Stage, cus: u32) -> Kernel {
    let kernels = &plan.kernels()[stage.kernels.start as usize..stage.kernels.end as usize];
    let longest = kernels.iter().map(block_time).max().unwrap_or_default();
    let equal = kernels.iter().all(|kernel| block_time(kernel) == longest);
    let alone = if equal {
        longest.0 * u64::from(stage.blocks().div_ceil(cus))
    } else {
        // As if the shorter ones filled what the longer ones leave.
        let work: u64 = kernels.iter().map(|kernel| block_time(kernel).0 * kernel.spec.blocks() as u64).sum();
        work.div_ceil(u64::from(cus)).max(longest.0)
    };
    Kernel::made_up(stage.blocks(), longest, Nanos(alone), cus)
}

/// As measured, for plans that are called as a model is; by the plan for others, and for what stages these
/// have beyond the model's kernels.
#[derive(Clone, Debug)]
pub struct Measured(pub Vec<Model>);

impl Costs for Measured {
    fn kernels(&self, plan: &Plan, cus: u32) -> Vec<Kernel> {
        let mut kernels = OfPlans.kernels(plan, cus);
        if let Some(model) = self.0.iter().find(|model| model.name == plan.name()) {
            kernels.iter_mut().zip(&model.kernels).for_each(|(made_up, kernel)| *made_up = kernel.clone());
        }
        kernels
    }
}

/// A plan of a model's name, whose stages are as its kernels, and a short one at the end.
pub fn plan_of(model: &Model, target: Target) -> Result<Plan, PlanError> {
    let stage = |kernel: &Kernel| SyntheticStage { blocks: kernel.blocks as usize, polls: 1, poll_ns: 1_000 };
    let stages: Vec<SyntheticStage> = model.kernels.iter().map(stage).collect();
    synthetic_plan(&model.name, target, 1, &stages)
}
