//! Products of 8-bit integers: convolutions and products with constant weights, and products of computed
//! operands.
//!
//! A block goes through its rows in groups of a micro-tile's. For each it makes rows of bytes as the
//! micro-kernel reads them (u8, whole steps of four, padding being the zero point), unless they lie so
//! already, and walks over its panels of columns. The right operand is i8 in panels, packed before or, when
//! it is computed, by the block itself. It polls before every row and every chunk of a micro-tile, and before
//! every panel that it packs.

use reef_graph::{DType, Unary};
use reef_plan::{Factors, IntegerEpilogue, Kernel, Per, Region, Residual, Scaled};

use super::epilogue::{self, Store};
use super::vector::Vector;
use crate::context::BlockContext;
use crate::cut::integer::{INTEGER_COLUMNS as COLUMNS, SUMS_BYTES, panel_bytes};
use finish::{Added, Floats, Plain, Quantize, Requantized, Rounded, Terms};

pub(super) mod conv;
mod dot;
mod finish;
pub(super) mod matmul;
mod windows;
pub(super) use dot::{Chunk, Dot};
pub(super) use finish::{Correct, Scale, Sum, stored_zero};
#[cfg(test)]
mod tests;

/// The operands behind the factors.
#[derive(Debug)]
struct Behind {
    zeros: [Option<(Region, Per)>; 2],
    bias: Option<Region>,
    factors: Option<(Region, Per)>,
    shift: Option<Region>,
    residual: Option<Region>,
}

impl Behind {
    fn of(kernel: &Kernel, factors: &Factors, epilogue: &IntegerEpilogue) -> Behind {
        let mut reads = kernel.reads[2..].iter().copied();
        let mut next = |present: bool| present.then(|| reads.next().expect("the validator counted them"));
        let zeros = factors.zeros.map(|per| per.and_then(|per| Some((next(true)?, per))));
        let scaled = epilogue.scaled.unwrap_or_default();
        Behind {
            zeros,
            bias: next(epilogue.bias),
            factors: scaled.factors.and_then(|per| Some((next(true)?, per))),
            shift: next(scaled.shift),
            residual: next(scaled.residual.is_some()),
        }
    }
}

/// Zero points of one factor, and how to read them.
#[derive(Clone, Copy)]
struct Zeros {
    at: Option<(*const u8, Per)>,
    dtype: DType,
    as_u8: bool,
}

impl Zeros {
    fn new(context: &BlockContext<'_>, zeros: &Option<(Region, Per)>, dtype: DType, as_u8: bool) -> Zeros {
        Zeros { at: zeros.as_ref().map(|(region, per)| (context.read_ptr(region), *per)), dtype, as_u8 }
    }

    /// The zero point for `index`, for bytes as they are stored.
    #[inline(always)]
    unsafe fn get(&self, index: usize) -> i32 {
        let byte = match self.at {
            // SAFETY: the caller vouches for the index.
            Some((zeros, per)) => unsafe { *zeros.add(per.at(index)) },
            None => 0,
        };
        stored_zero(byte, self.dtype, self.as_u8)
    }

    /// Whether some zero point of `count` from `first` on is not 0.
    unsafe fn any(&self, first: usize, count: usize) -> bool {
        let several = matches!(self.at, Some((_, Per::Each)));
        let count = if several { count } else { count.min(1) };
        for index in first..first + count {
            // SAFETY: passed on from the caller.
            if unsafe { self.get(index) } != 0 {
                return true;
            }
        }
        false
    }
}

/// What the rows of a block are multiplied with, and where results go.
struct Job<'a> {
    dot: Dot,
    epilogue: &'a IntegerEpilogue,
    depth: usize,
    /// The panel of the block's first column.
    panels: *const u8,
    columns: usize,
    /// Zero points of the rows, and of the columns, the first of which has this index.
    left: Zeros,
    right: Zeros,
    first_right: usize,
    /// Whether a column has one.
    sums_rows: bool,
    /// At the block's first column.
    bias: *const i32,
    factors: Option<(*const f32, Per)>,
    shift: *const f32,
    /// At the first row and column of the output.
    y_stride: usize,
    residual: Option<Residual>,
    scratch: Scratch,
}

/// The parts of scratch that every block has.
#[derive(Clone, Copy)]
pub(super) struct Scratch {
    pub(super) acc: *mut i32,
    pub(super) left: *mut i32,
    pub(super) row_sums: *mut i32,
    pub(super) right: *mut i32,
}

impl Scratch {
    pub(super) fn of(context: &BlockContext<'_>) -> Scratch {
        // SAFETY: scratch has `HEAD_BYTES` and more.
        unsafe {
            Scratch {
                acc: context.scratch.cast(),
                left: context.scratch.add(SUMS_BYTES).cast(),
                row_sums: context.scratch.add(SUMS_BYTES + 64).cast(),
                right: context.scratch.add(SUMS_BYTES + 128).cast(),
            }
        }
    }
}

/// Rows as the micro-kernel reads them, and where their results go.
struct Rows {
    a: *const u8,
    a_stride: usize,
    count: usize,
    /// Index of the first one's zero point.
    first_left: usize,
    /// The first row and the block's first column of output and residual.
    y: *mut u8,
    residual: *const u8,
}

impl Job<'_> {
    /// Makes rows of all the block's columns. False when the poll said stop.
    #[inline(always)]
    unsafe fn rows<V: Vector>(&self, context: &BlockContext<'_>, rows: &Rows) -> bool {
        // SAFETY: the caller vouches for the rows.
        unsafe { self.row_terms::<V>(rows) };
        let (bytes, mut panel) = (panel_bytes(self.depth), 0);
        let panels = self.columns.div_ceil(COLUMNS);
        while panel < panels {
            let count = self.dot.panels_at_once(rows.count, panels - panel);
            let steps = self.depth.div_ceil(4);
            for step in (0..steps).step_by(self.dot.steps) {
                if context.poll.stop() {
                    return false;
                }
                // SAFETY: the chunk lies inside the rows and the panels.
                unsafe {
                    let chunk = Chunk {
                        a: rows.a.add(step * 4),
                        a_stride: rows.a_stride,
                        b: self.panels.add(panel * bytes + step * COLUMNS * 4),
                        panel_bytes: bytes,
                        steps: self.dot.steps.min(steps - step),
                        acc: self.scratch.acc,
                        first: step == 0,
                    };
                    self.dot.run(rows.count, count, &chunk);
                }
            }
            // SAFETY: the sums are there; the panels are the block's.
            unsafe { self.finish::<V>(rows, panel, count) };
            panel += count;
        }
        true
    }

    /// Zero points of rows, and their sums without them.
    #[inline(always)]
    unsafe fn row_terms<V: Vector>(&self, rows: &Rows) {
        for row in 0..rows.count {
            // SAFETY: the rows have `depth` bytes.
            unsafe {
                let zero = self.left.get(rows.first_left + row);
                self.scratch.left.add(row).write(zero);
                let mut sum = 0;
                if self.sums_rows {
                    let from = rows.a.add(row * rows.a_stride);
                    sum = V::enter(Sum { from, count: self.depth });
                    sum = sum.wrapping_sub(zero.wrapping_mul(self.depth as i32));
                }
                self.scratch.row_sums.add(row).write(sum);
            }
        }
    }

    /// Finishes and stores the sums of some panels.
    #[inline(always)]
    unsafe fn finish<V: Vector>(&self, rows: &Rows, panel: usize, count: usize) {
        let (column, acc_stride) = (panel * COLUMNS, count * COLUMNS);
        let columns = acc_stride.min(self.columns - column);
        let Scratch { acc, left, row_sums, right } = self.scratch;
        // SAFETY: rows and columns are the block's; every operand has as many.
        unsafe {
            for at in 0..acc_stride {
                let inside = self.sums_rows && at < columns;
                let zero = if inside { self.right.get(self.first_right + column + at) } else { 0 };
                right.add(at).write(zero);
            }
            let bytes = panel_bytes(self.depth);
            let last = self.panels.add((panel + 1) * bytes - COLUMNS * 4);
            let bias = if self.bias.is_null() { self.bias } else { self.bias.add(column) };
            let correct = Correct {
                acc,
                acc_stride,
                rows: rows.count,
                columns,
                column_sums: last.cast(),
                panel_bytes: bytes,
                left,
                row_sums,
                right,
                bias,
            };
            if let Some(requantized) = self.at_once(rows, correct, column) {
                V::enter(requantized);
            } else if let Some((floats, rest)) = self.floats(rows, correct, column) {
                V::enter(floats);
                if let Some(rest) = rest {
                    epilogue::store::<V>(&rest);
                }
            } else {
                V::enter(correct);
                self.store::<V>(rows, (column, columns), acc_stride);
            }
        }
    }

    /// How sums become bytes from a column on, where one pass does all of it.
    #[inline(always)]
    unsafe fn at_once(&self, rows: &Rows, correct: Correct, column: usize) -> Option<Requantized> {
        let scaled = self.epilogue.scaled?;
        let relu = match scaled.activation {
            None => false,
            Some(Unary::Relu) => true,
            Some(_) => return None,
        };
        let residual = match self.residual {
            None => None,
            Some(Residual { pixel_stride, of }) => {
                // SAFETY: the residual has the output's columns.
                let first = unsafe { rows.residual.add(column) };
                Some((first, pixel_stride, of?))
            }
        };
        // SAFETY: the output and all operands have the column.
        unsafe {
            Some(Requantized {
                terms: self.terms(correct, column),
                rounding: scaled.rounding,
                residual,
                relu,
                how: scaled.requantize?,
                to: rows.y.add(column),
                to_stride: self.y_stride,
            })
        }
    }

    /// How sums become f32 from a column on, where these are neither rounded nor joined by bytes; and what is
    /// left to do then.
    #[inline(always)]
    unsafe fn floats(&self, rows: &Rows, correct: Correct, column: usize) -> Option<(Floats, Option<Store>)> {
        let scaled = self.epilogue.scaled?;
        if scaled.rounding.is_some() || scaled.requantize.is_some() {
            return None;
        }
        // SAFETY: the output and all operands have the column.
        unsafe {
            let residual = match self.residual {
                Some(Residual { of: Some(_), .. }) => return None,
                Some(residual) => Some((rows.residual.cast::<f32>().add(column), residual.pixel_stride)),
                None => None,
            };
            let (to, to_stride) = (rows.y.cast::<f32>().add(column), self.y_stride);
            let mut floats = Floats {
                terms: self.terms(correct, column),
                residual,
                relu: scaled.activation == Some(Unary::Relu),
                to,
                to_stride,
            };
            if matches!(scaled.activation, None | Some(Unary::Relu)) {
                return Some((floats, None));
            }
            let (acc, acc_stride) = (correct.acc.cast::<f32>(), correct.acc_stride);
            (floats.to, floats.to_stride, floats.residual) = (acc, acc_stride, None);
            let (residual, residual_stride) = residual.unwrap_or((std::ptr::null(), 0));
            let (Correct { rows, columns, .. }, bias, alpha) = (correct, std::ptr::null(), 1.0);
            let activation = scaled.activation;
            let rest = Store {
                acc,
                acc_stride,
                rows,
                columns,
                bias,
                residual,
                residual_stride,
                to,
                to_stride,
                alpha,
                activation,
            };
            Some((floats, Some(rest)))
        }
    }

    /// What sums become numbers with from a column on.
    #[inline(always)]
    unsafe fn terms(&self, correct: Correct, column: usize) -> Terms {
        let alike = !self.sums_rows && !matches!(self.left.at, Some((_, Per::Each)));
        // SAFETY: all operands have the column; a zero point of all rows is the first one's.
        unsafe {
            Terms {
                correct,
                same: alike.then(|| self.left.get(0)),
                factors: self.factors_of(column),
                shift: if self.shift.is_null() { self.shift } else { self.shift.add(column) },
            }
        }
    }

    /// The factors from a column on.
    #[inline(always)]
    unsafe fn factors_of(&self, column: usize) -> Option<(*const f32, Per)> {
        // SAFETY: the caller vouches for the column.
        self.factors.map(|(factors, per)| (unsafe { factors.add(per.at(column)) }, per))
    }

    #[inline(always)]
    unsafe fn store<V: Vector>(&self, rows: &Rows, (column, columns): (usize, usize), acc_stride: usize) {
        let (acc, count) = (self.scratch.acc, rows.count);
        // SAFETY: as in `finish`.
        unsafe {
            let y = rows.y.add(column * self.epilogue.output().bytes());
            let Some(scaled) = self.epilogue.scaled else {
                let (to, to_stride) = (y.cast(), self.y_stride);
                let plain = Plain { from: acc, from_stride: acc_stride, rows: count, columns, to, to_stride };
                V::enter(plain);
                return;
            };
            let factors = self.factors_of(column);
            V::enter(Scale { acc, acc_stride, rows: count, columns, factors });
            let floats = acc.cast::<f32>();
            let shift = if self.shift.is_null() { self.shift } else { self.shift.add(column) };
            let mut tile = Store {
                acc: floats,
                acc_stride,
                rows: count,
                columns,
                bias: shift,
                residual: std::ptr::null(),
                residual_stride: 0,
                to: floats,
                to_stride: acc_stride,
                alpha: 1.0,
                activation: None,
            };
            self.add_integers::<V>(&mut tile, rows, column, &scaled);
            if let Some(Residual { pixel_stride, of: None }) = scaled.residual {
                tile.residual = rows.residual.cast::<f32>().add(column);
                tile.residual_stride = pixel_stride;
            }
            if scaled.requantize.is_none() {
                (tile.to, tile.to_stride) = (y.cast(), self.y_stride);
            }
            tile.activation = scaled.activation;
            epilogue::store::<V>(&tile);
            if let Some(how) = scaled.requantize {
                let (from, from_stride) = (floats.cast_const(), acc_stride);
                let to_stride = self.y_stride;
                V::enter(Quantize { from, from_stride, rows: count, columns, how, to: y, to_stride });
            }
        }
    }
}

impl Job<'_> {
    /// What comes before the residual of a tile of f32 that is where its sums were, and a residual of
    /// integers; the shift is added then.
    #[inline(always)]
    unsafe fn add_integers<V: Vector>(&self, tile: &mut Store, rows: &Rows, column: usize, scaled: &Scaled) {
        let added = scaled.residual.and_then(|residual| Some((residual.of?, residual.pixel_stride)));
        if scaled.rounding.is_none() && added.is_none() {
            return;
        }
        let (at, stride, count, columns) = (tile.acc, tile.acc_stride, tile.rows, tile.columns);
        // SAFETY: as in `finish`; the residual has the output's rows and columns.
        unsafe {
            epilogue::store::<V>(tile);
            tile.bias = std::ptr::null();
            if let Some(by) = scaled.rounding {
                V::enter(Rounded { at, stride, rows: count, columns, by });
            }
            if let Some((of, from_stride)) = added {
                let from = rows.residual.add(column);
                V::enter(Added { at, stride, rows: count, columns, of, from, from_stride });
            }
        }
    }
}

/// Sizes of groups of rows: nearly equal, none larger than `most`.
pub(super) fn row_groups(rows: usize, most: usize) -> impl Iterator<Item = usize> {
    let groups = rows.div_ceil(most).max(1);
    let (size, larger) = (rows / groups, rows % groups);
    (0..groups).map(move |group| size + usize::from(group < larger))
}
