//! Random graphs: whatever fuses, elides or shares a stage, the plan computes what the graph says.

mod harness;

use harness::{Builder, conv_attrs};
use reef_base::Rng;
use reef_compile::{Division, DivisionInput, divide, interpret};
use reef_cpu::CpuCutter;
use reef_graph::{Binary, ConvAttrs, DType, Op, PoolAttrs, PoolKind, Reduce, Tensor, Unary, ValueId};
use reef_plan::{Isa, Plan};

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
    Some(match rng.below(22) {
        0 | 1 if image => {
            let (kernel, outputs) = ([1, 3][rng.below(2) as usize], 1 + rng.below(9) as usize);
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
        7 => b.same(Op::Binary(Binary::Add), &[x, other]),
        // A factor below 1: values that grow for ever would end beyond f32.
        8 => {
            let factor = b.same(Op::Unary(Unary::Tanh), &[x]);
            b.same(Op::Binary(Binary::Mul), &[factor, other])
        }
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
        13 | 14 => return combine(b, rng, x),
        15 | 16 => {
            let axis = rng.below(dims.len() as u64) as usize;
            let op = if rng.below(2) == 0 { Op::Softmax { axis } } else { Op::LogSoftmax { axis } };
            b.same(op, &[x])
        }
        17 => return Some(rearrange(b, rng, x)),
        18 => return fold(b, rng, x),
        19 => {
            let half = b.typed_node(Op::Binary(Binary::Greater), &[x, other], DType::Bool, &dims);
            b.node(Op::Where, &[half, other, x], &dims)
        }
        20 if dims.len() > 1 => {
            let transposed: Vec<usize> =
                (0..dims.len() - 2).chain([dims.len() - 1, dims.len() - 2]).collect();
            let shape: Vec<usize> = transposed.iter().map(|&axis| dims[axis]).collect();
            let y = b.node(Op::Transpose { perm: transposed }, &[x], &shape);
            let rows = dims[dims.len() - 2];
            let shape: Vec<usize> = dims[..dims.len() - 1].iter().copied().chain([rows]).collect();
            let product = b.node(Op::MatMul { trans_a: false, trans_b: false }, &[x, y], &shape);
            b.same(Op::Unary(Unary::Tanh), &[product])
        }
        _ => return None,
    })
}

/// A product with weights, a layer norm, or a mean over the image.
fn combine(b: &mut Builder, rng: &mut Rng, x: ValueId) -> Option<ValueId> {
    let dims = b.shape(x);
    let last = dims[dims.len() - 1];
    if dims.len() > 1 && rng.below(2) == 0 {
        let weights = b.constant(&[last, 5]);
        let shape: Vec<usize> = dims[..dims.len() - 1].iter().copied().chain([5]).collect();
        return Some(b.node(Op::MatMul { trans_a: false, trans_b: false }, &[x, weights], &shape));
    }
    if dims.len() != 4 {
        let scale = b.constant(&[last]);
        return Some(b.same(Op::LayerNorm { axis: dims.len() - 1, epsilon: 1e-2 }, &[x, scale]));
    }
    let keep_dims = rng.below(2) == 0;
    let shape = if keep_dims { vec![dims[0], dims[1], 1, 1] } else { dims[..2].to_vec() };
    Some(b.node(Op::Reduce { reduce: Reduce::Mean, axes: vec![2, 3], keep_dims }, &[x], &shape))
}

/// Elements somewhere else: a backward slice, padding, picks or an expansion.
fn rearrange(b: &mut Builder, rng: &mut Rng, x: ValueId) -> ValueId {
    let mut shape = b.shape(x);
    let axis = rng.below(shape.len() as u64) as usize;
    let extent = shape[axis];
    match rng.below(4) {
        0 => {
            let step = 1 + rng.below(2) as usize;
            shape[axis] = extent.div_ceil(step);
            let op = Op::Slice { axis, begin: extent - 1, end: -1, step: -(step as isize) };
            b.node(op, &[x], &shape)
        }
        1 => {
            let mut pads = vec![(0, 0); shape.len()];
            pads[axis] = (rng.below(2) as usize, rng.below(3) as usize);
            shape[axis] += pads[axis].0 + pads[axis].1;
            b.node(Op::Pad { pads, value: 0.5 }, &[x], &shape)
        }
        2 => {
            let picks: Vec<i64> = (0..1 + rng.below(4)).map(|_| rng.below(extent as u64) as i64).collect();
            shape[axis] = picks.len();
            let indices = b.graph.add_const("picks", Tensor::i64([picks.len()], &picks));
            b.typed_node(Op::Gather { axis }, &[x, indices], DType::F32, &shape)
        }
        _ => {
            shape[axis] = 1;
            let one = b.node(Op::Slice { axis, begin: 0, end: 1, step: 1 }, &[x], &shape);
            shape[axis] = extent;
            b.node(Op::Expand, &[one], &shape)
        }
    }
}

/// Some axes folded.
fn fold(b: &mut Builder, rng: &mut Rng, x: ValueId) -> Option<ValueId> {
    let dims = b.shape(x);
    let axes: Vec<usize> = (0..dims.len()).filter(|_| rng.below(2) == 0).collect();
    let keep_dims = rng.below(2) == 0;
    let kept = |axis: &usize| !axes.contains(axis);
    let shape: Vec<usize> = if keep_dims {
        (0..dims.len()).map(|axis| if kept(&axis) { dims[axis] } else { 1 }).collect()
    } else {
        (0..dims.len()).filter(kept).map(|axis| dims[axis]).collect()
    };
    let reduce = [Reduce::Mean, Reduce::Max, Reduce::Min, Reduce::Sum][rng.below(4) as usize];
    let folded = b.node(Op::Reduce { reduce, axes, keep_dims }, &[x], &shape);
    // A value without axes has none to go on with.
    (!shape.is_empty()).then(|| b.same(Op::Unary(Unary::Tanh), &[folded]))
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

/// A random graph and some of its values to be outputs.
fn random(rng: &mut Rng) -> (Builder, Vec<ValueId>) {
    let mut b = Builder::new();
    let mut values =
        vec![b.input(&[1 + rng.below(2) as usize, 3, 5, 4]), b.input(&[2, 1 + rng.below(6) as usize])];
    for _ in 0..4 + rng.below(20) {
        values.extend(grow(&mut b, rng, &values));
    }
    let mut outputs = vec![values[values.len() - 1]];
    for _ in 0..rng.below(3) {
        outputs.push(values[rng.below(values.len() as u64) as usize]);
    }
    (b, outputs)
}

#[test]
fn random_graphs_compute_the_same() {
    for seed in 0..3000 {
        let (b, outputs) = random(&mut Rng::new(seed));
        b.check(&format!("seed {seed}"), &outputs);
    }
}

/// Runs the parts of a plan one after the other.
fn run_divided(
    parts: &[Division],
    inputs: &[Tensor],
    run: impl Fn(&Plan, &[Tensor]) -> Vec<Tensor>,
) -> Vec<Tensor> {
    let mut left: Vec<Tensor> = vec![];
    for part in parts {
        let given = |input: &DivisionInput| match input {
            DivisionInput::Whole(index) => inputs[*index].clone(),
            DivisionInput::Left => left[0].clone(),
        };
        let inputs: Vec<Tensor> = part.inputs.iter().map(given).collect();
        left = run(&part.plan, &inputs);
    }
    left
}

#[test]
fn parts_of_random_plans_compute_the_same_to_the_bit() {
    let bytes = |tensors: Vec<Tensor>| -> Vec<Vec<u8>> {
        tensors.iter().map(|tensor| tensor.bytes().as_slice().to_vec()).collect()
    };
    let mut divided = 0;
    for seed in 0..600 {
        let mut rng = Rng::new(seed);
        let (mut b, outputs) = random(&mut rng);
        outputs.iter().for_each(|&id| b.output(id));
        let window = [0, 0, 3][seed as usize % 3];
        let plan = harness::compiled(&b.graph, harness::target(Isa::Portable, 2, window)).plan;
        let inputs = harness::inputs(&b.graph, seed);
        let at: Vec<usize> = (1..plan.stages().len()).filter(|_| rng.below(3) == 0).collect();
        let parts = divide(&plan, &at, &[0], &CpuCutter::new(plan.target())).unwrap();
        assert_eq!(parts.len(), at.len() + 1);
        assert!(parts.iter().all(|part| part.inputs.contains(&DivisionInput::Whole(0))), "input 0 is kept");
        let interpreted = |plan: &Plan, inputs: &[Tensor]| interpret::run(plan, inputs).unwrap();
        let whole = bytes(interpreted(&plan, &inputs));
        assert!(bytes(run_divided(&parts, &inputs, interpreted)) == whole, "seed {seed} at {at:?}");
        let ran = |plan: &Plan, inputs: &[Tensor]| harness::machine::run(plan.clone(), inputs).unwrap();
        if window == 0 {
            let whole = bytes(ran(&plan, &inputs));
            assert!(bytes(run_divided(&parts, &inputs, ran)) == whole, "seed {seed} at {at:?}");
        }
        divided += at.len();
    }
    assert!(divided > 500, "{divided}");
}

#[test]
fn a_plan_is_divided_before_stages_that_it_has() {
    let (mut b, outputs) = random(&mut Rng::new(1));
    outputs.iter().for_each(|&id| b.output(id));
    let plan = harness::plan(&b.graph);
    let (stages, cutter) = (plan.stages().len(), CpuCutter::new(plan.target()));
    assert!(stages > 3);
    assert_eq!(divide(&plan, &[], &[], &cutter).unwrap()[0].plan.stages(), plan.stages());
    for at in [&[0][..], &[stages], &[2, 1], &[1, 1]] {
        let error = divide(&plan, at, &[], &cutter).unwrap_err();
        assert!(error.to_string().contains("cannot be divided"), "{error}");
    }
}
