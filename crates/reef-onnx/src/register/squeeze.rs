//! `Squeeze`, with its axes in any order and of either sign, or without any.

use tract_onnx::model::{ParsingContext, optional_inputs};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::identity::Identity;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

use super::own::{axis_of, integers};

/// Where the axes come from.
#[derive(Clone, Debug)]
enum Axes {
    Given(Vec<i64>),
    Input(usize),
    /// All of extent 1.
    Unit,
}

#[derive(Clone, Debug)]
struct Squeeze {
    axes: Axes,
}

/// `axes` from the front, descending.
fn resolved(axes: &[i64], rank: usize) -> TractResult<Vec<usize>> {
    let mut resolved: Vec<usize> =
        axes.iter().map(|&axis| axis_of(axis, rank)).collect::<TractResult<_>>()?;
    resolved.sort_unstable_by(|a, b| b.cmp(a));
    resolved.dedup();
    Ok(resolved)
}

/// The axes of extent 1, descending.
fn units(shape: &[TDim]) -> Vec<usize> {
    (0..shape.len()).rev().filter(|&axis| shape[axis] == 1.to_dim()).collect()
}

fn without<T: Clone>(shape: &[T], axes: &[usize]) -> TVec<T> {
    (0..shape.len()).filter(|axis| !axes.contains(axis)).map(|axis| shape[axis].clone()).collect()
}

impl Expansion for Squeeze {
    fn name(&self) -> StaticName {
        "Squeeze".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        solver.given(&inputs[0].shape, move |solver, shape| {
            let with = move |solver: &mut Solver<'r>, shape: &[TDim], axes: &[usize]| {
                for &axis in axes {
                    let extent = &shape[axis];
                    ensure!(
                        extent.to_i64().is_err() || *extent == 1.to_dim(),
                        "axis {axis} has extent {extent}"
                    );
                }
                solver.equals(&outputs[0].shape, without(shape, axes))
            };
            match &self.axes {
                Axes::Given(axes) => with(solver, &shape, &resolved(axes, shape.len())?),
                Axes::Unit => with(solver, &shape, &units(&shape)),
                Axes::Input(input) => solver.given(&inputs[*input].value, move |solver, axes| {
                    with(solver, &shape, &resolved(&integers(&axes)?, shape.len())?)
                }),
            }
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
        let axes = match &self.axes {
            Axes::Given(axes) => resolved(axes, shape.len())?,
            Axes::Unit => units(&shape),
            Axes::Input(input) => {
                let axes = model.outlet_fact(inputs[*input])?.konst.clone();
                resolved(&integers(&*axes.context("its axes depend on data")?)?, shape.len())?
            }
        };
        let mut wire = tvec!(inputs[0]);
        for axis in axes {
            wire = model.wire_node(format!("{prefix}.axis.{axis}"), AxisOp::Rm(axis), &wire)?;
        }
        model.wire_node(prefix, Identity, &wire)
    }
}

/// Reads a `Squeeze` node.
pub(super) fn squeeze(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let axes = match context.onnx_operator_set_version {
        ..13 => node.get_attr_opt_vec("axes")?.map_or(Axes::Unit, Axes::Given),
        _ => optional_inputs(node).nth(1).flatten().map_or(Axes::Unit, Axes::Input),
    };
    Ok((expand(Squeeze { axes }), vec![]))
}
