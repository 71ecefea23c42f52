//! The Unix socket: who may connect, how many, and the end of all connections.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use reef_base::limits::RING_CONNECTIONS_MAX;
use reef_client::Status;
use reef_client::protocol::ToClient;
use reef_client::socket::{Peer, Socket, wait};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{SocketAddrUnix, SocketFlags};

use crate::core::access::Client;
use crate::core::fault::contain;
use crate::core::state::State;
use crate::ring::connection;
use crate::ring::shared::Shared;

/// Pause after a failed accept, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Where clients of the same host connect to the shared-memory fast path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingOptions {
    /// The socket. A socket that a server left behind is replaced, anything else is not.
    pub path: PathBuf,
    /// Access rights of the socket: whoever may write to it may send requests.
    pub mode: u32,
    /// How long a connection's thread looks for requests before it sleeps. A longer time saves system calls
    /// and takes a core.
    pub spin: Duration,
    /// Of which of the server's clients the requests are of those who show no token. Without a name whoever
    /// may connect may do all that can be done here, and sees every model.
    pub client: Option<String>,
}

impl RingOptions {
    /// For this user alone.
    pub fn new(path: impl Into<PathBuf>) -> RingOptions {
        RingOptions { path: path.into(), mode: 0o600, spin: Duration::from_micros(50), client: None }
    }
}

/// A socket that is bound, and not served yet.
#[derive(Debug)]
pub(crate) struct Bound {
    socket: OwnedFd,
    file: SocketFile,
    spin: Duration,
}

/// The socket's name in the file system; removed when it is dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Takes the path.
pub(crate) fn bind(options: &RingOptions) -> io::Result<Bound> {
    let path = &options.path;
    let address = SocketAddrUnix::new(path.as_path())?;
    remove_left_behind(path)?;
    let socket = Socket::unbound()?;
    rustix::net::bind(&socket, &address)?;
    let file = SocketFile(path.clone());
    // Nobody can connect before it listens, whatever the rights were that it was made with.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(options.mode))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(Bound { socket, file, spin: options.spin })
}

/// Removes a socket at which nobody listens any more.
fn remove_left_behind(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => match Socket::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            _ => Err(io::ErrorKind::AddrInUse.into()),
        },
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The socket at work. Dropping it cuts all connections off, which cancels their requests.
#[derive(Debug)]
pub(crate) struct Ring {
    shared: Arc<Shared>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Ring {
    /// Serves clients on threads of its own, as `client` those that show no token.
    pub(crate) fn start(bound: Bound, state: Arc<State>, client: Client) -> io::Result<Ring> {
        let Bound { socket, file, spin } = bound;
        let shared = Arc::new(Shared::new(state, client, spin)?);
        let path = file.0.clone();
        let server = shared.clone();
        let thread = std::thread::Builder::new().name("reef-ring".into()).spawn(move || {
            accept(&socket, &server);
            drop(file);
        })?;
        Ok(Ring { shared, path, thread: Some(thread) })
    }

    /// Where clients connect.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Ends all connections, each once the requests that it has in flight are answered; the engine must have
    /// ended. False if some have not ended after `time`.
    pub(crate) fn close(mut self, time: Duration) -> bool {
        self.stop();
        self.shared.wait_until_closed(time)
    }

    fn stop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.shared.cut_off();
        self.stop();
    }
}

fn accept(socket: &OwnedFd, shared: &Arc<Shared>) {
    loop {
        let mut descriptors = [PollFd::new(socket, PollFlags::IN), PollFd::new(&shared.stop, PollFlags::IN)];
        if let Err(error) = wait(&mut descriptors, None) {
            let _ = contain(|| tracing::warn!(%error, "cannot wait for clients of the ring"));
            std::thread::sleep(ACCEPT_PAUSE);
        }
        if !descriptors[1].revents().is_empty() {
            return;
        }
        if descriptors[0].revents().is_empty() {
            continue;
        }
        match rustix::net::accept_with(socket, SocketFlags::CLOEXEC) {
            Ok(accepted) => greet(accepted, shared),
            Err(error) => {
                let _ = contain(|| tracing::warn!(%error, "cannot accept a client of the ring"));
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// Starts a connection's thread, if there may be one more.
fn greet(accepted: OwnedFd, shared: &Arc<Shared>) {
    let socket = Socket::of(accepted);
    let peer = socket.peer();
    let refuse = |message: String| {
        shared.refused();
        let _ = socket.send(&ToClient::Refused { status: Status::Unavailable, message }, None);
    };
    let Some(place) = shared.place() else {
        return refuse(format!("{RING_CONNECTIONS_MAX} clients are connected, no more are allowed"));
    };
    let _ = contain(|| match &peer {
        Ok(Peer { pid, uid, gid }) => tracing::info!(pid, uid, gid, "a client connected to the ring"),
        Err(error) => tracing::info!(%error, "a client connected to the ring"),
    });
    let serve = move |socket: Socket| {
        let place = place;
        if let Err(panic) = contain(|| connection::serve(&place.0, &socket, peer.ok())) {
            let _ = contain(|| tracing::error!(panic, "serving a client of the ring panicked"));
        }
    };
    // A socket that no thread takes is closed, which tells the client.
    let spawned = std::thread::Builder::new().name("reef-ring-one".into()).spawn(move || serve(socket));
    if let Err(error) = spawned {
        let _ = contain(|| tracing::warn!(%error, "cannot start a thread for a client of the ring"));
    }
}
