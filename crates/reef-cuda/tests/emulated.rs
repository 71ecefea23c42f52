//! The contract and what kernels mean, on the emulated driver: `cargo xtask cuda`, which has GPUs of several
//! sizes there.

use std::sync::Arc;

use reef_compile::samples;
use reef_cuda::{CudaDevice, CudaOptions};
use reef_device::conformance::Harness;
use reef_device::operators::{Case, Operators};
use reef_device::{Device, Padding, Scheme};
use reef_plan::Cutter;

/// GPUs of the emulated driver, by how many multiprocessors they have.
struct Cuda;

/// Multiprocessors of each.
const SIZES: [usize; 4] = [1, 2, 3, 5];

impl Harness for Cuda {
    fn device(&self, cus: usize, scheme: Scheme) -> Arc<dyn Device> {
        self.padded(cus, scheme, Padding::default())
    }

    fn padded(&self, cus: usize, scheme: Scheme, padding: Padding) -> Arc<dyn Device> {
        let number = SIZES.iter().position(|&sms| sms == cus).expect("there is a GPU of this size");
        let options = CudaOptions { number, scheme, padding, ..CudaOptions::default() };
        let device = CudaDevice::start(options).expect("the emulated driver is there");
        assert_eq!(device.capabilities().cus, cus);
        Arc::new(device)
    }

    fn not_promised(&self) -> &[(&str, &str)] {
        &NOT_PROMISED
    }
}

/// What a device of queued kernels does not do yet.
const NOT_PROMISED: [(&str, &str); 6] = [
    ("events_tell_every_block", "kernels are timed as a whole"),
    ("owners_share_units_and_one_owner_goes_in_order", "owners share kernel by kernel, not block by block"),
    ("owners_share_units_by_weight_however_long_their_blocks_are", "as above"),
    ("units_that_a_stage_leaves_are_padded_and_nothing_is_lost", "nothing pads"),
    ("padding_leaves_no_trace", "nothing pads"),
    ("what_is_in_the_way_starts_and_polls_once_more_at_most", "blocks cannot count for the host"),
];

impl Operators for Cuda {
    fn cases(&self, cutter: &dyn Cutter) -> Vec<Case> {
        let case = |sample: samples::Sample| Case {
            name: sample.name.into(),
            plan: Arc::new(sample.plan(cutter).expect("samples compile")),
            inputs: sample.inputs.iter().map(|tensor| tensor.bytes().as_slice().to_vec()).collect(),
            check: Box::new(move |outputs| sample.check(outputs)),
        };
        samples::all().into_iter().map(case).collect()
    }
}

reef_device::conformance_suite!(Cuda, #[ignore = "needs the emulated driver: cargo xtask cuda"]);

reef_device::operator_suite!(Cuda, #[ignore = "needs the emulated driver: cargo xtask cuda"]);
