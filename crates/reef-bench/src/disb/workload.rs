//! Workloads: which clients ask which model when. A workload is a TOML file; the benchmark's own are built in.
//!
//! ```toml
//! name = "parking"
//! title = "Two cameras, and analytics with what is left"
//!
//! [models]                       # optional: files, relative to this one; others come from the zoo by name
//! detector = "models/detector.onnx"
//!
//! [reference_ms]                 # optional: time alone of each model where the rates below were chosen;
//! detector = 4.4                 # `--rate scaled` keeps the utilisation of that machine
//!
//! [[client]]
//! name = "front"                 # optional: the model's name
//! model = "detector"
//! class = "real-time"            # or "best-effort"
//! level = 0                      # 0, the default, is the most urgent
//! arrivals = { kind = "periodic", rate_hz = 30.0, phase = 0.5 }   # phase: fraction of the period, default 0
//! deadline_ms = 20.0             # optional: from the scheduled arrival; misses are counted
//! enforce_deadline = true        # default false: also sent to the server, which may refuse then
//! keep = "newest"                # default "all": a frame that waits is dropped when the next one comes
//! in_flight = 1                  # default 16 (closed loops: 1): requests under way at once
//!
//! [[client]]
//! model = "tracker"
//! class = "real-time"
//! arrivals = { kind = "after", client = "front", think_ms = 1.0 }  # asks with each answer of another client
//! ```
//!
//! | `kind` | fields | asks |
//! |---|---|---|
//! | `periodic` | `rate_hz`, `phase` | at fixed distances |
//! | `poisson` | `rate_hz` | at random, seeded |
//! | `trace` | `file`, `track` | at recorded times; `file` is JSON, relative to the workload's file |
//! | `closed-loop` | `think_ms` | so long after each answer, in `in_flight` places at once |
//! | `after` | `client`, `think_ms` | so long after each answer of another client |
//!
//! A trace file is `{"duration_s": 38, "unit": "ms", "arrivals": {"TRACK": [0, 150, …]}}`; arrivals at or
//! behind the end are not played. Everything that is not named above is refused by name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::BenchError;

/// The class of a client's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassName {
    /// Must answer in time.
    RealTime,
    /// Takes what is left.
    BestEffort,
}

impl fmt::Display for ClassName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClassName::RealTime => "real-time",
            ClassName::BestEffort => "best-effort",
        })
    }
}
