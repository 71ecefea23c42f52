//! How slowly a client may send what it asks.

use std::time::Duration;

/// How long a client may pause inside a request.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Bytes that must arrive each second, on the average, once a request has taken longer than a pause may: a
/// client that trickles holds a connection that others want.
pub(crate) const BYTES_PER_S_MIN: u64 = 16 << 10;

/// Requests from this size on are large: their model is looked up before they are read, and they count in the
/// budget of all requests. What would keep a core that long is done in the lanes.
pub(crate) const LARGE_BYTES_MIN: usize = 64 << 10;

/// Whether a client is too slow that has sent `bytes` in `time`.
pub(crate) fn trickles(time: Duration, bytes: usize) -> bool {
    time > PAUSE_MAX + Duration::from_secs(bytes as u64 / BYTES_PER_S_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_must_arrive_at_some_rate() {
        let seconds = Duration::from_secs;
        assert!(!trickles(seconds(29), 0) && trickles(seconds(31), 4));
        let mib = 1 << 20;
        assert!(!trickles(seconds(90), mib) && trickles(seconds(95), mib));
    }
}
