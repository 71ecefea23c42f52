//! Tensor elements as JSON: nested or flat arrays into little-endian bytes, and back.
//!
//! Invariants: the target is filled completely or an error is returned; no number is silently rounded to
//! another integer or to infinity. JSON has no NaN and no infinity: they are strings, see [`SPECIAL`]. FP16
//! and BF16 have no JSON form.

use std::fmt;

use reef_engine::DType;
use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::core::parameter::QUOTE_LEN_MAX;

/// What floating-point elements are that JSON has no number for: as protobuf's JSON mapping writes them.
pub(crate) const SPECIAL: [(&str, f64); 3] =
    [("NaN", f64::NAN), ("Infinity", f64::INFINITY), ("-Infinity", f64::NEG_INFINITY)];

/// Whether tensors of `dtype` may be written as JSON.
pub(crate) fn has_json_form(dtype: DType) -> bool {
    !matches!(dtype, DType::F16 | DType::BF16)
}

/// Writes the elements in `raw`, a tensor of `dtype` and `shape`, to `target`, dense and row-major.
/// `target` must have exactly the tensor's bytes.
pub(crate) fn read(raw: &RawValue, dtype: DType, shape: &[usize], target: &mut [u8]) -> Result<(), String> {
    let expected = target.len() / dtype.bytes();
    let mut sink = Sink { dtype, shape, target, written: 0, nested: false, texts: None };
    let mut json = serde_json::Deserializer::from_str(raw.get());
    List { sink: &mut sink, depth: 0 }.deserialize(&mut json).map_err(|error| error.to_string())?;
    if sink.written != expected {
        return Err(format!("{} elements, the shape needs {expected}", sink.written));
    }
    Ok(())
}

/// The texts in `raw`, a tensor of `shape`, row-major, each after its length.
pub(crate) fn read_texts(raw: &RawValue, shape: &[usize], count: usize) -> Result<Vec<u8>, String> {
    let texts = Some((Vec::new(), count));
    let mut sink = Sink { dtype: DType::U8, shape, target: &mut [], written: 0, nested: false, texts };
    let mut json = serde_json::Deserializer::from_str(raw.get());
    List { sink: &mut sink, depth: 0 }.deserialize(&mut json).map_err(|error| error.to_string())?;
    if sink.written != count {
        return Err(format!("{} elements, the shape needs {count}", sink.written));
    }
    Ok(sink.texts.expect("these are texts").0)
}

/// Where elements go.
struct Sink<'a> {
    dtype: DType,
    shape: &'a [usize],
    target: &'a mut [u8],
    written: usize,
    nested: bool,
    /// Texts and how many there may be, if elements are such.
    texts: Option<(Vec<u8>, usize)>,
}

impl Sink<'_> {
    /// The protocol's name of the element type.
    fn datatype(&self) -> &'static str {
        if self.texts.is_some() { "BYTES" } else { self.dtype.protocol_name() }
    }

    fn number(&self, value: impl fmt::Display) -> Result<(), String> {
        match self.texts {
            Some(_) => Err(format!("{value} is not of type BYTES: texts are strings")),
            None => Ok(()),
        }
    }

    fn push<const N: usize>(&mut self, bytes: [u8; N]) -> Result<(), String> {
        let start = self.written * N;
        let Some(slot) = self.target.get_mut(start..start + N) else {
            return Err(format!("more than the {} elements that the shape needs", self.written));
        };
        slot.copy_from_slice(&bytes);
        self.written += 1;
        Ok(())
    }

    fn integer(&mut self, value: i128) -> Result<(), String> {
        self.number(value)?;
        let misfit = || format!("{value} does not fit {}", self.dtype.protocol_name());
        match self.dtype {
            DType::I64 => self.push(i64::try_from(value).map_err(|_| misfit())?.to_le_bytes()),
            DType::I32 => self.push(i32::try_from(value).map_err(|_| misfit())?.to_le_bytes()),
            DType::I16 => self.push(i16::try_from(value).map_err(|_| misfit())?.to_le_bytes()),
            DType::I8 => self.push(i8::try_from(value).map_err(|_| misfit())?.to_le_bytes()),
            DType::U64 => self.push(u64::try_from(value).map_err(|_| misfit())?.to_le_bytes()),
            DType::U32 => self.push(u32::try_from(value).map_err(|_| misfit())?.to_le_bytes()),
            DType::U16 => self.push(u16::try_from(value).map_err(|_| misfit())?.to_le_bytes()),
            DType::U8 => self.push(u8::try_from(value).map_err(|_| misfit())?.to_le_bytes()),
            DType::F32 => self.push((value as f32).to_le_bytes()),
            DType::F64 => self.push((value as f64).to_le_bytes()),
            DType::Bool if value == 0 || value == 1 => self.push([value as u8]),
            DType::Bool | DType::F16 | DType::BF16 => Err(misfit()),
        }
    }

    fn float(&mut self, value: f64) -> Result<(), String> {
        self.number(value)?;
        match self.dtype {
            DType::F32 if (value as f32).is_infinite() => Err(format!("{value:e} does not fit FP32")),
            DType::F32 => self.push((value as f32).to_le_bytes()),
            DType::F64 => self.push(value.to_le_bytes()),
            other => Err(format!("{value:?} is not of type {}", other.protocol_name())),
        }
    }

    fn text(&mut self, text: &str) -> Result<(), String> {
        if let Some((texts, count)) = &mut self.texts {
            if self.written == *count {
                return Err(format!("more than the {count} elements that the shape needs"));
            }
            let length = u32::try_from(text.len()).map_err(|_| "a text of more than 4 GiB")?;
            texts.extend_from_slice(&length.to_le_bytes());
            texts.extend_from_slice(text.as_bytes());
            self.written += 1;
            return Ok(());
        }
        let special = SPECIAL.iter().find(|(name, _)| *name == text);
        match (self.dtype, special) {
            (DType::F32, Some(&(_, value))) => self.push((value as f32).to_le_bytes()),
            (DType::F64, Some(&(_, value))) => self.push(value.to_le_bytes()),
            (DType::F32 | DType::F64, None) => {
                let dtype = self.dtype.protocol_name();
                let text: String = text.chars().take(QUOTE_LEN_MAX).collect();
                Err(format!(
                    "the string {text:?} is not of type {dtype}; \"NaN\", \"Infinity\" and \"-Infinity\" are"
                ))
            }
            (other, _) => Err(format!("a string is not of type {}", other.protocol_name())),
        }
    }

    fn boolean(&mut self, value: bool) -> Result<(), String> {
        self.number(value)?;
        match self.dtype {
            DType::Bool => self.push([u8::from(value)]),
            other => Err(format!("{value} is not of type {}", other.protocol_name())),
        }
    }
}

/// An array at `depth` (0 the outermost): of elements when flat or at the innermost depth, else of arrays.
struct List<'s, 'a> {
    sink: &'s mut Sink<'a>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for List<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut count = 0;
        while items.next_element_seed(Item { sink: &mut *self.sink, depth: self.depth })?.is_some() {
            count += 1;
        }
        let expected = self.sink.shape.get(self.depth).copied();
        if self.sink.nested && expected.is_some_and(|expected| expected != count) {
            let expected = expected.unwrap_or_default();
            let depth = self.depth;
            return Err(A::Error::custom(format!(
                "an array of {count} at depth {depth}, the shape says {expected}"
            )));
        }
        Ok(())
    }
}

/// What an array at `depth` holds: an element or another array.
struct Item<'s, 'a> {
    sink: &'s mut Sink<'a>,
    depth: usize,
}

impl Item<'_, '_> {
    fn element<E: serde::de::Error>(
        self,
        push: impl FnOnce(&mut Sink<'_>) -> Result<(), String>,
    ) -> Result<(), E> {
        if self.sink.nested && self.depth + 1 != self.sink.shape.len() {
            return Err(E::custom(format!("an element where an array is expected, at depth {}", self.depth)));
        }
        push(self.sink).map_err(E::custom)
    }
}

impl<'de> DeserializeSeed<'de> for Item<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Item<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an element of type {}", self.sink.datatype())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.element(|sink| sink.boolean(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.element(|sink| sink.integer(value.into()))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.element(|sink| sink.integer(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.element(|sink| sink.float(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.element(|sink| sink.text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<(), A::Error> {
        let depth = self.depth + 1;
        if depth >= self.sink.shape.len() || (!self.sink.nested && self.sink.written > 0) {
            return Err(A::Error::custom(format!(
                "an array where an element is expected, at depth {}",
                self.depth
            )));
        }
        self.sink.nested = true;
        List { sink: self.sink, depth }.visit_seq(items)
    }
}

/// The elements of a dense tensor, serialised as one flat array. `bytes` are a multiple of the element size.
pub(crate) struct Flat<'a> {
    pub(crate) dtype: DType,
    pub(crate) bytes: &'a [u8],
}

impl Serialize for Flat<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Flat { dtype, bytes } = *self;
        Nested { dtype, shape: &[bytes.len() / dtype.bytes()], bytes }.serialize(serializer)
    }
}

/// The elements of a dense tensor, serialised as arrays of arrays as its shape says; of rank 0 as an element.
pub(crate) struct Nested<'a> {
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

impl Serialize for Nested<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.dtype {
            DType::F32 => self.write(serializer, |bytes| Float(f32::from_le_bytes(bytes))),
            DType::F64 => self.write(serializer, |bytes| Float(f64::from_le_bytes(bytes))),
            DType::I64 => self.write(serializer, i64::from_le_bytes),
            DType::I32 => self.write(serializer, i32::from_le_bytes),
            DType::I16 => self.write(serializer, i16::from_le_bytes),
            DType::I8 => self.write(serializer, i8::from_le_bytes),
            DType::U64 => self.write(serializer, u64::from_le_bytes),
            DType::U32 => self.write(serializer, u32::from_le_bytes),
            DType::U16 => self.write(serializer, u16::from_le_bytes),
            DType::U8 => self.write(serializer, u8::from_le_bytes),
            DType::Bool => self.write(serializer, |[byte]| byte != 0),
            DType::F16 | DType::BF16 => {
                Err(serde::ser::Error::custom(format!("{} has no JSON form", self.dtype.protocol_name())))
            }
        }
    }
}

impl<'a> Nested<'a> {
    /// A row along the first axis, of which there must be one.
    pub(crate) fn row(&self, index: usize) -> Nested<'a> {
        let Nested { dtype, shape, bytes } = *self;
        let row_bytes = bytes.len() / shape[0];
        Nested { dtype, shape: &shape[1..], bytes: &bytes[index * row_bytes..][..row_bytes] }
    }

    fn write<S: Serializer, T: Serialize, const N: usize>(
        &self,
        serializer: S,
        element: impl Fn([u8; N]) -> T,
    ) -> Result<S::Ok, S::Error> {
        let (elements, _) = self.bytes.as_chunks::<N>();
        match self.shape.len() {
            0 => element(elements[0]).serialize(serializer),
            1 => serializer.collect_seq(elements.iter().map(|bytes| element(*bytes))),
            _ => serializer.collect_seq((0..self.shape[0]).map(|index| self.row(index))),
        }
    }
}

/// A number, or the name of what is none.
struct Float<T>(T);

impl<T: Serialize + Copy + Into<f64>> Serialize for Float<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value: f64 = self.0.into();
        let same = |special: f64| special == value || special.is_nan() && value.is_nan();
        if value.is_finite() {
            return self.0.serialize(serializer);
        }
        let special = SPECIAL.iter().find(|(_, other)| same(*other));
        serializer.serialize_str(special.expect("what is not finite has a name").0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, dtype: DType, shape: &[usize]) -> Result<Vec<u8>, String> {
        let raw: Box<RawValue> = RawValue::from_string(json.into()).unwrap();
        let mut target = vec![0xAA; shape.iter().product::<usize>() * dtype.bytes()];
        read(&raw, dtype, shape, &mut target)?;
        Ok(target)
    }

    fn write(dtype: DType, bytes: &[u8]) -> String {
        serde_json::to_string(&Flat { dtype, bytes }).unwrap()
    }

    #[test]
    fn every_type_with_a_json_form_round_trips_flat() {
        let table = [
            (DType::F32, "[0.1,-3.4028235e38,1e-45,16777216.0]"),
            (DType::F64, "[0.1,-1.7976931348623157e308,5e-324,123456789.12345679]"),
            (DType::I64, "[0,-1,9223372036854775807,-9223372036854775808]"),
            (DType::I32, "[0,-1,2147483647,-2147483648]"),
            (DType::I16, "[0,-1,32767,-32768]"),
            (DType::I8, "[0,-1,127,-128]"),
            (DType::U64, "[0,1,18446744073709551615,7]"),
            (DType::U32, "[0,1,4294967295,7]"),
            (DType::U16, "[0,1,65535,7]"),
            (DType::U8, "[0,1,255,7]"),
            (DType::Bool, "[true,false,false,true]"),
        ];
        for (dtype, json) in table {
            let bytes = parse(json, dtype, &[2, 2]).unwrap();
            assert_eq!(write(dtype, &bytes).replace("e+", "e"), json, "{dtype}");
            assert_eq!(parse(&write(dtype, &bytes), dtype, &[2, 2]).unwrap(), bytes, "{dtype}");
        }
    }

    #[test]
    fn tensors_are_written_as_their_shapes_say() {
        let bytes = [1u8, 2, 3, 4, 5, 6];
        let table: [(&[usize], &str); 6] = [
            (&[6], "[1,2,3,4,5,6]"),
            (&[2, 3], "[[1,2,3],[4,5,6]]"),
            (&[3, 1, 2], "[[[1,2]],[[3,4]],[[5,6]]]"),
            (&[], "1"),
            (&[0, 3], "[]"),
            (&[2, 0], "[[],[]]"),
        ];
        for (shape, json) in table {
            let bytes = &bytes[..shape.iter().product()];
            let nested = Nested { dtype: DType::U8, shape, bytes };
            assert_eq!(serde_json::to_string(&nested).unwrap(), json, "{shape:?}");
        }
    }

    #[test]
    fn nested_arrays_are_the_same_as_flat_ones() {
        let flat = parse("[1,2,3,4,5,6]", DType::I32, &[2, 3]).unwrap();
        assert_eq!(parse("[[1,2,3],[4,5,6]]", DType::I32, &[2, 3]).unwrap(), flat);
        assert_eq!(parse("[[[1],[2],[3]],[[4],[5],[6]]]", DType::I32, &[2, 3, 1]).unwrap(), flat);
        assert_eq!(parse("[7]", DType::U8, &[]).unwrap(), [7]);
        assert_eq!(parse("[]", DType::U8, &[0, 3]).unwrap(), [0u8; 0]);
        assert_eq!(parse("[0,1]", DType::Bool, &[2]).unwrap(), [0, 1]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            ("[1,2,3]", DType::I32, &[2usize, 2][..], "3 elements, the shape needs 4"),
            ("[1,2,3,4,5]", DType::I32, &[2, 2], "more than the 4 elements"),
            ("[[1,2,3],[4]]", DType::I32, &[2, 2], "an array of 3 at depth 1, the shape says 2"),
            ("[[1,2]]", DType::I32, &[2, 2], "an array of 1 at depth 0, the shape says 2"),
            ("[[1,2],3]", DType::I32, &[2, 2], "an element where an array is expected, at depth 0"),
            ("[1,[2]]", DType::I32, &[2, 1], "an array where an element is expected, at depth 0"),
            ("[[[1]]]", DType::I32, &[1, 1], "an array where an element is expected, at depth 1"),
            ("[[1]]", DType::I32, &[1], "an array where an element is expected, at depth 0"),
            ("7", DType::I32, &[1], "expected an array of elements"),
            ("[256]", DType::U8, &[1], "256 does not fit UINT8"),
            ("[-1]", DType::U64, &[1], "-1 does not fit UINT64"),
            ("[1.5]", DType::I64, &[1], "1.5 is not of type INT64"),
            ("[2]", DType::Bool, &[1], "2 does not fit BOOL"),
            ("[true]", DType::F32, &[1], "true is not of type FP32"),
            ("[1e39]", DType::F32, &[1], "1e39 does not fit FP32"),
            ("[null]", DType::F32, &[1], "expected an element of type FP32"),
            ("[\"a\"]", DType::F32, &[1], "the string \"a\" is not of type FP32; \"NaN\", \"Infinity\""),
            ("[\"nan\"]", DType::F64, &[1], "the string \"nan\" is not of type FP64"),
            ("[\"1\"]", DType::F32, &[1], "the string \"1\" is not of type FP32"),
            ("[\"NaN\"]", DType::I32, &[1], "a string is not of type INT32"),
            ("[\"NaN\"]", DType::Bool, &[1], "a string is not of type BOOL"),
            ("[[1,2],\"NaN\"]", DType::F32, &[2, 2], "an element where an array is expected"),
        ];
        for (json, dtype, shape, message) in table {
            let error = parse(json, dtype, shape).unwrap_err();
            assert!(error.contains(message), "{json}: {error}");
        }
    }

    #[test]
    fn what_is_no_number_is_written_and_read_as_a_string() {
        let json = r#"["NaN","Infinity","-Infinity",1.5,-0.0,"NaN"]"#;
        let bits = |value: f32| value.to_bits();
        let single: Vec<u8> = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.5, -0.0, -f32::NAN]
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        assert_eq!(write(DType::F32, &single), json);
        let read: Vec<f32> = parse(json, DType::F32, &[6])
            .unwrap()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        assert!(read[0].is_nan() && read[5].is_nan());
        assert_eq!(
            read[1..5].iter().copied().map(bits).collect::<Vec<_>>(),
            [bits(f32::INFINITY), bits(f32::NEG_INFINITY), bits(1.5), bits(-0.0),]
        );
        let double = parse(json, DType::F64, &[2, 3]).unwrap();
        assert_eq!(write(DType::F64, &double), json);
        assert_eq!(parse(r#"[["NaN"],[1]]"#, DType::F32, &[2, 1]).unwrap().len(), 8);
        assert!(serde_json::to_string(&Flat { dtype: DType::F16, bytes: &[0, 0x7E] }).is_err());
    }
}
