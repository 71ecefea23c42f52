//! Any bytes as the body of an inference request: JSON, elements, parameters, and binary tensors behind it.
//! What the first two bytes mean, `reef_server::fuzzing` says.
//!
//! `cargo +nightly fuzz run -s none infer fuzz/corpus/infer -- -dict=fuzz/dictionaries/infer`
#![no_main]

mod memory;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| memory::within(64, bytes, reef_server::fuzzing::infer_body));
