//! Any text as a model's configuration, in the text format and as JSON: reading it must end in a
//! configuration or a fault, and what was read must be answered and checked without a panic.
//!
//! `cargo +nightly fuzz run -s none config fuzz/corpus/config -- -dict=fuzz/dictionaries/config`
#![no_main]

use libfuzzer_sys::fuzz_target;
use reef_repository::config::{Declared, Extra, ModelConfig};

fuzz_target!(|text: &str| {
    let declared =
        |name: &str, dims: &[i64]| Declared { name: name.into(), datatype: "FP32".into(), dims: dims.into() };
    let inputs = vec![declared("x", &[-1, 3]), declared("y", &[])];
    for config in [ModelConfig::of_text(text), ModelConfig::of_json(text)].into_iter().flatten() {
        let _ = config.check(&inputs, &inputs);
        config.shapes(&inputs);
        let extra = Extra { inputs: inputs.clone(), outputs: inputs.clone(), ..Extra::default() };
        let answer = config.answer(&extra).to_string();
        // What clients are told can be loaded again.
        ModelConfig::of_json(&answer).expect("an answer is a configuration");
    }
});
