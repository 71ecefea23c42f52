//! `Pad`: negative padding cuts off first, then constants are added natively; the modes that repeat the input
//! gather its elements.

use tract_onnx::model::{ParsingContext, optional_inputs};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::{Gather, Pad as TractPad, PadMode, Slice};
use tract_onnx::tract_core::ops::identity::Identity;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::Expansion;

use super::expanded;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Constant,
    Edge,
    Reflect,
    Wrap,
}

/// Where the padding comes from.
#[derive(Clone, Debug)]
enum Source {
    /// Before opset 11.
    Attributes { pads: Vec<i64>, value: f32 },
    /// The indices of the inputs.
    Inputs { value: Option<usize>, axes: Option<usize> },
}

#[derive(Clone, Debug)]
struct Pad {
    mode: Mode,
    source: Source,
}

/// The reader.
pub(super) fn pad(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    expanded(node, parse(node, context.onnx_operator_set_version))
}

/// Why the operator cannot be computed, if so.
pub(super) fn refusal(node: &NodeProto, opset: i64) -> Option<String> {
    parse(node, opset).err()
}

fn parse(node: &NodeProto, opset: i64) -> Result<Pad, String> {
    let attribute = |error: TractError| format!("{error:#}");
    let mode = match node.get_attr_opt::<&str>("mode").map_err(attribute)?.unwrap_or("constant") {
        "constant" => Mode::Constant,
        "edge" => Mode::Edge,
        "reflect" => Mode::Reflect,
        "wrap" => Mode::Wrap,
        other => return Err(format!("mode `{other}`")),
    };
    let source = if opset < 11 {
        let name = if opset < 2 { "paddings" } else { "pads" };
        let pads = node.get_attr_opt_vec::<i64>(name).map_err(attribute)?;
        let pads = pads.ok_or_else(|| format!("{name} is missing"))?;
        let value = node.get_attr_opt::<f32>("value").map_err(attribute)?.unwrap_or(0.0);
        Source::Attributes { pads, value }
    } else {
        let mut inputs = optional_inputs(node).skip(1);
        let mut input = || inputs.next().flatten();
        if input().is_none() {
            return Err("the input pads is missing".into());
        }
        Source::Inputs { value: input(), axes: input() }
    };
    Ok(Pad { mode, source })
}

/// What is added at both ends of every axis, from the lists that a node gives.
fn per_axis(rank: usize, pads: &[i64], axes: Option<&[i64]>) -> TractResult<Vec<(i64, i64)>> {
    let axes = axes.map_or_else(|| (0..rank as i64).collect(), <[i64]>::to_vec);
    if pads.len() != 2 * axes.len() {
        bail!("{} pads for {} axes", pads.len(), axes.len());
    }
    let mut added = vec![(0, 0); rank];
    for (at, &axis) in axes.iter().enumerate() {
        let resolved = if axis < 0 { axis + rank as i64 } else { axis };
        let Some(place) = usize::try_from(resolved).ok().and_then(|axis| added.get_mut(axis)) else {
            bail!("axis {axis} of {rank}");
        };
        *place = (pads[at], pads[at + axes.len()]);
    }
    Ok(added)
}

impl Expansion for Pad {
    fn name(&self) -> StaticName {
        "Pad".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        solver.equals(&inputs[0].rank, &outputs[0].rank)?;
        solver.given(&inputs[0].shape, move |solver, shape| {
            let apply = move |solver: &mut Solver<'r>, pads: &[i64], axes: Option<&[i64]>| {
                for (axis, (before, after)) in per_axis(shape.len(), pads, axes)?.into_iter().enumerate() {
                    solver.equals(&outputs[0].shape[axis], shape[axis].clone() + before + after)?;
                }
                Ok(())
            };
            match &self.source {
                Source::Attributes { pads, .. } => apply(solver, pads, None),
                Source::Inputs { axes: None, .. } => {
                    solver.given(&inputs[1].value, move |solver, pads| apply(solver, &integers(&pads)?, None))
                }
                Source::Inputs { axes: Some(axes), .. } => {
                    solver.given_2(&inputs[1].value, &inputs[*axes].value, move |solver, pads, axes| {
                        apply(solver, &integers(&pads)?, Some(&integers(&axes)?))
                    })
                }
            }
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let x = model.outlet_fact(inputs[0])?.clone();
        let known = |slot: usize, what: &str| {
            let known = model.outlet_fact(inputs[slot])?.konst.clone();
            known.with_context(|| format!("input `{what}` depends on data, which is not supported"))
        };
        let (added, value) = match &self.source {
            Source::Attributes { pads, value } => {
                (per_axis(x.rank(), pads, None)?, tensor0(*value).cast_to_dt(x.datum_type)?.into_owned())
            }
            Source::Inputs { value, axes } => {
                let pads = integers(&*known(1, "pads")?)?;
                let axes = axes.map(|slot| integers(&*known(slot, "axes")?)).transpose()?;
                let value = match value.filter(|_| self.mode == Mode::Constant) {
                    Some(slot) => (*known(slot, "constant_value")?).clone(),
                    None => Tensor::zero_scalar_dt(x.datum_type)?,
                };
                if value.len() != 1 || value.datum_type() != x.datum_type {
                    bail!("{value:?} is not one {:?}", x.datum_type);
                }
                (per_axis(x.rank(), &pads, axes.as_deref())?, value.into_shape(&[])?)
            }
        };
        let mut wire = inputs[0];
        for (axis, &(before, after)) in added.iter().enumerate().filter(|(_, pads)| pads.0.min(pads.1) < 0) {
            let extent = x.shape[axis].to_i64()?;
            let (start, end) = ((-before).max(0), extent - (-after).max(0));
            if start > end {
                bail!("pads {before} and {after} cut off more than the {extent} elements of axis {axis}");
            }
            let op = Slice::new(axis, start as usize, end as usize);
            wire = model.wire_node(format!("{prefix}.cut.{axis}"), op, &[wire])?[0];
        }
        let pads: Vec<(usize, usize)> =
            added.iter().map(|&(before, after)| (before.max(0) as usize, after.max(0) as usize)).collect();
        if self.mode == Mode::Constant {
            let op = TractPad { mode: PadMode::Constant(value.into_arc_tensor()), pads };
            return model.wire_node(prefix, op, &[wire]);
        }
        for (axis, &(before, after)) in pads.iter().enumerate().filter(|(_, pads)| **pads != (0, 0)) {
            let extent = model.outlet_fact(wire)?.shape[axis].to_usize()?;
            let from = self.mode.sources(extent, before, after)?;
            let from = model.add_const(format!("{prefix}.from.{axis}"), tensor1(&from))?;
            wire = model.wire_node(format!("{prefix}.axis.{axis}"), Gather::new(axis), &[wire, from])?[0];
        }
        model.wire_node(prefix, Identity, &[wire])
    }
}

impl Mode {
    /// The elements of an axis that every element of the padded axis repeats.
    fn sources(self, extent: usize, before: usize, after: usize) -> TractResult<Vec<i64>> {
        let (extent, before, after) = (extent as i64, before as i64, after as i64);
        let longest = if self == Mode::Reflect { extent - 1 } else { i64::MAX };
        if extent == 0 || before.max(after) > longest {
            bail!("{before} and {after} elements cannot be made of an axis of {extent}");
        }
        let source = |at: i64| match self {
            Mode::Wrap => at.rem_euclid(extent),
            Mode::Reflect if at < 0 => -at,
            Mode::Reflect if at >= extent => 2 * (extent - 1) - at,
            _ => at.clamp(0, extent - 1),
        };
        Ok((-before..extent + after).map(source).collect())
    }
}

fn integers(tensor: &Tensor) -> TractResult<Vec<i64>> {
    let cast = tensor.cast_to::<i64>()?;
    let plain = cast.try_as_plain_ram()?;
    Ok(plain.as_slice::<i64>()?.to_vec())
}
