//! Sixteen lanes with AVX-512 F, BW, DQ and VL.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Neg, Sub};

use super::{Leaf, Vector};

/// Sixteen f32. A value exists only inside code that was entered.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(in super::super) struct F32x16(__m512);

macro_rules! operator {
    ($($name:ident $method:ident $intrinsic:ident;)*) => {$(
        impl $name for F32x16 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: who holds a vector has entered.
                F32x16(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    )*};
}

operator! { Add add _mm512_add_ps; Sub sub _mm512_sub_ps; Mul mul _mm512_mul_ps; Div div _mm512_div_ps; }

impl Neg for F32x16 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x16(unsafe { _mm512_xor_ps(self.0, _mm512_set1_ps(-0.0)) })
    }
}

#[inline(always)]
fn first(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}

/// What codes of four bits stand for, and of two, whatever the two bits above them are.
static FOUR_BITS: [f32; 16] =
    [-8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
static TWO_BITS: [f32; 16] =
    [-2.0, -1.0, 0.0, 1.0, -2.0, -1.0, 0.0, 1.0, -2.0, -1.0, 0.0, 1.0, -2.0, -1.0, 0.0, 1.0];

/// 2 to the power of sixteenths.
#[rustfmt::skip]
static SIXTEENTHS: [f32; 16] = [
    1.0, 1.044_273_7, 1.090_507_7, 1.138_788_6, 1.189_207_1, 1.241_857_8, 1.296_839_6, 1.354_255_6,
    std::f32::consts::SQRT_2, 1.476_826_2, 1.542_210_8, 1.610_490_3, 1.681_792_9, 1.756_252_2, 1.834_008_1,
    1.915_206_6,
];

/// Rounding without floating-point exceptions: to nearest, down, up.
const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
const DOWN: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
const UP: i32 = _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC;

impl Vector for F32x16 {
    const LANES: usize = 16;
    const ROWS: usize = 12;
    const STEPS: usize = 256;
    type Mask = __mmask16;
    type Words = __m512i;

    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn enter<F: Leaf>(leaf: F) -> F::Out {
        // SAFETY: passed on from the caller.
        unsafe { leaf.run::<Self>() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller has entered.
        F32x16(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has entered, and the elements are readable.
        F32x16(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller has entered; lanes outside the mask are not read.
        F32x16(unsafe { _mm512_maskz_loadu_ps(first(count), from) })
    }
    #[inline(always)]
    unsafe fn gather(from: *const f32, places: *const i32) -> Self {
        // SAFETY: the caller has entered; places and elements are readable.
        F32x16(unsafe { _mm512_i32gather_ps::<4>(_mm512_loadu_si512(places.cast()), from.cast()) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: who holds a vector has entered, and the elements are writable.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        // SAFETY: who holds a vector has entered; lanes outside the mask are not written.
        unsafe { _mm512_mask_storeu_ps(to, first(count), self.0) }
    }

    #[inline(always)]
    unsafe fn transpose_8(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: passed on from the caller.
        unsafe { super::avx2::transpose_8(from, from_stride, to, to_stride) }
    }
    #[inline(always)]
    unsafe fn words(from: *const u8, count: usize) -> __m512i {
        // SAFETY: the caller has entered; lanes outside the mask are not read.
        unsafe { _mm512_maskz_loadu_epi32(first(count), from.cast()) }
    }
    #[inline(always)]
    unsafe fn lowest<const BITS: u32>(words: __m512i) -> Self {
        // SAFETY: the caller has entered.
        F32x16(unsafe {
            if BITS == 8 {
                let codes = _mm512_and_si512(words, _mm512_set1_epi32(255));
                return F32x16(_mm512_sub_ps(_mm512_cvtepi32_ps(codes), _mm512_set1_ps(128.0)));
            }
            // Only the lowest four bits of a word say which float.
            let table = if BITS == 4 { &FOUR_BITS } else { &TWO_BITS };
            _mm512_permutexvar_ps(words, _mm512_loadu_ps(table.as_ptr()))
        })
    }
    #[inline(always)]
    unsafe fn next<const BITS: u32>(words: __m512i) -> __m512i {
        // SAFETY: the caller has entered.
        unsafe {
            match BITS {
                2 => _mm512_srli_epi32::<2>(words),
                4 => _mm512_srli_epi32::<4>(words),
                _ => _mm512_srli_epi32::<8>(words),
            }
        }
    }
    #[inline(always)]
    unsafe fn spread(from: *const f32, count: usize, shift: u32) -> Self {
        // SAFETY: the caller has entered; lanes outside the mask are not read.
        F32x16(unsafe {
            let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let places = _mm512_srl_epi32(lanes, _mm_cvtsi32_si128(shift as i32));
            _mm512_permutexvar_ps(places, _mm512_maskz_loadu_ps(first(count.min(16)), from))
        })
    }

    #[inline(always)]
    fn set(self, x: f32) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x16(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x16(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
    }
    #[inline(always)]
    fn at_least(self, low: Self) -> Self {
        // The instruction returns its second operand when one is a NaN.
        // SAFETY: who holds a vector has entered.
        F32x16(unsafe { _mm512_max_ps(low.0, self.0) })
    }
    #[inline(always)]
    fn at_most(self, high: Self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x16(unsafe { _mm512_min_ps(high.0, self.0) })
    }
    #[inline(always)]
    fn reciprocal(self) -> Self {
        // A step of Newton's doubles the 14 bits of the estimate, in much less time than a division takes.
        // SAFETY: who holds a vector has entered.
        let near = F32x16(unsafe { _mm512_rcp14_ps(self.0) });
        let off = (-self).mul_add(near, self.set(1.0));
        near.mul_add(off, near)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x16(unsafe { _mm512_sqrt_ps(self.0) })
    }
    #[inline(always)]
    fn floor(self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x16(unsafe { _mm512_roundscale_ps::<DOWN>(self.0) })
    }
    #[inline(always)]
    fn ceil(self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x16(unsafe { _mm512_roundscale_ps::<UP>(self.0) })
    }
    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x16(unsafe { _mm512_roundscale_ps::<NEAREST>(self.0) })
    }
    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x16(unsafe { _mm512_andnot_ps(_mm512_set1_ps(-0.0), self.0) })
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x16(unsafe {
            let bit = _mm512_set1_ps(-0.0);
            _mm512_or_ps(_mm512_andnot_ps(bit, self.0), _mm512_and_ps(bit, sign.0))
        })
    }
    #[inline(always)]
    fn exp2_integral(self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x16(unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn exp_directly(self) -> Option<Self> {
        // x = n · ln 2 / 16 + r with |r| < 0.022: a power of sixteenths from a table, the whole part of n /
        // 16 by the instruction for it, and a short series. Added to 1.5 · 2²³, a number has its integer in
        // its lowest bits.
        let shift = self.set(12_582_912.0);
        let shifted = self.mul_add(self.set(16.0 * std::f32::consts::LOG2_E), shift);
        let n = shifted - shift;
        let r = n.mul_add(self.set(-0.693_359_4 / 16.0), self);
        let r = n.mul_add(self.set(2.121_944_4e-4 / 16.0), r);
        let p = r.mul_add(self.set(1.0 / 6.0), self.set(0.5)).mul_add(r * r, r);
        // SAFETY: who holds a vector has entered; lanes of the table are chosen by four bits.
        unsafe {
            let table = _mm512_loadu_ps(SIXTEENTHS.as_ptr());
            let power = F32x16(_mm512_permutexvar_ps(_mm512_castps_si512(shifted.0), table));
            let scaled = power.mul_add(p, power);
            Some(F32x16(_mm512_scalef_ps(scaled.0, (n * n.set(1.0 / 16.0)).0)))
        }
    }
    #[inline(always)]
    fn split(self) -> (Self, Self) {
        // SAFETY: who holds a vector has entered.
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let mantissa = _mm512_and_si512(bits, _mm512_set1_epi32(0x007f_ffff));
            let mantissa = _mm512_or_si512(mantissa, _mm512_set1_epi32(0x3f80_0000));
            let exponent = _mm512_sub_epi32(_mm512_srli_epi32::<23>(bits), _mm512_set1_epi32(127));
            (F32x16(_mm512_castsi512_ps(mantissa)), F32x16(_mm512_cvtepi32_ps(exponent)))
        }
    }
    #[inline(always)]
    fn less(self, other: Self) -> Self::Mask {
        // SAFETY: who holds a vector has entered.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0) }
    }
    #[inline(always)]
    fn less_equal(self, other: Self) -> Self::Mask {
        // SAFETY: who holds a vector has entered.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LE_OQ>(self.0, other.0) }
    }
    #[inline(always)]
    fn equal(self, other: Self) -> Self::Mask {
        // SAFETY: who holds a vector has entered.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0) }
    }
    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x16(unsafe { _mm512_mask_blend_ps(mask, no.0, yes.0) })
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: who holds a vector has entered.
        unsafe {
            let half = _mm256_add_ps(_mm512_castps512_ps256(self.0), _mm512_extractf32x8_ps::<1>(self.0));
            let quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
            let pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
        }
    }
}
