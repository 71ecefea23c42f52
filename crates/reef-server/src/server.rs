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

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reef_base::limits;
use reef_engine::{Engine, ModelKey};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::core::access::{Access, AccessOptions};
use crate::core::state::{Phase, State};
use crate::http::serve::{Http, Port, serve};
use crate::net::accept::{self, accept};
use crate::net::connection::ConnectionLimits;
use crate::net::table::Table;
use crate::net::tls::{Tls, TlsError, TlsOptions};
use crate::telemetry::Telemetry;

/// How long answers may take to reach their clients once the engine has ended.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(5);

/// How often certificates are looked at.
const REFRESH_PAUSE: Duration = Duration::from_secs(5);

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
}

impl Default for ServerOptions {
    /// Loopback only, Triton's ports.
    fn default() -> Self {
        ServerOptions {
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            metrics: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8002))),
            body_bytes_max: limits::BODY_BYTES_DEFAULT,
            bodies_bytes_max: limits::BODIES_BYTES_DEFAULT,
            connections: ConnectionLimits::default(),
            access: AccessOptions::default(),
            tls: None,
            otlp_endpoint: None,
            threads: 2,
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
    /// Certificates or keys cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The threads that serve connections could not be started.
    #[error("cannot start the server's threads: {0}")]
    Threads(std::io::Error),
}

/// A server that holds its ports and does not serve yet.
#[derive(Debug)]
pub struct Server {
    http: std::net::TcpListener,
    metrics: Option<std::net::TcpListener>,
    tls: Option<Arc<Tls>>,
    options: ServerOptions,
}

impl Server {
    /// Takes the ports. Clients may connect from now on; they wait until [`Server::open`].
    pub fn bind(options: ServerOptions) -> Result<Server, ServerError> {
        let tls = options.tls.clone().map(|tls| Tls::new(tls, &["http/1.1"])).transpose()?;
        let http = listen(options.http, "HTTP")?;
        let metrics = options.metrics.map(|address| listen(address, "metrics")).transpose()?;
        Ok(Server { http, metrics, tls: tls.map(Arc::new), options })
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
        let (body_bytes_max, bodies_bytes_max) = (self.options.body_bytes_max, self.options.bodies_bytes_max);
        let mut state = State::new(engine, body_bytes_max, bodies_bytes_max).map_err(ServerError::Threads)?;
        state.access = Access::new(self.options.access);
        let endpoint = self.options.otlp_endpoint.as_deref();
        state.telemetry = endpoint.map(Telemetry::start).transpose().map_err(ServerError::Threads)?;
        let state = Arc::new(state);
        let http = Arc::new(Http::new(state.clone()));
        let mut open = Vec::new();
        let ports = [(Some(self.http), Port::Http), (self.metrics, Port::Metrics)];
        for (listener, port) in ports.into_iter().filter_map(|(listener, port)| Some((listener?, port))) {
            let _entered = runtime.enter();
            let listener = TcpListener::from_std(listener).map_err(ServerError::Threads)?;
            let table = Arc::new(Table::new(self.options.connections));
            open.push(table.clone());
            let (serving, ending) = (http.clone(), http.clone());
            let serve = move |accepted| serve(accepted, port, serving.clone());
            let end = async move { ending.end_of(port).await };
            runtime.spawn(accept(listener, table, self.tls.clone(), serve, end));
        }
        if let Some(tls) = &self.tls {
            runtime.spawn(refresh(tls.clone()));
        }
        let tls = self.tls;
        let running = Running { runtime: Some(runtime), state, open, tls, http_addr, metrics_addr };
        tracing::info!(http = %http_addr, metrics = %running.metrics_text(), "listening");
        Ok(running)
    }
}

/// A server at work. Dropping it cuts every connection off, which cancels their requests.
#[derive(Debug)]
pub struct Running {
    runtime: Option<Runtime>,
    state: Arc<State>,
    /// The connections of each port.
    open: Vec<Arc<Table>>,
    tls: Option<Arc<Tls>>,
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
        self.state.set_unavailable(key, reason);
    }

    /// Reads certificates and keys again; connections that are open keep theirs. Files that cannot be used
    /// are reported in the log, and the ones of before stay in use.
    pub fn reload_certificates(&self) {
        if let Some(tls) = &self.tls {
            tls.reload();
        }
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
                for table in &self.open {
                    table.emptied().await;
                }
            };
            tokio::time::timeout(CLOSING_TIME_MAX, closed).await.is_ok()
        });
        self.state.phase.send_replace(Phase::Closed);
        runtime.shutdown_timeout(Duration::from_secs(1));
        if let Some(telemetry) = &self.state.telemetry {
            telemetry.shutdown();
        }
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

/// Looks for new certificates for as long as the server runs.
async fn refresh(tls: Arc<Tls>) {
    loop {
        tokio::time::sleep(REFRESH_PAUSE).await;
        let tls = tls.clone();
        // A task that cannot be had now comes again.
        let _ = tokio::task::spawn_blocking(move || tls.refresh()).await;
    }
}

fn listen(address: SocketAddr, purpose: &'static str) -> Result<std::net::TcpListener, ServerError> {
    accept::listen(address).map_err(|source| ServerError::Bind { address, purpose, source })
}
