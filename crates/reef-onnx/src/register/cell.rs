//! One step of a recurrent operator: the body of its loop.

use reef_graph::GateFunction;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::Slice;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::logic::Iff;
use tract_onnx::tract_core::ops::math::{add, mul, sub};

use super::activation::{Activation, gate_functions};
use super::epilogue::Epilogue;

/// Which operator, with the attributes that only it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Lstm {
        /// The forget gate is 1 − the input gate.
        input_forget: bool,
    },
    Gru {
        /// The reset gate scales the product with the recurrent weights, not what goes into it.
        linear_before_reset: bool,
    },
    Rnn,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Lstm { .. } => "LSTM",
            Kind::Gru { .. } => "GRU",
            Kind::Rnn => "RNN",
        }
    }

    /// Blocks of rows of the weights.
    pub fn gates(self) -> usize {
        match self {
            Kind::Lstm { .. } => 4,
            Kind::Gru { .. } => 3,
            Kind::Rnn => 1,
        }
    }

    /// The activation functions of one direction that are used when none are named.
    pub fn default_activations(self) -> &'static [&'static str] {
        match self {
            Kind::Lstm { .. } => &["Sigmoid", "Tanh", "Tanh"],
            Kind::Gru { .. } => &["Sigmoid", "Tanh"],
            Kind::Rnn => &["Tanh"],
        }
    }

    /// Whether there is a second state, the memory.
    pub fn has_memory(self) -> bool {
        matches!(self, Kind::Lstm { .. })
    }
}

/// One direction of the operator.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub kind: Kind,
    /// `f`, `g` and `h` of the specification.
    pub activations: Vec<GateFunction>,
    /// The bound of what goes into `f` and `g`.
    pub clip: Option<f32>,
}

/// The wires of a step.
pub(super) struct Parts {
    /// `[batch, 1, inputs]`.
    pub x: OutletId,
    /// `[gates·hidden, inputs]`.
    pub w: OutletId,
    /// `[gates·hidden, hidden]`.
    pub r: OutletId,
    /// `[1, 2·gates·hidden]`: those of `w`, then those of `r`.
    pub bias: Option<OutletId>,
    /// `[1, 3·hidden]`: input, output, forget.
    pub peepholes: Option<OutletId>,
    /// `[batch, 1, 1]`: whether the step counts.
    pub mask: Option<OutletId>,
    /// `[batch, 1, hidden]`: the state before.
    pub h: OutletId,
    /// `[batch, 1, hidden]`: the memory before.
    pub c: Option<OutletId>,
    pub hidden: usize,
}

impl Cell {
    /// Whether the activations are the defaults and nothing is clipped.
    fn is_plain(&self) -> bool {
        let defaults = gate_functions(self.kind.default_activations(), &[], &[]);
        self.clip.is_none() && defaults.as_ref() == Ok(&self.activations)
    }

    /// Adds the step to `body`: its output, the state after and, with a memory, the memory after, all
    /// `[batch, 1, hidden]`.
    pub fn wire(&self, body: &mut TypedModel, parts: &Parts) -> TractResult<TVec<OutletId>> {
        let mut step = Step::new(body, parts, self)?;
        let (h, c) = match self.kind {
            Kind::Rnn => (step.rnn()?, None),
            Kind::Gru { linear_before_reset } => (step.gru(linear_before_reset)?, None),
            Kind::Lstm { input_forget } => {
                let (h, c) = step.lstm(input_forget)?;
                (h, Some(c))
            }
        };
        step.finish(h, c)
    }
}

/// A step under construction. Wires are `[batch, n]`.
struct Step<'a> {
    body: &'a mut TypedModel,
    parts: &'a Parts,
    cell: &'a Cell,
    datum: DatumType,
    x: OutletId,
    h: OutletId,
    c: Option<OutletId>,
    made: usize,
}

impl<'a> Step<'a> {
    fn new(body: &'a mut TypedModel, parts: &'a Parts, cell: &'a Cell) -> TractResult<Step<'a>> {
        let datum = body.outlet_fact(parts.x)?.datum_type;
        let mut step = Step { body, parts, cell, datum, x: parts.x, h: parts.h, c: parts.c, made: 0 };
        step.x = step.node(AxisOp::Rm(1), &[parts.x])?;
        step.h = step.node(AxisOp::Rm(1), &[parts.h])?;
        step.c = parts.c.map(|c| step.node(AxisOp::Rm(1), &[c])).transpose()?;
        Ok(step)
    }

    fn node(&mut self, op: impl Into<Box<dyn TypedOp>>, inputs: &[OutletId]) -> TractResult<OutletId> {
        self.made += 1;
        Ok(self.body.wire_node(format!("step.{}", self.made), op, inputs)?[0])
    }

    fn add(&mut self, a: OutletId, b: OutletId) -> TractResult<OutletId> {
        self.node(add(), &[a, b])
    }

    fn mul(&mut self, a: OutletId, b: OutletId) -> TractResult<OutletId> {
        self.node(mul(), &[a, b])
    }

    /// Columns of the gates `from..to`.
    fn gates(&mut self, wire: OutletId, from: usize, to: usize) -> TractResult<OutletId> {
        let hidden = self.parts.hidden;
        if from == 0 && self.body.outlet_fact(wire)?.shape[1] == (to * hidden).to_dim() {
            return Ok(wire);
        }
        self.node(Slice::new(1, from * hidden, to * hidden), &[wire])
    }

    /// `a · bᵀ`.
    fn product(&mut self, a: OutletId, b: OutletId) -> TractResult<OutletId> {
        self.node(EinSum::new("mk,nk->mn".parse()?, self.datum), &[a, b])
    }

    /// `wire` with the biases of the gates `from..to`; those of the recurrent weights follow all others.
    fn biased(&mut self, wire: OutletId, from: usize, to: usize) -> TractResult<OutletId> {
        let Some(bias) = self.parts.bias else { return Ok(wire) };
        let bias = self.gates(bias, from, to)?;
        self.add(wire, bias)
    }

    /// The sum of both sides for all gates, with all biases.
    fn both(&mut self) -> TractResult<OutletId> {
        let gates = self.cell.kind.gates();
        let x = self.product(self.x, self.parts.w)?;
        let x = self.biased(x, 0, gates)?;
        let h = self.product(self.h, self.parts.r)?;
        let h = self.biased(h, gates, 2 * gates)?;
        self.add(x, h)
    }

    /// The `index`-th activation function of `wire`, which is clipped before.
    fn activated(&mut self, index: usize, wire: OutletId) -> TractResult<OutletId> {
        let wire = match self.cell.clip {
            Some(bound) => self.function(Activation::Clamp { bound }, wire)?,
            None => wire,
        };
        self.function(Activation::Gate(self.cell.activations[index]), wire)
    }

    fn function(&mut self, function: Activation, wire: OutletId) -> TractResult<OutletId> {
        self.made += 1;
        function.wire(&format!("step.{}", self.made), self.body, wire)
    }

    fn rnn(&mut self) -> TractResult<OutletId> {
        let sum = self.both()?;
        self.activated(0, sum)
    }

    /// Gates: update, reset, hidden.
    fn gru(&mut self, linear_before_reset: bool) -> TractResult<OutletId> {
        let (h, r) = (self.h, self.parts.r);
        let x = self.product(self.x, self.parts.w)?;
        let x = self.biased(x, 0, 3)?;
        if linear_before_reset && self.cell.is_plain() && self.datum == DatumType::F32 {
            let product = self.product(h, r)?;
            let product = self.biased(product, 3, 6)?;
            return self.node(Epilogue::Gru { hidden: self.parts.hidden }, &[x, product, h]);
        }
        let hidden = self.parts.hidden;
        let outer = self.node(Slice::new(0, 0, 2 * hidden), &[r])?;
        let inner = self.node(Slice::new(0, 2 * hidden, 3 * hidden), &[r])?;
        let product = self.product(h, outer)?;
        let product = self.biased(product, 3, 5)?;
        let x_outer = self.gates(x, 0, 2)?;
        let outer = self.add(x_outer, product)?;
        let outer = self.activated(0, outer)?;
        let (update, reset) = (self.gates(outer, 0, 1)?, self.gates(outer, 1, 2)?);
        let candidate = if linear_before_reset {
            let product = self.product(h, inner)?;
            let product = self.biased(product, 5, 6)?;
            self.mul(reset, product)?
        } else {
            let scaled = self.mul(reset, h)?;
            let product = self.product(scaled, inner)?;
            self.biased(product, 5, 6)?
        };
        let x_inner = self.gates(x, 2, 3)?;
        let candidate = self.add(x_inner, candidate)?;
        let candidate = self.activated(1, candidate)?;
        // (1 − z)·candidate + z·h
        let difference = self.node(sub(), &[h, candidate])?;
        let share = self.mul(update, difference)?;
        self.add(candidate, share)
    }

    /// Gates: input, output, forget, memory. Gives the state and the memory.
    fn lstm(&mut self, input_forget: bool) -> TractResult<(OutletId, OutletId)> {
        let c = self.c.expect("an LSTM has a memory");
        let sum = self.both()?;
        let plain = self.cell.is_plain() && !input_forget && self.parts.peepholes.is_none();
        if plain && self.datum == DatumType::F32 {
            self.made += 1;
            let op = Epilogue::Lstm { hidden: self.parts.hidden };
            let made = self.body.wire_node(format!("step.{}", self.made), op, &[sum, c])?;
            return Ok((made[0], made[1]));
        }
        let input = self.lstm_gate(sum, 0, c)?;
        let forget = match input_forget {
            false => self.lstm_gate(sum, 2, c)?,
            true => {
                self.function(Activation::Gate(GateFunction::Affine { alpha: -1.0, beta: 1.0 }), input)?
            }
        };
        let candidate = self.gates(sum, 3, 4)?;
        let candidate = self.activated(1, candidate)?;
        let (kept, taken) = (self.mul(forget, c)?, self.mul(input, candidate)?);
        let memory = self.add(kept, taken)?;
        let output = self.lstm_gate(sum, 1, memory)?;
        // What goes into the last function is not clipped, as ONNX Runtime does it.
        let shown = self.function(Activation::Gate(self.cell.activations[2]), memory)?;
        Ok((self.mul(output, shown)?, memory))
    }

    /// A gate that looks at the memory through a peephole, if there are any.
    fn lstm_gate(&mut self, sum: OutletId, gate: usize, memory: OutletId) -> TractResult<OutletId> {
        let mut wire = self.gates(sum, gate, gate + 1)?;
        if let Some(all) = self.parts.peepholes {
            let weights = self.gates(all, gate, gate + 1)?;
            let seen = self.mul(weights, memory)?;
            wire = self.add(wire, seen)?;
        }
        self.activated(0, wire)
    }

    /// Applies the mask and gives everything the axis of steps back.
    fn finish(mut self, h: OutletId, c: Option<OutletId>) -> TractResult<TVec<OutletId>> {
        let (mut y, mut state, mut memory) = (h, h, c);
        if let Some(mask) = self.parts.mask {
            let mask = self.node(AxisOp::Rm(1), &[mask])?;
            let zero = Tensor::zero_dt(self.datum, &[1, 1])?;
            let zero = self.body.add_const("zero", zero)?;
            y = self.node(Iff, &[mask, h, zero])?;
            state = self.node(Iff, &[mask, h, self.h])?;
            memory = match memory.zip(self.c) {
                Some((after, before)) => Some(self.node(Iff, &[mask, after, before])?),
                None => None,
            };
        }
        let mut outputs = tvec!();
        for wire in [Some(y), Some(state), memory].into_iter().flatten() {
            outputs.push(self.node(AxisOp::Add(1), &[wire])?);
        }
        Ok(outputs)
    }
}
