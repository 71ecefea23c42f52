//! Random numbers. They are constants: element i of a result is a function of the seed and of i alone, so
//! that a model gives the same answer every time, on every device, however it was cut. The seed is the
//! node's, or else made of its name, so that two nodes without one differ.

use std::f64::consts::TAU;

use reef_graph::reference::store;
use reef_graph::scalar::Element;
use reef_graph::{Along, Binary, DType, Op, Reduce, Shape, Unary, ValueId};

use super::attributes::Node;
use super::{Builder, Reading, Reject, wrong};
use crate::proto;

/// Elements of a result at most.
const ELEMENTS_MAX: usize = 1 << 26;

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let made = match node.operator() {
        "RandomNormal" | "RandomUniform" => of_shape(b, node),
        "RandomNormalLike" | "RandomUniformLike" => like(b, node),
        "Bernoulli" => bernoulli(b, node),
        "Multinomial" => multinomial(b, node),
        _ => return None,
    };
    Some(made.map(|value| vec![value]))
}

/// Numbers by their place.
#[derive(Clone, Copy)]
struct Source(u64);

/// Every bit of the result depends on every bit of `x` (the last steps of SplitMix64).
fn mixed(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

impl Source {
    fn of(node: &Node) -> Source {
        let seed = match node.attribute("seed") {
            Some(seed) => u64::from(seed.f.to_bits()),
            None => {
                let name = node.proto.output.first().map_or(node.name(), |name| name);
                name.bytes().fold(0x5EED, |seed, byte| mixed(seed ^ u64::from(byte)))
            }
        };
        Source(mixed(seed.wrapping_add(0x9E37_79B9_7F4A_7C15)))
    }

    fn bits(self, place: u64) -> u64 {
        mixed(self.0.wrapping_add(place.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// Uniform in 0 to 1, without 1.
    fn unit(self, place: u64) -> f64 {
        (self.bits(place) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normal with mean 0 and variance 1 (Box and Muller), from two numbers of its own.
    fn normal(self, place: u64) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit(2 * place)).ln()).sqrt();
        radius * (TAU * self.unit(2 * place + 1)).cos()
    }
}

fn constant(
    b: &mut Builder,
    name: &str,
    (dtype, shape): (DType, Shape),
    element: impl Fn(u64) -> f64,
) -> Result<ValueId, Reject> {
    let elements = super::graph::fitting(&shape)?;
    if elements > ELEMENTS_MAX {
        return wrong(format!("{elements} random numbers, {ELEMENTS_MAX} are supported"));
    }
    let all: Vec<Element> = (0..elements as u64).map(|place| Element::Float(element(place))).collect();
    Ok(b.constant(name, store(&all, dtype, &shape)))
}

/// Numbers of a distribution that the node's attributes say.
fn drawn(b: &mut Builder, node: &Node, dtype: DType, shape: Shape) -> Result<ValueId, Reject> {
    if !dtype.is_float() {
        return wrong(format!("random numbers of type {dtype}"));
    }
    let (source, number) = (Source::of(node), |name, default| f64::from(node.float(name, default)));
    if node.operator().starts_with("RandomNormal") {
        let (mean, scale) = (number("mean", 0.0), number("scale", 1.0));
        return constant(b, node.name(), (dtype, shape), |place| mean + scale * source.normal(place));
    }
    let (low, high) = (number("low", 0.0), number("high", 1.0));
    constant(b, node.name(), (dtype, shape), |place| low + (high - low) * source.unit(place))
}

/// The type that attribute `dtype` says, if it is there.
fn dtype_of(node: &Node) -> Result<Option<DType>, Reject> {
    let Some(code) = node.attribute("dtype").map(|attribute| attribute.i) else { return Ok(None) };
    match proto::dtype_of_code(code) {
        Some(dtype) => Ok(Some(dtype)),
        None => wrong(format!("attribute `dtype` is `{code}`")),
    }
}

fn of_shape(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let Some(shape) = node.ints("shape") else { return wrong("attribute `shape` is missing") };
    let dims: Option<Vec<usize>> = shape.iter().map(|&extent| usize::try_from(extent).ok()).collect();
    let Some(dims) = dims else { return wrong(format!("shape {shape:?} has negative entries")) };
    let dtype = dtype_of(node)?.unwrap_or(DType::F32);
    drawn(b, node, dtype, dims.into())
}

fn like(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let x = node.input(0)?;
    let dtype = dtype_of(node)?.unwrap_or_else(|| b.dtype(x));
    let shape = b.shape(x);
    drawn(b, node, dtype, shape)
}

/// 1 where a number of 0 to 1 is below the probability, else 0.
fn bernoulli(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let to = dtype_of(node)?.unwrap_or_else(|| b.dtype(x));
    let (x, _) = b.floating(name, x)?;
    let (source, dtype, shape) = (Source::of(node), b.dtype(x), b.shape(x));
    // A number that rounds to 1 would be above the probability 1.
    let below_one = |place| (source.unit(place) * f64::from(1 << 24)).floor() / f64::from(1 << 24);
    let numbers = constant(b, "", (dtype, shape), below_one)?;
    let made = b.binary(name, Binary::Less, numbers, x)?;
    b.cast(name, made, to)
}

/// Places of classes, as often as the exponentials of their numbers say: how many running sums a number of 0
/// to the whole sum is not below.
fn multinomial(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let to = dtype_of(node)?.unwrap_or(DType::I32);
    if !matches!(to, DType::I32 | DType::I64) {
        return wrong(format!("places of type {to}"));
    }
    let samples = node.int("sample_size", 1);
    let Some(samples) = usize::try_from(samples).ok().filter(|&samples| samples > 0) else {
        return wrong(format!("attribute `sample_size` is `{samples}`"));
    };
    let shape = b.shape(x);
    let [rows, classes] = shape[..] else { return wrong(format!("numbers of shape {shape}")) };
    if classes == 0 {
        return wrong("there are no classes");
    }
    let (x, _) = b.floating(name, x)?;
    let largest = b.reduce(name, Reduce::Max, &[1], x)?;
    let less = b.binary(name, Binary::Sub, x, largest)?;
    let weights = b.unary(name, Unary::Exp, less)?;
    let scan = Along::Scan { product: false, exclusive: false, reverse: false };
    let sums = b.add(name, Op::Along { along: scan, axis: 1 }, &[weights], b.dtype(x), shape)?;
    let whole = b.slice(name, sums, 1, classes - 1..classes)?;
    // The last class has what the others leave.
    let sums = b.slice(name, sums, 1, 0..classes - 1)?;
    let sums = b.reshape(name, sums, Shape::from([rows, 1, classes - 1]))?;
    let source = Source::of(node);
    let dims = Shape::from([rows, samples]);
    let numbers = constant(b, "", (b.dtype(x), dims.clone()), |place| source.unit(place))?;
    let numbers = b.binary(name, Binary::Mul, numbers, whole)?;
    let numbers = b.reshape(name, numbers, Shape::from([rows, samples, 1]))?;
    if classes == 1 {
        return b.zeros(to, dims);
    }
    let passed = b.binary(name, Binary::LessEqual, sums, numbers)?;
    let passed = b.cast(name, passed, to)?;
    let places = b.reduce(name, Reduce::Sum, &[2], passed)?;
    b.reshape(name, places, dims)
}
