//! The settings of a server: a flag wins over a variable, which wins over `reef.toml`, which wins over the
//! default.
//!
//! Invariant: every value knows where it comes from; an unknown key is an error that says where it is.

pub mod clients;
pub mod file;
pub mod keys;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use reef_device::Scheme;
use reef_server::{
    AccessOptions, ClientCertificates, ClientOptions, ConnectionLimits, RingOptions, ServerOptions,
    TlsOptions,
};

use crate::config::file::File;
use crate::config::keys::{KEYS, Key, Kind};
use crate::spec::DeviceSpec;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// `reef.toml`, and its line.
    File(PathBuf, usize),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path, line) => write!(f, "{}:{line}", path.display()),
            Source::Variable(name) => f.write_str(name),
            Source::Flag(flag) => write!(f, "--{flag}"),
        }
    }
}

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// The file of settings.
    pub config: Option<PathBuf>,
    /// Values of keys.
    pub flags: BTreeMap<&'static str, Vec<String>>,
}

/// Every key with its value.
#[derive(Clone, Debug)]
pub struct Config {
    values: BTreeMap<&'static str, (Vec<String>, Source)>,
    file: File,
    clients: Vec<ClientOptions>,
    /// Variables of ours that are no key.
    pub unknown_variables: Vec<String>,
}

/// Variables that mean something beside the keys: to tests and measurements, and to clients.
const OTHER_VARIABLES: [&str; 9] = [
    "REEF_UPDATE",
    "REEF_STORM_",
    "REEF_CONFIG",
    "REEF_URL",
    "REEF_TOKEN",
    "REEF_CUDA_",
    "REEF_NVRTC",
    "REEF_EMULATOR_",
    "REEF_ISA",
];

impl Config {
    /// Of what was given on the command line, these variables, and the file that is named or lies with the
    /// models.
    pub fn load(given: &Given, variables: &BTreeMap<String, String>) -> Result<Config> {
        let config = given.config.clone().or_else(|| variables.get("REEF_CONFIG").map(PathBuf::from));
        let mut values = BTreeMap::new();
        for key in KEYS {
            if let Some((found, source)) = said(key, given, variables) {
                found
                    .iter()
                    .try_for_each(|value| key.kind.check(value))
                    .map_err(|why| anyhow::anyhow!("{source}: {why}"))?;
                values.insert(key.name, (found, source));
            }
        }
        let beside = || {
            let models = values.get("models").and_then(|(values, _)| values.first());
            models.map(|models| Path::new(models).join("reef.toml"))
        };
        let file = match (config, beside()) {
            (Some(path), _) => File::read(&path, true)?,
            (None, Some(path)) => File::read(&path, false)?,
            (None, None) => File::default(),
        };
        for key in KEYS {
            let from_file = || {
                let (found, line) = file.keys.get(key.name)?;
                Some((found.clone(), Source::File(file.path.clone()?, *line)))
            };
            let otherwise = || from_file().unwrap_or_else(|| (key.default_values(), Source::Default));
            values.entry(key.name).or_insert_with(otherwise);
        }
        let clients = clients::read(&file, &|name| variables.get(name).cloned())?;
        Ok(Config { values, file, clients, unknown_variables: unknown(variables) })
    }

    /// The file of settings, if there is one.
    pub fn file(&self) -> Option<&Path> {
        self.file.path.as_deref()
    }

    /// Who may do what.
    pub fn clients(&self) -> &[ClientOptions] {
        &self.clients
    }

    /// Every key in the order of the documentation, its values and where they come from.
    pub fn effective(&self) -> impl Iterator<Item = (&'static Key, &[String], &Source)> {
        KEYS.iter().map(|key| {
            let (values, source) = &self.values[key.name];
            (key, &values[..], source)
        })
    }

    /// Where the models are.
    pub fn models(&self) -> Result<PathBuf> {
        match self.optional("models") {
            Some(models) => Ok(models.into()),
            None => bail!("which models? reef serve DIRECTORY, or models = \"DIRECTORY\" in reef.toml"),
        }
    }

    /// The devices that somebody named.
    pub fn devices(&self) -> Result<Vec<DeviceSpec>> {
        let (values, source) = &self.values["devices"];
        let parse =
            |text: &String| text.parse().map_err(|why: String| anyhow::anyhow!("{source}: devices: {why}"));
        match source {
            Source::Default => Ok(Vec::new()),
            _ => values.iter().map(parse).collect(),
        }
    }

    /// How classes share a device.
    pub fn scheme(&self) -> Result<Scheme> {
        self.value("scheme").parse::<Scheme>().map_err(anyhow::Error::msg)
    }

    /// The time that work may take after a signal to stop.
    pub fn drain_timeout(&self) -> Duration {
        self.seconds("drain_timeout")
    }

    /// A value that there is, if it was said.
    pub fn optional(&self, name: &str) -> Option<&str> {
        self.values[name].0.first().map(String::as_str)
    }

    /// The values of a list.
    pub fn list(&self, name: &str) -> &[String] {
        &self.values[name].0
    }

    /// Yes or no.
    pub fn flag(&self, name: &str) -> bool {
        self.value(name) == "true"
    }

    /// A time.
    pub fn seconds(&self, name: &str) -> Duration {
        // It was checked when it was read.
        Duration::from_secs_f64(self.value(name).parse().unwrap_or_default())
    }

    /// A value that there always is.
    pub fn value(&self, name: &str) -> &str {
        self.optional(name).expect("it has a default")
    }

    /// How the server listens.
    pub fn server(&self) -> Result<ServerOptions> {
        let address = self.value("address").parse()?;
        let port = |name| Ok::<_, anyhow::Error>(SocketAddr::new(address, self.value(name).parse()?));
        let public = |what: &str| self.values["public"].0.iter().any(|public| public == what);
        Ok(ServerOptions {
            http: port("http_port")?,
            grpc: self.grpc_port()?.map(|port| SocketAddr::new(address, port)),
            metrics: Some(port("metrics_port")?),
            body_bytes_max: self.value("max_body").parse()?,
            bodies_bytes_max: self.value("max_bodies").parse()?,
            answers_bytes_max: self.value("max_answers").parse()?,
            threads: self.value("io_threads").parse()?,
            connections: ConnectionLimits {
                count_max: self.value("max_connections").parse()?,
                count_per_peer_max: match self.optional("max_connections_per_peer") {
                    Some(count) => count.parse()?,
                    None => usize::MAX,
                },
                head_time_max: self.seconds("head_timeout"),
                idle_time_max: self.seconds("idle_timeout"),
                write_time_max: self.seconds("write_timeout"),
                ..ConnectionLimits::default()
            },
            access: AccessOptions {
                clients: self.clients.clone(),
                public_health: public("health"),
                public_metrics: public("metrics"),
            },
            tls: self.tls()?,
            otlp_endpoint: self.optional("otlp_endpoint").map(String::from),
            trace_folder: self.optional("trace_dir").map(PathBuf::from),
            allow_client_shm: self.flag("allow_client_shm"),
            ring: self.ring()?,
            strict_readiness: self.flag("strict_readiness"),
        })
    }

    fn tls(&self) -> Result<Option<TlsOptions>> {
        let path = |name| self.optional(name).map(PathBuf::from);
        let client_certificates = match self.value("tls_client_certificates") {
            "required" => ClientCertificates::Required,
            _ => ClientCertificates::Optional,
        };
        let client_ca = path("tls_client_ca");
        if client_certificates == ClientCertificates::Required && client_ca.is_none() {
            bail!("tls_client_certificates = \"required\" needs tls_client_ca");
        }
        let by_certificate = self.clients.iter().find(|client| !client.certificates.is_empty());
        if let (Some(client), None) = (by_certificate, &client_ca) {
            bail!("client.{}: certificates need tls_client_ca", client.name);
        }
        match (path("tls_certificate"), path("tls_key")) {
            (Some(certificate), Some(key)) => {
                Ok(Some(TlsOptions { certificate, key, client_ca, client_certificates }))
            }
            (None, None) if client_ca.is_none() => Ok(None),
            (None, _) => bail!("tls_key and tls_client_ca need tls_certificate"),
            (Some(_), None) => bail!("tls_certificate needs tls_key"),
        }
    }

    /// Where gRPC is served: beside HTTP, unless said.
    fn grpc_port(&self) -> Result<Option<u16>> {
        match (self.optional("grpc_port"), self.value("http_port")) {
            (Some("off"), _) => Ok(None),
            (Some(port), _) => Ok(Some(port.parse()?)),
            (None, "0") => Ok(Some(0)),
            (None, _) => Ok(Some(8001)),
        }
    }

    fn ring(&self) -> Result<Option<RingOptions>> {
        let client = self.optional("ring_client").map(String::from);
        if let Some(name) = &client
            && !self.clients.iter().any(|client| client.name == *name)
        {
            bail!("ring_client: there is no client '{name}'");
        }
        let Some(path) = self.optional("ring") else { return Ok(None) };
        let mode = u32::from_str_radix(self.value("ring_mode"), 8)?;
        Ok(Some(RingOptions { mode, client, ..RingOptions::new(path) }))
    }
}

/// What flags and variables say about a key.
fn said(key: &Key, given: &Given, variables: &BTreeMap<String, String>) -> Option<(Vec<String>, Source)> {
    if let Some(values) = given.flags.get(key.name) {
        return Some((values.clone(), Source::Flag(key.flag())));
    }
    let variable = key.variable();
    let text = variables.get(&variable)?;
    Some((key.split(text), Source::Variable(variable)))
}

fn unknown(variables: &BTreeMap<String, String>) -> Vec<String> {
    let ours = variables.keys().filter(|name| name.starts_with("REEF_"));
    let known = |name: &String| {
        KEYS.iter().any(|key| key.variable() == *name)
            || OTHER_VARIABLES.iter().any(|other| name.starts_with(other))
    };
    ours.filter(|name| !known(name)).cloned().collect()
}

impl clap::Args for Given {
    fn augment_args(command: clap::Command) -> clap::Command {
        let config = clap::Arg::new("config").long("config").value_name("FILE").help(
            "File of settings; by default reef.toml among the models. Keys of it: docs/CONFIGURATION.md",
        );
        let command = command.arg(config.value_parser(clap::value_parser!(PathBuf)));
        KEYS.iter().fold(command, |command, key| command.arg(argument(key)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// The flag of a key; that of the models stands by itself. Names of flags are kept as long as the process.
fn argument(key: &'static Key) -> clap::Arg {
    let kind = key.kind;
    let check = move |text: &str| kind.check(text).map(|()| text.to_string());
    let help = match key.default {
        "" => key.help.to_string(),
        default => format!("{} [default: {default}]", key.help),
    };
    let argument = clap::Arg::new(key.name)
        .value_name(kind.placeholder().leak() as &str)
        .help(help)
        .value_parser(check)
        .allow_negative_numbers(matches!(kind, Kind::Whole { .. } | Kind::Seconds { .. }));
    let argument = if key.list { argument.action(clap::ArgAction::Append) } else { argument };
    let argument = match kind {
        Kind::Flag => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => argument,
    };
    if key.name == "models" {
        argument.value_name("MODELS")
    } else {
        argument.long(key.flag().leak() as &str)
    }
}

impl clap::FromArgMatches for Given {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        let flags = KEYS.iter().filter_map(|key| {
            let values = matches.get_many::<String>(key.name)?;
            Some((key.name, values.cloned().collect()))
        });
        Ok(Given { config: matches.get_one("config").cloned(), flags: flags.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
