//! Determinants by elimination, the largest element of a column being the pivot, in double precision.

use reef_plan::{Kernel, Region, VisionSpec};

use super::{Make, Pace, Stopped};
use crate::context::BlockContext;
use crate::kernels::vector::Vector;

pub(super) struct Determinants {
    /// Rows of a matrix.
    size: usize,
    counts: (usize, usize),
    x: Region,
    y: Region,
}

/// Elements of a row between polls.
const PART: usize = 2048;

impl Determinants {
    pub(super) fn new(spec: &VisionSpec, kernel: &Kernel) -> Determinants {
        let shape = &spec.inputs[0];
        Determinants {
            size: shape[shape.rank() - 1],
            counts: (spec.tile, spec.units()),
            x: kernel.reads[0],
            y: kernel.writes[0],
        }
    }
}

impl Make for Determinants {
    fn counts(&self) -> (usize, usize) {
        self.counts
    }

    #[inline(always)]
    unsafe fn make<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        range: (usize, usize),
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let size = self.size;
        // SAFETY: the regions are the kernel's, and scratch holds a matrix in double precision.
        unsafe {
            let x = context.read_ptr(&self.x).cast::<f32>();
            let y = context.write_ptr(&self.y).cast::<f32>();
            let rows = std::slice::from_raw_parts_mut(context.scratch.cast::<f64>(), size * size);
            for unit in range.0..range.1 {
                let x = std::slice::from_raw_parts(x.add(unit * size * size), size * size);
                for (to, from) in rows.chunks_mut(PART).zip(x.chunks(PART)) {
                    pace.steps(from.len())?;
                    for (to, &from) in to.iter_mut().zip(from) {
                        *to = f64::from(from);
                    }
                }
                y.add(unit).write(determinant(rows, size, pace)? as f32);
            }
        }
        Ok(())
    }
}

/// Of a matrix that is lost by it.
#[inline(always)]
fn determinant(rows: &mut [f64], size: usize, pace: &mut Pace<'_>) -> Result<f64, Stopped> {
    let mut product = 1.0;
    for at in 0..size {
        let mut pivot = at;
        for row in at + 1..size {
            pace.steps(2)?;
            if rows[row * size + at].abs() > rows[pivot * size + at].abs() {
                pivot = row;
            }
        }
        if pivot != at {
            let (above, below) = rows.split_at_mut(pivot * size);
            pace.steps(size.min(PART))?;
            above[at * size..(at + 1) * size].swap_with_slice(&mut below[..size]);
            product = -product;
        }
        let first = rows[at * size + at];
        product *= first;
        if first == 0.0 {
            return Ok(product);
        }
        let (above, below) = rows.split_at_mut((at + 1) * size);
        let own = &above[at * size + at..];
        for row in below.chunks_exact_mut(size) {
            let factor = row[at] / first;
            for (to, from) in row[at..].chunks_mut(PART).zip(own.chunks(PART)) {
                pace.steps(4 + from.len() / 2)?;
                for (to, &from) in to.iter_mut().zip(from) {
                    *to -= factor * from;
                }
            }
        }
    }
    Ok(product)
}
