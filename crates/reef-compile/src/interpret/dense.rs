//! Convolutions, products and pools.

use reef_graph::{DType, PoolKind, Unary};
use reef_plan::{
    At, AttentionSpec, ConvSpec, DepthwiseSpec, Epilogue, Masking, MatMulSpec, Matrices, PackedSpec, Packing,
    PoolSpec,
};

use super::{Access, part};
use reef_graph::scalar::{Element, larger, unary};

/// Applies the epilogue to a sum; `operand` is the first operand behind the weights.
fn finish(epilogue: &Epilogue, access: &mut Access<'_, '_>, sum: f64, pixel: usize, channel: usize) -> f64 {
    let mut operand = 2;
    let mut value = sum;
    if epilogue.bias {
        value += access.load_f32(operand, channel);
        operand += 1;
    }
    if let Some(stride) = epilogue.residual_pixel_stride {
        value += access.load_f32(operand, pixel * stride + channel);
    }
    epilogue.activation.map_or(value, |activation| unary(activation, value))
}

/// The input pixel that a tap reads, if it is inside.
pub(super) struct Window {
    out_hw: [usize; 2],
    in_hw: [usize; 2],
    strides: [usize; 2],
    pads: [usize; 2],
    dilations: [usize; 2],
}

impl Window {
    pub(super) fn of(spec: &ConvSpec) -> Window {
        let ConvSpec { out_hw, in_hw, strides, pads, dilations, .. } = *spec;
        Window { out_hw, in_hw, strides, pads, dilations }
    }

    pub(super) fn pixel(&self, row: usize, tap: [usize; 2]) -> Option<usize> {
        let image = row / (self.out_hw[0] * self.out_hw[1]);
        let out = [row / self.out_hw[1] % self.out_hw[0], row % self.out_hw[1]];
        let at = |axis: usize| {
            (out[axis] * self.strides[axis] + tap[axis] * self.dilations[axis])
                .checked_sub(self.pads[axis])
                .filter(|&at| at < self.in_hw[axis])
        };
        Some((image * self.in_hw[0] + at(0)?) * self.in_hw[1] + at(1)?)
    }
}

/// An element of packed weights, which are operand 1.
pub(super) fn weight(access: &mut Access<'_, '_>, packing: Packing, of: Matrices, at: At) -> f64 {
    let At { group, output, k } = at;
    let index = match packing {
        Packing::ConvPanels { width, .. } | Packing::MatrixPanels { width, .. } => {
            let (width, panels) = (width as usize, of.outputs.div_ceil(width as usize));
            ((group * panels + output / width) * of.depth + k) * width + output % width
        }
        Packing::Depthwise => k * of.groups + group,
        Packing::IntegerPanels { .. } => unreachable!("the validator knows that these are no floats"),
        // As the model has them: of one input channel a group, so taps are all there is.
        Packing::Raw => (group * of.outputs + output) * of.depth + k,
        Packing::Own { layout, .. } => {
            let region = access.reads[1];
            let packed = &access.memory.bytes(region.place)[region.offset..region.end()];
            return f64::from(layout.0.read(of, packed, at));
        }
    };
    access.load_f32(1, index)
}

pub(super) fn taps(kernel: [usize; 2]) -> impl Iterator<Item = [usize; 2]> {
    (0..kernel[0]).flat_map(move |y| (0..kernel[1]).map(move |x| [y, x]))
}

pub(super) fn conv(spec: &ConvSpec, access: &mut Access<'_, '_>, packing: Packing, block: usize) {
    let window = Window::of(spec);
    let (inputs, outputs) = (spec.in_c / spec.groups, spec.out_c / spec.groups);
    let (tile, of) = (spec.tile(block), spec.matrices());
    // The last two operands.
    let scale = access.reads.len().saturating_sub(2);
    let normed = |access: &mut Access<'_, '_>, x: f64, channel: usize| {
        let moved = x * access.load_f32(scale, channel) + access.load_f32(scale + 1, channel);
        // As a kernel before this one would store it.
        f64::from(unary(Unary::Relu, moved) as f32)
    };
    for row in tile.row..tile.row + tile.rows {
        for output in tile.column..tile.column + tile.columns {
            let mut sum = 0.0;
            for tap in taps(spec.kernel) {
                let Some(pixel) = window.pixel(row, tap) else { continue };
                let x = pixel * spec.in_pixel_stride + tile.plane * inputs;
                let first = (tap[0] * spec.kernel[1] + tap[1]) * inputs;
                for i in 0..inputs {
                    let at = At { group: tile.plane, output, k: first + i };
                    let mut input = access.load_f32(0, x + i);
                    if spec.normed {
                        input = normed(access, input, i);
                    }
                    sum += input * weight(access, packing, of, at);
                }
            }
            let channel = tile.plane * outputs + output;
            let value = finish(&spec.epilogue, access, sum, row, channel);
            access.store_f32(row * spec.out_pixel_stride + channel, value);
        }
    }
}

/// Pixels of a block that makes `lines` lines of the output's images.
fn pixels(block: usize, lines: usize, all: usize, width: usize) -> std::ops::Range<usize> {
    let lines = part(block, lines, all);
    lines.start * width..lines.end * width
}

pub(super) fn depthwise(spec: &DepthwiseSpec, access: &mut Access<'_, '_>, packing: Packing, block: usize) {
    let DepthwiseSpec { out_hw, in_hw, strides, pads, dilations, .. } = *spec;
    let window = Window { out_hw, in_hw, strides, pads, dilations };
    let of = spec.matrices();
    for row in pixels(block, spec.tile_rows, spec.batch * out_hw[0], out_hw[1]) {
        for channel in 0..spec.channels {
            let mut sum = 0.0;
            for tap in taps(spec.kernel) {
                let Some(pixel) = window.pixel(row, tap) else { continue };
                let at = At { group: channel, output: 0, k: tap[0] * spec.kernel[1] + tap[1] };
                let x = access.load_f32(0, pixel * spec.in_pixel_stride + channel);
                sum += x * weight(access, packing, of, at);
            }
            let value = finish(&spec.epilogue, access, sum, row, channel);
            access.store_f32(row * spec.out_pixel_stride + channel, value);
        }
    }
}

pub(super) fn matmul(spec: &MatMulSpec, access: &mut Access<'_, '_>, block: usize) {
    let tile = spec.tile(block);
    let [a, b, c] = spec.plane_offsets(tile.plane);
    for m in tile.row..tile.row + tile.rows {
        for n in tile.column..tile.column + tile.columns {
            let mut sum = 0.0;
            for k in 0..spec.k {
                sum += access.load_f32(0, a + m * spec.a_strides[0] + k * spec.a_strides[1])
                    * access.load_f32(1, b + k * spec.b_strides[0] + n * spec.b_strides[1]);
            }
            access.store_f32(c + m * spec.c_row_stride + n, f64::from(spec.alpha) * sum);
        }
    }
}

pub(super) fn packed(spec: &PackedSpec, access: &mut Access<'_, '_>, block: usize) {
    let (blocks, bytes) = (spec.blocks_of_row(), spec.row_bytes());
    for column in part(block, spec.tile, spec.n) {
        let mut loaded = |operand: usize, dtype: DType, first: usize, count: usize| -> Vec<f64> {
            (first..first + count).map(|at| access.load(operand, dtype, at).float()).collect()
        };
        let row: Vec<u8> =
            loaded(1, DType::U8, column * bytes, bytes).into_iter().map(|byte| byte as u8).collect();
        let scales = loaded(2, DType::F32, column * blocks, blocks);
        let shifts = if spec.shifts { loaded(3, DType::F32, column * blocks, blocks) } else { vec![] };
        for m in 0..spec.m {
            let x: Vec<f64> = (0..spec.k).map(|at| access.load_f32(0, m * spec.k + at)).collect();
            let value = spec.element(|at| x[at], &row, |block| scales[block], |block| shifts[block]);
            access.store_f32(m * spec.n + column, value);
        }
    }
}

pub(super) fn attention(spec: &AttentionSpec, access: &mut Access<'_, '_>, block: usize) {
    let tiles = spec.m.div_ceil(spec.tile_rows);
    let [q, k, v, mask, y] = spec.plane_offsets(block / tiles);
    let first = block % tiles * spec.tile_rows;
    for m in first..(first + spec.tile_rows).min(spec.m) {
        let mut scores = vec![0.0f64; spec.n];
        for (n, score) in scores.iter_mut().enumerate() {
            for at in 0..spec.depth {
                *score += access.load_f32(0, q + m * spec.q_strides[0] + at * spec.q_strides[1])
                    * access.load_f32(1, k + at * spec.k_strides[0] + n * spec.k_strides[1]);
            }
            *score *= f64::from(spec.alpha);
            if let Some((masking, strides)) = spec.mask {
                let at = mask + m * strides[0] + n * strides[1];
                match masking {
                    Masking::Add => *score += access.load_f32(3, at),
                    Masking::Replace { when, value } if access.load_bool(3, at) == when => {
                        *score = f64::from(value);
                    }
                    Masking::Replace { .. } => {}
                }
            }
        }
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, larger);
        scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
        let sum: f64 = scores.iter().sum();
        for column in 0..spec.width {
            let value = |(n, score): (usize, &f64)| {
                score * access.load_f32(2, v + n * spec.v_strides[0] + column * spec.v_strides[1])
            };
            let value: f64 = scores.iter().enumerate().map(value).sum();
            access.store_f32(y + m * spec.y_row_stride + column, value / sum);
        }
    }
}

pub(super) fn pool(spec: &PoolSpec, access: &mut Access<'_, '_>, block: usize) {
    let pads = [spec.pads[0], spec.pads[1]];
    let PoolSpec { out_hw, in_hw, strides, dilations, .. } = *spec;
    let window = Window { out_hw, in_hw, strides, pads, dilations };
    let padded_hw = [in_hw[0] + spec.pads[0] + spec.pads[2], in_hw[1] + spec.pads[1] + spec.pads[3]];
    let padded = Window { out_hw, in_hw: padded_hw, strides, pads: [0, 0], dilations };
    for row in pixels(block, spec.tile_rows, spec.batch * out_hw[0], out_hw[1]) {
        let counted = taps(spec.kernel).filter(|&tap| padded.pixel(row, tap).is_some()).count();
        for channel in 0..spec.channels {
            let (mut sum, mut largest, mut inside) = (0.0, f64::NEG_INFINITY, 0);
            for pixel in taps(spec.kernel).filter_map(|tap| window.pixel(row, tap)) {
                let value = access.load(0, spec.dtype, pixel * spec.in_pixel_stride + channel).float();
                sum += value;
                largest = larger(largest, value);
                inside += 1;
            }
            let value = match spec.kind {
                PoolKind::Max => largest,
                PoolKind::AvgExcludePad => sum / f64::from(inside),
                PoolKind::AvgIncludePad => sum / counted as f64,
            };
            let to = row * spec.out_pixel_stride + channel;
            match spec.dtype {
                DType::F32 => access.store_f32(to, value),
                // Of nothing it is the least.
                DType::U8 => access.store(DType::U8, to, Element::Int(value.max(0.0) as i64)),
                dtype => access.store(dtype, to, Element::Int(value.max(-128.0) as i64)),
            }
        }
    }
}
