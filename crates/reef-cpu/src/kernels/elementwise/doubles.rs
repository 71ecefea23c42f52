//! Instructions of element-wise programs on registers of doubles: plain loops. Functions are those of the
//! reference, so that they are the same on every instruction set.

use reef_graph::{Binary, Unary, scalar};

use super::super::vector::{Leaf, Vector};

/// What has doubles as its result.
pub(super) enum Wide {
    /// A function of one double.
    Unary(Unary, *const f64),
    /// A function of two doubles, no comparison.
    Binary(Binary, *const f64, *const f64),
    /// Floats, which are exact as doubles.
    OfSingles(*const f32),
    /// Integers, rounded.
    OfIntegers(*const i64),
}

/// `to[i] = …` for `count` doubles.
pub(super) struct Doubles {
    pub(super) what: Wide,
    pub(super) to: *mut f64,
    pub(super) count: usize,
}

impl Leaf for Doubles {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        macro_rules! each {
            ($at:ident => $value:expr) => {
                for $at in 0..self.count {
                    // SAFETY: the caller vouches for `count` elements of every operand.
                    unsafe { self.to.add($at).write($value) };
                }
            };
        }
        match self.what {
            Wide::Binary(Binary::Add, a, b) => each!(i => *a.add(i) + *b.add(i)),
            Wide::Binary(Binary::Sub, a, b) => each!(i => *a.add(i) - *b.add(i)),
            Wide::Binary(Binary::Mul, a, b) => each!(i => *a.add(i) * *b.add(i)),
            Wide::Binary(Binary::Div, a, b) => each!(i => *a.add(i) / *b.add(i)),
            Wide::Binary(function, a, b) => each!(i => scalar::binary(function, *a.add(i), *b.add(i))),
            Wide::Unary(function, x) => each!(i => scalar::unary(function, *x.add(i))),
            Wide::OfSingles(x) => each!(i => f64::from(*x.add(i))),
            Wide::OfIntegers(x) => each!(i => *x.add(i) as f64),
        }
    }
}

/// `to[i] = from[i]` as a float, rounded.
pub(super) struct Singles {
    pub(super) from: *const f64,
    pub(super) to: *mut f32,
    pub(super) count: usize,
}

impl Leaf for Singles {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for at in 0..self.count {
            // SAFETY: the caller vouches for `count` elements on both sides.
            unsafe { self.to.add(at).write(*self.from.add(at) as f32) };
        }
    }
}
