//! Reading a request's body: bounded in bytes and in time.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};

use crate::core::budget::Share;
use crate::core::pace::{BYTES_PER_S_MIN, PAUSE_MAX, trickles};
use crate::core::problem::Problem;
use crate::http::error::ApiError;
use crate::http::protocol::body::Body;
use crate::net::connection::Busy;

/// How long a refused body is read and thrown away, so that the client gets to read why.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(10);

/// What a body may take.
pub(crate) struct Allowance<'a> {
    /// Bytes of this body at most.
    pub(crate) bytes_max: usize,
    /// Its part of what all bodies may take together; `None` for a small one.
    pub(crate) share: Option<&'a mut Share>,
    /// The client waits for our word to send it.
    pub(crate) expects_continue: bool,
    /// Is told when all of it is there.
    pub(crate) busy: &'a Busy,
}

/// The whole body.
pub(crate) async fn receive(mut incoming: Incoming, allowance: Allowance<'_>) -> Result<Body, ApiError> {
    let Allowance { bytes_max, mut share, expects_continue, busy } = allowance;
    if let Err(error) = check_declared(incoming.size_hint().lower(), bytes_max, share.as_deref()) {
        refuse(incoming, bytes_max, expects_continue);
        return Err(error);
    }
    let mut body = Body::default();
    let start = Instant::now();
    while let Some(chunk) = next_chunk(&mut incoming).await? {
        let granted = if trickles(start.elapsed(), body.len() + chunk.len()) {
            Err(ApiError::too_slow(format!("the body arrives at less than {BYTES_PER_S_MIN} bytes a second")))
        } else if chunk.len() > bytes_max - body.len() {
            Err(ApiError::too_large(format!("the body has more than the allowed {bytes_max} bytes")))
        } else {
            share.as_mut().map_or(Ok(()), |share| share.grow(chunk.len())).map_err(ApiError::from)
        };
        if let Err(error) = granted {
            discard(incoming, bytes_max);
            return Err(error);
        }
        body.push(chunk);
    }
    busy.received();
    Ok(body)
}

/// Deals with a body that nobody will look at. A client that waits for our word need not send it at all.
pub(crate) fn refuse(incoming: Incoming, bytes_max: usize, expects_continue: bool) {
    if !expects_continue {
        discard(incoming, bytes_max);
    }
}

fn check_declared(declared: u64, bytes_max: usize, share: Option<&Share>) -> Result<(), ApiError> {
    if declared > bytes_max as u64 {
        return Err(ApiError::too_large(format!(
            "the body has {declared} bytes, at most {bytes_max} are allowed"
        )));
    }
    Ok(share.map_or(Ok(()), |share| share.check(declared))?)
}

/// Reads on in the background and throws away, within bounds, so that an answer sent early reaches a client
/// that is still sending. Beyond the bounds the connection is closed.
pub(crate) fn discard(mut incoming: Incoming, bytes_max: usize) {
    if incoming.is_end_stream() {
        return;
    }
    tokio::spawn(tokio::time::timeout(DISCARD_TIME_MAX, async move {
        let mut left = bytes_max.saturating_mul(2);
        while let Ok(Some(chunk)) = next_chunk(&mut incoming).await {
            let Some(rest) = left.checked_sub(chunk.len()) else { break };
            left = rest;
        }
    }));
}

async fn next_chunk(incoming: &mut Incoming) -> Result<Option<Bytes>, ApiError> {
    loop {
        let frame = poll_fn(|context| Pin::new(&mut *incoming).poll_frame(context));
        let frame = tokio::time::timeout(PAUSE_MAX, frame).await.map_err(|_| {
            ApiError::too_slow(format!("nothing of the body arrived for {} s", PAUSE_MAX.as_secs()))
        })?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => {
                return Err(Problem::invalid(format!("the body ended early: {error}")).into());
            }
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}
