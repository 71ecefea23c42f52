//! Rust source as token trees with line numbers: functions and attributes, wherever they stand.
//!
//! Token trees and not a syntax tree, because a rule must also see inside macros: property tests and
//! generated kernels are functions in a macro's argument, which a parser leaves unread.

use std::str::FromStr;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// A function with a body: the lines of its `fn` and of its closing brace.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) first_line: usize,
    pub(crate) last_line: usize,
}

/// Lexes a file; an error is the line where lexing stopped.
pub(crate) fn parse(text: &str) -> Result<Vec<TokenTree>, usize> {
    match TokenStream::from_str(text) {
        Ok(stream) => Ok(stream.into_iter().collect()),
        Err(error) => Err(error.span().start().line.max(1)),
    }
}

/// Every function below `tokens`, nested ones too.
pub(crate) fn functions(tokens: &[TokenTree]) -> Vec<Function> {
    let mut found = Vec::new();
    walk(tokens, &mut |level| {
        for (at, token) in level.iter().enumerate() {
            if is_ident(token, "fn") {
                found.extend(function_at(level, at));
            }
        }
    });
    found
}

/// Every attribute below `tokens`, as its line and what stands between its brackets.
pub(crate) fn attributes(tokens: &[TokenTree]) -> Vec<(usize, Vec<TokenTree>)> {
    let mut found = Vec::new();
    walk(tokens, &mut |level| {
        for (at, token) in level.iter().enumerate() {
            if is_punct(token, '#') {
                let bang = level.get(at + 1).is_some_and(|next| is_punct(next, '!'));
                if let Some(group) = group(level.get(at + 1 + usize::from(bang)), Delimiter::Bracket) {
                    found.push((line(token), group.stream().into_iter().collect()));
                }
            }
        }
    });
    found
}

/// Calls `visit` with the tokens of each level of nesting, outermost first.
pub(crate) fn walk(level: &[TokenTree], visit: &mut impl FnMut(&[TokenTree])) {
    visit(level);
    for token in level {
        if let TokenTree::Group(group) = token {
            let inner: Vec<TokenTree> = group.stream().into_iter().collect();
            walk(&inner, visit);
        }
    }
}

pub(crate) fn is_ident(token: &TokenTree, name: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == name)
}

pub(crate) fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

pub(crate) fn group(token: Option<&TokenTree>, delimiter: Delimiter) -> Option<&Group> {
    match token {
        Some(TokenTree::Group(group)) if group.delimiter() == delimiter => Some(group),
        _ => None,
    }
}

fn function_at(level: &[TokenTree], at: usize) -> Option<Function> {
    let mut rest = at + 1;
    // In a `macro_rules!` body the name may be `$name`; a function pointer has no name at all.
    if is_punct(level.get(rest)?, '$') {
        rest += 1;
    }
    let TokenTree::Ident(name) = level.get(rest)? else { return None };
    let body = level[rest..].iter().enumerate().find_map(|(offset, token)| {
        if is_punct(token, ';') {
            return Some(None);
        }
        let next = level.get(rest + offset + 1);
        // `Foo<{ N + 1 }>`: a brace that is an argument of a type, not the body.
        let argument = next.is_some_and(|next| is_punct(next, '>') || is_punct(next, ','));
        group(Some(token), Delimiter::Brace).filter(|_| !argument).map(Some)
    })??;
    Some(Function {
        name: name.to_string(),
        first_line: line(&level[at]),
        last_line: body.span_close().end().line,
    })
}

fn line(token: &TokenTree) -> usize {
    token.span().start().line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<(String, usize, usize)> {
        let tokens = parse(text).unwrap();
        functions(&tokens).into_iter().map(|f| (f.name, f.first_line, f.last_line)).collect()
    }

    #[test]
    fn functions_are_found_with_their_lines() {
        let text = "/// Doc.\n#[inline]\nfn a(\n    x: u8,\n) -> u8 {\n    x\n}\nimpl T { fn b(&self) {} }\n";
        assert_eq!(names(text), [("a".to_owned(), 3, 7), ("b".to_owned(), 8, 8)]);
    }

    #[test]
    fn functions_inside_macros_and_functions_are_found() {
        let argument = "proptest! {\n#[test]\nfn a(x in 0..3) {\n}\n}\n";
        assert_eq!(names(argument), [("a".to_owned(), 3, 4)]);
        let body = "macro_rules! m { ($n:ident) => {\nfn $n() {\n} } }\n";
        assert_eq!(names(body), [("n".to_owned(), 2, 3)]);
        assert_eq!(names("fn a() {\n fn b() {\n }\n}").len(), 2);
    }

    #[test]
    fn declarations_pointers_and_type_arguments_are_no_bodies() {
        assert_eq!(names("trait T { fn a(); }\nstruct S { f: fn(u8) -> u8 }\ntype F = fn();\n"), []);
        assert_eq!(names("fn a() -> [u8; 2] {\n}"), [("a".to_owned(), 1, 2)]);
        assert_eq!(names("fn a() -> A<{ 1 + 1 }> {\n\n}"), [("a".to_owned(), 1, 3)]);
    }

    #[test]
    fn text_in_strings_and_comments_is_not_code() {
        assert_eq!(names("// fn a() {}\nconst S: &str = \"fn b() {\";\n"), []);
    }

    #[test]
    fn unbalanced_braces_are_an_error() {
        assert!(parse("fn a() {\n").is_err());
    }
}
