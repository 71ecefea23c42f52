//! The specification of kernels that go along an axis, and what they compute, on a host.

use std::ops::Range;

use reef_graph::reference::along::{fold, of_row};
use reef_graph::scalar::Element;
use reef_graph::{Along, DType, Reduce};

/// What a row becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFunction {
    /// See [`reef_graph::Op::Along`].
    Along(Along),
    /// One integer or f64. See [`reef_graph::Op::Reduce`].
    Fold(Reduce),
}

/// Rows `[outer, extent, inner]` along the middle axis, dense.
///
/// Reads x; writes y, of places (i64) or of x's type and as long along the axis as the function says; of
/// [`Along::TopK`] the elements, then their places. Results are the same to the bit for any tile.
///
/// Rows are numbered `plane · inner + column`; block b takes the rows `b · tile ..`. It may write before its
/// last poll: a block that runs again writes all of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlongSpec {
    /// What is computed.
    pub function: RowFunction,
    /// Element type of x.
    pub dtype: DType,
    /// Extent of all axes before the rows'.
    pub outer: usize,
    /// Elements of a row.
    pub extent: usize,
    /// Extent of all axes behind it.
    pub inner: usize,
    /// Rows of a block.
    pub tile: usize,
}

impl AlongSpec {
    /// The kind of kernel, for dumps.
    pub fn name(&self) -> &'static str {
        match self.function {
            RowFunction::Along(Along::ArgExtreme { .. }) => "arg-extreme",
            RowFunction::Along(Along::TopK { .. }) => "top-k",
            RowFunction::Along(Along::Scan { .. }) => "scan",
            RowFunction::Fold(_) => "fold",
        }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.outer * self.inner
    }

    /// Elements that a row gives, by output.
    pub fn extents(&self) -> Vec<usize> {
        match self.function {
            RowFunction::Along(along) => along.extents(self.extent),
            RowFunction::Fold(_) => vec![1],
        }
    }

    /// Types and numbers of elements of the outputs.
    pub fn outputs(&self) -> Vec<(DType, usize)> {
        let dtypes = match self.function {
            RowFunction::Along(along) => along.dtypes(self.dtype),
            RowFunction::Fold(_) => vec![self.dtype],
        };
        dtypes.into_iter().zip(self.extents().iter().map(|extent| extent * self.rows())).collect()
    }

    /// What is wrong with the specification itself, if something is: places are kept in 32 bits.
    pub fn flaw(&self) -> Option<&'static str> {
        if u32::try_from(self.extent).is_err() {
            return Some("has more places than 32 bits can count");
        }
        match self.function {
            RowFunction::Along(along) => along.flaw(self.dtype, self.extent),
            RowFunction::Fold(_)
                if matches!(self.dtype, DType::F32 | DType::F16 | DType::BF16 | DType::Bool) =>
            {
                Some("folds what is neither an integer nor an f64")
            }
            RowFunction::Fold(_) if self.extent == 0 => Some("folds no elements"),
            RowFunction::Fold(_) => None,
        }
    }

    /// Where an element lies of a row that has `extent` of them.
    pub fn position(&self, row: usize, extent: usize, place: usize) -> usize {
        (row / self.inner * extent + place) * self.inner + row % self.inner
    }

    /// What a row gives, by output.
    pub fn of_row(&self, row: &[Element]) -> Vec<Vec<Element>> {
        match self.function {
            RowFunction::Along(along) => of_row(along, self.dtype, row),
            RowFunction::Fold(reduce) => vec![vec![fold(reduce, self.dtype, row)]],
        }
    }

    /// Computes all rows: for devices that have no code of their own for them. Operands are dense, little
    /// endian, and as long as the specification says.
    pub fn compute(&self, x: &[u8], outputs: &mut [&mut [u8]]) {
        let bytes = |position: usize, dtype: DType| -> Range<usize> {
            position * dtype.bytes()..(position + 1) * dtype.bytes()
        };
        let dtypes: Vec<DType> = self.outputs().into_iter().map(|(dtype, _)| dtype).collect();
        for row in 0..self.rows() {
            let element = |place| {
                Element::read(self.dtype, &x[bytes(self.position(row, self.extent, place), self.dtype)])
            };
            let elements: Vec<Element> = (0..self.extent).map(element).collect();
            for (output, made) in self.of_row(&elements).into_iter().enumerate() {
                let (extent, dtype) = (made.len(), dtypes[output]);
                for (place, result) in made.into_iter().enumerate() {
                    let at = bytes(self.position(row, extent, place), dtype);
                    result.write(dtype, &mut outputs[output][at]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_on_a_host() {
        let top = RowFunction::Along(Along::TopK { k: 2, largest: true });
        let spec = AlongSpec { function: top, dtype: DType::U8, outer: 2, extent: 3, inner: 2, tile: 1 };
        let x = [1, 9, 7, 8, 3, 9, 4, 4, 4, 5, 6, 4];
        let (mut values, mut places) = (vec![0; 8], vec![0; 64]);
        spec.compute(&x, &mut [&mut values, &mut places]);
        assert_eq!(values, [7, 9, 3, 9, 6, 5, 4, 4]);
        let places: Vec<u8> = places.chunks(8).map(|place| place[0]).collect();
        assert_eq!(places, [1, 0, 2, 2, 2, 1, 0, 0]);
        assert_eq!(spec.outputs(), [(DType::U8, 8), (DType::I64, 8)]);
    }
}
