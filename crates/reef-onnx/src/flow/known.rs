//! What can be known of a value before anything runs: its type, often its shape, sometimes its elements.
//!
//! Asked of tract: the nodes that a value is made by are analysed for the shapes at hand. Large constants
//! take part with their shape only.

use reef_graph::{DType, Shape, Tensor};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{ModelProto, TensorProto};
use tract_onnx::prelude::{DatumType, InferenceModelExt, Tensor as TractTensor};
use tract_onnx::tract_hir::infer::InferenceFact;

use crate::consts::{datum_of, dtype_of};
use crate::error::ImportError;
use crate::guard::{guarded, guarded_import};
use crate::{proto, register};

/// Elements of a constant that takes part with its values.
pub(super) const VALUES_MAX: usize = 4096;

/// What is known of a value.
#[derive(Clone, Debug)]
pub(super) struct Fact {
    pub dtype: DType,
    pub shape: Option<Shape>,
    pub value: Option<TensorProto>,
}

/// What is known of `names`, values of `graph`, whose inputs have these types and shapes.
pub(super) fn facts(
    model: &ModelProto,
    inputs: &[(String, DType, Shape)],
    directory: Option<&str>,
    names: &[String],
) -> Result<Vec<Option<Fact>>, ImportError> {
    let fault = |reason: String| ImportError::Analysis { reason };
    let mut parsed = guarded_import(|| register::onnx().parse(model, directory), fault)?.model;
    let typed = guarded_import(
        || {
            for (index, (_, dtype, shape)) in inputs.iter().enumerate() {
                let datum = datum_of(*dtype).ok_or_else(|| {
                    tract_onnx::prelude::TractError::msg(format!("element type {dtype} is not supported"))
                })?;
                parsed.set_input_fact(index, InferenceFact::dt_shape(datum, &shape[..]))?;
            }
            parsed.into_typed()
        },
        fault,
    );
    let mut typed = typed?;
    let _ = guarded(|| typed.prop_consts());
    let outlets = typed.output_outlets().map_err(|error| fault(format!("{error:#}")))?.to_vec();
    let found = names.iter().zip(outlets).map(|(name, outlet)| {
        let fact = typed.outlet_fact(outlet).ok()?;
        let dtype = dtype_of(fact.datum_type)?;
        let shape = fact.shape.as_concrete().map(Shape::new);
        let value = fact.konst.as_ref().and_then(|value| constant(name, value));
        Some(Fact { dtype, shape, value })
    });
    Ok(found.collect())
}

/// A tensor of tract's as a constant called `name`; symbolic integers must be concrete.
fn constant(name: &str, tensor: &TractTensor) -> Option<TensorProto> {
    let dtype = dtype_of(tensor.datum_type())?;
    let dims = tensor.shape().iter().map(|&extent| extent as i64).collect();
    let raw_data = match tensor.datum_type() {
        DatumType::TDim => {
            let cast = tensor.cast_to::<i64>().ok()?;
            cast.try_as_plain_ram().ok()?.as_bytes().to_vec()
        }
        _ => tensor.try_as_plain_ram().ok()?.as_bytes().to_vec(),
    };
    let data_type = proto::code_of(dtype)? as i32;
    Some(TensorProto { name: name.into(), dims, data_type, raw_data, ..TensorProto::default() })
}

/// One of our tensors as a constant called `name`.
pub(super) fn constant_of(name: &str, tensor: &Tensor) -> Option<TensorProto> {
    let data_type = proto::code_of(tensor.dtype())? as i32;
    let dims = tensor.shape().iter().map(|&extent| extent as i64).collect();
    let raw_data = tensor.bytes().as_slice().to_vec();
    Some(TensorProto { name: name.into(), dims, data_type, raw_data, ..TensorProto::default() })
}

/// Whole numbers as a constant.
pub(super) fn integers(name: &str, dims: &[usize], values: &[i64]) -> TensorProto {
    let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let dims = dims.iter().map(|&extent| extent as i64).collect();
    let data_type = DataType::Int64 as i32;
    TensorProto { name: name.into(), dims, data_type, raw_data, ..TensorProto::default() }
}

/// Type and shape of a constant.
pub(super) fn described(tensor: &TensorProto) -> Option<(DType, Shape)> {
    let dtype = proto::element_type(tensor)?;
    Some((dtype, tensor.dims.iter().map(|&extent| extent as usize).collect()))
}

/// The elements of a small constant as whole numbers, fractions cut off; booleans are 0 and 1.
pub(super) fn whole_numbers(tensor: &TensorProto) -> Option<Vec<i64>> {
    let dtype = proto::element_type(tensor)?;
    let raw = &tensor.raw_data;
    if raw.is_empty() {
        return Some(match dtype {
            DType::F32 => tensor.float_data.iter().map(|&value| value as i64).collect(),
            DType::F64 => tensor.double_data.iter().map(|&value| value as i64).collect(),
            DType::I64 => tensor.int64_data.clone(),
            DType::U64 | DType::U32 => tensor.uint64_data.iter().map(|&value| value as i64).collect(),
            DType::F16 | DType::BF16 => return None,
            _ => tensor.int32_data.iter().map(|&value| i64::from(value)).collect(),
        });
    }
    fn each<const N: usize>(raw: &[u8], read: impl Fn([u8; N]) -> i64) -> Vec<i64> {
        raw.chunks_exact(N).map(|bytes| read(bytes.try_into().expect("chunks of N"))).collect()
    }
    Some(match dtype {
        DType::F32 => each(raw, |bytes| f32::from_le_bytes(bytes) as i64),
        DType::F64 => each(raw, |bytes| f64::from_le_bytes(bytes) as i64),
        DType::I64 => each(raw, i64::from_le_bytes),
        DType::U64 => each(raw, |bytes| u64::from_le_bytes(bytes) as i64),
        DType::I32 => each(raw, |bytes| i32::from_le_bytes(bytes).into()),
        DType::U32 => each(raw, |bytes| u32::from_le_bytes(bytes).into()),
        DType::I16 => each(raw, |bytes| i16::from_le_bytes(bytes).into()),
        DType::U16 => each(raw, |bytes| u16::from_le_bytes(bytes).into()),
        DType::I8 => each(raw, |bytes| i8::from_le_bytes(bytes).into()),
        DType::U8 => each(raw, |bytes| u8::from_le_bytes(bytes).into()),
        DType::Bool => each(raw, |bytes: [u8; 1]| (bytes[0] != 0).into()),
        DType::F16 | DType::BF16 => return None,
    })
}
