//! `reef-sim`: devices in virtual time.
//!
//! Today: a GPU behind queues as the REEF paper describes it ([`queued`]), with the kernels of its five
//! models as they were measured ([`profile`]) and constants that say where they come from ([`constants`]);
//! the schemes that the paper compares, over it ([`server`]); and the paper's figures ([`paper`]).
//!
//! Everything is a function of its inputs and a seed: no thread, no clock of the machine, no file.

pub mod clients;
pub mod constants;
pub mod device;
pub mod error;
pub mod paper;
pub mod profile;
pub mod queued;
pub mod restart;
pub mod server;
pub mod workload;

pub use constants::GpuConstants;
pub use device::{GpuDevice, GpuOptions};
pub use error::SimError;
