//! Element types of at most 8 bits that graphs do not have: integers of 4 and 2 bits, and floats of 8 and 4.
//!
//! What is of such a type is held in another one ([`Narrow::held`]), an element a byte: integers as such
//! within their range, of floats the code. A pass over a model that was decoded and checked finds out which
//! values these are, from what declares them on, and writes the operators that give such values a meaning as
//! others: conversions by `reef.Encode`, `reef.Decode` and `reef.Wrap`, quantisation to floats by
//! `reef.QuantizeFloat` and `reef.DequantizeFloat`, which `import::narrow` reads. Nothing after this pass
//! knows such types, and what moves elements moves bytes. Any other operator is refused by name.
//!
//! A model's inputs and outputs of such types are declared, and given, in the type that holds them.

use std::collections::HashMap;

use reef_graph::{DType, SmallFloat};
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::type_proto::Value;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};

use crate::error::ImportError;
use crate::scope;

/// An element type of ONNX that graphs do not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Narrow {
    /// An integer.
    Int { bits: u32, signed: bool },
    /// A float.
    Float(SmallFloat),
}

/// Codes of the types, with their names.
const TYPES: [(i32, &str, Narrow); 10] = [
    (17, "FLOAT8E4M3FN", Narrow::Float(SmallFloat::E4M3Fn)),
    (18, "FLOAT8E4M3FNUZ", Narrow::Float(SmallFloat::E4M3Fnuz)),
    (19, "FLOAT8E5M2", Narrow::Float(SmallFloat::E5M2)),
    (20, "FLOAT8E5M2FNUZ", Narrow::Float(SmallFloat::E5M2Fnuz)),
    (21, "UINT4", Narrow::Int { bits: 4, signed: false }),
    (22, "INT4", Narrow::Int { bits: 4, signed: true }),
    (23, "FLOAT4E2M1", Narrow::Float(SmallFloat::E2M1)),
    (24, "FLOAT8E8M0", Narrow::Float(SmallFloat::E8M0)),
    (25, "UINT2", Narrow::Int { bits: 2, signed: false }),
    (26, "INT2", Narrow::Int { bits: 2, signed: true }),
];

const FLOAT: i64 = 1;

impl Narrow {
    /// The type with this code, if it is one of these.
    pub fn of(code: i64) -> Option<Narrow> {
        TYPES.iter().find(|(own, ..)| i64::from(*own) == code).map(|(.., narrow)| *narrow)
    }

    fn entry(self) -> &'static (i32, &'static str, Narrow) {
        TYPES.iter().find(|(.., narrow)| *narrow == self).expect("every type is in the list")
    }

    /// What files call it.
    pub fn name(self) -> &'static str {
        self.entry().1
    }

    /// Bits of an element, as files pack them.
    pub fn bits(self) -> usize {
        match self {
            Narrow::Int { bits, .. } => bits as usize,
            Narrow::Float(format) => format.bits() as usize,
        }
    }

    /// The type that holds an element.
    pub fn held(self) -> DType {
        if matches!(self, Narrow::Int { signed: true, .. }) { DType::I8 } else { DType::U8 }
    }

    fn held_code(self) -> DataType {
        if self.held() == DType::I8 { DataType::Int8 } else { DataType::Uint8 }
    }

    /// Elements one by one, from bytes of several, the first in the lowest bits.
    fn unpacked(self, packed: &[u8], count: usize) -> Vec<u8> {
        let (bits, each) = (self.bits(), 8 / self.bits());
        let signed = matches!(self, Narrow::Int { signed: true, .. });
        let element = |at: usize| {
            let high = packed[at / each] << (8 - bits - at % each * bits);
            if signed { (high as i8 >> (8 - bits)) as u8 } else { high >> (8 - bits) }
        };
        (0..count).map(element).collect()
    }
}

/// Makes the elements of a tensor of a narrow type, as many as its shape needs, bytes of it; `external` gives
/// those that lie in another file. The tensor keeps its type until [`rewrite`] comes to it.
pub(crate) fn unpack(
    tensor: &mut TensorProto,
    narrow: Narrow,
    elements: usize,
    external: impl FnOnce(&mut TensorProto, usize) -> Result<Vec<u8>, String>,
) -> Result<(), String> {
    let bytes = (elements * narrow.bits()).div_ceil(8);
    let packed = if !tensor.raw_data.is_empty() {
        std::mem::take(&mut tensor.raw_data)
    } else if tensor.data_location == Some(DataLocation::External as i32) {
        external(tensor, bytes)?
    } else {
        std::mem::take(&mut tensor.int32_data).into_iter().map(|value| value as u8).collect()
    };
    if packed.len() != bytes {
        let (given, name) = (packed.len(), narrow.name());
        return Err(format!("{given} bytes of {name} given, shape {:?} needs {bytes}", tensor.dims));
    }
    tensor.raw_data = narrow.unpacked(&packed, elements);
    tensor.data_location = None;
    tensor.external_data.clear();
    Ok(())
}

/// Which values are of a narrow type.
type Types = HashMap<String, Narrow>;

/// Writes a graph, and those in it, without narrow types.
pub(crate) fn rewrite(graph: &mut GraphProto) -> Result<(), ImportError> {
    if !mentions(graph) {
        return Ok(());
    }
    scope::make_unique(graph);
    let mut types = Types::new();
    // Nodes may stand in any order; every round finds another value, or it is the last.
    while find(graph, &mut types) {}
    Rewriter { types: &types, mark: mark(graph), made: 0 }.graph(graph)
}

/// A beginning that no name of the graph has.
fn mark(graph: &GraphProto) -> String {
    let mut mark = String::from("narrow:");
    let inputs = graph.input.iter().map(|info| &info.name);
    let mut names: Vec<String> =
        inputs.chain(graph.initializer.iter().map(|tensor| &tensor.name)).cloned().collect();
    names.extend(graph.node.iter().flat_map(scope::all_names));
    while names.iter().any(|name| name.starts_with(&mark)) {
        mark.push(':');
    }
    mark
}

/// Whether anything in a graph says that it is of a narrow type.
fn mentions(graph: &GraphProto) -> bool {
    let declared = |info: &ValueInfoProto| declared(info).is_some();
    let in_node = |node: &NodeProto| {
        node.attribute.iter().any(|attribute| {
            let names_type = matches!(attribute.name.as_str(), "to" | "output_dtype" | "dtype");
            names_type && Narrow::of(attribute.i).is_some()
                || attribute.t.iter().any(|tensor| of_tensor(tensor).is_some())
                || attribute.g.iter().chain(&attribute.graphs).any(mentions)
        })
    };
    graph.input.iter().chain(&graph.output).any(declared)
        || graph.initializer.iter().any(|tensor| of_tensor(tensor).is_some())
        || graph.node.iter().any(in_node)
}

fn of_tensor(tensor: &TensorProto) -> Option<Narrow> {
    Narrow::of(tensor.data_type.into())
}

fn declared(info: &ValueInfoProto) -> Option<Narrow> {
    let Value::TensorType(tensor) = info.r#type.as_ref()?.value.as_ref()?;
    Narrow::of(tensor.elem_type.into())
}

fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

/// Adds what is known of a graph's values; whether that is more than before.
fn find(graph: &GraphProto, types: &mut Types) -> bool {
    let before = types.len();
    for info in graph.input.iter().chain(&graph.output) {
        types.extend(declared(info).map(|narrow| (info.name.clone(), narrow)));
    }
    for tensor in &graph.initializer {
        types.extend(of_tensor(tensor).map(|narrow| (tensor.name.clone(), narrow)));
    }
    for node in &graph.node {
        for (slot, output) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            types.extend(made(node, slot, types).map(|narrow| (output.clone(), narrow)));
        }
        for inner in node.attribute.iter().flat_map(|given| given.g.iter().chain(&given.graphs)) {
            enter(node, inner, types);
            while find(inner, types) {}
        }
    }
    types.len() > before
}

/// What goes into a body is of the type of what its operator is given.
fn enter(node: &NodeProto, body: &GraphProto, types: &mut Types) {
    let skipped = if node.op_type == "Loop" { 2 } else { 0 };
    for (given, info) in node.input.iter().zip(&body.input).skip(skipped) {
        let narrow = types.get(given).copied();
        types.extend(narrow.map(|narrow| (info.name.clone(), narrow)));
    }
}

/// The narrow type of an output, as far as is known.
fn made(node: &NodeProto, slot: usize, types: &Types) -> Option<Narrow> {
    let operand = |at: usize| node.input.get(at).and_then(|name| types.get(name)).copied();
    let named = |name: &str| attribute(node, name).and_then(|given| Narrow::of(given.i));
    match node.op_type.as_str() {
        "Cast" | "BitCast" => named("to"),
        "CastLike" => operand(1),
        "QuantizeLinear" => operand(2).or_else(|| named("output_dtype")),
        "Constant" | "ConstantOfShape" => {
            attribute(node, "value").and_then(|value| value.t.as_ref()).and_then(of_tensor)
        }
        "If" | "Loop" | "Scan" => {
            let skipped = usize::from(node.op_type == "Loop");
            let mut bodies = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
            let result = |body: &GraphProto| body.output.get(slot + skipped).map(|info| info.name.clone());
            bodies.find_map(|body| types.get(&result(body)?).copied())
        }
        operator if slot == 0 || operator == "Split" => moved(operator).then(|| operand(0)).flatten(),
        _ => None,
    }
}

/// Whether an operator gives the elements of its first operand without a look at them.
fn moved(operator: &str) -> bool {
    let shapes = ["Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile"];
    let parts = ["Concat", "Slice", "Split", "Gather", "DepthToSpace", "SpaceToDepth"];
    shapes.contains(&operator) || parts.contains(&operator)
}

struct Rewriter<'t> {
    types: &'t Types,
    /// What the names of new values begin with.
    mark: String,
    /// How many there are.
    made: usize,
}

/// What goes before a node that is written as several.
type Written = Vec<NodeProto>;

impl Rewriter<'_> {
    fn graph(&mut self, graph: &mut GraphProto) -> Result<(), ImportError> {
        for info in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
            hold_declared(info);
        }
        graph.initializer.iter_mut().for_each(hold_tensor);
        for mut node in std::mem::take(&mut graph.node) {
            for given in &mut node.attribute {
                given.t.iter_mut().for_each(hold_tensor);
                given.g.iter_mut().chain(&mut given.graphs).try_for_each(|inner| self.graph(inner))?;
            }
            self.node(node, &mut graph.node)?;
        }
        Ok(())
    }

    fn narrow(&self, node: &NodeProto, at: usize) -> Option<Narrow> {
        self.types.get(node.input.get(at)?).copied()
    }

    fn node(&mut self, mut node: NodeProto, into: &mut Vec<NodeProto>) -> Result<(), ImportError> {
        let mut written = Written::new();
        if let Err(reason) = self.write(&mut node, &mut written) {
            let (node, operator) = (node.name, node.op_type);
            return Err(ImportError::Unsupported { node, operator, reason });
        }
        into.append(&mut written);
        into.push(node);
        Ok(())
    }

    /// Changes a node, perhaps with others before it. The error says why it cannot be read.
    fn write(&mut self, node: &mut NodeProto, written: &mut Written) -> Result<(), String> {
        let narrow = (0..node.input.len()).find_map(|at| self.narrow(node, at));
        let made = node.output.first().and_then(|name| self.types.get(name)).copied();
        let touched = narrow.is_some() || made.is_some();
        match node.op_type.as_str() {
            _ if !touched => {}
            "Cast" | "CastLike" => self.cast(node, made, written),
            "BitCast" => return self.bit_cast(node, made, written),
            "QuantizeLinear" | "DequantizeLinear" => return self.quantised(node, made, written),
            "IsNaN" | "IsInf" => self.decode(node, 0, written),
            "If" | "Loop" | "Scan" | "Constant" | "ConstantOfShape" | "Shape" | "Size" => {}
            "Concat" if (1..node.input.len()).any(|at| self.narrow(node, at) != narrow) => {
                return Err("its operands are of different types".into());
            }
            operator if moved(operator) => {}
            _ => {
                let name = narrow.or(made).map_or("", Narrow::name);
                return Err(format!("elements of {name} are only moved, converted and quantised"));
            }
        }
        Ok(())
    }

    /// Another node before the one that is written; returns what it makes of `input`.
    fn before(
        &mut self,
        written: &mut Written,
        operator: &str,
        input: &str,
        attribute: Vec<AttributeProto>,
    ) -> String {
        self.made += 1;
        let output = format!("{}{}", self.mark, self.made);
        written.push(NodeProto {
            name: output.clone(),
            op_type: operator.into(),
            input: vec![input.into()],
            output: vec![output.clone()],
            attribute,
            ..NodeProto::default()
        });
        output
    }

    /// Puts numbers in the place of codes in an operand.
    fn decode(&mut self, node: &mut NodeProto, at: usize, written: &mut Written) {
        if let Some(Narrow::Float(format)) = self.narrow(node, at) {
            let format = vec![int("format", format as i64)];
            node.input[at] = self.before(written, "reef.Decode", &node.input[at].clone(), format);
        }
    }

    fn cast(&mut self, node: &mut NodeProto, made: Option<Narrow>, written: &mut Written) {
        self.decode(node, 0, written);
        let Some(made) = made else {
            node.attribute.retain(|given| given.name == "to");
            return;
        };
        let x = node.input[0].clone();
        node.input.truncate(1);
        match made {
            Narrow::Float(format) => {
                node.input[0] = self.before(written, "Cast", &x, vec![int("to", FLOAT)]);
                let saturate = attribute(node, "saturate").map_or(1, |given| given.i);
                let rounding = attribute(node, "round_mode").map_or(&b"up"[..], |given| &given.s);
                let rounding = [&b"up"[..], b"down", b"nearest"].iter().position(|mode| *mode == rounding);
                node.attribute = encoding(format, saturate, rounding.unwrap_or(0));
                node.op_type = "reef.Encode".into();
            }
            Narrow::Int { bits, .. } => {
                node.input[0] = self.before(written, "Cast", &x, vec![int("to", made.held_code() as i64)]);
                node.attribute = vec![int("bits", bits.into())];
                node.op_type = "reef.Wrap".into();
            }
        }
    }

    fn bit_cast(
        &mut self,
        node: &mut NodeProto,
        made: Option<Narrow>,
        written: &mut Written,
    ) -> Result<(), String> {
        let from = self.narrow(node, 0);
        let to =
            made.map_or_else(|| attribute(node, "to").map_or(0, |to| to.i), |made| made.held_code() as i64);
        match (from.map(Narrow::bits), made.map(Narrow::bits)) {
            (a, b) if a.unwrap_or(8) != b.unwrap_or(8) => {
                let name = |narrow: Option<Narrow>| narrow.map_or("another type", Narrow::name);
                return Err(format!("the bits of {} as {}", name(from), name(made)));
            }
            (Some(bits @ 1..8), _) => {
                let x = node.input[0].clone();
                node.input[0] = self.before(written, "Cast", &x, vec![int("to", to)]);
                node.attribute = vec![int("bits", bits as i64)];
                node.op_type = "reef.Wrap".into();
            }
            _ => node.attribute = vec![int("to", to)],
        }
        Ok(())
    }

    fn quantised(
        &mut self,
        node: &mut NodeProto,
        made: Option<Narrow>,
        written: &mut Written,
    ) -> Result<(), String> {
        if self.narrow(node, 1).is_some()
            && node.op_type == "DequantizeLinear"
            && attribute(node, "output_dtype").is_none_or(|given| given.i == 0)
        {
            return Err("output_dtype is missing beside scales of a narrow type".into());
        }
        self.decode(node, 1, written);
        let numbers = if node.op_type == "QuantizeLinear" { made } else { self.narrow(node, 0) };
        match numbers {
            Some(Narrow::Float(format)) => {
                let saturate = attribute(node, "saturate").map_or(1, |given| given.i);
                if let Some(precision) =
                    attribute(node, "precision").filter(|given| ![0, FLOAT].contains(&given.i))
                {
                    return Err(format!("a quotient of precision {}", precision.i));
                }
                if node.op_type == "QuantizeLinear" {
                    node.attribute.retain(|given| given.name != "output_dtype");
                }
                node.attribute.retain(|given| given.name != "saturate" && given.name != "precision");
                node.attribute.extend(encoding(format, saturate, 0));
                node.op_type = if node.op_type == "QuantizeLinear" {
                    "reef.QuantizeFloat"
                } else {
                    "reef.DequantizeFloat"
                }
                .into();
            }
            Some(narrow @ Narrow::Int { bits, .. }) => {
                node.attribute.push(int("bits", bits.into()));
                if node.op_type == "QuantizeLinear" {
                    node.attribute.retain(|given| given.name != "output_dtype");
                    node.attribute.push(int("output_dtype", narrow.held_code() as i64));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i, ..AttributeProto::default() }
}

fn encoding(format: SmallFloat, saturate: i64, rounding: usize) -> Vec<AttributeProto> {
    vec![int("format", format as i64), int("saturate", saturate), int("rounding", rounding as i64)]
}

fn hold_tensor(tensor: &mut TensorProto) {
    if let Some(narrow) = of_tensor(tensor) {
        tensor.data_type = narrow.held_code() as i32;
    }
}

fn hold_declared(info: &mut ValueInfoProto) {
    let narrow = declared(info);
    let value = info.r#type.as_mut().and_then(|kind| kind.value.as_mut());
    if let (Some(narrow), Some(Value::TensorType(tensor))) = (narrow, value) {
        tensor.elem_type = narrow.held_code() as i32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_taken_out_of_bytes_from_below() {
        let of = |code| Narrow::of(code).unwrap();
        assert_eq!(of(22).unpacked(&[0x8F, 0x07], 3), [0xFF, 0xF8, 7]);
        assert_eq!(of(21).unpacked(&[0x8F, 0x07], 3), [15, 8, 7]);
        assert_eq!(of(26).unpacked(&[0b11_10_01_00], 4), [0, 1, 0xFE, 0xFF]);
        assert_eq!(of(25).unpacked(&[0b11_10_01_00, 2], 5), [0, 1, 2, 3, 2]);
        assert_eq!(of(17).unpacked(&[9, 8], 2), [9, 8]);
        assert_eq!((Narrow::of(16), Narrow::of(27)), (None, None));
    }

    #[test]
    fn a_tensor_with_too_few_bytes_is_told_about() {
        let mut tensor =
            TensorProto { dims: vec![3], data_type: 22, raw_data: vec![1], ..Default::default() };
        let none =
            |_: &mut TensorProto, _| -> Result<Vec<u8>, String> { unreachable!("nothing is elsewhere") };
        let fault = unpack(&mut tensor, Narrow::of(22).unwrap(), 3, none).unwrap_err();
        assert_eq!(fault, "1 bytes of INT4 given, shape [3] needs 2");
    }
}
