//! Operators that a rewriting of checked graphs names, and no model can.

use prost::Message;
use reef_cpu::CpuCutter;
use reef_graph::{DType, Graph, Shape, Tensor};
use reef_plan::{Isa, Target};
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

use super::network::{Attr, Network};
use crate::straight::Straight;
use crate::{ImportError, OnnxModel, proto};

/// The normalised graph of a network that is not checked, for inputs of the shapes that it declares.
fn graph(network: Network) -> Result<Graph, String> {
    let proto = pb::ModelProto::decode(&network.bytes()[..]).unwrap();
    let graph = proto.graph.as_ref().unwrap();
    let inputs = proto::inputs(graph).map_err(|error| error.to_string())?;
    let straight = Straight::parse(proto.clone(), &inputs, None).map_err(|error| error.to_string())?;
    let given = inputs.into_iter().map(|decl| {
        let extent = |dim: &crate::Dim| match dim {
            crate::Dim::Fixed(extent) => *extent,
            crate::Dim::Symbol(name) => panic!("{name} is a symbol"),
        };
        (decl.name, decl.dtype, decl.dims.iter().map(extent).collect())
    });
    let lowered = straight.lower(&given.collect::<Vec<_>>());
    lowered.map(|special| special.graph).map_err(|error| error.to_string())
}

/// The outputs of its plan.
fn run(graph: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
    let options = reef_compile::CompileOptions::default();
    let cutter = CpuCutter::new(Target::cpu(Isa::Portable, 1));
    let plan = reef_compile::compile(graph, &[], &Default::default(), &cutter, &options);
    reef_compile::interpret::run(&plan.expect("it compiles"), inputs).expect("it runs")
}

#[test]
fn what_is_selected_is_counted() {
    let mut network = Network::default();
    network.input("x", DataType::Float, &["2", "3"]);
    let mut declared = vec![];
    declared.extend(network.nodes("reef.NonZero", &["x"], &[], 2));
    let sorted = [("sorted", Attr::Int(0)), ("axis", Attr::Int(-1))];
    declared.extend(network.nodes("reef.Unique", &["x"], &sorted, 5));
    let zero = network.constant(&[], &[0.0]);
    let positive = network.node("Greater", &["x", &zero], &[]);
    let row = network.integers(&[1], &[-1]);
    let positive = network.node("Reshape", &[&positive, &row], &[]);
    declared.extend(network.nodes("reef.Compress", &["x", &positive], &[], 2));
    for name in &declared {
        network.output(name, DataType::Float, &["N"]);
    }
    let graph = graph(network).unwrap();
    let text = graph.to_string().replace("sorted: false", "unsorted");
    insta::assert_snapshot!(text, @r#"
    input %0 x f32[2,3]
    %2 i64[2,6], %3 i64[1] = Selection(NonZero) %0
    %4 f32[2,3], %5 i64[3], %6 i64[3], %7 i64[3], %8 i64[1] = Selection(Unique { axis: Some(1), unsorted }) %0
    %9 bool[2,3] = Binary(Greater) %0 f32[]#c8d5af887
    %10 bool[6] = Reshape %9
    %11 f32[6], %12 i64[1] = Selection(Compress { axis: None }) %0 %10
    output %2 reef.NonZero1_0
    output %3 reef.NonZero1_1
    output %4 reef.Unique2_0
    output %5 reef.Unique2_1
    output %6 reef.Unique2_2
    output %7 reef.Unique2_3
    output %8 reef.Unique2_4
    output %11 reef.Compress7_0
    output %12 reef.Compress7_1
    "#);
    let made = run(&graph, &[Tensor::f32([2, 3], &[1.0, 0.0, 1.0, 2.0, -1.0, 2.0])]);
    assert_eq!(made[0].values::<i64>(), [0, 0, 1, 1, 1, 0, 2, 0, 1, 2, 0, 0]);
    assert_eq!(made[1].values::<i64>(), [5]);
    assert_eq!(made[2].values::<f32>(), [1.0, 0.0, 2.0, -1.0, 0.0, 0.0]);
    let lists: Vec<&[i64]> = made[3..7].iter().map(Tensor::values).collect();
    assert_eq!(lists, [&[0, 1, 0][..], &[0, 1, 0], &[2, 1, 0], &[2]]);
    assert_eq!(made[7].values::<f32>(), [1.0, 1.0, 2.0, 2.0, 0.0, 0.0]);
    assert_eq!(made[8].values::<i64>(), [4]);
}

/// Of inputs, and of constants, which are not computed before the plan runs.
#[test]
fn every_type_has_a_kernel() {
    for (dtype, code) in DType::ALL.into_iter().map(|dtype| (dtype, crate::proto::code_of(dtype))) {
        let mut network = Network::default();
        network.input("x", code, &["2", "2"]);
        let ones = vec![1; 4 * dtype.bytes()];
        let fixed = network.bytes_of(code, &[2, 2], &ones);
        let held = network.bytes_of(DataType::Bool, &[2], &[0, 1]);
        for x in ["x", fixed.as_str()] {
            let axis = [("axis", Attr::Int(1))];
            let found = network.nodes("reef.NonZero", &[x], &[], 2);
            let kept = network.nodes("reef.Compress", &[x, &held], &axis, 2);
            let distinct = network.nodes("reef.Unique", &[x], &[], 5);
            for name in [found, kept, distinct].concat() {
                network.output(&name, code, &["N"]);
            }
        }
        let graph = graph(network).unwrap();
        assert_eq!(graph.nodes.len(), 6, "{graph}");
        let bytes = reef_base::AlignedBytes::copy_from(&ones);
        let made = run(&graph, &[Tensor::new(dtype, Shape::from([2, 2]), bytes.into())]);
        let counts = [1, 3, 8].map(|at| made[at].values::<i64>()[0]);
        assert_eq!(counts, [4, 1, 1], "{dtype}");
        let bytes = |made: &[Tensor]| made.iter().map(|t| t.bytes().as_slice().to_vec()).collect::<Vec<_>>();
        assert!(bytes(&made[..9]) == bytes(&made[9..]), "{dtype}: constants are selected otherwise");
    }
}

/// What is left out is 0, but a threshold of scores that is left out is none.
#[test]
fn boxes_are_selected_up_to_limits() {
    let corners = [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.9, 3.0, 3.0, 4.0, 4.0];
    for (limits, per_class, expected) in [
        (["most", "overlap", "score"], None, &[[0, 0, 2], [0, 0, 0]][..]),
        (["most", "overlap", ""], None, &[[0, 0, 2], [0, 0, 0], [0, 0, 3]]),
        (["most", "", ""], Some(2), &[[0, 0, 2], [0, 0, 0]]),
        (["most", "", "score"], Some(1), &[[0, 0, 2]]),
        (["", "overlap", "score"], None, &[]),
    ] {
        let mut network = Network::default();
        network.input("boxes", DataType::Float, &["1", "4", "4"]);
        network.input("scores", DataType::Float, &["1", "1", "4"]);
        network.input("most", DataType::Int64, &["1"]);
        let (overlap, score) = (network.constant(&[1], &[0.5]), network.constant(&[1], &[0.25]));
        let named = limits.map(|limit| match limit {
            "overlap" => overlap.as_str(),
            "score" => score.as_str(),
            other => other,
        });
        let inputs = [&["boxes", "scores"], &named[..]].concat();
        let per_class = per_class.map(|most| ("per_class", Attr::Int(most)));
        let attributes: Vec<(&str, Attr)> = per_class.into_iter().collect();
        for name in network.nodes("reef.NonMaxSuppression", &inputs, &attributes, 2) {
            network.output(&name, DataType::Int64, &["N"]);
        }
        let graph = graph(network).unwrap();
        let boxes = [&corners[..], &[9.0, 9.0, 9.5, 9.5]].concat();
        let scores = Tensor::f32([1, 1, 4], &[0.75, 0.5, 1.0, 0.25]);
        let made = run(&graph, &[Tensor::f32([1, 4, 4], &boxes), scores, Tensor::i64([1], &[3])]);
        let count = made[1].values::<i64>()[0] as usize;
        assert_eq!(made[0].values::<i64>()[..3 * count], *expected.as_flattened(), "{limits:?}");
    }
}

#[test]
fn no_model_names_them() {
    for (domain, operator) in [("reef", "reef.NonZero"), ("", "reef.NonZero"), ("reef", "NonZero")] {
        let mut network = Network::default();
        network.input("x", DataType::Float, &["2", "3"]);
        let made = network.nodes(operator, &["x"], &[], 2);
        network.domain(domain);
        network.output(&made[0], DataType::Int64, &["2", "6"]);
        let refused = OnnxModel::from_bytes(&network.bytes());
        assert!(matches!(refused, Err(ImportError::Unsupported { .. })), "{domain} {operator}: {refused:?}");
    }
}

#[test]
fn nodes_that_do_not_fit_are_refused() {
    let refused = |operator: &str, inputs: usize, axis: i64, outputs: usize| {
        let mut network = Network::default();
        network.input("x", DataType::Float, &["2", "3"]);
        let made = network.nodes(operator, &["x"; 5][..inputs], &[("axis", Attr::Int(axis))], outputs);
        network.output(&made[0], DataType::Int64, &["N"]);
        graph(network).unwrap_err()
    };
    assert!(refused("reef.Unique", 1, 2, 5).contains("axis 2 of a tensor with 2 axes"));
    assert!(refused("reef.Compress", 1, 0, 2).contains("its input 1 is missing"));
    let condition = refused("reef.Compress", 2, 0, 2);
    assert!(condition.contains("its condition is f32[2,3], not a row of booleans"), "{condition}");
    let boxes = refused("reef.NonMaxSuppression", 4, 0, 2);
    assert!(boxes.contains("boxes f32[2,3]"), "{boxes}");
}
