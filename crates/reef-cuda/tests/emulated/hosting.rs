//! Host steps inside plans: what foreign code does to the tasks of others, and what may happen to it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use reef_base::{Level, Nanos, TaskKey};
use reef_cuda::CudaDevice;
use reef_device::{Device, DeviceError, Io, LoadedPlan, Outcome, Scheme};
use reef_graph::{DType, Shape};
use reef_plan::{
    Cost, FaultKind, HostFault, HostKernel, HostState, IoSpec, Kernel, KernelSpec, NonMaxSuppressionSpec,
    Place, Plan, PlanParts, Region, Restart, SelectionSpec, SyntheticStage, Target, TensorSpec, WeightStore,
    synthetic_plan,
};

use super::{next_completion, start};

const BYTES: usize = 100;

type Body = Arc<dyn Fn(u8) -> Result<u8, HostFault> + Send + Sync>;

/// Runs a closure on the first byte of its input, and writes what that gives everywhere.
struct Foreign {
    body: Body,
    states: Arc<AtomicU64>,
    spec: [TensorSpec; 1],
}

impl std::fmt::Debug for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Foreign")
    }
}

struct State(Body);

impl HostKernel for Foreign {
    fn name(&self) -> &str {
        "foreign"
    }
    fn inputs(&self) -> &[TensorSpec] {
        &self.spec
    }
    fn outputs(&self) -> &[TensorSpec] {
        &self.spec
    }
    fn new_state(&self) -> Result<Box<dyn HostState>, HostFault> {
        self.states.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(State(self.body.clone())))
    }
}

impl HostState for State {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), HostFault> {
        assert_eq!((inputs[0].len(), inputs[0].as_ptr().addr() % 64), (BYTES, 0));
        let value = (self.0)(inputs[0][0])?;
        outputs[0].fill(value);
        Ok(())
    }
}

fn kernel(spec: KernelSpec, reads: Vec<Region>, writes: Vec<Region>) -> Kernel {
    Kernel { name: "host".into(), spec, reads, writes, restart: Restart::Never, cost: Cost::default() }
}

fn plan(target: Target, io: [IoSpec; 2], hosts: Vec<Arc<dyn HostKernel>>, stages: Vec<Vec<Kernel>>) -> Plan {
    let [x, y] = io;
    let parts = PlanParts {
        name: "hosted".into(),
        target,
        inputs: vec![x],
        outputs: vec![y],
        weights: vec![],
        store: Arc::new(WeightStore::new()),
        host_kernels: hosts,
        stages,
        arena_bytes: BYTES,
    };
    Plan::new(parts).expect("the plan is valid")
}

fn io(name: &str) -> IoSpec {
    IoSpec { name: name.into(), dtype: DType::U8, shape: Shape::from([BYTES]) }
}

/// A plan that runs `body` twice, one after the other, and how many states were made of each kernel.
fn twice(
    target: Target,
    body: impl Fn(u8) -> Result<u8, HostFault> + Send + Sync + 'static,
) -> (Arc<Plan>, Arc<AtomicU64>) {
    let (body, states): (Body, _) = (Arc::new(body), Arc::new(AtomicU64::new(0)));
    let spec = [TensorSpec { dtype: DType::U8, shape: Shape::from([BYTES]) }];
    let host = Arc::new(Foreign { body, states: states.clone(), spec });
    let whole = |place| vec![Region::dense(place, 0, BYTES)];
    let first = kernel(KernelSpec::Host(0), whole(Place::Input(0)), whole(Place::Arena));
    let second = kernel(KernelSpec::Host(0), whole(Place::Arena), whole(Place::Output(0)));
    let plan = plan(target, [io("x"), io("y")], vec![host], vec![vec![first], vec![second]]);
    (Arc::new(plan), states)
}

pub(super) fn real_time() -> TaskKey {
    TaskKey::real_time(Level::TOP, None, Nanos::ZERO)
}

pub(super) fn filled(device: &CudaDevice, plan: LoadedPlan, value: u8) -> Io {
    let mut io = device.alloc_io(plan).expect("the plan is loaded");
    io.inputs[0].as_mut_slice().fill(value);
    io
}

/// Runs a task alone: how it ended, and its output's bytes if they are all the same.
fn alone(device: &CudaDevice, plan: LoadedPlan, value: u8) -> (Outcome, Option<u8>) {
    device.submit(plan, real_time(), filled(device, plan, value), 7).expect("the board has room");
    let done = next_completion(device);
    let output = done.io.outputs[0].as_slice();
    let same = output.iter().all(|&byte| byte == output[0]).then_some(output[0]);
    (done.outcome, same)
}

/// Foreign code that says that it runs, and goes on until it is told to end.
#[derive(Default)]
pub(super) struct Gate {
    running: AtomicBool,
    open: AtomicBool,
    through: AtomicBool,
}

impl Gate {
    fn wait(flag: &AtomicBool) {
        while !flag.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    fn pass(&self, value: u8) -> Result<u8, HostFault> {
        self.running.store(true, Ordering::Release);
        Gate::wait(&self.open);
        self.through.store(true, Ordering::Release);
        Ok(value)
    }

    pub(super) fn until_running(&self) {
        Gate::wait(&self.running);
    }

    pub(super) fn open(&self) {
        self.open.store(true, Ordering::Release);
    }
}

pub(super) fn gated(device: &CudaDevice) -> (LoadedPlan, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let (plan, _) = twice(device.capabilities().target, {
        let gate = gate.clone();
        move |value| gate.pass(value)
    });
    (device.load(plan).expect("the plan loads"), gate)
}

/// A plan of kernels of the device.
pub(super) fn native(device: &CudaDevice) -> LoadedPlan {
    let stages = [SyntheticStage { blocks: 3, polls: 1, poll_ns: 1_000 }; 4];
    let plan = synthetic_plan("native", device.capabilities().target, 1, &stages).expect("a valid plan");
    device.load(Arc::new(plan)).expect("the plan loads")
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn the_host_runs_what_the_device_cannot() {
    let device = start(1, Scheme::Reset);
    let (plan, states) = twice(device.capabilities().target, |value| Ok(value + 1));
    let loaded = device.load(plan).unwrap();
    assert_eq!(states.load(Ordering::Relaxed), device.capabilities().slots as u64);
    for value in 0..50 {
        assert_eq!(alone(&device, loaded, value), (Outcome::Done, Some(value + 2)));
    }
    assert!(device.block_times(loaded).iter().all(Option::is_some));
    assert_eq!(device.counters().blocks_done, 100);
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn others_run_while_the_host_does_and_nothing_evicts_it() {
    let device = start(2, Scheme::Reset);
    let (hosted, gate) = gated(&device);
    let native = native(&device);
    device.submit(hosted, TaskKey::best_effort(0), filled(&device, hosted, 9), 1).unwrap();
    gate.until_running();
    for token in 10..40 {
        let key = if token % 2 == 0 { real_time() } else { TaskKey::best_effort(token) };
        device.submit(native, key, device.alloc_io(native).unwrap(), token).unwrap();
        let done = next_completion(&device);
        assert_eq!((done.token, done.outcome), (token, Outcome::Done));
    }
    gate.open();
    let done = next_completion(&device);
    assert_eq!((done.token, done.outcome), (1, Outcome::Done));
    assert_eq!(done.io.outputs[0].as_slice(), [9; BYTES]);
    assert_eq!((done.counters.blocks_done, done.counters.blocks_rerun), (2, 0), "each ran once");
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn tasks_do_not_wait_for_the_steps_of_others() {
    let device = start(1, Scheme::Reset);
    let (slow, gate) = gated(&device);
    let (plan, _) = twice(device.capabilities().target, |value| Ok(value + 1));
    let fast = device.load(plan).unwrap();
    device.submit(slow, TaskKey::best_effort(0), filled(&device, slow, 9), 1).unwrap();
    gate.until_running();
    assert_eq!(alone(&device, fast, 3), (Outcome::Done, Some(5)));
    gate.open();
    assert_eq!(next_completion(&device).token, 1);
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn whatever_ends_a_task_waits_for_the_host() {
    for poison in [false, true] {
        let device = start(1, Scheme::Reset);
        let (hosted, gate) = gated(&device);
        let task = device.submit(hosted, real_time(), filled(&device, hosted, 9), 1).unwrap();
        gate.until_running();
        if poison {
            device.poison("a test")
        } else {
            device.cancel(task)
        }
        device.unload(hosted);
        // Its buffers are not handed back while foreign code runs for it.
        for _ in 0..100 {
            assert!(device.try_complete().is_none());
            std::thread::yield_now();
        }
        gate.open();
        let meant = if poison { Outcome::DeviceFault } else { Outcome::Cancelled };
        assert_eq!(next_completion(&device).outcome, meant);
        if !poison {
            let native = native(&device);
            assert_eq!(alone(&device, native, 0).0, Outcome::Done);
        }
    }
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn a_device_that_goes_lets_the_host_end_first() {
    let device = start(1, Scheme::Reset);
    let (hosted, gate) = gated(&device);
    device.submit(hosted, real_time(), filled(&device, hosted, 9), 1).unwrap();
    gate.until_running();
    let drops = std::thread::spawn(|| drop(device));
    gate.open();
    drops.join().expect("it goes");
    assert!(gate.through.load(Ordering::Acquire));
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn faults_and_panics_of_foreign_code_end_their_task_alone() {
    let device = start(1, Scheme::Reset);
    let (plan, states) = twice(device.capabilities().target, |value| match value {
        1 => Err(HostFault::of_input("foreign", "one is not for me")),
        2 => panic!("two is too much"),
        other => Ok(other),
    });
    let loaded = device.load(plan).unwrap();
    let made = states.load(Ordering::Relaxed);
    assert_eq!(alone(&device, loaded, 5), (Outcome::Done, Some(5)));
    let failed = |value| match alone(&device, loaded, value).0 {
        Outcome::Failed(fault) => fault,
        other => panic!("it ended with {other:?}"),
    };
    assert_eq!(failed(1), HostFault::of_input("foreign", "one is not for me"));
    let fault = failed(2);
    assert_eq!(fault.kind, FaultKind::Kernel);
    assert!(fault.reason.contains("it panicked: two is too much"), "{fault}");
    // The state is gone with the panic, and made anew.
    assert_eq!(states.load(Ordering::Relaxed), made);
    assert_eq!(alone(&device, loaded, 6), (Outcome::Done, Some(6)));
    assert_eq!(states.load(Ordering::Relaxed), made + 1);
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn foreign_code_that_cannot_be_made_is_an_error_of_loading() {
    /// Makes no state.
    #[derive(Debug)]
    struct Never(Mutex<Option<HostFault>>, [TensorSpec; 1]);
    impl HostKernel for Never {
        fn name(&self) -> &str {
            "never"
        }
        fn inputs(&self) -> &[TensorSpec] {
            &self.1
        }
        fn outputs(&self) -> &[TensorSpec] {
            &self.1
        }
        fn new_state(&self) -> Result<Box<dyn HostState>, HostFault> {
            Err(self.0.lock().expect("no panic holds it").take().expect("not today"))
        }
    }
    let device = start(1, Scheme::Reset);
    let target = device.capabilities().target;
    let load = |fault: Option<HostFault>| {
        let spec = [TensorSpec { dtype: DType::U8, shape: Shape::from([BYTES]) }];
        let host = Arc::new(Never(Mutex::new(fault), spec));
        let whole = |place| vec![Region::dense(place, 0, BYTES)];
        let only = kernel(KernelSpec::Host(0), whole(Place::Input(0)), whole(Place::Output(0)));
        device.load(Arc::new(plan(target, [io("x"), io("y")], vec![host], vec![vec![only]]))).unwrap_err()
    };
    let fault = HostFault::of_kernel("never", "why");
    assert_eq!(load(Some(fault.clone())), DeviceError::Host(fault));
    let DeviceError::Host(fault) = load(None) else { panic!("a panic is the kernel's fault") };
    assert!(fault.reason.contains("not today"), "{fault}");
    assert_eq!(device.memory()[0].weights + device.memory()[0].working, 0);
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn a_selection_says_what_is_wrong_with_its_inputs() {
    let device = start(1, Scheme::Reset);
    let spec = NonMaxSuppressionSpec {
        batches: 1,
        classes: 1,
        boxes: 1,
        per_class: 1,
        center_point_box: false,
        score_threshold: false,
    };
    let spec = SelectionSpec::NonMaxSuppression(spec);
    // Boxes, scores, most and threshold in one input; rows and count in one output.
    let regions = |place, parts: &[(usize, usize)]| -> Vec<Region> {
        parts.iter().map(|&(at, bytes)| Region::dense(place, at, bytes)).collect()
    };
    let reads = regions(Place::Input(0), &[(0, 16), (16, 4), (64, 8), (20, 4)]);
    let writes = regions(Place::Output(0), &[(0, 24), (24, 8)]);
    let only = Kernel { restart: Restart::Safe, ..kernel(KernelSpec::Selection(spec), reads, writes) };
    let io =
        ["x", "y"].map(|name| IoSpec { shape: Shape::from([if name == "x" { 72 } else { 32 }]), ..io(name) });
    let plan = plan(device.capabilities().target, io, vec![], vec![vec![only]]);
    let loaded = device.load(Arc::new(plan)).unwrap();
    let run = |threshold: f32| {
        let mut io = device.alloc_io(loaded).unwrap();
        let numbers = [0.0, 0.0, 1.0, 1.0, 0.5, threshold];
        let bytes = io.inputs[0].as_mut_slice();
        numbers
            .iter()
            .enumerate()
            .for_each(|(at, value)| bytes[at * 4..][..4].copy_from_slice(&value.to_le_bytes()));
        bytes[64..].copy_from_slice(&1i64.to_le_bytes());
        device.submit(loaded, real_time(), io, 1).unwrap();
        next_completion(&device)
    };
    let done = run(0.5);
    assert_eq!(done.outcome, Outcome::Done);
    assert_eq!(done.io.outputs[0].as_slice()[24..], 1i64.to_le_bytes());
    let reason = "NonMaxSuppression: iou_threshold is 2, allowed are 0 to 1";
    assert_eq!(run(2.0).outcome, Outcome::Failed(HostFault::of_input("host", reason)));
}

/// Threads come without a context of their own: each call makes the one that it needs.
#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn every_call_may_come_from_a_thread_of_its_own() {
    fn elsewhere<T: Send>(call: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(call).join().expect("nothing is wrong with the thread"))
    }
    let device = elsewhere(|| start(2, Scheme::Reset));
    let target = device.capabilities().target;
    let stage = SyntheticStage { blocks: 3, polls: 1, poll_ns: 1_000 };
    let computed = synthetic_plan("computed", target, 1, &[stage]).expect("a valid plan");
    // Without a kernel that a graph could have, with one, and with none again.
    let plans = [twice(target, Ok).0, Arc::new(computed), twice(target, Ok).0];
    for scheme in [Scheme::Concurrent, Scheme::Reset, Scheme::Concurrent] {
        for plan in &plans {
            let loaded = elsewhere(|| device.load(plan.clone())).expect("there is memory");
            elsewhere(|| device.set_scheme(scheme));
            let io = elsewhere(|| filled(&device, loaded, 5));
            elsewhere(|| device.submit(loaded, real_time(), io, 1)).expect("the board has room");
            assert_eq!(elsewhere(|| next_completion(&device)).outcome, Outcome::Done, "{}", plan.name());
            assert!(elsewhere(|| device.quiesce(std::time::Duration::from_secs(10))));
            elsewhere(|| device.resume());
            elsewhere(|| device.unload(loaded));
            elsewhere(|| device.trim());
            assert_eq!(elsewhere(|| device.fault()), None, "{scheme:?}, {}", plan.name());
        }
    }
    elsewhere(move || drop(device));
}
