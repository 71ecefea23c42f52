//! Operators that move elements.

use crate::{AllowedIndices, DType, Shape, Tensor, axis_index};

use super::{Grid, flatten, indices};
use crate::scalar::Element;

pub(super) fn concat(parts: &[Grid], axis: usize, shape: &Shape) -> Vec<Element> {
    let pick = |mut index: Vec<usize>| {
        for part in parts {
            if index[axis] < part.dims[axis] {
                return part.at(&index);
            }
            index[axis] -= part.dims[axis];
        }
        unreachable!("the parts' extents add up to the output's")
    };
    indices(shape).map(pick).collect()
}

pub(super) fn slice(x: &Grid, axis: usize, begin: usize, step: isize, shape: &Shape) -> Vec<Element> {
    let pick = |mut index: Vec<usize>| {
        index[axis] = (begin as isize + index[axis] as isize * step) as usize;
        x.at(&index)
    };
    indices(shape).map(pick).collect()
}

pub(super) fn transpose(x: &Grid, perm: &[usize], shape: &Shape) -> Vec<Element> {
    let pick = |index: Vec<usize>| {
        let mut source = vec![0; perm.len()];
        for (&axis, &at) in perm.iter().zip(&index) {
            source[axis] = at;
        }
        x.at(&source)
    };
    indices(shape).map(pick).collect()
}

pub(super) fn expand(x: &Grid, shape: &Shape) -> Vec<Element> {
    indices(shape).map(|index| x.broadcast_at(&index)).collect()
}

pub(super) fn gather(data: &Grid, picks: &Grid, axis: usize) -> Result<Vec<Element>, String> {
    let (before, after) = (&data.dims[..axis], &data.dims[axis + 1..]);
    let extent = data.dims[axis];
    let mut result = Vec::new();
    for outer in indices(before) {
        for pick in &picks.elements {
            let pick = pick.int();
            let at = axis_index(pick, extent)
                .ok_or_else(|| format!("index {pick}, {}", AllowedIndices(extent)))?;
            for inner in indices(after) {
                let index: Vec<usize> =
                    outer.iter().copied().chain([at]).chain(inner.iter().copied()).collect();
                result.push(data.at(&index));
            }
        }
    }
    Ok(result)
}

/// The same bytes as elements of another type.
pub(super) fn bits(x: &Tensor, to: DType, shape: &Shape) -> Result<Tensor, String> {
    match (x.dtype().bytes() == to.bytes(), x.shape() == shape) {
        (true, true) => Ok(Tensor::new(to, shape.clone(), x.bytes().clone())),
        _ => Err(format!("makes {to}{shape} of the bits of {}{}", x.dtype(), x.shape())),
    }
}

pub(super) fn pad(
    x: &Grid,
    pads: &[(usize, usize)],
    value: f32,
    dtype: DType,
    shape: &Shape,
) -> Vec<Element> {
    let fill = if dtype.is_float() { Element::Float(f64::from(value)) } else { Element::Int(value as i64) };
    let mut result = vec![fill; shape.elements()];
    for (index, &element) in indices(&x.dims).zip(&x.elements) {
        let target: Vec<usize> = index.iter().zip(pads).map(|(i, pad)| i + pad.0).collect();
        result[flatten(shape, &target)] = element;
    }
    result
}
