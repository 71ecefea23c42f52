//! Sums of overlapping windows: a segment of a line after the other, to which every element of the windows
//! adds those of its row that fall on it.

use reef_base::limits::TENSOR_RANK_MAX;
use reef_graph::vision::{Col2Im, SEGMENT};
use reef_plan::{Kernel, Region, VisionSpec};

use super::{Make, Pace, Stopped};
use crate::context::BlockContext;
use crate::kernels::vector::Vector;

pub(super) struct Sums {
    fold: Col2Im,
    counts: (usize, usize),
    /// Segments of a line, lines of an image, elements of a window, windows.
    segments: usize,
    lines: usize,
    block: usize,
    windows: usize,
    x: Region,
    y: Region,
}

impl Sums {
    pub(super) fn new(fold: &Col2Im, spec: &VisionSpec, kernel: &Kernel) -> Sums {
        Sums {
            counts: (spec.tile, spec.units()),
            segments: fold.segments(),
            lines: fold.lines(),
            block: fold.block_elements(),
            windows: fold.windows.iter().product(),
            x: kernel.reads[0],
            y: kernel.writes[0],
            fold: fold.clone(),
        }
    }

    /// Where the windows' elements for taps `taps` of all axes but the last begin: the number of the first
    /// tap, and of the first window of a row. `None` if none falls on the line.
    #[inline(always)]
    fn row(&self, index: &[usize], taps: &[usize]) -> Option<(usize, usize)> {
        let (mut tap, mut row) = (0, 0);
        for axis in 0..index.len() {
            let window = self.fold.window(axis, index[axis], taps[axis])?;
            tap = tap * self.fold.block[axis] + taps[axis];
            row = row * self.fold.windows[axis] + window;
        }
        let last = index.len();
        Some((tap * self.fold.block[last], row * self.fold.windows[last]))
    }

    /// Adds what falls on elements `begin ..` of a line; `x` is the plane's.
    #[inline(always)]
    unsafe fn segment(
        &self,
        x: *const f32,
        (begin, sums): (usize, &mut [f32]),
        index: &[usize],
        pace: &mut Pace<'_>,
    ) -> Result<(), Stopped> {
        let (fold, last) = (&self.fold, index.len());
        let (stride, before) = (fold.strides[last], fold.before[last]);
        let mut taps = [0; TENSOR_RANK_MAX];
        let outer = self.block / fold.block[last];
        for _ in 0..outer {
            pace.steps(8)?;
            if let Some((tap, row)) = self.row(index, &taps[..last]) {
                for inner in 0..fold.block[last] {
                    // Window w has the place w · stride + first - before.
                    let first = inner * fold.dilations[last];
                    let from = (begin + before).saturating_sub(first).div_ceil(stride);
                    let end = (begin + sums.len() + before).saturating_sub(first).div_ceil(stride);
                    let (from, end) = (from, end.min(fold.windows[last]));
                    if from >= end {
                        continue;
                    }
                    pace.steps(8 + (end - from))?;
                    // SAFETY: these windows are the row's, and their places the segment's.
                    unsafe {
                        let x = x.add((tap + inner) * self.windows + row + from);
                        let sums = &mut sums[from * stride + first - before - begin..];
                        add(x, sums, stride, end - from);
                    }
                }
            }
            for axis in (0..last).rev() {
                taps[axis] += 1;
                if taps[axis] < fold.block[axis] {
                    break;
                }
                taps[axis] = 0;
            }
        }
        Ok(())
    }
}

/// Adds `count` elements to every `stride`-th of the sums.
#[inline(always)]
unsafe fn add(x: *const f32, sums: &mut [f32], stride: usize, count: usize) {
    // SAFETY: the caller vouches for the elements.
    let x = unsafe { std::slice::from_raw_parts(x, count) };
    if stride == 1 {
        for (sum, &x) in sums[..count].iter_mut().zip(x) {
            *sum += x;
        }
        return;
    }
    for (sum, &x) in sums.iter_mut().step_by(stride).zip(x) {
        *sum += x;
    }
}

impl Make for Sums {
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
        let last = self.fold.image.len() - 1;
        let width = self.fold.image[last];
        for unit in range.0..range.1 {
            let (line, begin) = (unit / self.segments, unit % self.segments * SEGMENT);
            let (plane, mut rest) = (line / self.lines, line % self.lines);
            let mut index = [0; TENSOR_RANK_MAX];
            for axis in (0..last).rev() {
                index[axis] = rest % self.fold.image[axis];
                rest /= self.fold.image[axis];
            }
            pace.steps(SEGMENT / 4)?;
            // SAFETY: the regions are the kernel's, and the segment is the unit's.
            unsafe {
                let y = context.write_ptr(&self.y).cast::<f32>().add(line * width + begin);
                let count = SEGMENT.min(width - begin);
                y.write_bytes(0, count);
                let sums = std::slice::from_raw_parts_mut(y, count);
                let x = context.read_ptr(&self.x).cast::<f32>().add(plane * self.block * self.windows);
                self.segment(x, (begin, sums), &index[..last], pace)?;
            }
        }
        Ok(())
    }
}
