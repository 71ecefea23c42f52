//! Answers on their way out: what they take of memory until their clients have read them.
//!
//! Invariants: an answer counts, in all and for its connection, from when it is made until its last byte is
//! handed to the operating system, or its connection is gone; where there is no room, clients that do not
//! read make some, or the answer is refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reef_engine::Class;

use crate::core::budget::Share;
use crate::core::problem::Problem;
use crate::core::state::State;
use crate::net::connection::{Connection, Sending};

/// Answers of fewer bytes do not count: what is kept of their requests besides is as much.
const COUNTED_BYTES_MIN: usize = 1 << 10;

/// How often it is tried to find room for an answer, and how long others may take meanwhile to leave.
const TRIES: u32 = 10;
const LEAVE_TIME: Duration = Duration::from_millis(10);

/// What an answer has of the budget.
#[derive(Debug)]
pub(crate) struct Room {
    connection: Arc<Connection>,
    share: Share,
    /// One connection's bytes in several answers, at most.
    bytes_max: usize,
    /// Once it is made.
    sending: Option<Sending>,
}

impl Room {
    /// Without any bytes yet, for an answer to a request of this class.
    pub(crate) fn new(state: &State, connection: &Arc<Connection>, class: Class) -> Room {
        let bytes_max = state.answers.bytes_max() / 4;
        Room { connection: connection.clone(), share: state.answers.share(class), bytes_max, sending: None }
    }

    /// Has it be `bytes` in all, or as many as it was.
    pub(crate) fn resize(&mut self, bytes: usize) -> Result<(), Problem> {
        let before = self.share.bytes();
        let more = bytes.saturating_sub(before);
        if !self.connection.hold(more, before, self.bytes_max) {
            return Err(Problem::unavailable(
                "the answers to this connection that were not read yet take all that they may",
            ));
        }
        if let Err(full) = self.share.grow(more) {
            self.connection.let_go(more);
            return Err(full);
        }
        let less = before.saturating_sub(bytes);
        self.share.shrink(less);
        self.connection.let_go(less);
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.connection.let_go(self.share.bytes());
    }
}

/// A part of an answer, which has its room until the last part is gone.
struct Part {
    bytes: Bytes,
    _room: Arc<Room>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The parts of an answer, counted from now on.
pub(crate) async fn counted(state: &State, mut room: Room, parts: Vec<Bytes>) -> Result<Vec<Bytes>, Problem> {
    let bytes: usize = parts.iter().map(Bytes::len).sum();
    if bytes < COUNTED_BYTES_MIN {
        return Ok(parts);
    }
    let mut tries = 0;
    while let Err(full) = room.resize(bytes) {
        tries += 1;
        if tries == TRIES {
            return Err(full);
        }
        state.make_room();
        tokio::time::sleep(LEAVE_TIME).await;
    }
    room.sending = Some(room.connection.send());
    let room = Arc::new(room);
    let part = |bytes| Bytes::from_owner(Part { bytes, _room: room.clone() });
    Ok(parts.into_iter().map(part).collect())
}
