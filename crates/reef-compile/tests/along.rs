//! Operators along an axis and reductions of integers, among others and along every axis.

mod harness;

use harness::{Builder, target};
use reef_graph::{Along, DType, Op, Reduce, Shape, Unary, ValueId};
use reef_plan::{Isa, Restart};

/// Adds an operator, with the outputs that it makes.
fn along(b: &mut Builder, along: Along, axis: usize, x: ValueId) -> Vec<ValueId> {
    let (dtype, shape) = (b.graph.value(x).dtype, b.graph.value(x).shape.clone());
    let outputs = along.outputs(axis, dtype, &shape).unwrap();
    b.graph.add_node_multi(along.name(), Op::Along { along, axis }, &[x], outputs)
}

const SHAPES: [&[usize]; 6] = [&[9], &[1, 37], &[3, 5], &[1, 4, 7], &[3, 3, 4, 5], &[2, 70, 3]];

#[test]
fn every_axis_and_type() {
    for (shape, dtype) in SHAPES.into_iter().flat_map(|s| DType::ALL.map(|dtype| (s, dtype))) {
        for axis in 0..shape.len() {
            let mut b = Builder::new();
            let x = b.typed_input(dtype, shape);
            let mut outputs = vec![];
            for largest in [true, false] {
                outputs.extend(along(&mut b, Along::ArgExtreme { largest, last: !largest }, axis, x));
                for k in [1, shape[axis].min(3), shape[axis]] {
                    outputs.extend(along(&mut b, Along::TopK { k, largest }, axis, x));
                }
            }
            let (exclusive, reverse) = (axis % 2 == 0, shape.len() % 2 == 0);
            if dtype != DType::Bool {
                outputs.extend(along(&mut b, Along::Scan { product: false, exclusive, reverse }, axis, x));
            }
            if !matches!(dtype, DType::F16 | DType::BF16 | DType::F64) {
                let x = if dtype == DType::F32 { b.same(Op::Unary(Unary::Sign), &[x]) } else { x };
                if dtype != DType::Bool {
                    let scan = Along::Scan { product: true, exclusive, reverse: !reverse };
                    outputs.extend(along(&mut b, scan, axis, x));
                }
            }
            let what = format!("along axis {axis} of {dtype}{shape:?}");
            outputs.iter().for_each(|&id| b.output(id));
            let inputs = harness::inputs(&b.graph, 5);
            // Half-precision sums are rounded at every step by one, and at the end by the other.
            let rounded = matches!(dtype, DType::F16 | DType::BF16 | DType::F32);
            match rounded {
                true => harness::check(&what, &b.graph),
                false => harness::check_exactly(&what, &b.graph, &inputs),
            }
        }
    }
}

#[test]
fn integers_and_doubles_are_folded_over_any_axes() {
    let ways = [Reduce::Sum, Reduce::Mean, Reduce::Max, Reduce::Min, Reduce::Prod, Reduce::SumSquare];
    let sets: [&[usize]; 7] = [&[0], &[3], &[1, 2], &[0, 2], &[1, 3], &[0, 1, 2, 3], &[]];
    for (axes, dtype) in sets.into_iter().flat_map(|axes| DType::ALL.map(|dtype| (axes, dtype))) {
        if matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::Bool) {
            continue;
        }
        let mut b = Builder::new();
        let dims = [3, 4, 5, 7];
        let x = b.typed_input(dtype, &dims);
        for (keep_dims, reduce) in ways.into_iter().enumerate().map(|(at, way)| (at % 2 == 0, way)) {
            let kept = (0..4).filter(|axis| keep_dims || !axes.contains(axis));
            let shape: Vec<usize> =
                kept.map(|axis| if axes.contains(&axis) { 1 } else { dims[axis] }).collect();
            let op = Op::Reduce { reduce, axes: axes.to_vec(), keep_dims };
            let y = b.typed_node(op, &[x], dtype, &shape);
            b.output(y);
        }
        let inputs = harness::inputs(&b.graph, 3);
        harness::check_exactly(&format!("{dtype} folded over {axes:?}"), &b.graph, &inputs);
    }
}

/// Operands that are views of others, outputs that nobody reads, and outputs that others read.
#[test]
fn between_other_operators() {
    let mut b = Builder::new();
    let x = b.input(&[1, 3, 8, 8]);
    let image = b.conv(x, 6, harness::conv_attrs(3, 1));
    let turned = b.node(Op::Transpose { perm: vec![0, 2, 3, 1] }, &[image], &[1, 8, 8, 6]);
    let half = b.node(Op::Slice { axis: 1, begin: 7, end: -1, step: -2 }, &[turned], &[1, 4, 8, 6]);
    let top = along(&mut b, Along::TopK { k: 2, largest: true }, 3, half);
    let class = along(&mut b, Along::ArgExtreme { largest: true, last: false }, 1, image);
    let sums = along(&mut b, Along::Scan { product: false, exclusive: true, reverse: false }, 2, turned);
    let relu = b.same(Op::Unary(Unary::Relu), &[sums[0]]);
    let total = b.typed_node(
        Op::Reduce { reduce: Reduce::Sum, axes: vec![1, 2], keep_dims: false },
        &[class[0]],
        DType::I64,
        &[1, 8],
    );
    b.check("along axes among others", &[top[0], class[0], relu, total]);
}

#[test]
fn blocks_take_rows_and_may_be_killed() {
    let mut b = Builder::new();
    let x = b.input(&[300, 1000]);
    let made = along(&mut b, Along::TopK { k: 10, largest: true }, 1, x);
    made.iter().for_each(|&id| b.output(id));
    let compiled = harness::compiled(&b.graph, target(Isa::Avx2, 2, 0));
    let [group] = &compiled.report.groups[..] else { panic!("{}", compiled.report) };
    assert_eq!((group.kernel.as_str(), group.kind, group.restart), ("TopK", "top-k", Restart::Safe));
    assert!(group.blocks > 2, "{}", group.blocks);
    assert_eq!(compiled.plan.scratch_bytes(), 10 * 8);
}

#[test]
fn operators_that_do_not_fit_are_refused() {
    let refused = |what: Along, axis: usize, outputs: Vec<(DType, Shape)>| {
        let mut b = Builder::new();
        let x = b.input(&[4, 3]);
        let made = b.graph.add_node_multi("n", Op::Along { along: what, axis }, &[x], outputs);
        b.output(made[0]);
        b.graph.validate().unwrap_err().to_string()
    };
    let top = |k| Along::TopK { k, largest: true };
    let outputs = |k| vec![(DType::F32, Shape::from([4, k])), (DType::I64, Shape::from([4, k]))];
    assert!(refused(top(4), 1, outputs(4)).contains("takes more elements than there are"));
    assert!(refused(top(2), 1, outputs(3)).contains("it makes"));
    assert!(refused(top(2), 2, outputs(2)).contains("axis 2 of [4,3]"));
}
