//! Connections and their RPCs.
//!
//! Invariants: the number of connections is bounded, and that of the RPCs on each; a client that has gone is
//! noticed by the end of its connection or by pings that it does not answer, and drops the handlers of its
//! RPCs; one that asks nothing for long is sent away, and its library connects again when it needs to.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::accept::attend;
use crate::grpc::rpc::Grpc;

/// How long a client may be connected before its first RPC.
const FIRST_RPC_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a client may be connected without an RPC.
const IDLE_TIME_MAX: Duration = Duration::from_secs(300);

/// How often a client with RPCs is asked whether it is there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIME_MAX: Duration = Duration::from_secs(20);

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
pub(crate) async fn serve(stream: TcpStream, grpc: Arc<Grpc>) {
    // How many RPCs are on their way.
    let busy = Arc::new(watch::Sender::new(0));
    let idle = idle(busy.subscribe());
    let service = service_fn(|request| {
        let (grpc, guard) = (grpc.clone(), Busy::begin(&busy));
        async move {
            let mut answer = grpc.answer(request).await;
            answer.body_mut().keep(guard);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIME_MAX)
        .max_concurrent_streams(RPCS_MAX)
        .initial_stream_window_size(RPC_WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_send_buf_size(SEND_BYTES_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    attend(&grpc.state, connection, |connection| connection.graceful_shutdown(), idle).await;
}

/// Ends when a client has asked nothing for long.
async fn idle(mut busy: watch::Receiver<usize>) {
    let mut time_max = FIRST_RPC_TIME_MAX;
    loop {
        let now = *busy.borrow_and_update();
        let change = busy.changed();
        let changed = match now {
            0 => match tokio::time::timeout(time_max, change).await {
                Ok(changed) => changed,
                Err(_) => return,
            },
            _ => change.await,
        };
        if changed.is_err() {
            // The connection is gone, and with it whoever waits for this.
            return;
        }
        time_max = IDLE_TIME_MAX;
    }
}

/// An RPC that is on its way.
struct Busy(Arc<watch::Sender<usize>>);

impl Busy {
    fn begin(busy: &Arc<watch::Sender<usize>>) -> Busy {
        busy.send_modify(|count| *count += 1);
        Busy(busy.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance, pause};

    use super::*;

    #[test]
    fn a_client_is_idle_only_without_rpcs() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            pause();
            let busy = Arc::new(watch::Sender::new(0));
            let start = Instant::now();
            idle(busy.subscribe()).await;
            assert!(start.elapsed() >= FIRST_RPC_TIME_MAX && start.elapsed() < IDLE_TIME_MAX);
            let watched = tokio::spawn(idle(busy.subscribe()));
            tokio::task::yield_now().await;
            let rpc = Busy::begin(&busy);
            tokio::task::yield_now().await;
            advance(10 * IDLE_TIME_MAX).await;
            tokio::task::yield_now().await;
            assert!(!watched.is_finished());
            drop(rpc);
            let start = Instant::now();
            watched.await.unwrap();
            assert!(start.elapsed() >= IDLE_TIME_MAX);
        });
    }
}
