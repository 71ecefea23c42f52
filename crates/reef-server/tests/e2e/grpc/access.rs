//! Every RPC with every kind of credentials; models, classes and limits of clients.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use reef_engine::{ClassStats, ModelSettings};
use reef_server::{ClientOptions, Need, TokenFile, rpcs};
use tonic::codegen::Service;
use tonic::{Code, Request, Status};

use super::client::pb::infer_parameter::ParameterChoice;
use super::client::pb::trace_setting_request::SettingValue;
use super::client::pb::{
    LogSettingsRequest, ModelConfigRequest, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest,
    ModelStatisticsRequest, RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest,
    TraceSettingRequest, log_settings_request,
};
use super::client::{Grpc, Raw, floats, good, raw_request, refused, tensor, with};
use super::stream::open_as;
use crate::access::{ADMIN, BEST_EFFORT, METRICS, REAL_TIME, clients, granted};
use crate::fixture::{Fixture, until, x, y};

const SERVICE: &str = "/inference.GRPCInferenceService";

/// The first message of an RPC's answer, to one message.
fn ask(client: &Grpc, token: Option<&str>, path: &str, message: &[u8]) -> Result<Option<Bytes>, Status> {
    let mut request = Request::new(Bytes::copy_from_slice(message));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let path = path.parse().unwrap();
    let channel = client.channel.clone();
    client.block_on(async move {
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
        let mut answers = client.server_streaming(request, path, Raw).await?.into_inner();
        answers.message().await
    })
}

/// As [`ask`], of the inference service.
fn asked(client: &Grpc, token: &str, rpc: &str, message: &impl Message) -> Result<Option<Bytes>, Status> {
    ask(client, Some(token), &format!("{SERVICE}/{rpc}"), &message.encode_to_vec())
}

fn infer(client: &Grpc, token: &str, request: ModelInferRequest) -> Result<Option<Bytes>, Status> {
    asked(client, token, "ModelInfer", &request)
}

#[test]
fn every_rpc_is_protected_as_its_need_says() {
    let fixture = Fixture::with(clients);
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let client = fixture.grpc();
    let wrong = "token-of-nobody-known";
    let credentials = [None, Some(wrong), Some(BEST_EFFORT), Some(REAL_TIME), Some(ADMIN), Some(METRICS)];
    let all = rpcs();
    assert!(all.len() >= 24, "{all:?}");
    let mut needs = BTreeSet::new();
    for rpc in &all {
        needs.insert(format!("{:?}", rpc.need));
        for (token, granted) in credentials.iter().zip(granted(rpc.need)) {
            let code = ask(&client, *token, &rpc.path, b"").map_or_else(|status| status.code(), |_| Code::Ok);
            let known = token.is_some_and(|token| token != wrong);
            let what = format!("{token:?} {}: {code:?}", rpc.path);
            match (granted, known) {
                (true, _) => {
                    assert!(![Code::Unauthenticated, Code::PermissionDenied].contains(&code), "{what}");
                }
                (false, true) => assert_eq!(code, Code::PermissionDenied, "{what}"),
                (false, false) => assert_eq!(code, Code::Unauthenticated, "{what}"),
            }
        }
    }
    assert!(["Health", "Read", "Infer", "Admin"].iter().all(|need| needs.contains(*need)), "{needs:?}");
    assert!(all.iter().all(|rpc| rpc.need != Need::Nothing), "nothing is for everybody");
    // What is not there is not there, whoever asks.
    for path in ["/inference.GRPCInferenceService/None", "/none/ModelInfer"] {
        refused(ask(&client, None, path, b""), Code::Unimplemented, "there is no RPC");
    }
}

#[test]
fn a_key_is_as_good_as_a_token_and_two_are_none() {
    let fixture = Fixture::with(clients);
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let client = fixture.grpc();
    let mut stub = client.client.clone();
    let mut send = |headers: &[(&'static str, &str)]| {
        let mut request = Request::new(good("m"));
        for (name, value) in headers {
            request.metadata_mut().append(*name, value.parse().unwrap());
        }
        client.block_on(stub.model_infer(request))
    };
    assert!(send(&[("x-api-key", REAL_TIME)]).is_ok());
    refused(send(&[]), Code::Unauthenticated, "this needs credentials");
    refused(send(&[("authorization", "Basic YTpi")]), Code::Unauthenticated, "only bearer tokens");
    let bearer = format!("Bearer {ADMIN}");
    let both = [("x-api-key", REAL_TIME), ("authorization", &*bearer)];
    refused(send(&both), Code::Unauthenticated, "more than one");
}

#[test]
fn settings_are_read_by_any_client_and_changed_by_an_admin() {
    let fixture = Fixture::with(clients);
    let client = fixture.grpc();
    let mut trace = TraceSettingRequest::default();
    let mut log = LogSettingsRequest::default();
    assert!(asked(&client, REAL_TIME, "TraceSetting", &trace).is_ok());
    trace.settings.insert("trace_level".into(), SettingValue { value: vec!["OFF".into()] });
    log.settings.insert("log_info".into(), log_settings_request::SettingValue::default());
    refused(asked(&client, REAL_TIME, "TraceSetting", &trace), Code::PermissionDenied, "'rt' may not");
    refused(asked(&client, REAL_TIME, "LogSettings", &log), Code::PermissionDenied, "'rt' may not");
    assert!(asked(&client, ADMIN, "TraceSetting", &trace).is_ok());
    let log = asked(&client, ADMIN, "LogSettings", &log).unwrap_err();
    assert_ne!(log.code(), Code::PermissionDenied, "{log:?}");
}

#[test]
fn models_that_a_client_may_not_use_are_not_there_for_it() {
    let fixture = Fixture::with(|options| {
        clients(options);
        options.access.clients[1].models = vec!["own-*".into()];
        options.access.clients[2].models = vec!["own-*".into()];
    });
    for name in ["m", "own-a"] {
        fixture.model(name, &[x()], &[y()], ModelSettings::default());
    }
    let client = fixture.grpc();
    let health = |token, service: &str| {
        // A message with the name as its first field.
        let message = [&[0x0A, service.len() as u8], service.as_bytes()].concat();
        ask(&client, token, "/grpc.health.v1.Health/Check", &message)
    };
    for name in ["m", "none"] {
        let (model, version) = (name.to_string(), String::new());
        let hidden = |answer| refused(answer, Code::PermissionDenied, "may not use the model");
        let read = |rpc, message: &dyn Fn() -> Vec<u8>| {
            hidden(ask(&client, Some(REAL_TIME), &format!("{SERVICE}/{rpc}"), &message()));
        };
        let (n, v) = (&model, &version);
        read("ModelReady", &|| ModelReadyRequest { name: n.clone(), version: v.clone() }.encode_to_vec());
        read("ModelMetadata", &|| {
            ModelMetadataRequest { name: n.clone(), version: v.clone() }.encode_to_vec()
        });
        read("ModelConfig", &|| ModelConfigRequest { name: n.clone(), version: v.clone() }.encode_to_vec());
        let statistics = || ModelStatisticsRequest { name: n.clone(), version: v.clone() }.encode_to_vec();
        read("ModelStatistics", &statistics);
        let trace = || TraceSettingRequest { model_name: n.clone(), ..Default::default() }.encode_to_vec();
        read("TraceSetting", &trace);
        hidden(infer(&client, REAL_TIME, good(name)));
        // A large message is looked up before all of it is there.
        let large = raw_request(name, vec![tensor("x", "FP32", &[50_000])], vec![floats(&[0.0; 50_000])]);
        hidden(infer(&client, REAL_TIME, large));
        hidden(health(Some(REAL_TIME), name));
        hidden(health(Some(REAL_TIME), &format!("{name}/1")));
        let load = RepositoryModelLoadRequest { model_name: name.into(), ..Default::default() };
        hidden(asked(&client, ADMIN, "RepositoryModelLoad", &load));
        let unload = RepositoryModelUnloadRequest { model_name: name.into(), ..Default::default() };
        hidden(asked(&client, ADMIN, "RepositoryModelUnload", &unload));
        refused(health(None, name), Code::Unauthenticated, "this needs credentials");
    }
    assert!(infer(&client, REAL_TIME, good("own-a")).is_ok());
    assert!(health(Some(REAL_TIME), "own-a/1").is_ok());
    refused(health(Some(REAL_TIME), "own-b"), Code::NotFound, "no model");
    assert!(health(None, "").is_ok());
    let index = asked(&client, REAL_TIME, "RepositoryIndex", &RepositoryIndexRequest::default());
    let index = super::client::pb::RepositoryIndexResponse::decode(index.unwrap().unwrap()).unwrap();
    let names: Vec<&str> = index.models.iter().map(|model| &*model.name).collect();
    assert_eq!(names, ["own-a"]);
    let stats = asked(&client, REAL_TIME, "ModelStatistics", &ModelStatisticsRequest::default());
    let stats = super::client::pb::ModelStatisticsResponse::decode(stats.unwrap().unwrap()).unwrap();
    let names: Vec<&str> = stats.model_stats.iter().map(|model| &*model.name).collect();
    assert_eq!(names, ["own-a"]);
}

#[test]
fn each_request_of_a_stream_is_checked() {
    let fixture = Fixture::with(|options| {
        clients(options);
        let limited = &mut options.access.clients[0];
        (limited.requests_per_s, limited.burst) = (Some(0.001), Some(4));
        limited.models = vec!["m".into()];
    });
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let client = fixture.grpc();
    let mut stream = open_as(&client, Some(BEST_EFFORT));
    let mut answer = |request| {
        stream.send(request);
        stream.next(&client).unwrap().unwrap().error_message
    };
    let urgent = with(good("m"), "class", ParameterChoice::StringParam("real-time".into()));
    assert_eq!(answer(good("m")), "");
    assert!(answer(urgent).contains("'be' may ask for best-effort at most"));
    assert!(answer(good("n")).contains("'be' may not use the model 'n'"));
    assert_eq!(answer(good("m")), "");
    assert!(answer(good("m")).contains("'be' asks more often"));
    assert!(answer(good("m")).contains("'be' asks more often"));
}

#[test]
fn a_client_has_its_rate_and_its_requests_in_flight() {
    let fixture = Fixture::with(|options| {
        clients(options);
        let limited = &mut options.access.clients[0];
        (limited.requests_per_s, limited.burst) = (Some(0.001), Some(1));
        options.access.clients[1].in_flight_max = Some(1);
    });
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let client = fixture.grpc();
    let urgent = with(good("m"), "class", ParameterChoice::StringParam("real-time".into()));
    refused(infer(&client, BEST_EFFORT, urgent), Code::PermissionDenied, "best-effort at most");
    refused(infer(&client, BEST_EFFORT, good("m")), Code::ResourceExhausted, "asks more often");
    fixture.gate.freeze();
    let mut request = Request::new(good("m"));
    request.metadata_mut().insert("x-api-key", REAL_TIME.parse().unwrap());
    let runs = client.send(request);
    fixture.wait_for("m", ClassStats::pending, 1);
    refused(infer(&client, REAL_TIME, good("m")), Code::ResourceExhausted, "1 requests in flight");
    // An RPC that is given up gives its place back.
    runs.abort();
    fixture.gate.wait_for_cancels(1);
    fixture.gate.flow();
    fixture.wait_for("m", ClassStats::pending, 0);
    // Its place is free when what served it has gone as well.
    until(|| infer(&client, REAL_TIME, good("m")).is_ok());
}

#[test]
fn what_is_not_grpc_reaches_no_rpc() {
    let fixture = Fixture::with(clients);
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    let client = fixture.grpc();
    let status = |method: &str, path: &str, kind: Option<&str>| {
        let mut request = hyper::Request::builder().method(method).uri(path).header("x-api-key", REAL_TIME);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let request = request.body(tonic::body::Body::empty()).unwrap();
        let mut channel = client.channel.clone();
        client.block_on(async move {
            std::future::poll_fn(|context| Service::poll_ready(&mut channel, context)).await.unwrap();
            channel.call(request).await.unwrap().status().as_u16()
        })
    };
    for rpc in rpcs() {
        for kind in [
            None,
            Some("application/grpc-web"),
            Some("application/grpc-web+proto"),
            Some("application/grpc-web-text"),
            Some("application/grpc+json"),
            Some("application/grpcx"),
            Some("Application/octet-stream"),
        ] {
            assert_eq!(status("POST", &rpc.path, kind), 415, "{} {kind:?}", rpc.path);
        }
        for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"] {
            assert_eq!(status(method, &rpc.path, Some("application/grpc")), 405, "{method} {}", rpc.path);
        }
    }
    let infer = format!("{SERVICE}/ModelInfer");
    for kind in
        ["application/grpc", "application/grpc+proto", "application/grpc;a=b", "application/grpc+proto; a=b"]
    {
        assert_eq!(status("POST", &infer, Some(kind)), 200, "{kind}");
    }
    fixture.wait_for("m", |class| class.success + class.pending(), 0);
}

#[test]
fn other_paths_to_an_rpc_need_the_same_or_lead_nowhere() {
    let fixture = Fixture::with(clients);
    let client = fixture.grpc();
    for rpc in rpcs() {
        let path = &rpc.path;
        let upper = path.to_ascii_uppercase();
        let others =
            [format!("{path}/"), format!("{path}%20"), upper, path.replacen("Service", "Servic%65", 1)];
        for other in others.iter().filter(|other| *other != path) {
            for token in [None, Some(ADMIN)] {
                let code = ask(&client, token, other, b"").map_or_else(|status| status.code(), |_| Code::Ok);
                let closed = [Code::Unimplemented, Code::Unauthenticated, Code::PermissionDenied];
                assert!(closed.contains(&code), "{token:?} {other}: {code:?}");
            }
        }
        let code =
            |path: &str| ask(&client, None, path, b"").map_or_else(|status| status.code(), |_| Code::Ok);
        let (slashes, same) = (code(&format!("/{path}")), code(path));
        assert!(slashes == same || slashes == Code::Unimplemented, "{path}: {slashes:?}");
    }
}

/// A stream of the client whose tokens are in this file.
fn with_file(tokens: &std::path::Path) -> Fixture {
    let fixture = Fixture::with(|options| {
        let mut client = ClientOptions::new("trainer");
        client.token_file = Some(TokenFile::read(tokens).unwrap());
        options.access.clients = vec![client];
    });
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    fixture
}

#[test]
fn streams_end_when_their_token_counts_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    let (old, new) = ("old-token-of-trainer", "new-token-of-trainer");
    std::fs::write(&tokens, format!("{old}\n{new}")).unwrap();
    let fixture = with_file(&tokens);
    let client = fixture.grpc();
    let [mut idle, mut runs] = [old; 2].map(|token| open_as(&client, Some(token)));
    let mut other = open_as(&client, Some(new));
    // Of another service, of which the first answer has come.
    let mut watch = client.block_on(async {
        let mut request = Request::new(Bytes::from_static(b"\x0a\x01m"));
        request.metadata_mut().insert("x-api-key", old.parse().unwrap());
        let mut stub = tonic::client::Grpc::new(client.channel.clone());
        stub.ready().await.unwrap();
        let path = "/grpc.health.v1.Health/Watch".parse().unwrap();
        let mut states = stub.server_streaming(request, path, Raw).await.unwrap().into_inner();
        assert!(states.message().await.unwrap().is_some());
        states
    });
    fixture.gate.freeze();
    runs.send(good("m"));
    fixture.wait_for("m", ClassStats::pending, 1);
    // A token more changes nothing.
    std::fs::write(&tokens, format!("{old}\n{new}\nanother-token-of-trainer")).unwrap();
    fixture.running().reload_tokens();
    std::fs::write(&tokens, new).unwrap();
    fixture.running().reload_tokens();
    let counts_no_more = |ended: Status| {
        assert_eq!(ended.code(), Code::Unauthenticated, "{ended:?}");
        assert!(ended.message().contains("'trainer' was known counts no more"), "{ended:?}");
    };
    counts_no_more(idle.next(&client).unwrap_err());
    counts_no_more(client.block_on(watch.message()).unwrap_err());
    // What comes now is not taken, what has begun is answered.
    runs.send(good("m"));
    fixture.gate.flow();
    assert_eq!(runs.next(&client).unwrap().unwrap().error_message, "");
    counts_no_more(runs.next(&client).unwrap_err());
    other.send(good("m"));
    assert_eq!(other.next(&client).unwrap().unwrap().error_message, "");
    fixture.wait_for("m", |class| class.success, 2);
}

/// It is looked at without a word.
#[test]
fn a_token_that_is_taken_out_of_its_file_ends_streams_soon() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, "old-token-of-trainer").unwrap();
    let fixture = with_file(&tokens);
    let client = fixture.grpc();
    let mut stream = open_as(&client, Some("old-token-of-trainer"));
    std::fs::write(&tokens, "new-token-of-trainer").unwrap();
    assert_eq!(stream.next(&client).unwrap_err().code(), Code::Unauthenticated);
}
