//! Eight lanes with AVX2 and FMA.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Neg, Sub};

use super::{Leaf, Vector};

/// Eight f32. A value exists only inside code that was entered.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(in super::super) struct F32x8(__m256);

macro_rules! operator {
    ($($name:ident $method:ident $intrinsic:ident;)*) => {$(
        impl $name for F32x8 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: who holds a vector has entered.
                F32x8(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    )*};
}

operator! { Add add _mm256_add_ps; Sub sub _mm256_sub_ps; Mul mul _mm256_mul_ps; Div div _mm256_div_ps; }

impl Neg for F32x8 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x8(unsafe { _mm256_xor_ps(self.0, _mm256_set1_ps(-0.0)) })
    }
}

/// Eight set words, then eight clear ones: eight words from position `8 − n` are a mask of the first n lanes.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// A mask of the first `count` lanes.
///
/// # Safety
/// Inside `enter`; `count` is at most 8.
#[inline(always)]
unsafe fn first(count: usize) -> __m256i {
    // SAFETY: the eight words lie inside the table.
    unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - count).cast()) }
}

/// Rounding without floating-point exceptions.
const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

impl Vector for F32x8 {
    const LANES: usize = 8;
    const ROWS: usize = 6;
    const STEPS: usize = 512;
    type Mask = __m256;
    type Words = __m256i;

    #[inline(never)]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn enter<F: Leaf>(leaf: F) -> F::Out {
        // SAFETY: passed on from the caller.
        unsafe { leaf.run::<Self>() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller has entered.
        F32x8(unsafe { _mm256_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has entered, and the elements are readable.
        F32x8(unsafe { _mm256_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller has entered; lanes outside the mask are not read.
        F32x8(unsafe { _mm256_maskload_ps(from, first(count)) })
    }
    #[inline(always)]
    unsafe fn gather(from: *const f32, places: *const i32) -> Self {
        // SAFETY: the caller has entered; places and elements are readable.
        F32x8(unsafe { _mm256_i32gather_ps::<4>(from, _mm256_loadu_si256(places.cast())) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: who holds a vector has entered, and the elements are writable.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        // SAFETY: who holds a vector has entered; lanes outside the mask are not written.
        unsafe { _mm256_maskstore_ps(to, first(count), self.0) }
    }

    #[inline(always)]
    unsafe fn transpose_8(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: passed on from the caller.
        unsafe { transpose_8(from, from_stride, to, to_stride) }
    }
    #[inline(always)]
    unsafe fn words(from: *const u8, count: usize) -> __m256i {
        // SAFETY: the caller has entered; lanes outside the mask are not read.
        unsafe {
            match count {
                8 => _mm256_loadu_si256(from.cast()),
                _ => _mm256_maskload_epi32(from.cast(), first(count)),
            }
        }
    }
    #[inline(always)]
    unsafe fn lowest<const BITS: u32>(words: __m256i) -> Self {
        // SAFETY: the caller has entered.
        F32x8(unsafe {
            let codes = _mm256_and_si256(words, _mm256_set1_epi32((1 << BITS) - 1));
            let middle = _mm256_set1_ps((1 << (BITS - 1)) as f32);
            _mm256_sub_ps(_mm256_cvtepi32_ps(codes), middle)
        })
    }
    #[inline(always)]
    unsafe fn next<const BITS: u32>(words: __m256i) -> __m256i {
        // SAFETY: the caller has entered.
        unsafe {
            match BITS {
                2 => _mm256_srli_epi32::<2>(words),
                4 => _mm256_srli_epi32::<4>(words),
                _ => _mm256_srli_epi32::<8>(words),
            }
        }
    }
    #[inline(always)]
    unsafe fn spread(from: *const f32, count: usize, shift: u32) -> Self {
        // SAFETY: the caller has entered; lanes outside the mask are not read.
        F32x8(unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let places = _mm256_srl_epi32(lanes, _mm_cvtsi32_si128(shift as i32));
            _mm256_permutevar8x32_ps(_mm256_maskload_ps(from, first(count.min(8))), places)
        })
    }

    #[inline(always)]
    fn set(self, x: f32) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x8(unsafe { _mm256_set1_ps(x) })
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x8(unsafe { _mm256_fmadd_ps(self.0, factor.0, addend.0) })
    }
    #[inline(always)]
    fn at_least(self, low: Self) -> Self {
        // The instruction returns its second operand when one is a NaN.
        // SAFETY: who holds a vector has entered.
        F32x8(unsafe { _mm256_max_ps(low.0, self.0) })
    }
    #[inline(always)]
    fn at_most(self, high: Self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x8(unsafe { _mm256_min_ps(high.0, self.0) })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x8(unsafe { _mm256_sqrt_ps(self.0) })
    }
    #[inline(always)]
    fn floor(self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x8(unsafe { _mm256_floor_ps(self.0) })
    }
    #[inline(always)]
    fn ceil(self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x8(unsafe { _mm256_ceil_ps(self.0) })
    }
    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x8(unsafe { _mm256_round_ps::<NEAREST>(self.0) })
    }
    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x8(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x8(unsafe {
            let bit = _mm256_set1_ps(-0.0);
            _mm256_or_ps(_mm256_andnot_ps(bit, self.0), _mm256_and_ps(bit, sign.0))
        })
    }
    #[inline(always)]
    fn exp2_integral(self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x8(unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn split(self) -> (Self, Self) {
        // SAFETY: who holds a vector has entered.
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let mantissa = _mm256_and_si256(bits, _mm256_set1_epi32(0x007f_ffff));
            let mantissa = _mm256_or_si256(mantissa, _mm256_set1_epi32(0x3f80_0000));
            let exponent = _mm256_sub_epi32(_mm256_srli_epi32::<23>(bits), _mm256_set1_epi32(127));
            (F32x8(_mm256_castsi256_ps(mantissa)), F32x8(_mm256_cvtepi32_ps(exponent)))
        }
    }
    #[inline(always)]
    fn less(self, other: Self) -> Self::Mask {
        // SAFETY: who holds a vector has entered.
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0) }
    }
    #[inline(always)]
    fn less_equal(self, other: Self) -> Self::Mask {
        // SAFETY: who holds a vector has entered.
        unsafe { _mm256_cmp_ps::<_CMP_LE_OQ>(self.0, other.0) }
    }
    #[inline(always)]
    fn equal(self, other: Self) -> Self::Mask {
        // SAFETY: who holds a vector has entered.
        unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0) }
    }
    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        // SAFETY: who holds a vector has entered.
        F32x8(unsafe { _mm256_blendv_ps(no.0, yes.0, mask) })
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: who holds a vector has entered.
        unsafe {
            let half = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
        }
    }
}

/// Turns a square of 8 rows of 8 floats.
///
/// # Safety
/// The machine has AVX, and the caller was compiled for it; the squares are readable and writable.
#[inline(always)]
pub(super) unsafe fn transpose_8(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    // SAFETY: passed on from the caller.
    unsafe {
        let mut rows = [_mm256_setzero_ps(); 8];
        for at in 0..8 {
            rows[at] = _mm256_loadu_ps(from.add(at * from_stride));
        }
        let (upper, lower) =
            (four([rows[0], rows[1], rows[2], rows[3]]), four([rows[4], rows[5], rows[6], rows[7]]));
        for at in 0..4 {
            let (a, b) = (upper[at], lower[at]);
            _mm256_storeu_ps(to.add(at * to_stride), _mm256_permute2f128_ps::<0x20>(a, b));
            _mm256_storeu_ps(to.add((at + 4) * to_stride), _mm256_permute2f128_ps::<0x31>(a, b));
        }
    }
}

/// Columns 0 and 4, 1 and 5, 2 and 6, 3 and 7 of four rows.
///
/// # Safety
/// As of [`transpose_8`].
#[inline(always)]
unsafe fn four(rows: [__m256; 4]) -> [__m256; 4] {
    // SAFETY: passed on from the caller.
    unsafe {
        let (a, b) = (_mm256_unpacklo_ps(rows[0], rows[1]), _mm256_unpackhi_ps(rows[0], rows[1]));
        let (c, d) = (_mm256_unpacklo_ps(rows[2], rows[3]), _mm256_unpackhi_ps(rows[2], rows[3]));
        [
            _mm256_shuffle_ps::<0x44>(a, c),
            _mm256_shuffle_ps::<0xee>(a, c),
            _mm256_shuffle_ps::<0x44>(b, d),
            _mm256_shuffle_ps::<0xee>(b, d),
        ]
    }
}
