//! Element-wise programs from groups of nodes.

use reef_graph::scalar::Element;
use reef_graph::{Binary, DType, Graph, Node, Op, Quantization, Shape, Unary, ValueId};
use reef_plan::{ElemOp, RegisterKind};

use crate::error::CompileError;
use crate::view::View;

/// A program that is being written, and the operands it loads.
pub(super) struct Program<'a> {
    graph: &'a Graph,
    /// Extents of the loop.
    dims: Vec<usize>,
    /// Operands, broadcast to `dims`.
    pub inputs: Vec<View>,
    /// Instructions.
    pub code: Vec<ElemOp>,
    /// Registers of values.
    registers: Vec<(ValueId, usize)>,
}

type Emitted = Result<usize, CompileError>;

impl<'a> Program<'a> {
    pub fn new(graph: &'a Graph, dims: &[usize]) -> Program<'a> {
        let (inputs, code, registers) = (Vec::new(), Vec::new(), Vec::new());
        Program { graph, dims: dims.to_vec(), inputs, code, registers }
    }

    fn push(&mut self, op: ElemOp) -> usize {
        self.code.push(op);
        self.code.len() - 1
    }

    fn dtype(&self, id: ValueId) -> DType {
        self.graph.value(id).dtype
    }

    /// Appends `node`, whose operands lie where `view` says.
    pub fn node(&mut self, node: &Node, view: &mut dyn FnMut(ValueId) -> View) -> Result<(), CompileError> {
        let output = node.outputs[0];
        let register = match &node.op {
            Op::ScaleShift => self.scale_shift(node, view),
            Op::Quantize(how) => self.quantize(node, how, view)?,
            Op::Dequantize(how) => self.dequantize(node, how, view)?,
            op => {
                let registers: Vec<usize> = node.inputs.iter().map(|&id| self.operand(id, view)).collect();
                match op {
                    Op::Unary(function) => self.unary(node, *function, registers[0])?,
                    Op::Binary(function) => self.binary(node, *function, registers[0], registers[1])?,
                    Op::Where => self.select(node, &registers),
                    Op::Cast { to } => self.cast(node, *to, registers[0]),
                    _ => unreachable!("only element-wise nodes are put in programs"),
                }
            }
        };
        self.registers.push((output, register));
        Ok(())
    }

    /// Ends the program with the value that is stored.
    pub fn finish(&mut self, output: ValueId) {
        let mut register = self.register(output).expect("the group makes its output");
        // The store rounds by itself.
        if let Some(&ElemOp::Narrow(wide, dtype)) = self.code.last()
            && register + 1 == self.code.len()
            && wide + 1 == register
            && dtype == self.dtype(output)
        {
            self.code.pop();
            register = wide;
        }
        if register + 1 != self.code.len() {
            let same = match RegisterKind::of(self.dtype(output)) {
                RegisterKind::Single => ElemOp::ToF32(register),
                RegisterKind::Double => ElemOp::ToF64(register),
                RegisterKind::Integer => ElemOp::ToInt(register, DType::I64),
            };
            self.push(same);
        }
    }

    fn register(&self, id: ValueId) -> Option<usize> {
        self.registers.iter().find(|(value, _)| *value == id).map(|(_, register)| *register)
    }

    /// The register of an operand: computed, a constant, or loaded.
    fn operand(&mut self, id: ValueId, view: &mut dyn FnMut(ValueId) -> View) -> usize {
        if let Some(register) = self.register(id) {
            return register;
        }
        let register = match self.scalar(id) {
            Some(Element::Float(value)) if self.dtype(id) == DType::F64 => self.push(ElemOp::ConstF64(value)),
            Some(Element::Float(value)) => self.push(ElemOp::ConstF32(value as f32)),
            Some(Element::Int(value)) => self.push(ElemOp::ConstI64(value)),
            None => {
                let view = view(id).broadcast(&self.dims);
                self.load(view)
            }
        };
        self.registers.push((id, register));
        register
    }

    fn load(&mut self, view: View) -> usize {
        let index = self.inputs.iter().position(|input| *input == view).unwrap_or_else(|| {
            self.inputs.push(view);
            self.inputs.len() - 1
        });
        self.push(ElemOp::Load(index))
    }

    fn quantize(
        &mut self,
        node: &Node,
        how: &Quantization,
        view: &mut dyn FnMut(ValueId) -> View,
    ) -> Emitted {
        let to = self.dtype(node.outputs[0]);
        if let Some(flaw) = how.flaw_of_quantize(&self.facts(node), to) {
            return Err(CompileError::unsupported(node, flaw));
        }
        let mut x = self.operand(node.inputs[0], view);
        if !self.dtype(node.inputs[0]).is_float() {
            x = self.push(ElemOp::ToF32(x));
        }
        if self.scalar(node.inputs[1]).map(Element::float) != Some(1.0) {
            let scale = self.scale(node, how, 1, view);
            x = self.push(ElemOp::Binary(Binary::Div, x, scale));
        }
        if let Some(zero) = self.zero(node, how, view) {
            x = self.push(ElemOp::Unary(Unary::Round, x));
            x = self.push(ElemOp::Binary(Binary::Add, x, zero));
        }
        let (low, high) = how.range(to).expect("checked");
        Ok(self.push(ElemOp::ToRange(x, low, high)))
    }

    fn dequantize(
        &mut self,
        node: &Node,
        how: &Quantization,
        view: &mut dyn FnMut(ValueId) -> View,
    ) -> Emitted {
        if let Some(flaw) = how.flaw_of_dequantize(&self.facts(node), self.dtype(node.outputs[0])) {
            return Err(CompileError::unsupported(node, flaw));
        }
        let mut x = self.operand(node.inputs[0], view);
        if self.dtype(node.inputs[0]) == DType::I32 {
            if node.inputs.len() > 2 && self.scalar(node.inputs[2]).map(Element::int) != Some(0) {
                let zero = self.scale(node, how, 2, view);
                let steps = self.push(ElemOp::Binary(Binary::Sub, x, zero));
                x = self.push(ElemOp::ToInt(steps, DType::I32));
            }
            x = self.push(ElemOp::ToF32(x));
        } else {
            // Of at most 16 bits: a difference of floats is exact.
            x = self.push(ElemOp::ToF32(x));
            if let Some(zero) = self.zero(node, how, view) {
                x = self.push(ElemOp::Binary(Binary::Sub, x, zero));
            }
        }
        let scale = self.scale(node, how, 1, view);
        Ok(self.push(ElemOp::Binary(Binary::Mul, x, scale)))
    }

    fn facts(&self, node: &Node) -> Vec<(DType, Shape)> {
        node.inputs.iter().map(|&id| (self.dtype(id), self.graph.value(id).shape.clone())).collect()
    }

    /// The only element of a constant.
    fn scalar(&self, id: ValueId) -> Option<Element> {
        let tensor = self.graph.constant(id).filter(|tensor| tensor.shape().elements() == 1)?;
        Some(Element::read(tensor.dtype(), tensor.bytes().as_slice()))
    }

    /// The zero points as floats, unless there are none or it is 0.
    fn zero(
        &mut self,
        node: &Node,
        how: &Quantization,
        view: &mut dyn FnMut(ValueId) -> View,
    ) -> Option<usize> {
        match self.scalar(*node.inputs.get(2)?) {
            Some(zero) if zero.int() == 0 => None,
            Some(zero) => Some(self.push(ElemOp::ConstF32(zero.int() as f32))),
            None => {
                let zero = self.scale(node, how, 2, view);
                Some(self.push(ElemOp::ToF32(zero)))
            }
        }
    }

    /// The scales (operand 1) or zero points (operand 2) of a node.
    fn scale(
        &mut self,
        node: &Node,
        how: &Quantization,
        operand: usize,
        view: &mut dyn FnMut(ValueId) -> View,
    ) -> usize {
        let id = node.inputs[operand];
        let shape = &self.graph.value(id).shape;
        let rank = self.dims.len();
        if shape.elements() == 1 && how.block == 0 {
            // A value of one element in a program of as many axes, whatever its own rank is.
            if shape.rank() <= rank {
                return self.operand(id, view);
            }
            let plain = view(id);
            return self
                .load(View { dims: vec![1; rank], strides: vec![0; rank], ..plain }.broadcast(&self.dims));
        }
        let plain = view(id);
        let wide = match how.block {
            0 => {
                let (mut dims, mut strides) = (vec![1; rank], vec![0; rank]);
                (dims[how.axis], strides[how.axis]) = (plain.dims[0], plain.strides[0]);
                View { dims, strides, ..plain }
            }
            _ => plain,
        };
        let wide = wide.broadcast(&self.dims);
        self.load(wide)
    }

    fn scale_shift(&mut self, node: &Node, view: &mut dyn FnMut(ValueId) -> View) -> usize {
        let x = self.operand(node.inputs[0], view);
        let rank = self.graph.value(node.inputs[0]).shape.rank();
        let mut by_channel = |program: &mut Self, id: ValueId| {
            let plain = view(id);
            let mut dims = vec![1; rank];
            dims[1] = plain.dims[0];
            let mut strides = vec![0; rank];
            strides[1] = plain.strides[0];
            let wide = View { dims, strides, ..plain }.broadcast(&program.dims);
            program.load(wide)
        };
        let (scale, shift) = (by_channel(self, node.inputs[1]), by_channel(self, node.inputs[2]));
        let scaled = self.push(ElemOp::Binary(Binary::Mul, x, scale));
        self.push(ElemOp::Binary(Binary::Add, scaled, shift))
    }

    fn unary(&mut self, node: &Node, function: Unary, x: usize) -> Emitted {
        let dtype = self.dtype(node.inputs[0]);
        let fail = || Err(CompileError::unsupported(node, format!("{function:?} of {dtype}")));
        if dtype.is_float() {
            let whole = matches!(function, Unary::Not | Unary::BitNot);
            return if whole { fail() } else { Ok(self.push(ElemOp::Unary(function, x))) };
        }
        let bound = |program: &mut Self, limit: Binary, register: usize, value: i64| {
            let value = program.push(ElemOp::ConstI64(value));
            program.push(ElemOp::Binary(limit, register, value))
        };
        let unsigned = dtype == DType::U64;
        let register = match function {
            Unary::Abs | Unary::Relu if unsigned => x,
            Unary::Sign if unsigned => {
                let none = self.push(ElemOp::Unary(Unary::Not, x));
                self.push(ElemOp::Unary(Unary::Not, none))
            }
            Unary::Abs | Unary::Neg | Unary::Sign => self.push(ElemOp::Unary(function, x)),
            Unary::Not if dtype == DType::Bool => self.push(ElemOp::Unary(function, x)),
            Unary::BitNot if dtype != DType::Bool => self.push(ElemOp::Unary(function, x)),
            Unary::Square => self.push(ElemOp::Binary(Binary::Mul, x, x)),
            Unary::Relu => bound(self, Binary::Max, x, 0),
            Unary::Clip(lo, hi) if !unsigned => {
                let lifted = bound(self, Binary::Max, x, lo as i64);
                bound(self, Binary::Min, lifted, hi as i64)
            }
            Unary::Floor | Unary::Ceil | Unary::Round => x,
            _ => return fail(),
        };
        Ok(self.wrapped(register, dtype))
    }

    fn binary(&mut self, node: &Node, function: Binary, a: usize, b: usize) -> Emitted {
        use Binary::*;
        let (left, right) = (self.dtype(node.inputs[0]), self.dtype(node.inputs[1]));
        let fail = || Err(CompileError::unsupported(node, format!("{function:?} of {left} and {right}")));
        let float = left.is_float() || right.is_float();
        let whole = function.is_bitwise() || matches!(function, And | Or | Xor);
        let moves = matches!(function, ShiftLeft | ShiftRight);
        let unsigned = [DType::U64, DType::U32, DType::U16, DType::U8].contains(&left);
        if (whole && float) || (moves && !unsigned) {
            return fail();
        }
        if float {
            let to = if [left, right].contains(&DType::F64) { DType::F64 } else { DType::F32 };
            let (a, b) = (self.converted(a, left, to), self.converted(b, right, to));
            return Ok(self.push(ElemOp::Binary(function, a, b)));
        }
        let register = match (function, [left, right].contains(&DType::U64)) {
            (Div | Mod | Rem, true) => self.divided(function, a, b),
            (Max | Min | Less | LessEqual | Greater | GreaterEqual, true) => {
                let (a, b) = (self.turned(a), self.turned(b));
                let made = self.push(ElemOp::Binary(function, a, b));
                if function.is_comparison() { made } else { self.turned(made) }
            }
            _ => self.push(ElemOp::Binary(function, a, b)),
        };
        let narrows = matches!(function, Add | Sub | Mul | Div | Pow | ShiftLeft);
        Ok(if narrows { self.wrapped(register, self.dtype(node.outputs[0])) } else { register })
    }

    /// The bits of a u64 as an i64 of the same order, and back.
    fn turned(&mut self, x: usize) -> usize {
        let top = self.push(ElemOp::ConstI64(i64::MIN));
        self.push(ElemOp::Binary(Binary::BitXor, x, top))
    }

    /// A quotient or what is left of it, of u64, by the division of integers that have a sign.
    fn divided(&mut self, function: Binary, a: usize, b: usize) -> usize {
        use Binary::{Add, Div, GreaterEqual, Less, Mul, ShiftLeft, ShiftRight, Sub};
        let of = |program: &mut Self, function, a, b| program.push(ElemOp::Binary(function, a, b));
        let (zero, one) = (self.push(ElemOp::ConstI64(0)), self.push(ElemOp::ConstI64(1)));
        // By one of 64 bits it is 0 or 1.
        let large = of(self, Less, b, zero);
        let divisor = self.push(ElemOp::Where(large, one, b));
        // Of half of a, twice; one may be missing.
        let half = of(self, ShiftRight, a, one);
        let halved = of(self, Div, half, divisor);
        let most = of(self, ShiftLeft, halved, one);
        let product = of(self, Mul, most, divisor);
        let rest = of(self, Sub, a, product);
        let (rest, turned) = (self.turned(rest), self.turned(divisor));
        let missing = of(self, GreaterEqual, rest, turned);
        let small = of(self, Add, most, missing);
        let (left, right) = (self.turned(a), self.turned(b));
        let fits = of(self, GreaterEqual, left, right);
        let quotient = self.push(ElemOp::Where(large, fits, small));
        if function == Div {
            return quotient;
        }
        let product = of(self, Mul, quotient, b);
        of(self, Sub, a, product)
    }

    fn select(&mut self, node: &Node, registers: &[usize]) -> usize {
        let to = self.dtype(node.outputs[0]);
        let mut sides = [registers[1], registers[2]];
        for (side, &id) in sides.iter_mut().zip(&node.inputs[1..]) {
            if to.is_float() {
                *side = self.converted(*side, self.dtype(id), to);
            }
        }
        self.push(ElemOp::Where(registers[0], sides[0], sides[1]))
    }

    fn cast(&mut self, node: &Node, to: DType, x: usize) -> usize {
        let from = self.dtype(node.inputs[0]);
        match (from.is_float(), to) {
            (_, DType::F16 | DType::BF16) if from != to => {
                let wide = self.converted(x, from, DType::F32);
                self.push(ElemOp::Narrow(wide, to))
            }
            (_, to) if to.is_float() => self.converted(x, from, to),
            (_, DType::Bool) if from == DType::Bool => x,
            (_, DType::Bool) => {
                let zero = self.push(match RegisterKind::of(from) {
                    RegisterKind::Single => ElemOp::ConstF32(0.0),
                    RegisterKind::Double => ElemOp::ConstF64(0.0),
                    RegisterKind::Integer => ElemOp::ConstI64(0),
                });
                let is_zero = self.push(ElemOp::Binary(Binary::Equal, x, zero));
                self.push(ElemOp::Unary(Unary::Not, is_zero))
            }
            (true, DType::U64) => self.unsigned_of(x, from),
            (true, to) => self.push(ElemOp::ToInt(x, to)),
            (false, to) => self.wrapped(x, to),
        }
    }

    /// A register as a float of the kind that `to` has.
    fn converted(&mut self, x: usize, from: DType, to: DType) -> usize {
        if RegisterKind::of(from) == RegisterKind::of(to) {
            return x;
        }
        let float = |program: &mut Self, x| {
            program.push(if to == DType::F64 { ElemOp::ToF64(x) } else { ElemOp::ToF32(x) })
        };
        if from != DType::U64 {
            return float(self, x);
        }
        // Half of what has the highest bit, whose last bit says what was left out: rounded as all would be.
        let (zero, one) = (self.push(ElemOp::ConstI64(0)), self.push(ElemOp::ConstI64(1)));
        let high = self.push(ElemOp::Binary(Binary::ShiftRight, x, one));
        let last = self.push(ElemOp::Binary(Binary::BitAnd, x, one));
        let half = self.push(ElemOp::Binary(Binary::BitOr, high, last));
        let half = float(self, half);
        let large = self.push(ElemOp::Binary(Binary::Add, half, half));
        let plain = float(self, x);
        let is_large = self.push(ElemOp::Binary(Binary::Less, x, zero));
        self.push(ElemOp::Where(is_large, large, plain))
    }

    /// A float as a u64, truncated; a negative one wraps.
    fn unsigned_of(&mut self, x: usize, from: DType) -> usize {
        const HALF: f32 = 9_223_372_036_854_775_808.0;
        let half = self.push(match from {
            DType::F64 => ElemOp::ConstF64(HALF.into()),
            _ => ElemOp::ConstF32(HALF),
        });
        let is_large = self.push(ElemOp::Binary(Binary::LessEqual, half, x));
        let rest = self.push(ElemOp::Binary(Binary::Sub, x, half));
        let rest = self.push(ElemOp::ToInt(rest, DType::I64));
        let large = self.turned(rest);
        let plain = self.push(ElemOp::ToInt(x, DType::I64));
        self.push(ElemOp::Where(is_large, large, plain))
    }

    /// Wraps a register that may have left the range of `dtype`.
    fn wrapped(&mut self, register: usize, dtype: DType) -> usize {
        match dtype {
            DType::I64 | DType::U64 | DType::Bool => register,
            _ => self.push(ElemOp::ToInt(register, dtype)),
        }
    }
}
