//! TLS: who is spoken to, who may speak, and certificates that change.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use reef_engine::ModelSettings;
use reef_server::{ClientCertificates, ClientOptions, Right, Server, ServerOptions, TlsOptions};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::client::request;
use crate::fixture::{Fixture, x, y};

/// An authority and what it signs, in files.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let dir = std::env::temp_dir().join(format!("reef-tls-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(dir.join("ca.pem"), certificate.pem()).unwrap();
        Authority { dir, issuer: Issuer::new(params, key) }
    }

    /// Writes `NAME.pem` and `NAME.key` for this name.
    pub fn sign(&self, file: &str, common: &str, dns: &[&str]) {
        let mut params =
            CertificateParams::new(dns.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.pem")), certificate.pem()).unwrap();
    }

    /// Writes `forged.pem` and `forged.key`, which somebody else has signed.
    pub fn forge(&self, file: &str, common: &str, dns: &[&str]) {
        let forger = Authority::new(&format!("forger-of-{file}-for-{}", self.name()));
        forger.sign(file, common, dns);
        for kind in ["pem", "key"] {
            let forged = self.path(&format!("forged.{kind}"));
            std::fs::copy(forger.path(&format!("{file}.{kind}")), forged).unwrap();
        }
    }

    fn name(&self) -> String {
        self.dir.file_name().expect("it is a folder").to_string_lossy().into_owned()
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    pub fn options(&self, client_certificates: ClientCertificates) -> TlsOptions {
        TlsOptions {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            client_ca: Some(self.path("ca.pem")),
            client_certificates,
        }
    }

    /// What a client says that trusts it, and shows this certificate.
    pub fn client(&self, shows: Option<&str>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match shows {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let chain = vec![CertificateDer::from_pem_file(self.path(&format!("{file}.pem"))).unwrap()];
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{file}.key"))).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        }
    }

    /// A connection of such a client.
    fn connect(&self, fixture: &Fixture, shows: Option<&str>) -> Secure {
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(self.client(shows)), name).unwrap();
        let stream = TcpStream::connect(fixture.running().http_addr()).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        Secure(StreamOwned::new(connection, stream))
    }
}

struct Secure(StreamOwned<ClientConnection, TcpStream>);

impl Secure {
    /// The status of an answer, or why there is none.
    fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Result<u16, String> {
        let bytes = request(method, path, &[], body);
        let mut answer = [0; 4096];
        let sent = self.0.write_all(&bytes).and_then(|()| self.0.flush());
        let count = sent.and_then(|()| self.0.read(&mut answer)).map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&answer[..count]).into_owned();
        let status = text.split(' ').nth(1).ok_or_else(|| format!("'{text}'"))?;
        status.parse().map_err(|_| text)
    }

    fn certificate(&self) -> Vec<u8> {
        self.0.conn.peer_certificates().unwrap()[0].to_vec()
    }
}

/// With two clients that are known by their certificates.
pub fn serving(authority: &Authority, wanted: ClientCertificates) -> Fixture {
    authority.sign("server", "server", &["localhost"]);
    let fixture = Fixture::with(|options| {
        options.tls = Some(authority.options(wanted));
        let mut trainer = ClientOptions::new("trainer");
        trainer.certificates = vec!["dns:trainer.example".into()];
        let mut admin = ClientOptions::new("admin");
        admin.certificates = vec!["CN=admin".into()];
        admin.allow = vec![Right::Admin];
        options.access.clients = vec![trainer, admin];
    });
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    fixture
}

const INFER: &[u8] = br#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#;

#[test]
fn a_certificate_says_who_asks() {
    let authority = Authority::new("who");
    let fixture = serving(&authority, ClientCertificates::Optional);
    authority.sign("trainer", "t", &["trainer.example"]);
    authority.sign("admin", "admin", &[]);
    authority.sign("stranger", "stranger", &["stranger.example"]);
    let infer = |shows| authority.connect(&fixture, shows).ask("POST", "/v2/models/m/infer", INFER);
    assert_eq!(infer(Some("trainer")), Ok(200));
    assert_eq!(infer(Some("admin")), Ok(403));
    assert_eq!(infer(Some("stranger")), Ok(401));
    assert_eq!(infer(None), Ok(401));
    assert_eq!(authority.connect(&fixture, None).ask("GET", "/v2/health/live", &[]), Ok(200));
    authority.forge("trainer", "t", &["trainer.example"]);
    assert!(infer(Some("forged")).is_err());
    // Plain text is no TLS, and does no harm.
    let mut plain = fixture.client();
    plain.send(b"GET /v2 HTTP/1.1\r\nhost: t\r\n\r\n");
    while !plain.is_closed() {}
    assert_eq!(infer(Some("trainer")), Ok(200));
}

#[test]
fn a_certificate_may_be_required() {
    let authority = Authority::new("required");
    let fixture = serving(&authority, ClientCertificates::Required);
    authority.sign("trainer", "t", &["trainer.example"]);
    assert!(authority.connect(&fixture, None).ask("GET", "/v2/health/live", &[]).is_err());
    assert_eq!(authority.connect(&fixture, Some("trainer")).ask("GET", "/v2", &[]), Ok(200));
}

#[test]
fn certificates_change_without_a_restart_and_broken_ones_do_not() {
    let authority = Authority::new("reload");
    let fixture = serving(&authority, ClientCertificates::Optional);
    let served = || {
        let mut client = authority.connect(&fixture, None);
        assert_eq!(client.ask("GET", "/v2/health/live", &[]), Ok(200));
        client.certificate()
    };
    let mut open = authority.connect(&fixture, None);
    assert_eq!(open.ask("GET", "/v2/health/live", &[]), Ok(200));
    let first = served();
    authority.sign("server", "server", &["localhost"]);
    fixture.running().reload_certificates();
    let second = served();
    assert_ne!(first, second);
    for broken in ["", "not a certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    {
        std::fs::write(authority.path("server.pem"), broken).unwrap();
        fixture.running().reload_certificates();
        assert_eq!(served(), second, "{broken}");
    }
    assert_eq!(open.ask("GET", "/v2/health/live", &[]), Ok(200), "an open connection goes on");
}

#[test]
fn what_is_wrong_with_files_is_said_before_anything_is_served() {
    let authority = Authority::new("wrong");
    authority.sign("server", "server", &["localhost"]);
    authority.sign("other", "other", &["localhost"]);
    let error = |change: fn(&mut TlsOptions, &Path)| {
        let mut tls = authority.options(ClientCertificates::Optional);
        change(&mut tls, &authority.dir);
        let any = "127.0.0.1:0".parse().unwrap();
        let options = ServerOptions { http: any, metrics: None, tls: Some(tls), ..Default::default() };
        Server::bind(options).unwrap_err().to_string()
    };
    type Change = fn(&mut TlsOptions, &Path);
    let table: [(Change, &str); 5] = [
        (|tls, _| tls.certificate = "/none.pem".into(), "/none.pem"),
        (|tls, dir| tls.certificate = dir.join("server.key"), "there is no certificate in it"),
        (|tls, dir| tls.key = dir.join("server.pem"), "server.pem"),
        (|tls, dir| tls.key = dir.join("other.key"), "server.pem"),
        (|tls, dir| tls.client_ca = Some(dir.join("server.key")), "server.key"),
    ];
    for (change, expected) in table {
        let error = error(change);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
