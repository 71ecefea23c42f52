//! Resampling along an axis: vectors of the elements that lie inside of it, a tap after the other. Polls
//! before every span of rows, and where there are very many taps between them.

use reef_plan::{Isa, Kernel, Region, ResampleSpec};

use super::vector::{Leaf, Vector};
use super::{BlockKernel, VectorKernel, bind};
use crate::context::{BlockContext, BlockEnd, Poll};

/// Makes a resampling ready.
pub(super) fn prepare(spec: &ResampleSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    let most = spec.taps.most().max(1);
    bind(Resample { spec: spec.clone(), most, x: kernel.reads[0], y: kernel.writes[0] }, isa)
}

struct Resample {
    spec: ResampleSpec,
    /// Most taps of an output, at least 1.
    most: usize,
    x: Region,
    y: Region,
}

/// Vectors, or single elements where rows are shorter than one, that are read between polls, roughly.
const WORK_MAX: usize = 2048;

impl VectorKernel for Resample {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let spec = &self.spec;
        let (rows, columns) = spec.tile(block);
        let (x, y) = (context.read_ptr(&self.x).cast::<f32>(), context.write_ptr(&self.y).cast::<f32>());
        let slab = ((WORK_MAX / self.most).max(1) * V::LANES).min(columns.len());
        let lanes = if spec.inner < V::LANES { 1 } else { V::LANES };
        let span = (WORK_MAX / self.most / slab.div_ceil(lanes)).max(1);
        for row in rows.clone().step_by(span) {
            for column in columns.clone().step_by(slab) {
                if context.poll.stop() {
                    return BlockEnd::Killed;
                }
                let rows = (row, (row + span).min(rows.end));
                let columns = (column, (column + slab).min(columns.end));
                let poll = (self.most > WORK_MAX).then_some(&context.poll);
                // SAFETY: rows and columns are the kernel's; the validator checked the regions.
                if !unsafe { V::enter(Span { spec, x, y, rows, columns, poll }) } {
                    return BlockEnd::Killed;
                }
            }
        }
        BlockEnd::Done
    }
}

/// Some elements of some rows.
struct Span<'a> {
    spec: &'a ResampleSpec,
    x: *const f32,
    y: *mut f32,
    rows: (usize, usize),
    columns: (usize, usize),
    /// Asked between taps, if there are very many.
    poll: Option<&'a Poll<'a>>,
}

impl Leaf for Span<'_> {
    /// False when the poll said stop.
    type Out = bool;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> bool {
        let (taps, inner) = (&self.spec.taps, self.spec.inner);
        let (outputs, outside) = (taps.outputs(), taps.outside());
        let (mut first, mut output) = (self.rows.0 / outputs * taps.extent() * inner, self.rows.0 % outputs);
        for row in self.rows.0..self.rows.1 {
            let (from, weights) = taps.of(output);
            // SAFETY: taps are elements of the axis, columns of a row; x and y have rows of `inner`.
            unsafe {
                let (x, y) = (self.x.add(first), self.y.add(row * inner));
                let done = match inner < V::LANES {
                    true => self.single(x, y, (from, weights), outside),
                    false => self.vectors::<V>(x, y, (from, weights), outside),
                };
                if !done {
                    return false;
                }
            }
            output += 1;
            if output == outputs {
                output = 0;
                first += taps.extent() * inner;
            }
        }
        true
    }
}

impl Span<'_> {
    /// The columns of a row, `x` being the axis' first element.
    #[inline(always)]
    unsafe fn vectors<V: Vector>(
        &self,
        x: *const f32,
        y: *mut f32,
        (from, weights): (&[i32], &[f32]),
        outside: f32,
    ) -> bool {
        let inner = self.spec.inner;
        for column in (self.columns.0..self.columns.1).step_by(V::LANES) {
            let count = (self.columns.1 - column).min(V::LANES);
            // SAFETY: the caller vouches for taps and columns.
            unsafe {
                let mut sum = V::splat(0.0);
                for part in (0..from.len()).step_by(WORK_MAX) {
                    if self.poll.is_some_and(Poll::stop) {
                        return false;
                    }
                    for tap in part..from.len().min(part + WORK_MAX) {
                        let value = match from[tap] {
                            ..0 => V::splat(outside),
                            at if count == V::LANES => V::load(x.add(at as usize * inner + column)),
                            at => V::load_part(x.add(at as usize * inner + column), count),
                        };
                        sum = value.mul_add(V::splat(weights[tap]), sum);
                    }
                }
                sum.store_part(y.add(column), count);
            }
        }
        true
    }

    /// The columns of a row that is shorter than a vector.
    #[inline(always)]
    unsafe fn single(
        &self,
        x: *const f32,
        y: *mut f32,
        (from, weights): (&[i32], &[f32]),
        outside: f32,
    ) -> bool {
        for column in self.columns.0..self.columns.1 {
            let mut sum = 0.0;
            for part in (0..from.len()).step_by(WORK_MAX) {
                if self.poll.is_some_and(Poll::stop) {
                    return false;
                }
                for tap in part..from.len().min(part + WORK_MAX) {
                    let value = match from[tap] {
                        ..0 => outside,
                        // SAFETY: the caller vouches for taps and columns.
                        at => unsafe { *x.add(at as usize * self.spec.inner + column) },
                    };
                    sum += value * weights[tap];
                }
            }
            // SAFETY: as above.
            unsafe { y.add(column).write(sum) };
        }
        true
    }
}
