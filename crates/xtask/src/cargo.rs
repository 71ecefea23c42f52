//! Running cargo, and others, as child processes, with the command shown before it runs.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace root: two levels above this crate's manifest.
pub(crate) fn workspace_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).expect("xtask lies in crates/xtask").to_path_buf()
}

/// A cargo command in the workspace root, by the cargo that runs us.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(workspace_root()).args(args);
    command
}

/// Adds a flag to a variable such as `RUSTFLAGS`, keeping what the caller's environment has.
pub(crate) fn append_env(command: &mut Command, name: &str, flags: &str) {
    let value = match std::env::var(name) {
        Ok(old) if !old.is_empty() => format!("{old} {flags}"),
        _ => flags.to_owned(),
    };
    command.env(name, value);
}

/// Runs a command to its end; an exit status other than 0 is an error.
pub(crate) fn run(mut command: Command) -> Result<()> {
    announce(&command);
    let status = command.status().with_context(|| format!("cannot start {}", describe(&command)))?;
    if !status.success() {
        bail!("{} failed ({status})", describe(&command));
    }
    Ok(())
}

/// Runs a `cargo test` command and returns how many tests it started, so that an empty filter shows
/// itself.
pub(crate) fn run_counting_tests(mut command: Command) -> Result<u64> {
    announce(&command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", describe(&command)))?;
    let stdout = child.stdout.take().expect("stdout was asked for as a pipe");
    let mut count = 0;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("reading the test output")?;
        count += tests_announced(&line);
        writeln!(std::io::stdout(), "{line}").context("writing the test output")?;
    }
    let status = child.wait().context("waiting for the tests")?;
    if !status.success() {
        bail!("{} failed ({status})", describe(&command));
    }
    Ok(count)
}

/// The number in libtest's line "running 3 tests".
fn tests_announced(line: &str) -> u64 {
    let Some(rest) = line.strip_prefix("running ") else { return 0 };
    let Some((number, noun)) = rest.split_once(' ') else { return 0 };
    if noun.starts_with("test") { number.parse().unwrap_or(0) } else { 0 }
}

fn announce(command: &Command) {
    eprintln!("xtask: {}", describe(command));
}

fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_tests_that_libtest_announces() {
        assert_eq!(tests_announced("running 12 tests"), 12);
        assert_eq!(tests_announced("running 1 test"), 1);
        assert_eq!(tests_announced("running late tests"), 0);
        assert_eq!(tests_announced("test result: ok. 3 passed"), 0);
    }
}
