//! A client of the Open Inference Protocol over HTTP/1.1 with binary tensors: one connection, kept alive, no
//! threads, no async runtime.
//!
//! A request is written in one piece (head, JSON part, tensors) with TCP_NODELAY, prepared once and sent as
//! often as wanted, so that the client costs as little as possible of what is measured. Knows the protocol,
//! not the server.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::BenchError;

/// How long an answer may take before the connection counts as dead.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

const HEADERS_MAX: usize = 32;
const HEAD_BYTES_MAX: usize = 16 << 10;
const BODY_BYTES_MAX: usize = 1 << 30;

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

/// A request's bytes, ready to be sent any number of times.
#[derive(Clone, Debug)]
pub struct Prepared {
    what: String,
    bytes: Vec<u8>,
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
        let body_len = json.len() + inputs.iter().map(|input| input.data.len()).sum::<usize>();
        let head = format!(
            "POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/octet-stream\r\nInference-Header-Content-Length: {}\r\n\
             Content-Length: {body_len}\r\n\r\n",
            json.len()
        );
        let mut bytes = Vec::with_capacity(head.len() + body_len);
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(json.as_bytes());
        inputs.iter().for_each(|input| bytes.extend_from_slice(input.data));
        Prepared { what: format!("an inference of {model}"), bytes }
    }

    fn get(path: &str) -> Prepared {
        let bytes = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes();
        Prepared { what: format!("GET {path}"), bytes }
    }
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
    body: Vec<u8>,
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
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Client {
    /// A client of the server at `address`; connects with the first request.
    pub fn new(address: SocketAddr) -> Client {
        Client { address, stream: None, buffer: Vec::new() }
    }

    /// The types and shapes of a model.
    pub fn metadata(&mut self, model: &str) -> Result<ModelMetadata, BenchError> {
        let request = Prepared::get(&format!("/v2/models/{model}"));
        let answer = self.exchange(&request)?;
        serde_json::from_slice(&answer.body).map_err(|error| protocol(&request.what, error))
    }

    /// The text at `path`, such as `/metrics`.
    pub fn text(&mut self, path: &str) -> Result<String, BenchError> {
        let request = Prepared::get(path);
        let answer = self.exchange(&request)?;
        String::from_utf8(answer.body).map_err(|error| protocol(&request.what, error))
    }

    /// Sends an inference and reads its outputs.
    pub fn infer(&mut self, request: &Prepared) -> Result<InferAnswer, BenchError> {
        let answer = self.exchange(request)?;
        read_outputs(answer).map_err(|problem| protocol(&request.what, problem))
    }

    /// Sends a request and reads the whole answer; a status that is not 200 is an error.
    fn exchange(&mut self, request: &Prepared) -> Result<Answer, BenchError> {
        let kept = self.stream.is_some();
        let answer = match self.attempt(request) {
            // The server may have closed a kept connection while it was idle; then nothing of an answer came.
            Err(Failure::Closed(_)) if kept => self.attempt(request),
            other => other,
        };
        let answer = answer.map_err(|failure| {
            self.stream = None;
            match failure {
                Failure::Protocol(problem) => protocol(&request.what, problem),
                Failure::Closed(source) | Failure::Socket(source) => {
                    BenchError::Socket { what: format!("{} at {}", request.what, self.address), source }
                }
            }
        })?;
        if answer.close {
            self.stream = None;
        }
        if answer.status == 200 {
            return Ok(answer);
        }
        let message = serde_json::from_slice::<Value>(&answer.body).ok();
        let message = message.as_ref().and_then(|json| json["error"].as_str()).map(str::to_string);
        let message = message.unwrap_or_else(|| String::from_utf8_lossy(&answer.body).into_owned());
        Err(BenchError::Status { what: request.what.clone(), status: answer.status, message })
    }

    fn attempt(&mut self, request: &Prepared) -> Result<Answer, Failure> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.address).map_err(Failure::Socket)?,
        };
        stream.write_all(&request.bytes).map_err(Failure::Closed)?;
        self.buffer.clear();
        let head = read_head(&mut stream, &mut self.buffer)?;
        let body =
            read_body(&mut stream, &self.buffer[head.len..], head.body_len).map_err(Failure::Socket)?;
        self.stream = Some(stream);
        Ok(Answer { status: head.status, close: head.close, json_len: head.json_len, body })
    }
}

enum Failure {
    /// Before the first byte of an answer.
    Closed(io::Error),
    Socket(io::Error),
    Protocol(String),
}

struct Head {
    len: usize,
    status: u16,
    close: bool,
    body_len: usize,
    json_len: Option<usize>,
}

struct Answer {
    status: u16,
    close: bool,
    json_len: Option<usize>,
    body: Vec<u8>,
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(stream)
}

/// Reads until the head is whole; what follows it already stays in `buffer`.
fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Head, Failure> {
    let mut chunk = [0; 4096];
    loop {
        let read = match stream.read(&mut chunk) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            other => other,
        };
        let first = buffer.is_empty();
        let read = read.map_err(|e| if first { Failure::Closed(e) } else { Failure::Socket(e) })?;
        buffer.extend_from_slice(&chunk[..read]);
        if let Some(head) = parse_head(buffer).map_err(Failure::Protocol)? {
            return Ok(head);
        }
        if buffer.len() > HEAD_BYTES_MAX {
            return Err(Failure::Protocol(format!("a head of more than {HEAD_BYTES_MAX} bytes")));
        }
    }
}

/// `None` while the head is incomplete.
fn parse_head(buffer: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let len = match response.parse(buffer).map_err(|error| error.to_string())? {
        httparse::Status::Complete(len) => len,
        httparse::Status::Partial => return Ok(None),
    };
    let value = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.and_then(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
    };
    let length = |name: &str| {
        value(name)
            .map(|text| text.parse::<usize>().map_err(|_| format!("header {name}: '{text}'")))
            .transpose()
    };
    let body_len = length("content-length")?.ok_or("it has no Content-Length")?;
    if body_len > BODY_BYTES_MAX {
        return Err(format!("a body of {body_len} bytes"));
    }
    Ok(Some(Head {
        len,
        status: response.code.unwrap_or(0),
        close: value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
        body_len,
        json_len: length("inference-header-content-length")?,
    }))
}

fn read_body(stream: &mut TcpStream, begun: &[u8], len: usize) -> io::Result<Vec<u8>> {
    let mut body = vec![0; len];
    let begun_len = begun.len().min(len);
    body[..begun_len].copy_from_slice(&begun[..begun_len]);
    stream.read_exact(&mut body[begun_len..])?;
    Ok(body)
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

fn read_outputs(answer: Answer) -> Result<InferAnswer, String> {
    let json_len = answer.json_len.unwrap_or(answer.body.len());
    let json = answer.body.get(..json_len).ok_or("the JSON part is longer than the body")?;
    let json: AnswerJson = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let mut begin = json_len;
    let mut outputs = Vec::with_capacity(json.outputs.len());
    for output in json.outputs {
        let size = output.parameters.get("binary_data_size").and_then(Value::as_u64);
        let size = size.ok_or_else(|| format!("output '{}' is not binary", output.name))?;
        let end = begin.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
        if end > answer.body.len() {
            return Err(format!("output '{}' ends behind the body", output.name));
        }
        let OutputJson { name, datatype, shape, .. } = output;
        outputs.push(OutputTensor { name, datatype, shape, data: begin..end });
        begin = end;
    }
    Ok(InferAnswer { parameters: json.parameters, outputs, body: answer.body })
}

fn protocol(what: &str, problem: impl ToString) -> BenchError {
    BenchError::Protocol { what: what.to_string(), problem: problem.to_string() }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers every request on every connection with what `answer` makes of the request's number (from 0)
    /// and bytes; `None` closes the connection instead. Lives as long as the process.
    pub(crate) fn fake_server(
        answer: impl Fn(usize, &[u8]) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut number = 0;
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                while let Some(request) = read_request(&mut stream) {
                    let Some(bytes) = answer(number, &request) else { break };
                    number += 1;
                    stream.write_all(&bytes).unwrap();
                }
            }
        });
        address
    }

    fn read_request(stream: &mut TcpStream) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut chunk = [0; 1024];
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 16];
            let mut request = httparse::Request::new(&mut headers);
            if let Ok(httparse::Status::Complete(head)) = request.parse(&bytes) {
                let length = request.headers.iter().find(|header| header.name == "Content-Length");
                let length =
                    length.map_or(0, |h| std::str::from_utf8(h.value).unwrap().parse::<usize>().unwrap());
                if bytes.len() >= head + length {
                    return Some(bytes);
                }
            }
            let read = stream.read(&mut chunk).ok().filter(|&read| read > 0)?;
            bytes.extend_from_slice(&chunk[..read]);
        }
    }

    /// An answer with one binary output `y` of type UINT8.
    pub(crate) fn infer_answer(data: &[u8], parameters: Value) -> Vec<u8> {
        let json = json!({
            "model_name": "m",
            "parameters": parameters,
            "outputs": [{"name": "y", "datatype": "UINT8", "shape": [data.len()],
                         "parameters": {"binary_data_size": data.len()}}],
        })
        .to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\ninference-header-content-length: {}\r\n\r\n",
            json.len() + data.len(),
            json.len()
        );
        [head.as_bytes(), json.as_bytes(), data].concat()
    }

    fn status(code: u16, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    fn request() -> Prepared {
        let tensor = Tensor { name: "x", datatype: "UINT8", shape: &[3], data: &[1, 2, 3] };
        let parameters = InferParameters { class: Some("real-time"), priority: 2, deadline_us: Some(5_000) };
        Prepared::infer("m", &[tensor], parameters)
    }

    #[test]
    fn a_request_says_everything_and_outputs_come_back() {
        let address = fake_server(|_, bytes| {
            let text = String::from_utf8_lossy(bytes);
            for expected in [
                "POST /v2/models/m/infer HTTP/1.1\r\n",
                r#""binary_data_size":3"#,
                r#""class":"real-time""#,
                r#""priority":2"#,
                r#""deadline_us":5000"#,
                "\u{1}\u{2}\u{3}",
            ] {
                assert!(text.contains(expected), "{expected} in {text}");
            }
            Some(infer_answer(&[9, 8], json!({"queue_us": 12.5})))
        });
        let mut client = Client::new(address);
        for _ in 0..3 {
            let answer = client.infer(&request()).unwrap();
            assert_eq!(answer.bytes(&answer.outputs[0]), [9, 8]);
            assert_eq!(answer.outputs[0].shape, [2]);
            assert_eq!(answer.number("queue_us"), Some(12.5));
        }
    }

    #[test]
    fn refusals_carry_status_and_message() {
        let address = fake_server(|_, _| Some(status(503, r#"{"error":"the queue is full"}"#)));
        let error = Client::new(address).infer(&request()).unwrap_err();
        assert!(
            matches!(&error, BenchError::Status { status: 503, message, .. } if message.contains("full"))
        );
    }

    #[test]
    fn an_idle_connection_that_was_closed_is_made_again() {
        // Every second request finds its kept connection closed.
        let calls = std::sync::atomic::AtomicUsize::new(0);
        let address = fake_server(move |_, _| {
            let call = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            call.is_multiple_of(2).then(|| infer_answer(&[1], json!({})))
        });
        let mut client = Client::new(address);
        for _ in 0..3 {
            client.infer(&request()).unwrap();
        }
    }

    #[test]
    fn broken_answers_are_named() {
        let cases: [(&[u8], &str); 4] = [
            (b"HTTP/1.1 200 OK\r\n\r\n", "Content-Length"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "outputs"),
            (b"SMTP ready\r\n\r\n", "protocol"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "'x'"),
        ];
        for (bytes, expected) in cases {
            let address = fake_server(move |_, _| Some(bytes.to_vec()));
            let message = Client::new(address).infer(&request()).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let long = infer_answer(&[1, 2], json!({}));
        let short =
            String::from_utf8(long).unwrap().replace(r#""binary_data_size":2"#, r#""binary_data_size":9"#);
        let address = fake_server(move |_, _| Some(short.clone().into_bytes()));
        let message = Client::new(address).infer(&request()).unwrap_err().to_string();
        assert!(message.contains("behind the body"), "{message}");
    }

    #[test]
    fn metadata_is_read() {
        let body = r#"{"name":"m","platform":"p","inputs":[{"name":"x","datatype":"FP32","shape":[-1,3]}],
                       "outputs":[]}"#;
        let address = fake_server(move |_, _| Some(status(200, body)));
        let metadata = Client::new(address).metadata("m").unwrap();
        assert_eq!(metadata.inputs[0].shape, [-1, 3]);
    }
}
