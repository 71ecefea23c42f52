//! Operators of vision models, a unit of their work at a time.

use crate::scalar::Element;
use crate::tensor::{Shape, Tensor};
use crate::vision::{
    Col2Im, GridSample, Interpolation, Outside, RoiAlign, SEGMENT, Samples, Vision, between,
};

use super::{flatten, indices, unflatten};

/// An element of an input: which input, and which of its elements.
pub type Load<'a> = &'a mut dyn FnMut(usize, usize) -> f64;

/// The output for these inputs, all units.
pub(super) fn all(vision: &Vision, inputs: &[&Tensor], shape: &Shape) -> Result<Vec<Element>, String> {
    let shapes: Vec<Shape> = inputs.iter().map(|tensor| tensor.shape().clone()).collect();
    let made = vision.shape(&shapes)?;
    if made != *shape {
        return Err(format!("it makes {made}, not {shape}"));
    }
    let elements: Vec<Vec<Element>> = inputs.iter().map(|tensor| Element::all(tensor)).collect();
    let mut load = |input: usize, at: usize| elements[input][at].float();
    let mut output = vec![Element::Float(0.0); shape.elements()];
    for unit in 0..vision.units(&shapes) {
        for (place, value) in of_unit(vision, &shapes, false, unit, &mut load)? {
            output[place] = Element::Float(value);
        }
    }
    Ok(output)
}

/// What a unit of work makes: places in the output, and values. With `channels_last`, images (x and the
/// output) lie so.
pub fn of_unit(
    vision: &Vision,
    inputs: &[Shape],
    channels_last: bool,
    unit: usize,
    load: Load<'_>,
) -> Result<Vec<(usize, f64)>, String> {
    match vision {
        Vision::GridSample(sample) => Ok(grid_sample(sample, inputs, channels_last, unit, load)),
        Vision::RoiAlign(align) => roi_align(align, inputs, channels_last, unit, load),
        Vision::Col2Im(fold) => Ok(col2im(fold, unit, load)),
        Vision::Det => Ok(vec![(unit, determinant(inputs[0][inputs[0].rank() - 1], unit, load))]),
    }
}

/// Where an element lies of images of so many channels and elements of each.
fn place(channels_last: bool, [image, channel, at]: [usize; 3], [channels, count]: [usize; 2]) -> usize {
    match channels_last {
        true => (image * count + at) * channels + channel,
        false => (image * channels + channel) * count + at,
    }
}

fn grid_sample(
    sample: &GridSample,
    inputs: &[Shape],
    channels_last: bool,
    unit: usize,
    load: Load<'_>,
) -> Vec<(usize, f64)> {
    let (channels, extents, axes) = (inputs[0][1], &inputs[0][2..], inputs[0].rank() - 2);
    let points: usize = inputs[1][1..=axes].iter().product();
    let taps: Vec<Vec<(usize, f64)>> = (0..axes)
        .map(|axis| {
            let at = unit * axes + sample.coordinates.of_axis(axis, axes);
            axis_taps(sample, load(1, at) as f32, extents[axis])
        })
        .collect();
    let counts: Vec<usize> = taps.iter().map(Vec::len).collect();
    let (image, point) = (unit / points, unit % points);
    let mut made = vec![];
    for channel in 0..channels {
        let mut sum = 0.0;
        for combination in indices(&counts) {
            let chosen: Vec<(usize, f64)> =
                combination.iter().zip(&taps).map(|(&at, axis)| axis[at]).collect();
            let index: Vec<usize> = chosen.iter().map(|tap| tap.0).collect();
            let from = [image, channel, flatten(extents, &index)];
            let from = place(channels_last, from, [channels, extents.iter().product()]);
            sum += chosen.iter().map(|tap| tap.1).product::<f64>() * load(0, from);
        }
        made.push((place(channels_last, [image, channel, point], [channels, points]), sum));
    }
    made
}

/// The elements of one axis that coordinate `x` reads, with their weights, none of which is 0.
fn axis_taps(sample: &GridSample, x: f32, extent: usize) -> Vec<(usize, f64)> {
    let (low, high) = sample.coordinates.bounds(extent as f32);
    let (bounds, last) = ((f64::from(low), f64::from(high)), extent as f64 - 1.0);
    let mut at = f64::from(sample.coordinates.place(x, extent as f32));
    if sample.interpolation == Interpolation::Nearest {
        at = at.round_ties_even();
    }
    at = match sample.outside {
        // The elements are clamped, one by one: the curve goes on beyond the last of them.
        Outside::Border if sample.interpolation != Interpolation::Cubic => at.clamp(0.0, last),
        Outside::Reflection => reflected(at, bounds),
        _ => at,
    };
    let (floor, share) = (at.floor(), at - at.floor());
    let wanted: Vec<(f64, f64)> = match sample.interpolation {
        Interpolation::Nearest => vec![(at, 1.0)],
        Interpolation::Linear => vec![(floor, 1.0 - share), (floor + 1.0, share)],
        Interpolation::Cubic => {
            (-1..=2).map(f64::from).map(|offset| (floor + offset, cubic(offset - share))).collect()
        }
    };
    let element = |(at, weight): (f64, f64)| {
        let at = match sample.outside {
            Outside::Zeros if !(0.0..=last).contains(&at) => return None,
            Outside::Reflection => reflected(at, bounds),
            _ => at,
        };
        (weight != 0.0).then_some((at.clamp(0.0, last) as usize, weight))
    };
    wanted.into_iter().filter_map(element).collect()
}

/// `x` mirrored at both bounds until it lies between them.
fn reflected(x: f64, (low, high): (f64, f64)) -> f64 {
    let range = high - low;
    if range <= 0.0 {
        return low.max(0.0);
    }
    if (low..=high).contains(&x) {
        return x;
    }
    let along = (x - low).abs() % (2.0 * range);
    low + if along > range { 2.0 * range - along } else { along }
}

/// The cubic convolution function.
fn cubic(s: f64) -> f64 {
    const A: f64 = -0.75;
    let s = s.abs();
    if s <= 1.0 {
        ((A + 2.0) * s - (A + 3.0)) * s * s + 1.0
    } else if s < 2.0 {
        ((A * s - 5.0 * A) * s + 8.0 * A) * s - 4.0 * A
    } else {
        0.0
    }
}

fn roi_align(
    align: &RoiAlign,
    inputs: &[Shape],
    channels_last: bool,
    unit: usize,
    load: Load<'_>,
) -> Result<Vec<(usize, f64)>, String> {
    let [rows, columns] = align.bins;
    let (region, row) = (unit / rows, unit % rows);
    let &[images, channels, height, width] = &inputs[0][..] else { unreachable!("the shapes fit") };
    let image = RoiAlign::entry(region, load(2, region) as i64, images)?;
    let mut corner = |at: usize| load(1, region * 4 + at) as f32;
    let (x, y) = ([corner(0), corner(2)], [corner(1), corner(3)]);
    let (down, across) = (align.samples(0, y[0], y[1]), align.samples(1, x[0], x[1]));
    let mut made = vec![];
    for column in 0..columns {
        for channel in 0..channels {
            let mut element = |y: usize, x: usize| {
                load(0, place(channels_last, [image, channel, y * width + x], [channels, height * width]))
            };
            let of = |samples: &Samples, bin: usize, extent: usize| -> Vec<_> {
                (0..samples.count).map(|at| between(samples.place(bin, at), extent)).collect()
            };
            let (down_taps, across_taps) = (of(&down, row, height), of(&across, column, width));
            let (mut sum, mut largest) = (0.0, f64::NEG_INFINITY);
            for (y, x) in down_taps.iter().flat_map(|y| across_taps.iter().map(move |x| (y, x))) {
                let (Some(y), Some(x)) = (y, x) else {
                    largest = largest.max(0.0);
                    continue;
                };
                for (y, x) in y.iter().flat_map(|y| x.iter().map(move |x| (y, x))) {
                    let product = f64::from(y.1 * x.1) * element(y.0, x.0);
                    sum += product;
                    largest = largest.max(product);
                }
            }
            let count = down.count * across.count;
            let value = match align.largest {
                true if count == 0 => 0.0,
                true => largest,
                false => sum / count.max(1) as f64,
            };
            let to = [region, channel, row * columns + column];
            made.push((place(channels_last, to, [channels, rows * columns]), value));
        }
    }
    Ok(made)
}

fn col2im(fold: &Col2Im, unit: usize, load: Load<'_>) -> Vec<(usize, f64)> {
    let axes = fold.image.len();
    let (line, segment) = (unit / fold.segments(), unit % fold.segments());
    let (plane, line) = (line / fold.lines(), line % fold.lines());
    let mut index = unflatten(&fold.image[..axes - 1], line);
    index.push(0);
    let width = fold.image[axes - 1];
    let (block, windows) = (fold.block_elements(), fold.windows.iter().product::<usize>());
    let mut made = vec![];
    for column in segment * SEGMENT..width.min((segment + 1) * SEGMENT) {
        index[axes - 1] = column;
        let mut sum = 0.0;
        for (tap, taps) in indices(&fold.block).enumerate() {
            let window = |axis: usize| fold.window(axis, index[axis], taps[axis]);
            if let Some(at) = (0..axes).map(window).collect::<Option<Vec<usize>>>() {
                sum += load(0, (plane * block + tap) * windows + flatten(&fold.windows, &at));
            }
        }
        made.push(((plane * fold.lines() + line) * width + column, sum));
    }
    made
}

fn determinant(n: usize, unit: usize, load: Load<'_>) -> f64 {
    let mut rows: Vec<Vec<f64>> =
        (0..n).map(|row| (0..n).map(|column| load(0, (unit * n + row) * n + column)).collect()).collect();
    let mut product = 1.0;
    for at in 0..n {
        let mut pivot = at;
        for row in at + 1..n {
            if rows[row][at].abs() > rows[pivot][at].abs() {
                pivot = row;
            }
        }
        if pivot != at {
            rows.swap(pivot, at);
            product = -product;
        }
        product *= rows[at][at];
        if rows[at][at] == 0.0 {
            return product;
        }
        let (above, below) = rows.split_at_mut(at + 1);
        let pivot = &above[at][at..];
        for row in below {
            let factor = row[at] / pivot[0];
            row[at..].iter_mut().zip(pivot).for_each(|(element, x)| *element -= factor * x);
        }
    }
    product
}
