//! Any bytes as a compressed body: gzip, or deflate with and without zlib's frame. What the first byte means,
//! `reef_server::fuzzing` says.
//!
//! `cargo +nightly fuzz run -s none encoding fuzz/corpus/encoding`, from the repository's root.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| reef_server::fuzzing::compressed_body(bytes));
