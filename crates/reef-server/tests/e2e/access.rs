//! Every route with every kind of credentials; classes and limits of clients.

use std::collections::BTreeSet;

use reef_engine::{Class, ClassStats, Level, ModelSettings};
use reef_server::{ClientOptions, Need, Right, ServerOptions, TokenDigest, routes};

use crate::client::{Answer, Client, request};
use crate::fixture::{Fixture, x, y};

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

#[test]
fn every_route_is_protected_as_its_need_says() {
    let fixture = Fixture::with(clients);
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let wrong = "token-of-nobody-known";
    let credentials = [None, Some(wrong), Some(BEST_EFFORT), Some(REAL_TIME), Some(ADMIN), Some(METRICS)];
    let all = routes();
    assert!(all.len() >= 21, "{all:?}");
    let mut needs = BTreeSet::new();
    for route in &all {
        needs.insert(format!("{:?}", route.need));
        for (token, granted) in credentials.iter().zip(granted(route.need)) {
            let answer = ask(&fixture, *token, route.method, route.path, INFER);
            let known = token.is_some_and(|token| token != wrong);
            let what = format!("{token:?} {} {}: {}", route.method, route.path, answer.status);
            match (granted, known) {
                (true, _) => assert!(![401, 403].contains(&answer.status), "{what}"),
                (false, true) => assert_eq!(answer.status, 403, "{what}"),
                (false, false) => {
                    assert_eq!(answer.status, 401, "{what}");
                    assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"reef\"");
                }
            }
        }
    }
    assert!(
        ["Nothing", "Health", "Metrics", "Read", "Infer", "Admin"].iter().all(|need| needs.contains(*need)),
        "{needs:?}"
    );
    // Nothing but what was allowed has run.
    fixture.wait_for("m", |class| class.success, 2);
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
        let path = format!("/v2/models/{model}/infer");
        assert_eq!(ask(&fixture, Some(REAL_TIME), "POST", &path, INFER).status, 403, "{model}");
    }
    assert_eq!(get("/v2/models/own-a").status, 200);
    assert_eq!(get("/v2/models/own-b").status, 404);
    let stats = get("/v2/models/stats").json();
    let names: Vec<&str> =
        stats["model_stats"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["own-a"]);
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
    let after: u64 = refused.headers["retry-after"].parse().unwrap();
    assert!((1..=1000).contains(&after), "{after}");
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
    assert_eq!(infer(REAL_TIME).status, 200);
}
