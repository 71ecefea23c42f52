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

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
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
                    for at in 0..hidden {
                        let cell = row * hidden + at;
                        let kept = sigmoid(forget[at]) * before[cell];
                        memory[cell] = kept + sigmoid(input[at]) * fresh[at].tanh();
                        state[cell] = sigmoid(output[at]) * memory[cell].tanh();
                    }
                }
                let made = |values: &[f32]| Tensor::from_shape(inputs[1].shape(), values);
                Ok(tvec!(made(&state)?.into_tvalue(), made(&memory)?.into_tvalue()))
            }
            Epilogue::Gru { hidden } => {
                let (x, product, before) = (slices[0], slices[1], slices[2]);
                let mut state = vec![0f32; before.len()];
                for row in 0..before.len() / hidden.max(1) {
                    let gate = |of: &[f32], gate: usize, at: usize| of[(row * 3 + gate) * hidden + at];
                    for at in 0..hidden {
                        let cell = row * hidden + at;
                        let update = sigmoid(gate(x, 0, at) + gate(product, 0, at));
                        let reset = sigmoid(gate(x, 1, at) + gate(product, 1, at));
                        let fresh = (gate(x, 2, at) + reset * gate(product, 2, at)).tanh();
                        state[cell] = fresh + update * (before[cell] - fresh);
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
