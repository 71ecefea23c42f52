//! Convolutions and products.

use bytemuck::{Pod, Zeroable};
use reef_plan::{ConvSpec, MatMulSpec};

use super::{Described, Operand, Operands, RANK_MAX, described, number, pair};
use crate::cut::{CONV_COLUMNS, CONV_ROWS};
use crate::pack::Rows;
use crate::scalar::Function;

/// Products that a block has in shared memory at a time, and what a column of pixels takes.
const CONV_DEPTH: usize = 16;
const CONV_PITCH: usize = CONV_ROWS + 4;
const SHARED_BYTES: usize = CONV_DEPTH * (CONV_PITCH + CONV_COLUMNS) * size_of::<f32>();

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct ConvDescriptor {
    x: Operand,
    weights: Operand,
    bias: Operand,
    residual: Operand,
    y: Operand,
    in_hw: [u32; 2],
    in_pixel_stride: u32,
    out_hw: [u32; 2],
    out_pixel_stride: u32,
    kernel: [u32; 2],
    strides: [u32; 2],
    pads: [u32; 2],
    dilations: [u32; 2],
    inputs: u32,
    outputs: u32,
    depth: u32,
    weight_stride: u32,
    rows: u32,
    row_tiles: u32,
    column_tiles: u32,
    has_bias: u32,
    residual_pixel_stride: u32,
    activation: Function,
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct MatMulDescriptor {
    a: Operand,
    b: Operand,
    c: Operand,
    a_strides: [i64; 2],
    b_strides: [i64; 2],
    c_row_stride: i64,
    batch_strides: [[i64; 3]; RANK_MAX],
    batch_dims: [u32; RANK_MAX],
    batch_rank: u32,
    m: u32,
    n: u32,
    k: u32,
    row_tiles: u32,
    column_tiles: u32,
    alpha: f32,
    reserved: u32,
}

pub(super) fn conv(operands: Operands<'_>, spec: &ConvSpec) -> Described {
    let mut next = 2;
    let bias = operands.read_if(spec.epilogue.bias, &mut next);
    let residual = operands.read_if(spec.epilogue.residual_pixel_stride.is_some(), &mut next);
    let descriptor = ConvDescriptor {
        x: operands.read(0),
        weights: operands.read(1),
        bias,
        residual,
        y: operands.write(),
        in_hw: pair(spec.in_hw),
        in_pixel_stride: number(spec.in_pixel_stride),
        out_hw: pair(spec.out_hw),
        out_pixel_stride: number(spec.out_pixel_stride),
        kernel: pair(spec.kernel),
        strides: pair(spec.strides),
        pads: pair(spec.pads),
        dilations: pair(spec.dilations),
        inputs: number(spec.in_c / spec.groups),
        outputs: number(spec.out_c / spec.groups),
        depth: number(spec.depth()),
        weight_stride: number(Rows::stride(spec.matrices())),
        rows: number(spec.rows()),
        row_tiles: number(spec.rows().div_ceil(CONV_ROWS)),
        column_tiles: number((spec.out_c / spec.groups).div_ceil(CONV_COLUMNS)),
        has_bias: u32::from(spec.epilogue.bias),
        residual_pixel_stride: spec.epilogue.residual_pixel_stride.map_or(0, number),
        activation: spec.epilogue.activation.map_or(Function::NONE, Function::of),
    };
    described("reef_queue_conv", &descriptor, SHARED_BYTES)
}

pub(super) fn matmul(operands: Operands<'_>, spec: &MatMulSpec) -> Described {
    let mut descriptor = MatMulDescriptor {
        a: operands.read(0),
        b: operands.read(1),
        c: operands.write(),
        a_strides: spec.a_strides.map(|stride| stride as i64),
        b_strides: spec.b_strides.map(|stride| stride as i64),
        c_row_stride: spec.c_row_stride as i64,
        batch_rank: number(spec.batch.len()),
        m: number(spec.m),
        n: number(spec.n),
        k: number(spec.k),
        row_tiles: number(spec.m.div_ceil(CONV_ROWS)),
        column_tiles: number(spec.n.div_ceil(CONV_COLUMNS)),
        alpha: spec.alpha,
        ..MatMulDescriptor::zeroed()
    };
    for (axis, &[extent, a, b, c]) in spec.batch.iter().enumerate() {
        descriptor.batch_dims[axis] = number(extent);
        descriptor.batch_strides[axis] = [a, b, c].map(|stride| stride as i64);
    }
    described("reef_queue_matmul", &descriptor, SHARED_BYTES)
}
