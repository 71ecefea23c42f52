//! What happens to a micro-tile's integer sums: zero points, bias, and the way to f32 and back.

use reef_graph::DType;
use reef_plan::{Per, Requantize};

use super::super::vector::{Leaf, Vector};
use crate::cut::integer::INTEGER_COLUMNS as COLUMNS;

/// Takes zero points off the sums and adds the bias.
///
/// Of sums of bytes as they are stored, `Σ(a − za)(b − zb) = Σab − za·Σb − zb·(Σa − K·za)`.
pub(in super::super) struct Correct {
    /// The sums, `[row][column]`.
    pub(in super::super) acc: *mut i32,
    pub(in super::super) acc_stride: usize,
    pub(in super::super) rows: usize,
    pub(in super::super) columns: usize,
    /// The column sums of the first panel.
    pub(in super::super) column_sums: *const i32,
    pub(in super::super) panel_bytes: usize,
    /// For every row its zero point, and what its sum is without that.
    pub(in super::super) left: *const i32,
    pub(in super::super) row_sums: *const i32,
    /// For every column its zero point.
    pub(in super::super) right: *const i32,
    /// The first column's bias, or null.
    pub(in super::super) bias: *const i32,
}

impl Leaf for Correct {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for row in 0..self.rows {
            for panel in 0..self.columns.div_ceil(COLUMNS) {
                let count = COLUMNS.min(self.columns - panel * COLUMNS);
                // SAFETY: the caller vouches for rows and columns of every operand.
                unsafe {
                    let (left, row_sum) = (*self.left.add(row), *self.row_sums.add(row));
                    let acc = self.acc.add(row * self.acc_stride + panel * COLUMNS);
                    let sums = self.column_sums.cast::<u8>().add(panel * self.panel_bytes).cast::<i32>();
                    let right = self.right.add(panel * COLUMNS);
                    for at in 0..COLUMNS {
                        let off = left
                            .wrapping_mul(*sums.add(at))
                            .wrapping_add(row_sum.wrapping_mul(*right.add(at)));
                        *acc.add(at) = (*acc.add(at)).wrapping_sub(off);
                    }
                    if !self.bias.is_null() {
                        let bias = self.bias.add(panel * COLUMNS);
                        for at in 0..count {
                            *acc.add(at) = (*acc.add(at)).wrapping_add(*bias.add(at));
                        }
                    }
                }
            }
        }
    }
}

/// Turns sums into f32, times a factor, where they are.
pub(in super::super) struct Scale {
    pub(in super::super) acc: *mut i32,
    pub(in super::super) acc_stride: usize,
    pub(in super::super) rows: usize,
    pub(in super::super) columns: usize,
    /// The first column's factor.
    pub(in super::super) factors: Option<(*const f32, Per)>,
}

impl Leaf for Scale {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for row in 0..self.rows {
            // SAFETY: the caller vouches for rows and columns.
            unsafe {
                let from = self.acc.add(row * self.acc_stride);
                let to = from.cast::<f32>();
                match self.factors {
                    None => {
                        for at in 0..self.columns {
                            to.add(at).write(*from.add(at) as f32);
                        }
                    }
                    Some((factor, Per::Tensor)) => {
                        let factor = *factor;
                        for at in 0..self.columns {
                            to.add(at).write(*from.add(at) as f32 * factor);
                        }
                    }
                    Some((factors, Per::Each)) => {
                        for at in 0..self.columns {
                            to.add(at).write(*from.add(at) as f32 * *factors.add(at));
                        }
                    }
                }
            }
        }
    }
}

/// Stores rows of f32 as integers of 8 bits.
pub(in super::super) struct Quantize {
    pub(in super::super) from: *const f32,
    pub(in super::super) from_stride: usize,
    pub(in super::super) rows: usize,
    pub(in super::super) columns: usize,
    pub(in super::super) how: Requantize,
    pub(in super::super) to: *mut u8,
    pub(in super::super) to_stride: usize,
}

impl Leaf for Quantize {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Requantize { scale, zero, low, high, .. } = self.how;
        let (zero, low, high) = (zero as f32, low as f32, high as f32);
        for row in 0..self.rows {
            // SAFETY: the caller vouches for rows and columns on both sides.
            unsafe {
                let from = self.from.add(row * self.from_stride);
                let to = self.to.add(row * self.to_stride);
                if scale == 1.0 {
                    for at in 0..self.columns {
                        to.add(at).write(to_byte((*from.add(at)).round_ties_even() + zero, low, high));
                    }
                } else {
                    for at in 0..self.columns {
                        let steps = (*from.add(at) / scale).round_ties_even();
                        to.add(at).write(to_byte(steps + zero, low, high));
                    }
                }
            }
        }
    }
}

/// An integral number, kept between two bounds, as a byte of either sign; what is no number is the lower.
#[inline(always)]
fn to_byte(x: f32, low: f32, high: f32) -> u8 {
    let x = if x > low { x } else { low };
    let x = if x < high { x } else { high };
    // SAFETY: between the bounds, which are those of u8 or i8.
    (unsafe { x.to_int_unchecked::<i32>() }) as u8
}

/// Stores rows of i32.
pub(in super::super) struct Plain {
    pub(in super::super) from: *const i32,
    pub(in super::super) from_stride: usize,
    pub(in super::super) rows: usize,
    pub(in super::super) columns: usize,
    pub(in super::super) to: *mut i32,
    pub(in super::super) to_stride: usize,
}

impl Leaf for Plain {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for row in 0..self.rows {
            // SAFETY: the caller vouches for rows and columns on both sides.
            unsafe {
                let from = self.from.add(row * self.from_stride);
                std::ptr::copy_nonoverlapping(from, self.to.add(row * self.to_stride), self.columns);
            }
        }
    }
}

/// Copies bytes as u8: those of i8 plus 128, which is their highest bit turned around.
pub(in super::super) struct Bytes {
    pub(in super::super) from: *const u8,
    pub(in super::super) step: usize,
    pub(in super::super) count: usize,
    /// 0 or 128.
    pub(in super::super) flip: u8,
    pub(in super::super) to: *mut u8,
}

impl Leaf for Bytes {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller vouches for the bytes on both sides.
        unsafe {
            if self.step == 1 {
                for at in 0..self.count {
                    self.to.add(at).write(*self.from.add(at) ^ self.flip);
                }
            } else {
                for at in 0..self.count {
                    self.to.add(at).write(*self.from.add(at * self.step) ^ self.flip);
                }
            }
        }
    }
}

/// The sum of some bytes.
pub(in super::super) struct Sum {
    pub(in super::super) from: *const u8,
    pub(in super::super) count: usize,
}

impl Leaf for Sum {
    type Out = i32;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> i32 {
        let mut sum = 0u32;
        for at in 0..self.count {
            // SAFETY: the caller vouches for the bytes.
            sum = sum.wrapping_add(u32::from(unsafe { *self.from.add(at) }));
        }
        sum as i32
    }
}

/// A zero point as it is for bytes that are stored as u8 (`as_u8`) or as i8.
#[inline(always)]
pub(in super::super) fn stored_zero(byte: u8, dtype: DType, as_u8: bool) -> i32 {
    match (dtype == DType::I8, as_u8) {
        (true, true) => i32::from(byte as i8) + 128,
        (true, false) => i32::from(byte as i8),
        (false, true) => i32::from(byte),
        (false, false) => i32::from(byte) - 128,
    }
}

/// What turns bytes of `dtype` into those that are stored.
pub(in super::super) fn flip(dtype: DType, as_u8: bool) -> u8 {
    if (dtype == DType::U8) == as_u8 { 0 } else { 128 }
}
