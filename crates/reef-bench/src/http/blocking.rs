//! A connection of hyper's on a thread that has nothing else to do: no runtime, no reactor.
//!
//! hyper writes, parses and judges; this module only says when it may read. Of its own accord hyper reads
//! whenever it is asked how things stand, which on a blocking socket would not return. So a read is *pending*
//! unless the driver has given leave for one ([`Gate::leave`]), and the driver gives leave only when one was
//! wanted and refused, and whoever waits for the answer has taken what there was of it and waits on. An
//! exchange is then one `writev` and, for an answer that fits in one piece, one `recv`: the system calls of a
//! client written by hand.

use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// What is read at once.
const CHUNK_BYTES: usize = 16 << 10;

type Body = Full<Bytes>;

/// Why an exchange failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection ended before the first byte of an answer.
    Closed(io::Error),
    /// The connection failed, or was silent for too long.
    Socket(io::Error),
    /// The answer is not HTTP, or too large.
    Protocol(String),
}

/// A connection; of no use any more after a failure.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Body>,
    connection: Pin<Box<http1::Connection<Io, Body>>>,
    gate: Arc<Gate>,
    limit: Duration,
}

impl Connection {
    /// Connects. No read or write waits longer than `limit`.
    pub(super) fn open(address: SocketAddr, limit: Duration) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, limit.min(CONNECT_LIMIT))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let gate = Arc::new(Gate::default());
        let handshake = pin!(http1::handshake(Io { stream, gate: gate.clone() }));
        match handshake.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok((sender, connection))) => {
                Ok(Connection { sender, connection: Box::pin(connection), gate, limit })
            }
            Poll::Ready(Err(error)) => Err(io::Error::other(error)),
            Poll::Pending => Err(io::Error::other("a handshake of HTTP/1.1 has nothing to wait for")),
        }
    }

    /// Whether another request may be sent: the server keeps the connection.
    pub(super) fn is_kept(&mut self) -> bool {
        self.gate.begin();
        let _ = self.connection.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        self.sender.is_ready()
    }

    /// Sends a request and reads the whole answer, of at most `bytes_max`. An answer that trickles in is
    /// given up after twice the limit.
    pub(super) fn exchange(
        &mut self,
        request: Request<Body>,
        bytes_max: usize,
    ) -> Result<Response<Bytes>, Failure> {
        self.gate.begin();
        let gate = self.gate.clone();
        let sent = self.sender.send_request(request);
        let answer = async move {
            let (head, body) = sent.await.map_err(|error| failure(&error, &gate))?.into_parts();
            let body = Limited::new(body, bytes_max).collect().await;
            let body = body.map_err(|error| failure(&*error, &gate))?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        let mut answer = pin!(answer);
        let mut context = Context::from_waker(Waker::noop());
        let given_up = Instant::now() + self.limit;
        loop {
            // Errors of the connection reach whoever waits for the answer.
            let _ = self.connection.as_mut().poll(&mut context);
            if let Poll::Ready(answer) = answer.as_mut().poll(&mut context) {
                return answer;
            }
            // What hyper has read and nobody took was in its way; only then it wants to read more.
            let waits = self.gate.wants_read();
            // The first read of an answer needs no look at the clock: the socket has the limit.
            if (self.gate.has_received() || !waits) && Instant::now() > given_up {
                return Err(Failure::Socket(io::ErrorKind::TimedOut.into()));
            }
            if waits {
                self.gate.leave();
            }
        }
    }
}

/// What of an error of hyper's its cause says.
fn failure(error: &(dyn std::error::Error + 'static), gate: &Gate) -> Failure {
    let chain = || std::iter::successors(Some(error), |&error| error.source());
    let socket = chain().find_map(|error| error.downcast_ref::<io::Error>());
    let hyper = error.downcast_ref::<hyper::Error>();
    let ended = hyper.is_some_and(|error| error.is_incomplete_message() || error.is_closed());
    let source = match socket {
        // What a socket with a time limit says when that has passed.
        Some(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            return Failure::Socket(io::ErrorKind::TimedOut.into());
        }
        Some(error) => io::Error::new(error.kind(), error.to_string()),
        None if ended || hyper.is_some_and(hyper::Error::is_canceled) => {
            io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")
        }
        None => return Failure::Protocol(chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")),
    };
    if gate.has_received() { Failure::Socket(source) } else { Failure::Closed(source) }
}

/// Between the driver and the socket that hyper owns.
#[derive(Debug, Default)]
struct Gate {
    /// One read may be made.
    may_read: AtomicBool,
    /// One was wanted that could not be made.
    wanted: AtomicBool,
    /// Something of the answer has come.
    received: AtomicBool,
}

impl Gate {
    fn begin(&self) {
        self.may_read.store(false, Ordering::Relaxed);
        self.wanted.store(false, Ordering::Relaxed);
        self.received.store(false, Ordering::Relaxed);
    }

    fn leave(&self) {
        self.may_read.store(true, Ordering::Relaxed);
    }

    /// Whether a read was refused since it was asked last.
    fn wants_read(&self) -> bool {
        self.wanted.swap(false, Ordering::Relaxed)
    }

    fn has_received(&self) -> bool {
        self.received.load(Ordering::Relaxed)
    }
}

/// The socket as hyper sees it. Writes are whole, for the socket blocks.
#[derive(Debug)]
struct Io {
    stream: TcpStream,
    gate: Arc<Gate>,
}

impl hyper::rt::Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut into: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.gate.may_read.swap(false, Ordering::Relaxed) {
            self.gate.wanted.store(true, Ordering::Relaxed);
            return Poll::Pending;
        }
        let mut chunk = [0; CHUNK_BYTES];
        let room = chunk.len().min(into.remaining());
        let read = retried(|| self.stream.read(&mut chunk[..room]))?;
        into.put_slice(&chunk[..read]);
        self.gate.received.fetch_or(read > 0, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(retried(|| self.stream.write(bytes)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(retried(|| self.stream.write_vectored(pieces)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.shutdown(std::net::Shutdown::Write))
    }
}

/// Again, where a signal came between.
fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
