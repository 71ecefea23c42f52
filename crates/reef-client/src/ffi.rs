//! The client for C.
