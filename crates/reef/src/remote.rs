//! A running server as a client sees it: questions over HTTP, answers in JSON or text.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use crate::cli::RemoteArgs;

/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A server.
#[derive(Debug)]
pub struct Remote {
    agent: ureq::Agent,
    url: String,
    token: Option<String>,
}

/// Why a server did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It cannot be reached, or does not speak HTTP or TLS as it should.
    Unreachable {
        /// Where it should be.
        url: String,
        /// What happened.
        why: String,
    },
    /// It refused.
    Refused {
        /// The status of its answer.
        status: u16,
        /// What it said.
        why: String,
    },
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::Unreachable { url, why } => write!(f, "cannot ask the server at {url}: {why}"),
            Failed::Refused { status, why } => write!(f, "the server refused ({status}): {why}"),
        }
    }
}

impl std::error::Error for Failed {}

impl Failed {
    /// The exit status that tells it: `EX_UNAVAILABLE`, `EX_NOPERM` of `sysexits.h`, or 1.
    pub fn status(&self) -> u8 {
        match self {
            Failed::Unreachable { .. } => 69,
            Failed::Refused { status: 401 | 403, .. } => 77,
            Failed::Refused { .. } => 1,
        }
    }
}

impl Remote {
    /// The one that the command line or variables name.
    pub fn new(args: &RemoteArgs) -> Result<Remote> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let url = args.url.clone().or_else(|| variable("REEF_URL"));
        let url = url.unwrap_or_else(|| "http://localhost:8000".into());
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(anyhow!("--url {url}: it begins with http:// or https://"));
        }
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(args.timeout))
            .http_status_as_error(false)
            // A token is for the server that was named, and for no other one.
            .max_redirects(0)
            .tls_config(tls(args)?)
            .build();
        let token = args.token.clone().or_else(|| variable("REEF_TOKEN"));
        Ok(Remote { agent: config.into(), url: url.trim_end_matches('/').into(), token })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The text at a path.
    pub fn get(&self, path: &str) -> Result<String> {
        self.text(self.with_token(self.agent.get(format!("{}{path}", self.url))).call())
    }

    /// The JSON at a path.
    pub fn get_json(&self, path: &str) -> Result<Value> {
        parse(&self.get(path)?)
    }

    /// What a path answers to this.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let post = self.with_token(self.agent.post(format!("{}{path}", self.url)));
        let text = self.text(post.header("content-type", "application/json").send(body.to_string()))?;
        if text.trim().is_empty() { Ok(Value::Null) } else { parse(&text) }
    }

    fn with_token<Any>(&self, request: ureq::RequestBuilder<Any>) -> ureq::RequestBuilder<Any> {
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn text(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<String> {
        let unreachable =
            |error: ureq::Error| Failed::Unreachable { url: self.url.clone(), why: error.to_string() };
        let mut answer = answer.map_err(unreachable)?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).lossy_utf8(true);
        let text = body.read_to_string().map_err(unreachable)?;
        if status.is_success() {
            return Ok(text);
        }
        let said = serde_json::from_str::<Value>(&text).ok();
        let said = said.as_ref().and_then(|said| said["error"].as_str()).map(String::from);
        let why = said.unwrap_or_else(|| text.chars().take(200).collect());
        Err(Failed::Refused { status: status.as_u16(), why }.into())
    }
}

/// A name as a part of a path.
pub fn encoded(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).context("the server's answer is not JSON")
}

fn tls(args: &RemoteArgs) -> Result<TlsConfig> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let certificates = |path: &Path| -> Result<Vec<Certificate<'static>>> {
        let pem = read(path)?;
        let items = ureq::tls::parse_pem(&pem).filter_map(|item| match item {
            Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(Ok(certificate)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        let items: Vec<Certificate<'static>> =
            items.collect::<Result<_, _>>().with_context(|| format!("cannot use {}", path.display()))?;
        match items.is_empty() {
            true => Err(anyhow!("there is no certificate in {}", path.display())),
            false => Ok(items),
        }
    };
    let mut builder = TlsConfig::builder();
    if let Some(path) = &args.ca {
        builder = builder.root_certs(RootCerts::Specific(Arc::new(certificates(path)?)));
    }
    if let (Some(certificate), Some(key)) = (&args.certificate, &args.key) {
        let chain = certificates(certificate)?;
        let key =
            PrivateKey::from_pem(&read(key)?).with_context(|| format!("cannot use {}", key.display()))?;
        builder = builder.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
    }
    Ok(builder.build())
}
