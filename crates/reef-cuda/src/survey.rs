//! What GPUs this machine has, and what is missing to use them.

use crate::compiler;
use crate::driver::{Driver, Properties};
use crate::error::CudaError;

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its number, as in `cuda:0`.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// Its compute capability, as in 90.
    pub arch: u32,
    /// Streaming multiprocessors.
    pub sms: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// GPUs, and what is needed to use them.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The CUDA version that the driver is for, as in 13000; or what is wrong with it.
    pub driver: Result<i32, CudaError>,
    /// The compiler's version; or why it is not there.
    pub compiler: Result<String, CudaError>,
    /// The GPUs that the driver sees.
    pub gpus: Vec<Gpu>,
}

/// Looks what there is.
pub fn survey() -> Survey {
    let driver = Driver::load();
    let gpus = driver.iter().flat_map(|&driver| (0..driver.count).map(move |number| (driver, number)));
    let gpu = |(driver, number)| {
        let Properties { name, arch, sms, memory_bytes, .. } = Properties::of(driver, number).ok()?;
        Some(Gpu { number, name, arch, sms, memory_bytes })
    };
    let gpus = gpus.filter_map(gpu).collect();
    Survey { driver: driver.map(|driver| driver.version), compiler: compiler::version(), gpus }
}
