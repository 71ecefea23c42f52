//! The rules on one Rust file: header, name, ignored tests, and the measures that have limits.

use proc_macro2::{Delimiter, TokenTree};

use super::Finding;
use super::exceptions::{Measure, Rule};
use super::tokens::{self, group, is_ident, is_punct};

/// Names that say nothing about what a module holds.
const EMPTY_NAMES: [&str; 7] = ["util", "utils", "manager", "managers", "helper", "helpers", "common"];

/// The rules that read a file as text.
pub(crate) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let first = text.lines().position(|line| !line.trim().is_empty()).unwrap_or(0);
    if !text.lines().nth(first).is_some_and(|line| line.starts_with("//!")) {
        let message = "open the file with `//!`: what it owns, its invariants, what it must not know";
        findings.push(Finding::new(path, first + 1, "header", message));
    }
    for part in path.trim_end_matches(".rs").split('/') {
        if EMPTY_NAMES.contains(&part) {
            let message = format!("`{part}` says nothing; name the module for what it holds");
            findings.push(Finding::new(path, 1, "name", message));
        }
    }
    findings
}

/// The rules that read a file as tokens: an inline module's name, and `#[ignore]` with its reason.
pub(crate) fn check_tokens(path: &str, tokens: &[TokenTree]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, attribute) in tokens::attributes(tokens) {
        let name = attribute.first();
        if name.is_some_and(|name| is_ident(name, "ignore") || is_ident(name, "cfg_attr"))
            && bare_ignore(&attribute)
        {
            let message = "say why: #[ignore = \"reason\"]";
            findings.push(Finding::new(path, line, "ignore", message));
        }
    }
    tokens::walk(tokens, &mut |level| {
        for pair in level.windows(2) {
            if let (true, TokenTree::Ident(name)) = (is_ident(&pair[0], "mod"), &pair[1])
                && EMPTY_NAMES.contains(&name.to_string().as_str())
            {
                let message = format!("`{name}` says nothing; name the module for what it holds");
                findings.push(Finding::new(path, name.span().start().line, "name", message));
            }
        }
    });
    findings
}

/// The lengths of every function.
pub(crate) fn measure_functions(path: &str, tokens: &[TokenTree]) -> Vec<Measure> {
    let measure = |function: tokens::Function| Measure {
        rule: Rule::FnLines,
        value: function.last_line - function.first_line + 1,
        path: path.to_owned(),
        line: function.first_line,
        function: Some(function.name),
    };
    tokens::functions(tokens).into_iter().map(measure).collect()
}

/// The length of the file and of every line that is too long (or else of the longest).
pub(crate) fn measure_text(path: &str, text: &str) -> Vec<Measure> {
    let measure = |rule, line, value| Measure { rule, value, path: path.to_owned(), line, function: None };
    let mut measures = vec![measure(Rule::FileLines, 1, text.lines().count())];
    for (index, line) in text.lines().enumerate() {
        let chars = line.chars().count();
        if chars > Rule::LineChars.limit() {
            measures.push(measure(Rule::LineChars, index + 1, chars));
        }
    }
    measures
}

fn bare_ignore(tokens: &[TokenTree]) -> bool {
    let here = tokens.iter().enumerate().any(|(at, token)| {
        is_ident(token, "ignore") && !tokens.get(at + 1).is_some_and(|next| is_punct(next, '='))
    });
    let below = tokens.iter().filter_map(|token| group(Some(token), Delimiter::Parenthesis));
    here || below.map(|group| group.stream().into_iter().collect::<Vec<_>>()).any(|inner| bare_ignore(&inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<(&'static str, usize)> {
        let mut findings = check(path, text);
        findings.extend(check_tokens(path, &tokens::parse(text).unwrap()));
        findings.into_iter().map(|finding| (finding.rule, finding.line)).collect()
    }

    #[test]
    fn a_file_opens_with_its_doc() {
        assert_eq!(rules("a.rs", "//! Yes.\n"), []);
        assert_eq!(rules("a.rs", "\n//! Yes.\n"), []);
        assert_eq!(rules("a.rs", "\nuse std::fs;\n//! Late.\n"), [("header", 2)]);
        assert_eq!(rules("a.rs", "/// Not of the file.\nfn f() {}\n"), [("header", 1)]);
        assert_eq!(rules("a.rs", ""), [("header", 1)]);
    }

    #[test]
    fn empty_names_are_refused_as_file_folder_and_module() {
        assert_eq!(rules("src/utils.rs", "//! U.\n"), [("name", 1)]);
        assert_eq!(rules("tests/common/mod.rs", "//! C.\n"), [("name", 1)]);
        assert_eq!(rules("src/a.rs", "//! A.\nmod helper {}\n"), [("name", 2)]);
        assert_eq!(rules("src/commonality.rs", "//! C.\nmod manager_queue;\n"), []);
    }

    #[test]
    fn an_ignored_test_says_why() {
        assert_eq!(rules("a.rs", "//! A.\n#[ignore]\nfn f() {}\n"), [("ignore", 2)]);
        assert_eq!(rules("a.rs", "//! A.\n#[ignore = \"needs a GPU\"]\nfn f() {}\n"), []);
        assert_eq!(rules("a.rs", "//! A.\n#[cfg_attr(miri, ignore)]\nfn f() {}\n"), [("ignore", 2)]);
        assert_eq!(rules("a.rs", "//! A.\n#[cfg_attr(miri, ignore = \"slow\")]\nfn f() {}\n"), []);
        assert_eq!(rules("a.rs", "//! A.\n#[serde(ignore)]\nstruct S;\n"), []);
    }

    #[test]
    fn lines_count_characters_and_files_count_lines() {
        let wide = "é".repeat(110);
        assert_eq!(measure_text("a.rs", &wide).len(), 1);
        let measures = measure_text("a.rs", &format!("x\n{wide}é\n"));
        assert_eq!((measures[0].rule, measures[0].value), (Rule::FileLines, 2));
        assert_eq!((measures[1].rule, measures[1].line, measures[1].value), (Rule::LineChars, 2, 111));
    }

    #[test]
    fn a_function_counts_from_its_fn_to_its_brace() {
        let measures = measure_functions("a.rs", &tokens::parse("fn f() {\n\n\n}\n").unwrap());
        assert_eq!((measures[0].value, measures[0].function.as_deref()), (4, Some("f")));
    }
}
