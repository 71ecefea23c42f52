//! The conformance suite on real kernels: small plans, compiled with the device's own cutter, give what their
//! graphs mean, whatever is killed, padded, cut or resumed on the way.
//!
//! What plans there are, and what they must give, the test of a device hands in ([`Operators::cases`]): this
//! crate knows neither graphs nor the compiler. `reef_compile::samples` has graphs for it. A device's tests
//! implement [`Operators`] and expand [`crate::operator_suite`].

use std::sync::Arc;
use std::time::Instant;

use reef_base::{Buffer, Class, Nanos, TaskKey};
use reef_plan::{Cutter, Plan, Precision, SyntheticStage, synthetic_plan};

use crate::conformance::{Harness, next_completion, pass, until_blocks};
use crate::contract::{Completion, Device, DeviceError, Io, Kill, Outcome};
use crate::ids::LoadedPlan;
use crate::scheme::Scheme;

/// Says what is wrong with the outputs of a case, one buffer each, if anything is.
pub type Check = Box<dyn Fn(&[Buffer]) -> Result<(), String>>;

/// A plan, inputs for it, and what must come out.
pub struct Case {
    /// Names it, for people and for [`Operators::ignored`].
    pub name: String,
    /// The plan, for the target of the cutter that it was cut by.
    pub plan: Arc<Plan>,
    /// The bytes of every input.
    pub inputs: Vec<Vec<u8>>,
    /// Compares outputs with what the plan's graph means.
    pub check: Check,
}

/// Makes devices and plans for them.
pub trait Operators: Harness {
    /// Every case, cut by `cutter`: the same ones in the same order, whatever the cutter.
    fn cases(&self, cutter: &dyn Cutter) -> Vec<Case>;

    /// What is multiplied in them.
    fn precision(&self) -> Precision {
        Precision::F32
    }

    /// Names of cases that the device cannot run, and why. It must refuse them.
    fn ignored(&self) -> &[(&str, &str)] {
        &[]
    }
}

/// Expands to one `#[test]` per promise about real kernels, on devices made by the harness expression.
/// Attributes behind it go before each test.
#[macro_export]
macro_rules! operator_suite {
    ($harness:expr $(, #[$attribute:meta])*) => {
        $crate::operator_suite!(@each [$(#[$attribute])*] $harness,
            results_are_what_the_graphs_mean,
            results_do_not_depend_on_the_cut,
            killed_blocks_leave_no_trace,
            padding_leaves_no_trace,
            what_cannot_run_is_refused,
        );
    };
    (@each $attributes:tt $harness:expr, $($name:ident),* $(,)?) => {
        $($crate::operator_suite!(@one $attributes $harness, $name);)*
    };
    (@one [$(#[$attribute:meta])*] $harness:expr, $name:ident) => {
        $(#[$attribute])*
        #[test]
        fn $name() {
            if $crate::conformance::is_promised(&$harness, stringify!($name)) {
                $crate::operators::$name(&$harness);
            }
        }
    };
}

/// A device with its cases loaded.
struct Bench {
    device: Arc<dyn Device>,
    cases: Vec<(Case, LoadedPlan)>,
}

/// What a buffer holds before a task writes it.
const STALE: u8 = 0x5A;
/// Tasks on the board at once, but for the urgent one.
const CROWD: u64 = 3;
/// Times that every case is disturbed.
const ROUNDS: u64 = 6;
/// Times that all cases are disturbed until a block of one was hit: a real device may end them in between.
const TRIES: usize = 50;

impl Bench {
    fn new(harness: &dyn Operators, cus: usize, scheme: Scheme) -> Bench {
        let device = harness.device(cus, scheme);
        let able = |case: &Case| harness.ignored().iter().all(|(name, _)| *name != case.name);
        let cases = harness.cases(device.cutter(Some(harness.precision())).as_ref()).into_iter().filter(able);
        let load = |case: Case| {
            let loaded = device.load(case.plan.clone());
            let loaded = loaded.unwrap_or_else(|error| panic!("{} does not load: {error}", case.name));
            (case, loaded)
        };
        let cases = cases.map(load).collect();
        Bench { device, cases }
    }

    /// A loaded plan of one stage of made-up blocks, and a short one.
    fn urgent(&self, blocks: usize, polls: u32) -> LoadedPlan {
        let stages = [SyntheticStage { blocks, polls, poll_ns: 2_000 }];
        let target = self.device.capabilities().target;
        let plan = Arc::new(synthetic_plan("urgent", target, 1, &stages).expect("a valid plan"));
        self.device.load(plan).expect("it loads")
    }

    fn submit(&self, index: usize, key: TaskKey) {
        let (case, loaded) = &self.cases[index];
        let mut io = self.device.alloc_io(*loaded).expect("the plan is loaded");
        for (buffer, bytes) in io.inputs.iter_mut().zip(&case.inputs) {
            buffer.as_mut_slice().copy_from_slice(bytes);
        }
        io.outputs.iter_mut().for_each(|buffer| buffer.as_mut_slice().fill(STALE));
        self.device.submit(*loaded, key, io, index as u64).expect("the board has room");
    }

    fn next(&self) -> Completion {
        next_completion(&*self.device)
    }

    fn until_blocks(&self, blocks_done: u64) {
        until_blocks(&*self.device, blocks_done);
    }

    /// The outputs of case `index` with the device to itself, checked.
    fn alone(&self, index: usize) -> Vec<Vec<u8>> {
        self.submit(index, best_effort(0));
        let completion = self.next();
        let (case, _) = &self.cases[index];
        assert_eq!(completion.outcome, Outcome::Done, "{}", case.name);
        assert_eq!(completion.counters.blocks_done, case.plan.blocks(), "{}", case.name);
        (case.check)(&completion.io.outputs).unwrap_or_else(|what| panic!("{what}"));
        bytes(&completion.io)
    }

    /// Runs a crowd of tasks of case `index`, with an urgent task of plan `urgent` after every few blocks.
    /// Their outputs must be `expected`. What the tasks counted together.
    fn disturbed(&self, index: usize, urgent: LoadedPlan, expected: &[Vec<u8>]) -> [u64; 2] {
        let (case, _) = &self.cases[index];
        (0..CROWD).for_each(|order| self.submit(index, best_effort(order)));
        let mut left = CROWD;
        let mut counted = [0; 2];
        let mut round = 0;
        while left > 0 {
            if round < ROUNDS {
                self.until_blocks(self.device.counters().blocks_done + round % 3);
                let io = self.device.alloc_io(urgent).expect("the plan is loaded");
                self.device.submit(urgent, real_time(), io, u64::MAX).expect("the board has room");
                round += 1;
            }
            loop {
                let completion = self.next();
                if completion.token == u64::MAX {
                    break;
                }
                left -= 1;
                assert_eq!(completion.outcome, Outcome::Done, "{}", case.name);
                assert!(bytes(&completion.io) == expected, "{}: other bytes than undisturbed", case.name);
                let counters = completion.counters;
                assert_eq!(counters.blocks_done, case.plan.blocks() + counters.blocks_rerun, "{}", case.name);
                counted[0] += counters.blocks_killed;
                counted[1] += counters.blocks_padding;
                if round == ROUNDS && left == 0 {
                    break;
                }
            }
        }
        self.drain();
        counted
    }

    /// Fetches what is still on the board.
    fn drain(&self) {
        while self.device.counters().completed < self.device.counters().submitted {
            pass(&*self.device, Instant::now());
        }
        while self.device.try_complete().is_some() {}
    }
}

fn bytes(io: &Io) -> Vec<Vec<u8>> {
    io.outputs.iter().map(|buffer| buffer.as_slice().to_vec()).collect()
}

fn best_effort(order: u64) -> TaskKey {
    TaskKey::best_effort(order)
}

fn real_time() -> TaskKey {
    match Class::real_time(0) {
        Class::RealTime(level) => TaskKey::real_time(level, None, Nanos::ZERO),
        Class::BestEffort => unreachable!("a level is real-time"),
    }
}

/// Every case gives what its graph means.
pub fn results_are_what_the_graphs_mean(harness: &dyn Operators) {
    let bench = Bench::new(harness, 2, Scheme::Reset);
    assert!(!bench.cases.is_empty(), "there are cases");
    for index in 0..bench.cases.len() {
        bench.alone(index);
    }
}

/// Promise 3, and the cutter's: plans that are cut for other numbers of compute units give the same bytes,
/// under whatever scheme.
pub fn results_do_not_depend_on_the_cut(harness: &dyn Operators) {
    let one = Bench::new(harness, 1, Scheme::Reset);
    let expected: Vec<_> = (0..one.cases.len()).map(|index| one.alone(index)).collect();
    let mut cuts = 0;
    for (cus, scheme) in [(2, Scheme::Wait), (3, Scheme::Concurrent), (5, Scheme::Sequential)] {
        let bench = Bench::new(harness, cus, scheme);
        for (index, expected) in expected.iter().enumerate() {
            let name = &bench.cases[index].0.name;
            assert!(bench.alone(index) == *expected, "{name}: {cus} compute units give other bytes than one");
            cuts += usize::from(bench.cases[index].0.plan.blocks() != one.cases[index].0.plan.blocks());
        }
    }
    assert!(cuts > 0, "the cutter never cut anything otherwise");
}

/// Promise 1 and 4: a block of a real kernel that is killed anywhere runs again as if nothing had happened.
pub fn killed_blocks_leave_no_trace(harness: &dyn Operators) {
    let bench = Bench::new(harness, 2, Scheme::Reset);
    let urgent = bench.urgent(2, 2);
    let expected: Vec<_> = (0..bench.cases.len()).map(|index| bench.alone(index)).collect();
    let mut killed = 0;
    for _ in 0..TRIES {
        for (index, expected) in expected.iter().enumerate() {
            killed += bench.disturbed(index, urgent, expected)[0];
        }
        if killed > 0 || bench.device.capabilities().kill == Kill::None {
            return;
        }
    }
    panic!("no block was ever killed");
}

/// Promise 2: nor does a block that runs beside a more urgent stage, and is killed or not when that widens.
pub fn padding_leaves_no_trace(harness: &dyn Operators) {
    let bench = Bench::new(harness, 3, Scheme::Reset);
    let urgent = bench.urgent(1, 100);
    let expected: Vec<_> = (0..bench.cases.len()).map(|index| bench.alone(index)).collect();
    let mut padded = 0;
    for _ in 0..TRIES {
        for (index, expected) in expected.iter().enumerate() {
            padded += bench.disturbed(index, urgent, expected)[1];
        }
        if padded > 0 {
            return;
        }
    }
    panic!("no block ever ran as padding");
}

/// A device refuses what it cannot run when the plan is loaded; a list of what that is names nothing else.
pub fn what_cannot_run_is_refused(harness: &dyn Operators) {
    let device = harness.device(1, Scheme::Reset);
    let cases = harness.cases(device.cutter(Some(harness.precision())).as_ref());
    for (name, reason) in harness.ignored() {
        let case = cases.iter().find(|case| case.name == *name);
        let case = case.unwrap_or_else(|| panic!("there is no case '{name}' to ignore"));
        match device.load(case.plan.clone()) {
            Err(DeviceError::Unsupported { .. }) => {}
            Err(error) => panic!("{name} is refused for another reason than '{reason}': {error}"),
            Ok(_) => panic!("{name} loads; it should not, because '{reason}'"),
        }
    }
}
