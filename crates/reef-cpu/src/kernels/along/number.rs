//! Element types: what they are computed in, and how they are ordered.

use super::super::elementwise::convert::{Bf16, F16, To};

/// What elements are computed in.
pub(in super::super) trait Wide: Copy + PartialOrd + Send + Sync + 'static {
    const ZERO: Self;
    const ONE: Self;
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
}

/// An element type.
pub(in super::super) trait Number: Copy + Send + Sync + 'static {
    type Wide: Wide;
    /// An element's rank and its place, in one number.
    type Entry: Ord + Copy + Send + Sync + 'static;

    fn wide(self) -> Self::Wide;
    fn narrow(value: Self::Wide) -> Self;
    /// Ordered as elements are, the largest first if `largest`; equal ones by place. A NaN is larger than
    /// numbers and equal to a NaN, zeros are equal.
    fn entry(self, largest: bool, place: u32) -> Self::Entry;
    fn place(entry: Self::Entry) -> u32;
}

/// An integer type.
pub(in super::super) trait Whole: Number {
    /// Whether it is ordered unlike the i64 with its bits.
    const WRAPS: bool;
    fn whole(self) -> i64;
    fn wrapped(value: i64) -> Self;
}

macro_rules! floats {
    ($($t:ty)*) => {$(
        impl Wide for $t {
            const ZERO: $t = 0.0;
            const ONE: $t = 1.0;
            #[inline(always)]
            fn plus(self, other: $t) -> $t { self + other }
            #[inline(always)]
            fn times(self, other: $t) -> $t { self * other }
        }
    )*};
}

macro_rules! integers {
    ($($t:ty)*) => {$(
        impl Wide for $t {
            const ZERO: $t = 0;
            const ONE: $t = 1;
            #[inline(always)]
            fn plus(self, other: $t) -> $t { self.wrapping_add(other) }
            #[inline(always)]
            fn times(self, other: $t) -> $t { self.wrapping_mul(other) }
        }
        impl Whole for $t {
            const WRAPS: bool = <$t>::MAX as u128 > i64::MAX as u128;
            #[inline(always)]
            fn whole(self) -> i64 { self as i64 }
            #[inline(always)]
            fn wrapped(value: i64) -> $t { value as $t }
        }
    )*};
}

floats! { f32 f64 }
integers! { i64 i32 i16 i8 u64 u32 u16 u8 }

/// Of each type: what it is computed in, how it gets there and back, entries, and the rank of an element.
macro_rules! numbers {
    ($($t:ty: $wide:ty, $to:expr, $back:expr, $entry:ty, $rank:expr;)*) => {$(
        impl Number for $t {
            type Wide = $wide;
            type Entry = $entry;
            #[inline(always)]
            fn wide(self) -> $wide { $to(self) }
            #[inline(always)]
            fn narrow(value: $wide) -> $t { $back(value) }
            #[inline(always)]
            fn entry(self, largest: bool, place: u32) -> $entry {
                let rank = $rank(self.wide());
                let rank = if largest { !rank } else { rank };
                <$entry>::from(rank) << 32 | <$entry>::from(place)
            }
            #[inline(always)]
            fn place(entry: $entry) -> u32 { entry as u32 }
        }
    )*};
}

numbers! {
    f32: f32, same, same, u64, rank_of_f32;
    F16: f32, To::<f32>::to, To::<F16>::to, u64, rank_of_f32;
    Bf16: f32, To::<f32>::to, To::<Bf16>::to, u64, rank_of_f32;
    f64: f64, same, same, u128, rank_of_f64;
    i64: i64, same, same, u128, |x: i64| x as u64 ^ 1 << 63;
    u64: u64, same, same, u128, same;
    i32: i32, same, same, u64, |x: i32| x as u32 ^ 1 << 31;
    i16: i16, same, same, u64, |x: i16| i32::from(x) as u32 ^ 1 << 31;
    i8: i8, same, same, u64, |x: i8| i32::from(x) as u32 ^ 1 << 31;
    u32: u32, same, same, u64, same;
    u16: u16, same, same, u64, u32::from;
    u8: u8, same, same, u64, u32::from;
}

#[inline(always)]
fn same<T>(x: T) -> T {
    x
}

/// The order of floats as one of integers.
#[inline(always)]
fn rank_of_f32(x: f32) -> u32 {
    // A zero has no sign here.
    let bits = (x + 0.0).to_bits();
    match x.is_nan() {
        true => u32::MAX,
        false if bits >> 31 != 0 => !bits,
        false => bits | 1 << 31,
    }
}

/// The same in double precision.
#[inline(always)]
fn rank_of_f64(x: f64) -> u64 {
    let bits = (x + 0.0).to_bits();
    match x.is_nan() {
        true => u64::MAX,
        false if bits >> 63 != 0 => !bits,
        false => bits | 1 << 63,
    }
}
