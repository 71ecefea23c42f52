//! Attention over heads of every width that one kernel takes: within what the precision allows of the
//! reference.

use reef_base::Rng;
use reef_compile::reference;
use reef_graph::{Binary, DType, Op, Shape, Tensor, ValueId};
use reef_plan::{KernelSpec, Precision};

use super::sketch::Sketch;
use super::{outputs, planned, start};

/// What is done to scores.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mask {
    Nothing,
    Add,
    Replace,
}

/// Queries, keys, products of a query and a key, columns of the values.
type Sizes = [usize; 4];

/// Heads on both sides of every bound, with edges in every direction, pieces that are cut short, one key, and
/// queries and keys beyond a tile.
const HEADS: [(Sizes, Mask); 16] = [
    ([70, 130, 64, 64], Mask::Nothing),
    ([64, 64, 65, 1], Mask::Nothing),
    ([3, 65, 1, 65], Mask::Add),
    ([66, 70, 80, 80], Mask::Nothing),
    ([5, 200, 96, 96], Mask::Add),
    ([64, 128, 128, 128], Mask::Nothing),
    ([65, 129, 127, 101], Mask::Replace),
    ([1, 1, 128, 128], Mask::Nothing),
    ([7, 33, 112, 17], Mask::Add),
    ([9, 66, 20, 128], Mask::Replace),
    ([66, 66, 129, 3], Mask::Nothing),
    ([2, 67, 5, 129], Mask::Add),
    ([70, 77, 160, 160], Mask::Nothing),
    ([64, 64, 192, 255], Mask::Replace),
    ([33, 130, 256, 256], Mask::Add),
    ([1, 2, 250, 193], Mask::Nothing),
];

/// Attention of two batches of two heads; keys and queries lie as they are multiplied, or across.
fn attention(s: &mut Sketch, sizes: Sizes, mask: Mask, across: bool) -> ValueId {
    let [queries, keys, depth, width] = sizes;
    let matrix = |rows: usize, columns: usize, swapped: bool| {
        if swapped { [2, 2, columns, rows] } else { [2, 2, rows, columns] }
    };
    let q = s.input(&matrix(queries, depth, across));
    let k = s.input(&matrix(keys, depth, across));
    let v = s.input(&[2, 2, keys, width]);
    let dims = [2, 2, queries, keys];
    let mut scores = s.node(Op::MatMul { trans_a: across, trans_b: !across }, &[q, k], &dims);
    let factor = s.graph.add_const("factor", Tensor::scalar_f32((depth as f32).sqrt().recip()));
    scores = s.node(Op::Binary(Binary::Mul), &[scores, factor], &dims);
    scores = match mask {
        Mask::Nothing => scores,
        Mask::Add => {
            let by = s.input(&[2, 1, 1, keys]);
            s.node(Op::Binary(Binary::Add), &[scores, by], &dims)
        }
        Mask::Replace => {
            let kept: Vec<u8> = (0..queries * keys).map(|at| u8::from(at % keys <= at / keys)).collect();
            let kept = Tensor::from_slice(DType::Bool, Shape::new(&[queries, keys]), &kept);
            let (kept, least) = (
                s.graph.add_const("kept", kept),
                s.graph.add_const("least", Tensor::scalar_f32(f32::NEG_INFINITY)),
            );
            s.node(Op::Where, &[kept, scores, least], &dims)
        }
    };
    let weights = s.node(Op::Softmax { axis: 3 }, &[scores], &dims);
    let values = Op::MatMul { trans_a: false, trans_b: false };
    s.node(values, &[weights, v], &[2, 2, queries, width])
}

/// How far a result may be off, as a share of the largest value: half of a last bit of each factor, with room
/// for the order of sums.
fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::Bf16 => 1.6e-2,
        _ => 2e-3,
    }
}

fn check(precision: Precision) {
    let device = start(64);
    for (seed, (sizes, mask)) in HEADS.into_iter().enumerate() {
        for across in [false, true] {
            let mut sketch = Sketch::new(seed as u64, Rng::normal_f32);
            let y = attention(&mut sketch, sizes, mask, across);
            sketch.graph.add_output("y", y);
            let expected = reference::evaluate(&sketch.graph, &sketch.inputs).expect("it can be evaluated");
            let plan = planned(&device, precision, &sketch);
            let fused = plan.kernels().iter().any(|one| matches!(one.spec, KernelSpec::Attention(_)));
            assert!(fused, "{sizes:?} is no kernel of its own");
            let got = outputs(&device, &plan, &sketch);
            let (got, expected) = (got[0].values::<f32>(), expected[0].values::<f32>());
            assert_eq!(got.len(), expected.len());
            let largest = expected.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            assert!(largest > 0.0);
            for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
                let off = (got - expected).abs();
                assert!(
                    off <= tolerance(precision) * largest,
                    "{sizes:?} {mask:?} in {precision}, {at}: {got} for {expected}"
                );
            }
        }
    }
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn heads_of_every_width_in_tf32() {
    check(Precision::Tf32);
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn heads_of_every_width_in_f16() {
    check(Precision::F16);
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn heads_of_every_width_in_bf16() {
    check(Precision::Bf16);
}

/// Wider ones, and all in f32, are products and a softmax.
#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn what_is_no_kernel_of_its_own_is_several() {
    let device = start(64);
    for (precision, width) in [(Precision::Tf32, 257), (Precision::F32, 64)] {
        let mut sketch = Sketch::new(0, Rng::normal_f32);
        let y = attention(&mut sketch, [4, 5, width, width], Mask::Nothing, false);
        sketch.graph.add_output("y", y);
        let plan = planned(&device, precision, &sketch);
        assert!(!plan.kernels().iter().any(|one| matches!(one.spec, KernelSpec::Attention(_))));
        let expected = reference::evaluate(&sketch.graph, &sketch.inputs).expect("it can be evaluated");
        let got = outputs(&device, &plan, &sketch);
        for (got, expected) in got[0].values::<f32>().iter().zip(expected[0].values::<f32>()) {
            assert!((got - expected).abs() <= 1e-2, "{width} in {precision}: {got} for {expected}");
        }
    }
}
