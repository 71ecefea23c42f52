//! The GPU behind queues as a device: what an engine runs its plans on, in virtual time.
//!
//! Every place on the board has a stream of the GPU ([`crate::queued`]); a stage of a task's plan is a kernel
//! that is launched into it. Times are the GPU's: [`costs`] says what a kernel takes alone, the constants
//! what queues, the flag and a kill take. Outputs are real: the blocks of a kernel are computed when it has
//! ended, and where it is killed they leave rubbish.
//!
//! Who is on the GPU ([`machine`]) is as in the paper, not for the policy of blocks that other devices share,
//! because a GPU of queues knows no single blocks: one real-time task at a time, in the order of keys; when
//! there is none, one best-effort task of each owner at once, on streams that share units evenly. `wait` lets
//! what is queued see the flag. `reset` empties host queues, too, kills what runs where the hardware can, and
//! has best-effort tasks go on as many kernels back as a device queue holds: plans are compiled for that
//! window. Nothing pads: units that a real-time kernel leaves are idle, and owners share units evenly,
//! whatever their weights. What that leaves of the promises of devices, its conformance test names.

pub mod costs;
mod machine;

use std::sync::Arc;

use reef_base::{Nanos, VirtualClock};
use reef_device::simulated::{BooksOptions, Simulated};
use reef_device::{Capabilities, Kill, Scheme};
use reef_plan::{DeviceKind, Interpreter, Isa, Precision, Target};

use crate::constants::GpuConstants;
use crate::error::SimError;

pub use costs::{Costs, Measured, OfPlans, plan_of};
pub use machine::QueuedGpu;

/// A simulated GPU as a device.
pub type GpuDevice = Simulated<QueuedGpu>;

/// How to make one. Devices of the same options, or of clones of them, have one clock.
#[derive(Clone, Debug)]
pub struct GpuOptions {
    /// Its time.
    pub clock: VirtualClock,
    /// What it is like.
    pub constants: GpuConstants,
    /// What kernels take.
    pub costs: Arc<dyn Costs>,
    /// How far the times of kernels differ from that, at most, as a share of them.
    pub jitter: f64,
    /// Seed of these differences.
    pub seed: u64,
    /// Whether the memory of emptied host queues is freed by a thread of its own.
    pub asynchronous: bool,
    /// Tasks on the board, each with a stream of its own.
    pub slots: usize,
    /// Slots of them for real-time tasks only.
    pub slots_real_time: usize,
    /// The scheme at the start.
    pub scheme: Scheme,
    /// Bytes that its memory may hold; `None` for no bound.
    pub memory_bytes: Option<u64>,
    /// Who computes the blocks of real kernels; without, only synthetic ones run.
    pub interpreter: Option<Arc<dyn Interpreter>>,
}

impl GpuOptions {
    /// Of such a GPU: a clock of its own, times as plans say, all of the paper's scheme but padding.
    pub fn new(constants: GpuConstants) -> GpuOptions {
        GpuOptions {
            clock: VirtualClock::default(),
            constants,
            costs: Arc::new(OfPlans),
            jitter: 0.0,
            seed: 0,
            asynchronous: true,
            slots: 8,
            slots_real_time: 4,
            scheme: Scheme::Reset,
            memory_bytes: None,
            interpreter: None,
        }
    }

    fn check(&self) -> Result<(), SimError> {
        let wrong = |problem: String| Err(SimError::Device { name: self.constants.name.clone(), problem });
        if !(0.0..1.0).contains(&self.jitter) {
            return wrong(format!("jitter is {}, allowed are 0 to below 1", self.jitter));
        }
        // One that is not reserved, so that best-effort tasks can run.
        if self.slots == 0 || self.slots_real_time >= self.slots {
            let (all, reserved) = (self.slots, self.slots_real_time);
            return wrong(format!("{reserved} of {all} slots are for real-time tasks; one must not be"));
        }
        Ok(())
    }

    /// What plans for it are compiled for.
    pub fn target(&self) -> Target {
        Target {
            device: DeviceKind::Dummy,
            isa: Isa::Portable,
            cus: self.constants.cus as usize,
            window: self.constants.queues.capacity as usize,
            precision: Precision::F32,
        }
    }

    fn capabilities(&self) -> Capabilities {
        let costs = self.constants.preemption;
        Capabilities {
            name: format!("simulated {}", self.constants.name),
            target: self.target(),
            cus: self.constants.cus as usize,
            cores: Vec::new(),
            kill: if costs.kill_us.is_some() { Kill::RunningWaves } else { Kill::None },
            poll_period: Nanos::ZERO,
            never_max: Nanos::ZERO,
            propagation: self.host_phase() + costs.flag_us.nanos(),
            slots: self.slots,
            slots_real_time: self.slots_real_time,
        }
    }

    /// The longest time that emptying host queues takes: each place's, one after the other.
    fn host_phase(&self) -> Nanos {
        let costs = self.constants.preemption;
        let each = costs.reset_host_us.nanos().0;
        let kernels = if self.asynchronous { 0 } else { costs.reclaim_us.nanos().0 * KERNELS_MAX };
        Nanos((each + kernels) * self.slots as u64)
    }

    fn books(&self) -> BooksOptions {
        BooksOptions {
            slots: self.slots,
            slots_real_time: self.slots_real_time,
            scheme: self.scheme,
            memory_bytes: self.memory_bytes,
            interpreter: self.interpreter.clone(),
        }
    }
}

/// Kernels of a plan, for the bound where their memory is freed at once.
const KERNELS_MAX: u64 = 1 << 12;

/// An idle GPU.
pub fn gpu(options: GpuOptions) -> Result<GpuDevice, SimError> {
    options.check()?;
    let (capabilities, clock) = (options.capabilities(), options.clock.clone());
    Ok(Simulated::over(capabilities, clock, QueuedGpu::new(options)))
}
