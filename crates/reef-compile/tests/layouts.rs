//! Every operator on inputs that lie in memory in unusual ways, and with results that others want in unusual
//! places: the plan computes what the graph says.

mod harness;

use harness::{Builder, conv_attrs};
use reef_graph::{Binary, DType, Op, PoolAttrs, PoolKind, Reduce, Tensor, Unary, ValueId};

type Source = fn(&mut Builder) -> ValueId;
type Sink = fn(&mut Builder, ValueId) -> Vec<ValueId>;

/// Where the operand comes from: always `[2, 3, 4, 5]` in f32.
const SOURCES: [(&str, Source); 9] = [
    ("an input", |b| b.input(&[2, 3, 4, 5])),
    ("NHWC", |b| {
        let x = b.input(&[2, 4, 4, 5]);
        b.conv(x, 3, conv_attrs(3, 1))
    }),
    ("rows of longer rows", |b| {
        let x = b.input(&[2, 3, 4, 9]);
        b.node(Op::Slice { axis: 3, begin: 2, end: 7, step: 1 }, &[x], &[2, 3, 4, 5])
    }),
    ("every other plane", |b| {
        let x = b.input(&[2, 6, 4, 5]);
        b.node(Op::Slice { axis: 1, begin: 1, end: 6, step: 2 }, &[x], &[2, 3, 4, 5])
    }),
    ("reversed", |b| {
        let x = b.input(&[2, 3, 4, 5]);
        b.node(Op::Slice { axis: 2, begin: 3, end: -1, step: -1 }, &[x], &[2, 3, 4, 5])
    }),
    ("transposed", |b| {
        let x = b.input(&[5, 2, 4, 3]);
        b.node(Op::Transpose { perm: vec![1, 3, 2, 0] }, &[x], &[2, 3, 4, 5])
    }),
    ("expanded", |b| {
        let x = b.input(&[2, 1, 4, 1]);
        b.node(Op::Expand, &[x], &[2, 3, 4, 5])
    }),
    ("a part of NHWC", |b| {
        let x = b.input(&[2, 4, 4, 5]);
        let x = b.conv(x, 7, conv_attrs(1, 1));
        b.node(Op::Slice { axis: 1, begin: 2, end: 5, step: 1 }, &[x], &[2, 3, 4, 5])
    }),
    ("joined", |b| {
        let x = b.input(&[2, 3, 4, 2]);
        let y = b.same(Op::Unary(Unary::Relu), &[x]);
        let z = b.input(&[2, 3, 4, 1]);
        b.node(Op::Concat { axis: 3 }, &[x, y, z], &[2, 3, 4, 5])
    }),
];

/// What is done with the result, besides its being an output of the model or not.
const SINKS: [(&str, Sink); 7] = [
    ("an output", |_, y| vec![y]),
    ("a part of an outer concatenation", |b, y| vec![join(b, y, 0)]),
    ("a part of an inner concatenation", |b, y| {
        let last = b.shape(y).len() - 1;
        vec![join(b, y, last)]
    }),
    ("a part of a concatenation along channels", |b, y| {
        let axis = 1.min(b.shape(y).len() - 1);
        vec![join(b, y, axis)]
    }),
    ("an image to convolve", |b, y| match b.shape(y).len() {
        4 => vec![b.conv(y, 4, conv_attrs(3, 1))],
        _ => vec![b.same(Op::Unary(Unary::Tanh), &[y])],
    }),
    ("transposed", |b, y| {
        let shape: Vec<usize> = b.shape(y).into_iter().rev().collect();
        let perm = (0..shape.len()).rev().collect();
        vec![b.node(Op::Transpose { perm }, &[y], &shape)]
    }),
    ("flat, and once more", |b, y| {
        let count = b.shape(y).iter().product();
        vec![b.node(Op::Reshape, &[y], &[count]), b.same(Op::Unary(Unary::Neg), &[y])]
    }),
];

fn join(b: &mut Builder, y: ValueId, axis: usize) -> ValueId {
    let before = b.same(Op::Unary(Unary::Abs), &[y]);
    let mut shape = b.shape(y);
    shape[axis] *= 2;
    b.node(Op::Concat { axis }, &[before, y], &shape)
}

/// Runs `operator` from every source to every sink.
fn everywhere(what: &str, operator: impl Fn(&mut Builder, ValueId) -> ValueId) {
    for (from, source) in SOURCES {
        for (to, sink) in SINKS {
            let mut builder = Builder::new();
            let x = source(&mut builder);
            let y = operator(&mut builder, x);
            let outputs = sink(&mut builder, y);
            builder.check(&format!("{what} of {from}, to {to}"), &outputs);
        }
    }
}

#[test]
fn softmaxes() {
    for axis in 0..4 {
        everywhere(&format!("softmax along {axis}"), |b, x| b.same(Op::Softmax { axis }, &[x]));
        everywhere(&format!("log-softmax along {axis}"), |b, x| b.same(Op::LogSoftmax { axis }, &[x]));
    }
}

#[test]
fn reductions() {
    for (axes, keep_dims, shape) in [
        (&[3][..], true, &[2, 3, 4, 1][..]),
        (&[1], true, &[2, 1, 4, 5]),
        (&[0, 2], true, &[1, 3, 1, 5]),
        (&[2, 3], false, &[2, 3]),
        (&[0], false, &[3, 4, 5]),
    ] {
        for reduce in [Reduce::Mean, Reduce::Max] {
            let op = Op::Reduce { reduce, axes: axes.to_vec(), keep_dims };
            everywhere(&format!("{reduce:?} over {axes:?}"), |b, x| b.node(op.clone(), &[x], shape));
        }
    }
}

#[test]
fn layer_norms() {
    for axis in [1, 3] {
        everywhere(&format!("layer norm from {axis}"), |b, x| {
            let dims = b.shape(x)[axis..].to_vec();
            let (scale, shift) = (b.constant(&dims), b.constant(&dims));
            b.same(Op::LayerNorm { axis, epsilon: 1e-2 }, &[x, scale, shift])
        });
    }
}

#[test]
fn element_by_element() {
    everywhere("a function", |b, x| b.same(Op::Unary(Unary::Sigmoid), &[x]));
    everywhere("a sum", |b, x| {
        let other = b.input(&[3, 1, 5]);
        b.same(Op::Binary(Binary::Add), &[x, other])
    });
    everywhere("a selection", |b, x| {
        let zero = b.scalar(0.0);
        let positive = b.typed_node(Op::Binary(Binary::Greater), &[x, zero], DType::Bool, &[2, 3, 4, 5]);
        let other = b.input(&[1, 3, 1, 5]);
        b.node(Op::Where, &[positive, x, other], &[2, 3, 4, 5])
    });
    everywhere("channel scales", |b, x| {
        let (scale, shift) = (b.constant(&[3]), b.constant(&[3]));
        b.same(Op::ScaleShift, &[x, scale, shift])
    });
    everywhere("f16 and back", |b, x| {
        let half = b.typed_node(Op::Cast { to: DType::F16 }, &[x], DType::F16, &[2, 3, 4, 5]);
        b.typed_node(Op::Cast { to: DType::F32 }, &[half], DType::F32, &[2, 3, 4, 5])
    });
}

#[test]
fn movement() {
    everywhere("padding", |b, x| {
        b.node(Op::Pad { pads: vec![(0, 0), (1, 0), (0, 2), (1, 1)], value: 2.5 }, &[x], &[2, 4, 6, 7])
    });
    for axis in 0..4 {
        everywhere(&format!("picks along {axis}"), |b, x| {
            let picks = b.graph.add_const("picks", Tensor::i64([3], &[1, 0, -1]));
            let mut shape = b.shape(x);
            shape[axis] = 3;
            b.typed_node(Op::Gather { axis }, &[x, picks], DType::F32, &shape)
        });
        everywhere(&format!("evenly spaced picks along {axis}"), |b, x| {
            let last = b.shape(x)[axis] as i64 - 1;
            let picks = b.graph.add_const("picks", Tensor::i64([2], &[last, 0]));
            let mut shape = b.shape(x);
            shape[axis] = 2;
            b.typed_node(Op::Gather { axis }, &[x, picks], DType::F32, &shape)
        });
        everywhere(&format!("the rear half along {axis}, backwards"), |b, x| {
            let mut shape = b.shape(x);
            let begin = shape[axis] - 1;
            shape[axis] = shape[axis].div_ceil(2);
            let end = begin as isize - shape[axis] as isize;
            b.node(Op::Slice { axis, begin, end, step: -1 }, &[x], &shape)
        });
    }
    everywhere("a transpose", |b, x| b.node(Op::Transpose { perm: vec![0, 2, 3, 1] }, &[x], &[2, 4, 5, 3]));
    everywhere("a reshape", |b, x| b.node(Op::Reshape, &[x], &[6, 20]));
    everywhere("an expansion", |b, x| b.node(Op::Expand, &[x], &[3, 2, 3, 4, 5]));
}

#[test]
fn windows() {
    everywhere("a convolution", |b, x| b.conv(x, 6, conv_attrs(3, 2)));
    everywhere("a pointwise convolution", |b, x| b.conv(x, 17, conv_attrs(1, 1)));
    everywhere("a depthwise convolution", |b, x| {
        b.conv(x, 3, reef_graph::ConvAttrs { groups: 3, ..conv_attrs(3, 1) })
    });
    for kind in [PoolKind::Max, PoolKind::AvgIncludePad] {
        everywhere(&format!("{kind:?} pooling"), |b, x| {
            let attrs = PoolAttrs { kind, kernel: [3; 2], strides: [1; 2], pads: [1; 4], dilations: [1; 2] };
            b.same(Op::Pool(attrs), &[x])
        });
    }
}

#[test]
fn products() {
    let op = |trans_a, trans_b| Op::MatMul { trans_a, trans_b };
    everywhere("a product with weights", |b, x| {
        let weights = b.constant(&[5, 6]);
        b.node(op(false, false), &[x, weights], &[2, 3, 4, 6])
    });
    everywhere("a product with a computed right side", |b, x| {
        let right = b.input(&[3, 6, 5]);
        b.node(op(false, true), &[x, right], &[2, 3, 4, 6])
    });
    everywhere("a product with a computed left side", |b, x| {
        let left = b.input(&[2, 1, 4, 6]);
        b.node(op(true, false), &[left, x], &[2, 3, 6, 5])
    });
    everywhere("a product with itself", |b, x| b.node(op(false, true), &[x, x], &[2, 3, 4, 4]));
}
