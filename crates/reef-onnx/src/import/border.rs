//! Borders made of the tensor itself, and tensors cut or padded to a size around their centre.

use reef_graph::{Op, Shape, ValueId};

use super::attributes::{Node, axis_of};
use super::{Builder, Reading, Reject, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    (node.operator() == "CenterCropPad").then(|| centred(b, node).map(|value| vec![value]))
}

/// `x` with borders of a mode of `Pad` that repeats elements; `around` says how much before and after.
pub(super) fn repeated(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    around: &[(i64, i64)],
    mode: &str,
) -> Result<ValueId, Reject> {
    let mut made = x;
    for (axis, &(before, after)) in around.iter().enumerate() {
        let (Ok(before), Ok(after)) = (usize::try_from(before), usize::try_from(after)) else {
            return Err(Reject::Foreign(format!("padding of mode {mode} that takes away")));
        };
        let extent = b.shape(made)[axis];
        if before == 0 && after == 0 {
            continue;
        }
        // Elements beyond those that are there twice would be there a third time.
        let room = match mode {
            "edge" if extent > 0 => usize::MAX,
            "reflect" => extent.saturating_sub(1),
            "wrap" => extent,
            _ => 0,
        };
        if before.max(after) > room {
            return Err(Reject::Foreign(format!("padding of mode {mode} of {extent} elements")));
        }
        let mut parts = vec![];
        if before > 0 {
            parts.push(match mode {
                "edge" => edge(b, name, made, axis, (0, before))?,
                "reflect" => mirrored(b, name, made, axis, (before, before))?,
                _ => b.slice(name, made, axis, extent - before..extent)?,
            });
        }
        parts.push(made);
        if after > 0 {
            parts.push(match mode {
                "edge" => edge(b, name, made, axis, (extent - 1, after))?,
                "reflect" => mirrored(b, name, made, axis, (extent - 2, after))?,
                _ => b.slice(name, made, axis, 0..after)?,
            });
        }
        made = b.concat(name, &parts, axis)?;
    }
    Ok(made)
}

/// `x` with borders of a computed value.
pub(super) fn filled(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    pads: &[(usize, usize)],
    value: ValueId,
) -> Result<ValueId, Reject> {
    if b.shape(value).elements() != 1 || b.dtype(value) != b.dtype(x) {
        let [x, value] = [x, value].map(|id| format!("{}{}", b.dtype(id), b.shape(id)));
        return wrong(format!("{x} padded with {value}"));
    }
    let value = b.reshape(name, value, Shape::default())?;
    let mut made = x;
    for (axis, &(before, after)) in pads.iter().enumerate() {
        let mut parts = vec![];
        for (place, count) in [(0, before), (1, after)] {
            if place == 1 {
                parts.push(made);
            }
            if count > 0 {
                let mut dims = b.shape(made).to_vec();
                dims[axis] = count;
                super::graph::fitting(&dims.clone().into())?;
                parts.push(b.expand(name, value, dims.into())?);
            }
        }
        made = b.concat(name, &parts, axis)?;
    }
    Ok(made)
}

/// The element `at` of an axis, `count` times.
fn edge(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    axis: usize,
    (at, count): (usize, usize),
) -> Result<ValueId, Reject> {
    let one = b.slice(name, x, axis, at..at + 1)?;
    let mut dims = b.shape(one).to_vec();
    dims[axis] = count;
    super::graph::fitting(&dims.clone().into())?;
    b.expand(name, one, dims.into())
}

/// `count` elements of an axis from `first` on towards its beginning.
fn mirrored(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    axis: usize,
    (first, count): (usize, usize),
) -> Result<ValueId, Reject> {
    let mut dims = b.shape(x).to_vec();
    dims[axis] = count;
    if count == 1 {
        return b.slice(name, x, axis, first..first + 1);
    }
    let op = Op::Slice { axis, begin: first, end: first as isize - count as isize, step: -1 };
    b.add(name, op, &[x], b.dtype(x), dims.into())
}

/// Cut where there is too much, padded with zeros where there is too little, on both sides alike.
fn centred(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let (rank, wanted) = (b.rank(x), b.integers(node.input(1)?, "shape")?);
    let axes = match node.ints("axes") {
        Some(axes) => axes.iter().map(|&axis| axis_of(axis, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    let twice = (1..axes.len()).any(|at| axes[..at].contains(&axes[at]));
    if axes.len() != wanted.len() || twice {
        return wrong(format!("extents {wanted:?} for the axes {axes:?}"));
    }
    let (mut made, mut pads) = (x, vec![(0, 0); rank]);
    for (&axis, &wanted) in axes.iter().zip(&wanted) {
        let Ok(wanted) = usize::try_from(wanted) else { return wrong(format!("an extent of {wanted}")) };
        let extent = b.shape(made)[axis];
        if wanted <= extent {
            let first = (extent - wanted) / 2;
            made = b.slice(name, made, axis, first..first + wanted)?;
        } else {
            let more = wanted - extent;
            pads[axis] = (more / 2, more - more / 2);
        }
    }
    if pads.iter().all(|&pads| pads == (0, 0)) {
        return Ok(made);
    }
    let (dtype, shape) = (b.dtype(made), b.shape(made));
    let padded: Shape = shape.iter().zip(&pads).map(|(&extent, &(a, z))| extent + a + z).collect();
    if shape.elements() == 0 {
        return b.zeros(dtype, padded);
    }
    b.add(name, Op::Pad { pads, value: 0.0 }, &[made], dtype, padded)
}
