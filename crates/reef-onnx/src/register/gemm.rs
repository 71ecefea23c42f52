//! `Gemm`: `alpha·A·B + beta·C` in the type of its operands.
//!
//! f32 and f16 become tract's product and sums, which have native kernels, with factors of the same type;
//! other types are computed on the host.

use tract_onnx::model::{Onnx, ParsingContext, optional_inputs};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::change_axes::wire_with_rank_broadcast;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::math;

use super::own::{Built, Kernel, Own, Reading, facts_of, own, refused};
use super::values::{Values, broadcast};

/// The operator; its inputs are A, B and perhaps C.
#[derive(Clone, Debug)]
struct Gemm {
    alpha: f32,
    beta: f32,
    turned: (bool, bool),
}

impl Kernel for Gemm {
    fn name(&self) -> &'static str {
        "Gemm"
    }

    fn facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let datum = inputs[0].datum_type;
        ensure!(inputs.iter().all(|fact| fact.datum_type == datum), "operands of different types");
        ensure!(datum.is_float() || datum.is_integer(), "elements of type {datum:?} are not supported");
        ensure!(inputs[0].rank() == 2 && inputs[1].rank() == 2, "its operands are no matrices");
        let (a, b) = (&inputs[0].shape, &inputs[1].shape);
        let (m, k) = if self.turned.0 { (&a[1], &a[0]) } else { (&a[0], &a[1]) };
        let (l, n) = if self.turned.1 { (&b[1], &b[0]) } else { (&b[0], &b[1]) };
        ensure!(k == l, "the inner extents are {k} and {l}");
        Ok(tvec!(datum.fact([m.clone(), n.clone()])))
    }

    fn eval(&self, inputs: &[&Tensor]) -> TractResult<TVec<Tensor>> {
        let (a, b) = (inputs[0].shape(), inputs[1].shape());
        let (m, k) = if self.turned.0 { (a[1], a[0]) } else { (a[0], a[1]) };
        let n = if self.turned.1 { b[0] } else { b[1] };
        let left = |i: usize, l: usize| if self.turned.0 { l * m + i } else { i * k + l };
        let right = |l: usize, j: usize| if self.turned.1 { j * k + l } else { l * n + j };
        let cells = || (0..m * n).map(|cell| (cell / n, cell % n));
        let mut added: Vec<usize> = vec![];
        if let Some(c) = inputs.get(2) {
            broadcast(&[m, n], &[c.shape()], |at| added.push(at[0]));
        }
        let values: Vec<Values> = inputs.iter().map(|input| Values::of(input)).collect::<TractResult<_>>()?;
        let whole = matches!(values[0], Values::Whole(_)) && self.alpha == 1.0 && self.beta == 1.0;
        let made = if whole {
            let (x, y) = (values[0].whole(), values[1].whole());
            let c = values.get(2).map(Values::whole);
            Values::Whole(
                cells()
                    .enumerate()
                    .map(|(cell, (i, j))| {
                        let sum = (0..k).fold(0i128, |sum, l| {
                            sum.wrapping_add(x[left(i, l)].wrapping_mul(y[right(l, j)]))
                        });
                        c.as_ref().map_or(sum, |c| sum.wrapping_add(c[added[cell]]))
                    })
                    .collect(),
            )
        } else {
            let (x, y) = (values[0].real(), values[1].real());
            let c = values.get(2).map(Values::real);
            Values::Real(
                cells()
                    .enumerate()
                    .map(|(cell, (i, j))| {
                        let sum = (0..k).map(|l| x[left(i, l)] * y[right(l, j)]).sum::<f64>()
                            * f64::from(self.alpha);
                        c.as_ref().map_or(sum, |c| sum + f64::from(self.beta) * c[added[cell]])
                    })
                    .collect(),
            )
        };
        Ok(tvec!(made.store(inputs[0].datum_type(), &[m, n])?))
    }
}

impl Reading for Gemm {
    fn facts(&self, inputs: &[TypedFact]) -> TractResult<Option<TVec<TypedFact>>> {
        facts_of(self, inputs)
    }

    fn wire(&self, name: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let facts: Vec<TypedFact> =
            inputs.iter().map(|&input| model.outlet_fact(input).cloned()).collect::<TractResult<_>>()?;
        let datum = facts[0].datum_type;
        let constant = facts.iter().all(|fact| fact.konst.is_some());
        let some = facts.iter().all(|fact| fact.shape.iter().all(|extent| *extent != 0.to_dim()));
        if constant || !some || !matches!(datum, DatumType::F32 | DatumType::F16) {
            return model.wire_node(name, Own(self.clone()), inputs);
        }
        let axes = AxesMapping::for_numpy_matmul(2, self.turned.0, self.turned.1, false)?;
        let product = EinSum::new(axes, datum);
        let mut wire = model.wire_node(format!("{name}.product"), product, &inputs[..2])?[0];
        if self.alpha != 1.0 {
            wire = scaled(&format!("{name}.alpha"), model, wire, self.alpha)?;
        }
        if let (Some(&c), true) = (inputs.get(2), self.beta != 0.0) {
            let c = if self.beta == 1.0 { c } else { scaled(&format!("{name}.beta"), model, c, self.beta)? };
            wire = wire_with_rank_broadcast(name, model, math::add(), &[wire, c])?[0];
        }
        Ok(tvec!(wire))
    }
}

/// `x` times `factor`, in the type of `x`.
fn scaled(name: &str, model: &mut TypedModel, x: OutletId, factor: f32) -> TractResult<OutletId> {
    let datum = model.outlet_fact(x)?.datum_type;
    let factor = tensor0(factor).cast_to_dt(datum)?.into_owned();
    let factor = model.add_const(format!("{name}.factor"), factor)?;
    Ok(wire_with_rank_broadcast(name, model, math::mul(), &[x, factor])?[0])
}

/// Registers the operator.
pub(super) fn register(onnx: &mut Onnx) {
    onnx.op_register.insert("Gemm", gemm);
}

fn gemm(_: &ParsingContext, node: &NodeProto) -> Built {
    if optional_inputs(node).take(2).any(|input| input.is_none()) {
        return refused(node, "one of its two matrices is missing");
    }
    let factor = |name| -> TractResult<f32> { Ok(node.get_attr_opt(name)?.unwrap_or(1.0)) };
    let turned = |name| -> TractResult<bool> { Ok(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0) };
    let turned = (turned("transA")?, turned("transB")?);
    own(node, Gemm { alpha: factor("alpha")?, beta: factor("beta")?, turned })
}
