//! The device of the contract: plans loaded onto a GPU, tasks queued on streams.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use reef_base::limits::{IDLE_LARGE_BUFFERS_MAX, LARGE_BUFFERS_BYTES};
use reef_base::{AlignedBytes, Buffer, Domain, Memory, MonotonicClock, Nanos, TaskId, TaskKey};
use reef_device::{
    Admission, Budget, Capabilities, Completion, Device, DeviceCounters, DeviceError, Event, Io, Kill,
    LoadedPlan, MemoryUse, Padding, RejectReason, Rejected, Scheme, Wake,
};
use reef_plan::{Cutter, DeviceKind, IoSpec, Isa, Plan, Precision, Target};

use crate::board::{Board, OUTSTANDING_MAX, SLOTS, SLOTS_REAL_TIME, Submission};
use crate::code::Code;
use crate::cut;
use crate::cut::CudaCutter;
use crate::driver::{Context, Driver, Properties};
use crate::error::CudaError;
use crate::feeder::{Feeder, Shared, SlotMemory};
use crate::graphs::GraphMaker;
use crate::host_step::{HostStep, States};
use crate::hosting::{Hosts, Told};
use crate::loaded::{DeviceWeights, Layout, Loaded, Loader, unsupported};
use crate::memory::{Claim, DevicePool, MemoryError, PinnedPart, PinnedPool};
use crate::upload::Uploader;

/// The least architecture that the kernels run on.
const ARCH_MIN: u32 = 80;
/// Of the device's memory, what reef takes at most unless it is told.
const MEMORY_SHARE: (u64, u64) = (9, 10);

/// What is multiplied unless a model says otherwise: as other frameworks do it on these GPUs.
const PRECISION_DEFAULT: Precision = Precision::Tf32;

/// How to make a device of a GPU.
#[derive(Clone, Debug)]
pub struct CudaOptions {
    /// The GPU's number, among those that the driver sees.
    pub number: usize,
    /// The scheme at the start.
    pub scheme: Scheme,
    /// Which blocks may pad a more urgent stage. Blocks that run are not killed here,
    /// so it is the rule `fitting` whatever this says.
    pub padding: Padding,
    /// Bytes of the GPU's memory that may be used, which are taken at the start; `None` for nine tenths of
    /// it. If fewer are free, those.
    pub memory_bytes: Option<u64>,
    /// Has the driver allocate each part of the memory on its own, in place of one pool taken at the start:
    /// for tests and sanitizers, which then see what goes past the end of a part. Loading and unloading may
    /// wait for the device then.
    pub separate_allocations: bool,
    /// Launches of a best-effort task that are queued at a time, 1 to 32; `None` for as many as the device
    /// needs to go on, by what is known of the kernels' times. More fill gaps between short kernels, and a
    /// more urgent task waits for more of them where nothing is evicted.
    pub outstanding: Option<usize>,
}

impl Default for CudaOptions {
    fn default() -> Self {
        CudaOptions {
            number: 0,
            scheme: Scheme::Reset,
            padding: Padding::default(),
            memory_bytes: None,
            separate_allocations: false,
            outstanding: None,
        }
    }
}

/// A GPU.
pub struct CudaDevice {
    capabilities: Capabilities,
    shared: Arc<Shared>,
    /// Held for a moment: who loads has [`CudaDevice::loading`].
    plans: Mutex<Vec<Option<Arc<Loaded>>>>,
    loading: Mutex<Loading>,
    weights: DeviceWeights,
    code: Arc<Code>,
    graphs: GraphMaker,
    budget: Arc<Budget>,
    pool: Arc<DevicePool>,
    pinned: Arc<PinnedPool>,
    thread: Option<JoinHandle<()>>,
    /// Its threads' names begin with it.
    name: String,
}

/// What one load at a time works with.
struct Loading {
    uploader: Uploader,
    /// Memory of the tasks of one slot, and its place in the books.
    slot_bytes: usize,
    slots: Option<Admission>,
    /// Pinned memory for the host steps of one slot, and the claim for all slots.
    staging_bytes: usize,
    staging: Option<Claim>,
}

/// What a plan takes beside its weights and descriptors.
struct Needs {
    admission: Admission,
    claim: Claim,
    slot_bytes: usize,
    /// The place in the books of larger slots, if they grow.
    slots: Option<Admission>,
    staging_bytes: usize,
    /// The claim of more pinned memory for host steps, if slots need it.
    staging: Option<Claim>,
    /// For slots that grow.
    memory: Vec<SlotMemory>,
}

impl fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaDevice").field("capabilities", &self.capabilities).finish_non_exhaustive()
    }
}

/// Memory of a request that the GPU reads and writes by itself.
struct Pinned(PinnedPart);

impl Memory for Pinned {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn bytes(&self) -> Option<&[u8]> {
        Some(self.0.as_slice())
    }

    fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        Some(self.0.as_mut_slice())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl CudaDevice {
    /// Starts a device: loads driver and kernels, takes streams and pinned memory.
    pub fn start(options: CudaOptions) -> Result<CudaDevice, CudaError> {
        let driver = Driver::load()?;
        let properties = Properties::of(driver, options.number)?;
        if properties.arch < ARCH_MIN {
            return Err(CudaError::OldGpu(properties.arch));
        }
        if let Some(mode) = properties.refused_mode() {
            return Err(CudaError::ComputeMode(mode));
        }
        let context = Context::of(options.number)?;
        let code = Arc::new(Code::load(&context, &properties)?);
        let limit = options.memory_bytes.unwrap_or(properties.memory_bytes / MEMORY_SHARE.1 * MEMORY_SHARE.0);
        let pool = DevicePool::take(&context, limit, options.separate_allocations)?;
        let pinned = PinnedPool::new(&context)?;
        let uploader = Uploader::new(&context)?;
        let mut board = Board::new(options.scheme, options.padding, properties.sms);
        board.outstanding = options.outstanding.map(|most| most.clamp(1, OUTSTANDING_MAX));
        let shared = Arc::new(Shared::new(context, board));
        let feeder = Feeder::new(shared.clone(), code.clone())?;
        let graphs = GraphMaker::new(&shared.context, feeder.places(), code.graph_end)?;
        let name = format!("reef-cuda{}", options.number);
        let builder = std::thread::Builder::new().name(name.clone());
        let thread =
            builder.spawn(move || feeder.run()).map_err(|error| CudaError::Thread(error.to_string()))?;
        Ok(CudaDevice {
            capabilities: capabilities(&properties),
            shared,
            plans: Mutex::default(),
            loading: Mutex::new(Loading {
                uploader,
                slot_bytes: 0,
                slots: None,
                staging_bytes: 0,
                staging: None,
            }),
            weights: DeviceWeights::default(),
            code,
            graphs,
            budget: Budget::new(Domain::Device, Some(pool.bytes())),
            pool,
            pinned,
            thread: Some(thread),
            name,
        })
    }

    fn plans(&self) -> MutexGuard<'_, Vec<Option<Arc<Loaded>>>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, plan: LoadedPlan) -> Option<Arc<Loaded>> {
        self.plans().get(plan.index())?.clone()
    }

    fn pinned(&self, specs: &[IoSpec]) -> Result<Vec<Buffer>, CudaError> {
        let buffer = |spec: &IoSpec| {
            Ok(Buffer::over(Domain::Pinned, Box::new(Pinned(self.pinned.zeroed(spec.bytes())?))))
        };
        specs.iter().map(buffer).collect()
    }

    /// Starts the threads for host steps, unless they are there. One load at a time does so.
    fn start_hosts(&self) -> Result<(), CudaError> {
        // Weak: the threads are the shared thing's own.
        let shared = Arc::downgrade(&self.shared);
        let told = move |slot, ended| {
            if let Some(shared) = shared.upgrade() {
                shared.host_ended(slot, ended);
            }
        };
        if self.shared.hosts.get().is_none() {
            let told: Arc<Told> = Arc::new(told);
            let hosts = Hosts::start(&self.name, SLOTS, &told)
                .map_err(|error| CudaError::Thread(error.to_string()))?;
            let _ = self.shared.hosts.set(hosts);
        }
        Ok(())
    }

    /// Makes graphs of a plan if the scheme launches them.
    fn graphs_for(&self, scheme: Scheme, loaded: &Loaded) -> Result<(), CudaError> {
        if scheme == Scheme::Concurrent { loaded.make_graphs(&self.graphs) } else { Ok(()) }
    }

    /// Enters a plan, and what more its tasks need, into the books, and takes memory for the tasks.
    fn take(
        &self,
        loading: &Loading,
        plan: &Plan,
        packed: &[Arc<AlignedBytes>],
    ) -> Result<Needs, DeviceError> {
        let slot_bytes = Layout::of(plan).bytes.max(loading.slot_bytes);
        let grows = (slot_bytes > loading.slot_bytes).then_some(slot_bytes as u64 * SLOTS as u64);
        let refused = |over: reef_device::OverBudget| DeviceError::OutOfMemory {
            plan: plan.name().into(),
            needed: over.needed,
            available: over.available,
        };
        let admission = self.budget.admit(packed, 0, grows.unwrap_or(0)).map_err(refused)?;
        // Old slots are there until the last task that has one is over.
        let slots = grows.map(|bytes| self.budget.admit(&[], bytes, 0).map_err(refused)).transpose()?;
        let staging_bytes = HostStep::bytes_for(plan).max(loading.staging_bytes);
        let stages = staging_bytes > loading.staging_bytes;
        let none = |error| no_memory(plan, error);
        let claim = |bytes: usize| {
            self.pinned.claim(bytes).map_err(|error| match error.is_out_of_memory() {
                true => DeviceError::OutOfMemory {
                    plan: plan.name().into(),
                    needed: bytes as u64,
                    available: self.pinned.unclaimed() as u64,
                },
                false => error.into(),
            })
        };
        let staging = stages.then(|| claim(staging_bytes * SLOTS)).transpose()?;
        let slot = |_| {
            let device = grows.map(|_| self.pool.part(slot_bytes)).transpose()?;
            let staging = stages.then(|| self.pinned.zeroed(staging_bytes)).transpose()?;
            Ok(SlotMemory { device, staging: staging.map(|bytes| Arc::new(Mutex::new(bytes))) })
        };
        let memory = (0..SLOTS).map(slot).collect::<Result<_, MemoryError>>().map_err(none)?;
        let claim = claim(pinned_bytes(plan))?;
        Ok(Needs { admission, claim, slot_bytes, slots, staging_bytes, staging, memory })
    }
}

/// Pinned memory that the requests of a plan are thought to need at a time: those of a full board, of large
/// ones two.
fn pinned_bytes(plan: &Plan) -> usize {
    let one = Io::bytes_for(plan) as usize;
    let many = if one > LARGE_BUFFERS_BYTES { IDLE_LARGE_BUFFERS_MAX } else { SLOTS };
    one.saturating_mul(many)
}

/// There is no memory for a plan.
fn no_memory(plan: &Plan, error: MemoryError) -> DeviceError {
    let plan = plan.name().to_string();
    match error {
        MemoryError::NoRoom(room) if room.free >= room.needed => {
            DeviceError::Fragmented { plan, needed: room.needed, free: room.free, largest: room.largest }
        }
        MemoryError::NoRoom(room) => {
            let needed = room.all - room.free + room.needed;
            DeviceError::OutOfMemory { plan, needed, available: room.all }
        }
        // Pinned memory, or a part that the driver was to allocate.
        MemoryError::Driver(error) => error.into(),
    }
}

fn capabilities(properties: &Properties) -> Capabilities {
    let Properties { name, arch, sms, .. } = properties;
    let isa = Isa::Sm(u16::try_from(*arch).unwrap_or(u16::MAX));
    Capabilities {
        name: format!("{name}, sm_{arch}, {sms} SMs"),
        target: Target { device: DeviceKind::Cuda, isa, cus: *sms, window: 0, precision: Precision::F32 },
        cus: *sms,
        cores: Vec::new(),
        kill: Kill::None,
        poll_period: Nanos::ZERO,
        never_max: Nanos::ZERO,
        propagation: cut::PROPAGATION,
        slots: SLOTS,
        slots_real_time: SLOTS_REAL_TIME,
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // Who is told of the last steps is there until then.
        if let Some(hosts) = self.shared.hosts.get() {
            hosts.stop();
        }
    }
}

impl Device for CudaDevice {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn cutter(&self, precision: Option<Precision>) -> Arc<dyn Cutter> {
        let precision = precision.unwrap_or(PRECISION_DEFAULT);
        Arc::new(CudaCutter::new(Target { precision, ..self.capabilities.target }))
    }

    fn scheme(&self) -> Scheme {
        self.shared.board().scheme
    }

    /// Makes graphs of what is loaded, where the scheme needs them: that may wait for what the device runs. A
    /// plan that there is no memory for graphs of goes on kernel by kernel.
    fn set_scheme(&self, scheme: Scheme) {
        let make_graphs = || {
            let loaded: Vec<Arc<Loaded>> = self.plans().iter().flatten().cloned().collect();
            for error in loaded.iter().filter_map(|loaded| self.graphs_for(scheme, loaded).err()) {
                if !error.is_out_of_memory() {
                    self.poison(&format!("the GPU failed: {error}"));
                }
            }
        };
        make_graphs();
        self.shared.board().scheme = scheme;
        // Again: plans that were loaded meanwhile.
        make_graphs();
        self.shared.call();
    }

    fn load(&self, plan: Arc<Plan>) -> Result<LoadedPlan, DeviceError> {
        let target = self.capabilities.target;
        if plan.target().device() != target {
            let (plan_target, plan) = (plan.target(), plan.name().into());
            return Err(DeviceError::WrongTarget { plan, plan_target, device_target: target });
        }
        if let Some(reason) = self.shared.fault() {
            return Err(DeviceError::Poisoned(reason));
        }
        if let Some(refused) = unsupported(&plan) {
            return Err(refused);
        }
        self.shared.collect();
        let weight = |weight: &reef_plan::WeightRef| {
            plan.store().get(weight.key, weight.packing).expect("the validator found it packed")
        };
        let packed: Vec<Arc<AlignedBytes>> = plan.weights().iter().map(weight).collect();
        let states = States::of(&plan, SLOTS)?;
        let mut loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if HostStep::bytes_for(&plan) > 0 {
            self.start_hosts()?;
        }
        let Needs { admission, claim, slot_bytes, slots, staging_bytes, staging, memory } =
            self.take(&loading, &plan, &packed)?;
        let (pool, uploader) = (&self.pool, &mut loading.uploader);
        let mut loader = Loader { pool, uploader, weights: &self.weights, code: &self.code };
        let loaded = loader.load(plan.clone(), &packed, states, (admission, claim));
        let loaded = loaded.map_err(|error| no_memory(&plan, error))?;
        // The slots have it when they have tasks of this plan.
        let bases = memory.iter().enumerate();
        let bases = bases.filter_map(|(slot, memory)| Some((slot, memory.device.as_ref()?.address())));
        self.graphs.moves(bases);
        let made = self.graphs_for(self.scheme(), &loaded);
        made.map_err(|error| no_memory(&plan, error.into()))?;
        // From here on nothing fails: slots grow with the plan that needs it.
        self.shared.offer(memory);
        loading.slots = slots.or(loading.slots.take());
        loading.staging = staging.or(loading.staging.take());
        (loading.slot_bytes, loading.staging_bytes) = (slot_bytes, staging_bytes);
        let loaded = Arc::new(loaded);
        let mut plans = self.plans();
        plans.push(Some(loaded.clone()));
        let number = LoadedPlan(plans.len() as u32 - 1);
        drop(plans);
        // Who has changed the scheme meanwhile did not see this plan.
        if let Err(error) = self.graphs_for(self.scheme(), &loaded) {
            self.unload(number);
            return Err(no_memory(&plan, error.into()));
        }
        Ok(number)
    }

    fn unload(&self, plan: LoadedPlan) {
        let before = self.plans().get_mut(plan.index()).and_then(Option::take);
        drop(before);
        self.shared.collect();
    }

    fn alloc_io(&self, plan: LoadedPlan) -> Option<Io> {
        let plan = self.plan(plan)?;
        let pinned = |specs| {
            let failed = |error: CudaError| {
                if !error.is_out_of_memory() {
                    self.poison(&format!("the GPU failed: {error}"));
                }
            };
            self.pinned(specs).map_err(failed).ok()
        };
        Some(Io { inputs: pinned(plan.plan.inputs())?, outputs: pinned(plan.plan.outputs())? })
    }

    fn submit(&self, plan: LoadedPlan, key: TaskKey, io: Io, token: u64) -> Result<TaskId, Rejected> {
        let loaded = self.plan(plan);
        let mut board = self.shared.board();
        let why = match (board.refusal(key), loaded) {
            (Some(why), _) => why,
            (None, None) => RejectReason::UnknownPlan,
            (None, Some(loaded)) if !io.fits(&loaded.plan) => RejectReason::WrongBuffers,
            (None, Some(loaded)) => {
                let steps = loaded.steps.clone();
                let submission = Submission { plan, payload: loaded, steps, key, io, token };
                let task = board.submit(submission, MonotonicClock::read());
                drop(board);
                self.shared.call();
                return Ok(task);
            }
        };
        Err(Rejected { io, why })
    }

    fn cancel(&self, task: TaskId) {
        self.shared.board().cancel(task, MonotonicClock::read());
        self.shared.call();
        self.shared.wake();
    }

    fn try_complete(&self) -> Option<Completion> {
        self.shared.board().take_completion()
    }

    fn set_waker(&self, waker: Arc<dyn Wake>) {
        self.shared.set_waker(waker);
    }

    fn quiesce(&self, timeout: Duration) -> bool {
        let before = std::mem::replace(&mut self.shared.board().paused, true);
        let settled = self.shared.settle(timeout);
        if !settled && !before {
            self.resume();
        }
        settled
    }

    fn resume(&self) {
        self.shared.board().paused = false;
        self.shared.call();
        self.shared.wake();
    }

    fn poison(&self, reason: &str) {
        self.shared.poison(reason);
    }

    fn fault(&self) -> Option<String> {
        self.shared.fault()
    }

    fn memory(&self) -> Vec<MemoryUse> {
        self.shared.collect();
        vec![self.budget.usage()]
    }

    fn counters(&self) -> DeviceCounters {
        self.shared.board().counters
    }

    fn block_times(&self, plan: LoadedPlan) -> Vec<Option<u64>> {
        self.plan(plan).map_or_else(Vec::new, |plan| plan.block_times(self.capabilities.cus))
    }

    /// Kernels are timed as a whole: there are no events of blocks yet.
    fn record_events(&self, _on: bool) {}

    fn drain_events(&self, _events: &mut Vec<Event>) -> u64 {
        0
    }
}
