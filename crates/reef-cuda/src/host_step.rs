//! Host steps: kernels that the device has no code for, foreign ones, selections, decision trees, samplings
//! of vision models, products with packed weights, what goes by indices and some of what goes along an axis,
//! recurrent networks of very large states or of integers, and element-wise programs that are long or have
//! doubles. Where their operands lie, and what foreign code keeps.
//!
//! Operands are in pinned memory of the slot, first all that are read, then all that are written; weights lie
//! where they are.

use std::sync::{Mutex, MutexGuard, PoisonError};

use reef_base::panics;
use reef_plan::{HostFault, HostKernel, HostState, Kernel, KernelSpec, Place, Plan, Region};

use crate::cut;
use crate::descriptor::STEPS_MAX;

/// What every operand is aligned to.
const GRAIN: usize = 64;

/// Whether a kernel of a plan for a GPU runs on the host.
pub fn is_hosted(kernel: &Kernel) -> bool {
    use KernelSpec::{
        Along, Elementwise, Host, MaxPool, Packed, Put, Recurrent, Selection, Take, Trees, Vision,
    };
    match &kernel.spec {
        Host(_) | Selection(_) | Trees(_) | Vision(_) | Packed(_) | Take(_) | Put(_) | MaxPool(_) => true,
        Elementwise(spec) => spec.has_doubles() || spec.program.len() > STEPS_MAX,
        Along(spec) => !cut::has_along(spec),
        Recurrent(spec) => cut::hosts_recurrent(spec.hidden, spec.integers.is_some()),
        _ => false,
    }
}

/// An operand of a host step and its place in the slot's pinned memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Staged {
    pub(crate) region: Region,
    pub(crate) at: usize,
}

/// A kernel that the host runs.
#[derive(Clone, Debug)]
pub(crate) struct HostStep {
    /// What is read, but for weights.
    pub(crate) reads: Vec<Staged>,
    pub(crate) writes: Vec<Staged>,
    /// Of pinned memory, what it reads and all of it.
    read_bytes: usize,
    pub(crate) bytes: usize,
}

impl HostStep {
    pub(crate) fn of(kernel: &Kernel) -> HostStep {
        let mut bytes = 0;
        let mut stage = |region: &Region| {
            let at = bytes;
            bytes = (at + region.bytes).next_multiple_of(GRAIN);
            Staged { region: *region, at }
        };
        let moved = |region: &&Region| !matches!(region.place, Place::Weight(_));
        // What others have between the columns of an output goes there and back.
        let between = kernel.writes.iter().filter(|region| region.lane.is_some());
        let reads = kernel.reads.iter().filter(moved).chain(between).map(&mut stage).collect();
        let writes: Vec<Staged> = kernel.writes.iter().map(stage).collect();
        let read_bytes = writes.first().map_or(bytes, |first| first.at);
        HostStep { reads, writes, read_bytes, bytes }
    }

    /// Pinned memory that a slot needs for the host steps of a plan.
    pub(crate) fn bytes_for(plan: &Plan) -> usize {
        let hosted = plan.kernels().iter().filter(|kernel| is_hosted(kernel));
        hosted.map(|kernel| HostStep::of(kernel).bytes).max().unwrap_or(0)
    }

    /// Runs `code` on the operands of `kernel` in `staging`.
    pub(crate) fn run<'w, T>(
        &self,
        kernel: &Kernel,
        packed: impl Fn(u32) -> &'w [u8],
        staging: &mut [u8],
        code: impl FnOnce(&[&[u8]], &mut [&mut [u8]]) -> Result<T, HostFault>,
    ) -> Result<T, HostFault> {
        let (read, mut rest) = staging.split_at_mut(self.read_bytes);
        let mut moved = self.reads.iter();
        let input = |region: &Region| match region.place {
            Place::Weight(index) => &packed(index)[region.offset..region.end()],
            _ => {
                let staged = moved.next().expect("all but weights are staged");
                &read[staged.at..][..region.bytes]
            }
        };
        let inputs: Vec<&[u8]> = kernel.reads.iter().map(input).collect();
        let mut outputs: Vec<&mut [u8]> = Vec::with_capacity(self.writes.len());
        for Staged { region, .. } in &self.writes {
            let padded = region.bytes.next_multiple_of(GRAIN);
            let (own, behind) = std::mem::take(&mut rest).split_at_mut(padded);
            if region.lane.is_some() {
                let before = moved.next().expect("it was staged");
                own[..region.bytes].copy_from_slice(&read[before.at..][..region.bytes]);
            }
            outputs.push(&mut own[..region.bytes]);
            rest = behind;
        }
        code(&inputs, &mut outputs)
    }
}

/// States of a plan's foreign kernels, for each slot; one that panicked has none until it runs again.
pub(crate) struct States {
    kernels: usize,
    states: Vec<Mutex<Option<Box<dyn HostState>>>>,
}

impl std::fmt::Debug for States {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "States({})", self.states.len())
    }
}

impl States {
    pub(crate) fn of(plan: &Plan, slots: usize) -> Result<States, HostFault> {
        let kernels = plan.host_kernels();
        // From now on they are dropped with care, also if one cannot be made.
        let mut made = States { kernels: kernels.len(), states: Vec::new() };
        for _ in 0..slots {
            for kernel in kernels {
                made.states.push(Mutex::new(Some(new_state(&**kernel)?)));
            }
        }
        Ok(made)
    }

    pub(crate) fn of_slot(&self, slot: usize, kernel: usize) -> MutexGuard<'_, Option<Box<dyn HostState>>> {
        let state = &self.states[slot * self.kernels + kernel];
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for States {
    fn drop(&mut self) {
        for state in self.states.drain(..) {
            let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
            drop_state(state);
        }
    }
}

/// Drops foreign state; what it panics with is nobody's loss.
pub(crate) fn drop_state(state: Option<Box<dyn HostState>>) {
    let _ = panics::catch(|| drop(state));
}

pub(crate) fn panicked(kernel: &dyn HostKernel, panic: String) -> HostFault {
    HostFault::of_kernel(kernel.name(), format!("it panicked: {panic}"))
}

pub(crate) fn new_state(kernel: &dyn HostKernel) -> Result<Box<dyn HostState>, HostFault> {
    panics::contain(|| kernel.new_state()).unwrap_or_else(|panic| Err(panicked(kernel, panic)))
}
