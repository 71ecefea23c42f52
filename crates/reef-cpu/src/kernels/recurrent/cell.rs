//! What the gates of a row make of their sums, a vector of units at a time: the cells.

use reef_graph::GateFunction;

use super::super::math;
use super::super::vector::{Leaf, Vector};

/// Where the products of the gates `begin..` are: tiles of columns, each `[row][column]`, as the micro-kernel
/// leaves them. Wide tiles come first.
#[derive(Clone, Copy)]
pub(super) struct Place {
    rows: usize,
    begin: usize,
    wide_end: usize,
    /// Columns of a row where rows are whole; else 0.
    dense: usize,
}

impl Place {
    /// For the columns `begin..end`, as [`super::micro::vectors_at_once`] cuts them.
    #[inline(always)]
    pub(super) fn new<V: Vector>(rows: usize, begin: usize, end: usize) -> Place {
        let wide = 8 * V::LANES;
        let whole = if rows * 4 <= V::ROWS { (end - begin) / wide * wide } else { 0 };
        Place { rows, begin, wide_end: begin + whole, dense: 0 }
    }

    /// Rows of so many columns.
    #[inline(always)]
    pub(super) fn dense(columns: usize) -> Place {
        Place { rows: 0, begin: 0, wide_end: 0, dense: columns }
    }

    /// Of a row, the first float of the vector that begins with this column.
    #[inline(always)]
    fn of<V: Vector>(self, row: usize, column: usize) -> usize {
        if self.dense > 0 {
            return row * self.dense + column;
        }
        let (first, width) = match column < self.wide_end {
            true => (self.begin, 8 * V::LANES),
            false => (self.wide_end, 2 * V::LANES),
        };
        let inside = (column - first) % width;
        (column - inside) * self.rows + row * width + inside
    }
}

/// Units of a row to be taken a step further.
#[derive(Clone, Copy)]
pub(super) struct Line {
    /// What the input gives to the row's gates, `[gate][hidden]`.
    pub(super) sums: *const f32,
    /// The products.
    pub(super) acc: *mut f32,
    pub(super) place: Place,
    pub(super) row: usize,
    pub(super) hidden: usize,
    /// Columns of a gate among the products.
    pub(super) padded: usize,
    /// First and past the last.
    pub(super) units: (usize, usize),
    /// The row's states.
    pub(super) states: [*mut f32; 2],
    /// Where a GRU's update gate waits for the last gate.
    pub(super) update: *mut f32,
    /// The row's output, or null.
    pub(super) y: *mut f32,
}

impl Line {
    /// What goes into a gate: the products of a vector of units with what the input gives.
    #[inline(always)]
    unsafe fn sum<V: Vector>(&self, gate: usize, unit: usize) -> V {
        // SAFETY: passed on from the caller; products are whole vectors.
        unsafe {
            self.product::<V>(gate, unit) + part::<V>(self.sums.add(gate * self.hidden + unit), self, unit)
        }
    }

    /// The products alone.
    #[inline(always)]
    unsafe fn product<V: Vector>(&self, gate: usize, unit: usize) -> V {
        // SAFETY: passed on from the caller; products are whole vectors.
        unsafe { V::load(self.acc.add(self.place.of::<V>(self.row, gate * self.padded + unit))) }
    }

    /// Stores the new state.
    #[inline(always)]
    unsafe fn store<V: Vector>(&self, unit: usize, h: V) {
        // SAFETY: passed on from the caller; states in scratch are whole vectors.
        unsafe {
            h.store(self.states[0].add(unit));
            if !self.y.is_null() {
                let count = self.hidden - unit;
                match count >= V::LANES {
                    true => h.store(self.y.add(unit)),
                    false => h.store_part(self.y.add(unit), count),
                }
            }
        }
    }
}

/// A vector of units of an operand that has as many as the state; `from` is the first of them.
#[inline(always)]
unsafe fn part<V: Vector>(from: *const f32, line: &Line, unit: usize) -> V {
    let count = line.hidden - unit;
    // SAFETY: passed on from the caller.
    unsafe { if count >= V::LANES { V::load(from) } else { V::load_part(from, count) } }
}

/// The activation functions of a cell.
pub(super) trait Functions: Copy {
    /// Of the gates that open and close, clipped before.
    fn f<V: Vector>(self, x: V) -> V;
    /// Of the gate that takes new things in, clipped before.
    fn g<V: Vector>(self, x: V) -> V;
    /// Of the memory.
    fn h<V: Vector>(self, x: V) -> V;
}

/// Those of an LSTM or a GRU that names none.
#[derive(Clone, Copy)]
pub(super) struct Usual;

impl Functions for Usual {
    #[inline(always)]
    fn f<V: Vector>(self, x: V) -> V {
        math::sigmoid(x)
    }
    #[inline(always)]
    fn g<V: Vector>(self, x: V) -> V {
        math::tanh(x)
    }
    #[inline(always)]
    fn h<V: Vector>(self, x: V) -> V {
        math::tanh(x)
    }
}

/// Those of an LSTM of integers that names none: ONNX Runtime's, so that a state becomes the same integer.
#[derive(Clone, Copy)]
pub(super) struct Quotients {
    pub(super) clip: Option<f32>,
}

impl Functions for Quotients {
    #[inline(always)]
    fn f<V: Vector>(self, x: V) -> V {
        math::sigmoid_by_quotient(clipped(x, self.clip))
    }
    #[inline(always)]
    fn g<V: Vector>(self, x: V) -> V {
        math::tanh_by_quotient(clipped(x, self.clip))
    }
    #[inline(always)]
    fn h<V: Vector>(self, x: V) -> V {
        math::tanh_by_quotient(x)
    }
}

#[inline(always)]
fn clipped<V: Vector>(x: V, clip: Option<f32>) -> V {
    match clip {
        Some(bound) => x.at_least(x.set(-bound)).at_most(x.set(bound)),
        None => x,
    }
}

/// Any.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) functions: &'a [GateFunction],
    pub(super) clip: Option<f32>,
}

impl Given<'_> {
    #[inline(always)]
    fn of<V: Vector>(self, index: usize, x: V) -> V {
        // SAFETY: who holds a vector has entered.
        unsafe { V::enter(Apply(self.functions[index], x)) }
    }
}

impl Functions for Given<'_> {
    #[inline(always)]
    fn f<V: Vector>(self, x: V) -> V {
        self.of(0, clipped(x, self.clip))
    }
    #[inline(always)]
    fn g<V: Vector>(self, x: V) -> V {
        self.of(1, clipped(x, self.clip))
    }
    #[inline(always)]
    fn h<V: Vector>(self, x: V) -> V {
        self.of(2, x)
    }
}

/// A function of a vector: code that is there once, not at every call.
struct Apply<X>(GateFunction, X);

impl<X: Vector> Leaf for Apply<X> {
    type Out = X;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> X {
        let Apply(function, x) = self;
        let zero = x.set(0.0);
        match function {
            GateFunction::Sigmoid => math::sigmoid(x),
            GateFunction::Tanh => math::tanh(x),
            GateFunction::Relu => x.at_least(zero),
            GateFunction::Affine { alpha, beta } => x.mul_add(x.set(alpha), x.set(beta)),
            GateFunction::LeakyRelu { alpha } => X::select(x.less(zero), x * x.set(alpha), x),
            GateFunction::ThresholdedRelu { alpha } => X::select(x.set(alpha).less(x), x, zero),
            GateFunction::ScaledTanh { alpha, beta } => math::tanh(x * x.set(beta)) * x.set(alpha),
            GateFunction::HardSigmoid { alpha, beta } => math::hard_sigmoid(x, alpha, beta),
            GateFunction::Elu { alpha } => {
                let negative = math::exp_minus_1_of_negative(x.at_most(zero)) * x.set(alpha);
                X::select(x.less(zero), negative, x)
            }
            GateFunction::Softsign => x / (x.abs() + x.set(1.0)),
            GateFunction::Softplus => math::softplus(x),
        }
    }
}

/// `h' = f(sum)`.
pub(super) struct Rnn<F> {
    pub(super) line: Line,
    pub(super) functions: F,
}

impl<F: Functions> Leaf for Rnn<F> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (line, (mut unit, end)) = (self.line, self.line.units);
        while unit < end {
            // SAFETY: the caller vouches for the line.
            unsafe { line.store(unit, self.functions.f(line.sum::<V>(0, unit))) };
            unit += V::LANES;
        }
    }
}

/// Of a GRU whose reset gate scales the state: the second state becomes `r⊙h`.
pub(super) struct Reset<F> {
    pub(super) line: Line,
    pub(super) functions: F,
}

impl<F: Functions> Leaf for Reset<F> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (line, (mut unit, end)) = (self.line, self.line.units);
        while unit < end {
            // SAFETY: the caller vouches for the line.
            unsafe {
                let update = self.functions.f(line.sum::<V>(0, unit));
                let reset = self.functions.f(line.sum::<V>(1, unit));
                let h = V::load(line.states[0].add(unit));
                (reset * h).store(line.states[1].add(unit));
                update.store(line.update.add(unit));
            }
            unit += V::LANES;
        }
    }
}

/// The new state of a GRU; its update gate is ready unless `linear`.
pub(super) struct Gru<F> {
    pub(super) line: Line,
    pub(super) functions: F,
    /// The reset gate scales the product.
    pub(super) linear: bool,
    /// The bias of that product, or null.
    pub(super) bias: *const f32,
}

impl<F: Functions> Leaf for Gru<F> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (line, (mut unit, end)) = (self.line, self.line.units);
        while unit < end {
            // SAFETY: the caller vouches for the line.
            unsafe {
                let h = V::load(line.states[0].add(unit));
                let (update, sum) = if self.linear {
                    let update = self.functions.f(line.sum::<V>(0, unit));
                    let reset = self.functions.f(line.sum::<V>(1, unit));
                    let mut product = line.product::<V>(2, unit);
                    if !self.bias.is_null() {
                        product = product + part::<V>(self.bias.add(unit), &line, unit);
                    }
                    let input = part::<V>(line.sums.add(2 * line.hidden + unit), &line, unit);
                    (update, reset.mul_add(product, input))
                } else {
                    (V::load(line.update.add(unit)), line.sum::<V>(2, unit))
                };
                let candidate = self.functions.g(sum);
                line.store(unit, update.mul_add(h - candidate, candidate));
            }
            unit += V::LANES;
        }
    }
}

/// The new state and memory of an LSTM.
pub(super) struct Lstm<F> {
    pub(super) line: Line,
    pub(super) functions: F,
    /// The forget gate is 1 − the input gate.
    pub(super) input_forget: bool,
    /// Weights of the memory, or null.
    pub(super) peepholes: *const f32,
}

impl<F: Functions> Lstm<F> {
    /// A gate that looks at the memory.
    #[inline(always)]
    unsafe fn gate<V: Vector>(&self, gate: usize, unit: usize, memory: V) -> V {
        let line = &self.line;
        // SAFETY: passed on from the caller.
        unsafe {
            let mut sum = line.sum::<V>(gate, unit);
            if !self.peepholes.is_null() {
                let weights = part::<V>(self.peepholes.add(gate * line.hidden + unit), line, unit);
                sum = weights.mul_add(memory, sum);
            }
            self.functions.f(sum)
        }
    }
}

impl<F: Functions> Leaf for Lstm<F> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (line, (mut unit, end)) = (self.line, self.line.units);
        while unit < end {
            // SAFETY: the caller vouches for the line.
            unsafe {
                let before = V::load(line.states[1].add(unit));
                let input = self.gate::<V>(0, unit, before);
                let forget = match self.input_forget {
                    true => input.set(1.0) - input,
                    false => self.gate::<V>(2, unit, before),
                };
                let candidate = self.functions.g(line.sum::<V>(3, unit));
                let memory = forget.mul_add(before, input * candidate);
                memory.store(line.states[1].add(unit));
                let output = self.gate::<V>(1, unit, memory);
                line.store(unit, output * self.functions.h(memory));
            }
            unit += V::LANES;
        }
    }
}

/// The new state and memory of an LSTM of integers. What goes into a gate is added in ONNX Runtime's order,
/// and products are rounded before they are added: a state that is a bit off may become another integer.
pub(super) struct IntegerLstm<F> {
    pub(super) line: Line,
    pub(super) functions: F,
    /// The forget gate is 1 − the input gate.
    pub(super) input_forget: bool,
    /// Weights of the memory, or null.
    pub(super) peepholes: *const f32,
    /// Biases of all gates, or null.
    pub(super) bias: *const f32,
}

impl<F> IntegerLstm<F> {
    /// What goes into a gate, which looks at the memory or at none.
    #[inline(always)]
    unsafe fn sum<V: Vector>(&self, gate: usize, unit: usize, memory: Option<V>) -> V {
        let (line, at) = (&self.line, gate * self.line.hidden + unit);
        // SAFETY: passed on from the caller.
        unsafe {
            let mut sum = line.sum::<V>(gate, unit);
            if let Some(memory) = memory
                && !self.peepholes.is_null()
            {
                sum = sum + memory * part::<V>(self.peepholes.add(at), line, unit);
            }
            if !self.bias.is_null() {
                sum = sum + part::<V>(self.bias.add(at), line, unit);
            }
            sum
        }
    }
}

impl<F: Functions> Leaf for IntegerLstm<F> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (line, functions, (mut unit, end)) = (self.line, self.functions, self.line.units);
        while unit < end {
            // SAFETY: the caller vouches for the line.
            unsafe {
                let before = V::load(line.states[1].add(unit));
                let input = functions.f(self.sum(0, unit, Some(before)));
                let forget = match self.input_forget {
                    true => input.set(1.0) - input,
                    false => functions.f(self.sum(2, unit, Some(before))),
                };
                let candidate = functions.g(self.sum(3, unit, None));
                let memory = before * forget + input * candidate;
                memory.store(line.states[1].add(unit));
                let output = functions.f(self.sum(1, unit, Some(memory)));
                line.store(unit, functions.h(memory) * output);
            }
            unit += V::LANES;
        }
    }
}
