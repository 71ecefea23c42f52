//! Own readings of ONNX operators, where tract's would lose precision, structure or part of the meaning.

mod norm;

use tract_onnx::model::Onnx;

pub(crate) use norm::ChannelAffine;

/// tract's ONNX reader with our operators in it. Shapes that the file claims for intermediate values are not
/// believed: they may be those of another specialisation.
pub(crate) fn onnx() -> Onnx {
    let mut onnx = tract_onnx::onnx().with_ignore_value_info(true);
    onnx.op_register.insert("BatchNormalization", norm::batch_norm);
    onnx
}
