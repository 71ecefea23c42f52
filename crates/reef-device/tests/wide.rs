//! As many compute units as an accelerator has.

mod interpreted;

use std::sync::Arc;

use reef_base::{Nanos, TaskKey};
use reef_device::conformance::Harness;
use reef_device::operators::{Case, Operators};
use reef_device::{Device, Padding, Scheme};
use reef_plan::{Cutter, SyntheticStage, synthetic_plan};

/// Dummies with 132 compute units where the suite asks for one, and 20 more for each further one.
struct Wide;

const UNITS: usize = 132;

impl Harness for Wide {
    fn device(&self, cus: usize, scheme: Scheme) -> Arc<dyn Device> {
        interpreted::dummy(UNITS + (cus - 1) * 20, scheme)
    }

    fn padded(&self, cus: usize, scheme: Scheme, padding: Padding) -> Arc<dyn Device> {
        interpreted::padded(UNITS + (cus - 1) * 20, scheme, padding)
    }
}

impl Operators for Wide {
    fn cases(&self, cutter: &dyn Cutter) -> Vec<Case> {
        interpreted::cases(cutter)
    }

    fn ignored(&self) -> &[(&str, &str)] {
        &interpreted::IGNORED
    }
}

reef_device::conformance_suite!(Wide);

reef_device::operator_suite!(Wide);

#[test]
fn a_stage_as_wide_as_the_device_takes_as_long_as_one_block() {
    for (cus, blocks, rounds) in [(UNITS, UNITS, 1), (UNITS, UNITS + 1, 2), (256, 256, 1), (256, 511, 2)] {
        let device = interpreted::dummy(cus, Scheme::Reset);
        let target = device.capabilities().target;
        let stage = SyntheticStage { blocks, polls: 10, poll_ns: 1_000 };
        let plan = Arc::new(synthetic_plan("wide", target, 1, &[stage]).unwrap());
        let loaded = device.load(plan).unwrap();
        let io = device.alloc_io(loaded).unwrap();
        device.submit(loaded, TaskKey::best_effort(0), io, 0).unwrap();
        while device.advance() {}
        let completion = device.try_complete().expect("it ended");
        assert_eq!(completion.counters.blocks_done, blocks as u64 + 1);
        assert_eq!(completion.counters.cu_time, Nanos(10_000 * blocks as u64 + 1));
        // The last stage of a synthetic plan is one short block.
        assert_eq!(
            completion.finished - completion.submitted,
            Nanos(10_000 * rounds + 1),
            "{blocks} on {cus}"
        );
    }
}
