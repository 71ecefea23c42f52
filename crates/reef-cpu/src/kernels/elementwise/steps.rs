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
    Dequantize { load: usize, from: Bytes },
    /// Numbers as integers.
    Quantize(Quantization),
    /// The same, and these as numbers again.
    Requantize { by: Quantization, back: Affine },
    /// Two operands of bytes as numbers, their sum, a number added to the first before, perhaps kept from
    /// below 0, as integers, and perhaps these as numbers again.
    Sum { operands: [Bytes; 2], more: Option<f32>, relu: bool, by: Quantization, back: Option<Affine> },
}

/// `(x − zero) · scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Affine {
    pub(super) zero: f32,
    pub(super) scale: f32,
}

impl Affine {
    #[inline(always)]
    fn apply(&self, x: f32) -> f32 {
        (x - self.zero) * self.scale
    }
}

/// An operand of bytes that are read as numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bytes {
    pub(super) input: usize,
    pub(super) signed: bool,
    pub(super) by: Affine,
}

/// `x / scale`, rounded half to even, plus `zero`, between two bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Quantization {
    /// The register.
    pub(super) from: usize,
    /// Registers with the scale and the zero point in every element, where they are no constants.
    pub(super) computed: [Option<usize>; 2],
    pub(super) scale: f32,
    pub(super) zero: f32,
    pub(super) low: f32,
    pub(super) high: f32,
}

impl Quantization {
    /// With what the registers hold.
    ///
    /// # Safety
    /// The registers are set.
    #[inline(always)]
    pub(super) unsafe fn with(mut self, registers: *const *const u8) -> Quantization {
        let [scale, zero] = self.computed;
        // SAFETY: passed on from the caller; they hold floats.
        unsafe {
            if let Some(scale) = scale {
                self.scale = *(*registers.add(scale)).cast();
            }
            if let Some(zero) = zero {
                self.zero = *(*registers.add(zero)).cast();
            }
        }
        self
    }

    #[inline(always)]
    fn apply(&self, x: f32) -> i32 {
        to_range((x / self.scale).round_ties_even() + self.zero, self.low, self.high)
    }
}

/// The steps of a program, whose operands are of these types, and whose output, the last of them, is as well;
/// `dense` says which of them are one line without gaps, and `single` which are the same element everywhere.
pub(super) fn steps(program: &[ElemOp], types: &[DType], dense: &[bool], single: &[bool]) -> Vec<Step> {
    let mut steps = vec![Step::Same; program.len()];
    let finder = Finder { program, types, single };
    for index in 0..program.len() {
        let found = finder.dequantize(index).or_else(|| finder.quantize(index));
        if let Some((step, does)) = found {
            does.iter().for_each(|&at| steps[at] = Step::Nothing);
            steps[index] = step;
        }
        if let Some((step, does)) = finder.sum(&steps, index, dense) {
            does.iter().for_each(|&at| steps[at] = Step::Nothing);
            steps[index] = step;
        }
    }
    steps
}

struct Finder<'a> {
    program: &'a [ElemOp],
    types: &'a [DType],
    single: &'a [bool],
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

    /// The operand of a function of it and a float that is the same everywhere: a constant, or a register.
    fn with_single(&self, register: usize, function: Binary) -> Option<(usize, f32, Option<usize>)> {
        if let Some((operand, value)) = self.with_constant(register, function) {
            return Some((operand, value, None));
        }
        let ElemOp::Binary(op, a, b) = self.program[register] else { return None };
        let (loaded, of) = match self.program[b] {
            ElemOp::ToF32(loaded) => (loaded, [DType::U8, DType::I8]),
            _ => (b, [DType::F32; 2]),
        };
        let ElemOp::Load(input) = self.program[loaded] else { return None };
        let fits = op == function && self.single[input] && of.contains(&self.types[input]);
        fits.then_some((a, 0.0, Some(b)))
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
                let signed = self.types[input] == DType::I8;
                Step::Dequantize { load: integers, from: Bytes { input, signed, by: Affine { zero, scale } } }
            }
            ElemOp::ToRange(..) => {
                let (by, before) =
                    self.quantization(integers).or_else(|| Some((self.whole(integers)?, vec![])))?;
                does.extend(before);
                does.push(integers);
                Step::Requantize { by, back: Affine { zero, scale } }
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

    /// A sum of two operands of bytes that ends in integers, of steps that were found before.
    fn sum(&self, steps: &[Step], index: usize, dense: &[bool]) -> Option<(Step, Vec<usize>)> {
        let (by, back) = match steps[index] {
            Step::Quantize(by) => (by, None),
            Step::Requantize { by, back } => (by, Some(back)),
            _ if index + 1 == self.program.len() => (self.whole(index)?, None),
            _ => return None,
        };
        let (mut at, mut does) = (by.from, vec![]);
        let relu = matches!(self.program[at], ElemOp::Unary(Unary::Relu, _));
        if let ElemOp::Unary(Unary::Relu, of) = self.program[at] {
            does.push(at);
            at = of;
        }
        let ElemOp::Binary(Binary::Add, mut a, mut b) = self.program[at] else { return None };
        does.extend([at, a, b]);
        let mut more = None;
        let sides = [(a, b), (b, a)];
        if let Some((first, second)) = sides.into_iter().find(|&(first, _)| self.raised(first).is_some()) {
            let (raised, by) = self.raised(first).expect("it was found");
            does.push(raised);
            (a, b, more) = (raised, second, Some(by));
        }
        let (Step::Dequantize { from: a, .. }, Step::Dequantize { from: b, .. }) = (steps[a], steps[b])
        else {
            return None;
        };
        let out = self.types.len() - 1;
        // Bytes go to the output, numbers to a register.
        let lies = back.is_some() || dense[out] && self.types[out].bytes() == 1;
        let fits = lies && [a, b].iter().all(|operand| dense[operand.input]);
        let alone = a != b && does.iter().all(|&at| self.read_once(at));
        (fits && alone).then_some((Step::Sum { operands: [a, b], more, relu, by, back }, does))
    }

    /// A register and the number that is added to it in another.
    fn raised(&self, register: usize) -> Option<(usize, f32)> {
        self.with_constant(register, Binary::Add)
    }

    /// An instruction that keeps numbers in a range as they are.
    fn whole(&self, index: usize) -> Option<Quantization> {
        let ElemOp::ToRange(from, low, high) = self.program[index] else { return None };
        let (computed, scale, zero) = ([None; 2], 1.0, 0.0);
        Some(Quantization { from, computed, scale, zero, low: low as f32, high: high as f32 })
    }

    /// What an instruction that keeps numbers in a range ends, and what comes before it.
    fn quantization(&self, index: usize) -> Option<(Quantization, Vec<usize>)> {
        let ElemOp::ToRange(mut at, low, high) = self.program[index] else { return None };
        let (mut does, mut zero, mut point) = (vec![], 0.0, None);
        if let Some((from, value, register)) = self.with_single(at, Binary::Add)
            && let ElemOp::Unary(Unary::Round, rounded) = self.program[from]
        {
            does.extend([at, from]);
            (at, zero, point) = (rounded, value, register);
        }
        let (from, scale, register) = self.with_single(at, Binary::Div)?;
        does.push(at);
        let computed = [register, point];
        Some((Quantization { from, computed, scale, zero, low: low as f32, high: high as f32 }, does))
    }
}

/// Bytes as numbers.
pub(super) struct Dequantize {
    pub(super) from: *const u8,
    pub(super) signed: bool,
    pub(super) by: Affine,
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
                        self.to.add(at).write(self.by.apply(x));
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

/// Numbers where they are.
pub(super) struct InPlace {
    pub(super) at: *mut f32,
    pub(super) by: Affine,
    pub(super) count: usize,
}

impl Leaf for InPlace {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for at in 0..self.count {
            // SAFETY: the caller vouches for `count` elements.
            unsafe { *self.at.add(at) = self.by.apply(*self.at.add(at)) };
        }
    }
}

/// The sum of two operands of bytes as integers again, which are bytes or become numbers.
pub(super) struct Sum {
    pub(super) from: [*const u8; 2],
    pub(super) operands: [Bytes; 2],
    /// Added to the first.
    pub(super) more: Option<f32>,
    pub(super) relu: bool,
    pub(super) by: Quantization,
    pub(super) back: Option<Affine>,
    /// Bytes, or f32.
    pub(super) to: *mut u8,
    pub(super) count: usize,
}

impl Leaf for Sum {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: passed on from the caller.
        unsafe {
            match (self.operands[0].signed, self.operands[1].signed) {
                (false, false) => self.sums::<u8, u8>(),
                (false, true) => self.sums::<u8, i8>(),
                (true, false) => self.sums::<i8, u8>(),
                (true, true) => self.sums::<i8, i8>(),
            }
        }
    }
}

impl Sum {
    #[inline(always)]
    unsafe fn sums<A: Copy + Into<f32>, B: Copy + Into<f32>>(&self) {
        let (a, b) = (self.from[0].cast::<A>(), self.from[1].cast::<B>());
        // SAFETY: passed on from the caller.
        unsafe {
            match self.more {
                None => self.sums_with::<A, B, false>(a, b, 0.0),
                Some(more) => self.sums_with::<A, B, true>(a, b, more),
            }
        }
    }

    #[inline(always)]
    unsafe fn sums_with<A: Copy + Into<f32>, B: Copy + Into<f32>, const MORE: bool>(
        &self,
        a: *const A,
        b: *const B,
        more: f32,
    ) {
        let least = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        let [by_a, by_b] = self.operands.map(|operand| operand.by);
        macro_rules! sum {
            ($at:ident) => {{
                let mut first = by_a.apply((*a.add($at)).into());
                if MORE {
                    first += more;
                }
                let sum = first + by_b.apply((*b.add($at)).into());
                if sum < least { least } else { sum }
            }};
        }
        // SAFETY: the caller vouches for `count` elements of all.
        unsafe {
            match self.back {
                None => {
                    for at in 0..self.count {
                        self.to.add(at).write(self.by.apply(sum!(at)) as u8);
                    }
                }
                Some(back) => {
                    for at in 0..self.count {
                        self.to.cast::<f32>().add(at).write(back.apply(self.by.apply(sum!(at)) as f32));
                    }
                }
            }
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

/// Floats as integers, and these as numbers.
pub(super) struct Requantize {
    pub(super) by: Quantization,
    pub(super) back: Affine,
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
                self.to.add(at).write(self.back.apply(value));
            }
        }
    }
}
