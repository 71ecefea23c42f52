//! What a service manager is told (systemd's notification protocol): ready, stopping, alive.
//!
//! Datagrams to the socket that the variable `NOTIFY_SOCKET` names. Invariant: a manager that does not listen
//! is no reason to fail.

use std::collections::BTreeMap;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Without a manager, the time between two looks at nothing.
const NO_WATCHDOG: Duration = Duration::from_secs(3600);

/// A service manager, or none.
#[derive(Debug, Default)]
pub struct Manager {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that these variables name.
    pub fn of(variables: &BTreeMap<String, String>) -> Manager {
        let Some(name) = variables.get("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Manager::default();
        };
        let open = || Ok::<_, io::Error>((UnixDatagram::unbound()?, address(name)?));
        match open() {
            Ok(to) => Manager { to: Some(to), watchdog: watchdog(variables) },
            Err(error) => {
                tracing::warn!(%error, "nothing can be told to NOTIFY_SOCKET");
                Manager::default()
            }
        }
    }

    /// How often [`Manager::alive`] has to be said.
    pub fn alive_every(&self) -> Duration {
        self.watchdog.unwrap_or(NO_WATCHDOG)
    }

    /// Requests are taken from now on.
    pub fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving");
    }

    /// What is being done until then.
    pub fn loading(&self, models: usize) {
        self.tell(&format!("STATUS=loading {models} models"));
    }

    /// No more requests are taken.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    /// It still works.
    pub fn alive(&self) {
        if self.watchdog.is_some() {
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, text: &str) {
        if let Some((socket, to)) = &self.to
            && let Err(error) = socket.send_to_addr(text.as_bytes(), to)
        {
            tracing::debug!(%error, "the service manager does not listen");
        }
    }
}

/// A path, or a name without a file, which begins with `@`.
fn address(name: &str) -> io::Result<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

/// Half of the time after which the manager thinks that nothing works any more, if it watches this process.
fn watchdog(variables: &BTreeMap<String, String>) -> Option<Duration> {
    let us: u64 = variables.get("WATCHDOG_USEC")?.parse().ok()?;
    let own = std::process::id().to_string();
    let watched = variables.get("WATCHDOG_PID").is_none_or(|pid| *pid == own);
    (watched && us > 1).then(|| Duration::from_micros(us / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn a_manager_is_told_by_path_and_by_name() {
        let path = std::env::temp_dir().join(format!("reef-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let name = format!("reef-notify-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let sockets = [(path.to_str().unwrap().to_string(), by_path), (format!("@{name}"), by_name)];
        for (socket, receives) in sockets {
            let manager = Manager::of(&variables(&[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", "2000")]));
            assert_eq!(manager.alive_every(), Duration::from_millis(1));
            manager.loading(2);
            manager.ready();
            manager.alive();
            manager.stopping();
            let mut said = Vec::new();
            for _ in 0..4 {
                let mut text = [0; 100];
                let len = receives.recv(&mut text).unwrap();
                said.push(String::from_utf8(text[..len].to_vec()).unwrap());
            }
            let expected = [
                "STATUS=loading 2 models",
                "READY=1\nSTATUS=serving",
                "WATCHDOG=1",
                "STOPPING=1\nSTATUS=draining",
            ];
            assert_eq!(said, expected);
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn no_manager_and_a_dead_one_do_no_harm() {
        for socket in ["", "/nowhere/at/all", "@", &"x".repeat(200)] {
            let manager = Manager::of(&variables(&[("NOTIFY_SOCKET", socket)]));
            manager.ready();
            manager.alive();
        }
        let other = [("NOTIFY_SOCKET", "@x"), ("WATCHDOG_USEC", "2000"), ("WATCHDOG_PID", "1")];
        assert_eq!(Manager::of(&variables(&other)).alive_every(), NO_WATCHDOG);
        for wrong in ["", "-1", "0", "many"] {
            let pairs = [("NOTIFY_SOCKET", "@x"), ("WATCHDOG_USEC", wrong)];
            assert_eq!(Manager::of(&variables(&pairs)).alive_every(), NO_WATCHDOG);
        }
        assert_eq!(Manager::of(&variables(&[])).alive_every(), NO_WATCHDOG);
    }
}
