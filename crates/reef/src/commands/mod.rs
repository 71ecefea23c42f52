//! What each subcommand does.

#[cfg(feature = "bench")]
pub mod bench;
pub mod check;
pub mod compiled;
#[cfg(feature = "bench")]
pub mod demo;
pub mod devices;
pub mod inspect;
pub mod profile;
pub mod program;
pub mod run;
pub mod running;
pub mod serve;
#[cfg(feature = "bench")]
pub mod sim;
pub mod stream;
pub mod top;
pub mod zoo;
