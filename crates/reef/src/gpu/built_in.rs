//! GPUs, by `reef-cuda`.

use std::sync::Arc;

use anyhow::Result;
use reef_cuda::{CudaDevice, CudaOptions, Gpu, Survey};
use reef_device::Device;
use reef_plan::Kernel;
use serde_json::{Value, json};

use super::Wanted;
use crate::output::say;

/// Starts one.
pub fn start(wanted: Wanted) -> Result<Arc<dyn Device>> {
    let Wanted { number, scheme, padding, memory_bytes, outstanding } = wanted;
    let usual = CudaOptions::default();
    let options = CudaOptions { number, scheme, padding, memory_bytes, outstanding, ..usual };
    Ok(Arc::new(CudaDevice::start(options)?))
}

/// Whether a kernel of a plan for a GPU runs on the host.
pub fn runs_on_host(kernel: &Kernel) -> bool {
    reef_cuda::runs_on_host(kernel)
}

/// What there is, and what is there to use it with.
pub fn to_json() -> (Vec<Value>, Value) {
    let survey = reef_cuda::survey();
    (survey.gpus.iter().map(gpu_to_json).collect(), needs_to_json(&survey))
}

/// Lists them, and what is there to use them with, for people.
pub fn print() {
    let Survey { driver, compiler, gpus } = reef_cuda::survey();
    for Gpu { number, name, arch, sms, memory_bytes, mig, mps, compute_mode } in &gpus {
        say!("cuda:{number}   {name}");
        say!("         sm_{arch}, {sms} SMs, memory {:.1} GiB", *memory_bytes as f64 / f64::from(1 << 30));
        if let Some(profile) = mig {
            say!("         a MIG instance ({profile}): a part of a GPU, with multiprocessors of its own");
        }
        if *mps {
            say!("         MPS runs: kernels of other processes may be on it, which no task here can evict");
        }
        if let Some(mode) = compute_mode {
            say!("         compute mode {mode}: not used in another mode than default");
        }
    }
    match driver {
        Ok(version) => {
            say!("cuda     driver for CUDA {}.{}, {} GPUs", version / 1000, version % 1000 / 10, gpus.len());
        }
        Err(why) => return say!("cuda     {why}"),
    }
    match compiler {
        Ok(version) => say!("         NVRTC {version}"),
        Err(why) => say!("         {why}"),
    }
    if !gpus.is_empty() {
        say!("use      --device cuda:0");
    }
}

fn gpu_to_json(gpu: &Gpu) -> Value {
    let Gpu { number, name, arch, sms, memory_bytes, mig, mps, compute_mode } = gpu;
    json!({
        "kind": "cuda",
        "device": format!("cuda:{number}"),
        "model": name,
        "architecture": format!("sm_{arch}"),
        "sms": sms,
        "memory_bytes": memory_bytes,
        "mig": mig,
        "mps": mps,
        "compute_mode": compute_mode.unwrap_or("default"),
    })
}

/// What is there to use GPUs with, or why it is not.
fn needs_to_json(survey: &Survey) -> Value {
    json!({
        "driver_cuda_version": survey.driver.as_ref().ok(),
        "driver_error": survey.driver.as_ref().err().map(ToString::to_string),
        "nvrtc_version": survey.compiler.as_ref().ok(),
        "nvrtc_error": survey.compiler.as_ref().err().map(ToString::to_string),
    })
}
