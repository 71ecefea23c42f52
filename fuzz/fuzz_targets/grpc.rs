//! Any bytes as the message of an inference request over gRPC: what bounds it before it is built, its tensors
//! and parameters.
//!
//! `cargo +nightly fuzz run -s none grpc fuzz/corpus/grpc -- -dict=fuzz/dictionaries/grpc`
#![no_main]

mod memory;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| memory::within(64, bytes, reef_server::fuzzing::infer_message));
