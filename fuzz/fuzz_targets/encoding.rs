//! Any bytes as a compressed body: gzip, or deflate with and without zlib's frame. The first byte says
//! which, and in how large pieces it arrives.
//!
//! `cargo +nightly fuzz run -s none encoding fuzz/corpus/encoding`, from the repository's root.
#![no_main]

use libfuzzer_sys::fuzz_target;

/// Bytes that may come out.
const BYTES_MAX: usize = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Some((&head, body)) = bytes.split_first() else { return };
    reef_server::fuzzing::compressed_body(head & 1 == 0, body, usize::from(head >> 1) * 64, BYTES_MAX);
});
