//! Repositories as people have them, and as they should not have them.

use reef_base::Class;

use super::*;

fn directory(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("reef-repository-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    for (path, text) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

/// Keys of what is served.
fn keys(snapshot: &Snapshot) -> Vec<String> {
    let versions = snapshot.models.values().flat_map(|found| &found.versions);
    versions.map(|version| version.key.to_string()).collect()
}

#[test]
fn every_layout_and_every_place_of_settings_is_found() {
    let dir = directory(
        "layouts",
        &[
            ("a/1/model.onnx", ""),
            ("a/2/model.onnx", ""),
            ("a/reef.toml", "level = 2\nqueue_len = 5"),
            ("f/1/model.onnx/model.onnx", ""),
            ("f/1/model.onnx/weights.bin", ""),
            ("b.onnx", ""),
            ("c.onnx", ""),
            ("c.toml", "weight = 7"),
            ("d/model.onnx", ""),
            ("e/1/net.onnx", ""),
            (
                "e/config.pbtxt",
                "default_model_filename: 'net.onnx' parameters { key: 'weight' value { string_value: '4' } } \
                 parameters { key: 'queue_len' value { string_value: '6' } }",
            ),
            ("e/reef.toml", "queue_len = 7"),
            (".hidden/1/model.onnx", ""),
            ("notes.txt", ""),
            ("papers/a.pdf", ""),
            (
                "reef.toml",
                "devices = ['cpu']\n[model.a]\nclass = \"real-time\"\nqueue_len = 9\n[model.b]\nweight = 2",
            ),
        ],
    );
    let snapshot = scan(&dir).unwrap();
    assert_eq!(keys(&snapshot), ["a/2", "b/1", "c/1", "d/1", "e/1", "f/1"]);
    let settings = |name: &str| &snapshot.models[name].settings;
    assert_eq!((settings("a").class().unwrap(), settings("a").queue_len), (Class::real_time(2), Some(5)));
    assert_eq!((settings("b").weight, settings("c").weight), (Some(2), Some(7)));
    assert_eq!((settings("e").weight, settings("e").queue_len), (Some(4), Some(7)));
    assert!(!snapshot.models["d"].has_settings());
    assert!(snapshot.models["f"].versions[0].path.ends_with("f/1/model.onnx/model.onnx"), "with its data");
    assert!(snapshot.models.values().all(|found| found.fault.is_none()), "{snapshot:#?}");
    assert!(snapshot.notices.is_empty() && snapshot.strangers.is_empty());
}

#[test]
fn policies_choose_versions() {
    let files = ["1", "3", "10", "02", "+4", "v5"].map(|version| format!("m/{version}/model.onnx"));
    let mut layout: Vec<(&str, &str)> = files.iter().map(|path| (&**path, "")).collect();
    layout.push(("m/7/other.onnx", ""));
    let chosen = |policy: &str| {
        let layout = [&layout[..], &[("m/config.pbtxt", policy)]].concat();
        let snapshot = scan(&directory("policies", &layout)).unwrap();
        let found = &snapshot.models["m"];
        assert_eq!(found.fault, None, "{policy}");
        let versions: Vec<String> =
            found.versions.iter().map(|version| version.key.version.clone()).collect();
        (versions.join(" "), found.missing.join(" "))
    };
    let plain = |text: &str| (text.to_string(), String::new());
    assert_eq!(chosen(""), plain("10"));
    assert_eq!(chosen("version_policy { latest { num_versions: 2 } }"), plain("10 3"));
    assert_eq!(chosen("version_policy: { all {} }"), plain("10 3 1"));
    assert_eq!(chosen("version_policy: { all: { } }"), plain("10 3 1"));
    let specific = chosen("version_policy { specific { versions: [3, 1] versions: 7 } }");
    assert_eq!(specific, ("3 1".into(), "7".into()));
}

/// What is wrong with one model harms no other.
#[test]
fn a_fault_is_one_models_and_says_where() {
    let cases = [
        (
            "config.pbtxt",
            "name: \"other\"",
            "config.pbtxt is of the model 'other', the directory is called 'm'",
        ),
        (
            "config.pbtxt",
            "name: \"m\"\nmax_batch_size: x",
            "config.pbtxt:2:1: max_batch_size: expected a whole",
        ),
        ("config.pbtxt", "input {", "config.pbtxt:1:8: the text ends before the '}'"),
        (
            "config.pbtxt",
            "max_batch_size: 99999999999999999999",
            "max_batch_size: 99999999999999999999 is not in",
        ),
        ("config.pbtxt", "max_batch_size: -1", "max_batch_size: -1 is not in 0 to"),
        ("config.pbtxt", "max_batch_size: 1 max_batch_size: 2", "1:19: max_batch_size: it is there twice"),
        ("config.pbtxt", "platform: 'tensorrt_plan'", "'tensorrt_plan' is not served, only ONNX"),
        ("config.pbtxt", "backend: \"python\"", "'python' is not served"),
        ("config.pbtxt", "ensemble_scheduling { }", "ensembles are not served"),
        ("config.pbtxt", "model_transaction_policy { decoupled: true }", "one answer per request"),
        ("config.pbtxt", "input { data_type: TYPE_FP32 }", "input: it has no name"),
        ("config.pbtxt", "input { name: 'x' data_type: FP32 }", "there is no type FP32"),
        ("config.pbtxt", "input { name: 'x' dims: 0 }", "an extent is -1 or at least 1"),
        ("config.pbtxt", "input { name: 'x' } input { name: 'x' }", "'x' is described twice"),
        ("config.pbtxt", "default_model_filename: '../x'", "'../x' is not the name of a file"),
        ("config.pbtxt", "output { name: 'y' label_filename: '/etc/passwd' }", "not a file in the model's"),
        ("config.pbtxt", "output { name: 'y' label_filename: 'l.txt' }", "label_filename: there is no file"),
        ("config.pbtxt", "version_policy { latest { num_versions: 0 } }", "num_versions: 0 is not in 1"),
        ("config.pbtxt", "version_policy { all {} latest {} }", "latest: it is there twice"),
        ("config.pbtxt", "version_policy { specific {} }", "it names no version"),
        ("config.pbtxt", "dynamic_batching { preferred_batch_size: [4] }", "is more than max_batch_size 0"),
        (
            "config.pbtxt",
            "dynamic_batching { priority_levels: 2 }",
            "default_priority_level 0 is none of 1 to 2",
        ),
        ("config.pbtxt", "parameters { key: 'class' value { string_value: 'soon' } }", "class = \"soon\""),
        ("config.pbtxt", "parameters { key: 'level' value { string_value: '-1' } }", "parameter level: '-1'"),
        ("config.pbtxt", "parameters { value { string_value: 'x' } }", "parameters: one has no key"),
        (
            "config.pbtxt",
            "model_warmup { inputs { key: 'x' value { dims: -1 zero_data: true } } }",
            "extent of -1",
        ),
        ("reef.toml", "colour = 1", "colour"),
        ("reef.toml", "class = \"urgent\"", "urgent"),
        ("reef.toml", "level = 3", "real-time"),
        ("reef.toml", "class = \"real-time\"\nlevel = 99", "99"),
        ("reef.toml", "weight = 0", "weight"),
        ("reef.toml", "queue_len = 0", "queue_len"),
        ("reef.toml", "deadline_ms = 0", "deadline_ms"),
        ("reef.toml", "values = [{ n = \"many\" }]", "a value is a number"),
        ("reef.toml", "devices = []", "devices"),
        ("reef.toml", "not toml", "reef.toml"),
    ];
    for (file, text, expected) in cases {
        let path = format!("m/{file}");
        let dir = directory("faults", &[("m/1/model.onnx", ""), ("fine/1/model.onnx", ""), (&path, text)]);
        let snapshot = scan(&dir).unwrap();
        assert_eq!(snapshot.models["fine"].fault, None);
        let fault = snapshot.models["m"].fault.clone().unwrap_or_default();
        assert!(fault.contains(expected), "{text}: {fault}");
    }
}

#[test]
fn what_has_no_effect_is_said_with_its_line() {
    let text = "name: 'm'\noptimization { cuda { graphs: true } }\ninstance_group [ { kind: KIND_GPU } ]\n\
                colour: 'red'\ninput {\n  name: 'x'\n  format: FORMAT_NHWC\n  optional: true\n}";
    let dir = directory("notices", &[("m/1/model.onnx", ""), ("m/model.onnx", ""), ("m/config.pbtxt", text)]);
    let snapshot = scan(&dir).unwrap();
    let found = &snapshot.models["m"];
    assert_eq!(found.fault, None);
    let expected = [
        "line 2: optimization: ignored",
        "line 3: instance_group: ignored",
        "line 4: colour: there is no such field",
        "line 7: format: ignored",
        "line 8: optional: ignored",
        "model.onnx is not served: there are versions beside it",
    ];
    assert_eq!(found.notices.len(), expected.len(), "{:?}", found.notices);
    for (notice, expected) in found.notices.iter().zip(expected) {
        assert!(notice.contains(expected), "{notice}");
    }
}

#[test]
fn the_directory_and_its_settings_must_be_readable() {
    assert!(matches!(scan(Path::new("/nonexistent")), Err(ScanError::Directory { .. })));
    let dir =
        directory("shared", &[("a.onnx", ""), ("reef.toml", "[model.a]\ncolour = 1\n[model.z]\nweight = 1")]);
    let snapshot = scan(&dir).unwrap();
    assert_eq!(snapshot.strangers, ["z"]);
    assert!(snapshot.models["a"].fault.as_ref().unwrap().contains("colour"));
    for text in ["not toml", "model = 3"] {
        std::fs::write(dir.join("reef.toml"), text).unwrap();
        let error = scan(&dir).unwrap_err().to_string();
        assert!(error.contains("reef.toml"), "{error}");
    }
    let twice = directory("twice", &[("a.onnx", ""), ("a/1/model.onnx", "")]);
    let fault = scan(&twice).unwrap().models["a"].fault.clone().unwrap();
    assert!(fault.contains("a.onnx") && fault.contains("are the same model"), "{fault}");
}

#[test]
fn a_model_called_reef_has_its_settings_in_the_table_of_its_name() {
    let dir = directory("reef", &[("reef.onnx", ""), ("reef.toml", "[model.reef]\nweight = 3")]);
    assert_eq!(scan(&dir).unwrap().models["reef"].settings.weight, Some(3));
}

#[test]
fn a_touched_file_is_a_change_and_a_comment_is_none() {
    let dir = directory("stamps", &[("m/1/model.onnx", "a"), ("m/1/w.bin", "w"), ("m/config.pbtxt", "")]);
    let before = scan(&dir).unwrap();
    assert_eq!(scan(&dir).unwrap(), before, "looking changes nothing");
    std::fs::write(dir.join("m/config.pbtxt"), "# a comment\n").unwrap();
    let commented = scan(&dir).unwrap();
    let (was, is) = (&before.models["m"], &commented.models["m"]);
    assert!(was.stamp != is.stamp && was.same_terms(is) && was.versions == is.versions);
    std::fs::write(dir.join("m/1/w.bin"), "weights").unwrap();
    let changed = scan(&dir).unwrap();
    assert_ne!(changed.models["m"].versions, before.models["m"].versions);
    std::fs::write(dir.join("m/config.pbtxt"), "max_batch_size: 0 parameters { key: 'k' value {} }").unwrap();
    assert!(!scan(&dir).unwrap().models["m"].same_terms(is));
}

/// Whatever a file of settings became, it is read or refused.
#[test]
fn damaged_settings_never_panic() {
    let good = "[model.a]\nclass = \"real-time\"\nlevel = 1\ndeadline_ms = 12.5\n\
                [model.b]\nweight = 2\nqueue_len = 8\nshapes = [{ x = [1, 4] }, { x = [2, 7] }]\n\
                values = [{ n = 3 }, { n = [1, 2], on = true }]\n";
    let dir = directory("damaged", &[("a.onnx", ""), ("b.onnx", ""), ("reef.toml", good)]);
    let (mut read, mut refused) = (0, 0);
    let mut try_it = |bytes: &[u8]| {
        std::fs::write(dir.join("reef.toml"), bytes).unwrap();
        let faults = |snapshot: Snapshot| snapshot.models.values().any(|found| found.fault.is_some());
        *(if scan(&dir).is_ok_and(|snapshot| !faults(snapshot)) { &mut read } else { &mut refused }) += 1;
    };
    try_it(good.as_bytes());
    for len in 0..good.len() {
        try_it(&good.as_bytes()[..len]);
    }
    for at in 0..good.len() {
        for byte in [b' ', b'\n', b'"', b'9', 0xFF] {
            let mut bytes = good.as_bytes().to_vec();
            bytes[at] = byte;
            try_it(&bytes);
        }
    }
    assert!(read > 20 && refused > 100, "{read} read, {refused} refused");
}

/// The same of a configuration.
#[test]
fn damaged_configurations_never_panic() {
    let good = "name: \"m\" max_batch_size: 8 input [ { name: 'x' data_type: TYPE_FP32 dims: [ 3, -1 ] } ]\n\
                version_policy { latest { num_versions: 2 } }\n\
                dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 100 }\n\
                model_warmup { name: 'w' inputs { key: 'x'\n\
                value { data_type: TYPE_FP32 dims: 3 zero_data: true } } }";
    ModelConfig::of_text(good).unwrap();
    let (mut read, mut refused) = (0, 0);
    for at in 0..good.len() {
        for byte in [' ', '\n', '"', '9', '{', '}', ':', '\0', 'é'] {
            let text = format!("{}{byte}{}", &good[..at], &good[at + 1..]);
            match ModelConfig::of_text(&text) {
                Ok(_) => read += 1,
                Err(fault) => {
                    assert!(fault.to_string().len() < 400, "{fault}");
                    refused += 1;
                }
            }
        }
        let _ = ModelConfig::of_text(&good[..at]);
    }
    assert!(read > 100 && refused > 1000, "{read} read, {refused} refused");
}
