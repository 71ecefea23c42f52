//! TLS on a port: certificates from files, read again when they change, and who a client's certificate names.
//!
//! Invariants: connections that are open keep what they began with; a new certificate that is broken is told
//! and leaves the old one in use.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::net::io::Watched;

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// One that is shown must be valid; a client without one may show a token.
    #[default]
    Optional,
    /// No connection without one.
    Required,
}

/// Where certificates and keys are, all in PEM.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// The server's certificate, with those between it and a root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Roots of clients' certificates; without it clients show none.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must show one, if there are roots.
    pub client_certificates: ClientCertificates,
}

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is not what it should be.
    #[error("cannot use {}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Certificate and key do not go together, or cannot be used.
    #[error("cannot use the certificate {}: {why}", path.display())]
    Certificate {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// What a port does with new connections.
#[derive(Debug)]
pub(crate) struct Tls {
    options: TlsOptions,
    /// Protocols that clients may choose from, the best first.
    protocols: Vec<Vec<u8>>,
    config: RwLock<Arc<ServerConfig>>,
    seen: Mutex<Vec<Stamp>>,
}

/// By what a file is known to have changed.
type Stamp = Option<(SystemTime, u64)>;

impl TlsOptions {
    /// Reads everything, and says what is wrong with it.
    pub fn check(&self) -> Result<(), TlsError> {
        config(self, &[]).map(drop)
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        let always = [&*self.certificate, &*self.key];
        always.into_iter().chain(self.client_ca.as_deref())
    }

    fn stamps(&self) -> Vec<Stamp> {
        let stamp = |path: &Path| {
            let data = std::fs::metadata(path).ok()?;
            Some((data.modified().ok()?, data.len()))
        };
        self.files().map(stamp).collect()
    }
}

impl Tls {
    /// For a port on which these protocols are spoken (`http/1.1`, `h2`).
    pub(crate) fn new(options: TlsOptions, protocols: &[&str]) -> Result<Tls, TlsError> {
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        // Before they are read: what changes meanwhile is read again.
        let seen = Mutex::new(options.stamps());
        let config = RwLock::new(Arc::new(config(&options, &protocols)?));
        Ok(Tls { options, protocols, config, seen })
    }

    /// Shakes hands; the names in the client's certificate, if it showed one.
    pub(crate) async fn accept(&self, stream: Watched) -> io::Result<(TlsStream<Watched>, Vec<String>)> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner).clone();
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let names = match certificates.and_then(<[_]>::first) {
            Some(certificate) => names(certificate).map_err(io::Error::other)?,
            None => Vec::new(),
        };
        Ok((stream, names))
    }

    /// Reads the files again if they have changed since. Blocks.
    pub(crate) fn refresh(&self) {
        let stamps = self.options.stamps();
        if *self.seen.lock().unwrap_or_else(PoisonError::into_inner) != stamps {
            self.reload();
        }
    }

    /// Reads the files again. Blocks.
    pub(crate) fn reload(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = self.options.stamps();
        match config(&self.options, &self.protocols) {
            Ok(config) => {
                *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                tracing::info!(certificate = %self.options.certificate.display(), "certificates read again");
            }
            Err(error) => tracing::error!(%error, "the certificates of before stay in use"),
        }
    }
}

fn config(options: &TlsOptions, protocols: &[Vec<u8>]) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&options.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&options.key).map_err(|why| file(&options.key, why))?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring has what TLS 1.2 and 1.3 need");
    let builder = match &options.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = roots(path)?;
            builder.with_client_cert_verifier(verifier(roots, options.client_certificates, provider, path)?)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|why| TlsError::Certificate { path: options.certificate.clone(), why: why.to_string() })?;
    config.alpn_protocols = protocols.to_vec();
    Ok(config)
}

fn verifier(
    roots: RootCertStore,
    wanted: ClientCertificates,
    provider: Arc<CryptoProvider>,
    path: &Path,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match wanted {
        ClientCertificates::Optional => builder.allow_unauthenticated(),
        ClientCertificates::Required => builder,
    };
    builder.build().map_err(|why| file(path, why))
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|why| file(path, why))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<CertificateDer<'static>> = read.map_err(|why| file(path, why))?;
    match certificates.is_empty() {
        true => Err(file(path, "there is no certificate in it")),
        false => Ok(certificates),
    }
}

fn file(path: &Path, why: impl ToString) -> TlsError {
    TlsError::File { path: path.to_path_buf(), why: why.to_string() }
}

/// Whom a certificate names: its subject, and its alternative names with their kind.
fn names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("a client's certificate cannot be read: {error}");
    let certificate = Certificate::from_der(certificate).map_err(|error| wrong(&error))?;
    let certificate = certificate.tbs_certificate();
    let mut names = vec![certificate.subject().to_string()];
    let alternative = certificate.get_extension::<SubjectAltName>().map_err(|error| wrong(&error))?;
    for name in alternative.iter().flat_map(|(_, names)| &names.0) {
        match name {
            GeneralName::DnsName(name) => names.push(format!("dns:{name}")),
            GeneralName::UniformResourceIdentifier(name) => names.push(format!("uri:{name}")),
            GeneralName::Rfc822Name(name) => names.push(format!("email:{name}")),
            _ => {}
        }
    }
    // An empty subject is nobody's name.
    names.retain(|name| !name.is_empty());
    Ok(names)
}
