//! `cargo xtask sanitize`: Miri and LLVM's sanitizers over the code that is unsafe or lock-free.
//!
//! They need a nightly toolchain, which nothing else here does. Where there is none, or it lacks a part, a
//! check says that it is skipped and why, and that is no error.
//!
//! What each sees and does not see:
//! - Miri: undefined behaviour in the lock-free modules and the buffers, one interleaving at a time. Not the
//!   kernels (it knows few of their instructions), nor what signals threads.
//! - ThreadSanitizer: races on data in whole devices. It does not know fences. No data in `reef-cpu` is
//!   ordered by a fence alone (the board's page has the edges), so fences explain none of its reports: each
//!   is a bug. What fences do order (a unit that parks against new work, a block given back against a
//!   cancellation, a unit that enters against a gate that shuts) are atomics, on which it reports nothing:
//!   that is loom's.
//! - AddressSanitizer: kernels that leave their operands, on every instruction set of the machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::cargo::{append_env, run as run_command, workspace_root};
use crate::metadata::Metadata;

/// Sanitizers instrument what is built for a target that is named, and leave build scripts alone.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// One check.
struct Check {
    name: &'static str,
    /// What the toolchain must have, under its root; else the check is skipped.
    needs: &'static [(&'static str, &'static str)],
    /// Arguments of the nightly's cargo.
    args: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
}

const CARGO_MIRI: (&str, &str) = ("bin/cargo-miri", "the component miri");
const SOURCES: (&str, &str) = ("lib/rustlib/src/rust/library/std/Cargo.toml", "the component rust-src");

const CHECKS: [Check; 4] = [
    Check {
        name: "miri: aligned buffers",
        needs: &[CARGO_MIRI, SOURCES],
        args: &["miri", "test", "-p", "reef-base", "--lib", "bytes"],
        env: &[],
    },
    Check {
        name: "miri: lock-free modules",
        needs: &[CARGO_MIRI, SOURCES],
        args: &[
            "miri", "test", "-p", "reef-cpu", "--lib", "--", "board::", "cu::", "gate::", "memory::",
            "table::",
        ],
        // The clock is the machine's.
        env: &[("MIRIFLAGS", "-Zmiri-disable-isolation")],
    },
    Check {
        name: "thread sanitizer: storm, faults, properties",
        // The standard library's own locks must be instrumented, too.
        needs: &[SOURCES],
        args: &[
            "test",
            "-Zbuild-std",
            "--target",
            TRIPLE,
            "--release",
            "-p",
            "reef-cpu",
            "--test",
            "storm",
            "--test",
            "faults",
            "--test",
            "properties",
        ],
        env: &[("RUSTFLAGS", "-Zsanitizer=thread"), ("TSAN_OPTIONS", "halt_on_error=1")],
    },
    Check {
        name: "address sanitizer: kernels",
        needs: &[(
            "lib/rustlib/x86_64-unknown-linux-gnu/lib/librustc-nightly_rt.asan.a",
            "its run-time library",
        )],
        args: &["test", "--target", TRIPLE, "--release", "-p", "reef-cpu", "--lib", "kernels::"],
        env: &[("RUSTFLAGS", "-Zsanitizer=address")],
    },
];

/// All checks that the machine can do; the first that finds something ends it.
pub(crate) fn run() -> Result<()> {
    let nightly = nightly();
    let target = Metadata::load()?.target_directory.join("sanitize");
    for (index, check) in CHECKS.iter().enumerate() {
        match can_run(check, nightly.as_deref()) {
            Err(why) => println!("{}: skipped: {why}", check.name),
            Ok(()) => {
                // Every check builds with flags of its own.
                run_command(command(check, &target.join(index.to_string())))?;
                println!("{}: ok", check.name);
            }
        }
    }
    Ok(())
}

fn command(check: &Check, target: &Path) -> Command {
    // Not the cargo that runs us: rustup's, which knows toolchains.
    let mut command = Command::new("cargo");
    // Set for the toolchain that we were built with.
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command.current_dir(workspace_root()).arg("+nightly").args(check.args).env("CARGO_TARGET_DIR", target);
    for (name, flags) in check.env {
        append_env(&mut command, name, flags);
    }
    command
}

/// Why the check cannot run here.
fn can_run(check: &Check, nightly: Option<&Path>) -> Result<(), String> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Err(format!("this machine is no {TRIPLE}"));
    }
    let root = nightly.ok_or("there is no nightly toolchain (rustup toolchain install nightly)")?;
    match check.needs.iter().find(|(file, _)| !root.join(file).exists()) {
        Some((_, part)) => Err(format!("the nightly toolchain lacks {part}")),
        None => Ok(()),
    }
}

/// Where the nightly toolchain is, if rustup has one.
fn nightly() -> Option<PathBuf> {
    let list = output("rustup", &["toolchain", "list"])?;
    list.lines().find(|line| line.starts_with("nightly-") || *line == "nightly")?;
    Some(PathBuf::from(output("rustup", &["run", "nightly", "rustc", "--print", "sysroot"])?.trim()))
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).env_remove("RUSTUP_TOOLCHAIN").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn a_check_is_skipped_for_the_part_that_is_missing() {
        for check in &CHECKS {
            assert!(can_run(check, None).unwrap_err().contains("nightly"));
            let lacks = can_run(check, Some(Path::new("/nowhere"))).unwrap_err();
            assert!(lacks.ends_with(check.needs[0].1), "{lacks}");
        }
    }
}
