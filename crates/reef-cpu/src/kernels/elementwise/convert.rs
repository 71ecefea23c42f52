//! Element types, and moving planes of elements from one type and stride to another.

use reef_graph::DType;
use reef_plan::RegisterKind;

use super::super::vector::{Leaf, Vector};

/// An IEEE 754 half-precision number.
#[derive(Clone, Copy)]
pub(in super::super) struct F16(u16);

/// The upper half of an f32.
#[derive(Clone, Copy)]
pub(in super::super) struct Bf16(u16);

/// A byte, 0 or 1.
#[derive(Clone, Copy)]
pub(in super::super) struct Bool(u8);

/// Conversion as ONNX's Cast does it.
pub(in super::super) trait To<D>: Copy {
    fn to(self) -> D;
}

macro_rules! numbers {
    ($($t:ty)*) => {$(
        impl To<f32> for $t {
            #[inline(always)]
            fn to(self) -> f32 { self as f32 }
        }
        impl To<i64> for $t {
            #[inline(always)]
            fn to(self) -> i64 { self as i64 }
        }
    )*};
}

macro_rules! from_registers {
    ($($t:ty)*) => {$(
        impl To<$t> for f32 {
            #[inline(always)]
            fn to(self) -> $t { self as i64 as $t }
        }
        impl To<$t> for i64 {
            #[inline(always)]
            fn to(self) -> $t { self as $t }
        }
    )*};
}

numbers! { f32 f64 i64 i32 i16 i8 u64 u32 u16 u8 }
from_registers! { i32 i16 i8 u64 u32 u16 u8 }

impl To<f64> for f32 {
    #[inline(always)]
    fn to(self) -> f64 {
        f64::from(self)
    }
}

impl To<f64> for i64 {
    #[inline(always)]
    fn to(self) -> f64 {
        self as f64
    }
}

macro_rules! wrapped {
    ($($t:ident: $x:ident => $float:expr, $f:ident => $of_float:expr;)*) => {$(
        impl To<f32> for $t {
            #[inline(always)]
            fn to(self) -> f32 { let $x = self.0; $float }
        }
        impl To<i64> for $t {
            #[inline(always)]
            fn to(self) -> i64 { To::<f32>::to(self) as i64 }
        }
        impl To<$t> for f32 {
            #[inline(always)]
            fn to(self) -> $t { let $f = self; $t($of_float) }
        }
        impl To<$t> for i64 {
            #[inline(always)]
            fn to(self) -> $t { let $f = self as f32; $t($of_float) }
        }
    )*};
}

wrapped! {
    F16: x => f32_from_f16(x), f => f16_from_f32(f);
    Bf16: x => f32::from_bits(u32::from(x) << 16), f => bf16_from_f32(f);
    Bool: x => f32::from(u8::from(x != 0)), f => u8::from(f != 0.0);
}

/// The value of a half-precision number; exact.
fn f32_from_f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, mantissa) = (u32::from(bits >> 10) & 0x1f, u32::from(bits) & 0x3ff);
    let magnitude = match exponent {
        // Subnormal: the mantissa counts 2⁻²⁴.
        0 => (mantissa as f32 * f32::from_bits(103 << 23)).to_bits(),
        31 => 0x7f80_0000 | mantissa << 13,
        _ => (exponent + 112) << 23 | mantissa << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// The nearest half-precision number, ties to even; NaN stays one.
fn f16_from_f32(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16) as u16 & 0x8000;
    let magnitude = x.abs();
    let bits = magnitude.to_bits();
    let half = if magnitude.is_nan() {
        0x7e00
    } else if bits >= 0x4780_0000 {
        0x7c00
    } else if bits < 0x3880_0000 {
        // Subnormal: adding 0.5 leaves multiples of 2⁻²⁴ in the mantissa, rounded.
        ((magnitude + 0.5).to_bits() - 0.5f32.to_bits()) as u16
    } else {
        // The carry of rounding may reach the exponent, up to infinity.
        ((bits + 0xfff + ((bits >> 13) & 1)) >> 13).wrapping_sub(112 << 10) as u16
    };
    sign | half
}

/// The nearest bf16, ties to even; NaN stays one.
fn bf16_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// Floats rounded to F16 or BF16.
pub(super) struct Halves {
    pub(super) from: *const f32,
    pub(super) dtype: DType,
    pub(super) to: *mut f32,
    pub(super) count: usize,
}

impl Leaf for Halves {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        macro_rules! each {
            ($t:ty) => {
                for at in 0..self.count {
                    // SAFETY: the caller vouches for `count` floats on both sides.
                    unsafe {
                        let half: $t = (*self.from.add(at)).to();
                        self.to.add(at).write(half.to());
                    }
                }
            };
        }
        match self.dtype {
            DType::F16 => each!(F16),
            _ => each!(Bf16),
        }
    }
}

/// Bits moved as they are.
macro_rules! raw {
    ($($t:ty)*) => {$(
        impl To<$t> for $t {
            #[inline(always)]
            fn to(self) -> $t {
                self
            }
        }
    )*};
}

raw! { u8 u16 u32 u64 }

/// A plane of elements: where it is and how it lies on both sides.
#[derive(Clone, Copy)]
pub(in super::super) struct Plane {
    pub(super) from: *const u8,
    pub(super) to: *mut u8,
    /// Lines and elements of each.
    pub(super) lines: usize,
    pub(super) columns: usize,
    /// Elements from line to line and from column to column of the source.
    pub(super) from_strides: [isize; 2],
    /// The same of the destination.
    pub(super) to_strides: [isize; 2],
}

struct Move<S, D>(Plane, std::marker::PhantomData<(S, D)>);

impl<S: To<D>, D: Copy> Leaf for Move<S, D> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let plane = self.0;
        let (from, to) = (plane.from.cast::<S>(), plane.to.cast::<D>());
        let ([from_line, from_step], [to_line, to_step]) = (plane.from_strides, plane.to_strides);
        // SAFETY: the caller vouches for every element of the plane on both sides.
        unsafe {
            if from_step == 1 && to_step == 1 {
                for line in 0..plane.lines as isize {
                    let (from, to) = (from.offset(line * from_line), to.offset(line * to_line));
                    for column in 0..plane.columns {
                        to.add(column).write(from.add(column).read().to());
                    }
                }
            } else if from_line == 1 && plane.lines > 1 {
                // Contiguous from line to line: read along them.
                for column in 0..plane.columns as isize {
                    let (from, to) = (from.offset(column * from_step), to.offset(column * to_step));
                    for line in 0..plane.lines {
                        to.offset(line as isize * to_line).write(from.add(line).read().to());
                    }
                }
            } else {
                for line in 0..plane.lines as isize {
                    let (from, to) = (from.offset(line * from_line), to.offset(line * to_line));
                    for column in 0..plane.columns as isize {
                        to.offset(column * to_step).write(from.offset(column * from_step).read().to());
                    }
                }
            }
        }
    }
}

/// Moves a plane, converting every element.
pub(super) type MoveFn = unsafe fn(Plane);

unsafe fn move_plane<V: Vector, S: To<D>, D: Copy>(plane: Plane) {
    // SAFETY: the function was chosen by a kernel that runs inside `V::enter`; the plane is the caller's.
    unsafe { V::enter(Move::<S, D>(plane, std::marker::PhantomData)) }
}

macro_rules! by_type {
    ($dtype:expr, $t:ident => $make:expr) => {
        match $dtype {
            DType::F32 => {
                type $t = f32;
                $make
            }
            DType::F16 => {
                type $t = F16;
                $make
            }
            DType::BF16 => {
                type $t = Bf16;
                $make
            }
            DType::F64 => {
                type $t = f64;
                $make
            }
            DType::I64 => {
                type $t = i64;
                $make
            }
            DType::I32 => {
                type $t = i32;
                $make
            }
            DType::I16 => {
                type $t = i16;
                $make
            }
            DType::I8 => {
                type $t = i8;
                $make
            }
            DType::U64 => {
                type $t = u64;
                $make
            }
            DType::U32 => {
                type $t = u32;
                $make
            }
            DType::U16 => {
                type $t = u16;
                $make
            }
            DType::U8 => {
                type $t = u8;
                $make
            }
            DType::Bool => {
                type $t = Bool;
                $make
            }
        }
    };
}

/// How elements of `dtype` get into registers of this kind.
pub(super) fn load_fn<V: Vector>(dtype: DType, kind: RegisterKind) -> MoveFn {
    match kind {
        RegisterKind::Single => by_type!(dtype, T => move_plane::<V, T, f32>),
        RegisterKind::Double => copy_fn::<V>(dtype.bytes()),
        RegisterKind::Integer => by_type!(dtype, T => move_plane::<V, T, i64>),
    }
}

/// How registers get out as elements of `dtype`.
pub(super) fn store_fn<V: Vector>(dtype: DType, kind: RegisterKind) -> MoveFn {
    match kind {
        RegisterKind::Single => by_type!(dtype, T => move_plane::<V, f32, T>),
        RegisterKind::Double => copy_fn::<V>(dtype.bytes()),
        RegisterKind::Integer => by_type!(dtype, T => move_plane::<V, i64, T>),
    }
}

/// How elements of `bytes` bytes are copied.
pub(super) fn copy_fn<V: Vector>(bytes: usize) -> MoveFn {
    match bytes {
        1 => move_plane::<V, u8, u8>,
        2 => move_plane::<V, u16, u16>,
        4 => move_plane::<V, u32, u32>,
        8 => move_plane::<V, u64, u64>,
        _ => unreachable!("no element type has {bytes} bytes"),
    }
}

/// Wraps an integer to the width of `dtype`.
#[inline(always)]
pub(super) fn wrap(x: i64, dtype: DType) -> i64 {
    match dtype {
        DType::I32 => i64::from(x as i32),
        DType::I16 => i64::from(x as i16),
        DType::I8 => i64::from(x as i8),
        DType::U32 => i64::from(x as u32),
        DType::U16 => i64::from(x as u16),
        DType::U8 => i64::from(x as u8),
        DType::Bool => i64::from(x != 0),
        _ => x,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_round_trips_and_rounds_to_even() {
        for bits in 0..=u16::MAX {
            let x = f32_from_f16(bits);
            if x.is_nan() {
                assert!(f32_from_f16(f16_from_f32(x)).is_nan());
            } else {
                assert_eq!(f16_from_f32(x), bits, "{x}");
            }
        }
        assert_eq!(f32_from_f16(0x3c01), 1.0 + 1.0 / 1024.0);
        assert_eq!(f32_from_f16(1), 2f32.powi(-24));
        // Halfway between 1 and the next, and between that and the one after.
        assert_eq!(f16_from_f32(1.0 + 1.0 / 2048.0), 0x3c00);
        assert_eq!(f16_from_f32(1.0 + 3.0 / 2048.0), 0x3c02);
        assert_eq!(f16_from_f32(65_519.9), 0x7bff);
        assert_eq!(f16_from_f32(65_520.0), 0x7c00);
        assert_eq!(bf16_from_f32(1.0 + 1.0 / 256.0), 0x3f80);
        assert_eq!(bf16_from_f32(1.0 + 3.0 / 256.0), 0x3f82);
    }
}
