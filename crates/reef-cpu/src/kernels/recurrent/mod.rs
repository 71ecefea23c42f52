//! Recurrent networks: a step is one thin matrix product of the states with the packed weights, then the
//! gates, unit by unit in registers ([`cell`]).
//!
//! States stay in scratch from the first step to the last. Polls before every chunk of a product and every
//! few vectors of units of a row: what a killed block has written, the next one writes again.

mod cell;
mod integer;

use std::sync::Arc;

use reef_graph::{Cell, DType, GateFunction};
use reef_plan::{Isa, Kernel, RecurrentSpec, Region};

use super::conv::{LONG_SUM, PART_OF_LONG_SUM};
use super::integer::Dot;
use super::micro::{self, Chunk, ROWS_MAX};
use super::vector::Vector;
use super::{BlockKernel, VectorKernel, bind};
use crate::context::{BlockContext, BlockEnd, BlockFault};
use crate::cut::integer::INTEGER_COLUMNS;
use crate::cut::panel_width;
use cell::{Given, Gru, Line, Lstm, Place, Reset, Rnn, Usual};
use integer::Integers;

/// Vectors of a row's units between polls; without instructions for rounding one takes 0.2 µs.
const VECTORS: usize = 32;

/// Why a block stops early: a kill or a fault.
type Stopped = BlockEnd;

/// Makes a recurrent network ready.
pub(super) fn prepare(spec: &RecurrentSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    with_dot(spec, kernel, isa, Dot::best(isa))
}

/// The same, with other micro-kernels for weights of integers than the best.
pub(super) fn with_dot(spec: &RecurrentSpec, kernel: &Kernel, isa: Isa, dot: Dot) -> Box<dyn BlockKernel> {
    let wanted = if spec.integers.is_some() { INTEGER_COLUMNS } else { panel_width(isa) };
    assert_eq!(spec.panel_width, wanted, "panels of {} for {isa}", kernel.name);
    let (mut reads, mut writes) = (kernel.reads.iter().copied(), kernel.writes.iter().copied());
    let counted = "the spec counts the operands";
    let mut read = |there: bool| there.then(|| reads.next().expect(counted));
    let mut write = |there: bool| there.then(|| writes.next().expect(counted));
    let recurrent = Recurrent {
        name: kernel.name.as_str().into(),
        padded: spec.hidden.next_multiple_of(spec.panel_width),
        usual: is_usual(spec),
        sums: read(true).expect(counted),
        weights: read(true).expect(counted),
        integers: spec.integers.map(|dtype| Integers {
            dtype,
            scales: read(true).expect(counted),
            zeros: read(true).expect(counted),
            bias: read(spec.bias),
            usual: spec.functions == [GateFunction::Sigmoid, GateFunction::Tanh, GateFunction::Tanh],
            dot,
        }),
        reset_bias: read(spec.reset_bias),
        peepholes: read(spec.peepholes),
        lengths: read(spec.lengths),
        before: [spec.h_before, spec.c_before].map(&mut read),
        y: write(spec.y),
        after: [spec.h_after, spec.c_after].map(&mut write),
        spec: spec.clone(),
    };
    bind(recurrent, isa)
}

/// Whether the functions are those that a cell has by default, and nothing is clipped.
fn is_usual(spec: &RecurrentSpec) -> bool {
    use GateFunction::{Sigmoid, Tanh};
    let usual: &[GateFunction] = match spec.cell {
        Cell::Lstm { .. } => &[Sigmoid, Tanh, Tanh],
        Cell::Gru { .. } => &[Sigmoid, Tanh],
        Cell::Rnn => &[],
    };
    spec.clip.is_none() && spec.functions == usual
}

struct Recurrent {
    spec: RecurrentSpec,
    name: Arc<str>,
    /// Units of a gate in the packed weights, and of a state in scratch.
    padded: usize,
    usual: bool,
    sums: Region,
    weights: Region,
    integers: Option<Integers>,
    reset_bias: Option<Region>,
    peepholes: Option<Region>,
    lengths: Option<Region>,
    /// State and memory.
    before: [Option<Region>; 2],
    y: Option<Region>,
    after: [Option<Region>; 2],
}

/// Addresses of the operands, null where there is none, and of the parts of scratch.
struct Operands {
    sums: *const f32,
    weights: *const f32,
    reset_bias: *const f32,
    peepholes: *const f32,
    y: *mut f32,
    /// Where the rows of both states are.
    tables: [*mut *const f32; 2],
    /// The states of the rows at work, `[row][padded]`: h, and c or what the reset gate left of h.
    states: [*mut f32; 2],
    /// `[row][padded]`: a GRU's update gate.
    update: *mut f32,
    /// Products of the states with the weights.
    acc: *mut f32,
}

/// The rows of a block that are at work.
#[derive(Clone, Copy)]
struct Rows {
    first: usize,
    count: usize,
    lengths: [usize; ROWS_MAX],
}

impl VectorKernel for Recurrent {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let mut first = block * self.spec.tile_rows;
        let end = (first + self.spec.tile_rows).min(self.spec.batch);
        while first < end {
            let most = self.integers.as_ref().map_or(V::ROWS, |integers| integers.dot.rows);
            let count = (end - first).min(most);
            // SAFETY: the rows are the spec's, no more than a micro-tile has.
            let done = unsafe { self.rows::<V>(context, first, count) };
            if let Err(stopped) = done {
                return stopped;
            }
            first += count;
        }
        BlockEnd::Done
    }
}

impl Recurrent {
    unsafe fn operands(&self, context: &BlockContext<'_>, rows: usize) -> Operands {
        let read = |region: &Option<Region>| {
            region.as_ref().map_or(std::ptr::null(), |region| context.read_ptr(region).cast::<f32>())
        };
        let state = rows * self.padded;
        // SAFETY: scratch holds all parts for as many rows (`Cutter::scratch_bytes`).
        unsafe {
            let floats = context.scratch.add(2 * TABLE_BYTES).cast::<f32>();
            Operands {
                sums: context.read_ptr(&self.sums).cast(),
                weights: context.read_ptr(&self.weights).cast(),
                reset_bias: read(&self.reset_bias),
                peepholes: read(&self.peepholes),
                y: self.y.as_ref().map_or(std::ptr::null_mut(), |y| context.write_ptr(y).cast()),
                tables: [context.scratch.cast(), context.scratch.add(TABLE_BYTES).cast()],
                states: [floats, floats.add(state)],
                update: floats.add(2 * state),
                acc: floats.add(3 * state),
            }
        }
    }

    /// Takes some rows through all the steps.
    unsafe fn rows<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        first: usize,
        count: usize,
    ) -> Result<(), Stopped> {
        let rows = Rows { first, count, lengths: self.lengths(context, first, count)? };
        // SAFETY: the rows are the spec's.
        unsafe {
            if let Some(integers) = &self.integers {
                return self.integer_rows::<V>(context, integers, &rows);
            }
            let operands = self.operands(context, count);
            self.begin(context, &operands, &rows);
            for turn in 0..self.spec.steps {
                let step = self.spec.step(turn);
                let mut inside = 0u32;
                for row in 0..count {
                    inside |= u32::from(self.spec.first + step < rows.lengths[row]) << row;
                }
                if inside != 0 {
                    self.step::<V>(context, &operands, &rows, step, inside)?;
                }
                self.clear(context, &operands, &rows, step, inside)?;
            }
            self.end(context, &operands, &rows);
        }
        Ok(())
    }

    /// How many steps the rows have.
    fn lengths(
        &self,
        context: &BlockContext<'_>,
        first: usize,
        count: usize,
    ) -> Result<[usize; ROWS_MAX], Stopped> {
        let steps = self.spec.all_steps;
        let mut lengths = [steps; ROWS_MAX];
        let Some(region) = &self.lengths else { return Ok(lengths) };
        let from = context.read_ptr(region).cast::<i32>();
        for row in 0..count {
            // SAFETY: there is a length for every row.
            let length = unsafe { from.add(first + row).read() };
            if length < 0 || length as usize > steps {
                let (kernel, operator, row) = (self.name.clone(), self.spec.cell.name(), first + row);
                return Err(BlockEnd::Failed(BlockFault::Length { kernel, operator, row, length, steps }));
            }
            lengths[row] = length as usize;
        }
        Ok(lengths)
    }

    /// Puts the states before the first step into scratch.
    unsafe fn begin(&self, context: &BlockContext<'_>, operands: &Operands, rows: &Rows) {
        let hidden = self.spec.hidden;
        for state in 0..2 {
            for row in 0..rows.count {
                // SAFETY: the row is the spec's; scratch has room for it.
                unsafe {
                    let to = operands.states[state].add(row * self.padded);
                    operands.tables[state].add(row).write(to);
                    to.write_bytes(0, self.padded);
                    if let Some(region) = &self.before[state] {
                        let from = context.read_ptr(region).cast::<f32>().add((rows.first + row) * hidden);
                        std::ptr::copy_nonoverlapping(from, to, hidden);
                    }
                }
            }
        }
    }

    /// Writes the states after the last step.
    unsafe fn end(&self, context: &BlockContext<'_>, operands: &Operands, rows: &Rows) {
        let hidden = self.spec.hidden;
        for state in 0..2 {
            let Some(region) = &self.after[state] else { continue };
            for row in 0..rows.count {
                // SAFETY: as in `begin`.
                unsafe {
                    let to = context.write_ptr(region).cast::<f32>().add((rows.first + row) * hidden);
                    let from = operands.states[state].add(row * self.padded);
                    std::ptr::copy_nonoverlapping(from, to, hidden);
                }
            }
        }
    }

    /// Zeros in y where a step is not inside its sequence.
    unsafe fn clear(
        &self,
        context: &BlockContext<'_>,
        operands: &Operands,
        rows: &Rows,
        step: usize,
        inside: u32,
    ) -> Result<(), Stopped> {
        let hidden = self.spec.hidden;
        for row in 0..rows.count {
            if inside >> row & 1 == 1 {
                continue;
            }
            if context.poll.stop() {
                return Err(BlockEnd::Killed);
            }
            if !operands.y.is_null() {
                let at = step * self.spec.y_step_stride + (rows.first + row) * hidden;
                // SAFETY: step and row are the spec's.
                unsafe { operands.y.add(at).write_bytes(0, hidden) };
            }
        }
        Ok(())
    }

    /// One step of the rows whose bit of `inside` is set.
    #[inline(always)]
    unsafe fn step<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        operands: &Operands,
        rows: &Rows,
        step: usize,
        inside: u32,
    ) -> Result<(), Stopped> {
        let gates = self.spec.cell.gates();
        // SAFETY: passed on from the caller.
        unsafe {
            if self.spec.cell != (Cell::Gru { linear_before_reset: false }) {
                let place = self.products::<V>(context, operands, rows.count, 0, (0, gates))?;
                return self.gates::<V>(context, operands, rows, (step, inside), place, false);
            }
            // The reset gate scales what the last gate is a product of.
            let place = self.products::<V>(context, operands, rows.count, 0, (0, 2))?;
            self.gates::<V>(context, operands, rows, (step, inside), place, true)?;
            let place = self.products::<V>(context, operands, rows.count, 1, (2, 3))?;
            self.gates::<V>(context, operands, rows, (step, inside), place, false)
        }
    }

    /// Multiplies a state of all rows with the weights of some gates; says where the products are.
    #[inline(always)]
    unsafe fn products<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        operands: &Operands,
        rows: usize,
        state: usize,
        (first, end): (usize, usize),
    ) -> Result<Place, Stopped> {
        let (depth, width) = (self.spec.hidden, self.spec.panel_width);
        let apart = depth >= LONG_SUM;
        let (begin, end) = (first * self.padded, end * self.padded);
        let place = Place::new::<V>(rows, begin, end);
        let mut column = begin;
        while column < end {
            let vectors = micro::vectors_at_once::<V>(rows, end - column);
            let steps = if apart { PART_OF_LONG_SUM } else { micro::steps_at_once::<V>(vectors) };
            let part = if apart { steps } else { depth.div_ceil(depth.div_ceil(steps)) };
            let mut offset = 0;
            while offset < depth {
                if context.poll.stop() {
                    return Err(BlockEnd::Killed);
                }
                // SAFETY: the columns are whole panels of the weights, the rows are in scratch, and the
                // products have room for `rows` times the columns.
                unsafe {
                    let chunk = Chunk {
                        addresses: operands.tables[state],
                        segments: 1,
                        offset,
                        len: part.min(depth - offset),
                        weights: operands.weights.add(column * depth + offset * width),
                        panel_stride: depth * width,
                        acc: operands.acc.add(column * rows),
                        first: offset == 0,
                        apart,
                    };
                    micro::run::<V>(rows, vectors, &chunk);
                }
                offset += part;
            }
            column += vectors * V::LANES;
        }
        Ok(place)
    }

    /// What the gates make of their sums. `reset` stops before the last gate of a GRU.
    #[inline(always)]
    unsafe fn gates<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        operands: &Operands,
        rows: &Rows,
        (step, inside): (usize, u32),
        place: Place,
        reset: bool,
    ) -> Result<(), Stopped> {
        let hidden = self.spec.hidden;
        for row in 0..rows.count {
            if inside >> row & 1 == 0 {
                continue;
            }
            for begin in (0..hidden).step_by(VECTORS * V::LANES) {
                if context.poll.stop() {
                    return Err(BlockEnd::Killed);
                }
                let index = rows.first + row;
                let y = match operands.y.is_null() {
                    true => operands.y,
                    false => operands.y.wrapping_add(step * self.spec.y_step_stride + index * hidden),
                };
                // SAFETY: step, row and units are the spec's.
                unsafe {
                    let line = Line {
                        sums: operands.sums.add((step * self.spec.batch + index) * self.spec.sums_row_stride),
                        acc: operands.acc,
                        place,
                        row,
                        hidden,
                        padded: self.padded,
                        units: (begin, hidden.min(begin + VECTORS * V::LANES)),
                        states: [
                            operands.states[0].add(row * self.padded),
                            operands.states[1].add(row * self.padded),
                        ],
                        update: operands.update.add(row * self.padded),
                        y,
                    };
                    self.line::<V>(operands, line, reset);
                }
            }
        }
        Ok(())
    }

    /// Some units of a row.
    #[inline(always)]
    unsafe fn line<V: Vector>(&self, operands: &Operands, line: Line, reset: bool) {
        let functions = Given { functions: &self.spec.functions, clip: self.spec.clip };
        // SAFETY: passed on from the caller.
        unsafe {
            match self.spec.cell {
                Cell::Rnn => V::enter(Rnn { line, functions }),
                Cell::Gru { .. } if reset => match self.usual {
                    true => V::enter(Reset { line, functions: Usual }),
                    false => V::enter(Reset { line, functions }),
                },
                Cell::Gru { linear_before_reset: linear } => {
                    let bias = operands.reset_bias;
                    match self.usual {
                        true => V::enter(Gru { line, functions: Usual, linear, bias }),
                        false => V::enter(Gru { line, functions, linear, bias }),
                    }
                }
                Cell::Lstm { input_forget } => {
                    let peepholes = operands.peepholes;
                    match self.usual {
                        true => V::enter(Lstm { line, functions: Usual, input_forget, peepholes }),
                        false => V::enter(Lstm { line, functions, input_forget, peepholes }),
                    }
                }
            }
        }
    }
}

/// Bytes of the addresses of as many rows as there can be.
const TABLE_BYTES: usize = (ROWS_MAX * 8).next_multiple_of(64);

const _: () = assert!(DType::I32.bytes() == size_of::<i32>());
