//! What one connection is doing, since when, and until when it may.
//!
//! | doing | from | until at most | may be closed for another one |
//! |---|---|---|---|
//! | waiting, a first head or one begun | accepted; a first byte | `head_time_max` | after `grace_time` |
//! | waiting | its last answer | `idle_time_max` | after `grace_time` |
//! | waiting and looking on | its last answer | – | after `grace_time` |
//! | receiving a body | a head | the reader of bodies decides | if it stalls or trickles |
//! | working | all of a request is there | – | no |
//! | any, with bytes that the peer does not take | the last byte taken | `write_time_max` | if it stalls |
//! | any, with a counted answer | it was made | `write_time_max`, if too slow | if it stalls or trickles |
//!
//! A connection that carries many requests at once works while there is one ([`Connection::multiplex`]). What
//! its peer sends between them, such as pings, begins no head. One that only looks on ([`Connection::watch`])
//! waits without an end, until another one needs its place.
//!
//! Invariants: only the connection's own task closes it, after it has looked again; so no request is lost
//! that came meanwhile. Bytes that lie in the socket unread are a request that came: such a connection is
//! never closed for another one, and when its time is up its bytes are read first.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpStream;
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
    /// A connection that is new, whose head has begun or that has been answered stays so long, whoever needs
    /// its place: a request may be on its way.
    pub grace_time: Duration,
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
            grace_time: Duration::from_millis(100),
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
    outgoing: Mutex<Outgoing>,
    /// Whoever serves it owns it.
    socket: OnceLock<Weak<Mutex<TcpStream>>>,
    closing: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Activity {
    doing: Doing,
    /// Since when bytes wait that the peer does not take.
    unsent: Option<Instant>,
    /// Bytes that it took, and when it last took some of an answer.
    sent: u64,
    taken: Instant,
    /// Whether requests need not come one after the other.
    multiplexed: bool,
    /// Whether a request of it has ended.
    proven: bool,
    /// Requests that wait for changes and are no work.
    watches: usize,
}

/// Answers that its peer has not taken yet.
#[derive(Debug, Default)]
struct Outgoing {
    /// Bytes that they take, and those that are to be made.
    held: usize,
    next: u64,
    /// Those that are made, in order.
    made: BTreeMap<u64, Made>,
}

/// When an answer was made, and how many bytes had been sent then.
#[derive(Clone, Copy, Debug)]
struct Made {
    at: Instant,
    sent: u64,
}

/// An answer that its peer has not taken yet; it has when this is dropped.
#[derive(Debug)]
pub(crate) struct Sending {
    connection: Arc<Connection>,
    id: u64,
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
pub(crate) struct Loss(Kind, Instant);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Waiting,
    Receiving,
    Sending,
}

/// A request that waits for changes, until this is dropped.
#[derive(Debug)]
pub(crate) struct Watching(Arc<Connection>);

/// A request in progress; its connection waits again when this is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Connection>);

impl Connection {
    pub(crate) fn new(peer: SocketAddr, limits: ConnectionLimits, now: Instant) -> Connection {
        let doing = Doing::Waiting { since: now, head: Some(now) };
        let (unsent, sent, taken, multiplexed, proven, watches) = (None, 0, now, false, false, 0);
        Connection {
            peer,
            names: Mutex::new(Arc::from([])),
            limits,
            activity: Mutex::new(Activity { doing, unsent, sent, taken, multiplexed, proven, watches }),
            outgoing: Mutex::default(),
            socket: OnceLock::new(),
            closing: Notify::new(),
        }
    }

    /// Where its bytes come from.
    pub(crate) fn set_socket(&self, socket: &Arc<Mutex<TcpStream>>) {
        // The first one stays; there is one.
        let _ = self.socket.set(Arc::downgrade(socket));
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

    /// A request of it waits for changes from now on; `None` if there are as many already.
    pub(crate) fn watch(self: &Arc<Self>, count_max: usize) -> Option<Watching> {
        let mut activity = self.activity();
        if activity.watches >= count_max {
            return None;
        }
        activity.watches += 1;
        Some(Watching(self.clone()))
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

    /// The peer took so many bytes.
    pub(crate) fn on_written(&self, count: usize, now: Instant) {
        let mut activity = self.activity();
        activity.unsent = None;
        activity.sent = activity.sent.saturating_add(count as u64);
        if count >= ANSWER_BYTES_MIN {
            activity.taken = now;
        }
    }

    /// Counts so many bytes more for an answer that has `own`; false if those of several were more than
    /// `bytes_max`.
    pub(crate) fn hold(&self, bytes: usize, own: usize, bytes_max: usize) -> bool {
        let mut outgoing = self.outgoing();
        let sum = outgoing.held.saturating_add(bytes);
        let fits = bytes == 0 || outgoing.held == own || sum <= bytes_max;
        if fits {
            outgoing.held = sum;
        }
        fits
    }

    /// Counts so many bytes less.
    pub(crate) fn let_go(&self, bytes: usize) {
        self.outgoing().held -= bytes;
    }

    /// An answer is made.
    pub(crate) fn send(self: &Arc<Self>) -> Sending {
        let made = Made { at: Instant::now(), sent: self.activity().sent };
        let mut outgoing = self.outgoing();
        let id = outgoing.next;
        outgoing.next += 1;
        outgoing.made.insert(id, made);
        drop(outgoing);
        Sending { connection: self.clone(), id }
    }

    /// Since when there is an answer of which its peer took nothing for `pause`, or too little.
    fn slow(&self, now: Instant, pause: Duration) -> Option<Instant> {
        let made = *self.outgoing().made.first_key_value()?.1;
        let Activity { sent, taken, .. } = *self.activity();
        let time = now.saturating_duration_since(made.at);
        let stalls = now.saturating_duration_since(taken.max(made.at)) >= pause;
        let trickles = time >= pause && sent - made.sent < time.as_secs_f64() as u64 * BYTES_PER_S_MIN;
        (stalls || trickles).then_some(made.at)
    }

    /// The peer takes no bytes now.
    pub(crate) fn on_write_pending(&self, now: Instant) {
        let mut activity = self.activity();
        activity.unsent = activity.unsent.or(Some(now));
    }

    /// What closing it now would lose; `None` if it must not be closed.
    pub(crate) fn loss(&self, now: Instant) -> Option<Loss> {
        let activity = *self.activity();
        let lasts = |since: Instant, time| now.saturating_duration_since(since) >= time;
        let stalled = |since| lasts(since, self.limits.stall_time_max);
        if let Some(since) = self.slow(now, self.limits.stall_time_max) {
            return Some(Loss(Kind::Sending, since));
        }
        if let Some(unsent) = activity.unsent {
            return stalled(unsent).then_some(Loss(Kind::Sending, unsent));
        }
        match activity.doing {
            Doing::Waiting { since, head } => {
                let since = head.unwrap_or(since);
                lasts(since, self.limits.grace_time).then_some(Loss(Kind::Waiting, since))
            }
            Doing::Receiving { since, last, bytes } => {
                let time = now.saturating_duration_since(since);
                let trickles = stalled(since) && bytes < time.as_secs_f64() as u64 * BYTES_PER_S_MIN;
                (stalled(last) || trickles).then_some(Loss(Kind::Receiving, since))
            }
            Doing::Working => None,
        }
    }

    /// Whether a request of it has ended: its peer is one that asks.
    pub(crate) fn is_proven(&self) -> bool {
        self.activity().proven
    }

    /// Whether closing it now loses no request, not even one that nobody has read yet. Looks into the socket.
    pub(crate) fn may_go(&self, now: Instant) -> bool {
        match self.loss(now) {
            None => false,
            // What came meanwhile waits for an answer that its peer does not take.
            Some(Loss(Kind::Sending, _)) => true,
            Some(Loss(Kind::Waiting | Kind::Receiving, _)) => !self.has_unread(),
        }
    }

    /// Since when it holds answers that its peer takes too slowly, if it does.
    pub(crate) fn slow_since(&self, now: Instant) -> Option<Instant> {
        self.slow(now, self.limits.stall_time_max)
    }

    /// Whether a request is at work whose answer its peer takes, or will.
    pub(crate) fn answers(&self, now: Instant) -> bool {
        let working = matches!(self.activity().doing, Doing::Working);
        working && self.loss(now).is_none()
    }

    /// Whether bytes lie in its socket, or may lie there: one that nobody serves yet has not been looked at.
    fn has_unread(&self) -> bool {
        let Some(socket) = self.socket.get() else { return true };
        let Some(socket) = socket.upgrade() else { return false };
        let socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
        let peeked = SockRef::from(&*socket).peek(&mut [MaybeUninit::uninit()]);
        peeked.is_ok_and(|count| count > 0)
    }

    /// Asks its task to close it, if there is nothing to lose then either.
    pub(crate) fn ask_to_close(&self) {
        self.closing.notify_one();
    }

    /// Waits until it has to be closed: its time is up, or another one needs its place. Called by its own
    /// task alone.
    pub(crate) async fn closes(&self) -> &'static str {
        let mut excused = false;
        loop {
            // What it does may change meanwhile, and its time with it.
            let look = Instant::now() + LOOK_TIME_MAX.min(self.limits.idle_time_max);
            let wake = self.expires().map_or(look, |expires| expires.min(look));
            let time_up = tokio::time::sleep_until(wake.into());
            tokio::select! {
                () = time_up => {}
                () = self.closing.notified() => {
                    if self.may_go(Instant::now()) {
                        return "its place was needed";
                    }
                }
            }
            let now = Instant::now();
            if self.slow(now, self.limits.write_time_max).is_some() {
                return "its peer reads too slowly";
            }
            if self.expires().is_none_or(|at| at > now) {
                excused = false;
            } else if excused || !self.has_unread() {
                return "its time was up";
            } else {
                // It was this server that had no time: what has come is read first.
                excused = true;
                tokio::time::sleep(READ_TIME).await;
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
            Doing::Waiting { head: None, .. } if activity.watches > 0 => None,
            Doing::Waiting { since, head: None } => Some(since + limits.idle_time_max),
            Doing::Receiving { .. } | Doing::Working => None,
        };
        match (unsent, waiting) {
            // What it has not taken yet is an answer, which comes before the next head.
            (Some(unsent), _) => Some(unsent),
            (None, waiting) => waiting,
        }
    }

    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a change of what a connection does may go unnoticed.
const LOOK_TIME_MAX: Duration = Duration::from_secs(2);

/// How long bytes that have come may take to be read, once the time of their connection is up.
const READ_TIME: Duration = Duration::from_millis(20);

/// What is written in fewer bytes at once is none of an answer's: a ping, or its like.
const ANSWER_BYTES_MIN: usize = 64;

impl Drop for Sending {
    fn drop(&mut self) {
        self.connection.outgoing().made.remove(&self.id);
    }
}

impl Busy {
    /// All of the request is there.
    pub(crate) fn received(&self) {
        self.0.received();
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut activity = self.0.activity();
        activity.watches -= 1;
        if let Doing::Waiting { since, .. } = &mut activity.doing {
            *since = Instant::now();
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut activity = self.0.activity();
        activity.doing = Doing::Waiting { since: Instant::now(), head: None };
        activity.proven = true;
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
        assert!(new.loss(later(1)).is_none() && old.loss(later(1)).is_some(), "a request may be on its way");
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
        assert!(!old.may_go(later(900)), "nobody has looked into its socket yet");
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
        connection.on_written(1, now);
        assert!(connection.expires() > Some(now + ConnectionLimits::default().write_time_max));
    }

    #[test]
    fn an_answer_has_to_be_taken_at_some_rate() {
        let connection = connection(Instant::now());
        let busy = connection.begin(true, Instant::now());
        let sending = connection.send();
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert!(connection.loss(later(1)).is_none() && connection.answers(later(1)));
        assert!(connection.loss(later(3)).is_some() && !connection.answers(later(3)), "nothing is taken");
        // Pings are nothing.
        connection.on_written(17, later(3));
        assert!(connection.loss(later(4)).is_some());
        connection.on_written(1 << 20, later(30));
        assert!(
            connection.loss(later(31)).is_none()
                && connection.slow(later(31), later(30) - later(0)).is_none()
        );
        connection.on_written(100, later(90));
        assert!(connection.loss(later(91)).is_some(), "it trickles");
        drop(sending);
        assert!(connection.loss(later(91)).is_none());
        drop(busy);
    }

    #[test]
    fn a_connection_holds_one_answer_of_any_size_or_several_small_ones() {
        let connection = connection(Instant::now());
        assert!(connection.hold(1_000, 0, 100) && !connection.hold(1, 0, 100));
        assert!(connection.hold(100, 1_000, 100) && !connection.hold(1, 1_000, 100));
        connection.let_go(1_100);
        assert!(connection.hold(50, 0, 100) && connection.hold(50, 0, 100) && !connection.hold(1, 50, 100));
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
    fn who_looks_on_has_no_end_and_holds_nobody_up() {
        let now = Instant::now();
        let connection = connection(now);
        let busy = connection.begin(true, now);
        let (first, second) = (connection.watch(2).unwrap(), connection.watch(2).unwrap());
        assert!(connection.watch(2).is_none());
        drop(busy);
        assert_eq!(connection.expires(), None);
        let later = Instant::now() + ConnectionLimits::default().grace_time;
        assert!(matches!(connection.loss(later), Some(Loss(Kind::Waiting, _))));
        drop(first);
        assert_eq!(connection.expires(), None);
        drop(second);
        assert!(connection.expires().is_some() && connection.watch(1).is_some());
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
