//! The keys of a server: each is a line of `reef.toml`, a flag of `reef serve` and a variable `REEF_…`.
//!
//! Invariant: there is no other list of them. Flags are made of this one, and a test compares
//! docs/CONFIGURATION.md with it.

use std::net::IpAddr;

use reef_base::limits;

use crate::spec::DeviceSpec;

/// What values a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A file or directory; in `reef.toml`, from where that is.
    Path,
    /// A whole number.
    Whole { min: i64, max: i64 },
    /// Seconds, with a fraction.
    Seconds { min: f64 },
    /// One of these.
    Choice(&'static [&'static str]),
    /// An address to listen on.
    Address,
    /// A device.
    Device,
    /// Where something is served.
    Url,
    /// Yes or no; on the command line the flag alone says yes.
    Flag,
    /// A port, or `off`.
    PortOrOff,
    /// Access rights of a file, in octal digits as `chmod` takes them.
    Rights,
}

/// A key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    /// As `reef.toml` has it.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Whether it takes a list of them.
    pub list: bool,
    /// The value without a word, as text; empty where there is none.
    pub default: &'static str,
    /// For `--help`.
    pub help: &'static str,
}

/// Waits are at most this long; sums of a few of them do not overflow.
const SECONDS_MAX: f64 = 1e6;

const PORT: Kind = Kind::Whole { min: 0, max: 65_535 };
const COUNT: Kind = Kind::Whole { min: 1, max: 1 << 20 };
const BYTES: Kind = Kind::Whole { min: 1, max: 1 << 40 };
const SECONDS: Kind = Kind::Seconds { min: 0.0 };
const SOME_SECONDS: Kind = Kind::Seconds { min: 0.001 };

const fn key(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key { name, kind, list: false, default, help }
}

const fn list(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key { name, kind, list: true, default, help }
}

/// All of them.
pub const KEYS: &[Key] = &[
    key("models", Kind::Path, "", "Directory with models: `NAME/1/model.onnx` or `NAME.onnx`."),
    list("devices", Kind::Device, "cpu", DEVICES),
    key("cus", Kind::Whole { min: 1, max: 256 }, "", CUS),
    key("nice", Kind::Whole { min: -20, max: 19 }, "19", "Nice value of the compute units' threads."),
    key("padding", Kind::Choice(&["preemptible", "fitting"]), "preemptible", PADDING),
    key("memory", Kind::Whole { min: 1, max: 1 << 40 }, "", MEMORY),
    key("scheme", Kind::Choice(&SCHEMES), "reset", "How classes share the device."),
    key("address", Kind::Address, "127.0.0.1", "Address to listen on."),
    key("http_port", PORT, "8000", "Port of the inference protocol over HTTP; 0 picks a free one."),
    key("grpc_port", Kind::PortOrOff, "", GRPC_PORT),
    key("metrics_port", PORT, "8002", "Port of the metrics; 0 picks a free one."),
    key("io_threads", Kind::Whole { min: 1, max: 256 }, "2", "Threads that serve connections."),
    key("max_body", BYTES, "268435456", "Largest request body in bytes."),
    key("max_bodies", BYTES, "1073741824", MAX_BODIES),
    key("max_answers", BYTES, "1073741824", MAX_ANSWERS),
    key("max_connections", COUNT, "1024", MAX_CONNECTIONS),
    key("max_connections_per_peer", COUNT, "", MAX_PER_PEER),
    key("head_timeout", SOME_SECONDS, "10", HEAD_TIMEOUT),
    key("idle_timeout", SOME_SECONDS, "75", "Seconds that a connection may be without a request."),
    key("write_timeout", SOME_SECONDS, "30", "Seconds that a client may take nothing of its answer."),
    key("drain_timeout", SECONDS, "5", DRAIN),
    key("tls_certificate", Kind::Path, "", "Certificate of the server, PEM; with it every port speaks TLS."),
    key("tls_key", Kind::Path, "", "Private key that goes with the certificate, PEM."),
    key("tls_client_ca", Kind::Path, "", "Roots of clients' certificates, PEM."),
    key("tls_client_certificates", Kind::Choice(&["optional", "required"]), "optional", CLIENT_CERTIFICATES),
    list("public", Kind::Choice(&["health", "metrics"]), "health", PUBLIC),
    key("log", Kind::Text, "info", "What is logged: error, warn, info, debug, or a filter of `tracing`."),
    key("log_format", Kind::Choice(&["text", "json"]), "text", "How the log is written."),
    key("otlp_endpoint", Kind::Url, "", OTLP),
    key("trace", Kind::Path, "", "Write a Chrome/Perfetto trace to this file at the end."),
    key("trace_dir", Kind::Path, "", TRACE_DIR),
    key("model_control_mode", Kind::Choice(&["none", "poll", "explicit"]), "none", MODEL_CONTROL_MODE),
    key("repository_poll_secs", SOME_SECONDS, "15", REPOSITORY_POLL),
    list("load_model", Kind::Text, "", LOAD_MODEL),
    key("exit_on_error", Kind::Flag, "false", "End with status 1 if a model cannot be loaded at the start."),
    key("strict_readiness", Kind::Flag, "false", STRICT_READINESS),
    key("allow_client_shm", Kind::Flag, "false", ALLOW_CLIENT_SHM),
    key("ring", Kind::Path, "", RING),
    key("ring_mode", Kind::Rights, "600", RING_MODE),
    key("ring_client", Kind::Text, "", RING_CLIENT),
];

const SCHEMES: [&str; 5] = ["rt-only", "sequential", "concurrent", "wait", "reset"];
const DEVICES: &str = "A device: `cpu`, every core that this process may use; `cpu:CORES` with those alone, \
    such as `cpu:0-3` or `cpu:0,2`; or `cuda:NUMBER`, an NVIDIA GPU. More than once for several; CPU devices \
    are then called cpu:0, cpu:1 in their order.";
const CUS: &str =
    "Compute units (worker threads) of a device without a list of cores; by default one per core.";
const GRPC_PORT: &str = "Port of the inference protocol over gRPC, or off; 0 picks a free one. By \
    default 8001, or a free one where that of HTTP is.";
const TRACE_DIR: &str = "Folder where clients may have timelines written by the protocol's trace settings; \
    by default they may not.";
const MODEL_CONTROL_MODE: &str = "Whether models stay as they are at the start (none), follow their \
    directory (poll), or are loaded and unloaded by clients (explicit).";
const REPOSITORY_POLL: &str =
    "Seconds between two looks at the directory, with poll. A change counts once two looks see the same.";
const LOAD_MODEL: &str = "A model to load at the start, with explicit; `*` for all. May be given \
    more than once.";
const STRICT_READINESS: &str =
    "Be ready only while every model is there; what is missing, v2/health/ready says either way.";
const ALLOW_CLIENT_SHM: &str = "Let clients register shared memory for tensors. Whoever may change settings \
    can then have every file of `/dev/shm` read and written that the server's user may read and write.";
const RING: &str = "Let clients of this host connect to the Unix socket at this path and ask through shared \
    memory (`reef-client`).";
const RING_MODE: &str = "Access rights of that socket, octal: whoever may write to it may send requests.";
const RING_CLIENT: &str = "The client that requests over that socket are of where no token is shown; by \
    default they are of nobody, and the socket's rights are all that limits them.";
const PADDING: &str = "Which blocks may run on compute units that a more urgent stage leaves idle.";
const MEMORY: &str = "Memory for weights and the arenas of running tasks on all devices, in MiB; by default \
    half of the machine's. A model or shape that needs more is refused.";
const MAX_ANSWERS: &str = "Bytes of all answers that their clients have not read yet.";
const MAX_BODIES: &str = "Bytes of all request bodies that are in memory at once.";
const MAX_CONNECTIONS: &str = "Connections per port. When another one comes, the one that has been without a \
    request for longest is closed.";
const MAX_PER_PEER: &str = "Connections per port and peer's address (of IPv6 the first 64 bits); no limit \
    unless said.";
const HEAD_TIMEOUT: &str = "Seconds for a TLS handshake and the head of a request.";
const DRAIN: &str = "Seconds that best-effort work may take to finish after a signal to stop.";
const CLIENT_CERTIFICATES: &str = "Whether clients must show a certificate, where there are roots.";
const PUBLIC: &str = "What is answered without credentials, where there are clients: health, metrics; an \
    empty list for nothing.";
const OTLP: &str = "Collector of OpenTelemetry that gets traces over HTTP, such as http://localhost:4318.";

impl Key {
    /// The flag, without dashes in front. A flag that is said once per value is in the singular.
    pub fn flag(&self) -> String {
        match self.name {
            "devices" => "device".into(),
            name => name.replace('_', "-"),
        }
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("REEF_{}", self.name.to_uppercase())
    }

    /// The values in a variable: of a list, separated by semicolons, as devices have commas.
    pub fn split(&self, text: &str) -> Vec<String> {
        match self.list {
            true => {
                text.split(';').map(str::trim).filter(|part| !part.is_empty()).map(String::from).collect()
            }
            false => vec![text.to_string()],
        }
    }

    /// What it is without a word.
    pub fn default_values(&self) -> Vec<String> {
        if self.default.is_empty() { Vec::new() } else { vec![self.default.to_string()] }
    }
}

impl Kind {
    /// An error if the text is no value of this kind.
    pub fn check(self, text: &str) -> Result<(), String> {
        match self {
            Kind::Text => Ok(()),
            Kind::Path if text.is_empty() => Err("a path is not empty".into()),
            Kind::Path => Ok(()),
            Kind::Whole { min, max } => match text.parse::<i64>() {
                Ok(value) if (min..=max).contains(&value) => Ok(()),
                Ok(_) => Err(format!("{text} is not in {min}..={max}")),
                Err(_) => Err(format!("'{text}' is not a whole number")),
            },
            Kind::Seconds { min } => match text.parse::<f64>() {
                Ok(value) if (min..=SECONDS_MAX).contains(&value) => Ok(()),
                Ok(_) => Err(format!("{min} to {SECONDS_MAX} seconds")),
                Err(_) => Err(format!("'{text}' is not a number of seconds")),
            },
            Kind::Choice(known) if known.contains(&text) => Ok(()),
            Kind::Choice(known) => Err(format!("'{text}': there are {}", known.join(", "))),
            Kind::Address => {
                text.parse::<IpAddr>().map(drop).map_err(|_| format!("'{text}' is not an IP address"))
            }
            Kind::Device => text.parse::<DeviceSpec>().map(drop),
            Kind::Url if text.starts_with("http://") || text.starts_with("https://") => Ok(()),
            Kind::Url => Err(format!("'{text}' does not begin with http:// or https://")),
            Kind::Flag if ["true", "false"].contains(&text) => Ok(()),
            Kind::Flag => Err(format!("'{text}' is neither true nor false")),
            Kind::PortOrOff if text == "off" => Ok(()),
            Kind::PortOrOff => {
                text.parse::<u16>().map(drop).map_err(|_| format!("'{text}' is neither a port nor off"))
            }
            Kind::Rights => match u32::from_str_radix(text, 8) {
                Ok(rights) if rights <= 0o777 && text.bytes().all(|digit| digit.is_ascii_digit()) => Ok(()),
                _ => Err(format!("'{text}' is not a mode such as 600 or 660")),
            },
        }
    }

    /// What stands for a value in `--help`.
    pub fn placeholder(self) -> String {
        match self {
            Kind::Text => "TEXT".into(),
            Kind::Path => "PATH".into(),
            Kind::Whole { .. } => "N".into(),
            Kind::Seconds { .. } => "S".into(),
            Kind::Choice(known) => known.join("|"),
            Kind::Address => "IP".into(),
            Kind::Device => "cpu[:CORES]|cuda[:NUMBER]".into(),
            Kind::Url => "URL".into(),
            Kind::Flag => "true|false".into(),
            Kind::PortOrOff => "PORT|off".into(),
            Kind::Rights => "MODE".into(),
        }
    }
}

/// The key of this name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The nearest of some names to one that is none of them, if it is near.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |name: &&str| strsim::damerau_levenshtein(wrong, name);
    let nearest = names.into_iter().min_by_key(distance)?;
    let near = distance(&nearest) <= (wrong.chars().count() / 3).max(1) || nearest.starts_with(wrong);
    near.then_some(nearest)
}

/// Defaults that are numbers elsewhere, too.
const _: () = {
    assert!(limits::BODY_BYTES_DEFAULT == 256 << 20);
    assert!(limits::BODIES_BYTES_DEFAULT == 1 << 30);
    assert!(limits::NICE_BACKGROUND == 19);
    assert!(limits::CUS_MAX == 256);
};
