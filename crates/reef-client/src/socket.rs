//! Messages on a Unix socket that keeps their bounds (`SOCK_SEQPACKET`), and descriptors that go with them.
//!
//! A message is JSON, or one byte that only wakes. Nothing here waits unless it is told to, whatever the other
//! side does with flags of the socket; a message that is too long, or damaged, is an error.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of a message at most.
pub const MESSAGE_BYTES_MAX: usize = 128 << 10;

/// What wakes.
const WAKE: &[u8] = b"!";

/// One end of a connection.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// What arrived.
#[derive(Debug)]
pub enum Received<T> {
    /// A message, with the descriptor that came along.
    Message(T, Option<OwnedFd>),
    /// The other side has something in its ring.
    Wake,
    /// Nothing now.
    Nothing,
    /// The other side is gone.
    End,
}

impl Socket {
    /// An accepted connection.
    pub fn of(descriptor: OwnedFd) -> Socket {
        Socket(descriptor)
    }

    /// Connects to the server that listens at `path`.
    pub fn connect(path: &Path) -> io::Result<Socket> {
        let socket = Self::unbound()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Socket(socket))
    }

    /// A socket that is not connected.
    pub fn unbound() -> io::Result<OwnedFd> {
        Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
    }

    /// Sends a message, and a descriptor with it. If it cannot be sent at once, that is an error: who sends so
    /// much and reads nothing is broken.
    pub fn send(&self, message: &impl Serialize, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        if text.len() > MESSAGE_BYTES_MAX {
            let problem = format!("a message of {} bytes, {MESSAGE_BYTES_MAX} are the most", text.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.map(|descriptor| [descriptor]);
        if let Some(descriptors) = &descriptors {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)), "there is room for one");
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&text)], &mut control, flags)?;
        Ok(())
    }

    /// Wakes the other side. If it has not read what was sent before, it is not asleep for long.
    pub fn wake(&self) {
        let _ = rustix::net::send(&self.0, WAKE, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// What has arrived; does not wait. `text` is room for it, kept from one call to the next.
    pub fn receive<T: DeserializeOwned>(&self, text: &mut Vec<u8>) -> io::Result<Received<T>> {
        // One more than a message may have: what is longer is noticed.
        text.resize(MESSAGE_BYTES_MAX + 1, 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            match rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(text)], &mut control, flags) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(Errno::CONNRESET | Errno::PIPE) => return Ok(Received::End),
                Err(error) => return Err(error.into()),
                Ok(received) => break received.bytes,
            }
        };
        let descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let descriptor = descriptors.flatten().next();
        match &text[..received] {
            [] => Ok(Received::End),
            text if text == WAKE => Ok(Received::Wake),
            text if text.len() > MESSAGE_BYTES_MAX => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"))
            }
            text => Ok(Received::Message(serde_json::from_slice(text)?, descriptor)),
        }
    }

    /// Waits until something arrives or the other side has gone, or for `timeout`; false if nothing did.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        wait(&mut [PollFd::new(&self.0, PollFlags::IN)], timeout)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of `descriptors` has something; false if none did within `timeout`.
pub fn wait(descriptors: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<bool> {
    let time = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    match rustix::event::poll(descriptors, time.as_ref()) {
        // Callers look again, and know how much time is left.
        Err(Errno::INTR) => Ok(true),
        other => Ok(other? > 0),
    }
}
