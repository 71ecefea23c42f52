//! What concerns NVIDIA GPUs: tests on the emulated driver, and the bundle that is taken to a machine that
//! has one.
//!
//! Both need NVRTC, NVIDIA's compiler: in the folder that `REEF_NVRTC` names, or in `cuda/nvrtc` of the
//! target folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo::{cargo, run as run_command, workspace_root};
use crate::metadata::Metadata;

/// What the bundle may weigh; it is carried through a narrow door.
const BUNDLE_BYTES_MAX: u64 = 55 << 20;
/// Architectures of the cards that it is for.
const ARCHITECTURES: [&str; 6] = ["80", "86", "89", "90", "100", "120"];

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
                "no libnvrtc.so.13 in {}: python3 -m pip install --target {} nvidia-cuda-nvrtc==13.0.88",
                nvrtc.display(),
                own.display()
            );
        }
        Ok(Places { driver: target.join("cuda/emulated/libcuda.so"), target, nvrtc })
    }

    /// Builds the emulated driver.
    fn emulate(&self) -> Result<()> {
        let mut build = Command::new(workspace_root().join("crates/reef-cuda/emulator/build.sh"));
        build.arg(self.driver.parent().expect("it has a folder"));
        run_command(build)
    }

    /// Has a command use the compiler, the emulated driver, and a cache of its own.
    fn emulated<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        self.compiling(command).env("REEF_CUDA_DRIVER", &self.driver)
    }

    fn compiling<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("REEF_NVRTC", &self.nvrtc).env("REEF_CUDA_CACHE", self.target.join("cuda/cache"))
    }
}

/// Runs the tests that need the compiler or a GPU, on the emulated driver.
pub(crate) fn test() -> Result<()> {
    let places = Places::find()?;
    places.emulate()?;
    for part in [&["--lib", "compiler::"][..], &["--test", "cuda"]] {
        let mut command = tests(&places, part, &[]);
        command.env("REEF_EMULATOR_STRICT", "2");
        run_command(command)?;
    }
    for part in ["emulated", "cuda_allocations"] {
        let mut command = tests(&places, &["--test", part], &["--test-threads=1"]);
        // Serving, loading and unloading make no call that may wait for a kernel. Devices of other tests
        // would start and go in between.
        several(&mut command).env("REEF_EMULATOR_STRICT", "2");
        run_command(command)?;
    }
    // Once more where every part of the memory is the driver's.
    let mut command = tests(&places, &["--test", "emulated", "results_"], &[]);
    several(&mut command).env("REEF_TEST_SEPARATE", "1");
    run_command(command)
}

/// Devices of several sizes in one process; the threads of their blocks take turns in a random order.
fn several(command: &mut Command) -> &mut Command {
    command
        .env("REEF_EMULATOR_DEVICES", "4")
        .env("REEF_EMULATOR_SMS", "1,2,3,5")
        .env("REEF_EMULATOR_SEED", "7")
}

fn tests(places: &Places, part: &[&str], more: &[&str]) -> Command {
    let mut command = cargo(&["test", "--release", "--workspace"]);
    command.args(part).args(["--", "--include-ignored"]).args(more);
    places.emulated(&mut command);
    command
}

/// Makes the bundle, and checks it on the emulated driver.
pub(crate) fn bundle() -> Result<()> {
    let places = Places::find()?;
    let bundle = places.target.join("gpu-bundle");
    if bundle.exists() {
        fs::remove_dir_all(&bundle).with_context(|| format!("cannot remove {}", bundle.display()))?;
    }
    fs::create_dir_all(&bundle).with_context(|| format!("cannot make {}", bundle.display()))?;
    run_command(cargo(&["build", "--release", "--workspace", "--bin", "reef"]))?;
    run_command(cargo(&["build", "--release", "--workspace", "--example", "kernels", "--example", "smoke"]))?;
    let release = places.target.join("release");
    let mut strip = Command::new("strip");
    run_command({
        strip.arg("-o").arg(bundle.join("reef")).arg(release.join("reef"));
        strip
    })?;
    let mut kernels = Command::new(release.join("examples/kernels"));
    places.compiling(&mut kernels).arg(bundle.join("kernels")).args(ARCHITECTURES);
    run_command(kernels)?;
    let mut smoke = Command::new(release.join("examples/smoke"));
    smoke.arg(bundle.join("models"));
    run_command(smoke)?;
    for script in ["gpu-check.sh", "compare.py"] {
        let from = workspace_root().join("scripts/gpu").join(script);
        fs::copy(&from, bundle.join(script)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    let bytes = bytes_in(&bundle)?;
    eprintln!("xtask: {}: {:.1} MiB", bundle.display(), bytes as f64 / f64::from(1 << 20));
    if bytes > BUNDLE_BYTES_MAX {
        bail!("the bundle has {bytes} bytes, {BUNDLE_BYTES_MAX} may be carried");
    }
    places.emulate()?;
    let mut check = Command::new(bundle.join("gpu-check.sh"));
    check.args(["--part", "smoke", "--out"]).arg(places.target.join("cuda/check"));
    // Without the compiler: the bundle has the kernels.
    check.env("REEF_CUDA_DRIVER", &places.driver).env("REEF_NVRTC", "/nonexistent");
    run_command(check)
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
