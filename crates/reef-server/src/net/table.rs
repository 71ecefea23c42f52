//! The open connections of a port.
//!
//! Invariants: there are never more than the limits say, but for one that is looked for room; an entry goes
//! when its ticket is dropped, whatever happened to its task.

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
    peers: HashMap<IpAddr, usize>,
}

/// A place in the table, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    table: Arc<Table>,
    id: u64,
    pub(crate) connection: Arc<Connection>,
}

impl Table {
    pub(crate) fn new(limits: ConnectionLimits) -> Table {
        Table { limits, open: Mutex::default(), left: Notify::new() }
    }

    /// A place for a connection, once there is one: the idlest other is asked to go. `None` if its peer has
    /// as many as it may have, and none of them can go.
    pub(crate) async fn enter(self: &Arc<Self>, peer: SocketAddr) -> Option<Ticket> {
        loop {
            let left = self.left.notified();
            let full = match self.try_enter(peer) {
                Ok(ticket) => return Some(ticket),
                Err(full) => full,
            };
            let asked = self.ask_idlest(match full {
                Full::Peer => Some(group(peer.ip())),
                Full::All => None,
            });
            if full == Full::Peer && !asked {
                return None;
            }
            let _ = tokio::time::timeout(LEAVE_TIME, left).await;
        }
    }

    /// Asks the idlest connection to close, of a group of peers or of all; false if all are at work.
    pub(crate) fn ask_idlest(&self, of: Option<IpAddr>) -> bool {
        let now = Instant::now();
        let open = self.open();
        let candidates = open
            .connections
            .values()
            .filter(|connection| of.is_none_or(|peers| group(connection.peer.ip()) == peers));
        let losses = candidates.filter_map(|connection| Some((connection.loss(now)?, connection)));
        let idlest = losses.min_by_key(|(loss, _)| *loss);
        if let Some((_, connection)) = idlest {
            connection.ask_to_close();
        }
        idlest.is_some()
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
        let of_peer = open.peers.get(&group(peer.ip())).copied().unwrap_or(0);
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
        *open.peers.entry(group(peer.ip())).or_default() += 1;
        Ok(Ticket { table: self.clone(), id, connection })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self.table.open();
        open.connections.remove(&self.id);
        let peers = group(self.connection.peer.ip());
        if let Some(count) = open.peers.get_mut(&peers) {
            *count -= 1;
            if *count == 0 {
                open.peers.remove(&peers);
            }
        }
        drop(open);
        self.table.left.notify_waiters();
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
        assert!(runtime.block_on(table.enter(peer(1))).is_none());
        assert!(runtime.block_on(table.enter(peer(2))).is_some());
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
