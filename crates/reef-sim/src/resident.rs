//! A device with a resident executor, in virtual time: compute units pull blocks from stage cursors, and
//! leave less urgent blocks at their next poll point.
//!
//! | module | owns |
//! |---|---|
//! | [`constants`] | what polls, pulls, barriers and hand-overs take, each with its source |
//! | [`model`] | models as stages of blocks, from `reef profile --json` or from kernels measured on an MI50 |
//! | [`executor`] | the board, the units, what a free unit takes next, kills and resumption |
//! | [`alone`](mod@alone) | what models take alone; models that take what was measured |
//!
//! It is a model of `reef-cpu`'s executor, and of one on a GPU. It reads the same constants for both.

pub mod alone;
pub mod constants;
pub mod executor;
pub mod model;
mod shares;

pub use alone::{alone, calibrated};
pub use constants::ResidentConstants;
pub use executor::{Counters, Ended, Executor, Padding, Rules, Sharing};
pub use model::ResidentModel;
