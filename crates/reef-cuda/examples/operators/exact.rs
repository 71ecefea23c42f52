//! What convolutions, products and attention give, in double precision from end to end, fast enough for large
//! shapes.

use reef_graph::{Binary, ConvAttrs, Graph, Op, Tensor, Unary, ValueKind};

/// Evaluates a graph of one output with tensors for its inputs. `None` where it has other operators than
/// those of large shapes.
pub(crate) fn evaluate(graph: &Graph, inputs: &[Tensor]) -> Option<Vec<f64>> {
    let doubles = |tensor: &Tensor| tensor.values::<f32>().iter().map(|&value| f64::from(value)).collect();
    let mut values: Vec<Vec<f64>> = graph
        .values
        .iter()
        .map(|value| match &value.kind {
            ValueKind::Input(index) => doubles(&inputs[*index]),
            ValueKind::Const(tensor) => doubles(tensor),
            ValueKind::Node(_) => vec![],
        })
        .collect();
    for node in &graph.nodes {
        let operand = |index: usize| -> &[f64] { &values[node.inputs[index].index()] };
        let dims = |index: usize| -> &[usize] { &graph.value(node.inputs[index]).shape };
        let shape = &graph.value(node.outputs[0]).shape;
        let made = match &node.op {
            Op::Conv(attrs) => {
                let bias = (node.inputs.len() > 2).then(|| operand(2));
                conv(attrs, (operand(0), dims(0)), (operand(1), dims(1)), bias, shape)
            }
            Op::MatMul { trans_a, trans_b } => {
                let (a, b) = ((operand(0), dims(0)), (operand(1), dims(1)));
                matmul(a, b, [*trans_a, *trans_b], shape)
            }
            Op::Binary(function @ (Binary::Add | Binary::Mul)) => {
                let (a, b) = (operand(0), operand(1));
                // One for all, or for the last axes.
                if !shape.ends_with(dims(1)) && b.len() != 1 {
                    return None;
                }
                let add = *function == Binary::Add;
                let pairs = a.iter().zip(b.iter().cycle());
                pairs.map(|(a, b)| if add { a + b } else { a * b }).collect()
            }
            Op::ScaleShift => {
                let (scale, shift, pixels) = (operand(1), operand(2), dims(0)[2..].iter().product());
                let channels = operand(0).chunks(pixels).zip(scale.iter().zip(shift).cycle());
                channels.flat_map(|(x, (scale, shift))| x.iter().map(move |x| x * scale + shift)).collect()
            }
            Op::Unary(Unary::Relu) => operand(0).iter().map(|value| value.max(0.0)).collect(),
            Op::Softmax { axis } if *axis + 1 == shape.rank() => softmax(operand(0), shape[*axis]),
            _ => return None,
        };
        values[node.outputs[0].index()] = made;
    }
    Some(values.swap_remove(graph.outputs[0].index()))
}

type Operand<'a> = (&'a [f64], &'a [usize]);

/// Adds `factor` times a row to another.
fn add_scaled(sums: &mut [f64], factor: f64, row: &[f64]) {
    sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += factor * value);
}

fn conv(
    attrs: &ConvAttrs,
    (x, x_dims): Operand<'_>,
    (weights, w_dims): Operand<'_>,
    bias: Option<&[f64]>,
    shape: &[usize],
) -> Vec<f64> {
    let [channels, height, width] = [x_dims[1], x_dims[2], x_dims[3]];
    let [taps_h, taps_w] = attrs.kernel;
    let (inputs, outputs) = (w_dims[1], w_dims[0] / attrs.groups);
    let [out_h, out_w] = [shape[2], shape[3]];
    let mut made = vec![0.0; shape.iter().product()];
    for (plane, sums) in made.chunks_exact_mut(out_h * out_w).enumerate() {
        let (n, o) = (plane / shape[1], plane % shape[1]);
        sums.fill(bias.map_or(0.0, |bias| bias[o]));
        for i in 0..inputs {
            let image = &x[(n * channels + o / outputs * inputs + i) * height * width..][..height * width];
            for tap in 0..taps_h * taps_w {
                let weight = weights[(o * inputs + i) * taps_h * taps_w + tap];
                let [shift_h, shift_w] =
                    [tap / taps_w * attrs.dilations[0], tap % taps_w * attrs.dilations[1]];
                let columns = inside(shift_w, attrs.strides[1], attrs.pads[1], [width, out_w]);
                for h in inside(shift_h, attrs.strides[0], attrs.pads[0], [height, out_h]) {
                    let row = &image[(h * attrs.strides[0] + shift_h - attrs.pads[0]) * width..][..width];
                    let sums = &mut sums[h * out_w..][..out_w];
                    if attrs.strides[1] == 1 && !columns.is_empty() {
                        let from = columns.start + shift_w - attrs.pads[1];
                        add_scaled(&mut sums[columns.clone()], weight, &row[from..]);
                        continue;
                    }
                    for w in columns.clone() {
                        sums[w] += weight * row[w * attrs.strides[1] + shift_w - attrs.pads[1]];
                    }
                }
            }
        }
    }
    made
}

/// The outputs whose tap at `shift` falls into the image.
fn inside(shift: usize, stride: usize, pad: usize, [extent, out]: [usize; 2]) -> std::ops::Range<usize> {
    let first = pad.saturating_sub(shift).div_ceil(stride);
    let end = (extent + pad).saturating_sub(shift).div_ceil(stride).min(out);
    first..end.max(first)
}

fn transposed(matrix: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    (0..rows * columns).map(|at| matrix[at % rows * columns + at / rows]).collect()
}

/// Matrices of the last two axes; those of the second operand are one for all, or one for each.
fn matmul((a, a_dims): Operand<'_>, (b, b_dims): Operand<'_>, trans: [bool; 2], shape: &[usize]) -> Vec<f64> {
    let [m, n] = [shape[shape.len() - 2], shape[shape.len() - 1]];
    let k = a_dims[a_dims.len() - if trans[0] { 2 } else { 1 }];
    let one_for_all = b_dims[..b_dims.len() - 2].iter().all(|&dim| dim == 1);
    let mut made = vec![0.0; shape.iter().product()];
    for (batch, sums) in made.chunks_exact_mut(m * n).enumerate() {
        let a = &a[batch * m * k..][..m * k];
        let b = &b[if one_for_all { 0 } else { batch * k * n }..][..k * n];
        let a = if trans[0] { &transposed(a, k, m) } else { a };
        let b = if trans[1] { &transposed(b, n, k) } else { b };
        for (row, sums) in a.chunks_exact(k).zip(sums.chunks_exact_mut(n)) {
            row.iter().zip(b.chunks_exact(n)).for_each(|(&factor, row)| add_scaled(sums, factor, row));
        }
    }
    made
}

fn softmax(x: &[f64], len: usize) -> Vec<f64> {
    let mut made = x.to_vec();
    for row in made.chunks_exact_mut(len) {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.iter_mut().for_each(|value| *value = (*value - largest).exp());
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|value| *value /= sum);
    }
    made
}
