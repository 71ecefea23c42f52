//! `reef-bench`: what is measured, and how it is compared.
//!
//! Owns the systems that play a load ([`disb`]), an HTTP client of the Open Inference Protocol, callers of an
//! engine and of a server ([`callers`]), the demo's driver and the micro-benchmarks. Loads are `reef-load`'s.
//! Knows no real device and starts no server: the binary hands both in ([`micro::MicroEnvironment`],
//! [`demo::run`]'s engine and address).
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
pub mod machine;
pub mod micro;
pub mod progress;
pub mod simulated;

pub use error::{BenchError, EnvironmentError};
pub use progress::Progress;
