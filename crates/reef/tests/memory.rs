//! What a server's memory holds beside the weights of a large model: they lie there once.

#![cfg(target_os = "linux")]

mod harness;

use harness::onnx::{convolutions, softmax};
use harness::serving::Serving;
use harness::serving::{parsed, request};
use harness::{PATIENCE, Scratch, text};
use serde_json::json;

/// Channels of the model, and its convolutions: 64 MiB.
const WIDTH: usize = 2048;
const COUNT: usize = 4;

/// A number of bytes that the system knows of a process.
fn bytes(serving: &Serving, what: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", serving.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).expect("the system says so");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number") << 10
}

#[test]
fn the_weights_of_a_large_model_lie_in_memory_once() {
    let scratch = Scratch::new("memory");
    scratch.zoo("control", "small/control.onnx");
    scratch.zoo("control", "large/control.onnx");
    let file = scratch.file("large/wide.onnx", convolutions(WIDTH, COUNT));
    let length = std::fs::metadata(file).unwrap().len() as usize;
    assert!(length >= 64 << 20);
    let serve = |dir: &str| Serving::start(&[text(&scratch.path(dir)), "--cus", "2"]);
    let (small, large) = (serve("small"), serve("large"));
    let more = |what: &str| bytes(&large, what).saturating_sub(bytes(&small, what)) as f64 / length as f64;
    let (loaded, most) = (more("RssAnon:"), more("VmHWM:"));
    println!("{loaded:.3} of the file's size when it is loaded, {most:.3} at most");
    assert!(loaded > 0.9, "the weights are there: {loaded}");
    assert!(loaded < 1.25, "{loaded} of the file's size");
    assert!(most < 2.2, "{most} of the file's size while it was loaded");
    let input = json!({ "name": "x0", "shape": [1, WIDTH, 2, 2], "datatype": "FP32",
        "data": vec![1.0; WIDTH * 4] });
    let (status, answer) = large.infer("wide", &json!({ "inputs": [input] }).to_string());
    assert_eq!(status, 200, "{answer}");
}

/// Bytes in the books of the device: weights, and what tasks work in.
fn counted(serving: &Serving) -> [u64; 2] {
    let (_, text) = request(serving.metrics, "GET", "/metrics", "");
    ["weights", "working"].map(|used| {
        let of = |line: &&str| line.starts_with("reef_device_memory_bytes{") && line.contains(used);
        let line = text.lines().find(of).unwrap_or_else(|| panic!("{text}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64
    })
}

/// Weights, arenas and scratch that a model alone needed go with it, in the books and for the system.
#[test]
fn what_a_model_needed_goes_with_it() {
    const ROUNDS: usize = 4;
    const SPREAD: usize = 8 << 20;
    let scratch = Scratch::new("unloaded");
    scratch.zoo("control", "models/control.onnx");
    scratch.file("models/wide.onnx", convolutions(WIDTH, COUNT));
    scratch.file("models/long.onnx", softmax(1 << 20));
    let explicit = ["--model-control-mode", "explicit", "--load-model", "control", "--cus", "2"];
    let serving = Serving::start(&[&[text(&scratch.path("models"))][..], &explicit].concat());
    let post = |model: &str, what: &str| {
        let path = format!("/v2/repository/models/{model}/{what}");
        let (status, answer) = parsed(request(serving.http, "POST", &path, "{}"));
        assert_eq!(status, 200, "{answer}");
    };
    let little = counted(&serving);
    let mut after = Vec::new();
    for _ in 0..ROUNDS {
        post("wide", "load");
        post("long", "load");
        let (much, rss) = (counted(&serving), bytes(&serving, "VmRSS:"));
        assert!(much[0] >= little[0] + (64 << 20), "{much:?} {little:?}");
        assert!(much[1] > little[1] + (8 << 20), "{much:?} {little:?}");
        post("wide", "unload");
        post("long", "unload");
        // What a unit works in waits until that does nothing.
        let begin = std::time::Instant::now();
        let back = |[weights, working]: [u64; 2]| weights == little[0] && working <= little[1] / 3 * 4;
        while !back(counted(&serving)) {
            assert!(begin.elapsed() < PATIENCE, "{:?} after, {little:?} before", counted(&serving));
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        after.push(bytes(&serving, "VmRSS:"));
        assert!(after.last().unwrap() + (64 << 20) < rss, "{after:?} {rss}");
    }
    assert!(after[ROUNDS - 1] < after[0] + SPREAD, "the system has it again: {after:?}");
    assert_eq!(serving.stop().0, Some(0));
}
