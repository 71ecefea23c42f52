//! A state that is multiplied with weights of integers: each step makes bytes of the states of all sequences,
//! then takes a micro-tile's rows at a time through the product and the gates.

use reef_graph::DType;
use reef_plan::{IntegerPanels, Per, Region};

use super::super::integer::{Chunk, Dot};
use super::super::integer::{Correct, Scale, Scratch, Sum, row_groups, stored_zero};
use super::super::vector::{Leaf, Vector};
use super::cell::{Line, Place};
use super::{Operands, Recurrent, Stopped, VECTORS};
use crate::context::{BlockContext, BlockEnd};
use crate::cut::integer::{INTEGER_COLUMNS as COLUMNS, RecurrentParts, recurrent_parts, row_bytes};

/// Floats of a state between polls.
const FLOATS: usize = 512;

/// What only weights of integers have.
pub(super) struct Integers {
    pub(super) dtype: DType,
    pub(super) scales: Region,
    pub(super) zeros: Region,
    pub(super) dot: Dot,
}

/// The addresses of a block.
struct Addresses {
    operands: Operands,
    bytes: *mut u8,
    factors: *mut f32,
    /// Scales and zero points of the weights.
    scales: *const f32,
    zeros: *const u8,
    tile: Scratch,
}

/// Some rows of a step.
#[derive(Clone, Copy)]
struct Group {
    first: usize,
    count: usize,
    step: usize,
    /// The zero point of the states.
    zero: i32,
}

impl Recurrent {
    fn parts(&self) -> RecurrentParts {
        recurrent_parts(self.spec.cell.gates(), self.padded, self.spec.hidden, self.spec.batch)
    }

    /// Takes all sequences through all the steps.
    #[inline(always)]
    pub(super) unsafe fn integer_rows<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        integers: &Integers,
    ) -> Result<(), Stopped> {
        // SAFETY: scratch has the parts; the validator checked the regions' sizes.
        unsafe {
            let at = self.addresses(context, integers);
            self.begin_integers(context, &at)?;
            for turn in 0..self.spec.steps {
                let step = self.spec.step(turn);
                let zero = self.quantize::<V>(context, &at)?;
                let mut first = 0;
                for count in row_groups(self.spec.batch, integers.dot.rows) {
                    let group = Group { first, count, step, zero };
                    self.integer_products::<V>(context, integers, &at, &group)?;
                    self.integer_gates::<V>(context, &at, &group)?;
                    first += count;
                }
            }
            self.end_integers(context, &at)
        }
    }

    unsafe fn addresses(&self, context: &BlockContext<'_>, integers: &Integers) -> Addresses {
        let parts = self.parts();
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
                factors: floats(parts.factors),
                scales: context.read_ptr(&integers.scales).cast(),
                zeros: context.read_ptr(&integers.zeros),
                tile: Scratch::of(context),
            }
        }
    }

    /// Puts the states before the first step into scratch.
    unsafe fn begin_integers(&self, context: &BlockContext<'_>, at: &Addresses) -> Result<(), Stopped> {
        let hidden = self.spec.hidden;
        for state in 0..2 {
            for row in 0..self.spec.batch {
                poll(context)?;
                // SAFETY: the row is the spec's; scratch has room for it.
                unsafe {
                    let to = at.operands.states[state].add(row * self.padded);
                    to.write_bytes(0, self.padded);
                    if let Some(region) = &self.before[state] {
                        let from = context.read_ptr(region).cast::<f32>().add(row * hidden);
                        std::ptr::copy_nonoverlapping(from, to, hidden);
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes the states after the last step.
    unsafe fn end_integers(&self, context: &BlockContext<'_>, at: &Addresses) -> Result<(), Stopped> {
        let hidden = self.spec.hidden;
        for state in 0..2 {
            let Some(region) = &self.after[state] else { continue };
            for row in 0..self.spec.batch {
                poll(context)?;
                // SAFETY: as in `begin_integers`.
                unsafe {
                    let to = context.write_ptr(region).cast::<f32>().add(row * hidden);
                    let from = at.operands.states[state].add(row * self.padded);
                    std::ptr::copy_nonoverlapping(from, to, hidden);
                }
            }
        }
        Ok(())
    }

    /// Makes bytes of all states, and the factors of this step's products. Says what the zero point is.
    #[inline(always)]
    unsafe fn quantize<V: Vector>(&self, context: &BlockContext<'_>, at: &Addresses) -> Result<i32, Stopped> {
        let (hidden, batch, states) = (self.spec.hidden, self.spec.batch, at.operands.states[0]);
        let mut range = (0.0f32, 0.0f32);
        // SAFETY: rows, floats and outputs are the spec's; scratch has room for as many bytes and factors.
        unsafe {
            for row in 0..batch {
                for begin in (0..hidden).step_by(FLOATS) {
                    poll(context)?;
                    let count = FLOATS.min(hidden - begin);
                    let from = states.add(row * self.padded + begin);
                    range = V::enter(Range { from, count, range });
                }
            }
            let (low, high) = range;
            let scale = if low == high { 1.0 } else { (high - low) / 255.0 };
            let zero = (0.0 - low / scale).round_ties_even() as u8;
            for row in 0..batch {
                let to = at.bytes.add(row * row_bytes(hidden));
                for begin in (0..hidden).step_by(FLOATS) {
                    poll(context)?;
                    let count = FLOATS.min(hidden - begin);
                    let from = states.add(row * self.padded + begin);
                    V::enter(Quantize { from, count, scale, zero: f32::from(zero), to: to.add(begin) });
                }
                // What the weights there are is 0, but these bytes are in the sums of rows.
                to.add(hidden).write_bytes(0, row_bytes(hidden) - hidden);
            }
            for gate in 0..self.spec.cell.gates() {
                for begin in (0..hidden).step_by(FLOATS) {
                    poll(context)?;
                    let count = FLOATS.min(hidden - begin);
                    let from = at.scales.add(gate * hidden + begin);
                    let to = at.factors.add(gate * self.padded + begin);
                    V::enter(Factors { from, count, scale, to });
                }
            }
            Ok(i32::from(zero))
        }
    }

    /// Multiplies the bytes of some rows with the weights of all gates: `[row][gate][padded]` f32.
    #[inline(always)]
    unsafe fn integer_products<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        integers: &Integers,
        at: &Addresses,
        group: &Group,
    ) -> Result<(), Stopped> {
        let (hidden, of) = (self.spec.hidden, self.spec.matrices());
        let panels = IntegerPanels { of, width: COLUMNS };
        let (per_gate, row) = (self.padded / COLUMNS, row_bytes(hidden));
        let (dot, steps) = (integers.dot, hidden.div_ceil(4));
        // SAFETY: the panels are the weights', the rows are in scratch.
        unsafe {
            let a = at.bytes.add(group.first * row);
            for index in 0..group.count {
                let sum = V::enter(Sum { from: a.add(index * row), count: hidden });
                at.tile.left.add(index).write(group.zero);
                let sum = sum.wrapping_sub(group.zero.wrapping_mul(hidden as i32));
                at.tile.row_sums.add(index).write(sum);
            }
            let (mut panel, all) = (0, self.spec.cell.gates() * per_gate);
            while panel < all {
                // A tile does not reach into the next gate.
                let count = dot.panels_at_once(group.count, per_gate - panel % per_gate);
                let b = at.operands.weights.cast::<u8>().add(panel * panels.panel_bytes());
                for step in (0..steps).step_by(dot.steps) {
                    poll(context)?;
                    dot.run(
                        group.count,
                        count,
                        &Chunk {
                            a: a.add(step * 4),
                            a_stride: row,
                            b: b.add(step * COLUMNS * 4),
                            panel_bytes: panels.panel_bytes(),
                            steps: dot.steps.min(steps - step),
                            acc: at.tile.acc,
                            first: step == 0,
                        },
                    );
                }
                self.integer_tile::<V>(integers, at, group, (panel, count));
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
        group: &Group,
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
                rows: group.count,
                columns,
                column_sums: b.add(bytes - COLUMNS * 4).cast(),
                panel_bytes: bytes,
                left,
                row_sums,
                right,
                bias: std::ptr::null(),
            });
            let factors = Some((at.factors.add(gate * self.padded + unit).cast_const(), Per::Each));
            V::enter(Scale { acc, acc_stride, rows: group.count, columns: acc_stride, factors });
            let row = self.spec.cell.gates() * self.padded;
            for index in 0..group.count {
                let to = at.operands.acc.add(index * row + panel * COLUMNS);
                std::ptr::copy_nonoverlapping(acc.cast::<f32>().add(index * acc_stride), to, acc_stride);
            }
        }
    }

    /// What the gates make of the sums of some rows.
    #[inline(always)]
    unsafe fn integer_gates<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        at: &Addresses,
        group: &Group,
    ) -> Result<(), Stopped> {
        let (hidden, batch) = (self.spec.hidden, self.spec.batch);
        let place = Place::dense(self.spec.cell.gates() * self.padded);
        for row in 0..group.count {
            let index = group.first + row;
            for begin in (0..hidden).step_by(VECTORS * V::LANES) {
                poll(context)?;
                let y = match at.operands.y.is_null() {
                    true => at.operands.y,
                    false => {
                        at.operands.y.wrapping_add(group.step * self.spec.y_step_stride + index * hidden)
                    }
                };
                // SAFETY: step, row and units are the spec's.
                unsafe {
                    let line = Line {
                        sums: at.operands.sums.add((group.step * batch + index) * self.spec.sums_row_stride),
                        acc: at.operands.acc,
                        place,
                        row,
                        hidden,
                        padded: self.padded,
                        units: (begin, hidden.min(begin + VECTORS * V::LANES)),
                        states: at.operands.states.map(|state| state.add(index * self.padded)),
                        update: at.operands.update,
                        y,
                    };
                    self.line::<V>(&at.operands, line, false);
                }
            }
        }
        Ok(())
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

/// Scales of weights times that of the states.
struct Factors {
    from: *const f32,
    count: usize,
    scale: f32,
    to: *mut f32,
}

impl Leaf for Factors {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for at in 0..self.count {
            // SAFETY: the caller vouches for both sides.
            unsafe { self.to.add(at).write(self.scale * *self.from.add(at)) };
        }
    }
}
