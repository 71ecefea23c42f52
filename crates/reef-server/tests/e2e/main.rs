//! The server over loopback, with requests written byte by byte.

mod bad_input;
mod client;
mod dashboard;
mod faults;
mod fixture;
mod gate;
mod large;
mod life;
mod metrics;
mod names;
mod protocol;
