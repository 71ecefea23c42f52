//! `reef-bench`: load, measurements and reports.
//!
//! Owns the load generator ([`load`]), an HTTP client of the Open Inference Protocol, the recorder of
//! samples, the demo's driver, the micro-benchmarks and DISB ([`disb`]). Knows no real device and starts no
//! server: the binary hands both in ([`micro::MicroEnvironment`], [`demo::run`]'s engine and address).
//!
//! Rules that every measurement here keeps:
//! - What is compared is interleaved in one run, in several rounds; ratios are taken inside a round.
//! - Latency in an open loop counts from the *scheduled* arrival, so that a stalled server cannot hide
//!   requests that it kept from being sent (coordinated omission); arrivals that were never sent are counted.
//! - Targets look at medians and percentiles, never at a maximum.

pub mod callers;
pub mod demo;
pub mod disb;
pub mod error;
pub mod http;
pub mod inputs;
pub mod load;
pub mod machine;
pub mod micro;
pub mod progress;
pub mod recorder;
pub mod report;

pub use error::{BenchError, EnvironmentError};
pub use progress::Progress;
