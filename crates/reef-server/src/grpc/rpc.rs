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

use crate::core::fault::{bug, contained};
use crate::core::problem::Problem;
use crate::core::state::{Phase, State};
use crate::grpc::health::{HealthChecks, SERVICE};
use crate::grpc::infer::{Timing, infer};
use crate::grpc::meter::{Between, Metered};
use crate::grpc::pb::{
    ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerReadyRequest, ServerReadyResponse,
};
use crate::grpc::receive::{Messages, timeout};
use crate::grpc::reply::{End, Reply, frame};
use crate::grpc::scan::{self, Rule};
use crate::grpc::status::{closing, status, timed_out, unknown};
use crate::grpc::stream::infer_all;
use crate::grpc::{answers, regions, settings};

/// Bytes of a question about the server, its models or its settings at most.
const QUESTION_BYTES_MAX: usize = 64 << 10;

/// What all connections over gRPC share.
pub(crate) struct Grpc {
    pub(crate) state: Arc<State>,
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
    headers: HeaderMap,
    body: Incoming,
    timing: Timing,
}

impl Grpc {
    /// Without connections.
    pub(crate) fn new(state: Arc<State>) -> Grpc {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(super::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let fits = "the descriptors were made from whole files";
        let (v1, v1alpha) = (builder().build_v1().expect(fits), builder().build_v1alpha().expect(fits));
        let health = HealthServer::new(HealthChecks(state.clone()));
        Grpc { state, others: vec![other(health), other(v1), other(v1alpha)] }
    }

    /// Answers an RPC.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<Reply> {
        if request.method() != Method::POST {
            return Reply::plain(StatusCode::METHOD_NOT_ALLOWED);
        }
        let kind = request.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes());
        if !kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
            return Reply::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        let answer = match timeout(request.headers()) {
            Ok(limit) => contained(self.within(request, limit)).await,
            Err(wrong) => Ok(Err(wrong)),
        };
        let answer = answer.unwrap_or_else(|panic| Err(status(bug(&panic))));
        answer.unwrap_or_else(|error| Reply::error(&error))
    }

    async fn within(
        &self,
        request: Request<Incoming>,
        limit: Option<Duration>,
    ) -> Result<Response<Reply>, Status> {
        let handled = self.handle(request, limit);
        match limit {
            None => handled.await,
            Some(limit) => tokio::time::timeout(limit, handled).await.unwrap_or_else(|_| Err(timed_out())),
        }
    }

    async fn handle(
        &self,
        request: Request<Incoming>,
        limit: Option<Duration>,
    ) -> Result<Response<Reply>, Status> {
        let path = request.uri().path().to_string();
        let (service, rpc) = path.trim_start_matches('/').split_once('/').ok_or_else(|| unknown(&path))?;
        if let Some((_, other)) = self.others.iter().find(|(name, _)| *name == service) {
            let meter = |body| Metered::new(body, self.state.clone(), QUESTION_BYTES_MAX, Between::Waits);
            let answer = other(request.map(meter)).await;
            return Ok(Reply::foreign(answer, end(&self.state, limit)));
        }
        if service != SERVICE {
            return Err(unknown(&path));
        }
        let (head, body) = request.into_parts();
        let timing = Timing { arrival: self.state.engine.now(), limit };
        let call = Call { state: self.state.clone(), headers: head.headers, body, timing };
        call.answer(rpc).await
    }
}

impl Call {
    async fn answer(self, rpc: &str) -> Result<Response<Reply>, Status> {
        let state = self.state.clone();
        match rpc {
            "ModelInfer" => {
                let (state, timing) = (self.state.clone(), self.timing);
                let messages = self.messages(state.body_bytes_max, Between::Comes, &scan::INFER)?;
                Ok(Reply::one(infer(&state, messages, timing).await?))
            }
            "ModelStreamInfer" => {
                let limit = self.timing.limit;
                let messages = self.messages(state.body_bytes_max, Between::Waits, &scan::INFER)?;
                state.check_loaded().map_err(status)?;
                Ok(Reply::many(infer_all(&state, messages, limit), end_of_time(limit)))
            }
            "ServerLive" => self.one(|_: ServerLiveRequest| Ok(ServerLiveResponse { live: true })).await,
            "ServerReady" => {
                self.one(|_: ServerReadyRequest| Ok(ServerReadyResponse { ready: state.readiness().0 })).await
            }
            "ServerMetadata" => {
                self.one(|_: ServerMetadataRequest| Ok(answers::server_metadata(&state))).await
            }
            "ModelReady" => self.one(|request| answers::model_ready(&state, &request)).await,
            "ModelMetadata" => self.one(|request| answers::model_metadata(&state, &request)).await,
            "ModelConfig" => self.one(|request| answers::model_config(&state, &request)).await,
            "ModelStatistics" => self.one(|request| answers::model_statistics(&state, &request)).await,
            "RepositoryIndex" => self.one(|request| answers::repository_index(&state, &request)).await,
            "RepositoryModelLoad" => {
                let bytes_max = state.body_bytes_max;
                let messages = self.messages(bytes_max, Between::Comes, &scan::LOAD)?;
                let (request, share) = messages.only().await?;
                let answer = answers::load(&state, request, share).await.map_err(status)?;
                Ok(Reply::one(frame(&answer)?))
            }
            "RepositoryModelUnload" => {
                let messages = self.messages(QUESTION_BYTES_MAX, Between::Comes, &[])?;
                let answer = answers::unload(&state, messages.only().await?.0).await.map_err(status)?;
                Ok(Reply::one(frame(&answer)?))
            }
            "TraceSetting" => self.slow(move |request| settings::trace(&state, request)).await,
            "LogSettings" => self.one(|request| settings::log(&state, request)).await,
            other => self.shared_memory(other).await,
        }
    }

    async fn shared_memory(self, rpc: &str) -> Result<Response<Reply>, Status> {
        let state = self.state.clone();
        match rpc {
            "SystemSharedMemoryStatus" => self.one(|request| regions::status(&state, &request)).await,
            "SystemSharedMemoryRegister" => self.one(|request| regions::register(&state, &request)).await,
            "SystemSharedMemoryUnregister" => self.one(|request| regions::unregister(&state, &request)).await,
            "CudaSharedMemoryStatus" => self.one(|request| regions::cuda_status(&request)).await,
            "CudaSharedMemoryRegister" => self.one(|request| regions::cuda_register(&request)).await,
            "CudaSharedMemoryUnregister" => self.one(|request| regions::cuda_unregister(&request)).await,
            other => Err(unknown(&format!("{SERVICE}/{other}"))),
        }
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
        let body = Metered::new(self.body, self.state.clone(), bytes_max, between);
        Messages::new(&self.state, &self.headers, body, rules)
    }
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

/// When the client's time is over or the server closes.
fn end(state: &State, limit: Option<Duration>) -> End {
    let mut phase = state.phase.subscribe();
    let time = end_of_time(limit);
    Box::pin(async move {
        tokio::select! {
            status = time => status,
            _ = phase.wait_for(|&phase| phase >= Phase::Closing) => closing(),
        }
    })
}
