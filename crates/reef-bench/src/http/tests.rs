//! The client against servers that answer anything.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::channel;
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
            let is_length =
                |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case("content-length");
            let length = request.headers.iter().find(is_length);
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
    assert!(matches!(&error, BenchError::Status { status: 503, message, .. } if message.contains("full")));
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
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "outputs"),
        (b"SMTP ready\r\n\r\n", "HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "content-length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nInference-Header-Content-Length: y\r\n\r\n{}", "'y'"),
    ];
    for (bytes, expected) in cases {
        let address = fake_server(move |_, _| Some(bytes.to_vec()));
        let error = Client::new(address).infer(&request()).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, BenchError::Protocol { .. }) && message.contains(expected), "{message}");
    }
    let long = infer_answer(&[1, 2], json!({}));
    let short =
        String::from_utf8(long).unwrap().replace(r#""binary_data_size":2"#, r#""binary_data_size":9"#);
    let address = fake_server(move |_, _| Some(short.clone().into_bytes()));
    let message = Client::new(address).infer(&request()).unwrap_err().to_string();
    assert!(message.contains("behind the body"), "{message}");
}

#[test]
fn bodies_of_any_length_and_framing_are_read() {
    let large: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    let (head, body) = {
        let answer = infer_answer(&large, json!({}));
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        (answer[..end].to_vec(), answer[end..].to_vec())
    };
    let json_len = body.len() - large.len();
    let chunked = {
        let head = format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\
             inference-header-content-length: {json_len}\r\n\r\n"
        );
        let pieces = body
            .chunks(100_000)
            .flat_map(|piece| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
        [head.into_bytes(), pieces.collect(), b"0\r\n\r\n".to_vec()].concat()
    };
    let answers = [[head, body].concat(), chunked];
    let address = fake_server(move |number, _| Some(answers[number % 2].clone()));
    let mut client = Client::new(address);
    for _ in 0..4 {
        let answer = client.infer(&request()).unwrap();
        assert!(answer.bytes(&answer.outputs[0]) == large);
    }
}

#[test]
fn a_large_request_arrives_whole() {
    let data: Vec<u8> = (0..5_000_000u32).map(|at| (at % 241) as u8).collect();
    let expected = data.clone();
    let address = fake_server(move |_, bytes| {
        assert!(bytes.ends_with(&expected), "{} bytes", bytes.len());
        Some(infer_answer(&[1], json!({})))
    });
    let tensor = Tensor { name: "x", datatype: "UINT8", shape: &[data.len()], data: &data };
    let request = Prepared::infer("m", &[tensor], InferParameters::default());
    let mut client = Client::new(address);
    (0..3).for_each(|_| drop(client.infer(&request).unwrap()));
}

#[test]
fn a_server_is_called_by_its_address_or_by_its_name() {
    let address = fake_server(|_, bytes| {
        let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
        let host = text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_string();
        Some(status(200, &host))
    });
    assert_eq!(Client::new(address).text("/").unwrap(), address.to_string());
    assert_eq!(Client::new(address).called("models.example:80").text("/").unwrap(), "models.example:80");
    assert_eq!(Client::new(address).called("no\nname").text("/").unwrap(), address.to_string());
}

#[test]
fn a_name_is_percent_encoded_in_a_path() {
    let address = fake_server(|_, bytes| {
        let text = String::from_utf8_lossy(bytes);
        let line = text.lines().next().unwrap();
        assert!(line.contains("/v2/models/a%2Fb%20%3F%25%23%0D%0A%C3%A9-._~"), "{line}");
        let metadata = r#"{"name":"m","inputs":[],"outputs":[]}"#;
        Some(if line.contains("/infer ") { infer_answer(&[1], json!({})) } else { status(200, metadata) })
    });
    let name = "a/b ?%#\r\né-._~";
    let mut client = Client::new(address);
    client.metadata(name).unwrap();
    client.infer(&Prepared::infer(name, &[], InferParameters::default())).unwrap();
}

/// What a server that is silent, or says a byte and is silent then, is to a client with a short limit.
#[test]
fn a_server_that_never_answers_is_given_up() {
    for said in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"] {
        let (end, ended) = channel::<()>();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(said).unwrap();
            let _ = ended.recv();
        });
        let limit = Duration::from_millis(50);
        let error = Client::new(address).within(limit).infer(&request()).unwrap_err();
        assert!(matches!(&error, BenchError::Silent { .. }), "{error}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        drop(end);
    }
}

#[test]
fn a_server_that_trickles_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").unwrap();
        while stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    });
    let error = Client::new(address).within(Duration::from_millis(100)).infer(&request()).unwrap_err();
    assert!(matches!(&error, BenchError::Silent { .. }), "{error}");
}

#[test]
fn metadata_is_read() {
    let body = r#"{"name":"m","platform":"p","inputs":[{"name":"x","datatype":"FP32","shape":[-1,3]}],
                   "outputs":[]}"#;
    let address = fake_server(move |_, _| Some(status(200, body)));
    let metadata = Client::new(address).metadata("m").unwrap();
    assert_eq!(metadata.inputs[0].shape, [-1, 3]);
}
