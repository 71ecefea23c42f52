//! The answer that is on its way: a future for any runtime, and a blocking wait.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::error::InferError;
use crate::request::InferResponse;

/// A request in the engine. Await it on any runtime or block in [`InferFuture::wait`]; dropping it cancels the request:
/// a queued one never runs, a running one stops at its next poll point.
#[derive(Debug)]
#[must_use = "dropping it cancels the request"]
pub struct InferFuture {}

impl InferFuture {
    /// Blocks until the request ends.
    pub fn wait(self) -> Result<InferResponse, InferError> {
        Err(InferError::ShuttingDown)
    }

    /// Asks for the request's end; it then ends with [`InferError::Cancelled`] unless it is done first.
    pub fn cancel(&self) {}
}

impl Future for InferFuture {
    type Output = Result<InferResponse, InferError>;

    fn poll(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Err(InferError::ShuttingDown))
    }
}
