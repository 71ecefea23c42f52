//! Listening, connections and shutdown.
//!
//! | phase | set by | new connections | open connections | the engine |
//! |---|---|---|---|---|
//! | loading | [`Server::open`] | accepted | served; inference gets 503 | loads its models |
//! | serving | [`Running::set_ready`] | accepted | served | takes requests |
//! | draining | [`Running::shutdown`] | metrics port only | served; inference gets 503 | ends its work |
//! | closing | the engine has ended | refused | finish their request, then close | – |
//! | closed | all have closed, or time is up | refused | cut off | – |
//!
//! Invariants: a phase never goes back; the number of connections is bounded; a connection whose client has
//! gone drops its handler at once (hyper reads while a handler runs). A client that shuts down only its
//! sending half counts as gone, as HTTP cannot tell the two apart. The one exception: after a client has
//! sent more bytes behind its request (pipelining), its leaving is noticed when the answer is written.
//!
//! A panic ends at the request that was served, else at the connection; ports go on accepting.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::EXPECT;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use reef_base::limits;
use reef_engine::{Engine, ModelKey};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::budget::Budget;
use crate::bulk::Lanes;
use crate::error::{ApiError, ServerError};
use crate::fault::{bug, contain, contained};
use crate::infer::infer;
use crate::receive::{Allowance, discard, receive};
use crate::reply::{Reply, error, reply};
use crate::route::{Route, route};
use crate::{answers, exposition, metrics};

/// How long a client may take to send the head of a request.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);

/// How long answers may take to reach their clients once the engine has ended.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(5);

/// Pause after a failed accept, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Bytes of a question to the repository at most; the longest that means something has 15.
const QUESTION_BYTES_MAX: usize = 4 << 10;

/// How the server listens.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Where to serve the protocol; port 0 takes a free one.
    pub http: SocketAddr,
    /// Where to serve metrics and health besides; `None` for only on the other port.
    pub metrics: Option<SocketAddr>,
    /// Bytes of one request body at most.
    pub body_bytes_max: usize,
    /// Bytes of all request bodies that are in memory at once, at most; what goes beyond is refused with 503.
    /// The last quarter is for real-time models. At least four thirds of `body_bytes_max`, whatever is said.
    pub bodies_bytes_max: usize,
    /// Connections per port at most; more wait in the operating system's queue.
    pub connections_max: usize,
    /// Threads that serve connections.
    pub threads: usize,
}

impl Default for ServerOptions {
    /// Loopback only, Triton's ports.
    fn default() -> Self {
        ServerOptions {
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            metrics: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8002))),
            body_bytes_max: limits::BODY_BYTES_DEFAULT,
            bodies_bytes_max: limits::BODIES_BYTES_DEFAULT,
            connections_max: 1024,
            threads: 2,
        }
    }
}

/// A server that holds its ports and does not serve yet.
#[derive(Debug)]
pub struct Server {
    http: std::net::TcpListener,
    metrics: Option<std::net::TcpListener>,
    options: ServerOptions,
}

impl Server {
    /// Takes the ports. Clients may connect from now on; they wait until [`Server::open`].
    pub fn bind(options: ServerOptions) -> Result<Server, ServerError> {
        let http = listen(options.http, "HTTP")?;
        let metrics = options.metrics.map(|address| listen(address, "metrics")).transpose()?;
        Ok(Server { http, metrics, options })
    }

    /// Where the protocol will be served.
    pub fn http_addr(&self) -> SocketAddr {
        self.http.local_addr().unwrap_or(self.options.http)
    }

    /// Where metrics will be served.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        let metrics = self.metrics.as_ref()?;
        metrics.local_addr().ok().or(self.options.metrics)
    }

    /// Serves `engine`, whose models are there, on threads of its own.
    pub fn start(self, engine: Engine) -> Result<Running, ServerError> {
        let running = self.open(engine)?;
        running.set_ready();
        Ok(running)
    }

    /// Answers on threads of its own while `engine` loads its models: the server is live, but not ready.
    pub fn open(self, engine: Engine) -> Result<Running, ServerError> {
        let (http_addr, metrics_addr) = (self.http_addr(), self.metrics_addr());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(self.options.threads.max(1))
            .thread_name("reef-http")
            .enable_all()
            .build()
            .map_err(ServerError::Threads)?;
        let state = Arc::new(State {
            engine,
            phase: watch::Sender::new(Phase::Loading),
            body_bytes_max: self.options.body_bytes_max,
            bodies: Arc::new(Budget::new(self.options.bodies_bytes_max, self.options.body_bytes_max)),
            lanes: Lanes::start().map_err(ServerError::Threads)?,
            responses: Responses::default(),
            unavailable: RwLock::default(),
        });
        let mut open = Vec::new();
        let ports = [(Some(self.http), Port::Http), (self.metrics, Port::Metrics)];
        for (listener, port) in ports.into_iter().filter_map(|(listener, port)| Some((listener?, port))) {
            let _entered = runtime.enter();
            let listener = TcpListener::from_std(listener).map_err(ServerError::Threads)?;
            let permits = Arc::new(Semaphore::new(self.options.connections_max.max(1)));
            open.push((permits.clone(), self.options.connections_max.max(1)));
            runtime.spawn(accept(listener, port, permits, state.clone()));
        }
        let running = Running { runtime: Some(runtime), state, open, http_addr, metrics_addr };
        tracing::info!(http = %http_addr, metrics = %running.metrics_text(), "listening");
        Ok(running)
    }
}

/// A server at work. Dropping it cuts every connection off, which cancels their requests.
#[derive(Debug)]
pub struct Running {
    runtime: Option<Runtime>,
    state: Arc<State>,
    /// Permits of each port and how many there are: all back means all connections closed.
    open: Vec<(Arc<Semaphore>, usize)>,
    http_addr: SocketAddr,
    metrics_addr: Option<SocketAddr>,
}

impl Running {
    /// Where the protocol is served.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Where metrics are served besides.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// Answers for a model that could not be loaded: clients are told `reason`. It is forgotten when the
    /// engine has a model of that name and version.
    pub fn set_unavailable(&self, key: ModelKey, reason: String) {
        self.state.unavailable.write().unwrap_or_else(PoisonError::into_inner).insert(key, reason);
    }

    /// All models are loaded: inference requests are taken from now on.
    pub fn set_ready(&self) {
        let ready = self.state.phase.send_if_modified(|phase| {
            let loading = *phase == Phase::Loading;
            if loading {
                *phase = Phase::Serving;
            }
            loading
        });
        if ready {
            tracing::info!(http = %self.http_addr, metrics = %self.metrics_text(), "serving");
        }
    }

    /// Stops accepting, shuts the engine down (real-time work finishes, best-effort work gets `drain`),
    /// delivers the last answers and closes all connections. False if some had to be cut off.
    pub fn shutdown(mut self, drain: Duration) -> bool {
        let Some(runtime) = self.runtime.take() else { return true };
        tracing::info!(?drain, "draining");
        self.state.phase.send_replace(Phase::Draining);
        self.state.engine.shutdown(drain);
        self.state.phase.send_replace(Phase::Closing);
        let all_closed = runtime.block_on(async {
            let closed = async {
                for (permits, count) in &self.open {
                    let count = u32::try_from(*count).unwrap_or(u32::MAX);
                    let _ = permits.acquire_many(count).await;
                }
            };
            tokio::time::timeout(CLOSING_TIME_MAX, closed).await.is_ok()
        });
        self.state.phase.send_replace(Phase::Closed);
        runtime.shutdown_timeout(Duration::from_secs(1));
        all_closed
    }

    fn metrics_text(&self) -> String {
        self.metrics_addr.map_or("off".to_string(), |address| address.to_string())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.state.phase.send_replace(Phase::Closed);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What all connections share.
pub(crate) struct State {
    pub(crate) engine: Engine,
    pub(crate) body_bytes_max: usize,
    pub(crate) bodies: Arc<Budget>,
    pub(crate) lanes: Lanes,
    phase: watch::Sender<Phase>,
    responses: Responses,
    /// Models that could not be loaded, and why.
    unavailable: RwLock<BTreeMap<ModelKey, String>>,
}

impl State {
    /// Whether inference requests are taken.
    pub(crate) fn takes_requests(&self) -> bool {
        *self.phase.borrow() == Phase::Serving && self.engine.is_ready()
    }

    /// Why a model is not there, if it could not be loaded; without a version, the first one.
    pub(crate) fn unavailable(&self, name: &str, version: Option<&str>) -> Option<(ModelKey, String)> {
        let unavailable = self.unavailable.read().unwrap_or_else(PoisonError::into_inner);
        let wanted =
            |key: &ModelKey| key.name == name && version.is_none_or(|version| key.version == version);
        let found = unavailable.iter().find(|(key, _)| wanted(key));
        found.map(|(key, reason)| (key.clone(), reason.clone()))
    }

    /// Every model that could not be loaded and is not there since, with the reason.
    pub(crate) fn all_unavailable(&self) -> Vec<(ModelKey, String)> {
        let unavailable = self.unavailable.read().unwrap_or_else(PoisonError::into_inner).clone();
        let gone = |key: &ModelKey| self.engine.model(&key.name, Some(&key.version)).is_none();
        unavailable.into_iter().filter(|(key, _)| gone(key)).collect()
    }

    /// An error, for what needs models, while they are being loaded.
    pub(crate) fn check_loaded(&self) -> Result<(), ApiError> {
        match *self.phase.borrow() {
            Phase::Loading => Err(ApiError::unavailable("the server is still loading its models")),
            Phase::Serving | Phase::Draining | Phase::Closing | Phase::Closed => Ok(()),
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("phase", &*self.phase.borrow()).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Loading,
    Serving,
    Draining,
    Closing,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
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

fn listen(address: SocketAddr, purpose: &'static str) -> Result<std::net::TcpListener, ServerError> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| ServerError::Bind { address, purpose, source })
}

async fn accept(listener: TcpListener, port: Port, permits: Arc<Semaphore>, state: Arc<State>) {
    let mut phase = state.phase.subscribe();
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
                tokio::spawn(serve(stream, port, permit, state.clone()));
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
async fn serve(stream: TcpStream, port: Port, permit: OwnedSemaphorePermit, state: Arc<State>) {
    let mut phase = state.phase.subscribe();
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let service = service_fn(|request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(answer(&state, port, request).await) }
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

async fn answer(state: &Arc<State>, port: Port, request: Request<Incoming>) -> Reply {
    let handled = contained(handle(state, port, request)).await.unwrap_or_else(|panic| Err(bug(&panic)));
    let reply = handled.unwrap_or_else(|failure| error(&failure));
    state.responses.count(reply.status());
    reply
}

async fn handle(state: &Arc<State>, port: Port, request: Request<Incoming>) -> Result<Reply, ApiError> {
    let (head, body) = request.into_parts();
    let route = route(&head.method, head.uri.path());
    if let (Port::Http, Ok(Route::Infer(model))) = (port, &route) {
        return infer(state, model.clone(), &head.headers, body).await;
    }
    if let (Port::Http, Ok(Route::RepositoryIndex)) = (port, &route) {
        let expects_continue = head.headers.contains_key(EXPECT);
        let allowance = Allowance { bytes_max: QUESTION_BYTES_MAX, share: None, expects_continue };
        let mut body = receive(body, allowance).await?;
        return answers::repository_index(state, &body.take(body.len()));
    }
    discard(body, state.body_bytes_max);
    match route? {
        Route::Live => Ok(answers::live()),
        Route::Ready => Ok(answers::ready(state)),
        Route::Metrics => {
            let text = metrics::text(&state.engine.stats(), &state.responses.counts());
            Ok(reply(StatusCode::OK, exposition::CONTENT_TYPE, vec![text.into()]))
        }
        _ if port == Port::Metrics => {
            Err(ApiError::not_found("this port serves /metrics and /v2/health only".to_string()))
        }
        Route::Metadata => Ok(answers::server_metadata()),
        Route::Stats(model) => answers::stats(state, model.as_ref()),
        Route::Model(model) => answers::model_metadata(state, &model),
        Route::ModelReady(model) => answers::model_ready(state, &model),
        Route::ModelConfig(model) => answers::model_config(state, &model),
        Route::Infer(_) | Route::RepositoryIndex => {
            unreachable!("answered above, or refused on the metrics port")
        }
    }
}
