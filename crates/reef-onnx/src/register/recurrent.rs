//! `LSTM`, `GRU` and `RNN` with all their attributes and optional inputs: one loop for each direction, whose
//! body is that of [`super::cell`].
//!
//! The loop's tensors are batch first, `[batch, steps, ...]`, whatever the operator's layout. With
//! `sequence_lens` a mask `[batch, steps, 1]` runs along: after the end of its sequence (before its beginning
//! when running backwards) an element keeps its state and gives zero.

use tract_onnx::model::{ParsingContext, optional_inputs, optional_outputs};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::{Slice, TypedConcat};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_core::ops::logic::comp_lt;
use tract_onnx::tract_core::ops::scan::{InputMapping, OutputMapping, Scan, ScanInfo};
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, IntoExp, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::Expansion;

use super::expanded;

use super::activation::gate_functions;
use super::cell::{Cell, Kind, Parts};

/// Where the operator's optional inputs and outputs are among those that the node names.
#[derive(Clone, Debug)]
struct Slots {
    bias: Option<usize>,
    lengths: Option<usize>,
    initial_h: Option<usize>,
    initial_c: Option<usize>,
    peepholes: Option<usize>,
    y: Option<usize>,
    y_h: Option<usize>,
    y_c: Option<usize>,
}

#[derive(Clone, Debug)]
struct Recurrent {
    /// One for each direction, with the step: 1 or -1.
    cells: Vec<(Cell, isize)>,
    batch_first: bool,
    hidden_size: Option<usize>,
    slots: Slots,
}

/// The reader.
pub(super) fn recurrent(
    _: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    expanded(node, parse(node))
}

/// Why the operator cannot be computed, if so.
pub(super) fn refusal(node: &NodeProto) -> Option<String> {
    parse(node).err()
}

fn parse(node: &NodeProto) -> Result<Recurrent, String> {
    let attribute = |error: TractError| format!("{error:#}");
    let integer = |name: &str| node.get_attr_opt::<i64>(name).map_err(attribute);
    let floats = |name: &str| node.get_attr_opt_vec::<f32>(name).map_err(attribute);
    let flag = |name: &str| match integer(name)?.unwrap_or(0) {
        flag @ (0 | 1) => Ok(flag == 1),
        other => Err(format!("{name} is {other}, not 0 or 1")),
    };
    let kind = match node.op_type.as_str() {
        "LSTM" => Kind::Lstm { input_forget: flag("input_forget")? },
        "GRU" => Kind::Gru { linear_before_reset: integer("linear_before_reset")?.unwrap_or(0) != 0 },
        _ => Kind::Rnn,
    };
    let direction = node.get_attr_opt::<&str>("direction").map_err(attribute)?.unwrap_or("forward");
    let steps: &[isize] = match direction {
        "forward" => &[1],
        "reverse" => &[-1],
        "bidirectional" => &[1, -1],
        other => return Err(format!("direction `{other}` is not forward, reverse or bidirectional")),
    };
    let names = node.get_attr_opt_tvec::<&str>("activations").map_err(attribute)?;
    let defaults = kind.default_activations();
    let (each, wanted) = (defaults.len(), defaults.len() * steps.len());
    // RNN's default lists both directions.
    let names = names.unwrap_or_else(|| defaults.iter().copied().cycle().take(wanted).collect());
    if names.len() != wanted {
        return Err(format!("{} activations for {wanted} places", names.len()));
    }
    let (alphas, betas) = (floats("activation_alpha")?, floats("activation_beta")?);
    let activations = gate_functions(&names, &alphas.unwrap_or_default(), &betas.unwrap_or_default())?;
    let clip = node.get_attr_opt::<f32>("clip").map_err(attribute)?;
    if clip.is_some_and(|bound| bound.is_nan() || bound < 0.0) {
        return Err("clip is negative".into());
    }
    let cells = activations.chunks(each).zip(steps);
    let cells =
        cells.map(|(activations, &step)| (Cell { kind, activations: activations.into(), clip }, step));
    let hidden_size = node.get_attr_opt::<usize>("hidden_size").map_err(attribute)?;
    let slots = Slots::of(node)?;
    Ok(Recurrent { cells: cells.collect(), batch_first: flag("layout")?, hidden_size, slots })
}

impl Slots {
    fn of(node: &NodeProto) -> Result<Slots, String> {
        let mut inputs = optional_inputs(node);
        let mut outputs = optional_outputs(node);
        let mut input = || inputs.next().flatten();
        let mut output = || outputs.next().flatten();
        if [input(), input(), input()].contains(&None) {
            return Err("one of the inputs X, W and R is missing".into());
        }
        let (bias, lengths, initial_h) = (input(), input(), input());
        let (initial_c, peepholes) = (input(), input());
        let (y, y_h, y_c) = (output(), output(), output());
        if y.or(y_h).or(y_c).is_none() {
            return Err("it has no output".into());
        }
        if node.op_type != "LSTM" && initial_c.or(peepholes).or(y_c).is_some() {
            return Err("it has inputs or outputs that only LSTM has".into());
        }
        Ok(Slots { bias, lengths, initial_h, initial_c, peepholes, y, y_h, y_c })
    }
}

impl Expansion for Recurrent {
    fn name(&self) -> StaticName {
        self.cells[0].0.kind.name().into()
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok([self.slots.y, self.slots.y_h, self.slots.y_c].iter().flatten().count())
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        let (x, w, r) = (&inputs[0], &inputs[1], &inputs[2]);
        let (batch, steps) = if self.batch_first { (0, 1) } else { (1, 0) };
        let directions = self.cells.len() as i64;
        let gates = self.cells[0].0.kind.gates() as i64;
        let floating = [self.slots.bias, self.slots.initial_h, self.slots.initial_c, self.slots.peepholes];
        for &slot in [1, 2].iter().chain(floating.iter().flatten()) {
            solver.equals(&inputs[slot].datum_type, &x.datum_type)?;
        }
        for part in [x, w, r] {
            solver.equals(&part.rank, 3)?;
        }
        for part in [w, r] {
            solver.equals(&part.shape[0], directions.to_dim())?;
            solver.equals(&part.shape[1], gates * r.shape[2].bex())?;
        }
        solver.equals(&w.shape[2], &x.shape[2])?;
        for (slot, factor) in [(self.slots.bias, 2 * gates), (self.slots.peepholes, 3)] {
            let Some(part) = slot.map(|slot| &inputs[slot]) else { continue };
            solver.equals(&part.rank, 2)?;
            solver.equals(&part.shape[0], directions.to_dim())?;
            solver.equals(&part.shape[1], factor * r.shape[2].bex())?;
        }
        if let Some(lengths) = self.slots.lengths {
            solver.equals(&inputs[lengths].rank, 1)?;
            solver.equals(&inputs[lengths].shape[0], &x.shape[batch])?;
        }
        let states = [self.slots.initial_h, self.slots.initial_c].into_iter().flatten().map(|at| &inputs[at]);
        let last = [self.slots.y_h, self.slots.y_c].into_iter().flatten().map(|at| &outputs[at]);
        for state in states.chain(last) {
            solver.equals(&state.datum_type, &x.datum_type)?;
            solver.equals(&state.rank, 3)?;
            solver.equals(&state.shape[1 - batch], directions.to_dim())?;
            solver.equals(&state.shape[batch], &x.shape[batch])?;
            solver.equals(&state.shape[2], &r.shape[2])?;
        }
        if let Some(y) = self.slots.y.map(|at| &outputs[at]) {
            let (batch_of_y, direction_of_y) = if self.batch_first { (0, 2) } else { (2, 1) };
            solver.equals(&y.datum_type, &x.datum_type)?;
            solver.equals(&y.rank, 4)?;
            solver.equals(&y.shape[steps], &x.shape[steps])?;
            solver.equals(&y.shape[direction_of_y], directions.to_dim())?;
            solver.equals(&y.shape[batch_of_y], &x.shape[batch])?;
            solver.equals(&y.shape[3], &r.shape[2])?;
        }
        Ok(())
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let hidden = model.outlet_fact(inputs[2])?.shape[2].to_usize()?;
        if let Some(declared) = self.hidden_size.filter(|&declared| declared != hidden) {
            bail!("hidden_size is {declared}, the recurrent weights have {hidden}");
        }
        let x = match self.batch_first {
            true => inputs[0],
            false => model.wire_node(format!("{prefix}.x"), AxisOp::Move(1, 0), &inputs[..1])?[0],
        };
        let mask = self.mask(prefix, model, inputs, x)?;
        let mut sides = vec![];
        for direction in 0..self.cells.len() {
            let prefix = format!("{prefix}.{direction}");
            let side = Side { op: self, prefix: &prefix, direction, x, mask, hidden };
            sides.push(side.wire(model, inputs)?);
        }
        // The axis of directions in `Y`, and in the last states.
        let (axis, state_axis) = if self.batch_first { (2, 1) } else { (1, 0) };
        let mut outputs = tvec!();
        for (slot, axis) in [(self.slots.y, axis), (self.slots.y_h, state_axis), (self.slots.y_c, state_axis)]
        {
            let Some(slot) = slot else { continue };
            let parts: Vec<OutletId> = sides.iter().map(|side| side[slot]).collect();
            let name = format!("{prefix}.output.{slot}");
            outputs.push(model.wire_node(name, TypedConcat::new(axis), &parts)?[0]);
        }
        Ok(outputs)
    }
}

impl Recurrent {
    /// `[batch, steps, 1]`: whether a step is inside its sequence; nothing if all always are.
    fn mask(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
        x: OutletId,
    ) -> TractResult<Option<OutletId>> {
        let Some(lengths) = self.slots.lengths.map(|slot| inputs[slot]) else { return Ok(None) };
        let steps = model.outlet_fact(x)?.shape[1].to_usize()?;
        if let Some(known) = &model.outlet_fact(lengths)?.konst {
            let known = known.cast_to::<i64>()?;
            let known = known.try_as_plain_ram()?;
            let known = known.as_slice::<i64>()?;
            if let Some(length) = known.iter().find(|&&length| length < 0 || length > steps as i64) {
                bail!("sequence_lens holds {length}, sequences have {steps} steps");
            }
            if known.iter().all(|&length| length == steps as i64) {
                return Ok(None);
            }
        }
        let mut wire = model.wire_node(format!("{prefix}.lengths"), cast(DatumType::I64), &[lengths])?;
        for axis in [1, 2] {
            wire = model.wire_node(format!("{prefix}.lengths.{axis}"), AxisOp::Add(axis), &wire)?;
        }
        let at: Vec<i64> = (0..steps as i64).collect();
        let at = tensor1(&at).into_shape(&[1, steps, 1])?;
        let at = model.add_const(format!("{prefix}.steps"), at)?;
        let less = TypedBinOp(comp_lt(), None);
        Ok(Some(model.wire_node(format!("{prefix}.mask"), less, &[at, wire[0]])?[0]))
    }
}

/// One direction under construction.
struct Side<'a> {
    op: &'a Recurrent,
    prefix: &'a str,
    direction: usize,
    /// `[batch, steps, inputs]`.
    x: OutletId,
    mask: Option<OutletId>,
    hidden: usize,
}

impl Side<'_> {
    /// The operator's outputs for this direction, with an axis of one for the directions.
    fn wire(&self, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let slots = &self.op.slots;
        let w = self.part(model, "w", inputs[1])?;
        let w = self.node(model, "w.2", AxisOp::Rm(0), w)?;
        let r = self.part(model, "r", inputs[2])?;
        let r = self.node(model, "r.2", AxisOp::Rm(0), r)?;
        let bias = slots.bias.map(|at| self.part(model, "b", inputs[at])).transpose()?;
        let peepholes = slots.peepholes.map(|at| self.part(model, "p", inputs[at])).transpose()?;
        let h = self.state(model, "h", slots.initial_h.map(|at| inputs[at]))?;
        let mut states = vec![h];
        if self.cell().kind.has_memory() {
            states.push(self.state(model, "c", slots.initial_c.map(|at| inputs[at]))?);
        }
        let mut outputs = self.scan(model, [w, r], bias, peepholes, &states)?;
        if let Some(slot) = slots.y {
            // [batch, steps, hidden], with an axis of one before the batch or after the steps.
            outputs[slot] = if self.op.batch_first {
                self.node(model, "y", AxisOp::Add(2), outputs[slot])?
            } else {
                let y = self.node(model, "y.steps", AxisOp::Move(1, 0), outputs[slot])?;
                self.node(model, "y", AxisOp::Add(1), y)?
            };
        }
        for slot in [slots.y_h, slots.y_c].into_iter().flatten().filter(|_| !self.op.batch_first) {
            outputs[slot] = self.node(model, &format!("last.{slot}"), AxisOp::Move(1, 0), outputs[slot])?;
        }
        Ok(outputs)
    }

    fn cell(&self) -> &Cell {
        &self.op.cells[self.direction].0
    }

    fn step(&self) -> isize {
        self.op.cells[self.direction].1
    }

    fn node(
        &self,
        model: &mut TypedModel,
        name: &str,
        op: impl Into<Box<dyn TypedOp>>,
        input: OutletId,
    ) -> TractResult<OutletId> {
        Ok(model.wire_node(format!("{}.{name}", self.prefix), op, &[input])?[0])
    }

    /// This direction's part of a parameter.
    fn part(&self, model: &mut TypedModel, name: &str, whole: OutletId) -> TractResult<OutletId> {
        self.node(model, name, Slice::new(0, self.direction, self.direction + 1), whole)
    }

    /// The initial state as `[batch, 1, hidden]`: zero unless given.
    fn state(&self, model: &mut TypedModel, name: &str, given: Option<OutletId>) -> TractResult<OutletId> {
        let Some(given) = given else {
            let fact = model.outlet_fact(self.x)?;
            let shape = [fact.shape[0].to_usize()?, 1, self.hidden];
            let zero = Tensor::zero_dt(fact.datum_type, &shape)?;
            return model.add_const(format!("{}.{name}", self.prefix), zero);
        };
        let batch_first = match self.op.batch_first {
            true => given,
            false => self.node(model, &format!("{name}.batch"), AxisOp::Move(1, 0), given)?,
        };
        self.node(model, name, Slice::new(1, self.direction, self.direction + 1), batch_first)
    }

    fn scan(
        &self,
        model: &mut TypedModel,
        [w, r]: [OutletId; 2],
        bias: Option<OutletId>,
        peepholes: Option<OutletId>,
        states: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let mut body = TypedModel { symbols: model.symbols.clone(), ..TypedModel::default() };
        let along = ScanInfo { axis: 1, chunk: self.step() };
        let (mut outer, mut mappings) = (vec![], vec![]);
        let mut enter = |name: &str, wire: OutletId, mapping: InputMapping| {
            let mut fact = model.outlet_fact(wire)?.without_value();
            if mapping.is_scan() {
                fact.shape.set(1, 1.to_dim());
            }
            outer.push(wire);
            mappings.push(mapping);
            body.add_source(name, fact)
        };
        let x = enter("x", self.x, InputMapping::Scan(along))?;
        let w = enter("w", w, InputMapping::Full)?;
        let r = enter("r", r, InputMapping::Full)?;
        let bias = bias.map(|wire| enter("b", wire, InputMapping::Full)).transpose()?;
        let peepholes = peepholes.map(|wire| enter("p", wire, InputMapping::Full)).transpose()?;
        let mask = self.mask.map(|wire| enter("mask", wire, InputMapping::Scan(along))).transpose()?;
        let names = ["h", "c"].iter().zip(states);
        let states: Vec<OutletId> =
            names.map(|(name, &wire)| enter(name, wire, InputMapping::State)).collect::<TractResult<_>>()?;
        let parts = Parts {
            x,
            w,
            r,
            bias,
            peepholes,
            mask,
            h: states[0],
            c: states.get(1).copied(),
            hidden: self.hidden,
        };
        let results = self.cell().wire(&mut body, &parts)?;
        body.select_output_outlets(&results)?;
        let slots = &self.op.slots;
        let output = |state: bool, last: Option<usize>, all: Option<usize>| OutputMapping {
            state,
            full_dim_hint: None,
            last_value_slot: last,
            scan: all.map(|slot| (slot, along)),
        };
        let mut outputs = vec![output(false, None, slots.y), output(true, slots.y_h, None)];
        if states.len() == 2 {
            outputs.push(output(true, slots.y_c, None));
        }
        let mut scan = Scan::new(body, mappings, outputs, 0)?;
        // Every request is a new sequence.
        scan.reset_every_turn = true;
        model.wire_node(self.prefix, scan, &outer)
    }
}
