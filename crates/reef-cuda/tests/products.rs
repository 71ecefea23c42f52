//! Convolutions and matrix products of many shapes on the emulated driver. Elements are small whole numbers,
//! which every precision has and whose sums f32 has: whatever is multiplied, and in which order, results are
//! the reference's to the bit.

#[path = "products/attention.rs"]
mod attention;
mod sketch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use reef_base::{AlignedBytes, Rng, TaskKey};
use reef_compile::{CompileOptions, compile, reference};
use reef_cuda::{CudaDevice, CudaOptions};
use reef_device::{Device, Outcome};
use reef_graph::{Tensor, ValueId};
use reef_plan::{Kernel, KernelSpec, Plan, Precision};

use sketch::{Sketch, convolution, normed, normed_convolution, product};

/// Shapes of each kind.
const SHAPES: u64 = 60;

fn whole_number(rng: &mut Rng) -> f32 {
    rng.below(7) as f32 - 3.0
}

fn planned(device: &CudaDevice, precision: Precision, sketch: &Sketch) -> Arc<Plan> {
    let cutter = device.cutter(Some(precision));
    let options = CompileOptions { name: "product".into() };
    let plan = compile(&sketch.graph, &[], &Arc::default(), cutter.as_ref(), &options).expect("it compiles");
    Arc::new(plan)
}

fn outputs(device: &CudaDevice, plan: &Arc<Plan>, sketch: &Sketch) -> Vec<Tensor> {
    let loaded = device.load(plan.clone()).expect("it loads");
    let mut io = device.alloc_io(loaded).expect("it is loaded");
    for (buffer, tensor) in io.inputs.iter_mut().zip(&sketch.inputs) {
        buffer.as_mut_slice().copy_from_slice(tensor.bytes().as_slice());
    }
    io.outputs.iter_mut().for_each(|buffer| buffer.as_mut_slice().fill(0xFF));
    device.submit(loaded, TaskKey::best_effort(0), io, 0).expect("the board has room");
    let until = Instant::now() + Duration::from_secs(60);
    let completion = loop {
        if let Some(completion) = device.try_complete() {
            break completion;
        }
        assert!(Instant::now() < until, "it takes too long");
        std::thread::sleep(Duration::from_micros(50));
    };
    assert_eq!(completion.outcome, Outcome::Done);
    device.unload(loaded);
    let tensor = |(buffer, spec): (&reef_base::Buffer, &reef_plan::IoSpec)| {
        let bytes = Arc::new(AlignedBytes::copy_from(buffer.as_slice()));
        Tensor::new(spec.dtype, spec.shape.clone(), bytes)
    };
    completion.io.outputs.iter().zip(plan.outputs()).map(tensor).collect()
}

fn start(mib: u64) -> CudaDevice {
    // Tests run beside each other, and a device takes its memory when it starts.
    let separate_allocations = std::env::var_os("REEF_TEST_SEPARATE").is_some();
    let options =
        CudaOptions { memory_bytes: Some(mib << 20), separate_allocations, ..CudaOptions::default() };
    CudaDevice::start(options).expect("the emulated driver is there")
}

fn check(precision: Precision, kind: &str, make: fn(&mut Sketch) -> ValueId) {
    let device = start(64);
    for seed in 0..SHAPES {
        let mut sketch = Sketch::new(seed, whole_number);
        let y = make(&mut sketch);
        sketch.graph.add_output("y", y);
        let expected = reference::evaluate(&sketch.graph, &sketch.inputs).expect("it can be evaluated");
        let got = outputs(&device, &planned(&device, precision, &sketch), &sketch);
        let same = got[0].values::<f32>() == expected[0].values::<f32>();
        assert!(same, "{kind} {seed} in {precision} differs:\n{}", sketch.graph);
    }
}

macro_rules! each_precision {
    ($($name:ident: $precision:expr, $kind:ident;)*) => {$(
        #[test]
        #[ignore = "needs the emulated driver: cargo xtask cuda"]
        fn $name() {
            check($precision, stringify!($kind), $kind);
        }
    )*};
}

each_precision! {
    convolutions_in_f32: Precision::F32, convolution;
    convolutions_in_tf32: Precision::Tf32, convolution;
    convolutions_in_f16: Precision::F16, convolution;
    convolutions_in_bf16: Precision::Bf16, convolution;
    normed_convolutions_in_f32: Precision::F32, normed_convolution;
    normed_convolutions_in_tf32: Precision::Tf32, normed_convolution;
    normed_convolutions_in_f16: Precision::F16, normed_convolution;
    normed_convolutions_in_bf16: Precision::Bf16, normed_convolution;
    products_in_f32: Precision::F32, product;
    products_in_tf32: Precision::Tf32, product;
    products_in_f16: Precision::F16, product;
    products_in_bf16: Precision::Bf16, product;
}

/// The same convolution as one kernel, and as two because somebody else reads what is normed: the same bits,
/// whatever is rounded.
#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn what_a_convolution_norms_is_what_a_kernel_before_it_does() {
    let device = start(128);
    // The image, the outputs and the strides: tiles with edges, channels in fours and not, images several and
    // one, sums that several blocks share, and tiles that are wide on tensor cores.
    let shapes = [
        ([1, 20, 9, 11], 33, [1, 1]),
        ([3, 37, 7, 5], 70, [2, 1]),
        ([3, 64, 6, 7], 5, [1, 3]),
        ([1, 1, 5, 5], 1, [3, 3]),
        ([1, 300, 4, 6], 40, [1, 1]),
        ([1, 1024, 16, 16], 256, [1, 1]),
    ];
    for precision in [Precision::F32, Precision::Tf32, Precision::F16, Precision::Bf16] {
        for (dims, channels, strides) in shapes {
            let made = [false, true].map(|apart| {
                let mut sketch = Sketch::new(channels as u64, Rng::normal_f32);
                let x = sketch.input(&dims);
                let y = normed(&mut sketch, x, channels, strides);
                sketch.graph.add_output("y", y);
                if apart {
                    let of_conv = sketch.graph.nodes[2].inputs[0];
                    sketch.graph.add_output("normed", of_conv);
                }
                let plan = planned(&device, precision, &sketch);
                let norms = |kernel: &Kernel| matches!(&kernel.spec, KernelSpec::Conv(conv) if conv.normed);
                assert_ne!(plan.kernels().iter().any(norms), apart);
                outputs(&device, &plan, &sketch)
            });
            let [one, two] = made;
            assert_eq!((one.len(), two.len()), (1, 2));
            let bits = |tensor: &Tensor| -> Vec<u32> {
                tensor.values::<f32>().iter().map(|value| value.to_bits()).collect()
            };
            assert_eq!(bits(&one[0]), bits(&two[0]), "{dims:?} to {channels} in {precision}");
            assert!(one[0].values::<f32>().iter().any(|&value| value != 0.0));
        }
    }
}
