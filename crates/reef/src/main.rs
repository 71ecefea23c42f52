//! The `reef` binary: serves, runs, inspects and benchmarks models. The only place that picks devices.

mod cli;
mod commands;
mod device;
mod inputs;
mod loader;
mod npy;
mod output;
mod repository;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use cli::{BenchCommand, Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("REEF_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // Colours are for people; a log that is kept or parsed has none.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .init();
    let result = match &cli.command {
        Command::Serve(args) => commands::serve::run(args),
        Command::Run(args) => commands::run::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Profile(args) => commands::profile::run(args),
        Command::Zoo(args) => commands::zoo::run(args),
        Command::Demo(args) => commands::demo::run(args),
        Command::Bench(BenchCommand::Micro(args)) => commands::bench::micro(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reef: {}", message(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes on one line; a cause that the text before it quotes already is not said again.
fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    #[test]
    fn no_cause_is_said_twice() {
        let quoting = anyhow!("no space left").context("cannot write x: no space left").context("saving");
        assert_eq!(super::message(&quoting), "saving: cannot write x: no space left");
    }
}
