//! Copies to the device beside the tasks' own: weights and descriptors of plans that are loaded.
//!
//! They go through pinned memory in pieces, two at a time, each on a stream of its own: one is filled while
//! the other is copied. A task's copy waits for two pieces at most. Who loads asks whether a copy is done
//! rather than waiting in the driver; no kernel is queued on these streams.

use std::sync::Arc;
use std::time::Duration;

use crate::driver::{Context, PinnedBytes, Stream};
use crate::error::CudaError;
use crate::memory::DevicePart;

/// Bytes of a piece.
const PIECE: usize = 1 << 20;
/// How long it sleeps between two looks at a copy, which takes about as long.
const NAP: Duration = Duration::from_micros(20);

pub(crate) struct Uploader {
    halves: [Half; 2],
    next: usize,
}

struct Half {
    stream: Stream,
    staging: PinnedBytes,
}

impl Half {
    fn new(context: &Arc<Context>, priority: i32) -> Result<Half, CudaError> {
        Ok(Half { stream: Stream::new(context, priority)?, staging: PinnedBytes::zeroed(context, PIECE)? })
    }

    fn until_done(&self) -> Result<(), CudaError> {
        while !self.stream.is_done()? {
            std::thread::sleep(NAP);
        }
        Ok(())
    }
}

impl Uploader {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Uploader, CudaError> {
        let (least, _) = context.priorities()?;
        let halves = [Half::new(context, least)?, Half::new(context, least)?];
        Ok(Uploader { halves, next: 0 })
    }

    /// Begins to copy `bytes` to the start of `to`, which has as many; done after [`Uploader::finish`], until
    /// which `to` is kept.
    #[allow(unsafe_code)]
    pub(crate) fn upload(&mut self, to: &DevicePart, bytes: &[u8]) -> Result<(), CudaError> {
        for (index, piece) in bytes.chunks(PIECE).enumerate() {
            let half = &mut self.halves[self.next];
            half.until_done()?;
            half.staging.as_mut_slice()[..piece.len()].copy_from_slice(piece);
            let address = to.address() + (index * PIECE) as u64;
            // SAFETY: the half is not filled again before the copy is done, and who called keeps the part.
            unsafe { half.stream.upload(address, half.staging.as_ptr(), piece.len()) }?;
            self.next = 1 - self.next;
        }
        Ok(())
    }

    /// Waits until all copies are done.
    pub(crate) fn finish(&self) -> Result<(), CudaError> {
        self.halves.iter().try_for_each(Half::until_done)
    }
}
