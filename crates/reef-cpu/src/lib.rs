//! `reef-cpu`: the CPU as a device: pinned threads as compute units, a lock-free board, kernels that can be killed.

mod context;
mod kernels;
mod sync;
