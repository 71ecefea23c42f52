//! `reef-cpu`: the CPU as a device: pinned threads as compute units, a lock-free board, kernels that can be
//! killed.
//!
//! Owns the resident executor (`board`, `gate`, `lease`, `seat`, `bell` and `table` the protocols,
//! `executor`, `worker` and `hosting` the steps, `pick` the schemes, `companion` the threads that run what
//! cannot be killed) and the kernels, with the way they are cut and fed (`cut`). Knows nothing of models,
//! requests or queues.

mod bell;
mod board;
#[cfg(test)]
#[cfg_attr(loom, allow(dead_code))]
mod by_hand;
mod companion;
mod context;
mod cu;
mod cut;
mod device;
mod estimate;
mod events;
mod executor;
mod gate;
mod hosting;
mod kernels;
mod lease;
mod lineage;
mod memory;
mod options;
mod pick;
mod plans;
mod polls;
mod seat;
mod shares;
mod slot;
mod stop;
mod sync;
mod table;
mod thread;
mod worker;

pub use cut::CpuCutter;
pub use device::CpuDevice;
pub use options::{CpuOptions, allowed_cores, granted_memory};
pub use polls::poll_gaps;
