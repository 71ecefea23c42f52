//! Four lanes in plain Rust, which every compiler turns into whatever vectors the machine has.

use std::ops::{Add, Div, Mul, Neg, Sub};

use super::{Leaf, Vector};

/// Whether `mul_add` is one instruction; a call of the C library would be a hundred times slower.
const FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

/// Four f32.
#[derive(Clone, Copy, Debug)]
#[repr(align(16))]
pub(in super::super) struct F32x4([f32; 4]);

macro_rules! zip {
    ($a:expr, $b:expr, |$x:ident, $y:ident| $out:expr) => {{
        let (a, b) = ($a.0, $b.0);
        let mut out = a;
        for lane in 0..4 {
            let ($x, $y) = (a[lane], b[lane]);
            out[lane] = $out;
        }
        F32x4(out)
    }};
}

macro_rules! map {
    ($a:expr, |$x:ident| $out:expr) => {{
        let mut out = $a.0;
        for lane in out.iter_mut() {
            let $x = *lane;
            *lane = $out;
        }
        F32x4(out)
    }};
}

macro_rules! test {
    ($a:expr, $op:tt, $b:expr) => {{
        let (a, b) = ($a.0, $b.0);
        [a[0] $op b[0], a[1] $op b[1], a[2] $op b[2], a[3] $op b[3]]
    }};
}

macro_rules! operator {
    ($($name:ident $method:ident $op:tt;)*) => {$(
        impl $name for F32x4 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                zip!(self, other, |x, y| x $op y)
            }
        }
    )*};
}

operator! { Add add +; Sub sub -; Mul mul *; Div div /; }

impl Neg for F32x4 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        map!(self, |x| -x)
    }
}

impl Vector for F32x4 {
    const LANES: usize = 4;
    const ROWS: usize = 4;
    const STEPS: usize = 512;
    type Mask = [bool; 4];
    type Words = [u32; 4];

    #[inline(never)]
    unsafe fn enter<F: Leaf>(leaf: F) -> F::Out {
        // SAFETY: passed on from the caller.
        unsafe { leaf.run::<Self>() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        F32x4([x; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: four elements are readable.
        F32x4(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; 4];
        // SAFETY: `count` elements are readable, and no more than four.
        unsafe { std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count) };
        F32x4(lanes)
    }
    #[inline(always)]
    unsafe fn gather(from: *const f32, places: *const i32) -> Self {
        let mut lanes = [0.0; 4];
        for (at, lane) in lanes.iter_mut().enumerate() {
            // SAFETY: places and elements are readable.
            *lane = unsafe { *from.offset(*places.add(at) as isize) };
        }
        F32x4(lanes)
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: four elements are writable.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        // SAFETY: `count` elements are writable, and no more than four.
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr(), to, count) }
    }

    #[inline(always)]
    unsafe fn words(from: *const u8, count: usize) -> [u32; 4] {
        let mut words = [0; 4];
        for (lane, word) in words.iter_mut().enumerate().take(count) {
            // SAFETY: the caller vouches for `count` words.
            *word = u32::from_le(unsafe { from.cast::<u32>().add(lane).read_unaligned() });
        }
        words
    }
    #[inline(always)]
    unsafe fn lowest<const BITS: u32>(words: [u32; 4]) -> Self {
        F32x4(words.map(|word| ((word & ((1 << BITS) - 1)) as i32 - (1 << (BITS - 1))) as f32))
    }
    #[inline(always)]
    unsafe fn next<const BITS: u32>(words: [u32; 4]) -> [u32; 4] {
        words.map(|word| word >> BITS)
    }
    #[inline(always)]
    unsafe fn spread(from: *const f32, count: usize, shift: u32) -> Self {
        let mut lanes = [0.0; 4];
        for (lane, value) in lanes.iter_mut().enumerate() {
            if lane >> shift < count {
                // SAFETY: the caller vouches for `count` floats.
                *value = unsafe { *from.add(lane >> shift) };
            }
        }
        F32x4(lanes)
    }

    #[inline(always)]
    fn set(self, x: f32) -> Self {
        F32x4([x; 4])
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        if FUSED {
            let (a, b, c) = (self.0, factor.0, addend.0);
            F32x4([
                a[0].mul_add(b[0], c[0]),
                a[1].mul_add(b[1], c[1]),
                a[2].mul_add(b[2], c[2]),
                a[3].mul_add(b[3], c[3]),
            ])
        } else {
            self * factor + addend
        }
    }
    #[inline(always)]
    fn at_least(self, low: Self) -> Self {
        zip!(self, low, |x, low| if low > x { low } else { x })
    }
    #[inline(always)]
    fn at_most(self, high: Self) -> Self {
        zip!(self, high, |x, high| if high < x { high } else { x })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        map!(self, |x| x.sqrt())
    }
    #[inline(always)]
    fn floor(self) -> Self {
        map!(self, |x| x.floor())
    }
    #[inline(always)]
    fn ceil(self) -> Self {
        map!(self, |x| x.ceil())
    }
    #[inline(always)]
    fn round(self) -> Self {
        map!(self, |x| x.round_ties_even())
    }
    #[inline(always)]
    fn abs(self) -> Self {
        map!(self, |x| x.abs())
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        zip!(self, sign, |x, sign| x.copysign(sign))
    }
    #[inline(always)]
    fn exp2_integral(self) -> Self {
        map!(self, |n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn split(self) -> (Self, Self) {
        let mantissa = map!(self, |x| f32::from_bits(x.to_bits() & 0x007f_ffff | 0x3f80_0000));
        (mantissa, map!(self, |x| ((x.to_bits() >> 23) as i32 - 127) as f32))
    }
    #[inline(always)]
    fn less(self, other: Self) -> Self::Mask {
        test!(self, <, other)
    }
    #[inline(always)]
    fn less_equal(self, other: Self) -> Self::Mask {
        test!(self, <=, other)
    }
    #[inline(always)]
    fn equal(self, other: Self) -> Self::Mask {
        test!(self, ==, other)
    }
    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        let (a, b) = (yes.0, no.0);
        let mut out = b;
        for lane in 0..4 {
            out[lane] = if mask[lane] { a[lane] } else { b[lane] };
        }
        F32x4(out)
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        (self.0[0] + self.0[2]) + (self.0[1] + self.0[3])
    }
}
