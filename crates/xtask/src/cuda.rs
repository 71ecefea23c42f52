//! What concerns NVIDIA GPUs: tests on the emulated driver, and the bundle that is taken to a machine that
//! has one.
//!
//! Both need NVRTC, NVIDIA's compiler: in the folder that `REEF_NVRTC` names, or in `cuda/nvrtc` of the
//! target folder. The machine code is read where NVIDIA's disassembler lies beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo::{cargo, run as run_command, run_counting_tests, workspace_root};
use crate::metadata::Metadata;
use crate::sass;

/// What the bundle may weigh; it is carried through a narrow door.
const BUNDLE_BYTES_MAX: u64 = 55 << 20;
/// Architectures of the cards that it is for: A100, H100 and H200. On others the compiler makes the kernels
/// at the first start; 3.4 MB each, they do not all have room.
const ARCHITECTURES: [&str; 2] = ["80", "90"];

/// The C library that the binary may need: Debian 12's.
const GLIBC_MAX: (u32, u32) = (2, 36);
/// What the bundle has of `scripts/`.
const SCRIPTS: [&str; 5] =
    ["gpu/gpu-check.sh", "gpu/compare.py", "gpu/onnx_file.py", "gpu/torch_peer.py", "peers/ort.py"];
/// The parts of `gpu-check.sh`.
const PARTS: [&str; 4] = ["smoke", "models", "preempt", "disb"];
/// Those whose machine code is read.
const READ: [&str; 2] = ["80", "90"];
/// What kernels are watched for by drivers built for that (see `crates/reef-cuda/emulator/build.sh`), and the
/// tests that run on them; without `--all` the first alone.
const CHECKS: [(&str, &[&[&str]]); 3] = [("address", &WATCHED), ("undefined", &WATCHED), ("races", &SLOWLY)];
const WATCHED: [&[&str]; 5] = [
    &["--lib", "isolation::"],
    &["--test", "emulated", "results_"],
    &["--test", "elements"],
    &["--test", "products"],
    &["--test", "integers"],
];
/// For the check that is the slowest.
const SLOWLY: [&[&str]; 4] = [
    &["--lib", "isolation::"],
    &["--test", "emulated", "results_are_what_the_graphs_mean"],
    &["--test", "elements"],
    &["--test", "products", "attention::heads_of_every_width_in_f16"],
];
/// Multiprocessors of the devices of tests that want several.
const SIZES: &str = "1,2,3,5";

/// Where things are.
struct Places {
    target: PathBuf,
    nvrtc: PathBuf,
    /// The emulated driver.
    driver: PathBuf,
}

impl Places {
    fn find() -> Result<Places> {
        let target = Metadata::load()?.target_directory;
        let own = target.join("cuda/nvrtc");
        let named = std::env::var_os("REEF_NVRTC").map(PathBuf::from);
        let nvrtc = named.unwrap_or_else(|| own.join("nvidia/cu13/lib"));
        if !nvrtc.join("libnvrtc.so.13").exists() {
            bail!(
                "no libnvrtc.so.13 in {}: python3 -m pip install --target {} nvidia-cuda-nvrtc==13.0.88 \
                 nvidia-cuda-nvdisasm==13.2.78",
                nvrtc.display(),
                own.display()
            );
        }
        Ok(Places { driver: target.join("cuda/emulated/libcuda.so"), target, nvrtc })
    }

    /// Builds the emulated driver.
    fn emulate(&self) -> Result<()> {
        build(self.driver.parent().expect("it has a folder"), None)
    }

    /// Has a command use the compiler, the emulated driver, and a cache of its own.
    fn emulated<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        self.compiling(command).env("REEF_CUDA_DRIVER", &self.driver)
    }

    fn compiling<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("REEF_NVRTC", &self.nvrtc).env("REEF_CUDA_CACHE", self.target.join("cuda/cache"))
    }
}

/// Builds an emulated driver into a folder, and the test of its own.
fn build(folder: &Path, check: Option<&str>) -> Result<()> {
    let mut build = Command::new(workspace_root().join("crates/reef-cuda/emulator/build.sh"));
    build.arg(folder).args(check);
    run_command(build)
}

/// Runs the tests that need the compiler or a GPU, on the emulated driver; so many of the checks at most.
pub(crate) fn test(checks: usize) -> Result<()> {
    let places = Places::find()?;
    read_machine_code(&places)?;
    places.emulate()?;
    run_command(Command::new(places.driver.with_file_name("self-test")))?;
    run_command(tests(&places, &["--lib", "compiler::"], &[]))?;
    for part in ["products", "integers", "elements"] {
        run_command(tests(&places, &["--test", part], &[]))?;
    }
    let mut command = tests(&places, &["--test", "cuda"], &[]);
    command.env("REEF_EMULATOR_STRICT", "2");
    run_command(command)?;
    for part in ["emulated", "cuda_allocations"] {
        let mut command = tests(&places, &["--test", part], &["--test-threads=1"]);
        // Serving, loading and unloading make no call that may wait for a kernel. Devices of other tests
        // would start and go in between.
        several(&mut command, SIZES).env("REEF_EMULATOR_STRICT", "2");
        run_command(command)?;
    }
    // Once more where every part of the memory is the driver's.
    let mut command = tests(&places, &["--test", "emulated", "results_"], &[]);
    several(&mut command, SIZES).env("REEF_TEST_SEPARATE", "1");
    run_command(command)?;
    // What is not freed is missed soon.
    let mut command = tests(&places, &["--test", "storm_on_gpus"], &[]);
    several(&mut command, "1,2,8").env("REEF_EMULATOR_MEMORY_MIB", "256");
    run_command(command)?;
    CHECKS.iter().take(checks).try_for_each(|(check, parts)| watch(&places, check, parts))
}

fn tests(places: &Places, part: &[&str], more: &[&str]) -> Command {
    let mut command = cargo(&["test", "--release", "--workspace"]);
    command.args(part).args(["--", "--include-ignored"]).args(more);
    places.emulated(&mut command);
    command
}

/// Has the emulated driver show devices with so many multiprocessors. Threads of a block take turns in a
/// random order; `REEF_EMULATOR_SEED` makes it another one.
fn several<'a>(command: &'a mut Command, sms: &str) -> &'a mut Command {
    let devices = sms.split(',').count().to_string();
    if std::env::var_os("REEF_EMULATOR_SEED").is_none() {
        command.env("REEF_EMULATOR_SEED", "7");
    }
    command.env("REEF_EMULATOR_DEVICES", devices).env("REEF_EMULATOR_SMS", sms)
}

/// Runs every kernel on a driver that watches what it does.
fn watch(places: &Places, check: &str, parts: &[&[&str]]) -> Result<()> {
    let folder = places.target.join("cuda").join(format!("emulated-{check}"));
    build(&folder, Some(check))?;
    let mut proof = Command::new(folder.join("self-test"));
    proof.env("ASAN_OPTIONS", "detect_leaks=0");
    run_command(proof)?;
    for part in parts {
        let mut command = tests(places, part, &[]);
        several(&mut command, SIZES).env("REEF_CUDA_DRIVER", folder.join("libcuda.so"));
        // Where one part of the memory ends, nothing else begins.
        command.env("REEF_TEST_SEPARATE", "1");
        if check == "address" {
            preload(&mut command)?;
        }
        if run_counting_tests(command)? == 0 {
            bail!("there is no test {part:?}");
        }
    }
    Ok(())
}

/// Has the programs that cargo runs load the address sanitizer's library before all else: who loads a driver
/// that needs it later comes too late.
fn preload(command: &mut Command) -> Result<()> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let asked = Command::new(&compiler).arg("-print-file-name=libasan.so").output();
    let asked = asked.with_context(|| format!("cannot start {compiler}"))?;
    let library = String::from_utf8_lossy(&asked.stdout).trim().to_string();
    if !Path::new(&library).is_absolute() {
        bail!("{compiler} has no libasan.so");
    }
    // By a runner: not into cargo itself.
    let triple = format!("{}_UNKNOWN_LINUX_GNU", std::env::consts::ARCH.to_uppercase());
    let runner = format!("env LD_PRELOAD={library} ASAN_OPTIONS=detect_leaks=0");
    command.env(format!("CARGO_TARGET_{triple}_RUNNER"), runner);
    Ok(())
}

/// Reads the kernels' machine code, if there is a disassembler: nothing loads data as it may not, and what
/// lies in memory for want of registers is what the table says.
fn read_machine_code(places: &Places) -> Result<()> {
    let disassembler = places.nvrtc.join("../bin/nvdisasm");
    if !disassembler.exists() {
        println!("machine code: skipped: there is no {}", disassembler.display());
        return Ok(());
    }
    run_command(cargo(&["build", "--release", "--workspace", "--example", "kernels"]))?;
    let folder = places.target.join("cuda/machine-code");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let mut table = String::from("arch kernel local_loads local_stores table_loads\n");
    for arch in READ {
        let own = folder.join(arch);
        let mut kernels = Command::new(places.target.join("release/examples/kernels"));
        places.compiling(&mut kernels).arg(&own).arg(arch);
        run_command(kernels)?;
        let cubin = fs::read_dir(&own)?.next().context("the kernels were compiled")??.path();
        let output = Command::new(&disassembler).arg("-c").arg(&cubin).output();
        let output = output.with_context(|| format!("cannot start {}", disassembler.display()))?;
        if !output.status.success() {
            bail!("nvdisasm cannot read {}: {}", cubin.display(), String::from_utf8_lossy(&output.stderr));
        }
        for kernel in sass::kernels(&String::from_utf8_lossy(&output.stdout))? {
            let sass::Kernel { name, local_loads, local_stores, table_loads } = kernel;
            table += &format!("sm_{arch} {name} {local_loads} {local_stores} {table_loads}\n");
        }
    }
    let committed = workspace_root().join("crates/reef-cuda/machine-code.txt");
    if std::env::var_os("REEF_UPDATE").is_some() {
        return fs::write(&committed, table).with_context(|| format!("cannot write {}", committed.display()));
    }
    if fs::read_to_string(&committed).unwrap_or_default() != table {
        bail!("{} is to be (REEF_UPDATE=1 writes it anew):\n{table}", committed.display());
    }
    Ok(())
}

/// Makes the bundle, and checks it on the emulated driver.
pub(crate) fn bundle() -> Result<()> {
    let places = Places::find()?;
    let bundle = places.target.join("gpu-bundle");
    if bundle.exists() {
        fs::remove_dir_all(&bundle).with_context(|| format!("cannot remove {}", bundle.display()))?;
    }
    fs::create_dir_all(&bundle).with_context(|| format!("cannot make {}", bundle.display()))?;
    // In one call: examples need what tests need, and the program is built with the same features.
    let mut build = cargo(&["build", "--release", "--workspace", "--bin", "reef"]);
    build.args(["kernels", "smoke", "operators"].map(|name| format!("--example={name}")));
    run_command(build)?;
    let release = places.target.join("release");
    for binary in ["reef", "examples/operators"] {
        let from = release.join(binary);
        let to = bundle.join(from.file_name().expect("binaries are files"));
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(&to).arg(&from);
        run_command(strip)?;
        check_glibc(&to)?;
        // `gpu-check.sh` unpacks it.
        let mut gzip = Command::new("gzip");
        gzip.arg("-9").arg(&to);
        run_command(gzip)?;
    }
    let mut kernels = Command::new(release.join("examples/kernels"));
    places.compiling(&mut kernels).arg(bundle.join("kernels")).args(ARCHITECTURES);
    run_command(kernels)?;
    let mut smoke = Command::new(release.join("examples/smoke"));
    smoke.arg(bundle.join("models"));
    run_command(smoke)?;
    for script in SCRIPTS {
        let from = workspace_root().join("scripts").join(script);
        let name = from.file_name().expect("scripts are files");
        fs::copy(&from, bundle.join(name)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    let bytes = bytes_in(&bundle)?;
    eprintln!("xtask: {}: {:.1} MiB", bundle.display(), bytes as f64 / f64::from(1 << 20));
    if bytes > BUNDLE_BYTES_MAX {
        bail!("the bundle has {bytes} bytes, {BUNDLE_BYTES_MAX} may be carried");
    }
    places.emulate()?;
    let out = places.target.join("cuda/check");
    if out.exists() {
        fs::remove_dir_all(&out).with_context(|| format!("cannot remove {}", out.display()))?;
    }
    for part in PARTS {
        let mut check = Command::new(bundle.join("gpu-check.sh"));
        check.args(["--part", part, "--tiny", "--out"]).arg(&out);
        // Without the compiler: the bundle has the kernels.
        check.env("REEF_CUDA_DRIVER", &places.driver).env("REEF_NVRTC", "/nonexistent");
        run_command(check)?;
    }
    Ok(())
}

/// Refuses a binary that needs a newer C library than the machines have that it is for.
fn check_glibc(binary: &Path) -> Result<()> {
    let output = Command::new("objdump").arg("-T").arg(binary).output().context("cannot run objdump")?;
    let needed = newest_glibc(&String::from_utf8_lossy(&output.stdout));
    let Some(needed) = needed.filter(|_| output.status.success()) else {
        bail!("objdump -T {}: it says nothing of the C library", binary.display());
    };
    if needed > GLIBC_MAX {
        let (major, minor) = needed;
        let (binary, most) = (binary.display(), GLIBC_MAX);
        bail!("{binary} needs glibc {major}.{minor}, {}.{} is there", most.0, most.1);
    }
    Ok(())
}

/// The newest version of the C library that a table of symbols names.
fn newest_glibc(symbols: &str) -> Option<(u32, u32)> {
    let version = |after: &str| {
        let end = after.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(after.len());
        let mut numbers = after[..end].split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    symbols.split("GLIBC_").skip(1).filter_map(version).max()
}

fn bytes_in(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let kind = entry.metadata()?;
        bytes += if kind.is_dir() { bytes_in(&entry.path())? } else { kind.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_counts() {
        let table = "0000 DF *UND* 0000 (GLIBC_2.9)  pipe2\n0000 DF *UND* 0000 (GLIBC_2.34) dlsym\n\
                     0000 w D *UND* 0000 GLIBC_2.2.5 x\n0000 (GLIBC_PRIVATE) y";
        assert_eq!(newest_glibc(table), Some((2, 34)));
        assert_eq!(newest_glibc("no symbols"), None);
    }
}
