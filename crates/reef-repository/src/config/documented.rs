//! Configurations as people have them: what becomes of each key. The table is docs/REPOSITORY.md's.

use super::*;

enum Becomes {
    /// It is in force, or says nothing else than what is.
    Works,
    /// It has no effect, and the notice begins like that.
    Noticed(&'static str),
    /// The model is not served, and the fault has all of these.
    Refused(&'static [&'static str]),
}
use Becomes::{Noticed, Refused, Works};

fn check(text: &str, becomes: &Becomes) {
    let read = ModelConfig::of_text(text);
    match (read, becomes) {
        (Ok(config), Works) => assert_eq!(config.notices, [], "{text}"),
        (Ok(config), Noticed(begin)) => {
            let told: Vec<String> = config.notices.iter().map(ToString::to_string).collect();
            assert!(told.len() == 1 && told[0].contains(begin), "{text}: {told:?}");
        }
        (Err(fault), Refused(parts)) => {
            let fault = fault.to_string();
            assert!(parts.iter().all(|part| fault.contains(part)), "{text}: {fault}");
        }
        (read, _) => panic!("{text}: {read:?}"),
    }
}

#[test]
fn what_is_served_on_other_terms_is_told() {
    let cases = [
        (
            r#"optimization { execution_accelerators { gpu_execution_accelerator : [ { name : "tensorrt"
            parameters { key: "precision_mode" value: "FP16" }
            parameters { key: "max_workspace_size_bytes" value: "1073741824" } } ] } }"#,
            "optimization: ignored",
        ),
        (
            r#"optimization { graph : { level : 1 } cuda { graphs: true graph_spec { batch_size: 4 } } }"#,
            "optimization",
        ),
        (
            "instance_group [ { count: 1 kind: KIND_GPU gpus: [ 0, 1 ] }, { count: 2 kind: KIND_CPU } ]",
            "instance_group",
        ),
        (
            r#"instance_group [ { kind: KIND_GPU rate_limiter {
                resources [ { name: "R1" count: 4 } ] priority: 2 } } ]"#,
            "instance_group",
        ),
        ("response_cache { enable: true }", "response_cache: ignored"),
        (r#"runtime: "libtriton_onnxruntime.so""#, "runtime: ignored"),
        (r#"metric_tags { key: "team" value: "robots" }"#, "metric_tags"),
        (
            r#"model_metrics { metric_control [ {
                metric_identifier { family: "nv_inference_first_response" } } ] }"#,
            "model_metrics",
        ),
        (r#"cc_model_filenames { key: "8.6" value: "model_86.onnx" }"#, "cc_model_filenames"),
        (
            r#"model_repository_agents { agents [ { name: "checksum"
            parameters { key: "MD5:1/model.onnx" value: "d41d8cd98f00b204e9800998ecf8427e" } } ] }"#,
            "model_repository_agents",
        ),
        (
            r#"input [ { name: "shape" data_type: TYPE_INT32 dims: [ 2 ] is_shape_tensor: true } ]"#,
            "is_shape_tensor: ignored",
        ),
        (
            r#"input [ { name: "x" data_type: TYPE_FP16 dims: [ 8 ] is_non_linear_format_io: true } ]"#,
            "is_non_linear_format_io: ignored",
        ),
        (
            r#"input [ { name: "x" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, 224 ] } ]"#,
            "format: ignored",
        ),
        (
            r#"input [ { name: "mask" data_type: TYPE_FP32 dims: [ 8 ] optional: true } ]"#,
            "optional: ignored",
        ),
        ("max_batch_size: 8 dynamic_batching { preserve_ordering: true }", "preserve_ordering: ignored"),
        ("some_new_field { a: 1 }", "some_new_field: there is no such field"),
    ];
    cases.iter().for_each(|(text, notice)| check(text, &Noticed(notice)));
}

#[test]
fn what_would_be_answered_otherwise_is_refused_by_its_name() {
    let cases: [(&str, &[&str]); 18] = [
        (
            r#"sequence_batching { max_sequence_idle_microseconds: 5000000 direct { }
            control_input [ { name: "START" control [
              { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] } ] }"#,
            &["sequence_batching", "not served"],
        ),
        (
            r#"ensemble_scheduling { step [ { model_name: "pre" model_version: -1
            input_map { key: "RAW" value: "in" } output_map { key: "OUT" value: "mid" } } ] }"#,
            &["ensemble_scheduling", "not served"],
        ),
        (r#"platform: "ensemble""#, &["platform", "'ensemble' is not served"]),
        (r#"platform: "tensorflow_savedmodel""#, &["platform", "only ONNX"]),
        (r#"backend: "tensorrt""#, &["backend", "only ONNX"]),
        (
            r#"batch_input [ { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "INDEX" data_type: TYPE_FP32
            source_input: "x" } ]"#,
            &["batch_input", "not served"],
        ),
        (
            r#"batch_output [ { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "y" source_input: "x" } ]"#,
            &["batch_output", "not served"],
        ),
        (
            r#"input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true } ]"#,
            &["allow_ragged_batch", "not served"],
        ),
        ("model_transaction_policy { decoupled: True }", &["decoupled", "not served"]),
        (r#"model_operations { op_library_filename: [ "custom.so" ] }"#, &["model_operations"]),
        (r#"default_model_filename: "../other/model.onnx""#, &["default_model_filename"]),
        (r#"version_policy: { specific: { versions: [] } }"#, &["specific", "no version"]),
        (r#"version_policy: { latest: { num_versions: 0 } }"#, &["num_versions"]),
        (r#"input [ { name: "x" data_type: TYPE_FP32 dims: [ 3, 0 ] } ]"#, &["dims"]),
        (
            r#"dynamic_batching { preferred_batch_size: [ 4, 8 ] } max_batch_size: 4"#,
            &["preferred_batch_size 8"],
        ),
        (
            r#"max_batch_size: 4 dynamic_batching { priority_levels: 2 default_priority_level: 3 }"#,
            &["default_priority_level 3"],
        ),
        (
            r#"model_warmup [ { name: "w"
            inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 4 ] } } } ]"#,
            &["'x' has no data", "zero_data"],
        ),
        (
            r#"output [ { name: "y" data_type: TYPE_FP32 dims: [ 8 ] label_filename: "../labels.txt" } ]"#,
            &["label_filename"],
        ),
    ];
    cases.iter().for_each(|(text, parts)| check(text, &Refused(parts)));
}

#[test]
fn the_rest_is_in_force() {
    let cases = [
        r#"name: "densenet_onnx" platform: "onnxruntime_onnx" max_batch_size : 0
           input [ { name: "data_0" data_type: TYPE_FP32 format: FORMAT_NONE dims: [ 3, 224, 224 ]
                     reshape { shape: [ 3, 224, 224 ] } } ]
           output [ { name: "fc6_1" data_type: TYPE_FP32 dims: [ 1000 ] label_filename: "labels.txt" } ]"#,
        r#"backend: "onnxruntime" default_model_filename: "model.onnx"
           model_transaction_policy { decoupled: False }"#,
        "version_policy: { all { } }",
        "version_policy: { latest: { num_versions: 2 } }",
        "version_policy: { specific: { versions: [ 1, 3 ] } }",
        r#"parameters { key: "intra_op_thread_count" value: { string_value: "0" } }"#,
        "max_batch_size: 8 dynamic_batching { }",
        r#"max_batch_size: 16 dynamic_batching {
             preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 preserve_ordering: false
             priority_levels: 2 default_priority_level: 2
             default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 10000
                                    allow_timeout_override: true max_queue_size: 100 }
             priority_queue_policy { key: 1 value: { timeout_action: DELAY max_queue_size: 10 } } }"#,
        r#"max_batch_size: 8 model_warmup [
             { name : "zero" batch_size: 8
               inputs { key: "x" value: { data_type: TYPE_FP32 dims: [ 3, 4 ] zero_data: true } } },
             { name : "random" batch_size: 1 count: 5
               inputs: { key: "x" value: { data_type: TYPE_FP32 dims: [ 3, 4 ] random_data: true } } },
             { name : "file" batch_size: 1
               inputs: [ { key: "x" value: { data_type: TYPE_FP32 dims: 3 dims: 4
                                             input_data_file: "x.raw" } } ] } ]"#,
        r#"input { name: "x" data_type: TYPE_BF16 dims: [ -1 ] is_shape_tensor: false
                   allow_ragged_batch: false
                   optional: false }"#,
    ];
    cases.iter().for_each(|text| check(text, &Works));
}

/// Against the model: a scalar that is described as one element, and shapes that requests do not have.
#[test]
fn a_reshape_is_refused_by_its_name() {
    let x = [Declared { name: "x".into(), datatype: "FP32".into(), dims: vec![-1] }];
    let judged = |reshape: &str| {
        let text =
            format!("max_batch_size: 4 input {{ name: 'x' dims: [ 1 ] reshape: {{ shape: {reshape} }} }}");
        ModelConfig::of_text(&text).unwrap().check(&x, &[])
    };
    for reshape in ["[ ]", "[ 1, 1 ]"] {
        let fault = judged(reshape).unwrap_err().to_string();
        assert!(fault.contains("input 'x'") && fault.contains("reshape is not served"), "{fault}");
    }
}
