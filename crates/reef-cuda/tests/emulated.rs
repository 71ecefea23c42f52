//! The contract and what kernels mean, on the emulated driver: `cargo xtask cuda`, which has GPUs of several
//! sizes there.

#[path = "emulated/graphs.rs"]
mod graphs;
#[path = "emulated/hosting.rs"]
mod hosting;
#[path = "emulated/memory.rs"]
mod memory;

use std::sync::Arc;
use std::time::Duration;

use reef_compile::samples;
use reef_cuda::{CudaDevice, CudaOptions};
use reef_device::conformance::Harness;
use reef_device::operators::{Case, Operators};
use reef_device::{Completion, Device, Padding, Scheme};
use reef_plan::{Cutter, Precision};

/// GPUs of the emulated driver, by how many multiprocessors they have; and what is multiplied in cases.
struct Cuda(Precision);

/// Multiprocessors of each.
const SIZES: [usize; 4] = [1, 2, 3, 5];

/// Waits for the next completion; a device that gives none shows as a test that does not end.
fn next_completion(device: &CudaDevice) -> Completion {
    loop {
        match device.try_complete() {
            Some(completion) => return completion,
            None => std::thread::sleep(Duration::from_micros(50)),
        }
    }
}

/// A device of so many units.
fn start(cus: usize, scheme: Scheme) -> Box<CudaDevice> {
    Box::new(started(cus, CudaOptions { scheme, ..CudaOptions::default() }))
}

fn started(cus: usize, options: CudaOptions) -> CudaDevice {
    let number = SIZES.iter().position(|&sms| sms == cus).expect("there is a GPU of this size");
    // Several may be there at once.
    let memory_bytes = options.memory_bytes.or(Some(48 << 20));
    let separate_allocations = has_separate_allocations();
    let options = CudaOptions { number, memory_bytes, separate_allocations, ..options };
    let device = CudaDevice::start(options).expect("the emulated driver is there");
    assert_eq!(device.capabilities().cus, cus);
    device
}

/// Whether the driver is to allocate each part of the memory, so that a sanitizer sees where it ends.
fn has_separate_allocations() -> bool {
    std::env::var_os("REEF_TEST_SEPARATE").is_some()
}

impl Harness for Cuda {
    fn device(&self, cus: usize, scheme: Scheme) -> Arc<dyn Device> {
        self.padded(cus, scheme, Padding::default())
    }

    fn padded(&self, cus: usize, scheme: Scheme, padding: Padding) -> Arc<dyn Device> {
        Arc::new(started(cus, CudaOptions { scheme, padding, ..CudaOptions::default() }))
    }

    fn not_promised(&self) -> &[(&str, &str)] {
        &NOT_PROMISED
    }
}

/// What a device of queued kernels does not do yet.
const NOT_PROMISED: [(&str, &str); 4] = [
    ("events_tell_every_block", "kernels are timed as a whole"),
    ("owners_share_units_and_one_owner_goes_in_order", "owners share kernel by kernel, not block by block"),
    ("owners_share_units_by_weight_however_long_their_blocks_are", "as above"),
    ("what_is_in_the_way_starts_and_polls_once_more_at_most", "blocks cannot count for the host"),
];

impl Operators for Cuda {
    fn cases(&self, cutter: &dyn Cutter) -> Vec<Case> {
        let tolerance = self.tolerance();
        let case = |sample: samples::Sample| Case {
            name: sample.name.into(),
            plan: Arc::new(sample.plan(cutter).expect("samples compile")),
            inputs: sample.inputs.iter().map(|tensor| tensor.bytes().as_slice().to_vec()).collect(),
            check: Box::new(move |outputs| sample.check_within(outputs, tolerance)),
        };
        samples::all().into_iter().map(case).collect()
    }

    fn precision(&self) -> Precision {
        self.0
    }
}

impl Cuda {
    /// How far a result may be from the reference, as a share of the largest value of its output: f32 with
    /// room for the order of sums, else half of a last bit of each factor with the same.
    fn tolerance(&self) -> f64 {
        match self.0 {
            Precision::F32 => 2e-4,
            Precision::Tf32 | Precision::F16 => 2e-3,
            Precision::Bf16 => 1.6e-2,
        }
    }
}

reef_device::conformance_suite!(
    Cuda(Precision::F32),
    #[ignore = "needs the emulated driver: cargo xtask cuda"]
);

reef_device::operator_suite!(
    Cuda(Precision::F32),
    #[ignore = "needs the emulated driver: cargo xtask cuda"]
);

mod tf32 {
    use super::{Cuda, Precision};
    reef_device::operator_suite!(
        Cuda(Precision::Tf32),
        #[ignore = "needs the emulated driver: cargo xtask cuda"]
    );
}

mod f16 {
    use super::{Cuda, Precision};
    reef_device::operator_suite!(
        Cuda(Precision::F16),
        #[ignore = "needs the emulated driver: cargo xtask cuda"]
    );
}

mod bf16 {
    use super::{Cuda, Precision};
    reef_device::operator_suite!(
        Cuda(Precision::Bf16),
        #[ignore = "needs the emulated driver: cargo xtask cuda"]
    );
}
