//! The conformance suite on a real GPU, with as many units as it has.

use std::sync::Arc;

use reef_compile::samples;
use reef_cuda::{CudaDevice, CudaOptions};
use reef_device::conformance::{self, Harness};
use reef_device::operators::{self, Case, Operators};
use reef_device::{Device, Padding, Scheme};
use reef_plan::{Cutter, Precision};

/// A GPU by its number, and what is multiplied in cases.
struct Gpu(usize, Precision);

/// Bytes of each device: two may be there for a moment.
const MEMORY_BYTES: u64 = 64 << 20;

impl Harness for Gpu {
    fn device(&self, cus: usize, scheme: Scheme) -> Arc<dyn Device> {
        self.padded(cus, scheme, Padding::default())
    }

    /// With the units that the GPU has, whatever is asked for.
    fn padded(&self, _cus: usize, scheme: Scheme, padding: Padding) -> Arc<dyn Device> {
        let memory_bytes = Some(MEMORY_BYTES);
        let options = CudaOptions { number: self.0, scheme, padding, memory_bytes, ..CudaOptions::default() };
        Arc::new(CudaDevice::start(options).unwrap_or_else(|error| panic!("{error}")))
    }
}

impl Operators for Gpu {
    fn cases(&self, cutter: &dyn Cutter) -> Vec<Case> {
        let tolerance = match self.1 {
            Precision::F32 => 2e-4,
            Precision::Tf32 | Precision::F16 => 2e-3,
            Precision::Bf16 => 1.6e-2,
        };
        let case = |sample: samples::Sample| Case {
            name: sample.name.into(),
            plan: Arc::new(sample.plan(cutter).expect("samples compile")),
            inputs: sample.inputs.iter().map(|tensor| tensor.bytes().as_slice().to_vec()).collect(),
            check: Box::new(move |outputs| sample.check_within(outputs, tolerance)),
        };
        samples::all().into_iter().map(case).collect()
    }

    fn precision(&self) -> Precision {
        self.1
    }
}

/// One promise, checked on the GPU of this number; it panics if it is broken.
pub(crate) type Check = Box<dyn Fn(usize)>;

macro_rules! of_devices {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), conformance::$name as fn(&dyn Harness))),*]
    };
}

macro_rules! of_operators {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), operators::$name as fn(&dyn Operators))),*]
    };
}

/// What takes an emulated device long, on which tests check all of it: left out if tiny.
const LONG: [&str; 3] = [
    "outputs_are_exact_under_every_scheme",
    "reset_kills_and_wait_does_not",
    "units_that_a_stage_leaves_are_padded_and_nothing_is_lost",
];

/// What is checked.
pub(crate) fn all(tiny: bool) -> Vec<(String, Check)> {
    let devices = of_devices![
        outputs_are_exact_under_every_scheme,
        accepted_tasks_complete_exactly_once,
        urgent_tasks_end_first,
        reset_kills_and_wait_does_not,
        finished_blocks_are_not_run_again,
        cancelled_tasks_end_once_and_alone,
        hand_overs_go_on_to_the_end,
        hand_overs_end_early_like_any_task,
        units_that_a_stage_leaves_are_padded_and_nothing_is_lost,
        what_must_not_be_killed_is_refused_or_runs_to_its_end,
        sequential_runs_to_the_end,
        rt_only_refuses_best_effort,
        a_full_board_gives_the_buffers_back,
        wrong_submissions_give_the_buffers_back,
        quiesce_stops_and_resume_goes_on,
        poison_ends_every_task,
        unloading_waits_for_the_last_task,
    ];
    let operators = of_operators![killed_blocks_leave_no_trace, padding_leaves_no_trace];
    let devices =
        devices.into_iter().filter(move |(name, _)| !tiny || !LONG.contains(name)).map(|(name, check)| {
            let check: Check = Box::new(move |number| check(&Gpu(number, Precision::F32)));
            (name.to_string(), check)
        });
    let in_each = |precision: Precision| {
        operators.into_iter().map(move |(name, check)| {
            let check: Check = Box::new(move |number| check(&Gpu(number, precision)));
            (format!("{name} in {precision}"), check)
        })
    };
    devices.chain(Precision::ALL.into_iter().take(if tiny { 1 } else { 4 }).flat_map(in_each)).collect()
}

/// What the suites have beside that, and why it says nothing here.
pub(crate) const LEFT_OUT: [(&str, &str); 10] = [
    ("results_are_what_the_graphs_mean", "`results` checks more"),
    ("results_do_not_depend_on_the_cut", "it wants GPUs of several sizes"),
    ("what_cannot_run_is_refused", "there is no sample that the device refuses"),
    ("a_narrow_stage_disturbs_few_units", "blocks that run are not killed"),
    ("whose_blocks_are_killed_does_not_go_first_for_ever", "as above"),
    ("fitting_padding_ends_before_the_stage_does", "the device has no events of blocks"),
    ("events_tell_every_block", "as above"),
    ("owners_share_units_and_one_owner_goes_in_order", "owners share kernel by kernel, not block by block"),
    ("owners_share_units_by_weight_however_long_their_blocks_are", "as above"),
    ("what_is_in_the_way_starts_and_polls_once_more_at_most", "blocks cannot count for the host"),
];
