//! Ports and their connections, whichever protocol they speak.
//!
//! Invariants: the number of connections of a port is bounded; whatever becomes of one connection, the port
//! goes on accepting until its last phase.

use std::fmt::Display;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::core::fault::contain;
use crate::core::state::{Phase, State};

/// Pause after a failed accept, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Accepts connections until the phase `last`; each holds a permit until `serve` has ended with it.
pub(crate) async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    permits: Arc<Semaphore>,
    state: Arc<State>,
    last: Phase,
    serve: impl Fn(TcpStream) -> F,
) {
    let mut phase = state.phase.subscribe();
    loop {
        let next = async {
            let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            _ = phase.wait_for(|&phase| phase >= last) => return,
            accepted = next => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                let served = serve(stream);
                tokio::spawn(async move {
                    served.await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Whatever the log does, the port goes on accepting.
                let _ = contain(|| tracing::warn!(%error, "cannot accept a connection"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// How long a connection that is sent away may take to finish what it has begun.
const LEAVING_TIME_MAX: Duration = Duration::from_secs(60);

/// Sees a connection to its end: when the server closes, or `leaves` says that it is to go, it may finish
/// what it has begun (`close` tells it); when the server is closed it is cut off.
pub(crate) async fn attend<E: Display, C: Future<Output = Result<(), E>>>(
    state: &State,
    connection: C,
    close: impl Fn(Pin<&mut C>),
    leaves: impl Future<Output = ()>,
) {
    let mut phase = state.phase.subscribe();
    let mut connection = pin!(connection);
    let (ended, time_max) = tokio::select! {
        ended = connection.as_mut() => (Some(ended), Duration::ZERO),
        _ = phase.wait_for(|&phase| phase >= Phase::Closing) => (None, Duration::MAX),
        () = leaves => (None, LEAVING_TIME_MAX),
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            close(connection.as_mut());
            tokio::select! {
                ended = connection.as_mut() => ended,
                _ = phase.wait_for(|&phase| phase >= Phase::Closed) => Ok(()),
                () = tokio::time::sleep(time_max) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
