//! What is fused, what is not, and that it computes the same.

mod harness;

use std::sync::Arc;

use harness::{Builder, compiled, conv_attrs, plan, target};
use reef_compile::{CompileOptions, compile, interpret, reference};
use reef_device::{Device, DummyDevice, DummyOptions};
use reef_graph::{Binary, DType, Graph, Op, PoolAttrs, PoolKind, Reduce, Tensor, Unary, ValueId};
use reef_plan::{Isa, Kernel, KernelSpec, Place};

const RELU: Op = Op::Unary(Unary::Relu);
const ADD: Op = Op::Binary(Binary::Add);
const MUL: Op = Op::Binary(Binary::Mul);
const PRODUCT: Op = Op::MatMul { trans_a: false, trans_b: false };

/// Names of the plan's kernels, in order.
fn kernels(graph: &Graph) -> Vec<String> {
    plan(graph).kernels().iter().map(|kernel| format!("{}: {}", kernel.spec.name(), kernel.name)).collect()
}

/// Checks the results, then the kernels.
fn expect(mut builder: Builder, outputs: &[ValueId], expected: &[&str]) {
    outputs.iter().for_each(|&id| builder.output(id));
    harness::check(&format!("{expected:?}"), &builder.graph);
    assert_eq!(kernels(&builder.graph), expected);
}

#[test]
fn a_residual_block_is_its_convolutions() {
    let mut b = Builder::new();
    let x = b.input(&[2, 8, 6, 6]);
    let stem = b.conv(x, 8, conv_attrs(1, 1));
    let first = b.conv(stem, 8, conv_attrs(3, 1));
    let first = b.same(RELU, &[first]);
    let second = b.conv(first, 8, conv_attrs(3, 1));
    let sum = b.same(ADD, &[stem, second]);
    let y = b.same(RELU, &[sum]);
    let mean =
        b.node(Op::Reduce { reduce: Reduce::Mean, axes: vec![2, 3], keep_dims: true }, &[y], &[2, 8, 1, 1]);
    let flat = b.node(Op::Reshape, &[mean], &[2, 8]);
    let weights = b.constant(&[8, 5]);
    let bias = b.constant(&[5]);
    let logits = b.node(PRODUCT, &[flat, weights], &[2, 5]);
    let logits = b.same(ADD, &[logits, bias]);
    expect(
        b,
        &[logits],
        &[
            "elementwise: conv0: layout",
            "conv: conv0+bias",
            "conv: conv1+bias+relu",
            "conv: conv3+bias+residual+relu",
            "reduce: reduce6",
            "conv: matmul8+bias",
        ],
    );
}

#[test]
fn a_value_with_two_readers_is_not_swallowed() {
    let mut b = Builder::new();
    let x = b.input(&[4, 6]);
    let weights = b.constant(&[6, 6]);
    let product = b.node(PRODUCT, &[x, weights], &[4, 6]);
    let relu = b.same(RELU, &[product]);
    let y = b.same(ADD, &[relu, product]);
    expect(b, &[y], &["conv: matmul0", "elementwise: unary1+add"]);
    let mut b = Builder::new();
    let x = b.input(&[4, 6]);
    let weights = b.constant(&[6, 6]);
    let product = b.node(PRODUCT, &[x, weights], &[4, 6]);
    let relu = b.same(RELU, &[product]);
    expect(b, &[relu, product], &["conv: matmul0", "elementwise: unary1"]);
}

#[test]
fn residuals_in_other_layouts_are_copied() {
    let mut b = Builder::new();
    let x = b.input(&[1, 4, 5, 5]);
    let y = b.conv(x, 4, conv_attrs(3, 1));
    let y = b.same(ADD, &[y, x]);
    let turned = b.input(&[6, 4]);
    let turned = b.node(Op::Transpose { perm: vec![1, 0] }, &[turned], &[4, 6]);
    let rows = b.input(&[4, 3]);
    let weights = b.constant(&[3, 6]);
    let product = b.node(PRODUCT, &[rows, weights], &[4, 6]);
    let product = b.same(ADD, &[turned, product]);
    let gelu = b.same(Op::Unary(Unary::Gelu), &[product]);
    b.check("residual layouts", &[y, gelu]);
}

#[test]
fn chains_are_one_program() {
    let mut b = Builder::new();
    let x = b.input(&[2, 3, 4]);
    let column = b.input(&[3, 1]);
    let half = b.scalar(0.5);
    let a = b.same(MUL, &[x, half]);
    let c = b.same(ADD, &[a, column]);
    let t = b.same(Op::Unary(Unary::Tanh), &[c]);
    let positive = b.typed_node(Op::Binary(Binary::Greater), &[t, half], DType::Bool, &[2, 3, 4]);
    let y = b.node(Op::Where, &[positive, t, a], &[2, 3, 4]);
    let y = b.typed_node(Op::Cast { to: DType::F16 }, &[y], DType::F16, &[2, 3, 4]);
    let z = b.typed_node(Op::Cast { to: DType::F32 }, &[y], DType::F32, &[2, 3, 4]);
    expect(b, &[z], &["elementwise: binary0+add+tanh+greater+where+cast+cast"]);
}

#[test]
fn numbers_are_rounded_to_16_bits_inside_a_program() {
    let mut values: Vec<f32> = (0..300).map(|i| (i as f32 - 150.0) * 0.717_f32.powi(i % 40)).collect();
    values.extend([f32::NAN, f32::INFINITY, -f32::INFINITY, -0.0, 65504.0, 65519.9, 65520.0, 1e38, -3.3e38]);
    values.extend([
        1e-8,
        5.96e-8,
        2.98e-8,
        2.99e-8,
        -6.1e-5,
        1.0004883,
        1.0014648,
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
    ]);
    for (first, second) in [(DType::F16, DType::BF16), (DType::BF16, DType::F16), (DType::F16, DType::F16)] {
        let mut b = Builder::new();
        let count = values.len();
        let x = b.input(&[count]);
        let cast = |b: &mut Builder, x, to| b.typed_node(Op::Cast { to }, &[x], to, &[count]);
        let narrow = cast(&mut b, x, first);
        let y = cast(&mut b, narrow, DType::F32);
        let y = b.same(ADD, &[y, x]);
        let narrow = cast(&mut b, y, second);
        let wide = cast(&mut b, narrow, DType::F64);
        let again = cast(&mut b, wide, first);
        b.output(again);
        let plan = compiled(&b.graph, target(Isa::Avx512, 2, 0)).plan;
        assert_eq!(plan.kernels().len(), 1, "{plan}");
        harness::check_exactly(&format!("{first} {second}"), &b.graph, &[Tensor::f32([count], &values)]);
    }
}

#[test]
fn small_operands_are_not_computed_again_for_every_element() {
    let mut b = Builder::new();
    let x = b.input(&[1, 8, 4, 4]);
    let gate = b.input(&[1, 8, 1, 1]);
    let gate = b.same(Op::Unary(Unary::Sigmoid), &[gate]);
    let y = b.same(MUL, &[x, gate]);
    let y = b.same(RELU, &[y]);
    expect(b, &[y], &["elementwise: unary0", "elementwise: binary1+relu"]);
}

#[test]
fn long_chains_are_cut() {
    let mut b = Builder::new();
    let mut x = b.input(&[5, 7]);
    for step in 0..30 {
        let other = b.input(&[5, 7]);
        x = b.same(if step % 2 == 0 { ADD } else { MUL }, &[x, other]);
    }
    let graph = &mut b.graph;
    graph.add_output("y", x);
    let plan = plan(graph);
    assert!(plan.kernels().len() <= 5);
    for kernel in plan.kernels() {
        let KernelSpec::Elementwise(spec) = &kernel.spec else { panic!("{}", kernel.name) };
        assert!(spec.inputs.len() <= 8);
    }
    harness::check("a long chain", graph);
}

/// Attention over `[batch, tokens, heads · width]`.
fn attention(b: &mut Builder, x: ValueId, mask: ValueId, heads: usize) -> ValueId {
    let [batch, tokens, size] = b.shape(x)[..] else { panic!("tokens") };
    let width = size / heads;
    let split = |b: &mut Builder, perm: &[usize]| {
        let (weights, bias) = (b.constant(&[size, size]), b.constant(&[size]));
        let y = b.node(PRODUCT, &[x, weights], &[batch, tokens, size]);
        let y = b.node(ADD, &[bias, y], &[batch, tokens, size]);
        let y = b.node(Op::Reshape, &[y], &[batch, tokens, heads, width]);
        let dims = [batch, tokens, heads, width];
        b.node(Op::Transpose { perm: perm.to_vec() }, &[y], &[0, 1, 2, 3].map(|i| dims[perm[i]]))
    };
    let (q, k, v) = (split(b, &[0, 2, 1, 3]), split(b, &[0, 2, 3, 1]), split(b, &[0, 2, 1, 3]));
    let scores = b.node(PRODUCT, &[q, k], &[batch, heads, tokens, tokens]);
    let root = b.scalar((width as f32).sqrt());
    let scores = b.same(Op::Binary(Binary::Div), &[scores, root]);
    let scores = b.same(ADD, &[scores, mask]);
    let weights = b.same(Op::Softmax { axis: 3 }, &[scores]);
    let mixed = b.node(PRODUCT, &[weights, v], &[batch, heads, tokens, width]);
    let mixed = b.node(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[mixed], &[batch, tokens, heads, width]);
    let mixed = b.node(Op::Reshape, &[mixed], &[batch, tokens, size]);
    let (weights, bias) = (b.constant(&[size, size]), b.constant(&[size]));
    let y = b.node(PRODUCT, &[mixed, weights], &[batch, tokens, size]);
    let y = b.same(ADD, &[y, bias]);
    let y = b.same(ADD, &[y, x]);
    let (scale, shift) = (b.constant(&[size]), b.constant(&[size]));
    b.same(Op::LayerNorm { axis: 2, epsilon: 1e-6 }, &[y, scale, shift])
}

#[test]
fn attention_copies_nothing() {
    let mut b = Builder::new();
    let x = b.input(&[2, 5, 12]);
    let mask = b.input(&[2, 1, 1, 5]);
    let y = attention(&mut b, x, mask, 3);
    expect(
        b,
        &[y],
        &[
            "conv: matmul0+bias",
            "conv: matmul4+bias",
            "conv: matmul8+bias",
            "attention: matmul12+div+add+softmax+matmul",
            "conv: matmul19+bias+residual",
            "layernorm: layernorm22",
        ],
    );
}

#[test]
fn factors_on_the_way_to_a_product_are_its_own() {
    let mut b = Builder::new();
    let (x, y) = (b.input(&[6, 2, 4]), b.input(&[2, 6, 3]));
    let (half, three) = (b.scalar(0.5), b.scalar(3.0));
    let scaled = b.node(Op::Transpose { perm: vec![1, 2, 0] }, &[x], &[2, 4, 6]);
    let scaled = b.same(MUL, &[scaled, half]);
    let scaled = b.node(Op::Reshape, &[scaled], &[2, 2, 2, 6]);
    let scaled = b.node(Op::Reshape, &[scaled], &[2, 4, 6]);
    let z = b.node(PRODUCT, &[scaled, y], &[2, 4, 3]);
    let z = b.same(MUL, &[z, three]);
    let graph = {
        b.output(z);
        b.graph
    };
    harness::check("factors", &graph);
    let plan = plan(&graph);
    assert_eq!(plan.kernels().len(), 1);
    assert!(matches!(&plan.kernels()[0].spec, KernelSpec::MatMul(spec) if spec.alpha == 1.5));
}

#[test]
fn operands_that_are_used_twice_are_kept() {
    let mut b = Builder::new();
    let x = b.input(&[4, 4]);
    let half = b.scalar(0.5);
    let scaled = b.same(MUL, &[x, half]);
    let gram = b.node(Op::MatMul { trans_a: false, trans_b: true }, &[scaled, scaled], &[4, 4]);
    let doubled = b.same(ADD, &[gram, gram]);
    let sum = b.same(ADD, &[doubled, x]);
    let norm = b.same(Op::LayerNorm { axis: 0, epsilon: 1e-5 }, &[sum, sum]);
    b.check("operands used twice", &[norm]);
}

#[test]
fn a_sum_is_part_of_the_norm_behind_it() {
    let mut b = Builder::new();
    let (x, y) = (b.input(&[3, 4, 8]), b.input(&[3, 4, 8]));
    let sum = b.same(ADD, &[x, y]);
    let scale = b.constant(&[8]);
    let norm = b.same(Op::LayerNorm { axis: 2, epsilon: 1e-5 }, &[sum, scale]);
    expect(b, &[norm], &["layernorm: binary0+layernorm"]);
}

/// A dense block: every layer reads the concatenation of all before it, made pairwise or from all parts.
fn dense_block(pairwise: bool, size: usize) -> Builder {
    let mut b = Builder::new();
    let x = b.input(&[2, 3, size, size]);
    let mut parts = vec![b.conv(x, 8, conv_attrs(3, 1))];
    let mut joined = parts[0];
    for _ in 0..3 {
        let channels = b.shape(joined)[1];
        let (scale, shift) = (b.constant(&[channels]), b.constant(&[channels]));
        let normal = b.same(Op::ScaleShift, &[joined, scale, shift]);
        let normal = b.same(RELU, &[normal]);
        let narrow = b.conv(normal, 6, conv_attrs(1, 1));
        let narrow = b.same(RELU, &[narrow]);
        let new = b.conv(narrow, 4, conv_attrs(3, 1));
        parts.push(new);
        let inputs = if pairwise { vec![joined, new] } else { parts.clone() };
        joined = b.node(Op::Concat { axis: 1 }, &inputs, &[2, channels + 4, size, size]);
    }
    let attrs = PoolAttrs {
        kind: PoolKind::AvgExcludePad,
        kernel: [2, 2],
        strides: [2, 2],
        pads: [0; 4],
        dilations: [1, 1],
    };
    let channels = b.shape(joined)[1];
    let y = b.node(Op::Pool(attrs), &[joined], &[2, channels, size / 2, size / 2]);
    b.output(y);
    b
}

#[test]
fn concatenations_of_a_dense_block_are_free() {
    for pairwise in [false, true] {
        for size in [6, 2] {
            let graph = dense_block(pairwise, size).graph;
            harness::check("a dense block", &graph);
            let names = kernels(&graph);
            assert!(!names.iter().any(|name| name.contains("concat")), "{names:?}");
            let plan = plan(&graph);
            let columns = plan
                .kernels()
                .iter()
                .flat_map(|kernel| &kernel.writes)
                .filter(|region| region.lane.is_some());
            assert_eq!(columns.count(), 4);
        }
    }
}

/// On the CPU a kernel norms what a layer reads; where convolutions do so themselves, there is none.
#[test]
fn convolutions_of_a_dense_block_norm_their_input_where_a_device_has_that() {
    for pairwise in [false, true] {
        let graph = dense_block(pairwise, 6).graph;
        let (device, options) = (DummyDevice::new(DummyOptions::default()), CompileOptions::default());
        let plan = compile(&graph, &[], &Arc::default(), device.cutter(None).as_ref(), &options).unwrap();
        let inputs = harness::inputs(&graph, 5);
        let expected = reference::evaluate(&graph, &inputs).unwrap();
        harness::assert_close(&interpret::run(&plan, &inputs).unwrap(), &expected, "a dense block");
        let of = |kernels: &[Kernel]| -> Vec<String> {
            kernels.iter().map(|kernel| kernel.name.clone()).filter(|name| name.contains("scale")).collect()
        };
        let normed = plan.kernels().iter().filter(|kernel| {
            matches!(&kernel.spec, KernelSpec::Conv(spec) if spec.normed) && kernel.reads.len() == 5
        });
        assert_eq!(normed.count(), 3);
        let names = of(plan.kernels());
        assert_eq!(names.len(), 3);
        let whole = |name: &String| name.ends_with("+relu+conv+bias+relu");
        assert!(names.iter().all(whole), "{names:?}");
        let on_cpu = crate::plan(&graph);
        let names = of(on_cpu.kernels());
        assert_eq!(names.len(), 3);
        assert!(names.iter().all(|name| name.ends_with("+relu") && !name.contains("conv")), "{names:?}");
        assert_eq!(on_cpu.kernels().len(), plan.kernels().len() + 3);
    }
}

/// A value that is twice a part of the next, 14 times over: opened up altogether it is 2^14 parts.
#[test]
fn concatenations_of_themselves_stay_within_bounds() {
    let mut b = Builder::new();
    let x = b.input(&[1]);
    let mut y = b.same(RELU, &[x]);
    for level in 1..=14 {
        y = b.node(Op::Concat { axis: 0 }, &[y, y], &[1 << level]);
    }
    b.output(y);
    harness::check("concatenations of themselves", &b.graph);
    let count = plan(&b.graph).kernels().len();
    assert!(count < 3000, "{count} kernels");
}

#[test]
fn branches_meet_in_one_buffer_and_share_stages() {
    let mut b = Builder::new();
    let x = b.input(&[1, 8, 8, 8]);
    let x = b.conv(x, 8, conv_attrs(1, 1));
    let pool =
        PoolAttrs { kind: PoolKind::Max, kernel: [3, 3], strides: [1, 1], pads: [1; 4], dilations: [1, 1] };
    let one = b.conv(x, 5, conv_attrs(1, 1));
    let two = b.conv(x, 6, conv_attrs(3, 1));
    let two = b.same(RELU, &[two]);
    let pooled = b.same(Op::Pool(pool), &[x]);
    let joined = b.node(Op::Concat { axis: 1 }, &[one, two, pooled, x, one], &[1, 32, 8, 8]);
    let y = b.conv(joined, 4, conv_attrs(1, 1));
    b.output(y);
    harness::check("branches", &b.graph);
    let plan = plan(&b.graph);
    // Every branch writes its column; the second use of the first branch is copied.
    let copies = plan.kernels().iter().filter(|kernel| kernel.name.contains("part")).count();
    assert_eq!(copies, 1);
    assert_eq!(plan.stages().iter().map(|stage| stage.kernels.len()).max(), Some(3));
}

#[test]
fn parts_that_nobody_can_place_are_copied() {
    let mut b = Builder::new();
    let x = b.input(&[1, 4, 3, 3]);
    let constant = b.constant(&[1, 2, 3, 3]);
    let y = b.conv(x, 5, conv_attrs(3, 1));
    let joined = b.node(Op::Concat { axis: 1 }, &[x, y, constant, y], &[1, 16, 3, 3]);
    let turned = b.node(Op::Transpose { perm: vec![0, 2, 3, 1] }, &[joined], &[1, 3, 3, 16]);
    let again = b.node(Op::Concat { axis: 2 }, &[joined, joined], &[1, 16, 6, 3]);
    b.check("copied parts", &[turned, again, joined, y]);
}

#[test]
fn rows_and_heads_meet_in_one_buffer() {
    let mut b = Builder::new();
    let x = b.input(&[3, 4, 6]);
    let class = b.constant(&[3, 1, 8]);
    let weights = b.constant(&[6, 8]);
    let y = b.node(PRODUCT, &[x, weights], &[3, 4, 8]);
    let tokens = b.node(Op::Concat { axis: 1 }, &[class, y], &[3, 5, 8]);
    let wide = b.node(Op::Concat { axis: 2 }, &[tokens, tokens], &[3, 5, 16]);
    let max = b.node(Op::Reduce { reduce: Reduce::Max, axes: vec![1], keep_dims: false }, &[wide], &[3, 16]);
    let soft = b.same(Op::Softmax { axis: 1 }, &[max]);
    let stacked = b.node(Op::Concat { axis: 0 }, &[max, soft], &[6, 16]);
    b.check("rows", &[stacked, tokens]);
}

#[test]
fn channel_shuffles_and_splits_are_right() {
    let mut b = Builder::new();
    let x = b.input(&[2, 6, 5, 5]);
    let x = b.conv(x, 12, conv_attrs(1, 1));
    let shuffled = b.node(Op::Reshape, &[x], &[2, 3, 4, 5, 5]);
    let shuffled = b.node(Op::Transpose { perm: vec![0, 2, 1, 3, 4] }, &[shuffled], &[2, 4, 3, 5, 5]);
    let shuffled = b.node(Op::Reshape, &[shuffled], &[2, 12, 5, 5]);
    let half = |b: &mut Builder, begin: usize| {
        let op = Op::Slice { axis: 1, begin, end: begin as isize + 6, step: 1 };
        b.node(op, &[shuffled], &[2, 6, 5, 5])
    };
    let (left, right) = (half(&mut b, 0), half(&mut b, 6));
    let attrs = reef_graph::ConvAttrs { groups: 6, ..conv_attrs(3, 1) };
    let right = b.conv(right, 6, attrs);
    let joined = b.node(Op::Concat { axis: 1 }, &[left, right], &[2, 12, 5, 5]);
    let y = b.conv(joined, 3, conv_attrs(1, 1));
    b.check("shuffle", &[y]);
}

#[test]
fn gates_of_squeeze_and_excitation() {
    let mut b = Builder::new();
    let x = b.input(&[2, 8, 5, 5]);
    let x = b.conv(x, 8, conv_attrs(3, 2));
    let x = b.same(Op::Unary(Unary::HardSwish), &[x]);
    let mean = Op::Reduce { reduce: Reduce::Mean, axes: vec![2, 3], keep_dims: true };
    let gate = b.node(mean, &[x], &[2, 8, 1, 1]);
    let gate = b.conv(gate, 4, conv_attrs(1, 1));
    let gate = b.same(RELU, &[gate]);
    let gate = b.conv(gate, 8, conv_attrs(1, 1));
    let gate = b.same(Op::Unary(Unary::HardSigmoid(1.0 / 6.0, 0.5)), &[gate]);
    let y = b.same(MUL, &[x, gate]);
    let y = b.conv(y, 6, conv_attrs(1, 1));
    let flat = b.node(Op::Reshape, &[y], &[2, 54]);
    let weights = b.constant(&[54, 3]);
    let out = b.node(PRODUCT, &[flat, weights], &[2, 3]);
    b.check("gates", &[out]);
}

#[test]
fn inputs_and_outputs_are_used_in_place() {
    let mut b = Builder::new();
    let x = b.input(&[4, 6]);
    let weights = b.constant(&[6, 8]);
    let y = b.node(PRODUCT, &[x, weights], &[4, 8]);
    let y = b.node(Op::Reshape, &[y], &[2, 16]);
    b.output(y);
    let plan = compiled(&b.graph, target(Isa::Avx512, 2, 0)).plan;
    assert_eq!(plan.arena_bytes(), 0);
    let kernel = &plan.kernels()[0];
    assert_eq!((kernel.reads[0].place, kernel.writes[0].place), (Place::Input(0), Place::Output(0)));
}
