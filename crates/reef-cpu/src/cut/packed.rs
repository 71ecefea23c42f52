//! Scratch of products with packed weights: how rows of x lie in it.

use reef_plan::PackedSpec;

/// Lanes of the widest vector.
pub(crate) const LANES_MAX: usize = 16;

/// Bytes of rows of x that are copied at a time, and rows at most.
const ROWS_BYTES: usize = 128 << 10;
const ROWS_MAX: usize = 8;

/// Floats of a row of x: a whole number of vectors of words.
pub(crate) fn row_floats(spec: &PackedSpec) -> usize {
    (spec.row_bytes() / 4).next_multiple_of(LANES_MAX) * (32 / spec.weights.bits as usize)
}

/// Floats of the sums of a row's blocks.
pub(crate) fn sums_of_row(spec: &PackedSpec) -> usize {
    if spec.shifts { spec.blocks_of_row().next_multiple_of(LANES_MAX) } else { 0 }
}

/// Rows of x that are copied at a time.
pub(crate) fn rows_at_once(spec: &PackedSpec) -> usize {
    (ROWS_BYTES / (4 * row_floats(spec)).max(1)).clamp(1, ROWS_MAX).min(spec.m.max(1))
}

/// Sums of four columns, and the rows.
pub(super) fn scratch_bytes(spec: &PackedSpec) -> usize {
    4 * (4 * LANES_MAX + rows_at_once(spec) * (row_floats(spec) + sums_of_row(spec)))
}
