//! Recurrent networks, step by step in double precision.

use std::ops::Range;

use super::{Grid, store};
use crate::recurrent::{Cell, GateFunction, RecurrentAttrs, RecurrentOperands, quantized_state};
use crate::scalar::Element;
use crate::{DType, Shape, Tensor};

/// A cell with its constants, but for the weights: one direction of a recurrent network.
#[derive(Clone, Copy, Debug)]
pub struct Unit<'a> {
    /// What a step computes.
    pub cell: Cell,
    /// Its activation functions.
    pub functions: &'a [GateFunction],
    /// What gates are clipped at.
    pub clip: Option<f32>,
    /// Weights of the memory, of the gates i, o and f; none are as good as zeros.
    pub peepholes: Option<&'a [f64]>,
    /// The bias of R's part of the hidden gate, where the reset gate scales it.
    pub reset_bias: Option<&'a [f64]>,
}

impl Unit<'_> {
    /// Takes the states `h` and `c` (empty without a memory) one step on. `sums` are those of all gates: the
    /// input's part with all biases but `reset_bias`. `product` multiplies a gate's weights R with a state.
    pub fn step(
        &self,
        sums: &[f64],
        product: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
        h: &mut [f64],
        c: &mut [f64],
    ) {
        let hidden = h.len();
        let mut products: Vec<Vec<f64>> = (0..self.cell.gates()).map(|gate| product(gate, h)).collect();
        match self.cell {
            Cell::Rnn => {
                for at in 0..hidden {
                    h[at] = self.gate(0, sums[at] + products[0][at]);
                }
            }
            Cell::Gru { linear_before_reset } => {
                let outer =
                    |gate: usize, at: usize| self.gate(0, sums[gate * hidden + at] + products[gate][at]);
                let reset: Vec<f64> = (0..hidden).map(|at| outer(1, at)).collect();
                let update: Vec<f64> = (0..hidden).map(|at| outer(0, at)).collect();
                if !linear_before_reset {
                    let scaled: Vec<f64> = reset.iter().zip(&*h).map(|(r, h)| r * h).collect();
                    products[2] = product(2, &scaled);
                }
                for at in 0..hidden {
                    let mut inner = products[2][at];
                    if linear_before_reset {
                        inner = reset[at] * (inner + self.reset_bias.map_or(0.0, |bias| bias[at]));
                    }
                    let candidate = self.gate(1, sums[2 * hidden + at] + inner);
                    h[at] = (1.0 - update[at]) * candidate + update[at] * h[at];
                }
            }
            Cell::Lstm { input_forget } => {
                for at in 0..hidden {
                    // A gate that looks at the memory.
                    let outer = |gate: usize, memory: f64| {
                        let seen = self.peepholes.map_or(0.0, |weights| weights[gate * hidden + at] * memory);
                        self.gate(0, sums[gate * hidden + at] + products[gate][at] + seen)
                    };
                    let input = outer(0, c[at]);
                    let forget = if input_forget { 1.0 - input } else { outer(2, c[at]) };
                    let candidate = self.gate(1, sums[3 * hidden + at] + products[3][at]);
                    c[at] = forget * c[at] + input * candidate;
                    h[at] = outer(1, c[at]) * self.functions[2].of(c[at]);
                }
            }
        }
    }

    /// A function of what goes into a gate.
    fn gate(&self, function: usize, sum: f64) -> f64 {
        let bound = self.clip.map_or(f64::INFINITY, f64::from);
        self.functions[function].of(sum.clamp(-bound, bound))
    }
}

/// The outputs of a recurrent network.
pub fn recurrent(attrs: &RecurrentAttrs, inputs: &[&Tensor]) -> Result<Vec<Tensor>, String> {
    let facts: Vec<_> = inputs.iter().map(|tensor| (tensor.dtype(), tensor.shape().clone())).collect();
    let outputs = attrs.outputs(&facts)?;
    let grids: Vec<Grid> = inputs.iter().map(|tensor| Grid::of(tensor)).collect();
    let operands = attrs.operands(&grids.iter().collect::<Vec<_>>())?;
    let (steps, batch) = (operands.x.dims[0], operands.x.dims[1]);
    let lengths = lengths(operands.lengths, steps, batch)?;
    let mut made: Vec<Vec<Element>> =
        outputs.iter().map(|(_, shape)| vec![Element::Float(0.0); shape.elements()]).collect();
    for direction in 0..attrs.directions.len() {
        for (row, &length) in lengths.iter().enumerate() {
            run(attrs, &operands, direction, row, length, &mut made);
        }
    }
    let tensor =
        |(elements, (dtype, shape)): (&Vec<Element>, &(DType, Shape))| store(elements, *dtype, shape);
    Ok(made.iter().zip(&outputs).map(tensor).collect())
}

/// The length of every sequence.
fn lengths(given: Option<&Grid>, steps: usize, batch: usize) -> Result<Vec<usize>, String> {
    let Some(given) = given else { return Ok(vec![steps; batch]) };
    let length = |(row, element): (usize, &Element)| {
        let length = usize::try_from(element.int()).ok().filter(|&length| length <= steps);
        length.ok_or_else(|| format!("sequence_lens[{row}] is {}, allowed are 0 to {steps}", element.int()))
    };
    given.elements.iter().enumerate().map(length).collect()
}

/// A direction's numbers of a grid of rows.
fn list(grid: &Grid, direction: usize, len: usize) -> Vec<f64> {
    (0..len).map(|at| grid.at(&[direction, at]).float()).collect()
}

/// Products of a state, as integers, with weights that are such: those of these outputs. `weight` is that of
/// an output and an element of the state, less its zero point, and `scale` an output's. Scales and what they
/// make of sums are in single precision.
pub fn integer_products(
    state: &[f64],
    outputs: Range<usize>,
    weight: impl Fn(usize, usize) -> i64,
    scale: impl Fn(usize) -> f32,
) -> Vec<f64> {
    let single: Vec<f32> = state.iter().map(|&x| x as f32).collect();
    let quantized = quantized_state(&single);
    let product = |output: usize| {
        let terms = quantized.values.iter().enumerate();
        let sum: i64 =
            terms.map(|(k, &x)| (i64::from(x) - i64::from(quantized.zero)) * weight(output, k)).sum();
        f64::from(sum as f32 * (quantized.scale * scale(output)))
    };
    outputs.map(product).collect()
}

/// One sequence in one direction.
fn run(
    attrs: &RecurrentAttrs,
    operands: &RecurrentOperands<&Grid>,
    direction: usize,
    row: usize,
    length: usize,
    made: &mut [Vec<Element>],
) {
    let (hidden, gates, count) = (attrs.hidden, attrs.cell.gates(), attrs.directions.len());
    let (steps, batch, width) = (operands.x.dims[0], operands.x.dims[1], operands.x.dims[2]);
    let all = gates * hidden;
    let bias = |at: usize| operands.bias.map_or(0.0, |bias| bias.at(&[direction, at]).float());
    // The reset gate scales what comes from R, with its bias.
    let apart = attrs.cell == Cell::Gru { linear_before_reset: true };
    let reset_bias: Vec<f64> =
        if apart { (0..hidden).map(|at| bias(all + 2 * hidden + at)).collect() } else { vec![] };
    let peepholes = operands.peepholes.map(|grid| list(grid, direction, 3 * hidden));
    let unit = Unit {
        cell: attrs.cell,
        functions: &attrs.directions[direction].functions,
        clip: attrs.clip,
        peepholes: peepholes.as_deref(),
        reset_bias: apart.then_some(&reset_bias[..]),
    };
    let state = |given: Option<&Grid>| -> Vec<f64> {
        (0..hidden).map(|at| given.map_or(0.0, |grid| grid.at(&[direction, row, at]).float())).collect()
    };
    let (mut h, mut c) = (state(operands.initial_h), state(operands.initial_c));
    let integers = operands.scales.zip(operands.zeros);
    let mut product = |gate: usize, state: &[f64]| -> Vec<f64> {
        let outputs = gate * hidden..(gate + 1) * hidden;
        if let Some((scales, zeros)) = integers {
            let scale = |output: usize| scales.at(&[direction, output]).float() as f32;
            let zero = |output: usize| zeros.at(&[direction, output]).int();
            let weight =
                |output: usize, k: usize| operands.r.at(&[direction, output, k]).int() - zero(output);
            return integer_products(state, outputs, weight, scale);
        }
        let weight = |output: usize, k: usize| operands.r.at(&[direction, output, k]).float();
        outputs.map(|output| state.iter().enumerate().map(|(k, x)| x * weight(output, k)).sum()).collect()
    };
    for turn in 0..length {
        let step = if attrs.directions[direction].reverse { length - 1 - turn } else { turn };
        let sum = |at: usize| -> f64 {
            let Some(w) = operands.w else {
                return operands.x.at(&[step, row, direction * all + at]).float() + bias(at) + bias(all + at);
            };
            let products = (0..width)
                .map(|k| operands.x.at(&[step, row, k]).float() * w.at(&[direction, at, k]).float());
            let own = apart && at >= 2 * hidden;
            products.sum::<f64>() + bias(at) + if own { 0.0 } else { bias(all + at) }
        };
        let sums: Vec<f64> = (0..all).map(sum).collect();
        unit.step(&sums, &mut product, &mut h, &mut c);
        for (at, &value) in h.iter().enumerate() {
            made[0][((step * count + direction) * batch + row) * hidden + at] = Element::Float(value);
        }
    }
    debug_assert!(length <= steps, "lengths were checked");
    for (output, state) in made[1..].iter_mut().zip([&h, &c]) {
        for (at, &value) in state.iter().enumerate() {
            output[(direction * batch + row) * hidden + at] = Element::Float(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Direction;

    /// A network of one element, one sequence and one direction, whose weights are 1; `h0` is given.
    fn alone(cell: Cell, functions: &[GateFunction], x: &[f32], reverse: bool, length: i32) -> Vec<Vec<f32>> {
        let attrs = RecurrentAttrs {
            cell,
            directions: vec![Direction { reverse, functions: functions.to_vec() }],
            hidden: 1,
            clip: None,
            bias: true,
            lengths: true,
            initial_h: true,
            initial_c: false,
            peepholes: false,
            integers: false,
        };
        let gates = cell.gates();
        let ones = Tensor::f32([1, gates, 1], &vec![1.0; gates]);
        let bias: Vec<f32> = (0..2 * gates).map(|at| if at == 2 * gates - 1 { 10.0 } else { 0.0 }).collect();
        let inputs = [
            &Tensor::f32([x.len(), 1, 1], x),
            &ones,
            &ones,
            &Tensor::f32([1, 2 * gates], &bias),
            &Tensor::from_slice(DType::I32, [1].into(), &[length]),
            &Tensor::f32([1, 1, 1], &[0.5]),
        ];
        let made = recurrent(&attrs, &inputs).unwrap();
        made.iter().map(|tensor| tensor.values::<f32>().to_vec()).collect()
    }

    const LINE: GateFunction = GateFunction::Affine { alpha: 1.0, beta: 0.0 };

    #[test]
    fn a_step_by_hand() {
        // h' = x + h + 10.
        let rnn = |reverse, length| alone(Cell::Rnn, &[LINE], &[1.0, 2.0, 4.0], reverse, length);
        assert_eq!(rnn(false, 3), [vec![11.5, 23.5, 37.5], vec![37.5]]);
        assert_eq!(rnn(false, 2), [vec![11.5, 23.5, 0.0], vec![23.5]]);
        assert_eq!(rnn(true, 3), [vec![37.5, 26.5, 14.5], vec![37.5]]);
        assert_eq!(rnn(true, 2), [vec![23.5, 12.5, 0.0], vec![23.5]]);
        assert_eq!(rnn(true, 0), [vec![0.0, 0.0, 0.0], vec![0.5]]);
        // z = r = x + h = 1.5; the bias of 10 is R's of the hidden gate.
        let gru = |linear_before_reset| {
            alone(Cell::Gru { linear_before_reset }, &[LINE, LINE], &[1.0], false, 1)[1][0]
        };
        let hidden = |candidate: f32| (1.0 - 1.5) * candidate + 1.5 * 0.5;
        assert_eq!(gru(true), hidden(1.0 + 1.5 * (0.5 + 10.0)));
        assert_eq!(gru(false), hidden(1.0 + 1.5 * 0.5 + 10.0));
        // i = o = f = 1.5, g = 11.5, c = 0 before.
        let lstm = |input_forget| alone(Cell::Lstm { input_forget }, &[LINE, LINE, LINE], &[1.0], false, 1);
        let memory = 1.5 * 11.5;
        assert_eq!(lstm(false), [vec![1.5 * memory], vec![1.5 * memory], vec![memory]]);
        assert_eq!(lstm(true), lstm(false), "nothing is remembered yet");
    }

    #[test]
    fn lengths_outside_the_sequence_are_errors() {
        let grid = |values: &[i32]| Grid::of(&Tensor::from_slice(DType::I32, [values.len()].into(), values));
        assert_eq!(lengths(Some(&grid(&[3, 0])), 3, 2), Ok(vec![3, 0]));
        for wrong in [-1, 4] {
            let reason = lengths(Some(&grid(&[3, wrong])), 3, 2).unwrap_err();
            assert_eq!(reason, format!("sequence_lens[1] is {wrong}, allowed are 0 to 3"));
        }
    }
}
