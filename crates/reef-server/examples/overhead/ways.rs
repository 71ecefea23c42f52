//! Ways to a model of one input and output of 64 bytes. Every client sends, waits and reads on the thread
//! that asks.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use reef_client::{Client, OpenModel, Options, Terms};
use reef_engine::{DType, Engine, InferRequest, InputTensor, Shape};
use tonic::transport::Endpoint;

use crate::frames::Frames;
use pb::grpc_inference_service_client::GrpcInferenceServiceClient;
use pb::model_infer_request::InferInputTensor;

#[allow(clippy::all, clippy::pedantic)]
mod pb {
    include!(concat!(env!("OUT_DIR"), "/client/inference.rs"));
}

#[derive(Clone, Copy)]
pub enum Way {
    InProcess,
    Ring,
    Grpc,
    GrpcFrames,
    HttpBinary,
    HttpJson,
}

/// In-process first: the others are compared with it.
pub const WAYS: [Way; 6] =
    [Way::InProcess, Way::Ring, Way::Grpc, Way::GrpcFrames, Way::HttpBinary, Way::HttpJson];

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Way::InProcess => "in-process",
            Way::Ring => "ring",
            Way::Grpc => "gRPC, tonic",
            Way::GrpcFrames => "gRPC",
            Way::HttpBinary => "HTTP binary",
            Way::HttpJson => "HTTP JSON",
        }
    }
}

/// Where the server is.
pub struct Server {
    pub engine: Engine,
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub socket: PathBuf,
}

/// A request and its answer.
pub type Call = Box<dyn FnMut()>;

const DATA: [u8; 64] = [1; 64];

/// A connection.
pub fn open(way: Way, server: &Server, model: &'static str) -> Call {
    match way {
        Way::InProcess => in_process(server.engine.clone(), model),
        Way::Ring => ring(server, model),
        Way::Grpc => grpc(server.grpc, model),
        Way::GrpcFrames => grpc_frames(server.grpc, model),
        Way::HttpBinary => http(server.http, binary(model)),
        Way::HttpJson => http(server.http, json(model)),
    }
}

fn in_process(engine: Engine, model: &'static str) -> Call {
    Box::new(move || {
        let input = InputTensor { name: "x", dtype: DType::U8, shape: Shape::from([64]), data: &DATA };
        let response = engine.infer(&InferRequest::new(model, vec![input])).expect("an answer");
        // That of the longer model is another.
        assert!(response.outputs().next().is_some_and(|output| !output.data.is_empty()));
    })
}

fn ring(server: &Server, model: &'static str) -> Call {
    let mut client = Client::connect(&server.socket, &Options::default()).expect("the server listens");
    let model = client.open(&OpenModel::new(model).input("x", "UINT8", &[64])).expect("it is served");
    Box::new(move || {
        let read = |client: &Client, slot| client.output(slot, 0).map(|output| output.data.len());
        let answered = client.infer(model, &[&DATA], &Terms::default(), read);
        assert_eq!(answered.expect("an answer").expect("an output"), 64);
    })
}

fn grpc(address: SocketAddr, model: &'static str) -> Call {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let channel = runtime.block_on(endpoint.connect()).expect("the server listens");
    let mut client = GrpcInferenceServiceClient::new(channel);
    let request = message(model);
    Box::new(move || {
        let answer = runtime.block_on(client.model_infer(request.clone())).expect("an answer").into_inner();
        assert_eq!(answer.raw_output_contents[0].len(), 64);
    })
}

fn grpc_frames(address: SocketAddr, model: &'static str) -> Call {
    let path = "/inference.GRPCInferenceService/ModelInfer";
    let mut client = Frames::connect(address, path, &message(model));
    // An error has no message.
    Box::new(move || assert!(client.call() > 64))
}

fn message(model: &str) -> pb::ModelInferRequest {
    let input = InferInputTensor {
        name: "x".into(),
        datatype: "UINT8".into(),
        shape: vec![64],
        ..InferInputTensor::default()
    };
    pb::ModelInferRequest {
        model_name: model.into(),
        inputs: vec![input],
        raw_input_contents: vec![DATA.to_vec().into()],
        ..pb::ModelInferRequest::default()
    }
}

fn binary(model: &str) -> Vec<u8> {
    let json = concat!(
        r#"{"inputs":[{"name":"x","shape":[64],"datatype":"UINT8","parameters":{"binary_data_size":64}}],"#,
        r#""parameters":{"binary_data_output":true}}"#
    );
    let header = format!("inference-header-content-length: {}\r\n", json.len());
    let mut request = head(model, &header, json.len() + DATA.len()) + json;
    request.push_str(std::str::from_utf8(&DATA).expect("ASCII"));
    request.into_bytes()
}

fn json(model: &str) -> Vec<u8> {
    let data = DATA.map(|byte| byte.to_string()).join(",");
    let json = format!(r#"{{"inputs":[{{"name":"x","shape":[64],"datatype":"UINT8","data":[{data}]}}]}}"#);
    (head(model, "", json.len()) + &json).into_bytes()
}

fn head(model: &str, header: &str, length: usize) -> String {
    format!("POST /v2/models/{model}/infer HTTP/1.1\r\nhost: x\r\n{header}content-length: {length}\r\n\r\n")
}

fn http(address: SocketAddr, request: Vec<u8>) -> Call {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("a socket");
    let mut answer = Vec::new();
    Box::new(move || {
        stream.write_all(&request).expect("sent");
        read(&mut stream, &mut answer);
    })
}

/// Reads one answer.
fn read(stream: &mut TcpStream, answer: &mut Vec<u8>) {
    answer.clear();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk).expect("received");
        assert_ne!(count, 0, "the server closed the connection");
        answer.extend_from_slice(&chunk[..count]);
        let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&answer[..head]).expect("a head");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        if answer.len() >= head + 4 + length.parse::<usize>().expect("a number") {
            return;
        }
    }
}
