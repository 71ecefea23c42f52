//! The largest element of every window, and its place. Polls in windows by [`Pace`].

use std::marker::PhantomData;

use reef_graph::DType;
use reef_plan::{Isa, Kernel, MaxPoolSpec, Region};

use super::along::number::{Number, Wide};
use super::along::{of_numbers, of_wholes};
use super::elementwise::convert::{Bf16, F16};
use super::pace::{Pace, Stopped};
use super::vector::Vector;
use super::{BlockKernel, VectorKernel, bind, bind_plain};
use crate::context::{BlockContext, BlockEnd};

/// Taps of a line that are looked at between polls.
const TAPS: usize = 1024;
/// Steps of a line of taps, with its part of the window's, beside two for every tap.
const LINE: usize = 24;

/// Makes a kernel ready.
pub(super) fn prepare(spec: &MaxPoolSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    of_numbers!(spec.dtype, make((spec, kernel), isa))
}

fn make<N: Number, const MUCH: bool>(
    (spec, kernel): (&MaxPoolSpec, &Kernel),
    isa: Isa,
) -> Box<dyn BlockKernel> {
    let (x, y, places) = (kernel.reads[0], kernel.writes[0], kernel.writes[1]);
    let pool = MaxPool::<N> { spec: spec.clone(), x, y, places, of: PhantomData };
    if MUCH { bind(pool, isa) } else { bind_plain(pool) }
}

struct MaxPool<N> {
    spec: MaxPoolSpec,
    x: Region,
    y: Region,
    places: Region,
    of: PhantomData<fn() -> N>,
}

impl<N: Number> MaxPool<N> {
    /// The largest element of a window of the plane at `x`, and where it is.
    ///
    /// # Safety
    /// `x` is a plane of the spec, and the window has elements.
    #[inline(always)]
    unsafe fn window(
        &self,
        x: *const N,
        window: [usize; 3],
        pace: &mut Pace<'_>,
    ) -> Result<(N, [usize; 3]), Stopped> {
        let MaxPoolSpec { windows, extents, .. } = &self.spec;
        let taps = [0, 1, 2].map(|axis| windows.taps(axis, window[axis], extents[axis]));
        let at = |axis: usize, tap: usize| windows.at(axis, window[axis], tap);
        let mut found = [0, 1, 2].map(|axis| at(axis, taps[axis].start));
        let line = |d: usize, h: usize| (d * extents[1] + h) * extents[2];
        // SAFETY: taps of the ranges lie inside of the plane.
        let mut largest = unsafe { *x.add(line(found[0], found[1]) + found[2]) };
        for d in taps[0].clone().map(|tap| at(0, tap)) {
            for h in taps[1].clone().map(|tap| at(1, tap)) {
                for begin in taps[2].clone().step_by(TAPS) {
                    let end = taps[2].end.min(begin + TAPS);
                    pace.steps(LINE + 2 * (end - begin))?;
                    for w in (begin..end).map(|tap| at(2, tap)) {
                        // SAFETY: as above.
                        let element = unsafe { *x.add(line(d, h) + w) };
                        if beyond(element.wide(), largest.wide()) {
                            (largest, found) = (element, [d, h, w]);
                        }
                    }
                }
            }
        }
        Ok((largest, found))
    }

    /// # Safety
    /// As [`BlockKernel::run`].
    #[inline(always)]
    unsafe fn block(&self, context: &BlockContext<'_>, block: usize) -> Result<(), Stopped> {
        let spec = &self.spec;
        let strides = spec.windows.place_strides(spec.extents);
        let x = context.read_ptr(&self.x).cast::<N>();
        let y = context.write_ptr(&self.y).cast::<N>();
        let places = context.write_ptr(&self.places).cast::<i64>();
        let mut pace = Pace::new(&context.poll);
        for number in block * spec.tile..((block + 1) * spec.tile).min(spec.count()) {
            let (plane, window) = spec.window(number);
            let begin = plane * spec.plane();
            // SAFETY: the plane is one of x, whose windows have elements; the results have a place for each.
            unsafe {
                let (largest, at) = self.window(x.add(begin), window, &mut pace)?;
                let inside = at[0] * strides[0] + at[1] * strides[1] + at[2] * strides[2];
                *y.add(number) = largest;
                *places.add(number) = (begin + inside) as i64;
            }
        }
        Ok(())
    }
}

impl<N: Number> VectorKernel for MaxPool<N> {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        // SAFETY: passed on from the caller.
        unsafe { self.block(context, block) }.err().unwrap_or(BlockEnd::Done)
    }
}

/// Whether an element is larger than another one; a NaN is larger than numbers.
#[inline(always)]
fn beyond<W: Wide>(a: W, b: W) -> bool {
    a > b || a.partial_cmp(&a).is_none() && b.partial_cmp(&b).is_some()
}
