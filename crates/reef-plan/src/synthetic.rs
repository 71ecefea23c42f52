//! What synthetic kernels compute, and plans of them: the same bytes on every device.

use std::sync::Arc;

use reef_graph::{DType, Shape};

use crate::plan::{Cost, IoSpec, Kernel, Plan, PlanParts, Restart};
use crate::region::{Place, Region};
use crate::spec::{KernelSpec, SyntheticSpec};
use crate::target::Target;
use crate::validate::PlanError;
use crate::weights::WeightStore;

impl SyntheticSpec {
    /// Folds the bytes of all inputs, in order, into one number. The first 64 bytes of an input and its
    /// length count, so that a block's time is its spinning, not its reading.
    pub fn digest<'a>(&self, inputs: impl Iterator<Item = &'a [u8]>) -> u64 {
        inputs.fold(self.seed, |sum, input| {
            let head = &input[..input.len().min(64)];
            head.iter().fold(mix(sum ^ input.len() as u64), |sum, &byte| mix(sum ^ u64::from(byte)))
        })
    }

    /// Byte `index` of the output for inputs with this digest.
    #[inline]
    pub fn byte(digest: u64, index: usize) -> u8 {
        (mix(digest ^ index as u64) >> 56) as u8
    }
}

fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    let x = (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    x ^ (x >> 32)
}

/// One stage of a synthetic plan: one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntheticStage {
    /// Blocks of the kernel.
    pub blocks: usize,
    /// Polls of a block.
    pub polls: u32,
    /// Nanoseconds between polls.
    pub poll_ns: u32,
}

const TILE_BYTES: usize = 64;

/// A chain of synthetic kernels from one 64-byte input `x` to one 64-byte output `y`. Every stage but the
/// last writes one tile per block into the arena; buffers are reused as early as the target's window allows.
pub fn synthetic_plan(
    name: &str,
    target: Target,
    seed: u64,
    stages: &[SyntheticStage],
) -> Result<Plan, PlanError> {
    let largest = stages.iter().map(|stage| stage.blocks).max().unwrap_or(1) * TILE_BYTES;
    // A stage writes slot i mod (window + 2): its own, not its input's, nor one read inside the window.
    let ring = target.window + 2;
    let mut input = Region::dense(Place::Input(0), 0, TILE_BYTES);
    let mut kernels = Vec::new();
    let last = SyntheticStage { blocks: 1, polls: 1, poll_ns: 0 };
    for (index, stage) in stages.iter().chain([&last]).enumerate() {
        let bytes = stage.blocks * TILE_BYTES;
        let output = if index == stages.len() {
            Region::dense(Place::Output(0), 0, bytes)
        } else {
            Region::dense(Place::Arena, index % ring * largest, bytes)
        };
        let spec = SyntheticSpec {
            seed: seed.wrapping_add(index as u64),
            bytes,
            tile_bytes: TILE_BYTES,
            polls: stage.polls,
            poll_ns: stage.poll_ns,
            meter: None,
        };
        kernels.push(vec![Kernel {
            name: format!("synthetic{index}"),
            spec: KernelSpec::Synthetic(spec),
            reads: vec![input],
            writes: vec![output],
            restart: Restart::Safe,
            cost: Cost::default(),
        }]);
        input = output;
    }
    let io = |name: &str| IoSpec { name: name.into(), dtype: DType::U8, shape: Shape::from([TILE_BYTES]) };
    Plan::new(PlanParts {
        name: name.into(),
        target,
        inputs: vec![io("x")],
        outputs: vec![io("y")],
        weights: vec![],
        store: Arc::new(WeightStore::new()),
        host_kernels: vec![],
        stages: kernels,
        arena_bytes: ring * largest,
    })
}

/// The output of [`synthetic_plan`] for `input`, computed without a device.
pub fn synthetic_output(plan: &Plan, input: &[u8]) -> Vec<u8> {
    plan.kernels().iter().fold(input.to_vec(), |input, kernel| {
        let KernelSpec::Synthetic(spec) = &kernel.spec else {
            unreachable!("a synthetic plan has no other kernels")
        };
        let digest = spec.digest([input.as_slice()].into_iter());
        (0..spec.bytes).map(|index| SyntheticSpec::byte(digest, index)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{DeviceKind, Isa, Precision};

    #[test]
    fn outputs_depend_on_inputs_and_seed() {
        let target = Target {
            device: DeviceKind::Dummy,
            isa: Isa::Portable,
            cus: 2,
            window: 3,
            precision: Precision::F32,
        };
        let stage = SyntheticStage { blocks: 3, polls: 1, poll_ns: 1 };
        let plan = synthetic_plan("p", target, 1, &[stage; 6]).unwrap();
        let other = synthetic_plan("p", target, 2, &[stage; 6]).unwrap();
        let (zeros, ones) = (synthetic_output(&plan, &[0; 64]), synthetic_output(&plan, &[1; 64]));
        assert_eq!(zeros.len(), 64);
        assert_ne!(zeros, ones);
        assert_ne!(zeros, synthetic_output(&other, &[0; 64]));
    }
}
