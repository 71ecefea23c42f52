//! Any bytes as the body of an inference request: JSON, elements, parameters, and binary tensors behind it.
//! What the first two bytes mean, `reef_server::fuzzing` says.
//!
//! `cargo +nightly fuzz run -s none infer fuzz/corpus/infer`, from the repository's root.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| reef_server::fuzzing::infer_body(bytes));
