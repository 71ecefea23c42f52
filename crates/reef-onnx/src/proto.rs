//! The protobuf message: decoding, checks that must precede tract, and the declared inputs and outputs.
//!
//! Checked here: every operator is one of ONNX's own, known by name, and says nothing that is not honoured
//! (tract looks at the name only, so that a namesake of another domain would be computed as the standard
//! one, and at those attributes that it knows); every tensor holds as many bytes as its shape needs, so that
//! a broken header cannot make the parser allocate without bound; every value has one maker. Nodes get names
//! of their own.

use std::collections::HashSet;

use prost::Message;
use reef_base::limits::{MODEL_TENSORS_MAX, TENSOR_ELEMENTS_MAX, TENSOR_RANK_MAX};
use reef_graph::{DType, Shape};
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimValue;

use crate::decl::{Dim, TensorDecl};
use crate::error::ImportError;
use crate::names::STANDARD;
use crate::narrow::{self, Narrow};
use crate::origin::{Origin, Place};
use crate::register::{self, attributes};
use crate::texts::{self, Numbered};
use crate::{external, functions, names, plain, skim};

/// What is said of inputs and outputs whose type is another one than a tensor's.
const NO_TENSOR: &str =
    "it is no tensor, but a sequence, a map or optional: only tensors are given and taken";

/// Graphs within graphs (bodies of `If`, `Loop`, `Scan`) that are followed. The decoder of the message has a
/// bound, too: a little more than this.
const NESTING_MAX: usize = 30;

/// Decodes and checks a model; what is not in the message is looked up in its files.
pub(crate) fn decode(
    bytes: &[u8],
    origin: Option<&Origin>,
) -> Result<(pb::ModelProto, Numbered), ImportError> {
    let mut model = pb::ModelProto::decode(bytes).map_err(|error| parse(&error.to_string()))?;
    let graph = model.graph.as_mut().ok_or_else(|| parse("it has no graph"))?;
    if graph.output.is_empty() {
        return Err(parse("its graph has no output"));
    }
    check_tensors(graph, 0, origin)?;
    for node in model.functions.iter_mut().flat_map(|function| &mut function.node) {
        check_node_tensors(node, 0, origin)?;
    }
    functions::inline(&mut model, bytes)?;
    let graph = model.graph.as_mut().expect("it has a graph");
    names::make_unique(graph);
    names::write_out_domains(graph);
    let graph = model.graph.as_ref().expect("it has a graph");
    let standard = |import: &&pb::OperatorSetIdProto| STANDARD.contains(&import.domain.as_str());
    let operator_set = model.opset_import.iter().find(standard).map_or(0, |import| import.version);
    let classical =
        |import: &&pb::OperatorSetIdProto| names::CLASSICAL.strip_suffix('.') == Some(import.domain.as_str());
    let classical_set = model.opset_import.iter().find(classical).map_or(0, |import| import.version);
    let operators = Operators { operator_set, classical_set };
    operators.check_graph(graph)?;
    let graph = model.graph.as_mut().expect("it has a graph");
    let texts = texts::rewrite(graph)?;
    narrow::rewrite(graph)?;
    plain::plain(graph, operator_set);
    Ok((model, texts))
}

/// The inputs that a caller gives: those that no initializer provides.
pub(crate) fn inputs(graph: &pb::GraphProto) -> Result<Vec<TensorDecl>, ImportError> {
    let given: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let inputs = graph.input.iter().filter(|input| !given.contains(input.name.as_str()));
    let decls: Vec<TensorDecl> = inputs.map(required).collect::<Result<_, _>>()?;
    for (what, count) in [("inputs", decls.len()), ("outputs", graph.output.len())] {
        if count > MODEL_TENSORS_MAX {
            return Err(parse(&format!("{count} {what}, reef takes at most {MODEL_TENSORS_MAX}")));
        }
    }
    Ok(decls)
}

/// What a program says about its outputs: a shape that it does not declare depends on data.
pub(crate) fn program_outputs(graph: &pb::GraphProto) -> Result<Vec<TensorDecl>, ImportError> {
    let decl_of = |output: &pb::ValueInfoProto| {
        if let Ok(decl) = decl(output) {
            return Ok(decl);
        }
        let value = output.r#type.as_ref().and_then(|kind| kind.value.as_ref());
        let dtype = value.and_then(|pb::type_proto::Value::TensorType(tensor)| {
            DataType::try_from(tensor.elem_type).ok().and_then(dtype_of)
        });
        let name = output.name.clone();
        let why = match output.r#type {
            Some(_) if value.is_none() => NO_TENSOR,
            _ => "its element type is not known",
        };
        let reason = || ImportError::Parse { reason: format!("output {name}: {why}") };
        let dims = vec![Dim::Symbol(format!("{}.0", output.name))];
        Ok(TensorDecl { dtype: dtype.ok_or_else(reason)?, name: output.name.clone(), dims, texts: false })
    };
    graph.output.iter().map(decl_of).collect()
}

/// What the file says about its outputs: names always, types and shapes where it does.
pub(crate) fn outputs(graph: &pb::GraphProto) -> Vec<(String, Option<TensorDecl>)> {
    graph.output.iter().map(|output| (output.name.clone(), decl(output).ok())).collect()
}

fn required(info: &pb::ValueInfoProto) -> Result<TensorDecl, ImportError> {
    decl(info).map_err(|reason| ImportError::Parse { reason: format!("input {}: {reason}", info.name) })
}

/// What a graph declares of a value.
pub(crate) fn decl(info: &pb::ValueInfoProto) -> Result<TensorDecl, String> {
    let kind = info.r#type.as_ref().ok_or("it has no type")?;
    let value = kind.value.as_ref().ok_or(NO_TENSOR)?;
    let pb::type_proto::Value::TensorType(tensor) = value;
    let dtype = DataType::try_from(tensor.elem_type)
        .ok()
        .and_then(dtype_of)
        .ok_or_else(|| format!("its element type (code {}) is not supported", tensor.elem_type))?;
    let shape = tensor.shape.as_ref().ok_or("its shape is not declared")?;
    if shape.dim.len() > TENSOR_RANK_MAX {
        return Err(format!("rank {} exceeds {TENSOR_RANK_MAX}", shape.dim.len()));
    }
    let dims = shape.dim.iter().enumerate().map(|(axis, dim)| match &dim.value {
        Some(DimValue::DimValue(extent)) if *extent >= 0 => Dim::Fixed(*extent as usize),
        Some(DimValue::DimParam(name)) if !name.is_empty() && name != "?" => Dim::Symbol(name.clone()),
        _ => Dim::Symbol(format!("{}.{axis}", info.name)),
    });
    Ok(TensorDecl { name: info.name.clone(), dtype, dims: dims.collect(), texts: false })
}

fn dtype_of(code: DataType) -> Option<DType> {
    Some(match code {
        DataType::Float => DType::F32,
        DataType::Float16 => DType::F16,
        DataType::Bfloat16 => DType::BF16,
        DataType::Double => DType::F64,
        DataType::Int64 => DType::I64,
        DataType::Int32 => DType::I32,
        DataType::Int16 => DType::I16,
        DataType::Int8 => DType::I8,
        DataType::Uint64 => DType::U64,
        DataType::Uint32 => DType::U32,
        DataType::Uint16 => DType::U16,
        DataType::Uint8 => DType::U8,
        DataType::Bool => DType::Bool,
        _ => return None,
    })
}

/// The element type with this code, if graphs have it.
pub(crate) fn dtype_of_code(code: i64) -> Option<DType> {
    DataType::try_from(i32::try_from(code).ok()?).ok().and_then(dtype_of)
}

/// The element type of a tensor, if graphs have it.
pub(crate) fn element_type(tensor: &pb::TensorProto) -> Option<DType> {
    DataType::try_from(tensor.data_type).ok().and_then(dtype_of)
}

/// How files call an element type.
pub(crate) fn code_of(dtype: DType) -> DataType {
    match dtype {
        DType::F32 => DataType::Float,
        DType::F16 => DataType::Float16,
        DType::BF16 => DataType::Bfloat16,
        DType::F64 => DataType::Double,
        DType::I64 => DataType::Int64,
        DType::I32 => DataType::Int32,
        DType::I16 => DataType::Int16,
        DType::I8 => DataType::Int8,
        DType::U64 => DataType::Uint64,
        DType::U32 => DataType::Uint32,
        DType::U16 => DataType::Uint16,
        DType::U8 => DataType::Uint8,
        DType::Bool => DataType::Bool,
    }
}

/// The declaration of a tensor.
pub(crate) fn declaration(name: &str, dtype: DType, shape: &Shape) -> pb::ValueInfoProto {
    let dim = |&extent: &usize| pb::tensor_shape_proto::Dimension {
        value: Some(DimValue::DimValue(extent as i64)),
        ..Default::default()
    };
    let shape = pb::TensorShapeProto { dim: shape.iter().map(dim).collect() };
    let tensor = pb::type_proto::Tensor { elem_type: code_of(dtype) as i32, shape: Some(shape) };
    let value = Some(pb::type_proto::Value::TensorType(tensor));
    let r#type = Some(pb::TypeProto { value, ..Default::default() });
    pb::ValueInfoProto { name: name.into(), r#type, ..Default::default() }
}

fn parse(reason: &str) -> ImportError {
    ImportError::Parse { reason: reason.to_owned() }
}

/// The operators that a model's nodes may name.
struct Operators {
    /// The version of ONNX's own operators.
    operator_set: i64,
    /// That of `ai.onnx.ml`; 0 if the model imports none.
    classical_set: i64,
}

impl Operators {
    fn check_graph(&self, graph: &pb::GraphProto) -> Result<(), ImportError> {
        names::check_values(graph).map_err(|reason| parse(&reason))?;
        for node in &graph.node {
            self.check_node(node)?;
        }
        Ok(())
    }

    fn check_node(&self, node: &pb::NodeProto) -> Result<(), ImportError> {
        if let Some(reason) = self.refusal(node) {
            let (node, operator) = (node.name.clone(), node.op_type.clone());
            return Err(ImportError::Unsupported { node, operator, reason });
        }
        for attribute in &node.attribute {
            for graph in attribute.g.iter().chain(&attribute.graphs) {
                self.check_graph(graph)?;
            }
        }
        Ok(())
    }

    /// Why a node cannot be read.
    fn refusal(&self, node: &pb::NodeProto) -> Option<String> {
        let domain = node.domain.as_str();
        if !STANDARD.contains(&domain) {
            return Some(format!("operators of the domain `{domain}` are not supported"));
        }
        let operator_set = match node.op_type.as_str() {
            // That domain has one operator set.
            operator if operator.starts_with(names::CONTRIBUTED) => 1,
            operator if operator.starts_with(names::CLASSICAL) => match self.classical_set {
                set if set > register::CLASSICAL_SET_MAX => {
                    let newest = register::CLASSICAL_SET_MAX;
                    return Some(format!(
                        "operator set {set} of ai.onnx.ml is newer than {newest}, the newest known"
                    ));
                }
                set => set,
            },
            _ => self.operator_set,
        };
        attributes::refusal(node, operator_set)
            .or_else(|| misread(node))
            .or_else(|| register::refusal(node, self.operator_set))
    }
}

/// Attributes that tract cannot take: it would never end.
fn misread(node: &pb::NodeProto) -> Option<String> {
    let attribute = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name);
    match node.op_type.as_str() {
        "Transpose" => {
            let perm = attribute("perm").map_or(&[][..], |perm| &perm.ints);
            let mut axes = perm.to_vec();
            axes.sort_unstable();
            let permutes = axes.iter().copied().eq(0..axes.len() as i64);
            (!permutes).then(|| format!("perm {perm:?} is not a permutation of axes"))
        }
        _ => None,
    }
}

/// Checks every tensor of a graph and of the graphs in it.
fn check_tensors(
    graph: &mut pb::GraphProto,
    depth: usize,
    origin: Option<&Origin>,
) -> Result<(), ImportError> {
    if depth > NESTING_MAX {
        return Err(parse(&format!("graphs nested deeper than {NESTING_MAX}")));
    }
    for tensor in &mut graph.initializer {
        check_tensor(tensor, origin)?;
    }
    graph.node.iter_mut().try_for_each(|node| check_node_tensors(node, depth, origin))
}

fn check_node_tensors(
    node: &mut pb::NodeProto,
    depth: usize,
    origin: Option<&Origin>,
) -> Result<(), ImportError> {
    for attribute in &mut node.attribute {
        for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
            check_tensor(tensor, origin)?;
        }
        for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            check_tensors(inner, depth + 1, origin)?;
        }
    }
    Ok(())
}

/// The bytes of a tensor that are not in the message.
fn elsewhere(tensor: &mut pb::TensorProto, bytes: usize, origin: Option<&Origin>) -> Result<Vec<u8>, String> {
    let place = match skim::place(tensor) {
        Some((offset, length)) if length == bytes as u64 => Some(Place { beside: None, offset }),
        Some((_, length)) => {
            return Err(format!("{length} bytes given, shape {:?} needs {bytes}", tensor.dims));
        }
        None => {
            external::check(tensor, bytes, origin)?;
            origin.and_then(|origin| external::place(tensor, &origin.directory))
        }
    };
    let Some((origin, place)) = origin.zip(place) else { return Err("its data is in another file".into()) };
    let mut data = vec![0; bytes];
    origin.read(&place, &mut data).map_err(|error| format!("its data: {error}"))?;
    Ok(data)
}

fn check_tensor(tensor: &mut pb::TensorProto, origin: Option<&Origin>) -> Result<(), ImportError> {
    let name = tensor.name.clone();
    let fail = |reason: String| ImportError::Parse { reason: format!("tensor {name}: {reason}") };
    let code = DataType::try_from(tensor.data_type).unwrap_or(DataType::Undefined);
    if code == DataType::String {
        return Ok(());
    }
    let narrow = Narrow::of(tensor.data_type.into());
    let Some(dtype) = dtype_of(code).or(narrow.map(Narrow::held)) else {
        return Err(fail(format!("element type {} is not supported", code.as_str_name())));
    };
    let elements = tensor.dims.iter().try_fold(1usize, |product, &dim| {
        product.checked_mul(usize::try_from(dim).ok()?).filter(|&product| product <= TENSOR_ELEMENTS_MAX)
    });
    let Some(elements) = elements else {
        return Err(fail(format!("shape {:?} is not one", tensor.dims)));
    };
    if let Some(narrow) = narrow {
        let elsewhere = |tensor: &mut pb::TensorProto, bytes: usize| elsewhere(tensor, bytes, origin);
        return narrow::unpack(tensor, narrow, elements, elsewhere).map_err(fail);
    }
    let outside = tensor.data_location == Some(DataLocation::External as i32) && tensor.raw_data.is_empty();
    let left = origin.filter(|_| outside).and_then(|origin| Some((origin, skim::place(tensor)?)));
    if outside && left.is_none() {
        return external::check(tensor, elements * dtype.bytes(), origin).map_err(fail);
    }
    let raw_bytes = match left {
        Some((origin, (_, length))) => {
            origin.note(elements * dtype.bytes());
            usize::try_from(length).unwrap_or(usize::MAX)
        }
        None => tensor.raw_data.len(),
    };
    let held = match () {
        () if raw_bytes > 0 => raw_bytes / dtype.bytes(),
        () if dtype == DType::F32 => tensor.float_data.len(),
        () if dtype == DType::F64 => tensor.double_data.len(),
        () if matches!(dtype, DType::I64) => tensor.int64_data.len(),
        () if matches!(dtype, DType::U64 | DType::U32) => tensor.uint64_data.len(),
        () => tensor.int32_data.len(),
    };
    let misaligned = !raw_bytes.is_multiple_of(dtype.bytes());
    if held != elements || misaligned {
        return Err(fail(format!("{held} elements given, shape {:?} needs {elements}", tensor.dims)));
    }
    if matches!(dtype, DType::U64 | DType::U32) && raw_bytes == 0 {
        // tract looks for them where ONNX does not put them.
        let bytes = |value: &u64| value.to_le_bytes()[..dtype.bytes()].to_vec();
        tensor.raw_data = tensor.uint64_data.iter().flat_map(bytes).collect();
    }
    Ok(())
}
