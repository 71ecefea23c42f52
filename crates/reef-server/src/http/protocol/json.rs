//! JSON from clients, where the protocol has objects.
//!
//! serde's derived code takes a list for a struct as well, its elements in the order of the fields: a request
//! that no other server understands would be served here. So every body is read by [`object`] or
//! [`settings`], and every struct inside of one is an [`Object`]; lint and tests forbid and find others.

// The one place.
#![allow(clippy::disallowed_methods)]

use serde::de::{Deserialize, Deserializer, Visitor};
use serde_json::{Map, Value};

use crate::core::problem::Problem;

/// A `T` that stands as an object, never as a list of its fields.
#[derive(Debug, Default)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(Keyed(deserializer)).map(Object)
    }
}

/// A deserializer that gives maps, whatever is asked of it.
struct Keyed<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Keyed<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// The object that a body is.
pub(crate) fn object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(body).map(|Object(object)| object)
}

/// The object that a body is that may be empty: then it says nothing.
pub(crate) fn object_or_nothing<'a, T: Deserialize<'a> + Default>(body: &'a [u8]) -> Result<T, Problem> {
    match body.trim_ascii() {
        b"" => Ok(T::default()),
        body => object(body).map_err(|error| wrong(&error.to_string())),
    }
}

/// The settings that a client wants changed; none in a body without any.
pub(crate) fn settings(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    object_or_nothing(body)
}

/// The text that a JSON string stands for.
pub(crate) fn text(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}

/// What is told a client whose JSON is something else than the protocol says.
pub(crate) fn wrong(what: &str) -> Problem {
    Problem::invalid(format!("the request is not as the protocol says: {what}"))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(expecting = "a shelf, an object")]
    struct Shelf<'a> {
        #[serde(borrow)]
        books: Vec<Object<Book<'a>>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(expecting = "a book, an object")]
    struct Book<'a> {
        #[serde(borrow)]
        title: &'a RawValue,
        #[serde(default)]
        pages: Option<u64>,
    }

    #[test]
    fn objects_are_read_without_a_copy_and_lists_are_none() {
        let json = br#"{"books":[{"title":[1,2],"pages":7,"colour":[]},{"title":"b"}]}"#;
        let shelf: Shelf<'_> = object(json).unwrap();
        let [Object(first), Object(second)] = &shelf.books[..] else { panic!() };
        assert_eq!((first.title.get(), first.pages, second.pages), ("[1,2]", Some(7), None));
        assert!(json.as_ptr_range().contains(&first.title.get().as_ptr()));
        let table = [
            ("[[]]", "expected a shelf, an object"),
            (r#"{"books":[["t",7]]}"#, "expected a book, an object"),
            (r#"{"books":[null]}"#, "expected a book, an object"),
            (r#"[{"title":"t"}]"#, "expected a shelf, an object"),
        ];
        for (json, message) in table {
            let error = object::<Shelf<'_>>(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(message), "{json}: {error}");
        }
    }

    #[test]
    fn a_body_without_anything_says_nothing() {
        assert!(settings(b" \n").unwrap().is_empty());
        assert_eq!(settings(br#"{"a":1}"#).unwrap().len(), 1);
        for wrong in ["[]", "null", "7", "{", r#"["a",1]"#] {
            assert!(settings(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
