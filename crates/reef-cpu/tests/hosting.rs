//! Host kernels: code that cannot poll holds no compute unit, wherever it is stopped.

mod rig;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reef_base::{Nanos, TaskKey};
use reef_cpu::CpuDevice;
use reef_device::{Device, EventKind, LoadedPlan, Outcome, Scheme};
use reef_graph::{DType, Shape};
use reef_plan::{
    Cost, HostFault, HostKernel, HostState, IoSpec, Isa, Kernel, KernelSpec, Place, Plan, PlanParts, Region,
    Restart, Target, TensorSpec, WeightStore,
};
use rig::KernelShape;

type Body = Arc<dyn Fn() + Send + Sync>;

/// Runs a closure, then copies its input.
struct Foreign {
    body: Body,
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
        Ok(Box::new(State(self.body.clone())))
    }
}

impl HostState for State {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), HostFault> {
        (self.0)();
        outputs[0].copy_from_slice(inputs[0]);
        Ok(())
    }
}

/// A plan of one host kernel that runs `body`.
fn foreign(device: &CpuDevice, body: impl Fn() + Send + Sync + 'static) -> LoadedPlan {
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
        host_kernels: vec![Arc::new(Foreign { body: Arc::new(body), spec: [spec] })],
        stages: vec![vec![kernel]],
        arena_bytes: 0,
    };
    device.load(Arc::new(Plan::new(parts).expect("the plan is valid"))).expect("the plan loads")
}

/// Blocks of `poll_us` × `polls`, eight in a row.
fn native(device: &CpuDevice, polls: u32, poll_us: u32) -> LoadedPlan {
    let shape = KernelShape {
        bytes: 64,
        tile_bytes: 64,
        polls,
        poll_ns: poll_us * 1_000,
        restart: true,
        host: false,
    };
    device.load(Arc::new(rig::plan(3, &vec![vec![shape]; 8]))).expect("the plan loads")
}

fn submit(device: &CpuDevice, plan: LoadedPlan, key: TaskKey, token: u64) -> reef_base::TaskId {
    device.submit(plan, key, rig::filled(device, plan, 5), token).expect("the board has room")
}

/// A flag that foreign code waits for, busily.
#[derive(Clone, Default)]
struct Flag(Arc<AtomicBool>);

impl Flag {
    fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
    fn wait(&self) {
        while !self.is_set() {
            std::hint::spin_loop();
        }
    }
}

/// Foreign code that says that it runs, then goes on until it is told to end.
fn endless(device: &CpuDevice) -> (LoadedPlan, Flag, Flag) {
    let (running, end) = (Flag::default(), Flag::default());
    let (says, waits) = (running.clone(), end.clone());
    let plan = foreign(device, move || {
        says.set();
        waits.wait();
    });
    (plan, running, end)
}

#[test]
fn urgent_work_runs_on_the_unit_of_code_that_never_ends() {
    let device = rig::device(1, Scheme::Reset);
    let (plan, running, end) = endless(&device);
    let urgent = native(&device, 3, 5);
    submit(&device, plan, TaskKey::best_effort(0), 0);
    running.wait();
    for token in 1..=50 {
        submit(&device, urgent, rig::real_time(1, token), token);
        let done = rig::wait(&device);
        assert_eq!((done.token, done.outcome), (token, Outcome::Done));
    }
    end.set();
    let done = rig::wait(&device);
    assert_eq!((done.token, done.outcome), (0, Outcome::Done));
    assert_eq!(done.io.outputs[0].as_slice(), [5; 64]);
    assert_eq!((done.counters.blocks_done, done.counters.blocks_killed), (1, 0), "stopped, not killed");
    assert!(done.counters.cu_time > Nanos::ZERO && device.counters().busy >= done.counters.cu_time);
}

#[test]
fn code_that_is_stopped_does_not_run() {
    let device = rig::device(1, Scheme::Reset);
    let (turns, end) = (Arc::new(AtomicU64::new(0)), Flag::default());
    let (count, stop) = (turns.clone(), end.clone());
    let plan = foreign(&device, move || {
        while !stop.is_set() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    // Urgent code that looks on for 8 ms, from the core of the code that is stopped.
    let (looked, stopped) = (turns.clone(), Arc::new(AtomicU64::new(0)));
    let sum = stopped.clone();
    let urgent = foreign(&device, move || {
        let (begin, before) = (Instant::now(), looked.load(Ordering::Relaxed));
        while begin.elapsed() < Duration::from_millis(8) {
            std::hint::spin_loop();
        }
        sum.fetch_add(looked.load(Ordering::Relaxed) - before, Ordering::Relaxed);
    });
    submit(&device, plan, TaskKey::best_effort(0), 0);
    while turns.load(Ordering::Relaxed) == 0 {
        std::thread::yield_now();
    }
    for token in 1..=8 {
        submit(&device, urgent, rig::real_time(0, token), token);
        assert_eq!(rig::wait(&device).token, token);
    }
    let stopped = stopped.load(Ordering::Relaxed);
    let total = turns.load(Ordering::Relaxed);
    end.set();
    let alone = rig::wait(&device).counters.cu_time;
    // 64 ms stopped; what it counted then took less than a tenth of that. SCHED_IDLE would leave a sixth.
    let per_ms = total as f64 / alone.as_micros_f64() * 1e3;
    assert!((stopped as f64) < 6.4 * per_ms, "{stopped} of {total} turns in {alone} while it was stopped");
}

#[test]
fn an_urgent_host_kernel_runs_above_a_stopped_one() {
    let device = rig::device(1, Scheme::Reset);
    let (plan, running, end) = endless(&device);
    let (middle, middle_runs, middle_end) = endless(&device);
    let urgent = native(&device, 1, 5);
    submit(&device, plan, TaskKey::best_effort(0), 0);
    running.wait();
    submit(&device, middle, rig::real_time(2, 1), 1);
    middle_runs.wait();
    // Not above one of the same level.
    submit(&device, foreign(&device, || ()), rig::real_time(2, 0), 2);
    submit(&device, urgent, rig::real_time(1, 0), 3);
    assert_eq!(rig::wait(&device).token, 3);
    submit(&device, foreign(&device, || ()), rig::real_time(0, 0), 4);
    assert_eq!(rig::wait(&device).token, 4);
    middle_end.set();
    let (first, second) = (rig::wait(&device), rig::wait(&device));
    assert_eq!((first.token, second.token), (1, 2));
    end.set();
    assert_eq!(rig::wait(&device).token, 0);
}

#[test]
fn a_lock_that_stopped_code_holds_is_given_up() {
    let device = rig::device(1, Scheme::Reset);
    let lock = Arc::new(Mutex::new(()));
    let (holds, wanted) = (Flag::default(), Flag::default());
    let (held, says, waits) = (lock.clone(), holds.clone(), wanted.clone());
    let holder = foreign(&device, move || {
        let _guard = held.lock().unwrap();
        says.set();
        waits.wait();
    });
    let says = wanted.clone();
    let wants = foreign(&device, move || {
        says.set();
        drop(lock.lock().unwrap());
    });
    submit(&device, holder, TaskKey::best_effort(0), 0);
    holds.wait();
    submit(&device, wants, rig::real_time(0, 0), 1);
    let mut tokens = [rig::wait(&device).token, rig::wait(&device).token];
    tokens.sort();
    assert_eq!(tokens, [0, 1]);
}

#[test]
fn schemes_that_do_not_kill_wait_for_foreign_code() {
    for scheme in [Scheme::Wait, Scheme::Sequential, Scheme::Concurrent] {
        let device = rig::device(1, scheme);
        let (plan, running, end) = endless(&device);
        submit(&device, plan, TaskKey::best_effort(0), 0);
        running.wait();
        submit(&device, native(&device, 1, 1), rig::real_time(0, 0), 1);
        // Long enough for a unit that does not wait to give itself away.
        std::thread::sleep(Duration::from_millis(5));
        assert!(device.try_complete().is_none(), "{scheme}");
        end.set();
        assert_eq!((rig::wait(&device).token, rig::wait(&device).token), (0, 1), "{scheme}");
    }
}

#[test]
fn quiescing_waits_for_foreign_code_and_cancelling_for_its_end() {
    let device = rig::device(1, Scheme::Reset);
    let (plan, running, end) = endless(&device);
    let task = submit(&device, plan, TaskKey::best_effort(0), 0);
    running.wait();
    assert!(!device.quiesce(Duration::from_millis(2)), "a block runs");
    device.cancel(task);
    assert!(device.try_complete().is_none());
    let urgent = submit(&device, native(&device, 1, 1), rig::real_time(0, 0), 1);
    assert_eq!(rig::wait(&device).task, urgent, "the device takes tasks again");
    end.set();
    assert!(device.quiesce(Duration::from_secs(60)));
    // It had ended when the cancellation came to it, or was dropped: once, in any case.
    assert_eq!(device.try_complete().expect("nothing runs").task, task);
    device.resume();
}

#[test]
fn a_device_may_go_while_foreign_code_runs() {
    for urgent in [false, true] {
        let device = rig::device(2, Scheme::Reset);
        let (plan, running, end) = endless(&device);
        submit(&device, plan, TaskKey::best_effort(0), 0);
        running.wait();
        if urgent {
            submit(&device, native(&device, 1_000, 10), rig::real_time(0, 0), 1);
        }
        let ender = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(5));
            end.set();
        });
        drop(device);
        ender.join().unwrap();
    }
}

#[test]
fn a_trace_shows_the_parts_of_a_stopped_block() {
    let device = rig::device(1, Scheme::Reset);
    let (plan, running, end) = endless(&device);
    let urgent = native(&device, 1, 5);
    device.record_events(true);
    submit(&device, plan, TaskKey::best_effort(0), 0);
    running.wait();
    for token in 1..=5 {
        submit(&device, urgent, rig::real_time(0, 0), token);
        rig::wait(&device);
    }
    end.set();
    rig::wait(&device);
    let mut events = Vec::new();
    device.drain_events(&mut events);
    let own: Vec<_> = events.iter().filter(|event| event.token == 0 && event.cu.is_some()).collect();
    let (last, parts) = own.split_last().unwrap();
    assert_eq!(last.kind, EventKind::Block { stage: 0, block: 0, padding: false });
    assert!(
        parts.len() >= 5 && parts.iter().all(|event| event.kind == EventKind::Part { stage: 0, block: 0 })
    );
    assert!(own.windows(2).all(|pair| pair[0].at + pair[0].span <= pair[1].at), "parts lie apart");
}
