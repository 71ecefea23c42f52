//! Attention.

use bytemuck::{Pod, Zeroable};
use reef_plan::{AttentionSpec, Masking, Precision};

use super::{CONTROL_BYTES, Described, Operand, Operands, RANK_MAX, described, number};
use crate::cut::{ATTENTION_WIDTH_MAX, CONV_ROWS};

/// Kernels by the width of heads that they are for, as `kernels/attention.cuh` has them.
struct Variant {
    width: usize,
    shared_bytes: usize,
    /// In tf32, f16 and bf16.
    functions: [&'static str; 3],
}

const VARIANTS: [Variant; 3] = [
    Variant {
        width: 64,
        shared_bytes: SHARED_BYTES,
        functions: ["reef_queue_attention_tf32", "reef_queue_attention_f16", "reef_queue_attention_bf16"],
    },
    Variant {
        width: 128,
        shared_bytes: WIDE_SHARED_BYTES,
        functions: [
            "reef_queue_attention_tf32_wide",
            "reef_queue_attention_f16_wide",
            "reef_queue_attention_bf16_wide",
        ],
    },
    Variant {
        width: ATTENTION_WIDTH_MAX,
        shared_bytes: WIDEST_SHARED_BYTES,
        functions: [
            "reef_queue_attention_tf32_widest",
            "reef_queue_attention_f16_widest",
            "reef_queue_attention_bf16_widest",
        ],
    },
];

/// Scores in rows that keep off each other's banks, three numbers of each row.
const SCORES: usize = CONV_ROWS * (64 + 8) + 3 * CONV_ROWS;
/// Three operands of 64 lines, and scores.
pub(super) const SHARED_BYTES: usize = (3 * 64 * 64 + SCORES) * size_of::<f32>();
/// Queries, two pieces of four chunks of 64 lines, and scores.
pub(super) const WIDE_SHARED_BYTES: usize = (64 * 128 + 2 * 4 * 64 * 16 + SCORES) * size_of::<f32>();
/// The same, with pieces of two chunks.
pub(super) const WIDEST_SHARED_BYTES: usize = (64 * 256 + 2 * 2 * 64 * 16 + SCORES) * size_of::<f32>();

/// What every GPU has for a block.
const SHARED_BYTES_MAX: usize = 99 << 10;
const _: () = {
    let mut at = 0;
    while at < VARIANTS.len() {
        assert!(VARIANTS[at].shared_bytes + CONTROL_BYTES as usize <= SHARED_BYTES_MAX);
        at += 1;
    }
};

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct AttentionDescriptor {
    q: Operand,
    k: Operand,
    v: Operand,
    mask: Operand,
    y: Operand,
    q_strides: [i64; 2],
    k_strides: [i64; 2],
    v_strides: [i64; 2],
    mask_strides: [i64; 2],
    y_row_stride: i64,
    batch_strides: [[i64; 5]; RANK_MAX],
    batch_dims: [u32; RANK_MAX],
    batch_rank: u32,
    queries: u32,
    keys: u32,
    depth: u32,
    width: u32,
    row_tiles: u32,
    masking: u32,
    alpha: f32,
    replacement: f32,
    reserved: u32,
}

pub(super) fn attention(operands: Operands<'_>, spec: &AttentionSpec) -> Result<Described, String> {
    let precision = match operands.precision {
        Precision::F32 => return Err("the device has no attention in f32".into()),
        Precision::Tf32 => 0,
        Precision::F16 => 1,
        Precision::Bf16 => 2,
    };
    let fitting = VARIANTS.iter().find(|variant| spec.depth.max(spec.width) <= variant.width);
    let Some(variant) = fitting.filter(|_| spec.batch.len() <= RANK_MAX) else {
        return Err(format!("attention of {} products and {} columns", spec.depth, spec.width));
    };
    let pair = |strides: [usize; 2]| strides.map(|stride| stride as i64);
    // Numbers as the kernel has them.
    let (masking, replacement) = match spec.mask {
        None => (0, 0.0),
        Some((Masking::Add, _)) => (1, 0.0),
        Some((Masking::Replace { when: true, value }, _)) => (2, value),
        Some((Masking::Replace { when: false, value }, _)) => (3, value),
    };
    let mut next = 3;
    let mut descriptor = AttentionDescriptor {
        q: operands.read(0),
        k: operands.read(1),
        v: operands.read(2),
        mask: operands.read_if(spec.mask.is_some(), &mut next),
        y: operands.write(),
        q_strides: pair(spec.q_strides),
        k_strides: pair(spec.k_strides),
        v_strides: pair(spec.v_strides),
        mask_strides: spec.mask.map_or([0; 2], |(_, strides)| pair(strides)),
        y_row_stride: spec.y_row_stride as i64,
        batch_rank: number(spec.batch.len()),
        queries: number(spec.m),
        keys: number(spec.n),
        depth: number(spec.depth),
        width: number(spec.width),
        row_tiles: number(spec.m.div_ceil(CONV_ROWS)),
        masking,
        alpha: spec.alpha,
        replacement,
        ..AttentionDescriptor::zeroed()
    };
    for (axis, &[extent, q, k, v, mask, y]) in spec.batch.iter().enumerate() {
        descriptor.batch_dims[axis] = number(extent);
        descriptor.batch_strides[axis] = [q, k, v, mask, y].map(|stride| stride as i64);
    }
    Ok(described(variant.functions[precision], &descriptor, variant.shared_bytes))
}
