//! Loop nests over strided operands: axes joined where memory allows, and where a flat index lies.

/// Extents of a loop nest and every operand's strides, in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nest {
    /// Extents, outermost first; at least one.
    dims: Vec<usize>,
    /// `[operand][axis]`.
    strides: Vec<Vec<isize>>,
}

impl Nest {
    /// A nest of `dims` with one stride per axis for every operand. Axes of extent 1 are dropped, and
    /// neighbours are joined when every operand steps through them as through one.
    pub(super) fn new(dims: &[usize], strides: &[Vec<isize>]) -> Nest {
        let mut nest = Nest { dims: vec![], strides: vec![vec![]; strides.len()] };
        for (axis, &extent) in dims.iter().enumerate().filter(|(_, extent)| **extent != 1) {
            let own = |operand: &Vec<isize>| operand[axis];
            let joins = nest.dims.last().is_some_and(|_| {
                let pairs = strides.iter().zip(&nest.strides);
                pairs.clone().all(|(all, kept)| kept.last() == Some(&(own(all) * extent as isize)))
            });
            if joins {
                *nest.dims.last_mut().expect("it joins one") *= extent;
                for (all, kept) in strides.iter().zip(&mut nest.strides) {
                    *kept.last_mut().expect("it joins one") = own(all);
                }
            } else {
                nest.dims.push(extent);
                for (all, kept) in strides.iter().zip(&mut nest.strides) {
                    kept.push(own(all));
                }
            }
        }
        if nest.dims.is_empty() {
            nest.dims.push(1);
            nest.strides.iter_mut().for_each(|operand| operand.push(1));
        }
        nest
    }

    /// Extent of the innermost axis: the length of a line.
    pub(super) fn line(&self) -> usize {
        self.dims[self.dims.len() - 1]
    }

    /// Extent of the axis around it: lines of a plane.
    pub(super) fn plane_lines(&self) -> usize {
        if self.dims.len() > 1 { self.dims[self.dims.len() - 2] } else { 1 }
    }

    /// Number of lines.
    pub(super) fn lines(&self) -> usize {
        self.dims[..self.dims.len() - 1].iter().product()
    }

    /// Stride of `operand` inside a line.
    pub(super) fn step(&self, operand: usize) -> isize {
        self.strides[operand][self.dims.len() - 1]
    }

    /// Stride of `operand` from line to line of a plane.
    pub(super) fn line_stride(&self, operand: usize) -> isize {
        if self.dims.len() > 1 { self.strides[operand][self.dims.len() - 2] } else { 0 }
    }

    /// Whether `operand` is the same element everywhere.
    pub(super) fn is_constant(&self, operand: usize) -> bool {
        self.strides[operand].iter().all(|&stride| stride == 0)
    }

    /// Offset of the first element of `line` (a flat index over all axes but the innermost) in `operand`.
    pub(super) fn line_offset(&self, operand: usize, mut line: usize) -> isize {
        let outer = self.dims.len() - 1;
        let mut offset = 0;
        for axis in (0..outer).rev() {
            if line == 0 {
                break;
            }
            offset += (line % self.dims[axis]) as isize * self.strides[operand][axis];
            line /= self.dims[axis];
        }
        offset
    }
}

/// The part of a nest that is handled at once: some whole lines, or a part of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// First line.
    pub(super) line: usize,
    /// Lines; 1 when only a part of it is meant.
    pub(super) lines: usize,
    /// First element of each line.
    pub(super) column: usize,
    /// Elements of each line.
    pub(super) columns: usize,
}

impl Piece {
    /// The piece that starts at flat index `at` and ends at `end` or earlier: up to `lines_max` whole lines
    /// at the start of a line that is no longer than `columns_max`, else a part of a line of up to
    /// `columns_max`.
    pub(super) fn next(nest: &Nest, at: usize, end: usize, lines_max: usize, columns_max: usize) -> Piece {
        let length = nest.line();
        let (line, column) = (at / length, at % length);
        let left = end - at;
        if column == 0 && left >= length && length <= columns_max {
            return Piece { line, lines: (left / length).min(lines_max), column, columns: length };
        }
        Piece { line, lines: 1, column, columns: left.min(length - column).min(columns_max) }
    }

    /// The same lines' columns in parts of up to `columns_max`.
    pub(super) fn columns_by(self, columns_max: usize) -> impl Iterator<Item = Piece> {
        let parts = (0..self.columns).step_by(columns_max);
        parts.map(move |first| Piece {
            column: self.column + first,
            columns: columns_max.min(self.columns - first),
            ..self
        })
    }

    /// Number of elements.
    pub(super) fn elements(&self) -> usize {
        self.lines * self.columns
    }
}
