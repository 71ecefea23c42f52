//! The server over gRPC, with the client that `tonic` makes of our service.

pub mod client;

mod access;
mod answers;
mod bad_input;
mod infer;
mod large;
mod life;
mod regions;
mod settings;
pub mod stream;
