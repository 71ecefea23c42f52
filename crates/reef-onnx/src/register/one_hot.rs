//! `OneHot` as a comparison of every index with the places of the new axis.
//!
//! An index outside of `-depth` to `depth - 1` makes a row of off-values, as the specification has it; so
//! does one with a fraction.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_core::ops::logic::{CompEq, CompLT, Iff};
use tract_onnx::tract_core::ops::math::add;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, IntoExp, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

#[derive(Clone, Debug)]
struct OneHot {
    axis: i64,
}

impl OneHot {
    /// The new axis, of a result of `rank` axes.
    fn axis(&self, rank: usize) -> TractResult<usize> {
        let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
        let axis = usize::try_from(axis).ok().filter(|axis| *axis < rank);
        axis.with_context(|| format!("axis {} of a result of {rank} axes", self.axis))
    }
}

/// What `depth` says.
fn depth_of(depth: &Tensor) -> TractResult<usize> {
    let depth = depth.cast_to::<i64>()?;
    let depth = depth.try_as_plain_ram()?;
    let depth = depth.as_slice::<i64>()?.first().copied().context("depth has no element")?;
    usize::try_from(depth).with_context(|| format!("depth is {depth}"))
}

impl Expansion for OneHot {
    fn name(&self) -> StaticName {
        "OneHot".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        if inputs.len() != 3 || outputs.len() != 1 {
            bail!("it takes indices, depth and values");
        }
        solver.equals(&inputs[2].datum_type, &outputs[0].datum_type)?;
        solver.equals(inputs[0].rank.bex() + 1, &outputs[0].rank)?;
        solver.equals(&inputs[2].rank, 1)?;
        solver.equals(&inputs[2].shape[0], 2.to_dim())?;
        solver.given(&inputs[0].rank, move |solver, rank| {
            let axis = self.axis(rank as usize + 1)?;
            for at in 0..rank as usize {
                solver.equals(&inputs[0].shape[at], &outputs[0].shape[at + usize::from(at >= axis)])?;
            }
            solver.given(&inputs[1].value, move |solver, depth| {
                solver.equals(&outputs[0].shape[axis], depth_of(&depth)?.to_dim())
            })
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let known = |model: &TypedModel, input: usize, what: &str| {
            let konst = model.outlet_fact(inputs[input])?.konst.clone();
            konst.with_context(|| format!("{what} must be constant"))
        };
        let depth = depth_of(&*known(model, 1, "its depth")?)?;
        let values = known(model, 2, "its values")?;
        let rank = model.outlet_fact(inputs[0])?.rank() + 1;
        let axis = self.axis(rank)?;
        let name = |part: &str| format!("{prefix}.{part}");
        let all_ones = vec![1usize; rank];
        let compared = match model.outlet_fact(inputs[0])?.datum_type {
            DatumType::F16 => DatumType::F32,
            datum if datum.is_float() => datum,
            _ => DatumType::I64,
        };
        let numbers = |shape: &[usize], values: &[i64]| -> TractResult<Tensor> {
            Ok(Tensor::from_shape(shape, values)?.cast_to_dt(compared)?.into_owned())
        };
        let scalar = |value: i64| numbers(&all_ones, &[value]);
        let index = model.wire_node(name("index"), cast(compared), &[inputs[0]])?;
        let index = model.wire_node(name("axis"), AxisOp::Add(axis), &index)?[0];
        // Negative indices count from the end.
        let (zero, span) = (
            model.add_const(name("zero"), scalar(0)?)?,
            model.add_const(name("depth"), scalar(depth as i64)?)?,
        );
        let negative =
            model.wire_node(name("negative"), TypedBinOp(Box::new(CompLT), None), &[index, zero])?[0];
        let wrapped = model.wire_node(name("wrapped"), add(), &[index, span])?[0];
        let place = model.wire_node(name("place"), Iff, &[negative, wrapped, index])?[0];
        let mut shape = all_ones.clone();
        shape[axis] = depth;
        let places: Vec<i64> = (0..depth as i64).collect();
        let places = model.add_const(name("places"), numbers(&shape, &places)?)?;
        let hot = model.wire_node(name("hot"), TypedBinOp(Box::new(CompEq), None), &[place, places])?[0];
        let value = |at: usize| -> TractResult<Tensor> {
            let mut value = values.nth(at)?;
            value.set_shape(&all_ones)?;
            Ok(value)
        };
        let (off, on) = (model.add_const(name("off"), value(0)?)?, model.add_const(name("on"), value(1)?)?);
        model.wire_node(prefix, Iff, &[hot, on, off])
    }
}

/// Reads a `OneHot` node.
pub(super) fn one_hot(
    _context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let axis = node.get_attr_opt("axis")?.unwrap_or(-1);
    Ok((expand(OneHot { axis }), vec![]))
}
