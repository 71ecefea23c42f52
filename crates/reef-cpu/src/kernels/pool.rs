//! Pooling: vectors of channels, window taps line by line. Polls before every span of pixels, and in very
//! large windows before every line of taps.

use reef_graph::{DType, PoolKind};
use reef_plan::{Isa, Kernel, PoolSpec, Region};

use super::byte_pool;
use super::depthwise::window_taps;
use super::vector::{Leaf, Vector};
use super::{BlockKernel, VectorKernel, bind};
use crate::context::{BlockContext, BlockEnd, Poll};

/// Makes a pooling ready, of floats or bytes.
pub(super) fn prepare(spec: &PoolSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    if spec.dtype != DType::F32 {
        return byte_pool::prepare(spec, kernel, isa);
    }
    bind(Pool { spec: spec.clone(), x: kernel.reads[0], y: kernel.writes[0] }, isa)
}

struct Pool {
    spec: PoolSpec,
    x: Region,
    y: Region,
}

/// Vectors read between polls, roughly.
const WORK_MAX: usize = 1536;

impl VectorKernel for Pool {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let spec = &self.spec;
        let first = block * spec.tile_rows;
        let last = (first + spec.tile_rows).min(spec.batch * spec.out_hw[0]);
        let taps = spec.kernel[0] * spec.kernel[1];
        let slab = ((WORK_MAX / taps).max(1) * V::LANES).min(spec.channels);
        let span = (WORK_MAX / taps / slab.div_ceil(V::LANES)).max(1);
        let (x, y) = (context.read_ptr(&self.x).cast::<f32>(), context.write_ptr(&self.y).cast::<f32>());
        for line in first..last {
            for column in (0..spec.out_hw[1]).step_by(span) {
                for channel in (0..spec.channels).step_by(slab) {
                    if context.poll.stop() {
                        return BlockEnd::Killed;
                    }
                    let columns = (column, (column + span).min(spec.out_hw[1]));
                    let channels = (channel, (channel + slab).min(spec.channels));
                    let poll = (taps > WORK_MAX).then_some(&context.poll);
                    // SAFETY: pixels and channels are the kernel's; the validator checked the regions.
                    let done = unsafe { V::enter(Span { spec, x, y, line, columns, channels, poll }) };
                    if !done {
                        return BlockEnd::Killed;
                    }
                }
            }
        }
        BlockEnd::Done
    }
}

/// Some pixels of an output line, some channels.
struct Span<'a> {
    spec: &'a PoolSpec,
    x: *const f32,
    y: *mut f32,
    line: usize,
    columns: (usize, usize),
    channels: (usize, usize),
    /// Asked inside windows, if they are very large.
    poll: Option<&'a Poll<'a>>,
}

impl Leaf for Span<'_> {
    /// False when the poll said stop.
    type Out = bool;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> bool {
        let spec = self.spec;
        let (image, row) = (self.line / spec.out_hw[0], self.line % spec.out_hw[0]);
        let top = row * spec.strides[0];
        let (first_y, past_y) =
            window_taps(top, spec.pads[0], spec.kernel[0], spec.dilations[0], spec.in_hw[0]);
        for column in self.columns.0..self.columns.1 {
            let left = column * spec.strides[1];
            let (first_x, past_x) =
                window_taps(left, spec.pads[1], spec.kernel[1], spec.dilations[1], spec.in_hw[1]);
            let divisor = divisor(spec, [top, left], (past_y - first_y) * (past_x - first_x));
            for channel in (self.channels.0..self.channels.1).step_by(V::LANES) {
                let count = (self.channels.1 - channel).min(V::LANES);
                // SAFETY: the taps are inside the image, the channels the kernel's.
                unsafe {
                    let start = if spec.kind == PoolKind::Max { f32::NEG_INFINITY } else { 0.0 };
                    let mut value = V::splat(start);
                    for ky in first_y..past_y {
                        let y = image * spec.in_hw[0] + top + ky * spec.dilations[0] - spec.pads[0];
                        for part in (first_x..past_x).step_by(WORK_MAX) {
                            if self.poll.is_some_and(Poll::stop) {
                                return false;
                            }
                            for kx in part..past_x.min(part + WORK_MAX) {
                                let x = left + kx * spec.dilations[1] - spec.pads[1];
                                let pixel = (y * spec.in_hw[1] + x) * spec.in_pixel_stride;
                                let from = self.x.add(pixel + channel);
                                let tap =
                                    if count == V::LANES { V::load(from) } else { V::load_part(from, count) };
                                value = match spec.kind {
                                    PoolKind::Max => tap.max(value),
                                    _ => value + tap,
                                };
                            }
                        }
                    }
                    if spec.kind != PoolKind::Max {
                        value = value / value.set(divisor);
                    }
                    let pixel = (self.line * spec.out_hw[1] + column) * spec.out_pixel_stride;
                    value.store_part(self.y.add(pixel + channel), count);
                }
            }
        }
        true
    }
}

/// What a mean divides by: the taps inside the image, or inside the padded image. `corner` is where the
/// window starts in the padded image.
fn divisor(spec: &PoolSpec, corner: [usize; 2], inside: usize) -> f32 {
    if spec.kind != PoolKind::AvgIncludePad {
        return inside as f32;
    }
    let taps = [0, 1].map(|axis| {
        let padded = spec.pads[axis] + spec.in_hw[axis] + spec.pads[axis + 2];
        let (first, past) = window_taps(corner[axis], 0, spec.kernel[axis], spec.dilations[axis], padded);
        past - first
    });
    (taps[0] * taps[1]) as f32
}
