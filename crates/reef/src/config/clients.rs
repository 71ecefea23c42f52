//! `[client.NAME]`: credentials of clients and what each may do.
//!
//! Invariant: a token is read, made a digest and forgotten; no error says what it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use reef_base::{Class, Level};
use reef_server::{ClientOptions, Right, TokenDigest, TokenFile};
use serde::Deserialize;

use crate::config::file::{File, located};

/// The keys of a client.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    token: Option<String>,
    token_file: Option<PathBuf>,
    token_variable: Option<String>,
    #[serde(default)]
    token_sha256: Vec<String>,
    #[serde(default)]
    certificates: Vec<String>,
    allow: Option<Vec<String>>,
    class: Option<String>,
    level: Option<u8>,
    #[serde(default)]
    models: Vec<String>,
    requests_per_s: Option<f64>,
    burst: Option<u32>,
    max_in_flight: Option<usize>,
}

#[derive(Deserialize)]
struct Clients {
    #[serde(default)]
    client: BTreeMap<String, Client>,
}

/// The clients of a file.
pub fn read(file: &File, variable: &dyn Fn(&str) -> Option<String>) -> Result<Vec<ClientOptions>> {
    let Some(path) = &file.path else { return Ok(Vec::new()) };
    let clients: Clients = toml::from_str(&file.text).map_err(|error| located(path, &file.text, &error))?;
    let options = clients.client.into_iter().map(|(name, client)| {
        let options = client.options(&name, path, variable);
        options.with_context(|| format!("{}: client.{name}", path.display()))
    });
    let options: Vec<ClientOptions> = options.collect::<Result<_>>()?;
    for (index, one) in options.iter().enumerate() {
        for other in &options[..index] {
            if tokens(one).any(|token| tokens(other).any(|known| known == token)) {
                bail!("{}: '{}' and '{}' have the same token", path.display(), other.name, one.name);
            }
            if let Some(name) = one.certificates.iter().find(|name| other.certificates.contains(name)) {
                bail!("{}: '{}' and '{}' both are '{name}'", path.display(), other.name, one.name);
            }
        }
    }
    Ok(options)
}

impl Client {
    fn options(
        self,
        name: &str,
        file: &Path,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<ClientOptions> {
        let mut options = ClientOptions::new(name);
        options.class_max = self.class_max()?;
        options.tokens = self.tokens(variable)?;
        if let Some(path) = &self.token_file {
            let path = file.parent().unwrap_or(Path::new("")).join(path);
            options.token_file = Some(TokenFile::read(path).map_err(|why| anyhow!("token_file: {why}"))?);
        }
        if tokens(&options).next().is_none() && self.certificates.is_empty() {
            bail!("it has no credentials: token_file, token_variable, token_sha256, token or certificates");
        }
        if let Some(name) = self.certificates.iter().find(|name| !is_name(name)) {
            bail!("certificates: '{name}' is neither a subject (CN=…) nor dns:NAME, uri:URI, email:ADDRESS");
        }
        if let Some(per_s) = self.requests_per_s
            && !(1e-6..=1e9).contains(&per_s)
        {
            bail!("requests_per_s = {per_s}: 0.000001 to 1000000000");
        }
        if self.burst == Some(0) || self.max_in_flight == Some(0) {
            bail!("burst and max_in_flight are 1 at least");
        }
        if self.burst.is_some() && self.requests_per_s.is_none() {
            bail!("burst means something with requests_per_s only");
        }
        if let Some(allow) = &self.allow {
            options.allow = allow.iter().map(|name| right(name)).collect::<Result<_>>()?;
        }
        options.certificates = self.certificates;
        options.models = self.models;
        options.requests_per_s = self.requests_per_s;
        options.burst = self.burst;
        options.in_flight_max = self.max_in_flight;
        Ok(options)
    }

    /// The most urgent class that it may have; any, unless said.
    fn class_max(&self) -> Result<Class> {
        match (self.class.as_deref(), self.level) {
            (Some("best-effort"), None) => Ok(Class::BestEffort),
            (Some("real-time") | None, level) => {
                let level = Level::new(level.unwrap_or(0));
                level.map(Class::RealTime).context("level: there is no such level")
            }
            (Some("best-effort"), Some(_)) => bail!("level needs class = \"real-time\""),
            (Some(other), _) => {
                bail!("class = \"{other}\": there are \"real-time\" and \"best-effort\"")
            }
        }
    }

    /// Those that do not stand in a file.
    fn tokens(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Vec<TokenDigest>> {
        let mut tokens = Vec::new();
        let wrong = |key: &str, why: String| anyhow!("{key}: {why}");
        if let Some(token) = &self.token {
            tokens.push(TokenDigest::of(token).map_err(|why| wrong("token", why))?);
        }
        if let Some(name) = &self.token_variable {
            let value =
                variable(name).with_context(|| format!("token_variable: there is no variable {name}"))?;
            tokens.push(TokenDigest::of(value.trim()).map_err(|why| wrong("token_variable", why))?);
        }
        for digest in &self.token_sha256 {
            tokens.push(TokenDigest::from_hex(digest).map_err(|why| wrong("token_sha256", why))?);
        }
        Ok(tokens)
    }
}

/// All of a client's tokens.
fn tokens(client: &ClientOptions) -> impl Iterator<Item = &TokenDigest> {
    client.tokens.iter().chain(client.token_file.iter().flat_map(TokenFile::tokens))
}

fn is_name(name: &str) -> bool {
    ["dns:", "uri:", "email:"].iter().any(|kind| name.strip_prefix(kind).is_some_and(|rest| !rest.is_empty()))
        || name.contains('=')
}

fn right(name: &str) -> Result<Right> {
    match name {
        "infer" => Ok(Right::Infer),
        "metrics" => Ok(Right::Metrics),
        "admin" => Ok(Right::Admin),
        other => bail!("allow: '{other}': there are infer, metrics, admin"),
    }
}
