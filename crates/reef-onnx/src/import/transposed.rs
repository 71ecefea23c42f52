//! Transposed convolutions as convolutions.
//!
//! With stride 1 one is a convolution with turned weights. With stride s each of s neighbours of the output
//! has weights of its own, every s-th of the kernel's: one convolution computes all of them as channels,
//! which then lie down beside each other.

use reef_graph::{Binary, ConvAttrs, DType, Op, Shape, Tensor, ValueId};

use super::attributes::Node;
use super::window::{bias, enter, leave};
use super::{Builder, Reading, Reject, wrong};
use crate::register::TransposedAxis;

/// Elements of the weights per element of the model's weights; what has more is nearly all zeros.
const SPREAD_MAX: usize = 16;

pub(super) fn read(b: &mut Builder, node: &Node) -> Reading {
    (node.operator() == "ConvTranspose").then(|| conv_transpose(b, node).map(|value| vec![value]))
}

/// One spatial axis.
#[derive(Clone)]
struct Side {
    kernel: usize,
    dilation: usize,
    /// Outputs that each have weights of their own.
    phases: usize,
    /// Weights of a phase, and the distance of the elements that they stand at.
    taps: usize,
    step: usize,
    /// Elements of the image that nothing reads, at its beginning and its end.
    unread: [usize; 2],
    pads: [usize; 2],
    /// Outputs of every phase.
    rows: usize,
    /// Outputs before the first that is wanted.
    skipped: usize,
    output: usize,
}

impl Side {
    fn new(image: usize, kernel: usize, axis: &TransposedAxis) -> Result<Side, Reject> {
        let TransposedAxis { stride, dilation, before, output, .. } = *axis;
        let field = (kernel - 1) * dilation + 1;
        let (taps, step) = if stride == 1 { (kernel, dilation) } else { (field.div_ceil(stride), 1) };
        // Row q of all phases is made of elements q - reach to q.
        let (reach, first, last) = ((taps - 1) * step, before / stride, (before + output - 1) / stride);
        let unread = [first.saturating_sub(reach), (image - 1).saturating_sub(last)];
        if unread[0] >= image || unread[1] >= image {
            return Err("its result is made of nothing".into());
        }
        Ok(Side {
            kernel,
            dilation,
            phases: stride,
            taps,
            step,
            unread,
            pads: [reach.saturating_sub(first), last.saturating_sub(image - 1)],
            rows: last - first + 1,
            skipped: before % stride,
            output,
        })
    }

    /// The weight of the model that stands at a place of a phase's window, if any does.
    fn tap(&self, phase: usize, place: usize) -> Option<usize> {
        let at = phase + (self.taps - 1 - place) * self.phases * self.step;
        let tap = at / self.dilation;
        (at.is_multiple_of(self.dilation) && tap < self.kernel).then_some(tap)
    }
}

/// Channels.
#[derive(Clone, Copy)]
struct Channels {
    groups: usize,
    /// Input and output channels of a group.
    inputs: usize,
    outputs: usize,
}

impl Channels {
    fn new(node: &Node, x: &Shape, weights: &Shape) -> Result<Channels, Reject> {
        let groups = usize::try_from(node.int("group", 1)).ok().filter(|&groups| groups > 0);
        let groups = groups.ok_or_else(|| Reject::Wrong(format!("group is {}", node.int("group", 1))))?;
        let fits = x.rank() == weights.rank() && x.rank() >= 3 && x[1] == weights[0];
        if !fits || !x[1].is_multiple_of(groups) {
            return wrong(format!("weights of shape {weights} in {groups} groups for an input of shape {x}"));
        }
        Ok(Channels { groups, inputs: x[1] / groups, outputs: weights[1] })
    }

    fn made(&self) -> usize {
        self.groups * self.outputs
    }

    /// The channel of the convolution that makes a phase of an output channel. Without groups the channels
    /// of a phase are neighbours, as they are in the result.
    fn place(&self, phase: usize, phases: usize, channel: usize) -> usize {
        match self.groups {
            1 => phase * self.made() + channel,
            _ => channel * phases + phase,
        }
    }
}

fn conv_transpose(b: &mut Builder, node: &Node) -> Result<ValueId, Reject> {
    let (x, weights) = (node.input(0)?, node.input(1)?);
    let (shape, of) = (b.shape(x), b.shape(weights));
    let channels = Channels::new(node, &shape, &of)?;
    if of.contains(&0) || shape[1..].contains(&0) {
        return Err("it sums nothing".into());
    }
    let axes = crate::register::transposed_axes(node.proto, &shape[2..], &of[2..]).map_err(Reject::Wrong)?;
    let outputs = axes.iter().map(|axis| axis.output);
    let image: Shape = [shape[0], channels.made()].into_iter().chain(outputs).collect();
    if super::graph::fitting(&image)? == 0 {
        return b.zeros(b.dtype(x), image);
    }
    let kept = (b.graph.nodes.len(), b.graph.values.len());
    match phased(b, node, channels, &axes) {
        // Whatever its weights are.
        Err(Reject::Foreign(_)) => {
            b.forget(kept.0, kept.1);
            super::columns::conv_transpose(b, node, channels.groups, &axes)
        }
        made => made,
    }
}

/// As a convolution of all phases.
fn phased(
    b: &mut Builder,
    node: &Node,
    channels: Channels,
    axes: &[TransposedAxis],
) -> Result<ValueId, Reject> {
    let (name, x, weights) = (node.name(), node.input(0)?, node.input(1)?);
    let (shape, of) = (b.shape(x), b.shape(weights));
    let rank = shape.rank();
    if rank > 4 || b.known(weights).is_none() {
        return Err("no convolution computes it".into());
    }
    let mut sides = vec![];
    for (axis, side) in axes.iter().enumerate() {
        sides.push(Side::new(shape[2 + axis], of[2 + axis], side)?);
    }
    if rank == 3 {
        let whole = TransposedAxis { stride: 1, dilation: 1, before: 0, output: 1 };
        sides.insert(0, Side::new(1, 1, &whole)?);
    }
    let sides: [Side; 2] =
        sides.try_into().map_err(|_| Reject::Wrong(format!("an input of shape {shape}")))?;
    let (weights, _) = b.computable(name, weights)?;
    let weights = turned(b, weights, &sides, channels)?;
    let (bias, added) = bias(b, node, channels.made())?;
    let bias = bias.map(|bias| repeated(b, bias, &sides, channels));
    let (x, back) = b.computable(name, x)?;
    let mut x = enter(b, node, x)?;
    for (axis, side) in sides.iter().enumerate() {
        let extent = b.shape(x)[2 + axis];
        x = b.slice(name, x, 2 + axis, side.unread[0]..extent - side.unread[1])?;
    }
    let inputs: Vec<ValueId> = [x, weights].into_iter().chain(bias).collect();
    let attrs = ConvAttrs {
        kernel: [sides[0].taps, sides[1].taps],
        strides: [1; 2],
        pads: [sides[0].pads[0], sides[1].pads[0], sides[0].pads[1], sides[1].pads[1]],
        dilations: [sides[0].step, sides[1].step],
        groups: channels.groups,
    };
    let made = Shape::from([shape[0], b.shape(weights)[0], sides[0].rows, sides[1].rows]);
    let made = b.add(name, Op::Conv(attrs), &inputs, DType::F32, made)?;
    let mut made = laid_out(b, name, made, &sides, channels)?;
    if let Some(added) = added {
        let added = b.reshape(name, added, Shape::from([1, channels.made(), 1, 1]))?;
        made = b.binary(name, Binary::Add, made, added)?;
    }
    leave(b, node, made, rank, back)
}

/// The weights of all phases, turned round: `[channels of the convolution, inputs of a group, taps]`.
fn turned(
    b: &mut Builder,
    weights: ValueId,
    sides: &[Side; 2],
    channels: Channels,
) -> Result<ValueId, Reject> {
    let Some(tensor) = b.known(weights).cloned() else { return Err("its weights are computed".into()) };
    let [tall, wide] = sides;
    let phases = tall.phases.saturating_mul(wide.phases);
    let dims = [channels.made().saturating_mul(phases), channels.inputs, tall.taps, wide.taps];
    let elements = dims.iter().fold(1usize, |product, &extent| product.saturating_mul(extent));
    if elements > tensor.shape().elements().saturating_mul(SPREAD_MAX) {
        return Err("its weights are few for its strides and dilations".into());
    }
    super::graph::fitting(&dims.into())?;
    let steps = [tall.phases, wide.phases, tall.dilation, wide.dilation];
    let what = format!("transposed weights {steps:?} in {} groups", channels.groups);
    let sides = sides.clone();
    let made = b.made_of(what, &tensor, move |tensor| {
        let [tall, wide] = &sides;
        let given = tensor.values::<f32>();
        let mut made = vec![0.0f32; elements];
        for output in 0..channels.made() {
            let (group, inner) = (output / channels.outputs, output % channels.outputs);
            for phase in 0..phases {
                let to = channels.place(phase, phases, output) * channels.inputs;
                for input in 0..channels.inputs {
                    let from = (group * channels.inputs + input) * channels.outputs + inner;
                    let to = (to + input) * tall.taps * wide.taps;
                    let window = &mut made[to..to + tall.taps * wide.taps];
                    let kernel = &given[from * tall.kernel * wide.kernel..][..tall.kernel * wide.kernel];
                    fill(window, kernel, [phase / wide.phases, phase % wide.phases], &sides);
                }
            }
        }
        Tensor::f32(dims, &made)
    });
    Ok(b.constant("", made))
}

/// The window of one phase.
fn fill(window: &mut [f32], kernel: &[f32], phase: [usize; 2], [tall, wide]: &[Side; 2]) {
    for (at, weight) in window.iter_mut().enumerate() {
        let row = tall.tap(phase[0], at / wide.taps);
        let column = wide.tap(phase[1], at % wide.taps);
        if let (Some(row), Some(column)) = (row, column) {
            *weight = kernel[row * wide.kernel + column];
        }
    }
}

/// The bias for the channels of all phases.
fn repeated(b: &mut Builder, bias: ValueId, sides: &[Side; 2], channels: Channels) -> ValueId {
    let phases = sides[0].phases * sides[1].phases;
    let Some(given) = b.known(bias).cloned().filter(|_| phases > 1) else { return bias };
    let mut made = vec![0.0f32; channels.made() * phases];
    for (channel, &value) in given.values::<f32>().iter().enumerate() {
        for phase in 0..phases {
            made[channels.place(phase, phases, channel)] = value;
        }
    }
    b.constant("", Tensor::f32([made.len()], &made))
}

/// The phases beside each other, and of that what is wanted.
fn laid_out(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    [tall, wide]: &[Side; 2],
    channels: Channels,
) -> Result<ValueId, Reject> {
    let mut x = x;
    if tall.phases * wide.phases > 1 {
        let (batch, depth) = (b.shape(x)[0], channels.made());
        let (apart, perm) = match channels.groups {
            1 => ([batch, tall.phases, wide.phases, depth, tall.rows, wide.rows], vec![0, 3, 4, 1, 5, 2]),
            _ => ([batch, depth, tall.phases, wide.phases, tall.rows, wide.rows], vec![0, 1, 4, 2, 5, 3]),
        };
        x = b.reshape(name, x, Shape::from(apart))?;
        x = b.transpose(name, x, perm)?;
        let joined = [batch, depth, tall.rows * tall.phases, wide.rows * wide.phases];
        x = b.reshape(name, x, Shape::from(joined))?;
    }
    for (axis, side) in [tall, wide].into_iter().enumerate() {
        x = b.slice(name, x, 2 + axis, side.skipped..side.skipped + side.output)?;
    }
    Ok(x)
}
