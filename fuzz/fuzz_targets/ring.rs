//! Any bytes as what the two sides of the ring say to each other: messages on the socket, entries in the
//! segment, and what a server says about where things lie.
//!
//! `cargo +nightly fuzz run -s none ring fuzz/corpus/ring`, from the repository's root.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| reef_server::fuzzing::ring_message(bytes));
