//! One instruction of an element-wise program over whole registers.

use reef_graph::scalar::power;
use reef_graph::{Binary, DType, Unary};

use super::super::vector::{Leaf, Vector};
use super::convert::wrap;

/// `to[i] = op(a[i], b[i])` of floats, other than comparisons.
pub(super) struct Zip {
    pub(super) op: Binary,
    pub(super) a: *const f32,
    pub(super) b: *const f32,
    pub(super) to: *mut f32,
    pub(super) count: usize,
}

impl Leaf for Zip {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        macro_rules! each {
            ($x:ident, $y:ident => $value:expr) => {{
                let whole = self.count - self.count % V::LANES;
                // SAFETY: the caller vouches for `count` floats of all three.
                unsafe {
                    for at in (0..whole).step_by(V::LANES) {
                        let ($x, $y) = (V::load(self.a.add(at)), V::load(self.b.add(at)));
                        $value.store(self.to.add(at));
                    }
                    let rest = self.count - whole;
                    if rest > 0 {
                        let $x = V::load_part(self.a.add(whole), rest);
                        let $y = V::load_part(self.b.add(whole), rest);
                        $value.store_part(self.to.add(whole), rest);
                    }
                }
            }};
        }
        match self.op {
            Binary::Add => each!(x, y => (x + y)),
            Binary::Sub => each!(x, y => (x - y)),
            Binary::Mul => each!(x, y => (x * y)),
            Binary::Div => each!(x, y => (x / y)),
            Binary::Max => each!(x, y => x.max(y)),
            Binary::Min => each!(x, y => x.min(y)),
            Binary::Pow => {
                for at in 0..self.count {
                    // SAFETY: as above.
                    unsafe { self.to.add(at).write((*self.a.add(at)).powf(*self.b.add(at))) };
                }
            }
            Binary::Mod | Binary::Rem => {
                for at in 0..self.count {
                    // SAFETY: as above.
                    unsafe {
                        let (a, b) = (*self.a.add(at), *self.b.add(at));
                        let rest = a % b;
                        let floored = match rest {
                            _ if self.op == Binary::Rem => rest,
                            _ if rest == 0.0 => rest.copysign(b),
                            _ if (rest < 0.0) != (b < 0.0) => rest + b,
                            _ => rest,
                        };
                        self.to.add(at).write(floored);
                    }
                }
            }
            _ => unreachable!("comparisons make integers"),
        }
    }
}

/// Everything with an integer register in it, and comparisons: plain loops, compiled for the instruction set.
pub(super) enum Scalar {
    /// A comparison of floats.
    Compare(Binary, *const f32, *const f32),
    /// A comparison of doubles.
    CompareDoubles(Binary, *const f64, *const f64),
    /// A function of two integers.
    Binary(Binary, *const i64, *const i64),
    /// A function of one integer.
    Unary(Unary, *const i64),
    /// Floats to integers.
    ToInt(*const f32, DType),
    /// Doubles to integers.
    DoubleToInt(*const f64, DType),
    /// Floats to the nearest integers between two bounds; what is no number is the lower.
    ToRange(*const f32, i32, i32),
    /// Integers to integers of another width.
    Wrap(*const i64, DType),
    /// Integers where the first is not 0, else others.
    Where(*const i64, *const i64, *const i64),
}

/// `to[i] = …` for `count` integers.
pub(super) struct Integers {
    pub(super) what: Scalar,
    pub(super) to: *mut i64,
    pub(super) count: usize,
}

impl Leaf for Integers {
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
        macro_rules! by_op {
            ($op:expr; $($name:ident: $value:expr;)*) => {
                match $op {
                    $(Binary::$name => $value,)*
                    #[allow(unreachable_patterns)]
                    _ => unreachable!("not an operator of these registers"),
                }
            };
        }
        macro_rules! compared {
            ($op:expr, $a:expr, $b:expr) => {
                by_op! { $op;
                    Equal: each!(i => i64::from(*$a.add(i) == *$b.add(i)));
                    Less: each!(i => i64::from(*$a.add(i) < *$b.add(i)));
                    LessEqual: each!(i => i64::from(*$a.add(i) <= *$b.add(i)));
                    Greater: each!(i => i64::from(*$a.add(i) > *$b.add(i)));
                    GreaterEqual: each!(i => i64::from(*$a.add(i) >= *$b.add(i)));
                    And: each!(i => i64::from((*$a.add(i) as i64 != 0) & (*$b.add(i) as i64 != 0)));
                    Or: each!(i => i64::from((*$a.add(i) as i64 != 0) | (*$b.add(i) as i64 != 0)));
                    Xor: each!(i => i64::from((*$a.add(i) as i64 != 0) ^ (*$b.add(i) as i64 != 0)));
                }
            };
        }
        match self.what {
            Scalar::Compare(op, a, b) => compared!(op, a, b),
            Scalar::CompareDoubles(op, a, b) => compared!(op, a, b),
            Scalar::Binary(op, a, b) if op.is_comparison() => compared!(op, a, b),
            Scalar::Binary(op, a, b) => by_op! { op;
                Add: each!(i => (*a.add(i)).wrapping_add(*b.add(i)));
                Sub: each!(i => (*a.add(i)).wrapping_sub(*b.add(i)));
                Mul: each!(i => (*a.add(i)).wrapping_mul(*b.add(i)));
                Div: each!(i => quotient(*a.add(i), *b.add(i)));
                Mod: each!(i => rest(*a.add(i), *b.add(i), true));
                Rem: each!(i => rest(*a.add(i), *b.add(i), false));
                Max: each!(i => (*a.add(i)).max(*b.add(i)));
                Min: each!(i => (*a.add(i)).min(*b.add(i)));
                Pow: each!(i => power(*a.add(i), *b.add(i)));
                BitAnd: each!(i => *a.add(i) & *b.add(i));
                BitOr: each!(i => *a.add(i) | *b.add(i));
                BitXor: each!(i => *a.add(i) ^ *b.add(i));
                ShiftLeft: each!(i => shifted(*a.add(i), *b.add(i), u64::wrapping_shl));
                ShiftRight: each!(i => shifted(*a.add(i), *b.add(i), u64::wrapping_shr));
            },
            Scalar::Unary(function, a) => each!(i => integer(function, *a.add(i))),
            Scalar::ToInt(a, DType::Bool) => each!(i => i64::from(*a.add(i) != 0.0)),
            Scalar::DoubleToInt(a, DType::Bool) => each!(i => i64::from(*a.add(i) != 0.0)),
            Scalar::DoubleToInt(a, dtype) => each!(i => wrap(*a.add(i) as i64, dtype)),
            Scalar::ToInt(a, dtype) => each!(i => wrap(*a.add(i) as i64, dtype)),
            Scalar::ToRange(a, low, high) => {
                let (least, most) = (low as f32, high as f32);
                each!(i => i64::from(to_range(*a.add(i), least, most)));
            }
            Scalar::Wrap(a, dtype) => each!(i => wrap(*a.add(i), dtype)),
            Scalar::Where(c, a, b) => each!(i => if *c.add(i) != 0 { *a.add(i) } else { *b.add(i) }),
        }
    }
}

/// The nearest integer between two bounds, ties to even; the lower for what is no number.
#[inline(always)]
pub(super) fn to_range(x: f32, low: f32, high: f32) -> i32 {
    let x = if x > low { x } else { low };
    let x = if x < high { x } else { high };
    // SAFETY: between the bounds, which are integers of at most 16 bits.
    unsafe { x.round_ties_even().to_int_unchecked() }
}

/// Stores floats as the nearest integers between two bounds, in elements of so many bytes.
pub(super) struct Narrow {
    pub(super) from: *const f32,
    pub(super) to: *mut u8,
    pub(super) bytes: usize,
    pub(super) count: usize,
    pub(super) low: f32,
    pub(super) high: f32,
}

impl Leaf for Narrow {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        macro_rules! each {
            ($t:ty) => {
                for at in 0..self.count {
                    // SAFETY: the caller vouches for `count` elements on both sides.
                    unsafe {
                        let value = to_range(*self.from.add(at), self.low, self.high);
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

#[inline(always)]
fn integer(function: Unary, x: i64) -> i64 {
    match function {
        Unary::Relu => x.max(0),
        Unary::Clip(low, high) => x.max(low as i64).min(high as i64),
        Unary::Square => x.wrapping_mul(x),
        Unary::Abs => x.wrapping_abs(),
        Unary::Neg => x.wrapping_neg(),
        Unary::Sign => x.signum(),
        Unary::Not => i64::from(x == 0),
        Unary::BitNot => !x,
        _ => x,
    }
}

/// Truncated. Divisors of 0 were refused before ([`Zeros`]).
#[inline(always)]
fn quotient(a: i64, b: i64) -> i64 {
    if b == 0 { 0 } else { a.wrapping_div(b) }
}

/// What a quotient leaves, which is rounded towards −∞ or truncated. Divisors of 0 were refused before.
#[inline(always)]
fn rest(a: i64, b: i64, floored: bool) -> i64 {
    let rest = if b == 0 { 0 } else { a.wrapping_rem(b) };
    if floored && rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
}

/// Moved by so many bits, or 0 where there are not as many.
#[inline(always)]
fn shifted(a: i64, by: i64, shift: impl Fn(u64, u32) -> u64) -> i64 {
    if (0..64).contains(&by) { shift(a as u64, by as u32) as i64 } else { 0 }
}

/// Where the first 0 is among `count` integers.
pub(super) struct Zeros {
    pub(super) from: *const i64,
    pub(super) count: usize,
}

impl Leaf for Zeros {
    type Out = Option<usize>;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> Option<usize> {
        // SAFETY: the caller vouches for `count` elements.
        (0..self.count).find(|&at| unsafe { *self.from.add(at) } == 0)
    }
}

/// `to[i] = if condition[i] != 0 { a[i] } else { b[i] }` of floats.
pub(super) struct Choose {
    pub(super) condition: *const i64,
    pub(super) a: *const f32,
    pub(super) b: *const f32,
    pub(super) to: *mut f32,
    pub(super) count: usize,
}

impl Leaf for Choose {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for at in 0..self.count {
            // SAFETY: the caller vouches for `count` elements of every operand.
            unsafe {
                let (a, b) = (*self.a.add(at), *self.b.add(at));
                self.to.add(at).write(if *self.condition.add(at) != 0 { a } else { b });
            }
        }
    }
}

/// `to[i] = from[i]` as a float.
pub(super) struct Floats {
    pub(super) from: *const i64,
    pub(super) to: *mut f32,
    pub(super) count: usize,
}

impl Leaf for Floats {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for at in 0..self.count {
            // SAFETY: the caller vouches for `count` elements on both sides.
            unsafe { self.to.add(at).write(*self.from.add(at) as f32) };
        }
    }
}
