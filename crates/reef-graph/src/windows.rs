//! Windows over up to three axes, and which of their elements is the largest.

use std::ops::Range;

use crate::dtype::DType;
use crate::tensor::Shape;

/// Windows over the last three axes of `[N, C, D, H, W]`; where there are fewer, the first ones have an
/// extent of 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Extents of a window.
    pub kernel: [usize; 3],
    /// Steps of the window.
    pub strides: [usize; 3],
    /// Padding before the first element; at the other end there is as much as the last window needs.
    pub pads: [usize; 3],
    /// Distances between taps of the window.
    pub dilations: [usize; 3],
    /// Windows along every axis.
    pub output: [usize; 3],
    /// Whether places count through the first of the axes fastest (column-major), else through the last.
    pub columns: bool,
}

impl Windows {
    /// The taps of window number `window` along an axis of `extent` that lie inside of it.
    pub fn taps(&self, axis: usize, window: usize, extent: usize) -> Range<usize> {
        let (begin, pad) = (window * self.strides[axis], self.pads[axis]);
        let step = self.dilations[axis];
        let first = pad.saturating_sub(begin).div_ceil(step);
        let past = (pad + extent).saturating_sub(begin).div_ceil(step);
        first..past.min(self.kernel[axis])
    }

    /// Where a tap that lies inside is along its axis.
    pub fn at(&self, axis: usize, window: usize, tap: usize) -> usize {
        window * self.strides[axis] + tap * self.dilations[axis] - self.pads[axis]
    }

    /// How far apart in the places of a plane neighbours along every axis are.
    pub fn place_strides(&self, extents: [usize; 3]) -> [usize; 3] {
        let [d, h, w] = extents;
        if self.columns { [1, d, d * h] } else { [h * w, w, 1] }
    }

    /// Elements of a window.
    pub fn window(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Windows of a plane.
    pub fn count(&self) -> usize {
        self.output.iter().product()
    }

    /// Why windows over a plane of these extents have no largest elements, if so.
    pub fn flaw(&self, extents: [usize; 3]) -> Option<&'static str> {
        if [self.kernel, self.strides, self.dilations].concat().contains(&0) {
            return Some("has a window without extent or step");
        }
        // Windows that begin inside of the image have an element at least.
        let empty = |axis: usize| {
            let (stride, pad, windows) = (self.strides[axis], self.pads[axis], self.output[axis]);
            let before = pad.div_ceil(stride).min(windows);
            let last = windows.saturating_sub(1).saturating_mul(stride);
            windows > 0 && last >= pad.saturating_add(extents[axis])
                || (0..before).any(|window| self.taps(axis, window, extents[axis]).is_empty())
        };
        (0..3).any(empty).then_some("has a window outside of its image")
    }

    /// Types and shapes of the largest elements and their places, for elements of this type and shape, or
    /// what is wrong with them.
    pub fn outputs(&self, dtype: DType, x: &Shape) -> Result<Vec<(DType, Shape)>, String> {
        let [batch, channels, depth, height, width] = x[..] else {
            return Err(format!("a volume of shape {x}"));
        };
        if let Some(flaw) = self.flaw([depth, height, width]) {
            return Err(format!("it {flaw}, of shape {x}"));
        }
        let shape: Shape = [batch, channels].into_iter().chain(self.output).collect();
        Ok(vec![(dtype, shape.clone()), (DType::I64, shape)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: Windows = Windows {
        kernel: [1, 1, 3],
        strides: [1, 1, 2],
        pads: [0, 0, 1],
        dilations: [1, 1, 2],
        output: [1, 1, 3],
        columns: false,
    };

    #[test]
    fn taps_inside() {
        let taps = |window| LINE.taps(2, window, 6);
        assert_eq!([taps(0), taps(1), taps(2)], [1..3, 0..3, 0..2]);
        assert_eq!((LINE.at(2, 0, 1), LINE.at(2, 2, 1)), (1, 5));
        assert_eq!(LINE.flaw([1, 1, 6]), None);
        assert!(LINE.flaw([1, 1, 1]).is_some(), "taps at -1, 1 and 3 are beside one element");
        assert!(Windows { strides: [1, 0, 1], ..LINE }.flaw([1, 1, 6]).is_some());
    }

    #[test]
    fn outputs_have_a_shape() {
        let made = LINE.outputs(DType::U8, &Shape::from([2, 3, 1, 1, 6])).unwrap();
        assert_eq!(made, [DType::U8, DType::I64].map(|dtype| (dtype, Shape::from([2, 3, 1, 1, 3]))));
        assert!(LINE.outputs(DType::U8, &Shape::from([2, 3, 1, 6])).is_err());
        assert_eq!(LINE.place_strides([2, 3, 4]), [12, 4, 1]);
        assert_eq!(Windows { columns: true, ..LINE }.place_strides([2, 3, 4]), [1, 2, 6]);
    }
}
