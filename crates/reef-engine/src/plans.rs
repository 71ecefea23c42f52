//! The plans of a model: one per concrete set of input shapes, with the buffers that its requests reuse.

use std::sync::{Mutex, PoisonError};

use reef_device::Io;
use reef_plan::IoSpec;

/// Buffers of one plan that wait for their next request, and the specifications that describe them.
#[derive(Debug)]
pub(crate) struct IoPool {
    pub(crate) inputs: Vec<IoSpec>,
    pub(crate) outputs: Vec<IoSpec>,
    free: Mutex<Vec<Io>>,
}

impl IoPool {
    /// Keeps `io` for a later request, unless enough are kept already.
    pub(crate) fn give_back(&self, io: Io) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < free.capacity() {
            free.push(io);
        }
    }
}
