//! The server over loopback, with requests written byte by byte.

mod access;
mod bad_input;
mod client;
mod faults;
mod fixture;
mod gate;
mod large;
mod life;
mod limits;
mod metrics;
mod protocol;
mod telemetry;
mod tls;
