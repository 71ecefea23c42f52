//! What blocks need of their compute unit's scratch.

use reef_graph::Along;
use reef_plan::{AlongSpec, KernelSpec, RecurrentSpec, RowFunction, SelectionSpec};

use super::{attention, integer, packed};

/// Elements that an element-wise kernel works on at a time.
const ELEMENTWISE_CHUNK: usize = 512;

/// Bytes of scratch of one block.
pub(super) fn bytes(kernel: &KernelSpec) -> usize {
    match kernel {
        // The accumulators of a micro-tile between polls, and the addresses of 12 rows' window taps.
        KernelSpec::Conv(spec) => (2 << 10) + spec.kernel[0] * spec.kernel[1] * 12 * 8,
        KernelSpec::IntegerConv(spec) => integer::conv_scratch(spec.conv.depth()),
        KernelSpec::IntegerMatMul(spec) => integer::matmul_scratch(spec.product.tile_columns, spec.product.k),
        KernelSpec::MatMul(spec) => (16 << 10) + (spec.tile_columns.next_multiple_of(32) + 16) * spec.k * 4,
        KernelSpec::Elementwise(spec) => (spec.program.len() + 1) * ELEMENTWISE_CHUNK * 8,
        // The sums of eight pixels.
        KernelSpec::Depthwise(spec) => 8 * spec.channels.next_multiple_of(16) * 4,
        KernelSpec::Softmax(spec) => spec.axis.extent.next_multiple_of(16) * 4,
        // A slab of partial results.
        KernelSpec::Reduce(_) => 256 * 4,
        KernelSpec::LayerNorm(spec) => spec.len.next_multiple_of(16) * 4,
        KernelSpec::Recurrent(spec) => recurrent(spec),
        KernelSpec::Along(spec) => along(spec),
        KernelSpec::Vision(spec) => super::vision::scratch(spec),
        KernelSpec::Selection(spec) => selection(spec),
        KernelSpec::Packed(spec) => packed::scratch_bytes(spec),
        KernelSpec::Attention(spec) => attention::parts(spec, spec.tile_rows).end,
        KernelSpec::Pool(_)
        | KernelSpec::Gather(_)
        | KernelSpec::Take(_)
        | KernelSpec::Put(_)
        | KernelSpec::MaxPool(_)
        | KernelSpec::Resample(_)
        | KernelSpec::Trees(_)
        | KernelSpec::Host(_)
        | KernelSpec::Synthetic(_) => 0,
    }
}

/// Two tables of addresses; two states, a gate that waits, and the products of all gates for each of the rows
/// that are at work at a time.
fn recurrent(spec: &RecurrentSpec) -> usize {
    let padded = spec.hidden.next_multiple_of(spec.panel_width.max(1));
    if spec.integers.is_some() {
        return integer::recurrent_parts(spec.cell.gates(), padded, spec.hidden, spec.tile_rows).end;
    }
    2 * 128 + spec.tile_rows.min(12) * (3 + spec.cell.gates()) * padded * 4
}

/// Whether the `k` first of so many elements are found by sorting all; else a heap keeps the best so far.
pub(crate) const fn sorts(k: usize, extent: usize) -> bool {
    k > extent / 4
}

/// Elements with their places: a heap, or all of them and a second list to merge into.
fn along(spec: &AlongSpec) -> usize {
    let RowFunction::Along(Along::TopK { k, .. }) = spec.function else { return 0 };
    let entry = if spec.dtype.bytes() == 8 { 16 } else { 8 };
    entry * if sorts(k, spec.extent) { 2 * spec.extent } else { k }
}

fn selection(spec: &SelectionSpec) -> usize {
    match spec {
        SelectionSpec::NonZero(_) | SelectionSpec::Compress(_) => 0,
        // The order of the slices, and a second list to merge into.
        SelectionSpec::Unique(spec) => 2 * spec.extent * 4,
        // A heap of the boxes of a class, and those that were selected.
        SelectionSpec::NonMaxSuppression(spec) => (spec.boxes + spec.per_class) * 4,
    }
}
