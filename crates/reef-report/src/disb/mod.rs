//! Results of DISB and of workloads of one's own.
//!
//! | module | owns |
//! |---|---|
//! | [`results`] | what was found, as it is written and read back |
//! | [`page`](mod@page) | the page for people |
//! | [`summary`] | the text for a terminal |
//! | [`compare`] | what changed between two runs |
//! | [`paper`] | what the paper reports |

pub mod compare;
pub mod page;
pub mod paper;
pub mod results;
#[cfg(test)]
pub(crate) mod sample;
mod summary;

pub use page::{latency_picture, page};
pub use results::{DisbReport, ResultsError};
