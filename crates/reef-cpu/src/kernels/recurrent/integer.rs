//! A state that is multiplied with weights of integers: each step makes bytes of the state of every row at
//! work, each with a scale of its own, then takes them through the product and the gates.

use reef_graph::{Cell, DType};
use reef_plan::{IntegerPanels, Region};

use super::super::integer::{Chunk, Dot};
use super::super::integer::{Correct, Scratch, Sum, stored_zero};
use super::super::vector::{Leaf, Vector};
use super::cell::{Given, IntegerLstm, Line, Place, Quotients};
use super::{Operands, Recurrent, Rows, Stopped, VECTORS};
use crate::context::{BlockContext, BlockEnd};
use crate::cut::integer::{INTEGER_COLUMNS as COLUMNS, recurrent_parts, row_bytes};

/// Floats of a state between polls.
const FLOATS: usize = 512;

/// What only weights of integers have.
pub(super) struct Integers {
    pub(super) dtype: DType,
    pub(super) scales: Region,
    pub(super) zeros: Region,
    pub(super) bias: Option<Region>,
    /// Whether the functions are those that an LSTM has by default.
    pub(super) usual: bool,
    pub(super) dot: Dot,
}

/// The addresses of a block.
struct Addresses {
    operands: Operands,
    bytes: *mut u8,
    /// Of every row at work what a step of its bytes is worth.
    row_scales: *mut f32,
    /// Scales and zero points of the weights.
    scales: *const f32,
    zeros: *const u8,
    /// Biases of all gates, or null.
    bias: *const f32,
    tile: Scratch,
}

impl Recurrent {
    /// Takes some sequences through all the steps.
    #[inline(always)]
    pub(super) unsafe fn integer_rows<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        integers: &Integers,
        rows: &Rows,
    ) -> Result<(), Stopped> {
        // SAFETY: scratch has the parts; the validator checked the regions' sizes.
        unsafe {
            let at = self.addresses(context, integers);
            self.begin(context, &at.operands, rows);
            for turn in 0..self.spec.steps {
                self.quantize::<V>(context, &at, rows.count)?;
                self.integer_products::<V>(context, integers, &at, rows.count)?;
                self.integer_gates::<V>(context, integers, &at, rows, self.spec.step(turn))?;
            }
            self.end(context, &at.operands, rows);
        }
        Ok(())
    }

    unsafe fn addresses(&self, context: &BlockContext<'_>, integers: &Integers) -> Addresses {
        let spec = &self.spec;
        let parts = recurrent_parts(spec.cell.gates(), self.padded, spec.hidden, spec.tile_rows);
        // SAFETY: scratch has the parts.
        unsafe {
            let floats = |at: usize| context.scratch.add(at).cast::<f32>();
            Addresses {
                operands: Operands {
                    states: parts.states.map(floats),
                    update: std::ptr::null_mut(),
                    acc: floats(parts.products),
                    ..self.operands(context, 0)
                },
                bytes: context.scratch.add(parts.bytes),
                row_scales: floats(parts.scales),
                scales: context.read_ptr(&integers.scales).cast(),
                zeros: context.read_ptr(&integers.zeros),
                bias: integers.bias.as_ref().map_or(std::ptr::null(), |bias| context.read_ptr(bias).cast()),
                tile: Scratch::of(context),
            }
        }
    }

    /// Makes bytes of the states, their sums without zero points, and what a step of each row is worth.
    #[inline(always)]
    unsafe fn quantize<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        at: &Addresses,
        rows: usize,
    ) -> Result<(), Stopped> {
        let hidden = self.spec.hidden;
        for row in 0..rows {
            // SAFETY: the row is in scratch, which has room for as many bytes.
            unsafe {
                let from = at.operands.states[0].add(row * self.padded);
                let to = at.bytes.add(row * row_bytes(hidden));
                let mut range = (0.0f32, 0.0f32);
                for begin in (0..hidden).step_by(FLOATS) {
                    poll(context)?;
                    range =
                        V::enter(Range { from: from.add(begin), count: FLOATS.min(hidden - begin), range });
                }
                let (low, high) = range;
                let scale = if low == high { 1.0 } else { (high - low) / 255.0 };
                let zero = (0.0 - low / scale).round_ties_even() as u8;
                for begin in (0..hidden).step_by(FLOATS) {
                    poll(context)?;
                    let count = FLOATS.min(hidden - begin);
                    let (from, to) = (from.add(begin), to.add(begin));
                    V::enter(Quantize { from, count, scale, zero: f32::from(zero), to });
                }
                // What the weights there are is 0, but these bytes are in the sums of rows.
                to.add(hidden).write_bytes(0, row_bytes(hidden) - hidden);
                at.row_scales.add(row).write(scale);
                let zero = i32::from(zero);
                at.tile.left.add(row).write(zero);
                let sum = V::enter(Sum { from: to, count: hidden });
                at.tile.row_sums.add(row).write(sum.wrapping_sub(zero.wrapping_mul(hidden as i32)));
            }
        }
        Ok(())
    }

    /// Multiplies the bytes of some rows with the weights of all gates: `[row][gate][padded]` f32.
    #[inline(always)]
    unsafe fn integer_products<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        integers: &Integers,
        at: &Addresses,
        rows: usize,
    ) -> Result<(), Stopped> {
        let (hidden, of) = (self.spec.hidden, self.spec.matrices());
        let panels = IntegerPanels { of, width: COLUMNS };
        let (per_gate, row) = (self.padded / COLUMNS, row_bytes(hidden));
        let (dot, steps) = (integers.dot, hidden.div_ceil(4));
        // SAFETY: the panels are the weights', the rows are in scratch.
        unsafe {
            let (mut panel, all) = (0, self.spec.cell.gates() * per_gate);
            while panel < all {
                // A tile does not reach into the next gate.
                let count = dot.panels_at_once(rows, per_gate - panel % per_gate);
                let b = at.operands.weights.cast::<u8>().add(panel * panels.panel_bytes());
                for step in (0..steps).step_by(dot.steps) {
                    poll(context)?;
                    dot.run(
                        rows,
                        count,
                        &Chunk {
                            a: at.bytes.add(step * 4),
                            a_stride: row,
                            b: b.add(step * COLUMNS * 4),
                            panel_bytes: panels.panel_bytes(),
                            steps: dot.steps.min(steps - step),
                            acc: at.tile.acc,
                            first: step == 0,
                        },
                    );
                }
                self.integer_tile::<V>(integers, at, rows, (panel, count));
                panel += count;
            }
        }
        Ok(())
    }

    /// Finishes the sums of some panels of a gate.
    #[inline(always)]
    unsafe fn integer_tile<V: Vector>(
        &self,
        integers: &Integers,
        at: &Addresses,
        rows: usize,
        (panel, count): (usize, usize),
    ) {
        let (hidden, per_gate) = (self.spec.hidden, self.padded / COLUMNS);
        let panels = IntegerPanels { of: self.spec.matrices(), width: COLUMNS };
        let bytes = panels.panel_bytes();
        let (gate, unit) = (panel / per_gate, panel % per_gate * COLUMNS);
        let (acc_stride, columns) = (count * COLUMNS, (count * COLUMNS).min(hidden - unit));
        let Scratch { acc, left, row_sums, right } = at.tile;
        // SAFETY: rows and columns are the tile's; every operand has as many.
        unsafe {
            for column in 0..acc_stride {
                let zero = match column < columns {
                    true => *at.zeros.add(gate * hidden + unit + column),
                    false => 0,
                };
                right.add(column).write(stored_zero(zero, integers.dtype, false));
            }
            let b = at.operands.weights.cast::<u8>().add(panel * bytes);
            V::enter(Correct {
                acc,
                acc_stride,
                rows,
                columns,
                column_sums: b.add(bytes - COLUMNS * 4).cast(),
                panel_bytes: bytes,
                left,
                row_sums,
                right,
                bias: std::ptr::null(),
            });
            V::enter(Scale {
                acc,
                rows,
                columns,
                stride: acc_stride,
                scales: at.scales.add(gate * hidden + unit),
                row_scales: at.row_scales,
                to: at.operands.acc.add(panel * COLUMNS),
                to_stride: self.spec.cell.gates() * self.padded,
            });
        }
    }

    /// What the gates make of the sums of some rows.
    #[inline(always)]
    unsafe fn integer_gates<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        integers: &Integers,
        at: &Addresses,
        rows: &Rows,
        step: usize,
    ) -> Result<(), Stopped> {
        let (hidden, batch) = (self.spec.hidden, self.spec.batch);
        let place = Place::dense(self.spec.cell.gates() * self.padded);
        for row in 0..rows.count {
            let index = rows.first + row;
            for begin in (0..hidden).step_by(VECTORS * V::LANES) {
                poll(context)?;
                let y = match at.operands.y.is_null() {
                    true => at.operands.y,
                    false => at.operands.y.wrapping_add(step * self.spec.y_step_stride + index * hidden),
                };
                // SAFETY: step, row and units are the spec's.
                unsafe {
                    let line = Line {
                        sums: at.operands.sums.add((step * batch + index) * self.spec.sums_row_stride),
                        acc: at.operands.acc,
                        place,
                        row,
                        hidden,
                        padded: self.padded,
                        units: (begin, hidden.min(begin + VECTORS * V::LANES)),
                        states: at.operands.states.map(|state| state.add(row * self.padded)),
                        update: at.operands.update,
                        y,
                    };
                    self.integer_line::<V>(integers, at, line);
                }
            }
        }
        Ok(())
    }
}

impl Recurrent {
    /// Some units of a row.
    #[inline(always)]
    unsafe fn integer_line<V: Vector>(&self, integers: &Integers, at: &Addresses, line: Line) {
        let Cell::Lstm { input_forget } = self.spec.cell else {
            unreachable!("the validator knows that the cell is an LSTM")
        };
        let (peepholes, bias, clip) = (at.operands.peepholes, at.bias, self.spec.clip);
        // SAFETY: passed on from the caller.
        unsafe {
            if integers.usual {
                let functions = Quotients { clip };
                V::enter(IntegerLstm { line, functions, input_forget, peepholes, bias });
            } else {
                let functions = Given { functions: &self.spec.functions, clip };
                V::enter(IntegerLstm { line, functions, input_forget, peepholes, bias });
            }
        }
    }
}

fn poll(context: &BlockContext<'_>) -> Result<(), Stopped> {
    if context.poll.stop() { Err(BlockEnd::Killed) } else { Ok(()) }
}

/// A range made as wide as some floats; what is no number is not in it.
struct Range {
    from: *const f32,
    count: usize,
    range: (f32, f32),
}

impl Leaf for Range {
    type Out = (f32, f32);

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> (f32, f32) {
        const LANES: usize = 16;
        let (mut lows, mut highs) = ([self.range.0; LANES], [self.range.1; LANES]);
        let whole = self.count / LANES * LANES;
        for at in 0..self.count {
            // Whole vectors first; the rest goes into the first lanes.
            let lane = if at < whole { at % LANES } else { at - whole };
            // SAFETY: the caller vouches for the floats.
            let x = unsafe { *self.from.add(at) };
            lows[lane] = if x < lows[lane] { x } else { lows[lane] };
            highs[lane] = if x > highs[lane] { x } else { highs[lane] };
        }
        let low = lows.into_iter().fold(self.range.0, f32::min);
        (low, highs.into_iter().fold(self.range.1, f32::max))
    }
}

/// Floats as bytes.
struct Quantize {
    from: *const f32,
    count: usize,
    scale: f32,
    zero: f32,
    to: *mut u8,
}

impl Leaf for Quantize {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for at in 0..self.count {
            // SAFETY: the caller vouches for both sides; the number is kept to what a byte holds.
            unsafe {
                let x = (*self.from.add(at) / self.scale).round_ties_even() + self.zero;
                let x = if x > 0.0 { x } else { 0.0 };
                let x = if x < 255.0 { x } else { 255.0 };
                self.to.add(at).write(x.to_int_unchecked::<i32>() as u8);
            }
        }
    }
}

/// Sums of integers as f32, times the scales of their row and their column; zeros behind the last column.
struct Scale {
    acc: *const i32,
    rows: usize,
    columns: usize,
    /// Sums of a row, with those behind the last column.
    stride: usize,
    scales: *const f32,
    row_scales: *const f32,
    to: *mut f32,
    to_stride: usize,
}

impl Leaf for Scale {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for row in 0..self.rows {
            // SAFETY: the caller vouches for rows and columns of every operand.
            unsafe {
                let (from, to) = (self.acc.add(row * self.stride), self.to.add(row * self.to_stride));
                let of_row = *self.row_scales.add(row);
                for at in 0..self.columns {
                    to.add(at).write(*from.add(at) as f32 * (of_row * *self.scales.add(at)));
                }
                to.add(self.columns).write_bytes(0, self.stride - self.columns);
            }
        }
    }
}
