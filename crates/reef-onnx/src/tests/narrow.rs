//! Element types of at most 8 bits: constants, conversions, products, and what refuses them.

use tract_onnx::pb::tensor_proto::DataType;

use super::network::{Attr, Network, specialise};
use super::numeric::run;
use crate::OnnxModel;

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|value| f32::from_le_bytes(value.try_into().unwrap())).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// `x [1, 32]` times weights of four bits `[32, 2]` in two blocks, all of them 1 in the first column and −8
/// or 15 in the second.
fn product(code: i32, zeros: bool) -> (String, Vec<f32>) {
    let mut network = Network::default();
    network.opset(21);
    network.input("x", DataType::Float, &["1", "32"]);
    let packed = [if code == 22 { 0x81 } else { 0xF1 }; 32];
    let weights = network.coded(code, &[32, 2], &packed);
    let scales = network.constant(&[2, 2], &[0.5, 2.0, 1.0, 0.25]);
    let points = network.coded(code, &[2, 2], &[0x21, 0x21]);
    let mut inputs = vec![weights.as_str(), scales.as_str()];
    if zeros {
        inputs.push(&points);
    }
    let how = [("axis", Attr::Int(0)), ("block_size", Attr::Int(16))];
    let numbers = network.node("DequantizeLinear", &inputs, &how);
    let y = network.node("MatMul", &["x", &numbers], &[]);
    network.output(&y, DataType::Float, &["1", "2"]);
    let made = specialise(&network.model(), &[&[1, 32]]);
    let x: Vec<f32> = (0..32).map(|at| if at < 16 { 1.0 } else { 2.0 }).collect();
    let operators: Vec<&str> = made.graph.nodes.iter().map(|node| node.op.name()).collect();
    (operators.join(" "), floats(&run(&made, &[bytes(&x)]).1))
}

#[test]
fn products_with_dequantised_weights_take_them_packed() {
    // Of the first column 16·(1 − z)·(0.5 + 2·1), of the second 16·(w − z)·(2 + 2·0.25).
    for (code, second) in [(22, -8.0), (21, 15.0)] {
        for (zeros, points) in [(false, [0.0, 0.0]), (true, [1.0, 2.0])] {
            let (operators, y) = product(code, zeros);
            assert_eq!(operators, "MatMulPacked", "type {code}");
            assert_eq!(y, [40.0 * (1.0 - points[0]), 40.0 * (second - points[1])], "type {code}, {zeros}");
        }
    }
}

#[test]
fn numbers_go_through_small_floats() {
    let mut network = Network::default();
    network.opset(23);
    network.input("x", DataType::Float, &["5"]);
    let small = network.node("Cast", &["x"], &[("to", Attr::Int(17)), ("saturate", Attr::Int(0))]);
    let moved = network.node("Identity", &[&small], &[]);
    let y = network.node("Cast", &[&moved], &[("to", Attr::Int(1))]);
    network.output(&y, DataType::Float, &["5"]);
    let made = specialise(&network.model(), &[&[5]]);
    let (_, y) = run(&made, &[bytes(&[0.47, 449.0, -1e6, 1e-9, -3.3])]);
    let y = floats(&y);
    assert_eq!([y[0], y[1], y[3], y[4]], [0.46875, 448.0, 0.0, -3.25]);
    assert!(y[2].is_nan());
}

#[test]
fn what_does_not_move_refuses_them() {
    let refused = |operator: &str, code: i32, count: i64| {
        let mut network = Network::default();
        network.opset(23);
        let constant = network.coded(code, &[count], &[0x21, 0x43]);
        let y = network.node(operator, &[&constant], &[]);
        network.output(&y, DataType::Float, &["K"]);
        OnnxModel::from_bytes(&network.bytes()).unwrap_err().to_string()
    };
    let told = refused("Neg", 22, 4);
    assert!(told.contains("elements of INT4 are only moved, converted and quantised"), "{told}");
    let told = refused("Identity", 22, 5);
    assert!(told.contains("2 bytes of INT4 given, shape [5] needs 3"), "{told}");
}
