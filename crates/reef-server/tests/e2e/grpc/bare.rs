//! A client of gRPC on bare HTTP/2, which acts on nothing that it sends: neither on the time that it gives an
//! RPC nor on what its answer says.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use hyper::{HeaderMap, Request};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tonic::Code;

/// The RPC for one inference, and that for many.
pub const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
pub const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// Longer than any test takes: a hang is a failure, not an endless test.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection.
pub struct Bare {
    runtime: Runtime,
    requests: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

/// An RPC that was begun.
pub struct Rpc {
    pub answer: ResponseFuture,
    pub body: SendStream<Bytes>,
}

/// What the server said at the end of an RPC.
#[derive(Debug)]
pub struct End {
    /// Of HTTP.
    pub http: u16,
    pub code: Option<Code>,
    pub message: String,
    /// All that came before.
    pub body: Vec<u8>,
}

impl Bare {
    pub fn connect(address: SocketAddr) -> Bare {
        Self::over(async move { TcpStream::connect(address).await.expect("the server listens") })
    }

    /// Over what `connecting` gives.
    pub fn over<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        connecting: impl Future<Output = T>,
    ) -> Bare {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (requests, connection) = runtime.block_on(async {
            let io = connecting.await;
            h2::client::handshake(io).await.expect("a handshake does not wait for the server")
        });
        let driver = runtime.spawn(connection);
        Bare { runtime, requests, driver }
    }

    /// Runs `future`, which must end.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("the server answers") })
    }

    /// Begins an RPC with these headers besides those that each has.
    pub fn begin(&self, path: &str, headers: &[(&str, &str)]) -> Rpc {
        let mut all = vec![("content-type", "application/grpc"), ("te", "trailers")];
        all.retain(|(name, _)| headers.iter().all(|(other, _)| other != name));
        all.extend(headers);
        self.begin_as("POST", path, &all)
    }

    /// With this method and no other headers.
    pub fn begin_as(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Rpc {
        self.try_begin(method, path, headers).expect("the server takes requests")
    }

    pub fn try_begin(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Rpc, h2::Error> {
        let mut request = Request::builder().method(method).uri(format!("http://server{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        self.block_on(async {
            let mut requests = self.requests.clone().ready().await?;
            let (answer, body) = requests.send_request(request, false)?;
            Ok(Rpc { answer, body })
        })
    }

    /// Has one message answered.
    pub fn ask(&self, path: &str, headers: &[(&str, &str)], message: &impl Message) -> End {
        let mut rpc = self.begin(path, headers);
        rpc.send(frame(&message.encode_to_vec()), true);
        self.end(rpc)
    }

    /// As [`Bare::ask`], where the connection may end before.
    pub fn try_ask(&self, path: &str, message: &impl Message) -> Option<End> {
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let mut rpc = self.try_begin("POST", path, &headers).ok()?;
        rpc.body.send_data(frame(&message.encode_to_vec()), true).ok()?;
        self.try_end(rpc).ok()
    }

    /// Has these bytes answered, which are all.
    pub fn ask_bytes(&self, path: &str, headers: &[(&str, &str)], bytes: Bytes) -> End {
        let mut rpc = self.begin(path, headers);
        rpc.send(bytes, true);
        self.end(rpc)
    }

    /// Waits for the end of an RPC.
    pub fn end(&self, rpc: Rpc) -> End {
        self.try_end(rpc).expect("the RPC has an answer")
    }

    /// As [`Bare::end`], or why there is no answer.
    pub fn try_end(&self, rpc: Rpc) -> Result<End, h2::Error> {
        self.block_on(async {
            let (head, mut body) = rpc.answer.await?.into_parts();
            let bytes = all_of(&mut body).await?;
            let trailers = unless_done(body.trailers().await)?.flatten();
            // Held until now: a client that lets go of its half cancels.
            drop(rpc.body);
            let said = trailers.as_ref().filter(|trailers| trailers.contains_key("grpc-status"));
            let said = said.unwrap_or(&head.headers);
            let code = said.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
            Ok(End { http: head.status.as_u16(), code, message: message(said), body: bytes })
        })
    }

    /// Waits for the end of the connection: the reason of the server, if it said one.
    pub fn closed(self) -> Option<Reason> {
        let Bare { runtime, driver, requests } = self;
        let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, driver).await });
        drop(requests);
        ended.expect("the server closes").unwrap().err().and_then(|error| error.reason())
    }
}

impl Rpc {
    /// Sends a part of the body, unless the server has said all that it will.
    pub fn send(&mut self, bytes: Bytes, last: bool) {
        let _ = self.body.send_data(bytes, last);
    }

    pub fn reset(&mut self) {
        self.body.send_reset(Reason::CANCEL);
    }
}

impl End {
    /// Asserts a status of gRPC and a part of its message.
    #[track_caller]
    pub fn is(&self, code: Code, message: &str) {
        assert_eq!((self.http, self.code), (200, Some(code)), "{message}: {self:?}");
        assert!(self.message.contains(message), "{message}: {self:?}");
    }
}

async fn all_of(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let Some(chunk) = unless_done(chunk)? else { break };
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Nothing where the server has said all, and wants no more of the request.
fn unless_done<T>(result: Result<T, h2::Error>) -> Result<Option<T>, h2::Error> {
    match result {
        Err(error) if error.reason() == Some(Reason::NO_ERROR) => Ok(None),
        result => result.map(Some),
    }
}

/// The message of a status, which is percent-encoded.
fn message(headers: &HeaderMap) -> String {
    tonic::Status::from_header_map(headers).map_or_else(String::new, |status| status.message().to_string())
}

/// A message behind its five bytes.
pub fn frame(message: &[u8]) -> Bytes {
    prefixed(0, u32::try_from(message.len()).unwrap(), message)
}

/// Five bytes that say this, and what follows.
pub fn prefixed(flag: u8, len: u32, bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(flag);
    frame.put_u32(len);
    frame.put_slice(bytes);
    frame.freeze()
}
