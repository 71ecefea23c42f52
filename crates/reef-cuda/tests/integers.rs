//! Products of integers on the emulated driver, with all that may follow them in a kernel: the reference's
//! results to the bit, whatever the types, the zero points and the shapes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reef_base::{AlignedBytes, Rng, TaskKey};
use reef_compile::{CompileOptions, compile, reference};
use reef_cuda::{CudaDevice, CudaOptions};
use reef_device::{Device, Outcome};
use reef_graph::{
    Binary, ConvAttrs, DType, Graph, Op, Quantization, Shape, Tensor, Unary, ValueId, ZeroPoints,
};
use reef_plan::{KernelSpec, Precision};

use DType::{F32, I8, I32, U8};

/// Shapes of each kind.
const SHAPES: u64 = 90;

/// A graph that is being written, and its inputs.
struct Sketch {
    graph: Graph,
    inputs: Vec<Tensor>,
    rng: Rng,
}

impl Sketch {
    fn below(&mut self, bound: usize) -> usize {
        self.rng.below(bound as u64) as usize
    }

    fn chance(&mut self) -> bool {
        self.below(2) == 0
    }

    fn given(&mut self, tensor: Tensor) -> ValueId {
        let name = format!("x{}", self.inputs.len());
        let id = self.graph.add_input(name, tensor.dtype(), tensor.shape().clone());
        self.inputs.push(tensor);
        id
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.graph.add_const(format!("c{}", self.graph.values.len()), tensor)
    }

    /// One or the other.
    fn either(&mut self, tensor: Tensor) -> ValueId {
        if self.chance() { self.given(tensor) } else { self.constant(tensor) }
    }

    /// Of the whole range, the ends of both types often enough.
    fn integers(&mut self, dtype: DType, dims: &[usize]) -> Tensor {
        let count: usize = dims.iter().product();
        let byte = |s: &mut Sketch| match s.below(8) {
            0 => [0, 255, 127, 128][s.below(4)],
            _ => s.below(256) as u8,
        };
        let bytes: Vec<u8> = (0..count).map(|_| byte(self)).collect();
        Tensor::new(dtype, Shape::new(dims), Arc::new(AlignedBytes::copy_from(&bytes)))
    }

    fn floats(&mut self, dims: &[usize], magnitude: f32) -> Tensor {
        let count: usize = dims.iter().product();
        let values: Vec<f32> = (0..count).map(|_| self.rng.normal_f32() * magnitude).collect();
        Tensor::f32(Shape::new(dims), &values)
    }

    fn kind(&mut self) -> DType {
        [U8, I8][self.below(2)]
    }

    fn node(&mut self, op: Op, inputs: &[ValueId], dtype: DType, dims: &[usize]) -> ValueId {
        let name = format!("n{}", self.graph.nodes.len());
        self.graph.add_node(name, op, inputs, dtype, Shape::new(dims))
    }

    fn dims(&self, id: ValueId) -> Vec<usize> {
        self.graph.value(id).shape.to_vec()
    }

    /// Adds zero points to `operands`: of shapes `by_left` and `by_right`, or one.
    fn zeros(&mut self, types: [DType; 2], shapes: [&[usize]; 2], operands: &mut Vec<ValueId>) -> ZeroPoints {
        let mut has = [false; 2];
        for side in 0..2 {
            has[side] = self.chance();
            if has[side] {
                let dims = if self.chance() { shapes[side] } else { &[] };
                let zeros = self.integers(types[side], dims);
                operands.push(self.either(zeros));
            }
        }
        ZeroPoints { left: has[0], right: has[1] }
    }

    /// What exporters write behind a sum, in this order, or a part of it; channels are along `axis`.
    fn tail(&mut self, sum: ValueId, axis: usize) -> ValueId {
        let dims = self.dims(sum);
        let mut by_channel = vec![1; dims.len() - axis];
        by_channel[0] = dims[axis];
        let mut y = sum;
        if self.chance() {
            let values: Vec<i32> = (0..dims[axis]).map(|at| at as i32 * 1000 - 3000).collect();
            let bias = self.constant(Tensor::from_slice(I32, Shape::new(&by_channel), &values));
            y = self.node(Op::Binary(Binary::Add), &[y, bias], I32, &dims);
        }
        if self.below(4) == 0 {
            return y;
        }
        y = self.node(Op::Cast { to: F32 }, &[y], F32, &dims);
        let scales = if self.chance() { by_channel.clone() } else { vec![] };
        let scales = self.floats(&scales, 1e-4);
        let scales = self.either(scales);
        y = self.node(Op::Binary(Binary::Mul), &[y, scales], F32, &dims);
        if self.chance() {
            let shift = self.floats(&by_channel, 1.0);
            let shift = self.constant(shift);
            y = self.node(Op::Binary(Binary::Add), &[y, shift], F32, &dims);
        }
        if self.chance() {
            let residual = self.floats(&dims, 1.0);
            let residual = self.given(residual);
            y = self.node(Op::Binary(Binary::Add), &[y, residual], F32, &dims);
        }
        if self.chance() {
            y = self.node(Op::Unary(Unary::Relu), &[y], F32, &dims);
        }
        if self.chance() {
            let to = self.kind();
            let scale = self.constant(Tensor::f32([1], &[0.037]));
            let zero = self.constant(Tensor::from_slice(to, Shape::from([1]), &[100u8]));
            y = self.node(Op::Quantize(Quantization::by_tensor(8)), &[y, scale, zero], to, &dims);
        }
        y
    }
}

fn convolution(s: &mut Sketch) -> ValueId {
    let pointwise = s.below(3) == 0;
    let groups = [1, 1, 1, 3][s.below(4)];
    // Channels that are read one by one, four at a time and sixteen at a time.
    let inputs = (1 + s.below(12)) * [1, 4, 16][s.below(3)];
    let outputs = 4 + s.below(80);
    let pair = |s: &mut Sketch, most: usize| [1 + s.below(most), 1 + s.below(most)];
    let kernel = if pointwise { [1; 2] } else { pair(s, 4) };
    let (strides, dilations) = if pointwise { ([1; 2], [1; 2]) } else { (pair(s, 2), pair(s, 2)) };
    let pads = if pointwise { [0; 4] } else { [s.below(3), s.below(3), s.below(3), s.below(3)] };
    let reach = |axis: usize| (kernel[axis] - 1) * dilations[axis] + 1;
    let image = [reach(0) + s.below(9), reach(1) + s.below(9)];
    let extent = |axis: usize| (image[axis] + pads[axis] + pads[axis + 2] - reach(axis)) / strides[axis] + 1;
    let dims = [1 + s.below(2), outputs * groups, extent(0), extent(1)];
    let types = [s.kind(), s.kind()];
    let x = s.integers(types[0], &[dims[0], inputs * groups, image[0], image[1]]);
    let weights = s.integers(types[1], &[dims[1], inputs, kernel[0], kernel[1]]);
    let mut operands = vec![s.given(x), s.constant(weights)];
    let points = s.zeros(types, [&[], &[dims[1]]], &mut operands);
    let attrs = ConvAttrs { kernel, strides, pads, dilations, groups };
    let sum = s.node(Op::ConvInteger(attrs, points), &operands, I32, &dims);
    s.tail(sum, 1)
}

fn linear(s: &mut Sketch) -> ValueId {
    let (planes, rows, columns) = (1 + s.below(3), 1 + s.below(90), 1 + s.below(150));
    let depth = (1 + s.below(40)) * [1, 4, 16][s.below(3)];
    let types = [s.kind(), s.kind()];
    let (a, b) = (s.integers(types[0], &[planes, rows, depth]), s.integers(types[1], &[depth, columns]));
    let mut operands = vec![s.given(a), s.constant(b)];
    let points = s.zeros(types, [&[planes, rows, 1], &[columns]], &mut operands);
    let sum = s.node(Op::MatMulInteger(points), &operands, I32, &[planes, rows, columns]);
    s.tail(sum, 2)
}

fn product(s: &mut Sketch) -> ValueId {
    let (planes, rows, columns) = (1 + s.below(3), 1 + s.below(90), 1 + s.below(150));
    let depth = (1 + s.below(40)) * [1, 4][s.below(2)];
    let types = [s.kind(), s.kind()];
    let a = s.integers(types[0], &[planes, rows, depth]);
    let turned = s.chance();
    let b_dims = if turned { [planes, columns, depth] } else { [planes, depth, columns] };
    let b = s.integers(types[1], &b_dims);
    let (a, mut b) = (s.given(a), s.given(b));
    if turned {
        // A view: neighbours along k are neighbours in memory.
        let turn = Op::Transpose { perm: vec![0, 2, 1] };
        b = s.node(turn, &[b], types[1], &[planes, depth, columns]);
    }
    let mut operands = vec![a, b];
    let points = s.zeros(types, [&[planes, rows, 1], &[planes, 1, columns]], &mut operands);
    let sum = s.node(Op::MatMulInteger(points), &operands, I32, &[planes, rows, columns]);
    s.tail(sum, 2)
}

fn start() -> CudaDevice {
    // Tests run beside each other, and a device takes its memory when it starts.
    let separate_allocations = std::env::var_os("REEF_TEST_SEPARATE").is_some();
    let options =
        CudaOptions { memory_bytes: Some(64 << 20), separate_allocations, ..CudaOptions::default() };
    CudaDevice::start(options).expect("the emulated driver is there")
}

/// The bytes of the one output, and whether a kernel of integers made it.
fn run(device: &CudaDevice, precision: Precision, sketch: &Sketch) -> (Vec<u8>, bool) {
    let options = CompileOptions { name: "integers".into() };
    let cutter = device.cutter(Some(precision));
    let plan = compile(&sketch.graph, &[], &Arc::default(), cutter.as_ref(), &options).expect("it compiles");
    let of_integers =
        |spec: &KernelSpec| matches!(spec, KernelSpec::IntegerConv(_) | KernelSpec::IntegerMatMul(_));
    let has_integers = plan.kernels().iter().any(|kernel| of_integers(&kernel.spec));
    let loaded = device.load(Arc::new(plan)).expect("it loads");
    let mut io = device.alloc_io(loaded).expect("it is loaded");
    for (buffer, tensor) in io.inputs.iter_mut().zip(&sketch.inputs) {
        buffer.as_mut_slice().copy_from_slice(tensor.bytes().as_slice());
    }
    io.outputs.iter_mut().for_each(|buffer| buffer.as_mut_slice().fill(0xA5));
    device.submit(loaded, TaskKey::best_effort(0), io, 0).expect("the board has room");
    let until = Instant::now() + Duration::from_secs(120);
    let completion = loop {
        if let Some(completion) = device.try_complete() {
            break completion;
        }
        assert!(Instant::now() < until, "it takes too long");
        std::thread::sleep(Duration::from_micros(50));
    };
    assert_eq!(completion.outcome, Outcome::Done);
    device.unload(loaded);
    (completion.io.outputs[0].as_slice().to_vec(), has_integers)
}

fn check(kind: &str, make: fn(&mut Sketch) -> ValueId) {
    let device = start();
    for seed in 0..SHAPES {
        let mut sketch = Sketch { graph: Graph::default(), inputs: vec![], rng: Rng::new(seed) };
        let y = make(&mut sketch);
        sketch.graph.add_output("y", y);
        let expected = reference::evaluate(&sketch.graph, &sketch.inputs).expect("it can be evaluated");
        let (made, has_integers) = run(&device, Precision::ALL[seed as usize % 4], &sketch);
        assert!(has_integers, "{kind} {seed} is no product of integers:\n{}", sketch.graph);
        assert!(made == expected[0].bytes().as_slice(), "{kind} {seed} differs:\n{}", sketch.graph);
    }
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn convolutions_of_integers() {
    check("convolution", convolution);
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn products_with_constant_integers() {
    check("linear", linear);
}

#[test]
#[ignore = "needs the emulated driver: cargo xtask cuda"]
fn products_of_computed_integers() {
    check("product", product);
}
