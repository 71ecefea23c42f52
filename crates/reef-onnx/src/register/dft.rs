//! `DFT` in both its forms: the axis is an attribute, or since operator set 20 an input that is -2 if
//! left out.

use tract_onnx::model::{ParsingContext, optional_inputs};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::{Gather, Pad, PadMode, Slice};
use tract_onnx::tract_core::ops::fft::Fft;
use tract_onnx::tract_core::ops::math::{div, mul};
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

#[derive(Clone, Debug)]
struct Dft {
    axis: Axis,
    /// The input that is the length.
    length: Option<usize>,
    inverse: bool,
    onesided: bool,
}

#[derive(Clone, Copy, Debug)]
enum Axis {
    Known(i64),
    Input(usize),
}

/// Where and over how many elements to transform.
struct Plan {
    axis: usize,
    length: usize,
}

impl Dft {
    /// Half a spectrum to a real signal.
    fn to_real(&self) -> bool {
        self.inverse && self.onesided
    }

    fn plan(&self, shape: &[usize], axis: i64, length: Option<i64>) -> TractResult<Plan> {
        let signal_axes = shape.len() as i64 - 1;
        let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
        ensure!((0..signal_axes).contains(&axis), "DFT: axis {axis} of a signal with {signal_axes} axes");
        let given = shape[axis as usize];
        let length = match length {
            Some(length) => usize::try_from(length)?,
            None if self.to_real() => 2 * given.saturating_sub(1),
            None => given,
        };
        ensure!(length > 0, "DFT: a transform of no elements");
        Ok(Plan { axis: axis as usize, length })
    }

    fn output_shape(&self, shape: &[usize], plan: &Plan) -> TVec<TDim> {
        let mut dims: TVec<usize> = shape.into();
        let half = self.onesided && !self.inverse;
        dims[plan.axis] = if half { plan.length / 2 + 1 } else { plan.length };
        dims[shape.len() - 1] = if self.to_real() { 1 } else { 2 };
        dims.iter().map(|dim| dim.to_dim()).collect()
    }

    fn shape_rule<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        (inputs, outputs): (&'p [TensorProxy], &'p [TensorProxy]),
        axis: i64,
        length: Option<i64>,
    ) -> InferenceResult {
        solver.given(&inputs[0].shape, move |solver, shape| {
            let Some(shape) = shape.iter().map(|dim| dim.to_usize().ok()).collect::<Option<TVec<usize>>>()
            else {
                return Ok(());
            };
            let plan = self.plan(&shape, axis, length)?;
            solver.equals(&outputs[0].shape, self.output_shape(&shape, &plan))
        })
    }

    fn length_rule<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        (inputs, outputs): (&'p [TensorProxy], &'p [TensorProxy]),
        axis: i64,
    ) -> InferenceResult {
        let Some(slot) = self.length else {
            return self.shape_rule(solver, (inputs, outputs), axis, None);
        };
        solver.given(&inputs[slot].value, move |solver, length| {
            self.shape_rule(solver, (inputs, outputs), axis, Some(length.cast_to_scalar()?))
        })
    }

    /// The input with `extent` elements along `axis`: cut, or zeros after its own.
    fn resized(
        prefix: &str,
        model: &mut TypedModel,
        input: OutletId,
        axis: usize,
        extent: usize,
    ) -> TractResult<OutletId> {
        let fact = model.outlet_fact(input)?.clone();
        let given = fact.shape[axis].to_usize()?;
        if given > extent {
            return Ok(model.wire_node(format!("{prefix}.cut"), Slice::new(axis, 0, extent), &[input])?[0]);
        }
        if given == extent {
            return Ok(input);
        }
        let mut pads = vec![(0, 0); fact.rank()];
        pads[axis] = (0, extent - given);
        let zero = Tensor::zero_scalar_dt(fact.datum_type)?.into_arc_tensor();
        Ok(model.wire_node(format!("{prefix}.pad"), Pad { pads, mode: PadMode::Constant(zero) }, &[input])?
            [0])
    }

    /// The whole spectrum of a real signal from its half: bin `k` is the conjugate of bin `length - k`.
    fn mirrored(prefix: &str, model: &mut TypedModel, half: OutletId, plan: &Plan) -> TractResult<OutletId> {
        let (bins, fact) = (plan.length / 2 + 1, model.outlet_fact(half)?.clone());
        let source = |bin: usize| if bin < bins { bin } else { plan.length - bin };
        let sources: Vec<i64> = (0..plan.length).map(|bin| source(bin) as i64).collect();
        let sources = model.add_const(format!("{prefix}.sources"), tensor1(&sources))?;
        let gather = Gather { axis: plan.axis, output_type: None };
        let whole = model.wire_node(format!("{prefix}.whole"), gather, &[half, sources])?[0];
        let signs: Vec<f64> =
            (0..plan.length).flat_map(|bin| [1.0, if bin < bins { 1.0 } else { -1.0 }]).collect();
        let mut shape = vec![1; fact.rank()];
        shape[plan.axis] = plan.length;
        shape[fact.rank() - 1] = 2;
        let signs = Tensor::from_shape(&shape, &signs)?.cast_to_dt(fact.datum_type)?.into_owned();
        let signs = model.add_const(format!("{prefix}.signs"), signs)?;
        Ok(model.wire_node(format!("{prefix}.conjugate"), mul(), &[whole, signs])?[0])
    }
}

impl Expansion for Dft {
    fn name(&self) -> StaticName {
        "DFT".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        solver.equals(&inputs[0].rank, &outputs[0].rank)?;
        match self.axis {
            Axis::Known(axis) => self.length_rule(solver, (inputs, outputs), axis),
            Axis::Input(slot) => solver.given(&inputs[slot].value, move |solver, axis| {
                self.length_rule(solver, (inputs, outputs), axis.cast_to_scalar()?)
            }),
        }
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let scalar = |slot: usize, name: &str| -> TractResult<i64> {
            let constant = model.outlet_fact(inputs[slot])?.konst.clone();
            let constant = constant.with_context(|| format!("DFT: input {name} has to be a constant"))?;
            constant.cast_to_scalar()
        };
        let axis = match self.axis {
            Axis::Known(axis) => axis,
            Axis::Input(slot) => scalar(slot, "axis")?,
        };
        let length = self.length.map(|slot| scalar(slot, "dft_length")).transpose()?;
        let fact = model.outlet_fact(inputs[0])?.clone();
        let shape = fact.shape.as_concrete().context("DFT: the shape of its input depends on data")?;
        let (plan, last) = (self.plan(shape, axis, length)?, shape.len() - 1);
        let wire = Self::resized(&format!("{prefix}.imaginary"), model, inputs[0], last, 2)?;
        let extent = if self.to_real() { plan.length / 2 + 1 } else { plan.length };
        let mut wire = Self::resized(&format!("{prefix}.length"), model, wire, plan.axis, extent)?;
        if self.to_real() {
            wire = Self::mirrored(prefix, model, wire, &plan)?;
        }
        let fft = Fft { axis: plan.axis, inverse: self.inverse };
        wire = model.wire_node(format!("{prefix}.fft"), fft, &[wire])?[0];
        if self.inverse {
            let length = tensor0(plan.length as f64).cast_to_dt(fact.datum_type)?.into_owned();
            let length =
                model.add_const(format!("{prefix}.elements"), length.broadcast_into_rank(shape.len())?)?;
            wire = model.wire_node(format!("{prefix}.mean"), div(), &[wire, length])?[0];
        }
        if self.onesided {
            let part = if self.inverse {
                Slice::new(last, 0, 1)
            } else {
                Slice::new(plan.axis, 0, plan.length / 2 + 1)
            };
            wire = model.wire_node(format!("{prefix}.onesided"), part, &[wire])?[0];
        }
        Ok(tvec!(wire))
    }
}

/// The reader.
pub(super) fn dft(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let flag = |name: &str| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0);
    let mut optional = optional_inputs(node).skip(1);
    let (length, axis) = (optional.next().flatten(), optional.next().flatten());
    let axis = match axis {
        _ if context.onnx_operator_set_version < 20 => Axis::Known(node.get_attr_opt("axis")?.unwrap_or(1)),
        Some(slot) => Axis::Input(slot),
        None => Axis::Known(-2),
    };
    Ok((expand(Dft { axis, length, inverse: flag("inverse")?, onesided: flag("onesided")? }), vec![]))
}
