//! `cargo metadata`, reduced to the questions that the checks ask: who depends on whom, and through what.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cargo::cargo;

/// What a dependency is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DepKind {
    Normal,
    Build,
    Dev,
}

/// A dependency as a manifest declares it.
#[derive(Clone, Debug)]
pub(crate) struct Dep {
    pub(crate) name: String,
    pub(crate) kind: DepKind,
}

/// A member of the workspace.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) deps: Vec<Dep>,
}

/// The workspace's members and the resolved graph below them.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) members: Vec<Member>,
    pub(crate) target_directory: PathBuf,
    names: BTreeMap<String, String>,
    edges: BTreeMap<String, Vec<Edge>>,
    member_ids: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Edge {
    to: String,
    dev_only: bool,
}

impl Metadata {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Self> {
        let output =
            cargo(&["metadata", "--format-version", "1"]).output().context("cannot start cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        let json: Value = serde_json::from_slice(&output.stdout).context("cargo metadata wrote no JSON")?;
        Self::from_json(&json)
    }

    /// Reads the JSON that `cargo metadata --format-version 1` writes.
    pub(crate) fn from_json(json: &Value) -> Result<Self> {
        let ids: BTreeSet<&str> =
            array(json, "workspace_members")?.iter().filter_map(Value::as_str).collect();
        let mut members = Vec::new();
        let mut names = BTreeMap::new();
        let mut member_ids = BTreeMap::new();
        for package in array(json, "packages")? {
            let (id, name) = (text(package, "id")?, text(package, "name")?);
            names.insert(id.to_owned(), name.to_owned());
            if ids.contains(id) {
                member_ids.insert(name.to_owned(), id.to_owned());
                members.push(Member { name: name.to_owned(), deps: declared(package)? });
            }
        }
        members.sort_by(|a, b| a.name.cmp(&b.name));
        let mut edges = BTreeMap::new();
        for node in array(&json["resolve"], "nodes")? {
            edges.insert(text(node, "id")?.to_owned(), resolved(node)?);
        }
        let target_directory = PathBuf::from(text(json, "target_directory")?);
        Ok(Self { members, target_directory, names, edges, member_ids })
    }

    /// Whether building the tests of `member` builds a package for which `wanted` holds. Development
    /// dependencies count for the member itself, not for what lies below it: cargo does the same.
    pub(crate) fn tests_pull_in(&self, member: &str, wanted: impl Fn(&str) -> bool) -> bool {
        let Some(root) = self.member_ids.get(member) else { return false };
        let mut seen = BTreeSet::from([root.as_str()]);
        let mut open = vec![root.as_str()];
        while let Some(id) = open.pop() {
            if self.names.get(id).is_some_and(|name| wanted(name)) {
                return true;
            }
            for edge in self.edges.get(id).into_iter().flatten() {
                if (id == root || !edge.dev_only) && seen.insert(&edge.to) {
                    open.push(&edge.to);
                }
            }
        }
        false
    }
}

fn declared(package: &Value) -> Result<Vec<Dep>> {
    let mut deps = Vec::new();
    for dep in array(package, "dependencies")? {
        let kind = match dep["kind"].as_str() {
            Some("dev") => DepKind::Dev,
            Some("build") => DepKind::Build,
            _ => DepKind::Normal,
        };
        deps.push(Dep { name: text(dep, "name")?.to_owned(), kind });
    }
    Ok(deps)
}

fn resolved(node: &Value) -> Result<Vec<Edge>> {
    let mut edges = Vec::new();
    for dep in array(node, "deps")? {
        let dev_only = array(dep, "dep_kinds")?.iter().all(|kind| kind["kind"] == "dev");
        edges.push(Edge { to: text(dep, "pkg")?.to_owned(), dev_only });
    }
    Ok(edges)
}

fn array<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value[key].as_array().with_context(|| format!("cargo metadata has no list `{key}`"))
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("cargo metadata has no text `{key}`"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// A workspace of `(name, [(dependency, kind)])`; a dependency that is no member is a package of
    /// its own.
    pub(crate) fn planted(members: &[(&str, &[(&str, &str)])]) -> Metadata {
        let mut packages = Vec::new();
        let mut nodes = Vec::new();
        for (name, deps) in members {
            let kind = |kind: &str| if kind == "normal" { Value::Null } else { json!(kind) };
            let declared: Vec<Value> =
                deps.iter().map(|(dep, k)| json!({"name": dep, "kind": kind(k)})).collect();
            let resolved: Vec<Value> =
                deps.iter().map(|(dep, k)| json!({"pkg": dep, "dep_kinds": [{"kind": kind(k)}]})).collect();
            packages.push(json!({"id": name, "name": name, "dependencies": declared}));
            nodes.push(json!({"id": name, "deps": resolved}));
            for (dep, _) in *deps {
                if members.iter().all(|(member, _)| member != dep) {
                    packages.push(json!({"id": dep, "name": dep, "dependencies": []}));
                }
            }
        }
        let ids: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
        let json = json!({
            "workspace_members": ids, "packages": packages,
            "resolve": {"nodes": nodes}, "target_directory": "/t",
        });
        Metadata::from_json(&json).unwrap()
    }

    #[test]
    fn reach_follows_dev_dependencies_of_the_root_only() {
        let metadata = planted(&[
            ("a", &[("b", "normal")]),
            ("b", &[("tract-onnx", "dev")]),
            ("c", &[("a", "dev")]),
            ("d", &[("e", "build")]),
            ("e", &[("tract-core", "normal")]),
        ]);
        let pulls = |name| metadata.tests_pull_in(name, |package| package.starts_with("tract"));
        assert!(!pulls("a"), "the dev-dependencies of a dependency are not built");
        assert!(pulls("b"));
        assert!(!pulls("c"));
        assert!(pulls("d"));
        assert!(pulls("e"));
    }

    #[test]
    fn broken_metadata_is_an_error_that_names_the_key() {
        let error = Metadata::from_json(&json!({"packages": []})).unwrap_err();
        assert!(error.to_string().contains("workspace_members"), "{error}");
    }
}
