//! Project automation: `cargo xtask ci` and its parts.
//!
//! Owns what "the project is in order" means. It shells out to cargo and reads files; it must not
//! depend on any crate of this workspace, so that it builds in seconds and also works when they do not
//! compile.

mod cargo;
mod ci;
mod cuda;
mod metadata;
mod sanitize;
mod sass;
mod tidy;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
cargo xtask COMMAND

  ci [--skip STEP,...]  fmt, clippy, features, tidy, tests and docs, in this order
  fmt                   cargo fmt --check on every crate
  clippy                cargo clippy on every target, warnings denied
  features              cargo clippy on reef-cpu without what measurements compile out, and on the binary
                        without benchmarks and CUDA
  tidy                  the crate table, file headers, size limits, names, unsafe code
  tests                 cargo test --release --workspace (the README's command)
  docs                  cargo doc on every crate, warnings denied
  test-debug [--list]   tests with debug assertions, on the crates that do not pull in tract
  cuda [--all]          tests of NVIDIA GPUs on the emulated driver; needs g++ and NVRTC. All: kernels also
                        watched for undefined behaviour and races
  gpu-bundle            what scripts/gpu/gpu-check.sh needs on a machine with a GPU, in target/gpu-bundle
  loom                  the lock-free protocols, under loom
  sanitize              Miri and sanitizers, where a nightly toolchain has them
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        ["ci", rest @ ..] => ci::run(&ci::parse_skips(rest)?),
        ["test-debug"] => ci::test_debug(),
        ["test-debug", "--list"] => ci::list_debug_crates(),
        ["loom"] => ci::loom(),
        ["cuda"] => cuda::test(1),
        ["cuda", "--all"] => cuda::test(usize::MAX),
        ["gpu-bundle"] => cuda::bundle(),
        ["sanitize"] => sanitize::run(),
        [name] => match ci::Step::parse(name) {
            Some(step) => ci::run_step(step),
            None => bail!("unknown command `{name}`\n\n{USAGE}"),
        },
        _ => bail!("cannot read `{}`\n\n{USAGE}", args.join(" ")),
    }
}
