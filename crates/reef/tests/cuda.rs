//! The command line on NVIDIA GPUs: what it says where there is none, and, on the emulated driver, what it
//! runs.

mod harness;
#[path = "programs/make.rs"]
mod make;

use std::path::Path;
use std::process::Output;

use harness::serving::{Serving, parsed, request};
use harness::{Scratch, command, npy, text};
use serde_json::{Value, json};

/// The command's end with these variables.
fn with(variables: &[(&str, &str)], args: &[&str]) -> Output {
    command(args).envs(variables.iter().copied()).output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A command that must succeed.
fn succeeds(variables: &[(&str, &str)], args: &[&str]) -> String {
    let output = with(variables, args);
    assert!(output.status.success(), "{args:?}: {}", errors(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// A command that must end with one message, which says `expected`.
fn refused(variables: &[(&str, &str)], args: &[&str], expected: &str) {
    let output = with(variables, args);
    let errors = errors(&output);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {errors}");
    assert!(errors.contains(expected), "{args:?}: '{expected}' is not in: {errors}");
    assert!(!errors.contains("panicked"), "{errors}");
}

/// A driver that cannot be loaded, whatever this machine has.
const NO_DRIVER: (&str, &str) = ("REEF_CUDA_DRIVER", "/nonexistent/libcuda.so");

#[test]
fn without_a_driver_every_command_says_so() {
    let dir = Scratch::new("no-driver");
    let model = dir.file("models/conv.onnx", make::convolution(8).onnx);
    let expected = "cannot start the device cuda:0: there is no NVIDIA driver";
    refused(&[NO_DRIVER], &["run", text(&model), "--random", "1", "--device", "cuda"], expected);
    refused(&[NO_DRIVER], &["inspect", text(&model), "--device", "cuda:0"], expected);
    let folder = dir.path("models");
    refused(&[NO_DRIVER], &["serve", text(&folder), "--device", "cpu", "--device", "cuda:0"], expected);
    let listed = succeeds(&[NO_DRIVER], &["devices"]);
    assert!(listed.contains("cuda     there is no NVIDIA driver"), "{listed}");
}

/// A tensor of f32.
fn tensor(file: &Path) -> Vec<f32> {
    let file = std::fs::read(file).unwrap();
    let header = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
    file[header..].chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// How far the outputs of one convolution and of a whole model may be from the CPU's, as a share of the
/// largest value: what a factor of each precision is rounded by, with room for layers that follow each other.
const PRECISIONS: [(&str, f32, f32); 4] =
    [("f32", 1e-5, 1e-4), ("tf32", 2e-3, 1e-2), ("f16", 2e-3, 1e-2), ("bf16", 1.6e-2, 8e-2)];

/// The largest difference, as a share of the largest value.
fn difference(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    assert!(largest > 0.0, "there is something to compare");
    // A NaN is no largest value of anything, and must not get lost.
    let off = got.iter().zip(expected).map(|(got, expected)| (got - expected).abs());
    off.fold(0f32, |worst, off| if off <= worst { worst } else { off }) / largest
}

/// What the GPU gives in its usual precision.
fn assert_near(got: &[f32], expected: &[f32]) {
    let off = difference(got, expected);
    assert!(off <= 1e-2, "{off:.1e}");
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn a_convolution_gives_what_it_gives_on_the_cpu() {
    let dir = Scratch::new("cuda-conv");
    for (channels, sms) in [(8, "1"), (70, "2"), (130, "5")] {
        let program = make::convolution(channels);
        let model = dir.file("conv.onnx", &program.onnx);
        let input = dir.file("x.npy", npy("<f4", "(2, 3, 21, 18)", &program.inputs[0].data));
        let input = format!("x={}", text(&input));
        let run = |device: &str, precision: &str| {
            let out = dir.path(&format!("{device}-{precision}"));
            let args = ["run", text(&model), "--input", &input, "--device", device, "--precision", precision];
            let variables = [("REEF_EMULATOR_SMS", sms), ("REEF_EMULATOR_SEED", "3")];
            succeeds(&variables, &[&args[..], &["--output-dir", text(&out)]].concat());
            tensor(&out.join("y.npy"))
        };
        let expected = run("cpu", "f32");
        for (precision, tolerance, _) in PRECISIONS {
            let off = difference(&run("cuda:0", precision), &expected);
            assert!(off <= tolerance, "{channels} channels in {precision}: {off:.1e}");
            assert!(precision == "f32" || off > 1e-5, "{precision} rounds, as the results show: {off:.1e}");
        }
    }
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn what_is_wrong_with_a_gpu_is_said() {
    let dir = Scratch::new("cuda-faults");
    let model = dir.file("conv.onnx", make::convolution(8).onnx);
    let run =
        |device: &'static str| ["run", text(&model), "--random", "1", "--device", device].map(String::from);
    let refused_on = |variables: &[(&str, &str)], device, expected: &str| {
        let args = run(device);
        refused(variables, &args.each_ref().map(String::as_str), expected);
    };
    refused_on(&[], "cuda:1", "there is no GPU 1: the driver sees 1");
    refused_on(&[("REEF_EMULATOR_DEVICES", "0")], "cuda", "the NVIDIA driver sees no GPU");
    refused_on(&[("CUDA_VISIBLE_DEVICES", "")], "cuda", "sees no GPU (CUDA_VISIBLE_DEVICES is '')");
    refused_on(&[("CUDA_VISIBLE_DEVICES", "-1")], "cuda", "sees no GPU (CUDA_VISIBLE_DEVICES is '-1')");
    let one_of_two = [("REEF_EMULATOR_DEVICES", "2"), ("CUDA_VISIBLE_DEVICES", "1")];
    refused_on(&one_of_two, "cuda:1", "there is no GPU 1: the driver sees 1");
    refused_on(&[("REEF_EMULATOR_VERSION", "12080")], "cuda", "is for CUDA 12.8, 13.0 is needed");
    refused_on(&[("REEF_EMULATOR_ARCH", "75")], "cuda", "architecture sm_75, sm_80 or later is needed");
    refused_on(&[("REEF_EMULATOR_COMPUTE_MODE", "3")], "cuda", "the GPU's compute mode is exclusive");
    let cache = dir.path("empty-cache");
    let no_compiler = [("REEF_NVRTC", "/nonexistent"), ("REEF_CUDA_CACHE", text(&cache))];
    refused_on(&no_compiler, "cuda", "pip install nvidia-cuda-nvrtc");
    dir.file("nvrtc/libnvrtc.so.12", "of another version");
    let nvrtc = dir.path("nvrtc");
    let old_compiler = [("REEF_NVRTC", text(&nvrtc)), ("REEF_CUDA_CACHE", text(&cache))];
    refused_on(&old_compiler, "cuda", "libnvrtc.so.12 is of another version");
    refused_on(&[("REEF_EMULATOR_MEMORY_MIB", "0")], "cuda", "CUDA_ERROR_OUT_OF_MEMORY");
    refused_on(&[("REEF_EMULATOR_LOST_AFTER", "0")], "cuda", "CUDA_ERROR_DEVICE_UNAVAILABLE (46)");
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn what_a_gpu_has_no_kernel_for_runs_on_the_host() {
    let dir = Scratch::new("cuda-hosted");
    let counted = dir.file("counted.onnx", harness::onnx::one_node("NonZero", 7));
    let outputs = ["cpu", "cuda:0"].map(|device| {
        let out = dir.path(&format!("counted-{device}"));
        let args = ["run", text(&counted), "--random", "1", "--device", device, "--output-dir", text(&out)];
        succeeds(&[], &args);
        let mut files: Vec<_> = std::fs::read_dir(&out).unwrap().flatten().map(|file| file.path()).collect();
        files.sort();
        files.iter().map(|file| std::fs::read(file).unwrap()).collect::<Vec<_>>()
    });
    assert!(!outputs[0].is_empty() && outputs[0] == outputs[1]);
    let shown = succeeds(&[], &["inspect", text(&counted), "--device", "cuda:0"]);
    assert!(shown.contains("on the host") && shown.contains("nonzero"), "{shown}");
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn the_benchmarks_models_give_what_they_give_on_the_cpu() {
    let dir = Scratch::new("cuda-models");
    for model in reef_zoo::Model::ALL {
        let name = model.to_string();
        let model = dir.zoo(&name, &format!("{name}.onnx"));
        let run = |device: &str, precision: &str| {
            let out = dir.path(&format!("{name}-{device}-{precision}"));
            let args = ["run", text(&model), "--random", "5", "--device", device, "--precision", precision];
            succeeds(&[("REEF_EMULATOR_SMS", "2")], &[&args[..], &["--output-dir", text(&out)]].concat());
            let files = std::fs::read_dir(&out).unwrap().flatten().map(|entry| entry.path());
            let mut files: Vec<_> = files.collect();
            files.sort();
            files.iter().flat_map(|file| tensor(file)).collect::<Vec<f32>>()
        };
        let expected = run("cpu", "f32");
        for (precision, _, tolerance) in PRECISIONS {
            let off = difference(&run("cuda:0", precision), &expected);
            println!("{name} in {precision}: {off:.1e}");
            assert!(off <= tolerance, "{name} in {precision}: {off:.1e}");
        }
    }
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn kernels_that_the_driver_does_not_take_are_said_to_be_so() {
    let dir = Scratch::new("cuda-image");
    let model = dir.file("conv.onnx", make::convolution(8).onnx);
    let cache = dir.path("cache");
    let variables = [("REEF_CUDA_CACHE", text(&cache))];
    let run = ["run", text(&model), "--random", "1", "--device", "cuda:0"];
    succeeds(&variables, &run);
    let kernels = std::fs::read_dir(&cache).unwrap().next().expect("they are kept").unwrap().path();
    std::fs::write(kernels, vec![7; 4096]).unwrap();
    let expected = format!("remove what is in the cache ({})", cache.display());
    refused(&variables, &run, "does not take the kernels that were compiled for the GPU");
    refused(&variables, &run, &expected);
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn gpus_are_listed() {
    let listed = succeeds(&[("REEF_EMULATOR_SMS", "7")], &["devices"]);
    for expected in ["cuda:0   emulated GPU 0", "sm_90, 7 SMs", "driver for CUDA 13.0", "NVRTC 13.0"] {
        assert!(listed.contains(expected), "'{expected}' is not in: {listed}");
    }
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn what_a_gpu_is_shared_by_is_listed() {
    let listed = |variables: &[(&str, &str)]| succeeds(variables, &["devices"]);
    let plain = listed(&[("CUDA_MPS_PIPE_DIRECTORY", "/nonexistent")]);
    assert!(!plain.contains("MIG") && !plain.contains("MPS") && !plain.contains("compute mode"), "{plain}");
    assert!(listed(&[("REEF_EMULATOR_MIG", "1g.10gb")]).contains("a MIG instance (1g.10gb)"));
    assert!(listed(&[("REEF_EMULATOR_MPS", "1")]).contains("MPS runs"));
    assert!(listed(&[("REEF_EMULATOR_COMPUTE_MODE", "3")]).contains("compute mode exclusive"));
    let variables =
        [("REEF_EMULATOR_DEVICES", "3"), ("REEF_EMULATOR_SMS", "1,4,6"), ("CUDA_VISIBLE_DEVICES", "2,1,x,0")];
    let json: Value = serde_json::from_str(&succeeds(&variables, &["devices", "--json"])).unwrap();
    let gpus: Vec<_> = json["devices"].as_array().unwrap().iter().filter(|d| d["kind"] == "cuda").collect();
    let sms: Vec<_> = gpus.iter().map(|gpu| gpu["sms"].as_u64().unwrap()).collect();
    assert_eq!(sms, [6, 4], "{json}");
    assert_eq!((&gpus[0]["mps"], &gpus[0]["compute_mode"]), (&json!(false), &json!("default")));
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn a_model_is_inspected_and_profiled() {
    let dir = Scratch::new("cuda-profile");
    let model = dir.zoo("control", "control.onnx");
    let shown = succeeds(&[], &["inspect", text(&model), "--device", "cuda:0"]);
    assert!(shown.contains("cuda:0 (emulated GPU 0, sm_90, 2 SMs)"), "{shown}");
    let args = ["profile", text(&model), "--device", "cuda:0", "--repeat", "3"];
    let table = succeeds(&[], &args);
    assert!(table.contains("kernel µs") && table.contains("latency on 2 units"), "{table}");
    let json: Value = serde_json::from_str(&succeeds(&[], &[&args[..], &["--json"]].concat())).unwrap();
    assert_eq!(json["latency_ns"]["count"], 3);
    let kernels = json["kernels"].as_array().unwrap();
    let times = || kernels.iter().map(|kernel| kernel["kernel_ns"].as_u64().unwrap());
    assert!(kernels.len() > 5 && times().all(|time| time > 0), "{json}");
    // Kernels of a task run one after the other.
    assert!(times().sum::<u64>() < json["latency_ns"]["max"].as_u64().unwrap(), "{json}");
}

const WORKLOAD: &str = r#"
name = "small"
title = "a control loop beside a small network"

[[client]]
name = "control"
model = "control"
class = "real-time"
arrivals = { kind = "periodic", rate_hz = 20.0 }

[[client]]
name = "resnet18"
model = "resnet18"
class = "best-effort"
arrivals = { kind = "closed-loop" }
"#;

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn workloads_are_played_under_every_scheme() {
    let dir = Scratch::new("cuda-bench");
    let workload = dir.file("small.toml", WORKLOAD);
    dir.zoo("control", "models/control.onnx");
    dir.zoo("resnet18", "models/resnet18.onnx");
    let (models, out) = (dir.path("models"), dir.path("out"));
    let folders = ["--models", text(&models), "--out", text(&out), "--device", "cuda:0"];
    let times = ["--duration", "0.4", "--warmup", "0.1", "--repeat", "1"];
    succeeds(&[], &[&["bench", "run", text(&workload)], &folders[..], &times].concat());
    let results: Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("results.json")).unwrap()).unwrap();
    assert!(results["machine"]["device"].as_str().unwrap().contains("emulated GPU 0"), "{results}");
    assert_eq!(results["setup"]["cus"], 2);
    let conditions = results["workloads"][0]["systems"][0]["conditions"].as_array().unwrap();
    for scheme in ["rt-only", "sequential", "concurrent", "wait", "reset"] {
        let condition = conditions.iter().find(|condition| condition["name"] == scheme).expect(scheme);
        assert!(condition["device"]["cu_utilisation"].as_f64().unwrap() > 0.0, "{condition}");
    }
    let refused_with = |more: &[&str], expected: &str| {
        refused(&[], &[&["bench", "run", text(&workload)], &folders[..], more].concat(), expected);
    };
    refused_with(&["--cus", "1"], "cuda:0 has as many compute units as it has multiprocessors");
    assert_eq!(results["notes"], json!([]));
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn launches_and_preemptions_are_measured() {
    let args = ["bench", "micro", "--device", "cuda:0", "--quick", "--json", "--only"];
    let report = succeeds(&[], &[&args[..], &["launch", "preempt", "storm"]].concat());
    let report: Value = serde_json::from_str(&report).unwrap();
    let parts = report["parts"].as_array().unwrap();
    let names: Vec<_> = parts.iter().map(|part| part["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["launch", "preempt", "storm"]);
    for row in parts.iter().flat_map(|part| part["rows"].as_array().unwrap()) {
        // How much is run again is chance.
        let again = row["name"].as_str().unwrap().contains("run again");
        assert!(row["count"].as_u64().unwrap() > 0 && (again || row["p50"].as_f64().unwrap() > 0.0), "{row}");
    }
    let rows = parts[1]["rows"].as_array().unwrap();
    for (row, name) in rows.iter().zip(["1 queued, wait", "1 queued, reset", "1 queued, reset: run again"]) {
        assert_eq!(row["name"], name);
    }
    let unknown = [&args[..], &["narrow"]].concat();
    refused(&[], &unknown, "there is no part 'narrow'; there are launch, preempt, storm, restore");
}

/// A request to `control` with this input.
fn image(data: &[f32]) -> String {
    let input = json!({ "name": "input", "shape": [1, 3, 24, 24], "datatype": "FP32", "data": data });
    json!({ "inputs": [input] }).to_string()
}

/// The first output of an answer that must be there.
fn answered((status, answer): (u16, Value)) -> Vec<f32> {
    assert_eq!(status, 200, "{answer}");
    let data = answer["outputs"][0]["data"].as_array().unwrap();
    data.iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

/// A directory with `control` on the CPU, on the GPU, and on both.
fn on_both(name: &str) -> Scratch {
    let dir = Scratch::new(name);
    dir.zoo("control", "models/there.onnx");
    dir.zoo("control", "models/here.onnx");
    dir.zoo("control", "models/either.onnx");
    let settings = "[model.there]\ndevices = [\"cuda:0\"]\n[model.here]\ndevices = [\"cpu:0\"]\n\
                    [model.either]\nplacement = \"replicate\"\n";
    dir.file("models/reef.toml", settings);
    dir
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn a_model_is_served_as_on_the_cpu() {
    let dir = on_both("cuda-serve");
    let serving = Serving::start(&[text(&dir.path("models")), "--device", "cpu", "--device", "cuda:0"]);
    let mut rng = reef_base::Rng::new(3);
    for _ in 0..5 {
        let data: Vec<f32> = (0..3 * 24 * 24).map(|_| rng.normal_f32()).collect();
        let [expected, got] = ["here", "there"].map(|model| answered(serving.infer(model, &image(&data))));
        assert!(expected.iter().any(|value| value.abs() > 1e-3), "{expected:?}");
        assert_near(&got, &expected);
    }
    let (_, metrics) = request(serving.metrics, "GET", "/metrics", "");
    assert!(metrics.contains("reef_device_up{device=\"cuda:0\"} 1"), "{metrics}");
    assert_eq!(serving.stop().0, Some(0));
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn a_gpu_that_is_lost_takes_its_requests_along_and_nothing_else() {
    let dir = on_both("cuda-lost");
    // In the middle of a request: one has 11 launches, and starting the device nine.
    let lost = [("REEF_EMULATOR_LOST_AFTER", "47")];
    let args = [text(&dir.path("models")), "--device", "cpu", "--device", "cuda:0"].map(String::from);
    let serving = Serving::start_with(&lost, &args.each_ref().map(String::as_str));
    let body = image(&[0.5; 3 * 24 * 24]);
    let expected = answered(serving.infer("here", &body));
    assert_near(&answered(serving.infer("there", &body)), &expected);
    let ended = std::thread::scope(|scope| {
        let (to, path, body) = (serving.http, "/v2/models/there/infer", &body);
        let ask = move || (0..10).map(|_| parsed(request(to, "POST", path, body))).collect::<Vec<_>>();
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    let (done, failed): (Vec<_>, Vec<_>) = ended.into_iter().partition(|(status, _)| *status == 200);
    assert!(done.len() < 4 && failed.len() > 30, "{} done, {} failed", done.len(), failed.len());
    done.into_iter().for_each(|answer| assert_near(&answered(answer), &expected));
    for (status, answer) in failed {
        assert!(status >= 500 && answer["error"].as_str().unwrap().contains("device"), "{status} {answer}");
    }
    assert_eq!(answered(serving.infer("here", &body)), expected);
    assert_eq!(answered(serving.infer("either", &body)), expected, "it is on the CPU, too");
    let (_, metrics) = request(serving.metrics, "GET", "/metrics", "");
    for line in ["reef_device_up{device=\"cuda:0\"} 0", "reef_device_up{device=\"cpu:0\"} 1"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let (_, server) = serving.get("/v2");
    let up = |device: &Value| (device["name"].as_str().unwrap().to_string(), device["up"] == true);
    let up: Vec<_> = server["devices"].as_array().unwrap().iter().map(up).collect();
    assert_eq!(up, [("cpu:0".to_string(), true), ("cuda:0".to_string(), false)]);
    assert_eq!((serving.get("/v2/models/there/ready").0, serving.get("/v2/models/here/ready").0), (503, 200));
    let (code, log) = serving.stop();
    assert_eq!(code, Some(0), "{log:#?}");
    let said = |line: &String| line.contains("CUDA_ERROR_DEVICE_UNAVAILABLE (46)");
    assert!(log.iter().any(said), "{log:#?}");
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn a_model_that_the_gpu_has_no_room_for_is_unavailable_and_others_are_served() {
    let dir = Scratch::new("cuda-large");
    dir.zoo("resnet152", "models/large.onnx");
    dir.zoo("control", "models/small.onnx");
    let models = dir.path("models");
    // Larger than the device; and than what others have left of it, which only the driver knows.
    for variables in [
        &[("REEF_EMULATOR_MEMORY_MIB", "4")][..],
        &[("REEF_EMULATOR_MEMORY_MIB", "1024"), ("REEF_EMULATOR_OTHERS_MIB", "1020")],
    ] {
        let serving = Serving::start_with(variables, &[text(&models), "--device", "cuda:0"]);
        let (status, answer) = serving.infer("large", &image(&[0.5; 3 * 24 * 24]));
        let why = answer["error"].as_str().unwrap_or_default();
        assert!(status == 503 && why.contains("scratch and buffers take"), "{status} {answer}");
        answered(serving.infer("small", &image(&[0.5; 3 * 24 * 24])));
        assert_eq!(serving.stop().0, Some(0));
    }
    let run = ["run", text(&dir.path("models/large.onnx")), "--random", "1", "--device", "cuda:0"]
        .map(String::from);
    let run = run.each_ref().map(String::as_str);
    refused(&[("REEF_EMULATOR_MEMORY_MIB", "4")], &run, "may be used");
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn a_request_that_there_is_no_room_for_fails_and_the_next_one_does_not() {
    let dir = Scratch::new("cuda-room");
    dir.zoo_dynamic("control", "models/control.onnx");
    let body = |batch: usize| {
        let data = vec![0.5; batch * 3 * 24 * 24];
        let input = json!({ "name": "input", "shape": [batch, 3, 24, 24], "datatype": "FP32", "data": data });
        json!({ "inputs": [input] }).to_string()
    };
    let models = dir.path("models");
    // Of the device's memory, and of the host's that it reads by itself.
    let cases = [
        ("REEF_EMULATOR_MEMORY_MIB", "16", 400, "may be used"),
        ("REEF_EMULATOR_PINNED_MIB", "40", 400, "may be used"),
    ];
    for (limit, mib, code, expected_error) in cases {
        let serving = Serving::start_with(&[(limit, mib)], &[text(&models), "--device", "cuda:0"]);
        let expected = answered(serving.infer("control", &body(1)));
        let (status, answer) = serving.infer("control", &body(2500));
        assert!(
            status == code && answer["error"].as_str().unwrap().contains(expected_error),
            "{status} {answer}"
        );
        assert_eq!(answered(serving.infer("control", &body(1))), expected);
        assert_eq!(serving.stop().0, Some(0));
    }
}
