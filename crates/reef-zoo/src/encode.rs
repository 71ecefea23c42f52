//! Writes a graph as an ONNX file without ever holding it in memory.
//!
//! A message's fields may come in any order, so each length that protobuf wants up front is known before the
//! weights exist: model, graph without weights, then one tensor after the other, its data last.

use std::io::{self, Write};

use prost::Message;

use crate::graph::Graph;
use crate::proto::{
    DimensionProto, DimensionValue, GraphProto, ModelProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, data_type,
};
use crate::variant::{Dim, ElemType, TensorSpec};
use crate::weights::{Fill, Weight};

/// The version of the file format that came with opset 17.
const IR_VERSION: i64 = 8;
/// The version of the default operator domain.
const OPSET: i64 = 17;

/// The edition of the zoo's networks and weights: raised when a file of the same variant changes, not with
/// the crate.
const EDITION: &str = "1";

/// Keys of length-delimited fields: `number << 3 | 2`.
const MODEL_GRAPH: u8 = 7 << 3 | 2;
const GRAPH_INITIALIZER: u8 = 5 << 3 | 2;
const TENSOR_RAW_DATA: u8 = 9 << 3 | 2;

/// Writes the file of `graph` with the weights that `seed` gives.
pub(crate) fn encode(graph: &Graph, seed: u64, out: &mut impl Write) -> io::Result<()> {
    let border = graph_without_weights(graph).encode_to_vec();
    let tensors: Vec<_> =
        graph.weights.iter().map(|weight| (weight, header(weight).encode_to_vec())).collect();
    let weights_bytes: usize =
        tensors.iter().map(|(weight, header)| field_bytes(tensor_bytes(weight, header))).sum();

    out.write_all(&model_without_graph().encode_to_vec())?;
    write_key(MODEL_GRAPH, border.len() + weights_bytes, out)?;
    out.write_all(&border)?;
    for (weight, header) in &tensors {
        write_key(GRAPH_INITIALIZER, tensor_bytes(weight, header), out)?;
        out.write_all(header)?;
        write_key(TENSOR_RAW_DATA, weight.data_bytes(), out)?;
        weight.write_data(graph.name, seed, out)?;
    }
    Ok(())
}

fn tensor_bytes(weight: &Weight, header: &[u8]) -> usize {
    header.len() + field_bytes(weight.data_bytes())
}

/// Bytes of a length-delimited field: key (one byte for numbers below 16), length, content.
fn field_bytes(content: usize) -> usize {
    1 + prost::length_delimiter_len(content) + content
}

fn write_key(key: u8, length: usize, out: &mut impl Write) -> io::Result<()> {
    let mut bytes = vec![key];
    prost::encode_length_delimiter(length, &mut bytes).expect("a vector grows");
    out.write_all(&bytes)
}

fn model_without_graph() -> ModelProto {
    ModelProto {
        ir_version: IR_VERSION,
        producer_name: "reef-zoo".to_string(),
        producer_version: EDITION.to_string(),
        graph: None,
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
    }
}

fn graph_without_weights(graph: &Graph) -> GraphProto {
    GraphProto {
        node: graph.nodes.clone(),
        name: graph.name.to_string(),
        initializer: Vec::new(),
        input: graph.inputs.iter().map(value_info).collect(),
        output: graph.outputs.iter().map(value_info).collect(),
    }
}

fn header(weight: &Weight) -> TensorProto {
    TensorProto {
        dims: weight.dims.iter().map(|dim| *dim as i64).collect(),
        data_type: if matches!(weight.fill, Fill::I64(_)) { data_type::INT64 } else { data_type::FLOAT },
        name: weight.name.clone(),
        raw_data: None,
    }
}

fn value_info(spec: &TensorSpec) -> ValueInfoProto {
    let elem_type = match spec.elem {
        ElemType::F32 => data_type::FLOAT,
        ElemType::I64 => data_type::INT64,
    };
    let dims = spec.dims.iter().map(|dim| match dim {
        Dim::Fixed(extent) => DimensionValue::DimValue(*extent as i64),
        Dim::Symbol(symbol) => DimensionValue::DimParam(symbol.to_string()),
    });
    let shape = TensorShapeProto { dim: dims.map(|dim| DimensionProto { value: Some(dim) }).collect() };
    let tensor_type = TensorTypeProto { elem_type, shape: Some(shape) };
    ValueInfoProto { name: spec.name.to_string(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}
