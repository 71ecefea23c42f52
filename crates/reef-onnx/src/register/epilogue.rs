//! The end of a recurrent step, in one pass: gates and states from the sums of products.
//!
//! In single precision, with functions that reach their limits and keep NaN; tract's stop short of 1 and take
//! NaN for a number, which adds up from step to step.

use tract_onnx::tract_core::internal::*;

/// Which operator's step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Epilogue {
    /// From the sums of the gates input, output, forget, memory and the memory before: the state and the
    /// memory.
    Lstm { hidden: usize },
    /// From the products with the inputs and with the state (gates update, reset, hidden) and the state
    /// before: the state.
    Gru { hidden: usize },
}

/// `eˣ` within two units of the last place, without branches, so that loops over it are vectorised; NaN
/// stays.
fn exp(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    // The low bits of a number this large are the whole number nearest to x / ln 2.
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let whole = shifted - SHIFT;
    let rest = x - whole * 0.693_359_4 + whole * 2.121_944_4e-4;
    let series = [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5];
    let sum = series.iter().fold(1.987_569_1e-4f32, |sum, &term| sum * rest + term);
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_add(127) << 23);
    (sum * rest * rest + rest + 1.0) * power
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

fn tanh(x: f32) -> f32 {
    let square = x * x;
    let series = [2.063_908_8e-2, -5.373_971_7e-2, 0.133_314_42, -0.333_332_8];
    let sum = series.iter().fold(-5.704_988_7e-3f32, |sum, &term| sum * square + term);
    let near = sum * square * x + x;
    let far = 1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0);
    if x.abs() < 0.625 { near } else { far.copysign(x) }
}

/// The three gates of a row.
fn gates(of: &[f32], row: usize, hidden: usize) -> [&[f32]; 3] {
    [0, 1, 2].map(|gate| &of[(row * 3 + gate) * hidden..][..hidden])
}

impl Op for Epilogue {
    fn name(&self) -> StaticName {
        format!("{self:?}").into()
    }

    op_as_typed_op!();
}

impl EvalOp for Epilogue {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let plain: Vec<_> =
            inputs.iter().map(|input| input.try_as_plain_ram()).collect::<TractResult<_>>()?;
        let slices: Vec<&[f32]> =
            plain.iter().map(|plain| plain.as_slice::<f32>()).collect::<TractResult<_>>()?;
        match *self {
            Epilogue::Lstm { hidden } => {
                let (sums, before) = (slices[0], slices[1]);
                let (mut state, mut memory) = (vec![0f32; before.len()], vec![0f32; before.len()]);
                for row in 0..before.len() / hidden.max(1) {
                    let gate = |gate: usize| &sums[(row * 4 + gate) * hidden..][..hidden];
                    let (input, output, forget, fresh) = (gate(0), gate(1), gate(2), gate(3));
                    let cells = row * hidden..(row + 1) * hidden;
                    let before = &before[cells.clone()];
                    let (state, memory) = (&mut state[cells.clone()], &mut memory[cells]);
                    for at in 0..hidden {
                        memory[at] = sigmoid(forget[at]) * before[at] + sigmoid(input[at]) * tanh(fresh[at]);
                        state[at] = sigmoid(output[at]) * tanh(memory[at]);
                    }
                }
                let made = |values: &[f32]| Tensor::from_shape(inputs[1].shape(), values);
                Ok(tvec!(made(&state)?.into_tvalue(), made(&memory)?.into_tvalue()))
            }
            Epilogue::Gru { hidden } => {
                let (x, product, before) = (slices[0], slices[1], slices[2]);
                let mut state = vec![0f32; before.len()];
                for row in 0..before.len() / hidden.max(1) {
                    let (x, product) = (gates(x, row, hidden), gates(product, row, hidden));
                    let cells = row * hidden..(row + 1) * hidden;
                    let (before, state) = (&before[cells.clone()], &mut state[cells]);
                    for at in 0..hidden {
                        let update = sigmoid(x[0][at] + product[0][at]);
                        let reset = sigmoid(x[1][at] + product[1][at]);
                        let fresh = tanh(x[2][at] + reset * product[2][at]);
                        state[at] = fresh + update * (before[at] - fresh);
                    }
                }
                Ok(tvec!(Tensor::from_shape(inputs[2].shape(), &state)?.into_tvalue()))
            }
        }
    }
}

impl TypedOp for Epilogue {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(match self {
            Epilogue::Lstm { .. } => tvec!(inputs[1].without_value(), inputs[1].without_value()),
            Epilogue::Gru { .. } => tvec!(inputs[2].without_value()),
        })
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_exact_to_the_last_places_and_keep_nan() {
        for step in -4000..=4000 {
            let x = step as f32 * 0.01 + 1e-4;
            let wide = f64::from(x);
            let close = |made: f32, exact: f64| {
                let error = (f64::from(made) - exact).abs() / exact.abs();
                assert!(error < 3e-7, "{made} is not {exact}, of {x}");
            };
            close(exp(x), wide.exp());
            close(sigmoid(x), 1.0 / (1.0 + (-wide).exp()));
            close(tanh(x), wide.tanh());
            close(tanh(x * 1e-3), (f64::from(x * 1e-3)).tanh());
        }
        assert_eq!((sigmoid(40.0), sigmoid(f32::INFINITY), tanh(40.0), tanh(-40.0)), (1.0, 1.0, 1.0, -1.0));
        assert!(sigmoid(-200.0) < 1e-37 && sigmoid(f32::NEG_INFINITY) < 1e-37 && tanh(0.0) == 0.0);
        assert!(exp(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
    }
}
