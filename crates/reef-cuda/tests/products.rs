//! Convolutions and matrix products of many shapes on the emulated driver. Elements are small whole numbers,
//! which every precision has and whose sums f32 has: whatever is multiplied, and in which order, results are
//! the reference's to the bit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reef_base::{AlignedBytes, Rng, TaskKey};
use reef_compile::{CompileOptions, compile, reference};
use reef_cuda::{CudaDevice, CudaOptions};
use reef_device::{Device, Outcome};
use reef_graph::{Binary, ConvAttrs, DType, Graph, Op, Shape, Tensor, Unary, ValueId};
use reef_plan::Precision;

/// Shapes of each kind.
const SHAPES: u64 = 60;

fn whole_numbers(rng: &mut Rng, dims: &[usize]) -> Tensor {
    let shape = Shape::new(dims);
    let values: Vec<f32> = (0..shape.elements()).map(|_| rng.below(7) as f32 - 3.0).collect();
    Tensor::f32(shape, &values)
}

struct Sketch {
    graph: Graph,
    inputs: Vec<Tensor>,
    rng: Rng,
}

impl Sketch {
    fn input(&mut self, dims: &[usize]) -> ValueId {
        let tensor = whole_numbers(&mut self.rng, dims);
        let name = format!("x{}", self.inputs.len());
        let id = self.graph.add_input(name, DType::F32, tensor.shape().clone());
        self.inputs.push(tensor);
        id
    }

    fn constant(&mut self, dims: &[usize]) -> ValueId {
        let tensor = whole_numbers(&mut self.rng, dims);
        self.graph.add_const(format!("c{}", self.graph.values.len()), tensor)
    }

    fn node(&mut self, op: Op, inputs: &[ValueId], dims: &[usize]) -> ValueId {
        let name = format!("n{}", self.graph.nodes.len());
        self.graph.add_node(name, op, inputs, DType::F32, Shape::new(dims))
    }

    fn between(&mut self, least: u64, most: u64) -> usize {
        (least + self.rng.below(most - least + 1)) as usize
    }
}

/// Any convolution, with or without bias, residual and activation.
fn convolution(s: &mut Sketch) -> ValueId {
    let pointwise = s.rng.below(3) == 0;
    let groups = if s.rng.below(4) == 0 { 2 } else { 1 };
    // Often enough channels that come in fours, and sums so long that they are split.
    let of_four = s.rng.below(2) == 0;
    let inputs = if of_four { s.between(1, 30) * 4 } else { s.between(1, 60) };
    let outputs = s.between(1, 90);
    let kernel = if pointwise { [1; 2] } else { [s.between(1, 4), s.between(1, 4)] };
    let strides = if pointwise { [1; 2] } else { [s.between(1, 2), s.between(1, 2)] };
    let dilations = if pointwise { [1; 2] } else { [s.between(1, 2), s.between(1, 2)] };
    let pads = if pointwise { [0; 4] } else { std::array::from_fn(|_| s.between(0, 2)) };
    let attrs = ConvAttrs { kernel, strides, pads, dilations, groups };
    let batch = s.between(1, 2);
    let reach = |axis: usize| (kernel[axis] - 1) * dilations[axis] + 1;
    let image = [s.between(reach(0) as u64, 14), s.between(reach(1) as u64, 14)];
    let extent = |axis: usize| (image[axis] + pads[axis] + pads[axis + 2] - reach(axis)) / strides[axis] + 1;
    let dims = [batch, outputs * groups, extent(0), extent(1)];
    let x = s.input(&[batch, inputs * groups, image[0], image[1]]);
    let weights = s.constant(&[outputs * groups, inputs, kernel[0], kernel[1]]);
    let mut operands = vec![x, weights];
    if s.rng.below(2) == 0 {
        operands.push(s.constant(&[outputs * groups]));
    }
    let mut y = s.node(Op::Conv(attrs), &operands, &dims);
    if s.rng.below(2) == 0 {
        let residual = s.input(&dims);
        y = s.node(Op::Binary(Binary::Add), &[y, residual], &dims);
    }
    if s.rng.below(2) == 0 {
        y = s.node(Op::Unary(Unary::Relu), &[y], &dims);
    }
    y
}

/// Any product of two computed matrices, of a computed and a constant one, or of one that is transposed.
fn product(s: &mut Sketch) -> ValueId {
    let of_four = s.rng.below(2) == 0;
    let k = if of_four { s.between(1, 40) * 4 } else { s.between(1, 130) };
    let (m, n) = (s.between(1, 90), s.between(1, 90));
    let (m, n) = if of_four { (m.next_multiple_of(4), n.next_multiple_of(4)) } else { (m, n) };
    let batch = s.between(1, 3);
    let (trans_a, trans_b) = (s.rng.below(3) == 0, s.rng.below(2) == 0);
    let a = s.input(&if trans_a { [batch, k, m] } else { [batch, m, k] });
    let matrix = if trans_b { [n, k] } else { [k, n] };
    let b = match s.rng.below(3) {
        0 => s.constant(&matrix),
        1 => s.input(&matrix),
        _ => s.input(&[batch, matrix[0], matrix[1]]),
    };
    s.node(Op::MatMul { trans_a, trans_b }, &[a, b], &[batch, m, n])
}

fn outputs(device: &CudaDevice, precision: Precision, sketch: &Sketch) -> Vec<Tensor> {
    let cutter = device.cutter(Some(precision));
    let options = CompileOptions { name: "product".into() };
    let plan = compile(&sketch.graph, &[], &Arc::default(), cutter.as_ref(), &options).expect("it compiles");
    let plan = Arc::new(plan);
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

fn check(precision: Precision, kind: &str, make: fn(&mut Sketch) -> ValueId) {
    // Tests run beside each other, and a device takes its memory when it starts.
    let separate_allocations = std::env::var_os("REEF_TEST_SEPARATE").is_some();
    let options =
        CudaOptions { memory_bytes: Some(64 << 20), separate_allocations, ..CudaOptions::default() };
    let device = CudaDevice::start(options).expect("the emulated driver is there");
    for seed in 0..SHAPES {
        let mut sketch = Sketch { graph: Graph::default(), inputs: vec![], rng: Rng::new(seed) };
        let y = make(&mut sketch);
        sketch.graph.add_output("y", y);
        let expected = reference::evaluate(&sketch.graph, &sketch.inputs).expect("it can be evaluated");
        let got = outputs(&device, precision, &sketch);
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
    products_in_f32: Precision::F32, product;
    products_in_tf32: Precision::Tf32, product;
    products_in_f16: Precision::F16, product;
    products_in_bf16: Precision::Bf16, product;
}
