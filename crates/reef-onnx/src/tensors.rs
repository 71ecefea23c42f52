//! Constants of a file as tensors: from the message, or from a file beside it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex};

use reef_base::AlignedBytes;
use reef_base::limits::WEIGHTS_KEPT_BYTES;
use reef_graph::{ConstKey, DType, Shape, Tensor};
use tract_onnx::pb::tensor_proto::DataLocation;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use crate::error::ImportError;
use crate::{external, proto};

/// The tensor that `proto` says, which was checked when the file was read; external data are looked up in
/// `directory`.
pub(crate) fn read(proto: &TensorProto, directory: Option<&str>) -> Result<Tensor, String> {
    let dtype = proto::element_type(proto).ok_or_else(|| {
        format!("tensor {}: elements of type {} are not supported", proto.name, proto.data_type)
    })?;
    let shape: Shape = proto.dims.iter().map(|&extent| extent.max(0) as usize).collect();
    let mut data = AlignedBytes::zeroed(shape.elements() * dtype.bytes());
    let bytes = data.as_mut_slice();
    let external = proto.data_location == Some(DataLocation::External as i32);
    if !proto.raw_data.is_empty() {
        fill(bytes, &proto.raw_data)?;
    } else if external {
        external::read(proto, directory, bytes).map_err(|why| format!("tensor {}: {why}", proto.name))?;
    } else {
        fill(bytes, &listed(proto, dtype))?;
    }
    Ok(Tensor::new(dtype, shape, Arc::new(data)))
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
    let raw_data = tensor.bytes().as_slice().to_vec();
    TensorProto { name: name.into(), dims, data_type, raw_data, ..TensorProto::default() }
}

/// The constants of a file by name; those that are no tensors of numbers with the reason.
#[derive(Debug, Default)]
pub(crate) struct Weights(HashMap<String, Result<Tensor, String>>);

impl Weights {
    /// Takes the constants out of a graph and of the graphs in it.
    pub fn hoist(graph: &mut GraphProto, directory: Option<&str>) -> Weights {
        let mut weights = Weights::default();
        weights.take(graph, directory);
        weights
    }

    fn take(&mut self, graph: &mut GraphProto, directory: Option<&str>) {
        for tensor in graph.initializer.drain(..) {
            self.0.insert(tensor.name.clone(), read(&tensor, directory));
        }
        graph.node.retain(|node| match constant(node, directory) {
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
                    .for_each(|graph| self.take(graph, directory));
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

/// Where a model was read from, to be read again.
#[derive(Debug)]
pub(crate) struct Origin {
    /// Open since, so that it stays the same when another file takes its name.
    pub file: Mutex<File>,
    pub directory: Option<String>,
}

/// A model's constants, or the way to them.
#[derive(Debug)]
pub(crate) struct Held {
    /// `None` of models that were given as bytes: their constants stay.
    origin: Option<Origin>,
    keys: HashMap<String, ConstKey>,
    bytes: usize,
    weights: Mutex<Option<Arc<Weights>>>,
}

impl Held {
    pub fn new(weights: Weights, origin: Option<Origin>) -> Held {
        let tensors = || weights.0.iter().filter_map(|(name, tensor)| Some((name, tensor.as_ref().ok()?)));
        let keys = tensors().map(|(name, tensor)| (name.clone(), tensor.key())).collect();
        let bytes = tensors().map(|(_, tensor)| tensor.bytes().len()).sum();
        Held { origin, keys, bytes, weights: Mutex::new(Some(Arc::new(weights))) }
    }

    /// The constants, read again where they were let go.
    pub fn get(&self) -> Result<Arc<Weights>, ImportError> {
        let mut held = self.weights.lock().expect("no panic holds this lock");
        if let Some(weights) = &*held {
            return Ok(weights.clone());
        }
        let origin = self.origin.as_ref().expect("only what can be read again is let go");
        let mut file = origin.file.lock().expect("no panic holds this lock");
        let fault =
            |why: String| ImportError::Analysis { reason: format!("reading its weights again: {why}") };
        let mut bytes = vec![];
        let mut read = || {
            file.seek(SeekFrom::Start(0))?;
            file.read_to_end(&mut bytes)
        };
        read().map_err(|error: std::io::Error| fault(error.to_string()))?;
        let directory = origin.directory.as_deref();
        let mut graph = proto::decode(bytes, directory)?.graph.unwrap_or_default();
        let weights = Weights::hoist(&mut graph, directory);
        for (name, key) in &self.keys {
            if !weights.0.get(name).is_some_and(|now| now.as_ref().is_ok_and(|now| now.key() == *key)) {
                return Err(fault(format!("{name} has changed since the model was loaded: load it again")));
            }
        }
        let weights = Arc::new(weights);
        *held = Some(weights.clone());
        Ok(weights)
    }

    /// Lets the constants go if they are large and can be read again; whether they are gone.
    pub fn release(&self) -> bool {
        let large = self.origin.is_some() && self.bytes > WEIGHTS_KEPT_BYTES;
        if large {
            self.weights.lock().expect("no panic holds this lock").take();
        }
        large
    }
}

/// The tensor that a `Constant` is; `None` of other nodes, and of texts.
pub(crate) fn constant(node: &NodeProto, directory: Option<&str>) -> Option<Tensor> {
    if node.op_type != "Constant" || node.output.is_empty() {
        return None;
    }
    let attribute = node.attribute.first()?;
    match attribute.name.as_str() {
        "value" => read(attribute.t.as_ref()?, directory).ok(),
        "value_int" => Some(Tensor::i64([], &[attribute.i])),
        "value_ints" => Some(Tensor::i64([attribute.ints.len()], &attribute.ints)),
        "value_float" => Some(Tensor::scalar_f32(attribute.f)),
        "value_floats" => Some(Tensor::f32([attribute.floats.len()], &attribute.floats)),
        _ => None,
    }
}
