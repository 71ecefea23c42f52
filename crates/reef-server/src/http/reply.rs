//! An answer on its way to the socket: a row of chunks with a known length.
//!
//! Invariant: the length is stated before the first byte, so head and chunks leave in one vectored write
//! where the socket takes them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::core::problem::Problem;
use crate::http::error::ApiError;
use crate::net::connection::Busy;

/// The bytes of an answer.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    chunks: VecDeque<Bytes>,
    len: u64,
    /// Dropped when all is on its way to the socket.
    busy: Option<Busy>,
}

impl Chunks {
    /// `chunks` in order.
    pub(crate) fn new(chunks: Vec<Bytes>) -> Chunks {
        let chunks: VecDeque<Bytes> = chunks.into_iter().filter(|chunk| !chunk.is_empty()).collect();
        Chunks { len: chunks.iter().map(|chunk| chunk.len() as u64).sum(), chunks, busy: None }
    }

    /// Holds the request in progress until these chunks are gone.
    pub(crate) fn hold(&mut self, busy: Busy) {
        self.busy = Some(busy);
    }

    /// Bytes that are left.
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// The chunks in order.
    pub(crate) fn into_chunks(self) -> VecDeque<Bytes> {
        self.chunks
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let chunk = self.chunks.pop_front();
        self.len -= chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len)
    }
}

/// What handlers give back.
pub(crate) type Reply = Response<Chunks>;

/// A reply of these chunks.
pub(crate) fn reply(status: StatusCode, content_type: &'static str, chunks: Vec<Bytes>) -> Reply {
    let mut reply = Response::new(Chunks::new(chunks));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// A JSON reply.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(text) => reply(status, "application/json", vec![text.into()]),
        Err(fault) => error(&Problem::internal(format!("cannot write the answer: {fault}")).into()),
    }
}

/// An error reply.
pub(crate) fn error(error: &ApiError) -> Reply {
    let mut reply = reply(error.status, "application/json", vec![error.body().into()]);
    if let Some(seconds) = error.retry_after_s {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.status == StatusCode::UNAUTHORIZED {
        reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"reef\""));
    }
    reply
}
