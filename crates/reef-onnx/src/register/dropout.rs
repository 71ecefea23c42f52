//! `Dropout` since operator set 12 in inference: the input, and a mask that keeps everything. Training
//! mode is refused when the model is loaded; where the mode is an input, there is no telling what it will
//! be.

use tract_onnx::model::{ParsingContext, optional_inputs};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::MultiBroadcastTo;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

/// The share that is dropped if the input that says so is left out.
const RATIO_DEFAULT: f32 = 0.5;

#[derive(Clone, Debug)]
struct Dropout {
    /// The inputs that are these.
    ratio: Option<usize>,
    training_mode: Option<usize>,
    mask: bool,
}

impl Expansion for Dropout {
    fn name(&self) -> StaticName {
        "Dropout".into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(1 + usize::from(self.mask))
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.equals(&outputs[0].datum_type, &inputs[0].datum_type)?;
        solver.equals(&outputs[0].shape, &inputs[0].shape)?;
        if self.mask {
            solver.equals(&outputs[1].datum_type, bool::datum_type())?;
            solver.equals(&outputs[1].shape, &inputs[0].shape)?;
        }
        Ok(())
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let constant = |slot: usize, name: &str| {
            let constant = model.outlet_fact(inputs[slot])?.konst.clone();
            constant.with_context(|| format!("Dropout: input {name} has to be a constant"))
        };
        if let Some(slot) = self.training_mode
            && constant(slot, "training_mode")?.cast_to_scalar::<bool>()?
        {
            let ratio = self.ratio.map(|slot| constant(slot, "ratio")?.cast_to_scalar::<f32>());
            let ratio = ratio.transpose()?.unwrap_or(RATIO_DEFAULT);
            ensure!(ratio == 0.0, "Dropout: input training_mode is true, and only inference is supported");
        }
        let mut outputs = tvec!(inputs[0]);
        if self.mask {
            let shape = model.outlet_fact(inputs[0])?.shape.clone();
            let kept = tensor0(true).broadcast_into_rank(shape.rank())?;
            let kept = model.add_const(format!("{prefix}.kept"), kept)?;
            let whole = MultiBroadcastTo { shape };
            outputs.push(model.wire_node(format!("{prefix}.mask"), whole, &[kept])?[0]);
        }
        Ok(outputs)
    }
}

/// The reader.
pub(super) fn dropout(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    if context.onnx_operator_set_version < 12 {
        return Ok((expand(Dropout { ratio: None, training_mode: None, mask: false }), vec![]));
    }
    let mut optional = optional_inputs(node).skip(1);
    let (ratio, training_mode) = (optional.next().flatten(), optional.next().flatten());
    Ok((expand(Dropout { ratio, training_mode, mask: node.output.len() == 2 }), vec![]))
}
