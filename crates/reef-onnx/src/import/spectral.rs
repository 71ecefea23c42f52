//! Spectra: Fourier transforms as products with constant matrices, the frames that they are made of, windows,
//! and weights of mel bands.
//!
//! Inside, a signal is `[rows, parts, elements]`: of real numbers it has one part, of complex ones two. A
//! transform of many elements is made of two of fewer (Cooley and Tukey), so that matrices and the rounding
//! of sums stay small.

use std::f64::consts::TAU;

use reef_base::limits::FOLDED_ELEMENTS_MAX;
use reef_graph::reference::store;
use reef_graph::scalar::Element;
use reef_graph::{Binary, DType, Op, Shape, Tensor, ValueId};

use super::attributes::{Node, axis_of};
use super::{Builder, Reading, Reject, wrong};
use crate::proto;

/// Elements that are transformed by one matrix, where there are divisors.
const WHOLE_MAX: usize = 128;
/// Elements that one matrix transforms at most.
const MATRIX_MAX: usize = 2048;

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let made = match node.operator() {
        "DFT" => dft(b, node),
        "STFT" => stft(b, node),
        "HannWindow" | "HammingWindow" | "BlackmanWindow" => window(b, node),
        "MelWeightMatrix" => mel_weights(b, node),
        _ => return None,
    };
    Some(made.map(|value| vec![value]))
}

/// The number that a constant operand is.
fn number(b: &Builder, id: ValueId, what: &str) -> Result<i64, Reject> {
    match b.integers(id, what)?[..] {
        [number] => Ok(number),
        _ => wrong(format!("its {what} is not one number")),
    }
}

/// The same of a count that is at least `least`.
fn count(b: &Builder, id: ValueId, what: &str, least: usize) -> Result<usize, Reject> {
    let number = number(b, id, what)?;
    match usize::try_from(number).ok().filter(|&count| count >= least && count <= FOLDED_ELEMENTS_MAX) {
        Some(count) => Ok(count),
        None => wrong(format!("its {what} is {number}")),
    }
}

/// How many numbers an element of a signal is: the last axis says so.
fn parts_of(shape: &Shape) -> Result<usize, Reject> {
    match shape.last() {
        Some(&parts @ (1 | 2)) if shape.rank() > 1 => Ok(parts),
        _ => wrong(format!("a signal of shape {shape}, whose last axis has to have 1 or 2 elements")),
    }
}

fn dft(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let shape = b.shape(x);
    let (parts, last) = (parts_of(&shape)?, shape.rank() - 1);
    let axis = match node.optional(2) {
        _ if node.opset < 20 => node.int("axis", 1),
        Some(axis) => number(b, axis, "axis")?,
        None => -2,
    };
    let axis = axis_of(axis, shape.rank())?;
    if axis == last {
        return wrong(format!("axis {axis} of a signal with {last} axes"));
    }
    let (inverse, onesided) = (node.flag("inverse"), node.flag("onesided"));
    let to_real = inverse && onesided;
    let length = match node.optional(1) {
        Some(length) => count(b, length, "dft_length", 1)?,
        None if to_real => 2 * shape[axis].saturating_sub(1),
        None => shape[axis],
    };
    if length == 0 {
        return wrong("a transform of no elements");
    }
    let (x, back) = b.floating(name, x)?;
    let order: Vec<usize> = (0..last).filter(|&other| other != axis).chain([last, axis]).collect();
    let x = b.transpose(name, x, order.clone())?;
    let outer: Vec<usize> = order[..last - 1].iter().map(|&axis| shape[axis]).collect();
    let x = b.reshape(name, x, Shape::from([outer.iter().product(), parts, shape[axis]]))?;
    let x = fitted(b, name, x, if to_real { length / 2 + 1 } else { length })?;
    let x = if to_real { mirrored(b, name, x, length)? } else { x };
    let mut made = transform(b, name, x, inverse)?;
    if inverse {
        let factor = b.scalar(b.dtype(made), 1.0 / length as f64);
        made = b.binary(name, Binary::Mul, made, factor)?;
    }
    if to_real {
        made = b.slice(name, made, 1, 0..1)?;
    } else if onesided {
        made = b.slice(name, made, 2, 0..length / 2 + 1)?;
    }
    let dims: Shape = outer.iter().copied().chain(b.shape(made)[1..].iter().copied()).collect();
    let made = b.reshape(name, made, dims)?;
    let mut inverse_order = vec![0; order.len()];
    order.iter().enumerate().for_each(|(to, &from)| inverse_order[from] = to);
    let made = b.transpose(name, made, inverse_order)?;
    b.cast(name, made, back)
}

/// So many elements of every row: cut, or zeros behind its own.
fn fitted(b: &mut Builder, name: &str, x: ValueId, extent: usize) -> Result<ValueId, Reject> {
    let mut dims = b.shape(x).to_vec();
    let given = dims[2];
    if given >= extent {
        return b.slice(name, x, 2, 0..extent);
    }
    dims[2] = extent;
    let pads = vec![(0, 0), (0, 0), (0, extent - given)];
    b.add(name, Op::Pad { pads, value: 0.0 }, &[x], b.dtype(x), dims.into())
}

/// The whole spectrum of a real signal from its half: element k is the conjugate of element `length − k`.
fn mirrored(b: &mut Builder, name: &str, half: ValueId, length: usize) -> Result<ValueId, Reject> {
    let shape = b.shape(half);
    let (parts, bins) = (shape[1], shape[2]);
    let rest = length - bins;
    if rest == 0 {
        return Ok(half);
    }
    let op = Op::Slice { axis: 2, begin: rest, end: 0, step: -1 };
    let tail = b.add(name, op, &[half], b.dtype(half), Shape::from([shape[0], parts, rest]))?;
    let signs: Vec<Element> = [1.0, -1.0][..parts].iter().map(|&sign| Element::Float(sign)).collect();
    let signs = b.constant("", store(&signs, b.dtype(half), &Shape::from([parts, 1])));
    let tail = b.binary(name, Binary::Mul, tail, signs)?;
    b.concat(name, &[half, tail], 2)
}

/// The divisor by which so many elements are split, the largest that is not above the other one.
fn divisor(elements: usize) -> Option<usize> {
    if elements <= WHOLE_MAX {
        return None;
    }
    (2..=elements.isqrt()).rev().find(|&divisor| elements.is_multiple_of(divisor))
}

/// The transform of every row, `[rows, 2, elements]`; the inverse is not divided by their number.
fn transform(b: &mut Builder, name: &str, x: ValueId, inverse: bool) -> Result<ValueId, Reject> {
    let shape = b.shape(x);
    let (rows, parts, elements) = (shape[0], shape[1], shape[2]);
    let Some(first) = divisor(elements) else { return by_matrix(b, name, x, inverse) };
    let second = elements / first;
    let x = b.reshape(name, x, Shape::from([rows, parts, first, second]))?;
    let x = b.transpose(name, x, vec![0, 3, 1, 2])?;
    let x = b.reshape(name, x, Shape::from([rows * second, parts, first]))?;
    let made = transform(b, name, x, inverse)?;
    let made = b.reshape(name, made, Shape::from([rows, second, 2, first]))?;
    let made = turned(b, name, made, inverse)?;
    let made = b.transpose(name, made, vec![0, 3, 2, 1])?;
    let made = b.reshape(name, made, Shape::from([rows * first, 2, second]))?;
    let made = transform(b, name, made, inverse)?;
    let made = b.reshape(name, made, Shape::from([rows, first, 2, second]))?;
    let made = b.transpose(name, made, vec![0, 2, 3, 1])?;
    b.reshape(name, made, Shape::from([rows, 2, elements]))
}

/// Cosine and sine of the angle by which a transform turns: `at` of `of` parts of a circle.
fn angle(at: usize, of: usize, inverse: bool) -> (f64, f64) {
    let angle = TAU * (at % of) as f64 / of as f64;
    (angle.cos(), if inverse { angle.sin() } else { -angle.sin() })
}

/// What is made of the cosine and the sine of an angle.
type OfAngle = fn((f64, f64)) -> f64;

/// Elements `[rows, second, 2, first]` between the two halves of a transform, each turned by its angle.
fn turned(b: &mut Builder, name: &str, x: ValueId, inverse: bool) -> Result<ValueId, Reject> {
    let (shape, dtype) = (b.shape(x), b.dtype(x));
    let (second, first) = (shape[1], shape[3]);
    let constant = |b: &mut Builder, what: &str, parts: &[OfAngle]| {
        let dims = Shape::from([second, parts.len(), first]);
        let tensor = b.shared(format!("{what} {second} {first} {inverse} {dtype}"), || {
            let mut all = Vec::with_capacity(dims.elements());
            for place in 0..second {
                for part in parts {
                    let turn = |bin: usize| part(angle(place * bin, second * first, inverse));
                    all.extend((0..first).map(|bin| Element::Float(turn(bin))));
                }
            }
            Ok(store(&all, dtype, &dims))
        })?;
        Ok::<_, Reject>(b.constant("", tensor))
    };
    let cosines = constant(b, "cosines", &[|(cosine, _)| cosine])?;
    let sines = constant(b, "sines", &[|(_, sine)| -sine, |(_, sine)| sine])?;
    let (real, imaginary) = (b.slice(name, x, 2, 0..1)?, b.slice(name, x, 2, 1..2)?);
    let other = b.concat(name, &[imaginary, real], 2)?;
    let kept = b.binary(name, Binary::Mul, x, cosines)?;
    let other = b.binary(name, Binary::Mul, other, sines)?;
    b.binary(name, Binary::Add, kept, other)
}

fn by_matrix(b: &mut Builder, name: &str, x: ValueId, inverse: bool) -> Result<ValueId, Reject> {
    let (shape, dtype) = (b.shape(x), b.dtype(x));
    let (rows, parts, elements) = (shape[0], shape[1], shape[2]);
    if elements > MATRIX_MAX {
        return Err(format!("{elements} elements, which has no divisor that is small enough").into());
    }
    let dims = Shape::from([parts * elements, 2 * elements]);
    let matrix = b.shared(format!("transform {parts} {elements} {inverse} {dtype}"), || {
        let mut all = Vec::with_capacity(dims.elements());
        for (part, place) in (0..parts).flat_map(|part| (0..elements).map(move |place| (part, place))) {
            for bin in 0..2 * elements {
                let (cosine, sine) = angle(place * (bin % elements), elements, inverse);
                all.push(Element::Float(match (part, bin < elements) {
                    (0, true) | (1, false) => cosine,
                    (0, false) => sine,
                    _ => -sine,
                }));
            }
        }
        Ok(store(&all, dtype, &dims))
    })?;
    let matrix = b.constant("", matrix);
    let x = b.reshape(name, x, Shape::from([rows, parts * elements]))?;
    let made = b.matmul(name, (x, false), (matrix, false))?;
    b.reshape(name, made, Shape::from([rows, 2, elements]))
}

/// Frames of a signal at equal distances, each times the window, transformed.
fn stft(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let shape = match b.shape(x) {
        // Real numbers need no axis of their own.
        shape if shape.rank() == 2 => Shape::from([shape[0], shape[1], 1]),
        shape => shape,
    };
    let parts = parts_of(&shape)?;
    let [batch, length, _] = shape[..] else { return wrong(format!("a signal of shape {shape}")) };
    let step = count(b, node.input(1)?, "frame_step", 1)?;
    let window = node.optional(2);
    if let Some(window) = window
        && b.rank(window) != 1
    {
        return wrong(format!("a window of shape {}", b.shape(window)));
    }
    let of_window = window.map(|window| b.shape(window)[0]);
    let size = match node.optional(3) {
        Some(size) => Some(count(b, size, "frame_length", 1)?),
        None => None,
    };
    let size = match (size, of_window) {
        (Some(size), Some(other)) if size != other => {
            return wrong(format!("a window of {other} elements for frames of {size}"));
        }
        (None, None) => return wrong("it has neither a window nor a frame_length"),
        (size, other) => size.or(other).expect("one is there"),
    };
    if size == 0 || size > length {
        return wrong(format!("frames of {size} elements of a signal with {length}"));
    }
    let frames = (length - size) / step + 1;
    let (x, back) = b.floating(name, x)?;
    let x = b.reshape(name, x, shape)?;
    let places: Vec<i64> =
        (0..frames).flat_map(|frame| (0..size).map(move |at| (frame * step + at) as i64)).collect();
    let places = b.constant("", Tensor::i64([places.len()], &places));
    let framed = Shape::from([batch, frames * size, parts]);
    let x = b.add(name, Op::Gather { axis: 1 }, &[x, places], b.dtype(x), framed)?;
    let x = b.reshape(name, x, Shape::from([batch * frames, size, parts]))?;
    let mut x = b.transpose(name, x, vec![0, 2, 1])?;
    if let Some(window) = window {
        let window = b.cast(name, window, b.dtype(x))?;
        x = b.binary(name, Binary::Mul, x, window)?;
    }
    let mut made = transform(b, name, x, false)?;
    let bins = if node.int("onesided", 1) != 0 { size / 2 + 1 } else { size };
    made = b.slice(name, made, 2, 0..bins)?;
    made = b.transpose(name, made, vec![0, 2, 1])?;
    made = b.reshape(name, made, Shape::from([batch, frames, bins, 2]))?;
    b.cast(name, made, back)
}

/// The type that a node's attribute says.
fn datatype(node: &Node) -> Result<DType, Reject> {
    let code = node.int("output_datatype", 1);
    proto::dtype_of_code(code).ok_or_else(|| Reject::Wrong(format!("its output is of type {code}")))
}

/// A window from a constant size.
fn window(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let size = count(b, node.input(0)?, "size", 0)?;
    let dtype = datatype(node)?;
    let period = if node.int("periodic", 1) != 0 { size } else { size.saturating_sub(1) };
    // Of the cosines of once and twice the angle.
    let [constant, once, twice] = match node.operator() {
        "HannWindow" => [0.5, -0.5, 0.0],
        "HammingWindow" => [25.0 / 46.0, -21.0 / 46.0, 0.0],
        _ => [0.42, -0.5, 0.08],
    };
    let element = |at: usize| {
        let angle = TAU * at as f64 / period as f64;
        Element::Float(constant + once * angle.cos() + twice * (2.0 * angle).cos())
    };
    let elements: Vec<Element> = (0..size).map(element).collect();
    Ok(b.constant(node.name(), store(&elements, dtype, &Shape::from([size]))))
}

/// How much of every bin of a spectrum is in every band, all from constants.
fn mel_weights(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let bands = count(b, node.input(0)?, "num_mel_bins", 0)?;
    let length = count(b, node.input(1)?, "dft_length", 0)?;
    let rate = count(b, node.input(2)?, "sample_rate", 1)?;
    let mut edges = [0.0; 2];
    for (edge, (input, what)) in edges.iter_mut().zip([(3, "lower_edge_hertz"), (4, "upper_edge_hertz")]) {
        let [hertz] = b.floats(node.input(input)?, what)?[..] else {
            return wrong(format!("its {what} is not one number"));
        };
        *edge = 2595.0 * (1.0 + hertz / 700.0).log10();
    }
    let bins = length / 2 + 1;
    if bins.saturating_mul(bands) > FOLDED_ELEMENTS_MAX {
        return wrong(format!("a constant of {bins} by {bands} elements"));
    }
    let step = (edges[1] - edges[0]) / (bands + 2) as f64;
    let mut corners = Vec::with_capacity(bands + 2);
    for band in 0..bands + 2 {
        let hertz = 700.0 * (10f64.powf((band as f64 * step + edges[0]) / 2595.0) - 1.0);
        let corner = ((length + 1) as f64 * hertz / rate as f64).floor();
        if !(0.0..=bins as f64).contains(&corner) || corner as usize >= bins && band <= bands {
            return wrong(format!("a band at {hertz} Hz: bins 0 to {} are there", bins - 1));
        }
        corners.push(corner as usize);
    }
    let mut weights = vec![Element::Float(0.0); bins * bands];
    for band in 0..bands {
        let [lower, center, higher] = [corners[band], corners[band + 1], corners[band + 2]];
        for bin in lower..=center {
            let rise =
                if center == lower { 1.0 } else { (bin as f64 - lower as f64) / (center - lower) as f64 };
            weights[bin * bands + band] = Element::Float(rise);
        }
        for bin in center..higher {
            weights[bin * bands + band] =
                Element::Float((higher as f64 - bin as f64) / (higher - center) as f64);
        }
    }
    Ok(b.constant(node.name(), store(&weights, datatype(node)?, &Shape::from([bins, bands]))))
}
