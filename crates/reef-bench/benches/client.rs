//! What the HTTP client costs of what it measures: round trips with it and with one written by hand, in
//! turns, against a server that only finds the end of a request: `cargo bench -p reef-bench --bench client`.
//! Knows neither engine nor models.
//!
//! System calls: `strace -f -c target/release/deps/client-… client` and `… hand`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use reef_base::Samples;
use reef_bench::http::{Client, InferParameters, Prepared, Tensor};

const ROUNDS: usize = 40;
const CALLS: usize = 500;
/// Calls of a round that are not counted: the other client had the caches.
const WARM_UP: usize = 50;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n\
    inference-header-content-length: 92\r\ncontent-length: 96\r\n\r\n\
    {\"outputs\":[{\"name\":\"y\",\"datatype\":\"FP32\",\"shape\":[1],\
    \"parameters\":{\"binary_data_size\":4}}]}1234";

fn main() {
    let only = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let address = server();
    println!("{:26} {:>8} {:>8} {:>8} {:>8} {:>8}", "µs", "min", "p50", "p99", "max", "count");
    for elements in [16, 150_528] {
        let data = vec![7; elements * 4];
        let tensor = Tensor { name: "x", datatype: "FP32", shape: &[elements], data: &data };
        let request = Prepared::infer("m", &[tensor], InferParameters::default());
        let mut client = Client::new(address);
        let mut hand = Hand::new(address, &data);
        let mut ours = || drop(client.infer(&request).expect("the server answers"));
        let mut theirs = || hand.call();
        let sides: [(&str, &mut dyn FnMut()); 2] = [("client", &mut ours), ("hand", &mut theirs)];
        compare(sides, only.as_deref(), elements * 4);
    }
}

fn compare(sides: [(&str, &mut dyn FnMut()); 2], only: Option<&str>, bytes: usize) {
    let mut samples = [Samples::default(), Samples::default()];
    let mut sides = sides;
    for _ in 0..ROUNDS {
        for ((name, call), samples) in sides.iter_mut().zip(&mut samples) {
            if only.is_some_and(|only| only != *name) {
                continue;
            }
            for index in 0..CALLS {
                let begin = Instant::now();
                call();
                if index >= WARM_UP {
                    samples.push(begin.elapsed().as_secs_f64() * 1e6);
                }
            }
        }
    }
    for ((name, _), samples) in sides.iter().zip(&samples) {
        let Some(s) = samples.summary() else { continue };
        let what = format!("{name}, {bytes} bytes");
        println!("{what:26} {:8.1} {:8.1} {:8.1} {:8.1} {:8}", s.min, s.p50, s.p99, s.max, s.count);
    }
}

/// The least that a client can do: one write, one read, the length of the body.
struct Hand {
    stream: TcpStream,
    request: Vec<u8>,
}

impl Hand {
    fn new(address: SocketAddr, data: &[u8]) -> Hand {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_nodelay(true).expect("a socket takes options");
        let json = "{\"inputs\":[]}";
        let (json_len, body_len) = (json.len(), json.len() + data.len());
        let head = format!(
            "POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {body_len}\r\n\
             Inference-Header-Content-Length: {json_len}\r\n\r\n{json}",
        );
        Hand { stream, request: [head.as_bytes(), data].concat() }
    }

    fn call(&mut self) {
        self.stream.write_all(&self.request).expect("the server reads");
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        while whole(&answer).is_none_or(|len| answer.len() < len) {
            let read = self.stream.read(&mut chunk).expect("the server answers");
            answer.extend_from_slice(&chunk[..read]);
        }
    }
}

/// How long a message is, head and body, once its head is there.
fn whole(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).ok()?.to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    Some(head + length.map_or(0, |length| length.trim().parse().unwrap_or(0)))
}

fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.set_nodelay(true);
            thread::spawn(move || answer_all(stream));
        }
    });
    address
}

fn answer_all(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 1 << 20];
    let mut wanted = None;
    while let Ok(read) = stream.read(&mut chunk) {
        if read == 0 {
            return;
        }
        bytes.extend_from_slice(&chunk[..read]);
        wanted = wanted.or_else(|| whole(&bytes));
        if wanted.is_some_and(|len| bytes.len() >= len) {
            (bytes, wanted) = (Vec::new(), None);
            if stream.write_all(ANSWER).is_err() {
                return;
            }
        }
    }
}
