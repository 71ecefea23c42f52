//! The shared-memory fast path: clients of this host that connect to a Unix socket and then ask through
//! rings in memory. What lies in a segment, and how entries pass, `reef-client` says; here is the server's
//! side.
//!
//! Each connection has a thread of its own: it sleeps on its own socket, copies its own tensors, and a
//! client that sends nonsense, or much, keeps none but itself waiting. Requests go through the engine's
//! futures rather than through a session, for a connection has several in flight, of any class, and each
//! can be cancelled while it runs.
//!
//! While no request is in flight the thread looks at the ring for some microseconds before it sleeps. A short
//! real-time request that comes alone it does itself, at the seat of a compute unit that sleeps. While a
//! request is in flight it sleeps at once, until the engine or the client wakes it: the core it would spin on
//! is one that compute units work on.
//!
//! Invariants: nothing in the segment is trusted. An entry is read once and then judged; offsets and
//! lengths are the server's own, made when the model was opened; tensors are copied out before anybody
//! looks at them. What a client writes at the wrong time changes its own results and nothing else. What
//! makes no sense at all ends its connection. The end of a connection drops its futures, which cancels its
//! requests, and then frees its memory.

mod connection;
mod listen;
mod models;
mod note;
mod shared;
mod wake;

pub use listen::RingOptions;
pub(crate) use listen::{Bound, Ring, bind};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use models::OpenedModel;
