//! Softmax and log-softmax: largest element, sum of exponentials, result. Polls every few thousand elements.

use reef_plan::{Isa, Kernel, LoopDim, Region, SoftmaxSpec};

use super::math;
use super::nest::Nest;
use super::vector::{Leaf, Vector};
use super::{BlockKernel, VectorKernel, bind};
use crate::context::{BlockContext, BlockEnd};

/// Makes a softmax ready.
pub(super) fn prepare(spec: &SoftmaxSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    let dims: Vec<usize> = spec.rows.iter().map(|axis| axis.extent).collect();
    let strides = |of: fn(&LoopDim) -> usize| spec.rows.iter().map(|axis| of(axis) as isize).collect();
    let rows = Nest::new(&dims, &[strides(|axis| axis.in_stride), strides(|axis| axis.out_stride)]);
    bind(Softmax { spec: spec.clone(), rows, x: kernel.reads[0], y: kernel.writes[0] }, isa)
}

struct Softmax {
    spec: SoftmaxSpec,
    /// Of x and y.
    rows: Nest,
    x: Region,
    y: Region,
}

/// Elements between polls. Partial sums are of as many, so the order of summation is fixed.
const STEPS: usize = 4096;

impl VectorKernel for Softmax {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let count = self.rows.lines() * self.rows.line();
        let first = block * self.spec.tile;
        for row in first..(first + self.spec.tile).min(count) {
            let (line, column) = (row / self.rows.line(), row % self.rows.line());
            let offset =
                |operand| self.rows.line_offset(operand, line) + column as isize * self.rows.step(operand);
            // SAFETY: the offsets are those of a row; the validator checked the regions.
            let done = unsafe {
                let x = context.read_ptr(&self.x).cast::<f32>().offset(offset(0));
                let y = context.write_ptr(&self.y).cast::<f32>().offset(offset(1));
                self.row::<V>(context, x, y)
            };
            if !done {
                return BlockEnd::Killed;
            }
        }
        BlockEnd::Done
    }
}

impl Softmax {
    /// One row, through the scratch where its elements are not neighbours. False when the poll said stop.
    unsafe fn row<V: Vector>(&self, context: &BlockContext<'_>, x: *const f32, y: *mut f32) -> bool {
        let LoopDim { extent: len, in_stride, out_stride } = self.spec.axis;
        let row = context.scratch.cast::<f32>();
        let (gathers, scatters) = (len > 1 && in_stride != 1, len > 1 && out_stride != 1);
        for first in (0..len).step_by(STEPS).take_while(|_| gathers) {
            if context.poll.stop() {
                return false;
            }
            for at in first..(first + STEPS).min(len) {
                // SAFETY: scratch holds a row; x has one with this stride.
                unsafe { row.add(at).write(*x.add(at * in_stride)) };
            }
        }
        let from = if gathers { row.cast_const() } else { x };
        let to = if scatters { row } else { y };
        // SAFETY: both are contiguous rows.
        if !unsafe { self.dense::<V>(context, from, to, len) } {
            return false;
        }
        for first in (0..len).step_by(STEPS).take_while(|_| scatters) {
            if context.poll.stop() {
                return false;
            }
            for at in first..(first + STEPS).min(len) {
                // SAFETY: as above, for y.
                unsafe { y.add(at * out_stride).write(*row.add(at)) };
            }
        }
        true
    }

    /// A contiguous row; `y` may be `x`. False when the poll said stop.
    unsafe fn dense<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        x: *const f32,
        y: *mut f32,
        len: usize,
    ) -> bool {
        if len <= V::LANES && !self.spec.log {
            if context.poll.stop() {
                return false;
            }
            // SAFETY: the row is one vector or less.
            unsafe { V::enter(Short { x, y, count: len }) };
            return true;
        }
        let mut largest = f32::NEG_INFINITY;
        let mut sum = 0.0;
        for pass in 0..3 {
            let factor = 1.0 / sum;
            let shift = largest + f32::ln(sum);
            for at in (0..len).step_by(STEPS) {
                if context.poll.stop() {
                    return false;
                }
                let count = STEPS.min(len - at);
                // SAFETY: the elements are the row's. The log form reads x again, so only there it stays.
                unsafe {
                    let (x, y) = (x.add(at), y.add(at));
                    match (pass, self.spec.log) {
                        (0, _) => largest = V::enter(Largest { x, count, largest }),
                        (1, log) => sum += V::enter(SumExp { x, y, count, largest, keep: !log }),
                        (_, false) => V::enter(Affine { x: y, y, count, factor, shift: 0.0 }),
                        (_, true) => V::enter(Affine { x, y, count, factor: 1.0, shift }),
                    }
                }
            }
        }
        true
    }
}

/// The softmax of a row that one vector holds.
struct Short {
    x: *const f32,
    y: *mut f32,
    count: usize,
}

impl Leaf for Short {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller vouches for the elements on both sides.
        unsafe {
            let mut largest = f32::NEG_INFINITY;
            for at in 0..self.count {
                let x = *self.x.add(at);
                largest = if x > largest || x.is_nan() { x } else { largest };
            }
            let weights = math::exp(V::load_part(self.x, self.count) - V::splat(largest));
            weights.store_part(self.y, self.count);
            let weights = V::load_part(self.y, self.count);
            (weights * V::splat(1.0 / weights.sum())).store_part(self.y, self.count);
        }
    }
}

/// The largest of `count` elements and `largest`; a NaN wins.
struct Largest {
    x: *const f32,
    count: usize,
    largest: f32,
}

impl Leaf for Largest {
    type Out = f32;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> f32 {
        let whole = self.count - self.count % V::LANES;
        // SAFETY: the caller vouches for the elements.
        unsafe {
            let mut value = V::splat(self.largest);
            for at in (0..whole).step_by(V::LANES) {
                value = V::load(self.x.add(at)).max(value);
            }
            let mut largest = self.largest;
            let lanes = value.lanes();
            let rest = std::slice::from_raw_parts(self.x.add(whole), self.count - whole);
            for &lane in lanes[..V::LANES].iter().chain(rest) {
                largest = if lane > largest || lane.is_nan() { lane } else { largest };
            }
            largest
        }
    }
}

/// The sum of `exp(x − largest)` over `count` elements, which it keeps in `y` if asked to.
struct SumExp {
    x: *const f32,
    y: *mut f32,
    count: usize,
    largest: f32,
    keep: bool,
}

impl Leaf for SumExp {
    type Out = f32;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> f32 {
        // SAFETY: the caller vouches for the elements.
        unsafe {
            let largest = V::splat(self.largest);
            let mut sum = V::splat(0.0);
            for at in (0..self.count).step_by(V::LANES) {
                let lanes = (self.count - at).min(V::LANES);
                let value = math::exp(V::load_part(self.x.add(at), lanes) - largest);
                if self.keep {
                    value.store_part(self.y.add(at), lanes);
                }
                if lanes == V::LANES {
                    sum = sum + value;
                } else {
                    let mut rest = [0.0; 16];
                    value.store_part(rest.as_mut_ptr(), lanes);
                    sum = sum + V::load(rest.as_ptr());
                }
            }
            sum.sum()
        }
    }
}

/// `y = x · factor − shift`.
struct Affine {
    x: *const f32,
    y: *mut f32,
    count: usize,
    factor: f32,
    shift: f32,
}

impl Leaf for Affine {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller vouches for the elements.
        unsafe {
            let (factor, shift) = (V::splat(self.factor), V::splat(self.shift));
            for at in (0..self.count).step_by(V::LANES) {
                let lanes = (self.count - at).min(V::LANES);
                let x = V::load_part(self.x.add(at), lanes);
                (x * factor - shift).store_part(self.y.add(at), lanes);
            }
        }
    }
}
