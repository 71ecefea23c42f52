//! The `reef` binary: serves, runs, inspects and benchmarks models. The only place that picks devices.

mod cli;
mod commands;
mod config;
mod control;
mod device;
mod gpu;
mod inputs;
mod loader;
mod logs;
mod notify;
mod npy;
mod output;
mod remote;
mod repository;
mod spec;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::Parser;
use cli::{Cli, Command};

/// NVIDIA's driver has eight queues into a GPU unless it is told, and streams that share one wait for each
/// other: an urgent task's behind a less urgent one's.
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
fn widen_gpu_queues() {
    const VARIABLE: &str = "CUDA_DEVICE_MAX_CONNECTIONS";
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: no other thread has been started that could read the environment.
        unsafe { std::env::set_var(VARIABLE, "32") };
    }
}

/// Bytes from which on memory is the system's own, given back when it is freed. The allocator would raise the
/// bound to what was freed last, and keep what a model's file took while it was read.
const MAPPED_BYTES: i32 = 1 << 20;

#[allow(unsafe_code)]
fn give_memory_back() {
    // SAFETY: the call changes a number of the allocator, and takes any value.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
    }
}

/// Gives the system what the allocator keeps of memory that is free: of a model that has gone, many small
/// pieces between others.
#[allow(unsafe_code)]
fn give_free_memory_back() {
    // SAFETY: the call touches nothing but memory that is free.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

fn main() -> ExitCode {
    #[cfg(feature = "cuda")]
    widen_gpu_queues();
    give_memory_back();
    let cli = Cli::parse();
    // A server's log is as its settings say.
    if !matches!(cli.command, Command::Serve(_)) {
        logs::start_plain();
    }
    let result = match &cli.command {
        Command::Serve(args) if args.check => commands::check::run(args),
        Command::Serve(args) => commands::serve::run(args),
        Command::Run(args) => guarded(&args.model, || commands::run::run(args)),
        Command::Inspect(args) => guarded(&args.model, || commands::inspect::run(args)),
        Command::Profile(args) => guarded(&args.model, || commands::profile::run(args)),
        Command::Devices(args) => commands::devices::run(args),
        Command::Zoo(args) => commands::zoo::run(args),
        #[cfg(feature = "bench")]
        Command::Demo(args) => commands::demo::run(args),
        #[cfg(feature = "bench")]
        Command::Sim(command) => commands::sim::run(command),
        #[cfg(feature = "bench")]
        Command::Bench(command) => commands::bench::run(command),
        #[cfg(not(feature = "bench"))]
        Command::Bench(_) => {
            Err(anyhow!("this build has no benchmarks, simulations and demo (feature `bench`)"))
        }
        Command::Models(args) => commands::running::models(args),
        Command::Stats(args) => commands::running::stats(args),
        Command::Load(args) => commands::running::load(args),
        Command::Unload(args) => commands::running::unload(args),
        Command::Top(args) => commands::top::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There may be no reader any more.
            let _ = writeln!(std::io::stderr(), "reef: {}", message(&error));
            ExitCode::from(status(&error))
        }
    }
}

/// 1, or what tells a fault while serving, a benchmark's verdict, or why a server did not do it, from
/// mistakes.
fn status(error: &anyhow::Error) -> u8 {
    #[cfg(feature = "bench")]
    if let Some(verdict) = error.downcast_ref::<commands::bench::Verdict>() {
        return verdict.status();
    }
    match error.downcast_ref::<remote::Failed>() {
        Some(failed) => failed.status(),
        None if error.is::<commands::serve::Fault>() => commands::serve::FAULT_STATUS,
        None => 1,
    }
}

/// Runs a command on one model. A panic of the importer or the compiler is a bug of ours, and an error for
/// who started the command. Nothing that the command worked on is seen again.
fn guarded(model: &Path, command: impl FnOnce() -> Result<()>) -> Result<()> {
    reef_base::panics::catch(command).unwrap_or_else(|caught| {
        Err(anyhow!("{}: an internal error, please report it: {caught}", model.display()))
    })
}

/// The error and its causes on one line, whatever characters a model's names have; a cause that the text
/// before it quotes already is not said again.
fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    let shown = |c: char| match c.is_control() {
        true => c.escape_default().collect::<String>(),
        false => c.to_string(),
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use anyhow::anyhow;

    #[test]
    fn a_panic_is_an_error_that_names_the_model() {
        let error = super::guarded(Path::new("m.onnx"), || panic!("stage {} is empty", 7)).unwrap_err();
        let start = "m.onnx: an internal error, please report it: stage 7 is empty (main.rs:";
        assert!(error.to_string().starts_with(start), "{error}");
        let refused = super::guarded(Path::new("m.onnx"), || Err(anyhow!("no input")));
        assert_eq!(refused.unwrap_err().to_string(), "no input");
    }

    #[test]
    fn no_cause_is_said_twice() {
        let quoting = anyhow!("no space left").context("cannot write x: no space left").context("saving");
        assert_eq!(super::message(&quoting), "saving: cannot write x: no space left");
        assert_eq!(super::message(&anyhow!("input \n\0: no")), "input \\n\\u{0}: no");
    }
}
