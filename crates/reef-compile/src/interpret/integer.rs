//! Products of integers and their epilogues.

use reef_graph::DType;
use reef_graph::scalar::{Element, unary};
use reef_plan::integer::packed_offset;
use reef_plan::{
    At, Factors, IntegerConvSpec, IntegerEpilogue, IntegerMatMulSpec, IntegerPanels, Packing, Residual,
};

use super::Access;
use super::dense::{Window, taps};

/// The operands behind the factors, by position.
struct Operands {
    zeros: [Option<usize>; 2],
    bias: usize,
    factors: usize,
    shift: usize,
    residual: usize,
}

impl Operands {
    fn of(factors: &Factors, epilogue: &IntegerEpilogue) -> Operands {
        let mut next = 2;
        let mut take = |present: bool| {
            let at = next;
            next += usize::from(present);
            at
        };
        let zeros = factors.zeros.map(|zero| zero.map(|_| take(true)));
        let scaled = epilogue.scaled.unwrap_or_default();
        let (bias, factors, shift) =
            (take(epilogue.bias), take(scaled.factors.is_some()), take(scaled.shift));
        Operands { zeros, bias, factors, shift, residual: take(false) }
    }
}

/// A zero point of a factor.
fn zero(
    factors: &Factors,
    operands: &Operands,
    access: &mut Access<'_, '_>,
    side: usize,
    index: usize,
) -> i64 {
    match (operands.zeros[side], factors.zeros[side]) {
        (Some(operand), Some(per)) => access.load(operand, factors.types[side], per.at(index)).int(),
        _ => 0,
    }
}

/// Where a result is: its place in the output, its row (pixel) and its channel.
struct Place {
    to: usize,
    row: usize,
    channel: usize,
}

/// Applies the epilogue to a sum and stores what comes of it. Each step is rounded to f32.
fn finish(
    epilogue: &IntegerEpilogue,
    operands: &Operands,
    access: &mut Access<'_, '_>,
    sum: i64,
    place: &Place,
) {
    let mut sum = sum as i32;
    if epilogue.bias {
        sum = sum.wrapping_add(access.load(operands.bias, DType::I32, place.channel).int() as i32);
    }
    let Some(scaled) = epilogue.scaled else {
        access.store(DType::I32, place.to, Element::Int(i64::from(sum)));
        return;
    };
    let mut value = sum as f32;
    if let Some(per) = scaled.factors {
        value *= access.load_f32(operands.factors, per.at(place.channel)) as f32;
    }
    if scaled.shift {
        value += access.load_f32(operands.shift, place.channel) as f32;
    }
    if let Some(rounding) = scaled.rounding {
        value = rounding.apply(value);
    }
    if let Some(Residual { pixel_stride, of }) = scaled.residual {
        let at = place.row * pixel_stride + place.channel;
        value += match of {
            None => access.load_f32(operands.residual, at) as f32,
            Some(of) => of.apply(access.load(operands.residual, of.from, at).int() as i32),
        };
    }
    if let Some(activation) = scaled.activation {
        value = unary(activation, f64::from(value)) as f32;
    }
    match scaled.requantize {
        None => access.store_f32(place.to, f64::from(value)),
        Some(requantize) => {
            access.store(requantize.to, place.to, Element::Int(i64::from(requantize.apply(value))));
        }
    }
}

pub(super) fn conv(
    spec: &IntegerConvSpec,
    access: &mut Access<'_, '_>,
    packing: Packing,
    block: usize,
) -> Result<(), String> {
    let Packing::IntegerPanels { width, .. } = packing else {
        return Err("its weights are not panels of integers".into());
    };
    let (conv, operands) = (&spec.conv, Operands::of(&spec.factors, &spec.epilogue));
    let panels = IntegerPanels { of: conv.matrices(), width: width as usize };
    let (window, offset) = (Window::of(conv), i64::from(packed_offset(spec.factors.types[1])));
    let (inputs, outputs) = (conv.in_c / conv.groups, conv.out_c / conv.groups);
    let tile = conv.tile(block);
    for row in tile.row..tile.row + tile.rows {
        let zero_x = zero(&spec.factors, &operands, access, 0, row);
        for output in tile.column..tile.column + tile.columns {
            let channel = tile.plane * outputs + output;
            let zero_w = zero(&spec.factors, &operands, access, 1, channel);
            let mut sum = 0;
            for tap in taps(conv.kernel) {
                let Some(pixel) = window.pixel(row, tap) else { continue };
                let x = pixel * conv.in_pixel_stride + tile.plane * inputs;
                let first = (tap[0] * conv.kernel[1] + tap[1]) * inputs;
                for i in 0..inputs {
                    let at = panels.place(At { group: tile.plane, output, k: first + i });
                    let weight = access.load(1, DType::I8, at).int() + offset;
                    sum += (access.load(0, spec.factors.types[0], x + i).int() - zero_x) * (weight - zero_w);
                }
            }
            let place = Place { to: row * conv.out_pixel_stride + channel, row, channel };
            finish(&spec.epilogue, &operands, access, sum, &place);
        }
    }
    Ok(())
}

pub(super) fn matmul(spec: &IntegerMatMulSpec, access: &mut Access<'_, '_>, block: usize) {
    let (product, operands) = (&spec.product, Operands::of(&spec.factors, &spec.epilogue));
    let tile = product.tile(block);
    let [a, b, c] = product.plane_offsets(tile.plane);
    let [type_a, type_b] = spec.factors.types;
    for m in tile.row..tile.row + tile.rows {
        let zero_a = zero(&spec.factors, &operands, access, 0, tile.plane * product.m + m);
        for n in tile.column..tile.column + tile.columns {
            let zero_b = zero(&spec.factors, &operands, access, 1, tile.plane * product.n + n);
            let mut sum = 0;
            for k in 0..product.k {
                let left = a + m * product.a_strides[0] + k * product.a_strides[1];
                let right = b + k * product.b_strides[0] + n * product.b_strides[1];
                let (left, right) = (access.load(0, type_a, left).int(), access.load(1, type_b, right).int());
                sum += (left - zero_a) * (right - zero_b);
            }
            let place = Place { to: c + m * product.c_row_stride + n, row: m, channel: n };
            finish(&spec.epilogue, &operands, access, sum, &place);
        }
    }
}
