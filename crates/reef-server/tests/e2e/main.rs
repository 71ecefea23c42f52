//! The server over loopback, with requests written byte by byte over HTTP, and with a
//! library's client over gRPC.

// What the server says is not a client's word.
#![allow(clippy::disallowed_methods)]

mod access;
mod bad_input;
mod client;
mod control;
mod dashboard;
mod encoding;
mod faults;
mod fixture;
mod gate;
mod grpc;
mod large;
mod life;
mod limits;
mod log;
mod metrics;
mod names;
mod predict;
mod protocol;
mod regions;
mod ring;
mod ring_access;
mod ring_hostile;
mod slow;
mod telemetry;
mod tls;
