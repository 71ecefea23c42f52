//! Parameters of requests, whichever protocol they came in.
//!
//! What a number is: an integer, or a text of decimal digits, since not every client can send each kind.

use std::fmt;

use crate::core::problem::Problem;

/// Characters of a client's value that an error quotes.
pub(crate) const QUOTE_LEN_MAX: usize = 64;

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Flag(bool),
    /// Wide enough for what any protocol has.
    Whole(i128),
    Real(f64),
    Text(String),
    /// What no parameter with a meaning may be, as the protocol writes it.
    Other(String),
}

impl Value {
    /// Whether it is other than the values that stand for "not used".
    pub(crate) fn is_set(&self) -> bool {
        match self {
            Value::Flag(flag) => *flag,
            Value::Whole(number) => *number != 0,
            Value::Text(text) => !text.is_empty(),
            Value::Other(text) => text != "null",
            Value::Real(_) => true,
        }
    }

    fn unsigned(&self) -> Option<u64> {
        match self {
            Value::Whole(number) => u64::try_from(*number).ok(),
            // `parse` would take a sign.
            Value::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        }
    }

    fn flag(&self) -> Option<bool> {
        match self {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        }
    }
}

/// As an error quotes it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Flag(flag) => write!(f, "{flag}"),
            Value::Whole(number) => write!(f, "{number}"),
            Value::Real(number) => write!(f, "{number}"),
            Value::Text(text) => write!(f, "\"{}\"", quoted(text)),
            Value::Other(text) => f.write_str(&quoted(text)),
        }
    }
}

/// A client's text for an error, not longer than an error should be.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTE_LEN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

/// The unsigned integer `value` of the parameter `name`; `place` is what has the parameter.
pub(crate) fn unsigned(value: Option<Value>, name: &str, place: &str) -> Result<Option<u64>, Problem> {
    let Some(value) = value else { return Ok(None) };
    let wrong =
        || Problem::invalid(format!("parameter '{name}' of {place}: {value} is not an unsigned integer"));
    value.unsigned().map(Some).ok_or_else(wrong)
}

/// As [`unsigned`], of booleans.
pub(crate) fn flag(value: Option<Value>, name: &str, place: &str) -> Result<Option<bool>, Problem> {
    let Some(value) = value else { return Ok(None) };
    let wrong = || Problem::invalid(format!("parameter '{name}' of {place}: {value} is not a boolean"));
    value.flag().map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_integers_or_their_digits() {
        let read = |value| unsigned(Some(value), "p", "request");
        let text = |text: &str| Value::Text(text.into());
        for (value, number) in
            [(Value::Whole(7), 7), (text("7"), 7), (text("18446744073709551615"), u64::MAX)]
        {
            assert_eq!(read(value), Ok(Some(number)));
        }
        let wrong = [Value::Whole(-1), Value::Whole(1 << 64), Value::Real(1.0), Value::Flag(true)];
        let texts = ["", "+7", "-7", " 7", "7 ", "0x7", "18446744073709551616"].map(text);
        for value in wrong.into_iter().chain(texts) {
            let error = read(value.clone()).unwrap_err().message;
            assert!(error.contains(&format!("of request: {value} is not an unsigned")), "{error}");
        }
        assert_eq!(unsigned(None, "p", "request"), Ok(None));
        assert!(flag(Some(text("true")), "p", "request").unwrap_err().message.contains("not a boolean"));
    }

    #[test]
    fn errors_quote_only_so_much() {
        let long = Value::Text("é".repeat(1000)).to_string();
        assert!(long.ends_with("é…\"") && long.chars().count() == QUOTE_LEN_MAX + 3, "{long}");
    }
}
