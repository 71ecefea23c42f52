//! Byte regions that kernels read and write, and when two of them can touch the same byte.

use std::fmt;

/// An address space that a region lies in. Places never overlap each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The request's input with this index.
    Input(u16),
    /// The request's output with this index.
    Output(u16),
    /// The task's ephemeral arena.
    Arena,
    /// The plan's packed weight with this index.
    Weight(u32),
}

/// A range of bytes in one place; with `lane`, only a column of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    /// The address space.
    pub place: Place,
    /// First byte.
    pub offset: usize,
    /// Bytes from the first to past the last one.
    pub bytes: usize,
    /// A strided column: of every `stride` bytes counted from `offset`, only the first `width` belong to the
    /// region. Channels of a concatenated image are such a column.
    pub lane: Option<Lane>,
}

/// The stride and width of a strided region, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    /// Bytes from one row of the column to the next.
    pub stride: usize,
    /// Bytes of each row that belong to the region.
    pub width: usize,
}

impl Region {
    /// A dense region.
    pub const fn dense(place: Place, offset: usize, bytes: usize) -> Region {
        Region { place, offset, bytes, lane: None }
    }

    /// A column: `rows` rows of `width` bytes, `stride` bytes apart. Dense when the width is the stride.
    pub fn column(place: Place, offset: usize, rows: usize, width: usize, stride: usize) -> Region {
        assert!(width <= stride, "a column is no wider than its stride");
        let bytes = if rows == 0 { 0 } else { (rows - 1) * stride + width };
        let lane = (width < stride && rows > 1).then_some(Lane { stride, width });
        Region { place, offset, bytes, lane }
    }

    /// Past the last byte.
    pub const fn end(&self) -> usize {
        self.offset + self.bytes
    }

    /// Whether the two regions may share a byte. Exact for dense regions and for columns of equal stride;
    /// otherwise it may say yes when the truth is no.
    pub fn overlaps(&self, other: &Region) -> bool {
        if self.place != other.place || self.bytes == 0 || other.bytes == 0 {
            return false;
        }
        if self.end() <= other.offset || other.end() <= self.offset {
            return false;
        }
        match (self.lane, other.lane) {
            (Some(a), Some(b)) if a.stride == b.stride => {
                // Columns share a byte when their positions inside a row do.
                let shift = (other.offset + a.stride - self.offset % a.stride) % a.stride;
                shift < a.width || shift + b.width > a.stride
            }
            _ => true,
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Input(index) => write!(f, "in{index}")?,
            Place::Output(index) => write!(f, "out{index}")?,
            Place::Arena => write!(f, "arena")?,
            Place::Weight(index) => write!(f, "w{index}")?,
        }
        if !matches!(self.place, Place::Weight(_)) {
            write!(f, "[{}+{}", self.offset, self.bytes)?;
            if let Some(lane) = self.lane {
                write!(f, " {}/{}", lane.width, lane.stride)?;
            }
            write!(f, "]")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_regions_overlap_by_range_and_place() {
        let region = |offset, bytes| Region::dense(Place::Arena, offset, bytes);
        assert!(region(0, 10).overlaps(&region(9, 1)));
        assert!(!region(0, 10).overlaps(&region(10, 5)));
        assert!(!region(0, 0).overlaps(&region(0, 5)));
        assert!(!region(0, 10).overlaps(&Region::dense(Place::Output(0), 0, 10)));
    }

    #[test]
    fn columns_of_one_image_are_told_apart() {
        let column = |offset: usize, width| Region::column(Place::Arena, 1000 + offset, 5, width, 48);
        assert!(!column(0, 16).overlaps(&column(16, 32)));
        assert!(column(0, 17).overlaps(&column(16, 32)));
        assert!(!column(16, 32).overlaps(&column(0, 16)));
        assert!(column(16, 16).overlaps(&column(20, 4)));
        assert!(
            column(0, 16).overlaps(&Region::dense(Place::Arena, 1020, 1)),
            "dense against lane: assume yes"
        );
    }

    #[test]
    fn column_overlap_agrees_with_counting_bytes() {
        let bytes = |r: &Region| -> std::collections::HashSet<usize> {
            (0..r.bytes)
                .filter(|at| r.lane.is_none_or(|lane| at % lane.stride < lane.width))
                .map(|at| r.offset + at)
                .collect()
        };
        for (a, wa) in [(0, 3), (2, 4), (5, 1), (7, 3)] {
            for (b, wb) in [(0, 10), (1, 2), (6, 4), (13, 7), (25, 2)] {
                let x = Region::column(Place::Arena, a, 4, wa, 10);
                let y = Region::column(Place::Arena, b, 3, wb, 10);
                if x.lane.is_some() && y.lane.is_some() {
                    assert_eq!(x.overlaps(&y), !bytes(&x).is_disjoint(&bytes(&y)), "{x} {y}");
                }
            }
        }
    }
}
