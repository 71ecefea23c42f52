//! A client of the Open Inference Protocol over HTTP/1.1 with binary tensors: one connection, kept alive, no
//! threads, no async runtime. HTTP is hyper's; `blocking` lets it work on the calling thread.
//!
//! A request is written in one piece (head, JSON part, tensors) with TCP_NODELAY, prepared once and sent as
//! often as wanted, so that the client costs as little as possible of what is measured. Knows the protocol,
//! not the server.

mod blocking;
#[cfg(test)]
pub(crate) mod tests;

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::blocking::{Connection, Failure};
use crate::error::BenchError;

/// How long an answer may take, unless a client is told otherwise, before the connection counts as dead.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(600);

const BODY_BYTES_MAX: usize = 1 << 30;
const JSON_LEN: HeaderName = HeaderName::from_static("inference-header-content-length");
/// What a segment of a path cannot have as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An input of a request.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Name as the model declares it.
    pub name: &'a str,
    /// Type as the protocol names it.
    pub datatype: &'a str,
    /// Concrete shape.
    pub shape: &'a [usize],
    /// Dense row-major little-endian bytes.
    pub data: &'a [u8],
}

/// What a request asks of the scheduler; absent means the model's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InferParameters {
    /// `real-time` or `best-effort`.
    pub class: Option<&'static str>,
    /// 1 = level 0 …, 0 = the model's own.
    pub priority: u32,
    /// From arrival until the answer is worthless, microseconds.
    pub deadline_us: Option<u64>,
}

/// A request, ready to be sent any number of times.
#[derive(Clone, Debug)]
pub struct Prepared {
    what: String,
    request: Request<Full<Bytes>>,
}

impl Prepared {
    /// An inference of `model` on `inputs` that asks for binary outputs.
    pub fn infer(model: &str, inputs: &[Tensor<'_>], parameters: InferParameters) -> Prepared {
        let tensors: Vec<Value> = inputs.iter().map(tensor_json).collect();
        let mut asked = Map::from_iter([("binary_data_output".to_string(), Value::Bool(true))]);
        if let Some(class) = parameters.class {
            asked.insert("class".into(), class.into());
        }
        if parameters.priority > 0 {
            asked.insert("priority".into(), parameters.priority.into());
        }
        if let Some(deadline_us) = parameters.deadline_us {
            asked.insert("deadline_us".into(), deadline_us.into());
        }
        let json = json!({ "inputs": tensors, "parameters": asked }).to_string();
        let mut body =
            Vec::with_capacity(json.len() + inputs.iter().map(|input| input.data.len()).sum::<usize>());
        body.extend_from_slice(json.as_bytes());
        inputs.iter().for_each(|input| body.extend_from_slice(input.data));
        let mut request = request(Method::POST, &format!("{}/infer", model_path(model)), body);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(JSON_LEN, HeaderValue::from(json.len()));
        Prepared { what: format!("an inference of {model}"), request }
    }

    fn get(path: &str) -> Prepared {
        Prepared { what: format!("GET {path}"), request: request(Method::GET, path, Vec::new()) }
    }
}

fn request(method: Method, path: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = method;
    *request.uri_mut() = Uri::try_from(path).expect("names in a path are percent-encoded");
    request
}

/// Where a model is, whatever characters its name has.
fn model_path(model: &str) -> String {
    format!("/v2/models/{}", utf8_percent_encode(model, SEGMENT))
}

fn tensor_json(tensor: &Tensor<'_>) -> Value {
    json!({
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": tensor.shape,
        "parameters": { "binary_data_size": tensor.data.len() },
    })
}

/// What a server says of a model.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ModelMetadata {
    /// Its name.
    pub name: String,
    /// Its inputs.
    pub inputs: Vec<TensorMetadata>,
    /// Its outputs.
    pub outputs: Vec<TensorMetadata>,
}

/// What a server says of an input or output.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TensorMetadata {
    /// Its name.
    pub name: String,
    /// Its type as the protocol names it.
    pub datatype: String,
    /// Its extents, -1 for a symbolic one.
    pub shape: Vec<i64>,
}

/// One output of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputTensor {
    /// Name as the model declares it.
    pub name: String,
    /// Type as the protocol names it.
    pub datatype: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Where its bytes are in [`InferAnswer::body`].
    data: Range<usize>,
}

/// An answer to an inference.
#[derive(Clone, Debug)]
pub struct InferAnswer {
    /// The response's parameters: effective class, times.
    pub parameters: Map<String, Value>,
    /// The outputs, in the server's order.
    pub outputs: Vec<OutputTensor>,
    body: Bytes,
}

impl InferAnswer {
    /// The bytes of an output: dense, row-major, little endian.
    pub fn bytes(&self, output: &OutputTensor) -> &[u8] {
        &self.body[output.data.clone()]
    }

    /// A number among the response's parameters.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.parameters.get(name).and_then(Value::as_f64)
    }
}

/// A connection to a server, made when it is first needed and again when it broke between two requests.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    /// As requests call the server.
    host: HeaderValue,
    limit: Duration,
    connection: Option<Connection>,
}

impl Client {
    /// A client of the server at `address`; connects with the first request.
    pub fn new(address: SocketAddr) -> Client {
        let host = HeaderValue::from_str(&address.to_string()).expect("an address is plain text");
        Client { address, host, limit: ANSWER_LIMIT, connection: None }
    }

    /// The same, calling the server by a name: there may be several at an address. What cannot be one is
    /// left out.
    pub fn called(self, name: &str) -> Client {
        Client { host: HeaderValue::from_str(name).unwrap_or(self.host), ..self }
    }

    /// The same with another limit on the time that an answer may take.
    pub fn within(self, limit: Duration) -> Client {
        Client { limit, ..self }
    }

    /// The types and shapes of a model.
    pub fn metadata(&mut self, model: &str) -> Result<ModelMetadata, BenchError> {
        let request = Prepared::get(&model_path(model));
        let answer = self.exchange(&request)?;
        serde_json::from_slice(answer.body()).map_err(|error| protocol(&request.what, error))
    }

    /// The text at `path`, such as `/metrics`.
    pub fn text(&mut self, path: &str) -> Result<String, BenchError> {
        let request = Prepared::get(path);
        let answer = self.exchange(&request)?;
        String::from_utf8(answer.into_body().into()).map_err(|error| protocol(&request.what, error))
    }

    /// Sends an inference and reads its outputs.
    pub fn infer(&mut self, request: &Prepared) -> Result<InferAnswer, BenchError> {
        let answer = self.exchange(request)?;
        read_outputs(answer).map_err(|problem| protocol(&request.what, problem))
    }

    /// Sends a request and reads the whole answer; a status that is not 200 is an error.
    fn exchange(&mut self, request: &Prepared) -> Result<Response<Bytes>, BenchError> {
        let kept = self.connection.take_if(|connection| connection.is_kept());
        let answer = match kept {
            // The server may have closed a kept connection while it was idle; then nothing of an answer came.
            Some(connection) => match self.attempt(connection, request) {
                Err(Failure::Closed(_)) => self.connect_and_attempt(request),
                other => other,
            },
            None => self.connect_and_attempt(request),
        };
        let answer = answer.map_err(|failure| self.error(&request.what, failure))?;
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let message = serde_json::from_slice::<Value>(answer.body()).ok();
        let message = message.as_ref().and_then(|json| json["error"].as_str()).map(str::to_string);
        let message = message.unwrap_or_else(|| String::from_utf8_lossy(answer.body()).into_owned());
        Err(BenchError::Status { what: request.what.clone(), status: answer.status().as_u16(), message })
    }

    fn connect_and_attempt(&mut self, request: &Prepared) -> Result<Response<Bytes>, Failure> {
        let connection = Connection::open(self.address, self.limit).map_err(Failure::Socket)?;
        self.attempt(connection, request)
    }

    /// Keeps the connection if it can be used again.
    fn attempt(
        &mut self,
        mut connection: Connection,
        request: &Prepared,
    ) -> Result<Response<Bytes>, Failure> {
        let mut sent = request.request.clone();
        sent.headers_mut().insert(HOST, self.host.clone());
        let answer = connection.exchange(sent, BODY_BYTES_MAX)?;
        self.connection = Some(connection);
        Ok(answer)
    }

    fn error(&self, what: &str, failure: Failure) -> BenchError {
        let asked = || format!("{what} at {}", self.address);
        match failure {
            Failure::Protocol(problem) => protocol(what, problem),
            Failure::Closed(source) | Failure::Socket(source) => match source.kind() {
                std::io::ErrorKind::TimedOut => BenchError::Silent { what: asked(), limit: self.limit },
                _ => BenchError::Socket { what: asked(), source },
            },
        }
    }
}

#[derive(Deserialize)]
struct AnswerJson {
    #[serde(default)]
    parameters: Map<String, Value>,
    outputs: Vec<OutputJson>,
}

#[derive(Deserialize)]
struct OutputJson {
    name: String,
    datatype: String,
    shape: Vec<usize>,
    #[serde(default)]
    parameters: Map<String, Value>,
}

fn read_outputs(answer: Response<Bytes>) -> Result<InferAnswer, String> {
    let json_len = json_len(answer.headers())?;
    let body = answer.into_body();
    let json_len = json_len.unwrap_or(body.len());
    let json = body.get(..json_len).ok_or("the JSON part is longer than the body")?;
    let json: AnswerJson = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let mut begin = json_len;
    let mut outputs = Vec::with_capacity(json.outputs.len());
    for output in json.outputs {
        let size = output.parameters.get("binary_data_size").and_then(Value::as_u64);
        let size = size.ok_or_else(|| format!("output '{}' is not binary", output.name))?;
        let end = begin.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
        if end > body.len() {
            return Err(format!("output '{}' ends behind the body", output.name));
        }
        let OutputJson { name, datatype, shape, .. } = output;
        outputs.push(OutputTensor { name, datatype, shape, data: begin..end });
        begin = end;
    }
    Ok(InferAnswer { parameters: json.parameters, outputs, body })
}

/// How much of a body is JSON, if not all.
fn json_len(headers: &HeaderMap) -> Result<Option<usize>, String> {
    let Some(value) = headers.get(JSON_LEN) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    text.trim().parse().map(Some).map_err(|_| format!("header {JSON_LEN}: '{text}'"))
}

fn protocol(what: &str, problem: impl ToString) -> BenchError {
    BenchError::Protocol { what: what.to_string(), problem: problem.to_string() }
}
