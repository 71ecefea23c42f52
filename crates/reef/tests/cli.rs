//! The command line end to end: what a user types, and the errors for what they type wrong.

use std::process::{Command, Output};

fn reef(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reef")).args(args).env("REEF_LOG", "warn").output().expect("the binary runs")
}

#[test]
fn a_missing_model_is_named() {
    let output = reef(&["run", "/nonexistent/model.onnx", "--random", "1"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/model.onnx"));
}
