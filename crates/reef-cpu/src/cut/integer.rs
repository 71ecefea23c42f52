//! What kernels of integer products find where in scratch, and how wide their panels are.

/// Columns of a panel of integers.
pub(crate) const INTEGER_COLUMNS: usize = 16;
/// Most rows of any micro-tile.
pub(crate) const INTEGER_ROWS: usize = 12;
/// Most panels of any micro-tile.
pub(crate) const INTEGER_PANELS: usize = 4;
/// Bytes of the sums of the largest micro-tile (12 rows of 2 panels); they are at the start.
pub(crate) const SUMS_BYTES: usize = INTEGER_ROWS * 2 * INTEGER_COLUMNS * 4;
/// Bytes before the rows: sums, zero points and sums of rows, zero points of columns.
pub(crate) const HEAD_BYTES: usize = SUMS_BYTES + 2 * 64 + INTEGER_PANELS * INTEGER_COLUMNS * 4;

/// Bytes of a row as the micro-kernel reads it.
pub(crate) const fn row_bytes(depth: usize) -> usize {
    depth.next_multiple_of(4)
}

/// Bytes of a panel: its steps and the sums of its columns.
pub(crate) const fn panel_bytes(depth: usize) -> usize {
    (depth.div_ceil(4) + 1) * INTEGER_COLUMNS * 4
}

/// Where the panels of a product are: behind its rows.
pub(crate) const fn panels_begin(depth: usize) -> usize {
    HEAD_BYTES + INTEGER_ROWS * row_bytes(depth)
}

/// Bytes of scratch for a convolution's block.
pub(super) const fn conv_scratch(depth: usize) -> usize {
    HEAD_BYTES + INTEGER_ROWS * row_bytes(depth)
}

/// Bytes of scratch for a product's block.
pub(super) const fn matmul_scratch(columns: usize, depth: usize) -> usize {
    panels_begin(depth) + columns.div_ceil(INTEGER_COLUMNS) * panel_bytes(depth)
}

/// Where a recurrent network whose weights are integers finds things, behind [`HEAD_BYTES`].
#[derive(Clone, Copy)]
pub(crate) struct RecurrentParts {
    /// Both states of the rows at work, `[row][padded]` f32 each.
    pub(crate) states: [usize; 2],
    /// The states as bytes, rows as the micro-kernel reads them.
    pub(crate) bytes: usize,
    /// What a step of a row's bytes is worth, f32.
    pub(crate) scales: usize,
    /// Products of all gates, `[row][gate][padded]` f32.
    pub(crate) products: usize,
    /// Where all that ends.
    pub(crate) end: usize,
}

/// For so many gates and sequences of a block, of which a micro-tile's are at work at a time.
pub(crate) fn recurrent_parts(
    gates: usize,
    padded: usize,
    hidden: usize,
    tile_rows: usize,
) -> RecurrentParts {
    let rows = tile_rows.min(INTEGER_ROWS);
    let state = rows * padded * 4;
    let bytes = HEAD_BYTES.next_multiple_of(64) + 2 * state;
    let scales = bytes + (rows * row_bytes(hidden)).next_multiple_of(64);
    let products = scales + (INTEGER_ROWS * 4).next_multiple_of(64);
    RecurrentParts {
        states: [bytes - 2 * state, bytes - state],
        bytes,
        scales,
        products,
        end: products + rows * gates * padded * 4,
    }
}
