//! The command line end to end: what a user types, and the errors for what they type wrong.

mod harness;
#[path = "programs/make.rs"]
mod make;

use std::io::Read;
use std::process::Stdio;

use harness::onnx::{nodes, one_node};
use harness::{Scratch, command, misused, npy, refused, succeeds, text};
use serde_json::Value;

/// Elements of the input `[1, 3, 24, 24]` of the tiny `control`.
const ELEMENTS: usize = 3 * 24 * 24;

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&succeeds(args)).unwrap()
}

#[test]
fn files_that_are_no_models_are_refused() {
    let dir = Scratch::new("no-models");
    refused(
        &["run", "/nonexistent/model.onnx", "--random", "1"],
        &["/nonexistent/model.onnx", "No such file"],
    );
    let whole = std::fs::read(dir.zoo("control", "control.onnx")).unwrap();
    for len in [0, 1, 7, 100, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
        let cut = dir.file("cut.onnx", &whole[..len]);
        refused(&["run", text(&cut), "--random", "1"], &["cut.onnx", "not a valid ONNX model"]);
    }
    let mut state = 1u64;
    for round in 0..8 {
        let mut noise = vec![0u8; 1 << (round + 4)];
        for byte in &mut noise {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *byte = (state >> 56) as u8;
        }
        let noise = dir.file("noise.onnx", noise);
        for what in ["inspect", "profile"] {
            refused(&[what, text(&noise)], &["noise.onnx"]);
        }
    }
}

#[test]
fn files_of_other_kinds_are_refused_in_one_line() {
    let dir = Scratch::new("other-kinds");
    let endless: &[u8] = b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x01";
    let kinds: [(&str, &[u8]); 6] = [
        ("empty", b""),
        ("zeros", &[0; 4096]),
        ("text", b"these are words\n"),
        ("zip", b"PK\x03\x04 and more"),
        ("tar", b"model.onnx\0\0\0\0 0000644"),
        ("endless", endless),
    ];
    for (kind, bytes) in kinds {
        let file = dir.file(&format!("{kind}.onnx"), bytes);
        for what in [&["inspect"][..], &["profile"], &["run", "--random", "1"]] {
            let args = [&what[..1], &[text(&file)], &what[1..]].concat();
            refused(&args, &[&format!("{kind}.onnx"), "not a valid ONNX model"]);
        }
    }
}

/// The tiny distilbert has no places for so many tokens.
#[test]
fn extents_that_do_not_fit_are_refused_with_what_to_give() {
    let dir = Scratch::new("extents");
    let model = dir.zoo_dynamic("distilbert", "distilbert.onnx");
    let unknown = ["no symbolic dimension 'N'; it has batch, sequence"];
    refused(&["inspect", text(&model), "--dim", "N=2"], &unknown);
    let advice = ["(Add)", "input_ids [1,5000] (declared [batch,sequence])", "give --dim batch=N)"];
    for what in [&["inspect"][..], &["profile"], &["run", "--random", "1"]] {
        let args = [&what[..1], &[text(&model), "--dim", "sequence=5000"], &what[1..]].concat();
        refused(&args, &advice);
    }
}

#[test]
fn operators_that_cannot_run_are_named_with_their_node() {
    let dir = Scratch::new("operators");
    let unknown = dir.file("unknown.onnx", one_node("Frobnicate", 1));
    refused(&["run", text(&unknown), "--random", "1"], &["unknown.onnx", "Frobnicate", "the_node"]);
    // The hand-made file is a model: the same with an operator that exists runs.
    let known = dir.file("known.onnx", one_node("Relu", 1));
    succeeds(&["run", text(&known), "--random", "1"]);
    let counted = dir.file("counted.onnx", one_node("NonZero", 7));
    succeeds(&["run", text(&counted), "--random", "1"]);
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let dir = Scratch::new("inputs");
    let model = dir.zoo("control", "control.onnx");
    let run = |input: &str, expected: &[&str]| refused(&["run", text(&model), "--input", input], expected);
    refused(&["run", text(&model)], &["input 'input' is missing", "--random"]);
    let good = dir.file("good.npy", npy("<f4", "(1, 3, 24, 24)", &[0; ELEMENTS * 4]));
    run(&format!("image={}", text(&good)), &["no input 'image'", "it has input"]);
    run("input=/nonexistent/x.npy", &["/nonexistent/x.npy"]);
    let files = [
        ("shape.npy", npy("<f4", "(1, 3, 25, 24)", &[0; 3 * 25 * 24 * 4]), ["input", "25"]),
        ("rank.npy", npy("<f4", "(3, 24, 24)", &[0; ELEMENTS * 4]), ["input", "24"]),
        ("type.npy", npy("<i8", "(1, 3, 24, 24)", &[0; ELEMENTS * 8]), ["input", "i64"]),
        ("complex.npy", npy("<c8", "(1, 3, 24, 24)", &[0; ELEMENTS * 8]), ["complex.npy", "c8"]),
        ("short.npy", npy("<f4", "(1, 3, 24, 24)", &[0; ELEMENTS]), ["short.npy", "shorter"]),
        ("long.npy", npy("<f4", "(1, 3, 24, 24)", &[0; ELEMENTS * 5]), ["long.npy", "longer"]),
        ("noise.npy", vec![7; 300], ["noise.npy", "not a tensor"]),
        (
            "huge.npy",
            npy("<f4", "(1, 3, 9223372036854775807, 24)", &[]),
            ["huge.npy", "larger than a tensor"],
        ),
        ("large.npy", npy("<f8", "(2147483648,)", &[]), ["large.npy", "shorter"]),
    ];
    for (name, content, expected) in files {
        let file = dir.file(name, content);
        run(&format!("input={}", text(&file)), &expected);
    }
    refused(&["run", text(&model), "--random", "1", "--dim", "batch=3"], &["symbolic dimension 'batch'"]);
}

#[test]
fn outputs_are_written_or_the_place_is_named() {
    let dir = Scratch::new("outputs");
    let model = dir.zoo("control", "control.onnx");
    let out = dir.path("out");
    let args = ["run", text(&model), "--random", "1", "--output-dir"];
    succeeds(&[&args[..], &[text(&out)]].concat());
    let first = std::fs::read(out.join("action.npy")).unwrap();
    succeeds(&[&args[..], &[text(&out)]].concat());
    assert_eq!(first, std::fs::read(out.join("action.npy")).unwrap());
    let taken = dir.file("taken", "kept");
    refused(&[&args[..], &[text(&taken)]].concat(), &["taken"]);
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "kept");
    let blocked = dir.path("blocked");
    std::fs::create_dir_all(blocked.join("action.npy")).unwrap();
    refused(&[&args[..], &[text(&blocked)]].concat(), &["action.npy"]);
}

#[test]
fn nan_passes_through() {
    let dir = Scratch::new("nan");
    let model = dir.file("relu.onnx", one_node("Neg", 1));
    let values = [f32::NAN, 1.0, f32::INFINITY, -2.0].map(f32::to_le_bytes).concat();
    let input = format!("x={}", text(&dir.file("x.npy", npy("<f4", "(4,)", &values))));
    let out = dir.path("out");
    succeeds(&["run", text(&model), "--input", &input, "--output-dir", text(&out)]);
    let file = std::fs::read(out.join("y.npy")).unwrap();
    let y = &file[file.len() - 16..];
    let y: Vec<f32> = y.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert!(y[0].is_nan());
    assert_eq!(y[1..], [-1.0, f32::NEG_INFINITY, 2.0]);
}

#[test]
fn an_index_beyond_its_axis_is_an_error() {
    let dir = Scratch::new("index");
    let model = dir.zoo("distilbert", "distilbert.onnx");
    let with = |id: i64| {
        let mut ids = [1i64; 16];
        ids[7] = id;
        let bytes = ids.map(i64::to_le_bytes).concat();
        format!("input_ids={}", text(&dir.file(&format!("{id}.npy"), npy("<i8", "(1, 16)", &bytes))))
    };
    succeeds(&["run", text(&model), "--input", &with(2), "--random", "1"]);
    for id in [99_999, -99_999] {
        let index = format!("Gather: indices[7] is {id}, allowed are -");
        refused(&["run", text(&model), "--input", &with(id), "--random", "1"], &[&index]);
    }
}

#[test]
fn repeated_runs_report_percentiles() {
    let dir = Scratch::new("repeat");
    let model = dir.zoo("control", "control.onnx");
    let report = json(&["run", text(&model), "--random", "1", "--repeat", "5", "--json"]);
    assert_eq!(report["latency_ns"]["count"], 5);
    let at = |name: &str| report["latency_ns"][name].as_u64().unwrap();
    assert!(0 < at("min") && at("min") <= at("p50") && at("p50") <= at("p99") && at("p99") <= at("max"));
}

#[test]
fn streams_that_do_not_fit_are_named() {
    let dir = Scratch::new("stream-bad");
    let model = dir.file("recurrent.onnx", make::recurrent().onnx);
    let file = |name: &str, shape: &str, values: usize| {
        let path = dir.file(name, npy("<f4", shape, &vec![0; values * 4]));
        path.to_str().unwrap().to_string()
    };
    let (one, three, two) =
        (file("1.npy", "(2,)", 2), file("3.npy", "(3, 2)", 6), file("2.npy", "(2, 2)", 4));
    let (none, flat) = (file("0.npy", "(0, 2)", 0), file("scalar.npy", "()", 1));
    let x = |file: &str| ["--each".to_string(), format!("x={file}")];
    let state = |flag: &str, file: &str| [flag.to_string(), format!("state={file}")];
    let carry = |pair: &str| ["--carry".to_string(), pair.to_string()];
    let run = |parts: &[[String; 2]], expected: &[&str]| {
        let parts: Vec<&str> = parts.iter().flatten().map(String::as_str).collect();
        refused(&[&["run", text(&model), "--random", "1"], &parts[..]].concat(), expected);
    };
    run(&[x(&none)], &["--each: input 'x' is [0,2]", "first axis counts the runs"]);
    run(&[x(&flat)], &["--each: input 'x' is []"]);
    run(&[x(&one)], &["input 'x'", "[]"]);
    run(&[x(&three), state("--each", &two)], &["'state' is for 2 runs, another one for 3"]);
    run(&[["--each".into(), format!("q={one}")]], &["no input 'q'"]);
    run(&[x(&three), ["--input".into(), format!("x={one}")]], &["input 'x' is given twice"]);
    run(&[x(&three), x(&three)], &["input 'x' is given twice"]);
    run(&[carry("last=state")], &["--carry: the model has no output 'last'"]);
    run(&[carry("next=memory")], &["--carry: the model has no input 'memory'"]);
    run(&[carry("next=state"), carry("y=state")], &["input 'state' is given twice"]);
    run(&[x(&three), carry("next=x")], &["input 'x' is given twice"]);
    run(&[carry("next=unused")], &["output 'next' is f32, input 'unused' i64"]);
    misused(&["run", text(&model), "--carry", "next"], "expected OUT=IN");
    misused(&["run", text(&model), "--each", "x=x.npy", "--repeat", "3"], "--repeat");
}

#[test]
fn a_stream_carries_its_state_and_stacks_its_outputs() {
    let dir = Scratch::new("stream");
    let model = dir.file("recurrent.onnx", make::recurrent().onnx);
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let x = dir.file("x.npy", npy("<f4", "(3, 2)", &bytes(&[1.0, 10.0, 2.0, 20.0, 3.0, 30.0])));
    let one = dir.file("one.npy", npy("<f4", "(2,)", &bytes(&[1.0, 10.0])));
    let state = dir.file("state.npy", npy("<f4", "(2,)", &bytes(&[0.5, 0.0])));
    let unused = dir.file("unused.npy", npy("<i8", "(2,)", &[0; 16]));
    let out = dir.path("out");
    let given = |name: &str, path: &std::path::Path| format!("{name}={}", text(path));
    let run = |more: &[&str]| {
        let (state, unused) = (given("state", &state), given("unused", &unused));
        let args = ["run", text(&model), "--input", &state, "--input", &unused, "--carry", "next=state"];
        let report = json(&[&args, more, &["--output-dir", text(&out), "--json"]].concat());
        let tensor = |name: &str| {
            let file = std::fs::read(out.join(report["outputs"][name].as_str().unwrap())).unwrap();
            let array = npyz::NpyFile::new(&file[..]).unwrap();
            (array.shape().to_vec(), array.into_vec::<f32>().unwrap())
        };
        (report["latency_ns"]["count"].as_u64().unwrap(), tensor("y"), tensor("next"))
    };
    let sums = vec![1.5, 10.0, 3.5, 30.0, 6.5, 60.0];
    let negative: Vec<f32> = sums.iter().map(|sum| -sum).collect();
    assert_eq!(run(&["--each", &given("x", &x)]), (3, (vec![3, 2], negative), (vec![3, 2], sums)));
    // Without inputs of their own the runs are as many as asked for, and the last one is written.
    let last = (3, (vec![2], vec![-3.5, -30.0]), (vec![2], vec![3.5, 30.0]));
    assert_eq!(run(&["--input", &given("x", &one), "--repeat", "3"]), last);
}

#[test]
fn inspect_shows_the_plan_and_its_hash_is_stable() {
    let dir = Scratch::new("inspect");
    let model = dir.zoo("control", "control.onnx");
    let plain = succeeds(&["inspect", text(&model)]);
    for expected in ["plan ", "input   input f32[1,3,24,24]", "output  action", "natively", "restart"] {
        assert!(plain.contains(expected), "{expected}: {plain}");
    }
    let report = json(&["inspect", text(&model), "--json"]);
    for key in ["hash", "target", "inputs", "outputs", "parameters", "operators", "host_kernels", "memory"] {
        assert!(!report[key].is_null(), "{key}");
    }
    let kernel = &report["stages"][0]["kernels"][0];
    assert!(kernel["native"].is_boolean() && kernel["restart_safe"].is_boolean());
    assert_eq!(report, json(&["inspect", text(&model), "--json"]));
    assert!(plain.contains(report["hash"].as_str().unwrap()));
    for view in ["--graph", "--plan"] {
        assert!(succeeds(&["inspect", text(&model), view]).lines().count() > 5, "{view}");
    }
}

#[test]
fn symbolic_dimensions_take_the_extents_given() {
    let dir = Scratch::new("dims");
    let model = dir.zoo_dynamic("distilbert", "distilbert.onnx");
    let dims = ["--dim", "batch=3", "--dim", "sequence=5"];
    let report = json(&[&["inspect", text(&model), "--json"], &dims[..]].concat());
    assert_eq!(report["inputs"][0]["shape"], serde_json::json!([3, 5]));
    succeeds(&[&["run", text(&model), "--random", "1"], &dims[..]].concat());
    refused(&["inspect", text(&model), "--dim", "length=5"], &["symbolic dimension 'length'"]);
    misused(&["inspect", text(&model), "--dim", "batch=many"], "'many' is not an extent");
    for huge in ["batch=18446744073709551615", "batch=4611686018427387904", "sequence=2147483649"] {
        let random = ["run", text(&model), "--random", "1"];
        for command in [&random[..], &["inspect", text(&model)], &["profile", text(&model)]] {
            refused(&[command, &["--dim", huge]].concat(), &["input_ids", "larger than a tensor may be"]);
        }
    }
}

#[test]
fn numbers_out_of_range_are_named() {
    for seconds in ["0", "-1", "NaN", "1e300", "1e-10", "soon"] {
        misused(&["demo", "--seconds", seconds], "seconds");
    }
    for repeat in ["0", "18446744073709551615"] {
        misused(&["run", "m.onnx", "--random", "1", "--repeat", repeat], "--repeat");
    }
    for nice in ["-21", "20"] {
        misused(&["inspect", "m.onnx", "--nice", nice], "--nice");
    }
    // It is the model that is missing.
    refused(&["inspect", "/nonexistent/m.onnx", "--nice", "-20"], &["/nonexistent/m.onnx"]);
    let dir = Scratch::new("numbers");
    let model = dir.zoo("control", "control.onnx");
    for cus in ["0", "65", "18446744073709551615"] {
        refused(&["run", text(&model), "--random", "1", "--cus", cus], &["compute units"]);
    }
}

#[test]
fn devices_that_cannot_be_meant_are_refused() {
    for (given, expected) in [
        ("gpu", "there is no device 'gpu'"),
        ("cpu:", "'' is not a core"),
        ("cpu:1-0", "the range 1-0 is empty"),
        ("cpu:0,0", "core 0 is listed twice"),
    ] {
        misused(&["inspect", "m.onnx", "--device", given], expected);
    }
    let dir = Scratch::new("devices");
    let model = dir.zoo("control", "control.onnx");
    let refuses = |more: &[&str], expected: &[&str]| {
        refused(&[&["run", text(&model), "--random", "1"][..], more].concat(), expected);
    };
    refuses(&["--device", "cpu", "--device", "cpu"], &["--device cpu --device cpu", "one device"]);
    refuses(&["--device", "cpu:4000"], &["core 4000", "this process may use"]);
    let core = format!("cpu:{}", reef_cpu::allowed_cores()[0]);
    refuses(&["--device", &core, "--cus", "1"], &["--cus 1", &core, "compute units"]);
    let served = |more: &[&str], expected: &[&str]| {
        let ports = ["--http-port", "0", "--metrics-port", "0"];
        refused(&[&["serve", text(model.parent().unwrap())][..], &ports, more].concat(), expected);
    };
    let both = [&*format!("core {}", &core[4..]), "cpu:0 ('cpu')", &format!("cpu:1 ('{core}')")];
    served(&["--device", "cpu", "--device", &core], &both);
    dir.file("reef.toml", "[model.control]\ndevices = [\"cpu:1\"]");
    served(&["--device", &core], &["model control", "there is no device 'cpu:1'; there are cpu:0"]);
    dir.file("reef.toml", "[model.control]\nplacement = \"halved\"");
    served(&["--device", &core], &["model control", "there are \"one\", \"replicate\", \"split\""]);
    dir.file("reef.toml", "[model.control]\nplacement = \"split\"\ndevices = [\"cpu:0\", \"cpu:1\"]");
    served(&["--device", &core], &["model control", "there is no device 'cpu:1'; there are cpu:0"]);
    dir.file("reef.toml", "devices = [\"gpu:0\"]");
    served(&[], &["reef.toml:1: devices", "there is no device 'gpu'"]);
}

#[test]
fn devices_are_listed() {
    let listed = json(&["devices", "--json"]);
    let cpu = &listed["devices"][0];
    assert_eq!(cpu["kind"], "cpu");
    assert_eq!(cpu["cores"], serde_json::json!(reef_cpu::allowed_cores()));
    assert!(cpu["instruction_set"].is_string() && cpu["model"].is_string());
    let said = succeeds(&["devices"]);
    assert!(said.contains("instruction set") && said.contains("--device cpu"), "{said}");
    let dir = Scratch::new("inspect-device");
    let model = dir.zoo("control", "control.onnx");
    let core = format!("cpu:{}", reef_cpu::allowed_cores()[0]);
    let said = succeeds(&["inspect", text(&model), "--device", &core]);
    assert!(said.starts_with("device  cpu:0 (cpu, 1 threads, "), "{said}");
    assert_eq!(json(&["inspect", text(&model), "--device", &core, "--json"])["device"]["name"], "cpu:0");
}

#[test]
fn outputs_whose_names_differ_only_in_slashes_have_files_of_their_own() {
    let dir = Scratch::new("slashes");
    let model = dir.file("m.onnx", nodes(&[("Neg", "a/b"), ("Abs", "a_b")], 1));
    let values = [1.0f32, -2.0, 3.0, -4.0].map(f32::to_le_bytes).concat();
    let input = format!("x={}", text(&dir.file("x.npy", npy("<f4", "(4,)", &values))));
    let out = dir.path("out");
    let report = json(&["run", text(&model), "--input", &input, "--json", "--output-dir", text(&out)]);
    for (name, expected) in [("a/b", [-1.0f32, 2.0, -3.0, 4.0]), ("a_b", [1.0, 2.0, 3.0, 4.0])] {
        let file = std::fs::read(out.join(report["outputs"][name].as_str().unwrap())).unwrap();
        assert_eq!(file[file.len() - 16..], expected.map(f32::to_le_bytes).concat(), "{name}");
    }
}

#[test]
fn a_trace_that_cannot_be_written_is_said() {
    let dir = Scratch::new("demo");
    let out = dir.path("out");
    std::fs::create_dir_all(out.join("trace.json")).unwrap();
    let said = succeeds(&["demo", "--quick", "--seconds", "0.2", "--out", text(&out)]);
    assert!(said.contains("timeline   none: cannot write the trace"), "{said}");
    let report: Value = serde_json::from_slice(&std::fs::read(out.join("results.json")).unwrap()).unwrap();
    assert!(report["trace_error"].as_str().unwrap().contains("trace.json"));
}

#[test]
fn profile_lists_every_kernel() {
    let dir = Scratch::new("profile");
    let model = dir.zoo("resnet18", "resnet18.onnx");
    let report = json(&["profile", text(&model), "--json", "--repeat", "3"]);
    assert_eq!(report["latency_ns"]["count"], 3);
    let kernels = report["kernels"].as_array().unwrap();
    assert!(kernels.len() > 10);
    assert!(kernels.iter().all(|kernel| kernel["blocks"].as_u64().unwrap() > 0));
    let table = succeeds(&["profile", text(&model), "--repeat", "1", "--top", "2"]);
    assert_eq!(table.lines().count(), 4, "{table}");
}

#[test]
fn zoo_writes_every_model_or_says_why_not() {
    let dir = Scratch::new("zoo");
    let out = dir.path("models");
    succeeds(&["zoo", "--tiny", "--out", text(&out)]);
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), reef_zoo::Model::ALL.len());
    for model in reef_zoo::Model::ALL {
        assert!(out.join(format!("{model}.onnx")).is_file(), "{model}");
        refused(&["zoo", "--model", "alexnet", "--out", text(&out)], &["`alexnet`", model.name()]);
    }
    let taken = dir.file("taken", "kept");
    refused(&["zoo", "--tiny", "--out", text(&taken)], &["taken"]);
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "kept");
}

#[test]
fn a_reader_that_leaves_early_is_not_an_error() {
    let dir = Scratch::new("pipe");
    let model = dir.zoo("resnet152", "resnet152.onnx");
    for args in [&["inspect", text(&model)][..], &["bench", "micro", "--quick", "--only", "stage"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut child = command(args).stdout(Stdio::from(writer)).stderr(Stdio::piped()).spawn().unwrap();
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert!(child.wait().unwrap().success() && !errors.contains("panicked"), "{args:?}: {errors}");
    }
}
