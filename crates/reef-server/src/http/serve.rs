//! Connections and their requests.
//!
//! Invariants: the number of connections is bounded; a connection whose client has gone drops its handler at
//! once (hyper reads while a handler runs). A client that shuts down only its sending half counts as gone, as
//! HTTP cannot tell the two apart. The one exception: after a client has sent more bytes behind its request
//! (pipelining), its leaving is noticed when the answer is written.
//!
//! A panic ends at the request that was served, else at the connection; ports go on accepting.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::EXPECT;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::core::dashboard::Dashboard;
use crate::core::fault::{bug, contain, contained};
use crate::core::state::{Phase, State};
use crate::http::error::ApiError;
use crate::http::infer::infer;
use crate::http::receive::{Allowance, discard, receive};
use crate::http::reply::{Reply, error, reply};
use crate::http::route::{Route, route};
use crate::http::{answers, dashboard, exposition, metrics};

/// How long a client may take to send the head of a request.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);

/// Pause after a failed accept, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Bytes of a question to the repository at most; the longest that means something has 15.
const QUESTION_BYTES_MAX: usize = 4 << 10;

/// What all connections over HTTP share.
pub(crate) struct Http {
    state: Arc<State>,
    responses: Responses,
    dashboard: Arc<Dashboard>,
}

impl Http {
    /// Without connections.
    pub(crate) fn new(state: Arc<State>) -> Self {
        Http { state, responses: Responses::default(), dashboard: Arc::default() }
    }
}

/// What is served where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Http,
    Metrics,
}

impl Port {
    /// The phase that ends the acceptance of connections.
    fn last_phase(self) -> Phase {
        match self {
            Port::Http => Phase::Draining,
            Port::Metrics => Phase::Closing,
        }
    }
}

/// Responses by status, for the statuses that this server gives.
#[derive(Debug, Default)]
struct Responses([AtomicU64; STATUSES.len()]);

const STATUSES: [u16; 10] = [200, 400, 404, 405, 408, 413, 500, 501, 503, 504];

impl Responses {
    fn count(&self, status: StatusCode) {
        if let Some(index) = STATUSES.iter().position(|&known| known == status.as_u16()) {
            self.0[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counts(&self) -> [(u16, u64); STATUSES.len()] {
        std::array::from_fn(|index| (STATUSES[index], self.0[index].load(Ordering::Relaxed)))
    }
}

/// Accepts connections until the port's last phase; each holds a permit until it is closed.
pub(crate) async fn accept(listener: TcpListener, port: Port, permits: Arc<Semaphore>, http: Arc<Http>) {
    let mut phase = http.state.phase.subscribe();
    loop {
        let next = async {
            let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            _ = phase.wait_for(|&phase| phase >= port.last_phase()) => return,
            accepted = next => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, port, permit, http.clone()));
            }
            Err(error) => {
                // Whatever the log does, the port goes on accepting.
                let _ = contain(|| tracing::warn!(%error, "cannot accept a connection"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection until it closes.
async fn serve(stream: TcpStream, port: Port, permit: OwnedSemaphorePermit, http: Arc<Http>) {
    let mut phase = http.state.phase.subscribe();
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let service = service_fn(|request| {
        let http = http.clone();
        async move { Ok::<_, Infallible>(answer(&http, port, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = phase.wait_for(|&phase| phase >= Phase::Closing) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                _ = phase.wait_for(|&phase| phase >= Phase::Closed) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
    drop(permit);
}

async fn answer(http: &Http, port: Port, request: Request<Incoming>) -> Reply {
    let handled = contained(handle(http, port, request)).await;
    let handled = handled.unwrap_or_else(|panic| Err(bug(&panic).into()));
    let reply = handled.unwrap_or_else(|failure| error(&failure));
    http.responses.count(reply.status());
    reply
}

async fn handle(http: &Http, port: Port, request: Request<Incoming>) -> Result<Reply, ApiError> {
    let state = &http.state;
    let (head, body) = request.into_parts();
    let route = route(&head.method, head.uri.path());
    if let (Port::Http, Ok(Route::Infer(model))) = (port, &route) {
        return infer(state, model.clone(), &head.headers, body).await;
    }
    if let (Port::Http, Ok(Route::RepositoryIndex)) = (port, &route) {
        let expects_continue = head.headers.contains_key(EXPECT);
        let allowance = Allowance { bytes_max: QUESTION_BYTES_MAX, share: None, expects_continue };
        let mut body = receive(body, allowance).await?;
        return Ok(answers::repository_index(state, &body.take(body.len()))?);
    }
    discard(body, state.body_bytes_max);
    match route? {
        Route::Dashboard => Ok(dashboard::page()),
        Route::DashboardData => Ok(dashboard::data(state, &http.dashboard).await?),
        Route::Live => Ok(answers::live()),
        Route::Ready => Ok(answers::ready(state)),
        Route::Metrics => {
            let text = metrics::text(&state.engine.stats(), &http.responses.counts());
            Ok(reply(StatusCode::OK, exposition::CONTENT_TYPE, vec![text.into()]))
        }
        _ if port == Port::Metrics => Err(ApiError::not_found(
            "this port serves the dashboard, /metrics and /v2/health only".to_string(),
        )),
        Route::Metadata => Ok(answers::server_metadata(state)),
        Route::Stats(model) => Ok(answers::stats(state, model.as_ref())?),
        Route::Model(model) => Ok(answers::model_metadata(state, &model)?),
        Route::ModelReady(model) => Ok(answers::model_ready(state, &model)?),
        Route::ModelConfig(model) => Ok(answers::model_config(state, &model)?),
        Route::Infer(_) | Route::RepositoryIndex => {
            unreachable!("answered above, or refused on the metrics port")
        }
    }
}
