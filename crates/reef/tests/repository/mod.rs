//! Repositories end to end: configurations, control modes, models that change while clients ask for them.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::onnx::slow_to_compile;
use super::harness::serving::{Serving, parsed, request};
use super::harness::{PATIENCE, Scratch, misused, refused, text};
use super::image;

/// A model of the zoo with weights from `seed`: outputs tell which it is.
fn control(seed: u64) -> Vec<u8> {
    reef_zoo::build(reef_zoo::Model::Control, &reef_zoo::Variant::tiny().seed(seed)).unwrap()
}

/// Puts a file in its place at once, as those should who change a repository that is served.
fn put(dir: &Scratch, name: &str, content: &[u8]) {
    let beside = dir.file("staging", content);
    let path = dir.path(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::rename(beside, path).unwrap();
}

fn post(to: SocketAddr, path: &str, body: &Value) -> (u16, Value) {
    parsed(request(to, "POST", path, &body.to_string()))
}

fn load(serving: &Serving, name: &str, parameters: Value) -> (u16, Value) {
    post(serving.http, &format!("/v2/repository/models/{name}/load"), &json!({ "parameters": parameters }))
}

fn unload(serving: &Serving, name: &str) -> (u16, Value) {
    let body = json!({ "parameters": { "unload_dependents": false } });
    post(serving.http, &format!("/v2/repository/models/{name}/unload"), &body)
}

/// `NAME/VERSION STATE reason` of every model.
fn index(serving: &Serving) -> Vec<String> {
    let (status, index) = post(serving.http, "/v2/repository/index", &json!({}));
    assert_eq!(status, 200, "{index}");
    let part = |row: &Value, key: &str| row[key].as_str().unwrap().to_string();
    let row = |row: &Value| {
        let [name, version, state, reason] = ["name", "version", "state", "reason"].map(|key| part(row, key));
        format!("{name}/{version} {state} {reason}").trim().to_string()
    };
    index.as_array().unwrap().iter().map(row).collect()
}

/// The outputs of a request that must be answered, and the version that answered.
fn outputs(to: SocketAddr, model: &str) -> (Value, String) {
    let (status, answer) =
        parsed(request(to, "POST", &format!("/v2/models/{model}/infer"), &image(json!({}))));
    assert_eq!(status, 200, "{answer}");
    (answer["outputs"].clone(), answer["model_version"].as_str().unwrap().to_string())
}

/// Waits until it is so.
fn until(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const WORDS: &str = r#"
# As people write it.
name: "words"
platform: "onnxruntime_onnx"
max_batch_size: 4
input [
  { name: "input_ids", data_type: TYPE_INT64, dims: [ -1 ] },
  { name: "attention_mask", data_type: TYPE_INT64, dims: [ -1 ] }
]
version_policy: { latest { num_versions: 1 } }
instance_group [ { count: 2 kind: KIND_CPU } ]
dynamic_batching { max_queue_delay_microseconds: 100 default_queue_policy { max_queue_size: 9 } }
parameters: { key: "class" value: { string_value: "real-time" } }
parameters: { key: "level" value: { string_value: "2" } }
model_warmup { name: "w" batch_size: 2 count: 3
  inputs { key: "input_ids" value { data_type: TYPE_INT64 dims: 5 zero_data: true } }
  inputs { key: "attention_mask" value { data_type: TYPE_INT64 dims: 5 random_data: true } } }
"#;

#[test]
fn a_configuration_is_in_force() {
    let dir = Scratch::new("configured");
    dir.zoo_dynamic("distilbert", "models/words/1/model.onnx");
    dir.zoo_dynamic("distilbert", "models/words/3/model.onnx");
    dir.file("models/words/config.pbtxt", WORDS);
    dir.file("models/words/reef.toml", "shapes = [{ input_ids = [1, 3], attention_mask = [1, 3] }]");
    dir.file("models/flat/model.onnx", control(1));
    let labels = "output { name: 'output' label_filename: 'labels.txt' }";
    dir.file("models/typed/1/model.onnx", control(1));
    dir.file(
        "models/typed/config.pbtxt",
        "input { name: 'input' data_type: TYPE_INT64 dims: [ 1, 3, 24, 24 ] }",
    );
    dir.file("models/labelled/1/model.onnx", control(1));
    dir.file("models/labelled/config.pbtxt", labels);
    let serving = Serving::start(&[text(&dir.path("models"))]);
    let config = serving.get("/v2/models/words/config").1;
    assert_eq!((&config["max_batch_size"], &config["platform"]), (&json!(4), &json!("onnxruntime_onnx")));
    assert_eq!(config["input"][0]["data_type"], "TYPE_INT64");
    assert_eq!(config["input"][0]["dims"], json!([-1]));
    assert_eq!(config["version_policy"]["latest"]["num_versions"], 1);
    assert_eq!(config["dynamic_batching"]["max_queue_delay_microseconds"], 100);
    for (key, value) in [("class", "real-time"), ("level", "2"), ("queue_len", "9")] {
        assert_eq!(config["parameters"][key]["string_value"], value, "{config}");
    }
    let (_, words) = serving.get("/v2/models/words");
    assert_eq!((&words["versions"], &words["inputs"][0]["shape"]), (&json!(["3"]), &json!([-1, -1])));
    let (status, answer) = serving.infer("words", &super::tokens(2, 3));
    assert_eq!((status, &answer["parameters"]["level"]), (200, &json!(2)), "{answer}");
    let (_, stats) = serving.get("/v2/models/words/stats");
    assert_eq!(stats["model_stats"][0]["inference_count"], 2, "two rows; warming up is no request: {stats}");
    assert_eq!(serving.get("/v2/models/words/versions/1").0, 404);
    assert_eq!(outputs(serving.http, "flat").1, "1");
    let (status, typed) = serving.get("/v2/models/typed");
    let why = typed["error"].as_str().unwrap();
    assert!(status == 503 && why.contains("data_type is INT64, the model has FP32"), "{typed}");
    let labelled = serving.get("/v2/models/labelled").1["error"].to_string();
    assert!(labelled.contains("label_filename: there is no file"), "{labelled}");
    let ready = serving.get("/v2/health/ready");
    assert_eq!((ready.0, ready.1["missing"].as_array().unwrap().len()), (200, 2), "{ready:?}");
    let (_, log) = serving.stop();
    for expected in ["line 11: instance_group: ignored", "words/3"] {
        assert!(log.iter().any(|line| line.contains(expected)), "{expected}: {log:#?}");
    }
}

const BATCHED: &str = r#"
max_batch_size: 4
instance_group [ { count: 1 kind: KIND_GPU gpus: [ 0 ] } ]
optimization { execution_accelerators { gpu_execution_accelerator : [ { name : "tensorrt"
  parameters { key: "precision_mode" value: "FP16" } } ] } }
dynamic_batching { preferred_batch_size: [ 2, 4 ] max_queue_delay_microseconds: 100 }
"#;

/// Batches are what a configuration asks for, not what the model is: without them it is served, and told.
#[test]
fn requests_that_cannot_be_joined_run_alone() {
    let dir = Scratch::new("alone");
    dir.file("models/fixed/1/model.onnx", control(1));
    let described = "input [ { name: 'input' data_type: TYPE_FP32 dims: [ 3, 24, 24 ] } ]";
    dir.file("models/fixed/config.pbtxt", format!("{BATCHED}{described}"));
    // Steps of a recurrent network follow from each other.
    dir.zoo_dynamic("lstm", "models/steps/1/model.onnx");
    dir.file("models/steps/config.pbtxt", BATCHED);
    dir.file("models/wide/1/model.onnx", control(1));
    dir.file(
        "models/wide/config.pbtxt",
        format!("{BATCHED} input [ {{ name: 'input' dims: [ 4, 24, 24 ] }} ]"),
    );
    let serving = Serving::start(&[text(&dir.path("models"))]);
    assert_eq!(outputs(serving.http, "fixed").1, "1");
    let config = serving.get("/v2/models/fixed/config").1;
    assert_eq!((&config["max_batch_size"], &config["input"][0]["dims"]), (&json!(4), &json!([3, 24, 24])));
    assert_eq!(config["dynamic_batching"], Value::Null, "it is not in force");
    let steps = serving.get("/v2/models/steps").1["inputs"].clone();
    let request = |rows: i64| {
        let input = |info: &Value| {
            let dims = info["shape"].as_array().unwrap().iter();
            let dims: Vec<i64> = dims.map(|dim| dim.as_i64().unwrap()).collect();
            let shape: Vec<i64> = dims.iter().map(|&dim| if dim < 0 { rows } else { dim }).collect();
            let data = vec![0.5; shape.iter().product::<i64>() as usize];
            json!({ "name": info["name"], "shape": shape, "datatype": info["datatype"], "data": data })
        };
        let inputs: Vec<Value> = steps.as_array().unwrap().iter().map(input).collect();
        json!({ "inputs": inputs }).to_string()
    };
    assert_eq!(serving.infer("steps", &request(4)).0, 200);
    serving.refuses("steps", &request(5), 400, &["5", "4"]);
    let wide = serving.get("/v2/models/wide").1["error"].to_string();
    assert!(wide.contains("dims are [4, 24, 24]") && wide.contains("after the axis of the batch"), "{wide}");
    let (_, log) = serving.stop();
    for expected in [
        "model fixed: max_batch_size 4: requests run alone, since batches need a first axis that is open",
        "dynamic_batching: requests run alone: its requests cannot be joined",
        "optimization: ignored",
    ] {
        assert!(log.iter().any(|line| line.contains(expected)), "{expected}: {log:#?}");
    }
}

#[test]
fn what_is_missing_is_an_error_for_who_wants_that() {
    let dir = Scratch::new("strict");
    dir.file("models/good.onnx", control(1));
    dir.file("models/bad.onnx", "no model");
    let models = dir.path("models");
    let serving = Serving::start(&[text(&models), "--strict-readiness"]);
    let (status, ready) = serving.get("/v2/health/ready");
    assert_eq!((status, &ready["ready"]), (503, &json!(false)));
    assert_eq!((&ready["missing"][0]["name"], &ready["missing"][0]["version"]), (&json!("bad"), &json!("1")));
    assert!(ready["missing"][0]["reason"].as_str().unwrap().contains("not a valid ONNX model"), "{ready}");
    assert_eq!(serving.infer("good", &image(json!({}))).0, 200);
    drop(serving);
    let ports = ["--http-port", "0", "--metrics-port", "0"];
    refused(&[&["serve", text(&models), "--exit-on-error"][..], &ports].concat(), &["bad.onnx"]);
    refused(
        &[&["serve", text(&models), "--load-model", "good"][..], &ports].concat(),
        &["--load-model needs"],
    );
    misused(&["serve", text(&models), "--model-control-mode", "some"], "there are none, poll, explicit");
}

#[test]
fn clients_control_nothing_unless_they_may() {
    let dir = Scratch::new("off");
    dir.file("models/m.onnx", control(1));
    for (mode, expected) in [("none", "--model-control-mode none"), ("poll", "--model-control-mode poll")] {
        let serving = Serving::start(&[text(&dir.path("models")), "--model-control-mode", mode]);
        for (status, answer) in [load(&serving, "m", json!({})), unload(&serving, "m")] {
            let error = answer["error"].as_str().unwrap();
            assert!(status == 503 && error.contains("explicit model control is off"), "{answer}");
            assert!(error.contains(expected), "{answer}");
        }
        assert_eq!(outputs(serving.http, "m").1, "1");
    }
}

#[test]
fn clients_load_and_unload() {
    let dir = Scratch::new("explicit");
    for (name, seed) in [("a", 1), ("b", 2)] {
        dir.file(&format!("models/{name}/1/model.onnx"), control(seed));
    }
    dir.file("models/broken/1/model.onnx", "no model");
    dir.file("secret.onnx", control(3));
    let models = dir.path("models");
    let serving = Serving::start(&[text(&models), "--model-control-mode", "explicit", "--load-model", "a"]);
    let extensions = serving.get("/v2").1["extensions"].to_string();
    assert!(extensions.contains("model_repository"), "{extensions}");
    let unloaded = ["b/1 UNAVAILABLE unloaded", "broken/1 UNAVAILABLE unloaded"];
    assert_eq!(index(&serving), [&["a/1 READY"][..], &unloaded].concat());
    assert_eq!((serving.get("/v2/health/ready").0, serving.get("/v2/models/b").0), (200, 404));
    assert_eq!(load(&serving, "b", json!({})).0, 200);
    let (first, second) = (outputs(serving.http, "a").0, outputs(serving.http, "b").0);
    assert_ne!(first, second);
    let (status, answer) = load(&serving, "broken", json!({}));
    assert!(
        status == 400 && answer["error"].as_str().unwrap().contains("not a valid ONNX model"),
        "{answer}"
    );
    assert!(index(&serving).iter().any(|row| row.starts_with("broken/1 UNAVAILABLE cannot load")));
    for name in ["nobody", "..%2Fsecret", "..", "%2Fetc%2Fpasswd", "a%2F1", "x%00", ".hidden"] {
        let (status, answer) = load(&serving, name, json!({}));
        assert!([400, 404].contains(&status), "{name}: {answer}");
        assert_eq!(unload(&serving, name).0, 404, "{name}");
    }
    files_of_clients(&serving, &dir, &second);
    assert_eq!(unload(&serving, "a").0, 200);
    assert_eq!(serving.infer("a", &image(json!({}))).0, 404);
    assert!(index(&serving).contains(&"a/1 UNAVAILABLE unloaded".to_string()));
    assert_eq!(unload(&serving, "a").0, 200, "it is known");
    assert_eq!(load(&serving, "a", json!({})).0, 200);
    assert_eq!(outputs(serving.http, "a").0, first);
    let (code, log) = serving.stop();
    assert_eq!(code, Some(0), "{log:#?}");
}

/// What a client says about a model instead of the repository.
fn files_of_clients(serving: &Serving, dir: &Scratch, second: &Value) {
    let onnx = base64(&control(2));
    let refuses = |parameters: Value, expected: &str| {
        let (status, answer) = load(serving, "mine", parameters);
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(status == 400 && error.contains(expected), "{expected}: {answer}");
    };
    let outside = dir.path("escaped");
    for path in ["../../escaped", &format!("/{}", text(&outside)), "1/../../../escaped", "1//m", ".x"] {
        refuses(json!({ "config": "{}", (format!("file:{path}")): onnx }), "not in the model's directory");
    }
    assert!(!outside.exists());
    refuses(json!({ "config": "{", "file:1/model.onnx": onnx }), "config: 1:1: EOF");
    refuses(json!({ "config": "{}", "file:1/model.onnx": "*" }), "not base64");
    refuses(json!({ "config": "{}", "file:1/model.onnx": "eA==" }), "not a valid ONNX model");
    let elsewhere = json!({ "default_model_filename": "../secret.onnx" }).to_string();
    refuses(json!({ "config": elsewhere, "file:1/model.onnx": onnx }), "not the name of a file");
    let narrow = json!({ "input": [{ "name": "input", "dims": ["1", "3", "9", "9"] }] }).to_string();
    refuses(json!({ "config": narrow, "file:1/model.onnx": onnx }), "dims are [1, 3, 9, 9]");
    let config = json!({ "parameters": { "class": { "string_value": "real-time" } } }).to_string();
    let (status, answer) = load(serving, "mine", json!({ "config": config, "file:1/model.onnx": onnx }));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(&outputs(serving.http, "mine").0, second);
    let class = serving.get("/v2/models/mine/config").1["parameters"]["class"]["string_value"].clone();
    assert_eq!(class, "real-time");
    // In the place of one that the repository has, until that is loaded again.
    let (status, _) = load(serving, "a", json!({ "config": "{}", "file:7/model.onnx": onnx }));
    assert_eq!((status, outputs(serving.http, "a").1), (200, "7".into()));
    assert_eq!(load(serving, "a", json!({})).0, 200);
    assert_eq!(outputs(serving.http, "a").1, "1");
    let config = json!({ "parameters": { "weight": { "string_value": "3" } } }).to_string();
    assert_eq!(load(serving, "b", json!({ "config": config })).0, 200);
    let weight = serving.get("/v2/models/b/config").1["parameters"]["weight"]["string_value"].clone();
    assert_eq!(weight, "3");
    assert_eq!(unload(serving, "mine").0, 200);
    assert_eq!(serving.get("/v2/models/mine").0, 404);
}

/// Clients ask while a model is reloaded again and again; every one is answered, by one that is served.
#[test]
fn a_model_is_reloaded_under_load() {
    let dir = Scratch::new("reloaded");
    let files = [1, 2, 3].map(control);
    put(&dir, "models/m/1/model.onnx", &files[0]);
    dir.file("models/m/reef.toml", "class = \"real-time\"");
    let models = dir.path("models");
    let serving = Serving::start(&[text(&models), "--model-control-mode", "explicit", "--load-model", "*"]);
    let mut known = Vec::new();
    for file in &files {
        put(&dir, "models/m/1/model.onnx", file);
        assert_eq!(load(&serving, "m", json!({})).0, 200);
        known.push(outputs(serving.http, "m").0);
    }
    assert!(known[0] != known[1] && known[1] != known[2]);
    let (done, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = counted(&serving);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let (outputs, _) = outputs(serving.http, "m");
                    assert!(known.contains(&outputs), "{outputs}");
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 0..20 {
            put(&dir, "models/m/1/model.onnx", &files[round % 3]);
            if round % 5 == 4 {
                put(&dir, "models/m/1/model.onnx", b"broken");
                let (status, answer) = load(&serving, "m", json!({}));
                assert_eq!(status, 400, "{answer}");
                let reason = "m/1 READY not reloaded: ";
                assert!(index(&serving).iter().any(|row| row.starts_with(reason)), "{:?}", index(&serving));
                continue;
            }
            assert_eq!(load(&serving, "m", json!({})).0, 200);
            assert_eq!(index(&serving), ["m/1 READY"]);
            assert_eq!(outputs(serving.http, "m").0, known[round % 3], "who asks now gets the new one");
            asked.fetch_add(1, Ordering::SeqCst);
        }
        done.store(true, Ordering::SeqCst);
    });
    let (success, failed) = counted(&serving);
    assert_eq!((success - before.0, failed), (asked.into_inner(), 0), "each request is counted once");
    assert_eq!(serving.stop().0, Some(0));
}

/// Requests to `m` that were answered, and that failed.
fn counted(serving: &Serving) -> (u64, u64) {
    let stats = serving.get("/v2/models/m/stats").1["model_stats"][0]["inference_stats"].clone();
    (stats["success"]["count"].as_u64().unwrap(), stats["fail"]["count"].as_u64().unwrap())
}

#[test]
fn a_directory_is_followed() {
    let dir = Scratch::new("followed");
    put(&dir, "models/m/1/model.onnx", &control(1));
    let models = dir.path("models");
    let poll = ["--model-control-mode", "poll", "--repository-poll-secs", "0.05"];
    let mut serving = Serving::start(&[&[text(&models)][..], &poll].concat());
    let first = outputs(serving.http, "m").0;
    let (done, http) = (AtomicBool::new(false), serving.http);
    std::thread::scope(|scope| {
        // Whatever happens to the directory, somebody answers.
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                outputs(http, "m");
            }
        });
        let changes = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            changes_are_followed(&mut serving, &dir, &first);
        }));
        done.store(true, Ordering::SeqCst);
        changes.unwrap();
    });
    std::fs::remove_dir_all(dir.path("models/m")).unwrap();
    until("it goes with its directory", || serving.get("/v2/models/m").0 == 404);
    let (code, log) = serving.stop();
    assert_eq!(code, Some(0), "{log:#?}");
}

fn changes_are_followed(serving: &mut Serving, dir: &Scratch, first: &Value) {
    let http = serving.http;
    put(dir, "models/m/2/model.onnx", &control(2));
    until("the new version is served", || outputs(http, "m").1 == "2");
    assert_ne!(outputs(http, "m").0, *first);
    until("the old one has gone", || serving.get("/v2/models/m/versions/1").0 == 404);
    // A broken one leaves the old one, and says so.
    put(dir, "models/m/3/model.onnx", b"no model");
    until("it is tried", || index(serving).iter().any(|row| row.starts_with("m/3 UNAVAILABLE")));
    assert_eq!(outputs(http, "m").1, "2");
    let (status, ready) = serving.get("/v2/health/ready");
    assert_eq!((status, &ready["missing"][0]["version"]), (200, &json!("3")), "{ready}");
    serving.read_until("m/3 is not loaded");
    put(dir, "models/m/3/model.onnx", &control(3));
    until("it is mended", || outputs(http, "m").1 == "3");
    until("nothing is missing", || serving.get("/v2/health/ready").1["missing"].is_null());
    // Settings and configuration count like models.
    put(dir, "models/m/config.pbtxt", b"parameters { key: 'class' value { string_value: 'real-time' } }");
    let class = || serving.get("/v2/models/m/config").1["parameters"]["class"]["string_value"].clone();
    until("the configuration is in force", || class() == "real-time");
    put(dir, "models/m/config.pbtxt", b"max_batch_size: -1");
    until("the fault is told", || {
        index(serving).iter().any(|row| row.contains("max_batch_size: -1 is not in"))
    });
    assert_eq!((outputs(http, "m").1, class()), ("3".into(), json!("real-time")));
    put(dir, "models/m/config.pbtxt", b"version_policy { specific { versions: [2, 3] } }");
    until("both are served", || serving.get("/v2/models/m/versions/2/ready").0 == 200);
    // A model that comes, as somebody writes it slowly.
    let whole = control(1);
    let new = Path::new("models/new.onnx");
    for end in [10, whole.len() / 2, whole.len()] {
        dir.file(text(new), &whole[..end]);
        std::thread::sleep(Duration::from_millis(30));
    }
    until("the new model is served", || serving.get("/v2/models/new/ready").0 == 200);
    assert_eq!(outputs(http, "new").0, *first);
}

/// A model whose compilation does not end, in a directory that is followed.
#[test]
fn a_model_that_takes_long_holds_up_no_other() {
    let dir = Scratch::new("slow");
    put(&dir, "models/m/1/model.onnx", &control(1));
    let poll = ["--model-control-mode", "poll", "--repository-poll-secs", "0.05"];
    let serving = Serving::start(&[&[text(&dir.path("models"))][..], &poll].concat());
    put(&dir, "models/a_slow/1/model.onnx", &slow_to_compile(Some(1)));
    until("it is being loaded", || index(&serving).contains(&"a_slow/1 LOADING".into()));
    put(&dir, "models/new/1/model.onnx", &control(2));
    until("another one comes", || serving.get("/v2/models/new/ready").0 == 200);
    put(&dir, "models/m/2/model.onnx", &control(3));
    until("another one changes", || outputs(serving.http, "m").1 == "2");
    std::fs::remove_dir_all(dir.path("models/new")).unwrap();
    until("another one goes", || serving.get("/v2/models/new").0 == 404);
    assert!(index(&serving).contains(&"a_slow/1 LOADING".into()), "{:?}", index(&serving));
    assert_eq!(serving.stop().0, Some(0), "nor does it hold up the end");
}

/// The same, as a client asks for it.
#[test]
fn a_load_that_takes_long_holds_up_no_other() {
    let dir = Scratch::new("slow-load");
    put(&dir, "models/m.onnx", &control(1));
    let explicit = ["--model-control-mode", "explicit", "--load-model", "*"];
    let serving = Serving::start(&[&[text(&dir.path("models"))][..], &explicit].concat());
    put(&dir, "models/slow/1/model.onnx", &slow_to_compile(Some(1)));
    put(&dir, "models/new/1/model.onnx", &control(2));
    let stored = ["m/1 READY", "new/1 UNAVAILABLE unloaded", "slow/1 UNAVAILABLE unloaded"];
    assert_eq!(index(&serving), stored, "what came is seen without a load");
    let mut slow = TcpStream::connect(serving.http).unwrap();
    let head = "POST /v2/repository/models/slow/load HTTP/1.1\r\nHost: reef\r\nContent-Length: 2\r\n\r\n{}";
    slow.write_all(head.as_bytes()).unwrap();
    until("it is being loaded", || index(&serving).contains(&"slow/1 LOADING".into()));
    assert_eq!(load(&serving, "new", json!({})).0, 200);
    assert_eq!((unload(&serving, "m").0, serving.get("/v2/models/m").0), (200, 404));
    std::fs::remove_file(dir.path("models/m.onnx")).unwrap();
    assert_eq!(index(&serving), ["new/1 READY", "slow/1 LOADING"]);
    assert_eq!(serving.stop().0, Some(0), "nor does it hold up the end");
}

/// Requests that wait for a plan are answered when the server is to end, and that does not wait for the plan.
#[test]
fn a_drain_waits_for_no_plan() {
    let dir = Scratch::new("drained");
    for name in ["urgent", "other"] {
        dir.file(&format!("models/{name}.onnx"), slow_to_compile(None));
    }
    dir.file("models/reef.toml", "[model.urgent]\nclass = \"real-time\"");
    let serving = Serving::start(&[text(&dir.path("models")), "--drain-timeout", "1"]);
    let (http, metrics) = (serving.http, serving.metrics);
    let input = json!({ "name": "x", "shape": [2, 4], "datatype": "FP32", "data": vec![0.0; 8] });
    let body = json!({ "inputs": [input] }).to_string();
    let waiting = || {
        let (_, text) = request(metrics, "GET", "/metrics", "");
        let pending =
            |line: &&str| line.starts_with("nv_inference_pending_request_count{") && line.ends_with("} 1");
        text.lines().filter(pending).count()
    };
    std::thread::scope(|scope| {
        let ask = |model: &str| {
            let path = format!("/v2/models/{model}/infer");
            let body = &body;
            scope.spawn(move || parsed(request(http, "POST", &path, body)))
        };
        let asked = ["urgent", "other"].map(ask);
        until("both wait", || waiting() == 2);
        let (code, log) = serving.stop();
        assert_eq!(code, Some(0), "{log:#?}");
        for client in asked {
            let (status, answer) = client.join().unwrap();
            assert_eq!((status, answer["error"].as_str().is_some()), (503, true), "{answer}");
        }
    });
}

/// The alphabet of RFC 4648, with its padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let four = |chunk: &[u8]| {
        let value = (0..3).fold(0u32, |value, at| value << 8 | u32::from(*chunk.get(at).unwrap_or(&0)));
        let letter = |at: usize| match at <= chunk.len() {
            true => char::from(ALPHABET[(value >> (18 - 6 * at)) as usize & 63]),
            false => '=',
        };
        (0..4).map(letter).collect::<String>()
    };
    bytes.chunks(3).map(four).collect()
}
