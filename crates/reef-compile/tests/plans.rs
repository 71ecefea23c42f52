//! Properties of whole plans: memory, stages, blocks, names, errors, host kernels.

mod harness;

use std::collections::HashMap;
use std::sync::Arc;

use harness::{Builder, compiled, conv_attrs, cutter, plan, target};
use reef_compile::{CompileOptions, Compiled, compile, interpret};
use reef_cpu::CpuCutter;
use reef_graph::{Binary, ConvAttrs, DType, Graph, HostOp, Op, PoolAttrs, PoolKind, Reduce, Shape, Tensor};
use reef_graph::{Unary, ValueId};
use reef_plan::{HostFault, HostKernel, HostState, Isa, Plan, Restart, TensorSpec, WeightStore};

const RELU: Op = Op::Unary(Unary::Relu);
const PRODUCT: Op = Op::MatMul { trans_a: false, trans_b: false };

/// Full-size networks whose constants are shared, because only their shapes matter.
#[derive(Default)]
struct Network {
    graph: Graph,
    constants: HashMap<Vec<usize>, Tensor>,
}

impl Network {
    fn constant(&mut self, shape: &[usize]) -> ValueId {
        let zeros = || Tensor::f32(shape.to_vec(), &vec![0.0; shape.iter().product()]);
        let tensor = self.constants.entry(shape.to_vec()).or_insert_with(zeros).clone();
        self.graph.add_const("c", tensor)
    }

    fn node(&mut self, op: Op, inputs: &[ValueId], shape: &[usize]) -> ValueId {
        let name = format!("n{}", self.graph.nodes.len());
        self.graph.add_node(name, op, inputs, DType::F32, Shape::new(shape))
    }

    fn conv(&mut self, x: ValueId, outputs: usize, kernel: usize, stride: usize) -> ValueId {
        let dims = self.graph.value(x).shape.clone();
        let weights = self.constant(&[outputs, dims[1], kernel, kernel]);
        let bias = self.constant(&[outputs]);
        let shape = [dims[0], outputs, dims[2].div_ceil(stride), dims[3].div_ceil(stride)];
        self.node(Op::Conv(conv_attrs(kernel, stride)), &[x, weights, bias], &shape)
    }

    fn relu(&mut self, x: ValueId) -> ValueId {
        let shape = self.graph.value(x).shape.clone();
        self.node(RELU, &[x], &shape)
    }

    fn pool(&mut self, x: ValueId, kernel: usize) -> ValueId {
        let dims = self.graph.value(x).shape.clone();
        let pad = usize::from(kernel == 3);
        let attrs = PoolAttrs {
            kind: PoolKind::Max,
            kernel: [kernel; 2],
            strides: [2; 2],
            pads: [pad; 4],
            dilations: [1; 2],
        };
        self.node(Op::Pool(attrs), &[x], &[dims[0], dims[1], dims[2] / 2, dims[3] / 2])
    }

    fn dense(&mut self, x: ValueId, outputs: usize) -> ValueId {
        let dims = self.graph.value(x).shape.clone();
        let (weights, bias) = (self.constant(&[dims[1], outputs]), self.constant(&[outputs]));
        let y = self.node(PRODUCT, &[x, weights], &[dims[0], outputs]);
        self.node(Op::Binary(Binary::Add), &[y, bias], &[dims[0], outputs])
    }
}

fn vgg19() -> Graph {
    let mut net = Network::default();
    let mut x = net.graph.add_input("x", DType::F32, Shape::from([1, 3, 224, 224]));
    for (channels, layers) in [(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)] {
        for _ in 0..layers {
            x = net.conv(x, channels, 3, 1);
            x = net.relu(x);
        }
        x = net.pool(x, 2);
    }
    x = net.node(Op::Reshape, &[x], &[1, 25088]);
    // The first dense layer is narrower than the real one, to keep the test light.
    for outputs in [512, 4096, 1000] {
        x = net.dense(x, outputs);
    }
    net.graph.add_output("y", x);
    net.graph
}

fn resnet152() -> Graph {
    let mut net = Network::default();
    let x = net.graph.add_input("x", DType::F32, Shape::from([1, 3, 224, 224]));
    let x = net.conv(x, 64, 7, 2);
    let x = net.relu(x);
    let mut x = net.pool(x, 3);
    for (width, blocks, stride) in [(64, 3, 1), (128, 8, 2), (256, 36, 2), (512, 3, 2)] {
        for block in 0..blocks {
            let stride = if block == 0 { stride } else { 1 };
            let y = net.conv(x, width, 1, 1);
            let y = net.relu(y);
            let y = net.conv(y, width, 3, stride);
            let y = net.relu(y);
            let y = net.conv(y, 4 * width, 1, 1);
            let shortcut = if block == 0 { net.conv(x, 4 * width, 1, stride) } else { x };
            let shape = net.graph.value(y).shape.clone();
            let sum = net.node(Op::Binary(Binary::Add), &[y, shortcut], &shape);
            x = net.relu(sum);
        }
    }
    let mean = Op::Reduce { reduce: Reduce::Mean, axes: vec![2, 3], keep_dims: false };
    let y = net.node(mean, &[x], &[1, 2048]);
    let y = net.dense(y, 1000);
    net.graph.add_output("y", y);
    net.graph
}

#[test]
fn large_networks_need_little_more_than_their_largest_live_set() {
    for (graph, kernels) in [(vgg19(), 26), (resnet152(), 159)] {
        for window in [0, 4] {
            let Compiled { plan, report } = compiled(&graph, target(Isa::Avx512, 2, window));
            let (arena, live) = (report.memory.ephemeral_bytes, report.memory.largest_live_set_bytes);
            assert!(arena as f64 <= 1.3 * live as f64, "{arena} for {live}");
            assert_eq!(plan.kernels().len(), kernels);
            assert!(plan.scratch_bytes() <= 1 << 20);
        }
    }
}

#[test]
fn blocks_of_large_convolutions_are_short_and_fill_the_compute_units() {
    let report = compiled(&resnet152(), target(Isa::Avx512, 4, 0)).report;
    for group in report.groups.iter().filter(|group| group.kind == "conv") {
        let block_us = group.estimate_ns as f64 / 1e3 / group.blocks as f64;
        assert!(group.blocks >= 4, "{group:?}");
        assert!((5.0..250.0).contains(&block_us), "{block_us} us: {group:?}");
    }
}

fn small() -> Builder {
    let mut b = Builder::new();
    let x = b.input(&[1, 2, 4, 4]);
    let conv = b.conv(x, 4, conv_attrs(3, 1));
    let relu = b.same(RELU, &[conv]);
    let mean = Op::Reduce { reduce: Reduce::Mean, axes: vec![2, 3], keep_dims: false };
    let mean = b.node(mean, &[relu], &[1, 4]);
    let weights = b.constant(&[4, 3]);
    let y = b.node(PRODUCT, &[mean, weights], &[1, 3]);
    let y = b.same(Op::Softmax { axis: 1 }, &[y]);
    b.output(y);
    b
}

/// The plan's dump in lines of 100 characters, without the keys of constants: random numbers may differ in
/// the last bit from one machine's mathematical library to another's.
fn folded(plan: &Plan) -> String {
    let mut text = String::new();
    for line in plan.to_string().lines() {
        let mut column = 0;
        for word in line.split_inclusive(' ').filter(|word| word.trim_end().len() != 32) {
            if column + word.len() > 100 {
                text = format!("{}\n      ", text.trim_end());
                column = 6;
            }
            text.push_str(word);
            column += word.len();
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_plan_of_a_small_convolutional_network() {
    insta::assert_snapshot!(folded(&plan(&small().graph)), @r#"
    plan test for cpu/avx2/2 cus/window 0
    in0 x0 f32[1,2,4,4]
    out0 y0 f32[1,3]
    w0 ConvPanels { groups: 1, width: 16 } 1152 bytes
    w1 Raw 16 bytes
    w2 MatrixPanels { width: 16, transposed: false } 256 bytes
    arena 384 bytes, scratch 8192 bytes
    stage 0
      elementwise 1 blocks: arena[256+128] <- in0[0+128]
        Elementwise(ElementwiseSpec { dims: [16, 2], inputs: [ElemInput { dtype: F32, offset: 0,
          strides: [1, 16] }], program: [Load(0)], out_dtype: F32, out_strides: [2, 1], tile: 32 })
          restart Safe
    stage 1
      conv 1 blocks: arena[0+256] <- arena[256+128] w0 w1
        Conv(ConvSpec { batch: 1, in_hw: [4, 4], in_c: 2, in_pixel_stride: 2, out_hw: [4, 4], out_c: 4,
          out_pixel_stride: 4, kernel: [3, 3], strides: [1, 1], pads: [1, 1], dilations: [1, 1],
          groups: 1, panel_width: 16, normed: false, epilogue: Epilogue { bias: true,
          residual_pixel_stride: None, activation: Some(Relu) }, tile_rows: 16, tile_columns: 16,
          columns_inner: true, splits: 1 }) restart Safe
    stage 2
      reduce 1 blocks: arena[256+16] <- arena[0+256]
        Reduce(ReduceSpec { reduce: Mean, kept: [LoopDim { extent: 4, in_stride: 1, out_stride: 1 }],
          reduced: [LoopDim { extent: 16, in_stride: 4, out_stride: 0 }], tile: 4 }) restart Safe
    stage 3
      conv 1 blocks: arena[0+12] <- arena[256+16] w2
        Conv(ConvSpec { batch: 1, in_hw: [1, 1], in_c: 4, in_pixel_stride: 4, out_hw: [1, 1], out_c: 3,
          out_pixel_stride: 3, kernel: [1, 1], strides: [1, 1], pads: [0, 0], dilations: [1, 1],
          groups: 1, panel_width: 16, normed: false, epilogue: Epilogue { bias: false,
          residual_pixel_stride: None, activation: None }, tile_rows: 1, tile_columns: 16,
          columns_inner: true, splits: 1 }) restart Safe
    stage 4
      softmax 1 blocks: out0[0+12] <- arena[0+12]
        Softmax(SoftmaxSpec { rows: [LoopDim { extent: 1, in_stride: 0, out_stride: 0 }], axis: LoopDim
          { extent: 3, in_stride: 1, out_stride: 1 }, log: false, tile: 1 }) restart Safe
    "#);
}

#[test]
fn the_report_of_a_small_network() {
    insta::assert_snapshot!(compiled(&small().graph, target(Isa::Avx2, 2, 0)).report, @r#"
    test
    input x0 f32[1,2,4,4]
    output y0 f32[1,3]
    5 operations, 88 parameters, 0.000 GFLOP
    persistent 1424 bytes, scratch 8192 bytes per compute unit
    ephemeral 384 bytes, largest live set 384 bytes
    5 kernels in 5 stages
         0 elementwise     1 blocks      0 us  conv0+relu: layout
         1 conv            1 blocks      0 us  conv0+bias+relu
         2 reduce          1 blocks      0 us  reduce2
         3 conv            1 blocks      0 us  matmul3
         4 softmax         1 blocks      0 us  softmax4
    "#);
}

#[test]
fn the_plan_of_a_gated_row() {
    let mut b = Builder::new();
    let x = b.input(&[2, 3, 8]);
    let weights = b.constant(&[8, 8]);
    let y = b.node(PRODUCT, &[x, weights], &[2, 3, 8]);
    let y = b.same(Op::Unary(Unary::Silu), &[y]);
    let gate = b.same(Op::Unary(Unary::Sigmoid), &[x]);
    let y = b.same(Op::Binary(Binary::Mul), &[y, gate]);
    let scale = b.constant(&[8]);
    let y = b.same(Op::LayerNorm { axis: 2, epsilon: 1e-5 }, &[y, scale]);
    b.output(y);
    insta::assert_snapshot!(folded(&plan(&b.graph)), @r#"
    plan test for cpu/avx2/2 cus/window 0
    in0 x0 f32[2,3,8]
    out0 y0 f32[2,3,8]
    w0 MatrixPanels { width: 16, transposed: false } 512 bytes
    w1 Raw 32 bytes
    arena 384 bytes, scratch 20480 bytes
    stage 0
      conv 1 blocks: arena[0+192] <- in0[0+192] w0
        Conv(ConvSpec { batch: 1, in_hw: [1, 6], in_c: 8, in_pixel_stride: 8, out_hw: [1, 6], out_c: 8,
          out_pixel_stride: 8, kernel: [1, 1], strides: [1, 1], pads: [0, 0], dilations: [1, 1],
          groups: 1, panel_width: 16, normed: false, epilogue: Epilogue { bias: false,
          residual_pixel_stride: None, activation: Some(Silu) }, tile_rows: 6, tile_columns: 16,
          columns_inner: true, splits: 1 }) restart Safe
    stage 1
      elementwise 1 blocks: arena[192+192] <- in0[0+192] arena[0+192]
        Elementwise(ElementwiseSpec { dims: [48], inputs: [ElemInput { dtype: F32, offset: 0, strides:
          [1] }, ElemInput { dtype: F32, offset: 0, strides: [1] }], program: [Load(0), Unary(Sigmoid,
          0), Load(1), Binary(Mul, 2, 1)], out_dtype: F32, out_strides: [1], tile: 48 }) restart Safe
    stage 2
      layernorm 1 blocks: out0[0+192] <- arena[192+192] w1
        LayerNorm(LayerNormSpec { rows: 6, len: 8, epsilon: 1e-5, shift: false, residual: false, tile:
          6 }) restart Safe
    "#);
}

#[test]
fn names_do_not_change_the_plan() {
    let first = small().graph;
    let mut second = small().graph;
    for (index, node) in second.nodes.iter_mut().enumerate() {
        node.name = format!("other {index}");
    }
    for value in second.values.iter_mut().filter(|value| value.name != "x0") {
        value.name = "other".into();
    }
    assert_eq!(plan(&first).hash(), plan(&second).hash());
    assert_ne!(plan(&first).hash(), compiled(&first, target(Isa::Portable, 2, 0)).plan.hash());
}

#[test]
fn plans_of_one_model_share_their_constants() {
    let graph = small().graph;
    let store = Arc::new(WeightStore::new());
    let options = CompileOptions::default();
    let first = compile(&graph, &[], &store, &cutter(Isa::Avx2, 1), &options).unwrap();
    let bytes = store.packed_bytes();
    compile(&graph, &[], &store, &CpuCutter::new(target(Isa::Avx2, 8, 2)), &options).unwrap();
    assert_eq!(store.packed_bytes(), bytes);
    assert_eq!(first.weight_bytes(), bytes);
}

fn error(b: Builder) -> String {
    let store = Arc::new(WeightStore::new());
    let options = CompileOptions::default();
    compile(&b.graph, &[], &store, &cutter(Isa::Avx2, 2), &options).unwrap_err().to_string()
}

#[test]
fn errors_name_node_operator_and_reason() {
    let mut b = Builder::new();
    let (x, w) = (b.typed_input(DType::F16, &[1, 2, 4, 4]), b.typed_input(DType::F16, &[3, 2, 1, 1]));
    let attrs = ConvAttrs { pads: [0; 4], ..conv_attrs(1, 1) };
    let y = b.node(Op::Conv(attrs.clone()), &[x, w], &[1, 3, 4, 4]);
    b.output(y);
    assert_eq!(error(b), "node conv0 (Conv): computes in f32, operand x0 is f16");

    let mut b = Builder::new();
    let (x, w) = (b.input(&[1, 2, 4, 4]), b.input(&[3, 2, 1, 1]));
    let y = b.node(Op::Conv(attrs), &[x, w], &[1, 3, 4, 4]);
    b.output(y);
    assert_eq!(error(b), "node conv0 (Conv): the weights are computed, not constant");

    for (dtype, function, reason) in
        [(DType::F64, Unary::BitNot, "BitNot of f64"), (DType::I64, Unary::Exp, "Exp of i64")]
    {
        let mut b = Builder::new();
        let x = b.typed_input(dtype, &[3]);
        let y = b.same(Op::Unary(function), &[x]);
        b.output(y);
        assert_eq!(error(b), format!("node unary0 (Unary): {reason}"));
    }

    let mut b = Builder::new();
    let x = b.input(&[3]);
    let y = b.same(Op::Host(HostOp { index: 0, operators: "LSTM".into() }), &[x]);
    b.output(y);
    assert_eq!(error(b), "node host0 (Host): there is no host kernel 0");

    let mut b = Builder::new();
    b.input(&[3]);
    assert_eq!(error(b), "1 inputs and 0 outputs");
}

/// Whatever has no element to compute is one kernel that nothing reads: a plan always has a stage.
#[test]
fn a_plan_without_work_has_one_stage() {
    let mut b = Builder::new();
    let x = b.input(&[0, 4]);
    let y = b.same(Op::Unary(Unary::Relu), &[x]);
    b.output(y);
    b.output(x);
    let plan = harness::plan(&b.graph);
    assert_eq!((plan.stages().len(), plan.blocks(), plan.arena_bytes()), (1, 1, 64));
    assert_eq!(plan.kernels()[0].name, "nothing to compute");
    let outputs = interpret::run(&plan, &harness::inputs(&b.graph, 1)).unwrap();
    assert!(outputs.iter().all(|output| output.shape()[..] == [0, 4]));
}

/// Even a host kernel: most libraries divide by an extent somewhere.
#[test]
fn host_kernels_that_write_nothing_are_dropped() {
    let empty = || TensorSpec { dtype: DType::F32, shape: Shape::from([0, 2]) };
    let host: Arc<dyn HostKernel> = Arc::new(Doubling([empty()], [empty(), empty()]));
    let mut b = Builder::new();
    let x = b.input(&[0, 2]);
    let op = Op::Host(HostOp { index: 0, operators: "Doubling".into() });
    let outputs = vec![(DType::F32, Shape::from([0, 2])); 2];
    b.graph.add_node_multi("host", op, &[x], outputs).into_iter().for_each(|id| b.output(id));
    let store = Arc::new(WeightStore::new());
    let plan = compile(&b.graph, &[host], &store, &cutter(Isa::Avx2, 2), &CompileOptions::default()).unwrap();
    assert!(plan.kernels().iter().all(|kernel| kernel.restart == Restart::Safe));
}

/// Doubles its input and also gives the sum.
#[derive(Debug)]
struct Doubling([TensorSpec; 1], [TensorSpec; 2]);

impl HostKernel for Doubling {
    fn name(&self) -> &str {
        "Doubling"
    }
    fn inputs(&self) -> &[TensorSpec] {
        &self.0
    }
    fn outputs(&self) -> &[TensorSpec] {
        &self.1
    }
    fn new_state(&self) -> Result<Box<dyn HostState>, HostFault> {
        Ok(Box::new(DoublingState))
    }
}

struct DoublingState;

impl HostState for DoublingState {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), HostFault> {
        let values: &[f32] = bytemuck::cast_slice(inputs[0]);
        let doubled: Vec<f32> = values.iter().map(|value| 2.0 * value).collect();
        outputs[0].copy_from_slice(bytemuck::cast_slice(&doubled));
        outputs[1].copy_from_slice(&values.iter().sum::<f32>().to_le_bytes());
        Ok(())
    }
}

#[test]
fn host_kernels_get_dense_operands_and_never_restart() {
    let spec = |dims: &[usize]| TensorSpec { dtype: DType::F32, shape: Shape::new(dims) };
    let host: Arc<dyn HostKernel> =
        Arc::new(Doubling([spec(&[1, 2, 4, 4])], [spec(&[1, 2, 4, 4]), spec(&[])]));
    let mut b = Builder::new();
    let x = b.input(&[1, 3, 4, 4]);
    let y = b.conv(x, 2, conv_attrs(3, 1));
    let op = Op::Host(HostOp { index: 0, operators: "Doubling".into() });
    let outputs = vec![(DType::F32, Shape::from([1, 2, 4, 4])), (DType::F32, Shape::from([]))];
    let made = b.graph.add_node_multi("host", op, &[y], outputs);
    let z = b.same(Op::Binary(Binary::Add), &[made[0], made[1]]);
    [y, z, made[1]].into_iter().for_each(|id| b.output(id));
    let store = Arc::new(WeightStore::new());
    let plan = compile(&b.graph, &[host], &store, &cutter(Isa::Avx2, 2), &CompileOptions::default()).unwrap();
    let never: Vec<&str> = plan
        .kernels()
        .iter()
        .filter(|kernel| kernel.restart == Restart::Never)
        .map(|kernel| kernel.name.as_str())
        .collect();
    assert_eq!(never, ["host (host Doubling)"]);
    let outputs = interpret::run(&plan, &harness::inputs(&b.graph, 1)).unwrap();
    let (y, z): (&[f32], &[f32]) = (outputs[0].values(), outputs[1].values());
    let sum: f32 = y.iter().sum();
    assert!(y.iter().zip(z).all(|(y, z)| (2.0 * y + sum - z).abs() < 1e-4));
}

/// The compiler knows no device, so none of its limits: neither of a CPU, nor of a board.
#[test]
fn plans_for_many_units_mean_the_same() {
    use reef_compile::samples;
    for sample in samples::all() {
        for isa in [Isa::Portable, Isa::Avx512] {
            let plan = sample.plan(&cutter(isa, 256)).unwrap();
            let outputs = interpret::run(&plan, &sample.inputs).unwrap();
            let bytes: Vec<_> =
                outputs.iter().map(|y| reef_base::Buffer::copy_from(y.bytes().as_slice())).collect();
            sample.check(&bytes).unwrap();
        }
    }
}
