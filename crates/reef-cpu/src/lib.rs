//! `reef-cpu`: the CPU as a device: pinned threads as compute units, a lock-free board, kernels that can be
//! killed.
//!
//! Owns the resident executor (`board` the protocol, `executor` and `worker` the steps, `pick` the schemes)
//! and the kernels. Knows nothing of models, requests or queues.

mod board;
mod context;
mod device;
mod estimate;
mod events;
mod executor;
mod gate;
mod kernels;
mod memory;
mod options;
mod pick;
mod plans;
mod slot;
mod sync;
mod thread;
mod worker;

pub use device::CpuDevice;
pub use options::{CpuOptions, allowed_cores};
