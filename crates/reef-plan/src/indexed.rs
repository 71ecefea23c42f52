//! Specifications of the kernels that take what indices name, or put something there, and what they compute,
//! on a host.

use std::ops::Range;

use reef_graph::reference::indexed::join;
use reef_graph::scalar::Element;
use reef_graph::{BadIndex, DType, Indexing, Putting};

/// What indices name ([`reef_graph::Op::Take`]).
///
/// Reads data, indices (i64 or i32); writes y, as long as what is taken. An index outside its axis fails the
/// task. Block b makes the elements `b · tile ..` of y.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeSpec {
    /// Element type of data and y.
    pub dtype: DType,
    /// Type of the indices: I64 or I32.
    pub index_dtype: DType,
    /// Shapes.
    pub indexing: Indexing,
    /// Elements of a block.
    pub tile: usize,
}

/// Data with updates put on what indices name ([`reef_graph::Op::Put`]).
///
/// Reads data, indices (i64 or i32), updates; writes y. An index outside its axis fails the task. A block
/// owns a box of y, of so many planes, places and columns: it copies that from the data, looks at all indices
/// of its planes and columns, and puts on what it owns, in their order. So updates of one element come in the
/// order of the indices, however the kernel is cut, and a block that runs again begins with the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutSpec {
    /// Element type of data, updates and y.
    pub dtype: DType,
    /// Type of the indices: I64 or I32.
    pub index_dtype: DType,
    /// Shapes.
    pub indexing: Indexing,
    /// What becomes of what was there.
    pub putting: Putting,
    /// Planes, places and columns of a block.
    pub tile: [usize; 3],
}

fn counts(dtype: DType) -> bool {
    matches!(dtype, DType::I64 | DType::I32)
}

const WRONG_INDICES: &str = "has indices of a type that does not count";

impl TakeSpec {
    /// What is wrong with the specification itself, if something is.
    pub fn flaw(&self) -> Option<&'static str> {
        self.indexing.flaw().or_else(|| (!counts(self.index_dtype)).then_some(WRONG_INDICES))
    }

    /// The operator of ONNX that errors name.
    pub fn operator(&self) -> &'static str {
        if self.indexing.by_element { "GatherElements" } else { "GatherND" }
    }

    /// Computes all of y, for devices that have no code of their own for it: data and indices are dense,
    /// little endian, and as long as the specification says.
    pub fn compute(&self, inputs: &[&[u8]], y: &mut [u8]) -> Result<(), String> {
        let size = self.dtype.bytes();
        for (at, to) in y.chunks_exact_mut(size).take(self.indexing.moved()).enumerate() {
            let from = self.indexing.locate(at, |pick| index_of(self.index_dtype, inputs[1], pick));
            let from = from.map_err(|bad| told(self.operator(), bad))?;
            to.copy_from_slice(&inputs[0][from * size..][..size]);
        }
        Ok(())
    }
}

impl PutSpec {
    /// What is wrong with the specification itself, if something is.
    pub fn flaw(&self) -> Option<&'static str> {
        let flaw = self.indexing.flaw().or_else(|| self.putting.flaw(self.dtype));
        flaw.or_else(|| (!counts(self.index_dtype)).then_some(WRONG_INDICES))
    }

    /// The operator of ONNX that errors name.
    pub fn operator(&self) -> &'static str {
        if self.indexing.by_element { "ScatterElements" } else { "ScatterND" }
    }

    /// Extents of y.
    pub fn extents(&self) -> [usize; 3] {
        [self.indexing.batch, self.indexing.places(), self.indexing.inner]
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.grid().iter().product()
    }

    /// The planes, places and columns of a block.
    pub fn part(&self, block: usize) -> [Range<usize>; 3] {
        let (extents, [_, places, columns]) = (self.extents(), self.grid());
        let at = [block / (places * columns), block / columns % places, block % columns];
        [0, 1, 2].map(|axis| {
            let begin = at[axis] * self.tile[axis];
            begin..(begin + self.tile[axis]).min(extents[axis])
        })
    }

    /// Computes all of y, for devices that have no code of their own for it: data, indices and updates are
    /// dense, little endian, and as long as the specification says.
    pub fn compute(&self, inputs: &[&[u8]], y: &mut [u8]) -> Result<(), String> {
        let size = self.dtype.bytes();
        let all = self.indexing.data() * size;
        y[..all].copy_from_slice(&inputs[0][..all]);
        for (at, update) in inputs[2].chunks_exact(size).take(self.indexing.moved()).enumerate() {
            let to = self.indexing.locate(at, |pick| index_of(self.index_dtype, inputs[1], pick));
            let to = to.map_err(|bad| told(self.operator(), bad))?;
            let to = &mut y[to * size..][..size];
            match self.putting {
                Putting::Replace => to.copy_from_slice(update),
                putting => {
                    let (there, put) = (Element::read(self.dtype, to), Element::read(self.dtype, update));
                    join(putting, self.dtype, there, put).write(self.dtype, to);
                }
            }
        }
        Ok(())
    }

    fn grid(&self) -> [usize; 3] {
        let extents = self.extents();
        [0, 1, 2].map(|axis| extents[axis].div_ceil(self.tile[axis]))
    }
}

/// Index number `pick` of these bytes.
fn index_of(dtype: DType, indices: &[u8], pick: usize) -> i64 {
    Element::read(dtype, &indices[pick * dtype.bytes()..][..dtype.bytes()]).int()
}

/// The sentence about an index that does not exist.
fn told(operator: &str, bad: BadIndex) -> String {
    format!("{operator}: {bad}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[i64]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn a_host_takes_and_puts() {
        let indexing = Indexing { batch: 2, extents: vec![2, 2], rows: 1, inner: 2, by_element: false };
        let (dtype, index_dtype) = (DType::U8, DType::I64);
        let take = TakeSpec { dtype, index_dtype, indexing: indexing.clone(), tile: 1 };
        let data: Vec<u8> = (0..16).collect();
        let mut y = [0; 4];
        take.compute(&[&data, &bytes(&[1, 0, -1, -1])], &mut y).unwrap();
        assert_eq!(y, [4, 5, 14, 15]);
        let error = take.compute(&[&data, &bytes(&[1, 0, 2, 0])], &mut y).unwrap_err();
        assert_eq!(error, "GatherND: indices[2] is 2, allowed are -2 to 1");
        let putting = Putting::Add;
        let put = PutSpec { dtype, index_dtype, indexing, putting, tile: [1, 3, 2] };
        let mut y = [0; 16];
        put.compute(&[&data, &bytes(&[1, 0, -1, -1]), &[100, 101, 250, 251]], &mut y).unwrap();
        assert_eq!(y, [0, 1, 2, 3, 104, 106, 6, 7, 8, 9, 10, 11, 12, 13, 8, 10]);
        assert_eq!((put.blocks(), put.part(1)), (4, [0..1, 3..4, 0..2]));
        assert_eq!(put.part(2), [1..2, 0..3, 0..2]);
    }

    #[test]
    fn specifications_without_a_meaning() {
        let indexing = Indexing { batch: 1, extents: vec![4, 4], rows: 1, inner: 1, by_element: true };
        let take = TakeSpec { dtype: DType::F32, index_dtype: DType::I64, indexing, tile: 1 };
        assert!(take.flaw().is_some(), "one index for two axes");
        let indexing = Indexing { by_element: false, ..take.indexing };
        let take = TakeSpec { index_dtype: DType::U8, indexing: indexing.clone(), ..take };
        assert_eq!(take.flaw(), Some(WRONG_INDICES));
        let put = PutSpec {
            dtype: DType::Bool,
            index_dtype: DType::I32,
            indexing,
            putting: Putting::Add,
            tile: [1; 3],
        };
        assert!(put.flaw().is_some(), "a sum of booleans");
        assert_eq!(PutSpec { putting: Putting::Replace, ..put }.flaw(), None);
    }
}
