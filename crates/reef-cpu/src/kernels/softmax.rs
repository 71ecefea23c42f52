//! Softmax and log-softmax: largest element, sum of exponentials, result. Polls every few thousand elements.

use reef_plan::{Isa, Kernel, Region, SoftmaxSpec};

use super::math;
use super::nest::Nest;
use super::vector::{Leaf, Vector};
use super::{BlockKernel, VectorKernel, bind};
use crate::context::{BlockContext, BlockEnd};

/// Makes a softmax ready.
pub(super) fn prepare(spec: &SoftmaxSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    let dims: Vec<usize> = spec.rows.iter().map(|axis| axis.extent).collect();
    let strides = spec.rows.iter().map(|axis| axis.in_stride as isize).collect();
    let rows = Nest::new(&dims, &[strides]);
    bind(Softmax { spec: spec.clone(), rows, x: kernel.reads[0], y: kernel.writes[0] }, isa)
}

struct Softmax {
    spec: SoftmaxSpec,
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
            let offset = self.rows.line_offset(0, line) + column as isize * self.rows.step(0);
            // SAFETY: the offset is that of a row; the validator checked the regions.
            let done = unsafe {
                let x = context.read_ptr(&self.x).cast::<f32>().offset(offset);
                let y = context.write_ptr(&self.y).cast::<f32>().offset(offset);
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
    unsafe fn row<V: Vector>(&self, context: &BlockContext<'_>, x: *const f32, y: *mut f32) -> bool {
        let (len, stride) = (self.spec.axis.extent, self.spec.axis.in_stride);
        if stride == 1 || len == 1 {
            // SAFETY: passed on from the caller.
            return unsafe { self.dense::<V>(context, x, y, len) };
        }
        let row = context.scratch.cast::<f32>();
        // SAFETY: scratch holds a row; x and y have one with this stride.
        unsafe {
            for at in 0..len {
                row.add(at).write(*x.add(at * stride));
            }
            if !self.dense::<V>(context, row, row, len) {
                return false;
            }
            for at in 0..len {
                y.add(at * stride).write(*row.add(at));
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
