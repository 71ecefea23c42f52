//! The micro-kernels of integer products: a tile of rows × panels of columns in registers.
//!
//! The left operand is u8, the right one i8, and sums are i32 that wrap: every instruction set has the same
//! ones. Four products of a column are one step, as `vpdpbusd` has them. Where the machine has not that
//! instruction, bytes are widened to 16 bits and multiplied in pairs, since what multiplies bytes at once
//! saturates.

use reef_plan::Isa;

use crate::cut::integer::{INTEGER_COLUMNS as COLUMNS, INTEGER_PANELS as PANELS_MAX};

/// Some steps of a micro-tile's sums.
#[derive(Clone, Copy)]
pub(in super::super) struct Chunk {
    /// Four bytes a step, of the first row.
    pub(in super::super) a: *const u8,
    /// Bytes from row to row.
    pub(in super::super) a_stride: usize,
    /// The first panel's first step: `[step][column][4]`.
    pub(in super::super) b: *const u8,
    /// Bytes from panel to panel.
    pub(in super::super) panel_bytes: usize,
    /// Steps.
    pub(in super::super) steps: usize,
    /// The sums, `[row][column]`, dense.
    pub(in super::super) acc: *mut i32,
    /// Start at zero rather than at `acc`.
    pub(in super::super) first: bool,
}

/// The micro-kernels of an instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Dot {
    /// Rows of the largest micro-tile.
    pub(in super::super) rows: usize,
    /// Most rows with which four panels are multiplied at a time.
    pub(in super::super) wide_rows: usize,
    /// Whether two panels are multiplied at a time.
    pub(in super::super) pairs: bool,
    /// Steps between polls.
    pub(in super::super) steps: usize,
    /// Runs a chunk of so many rows and panels.
    run: unsafe fn(usize, usize, &Chunk),
}

impl Dot {
    /// How many panels the next micro-tile of `rows` takes when so many are left.
    pub(in super::super) fn panels_at_once(&self, rows: usize, left: usize) -> usize {
        match left {
            PANELS_MAX.. if rows <= self.wide_rows => PANELS_MAX,
            2.. if self.pairs => 2,
            _ => 1,
        }
    }

    /// Runs `chunk` for `rows` rows and `panels` panels.
    ///
    /// # Safety
    /// The machine has the instruction set; the chunk's addresses are valid; rows are at most the kernels',
    /// panels are what [`Dot::panels_at_once`] says.
    pub(in super::super) unsafe fn run(&self, rows: usize, panels: usize, chunk: &Chunk) {
        // SAFETY: passed on from the caller.
        unsafe { (self.run)(rows, panels, chunk) }
    }

    /// The best that this machine has for `isa`.
    pub(in super::super) fn best(isa: Isa) -> Dot {
        Dot::all(isa).next().expect("every instruction set has one")
    }

    /// Those that this machine has for `isa`, the best first.
    #[cfg(target_arch = "x86_64")]
    pub(in super::super) fn all(isa: Isa) -> impl Iterator<Item = Dot> {
        let known: &[(bool, Dot)] = match isa {
            Isa::Avx512 => &[(is_x86_feature_detected!("avx512vnni"), VNNI512), (true, WIDE512)],
            Isa::Avx2 => &[(is_x86_feature_detected!("avxvnni"), VNNI256), (true, WIDE256)],
            _ => &[(true, WIDE128), (true, PORTABLE)],
        };
        let here: Vec<Dot> = known.iter().filter(|(here, _)| *here).map(|(_, dot)| *dot).collect();
        here.into_iter()
    }

    /// Those that this machine has for `isa`, the best first.
    #[cfg(not(target_arch = "x86_64"))]
    pub(in super::super) fn all(_isa: Isa) -> impl Iterator<Item = Dot> {
        [PORTABLE].into_iter()
    }
}

/// What multiplies a panel's columns at a time.
trait Lanes {
    /// Sums of a panel's columns.
    type Sums: Copy;
    /// Four bytes of a row, for all columns.
    type Left: Copy;
    /// Four bytes of every column.
    type Right: Copy;

    unsafe fn zero() -> Self::Sums;
    unsafe fn load(from: *const i32) -> Self::Sums;
    unsafe fn store(sums: Self::Sums, to: *mut i32);
    unsafe fn left(from: *const u8) -> Self::Left;
    unsafe fn right(from: *const u8) -> Self::Right;
    unsafe fn dot(sums: Self::Sums, left: Self::Left, right: Self::Right) -> Self::Sums;
}

#[inline(always)]
unsafe fn micro<L: Lanes, const ROWS: usize, const PANELS: usize>(chunk: &Chunk) {
    // SAFETY: the caller vouches for the chunk's addresses and for the instruction set.
    unsafe {
        let place = |row: usize, panel: usize| (row * PANELS + panel) * COLUMNS;
        let mut sums = [[L::zero(); PANELS]; ROWS];
        if !chunk.first {
            for row in 0..ROWS {
                for panel in 0..PANELS {
                    sums[row][panel] = L::load(chunk.acc.add(place(row, panel)));
                }
            }
        }
        for step in 0..chunk.steps {
            let b = chunk.b.add(step * COLUMNS * 4);
            let mut right = [L::right(b); PANELS];
            for panel in 1..PANELS {
                right[panel] = L::right(b.add(panel * chunk.panel_bytes));
            }
            for row in 0..ROWS {
                let left = L::left(chunk.a.add(row * chunk.a_stride + step * 4));
                for panel in 0..PANELS {
                    sums[row][panel] = L::dot(sums[row][panel], left, right[panel]);
                }
            }
        }
        for row in 0..ROWS {
            for panel in 0..PANELS {
                L::store(sums[row][panel], chunk.acc.add(place(row, panel)));
            }
        }
    }
}

/// The micro-kernels of some lanes: a function of its own for every size, chosen by one jump.
macro_rules! kernels {
    ($name:ident, $enter:ident, $choose:ident, $lanes:ty, [$($features:literal)?],
     $rows:literal, $wide:literal, $pairs:literal, $steps:literal,
     $($panels:literal: $($size:literal)*;)*) => {
        $(#[target_feature(enable = $features)])?
        unsafe fn $enter<const ROWS: usize, const PANELS: usize>(chunk: &Chunk) {
            // SAFETY: passed on from the caller; the instructions are there.
            unsafe { micro::<$lanes, ROWS, PANELS>(chunk) }
        }

        unsafe fn $choose(rows: usize, panels: usize, chunk: &Chunk) {
            match (panels, rows) {
                // SAFETY: passed on from the caller.
                $($(($panels, $size) => unsafe { $enter::<$size, $panels>(chunk) },)*)*
                _ => unreachable!("no micro-tile has {rows} rows of {panels} panels"),
            }
        }

        pub(in super::super) const $name: Dot =
            Dot { rows: $rows, wide_rows: $wide, pairs: $pairs, steps: $steps, run: $choose };
    };
}

/// Plain loops.
struct Portable;

impl Lanes for Portable {
    type Sums = [i32; COLUMNS];
    type Left = [i32; 4];
    type Right = *const i8;

    #[inline(always)]
    unsafe fn zero() -> Self::Sums {
        [0; COLUMNS]
    }
    #[inline(always)]
    unsafe fn load(from: *const i32) -> Self::Sums {
        // SAFETY: passed on from the caller.
        unsafe { from.cast::<Self::Sums>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(sums: Self::Sums, to: *mut i32) {
        // SAFETY: passed on from the caller.
        unsafe { to.cast::<Self::Sums>().write_unaligned(sums) }
    }
    #[inline(always)]
    unsafe fn left(from: *const u8) -> Self::Left {
        // SAFETY: passed on from the caller.
        unsafe { from.cast::<[u8; 4]>().read() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn right(from: *const u8) -> Self::Right {
        from.cast()
    }
    #[inline(always)]
    unsafe fn dot(mut sums: Self::Sums, left: Self::Left, right: Self::Right) -> Self::Sums {
        for column in 0..COLUMNS {
            for at in 0..4 {
                // SAFETY: a step of a panel has four bytes for every column.
                let factor = i32::from(unsafe { *right.add(column * 4 + at) });
                sums[column] = sums[column].wrapping_add(left[at] * factor);
            }
        }
        sums
    }
}

kernels! { PORTABLE, enter_portable, choose_portable, Portable, [], 4, 0, false, 64, 1: 1 2 3 4; }

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! What needs x86's instructions.

    use std::arch::x86_64::*;

    use super::{COLUMNS, Chunk, Dot, Lanes, micro};

    /// The same loads and stores for vectors of one width; `$panel` of them are a panel.
    macro_rules! lanes {
        ($name:ident, $vector:ty, $panel:literal, $load:ident, $store:ident, $zero:ident;
         $left:ty = |$from:ident| $make:expr; $right:ty = |$bytes:ident| $split:expr;
         |$sum:ident, $l:ident, $r:ident| $dot:expr) => {
            impl Lanes for $name {
                type Sums = [$vector; $panel];
                type Left = $left;
                type Right = [$right; $panel];

                #[inline(always)]
                unsafe fn zero() -> Self::Sums {
                    // SAFETY: the instructions are there.
                    [unsafe { $zero() }; $panel]
                }
                #[inline(always)]
                unsafe fn load(from: *const i32) -> Self::Sums {
                    // SAFETY: the instructions are there.
                    let mut sums = [unsafe { $zero() }; $panel];
                    for at in 0..$panel {
                        // SAFETY: passed on from the caller.
                        sums[at] = unsafe { $load(from.add(at * COLUMNS / $panel).cast()) };
                    }
                    sums
                }
                #[inline(always)]
                unsafe fn store(sums: Self::Sums, to: *mut i32) {
                    for at in 0..$panel {
                        // SAFETY: passed on from the caller.
                        unsafe { $store(to.add(at * COLUMNS / $panel).cast(), sums[at]) };
                    }
                }
                #[inline(always)]
                unsafe fn left(from: *const u8) -> Self::Left {
                    // SAFETY: passed on from the caller.
                    unsafe {
                        let $from = from.cast::<i32>().read_unaligned();
                        $make
                    }
                }
                #[inline(always)]
                unsafe fn right(from: *const u8) -> Self::Right {
                    // SAFETY: passed on from the caller.
                    unsafe {
                        let mut all: Self::Right = std::mem::zeroed();
                        for at in 0..$panel {
                            let $bytes = $load(from.add(at * COLUMNS * 4 / $panel).cast());
                            all[at] = $split;
                        }
                        all
                    }
                }
                #[inline(always)]
                unsafe fn dot(mut sums: Self::Sums, $l: Self::Left, right: Self::Right) -> Self::Sums {
                    for at in 0..$panel {
                        let ($sum, $r) = (sums[at], right[at]);
                        // SAFETY: the instructions are there.
                        sums[at] = unsafe { $dot };
                    }
                    sums
                }
            }
        };
    }

    /// `vpdpbusd` on 512 bits.
    struct Vnni512;

    lanes! { Vnni512, __m512i, 1, _mm512_loadu_si512, _mm512_storeu_si512, _mm512_setzero_si512;
        __m512i = |four| _mm512_set1_epi32(four);
        __m512i = |bytes| bytes;
        |sum, left, right| _mm512_dpbusd_epi32(sum, left, right)
    }

    /// Pairs of 16 bits on 512 bits: bytes 0 and 2, bytes 1 and 3.
    struct Wide512;

    lanes! { Wide512, __m512i, 1, _mm512_loadu_si512, _mm512_storeu_si512, _mm512_setzero_si512;
        [__m512i; 2] = |four| {
            let four = _mm512_set1_epi32(four);
            [_mm512_and_si512(four, _mm512_set1_epi16(0xff)), _mm512_srli_epi16::<8>(four)]
        };
        [__m512i; 2] = |bytes| {
            [_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(bytes)), _mm512_srai_epi16::<8>(bytes)]
        };
        |sum, left, right| {
            let even = _mm512_madd_epi16(left[0], right[0]);
            let odd = _mm512_madd_epi16(left[1], right[1]);
            _mm512_add_epi32(sum, _mm512_add_epi32(even, odd))
        }
    }

    /// `vpdpbusd` on 256 bits.
    struct Vnni256;

    lanes! { Vnni256, __m256i, 2, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_setzero_si256;
        __m256i = |four| _mm256_set1_epi32(four);
        __m256i = |bytes| bytes;
        |sum, left, right| _mm256_dpbusd_avx_epi32(sum, left, right)
    }

    /// Pairs of 16 bits on 256 bits: bytes 0 and 2, bytes 1 and 3.
    struct Wide256;

    lanes! { Wide256, __m256i, 2, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_setzero_si256;
        [__m256i; 2] = |four| {
            let four = _mm256_set1_epi32(four);
            [_mm256_and_si256(four, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(four)]
        };
        [__m256i; 2] = |bytes| {
            [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes)), _mm256_srai_epi16::<8>(bytes)]
        };
        |sum, left, right| {
            let even = _mm256_madd_epi16(left[0], right[0]);
            let odd = _mm256_madd_epi16(left[1], right[1]);
            _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
        }
    }

    /// Pairs of 16 bits on the 128 that every machine has: bytes 0 and 2, bytes 1 and 3.
    struct Wide128;

    lanes! { Wide128, __m128i, 4, _mm_loadu_si128, _mm_storeu_si128, _mm_setzero_si128;
        [__m128i; 2] = |four| {
            let four = _mm_set1_epi32(four);
            [_mm_and_si128(four, _mm_set1_epi16(0xff)), _mm_srli_epi16::<8>(four)]
        };
        [__m128i; 2] = |bytes| {
            [_mm_srai_epi16::<8>(_mm_slli_epi16::<8>(bytes)), _mm_srai_epi16::<8>(bytes)]
        };
        |sum, left, right| {
            let (even, odd) = (_mm_madd_epi16(left[0], right[0]), _mm_madd_epi16(left[1], right[1]));
            _mm_add_epi32(sum, _mm_add_epi32(even, odd))
        }
    }

    kernels! { VNNI512, enter_vnni512, choose_vnni512, Vnni512,
        ["avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"], 12, 3, true, 512,
        2: 1 2 3 4 5 6 7 8 9 10 11 12; 1: 1 2 3 4 5 6 7 8 9 10 11 12; 4: 1 2 3;
    }
    kernels! { WIDE512, enter_wide512, choose_wide512, Wide512,
        ["avx512f,avx512bw,avx512dq,avx512vl"], 8, 3, true, 256,
        2: 1 2 3 4 5 6 7 8; 1: 1 2 3 4 5 6 7 8; 4: 1 2 3;
    }
    kernels! { VNNI256, enter_vnni256, choose_vnni256, Vnni256, ["avx2,fma,avxvnni"], 6, 1, false, 512,
        1: 1 2 3 4 5 6; 4: 1;
    }
    kernels! { WIDE256, enter_wide256, choose_wide256, Wide256, ["avx2,fma"], 4, 0, false, 512,
        1: 1 2 3 4;
    }
    kernels! { WIDE128, enter_wide128, choose_wide128, Wide128, [], 2, 0, false, 256,
        1: 1 2;
    }
}

#[cfg(target_arch = "x86_64")]
use x86::{VNNI256, VNNI512, WIDE128, WIDE256, WIDE512};
