//! What can be wrong with a GPU, its driver, or the compiler.

use reef_device::DeviceError;

/// How the compiler is installed, where it is missing.
pub(crate) const COMPILER_HINT: &str =
    "pip install nvidia-cuda-nvrtc==13.0.88, and REEF_NVRTC=<site-packages>/nvidia/cu13/lib";

/// Why a GPU cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// There is no driver.
    #[error("there is no NVIDIA driver: libcuda.so.1 cannot be loaded{}", in_place(.0))]
    NoDriver(
        /// What was to be loaded instead, if anything, and why it was not.
        String,
    ),
    /// The driver has not got a function that is needed.
    #[error("the NVIDIA driver has no {0}: too old, CUDA {need} is needed", need = version(VERSION_MIN))]
    NoFunction(
        /// Its name.
        String,
    ),
    /// The driver is older than what the kernels are compiled with.
    #[error("the NVIDIA driver is for CUDA {found}, {need} is needed: install a newer one",
        found = version(*.0), need = version(VERSION_MIN))]
    OldDriver(
        /// The CUDA version that it is for, as the driver says it (13000 is 13.0).
        i32,
    ),
    /// The driver sees no GPU.
    #[error("the NVIDIA driver sees no GPU{}", hidden())]
    NoGpu,
    /// There are fewer GPUs.
    #[error("there is no GPU {number}: the driver sees {count}")]
    NoSuchGpu {
        /// The one that was asked for.
        number: usize,
        /// How many there are.
        count: usize,
    },
    /// The GPU is of a kind that the kernels do not run on.
    #[error("the GPU is of architecture sm_{0}, sm_80 or later is needed")]
    OldGpu(
        /// Its compute capability, as in 75.
        u32,
    ),
    /// The GPU takes no more processes, or none.
    #[error("the GPU's compute mode is {0}: it takes this process only in mode default")]
    ComputeMode(
        /// Its name.
        &'static str,
    ),
    /// There is no compiler, and the machine code is not in the cache.
    #[error(
        "there is no compiler for the GPU's kernels: libnvrtc.so.13 cannot be loaded ({0}); {COMPILER_HINT}"
    )]
    NoCompiler(
        /// Why it cannot.
        String,
    ),
    /// The kernels do not compile.
    #[error("the GPU's kernels do not compile for sm_{arch}: {log}")]
    Compile {
        /// For which architecture.
        arch: u32,
        /// What the compiler says.
        log: String,
    },
    /// The driver does not take the kernels' machine code.
    #[error(
        "the NVIDIA driver does not take the kernels that were compiled for the GPU ({says}): \
        remove what is in the cache ({cache}), or install a newer driver"
    )]
    Kernels {
        /// What it says.
        says: String,
        /// Where the cache is.
        cache: String,
    },
    /// A thread that works for the device does not start.
    #[error("a thread of the GPU does not start: {0}")]
    Thread(
        /// Why.
        String,
    ),
    /// A call of the driver failed.
    #[error("{call}: {name} ({code})")]
    Call {
        /// The function.
        call: &'static str,
        /// The driver's name for the error.
        name: String,
        /// Its number.
        code: u32,
    },
}

/// The CUDA version that a driver must be for, as it says it: that of the compiler, since a driver of an
/// older major version does not take its machine code.
pub(crate) const VERSION_MIN: i32 = 13_000;

fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

fn in_place(what: &str) -> String {
    if what.is_empty() { String::new() } else { format!(" ({what})") }
}

/// What hides GPUs, if it is set.
fn hidden() -> String {
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(listed) => format!(" (CUDA_VISIBLE_DEVICES is '{listed}')"),
        Err(_) => String::new(),
    }
}

impl CudaError {
    /// The same, where the kernels' code was to be loaded.
    pub(crate) fn of_kernels(self, cache: String) -> CudaError {
        /// `CUDA_ERROR_INVALID_IMAGE`, `…NO_BINARY_FOR_GPU`, `…UNSUPPORTED_PTX_VERSION`, `…INVALID_SOURCE`.
        const REFUSALS: [u32; 4] = [200, 209, 222, 300];
        match self {
            CudaError::Call { name, code, .. } if REFUSALS.contains(&code) => {
                CudaError::Kernels { says: name, cache }
            }
            other => other,
        }
    }

    /// Whether memory is what lacks.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        matches!(self, CudaError::Call { code: 2, .. })
    }
}

impl From<CudaError> for DeviceError {
    fn from(error: CudaError) -> DeviceError {
        DeviceError::Start(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_is_needed() {
        let text = |error: CudaError| error.to_string();
        let old = "the NVIDIA driver is for CUDA 12.8, 13.0 is needed: install a newer one";
        assert_eq!(text(CudaError::OldDriver(12_080)), old);
        assert!(text(CudaError::NoDriver(String::new())).ends_with("libcuda.so.1 cannot be loaded"));
        assert!(text(CudaError::NoDriver("why".into())).ends_with("(why)"));
        assert!(text(CudaError::NoCompiler("why".into())).contains("pip install nvidia-cuda-nvrtc"));
        let call = CudaError::Call { call: "cuMemAlloc", name: "CUDA_ERROR_OUT_OF_MEMORY".into(), code: 2 };
        assert!(call.is_out_of_memory());
        assert_eq!(text(call), "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (2)");
    }
}
