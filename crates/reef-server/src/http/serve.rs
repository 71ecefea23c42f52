//! Connections and their requests.
//!
//! Invariants: what a request needs is checked before anything of its body is read; a connection whose client
//! has gone drops its handler at once (hyper reads while a handler runs). A client that shuts down only its
//! sending half counts as gone, as HTTP cannot tell the two apart. The one exception: after a client has sent
//! more bytes behind its request (pipelining), its leaving is noticed when the answer is written.
//!
//! A panic ends at the request that was served, else at the connection; ports go on accepting.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::EXPECT;
use hyper::http::request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use reef_engine::Class;

use crate::core::access::{Client, Credentials};
use crate::core::dashboard::Dashboard;
use crate::core::fault::{bug, contained};
use crate::core::note::Known;
use crate::core::problem::Problem;
use crate::core::state::{Phase, State};
use crate::http::control::{self, Sending};
use crate::http::encoding::{self, encoded};
use crate::http::error::ApiError;
use crate::http::infer::{Caller, Form, infer};
use crate::http::note::note;
use crate::http::receive::{Allowance, discard, receive, refuse};
use crate::http::reply::{Chunks, Reply, error, reply};
use crate::http::route::{ModelPath, Route, route};
use crate::http::{answers, dashboard, exposition, metrics, regions};
use crate::net::accept::Accepted;
use crate::net::connection::{Busy, Connection};
use crate::net::credentials::token;
use crate::net::outgoing::{Room, counted};

/// Bytes of a request's head at most: its line and its headers.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Headers of a request at most.
const HEADERS_MAX: usize = 100;

/// What of a connection's bytes is read ahead, and so what a head that never ends can take. More than a head
/// may have, so that bodies come in large pieces.
const READ_BYTES_MAX: usize = 64 << 10;

/// Bytes of a question at most that is no inference: names of 255 bytes, escaped, and some numbers.
const QUESTION_BYTES_MAX: usize = 4 << 10;

/// Bytes of a body that are read and thrown away for somebody who may not send it.
const REFUSED_BYTES_MAX: usize = 64 << 10;

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

const STATUSES: [u16; 15] = [200, 400, 401, 403, 404, 405, 408, 413, 415, 429, 431, 500, 501, 503, 504];

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
pub(crate) async fn serve(accepted: Accepted, port: Port, http: Arc<Http>) {
    let mut phase = http.state.phase.subscribe();
    let connection = accepted.connection().clone();
    let Accepted { io, ticket } = accepted;
    let service = service_fn(|request| {
        let (http, connection) = (http.clone(), connection.clone());
        async move { Ok::<_, Infallible>(answer(&http, port, &connection, request).await) }
    });
    let serving = http1::Builder::new()
        .max_buf_size(READ_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(io), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        // What has come is served before anything is closed.
        biased;
        ended = serving.as_mut() => Some(ended),
        why = connection.closes() => {
            tracing::debug!(peer = %connection.peer, "a connection was closed: {why}");
            Some(Ok(()))
        }
        _ = phase.wait_for(|&phase| phase >= Phase::Closing) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = serving.as_mut() => ended,
                _ = connection.closes() => Ok(()),
                _ = phase.wait_for(|&phase| phase >= Phase::Closed) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, peer = %connection.peer, "a connection ended early");
    }
    drop(ticket);
}

async fn answer(http: &Http, port: Port, connection: &Arc<Connection>, request: Request<Incoming>) -> Reply {
    let start = Instant::now();
    let busy = connection.begin(request.body().is_end_stream(), start);
    let takes = encoding::Accepted::of(request.headers());
    let (head, body) = request.into_parts();
    let mut known = Known::default();
    let handled = contained(async {
        let origin = Origin { port, connection, busy: &busy };
        let reply = handle(http, origin, &head, body, &mut known).await?;
        let takes = if reply.extensions().get::<Told>().is_some() { takes.at_need() } else { takes };
        let reply = encoded(&http.state, takes, reply).await?;
        let class = reply.extensions().get::<Class>().copied().unwrap_or(Class::BestEffort);
        let room = Room::new(&http.state, connection, class);
        let (head, body) = reply.into_parts();
        let chunks = counted(&http.state, room, body.into_chunks().into()).await?;
        Ok(Reply::from_parts(head, Chunks::new(chunks)))
    });
    let handled = handled.await.unwrap_or_else(|panic| Err(bug(&panic).into()));
    let mut reply = handled.unwrap_or_else(|failure| error(&failure));
    http.responses.count(reply.status());
    note(&http.state, connection, &head, &known, start, &mut reply);
    reply.body_mut().hold(busy);
    reply
}

/// Marks an answer of the protocol that is no inference. Clients of Triton say in every request that they
/// take compressed answers, and then read only those to inferences so.
#[derive(Clone, Copy)]
struct Told;

/// Where a request came from.
#[derive(Clone, Copy)]
struct Origin<'a> {
    port: Port,
    connection: &'a Connection,
    busy: &'a Busy,
}

async fn handle(
    http: &Http,
    origin: Origin<'_>,
    head: &request::Parts,
    body: Incoming,
    known: &mut Known,
) -> Result<Reply, ApiError> {
    let state = &http.state;
    let Origin { port, connection, busy } = origin;
    let sending = Sending { expects_continue: head.headers.contains_key(EXPECT), busy };
    let admitted = check_head(head).and_then(|()| route(&head.method, head.uri.path())).and_then(|route| {
        known.inference = port == Port::Http && matches!(route, Route::Infer(_));
        let client = identify(state, connection, &head.headers, &route)?;
        known.client = Some(client.clone());
        route.model().map_or(Ok(()), |model| client.check_model(model))?;
        Ok((route, client))
    });
    let (route, client) = match admitted {
        Ok(admitted) => admitted,
        Err(error) => {
            refuse(body, REFUSED_BYTES_MAX, sending.expects_continue);
            return Err(error);
        }
    };
    let told = !matches!(
        route,
        Route::Infer(_) | Route::Predict(_) | Route::Metrics | Route::Dashboard | Route::DashboardData
    );
    let mut reply = match (port, route) {
        (Port::Http, Route::Infer(model)) => {
            infer(state, Caller { client, busy, noted: known }, Form::V2, model, &head.headers, body).await?
        }
        (Port::Http, Route::Predict(model)) => {
            infer(state, Caller { client, busy, noted: known }, Form::V1, model, &head.headers, body).await?
        }
        (Port::Http, Route::Load(name)) => control::load(state, name.into_owned(), body, sending).await?,
        (Port::Http, Route::Unload(name)) => control::unload(state, name.into_owned(), body, sending).await?,
        (Port::Http, route) if takes_body(&route) => {
            let body = question(state, &head.headers, body, sending).await?;
            answer_body(state, &client, route, body).await?
        }
        (port, route) => {
            discard(body, REFUSED_BYTES_MAX);
            answer_plain(http, port, &client, route).await?
        }
    };
    if told {
        reply.extensions_mut().insert(Told);
    }
    Ok(reply)
}

/// Whether a question that is no inference may have a body.
fn takes_body(route: &Route<'_>) -> bool {
    matches!(
        route,
        Route::RepositoryIndex | Route::RegionRegister(..) | Route::TraceChange(_) | Route::LogChange
    )
}

/// Answers what has no body.
async fn answer_plain(http: &Http, port: Port, client: &Client, route: Route<'_>) -> Result<Reply, ApiError> {
    let state = &http.state;
    match route {
        Route::Dashboard => Ok(dashboard::page()),
        Route::DashboardData => Ok(dashboard::data(state, &http.dashboard).await?),
        Route::Live => Ok(answers::live()),
        Route::Ready => Ok(answers::ready(state, client)),
        Route::Metrics => {
            let text = metrics::text(state, &http.responses.counts());
            Ok(reply(StatusCode::OK, exposition::CONTENT_TYPE, vec![text.into()]))
        }
        _ if port == Port::Metrics => Err(ApiError::not_found(
            "this port serves the dashboard, /metrics and /v2/health only".to_string(),
        )),
        Route::Metadata => Ok(answers::server_metadata(state)),
        Route::Stats(model) => Ok(answers::stats(state, client, model.as_ref())?),
        Route::Model(model) => Ok(answers::model_metadata(state, &model)?),
        Route::ModelReady(model) => Ok(answers::model_ready(state, &model)?),
        Route::ModelConfig(model) => Ok(answers::model_config(state, &model)?),
        Route::V1Models => Ok(answers::v1_models(state, client)),
        Route::V1Model(model) => Ok(answers::model_ready(state, &model)?),
        Route::Explain(model) => Err(answers::explain(state, &model).into()),
        Route::RegionStatus(memory, name) => Ok(regions::status(state, memory, name.as_deref())?),
        Route::RegionUnregister(memory, name) => Ok(regions::unregister(state, memory, name.as_deref())?),
        Route::Trace(model) => trace_settings(state, model, Bytes::new()).await,
        Route::Log => Ok(answers::log_settings(state, b"")?),
        Route::Infer(_)
        | Route::Predict(_)
        | Route::RepositoryIndex
        | Route::RegionRegister(..)
        | Route::TraceChange(_)
        | Route::LogChange
        | Route::Load(_)
        | Route::Unload(_) => {
            unreachable!("answered elsewhere, or refused on the metrics port")
        }
    }
}

/// The body of a question that is no inference.
async fn question(
    state: &State,
    headers: &HeaderMap,
    incoming: Incoming,
    sending: Sending<'_>,
) -> Result<Bytes, ApiError> {
    let Sending { expects_continue, busy } = sending;
    let coding = match encoding::of_request(headers) {
        Ok(coding) => coding,
        Err(error) => {
            refuse(incoming, QUESTION_BYTES_MAX, expects_continue);
            return Err(error);
        }
    };
    let bytes_max = QUESTION_BYTES_MAX;
    let mut body = receive(incoming, Allowance { bytes_max, share: None, expects_continue, busy }).await?;
    if let Some(coding) = coding {
        (body, _) = encoding::decoded(state, Class::BestEffort, coding, body, bytes_max, None).await?;
    }
    Ok(body.take(body.len()))
}

/// Answers what may have a small body.
async fn answer_body(
    state: &Arc<State>,
    client: &Client,
    route: Route<'_>,
    body: Bytes,
) -> Result<Reply, ApiError> {
    match route {
        Route::RepositoryIndex => {
            let (state, client) = (state.clone(), client.clone());
            slow(move || answers::repository_index(&state, &client, &body)).await
        }
        Route::RegionRegister(memory, name) => Ok(regions::register(state, memory, &name, &body)?),
        Route::LogChange => Ok(answers::log_settings(state, &body)?),
        Route::TraceChange(model) => trace_settings(state, model, body).await,
        _ => unreachable!("these have no body"),
    }
}

async fn trace_settings(
    state: &Arc<State>,
    model: Option<ModelPath<'_>>,
    body: Bytes,
) -> Result<Reply, ApiError> {
    let (state, model) = (state.clone(), model.map(ModelPath::into_owned));
    // A trace that ends is written.
    slow(move || answers::trace_settings(&state, model.as_ref(), &body)).await
}

/// Answers on a thread that may wait for files.
async fn slow(answer: impl FnOnce() -> Result<Reply, Problem> + Send + 'static) -> Result<Reply, ApiError> {
    let done = tokio::task::spawn_blocking(answer).await;
    Ok(done.unwrap_or_else(|panic| Err(bug(&panic.to_string())))?)
}

/// Who asks, if it may ask this of any model.
fn identify(
    state: &State,
    connection: &Connection,
    headers: &HeaderMap,
    route: &Route<'_>,
) -> Result<Client, ApiError> {
    let names = connection.names();
    let need = route.need();
    let credentials = Credentials { token: token(headers, state.access.asks(need))?, names: &names };
    Ok(state.access.check(&credentials, need)?)
}

/// An error if the head is larger than anybody needs.
fn check_head(head: &request::Parts) -> Result<(), ApiError> {
    let path = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let line = head.method.as_str().len() + path + "  HTTP/1.1\r\n".len();
    let headers = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    let bytes = line + headers.sum::<usize>() + "\r\n".len();
    match bytes <= HEAD_BYTES_MAX {
        true => Ok(()),
        false => Err(ApiError::head_too_large(format!(
            "the head of the request has {bytes} bytes, at most {HEAD_BYTES_MAX} are allowed"
        ))),
    }
}
