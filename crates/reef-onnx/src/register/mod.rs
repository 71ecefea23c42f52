//! Own readings of ONNX operators, where tract's would lose precision, structure or part of the meaning; and
//! what of every operator is honoured ([`attributes`]).

mod activation;
mod along;
pub(crate) mod attributes;
mod bounded;
mod cell;
mod classical;
mod conv_transpose;
mod dft;
mod einsum;
mod epilogue;
mod functions;
mod gemm;
mod grid_sample;
mod lp_pool;
mod norm;
mod one_hot;
mod own;
mod pad;
mod pointwise;
mod quantize;
mod recurrent;
mod reduce;
mod resample;
mod resize;
mod values;
mod window;

use std::collections::HashMap;
use std::sync::OnceLock;

use tract_onnx::model::{Onnx, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::TractResult;
use tract_onnx::tract_core::internal::bail;
use tract_onnx::tract_hir::infer::InferenceOp;
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

pub(crate) use activation::gate_functions;
pub(crate) use classical::CLASSICAL_SET_MAX;
pub(crate) use conv_transpose::{TransposedAxis, transposed_axes};
pub(crate) use own::{DataFault, Refused};
pub(crate) use resample::AxisTaps;
pub(crate) use resize::resized;

/// tract's ONNX reader with our operators in it. Shapes that the file claims for intermediate values are not
/// believed: they may be those of another specialisation.
pub(crate) fn onnx() -> Onnx {
    let mut onnx = tract_onnx::onnx().with_ignore_value_info(true);
    for register in [
        along::register,
        einsum::register,
        gemm::register,
        pointwise::register,
        quantize::register,
        reduce::register,
    ] {
        register(&mut onnx);
    }
    let register = &mut onnx.op_register;
    register.insert("BatchNormalization", norm::batch_norm);
    for operator in ["LSTM", "GRU", "RNN"] {
        register.insert(operator, recurrent::recurrent);
    }
    register.insert("ConvTranspose", conv_transpose::conv_transpose);
    register.insert("GridSample", grid_sample::grid_sample);
    register.insert("GlobalLpPool", lp_pool::global_lp_pool);
    register.insert("OneHot", one_hot::one_hot);
    register.insert("Pad", pad::pad);
    register.insert("Resize", resize::resize);
    register.insert("Upsample", resize::resize);
    register.insert("DFT", dft::dft);
    for operator in ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"] {
        register.insert(operator, random);
    }
    bounded::register(&mut onnx);
    onnx
}

/// What a reader gives for a node that was parsed to an operator of ours, or to why it is not computed.
fn expanded(
    node: &NodeProto,
    parsed: Result<impl Expansion + 'static, String>,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    match parsed {
        Ok(op) => Ok((expand(op), vec![])),
        Err(reason) => bail!("{}: {reason}", node.op_type),
    }
}

/// tract's own readers, by operator.
fn tracts_readers() -> &'static HashMap<String, own::Builder> {
    static READERS: OnceLock<HashMap<String, own::Builder>> = OnceLock::new();
    READERS.get_or_init(|| tract_onnx::onnx().op_register.0)
}

/// tract's reading, which takes a node for the form that has an input if its name, not its operator's,
/// ends so.
fn random(context: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let named = NodeProto { name: node.op_type.clone(), ..node.clone() };
    tract_onnx::onnx().op_register.0[&node.op_type](context, &named)
}

/// Why the numbers among a node's attributes mean nothing, if so.
pub(crate) fn numbers_refusal(node: &NodeProto) -> Option<String> {
    window::refusal(node)
}

/// Why a node of an operator that is read here cannot be computed, as far as its attributes tell.
pub(crate) fn refusal(node: &NodeProto, opset: i64) -> Option<String> {
    match node.op_type.as_str() {
        operator if operator.starts_with(crate::names::CLASSICAL) => classical::refusal(node),
        "LSTM" | "GRU" | "RNN" => recurrent::refusal(node),
        "ConvTranspose" => conv_transpose::refusal(node),
        "GridSample" => grid_sample::refusal(node),
        "GlobalLpPool" => lp_pool::refusal(node),
        "Pad" => pad::refusal(node, opset),
        "Resize" | "Upsample" => resize::refusal(node, opset),
        _ => None,
    }
}
