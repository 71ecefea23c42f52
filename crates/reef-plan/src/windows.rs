//! The specification of the kernel that finds the largest element of windows, and what it computes, on a
//! host.

use reef_graph::reference::windows::beyond;
use reef_graph::scalar::Element;
use reef_graph::{DType, Windows};

/// The largest element of every window and its place ([`reef_graph::Op::MaxPool`]).
///
/// Reads x `[planes, d, h, w]`; writes the elements and their places (i64), both `[planes, output]`; all of
/// it is dense. Block b makes the windows `b · tile ..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaxPoolSpec {
    /// Element type of x.
    pub dtype: DType,
    /// Planes.
    pub planes: usize,
    /// Extents of a plane.
    pub extents: [usize; 3],
    /// The windows of a plane.
    pub windows: Windows,
    /// Windows of a block.
    pub tile: usize,
}

impl MaxPoolSpec {
    /// Windows of all planes.
    pub fn count(&self) -> usize {
        self.planes * self.windows.count()
    }

    /// Elements of a plane.
    pub fn plane(&self) -> usize {
        self.extents.iter().product()
    }

    /// The plane of a window, and where it is there along every axis.
    pub fn window(&self, number: usize) -> (usize, [usize; 3]) {
        let ([_, rows, columns], inside) = (self.windows.output, number % self.windows.count());
        (
            number / self.windows.count(),
            [inside / (rows * columns), inside / columns % rows, inside % columns],
        )
    }

    /// The largest element of a window and its place; `x` gives elements of x.
    pub fn largest(&self, number: usize, mut x: impl FnMut(usize) -> Element) -> (Element, usize) {
        let (plane, window) = self.window(number);
        let taps = [0, 1, 2].map(|axis| self.windows.taps(axis, window[axis], self.extents[axis]));
        let [_, high, wide] = self.extents;
        let strides = self.windows.place_strides(self.extents);
        let mut found: Option<(Element, usize)> = None;
        for d in taps[0].clone() {
            for h in taps[1].clone() {
                for w in taps[2].clone() {
                    let at = [d, h, w];
                    let at = [0, 1, 2].map(|axis| self.windows.at(axis, window[axis], at[axis]));
                    let element = x(plane * self.plane() + (at[0] * high + at[1]) * wide + at[2]);
                    if found.is_none_or(|(best, _)| beyond(self.dtype, element, best)) {
                        let place: usize = at.iter().zip(&strides).map(|(at, stride)| at * stride).sum();
                        found = Some((element, plane * self.plane() + place));
                    }
                }
            }
        }
        found.expect("windows have elements")
    }

    /// Computes all windows, for devices that have no code of their own for them: operands are dense, little
    /// endian, and as long as the specification says.
    pub fn compute(&self, x: &[u8], outputs: &mut [&mut [u8]]) {
        let size = self.dtype.bytes();
        for number in 0..self.count() {
            let element = |at: usize| Element::read(self.dtype, &x[at * size..][..size]);
            let (element, place) = self.largest(number, element);
            element.write(self.dtype, &mut outputs[0][number * size..][..size]);
            outputs[1][number * 8..][..8].copy_from_slice(&(place as i64).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_on_a_host() {
        let windows = Windows {
            kernel: [1, 2, 2],
            strides: [1, 2, 1],
            pads: [0, 1, 0],
            dilations: [1; 3],
            output: [1, 2, 2],
            columns: false,
        };
        let spec = MaxPoolSpec { dtype: DType::I8, planes: 2, extents: [1, 3, 3], windows, tile: 1 };
        let x = [1, 5, 5, 0, 0, 9, 1, 2, 3, -1, -5, -5, 0, 0, -9, -1, -2, -3].map(|x: i8| x as u8);
        let (mut values, mut places) = (vec![0; 8], vec![0; 64]);
        spec.compute(&x, &mut [&mut values, &mut places]);
        assert_eq!(values.iter().map(|&x| x as i8).collect::<Vec<_>>(), [5, 5, 2, 9, -1, -5, 0, 0]);
        let places: Vec<u8> = places.chunks(8).map(|place| place[0]).collect();
        assert_eq!(places, [1, 1, 7, 5, 9, 10, 12, 13]);
        assert_eq!(spec.window(6), (1, [0, 1, 0]));
    }
}
