//! Windows over images: pooling and depthwise convolutions.

use bytemuck::{Pod, Zeroable};
use reef_graph::PoolKind;
use reef_plan::{DepthwiseSpec, PoolSpec};

use super::{Described, Operand, Operands, described, number, pair};
use crate::scalar::Function;

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct WindowDescriptor {
    x: Operand,
    weights: Operand,
    bias: Operand,
    residual: Operand,
    y: Operand,
    kind: u32,
    channels: u32,
    in_hw: [u32; 2],
    in_pixel_stride: u32,
    out_hw: [u32; 2],
    out_pixel_stride: u32,
    kernel: [u32; 2],
    strides: [u32; 2],
    pads: [u32; 2],
    padded_hw: [u32; 2],
    dilations: [u32; 2],
    lines: u32,
    tile: u32,
    has_bias: u32,
    residual_pixel_stride: u32,
    activation: Function,
    reserved: u32,
}

/// Kinds of a window, by the kernel's numbers.
const MAX: u32 = 0;
const MEAN_INSIDE: u32 = 1;
const MEAN_PADDED: u32 = 2;
const WEIGHTED: u32 = 3;

const FUNCTION: &str = "reef_queue_window";

pub(super) fn pool(operands: Operands<'_>, spec: &PoolSpec) -> Described {
    let [top, left, bottom, right] = spec.pads;
    let descriptor = WindowDescriptor {
        x: operands.read(0),
        y: operands.write(),
        kind: match spec.kind {
            PoolKind::Max => MAX,
            PoolKind::AvgExcludePad => MEAN_INSIDE,
            PoolKind::AvgIncludePad => MEAN_PADDED,
        },
        channels: number(spec.channels),
        in_hw: pair(spec.in_hw),
        in_pixel_stride: number(spec.in_pixel_stride),
        out_hw: pair(spec.out_hw),
        out_pixel_stride: number(spec.out_pixel_stride),
        kernel: pair(spec.kernel),
        strides: pair(spec.strides),
        pads: pair([top, left]),
        padded_hw: pair([spec.in_hw[0] + top + bottom, spec.in_hw[1] + left + right]),
        dilations: pair(spec.dilations),
        lines: number(spec.batch * spec.out_hw[0]),
        tile: number(spec.tile_rows),
        ..WindowDescriptor::zeroed()
    };
    described(FUNCTION, &descriptor, 0)
}

pub(super) fn depthwise(operands: Operands<'_>, spec: &DepthwiseSpec) -> Described {
    let mut next = 2;
    let bias = operands.read_if(spec.epilogue.bias, &mut next);
    let residual = operands.read_if(spec.epilogue.residual_pixel_stride.is_some(), &mut next);
    let descriptor = WindowDescriptor {
        x: operands.read(0),
        weights: operands.read(1),
        bias,
        residual,
        y: operands.write(),
        kind: WEIGHTED,
        channels: number(spec.channels),
        in_hw: pair(spec.in_hw),
        in_pixel_stride: number(spec.in_pixel_stride),
        out_hw: pair(spec.out_hw),
        out_pixel_stride: number(spec.out_pixel_stride),
        kernel: pair(spec.kernel),
        strides: pair(spec.strides),
        pads: pair(spec.pads),
        padded_hw: pair(spec.in_hw),
        dilations: pair(spec.dilations),
        lines: number(spec.batch * spec.out_hw[0]),
        tile: number(spec.tile_rows),
        has_bias: u32::from(spec.epilogue.bias),
        residual_pixel_stride: spec.epilogue.residual_pixel_stride.map_or(0, number),
        activation: spec.epilogue.activation.map_or(Function::NONE, Function::of),
        reserved: 0,
    };
    described(FUNCTION, &descriptor, 0)
}
