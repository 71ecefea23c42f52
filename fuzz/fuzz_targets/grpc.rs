//! Any bytes as the message of an inference request over gRPC: what bounds it before it is built, its tensors
//! and parameters.
//!
//! `cargo +nightly fuzz run -s none grpc fuzz/corpus/grpc`, from the repository's root.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| reef_server::fuzzing::infer_message(bytes));
