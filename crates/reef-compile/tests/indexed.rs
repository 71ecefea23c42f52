//! What indices name, taken and put, and the largest of windows: in every form, type and size, among others.

mod harness;

use std::sync::Arc;

use harness::{Builder, target};
use reef_base::{AlignedBytes, Rng};
use reef_graph::{DType, Op, Picks, Putting, Shape, Tensor, Unary, ValueId, Windows};
use reef_plan::{Isa, Restart};

/// A form, the data's shape and the indices'.
type Form = (Picks, &'static [usize], &'static [usize]);

const FORMS: [Form; 9] = [
    (Picks::Elements { axis: 0 }, &[9], &[20]),
    (Picks::Elements { axis: 1 }, &[1, 7, 5], &[1, 3, 5]),
    (Picks::Elements { axis: 2 }, &[3, 4, 6], &[3, 4, 11]),
    (Picks::Elements { axis: 0 }, &[5, 3, 70], &[9, 3, 70]),
    (Picks::Slices { batch: 0 }, &[7, 5], &[4, 1]),
    (Picks::Slices { batch: 0 }, &[3, 4, 5], &[2, 3, 2]),
    (Picks::Slices { batch: 0 }, &[3, 4], &[2]),
    (Picks::Slices { batch: 1 }, &[3, 6, 2, 4], &[3, 5, 1]),
    (Picks::Slices { batch: 2 }, &[1, 3, 6, 2], &[1, 3, 2, 2]),
];

/// Random indices, negative ones among them.
fn indices(picks: Picks, data: &[usize], shape: &[usize], dtype: DType, rng: &mut Rng) -> Tensor {
    let extents = picks.indexing(data, shape).extents;
    let draw = |at: usize| {
        let extent = extents[at % extents.len()] as u64;
        rng.below(2 * extent) as i64 - extent as i64
    };
    let drawn: Vec<i64> = (0..shape.iter().product()).map(draw).collect();
    let bytes: Vec<u8> =
        drawn.iter().flat_map(|index| index.to_le_bytes()[..dtype.bytes()].to_vec()).collect();
    Tensor::new(dtype, Shape::new(shape), Arc::new(AlignedBytes::copy_from(&bytes)))
}

#[test]
fn every_form_and_type() {
    use Putting::{Add, Larger, Multiply, Replace, Smaller};
    let mut rng = Rng::new(11);
    for (turn, dtype) in DType::ALL.into_iter().enumerate() {
        for (number, (picks, data, shape)) in FORMS.into_iter().enumerate() {
            let index_dtype = [DType::I64, DType::I32][(turn + number) % 2];
            let moved = picks.moved(data, shape).unwrap();
            let mut b = Builder::new();
            let (x, named) = (b.typed_input(dtype, data), b.typed_input(index_dtype, shape));
            let updates = b.typed_input(dtype, &moved);
            let mut made = vec![b.typed_node(Op::Take(picks), &[x, named], dtype, &moved)];
            for putting in [Replace, Add, Multiply, Smaller, Larger] {
                if putting.flaw(dtype).is_none() {
                    let op = Op::Put(picks, putting);
                    made.push(b.typed_node(op, &[x, named, updates], dtype, data));
                }
            }
            made.into_iter().for_each(|id| b.output(id));
            b.graph.validate().unwrap();
            let mut inputs = harness::inputs(&b.graph, number as u64);
            inputs[1] = indices(picks, data, shape, index_dtype, &mut rng);
            harness::check_exactly(&format!("{picks:?} of {dtype}{data:?}"), &b.graph, &inputs);
        }
    }
}

fn largest(b: &mut Builder, windows: Windows, x: ValueId) -> Vec<ValueId> {
    let (dtype, shape) = (b.graph.value(x).dtype, b.graph.value(x).shape.clone());
    let outputs = windows.outputs(dtype, &shape).unwrap();
    b.graph.add_node_multi("largest", Op::MaxPool(windows), &[x], outputs)
}

const WINDOWS: Windows = Windows {
    kernel: [1, 3, 2],
    strides: [1, 2, 1],
    pads: [0, 1, 1],
    dilations: [1, 1, 2],
    output: [1, 4, 7],
    columns: false,
};

#[test]
fn the_largest_of_windows() {
    for dtype in DType::ALL {
        for (batch, columns) in [(1, true), (3, false)] {
            let mut b = Builder::new();
            let x = b.typed_input(dtype, &[batch, 3, 1, 7, 7]);
            let line =
                Windows { kernel: [1, 1, 7], strides: [1; 3], pads: [0; 3], dilations: [1; 3], ..WINDOWS };
            for windows in [WINDOWS, Windows { output: [1, 7, 1], ..line }] {
                let made = largest(&mut b, Windows { columns, ..windows }, x);
                made.into_iter().for_each(|id| b.output(id));
            }
            let inputs = harness::inputs(&b.graph, 3);
            harness::check_exactly(&format!("windows of {dtype}"), &b.graph, &inputs);
        }
    }
}

/// Operands that are views of others, and results that others read.
#[test]
fn between_other_operators() {
    let mut b = Builder::new();
    let x = b.input(&[1, 3, 8, 8]);
    let image = b.conv(x, 6, harness::conv_attrs(3, 1));
    let turned = b.node(Op::Transpose { perm: vec![0, 2, 3, 1] }, &[image], &[1, 8, 8, 6]);
    let rows = b.graph.add_const("rows", Tensor::i64([3, 2], &[0, 1, 0, -1, 0, 1]));
    let picks = Picks::Slices { batch: 0 };
    let taken = b.typed_node(Op::Take(picks), &[turned, rows], DType::F32, &[3, 8, 6]);
    let relu = b.same(Op::Unary(Unary::Relu), &[taken]);
    let put = b.typed_node(Op::Put(picks, Putting::Add), &[turned, rows, relu], DType::F32, &[1, 8, 8, 6]);
    let volume = b.node(Op::Reshape, &[image], &[1, 6, 1, 8, 8]);
    let windows =
        Windows { kernel: [1, 2, 2], strides: [1, 2, 2], pads: [0; 3], dilations: [1; 3], ..WINDOWS };
    let made = largest(&mut b, Windows { output: [1, 4, 4], ..windows }, volume);
    // The way back, along one axis.
    let zero = b.scalar(0.0);
    let zeros = b.node(Op::Expand, &[zero], &[6 * 64]);
    let [values, places] =
        [0, 1].map(|at| b.typed_node(Op::Reshape, &[made[at]], [DType::F32, DType::I64][at], &[6 * 16]));
    let op = Op::Put(Picks::Elements { axis: 0 }, Putting::Replace);
    let back = b.typed_node(op, &[zeros, places, values], DType::F32, &[6 * 64]);
    let both = b.node(Op::Concat { axis: 3 }, &[put, turned], &[1, 8, 8, 12]);
    b.check("by indices among others", &[put, back, made[1], both]);
}

#[test]
fn blocks_own_parts_and_may_be_killed() {
    let mut b = Builder::new();
    let (x, updates) = (b.input(&[4000, 256]), b.input(&[500, 256]));
    let rows = b.typed_input(DType::I64, &[500, 1]);
    let op = Op::Put(Picks::Slices { batch: 0 }, Putting::Add);
    let y = b.typed_node(op, &[x, rows, updates], DType::F32, &[4000, 256]);
    let y = b.typed_node(Op::Take(Picks::Slices { batch: 0 }), &[y, rows], DType::F32, &[500, 256]);
    b.output(y);
    let compiled = harness::compiled(&b.graph, target(Isa::Avx2, 2, 0));
    let kinds: Vec<_> = compiled.report.groups.iter().map(|group| group.kind).collect();
    assert_eq!(kinds, ["put", "take"]);
    let safe = compiled.report.groups.iter().all(|group| group.restart == Restart::Safe && group.blocks > 1);
    assert!(safe, "{}", compiled.report);
    assert_eq!(compiled.plan.scratch_bytes(), 0);
}

#[test]
fn operators_that_do_not_fit_are_refused() {
    let refused = |op: Op, others: &[(DType, &[usize])], y: &[usize]| {
        let mut b = Builder::new();
        let mut operands = vec![b.input(&[4, 3])];
        operands.extend(others.iter().map(|&(dtype, shape)| b.typed_input(dtype, shape)));
        let y = b.typed_node(op, &operands, DType::F32, y);
        b.output(y);
        b.graph.validate().unwrap_err().to_string()
    };
    let elements = Picks::Elements { axis: 1 };
    let take = |dtype, shape: &[usize], y: &[usize]| refused(Op::Take(elements), &[(dtype, shape)], y);
    assert!(take(DType::I64, &[3, 3], &[3, 3]).contains("indices of shape [3,3] for data of shape [4,3]"));
    assert!(take(DType::F32, &[4, 3], &[4, 3]).contains("its indices are f32"));
    assert!(take(DType::I32, &[4, 2], &[4, 3]).contains("it makes"));
    let op = Op::Put(elements, Putting::Replace);
    let put = |updates| refused(op.clone(), &[(DType::I64, &[4, 2]), updates], &[4, 3]);
    assert!(put((DType::F32, &[4, 3])).contains("its updates are"));
    assert!(put((DType::F16, &[4, 2])).contains("its updates are"));
    assert!(refused(op.clone(), &[(DType::I64, &[4, 2])], &[4, 3]).contains("it has 2 inputs"));
}
