//! `GlobalLpPool`: the p-norm over all spatial axes, from operators that have native kernels.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::math::{abs, pow};
use tract_onnx::tract_core::ops::nn::{Reduce, Reducer};
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::Expansion;

use super::expanded;

#[derive(Clone, Debug)]
struct GlobalLpPool {
    p: f32,
}

/// The reader.
pub(super) fn global_lp_pool(
    _: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    expanded(node, parse(node))
}

/// Why the operator cannot be computed, if so.
pub(super) fn refusal(node: &NodeProto) -> Option<String> {
    parse(node).err()
}

fn parse(node: &NodeProto) -> Result<GlobalLpPool, String> {
    let p = node.get_attr_opt::<i64>("p").map_err(|error| format!("{error:#}"))?.unwrap_or(2);
    if p < 1 {
        return Err(format!("p is {p}"));
    }
    Ok(GlobalLpPool { p: p as f32 })
}

impl Expansion for GlobalLpPool {
    fn name(&self) -> StaticName {
        "GlobalLpPool".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        solver.equals(&inputs[0].rank, &outputs[0].rank)?;
        solver.equals(&inputs[0].shape[0], &outputs[0].shape[0])?;
        solver.equals(&inputs[0].shape[1], &outputs[0].shape[1])?;
        solver.given(&inputs[0].rank, move |solver, rank| {
            (2..rank as usize).try_for_each(|axis| solver.equals(&outputs[0].shape[axis], 1.to_dim()))
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let fact = model.outlet_fact(inputs[0])?.clone();
        let rank = fact.rank();
        let mut exponent = |name: &str, value: f32| -> TractResult<OutletId> {
            let value = tensor0(value).cast_to_dt(fact.datum_type)?.into_owned();
            model.add_const(format!("{prefix}.{name}"), value.broadcast_into_rank(rank)?)
        };
        let (up, down) = (exponent("p", self.p)?, exponent("root", 1.0 / self.p)?);
        let sizes = model.wire_node(format!("{prefix}.abs"), abs(), inputs)?;
        let powers = model.wire_node(format!("{prefix}.powers"), pow(), &[sizes[0], up])?;
        let sum = Reduce::new((2..rank).collect(), Reducer::Sum);
        let sum = model.wire_node(format!("{prefix}.sum"), sum, &powers)?;
        model.wire_node(prefix, pow(), &[sum[0], down])
    }
}
