//! The answer that is on its way: a future for any runtime, and a blocking wait.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use reef_base::{Class, ModelKey};

use crate::error::InferError;
use crate::fault::contain;
use crate::help::Helping;
use crate::request::InferResponse;
use crate::shared::Shared;
use crate::texts::Lexicon;
use crate::ticket::{Finished, Ticket};

/// A request in the engine. Await it on any runtime or block in [`InferFuture::wait`]; dropping it cancels
/// the request: a queued one never runs, a running one stops at its next poll point or with its host kernel.
///
/// On a device with virtual time only [`InferFuture::wait`], [`crate::Engine::run_until`] and
/// [`crate::Engine::step`] make time pass.
#[must_use = "dropping it cancels the request"]
pub struct InferFuture {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ticket: Arc<Ticket>,
    pub(crate) model: Arc<ModelKey>,
    pub(crate) class: Class,
    pub(crate) id: Option<String>,
    /// Indices of the outputs wanted; `None` for all.
    pub(crate) wanted: Option<Vec<usize>>,
    pub(crate) lexicon: Option<Lexicon>,
    /// Whether the end was taken.
    pub(crate) ended: bool,
}

impl InferFuture {
    /// Blocks until the request ends.
    pub fn wait(mut self) -> Result<InferResponse, InferError> {
        let finished = self.shared.wait(&self.ticket, self.class, None);
        self.end(finished)
    }

    /// As [`InferFuture::wait`], on the thread that submitted the request, which may have to help the device.
    pub(crate) fn wait_helping(mut self, helping: Option<Helping<'_>>) -> Result<InferResponse, InferError> {
        let finished = self.shared.wait(&self.ticket, self.class, helping);
        self.end(finished)
    }

    /// Asks for the request's end; it then ends with [`InferError::Cancelled`] unless it is done first.
    pub fn cancel(&self) {
        self.shared.cancel(&self.ticket);
    }

    fn end(&mut self, finished: Finished) -> Result<InferResponse, InferError> {
        self.ended = true;
        let record = finished.result?;
        Ok(InferResponse {
            id: self.id.take(),
            model: self.model.clone(),
            device: self.shared.names[self.ticket.lane()].clone(),
            class: record.class,
            timings: record.timings,
            first_block: record.first_block,
            preempted: record.preempted,
            late: record.late,
            counters: record.counters,
            buffers: finished.buffers.expect("a request that was run has its buffers"),
            wanted: self.wanted.take(),
            lexicon: self.lexicon.take(),
        })
    }
}

impl Future for InferFuture {
    type Output = Result<InferResponse, InferError>;

    /// Panics when polled again after its end.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        assert!(!this.ended, "polled after its end");
        this.ticket.poll_take(context).map(|finished| this.end(finished))
    }
}

impl Drop for InferFuture {
    fn drop(&mut self) {
        if !self.ended {
            // A bug in there has failed the engine already; who lets go of a request need not hear of it.
            let _ = contain(|| self.cancel());
        }
    }
}

impl fmt::Debug for InferFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InferFuture")
            .field("model", &self.model)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
