//! The activation functions of the recurrent operators: names, parameters and how they are computed.

use tract_onnx::tract_core::internal::*;

/// An activation function with its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Activation {
    Sigmoid,
    Tanh,
    Relu,
    Affine {
        alpha: f32,
        beta: f32,
    },
    LeakyRelu {
        alpha: f32,
    },
    ThresholdedRelu {
        alpha: f32,
    },
    ScaledTanh {
        alpha: f32,
        beta: f32,
    },
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    Elu {
        alpha: f32,
    },
    Softsign,
    Softplus,
    /// Into `[-bound, bound]`: the attribute `clip`.
    Clamp {
        bound: f32,
    },
}

impl Eq for Activation {}

impl Activation {
    /// The functions called `names`. Those with parameters take them from the front of `alphas` and `betas`,
    /// and defaults once a list is used up. Where ONNX Runtime takes others than the specification (or this
    /// says nothing) there are none, and such functions are refused.
    pub fn parse(names: &[&str], alphas: &[f32], betas: &[f32]) -> Result<Vec<Activation>, String> {
        let (mut alphas, mut betas) = (alphas.iter().copied(), betas.iter().copied());
        let mut parsed = vec![];
        for name in names {
            let missing = |what: &str| format!("the activation function `{name}` needs an {what}");
            let mut alpha =
                |default: Option<f32>| alphas.next().or(default).ok_or_else(|| missing("activation_alpha"));
            let mut beta =
                |default: Option<f32>| betas.next().or(default).ok_or_else(|| missing("activation_beta"));
            parsed.push(match name.to_ascii_lowercase().as_str() {
                "sigmoid" => Activation::Sigmoid,
                "tanh" => Activation::Tanh,
                "relu" => Activation::Relu,
                "softsign" => Activation::Softsign,
                "softplus" => Activation::Softplus,
                "affine" => Activation::Affine { alpha: alpha(None)?, beta: beta(None)? },
                "leakyrelu" => Activation::LeakyRelu { alpha: alpha(Some(0.01))? },
                "thresholdedrelu" => Activation::ThresholdedRelu { alpha: alpha(None)? },
                "scaledtanh" => Activation::ScaledTanh { alpha: alpha(None)?, beta: beta(None)? },
                "hardsigmoid" => Activation::HardSigmoid { alpha: alpha(Some(0.2))?, beta: beta(Some(0.5))? },
                "elu" => Activation::Elu { alpha: alpha(Some(1.0))? },
                _ => {
                    return Err(format!(
                        "the activation function `{name}` is not one of the specification's"
                    ));
                }
            });
        }
        Ok(parsed)
    }

    /// Adds the function of `input` to `model`.
    pub fn wire(self, name: &str, model: &mut TypedModel, input: OutletId) -> TractResult<OutletId> {
        Ok(model.wire_node(name, Pointwise(self), &[input])?[0])
    }

    fn apply(self, x: f64) -> f64 {
        let wide = f64::from;
        match self {
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::Tanh => x.tanh(),
            Activation::Relu if x.is_nan() => x,
            Activation::Relu => x.max(0.0),
            Activation::Affine { alpha, beta } => wide(alpha) * x + wide(beta),
            Activation::LeakyRelu { alpha } if x < 0.0 => wide(alpha) * x,
            Activation::LeakyRelu { .. } => x,
            Activation::ThresholdedRelu { alpha } if x > wide(alpha) => x,
            Activation::ThresholdedRelu { .. } => 0.0,
            Activation::ScaledTanh { alpha, beta } => wide(alpha) * (wide(beta) * x).tanh(),
            Activation::HardSigmoid { alpha, beta } => (wide(alpha) * x + wide(beta)).clamp(0.0, 1.0),
            Activation::Elu { alpha } if x < 0.0 => wide(alpha) * x.exp_m1(),
            Activation::Elu { .. } => x,
            Activation::Softsign => x / (1.0 + x.abs()),
            // The usual form overflows for large x.
            Activation::Softplus if x.is_nan() => x,
            Activation::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
            Activation::Clamp { bound } => x.clamp(-wide(bound), wide(bound)),
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
        let parsed = Activation::parse(&["Tanh", "ELU", "hardSigmoid", "LeakyRelu"], &[2.0, 0.3], &[]);
        let hard = Activation::HardSigmoid { alpha: 0.3, beta: 0.5 };
        let leaky = Activation::LeakyRelu { alpha: 0.01 };
        assert_eq!(parsed, Ok(vec![Activation::Tanh, Activation::Elu { alpha: 2.0 }, hard, leaky]));
        let refused = |name: &str| Activation::parse(&[name], &[], &[]).expect_err("it is refused");
        assert_eq!(refused("Sine"), "the activation function `Sine` is not one of the specification's");
        assert_eq!(refused("Affine"), "the activation function `Affine` needs an activation_alpha");
    }

    #[test]
    fn softplus_neither_overflows_nor_loses_small_values() {
        assert_eq!(Activation::Softplus.apply(1000.0), 1000.0);
        assert!(Activation::Softplus.apply(-50.0) > 0.0);
    }
}
