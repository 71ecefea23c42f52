//! Connections and their RPCs.
//!
//! Invariants: the number of RPCs of a connection is bounded; a client that has gone is noticed by the end of
//! its connection or by pings that it does not answer, and drops the handlers of its RPCs. A connection with
//! an RPC is at work and stays; one without, or with watches alone, may be sent away ([`net`](crate::net)),
//! and its client's library connects again when it needs to.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use crate::core::state::Phase;
use crate::grpc::rpc::Grpc;
use crate::net::accept::Accepted;
use crate::net::connection::{self, Connection};

/// How often a client with RPCs is asked whether it is there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIME_MAX: Duration = Duration::from_secs(20);

/// How long a client that is sent away may take to hear of it.
const LEAVING_TIME_MAX: Duration = Duration::from_millis(250);

/// RPCs of one connection at once.
const RPCS_MAX: u32 = 256;

/// Bytes that a client may send ahead of what was read, on an RPC and on its connection.
const RPC_WINDOW_BYTES: u32 = 256 << 10;
const WINDOW_BYTES: u32 = 512 << 10;

/// Bytes of answers that wait for a slow client, per RPC.
const SEND_BYTES_MAX: usize = 1 << 20;

/// Bytes of the headers of an RPC.
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// Serves one connection until it closes.
pub(crate) async fn serve(accepted: Accepted, grpc: Arc<Grpc>) {
    let mut phase = grpc.state.phase.subscribe();
    let connection = accepted.connection().clone();
    let Accepted { io, ticket } = accepted;
    connection.multiplex();
    let rpcs = Arc::new(Rpcs { connection: connection.clone(), open: Mutex::default() });
    let service = service_fn(|request| {
        let (grpc, connection, guard) = (grpc.clone(), connection.clone(), Rpcs::begin(&rpcs));
        async move {
            let mut answer = grpc.answer(&connection, request).await;
            if !answer.body().is_watch() {
                answer.body_mut().keep(guard);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIME_MAX)
        .max_concurrent_streams(RPCS_MAX)
        .initial_stream_window_size(RPC_WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_send_buf_size(SEND_BYTES_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .serve_connection(TokioIo::new(io), service);
    let mut serving = std::pin::pin!(serving);
    // A client that has to go is told, and may finish what it has begun meanwhile.
    let (ended, time_max) = tokio::select! {
        // What has come is served before anything is closed.
        biased;
        ended = serving.as_mut() => (Some(ended), Duration::ZERO),
        why = connection.closes() => {
            tracing::debug!(peer = %connection.peer, "a connection is closed: {why}");
            (None, LEAVING_TIME_MAX)
        }
        _ = phase.wait_for(|&phase| phase >= Phase::Closing) => (None, Duration::MAX),
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = serving.as_mut() => ended,
                () = leaves(&connection, time_max) => Ok(()),
                _ = phase.wait_for(|&phase| phase >= Phase::Closed) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, peer = %connection.peer, "a connection ended early");
    }
    drop(ticket);
}

/// Waits until a client that was sent away has had its time, and what it had begun meanwhile has ended.
async fn leaves(connection: &Connection, time_max: Duration) {
    loop {
        tokio::time::sleep(time_max).await;
        if !connection.answers(Instant::now()) {
            return;
        }
    }
}

/// The RPCs that a connection carries.
struct Rpcs {
    connection: Arc<Connection>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    count: usize,
    /// While there is one at least.
    busy: Option<connection::Busy>,
}

/// An RPC that is on its way.
struct Rpc(Arc<Rpcs>);

impl Rpcs {
    fn begin(rpcs: &Arc<Rpcs>) -> Rpc {
        let mut open = rpcs.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.count += 1;
        if open.busy.is_none() {
            open.busy = Some(rpcs.connection.begin(true, Instant::now()));
        }
        drop(open);
        Rpc(rpcs.clone())
    }
}

impl Drop for Rpc {
    fn drop(&mut self) {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.count -= 1;
        if open.count == 0 {
            open.busy = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::net::connection::ConnectionLimits;

    #[test]
    fn a_connection_may_go_only_without_rpcs() {
        let peer = SocketAddr::from(([127, 0, 0, 1], 9));
        let now = Instant::now();
        let connection = Arc::new(Connection::new(peer, ConnectionLimits::default(), now));
        let rpcs = Arc::new(Rpcs { connection: connection.clone(), open: Mutex::default() });
        let much_later = now + Duration::from_secs(3_600);
        assert!(connection.loss(much_later).is_some());
        let (first, second) = (Rpcs::begin(&rpcs), Rpcs::begin(&rpcs));
        assert!(connection.loss(much_later).is_none());
        drop(first);
        assert!(connection.loss(much_later).is_none());
        drop(second);
        assert!(connection.loss(much_later).is_some());
        let _third = Rpcs::begin(&rpcs);
        assert!(connection.loss(much_later).is_none());
    }
}
