//! `reef-report`: results, as they are written and read back, and the pages that are made of them.
//!
//! | module | owns |
//! |---|---|
//! | [`machine`] | where something was measured |
//! | [`micro`] | rows of micro-benchmarks and their targets |
//! | [`disb`] | results of whole workloads: their format, their page, what changed between two of them |
//!
//! Everything here is a function of results: nothing is measured, no device, engine or load is known.

pub mod disb;
pub mod machine;
pub mod micro;

pub use machine::{Machine, Others};
