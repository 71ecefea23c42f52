//! The activation functions of the recurrent operators: names, parameters and how they are computed.

use reef_graph::GateFunction;
use tract_onnx::tract_core::internal::*;

/// The functions called `names`. Those with parameters take them from the front of `alphas` and `betas`, and
/// defaults once a list is used up. Where ONNX Runtime takes others than the specification (or this says
/// nothing) there are none, and such functions are refused.
pub(crate) fn gate_functions(
    names: &[&str],
    alphas: &[f32],
    betas: &[f32],
) -> Result<Vec<GateFunction>, String> {
    let (mut alphas, mut betas) = (alphas.iter().copied(), betas.iter().copied());
    let mut parsed = vec![];
    for name in names {
        let missing = |what: &str| format!("the activation function `{name}` needs an {what}");
        let mut alpha =
            |default: Option<f32>| alphas.next().or(default).ok_or_else(|| missing("activation_alpha"));
        let mut beta =
            |default: Option<f32>| betas.next().or(default).ok_or_else(|| missing("activation_beta"));
        parsed.push(match name.to_ascii_lowercase().as_str() {
            "sigmoid" => GateFunction::Sigmoid,
            "tanh" => GateFunction::Tanh,
            "relu" => GateFunction::Relu,
            "softsign" => GateFunction::Softsign,
            "softplus" => GateFunction::Softplus,
            "affine" => GateFunction::Affine { alpha: alpha(None)?, beta: beta(None)? },
            "leakyrelu" => GateFunction::LeakyRelu { alpha: alpha(Some(0.01))? },
            "thresholdedrelu" => GateFunction::ThresholdedRelu { alpha: alpha(None)? },
            "scaledtanh" => GateFunction::ScaledTanh { alpha: alpha(None)?, beta: beta(None)? },
            "hardsigmoid" => GateFunction::HardSigmoid { alpha: alpha(Some(0.2))?, beta: beta(Some(0.5))? },
            "elu" => GateFunction::Elu { alpha: alpha(Some(1.0))? },
            _ => {
                return Err(format!("the activation function `{name}` is not one of the specification's"));
            }
        });
    }
    Ok(parsed)
}

/// What happens to every element of a gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Activation {
    Gate(GateFunction),
    /// Into `[-bound, bound]`: the attribute `clip`.
    Clamp {
        bound: f32,
    },
}

impl Eq for Activation {}

impl Activation {
    /// Adds the function of `input` to `model`.
    pub fn wire(self, name: &str, model: &mut TypedModel, input: OutletId) -> TractResult<OutletId> {
        Ok(model.wire_node(name, Pointwise(self), &[input])?[0])
    }

    fn apply(self, x: f64) -> f64 {
        match self {
            Activation::Gate(function) => function.of(x),
            Activation::Clamp { bound } => x.clamp(-f64::from(bound), f64::from(bound)),
        }
    }
}

/// A function of every element.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pointwise(Activation);

impl Op for Pointwise {
    fn name(&self) -> StaticName {
        format!("{:?}", self.0).into()
    }

    op_as_typed_op!();
}

impl EvalOp for Pointwise {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let datum = input.datum_type();
        let mut values = input.into_tensor();
        if datum == DatumType::F32 {
            let mut plain = values.try_as_plain_ram_mut()?;
            plain.as_slice_mut::<f32>()?.iter_mut().for_each(|x| *x = self.0.apply(f64::from(*x)) as f32);
            return Ok(tvec!(values.into_tvalue()));
        }
        let mut wide = values.cast_to::<f64>()?.into_owned();
        {
            let mut plain = wide.try_as_plain_ram_mut()?;
            plain.as_slice_mut::<f64>()?.iter_mut().for_each(|x| *x = self.0.apply(*x));
        }
        Ok(tvec!(wide.cast_to_dt(datum)?.into_owned().into_tvalue()))
    }
}

impl TypedOp for Pointwise {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_taken_in_order_by_those_that_have_them() {
        let parsed = gate_functions(&["Tanh", "ELU", "hardSigmoid", "LeakyRelu"], &[2.0, 0.3], &[]);
        let hard = GateFunction::HardSigmoid { alpha: 0.3, beta: 0.5 };
        let leaky = GateFunction::LeakyRelu { alpha: 0.01 };
        assert_eq!(parsed, Ok(vec![GateFunction::Tanh, GateFunction::Elu { alpha: 2.0 }, hard, leaky]));
        let refused = |name: &str| gate_functions(&[name], &[], &[]).expect_err("it is refused");
        assert_eq!(refused("Sine"), "the activation function `Sine` is not one of the specification's");
        assert_eq!(refused("Affine"), "the activation function `Affine` needs an activation_alpha");
    }

    #[test]
    fn softplus_neither_overflows_nor_loses_small_values() {
        assert_eq!(GateFunction::Softplus.of(1000.0), 1000.0);
        assert!(GateFunction::Softplus.of(-50.0) > 0.0);
    }
}
