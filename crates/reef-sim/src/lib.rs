//! `reef-sim`: devices in virtual time.
//!
//! Today: a GPU behind queues as the REEF paper describes it ([`queued`]), with the kernels of its five
//! models as they were measured ([`profile`]) and constants that say where they come from ([`constants`]);
//! the schemes that the paper compares, over it ([`server`]); the paper's figures ([`paper`]); and the same
//! GPU behind the contract of devices, for engines ([`device`]). A device whose units pull blocks themselves
//! ([`resident`]). Either of them under the clients of a run ([`rig`]); and what our own ideas make of the
//! paper's GPU ([`ideas`]).
//!
//! Above kernels: fleets of engines at the level of tasks, with the schedulers and the router that serve
//! requests ([`fleet`]), which scenarios describe and plans are made with.
//!
//! Everything is a function of its inputs and a seed: no thread, no clock of the machine, no file.

pub mod clients;
pub mod constants;
pub mod device;
pub mod error;
pub mod fleet;
pub mod ideas;
pub mod paper;
pub mod plan;
pub mod profile;
pub mod queued;
pub mod resident;
pub mod restart;
pub mod rig;
pub mod scenario;
pub mod server;
pub mod workload;

pub use constants::GpuConstants;
pub use device::{GpuDevice, GpuOptions};
pub use error::SimError;
pub use rig::Rig;
