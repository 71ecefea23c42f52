//! Messages on a Unix socket that keeps their bounds (`SOCK_SEQPACKET`), and descriptors that go with them.
//!
//! A message is JSON, or one byte that only wakes. Nothing here waits unless it is told to, whatever the
//! other side does with flags of the socket; a message that is too long, or damaged, is an error.

#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
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

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process, 0 for one that cannot be seen from here: in another container.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

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

    /// A socket that is not connected, and never waits: not even for a server that accepts nobody.
    pub fn unbound() -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
    }

    /// Who connected.
    pub fn peer(&self) -> io::Result<Peer> {
        let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut len = size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes to `peer`, in which any bytes are a value.
        let failed = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut peer).cast(),
                &raw mut len,
            )
        };
        match failed {
            0 => Ok(Peer { pid: peer.pid, uid: peer.uid, gid: peer.gid }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sends a message, and a descriptor with it. If it cannot be sent at once, that is an error: who sends
    /// so much and reads nothing is broken.
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
                // That the other side has closed without reading everything is said once, before the last
                // of what it sent.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
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
            text => {
                let message = serde_json::from_slice(text);
                let message = message.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                Ok(Received::Message(message, descriptor))
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Socket, Socket) {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (one, two) = rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None).unwrap();
        (Socket(one), Socket(two))
    }

    #[test]
    fn messages_keep_their_bounds_and_descriptors_come_along() {
        let (one, two) = pair();
        let mut text = Vec::new();
        let nothing = two.receive::<String>(&mut text).unwrap();
        assert!(matches!(nothing, Received::Nothing));
        one.send(&"first", None).unwrap();
        one.wake();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        one.send(&"x".repeat(MESSAGE_BYTES_MAX - 2), Some(file.as_fd())).unwrap();
        assert!(two.wait(Some(Duration::ZERO)).unwrap());
        let Received::Message(message, None) = two.receive::<String>(&mut text).unwrap() else { panic!() };
        assert_eq!(message, "first");
        assert!(matches!(two.receive::<String>(&mut text).unwrap(), Received::Wake));
        let Received::Message(message, Some(received)) = two.receive::<String>(&mut text).unwrap() else {
            panic!()
        };
        assert_eq!(message.len(), MESSAGE_BYTES_MAX - 2);
        let (sent, received) = (rustix::fs::fstat(&file).unwrap(), rustix::fs::fstat(received).unwrap());
        assert_eq!((sent.st_dev, sent.st_ino), (received.st_dev, received.st_ino));
        assert!(!two.wait(Some(Duration::ZERO)).unwrap());
        drop(one);
        assert!(matches!(two.receive::<String>(&mut text).unwrap(), Received::End));
    }

    #[test]
    fn what_is_damaged_or_too_long_is_an_error() {
        let (one, two) = pair();
        let mut text = Vec::new();
        assert!(one.send(&"x".repeat(MESSAGE_BYTES_MAX), None).is_err());
        for bytes in [&b"{"[..], b"7", &[b' '; MESSAGE_BYTES_MAX + 2]] {
            rustix::net::send(&one, bytes, SendFlags::empty()).unwrap();
            assert_eq!(two.receive::<String>(&mut text).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn who_reads_nothing_does_not_hold_the_sender_up() {
        let (one, _two) = pair();
        let error = (0..10_000).find_map(|_| one.send(&"x".repeat(10_000), None).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        one.wake();
    }

    #[test]
    fn the_last_word_arrives_though_nobody_listens_any_more() {
        let (one, two) = pair();
        let mut text = Vec::new();
        one.send(&"unread", None).unwrap();
        two.send(&"last", None).unwrap();
        drop(two);
        let Received::Message(message, None) = one.receive::<String>(&mut text).unwrap() else { panic!() };
        assert_eq!(message, "last");
        assert!(matches!(one.receive::<String>(&mut text).unwrap(), Received::End));
        assert!(one.send(&"more", None).is_err());
        one.wake();
    }

    #[test]
    fn a_peer_is_known() {
        let (one, _two) = pair();
        let peer = one.peer().unwrap();
        assert_eq!(peer.pid as u32, std::process::id());
        let this = std::fs::metadata("/proc/self").unwrap();
        assert_eq!(peer.uid, std::os::unix::fs::MetadataExt::uid(&this));
    }
}
