//! Distinct slices: a stable merge sort of their places, whose runs of equals are then numbered.

use std::cmp::Ordering;

use reef_graph::DType;
use reef_plan::{Kernel, Region, UniqueSpec};

use super::{Pace, SCATTERED, STEPS, Select, Stopped, store_count};
use crate::context::BlockContext;

pub(super) struct Unique {
    spec: UniqueSpec,
    /// Compares elements that are neighbours, from the first on.
    compare: unsafe fn(*const u8, *const u8, usize) -> Ordering,
    x: Region,
    y: Region,
    firsts: Region,
    inverse: Region,
    counts: Region,
    count: Region,
}

/// Elements compared between polls.
const COMPARED: usize = STEPS / 4;

impl Unique {
    pub(super) fn new(spec: &UniqueSpec, kernel: &Kernel) -> Unique {
        let ([x], [y, firsts, inverse, counts, count]) = (&kernel.reads[..], &kernel.writes[..]) else {
            unreachable!("the validator counts operands")
        };
        Unique {
            spec: spec.clone(),
            compare: comparison(spec.dtype),
            x: *x,
            y: *y,
            firsts: *firsts,
            inverse: *inverse,
            counts: *counts,
            count: *count,
        }
    }

    /// The order of two slices.
    unsafe fn order(&self, x: *const u8, a: u32, b: u32, pace: &mut Pace<'_>) -> Result<Ordering, Stopped> {
        let UniqueSpec { outer, extent, inner, .. } = self.spec;
        let size = self.spec.dtype.bytes();
        for plane in 0..outer {
            for first in (0..inner).step_by(COMPARED) {
                let count = COMPARED.min(inner - first);
                pace.steps(SCATTERED + 2 * count)?;
                let at = |slice: u32| ((plane * extent + slice as usize) * inner + first) * size;
                // SAFETY: the slices are x's.
                let order = unsafe { (self.compare)(x.add(at(a)), x.add(at(b)), count) };
                if order.is_ne() {
                    return Ok(order);
                }
            }
        }
        Ok(Ordering::Equal)
    }

    /// Sorts places with a second list beside; equals stay in their order. Says which of the two is sorted.
    unsafe fn sort<'a>(
        &self,
        x: *const u8,
        lists: [&'a mut [u32]; 2],
        pace: &mut Pace<'_>,
    ) -> Result<[&'a mut [u32]; 2], Stopped> {
        let [mut from, mut to] = lists;
        for (at, place) in from.iter_mut().enumerate() {
            pace.steps(1)?;
            *place = at as u32;
        }
        let mut width = 1;
        while width < from.len() {
            for first in (0..from.len()).step_by(2 * width) {
                let (middle, last) = ((first + width).min(from.len()), (first + 2 * width).min(from.len()));
                let (left, right) = (&from[first..middle], &from[middle..last]);
                // SAFETY: passed on from the caller.
                unsafe { self.merge(x, left, right, &mut to[first..last], pace)? };
            }
            std::mem::swap(&mut from, &mut to);
            width *= 2;
        }
        Ok([from, to])
    }

    unsafe fn merge(
        &self,
        x: *const u8,
        left: &[u32],
        right: &[u32],
        to: &mut [u32],
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let (mut a, mut b) = (0, 0);
        for place in to {
            pace.steps(2)?;
            // SAFETY: lists hold places of slices.
            let from_left = b == right.len()
                || a < left.len() && unsafe { self.order(x, left[a], right[b], pace)? }.is_le();
            *place = if from_left { left[a] } else { right[b] };
            (a, b) = if from_left { (a + 1, b) } else { (a, b + 1) };
        }
        Ok(())
    }

    /// Numbers the distinct slices in ascending order; how many there are.
    unsafe fn number(
        &self,
        x: *const u8,
        sorted: &[u32],
        [firsts, inverse, counts]: [*mut i64; 3],
        pace: &mut Pace<'_>,
    ) -> Result<usize, Stopped> {
        let (mut made, mut run) = (0, 0);
        for (at, &place) in sorted.iter().enumerate() {
            pace.steps(SCATTERED)?;
            // SAFETY: there are no more distinct slices than slices, and lists have one entry for each.
            unsafe {
                if at == 0 || self.order(x, sorted[at - 1], place, pace)?.is_ne() {
                    firsts.add(made).write(i64::from(place));
                    (made, run) = (made + 1, at);
                }
                inverse.add(place as usize).write(made as i64 - 1);
                counts.add(made - 1).write((at + 1 - run) as i64);
            }
        }
        Ok(made)
    }

    /// Numbers them anew, in the order of their first occurrence. `numbers` and `sizes` are lists beside.
    unsafe fn renumber(
        &self,
        [numbers, sizes]: [&mut [u32]; 2],
        [firsts, inverse, counts]: [*mut i64; 3],
        made: usize,
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let mut next = 0;
        for at in 0..made {
            pace.steps(2)?;
            // SAFETY: `number` has written as many.
            unsafe { sizes[at] = counts.add(at).read() as u32 };
            numbers[at] = u32::MAX;
        }
        for at in 0..self.spec.extent {
            pace.steps(SCATTERED)?;
            // SAFETY: as above; `inverse` has an entry for every slice.
            unsafe {
                let old = inverse.add(at).read() as usize;
                if numbers[old] == u32::MAX {
                    numbers[old] = next as u32;
                    firsts.add(next).write(at as i64);
                    counts.add(next).write(i64::from(sizes[old]));
                    next += 1;
                }
                inverse.add(at).write(i64::from(numbers[old]));
            }
        }
        Ok(())
    }
}

impl Select for Unique {
    unsafe fn select(&self, context: &BlockContext<'_>, pace: &mut Pace<'_>) -> Result<(), Stopped> {
        let UniqueSpec { outer, extent, inner, sorted, .. } = self.spec;
        let slice = inner * self.spec.dtype.bytes();
        let (x, y) = (context.read_ptr(&self.x), context.write_ptr(&self.y));
        let lists = [self.firsts, self.inverse, self.counts].map(|list| context.write_ptr(&list).cast());
        let [firsts, ..] = lists;
        // SAFETY: scratch holds two lists of places; the regions are the kernel's.
        unsafe {
            let places = std::slice::from_raw_parts_mut(context.scratch.cast::<u32>(), 2 * extent);
            let (first, second) = places.split_at_mut(extent);
            let [order, rest] = self.sort(x, [first, second], pace)?;
            let count = self.number(x, order, lists, pace)?;
            if !sorted {
                self.renumber([order, rest], lists, count, pace)?;
            }
            for plane in 0..outer {
                for at in 0..count {
                    pace.steps(SCATTERED)?;
                    let from = plane * extent + firsts.add(at).read() as usize;
                    pace.copy(x.add(from * slice), y.add((plane * count + at) * slice), slice)?;
                }
            }
            store_count(context, &self.count, count);
            pace.zero(context, &self.y, outer * count * slice)?;
            pace.zero(context, &self.firsts, count * size_of::<i64>())?;
            pace.zero(context, &self.counts, count * size_of::<i64>())
        }
    }
}

/// The comparison of elements of this type.
fn comparison(dtype: DType) -> unsafe fn(*const u8, *const u8, usize) -> Ordering {
    /// By integers in the same order.
    macro_rules! by {
        ($t:ty, $key:expr) => {{
            unsafe fn compare(a: *const u8, b: *const u8, count: usize) -> Ordering {
                let key: fn($t) -> i64 = $key;
                for at in 0..count {
                    // SAFETY: the caller vouches for the elements.
                    let (a, b) = unsafe { (*a.cast::<$t>().add(at), *b.cast::<$t>().add(at)) };
                    if a != b && key(a) != key(b) {
                        return key(a).cmp(&key(b));
                    }
                }
                Ordering::Equal
            }
            compare
        }};
    }
    match dtype {
        DType::F64 => by!(u64, |bits| float(bits, 63, f64::INFINITY.to_bits())),
        DType::F32 => by!(u32, |bits| float(bits.into(), 31, f32::INFINITY.to_bits().into())),
        DType::F16 => by!(u16, |bits| float(bits.into(), 15, 0x7C00)),
        DType::BF16 => by!(u16, |bits| float(bits.into(), 15, 0x7F80)),
        DType::I64 => by!(i64, |value| value),
        DType::I32 => by!(i32, i64::from),
        DType::I16 => by!(i16, i64::from),
        DType::I8 => by!(i8, i64::from),
        DType::U64 => by!(u64, |value| (value ^ 1 << 63) as i64),
        DType::U32 => by!(u32, i64::from),
        DType::U16 => by!(u16, i64::from),
        DType::U8 | DType::Bool => by!(u8, i64::from),
    }
}

/// An integer for a float of these bits: in the order of the numbers, one for both zeros, and one for all
/// NaN behind the numbers. `sign` is the sign's bit, `infinity` the largest number.
fn float(bits: u64, sign: u32, infinity: u64) -> i64 {
    let magnitude = bits & ((1 << sign) - 1);
    match bits >> sign & 1 {
        _ if magnitude > infinity => i64::MAX,
        0 => magnitude as i64,
        _ => -(magnitude as i64),
    }
}
