//! A client and its requests. RPCs go on in the background, so a test can look at the server meanwhile.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, IntoRequest, Request, Status};

use pb::grpc_inference_service_client::GrpcInferenceServiceClient;
use pb::infer_parameter::ParameterChoice;
use pb::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use pb::{InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse};

/// The messages and the client.
#[allow(clippy::all, clippy::pedantic)]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/client/inference.rs"));
}

/// Longer than any test takes: a hang is a failure, not an endless test.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection.
pub struct Grpc {
    pub client: GrpcInferenceServiceClient<Channel>,
    pub channel: Channel,
    runtime: Option<Runtime>,
}

impl Grpc {
    pub fn connect(address: SocketAddr) -> Grpc {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let connected = async { tokio::time::timeout(PATIENCE, endpoint.connect()).await };
        let connected = runtime.block_on(connected).expect("the server accepts");
        let channel = connected.expect("the server listens");
        let client = GrpcInferenceServiceClient::new(channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        Grpc { client, channel, runtime: Some(runtime) }
    }

    /// Runs `future`, which must end.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let runtime = self.runtime.as_ref().expect("not closed yet");
        runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("the server answers") })
    }

    /// Runs `future` in the background.
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.as_ref().expect("not closed yet").spawn(future)
    }

    /// Sends a request and waits for its answer.
    pub fn infer(&self, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
        let mut client = self.client.clone();
        self.block_on(async { client.model_infer(request).await.map(|answer| answer.into_inner()) })
    }

    /// Sends a request; its answer comes.
    pub fn send(
        &self,
        request: impl IntoRequest<ModelInferRequest>,
    ) -> JoinHandle<Result<ModelInferResponse, Status>> {
        let (mut client, request) = (self.client.clone(), request.into_request());
        self.spawn(async move { client.model_infer(request).await.map(|answer| answer.into_inner()) })
    }

    /// Sends bytes as the message of an RPC.
    pub fn raw(&self, rpc: &'static str, message: &[u8]) -> Result<Bytes, Status> {
        let (channel, message) = (self.channel.clone(), Bytes::copy_from_slice(message));
        self.block_on(async move {
            let mut client = tonic::client::Grpc::new(channel);
            client.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
            client
                .unary(Request::new(message), rpc.parse().unwrap(), Raw)
                .await
                .map(|answer| answer.into_inner())
        })
    }

    /// Closes the connection in the middle of what it does.
    pub fn cut_off(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Grpc {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Messages that are bytes.
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, bytes: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(bytes.copy_to_bytes(bytes.remaining())))
    }
}

/// The bytes of FP32 elements.
pub fn floats(values: &[f32]) -> Bytes {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// An input without elements.
pub fn tensor(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    let (name, datatype) = (name.into(), datatype.into());
    InferInputTensor { name, datatype, shape: shape.to_vec(), ..Default::default() }
}

/// A request with raw inputs.
pub fn raw_request(model: &str, inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> ModelInferRequest {
    ModelInferRequest { model_name: model.into(), inputs, raw_input_contents: raw, ..Default::default() }
}

/// A good request to a model with FP32 `x` of shape [2, 2].
pub fn good(model: &str) -> ModelInferRequest {
    raw_request(model, vec![tensor("x", "FP32", &[2, 2])], vec![floats(&[1.0, 2.0, 3.0, 4.0])])
}

/// The same with its elements by type.
pub fn typed(model: &str) -> ModelInferRequest {
    let fp32_contents = vec![1.0, 2.0, 3.0, 4.0];
    let contents = Some(InferTensorContents { fp32_contents, ..Default::default() });
    let input = InferInputTensor { contents, ..tensor("x", "FP32", &[2, 2]) };
    raw_request(model, vec![input], vec![])
}

/// A request for output `name`, or for its `classes` largest elements.
pub fn output(name: &str, classes: Option<i64>) -> InferRequestedOutputTensor {
    let classes =
        classes.map(|count| ("classification".to_string(), parameter(ParameterChoice::Int64Param(count))));
    InferRequestedOutputTensor { name: name.into(), parameters: classes.into_iter().collect() }
}

pub fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

/// `request` with one parameter more.
pub fn with(mut request: ModelInferRequest, name: &str, choice: ParameterChoice) -> ModelInferRequest {
    request.parameters.insert(name.into(), parameter(choice));
    request
}

/// What an answer says about itself.
pub fn told(answer: &ModelInferResponse, name: &str) -> Option<ParameterChoice> {
    answer.parameters.get(name).and_then(|parameter| parameter.parameter_choice.clone())
}

/// Asserts an error's code and a part of its message.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, message: &str) {
    let error = answer.unwrap_err();
    assert_eq!((error.code(), error.message().contains(message)), (code, true), "{message}: {error:?}");
}
