//! The conformance suite: every promise of the contract, checked on any device through its capabilities.
//!
//! A device's tests implement [`Harness`] and expand [`crate::conformance_suite`]. Tasks are made of
//! synthetic kernels, so outputs are known without a device. Nothing here waits for a time to pass: tests
//! drive the device until something happens, and a device that never lets it happen is stopped by
//! [`PATIENCE`].

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reef_base::{Class, Nanos, Rng, TaskId, TaskKey};
use reef_plan::{
    Kernel, Plan, PlanParts, Restart, Stage, SyntheticStage, Target, WeightStore, synthetic_output,
    synthetic_plan,
};

use crate::contract::{
    Completion, Device, DeviceCounters, DeviceError, Io, Kill, Outcome, RejectReason, Route,
};
use crate::event::EventKind;
use crate::ids::LoadedPlan;
use crate::scheme::{Padding, Scheme};

mod order;

pub use order::{
    fitting_padding_ends_before_the_stage_does, owners_share_units_and_one_owner_goes_in_order,
    owners_share_units_by_weight_however_long_their_blocks_are,
    units_that_a_stage_leaves_are_padded_and_nothing_is_lost,
    what_is_in_the_way_starts_and_polls_once_more_at_most,
    whose_blocks_are_killed_does_not_go_first_for_ever,
};

/// How long a real device may take for one test before the suite gives it up as stuck.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Makes the devices under test.
pub trait Harness {
    /// A fresh device with `cus` compute units, at least 4 slots and at least one of them reserved.
    fn device(&self, cus: usize, scheme: Scheme) -> Arc<dyn Device>;

    /// As [`Harness::device`], with this rule of padding.
    fn padded(&self, cus: usize, scheme: Scheme, padding: Padding) -> Arc<dyn Device>;

    /// What the device does not promise yet: names of cases, and why. They do not run.
    fn not_promised(&self) -> &[(&str, &str)] {
        &[]
    }
}

/// Whether the case `name` runs on the device; says why if it does not.
pub fn is_promised(harness: &dyn Harness, name: &str) -> bool {
    let missing = harness.not_promised().iter().find(|(other, _)| *other == name);
    if let Some((_, why)) = missing {
        println!("not promised: {why}");
    }
    missing.is_none()
}

/// Expands to one `#[test]` per promise, on devices made by the harness expression. Attributes behind it go
/// before each test.
#[macro_export]
macro_rules! conformance_suite {
    ($harness:expr $(, #[$attribute:meta])*) => {
        $crate::conformance_suite!(@each [$(#[$attribute])*] $harness,
            outputs_are_exact_under_every_scheme,
            accepted_tasks_complete_exactly_once,
            urgent_tasks_end_first,
            reset_kills_and_wait_does_not,
            a_narrow_stage_disturbs_few_units,
            what_must_not_be_killed_is_refused_or_runs_to_its_end,
            finished_blocks_are_not_run_again,
            sequential_runs_to_the_end,
            rt_only_refuses_best_effort,
            a_full_board_gives_the_buffers_back,
            wrong_submissions_give_the_buffers_back,
            cancelled_tasks_end_once_and_alone,
            quiesce_stops_and_resume_goes_on,
            poison_ends_every_task,
            unloading_waits_for_the_last_task,
            hand_overs_go_on_to_the_end,
            hand_overs_end_early_like_any_task,
            events_tell_every_block,
            what_is_in_the_way_starts_and_polls_once_more_at_most,
            units_that_a_stage_leaves_are_padded_and_nothing_is_lost,
            fitting_padding_ends_before_the_stage_does,
            owners_share_units_and_one_owner_goes_in_order,
            owners_share_units_by_weight_however_long_their_blocks_are,
            whose_blocks_are_killed_does_not_go_first_for_ever,
        );
    };
    (@each $attributes:tt $harness:expr, $($name:ident),* $(,)?) => {
        $($crate::conformance_suite!(@one $attributes $harness, $name);)*
    };
    (@one [$(#[$attribute:meta])*] $harness:expr, $name:ident) => {
        $(#[$attribute])*
        #[test]
        fn $name() {
            if $crate::conformance::is_promised(&$harness, stringify!($name)) {
                $crate::conformance::$name(&$harness);
            }
        }
    };
}

struct Rig {
    device: Arc<dyn Device>,
    plans: Vec<(Arc<Plan>, LoadedPlan)>,
}

/// Lets a little time pass; panics when the device is stuck.
pub(crate) fn pass(device: &dyn Device, started: Instant) {
    if !device.advance() {
        assert!(device.virtual_clock().is_none() || started.elapsed() < PATIENCE / 60, "stuck");
        std::thread::yield_now();
    }
    assert!(started.elapsed() < PATIENCE, "the device is stuck");
}

/// Lets time pass until `blocks_done` blocks have ended, or every task has.
pub(crate) fn until_blocks(device: &dyn Device, blocks_done: u64) {
    let started = Instant::now();
    let more = |counters: DeviceCounters| {
        counters.blocks_done < blocks_done && counters.completed < counters.submitted
    };
    while more(device.counters()) {
        pass(device, started);
    }
}

/// Fetches the next completion.
pub(crate) fn next_completion(device: &dyn Device) -> Completion {
    let started = Instant::now();
    loop {
        match device.try_complete() {
            Some(completion) => return completion,
            None => pass(device, started),
        }
    }
}

impl Rig {
    fn new(harness: &dyn Harness, cus: usize, scheme: Scheme) -> Rig {
        Rig { device: harness.device(cus, scheme), plans: Vec::new() }
    }

    /// Compute units. A harness may give more than the suite asks for.
    fn units(&self) -> usize {
        self.device.capabilities().target.cus
    }

    fn load(&mut self, seed: u64, stages: &[SyntheticStage]) -> usize {
        let target = self.device.capabilities().target;
        self.take(synthetic_plan("conformance", target, seed, stages).expect("a valid plan"))
    }

    fn take(&mut self, plan: Plan) -> usize {
        let plan = Arc::new(plan);
        let loaded = self.device.load(plan.clone()).expect("the plan loads");
        self.plans.push((plan, loaded));
        self.plans.len() - 1
    }

    fn io(&self, plan: usize, fill: u8) -> Io {
        let mut io = self.device.alloc_io(self.plans[plan].1).expect("the plan is loaded");
        io.inputs[0].as_mut_slice().fill(fill);
        io
    }

    fn submit(&self, plan: usize, key: TaskKey, token: u64) -> TaskId {
        let io = self.io(plan, token as u8);
        self.device.submit(self.plans[plan].1, key, io, token).expect("the board has room")
    }

    /// Fetches `count` completions.
    fn complete(&self, count: usize) -> Vec<Completion> {
        (0..count).map(|_| next_completion(&*self.device)).collect()
    }

    fn until_blocks(&self, blocks_done: u64) {
        until_blocks(&*self.device, blocks_done);
    }

    /// Time for several blocks.
    fn let_time_pass(&self) {
        if self.device.virtual_clock().is_some() {
            self.device.advance();
        } else {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn check_output(&self, plan: usize, completion: &Completion) {
        let expected = synthetic_output(&self.plans[plan].0, completion.io.inputs[0].as_slice());
        assert_eq!(completion.outcome, Outcome::Done);
        assert_eq!(completion.io.outputs[0].as_slice(), expected, "output of task {}", completion.task);
        let counters = completion.counters;
        assert_eq!(counters.blocks_done, self.plans[plan].0.blocks() + counters.blocks_rerun);
    }
}

fn best_effort(order: u64) -> TaskKey {
    TaskKey::best_effort(order)
}

fn real_time(level: u8) -> TaskKey {
    match Class::real_time(level) {
        Class::RealTime(level) => TaskKey::real_time(level, None, Nanos::ZERO),
        Class::BestEffort => unreachable!("a level is real-time"),
    }
}

/// 6 stages of blocks that are long beside everything else: 40 polls, 10 µs apart.
const LONG: [SyntheticStage; 6] = [SyntheticStage { blocks: 5, polls: 40, poll_ns: 10_000 }; 6];
const MEDIUM: [SyntheticStage; 2] = [SyntheticStage { blocks: 4, polls: 8, poll_ns: 5_000 }; 2];
const TINY: [SyntheticStage; 1] = [SyntheticStage { blocks: 2, polls: 2, poll_ns: 1_000 }; 1];
const SHORT: [SyntheticStage; 3] = [SyntheticStage { blocks: 3, polls: 2, poll_ns: 2_000 }; 3];

/// Promise 3: outputs do not depend on scheme, preemptions, or the number of compute units.
pub fn outputs_are_exact_under_every_scheme(harness: &dyn Harness) {
    for scheme in Scheme::ALL.into_iter().filter(|&scheme| scheme != Scheme::RtOnly) {
        for cus in [1, 2, 3] {
            let mut rig = Rig::new(harness, cus, scheme);
            let plans = [rig.load(1, &LONG), rig.load(2, &SHORT)];
            for round in 0..8 {
                rig.submit(plans[0], best_effort(round), 0);
                rig.until_blocks(rig.device.counters().blocks_done + 1 + round);
                rig.submit(plans[1], real_time((round % 2) as u8), 1);
                for completion in rig.complete(2) {
                    rig.check_output(plans[completion.token as usize], &completion);
                }
            }
        }
    }
}

/// Promise 5, over a random mixture of tasks: every accepted one comes back once, with its token and buffers.
pub fn accepted_tasks_complete_exactly_once(harness: &dyn Harness) {
    let mut rig = Rig::new(harness, 2, Scheme::Reset);
    let plans = [rig.load(1, &SHORT), rig.load(2, &LONG[..2])];
    let mut rng = Rng::new(5);
    let mut waiting = std::collections::HashMap::new();
    let mut accepted = 0u64;
    while accepted < 200 {
        let plan = rng.below(2) as usize;
        let key = if rng.below(2) == 0 { real_time(rng.below(3) as u8) } else { best_effort(accepted) };
        let io = rig.io(plans[plan], accepted as u8);
        match rig.device.submit(rig.plans[plans[plan]].1, key, io, accepted) {
            Ok(task) => {
                assert!(waiting.insert(accepted, (plan, task)).is_none());
                accepted += 1;
            }
            Err(rejected) => {
                assert_eq!(rejected.why, RejectReason::BoardFull);
                drain_one(&rig, &plans, &mut waiting);
            }
        }
    }
    while !waiting.is_empty() {
        drain_one(&rig, &plans, &mut waiting);
    }
    assert!(rig.device.try_complete().is_none());
    let counters = rig.device.counters();
    assert_eq!((counters.submitted, counters.completed), (200, 200));
}

fn drain_one(rig: &Rig, plans: &[usize], waiting: &mut std::collections::HashMap<u64, (usize, TaskId)>) {
    let completion = rig.complete(1).pop().expect("one completion");
    let (plan, task) = waiting.remove(&completion.token).expect("a token that was not completed yet");
    assert_eq!(task, completion.task);
    assert_eq!(completion.io.inputs[0].as_slice()[0], completion.token as u8);
    rig.check_output(plans[plan], &completion);
}

/// Promise 1: where each stage wants every compute unit, tasks end in the order of their urgency.
pub fn urgent_tasks_end_first(harness: &dyn Harness) {
    for scheme in [Scheme::Wait, Scheme::Reset] {
        let mut rig = Rig::new(harness, 1, scheme);
        let stages = LONG.map(|stage| SyntheticStage { blocks: stage.blocks * rig.units(), ..stage });
        let (long, short) = (rig.load(1, &stages), rig.load(2, &stages[..3]));
        rig.submit(long, best_effort(0), 3);
        rig.until_blocks(1);
        rig.submit(long, real_time(1), 2);
        rig.submit(short, real_time(0), 1);
        let tokens: Vec<u64> = rig.complete(3).iter().map(|completion| completion.token).collect();
        assert_eq!(tokens, [1, 2, 3], "scheme {scheme}");
    }
}

/// Promise 1: `reset` abandons running blocks, `wait` lets them end; both lose nothing.
pub fn reset_kills_and_wait_does_not(harness: &dyn Harness) {
    for scheme in [Scheme::Wait, Scheme::Reset] {
        let mut rig = Rig::new(harness, 1, scheme);
        let kill = rig.device.capabilities().kill;
        let long = [SyntheticStage { blocks: 2, polls: 2_000, poll_ns: 5_000 }; 8];
        let (long, short) = (rig.load(1, &long), rig.load(2, &SHORT));
        rig.submit(long, best_effort(0), 0);
        rig.until_blocks(1);
        rig.submit(short, real_time(0), 1);
        let completions = rig.complete(2);
        for completion in &completions {
            rig.check_output(if completion.token == 0 { long } else { short }, completion);
        }
        let victim = &completions[1];
        assert_eq!(victim.token, 0);
        let may_kill = scheme == Scheme::Reset && kill != Kill::None;
        assert_eq!(victim.counters.blocks_killed > 0, may_kill, "scheme {scheme}");
        assert!(may_kill || victim.counters.wasted_time == Nanos::ZERO);
        assert_eq!(completions[0].counters.kills_caused, victim.counters.blocks_killed);
        assert_eq!(rig.device.counters().blocks_killed, victim.counters.blocks_killed);
    }
}

/// Blocks of [`Restart::Never`]: a device that stops what runs wherever it is refuses them, with the reason;
/// on others they run to their end, at most as long as the device states if the plan keeps to it.
pub fn what_must_not_be_killed_is_refused_or_runs_to_its_end(harness: &dyn Harness) {
    let mut rig = Rig::new(harness, 1, Scheme::Reset);
    let capabilities = rig.device.capabilities();
    let polls = capabilities.never_max.0 / 5_000;
    let stages = [SyntheticStage { blocks: 2, polls: polls as u32, poll_ns: 5_000 }; 3];
    let safe = synthetic_plan("never", capabilities.target, 1, &stages).expect("a valid plan");
    let plan = Arc::new(never_killed(&safe));
    let loaded = match rig.device.load(plan.clone()) {
        Ok(loaded) => loaded,
        Err(DeviceError::Unsupported { .. }) => return,
        Err(error) => panic!("the plan is refused for another reason: {error}"),
    };
    assert!(
        capabilities.never_max > Nanos::ZERO,
        "a device that takes such plans states how long a block is"
    );
    rig.plans.push((plan, loaded));
    let short = rig.load(2, &SHORT);
    rig.submit(0, best_effort(0), 0);
    rig.until_blocks(1);
    rig.submit(short, real_time(0), 1);
    for completion in rig.complete(2) {
        rig.check_output(if completion.token == 0 { 0 } else { short }, &completion);
        assert_eq!(completion.counters.blocks_killed, 0);
    }
}

/// `plan` with kernels that must not be killed.
fn never_killed(plan: &Plan) -> Plan {
    rebuilt(plan, |kernel| Kernel { restart: Restart::Never, ..kernel.clone() })
}

/// `plan` with other kernels.
fn rebuilt(plan: &Plan, changed: impl Fn(&Kernel) -> Kernel) -> Plan {
    let kernels = |stage: &Stage| {
        plan.kernels()[stage.kernels.start as usize..stage.kernels.end as usize]
            .iter()
            .map(&changed)
            .collect()
    };
    let parts = PlanParts {
        name: plan.name().into(),
        target: plan.target(),
        inputs: plan.inputs().to_vec(),
        outputs: plan.outputs().to_vec(),
        weights: vec![],
        store: Arc::new(WeightStore::new()),
        host_kernels: vec![],
        stages: plan.stages().iter().map(kernels).collect(),
        arena_bytes: plan.arena_bytes(),
    };
    Plan::new(parts).expect("as valid as before")
}

/// Promise 1: a stage of one block kills at most one block where blocks are killed one by one.
pub fn a_narrow_stage_disturbs_few_units(harness: &dyn Harness) {
    let mut rig = Rig::new(harness, 3, Scheme::Reset);
    if rig.device.capabilities().kill != Kill::AtPollPoints {
        return;
    }
    let wide = [SyntheticStage { blocks: 12, polls: 400, poll_ns: 5_000 }; 2];
    let narrow = [SyntheticStage { blocks: 1, polls: 2, poll_ns: 1_000 }];
    let (wide, narrow) = (rig.load(1, &wide), rig.load(2, &narrow));
    rig.submit(wide, best_effort(0), 0);
    for round in 1..=10 {
        rig.until_blocks(rig.device.counters().blocks_done + 1);
        rig.submit(narrow, real_time(0), round);
        let completion = rig.complete(1).pop().expect("one completion");
        if completion.token == 0 {
            return;
        }
        // Two stages of one block: each may take one unit.
        assert!(completion.counters.kills_caused <= 2, "{:?}", completion.counters);
    }
    rig.complete(1);
}

/// Promise 4: resident executors never repeat a finished block; queued ones at most those of the stage that
/// they were in and of their window before it, per preemption.
pub fn finished_blocks_are_not_run_again(harness: &dyn Harness) {
    let mut rig = Rig::new(harness, 2, Scheme::Reset);
    let window = rig.device.capabilities().target.window as u64;
    let resident = rig.device.capabilities().kill == Kill::AtPollPoints;
    let (long, short) = (rig.load(1, &LONG), rig.load(2, &SHORT));
    rig.submit(long, best_effort(0), 0);
    let mut preemptions = 0;
    let victim = loop {
        rig.until_blocks(rig.device.counters().blocks_done + 3);
        rig.submit(short, real_time(0), 1);
        preemptions += 1;
        let completion = rig.complete(1).pop().expect("one completion");
        if completion.token == 0 {
            rig.complete(1);
            break completion;
        }
        if preemptions == 5 {
            break rig.complete(1).pop().expect("one completion");
        }
    };
    rig.check_output(long, &victim);
    assert!(victim.counters.blocks_rerun <= preemptions * (window + 1) * 5);
    assert!(!resident || victim.counters.blocks_rerun == 0);
}

/// `sequential`: a task that runs is not disturbed, the most urgent waiting one comes next.
pub fn sequential_runs_to_the_end(harness: &dyn Harness) {
    let mut rig = Rig::new(harness, 2, Scheme::Sequential);
    let (long, short) = (rig.load(1, &LONG), rig.load(2, &SHORT));
    rig.submit(long, best_effort(0), 0);
    rig.until_blocks(1);
    rig.submit(long, best_effort(1), 1);
    rig.submit(short, real_time(0), 2);
    let completions = rig.complete(3);
    let tokens: Vec<u64> = completions.iter().map(|completion| completion.token).collect();
    assert_eq!(tokens, [0, 2, 1]);
    assert!(completions.iter().all(|completion| completion.counters.blocks_killed == 0));
}

/// `rt-only` refuses best-effort tasks and gives their buffers back.
pub fn rt_only_refuses_best_effort(harness: &dyn Harness) {
    let mut rig = Rig::new(harness, 1, Scheme::RtOnly);
    let plan = rig.load(1, &SHORT);
    let rejected = rig.device.submit(rig.plans[plan].1, best_effort(0), rig.io(plan, 9), 0).unwrap_err();
    assert_eq!(rejected.why, RejectReason::SchemeRefuses);
    assert_eq!(rejected.io.inputs[0].as_slice()[0], 9);
    rig.submit(plan, real_time(0), 1);
    rig.check_output(plan, &rig.complete(1)[0]);
}

/// A full board refuses and gives the buffers back; reserved slots stay open for real-time tasks.
pub fn a_full_board_gives_the_buffers_back(harness: &dyn Harness) {
    let mut rig = Rig::new(harness, 1, Scheme::Reset);
    let (slots, reserved) = {
        let capabilities = rig.device.capabilities();
        (capabilities.slots, capabilities.slots_real_time)
    };
    assert!(slots >= 4 && (1..slots).contains(&reserved));
    let plan = rig.load(1, &LONG);
    for order in 0..(slots - reserved) as u64 {
        rig.submit(plan, best_effort(order), order);
    }
    let rejected = rig.device.submit(rig.plans[plan].1, best_effort(99), rig.io(plan, 7), 99).unwrap_err();
    assert_eq!(rejected.why, RejectReason::BoardFull);
    assert_eq!(rejected.io.inputs[0].as_slice()[0], 7);
    for order in 0..reserved as u64 {
        rig.submit(plan, real_time(0), 100 + order);
    }
    let rejected = rig.device.submit(rig.plans[plan].1, real_time(0), rejected.io, 99).unwrap_err();
    assert_eq!(rejected.why, RejectReason::BoardFull);
    let mut completions = rig.complete(slots);
    completions.sort_by_key(|completion| completion.token);
    completions.dedup_by_key(|completion| completion.token);
    assert_eq!(completions.len(), slots);
    completions.iter().for_each(|completion| rig.check_output(plan, completion));
}

/// Plans for other targets do not load; wrong buffers and unknown plans are refused with the buffers.
pub fn wrong_submissions_give_the_buffers_back(harness: &dyn Harness) {
    let mut rig = Rig::new(harness, 1, Scheme::Reset);
    let plan = rig.load(1, &SHORT);
    let target = rig.device.capabilities().target;
    let other = Target { window: target.window + 1, ..target };
    let foreign = Arc::new(synthetic_plan("foreign", other, 1, &SHORT).expect("a valid plan"));
    assert!(matches!(rig.device.load(foreign), Err(DeviceError::WrongTarget { .. })));
    let rejected = rig.device.submit(rig.plans[plan].1, real_time(0), Io::default(), 0).unwrap_err();
    assert_eq!(rejected.why, RejectReason::WrongBuffers);
    let rejected = rig.device.submit(LoadedPlan(7), real_time(0), rig.io(plan, 3), 0).unwrap_err();
    assert_eq!(rejected.why, RejectReason::UnknownPlan);
    assert_eq!(rejected.io.inputs[0].as_slice()[0], 3);
    assert!(rig.device.alloc_io(LoadedPlan(7)).is_none());
}

/// Promise 4: cancelled tasks complete once, as cancelled unless they were done; others are not touched.
pub fn cancelled_tasks_end_once_and_alone(harness: &dyn Harness) {
    let mut rig = Rig::new(harness, 2, Scheme::Reset);
    let long = [SyntheticStage { blocks: 4, polls: 2_000, poll_ns: 5_000 }; 2];
    let (long, short) = (rig.load(1, &long), rig.load(2, &LONG));
    let running = rig.submit(long, best_effort(0), 0);
    let queued = rig.submit(long, best_effort(1), 1);
    rig.submit(short, best_effort(2), 2);
    rig.device.advance();
    rig.device.cancel(queued);
    rig.device.cancel(running);
    rig.device.cancel(running);
    rig.device.cancel(TaskId(u64::MAX));
    let mut completions = rig.complete(3);
    completions.sort_by_key(|completion| completion.token);
    assert_eq!(completions[0].outcome, Outcome::Cancelled);
    assert_eq!(completions[1].outcome, Outcome::Cancelled);
    rig.check_output(short, &completions[2]);
    rig.device.cancel(completions[2].task);
    assert!(rig.device.try_complete().is_none());
    rig.submit(short, real_time(0), 3);
    rig.check_output(short, &rig.complete(1)[0]);
}

/// A quiesced device runs no block and takes no task; resumed, it goes on where it was.
pub fn quiesce_stops_and_resume_goes_on(harness: &dyn Harness) {
    let mut rig = Rig::new(harness, 2, Scheme::Reset);
    let plan = rig.load(1, &LONG);
    rig.submit(plan, best_effort(0), 0);
    rig.until_blocks(2);
    assert!(rig.device.quiesce(PATIENCE));
    let before = rig.device.counters();
    let rejected = rig.device.submit(rig.plans[plan].1, real_time(0), rig.io(plan, 3), 1).unwrap_err();
    assert_eq!(rejected.why, RejectReason::Closed);
    // Long enough for several blocks, did they run.
    rig.let_time_pass();
    assert_eq!(rig.device.counters().blocks_done, before.blocks_done);
    rig.device.resume();
    rig.check_output(plan, &rig.complete(1)[0]);
}

/// A poisoned device ends every task with a fault and takes no more.
pub fn poison_ends_every_task(harness: &dyn Harness) {
    let mut rig = Rig::new(harness, 2, Scheme::Reset);
    let long = [SyntheticStage { blocks: 4, polls: 2_000, poll_ns: 5_000 }; 2];
    let plan = rig.load(1, &long);
    rig.submit(plan, best_effort(0), 0);
    rig.submit(plan, real_time(0), 1);
    rig.device.advance();
    assert_eq!(rig.device.fault(), None);
    rig.device.poison("a test");
    assert_eq!(rig.device.fault().as_deref(), Some("a test"));
    let completions = rig.complete(2);
    assert!(completions.iter().all(|completion| completion.outcome == Outcome::DeviceFault));
    let io = completions.into_iter().next().expect("two completions").io;
    let rejected = rig.device.submit(rig.plans[plan].1, real_time(0), io, 2).unwrap_err();
    assert_eq!(rejected.why, RejectReason::Closed);
}

/// An unloaded plan takes no new task, and the running ones end as if nothing had happened.
pub fn unloading_waits_for_the_last_task(harness: &dyn Harness) {
    let mut rig = Rig::new(harness, 2, Scheme::Reset);
    let (long, short) = (rig.load(1, &LONG), rig.load(2, &SHORT));
    rig.submit(long, best_effort(0), 0);
    rig.until_blocks(1);
    let io = rig.io(long, 1);
    rig.device.unload(rig.plans[long].1);
    let rejected = rig.device.submit(rig.plans[long].1, best_effort(1), io, 1).unwrap_err();
    assert_eq!(rejected.why, RejectReason::UnknownPlan);
    rig.submit(short, real_time(0), 2);
    for completion in rig.complete(2) {
        rig.check_output(if completion.token == 0 { long } else { short }, &completion);
    }
    rig.device.unload(rig.plans[long].1);
}

/// From plan to plan in a circle, `left` more times. The output of one is the input of the next.
struct Circle {
    plans: Vec<LoadedPlan>,
    state: Mutex<CircleState>,
}

struct CircleState {
    at: usize,
    left: u32,
    /// Buffers for each plan; those of the present one are away.
    spares: Vec<Option<Io>>,
}

impl Route for Circle {
    fn next(&self, done: LoadedPlan, io: &mut Io) -> Option<LoadedPlan> {
        let mut state = self.state.lock().expect("no panic holds this lock");
        assert_eq!(done, self.plans[state.at], "the plan that was on");
        state.left = state.left.checked_sub(1)?;
        let next = (state.at + 1) % self.plans.len();
        let mut spare = state.spares[next].take().expect("buffers that are not in use");
        std::mem::swap(&mut spare.inputs[0], &mut io.outputs[0]);
        let at = std::mem::replace(&mut state.at, next);
        state.spares[at] = Some(std::mem::replace(io, spare));
        Some(self.plans[next])
    }
}

impl Rig {
    /// What a task gives that [goes around](Self::submit_around) `plans`.
    fn output_around(&self, plans: &[usize], rounds: u32, token: u64) -> Vec<u8> {
        let input = self.io(plans[0], token as u8).inputs[0].as_slice().to_vec();
        (0..rounds as usize)
            .fold(input, |input, round| synthetic_output(&self.plans[plans[round % plans.len()]].0, &input))
    }

    /// Submits a task that runs `plans` in turn, `rounds` of them in all.
    fn submit_around(&self, plans: &[usize], rounds: u32, key: TaskKey, token: u64) -> TaskId {
        let io = self.io(plans[0], token as u8);
        let spare = |(index, &plan): (usize, &usize)| (index > 0).then(|| self.io(plan, 0));
        let spares = plans.iter().enumerate().map(spare).collect();
        let state = Mutex::new(CircleState { at: 0, left: rounds - 1, spares });
        let loaded: Vec<LoadedPlan> = plans.iter().map(|&plan| self.plans[plan].1).collect();
        let route = Arc::new(Circle { plans: loaded.clone(), state });
        self.device.submit_along(loaded[0], key, io, token, route).expect("the board has room")
    }
}

/// A task goes on from plan to plan: outputs, counters and the last plan are those of all of them, whatever
/// killed it on the way, and however many compute units took part. Devices that cannot say so by ending it
/// after the first.
pub fn hand_overs_go_on_to_the_end(harness: &dyn Harness) {
    for scheme in [Scheme::Reset, Scheme::Wait, Scheme::Sequential, Scheme::Concurrent] {
        let mut rig = Rig::new(harness, 2, scheme);
        let plans = [rig.load(1, &MEDIUM), rig.load(2, &SHORT), rig.load(3, &MEDIUM)];
        let short = rig.load(4, &SHORT);
        const ROUNDS: u32 = 20;
        let expected = rig.output_around(&plans, ROUNDS, 3);
        let task = rig.submit_around(&plans, ROUNDS, best_effort(0), 3);
        let mut completions = vec![];
        for token in 10..14 {
            rig.until_blocks(rig.device.counters().blocks_done + 5);
            rig.submit(short, real_time(0), token);
        }
        completions.extend(rig.complete(5));
        let ended = completions.iter().find(|completion| completion.token == 3).expect("it ended");
        assert_eq!((ended.task, &ended.outcome), (task, &Outcome::Done));
        if ended.plan == rig.plans[plans[0]].1 {
            continue;
        }
        assert_eq!(ended.plan, rig.plans[plans[(ROUNDS as usize - 1) % plans.len()]].1);
        assert_eq!(ended.io.outputs[0].as_slice(), expected, "{scheme}");
        let blocks = |round: u32| rig.plans[plans[round as usize % plans.len()]].0.blocks();
        let all: u64 = (0..ROUNDS).map(blocks).sum();
        assert_eq!(ended.counters.blocks_done, all + ended.counters.blocks_rerun, "{scheme}");
        assert_eq!(rig.device.counters().completed, 5);
    }
}

/// Cancelled or poisoned anywhere on its way, a task ends once, and soon; the next task of its slot is none
/// of it.
pub fn hand_overs_end_early_like_any_task(harness: &dyn Harness) {
    let mut rig = Rig::new(harness, 2, Scheme::Reset);
    let plans = [rig.load(1, &TINY), rig.load(2, &TINY)];
    for round in 0..40 {
        let task = rig.submit_around(&plans, 1 << 20, best_effort(0), 1);
        rig.until_blocks(rig.device.counters().blocks_done + round % 7);
        rig.device.cancel(task);
        let ended = rig.complete(1).pop().expect("one completion");
        let early = ended.plan == rig.plans[plans[0]].1 && ended.outcome == Outcome::Done;
        assert!(early || ended.outcome == Outcome::Cancelled, "{:?}", ended.outcome);
        rig.device.cancel(task);
        rig.submit(plans[0], best_effort(0), 2);
        rig.device.cancel(task);
        rig.check_output(plans[0], &rig.complete(1)[0]);
    }
    rig.submit_around(&plans, 1 << 20, best_effort(0), 1);
    rig.until_blocks(rig.device.counters().blocks_done + 3);
    rig.device.poison("a test");
    let ended = rig.complete(1).pop().expect("one completion");
    assert!(matches!(ended.outcome, Outcome::DeviceFault | Outcome::Done), "{:?}", ended.outcome);
    assert!(rig.device.try_complete().is_none());
}

/// Recorded events name every block that ran, and every submission and completion.
pub fn events_tell_every_block(harness: &dyn Harness) {
    let mut rig = Rig::new(harness, 2, Scheme::Reset);
    let plan = rig.load(1, &SHORT);
    rig.device.record_events(true);
    rig.submit(plan, real_time(0), 5);
    let completion = rig.complete(1).pop().expect("one completion");
    rig.device.record_events(false);
    assert!(rig.device.quiesce(PATIENCE));
    let mut events = Vec::new();
    assert_eq!(rig.device.drain_events(&mut events), 0);
    let count =
        |wanted: fn(&EventKind) -> bool| events.iter().filter(|event| wanted(&event.kind)).count() as u64;
    assert_eq!(count(|kind| matches!(kind, EventKind::Block { .. })), completion.counters.blocks_done);
    assert_eq!(count(|kind| *kind == EventKind::Submitted), 1);
    assert_eq!(count(|kind| *kind == EventKind::Completed), 1);
    assert!(events.iter().all(|event| event.task == completion.task && event.token == 5));
    let mut blocks: Vec<_> = events
        .iter()
        .filter_map(|event| match event.kind {
            EventKind::Block { stage, block, .. } => Some((stage, block)),
            _ => None,
        })
        .collect();
    blocks.sort_unstable();
    blocks.dedup();
    assert_eq!(blocks.len() as u64, rig.plans[plan].0.blocks());
}
