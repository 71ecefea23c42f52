//! The steps of `cargo xtask ci`, and the two test runs that need their own build: debug assertions and
//! loom.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cargo::{append_env, cargo, run as run_command, run_counting_tests, workspace_root};
use crate::metadata::Metadata;
use crate::tidy;

/// One step of `cargo xtask ci`; each is also a command of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Fmt,
    Clippy,
    Features,
    Tidy,
    Tests,
    Docs,
}

impl Step {
    /// In the order they run: what fails fastest comes first.
    const ALL: [Self; 6] = [Self::Fmt, Self::Clippy, Self::Features, Self::Tidy, Self::Tests, Self::Docs];

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Features => "features",
            Self::Tidy => "tidy",
            Self::Tests => "tests",
            Self::Docs => "docs",
        }
    }
}

/// Reads `--skip a,b`, which may be repeated.
pub(crate) fn parse_skips(args: &[&str]) -> Result<Vec<Step>> {
    let mut skips = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let list = match arg.strip_prefix("--skip=") {
            Some(list) => list,
            None if *arg == "--skip" => args.next().context("--skip needs a list of steps")?,
            None => bail!("ci knows only --skip, not `{arg}`"),
        };
        for name in list.split(',') {
            skips.push(Step::parse(name).with_context(|| format!("--skip: there is no step `{name}`"))?);
        }
    }
    Ok(skips)
}

/// All steps but the skipped ones; stops at the first that fails.
pub(crate) fn run(skips: &[Step]) -> Result<()> {
    for step in Step::ALL {
        if skips.contains(&step) {
            eprintln!("xtask: {} skipped", step.name());
            continue;
        }
        let start = Instant::now();
        run_step(step).with_context(|| format!("step {}", step.name()))?;
        eprintln!("xtask: {} ok in {:.1} s", step.name(), start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// One step.
pub(crate) fn run_step(step: Step) -> Result<()> {
    match step {
        Step::Fmt => run_command(cargo(&["fmt", "--all", "--check"])),
        Step::Clippy => {
            // Denied behind `--` and not in RUSTFLAGS, which would build every dependency a second time.
            run_command(cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
        }
        Step::Features => features(),
        Step::Tidy => tidy::run(&workspace_root(), &Metadata::load()?),
        Step::Tests => run_command(cargo(&["test", "--release", "--workspace"])),
        Step::Docs => {
            let mut command = cargo(&["doc", "--no-deps", "--workspace"]);
            // A crate's header may link to its private modules: its readers are at the source.
            append_env(&mut command, "RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links");
            run_command(command)
        }
    }
}

/// What `scripts/cost-of.py` builds and nothing else does: mechanisms compiled out, each and together. Of
/// this crate only, so that tract is not built with other features. And the binary without benchmarks, and
/// without CUDA either, for the same reason as one of the workspace's.
fn features() -> Result<()> {
    for features in ["no-polls", "no-trace", "no-polls,no-trace"] {
        let only = ["clippy", "-p", "reef-cpu", "--features", features, "--", "-D", "warnings"];
        run_command(cargo(&only))?;
    }
    for features in ["", "reef/cuda"] {
        let without =
            ["clippy", "--workspace", "--no-default-features", "--features", features, "--bin", "reef"];
        run_command(cargo(&[&without[..], &["--", "-D", "warnings"]].concat()))?;
    }
    Ok(())
}

/// Tests in the dev profile, where debug assertions and overflow checks are on.
pub(crate) fn test_debug() -> Result<()> {
    let crates = debug_crates()?;
    let mut args = vec!["test"];
    for name in &crates {
        args.extend(["-p", name]);
    }
    run_command(cargo(&args))
}

/// Prints which crates `test_debug` covers.
pub(crate) fn list_debug_crates() -> Result<()> {
    for name in debug_crates()? {
        println!("{name}");
    }
    Ok(())
}

/// The members whose tests build without tract, which takes minutes to build once more in another
/// profile.
fn debug_crates() -> Result<Vec<String>> {
    let metadata = Metadata::load()?;
    let (left_out, covered): (Vec<_>, Vec<_>) = metadata
        .members
        .iter()
        .map(|member| member.name.clone())
        .partition(|name| metadata.tests_pull_in(name, |package| package.starts_with("tract-")));
    eprintln!("xtask: with debug assertions: {}", covered.join(" "));
    eprintln!("xtask: left out, they pull in tract: {}", left_out.join(" "));
    if !covered.iter().any(|name| name == "reef-cpu") {
        bail!("reef-cpu pulls in tract: its lock-free code would go without debug assertions");
    }
    Ok(covered)
}

/// Model-checks the lock-free protocols: of the executor, of completions and of the ring. `--cfg loom`
/// changes every crate, so it has a target folder of its own.
pub(crate) fn loom() -> Result<()> {
    let target = Metadata::load()?.target_directory.join("loom");
    let of = ["-p", "reef-cpu", "-p", "reef-device", "-p", "reef-client"];
    let mut command = cargo(&[&["test", "--release"][..], &of, &["--lib", "loom"]].concat());
    append_env(&mut command, "RUSTFLAGS", "--cfg loom");
    command.env("CARGO_TARGET_DIR", target);
    // Unbounded, the search does not end. Two switches away from a running thread find what two threads can
    // do to each other; more is for the long suite: LOOM_MAX_PREEMPTIONS=3 cargo xtask loom.
    if std::env::var_os(LOOM_BOUND).is_none() {
        command.env(LOOM_BOUND, "2");
    }
    let count = run_counting_tests(command)?;
    if count == 0 {
        bail!("no test has `loom` in its path: nothing was checked");
    }
    Ok(())
}

const LOOM_BOUND: &str = "LOOM_MAX_PREEMPTIONS";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_are_read_in_both_spellings() {
        let skips = parse_skips(&["--skip", "tests,docs", "--skip=fmt"]).unwrap();
        assert_eq!(skips, [Step::Tests, Step::Docs, Step::Fmt]);
    }

    #[test]
    fn an_unknown_step_or_option_is_named() {
        assert!(parse_skips(&["--skip", "test"]).unwrap_err().to_string().contains("`test`"));
        assert!(parse_skips(&["--fast"]).unwrap_err().to_string().contains("--fast"));
        assert!(parse_skips(&["--skip"]).is_err());
    }

    #[test]
    fn every_step_is_a_command() {
        for step in Step::ALL {
            assert_eq!(Step::parse(step.name()), Some(step));
        }
    }
}
