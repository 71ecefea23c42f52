//! An RPC's answer on its way out: messages in frames, then the status.
//!
//! Invariant: tensors are handed to the socket as they are; only what is small is copied behind the rest of
//! its message. Whatever is dropped here cancels what it waits for.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::Stream;
use hyper::body::{Body, Frame};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use reef_engine::Class;
use tonic::Status;

use crate::core::note::Ran;
use crate::grpc::pb::ModelInferResponse;

/// Tensors that add up to less are copied behind the rest of their message, so that it is one piece and the
/// engine has its buffers back at once.
const JOIN_BYTES_MAX: usize = 16 << 10;

/// The field of the tensors' bytes in `ModelInferResponse`.
const RAW_FIELD: u32 = 6;

/// The field of the answer in `ModelStreamInferResponse`.
const STREAM_FIELD: u32 = 2;

/// Messages that come as they are made, each in its frame; the last item may be an error.
pub(crate) type Frames = Pin<Box<dyn Stream<Item = Result<Vec<Bytes>, Status>> + Send>>;

/// What ends an answer before its time, with a status.
pub(crate) type End = Pin<Box<dyn Future<Output = Status> + Send>>;

/// The body of an answer.
pub(crate) struct Reply {
    chunks: VecDeque<Bytes>,
    source: Source,
    /// What ends it before its time.
    end: Option<End>,
    /// Kept until it has gone out.
    guard: Option<Box<dyn Send>>,
    watches: bool,
}

enum Source {
    /// What is still to come.
    Frames(Frames),
    /// Of a service that frames its own messages.
    Foreign(tonic::body::Body),
    /// Nothing but the status.
    Status(Status),
    Done,
}

impl Reply {
    /// Answers with one message.
    pub(crate) fn one(frame: Vec<Bytes>) -> Response<Reply> {
        response(Reply::new(frame.into(), Source::Status(Status::ok(""))))
    }

    /// Answers with messages as they come, or until `end`.
    pub(crate) fn many(frames: Frames, end: End) -> Response<Reply> {
        let mut reply = Reply::new(VecDeque::new(), Source::Frames(frames));
        reply.end = Some(end);
        response(reply)
    }

    /// Answers with an error alone.
    pub(crate) fn error(status: &Status) -> Response<Reply> {
        let mut response = response(Reply::new(VecDeque::new(), Source::Done));
        if let Err(unwritable) = status.add_header(response.headers_mut()) {
            tracing::debug!(%unwritable, "a status cannot be written");
        }
        response
    }

    /// Hands on what another service answers, until `end`.
    pub(crate) fn foreign(answer: Response<tonic::body::Body>, end: End) -> Response<Reply> {
        answer.map(|body| {
            let mut reply = Reply::new(VecDeque::new(), Source::Foreign(body));
            reply.end = Some(end);
            reply
        })
    }

    /// Not an answer to an RPC.
    pub(crate) fn plain(status: StatusCode) -> Response<Reply> {
        let mut response = Response::new(Reply::new(VecDeque::new(), Source::Done));
        *response.status_mut() = status;
        response
    }

    /// Keeps `guard` until the answer has gone out.
    pub(crate) fn keep(&mut self, guard: impl Send + 'static) {
        self.guard = Some(Box::new((self.guard.take(), guard)));
    }

    /// Says that what comes of it are changes, which are no work; `watch` is kept until they end.
    pub(crate) fn watch(&mut self, watch: impl Send + 'static) {
        self.watches = true;
        self.keep(watch);
    }

    /// Whether that was said.
    pub(crate) fn is_watch(&self) -> bool {
        self.watches
    }

    fn new(chunks: VecDeque<Bytes>, source: Source) -> Reply {
        Reply { chunks, source, end: None, guard: None, watches: false }
    }

    fn finish(&mut self, status: &Status) -> Option<Result<Frame<Bytes>, Status>> {
        (self.source, self.end) = (Source::Done, None);
        let mut trailers = HeaderMap::new();
        if let Err(unwritable) = status.add_header(&mut trailers) {
            tracing::debug!(%unwritable, "a status cannot be written");
        }
        Some(Ok(Frame::trailers(trailers)))
    }
}

fn response(reply: Reply) -> Response<Reply> {
    let mut response = Response::new(reply);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some(chunk) = this.chunks.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            // First, so that a client which always has something to ask has an end, too.
            if let Some(Poll::Ready(status)) = this.end.as_mut().map(|end| end.as_mut().poll(context)) {
                return Poll::Ready(this.finish(&status));
            }
            let next = match &mut this.source {
                Source::Frames(frames) => frames.as_mut().poll_next(context),
                Source::Foreign(body) => match Pin::new(body).poll_frame(context) {
                    Poll::Ready(frame) => return Poll::Ready(frame),
                    Poll::Pending => Poll::Pending,
                },
                Source::Status(status) => {
                    let status = status.clone();
                    return Poll::Ready(this.finish(&status));
                }
                Source::Done => return Poll::Ready(None),
            };
            match next {
                Poll::Ready(Some(Ok(frame))) => this.chunks.extend(frame),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(this.finish(&status)),
                Poll::Ready(None) => return Poll::Ready(this.finish(&Status::ok(""))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty() && matches!(self.source, Source::Done)
    }
}

/// A message in its frame.
pub(crate) fn frame(message: &impl Message) -> Result<Vec<Bytes>, Status> {
    let mut bytes = prefixed(message.encoded_len(), message.encoded_len())?;
    message.encode(&mut bytes).map_err(|error| Status::internal(error.to_string()))?;
    Ok(vec![bytes.freeze()])
}

/// What an inference is answered with: all but the tensors' bytes, and these.
pub(crate) struct Answer {
    /// Of its request.
    pub(crate) class: Class,
    pub(crate) ran: Ran,
    pub(crate) head: ModelInferResponse,
    pub(crate) raw: Vec<Bytes>,
}

/// How an answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Alone,
    /// Inside the message of a stream.
    InStream,
}

/// An inference's answer in its frame, tensors without a copy.
pub(crate) fn frame_answer(answer: Answer, form: Form) -> Result<Vec<Bytes>, Status> {
    let Answer { head, raw, .. } = answer;
    let around = |bytes: &Bytes| key_len(RAW_FIELD) + encoded_len_varint(bytes.len() as u64);
    let tensors: usize = raw.iter().map(Bytes::len).sum();
    let len = head.encoded_len() + raw.iter().map(around).sum::<usize>() + tensors;
    let outside = match form {
        Form::Alone => 0,
        Form::InStream => key_len(STREAM_FIELD) + encoded_len_varint(len as u64),
    };
    let join = tensors <= JOIN_BYTES_MAX;
    let mut bytes = prefixed(outside + len, outside + len - if join { 0 } else { tensors })?;
    if form == Form::InStream {
        encode_key(STREAM_FIELD, WireType::LengthDelimited, &mut bytes);
        encode_varint(len as u64, &mut bytes);
    }
    head.encode(&mut bytes).map_err(|error| Status::internal(error.to_string()))?;
    let mut chunks = Vec::with_capacity(if join { 1 } else { 2 * raw.len() });
    for tensor in raw {
        encode_key(RAW_FIELD, WireType::LengthDelimited, &mut bytes);
        encode_varint(tensor.len() as u64, &mut bytes);
        if join {
            bytes.put_slice(&tensor);
        } else {
            chunks.push(bytes.split().freeze());
            chunks.push(tensor);
        }
    }
    if join {
        chunks.push(bytes.freeze());
    }
    Ok(chunks.into_iter().filter(|chunk| !chunk.is_empty()).collect())
}

/// The five bytes before a message of `len` bytes, with room for `room` more.
fn prefixed(len: usize, room: usize) -> Result<BytesMut, Status> {
    let too_long = |_| Status::out_of_range(format!("the answer has {len} bytes, more than a message may"));
    let len = u32::try_from(len).map_err(too_long)?;
    let mut bytes = BytesMut::with_capacity(5 + room);
    bytes.put_u8(0);
    bytes.put_u32(len);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::pb::ModelStreamInferResponse;

    #[test]
    fn frames_hold_what_the_message_says_and_large_tensors_are_not_copied() {
        for (size, pieces) in [(7, 1), (JOIN_BYTES_MAX, 4)] {
            let raw = vec![Bytes::from(vec![1; size]), Bytes::from(vec![2; size])];
            let head = ModelInferResponse { id: "7".into(), ..Default::default() };
            let whole = ModelInferResponse { raw_output_contents: raw.clone(), ..head.clone() };
            let answer = || Answer {
                class: Class::BestEffort,
                ran: Ran::none(),
                head: head.clone(),
                raw: raw.clone(),
            };
            let alone = frame_answer(answer(), Form::Alone).unwrap();
            assert_eq!(alone.len(), pieces);
            let same = |a: &Bytes, b: &Bytes| a.as_ptr() == b.as_ptr();
            assert_eq!(raw.iter().all(|raw| alone.iter().any(|chunk| same(chunk, raw))), pieces > 1);
            let bytes = alone.concat();
            assert_eq!(bytes[..5], [&[0][..], &((bytes.len() - 5) as u32).to_be_bytes()].concat());
            assert_eq!(ModelInferResponse::decode(&bytes[5..]).unwrap(), whole);
            let bytes = frame_answer(answer(), Form::InStream).unwrap().concat();
            let inside = ModelStreamInferResponse::decode(&bytes[5..]).unwrap();
            assert_eq!(inside.infer_response, Some(whole));
        }
    }
}
