//! Connections and their requests.
//!
//! Invariants: the number of connections is bounded; a connection whose client has gone drops its handler at
//! once (hyper reads while a handler runs). A client that shuts down only its sending half counts as gone, as
//! HTTP cannot tell the two apart. The one exception: after a client has sent more bytes behind its request
//! (pipelining), its leaving is noticed when the answer is written.
//!
//! A panic ends at the request that was served, else at the connection; ports go on accepting.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::EXPECT;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use reef_engine::Class;
use tokio::net::TcpStream;

use crate::accept::attend;
use crate::core::dashboard::Dashboard;
use crate::core::fault::{bug, contained};
use crate::core::state::{Phase, State};
use crate::http::encoding::{self, Accepted, encoded};
use crate::http::error::ApiError;
use crate::http::infer::infer;
use crate::http::receive::{Allowance, discard, receive, refuse};
use crate::http::reply::{Reply, error, reply};
use crate::http::route::{ModelPath, Route, route};
use crate::http::{answers, control, dashboard, exposition, metrics, regions};

/// How long a client may take to send the head of a request.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);

/// Bytes of a question at most that is no inference: names of 255 bytes, escaped, and some numbers.
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
    pub(crate) fn last_phase(self) -> Phase {
        match self {
            Port::Http => Phase::Draining,
            Port::Metrics => Phase::Closing,
        }
    }
}

/// Responses by status, for the statuses that this server gives.
#[derive(Debug, Default)]
struct Responses([AtomicU64; STATUSES.len()]);

const STATUSES: [u16; 11] = [200, 400, 404, 405, 408, 413, 415, 500, 501, 503, 504];

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

/// Serves one connection until it closes.
pub(crate) async fn serve(stream: TcpStream, port: Port, http: Arc<Http>) {
    let service = service_fn(|request| {
        let http = http.clone();
        async move { Ok::<_, Infallible>(answer(&http, port, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service);
    attend(&http.state, connection, |connection| connection.graceful_shutdown(), pending()).await;
}

async fn answer(http: &Http, port: Port, request: Request<Incoming>) -> Reply {
    let accepted = Accepted::of(request.headers());
    let handled = contained(async {
        let reply = handle(http, port, request).await?;
        Ok(encoded(&http.state, accepted, reply).await?)
    });
    let handled = handled.await;
    let handled = handled.unwrap_or_else(|panic| Err(bug(&panic).into()));
    let reply = handled.unwrap_or_else(|failure| error(&failure));
    http.responses.count(reply.status());
    reply
}

/// The body of a question that is no inference.
async fn question(state: &State, headers: &HeaderMap, incoming: Incoming) -> Result<Bytes, ApiError> {
    let expects_continue = headers.contains_key(EXPECT);
    let coding = match encoding::of_request(headers) {
        Ok(coding) => coding,
        Err(error) => {
            refuse(incoming, QUESTION_BYTES_MAX, expects_continue);
            return Err(error);
        }
    };
    let bytes_max = QUESTION_BYTES_MAX;
    let mut body = receive(incoming, Allowance { bytes_max, share: None, expects_continue }).await?;
    if let Some(coding) = coding {
        (body, _) = encoding::decoded(state, Class::BestEffort, coding, body, bytes_max, None).await?;
    }
    Ok(body.take(body.len()))
}

async fn handle(http: &Http, port: Port, request: Request<Incoming>) -> Result<Reply, ApiError> {
    let state = &http.state;
    let (head, body) = request.into_parts();
    let route = route(&head.method, head.uri.path());
    if let (Port::Http, Ok(Route::Infer(model))) = (port, &route) {
        return infer(state, model.clone(), &head.headers, body).await;
    }
    let takes_body = |route: &Route<'_>| {
        matches!(route, Route::RepositoryIndex | Route::RegionRegister(..) | Route::Trace(_) | Route::Log)
    };
    if let (Port::Http, Ok(asked)) = (port, &route)
        && takes_body(asked)
    {
        let body = question(state, &head.headers, body).await?;
        return answer_body(state, route?, body).await;
    }
    if let (Port::Http, Ok(Route::Load(name) | Route::Unload(name))) = (port, &route) {
        let (name, expects_continue) = (name.clone().into_owned(), head.headers.contains_key(EXPECT));
        return match route {
            Ok(Route::Load(_)) => control::load(state, name, body, expects_continue).await,
            _ => control::unload(state, name, body, expects_continue).await,
        };
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
        Route::RegionStatus(memory, name) => Ok(regions::status(state, memory, name.as_deref())?),
        Route::RegionUnregister(memory, name) => Ok(regions::unregister(state, memory, name.as_deref())?),
        Route::Infer(_)
        | Route::RepositoryIndex
        | Route::RegionRegister(..)
        | Route::Trace(_)
        | Route::Log
        | Route::Load(_)
        | Route::Unload(_) => {
            unreachable!("answered above, or refused on the metrics port")
        }
    }
}

/// Answers what may have a small body.
async fn answer_body(state: &Arc<State>, route: Route<'_>, body: Bytes) -> Result<Reply, ApiError> {
    match route {
        Route::RepositoryIndex => Ok(answers::repository_index(state, &body)?),
        Route::RegionRegister(memory, name) => Ok(regions::register(state, memory, &name, &body)?),
        Route::Log => Ok(answers::log_settings(state, &body)?),
        Route::Trace(model) => {
            let (state, model) = (state.clone(), model.map(ModelPath::into_owned));
            // A trace that ends is written.
            let work = move || answers::trace_settings(&state, model.as_ref(), &body);
            let done = tokio::task::spawn_blocking(work).await;
            Ok(done.unwrap_or_else(|panic| Err(bug(&panic.to_string())))?)
        }
        _ => unreachable!("these have no body"),
    }
}
