//! TLS over gRPC: who is spoken to, who may speak, and certificates that change.

use std::io;
use std::sync::Arc;

use reef_engine::{Class, ModelSettings};
use reef_server::{ClientCertificates, ClientOptions};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Code;

use super::bare::{Bare, End, INFER};
use super::client::good;
use crate::fixture::{Fixture, x, y};
use crate::tls::{Authority, serving};

const LIVE: &str = "/inference.GRPCInferenceService/ServerLive";
const METADATA: &str = "/inference.GRPCInferenceService/ServerMetadata";

/// What a client that speaks HTTP/2 says.
fn h2(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

async fn shake_hands(fixture: &Fixture, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(fixture.running().grpc_addr().unwrap()).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// An RPC with this certificate, or none where there is no connection.
fn ask(authority: &Authority, fixture: &Fixture, shows: Option<&str>, path: &str) -> Option<End> {
    let client = connect(fixture, h2(authority.client(shows))).ok()?;
    client.try_ask(path, &good("m"))
}

fn connect(fixture: &Fixture, config: ClientConfig) -> io::Result<Bare> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The handshake alone first: with TLS 1.3 a client hears later that its certificate will not do.
    runtime.block_on(shake_hands(fixture, config.clone()))?;
    Ok(Bare::over(async { shake_hands(fixture, config).await.unwrap() }))
}

#[test]
fn a_certificate_says_who_asks() {
    let authority = Authority::new("grpc-who");
    let fixture = serving(&authority, ClientCertificates::Optional);
    authority.sign("trainer", "t", &["trainer.example"]);
    authority.sign("admin", "admin", &[]);
    authority.sign("stranger", "stranger", &["stranger.example"]);
    authority.forge("trainer", "t", &["trainer.example"]);
    let code = |shows, path| ask(&authority, &fixture, shows, path).and_then(|end| end.code);
    assert_eq!(code(Some("trainer"), INFER), Some(Code::Ok));
    assert_eq!(code(Some("admin"), INFER), Some(Code::PermissionDenied));
    assert_eq!(code(Some("admin"), METADATA), Some(Code::Ok));
    assert_eq!(code(Some("stranger"), INFER), Some(Code::Unauthenticated));
    assert_eq!(code(None, INFER), Some(Code::Unauthenticated));
    assert_eq!(code(None, LIVE), Some(Code::Ok));
    assert_eq!(code(Some("forged"), LIVE), None, "signed by somebody else");
    assert_eq!(code(Some("trainer"), INFER), Some(Code::Ok));
}

#[test]
fn a_certificate_may_be_required() {
    let authority = Authority::new("grpc-required");
    let fixture = serving(&authority, ClientCertificates::Required);
    authority.sign("trainer", "t", &["trainer.example"]);
    authority.forge("trainer", "t", &["trainer.example"]);
    for shows in [None, Some("forged")] {
        assert!(ask(&authority, &fixture, shows, LIVE).is_none(), "{shows:?}");
    }
    ask(&authority, &fixture, Some("trainer"), LIVE).unwrap().is(Code::Ok, "");
}

#[test]
fn a_client_by_its_certificate_has_its_limits() {
    let authority = Authority::new("grpc-limits");
    authority.sign("server", "server", &["localhost"]);
    authority.sign("trainer", "t", &["trainer.example"]);
    let fixture = Fixture::with(|options| {
        options.tls = Some(authority.options(ClientCertificates::Optional));
        let mut trainer = ClientOptions::new("trainer");
        trainer.certificates = vec!["dns:trainer.example".into()];
        trainer.class_max = Class::BestEffort;
        trainer.models = vec!["m*".into()];
        (trainer.requests_per_s, trainer.burst) = (Some(0.001), Some(2));
        options.access.clients = vec![trainer];
    });
    for name in ["m", "other"] {
        fixture.model(name, &[x()], &[y()], ModelSettings::default());
    }
    let client = connect(&fixture, h2(authority.client(Some("trainer")))).unwrap();
    client.ask(INFER, &[], &good("other")).is(Code::PermissionDenied, "'trainer' may not");
    client.ask(INFER, &[], &good("m")).is(Code::Ok, "");
    // Over connections of its own it is the same client.
    let another = connect(&fixture, h2(authority.client(Some("trainer")))).unwrap();
    another.ask(INFER, &[], &good("m")).is(Code::ResourceExhausted, "");
    client.ask(INFER, &[], &good("m")).is(Code::ResourceExhausted, "");
    fixture.wait_for("m", |class| class.success, 1);
}

#[test]
fn certificates_change_without_a_restart() {
    let authority = Authority::new("grpc-reload");
    let fixture = serving(&authority, ClientCertificates::Optional);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let shown = || {
        let stream = runtime.block_on(shake_hands(&fixture, h2(authority.client(None)))).unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let open = connect(&fixture, h2(authority.client(None))).unwrap();
    open.ask(LIVE, &[], &()).is(Code::Ok, "");
    let first = shown();
    authority.sign("server", "server", &["localhost"]);
    fixture.running().reload_certificates();
    let second = shown();
    assert_ne!(first, second);
    std::fs::write(authority.path("server.pem"), "not a certificate").unwrap();
    fixture.running().reload_certificates();
    assert_eq!(shown(), second);
    open.ask(LIVE, &[], &()).is(Code::Ok, "");
}

#[test]
fn http2_is_agreed_on_and_nothing_else() {
    let authority = Authority::new("grpc-alpn");
    let fixture = serving(&authority, ClientCertificates::Optional);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let agreed = |protocols: &[&[u8]]| {
        let mut config = authority.client(None);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let stream = runtime.block_on(shake_hands(&fixture, config)).map_err(|error| error.to_string())?;
        Ok::<_, String>(stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(agreed(&[b"h2"]), Ok(Some(b"h2".to_vec())));
    assert_eq!(agreed(&[b"http/1.1", b"h2"]), Ok(Some(b"h2".to_vec())));
    assert_eq!(agreed(&[]), Ok(None), "a client need not say what it speaks");
    let refused = agreed(&[b"http/1.1"]).unwrap_err();
    assert!(refused.contains("alert"), "{refused}");
    // One that says nothing speaks HTTP/2 all the same.
    connect(&fixture, authority.client(None)).unwrap().ask(LIVE, &[], &()).is(Code::Ok, "");
}

#[test]
fn plain_text_at_the_port_is_closed_and_harms_nobody() {
    let authority = Authority::new("grpc-plain");
    let fixture = serving(&authority, ClientCertificates::Optional);
    let plain = Bare::connect(fixture.running().grpc_addr().unwrap());
    assert!(plain.try_ask(LIVE, &()).is_none());
    plain.closed();
    ask(&authority, &fixture, None, LIVE).unwrap().is(Code::Ok, "");
}
