//! What one connection is doing, since when, and until when it may.
//!
//! | doing | from | until at most | may be closed for another one |
//! |---|---|---|---|
//! | waiting, first head or a head that has begun | accepted; a first byte | `head_time_max` | yes |
//! | waiting | its last answer | `idle_time_max` | yes |
//! | receiving a body | a head | the reader of bodies decides | if it stalls or trickles |
//! | working | all of a request is there | – | no |
//! | any, with bytes that the peer does not take | the last byte taken | `write_time_max` | if it stalls |
//!
//! A connection that carries many requests at once works while there is one ([`Connection::multiplex`]). What
//! its peer sends between them, such as pings, begins no head.
//!
//! Invariant: only the connection's own task closes it, after it has looked again; so no request is lost that
//! came meanwhile.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::core::pace::BYTES_PER_S_MIN;

/// How many connections there may be, and how long each may take.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Per port. When another one comes, the one that has been without a request for longest is closed.
    pub count_max: usize,
    /// Per port and address of a peer (of IPv6 the first 64 bits); for another the idlest is closed.
    pub count_per_peer_max: usize,
    /// From a connection, or the first byte of a further request, to the end of the request's head; with TLS
    /// the handshake counts too.
    pub head_time_max: Duration,
    /// Between two requests.
    pub idle_time_max: Duration,
    /// While the peer takes nothing of what is sent to it.
    pub write_time_max: Duration,
    /// A body or an answer that pauses for so long may be cut off, where its connection is needed.
    pub stall_time_max: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        ConnectionLimits {
            count_max: 1024,
            count_per_peer_max: usize::MAX,
            head_time_max: Duration::from_secs(10),
            idle_time_max: Duration::from_secs(75),
            write_time_max: Duration::from_secs(30),
            stall_time_max: Duration::from_secs(2),
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: SocketAddr,
    /// Names in its client's certificate.
    names: Mutex<Arc<[String]>>,
    limits: ConnectionLimits,
    activity: Mutex<Activity>,
    closing: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Activity {
    doing: Doing,
    /// Since when bytes wait that the peer does not take.
    unsent: Option<Instant>,
    /// Whether requests need not come one after the other.
    multiplexed: bool,
}

#[derive(Clone, Copy, Debug)]
enum Doing {
    Waiting {
        since: Instant,
        /// When this head began; that of a new connection with it.
        head: Option<Instant>,
    },
    Receiving {
        since: Instant,
        last: Instant,
        bytes: u64,
    },
    Working,
}

/// How little is lost by closing a connection: less is closed first, then what has waited longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Loss(u8, Instant);

/// A request in progress; its connection waits again when this is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Connection>);

impl Connection {
    pub(crate) fn new(peer: SocketAddr, limits: ConnectionLimits, now: Instant) -> Connection {
        let doing = Doing::Waiting { since: now, head: Some(now) };
        Connection {
            peer,
            names: Mutex::new(Arc::from([])),
            limits,
            activity: Mutex::new(Activity { doing, unsent: None, multiplexed: false }),
            closing: Notify::new(),
        }
    }

    /// The names in its client's certificate, known after the handshake.
    pub(crate) fn names(&self) -> Arc<[String]> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_names(&self, names: Vec<String>) {
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names.into();
    }

    /// From now on it carries many requests at once. The first has to come as soon as with any connection.
    pub(crate) fn multiplex(&self) {
        self.activity().multiplexed = true;
    }

    /// The head of a request is there, and perhaps all of it.
    pub(crate) fn begin(self: &Arc<Self>, complete: bool, now: Instant) -> Busy {
        self.activity().doing = match complete {
            true => Doing::Working,
            false => Doing::Receiving { since: now, last: now, bytes: 0 },
        };
        Busy(self.clone())
    }

    /// All of the request is there.
    pub(crate) fn received(&self) {
        let mut activity = self.activity();
        if let Doing::Receiving { .. } = activity.doing {
            activity.doing = Doing::Working;
        }
    }

    pub(crate) fn on_read(&self, count: usize, now: Instant) {
        let mut activity = self.activity();
        let multiplexed = activity.multiplexed;
        match &mut activity.doing {
            Doing::Waiting { .. } if multiplexed => {}
            Doing::Waiting { head, .. } => *head = head.or(Some(now)),
            Doing::Receiving { last, bytes, .. } => {
                *last = now;
                *bytes = bytes.saturating_add(count as u64);
            }
            Doing::Working => {}
        }
    }

    /// The peer took some bytes.
    pub(crate) fn on_written(&self) {
        self.activity().unsent = None;
    }

    /// The peer takes no bytes now.
    pub(crate) fn on_write_pending(&self, now: Instant) {
        let mut activity = self.activity();
        activity.unsent = activity.unsent.or(Some(now));
    }

    /// What closing it now would lose; `None` if it must not be closed.
    pub(crate) fn loss(&self, now: Instant) -> Option<Loss> {
        let activity = *self.activity();
        let stalled = |since: Instant| now.saturating_duration_since(since) >= self.limits.stall_time_max;
        if let Some(unsent) = activity.unsent {
            return stalled(unsent).then_some(Loss(2, unsent));
        }
        match activity.doing {
            Doing::Waiting { since, head } => Some(Loss(0, head.unwrap_or(since))),
            Doing::Receiving { since, last, bytes } => {
                let time = now.saturating_duration_since(since);
                let trickles = stalled(since) && bytes < time.as_secs_f64() as u64 * BYTES_PER_S_MIN;
                (stalled(last) || trickles).then_some(Loss(1, since))
            }
            Doing::Working => None,
        }
    }

    /// Asks its task to close it, if there is nothing to lose then either.
    pub(crate) fn ask_to_close(&self) {
        self.closing.notify_one();
    }

    /// Waits until it has to be closed: its time is up, or another one needs its place. Called by its own
    /// task alone.
    pub(crate) async fn closes(&self) -> &'static str {
        loop {
            // What it does may change meanwhile, and its time with it.
            let look = Instant::now() + LOOK_TIME_MAX.min(self.limits.idle_time_max);
            let wake = self.expires().map_or(look, |expires| expires.min(look));
            let time_up = tokio::time::sleep_until(wake.into());
            tokio::select! {
                () = time_up => {}
                () = self.closing.notified() => {
                    if self.loss(Instant::now()).is_some() {
                        return "its place was needed";
                    }
                }
            }
            if self.expires().is_some_and(|at| at <= Instant::now()) {
                return "its time was up";
            }
        }
    }

    /// When its time is up, if nothing happens until then.
    fn expires(&self) -> Option<Instant> {
        let activity = *self.activity();
        let limits = &self.limits;
        let unsent = activity.unsent.map(|since| since + limits.write_time_max);
        let waiting = match activity.doing {
            Doing::Waiting { head: Some(head), .. } => Some(head + limits.head_time_max),
            Doing::Waiting { since, head: None } => Some(since + limits.idle_time_max),
            Doing::Receiving { .. } | Doing::Working => None,
        };
        match (unsent, waiting) {
            // What it has not taken yet is an answer, which comes before the next head.
            (Some(unsent), _) => Some(unsent),
            (None, waiting) => waiting,
        }
    }

    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a change of what a connection does may go unnoticed.
const LOOK_TIME_MAX: Duration = Duration::from_secs(2);

impl Busy {
    /// All of the request is there.
    pub(crate) fn received(&self) {
        self.0.received();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.activity().doing = Doing::Waiting { since: Instant::now(), head: None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(now: Instant) -> Arc<Connection> {
        let peer = SocketAddr::from(([127, 0, 0, 1], 9));
        Arc::new(Connection::new(peer, ConnectionLimits::default(), now))
    }

    #[test]
    fn what_waits_goes_before_what_stalls_and_work_never() {
        let now = Instant::now();
        let later = |seconds| now + Duration::from_secs(seconds);
        let (new, old) = (connection(later(1)), connection(now));
        assert!(old.loss(later(2)).unwrap() < new.loss(later(2)).unwrap());
        let busy = old.begin(false, now);
        assert_eq!(old.loss(later(1)), None);
        assert!(new.loss(later(3)).unwrap() < old.loss(later(3)).unwrap());
        old.on_read(1 << 20, later(3));
        assert_eq!(old.loss(later(3)), None);
        old.on_read(1, later(90));
        assert!(old.loss(later(90)).is_some(), "it trickles");
        busy.received();
        assert_eq!(old.loss(later(900)), None);
        drop(busy);
        assert!(old.loss(later(900)).is_some());
    }

    #[test]
    fn an_answer_that_nobody_takes_holds_its_connection_for_a_while() {
        let now = Instant::now();
        let connection = connection(now);
        drop(connection.begin(true, now));
        connection.on_write_pending(now);
        assert_eq!(connection.loss(now + Duration::from_secs(1)), None);
        assert!(connection.loss(now + Duration::from_secs(2)).is_some());
        assert_eq!(connection.expires(), Some(now + ConnectionLimits::default().write_time_max));
        connection.on_written();
        assert!(connection.expires() > Some(now + ConnectionLimits::default().write_time_max));
    }

    #[test]
    fn between_many_requests_nothing_is_a_head() {
        let now = Instant::now();
        let limits = ConnectionLimits::default();
        let connection = connection(now);
        connection.multiplex();
        connection.on_read(1, now + Duration::from_secs(5));
        assert_eq!(connection.expires(), Some(now + limits.head_time_max));
        drop(connection.begin(true, now));
        let ended = Instant::now();
        connection.on_read(1, ended + Duration::from_secs(1));
        let expires = connection.expires().unwrap();
        assert!(expires > now + limits.head_time_max && expires <= ended + limits.idle_time_max);
    }

    #[test]
    fn a_head_has_its_time_from_its_first_byte() {
        let now = Instant::now();
        let limits = ConnectionLimits::default();
        let connection = connection(now);
        connection.on_read(1, now + Duration::from_secs(5));
        assert_eq!(connection.expires(), Some(now + limits.head_time_max), "a byte is no excuse");
        drop(connection.begin(true, now));
        let later = Instant::now();
        connection.on_read(1, later);
        connection.on_read(1, later + Duration::from_secs(5));
        assert_eq!(connection.expires(), Some(later + limits.head_time_max));
    }
}
