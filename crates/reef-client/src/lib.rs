//! `reef-client`: inference on a server of the same host through shared memory.
//!
//! A client connects to the server's Unix socket and gets one segment of shared memory: two rings of
//! entries and room for tensors. It opens models on the socket, each with concrete shapes and a number of
//! *slots*; a slot has room for all inputs and outputs of one request. From then on a request is: write the
//! inputs into a slot, push an entry, take the completion, read the outputs. None of this is a system call
//! while both sides are awake.
//!
//! | module | owns |
//! |---|---|
//! | [`protocol`] | messages on the socket, what entries say, where things lie in the segment |
//! | [`ring`] | entries that pass from one side to the other, and sleep: the lock-free protocol |
//! | [`segment`] | the memory, and the only pointers into it |
//! | [`socket`] | messages and descriptors on a Unix socket |
//! | [`trace`] | which span asks |
//! | [`client`] | the client's side |
//! | `ffi` | the same for C (`include/reef.h`) |
//!
//! The server uses the first five as well. It believes nothing that stands in the segment; a client believes
//! its server, but stays within the segment whatever that says.
//!
//! Invariant: knows no other crate of the project.

#[cfg(not(loom))]
pub mod client;
#[cfg(not(loom))]
mod ffi;
#[cfg(not(loom))]
pub mod protocol;
pub mod ring;
#[cfg(not(loom))]
pub mod segment;
#[cfg(not(loom))]
pub mod socket;
#[cfg(not(loom))]
pub mod trace;

#[cfg(not(loom))]
pub use client::{Client, Completion, Error, Model, Options, Output, Slot, Terms};
#[cfg(not(loom))]
pub use protocol::{Class, Layout, OpenModel, Status, Token, WantedOutput};
#[cfg(not(loom))]
pub use trace::TraceParent;
