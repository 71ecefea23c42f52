//! Every route with every kind of credentials; classes and limits of clients.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::SocketAddr;

use reef_engine::{Class, ClassStats, Level, ModelSettings};
use reef_server::{ClientOptions, Need, Right, RouteInfo, ServerOptions, TokenDigest, TokenFile, routes};

use crate::client::{Answer, Client, request};
use crate::fixture::{Fixture, until, x, y};

pub const BEST_EFFORT: &str = "token-of-best-effort";
pub const REAL_TIME: &str = "token-of-real-time";
pub const ADMIN: &str = "token-of-the-admin";
pub const METRICS: &str = "token-of-metrics";

const INFER: &str = r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#;

fn client(name: &str, token: &str, allow: &[Right]) -> ClientOptions {
    let mut client = ClientOptions::new(name);
    client.tokens.push(TokenDigest::of(token).unwrap());
    client.allow = allow.to_vec();
    client
}

pub fn clients(options: &mut ServerOptions) {
    let mut best_effort = client("be", BEST_EFFORT, &[Right::Infer]);
    best_effort.class_max = Class::BestEffort;
    options.access.clients = vec![
        best_effort,
        client("rt", REAL_TIME, &[Right::Infer]),
        client("admin", ADMIN, &[Right::Admin]),
        client("metrics", METRICS, &[Right::Metrics]),
    ];
}

fn ask(fixture: &Fixture, token: Option<&str>, method: &str, path: &str, body: &str) -> Answer {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("Authorization", &**bearer)).collect();
    fixture.client().request(method, path, &headers, body.as_bytes())
}

/// Whether what is needed is granted to: nobody, wrong credentials, best-effort, real-time, admin, metrics.
pub fn granted(need: Need) -> [bool; 6] {
    match need {
        Need::Nothing | Need::Health => [true, true, true, true, true, true],
        Need::Metrics => [false, false, false, false, false, true],
        Need::Read => [false, false, true, true, true, false],
        Need::Infer => [false, false, true, true, false, false],
        Need::Admin => [false, false, false, false, true, false],
    }
}

/// What is asked over a path that takes inferences.
fn body(path: &str) -> &'static str {
    if path.contains("predict") { r#"{"instances":[[1,2],[3,4]]}"# } else { INFER }
}

const WRONG: &str = "token-of-nobody-known";

/// Everybody: nobody, wrong credentials, best-effort, real-time, admin, metrics.
const EVERYBODY: [Option<&str>; 6] =
    [None, Some(WRONG), Some(BEST_EFFORT), Some(REAL_TIME), Some(ADMIN), Some(METRICS)];

/// Asks as everybody; statuses are as `need` says, and else whatever `allowed` takes.
fn check_need(address: SocketAddr, method: &str, path: &str, need: Need, allowed: impl Fn(u16) -> bool) {
    for (token, granted) in EVERYBODY.iter().zip(granted(need)) {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("Authorization", &**bearer)).collect();
        let mut client = Client::connect(address);
        let status = match method {
            "HEAD" => client.head_with(path, &headers),
            _ => {
                let answer = client.request(method, path, &headers, body(path).as_bytes());
                let asked = answer.headers.get("www-authenticate").map(|asked| &**asked);
                assert_eq!(asked, (answer.status == 401).then_some("Bearer realm=\"reef\""), "{path}");
                answer.status
            }
        };
        let what = format!("{token:?} {method} {path}: {status}");
        match (granted, token.is_some_and(|token| token != WRONG)) {
            (true, _) => assert!(![401, 403].contains(&status) && allowed(status), "{what}"),
            (false, true) => assert_eq!(status, 403, "{what}"),
            (false, false) => assert_eq!(status, 401, "{what}"),
        }
    }
}

#[test]
fn every_route_is_protected_as_its_need_says() {
    let fixture = Fixture::with(clients);
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let http = fixture.running().http_addr();
    let all = routes();
    let mut needs = BTreeSet::new();
    for route in &all {
        needs.insert(format!("{:?}", route.need));
        check_need(http, route.method, route.path, route.need, |_| true);
    }
    assert!(all.len() >= 39, "{all:?}");
    assert!(
        ["Nothing", "Health", "Metrics", "Read", "Infer", "Admin"].iter().all(|need| needs.contains(*need)),
        "{needs:?}"
    );
    // Nothing but what was allowed has run: two clients, over three paths.
    fixture.wait_for("m", |class| class.success, 6);
}

#[test]
fn other_ways_to_a_route_need_the_same_or_lead_nowhere() {
    let fixture = Fixture::with(clients);
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let http = fixture.running().http_addr();
    for route in routes() {
        let RouteInfo { method, path, need } = route;
        let host = format!("http://{http}{path}");
        let mut same = vec![format!("{path}?a=b"), host];
        if path != "/" {
            same.push(format!("{path}/"));
        }
        if path.contains("/m") {
            let encoded = path.replacen("/m/", "/%6d/", 1).replacen("/r/", "/%72/", 1);
            same.push(encoded.replacen("/m:", "/%6d:", 1));
        }
        for path in &same {
            check_need(http, method, path, need, |_| true);
        }
        if method == "GET" {
            check_need(http, "HEAD", path, need, |_| true);
        }
        // Nobody gets anywhere by these, with whatever credentials.
        let upper = path.to_ascii_uppercase();
        let encoded =
            path.replacen("v2", "%762", 1).replacen("v1", "%761", 1).replacen("metrics", "%6detrics", 1);
        let elsewhere = [format!("/{path}"), format!("{path}//"), format!("/.{path}"), upper, encoded];
        for other in elsewhere.iter().filter(|other| *other != path && path != "/") {
            let status = ask(&fixture, Some(ADMIN), method, other, INFER).status;
            assert!([403, 404].contains(&status), "{method} {other}: {status}");
            let status = ask(&fixture, None, method, other, INFER).status;
            assert!([401, 404].contains(&status), "{method} {other}: {status}");
        }
        let taken: Vec<&str> =
            routes().iter().filter(|other| other.path == path).map(|other| other.method).collect();
        for other in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "X"] {
            if !taken.contains(&other) {
                let status = ask(&fixture, Some(ADMIN), other, path, "").status;
                assert_eq!(status, 405, "{other} {path}");
            }
        }
    }
}

#[test]
fn the_metrics_port_protects_what_it_serves_and_serves_nothing_else() {
    let fixture = Fixture::with(clients);
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let metrics = fixture.running().metrics_addr().unwrap();
    for RouteInfo { method, path, need } in routes() {
        let serves = matches!(need, Need::Nothing | Need::Health | Need::Metrics);
        check_need(metrics, method, path, need, |status| serves == (status != 404));
    }
    fixture.wait_for("m", |class| class.success + class.pending(), 0);
}

#[test]
fn an_open_server_and_an_open_route_care_for_no_credentials() {
    let basic = [("authorization", "Basic YTpi"), ("x-api-key", "k")];
    let open = Fixture::with_m();
    let get = |fixture: &Fixture, path| fixture.client().request("GET", path, &basic, &[]).status;
    assert_eq!((get(&open, "/v2"), get(&open, "/v2/health/live")), (200, 200));
    let infer = open.client().request("POST", "/v2/models/m/infer", &basic, INFER.as_bytes());
    assert_eq!(infer.status, 200);
    let closed = Fixture::with(clients);
    assert_eq!((get(&closed, "/v2"), get(&closed, "/v2/health/live")), (401, 200));
}

#[test]
fn a_request_inside_another_needs_its_own_credentials() {
    let fixture = Fixture::with(clients);
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let inner = "POST /v2/models/m/infer HTTP/1.1\r\nhost: t\r\ncontent-length: 0\r\n\r\n";
    let key = format!("x-api-key: {REAL_TIME}\r\n");
    let outer = |headers: &str, body: &str| {
        format!("POST /v2/repository/index HTTP/1.1\r\nhost: t\r\n{key}{headers}\r\n{body}{inner}")
    };
    // Lengths that nobody can trust: nothing behind them is served.
    let refused = [
        outer("content-length: 0\r\ncontent-length: 3\r\n", ""),
        outer("content-length: +0\r\n", ""),
        outer("content-length: 0, 0\r\n", ""),
        outer("transfer-encoding: chunked, identity\r\n", "0\r\n\r\n"),
        outer("transfer-encoding : chunked\r\n", "0\r\n\r\n"),
    ];
    for text in refused {
        let mut client = fixture.client();
        client.send(text.as_bytes());
        assert_eq!(client.answer().status, 400, "{text}");
        assert!(client.is_closed(), "{text}");
    }
    // Where it ends is clear, and the next one has no credentials. After one that states a length besides its
    // chunks nothing is read: somebody before the server may have believed it.
    let length = format!("content-length: {}\r\n", 5 + inner.len());
    let chunked = "transfer-encoding: chunked\r\n";
    for (headers, body) in [("content-length: 0\r\n", ""), (chunked, "0\r\n\r\n")] {
        let mut client = fixture.client();
        client.send(outer(headers, body).as_bytes());
        assert_eq!((client.answer().status, client.answer().status), (200, 401), "{headers}");
    }
    for headers in [format!("{length}{chunked}"), format!("{chunked}{length}")] {
        let mut client = fixture.client();
        client.send(outer(&headers, "0\r\n\r\n").as_bytes());
        assert_eq!(client.answer().status, 200, "{headers}");
        assert!(client.is_closed(), "{headers}");
    }
    fixture.wait_for("m", |class| class.success + class.pending(), 0);
}

#[test]
fn the_metrics_port_asks_for_credentials_too() {
    let fixture = Fixture::with(clients);
    let mut metrics = Client::connect(fixture.running().metrics_addr().unwrap());
    assert_eq!(metrics.get("/metrics").status, 401);
    assert_eq!(metrics.get("/v2/health/live").status, 200);
    assert_eq!(metrics.request("GET", "/metrics", &[("X-API-Key", METRICS)], &[]).status, 200);
    let hidden = Fixture::with(|options| {
        clients(options);
        options.access.public_health = false;
        options.access.public_metrics = true;
    });
    let mut open = Client::connect(hidden.running().metrics_addr().unwrap());
    assert_eq!((open.get("/metrics").status, open.get("/v2/health/live").status), (200, 401));
    assert_eq!(open.request("GET", "/v2/health/live", &[("X-API-Key", METRICS)], &[]).status, 200);
}

#[test]
fn a_refusal_reads_no_body_and_the_connection_goes_on() {
    let fixture = Fixture::with(clients);
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let mut client = fixture.client();
    let refused = client.request("POST", "/v2/models/m/infer", &[], INFER.as_bytes());
    assert_eq!(refused.status, 401);
    let allowed = [("x-api-key", REAL_TIME)];
    assert_eq!(client.request("POST", "/v2/models/m/infer", &allowed, INFER.as_bytes()).status, 200);
    // It is told at once, though the body that it announces never comes.
    let mut promises = fixture.client();
    promises.send(b"POST /v2/models/m/infer HTTP/1.1\r\nhost: t\r\ncontent-length: 1000000\r\n\r\n");
    assert_eq!(promises.answer().status, 401);
    assert_eq!(fixture.client().may_send("/v2/models/m/infer", 100), 401);
}

fn with(parameters: &str) -> String {
    INFER.replace(r#"{"inputs""#, &format!(r#"{{"parameters":{{{parameters}}},"inputs""#))
}

#[test]
fn a_class_beyond_the_clients_is_refused_and_the_models_own_is_capped() {
    let fixture = Fixture::with(|options| {
        clients(options);
        options.access.clients[1].class_max = Class::RealTime(Level::new(2).unwrap());
    });
    fixture.model("m", &[x()], &[y()], ModelSettings::real_time(Level::TOP));
    let infer =
        |token, parameters: &str| ask(&fixture, Some(token), "POST", "/v2/models/m/infer", &with(parameters));
    let class = |answer: Answer| {
        let parameters = answer.json()["parameters"].clone();
        (parameters["class"].as_str().unwrap().to_string(), parameters["priority"].as_u64())
    };
    assert_eq!(class(infer(BEST_EFFORT, "")), ("best-effort".into(), None));
    assert_eq!(class(infer(REAL_TIME, "")), ("real-time".into(), Some(3)));
    assert_eq!(class(infer(REAL_TIME, r#""class":"real-time""#)), ("real-time".into(), Some(3)));
    assert_eq!(class(infer(REAL_TIME, r#""priority":5"#)), ("real-time".into(), Some(5)));
    for (token, parameters) in [
        (BEST_EFFORT, r#""class":"real-time""#),
        (BEST_EFFORT, r#""priority":7"#),
        (REAL_TIME, r#""priority":2"#),
    ] {
        let refused = infer(token, parameters);
        assert_eq!(refused.status, 403, "{parameters}: {}", refused.text());
    }
    // A raw request asks for nothing, and is capped as well.
    let raw = [("x-api-key", BEST_EFFORT), ("Inference-Header-Content-Length", "0")];
    let answer = fixture.client().request("POST", "/v2/models/m/infer", &raw, &[0; 16]);
    assert_eq!(answer.json()["parameters"]["class"], "best-effort");
}

#[test]
fn models_that_a_client_may_not_use_are_not_there_for_it() {
    let fixture = Fixture::with(|options| {
        clients(options);
        options.access.clients[1].models = vec!["own-*".into()];
    });
    for name in ["m", "own-a"] {
        fixture.model(name, &[x()], &[y()], ModelSettings::default());
    }
    let get = |path: &str| ask(&fixture, Some(REAL_TIME), "GET", path, "");
    for model in ["m", "none", "%6d"] {
        for rest in ["", "/ready", "/config", "/stats", "/versions/1"] {
            assert_eq!(get(&format!("/v2/models/{model}{rest}")).status, 403, "{model}{rest}");
        }
        assert_eq!(get(&format!("/v1/models/{model}")).status, 403, "{model}");
        for verb in ["predict", "explain"] {
            let path = format!("/v1/models/{model}:{verb}");
            assert_eq!(ask(&fixture, Some(REAL_TIME), "POST", &path, body(&path)).status, 403, "{path}");
        }
        let path = format!("/v2/models/{model}/infer");
        assert_eq!(ask(&fixture, Some(REAL_TIME), "POST", &path, INFER).status, 403, "{model}");
    }
    assert_eq!(get("/v2/models/own-a").status, 200);
    assert_eq!(get("/v2/models/own-b").status, 404);
    let stats = get("/v2/models/stats").json();
    let names: Vec<&str> =
        stats["model_stats"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["own-a"]);
    assert_eq!(get("/v1/models").json()["models"], serde_json::json!(["own-a"]));
    let index = ask(&fixture, Some(REAL_TIME), "POST", "/v2/repository/index", "").json();
    assert_eq!(index.as_array().unwrap().len(), 1);
    assert_eq!(ask(&fixture, Some(ADMIN), "POST", "/v2/repository/index", "").json()[1]["name"], "own-a");
}

#[test]
fn a_client_has_its_rate_and_its_requests_in_flight() {
    let fixture = Fixture::with(|options| {
        clients(options);
        let limited = &mut options.access.clients[0];
        (limited.requests_per_s, limited.burst) = (Some(0.001), Some(2));
        options.access.clients[1].in_flight_max = Some(1);
    });
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let infer = |token| ask(&fixture, Some(token), "POST", "/v2/models/m/infer", INFER);
    assert_eq!([infer(BEST_EFFORT).status, infer(BEST_EFFORT).status], [200, 200]);
    let refused = infer(BEST_EFFORT);
    assert_eq!(refused.status, 429, "{}", refused.text());
    // The engine's clock has hardly moved.
    assert_eq!(refused.headers["retry-after"], "1000");
    fixture.gate.freeze();
    let mut runs = fixture.client();
    let key = [("x-api-key", REAL_TIME)];
    runs.send(&request("POST", "/v2/models/m/infer", &key, INFER.as_bytes()));
    fixture.wait_for("m", ClassStats::pending, 1);
    let refused = infer(REAL_TIME);
    assert_eq!((refused.status, &*refused.headers["retry-after"]), (429, "1"));
    fixture.gate.flow();
    assert_eq!(runs.answer().status, 200);
    assert_eq!(infer(REAL_TIME).status, 200);
    // A client that leaves gives its place back.
    fixture.gate.freeze();
    runs.send(&request("POST", "/v2/models/m/infer", &key, INFER.as_bytes()));
    fixture.wait_for("m", ClassStats::pending, 1);
    drop(runs);
    fixture.gate.wait_for_cancels(1);
    fixture.gate.flow();
    fixture.wait_for("m", ClassStats::pending, 0);
    // Its place is free when what served it has gone as well.
    until(|| infer(REAL_TIME).status == 200);
}

#[test]
fn tokens_are_read_again_while_clients_are_connected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    let (old, new) = ("old-token-of-trainer", "new-token-of-trainer");
    std::fs::write(&path, old).unwrap();
    let fixture = Fixture::with(|options| {
        let mut client = ClientOptions::new("trainer");
        client.token_file = Some(TokenFile::read(&path).unwrap());
        options.access.clients = vec![client];
    });
    let mut connection = fixture.client();
    let mut statuses =
        || [old, new].map(|token| connection.request("GET", "/v2", &[("x-api-key", token)], &[]).status);
    assert_eq!(statuses(), [200, 401]);
    std::fs::write(&path, new).unwrap();
    fixture.running().reload_tokens();
    assert_eq!(statuses(), [401, 200]);
    // Without a word it is looked at as well, every second.
    std::fs::write(&path, old).unwrap();
    until(|| statuses() == [200, 401]);
}

#[test]
fn another_protocol_at_a_port_gets_nothing_and_harms_nobody() {
    let fixture = Fixture::with(clients);
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let key = [("x-api-key", REAL_TIME)];
    let mut at_grpc = Client::connect(fixture.running().grpc_addr().unwrap());
    at_grpc.send(&request("POST", "/v2/models/m/infer", &key, INFER.as_bytes()));
    // What a server of HTTP/2 says first, and then that this is none: no answer of HTTP/1.
    let mut said = Vec::new();
    let _ = at_grpc.stream.read_to_end(&mut said);
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    let mut at_http = fixture.client();
    at_http.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    said.clear();
    let _ = at_http.stream.read_to_end(&mut said);
    assert!(
        said.is_empty() || said.starts_with(b"HTTP/1.1 4") || said.starts_with(b"HTTP/1.1 505"),
        "{said:?}"
    );
    assert_eq!(fixture.client().request("POST", "/v2/models/m/infer", &key, INFER.as_bytes()).status, 200);
    assert!(fixture.grpc().raw("/grpc.health.v1.Health/Check", b"").is_ok());
}
