//! Recurrent networks: LSTM, GRU and RNN, as ONNX defines them (layout 0: steps first).

use crate::dtype::DType;
use crate::tensor::Shape;

/// An activation function of a gate or of what a step gives. Where a parameter has a default in ONNX, the
/// importer has put it in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GateFunction {
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// `max(x, 0)`; a NaN passes through.
    Relu,
    /// `alpha·x + beta`.
    Affine {
        /// Factor.
        alpha: f32,
        /// Addend.
        beta: f32,
    },
    /// `x` if not negative, else `alpha·x`.
    LeakyRelu {
        /// Factor of negative numbers.
        alpha: f32,
    },
    /// `x` if above `alpha`, else 0.
    ThresholdedRelu {
        /// The threshold.
        alpha: f32,
    },
    /// `alpha·tanh(beta·x)`.
    ScaledTanh {
        /// Factor of the result.
        alpha: f32,
        /// Factor of the argument.
        beta: f32,
    },
    /// `min(max(alpha·x + beta, 0), 1)`.
    HardSigmoid {
        /// Factor.
        alpha: f32,
        /// Addend.
        beta: f32,
    },
    /// `x` if not negative, else `alpha·(eˣ − 1)`.
    Elu {
        /// Factor of negative numbers.
        alpha: f32,
    },
    /// `x / (1 + |x|)`.
    Softsign,
    /// `ln(1 + eˣ)`.
    Softplus,
}

impl GateFunction {
    /// Its value at `x`.
    pub fn of(self, x: f64) -> f64 {
        let wide = f64::from;
        match self {
            GateFunction::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            GateFunction::Tanh => x.tanh(),
            GateFunction::Relu if x < 0.0 => 0.0,
            GateFunction::Relu => x,
            GateFunction::Affine { alpha, beta } => wide(alpha) * x + wide(beta),
            GateFunction::LeakyRelu { alpha } if x < 0.0 => wide(alpha) * x,
            GateFunction::LeakyRelu { .. } => x,
            GateFunction::ThresholdedRelu { alpha } if x > wide(alpha) => x,
            GateFunction::ThresholdedRelu { .. } => 0.0,
            GateFunction::ScaledTanh { alpha, beta } => wide(alpha) * (wide(beta) * x).tanh(),
            GateFunction::HardSigmoid { alpha, beta } => (wide(alpha) * x + wide(beta)).clamp(0.0, 1.0),
            GateFunction::Elu { alpha } if x < 0.0 => wide(alpha) * x.exp_m1(),
            GateFunction::Elu { .. } => x,
            GateFunction::Softsign => x / (1.0 + x.abs()),
            GateFunction::Softplus if x.is_nan() => x,
            // The usual form overflows for large x.
            GateFunction::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        }
    }
}

/// What a step computes. `W·x` and `R·h` are the products of a gate's weights with the step's input and the
/// state before; both come with their biases. A gate is clipped before its function is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Gates, in the order of the weights: input i, output o, forget f, memory g. Functions: f, g, h of the
    /// specification. `i, f = f(W·x + R·h + P⊙c)`, `g = g(W·x + R·h)`, `c' = f⊙c + i⊙g`,
    /// `o = f(W·x + R·h + P⊙c')`, `h' = o⊙h(c')`, where c' is not clipped on the way into h.
    Lstm {
        /// The forget gate is 1 − the input gate; its weights have no say.
        input_forget: bool,
    },
    /// Gates: update z, reset r, hidden n. Functions: f, g. `z, r = f(W·x + R·h)`, `h' = (1 − z)⊙n + z⊙h`.
    Gru {
        /// `n = g(W·x + r⊙(R·h))`, else `n = g(W·x + R·(r⊙h))`. The bias of R is part of the product with r
        /// in the first case only.
        linear_before_reset: bool,
    },
    /// `h' = f(W·x + R·h)`.
    Rnn,
}

impl Cell {
    /// The operator's name in ONNX.
    pub fn name(self) -> &'static str {
        match self {
            Cell::Lstm { .. } => "LSTM",
            Cell::Gru { .. } => "GRU",
            Cell::Rnn => "RNN",
        }
    }

    /// Gates: blocks of rows of the weights.
    pub fn gates(self) -> usize {
        match self {
            Cell::Lstm { .. } => 4,
            Cell::Gru { .. } => 3,
            Cell::Rnn => 1,
        }
    }

    /// Activation functions of a direction.
    pub fn functions(self) -> usize {
        match self {
            Cell::Lstm { .. } => 3,
            Cell::Gru { .. } => 2,
            Cell::Rnn => 1,
        }
    }

    /// Whether there is a second state, the memory.
    pub fn has_memory(self) -> bool {
        matches!(self, Cell::Lstm { .. })
    }
}

/// One way through the steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Direction {
    /// From the last step to the first.
    pub reverse: bool,
    /// Its activation functions: f, g and h of the specification, as many as the cell has.
    pub functions: Vec<GateFunction>,
}

/// Attributes of [`crate::Op::Recurrent`], which says what the operands are; and which of those that may be
/// absent are there.
#[derive(Clone, Debug, PartialEq)]
pub struct RecurrentAttrs {
    /// What a step computes.
    pub cell: Cell,
    /// One or two, which do not know of each other.
    pub directions: Vec<Direction>,
    /// Elements of a state.
    pub hidden: usize,
    /// What goes into a gate's function is kept in `−clip..=clip`; not negative.
    pub clip: Option<f32>,
    /// There are biases.
    pub bias: bool,
    /// There are lengths of sequences.
    pub lengths: bool,
    /// There is an initial state; else it is zero.
    pub initial_h: bool,
    /// There is an initial memory; else it is zero.
    pub initial_c: bool,
    /// There are peepholes.
    pub peepholes: bool,
    /// R is of 8-bit integers, and so is the state that it is multiplied with: every step quantises the
    /// state of each sequence by [`quantized_state`], so that none has a say in another's answer. The input
    /// is the sums of the gates, without biases. Of an LSTM alone, without lengths.
    pub integers: bool,
}

/// What a recurrent operator reads, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecurrentOperands<T> {
    /// The input, or with integers the sums of the gates.
    pub x: T,
    /// Weights of the input; none with integers.
    pub w: Option<T>,
    /// Weights of the state.
    pub r: T,
    /// Of integers, their scales.
    pub scales: Option<T>,
    /// Of integers, their zero points.
    pub zeros: Option<T>,
    /// Biases: of w, then of r.
    pub bias: Option<T>,
    /// Lengths of the sequences.
    pub lengths: Option<T>,
    /// Initial state.
    pub initial_h: Option<T>,
    /// Initial memory.
    pub initial_c: Option<T>,
    /// Weights of the memory: of the gates i, o and f.
    pub peepholes: Option<T>,
}

impl RecurrentAttrs {
    /// The operands among a node's inputs, or how many it should have.
    pub fn operands<T: Clone>(&self, inputs: &[T]) -> Result<RecurrentOperands<T>, String> {
        let flags = [self.bias, self.lengths, self.initial_h, self.initial_c, self.peepholes];
        let fixed = if self.integers { 4 } else { 3 };
        let wanted = fixed + flags.iter().filter(|flag| **flag).count();
        if inputs.len() != wanted {
            return Err(format!("it has {} inputs, its attributes tell of {wanted}", inputs.len()));
        }
        let mut rest = inputs[1..].iter().cloned();
        let mut next = |there: bool| if there { rest.next() } else { None };
        Ok(RecurrentOperands {
            x: inputs[0].clone(),
            w: next(!self.integers),
            r: next(true).expect("they were counted"),
            scales: next(self.integers),
            zeros: next(self.integers),
            bias: next(self.bias),
            lengths: next(self.lengths),
            initial_h: next(self.initial_h),
            initial_c: next(self.initial_c),
            peepholes: next(self.peepholes),
        })
    }

    /// Types and shapes of the outputs, or what is wrong with the attributes or the inputs.
    pub fn outputs(&self, inputs: &[(DType, Shape)]) -> Result<Vec<(DType, Shape)>, String> {
        self.check()?;
        let operands = self.operands(inputs)?;
        let (dtype, x) = &operands.x;
        let [steps, batch, width] = x[..] else {
            return Err(format!("its input is {x}, not [steps, batch, elements]"));
        };
        if !dtype.is_float() || width == 0 {
            return Err(format!("its input is {dtype}{x}"));
        }
        let (count, hidden) = (self.directions.len(), self.hidden);
        let rows = self.cell.gates() * hidden;
        let is = |name: &str, operand: &Option<(DType, Shape)>, dtype: DType, dims: &[usize]| match operand {
            Some((other, shape)) if *other != dtype || shape[..] != *dims => {
                Err(format!("{name} is {other}{shape}, not {dtype}{}", Shape::new(dims)))
            }
            _ => Ok(()),
        };
        let state = [count, batch, hidden];
        let mut of_r = *dtype;
        if self.integers {
            of_r = operands.r.0;
            if *dtype != DType::F32 || !matches!(of_r, DType::U8 | DType::I8) || width != count * rows {
                return Err(format!("its sums are {dtype}{x} and R is {of_r}"));
            }
        }
        is("W", &operands.w, *dtype, &[count, rows, width])?;
        is("R", &Some(operands.r), of_r, &[count, rows, hidden])?;
        is("the list of scales", &operands.scales, *dtype, &[count, rows])?;
        is("the list of zero points", &operands.zeros, of_r, &[count, rows])?;
        is("the bias", &operands.bias, *dtype, &[count, 2 * rows])?;
        is("the list of lengths", &operands.lengths, DType::I32, &[batch])?;
        is("the initial state", &operands.initial_h, *dtype, &state)?;
        is("the initial memory", &operands.initial_c, *dtype, &state)?;
        is("the list of peepholes", &operands.peepholes, *dtype, &[count, 3 * hidden])?;
        let mut outputs = vec![(*dtype, Shape::from([steps, count, batch, hidden]))];
        outputs.resize(if self.cell.has_memory() { 3 } else { 2 }, (*dtype, Shape::new(&state)));
        Ok(outputs)
    }

    /// What is wrong with the attributes themselves.
    fn check(&self) -> Result<(), String> {
        if !(1..=2).contains(&self.directions.len()) {
            return Err(format!("it has {} directions", self.directions.len()));
        }
        let wanted = self.cell.functions();
        let functions = |direction: &Direction| direction.functions.len();
        if let Some(other) = self.directions.iter().map(functions).find(|&count| count != wanted) {
            return Err(format!("a direction has {other} functions, {} has {wanted}", self.cell.name()));
        }
        if self.hidden == 0 {
            return Err("its states have no elements".into());
        }
        if let Some(clip) = self.clip.filter(|&clip| clip.is_nan() || clip < 0.0) {
            return Err(format!("it clips at {clip}"));
        }
        if !self.cell.has_memory() && (self.initial_c || self.peepholes) {
            return Err(format!("it has inputs of a memory, {} has none", self.cell.name()));
        }
        if self.integers && (!self.cell.has_memory() || self.lengths) {
            return Err("integers are those of an LSTM without lengths".into());
        }
        Ok(())
    }
}

/// A state as integers, which stand for `scale · (integer − zero)`.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedState {
    /// The integers.
    pub values: Vec<u8>,
    /// What one step of them is worth.
    pub scale: f32,
    /// The integer of 0.
    pub zero: u8,
}

/// What a step multiplies with weights of integers: as [`crate::dynamic_quantize`] has it, in the same single
/// precision. What is no number has no say in the scale, and is the integer 0.
pub fn quantized_state(state: &[f32]) -> QuantizedState {
    let low = state.iter().fold(0.0f32, |low, &x| if x < low { x } else { low });
    let high = state.iter().fold(0.0f32, |high, &x| if x > high { x } else { high });
    let scale = if low == high { 1.0 } else { (high - low) / 255.0 };
    // Casts keep to the range of u8, and make 0 of what is no number.
    let zero = (0.0 - low / scale).round_ties_even() as u8;
    let integer = |&x: &f32| ((x / scale).round_ties_even() + f32::from(zero)) as u8;
    QuantizedState { values: state.iter().map(integer).collect(), scale, zero }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(cell: Cell) -> RecurrentAttrs {
        let functions = vec![GateFunction::Tanh; cell.functions()];
        let directions = vec![Direction { reverse: false, functions }];
        RecurrentAttrs {
            cell,
            directions,
            hidden: 4,
            clip: None,
            bias: false,
            lengths: false,
            initial_h: false,
            initial_c: false,
            peepholes: false,
            integers: false,
        }
    }

    fn made(attrs: &RecurrentAttrs, inputs: &[(DType, &[usize])]) -> Result<String, String> {
        let inputs: Vec<_> = inputs.iter().map(|&(dtype, shape)| (dtype, Shape::new(shape))).collect();
        let outputs = attrs.outputs(&inputs)?;
        Ok(outputs.iter().map(|(dtype, shape)| format!("{dtype}{shape}")).collect::<Vec<_>>().join(" "))
    }

    const F32: DType = DType::F32;

    #[test]
    fn outputs_follow_from_the_inputs() {
        let rnn = made(&attrs(Cell::Rnn), &[(F32, &[7, 2, 3]), (F32, &[1, 4, 3]), (F32, &[1, 4, 4])]);
        assert_eq!(rnn.unwrap(), "f32[7,1,2,4] f32[1,2,4]");
        let mut lstm = attrs(Cell::Lstm { input_forget: false });
        lstm.directions.push(Direction { reverse: true, ..lstm.directions[0].clone() });
        (lstm.lengths, lstm.initial_c, lstm.peepholes) = (true, true, true);
        let inputs: [(DType, &[usize]); 6] = [
            (F32, &[7, 2, 3]),
            (F32, &[2, 16, 3]),
            (F32, &[2, 16, 4]),
            (DType::I32, &[2]),
            (F32, &[2, 2, 4]),
            (F32, &[2, 12]),
        ];
        assert_eq!(made(&lstm, &inputs).unwrap(), "f32[7,2,2,4] f32[2,2,4] f32[2,2,4]");
        assert_eq!(made(&lstm, &inputs[..5]).unwrap_err(), "it has 5 inputs, its attributes tell of 6");
        let mut wide = inputs;
        wide[3].0 = DType::I64;
        assert_eq!(made(&lstm, &wide).unwrap_err(), "the list of lengths is i64[2], not i32[2]");
        wide = inputs;
        wide[5].1 = &[2, 16];
        assert_eq!(made(&lstm, &wide).unwrap_err(), "the list of peepholes is f32[2,16], not f32[2,12]");
    }

    #[test]
    fn sums_stand_in_for_an_input_where_the_weights_are_integers() {
        let lstm = RecurrentAttrs { integers: true, ..attrs(Cell::Lstm { input_forget: false }) };
        let inputs: [(DType, &[usize]); 4] =
            [(F32, &[7, 2, 16]), (DType::I8, &[1, 16, 4]), (F32, &[1, 16]), (DType::I8, &[1, 16])];
        assert_eq!(made(&lstm, &inputs).unwrap(), "f32[7,1,2,4] f32[1,2,4] f32[1,2,4]");
        let mut other = inputs;
        other[3].0 = DType::U8;
        assert_eq!(made(&lstm, &other).unwrap_err(), "the list of zero points is u8[1,16], not i8[1,16]");
        other = inputs;
        other[0].1 = &[7, 2, 3];
        assert_eq!(made(&lstm, &other).unwrap_err(), "its sums are f32[7,2,3] and R is i8");
        other = inputs;
        other[1].0 = F32;
        assert_eq!(made(&lstm, &other).unwrap_err(), "its sums are f32[7,2,16] and R is f32");
        for flawed in [
            RecurrentAttrs { lengths: true, ..lstm.clone() },
            RecurrentAttrs { integers: true, ..attrs(Cell::Rnn) },
        ] {
            let reason = made(&flawed, &inputs).unwrap_err();
            assert_eq!(reason, "integers are those of an LSTM without lengths");
        }
    }

    #[test]
    fn a_state_is_quantised_over_its_range_and_zero() {
        let quantized = |state: &[f32]| {
            let QuantizedState { values, scale, zero } = quantized_state(state);
            (values, scale, zero)
        };
        assert_eq!(quantized(&[0.0, 0.0]), (vec![0, 0], 1.0, 0));
        assert_eq!(quantized(&[1.0, 255.0, 2.5, 3.5]), (vec![1, 255, 2, 4], 1.0, 0));
        assert_eq!(quantized(&[-255.0, -1.0]), (vec![0, 254], 1.0, 255));
        assert_eq!(quantized(&[-1.0, 254.0, 0.0]), (vec![0, 255, 1], 1.0, 1));
        assert_eq!(quantized(&[f32::NAN, 255.0]), (vec![0, 255], 1.0, 0));
    }

    #[test]
    fn attributes_that_mean_nothing_are_named() {
        let inputs: [(DType, &[usize]); 3] = [(F32, &[7, 2, 3]), (F32, &[1, 12, 3]), (F32, &[1, 12, 4])];
        let gru = || attrs(Cell::Gru { linear_before_reset: true });
        made(&gru(), &inputs).unwrap();
        let refused = |attrs: RecurrentAttrs| made(&attrs, &inputs).unwrap_err();
        assert_eq!(refused(RecurrentAttrs { directions: vec![], ..gru() }), "it has 0 directions");
        assert_eq!(refused(RecurrentAttrs { hidden: 0, ..gru() }), "its states have no elements");
        assert_eq!(refused(RecurrentAttrs { clip: Some(-1.0), ..gru() }), "it clips at -1");
        let memory = refused(RecurrentAttrs { peepholes: true, ..gru() });
        assert_eq!(memory, "it has inputs of a memory, GRU has none");
        let functions = RecurrentAttrs { directions: attrs(Cell::Rnn).directions, ..gru() };
        assert_eq!(refused(functions), "a direction has 1 functions, GRU has 2");
        assert_eq!(refused(attrs(Cell::Rnn)), "W is f32[1,12,3], not f32[1,4,3]");
    }
}
