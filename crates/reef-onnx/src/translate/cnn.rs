//! Convolutions, pools and channel-wise scaling. One-dimensional ones get a height of 1; channels-last ones
//! and those without a batch axis are turned into `[N,C,H,W]` and back.

use reef_graph::{ConvAttrs, DType, Op, PoolAttrs, PoolKind, Shape, ValueId};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat, MaxPool, PaddingSpec, PoolSpec, SumPool};

use super::{Reject, computable};
use crate::build;
use crate::register::ChannelAffine;
use crate::walk::Walk;

/// A window over `[N,C,H,W]`.
struct Window {
    kernel: [usize; 2],
    strides: [usize; 2],
    /// Top, left, bottom, right, as declared.
    pads: [usize; 4],
    /// Further padding at bottom and right that only rounding up the output needs.
    extra: [usize; 2],
    dilations: [usize; 2],
}

pub(super) fn conv(walk: &mut Walk, node: &TypedNode, op: &Conv) -> Result<ValueId, Reject> {
    if op.q_params.is_some() {
        return Err("quantized".into());
    }
    let x = walk.value(node.inputs[0])?;
    let (x, back) = computable(&mut walk.graph, &node.name, x)?;
    let weights = weights(walk, node, op)?;
    let bias = bias(walk, node, op)?;
    let (x, window) = enter(walk, node, &op.pool_spec, x)?;
    let attrs = ConvAttrs {
        kernel: window.kernel,
        strides: window.strides,
        pads: window.padded(),
        dilations: window.dilations,
        groups: op.group,
    };
    let inputs: Vec<ValueId> = [x, weights].into_iter().chain(bias).collect();
    let image = window.output(&walk.graph.value(x).shape, op.pool_spec.output_channels)?;
    let made = walk.graph.add_node(&node.name, Op::Conv(attrs), &inputs, DType::F32, image);
    leave(walk, node, &op.pool_spec, made, back)
}

/// Weights as a constant `[O,I/groups,kh,kw]`.
fn weights(walk: &mut Walk, node: &TypedNode, op: &Conv) -> Result<ValueId, Reject> {
    let tensor = walk.constant(node.inputs[1]).ok_or("its weights are computed")?;
    let tensor = walk.consts.convert(&tensor).ok_or("its weights have a type that is not supported")?;
    let tensor = match tensor.dtype() {
        DType::F32 => tensor,
        DType::F16 => {
            let values = crate::consts::floats(&tensor).expect("f16 values are numbers");
            crate::consts::rounded(tensor.shape().clone(), &values)
        }
        dtype => return Err(format!("{dtype} is not computed natively")),
    };
    let rank = op.pool_spec.rank();
    let spatial = |first: usize| (first..first + rank).collect::<Vec<_>>();
    let perm: Vec<usize> = match op.kernel_fmt {
        KernelFormat::OIHW => (0..rank + 2).collect(),
        KernelFormat::OHWI => [vec![0, rank + 1], spatial(1)].concat(),
        KernelFormat::HWIO if op.group == 1 => [vec![rank + 1, rank], spatial(0)].concat(),
        KernelFormat::HWIO => return Err("grouped with channels last".into()),
    };
    let tensor = walk.consts.transposed(&tensor, &perm);
    let mut dims = tensor.shape().to_vec();
    if rank == 1 {
        dims.insert(2, 1);
    }
    let tensor = walk.consts.reshaped(&tensor, &dims.into());
    Ok(walk.graph.add_const(format!("{}.weights", node.name), tensor))
}

/// The bias as `[O]`, unless it is a constant zero.
fn bias(walk: &mut Walk, node: &TypedNode, op: &Conv) -> Result<Option<ValueId>, Reject> {
    let tensor = walk.constant(node.inputs[2]).ok_or("its bias is computed")?;
    let tensor = walk.consts.convert(&tensor).ok_or("its bias has a type that is not supported")?;
    let values = crate::consts::floats(&tensor).ok_or("its bias is not floating point")?;
    if values.iter().all(|&value| value == 0.0) {
        return Ok(None);
    }
    let channels = op.pool_spec.output_channels;
    let values = if values.len() == 1 { vec![values[0]; channels] } else { values };
    if values.len() != channels {
        return Err(format!("{} biases for {channels} channels", values.len()));
    }
    let tensor = crate::consts::rounded(Shape::from([channels]), &values);
    Ok(Some(walk.graph.add_const(format!("{}.bias", node.name), tensor)))
}

pub(super) fn max_pool(walk: &mut Walk, node: &TypedNode, op: &MaxPool) -> Result<ValueId, Reject> {
    if op.with_index_outputs.is_some() {
        return Err("indices of the largest elements".into());
    }
    let x = walk.value(node.inputs[0])?;
    let (x, back) = computable(&mut walk.graph, &node.name, x)?;
    let (x, window) = enter(walk, node, &op.pool_spec, x)?;
    let made = pool(walk, node, PoolKind::Max, &window, window.padded(), x)?;
    leave(walk, node, &op.pool_spec, made, back)
}

pub(super) fn sum_pool(walk: &mut Walk, node: &TypedNode, op: &SumPool) -> Result<ValueId, Reject> {
    if !op.normalize {
        return Err("a sum, not a mean".into());
    }
    let x = walk.value(node.inputs[0])?;
    let (x, back) = computable(&mut walk.graph, &node.name, x)?;
    let (mut x, window) = enter(walk, node, &op.pool_spec, x)?;
    let made = if !op.count_include_pad || window.padded() == [0; 4] {
        pool(walk, node, PoolKind::AvgExcludePad, &window, window.padded(), x)?
    } else if window.extra == [0; 2] {
        pool(walk, node, PoolKind::AvgIncludePad, &window, window.pads, x)?
    } else {
        // Declared padding counts, what rounding up adds does not: make the former part of the image.
        let [top, left, bottom, right] = window.pads;
        let pads = vec![(0, 0), (0, 0), (top, bottom), (left, right)];
        let shape = &walk.graph.value(x).shape;
        let padded: Shape = shape.iter().zip(&pads).map(|(&extent, &(a, b))| extent + a + b).collect();
        let op = Op::Pad { pads, value: 0.0 };
        x = walk.graph.add_node(format!("{}.pad", node.name), op, &[x], DType::F32, padded);
        let [bottom, right] = window.extra;
        pool(walk, node, PoolKind::AvgExcludePad, &window, [0, 0, bottom, right], x)?
    };
    leave(walk, node, &op.pool_spec, made, back)
}

fn pool(
    walk: &mut Walk,
    node: &TypedNode,
    kind: PoolKind,
    window: &Window,
    pads: [usize; 4],
    x: ValueId,
) -> Result<ValueId, Reject> {
    let Window { kernel, strides, dilations, .. } = *window;
    let attrs = PoolAttrs { kind, kernel, strides, pads, dilations };
    let moved = Window { kernel, strides, pads, extra: [0; 2], dilations };
    let shape = &walk.graph.value(x).shape;
    let shape = moved.output(shape, shape[1])?;
    Ok(walk.graph.add_node(&node.name, Op::Pool(attrs), &[x], DType::F32, shape))
}

pub(super) fn channel_affine(
    walk: &mut Walk,
    node: &TypedNode,
    op: &ChannelAffine,
) -> Result<ValueId, Reject> {
    let x = walk.value(node.inputs[0])?;
    let (x, back) = computable(&mut walk.graph, &node.name, x)?;
    let mut inputs = vec![x];
    for (part, tensor) in [("scale", &op.scale), ("shift", &op.shift)] {
        let tensor = walk.consts.convert(tensor).ok_or("its parameters are not numbers")?;
        inputs.push(walk.graph.add_const(format!("{}.{part}", node.name), tensor));
    }
    let shape = walk.graph.value(x).shape.clone();
    let made = walk.graph.add_node(&node.name, Op::ScaleShift, &inputs, DType::F32, shape);
    Ok(build::cast(&mut walk.graph, &node.name, made, back))
}

/// `x` as `[N,C,H,W]`, and the window over it.
fn enter(
    walk: &mut Walk,
    node: &TypedNode,
    spec: &PoolSpec,
    x: ValueId,
) -> Result<(ValueId, Window), Reject> {
    let rank = spec.rank();
    if rank != 1 && rank != 2 {
        return Err(format!("{rank} spatial axes"));
    }
    let graph = &mut walk.graph;
    let mut dims = graph.value(x).shape.to_vec();
    if dims.len() != rank + 1 + usize::from(spec.data_format.has_n()) {
        return Err(format!("its input has {} axes", dims.len()));
    }
    if !spec.data_format.has_n() {
        dims.insert(0, 1);
    }
    let mut x = build::reshape(graph, &node.name, x, dims.clone().into());
    if spec.data_format.c_is_last() {
        let perm = [0, rank + 1].into_iter().chain(1..=rank).collect();
        x = build::transpose(graph, &node.name, x, perm);
        dims = graph.value(x).shape.to_vec();
    }
    let window = Window::new(spec, &dims[2..])?;
    if rank == 1 {
        dims.insert(2, 1);
    }
    Ok((build::reshape(graph, &node.name, x, dims.into()), window))
}

/// The way back from `[N,C,H,W]` to the layout and type that the node makes.
fn leave(
    walk: &mut Walk,
    node: &TypedNode,
    spec: &PoolSpec,
    x: ValueId,
    dtype: DType,
) -> Result<ValueId, Reject> {
    let (_, shape) = walk.fact(OutletId::new(node.id, 0))?;
    let graph = &mut walk.graph;
    let mut x = x;
    if spec.data_format.c_is_last() {
        x = build::transpose(graph, &node.name, x, vec![0, 2, 3, 1]);
    }
    if graph.value(x).shape.elements() != shape.elements() {
        return Err(format!("it would be {}, not {shape}", graph.value(x).shape));
    }
    let x = build::reshape(graph, &node.name, x, shape);
    Ok(build::cast(graph, &node.name, x, dtype))
}

impl Window {
    fn new(spec: &PoolSpec, image: &[usize]) -> Result<Window, Reject> {
        let mut window =
            Window { kernel: [1; 2], strides: [1; 2], pads: [0; 4], extra: [0; 2], dilations: [1; 2] };
        let offset = 2 - image.len();
        let computed = spec.computed_padding(image);
        for (axis, padding) in computed.into_iter().enumerate() {
            let at = axis + offset;
            let (kernel, stride, dilation) =
                (spec.kernel_shape[axis], spec.stride(axis), spec.dilation(axis));
            if kernel == 0 || stride == 0 || dilation == 0 {
                return Err("an empty window".into());
            }
            window.kernel[at] = kernel;
            window.strides[at] = stride;
            window.dilations[at] = dilation;
            window.pads[at] = padding.pad_before;
            window.pads[at + 2] = padding.pad_after;
            let reach = (padding.convoluted.max(1) - 1) * stride + (kernel - 1) * dilation + 1;
            let covered = image[axis] + padding.pad_before + padding.pad_after;
            if matches!(spec.padding, PaddingSpec::ExplicitOnnxPool(_, _, true)) {
                window.extra[at] = reach.saturating_sub(covered);
            }
        }
        Ok(window)
    }

    /// All padding.
    fn padded(&self) -> [usize; 4] {
        let [top, left, bottom, right] = self.pads;
        [top, left, bottom + self.extra[0], right + self.extra[1]]
    }

    fn output(&self, image: &Shape, channels: usize) -> Result<Shape, Reject> {
        let pads = self.padded();
        let mut dims = [image[0], channels, 0, 0];
        for axis in 0..2 {
            let covered = image[axis + 2] + pads[axis] + pads[axis + 2];
            let field = (self.kernel[axis] - 1) * self.dilations[axis] + 1;
            let room = covered.checked_sub(field).ok_or("its window is larger than the image")?;
            dims[axis + 2] = room / self.strides[axis] + 1;
        }
        Ok(dims.into())
    }
}
