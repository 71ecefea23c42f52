//! A compute unit neither allocates nor frees while companions of its are stopped, however tasks end: it
//! could wait for a lock of the allocator that a stopped companion holds, and nobody would let that go on.

mod rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use reef_base::TaskKey;
use reef_cpu::CpuDevice;
use reef_device::{Device, Io, LoadedPlan, Outcome, Scheme};
use reef_graph::{DType, Shape};
use reef_plan::{
    Cost, GatherSpec, HostFault, HostKernel, HostState, IoSpec, Isa, Kernel, KernelSpec, Place, Plan,
    PlanParts, Region, Restart, Target, TensorSpec,
};

/// Counts what compute units ask for.
struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static BY_UNITS: AtomicU64 = AtomicU64::new(0);
static BY_OTHERS: AtomicU64 = AtomicU64::new(0);

fn count() {
    if COUNTS.load(Ordering::Relaxed) {
        let mut name = [0u8; 16];
        // SAFETY: the system writes a name of at most 16 bytes.
        #[allow(unsafe_code)]
        unsafe {
            libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr());
        }
        let unit = name.starts_with(b"reef-cu") && !name.windows(5).any(|part| part == b"-host");
        if unit { &BY_UNITS } else { &BY_OTHERS }.fetch_add(1, Ordering::Relaxed);
    }
}

#[allow(unsafe_code)]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a host kernel does.
#[derive(Clone, Debug)]
enum Does {
    Waits(Arc<AtomicBool>),
    Fails,
    Panics,
}

#[derive(Clone, Debug)]
struct Host(Does, [TensorSpec; 1]);

impl HostKernel for Host {
    fn name(&self) -> &str {
        "host"
    }
    fn inputs(&self) -> &[TensorSpec] {
        &[]
    }
    fn outputs(&self) -> &[TensorSpec] {
        &self.1
    }
    fn new_state(&self) -> Result<Box<dyn HostState>, HostFault> {
        Ok(Box::new(self.clone()))
    }
}

impl HostState for Host {
    fn run(&mut self, _: &[&[u8]], _: &mut [&mut [u8]]) -> Result<(), HostFault> {
        match &self.0 {
            Does::Waits(end) => {
                while !end.load(Ordering::Acquire) {
                    drop(std::hint::black_box(vec![0u8; 100]));
                }
                Ok(())
            }
            Does::Fails => Err(HostFault::of_input("host", "planted")),
            Does::Panics => panic!("planted"),
        }
    }
}

fn host_kernel(index: usize) -> Kernel {
    Kernel {
        name: "host".into(),
        spec: KernelSpec::Host(index),
        reads: vec![],
        writes: vec![Region::dense(Place::Output(index as u16), 0, 64)],
        restart: Restart::Never,
        cost: Cost::default(),
    }
}

/// A plan of host kernels side by side.
fn hosts(device: &CpuDevice, does: &[Does]) -> LoadedPlan {
    let spec = TensorSpec { dtype: DType::U8, shape: Shape::from([64]) };
    let output = |at: usize| IoSpec { name: format!("y{at}"), dtype: DType::U8, shape: Shape::from([64]) };
    let kernel = |does: &Does| Arc::new(Host(does.clone(), [spec.clone()])) as Arc<dyn HostKernel>;
    load(
        device,
        PlanParts {
            name: "host".into(),
            target: Target::cpu(Isa::Portable, 1),
            inputs: vec![],
            outputs: (0..does.len()).map(output).collect(),
            weights: vec![],
            store: Arc::default(),
            host_kernels: does.iter().map(kernel).collect(),
            stages: vec![(0..does.len()).map(host_kernel).collect()],
            arena_bytes: 0,
        },
    )
}

/// Two rows of five, picked by the second input.
fn gather(device: &CpuDevice) -> LoadedPlan {
    let spec = GatherSpec {
        dtype: DType::F32,
        index_dtype: DType::I64,
        outer: 1,
        extent: 5,
        inner: 4,
        picks: 2,
        tile: 2,
    };
    let kernel = Kernel {
        name: "rows".into(),
        spec: KernelSpec::Gather(spec),
        reads: vec![Region::dense(Place::Input(0), 0, 80), Region::dense(Place::Input(1), 0, 16)],
        writes: vec![Region::dense(Place::Output(0), 0, 32)],
        restart: Restart::Safe,
        cost: Cost::default(),
    };
    let io = |name: &str, dtype, dims: &[usize]| IoSpec { name: name.into(), dtype, shape: Shape::new(dims) };
    load(
        device,
        PlanParts {
            name: "rows".into(),
            target: Target::cpu(Isa::Portable, 1),
            inputs: vec![io("data", DType::F32, &[5, 4]), io("indices", DType::I64, &[2])],
            outputs: vec![io("y", DType::F32, &[2, 4])],
            weights: vec![],
            store: Arc::default(),
            host_kernels: vec![],
            stages: vec![vec![kernel]],
            arena_bytes: 0,
        },
    )
}

fn load(device: &CpuDevice, parts: PlanParts) -> LoadedPlan {
    device.load(Arc::new(Plan::new(parts).expect("the plan is valid"))).expect("the plan loads")
}

fn buffers(device: &CpuDevice, plan: LoadedPlan) -> Io {
    device.alloc_io(plan).expect("the plan is loaded")
}

#[test]
fn units_ask_for_no_memory_beside_stopped_companions() {
    let device = rig::device(2, Scheme::Reset);
    let end = Arc::new(AtomicBool::new(false));
    let endless = hosts(&device, &[Does::Waits(end.clone())]);
    let fails = hosts(&device, &[Does::Fails, Does::Fails]);
    let panics = hosts(&device, &[Does::Panics]);
    let rows = gather(&device);
    COUNTS.store(true, Ordering::SeqCst);
    for token in 0..2 {
        device.submit(endless, TaskKey::best_effort(token), buffers(&device, endless), token).unwrap();
    }
    // A task of one more rank every time: threads start for it, and not on the units.
    for level in (0..8).rev() {
        for (token, plan) in [(10, fails), (11, panics), (12, rows), (13, rows)] {
            let mut io = buffers(&device, plan);
            if token == 13 {
                io.inputs[1].as_mut_slice()[1] = 1;
            }
            device.submit(plan, rig::real_time(level, token), io, token).unwrap();
        }
        for _ in 0..4 {
            let done = rig::wait(&device);
            assert_eq!(matches!(done.outcome, Outcome::Failed(_)), done.token != 12, "{done:?}");
            if let (13, Outcome::Failed(fault)) = (done.token, done.outcome) {
                assert_eq!(fault.reason, "Gather: indices[0] is 256, allowed are -5 to 4");
            }
        }
    }
    end.store(true, Ordering::Release);
    for _ in 0..2 {
        assert_eq!(rig::wait(&device).outcome, Outcome::Done);
    }
    COUNTS.store(false, Ordering::SeqCst);
    assert_eq!(BY_UNITS.load(Ordering::SeqCst), 0);
    assert!(BY_OTHERS.load(Ordering::SeqCst) > 0, "the counter counts");
}
