//! Micro-tiles and rates of the instruction sets, and the cuts that they lead to.
//!
//! The number of blocks of a kernel trades the overhead of a block against the time that compute units idle
//! at the end of a stage: with overhead o, total time T and c compute units, blocks of `√(o·T/(c·t))` lose
//! least when t of a block is lost at the end. The cut never changes results: kernels sum in an order
//! that their specification fixes.

use reef_base::limits::BLOCK_CPU_NS_MAX;
use reef_plan::{Isa, RecurrentSpec, ResampleSpec, Target};

use super::integer::INTEGER_COLUMNS;

/// Time lost per block: claiming it, setting up, a cold start of the pipeline.
const BLOCK_OVERHEAD_NS: f64 = 500.0;
/// Shortest block that is worth it.
const BLOCK_NS_MIN: f64 = 5_000.0;
/// Longest block.
const BLOCK_NS_MAX: f64 = BLOCK_CPU_NS_MAX as f64;
/// Share of a block that is lost at the end of a stage, because compute units are disturbed or start late.
const TAIL_LOSS: f64 = 0.2;
/// Share of the lesser of arithmetic and operand traffic that does not hide behind the other.
const OVERLAP_LOSS: f64 = 0.1;
/// Bytes per nanosecond of one core that streams through memory.
const STREAM_BYTES_PER_NS: f64 = 12.0;
/// Bytes per nanosecond of one core that reads packed weights or activations again.
const OPERAND_BYTES_PER_NS: f64 = 16.0;
/// What a core can hold of its operands between blocks.
const CACHE_BYTES: usize = 512 << 10;
/// Bytes per nanosecond of one core that reads weights again and again that its cache holds.
const CACHED_BYTES_PER_NS: f64 = 100.0;
/// The same of weights that it does not hold, but the cores' common cache does.
const FAR_BYTES_PER_NS: f64 = 50.0;
/// Simple operations that a gate takes for one unit.
const GATE_OPERATIONS: f64 = 3.0;
/// Time of a step of a recurrent network beside its work.
const STEP_OVERHEAD_NS: f64 = 100.0;
/// Longest run of steps of a recurrent network: what a block loses that is killed at its end.
const RUN_NS_MAX: f64 = 100_000.0;
/// Most kernels that a direction of a recurrent network is cut into.
const RUNS_MAX: usize = 512;
/// What the columns of a block of a resampling are a multiple of.
const RESAMPLE_COLUMNS: usize = 64;
/// Largest packed operand of a matrix product's block, in bytes of scratch.
const MATMUL_SCRATCH_BYTES: usize = 256 << 10;

/// Output channels of one packed panel: columns of the micro-kernel's tile.
pub(crate) const fn panel_width(isa: Isa) -> usize {
    match isa {
        Isa::Avx2 => 16,
        Isa::Avx512 => 32,
        _ => 8,
    }
}

/// Rows of the micro-kernel's tile.
const fn micro_rows(isa: Isa) -> usize {
    match isa {
        Isa::Avx2 => 6,
        Isa::Avx512 => 12,
        _ => 4,
    }
}

/// Nanoseconds that one compute unit needs for `flops` of a convolution or matrix product.
pub(super) fn compute_ns(isa: Isa, flops: f64) -> f64 {
    let flops_per_ns = if isa == Isa::Portable { 11.0 } else { 90.0 };
    flops / flops_per_ns
}

/// What a product of two integers costs, of floats. Four take as long as one of floats where the machine has
/// an instruction for them, which the target does not say of AVX2.
pub(super) const fn integer_cost(isa: Isa) -> f64 {
    match isa {
        Isa::Avx512 => 0.3,
        _ => 1.0,
    }
}

/// Nanoseconds that one compute unit needs to move `bytes` and to do `operations` simple operations on them.
pub(super) fn stream_ns(isa: Isa, bytes: f64, operations: f64) -> f64 {
    let operations_per_ns = if isa == Isa::Portable { 0.7 } else { 4.0 };
    (bytes / STREAM_BYTES_PER_NS).max(operations / operations_per_ns)
}

/// Best number of blocks for a kernel that takes `total_ns` on one compute unit.
pub(super) fn block_count(target: Target, total_ns: f64) -> usize {
    let cus = target.cus.max(1);
    if total_ns < BLOCK_NS_MIN {
        return 1;
    }
    let best =
        (BLOCK_OVERHEAD_NS * total_ns / cus as f64 / TAIL_LOSS).sqrt().clamp(BLOCK_NS_MIN, BLOCK_NS_MAX);
    if total_ns < 2.0 * best {
        return cus.min((total_ns / (BLOCK_NS_MIN / 2.0)) as usize).max(1);
    }
    ((total_ns / best / cus as f64) as usize).max(1) * cus
}

/// Units per block when `units` take `total_ns` together; a multiple of `granule` unless that leaves one
/// block.
pub(super) fn split(target: Target, units: usize, total_ns: f64, granule: usize) -> usize {
    let blocks = block_count(target, total_ns).min(units).max(1);
    units.div_ceil(blocks).next_multiple_of(granule.max(1)).clamp(1, units.max(1))
}

/// What the tiling of a convolution depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConvWork {
    /// Output pixels.
    pub rows: usize,
    /// Output channels of a group.
    pub columns: usize,
    /// Products summed for an output.
    pub depth: usize,
    /// Channel groups.
    pub groups: usize,
    /// Bytes of a group's input that an output pixel brings in.
    pub row_bytes: f64,
}

/// The tiles of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConvTiles {
    /// Output pixels of a block.
    pub rows: usize,
    /// Output channels of a block.
    pub columns: usize,
    /// Whether successive blocks walk over channels first.
    pub columns_inner: bool,
}

impl ConvWork {
    /// Estimated time of the whole kernel on one compute unit.
    pub fn total_ns(&self, isa: Isa) -> f64 {
        self.block_ns(isa, self.rows, self.columns) * self.groups as f64
    }

    /// Time of a block of `rows` by `columns`: arithmetic and operands overlap for the most part.
    fn block_ns(&self, isa: Isa, rows: usize, columns: usize) -> f64 {
        let height = micro_rows(isa) as f64;
        let (full, rest) = (rows / micro_rows(isa), rows % micro_rows(isa));
        // A micro-tile loads a row of weights for every depth, as long as a row of products takes; fewer than
        // three rows leave the arithmetic units waiting.
        let rest_rows = if rest == 0 { 0.0 } else { rest.max(3) as f64 + 1.0 };
        let micro_rows = full as f64 * height + rest_rows * height / (height + 1.0);
        let width = columns.next_multiple_of(panel_width(isa)) as f64;
        let compute = compute_ns(isa, 2.0 * micro_rows * width * self.depth as f64);
        let operands =
            (width * self.depth as f64 * 4.0 + rows as f64 * self.row_bytes) / OPERAND_BYTES_PER_NS;
        compute.max(operands) + OVERLAP_LOSS * compute.min(operands) + BLOCK_OVERHEAD_NS
    }

    /// The tiles with the least estimated time for a stage of this kernel alone.
    pub fn tiles(&self, target: Target) -> ConvTiles {
        let isa = target.isa;
        let mut best = (f64::INFINITY, self.rows.max(1), self.columns.next_multiple_of(panel_width(isa)));
        for columns in cuts(self.columns.div_ceil(panel_width(isa))) {
            for rows in row_cuts(self.rows, isa) {
                let score = self.score(target, rows, columns * panel_width(isa));
                if score < best.0 {
                    best = (score, rows, columns * panel_width(isa));
                }
            }
        }
        let (_, rows, columns) = best;
        let weights = self.columns * self.depth * 4;
        let inputs = self.rows as f64 * self.row_bytes;
        let weights_again = self.rows.div_ceil(rows) as f64 * weights as f64;
        let inputs_again = self.columns.div_ceil(columns) as f64 * inputs;
        ConvTiles { rows, columns, columns_inner: weights <= CACHE_BYTES || weights_again <= inputs_again }
    }

    fn score(&self, target: Target, rows: usize, columns: usize) -> f64 {
        let cus = target.cus.max(1);
        let (row_tiles, column_tiles) = (self.rows.div_ceil(rows), self.columns.div_ceil(columns));
        let (last_rows, last_columns) =
            (self.rows - (row_tiles - 1) * rows, self.columns - (column_tiles - 1) * columns);
        let ns = |rows, columns| self.block_ns(target.isa, rows, columns);
        let wide = (column_tiles - 1) as f64;
        let line = |rows| wide * ns(rows, columns) + ns(rows, last_columns);
        let total = self.groups as f64 * ((row_tiles - 1) as f64 * line(rows) + line(last_rows));
        let blocks = row_tiles * column_tiles * self.groups;
        let (longest, mean) = (ns(rows, columns), total / blocks as f64);
        let idle = (blocks.next_multiple_of(cus) - blocks) as f64 * mean / cus as f64;
        // Nothing gains as much from a long block as what waits for its end loses.
        let tail = TAIL_LOSS * longest + 20.0 * (longest - BLOCK_NS_MAX).max(0.0);
        let shortest = if blocks > cus { BLOCK_NS_MIN } else { BLOCK_NS_MIN / 2.0 };
        let short = blocks as f64 * (shortest - mean).max(0.0);
        (total / cus as f64 + idle).max(longest) + tail + short
    }
}

/// The distinct sizes of even cuts of `units`.
fn cuts(units: usize) -> Vec<usize> {
    let mut sizes: Vec<usize> = Vec::new();
    let mut parts = 1;
    while parts <= units {
        let size = units.div_ceil(parts);
        if sizes.last() != Some(&size) {
            sizes.push(size);
        }
        // The next number of parts that gives a smaller size.
        parts = if size > 1 { (units.div_ceil(size - 1)).max(parts + 1) } else { units + 1 };
    }
    sizes
}

/// Candidate row tiles: whole micro-tiles, or an even cut into a few.
fn row_cuts(rows: usize, isa: Isa) -> Vec<usize> {
    let mut sizes: Vec<usize> =
        cuts(rows.div_ceil(micro_rows(isa))).into_iter().map(|size| size * micro_rows(isa)).collect();
    sizes.extend((1..=8).map(|parts| rows.div_ceil(parts)));
    sizes.iter_mut().for_each(|size| *size = (*size).clamp(1, rows.max(1)));
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.dedup();
    sizes
}

/// Sequences of a block of a recurrent network that takes `ns` altogether: a part for each compute unit, no
/// more than a micro-tile has rows.
pub(super) fn recurrent_rows(target: Target, batch: usize, ns: f64) -> usize {
    let parts = if ns < BLOCK_NS_MIN { 1 } else { target.cus.max(1) };
    batch.div_ceil(parts).clamp(1, micro_rows(target.isa))
}

/// Estimated time that a step of a recurrent network takes for so many sequences at once.
pub(super) fn recurrent_step_ns(isa: Isa, spec: &RecurrentSpec, rows: usize) -> f64 {
    let weights = spec.matrices();
    let (panel, size, cost) = match spec.integers {
        Some(_) => (INTEGER_COLUMNS, 1, integer_cost(isa)),
        None => (panel_width(isa), 4, 1.0),
    };
    let width = weights.outputs.next_multiple_of(panel) * weights.groups;
    let bytes = width * weights.depth * size;
    let bytes_per_ns = if bytes <= CACHE_BYTES { CACHED_BYTES_PER_NS } else { FAR_BYTES_PER_NS };
    let products = compute_ns(isa, cost * 2.0 * (rows * width * weights.depth) as f64);
    let gates = stream_ns(isa, 0.0, GATE_OPERATIONS * (rows * width) as f64);
    products.max(bytes as f64 / bytes_per_ns) + gates + STEP_OVERHEAD_NS
}

/// Steps that one kernel takes, when one takes so long: as even as they can be, and no longer than a block
/// should be.
pub(super) fn run_of_steps(steps: usize, step_ns: f64) -> usize {
    let most = (RUN_NS_MAX / step_ns).max(1.0) as usize;
    let runs = steps.div_ceil(most).min(RUNS_MAX);
    steps.div_ceil(runs.max(1)).max(1)
}

/// A resampling that takes `ns`, cut: into whole rows unless there are too few.
pub(super) fn resample(target: Target, spec: ResampleSpec, ns: f64) -> ResampleSpec {
    let (blocks, inner) = (block_count(target, ns), spec.inner);
    let across = blocks.div_ceil(spec.rows().max(1)).min(inner.div_ceil(RESAMPLE_COLUMNS)).max(1);
    let columns = inner.div_ceil(across).next_multiple_of(RESAMPLE_COLUMNS).min(inner).max(1);
    let rows = spec.rows().div_ceil(blocks.div_ceil(across)).max(1);
    ResampleSpec { tile_rows: rows, tile_columns: columns, ..spec }
}

/// Rows and columns of a block of a batched matrix product.
pub(super) fn matmul_tiles(
    target: Target,
    planes: usize,
    m: usize,
    n: usize,
    k: usize,
    total_ns: f64,
) -> (usize, usize) {
    let isa = target.isa;
    let width_max = (MATMUL_SCRATCH_BYTES / 4 / k.max(1)) / 32 * 32;
    let mut columns = n.min(width_max.max(32));
    let wanted = block_count(target, total_ns).div_ceil(planes.max(1));
    let column_tiles = n.div_ceil(columns);
    let row_tiles = wanted.div_ceil(column_tiles).clamp(1, m.div_ceil(micro_rows(isa)).max(1));
    let rows = m.div_ceil(row_tiles).next_multiple_of(micro_rows(isa)).min(m).max(1);
    let missing = wanted.div_ceil(m.div_ceil(rows) * column_tiles);
    if missing > 1 {
        columns = columns.div_ceil(missing).next_multiple_of(panel_width(isa)).min(columns);
    }
    (rows, columns.max(1))
}

/// Rows of a block of attention. Each block packs all keys and values, which at least two micro-tiles should
/// use.
pub(super) fn attention_rows(target: Target, planes: usize, m: usize, total_ns: f64) -> usize {
    let height = micro_rows(target.isa);
    let wanted = block_count(target, total_ns).div_ceil(planes.max(1));
    let tiles = wanted.clamp(1, m.div_ceil(2 * height).max(1));
    m.div_ceil(tiles).next_multiple_of(height).min(m).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(cus: usize) -> Target {
        Target::cpu(Isa::Avx512, cus)
    }

    #[test]
    fn small_kernels_fill_the_compute_units_and_no_more() {
        assert_eq!(block_count(target(2), 2_000.0), 1);
        assert_eq!(block_count(target(2), 15_000.0), 2);
        assert_eq!(block_count(target(4), 2_000_000.0) % 4, 0);
        let blocks = block_count(target(2), 10_000_000.0);
        assert!((32..=500).contains(&blocks), "{blocks}");
    }

    #[test]
    fn cuts_are_even_and_complete() {
        assert_eq!(cuts(7), [7, 4, 3, 2, 1]);
        assert_eq!(cuts(1), [1]);
        assert_eq!(split(target(2), 10, 1e6, 4) % 4, 0);
        assert_eq!(split(target(2), 3, 1e6, 4), 3);
    }

    #[test]
    fn tiles_are_whole_panels_and_avoid_thin_remainders() {
        for (rows, columns, depth) in [(49, 512, 4608), (12544, 64, 147), (196, 1024, 256), (1, 4096, 25088)]
        {
            let work = ConvWork { rows, columns, depth, groups: 1, row_bytes: 4.0 * depth as f64 / 9.0 };
            let tiles = work.tiles(target(2));
            assert_eq!(tiles.columns % 32, 0);
            let last = rows - (rows.div_ceil(tiles.rows) - 1) * tiles.rows;
            assert!(last * 3 >= tiles.rows, "{rows}: {tiles:?}");
            let blocks = rows.div_ceil(tiles.rows) * columns.div_ceil(tiles.columns);
            assert!(blocks >= 4, "{blocks}");
        }
    }

    #[test]
    fn matrix_products_respect_scratch() {
        let (rows, columns) = matmul_tiles(target(2), 12, 128, 128, 32, 150_000.0);
        assert_eq!((rows, columns), (128, 128));
        let (_, columns) = matmul_tiles(target(2), 1, 64, 4096, 4096, 1e6);
        assert_eq!(columns, 32);
    }
}
