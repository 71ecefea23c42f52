//! `cargo xtask tidy`: the rules of the project that neither rustfmt nor clippy can check.
//!
//! Each rule is a function from text (and metadata) to findings; only this file reads the disk. A
//! finding says where, which rule and what to do about it.

mod circles;
mod crates;
mod exceptions;
mod imports;
mod source;
mod tokens;
mod unsafe_code;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::metadata::Metadata;
use circles::CirclesAllowed;
use exceptions::Exceptions;
use unsafe_code::UnsafeAllowed;

/// Where the allow lists lie, from the workspace root.
const EXCEPTIONS: &str = "crates/xtask/tidy-exceptions.txt";
const UNSAFE_ALLOWED: &str = "crates/xtask/unsafe-allowed.txt";
const CIRCLES_ALLOWED: &str = "crates/xtask/circles-allowed.txt";
const ARCHITECTURE: &str = "ARCHITECTURE.md";

/// One violation. `path` is relative to the workspace root with `/` between its parts; `line` counts
/// from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) rule: &'static str,
    pub(crate) message: String,
}

impl Finding {
    fn new(path: &str, line: usize, rule: &'static str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, rule, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: [{}] {}", self.path, self.line, self.rule, self.message)
    }
}

/// Checks the tree below `root`; every finding is printed, and any is an error.
pub(crate) fn run(root: &Path, metadata: &Metadata) -> Result<()> {
    let mut files = Vec::new();
    collect_rust_files(root, "", &mut files)?;
    let mut findings = check_tree(root, &files)?;
    findings.extend(crates::check(ARCHITECTURE, &read(root, ARCHITECTURE)?, metadata));
    findings.extend(check_manifests(root)?);
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy found {} violation(s)", findings.len());
    }
    eprintln!("xtask: tidy looked at {} files", files.len());
    Ok(())
}

fn check_tree(root: &Path, files: &[String]) -> Result<Vec<Finding>> {
    let (exceptions, mut findings) = Exceptions::parse(EXCEPTIONS, &read(root, EXCEPTIONS)?);
    let (unsafe_allowed, bad) = UnsafeAllowed::parse(UNSAFE_ALLOWED, &read(root, UNSAFE_ALLOWED)?);
    findings.extend(bad);
    let (circles_allowed, bad) = CirclesAllowed::parse(CIRCLES_ALLOWED, &read(root, CIRCLES_ALLOWED)?);
    findings.extend(bad);
    findings.extend(unsafe_allowed.stale(|path| root.join(path).exists()));
    let (mut measures, mut imports) = (Vec::new(), BTreeMap::new());
    for path in files {
        let text = read(root, path)?;
        findings.extend(source::check(path, &text));
        match tokens::parse(&text) {
            Ok(tokens) => {
                findings.extend(unsafe_allowed.check(path, &tokens));
                findings.extend(source::check_tokens(path, &tokens));
                measures.extend(source::measure_functions(path, &tokens));
                imports.insert(path.clone(), imports::read(&tokens));
            }
            Err(line) => {
                findings.push(Finding::new(path, line, "syntax", "this file is not made of Rust tokens"))
            }
        }
        measures.extend(source::measure_text(path, &text));
    }
    findings.extend(exceptions.judge(&measures));
    findings.extend(circles_allowed.check(&imports));
    Ok(findings)
}

fn check_manifests(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for entry in sorted_names(&root.join("crates"))? {
        let path = format!("crates/{entry}/Cargo.toml");
        if root.join(&path).is_file() {
            findings.extend(crates::check_manifest(&path, &entry, &read(root, &path)?));
        }
    }
    Ok(findings)
}

/// Every `.rs` file below `folder`, but not build outputs and hidden folders.
fn collect_rust_files(root: &Path, folder: &str, files: &mut Vec<String>) -> Result<()> {
    for name in sorted_names(&root.join(folder))? {
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let kind = fs::symlink_metadata(root.join(&path)).with_context(|| format!("looking at {path}"))?;
        let skipped = name.starts_with('.') || name == "target" || name.starts_with("target-");
        if kind.is_dir() && !skipped {
            collect_rust_files(root, &path, files)?;
        } else if kind.is_file() && name.ends_with(".rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn sorted_names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let entry = entry.with_context(|| format!("listing {}", folder.display()))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn read(root: &Path, path: &str) -> Result<String> {
    fs::read_to_string(root.join(path)).with_context(|| format!("reading {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_like_a_compiler_error() {
        let finding = Finding::new("crates/a/src/b.rs", 7, "fn-lines", "too long");
        assert_eq!(finding.to_string(), "crates/a/src/b.rs:7: [fn-lines] too long");
    }

    #[test]
    fn a_tree_with_planted_violations_is_found_out() {
        let root = std::env::temp_dir().join(format!("reef-tidy-{}", std::process::id()));
        plant(&root, EXCEPTIONS, "file-lines crates/a/src/gone.rs 900 -- was long\n");
        plant(&root, UNSAFE_ALLOWED, "crates/a/src/fast.rs -- does not exist\n");
        plant(&root, CIRCLES_ALLOWED, "a good torn -- was one\n");
        plant(&root, "crates/a/src/good.rs", "//! Good.\nfn f() {}\n");
        plant(&root, "crates/a/src/utils.rs", "//! Badly named.\n");
        plant(&root, "crates/a/src/bare.rs", "#![allow(unsafe_code)]\n");
        plant(&root, "crates/a/target/out.rs", "not looked at");
        plant(&root, "crates/a/src/torn.rs", "//! Torn.\nfn f() {\n");
        let mut files = Vec::new();
        collect_rust_files(&root, "", &mut files).unwrap();
        let mut findings = check_tree(&root, &files).unwrap();
        fs::remove_dir_all(&root).unwrap();
        findings.sort();
        let found: Vec<(&str, &str)> = findings.iter().map(|f| (f.path.as_str(), f.rule)).collect();
        assert_eq!(
            found,
            [
                ("crates/a/src/bare.rs", "header"),
                ("crates/a/src/bare.rs", "unsafe"),
                ("crates/a/src/torn.rs", "syntax"),
                ("crates/a/src/utils.rs", "name"),
                (CIRCLES_ALLOWED, "circle"),
                (EXCEPTIONS, "exceptions"),
                (UNSAFE_ALLOWED, "unsafe"),
            ]
        );
    }

    fn plant(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}
