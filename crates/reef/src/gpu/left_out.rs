//! No GPUs: this binary was built without the feature `cuda`.

use std::sync::Arc;

use anyhow::{Result, bail};
use reef_device::Device;
use reef_plan::Kernel;
use serde_json::{Value, json};

use super::Wanted;
use crate::output::say;

const LEFT_OUT: &str = "this build of reef has no CUDA (it was built without the feature `cuda`)";

/// There is none to start.
pub fn start(wanted: Wanted) -> Result<Arc<dyn Device>> {
    bail!("GPU {}: {LEFT_OUT}", wanted.number)
}

/// No plan is for a GPU.
pub fn runs_on_host(_kernel: &Kernel) -> bool {
    false
}

/// That there are none, in the place of what a build with them says.
pub fn to_json() -> (Vec<Value>, Value) {
    let needs = json!({
        "driver_cuda_version": null,
        "driver_error": LEFT_OUT,
        "nvrtc_version": null,
        "nvrtc_error": LEFT_OUT,
    });
    (vec![], needs)
}

/// The same for people.
pub fn print() {
    say!("cuda     {LEFT_OUT}");
}

#[cfg(test)]
mod tests {
    use reef_device::{Padding, Scheme};

    use super::*;

    #[test]
    fn a_build_without_cuda_says_so() {
        let (scheme, padding) = (Scheme::Reset, Padding::default());
        let wanted = Wanted { number: 3, scheme, padding, memory_bytes: None, outstanding: None };
        let refused = start(wanted).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("GPU 3") && refused.contains("no CUDA"), "{refused}");
        let (gpus, needs) = to_json();
        assert!(gpus.is_empty() && needs["driver_error"].as_str().unwrap().contains("no CUDA"));
    }
}
