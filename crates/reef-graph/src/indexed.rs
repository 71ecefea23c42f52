//! Operators that take elements from places that indices name, or put elements there.
//!
//! Whichever form ONNX has for it, data are `[batch, places, inner]` in the end, and what is taken from them
//! or put there is `[batch, rows, inner]`: [`Indexing`].

use std::fmt;

use crate::dtype::DType;
use crate::tensor::Shape;

/// What an index names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Picks {
    /// A place along the axis, for one element, whose other coordinates are the index's own. Indices have the
    /// shape of what is taken or put; but for the axis it is that of the data.
    Elements {
        /// The axis.
        axis: usize,
    },
    /// Together with the others of its row (along the last axis of the indices) a slice of the data: a place
    /// on each of as many axes behind the first `batch`, which data and indices have in common.
    Slices {
        /// Axes in common.
        batch: usize,
    },
}

impl Picks {
    /// The operator in ONNX that takes so.
    pub fn taking(self) -> &'static str {
        match self {
            Picks::Elements { .. } => "GatherElements",
            Picks::Slices { .. } => "GatherND",
        }
    }

    /// The operator in ONNX that puts so.
    pub fn putting(self) -> &'static str {
        match self {
            Picks::Elements { .. } => "ScatterElements",
            Picks::Slices { .. } => "ScatterND",
        }
    }

    /// The shape of what is taken or put, or why these indices do not fit the data.
    pub fn moved(self, data: &[usize], indices: &[usize]) -> Result<Shape, String> {
        let (of, by) = (Shape::new(data), Shape::new(indices));
        let misfit = || format!("indices of shape {by} for data of shape {of}");
        match self {
            Picks::Elements { axis } => {
                let fits = |other: usize| other == axis || data[other] == indices[other];
                let fine = axis < data.len() && data.len() == indices.len();
                (fine && (0..data.len()).all(fits)).then(|| by.clone()).ok_or_else(misfit)
            }
            Picks::Slices { batch } => {
                let Some((&axes, rows)) = indices.split_last() else { return Err(misfit()) };
                let fine = axes > 0 && batch <= rows.len() && axes <= data.len().saturating_sub(batch);
                if !fine || data[..batch] != rows[..batch] {
                    return Err(misfit());
                }
                Ok(rows.iter().chain(&data[batch + axes..]).copied().collect())
            }
        }
    }

    /// Data and indices of these shapes, which fit, in the form that kernels have.
    pub fn indexing(self, data: &[usize], indices: &[usize]) -> Indexing {
        let product = |extents: &[usize]| extents.iter().product::<usize>();
        match self {
            Picks::Elements { axis } => Indexing {
                batch: product(&data[..axis]),
                extents: vec![data[axis]],
                rows: indices[axis],
                inner: product(&data[axis + 1..]),
                by_element: true,
            },
            Picks::Slices { batch } => {
                let (axes, rows) = (indices[indices.len() - 1], &indices[batch..indices.len() - 1]);
                Indexing {
                    batch: product(&data[..batch]),
                    extents: data[batch..batch + axes].to_vec(),
                    rows: product(rows),
                    inner: product(&data[batch + axes..]),
                    by_element: false,
                }
            }
        }
    }
}

/// What becomes of an element that another one is put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Putting {
    /// The other one takes its place.
    Replace,
    /// Their sum; integers wrap.
    Add,
    /// Their product; integers wrap.
    Multiply,
    /// The smaller one, a NaN if one is; of equal ones that which was there.
    Smaller,
    /// The larger one, likewise.
    Larger,
}

impl Putting {
    /// Why elements of this type are not put so, if so.
    pub fn flaw(self, dtype: DType) -> Option<&'static str> {
        let computes = matches!(self, Putting::Add | Putting::Multiply);
        (computes && dtype == DType::Bool).then_some("adds or multiplies booleans")
    }
}

/// Data `[batch, places, inner]`, whose places are those of `extents`, and what is taken from them or put
/// there, `[batch, rows, inner]`; all of it dense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indexing {
    /// Extent of the axes in common.
    pub batch: usize,
    /// Extents of the axes that are indexed; one at least.
    pub extents: Vec<usize>,
    /// Rows of a plane.
    pub rows: usize,
    /// Extent of the axes that are not indexed.
    pub inner: usize,
    /// Whether every element of a row has an index of its own, along the one extent; else a row has one for
    /// each extent.
    pub by_element: bool,
}

impl Indexing {
    /// Places of a plane.
    pub fn places(&self) -> usize {
        self.extents.iter().product()
    }

    /// Elements of the data.
    pub fn data(&self) -> usize {
        self.batch * self.places() * self.inner
    }

    /// Elements of what is taken or put.
    pub fn moved(&self) -> usize {
        self.batch * self.rows * self.inner
    }

    /// Indices.
    pub fn indices(&self) -> usize {
        let of_row = if self.by_element { self.inner } else { self.extents.len() };
        self.batch * self.rows * of_row
    }

    /// What is wrong with it, if something is.
    pub fn flaw(&self) -> Option<&'static str> {
        match self.extents.len() {
            0 => Some("has indices of no axis"),
            1 => None,
            _ => self.by_element.then_some("has several axes for an index"),
        }
    }

    /// The element of the data that element `at` of what is taken or put belongs to; `index` gives the
    /// indices.
    pub fn locate(&self, at: usize, mut index: impl FnMut(usize) -> i64) -> Result<usize, BadIndex> {
        let (row, column) = (at / self.inner, at % self.inner);
        let first = if self.by_element { at } else { row * self.extents.len() };
        let mut place = row / self.rows;
        for (pick, &extent) in (first..).zip(&self.extents) {
            let index = index(pick);
            let inside = axis_index(index, extent).ok_or(BadIndex { pick, index, extent })?;
            place = place * extent + inside;
        }
        Ok(place * self.inner + column)
    }
}

/// An index outside of its axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadIndex {
    /// Which one, by its position among the indices.
    pub pick: usize,
    /// The index.
    pub index: i64,
    /// Extent of the axis.
    pub extent: usize,
}

impl fmt::Display for BadIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "indices[{}] is {}, {}", self.pick, self.index, AllowedIndices(self.extent))
    }
}

/// The place on an axis of `extent` that an index means; negative ones count from the end. `None` when it
/// lies outside.
pub fn axis_index(index: i64, extent: usize) -> Option<usize> {
    let extent = i64::try_from(extent).ok()?;
    let place = if index < 0 { index.checked_add(extent)? } else { index };
    (0..extent).contains(&place).then_some(place as usize)
}

/// What [`axis_index`] takes for an axis of this extent, as the end of a sentence about an index that it does
/// not take.
#[derive(Clone, Copy, Debug)]
pub struct AllowedIndices(pub usize);

impl fmt::Display for AllowedIndices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => write!(f, "and the axis has no elements"),
            extent => write!(f, "allowed are -{extent} to {}", extent - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_of_what_is_moved() {
        let elements = |axis, data: &[usize], indices: &[usize]| {
            Picks::Elements { axis }.moved(data, indices).map(|shape| shape.to_string())
        };
        assert_eq!(elements(1, &[2, 3, 4], &[2, 7, 4]), Ok("[2,7,4]".into()));
        assert!(elements(1, &[2, 3, 4], &[2, 7, 3]).is_err());
        assert!(elements(3, &[2, 3, 4], &[2, 3, 4]).is_err());
        let slices = |batch, data: &[usize], indices: &[usize]| {
            Picks::Slices { batch }.moved(data, indices).map(|shape| shape.to_string())
        };
        assert_eq!(slices(0, &[5, 6, 7], &[2, 3, 2]), Ok("[2,3,7]".into()));
        assert_eq!(slices(1, &[5, 6, 7], &[5, 1]), Ok("[5,7]".into()));
        assert_eq!(slices(1, &[5, 6, 7], &[5, 4, 2]), Ok("[5,4]".into()));
        let error = slices(1, &[5, 6, 7], &[4, 1]).unwrap_err();
        assert_eq!(error, "indices of shape [4,1] for data of shape [5,6,7]");
        assert!(slices(0, &[5], &[2]).is_err(), "two indices for one axis");
        assert!(slices(0, &[5], &[]).is_err());
        assert!(slices(1, &[5], &[5, 1]).is_err());
    }

    #[test]
    fn elements_are_located() {
        let all = |indexing: &Indexing, indices: &[i64]| -> Result<Vec<usize>, BadIndex> {
            assert_eq!(indexing.indices(), indices.len());
            (0..indexing.moved()).map(|at| indexing.locate(at, |pick| indices[pick])).collect()
        };
        let elements = Picks::Elements { axis: 1 }.indexing(&[2, 3, 2], &[2, 1, 2]);
        assert_eq!(all(&elements, &[0, 2, -1, -3]), Ok(vec![0, 5, 10, 7]));
        let slices = Picks::Slices { batch: 1 }.indexing(&[2, 3, 4, 2], &[2, 1, 2]);
        assert_eq!((slices.data(), slices.moved()), (48, 4));
        assert_eq!(all(&slices, &[1, 2, 0, -1]), Ok(vec![12, 13, 30, 31]));
        let bad = all(&slices, &[1, 4, 0, 0]).unwrap_err();
        assert_eq!(bad.to_string(), "indices[1] is 4, allowed are -4 to 3");
    }
}
