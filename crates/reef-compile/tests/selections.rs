//! Operators that select: outputs as large as they can become, of which a count says how much is meant.

mod harness;

use std::sync::Arc;

use harness::{Builder, cutter, target};
use reef_compile::{CompileError, CompileOptions, compile, interpret, reference};
use reef_graph::{DType, Op, Selection, Shape, Tensor, ValueId};
use reef_plan::{Isa, Restart, WeightStore};

/// Adds a selection, with the outputs that it makes.
fn select(b: &mut Builder, selection: Selection, inputs: &[ValueId]) -> Vec<ValueId> {
    let fact = |id: &ValueId| (b.graph.value(*id).dtype, b.graph.value(*id).shape.clone());
    let outputs = selection.outputs(&inputs.iter().map(fact).collect::<Vec<_>>()).unwrap();
    b.graph.add_node_multi(selection.name(), Op::Selection(selection), inputs, outputs)
}

/// The first `count` integers of a tensor.
fn integers(tensor: &Tensor, count: usize) -> Vec<i64> {
    tensor.values::<i64>()[..count].to_vec()
}

/// What the graph, the plan and this machine make of `inputs`, which must be the same.
fn run(mut b: Builder, outputs: &[ValueId], inputs: &[Tensor]) -> Vec<Tensor> {
    outputs.iter().for_each(|&id| b.output(id));
    let expected = reference::evaluate(&b.graph, inputs).unwrap();
    harness::check_targets("selection", &b.graph, &[], inputs, &expected);
    expected
}

#[test]
fn what_onnx_shows_as_examples() {
    let mut b = Builder::new();
    let x = b.typed_input(DType::F32, &[2, 2]);
    let made = select(&mut b, Selection::NonZero, &[x]);
    let made = run(b, &made, &[Tensor::f32([2, 2], &[1.0, 0.0, 1.0, 1.0])]);
    assert_eq!(integers(&made[0], 8), [0, 1, 1, 0, 0, 1, 0, 0]);
    assert_eq!(integers(&made[1], 1), [3]);

    let x = Tensor::f32([3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    for (axis, condition, expected, count) in [
        (Some(0), &[0u8, 1, 1][..], [3.0, 4.0, 5.0, 6.0, 0.0, 0.0], 2),
        (Some(1), &[0, 1], [2.0, 4.0, 6.0, 0.0, 0.0, 0.0], 1),
        (None, &[0, 1, 0, 0, 1], [2.0, 5.0, 0.0, 0.0, 0.0, 0.0], 2),
    ] {
        let mut b = Builder::new();
        let inputs = [b.input(&[3, 2]), b.typed_input(DType::Bool, &[condition.len()])];
        let made = select(&mut b, Selection::Compress { axis }, &inputs);
        let condition = Tensor::from_slice(DType::Bool, Shape::from([condition.len()]), condition);
        let made = run(b, &made, &[x.clone(), condition]);
        assert_eq!((made[0].values::<f32>(), integers(&made[1], 1)), (&expected[..], vec![count]));
    }

    let row = [2.0, 1.0, 1.0, 3.0, 4.0, 3.0];
    for (sorted, distinct, lists) in [
        (true, [1.0, 2.0, 3.0, 4.0], [[1, 0, 3, 4], [2, 1, 2, 1]]),
        (false, [2.0, 1.0, 3.0, 4.0], [[0, 1, 3, 4], [1, 2, 2, 1]]),
    ] {
        let mut b = Builder::new();
        let x = b.input(&[6]);
        let made = select(&mut b, Selection::Unique { axis: None, sorted }, &[x]);
        let made = run(b, &made, &[Tensor::f32([6], &row)]);
        assert_eq!(made[0].values::<f32>()[..4], distinct);
        assert_eq!([integers(&made[1], 4), integers(&made[3], 4)], lists);
        let inverse = if sorted { [1, 0, 0, 2, 3, 2] } else { [0, 1, 1, 2, 3, 2] };
        assert_eq!((integers(&made[2], 6), integers(&made[4], 1)), (inverse.to_vec(), vec![4]));
    }

    let mut b = Builder::new();
    let x = b.input(&[3, 3]);
    let made = select(&mut b, Selection::Unique { axis: Some(0), sorted: true }, &[x]);
    let made = run(b, &made, &[Tensor::f32([3, 3], &[1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 2.0, 3.0, 4.0])]);
    assert_eq!(made[0].values::<f32>(), [1.0, 0.0, 0.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0]);
    assert_eq!(made[1..].iter().map(|made| integers(made, 1)[0]).collect::<Vec<_>>(), [0, 0, 2, 2]);
}

#[test]
fn boxes_of_onnx_example() {
    let boxes = [[0.0, 1.0], [0.1, 1.1], [-0.1, 0.9], [10.0, 11.0], [10.1, 11.1], [100.0, 101.0]];
    let corners: Vec<f32> = boxes.iter().flat_map(|[x, far]| [0.0, *x, 1.0, *far]).collect();
    let centres: Vec<f32> = boxes.iter().flat_map(|[x, _]| [x + 0.5, 0.5, 1.0, 1.0]).collect();
    for (center_point_box, boxes) in [(false, corners), (true, centres)] {
        let mut b = Builder::new();
        let (x, scores) = (b.input(&[1, 6, 4]), b.input(&[1, 1, 6]));
        let most = b.graph.add_const("most", Tensor::i64([1], &[3]));
        let (overlap, score) = (b.scalar(0.5), b.scalar(0.0));
        let selection = Selection::NonMaxSuppression { center_point_box, per_class: usize::MAX };
        let made = select(&mut b, selection, &[x, scores, most, overlap, score]);
        let scores = Tensor::f32([1, 1, 6], &[0.9, 0.75, 0.6, 0.95, 0.5, 0.3]);
        let made = run(b, &made, &[Tensor::f32([1, 6, 4], &boxes), scores]);
        assert_eq!(integers(&made[0], 12), [0, 0, 3, 0, 0, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!(integers(&made[1], 1), [3]);
    }
}

#[test]
fn selections_of_every_shape_and_type() {
    let shapes: [&[usize]; 7] = [&[], &[9], &[4, 6], &[3, 4, 5], &[0, 3], &[3, 0], &[2, 3, 4, 5]];
    for (shape, dtype) in shapes.into_iter().flat_map(|s| DType::ALL.map(|dtype| (s, dtype))) {
        let axes = (0..shape.len()).map(Some).chain([None]);
        for axis in axes {
            let mut b = Builder::new();
            let (x, condition) = (b.typed_input(dtype, shape), b.typed_input(DType::Bool, &[3]));
            let mut outputs = select(&mut b, Selection::NonZero, &[x]);
            outputs.extend(select(&mut b, Selection::Compress { axis }, &[x, condition]));
            outputs.extend(select(&mut b, Selection::Unique { axis, sorted: true }, &[x]));
            outputs.extend(select(&mut b, Selection::Unique { axis, sorted: false }, &[x]));
            b.check(&format!("selections of {dtype}{shape:?} along {axis:?}"), &outputs);
        }
    }
}

/// Operands that are views of others, outputs that nobody reads, and outputs that others read.
#[test]
fn selections_between_other_operators() {
    let mut b = Builder::new();
    let x = b.input(&[1, 3, 8, 8]);
    let image = b.conv(x, 6, harness::conv_attrs(3, 1));
    let turned = b.node(Op::Transpose { perm: vec![0, 2, 3, 1] }, &[image], &[1, 8, 8, 6]);
    let rounded = b.same(Op::Unary(reef_graph::Unary::Round), &[turned]);
    let half = b.node(Op::Slice { axis: 1, begin: 7, end: -1, step: -2 }, &[rounded], &[1, 4, 8, 6]);
    let found = select(&mut b, Selection::NonZero, &[half]);
    let distinct = select(&mut b, Selection::Unique { axis: Some(2), sorted: true }, &[half]);
    let zeros = b.same(Op::Binary(reef_graph::Binary::Sub), &[rounded, rounded]);
    let mask =
        b.typed_node(Op::Binary(reef_graph::Binary::Less), &[rounded, zeros], DType::Bool, &[1, 8, 8, 6]);
    let flat = b.node(Op::Reshape, &[mask], &[384]);
    let negative = select(&mut b, Selection::Compress { axis: None }, &[rounded, flat]);
    let sum = b.same(Op::Binary(reef_graph::Binary::Add), &[found[1], negative[1]]);
    let relu = b.same(Op::Unary(reef_graph::Unary::Relu), &[negative[0]]);
    b.check("selections among others", &[found[0], sum, relu, distinct[2], distinct[4]]);
}

#[test]
fn a_selection_is_one_block_that_may_be_killed() {
    let mut b = Builder::new();
    let x = b.typed_input(DType::I64, &[200]);
    let outputs = select(&mut b, Selection::Unique { axis: None, sorted: false }, &[x]);
    outputs.iter().for_each(|&id| b.output(id));
    let compiled = harness::compiled(&b.graph, target(Isa::Avx2, 2, 0));
    let [group] = &compiled.report.groups[..] else { panic!("{}", compiled.report) };
    let facts = (group.kernel.as_str(), group.kind, group.blocks, group.restart);
    assert_eq!(facts, ("Unique", "unique", 1, Restart::Safe));
    assert_eq!(compiled.plan.scratch_bytes(), 2 * 200 * 4);
}

#[test]
fn selections_that_do_not_fit_are_refused() {
    let refused = |selection: Selection, outputs: &[usize]| {
        let mut b = Builder::new();
        let x = b.input(&[4, 3]);
        let outputs = outputs.iter().map(|&count| (DType::I64, Shape::from([count]))).collect();
        let made = b.graph.add_node_multi("n", Op::Selection(selection), &[x], outputs);
        b.output(made[0]);
        let (store, options) = (Arc::new(WeightStore::new()), CompileOptions::default());
        match compile(&b.graph, &[], &store, &cutter(Isa::Avx2, 1), &options) {
            Err(error @ CompileError::Unsupported { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert!(refused(Selection::NonZero, &[24, 1]).contains("it makes"));
    assert!(refused(Selection::Compress { axis: None }, &[12, 1]).contains("it has 1 inputs"));
    let unique = Selection::Unique { axis: Some(2), sorted: true };
    assert!(refused(unique, &[1; 5]).contains("axis 2 of [4,3]"));
}

#[test]
fn thresholds_that_are_no_shares_are_errors() {
    let mut b = Builder::new();
    let (boxes, scores) = (b.input(&[1, 2, 4]), b.input(&[1, 1, 2]));
    let (most, overlap) = (b.graph.add_const("most", Tensor::i64([1], &[3])), b.scalar(1.5));
    let selection = Selection::NonMaxSuppression { center_point_box: false, per_class: 2 };
    let made = select(&mut b, selection, &[boxes, scores, most, overlap]);
    b.output(made[0]);
    let inputs = harness::inputs(&b.graph, 1);
    let expected = "iou_threshold is 1.5, allowed are 0 to 1";
    let error = reference::evaluate(&b.graph, &inputs).unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
    let error = interpret::run(&harness::plan(&b.graph), &inputs).unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
}
