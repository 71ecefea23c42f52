//! Any bytes as what the two sides of the ring say to each other: messages on the socket, entries in the
//! segment, and what a server says about where things lie.
//!
//! `cargo +nightly fuzz run -s none ring fuzz/corpus/ring`, from the repository's root.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reef_client::protocol::{Ended, Request, ToClient, ToServer};

fuzz_target!(|bytes: &[u8]| {
    let mut words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
    let entry: [u64; 7] = std::array::from_fn(|_| words.next().unwrap_or(0));
    if let Some(request) = Request::from_entry(&entry) {
        assert_eq!(request.to_entry(), entry, "an entry says one thing");
    }
    if let Some(ended) = Ended::from_entry(&entry) {
        assert_eq!(Ended::from_entry(&ended.to_entry()), Some(ended));
    }
    match serde_json::from_slice(bytes) {
        Ok(ToServer::Open(wanted)) => reef_server::fuzzing::open_model(wanted),
        Ok(ToServer::Hello { depth, tensor_bytes, .. }) => {
            if let Some(layout) = reef_client::Layout::new(depth, tensor_bytes) {
                assert!(layout.is_valid() && layout.bytes() >= tensor_bytes);
            }
        }
        Ok(ToServer::Cancel { .. }) | Err(_) => {}
    }
    match serde_json::from_slice(bytes) {
        Ok(ToClient::Segment { layout }) => drop(layout.is_valid().then(|| layout.bytes())),
        Ok(ToClient::Opened(opened)) => drop(opened.layout.is_valid()),
        Ok(ToClient::Refused { .. }) | Err(_) => {}
    }
});
