//! What each subcommand does.

pub mod bench;
pub mod demo;
pub mod devices;
pub mod inspect;
pub mod profile;
pub mod run;
pub mod serve;
pub mod zoo;
