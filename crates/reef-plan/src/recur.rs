//! Recurrent networks computed in one go on a host, over bytes: for devices that have no code of their own
//! for them.

use std::ops::Range;

use reef_graph::DType;
use reef_graph::reference::recurrent::{Unit, integer_products};

use crate::integer::{IntegerPanels, packed_offset};
use crate::layout::At;
use crate::recurrent::RecurrentSpec;

/// Products that are summed side by side.
const LANES: usize = 16;

/// Writes all of every output of `spec`, whose weights are as the model has them (`Raw`), computed, or
/// integers in panels; operands are as it says, little endian. The error says what of the inputs' values
/// means nothing.
pub fn recur(spec: &RecurrentSpec, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), String> {
    let constants = if spec.integers.is_some() { 4 + usize::from(spec.bias) } else { 2 };
    let mut rest = inputs[constants..].iter().copied();
    let mut next = |there: bool| if there { rest.next() } else { None };
    let (reset_bias, peepholes) = (next(spec.reset_bias).map(wide), next(spec.peepholes).map(wide));
    let (lengths, before) = (next(spec.lengths), [next(spec.h_before), next(spec.c_before)]);
    let unit = Unit {
        cell: spec.cell,
        functions: &spec.functions,
        clip: spec.clip,
        peepholes: peepholes.as_deref(),
        reset_bias: reset_bias.as_deref(),
    };
    let integers = spec.integers.map(|dtype| Integers::of(spec, inputs, dtype));
    for row in 0..spec.batch {
        let length = lengths.map_or(Ok(spec.all_steps), |lengths| length(spec, lengths, row))?;
        let given = (inputs, integers.as_ref());
        let states = sequence(spec, &unit, given, (row, length), before, outputs);
        let written = [spec.h_after, spec.c_after].into_iter().zip(&states).filter(|state| state.0);
        for (output, (_, state)) in written.enumerate() {
            store(outputs[usize::from(spec.y) + output], row * spec.hidden, state);
        }
    }
    Ok(())
}

/// The length of a sequence.
fn length(spec: &RecurrentSpec, lengths: &[u8], row: usize) -> Result<usize, String> {
    let length = i32::from_le_bytes(lengths[row * 4..][..4].try_into().expect("an element's bytes"));
    usize::try_from(length).ok().filter(|&length| length <= spec.all_steps).ok_or_else(|| {
        let (name, most) = (spec.cell.name(), spec.all_steps);
        format!("{name}: sequence_lens[{row}] is {length}, allowed are 0 to {most}")
    })
}

/// Takes a sequence through all the steps, writes y and gives the states after them.
fn sequence(
    spec: &RecurrentSpec,
    unit: &Unit<'_>,
    (inputs, integers): (&[&[u8]], Option<&Integers>),
    (row, length): (usize, usize),
    before: [Option<&[u8]>; 2],
    outputs: &mut [&mut [u8]],
) -> [Vec<f64>; 2] {
    let (hidden, all) = (spec.hidden, spec.cell.gates() * spec.hidden);
    let part = |bytes: &[u8], at: usize, count: usize| wide(&bytes[at * 4..][..count * 4]);
    let [mut h, mut c] = before.map(|state| match state {
        Some(state) => part(state, row * hidden, hidden),
        None => vec![0.0; hidden],
    });
    let mut product = |gate: usize, state: &[f64]| -> Vec<f64> {
        if let Some(integers) = integers {
            return integers.products(state, gate * hidden..(gate + 1) * hidden);
        }
        let state: Vec<f32> = state.iter().map(|&value| value as f32).collect();
        if spec.computed {
            return panels(spec, inputs[1], gate, &state);
        }
        let rows = inputs[1][gate * hidden * hidden * 4..].chunks_exact(hidden * 4).take(hidden);
        rows.map(|row| f64::from(dot(row, &state))).collect()
    };
    for turn in 0..spec.steps {
        let step = spec.step(turn);
        let inside = spec.first + step < length;
        if inside {
            let mut sums = part(inputs[0], (step * spec.batch + row) * spec.sums_row_stride, all);
            let biases = integers.map_or(&[][..], |integers| &integers.bias);
            sums.iter_mut().zip(biases).for_each(|(sum, bias)| *sum += bias);
            unit.step(&sums, &mut product, &mut h, &mut c);
        }
        if spec.y {
            let at = step * spec.y_step_stride + row * hidden;
            match inside {
                true => store(outputs[0], at, &h),
                false => outputs[0][at * 4..][..hidden * 4].fill(0),
            }
        }
    }
    [h, c]
}

/// Weights of integers, which the integers of a state are multiplied with.
struct Integers {
    /// Less their zero points, a row for each output.
    weights: Vec<i32>,
    scales: Vec<f64>,
    /// Of all gates, or none.
    bias: Vec<f64>,
    hidden: usize,
}

impl Integers {
    fn of(spec: &RecurrentSpec, inputs: &[&[u8]], dtype: DType) -> Integers {
        Integers {
            weights: unpacked(spec, inputs, dtype),
            scales: wide(inputs[2]),
            bias: if spec.bias { wide(inputs[4]) } else { vec![] },
            hidden: spec.hidden,
        }
    }

    /// Products of a state with the weights of some outputs.
    fn products(&self, state: &[f64], outputs: Range<usize>) -> Vec<f64> {
        let weight = |output: usize, k: usize| i64::from(self.weights[output * self.hidden + k]);
        integer_products(state, outputs, weight, |output| self.scales[output] as f32)
    }
}

/// Weights of integers less their zero points, a row for each output.
fn unpacked(spec: &RecurrentSpec, inputs: &[&[u8]], dtype: DType) -> Vec<i32> {
    let panels = IntegerPanels { of: spec.matrices(), width: spec.panel_width };
    let mut weights = Vec::with_capacity(spec.cell.gates() * spec.hidden * spec.hidden);
    for (at, &zero) in inputs[3].iter().enumerate() {
        let zero = if dtype == DType::I8 { i32::from(zero as i8) } else { i32::from(zero) };
        let (group, output) = (at / spec.hidden, at % spec.hidden);
        let weight = |k: usize| i32::from(inputs[1][panels.place(At { group, output, k })] as i8);
        weights.extend((0..spec.hidden).map(|k| weight(k) - (zero - packed_offset(dtype))));
    }
    weights
}

fn float(bytes: &[u8]) -> f32 {
    f32::from_le_bytes(bytes.try_into().expect("an element's bytes"))
}

fn wide(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(4).map(|bytes| f64::from(float(bytes))).collect()
}

/// The product of a row of weights with a state.
fn dot(weights: &[u8], state: &[f32]) -> f32 {
    let (blocks, states) = (weights.chunks_exact(4 * LANES), state.chunks_exact(LANES));
    let rest = blocks.remainder().chunks_exact(4).zip(states.remainder());
    let rest: f32 = rest.map(|(weight, x)| float(weight) * x).sum();
    let mut sums = [0.0f32; LANES];
    for (block, state) in blocks.zip(states) {
        for lane in 0..LANES {
            sums[lane] += float(&block[lane * 4..lane * 4 + 4]) * state[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// A gate's products of a state with computed weights, which lie in panels.
fn panels(spec: &RecurrentSpec, weights: &[u8], group: usize, state: &[f32]) -> Vec<f64> {
    let mut sums = vec![0.0f32; spec.hidden];
    for first in (0..spec.hidden).step_by(spec.panel_width) {
        let panel = first..spec.hidden.min(first + spec.panel_width);
        for (k, &x) in state.iter().enumerate() {
            let row = &weights[spec.place(At { group, output: first, k }) * 4..];
            for (sum, weight) in sums[panel.clone()].iter_mut().zip(row.chunks_exact(4)) {
                *sum += float(weight) * x;
            }
        }
    }
    sums.into_iter().map(f64::from).collect()
}

/// Stores elements from `at` on.
fn store(output: &mut [u8], at: usize, values: &[f64]) {
    for (bytes, &value) in output[at * 4..].chunks_exact_mut(4).zip(values) {
        bytes.copy_from_slice(&(value as f32).to_le_bytes());
    }
}
