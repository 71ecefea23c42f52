//! Reductions, softmax and layer normalisation.

use bytemuck::{Pod, Zeroable};
use reef_graph::Reduce;
use reef_plan::spec::elements;
use reef_plan::{LayerNormSpec, LoopDim, ReduceSpec, SoftmaxSpec};

use super::{Described, Operand, Operands, RANK_MAX, THREADS, described, number};

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Nest {
    in_strides: [i64; RANK_MAX],
    out_strides: [i64; RANK_MAX],
    dims: [u32; RANK_MAX],
    rank: u32,
    reserved: u32,
}

impl Nest {
    fn of(axes: &[LoopDim]) -> Nest {
        let mut nest = Nest { rank: number(axes.len()), ..Nest::zeroed() };
        for (axis, dim) in axes.iter().enumerate() {
            nest.dims[axis] = number(dim.extent);
            nest.in_strides[axis] = dim.in_stride as i64;
            nest.out_strides[axis] = dim.out_stride as i64;
        }
        nest
    }
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct ReduceDescriptor {
    x: Operand,
    y: Operand,
    kept: Nest,
    reduced: Nest,
    kept_count: u64,
    reduced_count: u64,
    kind: u32,
    tile: u32,
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct SoftmaxDescriptor {
    x: Operand,
    y: Operand,
    rows: Nest,
    row_count: u64,
    in_stride: i64,
    out_stride: i64,
    extent: u32,
    is_log: u32,
    tile: u32,
    reserved: u32,
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct LayerNormDescriptor {
    x: Operand,
    scale: Operand,
    shift: Operand,
    residual: Operand,
    y: Operand,
    rows: u32,
    length: u32,
    epsilon: f32,
    has_shift: u32,
    has_residual: u32,
    tile: u32,
}

/// Shared memory in which the threads of a block add up what they have.
const FOLD_BYTES: usize = THREADS as usize * size_of::<f32>();

pub(super) fn reduce(operands: Operands<'_>, spec: &ReduceSpec) -> Described {
    let descriptor = ReduceDescriptor {
        x: operands.read(0),
        y: operands.write(),
        kept: Nest::of(&spec.kept),
        reduced: Nest::of(&spec.reduced),
        kept_count: elements(&spec.kept) as u64,
        reduced_count: elements(&spec.reduced) as u64,
        kind: match spec.reduce {
            Reduce::Sum => 0,
            Reduce::Mean => 1,
            Reduce::Max => 2,
            Reduce::Min => 3,
            Reduce::Prod => 4,
            Reduce::SumSquare => 5,
        },
        tile: number(spec.tile),
    };
    described("reef_queue_reduce", &descriptor, 0)
}

pub(super) fn softmax(operands: Operands<'_>, spec: &SoftmaxSpec) -> Described {
    let descriptor = SoftmaxDescriptor {
        x: operands.read(0),
        y: operands.write(),
        rows: Nest::of(&spec.rows),
        row_count: elements(&spec.rows) as u64,
        in_stride: spec.axis.in_stride as i64,
        out_stride: spec.axis.out_stride as i64,
        extent: number(spec.axis.extent),
        is_log: u32::from(spec.log),
        tile: number(spec.tile),
        reserved: 0,
    };
    described("reef_queue_softmax", &descriptor, FOLD_BYTES)
}

pub(super) fn layer_norm(operands: Operands<'_>, spec: &LayerNormSpec) -> Described {
    let mut next = 2;
    let shift = operands.read_if(spec.shift, &mut next);
    let residual = operands.read_if(spec.residual, &mut next);
    let descriptor = LayerNormDescriptor {
        x: operands.read(0),
        scale: operands.read(1),
        shift,
        residual,
        y: operands.write(),
        rows: number(spec.rows),
        length: number(spec.len),
        epsilon: spec.epsilon,
        has_shift: u32::from(spec.shift),
        has_residual: u32::from(spec.residual),
        tile: number(spec.tile),
    };
    described("reef_queue_layer_norm", &descriptor, FOLD_BYTES)
}
