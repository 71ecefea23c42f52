//! Foreign code with hooks: host kernels, plan sources and wakers that block or panic where a test says so.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Wake, Waker};

use reef_engine::*;
use reef_plan::{
    Cost, Cutter, HostKernel, HostState, Kernel, KernelSpec, Place, PlanParts, Region, Restart,
    SyntheticSpec, Target, TensorSpec,
};

/// What foreign code does at some place.
pub type Hook = Arc<dyn Fn() + Send + Sync>;

/// Does nothing.
pub fn nothing() -> Hook {
    Arc::new(|| ())
}

/// Panics.
pub fn panics() -> Hook {
    Arc::new(|| panic!("planted"))
}

/// Lets through who comes while it is open; counts who came.
#[derive(Debug, Default)]
pub struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
    came: AtomicUsize,
}

/// Opens its gate when it is dropped, so that a test that fails does not hang.
pub struct GateKeeper(Arc<Gate>);

impl Deref for GateKeeper {
    type Target = Arc<Gate>;
    fn deref(&self) -> &Arc<Gate> {
        &self.0
    }
}

impl Drop for GateKeeper {
    fn drop(&mut self) {
        self.0.open();
    }
}

impl Gate {
    /// A gate that is shut.
    pub fn shut() -> GateKeeper {
        GateKeeper(Arc::default())
    }

    pub fn open(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Blocks until somebody has come.
    pub fn wait_for_one(&self) {
        while self.came.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
    }

    /// A hook that waits here.
    pub fn hook(self: &Arc<Self>) -> Hook {
        let gate = self.clone();
        Arc::new(move || {
            gate.came.fetch_add(1, Ordering::SeqCst);
            let open = gate.open.lock().unwrap_or_else(PoisonError::into_inner);
            drop(gate.changed.wait_while(open, |open| !*open));
        })
    }
}

/// A host kernel that copies its input, and what it does besides: when its state is made, when it runs, when
/// its state is dropped.
#[derive(Clone)]
pub struct Foreign {
    pub make: Hook,
    pub run: Hook,
    pub drop: Hook,
}

impl Foreign {
    pub fn new() -> Foreign {
        Foreign { make: nothing(), run: nothing(), drop: nothing() }
    }

    /// A plan of this kernel alone, `bytes` of `x` to `y`.
    pub fn plan(&self, target: Target, bytes: usize) -> Arc<Plan> {
        let x = Region::dense(Place::Input(0), 0, bytes);
        self.plan_of(target, bytes, vec![], x)
    }

    /// A plan of this kernel behind a synthetic one.
    pub fn plan_behind(&self, target: Target, bytes: usize) -> Arc<Plan> {
        let between = Region::dense(Place::Arena, 0, bytes);
        let spec = SyntheticSpec { seed: 1, bytes, tile_bytes: 64, polls: 1, poll_ns: 100, meter: None };
        let kernel = Kernel {
            name: "first".into(),
            spec: KernelSpec::Synthetic(spec),
            reads: vec![Region::dense(Place::Input(0), 0, bytes)],
            writes: vec![between],
            restart: Restart::Safe,
            cost: Cost::default(),
        };
        self.plan_of(target, bytes, vec![vec![kernel]], between)
    }

    fn plan_of(&self, target: Target, bytes: usize, before: Vec<Vec<Kernel>>, x: Region) -> Arc<Plan> {
        let spec = [TensorSpec { dtype: DType::U8, shape: Shape::from([bytes]) }];
        let kernel = Kernel {
            name: "host".into(),
            spec: KernelSpec::Host(0),
            reads: vec![x],
            writes: vec![Region::dense(Place::Output(0), 0, bytes)],
            restart: Restart::Never,
            cost: Cost::default(),
        };
        let io = |name: &str| IoSpec { name: name.into(), dtype: DType::U8, shape: Shape::from([bytes]) };
        let parts = PlanParts {
            name: format!("host [{bytes}]"),
            target,
            inputs: vec![io("x")],
            outputs: vec![io("y")],
            weights: vec![],
            store: Arc::default(),
            host_kernels: vec![Arc::new(Host { hooks: self.clone(), spec })],
            stages: before.into_iter().chain([vec![kernel]]).collect(),
            arena_bytes: bytes,
        };
        Arc::new(Plan::new(parts).unwrap())
    }
}

struct Host {
    hooks: Foreign,
    spec: [TensorSpec; 1],
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

impl HostKernel for Host {
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
        (self.hooks.make)();
        Ok(Box::new(State(self.hooks.clone())))
    }
}

struct State(Foreign);

impl HostState for State {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), HostFault> {
        (self.0.run)();
        outputs[0].copy_from_slice(inputs[0]);
        Ok(())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        (self.0.drop)();
    }
}

type Compile = Box<dyn Fn(usize, &dyn Cutter) -> Result<Arc<Plan>, String> + Send + Sync>;

/// A model of any length whose plans a closure makes from the number of bytes.
pub struct Scripted {
    io: [Vec<TensorInfo>; 2],
    compile: Compile,
}

impl Scripted {
    pub fn new(
        compile: impl Fn(usize, &dyn Cutter) -> Result<Arc<Plan>, String> + Send + Sync + 'static,
    ) -> Arc<Scripted> {
        let info = |name: &str| {
            vec![TensorInfo { name: name.into(), dtype: DType::U8, dims: vec![-1], texts: false }]
        };
        Arc::new(Scripted { io: [info("x"), info("y")], compile: Box::new(compile) })
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl PlanSource for Scripted {
    fn inputs(&self) -> &[TensorInfo] {
        &self.io[0]
    }
    fn outputs(&self) -> &[TensorInfo] {
        &self.io[1]
    }
    fn compile(&self, shapes: &[Shape], cutter: &dyn Cutter) -> Result<Arc<Plan>, String> {
        (self.compile)(shapes[0][0], cutter)
    }
}

/// A waker that runs a hook.
pub fn waker(hook: Hook) -> Waker {
    struct Call(Hook);
    impl Wake for Call {
        fn wake(self: Arc<Self>) {
            (self.0)();
        }
    }
    Waker::from(Arc::new(Call(hook)))
}
