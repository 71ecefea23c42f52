//! Small graphs with their inputs and outputs: one or more of every kind of kernel, for whoever makes a
//! device. What they are on one device they must be on every other, whatever its cutter does to them.

mod integers;
mod recurrent;
mod vision;

use std::sync::Arc;

use reef_base::{AlignedBytes, Buffer, Rng};
use reef_graph::{
    Aggregate, Along, Binary, ConvAttrs, DType, Graph, HostOp, Op, PackedWeights, Picks, PoolAttrs, PoolKind,
    Putting, Reduce, Selection, Shape, Taps, Tensor, Unary, ValueId, Windows,
};

use reef_plan::{Cutter, HostFault, HostKernel, HostState, Plan, TensorSpec};

use crate::{CompileError, CompileOptions, compile, reference};
use integers::{
    conv_of_integers, integer_pool, integer_residual, linear_of_integers, product_of_integers,
    quantised_conv, rounds_to_halves,
};
use recurrent::{computed_gru, coupled_lstm, gru, gru_of_states, lstm, lstm_of_integers, rnn};
use vision::{image_at_points, regions, windows_and_matrices};

/// How far a result in f32 may be from the reference, which sums in double precision, as a share of the
/// largest value of its output, where sums and weights are f32.
const TOLERANCE: f64 = 2e-4;

/// A graph and what it gives for one set of inputs.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Names it, and the kind of kernel that it is about.
    pub name: &'static str,
    /// The graph.
    pub graph: Graph,
    /// Its host kernels.
    pub host_kernels: Vec<Arc<dyn HostKernel>>,
    /// A tensor for every input.
    pub inputs: Vec<Tensor>,
    /// What it gives for them; [`reference::evaluate`] says so where it can.
    pub expected: Vec<Tensor>,
}

impl Sample {
    /// Its plan, for the device with this cutter.
    pub fn plan(&self, cutter: &dyn Cutter) -> Result<Plan, CompileError> {
        let options = CompileOptions { name: self.name.into() };
        compile(&self.graph, &self.host_kernels, &Arc::default(), cutter, &options)
    }

    /// What is wrong with the bytes of these outputs, if anything is: floats may be off by rounding to f32,
    /// all else must be as expected.
    pub fn check(&self, outputs: &[Buffer]) -> Result<(), String> {
        self.check_within(outputs, TOLERANCE)
    }

    /// The same for a device that rounds otherwise: floats may be off by this share of the largest value of
    /// their output.
    pub fn check_within(&self, outputs: &[Buffer], tolerance: f64) -> Result<(), String> {
        if outputs.len() != self.expected.len() {
            return Err(format!("{} outputs, not {}", outputs.len(), self.expected.len()));
        }
        for (index, (bytes, expected)) in outputs.iter().zip(&self.expected).enumerate() {
            let wrong = |what: String| Err(format!("{}: output {index} {what}", self.name));
            if bytes.len() != expected.bytes().len() {
                return wrong(format!("has {} bytes, not {}", bytes.len(), expected.bytes().len()));
            }
            if expected.dtype() != DType::F32 {
                if bytes.as_slice() != expected.bytes().as_slice() {
                    return wrong("has other bytes".into());
                }
                continue;
            }
            let got = Tensor::new(
                DType::F32,
                expected.shape().clone(),
                Arc::new(AlignedBytes::copy_from(bytes.as_slice())),
            );
            let (got, expected) = (got.values::<f32>(), expected.values::<f32>());
            let largest = expected.iter().fold(1.0f64, |most, value| most.max(f64::from(value.abs())));
            for (at, (&a, &b)) in got.iter().zip(expected).enumerate() {
                // Not so for a NaN.
                if (f64::from(a) - f64::from(b)).abs() > tolerance * largest || a.is_nan() {
                    return wrong(format!("is {a} at {at}, not {b}"));
                }
            }
        }
        Ok(())
    }
}

/// Every sample. The same each time.
pub fn all() -> Vec<Sample> {
    let makers: [(&str, Maker); 53] = [
        ("conv with bias, residual and activation", conv_with_epilogue),
        ("conv in groups, strided and dilated", conv_in_groups),
        ("conv with long sums", conv_with_long_sums),
        ("conv behind a norm", conv_behind_norm),
        ("dense block", dense_block),
        ("depthwise", depthwise),
        ("product with constant", linear),
        ("product with transposed constant", linear_transposed),
        ("product", product),
        ("attention", attention),
        ("attention with a mask", attention_with_mask),
        ("attention without some scores", attention_without_scores),
        ("softmax", softmax),
        ("log-softmax of an outer axis", log_softmax),
        ("layer norm with residual", layer_norm),
        ("gather", gather),
        ("elements taken by indices", taken),
        ("slices put by indices", put),
        ("largest of windows", largest_of_windows),
        ("resampling of an image", resampling),
        ("mean over an image", mean),
        ("largest of a row", largest),
        ("max pool", max_pool),
        ("average pool", average_pool),
        ("element-wise with broadcasts", elementwise),
        ("transposition", transposition),
        ("concatenation", concatenation),
        ("places of extremes", extremes),
        ("the largest and the smallest", tops),
        ("running sums", running_sums),
        ("integers folded", folds),
        ("non-zero", non_zero),
        ("compress", compress),
        ("LSTM both ways", lstm),
        ("GRU backwards", gru),
        ("GRU that resets the state first", gru_of_states),
        ("LSTM of coupled gates", coupled_lstm),
        ("RNN of many elements", rnn),
        ("GRU of computed weights", computed_gru),
        ("LSTM of integers", lstm_of_integers),
        ("conv of integers", conv_of_integers),
        ("product of integers with constant", linear_of_integers),
        ("residual of integers", integer_residual),
        ("rounding to 16 bits", rounds_to_halves),
        ("pool between integers", integer_pool),
        ("product of integers", product_of_integers),
        ("conv of quantised numbers", quantised_conv),
        ("decision trees", trees),
        ("image at points", image_at_points),
        ("regions of an image", regions),
        ("windows and matrices", windows_and_matrices),
        ("product with packed weights", packed),
        ("network", network),
    ];
    let hosted = hosted();
    makers.into_iter().map(|(name, make)| sample(name, make)).chain([hosted]).collect()
}

/// Draws a graph.
type Maker = fn(&mut Sketch);

fn sample(name: &'static str, make: Maker) -> Sample {
    let mut sketch = Sketch { graph: Graph::default(), rng: Rng::new(name.len() as u64), inputs: vec![] };
    make(&mut sketch);
    let Sketch { graph, inputs, .. } = sketch;
    let expected = reference::evaluate(&graph, &inputs).expect("samples can be evaluated");
    Sample { name, graph, host_kernels: vec![], inputs, expected }
}

/// A graph that is being written, and its inputs.
struct Sketch {
    graph: Graph,
    rng: Rng,
    inputs: Vec<Tensor>,
}

impl Sketch {
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

    fn fixed(&mut self, tensor: Tensor) -> ValueId {
        self.graph.add_const(format!("c{}", self.graph.values.len()), tensor)
    }

    /// 8-bit integers of the whole range.
    fn integers(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let bytes: Vec<u8> = (0..shape.iter().product()).map(|_| self.rng.below(256) as u8).collect();
        Tensor::new(dtype, Shape::new(shape), Arc::new(AlignedBytes::copy_from(&bytes)))
    }

    /// A constant of small numbers: rounding errors of a network that forgets do not grow, however many
    /// elements it has.
    fn moderate(&mut self, shape: &[usize], elements: usize) -> ValueId {
        let tensor = self.moderate_tensor(shape, elements);
        self.graph.add_const(format!("c{}", self.graph.values.len()), tensor)
    }

    fn moderate_input(&mut self, shape: &[usize], elements: usize) -> ValueId {
        let tensor = self.moderate_tensor(shape, elements);
        self.given(tensor)
    }

    fn moderate_tensor(&mut self, shape: &[usize], elements: usize) -> Tensor {
        let tensor = self.random(shape);
        let factor = 0.2f32.min(0.5 / (elements as f32).sqrt());
        let values: Vec<f32> = tensor.values::<f32>().iter().map(|value| factor * value).collect();
        Tensor::f32(Shape::new(shape), &values)
    }

    fn dims(&self, id: ValueId) -> Vec<usize> {
        self.graph.value(id).shape.to_vec()
    }

    fn node(&mut self, op: Op, inputs: &[ValueId], shape: &[usize]) -> ValueId {
        let dtype = self.graph.value(inputs[0]).dtype;
        let name = format!("{}{}", op.name().to_lowercase(), self.graph.nodes.len());
        self.graph.add_node(name, op, inputs, dtype, Shape::new(shape))
    }

    /// A node of its first operand's shape.
    fn same(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let dims = self.dims(inputs[0]);
        self.node(op, inputs, &dims)
    }

    /// A convolution with a bias.
    fn conv(&mut self, x: ValueId, outputs: usize, attrs: ConvAttrs) -> ValueId {
        let dims = self.dims(x);
        let ConvAttrs { kernel, strides, pads, dilations, groups } = attrs;
        let weights = self.constant(&[outputs, dims[1] / groups, kernel[0], kernel[1]]);
        let bias = self.constant(&[outputs]);
        let extent = |axis: usize| {
            let reach = (kernel[axis] - 1) * dilations[axis] + 1;
            (dims[2 + axis] + pads[axis] + pads[2 + axis] - reach) / strides[axis] + 1
        };
        let shape = [dims[0], outputs, extent(0), extent(1)];
        self.node(Op::Conv(attrs), &[x, weights, bias], &shape)
    }

    fn pool(&mut self, x: ValueId, kind: PoolKind) -> ValueId {
        let dims = self.dims(x);
        let attrs = PoolAttrs { kind, kernel: [3; 2], strides: [2; 2], pads: [1; 4], dilations: [1; 2] };
        let extent = |axis: usize| (dims[axis] + 2 - 3) / 2 + 1;
        let shape = [dims[0], dims[1], extent(2), extent(3)];
        self.node(Op::Pool(attrs), &[x], &shape)
    }

    fn output(&mut self, id: ValueId) {
        let name = format!("y{}", self.graph.outputs.len());
        self.graph.add_output(name, id);
    }
}

/// A 3×3 convolution that keeps the image's size.
fn plain() -> ConvAttrs {
    ConvAttrs { kernel: [3; 2], strides: [1; 2], pads: [1; 4], dilations: [1; 2], groups: 1 }
}

fn conv_with_epilogue(s: &mut Sketch) {
    let x = s.input(&[1, 20, 9, 11]);
    let y = s.conv(x, 20, plain());
    let sum = s.same(Op::Binary(Binary::Add), &[y, x]);
    let y = s.same(Op::Unary(Unary::Relu), &[sum]);
    s.output(y);
}

fn conv_in_groups(s: &mut Sketch) {
    let x = s.input(&[2, 8, 13, 12]);
    let y = s.conv(x, 18, ConvAttrs { strides: [2, 1], dilations: [1, 2], groups: 2, ..plain() });
    s.output(y);
}

fn conv_with_long_sums(s: &mut Sketch) {
    let x = s.input(&[1, 96, 5, 4]);
    let y = s.conv(x, 40, plain());
    let y = s.same(Op::Unary(Unary::Relu), &[y]);
    s.output(y);
}

/// A 1×1 convolution of what `joined` concatenates, normed.
fn normed_conv(s: &mut Sketch, joined: &[ValueId], outputs: usize, strides: [usize; 2]) -> ValueId {
    let mut dims = s.dims(joined[0]);
    dims[1] = joined.iter().map(|&part| s.dims(part)[1]).sum();
    let x = s.node(Op::Concat { axis: 1 }, joined, &dims);
    let (scale, shift) = (s.constant(&[dims[1]]), s.constant(&[dims[1]]));
    let x = s.same(Op::ScaleShift, &[x, scale, shift]);
    let x = s.same(Op::Unary(Unary::Relu), &[x]);
    s.conv(x, outputs, ConvAttrs { kernel: [1; 2], pads: [0; 4], strides, ..plain() })
}

fn conv_behind_norm(s: &mut Sketch) {
    let x = s.input(&[3, 13, 7, 9]);
    let left = s.conv(x, 22, plain());
    let y = normed_conv(s, &[left, x], 37, [2, 1]);
    let residual = s.input(&[3, 37, 4, 9]);
    let y = s.same(Op::Binary(Binary::Add), &[y, residual]);
    s.output(y);
}

/// Two layers of DenseNet and what leads to the next block; sums are long.
fn dense_block(s: &mut Sketch) {
    let x = s.input(&[1, 12, 6, 5]);
    let mut parts = vec![s.conv(x, 264, plain())];
    for _ in 0..2 {
        let narrow = normed_conv(s, &parts, 16, [1; 2]);
        let narrow = s.same(Op::Unary(Unary::Relu), &[narrow]);
        parts.push(s.conv(narrow, 8, plain()));
    }
    let y = normed_conv(s, &parts, 70, [1; 2]);
    let y = s.pool(y, PoolKind::AvgExcludePad);
    s.output(y);
}

fn depthwise(s: &mut Sketch) {
    let x = s.input(&[1, 21, 12, 10]);
    let y = s.conv(x, 21, ConvAttrs { strides: [2; 2], groups: 21, ..plain() });
    let y = s.same(Op::Unary(Unary::Clip(0.0, 6.0)), &[y]);
    s.output(y);
}

fn linear(s: &mut Sketch) {
    let (x, w, bias) = (s.input(&[17, 40]), s.constant(&[40, 37]), s.constant(&[37]));
    let y = s.node(Op::MatMul { trans_a: false, trans_b: false }, &[x, w], &[17, 37]);
    let y = s.same(Op::Binary(Binary::Add), &[y, bias]);
    let y = s.same(Op::Unary(Unary::Gelu), &[y]);
    s.output(y);
}

fn linear_transposed(s: &mut Sketch) {
    let (x, w) = (s.input(&[3, 7, 24]), s.constant(&[45, 24]));
    let y = s.node(Op::MatMul { trans_a: false, trans_b: true }, &[x, w], &[3, 7, 45]);
    s.output(y);
}

fn product(s: &mut Sketch) {
    let (a, b) = (s.input(&[2, 3, 19, 16]), s.input(&[2, 3, 23, 16]));
    let y = s.node(Op::MatMul { trans_a: false, trans_b: true }, &[a, b], &[2, 3, 19, 23]);
    s.output(y);
}

/// Attention of so many rows over as many others, with what `mask` does to the scores.
fn attend(
    s: &mut Sketch,
    [rows, others]: [usize; 2],
    [depth, width]: [usize; 2],
    mask: impl FnOnce(&mut Sketch, ValueId) -> ValueId,
) {
    let (q, k) = (s.input(&[2, 3, rows, depth]), s.input(&[2, 3, others, depth]));
    let v = s.input(&[2, 3, others, width]);
    let dims = [2, 3, rows, others];
    let mut scores = s.node(Op::MatMul { trans_a: false, trans_b: true }, &[q, k], &dims);
    let factor = s.graph.add_const("factor", Tensor::scalar_f32(0.25));
    scores = s.same(Op::Binary(Binary::Mul), &[scores, factor]);
    scores = mask(s, scores);
    let weights = s.same(Op::Softmax { axis: 3 }, &[scores]);
    let y = s.node(Op::MatMul { trans_a: false, trans_b: false }, &[weights, v], &[2, 3, rows, width]);
    s.output(y);
}

fn attention(s: &mut Sketch) {
    attend(s, [70, 130], [16, 24], |_, scores| scores);
}

fn attention_with_mask(s: &mut Sketch) {
    attend(s, [5, 67], [33, 41], |s, scores| {
        let mask = s.input(&[2, 1, 1, 67]);
        s.same(Op::Binary(Binary::Add), &[scores, mask])
    });
}

/// As exporters write a causal mask; of one row nothing is left but equal weights.
fn attention_without_scores(s: &mut Sketch) {
    attend(s, [66, 66], [8, 64], |s, scores| {
        let kept: Vec<u8> = (0..66 * 66).map(|at| u8::from(at % 66 <= at / 66 && at / 66 != 3)).collect();
        let kept = s.given(Tensor::from_slice(DType::Bool, Shape::new(&[66, 66]), &kept));
        let dims = s.dims(scores);
        let least = s.graph.add_const("least", Tensor::scalar_f32(-1e9));
        s.graph.add_node("where", Op::Where, &[kept, scores, least], DType::F32, Shape::new(&dims))
    });
}

fn softmax(s: &mut Sketch) {
    let x = s.input(&[6, 5, 33]);
    let y = s.same(Op::Softmax { axis: 2 }, &[x]);
    s.output(y);
}

fn log_softmax(s: &mut Sketch) {
    let x = s.input(&[3, 14, 9]);
    let y = s.same(Op::LogSoftmax { axis: 1 }, &[x]);
    s.output(y);
}

fn layer_norm(s: &mut Sketch) {
    let (x, residual) = (s.input(&[11, 48]), s.input(&[11, 48]));
    let (scale, shift) = (s.constant(&[48]), s.constant(&[48]));
    let sum = s.same(Op::Binary(Binary::Add), &[x, residual]);
    let y = s.same(Op::LayerNorm { axis: 1, epsilon: 1e-5 }, &[sum, scale, shift]);
    s.output(y);
}

fn gather(s: &mut Sketch) {
    let table = s.constant(&[31, 18]);
    let picks = s.given(Tensor::i64([2, 7], &[0, 30, -1, 5, 5, 17, -31, 2, 3, 29, 11, 12, 13, 1]));
    let y = s.node(Op::Gather { axis: 0 }, &[table, picks], &[2, 7, 18]);
    s.output(y);
}

fn taken(s: &mut Sketch) {
    let x = s.input(&[3, 17, 5]);
    let indices: Vec<i64> = (0..3 * 40 * 5).map(|at| at * 7 % 34 - 17).collect();
    let indices = s.given(Tensor::i64([3, 40, 5], &indices));
    let y = s.node(Op::Take(Picks::Elements { axis: 1 }), &[x, indices], &[3, 40, 5]);
    let rows = s.given(Tensor::i64([3, 2, 2], &[0, 1, 39, 4, -1, -5, 7, 3, 12, 0, 13, 2]));
    let z = s.node(Op::Take(Picks::Slices { batch: 1 }), &[y, rows], &[3, 2]);
    s.output(y);
    s.output(z);
}

/// Some slices are put twice.
fn put(s: &mut Sketch) {
    let (x, updates) = (s.input(&[5, 6, 70]), s.input(&[4, 70]));
    let rows = s.given(Tensor::i64([4, 2], &[0, 1, -1, -1, 0, 1, 3, 2]));
    let picks = Picks::Slices { batch: 0 };
    let y = s.node(Op::Put(picks, Putting::Replace), &[x, rows, updates], &[5, 6, 70]);
    let z = s.node(Op::Put(picks, Putting::Add), &[y, rows, updates], &[5, 6, 70]);
    s.output(y);
    s.output(z);
}

fn largest_of_windows(s: &mut Sketch) {
    let x = s.input(&[2, 3, 1, 13, 11]);
    let windows = Windows {
        kernel: [1, 3, 2],
        strides: [1, 2, 2],
        pads: [0, 1, 0],
        dilations: [1, 1, 3],
        output: [1, 7, 4],
        columns: true,
    };
    let outputs = windows.outputs(DType::F32, &s.graph.value(x).shape).expect("the windows fit");
    let made = s.graph.add_node_multi("largest", Op::MaxPool(windows), &[x], outputs);
    made.into_iter().for_each(|id| s.output(id));
}

fn resampling(s: &mut Sketch) {
    let x = s.input(&[2, 19, 8, 9]);
    let between = |output: usize| {
        let (first, share) = (output / 2, 0.25 + 0.5 * (output % 2) as f32);
        let outside = (output == 3).then_some((None, 0.5));
        [(Some(first), 1.0 - share), (Some((first + 1) % 8), share)].into_iter().chain(outside).collect()
    };
    let taps = |extent| Taps::new(extent, 2.0, &(0..13).map(between).collect::<Vec<_>>()).expect("in range");
    let y = s.node(Op::Resample { axis: 2, taps: taps(8) }, &[x], &[2, 19, 13, 9]);
    let z = s.node(Op::Resample { axis: 3, taps: taps(9) }, &[y], &[2, 19, 13, 13]);
    s.output(z);
}

/// Short rows that are neighbours, and a long one; elements that are equal among them.
fn along(s: &mut Sketch, x: ValueId, axis: usize, along: Along) {
    let value = s.graph.value(x);
    let outputs = along.outputs(axis, value.dtype, &value.shape).expect("it means something");
    let made = s.graph.add_node_multi("along", Op::Along { along, axis }, &[x], outputs);
    made.into_iter().for_each(|id| s.output(id));
}

fn extremes(s: &mut Sketch) {
    let (short, long) = (s.input(&[3, 21, 70]), s.input(&[2, 700]));
    along(s, short, 1, Along::ArgExtreme { largest: true, last: false });
    along(s, long, 1, Along::ArgExtreme { largest: false, last: true });
    let bytes = s.integers(DType::I8, &[2, 900, 3]);
    let bytes = s.given(bytes);
    along(s, bytes, 1, Along::ArgExtreme { largest: true, last: true });
}

fn tops(s: &mut Sketch) {
    let (short, long) = (s.input(&[5, 9, 40]), s.input(&[2, 600]));
    along(s, short, 1, Along::TopK { k: 3, largest: true });
    along(s, long, 1, Along::TopK { k: 5, largest: false });
    let bytes = s.integers(DType::U8, &[2, 300]);
    let bytes = s.given(bytes);
    along(s, bytes, 1, Along::TopK { k: 7, largest: true });
}

fn running_sums(s: &mut Sketch) {
    let (short, long) = (s.input(&[3, 10, 50]), s.input(&[2, 519]));
    along(s, short, 1, Along::Scan { product: true, exclusive: false, reverse: true });
    along(s, long, 1, Along::Scan { product: false, exclusive: true, reverse: false });
    let bytes = s.integers(DType::I8, &[3, 333]);
    let bytes = s.given(bytes);
    along(s, bytes, 1, Along::Scan { product: false, exclusive: false, reverse: true });
}

fn folds(s: &mut Sketch) {
    for (reduce, dtype, dims) in
        [(Reduce::Sum, DType::I8, [3, 400, 2]), (Reduce::Mean, DType::U8, [2, 11, 60])]
    {
        let x = s.integers(dtype, &dims);
        let x = s.given(x);
        let [outer, _, inner] = dims;
        let y = s.node(Op::Reduce { reduce, axes: vec![1], keep_dims: false }, &[x], &[outer, inner]);
        s.output(y);
    }
}

fn mean(s: &mut Sketch) {
    let x = s.input(&[2, 19, 8, 9]);
    let y =
        s.node(Op::Reduce { reduce: Reduce::Mean, axes: vec![2, 3], keep_dims: true }, &[x], &[2, 19, 1, 1]);
    s.output(y);
}

fn largest(s: &mut Sketch) {
    let x = s.input(&[27, 41]);
    let y = s.node(Op::Reduce { reduce: Reduce::Max, axes: vec![1], keep_dims: false }, &[x], &[27]);
    s.output(y);
}

fn max_pool(s: &mut Sketch) {
    let x = s.input(&[2, 10, 13, 11]);
    let y = s.pool(x, PoolKind::Max);
    s.output(y);
}

fn average_pool(s: &mut Sketch) {
    let x = s.input(&[1, 10, 12, 12]);
    let y = s.pool(x, PoolKind::AvgExcludePad);
    s.output(y);
}

fn elementwise(s: &mut Sketch) {
    let (x, row, column) = (s.input(&[5, 14, 22]), s.input(&[22]), s.input(&[5, 14, 1]));
    let y = s.same(Op::Binary(Binary::Add), &[x, row]);
    let y = s.same(Op::Binary(Binary::Mul), &[y, column]);
    let y = s.same(Op::Unary(Unary::Sigmoid), &[y]);
    s.output(y);
}

fn transposition(s: &mut Sketch) {
    let x = s.input(&[4, 15, 21]);
    let y = s.node(Op::Transpose { perm: vec![2, 0, 1] }, &[x], &[21, 4, 15]);
    s.output(y);
}

fn concatenation(s: &mut Sketch) {
    let (a, b) = (s.input(&[6, 9, 7]), s.input(&[6, 4, 7]));
    let b = s.same(Op::Unary(Unary::Tanh), &[b]);
    let y = s.node(Op::Concat { axis: 1 }, &[a, b], &[6, 13, 7]);
    s.output(y);
}

fn non_zero(s: &mut Sketch) {
    let values: Vec<i64> = (0..9 * 8).map(|at| i64::from(at % 3 == 1) * at).collect();
    let x = s.given(Tensor::i64([9, 8], &values));
    let outputs = vec![(DType::I64, Shape::from([2, 9 * 8])), (DType::I64, Shape::from([1]))];
    let made = s.graph.add_node_multi("nonzero", Op::Selection(Selection::NonZero), &[x], outputs);
    made.into_iter().for_each(|id| s.output(id));
}

fn compress(s: &mut Sketch) {
    let x = s.input(&[3, 10, 5]);
    let conditions: Vec<u8> = (0..10).map(|at| u8::from(at % 4 != 0)).collect();
    let conditions = s.given(Tensor::from_slice(DType::Bool, Shape::from([10]), &conditions));
    let outputs = vec![(DType::F32, Shape::from([3, 10, 5])), (DType::I64, Shape::from([1]))];
    let op = Op::Selection(Selection::Compress { axis: Some(1) });
    let made = s.graph.add_node_multi("compress", op, &[x, conditions], outputs);
    made.into_iter().for_each(|id| s.output(id));
}

/// A stump and a tree of two branches, over seven rows.
fn trees(s: &mut Sketch) {
    const LEAF: i32 = reef_graph::trees::LEAF;
    let x = s.input(&[7, 3]);
    let (low, high) = ((-0.25f32).to_bits() as i32, 0.5f32.to_bits() as i32);
    let stump = [[0, 1, low, 1, 2], [LEAF, 0, 0, 0, 1], [LEAF, 0, 0, 1, 2]];
    let tree =
        [[3, 0, high, 4, 5], [LEAF, 0, 0, 3, 1], [1, 2, low, 6, 7], [LEAF, 0, 0, 0, 2], [LEAF, 0, 0, 4, 0]];
    let words = |words: &[i32]| Tensor::from_slice(DType::I32, Shape::from([words.len()]), words);
    let mut inputs = vec![x];
    for array in [&[stump.concat(), tree.concat()].concat()[..], &[0, 3], &[0, 1, 0, 1]] {
        inputs.push(s.graph.add_const("trees", words(array)));
    }
    inputs.push(s.graph.add_const("votes", Tensor::f32([4], &[0.5, -1.0, 0.25, 2.0])));
    let y = s.node(Op::TreeEnsemble(Aggregate::Sum), &inputs, &[7, 2]);
    s.output(y);
}

/// Three rows times weights of four bits, with shifts.
fn packed(s: &mut Sketch) {
    let weights = PackedWeights { bits: 4, block: 32 };
    let (k, n) = (70, 37);
    let (blocks, bytes) = (weights.blocks(k), weights.row_bytes(k));
    let packed = s.integers(DType::U8, &[n, bytes]);
    let x = s.input(&[3, k]);
    let inputs = [x, s.fixed(packed), s.constant(&[n, blocks]), s.constant(&[n, blocks])];
    let y = s.node(Op::MatMulPacked(weights), &inputs, &[3, n]);
    s.output(y);
}

/// Several stages, branches that may run side by side, and blocks that are worth killing.
fn network(s: &mut Sketch) {
    let x = s.input(&[1, 12, 16, 16]);
    let stem = s.conv(x, 24, plain());
    let stem = s.same(Op::Unary(Unary::Relu), &[stem]);
    let left = s.conv(stem, 16, ConvAttrs { strides: [2; 2], ..plain() });
    let right = s.pool(stem, PoolKind::Max);
    let both = s.node(Op::Concat { axis: 1 }, &[left, right], &[1, 40, 8, 8]);
    let y = s.conv(both, 48, ConvAttrs { kernel: [1; 2], pads: [0; 4], ..plain() });
    let y = s.same(Op::Unary(Unary::Silu), &[y]);
    let op = Op::Reduce { reduce: Reduce::Mean, axes: vec![2, 3], keep_dims: false };
    let y = s.node(op, &[y], &[1, 48]);
    let weights = s.constant(&[48, 30]);
    let y = s.node(Op::MatMul { trans_a: false, trans_b: false }, &[y, weights], &[1, 30]);
    let y = s.same(Op::Softmax { axis: 1 }, &[y]);
    s.output(y);
}

/// Doubles.
#[derive(Debug)]
struct Doubling([TensorSpec; 1]);

impl HostKernel for Doubling {
    fn name(&self) -> &str {
        "Doubling"
    }

    fn inputs(&self) -> &[TensorSpec] {
        &self.0
    }

    fn outputs(&self) -> &[TensorSpec] {
        &self.0
    }

    fn new_state(&self) -> Result<Box<dyn HostState>, HostFault> {
        Ok(Box::new(Double))
    }
}

struct Double;

impl HostState for Double {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), HostFault> {
        let (x, y): (&[f32], &mut [f32]) =
            (bytemuck::cast_slice(inputs[0]), bytemuck::cast_slice_mut(outputs[0]));
        y.iter_mut().zip(x).for_each(|(y, x)| *y = 2.0 * x);
        Ok(())
    }
}

/// A host kernel between two native ones: `2·max(x, 0) + x`.
fn hosted() -> Sample {
    let mut s = Sketch { graph: Graph::default(), rng: Rng::new(3), inputs: vec![] };
    let x = s.input(&[9, 14]);
    let y = s.same(Op::Unary(Unary::Relu), &[x]);
    let y = s.same(Op::Host(HostOp { index: 0, operators: "Doubling".into() }), &[y]);
    let y = s.same(Op::Binary(Binary::Add), &[y, x]);
    s.output(y);
    let shape = Shape::from([9, 14]);
    let results: Vec<f32> = s.inputs[0].values::<f32>().iter().map(|x| 2.0 * x.max(0.0) + x).collect();
    Sample {
        name: "host kernel",
        expected: vec![Tensor::f32(shape.clone(), &results)],
        host_kernels: vec![Arc::new(Doubling([TensorSpec { dtype: DType::F32, shape }]))],
        graph: s.graph,
        inputs: s.inputs,
    }
}
