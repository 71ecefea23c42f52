//! Attention.

use bytemuck::{Pod, Zeroable};
use reef_plan::{AttentionSpec, Masking, Precision};

use super::{Described, Operand, Operands, RANK_MAX, described, number};
use crate::cut::{ATTENTION_WIDTH_MAX, CONV_ROWS};

/// Three operands of 64 lines, scores in rows that keep off each other's banks, three numbers of each row.
const SHARED_BYTES: usize =
    (3 * 64 * ATTENTION_WIDTH_MAX + CONV_ROWS * (64 + 8) + 3 * CONV_ROWS) * size_of::<f32>();

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
    let function = match operands.precision {
        Precision::F32 => return Err("the device has no attention in f32".into()),
        Precision::Tf32 => "reef_queue_attention_tf32",
        Precision::F16 => "reef_queue_attention_f16",
        Precision::Bf16 => "reef_queue_attention_bf16",
    };
    if spec.depth.max(spec.width) > ATTENTION_WIDTH_MAX || spec.batch.len() > RANK_MAX {
        return Err(format!("attention of {} products and {} columns", spec.depth, spec.width));
    }
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
    Ok(described(function, &descriptor, SHARED_BYTES))
}
