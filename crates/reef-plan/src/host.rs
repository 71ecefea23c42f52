//! Host kernels: regions of a graph that no native kernel computes.
//!
//! A host kernel is one block that neither polls nor may be killed and run again, so a device that preempts
//! has to stop it from outside and let it go on later. It is exempt from the poll and allocation rules. Its
//! state is made per task slot, so that tasks do not share any.

use std::fmt;

use reef_graph::{DType, Shape};

/// Type and shape of one operand.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorSpec {
    /// Element type.
    pub dtype: DType,
    /// Dense row-major shape.
    pub shape: Shape,
}

impl TensorSpec {
    /// Bytes of the dense tensor.
    pub fn bytes(&self) -> usize {
        self.dtype.bytes() * self.shape.elements()
    }
}

/// A kernel could not compute its outputs: a host kernel failed, or an input means nothing to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kernel {kernel}: {reason}")]
pub struct HostFault {
    /// Whose fault it is.
    pub kind: FaultKind,
    /// The kernel's name.
    pub kernel: String,
    /// What went wrong.
    pub reason: String,
}

/// What must change for a kernel that failed to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The values of the inputs: an index outside its axis, a divisor of zero. Others would do.
    Input,
    /// The kernel or the machine: no inputs of these shapes would do, or it is not known which.
    Kernel,
}

impl HostFault {
    /// The inputs' values are at fault. `reason` names operator, operand, value and what is allowed.
    pub fn of_input(kernel: impl Into<String>, reason: impl Into<String>) -> HostFault {
        HostFault { kind: FaultKind::Input, kernel: kernel.into(), reason: reason.into() }
    }

    /// The kernel is at fault.
    pub fn of_kernel(kernel: impl Into<String>, reason: impl Into<String>) -> HostFault {
        HostFault { kind: FaultKind::Kernel, kernel: kernel.into(), reason: reason.into() }
    }
}

/// A region of a graph that runs on the host as one block.
pub trait HostKernel: Send + Sync + fmt::Debug {
    /// The operators inside, for people.
    fn name(&self) -> &str;
    /// Type and shape of every input, in order.
    fn inputs(&self) -> &[TensorSpec];
    /// Type and shape of every output, in order.
    fn outputs(&self) -> &[TensorSpec];
    /// State for one task slot; used by one thread at a time.
    fn new_state(&self) -> Result<Box<dyn HostState>, HostFault>;
}

/// One task slot's state of a host kernel.
pub trait HostState: Send {
    /// Computes all outputs from all inputs: dense, row-major, little endian bytes, 64-byte aligned. Each
    /// call starts afresh: nothing is carried from one task to the next.
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), HostFault>;
}
