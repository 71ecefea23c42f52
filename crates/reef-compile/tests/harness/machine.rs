//! Runs plans on this machine's CPU device, one at a time.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use reef_base::{AlignedBytes, Buffer, TaskKey};
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::{Device, Outcome};
use reef_graph::Tensor;
use reef_plan::{Isa, Plan};

/// Devices with two compute units, by instruction set; none where the machine has not got it.
fn devices() -> &'static [Mutex<Option<CpuDevice>>; 3] {
    static DEVICES: OnceLock<[Mutex<Option<CpuDevice>>; 3]> = OnceLock::new();
    DEVICES.get_or_init(|| {
        [Isa::Portable, Isa::Avx2, Isa::Avx512].map(|isa| {
            let options =
                CpuOptions { cus: Some(2), isa: Some(isa), nice: 0, pin: false, ..CpuOptions::default() };
            Mutex::new(CpuDevice::start(options).ok())
        })
    })
}

fn device(isa: Isa) -> MutexGuard<'static, Option<CpuDevice>> {
    let index = [Isa::Portable, Isa::Avx2, Isa::Avx512].iter().position(|&own| own == isa);
    devices()[index.expect("every set has a device")].lock().unwrap_or_else(PoisonError::into_inner)
}

/// The plan's outputs; `None` when this machine cannot run it.
pub fn run(plan: Plan, inputs: &[Tensor]) -> Option<Vec<Tensor>> {
    let guard = device(plan.target().isa);
    let device = guard.as_ref().filter(|device| device.capabilities().target == plan.target())?;
    let plan = Arc::new(plan);
    let loaded = device.load(plan.clone()).unwrap();
    let mut io = device.alloc_io(loaded).unwrap();
    for (buffer, tensor) in io.inputs.iter_mut().zip(inputs) {
        buffer.as_mut_slice().copy_from_slice(tensor.bytes().as_slice());
    }
    io.outputs.iter_mut().for_each(|buffer| buffer.as_mut_slice().fill(0xFF));
    device.submit(loaded, TaskKey::best_effort(0), io, 0).unwrap();
    let completion = loop {
        match device.try_complete() {
            Some(completion) => break completion,
            None => std::thread::yield_now(),
        }
    };
    assert_eq!(completion.outcome, Outcome::Done);
    device.unload(loaded);
    let tensor = |(spec, bytes): (&reef_plan::IoSpec, Buffer)| {
        let bytes = AlignedBytes::copy_from(bytes.as_slice());
        Tensor::new(spec.dtype, spec.shape.clone(), Arc::new(bytes))
    };
    Some(plan.outputs().iter().zip(completion.io.outputs).map(tensor).collect())
}
