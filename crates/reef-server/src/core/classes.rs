//! Classification: the largest elements of an output, as texts `VALUE:INDEX` or `VALUE:INDEX:LABEL`.
//!
//! Descending by value, equal values by index; what is not a number comes last. An output has one row, or one
//! for each element of its first dimension where the model's requests are batches.

use std::cmp::Ordering;
use std::fmt::Write;

use half::{bf16, f16};
use reef_engine::DType;

/// An output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scores<'a> {
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [usize],
    /// Dense, row major, little endian.
    pub(crate) bytes: &'a [u8],
    /// What the elements of a row stand for; may be shorter than a row.
    pub(crate) labels: &'a [String],
    /// Whether the first dimension counts rows.
    pub(crate) batched: bool,
}

impl Scores<'_> {
    /// How many texts [`Scores::largest`] gives.
    pub(crate) fn count(&self, count: usize) -> usize {
        let (rows, row_len) = self.rows();
        rows.unwrap_or(1).saturating_mul(count.min(row_len))
    }

    /// Shape and texts of the `count` largest elements of each row, or of all there are.
    pub(crate) fn largest(&self, count: usize) -> (Vec<usize>, Vec<String>) {
        let (batch, row_len) = self.rows();
        let count = count.min(row_len);
        let rows = batch.unwrap_or(1);
        let texts = (0..rows).flat_map(|row| self.row(row * row_len, row_len, count)).collect();
        (batch.into_iter().chain([count]).collect(), texts)
    }

    /// Rows, where the shape counts them, and elements of each.
    fn rows(&self) -> (Option<usize>, usize) {
        let (rows, rest) = match self.shape.split_first() {
            Some((rows, rest)) if self.batched => (Some(*rows), rest),
            _ => (None, self.shape),
        };
        (rows, rest.iter().product())
    }

    fn row(&self, start: usize, len: usize, count: usize) -> Vec<String> {
        let mut order: Vec<usize> = (0..len).collect();
        let descending = |&a: &usize, &b: &usize| self.descending(start + a, start + b).then(a.cmp(&b));
        if count > 0 && count < len {
            order.select_nth_unstable_by(count - 1, descending);
        }
        order.truncate(count);
        order.sort_unstable_by(descending);
        order.into_iter().map(|index| self.text(start + index, index)).collect()
    }

    fn descending(&self, a: usize, b: usize) -> Ordering {
        match (self.element(a), self.element(b)) {
            (Element::Whole(a), Element::Whole(b)) => b.cmp(&a),
            (a, b) => {
                let (a, b) = (a.float(), b.float());
                let number = b.partial_cmp(&a);
                number.unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
            }
        }
    }

    fn text(&self, at: usize, index: usize) -> String {
        let mut text = match self.element(at) {
            Element::Whole(value) => value.to_string(),
            Element::Single(value) => value.to_string(),
            Element::Double(value) => value.to_string(),
        };
        let _ = write!(text, ":{index}");
        if let Some(label) = self.labels.get(index) {
            let _ = write!(text, ":{label}");
        }
        text
    }

    fn element(&self, index: usize) -> Element {
        fn at<const N: usize>(bytes: &[u8], index: usize) -> [u8; N] {
            bytes.as_chunks::<N>().0[index]
        }
        let bytes = self.bytes;
        match self.dtype {
            DType::F32 => Element::Single(f32::from_le_bytes(at(bytes, index))),
            DType::F16 => Element::Single(f16::from_le_bytes(at(bytes, index)).to_f32()),
            DType::BF16 => Element::Single(bf16::from_le_bytes(at(bytes, index)).to_f32()),
            DType::F64 => Element::Double(f64::from_le_bytes(at(bytes, index))),
            DType::I64 => Element::Whole(i64::from_le_bytes(at(bytes, index)).into()),
            DType::I32 => Element::Whole(i32::from_le_bytes(at(bytes, index)).into()),
            DType::I16 => Element::Whole(i16::from_le_bytes(at(bytes, index)).into()),
            DType::I8 => Element::Whole(i8::from_le_bytes(at(bytes, index)).into()),
            DType::U64 => Element::Whole(u64::from_le_bytes(at(bytes, index)).into()),
            DType::U32 => Element::Whole(u32::from_le_bytes(at(bytes, index)).into()),
            DType::U16 => Element::Whole(u16::from_le_bytes(at(bytes, index)).into()),
            DType::U8 => Element::Whole(bytes[index].into()),
            DType::Bool => Element::Whole((bytes[index] != 0).into()),
        }
    }
}

enum Element {
    Whole(i128),
    /// Written with the digits that its own type needs.
    Single(f32),
    Double(f64),
}

impl Element {
    fn float(&self) -> f64 {
        match *self {
            Element::Whole(value) => value as f64,
            Element::Single(value) => value.into(),
            Element::Double(value) => value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn largest(values: &[f32], shape: &[usize], batched: bool, count: usize) -> (Vec<usize>, Vec<String>) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let labels = ["cat".to_string(), String::new(), "dog: brown".to_string()];
        Scores { dtype: DType::F32, shape, bytes: &bytes, labels: &labels, batched }.largest(count)
    }

    #[test]
    fn the_largest_come_first_and_equals_by_index() {
        let values = [0.25, 1.5, -3.0, 1.5, f32::NAN, f32::INFINITY];
        let texts = |count| largest(&values, &[2, 3], false, count).1;
        let all = ["inf:5", "1.5:1:", "1.5:3", "0.25:0:cat", "-3:2:dog: brown", "NaN:4"];
        for count in 0..=6 {
            assert_eq!(texts(count), all[..count], "{count}");
        }
        assert_eq!(largest(&values, &[2, 3], false, usize::MAX), (vec![6], all.map(String::from).to_vec()));
        assert_eq!(largest(&[], &[0], false, 3), (vec![0], vec![]));
        assert_eq!(largest(&[7.0], &[], false, 3), (vec![1], vec!["7:0:cat".into()]));
    }

    #[test]
    fn a_batch_has_a_row_for_each_of_its_elements() {
        let values = [1.0, 2.0, 3.0, 6.0, 5.0, 4.0];
        let (shape, texts) = largest(&values, &[2, 3], true, 2);
        assert_eq!(shape, [2, 2]);
        assert_eq!(texts, ["3:2:dog: brown", "2:1:", "6:0:cat", "5:1:"]);
        assert_eq!(largest(&values, &[2, 3], true, 9).0, [2, 3]);
        assert_eq!(largest(&[], &[0, 3], true, 2), (vec![0, 2], vec![]));
        assert_eq!(largest(&[7.0], &[], true, 2), (vec![1], vec!["7:0:cat".into()]));
    }

    #[test]
    fn every_type_has_an_order() {
        let table: [(DType, &[u8], [&str; 2]); 6] = [
            (DType::Bool, &[0, 1], ["1:1", "0:0"]),
            (DType::I8, &[0xFF, 1], ["1:1", "-1:0"]),
            (DType::U8, &[0xFF, 1], ["255:0", "1:1"]),
            (DType::F16, &[0, 0x3C, 0, 0xC0], ["1:0", "-2:1"]),
            (DType::BF16, &[0x80, 0x3F, 0, 0xC0], ["1:0", "-2:1"]),
            (DType::F64, &[0, 0, 0, 0, 0, 0, 0xF0, 0x3F, 0, 0, 0, 0, 0, 0, 0, 0x40], ["2:1", "1:0"]),
        ];
        for (dtype, bytes, expected) in table {
            let scores = Scores { dtype, shape: &[2], bytes, labels: &[], batched: false };
            assert_eq!(scores.largest(2).1, expected, "{dtype}");
        }
        let bytes: Vec<u8> = [i64::MAX - 1, i64::MAX].iter().flat_map(|value| value.to_le_bytes()).collect();
        let scores = Scores { dtype: DType::I64, shape: &[2], bytes: &bytes, labels: &[], batched: false };
        assert_eq!(scores.largest(1).1, ["9223372036854775807:1"]);
    }
}
