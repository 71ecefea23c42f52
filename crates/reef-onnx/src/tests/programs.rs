//! Operators with bodies: what is refused when a model is loaded, and what is told without running anything.

use reef_graph::{DType, Shape};
use tract_onnx::pb::tensor_proto::DataType;

use super::network::{Attr, Network};
use crate::{Given, ImportError, OnnxModel, Source, Step, Take};

/// A network whose result is one node of `input`.
fn body(input: &[(&str, DataType)], operator: &str, operands: &[&str], code: DataType) -> Network {
    let mut body = Network::default();
    input.iter().for_each(|(name, code)| body.input(name, *code, &[]));
    let result = body.node(operator, operands, &[]);
    body.output(&result, code, &["A"]);
    body
}

/// The file with an `If` on `x` with these branches.
fn branches(yes: Network, no: Network) -> Vec<u8> {
    let mut network = Network::default();
    network.input("x", DataType::Float, &["N"]);
    network.input("c", DataType::Bool, &[]);
    let y = network.node("If", &["c"], &[]);
    network.attributes(vec![yes.body("then_branch"), no.body("else_branch")]);
    network.output(&y, DataType::Float, &["N"]);
    network.bytes()
}

/// The file with a loop of `m` rounds that carries `x` through `body`, which has one row per round.
fn rounds(body: Network, input: &[&str]) -> Vec<u8> {
    let mut network = Network::default();
    network.input("m", DataType::Int64, &[]);
    network.input("x", DataType::Float, &["N", "2"]);
    let y = network.nodes("Loop", input, &[], 2).remove(1);
    network.attributes(vec![body.body("body")]);
    network.output(&y, DataType::Float, &["A", "B"]);
    network.bytes()
}

/// A round that gives its condition and what it carries on, and a row that `operator` makes of it.
fn round(carried: DataType, operator: &str, more: Option<i64>) -> Network {
    let mut body = Network::default();
    body.input("i", DataType::Int64, &[]);
    body.input("go", DataType::Bool, &[]);
    body.input("a", DataType::Float, &["N", "2"]);
    let same = body.node("Identity", &["go"], &[]);
    let next = body.node("Neg", &["a"], &[]);
    let more = more.map(|number| body.integers(&[], &[number]));
    let operands: Vec<&str> = std::iter::once("a").chain(more.as_deref()).collect();
    let row = body.node(operator, &operands, &[]);
    body.output(&same, DataType::Bool, &[]);
    body.output(&next, carried, &["N", "2"]);
    body.output(&row, DataType::Float, &["C"]);
    body
}

fn refused(bytes: &[u8], operator: &str, words: &str) {
    match OnnxModel::from_bytes(bytes) {
        Err(ImportError::Unsupported { operator: named, reason, .. }) => {
            assert_eq!(named, operator);
            assert!(reason.contains(words), "{reason}");
        }
        other => panic!("{operator}: {other:?}"),
    }
}

#[test]
fn bodies_that_do_not_fit_are_refused_when_the_model_is_loaded() {
    let neg = || body(&[], "Neg", &["x"], DataType::Float);
    OnnxModel::from_bytes(&branches(neg(), neg())).expect("both branches fit");
    refused(
        &branches(neg(), body(&[], "Shape", &["x"], DataType::Int64)),
        "If",
        "FLOAT here and INT64 there",
    );
    let mut two = neg();
    let more = two.node("Abs", &["x"], &[]);
    two.output(&more, DataType::Float, &["N"]);
    refused(&branches(neg(), two), "If", "another number of results");

    let error = OnnxModel::from_bytes(&branches(neg(), body(&[], "Neg", &["later"], DataType::Float)));
    let error = error.expect_err("no branch may read what nothing makes").to_string();
    assert!(error.contains("nothing makes the value later"), "{error}");

    let whole = |carried| round(carried, "Relu", None);
    OnnxModel::from_bytes(&rounds(whole(DataType::Float), &["m", "", "x"])).expect("the body fits");
    refused(&rounds(whole(DataType::Int64), &["m", "", "x"]), "Loop", "a is INT64 here and FLOAT there");
    refused(&rounds(whole(DataType::Float), &["m", "", "m"]), "Loop", "a is INT64 here and FLOAT there");
    refused(&rounds(whole(DataType::Float), &["m", "", "x", "x"]), "Loop", "its inputs and results");
}

fn number(value: i64) -> reef_graph::Tensor {
    reef_graph::Tensor::from_slice(DType::I64, Shape::default(), &[value])
}

/// The first step of the loop in `bytes`: so many rounds over an `x` of this shape.
fn begin(bytes: &[u8], count: i64, shape: [usize; 2]) -> Result<Step, ImportError> {
    let model = OnnxModel::from_bytes(bytes).expect("the model is valid");
    let shapes = [("m", Shape::default()), ("x", Shape::from(shape))];
    model.begin(&shapes, &[Some(number(count)), None])
}

#[test]
fn what_fails_in_a_round_that_never_runs_does_no_harm() {
    let rows = |bytes: &[u8], shape| {
        let step = begin(bytes, 0, shape).expect("no round runs");
        assert!(step.then.is_none());
        let graph = &step.segment.graph;
        graph.value(graph.outputs[0]).shape.to_vec()
    };
    let gather = |at| rounds(round(DataType::Float, "Gather", Some(at)), &["m", "", "x"]);
    assert_eq!(rows(&gather(0), [3, 2]), [0, 2], "a row would have two elements");
    assert_eq!(rows(&gather(0), [0, 2]), [0, 0], "there is no row: an extent that is not declared is 0");
    assert_eq!(rows(&gather(9), [3, 2]), [0, 0], "nothing is known of a row that cannot be");
}

/// The next step makes names of its own again, from the first number on.
#[test]
fn a_rest_has_names_of_its_own_in_bodies() {
    let mut round = round(DataType::Float, "Relu", None);
    let (limit, sum) =
        (round.constant(&[], &[0.5]), round.node("ReduceSum", &["a"], &[("keepdims", Attr::Int(0))]));
    let choice = round.node("Less", &[&sum, &limit], &[]);
    let chosen = round.node("If", &[&choice], &[]);
    let branch = |operator| body(&[], operator, &["a"], DataType::Float);
    round.attributes(vec![branch("Neg").body("then_branch"), branch("Abs").body("else_branch")]);
    round.replace_output(1, &chosen);
    let step = begin(&rounds(round, &["m", "", "x"]), 100, [3, 2]).expect("the first round has a segment");
    let rest = step.then.expect("the branch waits for its condition").rest;
    assert!(rest.operators().contains(&"If"), "{:?}", rest.operators());
    let names = rest.inner_names();
    assert!(names.iter().any(|name| name.starts_with("reef:b")), "{names:?}");
    assert!(names.iter().all(|name| !name.starts_with("reef:") || name.starts_with("reef:b")), "{names:?}");
}

/// What `step` hands over, if its number, taken by value, says this.
fn handed(step: &Step, number_is: i64) -> Vec<Given> {
    let then = step.then.as_ref().expect("it goes on");
    let graph = &step.segment.graph;
    let given = then.passed.iter().zip(then.rest.takes()).map(|(source, take)| {
        let value = graph.value(match *source {
            Source::Output(index) => graph.outputs[index],
            Source::Input(index) => graph.inputs[index],
        });
        match take {
            Take::Tensor => Given::Tensor(value.dtype, value.shape.clone()),
            _ => Given::Value(number(number_is)),
        }
    });
    given.collect()
}

/// A round costs what it computes, however many rows there are already.
#[test]
fn a_round_of_a_loop_computes_its_row_alone() {
    let bytes = rounds(round(DataType::Float, "Relu", None), &["m", "", "x"]);
    let model = OnnxModel::from_bytes(&bytes).expect("the model is valid");
    let shapes = [("m", Shape::default()), ("x", Shape::from([3, 2]))];
    let mut step = model.begin(&shapes, &[Some(number(1000)), None]).expect("a first round");
    assert!(step.then.as_ref().expect("it goes on").rows.is_empty(), "the first row makes the buffer");
    for (number_is, room) in [(-1, 16), (-2, 32), (-1, 32), (-2, 64)] {
        let rest = step.then.as_ref().expect("it goes on").rest.clone();
        step = model.step(&rest, &handed(&step, number_is)).expect("a round has a segment");
        let then = step.then.as_ref().expect("it goes on");
        let [row] = then.rows[..] else { panic!("{:?}", then.rows) };
        let buffer = &handed(&step, -1)[row.passed];
        assert!(matches!(buffer, Given::Tensor(_, shape) if shape[..] == [room, 3, 2]), "{buffer:?}");
        let graph = &step.segment.graph;
        let large = graph.nodes.iter().filter(|node| graph.value(node.outputs[0]).shape.elements() > 6);
        let expected = usize::from(number_is == -2);
        assert_eq!(large.count(), expected, "{number_is}: only a buffer that grows is computed: {graph}");
        assert_eq!(std::sync::Arc::ptr_eq(&then.rest, &rest), number_is == -1, "rounds are alike");
    }
}
