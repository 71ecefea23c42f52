//! What kernels mean, as something that can run: for devices without kernels of their own.

use std::fmt;

use reef_base::{AlignedBytes, Buffer};

use crate::host::HostFault;
use crate::plan::Plan;

/// The memory of a task: what its plan's regions lie in, but for weights.
#[derive(Debug)]
pub struct TaskMemory<'a> {
    /// The request's inputs.
    pub inputs: &'a [Buffer],
    /// The request's outputs.
    pub outputs: &'a mut [Buffer],
    /// The plan's arena.
    pub arena: &'a mut AlignedBytes,
}

/// Runs single blocks of any plan, however it was cut and its weights packed. A reference, not fast.
pub trait Interpreter: Send + Sync + fmt::Debug {
    /// Runs block `block` of kernel `kernel` of `plan` (both from 0): writes its tile of the outputs. The
    /// error is what the task fails with.
    fn run_block(
        &self,
        plan: &Plan,
        kernel: usize,
        block: u32,
        memory: TaskMemory<'_>,
    ) -> Result<(), HostFault>;

    /// Writes rubbish wherever that block writes: what one leaves behind that was killed.
    fn spoil_block(&self, plan: &Plan, kernel: usize, block: u32, memory: TaskMemory<'_>);
}
