//! The device of the contract: plans loaded onto a GPU, tasks queued on streams.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use reef_base::{AlignedBytes, Buffer, Domain, Memory, MonotonicClock, Nanos, TaskId, TaskKey};
use reef_device::{
    Admission, Budget, Capabilities, Completion, Device, DeviceCounters, DeviceError, Event, Io, Kill,
    LoadedPlan, MemoryUse, Padding, RejectReason, Rejected, Scheme, Wake,
};
use reef_plan::{Cutter, DeviceKind, IoSpec, Isa, Plan, Target};

use crate::board::{Board, OUTSTANDING, OUTSTANDING_MAX, SLOTS, SLOTS_REAL_TIME, Submission};
use crate::cut::CudaCutter;
use crate::descriptor;
use crate::driver::{Context, DeviceBytes, Driver, Function, Module, PinnedBytes, Properties};
use crate::error::CudaError;
use crate::feeder::{Feeder, Shared};
use crate::loaded::{DeviceWeights, Layout, Loaded, Loader, unsupported};
use crate::{compiler, cut};

/// The least architecture that the kernels run on.
const ARCH_MIN: u32 = 80;
/// Of the device's memory, what reef takes at most unless it is told.
const MEMORY_SHARE: (u64, u64) = (9, 10);

/// How to make a device of a GPU.
#[derive(Clone, Debug)]
pub struct CudaOptions {
    /// The GPU's number, among those that the driver sees.
    pub number: usize,
    /// The scheme at the start.
    pub scheme: Scheme,
    /// Which blocks may pad a more urgent stage. Kernels that are queued on streams pad nothing yet.
    pub padding: Padding,
    /// Bytes of the GPU's memory that may be used; `None` for nine tenths of it.
    pub memory_bytes: Option<u64>,
    /// Launches of a best-effort task that may be queued at a time, 1 to 32: more fill gaps between short
    /// kernels, and a more urgent task waits for more of them where nothing is evicted.
    pub outstanding: usize,
}

impl Default for CudaOptions {
    fn default() -> Self {
        CudaOptions {
            number: 0,
            scheme: Scheme::Reset,
            padding: Padding::default(),
            memory_bytes: None,
            outstanding: OUTSTANDING,
        }
    }
}

/// A GPU.
pub struct CudaDevice {
    capabilities: Capabilities,
    shared: Arc<Shared>,
    plans: Mutex<Plans>,
    weights: DeviceWeights,
    functions: HashMap<&'static str, Function>,
    budget: Arc<Budget>,
    thread: Option<JoinHandle<()>>,
    /// The kernels' code stays as long as something may run it.
    _module: Module,
}

struct Plans {
    loaded: Vec<Option<Arc<Loaded>>>,
    /// Memory of the tasks of one slot, and its place in the books.
    slot_bytes: usize,
    slots: Option<Admission>,
}

impl fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaDevice").field("capabilities", &self.capabilities).finish_non_exhaustive()
    }
}

/// Memory of a request that the GPU reads and writes by itself.
struct Pinned(PinnedBytes);

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
        let module = Module::load(&context, &compiler::kernels(properties.arch)?);
        let module = module.map_err(|error| error.of_kernels(compiler::cache_named()))?;
        let names = descriptor::FUNCTIONS.iter();
        let functions =
            names.map(|&name| Ok((name, module.function(name)?))).collect::<Result<_, CudaError>>()?;
        let mark = module.function(descriptor::MARK)?;
        let mut board = Board::new(options.scheme, options.padding, properties.sms);
        board.ahead = options.outstanding.clamp(1, OUTSTANDING_MAX);
        let shared = Arc::new(Shared::new(context, board));
        let feeder = Feeder::new(shared.clone(), mark)?;
        let builder = std::thread::Builder::new().name(format!("reef-cuda{}", options.number));
        let thread =
            builder.spawn(move || feeder.run()).map_err(|error| CudaError::Thread(error.to_string()))?;
        let limit = options.memory_bytes.unwrap_or(properties.memory_bytes / MEMORY_SHARE.1 * MEMORY_SHARE.0);
        Ok(CudaDevice {
            capabilities: capabilities(&properties),
            shared,
            plans: Mutex::new(Plans { loaded: Vec::new(), slot_bytes: 0, slots: None }),
            weights: DeviceWeights::default(),
            functions,
            budget: Budget::new(Domain::Device, Some(limit.min(properties.memory_bytes))),
            thread: Some(thread),
            _module: module,
        })
    }

    fn plans(&self) -> std::sync::MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, plan: LoadedPlan) -> Option<Arc<Loaded>> {
        self.plans().loaded.get(plan.index())?.clone()
    }

    fn pinned(&self, specs: &[IoSpec]) -> Result<Vec<Buffer>, CudaError> {
        let buffer = |spec: &IoSpec| {
            let bytes = PinnedBytes::zeroed(&self.shared.context, spec.bytes())?;
            Ok(Buffer::over(Domain::Pinned, Box::new(Pinned(bytes))))
        };
        specs.iter().map(buffer).collect()
    }

    /// Enters a plan, and what more its tasks need, into the books. Returns the plan's place there, the size
    /// of a slot, and the slots' place if they grow.
    fn admit(
        &self,
        plans: &Plans,
        plan: &Plan,
        packed: &[Arc<AlignedBytes>],
    ) -> Result<(Admission, usize, Option<Admission>), DeviceError> {
        let slot_bytes = Layout::of(plan).bytes.max(plans.slot_bytes);
        let grows = (slot_bytes > plans.slot_bytes).then_some(slot_bytes as u64 * SLOTS as u64);
        let refused = |over: reef_device::OverBudget| DeviceError::OutOfMemory {
            plan: plan.name().into(),
            needed: over.needed,
            available: over.available,
        };
        let admission = self.budget.admit(packed, 0, grows.unwrap_or(0)).map_err(refused)?;
        // Old slots are there until the last task that has one is over.
        let slots = grows.map(|bytes| self.budget.admit(&[], bytes, 0).map_err(refused)).transpose()?;
        Ok((admission, slot_bytes, slots))
    }

    fn try_load(
        &self,
        plans: &mut Plans,
        plan: Arc<Plan>,
        packed: &[Arc<AlignedBytes>],
        admission: Admission,
        slot_bytes: usize,
    ) -> Result<Loaded, CudaError> {
        if slot_bytes > plans.slot_bytes {
            let context = &self.shared.context;
            let memory: Vec<DeviceBytes> =
                (0..SLOTS).map(|_| DeviceBytes::new(context, slot_bytes)).collect::<Result<_, _>>()?;
            memory.into_iter().enumerate().for_each(|(slot, bytes)| self.shared.offer(slot, bytes));
            plans.slot_bytes = slot_bytes;
        }
        let (context, weights, functions) = (&self.shared.context, &self.weights, &self.functions);
        Loader { context, weights, functions }.load(plan, packed, admission)
    }
}

fn capabilities(properties: &Properties) -> Capabilities {
    let Properties { name, arch, sms, .. } = properties;
    let isa = Isa::Sm(u16::try_from(*arch).unwrap_or(u16::MAX));
    Capabilities {
        name: format!("{name}, sm_{arch}, {sms} SMs"),
        target: Target { device: DeviceKind::Cuda, isa, cus: *sms, window: 0 },
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
    }
}

impl Device for CudaDevice {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn cutter(&self) -> Arc<dyn Cutter> {
        Arc::new(CudaCutter::new(self.capabilities.target))
    }

    fn scheme(&self) -> Scheme {
        self.shared.board().scheme
    }

    fn set_scheme(&self, scheme: Scheme) {
        self.shared.board().scheme = scheme;
        self.shared.call();
    }

    fn load(&self, plan: Arc<Plan>) -> Result<LoadedPlan, DeviceError> {
        let target = self.capabilities.target;
        if plan.target() != target {
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
        let mut plans = self.plans();
        let (admission, slot_bytes, slots) = self.admit(&plans, &plan, &packed)?;
        let name = plan.name().to_string();
        let before = plans.slot_bytes;
        let loaded = self.try_load(&mut plans, plan, &packed, admission, slot_bytes);
        if plans.slot_bytes > before {
            // Taken, also where the plan then did not load.
            plans.slots = slots;
        }
        let loaded = loaded.map_err(|error| match error.is_out_of_memory() {
            // The driver had less than it was thought to have.
            true => DeviceError::OutOfMemory { plan: name, needed: slot_bytes as u64, available: 0 },
            false => error.into(),
        })?;
        plans.loaded.push(Some(Arc::new(loaded)));
        Ok(LoadedPlan(plans.loaded.len() as u32 - 1))
    }

    fn unload(&self, plan: LoadedPlan) {
        let before = self.plans().loaded.get_mut(plan.index()).and_then(Option::take);
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
                let blocks = loaded.blocks.clone();
                let submission = Submission { plan, payload: loaded, blocks, key, io, token };
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
