//! The specification of resampling along an axis.

use std::ops::Range;

use reef_graph::Taps;

/// Resampling of dense elements along an axis ([`reef_graph::Op::Resample`]).
///
/// Reads x `[outer, taps.extent(), inner]`, writes y `[outer, taps.outputs(), inner]`, both f32: every
/// element is `Σ weight · x` over its taps, in their order, beginning with zero. Rows are `outer · outputs`;
/// block b makes rows `b / column tiles · tile_rows ..` and of each elements `b % column tiles ·
/// tile_columns ..`.
#[derive(Clone, Debug, PartialEq)]
pub struct ResampleSpec {
    /// What is along the axis.
    pub taps: Taps,
    /// Extent of all axes that lie outside of the resampled one.
    pub outer: usize,
    /// Extent of all axes that lie inside of it.
    pub inner: usize,
    /// Rows of a block.
    pub tile_rows: usize,
    /// Elements of a block of each of its rows.
    pub tile_columns: usize,
}

impl ResampleSpec {
    /// Rows of the output.
    pub fn rows(&self) -> usize {
        self.outer * self.taps.outputs()
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.rows().div_ceil(self.tile_rows) * self.inner.div_ceil(self.tile_columns)
    }

    /// Rows that a block makes, and elements of each.
    pub fn tile(&self, block: usize) -> (Range<usize>, Range<usize>) {
        let across = self.inner.div_ceil(self.tile_columns);
        let (row, column) = (block / across * self.tile_rows, block % across * self.tile_columns);
        let (rows, columns) = (self.rows() - row, self.inner - column);
        (row..row + rows.min(self.tile_rows), column..column + columns.min(self.tile_columns))
    }
}
