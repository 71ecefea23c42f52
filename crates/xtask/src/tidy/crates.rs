//! The crate table of ARCHITECTURE.md against what the manifests say.
//!
//! The table is the first one whose header row starts with `| crate |`. Its first column names a crate,
//! its last one lists what that crate may import of ours, without the `reef-` prefix: names with commas
//! between, `–` for none, `all`. Development dependencies are free: tests may use more.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use crate::metadata::{DepKind, Metadata};

const RULE: &str = "crates";

/// Foreign packages (by prefix) that only one crate may know. hyper by itself needs no runtime.
const KEPT_IN: [(&str, &str); 4] = [
    ("tract-", "reef-onnx"),
    ("tokio", "reef-server"),
    ("axum", "reef-server"),
    ("hyper-util", "reef-server"),
];

/// What a crate may import of ours.
#[derive(Debug, PartialEq, Eq)]
enum Allowed {
    All,
    These(BTreeSet<String>),
}

#[derive(Debug)]
struct Row {
    line: usize,
    allowed: Allowed,
}

/// Compares the table in `text` with the manifests.
pub(crate) fn check(path: &str, text: &str, metadata: &Metadata) -> Vec<Finding> {
    let (table, mut findings) = parse(path, text);
    if table.is_empty() {
        findings.push(Finding::new(path, 1, RULE, "there is no table whose header starts with `| crate |`"));
        return findings;
    }
    let ours: BTreeSet<&str> = metadata.members.iter().map(|member| member.name.as_str()).collect();
    for (name, row) in table.iter().filter(|(name, _)| !ours.contains(name.as_str())) {
        findings.push(Finding::new(path, row.line, RULE, format!("`{name}` is no crate of this workspace")));
    }
    for member in &metadata.members {
        let manifest = format!("crates/{}/Cargo.toml", member.name);
        let row = table.get(&member.name);
        if row.is_none() {
            findings.push(Finding::new(
                path,
                1,
                RULE,
                format!("`{}` is missing in the crate table", member.name),
            ));
        }
        for dep in member.deps.iter().filter(|dep| dep.kind != DepKind::Dev) {
            let ours = ours.contains(dep.name.as_str());
            if let (true, Some(row)) = (ours, row)
                && !row.allowed.contains(&dep.name)
            {
                let message = format!("{} may not import {}: see {path}:{}", member.name, dep.name, row.line);
                findings.push(Finding::new(&manifest, 1, RULE, message));
            }
            findings.extend(foreign(&manifest, &member.name, &dep.name));
        }
    }
    findings
}

/// A manifest carries its folder's name and takes the workspace's lints.
pub(crate) fn check_manifest(path: &str, folder: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if !lines.contains(&format!("name = \"{folder}\"").as_str()) {
        findings.push(Finding::new(
            path,
            1,
            RULE,
            format!("the package is not called `{folder}` like its folder"),
        ));
    }
    if !lines.windows(2).any(|pair| pair == ["[lints]", "workspace = true"]) {
        let message = "take the workspace's lints: `[lints]` and below it `workspace = true`";
        findings.push(Finding::new(path, 1, RULE, message));
    }
    findings
}

fn foreign(manifest: &str, member: &str, dep: &str) -> Option<Finding> {
    let (_, home) = KEPT_IN.iter().find(|(prefix, home)| dep.starts_with(prefix) && *home != member)?;
    Some(Finding::new(manifest, 1, RULE, format!("{member} may not import {dep}: only {home} may")))
}

fn parse(path: &str, text: &str) -> (BTreeMap<String, Row>, Vec<Finding>) {
    let mut table = BTreeMap::new();
    let mut findings = Vec::new();
    let lines = text.lines().enumerate().skip_while(|(_, line)| !line.starts_with("| crate |"));
    for (index, line) in lines.skip(2).take_while(|(_, line)| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let (name, imports) = (cells[0].trim_matches('`'), cells[cells.len() - 1]);
        let row = Row { line: index + 1, allowed: Allowed::parse(imports) };
        if table.insert(name.to_owned(), row).is_some() {
            findings.push(Finding::new(path, index + 1, RULE, format!("`{name}` stands twice in the table")));
        }
    }
    (table, findings)
}

impl Allowed {
    fn parse(cell: &str) -> Self {
        if cell == "all" {
            return Self::All;
        }
        let names = cell.split(',').map(str::trim).filter(|name| !name.is_empty() && *name != "–");
        Self::These(names.map(|name| format!("reef-{}", name.trim_matches('`'))).collect())
    }

    fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.contains(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::tests::planted;

    const TABLE: &str = "\
# Architecture

| crate | holds | may import of ours |
|---|---|---|
| `reef-base` | ids | – |
| `reef-plan` | plans | base |
| `reef` | the binary | all |

| crate | another table |
";

    fn found(table: &str, members: &[(&str, &[(&str, &str)])]) -> Vec<String> {
        check("A.md", table, &planted(members)).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn the_table_and_the_manifests_agree() {
        let members: &[(&str, &[(&str, &str)])] = &[
            ("reef", &[("reef-base", "normal"), ("reef-plan", "normal")]),
            ("reef-base", &[("thiserror", "normal")]),
            ("reef-plan", &[("reef-base", "normal"), ("reef", "dev"), ("tokio", "dev")]),
        ];
        assert_eq!(found(TABLE, members), [""; 0]);
    }

    #[test]
    fn a_forbidden_edge_is_named_with_its_row() {
        let members: &[(&str, &[(&str, &str)])] =
            &[("reef", &[]), ("reef-base", &[("reef-plan", "build")]), ("reef-plan", &[])];
        let edge = "crates/reef-base/Cargo.toml:1: [crates] reef-base may not import reef-plan: see A.md:5";
        assert_eq!(found(TABLE, members), [edge]);
    }

    #[test]
    fn a_crate_without_row_and_a_row_without_crate_are_found() {
        let rows = found(TABLE, &[("reef", &[]), ("reef-base", &[]), ("reef-new", &[])]);
        assert_eq!(rows.len(), 2);
        assert!(rows[0].contains("A.md:6") && rows[0].contains("`reef-plan` is no crate"), "{rows:?}");
        assert!(rows[1].contains("`reef-new` is missing"), "{rows:?}");
    }

    #[test]
    fn foreign_packages_stay_in_their_crate() {
        let table =
            "| crate | may |\n|---|---|\n| `reef-onnx` | – |\n| `reef-server` | – |\n| `reef` | – |\n";
        let members: &[(&str, &[(&str, &str)])] = &[
            ("reef", &[("tract-core", "normal"), ("tokio", "normal")]),
            ("reef-onnx", &[("tract-onnx", "normal"), ("tokio", "dev")]),
            ("reef-server", &[("tokio", "normal"), ("axum", "normal"), ("tract-onnx", "dev")]),
        ];
        let rows = found(table, members);
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert!(
            rows[0].contains("only reef-onnx may") && rows[1].contains("only reef-server may"),
            "{rows:?}"
        );
    }

    #[test]
    fn a_missing_table_and_a_doubled_row_are_found() {
        assert!(found("no table\n", &[("reef", &[])])[0].contains("there is no table"));
        let doubled = "| crate | may |\n|---|---|\n| `reef` | – |\n| `reef` | – |\n";
        assert!(found(doubled, &[("reef", &[])])[0].contains("twice"));
    }

    #[test]
    fn a_manifest_has_its_folders_name_and_the_workspace_lints() {
        let good = "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n";
        assert_eq!(check_manifest("Cargo.toml", "a", good), []);
        assert_eq!(check_manifest("Cargo.toml", "b", good).len(), 1);
        assert_eq!(check_manifest("Cargo.toml", "a", "[package]\nname = \"a\"\n[lints.rust]\n").len(), 1);
    }
}
