//! Views: where the elements of a value lie, as strides over a buffer.
//!
//! A view knows its buffer by number only. Transposes, slices, broadcasts and most reshapes make a new view
//! of the same buffer and no kernel. Axes of extent 1 and empty views have no say in what a layout is.

use reef_graph::DType;
use reef_plan::{Lane, Place, Region};

/// Number of a buffer of the plan that is being made.
pub(crate) type BufId = usize;

/// A value's elements inside a buffer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct View {
    /// The buffer.
    pub buf: BufId,
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub dims: Vec<usize>,
    /// Elements between neighbours along every axis; 0 broadcasts, negative runs backwards.
    pub strides: Vec<isize>,
    /// The element with all indices 0, counted in elements from the buffer's start.
    pub offset: usize,
}

/// Bytes of a buffer that a kernel reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Operand {
    /// The buffer.
    pub buf: BufId,
    /// First byte inside the buffer.
    pub offset: usize,
    /// Bytes from the first to past the last one.
    pub bytes: usize,
    /// Set when only a column is touched.
    pub lane: Option<Lane>,
}

impl Operand {
    /// The region, when the buffer starts at `base` in `place`.
    pub fn region(&self, place: Place, base: usize) -> Region {
        Region { place, offset: base + self.offset, bytes: self.bytes, lane: self.lane }
    }

    /// Whether the two may share a byte.
    pub fn overlaps(&self, other: &Operand) -> bool {
        self.buf == other.buf && self.region(Place::Arena, 0).overlaps(&other.region(Place::Arena, 0))
    }
}

/// Strides of a dense tensor with these extents whose axes lie in memory in this order, outermost first.
pub(crate) fn ordered_strides(dims: &[usize], order: &[usize]) -> Vec<isize> {
    let mut strides = vec![1; dims.len()];
    let mut step = 1;
    for &axis in order.iter().rev() {
        strides[axis] = step as isize;
        step *= dims[axis];
    }
    strides
}

/// The stride that all these axes (outermost first) can be walked with as one; `Some(None)` when there is
/// only one element, so that any stride will do.
fn collapse(axes: impl DoubleEndedIterator<Item = (usize, isize)>) -> Option<Option<isize>> {
    let mut inner: Option<(usize, isize)> = None;
    for (extent, stride) in axes.rev().filter(|axis| axis.0 != 1) {
        match inner {
            None => inner = Some((extent, stride)),
            Some((count, step)) if stride == step * count as isize => inner = Some((count * extent, step)),
            Some(_) => return None,
        }
    }
    Some(inner.map(|(_, step)| step))
}

impl View {
    /// A dense view of all of `buf` whose axes lie in `order`.
    pub fn ordered(buf: BufId, dtype: DType, dims: &[usize], order: &[usize]) -> View {
        View { buf, dtype, dims: dims.to_vec(), strides: ordered_strides(dims, order), offset: 0 }
    }

    /// A dense row-major view of all of `buf`.
    pub fn dense(buf: BufId, dtype: DType, dims: &[usize]) -> View {
        let order: Vec<usize> = (0..dims.len()).collect();
        View::ordered(buf, dtype, dims, &order)
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Axis i of the result is axis `perm[i]`.
    pub fn permute(&self, perm: &[usize]) -> View {
        let dims = perm.iter().map(|&axis| self.dims[axis]).collect();
        let strides = perm.iter().map(|&axis| self.strides[axis]).collect();
        View { dims, strides, ..self.clone() }
    }

    /// `count` elements of one axis, from `begin`, `step` apart.
    pub fn slice(&self, axis: usize, begin: usize, count: usize, step: isize) -> View {
        let mut view = self.clone();
        view.dims[axis] = count;
        view.strides[axis] = self.strides[axis] * step;
        if self.elements() > 0 && count > 0 {
            view.offset = (self.offset as isize + self.strides[axis] * begin as isize) as usize;
        }
        view
    }

    /// Broadcast to `dims` by NumPy's rules.
    pub fn broadcast(&self, dims: &[usize]) -> View {
        let mut strides = vec![0; dims.len()];
        for (own, axis) in (dims.len() - self.rank()..dims.len()).enumerate() {
            strides[axis] = if self.dims[own] == dims[axis] { self.strides[own] } else { 0 };
        }
        View { dims: dims.to_vec(), strides, ..self.clone() }
    }

    /// The same elements, in row-major order, with other extents; `None` when strides cannot say so.
    pub fn reshape(&self, dims: &[usize]) -> Option<View> {
        let mut view = View { dims: dims.to_vec(), strides: vec![0; dims.len()], ..self.clone() };
        if self.elements() == 0 {
            return Some(view);
        }
        let old: Vec<(usize, isize)> =
            self.dims.iter().copied().zip(self.strides.iter().copied()).filter(|axis| axis.0 != 1).collect();
        let new: Vec<usize> = (0..dims.len()).filter(|&axis| dims[axis] != 1).collect();
        let (mut from, mut to) = (0, 0);
        while from < old.len() {
            let (first_from, first_to) = (from, to);
            let (mut have, mut want) = (old[from].0, dims[new[to]]);
            while have != want {
                if have < want {
                    from += 1;
                    have *= old[from].0;
                } else {
                    to += 1;
                    want *= dims[new[to]];
                }
            }
            let mut step = collapse(old[first_from..=from].iter().copied())?.unwrap_or(1);
            for &axis in new[first_to..=to].iter().rev() {
                view.strides[axis] = step;
                step *= dims[axis] as isize;
            }
            (from, to) = (from + 1, to + 1);
        }
        Some(view)
    }

    /// Axis `axis` replaced by axes of `dims`, none or one of as many elements.
    pub fn reshape_axis(&self, axis: usize, dims: &[usize]) -> Option<View> {
        let mut view = self.clone();
        match dims {
            [] if self.dims[axis] == 1 => {
                view.dims.remove(axis);
                view.strides.remove(axis);
                Some(view)
            }
            [dim] if self.dims[axis] == *dim => Some(view),
            _ => None,
        }
    }

    /// Whether the elements are dense and lie in `order`.
    pub fn is_ordered(&self, order: &[usize]) -> bool {
        let strides = ordered_strides(&self.dims, order);
        self.elements() == 0
            || self.dims.iter().zip(&self.strides).zip(&strides).all(|((&dim, a), b)| dim == 1 || a == b)
    }

    /// Whether the elements are dense and row-major.
    pub fn is_dense(&self) -> bool {
        let order: Vec<usize> = (0..self.rank()).collect();
        self.is_ordered(&order)
    }

    /// Elements between pixels, when this is an NHWC image `[N,C,H,W]`.
    pub fn image(&self) -> Option<usize> {
        let [_, channels, _, _] = self.dims[..] else { return None };
        if channels != 1 && self.strides[1] != 1 {
            return None;
        }
        let stride = collapse([0, 2, 3].iter().map(|&axis| (self.dims[axis], self.strides[axis])))?;
        let stride = stride.unwrap_or(channels as isize);
        (stride >= channels as isize && stride > 0).then_some(stride as usize)
    }

    /// Elements between rows, when this is rows of dense elements along the last axis.
    pub fn rows(&self) -> Option<usize> {
        let (&len, leading) = self.dims.split_last()?;
        if len != 1 && self.strides[leading.len()] != 1 {
            return None;
        }
        let stride = collapse(leading.iter().copied().zip(self.strides.iter().copied()))?;
        let stride = stride.unwrap_or(len as isize);
        (stride >= len as isize && stride > 0).then_some(stride as usize)
    }

    /// Whether no axis runs backwards.
    pub fn is_forward(&self) -> bool {
        self.strides.iter().zip(&self.dims).all(|(&stride, &dim)| stride >= 0 || dim <= 1)
    }

    /// Whether different indices reach different elements for sure: no broadcast axis.
    pub fn is_injective(&self) -> bool {
        self.strides.iter().zip(&self.dims).all(|(&stride, &dim)| stride != 0 || dim <= 1)
    }

    /// The order of the axes in memory, outermost first, by their strides.
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rank()).collect();
        order.sort_by_key(|&axis| {
            let stride = if self.dims[axis] == 1 { None } else { Some(self.strides[axis].unsigned_abs()) };
            std::cmp::Reverse(stride.unwrap_or_else(|| self.neighbour_stride(axis)))
        });
        order
    }

    /// What stands in for the stride of an axis of extent 1: that of the axis before it, so that it sorts
    /// there.
    fn neighbour_stride(&self, axis: usize) -> usize {
        let before = (0..axis).rev().find(|&other| self.dims[other] != 1);
        before.map_or(usize::MAX, |other| self.strides[other].unsigned_abs())
    }

    /// First element touched and the element past the last one.
    pub fn span(&self) -> (usize, usize) {
        if self.elements() == 0 {
            return (self.offset, self.offset);
        }
        let (mut first, mut last) = (self.offset as isize, self.offset as isize);
        for (&dim, &stride) in self.dims.iter().zip(&self.strides) {
            let reach = (dim as isize - 1) * stride;
            first += reach.min(0);
            last += reach.max(0);
        }
        (first as usize, last as usize + 1)
    }

    /// The bytes touched. `pitch` is the stride of the buffer's columns in elements, if it is made of
    /// columns.
    pub fn operand(&self, pitch: Option<usize>) -> Operand {
        let size = self.dtype.bytes();
        let (first, end) = self.span();
        let lane = pitch
            .and_then(|pitch| self.lane(pitch, first, end))
            .map(|(stride, width)| Lane { stride: stride * size, width: width * size });
        Operand { buf: self.buf, offset: first * size, bytes: (end - first) * size, lane }
    }

    /// Stride and width of the column that this view stays in, in elements.
    fn lane(&self, pitch: usize, first: usize, end: usize) -> Option<(usize, usize)> {
        let mut width = 1;
        for (&dim, stride) in self.dims.iter().zip(&self.strides) {
            let stride = stride.unsigned_abs();
            if dim > 1 && stride < pitch {
                width += (dim - 1) * stride;
            } else if dim > 1 && stride % pitch != 0 {
                return None;
            }
        }
        let inside = first % pitch + width <= pitch;
        (inside && width < pitch && end - first > pitch).then_some((pitch, width))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(dims: &[usize]) -> View {
        View::dense(0, DType::F32, dims)
    }

    #[test]
    fn reshapes_of_dense_views_and_heads_are_views() {
        let view = dense(&[2, 6, 8]).reshape(&[2, 6, 4, 2]).unwrap().permute(&[0, 2, 1, 3]);
        assert_eq!(view.strides, [48, 2, 8, 1]);
        assert_eq!(view.reshape(&[2, 24, 2]), None);
        assert_eq!(view.permute(&[0, 2, 1, 3]).reshape(&[12, 8]).unwrap().strides, [8, 1]);
        assert_eq!(view.reshape(&[2, 2, 2, 6, 1, 2]).unwrap().strides, [48, 4, 2, 8, 0, 1]);
    }

    #[test]
    fn images_are_told_by_their_strides() {
        let image = View::ordered(0, DType::F32, &[2, 5, 3, 4], &[0, 2, 3, 1]);
        assert_eq!(image.image(), Some(5));
        assert_eq!(image.slice(1, 1, 3, 1).image(), Some(5));
        assert_eq!(image.slice(2, 0, 2, 1).image(), None);
        assert_eq!(image.slice(0, 1, 1, 1).slice(2, 1, 2, 1).image(), Some(5));
        assert_eq!(dense(&[1, 5, 1, 1]).image(), Some(5));
        assert_eq!(dense(&[2, 1, 3, 4]).image(), Some(1));
        assert_eq!(dense(&[1, 2, 3, 4]).image(), None);
    }

    #[test]
    fn columns_have_lanes_and_whole_buffers_do_not() {
        let image = View::ordered(0, DType::F32, &[1, 5, 3, 4], &[0, 2, 3, 1]);
        let column = image.slice(1, 1, 3, 1).operand(Some(5));
        assert_eq!((column.offset, column.bytes), (4, (11 * 5 + 3) * 4));
        assert_eq!(column.lane, Some(Lane { stride: 20, width: 12 }));
        assert_eq!(image.operand(Some(5)).lane, None);
        assert!(!column.overlaps(&image.slice(1, 4, 1, 1).operand(Some(5))));
    }

    #[test]
    fn backward_slices_span_what_they_touch() {
        let view = dense(&[4, 3]).slice(0, 3, 2, -2);
        assert_eq!((view.offset, view.span()), (9, (3, 12)));
        assert!(!view.is_forward());
    }
}
