//! The body of an RPC on its way in: how large each message is, how much of the budget it takes, and how
//! slowly it may come.
//!
//! Invariants: no byte of a message is passed on that is over its limit, and none of a large one without its
//! part of the budget, which the message has until whoever read it lets go. Knows the five bytes before each
//! message, and of a message its first field, the model's name.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use reef_engine::Class;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use crate::core::access::Client;
use crate::core::budget::Share;
use crate::core::pace::{BYTES_PER_S_MIN, LARGE_BYTES_MIN, PAUSE_MAX, trickles};
use crate::core::problem::Problem;
use crate::core::state::State;
use crate::grpc::status::{status, too_large, too_slow};

/// What stands before each message: whether it is compressed, and its length.
const PREFIX_LEN: usize = 5;

/// Parts of the budget of the messages that were received and not taken yet, in order.
#[derive(Clone, Default)]
pub(crate) struct Shares(Arc<Mutex<VecDeque<Option<Share>>>>);

impl Shares {
    /// That of the message that was read last.
    pub(crate) fn take(&self) -> Option<Share> {
        self.lock().pop_front().flatten()
    }

    /// Has the message that is being read count at least `bytes`: what it became when it was unpacked.
    pub(crate) fn cover(&self, state: &State, bytes: usize) -> Result<(), Status> {
        let mut shares = self.lock();
        let Some(front) = shares.front_mut().filter(|_| bytes >= LARGE_BYTES_MIN) else { return Ok(()) };
        let share = front.get_or_insert_with(|| state.bodies.share(Class::BestEffort));
        share.grow(bytes.saturating_sub(share.bytes())).map_err(status)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Option<Share>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a client may wait as long as it likes before a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Between {
    /// It may: a stream.
    Waits,
    /// It has one message to send.
    Comes,
}

/// The body.
pub(crate) struct Metered {
    body: Incoming,
    state: Arc<State>,
    client: Client,
    bytes_max: usize,
    between: Between,
    shares: Shares,
    forgetful: bool,
    /// Whether a message has begun.
    any: bool,
    /// The bytes before the message, as far as they are there.
    prefix: Vec<u8>,
    /// Of the message, still to come.
    left: usize,
    /// Of the message, received.
    received: usize,
    begun: Instant,
    pause: Pin<Box<Sleep>>,
}

impl Metered {
    /// A client's messages of at most `bytes_max` bytes.
    pub(crate) fn new(
        body: Incoming,
        state: Arc<State>,
        client: Client,
        bytes_max: usize,
        between: Between,
    ) -> Metered {
        Metered {
            body,
            state,
            client,
            bytes_max,
            between,
            shares: Shares::default(),
            forgetful: false,
            any: false,
            prefix: Vec::with_capacity(PREFIX_LEN),
            left: 0,
            received: 0,
            begun: Instant::now(),
            pause: Box::pin(sleep(PAUSE_MAX)),
        }
    }

    /// Of messages whose part of the budget nobody takes: each has it until the next.
    pub(crate) fn forgetful(mut self) -> Metered {
        self.forgetful = true;
        self
    }

    /// Bytes of a message at most.
    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Where the messages' parts of the budget are.
    pub(crate) fn shares(&self) -> Shares {
        self.shares.clone()
    }

    fn meter(&mut self, mut bytes: &[u8]) -> Result<(), Status> {
        while !bytes.is_empty() {
            if self.left == 0 {
                let (prefix, rest) = bytes.split_at(bytes.len().min(PREFIX_LEN - self.prefix.len()));
                self.prefix.extend_from_slice(prefix);
                bytes = rest;
                if self.prefix.len() == PREFIX_LEN {
                    self.begin(bytes)?;
                }
                continue;
            }
            let (now, rest) = bytes.split_at(bytes.len().min(self.left));
            if let Some(Some(share)) = self.shares.lock().back_mut() {
                share.grow(now.len()).map_err(status)?;
            }
            (self.left, self.received, bytes) = (self.left - now.len(), self.received + now.len(), rest);
            if self.left > 0 && trickles(self.begun.elapsed(), self.received) {
                return Err(too_slow(format!(
                    "the message arrives at less than {BYTES_PER_S_MIN} bytes a second"
                )));
            }
        }
        Ok(())
    }

    /// A message begins, with `bytes` or some of them.
    fn begin(&mut self, bytes: &[u8]) -> Result<(), Status> {
        let len = self.prefix[1..].iter().fold(0, |len, &byte| len << 8 | usize::from(byte));
        let packed = self.prefix[0] != 0;
        self.prefix.clear();
        if self.between == Between::Comes && std::mem::replace(&mut self.any, true) {
            return Err(status(Problem::invalid("the RPC has more than one message")));
        }
        if len > self.bytes_max {
            return Err(too_large(len, self.bytes_max));
        }
        (self.left, self.received, self.begun) = (len, 0, Instant::now());
        let share = match len >= LARGE_BYTES_MIN {
            true => {
                let name = model_name(bytes).filter(|_| !packed);
                let share = self.state.bodies.share(self.class(name).map_err(status)?);
                share.check(len as u64).map_err(status)?;
                Some(share)
            }
            false => None,
        };
        let mut shares = self.shares.lock();
        if self.forgetful {
            shares.clear();
        }
        shares.push_back(share);
        Ok(())
    }

    /// The class of a large message that is for the model `name`, if that is known already.
    fn class(&self, name: Option<&str>) -> Result<Class, Problem> {
        match name {
            Some(name) => {
                self.client.check_model(name)?;
                Ok(self.client.class(self.state.find_ready(name, None)?.settings.class))
            }
            None => Ok(Class::BestEffort),
        }
    }

    /// Whether a part of a message is still to come.
    fn is_amid(&self) -> bool {
        self.left > 0 || !self.prefix.is_empty()
    }

    /// Whether the client owes something.
    fn is_owed(&self) -> bool {
        self.is_amid() || self.between == Between::Comes
    }
}

/// The first field of an inference request, where all of it is there.
fn model_name(bytes: &[u8]) -> Option<&str> {
    match bytes {
        [0x0A, len @ 0..0x80, rest @ ..] => std::str::from_utf8(rest.get(..usize::from(*len))?).ok(),
        _ => None,
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
            if this.is_owed() {
                ready!(this.pause.as_mut().poll(context));
                let seconds = PAUSE_MAX.as_secs();
                let slow = format!("nothing of the message arrived for {seconds} s");
                return Poll::Ready(Some(Err(too_slow(slow))));
            }
            return Poll::Pending;
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(&[][..], |bytes| bytes);
                if !bytes.is_empty() {
                    this.pause.as_mut().reset(tokio::time::Instant::now() + PAUSE_MAX);
                }
                Some(this.meter(bytes).map(|()| frame))
            }
            Some(Err(error)) => Some(Err(Status::cancelled(error.to_string()))),
            None if this.is_amid() => Some(Err(status(Problem::invalid("the message ended early")))),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && !self.is_amid()
    }
}
