//! The simulated GPU keeps the contract of devices: both constants files, times as plans say and with seeded
//! differences, made-up kernels and real ones. What a GPU of queues cannot promise is named.

use std::sync::Arc;

use reef_compile::{interpret, samples};
use reef_device::conformance::Harness;
use reef_device::operators::{Case, Operators};
use reef_device::{Device, Padding, Scheme};
use reef_plan::Cutter;
use reef_sim::GpuConstants;
use reef_sim::device::{GpuOptions, gpu};

/// A GPU by name, with times that differ by a seed, and as many compute units as the suite asks for, or as
/// the GPU has and 20 more for each further one.
struct Simulated {
    name: &'static str,
    jitter: Option<u64>,
    narrow: bool,
}

/// Checked kernel by kernel instead in `device`, where that makes sense.
const NOT_PROMISED: [(&str, &str); 6] = [
    (
        "what_is_in_the_way_starts_and_polls_once_more_at_most",
        "it counts single blocks; here a kernel runs whole, or is killed whole",
    ),
    ("units_that_a_stage_leaves_are_padded_and_nothing_is_lost", "nothing pads"),
    ("padding_leaves_no_trace", "nothing pads"),
    (
        "owners_share_units_and_one_owner_goes_in_order",
        "it counts single blocks; here those of a kernel end together",
    ),
    (
        "owners_share_units_by_weight_however_long_their_blocks_are",
        "streams share units evenly, whatever their owners' weights",
    ),
    (
        "whose_blocks_are_killed_does_not_go_first_for_ever",
        "it counts single blocks; streams of two owners go on at the same time",
    ),
];

const IGNORED: [(&str, &str); 1] = [("host kernel", "it must run once, and a preemption may run it again")];

impl Harness for Simulated {
    fn device(&self, cus: usize, scheme: Scheme) -> Arc<dyn Device> {
        let mut constants = GpuConstants::built_in(self.name).unwrap();
        let units = if self.narrow { cus as u32 } else { constants.cus + 20 * (cus as u32 - 1) };
        constants.cus = units;
        let interpreter = Some(Arc::new(interpret::Blocks) as _);
        let (jitter, seed) = self.jitter.map_or((0.0, 0), |seed| (0.3, seed));
        let options = GpuOptions { scheme, jitter, seed, interpreter, ..GpuOptions::new(constants) };
        Arc::new(gpu(options).unwrap())
    }

    fn padded(&self, cus: usize, scheme: Scheme, _padding: Padding) -> Arc<dyn Device> {
        self.device(cus, scheme)
    }

    fn not_promised(&self) -> &[(&str, &str)] {
        &NOT_PROMISED
    }
}

impl Operators for Simulated {
    fn cases(&self, cutter: &dyn Cutter) -> Vec<Case> {
        let case = |sample: samples::Sample| Case {
            name: sample.name.into(),
            plan: Arc::new(sample.plan(cutter).expect("samples compile")),
            inputs: sample.inputs.iter().map(|tensor| tensor.bytes().as_slice().to_vec()).collect(),
            check: Box::new(move |outputs| sample.check(outputs)),
        };
        samples::all().into_iter().map(case).collect()
    }

    fn ignored(&self) -> &[(&str, &str)] {
        &IGNORED
    }
}

macro_rules! suites {
    ($($module:ident: $name:literal, $jitter:expr, $narrow:literal;)*) => {
        $(mod $module {
            use super::Simulated;

            const GPU: Simulated = Simulated { name: $name, jitter: $jitter, narrow: $narrow };

            reef_device::conformance_suite!(GPU);
            reef_device::operator_suite!(GPU);
        })*
    };
}

suites! {
    mi50: "mi50", None, false;
    mi50_narrow: "mi50", Some(1), true;
    v100: "v100", None, false;
    v100_narrow: "v100", Some(2), true;
}
