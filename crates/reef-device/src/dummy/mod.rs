//! A virtual-time device with queues, as in the paper: the contract is known to fit more than one kind of
//! device.
//!
//! Every task has a host queue (the stages not launched yet) and a bounded device queue (launched stages, run
//! in order). Compute units run blocks of the front stage. Under `reset` a more urgent real-time task empties
//! the device queues, kills the running blocks of less urgent tasks at once (running waves) and starts after
//! the reset latency; a killed task restarts at most a device queue's length of stages before the last
//! launched one. Which block a free unit runs is for the policy that all devices share. Where it let a less
//! urgent block pad and the urgent task wants the unit before that block ends, the device is reset again: it
//! cannot kill one block alone. Left out of the policy's questions: units that sleep, blocks of unknown time,
//! blocks that cannot be killed, tasks that are closed and still there; none of these exists here.
//!
//! What it shares with other devices in virtual time is in [`crate::simulated`].

mod state;

use std::sync::Arc;

use reef_base::{Nanos, VirtualClock};
use reef_plan::{DeviceKind, Interpreter, Isa, Precision, Target};

use crate::contract::{Capabilities, Kill};
use crate::scheme::{Padding, Scheme};
use crate::simulated::{BooksOptions, Simulated};

pub use state::Dummy;

/// How to make a dummy. Dummies of the same options, or of clones of them, have one clock.
#[derive(Clone, Debug)]
pub struct DummyOptions {
    /// Its time.
    pub clock: VirtualClock,
    /// Compute units.
    pub cus: usize,
    /// Tasks on the board.
    pub slots: usize,
    /// Slots of them for real-time tasks only.
    pub slots_real_time: usize,
    /// Stages that a device queue holds; also the restart window.
    pub queue_stages: usize,
    /// From a reset until the first block of the task that caused it.
    pub reset_latency: Nanos,
    /// The scheme at the start.
    pub scheme: Scheme,
    /// Those that it has.
    pub schemes: &'static [Scheme],
    /// Which blocks may pad a more urgent stage.
    pub padding: Padding,
    /// Bytes that its memory may hold; `None` for no bound.
    pub memory_bytes: Option<u64>,
    /// Who computes the blocks of real kernels; without, only synthetic ones run.
    pub interpreter: Option<Arc<dyn Interpreter>>,
}

impl Default for DummyOptions {
    /// A clock of its own; two compute units; the queue length (4) and reset latency (35 µs) that the paper
    /// reports for the MI50, and its rule of padding: a block that is in the way costs a reset.
    fn default() -> Self {
        DummyOptions {
            clock: VirtualClock::default(),
            cus: 2,
            slots: 8,
            slots_real_time: 4,
            queue_stages: 4,
            reset_latency: Nanos::from_micros(35),
            scheme: Scheme::Reset,
            schemes: &Scheme::ALL,
            padding: Padding::Fitting,
            memory_bytes: None,
            interpreter: None,
        }
    }
}

/// The virtual-time queued device.
pub type DummyDevice = Simulated<Dummy>;

impl DummyDevice {
    /// An idle dummy.
    pub fn new(options: DummyOptions) -> DummyDevice {
        let target = Target {
            device: DeviceKind::Dummy,
            isa: Isa::Portable,
            cus: options.cus,
            window: options.queue_stages,
            precision: Precision::F32,
        };
        let capabilities = Capabilities {
            name: "queued dummy".into(),
            target,
            cus: options.cus,
            cores: Vec::new(),
            kill: Kill::RunningWaves,
            poll_period: Nanos::ZERO,
            never_max: Nanos::ZERO,
            propagation: options.reset_latency,
            slots: options.slots,
            slots_real_time: options.slots_real_time,
        };
        Simulated::over(capabilities, options.clock.clone(), Dummy::new(options))
    }
}

impl DummyOptions {
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

#[cfg(test)]
mod tests;
