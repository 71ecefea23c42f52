//! Operators that are put together of others: values against the definition, computed plainly.

use half::bf16;
use reef_graph::{DType, Op};
use tract_onnx::pb::tensor_proto::DataType;

use super::network::{Attr, Network, specialise};
use super::numeric::{Given, close, computed, f32s, f32s_of, given, i64s, i64s_of, run};

/// Numbers without an order, between −1 and 1.
fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// The model of one operator, with operands left out, and the output at a slot of so many.
fn network(
    (operator, opset): (&str, i64),
    inputs: &[Option<Given>],
    attributes: &[(&str, Attr)],
    (slot, outputs): (usize, usize),
) -> Network {
    let mut network = Network::default();
    network.opset(opset);
    let mut names = vec![];
    for (at, input) in inputs.iter().enumerate() {
        let Some(Given(code, dims, _)) = input else {
            names.push(String::new());
            continue;
        };
        let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
        network.input(&format!("x{at}"), *code, &dims.iter().map(String::as_str).collect::<Vec<_>>());
        names.push(format!("x{at}"));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let made = network.nodes(operator, &names, attributes, outputs);
    network.output(&made[slot], DataType::Float, &["K"]);
    network
}

fn slot(
    operator: (&str, i64),
    inputs: &[Option<Given>],
    attributes: &[(&str, Attr)],
    slots: (usize, usize),
) -> (DType, Vec<u8>) {
    let network = network(operator, inputs, attributes, slots);
    let given = || inputs.iter().flatten();
    let dims: Vec<&[usize]> = given().map(|Given(_, dims, _)| &dims[..]).collect();
    let bytes: Vec<Vec<u8>> = given().map(|Given(_, _, bytes)| bytes.clone()).collect();
    run(&specialise(&network.model(), &dims), &bytes)
}

/// One attention: batch, heads, heads of keys, queries, keys, products, columns of values.
struct Attention {
    extents: [usize; 7],
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    scale: f32,
    cap: f32,
}

impl Attention {
    fn new(extents: [usize; 7]) -> Attention {
        let [n, h, s, q, k, d, w] = extents;
        let scale = 1.0 / (d as f32).sqrt();
        let (queries, keys, values) = (n * h * q * d, n * s * k * d, n * s * k * w);
        Attention { extents, q: noise(queries, 1), k: noise(keys, 2), v: noise(values, 3), scale, cap: 0.0 }
    }

    /// Queries, keys and values with four axes.
    fn given(&self) -> Vec<Option<Given>> {
        let [n, h, s, q, k, d, w] = self.extents;
        let all = [f32s(&[n, h, q, d], &self.q), f32s(&[n, s, k, d], &self.k), f32s(&[n, s, k, w], &self.v)];
        all.into_iter().map(Some).collect()
    }

    /// The result and the probabilities for what is added to the score of (batch, head, query, key).
    fn plain(&self, bias: impl Fn(usize, usize, usize, usize) -> f32) -> (Vec<f32>, Vec<f32>) {
        let [n, h, s, q, k, d, w] = self.extents;
        let (mut made, mut weights) = (vec![], vec![]);
        for (batch, head) in (0..n).flat_map(|batch| (0..h).map(move |head| (batch, head))) {
            let other = batch * s + head / (h / s);
            for row in 0..q {
                let score = |key: usize| {
                    let (a, b) = (((batch * h + head) * q + row) * d, (other * k + key) * d);
                    let dot: f32 = (0..d).map(|i| self.q[a + i] * self.k[b + i]).sum();
                    let score = dot * self.scale;
                    let bent = if self.cap > 0.0 { (score / self.cap).tanh() * self.cap } else { score };
                    bent + bias(batch, head, row, key)
                };
                let scores: Vec<f32> = (0..k).map(score).collect();
                let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let power = |score: &f32| if most.is_infinite() { 0.0 } else { (score - most).exp() };
                let powers: Vec<f32> = scores.iter().map(power).collect();
                let sum = powers.iter().sum::<f32>().max(f32::MIN_POSITIVE);
                let row: Vec<f32> = powers.iter().map(|power| power / sum).collect();
                let column = |c: usize| (0..k).map(|key| row[key] * self.v[(other * k + key) * w + c]).sum();
                made.extend((0..w).map(column).collect::<Vec<f32>>());
                weights.extend(row);
            }
        }
        (made, weights)
    }
}

const NEVER: f32 = f32::NEG_INFINITY;

#[test]
fn attention_of_shared_heads_is_two_products_and_a_softmax() {
    let mut attention = Attention::new([2, 6, 2, 3, 5, 4, 7]);
    let result = |attention: &Attention, attributes: &[(&str, Attr)]| {
        f32s_of(slot(("Attention", 23), &attention.given(), attributes, (0, 1)))
    };
    close(&result(&attention, &[]), &attention.plain(|_, _, _, _| 0.0).0);
    (attention.scale, attention.cap) = (0.3, 0.2);
    let attributes = [("scale", Attr::Float(0.3)), ("softcap", Attr::Float(0.2))];
    close(&result(&attention, &attributes), &attention.plain(|_, _, _, _| 0.0).0);
    let network = network(("Attention", 23), &attention.given(), &[("is_causal", Attr::Int(1))], (0, 1));
    let dims: [&[usize]; 3] = [&[2, 6, 3, 4], &[2, 2, 5, 4], &[2, 2, 5, 7]];
    let graph = specialise(&network.model(), &dims).graph;
    let ops: Vec<&str> = graph.nodes.iter().map(|node| node.op.name()).collect();
    let count = |name: &str| ops.iter().filter(|&&op| op == name).count();
    // Nothing is copied for the sharers, and causal attention needs no guard.
    assert_eq!([count("MatMul"), count("Softmax"), count("Where"), count("Expand")], [2, 1, 1, 0], "{ops:?}");
}

#[test]
fn attention_with_three_axes_takes_its_heads_apart() {
    let attention = Attention::new([1, 2, 2, 3, 3, 4, 4]);
    let joined = |x: &[f32]| {
        let at = |row: usize, head: usize, i: usize| x[(head * 3 + row) * 4 + i];
        (0..24).map(|at_| at(at_ / 8, at_ / 4 % 2, at_ % 4)).collect::<Vec<f32>>()
    };
    let inputs: Vec<Option<Given>> = [&attention.q, &attention.k, &attention.v]
        .map(|x| Some(f32s(&[1, 3, 8], &joined(x))))
        .into_iter()
        .collect();
    let attributes = [("q_num_heads", Attr::Int(2)), ("kv_num_heads", Attr::Int(2))];
    let made = f32s_of(slot(("Attention", 23), &inputs, &attributes, (0, 1)));
    close(&made, &joined(&attention.plain(|_, _, _, _| 0.0).0));
}

#[test]
fn masks_of_attention_are_combined() {
    let attention = Attention::new([2, 4, 2, 3, 5, 4, 4]);
    // The second query has no key; the last key is not in the mask.
    let held = |row: usize, key: usize| row != 1 && key < 4 && !(row + key).is_multiple_of(3);
    let mask: Vec<u8> = (0..12).map(|at| u8::from(held(at / 4, at % 4))).collect();
    let mut inputs = attention.given();
    inputs.push(Some(given(DataType::Bool, &[3, 4], &mask)));
    let bias = |_: usize, _: usize, row, key| if held(row, key) { 0.0 } else { NEVER };
    let (made, weights) = attention.plain(bias);
    close(&f32s_of(slot(("Attention", 24), &inputs, &[], (0, 1))), &made);
    let mode = [("qk_matmul_output_mode", Attr::Int(3))];
    close(&f32s_of(slot(("Attention", 24), &inputs, &mode, (3, 4))), &weights);
    // Of floats, by head, beside the order, where keys end and a window.
    let mask = noise(4 * 3 * 5, 9);
    inputs[3] = Some(f32s(&[4, 3, 5], &mask));
    inputs.extend([None, None, Some(i64s(&[2], &[5, 2]))]);
    let lengths = [5, 2];
    let bias = |batch: usize, head: usize, row: usize, key: usize| {
        let (place, key) = (row as i64 + lengths[batch] - 3, key as i64);
        let counts = key <= place && place - key <= 1 && key < lengths[batch];
        if counts { mask[(head * 3 + row) * 5 + key as usize] } else { NEVER }
    };
    let attributes = [("is_causal", Attr::Int(1)), ("left_window_size", Attr::Int(1))];
    let made = f32s_of(slot(("Attention", 25), &inputs, &attributes, (0, 1)));
    close(&made, &attention.plain(bias).0);
}

#[test]
fn attention_goes_on_from_its_past() {
    let attention = Attention::new([1, 2, 1, 2, 5, 4, 3]);
    let [q, ..] = &attention.given()[..] else { unreachable!() };
    let Some(Given(code, dims, bytes)) = q else { unreachable!() };
    let inputs = vec![
        Some(Given(*code, dims.clone(), bytes.clone())),
        Some(f32s(&[1, 1, 2, 4], &attention.k[12..])),
        Some(f32s(&[1, 1, 2, 3], &attention.v[9..])),
        None,
        Some(f32s(&[1, 1, 3, 4], &attention.k[..12])),
        Some(f32s(&[1, 1, 3, 3], &attention.v[..9])),
    ];
    let causal = [("is_causal", Attr::Int(1))];
    let made = f32s_of(slot(("Attention", 23), &inputs, &causal, (0, 3)));
    close(&made, &attention.plain(|_, _, row, key| if key <= row + 3 { 0.0 } else { NEVER }).0);
    close(&f32s_of(slot(("Attention", 23), &inputs, &causal, (1, 3))), &attention.k);
    close(&f32s_of(slot(("Attention", 23), &inputs, &causal, (2, 3))), &attention.v);
}

#[test]
fn losses_are_weighted_and_ignore_a_class() {
    let x = noise(2 * 3 * 4, 5);
    let target = [0, 1, 2, -1, 2, 2, 1, 0];
    let class_weights = [0.5, 2.0, 0.25];
    let each = |ignored: i64, weighted: bool| {
        let loss = |(at, &class): (usize, &i64)| {
            let place = if class < 0 { class + 3 } else { class } as usize;
            let weight = if class == ignored {
                0.0
            } else if weighted {
                class_weights[place]
            } else {
                1.0
            };
            (-x[(at / 4 * 3 + place) * 4 + at % 4] * weight, weight)
        };
        target.iter().enumerate().map(loss).collect::<Vec<(f32, f32)>>()
    };
    let inputs = |weighted: bool| {
        let mut inputs = vec![Some(f32s(&[2, 3, 4], &x)), Some(i64s(&[2, 4], &target))];
        inputs.extend(weighted.then(|| Some(f32s(&[3], &class_weights))));
        inputs
    };
    let operator = ("NegativeLogLikelihoodLoss", 13);
    for (ignored, weighted) in [(7, false), (2, true), (-1, false)] {
        let made = |reduction| {
            let attributes = [("reduction", Attr::Text(reduction)), ("ignore_index", Attr::Int(ignored))];
            f32s_of(slot(operator, &inputs(weighted), &attributes, (0, 1)))
        };
        let each = each(ignored, weighted);
        let losses: Vec<f32> = each.iter().map(|(loss, _)| *loss).collect();
        let (sum, weight) = (losses.iter().sum::<f32>(), each.iter().map(|(_, weight)| weight).sum::<f32>());
        close(&made("none"), &losses);
        close(&made("sum"), &[sum]);
        close(&made("mean"), &[sum / weight]);
    }
    // Of scores: the same of the logarithm of their softmax, which is the second output.
    let operator = ("SoftmaxCrossEntropyLoss", 13);
    let logs = f32s_of(slot(operator, &inputs(false), &[], (1, 2)));
    let column = |at: usize| (0..3).map(|class| logs[class * 4 + at].exp()).sum::<f32>();
    close(&[column(0), column(3)], &[1.0, 1.0]);
    let log_inputs = [Some(f32s(&[2, 3, 4], &logs)), Some(i64s(&[2, 4], &target))];
    let made = f32s_of(slot(operator, &inputs(false), &[], (0, 2)));
    close(&made, &f32s_of(slot(("NegativeLogLikelihoodLoss", 13), &log_inputs, &[], (0, 1))));
}

#[test]
fn brain_floats_are_computed_in_single_precision_and_rounded_once() {
    let x: Vec<bf16> = noise(6, 1).into_iter().map(bf16::from_f32).collect();
    let y: Vec<bf16> = noise(6, 2).into_iter().map(bf16::from_f32).collect();
    let bits = |x: &[bf16]| x.iter().map(|x| x.to_bits()).collect::<Vec<u16>>();
    let of = |x: &[bf16]| given(DataType::Bfloat16, &[6], &bits(x));
    let (dtype, bytes) = computed("Mul", 17, &[of(&x)], &[of(&y)], &[]);
    let product: Vec<bf16> = x.iter().zip(&y).map(|(x, y)| bf16::from_f32(x.to_f32() * y.to_f32())).collect();
    assert_eq!((dtype, bytes), (DType::BF16, bytemuck::cast_slice(&bits(&product)).to_vec()));
    let wide: Vec<f32> = noise(6, 3);
    let (dtype, bytes) = computed("Cast", 17, &[f32s(&[6], &wide)], &[], &[("to", Attr::Int(16))]);
    let rounded: Vec<bf16> = wide.iter().map(|&x| bf16::from_f32(x)).collect();
    assert_eq!((dtype, bytes), (DType::BF16, bytemuck::cast_slice(&bits(&rounded)).to_vec()));
}

#[test]
fn norms_go_over_windows_channels_and_axes() {
    let x = noise(2 * 4 * 3 * 3, 4);
    let at = |n: usize, c: usize, h: i64, w: i64| match (0..3).contains(&h) && (0..3).contains(&w) {
        true => x[((n * 4 + c) * 3 + h as usize) * 3 + w as usize],
        false => 0.0,
    };
    let given = || [f32s(&[2, 4, 3, 3], &x)];
    let attributes =
        [("kernel_shape", Attr::Ints(&[2, 2])), ("pads", Attr::Ints(&[1, 1, 0, 0])), ("p", Attr::Int(3))];
    let mut want = vec![];
    for place in 0..72usize {
        let (n, c, h, w) = (place / 36, place / 9 % 4, (place / 3 % 3) as i64, (place % 3) as i64);
        let window = [(h - 1, w - 1), (h - 1, w), (h, w - 1), (h, w)];
        want.push(window.map(|(h, w)| at(n, c, h, w).abs().powi(3)).iter().sum::<f32>().cbrt());
    }
    close(&f32s_of(computed("LpPool", 18, &given(), &[], &attributes)), &want);
    let mut want = vec![];
    for place in 0..72usize {
        let (n, c, rest) = (place / 36, place / 9 % 4, place % 9);
        let near = c.saturating_sub(1)..(c + 3).min(4);
        let sum: f32 = near.map(|c| x[(n * 4 + c) * 9 + rest].powi(2)).sum();
        want.push(x[place] / (2.0 + 0.5 / 4.0 * sum).powf(0.75));
    }
    let attributes = [("size", Attr::Int(4)), ("alpha", Attr::Float(0.5)), ("bias", Attr::Float(2.0))];
    close(&f32s_of(computed("LRN", 13, &given(), &[], &attributes)), &want);
    let rows = f32s(&[2, 2], &[3.0, -4.0, 0.0, 0.0]);
    close(&f32s_of(computed("LpNormalization", 1, &[rows], &[], &[])), &[0.6, -0.8, 0.0, 0.0]);
    let rows = f32s(&[1, 1, 1, 4], &[1.0, 3.0, 1.0, 3.0]);
    let made = f32s_of(computed("MeanVarianceNormalization", 13, &[rows], &[], &[]));
    close(&made, &[-1.0, 1.0, -1.0, 1.0]);
}

#[test]
fn the_first_of_the_largest_is_hard() {
    let x = || [f32s(&[2, 3], &[1.0, 2.0, 2.0, -1.0, -2.0, -1.0])];
    let made = f32s_of(computed("Hardmax", 13, &x(), &[], &[]));
    close(&made, &[0.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
    let along = f32s_of(computed("Hardmax", 11, &x(), &[], &[("axis", Attr::Int(0))]));
    close(&along, &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn running_sums_of_whole_numbers_are_exact() {
    let x: Vec<i64> = (0..14).map(|at| (1 << 40) + at * at).collect();
    let sums = |exclusive: bool, reverse: bool| {
        let sum = |row: &[i64]| {
            let each = |at: usize| match (exclusive, reverse) {
                (false, false) => row[..=at].iter().sum(),
                (true, false) => row[..at].iter().sum(),
                (false, true) => row[at..].iter().sum(),
                (true, true) => row[at + 1..].iter().sum::<i64>(),
            };
            (0..row.len()).map(each).collect::<Vec<i64>>()
        };
        x.chunks(7).flat_map(sum).collect::<Vec<i64>>()
    };
    for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
        let attributes = [("exclusive", Attr::Int(exclusive.into())), ("reverse", Attr::Int(reverse.into()))];
        let axis = i64s(&[], &[1]);
        let made = i64s_of(computed("CumSum", 14, &[i64s(&[2, 7], &x)], &[axis], &attributes));
        assert_eq!(made, sums(exclusive, reverse), "{exclusive} {reverse}");
    }
    let attributes = [("exclusive", Attr::Int(1))];
    let x = f32s(&[4], &[2.0, 3.0, 0.5, 7.0]);
    let made = f32s_of(computed("CumProd", 26, &[x], &[i64s(&[], &[0])], &attributes));
    close(&made, &[1.0, 2.0, 6.0, 3.0]);
}

#[test]
fn sequences_are_turned_around_up_to_their_lengths() {
    let x: Vec<f32> = (0..12).map(|at| at as f32).collect();
    let inputs = [f32s(&[3, 2, 2], &x), i64s(&[2], &[3, 2])];
    let made = f32s_of(computed("ReverseSequence", 10, &inputs, &[], &[]));
    close(&made, &[8., 9., 6., 7., 4., 5., 2., 3., 0., 1., 10., 11.]);
}

#[test]
fn borders_repeat_mirror_and_wrap() {
    let padded = |mode: &str| {
        let inputs = [f32s(&[1, 1, 2, 3], &[1., 2., 3., 4., 5., 6.])];
        let pads = i64s(&[8], &[0, 0, 0, 2, 0, 0, 1, 2]);
        f32s_of(computed("Pad", 19, &inputs, &[pads], &[("mode", Attr::Text(mode))]))
    };
    let rows = |rows: [[f32; 7]; 3]| rows.concat();
    let (a, b) = ([1., 1., 1., 2., 3., 3., 3.], [4., 4., 4., 5., 6., 6., 6.]);
    close(&padded("edge"), &rows([a, b, b]));
    let (a, b) = ([3., 2., 1., 2., 3., 2., 1.], [6., 5., 4., 5., 6., 5., 4.]);
    close(&padded("reflect"), &rows([a, b, a]));
    let (a, b) = ([2., 3., 1., 2., 3., 1., 2.], [5., 6., 4., 5., 6., 4., 5.]);
    close(&padded("wrap"), &rows([a, b, a]));
    let centred = |shape: &[i64]| {
        let inputs = [f32s(&[2, 3], &[1., 2., 3., 4., 5., 6.])];
        f32s_of(computed("CenterCropPad", 18, &inputs, &[i64s(&[2], shape)], &[]))
    };
    close(&centred(&[1, 2]), &[1., 2.]);
    close(&centred(&[3, 1]), &[2., 5., 0.]);
}

#[test]
fn a_step_of_linear_attention_changes_its_state() {
    let [steps, heads, shared, depth, width] = [3, 4, 2, 3, 2];
    let (q, k) = (noise(steps * heads * depth, 1), noise(steps * shared * depth, 2));
    let (v, decay) = (noise(steps * shared * width, 3), noise(steps * shared, 4));
    let (beta, past) = (noise(steps, 5), noise(shared * depth * width, 6));
    let mut state = past.clone();
    let mut want = vec![];
    for step in 0..steps {
        for head in 0..shared {
            let (key, value) = ((step * shared + head) * depth, (step * shared + head) * width);
            let state = &mut state[head * depth * width..][..depth * width];
            state.iter_mut().for_each(|x| *x *= decay[step * shared + head].exp());
            let known =
                |c: usize, state: &[f32]| (0..depth).map(|d| state[d * width + c] * k[key + d]).sum::<f32>();
            let learnt: Vec<f32> =
                (0..width).map(|c| beta[step] * (v[value + c] - known(c, state))).collect();
            for (at, x) in state.iter_mut().enumerate() {
                *x += k[key + at / width] * learnt[at % width];
            }
        }
        for head in 0..heads {
            let state = &state[head / 2 * depth * width..][..depth * width];
            let query = (step * heads + head) * depth;
            let read = |c: usize| (0..depth).map(|d| q[query + d] * state[d * width + c]).sum::<f32>() * 0.5;
            want.extend((0..width).map(read));
        }
    }
    let inputs = [
        f32s(&[1, steps, heads * depth], &q),
        f32s(&[1, steps, shared * depth], &k),
        f32s(&[1, steps, shared * width], &v),
        f32s(&[1, shared, depth, width], &past),
        f32s(&[1, steps, shared], &decay),
        f32s(&[1, steps, 1], &beta),
    ]
    .map(Some);
    let attributes =
        [("q_num_heads", Attr::Int(4)), ("kv_num_heads", Attr::Int(2)), ("scale", Attr::Float(0.5))];
    close(&f32s_of(slot(("LinearAttention", 27), &inputs, &attributes, (0, 2))), &want);
    close(&f32s_of(slot(("LinearAttention", 27), &inputs, &attributes, (1, 2))), &state);
}

#[test]
fn a_causal_convolution_hands_on_its_last_elements() {
    let (x, past) = (noise(2 * 4, 1), noise(2 * 2, 2));
    let (weights, bias) = (noise(2 * 3, 3), noise(2, 4));
    let padded: Vec<Vec<f32>> =
        (0..2).map(|c| [&past[c * 2..c * 2 + 2], &x[c * 4..c * 4 + 4]].concat()).collect();
    let sum =
        |c: usize, at: usize| bias[c] + (0..3).map(|t| weights[c * 3 + t] * padded[c][at + t]).sum::<f32>();
    let want: Vec<f32> = (0..8).map(|at| sum(at / 4, at % 4)).map(|x| x / (1.0 + (-x).exp())).collect();
    let given =
        || [f32s(&[1, 2, 4], &x), f32s(&[2, 1, 3], &weights), f32s(&[2], &bias), f32s(&[1, 2, 2], &past)];
    let silu = [("activation", Attr::Text("silu"))];
    let inputs = given().map(Some);
    close(&f32s_of(slot(("CausalConvWithState", 27), &inputs, &silu, (0, 2))), &want);
    let present = f32s_of(slot(("CausalConvWithState", 27), &inputs, &silu, (1, 2)));
    close(&present, &[&padded[0][4..], &padded[1][4..]].concat());
    // With constant weights it is a convolution.
    let [x, weights, bias, _] = given();
    let network = {
        let mut network = Network::default();
        network.opset(27);
        network.input("x", x.0, &["1", "2", "4"]);
        let (weights, bias) =
            (network.bytes_of(weights.0, &[2, 1, 3], &weights.2), network.bytes_of(bias.0, &[2], &bias.2));
        let made = network.nodes("CausalConvWithState", &["x", &weights, &bias], &silu, 2);
        network.output(&made[0], DataType::Float, &["1", "2", "4"]);
        network
    };
    let specialised = specialise(&network.model(), &[&[1, 2, 4]]);
    assert!(specialised.graph.nodes.iter().any(|node| matches!(node.op, Op::Conv(_))));
    let made: Vec<f32> = f32s_of(run(&specialised, &[x.2]));
    close(&[made[2], made[7]], &[want[2], want[7]]);
}

#[test]
fn a_cache_is_written_from_a_place_on() {
    let past: Vec<f32> = (0..24).map(|at| at as f32).collect();
    let update: Vec<f32> = (0..8).map(|at| 100.0 + at as f32).collect();
    let inputs = [f32s(&[2, 2, 3, 2], &past), f32s(&[2, 2, 1, 2], &update), i64s(&[2], &[2, 0])];
    let mut want = past.clone();
    for (to, from) in [(4, 0), (10, 2), (12, 4), (18, 6)] {
        want[to..to + 2].copy_from_slice(&update[from..from + 2]);
    }
    close(&f32s_of(computed("TensorScatter", 24, &inputs, &[], &[])), &want);
    let inputs = [f32s(&[1, 4], &past[..4]), f32s(&[1, 3], &update[..3]), i64s(&[1], &[3])];
    let around = [("mode", Attr::Text("circular")), ("axis", Attr::Int(1))];
    close(&f32s_of(computed("TensorScatter", 24, &inputs, &[], &around)), &[101., 102., 2., 100.]);
}

#[test]
fn an_affine_grid_maps_centres() {
    let theta = [2.0, 0.0, 0.5, 0.0, -1.0, 0.25];
    let inputs = || [f32s(&[1, 2, 3], &theta)];
    let size = || [i64s(&[4], &[1, 1, 2, 4])];
    let made = f32s_of(computed("AffineGrid", 20, &inputs(), &size(), &[]));
    let x = [-1.0, 0.0, 1.0, 2.0];
    let row = |y: f32| x.iter().flat_map(|&x| [x, y]).collect::<Vec<f32>>();
    close(&made, &[row(0.75), row(-0.25)].concat());
    let corners = [("align_corners", Attr::Int(1))];
    let made = f32s_of(computed("AffineGrid", 20, &inputs(), &size(), &corners));
    close(&[made[0], made[1], made[14], made[15]], &[-1.5, 1.25, 2.5, -0.75]);
}

#[test]
fn a_border_may_be_computed() {
    let mut network = Network::default();
    network.opset(18);
    network.input("x", DataType::Float, &["1", "2"]);
    network.input("value", DataType::Float, &["1"]);
    let pads = network.integers(&[4], &[0, 1, 1, 0]);
    let y = network.node("Pad", &["x", &pads, "value"], &[]);
    network.output(&y, DataType::Float, &["2", "3"]);
    let specialised = specialise(&network.model(), &[&[1, 2], &[1]]);
    let bytes = |values: &[f32]| bytemuck::cast_slice(values).to_vec();
    let made = f32s_of(run(&specialised, &[bytes(&[1.0, 2.0]), bytes(&[7.0])]));
    close(&made, &[7., 1., 2., 7., 7., 7.]);
}
