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
    /// Numbers as integers.
    Quantize(Quantization),
    /// The same, and these as numbers again.
    Requantize { by: Quantization, zero: f32, scale: f32 },
}

/// `x / scale`, rounded half to even, plus `zero`, between two bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Quantization {
    /// The register.
    pub(super) from: usize,
    pub(super) scale: f32,
    pub(super) zero: f32,
    pub(super) low: f32,
    pub(super) high: f32,
}

impl Quantization {
    #[inline(always)]
    fn apply(&self, x: f32) -> i32 {
        to_range((x / self.scale).round_ties_even() + self.zero, self.low, self.high)
    }
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
        let reads = |op: &ElemOp| op.operands().filter(|&read| read == register).count();
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
        let ElemOp::ToF32(integers) = self.program[at] else { return None };
        does.push(at);
        let step = match self.program[integers] {
            ElemOp::Load(input) if matches!(self.types[input], DType::U8 | DType::I8) => {
                does.push(integers);
                Step::Dequantize { load: integers, input, zero, scale }
            }
            ElemOp::ToRange(..) => {
                let (by, before) = self.quantization(integers)?;
                does.extend(before);
                does.push(integers);
                Step::Requantize { by, zero, scale }
            }
            _ => return None,
        };
        does.iter().all(|&at| self.read_once(at)).then_some((step, does))
    }

    fn quantize(&self, index: usize) -> Option<(Step, Vec<usize>)> {
        let (by, does) = self.quantization(index)?;
        let alone = index + 1 == self.program.len() && does.iter().all(|&at| self.read_once(at));
        alone.then_some((Step::Quantize(by), does))
    }

    /// What an instruction that keeps numbers in a range ends, and what comes before it.
    fn quantization(&self, index: usize) -> Option<(Quantization, Vec<usize>)> {
        let ElemOp::ToRange(mut at, low, high) = self.program[index] else { return None };
        let (mut does, mut zero) = (vec![], 0.0);
        if let Some((from, value)) = self.with_constant(at, Binary::Add)
            && let ElemOp::Unary(Unary::Round, rounded) = self.program[from]
        {
            does.extend([at, from]);
            (at, zero) = (rounded, value);
        }
        let (from, scale) = self.with_constant(at, Binary::Div)?;
        does.push(at);
        Some((Quantization { from, scale, zero, low: low as f32, high: high as f32 }, does))
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

/// Floats as integers, in elements of so many bytes.
pub(super) struct Quantize {
    pub(super) by: Quantization,
    pub(super) from: *const f32,
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
                        let value = self.by.apply(*self.from.add(at));
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

/// Floats as integers, and these as `(x − zero) · scale`.
pub(super) struct Requantize {
    pub(super) by: Quantization,
    pub(super) zero: f32,
    pub(super) scale: f32,
    pub(super) from: *const f32,
    pub(super) to: *mut f32,
    pub(super) count: usize,
}

impl Leaf for Requantize {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for at in 0..self.count {
            // SAFETY: the caller vouches for `count` elements on both sides.
            unsafe {
                let value = self.by.apply(*self.from.add(at)) as f32;
                self.to.add(at).write((value - self.zero) * self.scale);
            }
        }
    }
}
