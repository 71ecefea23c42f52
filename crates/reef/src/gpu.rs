//! NVIDIA GPUs: the only place that knows `reef-cuda`. A binary that is built without the feature `cuda` says
//! of every one that it has none.

#[cfg(feature = "cuda")]
#[path = "gpu/built_in.rs"]
mod support;
#[cfg(not(feature = "cuda"))]
#[path = "gpu/left_out.rs"]
mod support;

use reef_device::{Padding, Scheme};

pub use support::{print, runs_on_host, start, to_json};

/// Which GPU is to be started, and how.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "none is started"))]
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Its number, among those that the driver sees.
    pub number: usize,
    /// The scheme at the start.
    pub scheme: Scheme,
    /// Which blocks may pad a more urgent stage.
    pub padding: Padding,
    /// Bytes of its memory that may be used, where somebody says how many.
    pub memory_bytes: Option<u64>,
    /// Launches of a best-effort task that are queued at a time; `None` for the device's own choice.
    pub outstanding: Option<usize>,
}
