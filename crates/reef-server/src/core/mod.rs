//! What is asked, what is answered and what the problem is, whichever protocol carries it.
//!
//! Knows the engine's API; no status codes, header names or bytes of a protocol. A protocol is a module
//! beside this one that translates.

pub(crate) mod access;
pub(crate) mod answer;
pub(crate) mod budget;
pub(crate) mod fault;
pub(crate) mod lanes;
pub(crate) mod problem;
pub(crate) mod question;
pub(crate) mod state;
