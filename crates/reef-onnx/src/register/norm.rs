//! `BatchNormalization` with constant parameters: one typed operator that keeps scale and shift in double
//! precision, so that folding it into a convolution rounds once.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

/// `x·scale + shift` by channel (axis 1), with f64 parameters of shape `[C]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChannelAffine {
    /// Factors.
    pub scale: Arc<Tensor>,
    /// Summands.
    pub shift: Arc<Tensor>,
}

impl Op for ChannelAffine {
    fn name(&self) -> StaticName {
        "BatchNormalization".into()
    }

    op_as_typed_op!();
}

impl EvalOp for ChannelAffine {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = &inputs[0];
        let mut values = input.cast_to::<f64>()?.into_owned();
        let channels = self.scale.len();
        let inner: usize = values.shape()[2..].iter().product();
        {
            let (scale, shift) = (self.scale.try_as_plain_ram()?, self.shift.try_as_plain_ram()?);
            let (scale, shift) = (scale.as_slice::<f64>()?, shift.as_slice::<f64>()?);
            let mut plain = values.try_as_plain_ram_mut()?;
            for (row, chunk) in plain.as_slice_mut::<f64>()?.chunks_mut(inner.max(1)).enumerate() {
                let channel = row % channels;
                chunk.iter_mut().for_each(|value| *value = *value * scale[channel] + shift[channel]);
            }
        }
        Ok(tvec!(values.cast_to_dt(input.datum_type())?.into_owned().into_tvalue()))
    }
}

impl TypedOp for ChannelAffine {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }

    as_op!();
}

#[derive(Clone, Debug)]
struct BatchNorm {
    epsilon: f32,
}

impl Expansion for BatchNorm {
    fn name(&self) -> StaticName {
        "BatchNormalization".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        if inputs.len() != 5 || outputs.len() != 1 {
            bail!("BatchNormalization in training mode is not supported");
        }
        solver.equals(&outputs[0].datum_type, &inputs[0].datum_type)?;
        solver.equals(&inputs[0].shape, &outputs[0].shape)?;
        for parameter in &inputs[1..] {
            solver.equals(&parameter.rank, 1)?;
            solver.equals(&parameter.shape[0], &inputs[0].shape[1])?;
        }
        Ok(())
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let mut parameters: Vec<Vec<f64>> = vec![];
        for &input in &inputs[1..] {
            let constant = model.outlet_fact(input)?.konst.clone();
            let constant =
                constant.context("BatchNormalization with computed parameters is not supported")?;
            parameters.push(constant.cast_to::<f64>()?.try_as_plain_ram()?.as_slice::<f64>()?.to_vec());
        }
        let [gamma, beta, mean, variance] = &parameters[..] else { bail!("BatchNormalization has 5 inputs") };
        let epsilon = f64::from(self.epsilon);
        let scale: Vec<f64> = gamma.iter().zip(variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
        let shift: Vec<f64> = (0..scale.len()).map(|c| beta[c] - mean[c] * scale[c]).collect();
        let op = ChannelAffine { scale: Arc::new(tensor1(&scale)), shift: Arc::new(tensor1(&shift)) };
        model.wire_node(prefix, op, &inputs[..1])
    }
}

/// The reader.
pub(super) fn batch_norm(
    _: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    if node.get_attr_opt::<i64>("training_mode")?.unwrap_or(0) != 0 {
        bail!("BatchNormalization in training mode is not supported");
    }
    let epsilon = node.get_attr_opt("epsilon")?.unwrap_or(1e-5);
    Ok((expand(BatchNorm { epsilon }), vec![]))
}
