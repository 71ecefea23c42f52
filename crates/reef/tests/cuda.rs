//! The command line on NVIDIA GPUs: what it says where there is none, and, on the emulated driver, what it
//! runs.

mod harness;
#[path = "programs/make.rs"]
mod make;

use std::path::Path;
use std::process::Output;

use harness::{Scratch, command, npy, text};

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
    let hidden = [("REEF_EMULATOR_DEVICES", "0"), ("CUDA_VISIBLE_DEVICES", "")];
    refused_on(&hidden, "cuda", "sees no GPU (CUDA_VISIBLE_DEVICES is '')");
    refused_on(&[("REEF_EMULATOR_VERSION", "11080")], "cuda", "is for CUDA 11.8, 12.0 is needed");
    refused_on(&[("REEF_EMULATOR_ARCH", "75")], "cuda", "architecture sm_75, sm_80 or later is needed");
    refused_on(&[("REEF_EMULATOR_COMPUTE_MODE", "3")], "cuda", "the GPU's compute mode is exclusive");
    let cache = dir.path("empty-cache");
    let no_compiler = [("REEF_NVRTC", "/nonexistent"), ("REEF_CUDA_CACHE", text(&cache))];
    refused_on(&no_compiler, "cuda", "pip install nvidia-cuda-nvrtc");
    refused_on(&[("REEF_EMULATOR_MEMORY_MIB", "0")], "cuda", "CUDA_ERROR_OUT_OF_MEMORY");
    let counted = dir.file("counted.onnx", harness::one_node("NonZero", 7));
    let args = ["run", text(&counted), "--random", "1", "--device", "cuda"];
    refused(&[], &args, "the device has no nonzero kernel yet");
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
fn gpus_are_listed() {
    let listed = succeeds(&[("REEF_EMULATOR_SMS", "7")], &["devices"]);
    for expected in ["cuda:0   emulated GPU 0", "sm_90, 7 SMs", "driver for CUDA 13.0", "NVRTC 13.0"] {
        assert!(listed.contains(expected), "'{expected}' is not in: {listed}");
    }
}
