//! Results of DISB and of workloads of one's own.
//!
//! | module | owns |
//! |---|---|
//! | [`results`] | what was found, as it is written and read back |
//! | [`typical`] | what repetitions have in common, and how sure that is |
//! | [`html`] | the page for people |
//! | [`summary`] | the text for a terminal |
//! | [`compare`] | what changed between two runs |
//! | [`paper`] | what the paper reports |

pub mod compare;
pub mod html;
pub mod paper;
pub mod results;
#[cfg(test)]
pub(crate) mod sample;
mod summary;
pub mod typical;

pub use results::{DisbReport, ResultsError};
