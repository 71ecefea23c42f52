//! Recurrent networks.

use bytemuck::{Pod, Zeroable};
use reef_graph::{Cell, GateFunction, Unary};
use reef_plan::RecurrentSpec;

use super::{Described, Operand, Operands, THREADS, described, number};
use crate::cut::RECURRENT_ROWS;
use crate::pack::Rows;
use crate::scalar::Function;

/// Columns that the threads of a block make at least at a time.
const COLUMNS_MIN: usize = 32;

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct RecurrentDescriptor {
    sums: Operand,
    weights: Operand,
    reset_bias: Operand,
    peepholes: Operand,
    lengths: Operand,
    before: [Operand; 2],
    y: Operand,
    after: [Operand; 2],
    sums_row_stride: u64,
    y_step_stride: u64,
    cell: u32,
    reverse: u32,
    steps: u32,
    first: u32,
    all_steps: u32,
    batch: u32,
    hidden: u32,
    tile_rows: u32,
    weight_stride: u32,
    parts: u32,
    has_reset_bias: u32,
    has_peepholes: u32,
    has_lengths: u32,
    has_before: [u32; 2],
    has_y: u32,
    has_after: [u32; 2],
    clips: u32,
    clip: f32,
    functions: [Function; 3],
    reserved: u32,
}

pub(super) fn recurrent(operands: Operands<'_>, spec: &RecurrentSpec) -> Described {
    let (mut read, mut written) = (2, 0);
    let mut write_if = |there: bool| {
        if !there {
            return Operand::default();
        }
        written += 1;
        operands.write_at(written - 1)
    };
    let parts = parts(spec.hidden);
    let mut functions = [Function::NONE; 3];
    for (function, &of) in functions.iter_mut().zip(&spec.functions) {
        *function = gate(of);
    }
    let descriptor = RecurrentDescriptor {
        sums: operands.read(0),
        weights: operands.read(1),
        reset_bias: operands.read_if(spec.reset_bias, &mut read),
        peepholes: operands.read_if(spec.peepholes, &mut read),
        lengths: operands.read_if(spec.lengths, &mut read),
        before: [spec.h_before, spec.c_before].map(|there| operands.read_if(there, &mut read)),
        y: write_if(spec.y),
        after: [spec.h_after, spec.c_after].map(&mut write_if),
        sums_row_stride: spec.sums_row_stride as u64,
        y_step_stride: spec.y_step_stride as u64,
        cell: cell(spec.cell),
        reverse: u32::from(spec.reverse),
        steps: number(spec.steps),
        first: number(spec.first),
        all_steps: number(spec.all_steps),
        batch: number(spec.batch),
        hidden: number(spec.hidden),
        tile_rows: number(spec.tile_rows),
        weight_stride: number(Rows::stride(spec.matrices())),
        parts: number(parts),
        has_reset_bias: u32::from(spec.reset_bias),
        has_peepholes: u32::from(spec.peepholes),
        has_lengths: u32::from(spec.lengths),
        has_before: [spec.h_before, spec.c_before].map(u32::from),
        has_y: u32::from(spec.y),
        has_after: [spec.h_after, spec.c_after].map(u32::from),
        clips: u32::from(spec.clip.is_some()),
        clip: spec.clip.unwrap_or(0.0),
        functions,
        reserved: 0,
    };
    described("reef_queue_recurrent", &descriptor, shared_bytes(spec, parts))
}

/// Bytes of shared memory: two states and a memory of each sequence, the lengths, and the parts of sums.
fn shared_bytes(spec: &RecurrentSpec, parts: usize) -> usize {
    let states = (3 * spec.hidden + 1) * RECURRENT_ROWS;
    let of_parts = if parts > 1 { spec.cell.gates() * RECURRENT_ROWS * THREADS as usize } else { 0 };
    (states + of_parts) * size_of::<f32>()
}

/// Threads that share a column: where there are fewer columns than threads.
fn parts(hidden: usize) -> usize {
    THREADS as usize / hidden.next_power_of_two().clamp(COLUMNS_MIN, THREADS as usize)
}

/// The kernel's number of a cell.
fn cell(cell: Cell) -> u32 {
    match cell {
        Cell::Rnn => 0,
        Cell::Gru { linear_before_reset: false } => 1,
        Cell::Gru { linear_before_reset: true } => 2,
        Cell::Lstm { input_forget: false } => 3,
        Cell::Lstm { input_forget: true } => 4,
    }
}

/// A gate's function as the kernel has it.
fn gate(function: GateFunction) -> Function {
    let own = |which, a, b| Function { which, a, b };
    match function {
        GateFunction::Sigmoid => Function::of(Unary::Sigmoid),
        GateFunction::Tanh => Function::of(Unary::Tanh),
        GateFunction::Relu => Function::of(Unary::Relu),
        GateFunction::Affine { alpha, beta } => own(64, alpha, beta),
        GateFunction::LeakyRelu { alpha } => Function::of(Unary::LeakyRelu(alpha)),
        GateFunction::ThresholdedRelu { alpha } => own(65, alpha, 0.0),
        GateFunction::ScaledTanh { alpha, beta } => own(66, alpha, beta),
        GateFunction::HardSigmoid { alpha, beta } => Function::of(Unary::HardSigmoid(alpha, beta)),
        GateFunction::Elu { alpha } => Function::of(Unary::Elu(alpha)),
        GateFunction::Softsign => own(67, 0.0, 0.0),
        GateFunction::Softplus => Function::of(Unary::Softplus),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_columns_where_there_are_few() {
        let all = [1, 32, 33, 64, 65, 128, 129, 256, 257, 2048].map(parts);
        assert_eq!(all, [8, 8, 4, 4, 2, 2, 1, 1, 1, 1]);
    }

    #[test]
    fn numbers_are_the_kernels() {
        let text = include_str!("../kernels/recurrent.cuh");
        let cells = "CELL_RNN, CELL_GRU, CELL_GRU_LINEAR, CELL_LSTM, CELL_LSTM_COUPLED";
        assert!(text.contains(&format!("enum RecurrentCell : unsigned {{ {cells} }};")));
        let own = "GATE_AFFINE = 64, GATE_THRESHOLDED, GATE_SCALED_TANH, GATE_SOFTSIGN";
        assert!(text.contains(&format!("enum GateFunction : unsigned {{ {own} }};")));
    }
}
