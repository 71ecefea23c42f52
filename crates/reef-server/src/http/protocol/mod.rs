//! The Open Inference Protocol's bytes: what a request says and how an answer is written; those of KServe's
//! first protocol.
//!
//! Knows JSON and the binary tensor extension; knows no socket and no engine beyond its element types.

pub(crate) mod body;
pub(crate) mod elements;
pub(crate) mod json;
pub(crate) mod list;
pub(crate) mod predict;
pub(crate) mod request;
pub(crate) mod response;
