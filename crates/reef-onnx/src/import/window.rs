//! Convolutions and pools. One-dimensional ones get a height of 1.

use reef_graph::{Binary, ConvAttrs, DType, Op, PoolAttrs, PoolKind, Reduce, Shape, ValueId};

use super::attributes::Node;
use super::relative::{powers, root};
use super::sides::sides;
use super::{Builder, Reading, Reject, wrong};

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    let made = match node.operator() {
        "Conv" => conv(b, node),
        "MaxPool" if is_plain(b, node) => node.input(0).and_then(|x| pool(b, node, x)),
        "AveragePool" | "LpPool" => node.input(0).and_then(|x| pool(b, node, x)),
        "GlobalAveragePool" => global(b, node, Reduce::Mean),
        "GlobalMaxPool" => global(b, node, Reduce::Max),
        _ => return None,
    };
    Some(made.map(|value| vec![value]))
}

/// A window over `[N,C,H,W]`.
struct Window {
    kernel: [usize; 2],
    strides: [usize; 2],
    /// Top, left, bottom, right, as declared.
    pads: [usize; 4],
    /// Further padding at bottom and right that only rounding up the output needs.
    extra: [usize; 2],
    dilations: [usize; 2],
    /// Height and width of the result.
    output: [usize; 2],
}

impl Window {
    fn new(node: &Node, kernel: &[usize], image: &[usize]) -> Result<Window, Reject> {
        let rank = image.len();
        if rank != 1 && rank != 2 {
            return Err(Reject::Foreign(format!("{rank} spatial axes")));
        }
        let mut window = Window {
            kernel: [1; 2],
            strides: [1; 2],
            pads: [0; 4],
            extra: [0; 2],
            dilations: [1; 2],
            output: [1; 2],
        };
        for (axis, side) in sides(node, kernel, image)?.into_iter().enumerate() {
            let at = axis + 2 - rank;
            window.kernel[at] = kernel[axis];
            window.strides[at] = side.stride;
            window.dilations[at] = side.dilation;
            window.pads[at] = side.before;
            window.pads[at + 2] = side.after;
            window.extra[at] = side.extra;
            window.output[at] = side.output;
        }
        Ok(window)
    }

    /// All padding.
    fn padded(&self) -> [usize; 4] {
        let [top, left, bottom, right] = self.pads;
        [top, left, bottom + self.extra[0], right + self.extra[1]]
    }
}

/// `x` as `[N,C,H,W]`.
pub(super) fn enter(b: &mut Builder, node: &Node, x: ValueId) -> Result<ValueId, Reject> {
    let mut dims = b.shape(x).to_vec();
    if dims.len() == 3 {
        dims.insert(2, 1);
    }
    b.reshape(node.name(), x, dims.into())
}

/// The way back to the rank and type that the node makes.
pub(super) fn leave(
    b: &mut Builder,
    node: &Node,
    x: ValueId,
    rank: usize,
    dtype: DType,
) -> Result<ValueId, Reject> {
    let mut dims = b.shape(x).to_vec();
    if rank == 3 {
        dims.remove(2);
    }
    let x = b.reshape(node.name(), x, dims.into())?;
    b.cast(node.name(), x, dtype)
}

/// Attributes of a convolution, and its result as `[N,O,H,W]`.
pub(super) fn convolution(
    b: &Builder,
    node: &Node,
    x: ValueId,
    weights: ValueId,
) -> Result<(ConvAttrs, Shape), Reject> {
    let (shape, of) = (b.shape(x), b.shape(weights));
    let groups = super::columns::channels_of(node, &shape, &of)?;
    let window = Window::new(node, &of[2..], &shape[2..])?;
    let attrs = ConvAttrs {
        kernel: window.kernel,
        strides: window.strides,
        pads: window.padded(),
        dilations: window.dilations,
        groups,
    };
    let [height, width] = window.output;
    Ok((attrs, Shape::from([shape[0], of[0], height, width])))
}

pub(super) fn conv(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (name, x, weights) = (node.name(), node.input(0)?, node.input(1)?);
    let (rank, channels) = (b.rank(x), b.shape(weights).first().copied().unwrap_or(0));
    if b.known(weights).is_none() || rank > 4 {
        return super::columns::conv(b, node);
    }
    let (attrs, image) = convolution(b, node, x, weights)?;
    let (x, back) = b.computable(name, x)?;
    let (weights, _) = b.computable(name, weights)?;
    let weights = enter(b, node, weights)?;
    let (bias, added) = bias(b, node, channels)?;
    let x = enter(b, node, x)?;
    let inputs: Vec<ValueId> = [x, weights].into_iter().chain(bias).collect();
    let mut made = b.add(name, Op::Conv(attrs), &inputs, DType::F32, image)?;
    if let Some(added) = added {
        let added = b.reshape(name, added, Shape::from([1, channels, 1, 1]))?;
        made = b.binary(name, Binary::Add, made, added)?;
    }
    leave(b, node, made, rank, back)
}

/// The bias as `[O]`, unless it is a constant zero; or, where it is computed, what is added.
pub(super) fn bias(
    b: &mut Builder,
    node: &Node,
    channels: usize,
) -> Result<(Option<ValueId>, Option<ValueId>), Reject> {
    let Some(bias) = node.optional(2) else { return Ok((None, None)) };
    if b.shape(bias)[..] != [channels] {
        return wrong(format!("a bias of shape {} for {channels} channels", b.shape(bias)));
    }
    let (bias, _) = b.computable(node.name(), bias)?;
    match b.known(bias).map(|tensor| tensor.values::<f32>().iter().all(|&value| value == 0.0)) {
        Some(true) => Ok((None, None)),
        Some(false) => Ok((Some(bias), None)),
        None => Ok((None, Some(bias))),
    }
}

/// Whether a pool is one of an image of floats, or of bytes, which floats hold, nobody asking where the
/// largest elements are: others are read elsewhere.
fn is_plain(b: &Builder, node: &Node) -> bool {
    let plain = |x: ValueId| {
        use DType::{BF16, F16, F32, I8, U8};
        matches!(b.dtype(x), F32 | F16 | BF16 | U8 | I8) && b.rank(x) <= 4
    };
    !node.has_output(1) && node.optional(0).is_none_or(plain)
}

/// What the pool of a node makes of `x`. One that is neither of the largest elements nor of a norm is of
/// averages.
pub(super) fn pool(b: &mut Builder, node: &Node, x: ValueId) -> Result<ValueId, Reject> {
    let name = node.name();
    let largest = node.operator().ends_with("MaxPool");
    let shape = b.shape(x);
    if shape.rank() < 3 {
        return wrong(format!("an input of shape {shape}"));
    }
    let kernel = node.sizes("kernel_shape", shape.rank() - 2, 1, 1)?;
    if shape.rank() == 5 {
        return super::volume::pool(b, node, x, &kernel);
    }
    let window = Window::new(node, &kernel, &shape[2..])?;
    let (x, back) = match b.dtype(x) {
        // The largest of some of these is one of them.
        dtype @ (DType::U8 | DType::I8) if largest => (b.cast(name, x, DType::F32)?, dtype),
        _ => b.computable(name, x)?,
    };
    let mut x = enter(b, node, x)?;
    let norm = (node.operator() == "LpPool").then(|| node.int("p", 2));
    if let Some(p) = norm {
        x = powers(b, name, x, p)?;
    }
    let (kind, pads) = if largest {
        (PoolKind::Max, window.padded())
    } else if norm.is_some() {
        // A sum by its mean: zeros that are padded with add nothing.
        (PoolKind::AvgIncludePad, window.padded())
    } else if !node.flag("count_include_pad") || window.padded() == [0; 4] {
        (PoolKind::AvgExcludePad, window.padded())
    } else if window.extra == [0; 2] {
        (PoolKind::AvgIncludePad, window.pads)
    } else {
        // Declared padding counts, what rounding up adds does not: make the former part of the image.
        let [top, left, bottom, right] = window.pads;
        let pads = vec![(0, 0), (0, 0), (top, bottom), (left, right)];
        let padded = b.shape(x).iter().zip(&pads).map(|(&extent, &(a, z))| extent + a + z).collect();
        x = b.add(name, Op::Pad { pads, value: 0.0 }, &[x], DType::F32, padded)?;
        (PoolKind::AvgExcludePad, [0, 0, window.extra[0], window.extra[1]])
    };
    let Window { kernel, strides, dilations, output: [height, width], .. } = window;
    let attrs = PoolAttrs { kind, kernel, strides, pads, dilations };
    let image = Shape::from([shape[0], shape[1], height, width]);
    let mut made = b.add(name, Op::Pool(attrs), &[x], DType::F32, image)?;
    if largest && back == DType::I8 && pads != [0; 4] {
        // Of a window that is padding alone it is the least number of the type.
        let least = b.scalar(DType::F32, i8::MIN.into());
        made = b.binary(name, Binary::Max, made, least)?;
    }
    if let Some(p) = norm {
        let count = b.scalar(DType::F32, (kernel[0] * kernel[1]) as f64);
        let sum = b.binary(name, Binary::Mul, made, count)?;
        made = root(b, name, sum, p)?;
    }
    leave(b, node, made, shape.rank(), back)
}

fn global(b: &mut Builder, node: &Node, reduce: Reduce) -> Result<ValueId, Reject> {
    let (name, x) = (node.name(), node.input(0)?);
    let shape = b.shape(x);
    if shape.rank() < 3 {
        return wrong(format!("an input of shape {shape}"));
    }
    let axes: Vec<usize> = (2..shape.rank()).collect();
    super::reduce::folded_extents(&shape, &axes)?;
    let (x, back) = b.floating(name, x)?;
    let made = b.reduce(name, reduce, &axes, x)?;
    b.cast(name, made, back)
}
