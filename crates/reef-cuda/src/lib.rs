//! `reef-cuda`: NVIDIA GPUs with a stock driver.
//!
//! Owns the kernels (CUDA C++ in `kernels/`, compiled for the device's architecture when it starts, or taken
//! from a cache), how plans are cut for them, the memory of the device, and the executor that queues kernels
//! on streams. The driver and the compiler are loaded when a device is started: without them everything
//! builds, and starting one is a clear error. Knows nothing of ONNX, of how plans are made, of scheduling
//! above the device, or of protocols.
//!
//! | module | what it does |
//! |---|---|
//! | `driver` | the driver's calls, with errors; memory, streams, modules, graphs |
//! | `compiler` | CUDA C++ to machine code, and the cache of that |
//! | `code` | the kernels on the device, and which fit a multiprocessor together |
//! | `cut`, `pack` | how kernels are cut into blocks, how weights lie |
//! | `descriptor`, `scalar` | what kernels are given: plain data, as the kernels declare it |
//! | `memory` | one pool of the device's memory, one of pinned memory, and their parts |
//! | `upload` | copies of what is loaded, beside those of tasks |
//! | `loaded` | plans in the memory of the device |
//! | `board` | which kernel is queued next: a state machine without a driver or a clock |
//! | `clock` | the device's clock beside the host's |
//! | `slots` | what the device keeps of each slot |
//! | `graphs` | a plan's kernels as executable graphs, for the scheme `concurrent` |
//! | `feeder` | the thread that does what the board says |
//! | `host_step`, `hosting` | kernels that the host runs: their operands and states; the threads |
//! | `device` | the device of the contract |

mod board;
mod clock;
mod code;
mod compiler;
mod cut;
mod descriptor;
mod device;
mod driver;
mod error;
mod feeder;
mod graphs;
mod host_step;
mod hosting;
#[cfg(test)]
mod isolation;
mod loaded;
mod memory;
mod pack;
mod scalar;
mod slots;
mod survey;
mod upload;

pub use compiler::{KernelFacts, compile_into};
pub use device::{CudaDevice, CudaOptions};
pub use error::CudaError;
pub use host_step::is_hosted as runs_on_host;
pub use survey::{Gpu, Survey, survey};
