//! What is run: every sample of the compiler, random products and convolutions, and large ones of well-known
//! networks.

use std::sync::Arc;

use reef_base::{AlignedBytes, Rng};
use reef_compile::{CompileError, CompileOptions, compile, reference, samples};
use reef_graph::{Binary, ConvAttrs, DType, Graph, Op, PoolAttrs, PoolKind, Tensor, Unary, ValueId};
use reef_plan::{Cutter, HostKernel, Plan, Precision};

use crate::exact;
use crate::sketch::{self, Sketch};

/// Who says what a graph gives.
enum Meaning {
    /// [`reference::evaluate`].
    Reference,
    /// The same, which must agree with [`exact::evaluate`].
    Both,
    /// [`exact::evaluate`].
    Exact,
    /// The sample, for its own inputs.
    Given(Vec<Tensor>),
}

/// A graph, inputs of its shapes, and what it gives.
pub(crate) struct Case {
    graph: Graph,
    host_kernels: Vec<Arc<dyn HostKernel>>,
    inputs: Vec<Tensor>,
    meaning: Meaning,
}

/// One output: floats may be off, other bytes may not.
pub(crate) enum Expected {
    Floats(Vec<f64>),
    Bytes(Vec<u8>),
}

/// How far outputs may be from what they should be.
#[derive(Clone, Copy)]
pub(crate) struct Tolerance {
    /// ‖difference‖ / ‖expected‖.
    pub(crate) norm: f64,
    /// The largest difference, as a share of the largest value.
    pub(crate) share: f64,
}

impl Case {
    fn of(sketch: Sketch, meaning: Meaning) -> Case {
        Case { graph: sketch.graph, host_kernels: vec![], inputs: sketch.inputs, meaning }
    }

    pub(crate) fn plan(&self, cutter: &dyn Cutter, name: &str) -> Result<Plan, CompileError> {
        let options = CompileOptions { name: name.into() };
        compile(&self.graph, &self.host_kernels, &Arc::default(), cutter, &options)
    }

    /// Inputs with fresh floats; whole numbers and truth values, which pick among others, stay.
    pub(crate) fn fresh(&self, seed: u64) -> Vec<Tensor> {
        let mut rng = Rng::new(seed);
        let given = matches!(self.meaning, Meaning::Given(_));
        let fresh = |input: &Tensor| {
            if input.dtype() != DType::F32 || given {
                return input.clone();
            }
            let values: Vec<f32> = input.values::<f32>().iter().map(|_| rng.normal_f32()).collect();
            Tensor::f32(input.shape().clone(), &values)
        };
        self.inputs.iter().map(fresh).collect()
    }

    /// What comes out for these inputs.
    pub(crate) fn expected(&self, inputs: &[Tensor]) -> Result<Vec<Expected>, String> {
        let exact = || exact::evaluate(&self.graph, inputs).ok_or("not an operator of large shapes");
        let tensors = match &self.meaning {
            Meaning::Exact => return Ok(vec![Expected::Floats(exact()?)]),
            Meaning::Given(tensors) => tensors.clone(),
            Meaning::Reference | Meaning::Both => {
                reference::evaluate(&self.graph, inputs).map_err(|error| error.to_string())?
            }
        };
        if matches!(self.meaning, Meaning::Both) {
            let pairs = exact()?.into_iter().zip(tensors[0].values::<f32>());
            let far = |(a, b): (f64, &f32)| (a - f64::from(*b)).abs() > 1e-5 * a.abs().max(1.0);
            if pairs.into_iter().any(far) {
                return Err("the two references differ".into());
            }
        }
        Ok(tensors.iter().map(Expected::of).collect())
    }

    /// Whether there is a matrix product in it, which is what precisions are about.
    pub(crate) fn multiplies(&self) -> bool {
        self.products().0 > 0
    }

    /// Matrix products, and the longest sum, or 64.
    fn products(&self) -> (u32, usize) {
        let (mut products, mut longest) = (0, 64);
        for node in &self.graph.nodes {
            let dims = |index: usize| -> &[usize] { &self.graph.value(node.inputs[index]).shape };
            let sums = match &node.op {
                // One product for each tap is no matrix product.
                Op::Conv(attrs) if attrs.groups == dims(0)[1] => continue,
                Op::Conv(_) => dims(1)[1..].iter().product(),
                Op::MatMul { trans_a, .. } => dims(0)[dims(0).len() - if *trans_a { 2 } else { 1 }],
                _ => continue,
            };
            products += 1;
            longest = longest.max(sums);
        }
        (products, longest)
    }

    /// How far an output may be off. What is rounded to the nearest is off by 0.42 of a unit, half of its
    /// last bit, in the mean; a product of two such by 0.6, or by 0.95 where one of them is cut off instead.
    /// Sums of products are off by the same share, and products of those by more. Sums of f32 are off by
    /// more the longer they are.
    pub(crate) fn tolerance(&self, precision: Precision) -> Tolerance {
        let (products, longest) = self.products();
        let unit = if products == 0 { 0.0 } else { 0.8 * unit(precision) * f64::from(products).sqrt() };
        let norm = unit + F32_UNIT * (8.0 + (longest as f64).sqrt());
        Tolerance { norm, share: 5.0 * norm }
    }
}

/// Half of a last bit of f32.
const F32_UNIT: f64 = 1.0 / (1 << 24) as f64;

/// Half of a last bit of what is multiplied, where it is rounded.
fn unit(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 0.0,
        Precision::Tf32 | Precision::F16 => 1.0 / f64::from(1 << 11),
        Precision::Bf16 => 1.0 / f64::from(1 << 8),
    }
}

impl Expected {
    fn of(tensor: &Tensor) -> Expected {
        match tensor.dtype() {
            DType::F32 => Expected::Floats(tensor.values::<f32>().iter().map(|&v| f64::from(v)).collect()),
            _ => Expected::Bytes(tensor.bytes().as_slice().to_vec()),
        }
    }

    /// How far these bytes are off; `None` if they cannot be right at all.
    pub(crate) fn compare(&self, made: &[u8]) -> Option<Tolerance> {
        let expected = match self {
            Expected::Bytes(bytes) => return (bytes == made).then_some(Tolerance { norm: 0.0, share: 0.0 }),
            Expected::Floats(expected) => expected,
        };
        if made.len() != expected.len() * 4 {
            return None;
        }
        // Where buffers lie as they like.
        let made = AlignedBytes::copy_from(made);
        let made = made.as_slice().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let (mut apart, mut all, mut far, mut large) = (0.0, 0.0, 0.0f64, 0.0f64);
        for (made, expected) in made.zip(expected) {
            let off = f64::from(made) - expected;
            if !off.is_finite() {
                return None;
            }
            (apart, all) = (apart + off * off, all + expected * expected);
            (far, large) = (far.max(off.abs()), large.max(expected.abs()));
        }
        let share = |part: f64, whole: f64| if part == 0.0 { 0.0 } else { part / whole };
        Some(Tolerance { norm: share(apart, all).sqrt(), share: share(far, large) })
    }
}

/// A case by name; it is made when its turn comes.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) make: Box<dyn FnOnce() -> Case>,
}

fn normal(rng: &mut Rng) -> f32 {
    rng.normal_f32()
}

/// For weights: sums of products stay near one.
fn small(rng: &mut Rng) -> f32 {
    0.2 * rng.normal_f32()
}

/// All of them. `tiny` ones take an emulated device seconds.
pub(crate) fn all(tiny: bool) -> Vec<Entry> {
    let mut entries: Vec<Entry> = samples::all().into_iter().map(sample).collect();
    entries.extend(large(tiny));
    let random = |kind: &'static str, seed: u64, draw: fn(&mut Sketch) -> ValueId| Entry {
        name: format!("random {kind} {seed}"),
        make: Box::new(move || {
            let mut sketch = Sketch::new(seed, normal);
            let y = draw(&mut sketch);
            sketch.graph.add_output("y", y);
            Case::of(sketch, Meaning::Both)
        }),
    };
    for seed in 0..if tiny { 2 } else { 16 } {
        entries.push(random("convolution", seed, sketch::convolution));
        entries.push(random("product", seed, sketch::product));
        entries.push(random("normed convolution", seed, sketch::normed_convolution));
    }
    entries
}

fn sample(sample: samples::Sample) -> Entry {
    let has_reference = sample.host_kernels.is_empty();
    let meaning = if has_reference { Meaning::Reference } else { Meaning::Given(sample.expected) };
    let (graph, host_kernels, inputs) = (sample.graph, sample.host_kernels, sample.inputs);
    let make = Box::new(move || Case { graph, host_kernels, inputs, meaning });
    Entry { name: sample.name.into(), make }
}

/// A convolution that keeps an image's size: channels of the image, its side, channels that come out, the
/// kernel's side.
fn conv(s: &mut Sketch, sizes: [usize; 4]) -> ValueId {
    let [inputs, side, outputs, _] = sizes;
    let x = s.input(&[1, inputs, side, side]);
    let y = conv_of(s, x, sizes);
    s.node(Op::Unary(Unary::Relu), &[y], &[1, outputs, side, side])
}

fn conv_of(s: &mut Sketch, x: ValueId, [inputs, side, outputs, kernel]: [usize; 4]) -> ValueId {
    let weights = s.constant(&[outputs, inputs, kernel, kernel]);
    let bias = s.constant(&[outputs]);
    let (pads, kernel) = ([kernel / 2; 4], [kernel; 2]);
    let attrs = ConvAttrs { kernel, strides: [1; 2], pads, dilations: [1; 2], groups: 1 };
    s.node(Op::Conv(attrs), &[x, weights, bias], &[1, outputs, side, side])
}

/// A bottleneck of ResNet: fewer channels, a 3×3 of these, and back, added to what came in.
fn bottleneck(s: &mut Sketch, [outer, side, inner]: [usize; 3]) -> ValueId {
    let x = s.input(&[1, outer, side, side]);
    let mut y = x;
    for sizes in [[outer, side, inner, 1], [inner, side, inner, 3]] {
        y = conv_of(s, y, sizes);
        y = s.node(Op::Unary(Unary::Relu), &[y], &[1, inner, side, side]);
    }
    let dims = [1, outer, side, side];
    let y = conv_of(s, y, [inner, side, outer, 1]);
    let y = s.node(Op::Binary(Binary::Add), &[y, x], &dims);
    s.node(Op::Unary(Unary::Relu), &[y], &dims)
}

/// Rows, what is summed, and columns.
fn dense(s: &mut Sketch, [rows, depth, columns]: [usize; 3]) -> ValueId {
    let (x, weights) = (s.input(&[rows, depth]), s.constant(&[depth, columns]));
    let bias = s.constant(&[columns]);
    let dims = [rows, columns];
    let y = s.node(Op::MatMul { trans_a: false, trans_b: false }, &[x, weights], &dims);
    s.node(Op::Binary(Binary::Add), &[y, bias], &dims)
}

/// So many heads of so many rows and channels.
fn attention(s: &mut Sketch, [heads, rows, depth]: [usize; 3]) -> ValueId {
    let [q, k, v] = [0; 3].map(|_| s.input(&[1, heads, rows, depth]));
    let dims = [1, heads, rows, rows];
    let scores = s.node(Op::MatMul { trans_a: false, trans_b: true }, &[q, k], &dims);
    let factor = s.graph.add_const("factor", Tensor::scalar_f32((depth as f32).sqrt().recip()));
    let scores = s.node(Op::Binary(Binary::Mul), &[scores, factor], &dims);
    let weights = s.node(Op::Softmax { axis: 3 }, &[scores], &dims);
    s.node(Op::MatMul { trans_a: false, trans_b: false }, &[weights, v], &[1, heads, rows, depth])
}

/// The largest of 3×3, every other one.
fn pool(s: &mut Sketch, side: usize) -> ValueId {
    let x = s.input(&[1, 64, side, side]);
    let (kind, kernel, strides) = (PoolKind::Max, [3; 2], [2; 2]);
    let attrs = PoolAttrs { kind, kernel, strides, pads: [1; 4], dilations: [1; 2] };
    let out = (side - 1) / 2 + 1;
    s.node(Op::Pool(attrs), &[x], &[1, 64, out, out])
}

type Draw = fn(&mut Sketch, usize) -> ValueId;

fn drawn(name: String, meaning: Meaning, draw: impl FnOnce(&mut Sketch) -> ValueId + 'static) -> Entry {
    let make = move || {
        let mut sketch = Sketch::new(1, small);
        let y = draw(&mut sketch);
        sketch.graph.add_output("y", y);
        Case::of(sketch, meaning)
    };
    Entry { name, make: Box::new(make) }
}

/// Shapes of well-known networks; for an emulated device, smaller ones that are cut alike.
fn large(tiny: bool) -> Vec<Entry> {
    // ResNet's last and first stages, VGG's first layer.
    let convs = if tiny {
        vec![[64, 7, 32, 3], [32, 14, 64, 1], [3, 28, 32, 3]]
    } else {
        vec![[512, 7, 512, 3], [2048, 7, 512, 1], [64, 56, 64, 1], [64, 56, 64, 3], [3, 224, 64, 3]]
    };
    // VGG's dense layer with an eighth of its columns, BERT's.
    let products = if tiny { [[1, 1024, 64], [32, 96, 128]] } else { [[1, 25_088, 512], [128, 768, 3072]] };
    // BERT's, those of large language models, and those of a diffusion model and of Gemma.
    let heads = if tiny {
        [[2, 64, 64], [1, 65, 128], [1, 64, 160]]
    } else {
        [[12, 128, 64], [8, 256, 128], [4, 256, 256]]
    };
    let convs = convs.into_iter().map(|sizes| {
        let [inputs, side, outputs, kernel] = sizes;
        let name = format!("conv {kernel}x{kernel}, {side}x{side}x{inputs} to {outputs}");
        drawn(name, Meaning::Exact, move |s| conv(s, sizes))
    });
    let products = products.into_iter().map(|sizes| {
        let [rows, depth, columns] = sizes;
        let name = format!("dense {rows}x{depth}x{columns}");
        drawn(name, Meaning::Exact, move |s| dense(s, sizes))
    });
    let heads = heads.into_iter().map(|sizes| {
        let [heads, rows, depth] = sizes;
        let name = format!("attention, {heads} heads {rows}x{depth}");
        drawn(name, Meaning::Exact, move |s| attention(s, sizes))
    });
    // BERT's again, and ResNet's pooling and a block of it.
    let (rows, side) = if tiny { (8, 14) } else { (128, 112) };
    let block = if tiny { [32, 7, 16] } else { [256, 14, 64] };
    // A layer of DenseNet.
    let [inputs, layer, outputs] = if tiny { [48, 7, 32] } else { [896, 14, 128] };
    let whole = |name: &str, draw: Draw| drawn(name.into(), Meaning::Reference, move |s| draw(s, rows));
    let others = [
        whole("layer norm of 768", |s, rows| {
            let (x, scale, shift) = (s.input(&[rows, 768]), s.constant(&[768]), s.constant(&[768]));
            s.node(Op::LayerNorm { axis: 1, epsilon: 1e-12 }, &[x, scale, shift], &[rows, 768])
        }),
        whole("softmax of 128", |s, rows| {
            let x = s.input(&[12, rows, 128]);
            s.node(Op::Softmax { axis: 2 }, &[x], &[12, rows, 128])
        }),
        whole("gelu of 3072", |s, rows| {
            let x = s.input(&[rows, 3072]);
            s.node(Op::Unary(Unary::Gelu), &[x], &[rows, 3072])
        }),
        drawn(format!("normed conv 1x1, {layer}x{layer}x{inputs} to {outputs}"), Meaning::Exact, move |s| {
            let x = s.input(&[1, inputs, layer, layer]);
            sketch::normed(s, x, outputs, [1; 2])
        }),
        drawn("bottleneck of three convs".into(), Meaning::Exact, move |s| bottleneck(s, block)),
        drawn(format!("max pool {side}x{side}x64"), Meaning::Reference, move |s| pool(s, side)),
    ];
    convs.chain(products).chain(heads).chain(others).collect()
}
