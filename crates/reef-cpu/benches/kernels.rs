//! Speed of block kernels on one thread: `cargo bench -p reef-cpu --bench kernels [-- FILTER]`.
//!
//! Every shape runs all its blocks many times; the fastest run counts, because other work on the machine only
//! ever slows one down. REEF_ISA picks the instruction set; all that the machine has by default.
#![allow(dead_code, missing_docs, unused_imports)]

#[path = "../src/context.rs"]
mod context;
#[path = "../src/cut/mod.rs"]
mod cut;
#[path = "../src/kernels/mod.rs"]
mod kernels;
#[path = "../src/sync.rs"]
mod sync;

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use context::{Bases, BlockContext, BlockEnd, Demand, Poll};
use cut::{CpuCutter, panel_width};
use reef_base::{AlignedBytes, Rng};
use reef_graph::{
    Binary, Cell as RecurrentCell, DType, GateFunction, PoolKind, Reduce, Shape, Taps, Tensor, Unary,
};
use reef_plan::cut::{Cutter, Work};
use reef_plan::{
    ConvSpec, Cost, DepthwiseSpec, ElemInput, ElemOp, ElementwiseSpec, Epilogue, Factors, IntegerConvSpec,
    IntegerEpilogue, IoSpec, Isa, Kernel, KernelSpec, LayerNormSpec, LoopDim, MatMulSpec, Packing, Per,
    Place, Plan, PlanParts, PoolSpec, RecurrentSpec, ReduceSpec, Region, ResampleSpec, Restart, Scaled,
    SoftmaxSpec, Target, WeightStore,
};
use sync::AtomicU64;

/// Never wants the compute unit. When it is asked at all (a poll threshold above the word), it measures the
/// longest time between two polls.
struct Gaps {
    last: Cell<Instant>,
    longest: Cell<Duration>,
}

impl Demand for Gaps {
    fn take(&self) -> bool {
        let now = Instant::now();
        self.longest.set(self.longest.get().max(now - self.last.get()));
        self.last.set(now);
        false
    }
}

/// What was measured: seconds of the fastest run of all blocks; the longest time between polls, in the run
/// where it was shortest.
struct Measured {
    seconds: f64,
    poll_us: f64,
}

/// A kernel with buffers to run on.
struct Setup {
    plan: Plan,
    input: AlignedBytes,
    output: AlignedBytes,
    scratch: AlignedBytes,
}

impl Setup {
    /// One kernel of `spec` from input 0 (`reads` are parts of it, in bytes) and weights to output 0.
    fn new(
        spec: KernelSpec,
        isa: Isa,
        parts: &[usize],
        output: usize,
        weights: &[(Tensor, Packing)],
    ) -> Setup {
        let input: usize = parts.iter().sum();
        let store = Arc::new(WeightStore::new());
        let weights: Vec<_> = weights.iter().map(|(t, packing)| store.insert(t, *packing)).collect();
        let mut reads = vec![];
        for (index, bytes) in parts.iter().enumerate() {
            reads.push(Region::dense(Place::Input(0), parts[..index].iter().sum(), *bytes));
        }
        for (index, weight) in weights.iter().enumerate() {
            reads.push(Region::dense(Place::Weight(index as u32), 0, weight.bytes));
        }
        let writes = vec![Region::dense(Place::Output(0), 0, output)];
        let io = |bytes: usize| IoSpec { name: "t".into(), dtype: DType::U8, shape: Shape::from([bytes]) };
        let kernel = Kernel {
            name: "bench".into(),
            spec,
            reads,
            writes,
            restart: Restart::Safe,
            cost: Cost::default(),
        };
        let parts = PlanParts {
            name: "bench".into(),
            target: Target::cpu(isa, 1),
            inputs: vec![io(input)],
            outputs: vec![io(output)],
            weights,
            store,
            host_kernels: vec![],
            stages: vec![vec![kernel]],
            arena_bytes: 0,
        };
        let plan = Plan::cut_by(&CpuCutter::new(parts.target), parts).expect("a valid plan");
        let mut data = AlignedBytes::zeroed(input);
        let mut rng = Rng::new(1);
        data.typed_mut::<f32>().iter_mut().for_each(|x| *x = rng.unit_f64() as f32 - 0.5);
        let scratch = AlignedBytes::zeroed(plan.scratch_bytes());
        Setup { plan, input: data, output: AlignedBytes::zeroed(output), scratch }
    }

    /// Runs all blocks many times, with polls as they usually are, then a few times with polls that measure.
    fn measure(&mut self, isa: Isa) -> Measured {
        let kernel = kernels::prepare(&self.plan.kernels()[0], &self.plan, isa);
        let store = self.plan.store();
        let packed: Vec<Arc<AlignedBytes>> =
            self.plan.weights().iter().map(|w| store.get(w.key, w.packing).expect("packed")).collect();
        let weights: Vec<*const u8> = packed.iter().map(|bytes| bytes.as_ptr()).collect();
        let (word, cancel) = (AtomicU64::new(0), AtomicU64::new(0));
        let (inputs, outputs) = ([self.input.as_ptr()], [self.output.as_mut_ptr()]);
        let gaps = Gaps { last: Cell::new(Instant::now()), longest: Cell::default() };
        let scratch = self.scratch.as_mut_ptr();
        let blocks = self.plan.blocks() as u32;
        // A threshold of 0 concerns nobody; 1 asks `gaps` at every poll.
        let run_all = |threshold: u64| {
            let begin = Instant::now();
            gaps.last.set(begin);
            for block in 0..blocks {
                let context = BlockContext {
                    bases: Bases { inputs: &inputs, outputs: &outputs, arena: std::ptr::null_mut() },
                    weights: &weights,
                    scratch,
                    poll: Poll { word: &word, threshold, cancel: &cancel, demand: &gaps },
                    host: None,
                };
                // SAFETY: the buffers are those of the plan, and only this thread uses them.
                #[allow(unsafe_code)]
                let end = unsafe { kernel.run(&context, block) };
                assert_eq!(end, BlockEnd::Done);
            }
            begin.elapsed().as_secs_f64()
        };
        let (start, mut seconds, mut runs) = (Instant::now(), f64::INFINITY, 0);
        while runs < 5 || start.elapsed() < Duration::from_millis(250) {
            seconds = run_all(0).min(seconds);
            runs += 1;
        }
        let mut poll_us = f64::INFINITY;
        for _ in 0..20 {
            gaps.longest.set(Duration::ZERO);
            run_all(1);
            poll_us = poll_us.min(gaps.longest.get().as_secs_f64() * 1e6);
        }
        Measured { seconds, poll_us }
    }
}

/// Name, batch, input side, input channels, output channels, window, stride.
type ConvShape = (&'static str, usize, usize, usize, usize, usize, usize);

const CONVS: &[ConvShape] = &[
    ("conv 7x7/2 3->64 @224", 1, 224, 3, 64, 7, 2),
    ("conv 3x3 3->64 @224", 1, 224, 3, 64, 3, 1),
    ("conv 3x3 64->64 @56", 1, 56, 64, 64, 3, 1),
    ("conv 3x3 128->128 @28", 1, 28, 128, 128, 3, 1),
    ("conv 3x3 256->256 @14", 1, 14, 256, 256, 3, 1),
    ("conv 3x3 512->512 @7", 1, 7, 512, 512, 3, 1),
    ("conv 3x3 512->512 @14", 1, 14, 512, 512, 3, 1),
    ("conv 3x3 256->256 @56", 1, 56, 256, 256, 3, 1),
    ("conv 1x1 64->256 @56", 1, 56, 64, 256, 1, 1),
    ("conv 1x1 256->64 @56", 1, 56, 256, 64, 1, 1),
    ("conv 1x1 512->128 @28", 1, 28, 512, 128, 1, 1),
    ("conv 1x1 1024->256 @14", 1, 14, 1024, 256, 1, 1),
    ("conv 1x1 512->2048 @7", 1, 7, 512, 2048, 1, 1),
    ("conv 1x1/2 256->512 @56", 1, 56, 256, 512, 1, 2),
    ("linear 128x384->1536", 128, 1, 384, 1536, 1, 1),
    ("linear 1x2048->1000", 1, 1, 2048, 1000, 1, 1),
    ("linear 1x4096->4096", 1, 1, 4096, 4096, 1, 1),
    ("linear 4x4096->4096", 4, 1, 4096, 4096, 1, 1),
];

fn conv_spec(shape: &ConvShape, isa: Isa, tile: [usize; 2]) -> ConvSpec {
    let &(_, batch, side, in_c, out_c, window, stride) = shape;
    let pad = window / 2;
    let out = (side + 2 * pad - window) / stride + 1;
    ConvSpec {
        batch,
        in_hw: [side, side],
        in_c,
        in_pixel_stride: in_c,
        out_hw: [out, out],
        out_c,
        out_pixel_stride: out_c,
        kernel: [window, window],
        strides: [stride, stride],
        pads: [pad, pad],
        dilations: [1, 1],
        groups: 1,
        panel_width: panel_width(isa),
        normed: false,
        epilogue: Epilogue { bias: true, residual_pixel_stride: None, activation: Some(Unary::Relu) },
        tile_rows: tile[0],
        tile_columns: tile[1],
        columns_inner: true,
        splits: 1,
    }
}

fn bench_conv(shape: &ConvShape, isa: Isa, tile: [usize; 2]) {
    let spec = conv_spec(shape, isa, tile);
    let mut rng = Rng::new(2);
    let mut random = |dims: Vec<usize>| {
        let count: usize = dims.iter().product();
        Tensor::f32(dims, &(0..count).map(|_| rng.unit_f64() as f32 - 0.5).collect::<Vec<_>>())
    };
    let weights = random(vec![spec.out_c, spec.in_c, spec.kernel[0], spec.kernel[1]]);
    let bias = random(vec![spec.out_c]);
    let packing = Packing::ConvPanels { groups: 1, width: panel_width(isa) as u32 };
    let input = spec.batch * spec.in_hw[0] * spec.in_hw[1] * spec.in_c * 4;
    let output = spec.rows() * spec.out_c * 4;
    let (rows, depth, columns, blocks) = (spec.rows(), spec.depth(), spec.out_c, spec.blocks());
    let mut setup = Setup::new(
        KernelSpec::Conv(spec),
        isa,
        &[input],
        output,
        &[(weights, packing), (bias, Packing::Raw)],
    );
    let Measured { seconds, poll_us } = setup.measure(isa);
    let flops = 2.0 * rows as f64 * depth as f64 * columns as f64;
    println!(
        "{:24} {isa:8} tile {:4}x{:<4} {blocks:5} blocks of {:6.1} us {:7.1} GFLOP/s {:5.1} GB/s, \
         poll {:4.1} us",
        shape.0,
        tile[0],
        tile[1],
        seconds / blocks as f64 * 1e6,
        flops / seconds / 1e9,
        (depth * columns * 4) as f64 / seconds / 1e9,
        poll_us,
    );
}

/// A kernel that is bound by memory: its name, what it computes, bytes of its inputs and of its output.
type Mover = (&'static str, KernelSpec, Vec<usize>, usize);

fn elementwise(
    dims: &[usize],
    inputs: &[&[isize]],
    program: &[ElemOp],
    tile: usize,
) -> (KernelSpec, Vec<usize>, usize) {
    let extent = |strides: &[isize]| {
        let last: isize = strides.iter().zip(dims).map(|(s, d)| s * (*d as isize - 1)).sum();
        (last as usize + 1) * 4
    };
    let mut out_strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        out_strides[axis - 1] = out_strides[axis] * dims[axis];
    }
    let input = |strides: &&[isize]| ElemInput { dtype: DType::F32, offset: 0, strides: strides.to_vec() };
    let spec = ElementwiseSpec {
        dims: dims.to_vec(),
        inputs: inputs.iter().map(input).collect(),
        program: program.to_vec(),
        out_dtype: DType::F32,
        out_strides,
        tile,
    };
    let bytes = spec.elements() * 4;
    (KernelSpec::Elementwise(spec), inputs.iter().map(|strides| extent(strides)).collect(), bytes)
}

fn movers() -> Vec<Mover> {
    let mut movers = elementwise_movers();
    movers.extend(other_movers());
    movers
}

fn elementwise_movers() -> Vec<Mover> {
    let mut movers = vec![];
    let mut add = |name, (spec, inputs, output): (KernelSpec, Vec<usize>, usize)| {
        movers.push((name, spec, inputs, output));
    };
    let (load, unary) = (ElemOp::Load, |function, a| ElemOp::Unary(function, a));
    let sum_relu = [load(0), load(1), ElemOp::Binary(Binary::Add, 0, 1), unary(Unary::Relu, 2)];
    add("add+relu 56x56x256", elementwise(&[3136, 256], &[&[256, 1], &[256, 1]], &sum_relu, 16384));
    let affine = [
        load(0),
        load(1),
        ElemOp::Binary(Binary::Mul, 0, 1),
        load(2),
        ElemOp::Binary(Binary::Add, 2, 3),
        unary(Unary::Relu, 4),
    ];
    add("affine+relu 28x28x512", elementwise(&[784, 512], &[&[512, 1], &[0, 1], &[0, 1]], &affine, 16384));
    add("affine+relu 112x112x64", elementwise(&[12544, 64], &[&[64, 1], &[0, 1], &[0, 1]], &affine, 16384));
    for (name, function) in [
        ("gelu 128x1536", Unary::Gelu),
        ("tanh 128x1536", Unary::Tanh),
        ("exp 128x1536", Unary::Exp),
        ("log 128x1536", Unary::Log),
        ("silu 128x1536", Unary::Silu),
        ("sin 128x1536", Unary::Sin),
    ] {
        add(name, elementwise(&[128 * 1536], &[&[1]], &[load(0), unary(function, 0)], 16384));
    }
    add("nchw->nhwc 3x224x224", elementwise(&[50176, 3], &[&[1, 50176]], &[load(0)], 16384));
    add("nchw->nhwc 512x7x7", elementwise(&[49, 512], &[&[1, 49]], &[load(0)], 8192));
    add("nhwc->nchw 56x56x256", elementwise(&[256, 3136], &[&[1, 256]], &[load(0)], 16384));
    add("heads 128x12x32", elementwise(&[12, 128, 32], &[&[32, 384, 1]], &[load(0)], 16384));
    movers
}

/// A pooling of square images without padding: its specification, and bytes of its input and output.
fn pool(
    kind: PoolKind,
    [side, out]: [usize; 2],
    channels: usize,
    [kernel, stride]: [usize; 2],
    tile_rows: usize,
) -> (KernelSpec, Vec<usize>, usize) {
    let spec = PoolSpec {
        kind,
        dtype: DType::F32,
        batch: 1,
        channels,
        in_hw: [side; 2],
        in_pixel_stride: channels,
        out_hw: [out; 2],
        out_pixel_stride: channels,
        kernel: [kernel; 2],
        strides: [stride; 2],
        pads: [0; 4],
        dilations: [1; 2],
        tile_rows,
    };
    (KernelSpec::Pool(spec), vec![side * side * channels * 4], out * out * channels * 4)
}

fn other_movers() -> Vec<Mover> {
    let mut movers = vec![];
    let mut add = |name, (spec, inputs, output): (KernelSpec, Vec<usize>, usize)| {
        movers.push((name, spec, inputs, output));
    };
    add("maxpool 3/2 112x112x64", pool(PoolKind::Max, [112, 55], 64, [3, 2], 4));
    add("avgpool 7 7x7x2048", pool(PoolKind::AvgExcludePad, [7, 1], 2048, [7, 1], 1));
    add("avgpool 112 112x112x64", pool(PoolKind::AvgExcludePad, [112, 1], 64, [112, 1], 1));
    let axis = |extent, stride| LoopDim { extent, in_stride: stride, out_stride: stride };
    let softmax =
        |rows, len| SoftmaxSpec { rows: vec![axis(rows, len)], axis: axis(len, 1), log: false, tile: 64 };
    add("softmax 1536x128", (KernelSpec::Softmax(softmax(1536, 128)), vec![786_432], 786_432));
    add("softmax 16x30000", (KernelSpec::Softmax(softmax(16, 30_000)), vec![1_920_000], 1_920_000));
    let norm = LayerNormSpec { rows: 128, len: 384, epsilon: 1e-5, shift: true, residual: true, tile: 32 };
    let bytes = 128 * 384 * 4;
    add("layernorm 128x384", (KernelSpec::LayerNorm(norm), vec![bytes, 1536, 1536, bytes], bytes));
    let between = |output: usize| {
        let (first, share) = (output / 2, 0.25 + 0.5 * (output % 2) as f32);
        vec![(Some(first), 1.0 - share), (Some((first + 1).min(63)), share)]
    };
    let taps = Taps::new(64, 0.0, &(0..128).map(between).collect::<Vec<_>>()).expect("in range");
    let resample = |outer, inner| {
        let spec = ResampleSpec { taps: taps.clone(), outer, inner, tile_rows: 16, tile_columns: inner };
        (KernelSpec::Resample(spec), vec![outer * 64 * inner * 4], outer * 128 * inner * 4)
    };
    add("resample 64x64x128 to 64x128", resample(64, 128));
    add("resample 64x128x128 to 128x128", resample(1, 128 * 128));
    add("resample 3x64x64 to 3x64x128", resample(3 * 64, 1));
    let window = DepthwiseSpec {
        batch: 1,
        channels: 144,
        in_hw: [56, 56],
        in_pixel_stride: 144,
        out_hw: [56, 56],
        out_pixel_stride: 144,
        kernel: [3, 3],
        strides: [1, 1],
        pads: [1, 1],
        dilations: [1, 1],
        epilogue: Epilogue { bias: true, residual_pixel_stride: None, activation: Some(Unary::Relu) },
        tile_rows: 4,
    };
    let bytes = 56 * 56 * 144 * 4;
    add("depthwise 3x3 56x56x144", (KernelSpec::Depthwise(window), vec![bytes, 9 * 576, 576], bytes));
    let sum = ReduceSpec {
        reduce: Reduce::Mean,
        kept: vec![LoopDim { extent: 2048, in_stride: 1, out_stride: 1 }],
        reduced: vec![LoopDim { extent: 49, in_stride: 2048, out_stride: 0 }],
        tile: 512,
    };
    add("mean 49x2048", (KernelSpec::Reduce(sum), vec![49 * 8192], 8192));
    movers
}

fn bench_mover((name, spec, inputs, output): &Mover, isa: Isa) {
    let blocks = spec.blocks();
    let bytes = inputs.iter().sum::<usize>() + output;
    let Measured { seconds, poll_us } = Setup::new(spec.clone(), isa, inputs, *output, &[]).measure(isa);
    println!(
        "{name:24} {isa:8} {blocks:5} blocks of {:6.1} us {:6.2} ns/element {:5.1} GB/s, \
         poll {poll_us:4.1} us",
        seconds / blocks as f64 * 1e6,
        seconds * 1e9 / (output / 4) as f64,
        bytes as f64 / seconds / 1e9,
    );
}

/// Attention's products: batch, m, n, k, b transposed.
const PRODUCTS: &[(usize, usize, usize, usize, bool)] = &[
    (12, 128, 128, 32, true),
    (12, 128, 32, 128, false),
    (12, 512, 512, 64, true),
    (1, 256, 256, 256, false),
];

fn bench_product(&(batch, m, n, k, trans_b): &(usize, usize, usize, usize, bool), isa: Isa) {
    let spec = MatMulSpec {
        batch: vec![[batch, m * k, n * k, m * n]],
        m,
        n,
        k,
        a_strides: [k, 1],
        b_strides: if trans_b { [1, k] } else { [n, 1] },
        c_row_stride: n,
        alpha: 1.0,
        tile_rows: m,
        tile_columns: n.min(128),
    };
    let blocks = spec.blocks();
    let bytes = [batch * m * k * 4, batch * n * k * 4];
    let mut setup = Setup::new(KernelSpec::MatMul(spec), isa, &bytes, batch * m * n * 4, &[]);
    let Measured { seconds, poll_us } = setup.measure(isa);
    println!(
        "{:24} {isa:8} {blocks:5} blocks of {:6.1} us {:7.1} GFLOP/s, poll {poll_us:4.1} us",
        format!("product {batch}x{m}x{n}x{k}"),
        seconds / blocks as f64 * 1e6,
        2.0 * (batch * m * n * k) as f64 / seconds / 1e9,
    );
}

/// Cell, elements of a state, sequences, steps.
const RECURRENT: &[(RecurrentCell, usize, usize, usize)] = &[
    (RecurrentCell::Lstm { input_forget: false }, 64, 1, 32),
    (RecurrentCell::Lstm { input_forget: false }, 128, 1, 32),
    (RecurrentCell::Lstm { input_forget: false }, 128, 1, 1),
    (RecurrentCell::Lstm { input_forget: false }, 128, 8, 4),
    (RecurrentCell::Lstm { input_forget: false }, 512, 1, 8),
    (RecurrentCell::Lstm { input_forget: false }, 1024, 1, 4),
    (RecurrentCell::Gru { linear_before_reset: true }, 128, 1, 32),
    (RecurrentCell::Gru { linear_before_reset: false }, 128, 1, 32),
    (RecurrentCell::Rnn, 128, 1, 32),
];

fn bench_recurrent(&(cell, hidden, batch, steps): &(RecurrentCell, usize, usize, usize), isa: Isa) {
    use GateFunction::{Sigmoid, Tanh};
    let functions = match cell {
        RecurrentCell::Lstm { .. } => vec![Sigmoid, Tanh, Tanh],
        RecurrentCell::Gru { .. } => vec![Sigmoid, Tanh],
        RecurrentCell::Rnn => vec![Tanh],
    };
    let all = cell.gates() * hidden;
    let spec = RecurrentSpec {
        cell,
        functions,
        clip: None,
        reverse: false,
        steps,
        first: 0,
        all_steps: steps,
        batch,
        hidden,
        integers: None,
        computed: false,
        sums_row_stride: all,
        y_step_stride: batch * hidden,
        bias: false,
        reset_bias: false,
        peepholes: false,
        lengths: false,
        h_before: false,
        c_before: false,
        y: true,
        h_after: false,
        c_after: false,
        panel_width: panel_width(isa),
        tile_rows: batch,
    };
    let mut rng = Rng::new(2);
    let values: Vec<f32> = (0..all * hidden).map(|_| 0.2 * (rng.unit_f64() as f32 - 0.5)).collect();
    let weights = Tensor::f32([all, hidden, 1, 1], &values);
    let packing = Packing::ConvPanels { groups: cell.gates() as u32, width: panel_width(isa) as u32 };
    let (sums, y) = (steps * batch * all * 4, steps * batch * hidden * 4);
    let spec = KernelSpec::Recurrent(spec);
    let Measured { seconds, poll_us } = Setup::new(spec, isa, &[sums], y, &[(weights, packing)]).measure(isa);
    println!(
        "{:24} {isa:8} {:8.2} us/step {:7.1} GFLOP/s, poll {poll_us:4.1} us",
        format!("{} {hidden}, {batch}x{steps}", cell.name()),
        seconds * 1e6 / steps as f64,
        2.0 * (steps * batch * all * hidden) as f64 / seconds / 1e9,
    );
}

/// A layer of 8-bit integers: rows, depth, columns; with scales, bias and ReLU, to f32.
const INTEGERS: &[(usize, usize, usize)] = &[(512, 768, 3072), (128, 384, 1536), (1, 768, 3072)];

fn bench_integers(&(rows, depth, columns): &(usize, usize, usize), isa: Isa) {
    let shape = ("", 1, 1, depth, columns, 1, 1);
    let mut conv = conv_spec(&shape, isa, [1, 1]);
    (conv.in_hw, conv.out_hw, conv.epilogue) = ([1, rows], [1, rows], Epilogue::default());
    let scaled =
        Scaled { factors: Some(Per::Each), shift: true, activation: Some(Unary::Relu), ..Scaled::default() };
    let factors = Factors { types: [DType::U8, DType::I8], zeros: [None, None] };
    let epilogue = IntegerEpilogue { bias: false, scaled: Some(scaled) };
    let whole = KernelSpec::IntegerConv(IntegerConvSpec { conv, factors, epilogue }).whole();
    let flops = 2.0 * (rows * depth * columns) as f64;
    let spec = CpuCutter::new(Target::cpu(isa, 1)).cut(whole, &Work { flops, ..Work::default() });
    let KernelSpec::IntegerConv(IntegerConvSpec { conv, .. }) = &spec else { unreachable!("cut as it is") };
    let (tile, blocks) = ([conv.tile_rows, conv.tile_columns], spec.blocks());
    let bytes: Vec<u8> = (0..depth * columns).map(|at| (at * 7) as u8).collect();
    let weights = Tensor::from_slice(DType::I8, Shape::from([depth, columns]), &bytes);
    let floats = Tensor::f32([columns], &vec![0.5; columns]);
    let width = cut::integer::INTEGER_COLUMNS as u32;
    let packed = [
        (weights, Packing::IntegerPanels { groups: 1, width }),
        (floats.clone(), Packing::Raw),
        (floats, Packing::Raw),
    ];
    let mut setup = Setup::new(spec.clone(), isa, &[rows * depth], rows * columns * 4, &packed);
    let Measured { seconds, poll_us } = setup.measure(isa);
    println!(
        "{:24} {isa:8} tile {:4}x{:<4} {blocks:5} blocks of {:6.1} us {:7.1} GOP/s, poll {poll_us:4.1} us",
        format!("integers {rows}x{depth}x{columns}"),
        tile[0],
        tile[1],
        seconds / blocks as f64 * 1e6,
        flops / seconds / 1e9,
    );
}

/// The same layer in floats, cut as the cutter does.
fn bench_floats(&(rows, depth, columns): &(usize, usize, usize), isa: Isa) {
    let mut conv = conv_spec(&("", 1, 1, depth, columns, 1, 1), isa, [1, 1]);
    (conv.in_hw, conv.out_hw) = ([1, rows], [1, rows]);
    let flops = 2.0 * (rows * depth * columns) as f64;
    let work = Work { flops, ..Work::default() };
    let spec = CpuCutter::new(Target::cpu(isa, 1)).cut(KernelSpec::Conv(conv).whole(), &work);
    let blocks = spec.blocks();
    let weights = Tensor::f32([depth, columns], &vec![0.5; depth * columns]);
    let packing = Packing::MatrixPanels { width: panel_width(isa) as u32, transposed: false };
    let bias = (Tensor::f32([columns], &vec![0.5; columns]), Packing::Raw);
    let bytes = [rows * depth * 4];
    let mut setup = Setup::new(spec, isa, &bytes, rows * columns * 4, &[(weights, packing), bias]);
    let Measured { seconds, poll_us } = setup.measure(isa);
    println!(
        "{:24} {isa:8} {blocks:5} blocks of {:6.1} us {:7.1} GFLOP/s, poll {poll_us:4.1} us",
        format!("floats {rows}x{depth}x{columns}"),
        seconds / blocks as f64 * 1e6,
        flops / seconds / 1e9,
    );
}

fn isas() -> Vec<Isa> {
    let best = kernels::detect().expect("a known instruction set");
    if std::env::var("REEF_ISA").is_ok() {
        return vec![best];
    }
    [Isa::Avx512, Isa::Avx2, Isa::Portable].into_iter().filter(|isa| *isa <= best).collect()
}

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let sweep = std::env::var("SWEEP").is_ok();
    for isa in isas() {
        for shape in CONVS.iter().filter(|shape| shape.0.contains(&filter)) {
            let tiles: &[[usize; 2]] = if sweep {
                &[
                    [12, 64],
                    [24, 32],
                    [24, 128],
                    [24, 256],
                    [48, 32],
                    [48, 64],
                    [48, 128],
                    [96, 64],
                    [196, 32],
                ]
            } else {
                &[[48, 64]]
            };
            tiles.iter().for_each(|tile| bench_conv(shape, isa, *tile));
        }
        PRODUCTS.iter().filter(|_| "product".contains(&filter)).for_each(|shape| bench_product(shape, isa));
        let name = |shape: &(RecurrentCell, usize, usize, usize)| format!("recurrent {}", shape.0.name());
        let chosen = RECURRENT.iter().filter(|shape| name(shape).contains(&filter));
        chosen.for_each(|shape| bench_recurrent(shape, isa));
        for shape in INTEGERS.iter().filter(|_| "integers".contains(&filter)) {
            bench_integers(shape, isa);
            bench_floats(shape, isa);
        }
        movers().iter().filter(|mover| mover.0.contains(&filter)).for_each(|mover| bench_mover(mover, isa));
    }
}
