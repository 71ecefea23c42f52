//! Speed of block kernels on one thread: `cargo bench -p reef-cpu --bench kernels [-- FILTER]`.
//!
//! Every shape runs all its blocks many times; the fastest run counts, because other work on the machine only
//! ever slows one down. REEF_ISA picks the instruction set; all that the machine has by default.
#![allow(dead_code, missing_docs, unused_imports)]

#[path = "../src/context.rs"]
mod context;
#[path = "../src/kernels/mod.rs"]
mod kernels;
#[path = "../src/sync.rs"]
mod sync;

use std::sync::Arc;
use std::time::{Duration, Instant};

use context::{Bases, BlockContext, BlockEnd, Demand, Poll};
use reef_base::{AlignedBytes, Rng};
use reef_graph::{DType, Shape, Tensor, Unary};
use reef_plan::{
    ConvSpec, Cost, Epilogue, IoSpec, Isa, Kernel, KernelSpec, Packing, Place, Plan, PlanParts, Region,
    Restart, Target, WeightStore,
};
use sync::AtomicU64;

struct Never;

impl Demand for Never {
    fn take(&self) -> bool {
        false
    }
}

/// A kernel with buffers to run on.
struct Setup {
    plan: Plan,
    input: AlignedBytes,
    output: AlignedBytes,
    scratch: AlignedBytes,
}

impl Setup {
    /// One kernel of `spec` from input 0 (and weights) to output 0, sizes in bytes.
    fn new(spec: KernelSpec, isa: Isa, input: usize, output: usize, weights: &[(Tensor, Packing)]) -> Setup {
        let store = Arc::new(WeightStore::new());
        let weights: Vec<_> = weights.iter().map(|(t, packing)| store.insert(t, *packing)).collect();
        let mut reads = vec![Region::dense(Place::Input(0), 0, input)];
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
        let plan = Plan::new(PlanParts {
            name: "bench".into(),
            target: Target::cpu(isa, 1),
            inputs: vec![io(input)],
            outputs: vec![io(output)],
            weights,
            store,
            host_kernels: vec![],
            stages: vec![vec![kernel]],
            arena_bytes: 0,
        })
        .expect("a valid plan");
        let mut data = AlignedBytes::zeroed(input);
        let mut rng = Rng::new(1);
        data.typed_mut::<f32>().iter_mut().for_each(|x| *x = rng.unit_f64() as f32 - 0.5);
        let scratch = AlignedBytes::zeroed(plan.scratch_bytes());
        Setup { plan, input: data, output: AlignedBytes::zeroed(output), scratch }
    }

    /// The fastest run of all blocks, in seconds.
    fn fastest(&mut self, isa: Isa) -> f64 {
        let kernel = kernels::prepare(&self.plan.kernels()[0], &self.plan, isa);
        let packed: Vec<Arc<AlignedBytes>> = self
            .plan
            .weights()
            .iter()
            .map(|w| self.plan.store().get(w.key, w.packing).expect("packed"))
            .collect();
        let weights: Vec<*const u8> = packed.iter().map(|bytes| bytes.as_ptr()).collect();
        let (word, cancel) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
        let (inputs, outputs) = ([self.input.as_ptr()], [self.output.as_mut_ptr()]);
        let context = BlockContext {
            bases: Bases { inputs: &inputs, outputs: &outputs, arena: std::ptr::null_mut() },
            weights: &weights,
            scratch: self.scratch.as_mut_ptr(),
            poll: Poll { word: &word, threshold: 1, cancel: &cancel, demand: &Never },
            host: None,
        };
        let blocks = self.plan.blocks() as u32;
        let (start, mut best, mut runs) = (Instant::now(), f64::INFINITY, 0);
        while runs < 5 || start.elapsed() < Duration::from_millis(250) {
            let begin = Instant::now();
            for block in 0..blocks {
                // SAFETY: the buffers are those of the plan, and only this thread uses them.
                #[allow(unsafe_code)]
                let end = unsafe { kernel.run(&context, block) };
                assert_eq!(end, BlockEnd::Done);
            }
            best = best.min(begin.elapsed().as_secs_f64());
            runs += 1;
        }
        best
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
        panel_width: isa.panel_width(),
        epilogue: Epilogue { bias: true, residual_pixel_stride: None, activation: Some(Unary::Relu) },
        tile_rows: tile[0],
        tile_columns: tile[1],
        columns_inner: true,
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
    let packing = Packing::ConvPanels { groups: 1, width: isa.panel_width() as u32 };
    let input = spec.batch * spec.in_hw[0] * spec.in_hw[1] * spec.in_c * 4;
    let output = spec.rows() * spec.out_c * 4;
    let (rows, depth, columns, blocks) = (spec.rows(), spec.depth(), spec.out_c, spec.blocks());
    let mut setup =
        Setup::new(KernelSpec::Conv(spec), isa, input, output, &[(weights, packing), (bias, Packing::Raw)]);
    let seconds = setup.fastest(isa);
    let flops = 2.0 * rows as f64 * depth as f64 * columns as f64;
    println!(
        "{:24} {isa:8} tile {:4}x{:<4} {blocks:5} blocks of {:6.1} us {:7.1} GFLOP/s {:6.1} GB/s",
        shape.0,
        tile[0],
        tile[1],
        seconds / blocks as f64 * 1e6,
        flops / seconds / 1e9,
        (depth * columns * 4) as f64 / seconds / 1e9,
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
            for tile in tiles {
                bench_conv(shape, isa, *tile);
            }
        }
    }
}
