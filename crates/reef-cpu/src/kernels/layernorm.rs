//! Layer normalisation of dense rows: mean, then variance about it, then the result. Polls every few thousand
//! elements.

use reef_plan::{Isa, Kernel, LayerNormSpec, Region};

use super::vector::{Leaf, Vector};
use super::{BlockKernel, VectorKernel, bind};
use crate::context::{BlockContext, BlockEnd};

/// Makes a layer normalisation ready.
pub(super) fn prepare(spec: &LayerNormSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    let mut optional = kernel.reads[2..].iter().copied();
    let mut next = |present: bool| present.then(|| optional.next().expect("the spec counts the operands"));
    let (shift, residual) = (next(spec.shift), next(spec.residual));
    let [x, scale] = [kernel.reads[0], kernel.reads[1]];
    bind(LayerNorm { spec: spec.clone(), x, scale, shift, residual, y: kernel.writes[0] }, isa)
}

struct LayerNorm {
    spec: LayerNormSpec,
    x: Region,
    scale: Region,
    shift: Option<Region>,
    residual: Option<Region>,
    y: Region,
}

/// Elements between polls. Partial sums are of as many, so the order of summation is fixed.
const STEPS: usize = 4096;

impl VectorKernel for LayerNorm {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let first = block * self.spec.tile;
        for row in first..(first + self.spec.tile).min(self.spec.rows) {
            // SAFETY: the row is one of the spec's.
            if !unsafe { self.row::<V>(context, row * self.spec.len) } {
                return BlockEnd::Killed;
            }
        }
        BlockEnd::Done
    }
}

impl LayerNorm {
    unsafe fn row<V: Vector>(&self, context: &BlockContext<'_>, offset: usize) -> bool {
        let len = self.spec.len;
        let row = context.scratch.cast::<f32>();
        let (mut sum, mut squares) = (0.0f32, 0.0f32);
        let null = std::ptr::null();
        for pass in 0..3 {
            let mean = sum / len as f32;
            let factor = 1.0 / (squares / len as f32 + self.spec.epsilon).sqrt();
            for at in (0..len).step_by(STEPS) {
                if context.poll.stop() {
                    return false;
                }
                let count = STEPS.min(len - at);
                let operand = |region: &Option<Region>, offset: usize| {
                    region
                        .as_ref()
                        .map_or(null, |region| context.read_ptr(region).cast::<f32>().wrapping_add(offset))
                };
                // SAFETY: the elements are the row's; scratch holds a row.
                unsafe {
                    match pass {
                        0 => {
                            let x = context.read_ptr(&self.x).cast::<f32>().add(offset + at);
                            let residual = operand(&self.residual, offset + at);
                            sum += V::enter(Sum { x, residual, to: row.add(at), count });
                        }
                        1 => squares += V::enter(Squares { x: row.add(at), count, mean }),
                        _ => {
                            let scale = context.read_ptr(&self.scale).cast::<f32>().add(at);
                            let shift = operand(&self.shift, at);
                            let y = context.write_ptr(&self.y).cast::<f32>().add(offset + at);
                            V::enter(Normalise { x: row.add(at), scale, shift, y, count, mean, factor });
                        }
                    }
                }
            }
        }
        true
    }
}

/// Copies `x` (plus the residual unless null) and sums it.
struct Sum {
    x: *const f32,
    residual: *const f32,
    to: *mut f32,
    count: usize,
}

impl Leaf for Sum {
    type Out = f32;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> f32 {
        // SAFETY: the caller vouches for the elements.
        unsafe {
            let mut sum = V::splat(0.0);
            for at in (0..self.count).step_by(V::LANES) {
                let lanes = (self.count - at).min(V::LANES);
                // Lanes past the end are zeros.
                let mut x = V::load_part(self.x.add(at), lanes);
                if !self.residual.is_null() {
                    x = x + V::load_part(self.residual.add(at), lanes);
                }
                x.store_part(self.to.add(at), lanes);
                sum = sum + x;
            }
            sum.sum()
        }
    }
}

/// Sums `(x − mean)²`.
struct Squares {
    x: *const f32,
    count: usize,
    mean: f32,
}

impl Leaf for Squares {
    type Out = f32;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> f32 {
        let whole = self.count - self.count % V::LANES;
        // SAFETY: the caller vouches for the elements.
        unsafe {
            let (mean, mut sum) = (V::splat(self.mean), V::splat(0.0));
            for at in (0..whole).step_by(V::LANES) {
                let x = V::load(self.x.add(at)) - mean;
                sum = x.mul_add(x, sum);
            }
            let mut rest = 0.0;
            for at in whole..self.count {
                let x = *self.x.add(at) - self.mean;
                rest += x * x;
            }
            sum.sum() + rest
        }
    }
}

/// `y = (x − mean) · factor · scale + shift`.
struct Normalise {
    x: *const f32,
    scale: *const f32,
    shift: *const f32,
    y: *mut f32,
    count: usize,
    mean: f32,
    factor: f32,
}

impl Leaf for Normalise {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller vouches for the elements.
        unsafe {
            let (mean, factor) = (V::splat(self.mean), V::splat(self.factor));
            for at in (0..self.count).step_by(V::LANES) {
                let lanes = (self.count - at).min(V::LANES);
                let x = (V::load_part(self.x.add(at), lanes) - mean) * factor;
                let shift = match self.shift.is_null() {
                    true => V::splat(0.0),
                    false => V::load_part(self.shift.add(at), lanes),
                };
                let y = x.mul_add(V::load_part(self.scale.add(at), lanes), shift);
                y.store_part(self.y.add(at), lanes);
            }
        }
    }
}
