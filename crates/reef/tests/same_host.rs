//! `reef serve` for clients of the same host: the ring and shared memory, as the command line allows them.

mod harness;

use std::os::unix::fs::PermissionsExt;

use harness::serving::{Serving, request};
use harness::{Scratch, misused, refused, text};
use reef_client::{Client, OpenModel, Options, Terms};
use serde_json::{Value, json};

#[test]
fn both_ways_are_open_to_who_is_let_in() {
    let dir = Scratch::new("same-host");
    dir.zoo("control", "set/control.onnx");
    let socket = dir.path("reef.sock");
    let set = dir.path("set");
    let args = [text(&set), "--ring", text(&socket), "--ring-mode", "640", "--allow-client-shm"];
    let serving = Serving::start(&args);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o640);

    let elements = 3 * 24 * 24;
    let mut client = Client::connect(&socket, &Options::default()).unwrap();
    let model = OpenModel::new("control").input("input", "FP32", &[1, 3, 24, 24]);
    let model = client.open(&model).unwrap();
    let data: Vec<u8> = [0.5f32.to_le_bytes()].concat().repeat(elements);
    let read = |client: &Client, slot| client.output(slot, 0).map(|output| output.data.to_vec());
    let output = client.infer(model, &[&data], &Terms::default(), read).unwrap().unwrap();
    let ours: Vec<f32> =
        output.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();

    let input = json!({
        "name": "input", "shape": [1, 3, 24, 24], "datatype": "FP32", "data": vec![0.5; elements],
    });
    let body = json!({ "inputs": [input] }).to_string();
    let (status, answer) = request(serving.http, "POST", "/v2/models/control/infer", &body);
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let theirs: Vec<f32> = serde_json::from_value(answer["outputs"][0]["data"].clone()).unwrap();
    assert_eq!(ours, theirs);

    let (status, regions) = request(serving.http, "GET", "/v2/systemsharedmemory/status", "");
    assert_eq!((status, &*regions), (200, "[]"));
}

#[test]
fn what_is_not_asked_for_is_closed() {
    let dir = Scratch::new("same-host-not");
    dir.zoo("control", "set/control.onnx");
    let set = dir.path("set");
    let serving = Serving::start(&[text(&set)]);
    let (status, answer) = request(serving.http, "GET", "/v2/systemsharedmemory/status", "");
    assert!(status == 501 && answer.contains("--allow-client-shm"), "{status} {answer}");
}

#[test]
fn sockets_that_cannot_be_are_refused() {
    let dir = Scratch::new("same-host-bad");
    dir.zoo("control", "set/control.onnx");
    dir.file("mine", "a file");
    let (set, mine, nowhere) = (dir.path("set"), dir.path("mine"), dir.path("none/reef.sock"));
    let serve = |ring: &str, expected: &[&str]| {
        let args = ["serve", text(&set), "--http-port", "0", "--metrics-port", "0", "--ring", ring];
        refused(&args, expected);
    };
    serve(text(&mine), &["mine", "for the ring", "exists"]);
    serve(text(&nowhere), &["reef.sock", "for the ring", "No such file"]);
    assert_eq!(std::fs::read_to_string(&mine).unwrap(), "a file");
    for mode in ["999", "rw", "1777", ""] {
        misused(&["serve", text(&set), "--ring", "x.sock", "--ring-mode", mode], "not a mode");
    }
}
