//! A minimal HTTP client over a plain socket: what is sent is exactly what a test wrote.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    received: Vec<u8>,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    /// The JSON part of the body, and what follows it.
    pub fn parts(&self) -> (Value, &[u8]) {
        let header = self.headers.get("inference-header-content-length");
        let len = header.map_or(self.body.len(), |len| len.parse().expect("a length"));
        (serde_json::from_slice(&self.body[..len]).expect("JSON"), &self.body[len..])
    }

    /// The JSON body.
    pub fn json(&self) -> Value {
        self.parts().0
    }

    /// The message of an error.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().expect("an error message").to_string()
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the server listens");
        // A hang is a failure, not an endless test.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, received: Vec::new() }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Sends a request and reads the answer.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.send(&request(method, path, headers, body));
        self.answer()
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, &[], &[])
    }

    /// Sends a JSON inference request to model `m`.
    pub fn infer(&mut self, json: &str) -> Answer {
        self.request("POST", "/v2/models/m/infer", &[], json.as_bytes())
    }

    /// The status of an answer to HEAD, which has no body.
    pub fn head(&mut self, path: &str) -> u16 {
        self.head_with(path, &[])
    }

    /// The same, with headers.
    pub fn head_with(&mut self, path: &str, headers: &[(&str, &str)]) -> u16 {
        self.send(&request("HEAD", path, headers, &[]));
        let (status, _, head_len) = self.answer_head();
        self.received.drain(..head_len);
        status
    }

    /// Asks whether a body of `bytes` may be sent and sends none: 100 or the status of the refusal.
    pub fn may_send(&mut self, path: &str, bytes: usize) -> u16 {
        let head = request("POST", path, &[("expect", "100-continue")], &[]);
        let head = String::from_utf8(head).unwrap();
        self.send(head.replace("content-length: 0", &format!("content-length: {bytes}")).as_bytes());
        self.answer_head().0
    }

    /// Reads one answer.
    pub fn answer(&mut self) -> Answer {
        let (status, headers, head_len) = self.answer_head();
        let body_len: usize = headers["content-length"].parse().unwrap();
        let end = head_len + body_len;
        self.read_until(|bytes| (bytes.len() >= end).then_some(end));
        let body = self.received[head_len..end].to_vec();
        self.received.drain(..end);
        Answer { status, headers, body }
    }

    fn answer_head(&mut self) -> (u16, BTreeMap<String, String>, usize) {
        let head_len = self.read_until(|bytes| bytes.windows(4).position(|four| four == b"\r\n\r\n")) + 4;
        let head = String::from_utf8(self.received[..head_len].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_string()))
            .collect();
        (status, headers, head_len)
    }

    /// Whether the server has closed the connection; blocks until it has or something arrives.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 1]), Ok(0) | Err(_))
    }

    fn read_until(&mut self, found: impl Fn(&[u8]) -> Option<usize>) -> usize {
        loop {
            if let Some(position) = found(&self.received) {
                return position;
            }
            let mut chunk = [0; 4096];
            let count = self.stream.read(&mut chunk).expect("the server answers");
            assert!(count > 0, "the server closed after {:?}", String::from_utf8_lossy(&self.received));
            self.received.extend_from_slice(&chunk[..count]);
        }
    }
}

/// The bytes of a request.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
    let mut bytes = (text + "\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
