//! Products with weights of few bits, which are unpacked in registers.
//!
//! A word of 32 bits is a lane's: it has neighbouring elements of one block. So that the elements that are
//! unpacked together meet theirs, rows of x are copied to scratch in that order, a few rows at a time, with
//! zeros behind the last; a sum of every block lies beside, where there are shifts. Then four columns at a
//! time go along with every row: sums of a vector of words, times their scales, added up lane by lane. What
//! is added to what depends on neither the rows nor the columns of a block.
//!
//! Polls after every row that is copied, and every [`STEPS`] words of four columns.

use reef_plan::{Isa, Kernel, PackedSpec, Region};

use super::vector::{Leaf, Vector};
use super::{BlockKernel, VectorKernel, bind};
use crate::context::{BlockContext, BlockEnd};
use crate::cut::packed::{LANES_MAX, row_floats, rows_at_once, sums_of_row};

/// Makes a product with packed weights ready.
pub(super) fn prepare(spec: &PackedSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    let reads = kernel.reads.clone();
    let packed = Packed { reads, y: kernel.writes[0], spec: spec.clone() };
    match spec.weights.bits {
        2 => bind(OfBits::<2>(packed), isa),
        4 => bind(OfBits::<4>(packed), isa),
        _ => bind(OfBits::<8>(packed), isa),
    }
}

/// Columns that go along a row at a time.
const COLUMNS: usize = 4;
/// Words of a column between polls.
const STEPS: usize = 2048;
/// Elements of x that are copied between polls.
const COPIED: usize = 8192;
/// Blocks of x that are added up between polls.
const SUMS: usize = 8;

struct Packed {
    spec: PackedSpec,
    reads: Vec<Region>,
    y: Region,
}

/// The same for a number of bits.
struct OfBits<const BITS: u32>(Packed);

/// Where the parts of scratch are, and what is in them.
struct Scratch {
    /// Sums of four columns.
    acc: *mut f32,
    rows: *mut f32,
    /// Floats from one row to the next: of x, then the sums of blocks.
    row: usize,
    x: usize,
}

impl<const BITS: u32> VectorKernel for OfBits<BITS> {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let spec = &self.0.spec;
        let x = row_floats(spec);
        let scratch = Scratch {
            acc: context.scratch.cast(),
            rows: context.scratch.cast::<f32>().wrapping_add(COLUMNS * LANES_MAX),
            row: x + sums_of_row(spec),
            x,
        };
        let first = block * spec.tile;
        let columns = (first, (first + spec.tile).min(spec.n));
        let rows = rows_at_once(spec);
        for row in (0..spec.m).step_by(rows) {
            let rows = (row, (row + rows).min(spec.m));
            // SAFETY: rows and columns are the spec's, and scratch is as large as the cutter says.
            let went = unsafe {
                self.copy_rows::<V>(context, &scratch, rows)
                    && self.columns::<V>(context, &scratch, rows, columns)
            };
            if !went {
                return BlockEnd::Killed;
            }
        }
        BlockEnd::Done
    }
}

impl<const BITS: u32> OfBits<BITS> {
    /// Copies rows of x. False when a poll said stop.
    unsafe fn copy_rows<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        scratch: &Scratch,
        (first, end): (usize, usize),
    ) -> bool {
        let spec = &self.0.spec;
        let x = context.read_ptr(&self.0.reads[0]).cast::<f32>();
        for row in first..end {
            // SAFETY: the row is one of x, and scratch has room for it.
            unsafe {
                let (from, to) = (x.add(row * spec.k), scratch.rows.add((row - first) * scratch.row));
                for begin in (0..scratch.x).step_by(COPIED) {
                    if context.poll.stop() {
                        return false;
                    }
                    let count = COPIED.min(scratch.x - begin);
                    let left = spec.k.saturating_sub(begin).min(count);
                    let from = from.wrapping_add(begin);
                    V::enter(Turn::<BITS> { from, left, to: to.add(begin), count });
                }
                if spec.shifts {
                    let to = to.add(scratch.x);
                    for block in 0..spec.blocks_of_row() {
                        if block % SUMS == 0 && context.poll.stop() {
                            return false;
                        }
                        let begin = block * spec.weights.block;
                        let block_end = (begin + spec.weights.block).min(spec.k);
                        to.add(block).write((begin..block_end).map(|at| *from.add(at)).sum());
                    }
                }
            }
        }
        true
    }

    /// Makes columns of rows that were copied. False when a poll said stop.
    unsafe fn columns<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        scratch: &Scratch,
        rows: (usize, usize),
        (first, end): (usize, usize),
    ) -> bool {
        let whole = first + (end - first) / COLUMNS * COLUMNS;
        // SAFETY: passed on from the caller.
        unsafe {
            for column in (first..whole).step_by(COLUMNS) {
                if !self.few::<V, COLUMNS>(context, scratch, rows, column) {
                    return false;
                }
            }
            (whole..end).all(|column| self.few::<V, 1>(context, scratch, rows, column))
        }
    }

    /// Makes `C` columns from `column` on.
    unsafe fn few<V: Vector, const C: usize>(
        &self,
        context: &BlockContext<'_>,
        scratch: &Scratch,
        (first, end): (usize, usize),
        column: usize,
    ) -> bool {
        let spec = &self.0.spec;
        let (blocks, row_bytes) = (spec.blocks_of_row(), spec.row_bytes());
        let (words, each) = (row_bytes / 4, 32 / BITS as usize);
        let shift = (spec.weights.block / each).trailing_zeros();
        let floats = |at: usize| context.read_ptr(&self.0.reads[at]).cast::<f32>();
        // SAFETY: passed on from the caller; regions are as large as the spec says.
        unsafe {
            let weights = context.read_ptr(&self.0.reads[1]).add(column * row_bytes);
            let scales = floats(2).add(column * blocks);
            let y = context.write_ptr(&self.0.y).cast::<f32>();
            for row in first..end {
                let x = scratch.rows.add((row - first) * scratch.row);
                for word in (0..words).step_by(STEPS) {
                    if context.poll.stop() {
                        return false;
                    }
                    let words = STEPS.min(words - word);
                    V::enter(Sum::<BITS, C> {
                        x: x.add(word * each),
                        weights: weights.add(word * 4),
                        row_bytes,
                        words,
                        scales: scales.add(word >> shift),
                        blocks,
                        left: blocks - (word >> shift),
                        shift,
                        acc: scratch.acc,
                        goes_on: word > 0,
                    });
                }
                let shifts = spec.shifts.then(|| floats(3).add(column * blocks));
                let (sums, to) = (x.add(scratch.x), y.add(row * spec.n + column));
                V::enter(Finish::<C> { acc: scratch.acc, shifts, sums, blocks, to });
            }
        }
        true
    }
}

/// Copies elements so that those at one place of their words lie side by side: `to[place][lane]` of every
/// vector of words.
struct Turn<const BITS: u32> {
    from: *const f32,
    /// How many there are; zeros follow.
    left: usize,
    to: *mut f32,
    count: usize,
}

impl<const BITS: u32> Leaf for Turn<BITS> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let each = 32 / BITS as usize;
        let group = each * V::LANES;
        for begin in (0..self.count).step_by(group) {
            for place in 0..each {
                for lane in 0..V::LANES {
                    let at = begin + lane * each + place;
                    // SAFETY: the caller vouches for `left` elements, and room for `count`, whole groups.
                    unsafe {
                        let value = if at < self.left { *self.from.add(at) } else { 0.0 };
                        self.to.add(begin + place * V::LANES + lane).write(value);
                    }
                }
            }
        }
    }
}

/// Adds up, lane by lane, what words of `C` columns make with x.
struct Sum<const BITS: u32, const C: usize> {
    x: *const f32,
    weights: *const u8,
    /// From one column to the next.
    row_bytes: usize,
    words: usize,
    scales: *const f32,
    /// From one column to the next.
    blocks: usize,
    /// Scales that are left of a column.
    left: usize,
    /// Words of a block, as a power of two.
    shift: u32,
    acc: *mut f32,
    goes_on: bool,
}

impl<const BITS: u32, const C: usize> Leaf for Sum<BITS, C> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let each = 32 / BITS as usize;
        // SAFETY: the caller vouches for words, scales and sums of every column, and for whole vectors of x.
        unsafe {
            let zero = V::splat(0.0);
            let mut acc = [zero; C];
            if self.goes_on {
                for (column, acc) in acc.iter_mut().enumerate() {
                    *acc = V::load(self.acc.add(column * V::LANES));
                }
            }
            for word in (0..self.words).step_by(V::LANES) {
                let count = V::LANES.min(self.words - word);
                let mut words = [V::words(self.weights, 0); C];
                for (column, words) in words.iter_mut().enumerate() {
                    *words = V::words(self.weights.add(column * self.row_bytes + word * 4), count);
                }
                let mut sums = [zero; C];
                for place in 0..each {
                    let x = V::load(self.x.add(word * each + place * V::LANES));
                    for column in 0..C {
                        sums[column] = V::lowest::<BITS>(words[column]).mul_add(x, sums[column]);
                        words[column] = V::next::<BITS>(words[column]);
                    }
                }
                let block = word >> self.shift;
                for column in 0..C {
                    let scales = self.scales.add(column * self.blocks + block);
                    let scales = V::spread(scales, self.left - block, self.shift);
                    acc[column] = sums[column].mul_add(scales, acc[column]);
                }
            }
            for (column, acc) in acc.into_iter().enumerate() {
                acc.store(self.acc.add(column * V::LANES));
            }
        }
    }
}

/// Adds up the lanes of `C` columns, less what shifts make with the sums of blocks of x.
struct Finish<const C: usize> {
    acc: *const f32,
    shifts: Option<*const f32>,
    sums: *const f32,
    blocks: usize,
    to: *mut f32,
}

impl<const C: usize> Leaf for Finish<C> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller vouches for all of them.
        unsafe {
            for column in 0..C {
                let mut sum = V::load(self.acc.add(column * V::LANES));
                if let Some(shifts) = self.shifts {
                    for block in (0..self.blocks).step_by(V::LANES) {
                        let count = V::LANES.min(self.blocks - block);
                        let shifts = V::load_part(shifts.add(column * self.blocks + block), count);
                        let of_x = V::load_part(self.sums.add(block), count);
                        sum = (-shifts).mul_add(of_x, sum);
                    }
                }
                self.to.add(column).write(sum.sum());
            }
        }
    }
}
