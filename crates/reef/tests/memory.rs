//! What a server's memory holds beside the weights of a large model: they lie there once.

#![cfg(target_os = "linux")]

mod harness;

use harness::serving::Serving;
use harness::{Scratch, convolutions, text};
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
