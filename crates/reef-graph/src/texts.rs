//! Texts (strings) as numbers. Graphs and devices know numbers alone: a model that has texts has them
//! numbered, and whoever gives and takes tensors translates. Equal texts have equal numbers, so what moves,
//! picks and compares texts does the same with their numbers.

use std::collections::HashMap;

/// The texts of a model, numbered from 0 on. They are bytes: nothing here asks for UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    all: Vec<Box<[u8]>>,
    numbers: HashMap<Box<[u8]>, i64>,
}

impl Texts {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The number of a text, which it gets if it has none yet.
    pub fn number(&mut self, text: &[u8]) -> i64 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let number = self.all.len() as i64;
        self.all.push(text.into());
        self.numbers.insert(text.into(), number);
        number
    }

    /// The number of a text, if it has one.
    pub fn find(&self, text: &[u8]) -> Option<i64> {
        self.numbers.get(text).copied()
    }

    /// The text with this number.
    pub fn text(&self, number: i64) -> Option<&[u8]> {
        usize::try_from(number).ok().and_then(|number| self.all.get(number)).map(|text| &**text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_have_one_number() {
        let mut texts = Texts::default();
        assert!(texts.is_empty());
        let numbers = [&b"a"[..], b"", b"a", &[0xff]].map(|text| texts.number(text));
        assert_eq!((numbers, texts.len()), ([0, 1, 0, 2], 3));
        assert_eq!((texts.find(b""), texts.find(b"b")), (Some(1), None));
        assert_eq!(texts.text(2), Some(&[0xff][..]));
        assert_eq!([texts.text(-1), texts.text(3), texts.text(i64::MIN)], [None; 3]);
    }
}
