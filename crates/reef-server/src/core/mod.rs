//! What is asked, what is answered and what the problem is, whichever protocol carries it.
//!
//! Knows the engine's API; no status codes, header names or bytes of a protocol. A protocol is a module
//! beside this one that translates.

pub(crate) mod access;
pub(crate) mod answer;
pub(crate) mod budget;
pub(crate) mod classes;
pub(crate) mod control;
pub(crate) mod dashboard;
pub(crate) mod fault;
pub(crate) mod lanes;
pub(crate) mod loading;
pub(crate) mod logging;
pub(crate) mod note;
pub(crate) mod pace;
pub(crate) mod parameter;
pub(crate) mod problem;
pub(crate) mod process;
pub(crate) mod question;
pub(crate) mod regions;
pub(crate) mod requests;
pub(crate) mod settings;
pub(crate) mod state;
pub(crate) mod statistics;
pub(crate) mod timeline;
pub(crate) mod tokens;
