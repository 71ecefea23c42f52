//! Reading a request's body: bounded in bytes and in time.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};

use crate::error::ApiError;
use crate::protocol::body::Body;

/// How long a client may pause inside its body.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long a refused body is read and thrown away, so that the client gets to read why.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(10);

/// The whole body, at most `bytes_max` of it. `expects_continue`: the client waits for our word to send it.
pub(crate) async fn receive(
    mut incoming: Incoming,
    bytes_max: usize,
    expects_continue: bool,
) -> Result<Body, ApiError> {
    let declared = incoming.size_hint().lower();
    if declared > bytes_max as u64 {
        if !expects_continue {
            discard(incoming, bytes_max);
        }
        return Err(ApiError::too_large(format!(
            "the body has {declared} bytes, at most {bytes_max} are allowed"
        )));
    }
    let mut body = Body::default();
    while let Some(chunk) = next_chunk(&mut incoming).await? {
        if chunk.len() > bytes_max - body.len() {
            discard(incoming, bytes_max);
            return Err(ApiError::too_large(format!("the body has more than the allowed {bytes_max} bytes")));
        }
        body.push(chunk);
    }
    Ok(body)
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
            Some(Err(error)) => return Err(ApiError::invalid(format!("the body ended early: {error}"))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}
