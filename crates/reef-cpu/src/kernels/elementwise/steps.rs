//! Runs of instructions that one pass does at once: integers read as numbers, and numbers stored as integers.

use reef_graph::{Binary, DType, Unary};
use reef_plan::ElemOp;

use super::super::vector::{Leaf, Vector};
use super::ops::to_range;

/// What is done in the place of an instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    /// The instruction itself.
    Same,
    /// Nothing: a later one does it.
    Nothing,
    /// A load whose elements are turned into `(x − zero) · scale`.
    Dequantize { load: usize, input: usize, zero: f32, scale: f32 },
    /// `x / scale`, rounded half to even, plus `zero`, between two bounds.
    Quantize { from: usize, scale: f32, zero: f32 },
}

/// The steps of a program, whose operands are of these types.
pub(super) fn steps(program: &[ElemOp], types: &[DType]) -> Vec<Step> {
    let mut steps = vec![Step::Same; program.len()];
    let finder = Finder { program, types };
    for index in 0..program.len() {
        let found = finder.dequantize(index).or_else(|| finder.quantize(index));
        if let Some((step, does)) = found {
            does.iter().for_each(|&at| steps[at] = Step::Nothing);
            steps[index] = step;
        }
    }
    steps
}

struct Finder<'a> {
    program: &'a [ElemOp],
    types: &'a [DType],
}

impl Finder<'_> {
    fn constant(&self, register: usize) -> Option<f32> {
        match self.program[register] {
            ElemOp::ConstF32(value) => Some(value),
            _ => None,
        }
    }

    /// Whether one instruction alone reads a register.
    fn read_once(&self, register: usize) -> bool {
        let reads = |op: &ElemOp| match *op {
            ElemOp::Load(_) | ElemOp::ConstF32(_) | ElemOp::ConstI64(_) => 0,
            ElemOp::Unary(_, a) | ElemOp::ToF32(a) | ElemOp::ToInt(a, _) | ElemOp::ToRange(a, ..) => {
                usize::from(a == register)
            }
            ElemOp::Binary(_, a, b) => usize::from(a == register) + usize::from(b == register),
            ElemOp::Where(a, b, c) => [a, b, c].iter().filter(|&&read| read == register).count(),
        };
        self.program[register + 1..].iter().map(reads).sum::<usize>() == 1
    }

    /// The operand and the constant of a function of these.
    fn with_constant(&self, register: usize, function: Binary) -> Option<(usize, f32)> {
        match self.program[register] {
            ElemOp::Binary(op, a, b) if op == function => Some((a, self.constant(b)?)),
            _ => None,
        }
    }

    fn dequantize(&self, index: usize) -> Option<(Step, Vec<usize>)> {
        let (mut at, scale) = self.with_constant(index, Binary::Mul)?;
        let (mut does, mut zero) = (vec![], 0.0);
        if let Some((from, value)) = self.with_constant(at, Binary::Sub) {
            does.push(at);
            (at, zero) = (from, value);
        }
        let ElemOp::ToF32(load) = self.program[at] else { return None };
        does.extend([at, load]);
        let ElemOp::Load(input) = self.program[load] else { return None };
        let fits = matches!(self.types[input], DType::U8 | DType::I8);
        let alone = does.iter().all(|&at| self.read_once(at));
        (fits && alone).then_some((Step::Dequantize { load, input, zero, scale }, does))
    }

    fn quantize(&self, index: usize) -> Option<(Step, Vec<usize>)> {
        let ElemOp::ToRange(mut at, ..) = self.program[index] else { return None };
        let (mut does, mut zero) = (vec![], 0.0);
        if let Some((from, value)) = self.with_constant(at, Binary::Add) {
            let ElemOp::Unary(Unary::Round, rounded) = self.program[from] else { return None };
            does.extend([at, from]);
            (at, zero) = (rounded, value);
        }
        let (from, scale) = self.with_constant(at, Binary::Div)?;
        does.push(at);
        let alone = index + 1 == self.program.len() && does.iter().all(|&at| self.read_once(at));
        alone.then_some((Step::Quantize { from, scale, zero }, does))
    }
}

/// `(from[i] − zero) · scale` of bytes.
pub(super) struct Dequantize {
    pub(super) from: *const u8,
    pub(super) signed: bool,
    pub(super) zero: f32,
    pub(super) scale: f32,
    pub(super) to: *mut f32,
    pub(super) count: usize,
}

impl Leaf for Dequantize {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        macro_rules! each {
            ($t:ty) => {
                for at in 0..self.count {
                    // SAFETY: the caller vouches for `count` elements on both sides.
                    unsafe {
                        let x = f32::from(*self.from.cast::<$t>().add(at));
                        self.to.add(at).write((x - self.zero) * self.scale);
                    }
                }
            };
        }
        match self.signed {
            true => each!(i8),
            false => each!(u8),
        }
    }
}

/// `(x − zero) · scale` of floats where they are.
pub(super) struct Affine {
    pub(super) at: *mut f32,
    pub(super) zero: f32,
    pub(super) scale: f32,
    pub(super) count: usize,
}

impl Leaf for Affine {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for at in 0..self.count {
            // SAFETY: the caller vouches for `count` elements.
            unsafe { *self.at.add(at) = (*self.at.add(at) - self.zero) * self.scale };
        }
    }
}

/// Floats as integers between two bounds, in elements of so many bytes.
pub(super) struct Quantize {
    pub(super) from: *const f32,
    pub(super) scale: f32,
    pub(super) zero: f32,
    pub(super) low: f32,
    pub(super) high: f32,
    pub(super) to: *mut u8,
    pub(super) bytes: usize,
    pub(super) count: usize,
}

impl Leaf for Quantize {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        macro_rules! each {
            ($t:ty) => {
                for at in 0..self.count {
                    // SAFETY: the caller vouches for `count` elements on both sides.
                    unsafe {
                        let steps = (*self.from.add(at) / self.scale).round_ties_even() + self.zero;
                        let value = to_range(steps, self.low, self.high);
                        self.to.cast::<$t>().add(at).write_unaligned(value as $t);
                    }
                }
            };
        }
        match self.bytes {
            1 => each!(u8),
            2 => each!(u16),
            4 => each!(i32),
            _ => each!(i64),
        }
    }
}
