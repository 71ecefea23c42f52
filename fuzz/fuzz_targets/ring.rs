//! Any bytes as what the two sides of the ring say to each other: messages on the socket, entries in the
//! segment, and what a server says about where things lie.
//!
//! `cargo +nightly fuzz run -s none ring fuzz/corpus/ring -- -dict=fuzz/dictionaries/ring`
#![no_main]

mod memory;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| memory::within(128, bytes, reef_server::fuzzing::ring_message));
