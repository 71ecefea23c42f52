//! A model's file without its large tensors: the message as it is, but for the bytes of initialisers and
//! `Constant` nodes, in whose place it says where in the file they are. So a large weight is never part of a
//! message in memory.
//!
//! The message is only walked through as far as that needs; what is wrong in it otherwise, the decoder says.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use prost::Message;
use reef_base::limits::STORED_BYTES_MIN;
use tract_onnx::pb::tensor_proto::DataLocation;
use tract_onnx::pb::{StringStringEntryProto, TensorProto};

/// What says in a message that a tensor is in the model's own file, and where: `offset length`.
const KEY: &str = "reef.place";

/// Bytes that are read at a time to find the way.
const WINDOW: u64 = 8 << 10;

/// Messages in messages that are followed; the decoder has a bound of its own.
const DEPTH_MAX: usize = 100;

/// Numbers of fields, by messages.
const GRAPH_OF_MODEL: u64 = 7;
const NODE_OF_GRAPH: u64 = 1;
const INITIALIZER_OF_GRAPH: u64 = 5;
const OPERATOR_OF_NODE: u64 = 4;
const ATTRIBUTE_OF_NODE: u64 = 5;
const TENSOR_OF_ATTRIBUTE: u64 = 5;
const GRAPH_OF_ATTRIBUTE: u64 = 6;
const GRAPHS_OF_ATTRIBUTE: u64 = 11;
const RAW_DATA_OF_TENSOR: u64 = 9;
const EXTERNAL_DATA_OF_TENSOR: u64 = 13;
const DATA_LOCATION_OF_TENSOR: u64 = 14;

/// The wire type of texts, bytes and messages.
const DELIMITED: u64 = 2;

/// The message in `file`, which has `length` bytes, without its large tensors; the error says what is wrong.
pub(crate) fn skim(file: &File, length: u64) -> Result<Vec<u8>, String> {
    let mut reader = Reader { file, length, window: vec![], begin: 0 };
    let mut message = vec![];
    reader.message(Kind::Model, 0..length, 0, &mut message)?;
    Ok(message)
}

/// Where in the model's own file the bytes of a tensor are, if they are left there: offset and length.
pub(crate) fn place(tensor: &TensorProto) -> Option<(u64, u64)> {
    let entry = tensor.external_data.iter().find(|entry| entry.key == KEY)?;
    let (offset, length) = entry.value.split_once(' ')?;
    Some((offset.parse().ok()?, length.parse().ok()?))
}

/// Messages that large tensors are in.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node { constant: bool },
    Attribute { constant: bool },
    Tensor,
}

struct Field {
    number: u64,
    wire: u64,
    /// With its key.
    whole: Range<u64>,
    content: Range<u64>,
}

impl Field {
    fn is_large(&self) -> bool {
        self.wire == DELIMITED && self.content.end - self.content.start >= STORED_BYTES_MIN as u64
    }
}

struct Reader<'f> {
    file: &'f File,
    length: u64,
    /// Bytes of the file from `begin` on.
    window: Vec<u8>,
    begin: u64,
}

impl Reader<'_> {
    /// Copies a message, without the large tensors in it.
    fn message(
        &mut self,
        kind: Kind,
        range: Range<u64>,
        depth: usize,
        into: &mut Vec<u8>,
    ) -> Result<(), String> {
        let mut at = range.start;
        while at < range.end {
            let field = self.field(at, range.end)?;
            at = field.whole.end;
            let followed = field.is_large() && depth < DEPTH_MAX;
            let Some(inner_kind) = (if followed { self.inner(kind, &field)? } else { None }) else {
                self.copy(field.whole, into)?;
                continue;
            };
            let mut inner = vec![];
            match inner_kind {
                Kind::Tensor => self.tensor(field.content, &mut inner)?,
                other => self.message(other, field.content, depth + 1, &mut inner)?,
            }
            put_varint(field.number << 3 | DELIMITED, into);
            put_varint(inner.len() as u64, into);
            into.append(&mut inner);
        }
        Ok(())
    }

    /// What a field of a message of this kind is, if large tensors are in it.
    fn inner(&mut self, kind: Kind, field: &Field) -> Result<Option<Kind>, String> {
        Ok(match (kind, field.number) {
            (Kind::Model, GRAPH_OF_MODEL) => Some(Kind::Graph),
            (Kind::Graph, INITIALIZER_OF_GRAPH) => Some(Kind::Tensor),
            (Kind::Graph, NODE_OF_GRAPH) => {
                let mut operator = vec![];
                for field in self.fields(&field.content, OPERATOR_OF_NODE)? {
                    operator.clear();
                    if !field.is_large() {
                        self.copy(field.content, &mut operator)?;
                    }
                }
                Some(Kind::Node { constant: operator == b"Constant" })
            }
            (Kind::Node { constant }, ATTRIBUTE_OF_NODE) => Some(Kind::Attribute { constant }),
            (Kind::Attribute { constant: true }, TENSOR_OF_ATTRIBUTE) => Some(Kind::Tensor),
            (Kind::Attribute { .. }, GRAPH_OF_ATTRIBUTE | GRAPHS_OF_ATTRIBUTE) => Some(Kind::Graph),
            _ => None,
        })
    }

    /// Copies a tensor; if its data are large and it says nothing else of them, then without these.
    fn tensor(&mut self, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), String> {
        let data = self.fields(&range, RAW_DATA_OF_TENSOR)?;
        let says_more = !self.fields(&range, EXTERNAL_DATA_OF_TENSOR)?.is_empty()
            || !self.fields(&range, DATA_LOCATION_OF_TENSOR)?.is_empty();
        let [data] = &data[..] else { return self.copy(range, into) };
        if says_more || !data.is_large() {
            return self.copy(range, into);
        }
        self.copy(range.start..data.whole.start, into)?;
        self.copy(data.whole.end..range.end, into)?;
        let Range { start, end } = data.content;
        let entry = StringStringEntryProto { key: KEY.into(), value: format!("{start} {}", end - start) };
        let place = TensorProto {
            external_data: vec![entry],
            data_location: Some(DataLocation::External as i32),
            ..TensorProto::default()
        };
        into.extend(place.encode_to_vec());
        Ok(())
    }

    /// The fields of a message with this number.
    fn fields(&mut self, range: &Range<u64>, number: u64) -> Result<Vec<Field>, String> {
        let (mut at, mut found) = (range.start, vec![]);
        while at < range.end {
            let field = self.field(at, range.end)?;
            at = field.whole.end;
            if field.number == number {
                found.push(field);
            }
        }
        Ok(found)
    }

    /// The field that begins at `start`, in a message that ends at `end`.
    fn field(&mut self, start: u64, end: u64) -> Result<Field, String> {
        let mut at = start;
        let key = self.varint(&mut at, end)?;
        let (number, wire) = (key >> 3, key & 7);
        let length = match wire {
            0 => {
                let begin = at;
                self.varint(&mut at, end)?;
                let length = at - begin;
                at = begin;
                length
            }
            1 => 8,
            DELIMITED => self.varint(&mut at, end)?,
            5 => 4,
            _ => return Err(format!("a field of wire type {wire} at byte {start}")),
        };
        if length > end - at {
            return Err(format!("the field at byte {start} is longer than what it is in"));
        }
        Ok(Field { number, wire, whole: start..at + length, content: at..at + length })
    }

    fn varint(&mut self, at: &mut u64, end: u64) -> Result<u64, String> {
        let (start, mut value) = (*at, 0);
        for shift in (0..64).step_by(7) {
            if *at >= end {
                return Err(format!("it ends within a number at byte {start}"));
            }
            let byte = self.byte(*at)?;
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(format!("a number without end at byte {start}"))
    }

    fn byte(&mut self, at: u64) -> Result<u8, String> {
        if let Some(byte) = self.buffered(&(at..at + 1)) {
            return Ok(byte[0]);
        }
        self.window.resize(WINDOW.min(self.length - at) as usize, 0);
        self.begin = at;
        match self.file.read_exact_at(&mut self.window, at) {
            Ok(()) => Ok(self.window[0]),
            Err(error) => {
                self.window.clear();
                Err(unreadable(at, &error))
            }
        }
    }

    fn copy(&mut self, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), String> {
        if let Some(bytes) = self.buffered(&range) {
            into.extend_from_slice(bytes);
            return Ok(());
        }
        let held = into.len();
        into.resize(held + (range.end - range.start) as usize, 0);
        self.file
            .read_exact_at(&mut into[held..], range.start)
            .map_err(|error| unreadable(range.start, &error))
    }

    fn buffered(&self, range: &Range<u64>) -> Option<&[u8]> {
        let begin = range.start.checked_sub(self.begin)? as usize;
        self.window.get(begin..begin + (range.end - range.start) as usize)
    }
}

fn unreadable(at: u64, error: &std::io::Error) -> String {
    format!("reading from byte {at} on: {error}")
}

fn put_varint(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}
