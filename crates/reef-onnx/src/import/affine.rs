//! `AffineGrid`: where the elements of an image come from under an affine map.

use reef_graph::{Binary, Shape, Tensor, ValueId};

use super::attributes::Node;
use super::{Builder, Reading, Reject, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    (node.operator() == "AffineGrid").then(|| grid(b, node).map(|value| vec![value]))
}

/// `Σ theta[:, :, axis] · coordinates of the axis`, the last axis of the image first, and what is added.
fn grid(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, theta) = (node.name(), node.input(0)?);
    let (of, size) = (b.shape(theta), b.integers(node.input(1)?, "size")?);
    let sizes: Option<Vec<usize>> = size.iter().map(|&size| usize::try_from(size).ok()).collect();
    let Some(sizes) = sizes.filter(|sizes| sizes.len() == 4 || sizes.len() == 5) else {
        return wrong(format!("size is {size:?}"));
    };
    let axes = sizes.len() - 2;
    if of[..] != [sizes[0], axes, axes + 1] {
        return wrong(format!("theta of shape {of} for an image of shape {size:?}"));
    }
    let dims: Shape = [&sizes[..1], &sizes[2..], &[axes]].concat().into();
    super::graph::fitting(&dims)?;
    let (theta, back) = b.computable(name, theta)?;
    let column = |b: &mut Builder, at: usize| {
        let column = b.slice(name, theta, 2, at..at + 1)?;
        let mut dims = vec![1; axes + 2];
        (dims[0], dims[axes + 1]) = (sizes[0], axes);
        b.reshape(name, column, dims.into())
    };
    let mut sum = column(b, axes)?;
    for at in 0..axes {
        let axis = axes - 1 - at;
        let extent = sizes[2 + axis];
        let mut along = vec![1; axes + 2];
        along[1 + axis] = extent;
        let places = coordinates(extent, node.flag("align_corners"));
        let places = b.constant("", Tensor::f32(Shape::from(along), &places));
        let factor = column(b, at)?;
        let part = b.binary(name, Binary::Mul, factor, places)?;
        sum = b.binary(name, Binary::Add, sum, part)?;
    }
    let sum = b.expand(name, sum, dims)?;
    b.cast(name, sum, back)
}

/// Of the centres of elements from −1 to 1, or of elements whose first and last centre lie there.
fn coordinates(extent: usize, corners: bool) -> Vec<f32> {
    let step = 2.0 / if corners { extent.saturating_sub(1).max(1) } else { extent } as f64;
    let start = -1.0 + if corners { 0.0 } else { step / 2.0 };
    (0..extent).map(|at| (start + step * at as f64) as f32).collect()
}
