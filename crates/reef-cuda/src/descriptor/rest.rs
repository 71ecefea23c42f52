//! Kernels without arithmetic.

use bytemuck::{Pod, Zeroable};
use reef_plan::{GatherSpec, SyntheticSpec};

use super::{Described, Operand, Operands, described, number};

/// Inputs of a made-up kernel at most.
const INPUTS_MAX: usize = 8;

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct GatherDescriptor {
    data: Operand,
    indices: Operand,
    y: Operand,
    slices: u64,
    inner: u64,
    picks: u32,
    extent: u32,
    element_bytes: u32,
    index_bytes: u32,
    tile: u32,
    reserved: u32,
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct SyntheticDescriptor {
    inputs: [Operand; INPUTS_MAX],
    y: Operand,
    lengths: [u64; INPUTS_MAX],
    seed: u64,
    bytes: u64,
    input_count: u32,
    tile: u32,
    polls: u32,
    poll_ns: u32,
}

pub(super) fn gather(operands: Operands<'_>, spec: &GatherSpec) -> Described {
    let descriptor = GatherDescriptor {
        data: operands.read(0),
        indices: operands.read(1),
        y: operands.write(),
        slices: (spec.outer * spec.picks) as u64,
        inner: spec.inner as u64,
        picks: number(spec.picks),
        extent: number(spec.extent),
        element_bytes: number(spec.dtype.bytes()),
        index_bytes: number(spec.index_dtype.bytes()),
        tile: number(spec.tile),
        reserved: 0,
    };
    described("reef_queue_gather", &descriptor, 0)
}

pub(super) fn synthetic(operands: Operands<'_>, spec: &SyntheticSpec) -> Result<Described, String> {
    let reads = &operands.kernel.reads;
    if reads.len() > INPUTS_MAX {
        return Err(format!("a made-up kernel of {} inputs, the device's has {INPUTS_MAX}", reads.len()));
    }
    let mut descriptor = SyntheticDescriptor {
        y: operands.write(),
        seed: spec.seed,
        bytes: spec.bytes as u64,
        input_count: number(reads.len()),
        tile: number(spec.tile_bytes),
        polls: spec.polls,
        poll_ns: spec.poll_ns,
        ..SyntheticDescriptor::zeroed()
    };
    for (index, region) in reads.iter().enumerate() {
        descriptor.inputs[index] = operands.read(index);
        descriptor.lengths[index] = region.bytes as u64;
    }
    Ok(described("reef_queue_synthetic", &descriptor, 0))
}
