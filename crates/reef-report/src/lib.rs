//! `reef-report`: results, as they are written and read back, and the pages and charts that are made of them.
//!
//! | module | owns |
//! |---|---|
//! | [`page`] | a page: a title and sections of texts, tables and charts |
//! | [`table`] | tables |
//! | [`chart`] | charts: bars, lines and distributions, timelines; a chart as a file of its own |
//! | [`colour`] | which colour belongs to what |
//! | [`text`] | numbers, times and dates for people |
//! | [`typical`] | what repetitions have in common, and how sure that is |
//! | [`machine`] | where something was measured |
//! | [`micro`] | rows of micro-benchmarks and their targets |
//! | [`disb`] | results of whole workloads: their format, their page, what changed between two of them |
//!
//! Everything here is a function of results: nothing is measured, no device, engine or load is known. Who has
//! results of another kind makes a [`page::Page`] of them.

pub mod chart;
pub mod colour;
pub mod disb;
pub mod machine;
pub mod micro;
pub mod page;
pub mod table;
pub mod text;
pub mod typical;

pub use machine::{Machine, Others};
