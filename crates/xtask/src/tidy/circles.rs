//! Layers inside a crate: modules that import each other in a circle cannot be read, tested or replaced one
//! by one.
//!
//! The nodes are the modules of one folder, each with everything below it; an edge is an import from a file
//! of one into another. What a module and those below it import of each other is their own matter: a parent
//! may hold what its children share, and call them. So the crate's root is no node. An import of a name that
//! a module only hands on (`pub use`) is one of the module that it comes from. Tests import what they like.
//!
//! Circles that are there already stand in a list that only shrinks: one that loses a module must be written
//! anew, one that gains a module is an error.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Finding;
use super::imports::{Import, Imports};

const RULE: &str = "circle";

/// Re-exports that are followed from one name.
const HOPS_MAX: usize = 8;

/// A module's names from the crate's root; empty for the root.
type Module = Vec<String>;

/// An import that makes an edge: its file and line.
type Evidence = (String, usize);

/// Who imports whom, and where first.
type Edges = BTreeMap<Module, BTreeMap<Module, Evidence>>;

/// The parsed list of circles that may be.
#[derive(Debug)]
pub(crate) struct CirclesAllowed {
    file: String,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    line: usize,
    name: String,
    modules: BTreeSet<Module>,
}

impl CirclesAllowed {
    /// Reads the list; a line that cannot be read is a finding in `file`.
    pub(crate) fn parse(file: &str, text: &str) -> (Self, Vec<Finding>) {
        let (mut entries, mut findings) = (Vec::new(), Vec::new());
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match Entry::parse(index + 1, line) {
                Some(entry) => entries.push(entry),
                None => {
                    let message = "write `CRATE MODULE MODULE… -- reason`";
                    findings.push(Finding::new(file, index + 1, RULE, message));
                }
            }
        }
        (Self { file: file.to_owned(), entries }, findings)
    }

    /// The circles in every crate of `files` (paths from the workspace root, with what each file imports)
    /// that are not in the list, and what the list has too much.
    pub(crate) fn check(&self, files: &BTreeMap<String, Imports>) -> Vec<Finding> {
        let mut crates: BTreeMap<&str, Crate<'_>> = BTreeMap::new();
        for (path, imports) in files {
            if let Some((name, module)) = place(path) {
                crates.entry(name).or_default().modules.insert(module, (path, imports));
            }
        }
        let mut findings = Vec::new();
        let mut in_circles: BTreeMap<usize, BTreeSet<Module>> = BTreeMap::new();
        for (name, members) in crates {
            let edges = members.edges();
            for component in components(&edges) {
                let covers = |entry: &Entry| entry.name == name && component.is_subset(&entry.modules);
                match self.entries.iter().position(covers) {
                    Some(index) => in_circles.entry(index).or_default().extend(component),
                    None => findings.push(finding(&edges, &component)),
                }
            }
        }
        for (index, entry) in self.entries.iter().enumerate() {
            let needed = in_circles.remove(&index).unwrap_or_default();
            let gone: Vec<String> =
                entry.modules.difference(&needed).map(|module| module.join("::")).collect();
            if !gone.is_empty() {
                let message = format!("not in a circle any more: {}; remove from the entry", gone.join(", "));
                findings.push(Finding::new(&self.file, entry.line, RULE, message));
            }
        }
        findings
    }
}

impl Entry {
    fn parse(line: usize, text: &str) -> Option<Self> {
        let (entry, reason) = text.split_once(" -- ")?;
        let (name, modules) = entry.split_once(' ')?;
        let module = |module: &str| module.split("::").map(str::to_owned).collect::<Module>();
        let modules: BTreeSet<Module> = modules.split_whitespace().map(module).collect();
        let whole = modules.len() > 1 && !reason.trim().is_empty();
        whole.then(|| Self { line, name: name.to_owned(), modules })
    }
}

/// The crate and the module of a file, if it is part of a library or of a crate's main program.
fn place(path: &str) -> Option<(&str, Module)> {
    let (name, file) = path.strip_prefix("crates/")?.split_once("/src/")?;
    let mut module: Module = file.strip_suffix(".rs")?.split('/').map(str::to_owned).collect();
    let last = module.last()?;
    if last == "mod" || (module.len() == 1 && (last == "lib" || last == "main")) {
        module.pop();
    }
    (module.first().is_none_or(|first| first != "bin")).then_some((name, module))
}

#[derive(Default)]
struct Crate<'a> {
    modules: BTreeMap<Module, (&'a str, &'a Imports)>,
}

impl Crate<'_> {
    /// Who imports whom among the modules of each folder.
    fn edges(mut self) -> Edges {
        self.drop_tests();
        let mut edges = Edges::new();
        for (from, (path, imports)) in &self.modules {
            for import in &imports.paths {
                let Some(to) = self.target(from, import, HOPS_MAX) else { continue };
                let shared = from.iter().zip(&to).take_while(|(from, to)| from == to).count();
                if shared == from.len() || shared == to.len() {
                    continue;
                }
                let (from, to) = (from[..=shared].to_vec(), to[..=shared].to_vec());
                let evidence = || ((*path).to_owned(), import.line);
                edges.entry(from).or_default().entry(to).or_insert_with(evidence);
            }
        }
        edges
    }

    /// Modules in files of their own that only tests compile go, with all below them.
    fn drop_tests(&mut self) {
        let of_tests = |(module, (_, imports)): (&Module, &(&str, &Imports))| {
            let below = |name: &String| [&module[..], std::slice::from_ref(name)].concat();
            imports.test_modules.iter().map(below).collect::<Vec<_>>()
        };
        let tests: Vec<Module> = self.modules.iter().flat_map(of_tests).collect();
        self.modules.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
    }

    /// The module of this crate that has what is imported.
    fn target(&self, from: &Module, import: &Import, hops: usize) -> Option<Module> {
        let mut module = [&from[..], &import.inside].concat();
        let mut names = import.segments.iter().peekable();
        match names.peek()?.as_str() {
            "crate" => module.clear(),
            "self" | "super" => {}
            // Without a start it is a module below this one, or foreign.
            child if !self.modules.contains_key(&[&module[..], &[child.to_owned()]].concat()) => return None,
            _ => {}
        }
        while let Some(name) = names.next_if(|name| ["crate", "self", "super"].contains(&name.as_str())) {
            if name == "super" {
                module.pop()?;
            }
        }
        while let Some(name) = names.peek() {
            module.push((*name).clone());
            if !self.modules.contains_key(&module) {
                module.pop();
                break;
            }
            names.next();
        }
        // An inline module belongs to its file.
        while !self.modules.contains_key(&module) {
            module.pop()?;
        }
        let handed_on = names.peek().and_then(|name| self.handed_on(&module, name, hops));
        Some(handed_on.unwrap_or(module))
    }

    /// Where a name comes from that `module` has by a `use`.
    fn handed_on(&self, module: &Module, name: &str, hops: usize) -> Option<Module> {
        let (_, imports) = self.modules.get(module)?;
        let binds = |import: &&Import| import.inside.is_empty() && import.binds.as_deref() == Some(name);
        let import = imports.paths.iter().find(binds)?;
        self.target(module, import, hops.checked_sub(1)?)
    }
}

/// Modules each of which imports, over others, all of the others: several circles may make one component.
fn components(edges: &Edges) -> Vec<BTreeSet<Module>> {
    let reached: BTreeMap<&Module, BTreeSet<&Module>> =
        edges.keys().map(|start| (start, ways(edges, start).into_keys().collect())).collect();
    let both = |one: &Module, other: &Module| reached[one].contains(other) && reached[other].contains(one);
    let mut components: Vec<BTreeSet<Module>> = Vec::new();
    for &start in reached.keys() {
        if components.iter().all(|component| !component.contains(start)) {
            let members = reached.keys().filter(|other| both(start, other));
            components.push(members.map(|module| (*module).clone()).collect());
        }
    }
    components.retain(|component| !component.is_empty());
    components
}

/// What is reached from `start`, each with the module before it on a shortest way.
fn ways<'a>(edges: &'a Edges, start: &'a Module) -> BTreeMap<&'a Module, &'a Module> {
    let mut before = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(from) = queue.pop_front() {
        for to in edges.get(from).into_iter().flat_map(BTreeMap::keys) {
            before.entry(to).or_insert_with(|| {
                queue.push_back(to);
                from
            });
        }
    }
    before
}

/// Tells a shortest circle through the first module of a component.
fn finding(edges: &Edges, component: &BTreeSet<Module>) -> Finding {
    let start = component.first().expect("a component has modules");
    let before = ways(edges, start);
    let mut steps = Vec::new();
    let mut to = start;
    loop {
        let from = before[to];
        steps.push((from, to, &edges[from][to]));
        to = from;
        if to == start {
            break;
        }
    }
    steps.reverse();
    let tell = |(from, to, (path, line)): &(&Module, &Module, &Evidence)| {
        format!("`{}` imports `{}` ({path}:{line})", from.join("::"), to.join("::"))
    };
    let told: Vec<String> = steps.iter().map(tell).collect();
    let (_, _, (path, line)) = steps[0];
    let message = format!("a circle of modules: {}; make layers of them", told.join(", "));
    Finding::new(path, *line, RULE, message)
}

#[cfg(test)]
mod tests {
    use super::super::{imports, tokens};
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        found_beside("", files)
    }

    fn found_beside(list: &str, files: &[(&str, &str)]) -> Vec<String> {
        let read = |(path, text): &(&str, &str)| {
            (format!("crates/a/src/{path}"), imports::read(&tokens::parse(text).unwrap()))
        };
        let (allowed, bad) = CirclesAllowed::parse("list.txt", list);
        assert_eq!(bad, []);
        allowed.check(&files.iter().map(read).collect()).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn layers_are_fine() {
        let files = [
            ("lib.rs", "mod a; mod b; mod c; pub use a::A;"),
            ("a.rs", "use crate::b::B; use crate::c::C; use std::fmt; use crate::A;"),
            ("b.rs", "use crate::c::C;"),
            ("c.rs", "pub struct C;"),
        ];
        assert_eq!(found(&files), [""; 0]);
    }

    #[test]
    fn a_circle_is_named_with_its_imports() {
        let files = [
            ("a.rs", "\nuse crate::{x, b::B};"),
            ("b.rs", "fn f() -> crate::c::C {}"),
            ("c/mod.rs", "mod d;"),
            ("c/d.rs", "use super::super::a;"),
            ("e.rs", "use crate::a;"),
        ];
        let message = "crates/a/src/a.rs:2: [circle] a circle of modules: \
                       `a` imports `b` (crates/a/src/a.rs:2), `b` imports `c` (crates/a/src/b.rs:1), \
                       `c` imports `a` (crates/a/src/c/d.rs:1); make layers of them";
        assert_eq!(found(&files), [message]);
    }

    #[test]
    fn parents_and_children_may_know_each_other_but_children_make_layers() {
        let parent = ("a/mod.rs", "mod x; mod y; use x::X; pub struct A;");
        let below = ("a/y.rs", "use super::A;");
        assert_eq!(found(&[parent, ("a/x.rs", "use super::{A, y};"), below]), [""; 0]);
        let circle = found(&[parent, ("a/x.rs", "use super::y;"), ("a/y.rs", "use crate::a::x;")]);
        assert!(circle[0].contains("`a::x` imports `a::y`"), "{circle:?}");
        assert_eq!(circle.len(), 1);
    }

    #[test]
    fn what_is_handed_on_belongs_to_where_it_comes_from() {
        let root = ("lib.rs", "pub use a::A; mod m;");
        let a = ("a.rs", "use crate::b;");
        assert_eq!(found(&[root, a, ("b.rs", "use crate::A;")]).len(), 1);
        let hand = ("m/mod.rs", "mod x; mod y; pub use y::Y as Z;");
        assert_eq!(found(&[hand, ("m/x.rs", "use super::Z;"), ("m/y.rs", "use super::x;")]).len(), 1);
        // One that hands itself on ends somewhere.
        assert_eq!(found(&[("a.rs", "pub use crate::b::X;"), ("b.rs", "pub use crate::a::X;")]).len(), 1);
    }

    #[test]
    fn tests_import_what_they_like() {
        let own = ("a.rs", "#[cfg(test)] mod tests { use crate::b; }");
        assert_eq!(found(&[own, ("b.rs", "use crate::a;")]), [""; 0]);
        let file = ("b.rs", "use crate::a; #[cfg(test)] mod tests;");
        let files = [("a.rs", ""), file, ("b/tests.rs", ""), ("b/tests/more.rs", "use crate::c;")];
        assert_eq!(found(&[&files[..], &[("c.rs", "use crate::b;")]].concat()), [""; 0]);
    }

    #[test]
    fn the_list_of_circles_only_shrinks() {
        let pair = [("a.rs", "use crate::b;"), ("b.rs", "use crate::a;")];
        assert_eq!(found_beside("# why\n\na a b -- known\n", &pair), [""; 0]);
        assert_eq!(found_beside("b a b -- another crate\n", &pair).len(), 2);
        let smaller = found_beside("a a b c -- known\n", &pair);
        assert_eq!(smaller, ["list.txt:1: [circle] not in a circle any more: c; remove from the entry"]);
        let gone = found_beside("a a b -- known\n", &pair[..1]);
        assert_eq!(gone, ["list.txt:1: [circle] not in a circle any more: a, b; remove from the entry"]);
        let larger = [pair[0], ("b.rs", "use crate::c;"), ("c.rs", "use crate::{a, b};")];
        assert_eq!(found_beside("a a b -- known\n", &larger).len(), 2);
        let (_, bad) = CirclesAllowed::parse("list.txt", "a a b\na a -- one\na a b -- \n");
        assert_eq!(bad.len(), 3);
    }

    #[test]
    fn crates_and_programs_of_their_own_are_apart() {
        assert_eq!(place("crates/a/src/b/mod.rs"), Some(("a", vec!["b".to_owned()])));
        assert_eq!(place("crates/a/src/main.rs"), Some(("a", vec![])));
        assert_eq!(place("crates/a/tests/b.rs"), None);
        assert_eq!(place("crates/a/src/bin/b.rs"), None);
    }
}
