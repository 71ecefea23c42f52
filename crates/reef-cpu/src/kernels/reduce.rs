//! Reductions: by columns when kept elements are neighbours, by rows when many reduced ones are, else one by
//! one.
//!
//! By columns and one by one, each result is folded in the order of the reduced axes. By rows, four vectors
//! of partial results are folded along every run and joined at the end. Which of them is used depends on
//! the spec only. Polls every few thousand elements.

use reef_graph::Reduce;
use reef_plan::{Isa, Kernel, ReduceSpec, Region};

use super::nest::{Nest, Piece};
use super::vector::{Leaf, Vector};
use super::{BlockKernel, VectorKernel, bind};
use crate::context::{BlockContext, BlockEnd};

/// Makes a reduction ready.
pub(super) fn prepare(spec: &ReduceSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    let dims = |axes: &[reef_plan::LoopDim]| axes.iter().map(|axis| axis.extent).collect::<Vec<_>>();
    let inner = |axes: &[reef_plan::LoopDim]| axes.iter().map(|axis| axis.in_stride as isize).collect();
    let outer = spec.kept.iter().map(|axis| axis.out_stride as isize).collect();
    let kept = Nest::new(&dims(&spec.kept), &[inner(&spec.kept), outer]);
    let reduced = Nest::new(&dims(&spec.reduced), &[inner(&spec.reduced)]);
    let way = if kept.step(IN) == 1 && kept.line() > 1 {
        Way::Columns
    } else if reduced.step(IN) == 1 && reduced.line() > SHORT {
        Way::Rows
    } else {
        Way::Single
    };
    let (x, y) = (kernel.reads[0], kernel.writes[0]);
    bind(Reduction { spec: spec.clone(), kept, reduced, way, x, y }, isa)
}

/// Operands of the kept nest: input and output.
const IN: usize = 0;
const OUT: usize = 1;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Columns,
    Rows,
    Single,
}

struct Reduction {
    spec: ReduceSpec,
    kept: Nest,
    reduced: Nest,
    way: Way,
    x: Region,
    y: Region,
}

/// Longest run of neighbours that is folded sooner one by one than by four vectors.
const SHORT: usize = 24;

/// Elements folded between polls by columns (rows of a slab) and otherwise.
const COLUMN_STEPS: usize = 128;
const SLAB: usize = 256;
const ROW_STEPS: usize = 8192;
const SINGLE_STEPS: usize = 2048;

impl VectorKernel for Reduction {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let elements = self.kept.lines() * self.kept.line();
        let end = ((block + 1) * self.spec.tile).min(elements);
        let mut at = block * self.spec.tile;
        while at < end {
            let columns = if self.way == Way::Columns { SLAB } else { 1 };
            // Pieces of one line only: whole lines at once would need a scratch of another shape.
            let piece = Piece::next(&self.kept, at, end, 1, columns);
            // SAFETY: the piece is a part of the kept axes; scratch holds a slab of partial results.
            unsafe {
                if !self.fold::<V>(context, &piece) {
                    return BlockEnd::Killed;
                }
                self.finish::<V>(context, &piece);
            }
            at += piece.elements();
        }
        BlockEnd::Done
    }
}

impl Reduction {
    /// The result of folding nothing.
    fn identity(&self) -> f32 {
        match self.spec.reduce {
            Reduce::Sum | Reduce::Mean | Reduce::SumSquare => 0.0,
            Reduce::Prod => 1.0,
            Reduce::Max => f32::NEG_INFINITY,
            Reduce::Min => f32::INFINITY,
        }
    }

    /// Folds everything into the partial results in scratch. False when the poll said stop.
    unsafe fn fold<V: Vector>(&self, context: &BlockContext<'_>, piece: &Piece) -> bool {
        let acc = context.scratch.cast::<f32>();
        let partial = if self.way == Way::Rows { 4 * V::LANES } else { piece.columns };
        let offset = self.kept.line_offset(IN, piece.line) + piece.column as isize * self.kept.step(IN);
        let steps = match self.way {
            Way::Columns => COLUMN_STEPS,
            Way::Rows => ROW_STEPS,
            Way::Single => SINGLE_STEPS,
        };
        // SAFETY: scratch holds the partial results; offsets are those of the spec's axes.
        unsafe {
            (0..partial).for_each(|at| acc.add(at).write(self.identity()));
            let x = context.read_ptr(&self.x).cast::<f32>().offset(offset);
            let (stride, length) = (self.reduced.step(IN), self.reduced.line());
            for line in 0..self.reduced.lines() {
                let run = x.offset(self.reduced.line_offset(IN, line));
                for first in (0..length).step_by(steps) {
                    if context.poll.stop() {
                        return false;
                    }
                    let from = run.offset(first as isize * stride);
                    let count = steps.min(length - first);
                    let reduce = self.spec.reduce;
                    match self.way {
                        Way::Columns => {
                            V::enter(Columns { reduce, from, count, stride, columns: piece.columns, acc });
                        }
                        Way::Rows => V::enter(Row { reduce, from, count, identity: self.identity(), acc }),
                        Way::Single => acc.write(single(reduce, *acc, from, count, stride)),
                    }
                }
            }
        }
        true
    }

    /// Stores a piece's results.
    unsafe fn finish<V: Vector>(&self, context: &BlockContext<'_>, piece: &Piece) {
        let acc = context.scratch.cast::<f32>();
        let step = self.kept.step(OUT);
        let offset = self.kept.line_offset(OUT, piece.line) + piece.column as isize * step;
        let count = (self.reduced.lines() * self.reduced.line()) as f32;
        // SAFETY: the partial results are set; the piece is a part of the output.
        unsafe {
            if self.way == Way::Rows {
                let ordered = matches!(self.spec.reduce, Reduce::Max | Reduce::Min);
                if ordered {
                    V::enter(Join { reduce: self.spec.reduce, acc });
                }
                for at in 1..if ordered { V::LANES } else { 4 * V::LANES } {
                    acc.write(scalar(self.spec.reduce, *acc, *acc.add(at), false));
                }
            }
            let y = context.write_ptr(&self.y).cast::<f32>().offset(offset);
            for column in 0..piece.columns {
                let value = *acc.add(column);
                let value = if self.spec.reduce == Reduce::Mean { value / count } else { value };
                y.offset(column as isize * step).write(value);
            }
        }
    }
}

/// Folds `count` elements, `stride` apart, one after the other.
unsafe fn single(reduce: Reduce, start: f32, from: *const f32, count: usize, stride: isize) -> f32 {
    let mut value = start;
    for at in 0..count as isize {
        // SAFETY: the caller vouches for the elements.
        value = scalar(reduce, value, unsafe { *from.offset(at * stride) }, true);
    }
    value
}

/// Folds `x`, an element (`fresh`) or a partial result, into `value`.
#[inline(always)]
fn scalar(reduce: Reduce, value: f32, x: f32, fresh: bool) -> f32 {
    match reduce {
        Reduce::Sum | Reduce::Mean => value + x,
        Reduce::SumSquare if fresh => x * x + value,
        Reduce::SumSquare => value + x,
        Reduce::Prod => value * x,
        Reduce::Max if x > value || x.is_nan() => x,
        Reduce::Min if x < value || x.is_nan() => x,
        Reduce::Max | Reduce::Min => value,
    }
}

/// Folds a vector of elements into partial results.
#[inline(always)]
fn fold<V: Vector>(reduce: Reduce, value: V, x: V) -> V {
    match reduce {
        Reduce::Sum | Reduce::Mean => value + x,
        Reduce::SumSquare => x.mul_add(x, value),
        Reduce::Prod => value * x,
        Reduce::Max => value.max(x),
        Reduce::Min => value.min(x),
    }
}

/// `acc[column] = fold(acc[column], from[step · stride + column])` for every step and column.
struct Columns {
    reduce: Reduce,
    from: *const f32,
    count: usize,
    stride: isize,
    columns: usize,
    acc: *mut f32,
}

impl Leaf for Columns {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for column in (0..self.columns).step_by(V::LANES) {
            let lanes = (self.columns - column).min(V::LANES);
            // SAFETY: the caller vouches for the columns of every step and of the partial results.
            unsafe {
                let mut value = V::load_part(self.acc.add(column), lanes);
                let from = self.from.add(column);
                if lanes == V::LANES {
                    for step in 0..self.count as isize {
                        value = fold(self.reduce, value, V::load(from.offset(step * self.stride)));
                    }
                } else {
                    for step in 0..self.count as isize {
                        let x = V::load_part(from.offset(step * self.stride), lanes);
                        value = fold(self.reduce, value, x);
                    }
                }
                value.store_part(self.acc.add(column), lanes);
            }
        }
    }
}

/// Folds four vectors of partial results into the first, where the order makes no difference.
struct Join {
    reduce: Reduce,
    acc: *mut f32,
}

impl Leaf for Join {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller vouches for four vectors of partial results.
        unsafe {
            let mut value = V::load(self.acc);
            for vector in 1..4 {
                value = fold(self.reduce, value, V::load(self.acc.add(vector * V::LANES)));
            }
            value.store(self.acc);
        }
    }
}

/// Folds a run of contiguous elements into four vectors of partial results.
struct Row {
    reduce: Reduce,
    from: *const f32,
    count: usize,
    identity: f32,
    acc: *mut f32,
}

impl Leaf for Row {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let group = 4 * V::LANES;
        let whole = self.count - self.count % group;
        // SAFETY: the caller vouches for the elements; there are four vectors of partial results.
        unsafe {
            let mut values = [V::splat(0.0); 4];
            for vector in 0..4 {
                values[vector] = V::load(self.acc.add(vector * V::LANES));
            }
            for at in (0..whole).step_by(group) {
                for vector in 0..4 {
                    let x = V::load(self.from.add(at + vector * V::LANES));
                    values[vector] = fold(self.reduce, values[vector], x);
                }
            }
            let mut rest = [self.identity; 64];
            for at in whole..self.count {
                rest[at - whole] = *self.from.add(at);
            }
            for vector in 0..4 {
                let x = V::load(rest.as_ptr().add(vector * V::LANES));
                fold(self.reduce, values[vector], x).store(self.acc.add(vector * V::LANES));
            }
        }
    }
}
