//! Lists and maps in JSON that may not be long.
//!
//! Invariant: what is too long is refused while it is read, so that little on the wire never takes much
//! memory. An entry of a list may have two bytes there, and a hundred here.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// At most `MAX` of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AtMost<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> Deref for AtMost<T, MAX> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T, const MAX: usize> Default for AtMost<T, MAX> {
    fn default() -> Self {
        AtMost(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for AtMost<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(List(PhantomData))
    }
}

struct List<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
    type Value = AtMost<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            if list.len() == MAX {
                return Err(A::Error::custom(format!("a list of more than {MAX}")));
            }
            list.push(item);
        }
        Ok(AtMost(list))
    }
}

/// An object of at most `MAX` members, each as it stands in the JSON; of two with one name the last one
/// counts.
#[derive(Debug)]
pub(crate) struct Members<'a, const MAX: usize>(Vec<(String, &'a RawValue)>);

impl<'a, const MAX: usize> Members<'a, MAX> {
    /// The member `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(known, _)| known == name).map(|&(_, value)| value)
    }

    /// Each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (&**name, *value))
    }
}

impl<const MAX: usize> Default for Members<'_, MAX> {
    fn default() -> Self {
        Members(Vec::new())
    }
}

impl<'de: 'a, 'a, const MAX: usize> Deserialize<'de> for Members<'a, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor<const MAX: usize>;

impl<'de, const MAX: usize> Visitor<'de> for MembersVisitor<MAX> {
    type Value = Members<'de, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Vec<(String, &'de RawValue)> = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
            match members.iter().position(|(known, _)| *known == name) {
                Some(index) => members[index].1 = value,
                None if members.len() == MAX => {
                    return Err(A::Error::custom(format!("an object of more than {MAX} members")));
                }
                None => members.push((name, value)),
            }
        }
        Ok(Members(members))
    }
}
