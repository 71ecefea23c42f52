//! The specification of the kernel that takes a recurrent network from step to step.

use reef_graph::{Cell, DType, GateFunction};

use crate::layout::{At, Matrices};

/// One direction of a recurrent network ([`reef_graph::Op::Recurrent`]) over some of its steps.
///
/// Reads the sums of all gates that come from the input, with every bias but those below
/// (`[steps, batch, gates · hidden]`, rows `sums_row_stride` apart); the weights R (groups of `hidden`
/// outputs, one a gate: `ConvPanels`, `Raw` or a device's own layout, or computed); of integers the scales
/// and the zero points of all gates' outputs, `[biases]` likewise; `[the bias of R in the hidden gate of a
/// GRU whose reset gate scales it]`, `[peepholes [3, hidden]`: i, o, f`]`, `[lengths [batch]`, i32, 0 to
/// `all_steps`, another fails the task`]`, `[state before [batch, hidden]]`, `[memory before
/// [batch, hidden]]`. Writes `[y [steps, batch, hidden]`, steps `y_step_stride` apart`]`, `[state after
/// [batch, hidden]]`, `[memory after [batch, hidden]]`. Where nothing is read the state before is zero.
///
/// Block b takes the sequences `b · tile_rows ..` through all the steps. It writes as it goes, and begins
/// again at the first step: a kernel takes no more steps than a block may lose.
#[derive(Clone, Debug, PartialEq)]
pub struct RecurrentSpec {
    /// What a step computes.
    pub cell: Cell,
    /// Its activation functions.
    pub functions: Vec<GateFunction>,
    /// What gates are clipped at.
    pub clip: Option<f32>,
    /// The last step is taken first.
    pub reverse: bool,
    /// Steps.
    pub steps: usize,
    /// The sequence's step that is the first of the operands'.
    pub first: usize,
    /// Steps of the sequence.
    pub all_steps: usize,
    /// Sequences.
    pub batch: usize,
    /// Elements of a state.
    pub hidden: usize,
    /// The type of weights that are integers.
    pub integers: Option<DType>,
    /// The weights are computed, and lie as [`RecurrentSpec::place`] has it; not of integers.
    pub computed: bool,
    /// Elements between rows of the sums.
    pub sums_row_stride: usize,
    /// Elements between steps of y; sequences are dense.
    pub y_step_stride: usize,
    /// Whether biases of all gates are an operand; of integers alone.
    pub bias: bool,
    /// Whether R's bias of a GRU's hidden gate is an operand.
    pub reset_bias: bool,
    /// Whether peepholes are an operand.
    pub peepholes: bool,
    /// Whether lengths are an operand.
    pub lengths: bool,
    /// Whether the state before is an operand.
    pub h_before: bool,
    /// Whether the memory before is an operand.
    pub c_before: bool,
    /// Whether y is written.
    pub y: bool,
    /// Whether the state after the last step taken is written.
    pub h_after: bool,
    /// Whether the memory after it is written.
    pub c_after: bool,
    /// Outputs of a panel of packed or computed weights; 0 where the weights lie otherwise.
    pub panel_width: usize,
    /// Sequences of a block.
    pub tile_rows: usize,
}

impl RecurrentSpec {
    /// The weights, however they are packed.
    pub fn matrices(&self) -> Matrices {
        Matrices { groups: self.cell.gates(), outputs: self.hidden, depth: self.hidden }
    }

    /// Where an element of computed weights lies: `[gate][panel][element of the state][output]`, panels
    /// filled up with zeros.
    pub fn place(&self, At { group, output, k }: At) -> usize {
        let (width, panels) = (self.panel_width, self.hidden.div_ceil(self.panel_width));
        ((group * panels + output / width) * self.hidden + k) * width + output % width
    }

    /// The step of the operands that is taken in this turn.
    pub fn step(&self, turn: usize) -> usize {
        if self.reverse { self.steps - 1 - turn } else { turn }
    }

    /// What is wrong with the specification itself, if something is.
    pub fn flaw(&self) -> Option<&'static str> {
        let linear = matches!(self.cell, Cell::Gru { linear_before_reset: true });
        let of_memory = self.peepholes || self.c_before || self.c_after;
        if self.functions.len() != self.cell.functions() || self.hidden == 0 {
            return Some("has too many or too few functions, or states without elements");
        }
        let biased = self.reset_bias && !linear || self.bias && self.integers.is_none();
        if of_memory && !self.cell.has_memory() || biased {
            return Some("has operands that its cell does not know");
        }
        if self.clip.is_some_and(|clip| clip.is_nan() || clip < 0.0) {
            return Some("clips at less than nothing");
        }
        if !(self.y || self.h_after || self.c_after) {
            return Some("writes nothing");
        }
        if self.y && self.steps > 1 && self.y_step_stride < self.batch * self.hidden {
            return Some("has steps that write over each other");
        }
        if let Some(dtype) = self.integers
            && (!matches!(dtype, DType::U8 | DType::I8)
                || !self.cell.has_memory()
                || self.lengths
                || self.computed)
        {
            return Some("multiplies states as integers that do not go so");
        }
        let end = self.first.checked_add(self.steps);
        end.is_none_or(|end| end > self.all_steps).then_some("takes more steps than there are")
    }
}
