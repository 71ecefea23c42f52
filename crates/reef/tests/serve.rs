//! The server end to end: what it refuses to start with, and what a client of a running one sees.

mod harness;
#[path = "programs/make.rs"]
mod make;
mod repository;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use harness::serving::{Serving, address, lines, parsed, request};
use harness::{PATIENCE, Scratch, command, refused, text};
use serde_json::{Value, json};

const SETTINGS: &str = r#"
[model.policy]
class = "real-time"
level = 1
deadline_ms = 60000
queue_len = 8

[model.words]
weight = 2
shapes = [{ input_ids = [1, 4], attention_mask = [1, 4] }, { input_ids = [2, 7], attention_mask = [2, 7] }]
"#;

/// A request to `control` with these parameters.
fn image(parameters: Value) -> String {
    let input = json!({
        "name": "input", "shape": [1, 3, 24, 24], "datatype": "FP32", "data": vec![0.5; 3 * 24 * 24],
    });
    json!({ "id": "7", "parameters": parameters, "inputs": [input] }).to_string()
}

/// A request to DistilBERT of `batch` × `sequence` tokens.
fn tokens(batch: usize, sequence: usize) -> String {
    let input = |name: &str| {
        let data = vec![1; batch * sequence];
        json!({ "name": name, "shape": [batch, sequence], "datatype": "INT64", "data": data })
    };
    json!({ "inputs": [input("input_ids"), input("attention_mask")] }).to_string()
}

#[test]
fn directories_that_cannot_be_served_are_refused() {
    let serve = |dir: &Path, expected: &[&str]| {
        refused(&["serve", text(dir), "--http-port", "0", "--metrics-port", "0"], expected);
    };
    let dir = Scratch::new("unservable");
    serve(&dir.path("missing"), &["missing", "No such file"]);
    std::fs::create_dir(dir.path("empty")).unwrap();
    serve(&dir.path("empty"), &["empty", "no models", "NAME.onnx"]);
    dir.file("broken/bad.onnx", "this is no model");
    serve(&dir.path("broken"), &["bad.onnx", "not a valid ONNX model"]);
    dir.file("broken/worse.onnx", "nor this");
    serve(&dir.path("broken"), &["none of 2 models", "bad.onnx", "worse.onnx"]);
    dir.zoo("control", "set/control.onnx");
    for (settings, expected) in [
        ("[model.control]\ncolour = 1", ["reef.toml", "colour"]),
        ("[model.control]\nclass = \"urgent\"", ["control", "urgent"]),
        ("[model.absent]\nweight = 1", ["'absent'", "no such model"]),
        ("[model.control]\nshapes = [{ picture = [1] }]", ["control", "picture"]),
        ("[model.control]\nshapes = [{ input = [1, 3, 25, 24] }]", ["control", "25"]),
    ] {
        dir.file("set/reef.toml", settings);
        serve(&dir.path("set"), &expected);
    }
}

#[test]
fn values_that_the_model_cannot_take_are_refused() {
    let dir = Scratch::new("values-bad");
    let model = make::window(16);
    dir.file("set/window.onnx", &model.onnx);
    for (settings, expected) in [
        ("values = [{ to = 3 }]", "the model has no input 'to'; inputs whose values decide: from"),
        ("values = [{ x = [1.5] }]", "the value of 'x' decides nothing"),
        ("values = [{ from = 1.0 }]", "input 'from' is INT64, and cannot be 1.0"),
        ("values = [{ from = true }]", "input 'from' is INT64, and cannot be true"),
        ("values = [{ from = [1, 2] }]", "input 'from' has 1 elements, not 2"),
        ("values = [{}]", "input 'from' needs one"),
    ] {
        // Whichever file it stands in.
        for (file, other, text_of) in [
            ("set/reef.toml", "set/window.toml", format!("[model.window]\n{settings}")),
            ("set/window.toml", "set/reef.toml", settings.to_string()),
        ] {
            dir.file(other, "");
            let file = dir.file(file, text_of);
            let set = dir.path("set");
            let args = ["serve", text(&set), "--http-port", "0", "--metrics-port", "0"];
            refused(&args, &[text(&file), "model window", expected]);
        }
    }
    let dir = Scratch::new("values-absurd");
    dir.file("rows.onnx", make::rows().onnx);
    let here = dir.path("");
    for value in ["[-3, 8]", "[1000000000000, 8]", "[9223372036854775807, 8]", "[3, 7]", "[100000000, 8]"] {
        let file = dir.file("reef.toml", format!("[model.rows]\nvalues = [{{ to = {value} }}]"));
        let args = ["serve", text(&here), "--http-port", "0", "--metrics-port", "0", "--memory", "64"];
        let named = format!("to [2]={}", value.trim_matches(['[', ']']).replace(' ', ""));
        refused(&args, &[text(&file), "model rows", &named]);
    }
}

#[test]
fn values_are_compiled_ahead() {
    let dir = Scratch::new("values");
    let model = make::window(16);
    dir.file("set/window.onnx", &model.onnx);
    dir.file("set/reef.toml", "[model.window]\nvalues = [{ from = 3 }, { from = [-6] }]");
    let serving = Serving::start(&[text(&dir.path("set"))]);
    let loaded = serving.log.iter().find(|line| line.contains("loaded window")).expect("it says so");
    assert!(loaded.contains("plans=2"), "{loaded}");
    let ask = |from: i64| {
        let x: Vec<usize> = (0..16).collect();
        let tensors = json!([
            { "name": "x", "shape": [16], "datatype": "FP32", "data": x },
            { "name": "from", "shape": [1], "datatype": "INT64", "data": [from] },
        ]);
        let (status, answer) = serving.infer("window", &json!({ "inputs": tensors }).to_string());
        assert_eq!(status, 200, "{answer}");
        answer["outputs"][0]["data"].clone()
    };
    let answers = (ask(3), ask(-6), ask(0));
    assert_eq!(answers.0, json!([3.0, 4.0, 5.0, 6.0]));
    assert_eq!(answers.1, json!([10.0, 11.0, 12.0, 13.0]));
    assert_eq!(answers.2, json!([0.0, 1.0, 2.0, 3.0]), "a value that was not named");
}

#[test]
fn ports_in_use_and_unwritable_traces_are_named() {
    let dir = Scratch::new("ports");
    dir.zoo("control", "models/control.onnx");
    let models = dir.path("models");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let serve = |http: &str, metrics: &str, more: &[&str], expected: &[&str]| {
        let args = ["serve", text(&models), "--http-port", http, "--metrics-port", metrics];
        refused(&[&args[..], more].concat(), expected);
    };
    serve(&port, "0", &[], &[&port, "in use", "HTTP"]);
    serve("0", &port, &[], &[&port, "in use", "metrics"]);
    serve("0", "0", &["--grpc-port", &port], &[&port, "in use", "gRPC"]);
    serve("0", "0", &["--trace", "/nonexistent/trace.json"], &["/nonexistent/trace.json"]);
}

#[test]
fn a_model_that_cannot_be_loaded_is_unavailable_and_the_others_are_served() {
    let dir = Scratch::new("unavailable");
    dir.zoo("control", "models/control.onnx");
    dir.file("models/bad.onnx", "this is no model");
    dir.file("models/bad2/7/model.onnx", "");
    let serving = Serving::start(&[text(&dir.path("models"))]);
    assert_eq!(serving.get("/v2/health/ready").0, 200);
    assert_eq!(serving.infer("control", &image(json!({}))).0, 200);
    let (status, ready) = serving.get("/v2/models/bad/ready");
    assert_eq!((status, &ready["ready"]), (503, &json!(false)));
    assert!(ready["reason"].as_str().unwrap().contains("not a valid ONNX model"), "{ready}");
    for path in ["/v2/models/bad", "/v2/models/bad/versions/1", "/v2/models/bad/config", "/v2/models/bad2"] {
        let (status, answer) = serving.get(path);
        let message = answer["error"].as_str().unwrap_or_default();
        assert!(status == 503 && message.contains("could not be loaded"), "{path}: {answer}");
    }
    serving.refuses("bad", &image(json!({})), 503, &["bad/1 could not be loaded", "not a valid ONNX model"]);
    assert_eq!(serving.get("/v2/models/bad/versions/2").0, 404);
    let (_, index) = parsed(request(serving.http, "POST", "/v2/repository/index", ""));
    let state = |model: &Value| format!("{} {}", model["name"], model["state"]).replace('"', "");
    let states: Vec<String> = index.as_array().unwrap().iter().map(state).collect();
    assert_eq!(states, ["control READY", "bad UNAVAILABLE", "bad2 UNAVAILABLE"]);
    let (code, log) = serving.stop();
    assert_eq!(code, Some(0), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("bad/1 is unavailable")), "{log:#?}");
}

/// `reef serve 2>&1 | head`: nobody reads the log any more.
#[test]
fn a_log_without_a_reader_ends_nothing() {
    let dir = Scratch::new("unread");
    dir.zoo("control", "models/control.onnx");
    let models = dir.path("models");
    let args = ["serve", text(&models), "--http-port", "0", "--metrics-port", "0"];
    let mut child = command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    let said = lines(child.stdout.take().unwrap());
    let line = said.recv_timeout(PATIENCE).unwrap();
    let (status, _) = request(address(&line, "http="), "POST", "/v2/models/control/infer", &image(json!({})));
    assert_eq!(status, 200);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// A directory with a model that is being read until somebody writes it.
fn with_endless_model(name: &str) -> Scratch {
    let dir = Scratch::new(name);
    dir.zoo("control", "models/control.onnx");
    let made = Command::new("mkfifo").arg(dir.path("models/endless.onnx")).status().unwrap();
    assert!(made.success());
    dir
}

#[test]
fn a_server_that_loads_lives_but_is_not_ready() {
    let dir = with_endless_model("loading");
    let mut serving = Serving::spawn(&[text(&dir.path("models"))], "info");
    serving.listens_at(" listening ");
    let statuses = |serving: &Serving| {
        ["/v2/health/live", "/v2/health/ready", "/v2/models/endless/ready"].map(|path| serving.get(path).0)
    };
    assert_eq!(statuses(&serving), [200, 503, 503]);
    serving.refuses("endless", &image(json!({})), 503, &["loading"]);
    let model = std::fs::read(dir.path("models/control.onnx")).unwrap();
    std::fs::write(dir.path("models/endless.onnx"), model).unwrap();
    serving.listens_at(" serving ");
    assert_eq!(statuses(&serving), [200, 200, 200]);
    assert_eq!(serving.infer("endless", &image(json!({}))).0, 200);
    assert_eq!(serving.stop().0, Some(0));
}

#[test]
fn a_signal_ends_a_server_that_loads() {
    let dir = with_endless_model("stopped");
    let trace = dir.path("trace.json");
    let mut serving = Serving::spawn(&[text(&dir.path("models")), "--trace", text(&trace)], "info");
    serving.read_until(" listening ");
    let (code, log) = serving.stop();
    assert_eq!(code, Some(0), "{log:#?}");
    assert!(trace.exists(), "{log:#?}");
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    let dir = Scratch::new("impatient");
    dir.zoo("control", "models/control.onnx");
    let mut serving = Serving::start(&[text(&dir.path("models"))]);
    // A client that never sends the body that it announced keeps the server from ending for seconds.
    let mut client = TcpStream::connect(serving.http).unwrap();
    let head = "POST /v2/models/control/infer HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n";
    client.write_all(format!("{head}Expect: 100-continue\r\n\r\n").as_bytes()).unwrap();
    let mut word = [0; 12];
    client.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"HTTP/1.1 100");
    serving.terminate();
    serving.read_until("draining");
    let (code, log) = serving.stop();
    assert_eq!(code, Some(128 + 15), "{log:#?}");
}

#[test]
fn the_address_is_told_without_a_log() {
    let dir = Scratch::new("quiet");
    dir.zoo("control", "models/control.onnx");
    let serving = Serving::spawn(&[text(&dir.path("models"))], "error");
    let line = serving.said.recv_timeout(PATIENCE).unwrap();
    for key in ["http=", "metrics="] {
        assert_eq!(request(address(&line, key), "GET", "/v2/health/ready", "").0, 200, "{line}");
    }
    assert!(TcpStream::connect(address(&line, "grpc=")).is_ok(), "{line}");
    let (code, log) = serving.stop();
    assert_eq!((code, &log[..]), (Some(0), &[][..]));
}

#[test]
fn models_of_both_layouts_are_served_with_their_settings() {
    let dir = Scratch::new("serving");
    dir.zoo("control", "models/policy/1/model.onnx");
    dir.file("models/policy/config.pbtxt", "name: \"policy\"");
    dir.zoo_dynamic("distilbert", "models/words.onnx");
    dir.zoo("control", "models/plain.onnx");
    dir.zoo("control", "models/lost/model.onnx");
    dir.file("models/reef.toml", SETTINGS);
    let trace = dir.path("trace.json");
    let serving = Serving::start(&[text(&dir.path("models")), "--trace", text(&trace), "--cus", "2"]);
    metadata_is_served(&serving);
    inferences_are_served(&serving);
    bad_requests_are_refused(&serving);
    metrics_are_served(&serving);
    let (code, log) = serving.stop();
    assert_eq!(code, Some(0), "{log:#?}");
    for expected in ["loaded policy/1", "loaded lost/1", "model plain/1 has no settings", "real-time level 1"]
    {
        assert!(log.iter().any(|line| line.contains(expected)), "{expected}: {log:#?}");
    }
    assert!(!log.iter().any(|line| line.contains('\x1b') || line.contains("panicked")), "{log:#?}");
    trace_is_valid(&trace);
}

fn metadata_is_served(serving: &Serving) {
    for path in ["/v2/health/live", "/v2/health/ready", "/v2/models/policy/ready"] {
        assert_eq!(serving.get(path).0, 200, "{path}");
    }
    assert_eq!(serving.get("/v2").1["name"], "reef");
    let (_, policy) = serving.get("/v2/models/policy/versions/1");
    assert_eq!(policy["inputs"][0]["shape"], json!([1, 3, 24, 24]));
    let (_, words) = serving.get("/v2/models/words");
    assert_eq!(words["inputs"][0]["shape"], json!([-1, -1]));
}

fn inferences_are_served(serving: &Serving) {
    let (status, policy) = serving.infer("policy", &image(json!({})));
    assert_eq!(status, 200, "{policy}");
    assert_eq!((&policy["id"], &policy["outputs"][0]["shape"]), (&json!("7"), &json!([1, 8])));
    assert_eq!(
        (&policy["parameters"]["class"], &policy["parameters"]["level"]),
        (&json!("real-time"), &json!(1))
    );
    let (_, plain) = serving.infer("plain", &image(json!({})));
    assert_eq!(plain["parameters"]["class"], "best-effort");
    assert_eq!(plain["outputs"], policy["outputs"]);
    let (_, demoted) = serving.infer("policy", &image(json!({ "class": "best-effort" })));
    assert_eq!(demoted["parameters"]["class"], "best-effort");
    // Two of the shapes were compiled ahead, one was not.
    for (batch, sequence) in [(1, 4), (2, 7), (3, 2)] {
        let (status, words) = serving.infer("words", &tokens(batch, sequence));
        assert_eq!(status, 200, "{words}");
        let shape = words["outputs"][0]["shape"].as_array().unwrap();
        assert_eq!(shape[..2], [json!(batch), json!(sequence)]);
    }
}

fn bad_requests_are_refused(serving: &Serving) {
    serving.refuses("nobody", &image(json!({})), 404, &["nobody"]);
    let good = image(json!({}));
    let input = |from: &str, to: &str| good.replace(from, to);
    serving.refuses("policy", &input("[1,3,24,24]", "[1,3,23,24]"), 400, &["input"]);
    serving.refuses("policy", &input("FP32", "INT64"), 400, &["input"]);
    serving.refuses("policy", &input("\"input\"", "\"image\""), 400, &["image"]);
    serving.refuses("policy", &good[..good.len() / 2], 400, &[]);
    serving.refuses("policy", "{}", 400, &["inputs"]);
    serving.refuses("plain", &image(json!({ "class": "real-time" })), 400, &["plain"]);
    serving.refuses("policy", &image(json!({ "priority": 1 })), 400, &["policy"]);
    serving.refuses("policy", &image(json!({ "class": "soon" })), 400, &["soon"]);
    serving.refuses("policy", &image(json!({ "deadline_us": 1 })), 504, &["deadline"]);
    // Nothing was lost by all that.
    assert_eq!(serving.infer("policy", &good).0, 200);
}

fn metrics_are_served(serving: &Serving) {
    for port in [serving.http, serving.metrics] {
        let (status, metrics) = request(port, "GET", "/metrics", "");
        assert_eq!(status, 200);
        let success = "nv_inference_request_success{model=\"plain\",version=\"1\"} 1";
        assert!(metrics.contains(success), "{metrics}");
    }
}

/// Chrome's format, with a track for each compute unit.
fn trace_is_valid(path: &Path) {
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    for cu in ["CU 0", "CU 1"] {
        let named = |event: &&Value| event["name"] == "thread_name" && event["args"]["name"] == cu;
        let track = events.iter().find(named).unwrap_or_else(|| panic!("no track {cu}"));
        assert!(track["tid"].is_number());
    }
    assert!(
        events.iter().any(|event| event["ph"] == "X" && event["dur"].is_number()),
        "no block in the trace"
    );
}

/// Two devices of one core each, from the directory's settings: one model on each, one on both and one cut
/// over both.
#[test]
fn several_devices_are_served() {
    let cores = reef_cpu::allowed_cores();
    let [first, second, ..] = cores[..] else {
        eprintln!("one core only: nothing to serve two devices on");
        return;
    };
    let dir = Scratch::new("two-devices");
    for name in ["a", "b", "both", "cut"] {
        dir.zoo("control", &format!("{name}.onnx"));
    }
    dir.file(
        "reef.toml",
        format!(
            "devices = [\"cpu:{first}\", \"cpu:{second}\"]\n[model.a]\ndevices = [\"cpu:1\"]\n\
             [model.both]\nclass = \"real-time\"\nplacement = \"replicate\"\n\
             [model.cut]\nplacement = \"split\"\ndevices = [\"cpu:1\", \"cpu:0\"]\n"
        ),
    );
    let serving = Serving::start(&[text(&dir.path("")), "--trace", text(&dir.path("trace.json"))]);
    let on = |model: &str| serving.get(&format!("/v2/models/{model}")).1["devices"].clone();
    assert_eq!((on("a"), on("b")), (json!(["cpu:1"]), json!(["cpu:0"])));
    assert_eq!(on("both"), json!(["cpu:0", "cpu:1"]));
    assert_eq!(on("cut"), json!(["cpu:1", "cpu:0"]));
    let devices = serving.get("/v2").1["devices"].clone();
    let names: Vec<&Value> = devices.as_array().unwrap().iter().map(|device| &device["name"]).collect();
    assert_eq!(names, ["cpu:0", "cpu:1"]);
    let config = serving.get("/v2/models/both/config").1;
    assert_eq!(config["parameters"]["placement"]["string_value"], "replicate");
    let answers: Vec<Value> = ["a", "b", "both", "both", "both", "both", "cut", "cut"]
        .map(|model| serving.infer(model, &image(json!({}))))
        .map(|(status, answer)| {
            assert_eq!(status, 200, "{answer}");
            answer["outputs"].clone()
        })
        .into();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "the same bits on every device");
    let (_, metrics) = request(serving.metrics, "GET", "/metrics", "");
    for device in ["cpu:0", "cpu:1"] {
        let busy = format!("reef_device_busy_seconds_total{{device=\"{device}\"}}");
        assert!(metrics.lines().any(|line| line.starts_with(&busy) && !line.ends_with(" 0")), "{metrics}");
        let both = format!("model=\"both\",version=\"1\",class=\"real-time\",device=\"{device}\"");
        assert!(metrics.contains(&both), "{metrics}");
    }
    let (status, log) = serving.stop();
    assert_eq!(status, Some(0), "{log:#?}");
    let trace = std::fs::read_to_string(dir.path("trace.json")).unwrap();
    let trace: Value = serde_json::from_str(&trace).unwrap();
    let named = |process: u32| {
        let events = trace["traceEvents"].as_array().unwrap();
        let name = events.iter().find(|event| event["name"] == "process_name" && event["pid"] == process);
        name.unwrap()["args"]["name"].as_str().unwrap().to_string()
    };
    assert!(named(1).starts_with("cpu:0: cpu, 1 threads") && named(3).starts_with("cpu:1: cpu, 1 threads"));
}
