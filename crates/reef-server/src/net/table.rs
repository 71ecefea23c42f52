//! The open connections of a port.
//!
//! Invariants: there are never more than the limits say, but for one that is looked for room, and one of each
//! peer that has as many as it may have; an entry goes when its ticket is dropped, whatever happened to its
//! task. What a peer has too many of holds no other peer up.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::net::connection::{Connection, ConnectionLimits};

/// How long a connection that was asked to close may take before another one is asked.
const LEAVE_TIME: Duration = Duration::from_millis(20);

/// All connections of a port.
#[derive(Debug)]
pub(crate) struct Table {
    limits: ConnectionLimits,
    open: Mutex<Open>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Arc<Connection>>,
    peers: HashMap<IpAddr, Of>,
}

/// Connections of a peer.
#[derive(Debug, Default)]
struct Of {
    open: usize,
    /// Whether one waits for another to go.
    waits: bool,
}

/// A place in the table, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    table: Arc<Table>,
    id: u64,
    pub(crate) connection: Arc<Connection>,
}

/// What a new connection gets.
#[derive(Debug)]
pub(crate) enum Entry {
    Ticket(Ticket),
    /// Its peer has as many as it may have; one of them may go.
    Wait(Wait),
    /// Its peer has as many as it may have, and one more that waits.
    Refused,
}

/// A connection that waits for another of its peer to go; one of each peer.
#[derive(Debug)]
pub(crate) struct Wait {
    table: Arc<Table>,
    peer: SocketAddr,
}

impl Table {
    pub(crate) fn new(limits: ConnectionLimits) -> Table {
        Table { limits, open: Mutex::default(), left: Notify::new() }
    }

    /// A place for a connection, once there is one: the idlest other is asked to go.
    pub(crate) async fn enter(self: &Arc<Self>, peer: SocketAddr) -> Entry {
        loop {
            let left = self.left.notified();
            match self.try_enter(peer) {
                Ok(ticket) => return Entry::Ticket(ticket),
                Err(Full::Peer) => return self.try_wait(peer).map_or(Entry::Refused, Entry::Wait),
                Err(Full::All) => self.ask_idlest(None),
            }
            let _ = tokio::time::timeout(LEAVE_TIME, left).await;
        }
    }

    /// Asks the idlest connection that may go to close, of a group of peers or of all.
    pub(crate) fn ask_idlest(&self, of: Option<IpAddr>) {
        let now = Instant::now();
        if let Some(idlest) = self.idlest_first(of, now).iter().find(|connection| connection.may_go(now)) {
            idlest.ask_to_close();
        }
    }

    /// Connections that may be asked to close. If most have never had an answer, they make room for each
    /// other: a crowd that opens connections and sends nothing pushes nobody out who is served.
    fn idlest_first(&self, of: Option<IpAddr>, now: Instant) -> Vec<Arc<Connection>> {
        let open = self.open();
        let all = || open.connections.values();
        let crowd = all().filter(|connection| !connection.is_proven()).count() * 2 > all().len();
        let candidates = all()
            .filter(|connection| of.is_none_or(|peers| group(connection.peer.ip()) == peers))
            .filter(|connection| !(crowd && of.is_none() && connection.is_proven()));
        let mut losses: Vec<_> =
            candidates.filter_map(|connection| Some((connection.loss(now)?, connection.clone()))).collect();
        losses.sort_unstable_by_key(|(loss, _)| *loss);
        losses.into_iter().map(|(_, connection)| connection).collect()
    }

    /// Asks the connection to close that has answers for longest which its peer takes too slowly.
    pub(crate) fn ask_slowest(&self) {
        let now = Instant::now();
        let open = self.open();
        let slow = open.connections.values().filter_map(|one| Some((one.slow_since(now)?, one)));
        if let Some((_, slowest)) = slow.min_by_key(|(since, _)| *since) {
            slowest.ask_to_close();
        }
    }

    /// Waits until all are closed.
    pub(crate) async fn emptied(&self) {
        loop {
            let left = self.left.notified();
            if self.open().connections.is_empty() {
                return;
            }
            let _ = tokio::time::timeout(LEAVE_TIME, left).await;
        }
    }

    fn try_enter(self: &Arc<Self>, peer: SocketAddr) -> Result<Ticket, Full> {
        let mut open = self.open();
        let of_peer = open.peers.get(&group(peer.ip())).map_or(0, |of| of.open);
        if of_peer >= self.limits.count_per_peer_max.max(1) {
            return Err(Full::Peer);
        }
        if open.connections.len() >= self.limits.count_max.max(1) {
            return Err(Full::All);
        }
        let connection = Arc::new(Connection::new(peer, self.limits, Instant::now()));
        let id = open.next;
        open.next += 1;
        open.connections.insert(id, connection.clone());
        open.peers.entry(group(peer.ip())).or_default().open += 1;
        Ok(Ticket { table: self.clone(), id, connection })
    }

    /// Leave to wait, for one of a peer.
    fn try_wait(self: &Arc<Self>, peer: SocketAddr) -> Option<Wait> {
        let mut open = self.open();
        let of = open.peers.entry(group(peer.ip())).or_default();
        let first = !std::mem::replace(&mut of.waits, true);
        first.then(|| Wait { table: self.clone(), peer })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Changes what there is of a peer, and forgets it when that is nothing.
    fn change(&mut self, peer: SocketAddr, change: impl FnOnce(&mut Of)) {
        let peers = group(peer.ip());
        if let Some(of) = self.peers.get_mut(&peers) {
            change(of);
            if of.open == 0 && !of.waits {
                self.peers.remove(&peers);
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self.table.open();
        open.connections.remove(&self.id);
        open.change(self.connection.peer, |of| of.open -= 1);
        drop(open);
        self.table.left.notify_waiters();
    }
}

impl Wait {
    /// A place, once another connection of the peer has gone; `None` if none goes.
    pub(crate) async fn ticket(self) -> Option<Ticket> {
        let enters = async {
            loop {
                let left = self.table.left.notified();
                match self.table.try_enter(self.peer) {
                    Ok(ticket) => return ticket,
                    Err(Full::Peer) => self.table.ask_idlest(Some(group(self.peer.ip()))),
                    Err(Full::All) => self.table.ask_idlest(None),
                }
                let _ = tokio::time::timeout(LEAVE_TIME, left).await;
            }
        };
        let time_max = self.table.limits.grace_time.saturating_mul(2) + LEAVE_TIME.saturating_mul(5);
        tokio::time::timeout(time_max, enters).await.ok()
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.table.open().change(self.peer, |of| of.waits = false);
    }
}

/// Which limit was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    Peer,
    All,
}

/// What counts as one peer: of IPv6 a network, whose addresses one host may have all.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 1))
    }

    #[test]
    fn a_peer_has_its_own_limit_and_leaves_others_theirs() {
        let limits = ConnectionLimits { count_max: 3, count_per_peer_max: 2, ..ConnectionLimits::default() };
        let table = Arc::new(Table::new(limits));
        let first = table.try_enter(peer(1)).unwrap();
        let _second = table.try_enter(peer(1)).unwrap();
        assert_eq!(table.try_enter(peer(1)).unwrap_err(), Full::Peer);
        let _third = table.try_enter(peer(2)).unwrap();
        assert_eq!(table.try_enter(peer(2)).unwrap_err(), Full::All);
        drop(first);
        assert!(table.try_enter(peer(1)).is_ok());
        assert_eq!(table.open().peers.len(), 2);
    }

    #[test]
    fn a_peer_at_work_with_all_it_may_have_is_turned_away() {
        let limits = ConnectionLimits { count_per_peer_max: 1, ..ConnectionLimits::default() };
        let table = Arc::new(Table::new(limits));
        let only = table.try_enter(peer(1)).unwrap();
        let _busy = only.connection.begin(true, Instant::now());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let Entry::Wait(wait) = runtime.block_on(table.enter(peer(1))) else { panic!("it may wait") };
        assert!(matches!(runtime.block_on(table.enter(peer(1))), Entry::Refused), "one of a peer waits");
        assert!(matches!(runtime.block_on(table.enter(peer(2))), Entry::Ticket(_)));
        assert!(runtime.block_on(wait.ticket()).is_none());
        let Entry::Wait(wait) = runtime.block_on(table.enter(peer(1))) else { panic!("it may wait again") };
        drop(only);
        assert!(runtime.block_on(wait.ticket()).is_some());
        assert!(table.open().peers.is_empty() && table.open().connections.is_empty());
    }

    #[test]
    fn a_crowd_that_asks_nothing_makes_room_for_itself() {
        let table = Arc::new(Table::new(ConnectionLimits::default()));
        let later = Instant::now() + ConnectionLimits::default().grace_time * 2;
        let served = table.try_enter(peer(1)).unwrap();
        drop(served.connection.begin(true, Instant::now()));
        let first = |of| table.idlest_first(of, later).first().map(|connection| connection.peer);
        assert_eq!(first(None), Some(peer(1)));
        let _new = table.try_enter(peer(2)).unwrap();
        assert_eq!(first(None), Some(peer(1)), "one of two has waited for longest");
        let _crowd = [3, 4].map(|last| table.try_enter(peer(last)).unwrap());
        assert_eq!(first(None), Some(peer(2)));
        assert!(table.idlest_first(None, Instant::now()).is_empty(), "they are new, and he stays meanwhile");
        assert_eq!(first(Some(group(peer(1).ip()))), Some(peer(1)), "of one peer it is as before");
    }

    #[test]
    fn addresses_of_one_network_are_one_peer() {
        let address = |text: &str| group(text.parse().unwrap());
        assert_eq!(address("2001:db8:1:2:3::4"), address("2001:db8:1:2:ffff::"));
        assert_ne!(address("2001:db8:1:2::"), address("2001:db8:1:3::"));
        assert_eq!(address("::ffff:10.0.0.1"), address("10.0.0.1"));
        assert_ne!(address("10.0.0.1"), address("10.0.0.2"));
    }
}
