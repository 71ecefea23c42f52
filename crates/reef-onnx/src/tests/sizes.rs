//! A few numbers in a file that ask for more memory than there is are refused before it is asked for.

use tract_onnx::pb::tensor_proto::DataType;

use super::network::{Attr, Network};
use crate::{ImportError, OnnxModel};

const LARGE: i64 = 1 << 40;

/// What loading gives for one node of constants, which `node` makes.
fn loaded(node: impl Fn(&mut Network) -> String) -> Result<(), ImportError> {
    let mut network = Network::default();
    network.input("x", DataType::Float, &["1", "1", "2"]);
    let y = node(&mut network);
    network.output(&y, DataType::Float, &["A"]);
    let model = OnnxModel::from_bytes(&network.bytes())?;
    model.specialise(&[("x", reef_graph::Shape::from([1, 1, 2]))]).map(|_| ())
}

fn refused(operator: &str, node: impl Fn(&mut Network) -> String) {
    match loaded(node) {
        Err(ImportError::Unsupported { operator: named, reason, .. }) => {
            assert_eq!(named, operator, "{reason}");
            let known = ["elements", "scale", "larger than"].iter().any(|word| reason.contains(word));
            assert!(known, "{operator}: {reason}");
        }
        other => panic!("{operator}: {other:?}"),
    }
}

/// A vector of `count` elements that is an operator's result, so that the file stays small.
fn vector(network: &mut Network, count: i64) -> String {
    let count = network.integers(&[1], &[count]);
    network.node("ConstantOfShape", &[&count], &[])
}

#[test]
fn constants_that_are_made_larger() {
    refused("ConstantOfShape", |n| vector(n, LARGE));
    refused("Reshape", |n| {
        let (one, shape) = (n.constant(&[1], &[1.0]), n.integers(&[2], &[(1 << 32) + 1, 1]));
        n.node("Reshape", &[&one, &shape], &[])
    });
    refused("Expand", |n| {
        let (one, shape) = (n.constant(&[1], &[1.0]), n.integers(&[1], &[LARGE]));
        n.node("Expand", &[&one, &shape], &[])
    });
    refused("Tile", |n| {
        let (one, counts) = (n.constant(&[1], &[1.0]), n.integers(&[1], &[LARGE]));
        n.node("Tile", &[&one, &counts], &[])
    });
    refused("Pad", |n| {
        let (one, pads) = (n.constant(&[1], &[1.0]), n.integers(&[2], &[0, LARGE]));
        n.node("Pad", &[&one, &pads], &[])
    });
    refused("OneHot", |n| {
        let (one, depth) = (n.integers(&[1], &[1]), n.integers(&[1], &[LARGE]));
        let values = n.constant(&[2], &[0.0, 1.0]);
        n.node("OneHot", &[&one, &depth, &values], &[])
    });
    refused("Resize", |n| {
        let (x, sizes) = (n.constant(&[1, 1, 2], &[1.0, 2.0]), n.integers(&[3], &[1, 1, LARGE]));
        n.node("Resize", &[&x, "", "", &sizes], &[])
    });
    refused("Range", |n| {
        let (zero, limit, one) = (n.integers(&[], &[0]), n.integers(&[], &[1 << 31]), n.integers(&[], &[1]));
        n.node("Range", &[&zero, &limit, &one], &[])
    });
    refused("RandomUniform", |n| n.node("RandomUniform", &[], &[("shape", Attr::Ints(&[LARGE]))]));
}

#[test]
fn products_of_constants() {
    for operator in ["Add", "MatMul", "Equal", "Einsum"] {
        refused(operator, |n| {
            let (row, column) = (n.integers(&[2], &[1, 1 << 20]), n.integers(&[2], &[1 << 20, 1]));
            let row = n.node("ConstantOfShape", &[&row], &[]);
            let column = n.node("ConstantOfShape", &[&column], &[]);
            let equation = [("equation", Attr::Text("ij,jk->ik"))];
            n.node(operator, &[&column, &row], if operator == "Einsum" { &equation } else { &[] })
        });
    }
    refused("Gather", |n| {
        let (x, indices) = (n.integers(&[2], &[2, 1 << 20]), n.integers(&[1], &[1 << 20]));
        let x = n.node("ConstantOfShape", &[&x], &[]);
        let indices = n.node("ConstantOfShape", &[&indices], &[]);
        let indices = n.node("Cast", &[&indices], &[("to", Attr::Int(DataType::Int64 as i64))]);
        n.node("Gather", &[&x, &indices], &[])
    });
}

#[test]
fn what_is_made_of_inputs() {
    refused("Expand", |n| {
        let shape = n.integers(&[3], &[LARGE, 1, 2]);
        n.node("Expand", &["x", &shape], &[])
    });
    refused("ConvTranspose", |n| {
        let w = n.constant(&[1, 1, 2], &[1.0, 2.0]);
        n.node("ConvTranspose", &["x", &w], &[("strides", Attr::Ints(&[LARGE]))])
    });
    refused("Conv", |n| {
        let w = n.constant(&[1, 1, 2], &[1.0, 2.0]);
        n.node("Conv", &["x", &w], &[("pads", Attr::Ints(&[0, LARGE]))])
    });
}

#[test]
fn parts_that_are_none_of_an_axis() {
    let split = |sizes: &[i64]| {
        loaded(|n| {
            let sizes = n.integers(&[sizes.len() as i64], sizes);
            n.nodes("Split", &["x", &sizes], &[("axis", Attr::Int(2))], 2).remove(0)
        })
    };
    split(&[0, 2]).expect("two elements are none and two");
    for sizes in [[1, 2], [0, 1], [3, -1], [i64::MAX, i64::MAX]] {
        let error = split(&sizes).expect_err("not the axis").to_string();
        assert!(error.contains("an axis of 2 cannot be split into"), "{error}");
    }
    let counted = |count, attributes: &[(&str, Attr)]| {
        loaded(|n| {
            n.opset(18);
            n.nodes("Split", &["x"], attributes, count).remove(0)
        })
    };
    let (axis, given) = (("axis", Attr::Int(-1)), ("num_outputs", Attr::Int(4)));
    let error = counted(4, &[axis, given]).expect_err("an axis of two has no four parts").to_string();
    assert!(error.contains("an axis of 2 cannot be split into 4 parts"), "{error}");
    refused("TopK", |n| {
        let count = n.integers(&[1], &[1 << 62]);
        n.nodes("TopK", &["x", &count], &[], 2).remove(0)
    });
    let error = loaded(|n| {
        let [zero, one] = [0.0, 1.0].map(|number| n.constant(&[], &[number]));
        let limit = n.constant(&[], &[f32::NAN]);
        n.node("Range", &[&zero, &limit, &one], &[])
    });
    let error = error.expect_err("no range ends there").to_string();
    assert!(error.contains("no range"), "{error}");
}

/// Constants may be as large as those that they are made of, and others are bounded more tightly.
#[test]
fn constants_grow_up_to_a_bound() {
    let bound = reef_base::limits::FOLDED_ELEMENTS_MAX as i64;
    refused("ConstantOfShape", |n| vector(n, bound + 1));
    loaded(|n| {
        let zeros = vector(n, 1 << 20);
        n.node("Relu", &[&zeros], &[])
    })
    .expect("a million elements are not many");
}
