//! Which models' requests may be put together along their first axis.

use reef_graph::Shape;
use tract_onnx::pb::tensor_proto::DataType;

use super::network::{Attr, Network};

/// What is said of a network with an input `x` `[N, 20]` and an output `[N, 20]` made by `make`.
fn said(kind: DataType, dims: &[&str], make: impl Fn(&mut Network) -> String) -> Result<(), String> {
    let mut network = Network::default();
    network.input("x", DataType::Float, &["N", "20"]);
    let y = make(&mut network);
    network.output(&y, kind, dims);
    network.model().rows(&[vec![Shape::from([1, 20])]])
}

#[test]
fn extents_that_happen_to_be_a_multiple_of_the_rows_are_no_rows() {
    let mixed = |groups: i64| {
        said(DataType::Float, &["N", "20"], |network| {
            let grouped = network.integers(&[2], &[groups, -1]);
            let grouped = network.node("Reshape", &["x", &grouped], &[]);
            let mixed = network.node("Softmax", &[&grouped], &[("axis", Attr::Int(1))]);
            let back = network.integers(&[2], &[-1, 20]);
            network.node("Reshape", &[&mixed, &back], &[])
        })
    };
    // Of so many rows that there are as many groups, or half of them, each is one row's; of others not.
    for groups in [4, 5, 10, 20] {
        assert!(mixed(groups).is_err(), "{groups}");
    }
}

#[test]
fn what_counts_its_rows_is_not_joined() {
    let counted = said(DataType::Int64, &["N"], |network| {
        let shape = network.node("Shape", &["x"], &[]);
        let (zero, one) = (network.integers(&[], &[0]), network.integers(&[], &[1]));
        let rows = network.node("Gather", &[&shape, &zero], &[]);
        network.node("Range", &[&zero, &rows, &one], &[])
    });
    assert!(counted.is_err(), "{counted:?}");
    let plain = said(DataType::Float, &["N", "20"], |network| network.node("Relu", &["x"], &[]));
    assert_eq!(plain, Ok(()));
}
