//! The largest element of every window, and its place.

use super::{Grid, indices, store};
use crate::scalar::Element;
use crate::{DType, Tensor, Windows};

/// The largest elements and their places, as [`crate::Op::MaxPool`] says.
pub fn max_pool(windows: &Windows, x: &Tensor) -> Result<Vec<Tensor>, String> {
    let outputs = windows.outputs(x.dtype(), x.shape())?;
    let extents = [x.shape()[2], x.shape()[3], x.shape()[4]];
    let (grid, strides) = (Grid::of(x), windows.place_strides(extents));
    let (mut largest, mut places) = (vec![], vec![]);
    for index in indices(&outputs[0].1) {
        let plane = index[0] * x.shape()[1] + index[1];
        let mut found: Option<(Element, usize)> = None;
        for tap in indices(&windows.kernel) {
            if (0..3).any(|axis| !windows.taps(axis, index[2 + axis], extents[axis]).contains(&tap[axis])) {
                continue;
            }
            let at = [0, 1, 2].map(|axis| windows.at(axis, index[2 + axis], tap[axis]));
            let element = grid.at(&[&index[..2], &at[..]].concat());
            if found.is_none_or(|(best, _)| beyond(x.dtype(), element, best)) {
                let place: usize = at.iter().zip(&strides).map(|(at, stride)| at * stride).sum();
                found = Some((element, plane * extents.iter().product::<usize>() + place));
            }
        }
        let (element, place) = found.ok_or("a window has no elements")?;
        largest.push(element);
        places.push(Element::Int(place as i64));
    }
    let [(dtype, shape), (of_places, _)] = &outputs[..] else { unreachable!("there are two outputs") };
    Ok(vec![store(&largest, *dtype, shape), store(&places, *of_places, shape)])
}

/// Whether an element is larger than the largest so far; a NaN is larger than numbers.
pub fn beyond(dtype: DType, element: Element, best: Element) -> bool {
    match (element, best) {
        (Element::Int(a), Element::Int(b)) if dtype == DType::U64 => (a as u64) > b as u64,
        (Element::Int(a), Element::Int(b)) => a > b,
        _ => element.float() > best.float() || element.float().is_nan() && !best.float().is_nan(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shape;

    #[test]
    fn the_first_of_equal_ones_and_of_nans() {
        let line = |values: &[f32]| {
            let windows = Windows {
                kernel: [1, 1, 3],
                strides: [1; 3],
                pads: [0; 3],
                dilations: [1; 3],
                output: [1, 1, values.len() - 2],
                columns: false,
            };
            let x = Tensor::f32([1, 1, 1, 1, values.len()], values);
            max_pool(&windows, &x).unwrap().remove(1).values::<i64>().to_vec()
        };
        assert_eq!(line(&[1.0, 3.0, 3.0, -1.0]), [1, 1]);
        assert_eq!(line(&[-0.0, 0.0, f32::NEG_INFINITY]), [0]);
        assert_eq!(line(&[5.0, f32::NAN, f32::NAN, 9.0]), [1, 1]);
    }

    #[test]
    fn places_count_through_all_planes() {
        let windows = Windows {
            kernel: [1, 2, 2],
            strides: [1, 2, 2],
            pads: [0; 3],
            dilations: [1; 3],
            output: [1, 1, 1],
            columns: true,
        };
        let x = Tensor::i64([1, 2, 1, 2, 3], &[0, 5, 0, 1, 2, 9, 1, 1, 1, 4, 1, 1]);
        let made = max_pool(&windows, &x).unwrap();
        assert_eq!(made[0].values::<i64>(), [5, 4]);
        // Column-major: the place of row 0 and column 1 is 2, that of row 1 and column 0 is 1.
        assert_eq!(made[1].values::<i64>(), [2, 6 + 1]);
        assert_eq!(made[1].shape(), &Shape::from([1, 2, 1, 1, 1]));
    }
}
