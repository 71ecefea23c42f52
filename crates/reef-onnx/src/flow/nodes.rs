//! Reading nodes and making them.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto};

use super::DOMAIN;
use crate::error::ImportError;

/// The error that names `node`.
pub(super) fn unsupported(node: &NodeProto, reason: impl Into<String>) -> ImportError {
    let name = match node.name.is_empty() {
        false => node.name.clone(),
        true => node.output.first().cloned().unwrap_or_default(),
    };
    ImportError::Unsupported { node: name, operator: node.op_type.clone(), reason: reason.into() }
}

/// The attribute of this name.
pub(super) fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

/// The integer attribute of this name.
pub(super) fn int(node: &NodeProto, name: &str) -> Option<i64> {
    attribute(node, name).map(|attribute| attribute.i)
}

/// The body of this name.
pub(super) fn body<'n>(node: &'n NodeProto, name: &str) -> Result<&'n GraphProto, ImportError> {
    let graph = attribute(node, name).and_then(|attribute| attribute.g.as_ref());
    graph.ok_or_else(|| unsupported(node, format!("it has no body `{name}`")))
}

/// A node that only programs have.
pub(super) fn own(operator: &str, input: Vec<String>, output: Vec<String>) -> NodeProto {
    let (op_type, domain) = (operator.to_owned(), DOMAIN.to_owned());
    NodeProto { op_type, domain, input, output, ..NodeProto::default() }
}

/// A node of one of ONNX's own operators.
pub(super) fn standard(
    operator: &str,
    input: Vec<String>,
    output: &str,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    let (op_type, output) = (operator.to_owned(), vec![output.to_owned()]);
    NodeProto { op_type, input, name: output[0].clone(), output, attribute, ..NodeProto::default() }
}

pub(super) fn number_attribute(name: &str, value: i64) -> AttributeProto {
    attribute_of(name, AttributeType::Int, |attribute| attribute.i = value)
}

pub(super) fn attribute_of(
    name: &str,
    kind: AttributeType,
    set: impl FnOnce(&mut AttributeProto),
) -> AttributeProto {
    let mut attribute =
        AttributeProto { name: name.into(), r#type: kind as i32, ..AttributeProto::default() };
    set(&mut attribute);
    attribute
}
