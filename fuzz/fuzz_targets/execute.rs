//! Any bytes as a model that is compiled and run on the CPU, with whatever elements: it must end, with
//! outputs that are the same to the bit when it runs again, or with a host kernel's error.
//!
//! `cargo +nightly fuzz run -s none execute fuzz/corpus/import -- -dict=fuzz/dictionaries/import`
#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use reef_base::{Rng, TaskKey};
use reef_compile::CompileOptions;
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::{Device, Io, LoadedPlan, Outcome};
use reef_graph::{DType, Shape};
use reef_onnx::{Dim, OnnxModel};
use reef_plan::Plan;

/// Extent of every axis that is open.
const EXTENT: usize = 3;

/// Bytes that a plan may take.
const MEMORY_BYTES: u64 = 256 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Some(plan) = plan(bytes) else { return };
    let plan = Arc::new(plan);
    let Ok(loaded) = device().load(plan.clone()) else { return };
    let seed = bytes.iter().fold(7u64, |sum, byte| sum.rotate_left(7) ^ u64::from(*byte));
    let first = run(&plan, loaded, seed);
    assert_eq!(first, run(&plan, loaded, seed), "the outputs of two runs");
    device().unload(loaded);
});

fn device() -> &'static CpuDevice {
    static DEVICE: OnceLock<CpuDevice> = OnceLock::new();
    let options = CpuOptions {
        cus: Some(1),
        nice: 0,
        pin: false,
        memory_bytes: Some(MEMORY_BYTES),
        ..CpuOptions::default()
    };
    DEVICE.get_or_init(|| CpuDevice::start(options).expect("the device starts"))
}

fn plan(bytes: &[u8]) -> Option<Plan> {
    let model = OnnxModel::from_bytes(bytes).ok()?;
    let extent = |dim: &Dim| match dim {
        Dim::Fixed(extent) => *extent,
        Dim::Symbol(_) => EXTENT,
    };
    let inputs = model.inputs().iter();
    let shapes: Vec<(&str, Shape)> =
        inputs.map(|decl| (decl.name.as_str(), decl.dims.iter().map(extent).collect())).collect();
    let segment = model.begin(&shapes, &vec![None; shapes.len()]).ok()?.segment;
    let (cutter, options) = (device().cutter(None), CompileOptions { name: "fuzzed".into() });
    let weights = Arc::default();
    reef_compile::compile(&segment.graph, &segment.host_kernels, &weights, cutter.as_ref(), &options).ok()
}

/// The outputs' bytes; `None` where a host kernel fails.
fn run(plan: &Plan, loaded: LoadedPlan, seed: u64) -> Option<Vec<Vec<u8>>> {
    let mut io = device().alloc_io(loaded)?;
    fill(plan, &mut io, seed);
    device().submit(loaded, TaskKey::best_effort(0), io, 0).expect("the board is empty");
    let done = loop {
        match device().try_complete() {
            Some(done) => break done,
            None => std::thread::yield_now(),
        }
    };
    match done.outcome {
        Outcome::Done => Some(done.io.outputs.iter().map(|output| output.as_slice().to_vec()).collect()),
        Outcome::Failed(_) => None,
        other => panic!("{other:?}"),
    }
}

/// Elements: small ones, those at the edges of their type, or any bits.
fn fill(plan: &Plan, io: &mut Io, seed: u64) {
    let mut rng = Rng::new(seed);
    for (input, spec) in io.inputs.iter_mut().zip(plan.inputs()) {
        let kind = rng.below(3);
        for element in input.as_mut_slice().chunks_mut(spec.dtype.bytes()) {
            let bits = match kind {
                0 => small(spec.dtype, rng.below(7) as i64 - 2),
                1 => [0, 1, u64::MAX, u64::MAX >> 1, 1 << 63, 0x7fc0_0000_7fc0_0000, 0x80]
                    [rng.below(7) as usize],
                _ => rng.next_u64(),
            };
            element.copy_from_slice(&bits.to_le_bytes()[..element.len()]);
            if spec.dtype == DType::Bool {
                element[0] &= 1;
            }
        }
    }
}

fn small(dtype: DType, value: i64) -> u64 {
    match dtype {
        DType::F32 => (value as f32).to_bits().into(),
        DType::F64 => (value as f64).to_bits(),
        _ => value as u64,
    }
}
