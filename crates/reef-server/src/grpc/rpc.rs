//! Which question an RPC asks, and how it is answered.
//!
//! Every RPC is refused, answered or cut off here: a panic is its end alone, and so is the time that its
//! client gives it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use prost::Message;
use tonic::Status;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;

use crate::core::access::{Client, Credentials, Need};
use crate::core::fault::{bug, contained};
use crate::core::note::Known;
use crate::core::problem::Problem;
use crate::core::state::{Phase, State};
use crate::grpc::health::{HealthChecks, Reader, Watches};
use crate::grpc::infer::{Timing, infer};
use crate::grpc::meter::{Between, Metered};
use crate::grpc::method::{Method as Rpc, SERVICE, between_of_other, is_watch, need_of_other};
use crate::grpc::note::{Asked, InStream, Streams};
use crate::grpc::pb::{
    ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerReadyRequest, ServerReadyResponse,
};
use crate::grpc::receive::{Messages, timeout};
use crate::grpc::reply::{End, Reply, frame};
use crate::grpc::scan::{self, Rule};
use crate::grpc::status::{closing, status, timed_out, unknown};
use crate::grpc::stream::{infer_all, revoked};
use crate::grpc::{answers, regions, settings};
use crate::net::connection::Connection;
use crate::net::credentials::token;

/// Bytes of a question about the server, its models or its settings at most.
const QUESTION_BYTES_MAX: usize = 64 << 10;

/// What all connections over gRPC share.
pub(crate) struct Grpc {
    pub(crate) state: Arc<State>,
    watches: Arc<Watches>,
    /// Services that frame their own messages, by name.
    others: Vec<(&'static str, Other)>,
}

type Other = Box<dyn Fn(Request<Metered>) -> Answering + Send + Sync>;
type Answering = Pin<Box<dyn Future<Output = Response<tonic::body::Body>> + Send>>;

/// A service of a library.
fn other<S>(service: S) -> (&'static str, Other)
where
    S: Service<Request<Metered>, Response = Response<tonic::body::Body>, Error = Infallible>,
    S: NamedService + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let answer = move |request| -> Answering {
        let mut service = service.clone();
        Box::pin(async move {
            let Ok(answer) = service.call(request).await;
            answer
        })
    };
    (S::NAME, Box::new(answer))
}

/// One RPC on its way.
struct Call {
    state: Arc<State>,
    connection: Arc<Connection>,
    client: Client,
    headers: HeaderMap,
    body: Incoming,
    timing: Timing,
}

impl Grpc {
    /// Without connections, of which there may be so many.
    pub(crate) fn new(state: Arc<State>, connections_max: usize) -> Grpc {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(super::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let fits = "the descriptors were made from whole files";
        let (v1, v1alpha) = (builder().build_v1().expect(fits), builder().build_v1alpha().expect(fits));
        let health = HealthServer::new(HealthChecks(state.clone()));
        let watches = Arc::new(Watches::new(connections_max));
        Grpc { state, watches, others: vec![other(health), other(v1), other(v1alpha)] }
    }

    /// Answers an RPC that came on this connection.
    pub(crate) async fn answer(
        &self,
        connection: &Arc<Connection>,
        request: Request<Incoming>,
    ) -> Response<Reply> {
        let asked = Asked::new(&self.state, connection, &request);
        let mut known = Known::default();
        let kind = request.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes());
        let mut answer = if request.method() != Method::POST {
            Reply::plain(StatusCode::METHOD_NOT_ALLOWED)
        } else if !kind.is_some_and(is_grpc) {
            Reply::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE)
        } else {
            let answer = match timeout(request.headers()) {
                Ok(limit) => contained(self.within(connection, request, limit, &asked, &mut known)).await,
                Err(wrong) => Ok(Err(wrong)),
            };
            let answer = answer.unwrap_or_else(|panic| Err(status(bug(&panic))));
            answer.unwrap_or_else(|error| Reply::error(&error))
        };
        asked.answered(&self.state, &known, &mut answer);
        answer
    }

    async fn within(
        &self,
        connection: &Arc<Connection>,
        request: Request<Incoming>,
        limit: Option<Duration>,
        asked: &Asked,
        known: &mut Known,
    ) -> Result<Response<Reply>, Status> {
        let handled = self.handle(connection, request, limit, asked, known);
        match limit {
            None => handled.await,
            // It may be ready at once.
            Some(Duration::ZERO) => Err(timed_out()),
            Some(limit) => tokio::time::timeout(limit, handled).await.unwrap_or_else(|_| Err(timed_out())),
        }
    }

    async fn handle(
        &self,
        connection: &Arc<Connection>,
        request: Request<Incoming>,
        limit: Option<Duration>,
        asked: &Asked,
        known: &mut Known,
    ) -> Result<Response<Reply>, Status> {
        let path = request.uri().path().to_string();
        let (service, rpc) = path.trim_start_matches('/').split_once('/').ok_or_else(|| unknown(&path))?;
        let other = self.others.iter().find(|(name, _)| *name == service).map(|(_, other)| other);
        let own = Rpc::named(rpc).filter(|_| service == SERVICE);
        let need = match (own, other) {
            (Some(own), _) => own.need(),
            (None, Some(_)) => need_of_other(service, rpc),
            (None, None) => return Err(unknown(&path)),
        };
        known.inference = matches!(own, Some(Rpc::ModelInfer | Rpc::ModelStreamInfer));
        let names = connection.names();
        let shown = |request: &Request<Incoming>, need| {
            let credentials =
                Credentials { token: token(request.headers(), self.state.access.asks(need))?, names: &names };
            self.state.access.check(&credentials, need)
        };
        let client = shown(&request, need).map_err(status)?;
        known.client = Some(client.clone());
        if let (Some(other), None) = (other, own) {
            let reader = Reader(shown(&request, Need::Read));
            let is_known = reader.0.as_ref().is_ok_and(Client::is_known);
            let watch = is_watch(service, rpc).then(|| self.watches.enter(connection, is_known));
            let watch = watch.transpose().map_err(status)?;
            let end = end(&self.state, client.clone(), limit);
            let meter = |body| {
                let (state, between) = (self.state.clone(), between_of_other(service));
                Metered::new(body, state, client, QUESTION_BYTES_MAX, between).forgetful()
            };
            let mut request = request.map(meter);
            request.extensions_mut().insert(reader);
            let mut reply = Reply::foreign(other(request).await, end);
            if let Some(watch) = watch {
                reply.body_mut().watch(watch);
            }
            return Ok(reply);
        }
        let own = own.ok_or_else(|| unknown(&path))?;
        let (head, body) = request.into_parts();
        let timing = Timing { arrival: self.state.engine.now(), limit };
        let (state, connection) = (self.state.clone(), connection.clone());
        let call = Call { state, connection, client, headers: head.headers, body, timing };
        call.answer(own, asked, known).await
    }
}

impl Call {
    async fn answer(self, rpc: Rpc, asked: &Asked, known: &mut Known) -> Result<Response<Reply>, Status> {
        let (state, client) = (self.state.clone(), self.client.clone());
        match rpc {
            Rpc::ModelInfer => {
                state.check_loaded().map_err(status)?;
                let permit = client.admit(state.engine.now()).map_err(status)?;
                let (timing, connection) = (self.timing, self.connection.clone());
                let messages = self.messages(state.body_bytes_max, Between::Comes, &scan::INFER)?;
                let answer = infer(&state, &connection, &client, messages, timing, known).await?;
                drop(permit);
                Ok(Reply::one(answer))
            }
            Rpc::ModelStreamInfer => self.stream(asked, known),
            Rpc::ServerLive => self.one(|_: ServerLiveRequest| Ok(ServerLiveResponse { live: true })).await,
            Rpc::ServerReady => {
                self.one(|_: ServerReadyRequest| Ok(ServerReadyResponse { ready: state.readiness().0 })).await
            }
            Rpc::ServerMetadata => {
                self.one(|_: ServerMetadataRequest| Ok(answers::server_metadata(&state))).await
            }
            Rpc::ModelReady => self.one(|request| answers::model_ready(&state, &client, &request)).await,
            Rpc::ModelMetadata => {
                self.one(|request| answers::model_metadata(&state, &client, &request)).await
            }
            Rpc::ModelConfig => self.one(|request| answers::model_config(&state, &client, &request)).await,
            Rpc::ModelStatistics => {
                self.one(|request| answers::model_statistics(&state, &client, &request)).await
            }
            Rpc::RepositoryIndex => {
                self.slow(move |request| answers::repository_index(&state, &client, &request)).await
            }
            Rpc::RepositoryModelLoad => {
                let bytes_max = state.body_bytes_max;
                let messages = self.messages(bytes_max, Between::Comes, &scan::LOAD)?;
                let (request, share) = messages.only().await?;
                let answer = answers::load(&state, &client, request, share).await.map_err(status)?;
                Ok(Reply::one(frame(&answer)?))
            }
            Rpc::RepositoryModelUnload => {
                let messages = self.messages(QUESTION_BYTES_MAX, Between::Comes, &[])?;
                let request = messages.only().await?.0;
                let answer = answers::unload(&state, &client, request).await.map_err(status)?;
                Ok(Reply::one(frame(&answer)?))
            }
            Rpc::TraceSetting => self.slow(move |request| settings::trace(&state, &client, request)).await,
            Rpc::LogSettings => self.one(|request| settings::log(&state, &client, request)).await,
            Rpc::SystemSharedMemoryStatus => self.one(|request| regions::status(&state, &request)).await,
            Rpc::SystemSharedMemoryRegister => self.one(|request| regions::register(&state, &request)).await,
            Rpc::SystemSharedMemoryUnregister => {
                self.one(|request| regions::unregister(&state, &request)).await
            }
            Rpc::CudaSharedMemoryStatus => self.one(|request| regions::cuda_status(&request)).await,
            Rpc::CudaSharedMemoryRegister => self.one(|request| regions::cuda_register(&request)).await,
            Rpc::CudaSharedMemoryUnregister => self.one(|request| regions::cuda_unregister(&request)).await,
        }
    }

    /// Answers requests as they come.
    fn stream(self, asked: &Asked, known: &mut Known) -> Result<Response<Reply>, Status> {
        let (state, client) = (self.state.clone(), self.client.clone());
        let (limit, connection) = (self.timing.limit, self.connection.clone());
        let messages = self.messages(state.body_bytes_max, Between::Waits, &scan::INFER)?;
        state.check_loaded().map_err(status)?;
        let (asked, id) = asked.clone().with_id(&state);
        known.id = Some(id.clone());
        let frames = infer_all(&state, connection, client, messages, limit, InStream { asked, id });
        let mut answer = Reply::many(frames, end_of_time(limit));
        answer.extensions_mut().insert(Streams);
        Ok(answer)
    }

    /// Answers one small message with another.
    async fn one<Q: Message + Default + 'static, A: Message>(
        self,
        answer: impl FnOnce(Q) -> Result<A, Problem>,
    ) -> Result<Response<Reply>, Status> {
        let (question, _) = self.messages(QUESTION_BYTES_MAX, Between::Comes, &[])?.only().await?;
        Ok(Reply::one(frame(&answer(question).map_err(status)?)?))
    }

    /// As [`Call::one`], for what may block.
    async fn slow<Q: Message + Default + 'static, A: Message + Send + 'static>(
        self,
        answer: impl FnOnce(Q) -> Result<A, Problem> + Send + 'static,
    ) -> Result<Response<Reply>, Status> {
        let (question, _) = self.messages(QUESTION_BYTES_MAX, Between::Comes, &[])?.only().await?;
        let done = tokio::task::spawn_blocking(move || answer(question)).await;
        let answer = done.unwrap_or_else(|panic| Err(bug(&panic.to_string())));
        Ok(Reply::one(frame(&answer.map_err(status)?)?))
    }

    fn messages<M: Message + Default + 'static>(
        self,
        bytes_max: usize,
        between: Between,
        rules: &'static [Rule],
    ) -> Result<Messages<M>, Status> {
        let body = Metered::new(self.body, self.state.clone(), self.client, bytes_max, between);
        Messages::new(&self.state, &self.headers, body, rules)
    }
}

/// Whether a content type is that of gRPC with messages of protobuf; gRPC-Web frames its status otherwise.
fn is_grpc(kind: &[u8]) -> bool {
    let rest =
        kind.strip_prefix(b"application/grpc").map(|rest| rest.strip_prefix(b"+proto").unwrap_or(rest));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b";") || rest.starts_with(b" "))
}

/// When the client's time is over.
fn end_of_time(limit: Option<Duration>) -> End {
    Box::pin(async move {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
        timed_out()
    })
}

/// When the client's time is over, its token counts no more or the server closes.
fn end(state: &Arc<State>, client: Client, limit: Option<Duration>) -> End {
    let mut phase = state.phase.subscribe();
    let (time, revoked) = (end_of_time(limit), revoked(state.clone(), client));
    Box::pin(async move {
        tokio::select! {
            status = time => status,
            status = revoked => status,
            _ = phase.wait_for(|&phase| phase >= Phase::Closing) => closing(),
        }
    })
}
