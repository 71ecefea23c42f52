//! Recurrent networks: the input's part of all gates of all steps as one product, then a kernel for each
//! direction and each run of steps, which hands the states on to the next.

use std::sync::Arc;

use reef_base::AlignedBytes;
use reef_graph::{Binary, Cell, DType, Node, RecurrentAttrs, RecurrentOperands, Shape, Tensor, ValueId};
use reef_plan::{ConvSpec, ElemOp, Epilogue, KernelSpec, MatMulSpec, RecurrentSpec, Weights, Work};

use super::contract::conv_work;
use super::{BufKind, Lowering, streams, words};
use crate::error::CompileError;
use crate::layout::Need;
use crate::view::{Operand, View};

/// Operations that a gate of an element takes beside its products.
const GATE_FLOPS: f64 = 20.0;

/// A direction's parameters, and what runs it in one piece.
struct Side {
    /// R, `[scales, zero points, [biases]]`, `[the bias that the reset gate scales]`, `[peepholes]`.
    parameters: Vec<Operand>,
    spec: RecurrentSpec,
    work: Work,
    /// State and memory before the next run of steps.
    states: [Option<View>; 2],
    /// This direction's part of y.
    y: Option<View>,
}

impl Lowering<'_> {
    pub(super) fn recurrent(&mut self, node: &Node, attrs: &RecurrentAttrs) -> Result<(), CompileError> {
        let operands = attrs.operands(&node.inputs).map_err(|why| CompileError::unsupported(node, why))?;
        let mut others = vec![operands.lengths, operands.zeros];
        others.extend(attrs.integers.then_some(Some(operands.r)));
        let floats: Vec<ValueId> =
            node.inputs.iter().copied().filter(|&id| !others.contains(&Some(id))).collect();
        self.require_f32(node, &floats)?;
        let read = node.outputs.iter().map(|&id| self.is_read(id)).collect::<Vec<_>>();
        let made: Vec<Option<View>> = node
            .outputs
            .iter()
            .zip(&read)
            .map(|(&id, read)| read.then(|| self.place(id, Need::Dense, None)))
            .collect();
        let dims = self.graph.value(operands.x).shape.to_vec();
        let (steps, batch) = (dims[0], dims[1]);
        if steps == 0 {
            self.keep_states(&operands, &made);
            return Ok(());
        }
        let sums = match operands.w {
            Some(w) => self.input_sums(attrs, (operands.x, w, operands.bias), steps * batch),
            None => {
                let view = self.view(operands.x);
                let columns = dims[2];
                let whole = self.dense(view).reshape(&[steps * batch, columns]);
                whole.expect("it is dense")
            }
        };
        let lengths = operands.lengths.map(|id| {
            let view = self.view(id);
            let view = self.dense(view);
            self.operand(&view)
        });
        let mut sides: Vec<Side> = vec![];
        for direction in 0..attrs.directions.len() {
            sides.push(self.side(node, attrs, &operands, direction, [steps, batch], &made)?);
        }
        let run = self.cutter.recurrent_steps(&sides[0].spec, &sides[0].work).clamp(1, steps);
        for begin in (0..steps).step_by(run) {
            for (direction, side) in sides.iter_mut().enumerate() {
                let turns = begin..steps.min(begin + run);
                self.run_of_steps(direction, side, turns, (&sums, lengths), &made);
            }
        }
        for (direction, side) in sides.iter().enumerate() {
            // What was made apart.
            if let (Some(made), Some(y)) = (&made[0], &side.y)
                && made.buf != y.buf
            {
                let to = made.slice(1, direction, 1, 1);
                self.copy(y, &to, format!("{}: direction {direction}", self.label()));
            }
        }
        Ok(())
    }

    /// Whether a node or an output of the model reads the value.
    fn is_read(&self, id: ValueId) -> bool {
        self.graph.outputs.contains(&id) || self.graph.nodes.iter().any(|node| node.inputs.contains(&id))
    }

    /// Without steps the states stay what they are.
    fn keep_states(&mut self, operands: &RecurrentOperands<ValueId>, made: &[Option<View>]) {
        for (made, before) in made[1..].iter().zip([operands.initial_h, operands.initial_c]) {
            match (made, before) {
                (Some(after), Some(before)) => {
                    let before = self.view(before);
                    self.copy(&before, after, self.label());
                }
                (Some(after), None) => self.fill(after, DType::F32, 0.0, self.label()),
                (None, _) => {}
            }
        }
    }

    /// A constant operand; the error says that it is computed.
    fn parameter(&self, node: &Node, id: ValueId, what: &str) -> Result<Tensor, CompileError> {
        let computed = || CompileError::unsupported(node, format!("{what} is computed, not constant"));
        self.graph.constant(id).cloned().ok_or_else(computed)
    }

    /// What the input gives to the gates of all directions and steps, with the biases: `[rows, D · G · H]`.
    fn input_sums(
        &mut self,
        attrs: &RecurrentAttrs,
        (x, w, bias): (ValueId, ValueId, Option<ValueId>),
        rows: usize,
    ) -> View {
        let bias = bias.map(|bias| self.input_bias(attrs, bias));
        let x = self.view(x);
        let order: Vec<usize> = (0..x.rank()).collect();
        let x = self.with_layout(x, &order, |view| view.rows().is_some());
        let Some(weights) = self.graph.constant(w).cloned() else {
            return self.computed_sums(&x, w, bias, rows);
        };
        let (out_c, in_c) = (weights.shape()[0] * weights.shape()[1], weights.shape()[2]);
        let weights = weights.reshaped(Shape::from([out_c, in_c]));
        let kind = Weights::Matrix { transposed: true, shape: weights.shape() };
        let mut reads = vec![self.operand(&x), self.packed(&weights, kind)];
        reads.extend(bias.as_ref().map(|bias| self.operand(bias)));
        let buf = self.buffer(BufKind::Arena, rows * out_c * DType::F32.bytes());
        let sums = View::dense(buf, DType::F32, &[rows, out_c]);
        let (spec, work) = conv_work(ConvSpec {
            batch: 1,
            in_hw: [1, rows],
            in_c,
            in_pixel_stride: x.rows().unwrap_or(in_c),
            out_hw: [1, rows],
            out_c,
            out_pixel_stride: out_c,
            kernel: [1, 1],
            strides: [1, 1],
            pads: [0, 0],
            dilations: [1, 1],
            groups: 1,
            panel_width: 0,
            normed: false,
            epilogue: Epilogue { bias: bias.is_some(), ..Epilogue::default() },
            tile_rows: 1,
            tile_columns: 1,
            columns_inner: true,
            splits: 1,
        });
        let writes = vec![self.operand(&sums)];
        self.emit(format!("{}: input", self.label()), work, spec, reads, writes);
        sums
    }

    /// The same with computed weights, for an input in rows.
    fn computed_sums(&mut self, x: &View, w: ValueId, bias: Option<View>, rows: usize) -> View {
        let w = self.view(w);
        let w = self.dense(w);
        let (n, k) = (w.dims[0] * w.dims[1], w.dims[2]);
        let buf = self.buffer(BufKind::Arena, rows * n * DType::F32.bytes());
        let products = View::dense(buf, DType::F32, &[rows, n]);
        let spec = MatMulSpec {
            batch: vec![],
            m: rows,
            n,
            k,
            a_strides: [x.rows().unwrap_or(k), 1],
            b_strides: [1, k],
            c_row_stride: n,
            alpha: 1.0,
            tile_rows: rows.max(1),
            tile_columns: n,
        };
        let work = streams(2.0 * (rows * n * k) as f64, words(rows * k + n * k + rows * n));
        let (reads, writes) = (vec![self.operand(x), self.operand(&w)], vec![self.operand(&products)]);
        self.emit(format!("{}: input", self.label()), work, KernelSpec::MatMul(spec), reads, writes);
        let Some(bias) = bias else { return products };
        let buf = self.buffer(BufKind::Arena, rows * n * DType::F32.bytes());
        let sums = View::dense(buf, DType::F32, &[rows, n]);
        self.add(&products, &bias.broadcast(&[rows, n]), &sums, format!("{}: biases", self.label()));
        sums
    }

    fn add(&mut self, a: &View, b: &View, to: &View, name: String) {
        let code = vec![ElemOp::Load(0), ElemOp::Load(1), ElemOp::Binary(Binary::Add, 0, 1)];
        self.program(name, to, &[a.clone(), b.clone()], code);
    }

    /// Of all directions, the biases of W and R that are added before any function: `[D · G · H]`.
    fn input_bias(&mut self, attrs: &RecurrentAttrs, id: ValueId) -> View {
        if let Some(bias) = self.graph.constant(id) {
            let bias = input_bias(attrs, bias);
            let (buf, _) = self.weight(&bias, reef_plan::Packing::Raw);
            return View::dense(buf, DType::F32, bias.shape());
        }
        let (count, all) = (attrs.directions.len(), attrs.cell.gates() * attrs.hidden);
        let own = if has_reset_bias(attrs.cell) { all - attrs.hidden } else { all };
        let both = self.view(id);
        let both = self.dense(both);
        let buf = self.buffer(BufKind::Arena, count * all * DType::F32.bytes());
        let sum = View::dense(buf, DType::F32, &[count, all]);
        let name = format!("{}: biases", self.label());
        let (of_w, of_r) = (both.slice(1, 0, own, 1), both.slice(1, all, own, 1));
        self.add(&of_w, &of_r, &sum.slice(1, 0, own, 1), name.clone());
        if own < all {
            self.copy(&both.slice(1, own, all - own, 1), &sum.slice(1, own, all - own, 1), name);
        }
        sum.reshape(&[count * all]).expect("it is dense")
    }

    /// A direction's R: packed, or as the device's kernel takes what is computed.
    fn state_weights(
        &mut self,
        attrs: &RecurrentAttrs,
        id: ValueId,
        direction: usize,
        spec: &RecurrentSpec,
    ) -> Operand {
        let (groups, hidden) = (spec.cell.gates(), spec.hidden);
        let Some(whole) = self.graph.constant(id).cloned() else {
            return self.computed_weights(id, direction, spec);
        };
        let weights = part(&whole, direction, 0..groups * hidden * hidden);
        let weights = weights.reshaped(Shape::from([groups * hidden, hidden, 1, 1]));
        let shape = weights.shape();
        let kind = match attrs.integers {
            true => Weights::Integers { groups, shape },
            false => Weights::Recurrent { gates: groups, shape },
        };
        self.packed(&weights, kind)
    }

    /// Copies a direction's R into panels, whose width the cut knows ([`RecurrentSpec::place`]).
    fn computed_weights(&mut self, id: ValueId, direction: usize, spec: &RecurrentSpec) -> Operand {
        let (gates, hidden) = (spec.cell.gates(), spec.hidden);
        let KernelSpec::Recurrent(cut) = self.cutter.cut(KernelSpec::Recurrent(spec.clone()), &work_of(spec))
        else {
            unreachable!("a cut keeps to the kind")
        };
        let width = cut.panel_width;
        let panels = hidden.div_ceil(width);
        let buf = self.buffer(BufKind::Arena, gates * panels * hidden * width * DType::F32.bytes());
        let to = View::dense(buf, DType::F32, &[gates, panels, hidden, width]);
        let from = self.view(id);
        let from = self.dense(from).slice(0, direction, 1, 1);
        let from = from.reshape(&[gates, hidden, hidden]).expect("it is dense");
        let name = format!("{}: panels", self.label());
        let whole = hidden / width * width;
        for (first, count) in [(0, whole), (whole, hidden - whole)] {
            if count == 0 {
                continue;
            }
            let (parts, lanes) = (count.div_ceil(width), width.min(count));
            let from = from.slice(1, first, count, 1).reshape(&[gates, parts, lanes, hidden]);
            let from = from.expect("an axis comes apart").permute(&[0, 1, 3, 2]);
            let to = to.slice(1, first / width, parts, 1);
            self.copy(&from, &to.slice(3, 0, lanes, 1), name.clone());
            if lanes < width {
                self.fill(&to.slice(3, lanes, width - lanes, 1), DType::F32, 0.0, name.clone());
            }
        }
        self.operand(&to)
    }

    /// Elements of a direction's row of an operand.
    fn row_part(&mut self, id: ValueId, direction: usize, elements: std::ops::Range<usize>) -> Operand {
        if let Some(whole) = self.graph.constant(id) {
            let tensor = part(whole, direction, elements);
            return self.weight(&tensor, reef_plan::Packing::Raw).1;
        }
        let view = self.view(id);
        let row = self.dense(view).slice(0, direction, 1, 1);
        self.operand(&row.slice(1, elements.start, elements.len(), 1))
    }

    /// A direction's R and what belongs to it.
    fn parameters(
        &mut self,
        node: &Node,
        attrs: &RecurrentAttrs,
        operands: &RecurrentOperands<ValueId>,
        direction: usize,
        spec: &RecurrentSpec,
    ) -> Result<Vec<Operand>, CompileError> {
        let (hidden, all) = (spec.hidden, spec.cell.gates() * spec.hidden);
        if attrs.integers {
            self.parameter(node, operands.r, "R")?;
        }
        let mut parameters = vec![self.state_weights(attrs, operands.r, direction, spec)];
        for (id, what) in [(operands.scales, "the list of scales"), (operands.zeros, "that of zero points")] {
            if let Some(id) = id {
                let tensor = part(&self.parameter(node, id, what)?, direction, 0..all);
                parameters.push(self.weight(&tensor, reef_plan::Packing::Raw).1);
            }
        }
        if let Some(bias) = operands.bias.filter(|_| spec.bias) {
            let sums = input_bias(attrs, &self.parameter(node, bias, "the bias")?);
            let sums = sums.reshaped(Shape::from([attrs.directions.len(), all]));
            parameters.push(self.weight(&part(&sums, direction, 0..all), reef_plan::Packing::Raw).1);
        }
        let reset_bias = operands.bias.filter(|_| has_reset_bias(spec.cell));
        let rest = [(reset_bias, 2 * all - hidden..2 * all), (operands.peepholes, 0..3 * hidden)];
        for (id, elements) in rest {
            parameters.extend(id.map(|id| self.row_part(id, direction, elements)));
        }
        Ok(parameters)
    }

    fn side(
        &mut self,
        node: &Node,
        attrs: &RecurrentAttrs,
        operands: &RecurrentOperands<ValueId>,
        direction: usize,
        [steps, batch]: [usize; 2],
        made: &[Option<View>],
    ) -> Result<Side, CompileError> {
        let (cell, hidden, count) = (attrs.cell, attrs.hidden, attrs.directions.len());
        let all = cell.gates() * hidden;
        let mut states = [None, None];
        for (state, id) in states.iter_mut().zip([operands.initial_h, operands.initial_c]) {
            if let Some(id) = id {
                let view = self.view(id);
                *state = Some(self.dense(view).slice(0, direction, 1, 1));
            }
        }
        let mut y = made[0].as_ref().map(|y| y.slice(1, direction, 1, 1));
        if y.is_some() && count > 1 && self.cutter.hosts_recurrent(hidden, attrs.integers) {
            let buf = self.buffer(BufKind::Arena, steps * batch * hidden * DType::F32.bytes());
            y = Some(View::dense(buf, DType::F32, &[steps, 1, batch, hidden]));
        }
        let chosen = &attrs.directions[direction];
        let is_made = |output: usize| made.get(output).is_some_and(Option::is_some);
        let spec = RecurrentSpec {
            cell,
            functions: chosen.functions.clone(),
            clip: attrs.clip,
            reverse: chosen.reverse,
            steps,
            first: 0,
            all_steps: steps,
            batch,
            hidden,
            integers: attrs.integers.then(|| self.graph.value(operands.r).dtype),
            computed: self.graph.constant(operands.r).is_none(),
            sums_row_stride: count * all,
            y_step_stride: y.as_ref().map_or(0, |y| y.strides[0].unsigned_abs()),
            bias: attrs.integers && attrs.bias,
            reset_bias: attrs.bias && has_reset_bias(cell),
            peepholes: attrs.peepholes,
            lengths: attrs.lengths,
            h_before: attrs.initial_h,
            c_before: attrs.initial_c,
            y: is_made(0),
            h_after: is_made(1),
            c_after: is_made(2),
            panel_width: 0,
            tile_rows: batch,
        };
        let parameters = self.parameters(node, attrs, operands, direction, &spec)?;
        let work = work_of(&spec);
        Ok(Side { parameters, spec, work, states, y })
    }

    /// The kernel that takes the next `turns` of a direction.
    fn run_of_steps(
        &mut self,
        direction: usize,
        side: &mut Side,
        turns: std::ops::Range<usize>,
        (sums, lengths): (&View, Option<Operand>),
        made: &[Option<View>],
    ) {
        let whole = &side.spec;
        let (batch, hidden, all) = (whole.batch, whole.hidden, whole.cell.gates() * whole.hidden);
        let last = turns.end == whole.steps;
        let first = if whole.reverse { whole.steps - turns.end } else { turns.start };
        let steps = turns.len();
        let mut spec = RecurrentSpec { first, steps, ..whole.clone() };
        (spec.h_before, spec.c_before) = (side.states[0].is_some(), side.states[1].is_some());
        let mine = sums.slice(0, first * batch, steps * batch, 1).slice(1, direction * all, all, 1);
        let mut reads = vec![mine.operand(Some(spec.sums_row_stride))];
        reads.extend(&side.parameters);
        reads.extend(lengths);
        reads.extend(side.states.iter().flatten().map(|view| view.operand(None)));
        let mut writes = vec![];
        if let Some(y) = &side.y {
            let mine = y.slice(0, first, steps, 1);
            writes.push(mine.operand(Some(spec.y_step_stride)));
        }
        if !last {
            (spec.h_after, spec.c_after) = (true, spec.cell.has_memory());
        }
        for (output, after) in [spec.h_after, spec.c_after].into_iter().enumerate() {
            if !after {
                continue;
            }
            let view = match &made.get(output + 1) {
                Some(Some(made)) if last => made.slice(0, direction, 1, 1),
                _ => {
                    let buf = self.buffer(BufKind::Arena, batch * hidden * DType::F32.bytes());
                    View::dense(buf, DType::F32, &[batch, hidden])
                }
            };
            writes.push(view.operand(None));
            side.states[output] = Some(view);
        }
        let mut name = self.label();
        if whole.reverse {
            name.push_str(" backwards");
        }
        if steps < whole.steps {
            name.push_str(&format!(": steps {first}..{}", first + steps));
        }
        let work = work_of(&spec);
        self.emit(name, work, KernelSpec::Recurrent(spec), reads, writes);
    }
}

/// Whether R's bias of the hidden gate is scaled by the reset gate.
fn has_reset_bias(cell: Cell) -> bool {
    cell == Cell::Gru { linear_before_reset: true }
}

/// Elements of a direction's part of a constant, as a row.
fn part(whole: &Tensor, direction: usize, elements: std::ops::Range<usize>) -> Tensor {
    let size: usize = whole.shape()[1..].iter().product();
    let bytes = whole.dtype().bytes();
    let (begin, count) = (direction * size + elements.start, elements.len());
    let values = AlignedBytes::copy_from(&whole.bytes().as_slice()[begin * bytes..][..count * bytes]);
    Tensor::new(whole.dtype(), Shape::from([count]), Arc::new(values))
}

/// Of all directions, the biases of W and R that are added before any function.
fn input_bias(attrs: &RecurrentAttrs, bias: &Tensor) -> Tensor {
    let (all, hidden) = (attrs.cell.gates() * attrs.hidden, attrs.hidden);
    let apart = if has_reset_bias(attrs.cell) { hidden } else { 0 };
    let sum = |of: &[f32]| -> Vec<f32> {
        (0..all).map(|at| of[at] + if at < all - apart { of[all + at] } else { 0.0 }).collect()
    };
    let values: Vec<f32> = bias.values::<f32>().chunks_exact(2 * all).flat_map(sum).collect();
    Tensor::f32([values.len()], &values)
}

fn work_of(spec: &RecurrentSpec) -> Work {
    let (rows, hidden, gates) = ((spec.steps * spec.batch) as f64, spec.hidden as f64, spec.cell.gates());
    let flops = rows * gates as f64 * hidden * (2.0 * hidden + GATE_FLOPS);
    let elements = spec.steps * spec.batch * (gates + usize::from(spec.y)) * spec.hidden;
    let weights = gates * spec.hidden * spec.hidden;
    streams(flops, words(elements + if spec.integers.is_some() { weights / 4 } else { weights }))
}
