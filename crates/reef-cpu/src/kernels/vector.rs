//! Vectors of f32: one trait, one implementation per instruction set, and the way into code that uses one.
//!
//! Kernels are generic over [`Vector`] and marked `inline(always)` down to the intrinsics. What gives them
//! the instructions is [`Vector::enter`], the only function compiled with them. Hence two rules: everything
//! between `enter` and the intrinsics is inlined (no closures: they are functions of their own), and a
//! vector can be made only by `unsafe` functions, so that whoever holds one has entered.

use std::ops::{Add, Div, Mul, Neg, Sub};

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod portable;

/// Code that wants to be compiled for an instruction set.
pub(super) trait Leaf {
    /// What it returns.
    type Out;
    /// The code; to be marked `inline(always)`.
    ///
    /// # Safety
    /// Called by [`Vector::enter`] only; beyond that what the implementor says.
    unsafe fn run<V: Vector>(self) -> Self::Out;
}

/// A vector of f32.
pub(super) trait Vector:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + 'static
{
    /// Elements. A packed panel of weights has two vectors.
    const LANES: usize;
    /// Rows of the largest micro-tile of a matrix product that stays in registers.
    const ROWS: usize;
    /// Steps along the summed axis between polls of a matrix product.
    const STEPS: usize;
    /// A truth value per lane.
    type Mask: Copy;
    /// Thirty-two bits per lane, with several codes of few bits in them.
    type Words: Copy;

    /// Runs `leaf` with the instruction set enabled. Never inlined.
    ///
    /// # Safety
    /// The machine has the instruction set; and what the leaf asks for.
    unsafe fn enter<F: Leaf>(leaf: F) -> F::Out;

    /// `x` in every lane.
    ///
    /// # Safety
    /// Inside [`Vector::enter`].
    unsafe fn splat(x: f32) -> Self;
    /// Unaligned load.
    ///
    /// # Safety
    /// Inside [`Vector::enter`]; `LANES` elements are readable.
    unsafe fn load(from: *const f32) -> Self;
    /// The first `count` (at most `LANES`) elements, zeros behind them.
    ///
    /// # Safety
    /// Inside [`Vector::enter`]; `count` elements are readable.
    unsafe fn load_part(from: *const f32, count: usize) -> Self;
    /// The elements at `places`, one for every lane.
    ///
    /// # Safety
    /// Inside [`Vector::enter`]; `LANES` places are readable, and the elements that they are counted to.
    unsafe fn gather(from: *const f32, places: *const i32) -> Self;
    /// Unaligned store.
    ///
    /// # Safety
    /// `LANES` elements are writable.
    unsafe fn store(self, to: *mut f32);
    /// Stores the first `count` (at most `LANES`) lanes.
    ///
    /// # Safety
    /// `count` elements are writable.
    unsafe fn store_part(self, to: *mut f32, count: usize);

    /// Turns a square of 8 rows of 8 floats: `to[i][j] = from[j][i]`; rows are so many floats apart.
    ///
    /// # Safety
    /// Inside [`Vector::enter`]; the squares are readable and writable.
    #[inline(always)]
    unsafe fn transpose_8(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for row in 0..8 {
            for column in 0..8 {
                // SAFETY: passed on from the caller.
                unsafe { to.add(row * to_stride + column).write(*from.add(column * from_stride + row)) };
            }
        }
    }
    /// The first `count` (at most `LANES`) words, zeros behind them.
    ///
    /// # Safety
    /// Inside [`Vector::enter`]; `count` words are readable.
    unsafe fn words(from: *const u8, count: usize) -> Self::Words;
    /// The number in the lowest `BITS` (2, 4 or 8) of every word, less the middle, 2^(`BITS` − 1).
    ///
    /// # Safety
    /// Inside [`Vector::enter`].
    unsafe fn lowest<const BITS: u32>(words: Self::Words) -> Self;
    /// The words without their lowest `BITS`, of which what is above moves to their place.
    ///
    /// # Safety
    /// Inside [`Vector::enter`].
    unsafe fn next<const BITS: u32>(words: Self::Words) -> Self::Words;
    /// In lane i the float `i >> shift`, of which the first `count` are there, zeros behind them.
    ///
    /// # Safety
    /// Inside [`Vector::enter`]; the first `min(count, LANES)` floats are readable.
    unsafe fn spread(from: *const f32, count: usize, shift: u32) -> Self;

    /// `x` in every lane.
    fn set(self, x: f32) -> Self;
    /// `self · factor + addend`; one rounding where the machine can.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// The larger of both; a NaN in `self` passes through.
    fn at_least(self, low: Self) -> Self;
    /// The smaller of both; a NaN in `self` passes through.
    fn at_most(self, high: Self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Towards −∞.
    fn floor(self) -> Self;
    /// Towards +∞.
    fn ceil(self) -> Self;
    /// To the nearest integer, ties to even.
    fn round(self) -> Self;
    /// Without the sign.
    fn abs(self) -> Self;
    /// With the sign of `sign`.
    fn copysign(self, sign: Self) -> Self;
    /// `2ⁿ` for an integral `self` in −126..=127.
    fn exp2_integral(self) -> Self;
    /// eˣ for x from −104 to 89, and NaN, where the machine has a shorter way than a long series.
    #[inline(always)]
    fn exp_directly(self) -> Option<Self> {
        None
    }
    /// Mantissa in [1, 2) and exponent of a positive normal number.
    fn split(self) -> (Self, Self);
    /// `self < other`; false for NaN.
    fn less(self, other: Self) -> Self::Mask;
    /// `self <= other`; false for NaN.
    fn less_equal(self, other: Self) -> Self::Mask;
    /// `self == other`; false for NaN.
    fn equal(self, other: Self) -> Self::Mask;
    /// Lanes of `yes` where the mask holds, else of `no`.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    /// Sum of all lanes, in an order that is always the same.
    fn sum(self) -> f32;

    /// `1 / self` within one unit of the last place, for numbers whose reciprocal is normal, and NaN.
    #[inline(always)]
    fn reciprocal(self) -> Self {
        self.set(1.0) / self
    }

    /// The larger of both; a NaN in either passes through.
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self::select(other.equal(other), self.at_least(other), other)
    }

    /// The smaller of both; a NaN in either passes through.
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self::select(other.equal(other), self.at_most(other), other)
    }

    /// The lanes, for what has no vector form.
    #[inline(always)]
    fn lanes(self) -> [f32; 16] {
        let mut lanes = [0.0; 16];
        // SAFETY: no vector has more than 16 lanes.
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes
    }
}
