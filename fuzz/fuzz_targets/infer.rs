//! Any bytes as the body of an inference request: JSON, elements, parameters, and binary tensors behind it.
//!
//! The first two bytes say what the header `Inference-Header-Content-Length` says: below 0x8000 a length that
//! may be wrong; 0xffff that there is none; else the length of what follows, less some.
//!
//! `cargo +nightly fuzz run -s none infer fuzz/corpus/infer`, from the repository's root.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((head, body)) = bytes.split_at_checked(2) else { return };
    let header = match u16::from_be_bytes([head[0], head[1]]) {
        u16::MAX => None,
        stated @ 0..0x8000 => Some(stated.to_string()),
        less => Some(body.len().saturating_sub(usize::from(less - 0x8000)).to_string()),
    };
    reef_server::fuzzing::infer_body(body, header.as_deref());
});
