//! What goes along an axis, and resampling.

use bytemuck::{Pod, Zeroable};
use reef_graph::{Along, DType, Reduce};
use reef_plan::{AlongSpec, ResampleSpec, RowFunction};

use super::{Described, Operand, Operands, THREADS, described, number};
use crate::cut;

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct AlongDescriptor {
    x: Operand,
    y: Operand,
    places: Operand,
    rows: u64,
    inner: u64,
    infinity: u64,
    extent: u32,
    kind: u32,
    number: u32,
    element_bytes: u32,
    fold: u32,
    count: u32,
    largest: u32,
    last: u32,
    product: u32,
    exclusive: u32,
    reverse: u32,
    wide: u32,
    tile: u32,
    reserved: u32,
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct ResampleDescriptor {
    x: Operand,
    y: Operand,
    rows: u64,
    inner: u64,
    extent: u32,
    outputs: u32,
    taps: u32,
    outside: f32,
    tile_rows: u32,
    tile_columns: u32,
}

/// What each thread of a block may have found: what it is ordered by, and its place.
const SHARED_BYTES: usize = THREADS as usize * (size_of::<u64>() + size_of::<u32>());

pub(super) fn along(operands: Operands<'_>, spec: &AlongSpec) -> Described {
    let mut descriptor = AlongDescriptor {
        x: operands.read(0),
        y: operands.write(),
        rows: spec.rows() as u64,
        inner: spec.inner as u64,
        infinity: infinity(spec.dtype),
        extent: number(spec.extent),
        number: match spec.dtype {
            dtype if dtype.is_float() => 2,
            DType::I64 | DType::I32 | DType::I16 | DType::I8 => 1,
            _ => 0,
        },
        element_bytes: number(spec.dtype.bytes()),
        wide: u32::from(cut::is_wide(spec)),
        tile: number(spec.tile),
        ..AlongDescriptor::zeroed()
    };
    match spec.function {
        RowFunction::Along(Along::ArgExtreme { largest, last }) => {
            (descriptor.kind, descriptor.largest, descriptor.last) = (0, u32::from(largest), u32::from(last));
        }
        RowFunction::Along(Along::TopK { k, largest }) => {
            (descriptor.kind, descriptor.count, descriptor.largest) = (1, number(k), u32::from(largest));
            descriptor.places = operands.write_at(1);
        }
        RowFunction::Along(Along::Scan { product, exclusive, reverse }) => {
            (descriptor.kind, descriptor.product) = (2, u32::from(product));
            (descriptor.exclusive, descriptor.reverse) = (u32::from(exclusive), u32::from(reverse));
        }
        RowFunction::Fold(reduce) => {
            descriptor.kind = 3;
            descriptor.fold = match reduce {
                Reduce::Sum => 0,
                Reduce::Mean => 1,
                Reduce::Max => 2,
                Reduce::Min => 3,
                Reduce::Prod => 4,
                Reduce::SumSquare => 5,
            };
        }
    }
    described("reef_queue_along", &descriptor, SHARED_BYTES)
}

/// The bits of what is infinite.
fn infinity(dtype: DType) -> u64 {
    match dtype {
        DType::F16 => 0x7C00,
        DType::BF16 => 0x7F80,
        DType::F32 => 0x7F80_0000,
        DType::F64 => 0x7FF0_0000_0000_0000,
        _ => 0,
    }
}

pub(super) fn resample(operands: Operands<'_>, spec: &ResampleSpec) -> Described {
    let taps = &spec.taps;
    let descriptor = ResampleDescriptor {
        x: operands.read(0),
        y: operands.write(),
        rows: spec.rows() as u64,
        inner: spec.inner as u64,
        extent: number(taps.extent()),
        outputs: number(taps.outputs()),
        taps: number(taps.count()),
        outside: taps.outside(),
        tile_rows: number(spec.tile_rows),
        tile_columns: number(spec.tile_columns),
    };
    let mut made = described("reef_queue_resample", &descriptor, 0);
    let (mut begins, mut from, mut weights) = (vec![0u32], vec![], vec![]);
    for output in 0..taps.outputs() {
        let (indices, by) = taps.of(output);
        from.extend_from_slice(indices);
        weights.extend_from_slice(by);
        begins.push(number(from.len()));
    }
    made.descriptor.extend_from_slice(bytemuck::cast_slice(&begins));
    made.descriptor.extend_from_slice(bytemuck::cast_slice(&from));
    made.descriptor.extend_from_slice(bytemuck::cast_slice(&weights));
    made
}
