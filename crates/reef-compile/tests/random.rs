//! Random graphs: whatever fuses, elides or shares a stage, the plan computes what the graph says.

mod harness;

use harness::{Builder, conv_attrs};
use reef_base::Rng;
use reef_graph::{Binary, ConvAttrs, Op, PoolAttrs, PoolKind, Reduce, Unary, ValueId};

/// Adds a random node that reads some of `values`.
fn grow(b: &mut Builder, rng: &mut Rng, values: &[ValueId]) -> Option<ValueId> {
    let recent = values.len().min(5) as u64;
    let x = values[values.len() - 1 - rng.below(recent) as usize];
    let dims = b.shape(x);
    let image = dims.len() == 4;
    let same = |other: &ValueId| b.shape(*other) == dims;
    let alike: Vec<ValueId> = values.iter().copied().filter(same).collect();
    let other = alike[rng.below(alike.len() as u64) as usize];
    let functions = [Unary::Relu, Unary::Sigmoid, Unary::Tanh, Unary::Abs, Unary::Gelu];
    Some(match rng.below(15) {
        0 | 1 if image => {
            let kernel = [1, 3][rng.below(2) as usize];
            let outputs = 1 + rng.below(9) as usize;
            b.conv(x, outputs, conv_attrs(kernel, 1 + rng.below(2) as usize))
        }
        2 if image => b.conv(x, dims[1], ConvAttrs { groups: dims[1], ..conv_attrs(3, 1) }),
        3 if image => {
            let kind = [PoolKind::Max, PoolKind::AvgExcludePad][rng.below(2) as usize];
            let attrs = PoolAttrs { kind, kernel: [3; 2], strides: [1; 2], pads: [1; 4], dilations: [1; 2] };
            b.same(Op::Pool(attrs), &[x])
        }
        4 if image => {
            let (scale, shift) = (b.constant(&[dims[1]]), b.constant(&[dims[1]]));
            b.same(Op::ScaleShift, &[x, scale, shift])
        }
        5 | 6 => b.same(Op::Unary(functions[rng.below(5) as usize]), &[x]),
        7 | 8 => b.same(Op::Binary([Binary::Add, Binary::Mul][rng.below(2) as usize]), &[x, other]),
        9 | 10 => return join(b, rng, values, x),
        11 => {
            let axis = rng.below(dims.len() as u64) as usize;
            let begin = rng.below(dims[axis] as u64) as usize;
            let mut shape = dims.clone();
            shape[axis] -= begin;
            b.node(Op::Slice { axis, begin, end: dims[axis] as isize, step: 1 }, &[x], &shape)
        }
        12 => {
            let mut perm: Vec<usize> = (0..dims.len()).collect();
            perm.rotate_left(1 + rng.below(dims.len() as u64) as usize % dims.len());
            let shape: Vec<usize> = perm.iter().map(|&axis| dims[axis]).collect();
            b.node(Op::Transpose { perm }, &[x], &shape)
        }
        13 => {
            let last = dims[dims.len() - 1];
            let weights = b.constant(&[last, 5]);
            let shape: Vec<usize> = dims[..dims.len() - 1].iter().copied().chain([5]).collect();
            b.node(Op::MatMul { trans_a: false, trans_b: false }, &[x, weights], &shape)
        }
        14 if !image => {
            let scale = b.constant(&[dims[dims.len() - 1]]);
            b.same(Op::LayerNorm { axis: dims.len() - 1, epsilon: 1e-2 }, &[x, scale])
        }
        14 => {
            let axes = vec![2, 3];
            let reduce = Op::Reduce { reduce: Reduce::Mean, axes, keep_dims: rng.below(2) == 0 };
            let Op::Reduce { keep_dims, .. } = reduce else { return None };
            let shape = if keep_dims { vec![dims[0], dims[1], 1, 1] } else { dims[..2].to_vec() };
            b.node(reduce, &[x], &shape)
        }
        _ => return None,
    })
}

/// Concatenates values that fit to `x`.
fn join(b: &mut Builder, rng: &mut Rng, values: &[ValueId], x: ValueId) -> Option<ValueId> {
    let dims = b.shape(x);
    let channels = dims.len() == 4 && rng.below(3) > 0;
    let axis = if channels { 1 } else { rng.below(dims.len() as u64) as usize };
    let fits = |value: &&ValueId| {
        let shape = b.shape(**value);
        shape.len() == dims.len() && (0..dims.len()).all(|i| i == axis || shape[i] == dims[i])
    };
    let mut parts: Vec<ValueId> = values.iter().filter(fits).copied().collect();
    parts.truncate(4);
    let mut shape = dims.clone();
    shape[axis] = parts.iter().map(|&part| b.shape(part)[axis]).sum();
    (shape.iter().product::<usize>() <= 3000).then(|| b.node(Op::Concat { axis }, &parts, &shape))
}

#[test]
fn random_graphs_compute_the_same() {
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let mut b = Builder::new();
        let mut values =
            vec![b.input(&[1 + rng.below(2) as usize, 3, 5, 4]), b.input(&[2, 1 + rng.below(6) as usize])];
        for _ in 0..4 + rng.below(20) {
            values.extend(grow(&mut b, &mut rng, &values));
        }
        let mut outputs = vec![values[values.len() - 1]];
        for _ in 0..rng.below(3) {
            outputs.push(values[rng.below(values.len() as u64) as usize]);
        }
        b.check(&format!("seed {seed}"), &outputs);
    }
}
