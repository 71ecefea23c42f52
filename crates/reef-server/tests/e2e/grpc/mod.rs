//! The server over gRPC, with the client that `tonic` makes of our service, and with one on bare HTTP/2 that
//! does what no library would.

pub mod bare;
pub mod client;

mod access;
mod answers;
mod bad_input;
mod deadline;
mod health;
mod hostile;
mod infer;
mod large;
mod life;
mod regions;
mod settings;
pub mod stream;
mod tls;
