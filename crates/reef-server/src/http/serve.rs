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

use hyper::body::{Body as _, Incoming};
use hyper::header::{AUTHORIZATION, EXPECT};
use hyper::http::request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;

use crate::core::access::{Client, Credentials};
use crate::core::fault::{bug, contained};
use crate::core::problem::Problem;
use crate::core::state::{Phase, State};
use crate::http::error::ApiError;
use crate::http::infer::{Caller, infer};
use crate::http::note::{Asker, Ids, note};
use crate::http::receive::{Allowance, discard, receive};
use crate::http::reply::{Reply, error, reply};
use crate::http::route::{Route, route};
use crate::http::{answers, exposition, metrics};
use crate::net::accept::Accepted;
use crate::net::connection::{Busy, Connection};

/// Bytes of a request's head at most: its line and its headers.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Headers of a request at most.
const HEADERS_MAX: usize = 100;

/// What of a connection's bytes is read ahead, and so what a head that never ends can take. More than a head
/// may have, so that bodies come in large pieces.
const READ_BYTES_MAX: usize = 64 << 10;

/// Bytes of a question to the repository at most; the longest that means something has 15.
const QUESTION_BYTES_MAX: usize = 4 << 10;

/// Bytes of a body that are read and thrown away for somebody who may not send it.
const REFUSED_BYTES_MAX: usize = 64 << 10;

/// What all connections over HTTP share.
pub(crate) struct Http {
    state: Arc<State>,
    responses: Responses,
    ids: Ids,
}

impl Http {
    /// Without connections.
    pub(crate) fn new(state: Arc<State>) -> Self {
        Http { state, responses: Responses::default(), ids: Ids::default() }
    }

    /// Waits for the phase in which a port's connections are not accepted any more.
    pub(crate) async fn end_of(&self, port: Port) {
        let mut phase = self.state.phase.subscribe();
        let _ = phase.wait_for(|&phase| phase >= port.last_phase()).await;
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

const STATUSES: [u16; 14] = [200, 400, 401, 403, 404, 405, 408, 413, 429, 431, 500, 501, 503, 504];

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
    let (head, body) = request.into_parts();
    let handled = contained(handle(http, port, connection, &busy, &head, body)).await;
    let handled = handled.unwrap_or_else(|panic| Err(bug(&panic).into()));
    let mut reply = handled.unwrap_or_else(|failure| error(&failure));
    http.responses.count(reply.status());
    note(&http.state, &http.ids, connection, &head, start, &mut reply);
    reply.body_mut().hold(busy);
    reply
}

async fn handle(
    http: &Http,
    port: Port,
    connection: &Connection,
    busy: &Busy,
    head: &request::Parts,
    body: Incoming,
) -> Result<Reply, ApiError> {
    let state = &http.state;
    let expects_continue = head.headers.contains_key(EXPECT);
    let admitted = check_head(head).and_then(|()| route(&head.method, head.uri.path())).and_then(|route| {
        let client = admit(state, connection, &head.headers, &route)?;
        Ok((route, client))
    });
    let (route, client) = match admitted {
        Ok(admitted) => admitted,
        Err(error) => {
            if !expects_continue {
                discard(body, REFUSED_BYTES_MAX);
            }
            return Err(error);
        }
    };
    if let (Port::Http, Route::Infer(model)) = (port, &route) {
        let asker = Asker(client.name().to_string());
        let mut reply = infer(state, Caller { client, busy }, model.clone(), &head.headers, body).await?;
        reply.extensions_mut().insert(asker);
        return Ok(reply);
    }
    if let (Port::Http, Route::RepositoryIndex) = (port, &route) {
        let allowance = Allowance { bytes_max: QUESTION_BYTES_MAX, share: None, expects_continue, busy };
        let mut body = receive(body, allowance).await?;
        return Ok(answers::repository_index(state, &client, &body.take(body.len()))?);
    }
    discard(body, REFUSED_BYTES_MAX);
    match route {
        Route::Live => Ok(answers::live()),
        Route::Ready => Ok(answers::ready(state)),
        Route::Metrics => {
            let text = metrics::text(&state.engine.stats(), &http.responses.counts());
            Ok(reply(StatusCode::OK, exposition::CONTENT_TYPE, vec![text.into()]))
        }
        _ if port == Port::Metrics => {
            Err(ApiError::not_found("this port serves /metrics and /v2/health only".to_string()))
        }
        Route::Metadata => Ok(answers::server_metadata(state)),
        Route::Stats(model) => Ok(answers::stats(state, &client, model.as_ref())?),
        Route::Model(model) => Ok(answers::model_metadata(state, &model)?),
        Route::ModelReady(model) => Ok(answers::model_ready(state, &model)?),
        Route::ModelConfig(model) => Ok(answers::model_config(state, &model)?),
        Route::Infer(_) | Route::RepositoryIndex => {
            unreachable!("answered above, or refused on the metrics port")
        }
    }
}

/// Who asks, if it may ask this.
fn admit(
    state: &State,
    connection: &Connection,
    headers: &HeaderMap,
    route: &Route<'_>,
) -> Result<Client, ApiError> {
    let names = connection.names();
    let credentials = Credentials { token: token(headers)?, names: &names };
    let client = state.access.check(&credentials, route.need())?;
    route.model().map_or(Ok(()), |model| client.check_model(model))?;
    Ok(client)
}

/// The bearer token or API key that a request shows.
fn token(headers: &HeaderMap) -> Result<Option<&[u8]>, Problem> {
    let bearer = headers.get_all(AUTHORIZATION).iter().map(|value| {
        let scheme = value.as_bytes().split_at_checked(BEARER.len());
        let token = scheme.and_then(|(scheme, token)| {
            scheme.eq_ignore_ascii_case(BEARER.as_bytes()).then(|| token.trim_ascii())
        });
        token.ok_or_else(|| Problem::unauthenticated("only bearer tokens are taken in Authorization"))
    });
    let keys = headers.get_all(API_KEY).iter().map(|value| Ok(value.as_bytes().trim_ascii()));
    let mut shown = bearer.chain(keys);
    let first = shown.next().transpose()?;
    match shown.next() {
        None => Ok(first),
        // Which one was meant is not for us to choose.
        Some(_) => Err(Problem::unauthenticated("more than one token is shown")),
    }
}

/// What stands before a bearer token.
const BEARER: &str = "Bearer ";

/// The header of API keys.
const API_KEY: &str = "x-api-key";

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

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;
    use crate::core::problem::Kind;

    #[test]
    fn one_token_is_shown_or_none() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            pairs.iter().for_each(|(name, value)| drop(map.append(*name, HeaderValue::from_static(value))));
            map
        };
        let table: [(&[_], Option<&[u8]>); 5] = [
            (&[], None),
            (&[("authorization", "Bearer abc")], Some(b"abc")),
            (&[("authorization", "bEARER   abc ")], Some(b"abc")),
            (&[("x-api-key", "abc")], Some(b"abc")),
            (&[("authorization", "Bearer ")], Some(b"")),
        ];
        for (pairs, expected) in table {
            assert_eq!(token(&headers(pairs)), Ok(expected), "{pairs:?}");
        }
        let wrong: [&[_]; 5] = [
            &[("authorization", "Basic YTpi")],
            &[("authorization", "")],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer a"), ("authorization", "Bearer a")],
            &[("authorization", "Bearer a"), ("x-api-key", "a")],
        ];
        for pairs in wrong {
            let headers = headers(pairs);
            assert_eq!(token(&headers).unwrap_err().kind, Kind::Unauthenticated, "{pairs:?}");
        }
    }
}
