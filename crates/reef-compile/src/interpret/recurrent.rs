//! Recurrent networks.

use reef_graph::DType;
use reef_graph::reference::recurrent::{Unit, integer_products};
use reef_graph::scalar::Element;
use reef_plan::integer::packed_offset;
use reef_plan::{At, IntegerPanels, Packing, RecurrentSpec};

use super::dense::weight;
use super::{Access, part};

/// Where the operands are that may be absent, and the outputs.
#[derive(Default)]
struct Slots {
    scales: Option<usize>,
    zeros: Option<usize>,
    bias: Option<usize>,
    reset_bias: Option<usize>,
    peepholes: Option<usize>,
    lengths: Option<usize>,
    before: [Option<usize>; 2],
    y: Option<usize>,
    after: [Option<usize>; 2],
}

impl Slots {
    fn of(spec: &RecurrentSpec) -> Slots {
        let next = |count: &mut usize, there: bool| {
            *count += usize::from(there);
            there.then(|| *count - 1)
        };
        let (mut read, mut written) = (2, 0);
        let integers = spec.integers.is_some();
        Slots {
            scales: next(&mut read, integers),
            zeros: next(&mut read, integers),
            bias: next(&mut read, spec.bias),
            reset_bias: next(&mut read, spec.reset_bias),
            peepholes: next(&mut read, spec.peepholes),
            lengths: next(&mut read, spec.lengths),
            before: [spec.h_before, spec.c_before].map(|there| next(&mut read, there)),
            y: next(&mut written, spec.y),
            after: [spec.h_after, spec.c_after].map(|there| next(&mut written, there)),
        }
    }
}

/// How computed weights lie.
pub(super) fn computed(spec: &RecurrentSpec) -> Packing {
    Packing::ConvPanels { groups: spec.cell.gates() as u32, width: spec.panel_width as u32 }
}

pub(super) fn recurrent(
    spec: &RecurrentSpec,
    access: &mut Access<'_, '_>,
    packing: Packing,
    block: usize,
) -> Result<(), String> {
    let slots = Slots::of(spec);
    let hidden = spec.hidden;
    let mut list = |slot: Option<usize>, len: usize| -> Option<Vec<f64>> {
        slot.map(|slot| (0..len).map(|at| access.load_f32(slot, at)).collect())
    };
    let (reset_bias, peepholes) = (list(slots.reset_bias, hidden), list(slots.peepholes, 3 * hidden));
    let unit = Unit {
        cell: spec.cell,
        functions: &spec.functions,
        clip: spec.clip,
        peepholes: peepholes.as_deref(),
        reset_bias: reset_bias.as_deref(),
    };
    // Opened up once: every step reads all of them.
    let weights = match (packing, spec.integers) {
        (Packing::IntegerPanels { width, .. }, Some(dtype)) => {
            integers(spec, &slots, access, width as usize, dtype)
        }
        _ => {
            let mut weights = vec![];
            for group in 0..spec.cell.gates() {
                for (output, k) in (0..hidden).flat_map(|output| (0..hidden).map(move |k| (output, k))) {
                    weights.push(weight(access, packing, spec.matrices(), At { group, output, k }));
                }
            }
            Opened::Floats(weights)
        }
    };
    for row in part(block, spec.tile_rows, spec.batch) {
        sequence(spec, &slots, access, &unit, &weights, row)?;
    }
    Ok(())
}

/// R, `[gate · hidden + unit][element of the state]`.
enum Opened {
    Floats(Vec<f64>),
    /// Less their zero points, and the scales of their rows.
    Integers(Vec<i64>, Vec<f32>),
}

impl Opened {
    /// A gate's products of a state.
    fn product(&self, gate: usize, state: &[f64]) -> Vec<f64> {
        let hidden = state.len();
        match self {
            Opened::Floats(weights) => {
                let rows = weights[gate * hidden * hidden..].chunks_exact(hidden).take(hidden);
                rows.map(|row| row.iter().zip(state).map(|(a, b)| a * b).sum()).collect()
            }
            Opened::Integers(weights, scales) => {
                let outputs = gate * hidden..(gate + 1) * hidden;
                let weight = |output: usize, k: usize| weights[output * hidden + k];
                integer_products(state, outputs, weight, |output| scales[output])
            }
        }
    }
}

/// Weights of integers.
fn integers(
    spec: &RecurrentSpec,
    slots: &Slots,
    access: &mut Access<'_, '_>,
    width: usize,
    dtype: DType,
) -> Opened {
    let (hidden, all) = (spec.hidden, spec.cell.gates() * spec.hidden);
    let [scales, zeros] = [slots.scales, slots.zeros].map(|slot| slot.expect("integers have them"));
    let panels = IntegerPanels { of: spec.matrices(), width };
    let mut weights = vec![];
    for output in 0..all {
        let zero = access.load(zeros, dtype, output).int() - i64::from(packed_offset(dtype));
        for k in 0..hidden {
            let at = panels.place(At { group: output / hidden, output: output % hidden, k });
            weights.push(access.load(1, DType::I8, at).int() - zero);
        }
    }
    let scales = (0..all).map(|output| access.load_f32(scales, output) as f32).collect();
    Opened::Integers(weights, scales)
}

/// One sequence.
fn sequence(
    spec: &RecurrentSpec,
    slots: &Slots,
    access: &mut Access<'_, '_>,
    unit: &Unit<'_>,
    weights: &Opened,
    row: usize,
) -> Result<(), String> {
    let (hidden, gates) = (spec.hidden, spec.cell.gates());
    let length = match slots.lengths {
        None => spec.all_steps,
        Some(slot) => {
            let length = access.load(slot, DType::I32, row).int();
            let known = usize::try_from(length).ok().filter(|&length| length <= spec.all_steps);
            known.ok_or_else(|| {
                format!("sequence_lens[{row}] is {length}, allowed are 0 to {}", spec.all_steps)
            })?
        }
    };
    let mut states = slots.before.map(|slot| -> Vec<f64> {
        (0..hidden).map(|at| slot.map_or(0.0, |slot| access.load_f32(slot, row * hidden + at))).collect()
    });
    let mut product = |gate: usize, state: &[f64]| weights.product(gate, state);
    for turn in 0..spec.steps {
        let step = spec.step(turn);
        let inside = spec.first + step < length;
        if inside {
            let from = (step * spec.batch + row) * spec.sums_row_stride;
            let mut sum = |at: usize| {
                access.load_f32(0, from + at) + slots.bias.map_or(0.0, |slot| access.load_f32(slot, at))
            };
            let sums: Vec<f64> = (0..gates * hidden).map(&mut sum).collect();
            let [h, c] = &mut states;
            unit.step(&sums, &mut product, h, c);
        }
        if let Some(slot) = slots.y {
            for (at, &h) in states[0].iter().enumerate() {
                let to = step * spec.y_step_stride + row * hidden + at;
                access.store_to(slot, DType::F32, to, Element::Float(if inside { h } else { 0.0 }));
            }
        }
    }
    for (slot, state) in slots.after.into_iter().zip(&states) {
        let Some(slot) = slot else { continue };
        for (at, &value) in state.iter().enumerate() {
            access.store_to(slot, DType::F32, row * hidden + at, Element::Float(value));
        }
    }
    Ok(())
}
