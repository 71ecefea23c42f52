//! Constants of a file as tensors: from the message, from the model's file, or from one beside it.

use std::collections::HashMap;
use std::sync::Arc;

use reef_base::AlignedBytes;
use reef_graph::{DType, Shape, Tensor};
use tract_onnx::pb::tensor_proto::DataLocation;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use crate::error::ImportError;
use crate::origin::{Origin, Place};
use crate::{external, proto, skim};

/// The tensor that `proto` says, which was checked when the file was read; what is not in the message is
/// looked up in the files of the model.
pub(crate) fn read(proto: &TensorProto, origin: Option<&Arc<Origin>>) -> Result<Tensor, String> {
    let dtype = proto::element_type(proto).ok_or_else(|| {
        format!("tensor {}: elements of type {} are not supported", proto.name, proto.data_type)
    })?;
    let shape: Shape = proto.dims.iter().map(|&extent| extent.max(0) as usize).collect();
    if proto.data_location == Some(DataLocation::External as i32) && proto.raw_data.is_empty() {
        return outside(proto, dtype, shape, origin).map_err(|why| format!("tensor {}: {why}", proto.name));
    }
    let mut data = AlignedBytes::zeroed(shape.elements() * dtype.bytes());
    match proto.raw_data.is_empty() {
        false => fill(data.as_mut_slice(), &proto.raw_data)?,
        true => fill(data.as_mut_slice(), &listed(proto, dtype))?,
    }
    Ok(Tensor::new(dtype, shape, Arc::new(data)))
}

/// A tensor whose bytes are not in the message.
fn outside(
    proto: &TensorProto,
    dtype: DType,
    shape: Shape,
    origin: Option<&Arc<Origin>>,
) -> Result<Tensor, String> {
    let elsewhere = || "its data is in another file";
    let origin = origin.ok_or_else(elsewhere)?;
    let place = match skim::place(proto) {
        Some((offset, _)) => Place { beside: None, offset },
        None => external::place(proto, &origin.directory).ok_or_else(elsewhere)?,
    };
    origin.tensor(&proto.name, dtype, shape, place.clone()).map_err(|error| match place.beside {
        Some(path) => format!("its external data, {}: {error}", path.display()),
        None => format!("its data: {error}"),
    })
}

fn fill(bytes: &mut [u8], given: &[u8]) -> Result<(), String> {
    if bytes.len() != given.len() {
        return Err(format!("{} bytes are given, {} are needed", given.len(), bytes.len()));
    }
    bytes.copy_from_slice(given);
    Ok(())
}

/// The bytes of elements that a message lists one by one.
fn listed(proto: &TensorProto, dtype: DType) -> Vec<u8> {
    let narrow = |value: &u64| value.to_le_bytes()[..dtype.bytes()].to_vec();
    match dtype {
        DType::F32 => proto.float_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DType::F64 => proto.double_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DType::I64 => proto.int64_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DType::U64 | DType::U32 => proto.uint64_data.iter().flat_map(narrow).collect(),
        _ => proto.int32_data.iter().flat_map(|value| narrow(&(*value as u32).into())).collect(),
    }
}

/// A tensor as a message under a name.
pub(crate) fn write(name: &str, tensor: &Tensor) -> TensorProto {
    let data_type = proto::code_of(tensor.dtype()) as i32;
    let dims = tensor.shape().iter().map(|&extent| extent as i64).collect();
    let raw_data = tensor.clone().bytes().as_slice().to_vec();
    TensorProto { name: name.into(), dims, data_type, raw_data, ..TensorProto::default() }
}

/// The constants of a file by name; those that are no tensors of numbers with the reason.
#[derive(Debug, Default)]
pub(crate) struct Weights(HashMap<String, Result<Tensor, String>>);

impl Weights {
    /// Takes the constants out of a graph and of the graphs in it.
    pub fn hoist(graph: &mut GraphProto, origin: Option<&Arc<Origin>>) -> Weights {
        let mut weights = Weights::default();
        weights.take(graph, origin);
        weights
    }

    fn take(&mut self, graph: &mut GraphProto, origin: Option<&Arc<Origin>>) {
        for tensor in graph.initializer.drain(..) {
            self.0.insert(tensor.name.clone(), read(&tensor, origin));
        }
        graph.node.retain(|node| match constant(node, origin) {
            Some(tensor) => {
                self.0.insert(node.output[0].clone(), Ok(tensor));
                false
            }
            None => true,
        });
        for node in &mut graph.node {
            for attribute in &mut node.attribute {
                attribute
                    .g
                    .iter_mut()
                    .chain(&mut attribute.graphs)
                    .for_each(|graph| self.take(graph, origin));
            }
        }
    }

    /// The constant under a name, if there is one.
    pub fn get(&self, name: &str) -> Option<Result<Tensor, ImportError>> {
        let found = self.0.get(name)?.clone();
        Some(found.map_err(|reason| ImportError::Parse { reason }))
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }
}

/// The tensor that a `Constant` is; `None` of other nodes, and of texts.
pub(crate) fn constant(node: &NodeProto, origin: Option<&Arc<Origin>>) -> Option<Tensor> {
    if node.op_type != "Constant" || node.output.is_empty() {
        return None;
    }
    let attribute = node.attribute.first()?;
    match attribute.name.as_str() {
        "value" => read(attribute.t.as_ref()?, origin).ok(),
        "value_int" => Some(Tensor::i64([], &[attribute.i])),
        "value_ints" => Some(Tensor::i64([attribute.ints.len()], &attribute.ints)),
        "value_float" => Some(Tensor::scalar_f32(attribute.f)),
        "value_floats" => Some(Tensor::f32([attribute.floats.len()], &attribute.floats)),
        _ => None,
    }
}
