//! A request body as it arrived: a row of chunks, read from the front.
//!
//! Invariant: what one chunk holds is handed out without a copy; what lies in several is joined, once.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Chunks below this size are joined with their neighbour, so that a body that arrives byte by byte does
/// not need a handle per byte.
const CHUNK_BYTES_MIN: usize = 4 << 10;

/// Received bytes, in order.
#[derive(Debug, Default)]
pub(crate) struct Body {
    chunks: VecDeque<Bytes>,
    small: BytesMut,
    len: usize,
}

impl Body {
    /// Appends what arrived next.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        self.len += chunk.len();
        if chunk.len() < CHUNK_BYTES_MIN && (!self.chunks.is_empty() || !self.small.is_empty()) {
            self.small.extend_from_slice(&chunk);
            return;
        }
        self.seal();
        self.chunks.push_back(chunk);
    }

    /// Bytes not yet taken.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first bytes, as many as lie in one piece.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        self.seal();
        let front = self.chunks.pop_front()?;
        self.len -= front.len();
        Some(front)
    }

    /// The first `count` bytes as one piece, without a copy when one chunk holds them. `count` must not be
    /// more than [`Body::len`].
    pub(crate) fn take(&mut self, count: usize) -> Bytes {
        assert!(count <= self.len, "taking {count} of {} bytes", self.len);
        self.seal();
        if let Some(front) = self.chunks.front_mut()
            && front.len() >= count
        {
            self.len -= count;
            return front.split_to(count);
        }
        let mut joined = vec![0; count];
        self.copy_to(&mut joined);
        Bytes::from(joined)
    }

    /// Moves the first bytes to `target`, which must not be longer than [`Body::len`].
    pub(crate) fn copy_to(&mut self, mut target: &mut [u8]) {
        assert!(target.len() <= self.len, "copying {} of {} bytes", target.len(), self.len);
        self.seal();
        self.len -= target.len();
        while !target.is_empty() {
            let front = self.chunks.front_mut().expect("the length is the sum of the chunks");
            let count = front.len().min(target.len());
            let (now, later) = target.split_at_mut(count);
            now.copy_from_slice(&front[..count]);
            target = later;
            if count == front.len() {
                self.chunks.pop_front();
            } else {
                let _ = front.split_to(count);
            }
        }
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.chunks.push_back(self.small.split().freeze());
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        let mut body = Body::default();
        body.push(Bytes::from(bytes));
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(bytes: &[u8], chunk: usize) -> Body {
        let mut body = Body::default();
        bytes.chunks(chunk).for_each(|chunk| body.push(Bytes::copy_from_slice(chunk)));
        body
    }

    #[test]
    fn bytes_keep_their_order_however_they_arrive() {
        let bytes: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
        for chunk in [1, 7, 4095, 4096, 5000, 20_000] {
            let mut body = body_of(&bytes, chunk);
            assert_eq!(body.len(), bytes.len());
            assert_eq!(body.take(4500), bytes[..4500]);
            let mut rest = vec![0; 15_000];
            body.copy_to(&mut rest);
            assert_eq!(rest, bytes[4500..19_500]);
            assert_eq!(body.len(), 500);
            assert_eq!(body.take(500), bytes[19_500..]);
            assert_eq!(body.take(0).len(), 0);
        }
    }

    #[test]
    fn small_chunks_share_a_handle() {
        let body = body_of(&[1; 10_000], 1);
        assert!(body.chunks.len() <= 2);
    }
}
