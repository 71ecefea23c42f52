//! A graph under construction: nodes in order, weights described but not made.
//!
//! Knows ONNX's data model and the names a torch exporter would give; knows no layer and no network.

use std::collections::HashMap;

use crate::proto::{AttributeProto, NodeProto, TensorProto, attribute_type, data_type};
use crate::variant::{Shapes, TensorSpec};
use crate::weights::{Fill, Role, Weight};

/// Nodes, weights and the tensors at the border.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) name: &'static str,
    pub(crate) shapes: Shapes,
    pub(crate) nodes: Vec<NodeProto>,
    pub(crate) weights: Vec<Weight>,
    pub(crate) inputs: Vec<TensorSpec>,
    pub(crate) outputs: Vec<TensorSpec>,
    /// How often each node name was asked for: names are unique in a graph.
    names: HashMap<String, usize>,
}

impl Graph {
    /// An empty graph of the model `name`.
    pub(crate) fn new(name: &'static str, shapes: Shapes) -> Self {
        let (nodes, weights) = (Vec::new(), Vec::new());
        Graph { name, shapes, nodes, weights, inputs: Vec::new(), outputs: Vec::new(), names: HashMap::new() }
    }

    /// Declares an input; its value has its name.
    pub(crate) fn input(&mut self, spec: TensorSpec) -> String {
        let name = spec.name.to_string();
        self.inputs.push(spec);
        name
    }

    /// Declares `value`, which no node reads, as an output and gives it the output's name.
    pub(crate) fn output(&mut self, value: &str, spec: TensorSpec) {
        assert!(
            self.nodes.iter().all(|node| node.input.iter().all(|read| read != value)),
            "an output that is read again cannot be renamed"
        );
        let producer = self.nodes.iter_mut().rev().find(|node| node.output[0] == value);
        producer.expect("an output is produced by a node").output[0] = spec.name.to_string();
        self.outputs.push(spec);
    }

    /// Adds a node of the module `path` (dots between its parts) and returns the name of its value.
    pub(crate) fn node(
        &mut self,
        op: &str,
        path: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let module: String =
            path.split('.').filter(|part| !part.is_empty()).map(|part| format!("/{part}")).collect();
        let name = self.unique(&format!("{module}/{op}"));
        let value = format!("{name}_output_0");
        self.nodes.push(NodeProto {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![value.clone()],
            name,
            op_type: op.to_string(),
            attribute: attributes,
        });
        value
    }

    /// Adds a weight and returns its name.
    pub(crate) fn weight(&mut self, name: String, dims: &[usize], fill: Fill, role: Role) -> String {
        debug_assert!(self.weights.iter().all(|other| other.name != name), "{name} is there already");
        self.weights.push(Weight { name: name.clone(), dims: dims.to_vec(), fill, role });
        name
    }

    /// A vector of integers: a `Constant` node where shapes are symbolic, as exporters leave them, otherwise
    /// an initializer, as after their constant folding.
    pub(crate) fn ints(&mut self, path: &str, values: &[i64]) -> String {
        self.constant(path, &[values.len()], Fill::I64(values.to_vec()))
    }

    /// One integer without an axis; where it goes as for [`Self::ints`].
    pub(crate) fn int(&mut self, path: &str, value: i64) -> String {
        self.constant(path, &[], Fill::I64(vec![value]))
    }

    /// One float without an axis; where it goes as for [`Self::ints`].
    pub(crate) fn float(&mut self, path: &str, value: f32) -> String {
        self.constant(path, &[], Fill::F32(vec![value]))
    }

    /// Elements of all trained tensors.
    pub(crate) fn param_count(&self) -> u64 {
        let trained = self.weights.iter().filter(|weight| weight.role == Role::Parameter);
        trained.map(|weight| weight.elements() as u64).sum()
    }

    fn constant(&mut self, path: &str, dims: &[usize], fill: Fill) -> String {
        match self.shapes {
            Shapes::Static { .. } => {
                let name = self.unique(&format!("{path}.constant"));
                self.weight(name, dims, fill, Role::Constant)
            }
            Shapes::Dynamic => {
                let value = tensor("value", dims, &fill);
                self.node("Constant", path, &[], vec![value])
            }
        }
    }

    fn unique(&mut self, name: &str) -> String {
        let count = self.names.entry(name.to_string()).or_insert(0);
        *count += 1;
        if *count == 1 { name.to_string() } else { format!("{name}_{}", *count - 1) }
    }
}

/// An attribute that is an integer.
pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_string(),
        i: Some(value),
        r#type: attribute_type::INT,
        ..AttributeProto::default()
    }
}

/// An attribute that is a word.
pub(crate) fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: name.to_string(),
        s: Some(value.to_string()),
        r#type: attribute_type::STRING,
        ..AttributeProto::default()
    }
}

/// An attribute that is a list of extents or axes.
pub(crate) fn ints(name: &str, values: &[usize]) -> AttributeProto {
    let values: Vec<i64> = values.iter().map(|value| *value as i64).collect();
    signed_ints(name, &values)
}

/// An attribute that is a list of integers, as axes counted from the end are.
pub(crate) fn signed_ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_string(),
        ints: values.to_vec(),
        r#type: attribute_type::INTS,
        ..AttributeProto::default()
    }
}

/// An attribute that is a float.
pub(crate) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: name.to_string(),
        f: Some(value),
        r#type: attribute_type::FLOAT,
        ..AttributeProto::default()
    }
}

/// An attribute that is a tensor of the values in `fill`.
pub(crate) fn tensor(name: &str, dims: &[usize], fill: &Fill) -> AttributeProto {
    let (data_type, raw) = match fill {
        Fill::I64(values) => (data_type::INT64, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Fill::F32(values) => (data_type::FLOAT, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        _ => unreachable!("a constant has its values"),
    };
    let dims = dims.iter().map(|dim| *dim as i64).collect();
    let t = TensorProto { dims, data_type, name: String::new(), raw_data: Some(raw) };
    AttributeProto {
        name: name.to_string(),
        t: Some(t),
        r#type: attribute_type::TENSOR,
        ..AttributeProto::default()
    }
}
