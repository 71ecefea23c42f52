//! A client of gRPC that costs as little as a socket: frames of HTTP/2, written and read on the thread that
//! asks. It compresses no header and keeps no window, and looks at no more of an answer than whether it came.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use prost::Message;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// What a connection may send at first, and at most.
const WINDOW: u32 = 65_535;
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// One connection, and a request that is sent on it again and again.
pub struct Frames {
    stream: TcpStream,
    request: Vec<u8>,
    /// What was received and not looked at yet.
    received: Vec<u8>,
    next: u32,
    /// The payload of HEADERS, and of DATA.
    headers: Vec<u8>,
    body: Vec<u8>,
}

impl Frames {
    pub fn connect(address: SocketAddr, path: &str, message: &impl Message) -> Frames {
        let mut stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        let mut hello = PREFACE.to_vec();
        frame(&mut hello, SETTINGS, 0, 0, &[]);
        frame(&mut hello, WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - WINDOW).to_be_bytes());
        stream.write_all(&hello).expect("sent");
        let mut headers = Vec::new();
        let all = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "x"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        for (name, value) in all {
            // A literal that no table takes up.
            headers.push(0);
            for text in [name, value] {
                headers.push(u8::try_from(text.len()).ok().filter(|&len| len < 127).expect("short texts"));
                headers.extend_from_slice(text.as_bytes());
            }
        }
        let mut body = vec![0];
        body.extend_from_slice(&u32::try_from(message.encoded_len()).expect("a small message").to_be_bytes());
        body.extend_from_slice(&message.encode_to_vec());
        Frames { stream, request: Vec::new(), received: Vec::new(), next: 1, headers, body }
    }

    /// Sends the request and waits for its answer: how many bytes it has.
    pub fn call(&mut self) -> usize {
        let id = self.next;
        self.next += 2;
        self.request.clear();
        frame(&mut self.request, HEADERS, END_HEADERS, id, &self.headers);
        frame(&mut self.request, DATA, END_STREAM, id, &self.body);
        self.stream.write_all(&self.request).expect("sent");
        let mut got = 0;
        loop {
            let (kind, flags, of, payload) = self.next_frame();
            let mut answer = Vec::new();
            match kind {
                SETTINGS if flags & ACK == 0 => frame(&mut answer, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => frame(&mut answer, PING, ACK, 0, &payload),
                DATA if of == id => got += payload.len(),
                SETTINGS | PING | WINDOW_UPDATE | HEADERS => {}
                other => panic!("a frame of kind {other}"),
            }
            self.stream.write_all(&answer).expect("sent");
            if of == id && flags & END_STREAM != 0 && (kind == HEADERS || kind == DATA) {
                return got;
            }
        }
    }

    /// Kind, flags, stream and payload of the next frame.
    fn next_frame(&mut self) -> (u8, u8, u32, Vec<u8>) {
        const HEAD: usize = 9;
        loop {
            if let Some((head, rest)) = self.received.split_at_checked(HEAD) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if rest.len() >= length {
                    let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    let frame = (head[3], head[4], of, rest[..length].to_vec());
                    self.received.drain(..HEAD + length);
                    return frame;
                }
            }
            let mut chunk = [0; 4096];
            let count = self.stream.read(&mut chunk).expect("received");
            assert_ne!(count, 0, "the server closed the connection");
            self.received.extend_from_slice(&chunk[..count]);
        }
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a small frame");
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}
