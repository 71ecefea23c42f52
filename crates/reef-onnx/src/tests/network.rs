//! Small ONNX models, written down in a few lines.

use prost::Message;
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value as DimValue};

use crate::{OnnxModel, Specialised};
use reef_graph::Shape;

/// A model under construction.
#[derive(Default)]
pub(super) struct Network {
    graph: pb::GraphProto,
    functions: Vec<pb::FunctionProto>,
    opset: Option<i64>,
    made: usize,
}

/// An attribute's value.
#[derive(Clone, Copy)]
pub(super) enum Attr<'a> {
    Int(i64),
    Ints(&'a [i64]),
    Float(f32),
    Floats(&'a [f32]),
    Text(&'a str),
    Texts(&'a [&'a str]),
}

impl Network {
    /// The version of the operators; 17 unless this is called.
    pub fn opset(&mut self, version: i64) {
        self.opset = Some(version);
    }

    /// An input; dimensions are numbers or symbols.
    pub fn input(&mut self, name: &str, code: DataType, dims: &[&str]) {
        self.graph.input.push(info(name, code, dims));
    }

    /// An f32 initializer of small pseudo-random numbers.
    pub fn weights(&mut self, dims: &[i64]) -> String {
        let count: i64 = dims.iter().product();
        let mut rng = reef_base::Rng::new(self.made as u64 + 1);
        let values: Vec<f32> = (0..count).map(|_| (rng.next_u64() >> 40) as f32 / 1e8 + 0.01).collect();
        self.constant(dims, &values)
    }

    /// An f32 initializer.
    pub fn constant(&mut self, dims: &[i64], values: &[f32]) -> String {
        let tensor = pb::TensorProto { float_data: values.to_vec(), ..tensor(dims, DataType::Float) };
        self.initializer(tensor)
    }

    /// An i64 initializer.
    pub fn integers(&mut self, dims: &[i64], values: &[i64]) -> String {
        let tensor = pb::TensorProto { int64_data: values.to_vec(), ..tensor(dims, DataType::Int64) };
        self.initializer(tensor)
    }

    /// An i32 initializer.
    pub fn integers32(&mut self, dims: &[i64], values: &[i32]) -> String {
        let tensor = pb::TensorProto { int32_data: values.to_vec(), ..tensor(dims, DataType::Int32) };
        self.initializer(tensor)
    }

    /// An initializer of any type.
    pub fn bytes_of(&mut self, code: DataType, dims: &[i64], bytes: &[u8]) -> String {
        let tensor = pb::TensorProto { raw_data: bytes.to_vec(), ..tensor(dims, code) };
        self.initializer(tensor)
    }

    /// An initializer of a type that only its code tells.
    pub fn coded(&mut self, code: i32, dims: &[i64], bytes: &[u8]) -> String {
        let plain = tensor(dims, DataType::Uint8);
        self.initializer(pb::TensorProto { raw_data: bytes.to_vec(), data_type: code, ..plain })
    }

    /// A node with one output.
    pub fn node(&mut self, operator: &str, inputs: &[&str], attributes: &[(&str, Attr)]) -> String {
        self.nodes(operator, inputs, attributes, 1).remove(0)
    }

    /// A node with several outputs.
    pub fn nodes(
        &mut self,
        operator: &str,
        inputs: &[&str],
        attributes: &[(&str, Attr)],
        outputs: usize,
    ) -> Vec<String> {
        let name = self.name(operator);
        let output: Vec<String> = (0..outputs).map(|slot| format!("{name}_{slot}")).collect();
        self.graph.node.push(pb::NodeProto {
            name,
            op_type: operator.into(),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: output.clone(),
            attribute: attributes.iter().map(attribute).collect(),
            ..Default::default()
        });
        output
    }

    /// Gives the last node further attributes.
    pub fn attributes(&mut self, attributes: Vec<pb::AttributeProto>) {
        let node = self.graph.node.last_mut().expect("there is a node");
        node.attribute.extend(attributes);
    }

    /// As a body of a node.
    pub fn body(self, name: &str) -> pb::AttributeProto {
        let kind = pb::attribute_proto::AttributeType::Graph as i32;
        pb::AttributeProto { name: name.into(), r#type: kind, g: Some(self.graph), ..Default::default() }
    }

    /// Puts the operator of the last node into a domain.
    pub fn domain(&mut self, domain: &str) {
        let node = self.graph.node.last_mut().expect("there is a node");
        node.domain = domain.into();
    }

    /// A function of the model's own, without a body.
    pub fn function(&mut self, domain: &str, name: &str) {
        let (domain, name) = (Some(domain.into()), Some(name.into()));
        self.functions.push(pb::FunctionProto { domain, name, ..Default::default() });
    }

    /// Declares an output.
    pub fn output(&mut self, name: &str, code: DataType, dims: &[&str]) {
        self.graph.output.push(info(name, code, dims));
    }

    /// Another value as an output that was declared.
    pub fn replace_output(&mut self, index: usize, name: &str) {
        self.graph.output[index].name = name.into();
    }

    /// The file.
    pub fn bytes(self) -> Vec<u8> {
        let opset = pb::OperatorSetIdProto { domain: String::new(), version: self.opset.unwrap_or(17) };
        let classical = pb::OperatorSetIdProto { domain: "ai.onnx.ml".into(), version: 3 };
        let model = pb::ModelProto {
            ir_version: 8,
            opset_import: vec![opset, classical],
            graph: Some(self.graph),
            functions: self.functions,
            ..Default::default()
        };
        model.encode_to_vec()
    }

    /// Changes what was written so far.
    pub fn change(&mut self, change: impl FnOnce(&mut pb::GraphProto)) {
        change(&mut self.graph);
    }

    /// The file, with its graph changed.
    pub fn changed(mut self, change: impl FnOnce(&mut pb::GraphProto)) -> Vec<u8> {
        change(&mut self.graph);
        self.bytes()
    }

    /// The file, parsed.
    pub fn model(self) -> OnnxModel {
        OnnxModel::from_bytes(&self.bytes()).expect("the model is valid")
    }

    fn initializer(&mut self, mut tensor: pb::TensorProto) -> String {
        tensor.name = self.name("const");
        let name = tensor.name.clone();
        self.graph.initializer.push(tensor);
        name
    }

    fn name(&mut self, stem: &str) -> String {
        self.made += 1;
        format!("{stem}{}", self.made)
    }
}

/// The model for these extents, by input order.
pub(super) fn specialise(model: &OnnxModel, dims: &[&[usize]]) -> Specialised {
    let inputs = model.inputs().iter().zip(dims);
    let shapes: Vec<(&str, Shape)> =
        inputs.map(|(input, dims)| (input.name.as_str(), Shape::new(dims))).collect();
    model.specialise(&shapes).expect("the model fits these shapes")
}

/// The graph's text with convolutions abbreviated.
pub(super) fn brief(graph: &reef_graph::Graph) -> String {
    let text = graph.to_string().replace(", dilations: [1, 1], groups: 1 })", ")");
    text.replace("ConvAttrs { kernel: ", "").replace(", strides:", " stride").replace(", pads:", " pads")
}

fn tensor(dims: &[i64], code: DataType) -> pb::TensorProto {
    pb::TensorProto { dims: dims.to_vec(), data_type: code as i32, ..Default::default() }
}

fn attribute((name, value): &(&str, Attr)) -> pb::AttributeProto {
    let mut attribute = pb::AttributeProto { name: (*name).to_owned(), ..Default::default() };
    let kind = match value {
        Attr::Int(value) => {
            attribute.i = *value;
            pb::attribute_proto::AttributeType::Int
        }
        Attr::Ints(values) => {
            attribute.ints = values.to_vec();
            pb::attribute_proto::AttributeType::Ints
        }
        Attr::Float(value) => {
            attribute.f = *value;
            pb::attribute_proto::AttributeType::Float
        }
        Attr::Floats(values) => {
            attribute.floats = values.to_vec();
            pb::attribute_proto::AttributeType::Floats
        }
        Attr::Text(value) => {
            attribute.s = value.as_bytes().to_vec();
            pb::attribute_proto::AttributeType::String
        }
        Attr::Texts(values) => {
            attribute.strings = values.iter().map(|value| value.as_bytes().to_vec()).collect();
            pb::attribute_proto::AttributeType::Strings
        }
    };
    attribute.r#type = kind as i32;
    attribute
}

fn info(name: &str, code: DataType, dims: &[&str]) -> pb::ValueInfoProto {
    let dim = |text: &&str| Dimension {
        value: Some(match text.parse() {
            Ok(extent) => DimValue::DimValue(extent),
            Err(_) => DimValue::DimParam((*text).to_owned()),
        }),
        ..Default::default()
    };
    let shape = pb::TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = pb::type_proto::Tensor { elem_type: code as i32, shape: Some(shape) };
    pb::ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(pb::TypeProto {
            value: Some(pb::type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}
