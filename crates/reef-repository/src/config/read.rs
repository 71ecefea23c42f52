//! Fields of a message as typed values. Errors say the field, what it is to be, and where it stands.

use crate::text::{Fault, Field, Message, Value};

impl Field {
    pub(super) fn wrong(&self, expected: &str) -> Fault {
        let found = match &self.value {
            Value::Text(text) => format!("\"{}\"", text.escape_debug()),
            Value::Number(text) | Value::Word(text) => text.clone(),
            Value::Message(_) => "a message".into(),
        };
        self.fault(format!("expected {expected}, found {found}"))
    }

    /// What is wrong with it.
    pub(super) fn fault(&self, what: impl std::fmt::Display) -> Fault {
        Fault::new(self.at, format!("{}: {what}", self.name))
    }

    pub(super) fn text(&self) -> Result<&str, Fault> {
        match &self.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.wrong("a string")),
        }
    }

    /// A name of an enumeration; JSON has it in quotes.
    pub(super) fn word(&self) -> Result<&str, Fault> {
        match &self.value {
            Value::Word(word) | Value::Text(word) => Ok(word),
            _ => Err(self.wrong("a name")),
        }
    }

    pub(super) fn boolean(&self) -> Result<bool, Fault> {
        match &self.value {
            Value::Word(word) | Value::Number(word) => match &**word {
                "true" | "True" | "t" | "1" => Ok(true),
                "false" | "False" | "f" | "0" => Ok(false),
                _ => Err(self.wrong("true or false")),
            },
            _ => Err(self.wrong("true or false")),
        }
    }

    pub(super) fn message(&self) -> Result<&Message, Fault> {
        match &self.value {
            Value::Message(message) => Ok(message),
            _ => Err(self.wrong("a message")),
        }
    }

    /// A whole number within these bounds.
    pub(super) fn whole<T>(&self, least: T, most: T) -> Result<T, Fault>
    where
        T: TryFrom<i128> + Into<i128> + Copy,
    {
        let (Value::Number(text) | Value::Text(text)) = &self.value else {
            return Err(self.wrong("a whole number"));
        };
        let value = whole(text).ok_or_else(|| self.wrong("a whole number"))?;
        let range = || format!("{} to {}", least.into(), most.into());
        match T::try_from(value) {
            Ok(value) if (least.into()..=most.into()).contains(&value.into()) => Ok(value),
            _ => Err(self.fault(format!("{text} is not in {}", range()))),
        }
    }
}

/// Decimal, hexadecimal or octal, as protocol buffers have them; what is too large for any field is the
/// largest there is.
fn whole(text: &str) -> Option<i128> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = match (hex, digits.strip_prefix('0')) {
        (Some(hex), _) => (hex, 16),
        (None, Some(octal)) if !octal.is_empty() => (octal, 8),
        _ => (digits, 10),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    let value = i128::from_str_radix(digits, radix).unwrap_or(i128::MAX);
    Some(if negative { -value } else { value })
}

/// Sets what may be said once.
pub(super) fn once<T>(place: &mut Option<T>, field: &Field, value: T) -> Result<(), Fault> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(field.fault("it is there twice")),
    }
}

/// An error where `list` has as many as it may.
pub(super) fn room<T>(list: &[T], most: usize, field: &Field) -> Result<(), Fault> {
    match list.len() < most {
        true => Ok(()),
        false => Err(field.fault(format!("more than {most}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_read_in_every_base_and_bounded() {
        let read = |text: &str| {
            Field { name: "n".into(), at: None, value: Value::Number(text.into()) }.whole(-8i64, 4096)
        };
        for (text, expected) in [("0", 0), ("017", 15), ("0x1F", 31), ("-8", -8), ("4096", 4096)] {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
        let huge = "9".repeat(500);
        for text in ["4097", "-9", &huge, "0x10000000000000000000000000000000000000000"] {
            assert_eq!(read(text).unwrap_err().what, format!("n: {text} is not in -8 to 4096"));
        }
        for text in ["1.0", "1e3", "", "-", "08", "nan"] {
            assert!(read(text).unwrap_err().what.starts_with("n: expected a whole number"), "{text}");
        }
    }
}
