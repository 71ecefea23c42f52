//! Real kernels on the dummy: its own cutter packs weights without panels and cuts kernels as no real device
//! does, and an interpreter computes them block by block. What passes here depends on no device.

mod interpreted;

use std::sync::Arc;

use reef_device::conformance::Harness;
use reef_device::operators::{Case, Operators};
use reef_device::{Device, DeviceError, DummyDevice, DummyOptions, Outcome, Padding, Scheme};
use reef_plan::{Cutter, Packing};

struct Dummy;

impl Harness for Dummy {
    fn device(&self, cus: usize, scheme: Scheme) -> Arc<dyn Device> {
        interpreted::dummy(cus, scheme)
    }

    fn padded(&self, cus: usize, scheme: Scheme, padding: Padding) -> Arc<dyn Device> {
        interpreted::padded(cus, scheme, padding)
    }
}

impl Operators for Dummy {
    fn cases(&self, cutter: &dyn Cutter) -> Vec<Case> {
        interpreted::cases(cutter)
    }

    fn ignored(&self) -> &[(&str, &str)] {
        &interpreted::IGNORED
    }
}

reef_device::operator_suite!(Dummy);

#[test]
fn without_an_interpreter_only_synthetic_kernels_run() {
    let device = DummyDevice::new(DummyOptions::default());
    for case in interpreted::cases(device.cutter(None).as_ref()) {
        let refused = device.load(case.plan).unwrap_err();
        assert!(
            matches!(&refused, DeviceError::Unsupported { reason, .. } if reason.contains("interpreter"))
        );
    }
}

/// The seam has two users that agree on nothing but on where 8-bit integers lie.
#[test]
fn its_weights_lie_in_no_panels() {
    let device = interpreted::dummy(2, Scheme::Reset);
    let cases = interpreted::cases(device.cutter(None).as_ref());
    let packings: Vec<_> =
        cases.iter().flat_map(|case| case.plan.weights()).map(|weight| weight.packing).collect();
    assert!(packings.iter().any(|packing| matches!(packing, Packing::Own { .. })), "{packings:?}");
    let other = |packing: &Packing| {
        !matches!(packing, Packing::Own { .. } | Packing::Raw | Packing::IntegerPanels { .. })
    };
    assert!(!packings.iter().any(other), "{packings:?}");
}

#[test]
fn a_block_that_fails_fails_its_task() {
    let device = interpreted::dummy(2, Scheme::Reset);
    let cases = interpreted::cases(device.cutter(None).as_ref());
    let case = cases.iter().find(|case| case.name == "gather").expect("there is one");
    let loaded = device.load(case.plan.clone()).unwrap();
    let mut io = device.alloc_io(loaded).unwrap();
    // Row 31 of a table of 31.
    io.inputs[0].as_mut_slice()[..8].copy_from_slice(&31i64.to_le_bytes());
    device.submit(loaded, reef_base::TaskKey::best_effort(0), io, 0).unwrap();
    while device.advance() {}
    let completion = device.try_complete().expect("it ended");
    let Outcome::Failed(fault) = completion.outcome else { panic!("{:?}", completion.outcome) };
    assert!(fault.reason.contains("index 31"), "{fault}");
    assert!(device.try_complete().is_none());
}
