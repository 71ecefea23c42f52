//! Small programs as ONNX files, and those in a folder of models with their inputs.

#![allow(dead_code, reason = "every test crate uses its own part")]

use std::path::Path;

use prost::Message;
use reef_base::Rng;
use reef_graph::{DType, Shape};

/// A model and one input for each of its inputs.
pub struct Program {
    pub name: String,
    pub onnx: Vec<u8>,
    pub inputs: Vec<Input>,
}

pub struct Input {
    pub name: String,
    pub dtype: DType,
    pub shape: Shape,
    pub data: Vec<u8>,
}

/// Loops and branches on computed conditions, stacked results, a growing value, and a result of unknown
/// length.
pub fn programs() -> Vec<Program> {
    vec![until_small(), either_way(), growing()]
}

const SIDE: i64 = 160;

/// `while max |x| > 0.001 { x = relu(x · W) · 0.6; the sums are stacked }`
fn until_small() -> Program {
    let body = Graph {
        nodes: vec![
            node("MatMul", &["x", "w"], &["a"]),
            node("Relu", &["a"], &["b"]),
            node("Mul", &["b", "shrink"], &["next"]),
            with("ReduceMax", &["next"], "top", vec![int("keepdims", 0)]),
            node("Greater", &["top", "small"], &["on"]),
            with("ReduceSum", &["next"], "sum", vec![int("keepdims", 0)]),
        ],
        inputs: vec![info("round", INT64, &[]), info("go", BOOL, &[]), info("x", FLOAT, &[SIDE, SIDE])],
        outputs: vec![info("on", BOOL, &[]), info("next", FLOAT, &[SIDE, SIDE]), info("sum", FLOAT, &[])],
        ..Graph::default()
    };
    let graph = Graph {
        nodes: vec![with("Loop", &["", "", "start"], "end", vec![inner("body", body)])],
        inputs: vec![info("start", FLOAT, &[SIDE, SIDE])],
        outputs: vec![info("end", FLOAT, &[SIDE, SIDE]), unknown("sums", FLOAT, 1)],
        tensors: vec![weights("w", &[SIDE, SIDE], 0.011), scalar("shrink", 0.9), scalar("small", 0.001)],
    };
    let mut program = program("until-small", graph, "start", &[SIDE, SIDE]);
    // The second result of the loop.
    program.onnx = with_results(&program.onnx, &["end", "sums"]);
    program
}

/// `y = sum(x · W) > 0 ? (x · W) · W : -(x · W)`, then where y is positive, and what is there.
fn either_way() -> Program {
    let branch = |operator: &str, inputs: &[&str], result: &str| Graph {
        nodes: vec![node(operator, inputs, &[result])],
        outputs: vec![info(result, FLOAT, &[SIDE, SIDE])],
        ..Graph::default()
    };
    let graph = Graph {
        nodes: vec![
            node("MatMul", &["x", "w"], &["a"]),
            with("ReduceSum", &["a"], "sum", vec![int("keepdims", 0)]),
            node("Greater", &["sum", "zero"], &["positive"]),
            with(
                "If",
                &["positive"],
                "y",
                vec![
                    inner("then_branch", branch("MatMul", &["a", "w"], "t")),
                    inner("else_branch", branch("Neg", &["a"], "e")),
                ],
            ),
            node("Greater", &["y", "zero"], &["above"]),
            node("NonZero", &["above"], &["where"]),
            with("Transpose", &["where"], "places", vec![ints("perm", &[1, 0])]),
            node("GatherND", &["y", "places"], &["found"]),
        ],
        inputs: vec![info("x", FLOAT, &[SIDE, SIDE])],
        outputs: vec![info("y", FLOAT, &[SIDE, SIDE]), unknown("found", FLOAT, 1)],
        tensors: vec![weights("w", &[SIDE, SIDE], 0.02), scalar("zero", 0.0)],
    };
    program("either-way", graph, "x", &[SIDE, SIDE])
}

/// Twelve rounds, each of which puts a row behind those that there are: `c = concat(c, last(c) · W)`.
fn growing() -> Program {
    let body = Graph {
        nodes: vec![
            node("Gather", &["c", "last"], &["row"]),
            node("MatMul", &["row", "w"], &["more"]),
            with("Concat", &["c", "more"], "longer", vec![int("axis", 0)]),
            with("ReduceMax", &["more"], "top", vec![int("keepdims", 0)]),
            node("Greater", &["top", "never"], &["on"]),
        ],
        inputs: vec![info("round", INT64, &[]), info("go", BOOL, &[]), unknown("c", FLOAT, 2)],
        outputs: vec![info("on", BOOL, &[]), unknown("longer", FLOAT, 2)],
        ..Graph::default()
    };
    let graph = Graph {
        nodes: vec![with("Loop", &["twelve", "", "start"], "end", vec![inner("body", body)])],
        inputs: vec![info("start", FLOAT, &[4, SIDE])],
        outputs: vec![unknown("end", FLOAT, 2)],
        tensors: vec![
            weights("w", &[SIDE, SIDE], 0.05),
            scalar("never", -1e30),
            whole("twelve", &[], 12),
            whole("last", &[1], -1),
        ],
    };
    program("growing", graph, "start", &[4, SIDE])
}

/// `y = relu(x[from .. from + 4])`, with `from` an input: as many plans as values.
pub fn window(length: i64) -> Program {
    let graph = Graph {
        nodes: vec![
            node("Add", &["from", "four"], &["to"]),
            node("Slice", &["x", "from", "to"], &["part"]),
            node("Relu", &["part"], &["y"]),
        ],
        inputs: vec![info("x", FLOAT, &[length]), info("from", INT64, &[1])],
        outputs: vec![unknown("y", FLOAT, 1)],
        tensors: vec![whole("four", &[1], 4)],
    };
    from_there(program("window", graph, "x", &[length]))
}

/// `y = sum(part) > 0 ? part : -part`, where `part = x[from .. from + 4]` is cut out in the branches: as many
/// second segments as values.
pub fn forked_window(length: i64) -> Program {
    let branch = |operator: &str, result: &str| {
        let part = format!("{result} part");
        Graph {
            nodes: vec![node("Slice", &["x", "from", "to"], &[&part]), node(operator, &[&part], &[result])],
            outputs: vec![unknown(result, FLOAT, 1)],
            ..Graph::default()
        }
    };
    let branches = vec![inner("then_branch", branch("Relu", "t")), inner("else_branch", branch("Neg", "e"))];
    let graph = Graph {
        nodes: vec![
            node("Add", &["from", "four"], &["to"]),
            node("Slice", &["x", "from", "to"], &["part"]),
            with("ReduceSum", &["part"], "sum", vec![int("keepdims", 0)]),
            node("Greater", &["sum", "zero"], &["positive"]),
            with("If", &["positive"], "y", branches),
        ],
        inputs: vec![info("x", FLOAT, &[length]), info("from", INT64, &[1])],
        outputs: vec![unknown("y", FLOAT, 1)],
        tensors: vec![whole("four", &[1], 4), scalar("zero", 0.0)],
    };
    from_there(program("forked", graph, "x", &[length]))
}

/// `y = relu(conv(x, w) + b)`, three channels to `channels`, every second pixel of 21 by 18.
pub fn convolution(channels: i64) -> Program {
    let attributes = vec![ints("strides", &[2, 2]), ints("pads", &[1, 1, 1, 1])];
    let graph = Graph {
        nodes: vec![with("Conv", &["x", "w", "b"], "sums", attributes), node("Relu", &["sums"], &["y"])],
        inputs: vec![info("x", FLOAT, &[2, 3, 21, 18])],
        outputs: vec![info("y", FLOAT, &[2, channels, 11, 9])],
        tensors: vec![weights("w", &[channels, 3, 3, 3], 0.2), weights("b", &[channels], 0.5)],
    };
    program("convolution", graph, "x", &[2, 3, 21, 18])
}

/// `next = state + x; y = -next`
pub fn recurrent() -> Program {
    let graph = Graph {
        nodes: vec![node("Add", &["state", "x"], &["next"]), node("Neg", &["next"], &["y"])],
        inputs: vec![info("x", FLOAT, &[2]), info("state", FLOAT, &[2]), info("unused", INT64, &[2])],
        outputs: vec![info("y", FLOAT, &[2]), info("next", FLOAT, &[2])],
        ..Graph::default()
    };
    program("recurrent", graph, "x", &[2])
}

/// With the input `from` as 3.
fn from_there(mut program: Program) -> Program {
    let data = 3i64.to_le_bytes().to_vec();
    program.inputs.push(Input { name: "from".into(), dtype: DType::I64, shape: Shape::from([1]), data });
    program
}

/// `y = relu(expand(x, to))`, with `to` an input: as many plans as values.
pub fn rows() -> Program {
    let graph = Graph {
        nodes: vec![node("Expand", &["x", "to"], &["rows"]), node("Relu", &["rows"], &["y"])],
        inputs: vec![info("x", FLOAT, &[1, 8]), info("to", INT64, &[2])],
        outputs: vec![unknown("y", FLOAT, 2)],
        tensors: vec![],
    };
    let mut program = program("rows", graph, "x", &[1, 8]);
    let data = [3i64, 8].into_iter().flat_map(i64::to_le_bytes).collect();
    program.inputs.push(Input { name: "to".into(), dtype: DType::I64, shape: Shape::from([2]), data });
    program
}

/// Every model of `folder` that has inputs beside it: `NAME.onnx`, `NAME.0.INPUT.npy`.
pub fn in_folder(folder: &Path) -> Vec<Program> {
    let mut found = vec![];
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").flatten().map(|e| e.path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "onnx")) {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if name.starts_with("bad_") {
            continue;
        }
        let onnx = std::fs::read(path).expect("a model");
        let Ok(model) = reef_onnx::OnnxModel::from_bytes(&onnx) else { continue };
        let read = |decl: &reef_onnx::TensorDecl| {
            let file = std::fs::read(folder.join(format!("{name}.0.{}.npy", decl.name))).ok()?;
            let array = npyz::NpyFile::new(&file[..]).ok()?;
            let shape: Shape = array.shape().iter().map(|&extent| extent as usize).collect();
            let bytes = shape.elements() * decl.dtype.bytes();
            let data = file[file.len() - bytes..].to_vec();
            Some(Input { name: decl.name.clone(), dtype: decl.dtype, shape, data })
        };
        if let Some(inputs) = model.inputs().iter().map(read).collect::<Option<Vec<_>>>() {
            found.push(Program { name, onnx, inputs });
        }
    }
    found
}

fn program(name: &str, graph: Graph, input: &str, dims: &[i64]) -> Program {
    let model = ModelProto {
        ir_version: 8,
        graph: Some(graph.proto()),
        opset_import: vec![OperatorSet { domain: String::new(), version: 17 }],
    };
    let mut rng = Rng::new(7);
    let shape: Shape = dims.iter().map(|&dim| dim as usize).collect();
    let data = (0..shape.elements()).flat_map(|_| rng.normal_f32().to_le_bytes()).collect();
    let inputs = vec![Input { name: input.into(), dtype: DType::F32, shape, data }];
    Program { name: name.into(), onnx: model.encode_to_vec(), inputs }
}

/// The model with these results of its first node.
fn with_results(onnx: &[u8], results: &[&str]) -> Vec<u8> {
    let mut model = ModelProto::decode(onnx).expect("it was just written");
    let graph = model.graph.as_mut().expect("it has a graph");
    graph.node[0].output = results.iter().map(|name| name.to_string()).collect();
    model.encode_to_vec()
}

const FLOAT: i32 = 1;
const INT64: i32 = 7;
const BOOL: i32 = 9;

#[derive(Default)]
struct Graph {
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfo>,
    outputs: Vec<ValueInfo>,
    tensors: Vec<TensorProto>,
}

impl Graph {
    fn proto(self) -> GraphProto {
        let Graph { nodes, inputs, outputs, tensors } = self;
        GraphProto { node: nodes, name: "graph".into(), initializer: tensors, input: inputs, output: outputs }
    }
}

fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
    NodeProto {
        input: names(inputs),
        output: names(outputs),
        name: format!("make {}", outputs[0]),
        op_type: operator.into(),
        attribute: vec![],
    }
}

fn with(operator: &str, inputs: &[&str], output: &str, attribute: Vec<Attribute>) -> NodeProto {
    NodeProto { attribute, ..node(operator, inputs, &[output]) }
}

fn int(name: &str, value: i64) -> Attribute {
    Attribute { name: name.into(), i: Some(value), r#type: 2, ..Attribute::default() }
}

fn ints(name: &str, values: &[i64]) -> Attribute {
    Attribute { name: name.into(), ints: values.to_vec(), r#type: 7, ..Attribute::default() }
}

fn inner(name: &str, graph: Graph) -> Attribute {
    Attribute { name: name.into(), g: Some(graph.proto()), r#type: 5, ..Attribute::default() }
}

fn info(name: &str, code: i32, dims: &[i64]) -> ValueInfo {
    let dim = |&dim: &i64| Dimension { value: Some(dim), symbol: None };
    let shape = Some(TensorShape { dim: dims.iter().map(dim).collect() });
    ValueInfo { name: name.into(), r#type: Some(Type { tensor: Some(TensorType { code, shape }) }) }
}

fn unknown(name: &str, code: i32, rank: usize) -> ValueInfo {
    let dim = |axis: usize| Dimension { value: None, symbol: Some(format!("{name}.{axis}")) };
    let shape = Some(TensorShape { dim: (0..rank).map(dim).collect() });
    ValueInfo { name: name.into(), r#type: Some(Type { tensor: Some(TensorType { code, shape }) }) }
}

fn weights(name: &str, dims: &[i64], scale: f32) -> TensorProto {
    let mut rng = Rng::new(11);
    let count = dims.iter().product::<i64>();
    let raw = (0..count).flat_map(|_| ((rng.normal_f32() + 0.4) * scale).to_le_bytes()).collect();
    TensorProto { dims: dims.to_vec(), code: FLOAT, name: name.into(), raw }
}

fn scalar(name: &str, value: f32) -> TensorProto {
    TensorProto { dims: vec![], code: FLOAT, name: name.into(), raw: value.to_le_bytes().to_vec() }
}

fn whole(name: &str, dims: &[i64], value: i64) -> TensorProto {
    TensorProto { dims: dims.to_vec(), code: INT64, name: name.into(), raw: value.to_le_bytes().to_vec() }
}

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSet>,
}

#[derive(Clone, PartialEq, Message)]
struct OperatorSet {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, optional, tag = "3")]
    i: Option<i64>,
    #[prost(message, optional, tag = "6")]
    g: Option<GraphProto>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    r#type: i32,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    code: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ValueInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<TensorShape>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorShape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, optional, tag = "1")]
    value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    symbol: Option<String>,
}
