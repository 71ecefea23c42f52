//! Resampling along an axis: the specification, and the whole of it on a host.

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

/// All blocks of a kernel, over bytes: for devices that have no code of their own for it. `x` and `y` are its
/// operands.
pub fn resample(spec: &ResampleSpec, x: &[u8], y: &mut [u8]) {
    let float = |at: usize| f32::from_le_bytes(x[at * 4..][..4].try_into().expect("an element's bytes"));
    let mut sums = vec![0.0f32; spec.inner];
    for (row, y) in y.chunks_exact_mut(spec.inner * 4).take(spec.rows()).enumerate() {
        let first = row / spec.taps.outputs() * spec.taps.extent();
        let (from, weights) = spec.taps.of(row % spec.taps.outputs());
        sums.fill(0.0);
        for (&from, &weight) in from.iter().zip(weights) {
            for (at, sum) in sums.iter_mut().enumerate() {
                let x = match usize::try_from(from) {
                    Ok(from) => float((first + from) * spec.inner + at),
                    Err(_) => spec.taps.outside(),
                };
                *sum += weight * x;
            }
        }
        for (bytes, sum) in y.chunks_exact_mut(4).zip(&sums) {
            bytes.copy_from_slice(&sum.to_le_bytes());
        }
    }
}
