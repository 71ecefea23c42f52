//! Bad input and faults: a broken task or device harms nothing else.

mod rig;

use std::sync::Arc;
use std::time::Duration;

use reef_base::{Domain, TaskKey};
use reef_cpu::{CpuDevice, CpuOptions};
use reef_device::{Budget, Device, DeviceError, Io, LoadedPlan, Outcome, RejectReason, Scheme};
use reef_graph::{DType, Shape};
use reef_plan::{
    Cost, HostFault, HostKernel, HostState, IoSpec, Isa, Kernel, KernelSpec, Place, Plan, PlanParts, Region,
    Restart, SyntheticStage, Target, TensorSpec, WeightStore, synthetic_output, synthetic_plan,
};
use rig::KernelShape;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Copies,
    /// For this reason.
    Fails(&'static str),
    Panics,
}

#[derive(Debug)]
struct Host(Mood, [TensorSpec; 1]);

struct State(Mood);

impl HostKernel for Host {
    fn name(&self) -> &str {
        "moody"
    }
    fn inputs(&self) -> &[TensorSpec] {
        &self.1
    }
    fn outputs(&self) -> &[TensorSpec] {
        &self.1
    }
    fn new_state(&self) -> Result<Box<dyn HostState>, HostFault> {
        Ok(Box::new(State(self.0)))
    }
}

impl HostState for State {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), HostFault> {
        match self.0 {
            Mood::Copies => outputs[0].copy_from_slice(inputs[0]),
            Mood::Fails(why) => return Err(HostFault::of_kernel("moody", why)),
            Mood::Panics => panic!("planted"),
        }
        Ok(())
    }
}

/// A plan of one host kernel, 64 bytes in and out.
fn host_plan(mood: Mood) -> Arc<Plan> {
    let spec = TensorSpec { dtype: DType::U8, shape: Shape::from([64]) };
    let io = |name: &str| IoSpec { name: name.into(), dtype: DType::U8, shape: Shape::from([64]) };
    let kernel = Kernel {
        name: "host".into(),
        spec: KernelSpec::Host(0),
        reads: vec![Region::dense(Place::Input(0), 0, 64)],
        writes: vec![Region::dense(Place::Output(0), 0, 64)],
        restart: Restart::Never,
        cost: Cost::default(),
    };
    let parts = PlanParts {
        name: "host".into(),
        target: Target::cpu(Isa::Portable, 1),
        inputs: vec![io("x")],
        outputs: vec![io("y")],
        weights: vec![],
        store: Arc::new(WeightStore::new()),
        host_kernels: vec![Arc::new(Host(mood, [spec]))],
        stages: vec![vec![kernel]],
        arena_bytes: 0,
    };
    Arc::new(Plan::new(parts).expect("the plan is valid"))
}

fn synthetic(polls: u32) -> Arc<Plan> {
    let shape = KernelShape { bytes: 640, tile_bytes: 64, polls, poll_ns: 1_000, restart: true, host: false };
    let stage = vec![shape];
    Arc::new(rig::plan(3, &[stage.clone(), stage.clone(), stage.clone(), stage]))
}

#[test]
fn a_failing_host_kernel_fails_its_task_only() {
    let device = rig::device(2, Scheme::Reset);
    let moods = [Mood::Copies, Mood::Fails("today"), Mood::Copies, Mood::Fails("always")];
    let plans = moods.map(|mood| device.load(host_plan(mood)).unwrap());
    // Twice, so that slots are used again by tasks that fail for another reason.
    for _ in 0..2 {
        for (token, plan) in plans.into_iter().enumerate() {
            let io = rig::filled(&device, plan, 9);
            device.submit(plan, rig::real_time(0, token as u64), io, token as u64).unwrap();
        }
        for _ in 0..plans.len() {
            let done = rig::wait(&device);
            match (moods[done.token as usize], done.outcome) {
                (Mood::Copies, Outcome::Done) => assert_eq!(done.io.outputs[0].as_slice(), [9; 64]),
                (Mood::Fails(why), Outcome::Failed(fault)) => assert_eq!(fault.reason, why),
                (mood, outcome) => panic!("{mood:?} ended as {outcome:?}"),
            }
        }
        // One after the other: all in the same slot.
        for (plan, mood) in plans.into_iter().zip(moods) {
            device.submit(plan, rig::real_time(0, 0), rig::filled(&device, plan, 9), 0).unwrap();
            if let (Mood::Fails(why), outcome) = (mood, rig::wait(&device).outcome) {
                assert!(matches!(outcome, Outcome::Failed(fault) if fault.reason == why));
            }
        }
    }
}

#[test]
fn tasks_that_arrive_together_wake_a_unit_each() {
    for scheme in [Scheme::Reset, Scheme::Concurrent] {
        let device = rig::device(2, scheme);
        // One block of 0.2 s: long enough for a woken thread to get a core of a busy machine.
        let shape = KernelShape {
            bytes: 64,
            tile_bytes: 64,
            polls: 200,
            poll_ns: 1_000_000,
            restart: true,
            host: false,
        };
        let plan = device.load(Arc::new(rig::plan(5, &[vec![shape]]))).unwrap();
        for round in 0..4 {
            // Until the units have parked.
            std::thread::sleep(Duration::from_millis(5));
            for order in 0..2 {
                let io = rig::filled(&device, plan, 1);
                device.submit(plan, TaskKey::best_effort(order), io, order).unwrap();
            }
            let (first, second) = (rig::wait(&device), rig::wait(&device));
            let started = second.first_block.unwrap();
            assert!(started < first.finished, "{scheme}, round {round}: one waited for the other");
        }
    }
}

#[test]
fn a_panicking_host_kernel_fails_its_task_only() {
    let device = rig::device(1, Scheme::Reset);
    let bad = device.load(host_plan(Mood::Panics)).unwrap();
    let good = device.load(host_plan(Mood::Copies)).unwrap();
    let submit =
        |plan, token| device.submit(plan, rig::real_time(0, 0), rig::filled(&device, plan, 7), token);
    // More often than there are slots: each is used again after a panic.
    for round in 0..20 {
        submit(bad, round).unwrap();
        match rig::wait(&device).outcome {
            Outcome::Failed(fault) => {
                assert_eq!((fault.kernel.as_str(), fault.reason.as_str()), ("moody", "it panicked: planted"));
            }
            other => panic!("ended as {other:?}"),
        }
        submit(good, round).unwrap();
        let done = rig::wait(&device);
        assert_eq!((done.outcome, done.io.outputs[0].as_slice()), (Outcome::Done, &[7; 64][..]));
    }
}

#[test]
fn poison_ends_every_task_and_later_ones_are_refused() {
    let device = rig::device(2, Scheme::Reset);
    // Longer than any pause of this thread before the poison comes: 40 blocks of 20 ms.
    let long = device.load(synthetic(20_000)).unwrap();
    let submit = |plan, key, token| device.submit(plan, key, rig::filled(&device, plan, 1), token);
    submit(long, TaskKey::best_effort(0), 1).unwrap();
    submit(long, TaskKey::best_effort(1), 2).unwrap();
    submit(long, rig::real_time(0, 0), 3).unwrap();
    device.poison("planted");
    for _ in 0..3 {
        assert_eq!(rig::wait(&device).outcome, Outcome::DeviceFault);
    }
    assert_eq!(submit(long, rig::real_time(0, 0), 4).unwrap_err().why, RejectReason::Closed);
    assert!(matches!(device.load(synthetic(1)), Err(DeviceError::Poisoned(why)) if why == "planted"));
    assert!(device.quiesce(Duration::from_secs(60)));
    device.resume();
    assert_eq!(submit(long, rig::real_time(0, 0), 5).unwrap_err().why, RejectReason::Closed);
}

#[test]
fn cancelling_while_quiesced_ends_the_task_at_once() {
    let device = rig::device(2, Scheme::Reset);
    // Longer than any pause of this thread before it quiesces the device: 40 blocks of 20 ms.
    let long = device.load(synthetic(20_000)).unwrap();
    let task = device.submit(long, TaskKey::best_effort(0), rig::filled(&device, long, 1), 7).unwrap();
    assert!(device.quiesce(Duration::from_secs(60)));
    assert!(device.try_complete().is_none());
    device.cancel(task);
    let done = device.try_complete().expect("no block runs, so the task is over");
    assert_eq!(done.outcome, Outcome::Cancelled);
    device.cancel(task);
    device.resume();
    let plan = device.load(synthetic(5)).unwrap();
    let again = device.submit(plan, TaskKey::best_effort(0), rig::filled(&device, plan, 1), 8).unwrap();
    assert_ne!(task, again);
    assert_eq!(rig::wait(&device).outcome, Outcome::Done);
}

#[test]
fn arenas_grow_while_tasks_run_and_unloaded_plans_are_gone() {
    let device = rig::device(2, Scheme::Reset);
    let small = device.load(host_plan(Mood::Copies)).unwrap();
    device.submit(small, TaskKey::best_effort(0), rig::filled(&device, small, 5), 0).unwrap();
    let plan = synthetic(2);
    let large = device.load(plan.clone()).unwrap();
    for token in 1..20 {
        device.submit(large, rig::real_time(0, token), rig::filled(&device, large, 6), token).unwrap();
        let mut done = rig::wait(&device);
        if done.token == 0 {
            done = rig::wait(&device);
        }
        assert_eq!(done.io.outputs[0].as_slice(), rig::evaluate(&plan, &[6; 100]));
    }
    device.unload(large);
    device.unload(large);
    assert!(device.alloc_io(large).is_none());
    let rejected = device.submit(large, rig::real_time(0, 0), Io::default(), 0).unwrap_err();
    assert_eq!(rejected.why, RejectReason::UnknownPlan);
    let next = device.load(plan).unwrap();
    assert_ne!(next, large);
    assert!(device.block_times(LoadedPlan(u32::MAX)).is_empty());
}

#[test]
fn a_plan_beyond_the_memory_is_refused_and_others_go_on() {
    let plan = synthetic(2);
    let slots = CpuOptions::default().slots as u64;
    let needed = plan.arena_bytes() as u64 * slots;
    let start = |memory| {
        let options = CpuOptions { cus: Some(2), memory_bytes: Some(memory), ..CpuOptions::default() };
        CpuDevice::start(options).unwrap()
    };
    let device = start(needed - 1);
    let small = device.load(host_plan(Mood::Copies)).unwrap();
    let error = device.load(plan.clone()).unwrap_err();
    assert!(matches!(error, DeviceError::OutOfMemory { needed: all, .. } if all >= needed), "{error}");
    device.submit(small, TaskKey::best_effort(0), rig::filled(&device, small, 5), 0).unwrap();
    assert_eq!(rig::wait(&device).outcome, Outcome::Done);
    let device = start(needed + (1 << 20));
    assert!(device.load(plan).is_ok());
}

/// Two devices of one memory: what both have counts once, what one takes the other does not get.
#[test]
fn devices_of_one_memory_share_its_budget() {
    let plan = synthetic(2);
    let one = plan.arena_bytes() as u64 * CpuOptions::default().slots as u64;
    let budget = Budget::new(Domain::Host, Some(2 * one + one / 2));
    let start = || {
        let options = CpuOptions { cus: Some(1), budget: Some(budget.clone()), ..CpuOptions::default() };
        CpuDevice::start(options).unwrap()
    };
    let (first, second, third) = (start(), start(), start());
    first.load(plan.clone()).unwrap();
    let used = budget.usage().working;
    assert!(used >= one, "{used}");
    first.load(plan.clone()).unwrap();
    assert_eq!(budget.usage().working, used, "arenas are shared by a device's plans");
    second.load(plan.clone()).unwrap();
    assert_eq!((first.memory(), budget.usage().working), (second.memory(), 2 * used));
    let error = third.load(plan.clone()).unwrap_err();
    assert!(matches!(error, DeviceError::OutOfMemory { .. }), "{error}");
    drop(first);
    third.load(plan).unwrap();
}

/// What a plan alone needed of arenas goes with it, but for slots that are in use.
#[test]
fn arenas_shrink_when_the_plan_that_needed_them_goes() {
    let budget = Budget::new(Domain::Host, None);
    let options = CpuOptions { cus: Some(2), budget: Some(budget.clone()), ..CpuOptions::default() };
    let device = CpuDevice::start(options).unwrap();
    let plan = |name, blocks, polls| {
        let stage = SyntheticStage { blocks, polls, poll_ns: 1000 };
        let target = device.capabilities().target;
        Arc::new(synthetic_plan(name, target, 3, &[stage; 4]).unwrap())
    };
    let (small, large) = (plan("small", 4, 1), plan("large", 4096, 1));
    assert!(large.arena_bytes() > small.arena_bytes() + (1 << 17));
    let working = || budget.usage().working;
    let run = |loaded, plan: &Plan| {
        device.submit(loaded, TaskKey::best_effort(0), rig::filled(&device, loaded, 5), 0).unwrap();
        let completion = rig::wait(&device);
        assert_eq!(completion.io.outputs[0].as_slice(), synthetic_output(plan, &[5; 64]));
    };
    let first = device.load(small.clone()).unwrap();
    let little = working();
    for _ in 0..3 {
        let second = device.load(large.clone()).unwrap();
        let much = working();
        assert!(much > little + (1 << 17) * device.capabilities().slots as u64);
        run(second, &large);
        run(first, &small);
        device.unload(second);
        assert_eq!(working(), little);
        run(first, &small);
    }
    // A task of it runs when it goes: its slot keeps what it has until the next time.
    let long = plan("long", 4096, 50);
    let second = device.load(long.clone()).unwrap();
    device.submit(second, TaskKey::best_effort(0), rig::filled(&device, second, 5), 0).unwrap();
    device.unload(second);
    assert!(working() > little);
    let completion = rig::wait(&device);
    assert_eq!(completion.io.outputs[0].as_slice(), synthetic_output(&long, &[5; 64]));
    let third = device.load(small.clone()).unwrap();
    assert_eq!(working(), little);
    run(third, &small);
}

#[test]
fn wrong_options_are_refused() {
    let start = |options| CpuDevice::start(options).map(drop).unwrap_err();
    let options = CpuOptions::default;
    assert!(matches!(start(CpuOptions { cus: Some(0), ..options() }), DeviceError::Start(_)));
    assert!(matches!(start(CpuOptions { slots: 65, ..options() }), DeviceError::Start(_)));
    assert!(matches!(start(CpuOptions { slots_real_time: 9, ..options() }), DeviceError::Start(_)));
    assert!(matches!(start(CpuOptions { cores: Some(vec![]), ..options() }), DeviceError::Start(_)));
}

#[test]
fn a_device_may_go_while_tasks_run() {
    for cus in [1, 3] {
        let device = rig::device(cus, Scheme::Reset);
        let plan = device.load(synthetic(5_000)).unwrap();
        for token in 0..3 {
            device.submit(plan, TaskKey::best_effort(token), rig::filled(&device, plan, 1), token).unwrap();
        }
        drop(device);
    }
}
