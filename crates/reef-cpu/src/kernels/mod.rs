//! Block kernels: the code that runs one block of each kernel specification.

use reef_plan::{Isa, Kernel, Plan};

use crate::context::{BlockContext, BlockEnd};

/// A kernel made ready for this machine: everything that does not change from task to task.
pub(crate) trait BlockKernel: Send + Sync {
    /// Runs block `block`: writes its tile of the outputs, or stops when the context's poll says so.
    ///
    /// # Safety
    /// The context's addresses must be valid for the plan that the kernel was prepared from, and no other thread
    /// may write what the block reads or touch what it writes while it runs.
    #[allow(unsafe_code)]
    unsafe fn run(&self, context: &BlockContext<'_>, block: u32) -> BlockEnd;
}

/// Makes `kernel` of `plan` ready for `isa`, which the machine must have.
pub(crate) fn prepare(kernel: &Kernel, plan: &Plan, isa: Isa) -> Box<dyn BlockKernel> {
    let _ = (kernel, plan, isa);
    unreachable!("not there yet")
}
