//! Recurrent networks.

use std::sync::Arc;

use reef_base::AlignedBytes;
use reef_graph::{Cell, DType, Direction, GateFunction, Op, RecurrentAttrs, Shape, Tensor, ValueId};

use super::Sketch;

/// A recurrent network over seven steps of three sequences, the second of which ends early.
fn recur(
    s: &mut Sketch,
    cell: Cell,
    hidden: usize,
    reverse: &[bool],
    functions: &[GateFunction],
) -> Vec<ValueId> {
    recur_with(s, cell, hidden, reverse, functions, Sketch::moderate)
}

/// The same with weights and biases as `parameter` makes them.
fn recur_with(
    s: &mut Sketch,
    cell: Cell,
    hidden: usize,
    reverse: &[bool],
    functions: &[GateFunction],
    parameter: fn(&mut Sketch, &[usize], usize) -> ValueId,
) -> Vec<ValueId> {
    let (memory, count) = (cell.has_memory(), reverse.len());
    let direction = |&reverse: &bool| Direction { reverse, functions: functions.to_vec() };
    let attrs = RecurrentAttrs {
        cell,
        directions: reverse.iter().map(direction).collect(),
        hidden,
        clip: None,
        bias: true,
        lengths: true,
        initial_h: true,
        initial_c: memory,
        peepholes: memory,
        integers: false,
    };
    let rows = cell.gates() * hidden;
    let mut inputs = vec![s.input(&[7, 3, 10])];
    for dims in [&[count, rows, 10][..], &[count, rows, hidden], &[count, 2 * rows]] {
        inputs.push(parameter(s, dims, hidden));
    }
    let lengths: Vec<u8> = [7i32, 3, 7].iter().flat_map(|length| length.to_le_bytes()).collect();
    let lengths = Tensor::new(DType::I32, Shape::new(&[3]), Arc::new(AlignedBytes::copy_from(&lengths)));
    inputs.push(s.given(lengths));
    inputs.extend((0..1 + usize::from(memory)).map(|_| s.input(&[count, 3, hidden])).collect::<Vec<_>>());
    if memory {
        inputs.push(s.moderate(&[count, 3 * hidden], hidden));
    }
    let fact = |id: &ValueId| (s.graph.value(*id).dtype, s.graph.value(*id).shape.clone());
    let outputs = attrs.outputs(&inputs.iter().map(fact).collect::<Vec<_>>()).expect("the operands fit");
    s.graph.add_node_multi("recurrent", Op::Recurrent(attrs), &inputs, outputs)
}

pub(super) fn lstm(s: &mut Sketch) {
    use GateFunction::{Sigmoid, Tanh};
    let made = recur(s, Cell::Lstm { input_forget: false }, 21, &[false, true], &[Sigmoid, Tanh, Tanh]);
    made.into_iter().for_each(|id| s.output(id));
}

pub(super) fn gru(s: &mut Sketch) {
    let functions = [GateFunction::HardSigmoid { alpha: 0.2, beta: 0.5 }, GateFunction::Softsign];
    let made = recur(s, Cell::Gru { linear_before_reset: true }, 21, &[true], &functions);
    made.into_iter().for_each(|id| s.output(id));
}

pub(super) fn gru_of_states(s: &mut Sketch) {
    let functions = [GateFunction::Sigmoid, GateFunction::ScaledTanh { alpha: 0.9, beta: 1.1 }];
    let made = recur(s, Cell::Gru { linear_before_reset: false }, 130, &[false], &functions);
    made.into_iter().for_each(|id| s.output(id));
}

pub(super) fn coupled_lstm(s: &mut Sketch) {
    let functions =
        [GateFunction::Sigmoid, GateFunction::Softsign, GateFunction::Affine { alpha: 0.5, beta: 0.1 }];
    let made = recur(s, Cell::Lstm { input_forget: true }, 70, &[true], &functions);
    made.into_iter().for_each(|id| s.output(id));
}

pub(super) fn rnn(s: &mut Sketch) {
    let made = recur(s, Cell::Rnn, 260, &[false, true], &[GateFunction::Tanh]);
    made.into_iter().for_each(|id| s.output(id));
}

pub(super) fn computed_gru(s: &mut Sketch) {
    let cell = Cell::Gru { linear_before_reset: true };
    let functions = [GateFunction::Sigmoid, GateFunction::Tanh];
    let made = recur_with(s, cell, 21, &[false, true], &functions, Sketch::moderate_input);
    made.into_iter().for_each(|id| s.output(id));
}

/// An LSTM both ways whose states are multiplied as integers.
pub(super) fn lstm_of_integers(s: &mut Sketch) {
    let functions = vec![GateFunction::Sigmoid, GateFunction::Tanh, GateFunction::Tanh];
    let attrs = RecurrentAttrs {
        cell: Cell::Lstm { input_forget: false },
        directions: [false, true].map(|reverse| Direction { reverse, functions: functions.clone() }).into(),
        hidden: 18,
        clip: None,
        bias: false,
        lengths: false,
        initial_h: true,
        initial_c: false,
        peepholes: false,
        integers: true,
    };
    let rows = 4 * attrs.hidden;
    let (weights, zeros) = (s.integers(DType::U8, &[2, rows, 18]), s.integers(DType::U8, &[2, rows]));
    let scales: Vec<f32> = (0..2 * rows).map(|at| 0.0005 + 0.0001 * (at % 7) as f32).collect();
    let inputs = [
        s.input(&[5, 3, 2 * rows]),
        s.fixed(weights),
        s.fixed(Tensor::f32([2, rows], &scales)),
        s.fixed(zeros),
        s.input(&[2, 3, 18]),
    ];
    let fact = |id: &ValueId| (s.graph.value(*id).dtype, s.graph.value(*id).shape.clone());
    let outputs = attrs.outputs(&inputs.iter().map(fact).collect::<Vec<_>>()).expect("the operands fit");
    let made = s.graph.add_node_multi("recurrent", Op::Recurrent(attrs), &inputs, outputs);
    made.into_iter().for_each(|id| s.output(id));
}
