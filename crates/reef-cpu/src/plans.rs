//! Loaded plans: what is prepared once per plan.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reef_base::{AlignedBytes, Nanos};
use reef_device::policy::{Outlook, outlooks};
use reef_device::{Admission, DeviceError};
use reef_plan::{Kernel, KernelSpec, Plan, Restart};

use crate::board::{Board, Claim, Opening};
use crate::context::HostCell;
use crate::estimate::Estimate;
use crate::kernels::{self, BlockKernel};
use crate::table::{ENTRIES_MAX, Table};

/// Plans that one device holds at a time.
pub(crate) const PLANS_MAX: usize = if cfg!(loom) { 2 } else { ENTRIES_MAX };

/// A task that took units longer than this is none that a submitter does itself.
const SHORT_MAX: Nanos = Nanos(500_000);

/// A kernel ready to run, and what is known of it.
pub(crate) struct Prepared {
    /// Runs its blocks.
    pub(crate) kernel: Box<dyn BlockKernel>,
    /// Whether its blocks may be killed.
    pub(crate) restart: Restart,
    /// Index of its state among the plan's host kernels.
    pub(crate) host: Option<usize>,
    /// Time of a block.
    pub(crate) estimate: Estimate,
}

/// A plan ready to run.
pub(crate) struct Loaded {
    /// The plan.
    pub(crate) plan: Arc<Plan>,
    /// Its kernels.
    pub(crate) kernels: Vec<Prepared>,
    /// Addresses of its packed weights.
    pub(crate) weights: Vec<*const u8>,
    /// In the books of the memory.
    pub(crate) admission: Option<Admission>,
    /// Keeps the weights alive.
    packed: Vec<Arc<AlignedBytes>>,
    /// State of host kernels, by slot and host kernel.
    hosts: Vec<HostCell>,
    /// By stage.
    outlooks: Vec<Outlook>,
    /// Nanoseconds that all units together spent on its last task; a hint.
    took: AtomicU64,
}

// SAFETY: the weights are shared, immutable buffers; a host state is used only by the companion that runs the
// one block of its kernel in its slot, and stages order those runs.
#[allow(unsafe_code)]
unsafe impl Send for Loaded {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Loaded {}

impl Drop for Loaded {
    /// States are foreign code, whose drop may panic; two panics at once would end the process.
    fn drop(&mut self) {
        for state in self.hosts.drain(..) {
            contain_drop(state.into_inner());
        }
    }
}

/// Drops `foreign`; what it panics with is nobody's loss.
pub(crate) fn contain_drop<T>(foreign: T) {
    let _ = reef_base::panics::catch(|| drop(foreign));
}

impl Loaded {
    /// Prepares `plan` for a board of `slots` slots and `cus` compute units.
    pub(crate) fn new(plan: Arc<Plan>, slots: usize, cus: usize) -> Result<Loaded, DeviceError> {
        let isa = plan.target().isa;
        let prepare = |kernel: &Kernel| Prepared {
            kernel: kernels::prepare(kernel, &plan, isa),
            restart: kernel.restart,
            host: if let KernelSpec::Host(index) = kernel.spec { Some(index) } else { None },
            estimate: Estimate::default(),
        };
        let prepared = plan.kernels().iter().map(prepare).collect();
        let mut hosts = Vec::new();
        for _ in 0..slots {
            for host in plan.host_kernels() {
                hosts.push(UnsafeCell::new(Some(host.new_state()?)));
            }
        }
        let weights: Vec<_> = plan
            .weights()
            .iter()
            .map(|weight| {
                plan.store().get(weight.key, weight.packing).expect("the validator found it packed")
            })
            .collect();
        let addresses = weights.iter().map(|bytes| bytes.as_ptr()).collect();
        let outlooks = outlooks(plan.stages().iter().map(|stage| stage.blocks()), cus as u32);
        let (admission, packed, took) = (None, weights, AtomicU64::new(0));
        Ok(Loaded { kernels: prepared, weights: addresses, admission, packed, hosts, outlooks, took, plan })
    }

    /// A task of this plan alone has ended, on which units spent so long.
    pub(crate) fn note(&self, time: Nanos) {
        self.took.store(time.0, Ordering::Relaxed);
    }

    /// Whether its tasks are so short that a submitter who has so much patience may do one's work, as far as
    /// is known.
    pub(crate) fn is_within(&self, patience: Nanos) -> bool {
        self.took.load(Ordering::Relaxed) <= SHORT_MAX.min(patience).0
    }

    /// Its packed weights.
    pub(crate) fn packed(&self) -> &[Arc<AlignedBytes>] {
        &self.packed
    }

    /// The state of host kernel `host` for tasks in `slot`.
    pub(crate) fn host(&self, slot: usize, host: usize) -> &HostCell {
        &self.hosts[slot * self.plan.host_kernels().len() + host]
    }

    /// Stage `stage`, for the board.
    pub(crate) fn opening(&self, stage: usize) -> Opening {
        let outlook = self.outlooks[stage];
        let stage = &self.plan.stages()[stage];
        let kernels = &self.kernels[stage.kernels.start as usize..stage.kernels.end as usize];
        Opening { blocks: stage.blocks(), estimate: estimate_of(kernels), outlook }
    }
}

/// Where a claimed block is in its plan.
pub(crate) struct Located<'a> {
    pub(crate) prepared: &'a Prepared,
    /// Block of the kernel.
    pub(crate) block: u32,
    /// Block of the stage.
    pub(crate) index: u32,
    /// Blocks of the stage.
    pub(crate) total: u32,
}

pub(crate) fn locate(loaded: &Loaded, claim: Claim) -> Located<'_> {
    let stage = &loaded.plan.stages()[claim.word.stage() as usize];
    let total = stage.blocks();
    let index = total - claim.word.ticket();
    let (kernel, block) = stage.locate(index);
    Located { prepared: &loaded.kernels[kernel], block, index, total }
}

/// What is known of the blocks of `kernels`: the longest, and whether all may be killed or stopped. See
/// `Slot::estimate`.
fn estimate_of(kernels: &[Prepared]) -> u64 {
    let mut longest = 0;
    let mut killable = Board::KILLABLE;
    let mut known = true;
    for kernel in kernels {
        let guess = kernel.estimate.guess();
        known &= guess != 0;
        longest = longest.max(guess);
        // A host kernel cannot be killed, but stopped.
        if kernel.restart == Restart::Never && kernel.host.is_none() {
            killable = 0;
        }
    }
    if known { longest | killable } else { killable }
}

/// The table of loaded plans.
pub(crate) type PlanTable = Table<Loaded>;
