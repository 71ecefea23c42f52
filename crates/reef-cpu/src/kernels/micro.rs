//! The micro-kernel of convolutions and matrix products: a tile of rows × columns in registers.
//!
//! A sum of products is one chain of fused multiply-adds in a fixed order per output element, whatever tile
//! the element is in: that is what makes results independent of how a kernel is cut. Long sums are made in
//! chunks of about [`Vector::STEPS`] steps; between two of them the accumulators lie in scratch, and the
//! caller polls.

use super::vector::{Leaf, Vector};

/// Vectors of a packed panel of weights.
pub(super) const PANEL_VECTORS: usize = 2;

/// Most rows of any instruction set's micro-tile.
pub(super) const ROWS_MAX: usize = 12;

/// Bytes of scratch for the accumulators of the largest micro-tile (12 rows of 2 vectors of 64 bytes).
pub(super) const ACC_BYTES: usize = ROWS_MAX * PANEL_VECTORS * 64;

/// One chunk of a micro-tile's sums.
///
/// A row of the left operand is cut into `segments` runs of contiguous floats; `addresses` holds where they
/// start, `[segment][row]`. The chunk takes `len` floats of each segment, from `offset` on.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    /// Where the runs start: `[segment][row]`.
    pub(super) addresses: *const *const f32,
    /// Runs.
    pub(super) segments: usize,
    /// Floats to skip at the start of every run.
    pub(super) offset: usize,
    /// Floats to take of every run.
    pub(super) len: usize,
    /// The weights of the chunk's first step: a panel's `[step][panel width]`.
    pub(super) weights: *const f32,
    /// Floats from one panel to the next; for micro-tiles wider than a panel.
    pub(super) panel_stride: usize,
    /// The sums, `[row][column]`, dense.
    pub(super) acc: *mut f32,
    /// Start at zero rather than at `acc`.
    pub(super) first: bool,
    /// Sum the chunk by itself and add it to `acc`: the rounding errors of a long sum then grow with the
    /// number of chunks and their length, not with their product. Where chunks begin must not depend on the
    /// tile.
    pub(super) apart: bool,
}

/// Runs `chunk` for a micro-tile of `rows` rows and `vectors` vectors.
///
/// # Safety
/// Inside `V::enter`; the chunk's addresses are valid; (rows, vectors) is one that [`vectors_at_once`]
/// allows.
#[inline(always)]
pub(super) unsafe fn run<V: Vector>(rows: usize, vectors: usize, chunk: &Chunk) {
    // The tables are written out so that every size is a function of its own, chosen by one jump.
    macro_rules! sizes {
        ($($vectors:literal: $($rows:literal)*;)*) => {
            match (vectors, rows) {
                // SAFETY: passed on from the caller.
                $($(($vectors, $rows) => unsafe { V::enter(Micro::<$rows, $vectors>(chunk)) },)*)*
                _ => unreachable!("no micro-tile has {rows} rows of {vectors} vectors"),
            }
        };
    }
    match V::ROWS {
        12 => sizes! { 2: 12 11 10 9 8 7 6 5 4 3 2 1; 1: 12 11 10 9 8 7 6 5 4 3 2 1; 8: 1 2 3; },
        6 => sizes! { 2: 6 5 4 3 2 1; 1: 6 5 4 3 2 1; 8: 1; },
        _ => sizes! { 2: 4 3 2 1; 1: 4 3 2 1; 8: 1; },
    }
}

/// How many vectors of columns the next micro-tile takes, `columns` being left: one when they fit, four
/// panels when there are so few rows that two vectors would wait for each other, else a panel.
#[inline(always)]
pub(super) fn vectors_at_once<V: Vector>(rows: usize, columns: usize) -> usize {
    if columns <= V::LANES {
        1
    } else if rows * 4 <= V::ROWS && columns > 3 * PANEL_VECTORS * V::LANES {
        4 * PANEL_VECTORS
    } else {
        PANEL_VECTORS
    }
}

/// Steps between polls of a micro-tile of so many vectors: the wide ones, which have few rows, are bound by
/// how fast the weights arrive.
#[inline(always)]
pub(super) fn steps_at_once<V: Vector>(vectors: usize) -> usize {
    if vectors > PANEL_VECTORS { V::STEPS / 2 } else { V::STEPS }
}

struct Micro<'a, const ROWS: usize, const VECTORS: usize>(&'a Chunk);

impl<const ROWS: usize, const VECTORS: usize> Leaf for Micro<'_, ROWS, VECTORS> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let chunk = self.0;
        // SAFETY: the caller vouches for the chunk's addresses; `acc` holds ROWS · VECTORS vectors, every
        // segment `offset + len` floats, and every panel as many steps as all segments together.
        unsafe {
            let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
            if !chunk.first && !chunk.apart {
                for row in 0..ROWS {
                    for vector in 0..VECTORS {
                        sums[row][vector] = V::load(chunk.acc.add((row * VECTORS + vector) * V::LANES));
                    }
                }
            }
            let mut weights = chunk.weights;
            for segment in 0..chunk.segments {
                let mut at = [std::ptr::null::<f32>(); ROWS];
                for row in 0..ROWS {
                    at[row] = (*chunk.addresses.add(segment * ROWS + row)).add(chunk.offset);
                }
                for step in 0..chunk.len {
                    let mut factors = [V::splat(0.0); VECTORS];
                    for vector in 0..VECTORS {
                        let panel = vector / PANEL_VECTORS * chunk.panel_stride;
                        let inside = vector % PANEL_VECTORS * V::LANES;
                        factors[vector] = V::load(weights.add(panel + inside));
                    }
                    for row in 0..ROWS {
                        let x = V::splat(*at[row].add(step));
                        for vector in 0..VECTORS {
                            sums[row][vector] = x.mul_add(factors[vector], sums[row][vector]);
                        }
                    }
                    weights = weights.add(PANEL_VECTORS * V::LANES);
                }
            }
            if !chunk.first && chunk.apart {
                for row in 0..ROWS {
                    for vector in 0..VECTORS {
                        let before = V::load(chunk.acc.add((row * VECTORS + vector) * V::LANES));
                        sums[row][vector] = before + sums[row][vector];
                    }
                }
            }
            for row in 0..ROWS {
                for vector in 0..VECTORS {
                    sums[row][vector].store(chunk.acc.add((row * VECTORS + vector) * V::LANES));
                }
            }
        }
    }
}
