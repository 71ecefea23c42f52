//! Builds graphs, compiles them and compares the plan's results with the graph's.

#![allow(dead_code, missing_docs)]

pub mod machine;

use std::sync::Arc;

use reef_base::Rng;
use reef_compile::{CompileOptions, Compiled, compile_and_inspect, interpret, reference};
use reef_cpu::CpuCutter;
use reef_graph::scalar::Element;
use reef_graph::{ConvAttrs, DType, Graph, Op, Shape, Tensor, ValueId};
use reef_plan::{DeviceKind, HostKernel, Isa, Plan, Precision, Target, WeightStore};

pub fn target(isa: Isa, cus: usize, window: usize) -> Target {
    Target { device: DeviceKind::Cpu, isa, cus, window, precision: Precision::F32 }
}

/// The CPU's cutter, for any instruction set.
pub fn cutter(isa: Isa, cus: usize) -> CpuCutter {
    CpuCutter::new(Target::cpu(isa, cus))
}

/// Compiles without host kernels.
pub fn compiled(graph: &Graph, target: Target) -> Compiled {
    let options = CompileOptions { name: "test".into() };
    let (store, cutter) = (Arc::new(WeightStore::new()), CpuCutter::new(target));
    compile_and_inspect(graph, &[], &store, &cutter, &options).unwrap()
}

pub fn plan(graph: &Graph) -> Plan {
    compiled(graph, target(Isa::Avx2, 2, 0)).plan
}

/// Random data that suits the type.
pub fn random(dtype: DType, shape: &Shape, rng: &mut Rng) -> Tensor {
    let count = shape.elements();
    match dtype {
        DType::F32 => Tensor::f32(shape.clone(), &(0..count).map(|_| rng.normal_f32()).collect::<Vec<_>>()),
        DType::I64 => {
            Tensor::i64(shape.clone(), &(0..count).map(|_| rng.below(7) as i64 - 3).collect::<Vec<_>>())
        }
        DType::Bool => {
            let values: Vec<u8> = (0..count).map(|_| rng.below(2) as u8).collect();
            Tensor::from_slice(dtype, shape.clone(), &values)
        }
        DType::F16 => {
            let values: Vec<half::f16> = (0..count).map(|_| half::f16::from_f32(rng.normal_f32())).collect();
            Tensor::from_slice(dtype, shape.clone(), &values)
        }
        DType::I32 | DType::U32 => {
            let values: Vec<i32> = (0..count).map(|_| rng.below(9) as i32).collect();
            Tensor::from_slice(dtype, shape.clone(), &values)
        }
        _ => {
            let values: Vec<u8> = (0..count * dtype.bytes()).map(|_| rng.below(100) as u8).collect();
            Tensor::new(dtype, shape.clone(), Arc::new(reef_base::AlignedBytes::copy_from(&values)))
        }
    }
}

pub fn inputs(graph: &Graph, seed: u64) -> Vec<Tensor> {
    let mut rng = Rng::new(seed);
    graph.inputs.iter().map(|&id| random(graph.value(id).dtype, &graph.value(id).shape, &mut rng)).collect()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    match tensor.dtype() {
        DType::F32 => tensor.values::<f32>().iter().map(|&x| f64::from(x)).collect(),
        DType::F16 => tensor.values::<half::f16>().iter().map(|&x| f64::from(x)).collect(),
        DType::I64 => tensor.values::<i64>().iter().map(|&x| x as f64).collect(),
        _ => tensor.bytes().as_slice().iter().map(|&x| f64::from(x)).collect(),
    }
}

pub fn assert_close(got: &[Tensor], expected: &[Tensor], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (output, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!((got.dtype(), got.shape()), (expected.dtype(), expected.shape()), "{what}");
        let dtype = got.dtype();
        let (got, expected) = (values(got), values(expected));
        let scale = expected.iter().filter(|x| x.is_finite()).fold(1.0f64, |max, x| max.max(x.abs()));
        let tolerance = if dtype == DType::F16 { 2e-3 } else { 2e-4 } * scale;
        for (index, (a, b)) in got.iter().zip(&expected).enumerate() {
            let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance;
            assert!(same, "{what}: output {output} element {index}: {a} instead of {b}");
        }
    }
}

/// Compiles for several targets, interprets every plan and runs those that this machine can run; compares the
/// results with the graph's.
pub fn check(what: &str, graph: &Graph) {
    let inputs = inputs(graph, 5);
    let expected = reference::evaluate(graph, &inputs).unwrap();
    check_targets(what, graph, &[], &inputs, &expected);
}

/// The same, to the last bit.
pub fn check_exactly(what: &str, graph: &Graph, inputs: &[Tensor]) {
    let expected = reference::evaluate(graph, inputs).unwrap_or_else(|error| panic!("{what}: {error}"));
    check_by(what, graph, &[], inputs, &expected, |got, expected, what| {
        for (output, (got, expected)) in got.iter().zip(expected).enumerate() {
            assert_eq!((got.dtype(), got.shape()), (expected.dtype(), expected.shape()), "{what}");
            for (index, (a, b)) in Element::all(got).into_iter().zip(Element::all(expected)).enumerate() {
                let nan = a.float().is_nan() && b.float().is_nan();
                assert!(a == b || nan, "{what}: output {output} element {index}: {a:?} instead of {b:?}");
            }
        }
    });
}

/// [`check`], when the results are known.
pub fn check_targets(
    what: &str,
    graph: &Graph,
    host_kernels: &[Arc<dyn HostKernel>],
    inputs: &[Tensor],
    expected: &[Tensor],
) {
    check_by(what, graph, host_kernels, inputs, expected, assert_close);
}

fn check_by(
    what: &str,
    graph: &Graph,
    host_kernels: &[Arc<dyn HostKernel>],
    inputs: &[Tensor],
    expected: &[Tensor],
    compare: fn(&[Tensor], &[Tensor], &str),
) {
    let targets = [
        target(Isa::Avx512, 2, 0),
        target(Isa::Avx2, 2, 0),
        target(Isa::Portable, 2, 0),
        target(Isa::Portable, 3, 4),
    ];
    let store = Arc::new(WeightStore::new());
    for target in targets {
        let options = CompileOptions { name: "test".into() };
        let plan = compile_and_inspect(graph, host_kernels, &store, &CpuCutter::new(target), &options)
            .unwrap_or_else(|error| panic!("{what} for {target}: {error}\n{graph}"))
            .plan;
        if target.isa != Isa::Avx2 {
            let got = interpret::run(&plan, inputs).unwrap_or_else(|error| panic!("{what}: {error}\n{plan}"));
            compare(&got, expected, &format!("{what}, interpreted for {target}"));
        }
        if let Some(got) = machine::run(plan, inputs) {
            compare(&got, expected, &format!("{what}, run on {target}"));
        }
    }
}

/// A graph that is being written, with random constants.
pub struct Builder {
    pub graph: Graph,
    pub rng: Rng,
}

impl Builder {
    pub fn new() -> Builder {
        Builder { graph: Graph::default(), rng: Rng::new(1) }
    }

    pub fn input(&mut self, shape: &[usize]) -> ValueId {
        self.typed_input(DType::F32, shape)
    }

    pub fn typed_input(&mut self, dtype: DType, shape: &[usize]) -> ValueId {
        let name = format!("x{}", self.graph.inputs.len());
        self.graph.add_input(name, dtype, Shape::new(shape))
    }

    pub fn constant(&mut self, shape: &[usize]) -> ValueId {
        let tensor = random(DType::F32, &Shape::new(shape), &mut self.rng);
        self.graph.add_const(format!("c{}", self.graph.values.len()), tensor)
    }

    pub fn scalar(&mut self, value: f32) -> ValueId {
        self.graph.add_const(format!("s{}", self.graph.values.len()), Tensor::scalar_f32(value))
    }

    pub fn shape(&self, id: ValueId) -> Vec<usize> {
        self.graph.value(id).shape.to_vec()
    }

    /// A node of the type of its last operand.
    pub fn node(&mut self, op: Op, inputs: &[ValueId], shape: &[usize]) -> ValueId {
        let dtype = self.graph.value(inputs[inputs.len() - 1]).dtype;
        self.typed_node(op, inputs, dtype, shape)
    }

    pub fn typed_node(&mut self, op: Op, inputs: &[ValueId], dtype: DType, shape: &[usize]) -> ValueId {
        let name = format!("{}{}", op.name().to_lowercase(), self.graph.nodes.len());
        self.graph.add_node(name, op, inputs, dtype, Shape::new(shape))
    }

    /// A node of its first operand's shape.
    pub fn same(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let shape = self.shape(inputs[0]);
        self.node(op, inputs, &shape)
    }

    /// A convolution with a bias.
    pub fn conv(&mut self, x: ValueId, outputs: usize, attrs: ConvAttrs) -> ValueId {
        let dims = self.shape(x);
        let [kh, kw] = attrs.kernel;
        let weights = self.constant(&[outputs, dims[1] / attrs.groups, kh, kw]);
        let bias = self.constant(&[outputs]);
        let extent = |axis: usize| {
            let reach = (attrs.kernel[axis] - 1) * attrs.dilations[axis] + 1;
            (dims[2 + axis] + attrs.pads[axis] + attrs.pads[2 + axis] - reach) / attrs.strides[axis] + 1
        };
        let shape = [dims[0], outputs, extent(0), extent(1)];
        self.node(Op::Conv(attrs), &[x, weights, bias], &shape)
    }

    pub fn output(&mut self, id: ValueId) {
        let name = format!("y{}", self.graph.outputs.len());
        self.graph.add_output(name, id);
    }

    pub fn check(mut self, what: &str, outputs: &[ValueId]) {
        outputs.iter().for_each(|&id| self.output(id));
        check(what, &self.graph);
    }
}

/// Attributes of a plain convolution that keeps the image's size.
pub fn conv_attrs(kernel: usize, stride: usize) -> ConvAttrs {
    let pad = kernel / 2;
    ConvAttrs { kernel: [kernel; 2], strides: [stride; 2], pads: [pad; 4], dilations: [1; 2], groups: 1 }
}
