//! Numbers that were integers, and are again after they were only moved: the integers are moved, to the same
//! bits.
#![allow(missing_docs)]

mod harness;

use harness::{Builder, compiled, target};
use reef_base::{AlignedBytes, Rng};
use reef_graph::{DType, Op, PoolAttrs, PoolKind, Quantization, Shape, Tensor, ValueId};
use reef_plan::{Isa, KernelSpec};
use std::sync::Arc;

use DType::{F32, I8, U8};

struct Case {
    builder: Builder,
    inputs: Vec<Tensor>,
    rng: Rng,
}

impl Case {
    fn new() -> Case {
        Case { builder: Builder::new(), inputs: vec![], rng: Rng::new(7) }
    }

    fn integers(&mut self, dtype: DType, shape: &[usize]) -> ValueId {
        let count = shape.iter().product();
        let bytes: Vec<u8> = (0..count).map(|_| self.rng.below(256) as u8).collect();
        let tensor = Tensor::new(dtype, Shape::new(shape), Arc::new(AlignedBytes::copy_from(&bytes)));
        self.inputs.push(tensor);
        self.builder.typed_input(dtype, &Shape::new(shape))
    }

    fn zero(&mut self, dtype: DType, zero: u8) -> ValueId {
        self.builder.graph.add_const("zero", Tensor::from_slice(dtype, Shape::from([]), &[zero]))
    }

    fn node(&mut self, op: Op, inputs: &[ValueId], dtype: DType, shape: &[usize]) -> ValueId {
        self.builder.typed_node(op, inputs, dtype, shape)
    }

    fn quantize(&mut self, inputs: [ValueId; 3], dtype: DType) -> ValueId {
        let shape = self.builder.shape(inputs[0]);
        self.node(Op::Quantize(Quantization::by_tensor(8)), &inputs, dtype, &shape)
    }

    fn dequantize(&mut self, inputs: [ValueId; 3]) -> ValueId {
        let shape = self.builder.shape(inputs[0]);
        self.node(Op::Dequantize(Quantization::by_tensor(8)), &inputs, F32, &shape)
    }

    fn pool(&mut self, x: ValueId, kind: PoolKind) -> ValueId {
        let (kernel, strides) = ([3, 3], [2, 2]);
        let attrs = PoolAttrs { kind, kernel, strides, pads: [1; 4], dilations: [1, 1] };
        self.node(Op::Pool(attrs), &[x], F32, &[2, 19, 4, 3])
    }

    /// Kernels that compute, and pools of integers.
    fn check(mut self, what: &str, outputs: &[ValueId]) -> [usize; 2] {
        outputs.iter().for_each(|&id| self.builder.output(id));
        harness::check_exactly(what, &self.builder.graph, &self.inputs);
        let plan = compiled(&self.builder.graph, target(Isa::Avx512, 2, 0)).plan;
        let computes = |spec: &KernelSpec| matches!(spec, KernelSpec::Elementwise(spec) if !spec.copies());
        let pools = |spec: &KernelSpec| matches!(spec, KernelSpec::Pool(spec) if spec.dtype != F32);
        let count = |which: &dyn Fn(&KernelSpec) -> bool| {
            plan.kernels().iter().filter(|kernel| which(&kernel.spec)).count()
        };
        [count(&computes), count(&pools)]
    }
}

#[test]
fn what_moves_numbers_of_integers_moves_integers() {
    let scales = [(U8, 0.02f32, 7), (I8, 3e-5, 200), (U8, 1e20, 255), (U8, 1e-44, 3), (I8, 3e38, 1)];
    for (dtype, scale, zero) in scales {
        for again in [1.0, 0.75] {
            let mut case = Case::new();
            let x = case.integers(dtype, &[2, 19, 7, 6]);
            let (steps, zero) = (case.builder.scalar(scale), case.zero(dtype, zero));
            let back = case.builder.scalar(scale * again);
            let float = case.dequantize([x, steps, zero]);
            let largest = case.pool(float, PoolKind::Max);
            let turn = Op::Transpose { perm: vec![0, 2, 3, 1] };
            let turned = case.node(turn, &[largest], F32, &[2, 4, 3, 19]);
            let other = case.integers(dtype, &[2, 1, 3, 19]);
            let other = case.dequantize([other, steps, zero]);
            let joined = case.node(Op::Concat { axis: 1 }, &[turned, other], F32, &[2, 5, 3, 19]);
            let flat = case.node(Op::Reshape, &[joined], F32, &[2, 285]);
            let y = case.quantize([flat, back, zero], dtype);
            let [computes, pools] = case.check(&format!("{dtype} {scale} {again}"), &[y]);
            let fits = again == 1.0 && (1e-30..1e30).contains(&scale);
            assert_eq!((computes == 0, pools), (fits, usize::from(fits)), "{dtype} {scale} {again}");
        }
    }
}

#[test]
fn numbers_that_are_computed_or_read_stay_numbers() {
    for kind in [PoolKind::Max, PoolKind::AvgExcludePad] {
        let mut case = Case::new();
        let x = case.integers(U8, &[2, 19, 7, 6]);
        let (steps, zero) = (case.builder.scalar(0.5), case.zero(U8, 9));
        let float = case.dequantize([x, steps, zero]);
        let made = case.pool(float, kind);
        let y = case.quantize([made, steps, zero], U8);
        let same = case.quantize([float, steps, zero], U8);
        let outputs = if kind == PoolKind::Max { vec![y, made, same] } else { vec![y, same] };
        let [_, pools] = case.check(&format!("{kind:?}"), &outputs);
        assert_eq!(pools, 0, "{kind:?}");
    }
}

/// Integers that are cast to numbers and back.
#[test]
fn integers_that_are_pooled_as_numbers_are_pooled() {
    for (from, to, fits) in [(U8, U8, true), (I8, I8, true), (U8, I8, false), (I8, U8, false)] {
        let mut case = Case::new();
        let x = case.integers(from, &[2, 19, 7, 6]);
        let float = case.node(Op::Cast { to: F32 }, &[x], F32, &[2, 19, 7, 6]);
        let made = case.pool(float, PoolKind::Max);
        let y = case.node(Op::Cast { to }, &[made], to, &[2, 19, 4, 3]);
        let [computes, pools] = case.check(&format!("{from} to {to}"), &[y]);
        assert_eq!((computes == 0, pools), (fits, usize::from(fits)), "{from} to {to}");
    }
}
