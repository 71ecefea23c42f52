//! Convolutions and matrix products of many shapes, for tests and for `examples/operators`.

use reef_base::Rng;
use reef_graph::{Binary, ConvAttrs, DType, Graph, Op, Shape, Tensor, Unary, ValueId};

/// A graph that is being written, and its inputs.
pub(crate) struct Sketch {
    pub(crate) graph: Graph,
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) rng: Rng,
    /// Draws an element of inputs and constants.
    element: fn(&mut Rng) -> f32,
}

impl Sketch {
    pub(crate) fn new(seed: u64, element: fn(&mut Rng) -> f32) -> Sketch {
        Sketch { graph: Graph::default(), inputs: vec![], rng: Rng::new(seed), element }
    }

    fn tensor(&mut self, dims: &[usize]) -> Tensor {
        let shape = Shape::new(dims);
        let values: Vec<f32> = (0..shape.elements()).map(|_| (self.element)(&mut self.rng)).collect();
        Tensor::f32(shape, &values)
    }

    pub(crate) fn input(&mut self, dims: &[usize]) -> ValueId {
        let tensor = self.tensor(dims);
        let name = format!("x{}", self.inputs.len());
        let id = self.graph.add_input(name, DType::F32, tensor.shape().clone());
        self.inputs.push(tensor);
        id
    }

    pub(crate) fn constant(&mut self, dims: &[usize]) -> ValueId {
        let tensor = self.tensor(dims);
        self.graph.add_const(format!("c{}", self.graph.values.len()), tensor)
    }

    pub(crate) fn node(&mut self, op: Op, inputs: &[ValueId], dims: &[usize]) -> ValueId {
        let name = format!("n{}", self.graph.nodes.len());
        self.graph.add_node(name, op, inputs, DType::F32, Shape::new(dims))
    }

    fn between(&mut self, least: u64, most: u64) -> usize {
        (least + self.rng.below(most - least + 1)) as usize
    }
}

/// Any convolution, with or without bias, residual and activation.
pub(crate) fn convolution(s: &mut Sketch) -> ValueId {
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

/// Any convolution that norms its input: 1×1, unpadded, of one group.
pub(crate) fn normed_convolution(s: &mut Sketch) -> ValueId {
    let inputs = if s.rng.below(2) == 0 { s.between(1, 90) * 4 } else { s.between(1, 130) };
    let (batch, outputs, strides) = (s.between(1, 3), s.between(1, 90), [s.between(1, 3), s.between(1, 3)]);
    let dims = [batch, inputs, s.between(1, 12), s.between(1, 12)];
    let x = s.input(&dims);
    normed(s, x, outputs, strides)
}

/// A 1×1 convolution with bias of a normed image.
pub(crate) fn normed(s: &mut Sketch, x: ValueId, outputs: usize, strides: [usize; 2]) -> ValueId {
    let dims = s.graph.value(x).shape.to_vec();
    let (scale, shift) = (s.constant(&[dims[1]]), s.constant(&[dims[1]]));
    let x = s.node(Op::ScaleShift, &[x, scale, shift], &dims);
    let x = s.node(Op::Unary(Unary::Relu), &[x], &dims);
    let (weights, bias) = (s.constant(&[outputs, dims[1], 1, 1]), s.constant(&[outputs]));
    let attrs = ConvAttrs { kernel: [1; 2], strides, pads: [0; 4], dilations: [1; 2], groups: 1 };
    let extent = |axis: usize| (dims[2 + axis] - 1) / strides[axis] + 1;
    s.node(Op::Conv(attrs), &[x, weights, bias], &[dims[0], outputs, extent(0), extent(1)])
}

/// Any product of two computed matrices, of a computed and a constant one, or of one that is transposed.
pub(crate) fn product(s: &mut Sketch) -> ValueId {
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
