//! Accepting connections, for whichever protocol is spoken on them.
//!
//! Invariants: a port goes on accepting whatever happens to a connection, to the log or to the process's file
//! descriptors; the handshake of TLS is that connection's time and nobody else's.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};

use crate::core::fault::contain;
use crate::net::connection::Connection;
use crate::net::io::{Io, Watched};
use crate::net::table::{Entry, Table, Ticket};
use crate::net::tls::Tls;

/// Pause after a failed accept, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Failed accepts are told so often at most.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(5);

/// Connections that may wait in the operating system's queue.
const BACKLOG: i32 = 4096;

/// A connection that a protocol may serve: its bytes, and its place, to be held until it is closed.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) io: Io,
    pub(crate) ticket: Ticket,
}

impl Accepted {
    /// What it is doing, who its peer is and what its certificate says.
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.ticket.connection
    }
}

/// A socket that listens.
pub(crate) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A port whose last connections are still remembered by the operating system can be taken again.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Accepts connections and has each served on a task of its own, until `end`.
pub(crate) async fn accept<Served: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    table: Arc<Table>,
    tls: Option<Arc<Tls>>,
    serve: impl Fn(Accepted) -> Served + Clone + Send + Sync + 'static,
    end: impl Future<Output = ()>,
) {
    let mut complaints = Complaints::default();
    let mut end = std::pin::pin!(end);
    loop {
        let next = async {
            let accepted = listener.accept().await;
            match accepted {
                Ok((stream, peer)) => Ok((stream, table.enter(peer).await)),
                Err(error) => Err(error),
            }
        };
        let accepted = tokio::select! {
            () = end.as_mut() => return,
            accepted = next => accepted,
        };
        match accepted {
            Ok((stream, entry)) => {
                tokio::spawn(enter(stream, entry, tls.clone(), serve.clone()));
            }
            Err(error) => {
                complaints.add(&error);
                // An idle connection may hold the descriptor that is missing.
                table.ask_idlest(None);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Has the connection served, if it gets a place.
async fn enter<Served: Future<Output = ()> + Send>(
    stream: TcpStream,
    entry: Entry,
    tls: Option<Arc<Tls>>,
    serve: impl Fn(Accepted) -> Served,
) {
    let ticket = match entry {
        Entry::Ticket(ticket) => Some(ticket),
        Entry::Wait(wait) => wait.ticket().await,
        Entry::Refused => None,
    };
    match ticket {
        Some(ticket) => open(stream, ticket, tls, serve).await,
        None => tracing::debug!("a connection of a peer that has too many was closed"),
    }
}

/// Shakes hands, where that is to be done, and has the connection served.
async fn open<Served: Future<Output = ()> + Send>(
    stream: TcpStream,
    ticket: Ticket,
    tls: Option<Arc<Tls>>,
    serve: impl Fn(Accepted) -> Served,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let connection = ticket.connection.clone();
    let watched = Watched::new(stream, connection.clone());
    let io = match tls {
        None => Io::Plain(watched),
        Some(tls) => {
            let secured = tokio::select! {
                secured = tls.accept(watched) => secured,
                why = connection.closes() => Err(io::Error::new(io::ErrorKind::TimedOut, why)),
            };
            match secured {
                Ok((stream, names)) => {
                    connection.set_names(names);
                    Io::Tls(Box::new(stream))
                }
                Err(error) => {
                    tracing::debug!(%error, peer = %connection.peer, "no TLS with a client");
                    return;
                }
            }
        }
    };
    serve(Accepted { io, ticket }).await;
}

/// Says that connections cannot be accepted, but not fifty times a second.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    silent: u64,
}

impl Complaints {
    fn add(&mut self, error: &io::Error) {
        if self.last.is_some_and(|last| last.elapsed() < COMPLAINT_PAUSE) {
            self.silent += 1;
            return;
        }
        let times = std::mem::take(&mut self.silent) + 1;
        self.last = Some(Instant::now());
        // Whatever the log does, the port goes on accepting.
        let _ = contain(|| tracing::warn!(%error, times, "cannot accept a connection"));
    }
}
