//! The timeline: block events of the device and spans of requests, as Chrome/Perfetto JSON.

use std::path::PathBuf;

/// Where and how much to trace.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// The JSON file, written when the trace is stopped; replaced atomically.
    pub path: PathBuf,
    /// Newest events that are kept; older ones are dropped.
    pub events_max: usize,
}

impl TraceOptions {
    /// A trace of the last million events.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        TraceOptions { path: path.into(), events_max: 1 << 20 }
    }
}

/// What a trace file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSummary {
    /// The file.
    pub path: PathBuf,
    /// Events written.
    pub events: u64,
    /// Events that were dropped because the ring or the device's buffers were full.
    pub dropped: u64,
}

/// The trace could not be started or written.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be written.
    #[error("cannot write the trace {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A trace is being recorded already, or none is.
    #[error("{0}")]
    State(&'static str),
}
