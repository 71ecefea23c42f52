//! Convolutions and products.

use bytemuck::{Pod, Zeroable};
use reef_plan::{ConvSpec, KernelSpec, MatMulSpec, Precision};

use super::{Described, Operand, Operands, RANK_MAX, described, number, pair};
use crate::cut::{CONV_COLUMNS, CONV_COLUMNS_NARROW, CONV_ROWS, STEP_CHUNKS, split_chunks};
use crate::pack::{CHUNK, Chunks, Rows};
use crate::scalar::Function;

/// Products that a block has in shared memory at a time, and what a column of pixels takes.
const CONV_DEPTH: usize = 16;
const CONV_PITCH: usize = CONV_ROWS + 4;
const SHARED_BYTES: usize = CONV_DEPTH * (CONV_PITCH + CONV_COLUMNS) * size_of::<f32>();

/// Steps whose operands a block on tensor cores has in shared memory or on their way.
const STAGES: usize = 4;

/// Bytes of shared memory of a block on tensor cores, whose right operand has elements of so many bytes, and
/// which has so many numbers to norm an element of the left one.
const fn tensor_bytes(columns: usize, right_bytes: usize, norms: usize) -> usize {
    let left_bytes = (CONV_ROWS + norms) * size_of::<f32>();
    let pipeline = STAGES * STEP_CHUNKS * CHUNK * (left_bytes + columns * right_bytes);
    // The sums at the end, in rows that keep off each other's banks.
    let sums = CONV_ROWS * (columns + 8) * size_of::<f32>();
    if pipeline > sums { pipeline } else { sums }
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct ConvDescriptor {
    x: Operand,
    weights: Operand,
    bias: Operand,
    residual: Operand,
    y: Operand,
    parts: Operand,
    scale: Operand,
    shift: Operand,
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
    chunks: u32,
    splits: u32,
    split_chunks: u32,
    in_fours: u32,
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
    a_in_fours: u32,
    b_in_fours: u32,
    reserved: u32,
}

/// Bytes for the parts of tiles that blocks share, until they are added.
pub(crate) fn parts_bytes(kernel: &KernelSpec) -> usize {
    match kernel {
        KernelSpec::Conv(spec) if spec.splits > 1 => {
            spec.blocks() * spec.tile_rows * spec.tile_columns * size_of::<f32>()
        }
        _ => 0,
    }
}

/// Whether all of these are multiples of four elements.
fn are_fours(elements: &[usize]) -> bool {
    elements.iter().all(|count| count.is_multiple_of(4))
}

pub(super) fn conv(operands: Operands<'_>, spec: &ConvSpec) -> Described {
    let mut next = 2;
    let bias = operands.read_if(spec.epilogue.bias, &mut next);
    let residual = operands.read_if(spec.epilogue.residual_pixel_stride.is_some(), &mut next);
    let scale = operands.read_if(spec.normed, &mut next);
    let shift = operands.read_if(spec.normed, &mut next);
    let (of, inputs) = (spec.matrices(), spec.in_c / spec.groups);
    let on_tensor_cores = operands.precision != Precision::F32;
    let weight_stride = if on_tensor_cores { Chunks::columns(of) } else { Rows::stride(of) };
    let chunks = Chunks::count(of);
    let descriptor = ConvDescriptor {
        x: operands.read(0),
        weights: operands.read(1),
        bias,
        residual,
        y: operands.write(),
        parts: operands.in_task(operands.placing.parts()),
        scale,
        shift,
        in_hw: pair(spec.in_hw),
        in_pixel_stride: number(spec.in_pixel_stride),
        out_hw: pair(spec.out_hw),
        out_pixel_stride: number(spec.out_pixel_stride),
        kernel: pair(spec.kernel),
        strides: pair(spec.strides),
        pads: pair(spec.pads),
        dilations: pair(spec.dilations),
        inputs: number(inputs),
        outputs: number(of.outputs),
        depth: number(spec.depth()),
        weight_stride: number(weight_stride),
        rows: number(spec.rows()),
        row_tiles: number(spec.rows().div_ceil(spec.tile_rows)),
        column_tiles: number(of.outputs.div_ceil(spec.tile_columns)),
        has_bias: u32::from(spec.epilogue.bias),
        residual_pixel_stride: spec.epilogue.residual_pixel_stride.map_or(0, number),
        activation: spec.epilogue.activation.map_or(Function::NONE, Function::of),
        chunks: number(chunks),
        splits: number(spec.splits),
        split_chunks: number(split_chunks(chunks, spec.splits)),
        in_fours: u32::from(operands.is_aligned(0) && are_fours(&[inputs, spec.in_pixel_stride])),
    };
    let (function, weight_bytes) = conv_function(operands.precision, spec);
    let shared_bytes = match weight_bytes {
        0 => SHARED_BYTES,
        _ => tensor_bytes(spec.tile_columns, weight_bytes, if spec.normed { 2 } else { 0 }),
    };
    described(function, &descriptor, shared_bytes)
}

/// The function for a convolution, and the bytes of its weights' elements in shared memory; 0 for f32, which
/// does not go by that.
fn conv_function(precision: Precision, spec: &ConvSpec) -> (&'static str, usize) {
    let is_narrow = spec.tile_columns == CONV_COLUMNS_NARROW;
    match (precision, is_narrow, spec.normed) {
        (Precision::F32, _, false) => ("reef_queue_conv", 0),
        (Precision::F32, _, true) => ("reef_queue_conv_normed", 0),
        (Precision::Tf32, false, false) => ("reef_queue_conv_tf32", 4),
        (Precision::Tf32, false, true) => ("reef_queue_conv_tf32_normed", 4),
        (Precision::Tf32, true, false) => ("reef_queue_conv_tf32_narrow", 4),
        (Precision::Tf32, true, true) => ("reef_queue_conv_tf32_narrow_normed", 4),
        (Precision::F16, false, false) => ("reef_queue_conv_f16", 2),
        (Precision::F16, false, true) => ("reef_queue_conv_f16_normed", 2),
        (Precision::F16, true, false) => ("reef_queue_conv_f16_narrow", 2),
        (Precision::F16, true, true) => ("reef_queue_conv_f16_narrow_normed", 2),
        (Precision::Bf16, false, false) => ("reef_queue_conv_bf16", 2),
        (Precision::Bf16, false, true) => ("reef_queue_conv_bf16_normed", 2),
        (Precision::Bf16, true, false) => ("reef_queue_conv_bf16_narrow", 2),
        (Precision::Bf16, true, true) => ("reef_queue_conv_bf16_narrow_normed", 2),
    }
}

/// Whether four neighbours along k of operand `operand` (1 for a, 2 for b) may be read at once.
fn in_fours(along_k: usize, across: usize, spec: &MatMulSpec, operand: usize) -> bool {
    let batch = spec.batch.iter().all(|axis| axis[operand].is_multiple_of(4));
    along_k == 1 && batch && are_fours(&[across, spec.k])
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
        a_in_fours: u32::from(
            operands.is_aligned(0) && in_fours(spec.a_strides[1], spec.a_strides[0], spec, 1),
        ),
        b_in_fours: u32::from(
            operands.is_aligned(1) && in_fours(spec.b_strides[0], spec.b_strides[1], spec, 2),
        ),
        ..MatMulDescriptor::zeroed()
    };
    for (axis, &[extent, a, b, c]) in spec.batch.iter().enumerate() {
        descriptor.batch_dims[axis] = number(extent);
        descriptor.batch_strides[axis] = [a, b, c].map(|stride| stride as i64);
    }
    let tensor_bytes = tensor_bytes(CONV_COLUMNS, size_of::<f32>(), 0);
    match operands.precision {
        Precision::F32 => described("reef_queue_matmul", &descriptor, SHARED_BYTES),
        Precision::Tf32 => described("reef_queue_matmul_tf32", &descriptor, tensor_bytes),
        Precision::F16 => described("reef_queue_matmul_f16", &descriptor, tensor_bytes),
        Precision::Bf16 => described("reef_queue_matmul_bf16", &descriptor, tensor_bytes),
    }
}
