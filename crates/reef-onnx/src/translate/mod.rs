//! One typed node of tract in our operators, or why not.
//!
//! A rejected node runs on the host; nodes that were added before the rejection are dead and removed later.

mod array;
mod cnn;
mod einsum;
mod math;
mod nn;
mod selection;

use reef_graph::{DType, Graph, ValueId};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::array as tract_array;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::change_axes::{AxisOp, IntoShape};
use tract_onnx::tract_core::ops::cnn::{Conv, MaxPool, SumPool};
use tract_onnx::tract_core::ops::downsample::Downsample;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::identity::Identity;
use tract_onnx::tract_core::ops::logic::Iff;
use tract_onnx::tract_core::ops::nn as tract_nn;

use crate::build;
use crate::register::{ChannelAffine, Select};
use crate::walk::{Operand, Walk};

/// Why a node has no native form.
pub(crate) type Reject = String;

/// The node's outputs, by slot.
pub(crate) fn translate(walk: &mut Walk, node: &TypedNode) -> Result<Vec<Operand>, Reject> {
    if node.op_is::<Identity>() {
        return Ok(vec![walk.operand(node.inputs[0])]);
    }
    if let Some(Select(selection)) = node.op_as() {
        return selection::selection(walk, node, selection);
    }
    let (dtype, shape) = walk.fact(OutletId::new(node.id, 0))?;
    let value = native(walk, node)?;
    let made = walk.graph.value(value);
    if made.dtype != dtype || made.shape != shape {
        return Err(format!("it would be {}{}, not {dtype}{shape}", made.dtype, made.shape));
    }
    Ok(vec![Operand::Value(value)])
}

fn native(walk: &mut Walk, node: &TypedNode) -> Result<ValueId, Reject> {
    macro_rules! by_type {
        ($($op:ty => $translate:path,)*) => {
            $(if let Some(op) = node.op_as::<$op>() {
                return $translate(walk, node, op);
            })*
        };
    }
    by_type! {
        Conv => cnn::conv,
        MaxPool => cnn::max_pool,
        SumPool => cnn::sum_pool,
        ChannelAffine => cnn::channel_affine,
        TypedBinOp => math::binary,
        ElementWiseOp => math::unary,
        Iff => math::iff,
        tract_onnx::tract_core::ops::cast::Cast => math::cast,
        EinSum => einsum::einsum,
        tract_nn::Reduce => nn::reduce,
        tract_nn::Softmax => nn::softmax,
        tract_nn::RmsNorm => nn::rms_norm,
        tract_nn::resize::NearestUpsample => nn::nearest_upsample,
        AxisOp => array::axis_op,
        IntoShape => array::into_shape,
        tract_array::Slice => array::slice,
        tract_array::TypedConcat => array::concat,
        tract_array::MultiBroadcastTo => array::expand,
        tract_array::Gather => array::gather,
        tract_array::Pad => array::pad,
        tract_array::Tile => array::tile,
        tract_array::Trilu => array::trilu,
        Downsample => array::downsample,
    }
    Err(format!("no native form of {}", node.op.name()))
}

/// `x` in single precision for an operator that computes only that, and the type to give back.
fn computable(graph: &mut Graph, name: &str, x: ValueId) -> Result<(ValueId, DType), Reject> {
    match graph.value(x).dtype {
        DType::F32 => Ok((x, DType::F32)),
        dtype @ (DType::F16 | DType::BF16) => Ok((build::cast(graph, name, x, DType::F32), dtype)),
        dtype => Err(format!("{dtype} is not computed natively")),
    }
}
