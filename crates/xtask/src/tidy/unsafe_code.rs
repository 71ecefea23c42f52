//! Where the workspace's ban on unsafe code may be lifted. That each block says why it is sound is
//! clippy's part.

use proc_macro2::{Delimiter, TokenTree};

use super::Finding;
use super::tokens::{self, group, is_ident};

/// The parsed list of places.
#[derive(Debug)]
pub(crate) struct UnsafeAllowed {
    file: String,
    places: Vec<(usize, String)>,
}

impl UnsafeAllowed {
    /// Reads the list; an entry without a reason is a finding in `file`.
    pub(crate) fn parse(file: &str, text: &str) -> (Self, Vec<Finding>) {
        let mut places = Vec::new();
        let mut findings = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once(" -- ") {
                Some((place, reason)) if !reason.trim().is_empty() => {
                    places.push((index + 1, place.trim().to_owned()));
                }
                _ => findings.push(Finding::new(file, index + 1, "unsafe", "write `PATH -- reason`")),
            }
        }
        (Self { file: file.to_owned(), places }, findings)
    }

    /// Entries whose path is gone.
    pub(crate) fn stale(&self, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
        let gone = self.places.iter().filter(|(_, place)| !exists(place));
        let finding = |(line, place): &(usize, String)| {
            Finding::new(&self.file, *line, "unsafe", format!("`{place}` does not exist: remove the entry"))
        };
        gone.map(finding).collect()
    }

    /// Finds `allow(unsafe_code)` and `expect(unsafe_code)` outside the listed places.
    pub(crate) fn check(&self, path: &str, tokens: &[TokenTree]) -> Vec<Finding> {
        if self.places.iter().any(|(_, place)| covers(place, path)) {
            return Vec::new();
        }
        let mut findings = Vec::new();
        for (line, attribute) in tokens::attributes(tokens) {
            tokens::walk(&attribute, &mut |level| {
                if level.windows(2).any(lifts_the_ban) {
                    let message = format!("unsafe code is not allowed here; {} lists where it is", self.file);
                    findings.push(Finding::new(path, line, "unsafe", message));
                }
            });
        }
        findings
    }
}

fn covers(place: &str, path: &str) -> bool {
    if place.ends_with('/') { path.starts_with(place) } else { path == place }
}

fn lifts_the_ban(pair: &[TokenTree]) -> bool {
    let level = is_ident(&pair[0], "allow") || is_ident(&pair[0], "expect") || is_ident(&pair[0], "warn");
    let list = group(Some(&pair[1]), Delimiter::Parenthesis);
    level && list.is_some_and(|list| list.stream().into_iter().any(|token| is_ident(&token, "unsafe_code")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str) -> Vec<usize> {
        let (allowed, findings) =
            UnsafeAllowed::parse("list.txt", "crates/a/ -- simd\ncrates/b/src/map.rs -- mmap\n");
        assert_eq!(findings, []);
        let found = allowed.check(path, &tokens::parse(text).unwrap());
        found.into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn the_ban_is_lifted_in_listed_places_only() {
        let text = "//! A.\n#![allow(unsafe_code)]\n";
        assert_eq!(check("crates/a/src/simd/avx.rs", text), [0usize; 0]);
        assert_eq!(check("crates/b/src/map.rs", text), [0usize; 0]);
        assert_eq!(check("crates/b/src/map/more.rs", text), [2]);
        assert_eq!(check("crates/ab/src/lib.rs", text), [2]);
    }

    #[test]
    fn every_spelling_is_seen() {
        assert_eq!(check("c.rs", "#[allow(dead_code, unsafe_code)]\nfn f() {}"), [1]);
        assert_eq!(check("c.rs", "mod m {\n#[expect(unsafe_code)]\nfn f() {}\n}"), [2]);
        assert_eq!(check("c.rs", "#[cfg_attr(test, allow(unsafe_code))]\nfn f() {}"), [1]);
        assert_eq!(check("c.rs", "#[deny(unsafe_code)]\nfn f() {} // allow(unsafe_code)"), [0usize; 0]);
    }

    #[test]
    fn entries_need_a_reason_and_a_path_that_exists() {
        let (allowed, findings) = UnsafeAllowed::parse("list.txt", "# why\n\na.rs\nb.rs -- mmap\n");
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].line, 3);
        assert_eq!(allowed.stale(|_| false)[0].line, 4);
        assert_eq!(allowed.stale(|_| true), []);
    }
}
