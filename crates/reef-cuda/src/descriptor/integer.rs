//! Products of integers.

use bytemuck::{Pod, Zeroable};
use reef_graph::DType;
use reef_plan::{
    Dequantize, Factors, IntegerConvSpec, IntegerEpilogue, IntegerMatMulSpec, Per, Requantize, Residual,
};

use super::{Described, Operand, Operands, RANK_MAX, described, number, pair};
use crate::cut::{CONV_COLUMNS, CONV_ROWS};
use crate::scalar::Function;

/// Words of four integers along k that a block has in shared memory in a step, and of a row of both operands.
const STEP_WORDS: usize = 16;
const LEFT_PITCH: usize = STEP_WORDS + 4;
const RIGHT_PITCH: usize = CONV_COLUMNS + 8;

/// Bytes of shared memory of a block: two steps, and parts of the sums of rows and columns.
pub(super) const SHARED_BYTES: usize = {
    let stage = CONV_ROWS * LEFT_PITCH + STEP_WORDS * RIGHT_PITCH;
    (2 * stage + 4 * CONV_ROWS + STEP_WORDS * CONV_COLUMNS) * size_of::<u32>()
};

/// How an 8-bit integer is made of a number.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct ToInteger {
    scale: f32,
    zero: i32,
    low: i32,
    high: i32,
}

impl ToInteger {
    fn of(how: Option<Requantize>) -> ToInteger {
        match how {
            None => ToInteger { scale: 1.0, zero: 0, low: 0, high: 0 },
            Some(Requantize { scale, zero, low, high, .. }) => ToInteger { scale, zero, low, high },
        }
    }
}

/// What an 8-bit integer stands for.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct ToNumber {
    scale: f32,
    zero: i32,
}

impl ToNumber {
    fn of(of: Option<Dequantize>) -> ToNumber {
        of.map_or(ToNumber { scale: 1.0, zero: 0 }, |of| ToNumber { scale: of.scale, zero: of.zero })
    }
}

/// What happens to a sum.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct End {
    zeros: [Operand; 2],
    bias: Operand,
    factors: Operand,
    shift: Operand,
    residual: Operand,
    y: Operand,
    zeros_per: [u32; 2],
    is_unsigned: [u32; 2],
    has_bias: u32,
    is_plain: u32,
    factors_per: u32,
    has_shift: u32,
    rounds: u32,
    rounding: ToInteger,
    rounded: ToNumber,
    residual_pixel_stride: u32,
    residual_type: u32,
    residual_of: ToNumber,
    activation: Function,
    requantizes: u32,
    requantize: ToInteger,
    reserved: u32,
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct IntegerConvDescriptor {
    x: Operand,
    weights: Operand,
    end: End,
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
    rows: u32,
    row_tiles: u32,
    column_tiles: u32,
    in_run: u32,
    reserved: u32,
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct IntegerMatMulDescriptor {
    a: Operand,
    b: Operand,
    end: End,
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
    a_in_fours: u32,
    b_in_fours: u32,
}

/// The kernel's number of how many of an operand there are.
fn per(per: Option<Per>) -> u32 {
    match per {
        None => 0,
        Some(Per::Tensor) => 1,
        Some(Per::Each) => 2,
    }
}

/// What happens to a sum, its operands being those behind the factors.
fn end(operands: Operands<'_>, factors: &Factors, epilogue: &IntegerEpilogue) -> End {
    let mut next = 2;
    let zeros = factors.zeros.map(|zero| operands.read_if(zero.is_some(), &mut next));
    let scaled = epilogue.scaled.unwrap_or_default();
    let (rounding, residual) = (scaled.rounding, scaled.residual);
    End {
        zeros,
        bias: operands.read_if(epilogue.bias, &mut next),
        factors: operands.read_if(scaled.factors.is_some(), &mut next),
        shift: operands.read_if(scaled.shift, &mut next),
        residual: operands.read_if(residual.is_some(), &mut next),
        y: operands.write(),
        zeros_per: factors.zeros.map(per),
        is_unsigned: factors.types.map(|dtype| u32::from(dtype == DType::U8)),
        has_bias: u32::from(epilogue.bias),
        is_plain: u32::from(epilogue.scaled.is_none()),
        factors_per: per(scaled.factors),
        has_shift: u32::from(scaled.shift),
        rounds: u32::from(rounding.is_some()),
        rounding: ToInteger::of(rounding.map(|rounding| rounding.to)),
        rounded: ToNumber::of(rounding.map(|rounding| rounding.back)),
        residual_pixel_stride: residual.map_or(0, |residual| number(residual.pixel_stride)),
        residual_type: residual.map_or(0, residual_type),
        residual_of: ToNumber::of(residual.and_then(|residual| residual.of)),
        activation: scaled.activation.map_or(Function::NONE, Function::of),
        requantizes: u32::from(scaled.requantize.is_some()),
        requantize: ToInteger::of(scaled.requantize),
        reserved: 0,
    }
}

/// The kernel's number of a residual's elements: f32, u8, i8.
fn residual_type(residual: Residual) -> u32 {
    match residual.of {
        None => 0,
        Some(of) if of.from == DType::U8 => 1,
        Some(_) => 2,
    }
}

pub(super) fn conv(operands: Operands<'_>, spec: &IntegerConvSpec) -> Described {
    let (conv, of) = (&spec.conv, spec.conv.matrices());
    let inputs = conv.in_c / conv.groups;
    // Pixels begin where so many channels may be read at once.
    let fits = |run: &usize| {
        operands.is_aligned(0) && inputs.is_multiple_of(*run) && conv.in_pixel_stride.is_multiple_of(*run)
    };
    let descriptor = IntegerConvDescriptor {
        x: operands.read(0),
        weights: operands.read(1),
        end: end(operands, &spec.factors, &spec.epilogue),
        in_hw: pair(conv.in_hw),
        in_pixel_stride: number(conv.in_pixel_stride),
        out_hw: pair(conv.out_hw),
        out_pixel_stride: number(conv.out_pixel_stride),
        kernel: pair(conv.kernel),
        strides: pair(conv.strides),
        pads: pair(conv.pads),
        dilations: pair(conv.dilations),
        inputs: number(inputs),
        outputs: number(of.outputs),
        depth: number(conv.depth()),
        rows: number(conv.rows()),
        row_tiles: number(conv.rows().div_ceil(CONV_ROWS)),
        column_tiles: number(of.outputs.div_ceil(CONV_COLUMNS)),
        in_run: number([16, 4].into_iter().find(fits).unwrap_or(1)),
        reserved: 0,
    };
    described("reef_queue_integer_conv", &descriptor, SHARED_BYTES)
}

pub(super) fn matmul(operands: Operands<'_>, spec: &IntegerMatMulSpec) -> Described {
    let product = &spec.product;
    // Whether four neighbours along k of operand `index` may be read at once.
    let in_fours = |index: usize, along_k: usize, across: usize| {
        let fours = |stride: usize| stride.is_multiple_of(4);
        let batch = product.batch.iter().all(|axis| fours(axis[index + 1]));
        u32::from(operands.is_aligned(index) && along_k == 1 && batch && fours(across) && fours(product.k))
    };
    let mut descriptor = IntegerMatMulDescriptor {
        a: operands.read(0),
        b: operands.read(1),
        end: end(operands, &spec.factors, &spec.epilogue),
        a_strides: product.a_strides.map(|stride| stride as i64),
        b_strides: product.b_strides.map(|stride| stride as i64),
        c_row_stride: product.c_row_stride as i64,
        batch_rank: number(product.batch.len()),
        m: number(product.m),
        n: number(product.n),
        k: number(product.k),
        row_tiles: number(product.m.div_ceil(CONV_ROWS)),
        column_tiles: number(product.n.div_ceil(CONV_COLUMNS)),
        a_in_fours: in_fours(0, product.a_strides[1], product.a_strides[0]),
        b_in_fours: in_fours(1, product.b_strides[0], product.b_strides[1]),
        ..IntegerMatMulDescriptor::zeroed()
    };
    for (axis, &[extent, a, b, c]) in product.batch.iter().enumerate() {
        descriptor.batch_dims[axis] = number(extent);
        descriptor.batch_strides[axis] = [a, b, c].map(|stride| stride as i64);
    }
    described("reef_queue_integer_matmul", &descriptor, SHARED_BYTES)
}
