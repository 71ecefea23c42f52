//! Models as a resident executor runs them: stages, whose kernels have blocks that may run at the same time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use reef_base::Nanos;
use serde::Deserialize;

use super::constants::ResidentConstants;
use crate::constants::GpuConstants;
use crate::error::SimError;
use crate::profile::{Kernel, Profile};

/// Blocks of one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// How many.
    pub count: u32,
    /// What each takes.
    pub time: Nanos,
}

/// Kernels that may run at the same time; the next stage begins when all are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// In the order in which their blocks are pulled; there is one.
    pub kernels: Vec<Blocks>,
}

impl Stage {
    /// Blocks of all kernels.
    pub fn blocks(&self) -> u32 {
        self.kernels.iter().map(|kernel| kernel.count).sum()
    }
}

/// A model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResidentModel {
    /// Its name.
    pub name: String,
    /// In order; there is one.
    pub stages: Vec<Stage>,
    /// What it takes from request to answer alone, back to back, where that was measured.
    pub measured: Option<Nanos>,
}

/// The models of DISB on two units of a CPU.
const CPU2: [(&str, &str); 5] = [
    ("resnet152", include_str!("../../data/cpu2/resnet152.json")),
    ("densenet201", include_str!("../../data/cpu2/densenet201.json")),
    ("vgg19", include_str!("../../data/cpu2/vgg19.json")),
    ("inceptionv3", include_str!("../../data/cpu2/inceptionv3.json")),
    ("distilbert", include_str!("../../data/cpu2/distilbert.json")),
];

/// Blocks of a model: more is a mistake.
const BLOCKS_MAX: u64 = 10_000_000;
/// Nanoseconds of a block: more is a mistake.
const BLOCK_NS_MAX: u64 = 10_000_000_000;

/// What `reef profile --json` prints, as far as it is needed.
#[derive(Deserialize)]
struct Printed {
    latency_ns: PrintedLatency,
    kernels: Vec<PrintedKernel>,
}

#[derive(Deserialize)]
struct PrintedLatency {
    p50: u64,
}

#[derive(Deserialize)]
struct PrintedKernel {
    stage: usize,
    blocks: u32,
    block_ns: u64,
}

impl ResidentModel {
    /// The models of a device for which profiles are built in; none for the others.
    pub fn built_in(device: &str) -> Vec<ResidentModel> {
        let parse = |(name, text): &(&str, &str)| {
            ResidentModel::parse(name, text).expect("built-in profiles are right")
        };
        if device == "cpu2" { CPU2.iter().map(parse).collect() } else { Vec::new() }
    }

    /// Reads what `reef profile --json` printed.
    pub fn parse(name: &str, text: &str) -> Result<ResidentModel, SimError> {
        let wrong = |problem: String| SimError::Profile { name: name.into(), problem };
        let printed: Printed = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let mut stages: BTreeMap<usize, Stage> = BTreeMap::new();
        let mut blocks = 0;
        for (at, kernel) in printed.kernels.iter().enumerate() {
            let PrintedKernel { stage, blocks: count, block_ns } = *kernel;
            blocks += u64::from(count);
            if count == 0 || block_ns > BLOCK_NS_MAX {
                let problem = format!("kernel {at} has {count} blocks of {block_ns} ns");
                return Err(wrong(format!("{problem}; allowed are blocks of at most {BLOCK_NS_MAX} ns")));
            }
            // The device did not say; it cannot be nothing.
            let of = Blocks { count, time: Nanos(block_ns.max(1)) };
            stages.entry(stage).or_insert_with(|| Stage { kernels: Vec::new() }).kernels.push(of);
        }
        if stages.is_empty() {
            return Err(wrong("it has no kernel".into()));
        }
        if blocks > BLOCKS_MAX {
            return Err(wrong(format!("it has {blocks} blocks, allowed are {BLOCKS_MAX}")));
        }
        let measured = Some(Nanos(printed.latency_ns.p50)).filter(|time| time.0 > 0);
        Ok(ResidentModel { name: name.into(), stages: stages.into_values().collect(), measured })
    }

    /// A model with the kernels that were measured on a GPU: a stage per kernel. A compute unit runs as many
    /// blocks of a kernel at once as it did there, which count as one block here.
    pub fn of_gpu(profile: &Profile, gpu: &GpuConstants) -> ResidentModel {
        let stage = |measured| {
            let kernel = Kernel::of(measured, gpu);
            let each = kernel.blocks.div_ceil(gpu.cus);
            let (waves, rest) = (each / kernel.occupancy, each % kernel.occupancy);
            let full = kernel.blocks.min(waves * kernel.occupancy * gpu.cus);
            let mut kernels = Vec::new();
            let mut push = |blocks: u32, per_cu: u32| {
                if blocks > 0 {
                    let time = kernel.block(per_cu);
                    kernels.push(Blocks { count: blocks.div_ceil(per_cu), time });
                }
            };
            push(full, kernel.occupancy);
            push(kernel.blocks - full, rest.max(1));
            Stage { kernels }
        };
        let stages = profile.kernels.iter().map(stage).collect();
        ResidentModel { name: profile.name.clone(), stages, measured: None }
    }

    /// What it takes alone on units that never sleep: each unit takes the next block when it is free. Made
    /// without [`super::executor`], which has to agree.
    pub fn awake(&self, device: &ResidentConstants) -> Nanos {
        let pull = device.stages.pull_us.nanos().0;
        let mut total = device.requests.submit_us.nanos().0 + device.polling.visibility_us.nanos().0;
        for stage in &self.stages {
            let mut free: BinaryHeap<Reverse<u64>> = (0..device.units).map(|_| Reverse(0)).collect();
            let mut end = 0;
            for kernel in &stage.kernels {
                for _ in 0..kernel.count {
                    let Reverse(at) = free.pop().expect("there is a unit");
                    free.push(Reverse(at + pull + kernel.time.0));
                    end = end.max(at + pull + kernel.time.0);
                }
            }
            total += end;
        }
        total += device.stages.barrier_us.nanos().0 * (self.stages.len() as u64 - 1);
        Nanos(total + device.requests.hand_over_us.nanos().0)
    }

    /// The model with blocks `factor` times as long.
    pub fn scaled(&self, factor: f64) -> ResidentModel {
        let kernel = |kernel: &Blocks| Blocks { time: Nanos(scale(kernel.time, factor)), ..*kernel };
        let stage = |stage: &Stage| Stage { kernels: stage.kernels.iter().map(kernel).collect() };
        ResidentModel { stages: self.stages.iter().map(stage).collect(), ..self.clone() }
    }
}

fn scale(time: Nanos, factor: f64) -> u64 {
    ((time.0 as f64 * factor).round() as u64).clamp(1, BLOCK_NS_MAX)
}
