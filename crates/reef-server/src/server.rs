//! Listening and shutdown.
//!
//! | phase | set by | new connections | open connections | the engine |
//! |---|---|---|---|---|
//! | loading | [`Server::open`] | accepted | served; inference is refused | loads its models |
//! | serving | [`Running::set_ready`] | accepted | served | takes requests |
//! | draining | [`Running::shutdown`] | metrics port only | served; inference is refused | ends its work |
//! | closing | the engine has ended | refused | finish their request, then close | – |
//! | closed | all have closed, or time is up | refused | cut off | – |
//!
//! Invariant: a phase never goes back. Knows which protocols there are, and nothing of what they say.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reef_base::limits;
use reef_engine::{Engine, ModelKey};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::core::access::{Access, AccessOptions, Client};
use crate::core::control::ModelControl;
use crate::core::logging::LogControl;
use crate::core::regions::Regions;
use crate::core::state::{Phase, State, StateOptions};
use crate::grpc;
use crate::grpc::rpc::Grpc;
use crate::http;
use crate::http::serve::{Http, Port};
use crate::net::accept::{self, Accepted, accept};
use crate::net::connection::ConnectionLimits;
use crate::net::table::Table;
use crate::net::tls::{Tls, TlsError, TlsOptions};
use crate::ring::{self, Bound, Ring, RingOptions};
use crate::telemetry::Telemetry;

/// How long answers may take to reach their clients once the engine has ended.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(5);

/// How often certificates are looked at.
const CERTIFICATES_PAUSE: Duration = Duration::from_secs(5);

/// How often tokens are: whoever takes one away wants it to count no more.
const TOKENS_PAUSE: Duration = Duration::from_secs(1);

/// How the server listens.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Where to serve the protocol over HTTP; port 0 takes a free one.
    pub http: SocketAddr,
    /// Where to serve it over gRPC; `None` for not at all.
    pub grpc: Option<SocketAddr>,
    /// Where to serve metrics and health besides; `None` for only on the other port.
    pub metrics: Option<SocketAddr>,
    /// Bytes of one request body, or of one message, at most.
    pub body_bytes_max: usize,
    /// Bytes of all request bodies that are in memory at once, at most; what goes beyond is refused with 503.
    /// The last quarter is for real-time models. At least four thirds of `body_bytes_max`, whatever is said.
    pub bodies_bytes_max: usize,
    /// Bytes of all answers that their clients have not read yet, at most; a request whose answer goes beyond
    /// is answered with 503. The last quarter is for real-time requests, and no connection has more than a
    /// quarter in several answers. One answer of any size fits where there is no other.
    pub answers_bytes_max: usize,
    /// How many connections there may be, and how long they may take.
    pub connections: ConnectionLimits,
    /// Who may do what.
    pub access: AccessOptions,
    /// TLS on every port; plain text without.
    pub tls: Option<TlsOptions>,
    /// A collector of OpenTelemetry that gets traces over HTTP, such as `http://localhost:4318`.
    pub otlp_endpoint: Option<String>,
    /// Threads that serve connections.
    pub threads: usize,
    /// Where clients may have timelines written; `None` if they may not.
    pub trace_folder: Option<PathBuf>,
    /// Whether clients may register shared memory: files of `/dev/shm` that the server may read and write.
    pub allow_client_shm: bool,
    /// Where clients of this host may connect to the shared-memory fast path; `None` for nowhere.
    pub ring: Option<RingOptions>,
    /// Whether the server is ready only while every model is that it is to serve.
    pub strict_readiness: bool,
}

impl Default for ServerOptions {
    /// Loopback only, Triton's ports, without gRPC.
    fn default() -> Self {
        ServerOptions {
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            grpc: None,
            metrics: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8002))),
            body_bytes_max: limits::BODY_BYTES_DEFAULT,
            bodies_bytes_max: limits::BODIES_BYTES_DEFAULT,
            // What comes in and what goes out are about as much.
            answers_bytes_max: limits::BODIES_BYTES_DEFAULT,
            connections: ConnectionLimits::default(),
            access: AccessOptions::default(),
            tls: None,
            otlp_endpoint: None,
            threads: 2,
            trace_folder: None,
            allow_client_shm: false,
            ring: None,
            strict_readiness: false,
        }
    }
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on: in use, not ours, not permitted.
    #[error("cannot listen on {address} for {purpose}: {source}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What would have been served there.
        purpose: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The socket cannot be listened on: in use, no such folder, not permitted.
    #[error("cannot listen on {} for the ring: {source}", path.display())]
    BindRing {
        /// The path asked for.
        path: std::path::PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The ring is to be of a client that there is not.
    #[error("the ring is of the client '{0}', and there is no such client")]
    RingClient(String),
    /// Certificates or keys cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The threads that serve connections could not be started.
    #[error("cannot start the server's threads: {0}")]
    Threads(std::io::Error),
}

/// TLS of the ports, by what is spoken on them.
#[derive(Debug)]
struct PortsTls {
    http: Arc<Tls>,
    grpc: Arc<Tls>,
}

impl PortsTls {
    fn new(options: &TlsOptions) -> Result<PortsTls, TlsError> {
        let tls = |protocol| Ok(Arc::new(Tls::new(options.clone(), &[protocol])?));
        Ok(PortsTls { http: tls("http/1.1")?, grpc: tls("h2")? })
    }

    fn all(&self) -> [&Arc<Tls>; 2] {
        [&self.http, &self.grpc]
    }
}

/// A server that holds its ports and does not serve yet.
#[derive(Debug)]
pub struct Server {
    http: std::net::TcpListener,
    grpc: Option<std::net::TcpListener>,
    metrics: Option<std::net::TcpListener>,
    ring: Option<Bound>,
    tls: Option<PortsTls>,
    options: ServerOptions,
}

impl Server {
    /// Takes the ports. Clients may connect from now on; they wait until [`Server::open`].
    pub fn bind(options: ServerOptions) -> Result<Server, ServerError> {
        let tls = options.tls.as_ref().map(PortsTls::new).transpose()?;
        if let Some(name) = options.ring.as_ref().and_then(|ring| ring.client.as_ref())
            && !options.access.clients.iter().any(|client| client.name == *name)
        {
            return Err(ServerError::RingClient(name.clone()));
        }
        let http = listen(options.http, "HTTP")?;
        let grpc = options.grpc.map(|address| listen(address, "gRPC")).transpose()?;
        let metrics = options.metrics.map(|address| listen(address, "metrics")).transpose()?;
        let bind_ring = |ring: &RingOptions| {
            ring::bind(ring).map_err(|source| ServerError::BindRing { path: ring.path.clone(), source })
        };
        let ring = options.ring.as_ref().map(bind_ring).transpose()?;
        Ok(Server { http, grpc, metrics, ring, tls, options })
    }

    /// Where the protocol will be served over HTTP.
    pub fn http_addr(&self) -> SocketAddr {
        self.http.local_addr().unwrap_or(self.options.http)
    }

    /// Where it will be served over gRPC.
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        let grpc = self.grpc.as_ref()?;
        grpc.local_addr().ok().or(self.options.grpc)
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
        let addresses =
            Addresses { http: self.http_addr(), grpc: self.grpc_addr(), metrics: self.metrics_addr() };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(self.options.threads.max(1))
            .thread_name("reef-io")
            .enable_all()
            .build()
            .map_err(ServerError::Threads)?;
        let options = StateOptions {
            body_bytes_max: self.options.body_bytes_max,
            bodies_bytes_max: self.options.bodies_bytes_max,
            answers_bytes_max: self.options.answers_bytes_max,
            trace_folder: self.options.trace_folder,
        };
        let mut state = State::new(engine, options).map_err(ServerError::Threads)?;
        state.regions = self.options.allow_client_shm.then(Regions::new);
        state.strict_readiness = self.options.strict_readiness;
        state.access = Access::new(self.options.access);
        let endpoint = self.options.otlp_endpoint.as_deref();
        state.telemetry = endpoint.map(Telemetry::start).transpose().map_err(ServerError::Threads)?;
        state.set_http_port(addresses.http.port());
        let state = Arc::new(state);
        let mut ports = Ports { state: state.clone(), limits: self.options.connections, open: Vec::new() };
        let entered = runtime.enter();
        let http = Arc::new(Http::new(state.clone()));
        for (listener, port) in [(Some(self.http), Port::Http), (self.metrics, Port::Metrics)] {
            let (http, tls) = (http.clone(), self.tls.as_ref().map(|tls| tls.http.clone()));
            let serve = move |accepted| http::serve::serve(accepted, port, http.clone());
            ports.open(listener, tls, port.last_phase(), serve)?;
        }
        let grpc = Arc::new(Grpc::new(state.clone(), self.options.connections.count_max));
        let tls = self.tls.as_ref().map(|tls| tls.grpc.clone());
        let serve = move |accepted| grpc::serve::serve(accepted, grpc.clone());
        ports.open(self.grpc, tls, Phase::Draining, serve)?;
        for tls in self.tls.iter().flat_map(PortsTls::all) {
            let tls = tls.clone();
            tokio::spawn(refresh(CERTIFICATES_PAUSE, move || tls.refresh()));
        }
        let tables = ports.open.clone();
        state.set_room(Box::new(move || tables.iter().for_each(|table| table.ask_slowest())));
        if state.access.has_files() {
            let state = state.clone();
            tokio::spawn(refresh(TOKENS_PAUSE, move || state.access.refresh()));
        }
        drop(entered);
        addresses.log("listening");
        let named = self.options.ring.and_then(|ring| state.access.named(&ring.client?));
        let start = |bound| Ring::start(bound, state.clone(), named.clone().unwrap_or_else(Client::anybody));
        let ring = self.ring.map(start).transpose().map_err(ServerError::Threads)?;
        if let Some(ring) = &ring {
            tracing::info!(path = %ring.path().display(), "listening for clients of the ring");
        }
        Ok(Running { runtime: Some(runtime), state, open: ports.open, ring, tls: self.tls, addresses })
    }
}

/// The ports that are served.
struct Ports {
    state: Arc<State>,
    limits: ConnectionLimits,
    /// The connections of each port.
    open: Vec<Arc<Table>>,
}

impl Ports {
    /// Serves a port, if there is one, until the phase `last`; inside a runtime.
    fn open<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        listener: Option<std::net::TcpListener>,
        tls: Option<Arc<Tls>>,
        last: Phase,
        serve: impl Fn(Accepted) -> F + Clone + Send + Sync + 'static,
    ) -> Result<(), ServerError> {
        let Some(listener) = listener else { return Ok(()) };
        let listener = TcpListener::from_std(listener).map_err(ServerError::Threads)?;
        let table = Arc::new(Table::new(self.limits));
        self.open.push(table.clone());
        let mut phase = self.state.phase.subscribe();
        let end = async move {
            let _ = phase.wait_for(|&phase| phase >= last).await;
        };
        tokio::spawn(accept(listener, table, tls, serve, end));
        Ok(())
    }
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The protocol over HTTP.
    pub http: SocketAddr,
    /// The protocol over gRPC.
    pub grpc: Option<SocketAddr>,
    /// Metrics and health, besides.
    pub metrics: Option<SocketAddr>,
}

impl Addresses {
    fn log(&self, what: &str) {
        let text = |address: Option<SocketAddr>| address.map_or("off".into(), |address| address.to_string());
        tracing::info!(http = %self.http, grpc = text(self.grpc), metrics = text(self.metrics), "{what}");
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http={}", self.http)?;
        for (name, address) in [("grpc", self.grpc), ("metrics", self.metrics)] {
            if let Some(address) = address {
                write!(f, " {name}={address}")?;
            }
        }
        Ok(())
    }
}

/// A server at work. Dropping it cuts every connection off, which cancels their requests.
#[derive(Debug)]
pub struct Running {
    runtime: Option<Runtime>,
    state: Arc<State>,
    /// The connections of each port.
    open: Vec<Arc<Table>>,
    ring: Option<Ring>,
    tls: Option<PortsTls>,
    addresses: Addresses,
}

impl Running {
    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Where the protocol is served over HTTP.
    pub fn http_addr(&self) -> SocketAddr {
        self.addresses.http
    }

    /// Where it is served over gRPC.
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        self.addresses.grpc
    }

    /// Where metrics are served besides.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.addresses.metrics
    }

    /// Has clients read and change what is logged through `log`. The first one stays.
    pub fn set_log(&self, log: Arc<dyn LogControl>) {
        self.state.set_log(log);
    }

    /// Answers for a model that could not be loaded: clients are told `reason`. It is forgotten when the
    /// engine has a model of that name and version.
    pub fn set_unavailable(&self, key: ModelKey, reason: String) {
        self.state.set_unavailable(key, reason);
    }

    /// Who loads and unloads models for clients, and says which there are. Without one nobody does.
    pub fn set_control(&self, control: Arc<dyn ModelControl>) {
        self.state.set_control(control);
    }

    /// Reads certificates and keys again; connections that are open keep theirs. Files that cannot be used
    /// are reported in the log, and the ones of before stay in use.
    pub fn reload_certificates(&self) {
        self.tls.iter().flat_map(PortsTls::all).for_each(|tls| tls.reload());
    }

    /// Reads the files of clients' tokens again. What cannot be used is reported in the log, and the tokens
    /// of before stay in use.
    pub fn reload_tokens(&self) {
        self.state.access.refresh();
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
            self.addresses.log("serving");
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
                for table in &self.open {
                    table.emptied().await;
                }
            };
            tokio::time::timeout(CLOSING_TIME_MAX, closed).await.is_ok()
        });
        let ring_closed = self.ring.take().is_none_or(|ring| ring.close(CLOSING_TIME_MAX));
        self.state.phase.send_replace(Phase::Closed);
        runtime.shutdown_timeout(Duration::from_secs(1));
        if let Some(telemetry) = &self.state.telemetry {
            telemetry.shutdown();
        }
        all_closed && ring_closed
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

/// Looks for new certificates or tokens for as long as the server runs.
async fn refresh(pause: Duration, look: impl Fn() + Clone + Send + 'static) {
    loop {
        tokio::time::sleep(pause).await;
        // A task that cannot be had now comes again.
        let _ = tokio::task::spawn_blocking(look.clone()).await;
    }
}

fn listen(address: SocketAddr, purpose: &'static str) -> Result<std::net::TcpListener, ServerError> {
    accept::listen(address).map_err(|source| ServerError::Bind { address, purpose, source })
}
