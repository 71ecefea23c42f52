//! Where the largest elements of windows are, and the way back from there. Windows over volumes, and over
//! what is no float of 32 or 16 bits, are read here as well.

use reef_graph::reference::windows::max_pool;
use reef_graph::{Op, Picks, Putting, Shape, ValueId, Windows};

use super::attributes::Node;
use super::indexed::put;
use super::sides::sides;
use super::{Builder, Reading, Reject, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    match node.operator() {
        "MaxPool" => Some(pool(b, node)),
        "MaxUnpool" => Some(unpool(b, node).map(|value| vec![value])),
        _ => None,
    }
}

/// The largest elements and their places.
fn pool(b: &mut Builder, node: &Node) -> Result<Vec<ValueId>, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    let axes = match shape.rank() {
        rank @ 3..=5 => rank - 2,
        rank => return Err(format!("{} spatial axes", rank.saturating_sub(2)).into()),
    };
    let kernel = node.sizes("kernel_shape", axes, 1, 1)?;
    let mut windows = Windows {
        kernel: [1; 3],
        strides: [1; 3],
        pads: [0; 3],
        dilations: [1; 3],
        output: [1; 3],
        columns: node.flag("storage_order"),
    };
    for (axis, side) in sides(node, &kernel, &shape[2..])?.into_iter().enumerate() {
        let at = axis + 3 - axes;
        (windows.kernel[at], windows.strides[at], windows.dilations[at]) =
            (kernel[axis], side.stride, side.dilation);
        (windows.pads[at], windows.output[at]) = (side.before, side.output);
    }
    let ends = |extents: &[usize]| -> Shape { shape[..2].iter().chain(extents).copied().collect() };
    let volume: Vec<usize> = [1; 3][axes..].iter().chain(&shape[2..]).copied().collect();
    let x = b.reshape(name, x, ends(&volume))?;
    let count = super::graph::fitting(&ends(&windows.output))?;
    let outputs = windows.outputs(dtype, &b.shape(x)).map_err(Reject::Foreign)?;
    let made = match b.known(x) {
        _ if count == 0 => {
            outputs.into_iter().map(|(dtype, shape)| b.zeros(dtype, shape)).collect::<Result<Vec<_>, _>>()?
        }
        Some(known) => {
            let made = max_pool(&windows, known).map_err(Reject::Wrong)?;
            made.into_iter().map(|made| b.constant(name, made)).collect()
        }
        None => b.graph.add_node_multi(name, Op::MaxPool(windows), &[x], outputs),
    };
    let back = ends(&windows.output[3 - axes..]);
    made.into_iter().map(|value| b.reshape(name, value, back.clone())).collect()
}

/// Zeros but for the elements of x, each in the place that the pool's second output says. Places are of the
/// image whose pool's result has the extents of x; a larger one has more zeros behind it.
fn unpool(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x, places) = (node.name(), node.input(0)?, node.input(1)?);
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    if shape.rank() < 3 || b.shape(places) != shape {
        return wrong(format!("places of shape {} for elements of shape {shape}", b.shape(places)));
    }
    let axes = shape.rank() - 2;
    let (kernel, strides) = (node.sizes("kernel_shape", axes, 1, 1)?, node.sizes("strides", axes, 1, 1)?);
    let pads = node.sizes("pads", 2 * axes, 0, 0)?;
    let mut image = shape.to_vec();
    for axis in 0..axes {
        let pad = pads[axis] + pads[axis + axes];
        let reach = shape[axis + 2].saturating_sub(1).checked_mul(strides[axis]);
        let extent = reach.and_then(|reach| reach.checked_add(kernel[axis])?.checked_sub(pad));
        image[axis + 2] =
            extent.ok_or_else(|| Reject::Wrong(format!("pads {pads:?} around an image of nothing")))?;
    }
    let image = Shape::from(image);
    let row = |count: usize| Shape::from([count]);
    let (all, some) = (super::graph::fitting(&image)?, shape.elements());
    let zeros = b.zeros(dtype, row(all))?;
    let (x, places) = (b.reshape(name, x, row(some))?, b.reshape(name, places, row(some))?);
    let made = put(b, name, [zeros, places, x], Picks::Elements { axis: 0 }, Putting::Replace)?;
    let made = b.reshape(name, made, image.clone())?;
    match node.optional(2) {
        Some(wanted) => larger(b, name, made, &image, &b.integers(wanted, "output_shape")?),
        None => Ok(made),
    }
}

/// The image with zeros behind it along every axis.
fn larger(
    b: &mut Builder,
    name: &str,
    mut image: ValueId,
    extents: &[usize],
    wanted: &[i64],
) -> Result<ValueId, Reject> {
    let more = |(&wanted, &extent): (&i64, &usize)| usize::try_from(wanted).ok()?.checked_sub(extent);
    let behind: Option<Vec<usize>> = wanted.iter().zip(extents).map(more).collect();
    let Some(behind) = behind.filter(|behind| behind.len() == wanted.len() && wanted.len() == extents.len())
    else {
        return wrong(format!("output_shape is {wanted:?}, the image has shape {extents:?}"));
    };
    for (axis, count) in behind.into_iter().enumerate().filter(|(_, count)| *count > 0) {
        let mut dims = b.shape(image).to_vec();
        dims[axis] = count;
        super::graph::fitting(&Shape::from(dims.clone()))?;
        let zeros = b.zeros(b.dtype(image), dims.into())?;
        image = b.concat(name, &[image, zeros], axis)?;
    }
    Ok(image)
}
