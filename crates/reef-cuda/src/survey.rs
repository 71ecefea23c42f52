//! What GPUs this machine has, what is missing to use them, and what they are shared by.
//!
//! | what | how it is seen |
//! |---|---|
//! | MPS | the driver's attribute, where it knows it; else the pipe `control` of the daemon |
//! | a MIG instance | its name, which ends in `MIG` and the profile |
//! | compute mode | the driver's attribute |
//!
//! A GPU in MIG mode without instances is none that the driver sees.

use std::path::Path;

use crate::compiler;
use crate::driver::{Driver, Properties};
use crate::error::CudaError;

/// Names the folder of the pipes of MPS.
const MPS_VARIABLE: &str = "CUDA_MPS_PIPE_DIRECTORY";
/// Where they are without that.
const MPS_FOLDER: &str = "/tmp/nvidia-mps";

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
    /// The profile of a MIG instance, as in `1g.10gb`; `None` for a whole GPU.
    pub mig: Option<String>,
    /// Whether MPS runs kernels of several processes on it together.
    pub mps: bool,
    /// The compute mode, where it is not the default one: `exclusive` or `prohibited`. Such a GPU is not
    /// used.
    pub compute_mode: Option<&'static str>,
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
    let gpu = |(driver, number)| Some(Gpu::of(number, Properties::of(driver, number).ok()?));
    let gpus = gpus.filter_map(gpu).collect();
    Survey { driver: driver.map(|driver| driver.version), compiler: compiler::version(), gpus }
}

impl Gpu {
    fn of(number: usize, properties: Properties) -> Gpu {
        let compute_mode = properties.refused_mode();
        let Properties { name, arch, sms, memory_bytes, mps, .. } = properties;
        let mig = name.split_once(" MIG ").map(|(_, profile)| profile.to_string());
        let mps = mps.unwrap_or_else(|| has_daemon(std::env::var_os(MPS_VARIABLE).as_deref().map(Path::new)));
        Gpu { number, name, arch, sms, memory_bytes, mig, mps, compute_mode }
    }
}

/// Whether the daemon of MPS has its pipe in this folder, or where it is without one.
fn has_daemon(folder: Option<&Path>) -> bool {
    folder.unwrap_or(Path::new(MPS_FOLDER)).join("control").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_gpu_is_shared_by_is_seen() {
        let properties = Properties {
            name: "NVIDIA A100-SXM4-40GB MIG 1g.5gb".into(),
            arch: 80,
            sms: 14,
            memory_bytes: 1 << 30,
            shared_bytes: 1 << 16,
            shared_bytes_of_sm: 1 << 17,
            compute_mode: 0,
            mps: Some(false),
        };
        let gpu = Gpu::of(0, properties.clone());
        assert_eq!((gpu.mig.as_deref(), gpu.mps, gpu.compute_mode), (Some("1g.5gb"), false, None));
        let name = "NVIDIA A100-SXM4-40GB".to_string();
        let gpu = Gpu::of(0, Properties { name, mps: Some(true), compute_mode: 3, ..properties });
        assert_eq!((gpu.mig, gpu.mps, gpu.compute_mode), (None, true, Some("exclusive")));
    }

    #[test]
    fn a_daemon_is_known_by_its_pipe() {
        let folder = std::env::temp_dir().join(format!("reef-mps-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        assert!(!has_daemon(Some(&folder)));
        std::fs::write(folder.join("control"), "").unwrap();
        assert!(has_daemon(Some(&folder)));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
