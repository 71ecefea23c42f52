//! The server, its models and their repository, as HTTP tells of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt as _;
use reef_engine::{DType, ModelKey, ModelSettings};
use reef_server::{ControlError, LoadRequest, ModelControl};
use serde_json::json;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::client::pb::model_repository_parameter::ParameterChoice;
use super::client::pb::{
    CudaSharedMemoryRegisterRequest, DataType, ModelConfigRequest, ModelMetadataRequest, ModelReadyRequest,
    ModelRepositoryParameter, ModelStatisticsRequest, RepositoryIndexRequest, RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest, ServerMetadataRequest, SystemSharedMemoryRegisterRequest,
};
use super::client::{good, output, refused};
use crate::fixture::{Fixture, key, x, y};

#[test]
fn models_say_what_they_take() {
    let fixture = Fixture::with_m();
    fixture.model(
        "open",
        &[("x", DType::I64, &[-1, 3])],
        &[("y", DType::F16, &[-1])],
        ModelSettings::default(),
    );
    let grpc = fixture.grpc();
    let mut client = grpc.client.clone();
    let name = |name: &str| (name.to_string(), String::new());
    grpc.block_on(async {
        let (name, version) = name("open");
        let model = client.model_metadata(ModelMetadataRequest { name, version }).await.unwrap().into_inner();
        assert_eq!(
            (&*model.name, &model.versions[..], &*model.platform),
            ("open", &["1".into()][..], "reef_onnx")
        );
        assert_eq!((&*model.inputs[0].datatype, &model.inputs[0].shape[..]), ("INT64", &[-1i64, 3][..]));
        assert_eq!((&*model.outputs[0].datatype, &model.outputs[0].shape[..]), ("FP16", &[-1i64][..]));
    });
    grpc.block_on(async {
        let (name, version) = name("open");
        let config = client.model_config(ModelConfigRequest { name, version }).await.unwrap().into_inner();
        let config = config.config.unwrap();
        assert_eq!((&*config.backend, config.max_batch_size), ("reef", 0));
        assert_eq!(
            (config.input[0].data_type(), &config.input[0].dims[..]),
            (DataType::TypeInt64, &[-1i64, 3][..])
        );
        assert_eq!(config.output[0].data_type(), DataType::TypeFp16);
        assert_eq!(config.parameters["class"].string_value, "best-effort");
    });
    grpc.block_on(async {
        for (name, ready) in [("m", true), ("open", true), ("none", false)] {
            let request = ModelReadyRequest { name: name.into(), version: "1".into() };
            assert_eq!(client.model_ready(request).await.unwrap().into_inner().ready, ready);
        }
    });
}

#[test]
fn statistics_rise() {
    let fixture = Fixture::with_m();
    let grpc = fixture.grpc();
    (0..3).for_each(|_| drop(grpc.infer(good("m")).unwrap()));
    fixture.wait_for("m", |class| class.success, 3);
    let mut client = grpc.client.clone();
    for name in ["m", ""] {
        let request = ModelStatisticsRequest { name: name.into(), version: String::new() };
        let stats = grpc.block_on(async { client.model_statistics(request).await }).unwrap().into_inner();
        let model = &stats.model_stats[0];
        let times = model.inference_stats.as_ref().unwrap();
        let queue = times.queue.as_ref().unwrap();
        assert_eq!((&*model.name, model.inference_count, queue.count), ("m", 3, 3));
        assert!(times.success.as_ref().unwrap().ns > 0);
    }
}

/// Notes what it is asked.
#[derive(Debug, Default)]
struct Noted(Mutex<Vec<String>>);

impl ModelControl for Noted {
    fn load(&self, name: &str, request: LoadRequest) -> Result<(), ControlError> {
        if name == "none" {
            return Err(ControlError::Unknown("there is no model 'none' in the repository".into()));
        }
        let files: Vec<String> =
            request.files.iter().map(|(path, bytes)| format!("{path} {}", bytes.len())).collect();
        self.0.lock().unwrap().push(format!("load {name} {:?} {files:?}", request.config));
        Ok(())
    }

    fn unload(&self, name: &str, dependents: bool) -> Result<(), ControlError> {
        self.0.lock().unwrap().push(format!("unload {name} {dependents}"));
        Ok(())
    }

    fn index(&self) -> Vec<(ModelKey, String, String)> {
        vec![(key("m"), "READY".into(), String::new())]
    }

    fn config(&self, _name: &str, _version: Option<&str>) -> Option<serde_json::Value> {
        let input = json!({ "name": "x", "data_type": "TYPE_FP32", "dims": [2], "mine": 7 });
        Some(json!({ "name": "m", "max_batch_size": 4, "input": [input], "unknown": {},
            "dynamic_batching": { "preferred_batch_size": [2, 4], "max_queue_delay_microseconds": 100 } }))
    }
}

fn load(name: &str, parameters: &[(&str, ParameterChoice)]) -> RepositoryModelLoadRequest {
    let parameter = |(name, choice): &(&str, ParameterChoice)| {
        (name.to_string(), ModelRepositoryParameter { parameter_choice: Some(choice.clone()) })
    };
    let parameters: HashMap<_, _> = parameters.iter().map(parameter).collect();
    RepositoryModelLoadRequest { model_name: name.into(), parameters, ..Default::default() }
}

#[test]
fn models_are_loaded_and_unloaded_by_who_controls_them() {
    let fixture = Fixture::with_m();
    let grpc = fixture.grpc();
    let mut client = grpc.client.clone();
    let mut ask = |request| grpc.block_on(async { client.repository_model_load(request).await.map(|_| ()) });
    refused(ask(load("m", &[])), Code::Unavailable, "explicit model control is off");
    let noted = Arc::new(Noted::default());
    fixture.running().set_control(noted.clone());
    let bytes = ParameterChoice::BytesParam(Bytes::from_static(b"onnx"));
    let config = ParameterChoice::StringParam("{}".into());
    ask(load("m", &[("config", config.clone()), ("file:1/model.onnx", bytes.clone())])).unwrap();
    ask(load("m", &[])).unwrap();
    refused(ask(load("none", &[])), Code::NotFound, "no model 'none'");
    refused(ask(load("m", &[("config", bytes)])), Code::InvalidArgument, "'config': a text of JSON");
    refused(ask(load("m", &[("file:x", config.clone())])), Code::InvalidArgument, "'file:x': bytes");
    refused(ask(load("m", &[("mine", config)])), Code::InvalidArgument, "no parameter 'mine'");
    let elsewhere = RepositoryModelLoadRequest { repository_name: "r".into(), ..load("m", &[]) };
    refused(ask(elsewhere), Code::Unimplemented, "one repository");
    let dependents = ModelRepositoryParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
    let parameters = HashMap::from([("unload_dependents".into(), dependents)]);
    let unload = RepositoryModelUnloadRequest { model_name: "m".into(), parameters, ..Default::default() };
    let mut client = grpc.client.clone();
    grpc.block_on(async { client.repository_model_unload(unload).await }).unwrap();
    let asked = noted.0.lock().unwrap().clone();
    assert_eq!(asked[0], r#"load m Some("{}") ["1/model.onnx 4"]"#);
    assert_eq!(asked[1..], ["load m None []", "unload m true"]);
    // Its configuration is the model's, in both protocols; what the message lacks is left out.
    let request = ModelConfigRequest { name: "m".into(), version: String::new() };
    let config =
        grpc.block_on(async { client.model_config(request).await }).unwrap().into_inner().config.unwrap();
    assert_eq!(
        (config.max_batch_size, &config.dynamic_batching.unwrap().preferred_batch_size[..]),
        (4, &[2, 4][..])
    );
    assert_eq!(fixture.client().get("/v2/models/m/config").json()["max_batch_size"], 4);
    // With batches, classes are per row.
    let mut request = good("m");
    request.outputs = vec![output("y", Some(1))];
    assert_eq!(grpc.infer(request).unwrap().outputs[0].shape, [2, 1]);
}

#[test]
fn the_index_has_what_could_not_be_loaded() {
    let fixture = Fixture::with_m();
    fixture.running().set_unavailable(key("bad"), "it is broken".into());
    let grpc = fixture.grpc();
    let index = |ready| {
        let mut client = grpc.client.clone();
        let request = RepositoryIndexRequest { ready, ..Default::default() };
        grpc.block_on(async { client.repository_index(request).await }).unwrap().into_inner().models
    };
    assert_eq!(index(true).len(), 1);
    let all = index(false);
    assert_eq!((&*all[1].name, &*all[1].state, &*all[1].reason), ("bad", "UNAVAILABLE", "it is broken"));
    let mut bad = good("m");
    bad.model_name = "bad".into();
    refused(grpc.infer(bad), Code::Unavailable, "it is broken");
}

#[test]
fn what_is_not_supported_says_why() {
    let fixture = Fixture::with_m();
    let grpc = fixture.grpc();
    let mut client = grpc.client.clone();
    let request = CudaSharedMemoryRegisterRequest::default();
    let answer = grpc.block_on(async { client.cuda_shared_memory_register(request).await });
    refused(answer, Code::Unimplemented, "CUDA shared memory is not supported");
    let request = SystemSharedMemoryRegisterRequest::default();
    let answer = grpc.block_on(async { client.system_shared_memory_register(request).await });
    refused(answer, Code::Unimplemented, "--allow-client-shm");
    let metadata = grpc.block_on(async { client.server_metadata(ServerMetadataRequest {}).await });
    let extensions = metadata.unwrap().into_inner().extensions;
    let http = fixture.client().get("/v2").json()["extensions"].clone();
    assert_eq!(http, json!(extensions), "both protocols say the same");
    let has = |name: &str| extensions.iter().any(|known| known == name);
    assert!(has("binary_tensor_data") && has("classification") && has("trace"));
    assert!(!has("system_shared_memory") && !has("cuda_shared_memory") && !has("logging"));
}

#[test]
fn health_is_told_and_watched() {
    let fixture = Fixture::with_m();
    let grpc = fixture.grpc();
    let mut health = HealthClient::new(grpc.channel.clone());
    let mut check = |service: &str| -> Result<ServingStatus, Status> {
        let request = HealthCheckRequest { service: service.into() };
        grpc.block_on(async { health.check(request).await }).map(|answer| answer.into_inner().status())
    };
    for service in ["", "inference.GRPCInferenceService", "m", "m/1"] {
        assert_eq!(check(service).unwrap(), ServingStatus::Serving, "{service}");
    }
    for service in ["none", "m/2", "inference"] {
        refused(check(service), Code::NotFound, "no model");
    }
    let request = HealthCheckRequest { service: "later".into() };
    let mut health = HealthClient::new(grpc.channel.clone());
    let mut watched =
        grpc.block_on(async { health.watch(Request::new(request)).await }).unwrap().into_inner();
    let mut next = || grpc.block_on(watched.next()).unwrap().map(|answer| answer.status());
    assert_eq!(next().unwrap(), ServingStatus::ServiceUnknown);
    let loading = fixture.loading("later");
    assert_eq!(next().unwrap(), ServingStatus::NotServing);
    loading.finish();
    assert_eq!(next().unwrap(), ServingStatus::Serving);
    let mut fixture = fixture;
    assert!(fixture.shut_down(std::time::Duration::ZERO).join().unwrap(), "no connection is cut off");
    while next().is_ok() {}
}

#[test]
fn services_can_be_listed() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let fixture = Fixture::with_m();
    let grpc = fixture.grpc();
    let mut client = ServerReflectionClient::new(grpc.channel.clone());
    let request = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let requests = [
        request(MessageRequest::ListServices(String::new())),
        request(MessageRequest::FileContainingSymbol("inference.GRPCInferenceService.ModelInfer".into())),
    ];
    let answers = grpc.block_on(async {
        let stream = client.server_reflection_info(futures_util::stream::iter(requests)).await.unwrap();
        stream.into_inner().map(|answer| answer.unwrap().message_response.unwrap()).collect::<Vec<_>>().await
    });
    let MessageResponse::ListServicesResponse(services) = &answers[0] else { panic!("{answers:?}") };
    let names: Vec<&str> = services.service.iter().map(|service| &*service.name).collect();
    assert!(
        names.contains(&"inference.GRPCInferenceService") && names.contains(&"grpc.health.v1.Health"),
        "{names:?}"
    );
    assert!(matches!(answers[1], MessageResponse::FileDescriptorResponse(_)));
    let _ = (x(), y());
}
