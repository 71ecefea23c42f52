//! Operators of vision models: what is sampled at computed places, sums of windows, determinants.
//!
//! A deformable convolution is a sampling in elements, one point for each element of each window, and then a
//! convolution by columns.

use reef_graph::vision::{Col2Im, Coordinates, GridSample, Interpolation, Outside, RoiAlign};
use reef_graph::{Binary, Shape, Tensor, ValueId, Vision};

use super::attributes::Node;
use super::columns::{channels_of, plus_bias, product};
use super::sides::sides;
use super::{Builder, Reading, Reject, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let made = match node.operator() {
        "GridSample" => grid_sample(b, node),
        "RoiAlign" => roi_align(b, node),
        "Col2Im" => col2im(b, node),
        "Det" => determinant(b, node),
        "DeformConv" => deformable(b, node),
        _ => return None,
    };
    Some(made.map(|value| vec![value]))
}

/// Samples of a bin of a region along an axis.
const SAMPLES_MAX: usize = 1 << 12;

fn grid_sample(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x, grid) = (node.name(), node.input(0)?, node.input(1)?);
    let interpolation = match node.text("mode").unwrap_or("linear") {
        "nearest" => Interpolation::Nearest,
        "linear" | "bilinear" => Interpolation::Linear,
        "cubic" | "bicubic" => Interpolation::Cubic,
        other => return wrong(format!("mode `{other}`")),
    };
    let outside = match node.text("padding_mode").unwrap_or("zeros") {
        "zeros" => Outside::Zeros,
        "border" => Outside::Border,
        "reflection" => Outside::Reflection,
        other => return wrong(format!("padding_mode `{other}`")),
    };
    let coordinates = Coordinates::Unit { align_corners: node.flag("align_corners") };
    let (x, back) = b.computable(name, x)?;
    let (grid, _) = b.computable(name, grid)?;
    let sample = Vision::GridSample(GridSample { interpolation, outside, coordinates });
    let made = b.vision(name, sample, &[x, grid])?;
    b.cast(name, made, back)
}

fn roi_align(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x, regions, batch) = (node.name(), node.input(0)?, node.input(1)?, node.input(2)?);
    let size = |name: &str| {
        let given = node.int(name, 1);
        usize::try_from(given).ok().filter(|&size| size > 0).ok_or_else(|| format!("{name} is {given}"))
    };
    let bins = [size("output_height"), size("output_width")];
    let [rows, columns] = bins.map(|size| size.map_err(Reject::Wrong));
    let ratio = node.int("sampling_ratio", 0);
    let samples = usize::try_from(ratio).ok().filter(|&samples| samples <= SAMPLES_MAX);
    let Some(samples) = samples else {
        return wrong(format!("sampling_ratio is {ratio}, allowed are 0 to {SAMPLES_MAX}"));
    };
    let align = RoiAlign {
        bins: [rows?, columns?],
        samples,
        scale: node.float("spatial_scale", 1.0),
        // The first form knows only the other.
        half_pixel: node.opset >= 16
            && node.text("coordinate_transformation_mode").unwrap_or("half_pixel") == "half_pixel",
        largest: node.text("mode") == Some("max"),
    };
    let (x, back) = b.computable(name, x)?;
    let (regions, _) = b.computable(name, regions)?;
    let made = b.vision(name, Vision::RoiAlign(align), &[x, regions, batch])?;
    b.cast(name, made, back)
}

fn col2im(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let extents = |given: Vec<i64>, what: &str| -> Result<Vec<usize>, Reject> {
        let extents = given.iter().map(|&extent| usize::try_from(extent).ok().filter(|&extent| extent > 0));
        extents.collect::<Option<_>>().ok_or_else(|| Reject::Wrong(format!("its {what} is {given:?}")))
    };
    let image = extents(b.integers(node.input(1)?, "image_shape")?, "image_shape")?;
    let block = extents(b.integers(node.input(2)?, "block_shape")?, "block_shape")?;
    let axes = image.len();
    if axes == 0 || block.len() != axes {
        return wrong(format!("its image_shape is {image:?}, its block_shape {block:?}"));
    }
    let strides = node.sizes("strides", axes, 1, 1)?;
    let dilations = node.sizes("dilations", axes, 1, 1)?;
    let pads = node.sizes("pads", 2 * axes, 0, 0)?;
    let mut windows = vec![];
    for axis in 0..axes {
        let field = (block[axis] - 1).saturating_mul(dilations[axis]).saturating_add(1);
        let padded = image[axis].saturating_add(pads[axis]).saturating_add(pads[axis + axes]);
        let Some(room) = padded.checked_sub(field) else {
            return wrong(format!("its window of {field} elements does not fit axis {axis} of {padded}"));
        };
        windows.push(room / strides[axis] + 1);
    }
    let (x, back) = b.computable(name, x)?;
    let before = pads[..axes].to_vec();
    let fold = Col2Im { image, block, windows, strides, dilations, before };
    let shape = b.shape(x);
    let elements = fold.windows.iter().try_fold(1usize, |product, &count| product.checked_mul(count));
    let inside = fold.block.iter().try_fold(1usize, |product, &count| product.checked_mul(count));
    if elements.is_none() || inside.is_none() {
        return wrong(format!("its input has shape {shape}, and it has windows {:?}", fold.windows));
    }
    let made = b.vision(name, Vision::Col2Im(fold), &[x])?;
    b.cast(name, made, back)
}

fn determinant(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let (x, back) = b.computable(name, x)?;
    let made = b.vision(name, Vision::Det, &[x])?;
    b.cast(name, made, back)
}

/// Where every element of every window lies before it is moved: `[elements of a window, 2, windows]`.
fn places(
    kernel: &[usize],
    windows: [usize; 2],
    strides: &[usize],
    steps: &[usize],
    pads: [usize; 2],
) -> Tensor {
    let (taps, count) = (kernel[0] * kernel[1], windows[0] * windows[1]);
    let mut made = vec![0.0f32; taps * 2 * count];
    for (at, place) in made.iter_mut().enumerate() {
        let (tap, axis, window) = (at / count / 2, at / count % 2, at % count);
        let tap = [tap / kernel[1], tap % kernel[1]][axis];
        let window = [window / windows[1], window % windows[1]][axis];
        *place = (window * strides[axis] + tap * steps[axis]) as f32 - pads[axis] as f32;
    }
    Tensor::f32([taps, 2, count], &made)
}

fn deformable(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x, weights, moves) = (node.name(), node.input(0)?, node.input(1)?, node.input(2)?);
    let (shape, of) = (b.shape(x), b.shape(weights));
    if shape.rank() != 4 {
        return Err(Reject::Foreign(format!("an input of shape {shape}")));
    }
    let groups = channels_of(node, &shape, &of)?;
    let given = node.int("offset_group", 1);
    let parts = usize::try_from(given).ok().filter(|&parts| parts > 0 && shape[1].is_multiple_of(parts));
    let Some(parts) = parts else {
        return wrong(format!("offset_group is {given} for an input of shape {shape}"));
    };
    let sides = sides(node, &of[2..], &shape[2..])?;
    let (strides, steps) = (node.sizes("strides", 2, 1, 1)?, node.sizes("dilations", 2, 1, 1)?);
    let windows = [sides[0].output, sides[1].output];
    let (taps, count) = (of[2] * of[3], windows[0] * windows[1]);
    let batch = shape[0];
    if b.shape(moves)[..] != [batch, parts * taps * 2, windows[0], windows[1]] {
        return wrong(format!("offsets of shape {} for {windows:?} windows", b.shape(moves)));
    }
    let (x, back) = b.computable(name, x)?;
    let x = b.reshape(name, x, Shape::from([batch * parts, shape[1] / parts, shape[2], shape[3]]))?;
    let (moves, _) = b.computable(name, moves)?;
    let moves = b.reshape(name, moves, Shape::from([batch * parts, taps, 2, count]))?;
    super::graph::fitting(&Shape::from([taps, 2, count]))?;
    let pads = [sides[0].before, sides[1].before];
    let places = b.constant("", places(&of[2..], windows, &strides, &steps, pads));
    let points = b.binary(name, Binary::Add, moves, places)?;
    let points = b.transpose(name, points, vec![0, 1, 3, 2])?;
    let sample = GridSample {
        interpolation: Interpolation::Linear,
        outside: Outside::Zeros,
        coordinates: Coordinates::Elements,
    };
    let mut columns = b.vision(name, Vision::GridSample(sample), &[x, points])?;
    if let Some(mask) = node.optional(4) {
        if b.shape(mask)[..] != [batch, parts * taps, windows[0], windows[1]] {
            return wrong(format!("a mask of shape {} for {windows:?} windows", b.shape(mask)));
        }
        let (mask, _) = b.computable(name, mask)?;
        let mask = b.reshape(name, mask, Shape::from([batch * parts, 1, taps, count]))?;
        columns = b.binary(name, Binary::Mul, columns, mask)?;
    }
    let (weights, _) = b.computable(name, weights)?;
    let columns = b.reshape(name, columns, Shape::from([batch, shape[1] * taps, count]))?;
    let made = product(b, name, (weights, groups), columns)?;
    let made = b.reshape(name, made, Shape::from([batch, of[0], windows[0], windows[1]]))?;
    let made = plus_bias(b, node, made, 3)?;
    b.cast(name, made, back)
}
