//! What a Rust file imports of its own crate: `use` trees and paths inside code that begin with `crate`,
//! `self` or `super`, and `use` trees that begin with a module below the file.
//!
//! Code that only tests compile is left out, and so are macros' textual names, which no path shows.

use proc_macro2::{Delimiter, TokenTree};

use super::tokens::{group, is_ident, is_punct};

/// One path, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Import {
    pub(crate) line: usize,
    /// The inline modules of the file in which it stands.
    pub(crate) inside: Vec<String>,
    pub(crate) segments: Vec<String>,
    /// The name by which a `use` makes it known; `None` for a glob and for a path inside code.
    pub(crate) binds: Option<String>,
}

/// The imports of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Imports {
    pub(crate) paths: Vec<Import>,
    /// Modules in files of their own that only tests compile.
    pub(crate) test_modules: Vec<String>,
}

/// Reads a file's tokens.
pub(crate) fn read(tokens: &[TokenTree]) -> Imports {
    let mut reader = Reader::default();
    reader.level(tokens);
    reader.found
}

#[derive(Default)]
struct Reader {
    inside: Vec<String>,
    found: Imports,
}

impl Reader {
    fn level(&mut self, level: &[TokenTree]) {
        let mut at = 0;
        while at < level.len() {
            at = self.token(level, at);
        }
    }

    /// Looks at the token at `at`; says where to go on.
    fn token(&mut self, level: &[TokenTree], at: usize) -> usize {
        let token = &level[at];
        if is_punct(token, '#') {
            let bang = level.get(at + 1).is_some_and(|next| is_punct(next, '!'));
            let Some(attribute) = group(level.get(at + 1 + usize::from(bang)), Delimiter::Bracket) else {
                return at + 1;
            };
            let attribute: Vec<TokenTree> = attribute.stream().into_iter().collect();
            let next = at + 2 + usize::from(bang);
            return if is_for_tests(&attribute) { self.skip_item(level, next) } else { next };
        }
        if is_ident(token, "use") {
            let end =
                level[at..].iter().position(|token| is_punct(token, ';')).map_or(level.len(), |end| at + end);
            self.tree(&level[at + 1..end], &[]);
            return end + 1;
        }
        if let (true, Some(TokenTree::Ident(name))) = (is_ident(token, "mod"), level.get(at + 1)) {
            if let Some(body) = group(level.get(at + 2), Delimiter::Brace) {
                self.inside.push(name.to_string());
                self.level(&body.stream().into_iter().collect::<Vec<_>>());
                self.inside.pop();
            }
            return at + 3;
        }
        if let TokenTree::Group(inner) = token {
            self.level(&inner.stream().into_iter().collect::<Vec<_>>());
            return at + 1;
        }
        let starts = ["crate", "self", "super"].iter().any(|start| is_ident(token, start));
        let goes_on = starts && is_separator(level, at + 1);
        let visibility = at > 0 && is_ident(&level[at - 1], "in");
        let inside_a_path = at >= 2 && is_separator(level, at - 2);
        if !goes_on || visibility || inside_a_path {
            return at + 1;
        }
        let (segments, next) = path(level, at);
        self.push(token, segments, None);
        next
    }

    /// Goes past the item that an attribute of tests stands before.
    fn skip_item(&mut self, level: &[TokenTree], start: usize) -> usize {
        let mut at = start;
        let is_use =
            level[start..].iter().find(|token| !is_ident(token, "pub")).is_some_and(|t| is_ident(t, "use"));
        while let Some(token) = level.get(at) {
            if let (true, Some(TokenTree::Ident(name)), Some(end)) =
                (is_ident(token, "mod"), level.get(at + 1), level.get(at + 2))
                && is_punct(end, ';')
            {
                self.found.test_modules.push(name.to_string());
            }
            let body = !is_use && group(Some(token), Delimiter::Brace).is_some();
            at += 1;
            if body || is_punct(token, ';') {
                break;
            }
        }
        at
    }

    /// A tree of `use`, behind what stands before it.
    fn tree(&mut self, tree: &[TokenTree], before: &[String]) {
        let (mut segments, mut next) = (before.to_vec(), 0);
        if is_separator(tree, 0) {
            // `::name` is a foreign crate.
            return;
        }
        let Some(first) = tree.first() else { return };
        if let TokenTree::Ident(_) = first {
            let (own, end) = path(tree, 0);
            segments.extend(own);
            next = end;
        }
        match tree.get(next) {
            Some(TokenTree::Group(list)) => {
                let list: Vec<TokenTree> = list.stream().into_iter().collect();
                list.split(|token| is_punct(token, ',')).for_each(|tree| self.tree(tree, &segments));
            }
            Some(token) if is_punct(token, '*') => self.push(first, segments, None),
            rest => {
                if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
                    segments.pop();
                }
                let renamed = rest.is_some_and(|rest| is_ident(rest, "as"));
                let alias = tree.get(next + 1).filter(|_| renamed).map(ToString::to_string);
                let name = alias.or_else(|| segments.last().cloned());
                self.push(first, segments, name);
            }
        }
    }

    fn push(&mut self, token: &TokenTree, segments: Vec<String>, binds: Option<String>) {
        let line = token.span().start().line;
        self.found.paths.push(Import { line, inside: self.inside.clone(), segments, binds });
    }
}

/// The names from `at` on with `::` between them, and what comes next: behind the `::` before a list or a
/// star.
fn path(level: &[TokenTree], mut at: usize) -> (Vec<String>, usize) {
    let mut segments = Vec::new();
    while let Some(TokenTree::Ident(name)) = level.get(at) {
        segments.push(name.to_string());
        at += 1;
        if !is_separator(level, at) {
            break;
        }
        at += 2;
    }
    (segments, at)
}

fn is_separator(level: &[TokenTree], at: usize) -> bool {
    level.get(at..at + 2).is_some_and(|pair| is_punct(&pair[0], ':') && is_punct(&pair[1], ':'))
}

/// `cfg(test)`, or `cfg(all(test, …))`.
fn is_for_tests(attribute: &[TokenTree]) -> bool {
    let list = |at: usize| {
        let list = group(attribute.get(at), Delimiter::Parenthesis)?;
        Some(list.stream().into_iter().collect::<Vec<TokenTree>>())
    };
    let Some(condition) = attribute.first().filter(|name| is_ident(name, "cfg")).and_then(|_| list(1)) else {
        return false;
    };
    match (condition.first(), group(condition.get(1), Delimiter::Parenthesis)) {
        (Some(all), Some(list)) if is_ident(all, "all") => {
            list.stream().into_iter().any(|token| is_ident(&token, "test"))
        }
        (Some(only), None) => is_ident(only, "test"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokens::parse;
    use super::*;

    fn paths(text: &str) -> Vec<(usize, String)> {
        let found = read(&parse(text).unwrap()).paths;
        found.into_iter().map(|import| (import.line, import.segments.join("::"))).collect()
    }

    fn found(text: &str) -> Vec<String> {
        paths(text).into_iter().map(|(_, path)| path).collect()
    }

    #[test]
    fn trees_are_taken_apart() {
        let text = "use crate::{a::{self, B as C},\n super::d::*};\npub(crate) use e::F;\nuse ::g::H;\n";
        let expected = [(1, "crate::a"), (1, "crate::a::B"), (2, "crate::super::d"), (3, "e::F")];
        assert_eq!(paths(text), expected.map(|(line, path)| (line, path.to_owned())));
        let names = |import: Import| import.binds.unwrap_or_default();
        let names: Vec<String> = read(&parse(text).unwrap()).paths.into_iter().map(names).collect();
        assert_eq!(names, ["a", "C", "", "F"]);
    }

    #[test]
    fn paths_in_code_and_macros_count() {
        let text = "fn f(x: &crate::a::B) { g!(super::c::d(self::e::<u8>()), self.h) }\n";
        assert_eq!(found(text), ["crate::a::B", "super::c::d", "self::e"]);
        assert_eq!(found("macro_rules! m { () => { $crate::a::f() } }"), ["crate::a::f"]);
    }

    #[test]
    fn visibility_comments_and_text_do_not() {
        assert_eq!(found("pub(in crate::a) struct S; pub(super) fn f() {}\n"), [""; 0]);
        assert_eq!(found("/// [`crate::a::B`]\nconst S: &str = \"crate::a\"; // crate::a\n"), [""; 0]);
    }

    #[test]
    fn what_only_tests_compile_does_not() {
        let text = "#[cfg(test)]\nmod tests { use crate::a; }\n\
                    #[cfg(all(test, not(loom)))]\nuse crate::{b};\n\
                    #[cfg(test)]\n#[path = \"t.rs\"]\nmod t;\n#[cfg(not(test))]\nuse crate::c;\n";
        assert_eq!(found(text), ["crate::c"]);
        assert_eq!(read(&parse(text).unwrap()).test_modules, ["t"]);
    }

    #[test]
    fn inline_modules_are_named() {
        let found = read(&parse("mod m { use super::a; }\nuse crate::b;\n").unwrap()).paths;
        assert_eq!(found[0].inside, ["m"]);
        assert_eq!(found[1].inside, [""; 0]);
    }
}
