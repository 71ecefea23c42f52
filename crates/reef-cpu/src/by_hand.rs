//! A device without threads, whose units tests drive by hand, and plans whose blocks are closures: what
//! happens when is up to the test, and no clock decides anything.

use std::sync::{Arc, Mutex};

use reef_base::{Level, Nanos, TaskId, TaskKey};
use reef_device::policy::Running;
use reef_device::{Completion, Device, LoadedPlan, Padding, Scheme};
use reef_graph::{DType, Shape};
use reef_plan::{
    Cost, HostFault, HostKernel, HostState, IoSpec, Isa, Kernel, KernelSpec, Place, Plan, PlanParts, Region,
    Restart, SyntheticSpec, Target, TensorSpec, WeightStore,
};

use crate::board::{Board, NONE};
use crate::context::{BlockContext, BlockEnd};
use crate::device::CpuDevice;
use crate::executor::Executor;
use crate::kernels::BlockKernel;
use crate::options::CpuOptions;
use crate::pick::Pick;
use crate::plans::Loaded;
use crate::slot::parts_of;
use crate::sync::Ordering;
pub(crate) use crate::sync::now;
use crate::worker::Worker;

/// Longer than any test.
pub(crate) const HOUR: Nanos = Nanos(3_600_000_000_000);

/// What a block does: gets its context and its stage.
pub(crate) type Script = Arc<dyn Fn(&BlockContext<'_>, usize) -> BlockEnd + Send + Sync>;

struct Scripted(Script, usize);

#[allow(unsafe_code)]
impl BlockKernel for Scripted {
    unsafe fn run(&self, context: &BlockContext<'_>, _block: u32) -> BlockEnd {
        (self.0)(context, self.1)
    }
}

/// A device whose units do nothing by themselves.
pub(crate) struct Hands {
    pub(crate) device: CpuDevice,
    pub(crate) executor: Arc<Executor>,
    pub(crate) workers: Vec<Worker>,
}

impl Hands {
    pub(crate) fn new(cus: usize, scheme: Scheme, padding: Padding) -> Hands {
        Hands::with(&CpuOptions { cus: Some(cus), scheme, padding, ..CpuOptions::default() })
    }

    /// Few slots, and nothing asked of the machine: for models, which make one for every interleaving.
    #[cfg(loom)]
    pub(crate) fn small(slots: usize, cus: usize, scheme: Scheme) -> Hands {
        Hands::with(&CpuOptions {
            cus: Some(cus),
            cores: Some((0..cus).collect()),
            pin: false,
            slots,
            slots_real_time: 0,
            scheme,
            spin: std::time::Duration::ZERO,
            events: 1,
            memory_bytes: Some(1 << 20),
            ..CpuOptions::default()
        })
    }

    fn with(options: &CpuOptions) -> Hands {
        let (device, producers) = CpuDevice::assemble(options).expect("the options are fine");
        let executor = device.executor.clone();
        let units = producers.into_iter().enumerate();
        let workers = units.map(|(cu, events)| Worker::new(executor.clone(), cu, events)).collect();
        Hands { device, executor, workers }
    }

    /// Under `reset`, with the default padding.
    pub(crate) fn reset(cus: usize) -> Hands {
        Hands::new(cus, Scheme::Reset, Padding::default())
    }

    /// A plan with so many blocks in each stage that do nothing.
    pub(crate) fn load(&self, stages: &[u32]) -> LoadedPlan {
        self.load_scripted(stages, Restart::Safe, Arc::new(|_, _| BlockEnd::Done))
    }

    pub(crate) fn load_scripted(&self, stages: &[u32], restart: Restart, script: Script) -> LoadedPlan {
        insert(&self.executor, stages, restart, script)
    }

    /// Submits a task; its slot and id.
    pub(crate) fn submit(&self, plan: LoadedPlan, key: TaskKey, token: u64) -> (usize, TaskId) {
        let io = self.device.alloc_io(plan).expect("the plan is loaded");
        let task = self.device.submit(plan, key, io, token).expect("the board has room");
        (parts_of(task).0, task)
    }

    /// Unit `cu` picks a block, and is seen to run it until `end`.
    pub(crate) fn occupy(&self, cu: usize, end: Nanos) -> Pick {
        let pick = self.pick(cu).expect("there is a block");
        let rank = self.executor.rank(pick.claim.slot);
        self.executor.cus[cu].start(Running { slot: pick.claim.slot, rank, end }, Some(now()));
        pick
    }

    pub(crate) fn pick(&self, cu: usize) -> Option<Pick> {
        self.executor.pick(cu, &mut 0, NONE)
    }

    /// Says what a block of the open stage in `slot` takes, and whether it can be killed.
    pub(crate) fn estimate(&self, slot: usize, time: Nanos, killable: bool) {
        let bits = time.0 | if killable { Board::KILLABLE } else { 0 };
        self.executor.board.slots[slot].estimate.store(bits, Ordering::Relaxed);
    }

    pub(crate) fn completion(&self) -> Completion {
        self.device.try_complete().expect("a task is over")
    }

    /// Unit `cu` works until it finds nothing.
    pub(crate) fn work(&mut self, cu: usize) {
        while self.workers[cu].work_once() {}
    }
}

impl Worker {
    /// Runs the next block, as a unit behind an open gate does; false if there is none.
    pub(crate) fn work_once(&mut self) -> bool {
        let next = self.next();
        let found = next.is_some();
        next.into_iter().for_each(|pick| self.step(pick));
        found
    }
}

/// Loads a plan whose blocks run `script`.
pub(crate) fn insert(executor: &Executor, stages: &[u32], restart: Restart, script: Script) -> LoadedPlan {
    insert_kernels(executor, stages, restart, |stage| Box::new(Scripted(script.clone(), stage)))
}

/// Loads a plan with the kernel that `make` makes for each stage.
pub(crate) fn insert_kernels(
    executor: &Executor,
    stages: &[u32],
    restart: Restart,
    make: impl Fn(usize) -> Box<dyn BlockKernel>,
) -> LoadedPlan {
    let plan = Arc::new(plan(stages, restart));
    let mut loaded = Loaded::new(plan, executor.slots.len(), executor.cus.len()).expect("it is ready");
    for (stage, prepared) in loaded.kernels.iter_mut().enumerate() {
        prepared.kernel = make(stage);
    }
    executor.plans.insert(Box::new(loaded)).ok().expect("the table has room")
}

/// What happened, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u64>>>);

impl Log {
    pub(crate) fn add(&self, entry: u64) {
        self.0.lock().unwrap().push(entry);
    }

    pub(crate) fn take(&self) -> Vec<u64> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// A script that adds `entry` for every block.
    pub(crate) fn script(&self, entry: u64) -> Script {
        let log = self.clone();
        Arc::new(move |_, _| {
            log.add(entry);
            BlockEnd::Done
        })
    }
}

pub(crate) fn best_effort() -> TaskKey {
    TaskKey::best_effort(1)
}

pub(crate) fn real_time(level: u8) -> TaskKey {
    TaskKey::real_time(Level::new(level).unwrap(), None, Nanos(1))
}

/// A host kernel that runs a closure.
struct Foreign(Arc<dyn Fn() + Send + Sync>, TensorSpec);

impl std::fmt::Debug for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Foreign")
    }
}

impl HostKernel for Foreign {
    fn name(&self) -> &str {
        "foreign"
    }
    fn inputs(&self) -> &[TensorSpec] {
        &[]
    }
    fn outputs(&self) -> &[TensorSpec] {
        std::slice::from_ref(&self.1)
    }
    fn new_state(&self) -> Result<Box<dyn HostState>, HostFault> {
        Ok(Box::new(Foreign(self.0.clone(), self.1.clone())))
    }
}

impl HostState for Foreign {
    fn run(&mut self, _inputs: &[&[u8]], _outputs: &mut [&mut [u8]]) -> Result<(), HostFault> {
        (self.0)();
        Ok(())
    }
}

/// A plan of one host kernel.
pub(crate) fn foreign_plan(body: impl Fn() + Send + Sync + 'static) -> Arc<Plan> {
    let spec = TensorSpec { dtype: DType::U8, shape: Shape::from([TILE]) };
    let kernel = Kernel {
        name: "host".into(),
        spec: KernelSpec::Host(0),
        reads: vec![],
        writes: vec![Region::dense(Place::Output(0), 0, TILE)],
        restart: Restart::Never,
        cost: Cost::default(),
    };
    let parts = parts(TILE, vec![vec![kernel]]);
    let host: Arc<dyn HostKernel> = Arc::new(Foreign(Arc::new(body), spec));
    Arc::new(Plan::new(PlanParts { host_kernels: vec![host], ..parts }).expect("the plan is valid"))
}

/// Bytes that a block writes.
const TILE: usize = 16;

/// Kernels that read nothing and write the output.
fn plan(stages: &[u32], restart: Restart) -> Plan {
    let kernel = |(stage, &blocks): (usize, &u32)| {
        let bytes = blocks as usize * TILE;
        let spec =
            SyntheticSpec { seed: stage as u64, bytes, tile_bytes: TILE, polls: 0, poll_ns: 0, meter: None };
        vec![Kernel {
            name: format!("s{stage}"),
            spec: KernelSpec::Synthetic(spec),
            reads: vec![],
            writes: vec![Region::dense(Place::Output(0), 0, bytes)],
            restart,
            cost: Cost::default(),
        }]
    };
    let bytes = *stages.iter().max().expect("there is a stage") as usize * TILE;
    let stages = stages.iter().enumerate().map(kernel).collect();
    Plan::new(parts(bytes, stages)).expect("the plan is valid")
}

fn parts(bytes: usize, stages: Vec<Vec<Kernel>>) -> PlanParts {
    PlanParts {
        name: "by hand".into(),
        target: Target::cpu(Isa::Portable, 1),
        inputs: vec![],
        outputs: vec![IoSpec { name: "y".into(), dtype: DType::U8, shape: Shape::from([bytes]) }],
        weights: vec![],
        store: Arc::new(WeightStore::new()),
        host_kernels: vec![],
        stages,
        arena_bytes: 0,
    }
}
