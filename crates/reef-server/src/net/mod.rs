//! Sockets, below every protocol: who may connect, for how long, and TLS.
//!
//! A protocol gets accepted connections ([`accept::Accepted`]) from [`accept::accept`] and says what each of
//! them is doing; which one has to go when there are too many is decided here.

pub(crate) mod accept;
pub(crate) mod connection;
pub(crate) mod credentials;
pub(crate) mod io;
pub(crate) mod outgoing;
pub(crate) mod table;
pub(crate) mod tls;
