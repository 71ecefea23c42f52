//! Graphs of one node of random shape: edges of tiles, lines and rows wherever they may be.

use reef_base::Rng;
use reef_compile::reference;
use reef_compile::samples::Sample;
use reef_graph::{
    Along, Binary, ConvAttrs, DType, Graph, Op, PoolAttrs, PoolKind, Reduce, Shape, Taps, Tensor, Unary,
    ValueId,
};

struct Sketch<'a> {
    rng: &'a mut Rng,
    graph: Graph,
    inputs: Vec<Tensor>,
}

/// A graph with inputs, and what it gives for them.
pub(super) fn sample(rng: &mut Rng) -> Sample {
    loop {
        let mut sketch = Sketch { rng: &mut *rng, graph: Graph::default(), inputs: Vec::new() };
        let (name, made) = sketch.draw();
        let Some(made) = made else { continue };
        let Sketch { mut graph, inputs, .. } = sketch;
        graph.add_output("y", made);
        let expected = reference::evaluate(&graph, &inputs).expect("the reference knows the node");
        return Sample { name, graph, host_kernels: vec![], inputs, expected };
    }
}

impl Sketch<'_> {
    fn draw(&mut self) -> (&'static str, Option<ValueId>) {
        match self.below(13) {
            0 | 1 => ("random convolution", self.conv()),
            2 => ("random pool", self.pool()),
            3 => ("random product", Some(self.product())),
            4 => ("random softmax", Some(self.softmax())),
            5 => ("random reduction", Some(self.reduce())),
            6 => ("random gather", Some(self.gather())),
            7 => ("random slice of a transposition", Some(self.movement())),
            8 => ("random broadcast", Some(self.broadcast())),
            9 => ("random norm and convolution", Some(self.normed_conv())),
            10 => ("random row function", Some(self.along())),
            11 => ("random resampling", Some(self.resample())),
            _ => ("random layer norm", Some(self.layer_norm())),
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.rng.below(bound as u64) as usize
    }

    fn random(&mut self, shape: &[usize]) -> Tensor {
        let shape = Shape::new(shape);
        let values: Vec<f32> = (0..shape.elements()).map(|_| self.rng.normal_f32()).collect();
        Tensor::f32(shape, &values)
    }

    fn given(&mut self, tensor: Tensor) -> ValueId {
        let name = format!("x{}", self.inputs.len());
        let id = self.graph.add_input(name, tensor.dtype(), tensor.shape().clone());
        self.inputs.push(tensor);
        id
    }

    fn input(&mut self, shape: &[usize]) -> ValueId {
        let tensor = self.random(shape);
        self.given(tensor)
    }

    fn constant(&mut self, shape: &[usize]) -> ValueId {
        let tensor = self.random(shape);
        self.graph.add_const(format!("c{}", self.graph.values.len()), tensor)
    }

    fn node(&mut self, op: Op, inputs: &[ValueId], shape: &[usize]) -> ValueId {
        let name = format!("n{}", self.graph.nodes.len());
        self.graph.add_node(name, op, inputs, DType::F32, Shape::new(shape))
    }

    /// Rows in the middle of three axes, some of them long.
    fn rows(&mut self) -> [usize; 3] {
        let long = self.below(2) == 0;
        [
            1 + self.below(4),
            1 + self.below(if long { 900 } else { 40 }),
            1 + self.below(if long { 3 } else { 300 }),
        ]
    }

    fn along(&mut self) -> ValueId {
        let dims = self.rows();
        let x = self.input(&dims);
        let largest = self.below(2) == 0;
        let along = match self.below(3) {
            0 => Along::ArgExtreme { largest, last: self.below(2) == 0 },
            1 => Along::TopK { k: 1 + self.below(dims[1].min(9)), largest },
            _ => {
                let [product, exclusive, reverse] = [0; 3].map(|_| self.below(2) == 0);
                Along::Scan { product, exclusive, reverse }
            }
        };
        let outputs = along.outputs(1, DType::F32, &Shape::new(&dims)).expect("it means something");
        let op = Op::Along { along, axis: 1 };
        self.graph.add_node_multi("along", op, &[x], outputs).swap_remove(0)
    }

    fn resample(&mut self) -> ValueId {
        let dims = self.rows();
        let outputs = 1 + self.below(50);
        let mut taps = Vec::new();
        for _ in 0..outputs {
            let count = self.below(5);
            let tap = |_| {
                let from = self.below(dims[1] + 1);
                ((from < dims[1]).then_some(from), self.rng.normal_f32())
            };
            taps.push((0..count).map(tap).collect());
        }
        let taps = Taps::new(dims[1], 1.5, &taps).expect("taps are of the axis");
        let x = self.input(&dims);
        self.node(Op::Resample { axis: 1, taps }, &[x], &[dims[0], outputs, dims[2]])
    }

    /// Extents of an axis after a window has gone over it, with random pads; `None` if it does not fit.
    fn over(&mut self, extent: usize, kernel: usize, stride: usize, dilation: usize) -> Option<[usize; 3]> {
        let (before, after) = (self.below(kernel), self.below(kernel));
        let reach = (kernel - 1) * dilation + 1;
        (extent + before + after >= reach)
            .then(|| [before, after, (extent + before + after - reach) / stride + 1])
    }

    fn conv(&mut self) -> Option<ValueId> {
        let groups = [1, 1, 2, 3][self.below(4)];
        let (inputs, outputs) = (1 + self.below(12), 1 + self.below(40));
        // Sometimes each channel by itself.
        let is_depthwise = self.below(4) == 0;
        let channels = if is_depthwise { inputs } else { inputs * groups };
        let groups = if is_depthwise { channels } else { groups };
        let outputs = if is_depthwise { channels } else { outputs * groups };
        let dims = [1 + self.below(2), channels, 1 + self.below(12), 1 + self.below(12)];
        let pair = |s: &mut Self, most: usize| [1 + s.below(most), 1 + s.below(most)];
        let (kernel, strides, dilations) = (pair(self, 4), pair(self, 3), pair(self, 2));
        let [top, bottom, height] = self.over(dims[2], kernel[0], strides[0], dilations[0])?;
        let [left, right, width] = self.over(dims[3], kernel[1], strides[1], dilations[1])?;
        let x = self.input(&dims);
        let weights = self.constant(&[outputs, channels / groups, kernel[0], kernel[1]]);
        let bias = self.constant(&[outputs]);
        let attrs = ConvAttrs { kernel, strides, pads: [top, left, bottom, right], dilations, groups };
        Some(self.node(Op::Conv(attrs), &[x, weights, bias], &[dims[0], outputs, height, width]))
    }

    fn normed_conv(&mut self) -> ValueId {
        let dims = [1 + self.below(2), 1 + self.below(50), 1 + self.below(9), 1 + self.below(9)];
        let (outputs, strides) = (1 + self.below(70), [1 + self.below(3), 1 + self.below(3)]);
        let x = self.input(&dims);
        let (scale, shift) = (self.constant(&[dims[1]]), self.constant(&[dims[1]]));
        let x = self.node(Op::ScaleShift, &[x, scale, shift], &dims);
        let x = self.node(Op::Unary(Unary::Relu), &[x], &dims);
        let weights = self.constant(&[outputs, dims[1], 1, 1]);
        let attrs = ConvAttrs { kernel: [1; 2], strides, pads: [0; 4], dilations: [1; 2], groups: 1 };
        let [height, width] = [0, 1].map(|axis| (dims[2 + axis] - 1) / strides[axis] + 1);
        self.node(Op::Conv(attrs), &[x, weights], &[dims[0], outputs, height, width])
    }

    fn pool(&mut self) -> Option<ValueId> {
        let kinds = [PoolKind::Max, PoolKind::AvgExcludePad, PoolKind::AvgIncludePad];
        let kind = kinds[self.below(3)];
        let dims = [1 + self.below(2), 1 + self.below(20), 2 + self.below(14), 2 + self.below(14)];
        let pair = |s: &mut Self, most: usize| [1 + s.below(most), 1 + s.below(most)];
        let (kernel, strides) = (pair(self, 3), pair(self, 3));
        let [top, bottom, height] = self.over(dims[2], kernel[0], strides[0], 1)?;
        let [left, right, width] = self.over(dims[3], kernel[1], strides[1], 1)?;
        let x = self.input(&dims);
        let attrs = PoolAttrs { kind, kernel, strides, pads: [top, left, bottom, right], dilations: [1; 2] };
        Some(self.node(Op::Pool(attrs), &[x], &[dims[0], dims[1], height, width]))
    }

    fn product(&mut self) -> ValueId {
        let (m, n, k) = (1 + self.below(80), 1 + self.below(80), 1 + self.below(40));
        let batch = 1 + self.below(3);
        let a = self.input(&[batch, m, k]);
        let is_constant = self.below(2) == 0;
        let b = if is_constant { self.constant(&[k, n]) } else { self.input(&[batch, k, n]) };
        self.node(Op::MatMul { trans_a: false, trans_b: false }, &[a, b], &[batch, m, n])
    }

    fn softmax(&mut self) -> ValueId {
        let dims = [1 + self.below(6), 1 + self.below(300), 1 + self.below(6)];
        let axis = self.below(3);
        let x = self.input(&dims);
        let op = if self.below(2) == 0 { Op::Softmax { axis } } else { Op::LogSoftmax { axis } };
        self.node(op, &[x], &dims)
    }

    fn reduce(&mut self) -> ValueId {
        let kinds = [Reduce::Sum, Reduce::Mean, Reduce::Max, Reduce::Min, Reduce::Prod, Reduce::SumSquare];
        let reduce = kinds[self.below(6)];
        let dims = [1 + self.below(9), 1 + self.below(30), 1 + self.below(9)];
        let axes = [vec![0], vec![1], vec![2], vec![0, 2], vec![1, 2], vec![0, 1, 2]][self.below(6)].clone();
        let shape: Vec<usize> =
            (0..3).map(|axis| if axes.contains(&axis) { 1 } else { dims[axis] }).collect();
        let x = self.input(&dims);
        self.node(Op::Reduce { reduce, axes, keep_dims: true }, &[x], &shape)
    }

    fn gather(&mut self) -> ValueId {
        let dims = [1 + self.below(5), 1 + self.below(20), 1 + self.below(300)];
        let (axis, picks) = (self.below(3), 1 + self.below(30));
        let extent = dims[axis] as i64;
        let indices: Vec<i64> =
            (0..picks).map(|_| self.rng.below(2 * dims[axis] as u64) as i64 - extent).collect();
        let x = self.input(&dims);
        let indices = self.given(Tensor::i64([picks], &indices));
        let mut shape = dims;
        shape[axis] = picks;
        self.node(Op::Gather { axis }, &[x, indices], &shape)
    }

    fn movement(&mut self) -> ValueId {
        let dims = [1 + self.below(20), 1 + self.below(20), 1 + self.below(20)];
        let perm = [vec![0, 2, 1], vec![2, 1, 0], vec![1, 2, 0], vec![1, 0, 2]][self.below(4)].clone();
        let mut shape: Vec<usize> = perm.iter().map(|&axis| dims[axis]).collect();
        let x = self.input(&dims);
        let y = self.node(Op::Transpose { perm }, &[x], &shape);
        let axis = self.below(3);
        let begin = self.below(shape[axis]);
        let end = shape[axis];
        shape[axis] -= begin;
        let part = self.node(Op::Slice { axis, begin, end: end as isize, step: 1 }, &[y], &shape);
        // Beside itself.
        let axis = self.below(3);
        shape[axis] *= 2;
        self.node(Op::Concat { axis }, &[part, part], &shape)
    }

    fn broadcast(&mut self) -> ValueId {
        let dims = [1 + self.below(20), 1 + self.below(20), 1 + self.below(20)];
        let mut small = dims;
        small[self.below(3)] = 1;
        let (x, row) = (self.input(&dims), self.input(&small));
        self.node(Op::Binary(Binary::Mul), &[x, row], &dims)
    }

    fn layer_norm(&mut self) -> ValueId {
        let dims = [1 + self.below(30), 1 + self.below(600)];
        let x = self.input(&dims);
        let (scale, shift) = (self.constant(&[dims[1]]), self.constant(&[dims[1]]));
        self.node(Op::LayerNorm { axis: 1, epsilon: 1e-5 }, &[x, scale, shift], &dims)
    }
}
