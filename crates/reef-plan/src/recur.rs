//! Recurrent networks computed in one go on a host, over bytes: for devices that have no code of their own
//! for them.

use reef_graph::reference::recurrent::Unit;
use reef_graph::{DType, quantized_states};

use crate::integer::{IntegerPanels, packed_offset};
use crate::layout::At;
use crate::recurrent::RecurrentSpec;

/// Products that are summed side by side.
const LANES: usize = 16;

/// Writes all of every output of `spec`, whose weights are as the model has them (`Raw`), or integers in
/// panels; operands are as it says, little endian. The error says what of the inputs' values means nothing.
pub fn recur(spec: &RecurrentSpec, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), String> {
    let constants = if spec.integers.is_some() { 4 } else { 2 };
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
    if let Some(dtype) = spec.integers {
        integers(spec, &unit, (inputs, dtype), before, outputs);
        return Ok(());
    }
    for row in 0..spec.batch {
        let length = lengths.map_or(Ok(spec.all_steps), |lengths| length(spec, lengths, row))?;
        let states = sequence(spec, &unit, inputs, (row, length), before, outputs);
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
    inputs: &[&[u8]],
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
        let state: Vec<f32> = state.iter().map(|&value| value as f32).collect();
        let rows = inputs[1][gate * hidden * hidden * 4..].chunks_exact(hidden * 4).take(hidden);
        rows.map(|row| f64::from(dot(row, &state))).collect()
    };
    for turn in 0..spec.steps {
        let step = spec.step(turn);
        let inside = spec.first + step < length;
        if inside {
            let sums = part(inputs[0], (step * spec.batch + row) * spec.sums_row_stride, all);
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

/// Takes all sequences through the steps, with weights of integers: states are quantised together.
fn integers(
    spec: &RecurrentSpec,
    unit: &Unit<'_>,
    (inputs, dtype): (&[&[u8]], DType),
    before: [Option<&[u8]>; 2],
    outputs: &mut [&mut [u8]],
) {
    let (hidden, all) = (spec.hidden, spec.cell.gates() * spec.hidden);
    let (weights, scales) = (unpacked(spec, inputs, dtype), wide(inputs[2]));
    let [mut h, mut c] = before.map(|state| state.map_or_else(|| vec![0.0; spec.batch * hidden], wide));
    for turn in 0..spec.steps {
        let step = spec.step(turn);
        let single: Vec<f32> = h.iter().map(|&value| value as f32).collect();
        let quantized = quantized_states(&single);
        for row in 0..spec.batch {
            let of_row = quantized.values[row * hidden..][..hidden].iter();
            let state: Vec<i32> = of_row.map(|&x| i32::from(x) - i32::from(quantized.zero)).collect();
            let mut product = |gate: usize, _: &[f64]| -> Vec<f64> {
                let outputs = gate * hidden..(gate + 1) * hidden;
                let product = |output: usize| {
                    let sum = whole_dot(&weights[output * hidden..][..hidden], &state);
                    f64::from(sum as f32 * (quantized.scale * scales[output] as f32))
                };
                outputs.map(product).collect()
            };
            let sums = wide(&inputs[0][(step * spec.batch + row) * spec.sums_row_stride * 4..][..all * 4]);
            let states = row * hidden..(row + 1) * hidden;
            unit.step(&sums, &mut product, &mut h[states.clone()], &mut c[states.clone()]);
            if spec.y {
                store(outputs[0], step * spec.y_step_stride + row * hidden, &h[states]);
            }
        }
    }
    let written = [spec.h_after, spec.c_after].into_iter().zip([&h, &c]).filter(|state| state.0);
    for (output, (_, state)) in written.enumerate() {
        store(outputs[usize::from(spec.y) + output], 0, state);
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

/// Terms of a sum that 32 bits hold: each is a product of two differences of bytes.
const TERMS: usize = 1 << 14;

fn whole_dot(weights: &[i32], state: &[i32]) -> i64 {
    let parts = weights.chunks(TERMS).zip(state.chunks(TERMS));
    let sum = |(weights, state): (&[i32], &[i32])| -> i32 {
        weights.iter().zip(state).map(|(weight, x)| weight * x).sum()
    };
    parts.map(|part| i64::from(sum(part))).sum()
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

/// Stores elements from `at` on.
fn store(output: &mut [u8], at: usize, values: &[f64]) {
    for (bytes, &value) in output[at * 4..].chunks_exact_mut(4).zip(values) {
        bytes.copy_from_slice(&(value as f32).to_le_bytes());
    }
}
