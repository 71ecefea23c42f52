//! What attention finds where in scratch.

use reef_plan::AttentionSpec;

/// Keys whose scores are there at a time.
pub(crate) const KEYS: usize = 128;
/// Most products and columns of attention in one kernel: panels of a chunk's keys stay in a core's own
/// caches.
pub(super) const DEPTH_MAX: usize = 512;
/// Most rows of a micro-tile.
const ROWS: usize = 12;
/// Widest panel of any instruction set.
const PANEL: usize = 32;

/// Offsets in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionParts {
    /// Addresses of a group's rows.
    pub(crate) table: usize,
    /// By what sums are scaled down, a float for each row of a group.
    pub(crate) factors: usize,
    /// `[row][KEYS]`, of a group.
    pub(crate) scores: usize,
    /// `[row][depth]`, of a group whose rows are no neighbours in q.
    pub(crate) rows: usize,
    /// A chunk's columns of k.
    pub(crate) keys: usize,
    /// A chunk's rows of v.
    pub(crate) values: usize,
    /// Sums of a tile's rows, those of a group together.
    pub(crate) sums: usize,
    /// Largest score of each row, and the sum of exponentials.
    pub(crate) largest: usize,
    pub(crate) totals: usize,
    /// Where all that ends.
    pub(crate) end: usize,
}

/// For a block of so many rows. The sums of a micro-tile are at the start.
pub(crate) fn parts(spec: &AttentionSpec, tile_rows: usize) -> AttentionParts {
    let mut end = ROWS * PANEL * 4;
    let mut take = |floats: usize| {
        let begin = end;
        end = (end + floats * 4).next_multiple_of(64);
        begin
    };
    let width = spec.width.next_multiple_of(PANEL);
    let parts = AttentionParts {
        table: take(ROWS * 2),
        factors: take(ROWS),
        scores: take(ROWS * KEYS),
        rows: take(ROWS * spec.depth),
        keys: take(KEYS * spec.depth),
        values: take(KEYS * width),
        sums: take(tile_rows * width),
        largest: take(tile_rows),
        totals: take(tile_rows),
        end: 0,
    };
    AttentionParts { end, ..parts }
}
